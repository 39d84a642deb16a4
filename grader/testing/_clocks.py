"""Clocks for speed checks, on the processor and on an accelerator, and a bell for endless calls.

All clocks are bound here at import, which is before any submission is loaded: one that replaces
`time.process_time` afterwards changes nothing.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from time import perf_counter, process_time
from types import FrameType
from typing import Any, Protocol, TypeVar

import torch

from grader.testing._votes import Pair

try:
    from resource import RUSAGE_SELF, getrusage
except ImportError:  # Windows tells nobody who waited of their own accord

    def _waits() -> int:
        return 0
else:

    def _waits() -> int:
        return getrusage(RUSAGE_SELF).ru_nvcsw


T = TypeVar("T")

_FLUSH_BYTES = 256 * 2**20  # larger than any second-level cache


class TooLongError(BaseException):
    """A call was stopped; not an `Exception`, so that no `except Exception` swallows it."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What some calls in a row took together."""

    seconds: float  # by the clock that votes
    wall: float
    calls: int = 1
    waits: int = 0  # times the processor was given up; being interrupted is none of them

    @property
    def each(self) -> float:
        """Seconds a call, and never 0, so that ratios exist."""
        return max(self.seconds / self.calls, 1e-9)

    @property
    def wall_each(self) -> float:
        """Wall seconds a call."""
        return max(self.wall / self.calls, 1e-9)


class Clock(Protocol):
    """How a sample is taken, and how two of them become a pair."""

    shortest: float  # seconds a sample must last

    def now(self) -> float:
        """Seconds of the kind that a call is stopped by."""
        ...

    def ready(self) -> None:
        """Bring the device to rest before a sample."""
        ...

    def sample(self, run: Callable[[], T], calls: int) -> tuple[T, Sample]:
        """Time `run()`, which calls the function `calls` times."""
        ...

    def pair(self, candidate: Sample, model: Sample) -> Pair:
        """The ratios of two samples."""
        ...

    def settled(self, samples: Sequence[Sample]) -> bool:
        """Whether the model solution has been run often enough to know its pace."""
        ...


class HostClock:
    """The processor's time of this process, all threads together, with wall time beside it.

    Processor time, because it does not count what neighbours do and because a second thread
    buys nothing. A model solution that waits by design (for a file, for a sleep) is timed by
    wall time instead: `by_wall`.
    """

    shortest = 150e-6  # reading the clock costs 1 µs; longer samples meet more interruptions

    def __init__(
        self,
        *,
        by_wall: bool = False,
        cpu: Callable[[], float] = process_time,
        wall: Callable[[], float] = perf_counter,
        waits: Callable[[], int] = _waits,
    ) -> None:
        self.by_wall = by_wall
        self._cpu = cpu
        self._wall = wall
        self._waits = waits

    def of_the_wall(self) -> HostClock:
        """The same clock, voting by wall time."""
        return HostClock(by_wall=True, cpu=self._cpu, wall=self._wall, waits=self._waits)

    def now(self) -> float:
        """Processor seconds so far, or wall seconds."""
        return self._wall() if self.by_wall else self._cpu()

    def ready(self) -> None:
        """Nothing runs behind the back of the processor."""

    def sample(self, run: Callable[[], T], calls: int) -> tuple[T, Sample]:
        """Time `run()` on both clocks."""
        waits = self._waits()
        wall, cpu = self._wall(), self._cpu()
        result = run()
        cpu, wall = self._cpu() - cpu, self._wall() - wall
        waits = self._waits() - waits
        return result, Sample(wall if self.by_wall else cpu, wall, calls, waits)

    def pair(self, candidate: Sample, model: Sample) -> Pair:
        """The ratio by processor time, and by wall time where the candidate waits more."""
        ratio = candidate.each / model.each
        if candidate.waits <= model.waits:
            # Interrupted or not: on a crowded machine wall time says nothing about so few pairs.
            return Pair(ratio, ratio)
        return Pair(ratio, candidate.wall_each / model.wall_each)

    def settled(self, samples: Sequence[Sample]) -> bool:
        """After 12 runs, or 30 ms; of wall time, which neighbours use up too, after 200 ms."""
        if len(samples) < 2:
            return False
        return (
            len(samples) >= 12
            or sum(sample.seconds for sample in samples) > 0.03
            or sum(sample.wall for sample in samples) > 0.2
        )

    def is_idle(self, samples: Sequence[Sample]) -> bool:
        """Whether each of the samples was mostly spent waiting, of its own accord."""
        return all(s.waits and s.wall > 2 * s.seconds for s in samples)


class Event(Protocol):
    """A mark in the queue of a device, as `torch.Event(enable_timing=True)` makes it."""

    def record(self) -> None:
        """Put the mark in the queue."""
        ...

    def elapsed_time(self, other: Any, /) -> float:
        """Milliseconds from this mark to the other."""
        ...


