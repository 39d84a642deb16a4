"""Day 7 asks for a cheat sheet of shapes, a tensor without elements, and five repairs."""

import ast
import math
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode, resolve_name

from grader.testing import (
    assert_close,
    assert_dtype,
    assert_shape,
    assert_tensor,
    assert_unchanged,
    expect,
    fail,
    forbid_torch,
    loop_oracle,
    picture,
    rand_ints,
    randn,
    smallest,
)

Shape = tuple[int, ...]
Op = tuple[str, tuple[int, ...]]

# Rows, and what executing them gives.

NEW_MEMORY = "it makes a new tensor, whatever it is given"
OTHER_STRIDES = "other sizes and strides on the same storage describe the result"
ALREADY = "where nothing has to change, the method gives x itself"
NO_STRIDE = "in memory the elements of the result are in an order that no stride describes"

GIVEN: dict[int, tuple[str, Shape, Shape, str]] = {
    1: ("x.transpose(0, 2)", (2, 3, 5), (15, 5, 1), OTHER_STRIDES),
    2: ("x.permute(2, 0, 1)", (2, 3, 5), (15, 5, 1), OTHER_STRIDES),
    3: ("x.mT", (2, 3, 5), (15, 5, 1), OTHER_STRIDES),
    4: ("x.permute(1, 2, 0)", (2, 3, 5), (1, 2, 6), OTHER_STRIDES),
    5: ("x.unsqueeze(1)", (3, 5), (1, 3), OTHER_STRIDES),
    6: ("x.squeeze(1)", (3, 1, 5), (10, 5, 1), OTHER_STRIDES),
    7: ("x.squeeze(0)", (3, 1, 5), (5, 5, 1), ALREADY),
    8: ("x.expand(2, 3, 5)", (3, 1), (1, 1), "an axis may have the stride 0: nothing is repeated"),
    9: ("x[1]", (2, 3, 5), (1, 2, 6), OTHER_STRIDES),
    10: ("x[:, ::2]", (3, 7), (7, 1), OTHER_STRIDES),
    11: ("x[[2, 0]]", (3, 7), (7, 1), "rows named by a list have no common stride in general"),
    12: ("x.unfold(1, 3, 2)", (2, 7), (7, 1), "windows may overlap: two axes step through one row"),
    13: ("x.reshape(3, 10)", (3, 2, 5), (10, 5, 1), OTHER_STRIDES),
    14: ("x.transpose(0, 1).reshape(6)", (2, 3), (3, 1), NO_STRIDE),
    15: ("x.flatten()", (3, 2), (1, 3), NO_STRIDE),
    16: ("x.flatten(1)", (2, 3, 5), (30, 5, 1), "the axes that are merged lie without a gap"),
    17: ("x.contiguous()", (2, 3), (3, 1), ALREADY),
    18: ("x.contiguous()", (3, 2), (1, 3), NO_STRIDE),
    19: ("x.repeat(2, 3)", (3, 5), (5, 1), NEW_MEMORY),
    20: ("x.clone()", (3, 2), (1, 3), NEW_MEMORY),
}

AXES_MOVE, AXES_COME_AND_GO = (1, 2, 3, 4), (5, 6, 7, 8)
PARTS, RESHAPED, COPIED = (9, 10, 11, 12), (13, 14, 15, 16), (17, 18, 19, 20)

COVERED = (
    "view",
    "reshape",
    "flatten",
    "permute",
    "transpose",
    "unsqueeze",
    "squeeze",
    "expand",
    "repeat",
    "contiguous",
    "unfold",
    "clone",
    "to",
)


@dataclass(frozen=True)
class Executed:
    """What one operation gives when it is executed."""

    shape: Shape
    stride: Shape
    memory: str
    calls: tuple[str, ...]  # the functions of torch that it called


@dataclass(frozen=True)
class Row:
    """One row of the learner's own, as it was written."""

    place: str  # "row 3 (`x.mT`)"
    op: str
    in_shape: Shape
    in_stride: Shape
    out_shape: Any
    out_stride: Any
    memory: Any


class Calls(TorchFunctionMode):
    """Notes the names of torch's functions that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        parts = (resolve_name(func) or getattr(func, "__name__", "?")).split(".")
        self.names.append(parts[-2] if parts[-1] == "__get__" else parts[-1])
        return func(*args, **(kwargs or {}))


def laid_out(shape: Shape, stride: Shape) -> Tensor:
    """A float32 tensor of this shape and stride that holds its places in the storage."""
    places = 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    return torch.arange(places, dtype=torch.float32).as_strided(shape, stride)


def execute(op: str, shape: Shape, stride: Shape) -> Executed:
    """Execute an operation on a fresh `x`."""
    x = laid_out(shape, stride)
    start = x.untyped_storage().data_ptr()
    code = compile(op, "<op>", "eval")
    with warnings.catch_warnings(), Calls() as calls:
        warnings.simplefilter("ignore")
        result = eval(code, {"__builtins__": {}, "torch": torch, "F": F, "x": x})
    if not isinstance(result, Tensor):
        raise TypeError(f"the result is a {type(result).__name__}, not a tensor")
    memory = "view" if result.untyped_storage().data_ptr() == start else "copy"
    return Executed(tuple(result.shape), tuple(result.stride()), memory, tuple(calls.names))


def row_major(shape: Shape) -> Shape:
    """The strides of a contiguous tensor."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def same_strides(got: Shape, expected: Shape, shape: Shape) -> bool:
    """Equal where it matters: on axes of more than one element."""
    return len(got) == len(expected) and all(
        n == 1 or a == b for a, b, n in zip(got, expected, shape, strict=True)
    )


def as_ints(cell: Any) -> Shape | None:
    """A cell as a tuple of ints; None if it is none."""
    if not isinstance(cell, tuple | list) or not all(type(each) is int for each in cell):
        return None
    return tuple(cell)


