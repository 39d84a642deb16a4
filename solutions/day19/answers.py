"""Answers to day 19 that its suite must accept or reject."""

import gc
import json
import math
import os
import re
import statistics
import sys
import time
from time import perf_counter

import numpy as np
import torch
from hot_spots import *
from slow_ranker import SlowRanker
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile, schedule
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map
from torch.utils._traceback import CapturedTraceback
from torch.utils.flop_counter import FlopCounterMode

from grader.answers import accepted, rejected


def swap(text, *pairs):
    for old, new in pairs:
        text = text.replace(old, new)
    return text


# --- 1 ------------------------------------------------------------------------------------------


@accepted("bench")
def tenfold_with_numpy(fn, *, warmup=2, min_time=0.05, sync=None):
    def run(inner):
        if sync:
            sync()
        start = perf_counter()
        for _ in range(inner):
            fn()
        if sync:
            sync()
        return perf_counter() - start

    for _ in range(warmup):
        fn()
    enabled = gc.isenabled()
    gc.disable()
    try:
        inner = 1
        while True:
            while run(inner) < min_time / 10:
                inner *= 10
            blocks = []
            while len(blocks) < 5 or math.fsum(blocks) < min_time:
                seconds = run(inner)
                if seconds < min_time / 10:
                    break
                blocks.append(seconds)
            else:
                break
            inner *= 2
    finally:
        if enabled:
            gc.enable()
    each = np.array(blocks) / inner
    q25, q50, q75 = np.percentile(each, [25, 50, 75])
    return Stats(median=float(q50), iqr=float(q75 - q25), n=inner * len(blocks), inner=inner)


@accepted("bench")
def a_class_and_torch_quantile(fn, *, warmup=2, min_time=0.05, sync=None):
    class Quiet:
        def __enter__(self):
            self.on = gc.isenabled()
            gc.disable()

        def __exit__(self, *error):
            if self.on:
                gc.enable()

    wait = sync or (lambda: None)
    for _ in range(warmup):
        fn()
    inner, blocks = 1, torch.zeros(0, dtype=torch.float64)
    with Quiet():
        while len(blocks) < 10 or blocks.sum() < min_time:
            wait()
            start = time.perf_counter()
            for _ in range(inner):
                fn()
            wait()
            seconds = time.perf_counter() - start
            if seconds < min_time / 10:
                per_call = max(seconds / inner, 1e-9)
                inner = max(inner + 1, min(100 * inner, int(min_time / 9 / per_call) + 1))
                blocks = blocks[:0]
            else:
                blocks = torch.cat([blocks, torch.tensor([seconds], dtype=torch.float64)])
    each = blocks / inner
    median, iqr = each.quantile(0.5).item(), (each.quantile(0.75) - each.quantile(0.25)).item()
    return Stats(median, iqr, len(blocks) * inner, inner)


@accepted("bench")
def found_by_a_ruler_first(fn, *, warmup=2, min_time=0.05, sync=None):
    """Times a growing block first, then all blocks; starts over with twice as many calls."""
    from itertools import repeat

    def elapsed(number):
        (sync or int)()
        start = time.perf_counter()
        for _ in repeat(None, number):
            fn()
        (sync or int)()
        end = time.perf_counter()
        return end - start

    def measured(number):
        samples = []
        while len(samples) < 7 or sum(samples) < min_time:
            samples.append(elapsed(number))
        return samples

    for _ in range(warmup):
        fn()
    collects = gc.isenabled()
    try:
        gc.disable()
        number = 1
        while elapsed(number) < min_time / 5:
            number *= 2
        while min(samples := measured(number)) < min_time / 10:
            number *= 2
    finally:
        if collects:
            gc.enable()
    samples = sorted(s / number for s in samples)
    q = statistics.quantiles(samples, n=4, method="inclusive")
    return Stats(statistics.median(samples), q[2] - q[0], len(samples) * number, number)


@rejected("bench", by="test_drift_and_spikes", says="this is the mean")
def mean_of_the_blocks(reference: str) -> str:
    return swap(reference, ("Stats(median,", "Stats(statistics.mean(times) / inner,"))


@rejected("bench", by=("test_warm_up", "test_constant"), says="not timed")
def warm_up_is_timed(fn, *, warmup=2, min_time=0.05, sync=None):
    start = time.perf_counter()
    fn()
    each = time.perf_counter() - start
    inner = int(min_time / 5 / each) + 1
    times = [each]
    while len(times) < 5 or sum(times) * inner < min_time:
        start = time.perf_counter()
        for _ in range(inner):
            fn()
        times.append((time.perf_counter() - start) / inner)
    low, median, high = statistics.quantiles(times, method="inclusive")
    return Stats(median, high - low, inner * len(times), inner)


@rejected("bench", by="test_warm_up", says="not timed")
def no_warm_up(reference: str) -> str:
    return swap(reference, ("    for _ in range(warmup):\n        fn()\n", ""))


@rejected("bench", by=("test_tiny_function", "test_counts"), says="1 time between two readings")
def one_call_a_reading(fn, *, warmup=2, min_time=0.05, sync=None):
    for _ in range(warmup):
        fn()
    times = []
    while len(times) < 5 or sum(times) < min_time:
        start = time.perf_counter()
        fn()
        times.append(time.perf_counter() - start)
    low, median, high = statistics.quantiles(times, method="inclusive")
    return Stats(median, high - low, len(times), 1)


