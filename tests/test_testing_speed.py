"""Speed checks: the votes, the clocks, the comparison of results, and a check as a whole.

No verdict here depends on how fast this machine is: time is told by fakes, apart from two calls
that no machine could mistake.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grader.testing import _record, _speed
from grader.testing._agreement import disagreement
from grader.testing._clocks import DeviceClock, HostClock, Sample, TooLongError, stop_after
from grader.testing._failure import CheckFailed
from grader.testing._speed import assert_speed
from grader.testing._votes import (
    LEAD,
    MOST_PAIRS,
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

PASS, FAIL, UNSURE = Outcome.PASS, Outcome.FAIL, Outcome.UNSURE


def pairs(*ratios: float) -> list[Pair]:
    return [Pair(ratio, ratio) for ratio in ratios]


def play(ratios: Iterator[float], limit: float) -> tuple[Ruling, int]:
    """Play a round on ratios alone; the ruling, and how many pairs it took."""
    played: list[Pair] = []
    while True:
        ratio = next(ratios)
        played.append(Pair(ratio, ratio))
        if ruling := rule(played, limit):
            return ruling, len(played)


# --- votes ------------------------------------------------------------------------------------


def test_a_ratio_within_ten_per_cent_of_the_limit_casts_no_vote() -> None:
    votes = tally([1.0, 1.81, 1.83, 2.0, 2.19, 2.21, 9.0], 2.0)
    assert (votes.under, votes.close, votes.over) == (2, 3, 2)


def test_six_votes_in_a_row_decide_and_five_do_not() -> None:
    assert rule(pairs(*[3.0] * 5), 2.0) is None
    assert rule(pairs(*[3.0] * 6), 2.0) == Ruling(FAIL, Reason.VOTES)
    assert rule(pairs(*[1.0] * 5), 2.0) is None
    assert rule(pairs(*[1.0] * 6), 2.0) == Ruling(PASS, Reason.VOTES)


@pytest.mark.parametrize("stray", [2.5, 70.0, 1e6])
def test_a_stray_pair_costs_two_more_whatever_its_size(stray: float) -> None:
    assert play(itertools.chain([1.0, stray], itertools.repeat(1.0)), 2.0) == (
        Ruling(PASS, Reason.VOTES),
        8,
    )


def test_pairs_at_the_limit_end_unsure_after_forty() -> None:
    assert play(itertools.repeat(2.0), 2.0) == (Ruling(UNSURE, Reason.CLOSE), MOST_PAIRS)
    assert play(itertools.cycle([1.0, 3.0]), 2.0) == (Ruling(UNSURE, Reason.CLOSE), MOST_PAIRS)


def test_a_round_whose_time_is_up_is_unsure() -> None:
    assert rule(pairs(3.0, 3.0), 2.0, done=True) == Ruling(UNSURE, Reason.CLOSE)
    assert rule(pairs(*[3.0] * 6), 2.0, done=True) == Ruling(FAIL, Reason.VOTES)


def test_little_computing_in_much_wall_time_is_unsure() -> None:
    sleeps = [Pair(1.0, 50.0)] * 6
    assert rule(sleeps, 2.0) == Ruling(UNSURE, Reason.WAITS)


def test_two_pairs_that_were_interrupted_do_not_look_like_waiting() -> None:
    interrupted = [Pair(1.0, 50.0)] * 2 + [Pair(1.0, 1.0)] * 4
    assert rule(interrupted, 2.0) == Ruling(PASS, Reason.VOTES)


def test_a_dragged_model_solution_withholds_a_pass_and_saves_nobody_from_a_fail() -> None:
    assert rule(pairs(*[1.0] * 6), 2.0, drag=2.9) == Ruling(PASS, Reason.VOTES)
    assert rule(pairs(*[1.0] * 6), 2.0, drag=3.1) == Ruling(UNSURE, Reason.DRAGGED)
    assert rule(pairs(*[3.0] * 6), 2.0, drag=3.1) == Ruling(FAIL, Reason.VOTES)


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        ([], None),
        ([PASS], PASS),
        ([FAIL], None),
        ([UNSURE], None),
        ([FAIL, FAIL], FAIL),
        ([FAIL, PASS], UNSURE),
        ([FAIL, UNSURE], UNSURE),
        ([UNSURE, PASS], PASS),
        ([UNSURE, UNSURE], UNSURE),
        ([UNSURE, FAIL], None),
        ([UNSURE, FAIL, FAIL], FAIL),
        ([UNSURE, FAIL, PASS], UNSURE),
        ([UNSURE, FAIL, UNSURE], UNSURE),
    ],
)
def test_a_pass_stands_at_once_and_a_fail_is_confirmed(
    outcomes: list[Outcome], verdict: Outcome | None
) -> None:
    assert settle(outcomes) == verdict


def test_no_order_of_outcomes_needs_a_fourth_round_or_fails_on_one_fail() -> None:
    for outcomes in itertools.product(Outcome, repeat=3):
        ended = [settle(outcomes[:n]) for n in (1, 2, 3)]
        assert ended[2] is not None
        if outcomes.count(FAIL) < 2:
            assert FAIL not in ended


@given(
    st.lists(st.floats(0.01, 100), min_size=1, max_size=MOST_PAIRS), st.sampled_from([0.3, 1, 2])
)
def test_ratios_that_are_all_allowed_never_fail(ratios: list[float], limit: float) -> None:
    allowed = [min(ratio, limit) for ratio in ratios]
    ruling = rule(pairs(*allowed), limit, done=True)
    assert ruling is not None
    assert ruling.outcome is not FAIL


def noisy(ratio: float, chance: random.Random) -> Iterator[float]:
    """Ratios as a crowded machine gives them: one in ten is off, by up to seventy times."""
    while True:
        noise = chance.lognormvariate(0, 0.05)
        if chance.random() < 0.1:
            noise *= chance.uniform(1, 70) ** chance.choice([-1, 1])
        yield ratio * noise


@pytest.mark.parametrize(("ratio", "expected"), [(1.4, PASS), (2.8, FAIL)])
def test_three_thousand_noisy_contests_are_all_decided_rightly(
    ratio: float, expected: Outcome
) -> None:
    chance = random.Random(277527)
    ended = [play(noisy(ratio, chance), 2.0) for _ in range(3_000)]
    assert {ruling.outcome for ruling, _ in ended} == {expected}
    assert sum(taken for _, taken in ended) / len(ended) < LEAD + 1.5


def test_a_mean_would_be_misled_by_the_same_noise() -> None:
    chance = random.Random(277527)
    means = [sum(itertools.islice(noisy(1.4, chance), 6)) / 6 for _ in range(1000)]
    assert sum(mean > 2.0 for mean in means) > 100


def test_middle_and_spread_leave_strays_out() -> None:
    ratios = [1.9, 2.0, 2.1, 2.0, 70.0, 1.95, 2.05, 2.0]
    assert middle(ratios) == 2.0
    assert spread(ratios) == pytest.approx((1.9875, 2.0625))
    assert spread([3.0]) == (3.0, 3.0)
    assert math.isnan(middle([]))


# --- clocks -----------------------------------------------------------------------------------


@dataclass
class Hands:
    """Two clocks whose hands are moved by whoever works."""

    cpu: float = 0.0
    wall: float = 0.0
    waits: int = 0

    def work(self, cpu: float, waiting: float = 0.0, interrupted: float = 0.0) -> None:
        self.cpu += cpu
        self.wall += cpu + waiting + interrupted
        self.waits += waiting > 0

    def clock(self) -> HostClock:
        return HostClock(cpu=lambda: self.cpu, wall=lambda: self.wall, waits=lambda: self.waits)


def test_the_host_clock_votes_by_processor_time_and_keeps_wall_time_beside_it() -> None:
    hands = Hands()
    result, slow = hands.clock().sample(lambda: hands.work(0.5, waiting=1.5), 2)
    assert result is None
    assert slow == Sample(seconds=0.5, wall=2.0, calls=2, waits=1)
    _, quick = hands.clock().sample(lambda: hands.work(0.25), 1)
    assert hands.clock().pair(slow, quick) == Pair(ratio=1.0, wall=4.0)


def test_an_interrupted_sample_did_not_wait() -> None:
    hands = Hands()
    _, interrupted = hands.clock().sample(lambda: hands.work(0.5, interrupted=9.0), 1)
    _, quick = hands.clock().sample(lambda: hands.work(0.5), 1)
    assert hands.clock().pair(interrupted, quick) == Pair(ratio=1.0, wall=1.0)
    assert not hands.clock().is_idle([interrupted, interrupted])


def test_the_host_clock_votes_by_wall_time_where_the_model_solution_waits() -> None:
    hands = Hands()
    waiting = Sample(seconds=0.001, wall=0.02, waits=1)
    assert hands.clock().is_idle([waiting, waiting])
    assert not hands.clock().is_idle([waiting, Sample(0.001, 0.0011, waits=1)])
    _, sample = hands.clock().of_the_wall().sample(lambda: hands.work(0.5, waiting=1.5), 1)
    assert sample.seconds == 2.0
    assert hands.clock().of_the_wall().now() == hands.wall


def test_the_system_counts_a_sleep_as_waiting() -> None:
    clock = HostClock()
    _, slept = clock.sample(lambda: time.sleep(0.002), 1)
    assert slept.waits >= 1
    assert clock.is_idle([slept])


def test_the_pace_is_known_after_twelve_runs_or_thirty_milliseconds() -> None:
    clock = HostClock()
    assert [clock.settled([Sample(1e-3, 1e-3)] * n) for n in (1, 11, 12)] == [False, False, True]
    assert clock.settled([Sample(0.02, 0.02)] * 2)
    assert not clock.settled([Sample(1e-3, 0.04)] * 2)  # interrupted, not slow


def test_a_sample_of_no_time_at_all_still_has_a_ratio() -> None:
    assert HostClock().pair(Sample(0.0, 0.0), Sample(1.0, 1.0)).ratio > 0


@dataclass
class Device:
    """A device with a queue: what it was told to do, and when it is done."""

    host: float = 0.0
    done: float = 0.0  # of the queue that events see
    hidden: float = 0.0  # of another queue
    told: list[str] = field(default_factory=list)

    def launch(self, seconds: float, elsewhere: bool = False) -> None:
        self.host += 5e-6
        if elsewhere:
            self.hidden = max(self.hidden, self.host) + seconds
        else:
            self.done = max(self.done, self.host) + seconds

    def synchronize(self) -> None:
        self.told.append("synchronize")
        self.host = max(self.host, self.done, self.hidden)

    def clock(self, events: bool = True) -> DeviceClock:
        return DeviceClock(
            event=(lambda: Mark(self)) if events else None,
            synchronize=self.synchronize,
            flush=lambda: self.told.append("flush"),
            settings=lambda: self.told.append("settings"),
            wall=lambda: self.host,
        )


@dataclass
class Mark:
    device: Device
    at: float = 0.0

    def record(self) -> None:
        self.device.told.append("mark")
        self.at = max(self.device.done, self.device.host)

    def elapsed_time(self, other: Mark) -> float:
        return 1e3 * (other.at - self.at)


def test_the_device_clock_times_the_queue_and_not_the_launch() -> None:
    device = Device()
    _, sample = device.clock().sample(lambda: device.launch(0.004), 1)
    assert sample.seconds == pytest.approx(0.004, rel=0.01)
    assert device.told == ["mark", "mark", "synchronize"]


def test_the_device_is_idle_and_its_cache_empty_before_a_sample() -> None:
    device = Device()
    device.clock().ready()
    assert device.told == ["settings", "synchronize", "flush", "synchronize"]


def test_work_hidden_on_another_stream_is_voted_on_by_wall_time() -> None:
    device = Device()
    _, honest = device.clock().sample(lambda: device.launch(0.004), 1)
    _, sly = device.clock().sample(lambda: device.launch(0.004, elsewhere=True), 1)
    assert sly.seconds < 0.001
    assert device.clock().pair(sly, honest).ratio == pytest.approx(1.0, rel=0.02)
    assert device.clock().pair(honest, honest).ratio == 1.0


def test_a_device_without_events_is_timed_by_the_wall() -> None:
    device = Device()
    _, sample = device.clock(events=False).sample(lambda: device.launch(0.004), 1)
    assert sample.seconds == sample.wall == pytest.approx(0.004, rel=0.01)


def test_the_model_solution_is_run_until_the_device_keeps_its_pace() -> None:
    clock = Device().clock()
    ramp = [Sample(each, each) for each in (4e-3, 3e-3, 2e-3, 1.5e-3, 1.2e-3, 1.15e-3)]
    assert [clock.settled(ramp[:n]) for n in range(1, 7)] == [False] * 5 + [True]
    assert clock.settled([Sample(0.03, 0.03)] * 2)


# --- the bell ---------------------------------------------------------------------------------


@pytest.fixture
def their_alarm() -> Iterator[list[int]]:
    """An alarm that somebody else has set, for long after the test."""
    rung: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: rung.append(number))
    outer = signal.setitimer(signal.ITIMER_REAL, 60.0, 1.0)
    yield rung
    signal.setitimer(signal.ITIMER_REAL, *outer)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def second_rounds_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where there is no accelerator, whose threads no forked child survives."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)


def spin(until: Callable[[], bool] = lambda: False) -> None:
    end = time.monotonic() + 30
    while not until():
        assert time.monotonic() < end, "nobody stopped it"


def test_an_endless_call_is_stopped_even_where_every_exception_is_caught(
    their_alarm: list[int],
) -> None:
    with pytest.raises(TooLongError), stop_after(0.02), contextlib.suppress(Exception):
        spin()
    assert signal.getitimer(signal.ITIMER_REAL)[0] > 30
    assert their_alarm == []


def test_a_quick_call_leaves_the_alarm_of_others_as_it_was(their_alarm: list[int]) -> None:
    handler = signal.getsignal(signal.SIGALRM)
    with stop_after(10):
        pass
    left, interval = signal.getitimer(signal.ITIMER_REAL)
    assert 30 < left <= 60
    assert interval == 1.0
    assert signal.getsignal(signal.SIGALRM) is handler


def test_the_alarm_of_others_rings_in_the_block_as_it_would_have(their_alarm: list[int]) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    with stop_after(20):
        spin(lambda: bool(their_alarm))
    assert their_alarm == [signal.SIGALRM]


def test_waiting_does_not_use_up_the_time_of_a_call(their_alarm: list[int]) -> None:
    with stop_after(0.01, now=lambda: 0.0):
        time.sleep(0.05)
    assert signal.getitimer(signal.ITIMER_REAL)[0] > 30


def test_there_is_no_bell_in_another_thread() -> None:
    ended: list[str] = []

    def work() -> None:
        with stop_after(1e-6):
            ended.append("calmly")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended == ["calmly"]


# --- results ----------------------------------------------------------------------------------

ONES = torch.ones(3, 5)
EXACT = torch.linspace(-3, 3, 997)
HALF_PRECISE = EXACT.bfloat16().float()


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (ONES + 1e-5, ONES),
        (torch.nn.Parameter(ONES), ONES),
        (torch.tensor([math.nan, -math.inf, 1.0]), torch.tensor([math.nan, -math.inf, 1.00001])),
        (torch.tensor([-math.inf] * 2), torch.tensor([-math.inf] * 2)),
        (ONES.bfloat16() * 1.01, ONES.bfloat16()),
        (ONES.bool(), ONES.bool()),
        (torch.zeros(0, 3), torch.zeros(0, 3)),
        (ONES.to_sparse(), ONES.to_sparse()),
        (ONES * 1j, ONES * 1j),
        ([ONES, 1], (ONES, 1)),
        ({"a": ONES, "b": [2.0]}, {"a": ONES, "b": [2.0 + 1e-9]}),
        (np.ones(3, np.float32) + 1e-6, np.ones(3, np.float32)),
        (np.array([1, 2]), np.array([1, 2])),
        (3, 3),
        (math.nan, math.nan),
        ("text", "text"),
        (None, None),
        (torch.nn.Identity(), torch.nn.Identity()),
    ],
)
def test_equal_results_agree(got: Any, expected: Any) -> None:
    assert disagreement(got, expected) == ""


class Agreeable(str):
    """Calls itself equal to everything."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = str.__hash__


