"""Speed against a model solution, in paired votes: no number of milliseconds, and no flakes.

`_votes` decides, `_clocks` measures, `_agreement` compares the results; this room plays the
rounds. docs/benchmarks.md says how often the rule is wrong.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import asdict, dataclass
from gc import disable as _gc_disable
from gc import enable as _gc_enable
from gc import isenabled as _gc_isenabled
from math import ceil, isfinite
from pathlib import Path
from random import SystemRandom
from time import perf_counter
from typing import Any, NoReturn

import torch

from grader.testing import _record
from grader.testing._agreement import disagreement
from grader.testing._clocks import (
    Clock,
    HostClock,
    Sample,
    TooLongError,
    clock_for,
    stop_after,
)
from grader.testing._failure import fail
from grader.testing._votes import (
    Outcome,
    Pair,
    Reason,
    Ruling,
    middle,
    rule,
    settle,
    spread,
    tally,
)

try:
    import fcntl
except ImportError:  # Windows: second rounds there may meet each other
    fcntl = None  # type: ignore[assignment]

Arguments = tuple[Any, ...]
Make = Callable[[torch.Generator, Any], Arguments]

WARM_UPS = 3
HOPELESS = 8.0
"""Times the limit, in two warm-up calls in a row: no pair is needed to see it."""
ENDLESS = 50.0
"""Times the limit: a call is stopped there."""
PAIRS_FOR_SURE = 8
"""So many pairs are taken, however long they last: six votes, and room for one stray."""
PAIR_SECONDS = 1.5
"""By the clock that votes; by wall time four times as much, for a busy machine."""
MOST_REPEATS = 64
SLOT_SECONDS = 5.0
"""How long a second round waits for the machine's speed slot; after that it goes without."""

_urandom = os.urandom
_chance = SystemRandom()
_set_threads = torch.set_num_threads
_set_grad = torch.set_grad_enabled


def assert_speed(
    candidate: Callable[..., Any],
    model: Callable[..., Any],
    make: Make,
    *,
    limit: float,
    device: str | torch.device = "cpu",
    what: str = "",
) -> None:
    """The candidate takes at most `limit` times as long as the model solution.

    Both are called by turns on equal fresh inputs, and each pair of samples casts one vote;
    who leads by six wins. A fail is confirmed by a second round, and what cannot be told
    either way is recorded as unsure, never as a fail. The results of every pair must agree.

    Args:
        candidate: the learner's function.
        model: does the same with the tools that the learner may use, without randomness of its
            own, in 0.1 to 1 ms a call.
        make: `make(generator, device)` returns a tuple of fresh arguments, drawn at once and
            from the generator alone. Contiguous tensors that need no gradient are refilled in
            place.
        limit: at least 1.4 times away from the slowest right answer and the fastest wrong one.
        device: where the inputs live; its clock votes.
        what: the subject of the sentence, where "takes 3.1 times as long" needs one.

    Raises:
        CheckFailed: too slow, or another result than the model solution's.
        ValueError: the limit is not a positive number.
        TypeError: `make` does not return a tuple.
    """
    __tracebackhide__ = True
    if not (isfinite(limit) and limit > 0):
        raise ValueError(f"limit must be a positive number, not {limit}")
    contest = _Contest(candidate, model, make, limit, device, what)
    with _settings():
        rounds = [_play(contest)]
        while (verdict := settle([played.outcome for played in rounds])) is None:
            with _speed_slot():
                rounds.append(_play_again(contest, rounds[0]))
    _report(contest, verdict, rounds)


@dataclass(frozen=True, slots=True)
class _Contest:
    candidate: Callable[..., Any]
    model: Callable[..., Any]
    make: Make
    limit: float
    device: str | torch.device
    what: str


