"""`grade author preview`: the learner's page, without a learner."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from grader import cli, preview
from grader.errors import UsageError

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def page_of(course, exercise, role, kept):
    path, attempt = preview.write(course, exercise, role, NOW, backend=kept.start)
    assert path == course.reports / "preview" / "day01.html"
    return path.read_text(encoding="utf-8"), attempt


def test_the_solution_is_seen_with_all_checks_passed(course, exercise, kept):
    page, attempt = page_of(course, exercise, "solution", kept)

    assert attempt.is_solved
    assert "return x * 2" in page
    assert "BEGIN SOLUTION" not in page


def test_the_stub_is_seen_as_before_the_first_attempt(course, exercise, kept):
    page, attempt = page_of(course, exercise, "stub", kept)

    assert attempt.number == 0
    assert "Scaling" in page
    assert "return x * 2" not in page


def test_a_wrong_answer_is_seen_with_its_message(course, exercise, kept):
    page, attempt = page_of(course, exercise, "answer:times_three", kept)

    message = next(o.message for o in attempt.outcomes if o.message)
    assert not attempt.is_solved
    assert message.text[:20] in page


def test_nothing_is_recorded(course, exercise, kept):
    page_of(course, exercise, "solution", kept)

    assert not (course.reports / "history.db").exists()


@pytest.mark.parametrize(
    ("role", "said"),
    [
        ("answer:nobody", "day01 has no answer nobody; it has "),
        ("reference", "reference is no form of an exercise"),
    ],
)
def test_an_unknown_role_names_those_there_are(course, exercise, role, said):
    with pytest.raises(UsageError, match=said):
        preview.write(course, exercise, role, NOW)


def test_the_command_says_where_the_page_is(course, kept, monkeypatch, capsys):
    kept.start(course.exercise("day01"), "auto")
    monkeypatch.setattr(preview.runner, "cold", kept.start)
    monkeypatch.chdir(course.root)

    assert cli.main(["author", "preview", "day01", "--as", "stub"]) == 0
    assert capsys.readouterr().out == "Written: reports/preview/day01.html (stub: not started)\n"
