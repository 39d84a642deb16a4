"""Answers to day 2 that its suite must accept or reject."""

import itertools

import numpy as np
import torch
from shapes import *
from torch import nn
from torch.nn import functional as F

from grader.answers import accepted, rejected

# --- strides_of


@accepted("strides_of")
def product_behind_each_axis(shape):
    return tuple(prod(max(size, 1) for size in shape[i + 1 :]) for i in range(len(shape)))


@accepted("strides_of")
def recursive(shape):
    if not shape:
        return ()
    inner = recursive_strides(shape[1:])
    return (inner[0] * max(shape[1], 1) if inner else 1, *inner)


def recursive_strides(shape):
    if not shape:
        return ()
    inner = recursive_strides(shape[1:])
    return (inner[0] * max(shape[1], 1) if inner else 1, *inner)


@accepted("strides_of")
def accumulated(shape):
    sizes = (max(size, 1) for size in shape[:0:-1])
    return tuple(itertools.accumulate(sizes, lambda a, b: a * b, initial=1))[::-1][
        -len(shape) :
    ] * bool(shape)


@accepted("strides_of")
def filled_by_index(shape):
    strides = [1] * len(shape)
    for i in range(len(shape) - 2, -1, -1):
        strides[i] = strides[i + 1] * (shape[i + 1] or 1)
    return tuple(strides)


@rejected(
    "strides_of",
    by=("test_row_major", "test_size_one", "test_random_shapes"),
    says="column-major",
)
def first_axis_fastest(shape):
    return tuple(prod(max(size, 1) for size in shape[:i]) for i in range(len(shape)))


@rejected(
    "strides_of",
    by=("test_row_major", "test_size_one", "test_size_zero", "test_random_shapes"),
    says="bytes",
)
def in_bytes(shape):
    return tuple(4 * prod(max(size, 1) for size in shape[i + 1 :]) for i in range(len(shape)))


@rejected("strides_of", by=("test_size_zero", "test_random_shapes"), says="size 0")
def zero_counts_as_zero(shape):
    return tuple(prod(shape[i + 1 :]) for i in range(len(shape)))


@rejected("strides_of", by="test_size_zero")
def empty_tensors_have_no_strides(shape):
    if 0 in shape:
        return (0,) * len(shape)
    return tuple(prod(shape[i + 1 :]) for i in range(len(shape)))


@rejected("strides_of", by=("test_row_major", "test_size_zero"), says="its own axis")
def counts_its_own_axis(shape):
    return tuple(prod(max(size, 1) for size in shape[i:]) for i in range(len(shape)))


@rejected("strides_of", by="test_row_major", says="last axis to the first")
def forgets_to_reverse(shape):
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(strides)


@rejected("strides_of", by=("test_size_one", "test_random_shapes"))
def size_one_has_stride_zero(shape):
    strides = [prod(max(size, 1) for size in shape[i + 1 :]) for i in range(len(shape))]
    return tuple(0 if n == 1 else s for n, s in zip(shape, strides))


@rejected("strides_of", by="test_no_axes")
def fails_without_axes(shape):
    strides = [1]
    for size in shape[:0:-1]:
        strides.insert(0, strides[0] * max(size, 1))
    return tuple(strides)


@rejected("strides_of", by=("test_row_major", "test_no_axes"), says="list")
def as_a_list(shape):
    return [prod(max(size, 1) for size in shape[i + 1 :]) for i in range(len(shape))]


@rejected("strides_of", by="test_plain_python", says="torch")
def asks_torch(shape):
    return torch.empty(shape).stride()


@rejected("strides_of", by="test_plain_python", says="torch")
def asks_a_meta_tensor(shape):
    return torch.empty(shape, device="meta").stride()


@rejected("strides_of", by="test_plain_python", says="NumPy")
def asks_numpy(shape):
    return tuple(np.empty([max(size, 1) for size in shape], dtype="int8").strides)


@rejected("strides_of", by="test_plain_python", says="NumPy")
def with_a_product_of_numpy(shape):
    return tuple(int(np.prod([max(n, 1) for n in shape[i + 1 :]])) for i in range(len(shape)))


# --- heads


@accepted("heads")
def split_heads(x, heads):
    if x.shape[-1] % heads != 0:
        raise ValueError("the number of Heads must divide the width")
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


