"""Classic questions of an interview, answered by numbers, code and counterexamples."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

ESSAY = ""
"""Not scored, at most 150 words: choose one claim of task 4, and say why it holds or fails."""


# --- 1: the scaled dot product ------------------------------------------------------------------


def q_scale(d: int, sigma_q: float, sigma_k: float, rho: float) -> float:
    """Variance of q·k for Gaussian entries with mean 0.

    Args:
        d: number of entries of q and of k; different entries are independent.
        sigma_q, sigma_k: standard deviations of the entries.
        rho: correlation of q_i and k_i.
    """
    # TODO 1: the variance
    raise NotImplementedError("day26 T1: scaled_dot_product")
    # END TODO


def vectors(d: int, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Queries (1000, d) and their keys (1000, n, d), all entries from N(0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(1000, d, generator=generator)
    return queries, torch.randn(1000, n, d, generator=generator)


def saturation(d: int, n: int, seed: int) -> tuple[float, float]:
    """Mean largest softmax weight, of (unscaled scores, scores divided by sqrt(d)).

    Args:
        d: width; all entries are drawn from N(0, 1).
        n: number of keys, fresh ones for each of 1000 queries.
        seed: of the draw.
    """
    # TODO 1: both means
    raise NotImplementedError("day26 T1: scaled_dot_product")
    # END TODO


def grad_ratio(d: int, n: int, seed: int) -> float:
    """Mean Frobenius norm of the softmax Jacobian, unscaled divided by scaled.

    Args:
        d, n, seed: as for `saturation`, and the same draw.
    """
    # TODO 1: the norms and their ratio
    raise NotImplementedError("day26 T1: scaled_dot_product")
    # END TODO


def nearest(options: list[tuple[float, ...]], values: tuple[float, ...]) -> int:
    """Index of the option that has these values, but for rounding; ValueError if none has."""
    right = [
        all(math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9) for a, b in zip(o, values, strict=True))
        for o in options
    ]
    return right.index(True)


def if_d_grows(factor: int, options: list[tuple[float, float, float]]) -> int:
    """Index of the right option: what grows how much if d becomes `factor` times as large?

    Args:
        factor: 2, 3, …
        options: the factors by which (variance of q·k, standard deviation of q·k, standard
            deviation of q·k / sqrt(d)) grow; entries are independent and N(0, 1).
    """
    # TODO 1: the choice
    raise NotImplementedError("day26 T1: scaled_dot_product")
    # END TODO


def divided_by_d(d: int, n: int, options: list[tuple[float, float]]) -> int:
    """Index of the right option: what becomes of scores q·k / d?

    Args:
        d: width; entries are independent and N(0, 1).
        n: number of keys of a query.
        options: (standard deviation of a score q·k / d, what the largest softmax weight tends to
            as d grows without end).
    """
    # TODO 1: the choice
    raise NotImplementedError("day26 T1: scaled_dot_product")
    # END TODO


# --- 2: normalisation ---------------------------------------------------------------------------


def which_norm(f: Callable[[Tensor], Tensor]) -> str:
    """Name the normalisation from what it does: at most 30 calls of `f`.

    Args:
        f: takes and returns (batch, 6, 5), batch, channels and length, float32.

    Returns:
        "bn_train", "bn_eval", "layer", "rms", "group", "instance", "l2" or "none".
    """
    # TODO 2: the name
    raise NotImplementedError("day26 T2: norms")
    # END TODO


def fold_bn(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    """A new convolution with bias that equals `bn(conv(x))` in eval mode.

    Args:
        conv: with or without bias; stays as it is.
        bn: with gain, bias and running statistics; stays as it is.
    """
    # TODO 2: the new convolution
    raise NotImplementedError("day26 T2: norms")
    # END TODO


def same_output(
    norm_a: Callable[[Tensor], Tensor],
    norm_b: Callable[[Tensor], Tensor],
    shape: tuple[int, int, int],
) -> Tensor:
    """An input on which both norms give the same output.

    Args:
        norm_a, norm_b: LayerNorm or RMSNorm over channels and length, GroupNorm, BatchNorm in
            train mode, InstanceNorm; without gain and bias.
        shape: (batch, channels, length) of the input; length is at least 5.
    """
    # TODO 2: the input
    raise NotImplementedError("day26 T2: norms")
    # END TODO


# --- 3: counting --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    """What the model of task 3 is made of."""

    vocab: int
    ctx: int  # number of positions, and length of the sequences
    dim: int
    heads: int
    kv_heads: int  # of keys and values
    layers: int
    hidden: int  # width inside the MLP
    ffn: str  # "gelu" or "swiglu"
    tie: bool  # whether the head's weight is the table of tokens


def params(cfg: Config) -> int:
    """Number of parameters of the model, a tied weight once.

    Args:
        cfg: the sizes of the model.
    """
    # TODO 3: the parameters
    raise NotImplementedError("day26 T3: counting")
    # END TODO


def train_flops(cfg: Config, tokens: int) -> float:
    """Floating point operations of all matmuls, forward and backward, two a multiply-add.

    Args:
        cfg: as for `params`.
        tokens: number of tokens, in sequences of length cfg.ctx.
    """
    # TODO 3: the operations
    raise NotImplementedError("day26 T3: counting")
    # END TODO


def kv_cache_bytes(cfg: Config, batch: int, seq: int, dtype: torch.dtype) -> int:
    """Bytes of the keys and values of all layers.

    Args:
        cfg: as for `params`.
        batch, seq: cached sequences, and tokens of each.
        dtype: of the cache.
    """
    # TODO 3: the bytes
    raise NotImplementedError("day26 T3: counting")
    # END TODO


def six_n(cfg: Config, tokens: int, options: list[tuple[float, float]]) -> int:
    """Index of the right option: what is wrong with 6 · params(cfg) · tokens?

    Args:
        cfg: as for `params`.
        tokens: as for `train_flops`.
        options: (what the rule counts too much, for parameters that are in no matmul; what it
            leaves out, for matmuls without parameters), in floating point operations.
    """
    # TODO 3: the choice
    raise NotImplementedError("day26 T3: counting")
    # END TODO


# --- 4: prove or refute -------------------------------------------------------------------------


def agree(got: Tensor, expected: Tensor) -> bool:
    """Whether two results of one shape are the same; for all your experiments.

    Args:
        got, expected: of any size, such as 0.001 or 1000; nan agrees with nothing.
    """
    # TODO 4: the comparison
    raise NotImplementedError("day26 T4: experiments")
    # END TODO


def draw(seed: int, *shape: int) -> Tensor:
    """Normal numbers of a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def attempt(test: Callable[[], bool]) -> bool:
    """What the test says; an exception in it, the subject's or your own, is a no."""
    try:
        return test()
    except NotImplementedError:
        raise
    except Exception:
        return False


