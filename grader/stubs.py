"""The stub of an exercise: its source with every solution region taken out."""

from __future__ import annotations

from grader import regions
from grader.errors import CourseError
from grader.model import Exercise


def of(exercise: Exercise) -> dict[str, str]:
    """The pristine files a learner starts from: name -> text.

    Raises:
        RegionError: the markers of the source do not pair up.
        CourseError: a file that `exercise.toml` names is missing.
    """
    tasks = {task.number: task.name for task in exercise.tasks}
    stubs = {}
    for name in exercise.files:
        path = exercise.source / name
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise CourseError(f"{path}: cannot be read ({error.strerror})") from None
        if name.endswith(".py"):
            text = regions.strip(text, str(path), exercise.id, tasks)
        stubs[name] = text
    return stubs


def pages(exercise: Exercise) -> dict[str, str]:
    """The files beside the stub that are the course's to replace: the statement and the data."""
    return {
        name: (exercise.source / name).read_text(encoding="utf-8")
        for name in ("README.md", *exercise.data)
    }
