"""The learner's commands. Each reads like the list of what it does.

What only grading needs is imported there, so that `grade status` answers at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grader import catalogue, feedback, files, records, regions, roadmap, screens, selection
from grader.course import Course
from grader.errors import GraderError, UsageError
from grader.history import History, HistoryError
from grader.model import (
    DEFAULT_SEED,
    Attempt,
    AttemptSummary,
    Check,
    Environment,
    Exercise,
    Fault,
    ManualMark,
    Outcome,
    Status,
    Verdict,
)
from grader.terminal import Terminal, wrap

if TYPE_CHECKING:
    from grader import batch, console, grading, runner, source

OK, NOT_PASSED = 0, 1


@dataclass(frozen=True, slots=True)
class Desk:
    """What every command works with."""

    course: Course
    out: Terminal
    err: Terminal
    now: datetime  # aware, in the learner's time zone
    can_ask: bool = False  # a person sits there to answer

    def warn(self, text: str) -> None:
        """Say what went wrong beside the matter itself."""
        self.err.write(f"grade: {text}")

    @property
    def database(self) -> Path:
        """Where the history is."""
        return self.course.reports / "history.db"


@dataclass(frozen=True, slots=True)
class Choice:
    """How `grade day23` is to go about it."""

    tasks: tuple[str, ...] = ()  # numbers or names
    checks: tuple[str, ...] = ()  # numbers
    only_failed: bool = False
    failed_first: bool = False  # the tasks with what failed last time before the others
    seed: int = DEFAULT_SEED
    device: str = "auto"
    has_speed: bool = True
    seconds: float | None = None
    stops_early: bool = False  # after the first exercise that doesn't pass
    is_recorded: bool = True
    watched: str = ""  # by `grade watch`: "save", "speed", or "all" for the long report
    has_pages: bool = True
    is_verbose: bool = False
    is_quiet: bool = False
    shows_text: bool = True
    backend: runner.Backend | None = None  # None: a cold one
    json_to: Path | None = None  # None: to the terminal's stream, when `is_json`
    is_json: bool = False


@dataclass(slots=True)
class _Running:
    """What an attempt has brought so far; enough to keep it when it is interrupted."""

    report: console.Report | None
    environment: Environment = field(default_factory=Environment)
    outcomes: list[Outcome] = field(default_factory=list)

    def start(self, environment: Environment) -> None:
        self.environment = environment
        if self.report is not None:
            self.report.start(environment)

    def outcome(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        if self.report is not None:
            self.report.outcome(outcome)


def grade(desk: Desk, words: Sequence[str], choice: Choice) -> int:
    """Grade exercises: show how each check ends, keep the attempt, write its page."""
    from grader import console

    ids = selection.exercises(desk.course, words)
    named = selection.paths(desk.course, words)
    graded: list[tuple[Exercise, Attempt]] = []
    documents = []
    with _history_or_warning(desk, is_wanted=choice.is_recorded) as kept:
        for place, id in enumerate(ids):
            if place and choice.shows_text and not choice.is_quiet:
                desk.out.write()
            exercise = catalogue.exercise(desk.course, id)
            attempt, document = _grade_one(desk, kept, exercise, choice, named.get(id))
            graded.append((exercise, attempt))
            documents.append(document)
            if choice.stops_early and not _has_passed(attempt):
                break
        if choice.shows_text and len(ids) > 1:
            console.several(desk.out, graded)
        if choice.is_json:
            _write_json(desk, documents[0] if len(ids) == 1 else records.results(documents), choice)
        if choice.has_pages and choice.is_recorded and kept is not None:
            _write_pages(desk, kept, [exercise for exercise, _ in graded])
    return OK if all(_has_passed(attempt) for _, attempt in graded) else NOT_PASSED


def grade_papers(desk: Desk, papers: Sequence[batch.Paper], choice: Choice) -> int:
    """Grade files that others handed in: a line each, nothing recorded.

    Raises:
        UsageError: an exercise of theirs lacks a chosen task or check, or the last time matters.
    """
    from grader import batch, console

    if choice.only_failed or choice.failed_first:
        option = "--failed" if choice.only_failed else "--failed-first"
        raise UsageError(f"{option} goes by the last attempt, and of others' files none is kept")
    exercises = {paper.exercise.id: paper.exercise for paper in papers}
    options = {id: _options(exercise, choice, {}) for id, exercise in exercises.items()}
    documents, all_pass = [], True
    for paper, attempt in batch.grade(papers, options):
        all_pass = all_pass and attempt.is_solved
        if choice.shows_text:
            console.paper(desk.out, str(paper.path), attempt)
        if choice.is_json:
            documents.append(records.result(paper.exercise, attempt))
    if choice.is_json:
        _write_json(desk, records.results(documents), choice)
    return OK if all_pass else NOT_PASSED


def grade_file(desk: Desk, exercise: Exercise, choice: Choice, path: Path | None) -> Attempt:
    """Grade one script or notebook as an answer; what is not recorded leaves nothing behind.

    Args:
        desk: what is said goes to its terminals.
        exercise: which.
        choice: as for the command.
        path: None: what the learner wrote last in the exercise's folder.
    """
    if not choice.is_recorded:
        return _grade_one(desk, None, exercise, choice, path)[0]
    with _history_or_warning(desk, is_wanted=True) as kept:
        attempt, _ = _grade_one(desk, kept, exercise, choice, path)
        if choice.has_pages and kept is not None:
            _write_pages(desk, kept, [exercise])
    return attempt


def notebook(desk: Desk, word: str, *, is_back: bool, is_sure: bool) -> int:
    """Write the notebook from the script, or the script from the notebook; what was there is kept.

    Raises:
        UsageError: there is nothing to write it from, or nobody wants it replaced.
    """
    from grader import notebook as notebooks
    from grader import source

    exercise = _exercise(desk, word)
    script, path = exercise.submission, notebooks.path_of(exercise)
    names = [desk.course.display(script), desk.course.display(path)]
    old = notebooks.load(path, names[1]) if is_back or path.exists() else None
    if isinstance(old, Fault):
        raise UsageError(f"{old.text}; nothing was changed")
    code = notebooks.module_of(old, names[1]).text if old is not None else None
    text = source.read_text(script, names[0])
    if is_back:
        assert code is not None
        made, target = code, script
    else:
        if isinstance(text, Fault):
            raise UsageError(f"{text.text}; grade reset {exercise.id} puts the stub there")
        new = notebooks.of(exercise, text, _statement(exercise))
        made, target = notebooks.dumps(notebooks.updated(new, old) if old else new), path
    origin = path if is_back else script
    if target.exists() and code != text and target.stat().st_mtime_ns > origin.stat().st_mtime_ns:
        question = f"{target.name} is newer than {origin.name}. Replace it? It is kept."
        option = " --to-script" if is_back else ""
        _make_sure(desk, question, f"grade notebook {exercise.id}{option} -y", is_sure=is_sure)
    if target.exists() and code != text:
        _keep(desk, exercise, {target.name: files.read(target)}, "notebook")
    files.replace(target, made)
    desk.out.write(f"Written: {desk.course.display(target)}, from {origin.name}")
    return OK


def overview(desk: Desk) -> int:
    """Where the learner stands, and what to do next."""
    screens.overview(desk.out, desk.course.title, _roadmap(desk))
    return OK


def status(desk: Desk, week: int | None, track: str | None) -> int:
    """The whole roadmap."""
    road = _roadmap(desk)
    if week is not None and week not in road.weeks:
        raise UsageError(f"there is no week {week}; the course has weeks {_listed(road.weeks)}")
    tracks = dict.fromkeys(p.exercise.track for p in road.progress)
    if track is not None and track not in tracks:
        raise UsageError(f"there is no track {track}; the course has {_listed(tracks)}")
    screens.status(desk.out, desk.course.title, road, week=week, track=track)
    return OK


def next_step(desk: Desk) -> int:
    """What to do now."""
    screens.next_step(desk.out, _roadmap(desk).next)
    return OK


def next_id(desk: Desk) -> str:
    """The id of the exercise to go on with.

    Raises:
        UsageError: everything is done.
    """
    return _exercise(desk, None).id


def hint(
    desk: Desk, word: str | None, number: str | None, *, shows_all: bool, is_reset: bool
) -> int:
    """The next unseen hint for the check to mend first, or for the one that is named."""
    exercise = _exercise(desk, word)
    with History.open(desk.database) as kept:
        if is_reset:
            kept.reset_hints(exercise.id)
            desk.out.write(f"The hints of {exercise.id} count as unseen again.")
            return OK
        statuses = roadmap.statuses_after(kept.attempts(exercise.id))
        check = _check_for_hint(exercise, statuses, number)
        if check is None:
            desk.out.write(f"Every check of {exercise.id} passes; there is nothing to hint at.")
            return OK
        hints = feedback.hints_for(check, exercise)
        seen = kept.hints_seen(exercise.id)
        place = feedback.unseen(hints, seen)
        named = f" --check {check.number}" if number else ""
        command = f"grade hint {exercise.id}{named}"
        if not hints:
            desk.out.write(
                f"{check.number} has no hints; {_statement_of(desk, exercise)} says what is asked."
            )
            return OK
        if shows_all:
            texts = [text for _, text in hints]
            screens.hint(desk.out, check, texts, 1, len(hints), command)
            for name in dict.fromkeys(name for name, _ in hints):
                _see(desk, kept, exercise, name, sum(name == other for other, _ in hints))
            return OK
        if place is None:
            count = len(hints)
            all_of_them = "the one hint" if count == 1 else f"all {count} hints"
            desk.out.write(
                f"You have seen {all_of_them} for {check.number}; {command} --all repeats them."
            )
            return OK
        name, text = hints[place]
        screens.hint(desk.out, check, [text], place + 1, len(hints), command)
        _see(desk, kept, exercise, name, sum(name == other for other, _ in hints[: place + 1]))
    return OK


def reset(desk: Desk, word: str, *, is_sure: bool) -> int:
    """Put the stub back; the old answer is kept first, or nothing happens."""
    from grader import stubs

    exercise = _exercise(desk, word)
    stub = stubs.of(exercise)
    current = _current_files(exercise)
    if current == stub:
        desk.out.write(f"{exercise.id} is at its stub already.")
        return OK
    if current:
        question = f"Replace your answer to {exercise.id} by the stub? It is kept."
        _make_sure(desk, question, f"grade reset {exercise.id} -y", is_sure=is_sure)
    _replace(desk, exercise, stub, "reset")
    desk.out.write(f"{exercise.id} is at its stub: {_path_of(desk, exercise)}")
    return OK


def history(desk: Desk, word: str | None, *, shows_all: bool = False) -> int:
    """All attempts, or those of one exercise with what else was kept.

    Args:
        desk: where they are, and where they are shown.
        word: the exercise; the latest attempts at any of them if None.
        shows_all: each attempt on a line of its own, those of `grade watch` too.
    """

    def folded(found: Sequence[AttemptSummary]) -> list[roadmap.Fold]:
        return [roadmap.Fold((a,)) for a in found] if shows_all else roadmap.folds(found)

    with History.open(desk.database) as kept:
        if word is None:
            found = kept.attempts()
            if not found:
                desk.out.write("No attempts yet. grade next says where to begin.")
            screens.attempts(desk.out, folded(found)[-40:], [], desk.now, with_names=True)
            return OK
        exercise = _exercise(desk, word)
        found, saves = kept.attempts(exercise.id), kept.saves(exercise.id)
        # `update` keeps the old stub with the answer; that is nobody's file.
        saves = [
            replace(save, names=tuple(n for n in save.names if not n.startswith("../")))
            for save in saves
        ]
        if not found and not saves:
            desk.out.write(f"No attempts at {exercise.id} yet.")
        screens.attempts(desk.out, folded(found), saves, desk.now, with_names=False)
    return OK


def compare(desk: Desk, word: str, versions: Sequence[str]) -> int:
    """What changed between two versions: attempts ("4"), saves ("s2") or the file ("now")."""
    exercise = _exercise(desk, word)
    if len(versions) > 2:
        raise UsageError("--diff takes one version or two")
    one, two = [*versions, "now"][:2]
    with History.open(desk.database) as kept:
        before, after = _version(kept, exercise, one), _version(kept, exercise, two)
    lines = list(_differences(before, after, f"{exercise.id} {one}", f"{exercise.id} {two}"))
    if not lines:
        desk.out.write(f"{exercise.id}: {one} and {two} are the same.")
    screens.difference(desk.out, lines)
    return OK


def restore(desk: Desk, word: str, version: str, *, is_sure: bool) -> int:
    """Bring an old answer back; the present one is kept first, or nothing happens."""
    exercise = _exercise(desk, word)
    with History.open(desk.database) as kept:
        texts = _version(kept, exercise, version)
    current = _current_files(exercise)
    if current and current != texts:
        question = f"Replace your answer to {exercise.id} by version {version}? It is kept."
        command = f"grade history {exercise.id} --restore {version} -y"
        _make_sure(desk, question, command, is_sure=is_sure)
    _replace(desk, exercise, texts, "restore")
    desk.out.write(f"{_path_of(desk, exercise)} is back at version {version}.")
    return OK


def solution(desk: Desk, word: str, *, is_diff: bool) -> int:
    """The reference, once all checks have passed."""
    exercise = _exercise(desk, word)
    reference = reference_of(exercise)
    with History.open(desk.database) as kept:
        attempts = kept.attempts(exercise.id)
    if not any(attempt.is_solved for attempt in attempts):
        desk.out.write(
            f"The solution of {exercise.id} opens when all its checks pass."
            f" grade hint {exercise.id} helps on the way."
        )
        return NOT_PASSED
    if is_diff:
        current = _current_files(exercise)
        lines = _differences(current, reference, "yours", "reference")
        screens.difference(desk.out, list(lines))
        return OK
    for name, text in reference.items():
        if len(reference) > 1:
            desk.out.write(desk.out.styled(f"# {name}", "bold"))
        desk.out.write(text, end="" if text.endswith("\n") else "\n")
    return OK


def report(desk: Desk, to: Path | None, *, is_opened: bool) -> int:
    """Write all pages."""
    folder = to or desk.course.reports
    with History.open(desk.database) as kept:
        _write_pages(desk, kept, catalogue.exercises(desk.course), folder)
    index = folder / "index.html"
    desk.out.write(f"Written: {desk.course.display(index)}")
    if is_opened:
        browse(index.resolve().as_uri())
    return OK


def browse(address: str) -> None:
    """Open a page in the learner's browser."""
    import webbrowser

    webbrowser.open(address)


