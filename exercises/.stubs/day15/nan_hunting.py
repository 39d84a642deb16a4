"""Day 15: stable functions, tracers for the first bad value, and a training loop on guard."""

import copy
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import Dataset


def safe_norm(x: Tensor, dim: int) -> Tensor:
    """L2 norm along `dim`, for entries of any magnitude.

    Args:
        x: (*,), floating point.
        dim: the axis that is dropped.

    Returns:
        (*) without `dim`, in the dtype of `x`. The gradient of a zero vector is 0.
    """
    # TODO 1: norm
    raise NotImplementedError("day15 T1: stable_zoo")
    # END TODO


def safe_sqrt(x: Tensor) -> Tensor:
    """Square root whose gradient at 0 is 0.

    Args:
        x: (*,), floating point, 0 or more.

    Returns:
        (*,), in the dtype of `x`.
    """
    # TODO 1: square root
    raise NotImplementedError("day15 T1: stable_zoo")
    # END TODO


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)), exact near 0 and far from it.

    Args:
        x: (*,), floating point, below 0.

    Returns:
        (*,), in the dtype of `x`.
    """
    # TODO 1: log(1 - exp(x))
    raise NotImplementedError("day15 T1: stable_zoo")
    # END TODO


def masked_softmax(x: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Softmax along `dim` over the entries that the mask keeps.

    Args:
        x: (*,), floating point, finite.
        mask: bool, broadcastable to `x`; True = keep.
        dim: an axis of `x`.

    Returns:
        (*,), in the dtype of `x`; 0 where masked, and all 0 where a row keeps nothing.
    """
    # TODO 1: softmax
    raise NotImplementedError("day15 T1: stable_zoo")
    # END TODO


def masked_logsumexp(x: Tensor, mask: Tensor, dim: int) -> Tensor:
    """log of the sum of exp along `dim`, over the entries that the mask keeps.

    Args:
        x: (*,), floating point, finite.
        mask: bool, broadcastable to `x`; True = keep.
        dim: the axis of `x` that is dropped.

    Returns:
        (*) without `dim`, in the dtype of `x`; -inf where a row keeps nothing.
    """
    # TODO 1: logsumexp
    raise NotImplementedError("day15 T1: stable_zoo")
    # END TODO


def safe_acos(x: Tensor) -> Tensor:
    """Arc cosine whose gradient at 1 and -1 is 0.

    Args:
        x: (*,), floating point, -1 to 1.

    Returns:
        (*,), in the dtype of `x`.
    """
    # TODO 1: arc cosine
    raise NotImplementedError("day15 T1: stable_zoo")
    # END TODO


class NanTracer:
    """Watch every leaf module of a model while a `with` block runs forward and backward.

    Attributes:
        first_forward: name of the first leaf module whose output holds inf or nan.
        first_backward: name of the first one, in the order of backward, for whose output the
            gradient holds inf or nan.
        report: (module name, "forward" or "backward", largest finite magnitude, all finite) of
            every output and every output's gradient, in the order of execution.
    """

    first_forward: str | None
    first_backward: str | None
    report: list[tuple[str, str, float, bool]]

    def __init__(self, model: nn.Module) -> None:
        """Nothing is watched before the `with` block begins."""
        # TODO 2: what is remembered
        raise NotImplementedError("day15 T2: NanTracer")
        # END TODO

    def __enter__(self) -> "NanTracer":
        """Begin to watch."""
        # TODO 2: begin
        raise NotImplementedError("day15 T2: NanTracer")
        # END TODO

    def __exit__(self, *exception: object) -> None:
        """Stop watching; an exception goes on."""
        # TODO 2: end
        raise NotImplementedError("day15 T2: NanTracer")
        # END TODO

    # TODO 2: helpers
    # END TODO


# TODO 3: helpers
# END TODO


def first_bad_op(
    fn: Callable, *args: object, allow: tuple[str, ...] = ("masked_fill", "masked_fill_")
) -> tuple[str, int] | None:
    """Name and place of the first ATen operator that creates a nan or an inf.

    Args:
        fn: called once, as `fn(*args)`.
        args: tensors and anything else.
        allow: short names of operators that are never blamed.

    Returns:
        Short name (`func.overloadpacket.__name__`) and place among all dispatched operators,
        from 0; None if none is to blame.
    """
    # TODO 3: run and report
    raise NotImplementedError("day15 T3: first_bad_op")
    # END TODO


def bad_rows(ds: Dataset, classes: int, z: float = 8.0) -> dict[str, list[int]]:
    """Rows of a data set that would poison a training.

    Args:
        ds: has `len(ds)`; an item is x (feat,), floats or ints, and y, an int.
        classes: labels are 0 to `classes - 1`.
        z: robust score above which a finite entry is an outlier.

    Returns:
        Sorted row numbers under the keys `nan`, `inf`, `outlier` and `label_range`.
    """
    # TODO 4: read once, then judge
    raise NotImplementedError("day15 T4: bad_rows")
    # END TODO


@dataclass(frozen=True)
class Policy:
    """When a step is bad, how far good ones may go, and what happens after bad ones."""

    explode: float = 5.0
    clip_quantile: float = 0.9
    clip_factor: float = 4.0
    window: int = 50
    patience: int = 3
    snapshot_every: int = 10
    lr_factor: float = 0.1
    max_rollbacks: int = 5


@dataclass
class Report:
    """What happened in a training."""

    losses: list[float] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    causes: dict[int, str] = field(default_factory=dict)
    rollbacks: int = 0


def guarded_fit(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    opt: torch.optim.Optimizer,
    *,
    steps: int,
    policy: Policy,
) -> Report:
    """Train for `steps` steps; skip bad steps, clip good ones, roll back after several bad ones.

    Args:
        model: called with each x.
        loader: pairs x (batch, *), y (batch, *); iterated anew when it ends.
        loss_fn: `loss_fn(model(x), y)` is a scalar.
        opt: holds the parameters of the model.
        steps: number of steps, bad ones included.
        policy: the rules.

    Returns:
        The losses of all steps, the bad steps, their causes, and the number of rollbacks.

    Raises:
        RuntimeError: more than `policy.max_rollbacks` rollbacks.
    """
    # TODO 5: the loop
    raise NotImplementedError("day15 T5: rescue_training")
    # END TODO
