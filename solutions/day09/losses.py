"""Day 9: feed every loss the right shapes and dtypes, and write the stable ones yourself."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


def prepare(loss: str, out: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Shape and convert a model's output and its target for the loss function of torch.

    Args:
        loss: "mse", "l1", "bce", "ce", "nll" or "seq_ce".
        out: (N,) or (N, 1) for "mse", "l1" and "bce"; (N, classes) for "ce" and "nll";
            (batch, seq, classes) for "seq_ce".
        target: (N,) or (N, 1) of any dtype for "mse", "l1" and "bce"; (N,) integers or (N, classes)
            one-hot of any dtype for "ce" and "nll"; (batch, seq) integers for "seq_ce".

    Returns:
        out, itself or a view, and the target.
    """
    ### BEGIN SOLUTION 1: shapes, then the target's dtype
    if loss == "seq_ce":
        return out.transpose(1, 2), target.long()
    if loss in ("ce", "nll"):
        target = target.long()
        return out, target.argmax(1) if target.ndim == 2 else target
    return out, target.reshape(out.shape).to(out.dtype)
    ### END SOLUTION


def bce_with_logits(
    z: Tensor, y: Tensor, pos_weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Binary cross-entropy of logits.

    Args:
        z: (*), logits.
        y: (*), in z's dtype, from 0 to 1.
        pos_weight: broadcasts against z; the weight of the positive part, 1 if None.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or (*) for "none".

    Raises:
        ValueError: z and y differ in shape.
    """
    ### BEGIN SOLUTION 2: one expression that overflows nowhere
    if z.shape != y.shape:
        raise ValueError(f"logits are {tuple(z.shape)}, targets {tuple(y.shape)}")
    weight = 1 if pos_weight is None else 1 + (pos_weight - 1) * y
    loss = (1 - y) * z + weight * F.softplus(-z)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.mean()
    ### END SOLUTION


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy of class indices.

    Args:
        logits: (batch, classes, *)
        target: (batch, *), int64.
        weight: (classes,), or None for 1 each.
        ignore_index: targets of this value don't count.
        label_smoothing: from 0 to 1.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or (batch, *) for "none".
    """
    ### BEGIN SOLUTION 3: pick, smooth, mask, divide
    kept = target != ignore_index
    index = target.where(kept, 0)
    logp = logits.log_softmax(1)
    counted = kept.to(logp.dtype) if weight is None else kept * weight[index]
    loss = -logp.gather(1, index[:, None])[:, 0] * counted
    if label_smoothing:
        weights = logp.new_ones(logits.shape[1]) if weight is None else weight
        smooth = -torch.einsum("bc...,c->b...", logp, weights)
        loss = (1 - label_smoothing) * loss + label_smoothing / logits.shape[1] * smooth * kept
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / counted.sum()
    ### END SOLUTION


def seq_loss(logits: Tensor, tokens: Tensor, pad: int) -> Tensor:
    """Next-token loss of a padded batch.

    Args:
        logits: (batch, seq, vocab)
        tokens: (batch, seq), int64, from 0 to vocab - 1.
        pad: the token that fills up short sequences.

    Returns:
        A scalar: the mean over all targets that are not `pad`.
    """
    ### BEGIN SOLUTION 4: which logits, which tokens
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], ignore_index=pad)
    ### END SOLUTION


def kl(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """Kullback-Leibler divergence KL(p || q), in nats.

    Args:
        p_logits: (batch, classes), may hold -inf.
        q_logits: (batch, classes), finite.

    Returns:
        (batch,)
    """
    ### BEGIN SOLUTION 5: KL(p || q)
    return divergence(p_logits.log_softmax(1), q_logits.log_softmax(1))
    ### END SOLUTION


def js(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """Jensen-Shannon divergence: the mean of KL(p || m) and KL(q || m), m = (p + q) / 2, in nats.

    Args:
        p_logits: (batch, classes), may hold -inf.
        q_logits: (batch, classes), finite.

    Returns:
        (batch,)
    """
    ### BEGIN SOLUTION 5: Jensen-Shannon
    logp, logq = p_logits.log_softmax(1), q_logits.log_softmax(1)
    middle = torch.logaddexp(logp, logq) - math.log(2)
    return (divergence(logp, middle) + divergence(logq, middle)) / 2
    ### END SOLUTION


### BEGIN SOLUTION 5: helpers of yours, if you like
def divergence(logp: Tensor, logq: Tensor) -> Tensor:
    p = logp.exp()
    return (p * torch.where(p > 0, logp - logq, 0)).sum(1)


### END SOLUTION


def chunked_lm_loss(h: Tensor, w: Tensor, target: Tensor, chunk: int) -> Tensor:
    """`F.cross_entropy(F.linear(h, w), target)` without all logits in memory at once.

    Args:
        h: (tokens, d)
        w: (vocab, d)
        target: (tokens,), int64; -100 is ignored.
        chunk: tokens at a time; need not divide `tokens`.

    Returns:
        A scalar: the mean over the tokens that are not ignored.
    """
    ### BEGIN SOLUTION 6: a few tokens at a time, backward too

    def part(h: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(h, w), target, reduction="sum")

    pieces = zip(h.split(chunk), target.split(chunk), strict=True)
    total = sum(checkpoint(part, *piece, use_reentrant=False) for piece in pieces)
    return total / (target != -100).sum()
    ### END SOLUTION