class DeviceClock:
    """The time between two events on an accelerator, with wall time to the end of all its work.

    Work on another stream escapes the events and not the wall time, so a pair whose candidate
    hides more between the two than the model solution does is voted on by wall time. Without
    events (`event=None`) wall time is all there is.
    """

    shortest = 200e-6

    def __init__(
        self,
        *,
        event: Callable[[], Event] | None,
        synchronize: Callable[[], None],
        flush: Callable[[], object] = lambda: None,
        settings: Callable[[], object] = lambda: None,
        wall: Callable[[], float] = perf_counter,
    ) -> None:
        self._event = event
        self._synchronize = synchronize
        self._flush = flush
        self._settings = settings
        self._wall = wall

    def now(self) -> float:
        """Wall seconds."""
        return self._wall()

    def ready(self) -> None:
        """Let the device end its work and forget what its caches hold, at equal settings."""
        self._settings()
        self._synchronize()
        self._flush()
        self._synchronize()

    def sample(self, run: Callable[[], T], calls: int) -> tuple[T, Sample]:
        """Time `run()` between two events, and by the wall until the device is idle."""
        if self._event is None:
            began = self._wall()
            result = run()
            self._synchronize()
            wall = self._wall() - began
            return result, Sample(wall, wall, calls)
        start, end = self._event(), self._event()
        began = self._wall()
        start.record()
        result = run()
        end.record()
        self._synchronize()
        wall = self._wall() - began
        return result, Sample(start.elapsed_time(end) / 1e3, wall, calls)

    def pair(self, candidate: Sample, model: Sample) -> Pair:
        """The ratio by events; by wall time where the candidate's events miss too much."""
        by_wall = candidate.wall_each / model.wall_each
        missed, usual = candidate.wall - candidate.seconds, model.wall - model.seconds
        if missed > 1.2 * usual + 20e-6:
            return Pair(by_wall, by_wall)
        # Launching takes wall time on either side, so only a pair as above says that one waits.
        ratio = candidate.each / model.each
        return Pair(ratio, ratio)

    def settled(self, samples: Sequence[Sample]) -> bool:
        """Once clocks have ramped up: two runs in a row within 10 %, or 50 ms."""
        if sum(sample.wall for sample in samples) > 0.05:
            return True
        if len(samples) < 5:
            return False
        before, last = samples[-2].each, samples[-1].each
        return abs(last - before) < 0.1 * before


def clock_for(device: str | torch.device) -> Clock:
    """The clock of a device."""
    place = torch.device(device)
    if place.type == "cpu":
        return HostClock()
    buffer = torch.empty(_FLUSH_BYTES, dtype=torch.int8, device=place)

    def make_event() -> Event:
        return torch.Event(place, enable_timing=True)

    event: Callable[[], Event] | None = make_event
    try:
        make_event().record()
    except (RuntimeError, NotImplementedError, TypeError):  # a back-end without timed events
        event = None
    return DeviceClock(
        event=event,
        synchronize=lambda: torch.accelerator.synchronize(place),
        flush=buffer.zero_,
        settings=_cuda_settings() if place.type == "cuda" else lambda: None,
    )


def _cuda_settings() -> Callable[[], None]:
    """A function that puts back the settings of now: how exact, and how kernels are chosen."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    was = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic

    def put_back() -> None:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = was

    return put_back


@contextmanager
def stop_after(seconds: float, now: Callable[[], float] = process_time) -> Iterator[None]:
    """Raise `TooLongError` in the block once it has used up that many seconds of `now`.

    Whoever uses the alarm already keeps it: an alarm of theirs that falls into the block rings
    as it would have, and the rest of their time is set again afterwards. Does nothing outside
    the main thread, on systems without `setitimer`, and where the present handler is unknown.
    """
    before = signal.getsignal(signal.SIGALRM) if hasattr(signal, "setitimer") else None
    if before is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    began_wall, began = perf_counter(), now()
    armed = True

    def ring(_number: int, _frame: FrameType | None) -> None:
        if not armed:
            return
        if perf_counter() - began_wall >= theirs:
            hand_back()
            return
        used = now() - began
        if used < seconds:  # time went by without being used: the machine is busy, or it waits
            arm(seconds - used)
            return
        # Before it is raised: it may be raised on the way out of the block, past the `finally`.
        hand_back()
        raise TooLongError

    def arm(wanted: float) -> None:
        left = theirs - (perf_counter() - began_wall)
        signal.setitimer(signal.ITIMER_REAL, max(min(wanted, left), 1e-3))

    def hand_back() -> None:
        nonlocal armed
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if theirs < inf:
            left = theirs - (perf_counter() - began_wall)
            signal.setitimer(signal.ITIMER_REAL, max(left, 1e-6), interval)

    theirs, interval = signal.setitimer(signal.ITIMER_REAL, 0)
    theirs = theirs or inf
    signal.signal(signal.SIGALRM, ring)
    try:
        arm(seconds)
        yield
    finally:
        if armed:
            hand_back()
