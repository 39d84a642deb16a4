"""How often `assert_speed` is wrong, and what it costs, with neighbours that never rest.

    python benchmarks/speed_checks.py --trials 1000 --neighbours 2

Right answers must pass and slow ones must fail, over and over, each in a freshly forked child
as a check is. The limit is 2 everywhere. A model solution does its work five times over, so that
an answer "at 1.4" is the same work seven times over, exactly.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor

from grader.testing import _record
from grader.testing._failure import CheckFailed
from grader.testing._speed import assert_speed

LIMIT = 2.0
TIMES = 5
Answer = Callable[..., Tensor]

# It ends with its parent, even where the parent was killed.
NEIGHBOUR = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(10**6):
        pass
"""


# --- five tasks -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Task:
    """A small exercise: one right form of it, another, and a loop over the rows."""

    name: str
    form: Answer
    other_form: Answer
    shapes: tuple[tuple[int, ...], ...]  # of the arguments, rows first

    def make(self, generator: torch.Generator, device: Any) -> tuple[Tensor, ...]:
        """Draw fresh arguments."""
        return tuple(
            torch.randn(*shape, generator=generator, device=device) for shape in self.shapes
        )

    @property
    def model(self) -> Answer:
        """The model solution."""
        return repeated(self.form, TIMES)

    @property
    def idiom(self) -> Answer:
        """A right answer that goes about it in another way."""
        return repeated(self.other_form, TIMES)

    @property
    def loop(self) -> Answer:
        """The naive answer: a Python loop over the rows of the first argument."""

        def loop(first: Tensor, *rest: Tensor) -> Tensor:
            return torch.cat([self.form(first[i : i + 1], *rest) for i in range(len(first))])

        return repeated(loop, TIMES)

    def at(self, ratio: float) -> Answer:
        """An answer that does `ratio` times the model solution's work."""
        return repeated(self.form, round(TIMES * ratio))


def repeated(form: Answer, times: int) -> Answer:
    """The form as one function that does its work so many times over."""

    def answer(*arguments: Tensor) -> Tensor:
        for _ in range(times):
            result = form(*arguments)
        return result

    return answer


