"""Day 16: account for every byte of a training step, and trade bytes for time."""

import copy
import gc
import itertools
import math
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint


def model_bytes(model: nn.Module, opt: torch.optim.Optimizer) -> dict[str, int]:
    """Bytes of a model's parameters, buffers, gradients and optimizer state.

    Args:
        model: any module, on one device.
        opt: an optimizer; `opt.state[p]` is a dict, some of whose values are tensors.

    Returns:
        Bytes under the keys `parameters`, `buffers`, `gradients` and `optimizer`.
    """
    ### BEGIN SOLUTION 1: four sums

    def total(tensors: Iterable[Tensor | None]) -> int:
        storages = [t.untyped_storage() for t in tensors if t is not None]
        return sum({s._cdata: s.nbytes() for s in storages}.values())

    state = [value for entry in opt.state.values() for value in entry.values()]
    return {
        "parameters": total(model.parameters()),
        "buffers": total(model.buffers()),
        "gradients": total(p.grad for p in model.parameters()),
        "optimizer": total(value for value in state if isinstance(value, Tensor)),
    }
    ### END SOLUTION


def saved_for_backward(
    fn: Callable[..., object], *args: object
) -> list[tuple[str, tuple[int, ...], int]]:
    """What autograd keeps for backward while `fn(*args)` runs.

    Args:
        fn: a function or an `nn.Module`, called once; may run a backward itself.
        args: tensors and anything else.

    Returns:
        (type name of the tensor's `grad_fn` or "?", shape, bytes of its storage) for each storage,
        in the order of packing; not for those of `args` and, for a module, of its parameters.
    """
    ### BEGIN SOLUTION 2: run and list
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    if isinstance(fn, nn.Module):
        tensors += fn.parameters()
    known = {t.untyped_storage()._cdata: t.untyped_storage() for t in tensors}
    saved = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            known[storage._cdata] = storage  # alive, so that no other gets its address
            name = type(tensor.grad_fn).__name__ if tensor.grad_fn is not None else "?"
            saved.append((name, tuple(tensor.shape), storage.nbytes()))
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        fn(*args)
    return saved
    ### END SOLUTION