@pytest.mark.parametrize(
    ("got", "expected", "says"),
    [
        (ONES + 0.01, ONES, "the result is off by up to 0.01"),
        (HALF_PRECISE, EXACT, "off by up to"),
        (ONES.double(), ONES, "should be torch.float32, not torch.float64"),
        (ONES.T, ONES, "should have the shape (3, 5), not (5, 3)"),
        (ONES.to("meta"), ONES, "should be on cpu, not on meta"),
        (ONES.as_subclass(type("Lazy", (torch.Tensor,), {})), ONES, "a torch.Tensor, not Lazy"),
        (None, ONES, "should be a torch.Tensor, not NoneType"),
        (ONES * math.nan, ONES, "15 wrong elements of 15"),
        (torch.tensor([1.0, math.inf]), torch.tensor([1.0, -math.inf]), "1 wrong elements of 2"),
        (torch.tensor([1, 2]), torch.tensor([1, 3]), "has other values"),
        ((ONES, ONES + 1), (ONES, ONES), "the result[1] is off"),
        ((ONES,), (ONES, ONES), "should be a tuple of 2"),
        ({"b": ONES}, {"a": ONES}, "with the keys ['a']"),
        ({"a": [ONES, 2]}, {"a": [ONES, 3]}, "the result['a'][1] should be 3, not 2"),
        (np.ones(3), np.zeros(3), "3 wrong elements of 3"),
        (np.array(["a"]), np.array(["b"]), "has other values"),
        ([1.0], np.ones(1), "should be a NumPy array"),
        (True, 1, "should be a number, not bool"),
        (1.0, 1.1, "should be 1.1, not 1"),
        (Agreeable("b"), "a", "should be 'a', not 'b'"),
        (object(), torch.nn.Identity(), "should be a Identity"),
    ],
)
def test_another_result_is_named(got: Any, expected: Any, says: str) -> None:
    assert says in disagreement(got, expected)


