"""Grading from inside a notebook or a console: `import grader; grader.check("day23")`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from html import escape
from pathlib import Path

from grader import course as courses
from grader import feedback, learner, selection
from grader.course import Course
from grader.errors import UsageError
from grader.feedback import Finding
from grader.learner import Choice, Desk
from grader.model import Attempt, Exercise, Outcome, Status, Task
from grader.terminal import GLYPHS, Terminal

_GREEN, _RED = "#2da44e", "#cf222e"


@dataclass(frozen=True)
class Result:
    """What a check in a notebook found: the attempt, and how it is shown."""

    exercise: Exercise
    attempt: Attempt
    text: str  # what the command would have printed
    file: str  # what was graded
    saved: datetime | None  # when it was saved
    task: str | None = None  # the name of the only task that counts

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """The outcomes that count."""
        every = self.attempt.outcomes
        return tuple(o for o in every if self.task in (None, o.check.task))

    @property
    def points(self) -> int:
        """What was earned."""
        return sum(outcome.points for outcome in self.outcomes)

    @property
    def passed(self) -> bool:
        """Whether every check that counts passed."""
        counted = [o for o in self.outcomes if o.status is not Status.SKIPPED]
        return bool(counted) and all(o.status.earns for o in counted)

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        """The result as a notebook shows it."""
        return _html(self)


def check(id: str, *, task: str | int | None = None, file: str | Path | None = None) -> Result:
    """Grade an exercise; `grader.check` says how.

    Raises:
        UsageError: there is no such exercise, task or file.
        CourseError: the suite is at fault.
        EnvironmentFault: the machine lacks something.
    """
    course, exercise = _exercise(id)
    name = selection.task(exercise, str(task)).name if task is not None else None
    path = _file(course, exercise, file)
    if task is None:
        _graded.cache_clear()
    # A cell a task, all in one file: it is graded once.
    status = path.stat() if path.exists() else None
    result = _graded(exercise.id, path, (status.st_mtime_ns, status.st_size) if status else None)
    return replace(result, task=name)


@lru_cache(maxsize=1)
def _graded(id: str, path: Path, state: tuple[int, int] | None) -> Result:
    """The result of a file; `state` is its time in nanoseconds and its size."""
    course, exercise = _exercise(id)
    is_own = course is not None and path.parent == exercise.folder.resolve()
    if course is None or not is_own:
        exercise = replace(exercise, folder=path.parent)
    if course is None:
        course = Course(path.parent, origin="installed")
    said = io.StringIO()
    terminal = Terminal(said)
    now = datetime.now().astimezone()
    desk = Desk(course=course, out=terminal, err=terminal, now=now)
    choice = Choice(is_recorded=is_own, has_pages=is_own)
    attempt = learner.grade_file(desk, exercise, choice, path)
    return Result(
        exercise=exercise,
        attempt=attempt,
        text=said.getvalue().rstrip(),
        file=course.display(path),
        saved=datetime.fromtimestamp(state[0] / 1e9).astimezone() if state else None,
    )


def _exercise(id: str) -> tuple[Course | None, Exercise]:
    """An exercise of the course around, or, where there is none, of the installed one."""
    course: Course | None = None
    try:
        course = courses.find()
    except UsageError:
        packed = courses.read(courses.installed())
        return None, packed.exercise(*selection.exercises(packed, [id]))
    found = selection.exercises(course, [id])
    if len(found) != 1:
        raise UsageError(f"{id} names {len(found)} exercises; check takes one")
    return course, course.exercise(found[0])


def _file(course: Course | None, exercise: Exercise, file: str | Path | None) -> Path:
    """What is to be graded: the file that is named, or the one that was saved last."""
    if file is not None:
        return Path(file).resolve()
    stem = exercise.submission.stem
    for folder in (Path.cwd(), exercise.folder) if course is not None else (Path.cwd(),):
        found = [p for p in (folder / f"{stem}.ipynb", folder / f"{stem}.py") if p.is_file()]
        if found:
            return max(found, key=lambda path: path.stat().st_mtime_ns).resolve()
    if course is not None:
        return exercise.submission
    raise UsageError(f"{Path.cwd()} has neither {stem}.ipynb nor {stem}.py; save it there first")


def _html(result: Result) -> str:
    """A table of the checks, the sentence to mend first above it."""
    attempt, exercise = result.attempt, result.exercise
    score = attempt.score
    saved = f", as it was saved at {result.saved:%H:%M:%S}" if result.saved else ""
    parts = [
        f"<p><b>{escape(exercise.id)} · {escape(exercise.title)}</b><br>"
        f"<small>{escape(result.file)}{saved}</small></p>"
    ]
    if attempt.fault is not None:
        fault = attempt.fault
        where = f"{fault.file}:{fault.line}" if fault.line else fault.file
        lines = "\n".join(line.text for line in fault.source)
        parts.append(
            f'<p style="color:{_RED}"><b>It does not run yet.</b></p>'
            f"<p>{escape(where)}: {escape(fault.kind)}: {escape(fault.text)}</p>"
            f"{_pre(lines)}"
        )
    elif not attempt.outcomes:
        parts.append(f"<p>Not started: all {len(exercise.tasks)} TODOs are open.</p>")
    else:
        parts.append(
            f"<p>{attempt.passed} of {attempt.counted} checks pass, "
            f"{score.earned}/{score.possible} points</p>"
        )
        findings = [feedback.of(outcome, exercise) for outcome in result.outcomes]
        statuses = {outcome.check.name: outcome.status for outcome in result.outcomes}
        first = feedback.fix_first([o.check for o in result.outcomes], statuses)
        parts += [_first(f) for f in findings if first is not None and f.number == first.number]
        parts += [_task(task, findings) for task in exercise.tasks]
    return f'<div style="max-width:56em">{"".join(parts)}</div>'


def _pre(text: str) -> str:
    return f'<pre style="white-space:pre-wrap">{escape(text)}</pre>'


def _first(finding: Finding) -> str:
    details = "\n".join(finding.details)
    line = finding.line
    where = ""
    if line is not None:
        where = _pre(f"{line.file}:{line.number}\n{line.text}")
    return (
        f'<div style="border-left:3px solid {_RED};padding-left:.8em;margin:.6em 0">'
        f"<b>Fix first: {finding.number}</b> {escape(finding.title)}"
        f"<br>{escape(finding.sentence)}"
        f"{_pre(details) if details else ''}{where}</div>"
    )


def _task(task: Task, findings: Sequence[Finding]) -> str:
    """The checks of a task, folded where there is nothing to mend."""
    own = [f for f in findings if f.outcome.check.task == task.name]
    if not own:
        return ""
    counted = [f for f in own if f.outcome.status is not Status.SKIPPED]
    passed = sum(f.outcome.status.earns for f in counted)
    points = sum(f.outcome.points for f in own)
    is_open = "" if passed == len(counted) else " open"
    color = "inherit" if is_open else _GREEN
    rows = "".join(map(_row, own))
    return (
        f'<details{is_open}><summary style="cursor:pointer;color:{color}">'
        f"{task.number}. {escape(task.title)}: {passed} of {len(counted)} checks, "
        f"{points}/{task.points} points</summary>"
        f'<table style="width:100%;margin:.3em 0 .8em 1em">{rows}</table></details>'
    )


def _row(finding: Finding) -> str:
    status = finding.outcome.status
    color = _GREEN if status.earns else _RED if status.is_mistake else "inherit"
    cells = [finding.number, finding.title, finding.points, finding.note or finding.sentence]
    style = "text-align:left;vertical-align:top"
    shown = "".join(f'<td style="{style}">{escape(text)}</td>' for text in cells)
    mark = f"{GLYPHS[finding.mark]} {finding.mark.value}"
    return f'<tr><td style="{style};color:{color};white-space:nowrap">{mark}</td>{shown}</tr>'
