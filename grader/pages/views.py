"""What the pages show: frozen values made of the model's, so that a template only lays them out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, tzinfo

from grader import feedback, roadmap
from grader.model import (
    Attempt,
    AttemptSummary,
    Check,
    Exercise,
    Fault,
    Line,
    ManualMark,
    Outcome,
    RubricItem,
    Status,
    Task,
    Verdict,
)
from grader.pages import charts, pictures, text
from grader.roadmap import Fold

NOT_RUN = "none"
"""The state of a check that no attempt has reached."""

STATES = {
    Status.PASSED: "passed",
    Status.FAILED: "failed",
    Status.ERROR: "raised an exception",
    Status.TIMEOUT: "stopped by the time limit",
    Status.KILLED: "ended Python",
    Status.WAITING: "waiting",
    Status.TODO: "still to be written",
    Status.SKIPPED: "skipped",
    Status.UNSURE: "too close to tell, counts as passed",
}

KINDS = {
    "shape": "Shapes",
    "value": "Values",
    "gradient": "Gradients",
    "speed": "Speed",
    "memory": "Memory",
    "structure": "Structure",
    "training": "Training",
    "theory": "Theory",
}

_CURVE = 12  # attempts in the curve
_HISTORY = 30  # rows of the history table


@dataclass(frozen=True, slots=True)
class Crumb:
    """A neighbouring page."""

    id: str
    name: str  # "Day 22"
    title: str

    @property
    def href(self) -> str:
        """The page beside this one."""
        return f"{self.id}.html"


@dataclass(frozen=True, slots=True)
class CodeLine:
    """A line of the learner's file; number 0 stands for lines left out between two others."""

    number: int
    text: str
    is_hot: bool = False


@dataclass(frozen=True, slots=True)
class Hint:
    """One hint, folded."""

    label: str
    text: str
    is_seen: bool


@dataclass(frozen=True, slots=True)
class CheckView:
    """One row of a task, and what unfolds below it."""

    number: str
    anchor: str
    title: str
    state: str  # the status' own word, or NOT_RUN
    state_text: str
    kind: str
    earned: str  # "0", "6", "–"
    points: int
    note: str
    sentence: str
    details: str
    figures: tuple[pictures.Figure, ...]
    smallest: str
    expected: str
    got: str
    code_label: str
    code_file: str
    code: tuple[CodeLine, ...]
    hints: tuple[Hint, ...]
    hints_elsewhere: str  # the number of the check that shows the task's hints
    output: str
    output_note: str
    traceback: str
    measured: str
    seconds: str

    @property
    def is_mistake(self) -> bool:
        """Whether there is something to mend."""
        return self.state in _MISTAKES

    @property
    def has_body(self) -> bool:
        """Whether anything unfolds."""
        return bool(
            self.sentence or self.details or self.figures or self.smallest or self.code
            or self.expected or self.got or self.hints or self.output or self.traceback
        )  # fmt: skip


_MISTAKES = frozenset(str(status) for status in Status if status.is_mistake)


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task and its checks."""

    number: int
    title: str
    name: str
    points: int
    difficulty: int
    is_open: bool
    checks: tuple[CheckView, ...]


@dataclass(frozen=True, slots=True)
class FixFirst:
    """The line above everything: what to mend next, and the command that checks only it."""

    number: str
    anchor: str
    sentence: str
    waiting: str
    command: str


@dataclass(frozen=True, slots=True)
class FaultView:
    """Why no check could run."""

    headline: str
    where: str
    code: tuple[CodeLine, ...]
    caret: int | None  # the column below the hot line
    text: str
    note: str
    is_ours: bool  # the suite is at fault, not the learner


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One attempt of the history table."""

    number: str  # "12", or "12-19" where `grade watch` made them in a row
    day: str
    clock: str
    iso: str
    href: str  # "" where the course no longer has the exercise
    exercise_number: str
    exercise_title: str
    passed: str
    points: str
    change: str
    change_look: str
    seconds: str
    verdict: str


@dataclass(frozen=True, slots=True)
class FilePair:
    """The learner's file beside the reference's; True marks lines that only one of them has."""

    name: str
    yours: tuple[tuple[str, bool], ...]
    reference: tuple[tuple[str, bool], ...]


@dataclass(frozen=True, slots=True)
class RubricRow:
    """An item of the rubric, and what a person gave for it."""

    text: str
    given: str  # "2 of 3", "pending"
    remark: str
    is_marked: bool