def layer_norm(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred * (centred.square().mean(-1, keepdim=True) + 1e-5).rsqrt()


def layer_norm_by_moments(x: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = (x * x).mean(-1, keepdim=True) - mean * mean
    return (x - mean) / (variance + 1e-5).sqrt()


def square_distances(a: Tensor, b: Tensor) -> Tensor:
    return a.square().sum(1)[:, None] + b.square().sum(1) - 2 * (a @ b.T)


def square_distances_in_one_product(a: Tensor, b: Tensor) -> Tensor:
    squares = (a * a).sum(1, keepdim=True) + (b * b).sum(1)
    return torch.addmm(squares, a, b.mT, alpha=-2)


def softmax(x: Tensor) -> Tensor:
    weights = (x - x.amax(-1, keepdim=True)).exp()
    return weights / weights.sum(-1, keepdim=True)


def softmax_in_place(x: Tensor) -> Tensor:
    weights = torch.sub(x, x.amax(dim=1, keepdim=True)).exp_()
    return weights.div_(weights.sum(-1, keepdim=True))


def cumulative_mean(x: Tensor) -> Tensor:
    return x.cumsum(-1) / torch.arange(1, x.shape[-1] + 1)


def cumulative_mean_by_weights(x: Tensor) -> Tensor:
    return torch.cumsum(x, dim=1) * torch.arange(1, x.shape[1] + 1).reciprocal()


def normalise_rows(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def normalise_rows_by_squares(x: Tensor) -> Tensor:
    return x * (x * x).sum(-1, keepdim=True).rsqrt()


# Under 128 kB a tensor: from there on each allocation asks the system for pages, and what that
# takes swings by more than the answers differ.
TASKS = (
    Task("layer_norm", layer_norm, layer_norm_by_moments, ((101, 256),)),
    Task(
        "square_distances",
        square_distances,
        square_distances_in_one_product,
        ((151, 64), (149, 64)),
    ),
    Task("softmax", softmax, softmax_in_place, ((101, 211),)),
    Task("cumulative_mean", cumulative_mean, cumulative_mean_by_weights, ((101, 256),)),
    Task("normalise_rows", normalise_rows, normalise_rows_by_squares, ((101, 211),)),
)


# --- trials -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of answer: how it is made from a task, and what must be said of it."""

    name: str
    of: Callable[[Task], Answer]
    passes: bool | None  # None: near the limit, where either is right
    share: float = 1.0  # of the trials


ROWS = (
    Row("right: another idiom", lambda task: task.idiom, True, 0.5),
    Row("right: at 0.7 of the limit", lambda task: task.at(0.7 * LIMIT), True, 0.5),
    Row("slow: at 2 times the limit", lambda task: task.at(2 * LIMIT), False),
    Row("slow: a loop over the rows", lambda task: task.loop, False, 0.05),
    Row("near: at 0.8 of the limit", lambda task: task.at(0.8 * LIMIT), None, 0.05),
    Row("near: at 0.9 of the limit", lambda task: task.at(0.9 * LIMIT), None, 0.05),
    Row("near: at 1.1 of the limit", lambda task: task.at(1.1 * LIMIT), None, 0.05),
    Row("near: at 1.3 of the limit", lambda task: task.at(1.3 * LIMIT), None, 0.05),
)


@dataclass(frozen=True, slots=True)
class Trial:
    """How one check ended, and its cost in seconds."""

    task: str
    verdict: str  # "pass", "fail", "unsure", or what went wrong instead
    said: str
    ratio: str
    wall: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Child:
    """A freshly forked process that holds one answer to the model solution."""

    row: Row
    task: Task
    process: int
    stream: BinaryIO

    def result(self) -> Trial:
        """Wait for the end of it."""
        with self.stream:
            text = self.stream.read()
        os.waitpid(self.process, 0)
        ended = json.loads(text) if text else ("died", "", "", 0.0, 0.0)
        return Trial(self.task.name, *ended)


def start(row: Row, task: Task) -> Child:
    """Fork a child for one trial."""
    read, write = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            os.close(read)
            os.write(write, json.dumps(check(task, row.of(task))).encode())
        finally:
            os._exit(0)
    os.close(write)
    return Child(row, task, process, os.fdopen(read, "rb"))


def run(planned: Sequence[tuple[Row, Task]], at_once: int) -> Iterator[tuple[Row, Trial]]:
    """Run the trials, so many at a time; they are each other's neighbours too."""
    running: deque[Child] = deque()
    for row, task in planned:
        if len(running) == at_once:
            child = running.popleft()
            yield child.row, child.result()
        running.append(start(row, task))
    for child in running:
        yield child.row, child.result()


def check(task: Task, answer: Answer) -> tuple[str, str, str, float, float]:
    """The check itself, in this process."""
    torch.set_num_threads(1)
    record = _record.begin()
    verdict, said = "pass", ""
    wall, cpu = time.perf_counter(), cpu_seconds()
    try:
        assert_speed(answer, task.model, task.make, limit=LIMIT)
    except CheckFailed as failure:
        verdict, said = "fail" if failure.id == "speed.slow" else failure.id, str(failure)
    if record.unsure:
        verdict, said = "unsure", record.unsure
    cpu = cpu_seconds() - cpu
    wall = time.perf_counter() - wall
    return verdict, said, record.measured, wall, cpu


def cpu_seconds() -> float:
    """Of this process and of the second rounds it has forked."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """So many processes that spin until the block ends."""
    spinning = [subprocess.Popen([sys.executable, "-c", NEIGHBOUR]) for _ in range(count)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--trials", type=int, default=100, help="of right and of slow answers")
    parser.add_argument("--neighbours", type=int, default=2, help="processes that spin meanwhile")
    parser.add_argument("--at-once", type=int, default=1, help="trials that run side by side")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for task in TASKS:  # the child of a warm server has made its first calls long ago
        drawn = task.make(torch.Generator().manual_seed(0), "cpu")
        for answer in (task.model, task.idiom, task.loop):
            answer(*drawn)
    results: dict[str, list[Trial]] = {row.name: [] for row in ROWS}
    planned = [
        (row, TASKS[number % len(TASKS)])
        for row in ROWS
        for number in range(max(round(row.share * options.trials), len(TASKS)))
    ]
    # In turns, so that what the neighbours do hits every kind of answer alike.
    random.Random(0).shuffle(planned)
    began = time.perf_counter()
    with neighbours(options.neighbours):
        for number, (row, trial) in enumerate(run(planned, options.at_once), start=1):
            results[row.name].append(trial)
            if row.passes is not None and trial.verdict != ("pass" if row.passes else "fail"):
                print(f"{row.name}, {trial.task}: {trial.verdict}: {trial.said}", file=sys.stderr)
            if number % 250 == 0:
                print(f"{number} of {len(planned)}", file=sys.stderr)
    print_report(results, options, time.perf_counter() - began)


def print_report(
    results: dict[str, list[Trial]], options: argparse.Namespace, seconds: float
) -> None:
    """Print the table as docs/benchmarks.md has it."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(
        f"\nPython {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores, "
        f"{options.neighbours} spinning neighbours, {options.at_once} at once, "
        f"load {load:.1f} at the end, {seconds:.0f} s\n"
    )
    print("| answer | trials | wrong | unsure | ratio | wall ms | p99 | CPU ms | p99 |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in ROWS:
        trials = results[row.name]
        verdicts = [trial.verdict for trial in trials]
        unsure = verdicts.count("unsure")
        if row.passes is None:
            wrong = f"{verdicts.count('fail')} failed"
        else:
            wrong = str(len(trials) - unsure - verdicts.count("pass" if row.passes else "fail"))
        ratios = [float(trial.ratio.strip(">x")) for trial in trials if trial.ratio]
        wall = [1e3 * trial.wall for trial in trials]
        cpu = [1e3 * trial.cpu for trial in trials]
        print(
            f"| {row.name} | {len(trials)} | {wrong} | {unsure} ({unsure / len(trials):.1%}) "
            f"| {min(ratios):.1f} to {max(ratios):.1f} "
            f"| {statistics.median(wall):.0f} | {percentile(wall):.0f} "
            f"| {statistics.median(cpu):.0f} | {percentile(cpu):.0f} |"
        )


def percentile(values: Sequence[float], share: float = 0.99) -> float:
    """The value that this share of the values does not exceed."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


if __name__ == "__main__":
    main()
