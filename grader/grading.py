"""An exercise and a submission in, an attempt out."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from grader import exercise_file, runner, source, stubs, verdict
from grader.errors import CourseError, EnvironmentFault, UsageError
from grader.model import (
    DEFAULT_SEED,
    Attempt,
    Check,
    Environment,
    Exercise,
    Outcome,
    Verdict,
)


@dataclass(frozen=True, slots=True)
class Options:
    """How a submission is to be graded."""

    tasks: tuple[str, ...] = ()  # names; only their checks
    checks: tuple[str, ...] = ()  # names; only these
    first: tuple[str, ...] = ()  # names of tasks; their checks run before the others
    seed: int = DEFAULT_SEED
    device: str = "auto"
    speed: bool = True
    cpu_seconds: float | None = None  # of one check, instead of the exercise's
    modules: Mapping[str, str] = field(default_factory=dict)  # importable beside it, by name


def grade(
    exercise: Exercise,
    submission: source.Submission,
    options: Options = Options(),
    on_start: Callable[[Environment], None] = lambda environment: None,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
    backend: runner.Backend = runner.cold,
    on_cpu_seconds: Callable[[float], None] | None = None,
) -> Attempt:
    """Run the suite on the submission.

    Args:
        exercise: what is graded.
        submission: the files as they were read.
        options: which checks, which device, which seed.
        on_start: called once the worker is ready to run checks.
        on_outcome: called with each outcome as it ends, in the order in which they run.
        backend: starts the worker.
        on_cpu_seconds: called once with what the checks' processes used; if None, nobody need wait
            for their end.

    Returns:
        The attempt, not recorded yet (its number is 0).

    Raises:
        CourseError: the suite is at fault.
        EnvironmentFault: the device that was asked for is missing, or Python could not start.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    checks = select(exercise, options)
    attempt = Attempt(
        exercise=exercise.id,
        number=0,
        started=started,
        seconds=0.0,
        verdict=Verdict.ERROR,
        outcomes=(),
        environment=Environment(seed=options.seed),
        suite_digest=suite_digest(exercise),
        files=dict(submission.files),
        fault=submission.fault,
        selected=len(checks) < len(exercise.checks),
        open_tasks=submission.open_tasks,
    )
    if submission.fault is not None:
        return attempt
    if len(submission.open_tasks) == len(exercise.tasks):
        return replace(attempt, verdict=Verdict.NOT_STARTED)

    module = exercise.files[0]
    file, text = submission.display[module], submission.files[module]
    limits = exercise.limits
    if options.cpu_seconds is not None:
        limits = replace(limits, cpu_seconds=options.cpu_seconds)
    environment = Environment(seed=options.seed)
    by_name = {check.name: check for check in checks}
    told: dict[str, Outcome] = {}

    def ready(event: Mapping[str, object]) -> None:
        nonlocal environment
        environment = Environment(
            python=str(event["python"]),
            torch=str(event["torch"]),
            device=str(event["device"]),
            threads=int(str(event["threads"])),
            seed=options.seed,
            backend=str(event.get("backend", "cold")),
        )
        if options.device not in ("auto", environment.device):
            raise EnvironmentFault(
                f"there is no {options.device} device; torch {environment.torch} finds "
                f"{environment.device} only. grade doctor says more"
            )
        on_start(environment)

    @functools.cache
    def places() -> Mapping[str, source.Place]:
        """Read off once an answer is wrong."""
        return source.places(exercise, text, file)

    def ended(name: str, raw: runner.RawRun) -> None:
        outcome = submission.located(
            verdict.outcome(by_name[name], raw, limits, file, text, places)
        )
        told[name] = outcome
        on_outcome(outcome)

    job = runner.Job(
        files=_beside(exercise, submission.files) | submission.files,
        module=module,
        display=file,
        checks=tuple(check.name for check in in_order(checks, options.first)),
        open_tasks=submission.open_tasks,
        modules=exercise_file.importable(exercise.source, exercise.data) | dict(options.modules),
        seed=options.seed,
        speed=options.speed,
        limits=limits,
        counts_cpu=on_cpu_seconds is not None,
    )

    def start(on_cpu: bool) -> runner.Worker:
        return backend(exercise, "cpu" if on_cpu else options.device)

    raw = runner.run(start, job, ready, ended)
    if on_cpu_seconds is not None:
        on_cpu_seconds(raw.cpu_seconds)
    _hold_to_suite(exercise, raw)
    fault = submission.located_fault(verdict.fault(raw, limits, file, text))
    outcomes = []
    if fault is None:
        for check in checks:
            if check.name not in told:
                outcome = submission.located(
                    verdict.outcome(check, raw, limits, file, text, places)
                )
                on_outcome(outcome)
                told[check.name] = outcome
            outcomes.append(told[check.name])
    return replace(
        attempt,
        seconds=time.monotonic() - clock,
        verdict=Verdict.ERROR
        if fault is not None
        else verdict.verdict(exercise, outcomes, submission.open_tasks),
        outcomes=tuple(outcomes),
        environment=environment,
        fault=fault,
    )


def select(exercise: Exercise, options: Options) -> tuple[Check, ...]:
    """The checks that the options leave, with those they stand on where checks are named.

    Raises:
        UsageError: an option names no check of the exercise.
    """
    if options.checks:
        wanted = set(options.checks)
        unknown = wanted - {check.name for check in exercise.checks}
        if unknown:
            raise UsageError(f"{exercise.id} has no check {', '.join(sorted(unknown))}")
        by_name = {check.name: check for check in exercise.checks}
        queue = list(wanted)
        while queue:
            for other in by_name[queue.pop()].after:
                if other not in wanted:
                    wanted.add(other)
                    queue.append(other)
        return tuple(check for check in exercise.checks if check.name in wanted)
    if options.tasks:
        return tuple(check for check in exercise.checks if check.task in options.tasks)
    return exercise.checks


def in_order(checks: Sequence[Check], first: Collection[str]) -> list[Check]:
    """Checks in the order in which they run: some tasks first, and what those stand on before.

    Args:
        checks: in the order of the suite.
        first: names of tasks.
    """
    task_of = {check.name: check.task for check in checks}
    early = set(first)
    for check in reversed(checks):  # a check stands on earlier ones
        if check.task in early:
            early |= {task_of[name] for name in check.after if name in task_of}
    return sorted(checks, key=lambda check: check.task not in early)


def suite_digest(exercise: Exercise) -> str:
    """6 hex digits of the suite's text."""
    return hashlib.sha256(exercise.suite.read_bytes()).hexdigest()[:6]


def _beside(exercise: Exercise, handed_in: Collection[str]) -> dict[str, str]:
    """The exercise's data, and the shipped form of side files the learner did not hand in."""
    missing = [name for name in exercise.files[1:] if name not in handed_in]
    data = {name: (exercise.source / name).read_text(encoding="utf-8") for name in exercise.data}
    return data | {name: stubs.text_of(exercise, name) for name in missing}


def _hold_to_suite(exercise: Exercise, raw: runner.RawRun) -> None:
    """What pytest collects must be what the suite's text declares."""
    declared = {check.name for check in exercise.checks}
    if raw.nodes and set(raw.nodes) != declared:
        odd = sorted(set(raw.nodes) ^ declared)
        raise CourseError(
            f"{exercise.suite}: pytest and the suite's text disagree on {', '.join(odd)}"
        )
