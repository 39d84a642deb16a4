"""Day 6 asks for both ways over the border, NumPy's defaults, aliases, and a ragged batch."""

import itertools
import random
import sys
import tracemalloc
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from grader.testing import (
    assert_close,
    assert_dtype,
    assert_equal,
    assert_finite,
    assert_raises,
    assert_shape,
    assert_speed,
    assert_tensor,
    assert_unchanged,
    expect,
    fail,
    forbid,
    measured,
    picture,
    smallest,
)

# What the suite knows of memory.


def shares(t: Tensor, a: np.ndarray) -> bool:
    """Whether a tensor of a dtype that NumPy has lies in the memory of the array."""
    return np.shares_memory(t.detach().numpy(), a)


@contextmanager
def without_warnings(what: str) -> Iterator[None]:
    """Fail for any warning, also for those that torch gives once in a process."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    finally:
        torch.set_warn_always(before)
    if caught:
        said = str(caught[0].message).split(". ")[0][:110]
        fail(f"{what} gives a warning: {said}", id="warning", args={"warning": said})


def reading(a: np.ndarray) -> np.ndarray:
    """The array, read-only."""
    a.flags.writeable = False
    return a


def ownership(called: str, yours: Any, a: np.ndarray) -> None:
    """Attach the picture of whose memory the tensors made of one array live in."""
    made = {
        "from_numpy(a)": torch.from_numpy(a),
        "as_tensor(a)": torch.as_tensor(a),
        "tensor(a)": torch.tensor(a),
        "yours": yours,
    }
    made = {name: t for name, t in made.items() if isinstance(t, Tensor)}
    said = {name: "shares" if shares(t, a) else "copies" for name, t in made.items()}
    picture(
        "graph",
        f"Who owns the memory; yours is {called}",
        "What shares changes when the array does; what copies lives on by itself.",
        nodes=[
            {"id": "a", "label": "a, an array", "note": str(a.dtype)},
            *(
                {"id": name, "label": name, "note": str(t.dtype).removeprefix("torch.")}
                for name, t in made.items()
            ),
        ],
        edges=[{"from": "a", "to": name, "label": word} for name, word in said.items()],
    )


# From array to tensor.

KEPT = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bool": torch.bool,
    "uint8": torch.uint8,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "complex64": torch.complex64,
    "complex128": torch.complex128,
}
WIDE_UNSIGNED = {"uint16": torch.uint16, "uint32": torch.uint32, "uint64": torch.uint64}


def numbers(*shape: int, dtype: str = "float64") -> np.ndarray:
    """Random numbers that every dtype tells apart from each other."""
    values = np.arange(1, np.prod(shape, dtype=int) + 1)
    return np.random.permutation(values).reshape(shape).astype(dtype)


def values_of(a: np.ndarray) -> Tensor:
    """The elements one by one, in float32 where they are float64."""
    kind = KEPT | WIDE_UNSIGNED
    dtype = kind.get(a.dtype.newbyteorder("=").name, torch.float32)
    return torch.tensor(a.tolist(), dtype=dtype).reshape(a.shape)


def check_copy(submission, a: np.ndarray, what: str, explain: Any = None) -> None:
    """A copy of the array, with its values and dtype; the array may be of any layout."""
    before = a.copy()
    got = assert_tensor(submission.to_tensor(a))
    expect((a == before).all(), f"to_tensor({what}) changed the array", id="argument.changed")
    expected = values_of(before)
    assert_equal(tuple(got.shape), before.shape, what=f"the shape of to_tensor({what})")
    assert_dtype(got, expected.dtype, what=f"to_tensor({what})")
    assert_close(got, expected, what=f"to_tensor({what})", explain=explain)


@pytest.mark.task("to_tensor")
class TestToTensor:
    @pytest.mark.points(2, "value")
    def test_values(self, submission):
        """A float64 array becomes a float32 tensor of the same values."""
        for shape in ((3,), (2, 3), (2, 3), (5, 2, 3), (0, 3)):
            check_copy(submission, numbers(*shape), f"a float64 array of shape {shape}")

    @pytest.mark.points(2, "value")
    def test_dtypes(self, submission):
        """Every dtype but float64 is kept."""
        for dtype in KEPT:
            check_copy(submission, numbers(2, 3, dtype=dtype), f"an array of {dtype}")

    @pytest.mark.points(1, "value")
    def test_wide_unsigned(self, submission):
        """uint16, uint32 and uint64 are kept, large numbers too."""
        for dtype in WIDE_UNSIGNED:
            a = numbers(2, 3, dtype=dtype)
            a[0, 0] = np.iinfo(dtype).max
            got = assert_tensor(submission.to_tensor(a.copy()))
            assert_dtype(got, WIDE_UNSIGNED[dtype], what=f"to_tensor of an array of {dtype}")
            assert_equal(got.tolist(), a.tolist(), what=f"to_tensor of an array of {dtype}")

    @pytest.mark.points(2, "memory")
    @pytest.mark.after("test_values")
    def test_copies(self, submission):
        """A write to array or tensor doesn't reach the other."""
        for dtype in ("float64", "float32", "int64", "bool", "uint16"):
            a = numbers(2, 3, dtype=dtype)
            before = a.copy()
            got = assert_tensor(submission.to_tensor(a))
            if dtype == "float64":
                ownership("to_tensor(a)", got, a)
            for how, seen in (
                ("lives in the memory of the array", shares(got, a)),
                ("was not written to, yet the array changed", (a != before).any()),
            ):
                expect(
                    not seen,
                    f"to_tensor of an array of {dtype} {how}: writing to one changes the other; "
                    "by default a copy is asked for, whatever the dtype",
                    id="memory.shared",
                )

    @pytest.mark.points(2, "value")
    @pytest.mark.hint(
        "torch takes no negative strides, not even to copy from. What can NumPy do first?"
    )
    def test_reversed(self, submission):
        """A reversed array, whose strides are negative, is copied."""
        a = numbers(3, 5)
        for said, view in (
            ("a[::-1] of an array of shape (3,)", numbers(3)[::-1]),
            ("a[:, ::-1] of an array of shape (3, 5)", a[:, ::-1]),
            ("a[::-1, ::-2] of an array of shape (3, 5)", a[::-1, ::-2]),
            ("np.flip of an int64 array", np.flip(numbers(2, 3, dtype="int64"))),
        ):
            forwards = {
                "the values are in the order of the array that was reversed": (
                    values_of(np.flip(view))
                )
            }
            check_copy(submission, view, said, forwards if view.ndim == 1 else None)

    @pytest.mark.points(2, "value")
    @pytest.mark.hint(
        "newbyteorder changes what a dtype says of the bytes; astype moves the bytes too."
    )
    def test_big_endian(self, submission):
        """A big-endian array arrives with its values."""
        for dtype in (">f8", ">f4", ">i2", ">i8", ">u4"):
            a = numbers(2, 3, dtype=dtype)
            flipped = values_of(a.byteswap())
            explain = {
                "the bytes were read in the wrong order: the dtype's byte order was changed "
                "without the bytes, or the other way round": flipped
            }
            check_copy(submission, a, f"an array of dtype {dtype!r}", explain)

    @pytest.mark.points(2, "value")
    @pytest.mark.hint(
        "torch takes strides that are multiples of the item size. A copy made by NumPy has them."
    )
    def test_layouts(self, submission):
        """Transposed, strided, repeated and packed arrays are copied."""
        packed = np.zeros(3, dtype=[("flag", "i1"), ("value", "f8")])
        packed["value"] = numbers(3)
        for said, view in (
            ("a.T", numbers(2, 3).T),
            ("a[::2]", numbers(5)[::2]),
            ("a[:, 1]", numbers(2, 3, dtype="int32")[:, 1]),
            ("an array in Fortran order", np.asfortranarray(numbers(2, 3, dtype="float32"))),
            ("np.broadcast_to(a, (2, 3))", np.broadcast_to(numbers(3), (2, 3))),
            ("the field of a packed record array", packed["value"]),
        ):
            check_copy(submission, view, said)

    @pytest.mark.points(1, "shape")
    def test_no_axes(self, submission):
        """An array of 0 axes becomes a tensor of 0 axes."""
        for dtype in ("float64", "int64", ">f8"):
            a = np.array(7, dtype=dtype)
            check_copy(submission, a, f"an array of 0 axes and dtype {dtype}")
            expect(not shares(submission.to_tensor(a), a), "the array of 0 axes is not copied")

    @pytest.mark.points(1, "structure")
    @pytest.mark.hint("torch gives this warning once in a process; here every time.")
    def test_no_warning(self, submission):
        """A read-only array gives no warning."""
        for dtype in ("float32", "float64", "int64"):
            with without_warnings(f"to_tensor of a read-only array of {dtype}"):
                submission.to_tensor(reading(numbers(2, 3, dtype=dtype)))

    @pytest.mark.points(1, "memory")
    def test_read_only(self, submission):
        """No write to the tensor changes a read-only array."""
        for dtype in ("float32", "float64", "int64"):
            a = reading(numbers(2, 3, dtype=dtype))
            before = a.copy()
            got = assert_tensor(submission.to_tensor(a))
            expect(not a.flags.writeable, "the read-only array can be written to afterwards")
            got.zero_()
            expect(
                (a == before).all(),
                f"a write to the tensor changed the read-only array of {dtype}: it was shared",
                id="memory.shared",
            )

    @pytest.mark.points(1, "memory")
    def test_shares(self, submission):
        """With share, a write to either is seen in the other."""
        a = numbers(2, 3)
        ownership("to_tensor(a, share=True)", submission.to_tensor(a, share=True), a)
        whole = numbers(5, 3, dtype="int32")
        for said, view in (
            ("an array", numbers(2, 3, dtype="float32")),
            ("a.T", numbers(2, 3, dtype="int64").T),
            ("a[::2, 1]", whole[::2, 1]),
        ):
            got = assert_tensor(submission.to_tensor(view, share=True))
            assert_equal(tuple(got.shape), view.shape, what=f"the shape for {said}")
            expect(
                shares(got, view),
                f"to_tensor({said}, share=True) is a copy; it should share the array's memory",
                id="memory.copy",
            )
            assert_close(got, values_of(view), what=f"to_tensor({said}, share=True)")
            got.fill_(77)
            expect((view == 77).all(), f"a write to the tensor doesn't reach all of {said}")

    @pytest.mark.points(1, "value")
    def test_share_keeps_float64(self, submission):
        """With share, float64 stays float64."""
        a = numbers(2, 3)
        got = assert_tensor(submission.to_tensor(a, share=True))
        if got.dtype is torch.float32:
            fail(
                "with share=True a float64 array came back as float32: another dtype needs other "
                "memory, so this can't be the array's",
                id="dtype.share",
            )
        assert_dtype(got, torch.float64)
        expect(shares(got, a), "with share=True a float64 array is copied", id="memory.copy")

    @pytest.mark.points(1, "value")
    def test_share_refuses_layouts(self, submission):
        """With share, reversed and big-endian arrays are refused."""
        for view in (numbers(3)[::-1], numbers(2, 3)[:, ::-1], numbers(3, dtype=">f8")):
            assert_raises(ValueError, submission.to_tensor, view, share=True)

    @pytest.mark.points(1, "value")
    def test_share_refuses_read_only(self, submission):
        """With share, a read-only array is refused."""
        for a in (
            reading(numbers(2, 3)),
            reading(numbers(2, 3, dtype="int64")),
            np.broadcast_to(numbers(3), (2, 3)),
        ):
            assert_raises(ValueError, submission.to_tensor, a, share=True)
            expect(not a.flags.writeable, "the read-only array can be written to afterwards")