def check_shape_cell(place: str, cell: Any, ran: Executed, in_shape: Shape) -> None:
    """The cell `out_shape` of a row."""
    got = as_ints(cell)
    if got is None:
        fail(f"{place}: out_shape is {cell!r}; a tuple of ints is asked for", id="cell.tuple")
    if got == ran.shape:
        return
    why = "that is not what executing it gives"
    if len(got) != len(ran.shape):
        why = f"the result has {len(ran.shape)} axes"
    elif sorted(got) == sorted(ran.shape):
        why = "the sizes are right, but in another order"
    elif got == in_shape:
        why = "that is the shape of x itself"
    elif ran.calls[-1:] == ("unfold",):
        why = (
            "the axis becomes the number of windows, (size - length) // step + 1, and the windows "
            "get an axis of their own at the end"
        )
    fail(f"{place}: out_shape is {got}; {why}", id="cell.shape", got=str(got))


def check_stride_cell(place: str, cell: Any, ran: Executed, in_stride: Shape) -> None:
    """The cell `out_stride` of a row."""
    got = as_ints(cell)
    if got is None:
        fail(f"{place}: out_stride is {cell!r}; a tuple of ints is asked for", id="cell.tuple")
    if same_strides(got, ran.stride, ran.shape):
        return
    if len(got) != len(ran.shape):
        why = f"the result has {len(ran.shape)} axes, each with one stride"
    elif got == tuple(4 * s for s in ran.stride):
        why = "these are bytes, 4 for a float32; strides count elements"
    elif same_strides(got, row_major(ran.shape), ran.shape):
        why = (
            "a contiguous tensor would have these, but this result keeps the storage's order"
            if ran.memory == "view"
            else "a contiguous tensor would have these, but this copy keeps the order in memory"
        )
    elif got == in_stride:
        why = "these are the strides of x itself"
    elif sorted(got) == sorted(ran.stride):
        why = "the numbers are right, but a stride goes where its axis goes"
    elif ran.memory == "copy":
        why = "the copy has a storage of its own, laid out anew"
    else:
        why = "ask how many places of the storage one step along each axis jumps"
    fail(f"{place}: out_stride is {got}; {why}", id="cell.stride", got=str(got))


def check_memory_cell(place: str, cell: Any, ran: Executed, reason: str = "") -> None:
    """The cell `memory` of a row."""
    if cell not in ("view", "copy"):
        fail(f'{place}: memory is {cell!r}; "view" and "copy" are the two words', id="cell.memory")
    if cell != ran.memory:
        if not reason:
            reason = (
                "executed, the result lies in the storage of x"
                if ran.memory == "view"
                else "executed, the result lies in a storage of its own"
            )
        fail(f"{place}: memory is {cell!r}; that doesn't hold: {reason}", id="cell.memory")


def is_right(cells: Sequence[Any], ran: Executed) -> bool:
    """Whether out_shape, out_stride and memory of a row are as executed."""
    shape, stride = as_ints(cells[0]), as_ints(cells[1])
    return (
        shape == ran.shape
        and stride is not None
        and same_strides(stride, ran.stride, ran.shape)
        and cells[2] == ran.memory
    )


# The given rows.


def given_answer(submission) -> dict[int, Any]:
    """The learner's dict."""
    answer = submission.given_rows()
    if not isinstance(answer, dict):
        fail(
            f"the result should be a dict from row number to row; it is a {type(answer).__name__}",
            id="value.dict",
        )
    return answer


def is_row(value: Any) -> bool:
    """Whether a row of the dict has its three cells."""
    return isinstance(value, tuple | list) and len(value) == 3


def given_rows(submission, numbers: Sequence[int]) -> Iterator[tuple[str, Any, Executed, int]]:
    """Place, cells, what executing gives and number of some of the given rows."""
    answer = given_answer(submission)
    for number in numbers:
        op, shape, stride, _ = GIVEN[number]
        place = f"row {number} (`{op}` on shape {shape}, stride {stride})"
        cells = answer.get(number)
        if not is_row(cells):
            fail(f"{place} is missing, or has not three entries", id="value.row")
        yield place, cells, execute(op, shape, stride), number


def check_given_shapes(submission, numbers: Sequence[int]) -> None:
    """`out_shape` of some of the given rows."""
    for place, cells, ran, number in given_rows(submission, numbers):
        check_shape_cell(place, cells[0], ran, GIVEN[number][1])


def check_given_strides(submission, numbers: Sequence[int]) -> None:
    """`out_stride` of some of the given rows."""
    for place, cells, ran, number in given_rows(submission, numbers):
        check_stride_cell(place, cells[1], ran, GIVEN[number][2])


def check_given_memory(submission, numbers: Sequence[int]) -> None:
    """`memory` of some of the given rows."""
    for place, cells, ran, number in given_rows(submission, numbers):
        check_memory_cell(place, cells[2], ran, GIVEN[number][3])


def draw(title: str, lines: list[str], marked: list[int]) -> None:
    """The sheet, with the rows marked that execution contradicts."""
    picture(
        "text",
        title,
        "Marked rows differ from what executing them gives."
        if marked
        else "Every row is as executed.",
        panels=[{"label": "op, x, result", "lines": lines, "marked": marked}],
    )


def line_of(op: str, shape: Any, stride: Any, cells: Sequence[Any]) -> str:
    """A row of the sheet as a line of text."""
    written = "  ".join(str(cell) for cell in cells)
    return f"{op:<30} {shape!s:<11} {stride!s:<12} {written}"


