"""Day 19 asks for a stopwatch, profiles, hidden waits, a roofline and a ranker made fast.

Nothing here judges by the machine's own clock but the two checks of speed: the stopwatch runs on a
clock of its own, and a profile is compared with what the profiler recorded in that very call.
"""

import gc
import itertools
import json
import math
import re
import sys
import time
import types
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo  # the first profile and the first mode import it, seconds that no check pays
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.profiler import record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from grader.testing import (
    assert_close,
    assert_dtype,
    assert_equal,
    assert_gradients_close,
    assert_no_python_loop,
    assert_ops_at_most,
    assert_peak_memory,
    assert_runs_on_meta,
    assert_shape,
    assert_speed,
    assert_unchanged,
    count_ops,
    expect,
    fail,
    measured,
    peak_memory,
    picture,
    rand_ints,
    randn,
)


def loaded(name: str) -> types.ModuleType:
    """The slow ranker that lies beside this suite, as a module of that name."""
    path = Path(__file__).with_name("slow_ranker.py")
    module = types.ModuleType(name)
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), module.__dict__)
    return module


SlowRanker = loaded("slow_ranker_of_the_checks").SlowRanker
sys.modules["slow_ranker"] = loaded("slow_ranker")  # what a submission imports is its own copy


# --- 1 ------------------------------------------------------------------------------------------

MOST_CALLS = 300_000


@dataclass
class Block:
    """What lies between two readings of the clock."""

    seconds: float
    calls: int
    collects: bool = False  # whether the garbage collector was on in any of its calls


class Result:
    """What a timed function returns; unlike a number it can be watched."""


@dataclass
class Stopwatch:
    """A clock that only calls of `fn` move, and a log of what happens.

    Args:
        seconds: of a call, by its number from 0.
        raises_at: the number of the call that raises.
    """

    seconds: Callable[[int], float]
    raises_at: int = -1
    now: float = 1000.0
    calls: int = 0
    readings: list[tuple[float, int, bool]] = field(default_factory=list)  # time, calls, synced
    collecting: list[int] = field(default_factory=list)  # calls with the collector on
    kept: int = 0  # results that were alive when the next call began
    synced: bool = False
    last: weakref.ref[Result] | None = None

    def read(self) -> float:
        self.readings.append((self.now, self.calls, self.synced))
        self.synced = False
        return self.now

    def sync(self) -> None:
        self.synced = True

    def fn(self) -> Result:
        self.synced = False
        if self.last is not None and self.last() is not None:
            self.kept += 1
        if self.calls == self.raises_at:
            raise ZeroDivisionError("the function that is timed")
        if self.calls == MOST_CALLS:
            fail(
                f"fn was called {MOST_CALLS} times and the measuring had not ended; on this clock "
                f"a call takes {self.seconds(self.calls):g} s"
            )
        if gc.isenabled():
            self.collecting.append(self.calls)
        self.now += self.seconds(self.calls)
        self.calls += 1
        result = Result()
        self.last = weakref.ref(result)
        return result

    def blocks(self) -> list[Block]:
        """From each odd reading to the next."""
        times = self.readings
        expect(bool(times), "time.perf_counter() was never read")
        expect(
            len(times) % 2 == 0,
            f"the clock was read {len(times)} times; expected one reading before and one after "
            "each block, an even number",
            got=len(times),
        )
        on = set(self.collecting)
        return [
            Block(b[0] - a[0], b[1] - a[1], not on.isdisjoint(range(a[1], b[1])))
            for a, b in zip(times[::2], times[1::2], strict=True)
        ]

    def timed(self, stats: Any) -> list[Block]:
        """The blocks that the result is about: the last n / inner."""
        for name in ("n", "inner"):
            value = getattr(stats, name, None)
            expect(
                isinstance(value, int) and value > 0,
                f"{name} is {value!r}; expected a positive int",
                got=value,
            )
        blocks = self.blocks()
        count = stats.n // stats.inner
        whole = stats.n == count * stats.inner and 0 < count <= len(blocks)
        same = whole and all(block.calls == stats.inner for block in blocks[-count:])
        if not same:
            calls = [block.calls for block in blocks[-8:]]
            fail(
                f"n is {stats.n} and inner {stats.inner}, but the last blocks between two readings "
                f"hold {', '.join(map(str, calls))} calls; expected n / inner blocks of inner ones",
                got=[stats.n, stats.inner],
            )
        return blocks[-count:]


@contextmanager
def on_the_clock(submission: Any, watch: Stopwatch) -> Iterator[None]:
    """Put the watch in the place of time.perf_counter, for the submission too."""
    real = time.perf_counter
    names = [name for name, value in vars(submission).items() if value is real]
    try:
        time.perf_counter = watch.read
        for name in names:
            setattr(submission, name, watch.read)
        yield
    finally:
        time.perf_counter = real
        for name in names:
            setattr(submission, name, real)