def certificate(desk: Desk, name: str, *, is_opened: bool) -> int:
    """Write the page to keep once every day of the roadmap has passed.

    Raises:
        UsageError: a day has not passed yet.
    """
    from grader import pages

    exercises = catalogue.exercises(desk.course)
    own = [exercise for exercise in exercises if exercise.track == "roadmap"]
    with History.open(desk.database) as kept:
        attempts = kept.attempts()
    progress = roadmap.of(own, attempts, desk.now).progress
    left = [p.exercise.id for p in progress if not p.is_done]
    left += [id for id in desk.course.planned if id not in {e.id for e in own}]
    if left or not own:
        done = len(own) - sum(not p.is_done for p in progress)
        days = f"{', '.join(left[:5])}{' …' if len(left) > 5 else ''}"
        raise UsageError(
            f"{done} of {done + len(left)} days have passed; the certificate comes with the last "
            f"one (still to do: {days})"
        )
    path = desk.course.reports / "certificate.html"
    pages.write_certificate(desk.course.title, name, own, attempts, desk.now, path)
    desk.out.write(f"Written: {desk.course.display(path)}")
    if is_opened:
        browse(path.resolve().as_uri())
    return OK


def mark(desk: Desk, word: str, given: Sequence[str], remark: str) -> int:
    """Keep what a person gives for a free text, beside the score.

    Args:
        desk: what is said goes to its terminals.
        word: the exercise.
        given: `ITEM=POINTS`; what there is is shown if empty.
        remark: for all of them.

    Raises:
        UsageError: the exercise has no rubric, or no such item, or fewer points.
    """
    exercise = _exercise(desk, word)
    items = {item.name: item for item in exercise.rubric}
    if not items:
        raise UsageError(f"{exercise.id} has no rubric; all of it is graded by its checks")
    marks = []
    for entry in given:
        name, sign, points = entry.partition("=")
        if name not in items or not sign or not points.isdecimal():
            raise UsageError(f"{entry} is no ITEM=POINTS; the items are {', '.join(items)}")
        if int(points) > items[name].points:
            raise UsageError(f"{name} has {items[name].points} points at most, not {points}")
        marks.append(ManualMark(name, int(points), remark, desk.now))
    with History.open(desk.database) as kept:
        for one in marks:
            kept.mark(exercise.id, one)
        found = kept.marks(exercise.id)
        if marks:
            _write_pages(desk, kept, [exercise])
    for item in items.values():
        got = found.get(item.name)
        points = f"{got.points} of {item.points}" if got else f"pending, of {item.points}"
        said = [item.text, got.remark] if got and got.remark else [item.text]
        lines = [line for part in said for line in wrap(part, desk.out.width - 30)]
        desk.out.write(f"  {item.name:12}{points:16}{lines[0]}")
        for line in lines[1:]:
            desk.out.write(f"{'':30}{line}")
    return OK


