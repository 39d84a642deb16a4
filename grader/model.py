"""The nouns of the engine: frozen values that every other room takes and returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

DEFAULT_SEED = 277527
"""The seed of a run where no `--seed` is given; the toolkit of day 00 has the same one."""


class Kind(StrEnum):
    """What a check is about; the dashboard counts by kind."""

    SHAPE = "shape"
    VALUE = "value"
    GRADIENT = "gradient"
    SPEED = "speed"
    MEMORY = "memory"
    STRUCTURE = "structure"
    TRAINING = "training"
    THEORY = "theory"


class Status(StrEnum):
    """How one check of an attempt ended."""

    PASSED = "passed"
    FAILED = "failed"  # the answer is wrong
    ERROR = "error"  # the learner's code raised
    TIMEOUT = "timeout"  # stopped by the limit of time
    KILLED = "killed"  # memory, a signal, os._exit: the process ended
    WAITING = "waiting"  # a check it stands on has not passed, or was not reached
    TODO = "todo"  # the task is still to be written
    SKIPPED = "skipped"  # the hardware is missing, or speed was switched off; leaves the total
    UNSURE = "unsure"  # a speed check too close to its limit to tell; never counted against

    @property
    def earns(self) -> bool:
        """Whether a check that ended so earns its points."""
        return self in (Status.PASSED, Status.UNSURE)

    @property
    def is_mistake(self) -> bool:
        """Whether there is something to mend in the learner's code."""
        return self in (Status.FAILED, Status.ERROR, Status.TIMEOUT, Status.KILLED)


WORST_FIRST = (
    Status.KILLED,
    Status.TIMEOUT,
    Status.ERROR,
    Status.FAILED,
    Status.TODO,
    Status.WAITING,
    Status.UNSURE,
    Status.PASSED,
    Status.SKIPPED,
)
"""A check takes the worst status of its cases; those that were skipped do not count."""


class Verdict(StrEnum):
    """How an attempt ended as a whole."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_STARTED = "not_started"
    ERROR = "error"  # the file does not load
    BROKEN = "broken"  # the suite is at fault, not the learner


@dataclass(frozen=True, slots=True)
class Check:
    """One test function of a suite, as declared there; known before any learner's code runs."""

    id: str  # "day23/2.1": exercise, task number, place within the task
    name: str  # "TestSdpa::test_shape": unique within the suite, as pytest prints it
    task: str  # the name of its task, "sdpa"
    title: str  # a sentence that is true when the check passes
    kind: Kind
    points: int
    after: tuple[str, ...] = ()  # names of the checks that must pass first
    hint: str | None = None
    gpu: bool = False

    @property
    def number(self) -> str:
        """The short id, "2.1"."""
        return self.id.partition("/")[2]


@dataclass(frozen=True, slots=True)
class Task:
    """One piece of work of an exercise: a function or class to write, or a file."""

    number: int
    name: str  # the function or class, "attention_weights"
    title: str  # "Weights of attention"
    points: int
    difficulty: int  # 1 warm-up, 2 needs thought, 3 boss
    hints: tuple[str, ...]  # a question, a fact, nearly the answer
    files: tuple[str, ...] = ()  # of files that come written: it is open while none has changed


@dataclass(frozen=True, slots=True)
class RubricItem:
    """What a person looks at in a free text, and the points for it; never part of the score."""

    name: str  # "mechanism"
    text: str  # "The mechanism is the right one"
    points: int


@dataclass(frozen=True, slots=True)
class ManualMark:
    """What a person gave for an item of the rubric."""

    item: str
    points: int
    remark: str
    marked: datetime


@dataclass(frozen=True, slots=True)
class Limits:
    """What one check, and one run, may use."""

    cpu_seconds: float = 10.0  # a check
    memory_bytes: int = 4 * 2**30  # the process
    output_bytes: int = 16 * 2**20  # a file, and so a check's captured output
    run_seconds: float = 300.0  # the whole run, wall time

    @property
    def wall_seconds(self) -> float:
        """The backstop of a check for sleep and deadlock: wide, since machines are shared."""
        return max(4 * self.cpu_seconds, 20.0)


@dataclass(frozen=True, slots=True)
class Exercise:
    """A day's work: what to write, how it is checked, where its files are."""

    id: str  # "day23"
    title: str
    title_zh: str
    track: str  # "roadmap", "lecture", "kaggle", "hour"
    week: int | None  # 1 to 4; None for day 0 and for tracks
    goal: str
    minutes: int
    files: tuple[str, ...]  # what the learner writes; the first is the module that is imported
    data: tuple[str, ...]  # read-only files that go beside the submission
    tasks: tuple[Task, ...]
    checks: tuple[Check, ...]  # in the order of the suite, which is the order of the tasks
    limits: Limits
    source: Path  # solutions/day23
    folder: Path  # exercises/day23
    budget_seconds: float = 5.0  # CPU time of the whole suite on the reference
    rubric: tuple[RubricItem, ...] = ()  # for free text, marked by a person

    @property
    def suite(self) -> Path:
        """The hidden pytest file."""
        return self.source / f"test_{Path(self.files[0]).stem}.py"

    @property
    def submission(self) -> Path:
        """The learner's module."""
        return self.folder / self.files[0]

    @property
    def number(self) -> int:
        """23 for `day23`."""
        return int("".join(c for c in self.id if c.isdigit()))

    def task(self, name: str) -> Task:
        """The task of that name."""
        return next(task for task in self.tasks if task.name == name)

    def checks_of(self, task: Task) -> tuple[Check, ...]:
        """The checks of one task, in the order of the suite."""
        return tuple(check for check in self.checks if check.task == task.name)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the learner's own file that took part in a failure."""

    file: str  # as the learner knows it: "exercises/day23/self_attention.py"
    number: int
    text: str
    function: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """What a check hands to the page: arrays and a kind, never markup."""

    kind: str  # "axes", "heatmap", "bars", "dots", "curve", "scatter", "graph", "text"
    title: str
    caption: str  # a sentence with the same fact
    data: dict[str, Any]  # plain lists and numbers; see docs/authoring.md, "Pictures"


