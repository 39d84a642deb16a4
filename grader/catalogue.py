"""The catalogue: every exercise of a course, without reading every suite every time.

Reading a suite's checks off its text takes tens of milliseconds, and a course has fifty suites. So
what was read is kept in `reports/catalogue.json` beside the times and sizes of the files it was
read from, and read anew when these differ. The file may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import grader
from grader import files, records
from grader.course import Course
from grader.errors import EnvironmentFault
from grader.model import Exercise

_KNOWN: dict[Path, tuple[list[int], Exercise]] = {}
"""What this process has read, by the exercise's folder; a server's children inherit it."""


def exercise(course: Course, id: str) -> Exercise:
    """One exercise, from memory where its files are as they were read.

    Raises:
        UsageError: there is none of that id.
        CourseError: its `exercise.toml` or its suite is in disorder.
    """
    if id in course.ids and (known := _KNOWN.get(course.exercises_folder / id)) is not None:
        stamp, found = known
        with contextlib.suppress(OSError):
            if found.source == course.source_of(id) and stamp == _stamp(found):
                return found
    return course.exercise(id)


def exercises(course: Course) -> tuple[Exercise, ...]:
    """Every exercise, in the order of the course.

    Raises:
        CourseError: an `exercise.toml` or a suite is in disorder.
    """
    path = course.reports / "catalogue.json"
    kept = _load(path)
    found: dict[str, tuple[list[int], Exercise]] = {}
    is_new = set(kept) != set(course.ids)
    for id in course.ids:
        exercise = _unchanged(course, id, kept.get(id))
        if exercise is None:
            is_new = True
            exercise = course.exercise(id)
        found[id] = (_stamp(exercise), exercise)
        _KNOWN[exercise.folder] = found[id]
    if is_new:
        _store(path, found)
    return tuple(exercise for _, exercise in found.values())


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


def _store(path: Path, found: dict[str, tuple[list[int], Exercise]]) -> None:
    document = {
        "version": grader.__version__,
        "exercises": {
            id: {"stamp": stamp, "exercise": records.exercise_to_json(exercise)}
            for id, (stamp, exercise) in found.items()
        },
    }
    # It saves time and nothing else: where it can't be written, the suites are read again.
    with contextlib.suppress(EnvironmentFault):
        files.replace(path, records.dumps(document))
