"""Day 2 asks for strides, what can be a view, and shapes that change without scrambling data."""

import itertools
import math
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from grader.testing import (
    assert_close,
    assert_device,
    assert_dtype,
    assert_equal,
    assert_gradients,
    assert_gradients_close,
    assert_no_python_loop,
    assert_raises,
    assert_shape,
    assert_strides,
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


# Strides.


def column_major(shape: Shape) -> Shape:
    """The strides of a tensor whose first axis is the fastest."""
    return tuple(math.prod(max(size, 1) for size in shape[:i]) for i in range(len(shape)))


def by_plain_products(shape: Shape) -> Shape:
    """The strides by products of sizes, a size of 0 taken as it is."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def check_strides(submission, shape: Shape) -> None:
    """One case of `strides_of`, with the known mistakes by name."""
    got = submission.strides_of(shape)
    expected = torch.empty(shape).stride()
    assert_equal(
        got,
        expected,
        what=f"strides_of({shape})",
        explain={
            "the first axis has stride 1 (column-major order); in PyTorch's row-major order the "
            "last one has": column_major(shape),
            "the strides are in bytes (4 for a float32); PyTorch counts elements": (
                tuple(4 * stride for stride in expected)
            ),
            "the strides are in bytes (8 for a float64); PyTorch counts elements": (
                tuple(8 * stride for stride in expected)
            ),
            "an axis of size 0 makes every stride before it 0; PyTorch lets it count as 1": (
                by_plain_products(shape)
            ),
            "each stride counts its own axis too; one step along an axis jumps over the sizes "
            "behind it": tuple(s * max(n, 1) for s, n in zip(expected, shape, strict=True)),
            "the strides are in the order from the last axis to the first": expected[::-1],
        },
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


def check_plain(fn: Callable[..., Any], *args: Any) -> None:
    """The call needs neither torch nor NumPy."""
    with library_calls() as calls:
        fn(*args)
    # Torch's operators are written in C++, where no profile sees them.
    calls += [f"torch's {op.name}" for op in count_ops(fn, *args).ops]
    if calls:
        fail(
            f"{fn.__name__} asks {calls[0]}; work it out in plain Python from the numbers",
            id="forbidden",
        )


@pytest.mark.task("strides_of")
class TestStridesOf:
    @pytest.mark.points(4, "value")
    def test_row_major(self, submission):
        """A stride is the product of the sizes behind its axis."""
        cases: list[Shape] = [(3,), (2, 3), (2, 3, 5), (7, 2, 5, 3), (2, 2, 2, 2, 2)]
        smallest(lambda case: check_strides(submission, case["shape"]), as_cases(cases))

    @pytest.mark.points(1, "value")
    def test_no_axes(self, submission):
        """A tensor without axes has no strides."""
        check_strides(submission, ())

    @pytest.mark.points(1, "value")
    def test_size_one(self, submission):
        """An axis of size 1 has a stride like any other."""
        cases: list[Shape] = [(1,), (1, 3), (3, 1), (2, 1, 3), (1, 1, 5, 1)]
        smallest(lambda case: check_strides(submission, case["shape"]), as_cases(cases))

    @pytest.mark.points(2, "value")
    def test_size_zero(self, submission):
        """An axis of size 0 counts as 1 for the strides before it."""
        cases: list[Shape] = [(0,), (0, 3), (3, 0), (2, 0, 3), (0, 0), (5, 2, 0, 1, 3)]
        smallest(lambda case: check_strides(submission, case["shape"]), as_cases(cases))

    @pytest.mark.points(1, "value")
    def test_random_shapes(self, submission):
        """Fifty random shapes have the strides of torch.empty."""
        shapes = [
            tuple(random.choice((0, 1, 1, 2, 3, 5, 7)) for _ in range(random.randint(0, 6)))
            for _ in range(50)
        ]
        shapes.sort(key=lambda shape: (len(shape), sum(shape)))
        smallest(lambda case: check_strides(submission, case["shape"]), as_cases(shapes))

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_row_major")
    def test_plain_python(self, submission):
        """Neither torch nor NumPy is asked for the answer."""
        for shape in ((2, 3, 5), (2, 0, 1), ()):
            check_plain(submission.strides_of, shape)


def as_cases(shapes: Sequence[Shape]) -> list[dict[str, Shape]]:
    """The shapes as named arguments, which is how a failure shows its smallest input."""
    return [{"shape": shape} for shape in shapes]


# Heads.


def split_by_loop(x: Tensor, heads: int) -> Tensor:
    """Head h of token t, one slice at a time."""
    batch, seq, width = x.size()
    dim = width // heads
    result = torch.empty(batch, heads, seq, dim, dtype=x.dtype)
    for b, h, t in itertools.product(range(batch), range(heads), range(seq)):
        result[b, h, t] = x[b, t, h * dim : (h + 1) * dim]
    return result


def merge_by_loop(x: Tensor) -> Tensor:
    """Head h of token t back to its channels, one slice at a time."""
    batch, heads, seq, dim = x.shape
    result = torch.empty(batch, seq, heads * dim, dtype=x.dtype)
    for b, h, t in itertools.product(range(batch), range(heads), range(seq)):
        result[b, t, h * dim : (h + 1) * dim] = x[b, h, t]
    return result


def check_split(submission, x: Tensor, heads: int, what: str = "") -> None:
    """One case of `split_heads`, with the known mistakes by name."""
    batch, seq, width = x.size()
    got = submission.split_heads(x.clone(), heads)
    dim = width // heads
    assert_shape(got, batch=batch, heads=heads, seq=seq, dim=dim)
    cut_anew = x.reshape(batch, heads, seq, dim)
    assert_close(
        got,
        split_by_loop(x, heads),
        axes=("batch", "head", "token", "channel"),
        what=what or f"split_heads of an x of shape {tuple(x.shape)} into {heads}",
        explain={
            "the heads hold mixed tokens: the memory was cut anew into (heads, seq, dim), but no "
            "view or reshape moves an axis": cut_anew,
            "head h holds every heads-th channel; it should hold dim channels in a row: the last "
            "axis was split into (dim, heads)": x.reshape(batch, seq, dim, heads).permute(
                0, 3, 1, 2
            ),
            "the heads are in reverse order": split_by_loop(x, heads).flip(1),
        },
    )


def ribbons(submission) -> None:
    """Draw the memory of a small x, token by token, and what the split makes of it."""
    seq, heads, dim = 3, 2, 3
    x = torch.arange(1.0, seq + 1)[:, None].expand(seq, heads * dim).clone()[None]
    got = submission.split_heads(x.clone(), heads)
    expected = split_by_loop(x, heads)
    if not isinstance(got, Tensor) or got.shape != expected.shape:
        return
    wrong = (got != expected).flatten().nonzero().flatten().tolist()
    caption = "Every cell is an element, its shade the number of its token. In memory the tokens "
    caption += f"follow one another; read in order, each of the {heads} heads has all tokens."
    if wrong:
        caption += f" Yours has another token in {len(wrong)} cells."
    picture(
        "heatmap",
        "The memory of x, and the heads read in their order",
        caption,
        maps=[
            ribbon("x in memory", x),
            ribbon("head 0, then head 1", expected),
            ribbon("yours", got.detach(), wrong),
        ],
        row_axis="",
        column_axis="element",
        origin=[0, 0],
    )


def ribbon(label: str, tensor: Tensor, marked: Sequence[int] = ()) -> dict[str, Any]:
    """The elements in order, as a map of one row."""
    return {
        "label": label,
        "values": [tensor.flatten().tolist()],
        "marked": [[0, i] for i in marked],
        "scale": "sequential",
    }


def other_strides(x: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Tensors of the same values as `x` that are not contiguous, with words for each."""
    yield "every second step of a longer tensor", spread(x, 1)
    yield "a transposed tensor", x.transpose(1, 2).contiguous().transpose(1, 2)
    yield "every second channel of a wider tensor", spread(x, x.ndim - 1)


def spread(x: Tensor, axis: int) -> Tensor:
    """The same values, with other elements in between along one axis and in front."""
    wide = torch.randn_like(x).repeat_interleave(2, axis)
    wide = torch.cat([wide, wide.narrow(axis, 0, 1)], axis)
    part = wide.narrow(axis, 1, 2 * x.shape[axis])[(slice(None),) * axis + (slice(None, None, 2),)]
    return part.copy_(x)


@pytest.mark.task("heads")
class TestHeads:
    @pytest.mark.points(3, "value")
    def test_split(self, submission):
        """Head h of token t is the h-th part of its channels."""
        ribbons(submission)
        for shape, heads in (((2, 3, 4), 2), ((2, 3, 4), 2), ((2, 3, 35), 5), ((3, 5, 14), 7)):
            check_split(submission, torch.randn(shape), heads)

    @pytest.mark.points(2, "structure")
    def test_split_is_a_view(self, submission):
        """The heads are a view of x."""
        for x in (torch.randn(2, 3, 10), *(x for _, x in other_strides(torch.randn(2, 3, 10)))):
            assert_view(submission.split_heads(x, 5), x, what="split_heads(x, 5)")

    @pytest.mark.points(1, "structure")
    def test_split_strides(self, submission):
        """The heads have the strides that a contiguous x gives them."""
        for batch, seq, heads, dim in ((2, 3, 5, 7), (3, 7, 2, 5)):
            width = heads * dim
            got = submission.split_heads(torch.randn(batch, seq, width), heads)
            assert_strides(got, (seq * width, dim, width, 1))

    @pytest.mark.points(2, "value")
    def test_merge(self, submission):
        """Merging puts the heads of a token side by side."""
        for shape in ((2, 2, 3, 2), (2, 2, 3, 2), (2, 3, 5, 7)):
            x = torch.randn(shape)
            got = submission.merge_heads(x.clone())
            batch, heads, seq, dim = shape
            assert_shape(got, batch=batch, seq=seq, channels=heads * dim)
            explain = {
                "a token holds channels of other tokens: the memory was cut anew without moving "
                "heads back behind seq": x.reshape(batch, seq, heads * dim),
                "the channels of a token are interleaved; those of one head belong side by side": (
                    x.permute(0, 2, 3, 1).reshape(batch, seq, heads * dim)
                ),
            }
            assert_close(
                got,
                merge_by_loop(x),
                axes=("batch", "token", "channel"),
                what=f"merge_heads of an x of shape {shape}",
                explain=explain,
            )

    @pytest.mark.points(1, "value")
    def test_round_trip(self, submission):
        """Merging what was split gives x back."""
        for shape, heads in (((2, 3, 10), 5), ((3, 2, 14), 2)):
            x = torch.randn(shape)
            got = submission.merge_heads(submission.split_heads(x.clone(), heads))
            assert_close(got, x, axes=("batch", "token", "channel"), what="merged again, x")

    @pytest.mark.points(1, "value")
    def test_ones(self, submission):
        """Axes of size 1 stay: one row, one token, one head."""
        cases = [((1, 3, 10), 5), ((2, 1, 10), 5), ((2, 3, 5), 1), ((2, 3, 5), 5), ((1, 1, 1), 1)]
        for shape, heads in cases:
            x = torch.randn(shape)
            check_split(submission, x, heads)
            split = split_by_loop(x, heads)
            what = f"merge_heads of an x of shape {tuple(split.shape)}"
            assert_close(submission.merge_heads(split), x, what=what)

    @pytest.mark.points(1, "value")
    def test_other_strides(self, submission):
        """x need not be contiguous, to be split or to be merged."""
        for words, x in other_strides(torch.randn(2, 3, 10)):
            got = submission.split_heads(x, 5)
            what = f"split_heads of {words}"
            assert_close(got, split_by_loop(x, 5), what=what)
        for words, x in other_strides(torch.randn(2, 5, 3, 7)):
            got = submission.merge_heads(x)
            assert_close(got, merge_by_loop(x), what=f"merge_heads of {words}")

    @pytest.mark.points(1, "value")
    def test_no_tokens(self, submission):
        """A sequence of length 0 is split and merged too."""
        assert_shape(
            submission.split_heads(torch.randn(2, 0, 15), 5), batch=2, heads=5, seq=0, dim=3
        )
        assert_shape(submission.merge_heads(torch.randn(2, 5, 0, 3)), batch=2, seq=0, channels=15)

    @pytest.mark.points(1, "value")
    def test_not_divisible(self, submission):
        """Channels that don't divide raise a ValueError."""
        for shape, heads in (((2, 3, 7), 2), ((2, 6, 5), 3), ((2, 3, 2), 4)):
            x = torch.randn(shape)
            assert_raises(ValueError, submission.split_heads, x, heads, text="heads")

    @pytest.mark.points(1, "gradient")
    @pytest.mark.after("test_split", "test_merge")
    def test_gradient(self, submission):
        """Gradients pass through both, to the right place."""
        x = torch.randn(2, 3, 10, dtype=torch.float64)
        assert_gradients_close(
            lambda x: submission.split_heads(x, 5), lambda x: split_by_loop(x, 5), x, names=("x",)
        )
        x = torch.randn(2, 5, 3, 2, dtype=torch.float64)
        assert_gradients_close(submission.merge_heads, merge_by_loop, x, names=("x",))
        x = torch.randn(1, 2, 4, dtype=torch.float64)
        assert_gradients(lambda x: submission.split_heads(x, 2), x, names=("x",))

    @pytest.mark.points(1, "structure")
    def test_leaves_x_alone(self, submission):
        """x comes back unchanged, its shape and strides too."""
        assert_unchanged(submission.split_heads, torch.randn(2, 3, 10), 5)
        assert_unchanged(submission.merge_heads, torch.randn(2, 5, 3, 7))


# What can be a view.


def torch_view(shape: Shape, stride: Shape, new_shape: Shape) -> Shape | None:
    """The strides that torch itself gives the view, None where it refuses."""
    try:
        return torch.empty_strided(shape, stride).view(new_shape).stride()
    except RuntimeError:
        return None


def check_can_view(submission, case: dict[str, Shape], why: str = "") -> None:
    """One case of `can_view`; `why` is what a wrong None or a wrong view overlooks."""
    shape, stride, new_shape = case["shape"], case["stride"], case["new_shape"]
    got = submission.can_view(shape, stride, new_shape)
    expected = torch_view(shape, stride, new_shape)
    call = f"can_view({shape}, {stride}, {new_shape})"
    because = f": {why}" if why else ""
    if got is None and expected is None:
        return
    if got is None:
        fail(f"{call} is None, but this view works{because}", id="value.none", expected=expected)
    if not isinstance(got, tuple) or not all(type(step) is int for step in got):
        fail(
            f"{call} is {got!r}; expected a tuple of ints, or None where .view raises",
            id="type.sequence",
        )
    if expected is None:
        fail(
            f"{call} is {got}; expected None, because .view raises here{because}",
            id="value.view",
            expected=None,
            got=got,
        )
    if len(got) != len(expected):
        fail(
            f"{call} has {len(got)} strides; expected one for each of the {len(expected)} new axes",
            id="value.length",
            expected=expected,
            got=got,
        )
    if math.prod(shape) == 0:
        return
    sizes = torch.empty(shape).reshape(new_shape).shape  # with -1 worked out
    if any(size > 1 and g != e for size, g, e in zip(sizes, got, expected, strict=True)):
        fail(f"{call} is {got}; expected {expected}", expected=expected, got=got)


def view_case(shape: Shape, stride: Shape, new_shape: Shape) -> dict[str, Shape]:
    """Named arguments, which is how a failure shows its smallest input."""
    return {"shape": shape, "stride": stride, "new_shape": new_shape}


def factorised(numel: int) -> Shape:
    """A random shape of that many elements, with an axis of size 1 now and then."""
    sizes = []
    while numel > 1:
        size = random.choice([n for n in range(2, numel + 1) if numel % n == 0])
        sizes.append(size)
        numel //= size
    for _ in range(random.choice((0, 0, 0, 1, 2))):
        sizes.insert(random.randint(0, len(sizes)), 1)
    return tuple(sizes)


def random_view_case() -> dict[str, Shape]:
    """A permuted, sliced or expanded tensor and a shape of as many elements."""
    x = torch.empty(factorised(random.choice((12, 16, 24, 36))))
    for _ in range(random.randint(0, 2)):
        axis = random.randint(0, x.ndim - 1)
        turn = random.randint(0, 3)
        if turn == 0:
            x = x.transpose(axis, random.randint(0, x.ndim - 1))
        elif turn == 1 and x.shape[axis] > 2:
            x = x.narrow(axis, 1, x.shape[axis] - random.randint(1, 2))
        elif turn == 2:
            x = x[(slice(None),) * axis + (slice(None, None, 2),)]
        elif x.ndim < 5:
            x = x.unsqueeze(axis).expand(*x.shape[:axis], 2, *x.shape[axis:])
    if random.random() < 0.4:  # neighbours of the old shape merged, so that many views work
        sizes = list(x.shape)
        for _ in range(random.randint(1, 2)):
            if len(sizes) > 1:
                i = random.randint(0, len(sizes) - 2)
                sizes[i : i + 2] = [sizes[i] * sizes[i + 1]]
        return view_case(tuple(x.shape), x.stride(), tuple(sizes))
    return view_case(tuple(x.shape), x.stride(), factorised(x.numel()))


@pytest.mark.task("can_view")
class TestCanView:
    @pytest.mark.points(2, "value")
    def test_contiguous(self, submission):
        """A contiguous tensor can be viewed as any shape that fits."""
        cases = [
            view_case((6,), (1,), (6,)),
            view_case((6,), (1,), (2, 3)),
            view_case((2, 3), (3, 1), (6,)),
            view_case((2, 3), (3, 1), (3, 2)),
            view_case((2, 3, 5), (15, 5, 1), (3, 10)),
            view_case((2, 3, 5, 7), (105, 35, 7, 1), (6, 35)),
            view_case((6, 35), (35, 1), (2, 3, 5, 7)),
        ]
        smallest(lambda case: check_can_view(submission, case), cases)

    @pytest.mark.points(2, "value")
    def test_permuted(self, submission):
        """Permuted axes can be split, and merged where steps allow."""
        apart = "not contiguous is not the question; each new axis must find equal steps in memory"
        cases = [
            view_case((2, 3), (1, 2), (2, 3)),
            view_case((2, 3), (1, 2), (6,)),
            view_case((2, 3), (1, 2), (3, 2)),
            view_case((4, 3), (1, 4), (2, 2, 3)),
            view_case((3, 4), (1, 3), (3, 2, 2)),
            view_case((5, 2, 3), (1, 15, 5), (5, 6)),
            view_case((5, 2, 3), (1, 15, 5), (10, 3)),
            view_case((5, 2, 3), (1, 15, 5), (5, 3, 2)),
            view_case((2, 3, 5, 7), (105, 7, 21, 1), (2, 15, 7)),
            view_case((2, 3, 5, 7), (35, 70, 7, 1), (2, 3, 35)),
            view_case((2, 3, 5, 7), (35, 70, 7, 1), (6, 35)),
        ]
        smallest(lambda case: check_can_view(submission, case, apart), cases)

    @pytest.mark.points(2, "value")
    def test_sliced(self, submission):
        """Slices can be viewed where they step evenly."""
        gaps = "what a slice leaves out lies between the elements, and the strides tell how much"
        cases = [
            view_case((6,), (2,), (2, 3)),
            view_case((2, 3), (6, 2), (6,)),
            view_case((2, 3), (4, 1), (6,)),
            view_case((2, 3), (4, 1), (3, 2)),
            view_case((2, 4), (8, 2), (4, 2)),
            view_case((4, 3), (10, 2), (2, 2, 3)),
            view_case((3, 2, 5), (20, 5, 1), (3, 10)),
            view_case((3, 2, 5), (20, 5, 1), (6, 5)),
            view_case((3, 2, 5), (20, 10, 2), (6, 5)),
        ]
        smallest(lambda case: check_can_view(submission, case, gaps), cases)

    @pytest.mark.points(2, "value")
    def test_size_one(self, submission):
        """The stride of an axis of size 1 stands in nobody's way."""
        free = "nobody steps along an axis of size 1, so its stride may be anything"
        cases = [
            view_case((1,), (7,), ()),
            view_case((), (), (1, 1)),
            view_case((2, 1), (1, 7), (2,)),
            view_case((1, 2), (7, 1), (2,)),
            view_case((1, 2), (1, 1), (2, 1)),
            view_case((2, 1, 3), (3, 7, 1), (6,)),
            view_case((2, 1, 3), (3, 0, 1), (6, 1)),
            view_case((2, 1, 3), (1, 7, 2), (6,)),
            view_case((2, 1, 3), (1, 7, 2), (2, 1, 1, 3)),
        ]
        smallest(lambda case: check_can_view(submission, case, free), cases)

    @pytest.mark.points(2, "value")
    def test_expanded(self, submission):
        """Expanded axes, of stride 0, merge only with each other."""
        still = "stride 0 is a stride like any other: a step along this axis stays where it is"
        cases = [
            view_case((6,), (0,), (2, 3)),
            view_case((2, 3), (0, 0), (6,)),
            view_case((2, 3), (0, 1), (6,)),
            view_case((2, 3), (1, 0), (6,)),
            view_case((2, 3), (1, 0), (2, 3, 1)),
            view_case((4, 3), (0, 1), (2, 2, 3)),
            view_case((2, 3, 5), (0, 5, 1), (2, 15)),
            view_case((2, 3, 5), (0, 5, 1), (6, 5)),
        ]
        smallest(lambda case: check_can_view(submission, case, still), cases)

    @pytest.mark.points(1, "value")
    def test_no_elements(self, submission):
        """Without elements, any shape without elements is a view."""
        nothing = "without elements nothing has to lie anywhere"
        cases = [
            view_case((0,), (1,), (0,)),
            view_case((0,), (1,), (0, 3)),
            view_case((2, 0), (1, 2), (0,)),
            view_case((2, 0), (1, 1), (3, 0, 5)),
            view_case((0, 2, 3), (6, 1, 2), (5, 0)),
            view_case((0, 3), (3, 1), (3,)),
        ]
        smallest(lambda case: check_can_view(submission, case, nothing), cases)

    @pytest.mark.points(1, "value")
    def test_minus_one(self, submission):
        """One size of -1 is worked out from the others."""
        rest = "-1 stands for the elements divided by all the other sizes, if that divides"
        cases = [
            view_case((6,), (1,), (-1,)),
            view_case((6,), (1,), (2, -1)),
            view_case((2, 3), (3, 1), (-1, 2)),
            view_case((2, 3), (3, 1), (-1, 4)),
            view_case((2, 3), (1, 2), (-1,)),
            view_case((2, 3), (1, 2), (2, -1, 1)),
            view_case((2, 3, 5), (15, 5, 1), (2, -1)),
            view_case((2, 3), (3, 1), (2, -1, 3)),
        ]
        smallest(lambda case: check_can_view(submission, case, rest), cases)

    @pytest.mark.points(1, "value")
    def test_number_of_elements(self, submission):
        """A shape of more or fewer elements is None."""
        other = "the new shape has another number of elements"
        cases = [
            view_case((), (), (2,)),
            view_case((2,), (1,), ()),
            view_case((6,), (1,), (5,)),
            view_case((6,), (1,), (3,)),
            view_case((2, 3), (3, 1), (2, 2, 3)),
            view_case((2, 3), (3, 1), (3,)),
            view_case((2, 3), (1, 2), (2,)),
            view_case((2, 3), (3, 1), (0,)),
        ]
        smallest(lambda case: check_can_view(submission, case, other), cases)

    @pytest.mark.points(1, "value")
    def test_random(self, submission):
        """It agrees with .view on 300 random tensors."""
        cases = [random_view_case() for _ in range(300)]
        cases.sort(key=lambda case: (sum(map(len, case.values())), sum(case["shape"])))
        smallest(lambda case: check_can_view(submission, case), cases)

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_contiguous")
    def test_plain_python(self, submission):
        """Neither torch nor NumPy is asked for the answer."""
        for arguments in (
            ((2, 3), (3, 1), (3, 2)),
            ((2, 3), (1, 2), (6,)),
            ((2, 3), (1, 2), (-1,)),
        ):
            check_plain(submission.can_view, *arguments)


# Patches.


def patches_by_torch(img: Tensor, p: int) -> Tensor:
    """The patches that torch's own sliding blocks give."""
    return F.unfold(img, p, stride=p).transpose(1, 2)


def image_by_torch(patches: Tensor, p: int, height: int, width: int) -> Tensor:
    """The image that torch's own sliding blocks give back."""
    return F.fold(patches.transpose(1, 2), (height, width), p, stride=p)


def check_patches(submission, img: Tensor, p: int, what: str = "") -> None:
    """One case of `nchw_patches`, with the known mistakes by name."""
    batch, chan, height, width = img.size()
    got = submission.nchw_patches(img.clone(), p)
    rows, columns = height // p, width // p
    assert_shape(got, batch=batch, patch=rows * columns, value=chan * p * p)
    cut = img.reshape(batch, chan, rows, p, columns, p)

    def ordered(*axes: int) -> Tensor:
        return cut.permute(axes).reshape(batch, rows * columns, chan * p * p)

    explain = {
        "the pixels are scrambled: the memory was cut anew into patches, but no view or reshape "
        "moves an axis": img.reshape(batch, rows * columns, chan * p * p),
        "the patches go down the columns of the image first; they should go along its rows": (
            ordered(0, 4, 2, 1, 3, 5)
        ),
        "inside a patch the channel comes last; it should come first": ordered(0, 2, 4, 3, 5, 1),
        "inside a patch the column comes before the row": ordered(0, 2, 4, 1, 5, 3),
        "what should be the place inside a patch chooses the patch: the axes of the grid and of "
        "the patch are swapped": (
            img.reshape(batch, chan, p, rows, p, columns)
            .permute(0, 3, 5, 1, 2, 4)
            .reshape(batch, rows * columns, chan * p * p)
        ),
    }
    assert_close(
        got,
        patches_by_torch(img, p),
        axes=("batch", "patch", "value"),
        what=what or f"nchw_patches of an image of shape {tuple(img.shape)} with p={p}",
        explain=explain,
    )


def check_image(submission, patches: Tensor, p: int, height: int, width: int) -> None:
    """One case of `unpatch`, with the known mistakes by name."""
    got = submission.unpatch(patches.clone(), p, height, width)
    batch, _, values = patches.shape
    chan, rows, columns = values // (p * p), height // p, width // p
    assert_shape(got, batch=batch, chan=chan, height=height, width=width)

    def ordered(*sizes: int, axes: Sequence[int]) -> Tensor:
        return patches.reshape(batch, *sizes).permute(0, *axes).reshape(got.shape)

    explain = {
        "the pixels are scrambled: the memory was cut anew into an image, but no view or reshape "
        "moves an axis": patches.reshape(got.shape),
        "the patches are laid down the columns of the image first; they go along its rows": (
            ordered(columns, rows, chan, p, p, axes=(3, 2, 4, 1, 5))
        ),
        "the values of a patch are read with the channel last; it comes first": (
            ordered(rows, columns, p, p, chan, axes=(5, 1, 3, 2, 4))
        ),
        "rows and columns inside a patch are swapped": (
            ordered(rows, columns, chan, p, p, axes=(3, 1, 5, 2, 4))
        ),
    }
    assert_close(
        got,
        image_by_torch(patches, p, height, width),
        axes=("batch", "channel", "row", "column"),
        what=f"unpatch of patches of shape {tuple(patches.shape)} with p={p}, {height} x {width}",
        explain=explain,
    )


def drawn_patches(submission) -> None:
    """Draw an image by the number of its patch, in memory and as cut up."""
    p, height, width = 2, 4, 4
    number = (torch.arange(height)[:, None] // p) * (width // p) + torch.arange(width) // p + 1
    img = number.float()[None, None]
    got = submission.nchw_patches(img.clone(), p)
    expected = patches_by_torch(img, p)
    if not isinstance(got, Tensor) or got.shape != expected.shape:
        return
    wrong = (got != expected).flatten().nonzero().flatten().tolist()
    caption = "Every cell is a pixel, its shade the number of its patch. In memory the patches of "
    caption += "one row of the image alternate; cut up, each patch is in one piece."
    if wrong:
        caption += f" Yours has a pixel of another patch in {len(wrong)} cells."
    picture(
        "heatmap",
        "The memory of an image, and its patches one after another",
        caption,
        maps=[
            ribbon("image in memory", img),
            ribbon("patch after patch", expected),
            ribbon("yours", got.detach(), wrong),
        ],
        row_axis="",
        column_axis="element",
        origin=[0, 0],
    )


@pytest.mark.task("patches")
class TestPatches:
    @pytest.mark.points(3, "value")
    def test_patches(self, submission):
        """Patches go row by row; inside, channel, row, column."""
        drawn_patches(submission)
        for shape, p in (
            ((1, 1, 4, 4), 2),
            ((2, 3, 4, 4), 2),
            ((2, 3, 4, 4), 2),
            ((1, 2, 9, 9), 3),
        ):
            check_patches(submission, torch.randn(shape), p)

    @pytest.mark.points(3, "value")
    def test_unpatch(self, submission):
        """The patches are put back where they came from."""
        for shape, p, side in (((1, 4, 4), 2, 4), ((2, 4, 12), 2, 4), ((1, 9, 18), 3, 9)):
            check_image(submission, torch.randn(shape), p, side, side)

    @pytest.mark.points(2, "value")
    def test_rectangular(self, submission):
        """Images may be higher than wide, or wider than high."""
        for shape, p in (((1, 1, 2, 6), 2), ((2, 3, 10, 6), 2), ((2, 5, 6, 21), 3)):
            batch, chan, height, width = shape
            check_patches(submission, torch.randn(shape), p)
            patches = torch.randn(batch, (height // p) * (width // p), chan * p * p)
            check_image(submission, patches, p, height, width)

    @pytest.mark.points(1, "value")
    def test_round_trip(self, submission):
        """Cutting up and putting together gives the image back."""
        for shape, p in (((2, 3, 10, 6), 2), ((2, 5, 6, 21), 3)):
            img = torch.randn(shape)
            got = submission.unpatch(submission.nchw_patches(img.clone(), p), p, *shape[2:])
            assert_close(got, img, axes=("batch", "channel", "row", "column"), what="the image")

    @pytest.mark.points(1, "value")
    def test_ones(self, submission):
        """Sizes of 1 work, and a patch as high as the image."""
        cases = [((1, 3, 4, 6), 2), ((2, 1, 4, 6), 2), ((2, 3, 5, 7), 1), ((2, 3, 3, 6), 3)]
        cases += [((2, 3, 5, 5), 5), ((1, 1, 1, 1), 1)]
        for shape, p in cases:
            img = torch.randn(shape)
            check_patches(submission, img, p)
            check_image(submission, patches_by_torch(img, p), p, *shape[2:])

    @pytest.mark.points(1, "value")
    def test_other_strides(self, submission):
        """Images of other strides are cut up like any other."""
        img = torch.randn(2, 3, 4, 6)
        for words, x in (
            ("a channels_last image", img.contiguous(memory_format=torch.channels_last)),
            ("a slice of a wider image", spread(img, 3)),
            ("a transposed image", img.mT.contiguous().mT),
        ):
            got = submission.nchw_patches(x, 2)
            expected = patches_by_torch(img, 2)
            assert_close(got, expected, what=f"nchw_patches of {words}")
        patches = patches_by_torch(img, 2)
        for words, x in (
            ("a transposed tensor", patches.mT.contiguous().mT),
            ("a slice of a wider tensor", spread(patches, 2)),
        ):
            assert_close(submission.unpatch(x, 2, 4, 6), img, what=f"unpatch of {words}")

    @pytest.mark.points(1, "structure")
    def test_no_loop(self, submission):
        """The number of operations doesn't grow with the sizes."""
        for make in (
            lambda size: (torch.randn(1, 2, 2 * size, 4), 2),
            lambda size: (torch.randn(1, 2, 4, 2 * size), 2),
            lambda size: (torch.randn(size, size, 4, 6), 2),
            lambda size: (torch.randn(1, 2, size, size), size // 4 * 2),
        ):
            assert_no_python_loop(submission.nchw_patches, make)
        for make in (
            lambda size: (torch.randn(1, 2 * size, 8), 2, 2 * size, 4),
            lambda size: (torch.randn(1, 2 * size, 8), 2, 4, 2 * size),
            lambda size: (torch.randn(size, 6, 4 * size), 2, 4, 6),
        ):
            assert_no_python_loop(submission.unpatch, make)

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_patches")
    def test_forbidden(self, submission):
        """Neither fold nor unfold of torch.nn does the work."""
        # By the operators that they stand on: `forbid` takes `Tensor.unfold`, which is allowed,
        # for the same name.
        names = count_ops(submission.nchw_patches, torch.randn(2, 3, 4, 6), 2).names
        names += count_ops(submission.unpatch, torch.randn(2, 6, 12), 2, 4, 6).names
        for name, said in (("im2col", "F.unfold or nn.Unfold"), ("col2im", "F.fold or nn.Fold")):
            expect(
                name not in names,
                f"{said} is called, which is forbidden here: split, permute and merge axes",
                id="forbidden",
            )

    @pytest.mark.points(1, "gradient")
    @pytest.mark.after("test_patches", "test_unpatch")
    def test_gradient(self, submission):
        """Gradients pass through both, to the right pixel."""
        img = torch.randn(2, 3, 4, 6, dtype=torch.float64)
        assert_gradients_close(
            lambda img: submission.nchw_patches(img, 2),
            lambda img: patches_by_torch(img, 2),
            img,
            names=("img",),
        )
        patches = torch.randn(2, 6, 12, dtype=torch.float64)
        assert_gradients_close(
            lambda patches: submission.unpatch(patches, 2, 4, 6),
            lambda patches: image_by_torch(patches, 2, 4, 6),
            patches,
            names=("patches",),
        )
        small = torch.randn(1, 1, 2, 4, dtype=torch.float64)
        assert_gradients(lambda img: submission.nchw_patches(img, 2), small, names=("img",))

    @pytest.mark.points(1, "structure")
    def test_leaves_its_argument_alone(self, submission):
        """The arguments come back unchanged, strides too."""
        assert_unchanged(submission.nchw_patches, torch.randn(2, 3, 4, 6), 2)
        assert_unchanged(submission.unpatch, torch.randn(2, 6, 12), 2, 4, 6)


# Windows.


def windows_by_slices(x: Tensor, k: int, step: int = 1) -> Tensor:
    """The windows one by one."""
    starts = range(0, x.shape[1] - k + 1, step)
    return torch.stack([x[:, start : start + k] for start in starts], dim=1)


def check_windows(submission, x: Tensor, k: int, step: int, what: str = "") -> None:
    """One case of `windows`, with the known mistakes by name."""
    got = submission.windows(x, k, step)
    batch, seq, feat = x.size()
    expected = windows_by_slices(x, k, step)
    what = what or f"windows(x, {k}, {step}) of an x of shape {tuple(x.shape)}"
    n = expected.shape[1]
    off = assert_tensor(got, what).shape[1:2] if got.ndim == 4 else ()
    if tuple(got.shape[2:]) == (k, feat) and off in ((n - 1,), (n + 1,)):
        fail(
            f"{what} has {off[0]} windows; expected {n}: the last one starts at "
            f"{(n - 1) * step} and reaches up to step {(n - 1) * step + k} of {seq}",
            id="shape.off_by_one",
            expected=n,
            got=off[0],
        )
    assert_shape(got, batch=batch, n=n, k=k, feat=feat)
    cut_anew = expected.transpose(2, 3).reshape(expected.shape)
    explain = {
        "the windows have the right shape and mixed features: the memory was cut anew, but no view "
        "or reshape moves an axis": cut_anew,
        "every window starts at the first step": expected[:, :1].expand(expected.shape),
    }
    if step > 1 and seq >= n + k - 1:
        explain |= {
            "a window starts at every step; `step` is not used": windows_by_slices(x, k)[:, :n]
        }
    assert_close(
        got, expected, axes=("batch", "window", "step", "feat"), what=what, explain=explain
    )


@pytest.mark.task("windows")
class TestWindows:
    @pytest.mark.points(2, "value")
    def test_windows(self, submission):
        """Window i holds the k steps from step i on."""
        cases = [((1, 3, 1), 2), ((2, 5, 3), 2), ((2, 5, 3), 2), ((2, 7, 3), 5), ((2, 3, 5), 1)]
        for shape, k in cases:
            check_windows(submission, torch.randn(shape), k, 1)
        x = torch.randn(2, 5, 3)
        got = submission.windows(x, 2)
        assert_close(got, windows_by_slices(x, 2), what="windows(x, 2), where step is 1")

    @pytest.mark.points(2, "value")
    def test_step(self, submission):
        """With a step of s, every s-th window is there."""
        for seq, k, step in ((4, 2, 2), (5, 2, 2), (7, 3, 2), (11, 5, 3)):
            check_windows(submission, torch.randn(2, seq, 3), k, step)

    @pytest.mark.points(1, "value")
    def test_gaps(self, submission):
        """A step larger than k leaves steps out between the windows."""
        for seq, k, step in ((5, 1, 2), (7, 2, 5), (8, 2, 5), (11, 3, 4), (3, 2, 7)):
            check_windows(submission, torch.randn(2, seq, 3), k, step)

    @pytest.mark.points(1, "value")
    def test_whole(self, submission):
        """With k = seq there is one window, which is x."""
        for seq, step in ((5, 1), (5, 3), (1, 1)):
            check_windows(submission, torch.randn(2, seq, 3), seq, step)

    @pytest.mark.points(2, "structure")
    def test_view(self, submission):
        """The windows are a view of x, contiguous or not."""
        for x in (torch.randn(2, 7, 3), *(x for _, x in other_strides(torch.randn(2, 7, 3)))):
            assert_view(submission.windows(x, 3), x, what="windows(x, 3)")
            assert_view(submission.windows(x, 2, 2), x, what="windows(x, 2, 2)")

    @pytest.mark.points(1, "structure")
    def test_strides(self, submission):
        """The strides are those that step and x give."""
        for seq, k, step in ((7, 3, 1), (11, 2, 3)):
            got = submission.windows(torch.randn(2, seq, 5), k, step)
            assert_strides(got, (seq * 5, step * 5, 5, 1))

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_windows")
    def test_write_through(self, submission):
        """A write to x shows in every window that holds the place."""
        x = torch.randn(2, 5, 3)
        got = submission.windows(x, 3)
        x[1, 2, 0] = 7.0
        seen = [round(float(got[1, window, 2 - window, 0]), 3) for window in range(3)]
        expect(
            seen == [7.0] * 3,
            f"7 was written to step 2 of x; the three windows that hold it show {seen}: they have "
            "memory of their own",
            id="memory.copy",
        )

    @pytest.mark.points(1, "value")
    def test_other_strides(self, submission):
        """x need not be contiguous."""
        for words, x in other_strides(torch.randn(2, 7, 5)):
            for k, step in ((3, 1), (2, 3)):
                what = f"windows(x, {k}, {step}), x being {words},"
                check_windows(submission, x, k, step, what)

    @pytest.mark.points(1, "shape")
    def test_too_long(self, submission):
        """A window longer than the sequence fits nowhere: n is 0."""
        for seq, k, step in ((3, 4, 1), (3, 5, 1), (3, 5, 7), (0, 2, 1), (2, 7, 2)):
            assert_shape(
                submission.windows(torch.randn(2, seq, 5), k, step), batch=2, n=0, k=k, feat=5
            )

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_too_long")
    def test_too_long_like_x(self, submission):
        """Where no window fits, dtype and device are those of x."""
        assert_dtype(
            submission.windows(torch.randn(2, 3, 5, dtype=torch.float64), 7), torch.float64
        )
        assert_dtype(submission.windows(torch.ones(2, 3, 5, dtype=torch.int16), 7), torch.int16)
        assert_device(submission.windows(torch.empty(2, 3, 5, device="meta"), 7), "meta")

    @pytest.mark.points(1, "structure")
    def test_forbidden(self, submission):
        """Neither cat nor stack gathers the windows."""
        with forbid("cat", "stack", why="windows of the same memory need no copies"):
            submission.windows(torch.randn(2, 7, 3), 3, 2)

    @pytest.mark.points(1, "structure")
    def test_leaves_x_alone(self, submission):
        """x comes back unchanged, its shape and strides too."""
        for seq, k in ((7, 3), (3, 7)):
            assert_unchanged(submission.windows, torch.randn(2, seq, 5), k, 2)


# What a text says about axes.


Groups = list[list[str]]


def moved(x: Tensor, left: Groups, right: Groups, sizes: dict[str, int]) -> Tensor:
    """The result element by element: where each combination of axes lies, before and after."""
    names, wanted = [n for group in left for n in group], [n for group in right for n in group]
    before = x.flatten().tolist()
    after = [0.0] * len(before)
    for places in itertools.product(*(range(sizes[name]) for name in names)):
        at = dict(zip(names, places, strict=True))
        after[place_of(at, wanted, sizes)] = before[place_of(at, names, sizes)]
    shape = [math.prod(sizes[name] for name in group) for group in right]
    return torch.tensor(after, dtype=x.dtype).reshape(shape)


def place_of(at: dict[str, int], names: Sequence[str], sizes: dict[str, int]) -> int:
    """The place in a row of elements whose first axis is the slowest."""
    place = 0
    for name in names:
        place = place * sizes[name] + at[name]
    return place


def groups_of(side: str) -> Groups:
    """The names of each axis of one side; those of a `1` are none."""
    groups: Groups = []
    inside = False
    for word in side.replace("(", " ( ").replace(")", " ) ").split():
        if word in "()":
            inside = word == "("
            groups += [[]] if inside else []
        elif inside:
            groups[-1].append(word)
        else:
            groups.append([] if word == "1" else [word])
    return groups


def side_of(groups: Groups) -> str:
    """The text of one side."""
    words = ["1" if not g else g[0] if len(g) == 1 else f"({' '.join(g)})" for g in groups]
    return " ".join(words)


def all_sizes(x: Tensor, left: Groups, sizes: dict[str, int]) -> dict[str, int]:
    """The sizes of all axes, one in each group inferred."""
    known = dict(sizes)
    for group, size in zip(left, x.size(), strict=True):
        for name in group:
            if name not in sizes:
                known[name] = size // math.prod(sizes.get(other, 1) for other in group)
    return known


def check_relayout(submission, x: Tensor, spec: str, sizes: dict[str, int]) -> None:
    """One case of `relayout`, with the known mistakes by name."""
    got = submission.relayout(x, spec, **sizes)
    left, right = (groups_of(side) for side in spec.split("->"))
    known = all_sizes(x, left, sizes)
    expected = moved(x, left, right, known)
    said = "".join(f", {name}={size}" for name, size in sizes.items())
    what = f"relayout(x, {spec!r}{said}) of an x of shape {tuple(x.shape)}"
    if isinstance(got, Tensor) and got.shape != expected.shape:
        fail(
            f"{what} has shape {tuple(got.shape)}; expected {tuple(expected.shape)}",
            id="shape",
            expected=tuple(expected.shape),
            got=tuple(got.shape),
        )
    reversed_left, reversed_right = ([g[::-1] for g in groups] for groups in (left, right))
    slowest = "the first name in a group should be the slowest; here it is the fastest"
    mistakes = {
        "the shape is right and the elements are scrambled: the memory was cut anew, but no view "
        "or reshape moves an axis; permute the single axes before they are merged": x.reshape(
            expected.shape
        ),
        f"{slowest}, on the left": moved(x, reversed_left, right, known),
        f"{slowest}, on the right": moved(x, left, reversed_right, known),
        f"{slowest}, on both sides": moved(x, reversed_left, reversed_right, known),
        "the axes are permuted the wrong way round: `permute` asks, for each axis of the result, "
        "which old axis it is": permuted_back(x, left, right, known),
    }
    # Two mistakes may come to the same on a small x; the first of them speaks for both.
    explain: dict[str, Tensor] = {}
    for sentence, mistake in mistakes.items():
        if not any(torch.equal(mistake, other) for other in explain.values()):
            explain[sentence] = mistake
    assert_close(got, expected, what=what, explain=explain)


def permuted_back(x: Tensor, left: Groups, right: Groups, sizes: dict[str, int]) -> Tensor:
    """The result if the axes go where they should come from."""
    names, wanted = [n for group in left for n in group], [n for group in right for n in group]
    order = [wanted.index(name) for name in names]
    shape = [math.prod(sizes[name] for name in group) for group in right]
    return x.reshape([sizes[name] for name in names]).permute(order).reshape(shape)


def check_texts(submission, cases: Sequence[tuple[Shape, str, dict[str, int]]]) -> None:
    """Several cases of `relayout`, each with a random x of its shape."""
    for shape, spec, sizes in cases:
        check_relayout(submission, torch.randn(shape, dtype=torch.float64), spec, sizes)


def random_text() -> tuple[Shape, str, dict[str, int]]:
    """A shape, a text and the sizes that it needs."""
    names = random.sample(("a", "b", "h", "w", "p1", "seq", "dim", "p2"), random.randint(1, 4))
    size_of = dict(zip(names, random.sample((2, 3, 5, 7), len(names)), strict=True))
    left, right = grouped(names), grouped(random.sample(names, len(names)))
    given = {}
    for group in left:
        inferred = random.choice([*group, ""]) if group else ""
        if len(group) == 1 and random.random() < 0.7:
            continue
        given |= {name: size_of[name] for name in group if name != inferred}
    shape = tuple(math.prod(size_of[name] for name in group) for group in left)
    return shape, f"{side_of(left)} -> {side_of(right)}", given


def grouped(names: Sequence[str]) -> Groups:
    """The names in order, cut into groups, with a 1 in between now and then."""
    groups: Groups = []
    for name in names:
        if groups and random.random() < 0.4:
            groups[-1].append(name)
        else:
            groups.append([name])
    if random.random() < 0.3:
        groups.insert(random.randint(0, len(groups)), [])
    return groups


@contextmanager
def no_einops() -> Iterator[None]:
    """Fail where a function of einops is called, under whatever name it was imported."""
    called: list[str] = []

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and "einops" in Path(frame.f_code.co_filename).parts:
            called.append(frame.f_code.co_name)

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(before)
    if called:
        fail(
            "relayout asks einops, which is forbidden here: split, permute and merge yourself",
            id="forbidden",
        )


@pytest.mark.task("relayout")
class TestRelayout:
    @pytest.mark.points(2, "value")
    def test_permutes(self, submission):
        """Single names are permuted, whatever they are called."""
        check_texts(
            submission,
            [
                ((2, 3), "a b -> b a", {}),
                ((2, 2), "a b -> b a", {}),
                ((2, 3, 5), "a b c -> c a b", {}),
                ((2, 3, 5, 7), "batch h1 h2 w -> batch w h2 h1", {}),
                ((2, 3, 5), "a b c -> b c a", {"b": 3}),
            ],
        )

    @pytest.mark.points(2, "value")
    def test_splits(self, submission):
        """A group on the left splits an axis, slowest name first."""
        check_texts(
            submission,
            [
                ((6,), "(h w) -> h w", {"h": 2, "w": 3}),
                ((6,), "(h w) -> w h", {"h": 2, "w": 3}),
                ((2, 15, 7), "b (h w) c -> b c h w", {"h": 5, "w": 3}),
                ((2, 3, 70), "b t (p q r) -> q b r t p", {"p": 2, "q": 5, "r": 7}),
            ],
        )

    @pytest.mark.points(2, "value")
    def test_infers(self, submission):
        """One size in each group is inferred."""
        check_texts(
            submission,
            [
                ((6,), "(h w) -> w h", {"h": 2}),
                ((6,), "(h w) -> w h", {"w": 3}),
                ((2, 15, 7), "b (h w) c -> b c h w", {"h": 5}),
                ((2, 3, 70), "b t (p q r) -> q b r t p", {"p": 2, "r": 7}),
                ((6, 35), "(a b) (c d) -> d b c a", {"a": 2, "d": 7}),
            ],
        )

    @pytest.mark.points(3, "value")
    def test_merges(self, submission):
        """A group on the right merges axes, slowest name first."""
        check_texts(
            submission,
            [
                ((2, 3), "h w -> (h w)", {}),
                ((2, 3), "h w -> (w h)", {}),
                ((2, 2), "h w -> (w h)", {}),
                ((2, 3, 5, 7), "b c h w -> b (h w) c", {}),
                ((2, 3, 5), "a b c -> b (c a)", {}),
                ((2, 3, 5, 7), "a b c d -> (d a) (c b)", {}),
            ],
        )

    @pytest.mark.points(2, "value")
    def test_same_shape(self, submission):
        """Elements move also where the shape stays the same."""
        check_texts(
            submission,
            [
                ((6,), "(h w) -> (w h)", {"h": 2}),
                ((6, 5), "(h w) c -> (w h) c", {"w": 2}),
                ((3, 3), "a b -> b a", {}),
                ((4, 3), "(a b) c -> (b a) c", {"a": 2}),
            ],
        )

    @pytest.mark.points(3, "value")
    def test_together(self, submission):
        """Heads, patches and shuffled pixels are one text each."""
        check_texts(
            submission,
            [
                ((2, 3, 35), "b t (h d) -> b h t d", {"h": 5}),
                ((2, 5, 3, 7), "b h t d -> b t (h d)", {}),
                ((2, 3, 4, 6), "b c (h p) (w q) -> b (h w) (c p q)", {"p": 2, "q": 2}),
                ((2, 6, 12), "b (h w) (c p q) -> b c (h p) (w q)", {"h": 2, "p": 2, "q": 2}),
                ((2, 12, 3, 5), "b (c p q) h w -> b c (h p) (w q)", {"p": 2, "q": 2}),
            ],
        )

    @pytest.mark.points(2, "value")
    def test_ones(self, submission):
        """A 1 is dropped on the left and inserted on the right."""
        check_texts(
            submission,
            [
                ((3,), "a -> a 1", {}),
                ((1, 3), "1 a -> a", {}),
                ((2, 3), "a b -> b 1 a", {}),
                ((2, 1, 3, 1), "a 1 b 1 -> b a", {}),
                ((2, 1, 15), "a 1 (h w) -> 1 (w a) 1 1 h", {"h": 3}),
                ((1, 3), "a b -> b a", {}),
            ],
        )

    @pytest.mark.points(2, "value")
    def test_random(self, submission):
        """Forty random texts come out right."""
        cases = sorted((random_text() for _ in range(40)), key=lambda case: len(case[1]))
        check_texts(submission, cases)

    @pytest.mark.points(3, "structure")
    def test_view(self, submission):
        """The result is a view wherever the strides allow one."""
        plain = torch.randn(2, 15, 7)
        image = torch.randn(2, 3, 5, 7).contiguous(memory_format=torch.channels_last)
        for words, x, spec, sizes in (
            ("a contiguous x", plain, "a b c -> c a b", {}),
            ("a contiguous x", plain, "b (h w) c -> b c h w", {"h": 5}),
            ("a contiguous x", plain, "a b c -> (a b) c", {}),
            ("a contiguous x", plain, "a (h w) c -> w (a h) c", {"h": 1}),
            ("a contiguous x", plain, "a (h w) c -> 1 a h (w c)", {"h": 3}),
            ("a transposed x", torch.randn(5, 3).T, "a b -> (b a)", {}),
            ("a channels_last x", image, "b c h w -> b (h w) c", {}),
            ("a slice", torch.randn(3, 10)[:, ::2], "a b -> (a b)", {}),
            ("a slice", torch.randn(3, 12)[:, ::2], "a (b c) -> c a b", {"b": 2}),
            ("an expanded x", torch.randn(5, 1).expand(5, 6), "a (b c) -> (c b) a", {"b": 2}),
        ):
            got = submission.relayout(x, spec, **sizes)
            if x.stride()[-1] == 0:  # writes to it would go to several places at once
                same = assert_tensor(got).untyped_storage().data_ptr()
                expect(
                    same == x.untyped_storage().data_ptr(),
                    f"relayout(x, {spec!r}) of {words} is a copy; its strides allow a view",
                    id="memory.copy",
                )
            else:
                assert_view(got, x, what=f"relayout(x, {spec!r}) of {words}")

    @pytest.mark.points(1, "structure")
    def test_identity(self, submission):
        """A text that moves nothing copies nothing."""
        for x, spec, sizes in (
            (torch.randn(2, 3, 5), "a b c -> a b c", {}),
            (torch.randn(2, 3, 5).mT, "a b c -> a b c", {}),
            (torch.randn(2, 5, 12)[:, 1:4, ::2], "a b (c d) -> a b (c d)", {"c": 3}),
        ):
            got = submission.relayout(x, spec, **sizes)
            assert_close(got, x, what=f"relayout(x, {spec!r})")
            assert_view(got, x, what=f"relayout(x, {spec!r})")

    @pytest.mark.points(1, "value")
    def test_name_twice(self, submission):
        """A name twice on one side raises a ValueError."""
        x = torch.randn(3, 3)
        for spec in ("row row -> row", "row row -> row row", "(row row) b -> b row"):
            assert_raises(ValueError, submission.relayout, x, spec, text="row")
        for spec in ("row b -> row row b", "row b -> (b row) row"):
            assert_raises(ValueError, submission.relayout, x, spec, text="row")

    @pytest.mark.points(1, "value")
    def test_one_side_only(self, submission):
        """A name on one side only raises a ValueError."""
        for shape, spec in (
            ((2, 3), "a row -> a"),
            ((2, 1), "a row -> a"),
            ((2, 3), "a b -> a b row"),
            ((2, 3), "a b -> (a row) b"),
            ((2, 3), "row b -> b"),
        ):
            assert_raises(ValueError, submission.relayout, torch.randn(shape), spec, text="row")
        assert_raises(
            ValueError, submission.relayout, torch.randn(2, 3), "a b -> a b row", text="row", row=5
        )

    @pytest.mark.points(1, "value")
    def test_keyword_that_is_no_axis(self, submission):
        """A keyword that is no axis raises a ValueError."""
        x = torch.randn(2, 6)
        for spec, sizes in (
            ("a b -> b a", {"row": 2}),
            ("a b -> b a", {"row": 1}),
            ("a (h w) -> a h w", {"h": 2, "row": 3}),
        ):
            assert_raises(ValueError, submission.relayout, x, spec, text="row", **sizes)

    @pytest.mark.points(1, "value")
    def test_two_unknown(self, submission):
        """Two unknown sizes in a group raise a ValueError."""
        for shape, spec, sizes in (
            ((6, 2), "(row pix) b -> row pix b", {}),
            ((7, 2), "(row pix) b -> row pix b", {}),
            ((30, 2), "(row pix deep) b -> row pix b deep", {"deep": 5}),
        ):
            x = torch.randn(shape)
            assert_raises(
                ValueError, submission.relayout, x, spec, text=("row", "pix", "deep"), **sizes
            )

    @pytest.mark.points(1, "value")
    def test_sizes_that_do_not_fit(self, submission):
        """Sizes that don't fit their axis raise a ValueError."""
        for shape, spec, sizes in (
            ((7, 2), "(row pix) b -> row pix b", {"row": 2}),
            ((7, 2), "(row pix) b -> row pix b", {"pix": 3}),
            ((4, 2), "(row pix) b -> row pix b", {"row": 8}),
            ((12, 2), "(row pix) b -> row pix b", {"row": 2, "pix": 3}),
            ((6, 2), "(row pix deep) b -> row pix b deep", {"row": 2, "pix": 2}),
        ):
            x = torch.randn(shape)
            assert_raises(
                ValueError, submission.relayout, x, spec, text=("row", "pix", "deep"), **sizes
            )

    @pytest.mark.points(1, "gradient")
    @pytest.mark.after("test_together")
    def test_gradient(self, submission):
        """Gradients come back to where the elements came from."""
        for shape, spec, sizes in (
            ((2, 3, 10), "b t (h d) -> b h t d", {"h": 5}),
            ((2, 3, 4, 6), "b c (h p) (w q) -> b (h w) (c p q)", {"p": 2, "q": 2}),
        ):
            x = torch.arange(math.prod(shape), dtype=torch.float64).reshape(shape)
            leaf = x.clone().requires_grad_()
            out = submission.relayout(leaf, spec, **sizes)
            upstream = torch.randn_like(out)
            expect(
                out.requires_grad,
                "the result does not depend on x for autograd: the graph was cut",
                id="gradient.cut",
            )
            (gradient,) = torch.autograd.grad(out, leaf, upstream)
            expected = torch.empty_like(x).flatten()
            expected[out.detach().flatten().long()] = upstream.flatten()
            assert_close(gradient, expected.reshape(shape), what=f"the gradient of {spec!r}")

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_permutes")
    def test_forbidden(self, submission):
        """einops is not asked for the answer."""
        with no_einops():
            submission.relayout(torch.randn(2, 3), "a b -> b a")
            submission.relayout(torch.randn(6, 3), "(a b) c -> b (c a)", a=2)

    @pytest.mark.points(1, "structure")
    def test_leaves_x_alone(self, submission):
        """x comes back unchanged, its shape and strides too."""
        assert_unchanged(submission.relayout, torch.randn(2, 1, 15), "a 1 (b c) -> c 1 a b", b=3)
