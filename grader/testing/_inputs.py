"""Inputs of a check and oracles by hand: seeded draws, a loop over every index."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_randn, _randint, _tensor, _empty = torch.randn, torch.randint, torch.tensor, torch.empty


def randn(
    *shape: int,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    requires_grad: bool = False,
    away_from_zero: float = 0.0,
) -> Tensor:
    """Normal numbers from the check's seed, the same on every device.

    Args:
        shape: the sizes.
        dtype: drawn in float64 and rounded to it.
        device: where the tensor ends up.
        requires_grad: whether it is a leaf that asks for a gradient.
        away_from_zero: push every number so far from 0, where relu and abs have a kink.
    """
    drawn = _randn(shape, dtype=torch.float64)
    if away_from_zero:
        drawn = drawn + torch.where(drawn < 0, -away_from_zero, away_from_zero)
    return drawn.to(device, dtype).requires_grad_(requires_grad)


def rand_ints(
    *shape: int,
    high: int,
    low: int = 0,
    dtype: torch.dtype = torch.int64,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Whole numbers from `low` to `high - 1`, from the check's seed."""
    return _randint(low, high, shape, dtype=dtype).to(device)


def loop_oracle(
    shape: Sequence[int],
    element: Callable[..., Any],
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """A tensor element by element: `element(i, j, …)` for every index of the shape.

    For expected values that follow the statement's formula and no clever operator.
    """
    values = [element(*index) for index in itertools.product(*map(range, shape))]
    if not values:
        return _empty(tuple(shape), dtype=dtype)
    return _tensor(
        [float(v) if dtype.is_floating_point else v for v in values], dtype=dtype
    ).reshape(tuple(shape))
