"""Day 2: strides, views, and the shapes that tensors are turned into."""

import re
from itertools import chain
from math import prod

import torch
from torch import Tensor


def strides_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Row-major strides of a contiguous tensor of this shape, in elements and without torch.

    Args:
        shape: sizes of 0 and 1 among them, or `()`.

    Returns:
        A tuple of ints, the one that `torch.empty(shape).stride()` gives.
    """
    # TODO 1: one stride per axis
    raise NotImplementedError("day02 T1: strides_of")
    # END TODO


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Split the last axis into heads, as a view.

    Args:
        x: (batch, seq, heads * dim), of any strides; seq may be 0.
        heads: how many heads.

    Returns:
        (batch, heads, seq, dim), a view of `x`: head h of token t is
        `x[b, t, h * dim : (h + 1) * dim]`.

    Raises:
        ValueError: the last size is not divisible by `heads`; the message contains "heads".
    """
    # TODO 2: from channels to heads
    raise NotImplementedError("day02 T2: heads")
    # END TODO


def merge_heads(x: Tensor) -> Tensor:
    """Undo `split_heads`.

    Args:
        x: (batch, heads, seq, dim), of any strides; seq may be 0.

    Returns:
        (batch, seq, heads * dim), a view or a copy.
    """
    # TODO 2: and back
    raise NotImplementedError("day02 T2: heads")
    # END TODO


def can_view(
    shape: tuple[int, ...], stride: tuple[int, ...], new_shape: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Strides that `.view(new_shape)` has on a tensor of this shape and stride; without torch.

    Args:
        shape: sizes of 0 and 1 among them, or `()`.
        stride: one for each axis, in elements; 0 where the tensor is expanded.
        new_shape: the shape asked for; at most one size is -1, and is worked out.

    Returns:
        A tuple of ints as long as `new_shape`, or None where `.view` raises. The strides of axes
        of size 1, and all strides of a tensor without elements, may be anything.
    """
    # TODO 3: when no element has to move
    raise NotImplementedError("day02 T3: can_view")
    # END TODO


def nchw_patches(img: Tensor, p: int) -> Tensor:
    """Cut images into square patches, as a vision transformer does.

    Args:
        img: (batch, chan, height, width); height and width are multiples of `p`.
        p: side of a patch.

    Returns:
        (batch, (height / p) * (width / p), chan * p * p): patches in row-major order over the
        image; inside a patch channel first, then row, then column.
    """
    # TODO 4: from an image to its patches
    raise NotImplementedError("day02 T4: patches")
    # END TODO


def unpatch(patches: Tensor, p: int, height: int, width: int) -> Tensor:
    """Undo `nchw_patches`.

    Args:
        patches: (batch, (height / p) * (width / p), chan * p * p)
        p: side of a patch.
        height: of the image, in pixels.
        width: of the image, in pixels.

    Returns:
        (batch, chan, height, width)
    """
    # TODO 4: and back
    raise NotImplementedError("day02 T4: patches")
    # END TODO


def windows(x: Tensor, k: int, step: int = 1) -> Tensor:
    """All windows of length `k`, starting every `step`, as a view.

    Args:
        x: (batch, seq, feat), of any strides.
        k: length of a window, at least 1.
        step: from the start of one window to the start of the next, at least 1.

    Returns:
        (batch, n, k, feat) with n = (seq - k) // step + 1, a view of `x`; n is 0 if k > seq.
    """
    # TODO 5: windows without a copy
    raise NotImplementedError("day02 T5: windows")
    # END TODO


def relayout(x: Tensor, spec: str, **sizes: int) -> Tensor:
    """Split, permute and merge axes as a text says: `relayout(x, "b (h w) c -> b c h w", h=5)`.

    Args:
        x: any number of axes.
        spec: the axes of `x`, `->`, the axes of the result. Names of letters and digits, separated
            by spaces; parentheses group axes, the first name in a group is the slowest. A `1`
            by itself is an axis of size 1: dropped on the left, inserted on the right.
        sizes: of axes on the left. At most one size in each group is not given, and is inferred.

    Returns:
        A view of `x` whenever its strides allow one.

    Raises:
        ValueError: a name stands twice on one side or on one side only, a keyword is no axis, two
            sizes in a group are unknown, sizes don't fit the axis; the message contains the
            name of an axis that is at fault (any name of the group).
    """
    # TODO 6: the whole of it
    raise NotImplementedError("day02 T6: relayout")
    # END TODO
