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
    ### BEGIN SOLUTION 1: the variance
    return d * sigma_q**2 * sigma_k**2 * (1 + rho**2)
    ### END SOLUTION


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
    ### BEGIN SOLUTION 1: both means
    queries, keys = vectors(d, n, seed)
    scores = (keys @ queries[..., None])[..., 0]
    both = (scores, scores / math.sqrt(d))
    plain, scaled = (each.softmax(dim=-1).amax(dim=-1).mean().item() for each in both)
    return plain, scaled
    ### END SOLUTION


def grad_ratio(d: int, n: int, seed: int) -> float:
    """Mean Frobenius norm of the softmax Jacobian, unscaled divided by scaled.

    Args:
        d, n, seed: as for `saturation`, and the same draw.
    """
    ### BEGIN SOLUTION 1: the norms and their ratio
    queries, keys = vectors(d, n, seed)
    norms = []
    for q in (queries, queries / math.sqrt(d)):
        weights = torch.einsum("qd,qnd->qn", q, keys).softmax(dim=1)
        jacobian = torch.diag_embed(weights) - weights[:, :, None] * weights[:, None, :]
        norms.append(jacobian.flatten(1).norm(dim=1).mean().item())
    return norms[0] / norms[1]
    ### END SOLUTION


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
    ### BEGIN SOLUTION 1: the choice
    return nearest(options, (factor, math.sqrt(factor), 1.0))
    ### END SOLUTION


def divided_by_d(d: int, n: int, options: list[tuple[float, float]]) -> int:
    """Index of the right option: what becomes of scores q·k / d?

    Args:
        d: width; entries are independent and N(0, 1).
        n: number of keys of a query.
        options: (standard deviation of a score q·k / d, what the largest softmax weight tends to
            as d grows without end).
    """
    ### BEGIN SOLUTION 1: the choice
    return nearest(options, (1 / math.sqrt(d), 1 / n))
    ### END SOLUTION


# --- 2: normalisation ---------------------------------------------------------------------------


def which_norm(f: Callable[[Tensor], Tensor]) -> str:
    """Name the normalisation from what it does: at most 30 calls of `f`.

    Args:
        f: takes and returns (batch, 6, 5), batch, channels and length, float32.

    Returns:
        "bn_train", "bn_eval", "layer", "rms", "group", "instance", "l2" or "none".
    """
    ### BEGIN SOLUTION 2: the name
    x = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0))
    poked = x.clone()
    poked[0, 0, 0] += 2.0
    before = f(x)
    moved = (f(poked) - before).abs() > 1e-4
    if moved[1:].any():
        return "bn_train"
    channels, length = moved[0].any(dim=1).sum().item(), moved[0].any(dim=0).sum().item()
    if channels == length == 1:
        return "none" if torch.allclose(before, x, atol=1e-5) else "bn_eval"
    if length == 1:
        return "l2"
    if channels == 1:
        return "instance"
    if channels < 6:
        return "group"
    return "layer" if torch.allclose(f(x + 3.0), before, atol=1e-3) else "rms"
    ### END SOLUTION