# --- a check as a whole -----------------------------------------------------------------------

Function = Callable[..., Any]


@dataclass
class Bench:
    """Candidates whose time is told by hands that they move themselves."""

    hands: Hands = field(default_factory=Hands)
    calls: list[str] = field(default_factory=list)

    def doubles(
        self,
        milliseconds: float | Callable[[], float],
        *,
        waits: float = 0.0,
        name: str = "candidate",
    ) -> Function:
        def function(x: torch.Tensor) -> torch.Tensor:
            self.calls.append(name)
            cost = milliseconds() if callable(milliseconds) else milliseconds
            self.hands.work(cost / 1e3, waits / 1e3)
            return 2 * x

        return function

    def model(self, milliseconds: float = 1.0, waits: float = 0.0) -> Function:
        return self.doubles(milliseconds, waits=waits, name="model")


def make(generator: torch.Generator, device: Any) -> tuple[torch.Tensor]:
    return (torch.randn(3, 5, generator=generator, device=device),)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench = Bench()
    monkeypatch.setattr(_speed, "clock_for", lambda device: bench.hands.clock())
    return bench


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _record.Record:
    monkeypatch.setattr(_speed.tempfile, "gettempdir", lambda: str(tmp_path))
    return _record.begin()


def failure(*arguments: Any, **options: Any) -> CheckFailed:
    with pytest.raises(CheckFailed) as caught:
        assert_speed(*arguments, **options)
    return caught.value


