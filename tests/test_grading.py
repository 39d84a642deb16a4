"""A grading: which checks run, and in which order."""

from __future__ import annotations

from dataclasses import replace

from grader import grading, source
from grader.model import Status


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