def fold_bn(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    """A new convolution with bias that equals `bn(conv(x))` in eval mode.

    Args:
        conv: with or without bias; stays as it is.
        bn: with gain, bias and running statistics; stays as it is.
    """
    ### BEGIN SOLUTION 2: the new convolution
    folded = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=conv.groups,
        bias=True,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    with torch.no_grad():
        gain = bn.weight / torch.sqrt(bn.running_var + bn.eps)
        old_bias = 0.0 if conv.bias is None else conv.bias
        folded.weight.copy_(conv.weight * gain[:, None, None, None])
        folded.bias.copy_((old_bias - bn.running_mean) * gain + bn.bias)
    return folded
    ### END SOLUTION


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
    ### BEGIN SOLUTION 2: the input
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    centred = x - x.mean(dim=2, keepdim=True)
    return centred / centred.square().mean(dim=2, keepdim=True).sqrt()
    ### END SOLUTION


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
    ### BEGIN SOLUTION 3: the parameters
    kv_width = cfg.dim // cfg.heads * cfg.kv_heads
    attention = 2 * cfg.dim * cfg.dim + 2 * cfg.dim * kv_width
    mlp = (3 if cfg.ffn == "swiglu" else 2) * cfg.dim * cfg.hidden
    norms = 2 * cfg.dim * (2 * cfg.layers + 1)
    tables = (cfg.vocab + cfg.ctx) * cfg.dim
    head = 0 if cfg.tie else cfg.vocab * cfg.dim
    return cfg.layers * (attention + mlp) + norms + tables + head
    ### END SOLUTION


def train_flops(cfg: Config, tokens: int) -> float:
    """Floating point operations of all matmuls, forward and backward, two a multiply-add.

    Args:
        cfg: as for `params`.
        tokens: number of tokens, in sequences of length cfg.ctx.
    """
    ### BEGIN SOLUTION 3: the operations
    norms = 4 * cfg.layers + 2
    looked_up = cfg.ctx if cfg.tie else cfg.ctx + cfg.vocab
    in_weights = params(cfg) - cfg.dim * (norms + looked_up)
    in_attention = cfg.layers * 2 * cfg.ctx * cfg.dim
    return 6.0 * tokens * (in_weights + in_attention)
    ### END SOLUTION


def kv_cache_bytes(cfg: Config, batch: int, seq: int, dtype: torch.dtype) -> int:
    """Bytes of the keys and values of all layers.

    Args:
        cfg: as for `params`.
        batch, seq: cached sequences, and tokens of each.
        dtype: of the cache.
    """
    ### BEGIN SOLUTION 3: the bytes
    width = cfg.kv_heads * (cfg.dim // cfg.heads)
    return 2 * cfg.layers * batch * seq * width * dtype.itemsize
    ### END SOLUTION


def six_n(cfg: Config, tokens: int, options: list[tuple[float, float]]) -> int:
    """Index of the right option: what is wrong with 6 · params(cfg) · tokens?

    Args:
        cfg: as for `params`.
        tokens: as for `train_flops`.
        options: (what the rule counts too much, for parameters that are in no matmul; what it
            leaves out, for matmuls without parameters), in floating point operations.
    """
    ### BEGIN SOLUTION 3: the choice
    left_out = 12.0 * cfg.layers * cfg.ctx * cfg.dim * tokens
    too_much = 6.0 * params(cfg) * tokens + left_out - train_flops(cfg, tokens)
    return nearest(options, (too_much, left_out))
    ### END SOLUTION


# --- 4: prove or refute -------------------------------------------------------------------------


def agree(got: Tensor, expected: Tensor) -> bool:
    """Whether two results of one shape are the same; for all your experiments.

    Args:
        got, expected: of any size, such as 0.001 or 1000; nan agrees with nothing.
    """
    ### BEGIN SOLUTION 4: the comparison
    return bool((got - expected).norm() <= 2e-3 * expected.norm())
    ### END SOLUTION


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

    ### BEGIN SOLUTION 4: experiment 1
    def test() -> bool:
        x = draw(seed, 2, 7, 8)
        generator = torch.Generator().manual_seed(seed)
        orders = [torch.randperm(7, generator=generator) for _ in range(3)]
        return all(agree(subject(x[:, order]), subject(x)[:, order]) for order in orders)

    return attempt(test)
    ### END SOLUTION


def experiment_2(subject: Callable[[list[Tensor]], Any], seed: int) -> bool:
    """Clipping preserves the direction of the gradient.

    Claim: all gradients together, as one vector, keep their direction.

    Args:
        subject: changes the `.grad` of a list of parameters in place. Its limit lies anywhere
            from 0.001 to 1000. Try it with several, whose gradients differ in size.
        seed: of whatever you draw.
    """

    ### BEGIN SOLUTION 4: experiment 2
    def test() -> bool:
        parameters = [nn.Parameter(torch.zeros(n)) for n in (3, 5, 7)]
        for i, p in enumerate(parameters):
            p.grad = draw(seed + i, p.numel()) * 1e4 * 10**i
        before = torch.cat([p.grad.clone() for p in parameters])
        subject(parameters)
        after = torch.cat([p.grad for p in parameters])
        return agree(after / after.norm(), before / before.norm())

    return attempt(test)
    ### END SOLUTION


def experiment_3(subject: Callable[[list[Tensor]], Any], seed: int) -> bool:
    """Adam with eps 0 is invariant to the scale of the loss.

    Claim: with a loss 1000 times as large, the weights take the same steps.

    Args:
        subject: makes an optimizer (`step()`, `zero_grad()`) of a list of parameters; its
            learning rate is 0.01 to 1. Try it with weights and gradients of about 1.
        seed: of whatever you draw.
    """

    ### BEGIN SOLUTION 4: experiment 3
    def change(factor: float) -> Tensor:
        start, *gradients = draw(seed, 6, 11)
        w = nn.Parameter(start.clone())
        optimizer = subject([w])
        for gradient in gradients:
            w.grad = factor * gradient
            optimizer.step()
        return w.detach() - start

    return attempt(lambda: agree(change(1000.0), change(1.0)))
    ### END SOLUTION


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

    ### BEGIN SOLUTION 4: experiment 4
    def change(weight_decay: float, penalty: float) -> Tensor:
        start, *gradients = draw(seed, 6, 11)
        w = nn.Parameter(start.clone())
        optimizer = subject([w], weight_decay)
        for gradient in gradients:
            w.grad = gradient + penalty * w.detach()
            optimizer.step()
        return w.detach() - start

    return attempt(lambda: agree(change(0.5, 0.0), change(0.0, 0.5)))
    ### END SOLUTION


def experiment_5(subject: Callable[[Tensor], Tensor], seed: int) -> bool:
    """This norm with eps 0 ignores the scale of its input.

    Claim: f(c · x) = f(x) for every c from 0.001 to 1000.

    Args:
        subject: (batch, 8) -> (batch, 8).
        seed: of whatever you draw.
    """
    ### BEGIN SOLUTION 4: experiment 5
    x = draw(seed, 5, 8)
    return attempt(lambda: all(agree(subject(c * x), subject(x)) for c in (1e-3, 1e3)))
    ### END SOLUTION


def experiment_6(subject: Callable[[Tensor, Tensor], Tensor], seed: int) -> bool:
    """The gradient of softmax and cross entropy is p - y.

    Claim: the loss's gradient for the logits is softmax(logits) - one_hot(target), times one
    positive factor.

    Args:
        subject: logits (batch, classes), target (batch,) -> loss (); two classes or more. Try it
            with more than one row.
        seed: of whatever you draw.
    """

    ### BEGIN SOLUTION 4: experiment 6
    def test() -> bool:
        logits = draw(seed, 11, 5).requires_grad_()
        generator = torch.Generator().manual_seed(seed)
        target = torch.randint(5, (11,), generator=generator)
        (gradient,) = torch.autograd.grad(subject(logits, target), logits)
        expected = logits.detach().softmax(dim=1)
        expected[torch.arange(11), target] -= 1
        return agree(gradient / gradient.norm(), expected / expected.norm())

    return attempt(test)
    ### END SOLUTION


def experiment_7(subject: Callable[[Tensor], Tensor], seed: int) -> bool:
    """This ReLU net without biases is positively homogeneous.

    Claim: f(c · x) = c · f(x) for every c from 0.01 to 100.

    Args:
        subject: (batch, 8) -> (batch, 3).
        seed: of whatever you draw.
    """
    ### BEGIN SOLUTION 4: experiment 7
    x = draw(seed, 5, 8)
    return attempt(lambda: all(agree(subject(c * x), c * subject(x)) for c in (0.01, 0.5, 100.0)))
    ### END SOLUTION


def experiment_8(subject: Callable[[Tensor], Tensor], seed: int) -> bool:
    """This norm works in train mode with batch size 1.

    Claim: a sample alone gets the output that it gets in a batch.

    Args:
        subject: (batch, 8) -> (batch, 8), in train mode.
        seed: of whatever you draw.
    """
    ### BEGIN SOLUTION 4: experiment 8
    x = draw(seed, 5, 8)
    return attempt(lambda: agree(torch.cat([subject(row) for row in x.split(1)]), subject(x)))
    ### END SOLUTION