def test_a_fast_answer_passes_with_a_figure_and_a_picture(
    bench: Bench, record: _record.Record
) -> None:
    assert_speed(bench.doubles(1.4), bench.model(), make, limit=2.0)
    assert record.measured == "1.4x"
    assert record.unsure == ""
    (picture,) = record.pictures
    assert picture["kind"] == "dots"
    assert picture["data"] == {
        "groups": [{"label": "your code", "values": [1.4] * 6}],
        "limit": 2.0,
        "unit": "x",
    }
    assert "takes 1.4 times as long as the model solution; at most 2.0" in picture["caption"]


def test_a_slow_answer_fails_with_the_ratio_and_the_rounds(
    bench: Bench, record: _record.Record
) -> None:
    failed = failure(bench.doubles(3.1), bench.model(), make, limit=2.0)
    assert str(failed) == (
        "takes 3.1 times as long as the model solution, in 6 of 6 rounds; "
        "at most 2.0 times is allowed"
    )
    assert failed.id == "speed.slow"
    assert failed.args_ == {"ratio": 3.1, "limit": 2.0}
    assert record.measured == "3.1x"
    (picture,) = record.pictures
    labels = [group["label"] for group in picture["data"]["groups"]]
    assert labels == ["your code", "your code, round 2"]


def test_the_sentence_takes_a_subject_and_a_limit_below_one(
    bench: Bench, record: _record.Record
) -> None:
    failed = failure(
        bench.doubles(0.3), bench.model(), make, limit=0.05, what="attention over 64 steps"
    )
    assert str(failed).startswith("attention over 64 steps takes 0.3 times as long")
    assert str(failed).endswith("at most 0.05 times is allowed")


