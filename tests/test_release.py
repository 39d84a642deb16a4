"""A release: everything a learner needs, and no line of a reference."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from grader import bundle, cli, handout, notebook, release, stubs, verify
from grader import course as courses
from grader.errors import CourseError, UsageError

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def released(course, tmp_path):
    """The root of a release of the fixture course."""
    root = tmp_path / "released 发布"
    release.write(course, course.exercises(), root)
    return root


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def repacked(path, change):
    """Pack a bundle's files anew after `change(files)`."""
    files = bundle.unpack(path)
    change(files)
    path.write_bytes(bundle.pack(files))


# Bytes


def test_a_release_has_stubs_statements_and_bundles(released):
    assert sorted(contents(released)) == [
        ".gitignore",
        "README.md",
        "course.toml",
        "exercises/.stubs/day01/scaling.py",
        "exercises/day01/README.md",
        "exercises/day01/day01.bundle",
        "exercises/day01/scaling.py",
        "exercises/stubs.json",
        "reports/.gitkeep",
    ]


def test_an_unchanged_exercise_bundles_to_the_same_bytes(course, exercise):
    before = release.contents(course, [exercise])
    for path in exercise.source.iterdir():
        os.utime(path, (1, 1))

    assert release.contents(course, [exercise]) == before


def test_a_bundle_says_nothing_of_when_and_where_it_was_packed():
    with zipfile.ZipFile(io.BytesIO(bundle.pack({"b.py": b"2", "a.py": b"1"}))) as archive:
        entries = archive.infolist()

    assert [entry.filename for entry in entries] == ["a.py", "b.py"]
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert {entry.create_system for entry in entries} == {3}


def every_text(data):
    """The bytes of a file, and of all that is packed in it."""
    yield data
    if data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield archive.read(name)


@pytest.mark.parametrize("id", courses.read(ROOT).ids)
def test_no_line_of_a_reference_is_in_a_release(id):
    course = courses.read(ROOT)
    exercise = course.exercise(id)
    found = release.contents(course, [exercise])
    texts = [text for data in found.values() for text in every_text(data)]
    secrets = release.secrets(exercise)

    assert len(secrets) > 5
    assert [line for line in secrets if any(line.encode() in text for text in texts)] == []


def test_a_suite_that_quotes_the_reference_is_not_released(course, exercise):
    line = "return double(x) + x  # the shortest one"
    path = exercise.source / "scaling.py"
    path.write_text(
        path.read_text(encoding="utf-8").replace("return double(x) + x", line), encoding="utf-8"
    )
    with exercise.suite.open("a", encoding="utf-8") as suite:
        suite.write(f"\n# {line}\n")

    with pytest.raises(CourseError, match=r"test_scaling\.py, line \d+: holds a line of the ref"):
        release.contents(course, [exercise])
    report = verify.Report("day01")
    verify.declarations(exercise, report)
    (problem,) = [p for p in report.problems if "a release could not hide it" in p.text]
    assert problem.where.startswith("test_scaling.py:")


def test_what_the_stub_the_statement_or_a_hint_shows_is_no_secret(exercise):
    path = exercise.source / "scaling.py"
    text = path.read_text(encoding="utf-8")
    shown = "x = x + 0  # shown by the statement"
    hidden = "x = x + 1 - 1  # shown nowhere at all"
    text = text.replace("    return x * 2", f"    {shown}\n    {hidden}\n    return x * 2")
    path.write_text(text, encoding="utf-8")
    with (exercise.source / "README.md").open("a", encoding="utf-8") as statement:
        statement.write(f"\n`{shown}`\n")

    assert release.secrets(exercise) == [hidden]


def test_a_release_names_only_what_it_holds(course):
    provides = courses.Course(course.root, 'The "one"', {"scaling": "day01", "other": "day99"})

    text = release.contents(provides, course.exercises())["course.toml"].decode()

    assert 'title = "The \\"one\\""' in text
    assert 'scaling = "day01"' in text
    assert "day99" not in text


def test_a_release_knows_the_weeks_and_the_days_to_come(course):
    known = replace(course, weeks={1: "Tensors"}, planned={"day02": ("Views", "视图")})

    text = release.contents(known, course.exercises())["course.toml"].decode()
    (course.root / "elsewhere").mkdir()
    (course.root / "elsewhere" / "course.toml").write_text(text, encoding="utf-8")

    read = courses.read(course.root / "elsewhere")
    assert (read.weeks, read.planned) == (known.weeks, known.planned)


def test_a_release_is_never_written_over_an_answer(course, released):
    path = released / "exercises" / "day01" / "scaling.py"
    path.write_text("mine", encoding="utf-8")

    with pytest.raises(UsageError, match=r"exercises/day01/scaling\.py already, and it differs"):
        release.write(course, course.exercises(), released)
    assert path.read_text(encoding="utf-8") == "mine"


def test_a_release_may_be_written_again_where_nothing_differs(course, released):
    before = contents(released)

    release.write(course, course.exercises(), released)

    assert contents(released) == before


def test_a_release_lies_in_no_course(course):
    with pytest.raises(UsageError, match="lies in the course"):
        release.write(course, course.exercises(), course.root / "release")


# The learner's commands


@pytest.fixture
def inside(released, monkeypatch):
    monkeypatch.chdir(released)
    return courses.find(released)


def run(capsys, *words):
    """Exit code and what was said."""
    code = cli.main(list(words))
    said = capsys.readouterr()
    return code, said.out + said.err


def solve(course, reference):
    course.exercise("day01").submission.write_text(reference, encoding="utf-8")


def test_an_exercise_is_the_same_from_its_bundle(course, inside):
    ours, theirs = course.exercise("day01"), inside.exercise("day01")

    assert theirs.checks == ours.checks
    assert theirs.tasks == ours.tasks
    assert theirs.limits == ours.limits
    assert stubs.of(theirs) == stubs.of(ours)
    assert handout.of(theirs) == handout.of(ours)