def experiment_1(subject: Callable[[Tensor], Tensor], seed: int) -> bool:
    """Attention without positions is permutation equivariant.

    Claim: permuting the tokens permutes the outputs, and changes nothing else.

    Args:
        subject: (batch, seq, 8) -> (batch, seq, 8), for seq of 16 at most.
        seed: of whatever you draw.
    """

    # TODO 4: experiment 1
    raise NotImplementedError("day26 T4: experiments")
    # END TODO


def experiment_2(subject: Callable[[list[Tensor]], Any], seed: int) -> bool:
    """Clipping preserves the direction of the gradient.

    Claim: all gradients together, as one vector, keep their direction.

    Args:
        subject: changes the `.grad` of a list of parameters in place. Its limit lies anywhere
            from 0.001 to 1000. Try it with several, whose gradients differ in size.
        seed: of whatever you draw.
    """

    # TODO 4: experiment 2
    raise NotImplementedError("day26 T4: experiments")
    # END TODO


def experiment_3(subject: Callable[[list[Tensor]], Any], seed: int) -> bool:
    """Adam with eps 0 is invariant to the scale of the loss.

    Claim: with a loss 1000 times as large, the weights take the same steps.

    Args:
        subject: makes an optimizer (`step()`, `zero_grad()`) of a list of parameters; its
            learning rate is 0.01 to 1. Try it with weights and gradients of about 1.
        seed: of whatever you draw.
    """

    # TODO 4: experiment 3
    raise NotImplementedError("day26 T4: experiments")
    # END TODO


def experiment_4(subject: Callable[[list[Tensor], float], Any], seed: int) -> bool:
    """Weight decay equals L2 for this optimizer.

    Claim: `weight_decay=0.5` takes the same steps as `weight_decay=0` with
    `0.25 * (w ** 2).sum()` added to the loss.

    Args:
        subject: `subject(parameters, weight_decay)` makes an optimizer (`step()`,
            `zero_grad()`); its learning rate is 0.01 to 1. Try it with weights and gradients of
            about 1, and more than one step.
        seed: of whatever you draw.
    """

    # TODO 4: experiment 4
    raise NotImplementedError("day26 T4: experiments")
    # END TODO


def experiment_5(subject: Callable[[Tensor], Tensor], seed: int) -> bool:
    """This norm with eps 0 ignores the scale of its input.

    Claim: f(c · x) = f(x) for every c from 0.001 to 1000.

    Args:
        subject: (batch, 8) -> (batch, 8).
        seed: of whatever you draw.
    """
    # TODO 4: experiment 5
    raise NotImplementedError("day26 T4: experiments")
    # END TODO


def experiment_6(subject: Callable[[Tensor, Tensor], Tensor], seed: int) -> bool:
    """The gradient of softmax and cross entropy is p - y.

    Claim: the loss's gradient for the logits is softmax(logits) - one_hot(target), times one
    positive factor.

    Args:
        subject: logits (batch, classes), target (batch,) -> loss (); two classes or more. Try it
            with more than one row.
        seed: of whatever you draw.
    """

    # TODO 4: experiment 6
    raise NotImplementedError("day26 T4: experiments")
    # END TODO


def experiment_7(subject: Callable[[Tensor], Tensor], seed: int) -> bool:
    """This ReLU net without biases is positively homogeneous.

    Claim: f(c · x) = c · f(x) for every c from 0.01 to 100.

    Args:
        subject: (batch, 8) -> (batch, 3).
        seed: of whatever you draw.
    """
    # TODO 4: experiment 7
    raise NotImplementedError("day26 T4: experiments")
    # END TODO


def experiment_8(subject: Callable[[Tensor], Tensor], seed: int) -> bool:
    """This norm works in train mode with batch size 1.

    Claim: a sample alone gets the output that it gets in a batch.

    Args:
        subject: (batch, 8) -> (batch, 8), in train mode.
        seed: of whatever you draw.
    """
    # TODO 4: experiment 8
    raise NotImplementedError("day26 T4: experiments")
    # END TODO
