"""What the certificate shows: each day, when it passed first, and what it took."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from grader import roadmap
from grader.model import AttemptSummary, Exercise
from grader.pages import text, views


@dataclass(frozen=True, slots=True)
class Row:
    """A day that has passed."""

    id: str
    name: str  # "Day 23"
    title: str
    title_zh: str
    passed: str  # the date
    attempts: int
    points: str


@dataclass(frozen=True, slots=True)
class Week:
    """The days of a week."""

    name: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Certificate:
    """Everything on the certificate."""

    course_title: str
    name: str
    first: str  # the date of the first attempt
    last: str  # the date on which the last day passed
    days: int
    checks: int
    attempts: int
    time: str
    weeks: tuple[Week, ...]
    seal: str  # of the attempts it was made from
    made: str


def certificate(
    course_title: str,
    name: str,
    exercises: Sequence[Exercise],
    attempts: Sequence[AttemptSummary],
    now: datetime,
) -> Certificate:
    """The certificate of a roadmap whose days have all passed once."""
    ids = {exercise.id for exercise in exercises}
    tried = sorted((a for a in attempts if a.exercise in ids), key=lambda a: a.started)
    road = roadmap.of(exercises, tried, now)
    weeks: dict[str, list[Row]] = {}
    for progress in road.progress:
        exercise, finished = progress.exercise, progress.finished
        assert finished is not None
        weeks.setdefault(f"Week {exercise.week}" if exercise.week else "Before week 1", []).append(
            Row(
                exercise.id,
                views.name_of(exercise.id),
                exercise.title,
                exercise.title_zh,
                text.date(finished.astimezone(now.tzinfo)),
                len(progress.attempts),
                f"{progress.earned} of {progress.possible}",
            )
        )
    finishes = [p.finished for p in road.progress if p.finished is not None]
    return Certificate(
        course_title=course_title,
        name=name,
        first=text.date(tried[0].started.astimezone(now.tzinfo)),
        last=text.date(max(finishes).astimezone(now.tzinfo)),
        days=len(exercises),
        checks=sum(p.counted for p in road.progress),
        attempts=len(tried),
        time=text.minutes(road.seconds),
        weeks=tuple(Week(title, tuple(rows)) for title, rows in weeks.items()),
        seal=_seal(tried),
        made=f"Made on {text.date(now)}.",
    )


def _seal(attempts: Sequence[AttemptSummary]) -> str:
    """A digest of the attempts: the same history gives the same one."""
    digest = hashlib.sha256()
    for a in attempts:
        line = f"{a.exercise} {a.number} {a.started.isoformat()} {a.verdict} {a.earned}\n"
        digest.update(line.encode())
    found = digest.hexdigest()[:16]
    return " ".join(found[i : i + 4] for i in range(0, 16, 4))