@dataclass(frozen=True, slots=True)
class ExercisePage:
    """Everything on the page of one exercise."""

    id: str
    name: str  # "Day 23"
    title: str
    title_zh: str
    place: str  # "Week 4"
    goal: str
    state: str  # not_started, failed, passed, error, broken
    headline: str
    attempt: int
    passed: int
    counted: int
    earned: int
    possible: int
    seconds: str
    is_partial: bool
    fix_first: FixFirst | None
    fault: FaultView | None
    tasks: tuple[TaskView, ...]
    statement: str
    files: tuple[str, ...]
    folder: str
    minutes: int
    environment: tuple[tuple[str, str], ...]
    curve: charts.Drawing | None
    history: tuple[HistoryRow, ...]
    earlier: int
    pairs: tuple[FilePair, ...]
    rubric: tuple[RubricRow, ...]
    previous: Crumb | None
    following: Crumb | None
    made: str

    @property
    def checks(self) -> tuple[CheckView, ...]:
        """All checks in order."""
        return tuple(check for task in self.tasks for check in task.checks)


def name_of(id: str) -> str:
    """``Day 23`` for ``day23``, ``Lecture 4`` for ``lecture04``."""
    word = id.rstrip("0123456789")
    digits = id[len(word) :]
    return f"{word.capitalize()} {int(digits)}" if digits else word.capitalize()


def exercise_page(
    exercise: Exercise,
    statement: str,
    attempts: Sequence[AttemptSummary],
    latest: Attempt | None,
    hints_seen: Mapping[str, int],
    zone: tzinfo | None,
    reference: Mapping[str, str] | None,
    neighbours: tuple[tuple[str, str] | None, tuple[str, str] | None],
    marks: Mapping[str, ManualMark],
) -> ExercisePage:
    """The page of one exercise; times are shown in ``zone``."""
    own = sorted((a for a in attempts if a.exercise == exercise.id), key=lambda a: a.started)
    folds = roadmap.folds(own)
    outcomes = {o.check.name: o for o in latest.outcomes} if latest else {}
    statuses = known_statuses(exercise, own, latest)
    tasks = _tasks(exercise, own, latest, outcomes, statuses, hints_seen)
    earning = [statuses.get(c.name) for c in exercise.checks]
    counted = [c for c, s in zip(exercise.checks, earning, strict=True) if _counts(c, s)]
    passed = [c for c in counted if (s := statuses.get(c.name)) and s.earns]
    state = _state(exercise, latest, statuses)
    before, after = neighbours
    return ExercisePage(
        id=exercise.id,
        name=name_of(exercise.id),
        title=exercise.title,
        title_zh=exercise.title_zh,
        place=f"Week {exercise.week}" if exercise.week else track_name(exercise.track),
        goal=exercise.goal,
        state=state,
        headline=_headline(state, exercise, latest),
        attempt=latest.number if latest else 0,
        passed=len(passed),
        counted=len(counted),
        earned=sum(c.points for c in passed),
        possible=sum(c.points for c in counted),
        seconds=text.seconds(latest.seconds) if latest else "",
        is_partial=bool(latest and latest.selected),
        fix_first=_fix_first(exercise, outcomes, statuses) if not _fault(latest) else None,
        fault=_fault(latest),
        tasks=tasks,
        statement=statement,
        files=exercise.files,
        folder=f"exercises/{exercise.id}",
        minutes=exercise.minutes,
        environment=_environment(latest) if latest else (),
        curve=_curve(own, zone),
        history=history_rows(folds[-_HISTORY:], {exercise.id: exercise}, zone, own),
        earlier=sum(len(fold.attempts) for fold in folds[:-_HISTORY]),
        pairs=_pairs(latest, reference) if state == "passed" and latest and reference else (),
        rubric=tuple(_rubric_row(item, marks.get(item.name)) for item in exercise.rubric),
        previous=Crumb(before[0], name_of(before[0]), before[1]) if before else None,
        following=Crumb(after[0], name_of(after[0]), after[1]) if after else None,
        made=_made(latest, zone),
    )


def _rubric_row(item: RubricItem, mark: ManualMark | None) -> RubricRow:
    given = f"{mark.points} of {item.points}" if mark else "pending"
    return RubricRow(item.text, given, mark.remark if mark else "", mark is not None)


def track_name(track: str) -> str:
    """The heading of a track."""
    names = {"lecture": "Lectures", "kaggle": "Kaggle", "hour": "One-hour tutorial"}
    return names.get(track, track.capitalize())


