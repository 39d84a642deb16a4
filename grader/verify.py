"""Holding suites to their answers: the reference, the stub, right ones and wrong ones.

One process an exercise collects the suite once, the course's server or a worker that is kept;
every answer is a forked child of it, and runs only the checks that concern it.
"""

from __future__ import annotations

import ast
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any

from grader import answers, bundle, grading, release, runner, source, stubs
from grader.errors import GraderError
from grader.model import DEFAULT_SEED, Attempt, Exercise, Kind, Outcome, Status

HOUSE_RULES = "House rules"
ASKED_AGAIN = 5
"""How often a wrong answer is timed at most: on a busy machine "unsure" is no verdict yet."""
MEASURED_AGAIN = 2
"""How often a suite over its budget is run once more: neighbours cost CPU time too."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something an author has to mend."""

    exercise: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.exercise}  {self.where}: {self.text}"


@dataclass(slots=True)
class Report:
    """What verifying one exercise found."""

    exercise: str
    tasks: int = 0
    checks: int = 0
    accepted: int = 0
    rejected: int = 0
    cpu_seconds: float = 0.0  # of the whole suite on the reference
    seeds: int = 0  # with how many all answers were held to the suite
    problems: list[Problem] = field(default_factory=list)

    def add(self, where: str, text: str) -> None:
        """Note a problem."""
        self.problems.append(Problem(self.exercise, where, text))

    def json(self) -> dict[str, Any]:
        """The report as plain JSON."""
        return {
            "exercise": self.exercise,
            "tasks": self.tasks,
            "checks": self.checks,
            "accepted": self.accepted,
            "rejected": self.rejected,
            "cpu_seconds": round(self.cpu_seconds, 2),
            "seeds": self.seeds,
            "problems": [{"where": p.where, "text": p.text} for p in self.problems],
        }


