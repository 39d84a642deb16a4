"""The stub of an exercise: its source with every solution region taken out."""

from __future__ import annotations

from pathlib import Path

from grader import bundle, regions
from grader.errors import CourseError
from grader.model import Exercise


def of(exercise: Exercise) -> dict[str, str]:
    """The pristine files a learner starts from: name -> text.

    Raises:
        RegionError: the markers of the source do not pair up.
        CourseError: a file that `exercise.toml` names is missing.
    """
    return {name: text_of(exercise, name) for name in exercise.files}


def text_of(exercise: Exercise, name: str) -> str:
    """One of the pristine files.

    Raises:
        RegionError: the markers of the source do not pair up.
        CourseError: the file is missing.
    """
    packed = exercise.source / bundle.STUB / name
    if packed.is_file():
        return _read(packed)
    path = exercise.source / name
    text = _read(path)
    if name.endswith(".py"):
        tasks = {task.number: task.name for task in exercise.tasks}
        text = regions.strip(text, str(path), exercise.id, tasks)
    return text


def pages(exercise: Exercise) -> dict[str, str]:
    """The files beside the stub that are the course's to replace: the statement and the data."""
    return {name: _read(exercise.source / name) for name in ("README.md", *exercise.data)}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CourseError(f"{path}: cannot be read ({error.strerror})") from None
