"""`grade update`: newer exercises under old answers, in every kind of course."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from grader import bundle, cli, handout, notebook, release, stubs
from grader import course as courses
from grader.history import History

FIXTURE_COURSE = Path(__file__).parent / "course"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """The fixture course, as an author has it and as it is installed."""
    folder = tmp_path / "author"
    shutil.copytree(FIXTURE_COURSE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(courses, "installed", lambda: folder)
    return folder


@pytest.fixture(params=["installed", "solutions", "bundles"])
def here(request, packed, tmp_path, monkeypatch):
    """A learner's course of each kind, with an answer to the first task."""
    root = tmp_path / "learner"
    match request.param:
        case "installed":
            assert cli.main(["init", str(root)]) == 0
        case "solutions":
            root = packed
            assert cli.main(["-C", str(root), "author", "generate"]) == 0
        case "bundles":
            author = courses.read(packed)
            release.write(author, author.exercises(), root)
    monkeypatch.chdir(root)
    course = courses.find(root)
    answer(course, solved(stubs.of(course.exercise("day01"))["scaling.py"]))
    return course


def solved(stub):
    return stub.replace('raise NotImplementedError("day01 T1: double")', "return x + x  # mine")


def answer(course, text):
    path = course.exercises_folder / "day01" / "scaling.py"
    path.write_text(text, encoding="utf-8")
    return path


def change(packed, old, new, name="scaling.py"):
    path = packed / "solutions" / "day01" / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def update(course, packed, capsys, *words):
    """Run the command on a course whose exercises have changed at `packed`."""
    capsys.readouterr()
    if course.origin == "bundles":
        to = packed.parent / f"release {len(list(packed.parent.iterdir()))}"
        author = courses.read(packed)
        release.write(author, author.exercises(), to)
        words = (*words, "--from", str(to))
    code = cli.main(["update", *words])
    said = capsys.readouterr()
    return code, said.out + said.err


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_where_nothing_is_newer_nothing_is_written(here, packed, capsys):
    before = contents(here.exercises_folder)

    code, said = update(here, packed, capsys)

    assert code == 0
    assert "day01     unchanged" in said
    assert "Everything is up to date." in said
    assert contents(here.exercises_folder) == before


def test_an_answer_is_carried_to_a_new_statement_and_kept_before(here, packed, capsys):
    path = here.exercises_folder / "day01" / "scaling.py"
    before = path.read_text(encoding="utf-8")
    change(packed, "Double every element.", "Double each element.")

    code, said = update(here, packed, capsys)

    assert code == 0, said
    assert "day01     carried over: double" in said
    assert "double has another statement now" in said
    new = path.read_text(encoding="utf-8")
    assert new == before.replace("Double every element.", "Double each element.")
    assert "grade history day01 --restore s1" in said

    assert cli.main(["history", "day01", "--restore", "s1", "-y"]) == 0
    assert path.read_text(encoding="utf-8") == before
    cli.main(["history", "day01"])
    assert "update: scaling.py\n" in capsys.readouterr().out
    code, said = update(here, packed, capsys)
    assert "carried over: double" in said
    assert path.read_text(encoding="utf-8") == new


def test_a_dry_run_says_the_same_and_writes_nothing(here, packed, capsys):
    change(packed, "def triple(x: Tensor)", "def triple(x: Tensor, y: int = 0)")
    before = contents(here.root)

    code, said = update(here, packed, capsys, "--dry-run")

    assert code == 0
    assert "carried over: double" in said
    assert "Nothing was written (dry run)." in said
    assert contents(here.root) == before


def test_twice_is_once(here, packed, capsys):
    change(packed, "Double every element.", "Double each element.")
    update(here, packed, capsys)
    before = contents(here.exercises_folder)

    _, said = update(here, packed, capsys)

    assert "unchanged" in said
    assert contents(here.exercises_folder) == before


def test_an_untouched_stub_is_replaced_and_nothing_is_kept(here, packed, capsys):
    answer(here, stubs.of(here.exercise("day01"))["scaling.py"])
    change(packed, "Double every element.", "Double each element.")

    _, said = update(here, packed, capsys)

    assert "the new stub; you had not begun" in said
    assert "--restore" not in said
    new = courses.read(packed).exercise("day01")
    path = here.exercises_folder / "day01" / "scaling.py"
    assert path.read_text(encoding="utf-8") == stubs.of(new)["scaling.py"]


def test_a_new_exercise_is_written(here, packed, capsys):
    shutil.copytree(packed / "solutions" / "day01", packed / "solutions" / "day02")

    code, said = update(here, packed, capsys)

    assert code == 0
    assert "day02     new" in said
    assert courses.find(here.root).ids == ("day01", "day02")
    assert (here.exercises_folder / "day02" / "scaling.py").is_file()
    assert (here.exercises_folder / "day02" / "README.md").is_file()