def serve(desk: Desk, port: int, *, is_opened: bool) -> int:
    """Write all pages and show them in a browser, each fresh after every attempt, until Ctrl-C.

    Raises:
        UsageError: the port is taken.
    """
    from grader import serve as serving

    with History.open(desk.database) as kept:
        _write_pages(desk, kept, catalogue.exercises(desk.course))

    def ready(address: str) -> None:
        desk.out.write(f"The dashboard: {address}index.html")
        desk.out.write("Every grade refreshes it. Ctrl-C ends this.")
        if is_opened:
            browse(f"{address}index.html")

    try:
        pages = serving.Pages(desk.course.reports, port)
    except (OSError, OverflowError) as error:
        text = error.strerror if isinstance(error, OSError) else "no such port"
        raise UsageError(
            f"port {port} can't be used ({text}); leave out --port for one that is free"
        ) from None
    serving.run(pages, ready)
    return OK


def has_reference(exercise: Exercise) -> bool:
    """Whether this copy of the course has the solution; a release has none."""
    return (exercise.source / exercise.files[0]).is_file()


def reference_of(exercise: Exercise) -> dict[str, str]:
    """The texts of the reference, without the marks of its regions.

    Raises:
        UsageError: this copy of the course has no solutions.
    """
    if not has_reference(exercise):
        raise UsageError(f"this copy of the course comes without the solution of {exercise.id}")
    return {name: regions.unmarked(files.read(exercise.source / name)) for name in exercise.files}