@pytest.mark.task("given_rows")
class TestGivenRows:
    @pytest.mark.points(1, "structure")
    def test_rows(self, submission):
        """There are the rows 1 to 20, of three entries each."""
        answer = given_answer(submission)
        lines, marked = [], []
        for number, (op, shape, stride, _) in GIVEN.items():
            cells = answer.get(number)
            cells = cells if is_row(cells) else ("?", "?", "?")
            if not is_right(cells, execute(op, shape, stride)):
                marked.append(len(lines))
            lines.append(f"{number:>2}  {line_of(op, shape, stride, cells)}")
        draw("The given rows", lines, marked)
        missing = [number for number in GIVEN if number not in answer]
        expect(
            not missing,
            f"the dict has {len(GIVEN) - len(missing)} of the 20 rows; the first that is missing "
            f"is {missing[0] if missing else ''}",
            id="value.row",
        )
        unknown = [key for key in answer if key not in GIVEN]
        expect(
            not unknown,
            f"the dict has the key {unknown[0] if unknown else ''!r}, which is no row of GIVEN",
            id="value.row",
        )
        for number in GIVEN:
            expect(
                is_row(answer[number]),
                f"row {number} is {answer[number]!r}; (out_shape, out_stride, memory) is asked for",
                id="value.row",
            )

    @pytest.mark.points(1, "structure")
    def test_predicted(self, submission):
        """It is a prediction: nothing of torch is called."""
        with forbid_torch(why="predict the rows, and try the operations afterwards"):
            answer = submission.given_rows()
        expect(bool(answer), "given_rows() gives no rows", id="value.row")

    @pytest.mark.points(1, "shape")
    def test_shapes_where_axes_move(self, submission):
        """Rows 1 to 4: shapes where axes change places."""
        check_given_shapes(submission, AXES_MOVE)

    @pytest.mark.points(2, "theory")
    def test_strides_where_axes_move(self, submission):
        """Rows 1 to 4: strides where axes change places."""
        check_given_strides(submission, AXES_MOVE)

    @pytest.mark.points(1, "memory")
    def test_memory_where_axes_move(self, submission):
        """Rows 1 to 4: view or copy where axes change places."""
        check_given_memory(submission, AXES_MOVE)

    @pytest.mark.points(1, "shape")
    def test_shapes_where_axes_come_and_go(self, submission):
        """Rows 5 to 8: shapes where axes come and go."""
        check_given_shapes(submission, AXES_COME_AND_GO)

    @pytest.mark.points(2, "theory")
    def test_strides_where_axes_come_and_go(self, submission):
        """Rows 5 to 8: strides where axes come and go."""
        check_given_strides(submission, AXES_COME_AND_GO)

    @pytest.mark.points(1, "memory")
    def test_memory_where_axes_come_and_go(self, submission):
        """Rows 5 to 8: view or copy where axes come and go."""
        check_given_memory(submission, AXES_COME_AND_GO)

    @pytest.mark.points(1, "shape")
    def test_shapes_of_parts(self, submission):
        """Rows 9 to 12: shapes of parts and windows."""
        check_given_shapes(submission, PARTS)

    @pytest.mark.points(2, "theory")
    def test_strides_of_parts(self, submission):
        """Rows 9 to 12: strides of parts and windows."""
        check_given_strides(submission, PARTS)

    @pytest.mark.points(2, "memory")
    def test_memory_of_parts(self, submission):
        """Rows 9 to 12: view or copy of parts and windows."""
        check_given_memory(submission, PARTS)

    @pytest.mark.points(1, "shape")
    def test_shapes_of_reshaped(self, submission):
        """Rows 13 to 16: shapes after reshape and flatten."""
        check_given_shapes(submission, RESHAPED)

    @pytest.mark.points(2, "theory")
    def test_strides_of_reshaped(self, submission):
        """Rows 13 to 16: strides after reshape and flatten."""
        check_given_strides(submission, RESHAPED)

    @pytest.mark.points(2, "memory")
    def test_memory_of_reshaped(self, submission):
        """Rows 13 to 16: view or copy after reshape and flatten."""
        check_given_memory(submission, RESHAPED)

    @pytest.mark.points(1, "shape")
    def test_shapes_of_copies(self, submission):
        """Rows 17 to 20: shapes after contiguous, repeat, clone."""
        check_given_shapes(submission, COPIED)

    @pytest.mark.points(2, "theory")
    def test_strides_of_copies(self, submission):
        """Rows 17 to 20: strides after contiguous, repeat, clone."""
        check_given_strides(submission, COPIED)

    @pytest.mark.points(2, "memory")
    def test_memory_of_copies(self, submission):
        """Rows 17 to 20: view or copy after contiguous, repeat, clone."""
        check_given_memory(submission, COPIED)


# The learner's own rows.

ALLOWED = (
    ast.Expression,
    ast.Attribute,
    ast.Call,
    ast.keyword,
    ast.Subscript,
    ast.Slice,
    ast.Constant,
    ast.Tuple,
    ast.List,
    ast.UnaryOp,
    ast.unaryop,
    ast.BinOp,
    ast.operator,
    ast.Compare,
    ast.cmpop,
    ast.Name,
    ast.expr_context,
    ast.Starred,
)


def fault_of_op(op: Any) -> str:
    """What keeps an op from being one call chain on `x`; empty if it is one."""
    if not isinstance(op, str):
        return f"op is a {type(op).__name__}; a text such as 'x.mT' is asked for"
    try:
        tree = ast.parse(op.strip(), mode="eval")
    except SyntaxError as error:
        return f"op is no Python expression: {error.msg}"
    for node in ast.walk(tree):
        if not isinstance(node, ALLOWED):
            return f"`{ast.unparse(node)}` is no part of a call chain on x"
        if isinstance(node, ast.Name) and node.id not in ("x", "torch", "F"):
            return f"the name {node.id} is unknown to it; x, torch and F are the names it may use"
        if isinstance(node, ast.Attribute) and node.attr.startswith("__"):
            return f"{node.attr} is no operation on x"
    root: ast.expr = tree.body
    if not isinstance(root, ast.Call | ast.Attribute | ast.Subscript):
        return "op is not one call chain, such as x.mT.reshape(6), torch.cat([x, x]) or x[0]"
    while isinstance(root, ast.Call | ast.Attribute | ast.Subscript):
        root = root.func if isinstance(root, ast.Call) else root.value
    if not isinstance(root, ast.Name):
        return "op is not one call chain that starts with x, torch or F"
    if not any(isinstance(node, ast.Name) and node.id == "x" for node in ast.walk(tree)):
        return "x does not occur in op"
    return ""


def own_answer(submission) -> list[Any]:
    """The learner's list of rows."""
    answer = submission.own_rows()
    if not isinstance(answer, list | tuple):
        fail(
            f"the result should be a list of rows; it is a {type(answer).__name__}", id="value.list"
        )
    return list(answer)