class PeakMeter(TorchDispatchMode):
    """Count the bytes of the storages born inside a `with PeakMeter()` block.

    Attributes:
        current: bytes of those that are alive now.
        peak: the highest that `current` has been.
        timeline: (op name, `current` after it) for each dispatched op.
    """

    current: int
    peak: int
    timeline: list[tuple[str, int]]

    def __init__(self) -> None:
        """Nothing is counted yet."""
        super().__init__()
        ### BEGIN SOLUTION 3: what is remembered
        self.watches: dict[int, weakref.finalize] = {}
        self.reset()
        ### END SOLUTION

    def reset(self) -> None:
        """Set all three back; what is alive now counts as existing."""
        ### BEGIN SOLUTION 3: begin anew
        for watch in self.watches.values():
            watch.detach()
        self.watches.clear()
        self.current = self.peak = 0
        self.timeline = []
        ### END SOLUTION

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Run one op and count what it gives birth to."""
        ### BEGIN SOLUTION 3: run, then look at the results
        kwargs = kwargs or {}

        def storages(tree: object) -> list[torch.UntypedStorage]:
            return [t.untyped_storage() for t in tree_leaves(tree) if isinstance(t, Tensor)]

        def free(key: int, size: int) -> None:
            del self.watches[key]
            self.current -= size

        received = {storage._cdata for storage in storages((args, kwargs))}
        result = func(*args, **kwargs)
        for storage in storages(result):
            key, size = storage._cdata, storage.nbytes()
            if key not in received and key not in self.watches:
                self.watches[key] = weakref.finalize(storage, free, key, size)
                self.current += size
        self.peak = max(self.peak, self.current)
        self.timeline.append((str(func), self.current))
        return result
        ### END SOLUTION


class Checkpointed(nn.Module):
    """Run `blocks` in `segments` runs and keep only the runs' inputs for backward.

    Args:
        blocks: one after the other.
        segments: number of runs, 1 to `len(blocks)`.
    """

    def __init__(self, blocks: nn.Sequential, segments: int) -> None:
        super().__init__()
        ### BEGIN SOLUTION 4: what is needed later
        self.blocks = blocks
        self.segments = segments
        ### END SOLUTION

    def forward(self, x: Tensor) -> Tensor:
        """What `blocks(x)` gives: x (batch, *) to (batch, *)."""
        ### BEGIN SOLUTION 4: run by run
        if not self.training:
            return self.blocks(x)
        ends = [i * len(self.blocks) // self.segments for i in range(self.segments + 1)]
        for start, stop in itertools.pairwise(ends):
            x = checkpoint(self.blocks[start:stop], x, use_reentrant=False)
        return x
        ### END SOLUTION


class Rerun(torch.autograd.Function):
    """What `checkpoint_fn` may put into the graph; yours to change, or to delete."""

    @staticmethod
    def forward(ctx, f: Callable, *args: object) -> Tensor | tuple[Tensor, ...]:
        """Called through `Rerun.apply(f, *args)`."""
        ### BEGIN SOLUTION 4: forward
        args = args[1:]
        ctx.f = f
        ctx.args = [None if isinstance(arg, Tensor) else arg for arg in args]
        ctx.places = [i for i, arg in enumerate(args) if isinstance(arg, Tensor)]
        ctx.save_for_backward(*(args[i] for i in ctx.places))
        ctx.random = torch.get_rng_state()
        return f(*args)
        ### END SOLUTION

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """One gradient, or None, for each argument of `apply`."""
        ### BEGIN SOLUTION 4: backward
        args = list(ctx.args)
        for i, tensor in zip(ctx.places, ctx.saved_tensors, strict=True):
            args[i] = tensor.detach().requires_grad_(tensor.requires_grad)
        with torch.random.fork_rng(), torch.enable_grad():
            torch.set_rng_state(ctx.random)
            out = ctx.f(*args)
        out = out if isinstance(out, tuple) else (out,)
        pairs = [(o, g) for o, g in zip(out, grads, strict=True) if o.requires_grad]
        torch.autograd.backward([o for o, _ in pairs], [g for _, g in pairs])
        return None, None, *(arg.grad if isinstance(arg, Tensor) else None for arg in args)
        ### END SOLUTION


def checkpoint_fn(f: Callable[..., Tensor | tuple[Tensor, ...]], *args: object) -> object:
    """`f(*args)`, computed once more in backward instead of remembered.

    Args:
        f: returns one tensor or a tuple of tensors; may use parameters and draw random numbers.
        args: tensors, with or without `requires_grad`, and anything else.

    Returns:
        What `f(*args)` returns.
    """
    ### BEGIN SOLUTION 4: by hand
    spark = torch.zeros(0, requires_grad=True)  # makes the result require grad
    return Rerun.apply(f, spark, *args)
    ### END SOLUTION


@dataclass(frozen=True)
class Plan:
    """How to train with batches of `target` samples in a given number of bytes."""

    micro_batch: int
    accum: int
    checkpoint: bool
    predicted_peak: int
    leak: bool


def training_step(
    model: nn.Module,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    opt: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
) -> None:
    """One training step, as `plan_batch` plans it."""
    loss_fn(model(x), y).backward()
    opt.step()


def plan_batch(
    model: nn.Sequential,
    make_batch: Callable[[int], tuple[Tensor, Tensor]],
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    opt_cls: Callable[..., torch.optim.Optimizer],
    budget: int,
    target: int,
) -> Plan:
    """Find the largest micro-batch whose training step stays within a budget.

    Args:
        model: stays as it is, its gradients too.
        make_batch: `make_batch(n)` gives x (n, *), y (n, *); called at most 25 times.
        loss_fn: `loss_fn(model(x), y)` is a scalar.
        opt_cls: called as `opt_cls(parameters)`.
        budget: bytes that may be born at one time, at the most.
        target: samples of one optimizer step; the micro-batch is no larger.

    Returns:
        The plan, with its peak in bytes and whether `loss_fn` keeps graphs alive.

    Raises:
        MemoryError: not even one sample fits, with checkpoints either.
    """
    ### BEGIN SOLUTION 5: measure, search, decide

    def peak(size: int, checkpointed: bool) -> int:
        trial = copy.deepcopy(model)
        if checkpointed:
            trial = Checkpointed(trial, round(math.sqrt(len(model))))
        x, y = make_batch(size)
        with PeakMeter() as meter:
            training_step(trial, loss_fn, opt_cls(trial.parameters()), x, y)
        return meter.peak

    def leaks() -> bool:
        trial, boxes = copy.deepcopy(model), []

        class Box:
            def __init__(self, tensor: Tensor) -> None:
                self.tensor = tensor.detach()
                boxes.append(weakref.ref(self))

        x, y = make_batch(1)
        with torch.autograd.graph.saved_tensors_hooks(Box, lambda box: box.tensor):
            loss_fn(trial(x), y)
        gc.collect()
        return any(box() is not None for box in boxes)

    with torch.random.fork_rng():
        for checkpointed in (False, True):
            fits, best = 1, peak(1, checkpointed)
            if best <= budget:
                break
        else:
            raise MemoryError(f"one sample takes {best} bytes; the budget is {budget}")
        too_many = target + 1
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            needed = peak(middle, checkpointed)
            if needed <= budget:
                fits, best = middle, needed
            else:
                too_many = middle
        return Plan(fits, math.ceil(target / fits), checkpointed, best, leaks())
    ### END SOLUTION