def _grade_one(
    desk: Desk, kept: History | None, exercise: Exercise, choice: Choice, path: Path | None = None
) -> tuple[Attempt, dict[str, Any]]:
    """Grade one exercise; the attempt, and the same as JSON."""
    from grader import console, grading, runner

    before = kept.attempts(exercise.id) if kept is not None else []
    previous = roadmap.statuses_after(before)
    options = replace(_options(exercise, choice, previous), modules=_provided(desk, kept, exercise))
    submission = _submission(desk, exercise, path)
    page = desk.course.display(desk.course.reports / f"{exercise.id}.html")
    if not choice.has_pages or not choice.is_recorded or kept is None:
        page = ""
    report = None
    if choice.shows_text:
        is_glance = choice.watched in ("save", "speed") and not desk.out.is_plain
        report = (console.Glance if is_glance else console.Report)(
            desk.out, exercise, previous, choice.is_verbose, choice.is_quiet, page
        )
        if isinstance(report, console.Glance):
            report.has_only_news = choice.watched == "speed"
        report.begin()
    running = _Running(report)
    try:
        attempt = grading.grade(
            exercise,
            submission,
            options,
            running.start,
            running.outcome,
            backend=choice.backend or runner.cold,
        )
        attempt = replace(attempt, watched=bool(choice.watched))
    except KeyboardInterrupt:
        desk.out.write()
        _keep_interrupted(
            desk, kept if choice.is_recorded else None, exercise, running, submission, choice
        )
        raise
    except GraderError:
        if report is not None and not choice.is_quiet:
            desk.out.write()
        raise
    if choice.is_recorded and kept is not None:
        attempt = _record(desk, kept, attempt)
    if report is not None:
        report.finish(attempt, _closing(desk, kept, exercise, attempt, submission, before, page))
    seen = kept.hints_seen(exercise.id) if kept is not None else {}
    return attempt, records.result(exercise, attempt, previous=previous, hints_seen=seen)


