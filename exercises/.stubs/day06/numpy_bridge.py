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
    # TODO 1: copy, or share
    raise NotImplementedError("day06 T1: to_tensor")
    # END TODO


def to_numpy(t: Tensor) -> np.ndarray:
    """An array with the values of a tensor, always an independent copy.

    Args:
        t: any shape, dtype and device; may require grad, be a conj or neg view, or sparse.

    Returns:
        The shape and dtype of `t`; float32 for bfloat16; dense for sparse.

    Raises:
        ValueError: `t` is on the meta device and has no values.
    """
    # TODO 2: an array of its own
    raise NotImplementedError("day06 T2: to_numpy")
    # END TODO


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
    # TODO 3: NumPy's defaults
    raise NotImplementedError("day06 T3: np_like")
    # END TODO


def alias_groups(objs: dict[str, np.ndarray | Tensor]) -> list[set[str]]:
    """The names in groups: two belong together if their objects share a byte of memory.

    Args:
        objs: arrays and tensors of any shape, layout and dtype, by name.

    Returns:
        Every name in exactly one set, sets of one included, in any order. Objects are together if
        they share at least one byte, directly or through a chain of others; an object without
        elements is alone.
    """
    # TODO 4: groups by memory
    raise NotImplementedError("day06 T4: alias_groups")
    # END TODO


def ragged_collate(rows: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Rows of different lengths as one padded tensor, and their lengths.

    Args:
        rows: each (len_i, feat), float or integer; len_i may be 0.

    Returns:
        padded: (batch, max_len, feat), float32, 0 behind the end of each row; shares no memory
            with a row. (0, 0, 0) for no rows.
        lengths: (batch,), int64.
    """
    # TODO 5: one result, one copy of each row
    raise NotImplementedError("day06 T5: ragged_collate")
    # END TODO