def known_statuses(
    exercise: Exercise, attempts: Sequence[AttemptSummary], latest: Attempt | None
) -> dict[str, Status]:
    """How each check ended when it last ran: an attempt at part of a suite keeps the rest."""
    everything = [*attempts, *([latest.summary] if latest else [])]
    known = roadmap.statuses_after(everything)
    return {check.name: known[check.name] for check in exercise.checks if check.name in known}


def _counts(check: Check, status: Status | None) -> bool:
    # Before the first run nobody knows whether a device is there: the bonus is left out.
    return not check.gpu if status is None else status is not Status.SKIPPED


def _state(exercise: Exercise, latest: Attempt | None, statuses: Mapping[str, Status]) -> str:
    if latest is None or latest.verdict is Verdict.NOT_STARTED:
        return "not_started"
    if latest.verdict in (Verdict.ERROR, Verdict.BROKEN):
        return str(latest.verdict)
    left = [c for c in exercise.checks if _counts(c, statuses.get(c.name))]
    solved = all((s := statuses.get(c.name)) is not None and s.earns for c in left)
    return "passed" if solved and left else "failed"


def _headline(state: str, exercise: Exercise, latest: Attempt | None) -> str:
    if state == "passed":
        return "All checks pass."
    if state == "not_started":
        n = len(exercise.tasks)
        return f"Not started: {text.count(n, 'task')}, about {exercise.minutes} minutes."
    return ""


def _tasks(
    exercise: Exercise,
    attempts: Sequence[AttemptSummary],
    latest: Attempt | None,
    outcomes: Mapping[str, Outcome],
    statuses: Mapping[str, Status],
    hints_seen: Mapping[str, int],
) -> tuple[TaskView, ...]:
    previous = _previous(attempts, latest)
    views = []
    for task in exercise.tasks:
        shown_at = ""  # the first check of the task that shows the task's hints
        checks = []
        for check in exercise.checks_of(task):
            outcome = outcomes.get(check.name)
            if outcome is None:
                checks.append(_unrun(check, statuses.get(check.name)))
                continue
            view = _check(exercise, outcome, latest, previous, hints_seen, shown_at)
            if view.hints and not shown_at and task.hints:
                shown_at = check.number
            checks.append(view)
        is_open = bool(checks) and all(view.state == Status.TODO for view in checks)
        views.append(
            TaskView(
                task.number, task.title, task.name, task.points, task.difficulty, is_open,
                tuple(checks),
            )
        )  # fmt: skip
    return tuple(views)


def _previous(attempts: Sequence[AttemptSummary], latest: Attempt | None) -> Mapping[str, Status]:
    if latest is None:
        return {}
    earlier = [a for a in attempts if a.started < latest.started]
    return earlier[-1].statuses if earlier else {}


def anchor(number: str) -> str:
    """The fragment of a check, ``c1-1``."""
    return "c" + "".join(c if c.isalnum() else "-" for c in number)


def _unrun(check: Check, status: Status | None) -> CheckView:
    """A check that the latest attempt did not touch: its title, and how it ended before."""
    note = "" if status is None else "not run in this attempt"
    if status is None and check.gpu:
        note = "needs a GPU; a bonus where there is one" if not check.points else "needs a GPU"
    earned = "–" if status in (None, Status.SKIPPED) else str(check.points if status.earns else 0)
    state = NOT_RUN if status is None else str(status)
    state_text = "not tried yet" if status is None else STATES[status]
    return CheckView(
        number=check.number, anchor=anchor(check.number), title=check.title.removesuffix("."),
        state=state, state_text=state_text, kind=str(check.kind), earned=earned,
        points=check.points, note=note, sentence="", details="", figures=(), smallest="",
        expected="", got="", code_label="", code_file="", code=(), hints=(), hints_elsewhere="",
        output="", output_note="", traceback="", measured="", seconds="",
    )  # fmt: skip