def _submission(desk: Desk, exercise: Exercise, path: Path | None) -> source.Submission:
    """The file that is named, else the newer one of script and notebook."""
    from grader import notebook as notebooks
    from grader import source

    root = desk.course.root
    script, other = exercise.submission, notebooks.path_of(exercise)
    if path is not None or not other.exists():
        if path is not None and path.suffix == ".ipynb":
            return notebooks.read(exercise, path, root)
        return source.read(exercise, path, root)
    written = source.read(exercise, root=root)
    shown = notebooks.read(exercise, other, root)
    is_newer = notebooks.is_newer(exercise)
    if written.files.get(script.name) != shown.files.get(script.name) and script.exists():
        newer, older = (other, script) if is_newer else (script, other)
        desk.warn(f"{newer.name} is newer than {older.name}, so it is what is graded")
    return shown if is_newer else written


def _provided(desk: Desk, kept: History | None, exercise: Exercise) -> dict[str, str]:
    """The learner's own modules that later exercises import, once their exercise is solved."""
    found = {}
    for module, id in desk.course.provides.items():
        latest = kept.latest(id) if kept is not None and id != exercise.id else None
        if latest is not None and latest.is_solved and f"{module}.py" in latest.files:
            found[module] = latest.files[f"{module}.py"]
    return found


