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
    ### BEGIN SOLUTION 1: warm up, then blocks

    def now() -> float:
        if sync is not None:
            sync()
        return time.perf_counter()

    def block(inner: int) -> float:
        start = now()
        for _ in range(inner):
            fn()
        return now() - start

    for _ in range(warmup):
        fn()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        inner, times = 1, []
        while len(times) < 5 or sum(times) < min_time:
            times.append(block(inner))
            if times[-1] < min_time / 10:
                inner, times = 2 * inner, []
    finally:
        if was_enabled:
            gc.enable()
    low, median, high = statistics.quantiles([t / inner for t in times], method="inclusive")
    return Stats(median, high - low, inner * len(times), inner)
    ### END SOLUTION


def hot_ops(fn: Callable[[], object], k: int) -> list[tuple[str, int, float]]:
    """The operators in which one call of `fn` spends most of its time.

    Args:
        fn: called once, in the profiler.
        k: how many operators, at most.

    Returns:
        (name such as `aten::mm`, calls, share of the self CPU time of all ATen operators), the
        largest share first.
    """
    ### BEGIN SOLUTION 2: profile and sort
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        fn()
    ops = [event for event in profiler.key_averages() if event.key.startswith("aten::")]
    ops.sort(key=lambda event: event.self_cpu_time_total, reverse=True)
    total = sum(event.self_cpu_time_total for event in ops)
    return [(event.key, event.count, event.self_cpu_time_total / total) for event in ops[:k]]
    ### END SOLUTION


def trace(step: Callable[[], object], path: str | Path) -> None:
    """Write a Chrome trace of two steps, the third and the fourth.

    Args:
        step: called four times.
        path: of the JSON file.
    """
    ### BEGIN SOLUTION 2: four steps
    with profile(
        activities=[ProfilerActivity.CPU],
        schedule=schedule(wait=1, warmup=1, active=2),
        on_trace_ready=lambda profiler: profiler.export_chrome_trace(str(path)),
    ) as profiler:
        for _ in range(4):
            step()
            profiler.step()
    ### END SOLUTION


### BEGIN SOLUTION 3: helpers of yours, if you like
TORCH = str(Path(torch.__file__).parent)


class Waits(TorchDispatchMode):
    def __init__(self, count: Counter[str]) -> None:
        super().__init__()
        self.count = count

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        waits = name in ("_local_scalar_dense", "nonzero", "masked_select")
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            waits = any(i is not None and i.dtype == torch.bool for i in args[1])
        if waits:
            self.count[user_line()] += 1
        return func(*args, **(kwargs or {}))


class Lists(TorchFunctionMode):
    def __init__(self, count: Counter[str]) -> None:
        super().__init__()
        self.count = count

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.tolist:
            self.count[user_line()] += 1
        return func(*args, **(kwargs or {}))


def user_line() -> str:
    for frame in reversed(traceback.extract_stack()):
        if frame.filename != __file__ and not frame.filename.startswith(TORCH):
            return f"{Path(frame.filename).name}:{frame.lineno}"
    return "?"


### END SOLUTION


def find_syncs(fn: Callable[[], object]) -> dict[str, int]:
    """Count where the host would have to wait for a GPU.

    Args:
        fn: called once.

    Returns:
        "file.py:12" (base name and line) -> number of waits there.
    """
    ### BEGIN SOLUTION 3: run and count
    count: Counter[str] = Counter()
    with Lists(count), Waits(count):
        fn()
    return dict(count)
    ### END SOLUTION


### BEGIN SOLUTION 4: helpers of yours, if you like
class Meter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.flops = self.bytes = self.ops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if func.is_view or name in ("_unsafe_view", "_reshape_alias"):
            return result
        self.ops += 1
        tensors = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)]
        storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
        self.bytes += sum(storages.values())
        if name in ("mm", "bmm"):
            self.flops += 2 * result.numel() * args[0].shape[-1]
        elif name in ("addmm", "baddbmm"):
            self.flops += 2 * result.numel() * args[1].shape[-1]
        elif name == "convolution":
            is_transposed, pixels = args[6], (args[0] if args[6] else result)
            self.flops += self.conv(pixels, args[1], is_transposed)
        elif name == "convolution_backward":
            is_transposed, pixels = args[7], (args[1] if args[7] else args[0])
            self.flops += sum(args[10][:2]) * self.conv(pixels, args[2], is_transposed)
        return result

    def conv(self, pixels: Tensor, weight: Tensor, is_transposed: bool) -> int:
        # Every weight is used once at every place of a sample's result; transposed, of its input.
        return 2 * weight.numel() * pixels.shape[0] * math.prod(pixels.shape[2:])


### END SOLUTION


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
    ### BEGIN SOLUTION 4: run and sum up
    with Meter() as meter:
        fn(*args)
    seconds = {
        "compute": meter.flops / peak_flops,
        "memory": meter.bytes / peak_bytes,
        "overhead": meter.ops * per_op_s,
    }
    return {
        "flops": meter.flops,
        "bytes_moved": meter.bytes,
        "intensity": meter.flops / meter.bytes if meter.bytes else 0.0,
        "bound": max(seconds, key=seconds.__getitem__),
    }
    ### END SOLUTION


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
        ### BEGIN SOLUTION 5: all at once
        places = torch.arange(keep.shape[1], dtype=queries.dtype, device=queries.device)
        query = self.query(queries) / math.sqrt(self.hidden)
        scores = torch.einsum("bh,bch->bc", query, self.item(items)) - self.fade * places.log1p()
        some = keep.any(1, keepdim=True)
        scores = scores.masked_fill(~keep & some, -torch.inf)
        weights = torch.where(keep, scores.softmax(1), 0)
        return weights, weights.argsort(dim=1, descending=True, stable=True)
        ### END SOLUTION
