"""Day 3 asks for the rule of broadcasting, its cost, its gradient, and sums that skip padding."""

import math
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo  # a comparison on the meta device imports it; a second that no check pays
from torch import Tensor
from torch.nn import functional as F

from grader.testing import (
    assert_close,
    assert_dtype,
    assert_equal,
    assert_finite,
    assert_gradients,
    assert_gradients_close,
    assert_no_python_loop,
    assert_peak_memory,
    assert_raises,
    assert_runs_on_meta,
    assert_shape,
    assert_speed,
    assert_tensor,
    assert_unchanged,
    assert_view,
    count_ops,
    expect,
    fail,
    forbid,
    picture,
    smallest,
)

Shape = tuple[int, ...]


# What the suite knows of the rule, in its own words.


def fitting_shapes(count: int) -> tuple[Shape, ...]:
    """Shapes that broadcast: one result, with axes cut off in front and sizes set to 1."""
    whole = [random.choice((1, 2, 3, 5)) for _ in range(random.randint(1, 4))]
    shapes = []
    for _ in range(count):
        cut = whole[random.randint(0, len(whole)) :]
        shapes.append(tuple(1 if random.random() < 0.4 else size for size in cut))
    return tuple(shapes)


def aligned_from_the_left(*shapes: Shape) -> Shape:
    """What comes of adding the missing axes behind instead of in front."""
    columns = zip_longest(*shapes, fillvalue=1)
    return tuple(next((size for size in sizes if size != 1), 1) for sizes in columns)


def largest_sizes(*shapes: Shape) -> Shape:
    """What comes of taking the largest size of each axis."""
    axes = zip_longest(*(shape[::-1] for shape in shapes), fillvalue=1)
    return tuple(max(sizes) for sizes in axes)[::-1]


def alignment(shapes: Sequence[Shape], result: Shape, note: str = "") -> None:
    """Attach the picture of shapes that are aligned from the right."""
    if not result:
        return
    said = " and ".join(map(str, shapes))
    picture(
        "alignment",
        "Aligned from the right",
        f"{said} broadcast to {result}.",
        rows=[{"label": chr(ord("a") + i), "sizes": shape} for i, shape in enumerate(shapes)],
        result=result,
        note=note,
    )


def check_shape(submission, shapes: tuple[Shape, ...]) -> None:
    """One case of `broadcast_shape`, with the known mistakes by name."""
    said = ", ".join(map(str, shapes))
    try:
        got = submission.broadcast_shape(*shapes)
    except ValueError as error:
        expected = np.broadcast_shapes(*shapes)
        alignment(shapes, expected)
        fail(
            f"broadcast_shape({said}) raises a ValueError ({error}); expected {expected}",
            id="value.raised",
        )
    expected = np.broadcast_shapes(*shapes)
    if got != expected:
        alignment(shapes, expected, f"Yours is {got}.")
    assert_equal(
        got,
        expected,
        what=f"broadcast_shape({said})",
        explain={
            "the shapes are aligned from the left; line up their last axes": (
                aligned_from_the_left(*shapes)
            ),
            "an axis has the largest of the sizes; a 1 is stretched to the other size, even to 0": (
                largest_sizes(*shapes)
            ),
            "only the first two shapes are used": np.broadcast_shapes(*shapes[:2]),
        },
    )


@pytest.mark.task("broadcast_shape")
class TestBroadcastShape:
    @pytest.mark.points(3, "value")
    def test_two_shapes(self, submission):
        """Two shapes are aligned from the right, and sizes of 1 are stretched."""
        cases = [
            ((3,), (3,)),
            ((3,), (1,)),
            ((3, 1), (3,)),
            ((2, 1), (3,)),
            ((3,), (2, 3)),
            ((5, 1, 3), (2, 1)),
            *sorted((fitting_shapes(2) for _ in range(200)), key=lambda s: sum(map(len, s))),
        ]
        smallest(lambda shapes: check_shape(submission, shapes), cases)
        alignment(((5, 1, 3), (2, 1)), (5, 2, 3))

    @pytest.mark.points(2, "value")
    def test_any_number_of_shapes(self, submission):
        """One shape, three shapes or five shapes broadcast by the same rule."""
        cases = [((2, 3),), ((2, 1), (1, 1), (1, 3)), ((2, 1), (3,), (5, 1, 1))]
        cases += [fitting_shapes(count) for count in (1, 3, 4, 5) for _ in range(10)]
        smallest(lambda shapes: check_shape(submission, shapes), cases)

    @pytest.mark.points(1, "value")
    def test_no_axes(self, submission):
        """No shapes at all give (), and so do scalars; a scalar leaves the other shape alone."""
        smallest(
            lambda shapes: check_shape(submission, shapes),
            [(), ((),), ((), ()), ((), (3,)), ((2, 3), ())],
        )

    @pytest.mark.points(1, "value")
    def test_size_zero(self, submission):
        """An axis of size 1 is stretched to size 0 too."""
        smallest(
            lambda shapes: check_shape(submission, shapes),
            [((0,), (0,)), ((0,), (1,)), ((1,), (0,)), ((2, 1), (0,)), ((0, 3), (2, 1, 1))],
        )

    @pytest.mark.points(2, "value")
    def test_names_the_axis(self, submission):
        """Shapes that don't fit raise a ValueError that names the axis, counted from the right."""

        axes = {
            ((2,), (3,)): "-1",
            ((0,), (2,)): "-1",
            ((2, 3), (2,)): "-1",
            ((2, 3), (5, 3)): "-2",
            ((2, 1), (7, 5, 3)): "-2",
            ((5, 2, 1), (3, 2, 1)): "-3",
            ((5, 2, 1), (2, 1), (1,), (3, 1, 7)): "-3",
            ((2, 3, 1, 5), (3, 3, 7, 1)): "-4",
        }
        smallest(
            lambda shapes: assert_raises(
                ValueError, submission.broadcast_shape, *shapes, text=axes[shapes]
            ),
            axes,
        )

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_two_shapes")
    def test_plain_python(self, submission):
        """Neither torch nor NumPy is asked for the answer."""
        with library_calls() as calls:
            submission.broadcast_shape((2, 1), (3,))
        log = count_ops(submission.broadcast_shape, (5, 1), (3,))
        calls += [f"torch's {op.name}" for op in log.ops]
        if calls:
            fail(
                f"broadcast_shape asks {calls[0]}; work the rule out in plain Python",
                id="forbidden",
            )


