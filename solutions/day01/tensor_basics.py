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
    ### BEGIN SOLUTION 1: five tensors, each with its dtype and its device
    zeros = torch.zeros(n, n, device=device)
    return {
        "zeros": zeros,
        "ones": torch.ones_like(zeros, dtype=torch.float64),
        "eye": torch.eye(n, dtype=torch.bool, device=device),
        "ramp": torch.arange(n, device=device),
        "grid": torch.linspace(-1, 1, n, device=device),
    }
    ### END SOLUTION


def predict_dtype(a: torch.dtype, a_ndim: int, b: torch.dtype | type, b_ndim: int) -> torch.dtype:
    """The dtype of `a op b` by the rule of promotion, without making a tensor.

    Args:
        a: dtype of a tensor.
        a_ndim: 0 or 1, the number of its dimensions.
        b: dtype of a tensor, or a Python type: bool, int, float or complex.
        b_ndim: 0 or 1; 0 for a Python type.
    """
    ### BEGIN SOLUTION 2: the rule of promotion

    def category(dtype: torch.dtype) -> int:
        if dtype.is_complex:
            return 3
        return 2 if dtype.is_floating_point else int(dtype is not torch.bool)

    numbers = {bool: torch.bool, int: torch.int64, float: torch.float32, complex: torch.complex64}
    rank = -1 if b in numbers else b_ndim
    b = numbers.get(b, b)
    if a_ndim == rank:
        if {a, b} == {torch.uint8, torch.int8}:
            return torch.int16
        if {a, b} == {torch.float16, torch.bfloat16}:
            return torch.float32
        low, high = sorted((a, b), key=lambda dtype: (category(dtype), dtype.itemsize))
        if high.is_complex and low.is_floating_point:
            low = low.to_complex()
            return max(high, low, key=lambda dtype: dtype.itemsize)
        return high
    first, second = (a, b) if a_ndim > rank else (b, a)
    if category(second) <= category(first):
        return first
    return first.to_complex() if first.is_floating_point else second
    ### END SOLUTION


def safe_mean_std(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population standard deviation of all elements, whatever the dtype.

    Args:
        x: (*,), bool or any integer or floating dtype; may be empty.

    Returns:
        mean, std: 0-dim, float64 for float64 input and float32 for all others. nan twice for an
        empty tensor.
    """
    ### BEGIN SOLUTION 3: mean and deviation in a dtype that can hold them
    if not x.is_floating_point():
        x = x.double()
        result = torch.float32
    else:
        result = torch.float64 if x.dtype is torch.float64 else torch.float32
        x = x.to(result)
    mean = x.mean()
    return mean.to(result), (x - mean).square().mean().sqrt().to(result)
    ### END SOLUTION


def count_exact(dtype: torch.dtype) -> int:
    """The largest N such that `dtype` holds every integer from 0 to N exactly.

    Args:
        dtype: any integer or floating dtype, of 8 to 64 bits.
    """
    ### BEGIN SOLUTION 4: computed, not remembered
    if dtype.is_floating_point:
        return int(2 / torch.finfo(dtype).eps)
    return torch.iinfo(dtype).max
    ### END SOLUTION


def quantise_u8(x: Tensor) -> tuple[Tensor, float, int]:
    """Affine 8-bit quantisation: x is nearly scale * (q - zero), and 0.0 exactly.

    Args:
        x: (*,), float32 or float64, finite; may be empty.

    Returns:
        q: the shape of x, uint8.
        scale: the range from min(x, 0) to max(x, 0), divided by 255; 1.0 if x is empty or all 0.
        zero: the q that stands for 0.0, from 0 to 255; 0 if x is empty or all 0.
    """
    ### BEGIN SOLUTION 5: a scale and a zero for the range, then a byte for each value
    if not x.any():
        return torch.zeros_like(x, dtype=torch.uint8), 1.0, 0
    low, high = min(x.min().item(), 0.0), max(x.max().item(), 0.0)
    scale = (high - low) / 255
    zero = round(-low / scale)
    return (x / scale + zero).round().clamp(0, 255).to(torch.uint8), scale, zero
    ### END SOLUTION


def dequantise_u8(q: Tensor, scale: float, zero: int) -> Tensor:
    """The way back: scale * (q - zero).

    Args:
        q: (*,), uint8.
        scale: the value of one step.
        zero: the q that stands for 0.0.

    Returns:
        The shape of q, float32.
    """
    ### BEGIN SOLUTION 5: the way back
    return (q.float() - zero) * scale
    ### END SOLUTION


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
        ### BEGIN SOLUTION 6: what the module remembers
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.register_buffer("fitted", torch.tensor(False))
        ### END SOLUTION

    def fit(self, x: Tensor) -> Self:
        """Learn mean and standard deviation of each column; what was learnt before is replaced.

        Args:
            x: (batch, features), floating or integer.

        Returns:
            The module itself.
        """
        ### BEGIN SOLUTION 6: the statistics of the columns
        x = x.detach().to(self.mean.dtype)
        self.mean.copy_(x.mean(0))
        self.std.copy_(x.std(0, correction=0))
        self.fitted.fill_(True)
        return self
        ### END SOLUTION

    def forward(self, x: Tensor) -> Tensor:
        """Scale by what `fit` has learnt; a column whose standard deviation was 0 becomes 0.

        Args:
            x: (batch, features), floating or integer.

        Returns:
            (batch, features), floating.

        Raises:
            RuntimeError: nothing was learnt yet; the message says `fit`.
        """
        ### BEGIN SOLUTION 6: scale
        if not self.fitted:
            raise RuntimeError("call fit before forward")
        # Where the deviation is 0, so is x - mean: any other divisor gives 0.
        return (x - self.mean) / self.std.masked_fill(self.std == 0, 1)
        ### END SOLUTION

    def inverse(self, z: Tensor) -> Tensor:
        """Undo `forward`.

        Args:
            z: (batch, features)

        Returns:
            (batch, features)

        Raises:
            RuntimeError: nothing was learnt yet; the message says `fit`.
        """
        ### BEGIN SOLUTION 6: and back
        if not self.fitted:
            raise RuntimeError("call fit before inverse")
        return z * self.std + self.mean
        ### END SOLUTION
