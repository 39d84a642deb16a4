"""Day 6: over the border between NumPy and PyTorch, and who owns the memory on the other side."""

import numpy as np
import torch
from torch import Tensor


def to_tensor(a: np.ndarray, *, share: bool = False) -> Tensor:
    """A tensor with the values of an array: a copy, or the array's own memory.

    Args:
        a: any shape and layout; bool, integer, float or complex.
        share: False: an independent copy. True: the tensor shares the memory of `a`.

    Returns:
        The shape of `a`. A copy of a float64 array is float32; every other dtype, and every
        dtype with `share`, is kept.

    Raises:
        ValueError: `share`, and `a` has negative strides, foreign byte order, or is read-only.
    """
    ### BEGIN SOLUTION 1: copy, or share
    if share:
        if not a.flags.writeable:
            raise ValueError(
                "a is read-only, and a tensor that shares its memory could write to it"
            )
        return torch.from_numpy(a)  # which refuses the other two by itself
    native = a.dtype.newbyteorder("=")
    return torch.from_numpy(a.astype(np.float32 if native == np.float64 else native))
    ### END SOLUTION


def to_numpy(t: Tensor) -> np.ndarray:
    """An array with the values of a tensor, always an independent copy.

    Args:
        t: any shape, dtype and device; may require grad, be a conj or neg view, or sparse.

    Returns:
        The shape and dtype of `t`; float32 for bfloat16; dense for sparse.

    Raises:
        ValueError: `t` is on the meta device and has no values.
    """
    ### BEGIN SOLUTION 2: an array of its own
    if t.device.type == "meta":
        raise ValueError("a meta tensor has a shape and a dtype, but no values")
    t = t.detach().to_dense()
    return (t.float() if t.dtype == torch.bfloat16 else t).numpy(force=True).copy()
    ### END SOLUTION


def np_like(t: Tensor, name: str, axis=None, keepdims=False) -> Tensor:
    """What NumPy's function of that name gives with its defaults, by torch operations.

    Args:
        t: (*,), float or int64, not empty; floats may be nan.
        name: std, var, median, percentile75, any, all, argmax: reductions over `axis`;
            round2, sign, mod3: element by element.
        axis: None for all elements, an int, or (not for argmax) a tuple of ints.
        keepdims: leave the reduced axes in, with size 1.

    Returns:
        bool for any and all, int64 for argmax, else any dtype that holds the values.
    """
    ### BEGIN SOLUTION 3: NumPy's defaults
    x = t if t.is_floating_point() else t.double()
    if name == "round2":
        return x.round(decimals=2)
    if name == "sign":
        return torch.where(x.isnan(), x, x.sign())
    if name == "mod3":
        return x.remainder(3)
    axes = range(t.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    reduced = [i % t.ndim for i in axes]
    kept = [i for i in range(t.ndim) if i not in reduced]
    rows = x.permute(kept + reduced).flatten(len(kept))
    reductions = {
        "std": lambda: rows.std(-1, correction=0),
        "var": lambda: rows.var(-1, correction=0),
        "median": lambda: rows.quantile(0.5, -1),
        "percentile75": lambda: rows.quantile(0.75, -1),
        "any": lambda: rows.any(-1),
        "all": lambda: rows.all(-1),
        "argmax": lambda: rows.argmax(-1),
    }
    result = reductions[name]()
    shape = [1 if i in reduced else size for i, size in enumerate(t.shape)]
    return result.reshape(shape) if keepdims else result
    ### END SOLUTION


def alias_groups(objs: dict[str, np.ndarray | Tensor]) -> list[set[str]]:
    """The names in groups: two belong together if their objects share a byte of memory.

    Args:
        objs: arrays and tensors of any shape, layout and dtype, by name.

    Returns:
        Every name in exactly one set, sets of one included, in any order. Objects are together if
        they share at least one byte, directly or through a chain of others; an object without
        elements is alone.
    """
    ### BEGIN SOLUTION 4: groups by memory
    groups: list[tuple[set[str], set[int]]] = []
    for name, obj in objs.items():
        if isinstance(obj, Tensor):
            start, width = obj.data_ptr(), obj.element_size()
            strides = [step * width for step in obj.stride()]
        else:
            start, width, strides = obj.ctypes.data, obj.itemsize, obj.strides
        places = np.arange(start, start + width)
        for size, stride in zip(obj.shape, strides, strict=True):
            places = np.add.outer(places, np.arange(size) * stride)
        names, memory = {name}, set(places.ravel().tolist())
        touched = [group for group in groups if group[1] & memory]
        groups = [group for group in groups if not group[1] & memory]
        for other_names, other_memory in touched:
            names |= other_names
            memory |= other_memory
        groups.append((names, memory))
    return [names for names, _ in groups]
    ### END SOLUTION


def ragged_collate(rows: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Rows of different lengths as one padded tensor, and their lengths.

    Args:
        rows: each (len_i, feat), float or integer; len_i may be 0.

    Returns:
        padded: (batch, max_len, feat), float32, 0 behind the end of each row; shares no memory
            with a row. (0, 0, 0) for no rows.
        lengths: (batch,), int64.
    """
    ### BEGIN SOLUTION 5: one result, one copy of each row
    if not rows:
        return torch.zeros(0, 0, 0), torch.zeros(0, dtype=torch.int64)
    lengths = [len(row) for row in rows]
    padded = np.zeros((len(rows), max(lengths), rows[0].shape[1]), dtype=np.float32)
    for into, row in zip(padded, rows, strict=True):
        into[: len(row)] = row
    return torch.from_numpy(padded), torch.tensor(lengths)
    ### END SOLUTION