@accepted("heads")
def split_heads(x, heads):
    batch, seq, width = x.shape
    if width % heads:
        raise ValueError(f"{heads=} does not divide {width}")
    return x.reshape(batch, seq, heads, width // heads).permute(0, 2, 1, 3)


@accepted("heads")
def split_heads(x, heads):
    """A window for each head."""
    if x.size(2) % heads:
        raise ValueError("heads")
    dim = x.size(2) // heads
    return x.unfold(2, dim, dim).movedim(2, 1)


@accepted("heads")
def split_heads(x, heads):
    """By strides, those of x."""
    batch, seq, width = x.shape
    if width % heads:
        raise ValueError("heads")
    (rows, steps, channels), dim = x.stride(), width // heads
    return x.as_strided((batch, heads, seq, dim), (rows, dim * channels, steps, channels))


@accepted("heads")
def split_heads(x, heads):
    """Heads to the front of the channels by an einsum of one operand."""
    if x.shape[-1] % heads:
        raise ValueError("heads")
    return torch.einsum("bthd->bhtd", x.unflatten(-1, (heads, x.shape[-1] // heads)))


@accepted("heads")
def merge_heads(x):
    batch, heads, seq, dim = x.shape
    return x.transpose(1, 2).contiguous().view(batch, seq, heads * dim)


@accepted("heads")
def merge_heads(x):
    batch, heads, seq, dim = x.shape
    return x.permute(0, 2, 1, 3).reshape(batch, seq, heads * dim)


@accepted("heads")
def merge_heads(x):
    return torch.cat(x.unbind(1), dim=-1)


@accepted("heads")
def merge_heads(x):
    return torch.cat([head.squeeze(1) for head in x.split(1, dim=1)], dim=2)


@accepted("heads")
def merge_heads(x):
    return torch.einsum("bhtd->bthd", x).flatten(-2, -1)


@accepted("heads")
def merge_heads(x):
    batch, heads, seq, dim = x.shape
    result = x.new_zeros(batch, seq, heads * dim)
    for head in range(heads):
        result[:, :, head * dim : (head + 1) * dim] = x[:, head]
    return result


@rejected(
    "heads",
    by=("test_split", "test_split_strides", "test_round_trip", "test_ones"),
    says="mixed tokens",
)
def split_heads(x, heads):
    batch, seq, width = x.shape
    if width % heads:
        raise ValueError("heads")
    return x.reshape(batch, heads, seq, width // heads)


@rejected("heads", by=("test_split", "test_split_strides", "test_round_trip"), says="heads-th")
def split_heads(x, heads):
    batch, seq, width = x.shape
    if width % heads:
        raise ValueError("heads")
    return x.reshape(batch, seq, width // heads, heads).permute(0, 3, 1, 2)


@rejected("heads", by=("test_split_is_a_view", "test_split_strides"), says="copy")
def split_heads(x, heads):
    if x.shape[-1] % heads:
        raise ValueError("heads")
    return x.unflatten(-1, (heads, -1)).transpose(1, 2).contiguous()


@rejected("heads", by="test_split_is_a_view", says="copy")
def split_heads(x, heads):
    """A view only if x is contiguous."""
    if x.shape[-1] % heads:
        raise ValueError("heads")
    return x.contiguous().unflatten(-1, (heads, -1)).transpose(1, 2)


@rejected("heads", by=("test_split_is_a_view", "test_split_strides"), says="copy")
def split_heads(x, heads):
    if x.shape[-1] % heads:
        raise ValueError("heads")
    return torch.stack(x.chunk(heads, dim=-1), dim=1)


@rejected("heads", by=("test_split", "test_ones"), says="swapped")
def split_heads(x, heads):
    """Without the transpose."""
    if x.shape[-1] % heads:
        raise ValueError("heads")
    return x.unflatten(-1, (heads, -1))


@rejected("heads", by="test_ones")
def split_heads(x, heads):
    if x.shape[-1] % heads:
        raise ValueError("heads")
    return x.unflatten(-1, (heads, -1)).transpose(1, 2).squeeze()


@rejected("heads", by="test_other_strides")
def split_heads(x, heads):
    """By the strides of a contiguous x."""
    batch, seq, width = x.shape
    if width % heads:
        raise ValueError("heads")
    dim = width // heads
    return x.as_strided((batch, heads, seq, dim), (seq * width, dim, width, 1))


@rejected("heads", by="test_no_tokens")
def split_heads(x, heads):
    """-1 can't be worked out where there is no element."""
    batch, seq, width = x.shape
    if width % heads:
        raise ValueError("heads")
    return x.view(batch, seq, heads, -1).transpose(1, 2)


@rejected("heads", by="test_not_divisible", says="ValueError")
def split_heads(x, heads):
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


@rejected("heads", by="test_not_divisible", says="ValueError")
def split_heads(x, heads):
    """Leaves the channels away that remain."""
    batch, seq, width = x.shape
    dim = width // heads
    return x[..., : heads * dim].view(batch, seq, heads, dim).transpose(1, 2)


@rejected("heads", by="test_not_divisible", says="AssertionError")
def split_heads(x, heads):
    assert x.shape[-1] % heads == 0, "heads"
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


@rejected("heads", by="test_gradient")
def split_heads(x, heads):
    if x.shape[-1] % heads:
        raise ValueError("heads")
    return x.detach().unflatten(-1, (heads, -1)).transpose(1, 2)


@rejected("heads", by=("test_merge", "test_round_trip", "test_other_strides"), says="cut anew")
def merge_heads(x):
    batch, heads, seq, dim = x.shape
    return x.reshape(batch, seq, heads * dim)


@rejected("heads", by=("test_merge", "test_ones"))
def merge_heads(x):
    """The view fails where the memory is in another order."""
    batch, heads, seq, dim = x.shape
    return x.transpose(1, 2).view(batch, seq, heads * dim)


@rejected("heads", by=("test_merge", "test_round_trip"), says="interleaved")
def merge_heads(x):
    return x.permute(0, 2, 3, 1).flatten(2)


@rejected("heads", by="test_ones")
def merge_heads(x):
    return x.transpose(1, 2).flatten(2).squeeze()


@rejected("heads", by=("test_no_tokens"))
def merge_heads(x):
    batch, heads, seq, dim = x.shape
    return x.transpose(1, 2).reshape(batch, seq, -1)


@rejected("heads", by="test_other_strides")
def merge_heads(x):
    """Right for what `split_heads` returns and for contiguous tensors, by their strides."""
    batch, heads, seq, dim = x.shape
    if x.is_contiguous():
        return x.transpose(1, 2).flatten(2)
    return x.as_strided((batch, seq, heads * dim), (seq * heads * dim, heads * dim, 1))


@rejected("heads", by=("test_leaves_x_alone",))
def merge_heads(x):
    return x.transpose_(1, 2).flatten(2)


# --- can_view


def resolved(numel, new_shape):
    """The new shape with -1 worked out; None if it has another number of elements."""
    known = prod(size for size in new_shape if size != -1)
    if -1 in new_shape:
        if not known or numel % known:
            return None
        new_shape = tuple(numel // known if size == -1 else size for size in new_shape)
    return tuple(new_shape) if prod(new_shape) == numel else None


@accepted("can_view")
def by_every_offset(shape, stride, new_shape):
    """Writes down where every element lies and looks whether one stride per axis gets there."""
    new_shape = resolved(prod(shape), new_shape)
    if new_shape is None:
        return None
    if 0 in shape:
        return (1,) * len(new_shape)
    ranges = itertools.product(*map(range, shape))
    offsets = [sum(i * step for i, step in zip(index, stride)) for index in ranges]
    strides = []
    for axis, size in enumerate(new_shape):
        behind = prod(new_shape[axis + 1 :])
        strides.append(offsets[behind] - offsets[0] if size > 1 else 0)
    ranges = itertools.product(*map(range, new_shape))
    walk = [sum(i * step for i, step in zip(index, strides)) for index in ranges]
    return tuple(strides) if walk == offsets else None


@accepted("can_view")
def both_from_the_left(shape, stride, new_shape):
    """Takes old and new axes together until their products meet."""
    new_shape = resolved(prod(shape), new_shape)
    if new_shape is None:
        return None
    if prod(new_shape) == 0:
        return strides_of(new_shape)
    old = [(size, step) for size, step in zip(shape, stride) if size != 1]
    result, i, j = [], 0, 0
    while i < len(old):
        first_i, first_j = i, j
        have, want = old[i][0], new_shape[j]
        while have != want:
            if have < want:
                i += 1
                have *= old[i][0]
            else:
                j += 1
                want *= new_shape[j]
        for (_, outer), (size, inner) in itertools.pairwise(old[first_i : i + 1]):
            if outer != size * inner:
                return None
        step, part = old[i][1], []
        for size in reversed(new_shape[first_j : j + 1]):
            part.append(step)
            step *= size
        result += reversed(part)
        i, j = i + 1, j + 1
    return tuple(result) + (1,) * (len(new_shape) - len(result))


@accepted("can_view")
def down_from_the_right(shape, stride, new_shape):
    """As torch does it: a chunk of old axes, then the new axes that fill it."""
    numel = prod(shape)
    new_shape = resolved(numel, new_shape)
    if new_shape is None:
        return None
    if numel == 0:
        return (0,) * len(new_shape)
    result = [1] * len(new_shape)
    view = len(new_shape) - 1
    base, tensor_numel, view_numel = (stride[-1] if stride else 1), 1, 1
    for axis in reversed(range(len(shape))):
        tensor_numel *= shape[axis]
        is_last = axis == 0 or (shape[axis - 1] != 1 and stride[axis - 1] != tensor_numel * base)
        if not is_last:
            continue
        while view >= 0 and (view_numel < tensor_numel or new_shape[view] == 1):
            result[view] = view_numel * base
            view_numel *= new_shape[view]
            view -= 1
        if view_numel != tensor_numel:
            return None
        if axis > 0:
            base, tensor_numel, view_numel = stride[axis - 1], 1, 1
    return tuple(result)


@accepted("can_view")
def by_recursion(shape, stride, new_shape):
    new_shape = resolved(prod(shape), new_shape)
    if new_shape is None or 0 in new_shape:
        return new_shape and (0,) * len(new_shape)

    def cut(old, new):
        if not new:
            return ()
        *rest, size = new
        if size == 1:
            return None if (front := cut(old, rest)) is None else (*front, 0)
        *front_axes, (length, step) = old
        if length % size == 0:
            left = [*front_axes, (length // size, step * size)] if length > size else front_axes
            return None if (front := cut(left, rest)) is None else (*front, step)
        if front_axes and front_axes[-1][1] == length * step:
            return cut([*front_axes[:-1], (front_axes[-1][0] * length, step)], new)
        return None

    axes = []
    for size, step in zip(shape, stride):
        if size == 1:
            continue
        if axes and axes[-1][1] == size * step:
            size *= axes.pop()[0]
        axes.append((size, step))
    return cut(axes, list(new_shape))


@rejected(
    "can_view",
    by=("test_permuted", "test_sliced", "test_expanded", "test_random"),
    says="not contiguous is not the question",
)
def only_if_contiguous(shape, stride, new_shape):
    new_shape = resolved(prod(shape), new_shape)
    if new_shape is None:
        return None
    is_contiguous = 0 in shape or all(
        size == 1 or mine == right for size, mine, right in zip(shape, stride, strides_of(shape))
    )
    return strides_of(new_shape) if is_contiguous else None


@rejected("can_view", by="test_size_one", says="axis of size 1")
def size_one_has_to_fit(reference: str) -> str:
    return (
        reference.replace("elif size > 1:\n", "else:\n")
        .replace("if runs and size > 1 and", "if runs and")
        .replace("if size > 1 and left == 1:", "while size > 1 and left == 1:")
    )


@rejected("can_view", by="test_expanded", says="stride 0")
def leaves_expanded_axes_out(reference: str) -> str:
    return reference.replace("elif size > 1:", "elif size > 1 and step:").replace(
        "runs.pop()", "runs.pop() if runs else (numel, 0)"
    )


@rejected("can_view", by="test_expanded")
def never_merges_stride_zero(reference: str) -> str:
    return reference.replace("if runs and size > 1 and", "if runs and size > 1 and step and")


@rejected("can_view", by="test_expanded", says="stride 0")
def lets_expanded_axes_merge_with_all(reference: str) -> str:
    return reference.replace("runs[-1][1] == size * step", "runs[-1][1] in (0, size * step)")


@rejected("can_view", by="test_no_elements", says="without elements")
def ignores_size_zero(reference: str) -> str:
    return reference.replace("if numel == 0:", "if numel < 0:").replace(
        "if left % size:", "if size == 0 or left % size:"
    )


@rejected("can_view", by="test_no_elements")
def strides_have_to_fit_without_elements(shape, stride, new_shape):
    if 0 in shape:
        return strides_of(new_shape) if tuple(stride) == strides_of(shape) else None
    return by_offsets(shape, stride, new_shape)


def by_offsets(shape, stride, new_shape):
    new_shape = resolved(prod(shape), new_shape)
    if new_shape is None:
        return None
    ranges = itertools.product(*map(range, shape))
    offsets = [sum(i * step for i, step in zip(index, stride)) for index in ranges]
    strides = []
    for axis, size in enumerate(new_shape):
        behind = prod(new_shape[axis + 1 :])
        strides.append(offsets[behind] - offsets[0] if size > 1 else 0)
    ranges = itertools.product(*map(range, new_shape))
    walk = [sum(i * step for i, step in zip(index, strides)) for index in ranges]
    return tuple(strides) if walk == offsets else None


@rejected("can_view", by=("test_permuted", "test_sliced", "test_random"))
def always_the_contiguous_strides(shape, stride, new_shape):
    new_shape = resolved(prod(shape), new_shape)
    return None if new_shape is None else strides_of(new_shape)


@rejected("can_view", by=("test_permuted", "test_sliced"), says="not contiguous is not")
def merges_but_never_splits_across(shape, stride, new_shape):
    """Only the same shape again, or one run."""
    new_shape = resolved(prod(shape), new_shape)
    if new_shape is None or new_shape == tuple(shape):
        return new_shape and tuple(stride)
    if 0 in new_shape:
        return strides_of(new_shape)
    axes = [(size, step) for size, step in zip(shape, stride) if size > 1]
    if any(a[1] != b[0] * b[1] for a, b in itertools.pairwise(axes)):
        return None
    last = axes[-1][1] if axes else 1
    return tuple(last * step for step in strides_of(new_shape))


@rejected("can_view", by=("test_sliced", "test_random"))
def last_run_is_dense(reference: str) -> str:
    return reference.replace("left, step = runs.pop()", "left, step = runs.pop()[0], step")


@rejected("can_view", by="test_minus_one")
def minus_one_is_not_worked_out(reference: str) -> str:
    return reference.replace("if -1 in new_shape:", "if -1 in new_shape and numel == 0:")


@rejected("can_view", by="test_minus_one", says="-1")
def minus_one_without_a_remainder(shape, stride, new_shape):
    if -1 in new_shape and tuple(stride) == strides_of(shape):
        known = -prod(new_shape)
        return strides_of(tuple(prod(shape) // known if n == -1 else n for n in new_shape))
    return by_offsets(shape, stride, new_shape) if 0 not in shape else strides_of(new_shape)


@rejected("can_view", by="test_number_of_elements", says="number of elements")
def any_number_of_elements(shape, stride, new_shape):
    if prod(shape) != prod(new_shape) and -1 not in new_shape:
        return strides_of(new_shape)
    return by_offsets(shape, stride, new_shape) if 0 not in shape else strides_of(new_shape)


@rejected("can_view", by="test_number_of_elements")
def raises_as_view_does(reference: str) -> str:
    return reference.replace(
        "if prod(new_shape) != numel:\n        return None",
        "if prod(new_shape) != numel:\n        raise RuntimeError(new_shape)",
    )


@rejected("can_view", by=("test_contiguous", "test_permuted"), says="tuple")
def says_yes_or_no(reference: str) -> str:
    return reference.replace(
        "left, step = left // size, step * size\n    return tuple(reversed(strides))",
        "left, step = left // size, step * size\n    return True",
    )


@rejected("can_view", by=("test_contiguous", "test_permuted"))
def strides_from_the_right(reference: str) -> str:
    return reference.replace(
        "left, step = left // size, step * size\n    return tuple(reversed(strides))",
        "left, step = left // size, step * size\n    return tuple(strides)",
    )


@rejected("can_view", by="test_plain_python", says="torch")
def asks_torch(shape, stride, new_shape):
    try:
        return torch.empty_strided(shape, stride).view(new_shape).stride()
    except RuntimeError:
        return None


@rejected("can_view", by="test_plain_python", says="torch")
def asks_a_tensor_of_no_memory(shape, stride, new_shape):
    try:
        return torch.empty_strided(shape, stride, device="meta").view(new_shape).stride()
    except RuntimeError:
        return None


@rejected("can_view", by="test_plain_python", says="NumPy")
def asks_numpy(shape, stride, new_shape):
    new_shape = resolved(prod(shape), new_shape)
    if new_shape is None or 0 in new_shape:
        return new_shape and strides_of(new_shape)
    memory = np.zeros(1 + sum((n - 1) * s for n, s in zip(shape, stride)), dtype="int8")
    walk = np.lib.stride_tricks.as_strided(memory, shape, stride)
    try:
        walk.shape = new_shape
    except AttributeError:
        return None
    return walk.strides


# --- patches


@accepted("patches")
def nchw_patches(img, p):
    """Two windows, one over the rows and one over the columns."""
    cut = img.unfold(2, p, p).unfold(3, p, p)
    return cut.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


@accepted("patches")
def nchw_patches(img, p):
    return F.pixel_unshuffle(img, p).flatten(2).transpose(1, 2)


@accepted("patches")
def nchw_patches(img, p):
    batch, chan, height, width = img.shape
    cut = img.contiguous().view(batch, chan, height // p, p, width // p, p)
    cut = torch.einsum("bchpwq->bhwcpq", cut)
    return cut.reshape(batch, (height // p) * (width // p), chan * p * p)


@accepted("patches")
def nchw_patches(img, p):
    """A convolution whose filters each pick one pixel of the patch."""
    chan = img.shape[1]
    pick = torch.eye(chan * p * p, dtype=img.dtype, device=img.device).view(-1, chan, p, p)
    return F.conv2d(img, pick, stride=p).flatten(2).mT


@accepted("patches")
def nchw_patches(img, p):
    """By index."""
    batch, chan, height, width = img.shape
    index = torch.arange(chan * height * width, device=img.device).view(chan, height, width)
    index = index.unflatten(2, (-1, p)).unflatten(1, (-1, p)).permute(1, 3, 0, 2, 4)
    return img.flatten(1)[:, index.flatten()].view(batch, -1, chan * p * p)


@accepted("patches")
def unpatch(patches, p, height, width):
    return F.pixel_shuffle(patches.mT.unflatten(2, (height // p, width // p)), p)


@accepted("patches")
def unpatch(patches, p, height, width):
    batch, _, values = patches.shape
    chan = values // (p * p)
    grid = patches.reshape(batch, height // p, width // p, chan, p, p)
    return torch.einsum("bhwcpq->bchpwq", grid).reshape(batch, chan, height, width)


@accepted("patches")
def unpatch(patches, p, height, width):
    """One swap of axes at a time."""
    batch = patches.size(0)
    grid = patches.reshape(batch, height // p, width // p, -1, p, p)
    grid = grid.movedim(3, 1).transpose(3, 4)
    return grid.flatten(4, 5).flatten(2, 3)


@accepted("patches")
def unpatch(patches, p, height, width):
    """The places of the pixels, then a write to them."""
    batch, n, values = patches.shape
    chan = values // (p * p)
    places = torch.arange(chan * height * width, device=patches.device)
    places = nchw_patches(places.view(1, chan, height, width), p).flatten()
    result = patches.new_zeros(batch, n * values)
    return result.index_copy(1, places, patches.flatten(1)).view(batch, chan, height, width)


@rejected("patches", by=("test_patches", "test_rectangular", "test_round_trip"), says="cut anew")
def nchw_patches(img, p):
    batch, chan, height, width = img.shape
    cut = img.reshape(batch, height // p, width // p, chan, p, p)
    return cut.flatten(3).flatten(1, 2)


@rejected("patches", by=("test_patches", "test_rectangular"), says="columns of the image")
def nchw_patches(img, p):
    cut = img.unfold(2, p, p).unfold(3, p, p)
    return cut.permute(0, 3, 2, 1, 4, 5).flatten(3).flatten(1, 2)


@rejected("patches", by=("test_patches", "test_rectangular"), says="channel comes last")
def nchw_patches(img, p):
    cut = img.unfold(2, p, p).unfold(3, p, p)
    return cut.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)


@rejected("patches", by=("test_patches", "test_rectangular"), says="column comes before the row")
def nchw_patches(img, p):
    cut = img.unfold(2, p, p).unfold(3, p, p)
    return cut.permute(0, 2, 3, 1, 5, 4).flatten(3).flatten(1, 2)


@rejected("patches", by="test_patches", says="swapped")
def nchw_patches(img, p):
    """Splits (p, height / p) where (height / p, p) is meant."""
    batch, chan, height, width = img.shape
    cut = img.reshape(batch, chan, p, height // p, p, width // p)
    return cut.permute(0, 3, 5, 1, 2, 4).flatten(3).flatten(1, 2)


@rejected("patches", by="test_rectangular")
def nchw_patches(img, p):
    """For square images."""
    batch, chan, height, _ = img.shape
    side = height // p
    cut = img.reshape(batch, chan, side, p, side, p)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(batch, side * side, chan * p * p)


@rejected("patches", by="test_patches")
def nchw_patches(img, p):
    """Leaves the grid unflattened."""
    cut = img.unfold(2, p, p).unfold(3, p, p)
    return cut.permute(0, 2, 3, 1, 4, 5).flatten(3)


@rejected("patches", by="test_ones")
def nchw_patches(img, p):
    cut = img.unfold(2, p, p).unfold(3, p, p).permute(0, 2, 3, 1, 4, 5)
    return cut.flatten(3).flatten(1, 2).squeeze(0)


@rejected("patches", by="test_other_strides")
def nchw_patches(img, p):
    """The view fails where the strides don't allow one."""
    batch, chan, height, width = img.shape
    rows = img.view(batch, chan, height * width).view(batch, chan, height // p, p, width // p, p)
    return rows.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


@rejected("patches", by="test_other_strides")
def nchw_patches(img, p):
    """By the strides of a contiguous image."""
    batch, chan, height, width = img.shape
    size = (batch, height // p, width // p, chan, p, p)
    whole, plane = chan * height * width, height * width
    cut = img.as_strided(size, (whole, p * width, p, plane, width, 1))
    return cut.flatten(3).flatten(1, 2)


@rejected("patches", by="test_no_loop", says="loop")
def nchw_patches(img, p):
    rows = [band.unfold(3, p, p) for band in img.split(p, dim=2)]
    return torch.cat([row.permute(0, 3, 1, 2, 4).flatten(2) for row in rows], dim=1)


@rejected("patches", by="test_no_loop", says="loop")
def nchw_patches(img, p):
    """Over the images."""
    cut = [one.unfold(1, p, p).unfold(2, p, p).permute(1, 2, 0, 3, 4) for one in img]
    return torch.stack([one.flatten(2).flatten(0, 1) for one in cut])


@rejected("patches", by="test_no_loop", says="loop")
def nchw_patches(img, p):
    """Over the pixels of a patch."""
    batch, chan, height, width = img.shape
    result = img.new_zeros(batch, (height // p) * (width // p), chan, p, p)
    for row in range(p):
        for column in range(p):
            result[..., row, column] = img[:, :, row::p, column::p].flatten(2).mT
    return result.flatten(2)


@rejected("patches", by="test_forbidden", says="F.unfold")
def nchw_patches(img, p):
    return F.unfold(img, p, stride=p).mT


@rejected("patches", by="test_forbidden", says="nn.Unfold")
def nchw_patches(img, p):
    return nn.Unfold(p, stride=(p, p))(img).transpose(-1, -2)


@rejected("patches", by="test_gradient")
def nchw_patches(img, p):
    cut = img.detach().unfold(2, p, p).unfold(3, p, p)
    return cut.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


@rejected("patches", by=("test_unpatch", "test_rectangular", "test_round_trip"), says="cut anew")
def unpatch(patches, p, height, width):
    return patches.reshape(len(patches), -1, height, width)


@rejected("patches", by=("test_unpatch", "test_round_trip"), says="columns of the image")
def unpatch(patches, p, height, width):
    grid = patches.unflatten(2, (-1, p, p)).unflatten(1, (width // p, height // p))
    return grid.permute(0, 3, 2, 4, 1, 5).reshape(len(patches), -1, height, width)


@rejected("patches", by=("test_unpatch", "test_round_trip"), says="channel last")
def unpatch(patches, p, height, width):
    grid = patches.unflatten(2, (p, p, -1)).unflatten(1, (height // p, width // p))
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), -1, height, width)


@rejected("patches", by=("test_unpatch", "test_round_trip"), says="inside a patch")
def unpatch(patches, p, height, width):
    grid = patches.unflatten(2, (-1, p, p)).unflatten(1, (height // p, width // p))
    return grid.permute(0, 3, 1, 5, 2, 4).reshape(len(patches), -1, height, width)


@rejected("patches", by=("test_rectangular", "test_round_trip"))
def unpatch(patches, p, height, width):
    """For square grids, whatever height and width say."""
    side = int(patches.shape[1] ** 0.5)
    grid = patches.unflatten(2, (-1, p, p)).unflatten(1, (side, side))
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(len(patches), -1, side * p, side * p)


@rejected("patches", by=("test_rectangular", "test_round_trip"))
def unpatch(patches, p, height, width):
    """Height and width swapped."""
    grid = patches.unflatten(2, (-1, p, p)).unflatten(1, (width // p, height // p))
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(len(patches), -1, height, width)


@rejected("patches", by="test_unpatch")
def unpatch(patches, p, height, width):
    """For three channels only."""
    grid = patches.reshape(len(patches), height // p, width // p, 3, p, p)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(len(patches), 3, height, width)


@rejected("patches", by="test_ones")
def unpatch(patches, p, height, width):
    grid = patches.unflatten(2, (-1, p, p)).unflatten(1, (height // p, width // p))
    grid = grid.permute(0, 3, 1, 4, 2, 5)
    return grid.reshape(len(patches), -1, height, width).squeeze()


@rejected("patches", by="test_other_strides")
def unpatch(patches, p, height, width):
    """The view fails where the strides don't allow one."""
    grid = patches.view(len(patches), -1).view(len(patches), height // p, width // p, -1, p, p)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(len(patches), -1, height, width)


@rejected("patches", by="test_no_loop", says="loop")
def unpatch(patches, p, height, width):
    """Patch by patch."""
    result = patches.new_zeros(len(patches), patches.shape[2] // (p * p), height, width)
    for number, patch in enumerate(patches.unbind(1)):
        row, column = divmod(number, width // p)
        place = (..., slice(row * p, row * p + p), slice(column * p, column * p + p))
        result[place] = patch.unflatten(1, (-1, p, p))
    return result


@rejected("patches", by="test_forbidden", says="F.fold")
def unpatch(patches, p, height, width):
    return F.fold(patches.mT, (height, width), p, stride=p)


@rejected("patches", by="test_forbidden", says="nn.Fold")
def unpatch(patches, p, height, width):
    return nn.Fold((height, width), p, stride=p)(patches.mT)


@rejected("patches", by="test_gradient")
def unpatch(patches, p, height, width):
    return F.pixel_shuffle(patches.data.mT.unflatten(2, (height // p, width // p)), p)


@rejected("patches", by="test_leaves_its_argument_alone")
def unpatch(patches, p, height, width):
    patches.transpose_(1, 2)
    return F.pixel_shuffle(patches.unflatten(2, (height // p, width // p)), p)


# --- windows


@accepted("windows")
def by_strides(x, k, step=1):
    batch, seq, feat = x.shape
    n = (seq - k) // step + 1 if k <= seq else 0
    rows, steps, feats = x.stride()
    return x.as_strided((batch, n, k, feat), (rows, steps * step, steps, feats))


@accepted("windows")
def by_strides_of_the_function(x, k, step=1):
    batch, seq, feat = x.shape
    n = max((seq - k) // step + 1, 0)
    size = (batch, n, k, feat)
    stride = (x.stride(0), x.stride(1) * step, x.stride(1), x.stride(2))
    return torch.as_strided(x, size, stride, x.storage_offset())


@accepted("windows")
def unfolds_and_permutes(x, k, step=1):
    if x.size(1) < k:
        return torch.zeros(x.size(0), 0, k, x.size(2), dtype=x.dtype, device=x.device)
    return x.unfold(dimension=1, size=k, step=step).permute(0, 1, 3, 2)


@accepted("windows")
def every_start_then_every_step(x, k, step=1):
    if k > x.shape[1]:
        return x[:, :0, None].expand(-1, -1, k, -1)
    return x.unfold(1, k, 1)[:, ::step].movedim(-1, 2)


@accepted("windows")
def empty_slice_where_none_fits(x, k, step=1):
    if k > x.shape[1]:
        return x[:, None, :0].new_zeros((len(x), 0, k, x.shape[-1]))
    return x.mT.unfold(-1, k, step).permute(0, 2, 3, 1)


@rejected("windows", by=("test_forbidden", "test_view", "test_write_through"), says="stack")
def a_stack_of_slices(x, k, step=1):
    starts = range(0, x.shape[1] - k + 1, step)
    if not starts:
        return x.new_empty(len(x), 0, k, x.shape[2])
    return torch.stack([x[:, start : start + k] for start in starts], dim=1)


@rejected("windows", by=("test_view", "test_write_through"), says="copy")
def by_index(x, k, step=1):
    n = max((x.shape[1] - k) // step + 1, 0)
    starts = torch.arange(n, device=x.device) * step
    return x[:, starts[:, None] + torch.arange(k, device=x.device)]


@rejected("windows", by="test_strides", says="strides")
def a_contiguous_copy(x, k, step=1):
    if k > x.shape[1]:
        return x.new_empty(len(x), 0, k, x.shape[2])
    return x.unfold(1, k, step).transpose(2, 3).contiguous()


@rejected("windows", by=("test_view", "test_write_through"), says="copy")
def copies_only_in_the_end(x, k, step=1):
    if k > x.shape[1]:
        return x.new_empty(len(x), 0, k, x.shape[2])
    return x.clone().unfold(1, k, step).transpose(2, 3)


@rejected("windows", by=("test_view"), says="copy")
def a_view_of_contiguous_tensors_only(x, k, step=1):
    if k > x.shape[1]:
        return x.new_empty(len(x), 0, k, x.shape[2])
    return x.contiguous().unfold(1, k, step).transpose(2, 3)


@rejected("windows", by="test_other_strides")
def strides_of_a_contiguous_x(x, k, step=1):
    batch, seq, feat = x.shape
    n = (seq - k) // step + 1 if k <= seq else 0
    return x.as_strided((batch, n, k, feat), (seq * feat, step * feat, feat, 1))


@rejected("windows", by="test_other_strides")
def from_the_start_of_the_storage(x, k, step=1):
    batch, seq, feat = x.shape
    n = (seq - k) // step + 1 if k <= seq else 0
    rows, steps, feats = x.stride()
    return x.as_strided((batch, n, k, feat), (rows, steps * step, steps, feats), 0)


@rejected("windows", by=("test_windows", "test_whole"), says="the last one starts")
def one_window_too_few(x, k, step=1):
    batch, seq, feat = x.shape
    n = max((seq - k) // step, 0)
    rows, steps, feats = x.stride()
    return x.as_strided((batch, n, k, feat), (rows, steps * step, steps, feats))


@rejected("windows", by=("test_step", "test_gaps"))
def rounds_the_number_up(x, k, step=1):
    batch, seq, feat = x.shape
    n = max(-((k - seq) // step) + 1, 0) if k <= seq else 0
    rows, steps, feats = x.stride()
    return x.as_strided((batch, n, k, feat), (rows, steps * step, steps, feats))


@rejected("windows", by=("test_windows", "test_strides"), says="swapped")
def axes_as_unfold_leaves_them(x, k, step=1):
    if k > x.shape[1]:
        return x.new_empty(len(x), 0, k, x.shape[2])
    return x.unfold(1, k, step)


@rejected("windows", by=("test_windows", "test_strides"), says="mixed features")
def reshapes_what_unfold_leaves(x, k, step=1):
    if k > x.shape[1]:
        return x.new_empty(len(x), 0, k, x.shape[2])
    cut = x.unfold(1, k, step)
    return cut.reshape(cut.shape[0], cut.shape[1], k, x.shape[2])


@rejected("windows", by="test_step")
def ignores_the_step(x, k, step=1):
    if k > x.shape[1]:
        return x.new_empty(len(x), 0, k, x.shape[2])
    return x.unfold(1, k, 1).transpose(2, 3)


@rejected("windows", by="test_step", says="`step` is not used")
def counts_with_the_step_only(x, k, step=1):
    batch, seq, feat = x.shape
    n = (seq - k) // step + 1 if k <= seq else 0
    rows, steps, feats = x.stride()
    return x.as_strided((batch, n, k, feat), (rows, steps, steps, feats))


@rejected("windows", by=("test_windows", "test_step"))
def windows_side_by_side(x, k, step=1):
    """Every step becomes k of them."""
    if k > x.shape[1]:
        return x.new_empty(len(x), 0, k, x.shape[2])
    return x.unfold(1, k, k).transpose(2, 3)


@rejected("windows", by="test_gaps")
def steps_up_to_k_only(x, k, step=1):
    if k > x.shape[1]:
        return x.new_empty(len(x), 0, k, x.shape[2])
    return x.unfold(1, k, min(step, k)).transpose(2, 3)


@rejected("windows", by="test_too_long")
def fails_if_too_long(x, k, step=1):
    return x.unfold(1, k, step).transpose(2, 3)


@rejected("windows", by="test_too_long")
def counts_below_zero(x, k, step=1):
    batch, seq, feat = x.shape
    n = (seq - k) // step + 1
    rows, steps, feats = x.stride()
    return x.as_strided((batch, n, k, feat), (rows, steps * step, steps, feats))


@rejected("windows", by="test_too_long")
def one_shorter_window_if_too_long(x, k, step=1):
    if k > x.shape[1]:
        return x[:, None]
    return x.unfold(1, k, step).transpose(2, 3)


@rejected("windows", by="test_too_long_like_x")
def another_dtype_and_device_if_too_long(x, k, step=1):
    if k > x.shape[1]:
        return torch.empty(len(x), 0, k, x.shape[2])
    return x.unfold(1, k, step).transpose(2, 3)


@rejected("windows", by="test_whole")
def one_window_without_its_axis(x, k, step=1):
    if k >= x.shape[1]:
        return x.new_empty(len(x), 0, k, x.shape[2]) if k > x.shape[1] else x
    return x.unfold(1, k, step).transpose(2, 3)


@rejected("windows", by="test_leaves_x_alone")
def transposes_x_itself(x, k, step=1):
    if k > x.shape[1]:
        return x.new_empty(len(x), 0, k, x.shape[2])
    return x.transpose_(1, 2).unfold(2, k, step).permute(0, 2, 3, 1)


# --- relayout


def parsed(side):
    """`b (h w) 1` as [[b], [h, w], []], one character at a time."""
    groups, group, word = [], None, ""
    for letter in side + " ":
        if letter.isalnum():
            word += letter
            continue
        if word:
            single = [] if word == "1" else [word]
            groups.append(single) if group is None else group.extend(single)
            word = ""
        if letter == "(":
            group = []
        elif letter == ")":
            groups.append(group)
            group = None
    return groups


def flat(groups):
    return [name for group in groups for name in group]


def checked(x, spec, sizes):
    """Both sides and all sizes; a ValueError where they don't fit."""
    left, right = map(parsed, spec.split("->"))
    for side in (left, right):
        for name in flat(side):
            if flat(side).count(name) > 1:
                raise ValueError(f"{name} twice")
    if odd := set(flat(left)) ^ set(flat(right)) | set(sizes) - set(flat(left)):
        raise ValueError(f"no partner: {sorted(odd)}")
    size_of = dict(sizes)
    for group, size in zip(left, x.shape):
        unknown = [name for name in group if name not in sizes]
        known = prod(sizes[name] for name in group if name in sizes)
        if len(unknown) > 1 or size % known or (not unknown and known != size):
            raise ValueError(f"sizes of {group}")
        for name in unknown:
            size_of[name] = size // known
    return left, right, size_of


@accepted("relayout")
def with_einsum(x, spec, **sizes):
    """One letter per name; einsum permutes, and is a view with one operand."""
    left, right, size_of = checked(x, spec, sizes)
    letters = {name: chr(ord("a") + i) for i, name in enumerate(flat(left))}
    before = "".join(letters[name] for name in flat(left))
    after = "".join(letters[name] for name in flat(right))
    x = x.reshape([size_of[name] for name in flat(left)])
    x = torch.einsum(f"{before}->{after}", x)
    return x.reshape([prod(size_of[name] for name in group) for group in right])


@accepted("relayout")
def one_axis_at_a_time(x, spec, **sizes):
    """Unflattens, moves and flattens axis by axis."""
    left, right, size_of = checked(x, spec, sizes)
    names = []
    for group in left:
        axis = len(names)
        if not group:
            x = x.squeeze(axis)
        elif len(group) > 1:
            x = x.unflatten(axis, [size_of[name] for name in group])
        names += group
    for place, name in enumerate(flat(right)):
        x = x.movedim(names.index(name), place)
        names.insert(place, names.pop(names.index(name)))
    for axis, group in enumerate(right):
        if not group:
            x = x.unsqueeze(axis)
        elif len(group) > 1:
            x = x.flatten(axis, axis + len(group) - 1)
    return x


@accepted("relayout")
def view_if_possible(x, spec, **sizes):
    left, right, size_of = checked(x, spec, sizes)
    x = x.view([size_of[name] for name in flat(left)])
    x = torch.permute(x, [flat(left).index(name) for name in flat(right)])
    shape = [prod(size_of[name] for name in group) for group in right]
    try:
        return x.view(shape)
    except RuntimeError:
        return x.contiguous().view(shape)


@accepted("relayout")
def parses_with_split(x, spec, **sizes):
    """Spaces around the parentheses, and a stack of one."""
    sides = []
    for side in spec.split(" -> "):
        groups, is_open = [], False
        for word in side.replace("(", "( ").replace(")", " )").split():
            if word == "(":
                groups.append([])
                is_open = True
            elif word == ")":
                is_open = False
            elif is_open:
                groups[-1].append(word)
            else:
                groups.append([word])
        sides.append(groups)
    size_of = {"1": 1}
    left, right = sides
    for side in sides:
        names = [name for name in flat(side) if name != "1"]
        if len(set(names)) < len(names):
            raise ValueError(f"a name stands twice in {names}")
    if odd := {*flat(left)} ^ {*flat(right)} - {"1"} or {*sizes} - {*flat(left)}:
        if odd - {"1"}:
            raise ValueError(f"{odd} on one side only")
    for group, size in zip(left, x.shape):
        missing = None
        for name in group:
            if name in sizes or name == "1":
                size_of[name] = sizes.get(name, 1)
            elif missing:
                raise ValueError(f"both {missing} and {name} are unknown")
            else:
                missing = name
        known = prod(size_of[name] for name in group if name != missing)
        if missing:
            size_of[missing] = size // known
            known *= size_of[missing]
        if known != size:
            raise ValueError(f"{group} has {known} and not {size} elements")
    places = {}
    for place, name in enumerate(flat(left)):
        places.setdefault(name, place)
    x = x.reshape([size_of[name] for name in flat(left)])
    kept = [places[name] for name in flat(right) if name != "1"]
    dropped = [place for place, name in enumerate(flat(left)) if name == "1"]
    x = x.permute(kept + dropped)
    return x.reshape([prod(size_of[name] for name in group) for group in right])


@rejected(
    "relayout",
    by=("test_same_shape", "test_permutes", "test_merges", "test_together"),
    says="scrambled",
)
def merges_before_permuting(x, spec, **sizes):
    left, right, size_of = checked(x, spec, sizes)
    return x.reshape([prod(size_of[name] for name in group) for group in right])


@rejected("relayout", by=("test_merges", "test_together", "test_random"), says="scrambled")
def merges_in_the_order_of_the_left(x, spec, **sizes):
    """Each group in the order that its names have on the left."""
    left, right, size_of = checked(x, spec, sizes)
    names = flat(left)
    ordered = [sorted(group, key=names.index) for group in right]
    split = x.reshape([size_of[name] for name in names])
    split = split.permute([names.index(name) for name in flat(ordered)])
    return split.reshape([prod(size_of[name] for name in group) for group in right])


@rejected("relayout", by=("test_two_unknown"), says="expected a ValueError")
def guesses_two_unknown_sizes(x, spec, **sizes):
    """Gives the first unknown size all there is."""
    left, _ = map(parsed, spec.split("->"))
    for group, size in zip(left, x.shape):
        unknown = [name for name in group if name not in sizes]
        for name in unknown[1:]:
            sizes[name] = 1
    return relayout_by_hand(x, spec, sizes)


def relayout_by_hand(x, spec, sizes):
    left, right, size_of = checked(x, spec, sizes)
    split = x.reshape([size_of[name] for name in flat(left)])
    split = split.permute([flat(left).index(name) for name in flat(right)])
    return split.reshape([prod(size_of[name] for name in group) for group in right])


@rejected("relayout", by=("test_view", "test_identity"), says="copy")
def always_contiguous(x, spec, **sizes):
    left, right, size_of = checked(x, spec, sizes)
    split = x.reshape([size_of[name] for name in flat(left)])
    split = split.permute([flat(left).index(name) for name in flat(right)]).contiguous()
    return split.view([prod(size_of[name] for name in group) for group in right])


@rejected("relayout", by="test_identity", says="copy")
def contiguous_before_anything(x, spec, **sizes):
    return relayout_by_hand(x.contiguous(), spec, sizes)


@rejected("relayout", by=("test_view", "test_identity"), says="copy")
def clones_the_result(x, spec, **sizes):
    return relayout_by_hand(x, spec, sizes).clone()


@rejected("relayout", by=("test_merges", "test_together"))
def views_only(x, spec, **sizes):
    left, right, size_of = checked(x, spec, sizes)
    split = x.view([size_of[name] for name in flat(left)])
    split = split.permute([flat(left).index(name) for name in flat(right)])
    return split.view([prod(size_of[name] for name in group) for group in right])


@rejected("relayout", by=("test_view", "test_identity"))
def views_of_contiguous_tensors_only(x, spec, **sizes):
    left, right, size_of = checked(x, spec, sizes)
    split = x.contiguous().view([size_of[name] for name in flat(left)])
    split = split.permute([flat(left).index(name) for name in flat(right)])
    return split.reshape([prod(size_of[name] for name in group) for group in right])


@rejected("relayout", by="test_one_side_only", says="expected a ValueError")
def sums_an_axis_that_is_missing_on_the_right(x, spec, **sizes):
    left, right = map(parsed, spec.split("->"))
    gone = [axis for axis, group in enumerate(left) if group and group[0] not in flat(right)]
    if not gone:
        return relayout_by_hand(x, spec, sizes)
    kept = " ".join(
        "(" + " ".join(group) + ")" for axis, group in enumerate(left) if axis not in gone
    )
    return relayout_by_hand(x.sum(gone), f"{kept} -> {spec.split('->')[1]}", sizes)


@rejected("relayout", by="test_one_side_only", says="expected a ValueError")
def repeats_an_axis_that_is_missing_on_the_left(x, spec, **sizes):
    """What the size of a new axis would be good for."""
    left, right = spec.split("->")
    new = [name for name in flat(parsed(right)) if name not in flat(parsed(left))]
    if not new:
        return relayout_by_hand(x, spec, sizes)
    for name in new:
        x = x.unsqueeze(-1).expand(*x.shape, sizes.get(name, 1))
    return relayout_by_hand(x, f"{left} {' '.join(new)} -> {right}", sizes)


@rejected("relayout", by=("test_splits", "test_merges", "test_random"), says="fastest")
def last_name_is_the_slowest(x, spec, **sizes):
    left, right, size_of = checked(x, spec, sizes)
    left, right = [group[::-1] for group in left], [group[::-1] for group in right]
    split = x.reshape([size_of[name] for name in flat(left)])
    split = split.permute([flat(left).index(name) for name in flat(right)])
    return split.reshape([prod(size_of[name] for name in group) for group in right])


@rejected("relayout", by=("test_splits", "test_infers"), says="on the left")
def last_name_on_the_left_is_the_slowest(x, spec, **sizes):
    left, right, size_of = checked(x, spec, sizes)
    left = [group[::-1] for group in left]
    split = x.reshape([size_of[name] for name in flat(left)])
    split = split.permute([flat(left).index(name) for name in flat(right)])
    return split.reshape([prod(size_of[name] for name in group) for group in right])


@rejected("relayout", by=("test_merges", "test_together"), says="on the right")
def last_name_on_the_right_is_the_slowest(x, spec, **sizes):
    left, right, size_of = checked(x, spec, sizes)
    right = [group[::-1] for group in right]
    split = x.reshape([size_of[name] for name in flat(left)])
    split = split.permute([flat(left).index(name) for name in flat(right)])
    return split.reshape([prod(size_of[name] for name in group) for group in right])


@rejected("relayout", by=("test_permutes", "test_together", "test_random"))
def permutes_the_wrong_way_round(reference: str) -> str:
    return reference.replace(
        "split.permute([names.index(name) for name in wanted])",
        "split.permute([wanted.index(name) for name in names])",
    )


@rejected("relayout", by="test_permutes")
def names_of_one_letter(reference: str) -> str:
    return reference.replace(r're.findall(r"\w+", axis)', r're.findall(r"\w", axis)').replace(
        r"\(.*?\)|\w+", r"\(.*?\)|\w"
    )


@rejected("relayout", by=("test_permutes", "test_random"))
def names_without_digits(reference: str) -> str:
    return reference.replace(r"\w+", "[a-z]+")


@rejected("relayout", by=("test_merges", "test_together"))
def one_group_from_the_first_to_the_last_parenthesis(reference: str) -> str:
    return reference.replace(r"\(.*?\)|", r"\(.*\)|")


@rejected("relayout", by=("test_infers", "test_together"))
def infers_nothing(x, spec, **sizes):
    left, _ = map(parsed, spec.split("->"))
    for group in left:
        if len(group) > 1 and any(name not in sizes for name in group):
            raise ValueError(f"the sizes of {group} are not all given")
    return relayout_by_hand(x, spec, sizes)


@rejected("relayout", by="test_infers")
def infers_the_last_name_only(x, spec, **sizes):
    left, _ = map(parsed, spec.split("->"))
    for group in left:
        if len(group) > 1 and any(name not in sizes for name in group[:-1]):
            raise ValueError(f"the sizes of {group[:-1]} are not all given")
    return relayout_by_hand(x, spec, sizes)


@rejected("relayout", by=("test_ones", "test_random"))
def a_one_is_a_name(reference: str) -> str:
    return reference.replace(' if name != "1"', "")


@rejected("relayout", by=("test_ones"))
def squeezes_the_result(x, spec, **sizes):
    return relayout_by_hand(x, spec, sizes).squeeze()


@rejected("relayout", by="test_name_twice", says="expected a ValueError")
def takes_a_name_twice(reference: str) -> str:
    return reference.replace(
        "names.count(name) != 1 or wanted.count(name) != 1",
        "name not in names or name not in wanted",
    )


@rejected("relayout", by="test_keyword_that_is_no_axis", says="expected a ValueError")
def ignores_a_keyword_that_is_no_axis(reference: str) -> str:
    return reference.replace("(*names, *wanted, *sizes)", "(*names, *wanted)")


@rejected("relayout", by="test_one_side_only", says="row")
def says_not_which_name(reference: str) -> str:
    return reference.replace(
        'raise ValueError(f"{name} should', 'raise ValueError(f"an axis should'
    ).replace("of {spec!r}", "of it")


@rejected("relayout", by="test_sizes_that_do_not_fit", says="ValueError")
def leaves_the_sizes_to_reshape(reference: str) -> str:
    return reference.replace("if size % known or (not unknown and size != known):", "if False:")


@rejected("relayout", by="test_sizes_that_do_not_fit", says="ValueError")
def looks_at_the_remainder_only(reference: str) -> str:
    return reference.replace(" or (not unknown and size != known):", ":")


@rejected("relayout", by="test_two_unknown", says="expected a ValueError")
def sizes_of_minus_one(reference: str) -> str:
    """Lets reshape infer, one size for the whole tensor."""
    return reference.replace("if len(unknown) > 1:", "if len(unknown) > 5:")


@rejected("relayout", by=("test_name_twice", "test_one_side_only"), says="AssertionError")
def asserts_instead_of_raising(reference: str) -> str:
    return reference.replace(
        'raise ValueError(f"{name} should', 'raise AssertionError(f"{name} should'
    )


@rejected("relayout", by="test_gradient")
def through_numpy(x, spec, **sizes):
    return torch.from_numpy(relayout_by_hand(x.detach(), spec, sizes).numpy())


@rejected("relayout", by="test_forbidden", says="einops")
def asks_einops(x, spec, **sizes):
    from functorch.einops.rearrange import rearrange

    checked(x, spec, sizes)
    return rearrange(x, spec, **sizes)


@rejected("relayout", by="test_leaves_x_alone")
def squeezes_x_itself(x, spec, **sizes):
    result = relayout_by_hand(x, spec, sizes)
    x.squeeze_()
    return result
