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
    ### BEGIN SOLUTION 1: one stride per axis
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))
    ### END SOLUTION


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
    ### BEGIN SOLUTION 2: from channels to heads
    batch, seq, width = x.shape
    if width % heads:
        raise ValueError(f"{width} channels can't be split into {heads} heads")
    return x.view(batch, seq, heads, width // heads).transpose(1, 2)
    ### END SOLUTION


def merge_heads(x: Tensor) -> Tensor:
    """Undo `split_heads`.

    Args:
        x: (batch, heads, seq, dim), of any strides; seq may be 0.

    Returns:
        (batch, seq, heads * dim), a view or a copy.
    """
    ### BEGIN SOLUTION 2: and back
    return torch.flatten(x.transpose(1, 2), start_dim=2)
    ### END SOLUTION


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
    ### BEGIN SOLUTION 3: when no element has to move
    numel = prod(shape)
    if -1 in new_shape:
        known = -prod(new_shape)
        if known == 0 or numel % known:
            return None
        new_shape = tuple(numel // known if size == -1 else size for size in new_shape)
    if prod(new_shape) != numel:
        return None
    if numel == 0:
        return strides_of(new_shape)
    runs: list[tuple[int, int]] = []  # elements at equal distance: how many, how far apart
    for size, step in zip(shape, stride, strict=True):
        if runs and size > 1 and runs[-1][1] == size * step:
            runs[-1] = (runs[-1][0] * size, step)
        elif size > 1:
            runs.append((size, step))
    strides: list[int] = []
    left, step = 1, 1  # what is left of the run that the new axes are cut from
    for size in reversed(new_shape):
        if size > 1 and left == 1:
            left, step = runs.pop()
        if left % size:
            return None
        strides.append(step)
        left, step = left // size, step * size
    return tuple(reversed(strides))
    ### END SOLUTION


def nchw_patches(img: Tensor, p: int) -> Tensor:
    """Cut images into square patches, as a vision transformer does.

    Args:
        img: (batch, chan, height, width); height and width are multiples of `p`.
        p: side of a patch.

    Returns:
        (batch, (height / p) * (width / p), chan * p * p): patches in row-major order over the
        image; inside a patch channel first, then row, then column.
    """
    ### BEGIN SOLUTION 4: from an image to its patches
    batch, chan, height, width = img.shape
    cut = img.reshape(batch, chan, height // p, p, width // p, p)
    return cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    ### END SOLUTION


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
    ### BEGIN SOLUTION 4: and back
    grid = patches.unflatten(2, (-1, p, p)).unflatten(1, (height // p, width // p))
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(len(patches), -1, height, width)
    ### END SOLUTION


def windows(x: Tensor, k: int, step: int = 1) -> Tensor:
    """All windows of length `k`, starting every `step`, as a view.

    Args:
        x: (batch, seq, feat), of any strides.
        k: length of a window, at least 1.
        step: from the start of one window to the start of the next, at least 1.

    Returns:
        (batch, n, k, feat) with n = (seq - k) // step + 1, a view of `x`; n is 0 if k > seq.
    """
    ### BEGIN SOLUTION 5: windows without a copy
    batch, seq, feat = x.shape
    if k > seq:
        return x.new_empty(batch, 0, k, feat)
    return x.unfold(1, k, step).transpose(2, 3)
    ### END SOLUTION


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
    ### BEGIN SOLUTION 6: the whole of it
    left, right = (
        # `b (h w) 1` gives [[b], [h, w], []]
        [[name for name in re.findall(r"\w+", axis) if name != "1"] for axis in axes]
        for axes in (re.findall(r"\(.*?\)|\w+", side) for side in spec.split("->"))
    )
    names, wanted = list(chain(*left)), list(chain(*right))
    for name in (*names, *wanted, *sizes):
        if names.count(name) != 1 or wanted.count(name) != 1:
            raise ValueError(f"{name} should stand once on each side of {spec!r}")
    for group, size in zip(left, x.shape, strict=True):
        known = prod(sizes.get(name, 1) for name in group)
        unknown = [name for name in group if name not in sizes]
        if len(unknown) > 1:
            raise ValueError(f"of {unknown} at most one size can be inferred")
        if size % known or (not unknown and size != known):
            raise ValueError(f"an axis of {size} can't be split into {group} with {sizes}")
        sizes |= dict.fromkeys(unknown, size // known)
    split = x.reshape([sizes[name] for name in names])
    permuted = split.permute([names.index(name) for name in wanted])
    return permuted.reshape([prod(sizes[name] for name in group) for group in right])
    ### END SOLUTION
