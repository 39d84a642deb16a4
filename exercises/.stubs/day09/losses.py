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
    # TODO 1: shapes, then the target's dtype
    raise NotImplementedError("day09 T1: prepare")
    # END TODO


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
    # TODO 2: one expression that overflows nowhere
    raise NotImplementedError("day09 T2: bce_with_logits")
    # END TODO


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
    # TODO 3: pick, smooth, mask, divide
    raise NotImplementedError("day09 T3: cross_entropy")
    # END TODO


def seq_loss(logits: Tensor, tokens: Tensor, pad: int) -> Tensor:
    """Next-token loss of a padded batch.

    Args:
        logits: (batch, seq, vocab)
        tokens: (batch, seq), int64, from 0 to vocab - 1.
        pad: the token that fills up short sequences.

    Returns:
        A scalar: the mean over all targets that are not `pad`.
    """
    # TODO 4: which logits, which tokens
    raise NotImplementedError("day09 T4: seq_loss")
    # END TODO


def kl(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """Kullback-Leibler divergence KL(p || q), in nats.

    Args:
        p_logits: (batch, classes), may hold -inf.
        q_logits: (batch, classes), finite.

    Returns:
        (batch,)
    """
    # TODO 5: KL(p || q)
    raise NotImplementedError("day09 T5: kl_and_js")
    # END TODO


def js(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """Jensen-Shannon divergence: the mean of KL(p || m) and KL(q || m), m = (p + q) / 2, in nats.

    Args:
        p_logits: (batch, classes), may hold -inf.
        q_logits: (batch, classes), finite.

    Returns:
        (batch,)
    """
    # TODO 5: Jensen-Shannon
    raise NotImplementedError("day09 T5: kl_and_js")
    # END TODO


# TODO 5: helpers of yours, if you like
# END TODO


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
    # TODO 6: a few tokens at a time, backward too
    raise NotImplementedError("day09 T6: chunked_lm_loss")
    # END TODO