@contextmanager
def library_calls() -> Iterator[list[str]]:
    """Record the calls of torch's and NumPy's functions, under whatever name they were imported."""
    homes = {str(Path(torch.__file__).parent): "torch", str(Path(np.__file__).parent): "NumPy"}
    calls: list[str] = []

    def watch(frame: FrameType, event: str, called: Any) -> None:
        if event == "call":
            file, name = frame.f_code.co_filename, frame.f_code.co_name
            calls.extend(f"{lib}'s {name}" for home, lib in homes.items() if file.startswith(home))
        elif event == "c_call" and str(getattr(called, "__module__", "")).startswith("numpy"):
            calls.append(f"NumPy's {called.__name__}")

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        yield calls
    finally:
        sys.setprofile(before)


# Three tables.


def table(a: Tensor, b: Tensor, entry: Callable[[float, float], float]) -> list[list[float]]:
    """The table with `a` down the rows, entry by entry."""
    return [[entry(x, y) for y in b.tolist()] for x in a.tolist()]


def as_table(rows: list[list[float]], shape: Shape, dtype: torch.dtype) -> Tensor:
    """The table as a tensor, also where it has no entries."""
    return torch.tensor(rows, dtype=dtype).reshape(shape)


def two_vectors(n: int, m: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Random vectors of which neither lies wholly above the other, or a sign would not show."""
    while True:
        a, b = torch.randn(n, dtype=dtype), torch.randn(m, dtype=dtype)
        above = [x > y for x in a.tolist() for y in b.tolist()]
        if len(above) < 2 or 0 < sum(above) < len(above):
            return a, b


def check_tables(submission, n: int, m: int) -> None:
    """All three tables of two random vectors."""
    a, b = two_vectors(n, m)
    product, greater, distance = submission.outer_ops(a.clone(), b.clone())
    check_product(product, a, b)
    check_greater(greater, a, b)
    check_distance(distance, a, b)


def check_product(got: Tensor, a: Tensor, b: Tensor) -> None:
    expected = as_table(table(a, b, lambda x, y: x * y), (len(a), len(b)), a.dtype)
    explain = {"the product has `b` down the rows; here `a` has them": expected.mT}
    assert_close(got, expected, axes=("a", "b"), what="the product", explain=explain)


def check_greater(got: Tensor, a: Tensor, b: Tensor) -> None:
    assert_dtype(got, torch.bool, what="the comparison")
    shape = (len(a), len(b))
    expected = as_table(table(a, b, lambda x, y: x > y), shape, torch.bool)
    explain = {
        "the comparison is b[j] > a[i]; it should be a[i] > b[j]": as_table(
            table(a, b, lambda x, y: y > x), shape, torch.bool
        ),
        "the comparison is True where both are equal; `>` is not `>=`": as_table(
            table(a, b, lambda x, y: x >= y), shape, torch.bool
        ),
    }
    assert_equal(got, expected, what="the comparison", explain=explain)


def check_distance(got: Tensor, a: Tensor, b: Tensor) -> None:
    expected = as_table(table(b, a, lambda y, x: abs(x - y)), (len(b), len(a)), a.dtype)
    explain = {
        "the distance has `a` down the rows; the third table has `b` there": expected.mT,
        "the distance keeps its sign; take the absolute value": as_table(
            table(b, a, lambda y, x: x - y), (len(b), len(a)), a.dtype
        ),
        "the distance is squared": expected**2,
    }
    assert_close(got, expected, axes=("b", "a"), what="the distance", explain=explain)


FORBIDDEN_TABLES = (
    "outer",  # and its older name, ger
    "einsum",
    "matmul",
    "mm",
    "mv",
    "bmm",
    "dot",
    "inner",
    "tensordot",
    "addr",
    "cdist",
    "meshgrid",
    "kron",
    "stack",
    "cat",
)


@pytest.mark.task("outer_ops")
class TestOuterOps:
    @pytest.mark.points(1, "shape")
    def test_shapes(self, submission):
        """Product and comparison are (n, m), the distance is (m, n)."""
        result = submission.outer_ops(torch.randn(3), torch.randn(5))
        expect(
            isinstance(result, tuple) and len(result) == 3,
            "the result should be a tuple of three tensors: product, comparison, distance",
        )
        product, greater, distance = result
        assert_shape(product, a=3, b=5)
        assert_shape(greater, a=3, b=5)
        assert_shape(distance, b=5, a=3)
        alignment(((3, 1), (1, 5)), (3, 5))

    @pytest.mark.points(1, "value")
    def test_product(self, submission):
        """Entry [i, j] of the first table is a[i] * b[j]."""
        for _ in range(2):
            a, b = torch.randn(2), torch.randn(3)
            check_product(submission.outer_ops(a.clone(), b.clone())[0], a, b)

    @pytest.mark.points(2, "value")
    def test_comparison(self, submission):
        """Entry [i, j] of the second table says whether a[i] > b[j], and a tie is False."""
        for a, b in (
            (torch.tensor([1.0, 2.0]), torch.tensor([2.0, 0.0, 1.0])),
            two_vectors(5, 7, torch.float32),
        ):
            check_greater(submission.outer_ops(a.clone(), b.clone())[1], a, b)

    @pytest.mark.points(2, "value")
    def test_distance(self, submission):
        """Entry [j, i] of the third table is |a[i] - b[j]|."""
        for _ in range(2):
            a, b = two_vectors(2, 3, torch.float32)
            check_distance(submission.outer_ops(a.clone(), b.clone())[2], a, b)

    @pytest.mark.points(1, "value")
    def test_equal_lengths(self, submission):
        """Vectors of equal length make tables too, not three vectors."""
        check_tables(submission, 3, 3)

    @pytest.mark.points(1, "value")
    def test_short_vectors(self, submission):
        """Lengths 1 and 0 work."""
        smallest(
            lambda case: check_tables(submission, case["n"], case["m"]),
            [{"n": n, "m": m} for n, m in ((0, 0), (0, 3), (2, 0), (1, 1), (1, 3), (2, 1))],
        )

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_shapes")
    def test_forbidden(self, submission):
        """The tables are made by indexing, arithmetic and comparison."""
        a, b = torch.randn(3), torch.randn(5)
        with forbid(*FORBIDDEN_TABLES, why="let broadcasting make the table"):
            submission.outer_ops(a, b)

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_shapes")
    def test_no_loop(self, submission):
        """The number of operations doesn't grow with the lengths."""
        assert_no_python_loop(
            submission.outer_ops, lambda size: (torch.randn(size), torch.randn(size + 3))
        )


# A norm along one axis.


@pytest.mark.task("normalise")
class TestNormalise:
    @pytest.mark.points(2, "value")
    def test_every_axis(self, submission):
        """It agrees with F.normalize along every axis, counted from either end."""

        def check(case: tuple[Shape, int, torch.dtype]) -> None:
            shape, dim, dtype = case
            x = torch.randn(shape, dtype=dtype)
            got = submission.normalise(x.clone(), dim)
            explain = {
                "x is divided by the norm of all its elements, not by the norm along `dim`": (
                    x / x.norm()
                ),
                "x is divided by the square of the norm: a square root is missing": (
                    x / x.square().sum(dim, keepdim=True)
                ),
                "x is divided by the sum of absolute values, the L1 norm": (
                    F.normalize(x, p=1.0, dim=dim)
                ),
            }
            expected = F.normalize(x, dim=dim)
            what = f"normalise(x, dim={dim}) of an x of shape {shape}"
            assert_close(got, expected, what=what, explain=explain)

        cases: list[tuple[Shape, int, torch.dtype]] = [((3,), 0, torch.float32)]
        cases += [((2, 3), dim, torch.float32) for dim in (1, 0, -1, -2)]
        cases += [((2, 3, 5, 7), dim, torch.float64) for dim in range(-4, 4)]
        for case in cases:
            check(case)

    @pytest.mark.points(1, "value")
    def test_square(self, submission):
        """In a square matrix each row is divided by its own norm."""
        x = torch.randn(3, 3)
        got = submission.normalise(x.clone(), 1)
        without_axis = x / x.norm(dim=1)
        assert_close(
            got,
            F.normalize(x, dim=1),
            axes=("row", "column"),
            explain={
                "column j was divided by the norm of row j: the norms, of shape (3,), were aligned "
                "with the last axis; the divisor must keep the axis that was reduced": without_axis
            },
        )

    @pytest.mark.points(1, "value")
    def test_eps_is_a_floor(self, submission):
        """The divisor is the larger of the norm and eps."""
        x = torch.tensor([[0.0, 0.1], [3.0, 4.0], [-2.0, 0.0]], dtype=torch.float64)
        got = submission.normalise(x.clone(), 1, eps=0.5)
        norm = torch.tensor([[0.1], [5.0], [2.0]], dtype=torch.float64)
        explain = {
            "eps was added to the norm; the divisor is max(norm, eps)": x / (norm + 0.5),
            "eps was added below the root; the divisor is max(norm, eps)": (
                x / (norm.square() + 0.5).sqrt()
            ),
            "eps was not used; the divisor is max(norm, eps)": x / norm,
            "eps bounds the squared norm; the divisor is max(norm, eps)": (
                x / norm.square().clamp_min(0.5).sqrt()
            ),
        }
        expected = torch.tensor([[0.0, 0.2], [0.6, 0.8], [-1.0, 0.0]], dtype=torch.float64)
        assert_close(got, expected, what="normalise(x, 1, eps=0.5)", explain=explain)
        y = 1e-12 * torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 2.0]], dtype=torch.float64)
        got = submission.normalise(y.clone(), 1)
        expected = torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 1.0]], dtype=torch.float64)
        what = "with the default eps and rows with norms of 5e-12, 5e-13 and 2e-12, the result"
        assert_close(got, expected, what=what)

    @pytest.mark.points(1, "value")
    def test_zero_row(self, submission):
        """A row of zeros stays zero."""
        x = torch.tensor([[0.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
        got = submission.normalise(x.clone(), 1)
        expected = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        explain = {
            "0 was divided by 0; eps keeps the divisor away from it": x
            / x.norm(dim=1, keepdim=True)
        }
        assert_close(got, expected, axes=("row", "column"), explain=explain)

    @pytest.mark.points(1, "gradient")
    @pytest.mark.after("test_zero_row")
    def test_gradient_of_a_zero_row(self, submission):
        """The gradient of a row of zeros is finite."""
        x = torch.tensor([[0.0, 0.0, 0.0], [0.0, 2.0, 1.0]], requires_grad=True)
        out = submission.normalise(x, 1)
        upstream = torch.randn_like(out)
        (gradient,) = torch.autograd.grad(out, x, upstream)
        if gradient[0].isnan().any():
            fail(
                "the gradient of a row of zeros is nan: the square root has an infinite slope "
                "at 0, and clamping after it multiplies that by 0",
                id="gradient.nan",
            )
        assert_finite(gradient=gradient)

    @pytest.mark.points(1, "gradient")
    def test_gradient(self, submission):
        """The gradient passes through the norm too."""
        assert_gradients_close(
            lambda x: submission.normalise(x, 1),
            lambda x: F.normalize(x, dim=1),
            torch.randn(2, 3, 5, dtype=torch.float64),
            names=("x",),
        )

    @pytest.mark.points(1, "value")
    def test_empty(self, submission):
        """Axes of size 0 are no exception."""

        def check(case: tuple[Shape, int]) -> None:
            shape, dim = case
            got = submission.normalise(torch.zeros(shape), dim)
            assert_equal(tuple(assert_tensor(got).shape), shape, what="the shape of the result")

        for case in (((0,), 0), ((0, 3), 1), ((0, 3), 0), ((2, 0), 1)):
            check(case)

    @pytest.mark.points(1, "structure")
    def test_forbidden(self, submission):
        """It does without F.normalize."""
        x = torch.randn(2, 3)
        with forbid("normalize", why="divide by the norm yourself"):
            submission.normalise(x, 1)

    @pytest.mark.points(1, "structure")
    def test_leaves_x_alone(self, submission):
        """x comes back unchanged."""
        assert_unchanged(submission.normalise, torch.randn(2, 3), 1)


# Back to the shape of the input.


def summed_back(grad: Tensor, shape: Shape) -> Tensor:
    """What autograd does with the gradient of a tensor that was expanded."""
    leaf = torch.zeros(shape, dtype=grad.dtype, requires_grad=True)
    (expected,) = torch.autograd.grad(leaf.expand(grad.shape), leaf, grad)
    return expected


def check_unbroadcast(submission, case: tuple[Shape, Shape]) -> None:
    """One pair of shapes, with random numbers."""
    whole, shape = case
    grad = torch.randn(whole, dtype=torch.float64)
    got = submission.unbroadcast(grad.clone(), shape)
    expected = summed_back(grad, shape)
    what = f"unbroadcast of a gradient of shape {whole} to {shape}"
    copies = grad.numel() // max(expected.numel(), 1)
    explain: dict[str, Tensor] = {}
    if copies > 1:
        explain[f"it is the mean of the {copies} gradients; every copy adds its own, so sum"] = (
            expected / copies
        )
        explain["only one of the copies is counted; sum over all of them"] = one_copy(grad, shape)
    if grad.ndim - len(shape) == 2 and grad.ndim > 2:
        explain[
            "axes 0 and 2 of the gradient were summed: once axis 0 is gone, what was axis 1 is "
            "axis 0"
        ] = grad.sum(0).sum(1)
    assert_close(got, expected, what=what, explain=explain)


def one_copy(grad: Tensor, shape: Shape) -> Tensor:
    """The gradient of the first copy alone."""
    grad = grad[(0,) * (grad.ndim - len(shape))]
    for axis, size in enumerate(shape):
        grad = grad.narrow(axis, 0, size)
    return grad


FORBIDDEN_SUMS = ("autograd.grad", "backward", "torch.func", "sum_to_size")


@pytest.mark.task("unbroadcast")
class TestUnbroadcast:
    @pytest.mark.points(2, "value")
    def test_added_axes(self, submission):
        """Axes that were added in front are summed away."""
        smallest(
            lambda case: check_unbroadcast(submission, case),
            [((2, 3), (3,)), ((5, 2, 3), (3,)), ((5, 2, 3), (2, 3))],
        )

    @pytest.mark.points(3, "value")
    def test_stretched_axes(self, submission):
        """Axes that were stretched from 1 are summed and stay, with size 1."""
        smallest(
            lambda case: check_unbroadcast(submission, case),
            [((3,), (1,)), ((2, 3), (2, 1)), ((2, 3), (1, 3)), ((5, 2, 3), (5, 1, 3))],
        )

    @pytest.mark.points(1, "shape")
    def test_axes_of_size_one(self, submission):
        """An axis that has size 1 on both sides stays."""
        smallest(
            lambda case: check_unbroadcast(submission, case),
            [((2, 1), (1, 1)), ((3, 1), (1,)), ((2, 1, 3), (2, 1, 1)), ((5, 1, 3), (1, 1, 3))],
        )

    @pytest.mark.points(3, "value")
    def test_as_autograd_does(self, submission):
        """For a hundred pairs of shapes it gives what autograd gives."""
        pairs = []
        for _ in range(100):
            shapes = fitting_shapes(2)
            pairs.append((np.broadcast_shapes(*shapes), shapes[0]))
        pairs.sort(key=lambda pair: (len(pair[0]), len(pair[1])))
        known = [((5, 2, 3), (2, 1)), ((2, 3), (1, 3))]
        smallest(lambda case: check_unbroadcast(submission, case), [*known, *pairs])

    @pytest.mark.points(1, "value")
    def test_scalar(self, submission):
        """A number that was broadcast gets the sum of everything."""
        smallest(
            lambda case: check_unbroadcast(submission, case), [((), ()), ((3,), ()), ((2, 3), ())]
        )

    @pytest.mark.points(2, "memory")
    def test_equal_shapes(self, submission):
        """If nothing was broadcast, the gradient itself comes back, not a copy."""
        for shape in ((3,), (2, 1, 3), ()):
            grad = torch.randn(shape, dtype=torch.float64)
            got = submission.unbroadcast(grad, shape)
            assert_equal(tuple(assert_tensor(got).shape), shape, what="the shape of the result")
            assert_view(got, grad)

    @pytest.mark.points(1, "value")
    def test_empty(self, submission):
        """Axes of size 0 are summed to 0, and kept where the shape has them."""
        smallest(
            lambda case: check_unbroadcast(submission, case),
            [((0,), ()), ((0,), (1,)), ((2, 0), (0,)), ((0, 3), (3,)), ((0, 3), (1, 3))],
        )

    @pytest.mark.points(1, "structure")
    def test_forbidden(self, submission):
        """It sums by itself, without autograd and without sum_to_size."""
        grad = torch.randn(5, 2, 3)
        with forbid(*FORBIDDEN_SUMS, why="sum the gradient yourself"):
            submission.unbroadcast(grad, (2, 1))

    @pytest.mark.points(1, "structure")
    def test_leaves_grad_alone(self, submission):
        """grad comes back unchanged."""
        assert_unchanged(submission.unbroadcast, torch.randn(5, 2, 3), (2, 1))


# Distances.


def broadcast_form(x: Tensor, y: Tensor) -> Tensor:
    """The definition, with its intermediate of (batch, n, m, d)."""
    return (x[:, :, None, :] - y[:, None, :, :]).square().sum(-1)


def points(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random points around the origin."""
    return torch.randn(shape, dtype=dtype)


def check_distances(submission, x: Tensor, y: Tensor) -> None:
    """The values of order 1, with the known mistakes by name."""
    got = submission.pairwise_sqdist(x.clone(), y.clone())
    expected = broadcast_form(x.double(), y.double())
    xx, yy = x.double().square().sum(-1), y.double().square().sum(-1)
    xy = x.double() @ y.double().mT
    explain = {
        "these are the distances; the squared distances are asked for": expected.sqrt(),
        "the product of x and y is subtracted once; it belongs there twice": (
            xx[:, :, None] + yy[:, None, :] - xy
        ),
        "the product of x and y is added; it should be subtracted": (
            xx[:, :, None] + yy[:, None, :] + 2 * xy
        ),
        "the mean over the coordinates was taken; the sum is asked for": expected / x.shape[-1],
        "these are the L1 distances": (
            (x.double()[:, :, None] - y.double()[:, None]).abs().sum(-1)
        ),
    }
    assert_close(
        got,
        expected.to(x.dtype),
        rtol=1e-7 if x.dtype is torch.float64 else 1e-5,
        atol=1e-10 if x.dtype is torch.float64 else 1e-4,
        axes=("batch", "x", "y"),
        what="the squared distance",
        explain={said: tensor.to(x.dtype) for said, tensor in explain.items()},
    )


@pytest.mark.task("pairwise_sqdist")
class TestPairwiseSqdist:
    @pytest.mark.points(1, "shape")
    def test_shape(self, submission):
        """There is one row for each point of x and one column for each point of y."""
        got = submission.pairwise_sqdist(points(2, 3, 7), points(2, 5, 7))
        assert_shape(got, batch=2, x=3, y=5)

    @pytest.mark.points(4, "value")
    def test_values(self, submission):
        """Each entry is the squared distance of two points of the same batch."""
        for dtype in (torch.float64, torch.float32):
            for batch, n, m, d in ((1, 2, 3, 2), (2, 3, 5, 7), (2, 3, 5, 7), (3, 7, 2, 5)):
                x, y = points(batch, n, d, dtype=dtype), points(batch, m, d, dtype=dtype)
                check_distances(submission, x, y)

    @pytest.mark.points(3, "value")
    def test_never_negative(self, submission):
        """No squared distance is below 0, for equal points and far from the origin too."""

        def check(case: dict[str, float]) -> None:
            x = case["offset"] + case["spread"] * points(2, 97, 67)
            got = submission.pairwise_sqdist(x.clone(), x.clone())
            lowest = float(got.min())
            expect(
                lowest >= 0,
                f"the squared distances of equal points at an offset of {case['offset']:g} go down "
                f"to {lowest:.3g}: rounding takes a difference of large numbers below 0",
                id="value.negative",
            )

        for offset, spread in ((0.0, 1.0), (1000.0, 1.0), (1000.0, 1e-3)):
            check({"offset": offset, "spread": spread})

    @pytest.mark.points(3, "gradient")
    def test_gradient(self, submission):
        """Both gradients are right."""
        x, y = points(2, 3, 5, dtype=torch.float64), points(2, 7, 5, dtype=torch.float64)
        assert_gradients_close(
            submission.pairwise_sqdist, broadcast_form, x, y, names=("x", "y"), atol=1e-10
        )
        assert_gradients(submission.pairwise_sqdist, x[:1, :2, :3], y[:1, :3, :3])

    @pytest.mark.points(3, "memory")
    def test_memory(self, submission):
        """At most eight matrices of (batch, n, m) live at once."""
        batch, n, m, d = 2, 300, 290, 64
        matrix = batch * n * m * 4
        alignment(
            ((batch, n, 1, d), (batch, 1, m, d)),
            (batch, n, m, d),
            f"That is {matrix * d / 1e6:.1f} MB; the distances take {matrix / 1e6:.1f} MB.",
        )
        assert_peak_memory(
            8 * matrix, submission.pairwise_sqdist, points(batch, n, d), points(batch, m, d)
        )

    @pytest.mark.points(1, "structure")
    def test_no_loop(self, submission):
        """The number of operations doesn't grow with the points, the batch or the coordinates."""
        for make in (
            lambda size: (points(2, size, 3), points(2, 5, 3)),
            lambda size: (points(2, 5, 3), points(2, size, 3)),
            lambda size: (points(size, 5, 3), points(size, 7, 3)),
            lambda size: (points(2, 5, size), points(2, 7, size)),
        ):
            assert_no_python_loop(submission.pairwise_sqdist, make)

    @pytest.mark.points(1, "structure")
    def test_forbidden(self, submission):
        """It does without cdist."""
        x, y = points(2, 3, 7), points(2, 5, 7)
        with forbid("cdist", why="write the distances as one matrix product"):
            submission.pairwise_sqdist(x, y)

    @pytest.mark.points(1, "value")
    def test_one_coordinate(self, submission):
        """One batch of one point with one coordinate works, and so do points on a line."""
        for batch, n, m in ((1, 1, 1), (1, 1, 3), (1, 2, 1), (2, 3, 5)):
            x, y = points(batch, n, 1), points(batch, m, 1)
            check_distances(submission, x, y)

    @pytest.mark.points(1, "value")
    def test_no_points(self, submission):
        """Without points on one side there are no distances."""
        for n, m in ((0, 3), (3, 0), (0, 0)):
            got = submission.pairwise_sqdist(points(2, n, 5), points(2, m, 5))
            assert_shape(got, batch=2, x=n, y=m)

    @pytest.mark.points(2, "speed")
    @pytest.mark.after("test_values")
    def test_speed(self, submission):
        """It takes at most a third of the time of the broadcast form."""

        def make(generator: torch.Generator, device: str) -> tuple[Tensor, Tensor]:
            shape = (1, 300, 64)
            x = torch.randn(shape, generator=generator, device=device)
            return x, torch.randn(shape, generator=generator, device=device)

        assert_speed(
            submission.pairwise_sqdist,
            broadcast_form,
            make,
            limit=0.35,
            what="pairwise_sqdist (the model solution is the broadcast form)",
        )


# Padded rows.

KEYS = ("mean", "var", "max")


def row_stats(x: Tensor, lengths: Tensor) -> dict[str, Tensor]:
    """The statistics of each row by itself, cut to its length, in float64."""
    rows = [row[:length].double() for row, length in zip(x, lengths.tolist(), strict=True)]
    zero = torch.zeros(x.shape[-1], dtype=torch.float64)
    mean = [row.sum(0) / len(row) if len(row) else zero for row in rows]
    var = [
        ((row - centre) ** 2).sum(0) / len(row) if len(row) else zero
        for row, centre in zip(rows, mean, strict=True)
    ]
    high = [row.max(0).values if len(row) else zero - math.inf for row in rows]
    mask = [[step < length for step in range(x.shape[1])] for length in lengths.tolist()]
    return {
        "mean": torch.stack(mean),
        "var": torch.stack(var),
        "max": torch.stack(high),
        "mask": torch.tensor(mask),
    }


def stats_of(submission, x: Tensor, lengths: Tensor) -> dict[str, Tensor]:
    """The learner's statistics of copies of the arguments."""
    return keyed(submission.masked_stats(x.clone(), lengths.clone()))


def keyed(stats: Any) -> dict[str, Tensor]:
    """The statistics, with all four keys."""
    if not isinstance(stats, dict) or not {*KEYS, "mask"} <= set(stats):
        fail(
            'the result should be a dict with the keys "mean", "var", "max" and "mask"',
            id="value.keys",
        )
    for key in KEYS:
        if isinstance(stats[key], tuple):
            fail(
                f"{key} holds {len(stats[key])} tensors: the maximum along an axis comes with the "
                "indices of its places; only the values are asked for",
                id="value.tuple",
            )
    return stats


def padded(dtype: torch.dtype = torch.float32, padding: float = 100.0) -> tuple[Tensor, Tensor]:
    """A batch of rows of every kind but the empty one: x (5, 7, 3), lengths (5,)."""
    lengths = torch.tensor([3, 7, 1, 5, 2])
    x = torch.randn(5, 7, 3, dtype=dtype)
    for row, length in enumerate(lengths.tolist()):
        x[row, length:] = padding
    return x, lengths


def joined(submission, lengths: Tensor) -> Callable[[Tensor], Tensor]:
    """Mean, variance and maximum as one tensor, so that one gradient reaches all three."""

    def run(x: Tensor) -> Tensor:
        stats = keyed(submission.masked_stats(x, lengths.clone()))
        return torch.cat([stats[key] for key in KEYS], -1)

    return run


def joined_rows(lengths: Tensor) -> Callable[[Tensor], Tensor]:
    """The same of `row_stats`."""

    def run(x: Tensor) -> Tensor:
        stats = row_stats(x, lengths)
        return torch.cat([stats[key] for key in KEYS], -1)

    return run


@pytest.mark.task("masked_stats")
class TestMaskedStats:
    @pytest.mark.points(2, "shape")
    def test_shapes(self, submission):
        """The dict has mean, var and max of (batch, feat) and a mask of (batch, seq)."""
        stats = stats_of(submission, *padded())
        for key in KEYS:
            assert_shape(stats[key], batch=5, feat=3)
            assert_dtype(stats[key], torch.float32, what=key)
        assert_shape(stats["mask"], batch=5, seq=7)
        assert_dtype(stats["mask"], torch.bool, what="mask")

    @pytest.mark.points(4, "value")
    def test_mask(self, submission):
        """The mask is True at the first lengths[b] steps and False after them."""
        for lengths in (torch.tensor([1, 2]), torch.tensor([3, 0, 5, 1])):
            steps = torch.arange(5)
            got = stats_of(submission, torch.randn(len(lengths), 5, 2), lengths)["mask"]
            column = lengths[:, None]
            assert_equal(
                got,
                torch.stack([steps < length for length in lengths]),
                what="the mask",
                explain={
                    "the mask has one step too many: with length 2, steps 0 and 1 are valid": (
                        steps <= column
                    ),
                    "the mask is True at the padding; True means valid": steps >= column,
                    "the mask has one step too few: with length 2, steps 0 and 1 are valid": (
                        steps < column - 1
                    ),
                },
            )

    @pytest.mark.points(4, "value")
    def test_mean(self, submission):
        """The mean is over the valid steps only."""
        x, lengths = padded(torch.float64)
        got = stats_of(submission, x, lengths)["mean"]
        expected = row_stats(x, lengths)["mean"]
        explain = {
            "the sum over the valid steps was divided by seq; divide by the length": (
                expected * lengths[:, None] / x.shape[1]
            ),
            "the padding is part of the mean": x.mean(1),
        }
        assert_close(got, expected, axes=("row", "feat"), what="the mean", explain=explain)

    @pytest.mark.points(3, "value")
    def test_variance(self, submission):
        """The variance is the mean squared deviation of the valid steps."""
        x, lengths = padded(torch.float64)
        got = stats_of(submission, x, lengths)["var"]
        expected = row_stats(x, lengths)["var"]
        count = lengths[:, None]
        mean = row_stats(x, lengths)["mean"]
        padding = x.shape[1] - count
        explain = {
            "the squares were divided by seq; divide by the length": expected * count / x.shape[1],
            "the squares were divided by the length less 1; divide by the length": (
                expected * count / (count - 1)
            ),
            "the squares were divided by the length less 1 (at least 1); divide by the length": (
                expected * count / (count - 1).clamp_min(1)
            ),
            "padding that was filled with 0 before the mean was subtracted counts as a deviation": (
                expected + padding * mean.square() / count
            ),
            "this is the standard deviation; the variance is its square": expected.sqrt(),
            "the padding is part of the variance": x.var(1, correction=0),
        }
        assert_close(got, expected, axes=("row", "feat"), what="the variance", explain=explain)

    @pytest.mark.points(4, "value")
    def test_maximum(self, submission):
        """The maximum is over the valid steps only, also where all of them are negative."""
        x, lengths = padded(torch.float64)
        for values in (x, -1 - x.abs()):
            got = stats_of(submission, values, lengths)["max"]
            expected = row_stats(values, lengths)["max"]
            short = (lengths < x.shape[1])[:, None]
            explain = {
                "the padding was filled with 0, and 0 is larger than a negative value": (
                    torch.where(short, expected.clamp_min(0), expected)
                ),
                "the padding takes part in the maximum": values.amax(1),
            }
            assert_close(got, expected, axes=("row", "feat"), what="the maximum", explain=explain)

    @pytest.mark.points(4, "value")
    def test_garbage(self, submission):
        """nan and inf in the padding reach no value."""
        for garbage in (math.nan, math.inf, -math.inf):
            x, lengths = padded(torch.float64, garbage)
            stats = stats_of(submission, x, lengths)
            calm = stats_of(submission, x.masked_fill(~x.isfinite(), 1.0), lengths)
            for key in KEYS:
                if key != "max" and stats[key].isnan().any() and not calm[key].isnan().any():
                    fail(
                        f"{key} is nan where the padding holds {garbage}: multiplying by 0 does "
                        "not remove nan or inf (0 * nan is nan), replacing the value does",
                        id="value.nan",
                    )
                assert_close(
                    stats[key],
                    calm[key],
                    axes=("row", "feat"),
                    what=f"with {garbage} in place of 1 in the padding, {key}",
                )

    @pytest.mark.points(4, "gradient")
    @pytest.mark.after("test_shapes", "test_garbage")
    def test_garbage_gradient(self, submission):
        """nan and inf in the padding reach no gradient, and the padding's own is 0."""
        for garbage in (math.nan, math.inf):
            x, lengths = padded(torch.float64, garbage)
            leaf = x.clone().requires_grad_()
            out = joined(submission, lengths)(leaf)
            expect(
                out.requires_grad,
                "the result does not depend on x for autograd: the graph was cut",
                id="gradient.cut",
            )
            upstream = torch.randn_like(out)
            (gradient,) = torch.autograd.grad(out, leaf, upstream)
            if gradient.isnan().any():
                fail(
                    f"with {garbage} in the padding the gradient of x is nan: something was "
                    "computed from the padding before it was replaced, and its derivative there "
                    "is not finite",
                    id="gradient.nan",
                )
            valid = torch.stack([torch.arange(7) < length for length in lengths])
            worst = float(gradient[~valid].abs().max())
            expect(
                worst == 0,
                f"with {garbage} in the padding the gradient at the padding goes up to "
                f"{worst:.3g}; it should be 0",
                id="gradient.padding",
            )
            calm = x.masked_fill(~x.isfinite(), 1.0).requires_grad_()
            (expected,) = torch.autograd.grad(joined(submission, lengths)(calm), calm, upstream)
            assert_close(
                gradient,
                expected,
                axes=("row", "step", "feat"),
                what=f"with {garbage} in place of 1 in the padding, the gradient",
            )

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_shapes")
    def test_length_zero(self, submission):
        """A row of length 0 has mean 0, variance 0 and maximum -inf."""
        x, lengths = padded()
        lengths[1] = 0
        stats = stats_of(submission, x, lengths)
        for key, value in (("mean", 0.0), ("var", 0.0), ("max", -math.inf)):
            row = stats[key][1]
            why = ": 0 divided by 0" if row.isnan().any() else ""
            expect(
                bool((row == value).all()),
                f"{key} of a row of length 0 is {row[0]:.3g}{why}; it should be {value:g}",
                id="value.empty_row",
            )

    @pytest.mark.points(1, "gradient")
    @pytest.mark.after("test_length_zero")
    def test_length_zero_gradient(self, submission):
        """A row of length 0 has the gradient 0."""
        x, lengths = padded(torch.float64)
        lengths[1] = 0
        leaf = x.clone().requires_grad_()
        stats = keyed(submission.masked_stats(leaf, lengths.clone()))
        out = torch.cat([stats["mean"], stats["var"], stats["max"].nan_to_num()], -1)
        (gradient,) = torch.autograd.grad(out, leaf, torch.randn_like(out))
        expect(
            bool((gradient[1] == 0).all()),
            f"the gradient of a row of length 0 is {gradient[1].flatten()[0]:.3g}; it should be 0",
            id="gradient.empty_row",
        )

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_variance")
    def test_offset(self, submission):
        """The variance holds in float32 for values around 10,000."""
        lengths = torch.tensor([11, 5, 7])
        x = torch.zeros(3, 11, 2)
        for row, length in zip(x, lengths.tolist(), strict=True):
            steps = torch.randn(length, 2)
            row[:length] = 1e4 + (steps - steps.mean(0)) / steps.std(0, correction=0)
        got = stats_of(submission, x, lengths)["var"]
        expected = row_stats(x, lengths)["var"].float()
        difference = (got - expected).abs()
        if not (difference <= 1e-3 * expected).all():
            worst = int(difference.argmax())
            fail(
                f"for values around 10,000 with a spread of 1 the variance is "
                f"{float(got.flatten()[worst]):.4g}; expected "
                f"{float(expected.flatten()[worst]):.4g}: the mean of the squares and the square "
                "of the mean are both about 1e8, where float32 has steps of 8, so their "
                "difference cancels",
                id="value.cancellation",
            )

    @pytest.mark.points(1, "structure")
    def test_no_loop(self, submission):
        """The number of operations doesn't grow with the batch, nor with the steps."""
        for make in (
            lambda size: (torch.randn(size, 5, 2), torch.arange(size) % 5 + 1),
            lambda size: (torch.randn(3, size, 2), torch.tensor([1, size, 2])),
        ):
            assert_no_python_loop(submission.masked_stats, make)

    @pytest.mark.points(1, "value")
    def test_integer_lengths(self, submission):
        """The lengths may have any integer dtype."""
        x, lengths = padded(torch.float64)
        expected = stats_of(submission, x, lengths)
        for dtype in (torch.int32, torch.int16, torch.int8, torch.uint8):
            stats = stats_of(submission, x, lengths.to(dtype))
            for key in KEYS:
                name = str(dtype).removeprefix("torch.")
                what = f"with lengths in {name} in place of int64, {key}"
                assert_close(stats[key], expected[key], axes=("row", "feat"), what=what)

    @pytest.mark.points(1, "gradient")
    @pytest.mark.after("test_mean", "test_variance", "test_maximum")
    def test_gradient(self, submission):
        """The gradients of mean, variance and maximum are right at the valid steps."""
        x, lengths = padded(torch.float64)
        assert_gradients_close(joined(submission, lengths), joined_rows(lengths), x, names=("x",))
        assert_gradients(joined(submission, lengths[:3]), x[:3, :, :2], fast=True)

    @pytest.mark.points(1, "structure")
    def test_device(self, submission):
        """Everything it builds lives on the device of x."""
        assert_runs_on_meta(submission.masked_stats, *padded())

    @pytest.mark.points(1, "structure")
    def test_leaves_its_arguments_alone(self, submission):
        """x and lengths come back unchanged."""
        assert_unchanged(submission.masked_stats, *padded())
