"""Screens: the roadmap, the history, a hint and the machine as lines of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from grader import feedback
from grader.feedback import Mark
from grader.history import Save
from grader.model import Check, Exercise
from grader.roadmap import Fold, NextStep, Progress, Roadmap, State
from grader.terminal import MARK_STYLES, Terminal, cells, left, right, safe, wrap

BAR_WIDTH = 20

_STATE_MARKS = {
    State.DONE: Mark.PASS,
    State.IN_PROGRESS: Mark.NEAR,
    State.NOT_STARTED: Mark.SKIP,
}
# Where signs can't be shown: the words of the checks' marks would say something else here.
_STATE_SHORT = {State.DONE: "DONE", State.IN_PROGRESS: "PART", State.NOT_STARTED: "    "}
_STATE_WORDS = {
    State.DONE: "done",
    State.IN_PROGRESS: "in progress",
    State.NOT_STARTED: "not started",
}


def overview(terminal: Terminal, title: str, road: Roadmap) -> None:
    """Where the learner stands, in one line a week, and the next step."""
    _headline(terminal, title, road)
    terminal.write()
    for name, exercises in _groups(road, None, None):
        _group_line(terminal, name, exercises)
    terminal.write()
    next_step(terminal, road.next)


def status(
    terminal: Terminal,
    title: str,
    road: Roadmap,
    *,
    week: int | None = None,
    track: str | None = None,
) -> None:
    """The roadmap, one line an exercise.

    Args:
        week: only that one.
        track: only that one.
    """
    _headline(terminal, title, road)
    for name, exercises in _groups(road, week, track):
        terminal.write()
        _group_line(terminal, name, exercises)
        for progress in exercises:
            terminal.write(_exercise_line(terminal, progress, road.next))
    terminal.write()
    next_step(terminal, road.next)


def next_step(terminal: Terminal, step: NextStep | None) -> None:
    """What to do now, with the command."""
    if step is None:
        terminal.write("  Everything is done. grade certificate writes the page to keep.")
        return
    exercise, check = step.exercise, step.check
    title = f"{exercise.id}  {safe(exercise.title)}"
    terminal.write(f"  Next: {terminal.styled(title, 'bold')}")
    if check is None:
        for line in wrap(safe(exercise.goal), terminal.width - 8):
            terminal.write(f"        {line}")
        terminal.write(f"        open {_path(exercise)}, then grade {exercise.id}")
    elif step.is_mistake:
        plural = "s fail" if step.failing > 1 else " fails"
        terminal.write(f"        {step.failing} check{plural}; fix {check.number} first:")
        for line in wrap(safe(check.title), terminal.width - 10):
            terminal.write(f"          {line}")
        terminal.write(f"        grade {exercise.id}, or grade hint {exercise.id}")
    else:
        task = exercise.task(check.task)
        terminal.write(f"        TODO {task.number} is open: {safe(task.title)}")
        terminal.write(f"        open {_path(exercise)}, then grade {exercise.id}")


def attempts(
    terminal: Terminal,
    found: Sequence[Fold],
    saves: Sequence[Save],
    now: datetime,
    *,
    with_names: bool,
) -> None:
    """Attempts, oldest first, one line for each fold, and the saves of one exercise."""
    before: dict[str, int] = {}
    width = max((cells(fold.numbers) for fold in found), default=0)
    for fold in found:
        attempt = fold.last
        name = f"{left(attempt.exercise, 10)} " if with_names else ""
        place = f"{name}{fold.numbers:>{max(3, width)}}"
        if len(fold.attempts) > 1:
            if not attempt.selected:
                before[attempt.exercise] = attempt.passed
            terminal.write(_watched_line(terminal, fold, place, now))
            continue
        change = attempt.passed - before.get(attempt.exercise, 0)
        is_first = attempt.exercise not in before
        if not attempt.selected:
            before[attempt.exercise] = attempt.passed
        mark = Mark.PASS if attempt.is_solved else Mark.FAIL
        sign = terminal.styled(terminal.mark(mark), MARK_STYLES[mark])
        unit = "selected" if attempt.selected else "checks"
        changed = f" ({change:+d})" if change and not is_first and not attempt.selected else ""
        score = f"{attempt.passed}/{attempt.counted} {unit}{changed}"
        points = f"{attempt.earned}/{attempt.possible}"
        terminal.write(
            f"  {sign} {place}  {_when(attempt.started, now)}"
            f"  {left(score, 24)} {right(points, 8)} points"
            f"  {right(feedback.seconds_text(attempt.seconds), 6)}"
        )
    if saves:
        terminal.write()
        terminal.write("  Kept without being an attempt:")
        for save in saves:
            said = safe(f"{save.reason}: {', '.join(save.names)}")
            terminal.write(f"    s{save.number:<3} {_when(save.saved, now)}  {said}")


def _watched_line(terminal: Terminal, fold: Fold, place: str, now: datetime) -> str:
    """What `grade watch` made in a row: from where, over the best if it was lost, to where."""
    steps = [fold.first, fold.last]
    if fold.best.passed > max(step.passed for step in steps):
        steps.insert(1, fold.best)
    is_solved = any(attempt.is_solved for attempt in fold.attempts)
    mark = Mark.PASS if is_solved else Mark.FAIL
    sign = terminal.styled(terminal.mark(mark), MARK_STYLES[mark])
    said = f"watch, {len(fold.attempts)} runs in {fold.minutes} min"
    way = (" to " if terminal.is_plain else " -> ").join(f"{s.passed}/{s.counted}" for s in steps)
    when = _when(fold.attempts[0].started, now)
    return f"  {sign} {place}  {when}  {left(said, 24)} {way}"


def standing(terminal: Terminal, road: Roadmap, exercise: Exercise) -> str:
    """How far the week of an exercise has come, or its track, in one line."""
    own = road.of(exercise.id).exercise
    groups = _groups(road, own.week, None if own.week else own.track)
    name, found = next((n, p) for n, p in groups if any(q.exercise.id == own.id for q in p))
    return f"{name}  {_sum_of(terminal, found)}"


def hint(
    terminal: Terminal, check: Check, texts: Sequence[str], first: int, count: int, command: str
) -> None:
    """One hint or several of a check.

    Args:
        texts: what to show.
        first: the number of the first of them, from 1.
        count: how many the check has.
        command: shows the next.
    """
    for number, text in enumerate(texts, start=first):
        name = f"Hint {number} of {count} for {check.number} ({safe(check.title.rstrip('.'))})"
        first_line, *rest = wrap(name, terminal.width - 2)
        terminal.write(f"  {terminal.styled(first_line, 'bold')}")
        for line in rest:
            terminal.write(f"  {terminal.styled(line, 'bold')}")
        terminal.write()
        for paragraph in safe(text).splitlines():
            for line in wrap(paragraph, terminal.width - 4):
                terminal.write(f"    {line}".rstrip())
        terminal.write()
    remaining = count - (first + len(texts) - 1)
    if remaining > 0:
        terminal.write(f"  More: {command}      ({remaining} left; hints cost nothing)")
    else:
        terminal.write(f"  That was the last hint for {check.number}.")


def difference(terminal: Terminal, lines: Sequence[str]) -> None:
    """A unified diff."""
    styles = {"+": "pass", "-": "fail", "@": "accent"}
    for line in lines:
        text = safe(line.rstrip("\n"))
        is_name = text.startswith(("+++", "---"))
        terminal.write(terminal.styled(text, "bold" if is_name else styles.get(text[:1], "")))


def machine(terminal: Terminal, findings: Sequence[Mapping[str, str]]) -> None:
    """What `grade doctor` found: name, value, state ("ok", "note", "missing"), and advice."""
    marks = {"ok": Mark.PASS, "note": Mark.NEAR, "missing": Mark.FAIL}
    width = max((cells(finding["name"]) for finding in findings), default=0)
    for finding in findings:
        mark = marks[finding["state"]]
        sign = terminal.styled(terminal.mark(mark), MARK_STYLES[mark])
        terminal.write(f"  {sign} {left(finding['name'], width)}  {safe(finding['value'])}")
        if finding["advice"]:
            for line in wrap(safe(finding["advice"]), terminal.width - width - 6):
                terminal.write(f"    {'':{width}}  {line}")


def _groups(
    road: Roadmap, week: int | None, track: str | None
) -> list[tuple[str, tuple[Progress, ...]]]:
    """What is asked for, by name: before the weeks, the weeks, the tracks."""
    groups: list[tuple[str, tuple[Progress, ...]]] = []
    tracks = road.tracks if week is None else {}
    if track in (None, "roadmap") and "roadmap" in tracks:
        groups.append(("Start", tracks["roadmap"]))
    if track in (None, "roadmap"):
        weeks = road.weeks.items()
        groups += [(f"Week {number}", days) for number, days in weeks if week in (None, number)]
    groups += [
        (name.capitalize(), found)
        for name, found in tracks.items()
        if name != "roadmap" and track in (None, name)
    ]
    return groups


def _headline(terminal: Terminal, title: str, road: Roadmap) -> None:
    parts = [
        f"{road.days_done} of {road.days} days done",
        f"{road.earned}/{road.possible} points",
    ]
    if road.streak > 1:
        parts.append(f"{road.streak} days in a row")
    terminal.write(terminal.styled(safe(title), "bold"))
    terminal.write("  " + ", ".join(parts))


def _group_line(terminal: Terminal, name: str, exercises: Sequence[Progress]) -> None:
    said = _sum_of(terminal, exercises)
    terminal.write(f"  {terminal.styled(left(name, 10), 'bold')} {said}")


def _sum_of(terminal: Terminal, exercises: Sequence[Progress]) -> str:
    """Exercises and checks of a group, with a bar where a person looks at it."""
    done = sum(p.is_done for p in exercises)
    checks = sum(p.counted for p in exercises)
    passed = checks if done == len(exercises) else sum(min(p.passed, p.counted) for p in exercises)
    said = f"{done} of {len(exercises)} done, {passed}/{checks} checks pass"
    if terminal.is_terminal and not terminal.is_plain:
        filled = BAR_WIDTH * passed // checks if checks else 0
        said = f"{terminal.bar(filled, BAR_WIDTH)}  {said}"
    return said


def _exercise_line(terminal: Terminal, progress: Progress, step: NextStep | None) -> str:
    exercise = progress.exercise
    mark = _STATE_MARKS[progress.state]
    title = safe(exercise.title)
    if terminal.is_plain:
        state = _STATE_WORDS[progress.state]
        checks = f"{progress.passed} of {progress.counted} checks pass"
        return f"{exercise.id}, {title}: {state}, {checks}."
    shown = terminal.mark(mark) if terminal.has_glyphs else _STATE_SHORT[progress.state]
    sign = terminal.styled(shown, MARK_STYLES[mark])
    room = terminal.width - 35 - cells(shown)
    first = wrap(title, room)[0]
    is_next = step is not None and step.exercise.id == exercise.id
    name = terminal.styled(left(exercise.id, 10), "accent" if is_next else "")
    checks = f"{progress.passed}/{progress.counted}" if progress.attempts else ""
    points = f"{progress.earned}/{progress.possible}" if progress.attempts else ""
    tail = "  next" if is_next else ""
    return f"  {sign} {name} {left(first, room)}{right(checks, 6)}{right(points, 9)}{tail}".rstrip()


def _path(exercise: Exercise) -> str:
    return f"{exercise.folder.parent.name}/{exercise.folder.name}/{exercise.files[0]}"


def _when(moment: datetime, now: datetime) -> str:
    local = moment.astimezone(now.tzinfo)
    return f"{local:%Y-%m-%d %H:%M}"