# From tensor to array.


def assert_array(value: Any, what: str = "the result") -> np.ndarray:
    """A plain NumPy array; returns it."""
    if isinstance(value, np.generic):
        fail(
            f"{what} is a NumPy scalar, {type(value).__name__}; an array of 0 axes is asked for",
            id="type.scalar",
        )
    if type(value) is not np.ndarray:
        fail(
            f"{what} is of type {type(value).__name__}; a NumPy array is asked for", id="type.array"
        )
    return value


def check_array(got: Any, t: Tensor, dtype: str, what: str) -> None:
    """The array has the values of the tensor, read one by one, and this dtype."""
    array = assert_array(got, what)
    expected = np.array(t.tolist(), dtype=dtype).reshape(t.shape)
    assert_equal(array.shape, expected.shape, what=f"the shape of {what}")
    if array.dtype != expected.dtype:
        fail(f"{what} has dtype {array.dtype}; expected {dtype}", id="dtype")
    if not np.array_equal(array, expected, equal_nan=array.dtype.kind in "fc"):
        place = tuple(int(i) for i in np.argwhere(array != expected)[0])
        where = f" at {list(place)}" if place else ""
        fail(f"{what} is {array[place]}{where}; expected {expected[place]}", id="value.differs")


@pytest.mark.task("to_numpy")
class TestToNumpy:
    @pytest.mark.points(1, "value")
    def test_values(self, submission, device):
        """The result is an array with the tensor's values, of 0 axes too."""
        for shape in ((3,), (2, 3), (2, 3), (), (0, 3)):
            t = torch.randn(shape)
            got = submission.to_numpy(t.to(device))
            check_array(got, t, "float32", f"to_numpy of a tensor of shape {shape}")
        t = torch.randn(2, 3).to(device)
        check_array(submission.to_numpy(t.T), t.T, "float32", "to_numpy of a transpose")
        t = torch.randn(1).to(device).expand(3)
        check_array(submission.to_numpy(t), t, "float32", "to_numpy(t.expand(3))")

    @pytest.mark.points(2, "memory")
    def test_copies(self, submission):
        """A write to array or tensor doesn't reach the other."""
        x = torch.randn(2, 3, requires_grad=True)
        for said, t in (
            ("a float32 tensor", torch.randn(2, 3)),
            ("an int64 tensor", torch.arange(3)),
            ("a transpose", torch.randn(2, 3).T),
            ("a tensor that requires grad", x),
            ("a tensor with a graph", x * 2),
            ("a tensor of 0 axes", torch.tensor(3.0)),
        ):
            array = assert_array(submission.to_numpy(t))
            expect(
                not shares(t, array),
                f"the array of {said} lives in the tensor's memory: writing to one changes the "
                "other; a copy is asked for",
                id="memory.shared",
            )

    @pytest.mark.points(1, "value")
    @pytest.mark.hint("NumPy has no bfloat16. Which dtype of NumPy holds all its values?")
    def test_bfloat16(self, submission):
        """bfloat16, which NumPy doesn't have, becomes float32."""
        for t in (torch.randn(2, 3).bfloat16(), torch.randn(3).bfloat16().requires_grad_()):
            got = submission.to_numpy(t)
            check_array(got, t, "float32", "to_numpy of a bfloat16 tensor")

    @pytest.mark.points(1, "value")
    def test_requires_grad(self, submission):
        """Tensors that require grad or have a graph are taken."""
        x = torch.randn(2, 3, requires_grad=True)
        for said, t in (("a leaf that requires grad", x), ("the result of x * 2", x * 2)):
            check_array(submission.to_numpy(t), t, "float32", f"to_numpy of {said}")

    @pytest.mark.points(1, "gradient")
    def test_graph(self, submission):
        """The tensor keeps its graph."""
        x = torch.randn(3, requires_grad=True)
        y = x * 2
        made_by = y.grad_fn
        submission.to_numpy(x)
        submission.to_numpy(y)
        expect(x.requires_grad, "the leaf doesn't require grad any more", id="gradient.cut")
        expect(
            y.requires_grad and y.grad_fn is made_by,
            "the tensor was cut off from its graph; detach gives a new tensor, detach_ changes t",
            id="gradient.cut",
        )

    @pytest.mark.points(1, "value")
    def test_dtypes(self, submission):
        """Every dtype that NumPy has is kept."""
        for dtype in (
            *("float64", "float32", "float16", "int8", "int16", "int32", "int64", "bool"),
            *("uint8", "uint16", "uint32", "complex64", "complex128"),
        ):
            t = torch.tensor([[1, 0, 3], [5, 7, 2]]).to(getattr(torch, dtype))
            got = submission.to_numpy(t)
            check_array(got, t, dtype, f"to_numpy of a tensor of {dtype}")

    @pytest.mark.points(1, "value")
    @pytest.mark.hint(
        "conj() and its imag compute nothing, they set a bit that NumPy does not know."
    )
    def test_lazy_views(self, submission):
        """Conj and neg views have the values that they stand for."""
        z = torch.randn(3, dtype=torch.complex64)
        for said, t, dtype in (
            ("z.conj()", z.conj(), "complex64"),
            ("z.conj().imag", z.conj().imag, "float32"),
        ):
            got = submission.to_numpy(t)
            check_array(got, t, dtype, f"to_numpy({said})")
            expect(
                not np.shares_memory(got, z.numpy()), f"the array of {said} shares memory with z"
            )

    @pytest.mark.points(1, "value")
    def test_sparse(self, submission):
        """A sparse tensor gives a dense array."""
        dense = torch.tensor([[0.0, 2.0, 0.0], [3.0, 0.0, 0.0]])
        for said, t in (
            ("a sparse tensor", dense.to_sparse()),
            ("a sparse tensor that requires grad", dense.to_sparse().requires_grad_()),
            ("a sparse bfloat16 tensor", dense.bfloat16().to_sparse()),
        ):
            got = submission.to_numpy(t)
            check_array(got, dense, "float32", f"to_numpy of {said}")

    @pytest.mark.points(1, "value")
    def test_meta(self, submission):
        """A meta tensor, which has no values, raises a ValueError."""
        for t in (
            torch.empty(2, 3, device="meta"),
            torch.empty(0, device="meta", dtype=torch.bfloat16, requires_grad=True),
        ):
            try:
                got = submission.to_numpy(t)
            except ValueError:
                continue
            except (TypeError, RuntimeError) as error:
                if "day06 T" in str(error):
                    raise
                fail(
                    f"a meta tensor gives a {type(error).__name__}, which is torch's own; look at "
                    "the device first, and raise a ValueError",
                    id="raises.other",
                )
            fail(
                f"a meta tensor of shape {tuple(t.shape)} gives {type(got).__name__}, though it "
                "has no values; raise a ValueError",
                id="raises.nothing",
            )