def fault_of_row(row: Any) -> str:
    """What keeps a row from being executed; empty if nothing does."""
    if not isinstance(row, tuple | list) or len(row) < 6:
        return (
            "(op, in_shape, in_stride, out_shape, out_stride, memory) is asked for, "
            f"and it is {row!r}"
        )
    shape, stride = as_ints(row[1]), as_ints(row[2])
    if shape is None or stride is None:
        return "in_shape and in_stride must be tuples of ints"
    if len(shape) != len(stride):
        return f"in_shape has {len(shape)} axes, in_stride has {len(stride)}"
    if min(shape, default=1) < 1 or min(stride, default=0) < 0:
        return "sizes are at least 1, and strides at least 0"
    last = sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    if max(math.prod(shape), last) > 100_000:
        return f"an x of shape {shape} and stride {stride} is too large"
    return fault_of_op(row[0])


def own_rows(submission) -> list[Row]:
    """The rows that can be executed at all."""
    rows = []
    for number, row in enumerate(own_answer(submission), start=1):
        if not fault_of_row(row):
            op, shape, stride, *cells = row
            place = f"row {number} of yours (`{op}` on shape {shape}, stride {stride})"
            rows.append(Row(place, op.strip(), tuple(shape), tuple(stride), *cells[:3]))
    return rows


def run_or_none(row: Row) -> Executed | None:
    """What executing a row gives; None if it raises."""
    try:
        return execute(row.op, row.in_shape, row.in_stride)
    except Exception:
        return None


def own_executed(submission) -> list[tuple[Row, Executed]]:
    """The rows that don't raise, with what executing them gives."""
    pairs = [(row, run_or_none(row)) for row in own_rows(submission)]
    found = [(row, ran) for row, ran in pairs if ran is not None]
    if not found:
        fail("there is no row that can be executed", id="value.rows")
    return found


def order_of(stride: Shape) -> Shape:
    """Which axes have larger strides than which: the place of each among them."""
    known = sorted(set(stride))
    return tuple(known.index(each) for each in stride)


def that_count(pairs: Sequence[tuple[Row, Executed]]) -> tuple[list[Row], list[tuple[Row, Row]]]:
    """The rows that are like no earlier one, and the others with the earlier one."""
    first: dict[Any, Row] = {}
    alike = []
    for row, ran in pairs:
        key = (ran.calls, ran.memory, order_of(row.in_stride))
        if key in first:
            alike.append((row, first[key]))
        else:
            first[key] = row
    return list(first.values()), alike


@pytest.mark.task("own_rows")
class TestOwnRows:
    @pytest.mark.points(1, "structure")
    def test_rows(self, submission):
        """There are 20 rows, each op one call chain on x."""
        answer = own_answer(submission)
        for number, row in enumerate(answer, start=1):
            fault = fault_of_row(row)
            expect(not fault, f"row {number} of yours: {fault}", id="value.row")
        expect(
            len(answer) >= 20,
            f"there are {len(answer)} rows; at least 20 are asked for",
            id="value.rows",
        )

    @pytest.mark.points(1, "structure")
    def test_predicted(self, submission):
        """It is a prediction: nothing of torch is called."""
        with forbid_torch(why="predict the rows, and try the operations afterwards"):
            answer = submission.own_rows()
        expect(bool(answer), "own_rows() gives no rows", id="value.rows")

    @pytest.mark.points(2, "structure")
    def test_runs(self, submission):
        """Every row executes."""
        rows = own_rows(submission)
        lines, marked = [], []
        for row in rows:
            ran = run_or_none(row)
            cells = (row.out_shape, row.out_stride, row.memory)
            if ran is None or not is_right(cells, ran):
                marked.append(len(lines))
            lines.append(line_of(row.op, row.in_shape, row.in_stride, cells))
        if lines:
            draw("Your rows", lines, marked)
        for row in rows:
            try:
                execute(row.op, row.in_shape, row.in_stride)
            except Exception as error:
                said = (str(error).strip() or "without a message").splitlines()[0]
                fail(f"{row.place} raises {type(error).__name__}: {said}", id="row.raises")
        expect(bool(rows), "there is no row to execute", id="value.rows")

    @pytest.mark.points(2, "shape")
    def test_shapes(self, submission):
        """All shapes of the own rows are right."""
        for row, ran in own_executed(submission):
            check_shape_cell(row.place, row.out_shape, ran, row.in_shape)

    @pytest.mark.points(2, "theory")
    def test_strides(self, submission):
        """All strides of the own rows are right."""
        for row, ran in own_executed(submission):
            check_stride_cell(row.place, row.out_stride, ran, row.in_stride)

    @pytest.mark.points(3, "memory")
    def test_memory(self, submission):
        """View or copy is right in all own rows."""
        for row, ran in own_executed(submission):
            check_memory_cell(row.place, row.memory, ran)

    @pytest.mark.points(3, "structure")
    def test_alike(self, submission):
        """At least 20 rows are like no earlier one."""
        count, alike = that_count(own_executed(submission))
        if len(count) < 20:
            why = ""
            if alike:
                late, early = alike[0]
                why = (
                    f"; {late.place} is like {early.place}: the same functions, both a "
                    "view or both a copy, on strides of the same order"
                )
            fail(f"{len(count)} rows count, 20 are asked for{why}", id="rows.alike")

    @pytest.mark.points(2, "structure")
    def test_covers(self, submission):
        """The rows call all of the 15 operations."""
        called = {name for _, ran in own_executed(submission) for name in ran.calls}
        missing = [name for name in COVERED if name not in called]
        if "__getitem__" not in called:
            missing.append("indexing")
        if not called & {"cat", "concat", "concatenate", "stack"}:
            missing.append("cat or stack")
        expect(
            not missing,
            f"executing all rows never calls {', '.join(missing)}",
            id="rows.missing",
            got=missing,
        )

    @pytest.mark.points(2, "structure")
    def test_views_of_other_layouts(self, submission):
        """Six rows are views of inputs that are not contiguous."""
        views = [
            row
            for row, ran in own_executed(submission)
            if ran.memory == "view" and not laid_out(row.in_shape, row.in_stride).is_contiguous()
        ]
        expect(
            len(views) >= 6,
            f"{len(views)} rows are views of an x that is not contiguous, 6 are asked for; an x of "
            "shape (3, 2) and stride (1, 3), for example, is not contiguous",
            id="rows.layouts",
        )

    @pytest.mark.points(2, "structure")
    def test_both(self, submission):
        """Three operations occur as a view and as a copy."""
        seen: dict[tuple[str, ...], set[str]] = {}
        for _, ran in own_executed(submission):
            seen.setdefault(ran.calls, set()).add(ran.memory)
        both = [" ".join(calls) for calls, memory in seen.items() if len(memory) == 2]
        so_far = f" ({', '.join(both)})" if both else ""
        expect(
            len(both) >= 3,
            f"{len(both)} operations occur as a view in one row and as a copy in another{so_far}; "
            "3 are asked for",
            id="rows.both",
        )