def _failed_tasks(exercise: Exercise, previous: Mapping[str, Status]) -> tuple[str, ...]:
    names = {name for name, status in previous.items() if status.is_mistake}
    return tuple(dict.fromkeys(c.task for c in exercise.checks if c.name in names))


def _options(exercise: Exercise, choice: Choice, previous: Mapping[str, Status]) -> grading.Options:
    from grader import grading

    checks = [selection.check(exercise, word).name for word in choice.checks]
    if choice.only_failed:
        checks += [name for name, status in previous.items() if status.is_mistake]
        if not checks:
            raise UsageError(
                f"no check of {exercise.id} failed last time; grade {exercise.id} runs all"
            )
    return grading.Options(
        tasks=tuple(selection.task(exercise, word).name for word in choice.tasks),
        checks=tuple(dict.fromkeys(checks)),
        first=_failed_tasks(exercise, previous) if choice.failed_first else (),
        seed=choice.seed,
        device=choice.device,
        speed=choice.has_speed,
        cpu_seconds=choice.seconds,
    )


def _closing(
    desk: Desk,
    kept: History | None,
    exercise: Exercise,
    attempt: Attempt,
    submission: source.Submission,
    before: Sequence[AttemptSummary],
    page: str,
) -> console.Closing:
    """What the last lines of a report say besides the attempt."""
    from grader.console import Closing

    has_page = attempt.counts or attempt.verdict is Verdict.NOT_STARTED
    closing = Closing(page=page if has_page else "", todos=submission.todos)
    if kept is None:
        return closing
    if attempt.is_solved and not attempt.selected:
        road = roadmap.of(catalogue.exercises(desk.course), kept.attempts(), desk.now)
        return replace(
            closing,
            is_first_pass=not any(a.is_solved for a in before),
            days_done=road.days_done,
            days=road.days,
            streak=road.streak,
            next_exercise=road.next.exercise if road.next else None,
            has_solution=has_reference(exercise),
        )
    statuses = {outcome.check.name: outcome.status for outcome in attempt.outcomes}
    chosen = [check for check in exercise.checks if check.name in statuses]
    first = feedback.fix_first(chosen, statuses)
    if first is None:
        return closing
    hints = feedback.hints_for(first, exercise)
    seen = kept.hints_seen(exercise.id)
    counts = {name: sum(name == other for other, _ in hints) for name, _ in hints}
    left = sum(max(0, count - seen.get(name, 0)) for name, count in counts.items())
    return replace(closing, hints_left=left)


