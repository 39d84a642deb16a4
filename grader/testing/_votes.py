"""Which of two functions is faster than a limit asks: paired votes, first to lead by six.

A pair is one sample of the candidate and one of the model solution, taken side by side on equal
inputs, and casts one vote: over the limit or under it. Votes need no model of the noise: a
sample that was disturbed, by however much, spoils one vote and no average. Where a single vote
is wrong with chance p, the verdict is wrong with chance (p / (1 - p)) ** 6.

Nothing here reads a clock or knows torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median, quantiles

LEAD = 6
"""By how many votes one side must lead."""

DEAD_ZONE = 1.1
"""A pair within this factor of the limit, on either side, casts no vote."""

MOST_PAIRS = 40
"""A contest that is open after so many pairs is too close to call."""

DRAGGED = 3.0
"""A model solution this many times slower than before the contest is no yardstick."""


class Outcome(StrEnum):
    """How one round of pairs ended, or all of them together."""

    PASS = "pass"
    FAIL = "fail"
    UNSURE = "unsure"


class Reason(StrEnum):
    """Why a round ended as it did, where the votes alone do not say it."""

    VOTES = "votes"
    CLOSE = "close"  # neither side came to lead by enough
    DRAGGED = "dragged"  # the model solution itself was slowed down during the round
    WAITS = "waits"  # little computing, much waiting: sleep, or another process
    OVERTIME = "overtime"  # so slow in the warm-up that no pair was needed


@dataclass(frozen=True, slots=True)
class Pair:
    """Candidate over model solution, per call, in one pair of samples."""

    ratio: float  # by the clock that votes
    wall: float  # by wall time


@dataclass(frozen=True, slots=True)
class Tally:
    """The votes of some pairs."""

    over: int
    under: int
    close: int

    @property
    def lead(self) -> int:
        """How far the votes over the limit lead; negative where those under it do."""
        return self.over - self.under


@dataclass(frozen=True, slots=True)
class Ruling:
    """The end of one round, and why."""

    outcome: Outcome
    reason: Reason


def tally(ratios: Iterable[float], limit: float) -> Tally:
    """Count the votes of the ratios against the limit."""
    over = under = close = 0
    for ratio in ratios:
        if ratio > limit * DEAD_ZONE:
            over += 1
        elif ratio < limit / DEAD_ZONE:
            under += 1
        else:
            close += 1
    return Tally(over, under, close)


def rule(
    pairs: Sequence[Pair], limit: float, *, drag: float = 1.0, done: bool = False
) -> Ruling | None:
    """Say how the round ends after these pairs, or None while it goes on.

    Args:
        pairs: all pairs of the round so far; asked again after each.
        limit: the largest ratio that is allowed.
        drag: the model solution's best time in this round over its best before the contest.
        done: no further pair will come, because the time is used up.
    """
    votes = tally((pair.ratio for pair in pairs), limit)
    if votes.lead >= LEAD:
        # A dragged model solution makes the candidate look better, so this one stands.
        return Ruling(Outcome.FAIL, Reason.VOTES)
    if votes.lead <= -LEAD:
        # Half the lead is enough here: it withholds a pass, and fails nobody.
        if tally((pair.wall for pair in pairs), limit).lead >= LEAD // 2:
            return Ruling(Outcome.UNSURE, Reason.WAITS)
        if drag > DRAGGED:
            return Ruling(Outcome.UNSURE, Reason.DRAGGED)
        return Ruling(Outcome.PASS, Reason.VOTES)
    if done or len(pairs) >= MOST_PAIRS:
        return Ruling(Outcome.UNSURE, Reason.CLOSE)
    return None


def settle(outcomes: Sequence[Outcome]) -> Outcome | None:
    """The verdict after these rounds, or None where another round must be played.

    A pass stands at once. A fail stands once a second round agrees. Whatever is left open or
    contradicts itself is unsure, and that never counts against anybody.
    """
    if outcomes.count(Outcome.FAIL) >= 2:
        return Outcome.FAIL
    match list(outcomes):
        case [] | [Outcome.FAIL] | [Outcome.UNSURE] | [Outcome.UNSURE, Outcome.FAIL]:
            return None
        case [*earlier, Outcome.PASS] if Outcome.FAIL not in earlier:
            return Outcome.PASS
        case _:
            return Outcome.UNSURE


def middle(ratios: Sequence[float]) -> float:
    """The median ratio; nan where there is none."""
    return median(ratios) if ratios else float("nan")


def spread(ratios: Sequence[float]) -> tuple[float, float]:
    """The range of the middle half of the ratios."""
    if len(ratios) < 2:
        return middle(ratios), middle(ratios)
    low, _, high = quantiles(ratios, n=4, method="inclusive")
    return low, high