def verify(
    exercises: Sequence[Exercise],
    *,
    jobs: int | None = None,
    flaky: int = 1,
    seed: int = DEFAULT_SEED,
    tasks: Sequence[str] = (),
    on_step: Callable[[str, int, int], None] = lambda exercise, done, total: None,
    backend: runner.Backend | None = None,
) -> list[Report]:
    """Verify exercises side by side.

    Args:
        exercises: which ones.
        jobs: how many at once; as many as there are processors if None.
        flaky: with how many seeds each answer is held to its suite.
        seed: the first of them; the others follow it.
        tasks: only the answers to these tasks; all of them if empty.
        on_step: called after each answer with the exercise's id, how many are done, of how many.
        backend: starts the worker of each answer; workers are kept for many if None.

    Returns:
        One report an exercise, in their order.

    Raises:
        Interrupted: Ctrl-C, with the reports as far as they go.
    """
    over = threading.Event()

    def step(exercise: str, done: int, total: int) -> None:
        if over.is_set():
            raise _Over
        on_step(exercise, done, total)

    # The longest first: a long one that starts last would run alone at the end.
    order = sorted(exercises, key=lambda exercise: -exercise.budget_seconds)
    jobs = jobs or os.cpu_count() or 1
    # Few exercises leave processors over: their answers are shared out.
    each = max(1, jobs // max(1, len(order)))
    pool = ThreadPoolExecutor(jobs)
    found = {
        e.id: pool.submit(verify_one, e, flaky, seed, tasks, step, backend, each) for e in order
    }
    try:
        try:
            return [found[e.id].result() for e in exercises]
        finally:  # Ctrl-C waits for the answers that are being graded, and for no other
            over.set()
            pool.shutdown(cancel_futures=True)
    except KeyboardInterrupt:
        begun = [found[e.id] for e in exercises if not found[e.id].cancelled()]
        raise Interrupted([future.result() for future in begun]) from None


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while answers were being graded."""

    def __init__(self, reports: Sequence[Report]) -> None:
        """Keep what was found until then."""
        super().__init__()
        self.reports = reports


class _Over(Exception):
    """Nobody waits for the rest of the report any more."""


def verify_one(
    exercise: Exercise,
    flaky: int = 1,
    seed: int = DEFAULT_SEED,
    tasks: Sequence[str] = (),
    on_step: Callable[[str, int, int], None] = lambda exercise, done, total: None,
    backend: runner.Backend | None = None,
    jobs: int = 1,
) -> Report:
    """Verify one exercise, `jobs` answers at once; whatever is in disorder is a problem."""
    report = Report(exercise.id, len(exercise.tasks), len(exercise.checks))
    workers = runner.KeptWorkers()
    pool = ThreadPoolExecutor(jobs)
    try:
        every = declarations(exercise, report)
        chosen = [a for a in every if not tasks or a.task in tasks]
        total, done = flaky * (len(chosen) + 1) + 1, 0

        def step() -> None:
            nonlocal done
            done += 1
            on_step(exercise.id, done, total)

        run = _Run(exercise, workers, backend)
        if not tasks:
            _stub(exercise, run, report)
        step()
        secrets = _secrets(exercise)

        def hold(answer: answers.Answer, drawn: int) -> Report:
            found = Report(exercise.id)
            if answer.is_right:
                _accepted(answer, run, found, drawn)
            else:
                _rejected(answer, run, found, drawn, secrets)
            return found

        for drawn in range(seed, seed + flaky):
            if not tasks:
                _reference(exercise, run, report, drawn)
            step()
            for found in pool.map(hold, chosen, repeat(drawn)):
                report.problems += found.problems
                step()
            report.seeds += 1
    except _Over:
        pass
    except GraderError as error:
        report.add("course", str(error))
    finally:
        pool.shutdown(cancel_futures=True)
        workers.drop()
    return report


@dataclass(frozen=True, slots=True)
class _Run:
    """Grades files of an exercise."""

    exercise: Exercise
    workers: runner.KeptWorkers
    backend: runner.Backend | None  # instead of them

    def __call__(
        self, files: Mapping[str, str], options: grading.Options, open_tasks: bool = True
    ) -> tuple[Attempt, float]:
        display = {name: name for name in self.exercise.files}
        submission = source.of(self.exercise, dict(files), display)
        if not open_tasks:
            submission = replace(submission, open_tasks=())
        cpu: list[float] = []
        with self.workers.lent(self.exercise) as kept:
            attempt = grading.grade(
                self.exercise,
                submission,
                options,
                backend=self.backend or kept,
                on_cpu_seconds=cpu.append,
            )
        return attempt, sum(cpu)


# --- what is read, not run --------------------------------------------------------------------


def declarations(exercise: Exercise, report: Report) -> tuple[answers.Answer, ...]:
    """Find what is wrong without running anything, and return the answers.

    Points, hints, statement, stray files, checks that reject no answer, a suite that imports the
    reference.
    """
    total = sum(task.points for task in exercise.tasks)
    if total != 100:
        report.add("exercise.toml", f"the tasks' points sum to {total}, not to 100")
    for task in exercise.tasks:
        checks = exercise.checks_of(task)
        points = sum(check.points for check in checks)
        if points != task.points:
            report.add(task.name, f"is worth {task.points}, its checks sum to {points}")
        speed = sum(c.points for c in checks if c.kind is Kind.SPEED)
        if 10 * speed > task.points:
            report.add(task.name, f"{speed} of {task.points} points are speed; a tenth is the most")
        if len(task.hints) != 3 or not all(hint.strip() for hint in task.hints):
            report.add(task.name, "needs three hints: a question, a fact, nearly the answer")
        if task.difficulty not in (1, 2, 3):
            report.add(task.name, f"difficulty is {task.difficulty}; it is 1, 2 or 3")
    _statement(exercise, report)
    known = {*exercise.files, *exercise.data, exercise.suite.name}
    known |= {"README.md", "exercise.toml", "answers.py", "__pycache__"}
    for path in sorted(exercise.source.iterdir()):
        if path.name == bundle.STUB:
            for pristine in sorted(path.iterdir()):
                if pristine.name not in exercise.files:
                    report.add(f"{path.name}/{pristine.name}", "is the pristine text of no file")
        elif path.name not in known and not path.name.startswith("."):
            report.add(path.name, "is not part of an exercise; name it in data, or move it away")
    module = exercise.files[0].removesuffix(".py")
    for node in ast.walk(ast.parse(exercise.suite.read_text(encoding="utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        if module in names or any(name.startswith("solutions") for name in names):
            report.add(exercise.suite.name, "imports the reference; a release could not hide it")
    for name, number, line in release.quotes(exercise):
        report.add(
            f"{name}:{number}",
            f"holds a line of the reference, {line!r}; a release could not hide it",
        )
    every = answers.read(exercise)
    report.accepted = sum(a.is_right for a in every)
    report.rejected = len(every) - report.accepted
    _coverage(exercise, every, report)
    return every


def _statement(exercise: Exercise, report: Report) -> None:
    path = exercise.source / "README.md"
    if not path.is_file():
        report.add("README.md", "is missing")
        return
    text = path.read_text(encoding="utf-8")
    if HOUSE_RULES not in text:
        report.add("README.md", "does not end with the house rules")
    for task in exercise.tasks:
        if task.name not in text:
            report.add("README.md", f"does not mention {task.name}")


def _coverage(exercise: Exercise, every: Iterable[answers.Answer], report: Report) -> None:
    """Every check rejects at least one answer; every task has one."""
    named = {name for answer in every if not answer.is_right for name in answer.by}
    for check in exercise.checks:
        if check.name not in named and not check.gpu:
            report.add(check.name, "rejects no answer of answers.py; add one, or drop the check")


def _secrets(exercise: Exercise) -> list[str]:
    """Lines of the reference's regions that are long enough to give an answer away."""
    secrets = []
    for name, text in answers.reference(exercise).items():
        if name.endswith(".py"):
            kept = set(map(str.strip, stubs.of(exercise)[name].splitlines()))
            lines = [line.strip() for line in text.splitlines()]
            secrets += [line for line in lines if len(line) >= 24 and line not in kept]
    return [line for line in secrets if not line.startswith("#")]


# --- what is run ------------------------------------------------------------------------------


def _stub(exercise: Exercise, run: _Run, report: Report) -> None:
    """The untouched stub is open in every task, and passes nothing even when it is run."""
    files = stubs.of(exercise)
    attempt, _ = run(files, grading.Options(speed=False))
    if attempt.fault is not None:
        report.add("stub", f"does not compile: {attempt.fault.text}, line {attempt.fault.line}")
        return
    for task in exercise.tasks:
        if task.name not in attempt.open_tasks:
            report.add(
                "stub", f"leaves nothing open in {task.name}; has it a region {task.number}?"
            )
    attempt, _ = run(files, grading.Options(speed=False), open_tasks=False)
    if attempt.fault is not None:
        report.add("stub", f"does not load: {attempt.fault.text}")
    for outcome in attempt.outcomes:
        if outcome.status.earns:
            report.add("stub", f"passes {outcome.check.name}")


def _reference(exercise: Exercise, run: _Run, report: Report, seed: int) -> None:
    attempt, cpu = run(answers.reference(exercise), grading.Options(seed=seed))
    if attempt.fault is not None:
        report.add("reference", f"does not load: {attempt.fault.text}")
    if attempt.open_tasks:
        report.add("reference", f"leaves {', '.join(attempt.open_tasks)} open")
    for outcome in attempt.outcomes:
        if not outcome.status.earns and outcome.status is not Status.SKIPPED:
            report.add("reference", f"{_said(outcome)} (seed {seed})")
    if attempt.environment.device != "cpu":
        return  # the budget is the CPU form's; a driver takes seconds to start
    for _ in range(MEASURED_AGAIN):
        if cpu <= exercise.budget_seconds:
            break
        _, again = run(answers.reference(exercise), grading.Options(seed=seed))
        cpu = min(cpu, again)
    report.cpu_seconds = max(report.cpu_seconds, cpu)
    if cpu > exercise.budget_seconds:
        report.add(
            "budget", f"the suite took {cpu:.1f} s of CPU time, {exercise.budget_seconds:g} allowed"
        )


def _accepted(answer: answers.Answer, run: _Run, report: Report, seed: int) -> None:
    attempt, _ = run(answer.files, grading.Options(tasks=(answer.task,), seed=seed))
    where = f"answers.py:{answer.line} {answer.name}"
    if attempt.fault is not None:
        report.add(where, f"is right, but does not load: {attempt.fault.text}")
    for outcome in attempt.outcomes:
        if not outcome.status.earns and outcome.status is not Status.SKIPPED:
            report.add(where, f"is right, but {_said(outcome)} (seed {seed})")


def _rejected(
    answer: answers.Answer, run: _Run, report: Report, seed: int, secrets: Sequence[str]
) -> None:
    options = grading.Options(checks=answer.by, seed=seed)
    for _ in range(ASKED_AGAIN):
        attempt, _ = run(answer.files, options)
        if all(outcome.status is not Status.UNSURE for outcome in attempt.outcomes):
            break
    where = f"answers.py:{answer.line} {answer.name}"
    if attempt.fault is not None:
        report.add(where, f"does not load: {attempt.fault.text}")
        return
    by_name = {outcome.check.name: outcome for outcome in attempt.outcomes}
    for name in answer.by:
        outcome = by_name[name]
        if outcome.status is Status.SKIPPED:
            continue
        is_seen_before = outcome.status is Status.WAITING and attempt.environment.device != "cpu"
        if not outcome.status.is_mistake and not is_seen_before:
            report.add(where, f"is wrong, but {name} is {outcome.status} (seed {seed})")
        for secret in secrets:
            if outcome.message and secret in outcome.message.text:
                report.add(name, f"its message holds a line of the reference: {secret}")
    first = by_name[answer.by[0]]
    said = " ".join([first.message.text if first.message else "", *first.details])
    if answer.says and answer.says.lower() not in said.lower() and first.status.is_mistake:
        report.add(
            where, f"{first.check.name} says {said!r}, which does not contain {answer.says!r}"
        )


def _said(outcome: Outcome) -> str:
    message = outcome.message.text if outcome.message else "no message"
    return f"{outcome.check.name} is {outcome.status}: {message}"