@rejected("bench", by="test_garbage_collection", says="is off; it was on before")
def collector_left_off(reference: str) -> str:
    return swap(reference, ("        if was_enabled:\n            gc.enable()", "        pass"))


@rejected("bench", by="test_garbage_collection", says="is off; it was on before")
def collector_left_off_after_an_exception(reference: str) -> str:
    return swap(
        reference,
        (
            "    finally:\n        if was_enabled",
            "    except ImportError:\n        pass\n    if True:\n        if was_enabled",
        ),
    )


@rejected("bench", by="test_garbage_collection", says="is on; it was off before")
def collector_on_for_everybody(reference: str) -> str:
    return swap(
        reference, ("        if was_enabled:\n            gc.enable()", "        gc.enable()")
    )


@rejected("bench", by="test_garbage_collection", says="was on in")
def collector_stays_on(reference: str) -> str:
    return swap(reference, ("    gc.disable()\n", ""))


@rejected("bench", by="test_drift_and_spikes", says="longest")
def range_for_iqr(reference: str) -> str:
    return swap(reference, ("high - low,", "(max(times) - min(times)) / inner,"))


@rejected("bench", by="test_constant", says="a block, not a call")
def seconds_a_block(reference: str) -> str:
    return swap(reference, ("[t / inner for t in times]", "times"))


@rejected("bench", by="test_drift_and_spikes", says="iqr")
def quartiles_of_another_rule(reference: str) -> str:
    return swap(reference, (', method="inclusive"', ""))


@rejected("bench", by="test_counts", says="n is")
def counts_blocks(reference: str) -> str:
    return swap(reference, ("inner * len(times), inner", "len(times), inner"))


@rejected("bench", by="test_counts", says="5 or more")
def three_blocks(reference: str) -> str:
    return swap(reference, ("len(times) < 5 or", "len(times) < 3 or"))


@rejected("bench", by="test_counts", says="all blocks together")
def five_blocks_and_no_more(reference: str) -> str:
    return swap(reference, (" or sum(times) < min_time", ""))


@rejected("bench", by="test_short_blocks", says="begin again")
def calibrated_once(fn, *, warmup=2, min_time=0.05, sync=None):
    def run(inner):
        if sync:
            sync()
        start = perf_counter()
        for _ in range(inner):
            fn()
        if sync:
            sync()
        return perf_counter() - start

    for _ in range(warmup):
        fn()
    enabled = gc.isenabled()
    gc.disable()
    try:
        inner = 1
        while run(inner) < min_time / 10:
            inner *= 2
        blocks = []
        while len(blocks) < 5 or sum(blocks) < min_time:
            blocks.append(run(inner))
    finally:
        if enabled:
            gc.enable()
    low, median, high = statistics.quantiles([b / inner for b in blocks], method="inclusive")
    return Stats(median, high - low, inner * len(blocks), inner)


@rejected("bench", by="test_sync", says="after a block")
def sync_only_before(reference: str) -> str:
    return swap(reference, ("return now() - start", "return time.perf_counter() - start"))


@rejected("bench", by="test_sync", says="before them")
def no_sync(reference: str) -> str:
    return swap(reference, ("if sync is not None:\n            sync()", "pass"))


@rejected("bench", by="test_results", says="still alive")
def keeps_the_last_result(reference: str) -> str:
    return swap(
        reference,
        (
            "for _ in range(inner):\n            fn()",
            "for _ in range(inner):\n            result = fn()",
        ),
    )


@rejected("bench", by="test_results", says="still alive")
def collects_results(reference: str) -> str:
    return swap(
        reference, ("for _ in range(inner):\n            fn()", "[fn() for _ in range(inner)]")
    )


@rejected("bench", by="test_constant", says="never read")
def wall_clock(reference: str) -> str:
    return swap(reference, ("time.perf_counter()", "time.time()"))


# --- 2 ------------------------------------------------------------------------------------------


@accepted("profile_and_trace")
def hot_ops(fn, k):
    """From the single events, by hand."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as p:
        fn()
    calls, times = {}, {}
    for event in p.events():
        if event.name.startswith("aten::"):
            calls[event.name] = calls.get(event.name, 0) + 1
            times[event.name] = times.get(event.name, 0) + event.self_cpu_time_total
    whole = sum(times.values())
    best = sorted(times, key=lambda name: -times[name])[:k]
    return [(name, calls[name], times[name] / whole) for name in best]


@accepted("profile_and_trace")
def hot_ops(fn, k):
    """Without `with`, and with torch's own sorting."""
    p = profile()
    p.start()
    fn()
    p.stop()
    rows = [r for r in p.key_averages() if r.key.startswith("aten::") and not r.is_user_annotation]
    whole = math.fsum(r.self_cpu_time_total for r in rows)
    rows = sorted(rows, key=lambda r: r.self_cpu_time_total)[::-1]
    return [(r.key, r.count, r.self_cpu_time_total / whole) for r in rows][:k]


@accepted("profile_and_trace")
def trace(step, path):
    """A handler of its own, and keyword arguments."""

    def export(p):
        p.export_chrome_trace(os.fspath(path))

    cycle = schedule(wait=1, warmup=1, active=2, repeat=1)
    with torch.profiler.profile(schedule=cycle, on_trace_ready=export, with_stack=False) as p:
        for _ in range(4):
            step()
            p.step()


