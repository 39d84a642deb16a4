"""Day 07: a cheat sheet of shapes, strides and memory; predict first, then execute.

`python cheat_sheet.py` prints the sheet as a Markdown table.
"""

import sys
from math import prod
from typing import Any

from torch import Tensor

Shape = tuple[int, ...]

# Row: the operation, and shape and stride (in elements) of the float32 `x` that it is given.
GIVEN: dict[int, tuple[str, Shape, Shape]] = {
    # axes move
    1: ("x.transpose(0, 2)", (2, 3, 5), (15, 5, 1)),
    2: ("x.permute(2, 0, 1)", (2, 3, 5), (15, 5, 1)),
    3: ("x.mT", (2, 3, 5), (15, 5, 1)),
    4: ("x.permute(1, 2, 0)", (2, 3, 5), (1, 2, 6)),
    # axes come and go
    5: ("x.unsqueeze(1)", (3, 5), (1, 3)),
    6: ("x.squeeze(1)", (3, 1, 5), (10, 5, 1)),
    7: ("x.squeeze(0)", (3, 1, 5), (5, 5, 1)),
    8: ("x.expand(2, 3, 5)", (3, 1), (1, 1)),
    # parts of x
    9: ("x[1]", (2, 3, 5), (1, 2, 6)),
    10: ("x[:, ::2]", (3, 7), (7, 1)),
    11: ("x[[2, 0]]", (3, 7), (7, 1)),
    12: ("x.unfold(1, 3, 2)", (2, 7), (7, 1)),
    # the same elements in another shape
    13: ("x.reshape(3, 10)", (3, 2, 5), (10, 5, 1)),
    14: ("x.transpose(0, 1).reshape(6)", (2, 3), (3, 1)),
    15: ("x.flatten()", (3, 2), (1, 3)),
    16: ("x.flatten(1)", (2, 3, 5), (30, 5, 1)),
    # the same shape in other memory, perhaps
    17: ("x.contiguous()", (2, 3), (3, 1)),
    18: ("x.contiguous()", (3, 2), (1, 3)),
    19: ("x.repeat(2, 3)", (3, 5), (5, 1)),
    20: ("x.clone()", (3, 2), (1, 3)),
}


def given_rows() -> dict[int, tuple[Shape, Shape, str]]:
    """Predict the rows of GIVEN, without calling torch.

    Returns:
        Row -> (out_shape, out_stride, memory). Strides count elements; that of an axis of size 1
        may be anything. `memory` is "view" if the result shares memory with `x`, else "copy".
    """
    # TODO 1: rows 1 to 20, each `number: (out_shape, out_stride, memory),`
    raise NotImplementedError("day07 T1: given_rows")
    # END TODO


def own_rows() -> list[tuple[Any, ...]]:
    """Add at least 20 rows of your own, without calling torch.

    Returns:
        Rows (op, in_shape, in_stride, out_shape, out_stride, memory); what stands behind these
        six, such as a note, is yours.
    """
    # TODO 2: 20 rows or more
    raise NotImplementedError("day07 T2: own_rows")
    # END TODO


def predict(
    shape: Shape, stride: Shape, ops: list[tuple[str, tuple[int, ...]]]
) -> tuple[Shape, Shape, str]:
    """Run a program of operations on shape and stride alone, in plain Python.

    Args:
        shape: sizes of at least 1, or `()`.
        stride: one for each axis, in elements; 0 where the tensor is expanded.
        ops: pairs of a name and its arguments, such as `("permute", (1, 0))`.

    Returns:
        Shape and stride of the last result (the strides of axes of size 1 may be anything), and
        "view" if it shares memory with the start, else "copy".
    """
    # TODO 3: one operation after the other
    raise NotImplementedError("day07 T3: predict")
    # END TODO


# Five functions with one wrong shape operation each, and below each of them its docstring, which is
# right. Copy all five bodies first, then repair the copies.


def broken_merge_heads(x: Tensor) -> Tensor:
    batch, heads, seq, dim = x.shape
    tokens = x.reshape(batch, seq, heads, dim)
    return tokens.reshape(batch, seq, heads * dim)


def merge_heads(x: Tensor) -> Tensor:
    """Put the heads of every token side by side, head 0 first.

    Args:
        x: (batch, heads, seq, dim)

    Returns:
        (batch, seq, heads * dim)
    """
    # TODO 4: the body from above, repaired
    raise NotImplementedError("day07 T4: repair_five")
    # END TODO


def broken_to_nchw(images: Tensor) -> Tensor:
    scaled = images.float() / 255
    planes = scaled.transpose(1, 3)
    return planes.contiguous()


def to_nchw(images: Tensor) -> Tensor:
    """Move the channels of images before their rows and columns, and scale them to 0 ... 1.

    Args:
        images: (batch, height, width, chan), uint8

    Returns:
        (batch, chan, height, width), float32
    """
    # TODO 4: the body from above, repaired
    raise NotImplementedError("day07 T4: repair_five")
    # END TODO


def broken_batch_outer(a: Tensor, b: Tensor) -> Tensor:
    column = a.unsqueeze(-1)
    row = b.unsqueeze(-1)
    return column * row


def batch_outer(a: Tensor, b: Tensor) -> Tensor:
    """Multiply every entry of a row of `a` by every entry of the same row of `b`.

    Args:
        a: (batch, n)
        b: (batch, m)

    Returns:
        (batch, n, m); entry [i, j, k] is `a[i, j] * b[i, k]`.
    """
    # TODO 4: the body from above, repaired
    raise NotImplementedError("day07 T4: repair_five")
    # END TODO


def broken_column_loss(pred: Tensor, target: Tensor) -> Tensor:
    error = pred - target
    squared = error.square()
    return squared.mean()


def column_loss(pred: Tensor, target: Tensor) -> Tensor:
    """Take the mean over the batch of the squared difference of prediction and target.

    Args:
        pred: (batch, 1), as it comes out of a linear layer
        target: (batch,)

    Returns:
        A tensor without axes.
    """
    # TODO 4: the body from above, repaired
    raise NotImplementedError("day07 T4: repair_five")
    # END TODO


def broken_pick_per_row(scores: Tensor, index: Tensor) -> Tensor:
    places = index.unsqueeze(0)
    picked = scores.gather(1, places)
    return picked.flatten()


def pick_per_row(scores: Tensor, index: Tensor) -> Tensor:
    """Take one entry of every row.

    Args:
        scores: (batch, n)
        index: (batch,), int64

    Returns:
        (batch,); entry [i] is `scores[i, index[i]]`.
    """
    # TODO 4: the body from above, repaired
    raise NotImplementedError("day07 T4: repair_five")
    # END TODO


def markdown() -> str:
    """The sheet as a Markdown table: the given rows, then yours."""
    predicted = given_rows()
    rows = [(*GIVEN[number], *predicted[number]) for number in GIVEN] + own_rows()
    head = ("op", "in_shape", "in_stride", "out_shape", "out_stride", "memory", "note")
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for op, *cells in rows:
        cells = [*map(str, cells), ""][: len(head) - 1]
        lines.append("| `" + str(op).replace("|", "\\|") + "` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(markdown() + "\n")