# A tensor without elements.


def apply(x: Tensor, op: Op) -> Tensor:
    """One operation of a program, on a real tensor."""
    name, args = op
    if name == "slice":
        return x[(slice(None),) * args[0] + (slice(*args[1:]),)]
    if name in ("permute", "expand", "reshape"):
        return getattr(x, name)(args)
    return getattr(x, name)(*args)


def run_program(shape: Shape, stride: Shape, ops: Sequence[Op]) -> tuple[Shape, Shape, str]:
    """Shape, stride and memory of a program's result, by execution."""
    start = laid_out(shape, stride)
    x = start
    for op in ops:
        x = apply(x, op)
    shares = x.untyped_storage().data_ptr() == start.untyped_storage().data_ptr()
    return tuple(x.shape), tuple(x.stride()), "view" if shares else "copy"


def check_program(submission, case: dict[str, Any], why: str = "") -> None:
    """One program: shape, strides of axes of more than one element, memory."""
    shape, stride, ops = case["shape"], case["stride"], case["ops"]
    answer = submission.predict(shape, stride, list(ops))
    after = f" ({why})" if why else ""
    if not isinstance(answer, tuple | list) or len(answer) != 3:
        fail(f"predict gave {answer!r}; (shape, stride, memory) is asked for", id="predict.form")
    sizes, strides, memory = as_ints_of(answer[0]), as_ints_of(answer[1]), answer[2]
    if sizes is None or strides is None:
        fail(f"predict gave {answer!r}; shape and stride are tuples of ints", id="predict.form")
    expected = run_program(shape, stride, ops)
    shown = {"expected": str(expected), "got": str((sizes, strides, memory))}
    program = "the program " + ", ".join(
        f"{name}({', '.join(map(str, args))})" for name, args in ops
    )
    program = program if ops else "the empty program"
    if sizes != expected[0]:
        fail(
            f"{program} has the result shape {expected[0]}; predict says {sizes}{after}",
            id="predict.shape",
            **shown,
        )
    if not same_strides(strides, expected[1], sizes):
        if same_strides(strides, row_major(sizes), sizes):
            after = f", the strides of a contiguous tensor{after}"
        fail(
            f"{program} has the result stride {expected[1]}; predict says {strides}{after}",
            id="predict.stride",
            **shown,
        )
    if memory != expected[2]:
        fail(
            f"the result of {program} is a {expected[2]}; predict says {memory!r}{after}",
            id="predict.memory",
            **shown,
        )


def as_ints_of(value: Any) -> Shape | None:
    """A shape or stride as a tuple of ints; None if it is none."""
    return as_ints(list(value)) if isinstance(value, tuple | list) else None


def check_programs(submission, cases: Sequence[tuple[Shape, Shape, list[Op]]], why: str) -> None:
    """Programs from the smallest on."""
    smallest(
        lambda case: check_program(submission, case, why),
        [{"shape": shape, "stride": stride, "ops": ops} for shape, stride, ops in cases],
    )


def factors(numel: int, axes: int) -> Shape:
    """Random sizes of so many axes that multiply to `numel`."""
    sizes = [1] * axes
    rest, prime = numel, 2
    while rest > 1:
        if rest % prime:
            prime += 1
            continue
        sizes[random.randrange(axes)] *= prime
        rest //= prime
    return tuple(sizes)


def random_start() -> tuple[Shape, Shape]:
    """A shape with random strides: contiguous, permuted, with gaps, or expanded."""
    shape = tuple(random.choice((1, 2, 3, 4, 5, 7)) for _ in range(random.randint(1, 4)))
    order = list(range(len(shape)))
    if random.random() < 0.5:
        random.shuffle(order)
    stride, step = [0] * len(shape), 1
    for axis in reversed(order):
        stride[axis] = step
        step *= shape[axis]
        if random.random() < 0.15:
            step *= 2
    if random.random() < 0.2:
        stride[random.randrange(len(shape))] = 0
    return shape, tuple(stride)