@dataclass(frozen=True, slots=True)
class _Round:
    """One round as it was played; plain numbers, since it may come from another process."""

    outcome: Outcome
    reason: Reason
    ratios: tuple[float, ...]  # of every pair, by the clock that votes
    walls: tuple[float, ...]  # the same by wall time
    pace: float  # the model solution's best seconds a call before the round
    seconds: float  # of wall time, all in all
    overtime: float = 0.0  # the ratio of a candidate that needed no pair, or was stopped
    stopped: bool = False  # then the ratio is at least that

    @property
    def ratio(self) -> float:
        return self.overtime or middle(self.ratios)


# --- one round --------------------------------------------------------------------------------


def _play(contest: _Contest, known_pace: float | None = None) -> _Round:
    """Play one round in this process.

    Args:
        contest: who plays, and on what.
        known_pace: the model solution's pace from an earlier round, before the candidate had
            ever run in this process.
    """
    __tracebackhide__ = True
    began = perf_counter()
    inputs = _Inputs(contest.make, contest.device)
    clock, pace = _pace(contest, inputs)
    if known_pace is not None:
        pace = min(pace, known_pace)
    ratios: list[float] = []
    walls: list[float] = []

    def ended(ruling: Ruling, overtime: float = 0.0, stopped: bool = False) -> _Round:
        return _Round(
            outcome=ruling.outcome,
            reason=ruling.reason,
            ratios=tuple(ratios),
            walls=tuple(walls),
            pace=pace,
            seconds=perf_counter() - began,
            overtime=overtime,
            stopped=stopped,
        )

    hopeless = Ruling(Outcome.FAIL, Reason.OVERTIME)
    warm = _warm_up(contest, inputs, clock, pace)
    if isinstance(warm, _TooSlow):
        return ended(hopeless, warm.ratio, warm.stopped)
    repeats = [_repeats(clock, side) for side in warm]
    pairs: list[Pair] = []
    best, spent, passed = float("inf"), 0.0, 0.0
    while True:
        theirs, ours = inputs.draw(max(repeats))
        # Where the model solution needs fewer calls, nobody can know which ones it answers.
        places = sorted(_chance.sample(range(len(ours)), repeats[1]))
        sides = [
            (contest.candidate, theirs[: repeats[0]]),
            (contest.model, [ours[place] for place in places]),
        ]
        try:
            if len(pairs) % 2:
                model_results, model_sample = _time(clock, *sides[1])
                results, sample = _timed_candidate(contest, clock, pace, *sides[0])
            else:
                results, sample = _timed_candidate(contest, clock, pace, *sides[0])
                model_results, model_sample = _time(clock, *sides[1])
        except TooLongError:
            return ended(hopeless, ENDLESS * contest.limit, stopped=True)
        _compare(contest, dict(enumerate(results)), dict(zip(places, model_results, strict=True)))
        pair = clock.pair(sample, model_sample)
        pairs.append(pair)
        ratios.append(pair.ratio)
        walls.append(pair.wall)
        best = min(best, model_sample.each)
        spent += sample.seconds + model_sample.seconds
        passed += sample.wall + model_sample.wall
        done = len(pairs) >= PAIRS_FOR_SURE and max(spent, passed / 4) > PAIR_SECONDS
        ruling = rule(pairs, contest.limit, drag=best / pace, done=done)
        if ruling is not None:
            return ended(ruling)


def _pace(contest: _Contest, inputs: _Inputs) -> tuple[Clock, float]:
    """Run the model solution until its pace is known; return the clock that suits it too."""
    clock = clock_for(contest.device)
    samples: list[Sample] = []
    while not samples or not clock.settled(samples):
        _, ours = inputs.draw(1)
        _, sample = _time(clock, contest.model, ours)
        samples.append(sample)
    if isinstance(clock, HostClock) and clock.is_idle(samples):
        return clock.of_the_wall(), min(sample.wall_each for sample in samples)
    return clock, min(sample.each for sample in samples)


@dataclass(frozen=True, slots=True)
class _TooSlow:
    """A candidate so slow in the warm-up that no pair is needed."""

    ratio: float
    stopped: bool = False


