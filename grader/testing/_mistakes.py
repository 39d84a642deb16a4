"""Which known mistake turns the expected values into the ones that came.

Each mistake is a cheap transformation of the expected tensor; it explains a result when it
gives that result within the tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import permutations

import torch
from torch import Tensor

from grader.testing import _words

_MOST_ELEMENTS = 2**18  # beyond it a failure is told without an explanation
_MOST_AXES = 5

Matches = Callable[[Tensor, Tensor], bool]

_all, _any, _median, _unique = torch.all, torch.any, torch.median, torch.unique
_exp, _log, _sqrt, _square, _reciprocal = (
    torch.exp,
    torch.log,
    torch.sqrt,
    torch.square,
    torch.reciprocal,
)
_flip, _roll, _sum, _isfinite, _abs = torch.flip, torch.roll, torch.sum, torch.isfinite, torch.abs
_permute, _softmax, _ones_like, _narrow = (
    torch.permute,
    torch.softmax,
    torch.ones_like,
    torch.narrow,
)


def explanations(
    got: Tensor, expected: Tensor, matches: Matches, names: Sequence[str] = ()
) -> list[str]:
    """Sentences that each explain all of the result; more than one means none is sure.

    A sentence names its subject `{what}`.

    Args:
        got: the result, (*), float64 or complex128, of the shape of `expected`.
        expected: (*), of the same dtype.
        matches: whether its first tensor is the second within the check's tolerance.
        names: the names of the axes, or none.
    """
    if (
        expected.numel() == 0
        or expected.numel() > _MOST_ELEMENTS
        or matches(0 * expected, expected)
    ):
        return []
    if matches(got, 0 * expected):
        return ["every element of {what} is 0"]
    found = [*_of_sign_and_scale(got, expected, matches)]
    if expected.ndim:
        found += _of_axes(got, expected, matches, names)
    if not expected.is_complex() and not found:
        found += _of_function(got, expected, matches)
    return found


def _of_sign_and_scale(got: Tensor, expected: Tensor, matches: Matches) -> Iterator[str]:
    if matches(got, -expected):
        yield "the sign of {what} is flipped"
        return
    if expected.is_complex():
        if matches(got, expected.conj()):
            yield "{what} is the complex conjugate of what was expected"
        return
    large = _abs(expected) > 1e-3 * _abs(expected).max()
    chosen = expected[large]
    # Of a few equal numbers every change looks like a factor.
    if chosen.numel() >= 3 and _unique(chosen).numel() >= 2:
        factor = float(_median(got[large] / chosen))
        if math.isfinite(factor) and abs(factor) > 1e-12 and matches(got, factor * expected):
            yield (
                f"every element of {{what}} is {_words.number(factor, 5)} times the expected one"
                + _named(factor)
            )
        offset = float(_median(got - expected))
        if math.isfinite(offset) and matches(got, expected + offset):
            direction = "large" if offset > 0 else "small"
            yield f"every element of {{what}} is too {direction} by {_words.number(abs(offset), 5)}"


def _named(factor: float) -> str:
    """What a factor may stand for: a size, its root, or n / (n - 1)."""
    size = abs(factor)
    small = size < 1
    size = 1 / size if small else size
    for power, said in ((1, "{}"), (2, "the square root of {}")):
        whole = size**power
        if abs(whole - round(whole)) < 1e-5 * whole and 2 <= round(whole) <= 65536:
            name = said.format(round(whole))
            if power == 1 and not small:
                return ""
            return f", which is 1 / {name}" if small else f", which is {name}"
    for power, said in ((1, ""), (2, "the square root of ")):
        whole = size**power
        n = round(whole / (whole - 1)) if whole > 1 + 1e-9 else 0
        if 2 < n <= 1024 and abs(whole - n / (n - 1)) < 1e-6:
            ratio = f"{n - 1}/{n}" if small else f"{n}/{n - 1}"
            return f", which is {said}{ratio}: divided by n in place of n - 1, or the reverse"
    if abs(size - math.log(2)) < 1e-5 or abs(size - 1 / math.log(2)) < 1e-5:
        return ": a logarithm to base 2 in place of the natural one, or the reverse"
    return ""


def _of_axes(
    got: Tensor, expected: Tensor, matches: Matches, names: Sequence[str]
) -> Iterator[str]:
    shape = tuple(expected.shape)
    axes = range(expected.ndim)
    if 2 <= expected.ndim <= _MOST_AXES:
        swapped = [
            order
            for order in permutations(axes)
            if order != tuple(axes)
            and tuple(shape[i] for i in order) == shape
            and matches(got, _permute(expected, order))
        ]
        if len(swapped) == 1:
            moved = [i for i in axes if swapped[0][i] != i]
            if moved == [expected.ndim - 2, expected.ndim - 1]:
                yield "{what} is transposed: its last two axes are swapped"
            elif len(moved) == 2:
                said = _words.listed(_words.axis(i, names) for i in moved)
                yield f"{said} of {{what}} are swapped"
            else:
                yield f"the axes of {{what}} are in the order {_words.shape(swapped[0])}"
    for axis in axes:
        if shape[axis] < 2:
            continue
        said = _words.axis(axis, names)
        if matches(got, _flip(expected, (axis,))):
            yield f"{said} of {{what}} is in reverse order"
        elif shape[axis] > 2:
            for step in (1, -1):
                rolled = _roll(expected, step, axis)
                if matches(got, rolled):
                    yield f"{{what}} is shifted by one along {said}"
                    break
                kept = (axis, 1, shape[axis] - 1) if step == 1 else (axis, 0, shape[axis] - 1)
                if matches(_narrow(got, *kept), _narrow(rolled, *kept)):
                    yield f"{{what}} is shifted by one along {said}"
                    break
        first = _narrow(expected, axis, 0, 1).expand_as(expected)
        if matches(got, first):
            yield f"every entry of {{what}} along {said} is the first one"
    yield from _of_normalised_axis(got, expected, matches, names)


def _of_normalised_axis(
    got: Tensor, expected: Tensor, matches: Matches, names: Sequence[str]
) -> Iterator[str]:
    """Weights that sum to 1 over another axis than they should."""
    if expected.is_complex() or not bool(_all(expected >= 0)) or not bool(_all(got >= 0)):
        return

    def normalised(tensor: Tensor) -> list[int]:
        sums = (_sum(tensor, axis) for axis in range(tensor.ndim))
        return [axis for axis, total in enumerate(sums) if matches(total, _ones_like(total))]

    should, does = normalised(expected), normalised(got)
    if len(should) == 1 and len(does) == 1 and should != does:
        yield (
            f"{{what}} sums to 1 over {_words.axis(does[0], names)}; "
            f"it must sum to 1 over {_words.axis(should[0], names)}"
        )


def _of_function(got: Tensor, expected: Tensor, matches: Matches) -> Iterator[str]:
    if expected.numel() < 2:
        return
    table: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = (
        ("{what} is the exponential of what was expected: is a log missing?", _exp),
        ("{what} is the logarithm of what was expected", _log),
        ("{what} is the square of what was expected: is a square root missing?", _square),
        ("{what} is the square root of what was expected", _sqrt),
        ("{what} is 1 / what was expected", _reciprocal),
        ("{what} is the absolute value of what was expected", _abs),
        ("{what} is the softmax of what was expected", _softmax_of_rows),
    )
    for sentence, function in table:
        changed = function(expected)
        if bool(_all(_isfinite(changed))) and matches(got, changed):
            yield sentence


def _softmax_of_rows(tensor: Tensor) -> Tensor:
    return _softmax(tensor, -1) if tensor.ndim else tensor


def where(wrong: Tensor, names: Sequence[str] = ()) -> str:
    """What the wrong places have in common, as the end of a sentence; empty if nothing.

    Args:
        wrong: (*) bool, true where an element is wrong; at least one is.
        names: the names of the axes, or none.
    """
    if wrong.ndim == 0 or wrong.numel() > _MOST_ELEMENTS:
        return ""
    places = wrong.nonzero()
    total = len(places)
    if total < 2:
        return ""
    if total == wrong.numel():
        return "all elements are wrong"
    same = [i for i in range(wrong.ndim) if int(places[:, i].min()) == int(places[:, i].max())]
    same = [i for i in same if wrong.shape[i] > 1]
    if same:
        spots = [f"{_words.axis(i, names)} at {int(places[0, i])}" for i in same]
        last = [
            " (the last)"
            if int(places[0, i]) == wrong.shape[i] - 1
            else " (the first)"
            if int(places[0, i]) == 0
            else ""
            for i in same
        ]
        said = _words.listed(f"{s}{note}" for s, note in zip(spots, last, strict=True))
        return f"all {total} wrong elements have {said}"
    if wrong.ndim >= 2:
        distance = places[:, -1] - places[:, -2]
        low, high = int(distance.min()), int(distance.max())
        if low == high == 0:
            return f"all {total} wrong elements are on the diagonal"
        if low == high:
            side = "above" if low > 0 else "below"
            step = "one step" if abs(low) == 1 else f"{abs(low)} steps"
            return f"all {total} wrong elements are {step} {side} the diagonal"
        if low > 0:
            return f"all {total} wrong elements are above the diagonal"
        if high < 0:
            return f"all {total} wrong elements are below the diagonal"
    return ""