def test_notes_in_a_statement_are_kept_before_it_is_replaced(here, packed, capsys):
    path = here.exercises_folder / "day01" / "README.md"
    path.write_text("my notes", encoding="utf-8")
    change(packed, "Write", "Do write", "README.md")

    _, said = update(here, packed, capsys)

    assert "its statement is new" in said
    assert "Do write" in path.read_text(encoding="utf-8")
    with History.open(here.reports / "history.db") as kept:
        assert kept.saved_files("day01", 1) == {"README.md": "my notes"}


def test_a_file_without_a_known_beginning_is_left_alone(here, packed, capsys):
    handout.pristine_path(here, "day01", "scaling.py").unlink()
    path = here.exercises_folder / "day01" / "scaling.py"
    before = path.read_bytes()
    change(packed, "Double every element.", "Double each element.")

    _, said = update(here, packed, capsys)

    assert "left alone: the stub that your file began with is not known" in said
    assert path.read_bytes() == before


def test_windows_line_ends_stay(here, packed, capsys):
    path = here.exercises_folder / "day01" / "scaling.py"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    change(packed, "Double every element.", "Double each element.")

    update(here, packed, capsys)

    data = path.read_bytes()
    assert b"Double each element." in data
    assert data.count(b"\r\n") == data.count(b"\n")


def test_an_answer_in_a_notebook_is_carried_over_there(here, packed, capsys):
    exercise = here.exercise("day01")
    text = exercise.submission.read_text(encoding="utf-8")
    path = notebook.path_of(exercise)
    nb = notebook.of(exercise, text.replace("# mine", "# in the notebook"), "# Old")
    path.write_text(notebook.dumps(nb), encoding="utf-8")
    later = exercise.submission.stat().st_mtime_ns + 10**9
    os.utime(path, ns=(later, later))
    before = path.read_bytes()
    change(packed, "Double every element.", "Double each element.")

    code, said = update(here, packed, capsys)

    assert code == 0, said
    found = notebook.load(path, "x")
    new = notebook.module_of(found, "x").text
    assert "# in the notebook" in new
    assert "Double each element." in new
    assert exercise.submission.read_text(encoding="utf-8") == new
    assert cli.main(["history", "day01", "--restore", "s1", "-y"]) == 0
    assert path.read_bytes() == before
    assert exercise.submission.read_text(encoding="utf-8") == text


def test_what_cannot_be_kept_is_not_changed(here, packed, capsys):
    (here.reports).mkdir(exist_ok=True)
    (here.reports / "history.db").write_bytes(b"this is no history at all, and never was one")
    change(packed, "Double every element.", "Double each element.")
    before = contents(here.exercises_folder)

    code, said = update(here, packed, capsys)

    assert code == 4
    assert "history.db" in said
    assert contents(here.exercises_folder) == before


def test_a_changed_suite_comes_with_its_bundle(packed, tmp_path, capsys, monkeypatch):
    author = courses.read(packed)
    release.write(author, author.exercises(), tmp_path / "learner")
    monkeypatch.chdir(tmp_path / "learner")
    course = courses.find()
    change(packed, "Any length will do", "All lengths will do", "test_scaling.py")

    code, said = update(course, packed, capsys)

    assert code == 0
    assert "its checks are new" in said
    titles = [check.title for check in courses.find().exercise("day01").checks]
    assert "All lengths will do" in titles


@pytest.mark.parametrize(
    ("kind", "said"),
    [("installed", "pip install --upgrade torch28"), ("solutions", "git pull")],
)
def test_courses_that_are_no_release_say_where_theirs_come_from(
    packed, tmp_path, capsys, kind, said, monkeypatch
):
    root = packed
    if kind == "installed":
        root = tmp_path / "learner"
        cli.main(["init", str(root)])
    monkeypatch.chdir(root)

    assert cli.main(["update", "--from", str(packed)]) == 2
    assert said in capsys.readouterr().err


def test_a_release_is_updated_from_a_release_only(packed, tmp_path, capsys, monkeypatch):
    author = courses.read(packed)
    release.write(author, author.exercises(), tmp_path / "learner")
    monkeypatch.chdir(tmp_path / "learner")

    assert cli.main(["update", "--from", str(tmp_path)]) == 2
    assert cli.main(["update", "--from", str(packed)]) == 2
    err = capsys.readouterr().err
    assert "has no course.toml" in err
    assert "is no release; grade author release writes one" in err


def test_an_exercise_that_the_newer_release_lacks_is_left_as_it_is(
    packed, tmp_path, capsys, monkeypatch
):
    shutil.copytree(packed / "solutions" / "day01", packed / "solutions" / "day02")
    author = courses.read(packed)
    release.write(author, author.exercises(), tmp_path / "learner")
    release.write(author, [author.exercise("day01")], tmp_path / "newer")
    monkeypatch.chdir(tmp_path / "learner")
    capsys.readouterr()

    assert cli.main(["update", "--from", str(tmp_path / "newer")]) == 0
    assert "day02     not in the newer course; left as it is" in capsys.readouterr().out
    assert bundle.path_of(Path("exercises"), "day02").is_file()
