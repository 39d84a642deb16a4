"""`grade init`: an empty folder becomes a course, and nothing that is there is lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from grader import cli, handout, setup, stubs
from grader import course as courses

FIXTURE_COURSE = Path(__file__).parent / "course"


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """The fixture course in the place of the one that comes with the engine."""
    folder = tmp_path / "packed"
    shutil.copytree(FIXTURE_COURSE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(courses, "installed", lambda: folder)
    return folder


@pytest.fixture
def empty(tmp_path, monkeypatch):
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_an_empty_folder_becomes_a_course(packed, empty, capsys):
    assert cli.main(["init"]) == 0

    assert sorted(contents(empty)) == [
        "course.toml",
        "exercises/.stubs/day01/scaling.py",
        "exercises/day01/README.md",
        "exercises/day01/scaling.py",
        "exercises/stubs.json",
        "reports/.gitkeep",
    ]
    out = capsys.readouterr().out
    assert "is a course of 1 exercise." in out
    assert "Next: grade day01" in out


def test_its_exercises_come_from_the_installed_package(packed, empty):
    cli.main(["init"])
    course = courses.find(empty)

    exercise = course.exercise("day01")

    assert course.title == "A course of one"
    assert exercise.source == packed / "solutions" / "day01"
    assert exercise.submission.read_text(encoding="utf-8") == stubs.of(exercise)["scaling.py"]
    assert handout.digests(course)["day01/scaling.py"] == handout.digest(
        stubs.of(exercise)["scaling.py"]
    )


def test_an_initialised_course_provides_what_the_package_provides(packed, empty):
    cli.main(["init"])
    (packed / "course.toml").write_text('[provides]\nscaling = "day01"\n', encoding="utf-8")

    assert courses.find(empty).provides == {"scaling": "day01"}


def test_a_new_folder_is_made_and_named_in_the_next_command(packed, empty, capsys):
    assert cli.main(["init", "my course"]) == 0

    assert (empty / "my course" / "course.toml").is_file()
    assert "Next: cd my course, then grade day01" in capsys.readouterr().out


def test_an_answer_that_differs_is_never_written_over(packed, empty, capsys):
    path = empty / "exercises" / "day01" / "scaling.py"
    path.parent.mkdir(parents=True)
    path.write_text("mine", encoding="utf-8")

    assert cli.main(["init"]) == 2
    assert contents(empty) == {"exercises/day01/scaling.py": b"mine"}
    assert "exercises/day01/scaling.py already, and it differs" in capsys.readouterr().err


def test_a_dangling_link_in_the_way_is_left_alone(packed, empty):
    path = empty / "exercises" / "day01" / "scaling.py"
    path.parent.mkdir(parents=True)
    path.symlink_to("nowhere.py")

    assert cli.main(["init"]) == 2
    assert path.is_symlink()
    assert not (path.parent / "nowhere.py").exists()


def test_files_that_are_in_nobodys_way_stay(packed, empty):
    (empty / "notes.md").write_text("mine", encoding="utf-8")

    assert cli.main(["init"]) == 0
    assert (empty / "notes.md").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("folder", "said"), [(".", "is a course already"), ("exercises/sub", "lies in the course")]
)
def test_a_course_holds_no_other(packed, empty, capsys, folder, said):
    cli.main(["init"])
    before = contents(empty)

    assert cli.main(["init", folder]) == 2
    assert contents(empty) == before
    assert said in capsys.readouterr().err


def test_a_file_is_no_folder_to_begin_in(packed, empty, capsys):
    (empty / "notes").write_text("mine", encoding="utf-8")

    assert cli.main(["init", "notes"]) == 2
    assert "notes is a file" in capsys.readouterr().err


def test_a_machine_that_lacks_a_package_is_told_first(packed, empty, capsys, monkeypatch):
    monkeypatch.setattr(setup.doctor, "NEEDED", ("pytest", "no-such-package"))

    assert cli.main(["init"]) == 4
    assert contents(empty) == {}
    assert "pip install no-such-package, then grade init again" in capsys.readouterr().err


def test_an_unknown_source_of_exercises_is_a_fault_of_the_course(empty):
    (empty / "course.toml").write_text('source = "moon"', encoding="utf-8")

    with pytest.raises(courses.CourseError, match="source is moon; it must be one of solutions"):
        courses.find(empty)


def test_authors_work_where_exercises_are_written(packed, empty, capsys):
    cli.main(["init"])

    assert cli.main(["author", "generate"]) == 2
    assert "has no solutions/ of its own" in capsys.readouterr().err
