"""A preview: the page of an exercise as a learner would see it after one attempt."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

from grader import answers, grading, pages, regions, runner, source, stubs
from grader.course import Course
from grader.errors import UsageError
from grader.model import Attempt, Exercise


def write(
    course: Course,
    exercise: Exercise,
    role: str,
    now: datetime,
    backend: runner.Backend = runner.cold,
) -> tuple[Path, Attempt]:
    """Grade one text of an exercise's own, and write the page; nothing is recorded.

    Args:
        course: its page goes to `reports/preview/`.
        exercise: which.
        role: "stub", "solution" or "answer:NAME", a name of `answers.py`.
        now: aware.
        backend: starts the worker.

    Returns:
        The page, and the attempt on it.

    Raises:
        UsageError: there is no such role or answer.
        CourseError: the suite or `answers.py` is at fault.
    """
    files = _files(exercise, role)
    folder = course.display(exercise.folder)
    submission = source.of(exercise, files, {name: f"{folder}/{name}" for name in files})
    attempt = grading.grade(exercise, submission, backend=backend)
    if attempt.counts:
        attempt = replace(attempt, number=1)
    statement = exercise.source / "README.md"
    to = course.reports / "preview" / f"{exercise.id}.html"
    pages.write_exercise(
        exercise,
        statement.read_text(encoding="utf-8") if statement.is_file() else "",
        [attempt.summary] if attempt.counts else [],
        attempt if attempt.counts else None,
        {},
        now,
        to,
        reference=_files(exercise, "solution") if attempt.is_solved else None,
        course_title=course.title,
    )
    return to, attempt


def _files(exercise: Exercise, role: str) -> dict[str, str]:
    what, _, name = role.partition(":")
    if role == "stub":
        return stubs.of(exercise)
    if role == "solution":
        texts = answers.reference(exercise)
    elif what == "answer":
        found = {answer.name: answer for answer in answers.read(exercise)}
        if name not in found:
            raise UsageError(f"{exercise.id} has no answer {name}; it has {', '.join(found)}")
        texts = found[name].files
    else:
        raise UsageError(f"{role} is no form of an exercise; there are stub, solution, answer:NAME")
    return {file: regions.unmarked(text) for file, text in texts.items()}