def _record(desk: Desk, kept: History, attempt: Attempt) -> Attempt:
    try:
        return kept.record(attempt)
    except HistoryError as error:
        desk.warn(f"{error} (the answer was graded all the same)")
        return attempt


def _keep_interrupted(
    desk: Desk,
    kept: History | None,
    exercise: Exercise,
    running: _Running,
    submission: source.Submission,
    choice: Choice,
) -> None:
    """Keep the checks that had ended, as an attempt at part of the suite."""
    from grader import grading

    ended = len(running.outcomes)
    said = f"Interrupted: {ended} of {len(exercise.checks)} checks had ended."
    if kept is not None and ended:
        attempt = Attempt(
            exercise=exercise.id,
            number=0,
            started=desk.now,
            seconds=sum(outcome.seconds for outcome in running.outcomes),
            verdict=Verdict.FAILED,
            outcomes=tuple(running.outcomes),
            environment=running.environment,
            suite_digest=grading.suite_digest(exercise),
            files=dict(submission.files),
            selected=True,
            open_tasks=submission.open_tasks,
            watched=bool(choice.watched),
        )
        attempt = _record(desk, kept, attempt)
        said += f" Recorded as attempt {attempt.number}." if attempt.number else ""
    desk.warn(said)


def _has_passed(attempt: Attempt) -> bool:
    return attempt.verdict is Verdict.PASSED


def _write_json(desk: Desk, document: Mapping[str, Any], choice: Choice) -> None:
    import json

    text = json.dumps(document, ensure_ascii=True, indent=2, allow_nan=False)
    if choice.json_to is not None:
        files.replace(choice.json_to, text + "\n")
    else:
        desk.out.write(text)


@contextmanager
def _history_or_warning(desk: Desk, *, is_wanted: bool) -> Iterator[History | None]:
    """The history; None where it can't be opened, since an answer is graded all the same."""
    try:
        kept = History.open(desk.database)
    except HistoryError as error:
        if is_wanted:
            desk.warn(f"{error}. This attempt is not recorded")
        yield None
        return
    with kept:
        yield kept


def _write_pages(
    desk: Desk, kept: History, chosen: Sequence[Exercise], folder: Path | None = None
) -> None:
    """The pages of the chosen exercises, and the dashboard."""
    from grader import pages

    to = folder or desk.course.reports
    exercises = catalogue.exercises(desk.course)
    attempts, latest = kept.attempts(), kept.latest_all()
    places = {exercise.id: place for place, exercise in enumerate(exercises)}
    titles = [(exercise.id, exercise.title) for exercise in exercises]
    try:
        # The dashboard links to every page, so those that are missing are written too.
        missing = [e for e in exercises if not (to / f"{e.id}.html").exists()]
        for exercise in {e.id: e for e in (*chosen, *missing)}.values():
            place = places[exercise.id]
            is_solved = any(a.exercise == exercise.id and a.is_solved for a in attempts)
            shows_reference = is_solved and has_reference(exercise)
            pages.write_exercise(
                exercise,
                _statement(exercise),
                attempts,
                latest.get(exercise.id),
                kept.hints_seen(exercise.id),
                desk.now,
                to / f"{exercise.id}.html",
                reference=reference_of(exercise) if shows_reference else None,
                neighbours=(
                    titles[place - 1] if place else None,
                    titles[place + 1] if place + 1 < len(titles) else None,
                ),
                course_title=desk.course.title,
                marks=kept.marks(exercise.id) if exercise.rubric else None,
            )
        pages.write_index(
            desk.course.title,
            exercises,
            latest,
            attempts,
            desk.now,
            to / "index.html",
            desk.course.weeks,
            desk.course.planned,
        )
    except OSError as error:
        desk.warn(f"{to}: the pages can't be written ({error.strerror or error})")