@pytest.mark.usefixtures("second_rounds_fork")
def test_a_fail_that_a_second_round_does_not_confirm_is_unsure(
    bench: Bench, record: _record.Record
) -> None:
    here = os.getpid()
    assert_speed(
        bench.doubles(lambda: 3.0 if os.getpid() == here else 1.0),
        bench.model(),
        make,
        limit=2.0,
    )
    assert record.unsure == (
        "3.0x and 1.0x of the model in 2 runs, the limit is 2.0x: they disagree, counted as passed"
    )


@pytest.mark.usefixtures("second_rounds_fork")
def test_an_unsure_round_is_played_once_more(bench: Bench, record: _record.Record) -> None:
    here = os.getpid()
    assert_speed(
        bench.doubles(lambda: 2.0 if os.getpid() == here else 1.0),
        bench.model(),
        make,
        limit=2.0,
    )
    assert record.unsure == ""
    assert [len(g["values"]) for g in record.pictures[0]["data"]["groups"]] == [MOST_PAIRS, 6]


def test_too_close_to_tell_is_marked_and_counted_as_passed(
    bench: Bench, record: _record.Record
) -> None:
    costs = itertools.cycle([1.9, 1.95, 2.05, 2.1])
    assert_speed(bench.doubles(lambda: next(costs)), bench.model(), make, limit=2.0)
    assert record.unsure == (
        "between 1.9x and 2.1x of the model after 40 rounds, the limit is 2.0x: "
        "too close to tell, counted as passed"
    )
    assert record.measured == "2.0x"


