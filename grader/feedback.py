"""Feedback: an outcome as what the learner reads. Pure: values in, values out.

The terminal and the pages lay out the same words, so that neither says what the other doesn't.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from grader.model import Check, Exercise, Line, Outcome, Status


class Mark(StrEnum):
    """The sign before a check: a word first, a glyph or colour second."""

    PASS = "pass"
    FAIL = "fail"
    WAIT = "wait"
    TODO = "todo"
    SKIP = "skip"
    TIME = "time"
    STOP = "stop"
    NEAR = "near"


MARKS = {
    Status.PASSED: Mark.PASS,
    Status.FAILED: Mark.FAIL,
    Status.ERROR: Mark.FAIL,
    Status.TIMEOUT: Mark.TIME,
    Status.KILLED: Mark.STOP,
    Status.WAITING: Mark.WAIT,
    Status.TODO: Mark.TODO,
    Status.SKIPPED: Mark.SKIP,
    Status.UNSURE: Mark.NEAR,
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One check as the learner reads it.

    `note` stands at the end of the row, in the place of the time, where the check did not run to
    its end. `sentence` and what follows unfold below the row; where there is nothing to mend they
    are empty, but for the reason why a speed could not be told.
    """

    outcome: Outcome
    mark: Mark
    number: str  # "1.1"
    title: str  # without its full stop
    points: str  # "6", or "0/6" where they were not earned
    note: str  # "waits for 1.1, 2.2", "no CUDA here", "was passing", or ""
    sentence: str  # what was found
    details: tuple[str, ...]  # lines laid out for 80 columns
    smallest: str  # the smallest failing input, as code
    line: Line | None  # the innermost line of the learner's own
    verb: str  # what that line was doing: "your code", "still running"
    hint: str  # of the check's own
    was_passing: bool


def of(
    outcome: Outcome,
    exercise: Exercise,
    *,
    previous: Status | None = None,
) -> Finding:
    """What the learner reads about one check.

    Args:
        outcome: how it ended.
        exercise: the exercise it belongs to, for the numbers of other checks and tasks.
        previous: how it ended the time before; None on the first.
    """
    check, status = outcome.check, outcome.status
    was_passing = status.is_mistake and previous is not None and previous.earns
    return Finding(
        outcome=outcome,
        mark=MARKS[status],
        number=check.number,
        title=check.title.removesuffix("."),
        points=_points(outcome),
        note=_note(outcome, exercise, was_passing=was_passing),
        sentence=_sentence(outcome),
        details=outcome.details if status.is_mistake else (),
        smallest=(outcome.minimal or "") if status.is_mistake else "",
        line=outcome.lines[-1] if outcome.lines and status.is_mistake else None,
        verb="still running" if status is Status.TIMEOUT else "your code",
        hint=(check.hint or "") if status.is_mistake else "",
        was_passing=was_passing,
    )


def fix_first(checks: Sequence[Check], statuses: Mapping[str, Status]) -> Check | None:
    """The check to mend first: a mistake that stands on no other mistake, in suite order.

    Where nothing is wrong, the first check of a task that is still to be written; None where
    neither is left.

    Args:
        checks: of one exercise.
        statuses: by the name of the check; a check without one has not been tried.
    """
    by_name = {check.name: check for check in checks}
    mistaken = [c for c in checks if c.name in statuses and statuses[c.name].is_mistake]
    names = {check.name for check in mistaken}
    for check in mistaken:
        if not names & _standing_under(check, by_name):
            return check
    if mistaken:
        return mistaken[0]
    unwritten = (None, Status.TODO, Status.WAITING)
    return next((c for c in checks if statuses.get(c.name) in unwritten and not c.gpu), None)


def hints_for(check: Check, exercise: Exercise) -> tuple[tuple[str, str], ...]:
    """The hints of a check in the order they are shown, each with the name it is counted under.

    The check's own comes first, then those of its task.
    """
    own = ((check.name, check.hint),) if check.hint else ()
    return own + tuple((check.task, hint) for hint in exercise.task(check.task).hints)


def unseen(hints: Sequence[tuple[str, str]], seen: Mapping[str, int]) -> int | None:
    """The place in `hints` of the first that was not shown; None when all were."""
    shown: dict[str, int] = {}
    for place, (name, _) in enumerate(hints):
        shown[name] = shown.get(name, 0) + 1
        if shown[name] > seen.get(name, 0):
            return place
    return None


def seconds_text(seconds: float) -> str:
    """A duration in at most six cells: "4 ms", "1.6 s", "2 min"."""
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min"


def _points(outcome: Outcome) -> str:
    points = outcome.check.points
    if outcome.status.earns or outcome.status is Status.SKIPPED:
        return str(points)
    return f"0/{points}"


def _note(outcome: Outcome, exercise: Exercise, *, was_passing: bool) -> str:
    match outcome.status:
        case Status.TIMEOUT:
            return f"stopped after {seconds_text(_limit_reached(outcome, exercise))}"
        case Status.KILLED:
            return "stopped"
        case Status.WAITING:
            return _waits_for(outcome, exercise)
        case Status.TODO:
            return f"TODO {exercise.task(outcome.check.task).number} is open"
        case Status.SKIPPED:
            return _text(outcome) or ("no GPU here" if outcome.check.gpu else "skipped")
        case Status.UNSURE:
            return "too close to tell"
    return "was passing" if was_passing else ""


def _limit_reached(outcome: Outcome, exercise: Exercise) -> float:
    return max(outcome.cpu_seconds, outcome.seconds) or exercise.limits.cpu_seconds


def _waits_for(outcome: Outcome, exercise: Exercise) -> str:
    if not outcome.blocked_by:
        return "not reached"
    numbers = {check.name: check.number for check in exercise.checks}
    waited = [numbers.get(name, name) for name in outcome.blocked_by]
    if len(waited) > 2:
        return f"waits for {waited[0]} (+{len(waited) - 1})"
    return f"waits for {', '.join(waited)}"


def _sentence(outcome: Outcome) -> str:
    text = _text(outcome)
    if not outcome.status.is_mistake:
        return text if outcome.status is Status.UNSURE else ""
    if text:
        return text
    last = outcome.traceback.strip().splitlines()[-1:]
    match outcome.status:
        case Status.ERROR:
            return last[0] if last else "the code raised an exception"
        case Status.TIMEOUT:
            return "it had not ended when the time was over"
        case Status.KILLED:
            return "Python ended while this check was running"
    return "what the title says is not so"


def _text(outcome: Outcome) -> str:
    return outcome.message.text.strip() if outcome.message else ""


def _standing_under(check: Check, by_name: Mapping[str, Check]) -> set[str]:
    """The names of all checks that `check` stands on, directly or not."""
    found: set[str] = set()
    open_names = list(check.after)
    while open_names:
        name = open_names.pop()
        if name not in found:
            found.add(name)
            open_names += by_name[name].after if name in by_name else ()
    return found
