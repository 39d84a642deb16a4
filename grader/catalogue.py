"""The catalogue: every exercise of a course, without reading every suite every time.

Reading a suite's checks off its text takes tens of milliseconds, and a course has fifty suites. So
what was read is kept in `reports/catalogue.json` beside the times and sizes of the files it was
read from, and read anew when these differ. The file may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grader
from grader import files, records
from grader.course import Course
from grader.errors import EnvironmentFault
from grader.model import Exercise

_remembered: dict[tuple[Path, Path], tuple[list[int], Exercise]] = {}
"""What this process has read. The server's base reads everything once, and its children have it."""


def exercises(course: Course) -> tuple[Exercise, ...]:
    """Every exercise, in the order of the course.

    Raises:
        CourseError: an `exercise.toml` or a suite is in disorder.
    """
    found: dict[str, Exercise] = {}
    for id in course.ids:
        if exercise := _from_memory(course, id):
            found[id] = exercise
    if len(found) == len(course.ids):
        return tuple(found.values())
    path = course.reports / "catalogue.json"
    kept = _load(path)
    is_new = set(kept) != set(course.ids)
    for id in course.ids:
        unchanged = found.get(id) or _unchanged(course, id, kept.get(id))
        is_new = is_new or unchanged is None
        found[id] = _remember(course, unchanged or course.exercise(id))
    every = tuple(found[id] for id in course.ids)
    if is_new:
        _store(path, every)
    return every


def exercise(course: Course, id: str) -> Exercise:
    """The exercise of that id.

    Raises:
        UsageError: there is none.
        CourseError: its `exercise.toml` or its suite is in disorder.
    """
    if id not in course.ids:
        return course.exercise(id)  # which says what there is
    found = _from_memory(course, id)
    if found is None:
        found = _unchanged(course, id, _load(course.reports / "catalogue.json").get(id))
    return _remember(course, found or course.exercise(id))


def _from_memory(course: Course, id: str) -> Exercise | None:
    stamp, exercise = _remembered.get(_key(course, id), ([], None))
    try:
        return exercise if exercise is not None and stamp == _stamp(exercise) else None
    except OSError:
        return None


def _remember(course: Course, exercise: Exercise) -> Exercise:
    _remembered[_key(course, exercise.id)] = (_stamp(exercise), exercise)
    return exercise


def _key(course: Course, id: str) -> tuple[Path, Path]:
    return course.source_of(id), course.exercises_folder / id


def _unchanged(course: Course, id: str, entry: Any) -> Exercise | None:
    """The exercise of an entry; None where its files have changed since, or it can't be read."""
    try:
        exercise = records.exercise_from_json(
            entry["exercise"], course.source_of(id), course.exercises_folder / id
        )
        return exercise if entry["stamp"] == _stamp(exercise) else None
    except (OSError, KeyError, TypeError, ValueError):
        return None


def _stamp(exercise: Exercise) -> list[int]:
    """Times in nanoseconds and sizes in bytes of the files that an exercise is read from."""
    stamp = []
    for path in (exercise.source / "exercise.toml", exercise.suite):
        status = path.stat()
        stamp += [status.st_mtime_ns, status.st_size]
    return stamp


def _load(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
        # Another version may have other fields, or read the same suite otherwise.
        is_ours = document["version"] == grader.__version__
        return dict(document["exercises"]) if is_ours else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _store(path: Path, every: Iterable[Exercise]) -> None:
    document = {
        "version": grader.__version__,
        "exercises": {
            e.id: {"stamp": _stamp(e), "exercise": records.exercise_to_json(e)} for e in every
        },
    }
    # It saves time and nothing else: where it can't be written, the suites are read again.
    with contextlib.suppress(EnvironmentFault):
        files.replace(path, records.dumps(document))
