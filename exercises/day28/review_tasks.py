"""Six functions that you have written before, each with one convention changed.

The first line of each docstring says which; the rest is what was asked for then. Only torch and
Python's own modules can be imported here.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Changed: head h has the channels h, h + heads, h + 2 * heads, …, not a run of neighbours.

    Args:
        x: (batch, seq, dim)
        heads: how many.

    Returns:
        (batch, heads, seq, dim // heads), the channels of a head in their order.

    Raises:
        ValueError: heads does not divide dim.
    """
    # TODO 1: channels to heads
    raise NotImplementedError("day28 T1: review")
    # END TODO


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Changed: the points are the columns, not the rows.

    Args:
        x: (dim, n)
        y: (dim, m)

    Returns:
        (n, m): the squared Euclidean distance of each column of x to each column of y. No loop.
    """
    # TODO 1: all pairs of columns
    raise NotImplementedError("day28 T1: review")
    # END TODO


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Changed: True in the mask means that a place is left out.

    Args:
        x: (batch, seq, dim)
        mask: bool (batch, seq)

    Returns:
        (batch, dim): the mean over the places that are not left out, 0 where none is. What stands
        at places that are left out does not matter, nan neither.
    """
    # TODO 1: sum and count of what is left
    raise NotImplementedError("day28 T1: review")
    # END TODO


def text_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Changed: the mean is taken over each text for itself, not over the whole batch.

    Args:
        logits: (batch, seq, vocab)
        targets: (batch, seq) int64, the right token at each place; -100 does not count.

    Returns:
        (batch,): the mean cross entropy, in nats, of a text's tokens that count; 0 where none does.
    """
    # TODO 1: cross entropy, one mean a text
    raise NotImplementedError("day28 T1: review")
    # END TODO


def collate(texts: list[Tensor], pad: int) -> tuple[Tensor, Tensor]:
    """Changed: padding stands on the left, so that all texts end at the same place.

    Args:
        texts: at least one, (length,) int64 each, of any lengths.
        pad: the id to fill up with; it may occur in a text too.

    Returns:
        ids (batch, longest) int64 and mask (batch, longest) bool, True where a token stands.
    """
    # TODO 1: texts against the right edge
    raise NotImplementedError("day28 T1: review")
    # END TODO


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Changed: the axes are (seq, batch, heads, dim), not (batch, heads, seq, dim).

    Args:
        q: (seq_q, batch, heads, dim)
        k: (seq_k, batch, heads, dim)
        v: (seq_k, batch, heads, dim_v)
        mask: bool, broadcastable to (batch, heads, seq_q, seq_k); True = may attend.

    Returns:
        (seq_q, batch, heads, dim_v): softmax over the keys of q·k / sqrt(dim), times v; 0 for a
        query that may attend to nothing.
    """
    # TODO 1: attention between permuted axes
    raise NotImplementedError("day28 T1: review")
    # END TODO
