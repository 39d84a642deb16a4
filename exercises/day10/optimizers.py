"""Day 10: optimizers, clipping, accumulation, a schedule and an average of the weights."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def train_step(
    model: nn.Module,
    opt: Optimizer,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    max_norm: float | None = None,
) -> float:
    """One training step: forget old gradients, forward, backward, clip, step.

    Args:
        model: called with `x`; its train or eval mode stays as it is.
        opt: holds the parameters of the model.
        loss_fn: `loss_fn(model(x), y)` is a scalar.
        x: (batch, *)
        y: (batch, *)
        max_norm: the largest norm of all gradients together; None = no clipping.

    Returns:
        The loss before the step.
    """
    # TODO 1: one step, in the right order
    raise NotImplementedError("day10 T1: train_step")
    # END TODO


def clip_grad_norm(params: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients in place by min(1, max_norm / (norm + 1e-6)).

    Args:
        params: parameters, any shapes; those whose grad is None are skipped. May be a generator.
        max_norm: the largest L2 norm of all gradients together.

    Returns:
        (), the norm of all gradients together before clipping; 0 without any gradient.

    Raises:
        RuntimeError: the norm is non-finite; the gradients are then left as they are.
    """
    # TODO 2: measure, then scale
    raise NotImplementedError("day10 T2: clip_grad_norm")
    # END TODO


class SGD(Optimizer):
    """Stochastic gradient descent with momentum, Nesterov's variant and weight decay."""

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict],
        lr: float = 1e-3,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        """Options hold for every group that doesn't bring its own."""
        # TODO 3: the defaults
        raise NotImplementedError("day10 T3: SGD")
        # END TODO

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One update of every parameter that has a gradient.

        Args:
            closure: computes the loss again and calls backward.

        Returns:
            What the closure returned; None without one.
        """
        # TODO 3: closure, then the update
        raise NotImplementedError("day10 T3: SGD")
        # END TODO


class AdamW(Optimizer):
    """Adam with bias correction, and weight decay beside the gradient or within it."""

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        decoupled: bool = True,
    ) -> None:
        """Options hold for every group that doesn't bring its own."""
        # TODO 4: the defaults
        raise NotImplementedError("day10 T4: AdamW")
        # END TODO

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One update of every parameter that has a gradient; as `SGD.step`."""
        # TODO 4: closure, then the update
        raise NotImplementedError("day10 T4: AdamW")
        # END TODO


def accumulate(
    model: nn.Module,
    loss_sum_fn: Callable[[Tensor, Tensor], Tensor],
    batches: list[tuple[Tensor, Tensor]],
    opt: Optimizer,
) -> float:
    """One optimizer step from the mean loss over all samples of all micro-batches.

    Args:
        model: called with each x.
        loss_sum_fn: `loss_sum_fn(model(x), y)` is the sum of the losses of a micro-batch, a scalar.
        batches: pairs x (samples, *), y (samples, *); the number of samples differs.
        opt: holds the parameters of the model.

    Returns:
        The mean loss over all samples, before the step.
    """
    # TODO 5: backward for each micro-batch, one step
    raise NotImplementedError("day10 T5: accumulate")
    # END TODO


def param_groups(model: nn.Module, wd: float) -> list[dict]:
    """Groups for an optimizer: every trainable parameter once, with its weight decay.

    Returns:
        Dicts with `params` (a list) and `weight_decay`: 0 for parameters with fewer than 2
        dimensions and for the weights of `nn.Embedding`, else `wd`.
    """
    # TODO 6: who decays, and who doesn't
    raise NotImplementedError("day10 T6: warmup_cosine")
    # END TODO


def lr_at(step: int, *, peak: float, floor: float, warmup: int, total: int) -> float:
    """Learning rate of a step: a line up to `peak`, half a cosine down to `floor`.

    Args:
        step: 0 or more.
        peak: the rate at the end of the warm-up.
        floor: the rate from step `total` on.
        warmup: steps of the warm-up, 0 to `total`.
        total: the step where the cosine ends.

    Returns:
        The learning rate.
    """
    # TODO 6: the phases
    raise NotImplementedError("day10 T6: warmup_cosine")
    # END TODO


class EMA:
    """Exponential moving average of a model's trainable parameters, corrected for its start."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """The averages start at 0; `model` is not changed."""
        # TODO 6: what is remembered
        raise NotImplementedError("day10 T6: warmup_cosine")
        # END TODO

    def update(self, model: nn.Module) -> None:
        """s = decay * s + (1 - decay) * w for every trainable parameter w."""
        # TODO 6: one update
        raise NotImplementedError("day10 T6: warmup_cosine")
        # END TODO

    def copy_to(self, model: nn.Module) -> None:
        """Write s / (1 - decay^t) and the last seen buffers into `model`, in place.

        `t` is the number of updates, at least 1.
        """
        # TODO 6: averages and buffers into the model
        raise NotImplementedError("day10 T6: warmup_cosine")
        # END TODO