# NumPy's defaults.

REDUCTIONS: dict[str, Callable[..., Any]] = {
    "std": np.std,
    "var": np.var,
    "median": np.median,
    "percentile75": lambda x, **where: np.percentile(x, 75, **where),
    "any": np.any,
    "all": np.all,
    "argmax": np.argmax,
}
ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "round2": lambda x: np.round(x, 2),
    "sign": np.sign,
    "mod3": lambda x: np.mod(x, 3),
}
DTYPES = {"any": torch.bool, "all": torch.bool, "argmax": torch.int64}


def percentile(x: np.ndarray, where: dict[str, Any], q: float, method: str) -> np.ndarray:
    return np.percentile(x, q, method=method, **where)


NAN = {
    "std": np.nanstd,
    "var": np.nanvar,
    "median": np.nanmedian,
    "percentile75": lambda x, **where: np.nanpercentile(x, 75, **where),
}


def mistakes(name: str, x: np.ndarray, where: dict[str, Any]) -> dict[str, Any]:
    """What the known mistakes give for one call, by the sentence that names them."""
    if name in NAN and np.isnan(x).any():
        return {
            f"nan is left out; in NumPy a nan makes {name} nan": NAN[name](x, **where),
            f"nan is taken for 0; in NumPy a nan makes {name} nan": (
                REDUCTIONS[name](np.nan_to_num(x), **where)
            ),
        }
    if name in ("std", "var"):
        return {
            f"{name} divides by n - 1, which is torch's default; NumPy divides by n": (
                REDUCTIONS[name](x, ddof=1, **where)
            ),
            "this is the variance; std is its root": np.var(x, **where),
            "this is the standard deviation; var is its square": np.std(x, **where),
        }
    if name == "median":
        return {
            "of an even count it is the lower of the two middle elements, as torch.median gives; "
            "NumPy takes their mean": percentile(x, where, 50, "lower"),
            "of an even count it is the upper of the two middle elements; NumPy takes their mean": (
                percentile(x, where, 50, "higher")
            ),
        }
    if name == "percentile75":
        return {
            "between two elements it takes the lower; NumPy interpolates": (
                percentile(x, where, 75, "lower")
            ),
            "between two elements it takes the upper; NumPy interpolates": (
                percentile(x, where, 75, "higher")
            ),
            "this is the percentile 25": percentile(x, where, 25, "linear"),
        }
    if name == "round2":
        return {
            "a half is rounded away from 0; NumPy rounds it to the even neighbour": (
                np.sign(x) * np.floor(np.abs(x) * 100 + 0.5) / 100
            ),
            "a half is rounded up; NumPy rounds it to the even neighbour": (
                np.floor(x * 100 + 0.5) / 100
            ),
            "the digits behind the second are cut off; round": np.trunc(x * 100) / 100,
            "it is rounded to whole numbers; two digits are asked for": np.round(x),
        }
    if name == "sign":
        return {
            "the sign of nan is 0, as torch.sign gives; NumPy's is nan": np.nan_to_num(np.sign(x))
        }
    if name == "mod3":
        return {
            "the result has the sign of the number, as fmod gives; np.mod has the divisor's": (
                np.fmod(x, 3)
            )
        }
    return {}


