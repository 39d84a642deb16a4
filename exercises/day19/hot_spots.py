"""Day 19: measure, read a profile, find the waits, count the work, and make it fast."""

import gc
import math
import statistics
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from slow_ranker import SlowRanker  # noqa: F401 - what FastRanker is measured against
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile, schedule
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Stats:
    """What `bench` measured.

    Attributes:
        median: seconds per call, the median over the blocks.
        iqr: seconds per call, the 75th percentile over the blocks minus the 25th.
        n: timed calls, all blocks together.
        inner: calls per block.
    """

    median: float
    iqr: float
    n: int
    inner: int


def bench(
    fn: Callable[[], object],
    *,
    warmup: int = 2,
    min_time: float = 0.05,
    sync: Callable[[], object] | None = None,
) -> Stats:
    """Time `fn()` in blocks of calls.

    Args:
        fn: what is timed; takes no arguments.
        warmup: calls before anything is timed.
        min_time: seconds that all blocks together last at least; one block a tenth of it.
        sync: called right before every reading of the clock.

    Returns:
        Seconds per call and the number of calls.
    """
    # TODO 1: warm up, then blocks
    raise NotImplementedError("day19 T1: bench")
    # END TODO


def hot_ops(fn: Callable[[], object], k: int) -> list[tuple[str, int, float]]:
    """The operators in which one call of `fn` spends most of its time.

    Args:
        fn: called once, in the profiler.
        k: how many operators, at most.

    Returns:
        (name such as `aten::mm`, calls, share of the self CPU time of all ATen operators), the
        largest share first.
    """
    # TODO 2: profile and sort
    raise NotImplementedError("day19 T2: profile_and_trace")
    # END TODO


def trace(step: Callable[[], object], path: str | Path) -> None:
    """Write a Chrome trace of two steps, the third and the fourth.

    Args:
        step: called four times.
        path: of the JSON file.
    """
    # TODO 2: four steps
    raise NotImplementedError("day19 T2: profile_and_trace")
    # END TODO


# TODO 3: helpers of yours, if you like
# END TODO


def find_syncs(fn: Callable[[], object]) -> dict[str, int]:
    """Count where the host would have to wait for a GPU.

    Args:
        fn: called once.

    Returns:
        "file.py:12" (base name and line) -> number of waits there.
    """
    # TODO 3: run and count
    raise NotImplementedError("day19 T3: find_syncs")
    # END TODO


# TODO 4: helpers of yours, if you like
# END TODO


def cost(
    fn: Callable[..., object],
    *args: object,
    peak_flops: float = 5e10,
    peak_bytes: float = 1e10,
    per_op_s: float = 5e-6,
) -> dict[str, object]:
    """The work of `fn(*args)`, and what bounds its speed.

    Args:
        fn: called once; its backward counts too, if it calls it.
        args: passed to `fn`.
        peak_flops: of the machine, a second.
        peak_bytes: of the machine's memory, a second.
        per_op_s: seconds that it takes to launch an operator.

    Returns:
        `flops` and `bytes_moved` (ints), `intensity` (float, FLOPs a byte), `bound` ("compute",
        "memory" or "overhead").
    """
    # TODO 4: run and sum up
    raise NotImplementedError("day19 T4: flops_and_roofline")
    # END TODO


class FastRanker(nn.Module):
    """What `SlowRanker` of slow_ranker.py does, at least 20 times as fast.

    Args:
        dim: features of a query and of a candidate.
        hidden: features they are compared in.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.query = nn.Linear(dim, hidden)
        self.item = nn.Linear(dim, hidden)
        self.fade = nn.Parameter(torch.tensor(0.1))

    def forward(self, queries: Tensor, items: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of the candidates of each query, and their order.

        Args:
            queries: (batch, dim), floating point.
            items: (batch, candidates, dim), in the dtype of `queries`.
            keep: (batch, candidates), bool; True = may be chosen.

        Returns:
            Weights (batch, candidates) in the dtype of `queries`; order (batch, candidates), int64.
        """
        # TODO 5: all at once
        raise NotImplementedError("day19 T5: optimise_it")
        # END TODO