def stopped(submission: Any, watch: Stopwatch, **settings: Any) -> Any:
    """`bench` on a clock of the checks' own."""
    with on_the_clock(submission, watch):
        return submission.bench(watch.fn, **settings)


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """25th, 50th and 75th percentile, interpolated linearly."""
    ordered = sorted(values)

    def at(part: float) -> float:
        place = part * (len(ordered) - 1)
        low = math.floor(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (place - low) * (ordered[high] - ordered[low])

    return at(0.25), at(0.5), at(0.75)


def same_seconds(got: Any, expected: float, what: str, known: dict[str, float]) -> None:
    """Agreement to 1e-6, relatively or of a nanosecond; `known`: sentence -> what it gives."""
    if isinstance(got, int | float) and abs(got - expected) <= 1e-6 * abs(expected) + 1e-12:
        return
    why = ""
    if isinstance(got, int | float):
        near = [text for text, value in known.items() if abs(got - value) <= 1e-6 * abs(value)]
        why = f": {near[0]}" if near else ""
    shown = f"{got:.6g}" if isinstance(got, int | float) else repr(got)
    fail(f"{what} is {shown}; expected {expected:.6g}{why}", expected=expected, got=got)


def same_stats(stats: Any, watch: Stopwatch, said: str) -> None:
    """Median and iqr are those of the blocks in the log."""
    blocks = watch.timed(stats)
    each = [block.seconds / block.calls for block in blocks]
    every = [block.seconds / block.calls for block in watch.blocks() if block.calls]
    low, median, high = quartiles(each)
    same_seconds(
        stats.median,
        median,
        f"the median of {said}",
        {
            "this is the mean over the blocks": math.fsum(each) / len(each),
            "this is the shortest block": min(each),
            "these are seconds a block, not a call": median * stats.inner,
            "blocks that found `inner` are among them": quartiles(every)[1],
        },
    )
    spread = math.sqrt(math.fsum((x - math.fsum(each) / len(each)) ** 2 for x in each) / len(each))
    same_seconds(
        stats.iqr,
        high - low,
        f"the iqr of {said}",
        {
            "this is the range, from the shortest to the longest": max(each) - min(each),
            "this is the standard deviation": spread,
            "these are seconds a block, not a call": (high - low) * stats.inner,
        },
    )


def spiky(i: int) -> float:
    return 0.04 if i % 37 == 36 else 1e-3


def slower(i: int) -> float:
    return 1e-4 * (1 + i / 100)


def wavy(i: int) -> float:
    return 2e-3 * (1.5 + math.sin(i / 9))


def faster(i: int) -> float:
    return 1e-5 + 0.02 / (1 + i)


def first_is_slow(i: int) -> float:
    return 2.0 if i < 3 else 1e-5


@pytest.mark.task("bench")
class TestBench:
    @pytest.mark.points(2, "value")
    def test_constant(self, submission):
        """The median of a steady function is what one call takes."""
        for seconds, settings in (
            (3e-4, {}),
            (0.02, {}),
            (5e-6, {"min_time": 0.01}),
            (0.3, {"warmup": 1, "min_time": 0.2}),
        ):
            watch = Stopwatch(lambda i, seconds=seconds: seconds)
            stats = stopped(submission, watch, **settings)
            said = f"a function that takes {seconds:g} s a call"
            same_stats(stats, watch, said)
            same_seconds(stats.median, seconds, f"the median of {said}", {})

    @pytest.mark.points(3, "value")
    def test_drift_and_spikes(self, submission):
        """Median and iqr are those of the blocks, with drift and spikes too."""
        for function, said in (
            (slower, "a function that gets slower"),
            (wavy, "a function that gets slower and faster"),
            (spiky, "a function with a long call now and then"),
        ):
            for min_time in (0.05, 0.6):
                watch = Stopwatch(function)
                stats = stopped(submission, watch, min_time=min_time)
                blocks = watch.timed(stats)
                picture(
                    "curve",
                    said[2:].capitalize(),
                    f"The median is {stats.median:.3g} s a call, the iqr {stats.iqr:.3g} s.",
                    series=[
                        {
                            "label": "block",
                            "x": list(range(len(blocks))),
                            "y": [block.seconds / block.calls for block in blocks],
                        }
                    ],
                    x_label="block",
                    y_label="seconds a call",
                    log_y=False,
                )
                same_stats(stats, watch, said)

    @pytest.mark.points(2, "value")
    def test_warm_up(self, submission):
        """Warm-up calls come first and are not timed."""
        for warmup in (3, 0, 5):
            watch = Stopwatch(lambda i, warmup=warmup: 10.0 if i < warmup else 1e-3)
            stats = stopped(submission, watch, warmup=warmup)
            watch.blocks()
            before = watch.readings[0][1]
            expect(
                before >= warmup,
                f"with warmup={warmup}, fn was called {before} times before the clock was first "
                "read; warm-up calls are not timed",
                expected=warmup,
                got=before,
            )
            said = f"a function whose {warmup} warm-up calls are slow"
            same_stats(stats, watch, said)
            same_seconds(stats.median, 1e-3, f"the median of {said}", {})
        watch = Stopwatch(lambda i: 10.0 if i < 2 else 1e-3)
        stats = stopped(submission, watch)
        same_seconds(stats.median, 1e-3, "the median after two slow calls (warmup is 2)", {})

    @pytest.mark.points(2, "value")
    def test_counts(self, submission):
        """n calls are timed, in five blocks or more that are long enough."""
        for seconds, settings in (
            (3e-4, {}),
            (0.007, {}),
            (0.5, {}),
            (1e-5, {"min_time": 0.02}),
            (1e-3, {"warmup": 0, "min_time": 0.3}),
        ):
            watch = Stopwatch(lambda i, seconds=seconds: seconds)
            stats = stopped(submission, watch, **settings)
            blocks = watch.timed(stats)
            least = settings.get("min_time", 0.05)
            said = f"{seconds:g} s a call, min_time {least:g}"
            expect(
                len(blocks) >= 5,
                f"{said}: {len(blocks)} blocks; expected 5 or more",
                got=len(blocks),
            )
            shortest, total = min(b.seconds for b in blocks), math.fsum(b.seconds for b in blocks)
            expect(
                shortest >= least / 10 * (1 - 1e-6),
                f"{said}: a block of {stats.inner} calls lasts {shortest:.3g} s; expected at least "
                f"{least / 10:.3g} s, a tenth of min_time",
                got=shortest,
            )
            expect(
                total >= least * (1 - 1e-6),
                f"{said}: all blocks together last {total:.3g} s; expected at least min_time",
                got=total,
            )

    @pytest.mark.points(1, "value")
    def test_short_blocks(self, submission):
        """A block that comes out too short is not counted."""
        for function, said in (
            (first_is_slow, "a function whose first calls in a block are slow"),
            (faster, "a function that gets faster"),
        ):
            watch = Stopwatch(function)
            stats = stopped(submission, watch, warmup=0)
            blocks = watch.timed(stats)
            shortest = min(block.seconds for block in blocks)
            expect(
                shortest >= 0.005 * (1 - 1e-6),
                f"{said}: a counted block of {stats.inner} calls lasts {shortest:.3g} s; expected "
                "at least 0.005 s. When a block comes out shorter, take more calls and begin again",
                got=shortest,
            )
            expect(len(blocks) >= 5, f"{said}: {len(blocks)} blocks; expected 5 or more")

    @pytest.mark.points(1, "value")
    def test_tiny_function(self, submission):
        """A function of a microsecond is called many times a block."""
        watch = Stopwatch(lambda i: 1e-6)
        stats = stopped(submission, watch, min_time=0.02)
        calls = max(block.calls for block in watch.blocks())
        expect(
            calls > 1 and stats.inner > 1,
            f"a function of 1 µs was called {calls} time between two readings, and inner is "
            f"{stats.inner}; a reading of the clock itself takes a good part of that",
            got=stats.inner,
        )
        same_seconds(stats.median, 1e-6, "the median of a function of 1 µs", {})

    @pytest.mark.points(2, "value")
    @pytest.mark.parametrize("was_on", [True, False], ids=["on before", "off before"])
    def test_garbage_collection(self, submission, was_on):
        """The collector is off in the blocks, and then as it was."""
        name = "on" if was_on else "off"
        for raises_at in (-1, 7):
            watch = Stopwatch(lambda i: 0.004, raises_at)
            before = gc.isenabled()
            (gc.enable if was_on else gc.disable)()
            raised = False
            try:
                stopped(submission, watch)
            except ZeroDivisionError:
                raised = True
            finally:
                after = gc.isenabled()
                (gc.enable if before else gc.disable)()
            expect(raised == (raises_at >= 0), "the exception of fn was swallowed")
            said = "after an exception" if raised else "after a measurement"
            expect(
                after == was_on,
                f"{said} garbage collection is {'on' if after else 'off'}; it was {name} before",
                expected=was_on,
                got=after,
            )
            if not raised:
                collecting = sum(block.collects for block in watch.blocks())
                expect(
                    not collecting,
                    f"garbage collection was on in {collecting} of {len(watch.blocks())} blocks; a "
                    "collection in a block is not fn's time",
                    got=collecting,
                )

    @pytest.mark.points(1, "value")
    def test_sync(self, submission):
        """sync is called right before each reading of the clock."""
        watch = Stopwatch(lambda i: 1e-3)
        stopped(submission, watch, sync=watch.sync)
        watch.blocks()
        late = [place for place, reading in enumerate(watch.readings) if not reading[2]]
        sides = {place % 2 for place in late}
        where = {0: "before a block", 1: "after a block"}
        expect(
            not late,
            f"{len(late)} of {len(watch.readings)} readings of the clock had no sync() right "
            f"before them, those {' and '.join(where[side] for side in sorted(sides))}; work that "
            "still runs would be left out, or be counted for another block",
            got=len(late),
        )

    @pytest.mark.points(1, "memory")
    def test_results(self, submission):
        """A result of fn is dead before the next call."""
        watch = Stopwatch(lambda i: 1e-3)
        stopped(submission, watch)
        expect(
            not watch.kept,
            f"in {watch.kept} of {watch.calls} calls the result of the call before was still "
            "alive; on a GPU it would hold memory that the next call needs",
            got=watch.kept,
        )


# --- 2 ------------------------------------------------------------------------------------------


@dataclass
class Truth:
    """What the profiler recorded about the ATen operators: name -> calls, microseconds."""

    calls: dict[str, int]
    own: dict[str, float]
    total: dict[str, float]
    ranges: float  # self time of everything else

    @property
    def all(self) -> float:
        return math.fsum(self.own.values())

    @property
    def hottest(self) -> str:
        return max(self.own, key=self.own.__getitem__)


@contextmanager
def recorded() -> Iterator[list[Any]]:
    """Every profile that ends while the context is open."""
    seen: list[Any] = []
    kind = torch.autograd.profiler.profile
    original = kind.__exit__

    def watched(self: Any, *args: Any) -> Any:
        result = original(self, *args)
        seen.append(self)
        return result

    kind.__exit__ = watched
    try:
        yield seen
    finally:
        kind.__exit__ = original


def truth_of(profiler: Any) -> Truth:
    """Calls and times by name, from the single events."""
    calls: Counter[str] = Counter()
    own: dict[str, float] = {}
    total: dict[str, float] = {}
    ranges = 0.0
    for event in profiler.function_events or ():
        spent = event.time_range.elapsed_us()
        inner = math.fsum(child.time_range.elapsed_us() for child in event.cpu_children)
        if event.name.startswith("aten::"):
            calls[event.name] += 1
            own[event.name] = own.get(event.name, 0.0) + spent - inner
            total[event.name] = total.get(event.name, 0.0) + spent
        else:
            ranges += spent - inner
    return Truth(dict(calls), own, total, ranges)


def table(title: str, truth: Truth) -> None:
    """Attach the operators with the most self time."""
    names = sorted(truth.own, key=truth.own.__getitem__, reverse=True)[:10]
    picture(
        "bars",
        title,
        f"{names[0]} has {100 * truth.own[names[0]] / truth.all:.0f} % of the self CPU time.",
        labels=names,
        series=[
            {"label": "self time", "values": [truth.own[name] for name in names]},
            {"label": "total time", "values": [truth.total[name] for name in names]},
        ],
        log=False,
        unit="µs",
    )


def profiled(submission: Any, fn: Callable[[], Any], k: int, title: str) -> tuple[list[Any], Truth]:
    """The result of `hot_ops`, and what its profile recorded."""
    runs = 0

    def counted() -> None:
        nonlocal runs
        runs += 1
        fn()

    with recorded() as profiles:
        got = submission.hot_ops(counted, k)
    expect(runs == 1, f"hot_ops called fn {runs} times; expected once", expected=1, got=runs)
    truths = [truth for profile in profiles for truth in [truth_of(profile)] if truth.calls]
    expect(bool(truths), "no profile of torch.profiler saw an operator of fn")
    truth = max(truths, key=lambda truth: truth.all)
    table(title, truth)
    is_list = isinstance(got, list) and all(isinstance(row, tuple) and len(row) == 3 for row in got)
    expect(
        is_list and all(isinstance(name, str) for name, _, _ in got),
        "the result is not a list of tuples (name, calls, share)",
        got=got,
    )
    return got, truth


def same_ops(got: list[Any], truth: Truth, k: int) -> None:
    """Names, order and shares are those of the profile."""
    names = [row[0] for row in got]
    strangers = [name for name in names if name not in truth.own]
    expect(
        not strangers,
        f"the result names {', '.join(strangers[:3])}; only ATen operators, `aten::…`, are asked "
        "for",
        got=names,
    )
    expect(len(set(names)) == len(names), "a name stands in the result twice", got=names)
    size = min(k, len(truth.own))
    expect(
        len(got) == size,
        f"{len(got)} operators for k = {k}; the profile has {len(truth.own)} of them, so "
        f"{size} are expected",
        expected=size,
        got=len(got),
    )
    ordered = sorted(truth.own.values(), reverse=True)[:size]
    own = [truth.own[name] for name in names]
    if not all(abs(a - b) <= 1e-6 + 1e-9 * abs(b) for a, b in zip(own, ordered, strict=True)):
        right = sorted(truth.own, key=truth.own.__getitem__, reverse=True)[:size]
        why = ""
        if len(own) > 1 and own == sorted(own):
            why = "; the largest comes first"
        if names == sorted(truth.total, key=truth.total.__getitem__, reverse=True)[:size]:
            why = "; these are sorted by total time, which counts the operators inside again"
        calls = [truth.calls[name] for name in names]
        if calls == sorted(calls, reverse=True) and calls[0] == max(truth.calls.values()):
            why = "; these are sorted by the number of calls"
        fail(
            f"the operators are {', '.join(names[:4])}; by self time they are "
            f"{', '.join(right[:4])}{why}",
            expected=right,
            got=names,
        )
    known = {
        "this is its total time, which counts the operators inside again": (
            truth.total,
            math.fsum(truth.total.values()),
        ),
        "this is its total time, which counts the operators inside": (truth.total, truth.all),
        "the ranges of record_function are in the sum": (truth.own, truth.all + truth.ranges),
        "it is relative to the self time of all ATen operators, not to that of the first k": (
            truth.own,
            math.fsum(own),
        ),
        "these are microseconds; divide by their sum": (truth.own, 1.0),
        "these are percent": (truth.own, truth.all / 100),
    }
    for name, _, share in got:
        expected = truth.own[name] / truth.all
        if isinstance(share, int | float) and abs(share - expected) <= 1e-6:
            continue
        why = ""
        for text, (times, whole) in known.items():
            if isinstance(share, int | float) and abs(share - times[name] / whole) <= 1e-6 * max(
                1.0, abs(share)
            ):
                why = f": {text}"
                break
        fail(
            f"the share of {name} is {share}; expected {expected:.6g}{why}",
            expected=expected,
            got=share,
        )


def matrix_among_small_ones() -> None:
    x = torch.ones(400, 400)
    for i in range(30):
        x[i].add_(x[i])
    x.mm(x)


def a_loop() -> None:
    x = total = torch.ones(3)
    for _ in range(500):
        total = total + x
    total.exp()


def composites() -> None:
    x, w = torch.ones(5, 7, 11), torch.ones(11, 13)
    for _ in range(3):
        F.cross_entropy((x @ w).flatten(0, 1), torch.zeros(35, dtype=torch.int64))
    F.scaled_dot_product_attention(x, x, x)


def some_ops() -> None:
    x = torch.ones(3, 5)
    for _ in range(7):
        x = x.mul(x)
    for _ in range(2):
        x.exp()
    x.t().mm(x)


def with_ranges() -> None:
    x = torch.ones(3, 5)
    with record_function("outer"):
        for _ in range(5):
            with record_function("inner"):
                x = x.mul(x)
        sum(range(20000))  # time of the range itself


def annotated_step(log: list[int]) -> Callable[[], None]:
    """A training step with ranges, one of them with its number."""
    layer = nn.Linear(5, 3)

    def step() -> None:
        log.append(len(log))
        with record_function(f"step {len(log)}"):
            with record_function("forward"):
                loss = layer(torch.ones(2, 5)).square().mean()
            with record_function("backward"):
                loss.backward()

    return step


def ranges_in(path: Path) -> Counter[str]:
    """How often each name stands in a Chrome trace as a range with a duration."""
    expect(path.is_file(), "there is no file at the path: nothing was exported")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        events = document["traceEvents"] if isinstance(document, dict) else document
    except (ValueError, KeyError) as error:
        fail(f"the file is no Chrome trace in JSON: {error!r}")
    return Counter(event.get("name") for event in events if event.get("ph") == "X")


@pytest.mark.task("profile_and_trace")
class TestProfileAndTrace:
    @pytest.mark.points(3, "value")
    def test_large_matrix(self, submission):
        """The one large product is named, not the many small operators."""
        for k in (1, 3):
            got, truth = profiled(submission, matrix_among_small_ones, k, "One large product")
            same_ops(got, truth, k)

    @pytest.mark.points(2, "value")
    def test_many_small(self, submission):
        """Many small additions in a loop are named."""
        got, truth = profiled(submission, a_loop, 2, "500 small additions")
        same_ops(got, truth, 2)
        calls = {row[0]: row[1] for row in got}.get("aten::add", 500)
        assert_equal(calls, 500, what="the number of calls of aten::add")

    @pytest.mark.points(3, "value")
    def test_self_time(self, submission):
        """The time of operators inside is not counted for those outside."""
        got, truth = profiled(submission, composites, 50, "Operators that call operators")
        same_ops(got, truth, 50)

    @pytest.mark.points(3, "value")
    def test_shares(self, submission):
        """Shares are of all ATen operators, and sum to 1 over all of them."""
        got, truth = profiled(submission, some_ops, 100, "All operators")
        same_ops(got, truth, 100)
        total = math.fsum(row[2] for row in got)
        expect(abs(total - 1) < 1e-6, f"the shares of all operators sum to {total:.6g}", got=total)
        got, truth = profiled(submission, some_ops, 2, "The first two operators")
        same_ops(got, truth, 2)

    @pytest.mark.points(2, "value")
    def test_calls(self, submission):
        """The calls of each operator are counted."""
        got, truth = profiled(submission, some_ops, 100, "Calls")
        for name, calls, _ in got:
            if name in truth.calls:
                assert_equal(calls, truth.calls[name], what=f"the number of calls of {name}")
        found = {row[0]: row[1] for row in got}
        for name, calls in (("aten::mul", 7), ("aten::exp", 2), ("aten::mm", 1)):
            assert_equal(found.get(name), calls, what=f"the number of calls of {name}")

    @pytest.mark.points(2, "value")
    def test_ranges(self, submission):
        """Ranges of record_function count nowhere."""
        got, truth = profiled(submission, with_ranges, 20, "Operators in ranges")
        same_ops(got, truth, 20)

    @pytest.mark.points(3, "value")
    def test_trace(self, submission, tmp_path):
        """The trace is a JSON file with the ranges of two steps."""
        for path in (tmp_path / "first.json", str(tmp_path / "second.json")):
            submission.trace(annotated_step([]), path)
            found = ranges_in(Path(path))
            for name in ("forward", "backward"):
                why = "; warm-up steps are not part of a trace" if found[name] > 2 else ""
                expect(
                    found[name] == 2,
                    f"the trace has {found[name]} ranges {name!r}; expected 2{why}",
                    expected=2,
                    got=found[name],
                )

    @pytest.mark.points(2, "value")
    def test_trace_steps(self, submission, tmp_path):
        """Of four steps the trace holds the third and the fourth."""
        log: list[int] = []
        submission.trace(annotated_step(log), tmp_path / "trace.json")
        assert_equal(len(log), 4, what="the number of calls of step")
        found = ranges_in(tmp_path / "trace.json")
        got = [number for number in range(1, 5) if found[f"step {number}"]]
        expect(
            got == [3, 4],
            f"of the steps 1 to 4 the trace holds {got}; expected [3, 4]: the first waits, the "
            "second warms up",
            expected=[3, 4],
            got=got,
        )


# --- 3 ------------------------------------------------------------------------------------------

HEAD = "import torch\nfrom torch import nn\n\n"

ITEMS = """
def run():
    t = torch.tensor(3.0)
    a = t.item()  # 1
    b = float(t) + 1.0  # 1
    c = int(t)  # 1
    for _ in range(5):
        a += t.item()  # 5
    t = t * a
    return bool(t), b, c  # 1
"""

BRANCHES = """
def run():
    t = torch.tensor(0)
    if t > 0:  # 1
        t = t - 1
    while t < 3:  # 4
        t = t + 1
    x = 1 if t else 2  # 1
    assert t == 3  # 1
    return x, not t  # 1
"""

LISTS = """
def run():
    x, t = torch.arange(6), torch.tensor(2)
    words = ["a", "b", "c", "d"]
    first = words[t]  # 1
    numbers = x.tolist()  # 1
    for row in x.view(2, 3):
        numbers += row.tolist()  # 2
    return first, t.tolist(), len(x)  # 1
"""

NONZERO = """
def run():
    x = torch.arange(5.0)
    mask = x > 2
    a = mask.nonzero()  # 1
    b = torch.nonzero(mask, as_tuple=True)  # 1
    c = torch.where(mask)  # 1
    d = x.masked_select(mask)  # 1
    return a, b, c, d, torch.masked_select(x, mask)  # 1
"""

MASKS = """
def run():
    x, table = torch.arange(5.0), torch.zeros(3, 5)
    mask = x > 2
    a = x[mask]  # 1
    x[mask] = 0.0  # 1
    x[mask] += 1  # 2
    b = table[:, mask]  # 1
    table[torch.tensor([True, False, True])] = 4.0  # 1
    table[0, mask] = torch.ones(2)  # 1
    return a, b
"""

NOTHING = """
def run():
    x, table = torch.arange(5.0), torch.zeros(3, 5)
    mask, places = x > 2, torch.tensor([2, 0])
    a = torch.where(mask, x, 0.0)
    b = x.masked_fill(mask, 0.0)
    c = x[places] + table[places, places]
    x[places] = 0.0
    d = x.cpu().numpy()
    print(x, mask)
    x.clamp_(min=1).sum().cpu()
    return a, b, c, d, table[1:, ::2], x[None, 3], x.shape[0], len(table)
"""

NESTED = """
def inner(t):
    return t.item()  # 4

def outer(t):
    return inner(t) + inner(t)

class Loss:
    def value(self, x):
        return float(x.sum())  # 2

def run():
    t = torch.tensor(2.0)
    outer(t)
    outer(t)
    biggest = max([t, t + 1, t + 2], key=lambda u: u.item())  # 3
    numbers = [u.item() for u in (t, t)]  # 2
    return [Loss().value(t) for _ in range(2)], biggest, numbers
"""

MODULES = """
class Gate(nn.Module):
    def forward(self, x):
        if x.sum() > 0:  # 3
            return x * 2
        return x

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 3), Gate(), Gate())
        self.last = Gate()

    def forward(self, x):
        return self.last(self.layers(x))

def run():
    net = Net()
    x = torch.ones(2, 3)
    loss = net(x).mean()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(net.parameters(), 1.0, error_if_nonfinite=True)  # 1
    return loss.item(), norm  # 1
"""


def marked(name: str, text: str) -> dict[str, int]:
    """What the numbers at the ends of its lines promise."""
    lines = enumerate(text.splitlines(), start=1)
    found = [(number, re.search(r"# (\d+)$", line)) for number, line in lines]
    return {f"{name}:{number}": int(hit[1]) for number, hit in found if hit}


def from_a_file(text: str, path: Path) -> types.ModuleType:
    """The submission as Python would import it: its frames name its file."""
    module = types.ModuleType(path.stem)
    module.__file__ = str(path)
    sys.modules[path.stem] = module
    exec(compile(text, str(path), "exec", dont_inherit=True), module.__dict__)
    return module


def syncs(
    process: Any, source: str, folder: Path, scripts: dict[str, str]
) -> dict[str, dict[str, int]]:
    """`find_syncs` of each script's `run`, in a process of its own: it may look at frames there."""

    def look(_: Any) -> dict[str, dict[str, int]]:
        results = {}
        (folder / "tool").mkdir(parents=True)
        (folder / "tool" / "hot_spots.py").write_text(source, encoding="utf-8")
        module = from_a_file(source, folder / "tool" / "hot_spots.py")
        for name, text in scripts.items():
            path = folder / name
            path.write_text(text, encoding="utf-8")
            space: dict[str, Any] = {"__name__": path.stem}
            exec(compile(text, str(path), "exec"), space)
            got = module.find_syncs(space["run"])
            expect(isinstance(got, dict), f"the result is a {type(got).__name__}; expected a dict")
            results[name] = {str(key): int(value) for key, value in got.items()}
        return results

    return process(look)


def same_syncs(process: Any, source: str, folder: Path, **scripts: str) -> None:
    """The lines and counts of each script; keywords are file names without `.py`."""
    texts = {f"{name}.py": HEAD + text.strip("\n") + "\n" for name, text in scripts.items()}
    results = syncs(process, source, folder / "mine", texts)
    for name, text in texts.items():
        got, expected = results[name], marked(name, text)
        lines = text.splitlines()

        def code(key: str, lines: list[str] = lines, name: str = name) -> str:
            file, _, number = key.rpartition(":")
            known = file == name and number.isdigit() and 0 < int(number) <= len(lines)
            return f" (`{lines[int(number) - 1].partition('  #')[0].strip()}`)" if known else ""

        picture(
            "text",
            name,
            "Marked are the lines where the host would wait.",
            panels=[
                {
                    "label": name,
                    "lines": [line.partition("  #")[0] for line in lines],
                    "marked": [int(key.rpartition(":")[2]) - 1 for key in expected],
                }
            ],
        )
        strangers = [key for key in got if not key.startswith(f"{name}:")]
        for key in [*strangers, *(expected | got)]:
            if got.get(key, 0) == expected.get(key, 0):
                continue
            why = ""
            if key in strangers:
                why = f"; it is no line of {name}: keys are base name and line, outside of torch"
            elif got.get(key, 0) == 2 * expected.get(key, 0) > 0:
                why = "; each call counts once"
            fail(
                f"{key}{code(key)}: {got.get(key, 0)} waits; expected {expected.get(key, 0)}{why}",
                expected=expected,
                got=got,
            )


@pytest.mark.task("find_syncs")
class TestFindSyncs:
    @pytest.mark.points(2, "value")
    def test_items(self, fresh_process, source, tmp_path):
        """item, float, int and bool count once a call, at their line."""
        same_syncs(fresh_process, source, tmp_path, items=ITEMS)

    @pytest.mark.points(2, "value")
    def test_branches(self, fresh_process, source, tmp_path):
        """A tensor as a condition is a wait."""
        same_syncs(fresh_process, source, tmp_path, branches=BRANCHES)

    @pytest.mark.points(2, "value")
    def test_lists(self, fresh_process, source, tmp_path):
        """tolist and a tensor as the index of a list are waits."""
        same_syncs(fresh_process, source, tmp_path, lists=LISTS)

    @pytest.mark.points(2, "value")
    def test_nonzero(self, fresh_process, source, tmp_path):
        """Results whose size depends on values are waits."""
        same_syncs(fresh_process, source, tmp_path, nonzero=NONZERO)

    @pytest.mark.points(2, "value")
    def test_masks(self, fresh_process, source, tmp_path):
        """Reading and writing by a bool mask are waits."""
        same_syncs(fresh_process, source, tmp_path, masks=MASKS)

    @pytest.mark.points(1, "value")
    def test_nothing(self, fresh_process, source, tmp_path):
        """What needs no wait is not counted, nor are cpu, numpy and print."""
        same_syncs(fresh_process, source, tmp_path, nothing=NOTHING)

    @pytest.mark.points(2, "value")
    def test_nested(self, fresh_process, source, tmp_path):
        """A wait counts at the innermost line of the user's code."""
        same_syncs(fresh_process, source, tmp_path, nested=NESTED)

    @pytest.mark.points(2, "value")
    def test_modules(self, fresh_process, source, tmp_path):
        """Frames of torch are left out, files named like it are not."""
        same_syncs(fresh_process, source, tmp_path, model=MODULES, my_torch_model=MODULES)


# --- 4 ------------------------------------------------------------------------------------------


def flops_of(submission: Any, fn: Callable[..., Any], *args: Any) -> Any:
    """The entry `flops` of the cost."""
    got = submission.cost(fn, *args)
    keys = ["bound", "bytes_moved", "flops", "intensity"]
    expect(isinstance(got, dict), f"the result is a {type(got).__name__}; expected a dict")
    expect(sorted(got) == keys, f"the keys are {sorted(got)}; expected {keys}")
    return got["flops"]


def same_count(got: Any, expected: int, what: str, known: dict[str, float] | None = None) -> None:
    """Equal numbers; `known`: sentence about a mistake -> what it gives."""
    if got == expected:
        return
    why = [text for text, value in (known or {}).items() if value == got]
    fail(
        f"{what}: {got}; expected {expected}" + (f": {why[0]}" if why else ""),
        expected=expected,
        got=got,
    )


MACS = "a multiply-add counts 2"


@pytest.mark.task("flops_and_roofline")
class TestFlopsAndRoofline:
    @pytest.mark.points(3, "value")
    def test_forward(self, submission):
        """An MLP takes 2mnk FLOPs a layer."""
        batch, sizes = 5, (3, 7, 11)
        for bias in (False, True):
            net = nn.Sequential(
                nn.Linear(3, 7, bias=bias), nn.ReLU(), nn.Linear(7, 11, bias=bias), nn.Softmax(1)
            )
            x = randn(batch, 3)
            got = flops_of(submission, net, x)
            products = sum(batch * m * n for m, n in itertools.pairwise(sizes))
            same_count(
                got,
                2 * products,
                f"flops of an MLP {sizes}, batch 5, {'with' if bias else 'without'} bias",
                {MACS: products, "the layers after the first are left out": 2 * batch * 21},
            )

    @pytest.mark.points(3, "value")
    def test_backward(self, submission):
        """A backward costs its two products a layer, without that for the input."""
        batch, sizes = 5, (3, 7, 11, 2)
        net = nn.Sequential(
            nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 11), nn.Tanh(), nn.Linear(11, 2)
        )

        def step(x: Tensor) -> None:
            net(x).square().mean().backward()

        layers = [2 * batch * m * n for m, n in itertools.pairwise(sizes)]
        for needs, expected in (
            (False, 3 * sum(layers) - layers[0]),
            (True, 3 * sum(layers)),
        ):
            x = randn(batch, 3).requires_grad_(needs)
            got = flops_of(submission, step, x)
            same_count(
                got,
                expected,
                f"flops of forward and backward of an MLP {sizes}, batch 5, whose input needs "
                f"{'a' if needs else 'no'} gradient",
                {
                    MACS: expected // 2,
                    "the backward is left out": sum(layers),
                    "the backward costs more than the forward: for a layer inside two products, "
                    "not one": 2 * sum(layers),
                    "the first layer needs no gradient of its input": 3 * sum(layers),
                },
            )

    @pytest.mark.points(2, "value")
    def test_attention(self, submission):
        """Attention takes 4·b·h·s²·d FLOPs, baddbmm those of its products."""
        b, h, s, d = 2, 3, 5, 7

        def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return (q @ k.mT / math.sqrt(d)).softmax(-1) @ v

        qkv = [randn(b, h, s, d) for _ in range(3)]
        got = flops_of(submission, attention, *qkv)
        known = {MACS: 2 * b * h * s * s * d, "the batch is left out": 4 * s * s * d}
        same_count(got, 4 * b * h * s * s * d, f"flops of attention over {(b, h, s, d)}", known)
        got = flops_of(submission, torch.baddbmm, randn(2, 3, 1), randn(2, 3, 5), randn(2, 5, 7))
        known = {MACS: 210, "the batch is left out": 210}
        same_count(got, 420, "flops of baddbmm, 2 products of (3, 5) and (5, 7)", known)

    @pytest.mark.points(2, "value")
    def test_convolution(self, submission):
        """A convolution counts by its output, its backward the same way."""
        conv = nn.Conv2d(3, 5, (2, 3), stride=2, padding=1)
        x = randn(2, 3, 7, 11)
        got = flops_of(submission, conv, x)
        places = 4 * 6
        forward = 2 * 2 * places * 5 * 3 * 2 * 3
        known = {
            MACS: forward // 2,
            "the kernel is left out": forward // 6,
            "the batch is left out": forward // 2,
            "count the places of the output, not of the input": forward // places * 77,
        }
        same_count(got, forward, "flops of Conv2d(3, 5, (2, 3), stride 2, padding 1)", known)
        line = nn.Conv1d(3, 5, 2)
        got = flops_of(submission, line, randn(2, 3, 7))
        same_count(got, 2 * 2 * 6 * 5 * 3 * 2, "flops of Conv1d(3, 5, 2) on 7 places", {})

        def step(x: Tensor) -> None:
            conv(x).square().mean().backward()

        for needs, times in ((False, 2), (True, 3)):
            got = flops_of(submission, step, x.clone().requires_grad_(needs))
            said = f"whose input needs {'a' if needs else 'no'} gradient"
            same_count(
                got,
                times * forward,
                f"flops of forward and backward of a Conv2d {said}",
                {"the backward is left out": forward, "backward counts as forward": 2 * forward},
            )

    @pytest.mark.points(2, "value")
    def test_counter(self, submission):
        """On whole models the FLOPs are those of torch's FlopCounterMode."""
        for width in (5, 7):
            net = nn.Sequential(
                nn.Conv2d(2, width, 3),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Flatten(2),
                nn.Linear(4, 3),
                nn.LayerNorm(3),
                nn.Flatten(),
                nn.Linear(3 * width, 2),
            )

            def step(x: Tensor, net: nn.Module = net) -> None:
                net(x).logsumexp(1).sum().backward()

            x = randn(3, 2, 6, 7)
            got = flops_of(submission, step, x)
            with FlopCounterMode(display=False) as counter:
                step(x.clone())
            same_count(
                got,
                counter.get_total_flops(),
                "flops of forward and backward of a small network",
                {MACS: counter.get_total_flops() // 2},
            )

    @pytest.mark.points(3, "value")
    def test_bytes(self, submission):
        """Each operator moves its inputs and its outputs."""
        x, y, wide = randn(3, 5), randn(3, 5), randn(3, 5, dtype=torch.float64)
        for fn, args, expected, said, known in (
            (torch.add, (x, y), 180, "x + y, of 15 floats each", {"the result is moved too": 120}),
            (torch.add, (wide, wide * 2), 360, "x + y, of 15 doubles each", {}),
            (torch.add, (x, x), 120, "x + x", {"the storages are distinct, x counts once": 180}),
            (
                Tensor.add_,
                (x.clone(), y),
                120,
                "x.add_(y)",
                {"the result is x itself, which counts once": 180},
            ),
            (torch.cat, ([x, y],), 240, "cat of two tensors", {"inputs in a list count": 120}),
            (
                lambda x: x.max(dim=1),
                (x,),
                60 + 12 + 24,
                "x.max(dim=1)",
                {"both results are moved": 60},
            ),
            (torch.mm, (x, randn(5, 7)), 60 + 140 + 84, "(3, 5) @ (5, 7)", {}),
            (lambda x, y: (x * y).exp(), (x, y), 180 + 120, "(x * y).exp()", {}),
        ):
            got = submission.cost(fn, *args)
            same_count(got["bytes_moved"], expected, f"bytes moved by {said}", known)
            same_seconds(
                got["intensity"],
                got["flops"] / expected,
                f"the intensity of {said}",
                {"it is flops by bytes": expected / got["flops"] if got["flops"] else -1},
            )

    @pytest.mark.points(2, "value")
    def test_views(self, submission):
        """Views move nothing, and an expanded input what it stores."""
        x, row, grid = randn(3, 5), randn(5), randn(7, 11)
        for fn, args, expected, said, known in (
            (
                lambda x: x.t().unsqueeze(0).expand(2, 5, 3)[:, 1:].view(2, 4, 3).detach(),
                (x,),
                0,
                "views of x",
                {},
            ),
            (lambda x: x.unbind(0), (x,), 0, "x.unbind(0)", {}),
            (
                lambda x, row: x + row.expand(3, 5),
                (x, row),
                60 + 20 + 60,
                "x + row.expand(3, 5)",
                {"an expanded row stores 5 numbers, not 15": 180},
            ),
            (lambda grid: grid.t().exp(), (grid,), 2 * 308, "grid.t().exp()", {}),
            (
                lambda grid: grid[2].exp(),
                (grid,),
                308 + 44,
                "grid[2].exp()",
                {"the whole storage counts, also where a part is shown": 88},
            ),
        ):
            got = submission.cost(fn, *args)
            if expected == 0:
                known = {"views move nothing": got["bytes_moved"]}
            same_count(got["bytes_moved"], expected, f"bytes moved by {said}", known)

    @pytest.mark.points(1, "value")
    def test_no_bytes(self, submission):
        """Where no bytes move, the intensity is 0.0."""
        got = submission.cost(lambda x: x.t(), randn(3, 5))
        for key in ("flops", "bytes_moved", "intensity"):
            same_count(got[key], 0, f"{key} of a transposed view")

    @pytest.mark.points(2, "value")
    def test_bound(self, submission):
        """The bound is the slowest of computing, memory and overhead."""
        big, long = randn(256, 256), randn(200_000)

        def small_steps(x: Tensor) -> None:
            for _ in range(30):
                x = x + x

        def looking(x: Tensor) -> Tensor:
            for _ in range(200):
                x = x.t()
            return x @ x

        says = {"small_steps": "30 sums of 5 numbers", "looking": "200 transposes and one product"}
        cases = (
            ("compute", torch.mm, (big, big), {}),
            ("memory", torch.exp, (long,), {}),
            ("overhead", small_steps, (randn(5),), {}),
            ("memory", torch.mm, (big, big), {"peak_flops": 1e14, "peak_bytes": 1e9}),
            ("overhead", torch.mm, (big, big), {"per_op_s": 1e-2}),
            ("compute", looking, (randn(256, 256),), {}),
        )
        for expected, fn, args, machine in cases:
            got = submission.cost(fn, *args, **machine)
            said = says.get(fn.__name__, fn.__name__) + (f" with {machine}" if machine else "")
            assert_equal(got["bound"], expected, what=f"the bound of {said}")
        names = ["256 x 256 product", "exp of 200 000", "30 sums of 5"]
        found = [submission.cost(fn, *args) for _, fn, args, _ in cases[:3]]
        steps = [count_ops(fn, *args).count for _, fn, args, _ in cases[:3]]
        picture(
            "bars",
            "What bounds the speed",
            "Microseconds by computing, by memory and by overhead; the longest bar is the bound.",
            labels=names,
            series=[
                {"label": "compute", "values": [got["flops"] / 5e4 for got in found]},
                {"label": "memory", "values": [got["bytes_moved"] / 1e4 for got in found]},
                {"label": "overhead", "values": [5.0 * count for count in steps]},
            ],
            log=True,
            unit="µs",
        )


# --- 5 ------------------------------------------------------------------------------------------


class HostReads(TorchDispatchMode):
    """Names the operators for which the host would wait."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = names

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        short = func._schema.name.partition("::")[2]
        places = args[1] if short.startswith("index") and len(args) > 1 else ()
        by_mask = isinstance(places, list | tuple) and any(
            isinstance(place, Tensor) and place.dtype == torch.bool for place in places
        )
        if by_mask or short in ("_local_scalar_dense", "nonzero", "masked_select"):
            self.names.append({"_local_scalar_dense": "item"}.get(short, short))
        return func(*args, **kwargs) if kwargs else func(*args)


class ListReads(TorchFunctionMode):
    """Names calls of `tolist`, which no dispatch shows."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = names

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "tolist":
            self.names.append("tolist")
        return func(*args, **kwargs) if kwargs else func(*args)


Inputs = tuple[Tensor, Tensor, Tensor]


def inputs(batch: int, candidates: int, dim: int, dtype: torch.dtype = torch.float32) -> Inputs:
    """Queries, items, and a mask that keeps some of each row."""
    keep = torch.rand(batch, candidates) < 0.7
    keep[:, candidates // 2] = True
    return randn(batch, dim, dtype=dtype), randn(batch, candidates, dim, dtype=dtype), keep


def rankers(submission: Any, dim: int, hidden: int) -> tuple[nn.Module, nn.Module]:
    """The fast and the slow one, with the same random weights."""
    slow = SlowRanker(dim, hidden)
    with torch.no_grad():
        slow.fade.fill_(0.3)
    fast = submission.FastRanker(dim, hidden)
    try:
        fast.load_state_dict(slow.state_dict())
    except RuntimeError as error:
        fail(f"the state of the slow ranker doesn't fit: {' '.join(str(error).split())[:300]}")
    return fast, slow


def parts(result: Any) -> tuple[Tensor, Tensor]:
    """Weights and order."""
    is_pair = isinstance(result, tuple) and len(result) == 2
    expect(is_pair, f"forward returns a {type(result).__name__}; expected (weights, order)")
    expect(all(isinstance(part, Tensor) for part in result), "forward returns no two tensors")
    return result


def plain_weights(slow: nn.Module, queries: Tensor, items: Tensor, keep: Tensor) -> Tensor:
    """The slow ranker's weights in float64."""
    ready = SlowRanker(queries.shape[1], slow.hidden).double()
    ready.load_state_dict(slow.state_dict())
    with torch.no_grad():
        return ready(queries.double(), items.double(), keep)[0]


def same_order(order: Tensor, weights: Tensor) -> None:
    """A permutation by falling weight, where the weights differ by more than rounding."""
    assert_dtype(order, torch.int64, what="the order")
    for b, row in enumerate(order.tolist()):
        expect(
            sorted(row) == list(range(len(row))),
            f"row {b} of the order is {row}; expected each candidate's number once",
            got=row,
        )
        falling = weights[b][row].tolist()
        for place, (one, other) in enumerate(itertools.pairwise(falling)):
            expect(
                one >= other - 1e-6,
                f"row {b} of the order puts candidate {row[place]} with weight {one:.6g} before "
                f"{row[place + 1]} with {other:.6g}; expected by falling weight",
                got=row,
            )


@pytest.mark.task("optimise_it")
class TestOptimiseIt:
    @pytest.mark.points(4, "value")
    def test_values(self, submission):
        """Weights and order are those of the slow ranker."""
        for batch, candidates, dim, hidden in ((1, 2, 3, 5), (2, 7, 5, 3), (5, 11, 3, 2)):
            fast, slow = rankers(submission, dim, hidden)
            for _ in range(2):
                x = inputs(batch, candidates, dim)
                weights, order = parts(fast(*(part.clone() for part in x)))
                assert_shape(weights, batch=batch, candidates=candidates)
                assert_shape(order, batch=batch, candidates=candidates)
                expected = plain_weights(slow, *x)
                assert_close(weights.double(), expected, rtol=1e-5, atol=1e-5, what="weights")
                same_order(order, expected)

    @pytest.mark.points(1, "value")
    def test_computed_anew(self, submission):
        """Each call computes anew, from what inputs and weights now hold."""
        fast, slow = rankers(submission, 3, 5)
        x, other = inputs(2, 7, 3), inputs(2, 7, 3)
        fast(*x)
        for part, new in zip(x, other, strict=True):
            part.copy_(new)
        weights, _ = parts(fast(*x))
        what = "weights of inputs that were overwritten since the last call"
        assert_close(weights.double(), plain_weights(slow, *other), rtol=1e-5, atol=1e-5, what=what)
        for ranker in (fast, slow):
            with torch.no_grad():
                ranker.item.weight.mul_(-2)
        weights, _ = parts(fast(*x))
        what = "weights after a step of the parameters"
        assert_close(weights.double(), plain_weights(slow, *other), rtol=1e-5, atol=1e-5, what=what)

    @pytest.mark.points(1, "value")
    def test_nothing_kept(self, submission):
        """A query without candidates has weights of 0, in numerical order."""
        fast, slow = rankers(submission, 3, 5)
        queries, items, keep = inputs(3, 7, 3)
        keep[1] = False
        queries.requires_grad_()
        weights, order = parts(fast(queries, items, keep))
        expect(
            not weights[1].any(),
            f"the weights of a row that keeps nothing are {weights[1].tolist()}; expected zeros",
            got=weights[1],
        )
        assert_equal(order[1].tolist(), list(range(7)), what="the order of that row")
        expected = plain_weights(slow, queries.detach(), items, keep)
        assert_close(weights.detach().double(), expected, rtol=1e-5, atol=1e-5, what="weights")
        weights.backward(torch.randn(3, 7))
        expect(
            all(bool(p.grad.isfinite().all()) for p in fast.parameters() if p.grad is not None)
            and bool(queries.grad.isfinite().all()),
            "with a row that keeps nothing there is nan or inf in a gradient",
        )

    @pytest.mark.points(3, "gradient")
    def test_gradients(self, submission):
        """Gradients reach inputs and parameters as in the slow ranker."""
        fast, slow = rankers(submission, 3, 5)
        queries, items, keep = inputs(3, 7, 3, torch.float64)
        fast, slow = fast.double(), slow.double()
        names = [name for name, _ in slow.named_parameters()]
        values = [p.detach().clone() for p in slow.parameters()]

        def through(module: nn.Module) -> Callable[..., Tensor]:
            def run(queries: Tensor, items: Tensor, *parameters: Tensor) -> Tensor:
                state = dict(zip(names, parameters, strict=True))
                return parts(torch.func.functional_call(module, state, (queries, items, keep)))[0]

            return run

        assert_gradients_close(
            through(fast),
            through(slow),
            queries,
            items,
            *values,
            names=["queries", "items", *names],
            rtol=1e-5,
            atol=1e-7,
            none_is_zero=False,
        )

    @pytest.mark.points(1, "value")
    def test_dtype(self, submission):
        """Weights have the dtype of the queries; float64 is not mixed in."""
        fast, _ = rankers(submission, 3, 5)
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            ready = fast.to(dtype)
            weights, order = parts(ready(*inputs(2, 7, 3, dtype)))
            assert_dtype(weights, dtype, what=f"weights for queries in {dtype}")
            assert_dtype(order, torch.int64, what="the order")

    @pytest.mark.points(2, "value")
    def test_ties(self, submission):
        """Equal weights rank by lower number first."""
        fast, slow = rankers(submission, 2, 4)
        with torch.no_grad():
            for p in fast.parameters():
                p.copy_(torch.randint(-2, 3, p.shape).to(p.dtype))
            fast.fade.zero_()
        slow.load_state_dict(fast.state_dict())
        queries, items, keep = inputs(3, 67, 2)
        kinds = rand_ints(3, 67, high=5)
        choices = torch.randint(-3, 4, (5, 2)).float()
        queries, items = queries.round(), choices[kinds]
        weights, order = parts(fast(queries.clone(), items.clone(), keep.clone()))
        same_order(order, slow(queries, items, keep)[0].detach())
        for b, row in enumerate(order.tolist()):
            for one, other in itertools.pairwise(row):
                # Weights that differ by rounding alone may stand either way.
                is_tie = bool(weights[b, one] == weights[b, other])
                expect(
                    one < other or not is_tie,
                    f"row {b} of the order puts candidate {one} before {other}; their weights are "
                    "equal, so the lower number comes first",
                    got=row,
                )

    @pytest.mark.points(1, "structure")
    def test_state(self, submission):
        """Constructor and state_dict are those of the slow ranker."""
        for dim, hidden in ((3, 5), (7, 2)):
            slow = SlowRanker(dim, hidden).state_dict()
            fast = submission.FastRanker(dim=dim, hidden=hidden)
            parts(fast(*inputs(2, 7, dim)))
            got = {name: tuple(value.shape) for name, value in fast.state_dict().items()}
            expected = {name: tuple(value.shape) for name, value in slow.items()}
            assert_equal(sorted(got), sorted(expected), what="the keys of state_dict")
            assert_equal(
                [got[name] for name in sorted(got)],
                [expected[name] for name in sorted(got)],
                what="the shapes in state_dict",
            )
            trained = sorted(name for name, _ in fast.named_parameters())
            assert_equal(trained, sorted(expected), what="the names of the parameters")

    @pytest.mark.points(1, "value")
    def test_arguments_stay(self, submission):
        """Queries, items and mask stay as they are."""
        fast, _ = rankers(submission, 3, 5)
        with torch.no_grad():
            assert_unchanged(fast, *inputs(2, 7, 3))

    @pytest.mark.points(1, "structure")
    def test_device(self, submission):
        """Everything lies on the device of the inputs."""
        fast, _ = rankers(submission, 3, 5)
        assert_runs_on_meta(lambda ranker, *x: ranker(*x), fast, *inputs(2, 7, 3))

    @pytest.mark.points(5, "structure")
    def test_operators(self, submission):
        """A forward takes at most 40 operators at any size."""
        fast, slow = rankers(submission, 3, 5)
        counts = []
        for batch, candidates in ((1, 2), (5, 7), (11, 13)):
            x = inputs(batch, candidates, 3)
            log = assert_ops_at_most(40, fast, *x)
            parts(log)
            counts.append([count_ops(ranker, *x).count for ranker in (slow, fast)])
        measured(f"{counts[-1][1]} operators")
        picture(
            "bars",
            "Operators of a forward",
            f"{counts[-1][0]} in the slow ranker, {counts[-1][1]} in yours, at 11 x 13.",
            labels=["1 x 2", "5 x 7", "11 x 13"],
            series=[
                {"label": "slow", "values": [count[0] for count in counts]},
                {"label": "yours", "values": [count[1] for count in counts]},
            ],
            log=True,
            unit="operators",
            limit=40,
        )

    @pytest.mark.points(4, "structure")
    def test_no_loop(self, submission):
        """Nothing is called more often for more queries or more candidates."""
        fast, _ = rankers(submission, 3, 5)
        assert_no_python_loop(fast, lambda n: inputs(n, 7, 3), sizes=(3, 6))
        assert_no_python_loop(fast, lambda n: inputs(5, n, 3), sizes=(4, 8))

    @pytest.mark.points(2, "structure")
    def test_no_waits(self, submission):
        """No value is read on the host."""
        fast, _ = rankers(submission, 3, 5)
        x = inputs(3, 7, 3)
        names: list[str] = []
        with ListReads(names), HostReads(names):
            fast(*x)
        expect(
            not names,
            f"a forward makes the host wait {len(names)} times: {', '.join(sorted(set(names)))}",
            expected=0,
            got=len(names),
        )

    @pytest.mark.points(1, "memory")
    def test_memory(self, submission):
        """A forward holds at most twice what the slow one holds."""
        fast, slow = rankers(submission, 5, 16)
        x = inputs(5, 17, 5)
        limit = 2 * peak_memory(slow, *x)
        assert_peak_memory(limit, fast, *x)

    @pytest.mark.points(1, "speed")
    @pytest.mark.after("test_values")
    def test_five_times(self, submission):
        """It is at least 5 times as fast as the slow ranker."""
        race(submission, 0.2)

    @pytest.mark.points(1, "speed")
    @pytest.mark.after("test_values")
    def test_twenty_times(self, submission):
        """It is at least 20 times as fast as the slow ranker."""
        race(submission, 0.05)

    @pytest.mark.points(1, "structure")
    def test_report(self, submission, scratch):
        """report.json holds the hot operators before and after."""
        path = scratch / "report.json"
        expect(path.is_file(), "there is no report.json")
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            fail(f"report.json is no JSON: {error}")
        is_right = isinstance(report, dict) and {"before", "after"} <= set(report)
        expect(is_right, "report.json is no object with `before` and `after`")
        fast, slow = rankers(submission, 3, 5)
        for key, ranker in (("before", slow), ("after", fast)):
            rows = report[key]
            expect(
                isinstance(rows, list) and 0 < len(rows) <= 5,
                f"`{key}` of report.json is not a list of 1 to 5 operators",
                got=rows,
            )
            for row in rows:
                fits = isinstance(row, list) and len(row) == 3 and isinstance(row[0], str)
                fits = fits and type(row[1]) is int and isinstance(row[2], int | float)
                expect(
                    fits and 0 <= row[2] <= 1,
                    f"`{key}` of report.json holds {row!r}; expected [name, calls, share]",
                    got=row,
                )
            with torch.profiler.profile(
                activities=[torch.profiler.ProfilerActivity.CPU]
            ) as profiler:
                ranker(*inputs(2, 5, 3))
            names = {event.key for event in profiler.key_averages()}
            expect(
                any(row[0] in names for row in rows),
                f"`{key}` of report.json names {', '.join(row[0] for row in rows)}; a forward of "
                f"the {'slow' if key == 'before' else 'fast'} ranker has none of them",
                got=rows,
            )
        before, after = (max(row[1] for row in report[key]) for key in ("before", "after"))
        expect(
            before >= 128 > after,
            f"the most calls of an operator are {before} before and {after} after; with 8 queries "
            "or more of 16 candidates the slow ranker has 128 or more, and the fast one far fewer",
            got=[before, after],
        )


def race(submission: Any, limit: float) -> None:
    """The fast ranker against the slow one."""
    fast, slow = rankers(submission, 5, 8)

    def make(generator: torch.Generator, device: Any) -> Inputs:
        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, device=device)

        return draw(7, 5), draw(7, 29, 5), draw(7, 29) < 0.7

    def weights(ranker: nn.Module) -> Callable[..., Tensor]:
        def run(*x: Tensor) -> Tensor:
            with torch.no_grad():
                return ranker(*x)[0].float()

        return run

    assert_speed(
        weights(fast),
        weights(slow),
        make,
        limit=limit,
        what="FastRanker (the model solution is SlowRanker)",
    )