def test_a_release_is_graded_and_reported(inside, reference, capsys):
    solve(inside, reference)

    code, said = run(capsys, "day01")
    assert (code, "3 of 3 checks pass" in said) == (0, True), said
    assert "grade solution" not in said
    page = (inside.reports / "day01.html").read_text(encoding="utf-8")
    assert "Scaling" in page
    assert run(capsys, "status")[0] == 0
    assert run(capsys, "report")[0] == 0


def test_a_mistake_is_found_and_hinted_at(inside, reference, capsys):
    solve(inside, reference.replace("x * 2", "x * 3"))

    code, said = run(capsys, "day01")
    assert code == 1, said
    code, said = run(capsys, "hint", "day01")
    assert (code, "What is twice one?" in said) == (0, True)


def test_reset_brings_the_stub_back(inside, reference, capsys):
    solve(inside, reference)

    code, said = run(capsys, "reset", "day01", "-y")

    exercise = inside.exercise("day01")
    assert code == 0, said
    assert exercise.submission.read_text(encoding="utf-8") == stubs.of(exercise)["scaling.py"]


@pytest.mark.parametrize("words", [["solution", "day01"], ["solution", "day01", "--diff"]])
def test_a_release_has_no_solution_to_show(inside, capsys, words):
    code, said = run(capsys, *words)

    assert code == 2
    assert said == "grade: this copy of the course comes without the solution of day01\n"


def test_grading_leaves_no_suite_in_the_course(inside, reference, capsys):
    solve(inside, reference)
    run(capsys, "day01")

    assert [path for path in inside.root.rglob("*") if path.name.startswith("test_")] == []


# Bundles


def test_a_bundle_is_unpacked_once(inside, cache):
    path = bundle.path_of(inside.exercises_folder, "day01")
    folder = bundle.folder(path)
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}

    assert folder.is_relative_to(cache)
    assert bundle.folder(path) == folder
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before


def test_another_bundle_of_the_same_name_is_another_folder(inside, cache):
    path = bundle.path_of(inside.exercises_folder, "day01")
    before = bundle.folder(path)
    repacked(path, lambda files: files.update({"README.md": b"# Other"}))

    assert bundle.folder(path) != before
    assert (bundle.folder(path) / "README.md").read_bytes() == b"# Other"


def test_a_cache_that_was_cleaned_is_filled_again(inside):
    path = bundle.path_of(inside.exercises_folder, "day01")
    (bundle.folder(path) / "exercise.toml").unlink()

    assert (bundle.folder(path) / "exercise.toml").is_file()
    shutil.rmtree(bundle.folder(path))
    assert inside.exercise("day01").suite.is_file()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: b"no zip at all, but long enough for a digest to be looked for in its end....",
        lambda data: data[:100] + data[101:],
        lambda data: data.replace(data[-64:-60], b"0000"),
        lambda data: data.replace(b"exercise.toml", b"exercise.tomb"),
    ],
)
def test_a_damaged_bundle_is_the_courses_fault(inside, capsys, spoil):
    path = bundle.path_of(inside.exercises_folder, "day01")
    path.write_bytes(spoil(path.read_bytes()))

    code, said = run(capsys, "day01")

    assert code == 3
    assert "day01.bundle: is damaged, or no bundle; take it from the release again" in said
    assert "the course is at fault, not your code" in said


def test_a_bundle_never_unpacks_outside_its_folder(inside, cache):
    path = bundle.path_of(inside.exercises_folder, "day01")
    repacked(path, lambda files: files.update({"../escaped.py": b""}))

    with pytest.raises(CourseError, match="is damaged"):
        bundle.folder(path)
    assert list(cache.rglob("escaped.py")) == []


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="permissions are POSIX's")
def test_a_cache_that_others_may_write_is_not_used(cache, tmp_path, monkeypatch):
    (cache / "torch28" / "bundles").mkdir(parents=True)
    (cache / "torch28" / "bundles").chmod(0o777)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    assert bundle.cache() == tmp_path / "home" / ".cache" / "torch28" / "bundles"


def test_the_author_releases_by_id(course, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(course.root)

    code, said = run(capsys, "author", "release", str(tmp_path / "out"), "day01")

    assert code == 0
    assert "has 1 exercise." in said
    assert courses.read(tmp_path / "out").ids == ("day01",)


# Notebooks, and nbgrader


def test_a_release_with_notebooks_has_each_stub_in_both_forms(course, tmp_path):
    release.write(course, course.exercises(), tmp_path / "out", has_notebooks=True)

    (path,) = (tmp_path / "out").rglob("*.ipynb")
    module = notebook.module_of(json.loads(path.read_text(encoding="utf-8")), "x")
    assert path.name == "scaling.ipynb"
    assert module.text == stubs.of(course.exercise("day01"))["scaling.py"]


def test_the_author_writes_sources_for_nbgrader(course, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(course.root)
    code, said = run(capsys, "author", "nbgrader", str(tmp_path / "out"), "day01")

    assert (code, "nbgrader generate_assignment day01" in said) == (0, True)
    assert sorted(contents(tmp_path / "out")) == [
        "nbgrader_config.py",
        "source/day01/scaling.ipynb",
    ]
    nb = json.loads((tmp_path / "out" / "source" / "day01" / "scaling.ipynb").read_bytes())
    lines = "".join(nb["cells"][2]["source"]).split("\n")
    assert lines[-5:] == [
        "    # TODO 1: double every element",
        "    ### BEGIN SOLUTION",
        "    return x * 2",
        "    ### END SOLUTION",
        "    # END TODO",
    ]