def _warm_up(
    contest: _Contest, inputs: _Inputs, clock: Clock, pace: float
) -> _TooSlow | tuple[list[Sample], list[Sample]]:
    """Run both by turns, untimed as far as votes go; return the samples of either side."""
    __tracebackhide__ = True
    theirs: list[Sample] = []
    ours: list[Sample] = []
    too_slow = 0
    for attempt in range(WARM_UPS):
        for_candidate, for_model = inputs.draw(1)
        # A first call may import modules and compile kernels, and never decides by itself.
        patience = max(ENDLESS * contest.limit * pace, 0.1 if attempt else 0.3)
        try:
            with stop_after(patience, clock.now):
                results, sample = _time(clock, contest.candidate, for_candidate)
        except TooLongError:
            if attempt:
                return _TooSlow(patience / pace, stopped=True)
            continue
        model_results, model_sample = _time(clock, contest.model, for_model)
        _compare(contest, dict(enumerate(results)), dict(enumerate(model_results)))
        theirs.append(sample)
        ours.append(model_sample)
        if attempt:
            slow = sample.each > HOPELESS * contest.limit * max(pace, model_sample.each)
            too_slow = too_slow + 1 if slow else 0
            if too_slow == 2:
                ratio = min(s.each for s in theirs[-2:]) / min(s.each for s in ours[-2:])
                return _TooSlow(ratio)
            if not slow and sample.wall + model_sample.wall > 0.1:
                break  # calls so long are warm by now
    return theirs, ours


def _timed_candidate(
    contest: _Contest, clock: Clock, pace: float, function: Callable[..., Any], sets: _Sets
) -> tuple[list[Any], Sample]:
    """A sample of the candidate, stopped where it goes on without end all of a sudden."""
    patience = max(ENDLESS * contest.limit * pace, 0.3) * len(sets)
    with stop_after(patience, clock.now):
        return _time(clock, function, sets)


_Sets = list[Arguments]


def _time(clock: Clock, function: Callable[..., Any], sets: _Sets) -> tuple[list[Any], Sample]:
    """Call the function once on each set of arguments; the results, and what it took."""
    # Both sides start from the same settings, whatever the other one left behind.
    _set_threads(1)
    clock.ready()
    collects = _gc_isenabled()
    _gc_disable()
    try:
        results, sample = clock.sample(
            lambda: [function(*arguments) for arguments in sets], len(sets)
        )
    finally:
        if collects:
            _gc_enable()
    # A function that returns nothing answers in its arguments.
    answers = [
        list(arguments) if result is None else result
        for result, arguments in zip(results, sets, strict=True)
    ]
    return answers, sample


def _repeats(clock: Clock, samples: Sequence[Sample]) -> int:
    """How many calls make a sample long enough for the clock."""
    each = min(sample.each for sample in samples[-2:])
    return min(max(ceil(clock.shortest / each), 1), MOST_REPEATS)


def _compare(contest: _Contest, results: dict[int, Any], expected: dict[int, Any]) -> None:
    """Fail unless the candidate's results are the model solution's, where both have one."""
    __tracebackhide__ = True
    for place in results.keys() & expected.keys():
        if said := disagreement(results[place], expected[place]):
            fail(
                f"in a timed round {said}; fast counts only where the answer is right",
                id="speed.value",
                args={"what": contest.what},
            )


