"""The roadmap: exercises and attempts become progress. Pure: no disk, and the clock is handed in.

    roadmap.of(exercises, attempts, now) -> Roadmap

`Roadmap.progress` has one `Progress` for every exercise, in the order of the course. *Days* are the
exercises of the roadmap that lie in a week; where a course has no weeks, all of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum

from grader import feedback
from grader.model import AttemptSummary, Check, Exercise, Kind, Status

PLAN_DAYS = 28
LONGEST_GAP_SECONDS = 15 * 60.0
FOLD_SECONDS = 10 * 60.0
"""Seconds between two attempts of `grade watch` within which lists show them as one."""

ACTIVITY_WEEKS = 8
ACTIVITY_STEPS = (1, 3, 6, 10)
"""Attempts a day from which the steps 1, 2, 3 and 4 begin; 0 attempts are step 0."""


class State(StrEnum):
    """How far an exercise has come."""

    DONE = "done"  # once, all checks of the whole suite passed; later attempts don't undo it
    IN_PROGRESS = "in_progress"
    NOT_STARTED = "not_started"


@dataclass(frozen=True, slots=True)
class Progress:
    """One exercise and how far it has come."""

    exercise: Exercise
    state: State
    attempts: tuple[AttemptSummary, ...]  # oldest first
    best: AttemptSummary | None  # the most points; whole attempts before partial ones
    latest: AttemptSummary | None  # the last that ran the whole suite, else the last
    statuses: Mapping[str, Status]  # name of a check -> how it ended last; tried ones alone
    earned: int  # points of the best attempt
    possible: int  # points that can be earned here: without those skipped in the best attempt
    passed: int  # checks that passed in the latest attempt
    counted: int  # checks that count: without those skipped there, or GPU ones before the first
    finished: datetime | None  # when all checks passed for the first time
    seconds: float  # time in it: gaps between attempts, each at most 15 minutes

    @property
    def is_done(self) -> bool:
        """Whether all its checks passed once."""
        return self.state is State.DONE


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """How many checks of the days were left at the end of a date, and how many the plan leaves."""

    day: date
    left: int | None  # None after today
    plan: float  # a straight line from all checks to none, 28 days after the first attempt


@dataclass(frozen=True, slots=True)
class ActiveDay:
    """How much was tried on a date."""

    day: date
    attempts: int
    step: int  # 0 to 4
    is_future: bool


@dataclass(frozen=True, slots=True)
class KindCount:
    """Checks of a kind: how many were tried, and how many of these passed last."""

    kind: Kind
    passed: int
    tried: int


@dataclass(frozen=True, slots=True)
class NextStep:
    """What to do now."""

    exercise: Exercise
    check: Check | None  # the first to mend; None before the first attempt
    is_mistake: bool  # whether that check failed; False where it is still to be written
    failing: int  # how many checks failed


@dataclass(frozen=True, slots=True)
class Roadmap:
    """All exercises of a course with their progress, and what follows from it."""

    progress: tuple[Progress, ...]
    days_done: int
    days: int
    earned: int  # points of the days, best attempts
    possible: int
    streak: int  # days worked in a row; one rest day in seven doesn't end it
    attempts: int  # of all exercises
    median_attempts: float  # to finish an exercise, over those finished; 0.0 before the first
    seconds: float  # time in all exercises
    curve: tuple[CurvePoint, ...]  # every date from the first attempt on; empty before it
    activity: tuple[tuple[ActiveDay, ...], ...]  # 8 weeks of 7 days, Monday first, oldest first
    kinds: tuple[KindCount, ...]  # in the order of `Kind`, those that the course has
    next: NextStep | None  # None when everything is done
    latest: tuple[AttemptSummary, ...]  # all attempts, newest first

    def of(self, exercise: str) -> Progress:
        """The progress of the exercise of that id."""
        return next(p for p in self.progress if p.exercise.id == exercise)

    @property
    def weeks(self) -> dict[int, tuple[Progress, ...]]:
        """The days by week, in order."""
        numbers = sorted({p.exercise.week for p in self.progress if p.exercise.week is not None})
        return {n: tuple(p for p in self.progress if p.exercise.week == n) for n in numbers}

    @property
    def tracks(self) -> dict[str, tuple[Progress, ...]]:
        """What lies in no week, by track, in the order of the course."""
        others = [p for p in self.progress if p.exercise.week is None]
        names = dict.fromkeys(p.exercise.track for p in others)
        return {name: tuple(p for p in others if p.exercise.track == name) for name in names}


def of(exercises: Sequence[Exercise], attempts: Sequence[AttemptSummary], now: datetime) -> Roadmap:
    """The progress that `attempts` have made on `exercises` until `now`.

    Args:
        exercises: in the order of the course.
        attempts: of any exercises, oldest first; those of unknown exercises only count as activity.
        now: aware; its time zone says where a day ends.
    """
    by_exercise: dict[str, list[AttemptSummary]] = {}
    for attempt in attempts:
        by_exercise.setdefault(attempt.exercise, []).append(attempt)
    progress = tuple(_progress(e, tuple(by_exercise.get(e.id, ()))) for e in exercises)
    days = _days(progress)
    dates = [_date(attempt.started, now) for attempt in attempts]
    return Roadmap(
        progress=progress,
        days_done=sum(p.is_done for p in days),
        days=len(days),
        earned=sum(p.earned for p in days),
        possible=sum(p.possible for p in days),
        streak=_streak(set(dates), now.date()),
        attempts=len(attempts),
        median_attempts=_median_attempts(progress),
        seconds=sum(p.seconds for p in progress),
        curve=_curve(days, now),
        activity=_activity(dates, now.date()),
        kinds=_kinds(progress),
        next=_next(progress),
        latest=tuple(reversed(attempts)),
    )


def _progress(exercise: Exercise, attempts: tuple[AttemptSummary, ...]) -> Progress:
    whole = [a for a in attempts if not a.selected]
    best = max(attempts, key=lambda a: (not a.selected, a.earned, a.number), default=None)
    latest = (whole or attempts or (None,))[-1]
    finished = next((a.started for a in attempts if a.is_solved), None)
    state = State.IN_PROGRESS if attempts else State.NOT_STARTED
    all_points = sum(c.points for c in exercise.checks)
    is_whole = best is not None and not best.selected
    return Progress(
        exercise=exercise,
        state=State.DONE if finished else state,
        attempts=attempts,
        best=best,
        latest=latest,
        statuses=statuses_after(attempts),
        earned=best.earned if best else 0,
        possible=best.possible if best and is_whole else all_points,
        passed=latest.passed if latest else 0,
        counted=(
            latest.counted
            if latest and not latest.selected
            else sum(not c.gpu for c in exercise.checks)
        ),
        finished=finished,
        seconds=_seconds_in(attempts),
    )


def statuses_after(attempts: Sequence[AttemptSummary]) -> dict[str, Status]:
    """How each check ended the last time it was run, by name.

    A whole attempt replaces all that was known; one of part of the suite what it ran.
    """
    known: dict[str, Status] = {}
    for attempt in attempts:
        if attempt.selected:
            known.update(attempt.statuses)
        else:
            known = dict(attempt.statuses)
    return known


@dataclass(frozen=True, slots=True)
class Fold:
    """Attempts that a list shows as one: what `grade watch` made in a row, or a single one."""

    attempts: tuple[AttemptSummary, ...]  # oldest first, at least one, of one exercise

    @property
    def first(self) -> AttemptSummary:
        """The first that ran the whole suite, else the first."""
        return next((a for a in self.attempts if not a.selected), self.attempts[0])

    @property
    def last(self) -> AttemptSummary:
        """The last that ran the whole suite, else the last."""
        return next((a for a in reversed(self.attempts) if not a.selected), self.attempts[-1])

    @property
    def best(self) -> AttemptSummary:
        """Of those that ran the whole suite the one with most passed, the latest of equals."""
        whole = [a for a in self.attempts if not a.selected] or self.attempts
        return max(whole, key=lambda a: (a.is_solved, a.passed, a.number))

    @property
    def numbers(self) -> str:
        """`12`, or `12-19`."""
        first, last = self.attempts[0].number, self.attempts[-1].number
        return f"{first}-{last}" if len(self.attempts) > 1 else f"{first}"

    @property
    def minutes(self) -> int:
        """From the start of the first to the end of the last, rounded up."""
        last = self.attempts[-1]
        span = (last.started - self.attempts[0].started).total_seconds() + last.seconds
        return max(1, -int(-span // 60))


def folds(attempts: Sequence[AttemptSummary]) -> list[Fold]:
    """What `grade watch` made within ten minutes of each other, together; each other one alone.

    Args:
        attempts: of any exercises, oldest first. Another exercise in between ends a fold, so that
            the list stays in order.
    """
    found: list[list[AttemptSummary]] = []
    for attempt in attempts:
        before = found[-1][-1] if found else None
        if (
            before is not None
            and before.watched
            and attempt.watched
            and attempt.exercise == before.exercise
            and (attempt.started - before.started).total_seconds() - before.seconds <= FOLD_SECONDS
        ):
            found[-1].append(attempt)
        else:
            found.append([attempt])
    return [Fold(tuple(group)) for group in found]


def _days(progress: Sequence[Progress]) -> tuple[Progress, ...]:
    of_roadmap = tuple(p for p in progress if p.exercise.track == "roadmap")
    in_weeks = tuple(p for p in of_roadmap if p.exercise.week is not None)
    return in_weeks or of_roadmap


def _date(moment: datetime, now: datetime) -> date:
    return moment.astimezone(now.tzinfo).date()


def _seconds_in(attempts: Sequence[AttemptSummary]) -> float:
    times = sorted(attempt.started for attempt in attempts)
    gaps = [(b - a).total_seconds() for a, b in itertools.pairwise(times)]
    return sum(min(gap, LONGEST_GAP_SECONDS) for gap in gaps)


def _median_attempts(progress: Sequence[Progress]) -> float:
    needed = sorted(
        sum(a.started <= p.finished for a in p.attempts) for p in progress if p.finished is not None
    )
    middle = len(needed) // 2
    # `statistics` would take longer to import than all of this.
    return (needed[middle] + needed[~middle]) / 2 if needed else 0.0


def _streak(active: set[date], today: date) -> int:
    """Days worked in a row until today or yesterday; only a second rest day in seven ends it."""
    worked, day, last_rest = 0, today, None
    if today not in active:  # today is not over
        day = today - timedelta(days=1)
    while True:
        if day in active:
            worked += 1
        elif (last_rest is not None and (last_rest - day).days < 7) or not any(
            earlier < day for earlier in active
        ):
            return worked
        else:
            last_rest = day
        day -= timedelta(days=1)


def _curve(days: Sequence[Progress], now: datetime) -> tuple[CurvePoint, ...]:
    attempts = [attempt for p in days for attempt in p.attempts]
    if not attempts:
        return ()
    # A check that needs a GPU would keep the line from ever reaching the ground elsewhere.
    all_checks = {(p.exercise.id, c.name) for p in days for c in p.exercise.checks if not c.gpu}
    passed_on: dict[tuple[str, str], date] = {}
    for attempt in attempts:
        day = _date(attempt.started, now)
        for name, status in attempt.statuses.items():
            key = (attempt.exercise, name)
            if status.earns and key in all_checks:
                passed_on[key] = min(day, passed_on.get(key, day))
    total, today = len(all_checks), now.date()
    first = min(_date(attempt.started, now) for attempt in attempts)
    length = max(PLAN_DAYS, (today - first).days)
    points = []
    for offset in range(length + 1):
        day = first + timedelta(days=offset)
        done = sum(passed <= day for passed in passed_on.values())
        points.append(
            CurvePoint(
                day=day,
                left=total - done if day <= today else None,
                plan=total * max(0.0, 1 - offset / PLAN_DAYS),
            )
        )
    return tuple(points)


def _activity(dates: Sequence[date], today: date) -> tuple[tuple[ActiveDay, ...], ...]:
    counts: dict[date, int] = {}
    for day in dates:
        counts[day] = counts.get(day, 0) + 1
    monday = today - timedelta(days=today.weekday(), weeks=ACTIVITY_WEEKS - 1)
    return tuple(
        tuple(
            ActiveDay(
                day=day,
                attempts=counts.get(day, 0),
                step=sum(counts.get(day, 0) >= least for least in ACTIVITY_STEPS),
                is_future=day > today,
            )
            for day in (monday + timedelta(weeks=week, days=weekday) for weekday in range(7))
        )
        for week in range(ACTIVITY_WEEKS)
    )


def _kinds(progress: Sequence[Progress]) -> tuple[KindCount, ...]:
    passed, tried = dict.fromkeys(Kind, 0), dict.fromkeys(Kind, 0)
    present = set()
    for p in progress:
        for check in p.exercise.checks:
            present.add(check.kind)
            status = p.statuses.get(check.name)
            if status is not None and (status.earns or status.is_mistake):
                tried[check.kind] += 1
                passed[check.kind] += status.earns
    return tuple(KindCount(k, passed[k], tried[k]) for k in Kind if k in present)


def _next(progress: Sequence[Progress]) -> NextStep | None:
    """The exercise tried last while it is open, else the next one after it, else the first open."""
    tried = [p for p in progress if p.attempts]
    last = max(tried, key=lambda p: p.attempts[-1].started, default=None)
    chosen = None
    if last is not None:
        place = progress.index(last)
        same_track = [
            p for p in progress[place:] if p.exercise.track == last.exercise.track and not p.is_done
        ]
        chosen = last if not last.is_done else next(iter(same_track), None)
    chosen = chosen or next((p for p in progress if not p.is_done), None)
    if chosen is None:
        return None
    failing = sum(status.is_mistake for status in chosen.statuses.values())
    check = feedback.fix_first(chosen.exercise.checks, chosen.statuses) if chosen.attempts else None
    return NextStep(chosen.exercise, check, failing > 0, failing)