def _check(
    exercise: Exercise,
    outcome: Outcome,
    latest: Attempt | None,
    previous: Mapping[str, Status],
    hints_seen: Mapping[str, int],
    shown_at: str,
) -> CheckView:
    check, status = outcome.check, outcome.status
    finding = feedback.of(outcome, exercise, previous=previous.get(check.name))
    is_mistake = status.is_mistake
    hints = _hints(check, exercise, hints_seen, bool(shown_at)) if is_mistake else ()
    note = finding.note
    if status is Status.WAITING:
        note = _waits_for(outcome, exercise)
    elif status is Status.SKIPPED and note:
        note = f"{note}; not counted"
    elif status is Status.TODO:
        note = ""  # the task says it once
    code = _code(outcome.lines, latest.files if latest else {}) if is_mistake else ()
    output = text.cut(text.clean(outcome.output[:200_000]).strip("\n"), 8_000)
    has_task_hints = bool(exercise.task(check.task).hints)
    figures = tuple(pictures.figure(picture) for picture in outcome.pictures[:6])
    # The rows of axes are the same fact as the picture, laid out for a terminal.
    is_drawn = any(figure.kind == "axes" for figure in figures)
    said = finding.sentence.casefold()
    figures = tuple(
        replace(f, title="") if f.title.casefold() in said and not f.absent else f for f in figures
    )
    return CheckView(
        number=check.number,
        anchor=anchor(check.number),
        title=finding.title,
        state=str(status),
        state_text=STATES[status],
        kind=str(check.kind),
        earned="–" if status is Status.SKIPPED else str(outcome.points),
        points=check.points,
        note=note,
        sentence=text.cut(finding.sentence, 1500),
        details="" if is_drawn else text.cut("\n".join(finding.details), 4000),
        figures=figures,
        smallest=text.cut(finding.smallest, 2000),
        expected=text.value(outcome.expected)
        if is_mistake and outcome.expected is not None
        else "",
        got=text.value(outcome.got) if is_mistake and outcome.got is not None else "",
        code_label=finding.verb.capitalize(),
        code_file=finding.line.file if finding.line else "",
        code=code,
        hints=hints,
        hints_elsewhere=shown_at if is_mistake and has_task_hints else "",
        output=output if not _is_blank(output) else "",
        output_note=_output_note(outcome),
        traceback=text.cut(outcome.traceback.rstrip(), 8_000) if is_mistake else "",
        measured=outcome.measured,
        seconds=text.seconds(outcome.seconds) if outcome.seconds else "",
    )


def _is_blank(output: str) -> bool:
    return not output.strip()


def _output_note(outcome: Outcome) -> str:
    if outcome.output_truncated:
        return "The rest was not kept."
    if len(outcome.output) > 8_000:
        return f"{len(outcome.output):,} characters in all."
    return ""


def _waits_for(outcome: Outcome, exercise: Exercise) -> str:
    numbers = {check.name: check.number for check in exercise.checks}
    waited = [numbers.get(name, name) for name in outcome.blocked_by]
    return f"waits for {text.listed(waited)}" if waited else "not reached"


def _hints(
    check: Check, exercise: Exercise, seen: Mapping[str, int], own_only: bool
) -> tuple[Hint, ...]:
    found = feedback.hints_for(check, exercise)
    if own_only:
        found = tuple((name, hint) for name, hint in found if name == check.name)
    counts: dict[str, int] = {}
    hints = []
    for place, (name, hint) in enumerate(found, start=1):
        counts[name] = counts.get(name, 0) + 1
        label = f"Hint {place} of {len(found)}"
        hints.append(Hint(label, hint, counts[name] <= seen.get(name, 0)))
    return tuple(hints)


def _code(lines: Sequence[Line], files: Mapping[str, str]) -> tuple[CodeLine, ...]:
    """The learner's lines with one around each, from the file that was graded."""
    if not lines:
        return ()
    innermost = lines[-1]
    own = [line for line in lines if line.file == innermost.file]
    if innermost.text.startswith("class ") and len(own) > 1:
        return tuple(_outline(own))
    own = own[-4:]
    hot = {line.number: line.text for line in own}
    graded = _text_of(innermost.file, files)
    if graded is None:
        return tuple(CodeLine(n, hot[n].rstrip("\n"), True) for n in sorted(hot))
    around = {
        n
        for number in hot
        for n in range(number - 2, number + 2)
        if 1 <= n <= len(graded) and (n in hot or graded[n - 1].strip())
    }
    shown: list[CodeLine] = []
    kept = sorted(around | set(hot))
    body = [graded[n - 1] if n <= len(graded) else hot[n] for n in kept]
    indent = min((len(t) - len(t.lstrip()) for t in body if t.strip()), default=0)
    for n, line in zip(kept, body, strict=True):
        if shown and n > shown[-1].number + 1:
            shown.append(CodeLine(0, "⋮"))
        shown.append(CodeLine(n, text.shorten_line(line[indent:].rstrip()), n in hot))
    return tuple(shown)