class _Inputs:
    """Fresh arguments for either side, drawn from a seed nobody knows.

    Fresh values defeat every cache: by identity, by address, by shape. Tensors keep their
    memory from one draw to the next, so that no sample pays for new pages.
    """

    def __init__(self, make: Make, device: str | torch.device) -> None:
        self._make = make
        self._device = device
        self._generator = torch.Generator(device)
        self._generator.manual_seed(int.from_bytes(_urandom(7)))
        self._theirs: _Sets = []
        self._ours: _Sets = []

    def draw(self, count: int) -> tuple[_Sets, _Sets]:
        """Return `count` sets for the candidate, and as many equal ones for the model."""
        for place in range(count):
            state = self._generator.get_state()
            fresh = self._make(self._generator, self._device)
            if not isinstance(fresh, tuple):
                raise TypeError(
                    f"make must return a tuple of arguments, not {type(fresh).__name__}"
                )
            for sets in (self._theirs, self._ours):
                if place == len(sets):
                    sets.append(())
                sets[place] = self._filled(sets[place], fresh, state)
        return self._theirs[:count], self._ours[:count]

    def _filled(self, old: Arguments, fresh: Arguments, state: torch.Tensor) -> Arguments:
        if len(old) == len(fresh) and all(map(_refillable, old, fresh)):
            return tuple(
                b.copy_(a) if isinstance(a, torch.Tensor) else a
                for b, a in zip(old, fresh, strict=True)
            )
        try:
            return deepcopy(fresh)
        except Exception:  # generators, locks, results of autograd: made again instead
            after = self._generator.get_state()
            self._generator.set_state(state)
            again = self._make(self._generator, self._device)
            self._generator.set_state(after)
            return again


def _refillable(old: Any, fresh: Any) -> bool:
    """Whether the old argument can take the fresh one's values."""
    if type(fresh) is not torch.Tensor:
        return isinstance(fresh, int | float | str | torch.dtype | torch.device | None)
    return (
        type(old) is torch.Tensor
        and fresh.layout is torch.strided
        and fresh.is_contiguous()
        and not (fresh.requires_grad or old.requires_grad)
        and old.shape == fresh.shape
        and old.stride() == fresh.stride()
        and old.dtype == fresh.dtype
        and old.device == fresh.device
    )


@contextmanager
def _settings() -> Iterator[None]:
    """One thread for both sides, and afterwards the number that was set before."""
    threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
    try:
        yield
    finally:
        _set_threads(threads)
        _set_grad(grad)


# --- the second round -------------------------------------------------------------------------


def _play_again(contest: _Contest, first: _Round) -> _Round:
    """Play another round: in a fresh child where one can be forked, else in this process."""
    __tracebackhide__ = True
    if _may_fork(contest.device):
        played = _in_child(lambda: _play(contest, first.pace), 5.0 + 4 * first.seconds)
        if played is not None:
            return played
    return _play(contest, first.pace)


def _may_fork(device: str | torch.device) -> bool:
    """Whether a forked child is safe: not with an accelerator's threads, nor with macOS's."""
    return (
        hasattr(os, "fork")
        and sys.platform != "darwin"
        and torch.device(device).type == "cpu"
        and not torch.accelerator.is_available()
    )


def _in_child(play: Callable[[], _Round], patience: float) -> _Round | None:
    """Play in a forked child; None where no result came back.

    What the candidate raises there is not carried over: it will raise it here again.
    """
    read, write = os.pipe()
    with warnings.catch_warnings():
        # With one thread for torch's own operators a child of this process is safe.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _be_child(play, write)
    os.close(write)
    try:
        text = _read(read, patience)
        played = json.loads(text)
        return _Round(
            **{
                **played,
                "outcome": Outcome(played["outcome"]),
                "reason": Reason(played["reason"]),
                "ratios": tuple(played["ratios"]),
                "walls": tuple(played["walls"]),
            }
        )
    except (ValueError, TypeError, KeyError):
        return None
    finally:
        os.close(read)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _be_child(play: Callable[[], _Round], write: int) -> NoReturn:
    try:
        # Before the first operator: the threads of torch's pool did not come along.
        _set_threads(1)
        os.write(write, json.dumps(asdict(play())).encode())
    finally:
        os._exit(0)  # past everything of the parent's: its buffers, its `finally`, pytest


def _read(descriptor: int, patience: float) -> bytes:
    """All that comes until the other end closes, or what came in time."""
    deadline = perf_counter() + patience
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    parts = []
    while (left := deadline - perf_counter()) > 0:
        if not poll.poll(1000 * left):
            break
        part = os.read(descriptor, 65536)
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


