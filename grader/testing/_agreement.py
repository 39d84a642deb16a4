"""Whether two results are the same answer, told by the largest difference and told fast.

For timed rounds, where a comparison is made for each pair and must not cost more than the calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, isclose, isfinite
from typing import Any

import numpy as np
import torch

# Bound before any submission is loaded. One pass over the data, where `allclose` makes several.
_dist = torch.dist
_equal = torch.equal
_isclose = torch.isclose

# Loose enough for another order of summation, too tight for arithmetic in half precision.
_TOLERANCE = {
    torch.float64: 1e-7,
    torch.complex128: 1e-7,
    torch.float32: 2e-4,
    torch.complex64: 2e-4,
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}
_PLAIN = (torch.Tensor, torch.nn.Parameter)


def disagreement(got: Any, expected: Any, where: str = "the result") -> str:
    """Say how `got` differs from `expected`, or "" where they are the same answer.

    Tensors must be plain and agree in shape, dtype and device, and in value up to a tolerance
    relative to the largest element. Lists, tuples and mappings are compared item by item.
    """
    if isinstance(expected, torch.Tensor):
        return _tensors(got, expected, where)
    if isinstance(expected, np.ndarray):
        return _arrays(got, expected, where)
    if isinstance(expected, Mapping):
        if not isinstance(got, Mapping) or list(got) != list(expected):
            return f"{where} should be a mapping with the keys {list(expected)}"
        pairs = [(f"{where}[{key!r}]", got[key], expected[key]) for key in expected]
    elif isinstance(expected, Sequence) and not isinstance(expected, str | bytes | range):
        if not isinstance(got, Sequence) or len(got) != len(expected):
            return f"{where} should be a {type(expected).__name__} of {len(expected)}"
        pairs = [(f"{where}[{i}]", got[i], expected[i]) for i in range(len(expected))]
    else:
        return _plain(got, expected, where)
    return next((said for at, a, b in pairs if (said := disagreement(a, b, at))), "")


def _tensors(got: Any, expected: torch.Tensor, where: str) -> str:
    if type(expected) in _PLAIN and type(got) not in _PLAIN:
        return f"{where} should be a torch.Tensor, not {type(got).__name__}"
    if got.shape != expected.shape:
        return f"{where} should have the shape {tuple(expected.shape)}, not {tuple(got.shape)}"
    if got.dtype != expected.dtype or got.layout != expected.layout:
        return f"{where} should be {expected.dtype}, not {got.dtype}"
    if got.device != expected.device:
        return f"{where} should be on {expected.device}, not on {got.device}"
    if not expected.numel():
        return ""
    got, expected = got.detach(), expected.detach()
    if expected.layout is not torch.strided:
        got, expected = got.to_dense(), expected.to_dense()
    if expected.dtype in (torch.float16, torch.bfloat16):
        return _close(got.float(), expected.float(), _TOLERANCE[expected.dtype], where)
    relative = _TOLERANCE.get(expected.dtype)
    if relative is None:
        return "" if _equal(got, expected) else f"{where} has other values"
    return _close(got, expected, relative, where)


def _close(got: torch.Tensor, expected: torch.Tensor, relative: float, where: str) -> str:
    largest = float(expected.abs().max())
    distance = float(_dist(got, expected, p=inf))
    allowed = relative * max(largest, 1e-6)
    if isfinite(distance) and isfinite(largest):
        return "" if distance <= allowed else _too_far(where, distance, allowed)
    # An infinity or a nan in the same place is the same answer.
    finite = expected.isfinite()
    scale = float(expected[finite].abs().max()) if bool(finite.any()) else 1.0
    close = _isclose(got, expected, rtol=0, atol=relative * max(scale, 1e-6), equal_nan=True)
    wrong = int((~close).sum())
    return f"{where} has {wrong} wrong elements of {close.numel()}" if wrong else ""


def _too_far(where: str, distance: float, allowed: float) -> str:
    return f"{where} is off by up to {distance:.2g} (at most {allowed:.2g} is rounding)"


def _arrays(got: Any, expected: np.ndarray[Any, Any], where: str) -> str:
    if type(got) is not np.ndarray or got.shape != expected.shape or got.dtype != expected.dtype:
        return f"{where} should be a NumPy array, {expected.dtype} of shape {expected.shape}"
    if expected.dtype.kind not in "fc":
        return "" if np.array_equal(got, expected) else f"{where} has other values"
    scale = float(np.nanmax(np.abs(expected), initial=1e-6, where=np.isfinite(expected)))
    allowed = (
        1e-7 if expected.dtype.itemsize > 8 or expected.dtype == np.float64 else 2e-4
    ) * scale
    close = np.isclose(got, expected, rtol=0, atol=allowed, equal_nan=True)
    wrong = int((~close).sum())
    return f"{where} has {wrong} wrong elements of {close.size}" if wrong else ""


def _shown(value: Any) -> str:
    plain = isinstance(value, str | bytes | bool | range | int | float | None)
    return repr(value)[:60] if plain else f"a {type(value).__name__}"


def _plain(got: Any, expected: Any, where: str) -> str:
    if isinstance(expected, bool) or not isinstance(expected, int | float):
        if isinstance(expected, str | bytes | bool | range | None):
            # The type first: one of the learner's own may call itself equal to anything.
            same = type(got) is type(expected) and got == expected
            return "" if same else f"{where} should be {expected!r}, not {_shown(got)}"
        # A module, an iterator: what cannot be compared must at least be of the same kind.
        same = type(got) is type(expected)
        return "" if same else f"{where} should be a {type(expected).__name__}"
    if isinstance(got, bool) or not isinstance(got, int | float):
        return f"{where} should be a number, not {type(got).__name__}"
    if isinstance(expected, int):
        return "" if got == expected else f"{where} should be {expected}, not {got}"
    same = isclose(got, expected, rel_tol=1e-4, abs_tol=1e-9) or (
        got != got and expected != expected
    )
    return "" if same else f"{where} should be {expected:.6g}, not {got:.6g}"
