"""The progress report: one self-contained page per exercise, and a dashboard.

    write_index(...) -> reports/index.html
    write_exercise(...) -> reports/day23.html
    write_certificate(...) -> reports/certificate.html

Pages are functions of the records: the same records give the same bytes, so a page is rewritten
only when it says something new.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from grader.model import Attempt, AttemptSummary, Exercise, ManualMark

__all__ = ["write_certificate", "write_exercise", "write_index"]


def write_index(
    course_title: str,
    exercises: Sequence[Exercise],
    latest: Mapping[str, Attempt],
    attempts: Sequence[AttemptSummary],
    now: datetime,
    to: Path,
    week_titles: Mapping[int, str] | None = None,
    planned: Mapping[str, tuple[str, str]] | None = None,
) -> Path:
    """Write the dashboard to ``to``.

    Args:
        course_title: as `course.toml` has it.
        exercises: in the order of the course.
        latest: the latest attempt of an exercise, by its id.
        attempts: of all exercises.
        now: aware; its time zone is the one that times are shown in.
        to: the file, such as `reports/index.html`; its folder is made.
        week_titles: what the weeks are about, by number.
        planned: the whole roadmap, id -> title and Chinese title; a day without an exercise
            stands on the dashboard with these.

    Returns:
        ``to``.
    """
    from grader.pages import index_view, writing

    page = index_view.index_page(
        course_title, exercises, latest, attempts, now, week_titles or {}, planned or {}
    )
    return writing.write("index.html", to, page=page)


def write_exercise(
    exercise: Exercise,
    statement: str,
    attempts: Sequence[AttemptSummary],
    latest: Attempt | None,
    hints_seen: Mapping[str, int],
    now: datetime,
    to: Path,
    reference: Mapping[str, str] | None = None,
    neighbours: tuple[tuple[str, str] | None, tuple[str, str] | None] = (None, None),
    course_title: str = "28 days of PyTorch",
    marks: Mapping[str, ManualMark] | None = None,
) -> Path:
    """Write the page of one exercise to ``to``.

    Args:
        exercise: what the page is about.
        statement: its README, in Markdown.
        attempts: those of other exercises are left out.
        latest: None before the first.
        hints_seen: how many hints were shown, by the name of a task or check.
        now: aware; its time zone is the one that times are shown in.
        to: the file, such as `reports/day23.html`; its folder is made.
        reference: file name to text; shown beside the learner's own once all checks pass.
        neighbours: id and title of the exercise before and after, each or None.
        course_title: as `course.toml` has it.
        marks: what a person gave for items of the rubric, by the item.

    Returns:
        ``to``.
    """
    from grader.pages import markdown, views, writing

    page = views.exercise_page(
        exercise,
        statement,
        attempts,
        latest,
        hints_seen,
        now.tzinfo,
        reference,
        neighbours,
        marks or {},
    )
    return writing.write(
        "day.html",
        to,
        page=page,
        course_title=course_title,
        statement=markdown.html(statement, exercise.title),
    )


def write_certificate(
    course_title: str,
    name: str,
    exercises: Sequence[Exercise],
    attempts: Sequence[AttemptSummary],
    now: datetime,
    to: Path,
) -> Path:
    """Write the certificate of a finished roadmap to ``to``.

    Args:
        course_title: as `course.toml` has it.
        name: whose it is; may be empty.
        exercises: of the roadmap.
        attempts: each of these has passed once; those of other exercises are left out.
        now: aware; its time zone is the one that times are shown in.
        to: the file, such as `reports/certificate.html`; its folder is made.

    Returns:
        ``to``.
    """
    from grader.pages import certificate_view, writing

    page = certificate_view.certificate(course_title, name, exercises, attempts, now)
    return writing.write("certificate.html", to, page=page)