def test_long_undecided_pairs_end_when_their_time_is_up(
    bench: Bench, record: _record.Record
) -> None:
    assert_speed(bench.doubles(400), bench.model(200), make, limit=2.0)
    assert [len(g["values"]) for g in record.pictures[0]["data"]["groups"]] == [8, 8]
    assert record.unsure


def test_an_answer_that_sleeps_is_unsure_and_says_why(bench: Bench, record: _record.Record) -> None:
    assert_speed(bench.doubles(1.0, waits=49.0), bench.model(), make, limit=2.0)
    assert record.unsure == (
        "1.0x of the model's computing time but 50x of its wall time: "
        "it mostly waits, so it is not judged, counted as passed"
    )


def test_a_model_solution_that_waits_is_compared_by_wall_time(
    bench: Bench, record: _record.Record
) -> None:
    one_after_another = bench.model(0.1, waits=20.0)
    assert_speed(bench.doubles(0.2, waits=10.0), one_after_another, make, limit=0.8)
    assert record.measured == "0.51x"
    assert record.unsure == ""
    failed = failure(bench.doubles(0.1, waits=20.0), one_after_another, make, limit=0.8)
    assert "takes 1.0 times" in str(failed)


def test_an_answer_that_slows_the_model_solution_down_does_not_pass(
    bench: Bench, record: _record.Record
) -> None:
    dragging = lambda: 4.0 if "candidate" in bench.calls else 1.0  # noqa: E731
    assert_speed(bench.doubles(4.0), bench.doubles(dragging, name="model"), make, limit=2.0)
    assert "less than a third of its usual pace" in record.unsure


def test_the_first_call_does_not_count(bench: Bench, record: _record.Record) -> None:
    costs = itertools.chain([5000.0], itertools.repeat(1.0))
    assert_speed(bench.doubles(lambda: next(costs)), bench.model(), make, limit=2.0)
    assert record.measured == "1.0x"
    assert record.unsure == ""


def test_a_hopeless_answer_fails_in_the_warm_up(bench: Bench, record: _record.Record) -> None:
    failed = failure(bench.doubles(57.0), bench.model(), make, limit=2.0)
    assert str(failed) == (
        "takes 57 times as long as the model solution, in the warm-up already; "
        "at most 2.0 times is allowed"
    )
    assert bench.calls.count("candidate") == 3
    assert record.measured == "57x"