def said(name: str, where: dict[str, Any]) -> str:
    return f"np_like(t, {', '.join([repr(name), *(f'{k}={v}' for k, v in where.items())])})"


def check_like(submission, name: str, t: Tensor, **where: Any) -> None:
    """One call against NumPy's own function, compared as float64."""
    call = said(name, where)
    given = t.clone()
    got = assert_tensor(submission.np_like(given, name, **where), call)
    x = t.numpy()
    expect(
        np.array_equal(given.numpy(), x, equal_nan=True), f"{call} changed t", id="argument.changed"
    )
    with np.errstate(invalid="ignore"):
        expected = np.asarray((REDUCTIONS | ELEMENTWISE)[name](x, **where))
        known = {
            text: torch.from_numpy(np.asarray(value, dtype=np.float64))
            for text, value in mistakes(name, x.astype(np.float64), where).items()
        }
    if tuple(got.shape) != expected.shape:
        kept = ": with keepdims the reduced axes stay, with size 1" if where.get("keepdims") else ""
        fail(
            f"{call} of a t of shape {tuple(t.shape)} has shape {tuple(got.shape)}; expected "
            f"{expected.shape}{kept}",
            id="shape.reduced",
            expected=expected.shape,
            got=tuple(got.shape),
        )
    if name in DTYPES:
        assert_dtype(got, DTYPES[name], what=call)
        values = torch.from_numpy(expected.copy())
        assert_equal(got, values, what=f"{call} of {shown(t)}")
        return
    # What comes of integers may be float32, as long as it still holds the number.
    rtol, atol = {torch.float32: (1e-5, 1e-6), torch.float64: (1e-7, 1e-7)}.get(
        t.dtype, (1e-9, 1e-5)
    )
    assert_close(
        got.double(),
        torch.from_numpy(expected.astype(np.float64)),
        rtol=rtol,
        atol=atol,
        what=f"{call} of {shown(t)}",
        explain=known,
    )


def shown(t: Tensor) -> str:
    """A short tensor in full, a longer one by its shape."""
    return str(t.tolist()) if t.numel() <= 4 else f"a t of shape {tuple(t.shape)}"


FOUR = torch.tensor([1.0, 2.0, 3.0, 4.0])


def defaults(submission) -> None:
    """Attach the table of calls whose results differ between the libraries."""
    odd = torch.tensor([-1.0, float("nan")])
    lines: dict[str, list[str]] = {"NumPy": [], "torch": [], "yours": []}
    for name, t, torchs in (
        ("std", FOUR, torch.std),
        ("var", FOUR, torch.var),
        ("median", FOUR, torch.median),
        ("percentile75", FOUR, lambda x: torch.quantile(x, 0.75)),
        ("round2", torch.tensor([0.125, 0.375]), lambda x: torch.round(x, decimals=2)),
        ("sign", odd, torch.sign),
        ("mod3", odd, lambda x: torch.fmod(x, 3)),
        ("std", FOUR.long(), torch.std),
    ):
        for label, fn in (
            ("NumPy", lambda x, name=name: (REDUCTIONS | ELEMENTWISE)[name](x.numpy())),
            ("torch", torchs),
            ("yours", lambda x, name=name: submission.np_like(x, name)),
        ):
            try:
                value = np.asarray(fn(t.clone())).astype(np.float64)
                text = ", ".join(f"{number:.5g}" for number in value.ravel()[:4])
            except Exception as error:
                text = type(error).__name__
            of = ", ".join(f"{number:g}" for number in t.tolist())
            lines[label].append(
                f"{name}({of}){' int64' if t.dtype is torch.int64 else ''} = {text}"
            )
    picture(
        "text",
        "The same call, two libraries",
        "Marked lines differ from NumPy's. torch's mod3 is fmod.",
        panels=[
            {
                "label": label,
                "lines": said,
                "marked": [i for i, line in enumerate(said) if line != lines["NumPy"][i]],
            }
            for label, said in lines.items()
        ],
    )


def samples() -> list[Tensor]:
    """Floats without nan of several shapes, the smallest first."""
    large = torch.randn(5, 2, 3, dtype=torch.float64)
    return [FOUR, torch.randn(3), torch.randn(2, 3), torch.randn(2, 3), large]


NUMPY = str(Path(np.__file__).parent)


