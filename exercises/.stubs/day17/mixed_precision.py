"""Day 17: what half precision holds, who runs in it, and how gradients and weights survive it."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def float_facts(dtype: torch.dtype) -> dict[str, float]:
    """What a floating-point format holds, found by arithmetic on tensors of that format.

    Args:
        dtype: float16, bfloat16, float32 or float64.

    Returns:
        max: the largest finite number.
        smallest_subnormal: the smallest number above 0.
        eps: the distance from 1 to the next number.
        largest_exact_int: the largest n such that 0, 1, ..., n can all be held.
        smallest_step: the smallest x of this dtype with 1 + x != 1.
    """
    # TODO 1: five loops
    raise NotImplementedError("day17 T1: float_facts")
    # END TODO


def dtype_trace(
    model: nn.Module, x: Tensor, device_type: str, dtype: torch.dtype
) -> dict[str, torch.dtype]:
    """The dtype of every leaf module's output when `model(x)` runs under autocast.

    Args:
        model: every leaf (a module without children) returns one tensor.
        x: what the model takes.
        device_type: of autocast, "cpu" or "cuda".
        dtype: of autocast.

    Returns:
        Name in `model.named_modules()` -> dtype of the output, for every leaf that ran.
    """
    # TODO 2: watch, run, stop watching
    raise NotImplementedError("day17 T2: dtype_trace")
    # END TODO


EXPRESSIONS = (
    "linear(x)",
    "x @ w",
    "softmax(h, -1)",
    "layer_norm(h, (5,))",
    "exp(h)",
    "sum(h)",
    "softmax(x, -1)",
    "h + x",
    "cross_entropy(h, y)",
    "mse_loss(h, x)",
)
"""Run under `torch.autocast("cpu", torch.bfloat16)`; functions are those of torch.

`x` (3, 5) and `w` (5, 5) are float32, `linear` is an `nn.Linear(5, 5)` in float32, `h = linear(x)`
within the same autocast, and `y` (3,) holds classes.
"""

PREDICTIONS: dict[str, torch.dtype] = {
    # TODO 2: a dtype for each of EXPRESSIONS, written before you run it
    # END TODO
}


class MiniScaler:
    """Dynamic loss scaling: backs off when a gradient overflows, grows while none does."""

    def __init__(
        self,
        init: float = 2.0**16,
        growth: float = 2.0,
        backoff: float = 0.5,
        interval: int = 2000,
    ) -> None:
        """The scale begins at `init`."""
        # TODO 3: what it remembers
        raise NotImplementedError("day17 T3: MiniScaler")
        # END TODO

    def scale(self, loss: Tensor) -> Tensor:
        """The loss, a float32 scalar, times the scale; with its graph."""
        # TODO 3: scaled loss
        raise NotImplementedError("day17 T3: MiniScaler")
        # END TODO

    @torch.no_grad()
    def unscale_(self, opt: Optimizer) -> None:
        """Divide the gradients of this optimizer in place, and note whether one is inf or nan.

        Raises:
            RuntimeError: they have been divided already since the last `update`.
        """
        # TODO 3: unscale
        raise NotImplementedError("day17 T3: MiniScaler")
        # END TODO

    def step(self, opt: Optimizer) -> None:
        """Unscale if that was not done, then step unless a gradient is inf or nan."""
        # TODO 3: step or skip
        raise NotImplementedError("day17 T3: MiniScaler")
        # END TODO

    def update(self) -> None:
        """Back off or grow; call it once, at the end of an iteration."""
        # TODO 3: the next scale
        raise NotImplementedError("day17 T3: MiniScaler")
        # END TODO

    def get_scale(self) -> float:
        """The scale that the next loss is multiplied by."""
        # TODO 3: scale
        raise NotImplementedError("day17 T3: MiniScaler")
        # END TODO

    def state_dict(self) -> dict[str, Any]:
        """All that another scaler needs to go on as this one would, taken after `update`."""
        # TODO 3: save
        raise NotImplementedError("day17 T3: MiniScaler")
        # END TODO

    def load_state_dict(self, d: dict[str, Any]) -> None:
        """Go on as the scaler would whose `state_dict` this is."""
        # TODO 3: load
        raise NotImplementedError("day17 T3: MiniScaler")
        # END TODO


def amp_step(
    model: nn.Module,
    opt: Optimizer,
    scaler: torch.amp.GradScaler,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    dtype: torch.dtype,
    max_norm: float,
) -> tuple[float, bool]:
    """One training step in mixed precision.

    Args:
        model: its parameters are float32 and stay so.
        opt: holds the parameters of the model.
        scaler: enabled, or disabled (for bfloat16).
        loss_fn: `loss_fn(model(x), y)` is a scalar.
        x: (batch, *)
        y: (batch, *)
        dtype: of autocast, float16 or bfloat16.
        max_norm: the largest norm of all unscaled gradients together.

    Returns:
        loss: before the step, not scaled.
        stepped: False if the scaler skipped the step of `opt`.
    """
    # TODO 4: one step
    raise NotImplementedError("day17 T4: amp_step")
    # END TODO


def kahan_sum(x: Tensor) -> Tensor:
    """Compensated sum: every addition's loss is carried into the next.

    Args:
        x: (n,), floating point, n at least 1.

    Returns:
        (), in the dtype of `x`, as is everything on the way to it.
    """
    # TODO 5: sum
    raise NotImplementedError("day17 T5: precision_lab")
    # END TODO


def stochastic_round(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Round to one of the two bfloat16 neighbours, such that the mean is exact.

    Args:
        x: (*,), float32, finite.
        generator: where the random numbers come from; None = torch's global one.

    Returns:
        (*,), bfloat16.
    """
    # TODO 5: rounding
    raise NotImplementedError("day17 T5: precision_lab")
    # END TODO


class BF16AdamW(Optimizer):
    """AdamW for bfloat16 weights: no float32 copy, the new weight is rounded stochastically."""

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        """Options hold for every group that doesn't bring its own; `generator` is for all."""
        # TODO 5: the defaults
        raise NotImplementedError("day17 T5: precision_lab")
        # END TODO

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        # TODO 5: the update
        raise NotImplementedError("day17 T5: precision_lab")
        # END TODO


def train_variants(
    X: Tensor, y: Tensor, seed: int, steps: int = 1500, lr: float = 2e-3
) -> dict[str, list[float]]:
    """Linear regression from w = 0 with Adam, four ways to keep the weights.

    Args:
        X: (rows, feat), float32.
        y: (rows,), float32.
        seed: of the stochastic rounding.
        steps: on all rows at once.
        lr: of Adam; betas (0.9, 0.999) and eps 1e-8.

    Returns:
        For "float32", "naive", "master" and "stochastic" the mean squared error before each step.
    """
    # TODO 5: four runs
    raise NotImplementedError("day17 T5: precision_lab")
    # END TODO