def test_one_slow_warm_up_call_is_not_hopeless(bench: Bench, record: _record.Record) -> None:
    costs = itertools.chain([1.0, 57.0], itertools.repeat(1.0))
    assert_speed(bench.doubles(lambda: next(costs)), bench.model(), make, limit=2.0)
    assert record.measured == "1.0x"


def test_short_calls_are_repeated_until_the_clock_can_tell(
    bench: Bench, record: _record.Record
) -> None:
    seen: list[float] = []

    def candidate(x: torch.Tensor) -> torch.Tensor:
        bench.hands.work(30e-6)
        seen.append(float(x[0, 0]))
        return 2 * x

    assert_speed(candidate, bench.model(0.1), make, limit=2.0)
    assert len(seen) == 3 + 6 * 5
    assert len(set(seen)) == len(seen)  # fresh values for every call: a cache finds nothing


def test_any_of_the_repeated_calls_may_be_compared(bench: Bench, record: _record.Record) -> None:
    """The model solution answers one call in five; a candidate cannot answer only that one."""
    calls = itertools.count()

    def lazy(x: torch.Tensor) -> torch.Tensor:
        bench.hands.work(30e-6)
        number = next(calls)
        return 2 * x if number < 3 or (number - 3) % 5 == 0 else x

    # A stroke of luck would let it through once in 5 ** 40 times.
    failed = failure(lazy, bench.model(1.0), make, limit=0.03)
    assert failed.id == "speed.value"


def test_either_side_goes_first_in_half_of_the_pairs(bench: Bench, record: _record.Record) -> None:
    assert_speed(bench.doubles(1.0), bench.model(), make, limit=2.0)
    timed = bench.calls[-12:]
    first = timed[::2]
    assert first == ["candidate", "model"] * 3
    assert timed.count("model") == 6


def test_a_wrong_result_of_a_timed_round_fails(bench: Bench, record: _record.Record) -> None:
    failed = failure(lambda x: 2 * x + 1, bench.model(), make, limit=2.0)
    assert failed.id == "speed.value"
    assert "in a timed round the result is off by up to 1" in str(failed)
    assert str(failed).endswith("fast counts only where the answer is right")


@pytest.mark.parametrize(
    "key", [id, torch.Tensor.data_ptr, lambda x: tuple(x.shape)], ids=["id", "pointer", "shape"]
)
def test_a_cached_result_is_a_wrong_result(
    bench: Bench, record: _record.Record, key: Callable[[torch.Tensor], object]
) -> None:
    cache: dict[object, torch.Tensor] = {}
    failed = failure(lambda x: cache.setdefault(key(x), 2 * x), bench.model(), make, limit=2.0)
    assert failed.id == "speed.value"


def test_memory_that_is_not_filled_is_a_wrong_result(bench: Bench, record: _record.Record) -> None:
    assert failure(torch.empty_like, bench.model(), make, limit=2.0).id == "speed.value"


def test_changing_an_argument_does_not_change_the_model_solutions(
    bench: Bench, record: _record.Record
) -> None:
    assert_speed(lambda x: x.mul_(2), bench.model(), make, limit=2.0)


def test_functions_that_return_nothing_are_compared_by_their_arguments(
    bench: Bench, record: _record.Record
) -> None:
    def doubles_in_place(x: torch.Tensor) -> None:
        bench.hands.work(1e-3)
        x.mul_(2)

    assert_speed(doubles_in_place, doubles_in_place, make, limit=2.0)
    failed = failure(lambda x: None, doubles_in_place, make, limit=2.0)
    assert failed.id == "speed.value"


def test_arguments_may_be_anything_that_can_be_copied_or_made_again(
    bench: Bench, record: _record.Record
) -> None:
    def make_others(generator: torch.Generator, device: Any) -> tuple[Any, ...]:
        weight = torch.randn(5, 3, generator=generator, requires_grad=True)
        drawn = [torch.randn(3, generator=generator) for _ in range(2)]
        rows = (row for row in drawn)  # cannot be copied
        return [weight, {"bias": weight * 2}], rows, 3

    def total(parts: list[Any], rows: Iterator[torch.Tensor], scale: int) -> torch.Tensor:
        bench.hands.work(1e-3)
        return scale * (parts[0].sum() + parts[1]["bias"].sum() + sum(row.sum() for row in rows))

    assert_speed(total, total, make_others, limit=2.0)


