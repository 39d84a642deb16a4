"""A fixture course of one exercise, and submissions to it."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from grader import course as courses
from grader import grading, runner, source, stubs
from grader.course import Course
from grader.model import Attempt, Exercise
from grader.runner import KeptWorker

# A test that wants a server starts one itself.
os.environ["GRADE_NO_SERVER"] = "1"
# What is expected is expected of the processor; `test_device.py` sees what else there is.
DEVICES = os.environ.get("CUDA_VISIBLE_DEVICES")
os.environ["CUDA_VISIBLE_DEVICES"] = ""
# A shell starts what runs in its background with Ctrl-C ignored, and children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

FIXTURE_COURSE = Path(__file__).parent / "course"

Grade = Callable[..., Attempt]


@pytest.fixture
def course(tmp_path: Path) -> Course:
    """A copy of the fixture course, with its stubs, that a test may change."""
    root = tmp_path / "a course 课程"
    shutil.copytree(FIXTURE_COURSE, root, ignore=shutil.ignore_patterns("__pycache__"))
    found = courses.find(root)
    for exercise in found.exercises():
        exercise.folder.mkdir(parents=True, exist_ok=True)
        for name, text in stubs.of(exercise).items():
            (exercise.folder / name).write_text(text, encoding="utf-8")
    return found


@pytest.fixture
def exercise(course: Course) -> Exercise:
    """The one exercise of the copy."""
    return course.exercise("day01")


@pytest.fixture(scope="session")
def fixture_exercise() -> Exercise:
    """The one exercise of the fixture course itself; not to be changed."""
    return courses.find(FIXTURE_COURSE).exercise("day01")


@pytest.fixture(scope="session")
def reference(fixture_exercise: Exercise) -> str:
    """The text of the fixture exercise's reference."""
    return (fixture_exercise.source / "scaling.py").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def kept(fixture_exercise: Exercise) -> Iterator[KeptWorker]:
    """One worker for all tests that need no interpreter of their own."""
    worker = KeptWorker()
    yield worker
    worker.drop()


@pytest.fixture
def grade(fixture_exercise: Exercise, kept: KeptWorker) -> Grade:
    """Grade a text as a submission to the fixture exercise."""

    quick = grading.Options(cpu_seconds=2)

    def graded(
        text: str,
        options: grading.Options = quick,
        backend: runner.Backend = kept.start,
    ) -> Attempt:
        submission = source.of(
            fixture_exercise, {"scaling.py": text}, {"scaling.py": "exercises/day01/scaling.py"}
        )
        return grading.grade(fixture_exercise, submission, options, backend=backend)

    return graded