@contextmanager
def _speed_slot(patience: float = SLOT_SECONDS) -> Iterator[bool]:
    """Hold the machine's speed slot, so that second rounds do not disturb each other.

    Yields whether it was got; a round without it is noisier and no less right.
    """
    descriptor = _slot_file()
    if descriptor is None:
        yield False
        return
    try:
        got, deadline = _lock(descriptor), perf_counter() + patience
        while not got and perf_counter() < deadline:
            time.sleep(0.01)
            got = _lock(descriptor)
        yield got
    finally:
        os.close(descriptor)  # and with it the lock


def _slot_file() -> int | None:
    if fcntl is None:
        return None
    path = Path(tempfile.gettempdir()) / "torch28-speed.lock"
    for flags in (os.O_RDONLY, os.O_RDONLY | os.O_CREAT):
        # Another user's file can be opened, but not with O_CREAT in a folder like /tmp.
        with suppress(OSError):
            return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    return None


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


# --- what is said -----------------------------------------------------------------------------


def _report(contest: _Contest, verdict: Outcome, rounds: Sequence[_Round]) -> None:
    """Show the pairs, and fail or mark the check where the verdict asks for it."""
    __tracebackhide__ = True
    last = rounds[-1]
    limit = _times(contest.limit)
    more = "more than " if last.stopped else ""
    takes = f"takes {more}{_times(last.ratio)} times as long as the model solution"
    subject = f"{contest.what} " if contest.what else ""
    _record.measured(f"{'>' if more else ''}{_times(last.ratio)}x")
    groups = [
        {
            "label": "your code" if number == 1 else f"your code, round {number}",
            "values": [_rounded(ratio) for ratio in played.ratios or (played.overtime,)],
        }
        for number, played in enumerate(rounds, start=1)
    ]
    _record.picture(
        "dots",
        "Each pair of timings: your code over the model solution",
        f"{subject or 'your code '}{takes}; at most {limit} times is allowed",
        groups=groups,
        limit=contest.limit,
        unit="x",
    )
    if verdict is Outcome.UNSURE:
        _record.current().unsure = f"{subject}{_why_unsure(contest, rounds)}, counted as passed"
    if verdict is Outcome.FAIL:
        fail(
            f"{subject}{takes}{_how_often(contest, last)}; at most {limit} times is allowed",
            id="speed.slow",
            args={"ratio": _rounded(last.ratio), "limit": contest.limit},
        )


def _how_often(contest: _Contest, played: _Round) -> str:
    if played.stopped:
        return " and was stopped"
    if played.overtime:
        return ", in the warm-up already"
    over = tally(played.ratios, contest.limit).over
    return f", in {over} of {len(played.ratios)} rounds"


def _why_unsure(contest: _Contest, rounds: Sequence[_Round]) -> str:
    """The reason in a sentence: the last round's, where that was unsure itself."""
    limit = _times(contest.limit)
    if rounds[-1].outcome is not Outcome.UNSURE:
        ratios = " and ".join(f"{_times(played.ratio)}x" for played in rounds)
        return f"{ratios} of the model in {len(rounds)} runs, the limit is {limit}x: they disagree"
    last = rounds[-1]
    if last.reason is Reason.WAITS:
        return (
            f"{_times(last.ratio)}x of the model's computing time but "
            f"{_times(middle(last.walls))}x of its wall time: it mostly waits, so it is not judged"
        )
    if last.reason is Reason.DRAGGED:
        return (
            f"{_times(last.ratio)}x of the model, but the model itself ran at less than a third "
            "of its usual pace: too noisy to tell"
        )
    low, high = spread(last.ratios)
    close = "too close to tell" if high < 2 * low else "too noisy to tell"
    return (
        f"between {_times(low)}x and {_times(high)}x of the model after {len(last.ratios)} "
        f"rounds, the limit is {limit}x: {close}"
    )


def _times(ratio: float) -> str:
    """A ratio in two digits or so: 0.05, 0.35, 3.1, 57."""
    if ratio < 0.95:
        return f"{ratio:.2g}"
    return f"{ratio:.1f}" if ratio < 20 else f"{ratio:.0f}"


def _rounded(ratio: float) -> float:
    return float(f"{ratio:.4g}")
