"""Feedback says what was found in the learner's words, and what to mend first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grader import feedback
from grader.feedback import Mark
from grader.model import Message, Status
from tests import samples
from tests.samples import CHECKS, EXERCISE, outcome

UNFOLDED = (*(status for status in Status if status.is_mistake), Status.UNSURE)


def statuses(**changed: Status) -> dict[str, Status]:
    """All passed, but those named `c1_1=...`."""
    return {c.name: changed.get("c" + c.number.replace(".", "_"), Status.PASSED) for c in CHECKS}


@pytest.mark.parametrize(
    ("given", "number"),
    [
        (statuses(), None),
        (statuses(c2_2=Status.FAILED, c3_1=Status.FAILED), "2.2"),
        (statuses(c3_1=Status.TIMEOUT, c1_1=Status.TODO), "3.1"),
        (statuses(c2_3=Status.FAILED, c2_2=Status.KILLED), "2.2"),
        (statuses(c1_2=Status.TODO, c2_3=Status.WAITING), "1.2"),
        (statuses(c4_2=Status.SKIPPED), None),
        ({}, "1.1"),
    ],
)
def test_what_to_fix_first_is(given, number):
    found = feedback.fix_first(CHECKS, given)

    assert number == (found.number if found else None)


def test_a_mistake_that_stands_on_a_later_mistake_waits():
    early = replace(CHECKS[0], after=(CHECKS[3].name,))
    checks = (early, *CHECKS[1:])

    assert feedback.fix_first(checks, statuses(c1_1=Status.FAILED, c2_2=Status.FAILED)).number == (
        "2.2"
    )


def test_checks_that_wait_for_each_other_still_give_one_to_fix():
    one = replace(CHECKS[0], after=(CHECKS[1].name,))
    two = replace(CHECKS[1], after=(CHECKS[0].name,))
    failed = {one.name: Status.FAILED, two.name: Status.FAILED}

    assert feedback.fix_first((one, two), failed) is one


@pytest.mark.parametrize(
    ("status", "mark", "points", "note"),
    [
        (Status.PASSED, Mark.PASS, "10", ""),
        (Status.FAILED, Mark.FAIL, "0/10", ""),
        (Status.ERROR, Mark.FAIL, "0/10", ""),
        (Status.TIMEOUT, Mark.TIME, "0/10", "stopped after 10 s"),
        (Status.KILLED, Mark.STOP, "0/10", "stopped"),
        (Status.WAITING, Mark.WAIT, "0/10", "not reached"),
        (Status.TODO, Mark.TODO, "0/10", "TODO 1 is open"),
        (Status.SKIPPED, Mark.SKIP, "10", "skipped"),
        (Status.UNSURE, Mark.NEAR, "10", "too close to tell"),
    ],
)
def test_a_row_has_its_mark_points_and_note(status, mark, points, note):
    finding = feedback.of(outcome("1.1", status, seconds=0.0), EXERCISE)

    assert (finding.mark, finding.points, finding.note) == (mark, points, note)


def test_every_status_has_a_mark():
    assert set(feedback.MARKS) == set(Status)


@pytest.mark.parametrize("status", sorted(set(Status) - set(UNFOLDED)))
def test_only_a_mistake_unfolds(status):
    finding = feedback.of(replace(samples.SHAPE_FAILED, status=status), EXERCISE)

    assert (finding.sentence, finding.details, finding.smallest, finding.line) == ("", (), "", None)


def test_a_waiting_check_names_the_numbers_it_waits_for():
    assert feedback.of(samples.WAITING, EXERCISE).note == "waits for 1.1, 2.2"


def test_a_check_that_passed_before_is_marked_unless_it_never_ran():
    failed = feedback.of(samples.SHAPE_FAILED, EXERCISE, previous=Status.PASSED)
    waiting = feedback.of(samples.WAITING, EXERCISE, previous=Status.PASSED)

    assert (failed.was_passing, waiting.was_passing) == (True, False)


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (Status.ERROR, "ValueError: bad"),
        (Status.TIMEOUT, "it had not ended when the time was over"),
        (Status.KILLED, "Python ended while this check was running"),
        (Status.FAILED, "what the title says is not so"),
    ],
)
def test_a_mistake_without_a_message_still_says_something(status, sentence):
    bare = outcome("1.1", status, traceback="line 3\nValueError: bad\n")

    assert feedback.of(bare, EXERCISE).sentence == sentence


def test_a_message_of_a_skip_is_its_note():
    skipped = outcome("4.2", Status.SKIPPED, message=Message("x", "no CUDA here"))

    assert feedback.of(skipped, EXERCISE).note == "no CUDA here"


def test_hints_begin_with_the_check_and_go_on_with_its_task():
    assert feedback.hints_for(CHECKS[2], EXERCISE) == (
        ("TestAttend::test_2_1", "Which axis?"),
        ("attend", "Look at the mask."),
    )


@pytest.mark.parametrize(
    ("seen", "place"),
    [
        ({}, 0),
        ({"own": 1}, 1),
        ({"task": 1}, 0),
        ({"own": 1, "task": 1}, 2),
        ({"own": 1, "task": 2}, None),
    ],
)
def test_the_next_unseen_hint_is(seen, place):
    hints = (("own", "a"), ("task", "b"), ("task", "c"))

    assert feedback.unseen(hints, seen) == place


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ms"),
        (0.0041, "4 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (1.62, "1.6 s"),
        (9.96, "10 s"),
        (240, "4 min"),
    ],
)
def test_a_duration_reads(seconds, text):
    assert feedback.seconds_text(seconds) == text
