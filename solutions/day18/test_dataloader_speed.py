"""Day 18 asks for a stopwatch, batched fetching, noise in workers, prefetching and a tuner."""

import contextlib
import functools
import itertools
import os
import random
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset, TensorDataset

from grader.testing import (
    assert_close,
    assert_dtype,
    assert_equal,
    assert_shape,
    assert_speed,
    assert_tensor,
    count_ops,
    expect,
    fail,
    picture,
    rand_ints,
    smallest,
    spy,
)

# --- what several tasks need --------------------------------------------------------------------


@dataclass
class Clock:
    """A clock that only moves when a check says so; it stands for `time.perf_counter`."""

    now: float = 4096.0
    log: list[str] = field(default_factory=list)

    def read(self) -> float:
        """The time, as `time.perf_counter()` gives it."""
        self.log.append("read")
        return self.now

    def go(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


@contextlib.contextmanager
def told_by(clock: Clock, load: Callable[[], Any]) -> Iterator[Any]:
    """The learner's module, imported anew so that its own name for the clock is this one too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "perf_counter", clock.read)
        yield load()


# --- 1 ------------------------------------------------------------------------------------------

TICK = 2.0**-6  # sums of these are exact in any order


class TimedLoader:
    """Gives 0, 1, 2 ... and lets the clock go on by the next wait before each."""

    def __init__(self, clock: Clock, waits: list[float], opening: float = 0.0) -> None:
        self.clock = clock
        self.waits = waits
        self.opening = opening
        self.asked = 0  # calls of next()
        self.given = 0

    def __iter__(self) -> Iterator[int]:
        self.clock.go(self.opening)
        return TimedBatches(self)


class TimedBatches:
    """The iterator of a `TimedLoader`."""

    def __init__(self, loader: TimedLoader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        loader = self.loader
        loader.asked += 1
        if loader.given == len(loader.waits):
            raise StopIteration
        loader.clock.go(loader.waits[loader.given])
        loader.given += 1
        return loader.given - 1


@dataclass
class Timeline:
    """Who works when, in ticks: batch k is loaded by worker k % workers, or before its step."""

    load: int
    compute: int
    workers: int
    batches: int
    lanes: dict[str, str] = field(default_factory=dict)
    waits: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Draw the lanes, and note for how long each step waits for its batch."""
        names = [f"worker {w}" for w in range(self.workers)] or ["loading"]
        lanes = dict.fromkeys([*names, "step"], "")
        done = 0
        for batch in range(self.batches):
            name = names[batch % len(names)]
            if not self.workers:
                lanes[name] = lanes[name].ljust(done)
            lanes[name] += str(batch % 10) * self.load
            ready = len(lanes[name])
            start = max(ready, done)
            self.waits.append(start - done)
            lanes["step"] = lanes["step"].ljust(start) + str(batch % 10) * self.compute
            done = start + self.compute
        self.lanes = lanes

    def panel(self, label: str) -> dict[str, Any]:
        """For a picture: a lane for each, a column for each tick."""
        lines = [f"{name:<9}|{lane}" for name, lane in self.lanes.items()]
        return {"label": label, "lines": lines}


def share_of(
    load: Callable[[], Any],
    waits: list[float],
    compute: list[float],
    n: int,
    opening: float = 0.0,
) -> tuple[dict[str, Any], TimedLoader, list[Any]]:
    """What `loader_share` says about these waits and steps, in ticks; and what it stepped on."""
    clock = Clock()
    loader = TimedLoader(clock, [TICK * wait for wait in waits], TICK * opening)
    stepped: list[Any] = []

    def step(batch: Any) -> None:
        stepped.append(batch)
        clock.go(TICK * compute[batch])

    with told_by(clock, load) as module:
        found = module.loader_share(loader, step, n)
    keys = ["startup_s", "wait_s", "compute_s", "share", "batches"]
    expect(
        isinstance(found, dict) and sorted(found) == sorted(keys),
        f"loader_share returns {list(found) if isinstance(found, dict) else type(found).__name__}; "
        f"expected a dict with the keys {', '.join(keys)}",
    )
    for key in keys:
        expect(
            isinstance(found[key], int | float),
            f"{key} is of type {type(found[key]).__name__}; expected a number",
        )
    return found, loader, stepped


def ticks(found: dict[str, Any], key: str) -> float:
    """A time of the result, in ticks."""
    return float(found[key]) / TICK


@pytest.mark.task("loader_share")
class TestLoaderShare:
    @pytest.mark.points(4, "value")
    def test_five_values(self, fresh_submission):
        """All five values are right on a clock that the check moves."""
        panels = []
        shares = []
        for workers, load, compute in ((0, 4, 3), (2, 9, 2), (2, 4, 3)):
            line = Timeline(load, compute, workers, batches=5)
            found, _, _ = share_of(
                fresh_submission, [float(w) for w in line.waits], [compute] * 5, n=5
            )
            wait, steps = float(sum(line.waits[1:])), compute * 5.0
            first = line.waits[0]
            panels.append(line.panel(f"{workers} workers"))
            shares.append(f"{wait / (wait + steps):.0%}")
            picture(
                "text",
                "Who waits for whom",
                f"a column is a tick, a digit the batch. share: {', '.join(shares)}",
                panels=panels,
            )
            assert_equal(found["batches"], 5, what="batches")
            assert_close(ticks(found, "startup_s"), float(first), what="startup_s, in ticks,")
            assert_close(
                ticks(found, "compute_s"),
                steps,
                what="compute_s, in ticks,",
                explain={
                    "compute_s holds the waits as well: the clock is read before `next()`, and "
                    "not again before the step": steps + wait + first,
                    "compute_s is that of one step; expected the sum of all": float(compute),
                    "compute_s is twice the time of the steps: each is run or added twice": 2
                    * steps,
                    "compute_s lacks the step of the first batch": steps - compute,
                },
            )
            explain = {
                "wait_s is 0: in `for batch in loader` the wait lies between two rounds, where no "
                "clock is read": 0.0,
                "wait_s includes the start-up, the wait for the first batch": wait + first,
                "wait_s includes the steps": wait + steps,
            }
            if not wait:
                explain = {}
            assert_close(ticks(found, "wait_s"), wait, what="wait_s, in ticks,", explain=explain)
            assert_close(
                float(found["share"]),
                wait / (wait + steps),
                what="share",
                explain={
                    "share includes the start-up: a run of many batches pays it once": (
                        (wait + first) / (wait + first + steps)
                    ),
                    "share is per cent; expected a number from 0 to 1": 100 * wait / (wait + steps),
                    "share divides by compute_s alone": wait / steps,
                }
                if wait
                else {},
            )

    @pytest.mark.points(2, "value")
    @pytest.mark.hint("Workers are started in `iter(loader)`, before the first `next()`.")
    def test_startup_apart(self, fresh_submission):
        """The start-up is apart, from before iter() to the first batch."""
        waits, compute = [31.0, 2.0, 5.0], [3.0, 3.0, 3.0]
        found, _, _ = share_of(fresh_submission, waits, compute, n=3, opening=17.0)
        assert_close(
            ticks(found, "startup_s"),
            48.0,
            what="startup_s, in ticks,",
            explain={
                "startup_s lacks the time of `iter(loader)`, in which a DataLoader starts its "
                "workers": 31.0,
                "startup_s is the time of `iter(loader)` alone; the first batch comes later": 17.0,
                "startup_s includes the step of the first batch": 51.0,
            },
        )
        assert_close(
            ticks(found, "wait_s"),
            7.0,
            what="wait_s, in ticks,",
            explain={"wait_s includes the wait for the first batch": 38.0},
        )
        assert_close(
            float(found["share"]),
            7 / 16,
            what="share",
            explain={
                "share includes the start-up: a run of many batches pays it once": 55 / 64,
                "share includes the wait for the first batch": 38 / 47,
            },
        )

    @pytest.mark.points(2, "structure")
    def test_one_step_a_batch(self, fresh_submission):
        """The step gets every batch once, in order."""
        _, _, stepped = share_of(fresh_submission, [3.0] * 5, [2.0] * 5, n=5)
        assert_equal(stepped, [0, 1, 2, 3, 4], what="the batches that step was called with")

    @pytest.mark.points(2, "value")
    def test_fewer_than_n(self, fresh_submission):
        """A loader may end before n batches."""
        for count in (2, 1, 0):
            waits, compute = [7.0, 3.0][:count], [5.0, 11.0][:count]
            found, _, _ = share_of(fresh_submission, waits, compute, n=5)
            assert_equal(found["batches"], count, what=f"of a loader with {count} batches, batches")
            for key, expected in (
                ("startup_s", sum(waits[:1])),
                ("wait_s", sum(waits[1:])),
                ("compute_s", sum(compute)),
            ):
                assert_close(
                    ticks(found, key),
                    float(expected),
                    what=f"of a loader with {count} batches, {key}, in ticks,",
                )

    @pytest.mark.points(2, "structure")
    def test_not_one_too_many(self, fresh_submission):
        """No batch is fetched after the n-th."""
        for n in (1, 3):
            found, loader, _ = share_of(fresh_submission, [3.0] * 7, [2.0] * 7, n=n)
            expect(
                loader.given <= n,
                f"with n={n}, {loader.given} batches were fetched: the last one was waited for, "
                "loaded, and thrown away",
                got=loader.given,
                expected=n,
            )
            assert_equal(found["batches"], n, what=f"with n={n}, batches")

    @pytest.mark.points(1, "value")
    def test_no_time_at_all(self, fresh_submission):
        """The share is 0.0 where nothing took time."""
        for waits, compute in (([5.0], [0.0]), ([], []), ([0.0, 0.0], [0.0, 0.0])):
            found, _, _ = share_of(fresh_submission, waits, compute, n=2)
            assert_close(
                float(found["share"]), 0.0, what=f"after {len(waits)} batches without time, share"
            )

    @pytest.mark.points(2, "structure")
    @pytest.mark.hint("An accelerator goes on computing after `step` has returned.")
    def test_sync(self, fresh_submission):
        """Every reading of the clock comes right after a sync."""
        clock = Clock()
        loader = TimedLoader(clock, [TICK * 5.0] * 3)
        pending: list[float] = []

        def step(batch: Any) -> None:
            clock.log.append("step")
            pending.append(TICK * 7.0)

        def sync() -> None:
            clock.log.append("sync")
            clock.go(sum(pending))
            pending.clear()

        with told_by(clock, fresh_submission) as module:
            found = module.loader_share(loader=loader, step=step, n=3, sync=sync)
        readings = [place for place, name in enumerate(clock.log) if name == "read"]
        expect(bool(readings), "time.perf_counter() was never read")
        bare = [place for place in readings if place == 0 or clock.log[place - 1] != "sync"]
        expect(
            not bare,
            f"{len(bare)} of {len(readings)} readings of the clock have no sync right before them: "
            "what the device has still to do is then booked on the next wait",
            got=clock.log[:12],
        )
        assert_close(
            ticks(found, "compute_s"),
            21.0,
            what="compute_s, in ticks, of three steps that the device does later,",
            explain={"the steps take no time: their work is done when `sync` returns": 0.0},
        )


# --- 2 ------------------------------------------------------------------------------------------


def table(rows: int, feat: int = 3) -> tuple[Tensor, Tensor]:
    """A table whose rows tell which they are: X (rows, feat) float32, y (rows,) int64."""
    X = torch.randn(rows, feat)
    X[:, 0] = torch.arange(rows)
    return X, 10 * torch.arange(rows)


def pair_of(value: Any, what: str) -> tuple[Tensor, Tensor]:
    """An (X, y) of tensors, a tuple or a list."""
    expect(
        isinstance(value, tuple | list) and len(value) == 2,
        f"{what} is of type {type(value).__name__}"
        + (f" and has {len(value)} parts" if isinstance(value, tuple | list) else "")
        + "; expected (X, y)",
    )
    return assert_tensor(value[0], f"X of {what}"), assert_tensor(value[1], f"y of {what}")


def batches_of(loader: Any, what: str = "a batch") -> list[tuple[Tensor, Tensor]]:
    """One epoch of a loader; its batches are pairs of tensors."""
    expect(
        isinstance(loader, DataLoader),
        f"make_loader returns a {type(loader).__name__}; expected a DataLoader",
    )
    return [pair_of(batch, what) for batch in loader]


def rows_of(batches: list[tuple[Tensor, Tensor]]) -> list[int]:
    """Which rows of the table the batches hold, in order."""
    return [int(row) for X, _ in batches for row in X[:, 0].tolist()]


def per_item(X: Tensor, y: Tensor, bs: int, seed: int) -> DataLoader:
    """The loader that fetches row by row."""
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(TensorDataset(X, y), batch_size=bs, shuffle=True, generator=generator)


def column_sums(loader: DataLoader) -> list[Tensor]:
    """What an epoch adds up to; whole numbers, so the order doesn't matter."""
    sums = [torch.zeros(5), torch.zeros((), dtype=torch.int64)]
    for X, y in loader:
        sums = [sums[0] + X.sum(0), sums[1] + y.sum()]
    return sums


@pytest.mark.task("make_loader")
class TestMakeLoader:
    @pytest.mark.points(1, "value")
    def test_items(self, submission):
        """The table has a length, and its items are rows."""
        X, y = table(7)
        data = submission.FastTable(X.clone(), y.clone())
        assert_equal(len(data), 7, what="len(FastTable)")
        for i in (0, 4, 6):
            features, label = pair_of(data[i], f"FastTable[{i}]")
            assert_equal(features.tolist(), X[i].tolist(), what=f"X of FastTable[{i}],")
            assert_shape(label)
            assert_equal(int(label), int(y[i]), what=f"y of FastTable[{i}],")

    @pytest.mark.points(1, "structure")
    def test_subset(self, submission):
        """A Subset of the table picks rows."""
        X, y = table(11)
        rows = [5, 2, 2, 0, 9]
        subset = Subset(submission.FastTable(X=X, y=y), rows)
        found = [int(pair_of(subset[place], "an item of a Subset")[1]) for place in range(5)]
        assert_equal(found, [10 * row for row in rows], what=f"y of a Subset of the rows {rows},")

    @pytest.mark.points(2, "shape")
    def test_batches(self, submission):
        """A batch is (bs, feat) and (bs,), in the dtypes of the table."""
        for rows, feat, bs, kinds in (
            (6, 2, 3, (torch.float32, torch.int64)),
            (15, 7, 5, (torch.float64, torch.int32)),
            (4, 3, 1, (torch.float32, torch.float32)),
        ):
            X, y = table(rows, feat)
            loader = submission.make_loader(X.to(kinds[0]), y.to(kinds[1]), bs, 3)
            for features, labels in batches_of(loader):
                expect(
                    features.dim() == 2,
                    f"X of a batch has shape {tuple(features.shape)}, expected ({bs}, {feat}): "
                    "batches and rows are mixed up",
                )
                assert_shape(features, bs=bs, feat=feat)
                assert_shape(labels, bs=bs)
                assert_dtype(features, kinds[0], "X of a batch")
                assert_dtype(labels, kinds[1], "y of a batch")
            expect(
                loader.num_workers == 0,
                f"the loader has {loader.num_workers} workers; indexing a table in memory is "
                "faster than sending its rows between processes",
            )

    @pytest.mark.points(3, "value")
    @pytest.mark.after("test_batches")
    def test_each_row_once(self, submission):
        """An epoch holds every row once, X and y together."""
        for rows, bs in ((6, 2), (23, 5), (7, 11)):
            X, y = table(rows)
            loader = submission.make_loader(X.clone(), y.clone(), bs, 5)
            for epoch in range(2):
                batches = batches_of(loader)
                found = rows_of(batches)
                missing = sorted(set(range(rows)) - set(found))
                expect(
                    sorted(found) == list(range(rows)),
                    f"epoch {epoch} of {rows} rows in batches of {bs} holds {len(found)} rows, "
                    f"{len(set(found))} different ones"
                    + (f"; row {missing[0]} is missing" if missing else ""),
                    got=sorted(found)[:24],
                    expected=list(range(rows))[:24],
                )
                features = torch.cat([batch[0] for batch in batches])
                labels = torch.cat([batch[1] for batch in batches])
                expect(
                    torch.equal(labels, y[found]),
                    f"in epoch {epoch}, a row of X stands beside the y of another row",
                )
                expect(
                    torch.equal(features, X[found]),
                    f"in epoch {epoch}, the columns of X don't belong to one row",
                )

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_batches")
    def test_last_batch(self, submission):
        """The short last batch stays unless drop_last; len counts batches."""
        for rows, bs, drop_last, sizes in (
            (7, 3, False, [3, 3, 1]),
            (7, 3, True, [3, 3]),
            (6, 3, True, [3, 3]),
            (2, 5, False, [2]),
        ):
            X, y = table(rows)
            loader = submission.make_loader(X, y, bs=bs, seed=3, drop_last=drop_last)
            where = f"{rows} rows, bs={bs}, drop_last={drop_last}:"
            found = [len(batch[1]) for batch in batches_of(loader)]
            assert_equal(found, sizes, what=f"{where} sizes of the batches")
            assert_equal(len(loader), len(sizes), what=f"{where} len(loader)")

    @pytest.mark.points(3, "value")
    @pytest.mark.after("test_batches")
    def test_seed(self, submission):
        """The same seed gives the same epochs, another seed others."""
        X, y = table(23)

        def orders(seed: int, elsewhere: int) -> list[list[int]]:
            torch.manual_seed(elsewhere)
            loader = submission.make_loader(X, y, 5, seed)
            found = []
            for _ in range(3):
                torch.rand(elsewhere)
                found.append(rows_of(batches_of(loader)))
            return found

        first, again, other = orders(3, 2), orders(3, 7), orders(4, 2)
        expect(
            first == again,
            "two loaders with the same seed give different epochs: the order follows the global "
            "generator. Give the sampler a generator made from `seed`",
        )
        expect(first[0] != other[0], "the seeds 3 and 4 give the same order: `seed` isn't used")

    @pytest.mark.points(3, "value")
    @pytest.mark.after("test_batches")
    def test_new_order(self, submission):
        """Each epoch comes in a new, random order."""
        X, y = table(23)
        loader = submission.make_loader(X, y, 5, 3)
        batches = [batches_of(loader) for _ in range(3)]
        epochs = [rows_of(epoch) for epoch in batches]
        expect(epochs[0] != list(range(23)), "the rows come in the order of the table: no shuffle")
        for a, b in ((0, 1), (1, 2), (0, 2)):
            expect(
                epochs[a] != epochs[b],
                f"the epochs {a} and {b} come in the same order: shuffled once, or seeded anew for "
                "each epoch; a generator that goes on gives a new order",
            )
        together = [{tuple(sorted(rows_of([batch]))) for batch in epoch} for epoch in batches]
        expect(
            together[0] != together[1],
            "the same rows share a batch in every epoch: shuffle the rows, not the batches",
        )

    @pytest.mark.points(2, "structure")
    @pytest.mark.after("test_batches")
    def test_fetched_whole(self, submission):
        """A batch is fetched whole, without a call for each row."""
        X, y = table(24)
        loader = submission.make_loader(X, y, 8, 3)
        with spy(submission.FastTable, "__getitem__") as log:
            batches_of(loader)
        expect(
            len(log) <= 3,
            f"FastTable.__getitem__ was called {len(log)} times for 3 batches of 8 rows: index "
            "with the whole list of indices at once",
            got=len(log),
            expected="at most 3",
        )
        fetches = ("select", "slice", "narrow", "index", "index_select", "gather", "stack", "cat")

        def counted(rows: int) -> int:
            X, y = table(rows)
            loader = submission.make_loader(X, y, rows // 3, 3)
            log = count_ops(lambda: batches_of(loader))
            return sum(op.name in fetches for op in log.ops)

        small, large = counted(24), counted(96)
        expect(
            small == large,
            f"3 batches of 8 rows are put together by {small} operations, 3 batches of 32 rows by "
            f"{large}: each row is picked alone",
            got=large,
            expected=small,
        )

    @pytest.mark.points(2, "structure")
    @pytest.mark.after("test_batches")
    @pytest.mark.hint("A slice is a view; indexing with a list or a tensor of indices copies.")
    def test_copies(self, submission):
        """Batches are copies: writing to one changes no data."""
        for rows, bs in ((6, 2), (5, 1), (3, 7)):
            X, y = table(rows)
            own_X, own_y = X.clone(), y.clone()
            loader = submission.make_loader(own_X, own_y, bs, 3)
            for features, labels in loader:
                features[:, 1:].mul_(0).add_(77)
                labels.mul_(0)
            expect(
                torch.equal(own_X, X) and torch.equal(own_y, y),
                "writing to a batch has written to the table: the batches are views of it, and an "
                "augmentation in place corrupts the data",
            )
            batches = batches_of(loader)
            features, labels = (torch.cat([batch[k] for batch in batches]) for k in (0, 1))
            found = rows_of(batches)
            expect(
                torch.equal(features, X[found]) and torch.equal(labels, y[found]),
                "what was written to the batches of the first epoch is in the second: they are "
                "views of what the loader keeps",
            )

    @pytest.mark.points(1, "speed")
    @pytest.mark.after("test_fetched_whole", "test_each_row_once")
    def test_speed(self, submission):
        """It is much faster than a loader that fetches row by row."""

        def make(generator: torch.Generator, device: Any) -> tuple[Tensor, Tensor]:
            X = torch.randint(0, 9, (128, 5), generator=generator).float()
            return X, torch.randint(0, 9, (128,), generator=generator)

        assert_speed(
            lambda X, y: column_sums(submission.make_loader(X, y, 32, 3)),
            lambda X, y: column_sums(per_item(X, y, 32, 3)),
            make,
            limit=0.6,
            what="an epoch",
        )


# --- 3 ------------------------------------------------------------------------------------------


def workers(count: int) -> dict[str, Any]:
    """The arguments of a DataLoader for real workers, where there is fork."""
    if not count or not hasattr(os, "fork"):
        return {"num_workers": 0}
    return {"num_workers": count, "multiprocessing_context": "fork"}


def noisy(
    module: Any, data: Any, seed: int, epochs: int = 1, count: int = 2
) -> list[list[list[float]]]:
    """The rows that a DataLoader over the data set gives, epoch by epoch."""
    generator = torch.Generator().manual_seed(seed)
    loader = DataLoader(
        data,
        batch_size=2,
        worker_init_fn=module.worker_init,
        generator=generator,
        **workers(count),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer cores than workers
        return [torch.cat(list(loader)).tolist() for _ in range(epochs)]


def expect_all_different(rows: list[list[float]], what: str) -> None:
    """No row of noise comes twice; a single number may, in half the digits."""
    values = [tuple(row) for row in rows]
    expect(
        len(set(values)) == len(values),
        f"{what}: {len(values) - len(set(values))} of {len(values)} rows of noise are duplicates "
        "of others",
        got=len(set(values)),
        expected=len(values),
    )


def global_state() -> dict[str, Any]:
    """The state of the three global generators."""
    kind, keys, *rest = np.random.get_state()
    return {
        "NumPy": (kind, keys.tolist(), *rest),
        "torch": torch.get_rng_state().tolist(),
        "random": random.getstate(),
    }


@pytest.mark.task("Augmented")
class TestAugmented:
    @pytest.mark.points(1, "shape")
    def test_items(self, submission):
        """An item has the shape and the dtype of its row."""
        for kind, shape in ((torch.float32, (5, 3)), (torch.float64, (3, 2, 7))):
            data = submission.Augmented(torch.zeros(shape, dtype=kind))
            assert_equal(len(data), shape[0], what="len(Augmented)")
            row = assert_tensor(data[1], "an item")
            assert_equal(tuple(row.shape), shape[1:], what="the shape of an item")
            assert_dtype(row, kind, "an item")

    @pytest.mark.points(2, "value")
    def test_standard_normal(self, submission):
        """The noise has mean 0 and deviation 1, and is added to the row."""
        x = 50.0 * torch.arange(7, dtype=torch.float64)[:, None].expand(7, 2003)
        data = submission.Augmented(x.clone())
        noise = torch.stack([data[i] for i in range(7)]) - x
        mean, deviation = noise.mean().item(), noise.std().item()
        expect(
            abs(mean) < 0.06,
            f"the mean of 14021 draws is {mean:.3f}; standard normal noise added to x[i] has 0",
        )
        expect(
            0.95 < deviation < 1.05,
            f"the deviation of 14021 draws is {deviation:.3f}; standard normal noise has 1"
            + (": this looks uniform" if abs(deviation - 12**-0.5) < 0.02 else ""),
        )
        beyond = (noise.abs() > 2).double().mean().item()
        expect(
            0.03 < beyond < 0.06,
            f"{beyond:.1%} of the draws are further than 2 from 0; of a normal distribution, 4.6 %",
        )

    @pytest.mark.points(4, "value")
    @pytest.mark.hint("Every worker gets a copy of the data set, with all that it holds.")
    def test_workers_differ(self, submission):
        """Two workers draw different noise."""
        data = submission.Augmented(torch.zeros(8, 3, dtype=torch.float64))
        (rows,) = noisy(submission, data, seed=11)
        expect_all_different(
            rows,
            "with two workers: each has a copy of the same generator. Build it in the worker, "
            "from a seed that differs by worker",
        )

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_workers_differ")
    def test_used_before(self, submission):
        """Workers differ also where the data set was used before."""
        data = submission.Augmented(torch.zeros(8, 3, dtype=torch.float64))
        looked_at = data[0].tolist()
        (rows,) = noisy(submission, data, seed=11)
        expect_all_different(
            [looked_at, *rows],
            "with two workers, after data[0] in the main process: the generator that was built "
            "there is copied into every worker, unless worker_init replaces it",
        )

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_workers_differ")
    def test_same_seed(self, submission):
        """With workers, the same seed of the loader gives the same."""
        x = torch.zeros(6, 3, dtype=torch.float64)
        found = []
        for seed, elsewhere in ((5, 2), (5, 3), (6, 2)):
            torch.manual_seed(elsewhere)
            np.random.seed(elsewhere)
            found.append(noisy(submission, submission.Augmented(x), seed))
        expect(
            found[0] == found[1],
            "two loaders with the same seed of their generator give different noise: it comes "
            "from a clock, from the system or from a global generator",
        )
        expect(
            found[0] != found[2],
            "loaders with the seeds 5 and 6 give the same noise: the generator of the loader has "
            "no say in it",
        )

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_workers_differ")
    @pytest.mark.hint("Workers are new ones in every epoch; their number is the same again.")
    def test_epochs_differ(self, submission):
        """With workers, every epoch draws other noise."""
        data = submission.Augmented(torch.zeros(6, 3, dtype=torch.float64))
        first, second = noisy(submission, data, seed=7, epochs=2)
        expect_all_different(
            first + second,
            "in two epochs with two workers: the workers of the second one start from the same "
            "seeds again; `get_worker_info().seed` is another one in every epoch",
        )

    @pytest.mark.points(2, "value")
    def test_without_workers(self, submission):
        """Without workers, the stream follows torch.initial_seed()."""
        x = torch.zeros(6, 3, dtype=torch.float64)

        def drawn(before: int, seed: int) -> list[list[list[float]]]:
            torch.manual_seed(before)
            data = submission.Augmented(x)
            torch.manual_seed(seed)
            first = [data[i].tolist() for i in range(6)]
            torch.manual_seed(seed)
            second = [data[i].tolist() for i in range(6)]
            return [first, second]

        once, again, other = drawn(2, 5), drawn(3, 5), drawn(2, 6)
        expect_all_different(
            once[0] + once[1],
            "in two epochs without workers: the stream should simply go on, from item to item and "
            "from epoch to epoch",
        )
        expect(
            once[0] == again[0],
            "after the same torch.manual_seed the first epoch without workers is another one: the "
            "generator is built at the first use, from torch.initial_seed()",
        )
        expect(
            once[1] == again[1],
            "after the same torch.manual_seed the second epoch without workers is another one",
        )
        expect(
            once[0] != other[0],
            "after torch.manual_seed(5) and torch.manual_seed(6) the noise is the same: its seed "
            "is a fixed one",
        )

    @pytest.mark.points(1, "structure")
    def test_global_generators(self, submission):
        """The main process's global generators are left alone."""
        torch.manual_seed(3)
        before = global_state()
        data = submission.Augmented(torch.zeros(4, 3))
        for i in range(4):
            data[i]
        noisy(submission, data, seed=5, count=0)
        noisy(submission, submission.Augmented(torch.zeros(4, 3)), seed=5)
        after = global_state()
        for name in before:
            expect(
                after[name] == before[name],
                f"the global generator of {name} in the main process is in another state than "
                "before: whoever draws after it gets other numbers. Use a generator that the data "
                "set holds",
            )


# --- 4 ------------------------------------------------------------------------------------------

PATIENCE = 6.0  # seconds of wall time for what takes milliseconds on an idle machine


class ShelfError(Exception):
    """What a source raises."""


class Source:
    """Gives 0, 1, 2 ... and counts how many of them have been drawn."""

    def __init__(self, count: float, fails_at: int = -1) -> None:
        self.count = count
        self.fails_at = fails_at
        self.drawn = 0
        self.failed = threading.Event()
        self.asked = [threading.Event() for _ in range(30)]

    def __iter__(self) -> Iterator[int]:
        for k in itertools.count():
            if k < len(self.asked):
                self.asked[k].set()
            if k == self.fails_at:
                self.failed.set()
                raise ShelfError(f"shelf {k} is empty")
            if k >= self.count:
                return
            self.drawn += 1
            yield k


class ClosedSource:
    """Can't even begin."""

    def __iter__(self) -> Iterator[int]:
        raise ShelfError("shelf 0 is empty")


class Slow:
    """Needs five milliseconds for each item, without the processor."""

    def __init__(self, items: Any) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Tensor]:
        for item in self.items:
            time.sleep(0.005)
            yield item


def used_slowly(items: Any) -> list[Tensor]:
    """What is handed out to a consumer that needs five milliseconds for each item."""
    found = []
    for item in items:
        time.sleep(0.005)
        found.append(item)
    return found


def in_time(fn: Callable[[], Any], what: str) -> Any:
    """What `fn()` returns or raises; a failure if it hangs."""
    answer: list[Any] = []

    def run() -> None:
        try:
            answer.append((True, fn()))
        except BaseException as error:
            answer.append((False, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if not answer:
        fail(
            f"{what}: the consumer hangs in next(). It waits for something that the thread never "
            "puts: the end and exceptions have to be handed over too"
        )
    worked, value = answer[0]
    if not worked:
        raise value
    return value


def soon(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether it comes true within that time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


def expect_no_new_thread(before: set[threading.Thread], what: str) -> None:
    """All threads that were not there before are gone, soon."""

    def left() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread not in before]

    if not soon(lambda: not left(), 3.0):
        fail(
            f"{what}, the thread {left()[0].name} is still there: it waits in `put` for room that "
            "nobody will make, or goes on fetching. Tell it to stop in a `finally`",
            got=len(left()),
            expected=0,
        )


@pytest.mark.task("Prefetcher")
class TestPrefetcher:
    @pytest.mark.points(3, "value")
    def test_order(self, submission):
        """All items come in order, the last one too."""

        def run(case: dict[str, int]) -> None:
            items = list(range(case["items"]))
            found = in_time(
                lambda: list(submission.Prefetcher(items, "cpu", depth=case["depth"])),
                "with {items} items and depth {depth}".format(**case),
            )
            explain = {"the last item is lost": items[:-1]} if items else {}
            assert_equal(found, items, what="the items handed out", explain=explain)

        smallest(
            run,
            [{"items": n, "depth": depth} for n in (1, 0, 2, 3, 7, 23) for depth in (1, 2, 5)],
        )
        found = in_time(lambda: list(submission.Prefetcher(Source(5), "cpu")), "with 5 items")
        assert_equal(found, [0, 1, 2, 3, 4], what="with the default depth, the items handed out")

    @pytest.mark.points(3, "structure")
    def test_device(self, submission, device):
        """Tensors are moved, also inside tuples, lists and dicts."""
        x, y = torch.randn(2, 3), rand_ints(2, high=7)
        plain = {"x": x, "more": [y, (x, "name", 5)], "none": None}
        for target in ("meta", torch.device(device)):
            kind = torch.device(target).type
            items = [x, (x, y), [y, x], plain]
            prefetcher = submission.Prefetcher(items, target)
            found = in_time(functools.partial(list, prefetcher), f"to {target}")
            assert_equal(len(found), 4, what="the number of items")
            for got, item in zip(found, items, strict=True):
                self.compare(got, item, kind, "an item")

    def compare(self, got: Any, item: Any, kind: str, where: str) -> None:
        """The same structure, the same values, tensors on the device."""
        if isinstance(item, Tensor):
            assert_tensor(got, where)
            expect(
                got.device.type == kind,
                f"a tensor ({where}) is on {got.device}, expected {kind}: tensors inside tuples, "
                "lists and dicts are moved too",
                got=str(got.device),
                expected=kind,
            )
            assert_equal(tuple(got.shape), tuple(item.shape), what=f"the shape of {where}")
            if kind != "meta":
                assert_equal(got.cpu(), item, what=where)
            return
        expect(
            type(got) is type(item),
            f"{where} was a {type(item).__name__} and is handed out as a {type(got).__name__}",
        )
        if isinstance(item, dict):
            assert_equal(list(got), list(item), what=f"the keys of {where}")
            for key in item:
                self.compare(got[key], item[key], kind, f"{key!r} of a dict")
        elif isinstance(item, list | tuple):
            assert_equal(len(got), len(item), what=f"the length of {where}")
            for a, b in zip(got, item, strict=True):
                self.compare(a, b, kind, f"a part of a {type(item).__name__}")
        else:
            assert_equal(got, item, what=where)

    @pytest.mark.points(3, "structure")
    @pytest.mark.after("test_order")
    def test_overlap(self, submission):
        """While you hold an item, the next one is being fetched."""
        for depth in (1, 3):
            source = Source(5)

            def run(source: Source = source, depth: int = depth) -> list[bool]:
                early = []
                for k in submission.Prefetcher(source, "cpu", depth):
                    early.append(source.asked[k + 1].wait(2.0))
                    if not early[-1]:
                        break
                return early

            early = in_time(run, f"with depth {depth}")
            expect(
                early == [True] * 5,
                f"with depth {depth}, the source isn't asked for item {len(early)} as long as the "
                f"consumer holds item {len(early) - 1}: nothing is fetched ahead, and loading and "
                "computing take turns",
            )

    @pytest.mark.points(3, "memory")
    @pytest.mark.after("test_order")
    def test_at_most_depth_ahead(self, submission):
        """At most depth + 1 items are fetched ahead."""
        for depth in (1, 2, 5):
            source = Source(1000)

            def run(source: Source = source, depth: int = depth) -> None:
                items = iter(submission.Prefetcher(source, "cpu", depth))
                for handed in (1, 2, 3):
                    next(items)
                    if handed == 2:
                        continue
                    soon(lambda: source.drawn - handed > depth + 1, 0.1)  # noqa: B023
                    ahead = source.drawn - handed
                    expect(
                        ahead <= depth + 1,
                        f"with depth {depth}, {ahead} items have been drawn that are not yet "
                        f"handed out; expected at most {depth + 1}. A queue without that limit "
                        "holds the whole data set in memory when the consumer is slow",
                        got=ahead,
                        expected=depth + 1,
                    )

            in_time(run, f"with depth {depth}")

    @pytest.mark.points(3, "value")
    @pytest.mark.hint("What the thread raises stays in the thread, unless it is handed over.")
    def test_exception(self, submission):
        """An exception of the source comes in its place."""
        for place, depth in ((1, 2), (3, 5), (3, 1), (0, 2)):
            source = Source(9, fails_at=place)
            where = f"when the source fails at item {place}, with depth {depth}"

            def run(source: Any = source, depth: int = depth) -> tuple[list[int], Any]:
                found: list[int] = []
                try:
                    for item in submission.Prefetcher(source, "cpu", depth):
                        found.append(item)
                        if len(found) == 1:
                            source.failed.wait(0.1)
                except ShelfError as raised:
                    return found, raised
                return found, None

            found, error = in_time(run, where)
            expect(
                error is not None,
                f"{where}, the consumer sees a normal end after {len(found)} items: a run on half "
                "the data looks like a whole one",
                got=found,
                expected="ShelfError",
            )
            assert_equal(found, list(range(place)), what=f"{where}, the items before the exception")
            assert_equal(str(error), f"shelf {place} is empty", what=f"{where}, its text")
        found, error = in_time(lambda: run(ClosedSource(), 2), "when iter() of the source raises")
        expect(error is not None, "when iter() of the source raises, the consumer sees an end")

    @pytest.mark.points(2, "structure")
    @pytest.mark.after("test_order")
    def test_break_stops_the_thread(self, submission):
        """After a break the thread is gone."""
        for depth, taken in ((2, 1), (1, 3)):
            before = set(threading.enumerate())

            def run(depth: int = depth, taken: int = taken) -> list[int]:
                found: list[int] = []
                for item in submission.Prefetcher(Source(float("inf")), "cpu", depth):
                    found.append(item)
                    if len(found) == taken:
                        time.sleep(0.01)  # time to fill the queue
                        break
                return found

            in_time(run, "with a source without an end")
            expect_no_new_thread(before, f"after a break at item {taken - 1}")

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_order", "test_exception")
    def test_end_stops_the_thread(self, submission):
        """After the end or an exception the thread is gone."""
        before = set(threading.enumerate())
        in_time(lambda: list(submission.Prefetcher(Source(5), "cpu")), "with 5 items")
        expect_no_new_thread(before, "after the end")

        def run() -> None:
            with contextlib.suppress(ShelfError):
                list(submission.Prefetcher(Source(5, fails_at=2), "cpu", 1))

        in_time(run, "with an exception")
        expect_no_new_thread(before, "after an exception")

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_order")
    def test_again(self, submission):
        """Each iter() starts afresh."""
        items = list(range(11))
        prefetcher = submission.Prefetcher(items, "cpu")

        def run() -> list[list[int]]:
            first = list(itertools.islice(prefetcher, 3))
            return [first, list(prefetcher), list(prefetcher)]

        first, second, third = in_time(run, "when it is iterated three times")
        assert_equal(first, [0, 1, 2], what="of a pass that is left early, items")
        assert_equal(second, items, what="of the pass after it, items")
        assert_equal(third, items, what="of the third pass, items")

    @pytest.mark.points(1, "speed")
    @pytest.mark.after("test_overlap", "test_exception")
    def test_speed(self, submission):
        """Loading and computing take less time than one by one."""

        def make(generator: torch.Generator, device: Any) -> tuple[Tensor]:
            return (torch.randn(6, 3, generator=generator),)

        assert_speed(
            lambda x: used_slowly(submission.Prefetcher(Slow(x), "cpu")),
            lambda x: used_slowly(Slow(x)),
            make,
            limit=0.8,
            what="loading and computing in turns, 5 ms each,",
        )


# --- 5 ------------------------------------------------------------------------------------------

KEYS = ("workers", "prefetch", "batched", "pin")
Config = tuple[int, int, bool, bool]


@dataclass(frozen=True)
class Pipe:
    """How long a config takes: until the first batch, and for each one after it, in seconds."""

    startup: float
    wait: float
    compute: float
    swing: float = 0.0  # relative, of the second and third batch's wait: + and -, or - and +

    def wait_for(self, number: int) -> float:
        """Until batch `number` is there; in pairs, the noise cancels out."""
        if number == 0:
            return self.startup
        place = number - 1
        swing = self.swing if place < 2 else 0.1 * self.swing
        return self.wait * (1 + (swing if place % 2 == 0 else -swing))

    def total(self, batches: int) -> float:
        """Of a whole run."""
        return self.startup + batches * (self.wait + self.compute)


class Pipeline:
    """A loader whose batches take time on the bench's clock only."""

    def __init__(self, bench: "Bench", config: Config) -> None:
        self.bench = bench
        self.config = config
        self.closed = False

    def __iter__(self) -> Iterator[Any]:
        return PipelineBatches(self)


class ClosablePipeline(Pipeline):
    """The same, with workers to be ended."""

    def close(self) -> None:
        """End the workers."""
        self.closed = True


class PipelineBatches:
    """The iterator of a `Pipeline`."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.number = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        bench, config = self.pipeline.bench, self.pipeline.config
        bench.fetches.append((config, bench.clock.now))
        expect(not self.pipeline.closed, "a batch is fetched from a loader that has been closed")
        expect(
            len(bench.fetches) < 20_000,
            "20000 batches have been fetched, and still no end: the budget is counted on "
            "time.perf_counter(), as time goes on there",
        )
        bench.clock.go(bench.pipes[config].wait_for(self.number))
        self.number += 1
        return bench, config, self.number


class Bench:
    """What `autotune` is given: loaders, a step, and a clock that goes on only in them."""

    def __init__(self, pipes: dict[Config, Pipe], all_closable: bool = True) -> None:
        self.pipes = pipes
        self.all_closable = all_closable
        self.clock = Clock()
        self.loaders: list[Pipeline] = []
        self.fetches: list[tuple[Config, float]] = []
        self.steps = 0
        self.grid = [dict(zip(KEYS, config, strict=True)) for config in pipes]

    def make(self, config: dict[str, Any]) -> Pipeline:
        """A loader for a config of the grid."""
        key = tuple(config[name] for name in KEYS)
        expect(
            key in self.pipes,
            f"make_loader was called with {config}, which is not in the grid",
        )
        closable = self.all_closable or len(self.loaders) % 2
        loader = (ClosablePipeline if closable else Pipeline)(self, key)
        self.loaders.append(loader)
        return loader

    def step(self, batch: Any) -> None:
        """The work on one batch."""
        expect(
            isinstance(batch, tuple) and len(batch) == 3 and batch[0] is self,
            f"step was called with a {type(batch).__name__} that is no batch of the loaders",
        )
        self.steps += 1
        self.clock.go(self.pipes[batch[1]].compute)

    def few(self) -> float:
        """Seconds for one start-up and two batches of every config."""
        return sum(
            pipe.startup + pipe.compute + 2 * (pipe.wait + pipe.compute)
            for pipe in self.pipes.values()
        )


def tuned(
    load: Callable[[], Any],
    bench: Bench,
    total: int,
    budget: float | None = None,
    cuda: bool = False,
) -> tuple[Config, list[dict[str, Any]]]:
    """The config that `autotune` picks, and its records; both looked at for their form."""
    grid = [dict(config) for config in bench.grid]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: cuda)
        patch.setattr(torch.cuda, "synchronize", lambda *args, **kwargs: None)
        with told_by(bench.clock, load) as module:
            answer = module.autotune(
                bench.make, bench.step, grid, total, 6 * bench.few() if budget is None else budget
            )
    expect(
        isinstance(answer, tuple | list) and len(answer) == 2,
        f"autotune returns a {type(answer).__name__}; expected (config, records)",
    )
    config, records = answer
    expect(
        isinstance(config, dict) and config in bench.grid,
        f"the config returned, {config!r}, is none of the grid",
    )
    expect(grid == bench.grid, "the grid has been changed; what was given belongs to the caller")
    expect(
        isinstance(records, list) and all(isinstance(record, dict) for record in records),
        "the records are no list of dicts",
    )
    return tuple(config[name] for name in KEYS), records


def named(config: Config) -> str:
    """A config in words."""
    workers, prefetch, batched, pin = config
    return (
        f"workers={workers}, prefetch={prefetch}"
        + (", batched" if batched else "")
        + (", pin" if pin else "")
    )


def why(picked: Config, pipes: dict[Config, Pipe], total: int) -> str:
    """The known mistake that makes this choice, if there is just one."""

    def best_for(batches: int) -> Config:
        return min(pipes, key=lambda config: pipes[config].total(batches))

    most = max(config[0] for config in pipes)
    mistakes = {
        "the most workers are not the fastest": picked[0] == most,
        "that is the best without its start-up, which a short run pays as well": (
            picked == best_for(10**6)
        ),
        "that is the best for a run of one batch: the start-up is paid once, not for each batch": (
            picked == best_for(1)
        ),
    }
    made = [text for text, is_made in mistakes.items() if is_made]
    return f"; {made[0]}" if len(made) == 1 else ""


def expect_good(picked: Config, pipes: dict[Config, Pipe], total: int, what: str) -> None:
    """The true time of the pick is within a tenth of the best one's."""
    best = min(pipes, key=lambda config: pipes[config].total(total))
    taken, least = pipes[picked].total(total), pipes[best].total(total)
    labels = sorted(pipes, key=lambda config: pipes[config].total(total))
    picture(
        "bars",
        f"A run of {total} batches, {what}",
        f"picked: {named(picked)}",
        labels=[named(config) for config in labels],
        series=[
            {"label": "start-up", "values": [pipes[c].startup for c in labels]},
            {
                "label": "batches",
                "values": [pipes[c].total(total) - pipes[c].startup for c in labels],
            },
        ],
        unit="s",
        limit=1.1 * least,
    )
    expect(
        taken <= 1.1 * least,
        f"{what}, a run of {total} batches takes {taken:.1f} s with the config picked "
        f"({named(picked)}) and {least:.1f} s with {named(best)}{why(picked, pipes, total)}",
        got=named(picked),
        expected=named(best),
    )


def io_bound() -> dict[Config, Pipe]:
    """More workers wait side by side."""
    return {
        (w, 2, False, False): Pipe(0.4 + 0.1 * w, 0.4 / max(w, 1), 0.02, swing)
        for w, swing in ((2, 0.3), (0, -0.3), (8, 0.3), (1, 0.3), (4, -0.3))
    }


def cpu_bound() -> dict[Config, Pipe]:
    """Two cores: more workers than that get in each other's way."""
    waits = {0: 1.0, 1: 0.9, 2: 0.5, 4: 0.62, 8: 0.9}
    return {
        (w, 2, batched, False): Pipe(0.1 + 0.1 * w, share * (0.1 if batched else 0.3), 0.01, swing)
        for (w, share), swing in zip(waits.items(), (0.3, -0.3, 0.3, -0.3, 0.3), strict=True)
        for batched in (False, True)
    }


def compute_bound() -> dict[Config, Pipe]:
    """The batch is nearly always there already."""
    waits = {4: 0.0, 8: 0.0005, 2: 0.0, 1: 0.001, 0: 0.003}
    return {(w, 2, True, False): Pipe(0.1 + 0.1 * w, wait, 0.1) for w, wait in waits.items()}


def startup_bound() -> dict[Config, Pipe]:
    """Fast ones begin late."""
    return {
        (8, 2, False, False): Pipe(4.0, 0.05, 0.01, 0.2),
        (0, 2, False, False): Pipe(0.05, 0.09, 0.01, -0.2),
        (4, 2, False, False): Pipe(2.5, 0.02, 0.01, 0.2),
        (2, 2, False, False): Pipe(1.0, 0.06, 0.01, -0.2),
    }


@pytest.mark.task("autotune")
class TestAutotune:
    @pytest.mark.points(1, "structure")
    def test_records(self, fresh_submission):
        """There is one record for each config, with its figures."""
        bench = Bench(io_bound())
        _, records = tuned(fresh_submission, bench, total=100)
        keys = ["config", "startup_s", "batch_s", "batches"]
        for record in records:
            expect(
                sorted(record) == sorted(keys),
                f"a record has the keys {sorted(record)}; expected {keys}",
            )
        configs = [tuple(record["config"][name] for name in KEYS) for record in records]
        assert_equal(sorted(configs), sorted(bench.pipes), what="the configs of the records")
        for config, record in zip(configs, records, strict=True):
            pipe = bench.pipes[config]
            fetched = sum(config == other for other, _ in bench.fetches)
            assert_equal(
                record["batches"], fetched, what=f"for {named(config)}, batches (as fetched),"
            )
            assert_close(
                float(record["startup_s"]),
                pipe.startup,
                what=f"for {named(config)}, startup_s",
                explain={
                    "startup_s includes the step of the first batch": pipe.startup + pipe.compute
                },
            )
            assert_close(
                float(record["batch_s"]),
                pipe.wait + pipe.compute,
                rtol=0.06,
                what=f"for {named(config)}, batch_s",
                explain={
                    "batch_s is the wait alone; a run waits and computes": pipe.wait,
                },
            )
        assert_equal(bench.steps, len(bench.fetches), what="calls of step, for batches fetched,")

    @pytest.mark.points(3, "value")
    def test_io_bound(self, fresh_submission):
        """Bound by input, it takes the workers that pay."""
        pipes = io_bound()
        picked, _ = tuned(fresh_submission, Bench(pipes), total=500)
        expect_good(picked, pipes, 500, "bound by input")

    @pytest.mark.points(3, "value")
    def test_cpu_bound(self, fresh_submission):
        """Bound by the processor, it takes no more workers than help."""
        pipes = cpu_bound()
        picked, _ = tuned(fresh_submission, Bench(pipes), total=500)
        expect_good(picked, pipes, 500, "bound by the processor")

    @pytest.mark.points(3, "value")
    @pytest.mark.hint("Look at all records, also of configs that left the race early.")
    def test_fewest_workers(self, fresh_submission):
        """Within 5 % of the best, it takes the fewest workers."""
        close = {
            (4, 2, False, False): Pipe(0.2, 0.08, 0.02),
            (0, 2, False, False): Pipe(0.1, 0.095, 0.02),
            (1, 2, False, False): Pipe(0.15, 0.083, 0.02),
            (2, 2, False, False): Pipe(0.2, 0.0805, 0.02),
        }
        for pipes, expected, what in (
            (compute_bound(), (0, 2, True, False), "bound by the step"),
            (close, (1, 2, False, False), "with 1, 2 and 4 workers within 4 %"),
        ):
            picked, _ = tuned(fresh_submission, Bench(pipes), total=400)
            expect_good(picked, pipes, 400, what)
            expect(
                picked == expected,
                f"{what}, it picks {named(picked)}; within 5 % of the best, the fewest workers are "
                f"those of {named(expected)}",
                got=named(picked),
                expected=named(expected),
            )

    @pytest.mark.points(5, "value")
    def test_short_and_long(self, fresh_submission):
        """Short and long runs have different winners."""
        pipes = startup_bound()
        for total, what in ((10, "bound by the start-up"), (3000, "with a long start-up")):
            picked, _ = tuned(fresh_submission, Bench(pipes), total=total)
            expect_good(picked, pipes, total, what)

    @pytest.mark.points(4, "value")
    @pytest.mark.hint("How much does one batch say about the mean?")
    def test_noise(self, fresh_submission):
        """One slow or fast batch doesn't decide."""
        pipes = {
            (0, 2, False, False): Pipe(0.2, 0.31, 0.01, -0.2),
            (1, 2, False, False): Pipe(0.2, 0.13, 0.01, -0.4),
            (2, 2, False, False): Pipe(0.2, 0.1, 0.01, 0.4),
            (4, 2, False, False): Pipe(0.2, 0.28, 0.01, 0.2),
            (8, 2, False, False): Pipe(0.2, 0.135, 0.01, -0.4),
        }
        picked, _ = tuned(fresh_submission, Bench(pipes), total=300)
        least, taken = pipes[(2, 2, False, False)].total(300), pipes[picked].total(300)
        expect(
            taken <= 1.1 * least,
            f"with noise on single batches, it picks {named(picked)} ({taken:.0f} s for 300 "
            f"batches, the best takes {least:.0f} s): its first batch after the start-up was quick "
            "by chance; take the mean of more",
            got=named(picked),
            expected="workers=2, prefetch=2",
        )

    @pytest.mark.points(1, "structure")
    def test_halving(self, fresh_submission):
        """The better half is measured longer than the rest."""
        pipes = {
            (w, prefetch, False, False): Pipe(0.1, 0.1 * (1 + w + 3 * prefetch), 0.02)
            for w, prefetch in ((2, 4), (0, 2), (1, 4), (1, 2), (0, 4), (2, 2), (3, 2), (3, 4))
        }
        bench = Bench(pipes)
        picked, _ = tuned(fresh_submission, bench, total=1000)
        order = sorted(pipes, key=lambda config: pipes[config].total(1000))
        fetched = [sum(config == other for other, _ in bench.fetches) for config in order]
        expect(
            picked == order[0],
            f"without noise it picks {named(picked)}; the best is {named(order[0])}",
        )
        expect(
            max(fetched[-4:]) < fetched[0],
            "batches fetched of eight configs, from the best to the worst: "
            f"{', '.join(map(str, fetched))}. The worse half is measured as long as the best one: "
            "the budget goes into losers",
            got=fetched,
        )

    @pytest.mark.points(4, "structure")
    @pytest.mark.hint("A start-up is measuring too.")
    def test_budget(self, fresh_submission):
        """Once the budget is used, nothing more is fetched."""
        for pipes, total in ((io_bound(), 500), (startup_bound(), 200), (cpu_bound(), 1000)):
            for factor in (1.001, 1.3, 2.1):
                bench = Bench(pipes)
                budget = factor * bench.few()
                began = bench.clock.now
                tuned(fresh_submission, bench, total=total, budget=budget)
                last = max((at for _, at in bench.fetches), default=began) - began
                expect(
                    last < budget,
                    f"with a budget of {budget:.2f} s a batch is fetched {last:.2f} s after the "
                    "begin: the budget is looked at before every fetch, and start-ups and steps "
                    "count too",
                    got=round(last, 3),
                    expected=f"below {budget:.3f}",
                )

    @pytest.mark.points(2, "structure")
    def test_no_pinning_without_cuda(self, fresh_submission):
        """Without CUDA, configs that pin are skipped."""
        pipes = {}
        for config, pipe in io_bound().items():
            pipes[config] = pipe
            pipes[(*config[:3], True)] = Pipe(pipe.startup, 0.5 * pipe.wait, pipe.compute)
        bench = Bench(pipes)
        picked, records = tuned(fresh_submission, bench, total=500)
        pinned = [loader for loader in bench.loaders if loader.config[3]]
        expect(
            not picked[3] and not pinned and not any(r["config"]["pin"] for r in records),
            "a config with pin=True is tried where there is no CUDA: there is nothing to pin "
            "memory for, Tensor.pin_memory raises RuntimeError there",
            got=len(pinned),
            expected=0,
        )

    @pytest.mark.points(1, "value")
    def test_pinning_where_it_pays(self, fresh_submission):
        """With CUDA, it pins where that pays, and only there."""
        for gain, expected in ((0.97, False), (0.6, True)):
            pipes = {
                (2, 2, False, True): Pipe(0.2, 0.1 * gain, 0.01),
                (0, 2, False, False): Pipe(0.1, 0.3, 0.01),
                (2, 2, False, False): Pipe(0.2, 0.1, 0.01),
                (0, 2, False, True): Pipe(0.1, 0.3 * gain, 0.01),
            }
            picked, _ = tuned(fresh_submission, Bench(pipes), total=500, cuda=True)
            expect(
                picked == (2, 2, False, expected),
                f"with CUDA, where pinned loading takes {gain:.0%} of the wait, it picks "
                f"{named(picked)}; expected {named((2, 2, False, expected))}: within 5 % of the "
                "best the fewest workers, then no pinning",
            )

    @pytest.mark.points(2, "structure")
    def test_closed(self, fresh_submission):
        """Every loader that has close() is closed, the losers too."""
        for all_closable in (True, False):
            for factor in (6, 1.1):
                bench = Bench(io_bound(), all_closable)
                tuned(fresh_submission, bench, total=200, budget=factor * bench.few())
                left = [
                    loader.config
                    for loader in bench.loaders
                    if isinstance(loader, ClosablePipeline) and not loader.closed
                ]
                expect(
                    not left,
                    f"{len(left)} of {len(bench.loaders)} loaders are still open, such as "
                    f"{named(left[0]) if left else ''}: their workers stay and take the time of "
                    "the run",
                    got=len(left),
                    expected=0,
                )

    @pytest.mark.points(1, "structure")
    def test_deterministic(self, fresh_submission):
        """The same measurements give the same answer."""
        pipes = io_bound() | cpu_bound()
        found = []
        for seed in (2, 3, 5):
            random.seed(seed)
            torch.manual_seed(seed)
            np.random.seed(seed)
            found.append(tuned(fresh_submission, Bench(pipes), total=60))
        for other in found[1:]:
            expect(
                other == found[0],
                "two calls with the same timings give different configs or records: something is "
                "drawn at random",
            )
