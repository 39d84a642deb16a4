"""Suites and courses read as text."""

from __future__ import annotations

import pytest

from grader import course as courses
from grader import source as submissions
from grader import stubs, suite, verify
from grader.errors import CourseError, UsageError
from grader.model import Kind

HEAD = "import pytest\n\n@pytest.mark.task('f')\nclass TestF:\n"
CHECK = "    @pytest.mark.points(3, 'shape')\n    def test_a(self):\n        'It is so.'\n"


def read(tmp_path, text):
    path = tmp_path / "test_f.py"
    path.write_text(text, encoding="utf-8")
    return suite.read(path, "day05", ["e", "f"])


def test_a_check_is_known_without_importing_the_suite(tmp_path):
    text = f"import no_such_module\n{HEAD}{CHECK}" + (
        "    @pytest.mark.gpu\n    @pytest.mark.points(1)\n    @pytest.mark.after('test_a')\n"
        "    @pytest.mark.hint('look')\n    def test_b(self):\n"
        "        '''Second line. More.\n        x'''\n"
    )
    first, second = read(tmp_path, text)

    assert (first.id, first.name, first.task) == ("day05/2.1", "TestF::test_a", "f")
    assert (first.title, first.kind, first.points) == ("It is so", Kind.SHAPE, 3)
    assert (second.after, second.hint, second.gpu) == (("TestF::test_a",), "look", True)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("def test_x(): pass", "test_x stands outside the class of a task"),
        ("class TestF:\n    def test_a(self): pass", "TestF has no @pytest.mark.task"),
        (HEAD.replace("'f'", "'ff'") + CHECK, "has no task ff; did you mean f?"),
        (HEAD + "    def test_a(self): 'x'", "has no @pytest.mark.points"),
        (HEAD + CHECK.replace("'It is so.'", "pass"), "has no docstring"),
        (HEAD + CHECK.replace("shape", "form"), "form is not a kind"),
        (HEAD + CHECK.replace("3,", "N,"), "the arguments of points must be literals"),
        (
            HEAD + "    @pytest.mark.after('test_z')\n" + CHECK,
            "TestF::test_a waits for TestF::test_z, which does not exist",
        ),
        ("def (", "line 1"),
    ],
)
def test_a_suite_in_disorder_names_the_place(tmp_path, text, complaint):
    with pytest.raises(CourseError, match=complaint.replace("?", r"\?")):
        read(tmp_path, text)


def test_an_exercise_is_read_from_its_folder(course):
    exercise = course.exercise("day01")

    assert exercise.title_zh == "缩放"
    assert exercise.week == 1
    assert [task.number for task in exercise.tasks] == [1, 2]
    assert [check.number for check in exercise.checks] == ["1.1", "1.2", "2.1", "2.2"]
    assert exercise.suite.name == "test_scaling.py"


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("track =", "tracks =", "tracks is not a field; did you mean track?"),
        ('goal = "Scale a tensor."', "", "goal is missing"),
        ("minutes = 5", 'minutes = "5"', "minutes has the wrong type"),
        ('"roadmap"', '"raodmap"', "track is raodmap"),
        ("difficulty = 2", "", "difficulty of task 2 is missing"),
        ("points = 50", "points = ", "exercise.toml"),
        ('["scaling.py"]', '["scaling.md"]', "the first of files must be the module"),
        (
            "points = 50",
            'points = 50\nfiles = ["b.py"]',
            "task 1 names b.py, which is not in files",
        ),
    ],
)
def test_an_exercise_toml_in_disorder_names_the_field(course, old, new, complaint):
    path = course.solutions_folder / "day01" / "exercise.toml"
    path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")

    with pytest.raises(CourseError, match=complaint.replace("?", r"\?")):
        course.exercise("day01")


def test_an_unknown_exercise_is_answered_with_the_nearest(course):
    with pytest.raises(UsageError, match="there is no exercise day10; did you mean day01"):
        course.exercise("day10")


def test_the_course_is_the_nearest_parent_with_a_course_toml(course, tmp_path):
    assert courses.find(course.exercises_folder / "day01").root == course.root
    with pytest.raises(UsageError, match="is not in a course"):
        courses.find(tmp_path)


@pytest.mark.parametrize(
    ("id", "week"), [("day00", None), ("day01", 1), ("day07", 1), ("day08", 2), ("day28", 4)]
)
def test_a_roadmap_day_lies_in_its_week(id, week):
    assert courses.week_of(id, "roadmap") == week
    assert courses.week_of(id, "lecture") is None


def with_a_script(course):
    """The exercise of the course with a third task: to repair a script that comes written."""
    source = course.solutions_folder / "day01"
    path = source / "exercise.toml"
    text = path.read_text(encoding="utf-8").replace(
        '["scaling.py"]', '["scaling.py", "script.py", "script.json"]'
    )
    task = '[[task]]\nname = "repair"\ntitle = "A script"\npoints = 0\ndifficulty = 1\n'
    files = 'hints = ["a", "b", "c"]\nfiles = ["script.py", "script.json"]\n'
    path.write_text(f"{text}\n{task}{files}", encoding="utf-8")
    (source / "stub").mkdir()
    for name, sick, well in (("script.py", "x = 1\n", "x = 2\n"), ("script.json", "{}", "[]")):
        (source / name).write_text(well, encoding="utf-8")
        (source / "stub" / name).write_text(sick, encoding="utf-8")
    return course.exercise("day01")


@pytest.mark.parametrize(
    ("changed", "is_open"),
    [({}, True), ({"script.py": "x = 2\n"}, False), ({"script.json": "[1]"}, False)],
)
def test_a_task_of_written_files_is_open_while_none_has_changed(course, changed, is_open):
    exercise = with_a_script(course)
    pristine = stubs.of(exercise)
    assert (pristine["script.py"], pristine["script.json"]) == ("x = 1\n", "{}")

    found = submissions.of(exercise, pristine | changed, {name: name for name in pristine})

    assert found.open_tasks == ("double", "triple", *(["repair"] if is_open else []))
    if is_open:
        assert (found.todos[-1][1].file, found.todos[-1][1].number) == ("script.py", 1)


def test_a_written_file_that_was_not_handed_in_counts_as_unchanged(course):
    exercise = with_a_script(course)
    module = {"scaling.py": "x = 0\n"}

    assert submissions.of(exercise, module, module).open_tasks == ("repair",)


def test_a_pristine_text_of_no_file_is_reported(course):
    exercise = with_a_script(course)
    (exercise.source / "stub" / "other.py").write_text("", encoding="utf-8")
    report = verify.Report(exercise.id)

    verify.declarations(exercise, report)

    said = [str(problem) for problem in report.problems]
    assert any("stub/other.py: is the pristine text of no file" in text for text in said)
    assert not any("script.py" in text for text in said)