@dataclass(frozen=True, slots=True)
class Message:
    """What was found: an id that stays, arguments, and the sentence made of them."""

    id: str  # "shape.permuted"
    text: str
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one check of one attempt ended, and everything a view needs to say so."""

    check: Check
    status: Status
    seconds: float = 0.0  # wall time
    cpu_seconds: float = 0.0
    message: Message | None = None
    details: tuple[str, ...] = ()  # further lines laid out for 80 columns, such as two aligned rows
    expected: Any = None  # plain JSON: text, numbers, {"shape": [...], "axes": [...]}
    got: Any = None
    minimal: str | None = None  # the smallest failing input as code
    lines: tuple[Line, ...] = ()  # innermost last
    pictures: tuple[Picture, ...] = ()
    output: str = ""  # what the learner's code printed during the check
    output_truncated: bool = False
    traceback: str = ""  # the learner's own frames and the exception; shown folded, or with -v
    blocked_by: tuple[str, ...] = ()  # names of checks
    measured: str = ""  # a figure worth showing on a passing line: "1.4x"

    @property
    def points(self) -> int:
        """What the check earned."""
        return self.check.points if self.status.earns else 0


@dataclass(frozen=True, slots=True)
class Score:
    """Points earned, out of the points that could be earned here."""

    earned: int
    possible: int
    skipped: int = 0

    @property
    def percent(self) -> int:
        """Whole per cent, rounded down: 100 means every point."""
        return 100 * self.earned // self.possible if self.possible else 0


@dataclass(frozen=True, slots=True)
class Environment:
    """Where an attempt ran."""

    python: str = ""
    torch: str = ""
    device: str = "cpu"
    threads: int = 1
    seed: int = DEFAULT_SEED
    backend: str = "cold"  # which back-end of the runner answered: cold, fork, spare


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a file does not load, or why a suite is at fault."""

    kind: str  # "SyntaxError", "ImportError", "TimeLimit", "killed", "tampered", "suite"
    text: str  # "'(' was never closed"
    file: str = ""
    line: int | None = None
    column: int | None = None
    source: tuple[Line, ...] = ()  # the lines around it
    note: str = ""  # "opened on line 43"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One grading of one submission at one time."""

    exercise: str  # its id
    number: int  # 1 for the first; 0 while it is not recorded
    started: datetime
    seconds: float
    verdict: Verdict
    outcomes: tuple[Outcome, ...]
    environment: Environment
    suite_digest: str  # of the suite's text, 6 hex digits
    files: dict[str, str]  # name -> the text that was graded
    fault: Fault | None = None
    selected: bool = False  # --task, --check or --failed: only part of the suite ran
    open_tasks: tuple[str, ...] = ()
    watched: bool = False  # `grade watch` made it, at a save; nobody asked for it

    @property
    def score(self) -> Score:
        """Points over the checks; skipped ones leave the total."""
        skipped = sum(o.check.points for o in self.outcomes if o.status is Status.SKIPPED)
        possible = sum(o.check.points for o in self.outcomes) - skipped
        return Score(sum(o.points for o in self.outcomes), possible, skipped)

    @property
    def passed(self) -> int:
        """How many checks passed."""
        return sum(o.status.earns for o in self.outcomes)

    @property
    def counted(self) -> int:
        """How many checks count: all but the skipped ones."""
        return sum(o.status is not Status.SKIPPED for o in self.outcomes)

    @property
    def is_solved(self) -> bool:
        """Whether every check that counts passed."""
        return self.verdict is Verdict.PASSED

    @property
    def counts(self) -> bool:
        """Whether the learner's code got to answer a check; only then is it an attempt."""
        unanswered = (Status.WAITING, Status.TODO, Status.SKIPPED)
        answered = any(o.status not in unanswered for o in self.outcomes)
        return answered and self.verdict not in (Verdict.NOT_STARTED, Verdict.BROKEN)

    @property
    def summary(self) -> AttemptSummary:
        """What lists, curves and counts need of it."""
        return AttemptSummary(
            exercise=self.exercise,
            number=self.number,
            started=self.started,
            seconds=self.seconds,
            verdict=self.verdict,
            passed=self.passed,
            counted=self.counted,
            earned=self.score.earned,
            possible=self.score.possible,
            skipped=self.score.skipped,
            statuses={o.check.name: o.status for o in self.outcomes},
            selected=self.selected,
            watched=self.watched,
        )


@dataclass(frozen=True, slots=True)
class AttemptSummary:
    """An attempt without its messages: what lists, curves and counts need."""

    exercise: str
    number: int
    started: datetime
    seconds: float
    verdict: Verdict
    passed: int
    counted: int
    earned: int
    possible: int
    skipped: int
    statuses: Mapping[str, Status]  # name of a check -> how it ended, in the order of the suite
    selected: bool = False  # only part of the suite ran
    watched: bool = False  # `grade watch` made it

    @property
    def is_solved(self) -> bool:
        """Whether every check of the exercise that counts passed."""
        return self.verdict is Verdict.PASSED and not self.selected