@accepted("profile_and_trace")
def trace(step, path):
    """Exported after the block."""
    with profile(
        activities=[ProfilerActivity.CPU], schedule=schedule(wait=1, warmup=1, active=2)
    ) as p:
        for i in range(4):
            step()
            if i < 3:
                p.step()
    p.export_chrome_trace(str(path))


@accepted("profile_and_trace")
def hot_ops(fn, k):
    """The older profiler, which the newer one drives."""
    with torch.autograd.profiler.profile(use_cpu=True) as p:
        fn()
    rows = [(e.key, e.count, e.self_cpu_time_total) for e in p.key_averages() if "aten::" in e.key]
    whole = sum(row[2] for row in rows)
    rows.sort(key=lambda row: row[2], reverse=True)
    return [(name, calls, own / whole) for name, calls, own in rows[:k]]


@rejected("profile_and_trace", by="test_self_time", says="total time")
def total_time(reference: str) -> str:
    return swap(reference, ("event.self_cpu_time_total", "event.cpu_time_total"))


@rejected("profile_and_trace", by="test_self_time", says="total time")
def sorted_by_total_time(reference: str) -> str:
    return swap(
        reference,
        ("key=lambda event: event.self_cpu_time_total", "key=lambda event: event.cpu_time_total"),
    )


@rejected("profile_and_trace", by="test_ranges", says="only ATen operators")
def counts_ranges(reference: str) -> str:
    return swap(
        reference,
        (
            '[event for event in profiler.key_averages() if event.key.startswith("aten::")]',
            "list(profiler.key_averages())",
        ),
    )


@rejected("profile_and_trace", by="test_ranges", says="in the sum")
def ranges_in_the_sum(reference: str) -> str:
    return swap(
        reference,
        (
            "total = sum(event.self_cpu_time_total for event in ops)",
            "total = sum(event.self_cpu_time_total for event in profiler.key_averages())",
        ),
    )


@rejected("profile_and_trace", by=("test_large_matrix", "test_self_time"), says="number of calls")
def sorted_by_calls(reference: str) -> str:
    return swap(
        reference, ("key=lambda event: event.self_cpu_time_total", "key=lambda event: event.count")
    )


@rejected("profile_and_trace", by=("test_many_small", "test_large_matrix"), says="largest")
def smallest_first(reference: str) -> str:
    return swap(reference, (", reverse=True", ""))


@rejected("profile_and_trace", by="test_shares", says="not to that of the first k")
def share_of_the_first_k(reference: str) -> str:
    return swap(reference, ("for event in ops)", "for event in ops[:k])"))


@rejected("profile_and_trace", by="test_calls", says="called fn 4 times")
def profiles_three_times(reference: str) -> str:
    return swap(
        reference,
        ("        fn()\n    ops", "        for _ in range(4):\n            fn()\n    ops"),
    )


@rejected("profile_and_trace", by="test_calls", says="number of calls of")
def one_call_each(reference: str) -> str:
    return swap(reference, ("event.count, event.self", "1, event.self"))


@rejected("profile_and_trace", by="test_trace", says="warm-up steps")
def trace_with_warm_up(reference: str) -> str:
    return swap(
        reference, ("schedule(wait=1, warmup=1, active=2)", "schedule(wait=1, warmup=0, active=3)")
    )


@rejected("profile_and_trace", by="test_trace", says="has 4 ranges")
def trace_of_all_steps(reference: str) -> str:
    return swap(
        reference,
        ("schedule(wait=1, warmup=1, active=2)", "schedule(wait=0, warmup=0, active=4, repeat=1)"),
    )


@rejected("profile_and_trace", by="test_trace", says="nothing was exported")
def never_steps(reference: str) -> str:
    return swap(reference, ("            profiler.step()\n", ""))


@rejected("profile_and_trace", by="test_trace_steps", says="the trace holds [1, 2]")
def first_two_steps(reference: str) -> str:
    return swap(
        reference,
        ("schedule(wait=1, warmup=1, active=2)", "schedule(wait=0, warmup=0, active=2, repeat=1)"),
    )


@rejected("profile_and_trace", by="test_trace_steps", says="number of calls of step")
def a_step_more(reference: str) -> str:
    return swap(
        reference,
        ("for _ in range(4):\n            step()", "for _ in range(5):\n            step()"),
    )


# --- 3 ------------------------------------------------------------------------------------------


