"""How numbers, shapes, places and kinds of values are said in a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

_Tensor = torch.Tensor


def number(value: Any, digits: int = 6) -> str:
    """A number with at most that many significant digits."""
    if isinstance(value, bool):
        return str(bool(value))
    if isinstance(value, int):
        return str(value) if abs(value) < 10**30 else f"an integer of {value.bit_length()} bits"
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    if isinstance(value, complex):
        return f"{value:.{digits}g}"
    return str(value)


def two_numbers(first: Any, second: Any) -> tuple[str, str]:
    """Both numbers, with as many digits as it takes to see that they differ."""
    for digits in (4, 6, 9, 12, 17):
        said = number(first, digits), number(second, digits)
        if said[0] != said[1]:
            break
    return said


def count(amount: int, noun: str) -> str:
    """`1 element`, `3 elements`."""
    return f"{amount:,} {noun}".replace(",", " ") + ("" if amount == 1 else "s")


def listed(items: Iterable[str], word: str = "and") -> str:
    """`a, b and c`."""
    items = list(items)
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} {word} {items[-1]}"


def shape(sizes: Sequence[int], names: Sequence[str] = ()) -> str:
    """`(2, 3)`, or `(batch=2, heads=3)` where the axes have names."""
    if len(names) == len(sizes) and names:
        return "(" + ", ".join(f"{n}={s}" for n, s in zip(names, sizes, strict=True)) + ")"
    return f"({sizes[0]},)" if len(sizes) == 1 else "(" + ", ".join(map(str, sizes)) + ")"


def axis(index: int, names: Sequence[str] = ()) -> str:
    """`axis 1 (heads)`."""
    return f"axis {index} ({names[index]})" if names else f"axis {index}"


def place(index: Sequence[int]) -> str:
    """`[1, 2]`; nothing for a tensor without axes."""
    return "[" + ", ".join(map(str, index)) + "]" if len(index) else ""


def dtype(value: Any) -> str:
    """`float32` for `torch.float32`."""
    return str(value).removeprefix("torch.")


def kind(value: Any) -> str:
    """What a value is, with its article: `None`, `a tuple of 2`, `a tensor of shape (2, 3)`."""
    try:
        return _kind(value)
    except Exception:  # a `__len__` or `__repr__` of the learner's own
        return article(type(value).__name__)


def _kind(value: Any) -> str:
    if value is None:
        return "None"
    if isinstance(value, _Tensor):
        name = type(value).__name__
        noun = "tensor" if name == "Tensor" else name
        return f"{article(noun)} of shape {shape(tuple(value.shape))}"
    if isinstance(value, bool | int | float | complex):
        return f"{article(type(value).__name__)}, {number(value)}"
    if isinstance(value, str):
        return f"the text {value!r}" if len(value) <= 40 else f"a text of {len(value)} characters"
    if isinstance(value, Mapping):
        return f"{article(type(value).__name__)} with {count(len(value), 'key')}"
    if isinstance(value, tuple | list | set):
        return f"{article(type(value).__name__)} of {len(value)}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    module = type(value).__module__
    name = type(value).__name__
    return article(f"numpy.{name}" if module == "numpy" else name)


def article(noun: str) -> str:
    """`a tuple`, `an int`."""
    return f"an {noun}" if noun[:1].lower() in "aeiou" else f"a {noun}"
