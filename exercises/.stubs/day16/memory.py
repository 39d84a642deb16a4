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
    # TODO 1: four sums
    raise NotImplementedError("day16 T1: model_bytes")
    # END TODO


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
    # TODO 2: run and list
    raise NotImplementedError("day16 T2: saved_for_backward")
    # END TODO


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
        # TODO 3: what is remembered
        raise NotImplementedError("day16 T3: PeakMeter")
        # END TODO

    def reset(self) -> None:
        """Set all three back; what is alive now counts as existing."""
        # TODO 3: begin anew
        raise NotImplementedError("day16 T3: PeakMeter")
        # END TODO

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Run one op and count what it gives birth to."""
        # TODO 3: run, then look at the results
        raise NotImplementedError("day16 T3: PeakMeter")
        # END TODO


class Checkpointed(nn.Module):
    """Run `blocks` in `segments` runs and keep only the runs' inputs for backward.

    Args:
        blocks: one after the other.
        segments: number of runs, 1 to `len(blocks)`.
    """

    def __init__(self, blocks: nn.Sequential, segments: int) -> None:
        super().__init__()
        # TODO 4: what is needed later
        raise NotImplementedError("day16 T4: checkpoint_segments")
        # END TODO

    def forward(self, x: Tensor) -> Tensor:
        """What `blocks(x)` gives: x (batch, *) to (batch, *)."""
        # TODO 4: run by run
        raise NotImplementedError("day16 T4: checkpoint_segments")
        # END TODO


class Rerun(torch.autograd.Function):
    """What `checkpoint_fn` may put into the graph; yours to change, or to delete."""

    @staticmethod
    def forward(ctx, f: Callable, *args: object) -> Tensor | tuple[Tensor, ...]:
        """Called through `Rerun.apply(f, *args)`."""
        # TODO 4: forward
        raise NotImplementedError("day16 T4: checkpoint_segments")
        # END TODO

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """One gradient, or None, for each argument of `apply`."""
        # TODO 4: backward
        raise NotImplementedError("day16 T4: checkpoint_segments")
        # END TODO


def checkpoint_fn(f: Callable[..., Tensor | tuple[Tensor, ...]], *args: object) -> object:
    """`f(*args)`, computed once more in backward instead of remembered.

    Args:
        f: returns one tensor or a tuple of tensors; may use parameters and draw random numbers.
        args: tensors, with or without `requires_grad`, and anything else.

    Returns:
        What `f(*args)` returns.
    """
    # TODO 4: by hand
    raise NotImplementedError("day16 T4: checkpoint_segments")
    # END TODO


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
    # TODO 5: measure, search, decide
    raise NotImplementedError("day16 T5: plan_batch")
    # END TODO
