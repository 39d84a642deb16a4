"""Heat maps of two tensors and their difference, cut to a window around the worst element."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from grader.testing import _words
from grader.testing._record import drawn

WINDOW = 24  # rows and columns that a page draws at most

_nonzero = torch.nonzero


def compared(
    got: Tensor,
    expected: Tensor,
    wrong: Tensor,
    worst: Sequence[int],
    names: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """The picture of expected, got and difference, or none for a single number.

    Args:
        got: (*) float64.
        expected: (*) float64, of the same shape.
        wrong: (*) bool, the places to mark.
        worst: the index of the worst element.
        names: the names of the axes, or none.
    """
    if got.ndim == 0 or got.is_complex():
        return []
    ahead = tuple(worst[:-2])
    planes = [_plane(tensor, ahead) for tensor in (expected, got, wrong)]
    row = worst[-2] if got.ndim > 1 else 0
    rows, columns = planes[0].shape
    top, left = _start(row, rows), _start(worst[-1], columns)
    cut = [plane[top : top + WINDOW, left : left + WINDOW] for plane in planes]
    marked = _nonzero(cut[2]).tolist()
    row_axis = names[-2] if len(names) > 1 else ("" if got.ndim == 1 else f"axis {got.ndim - 2}")
    column_axis = names[-1] if names else f"axis {got.ndim - 1}"
    caption = f"{_words.count(int(wrong.sum()), 'element')} of {wrong.numel()} differ"
    if ahead:
        caption += f"; drawn is the slice {_words.place(ahead)} with the worst of them"
    return [
        drawn(
            "heatmap",
            "Expected and yours",
            caption,
            maps=[
                {
                    "label": "expected",
                    "values": _values(cut[0]),
                    "marked": [],
                    "scale": _scale(cut),
                },
                {
                    "label": "yours",
                    "values": _values(cut[1]),
                    "marked": marked,
                    "scale": _scale(cut),
                },
                {
                    "label": "difference",
                    "values": _values(cut[1] - cut[0]),
                    "marked": marked,
                    "scale": "diverging",
                },
            ],
            row_axis=row_axis,
            column_axis=column_axis,
            origin=[top, left],
        )
    ]


def _plane(tensor: Tensor, ahead: tuple[int, ...]) -> Tensor:
    return tensor[ahead] if tensor.ndim > 1 else tensor[None]


def _start(worst: int, size: int) -> int:
    return max(0, min(worst - WINDOW // 2, size - WINDOW))


def _values(plane: Tensor) -> list[list[float]]:
    return [[float(f"{value:.6g}") for value in row] for row in plane.tolist()]


def _scale(cut: Sequence[Tensor]) -> str:
    return "diverging" if bool((cut[0] < 0).any()) or bool((cut[1] < 0).any()) else "sequential"