def _outline(lines: Sequence[Line]) -> Iterator[CodeLine]:
    """A class and the heads of its methods, where nothing says which of them is wrong."""
    *methods, head = lines
    yield CodeLine(head.number, text.shorten_line(head.text.rstrip()), True)
    last = head.number
    for line in methods:
        if line.number > last + 1:
            yield CodeLine(0, "    ⋮")
        yield CodeLine(line.number, text.shorten_line(line.text.rstrip()))
        last = line.number


def _text_of(file: str, files: Mapping[str, str]) -> list[str] | None:
    name = file.replace("\\", "/").rpartition("/")[2]
    found = files.get(file, files.get(name))
    return found.split("\n") if found is not None else None


def _fix_first(
    exercise: Exercise, outcomes: Mapping[str, Outcome], statuses: Mapping[str, Status]
) -> FixFirst | None:
    check = feedback.fix_first(exercise.checks, statuses)
    if check is None or not (statuses.get(check.name) and statuses[check.name].is_mistake):
        return None
    outcome = outcomes.get(check.name)
    sentence = feedback.of(outcome, exercise).sentence if outcome else check.title
    sentence = sentence.split("\n")[0].rstrip(".")
    waiting = _waiting_on(check, exercise, statuses)
    return FixFirst(
        number=check.number,
        anchor=anchor(check.number),
        sentence=text.shorten(sentence, 240),
        waiting=waiting,
        command=f"grade {exercise.id} --check {check.number}",
    )


def _waiting_on(check: Check, exercise: Exercise, statuses: Mapping[str, Status]) -> str:
    """A sentence on the later checks that cannot run before this one passes."""
    blocked = {check.name}
    for _ in exercise.checks:
        more = {c.name for c in exercise.checks if blocked & set(c.after)} - blocked
        if not more:
            break
        blocked |= more
    blocked.discard(check.name)
    waiting = [c for c in exercise.checks if c.name in blocked]
    waiting = [c for c in waiting if statuses.get(c.name) is Status.WAITING]
    if not waiting:
        return ""
    if len(waiting) == 1:
        return "One later check waits for it."
    return f"{len(waiting)} later checks wait for it."


def _fault(latest: Attempt | None) -> FaultView | None:
    if latest is None or latest.fault is None:
        return None
    fault = latest.fault
    is_ours = latest.verdict is Verdict.BROKEN or fault.kind == "suite"
    return FaultView(
        headline=_fault_headline(fault, latest, is_ours),
        where=f"{fault.file}:{fault.line}" if fault.file and fault.line else fault.file,
        code=_fault_code(fault, latest),
        caret=fault.column - 1 if fault.column and 0 < fault.column < 200 else None,
        text=text.cut(fault.text, 1500),
        note=text.cut(fault.note, 400),
        is_ours=is_ours,
    )


def _fault_headline(fault: Fault, latest: Attempt, is_ours: bool) -> str:
    if is_ours:
        return "The checks themselves failed, not your code."
    name = fault.file.replace("\\", "/").rpartition("/")[2] or "The file"
    where = f" on line {fault.line}" if fault.line else ""
    if latest.verdict is Verdict.ERROR:
        return f"{name} does not run yet: {fault.kind}{where}"
    return f"{fault.kind}{where}"


def _fault_code(fault: Fault, latest: Attempt) -> tuple[CodeLine, ...]:
    source = fault.source
    if source:
        kept = [(line.number, text.shorten_line(line.text.rstrip("\n"))) for line in source[:20]]
        return tuple(CodeLine(number, shown, number == fault.line) for number, shown in kept)
    graded = _text_of(fault.file, latest.files)
    if graded is None or not fault.line or fault.line > len(graded):
        return ()
    span = range(max(1, fault.line - 2), min(len(graded), fault.line + 2) + 1)
    return tuple(CodeLine(n, text.shorten_line(graded[n - 1]), n == fault.line) for n in span)


def _environment(latest: Attempt) -> tuple[tuple[str, str], ...]:
    where = latest.environment
    device = "CPU" if where.device == "cpu" else where.device
    rows = [
        ("Python", where.python),
        ("torch", ", ".join(part for part in (where.torch, device) if part)),
        ("threads", str(where.threads)),
        ("seed", str(where.seed)),
        ("run by", where.backend),
        ("suite", f"{latest.exercise} @ {latest.suite_digest}" if latest.suite_digest else ""),
    ]
    return tuple((key, value) for key, value in rows if value)


