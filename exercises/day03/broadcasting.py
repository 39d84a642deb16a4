"""Day 3: what broadcasts, what it costs, and what padding does to a mean."""

import math
from itertools import zip_longest

import torch
from torch import Tensor


def broadcast_shape(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """Shape that tensors of these shapes broadcast to, by the rule and without torch.

    Args:
        shapes: any number of shapes; none gives `()`.

    Returns:
        A tuple of ints.

    Raises:
        ValueError: the shapes don't fit; the message contains the axis that doesn't, counted
            from the right as a negative number (`-1` is the last axis).
    """
    # TODO 1: the rule, one axis at a time
    raise NotImplementedError("day03 T1: broadcast_shape")
    # END TODO


def outer_ops(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Three tables of two vectors: product, comparison and distance.

    Args:
        a: (n,)
        b: (m,)

    Returns:
        product: (n, m), entry [i, j] is a[i] * b[j].
        greater: (n, m), bool, entry [i, j] is a[i] > b[j].
        distance: (m, n), entry [j, i] is |a[i] - b[j]|; here `b` has the rows.
    """
    # TODO 2: three tables by broadcasting
    raise NotImplementedError("day03 T2: outer_ops")
    # END TODO


def normalise(x: Tensor, dim: int, eps: float = 1e-12) -> Tensor:
    """Divide `x` by its L2 norm along `dim`; where the norm is below `eps`, by `eps`.

    Args:
        x: (*,), any number of axes.
        dim: the axis the norm is taken along; may be negative.
        eps: the smallest divisor: the divisor is max(norm, eps).

    Returns:
        The shape and dtype of `x`. Where the norm is 0 the result is 0 and the gradient finite.
    """
    # TODO 3: divide by the norm, or by eps
    raise NotImplementedError("day03 T3: normalise")
    # END TODO


def unbroadcast(grad: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Sum a gradient of broadcast shape back to the shape of the input.

    Args:
        grad: gradient of the result; `shape` broadcasts to its shape.
        shape: shape of the input.

    Returns:
        Exactly `shape`, size-1 axes included. `grad` itself or a view of it if the shapes are
        equal.
    """
    # TODO 4: sum over all places that an element was used in
    raise NotImplementedError("day03 T4: unbroadcast")
    # END TODO


def pairwise_sqdist(x: Tensor, y: Tensor) -> Tensor:
    """Squared Euclidean distance of every row of `x` to every row of `y`.

    Args:
        x: (batch, n, d)
        y: (batch, m, d)

    Returns:
        (batch, n, m), in the dtype of `x`, never negative. At most eight tensors of that size
        live at once, so (batch, n, m, d) is never built.
    """
    # TODO 5: all distances without the big intermediate
    raise NotImplementedError("day03 T5: pairwise_sqdist")
    # END TODO


def masked_stats(x: Tensor, lengths: Tensor) -> dict[str, Tensor]:
    """Mean, variance and maximum over the first `lengths[b]` steps of each row.

    Args:
        x: (batch, seq, feat); steps from `lengths[b]` on are padding, which may be nan or inf.
        lengths: (batch,), any integer dtype, 0 <= lengths[b] <= seq.

    Returns:
        mean, var, max: (batch, feat), in the dtype of `x`. `var` is the population variance
            (divided by the length). A row of length 0 has mean 0, var 0 and max -inf.
        mask: (batch, seq), bool, True at the valid steps.

    The padding reaches no value and no gradient; its own gradient is 0.
    """
    # TODO 6: mask, mean, variance and maximum of the valid steps
    raise NotImplementedError("day03 T6: masked_stats")
    # END TODO
