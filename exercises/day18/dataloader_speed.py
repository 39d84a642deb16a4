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
    # TODO 1: read the clock around each wait and each step
    raise NotImplementedError("day18 T1: loader_share")
    # END TODO


class FastTable(Dataset[tuple[Tensor, Tensor]]):
    """A table in memory: `table[i]` is `(X[i], y[i])`.

    Args:
        X: (rows, feat).
        y: (rows,).
    """

    def __init__(self, X: Tensor, y: Tensor) -> None:
        # TODO 2: keep the table
        raise NotImplementedError("day18 T2: make_loader")
        # END TODO

    def __len__(self) -> int:
        """The number of rows."""
        # TODO 2: how many
        raise NotImplementedError("day18 T2: make_loader")
        # END TODO

    def __getitem__(self, i: Any) -> tuple[Tensor, Tensor]:
        """`(X[i], y[i])`: (feat,) and () for an int."""
        # TODO 2: pick
        raise NotImplementedError("day18 T2: make_loader")
        # END TODO


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
    # TODO 2: the loader
    raise NotImplementedError("day18 T2: make_loader")
    # END TODO


def worker_init(worker_id: int) -> None:
    """What every worker of a DataLoader over Augmented calls when it begins (`worker_init_fn`).

    Args:
        worker_id: from 0 on.
    """
    # TODO 3: prepare this worker's copy of the data set
    raise NotImplementedError("day18 T3: Augmented")
    # END TODO


class Augmented(Dataset[Tensor]):
    """`data[i]` is `x[i]` plus standard normal noise, new at every access.

    Args:
        x: (rows, *), of a floating-point dtype; items keep it.
    """

    def __init__(self, x: Tensor) -> None:
        # TODO 3: what the data set holds
        raise NotImplementedError("day18 T3: Augmented")
        # END TODO

    def __len__(self) -> int:
        """The number of rows."""
        # TODO 3: how many
        raise NotImplementedError("day18 T3: Augmented")
        # END TODO

    def __getitem__(self, i: int) -> Tensor:
        """One row (*) with noise from the NumPy generator that the data set holds."""
        # TODO 3: one noisy row
        raise NotImplementedError("day18 T3: Augmented")
        # END TODO


class Prefetcher:
    """The items of an iterable, fetched ahead by a thread and moved to a device.

    Args:
        iterable: the source; every `iter()` of the prefetcher asks it for a new iterator.
        device: where tensors go, also those inside tuples, lists and dicts.
        depth: at most depth + 1 items are drawn from the source and not yet handed out; at least 1.
    """

    def __init__(self, iterable: Iterable[Any], device: torch.device | str, depth: int = 2) -> None:
        # TODO 4: keep what is given
        raise NotImplementedError("day18 T4: Prefetcher")
        # END TODO

    def __iter__(self) -> Iterator[Any]:
        """Yield the items in order; an exception of the source is raised in its place."""
        # TODO 4: a thread that fetches, a generator that hands out
        raise NotImplementedError("day18 T4: Prefetcher")
        # END TODO


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
    # TODO 5: rounds, each with the better half of the last one
    raise NotImplementedError("day18 T5: autotune")
    # END TODO
