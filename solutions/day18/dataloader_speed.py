"""Day 18: find out whether loading is the bottleneck, and remove it by the right means."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, get_worker_info


def loader_share(
    loader: Iterable[Any],
    step: Callable[[Any], Any],
    n: int,
    sync: Callable[[], Any] | None = None,
) -> dict[str, Any]:
    """Fetch up to n batches, call `step(batch)` once for each, and tell waiting from computing.

    Args:
        loader: what gives the batches; its start-up is part of the wait for the first one.
        step: the work on one batch.
        n: the most batches to fetch, at least 1.
        sync: called right before every reading of `time.perf_counter()`.

    Returns:
        startup_s: from before `iter(loader)` until the first batch is there; wait_s: the waits for
        the others; compute_s: all steps; share: wait_s / (wait_s + compute_s), 0.0 if both are 0;
        batches: how many there were. Seconds are floats.
    """
    ### BEGIN SOLUTION 1: read the clock around each wait and each step

    def now() -> float:
        if sync is not None:
            sync()
        return time.perf_counter()

    waits: list[float] = []
    compute = 0.0
    before = now()
    batches = iter(loader)
    for _ in range(n):
        try:
            batch = next(batches)
        except StopIteration:
            break
        there = now()
        step(batch)
        done = now()
        waits.append(there - before)
        compute += done - there
        before = done
    wait = sum(waits[1:], 0.0)
    return {
        "startup_s": waits[0] if waits else 0.0,
        "wait_s": wait,
        "compute_s": compute,
        "share": wait / (wait + compute) if wait + compute else 0.0,
        "batches": len(waits),
    }
    ### END SOLUTION


class FastTable(Dataset[tuple[Tensor, Tensor]]):
    """A table in memory: `table[i]` is `(X[i], y[i])`.

    Args:
        X: (rows, feat).
        y: (rows,).
    """

    def __init__(self, X: Tensor, y: Tensor) -> None:
        ### BEGIN SOLUTION 2: keep the table
        self.X = X
        self.y = y
        ### END SOLUTION

    def __len__(self) -> int:
        """The number of rows."""
        ### BEGIN SOLUTION 2: how many
        return len(self.y)
        ### END SOLUTION

    def __getitem__(self, i: Any) -> tuple[Tensor, Tensor]:
        """`(X[i], y[i])`: (feat,) and () for an int."""
        ### BEGIN SOLUTION 2: pick
        return self.X[i], self.y[i]
        ### END SOLUTION


def make_loader(
    X: Tensor, y: Tensor, bs: int, seed: int, drop_last: bool = False
) -> DataLoader[tuple[Tensor, Tensor]]:
    """A shuffling loader over FastTable that fetches each batch whole.

    Args:
        X: (rows, feat).
        y: (rows,).
        bs: rows of a batch.
        seed: decides the order of all epochs.
        drop_last: whether a last, shorter batch is left out.

    Returns:
        a loader of batches (X rows (bs, feat), y (bs,)), copies of the table's rows; its `len()`
        counts batches. It has no workers.
    """
    ### BEGIN SOLUTION 2: the loader
    table = FastTable(X, y)
    shuffled = RandomSampler(table, generator=torch.Generator().manual_seed(seed))
    return DataLoader(table, batch_size=None, sampler=BatchSampler(shuffled, bs, drop_last))
    ### END SOLUTION


def worker_init(worker_id: int) -> None:
    """What every worker of a DataLoader over Augmented calls when it begins (`worker_init_fn`).

    Args:
        worker_id: from 0 on.
    """
    ### BEGIN SOLUTION 3: prepare this worker's copy of the data set
    get_worker_info().dataset.noise = None
    ### END SOLUTION


class Augmented(Dataset[Tensor]):
    """`data[i]` is `x[i]` plus standard normal noise, new at every access.

    Args:
        x: (rows, *), of a floating-point dtype; items keep it.
    """

    def __init__(self, x: Tensor) -> None:
        ### BEGIN SOLUTION 3: what the data set holds
        self.x = x
        self.noise: np.random.Generator | None = None
        ### END SOLUTION

    def __len__(self) -> int:
        """The number of rows."""
        ### BEGIN SOLUTION 3: how many
        return len(self.x)
        ### END SOLUTION

    def __getitem__(self, i: int) -> Tensor:
        """One row (*) with noise from the NumPy generator that the data set holds."""
        ### BEGIN SOLUTION 3: one noisy row
        if self.noise is None:
            info = get_worker_info()
            seed = torch.initial_seed() if info is None else info.seed
            self.noise = np.random.default_rng(seed % 2**32)
        row = self.x[i]
        return row + torch.as_tensor(self.noise.standard_normal(row.shape), dtype=row.dtype)
        ### END SOLUTION


class Prefetcher:
    """The items of an iterable, fetched ahead by a thread and moved to a device.

    Args:
        iterable: the source; every `iter()` of the prefetcher asks it for a new iterator.
        device: where tensors go, also those inside tuples, lists and dicts.
        depth: at most depth + 1 items are drawn from the source and not yet handed out; at least 1.
    """

    def __init__(self, iterable: Iterable[Any], device: torch.device | str, depth: int = 2) -> None:
        ### BEGIN SOLUTION 4: keep what is given
        self.iterable = iterable
        self.device = device
        self.depth = depth
        ### END SOLUTION

    def __iter__(self) -> Iterator[Any]:
        """Yield the items in order; an exception of the source is raised in its place."""
        ### BEGIN SOLUTION 4: a thread that fetches, a generator that hands out

        def moved(thing: Any) -> Any:
            if isinstance(thing, Tensor):
                return thing.to(self.device, non_blocking=thing.is_pinned())
            if isinstance(thing, tuple):
                return tuple(moved(part) for part in thing)
            if isinstance(thing, list):
                return [moved(part) for part in thing]
            if isinstance(thing, dict):
                return {key: moved(part) for key, part in thing.items()}
            return thing

        items: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=self.depth)
        stopped = threading.Event()

        def fetch() -> None:
            try:
                for item in self.iterable:
                    if stopped.is_set():
                        return
                    items.put(("item", item))
            except Exception as error:
                items.put(("error", error))
            else:
                items.put(("end", None))

        threading.Thread(target=fetch, daemon=True).start()
        try:
            while True:
                kind, value = items.get()
                if kind == "end":
                    return
                if kind == "error":
                    raise value
                yield moved(value)
        finally:
            stopped.set()
            # Now there is room for the one `put` that may still be waiting.
            while not items.empty():
                items.get()
        ### END SOLUTION


def autotune(
    make_loader: Callable[[dict[str, Any]], Iterable[Any]],
    step: Callable[[Any], Any],
    grid: list[dict[str, Any]],
    total_batches: int,
    budget_s: float,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measure the configs of a grid by successive halving; return the best for the whole run.

    Args:
        make_loader: `make_loader(config)` builds a loader; some have a method `close()`.
        step: the work on one batch; called once for every batch fetched.
        grid: configs with the keys workers, prefetch, batched, pin.
        total_batches: of the run that the config is for.
        budget_s: seconds of `time.perf_counter()` after which nothing more is fetched.

    Returns:
        the config with the smallest startup_s + total_batches * batch_s; of those within 5 % of
        it, the one with the fewest workers, then one without pinning. And one record for each
        config tried: config, startup_s, batch_s, batches.
    """
    ### BEGIN SOLUTION 5: rounds, each with the better half of the last one
    end = time.perf_counter() + budget_s
    loaders: list[Any] = []
    records: list[dict[str, Any]] = []
    iterators: dict[int, Iterator[Any]] = {}
    spent: dict[int, float] = {}

    def total(record: dict[str, Any]) -> float:
        return float(record["startup_s"] + total_batches * record["batch_s"])

    def go_on(place: int, count: int) -> None:
        record = records[place]
        for _ in range(count):
            began = time.perf_counter()
            if began >= end:
                return
            step(next(iterators[place]))
            spent[place] += time.perf_counter() - began
            record["batches"] += 1
            record["batch_s"] = spent[place] / (record["batches"] - 1)

    try:
        for config in grid:
            began = time.perf_counter()
            if began >= end:
                break
            if config["pin"] and not torch.cuda.is_available():
                continue
            loader = make_loader(config)
            loaders.append(loader)
            place = len(records)
            iterators[place] = iter(loader)
            batch = next(iterators[place])
            there = time.perf_counter()
            startup = there - began
            step(batch)
            # Until a second batch has been seen, its step is all that is known of a batch.
            known = time.perf_counter() - there
            records.append({"config": config, "startup_s": startup, "batch_s": known, "batches": 1})
            spent[place] = 0.0
            go_on(place, 2)
        racing = list(range(len(records)))
        count = 2
        while len(racing) > 1 and time.perf_counter() < end:
            racing.sort(key=lambda place: total(records[place]))
            racing = racing[: (len(racing) + 1) // 2]
            count *= 2
            for place in racing:
                go_on(place, count)
    finally:
        for loader in loaders:
            if hasattr(loader, "close"):
                loader.close()
    limit = 1.05 * min(total(record) for record in records)
    best = min(
        (record for record in records if total(record) <= limit),
        key=lambda record: (record["config"]["workers"], record["config"]["pin"], total(record)),
    )
    return best["config"], records
    ### END SOLUTION
