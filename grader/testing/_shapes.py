"""What kind of tensor came back: its type, axes, dtype, device and strides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import prod
from typing import Any

import torch
from torch import Tensor

from grader.testing import _words
from grader.testing._failure import fail
from grader.testing._record import drawn

_Tensor = torch.Tensor
_plain_types = (torch.Tensor, torch.nn.Parameter)
_strided = torch.strided


def assert_tensor(value: Any, what: str = "the result") -> Tensor:
    """The value is a plain `torch.Tensor` or `Parameter` with a strided layout; returns it."""
    __tracebackhide__ = True
    if type(value) not in _plain_types:
        fail(
            f"{what} is {_words.kind(value)}; expected a torch.Tensor" + _why_no_tensor(value),
            id="type.tensor",
            expected="Tensor",
            got=type(value).__name__,
        )
    if value.layout is not _strided:
        layout = str(value.layout).removeprefix("torch.")
        fail(f"{what} has the layout {layout}; expected a strided tensor", id="type.layout")
    if value.is_quantized:
        fail(f"{what} is quantized; expected plain numbers", id="type.layout")
    tensor: Tensor = value
    return tensor


def assert_shape(tensor: Any, /, **axes: int) -> None:
    """The tensor has exactly these axes, in this order.

    Args:
        tensor: the result, any shape.
        axes: the size of each axis under its name, so that the message can say which moved.
    """
    __tracebackhide__ = True
    shape = tuple(assert_tensor(tensor).shape)
    names, sizes = tuple(axes), tuple(axes.values())
    if shape != sizes:
        fail_shape(shape, sizes, names)


def fail_shape(
    got: tuple[int, ...],
    expected: tuple[int, ...],
    names: tuple[str, ...] = (),
    what: str = "",
) -> None:
    """Fail with what happened to the axes of `expected` so that they became `got`."""
    __tracebackhide__ = True
    finding = _compared(got, expected, names)
    asked, came = _words.shape(expected, names), _words.shape(got)
    sentence = f"{finding.sentence}: expected shape {asked}, got {came}"
    shown = names if names and expected else tuple(str(i) for i in range(len(expected)))
    fail(
        f"{what}: {sentence}" if what else sentence,
        id=f"shape.{finding.id}",
        args={"axes": list(finding.axes)},
        expected={"shape": expected, "axes": names},
        got={"shape": got},
        details=_rows(got, expected, shown),
        pictures=[
            drawn(
                "axes",
                "The axes",
                sentence,
                expected={"names": shown, "sizes": expected},
                got={"sizes": got},
                moves=finding.moves,
            )
        ],
    )


def assert_dtype(tensor: Any, dtype: torch.dtype, what: str = "the result") -> None:
    """The tensor has exactly this dtype."""
    __tracebackhide__ = True
    came = assert_tensor(tensor, what).dtype
    if came is not dtype:
        fail(
            f"{what} is {_words.dtype(came)}; expected {_words.dtype(dtype)}",
            id="dtype",
            expected=_words.dtype(dtype),
            got=_words.dtype(came),
        )


def assert_device(tensor: Any, device: str | torch.device, what: str = "the result") -> None:
    """The tensor lives on this device; `"cuda"` means any of them."""
    __tracebackhide__ = True
    came = assert_tensor(tensor, what).device
    asked = torch.device(device)
    if came.type != asked.type or (asked.index is not None and came.index != asked.index):
        fail(
            f"{what} is on {came}; expected {asked}: results live on the device of the inputs",
            id="device",
            expected=str(asked),
            got=str(came),
        )


def assert_strides(tensor: Any, strides: Sequence[int], what: str = "the result") -> None:
    """The tensor has exactly these strides, in elements."""
    __tracebackhide__ = True
    came, asked = tuple(assert_tensor(tensor, what).stride()), tuple(strides)
    if came != asked:
        fail(
            f"the strides of {what} are {_words.shape(came)}; expected {_words.shape(asked)}"
            + _why_strides(tensor, asked),
            id="strides",
            expected=asked,
            got=came,
        )


def assert_contiguous(tensor: Any, what: str = "the result") -> None:
    """The tensor is contiguous in row-major order."""
    __tracebackhide__ = True
    if not assert_tensor(tensor, what).is_contiguous():
        fail(
            f"{what} is not contiguous: its strides are {_words.shape(tuple(tensor.stride()))} "
            f"for shape {_words.shape(tuple(tensor.shape))}",
            id="contiguous",
            got=tuple(tensor.stride()),
        )


@dataclass(frozen=True, slots=True)
class _Finding:
    """What happened to the axes."""

    id: str
    sentence: str
    axes: tuple[int, ...] = ()
    moves: tuple[tuple[int, int], ...] = ()  # expected axis i is got axis j


def _compared(got: tuple[int, ...], expected: tuple[int, ...], names: tuple[str, ...]) -> _Finding:
    if len(got) == len(expected):
        found = _permuted(got, expected, names) or _resized(got, expected, names)
    elif len(got) < len(expected):
        found = _missing(got, expected, names)
    else:
        found = _extra(got, expected, names)
    return found or _Finding("ndim", f"{_axes(len(got))} where {len(expected)} belong")


def _permuted(
    got: tuple[int, ...], expected: tuple[int, ...], names: tuple[str, ...]
) -> _Finding | None:
    if sorted(got) != sorted(expected):
        return None
    # Axes that may have stayed did stay; the others are paired in order, by size.
    stayed = [i for i in range(len(got)) if got[i] == expected[i]]
    free = [j for j in range(len(got)) if j not in stayed]
    moves = [(i, i) for i in stayed]
    for i in (i for i in range(len(expected)) if i not in stayed):
        j = next(j for j in free if got[j] == expected[i])
        free.remove(j)
        moves.append((i, j))
    moves.sort()
    moved = tuple(i for i, j in moves if i != j)
    if len(moved) == 2:
        named = f" ({_words.listed(names[i] for i in moved)})" if names else ""
        sentence = f"axes {moved[0]} and {moved[1]}{named} are swapped"
    else:
        order = [i for i, _ in sorted(moves, key=lambda move: move[1])]
        said = ", ".join(names[i] if names else str(i) for i in order)
        sentence = f"the sizes are right but the axes are in another order, ({said})"
    return _Finding("permuted", sentence, moved, tuple(moves))


def _resized(
    got: tuple[int, ...], expected: tuple[int, ...], names: tuple[str, ...]
) -> _Finding | None:
    wrong = tuple(i for i in range(len(got)) if got[i] != expected[i])
    moves = tuple((i, i) for i in range(len(got)) if i not in wrong)
    if all(expected[i] == 1 for i in wrong):
        return _Finding("broadcast", f"it was broadcast to {_words.shape(got)}", wrong, moves)
    if len(wrong) == 1:
        (i,) = wrong
        sentence = f"{_words.axis(i, names)} has size {got[i]} instead of {expected[i]}"
        if got[i] == 1:
            sentence += ", as after a reduction with keepdim=True"
        elif got[i] - expected[i] in (-1, 1):
            sentence += ", one too few" if got[i] < expected[i] else ", one too many"
        return _Finding("size", sentence, wrong, moves)
    said = _words.listed(f"{_words.axis(i, names)} is {got[i]} not {expected[i]}" for i in wrong)
    return _Finding("size", said, wrong, moves)


def _missing(
    got: tuple[int, ...], expected: tuple[int, ...], names: tuple[str, ...]
) -> _Finding | None:
    if not got and prod(expected) > 1:
        return _Finding("reduced", "it is a single number: every axis was reduced")
    for kept in combinations(range(len(expected)), len(got)):
        if tuple(expected[i] for i in kept) != got:
            continue
        gone = tuple(i for i in range(len(expected)) if i not in kept)
        moves = tuple((i, j) for j, i in enumerate(kept))
        if all(expected[i] == 1 for i in gone):
            noun = "a size-1 axis is" if len(gone) == 1 else "size-1 axes are"
            where = _words.listed(_words.axis(i, names) for i in gone)
            return _Finding("keepdim", f"{noun} missing, {where} (keepdim)", gone, moves)
        verb = "is" if len(gone) == 1 else "are"
        where = _words.listed(_words.axis(i, names) for i in gone)
        return _Finding("missing", f"{where} {verb} missing", gone, moves)
    for first, last in combinations(range(len(expected) + 1), 2):
        if last - first < 2:
            continue
        merged = (*expected[:first], prod(expected[first:last]), *expected[last:])
        if merged == got:
            which = _words.listed(str(i) for i in range(first, last))
            named = f" ({_words.listed(names[first:last])})" if names else ""
            sentence = f"axes {which}{named} are merged into one of {merged[first]}"
            moves = tuple((i, first) for i in range(first, last))
            return _Finding("merged", sentence, tuple(range(first, last)), moves)
    return None


def _extra(
    got: tuple[int, ...], expected: tuple[int, ...], names: tuple[str, ...]
) -> _Finding | None:
    for kept in combinations(range(len(got)), len(expected)):
        if tuple(got[j] for j in kept) != expected:
            continue
        extra = tuple(j for j in range(len(got)) if j not in kept)
        moves = tuple(enumerate(kept))
        if len(extra) == 1:
            (j,) = extra
            if got[j] == 1:
                sentence = f"there is an extra axis of size 1 at position {j}"
                return _Finding("extra", sentence, extra, moves)
            if got[j] in expected:
                return _Finding(
                    "broadcast",
                    f"it was broadcast to {_words.shape(got)}: an extra axis of {got[j]}",
                    extra,
                    moves,
                )
            sentence = f"there is an extra axis of size {got[j]} at position {j}"
            return _Finding("extra", sentence, extra, moves)
        where = _words.listed(str(j) for j in extra)
        return _Finding("extra", f"there are extra axes at positions {where}", extra, moves)
    for first, last in combinations(range(len(got) + 1), 2):
        merged = (*got[:first], prod(got[first:last]), *got[last:])
        if last - first > 1 and merged == expected:
            named = _words.axis(first, names)
            split = _words.shape(got[first:last])
            return _Finding("split", f"{named} is split into {split}", (first,))
    return None


def _rows(got: Sequence[int], expected: Sequence[int], names: Sequence[str]) -> tuple[str, ...]:
    """The names and both shapes, one column an axis; a star marks a size that differs."""
    if not expected or max(len(got), len(expected)) > 8:
        return ()
    heads = [*names, *[""] * (len(got) - len(expected))]
    asked = [*map(str, expected), *[""] * (len(got) - len(expected))]
    same = len(got) == len(expected)
    came = [f"*{size}" if same and size != expected[i] else str(size) for i, size in enumerate(got)]
    came += [""] * (len(heads) - len(came))
    widths = [max(map(len, column)) for column in zip(heads, asked, came, strict=True)]

    def row(label: str, cells: Sequence[str]) -> str:
        aligned = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        return (f"{label:<10}" + "".join(f"   {cell}" for cell in aligned)).rstrip()

    return (row("", heads), row("expected", asked), row("got", came))


def _axes(count: int) -> str:
    return "no axis" if count == 0 else _words.count(count, "axis").replace("axiss", "axes")


def _why_no_tensor(value: Any) -> str:
    if value is None:
        return ": is a return missing?"
    if isinstance(value, tuple | list):
        return ", not several values"
    if type(value).__module__ == "numpy":
        return ": stay in torch, or use torch.from_numpy"
    if isinstance(value, int):  # bools, too; no gradient is lost with them
        return "; torch.tensor makes one of a number"
    if isinstance(value, float | complex):
        return ": .item() and Python arithmetic leave torch, and cut the gradient"
    if isinstance(value, _Tensor):
        return ", of no subclass"
    return ""


def _why_strides(tensor: Tensor, asked: tuple[int, ...]) -> str:
    came = tuple(tensor.stride())
    if len(came) != len(asked):
        return ""
    if sorted(came) == sorted(asked):
        return "; the axes are in another order in memory"
    if tensor.is_contiguous():
        return "; it was copied into a contiguous tensor"
    return ""
