"""The catalogue is the course, read once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from grader import catalogue, suite
from grader import course as courses
from grader.errors import CourseError


def test_it_says_what_the_course_says(course):
    for _ in range(2):
        assert catalogue.exercises(course) == course.exercises()


def test_a_suite_is_read_once(course, monkeypatch):
    before = catalogue.exercises(course)
    monkeypatch.setattr(suite, "read", lambda *_: pytest.fail("read again"))

    assert catalogue.exercises(course) == before


@pytest.mark.parametrize("name", ["exercise.toml", "test_scaling.py"])
def test_a_changed_file_is_read_again(course, name):
    catalogue.exercises(course)
    path = course.solutions_folder / "day01" / name
    text = path.read_text(encoding="utf-8")
    path.write_text(
        text.replace("Scaling", "Sizing").replace("Every element is doubled", "All is doubled"),
        encoding="utf-8",
    )

    assert catalogue.exercises(course) == course.exercises()
    assert any(word in repr(catalogue.exercises(course)) for word in ("Sizing", "All is doubled"))


def test_a_fault_in_a_changed_suite_is_told(course):
    catalogue.exercises(course)
    (course.solutions_folder / "day01" / "test_scaling.py").write_text("def", encoding="utf-8")

    with pytest.raises(CourseError, match=r"test_scaling\.py, line 1"):
        catalogue.exercises(course)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"version": "0", "exercises": {}}', "null"])
def test_a_damaged_file_is_written_anew(course, text):
    path = course.reports / "catalogue.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")

    assert catalogue.exercises(course) == course.exercises()
    assert "day01" in path.read_text(encoding="utf-8")


def test_where_nothing_can_be_written_it_still_answers(course):
    course.reports.write_text("a file where the folder should be", encoding="utf-8")

    assert catalogue.exercises(course) == course.exercises()


def test_every_day_with_free_text_says_how_it_is_read():
    days = {e.id: e for e in courses.find(Path(__file__).parent.parent).exercises() if e.rubric}

    assert set(days) == {"day20", "day21", "day26", "day27", "day28"}
    for exercise in days.values():
        statement = (exercise.source / "README.md").read_text(encoding="utf-8")
        assert re.search("not scored|outside the score", statement, re.IGNORECASE)
        assert all(2 <= item.points <= 3 or item.name == "limits" for item in exercise.rubric)