def random_op(x: Tensor) -> Op:
    """One operation that is valid on `x`."""
    axes, shape = x.dim(), tuple(x.shape)
    any_axes = ["unsqueeze", "expand", "reshape", "reshape", "contiguous"]
    some_axes = ["permute", "transpose", "squeeze", "slice", "slice", "select", "flatten"]
    name = random.choice(any_axes + (some_axes if axes else []))
    if name == "contiguous":
        return name, ()
    if name == "unsqueeze":
        return name, (random.randint(0, axes),)
    if name == "expand":
        new = (random.choice((1, 2, 3)),) * random.randint(0, 1)
        grown = tuple(random.choice((1, 2, 3)) if size == 1 else size for size in shape)
        return name, new + grown
    if name == "reshape":
        return name, factors(x.numel(), random.randint(1, 4))
    axis = random.randrange(axes)
    if name == "squeeze":
        ones = [d for d, size in enumerate(shape) if size == 1]
        return name, (random.choice(ones) if ones and random.random() < 0.7 else axis,)
    if name == "permute":
        return name, tuple(random.sample(range(axes), axes))
    if name == "transpose":
        return name, (axis, random.randrange(axes))
    if name == "select":
        return name, (axis, random.randrange(shape[axis]))
    if name == "flatten":
        return name, (axis, random.randrange(axis, axes))
    size = shape[axis]  # a step shows where it leaves more than one element
    start = random.randrange((size + 1) // 2)
    stop = random.choice((size, random.randint(start + 1, size)))
    return name, (axis, start, stop, random.choice((1, 2, 2, 3)))


def random_program() -> dict[str, Any]:
    """A start and up to eight valid operations."""
    shape, stride = random_start()
    x, ops = laid_out(shape, stride), []
    for _ in range(random.randint(1, 8)):
        op = random_op(x)
        result = apply(x, op)
        if result.dim() > 6 or result.numel() > 5000:
            continue
        ops.append(op)
        x = result
    return {"shape": shape, "stride": stride, "ops": ops}


@pytest.mark.task("predict")
class TestPredict:
    @pytest.mark.points(3, "value")
    def test_axes_move(self, submission):
        """Strides go with their axes in permute and transpose."""
        cases: list[tuple[Shape, Shape, list[Op]]] = [
            ((2, 3), (3, 1), []),
            ((2, 3), (3, 1), [("transpose", (0, 1))]),
            ((2, 3, 5), (15, 5, 1), [("transpose", (2, 0))]),
            ((2, 3, 5), (15, 5, 1), [("permute", (2, 0, 1))]),
            ((2, 3, 5), (1, 2, 6), [("permute", (1, 2, 0)), ("transpose", (1, 1))]),
            ((2, 3, 5, 7), (105, 35, 7, 1), [("permute", (3, 1, 0, 2)), ("permute", (1, 2, 3, 0))]),
        ]
        check_programs(submission, cases, "size and stride i are those of axis dims[i] before")

    @pytest.mark.points(2, "value")
    def test_axes_come_and_go(self, submission):
        """unsqueeze adds an axis, squeeze removes one of size 1 only."""
        cases: list[tuple[Shape, Shape, list[Op]]] = [
            ((1, 3), (3, 1), [("squeeze", (0,))]),
            ((2, 1, 3), (3, 3, 1), [("squeeze", (0,))]),
            ((1, 1, 3), (3, 3, 1), [("squeeze", (1,))]),
            ((3, 1, 5), (1, 3, 3), [("squeeze", (1,))]),
            ((3, 5), (1, 3), [("unsqueeze", (0,))]),
            ((3, 5), (1, 3), [("unsqueeze", (2,)), ("unsqueeze", (1,)), ("squeeze", (3,))]),
            ((), (), [("unsqueeze", (0,))]),
        ]
        why = "squeeze looks at axis d alone, and leaves it if its size is not 1"
        check_programs(submission, cases, why)

    @pytest.mark.points(3, "value")
    def test_parts(self, submission):
        """slice multiplies a stride by the step, select drops an axis."""
        cases: list[tuple[Shape, Shape, list[Op]]] = [
            ((7,), (1,), [("slice", (0, 1, 5, 1))]),
            ((7,), (1,), [("slice", (0, 0, 7, 2))]),
            ((7,), (3,), [("slice", (0, 2, 7, 3))]),
            ((3, 11), (11, 1), [("slice", (1, 1, 11, 2)), ("slice", (1, 0, 5, 3))]),
            ((2, 3, 5), (15, 5, 1), [("select", (1, 2))]),
            ((3, 5), (1, 3), [("select", (0, 1)), ("slice", (0, 0, 5, 2)), ("select", (0, 1))]),
        ]
        check_programs(
            submission,
            cases,
            "x[a:b:step] has as many elements as range(a, b, step), and jumps over the others",
        )

    @pytest.mark.points(3, "value")
    def test_expand(self, submission):
        """expand gives stride 0 to what it stretches, and adds axes in front."""
        cases: list[tuple[Shape, Shape, list[Op]]] = [
            ((1,), (1,), [("expand", (3,))]),
            ((3, 1), (1, 1), [("expand", (3, 5))]),
            ((3,), (2,), [("expand", (5, 3))]),
            ((3, 1), (1, 3), [("expand", (2, 3, 5)), ("transpose", (0, 1))]),
            ((2, 1, 3), (3, 3, 1), [("expand", (2, 1, 3)), ("expand", (2, 5, 3))]),
            ((), (), [("expand", (2, 3))]),
        ]
        check_programs(
            submission, cases, "the same element is met again at each step: the stride is 0"
        )

    @pytest.mark.points(3, "value")
    def test_reshaped_views(self, submission):
        """reshape, flatten and contiguous give a view where strides allow it."""
        cases: list[tuple[Shape, Shape, list[Op]]] = [
            ((2, 3), (3, 1), [("contiguous", ())]),
            ((2, 3), (3, 1), [("reshape", (3, 2))]),
            ((6,), (2,), [("reshape", (2, 3))]),
            ((2, 3), (1, 2), [("flatten", (1, 1))]),
            ((2, 3, 5), (30, 5, 1), [("flatten", (1, 2))]),
            ((6, 2), (1, 6), [("reshape", (2, 3, 2))]),
            ((2, 3, 5), (0, 5, 1), [("reshape", (2, 15))]),
            ((2, 3, 5), (0, 0, 1), [("flatten", (0, 1))]),
            ((2, 1, 3), (3, 7, 1), [("contiguous", ())]),
            ((2, 1, 3), (3, 7, 1), [("reshape", (1, 6))]),
        ]
        check_programs(
            submission,
            cases,
            "axes that lie in memory without a gap can be merged and split without a copy",
        )

    @pytest.mark.points(3, "value")
    def test_reshaped_copies(self, submission):
        """reshape, flatten and contiguous copy where strides can't do it."""
        cases: list[tuple[Shape, Shape, list[Op]]] = [
            ((3, 2), (1, 3), [("contiguous", ())]),
            ((3, 2), (1, 3), [("flatten", (0, 1))]),
            ((3,), (2,), [("contiguous", ())]),
            ((2, 3), (5, 1), [("reshape", (6,))]),
            ((2, 3), (0, 1), [("reshape", (3, 2))]),
            ((2, 3, 5), (15, 1, 3), [("flatten", (1, 2))]),
            ((2, 3), (3, 1), [("transpose", (0, 1)), ("reshape", (2, 3))]),
        ]
        check_programs(
            submission,
            cases,
            "the elements must be laid out anew: a copy, with the strides of a contiguous tensor",
        )

    @pytest.mark.points(2, "memory")
    def test_stays_a_copy(self, submission):
        """A view of a copy does not share memory with the start."""
        cases: list[tuple[Shape, Shape, list[Op]]] = [
            ((3, 2), (1, 3), [("contiguous", ()), ("transpose", (0, 1))]),
            ((3, 2), (1, 3), [("contiguous", ()), ("reshape", (6,))]),
            ((3, 2), (1, 3), [("flatten", (0, 1)), ("contiguous", ()), ("select", (0, 1))]),
            ((3, 2), (1, 3), [("contiguous", ()), ("slice", (1, 0, 1, 1))]),
            ((3, 4), (1, 3), [("contiguous", ()), ("slice", (1, 0, 2, 1)), ("reshape", (3, 2, 1))]),
        ]
        check_programs(
            submission, cases, "asked is whether the result shares memory with the start"
        )

    @pytest.mark.points(5, "value")
    def test_random_programs(self, submission):
        """300 random programs are predicted as they are executed."""
        cases = [random_program() for _ in range(300)]
        cases.sort(key=lambda case: (len(case["ops"]), math.prod(case["shape"])))
        smallest(lambda case: check_program(submission, case), cases)

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_axes_move")
    def test_plain_python(self, submission):
        """Nothing of torch is called."""
        ops: list[Op] = [
            ("permute", (1, 0, 2)),
            ("transpose", (0, 1)),
            ("unsqueeze", (0,)),
            ("expand", (2, 2, 3, 5)),
            ("squeeze", (0,)),
            ("slice", (2, 0, 3, 2)),
            ("select", (0, 1)),
            ("flatten", (0, 1)),
            ("reshape", (2, 10)),
            ("transpose", (0, 1)),
            ("contiguous", ()),
        ]
        ops[7:10] = [("flatten", (1, 2)), ("reshape", (5, 4)), ("transpose", (0, 1))]
        with forbid_torch(why="shape and stride are numbers; work on these"):
            submission.predict((2, 3, 5), (15, 5, 1), ops)
            submission.predict((3, 2), (1, 3), [("reshape", (6,))])


# Repairs.

ORIGINALS = """
def merge_heads(x):
    batch, heads, seq, dim = x.shape
    tokens = x.reshape(batch, seq, heads, dim)
    return tokens.reshape(batch, seq, heads * dim)

def to_nchw(images):
    scaled = images.float() / 255
    planes = scaled.transpose(1, 3)
    return planes.contiguous()

def batch_outer(a, b):
    column = a.unsqueeze(-1)
    row = b.unsqueeze(-1)
    return column * row

def column_loss(pred, target):
    error = pred - target
    squared = error.square()
    return squared.mean()

def pick_per_row(scores, index):
    places = index.unsqueeze(0)
    picked = scores.gather(1, places)
    return picked.flatten()
"""

NAMES = ("merge_heads", "to_nchw", "batch_outer", "column_loss", "pick_per_row")
LOOPS = (ast.For, ast.While, ast.comprehension)


def body_of(text: str, name: str) -> list[ast.stmt]:
    """The statements of a function, without its docstring; the last definition of that name."""
    found = [
        node
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef) and node.name == name
    ]
    if not found:
        fail(f"there is no `def {name}` at the left margin of the file", id="repair.missing")
    body = found[-1].body
    is_docstring = isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
    return body[1:] if is_docstring else body