def _curve(attempts: Sequence[AttemptSummary], zone: tzinfo | None) -> charts.Drawing | None:
    whole = [a for a in attempts if not a.selected][-_CURVE:]
    if not whole:
        return None
    times = [a.started.astimezone(zone) for a in whole]
    one_day = len({t.date() for t in times}) == 1
    below = [text.clock(t) if one_day else text.day(t) for t in times]
    return charts.attempt_curve([a.passed for a in whole], whole[-1].counted, below)


VERDICTS = {
    Verdict.PASSED: "all pass",
    Verdict.FAILED: "",
    Verdict.NOT_STARTED: "not started",
    Verdict.ERROR: "did not load",
    Verdict.BROKEN: "suite at fault",
}


def history_rows(
    shown: Sequence[Fold],
    exercises: Mapping[str, Exercise],
    zone: tzinfo | None,
    everything: Sequence[AttemptSummary],
) -> tuple[HistoryRow, ...]:
    """Rows of attempts, latest first; the change is against the one before of the same exercise.

    What `grade watch` made in a row is one row: its last attempt, against the one before its first.
    """
    before: dict[tuple[str, int, datetime], AttemptSummary] = {}
    last: dict[str, AttemptSummary] = {}
    for attempt in everything:
        if attempt.selected:
            continue
        if attempt.exercise in last:
            before[attempt.exercise, attempt.number, attempt.started] = last[attempt.exercise]
        last[attempt.exercise] = attempt
    rows = []
    for fold in reversed(shown):
        attempt, several = fold.last, len(fold.attempts)
        when = fold.attempts[0].started.astimezone(zone)
        earlier = before.get((fold.first.exercise, fold.first.number, fold.first.started))
        said = "part of the suite" if attempt.selected else VERDICTS[attempt.verdict]
        if several > 1:
            said = f"watch, {several} runs in {fold.minutes} min"
        gain = attempt.passed - (earlier.passed if earlier else 0)
        is_loaded = attempt.verdict in (Verdict.PASSED, Verdict.FAILED)
        known = not attempt.selected and is_loaded
        change = (f"+{gain}" if gain > 0 else f"−{-gain}" if gain < 0 else "±0") if known else ""
        exercise = exercises.get(attempt.exercise)
        rows.append(
            HistoryRow(
                number=fold.numbers.replace("-", "–"),
                day=text.day(when),
                clock=text.clock(when),
                iso=when.isoformat(timespec="minutes"),
                href=f"{attempt.exercise}.html" if exercise else "",
                exercise_number=short_number(attempt.exercise),
                exercise_title=exercise.title if exercise else attempt.exercise,
                passed=f"{attempt.passed} / {attempt.counted}" if is_loaded else "–",
                points=f"{attempt.earned} / {attempt.possible}" if is_loaded else "–",
                change=change,
                change_look="pass" if gain > 0 else "fail" if gain < 0 else "muted",
                seconds=text.seconds(sum(a.seconds for a in fold.attempts)),
                verdict=said,
            )
        )
    return tuple(rows)


def short_number(id: str) -> str:
    """``23`` for ``day23``; the id itself for another track."""
    return id.removeprefix("day") if id.startswith("day") else id


def _pairs(latest: Attempt, reference: Mapping[str, str]) -> tuple[FilePair, ...]:
    from difflib import SequenceMatcher

    pairs = []
    for name, text_of_reference in reference.items():
        yours = text.cut(latest.files.get(name, ""), 60_000).rstrip().split("\n")
        theirs = text.cut(text_of_reference, 60_000).rstrip().split("\n")
        same = SequenceMatcher(None, yours, theirs, autojunk=False).get_matching_blocks()
        kept_left = {block.a + k for block in same for k in range(block.size)}
        kept_right = {block.b + k for block in same for k in range(block.size)}
        pairs.append(
            FilePair(
                name,
                tuple((line, i not in kept_left) for i, line in enumerate(yours)),
                tuple((line, i not in kept_right) for i, line in enumerate(theirs)),
            )
        )
    return tuple(pairs)


def _made(latest: Attempt | None, zone: tzinfo | None) -> str:
    """The time of the record, not of the writing: the same records give the same bytes."""
    if latest is None:
        return ""
    when = latest.started.astimezone(zone)
    number = f"Attempt {latest.number}" if latest.number else "Not recorded"
    return f"{number}, {text.date(when)}, {text.clock(when)}."


def difficulty_word(task: Task) -> str:
    """What the dots of a task mean."""
    return {1: "warm-up", 2: "needs thought", 3: "boss"}.get(task.difficulty, "")
