"""What the dashboard shows: the roadmap's numbers as frozen values for the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from grader import feedback, roadmap
from grader.course import week_of
from grader.model import Attempt, AttemptSummary, Exercise, Status, Verdict
from grader.pages import charts, text, views
from grader.roadmap import Progress, State

_LATEST = 8  # rows of the latest attempts
_SEGMENTS = 14  # more checks than that share a bar without gaps, in runs that ended alike

LOOKS = {
    Status.PASSED: "p",
    Status.UNSURE: "p",
    Status.FAILED: "f",
    Status.ERROR: "f",
    Status.TIMEOUT: "f",
    Status.KILLED: "f",
    Status.SKIPPED: "s",
}


@dataclass(frozen=True, slots=True)
class Tile:
    """One exercise of the roadmap or of a track."""

    id: str
    number: str  # "23"
    title: str
    title_zh: str
    state: str  # done, in_progress, not_started; planned: it has no page yet
    segments: tuple[str, ...]  # the look of each check, where there is room for that
    runs: tuple[tuple[str, int, int], ...]  # else look, place and length of checks that ended alike
    size: int  # how many checks
    counts: str  # "5/8", or "9" before the first attempt
    label: str  # all of it as a sentence
    is_next: bool

    @property
    def href(self) -> str:
        """Its page."""
        return f"{self.id}.html"


@dataclass(frozen=True, slots=True)
class Week:
    """Exercises that stand in one row."""

    key: str
    name: str  # "Week 4"
    title: str
    counts: str  # "13 / 68 checks"
    tiles: tuple[Tile, ...]


@dataclass(frozen=True, slots=True)
class Track:
    """A track beside the roadmap: a segment per exercise."""

    name: str
    tiles: tuple[Tile, ...]
    counts: str


@dataclass(frozen=True, slots=True)
class Statistic:
    """One of the five numbers."""

    name: str
    value: str
    aside: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class KindRow:
    """Checks of one kind: passed out of tried."""

    name: str
    width: float  # of 200
    counts: str


@dataclass(frozen=True, slots=True)
class Next:
    """What to do now."""

    id: str
    name: str
    eyebrow: str
    title: str
    title_zh: str
    sentence: str
    action: str
    command: str

    @property
    def href(self) -> str:
        """The page of the exercise."""
        return f"{self.id}.html"


@dataclass(frozen=True, slots=True)
class IndexPage:
    """Everything on the dashboard."""

    title: str
    next: Next | None
    is_empty: bool  # the course has no exercises yet
    is_finished: bool  # every day of the whole roadmap has passed
    curve: charts.Drawing | None
    statistics: tuple[Statistic, ...]
    weeks: tuple[Week, ...]
    tracks: tuple[Track, ...]
    activity: charts.Drawing
    attempts: str
    kinds: tuple[KindRow, ...]
    latest: tuple[views.HistoryRow, ...]
    made: str


def index_page(
    title: str,
    exercises: Sequence[Exercise],
    latest: Mapping[str, Attempt],
    attempts: Sequence[AttemptSummary],
    now: datetime,
    week_titles: Mapping[int, str],
    planned: Mapping[str, tuple[str, str]],
) -> IndexPage:
    """The dashboard as of ``now``, whose time zone says where a day ends."""
    ordered = sorted(attempts, key=lambda attempt: attempt.started)
    road = roadmap.of(exercises, ordered, now)
    by_id = {exercise.id: exercise for exercise in exercises}
    next_id = road.next.exercise.id if road.next else ""
    known = {p.exercise.id: p for p in road.progress}
    return IndexPage(
        title=title,
        next=_next(road, latest),
        is_empty=not exercises,
        is_finished=bool(exercises) and not road.next and not set(planned) - set(by_id),
        curve=charts.loss_curve(road.curve),
        statistics=_statistics(road),
        weeks=_weeks(road, next_id, week_titles, planned),
        tracks=_tracks(road, next_id),
        activity=charts.activity(road.activity),
        attempts=text.count(road.attempts, "attempt"),
        kinds=tuple(_kind(row) for row in road.kinds if row.tried),
        latest=views.history_rows(
            roadmap.folds(list(reversed(road.latest)))[-_LATEST:],
            by_id,
            now.tzinfo,
            [a for p in known.values() for a in p.attempts],
        ),
        made=f"As of {text.date(now)}.",
    )


def _next(road: roadmap.Roadmap, latest: Mapping[str, Attempt]) -> Next | None:
    step = road.next
    if step is None:
        return None
    exercise = step.exercise
    progress = road.of(exercise.id)
    is_started = progress.state is not State.NOT_STARTED
    name = views.name_of(exercise.id)
    # A course with gaps has fewer days than its last one's number says.
    is_whole = road.days == max(
        (p.exercise.number for w in road.weeks.values() for p in w), default=0
    )
    place = [f"{name} of {road.days}" if exercise.week and is_whole else name]
    if exercise.week:
        place.append(f"Week {exercise.week}")
    elif exercise.track != "roadmap":
        place.append(views.track_name(exercise.track))
    return Next(
        id=exercise.id,
        name=name,
        eyebrow="  ·  ".join(place),
        title=exercise.title,
        title_zh=exercise.title_zh,
        sentence=_sentence(step, progress, latest.get(exercise.id)),
        action=f"{'Continue' if is_started else 'Start'} {name[0].lower()}{name[1:]}",
        command=f"grade {exercise.id}",
    )


def _sentence(step: roadmap.NextStep, progress: Progress, latest: Attempt | None) -> str:
    """One or two sentences on what is wrong, or on what the exercise is about."""
    exercise = step.exercise
    if progress.state is State.NOT_STARTED:
        tasks = text.count(len(exercise.tasks), "task")
        return f"{exercise.goal} {tasks}, about {exercise.minutes} minutes.".strip()
    if latest is not None and latest.fault and latest.verdict is Verdict.ERROR:
        where = f" on line {latest.fault.line}" if latest.fault.line else ""
        return f"{exercise.files[0]} does not run yet: {latest.fault.kind}{where}."
    told = f"{progress.passed} of {text.count(progress.counted, 'check')} pass."
    if step.check is None:
        return told
    outcome = None
    if latest is not None:
        outcome = next((o for o in latest.outcomes if o.check.name == step.check.name), None)
    if outcome is None or not outcome.status.is_mistake:
        title = step.check.title.removesuffix(".")
        return f"{told} Next to write: {step.check.number}, {title}."
    sentence = feedback.of(outcome, exercise).sentence.split("\n")[0]
    sentence = text.shorten(sentence, 180).rstrip(".")
    return f"{told} {step.check.number}: {sentence}."


def _statistics(road: roadmap.Roadmap) -> tuple[Statistic, ...]:
    days = "day" if road.streak == 1 else "days"
    median = text.figure(road.median_attempts)
    return (
        Statistic("Days finished", f"{road.days_done}", f"/ {road.days}"),
        Statistic("Points", f"{road.earned:,}", f"/ {road.possible:,}"),
        Statistic(
            "Streak", f"{road.streak}", days, "One rest day in seven doesn’t end the streak."
        ),
        Statistic(
            "Attempts",
            f"{road.attempts:,}",
            f"median {median} to finish" if road.days_done else "so far",
        ),
        Statistic(
            "Time in exercises",
            text.minutes(road.seconds),
            "",
            "Gaps between attempts in one exercise, each counted up to 15 minutes.",
        ),
    )


def _weeks(
    road: roadmap.Roadmap,
    next_id: str,
    titles: Mapping[int, str],
    planned: Mapping[str, tuple[str, str]],
) -> tuple[Week, ...]:
    known = {p.exercise.id for p in road.progress}
    coming: dict[int, list[Tile]] = {}
    for id, (title, title_zh) in planned.items():
        if id not in known:
            coming.setdefault(week_of(id, "roadmap") or 0, []).append(_planned(id, title, title_zh))
    others = road.tracks.get("roadmap", ())
    rows = []
    if others or 0 in coming:
        # Day 0, and all days of a course that has no weeks.
        name = "Before week 1" if road.weeks or coming else "Exercises"
        rows.append(_week("w0", name, "", others, coming.get(0, ()), next_id))
    for number in sorted({*road.weeks, *coming} - {0}):
        row, later = road.weeks.get(number, ()), coming.get(number, ())
        title = titles.get(number, "")
        rows.append(_week(f"w{number}", f"Week {number}", title, row, later, next_id))
    return tuple(rows)


def _week(
    key: str,
    name: str,
    title: str,
    row: Sequence[Progress],
    coming: Sequence[Tile],
    next_id: str,
) -> Week:
    passed = sum(p.passed for p in row)
    counted = sum(p.counted for p in row)
    tiles = sorted([*(_tile(p, next_id) for p in row), *coming], key=lambda tile: tile.id)
    counts = f"{passed} / {text.count(counted, 'check')}" if row else ""
    return Week(key, name, title, counts, tuple(tiles))


def _planned(id: str, title: str, title_zh: str) -> Tile:
    """A day of the roadmap that is not written yet."""
    label = f"{views.name_of(id)}, {title}: not in this course yet"
    number = views.short_number(id)
    return Tile(id, number, title, title_zh, "planned", (), (), 0, "", label, is_next=False)


def _tile(progress: Progress, next_id: str) -> Tile:
    exercise, state = progress.exercise, progress.state
    statuses = [progress.statuses.get(check.name) for check in exercise.checks]
    looks = [
        LOOKS.get(status, "") if status else ("s" if check.gpu else "")
        for check, status in zip(exercise.checks, statuses, strict=True)
    ]
    is_new = state is State.NOT_STARTED
    counts = str(progress.counted) if is_new else f"{progress.passed}/{progress.counted}"
    skipped = sum(status is Status.SKIPPED for status in statuses)
    told = f"{views.name_of(exercise.id)}, {exercise.title}: {_how_far(progress)}"
    if skipped:
        told += f", {skipped} not run here"
    return Tile(
        id=exercise.id,
        number=views.short_number(exercise.id),
        title=exercise.title,
        title_zh=exercise.title_zh,
        state=str(state),
        segments=tuple(looks) if len(looks) <= _SEGMENTS else (),
        runs=_runs(looks) if len(looks) > _SEGMENTS else (),
        size=len(looks),
        counts=counts,
        label=told,
        is_next=exercise.id == next_id,
    )


def _how_far(progress: Progress) -> str:
    checks = text.count(progress.counted, "check")
    if progress.state is State.NOT_STARTED:
        return f"not started, {checks}"
    if progress.state is State.IN_PROGRESS:
        return f"in progress, {progress.passed} of {checks} pass"
    if progress.passed < progress.counted:
        return f"finished before, {progress.passed} of {checks} pass now"
    return f"all {checks} pass"


def _runs(looks: Sequence[str]) -> tuple[tuple[str, int, int], ...]:
    runs: list[tuple[str, int, int]] = []
    for place, look in enumerate(looks):
        if runs and runs[-1][0] == look:
            runs[-1] = (look, runs[-1][1], runs[-1][2] + 1)
        else:
            runs.append((look, place, 1))
    return tuple(runs)


def _tracks(road: roadmap.Roadmap, next_id: str) -> tuple[Track, ...]:
    tracks = []
    for name, row in road.tracks.items():
        if name == "roadmap":
            continue
        done = sum(p.is_done for p in row)
        tiles = tuple(_tile(p, next_id) for p in row)
        tracks.append(Track(views.track_name(name), tiles, f"{done}/{len(row)}"))
    return tuple(tracks)


def _kind(row: roadmap.KindCount) -> KindRow:
    width = round(200 * row.passed / row.tried, 1)
    return KindRow(views.KINDS[str(row.kind)], width, f"{row.passed} / {row.tried}")