def statements(body: Sequence[ast.stmt]) -> list[str]:
    """Every statement as text, those inside of compound ones on their own."""
    nodes = [node for each in body for node in ast.walk(each) if isinstance(node, ast.stmt)]
    return [ast.dump(node) for node in nodes]


def changes(text: str, name: str) -> int:
    """How many statements were changed, added or removed: the fewest that explain the body."""
    old, new = statements(body_of(ORIGINALS, name)), statements(body_of(text, name))
    row = list(range(len(new) + 1))
    for i, before in enumerate(old, start=1):
        last, row[0] = row[0], i
        for j, after in enumerate(new, start=1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (before != after))
    return row[-1]


def merged_by_loop(x: Tensor) -> Tensor:
    """The channels of every token, head after head."""
    batch, heads, seq, dim = x.shape
    return loop_oracle(
        (batch, seq, heads * dim), lambda b, t, c: x[b, c // dim, t, c % dim].item(), x.dtype
    )


def check_merge(submission, batch: int, heads: int, seq: int, dim: int) -> None:
    """One case of `merge_heads`."""
    x = randn(batch, heads, seq, dim)
    got = submission.merge_heads(x.clone())
    assert_shape(got, batch=batch, seq=seq, channels=heads * dim)
    explain = {
        "the memory was cut anew: `reshape` never moves an axis, so the channels of one head's "
        "tokens stand where those of all heads should": x.reshape(batch, seq, heads * dim),
        "the channels of the heads alternate; head 0 comes first, as a whole": (
            x.permute(0, 2, 3, 1).flatten(2)
        ),
    }
    plain = batch > 1 and heads > 1 and seq > 1 and dim > 1
    assert_close(
        got,
        merged_by_loop(x),
        axes=("batch", "token", "channel"),
        what="merge_heads",
        explain=explain if plain else None,
    )


def check_nchw(submission, batch: int, height: int, width: int, chan: int) -> None:
    """One case of `to_nchw`."""
    images = rand_ints(batch, height, width, chan, high=256, dtype=torch.uint8)
    got = submission.to_nchw(images.clone())
    assert_shape(got, batch=batch, chan=chan, height=height, width=width)
    assert_dtype(got, torch.float32)
    explain = {
        "the memory was cut anew: `reshape` never moves an axis, so the colours are mixed up": (
            (images.double() / 255).reshape(batch, chan, height, width).float()
        ),
    }
    plain = min(batch, height, width, chan) > 1
    assert_close(
        got,
        loop_oracle(
            (batch, chan, height, width),
            lambda b, c, i, j: images[b, i, j, c].item() / 255,
            torch.float32,
        ),
        axes=("batch", "channel", "row", "column"),
        what="to_nchw",
        explain=explain if plain else None,
    )


def check_outer(submission, batch: int, n: int, m: int) -> None:
    """One case of `batch_outer`."""
    a, b = randn(batch, n), randn(batch, m)
    got = submission.batch_outer(a.clone(), b.clone())
    assert_shape(got, batch=batch, n=n, m=m)
    assert_close(
        got,
        loop_oracle((batch, n, m), lambda i, j, k: (a[i, j] * b[i, k]).item(), a.dtype),
        axes=("batch", "n", "m"),
        what="batch_outer",
    )


def check_loss(submission, batch: int) -> None:
    """One case of `column_loss`."""
    pred, target = randn(batch, 1), randn(batch)
    got = submission.column_loss(pred.clone(), target.clone())
    assert_tensor(got, "column_loss")
    expect(
        tuple(got.shape) == (),
        f"column_loss has the shape {tuple(got.shape)}; a tensor without axes is asked for",
        id="loss.shape",
    )
    pairs = zip(pred.double()[:, 0].tolist(), target.double().tolist(), strict=True)
    mean = sum((p - t) ** 2 for p, t in pairs) / batch
    every = (pred - target).square().mean()
    assert_close(
        got,
        torch.tensor(mean, dtype=torch.float32),
        rtol=1e-4,
        what="column_loss",
        explain={
            "it is the mean over all pairs of a prediction and a target: (batch, 1) - (batch,) is "
            "a table (batch, batch)": every,
            "the squared differences are summed; the mean is asked for": (
                torch.tensor(mean * batch, dtype=torch.float32)
            ),
        }
        if batch > 1
        else None,
    )


def check_pick(submission, batch: int, n: int) -> None:
    """One case of `pick_per_row`."""
    scores = randn(batch, n)
    index = rand_ints(batch, high=n)
    index[-1] = n - 1
    got = submission.pick_per_row(scores.clone(), index.clone())
    assert_shape(got, batch=batch)
    assert_close(
        got,
        torch.tensor([scores[i, int(index[i])].item() for i in range(batch)]),
        axes=("row",),
        what="pick_per_row",
        explain={
            "all entries come from row 0: an index of one row makes gather read one row": (
                scores[0][index]
            ),
        }
        if batch > 1
        else None,
    )


def several(check: Callable[..., None], submission, *sizes: tuple[int, ...]) -> None:
    """A check at several sizes, smallest first."""
    for each in sizes:
        check(submission, *each)


@pytest.mark.task("repair_five")
class TestRepairFive:
    @pytest.mark.points(4, "value")
    def test_merge_heads(self, submission):
        """merge_heads puts the heads of a token side by side."""
        several(check_merge, submission, (2, 3, 5, 7), (3, 2, 2, 2), (2, 5, 3, 3))

    @pytest.mark.points(4, "value")
    def test_to_nchw(self, submission):
        """to_nchw moves the channels, and rows stay rows."""
        several(check_nchw, submission, (2, 5, 7, 3), (2, 4, 4, 3), (3, 2, 5, 5))

    @pytest.mark.points(4, "value")
    def test_batch_outer(self, submission):
        """batch_outer multiplies the entries of the same row."""
        several(check_outer, submission, (2, 3, 5), (5, 3, 3), (3, 3, 2), (2, 2, 2))

    @pytest.mark.points(4, "value")
    def test_column_loss(self, submission):
        """column_loss compares every prediction with its own target."""
        several(check_loss, submission, (3,), (7,))

    @pytest.mark.points(4, "value")
    def test_pick_per_row(self, submission):
        """pick_per_row takes an entry of each row."""
        several(check_pick, submission, (3, 5), (5, 3), (3, 3))

    @pytest.mark.points(3, "shape")
    @pytest.mark.after(
        "test_merge_heads",
        "test_to_nchw",
        "test_batch_outer",
        "test_column_loss",
        "test_pick_per_row",
    )
    def test_batch_of_one(self, submission):
        """A batch of one keeps its axis."""
        check_merge(submission, 1, 3, 5, 7)
        check_nchw(submission, 1, 5, 7, 3)
        check_outer(submission, 1, 3, 5)
        check_loss(submission, 1)
        check_pick(submission, 1, 5)

    @pytest.mark.points(2, "shape")
    @pytest.mark.after(
        "test_merge_heads",
        "test_to_nchw",
        "test_batch_outer",
        "test_column_loss",
        "test_pick_per_row",
    )
    def test_other_axes_of_one(self, submission):
        """Other axes of size 1 are kept too."""
        several(check_merge, submission, (2, 1, 3, 5), (2, 3, 1, 5), (2, 3, 5, 1))
        several(check_nchw, submission, (2, 5, 7, 1), (2, 1, 5, 3), (2, 5, 1, 3))
        several(check_outer, submission, (2, 1, 3), (2, 3, 1))
        check_pick(submission, 3, 1)

    @pytest.mark.points(1, "value")
    def test_leaves_its_arguments_alone(self, submission):
        """No function changes its arguments."""
        assert_unchanged(submission.merge_heads, randn(2, 3, 5, 7))
        images = rand_ints(2, 5, 7, 3, high=256, dtype=torch.uint8)
        assert_unchanged(submission.to_nchw, images)
        assert_unchanged(submission.batch_outer, randn(2, 3), randn(2, 5))
        assert_unchanged(submission.column_loss, randn(3, 1), randn(3))
        assert_unchanged(submission.pick_per_row, randn(3, 5), rand_ints(3, high=5))

    @pytest.mark.points(3, "structure")
    def test_few_statements(self, submission, source):
        """In each function at most two statements differ."""
        for name in NAMES:
            found = changes(source, name)
            expect(
                found <= 2,
                f"{name} differs from broken_{name} in {found} statements, at most 2 are asked "
                "for; one call in it is wrong, leave the others as they are",
                id="repair.size",
                got=found,
                expected=2,
            )
            expect(
                found > 0,
                f"{name} is broken_{name} as it was",
                id="repair.unchanged",
            )

    @pytest.mark.points(1, "structure")
    def test_no_loops(self, submission, source):
        """No loop and no comprehension was added."""
        submission.merge_heads(randn(2, 3, 5, 7))  # what is still to be written says so
        for name in NAMES:
            for node in (each for stmt in body_of(source, name) for each in ast.walk(stmt)):
                expect(
                    not isinstance(node, LOOPS),
                    f"{name} has a loop or a comprehension; one call put right is enough",
                    id="repair.loop",
                )