def _statement(exercise: Exercise) -> str:
    path = exercise.source / "README.md"
    return files.read(path) if path.is_file() else ""


def _statement_of(desk: Desk, exercise: Exercise) -> str:
    return desk.course.display(exercise.folder / "README.md")


def _path_of(desk: Desk, exercise: Exercise) -> str:
    return desk.course.display(exercise.submission)


def _roadmap(desk: Desk) -> roadmap.Roadmap:
    with History.open(desk.database) as kept:
        return roadmap.of(catalogue.exercises(desk.course), kept.attempts(), desk.now)


def _exercise(desk: Desk, word: str | None) -> Exercise:
    """The one exercise that a word names; the next step's where there is none."""
    if word is None or word == "next":
        step = _roadmap(desk).next
        if step is None:
            raise UsageError("everything is done; name an exercise")
        return step.exercise
    found = selection.exercises(desk.course, [word])
    if len(found) > 1:
        raise UsageError(f"{word} names {len(found)} exercises; this command takes one")
    return catalogue.exercise(desk.course, found[0])


def _check_for_hint(
    exercise: Exercise, statuses: Mapping[str, Status], number: str | None
) -> Check | None:
    if number is not None:
        return selection.check(exercise, number)
    return feedback.fix_first(exercise.checks, statuses)


def _see(desk: Desk, kept: History, exercise: Exercise, name: str, count: int) -> None:
    try:
        kept.see_hint(exercise.id, name, count)
    except HistoryError as error:
        desk.warn(str(error))


def _current_files(exercise: Exercise) -> dict[str, str]:
    """The learner's files as they are; those that don't exist are left out."""
    return {
        name: files.read(exercise.folder / name)
        for name in exercise.files
        if (exercise.folder / name).exists()
    }


def _replace(desk: Desk, exercise: Exercise, texts: Mapping[str, str], reason: str) -> None:
    """Keep the learner's files, then put `texts` in their place."""
    current = _current_files(exercise)
    if current:
        _keep(desk, exercise, current, reason)
    for name, text in texts.items():
        files.replace(exercise.folder / name, text)


def _keep(desk: Desk, exercise: Exercise, texts: Mapping[str, str], reason: str) -> None:
    """Keep texts in the history, or raise, so that nothing is replaced that isn't kept."""
    with History.open(desk.database) as kept:
        kept.save(exercise.id, texts, reason, desk.now)
        number = len(kept.saves(exercise.id))
    desk.out.write(f"The old answer is kept: grade history {exercise.id} --restore s{number}")


def _make_sure(desk: Desk, question: str, command: str, *, is_sure: bool) -> None:
    if is_sure:
        return
    if not desk.can_ask:
        raise UsageError(f"nobody is there to ask; {command} goes ahead")
    desk.out.write(f"{question} [y/N] ", end="")
    if input().strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was changed")


def _version(kept: History, exercise: Exercise, word: str) -> dict[str, str]:
    """The texts of an attempt ("4"), a save ("s2") or the files as they are ("now")."""
    if word == "now":
        return _current_files(exercise)
    if word.isdigit():
        return kept.files(exercise.id, int(word))
    if word[:1] == "s" and word[1:].isdigit():
        return kept.saved_files(exercise.id, int(word[1:]))
    raise UsageError(f"{word} is no version; 4 is an attempt, s2 a save, now the file")


def _differences(
    before: Mapping[str, str], after: Mapping[str, str], name: str, other: str
) -> Iterator[str]:
    import difflib

    for file in dict.fromkeys([*before, *after]):
        is_in_both = file in before and file in after
        if file.startswith("../") or (file.endswith(".ipynb") and not is_in_both):
            continue  # the stub kept with an answer; the other form of the same answer
        yield from difflib.unified_diff(
            before.get(file, "").splitlines(),
            after.get(file, "").splitlines(),
            f"{file} ({name})",
            f"{file} ({other})",
            lineterm="",
        )


def _listed(words: Mapping[Any, object]) -> str:
    return ", ".join(str(word) for word in words)