def test_an_exception_of_the_learners_code_is_its_own(bench: Bench, record: _record.Record) -> None:
    def broken(x: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("in the learner's line")

    with pytest.raises(ZeroDivisionError, match="learner's line"):
        assert_speed(broken, bench.model(), make, limit=2.0)


@pytest.mark.usefixtures("second_rounds_fork")
@pytest.mark.parametrize("end", [lambda: os._exit(3), lambda: 1 // 0], ids=["exits", "raises"])
def test_a_second_round_whose_process_ends_is_played_here(
    bench: Bench, record: _record.Record, end: Callable[[], object]
) -> None:
    here = os.getpid()
    slow = bench.doubles(3.0)

    def candidate(x: torch.Tensor) -> torch.Tensor:
        if os.getpid() != here:
            end()
        return slow(x)

    assert failure(candidate, bench.model(), make, limit=2.0).id == "speed.slow"
    assert bench.calls.count("candidate") == 2 * 9


def test_with_an_accelerator_the_second_round_is_played_in_this_process(
    bench: Bench, record: _record.Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    failure(bench.doubles(3.0), bench.model(), make, limit=2.0)
    assert bench.calls.count("candidate") == 2 * 9


@pytest.mark.usefixtures("second_rounds_fork")
def test_the_second_round_is_played_in_a_process_of_its_own(
    bench: Bench, record: _record.Record
) -> None:
    before = {child.pid for child in psutil.Process().children()}
    failure(bench.doubles(3.0), bench.model(), make, limit=2.0)
    assert bench.calls.count("candidate") == 9
    assert {child.pid for child in psutil.Process().children()} <= before


def test_a_second_round_waits_for_the_speed_slot_and_not_for_ever(
    record: _record.Record,
) -> None:
    with _speed._speed_slot(1.0) as first:
        assert first
        with _speed._speed_slot(0.02) as second:
            assert not second
    with _speed._speed_slot(0.02) as third:
        assert third


def test_a_machine_without_a_place_for_the_slot_does_without(
    record: _record.Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_speed.tempfile, "gettempdir", lambda: "/nowhere/at/all")
    with _speed._speed_slot(1.0) as got:
        assert not got


def test_no_garbage_is_collected_in_a_call_and_one_thread_computes(
    bench: Bench, record: _record.Record
) -> None:
    seen: set[tuple[bool, int]] = set()
    threads = torch.get_num_threads()

    def candidate(x: torch.Tensor) -> torch.Tensor:
        seen.add((gc.isenabled(), torch.get_num_threads()))
        torch.set_num_threads(2)
        bench.hands.work(1e-3)
        return 2 * x

    assert gc.isenabled()
    assert_speed(candidate, bench.model(), make, limit=2.0)
    assert seen == {(False, 1)}
    assert gc.isenabled()
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("limit", [0, -1.0, math.inf, math.nan])
def test_a_limit_must_be_a_positive_number(limit: float) -> None:
    with pytest.raises(ValueError, match="limit must be a positive number"):
        assert_speed(torch.neg, torch.neg, make, limit=limit)


def test_make_must_return_a_tuple() -> None:
    with pytest.raises(TypeError, match="make must return a tuple of arguments, not Tensor"):
        assert_speed(torch.neg, torch.neg, lambda *_: torch.ones(3), limit=2.0)


# --- with real clocks -------------------------------------------------------------------------


def make_matrix(generator: torch.Generator, device: Any) -> tuple[torch.Tensor]:
    return (torch.randn(97, 89, generator=generator, device=device),)


def test_a_loop_over_the_elements_is_slow_on_any_machine(record: _record.Record) -> None:
    def by_element(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.stack([2 * element for element in row[:9]]) for row in x])

    failed = failure(by_element, lambda x: 2 * x[:, :9], make_matrix, limit=3.0)
    assert failed.id == "speed.slow"
    assert "times as long as the model solution" in str(failed)


def test_a_call_without_an_end_is_stopped(record: _record.Record) -> None:
    def endless(x: torch.Tensor) -> torch.Tensor:
        spin()
        return x

    failed = failure(endless, torch.neg, make_matrix, limit=2.0)
    assert " and was stopped; at most 2.0 times is allowed" in str(failed)
    assert record.measured.startswith(">")