@accepted("find_syncs")
def with_captured_tracebacks(fn):
    """The modes in the function, torch's own stack."""
    found = {}

    def note():
        for frame in CapturedTraceback.extract().summary()[::-1]:
            if "/site-packages/torch/" not in frame.filename and frame.filename != __file__:
                key = f"{os.path.basename(frame.filename)}:{frame.lineno}"
                found[key] = found.get(key, 0) + 1
                return

    class Ops(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            aten = torch.ops.aten
            if func in (
                aten._local_scalar_dense.default,
                aten.nonzero.default,
                aten.masked_select.default,
            ):
                note()
            elif func in (aten.index.Tensor, aten.index_put_.default):
                if any(i is not None and i.dtype is torch.bool for i in args[1]):
                    note()
            return func(*args, **(kwargs or {}))

    class Calls(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is torch.Tensor.tolist:
                note()
            return func(*args, **(kwargs or {}))

    with Ops(), Calls():
        fn()
    return found


@accepted("find_syncs")
def with_frames(fn):
    """Frames by hand."""
    found = Counter()

    def note():
        frame = sys._getframe(1)
        while (
            frame.f_code.co_filename.startswith(TORCH + os.sep)
            or frame.f_code.co_filename == __file__
        ):
            frame = frame.f_back
        found[f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"] += 1

    class Ops(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name = str(func)
            masked = name.startswith(("aten.index.", "aten.index_put")) and any(
                isinstance(i, Tensor) and i.dtype == torch.bool for i in args[1]
            )
            if masked or name.startswith(
                ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select")
            ):
                note()
            return func(*args, **(kwargs or {}))

    class Calls(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if getattr(func, "__name__", "") == "tolist":
                note()
            return func(*args, **(kwargs or {}))

    with Calls():
        with Ops():
            fn()
    return dict(found)


@accepted("find_syncs")
def with_inspect(reference: str) -> str:
    return swap(
        reference,
        ("import gc\n", "import gc\nimport inspect\n"),
        ("reversed(traceback.extract_stack())", "inspect.stack()"),
    )


@accepted("find_syncs")
def with_walk_stack(reference: str) -> str:
    return swap(
        reference,
        (
            "for frame in reversed(traceback.extract_stack()):",
            "for frame in traceback.StackSummary.extract(traceback.walk_stack(None)):",
        ),
    )


@accepted("find_syncs")
def found_by_folders(reference: str) -> str:
    return swap(
        reference,
        (
            "if frame.filename != __file__ and not frame.filename.startswith(TORCH):",
            "parts = Path(frame.filename).parts\n"
            "        if 'torch' not in parts and Path(frame.filename).name != 'hot_spots.py':",
        ),
    )


FIRST = 'waits = name in ("_local_scalar_dense", "nonzero", "masked_select")'


@rejected("find_syncs", by="test_nothing", says="cpu")
def counts_cpu(reference: str) -> str:
    return swap(
        reference, ("func is Tensor.tolist", "func in (Tensor.tolist, Tensor.cpu, Tensor.numpy)")
    )


@rejected("find_syncs", by="test_branches", says="expected 1")
def misses_conditions(reference: str) -> str:
    return swap(
        reference,
        (FIRST, 'waits = name in ("nonzero", "masked_select")'),
        (
            "func is Tensor.tolist",
            'func.__name__ in ("tolist", "item", "__float__", "__int__", "__index__")',
        ),
    )


@rejected("find_syncs", by=("test_modules", "test_branches"), says="it is no line of")
def torch_frames(reference: str) -> str:
    return swap(reference, (" and not frame.filename.startswith(TORCH)", ""))


@rejected("find_syncs", by="test_modules", says="my_torch_model.py")
def everything_named_torch(reference: str) -> str:
    return swap(
        reference, ("not frame.filename.startswith(TORCH)", '"torch" not in frame.filename')
    )


@rejected("find_syncs", by="test_masks", says="0 waits")
def misses_masks(reference: str) -> str:
    return swap(
        reference,
        ('if name in ("index", "index_put", "index_put_", "_index_put_impl_"):', "if False:"),
    )


@rejected("find_syncs", by="test_masks", says="0 waits")
def misses_writes(reference: str) -> str:
    return swap(
        reference, ('("index", "index_put", "index_put_", "_index_put_impl_")', '("index",)')
    )


@rejected("find_syncs", by="test_nothing", says="expected 0")
def every_index(reference: str) -> str:
    return swap(
        reference,
        ("waits = any(i is not None and i.dtype == torch.bool for i in args[1])", "waits = True"),
    )


@rejected("find_syncs", by="test_lists", says="tolist")
def misses_tolist(reference: str) -> str:
    return swap(reference, ("with Lists(count), Waits(count)", "with Waits(count)"))


@rejected("find_syncs", by="test_items", says="each call counts once")
def counts_twice(reference: str) -> str:
    return swap(
        reference,
        (
            "func is Tensor.tolist",
            'func.__name__ in ("tolist", "item", "__float__", "__int__", "__bool__")',
        ),
    )


@rejected("find_syncs", by="test_nonzero", says="nonzero")
def misses_nonzero(reference: str) -> str:
    return swap(reference, (FIRST, 'waits = name == "_local_scalar_dense"'))


@rejected("find_syncs", by="test_nested", says="expected 4")
def where_fn_is(reference: str) -> str:
    return swap(
        reference,
        ('            return f"{Path(frame', '            found = f"{Path(frame'),
        (
            'lineno}"\n    return "?"',
            'lineno}"\n            if frame.name == "run":\n                break\n'
            "    return found",
        ),
    )


@rejected("find_syncs", by="test_items", says="base name")
def whole_paths(reference: str) -> str:
    return swap(reference, ("{Path(frame.filename).name}", "{frame.filename}"))


@rejected("find_syncs", by="test_items", says="expected 5")
def one_a_line(reference: str) -> str:
    return swap(reference, ("self.count[user_line()] += 1", "self.count[user_line()] = 1"))


# --- 4 ------------------------------------------------------------------------------------------

right_cost = cost


@accepted("flops_and_roofline")
def cost(fn, *args, peak_flops=5e10, peak_bytes=1e10, per_op_s=5e-6):
    """FLOPs by torch's own counter."""
    moved = ops = 0

    class Traffic(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal moved, ops
            kwargs = kwargs or {}
            out = func(*args, **kwargs)
            inside = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
            results = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
            known = {t.untyped_storage().data_ptr() for t in inside}
            writes = func._schema.is_mutable
            if not writes and all(t.untyped_storage().data_ptr() in known for t in results):
                return out
            ops += 1
            sizes = {}
            for t in inside + results:
                sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            moved += sum(sizes.values())
            return out

    with FlopCounterMode(display=False) as counter, Traffic():
        fn(*args)
    flops = counter.get_total_flops()
    limits = [(flops / peak_flops, "compute"), (moved / peak_bytes, "memory")]
    bound = max([*limits, (ops * per_op_s, "overhead")])[1]
    return dict(flops=flops, bytes_moved=moved, intensity=flops / max(moved, 1), bound=bound)


@accepted("flops_and_roofline")
def cost(fn, *args, peak_flops=5e10, peak_bytes=1e10, per_op_s=5e-6):
    """A table of formulas and a set of names of views."""
    views = set(
        "view _unsafe_view t transpose permute expand select slice unsqueeze squeeze unbind split "
        "detach alias as_strided diagonal unfold lift_fresh _reshape_alias split_with_sizes".split()
    )

    def product(a, b):
        return 2 * math.prod(a) * b[-1]

    def conv(n, places, weight):
        return 2 * n * math.prod(places) * math.prod(weight)

    table = {
        "mm": lambda a, out: product(a[0].shape, a[1].shape),
        "bmm": lambda a, out: product(a[0].shape, a[1].shape),
        "addmm": lambda a, out: product(a[1].shape, a[2].shape),
        "baddbmm": lambda a, out: product(a[1].shape, a[2].shape),
        "convolution": lambda a, out: conv(len(out), out.shape[2:], a[1].shape),
        "convolution_backward": lambda a, out: (
            sum(g is not None for g in out[:2]) * conv(len(a[0]), a[0].shape[2:], a[2].shape)
        ),
    }
    totals = {"flops": 0, "bytes_moved": 0}
    count = 0

    class Log(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal count
            out = func(*args, **(kwargs or {}))
            name = str(func).split(".")[1]
            if name in views:
                return out
            count += 1
            if name in table:
                totals["flops"] += table[name](args, out)
            seen = {}
            tree_map(
                lambda t: (
                    seen.setdefault(t.untyped_storage()._cdata, t.untyped_storage().size())
                    if isinstance(t, Tensor)
                    else None
                ),
                (args, kwargs, out),
            )
            totals["bytes_moved"] += sum(seen.values())
            return out

    with Log():
        fn(*args)
    flops, moved = totals.values()
    if flops / peak_flops >= max(moved / peak_bytes, count * per_op_s):
        bound = "compute"
    else:
        bound = "memory" if moved / peak_bytes >= count * per_op_s else "overhead"
    return {**totals, "intensity": flops / moved if moved else 0.0, "bound": bound}


@rejected("flops_and_roofline", by=("test_forward", "test_counter"), says="counts 2")
def counts_macs(reference: str) -> str:
    return swap(
        reference,
        ("self.flops += 2 * result", "self.flops += result"),
        ("return 2 * weight", "return weight"),
    )


@rejected("flops_and_roofline", by="test_views", says="views move nothing")
def views_move(reference: str) -> str:
    return swap(
        reference, ('if func.is_view or name in ("_unsafe_view", "_reshape_alias"):', "if False:")
    )


def without_backward(fn, *args):
    def nothing(*args, **kwargs):
        pass

    backward, Tensor.backward = Tensor.backward, nothing
    try:
        return right_cost(fn, *args)
    finally:
        Tensor.backward = backward


@rejected("flops_and_roofline", by=("test_backward", "test_convolution"), says="is left out")
def cost(fn, *args, peak_flops=5e10, peak_bytes=1e10, per_op_s=5e-6):
    """The forward alone."""
    return without_backward(fn, *args)


@rejected("flops_and_roofline", by="test_backward", says="costs more than the forward")
def cost(fn, *args, peak_flops=5e10, peak_bytes=1e10, per_op_s=5e-6):
    """A backward counts as much as the forward."""
    result = without_backward(fn, *args)
    goes_back = getattr(fn, "__name__", "") == "step"
    return {**result, "flops": result["flops"] * (1 + goes_back)}


@rejected("flops_and_roofline", by="test_attention", says="batch is left out")
def batch_ignored_in_bmm(reference: str) -> str:
    return swap(
        reference,
        (
            'if name in ("mm", "bmm"):',
            'if name == "bmm":\n'
            "            self.flops += 2 * result[0].numel() * args[0].shape[-1]\n"
            '        elif name == "mm":',
        ),
    )


@rejected("flops_and_roofline", by="test_attention", says="baddbmm")
def no_baddbmm(reference: str) -> str:
    return swap(reference, ('("addmm", "baddbmm")', '("addmm",)'))


@rejected("flops_and_roofline", by="test_forward", says="expected")
def no_addmm(reference: str) -> str:
    return swap(reference, ('("addmm", "baddbmm")', '("baddbmm",)'))


@rejected("flops_and_roofline", by="test_forward", says="expected")
def bias_counted(reference: str) -> str:
    return swap(reference, ("args[1].shape[-1]\n", "args[1].shape[-1] + result.numel()\n"))


@rejected(
    "flops_and_roofline", by=("test_convolution", "test_counter"), says="backward is left out"
)
def convolution_without_backward(reference: str) -> str:
    return swap(reference, ("sum(args[10][:2]) *", "0 *"))


@rejected("flops_and_roofline", by="test_convolution", says="not of the input")
def places_of_the_input(reference: str) -> str:
    return swap(reference, ("(args[0] if args[6] else result)", "args[0]"))


@rejected("flops_and_roofline", by="test_convolution", says="whose input needs no gradient")
def backward_without_mask(reference: str) -> str:
    return swap(reference, ("sum(args[10][:2]) *", "2 *"))


@rejected("flops_and_roofline", by="test_bytes", says="the result is moved too")
def inputs_only(reference: str) -> str:
    return swap(reference, ("tree_leaves((args, kwargs, result))", "tree_leaves((args, kwargs))"))


@rejected("flops_and_roofline", by="test_bytes", says="counts once")
def storages_twice(reference: str) -> str:
    return swap(
        reference,
        (
            "{t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}",
            "{i: t.untyped_storage().nbytes() for i, t in enumerate(tensors)}",
        ),
    )


@rejected("flops_and_roofline", by="test_bytes", says="inputs in a list")
def no_lists(reference: str) -> str:
    return swap(
        reference,
        (
            "[t for t in tree_leaves((args, kwargs, result)) if",
            "[t for t in (*args, *kwargs.values(), *tree_leaves(result)) if",
        ),
    )


@rejected("flops_and_roofline", by="test_bytes", says="doubles")
def always_four_bytes(reference: str) -> str:
    return swap(
        reference,
        (
            "t.untyped_storage().nbytes() for t in tensors",
            "4 * t.untyped_storage().nbytes() // t.element_size() for t in tensors",
        ),
    )


@rejected("flops_and_roofline", by="test_views", says="stores 5 numbers")
def shown_elements(reference: str) -> str:
    return swap(
        reference,
        (
            "t.untyped_storage().nbytes() for t in tensors",
            "t.numel() * t.element_size() for t in tensors",
        ),
    )


@rejected("flops_and_roofline", by="test_bytes", says="flops by bytes")
def bytes_by_flops(reference: str) -> str:
    return swap(
        reference,
        (
            "meter.flops / meter.bytes if meter.bytes else 0.0",
            "meter.bytes / meter.flops if meter.flops else 0.0",
        ),
    )


@rejected("flops_and_roofline", by="test_no_bytes", says="ZeroDivisionError")
def divides_by_nothing(reference: str) -> str:
    return swap(reference, (" if meter.bytes else 0.0", ""))


@rejected("flops_and_roofline", by="test_bound", says="bound")
def overhead_of_views(reference: str) -> str:
    return swap(
        reference,
        (
            "            return result\n        self.ops += 1",
            "            self.ops += 1\n            return result\n        self.ops += 1",
        ),
    )


@rejected("flops_and_roofline", by="test_bound", says="bound")
def the_smallest_bounds(reference: str) -> str:
    return swap(reference, ("max(seconds, key", "min(seconds, key"))


@rejected("flops_and_roofline", by="test_bound", says="bound")
def ridge_only(reference: str) -> str:
    return swap(reference, ('        "overhead": meter.ops * per_op_s,\n', ""))


# --- 5 ------------------------------------------------------------------------------------------


@accepted("optimise_it")
class FastRanker(SlowRanker):
    """A subclass, broadcasting, fill by the smallest number, a sort."""

    def forward(self, queries, items, keep):
        query, item = self.query(queries), self.item(items)
        scores = (query[:, None] * item).sum(-1) * self.hidden**-0.5
        places = torch.arange(keep.shape[1], device=queries.device).to(queries.dtype)
        scores = scores - self.fade * torch.log1p(places)
        scores = scores.masked_fill(~keep, torch.finfo(scores.dtype).min)
        weights = F.softmax(scores, dim=-1) * keep
        return weights, torch.sort(weights, dim=-1, descending=True, stable=True).indices


@accepted("optimise_it")
class FastRanker(nn.Module):
    """bmm, softmax by hand, a sort of the negative weights."""

    def __init__(self, dim, hidden):
        super().__init__()
        self.query = nn.Linear(dim, hidden)
        self.item = nn.Linear(dim, hidden)
        self.fade = nn.Parameter(torch.tensor(0.1))
        self.scale = math.sqrt(hidden)

    def forward(self, queries, items, keep):
        scores = torch.bmm(self.item(items), self.query(queries).unsqueeze(-1)).squeeze(-1)
        scores = scores / self.scale
        scores = scores - self.fade * torch.ones_like(scores).cumsum(1).log()
        zero = torch.zeros_like(scores)
        top = torch.where(keep, scores, -torch.inf).amax(1, keepdim=True)
        top = torch.where(top.isinf(), 0, top).detach()
        exponentials = torch.where(keep, torch.where(keep, scores - top, zero).exp(), zero)
        total = exponentials.sum(1, keepdim=True)
        weights = exponentials / torch.where(total == 0, 1, total)
        return weights, torch.argsort(-weights, dim=1, stable=True)


@accepted("optimise_it")
class FastRanker(SlowRanker):
    """The query is carried to the items' side: no (batch, candidates, hidden) at all."""

    def forward(self, queries, items, keep):
        query = self.query(queries) / self.hidden**0.5
        scores = torch.einsum("bd,bcd->bc", query @ self.item.weight, items)
        scores = scores + (query @ self.item.bias)[:, None]
        fades = torch.arange(1, keep.shape[1] + 1, dtype=queries.dtype, device=queries.device).log()
        scores = scores - self.fade * fades
        weights = scores.masked_fill(~keep, -torch.inf).softmax(1).masked_fill(~keep, 0.0)
        empty = ~keep.any(1, keepdim=True)
        safe = torch.where(empty | keep, torch.where(keep, scores, 0), -torch.inf)
        weights = torch.where(keep, safe.softmax(1), 0)
        return weights, (-weights).sort(dim=1, stable=True)[1]


@accepted("optimise_it")
class FastRanker(FastRanker):
    """One row, mapped over the batch."""

    def forward(self, queries, items, keep):
        fades = torch.arange(1, keep.shape[1] + 1, device=keep.device).to(queries.dtype).log()

        def row(query, item, kept):
            scores = item @ query / math.sqrt(self.hidden) - self.fade * fades
            scores = torch.where(kept, scores, torch.finfo(scores.dtype).min)
            return torch.softmax(scores, 0) * kept

        weights = torch.vmap(row)(self.query(queries), self.item(items), keep)
        return weights, weights.sort(dim=1, descending=True, stable=True)[1]


@accepted("optimise_it", file="report.json")
def more_digits(reference: str) -> str:
    return swap(reference, ("0.1", "0.10000001"))


@accepted("optimise_it", file="report.json")
def one_row_each(reference: str) -> str:
    report = json.loads(reference) if "json" in globals() else eval(reference)
    text = f'{{"before": [{report["before"][0]}], "after": [{report["after"][-1]}]}}'
    return text.replace("'", '"')


CACHE = {}


@rejected("optimise_it", by="test_computed_anew", says="overwritten")
class FastRanker(FastRanker):
    """Caches by identity."""

    def forward(self, queries, items, keep):
        key = (id(queries), id(items), id(keep))
        if key not in CACHE:
            CACHE[key] = (super().forward(queries, items, keep), queries, items, keep)
        return CACHE[key][0]


@rejected("optimise_it", by="test_computed_anew", says="step of the parameters")
class FastRanker(FastRanker):
    """Freezes the weights."""

    def forward(self, queries, items, keep):
        if not hasattr(self, "old"):
            self.old = [self.item.weight.detach().clone()]
        with torch.no_grad():
            now = self.item.weight.clone()
            self.item.weight.copy_(self.old[0])
        result = super().forward(queries, items, keep)
        with torch.no_grad():
            self.item.weight.copy_(now)
        return result


@rejected("optimise_it", by="test_values", says="weights")
class FastRanker(FastRanker):
    """In half."""

    def forward(self, queries, items, keep):
        weights, order = super().forward(queries.half().float(), items.half().float(), keep)
        return weights.half().to(queries.dtype), order


@rejected("optimise_it", by="test_gradients", says="grad")
class FastRanker(FastRanker):
    """Drops the gradient."""

    def forward(self, queries, items, keep):
        with torch.no_grad():
            return super().forward(queries, items, keep)


@rejected("optimise_it", by="test_gradients", says="queries")
class FastRanker(FastRanker):
    """Detaches the queries."""

    def forward(self, queries, items, keep):
        return super().forward(queries.detach(), items, keep)


@rejected("optimise_it", by=("test_no_loop", "test_operators"), says="")
class FastRanker(FastRanker):
    """Loops over the batch."""

    def forward(self, queries, items, keep):
        rows = [
            super(FastRanker, self).forward(queries[b : b + 1], items[b : b + 1], keep[b : b + 1])
            for b in range(len(keep))
        ]
        return torch.cat([row[0] for row in rows]), torch.cat([row[1] for row in rows])


@rejected("optimise_it", by="test_operators", says="40")
class FastRanker(FastRanker):
    """Loops over candidates."""

    def forward(self, queries, items, keep):
        query = self.query(queries) / math.sqrt(self.hidden)
        scores = [(query * self.item(items[:, c])).sum(1) for c in range(keep.shape[1])]
        places = torch.arange(keep.shape[1], dtype=queries.dtype)
        scores = torch.stack(scores, 1) - self.fade * places.log1p()
        scores = scores.masked_fill(~keep & keep.any(1, keepdim=True), -torch.inf)
        weights = torch.where(keep, scores.softmax(1), 0)
        return weights, weights.argsort(dim=1, descending=True, stable=True)


@rejected("optimise_it", by="test_ties", says="lower")
class FastRanker(FastRanker):
    """Ties the other way."""

    def forward(self, queries, items, keep):
        weights, _ = super().forward(queries, items, keep)
        return weights, weights.argsort(dim=1, stable=True).flip(1)


@rejected("optimise_it", by="test_ties", says="lower")
class FastRanker(FastRanker):
    """Top k."""

    def forward(self, queries, items, keep):
        weights, _ = super().forward(queries, items, keep)
        return weights, weights.topk(keep.shape[1], dim=1).indices


@rejected("optimise_it", by="test_dtype", says="float64")
class FastRanker(FastRanker):
    """Leaks float64."""

    def forward(self, queries, items, keep):
        weights, order = super().forward(queries, items, keep)
        return weights * torch.ones(1, dtype=torch.float64), order


@rejected("optimise_it", by="test_nothing_kept", says="nan")
def no_guard_for_empty_rows(reference: str) -> str:
    return swap(
        reference,
        ("~keep & some", "~keep"),
        ("torch.where(keep, scores.softmax(1), 0)", "scores.softmax(1)"),
    )


@rejected("optimise_it", by="test_device", says="device")
def constants_on_the_cpu(reference: str) -> str:
    return swap(reference, (", device=queries.device)", ")"))


@rejected("optimise_it", by="test_values", says="")
def ascending(reference: str) -> str:
    return swap(reference, ("descending=True, stable", "stable"))


@rejected("optimise_it", by="test_values", says="weights")
def no_fade(reference: str) -> str:
    return swap(reference, (" - self.fade * places.log1p()", ""))


@rejected("optimise_it", by="test_values", says="weights")
def mask_after_softmax(reference: str) -> str:
    return swap(reference, ("scores = scores.masked_fill(~keep & some, -torch.inf)", "pass"))


@rejected("optimise_it", by="test_state", says="keys of state_dict")
def another_buffer(reference: str) -> str:
    return swap(
        reference,
        (
            "        self.fade = nn.Parameter(torch.tensor(0.1))\n",
            "        self.fade = nn.Parameter(torch.tensor(0.1))\n"
            '        self.register_buffer("scale", torch.tensor(hidden**0.5))\n',
        ),
    )


@rejected("optimise_it", by="test_arguments_stay", says="")
class FastRanker(FastRanker):
    """Changes the mask."""

    def forward(self, queries, items, keep):
        result = super().forward(queries, items, keep)
        keep.logical_not_()
        return result


@rejected("optimise_it", by="test_no_waits", says="nonzero")
class FastRanker(FastRanker):
    """Mask by index."""

    def forward(self, queries, items, keep):
        weights, order = super().forward(queries, items, keep)
        empty = (~keep.any(1)).nonzero()[:, 0]
        return weights.index_fill(0, empty, 0.0), order


@rejected("optimise_it", by="test_no_waits", says="item")
class FastRanker(FastRanker):
    """Looks at the mask."""

    def forward(self, queries, items, keep):
        if keep.any():
            return super().forward(queries, items, keep)
        return torch.zeros_like(keep, dtype=queries.dtype), torch.zeros_like(keep, dtype=int)


@rejected("optimise_it", by="test_no_waits", says="index")
class FastRanker(FastRanker):
    """Writes by mask."""

    def forward(self, queries, items, keep):
        weights, order = super().forward(queries, items, keep)
        weights = weights.clone()
        weights[~keep] = 0.0
        return weights, order


@rejected("optimise_it", by="test_memory", says="at once")
class FastRanker(FastRanker):
    """Expands the weights."""

    def forward(self, queries, items, keep):
        item = (items[:, :, None, None, :] * self.item.weight[:, None]).sum((-1, -2))
        query = self.query(queries)[:, None] / math.sqrt(self.hidden)
        scores = (query * (item + self.item.bias)).sum(-1)
        wide = (item[..., None] * item[..., None, :]).sum() * 0
        places = torch.arange(keep.shape[1], dtype=queries.dtype)
        scores = scores - self.fade * places.log1p() + wide
        scores = scores.masked_fill(~keep & keep.any(1, keepdim=True), -torch.inf)
        weights = torch.where(keep, scores.softmax(1), 0)
        return weights, weights.argsort(dim=1, descending=True, stable=True)


@rejected("optimise_it", by=("test_five_times", "test_twenty_times"), says="")
class FastRanker(SlowRanker):
    """The slow one."""

    def forward(self, queries, items, keep):
        weights, order = super().forward(queries, items, keep)
        return weights.to(queries.dtype), order


@rejected("optimise_it", by="test_report", says="1 to 5 operators", file="report.json")
def empty_lists(reference: str) -> str:
    return '{"before": [], "after": []}'


@rejected("optimise_it", by="test_report", says="most calls", file="report.json")
def twice_the_fast_one(reference: str) -> str:
    return re.sub(
        r'"before": \[.*\],\s*"after": (\[.*\])',
        r'"before": \1, "after": \1',
        reference,
        flags=re.S,
    )


@rejected("optimise_it", by="test_report", says="no JSON", file="report.json")
def python_text(reference: str) -> str:
    return reference.replace('"', "'")


@rejected("optimise_it", by="test_report", says="name, calls, share", file="report.json")
def names_alone(reference: str) -> str:
    return '{"before": ["aten::cat"], "after": ["aten::einsum"]}'


@rejected("optimise_it", by="test_report", says="has none of them", file="report.json")
def operators_of_something_else(reference: str) -> str:
    return '{"before": [["aten::convolution", 900, 0.5]], "after": [["aten::linear", 2, 0.5]]}'
