"""Many files at once: submissions that lie anywhere, each graded in a child of its own.

They are somebody's papers, not attempts of whoever grades them: nothing is recorded.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from grader import grading, runner, source
from grader.course import Course
from grader.errors import UsageError
from grader.model import Attempt, Exercise


@dataclass(frozen=True, slots=True)
class Paper:
    """A file that somebody handed in."""

    path: Path
    exercise: Exercise


def papers(course: Course, words: Iterable[str]) -> list[Paper]:
    """The files that words name outside of the course's own exercises; empty if any does not.

    Raises:
        UsageError: a file's name is the module of no exercise.
    """
    own = course.exercises_folder.resolve()
    paths = [Path(word) for word in words]
    if not paths or any(
        path.suffix != ".py" or not path.is_file() or path.resolve().is_relative_to(own)
        for path in paths
    ):
        return []
    modules = {exercise.files[0]: exercise for exercise in course.exercises()}
    for path in paths:
        if path.name not in modules:
            raise UsageError(
                f"{path}: no exercise has a module of this name; keep the names of the stubs"
            )
    return [Paper(path, modules[path.name]) for path in paths]


def grade(
    found: Sequence[Paper], options: Mapping[str, grading.Options], jobs: int | None = None
) -> Iterator[tuple[Paper, Attempt]]:
    """Grade papers side by side; each with its attempt, in their order.

    Args:
        found: files outside of the course.
        options: for the papers of each exercise, by its id.
        jobs: how many at once; as many as there are processors if None.
    """
    workers = runner.KeptWorkers()
    try:
        with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool:
            graded = pool.map(
                lambda paper: _grade(paper, options[paper.exercise.id], workers), found
            )
            yield from zip(found, graded, strict=True)
    finally:
        workers.drop()


def _grade(paper: Paper, options: grading.Options, workers: runner.KeptWorkers) -> Attempt:
    submission = source.read(
        paper.exercise, paper.path, paper.path.parent, beside=paper.path.parent
    )
    with workers.lent(paper.exercise) as backend:
        return grading.grade(paper.exercise, submission, options, backend=backend)
