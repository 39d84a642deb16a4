"""A grading: which checks run, and in which order."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from grader import grading, source
from grader.model import Status


@pytest.fixture
def with_data(course, reference):
    """The exercise with a Python file among its data, and an answer that imports it."""
    folder = course.solutions_folder / "day01"
    path = folder / "exercise.toml"
    text = path.read_text(encoding="utf-8")
    line = 'data = ["factors.py"]'
    path.write_text(text.replace("data = []", line) if "data = []" in text else f"{line}\n{text}")
    (folder / "factors.py").write_text("TWO = 2\n", encoding="utf-8")
    answer = "from factors import TWO\n" + reference.replace("return x * 2", "return x * TWO")
    return course.exercise("day01"), answer


def order(exercise, *first):
    return [check.task for check in grading.in_order(exercise.checks, first)]


def test_tasks_that_are_named_run_first_and_the_others_keep_their_order(fixture_exercise):
    assert order(fixture_exercise) == ["double", "double", "triple", "triple"]
    assert order(fixture_exercise, "triple") == ["triple", "triple", "double", "double"]


def test_what_a_task_stands_on_runs_before_it(fixture_exercise):
    first, *others, last = fixture_exercise.checks
    checks = (first, *others, replace(last, after=(first.name,)))

    found = [check.task for check in grading.in_order(checks, ("triple",))]
    assert found == ["double", "double", "triple", "triple"]


def test_the_order_changes_what_is_told_first_and_not_the_attempt(
    fixture_exercise, reference, kept
):
    text = reference.replace("double(x) + x", "x * 4")
    submission = source.of(fixture_exercise, {"scaling.py": text}, {"scaling.py": "scaling.py"})
    told, attempts = [], []
    for first in ((), ("triple",)):
        told.append([])
        attempts.append(
            grading.grade(
                fixture_exercise,
                submission,
                grading.Options(first=first),
                on_outcome=told[-1].append,
                backend=kept.start,
            )
        )

    assert [outcome.check.number for outcome in told[0]] == ["1.1", "1.2", "2.1", "2.2"]
    assert [outcome.check.number for outcome in told[1]] == ["2.1", "2.2", "1.1", "1.2"]
    statuses = [[(o.check.number, o.status) for o in a.outcomes] for a in attempts]
    assert statuses[0] == statuses[1]
    assert statuses[0][2] == ("2.1", Status.FAILED)


def test_a_submission_imports_the_data_as_it_was_shipped(with_data):
    exercise, answer = with_data
    (exercise.folder / "factors.py").write_text("TWO = 3\n", encoding="utf-8")
    submission = source.of(exercise, {"scaling.py": answer}, {"scaling.py": "scaling.py"})
    statuses = [o.status for o in grading.grade(exercise, submission).outcomes]

    assert statuses == [Status.PASSED] * 3 + [Status.SKIPPED]


def test_plain_pytest_lets_the_reference_import_the_data(with_data):
    exercise, answer = with_data
    (exercise.source / "scaling.py").write_text(answer, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "grader.plugin"]
    done = subprocess.run(
        [*command, "--import-mode=importlib", str(exercise.source)],
        capture_output=True,
        text=True,
        check=False,
        cwd=exercise.source,
    )

    assert "4 passed, 1 skipped" in done.stdout
