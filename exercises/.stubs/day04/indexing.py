"""Day 4: which indexing copies, and how to gather, scatter and mask without loops."""

import math

import torch
from torch import Tensor

EXPRESSIONS = (
    "x[1]",
    "x[0:1]",
    "x[:, ::2]",
    "x[..., None]",
    "x[[1]]",
    "x[:, [0, 2]]",
    "x[x > 0]",
    "x[torch.tensor(1)]",
    "x.mT",
    "x.flatten()",
    "x.transpose(0, 1).reshape(-1)",
    "x.expand(5, 2, 3, 4)",
    "x.diagonal()",
    "x.unfold(2, 2, 1)",
    "x.chunk(2)[0]",
    "x.contiguous()",
    "x.to(torch.float32)",
    "x.detach()",
    "x.clone()",
    "x.repeat(1, 1, 1)",
    "torch.stack(list(x))",
)


def view_or_copy() -> dict[str, str]:
    """Predict for each of the `EXPRESSIONS` whether its result shares memory with `x`.

    `x` is a contiguous float32 tensor of shape (2, 3, 4).

    Returns:
        The expressions, exactly as they are printed above, and for each "view" (the result shares
        memory with `x`, or is `x` itself) or "copy".
    """
    # TODO 1: view or copy
    raise NotImplementedError("day04 T1: view_or_copy")
    # END TODO


def take_per_row(x: Tensor, idx: Tensor) -> Tensor:
    """Row `idx[b, j]` of `x[b]` for every b and j.

    Args:
        x: (batch, n, feat)
        idx: (batch, k), int64, from -n to n - 1; negative ones count from the end. `k` may be 0
            or larger than `n`.

    Returns:
        (batch, k, feat). Gradients flow to `x`; where a row was taken more than once they add up.
    """
    # TODO 2: the rows that each batch entry asks for
    raise NotImplementedError("day04 T2: take_per_row")
    # END TODO


def histogram_add(bins: Tensor, idx: Tensor, w: Tensor) -> Tensor:
    """A new tensor: `bins` plus every weight, added to its bin.

    Args:
        bins: (n,), integer or float; not changed.
        idx: (m,), int64: the bin of each weight. The same bin may come more than once.
        w: (m,), the weights, in the dtype of `bins`.

    Returns:
        (n,), in the dtype of `bins`. Gradients flow to `bins` and `w`.

    Raises:
        IndexError or RuntimeError: an index is n or more.
    """
    # TODO 3: bins and all the weights
    raise NotImplementedError("day04 T3: histogram_add")
    # END TODO


def attention_mask(lengths: Tensor, seq: int, window: int | None = None) -> Tensor:
    """Which keys each query may attend to: causal, no padding, at most `window` steps back.

    Args:
        lengths: (batch,), int64, 0 <= lengths[b] <= seq.
        seq: number of queries, and of keys; at least 1.
        window: at least 1; None means no limit.

    Returns:
        (batch, 1, seq, seq), bool, on the device of `lengths`. Entry [b, 0, i, j] is True where
        query i may attend to key j: j <= i, j < lengths[b], and i - j < window.
    """
    # TODO 4: who may attend to whom
    raise NotImplementedError("day04 T4: attention_mask")
    # END TODO


def top_p_filter(logits: Tensor, p: float) -> Tensor:
    """Keep each row's most probable tokens, as few as reach a probability of `p`.

    Args:
        logits: (batch, vocab); entries may be -inf, though not a whole row.
        p: 0 <= p <= 1.

    Returns:
        (batch, vocab), in the dtype of `logits`: kept logits unchanged and in their places, all
        others -inf. The most probable token is always kept.
    """
    # TODO 5: keep the nucleus
    raise NotImplementedError("day04 T5: top_p_filter")
    # END TODO


def segment_softmax(x: Tensor, seg: Tensor, n: int) -> Tensor:
    """Softmax over all rows of the same segment, per head.

    Args:
        x: (m, heads); m may be 0.
        seg: (m,), int64, from 0 to n - 1, in any order; some segments may have no rows.
        n: number of segments.

    Returns:
        (m, heads), in the dtype of `x`: in each segment, every head's entries sum to 1.
    """
    # TODO 6: softmax within each segment
    raise NotImplementedError("day04 T6: segment_softmax")
    # END TODO