@contextmanager
def numpy_calls() -> Iterator[list[str]]:
    """Record the calls of NumPy's functions, under whatever name they were imported."""
    calls: list[str] = []

    def watch(frame: FrameType, event: str, called: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(NUMPY):
            calls.append(frame.f_code.co_name)
        elif event == "c_call" and str(getattr(called, "__module__", "")).startswith("numpy"):
            calls.append(called.__name__)

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        yield calls
    finally:
        sys.setprofile(before)


@pytest.mark.task("np_like")
class TestNpLike:
    @pytest.mark.points(2, "value")
    def test_std_and_var(self, submission):
        """std and var divide by the number of elements."""
        submission.np_like(FOUR.clone(), "std")
        defaults(submission)
        for name in ("std", "var"):
            for t in samples():
                check_like(submission, name, t)
                for axis in range(-t.ndim, t.ndim):
                    check_like(submission, name, t, axis=axis)

    @pytest.mark.points(1, "value")
    def test_median(self, submission):
        """The median of an even count is the mean of the two in the middle."""
        for t in samples():
            check_like(submission, "median", t)
            for axis in range(-t.ndim, t.ndim):
                check_like(submission, "median", t, axis=axis)

    @pytest.mark.points(1, "value")
    def test_percentile(self, submission):
        """The percentile 75 interpolates between two elements."""
        for t in (*samples(), torch.randn(7, 11)):
            check_like(submission, "percentile75", t)
            for axis in range(-t.ndim, t.ndim):
                check_like(submission, "percentile75", t, axis=axis)

    @pytest.mark.points(1, "value")
    def test_any_and_all(self, submission):
        """any and all take every number but 0 for True, and give bool."""
        for t in (
            torch.tensor([0.0, 0.0]),
            torch.tensor([0.0, -0.5]),
            torch.tensor([-0.5, 2.0]),
            (torch.randn(2, 3, 5) > 0.4) * -0.3,
            torch.tensor([[0, 1, 0], [2, 3, 0]]),
        ):
            for name in ("any", "all"):
                check_like(submission, name, t)
                for axis in range(-t.ndim, t.ndim):
                    check_like(submission, name, t, axis=axis)

    @pytest.mark.points(2, "value")
    def test_argmax(self, submission):
        """argmax is the place of the first maximum, in int64."""
        for t in (torch.tensor([1.0, 3.0, 3.0, 2.0]), *samples(), torch.randn(7, 11).round()):
            check_like(submission, "argmax", t)
            for axis in range(-t.ndim, t.ndim):
                check_like(submission, "argmax", t, axis=axis)

    @pytest.mark.points(1, "value")
    def test_round(self, submission):
        """round2 rounds to two digits, halves to the even one."""
        eighths = torch.tensor([0.125, -0.125, 0.375, 0.625, 0.875, -0.375, 2.0, -1.5])
        for t in (eighths[:2], eighths, eighths.double(), torch.randn(2, 3), torch.randn(5, 7)):
            # Near a half of the last digit the result depends on the precision inside.
            unclear = ((t.double() * 100 % 1 - 0.5).abs() < 1e-3) & (t * 8 % 1 != 0)
            check_like(submission, "round2", t.masked_fill(unclear, 0.25))

    @pytest.mark.points(1, "value")
    def test_sign(self, submission):
        """The sign of nan is nan."""
        for t in (torch.tensor([float("nan"), -2.0, 0.0, 3.0]), torch.randn(2, 3)):
            check_like(submission, "sign", t)

    @pytest.mark.points(1, "value")
    def test_mod(self, submission):
        """mod3 is from 0 to 3 for negative numbers too."""
        for t in (torch.tensor([-1.0]), torch.tensor([-3.0, -4.5, 4.5, 3.0]), torch.randn(2, 3)):
            check_like(submission, "mod3", t * 1)

    @pytest.mark.points(1, "value")
    def test_integers(self, submission):
        """Integers are taken too, large ones without a loss."""
        small = torch.tensor([[-4, 1, 0], [2, 3, 7]])
        large = torch.tensor([[0, 1, 2], [5, 3, 1]]) + 2**27
        for t in (small[0], small, large):
            for name in ELEMENTWISE:
                check_like(submission, name, t)
            for name in REDUCTIONS:
                check_like(submission, name, t)
                check_like(submission, name, t, axis=0)

    @pytest.mark.points(1, "value")
    def test_tuple_of_axes(self, submission):
        """Several axes are reduced at once, given as a tuple in any order."""
        t = torch.randn(2, 3, 5)
        zeros = t.masked_fill(t.abs() < 0.8, 0)
        for axis in ((0,), (0, 1), (0, 2), (2, 1), (-1, 0), (0, 1, 2)):
            for name in ("std", "var", "median", "percentile75"):
                check_like(submission, name, t, axis=axis)
            for name in ("any", "all"):
                check_like(submission, name, zeros, axis=axis)

    @pytest.mark.points(1, "shape")
    def test_keepdims(self, submission):
        """With keepdims the reduced axes stay, with size 1."""
        t = torch.randn(2, 3, 5)
        for name in REDUCTIONS:
            check_like(submission, name, t[0, 0], keepdims=True)
            axes = (None, 0, 1, -1) if name == "argmax" else (None, 0, 1, -1, (0, 2))
            for axis in axes:
                check_like(submission, name, t, axis=axis, keepdims=True)

    @pytest.mark.points(1, "value")
    def test_nan(self, submission):
        """nan stays nan, is True, and is the maximum."""
        t = torch.randn(3, 7)
        t[0, 2] = t[2, 1] = t[2, 4] = float("nan")
        for name in REDUCTIONS:
            check_like(submission, name, t[0])
            check_like(submission, name, t, axis=1)
        for name in ("round2", "mod3"):
            check_like(submission, name, t)

    @pytest.mark.points(1, "structure")
    def test_forbidden(self, submission):
        """NumPy is not asked for the answer."""
        t = torch.randn(2, 3)
        for name in (*REDUCTIONS, *ELEMENTWISE):
            with forbid("numpy", why="stay in torch"):
                submission.np_like(t.clone(), name)
            with numpy_calls() as calls:
                submission.np_like(t.clone(), name)
            if calls:
                fail(
                    f"np_like(t, {name!r}) calls NumPy's {calls[0]}; torch operations only",
                    id="forbidden",
                )


# Who shares memory with whom.

Objects = dict[str, np.ndarray | Tensor]


def layout(obj: np.ndarray | Tensor) -> tuple[int, int, list[tuple[int, int]]]:
    """The first address, the bytes of an element, and (size, stride in bytes) of each axis."""
    if isinstance(obj, torch.Tensor):
        width = obj.element_size()
        strides = [stride * width for stride in obj.stride()]
        return obj.data_ptr(), width, list(zip(obj.shape, strides, strict=True))
    start = obj.__array_interface__["data"][0]
    return start, obj.itemsize, list(zip(obj.shape, obj.strides, strict=True))


def bytes_of(obj: np.ndarray | Tensor) -> set[int]:
    """The addresses of all bytes of all elements, one by one."""
    start, width, axes = layout(obj)
    elements = itertools.product(*(range(size) for size, _ in axes))
    offsets = (
        sum(i * stride for i, (_, stride) in zip(place, axes, strict=True)) for place in elements
    )
    return {start + offset + byte for offset in offsets for byte in range(width)}


def grouped(objs: Objects, belong: Callable[[Any, Any], bool]) -> set[frozenset[str]]:
    """The groups that a relation between two objects makes, through chains too."""
    label = {name: name for name in objs}
    for a, b in itertools.combinations(objs, 2):
        if belong(objs[a], objs[b]):
            old, new = label[b], label[a]
            label = {name: new if of == old else of for name, of in label.items()}
    return {frozenset(n for n in objs if label[n] == of) for of in label.values()}


def by_bytes(objs: Objects) -> set[frozenset[str]]:
    return grouped(objs, lambda a, b: bool(bytes_of(a) & bytes_of(b)))


def between(obj: np.ndarray | Tensor) -> range:
    places = bytes_of(obj)
    return range(min(places), max(places) + 1) if places else range(0)


def owner(obj: np.ndarray | Tensor) -> int:
    """The address where the memory that the object lives in begins."""
    if isinstance(obj, torch.Tensor):
        return obj.untyped_storage().data_ptr()
    while isinstance(obj.base, np.ndarray):
        obj = obj.base
    return obj.__array_interface__["data"][0]


def elements_of(obj: np.ndarray | Tensor) -> set[int]:
    """The addresses of the first bytes of all elements."""
    start, _, axes = layout(obj)
    places = itertools.product(*(range(size) for size, _ in axes))
    return {
        start + sum(i * stride for i, (_, stride) in zip(place, axes, strict=True))
        for place in places
    }


MISTAKEN: dict[str, Callable[[Any, Any], bool]] = {
    "objects of one storage are put together; they belong together only if they share a byte": (
        lambda a, b: owner(a) == owner(b)
    ),
    "objects are together only where they begin at the same address; they may overlap elsewhere": (
        lambda a, b: layout(a)[0] == layout(b)[0]
    ),
    "objects are together where the stretch from first to last byte overlaps; with strides they "
    "may lie between each other's elements": (lambda a, b: bool(set(between(a)) & set(between(b)))),
    "only the first bytes of the elements are compared; an element may begin in the middle of "
    "another's": lambda a, b: bool(elements_of(a) & elements_of(b)),
}


def groups_of(submission, objs: Objects) -> set[frozenset[str]]:
    """The learner's groups, every name in exactly one."""
    got = submission.alias_groups(dict(objs))
    if not isinstance(got, list | tuple) or not all(isinstance(g, set | frozenset) for g in got):
        fail(
            f"the result should be a list of sets of names; it is of type {type(got).__name__}",
            id="type.groups",
        )
    placed = [name for group in got for name in group]
    for name in objs:
        if placed.count(name) != 1:
            fail(
                f"{name!r} stands in {placed.count(name)} of the sets; every name stands in "
                "exactly one, alone or not",
                id="value.partition",
            )
    expect(
        set(placed) == set(objs) and all(got), "the sets hold something else than the names given"
    )
    return {frozenset(group) for group in got}


def in_words(groups: set[frozenset[str]]) -> str:
    names = sorted(sorted(group) for group in groups)
    return " ".join("{" + ", ".join(group) + "}" for group in names)


def check_groups(submission, objs: Objects) -> None:
    got = groups_of(submission, objs)
    expected = by_bytes(objs)
    if got == expected:
        return
    known = [text for text, rule in MISTAKEN.items() if grouped(objs, rule) == got]
    a, b = next(
        (a, b)
        for a, b in itertools.combinations(objs, 2)
        if any({a, b} <= g for g in got) != any({a, b} <= g for g in expected)
    )
    share = bool(bytes_of(objs[a]) & bytes_of(objs[b]))
    if any({a, b} <= group for group in got):
        found = f"{a} and {b} are in one group, and share no byte, nor through others"
    else:
        how = "share a byte" if share else "are joined by a chain of others"
        found = f"{a} and {b} are in different groups, though they {how}"
    fail(
        f"{found}: {known[0]}" if len(known) == 1 else found,
        id="value.explained" if len(known) == 1 else "value.groups",
        expected=in_words(expected),
        got=in_words(got),
        details=(f"expected {in_words(expected)}", f"got      {in_words(got)}"),
    )


def evaluated(case: str) -> Objects:
    """The objects of a scenario written as code, such as `x = …; a = x[:3]; b = x[3:]`.

    x, y and z are there to be taken parts of, and are no objects of the scenario.
    """
    made: dict[str, Any] = {}
    for line in case.split("; "):
        name, _, expression = line.partition(" = ")
        made[name] = eval(expression, {"np": np, "torch": torch}, made)
    return {name: obj for name, obj in made.items() if name not in "xyz"}


def random_scenario(count: int) -> str:
    """Code that makes two arrays and so many parts of them, as arrays and as tensors."""
    lines = ["x = np.arange(12, dtype=np.float32)", "y = np.arange(12, dtype=np.float32)"]
    for name in "abcdefg"[:count]:
        base = random.choice("xy")
        i, size = random.randrange(10), random.randint(1, 3)
        part = random.choice(
            (
                f"{base}[{i}:{i + size}]",
                f"{base}[{i}:{i + size}]",
                f"{base}[{i % 4}:{i % 4 + 7}:{size + 1}]",
                f"{base}[{i % 4}:{i % 4 + 7}:{size + 1}]",
                f"{base}.reshape(3, 4)[:2, {i % 4}:{i % 4 + 1}]",
                f"{base}.reshape(3, 4).T[1:, {i % 3}]",
                f"{base}.view(np.int16)[{2 * i + 1}:{2 * i + 1 + size}]",
                f"{base}[{i + 2}:{i}:-1]",
                f"{base}[{i}:{i}]",
            )
        )
        if not part.endswith(":-1]"):
            part = random.choice(("{}", "torch.from_numpy({})", "torch.from_dlpack({})")).format(
                part
            )
        lines.append(f"{name} = {part}")
    return "; ".join(lines)


def run_scenarios(submission, *cases: str) -> None:
    smallest(lambda case: check_groups(submission, evaluated(case)), cases)


@pytest.mark.task("alias_groups")
class TestAliasGroups:
    @pytest.mark.points(1, "value")
    def test_apart_and_together(self, submission):
        """An object is with its views, and apart from its copies."""
        run_scenarios(
            submission,
            "a = torch.zeros(3)",
            "a = torch.zeros(3); b = torch.zeros(3)",
            "a = torch.zeros(3); b = a",
            "a = torch.zeros(2, 3); b = a.T; c = a.clone(); d = c.view(6)",
            "a = np.zeros((2, 3)); b = a.T; c = a.copy(); d = c.ravel()",
        )
        expect(groups_of(submission, {}) == set(), "no objects should give an empty list")

    @pytest.mark.points(1, "value")
    def test_disjoint_parts(self, submission):
        """Parts of one storage that have no element in common are apart."""
        run_scenarios(
            submission,
            "x = torch.arange(5); a = x[:2]; b = x[2:]",
            "x = np.arange(5); a = x[:2]; b = x[2:]",
            "x = torch.randn(2, 3); a = x[0]; b = x[1]",
            "x = np.ones((3, 2)); a = torch.from_numpy(x)[:1]; b = x[1:]",
        )

    @pytest.mark.points(2, "value")
    def test_overlap(self, submission):
        """Parts that overlap are together, wherever each begins."""
        run_scenarios(
            submission,
            "x = torch.arange(5); a = x[:3]; b = x[2:]",
            "x = np.arange(7); a = x[2:4]; b = x[:6]; c = x[6:]",
            "x = torch.randn(3, 5); a = x[1]; b = x[:, 2]; c = x[2, 3:]",
            "x = np.arange(7); a = x[::2]; b = x[4:6]; c = x[5:6]",
            "x = torch.zeros(1); a = x.expand(3); b = x[0]",
        )

    @pytest.mark.points(2, "value")
    def test_across_the_border(self, submission):
        """An array and the tensors that share its memory are together."""
        run_scenarios(
            submission,
            "a = np.zeros(3); b = torch.from_numpy(a); c = torch.tensor(a)",
            "a = torch.zeros(3); b = a.numpy(); c = np.array(b)",
            "a = np.zeros(3); b = torch.from_dlpack(a); c = torch.as_tensor(a); d = b.clone()",
            "x = np.zeros(5); a = x[1:4]; b = torch.from_numpy(x)[3:]; c = torch.from_numpy(x)[:1]",
        )

    @pytest.mark.points(2, "value")
    def test_interleaved(self, submission):
        """Parts that lie between each other's elements are apart."""
        run_scenarios(
            submission,
            "x = torch.arange(7); a = x[:5:2]; b = x[1:5:2]; c = x[6:]",
            "x = np.arange(6); a = x[::2]; b = x[1::2]; c = x[3:4]",
            "x = torch.randn(3, 5); a = x[:, 1]; b = x[:, 2]; c = x[:, 2:4]",
            "x = torch.randn(3, 2); a = x.numpy()[:, 0]; b = x[:, 1]",
        )

    @pytest.mark.points(2, "value")
    def test_chain(self, submission):
        """Objects that meet only through others are in one group."""
        parts = ("x[:3]", "x[2:5]", "x[4:7]")
        orders = [
            "x = torch.arange(8); "
            + "; ".join(f"{name} = {part}" for name, part in zip("abc", order, strict=True))
            for order in itertools.permutations(parts)
        ]
        run_scenarios(
            submission,
            *orders,
            # The last one joins two groups of two.
            "x = np.arange(9); a = x[:3]; b = x[2:4]; c = x[5:7]; d = x[6:]; e = x[3:6]",
            "x = np.arange(9); a = x[::4]; b = x[2:]; c = x[:1]; d = x[1:2]",
        )

    @pytest.mark.points(1, "value")
    def test_other_dtypes(self, submission):
        """Views of another dtype share bytes, if not elements."""
        run_scenarios(
            submission,
            "a = torch.zeros(3); b = a.view(torch.int16)",
            "a = torch.zeros(3); b = a.view(torch.int16)[1:2]; c = a.view(torch.int16)[2:]",
            "x = np.zeros(3, np.float32); a = x[:1]; b = x.view(np.int16)[1:2]; c = x[1:]",
            "x = np.zeros(3, np.int32); a = x.view(np.uint8)[3::4]; b = x.view(np.int16)[::2]",
            "x = torch.zeros(3, dtype=torch.bfloat16); a = x[1:]; b = x.view(torch.uint8)[3:4]",
        )

    @pytest.mark.points(1, "value")
    def test_no_elements(self, submission):
        """An object without elements is alone."""
        run_scenarios(
            submission,
            "a = torch.zeros(0); b = torch.zeros(0)",
            "a = np.zeros(3); b = a[:0]; c = a[1:1]; d = a[1:1]",
            "a = torch.zeros(3, 2); b = a[:, :0]; c = a[1:1]; d = a.numpy()[:0]",
        )

    @pytest.mark.points(1, "value")
    @pytest.mark.hint(
        "Addresses, sizes and strides can be read off each where it is, array or tensor."
    )
    def test_every_kind(self, submission):
        """Reversed arrays, parameters and bfloat16 have memory too."""
        run_scenarios(
            submission,
            "a = np.arange(5); b = a[::-1]; c = a[3:1:-1]; d = a.copy()[::-1]",
            "x = np.arange(5); a = x[3:1:-1]; b = x[3:]; c = x[:2]",
            "a = torch.zeros(3, requires_grad=True); b = a.detach(); c = a * 2",
            "a = torch.zeros(3, dtype=torch.bfloat16); b = a[1:]; c = a.float()",
            "a = np.arange(3, dtype='>i4'); b = a[1:]; c = a[:1]",
            "a = np.broadcast_to(np.zeros(1), (3,)); b = a[1:]",
        )

    @pytest.mark.points(1, "value")
    def test_random_scenarios(self, submission):
        """Random slices and views are grouped by their bytes."""
        run_scenarios(submission, *(random_scenario(2 + i // 6) for i in range(30)))

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_apart_and_together")
    def test_leaves_the_data_alone(self, submission):
        """Nothing is written to the data."""
        locked = np.arange(5.0)
        locked.flags.writeable = False
        t = torch.arange(6.0)
        objs = {"a": t, "b": t[2:4], "c": locked, "d": locked[1:]}
        before = [np.array(obj.tolist()) for obj in objs.values()]
        try:
            assert_unchanged(submission.alias_groups, objs)
        except ValueError as error:
            if "read-only" not in str(error):
                raise
            fail(
                "it writes to an array that is read-only; look at addresses, not at what a write "
                "does elsewhere",
                id="argument.written",
            )
        after = [np.array(obj.tolist()) for obj in objs.values()]
        expect(
            all((old == new).all() for old, new in zip(before, after, strict=True)),
            "the data has changed",
            id="argument.changed",
        )
        expect(not locked.flags.writeable, "the read-only array can be written to afterwards")


# A batch of rows of different lengths.


def ragged(*lengths: int, feat: int = 3, dtype: str = "float32") -> list[np.ndarray]:
    """Random rows of these lengths."""
    return [(10 * np.random.randn(length, feat)).astype(dtype) for length in lengths]


def padded_rows(rows: list[np.ndarray]) -> Tensor:
    """The batch as `pad_sequence` makes it, of copies."""
    tensors = [torch.tensor(row.tolist()).reshape(row.shape).float() for row in rows]
    return pad_sequence(tensors, batch_first=True)


def at_the_front(rows: list[np.ndarray]) -> Tensor:
    """The batch padded on the wrong side."""
    tensors = [torch.tensor(row[::-1].tolist()).reshape(row.shape).float() for row in rows]
    return pad_sequence(tensors, batch_first=True).flip(1)


def backwards(rows: list[np.ndarray]) -> Tensor:
    """The batch with every row turned around."""
    return padded_rows([row[::-1] for row in rows])


def collated(submission, rows: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """The learner's batch and lengths, a pair of tensors."""
    result = submission.ragged_collate(rows)
    expect(
        isinstance(result, tuple) and len(result) == 2,
        "the result should be a tuple of two tensors: the padded batch and the lengths",
        id="type.pair",
    )
    return assert_tensor(result[0], "padded"), assert_tensor(result[1], "the lengths")


def check_padded(submission, rows: list[np.ndarray], what: str = "padded") -> None:
    padded, _ = collated(submission, [row.copy() for row in rows])
    expected = padded_rows(rows)
    explain = {
        "the rows stand at the end and the padding in front of them; the padding belongs behind": (
            at_the_front(rows)
        ),
    }
    assert_close(padded, expected, axes=("row", "step", "feat"), what=what, explain=explain)


def check_lengths(lengths: Tensor, expected: list[int]) -> None:
    if lengths.dtype in (torch.int32, torch.float32, torch.uint8, torch.int16):
        name = str(lengths.dtype).removeprefix("torch.")
        fail(f"the lengths are {name}; int64 is asked for", id="dtype.lengths")
    assert_equal(lengths, torch.tensor(expected, dtype=torch.int64).reshape(-1), what="the lengths")


class TorchMemory(TorchDispatchMode):
    """Counts the bytes that torch allocates, and not those that it was lent by NumPy.

    A storage that came from outside can't be resized.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True would import dynamo, which takes a second

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.layout is torch.strided:
                self._enter(tensor.untyped_storage())
        return result

    def _enter(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._seen or not storage.resizable():
            return
        self._seen.add(storage._cdata)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._leave, storage._cdata, storage.nbytes())

    def _leave(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


@contextmanager
def dirty_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Memory that was allocated and not filled holds nan, torch's and NumPy's."""
    empty, empty_like = np.empty, np.empty_like

    def filled(array: np.ndarray) -> np.ndarray:
        if array.dtype.kind == "f":
            array.fill(np.nan)
        return array

    with monkeypatch.context() as patch:
        patch.setattr(np, "empty", lambda *args, **kwargs: filled(empty(*args, **kwargs)))
        patch.setattr(np, "empty_like", lambda *args, **kwargs: filled(empty_like(*args, **kwargs)))
        # `torch.use_deterministic_algorithms` imports the compiler, which takes a second.
        torch._C._set_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch._C._set_deterministic_algorithms(False)


def through_lists(rows: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """The model of the speed check: padded lists of lists, and `torch.tensor` of them."""
    longest = max(len(row) for row in rows)
    empty = [0.0] * rows[0].shape[1]
    lists = [row.tolist() + [empty] * (longest - len(row)) for row in rows]
    return torch.tensor(lists, dtype=torch.float32), torch.tensor([len(row) for row in rows])


@pytest.mark.task("ragged_collate")
class TestRaggedCollate:
    @pytest.mark.points(3, "shape")
    def test_shapes(self, submission):
        """The batch is (batch, max_len, feat), and there is a length for each row."""
        for lengths in ((5,), (3, 7, 5, 2)):
            padded, got = collated(submission, ragged(*lengths, feat=11))
            assert_shape(padded, batch=len(lengths), step=max(lengths), feat=11)
            assert_shape(got, batch=len(lengths))

    @pytest.mark.points(6, "value")
    def test_values(self, submission):
        """The batch is what pad_sequence gives: rows in front, then zeros."""
        for lengths in ((2,), (2, 3), (2, 3), (5, 2, 7, 3, 1)):
            check_padded(submission, ragged(*lengths))

    @pytest.mark.points(3, "value")
    def test_lengths(self, submission):
        """The lengths are those of the rows, in int64."""
        for lengths in ([2], [3, 1, 2], [5, 2, 7, 3, 1]):
            check_lengths(collated(submission, ragged(*lengths))[1], lengths)

    @pytest.mark.points(4, "value")
    def test_dtypes(self, submission):
        """Floats and integers become float32, mixed too."""
        kinds = ("float64", "float32", "int64", "int32", "uint8")
        for dtype in kinds:
            rows = ragged(2, 3, dtype="float64")
            rows = [abs(row).astype(dtype) for row in rows]
            check_padded(submission, rows, f"padded, of rows of {dtype},")
        for order in (kinds, kinds[::-1], ("int64", "float64", "float32")):
            rows = [abs(row).astype(dtype) for dtype in order for row in ragged(2, dtype="float64")]
            check_padded(submission, rows, f"padded, of rows of {', '.join(order)},")

    @pytest.mark.points(4, "value")
    @pytest.mark.after("test_shapes")
    def test_padding(self, submission, monkeypatch):
        """The padding is 0, whatever the memory held before."""
        rows = ragged(2, 5, 3)
        with dirty_memory(monkeypatch):
            padded, lengths = submission.ragged_collate([row.copy() for row in rows])
        for row, length in zip(padded, (2, 5, 3), strict=True):
            if row[length:].isnan().any():
                fail(
                    "the padding holds what was in the memory before: it was allocated and not "
                    "filled (here it held nan)",
                    id="value.uninitialised",
                )
            expect((row[length:] == 0).all(), "the padding is not 0", id="value.padding")
        assert_finite(padded=padded)
        check_lengths(lengths, [2, 5, 3])

    @pytest.mark.points(2, "value")
    def test_nan(self, submission):
        """nan and inf in a row stay."""
        rows = ragged(2, 3)
        rows[0][1, 2] = np.nan
        rows[1][0, 0] = np.inf
        check_padded(submission, rows)

    @pytest.mark.points(3, "value")
    def test_no_rows(self, submission):
        """No rows give an empty batch and no lengths."""
        padded, lengths = collated(submission, [])
        assert_shape(padded, batch=0, step=0, feat=0)
        assert_dtype(padded, torch.float32, what="padded")
        assert_equal(tuple(lengths.shape), (0,), what="the shape of the lengths")
        if lengths.dtype is torch.float32:
            fail(
                "the lengths of no rows are float32, which is what torch makes of an empty list; "
                "int64 is asked for",
                id="dtype.lengths",
            )
        assert_dtype(lengths, torch.int64, what="the lengths")

    @pytest.mark.points(3, "value")
    def test_empty_rows(self, submission):
        """Rows of length 0 are all padding."""
        for lengths in ([2, 0, 3], [0, 2], [0], [0, 0]):
            rows = ragged(*lengths)
            padded, got = collated(submission, rows)
            assert_shape(padded, batch=len(lengths), step=max(lengths), feat=3)
            assert_close(padded, padded_rows(rows), axes=("row", "step", "feat"), what="padded")
            check_lengths(got, lengths)

    @pytest.mark.points(2, "structure")
    def test_read_only(self, submission):
        """Read-only rows give no warning."""
        for lengths in ((3,), (2, 3)):
            rows = [reading(row) for row in ragged(*lengths)]
            with without_warnings("a batch of read-only rows"):
                padded, _ = collated(submission, rows)
            assert_close(padded, padded_rows(rows), axes=("row", "step", "feat"), what="padded")

    @pytest.mark.points(2, "value")
    def test_reversed(self, submission):
        """Reversed and transposed rows are taken."""
        for rows in (
            [row[::-1] for row in ragged(2)],
            [row[::-1] for row in ragged(3, 2, dtype="float64")],
            [row[:, ::-1] for row in ragged(2, 3)],
            [ragged(3, feat=2)[0].T, ragged(3, feat=5)[0].T],
        ):
            padded, _ = collated(submission, rows)
            expected = padded_rows(rows)
            explain = {"a reversed row stands there forwards": backwards(rows)}
            assert_close(
                padded, expected, axes=("row", "step", "feat"), what="padded", explain=explain
            )

    @pytest.mark.points(3, "memory")
    def test_copies(self, submission):
        """The batch shares no memory with a row."""
        for lengths in ((3,), (3, 3), (2, 3)):
            rows = ragged(*lengths)
            padded, _ = collated(submission, rows)
            for row in rows:
                expect(
                    not shares(padded, row),
                    f"the batch of {len(rows)} lives in the memory of a row: a write to the batch "
                    "changes the caller's data; a copy is asked for",
                    id="memory.shared",
                )

    @pytest.mark.points(2, "memory")
    @pytest.mark.after("test_shapes", "test_values")
    def test_memory(self, submission):
        """It holds at most 1.5 times the memory of the result."""
        rows = [np.random.randn(30 + i % 11, 17) for i in range(200)]
        result_bytes = 4 * 200 * 40 * 17
        with TorchMemory() as torchs:
            submission.ragged_collate(list(rows))
        # By itself: the counting of torch's memory takes memory of Python.
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            submission.ragged_collate(list(rows))
            numpys = tracemalloc.get_traced_memory()[1] - before
        finally:
            tracemalloc.stop()
        ratio = (numpys + torchs.peak) / result_bytes
        measured(f"{ratio:.2f}x")
        expect(
            ratio <= 1.5,
            f"for 200 rows it holds {ratio:.2g} times the memory of the result "
            f"({torchs.peak / result_bytes:.2g} times in torch, {numpys / result_bytes:.2g} in "
            "NumPy and Python); at most 1.5 times are allowed: allocate the result once, and copy "
            "each row into it",
            id="memory.peak",
        )

    @pytest.mark.points(1, "structure")
    def test_forbidden(self, submission):
        """pad_sequence is not asked for the answer."""
        with forbid("nn.utils.rnn.pad_sequence", why="make the batch yourself"):
            submission.ragged_collate(ragged(2, 3))

    @pytest.mark.points(1, "structure")
    def test_leaves_the_rows_alone(self, submission):
        """The rows come back unchanged."""
        rows = ragged(2, 3)
        given, before = list(rows), [row.copy() for row in rows]
        submission.ragged_collate(given)
        expect(
            len(given) == 2 and all(a is b for a, b in zip(given, rows, strict=True)),
            "the list of rows was changed",
            id="argument.changed",
        )
        for i, (row, old) in enumerate(zip(rows, before, strict=True)):
            expect(
                row.shape == old.shape and (row == old).all(),
                f"rows[{i}] was changed",
                id="argument.changed",
            )

    @pytest.mark.points(1, "speed")
    @pytest.mark.after("test_values", "test_lengths")
    def test_speed(self, submission):
        """It takes at most half the time of padded lists of lists."""

        def make(generator: torch.Generator, device: str) -> tuple[list[np.ndarray]]:
            lengths = torch.randint(20, 41, (80,), generator=generator).tolist()
            return ([torch.randn(n, 11, generator=generator).numpy() for n in lengths],)

        assert_speed(
            submission.ragged_collate,
            through_lists,
            make,
            limit=0.5,
            what="ragged_collate (the model solution goes through lists of lists)",
        )
