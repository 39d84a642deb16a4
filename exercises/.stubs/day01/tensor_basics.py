"""Day 1: what a tensor is made of - values, a dtype and a device - and what each of them costs."""

from typing import Self

import torch
from torch import Tensor, nn


def make_tensors(n: int, device: torch.device) -> dict[str, Tensor]:
    """Five tensors by name, each made directly on `device`.

    Args:
        n: the size, at least 1.
        device: where every tensor is made; nothing is built on the CPU and moved.

    Returns:
        zeros: (n, n), float32.
        ones: (n, n), float64.
        eye: (n, n), bool, True on the diagonal.
        ramp: (n,), int64, 0 to n - 1.
        grid: (n,), float32, evenly spaced from -1 to 1 with both ends; [-1] for n = 1.
    """
    # TODO 1: five tensors, each with its dtype and its device
    raise NotImplementedError("day01 T1: make_tensors")
    # END TODO


def predict_dtype(a: torch.dtype, a_ndim: int, b: torch.dtype | type, b_ndim: int) -> torch.dtype:
    """The dtype of `a op b` by the rule of promotion, without making a tensor.

    Args:
        a: dtype of a tensor.
        a_ndim: 0 or 1, the number of its dimensions.
        b: dtype of a tensor, or a Python type: bool, int, float or complex.
        b_ndim: 0 or 1; 0 for a Python type.
    """
    # TODO 2: the rule of promotion
    raise NotImplementedError("day01 T2: predict_dtype")
    # END TODO


def safe_mean_std(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population standard deviation of all elements, whatever the dtype.

    Args:
        x: (*,), bool or any integer or floating dtype; may be empty.

    Returns:
        mean, std: 0-dim, float64 for float64 input and float32 for all others. nan twice for an
        empty tensor.
    """
    # TODO 3: mean and deviation in a dtype that can hold them
    raise NotImplementedError("day01 T3: safe_mean_std")
    # END TODO


def count_exact(dtype: torch.dtype) -> int:
    """The largest N such that `dtype` holds every integer from 0 to N exactly.

    Args:
        dtype: any integer or floating dtype, of 8 to 64 bits.
    """
    # TODO 4: computed, not remembered
    raise NotImplementedError("day01 T4: count_exact")
    # END TODO


def quantise_u8(x: Tensor) -> tuple[Tensor, float, int]:
    """Affine 8-bit quantisation: x is nearly scale * (q - zero), and 0.0 exactly.

    Args:
        x: (*,), float32 or float64, finite; may be empty.

    Returns:
        q: the shape of x, uint8.
        scale: the range from min(x, 0) to max(x, 0), divided by 255; 1.0 if x is empty or all 0.
        zero: the q that stands for 0.0, from 0 to 255; 0 if x is empty or all 0.
    """
    # TODO 5: a scale and a zero for the range, then a byte for each value
    raise NotImplementedError("day01 T5: quantise_u8")
    # END TODO


def dequantise_u8(q: Tensor, scale: float, zero: int) -> Tensor:
    """The way back: scale * (q - zero).

    Args:
        q: (*,), uint8.
        scale: the value of one step.
        zero: the q that stands for 0.0.

    Returns:
        The shape of q, float32.
    """
    # TODO 5: the way back
    raise NotImplementedError("day01 T5: quantise_u8")
    # END TODO


class Standardiser(nn.Module):
    """Scale every column to mean 0 and population standard deviation 1, and back.

    What `fit` learns lives in buffers: it follows `.to(device)` and `.double()`, it is in the
    `state_dict`, and it isn't trained.
    """

    def __init__(self, features: int) -> None:
        """
        Args:
            features: the number of columns.
        """
        super().__init__()
        # TODO 6: what the module remembers
        raise NotImplementedError("day01 T6: Standardiser")
        # END TODO

    def fit(self, x: Tensor) -> Self:
        """Learn mean and standard deviation of each column; what was learnt before is replaced.

        Args:
            x: (batch, features), floating or integer.

        Returns:
            The module itself.
        """
        # TODO 6: the statistics of the columns
        raise NotImplementedError("day01 T6: Standardiser")
        # END TODO

    def forward(self, x: Tensor) -> Tensor:
        """Scale by what `fit` has learnt; a column whose standard deviation was 0 becomes 0.

        Args:
            x: (batch, features), floating or integer.

        Returns:
            (batch, features), floating.

        Raises:
            RuntimeError: nothing was learnt yet; the message says `fit`.
        """
        # TODO 6: scale
        raise NotImplementedError("day01 T6: Standardiser")
        # END TODO

    def inverse(self, z: Tensor) -> Tensor:
        """Undo `forward`.

        Args:
            z: (batch, features)

        Returns:
            (batch, features)

        Raises:
            RuntimeError: nothing was learnt yet; the message says `fit`.
        """
        # TODO 6: and back
        raise NotImplementedError("day01 T6: Standardiser")
        # END TODO
