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
    ### BEGIN SOLUTION 1: the rule, one axis at a time
    result: list[int] = []
    columns = zip_longest(*(shape[::-1] for shape in shapes), fillvalue=1)
    for axis, sizes in enumerate(columns, start=1):
        stretched_to = set(sizes) - {1} or {1}
        if len(stretched_to) > 1:
            raise ValueError(f"axis -{axis}: sizes {sizes[::-1]} don't broadcast")
        result.append(stretched_to.pop())
    return tuple(result[::-1])
    ### END SOLUTION


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
    ### BEGIN SOLUTION 2: three tables by broadcasting
    column, row = a[:, None], b[None, :]
    return column * row, column > row, (a[None, :] - b[:, None]).abs()
    ### END SOLUTION


def normalise(x: Tensor, dim: int, eps: float = 1e-12) -> Tensor:
    """Divide `x` by its L2 norm along `dim`; where the norm is below `eps`, by `eps`.

    Args:
        x: (*,), any number of axes.
        dim: the axis the norm is taken along; may be negative.
        eps: the smallest divisor: the divisor is max(norm, eps).

    Returns:
        The shape and dtype of `x`. Where the norm is 0 the result is 0 and the gradient finite.
    """
    ### BEGIN SOLUTION 3: divide by the norm, or by eps
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return x / norm.clamp_min(eps)
    ### END SOLUTION


def unbroadcast(grad: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Sum a gradient of broadcast shape back to the shape of the input.

    Args:
        grad: gradient of the result; `shape` broadcasts to its shape.
        shape: shape of the input.

    Returns:
        Exactly `shape`, size-1 axes included. `grad` itself or a view of it if the shapes are
        equal.
    """
    ### BEGIN SOLUTION 4: sum over all places that an element was used in
    added = tuple(range(grad.ndim - len(shape)))
    if added:  # torch sums over *every* axis when given an empty tuple of axes
        grad = grad.sum(added)
    stretched = tuple(i for i, size in enumerate(shape) if grad.shape[i] != size)
    return grad.sum(stretched, keepdim=True) if stretched else grad
    ### END SOLUTION


def pairwise_sqdist(x: Tensor, y: Tensor) -> Tensor:
    """Squared Euclidean distance of every row of `x` to every row of `y`.

    Args:
        x: (batch, n, d)
        y: (batch, m, d)

    Returns:
        (batch, n, m), in the dtype of `x`, never negative. At most eight tensors of that size
        live at once, so (batch, n, m, d) is never built.
    """
    ### BEGIN SOLUTION 5: all distances without the big intermediate
    # Moving all points changes no distance; near the origin less is lost to rounding.
    centre = y.mean(dim=-2, keepdim=True)
    x, y = x - centre, y - centre
    xx, yy = x.square().sum(-1), y.square().sum(-1)
    return (xx[:, :, None] + yy[:, None, :] - 2 * x @ y.mT).clamp_min(0)
    ### END SOLUTION


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
    ### BEGIN SOLUTION 6: mask, mean, variance and maximum of the valid steps
    mask = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
    padding = ~mask[:, :, None]
    count = lengths[:, None].clamp_min(1)
    mean = x.masked_fill(padding, 0).sum(1) / count
    deviation = (x - mean[:, None, :]).masked_fill(padding, 0)
    return {
        "mean": mean,
        "var": deviation.square().sum(1) / count,
        "max": x.masked_fill(padding, -math.inf).amax(1),
        "mask": mask,
    }
    ### END SOLUTION
