"""Day 1 asks for dtype and device: made, predicted, converted, counted, quantised, moved."""

import ast
import itertools
import math
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo  # `linspace` on the meta device imports it; a second that no check pays
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from grader.testing import (
    assert_close,
    assert_device,
    assert_dtype,
    assert_equal,
    assert_gradients,
    assert_raises,
    assert_runs_on_meta,
    assert_shape,
    assert_tensor,
    assert_unchanged,
    count_ops,
    expect,
    fail,
    picture,
    smallest,
)

# Five tensors.

KEYS = ("zeros", "ones", "eye", "ramp", "grid")


def made(submission, n: int, device: str = "cpu") -> dict[str, Tensor]:
    """The learner's five tensors, once it is known that there are five."""
    tensors = submission.make_tensors(n, torch.device(device))
    expect(
        isinstance(tensors, dict), "the result should be a dict of five tensors", id="value.keys"
    )
    missing = [key for key in KEYS if key not in tensors]
    expect(not missing, f"the dict has no key {', '.join(map(repr, missing))}", id="value.keys")
    for key in KEYS:
        assert_tensor(tensors[key], what=key)
    return tensors


class Devices(TorchDispatchMode):
    """Notes every operator that reads or makes a tensor with dimensions on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.on_cpu: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, result)):
            # A single number may come from the CPU.
            if isinstance(leaf, Tensor) and leaf.device.type == "cpu" and leaf.ndim:
                self.on_cpu.append(f"of shape {tuple(leaf.shape)}, at the operator {func}")
        return result


@pytest.mark.task("make_tensors")
class TestMakeTensors:
    @pytest.mark.points(2, "shape")
    def test_shapes(self, submission):
        """Three of the tensors are (n, n), two are (n,)."""
        for n in (2, 5):
            tensors = made(submission, n)
            for key in ("zeros", "ones", "eye"):
                assert_shape(tensors[key], rows=n, columns=n)
            assert_shape(tensors["ramp"], n=n)
            assert_shape(tensors["grid"], n=n)

    @pytest.mark.points(2, "value")
    def test_dtypes(self, submission):
        """Each tensor has the dtype that its row of the table says."""
        tensors = made(submission, 3)
        assert_dtype(tensors["zeros"], torch.float32, what="zeros")
        assert_dtype(tensors["ones"], torch.float64, what="ones")
        assert_dtype(tensors["eye"], torch.bool, what="eye")
        assert_dtype(tensors["ramp"], torch.int64, what="ramp")
        assert_dtype(tensors["grid"], torch.float32, what="grid")

    @pytest.mark.points(2, "value")
    def test_values(self, submission, device):
        """Zeros are 0, ones are 1, eye is the diagonal, and the ramp counts from 0."""
        for n in (2, 5):
            tensors = made(submission, n, device)
            span = range(n)
            expected = {
                "zeros": [[0.0] * n] * n,
                "ones": [[1.0] * n] * n,
                "eye": [[row == column for column in span] for row in span],
                "ramp": list(span),
            }
            for key, value in expected.items():
                assert_device(tensors[key], device, what=key)
                got = tensors[key].tolist()
                expect(
                    got == value,
                    f"with n = {n}, {key} holds {got}; expected {value}",
                    id=f"value.{key}",
                )

    @pytest.mark.points(2, "value")
    def test_grid(self, submission, device):
        """The grid has n points, and both ends are among them."""

        def check(n: int) -> None:
            got = made(submission, n, device)["grid"].cpu()
            if got.shape == (n - 1,):
                fail(
                    f"for n = {n} the grid has length {n - 1}: the end 1 is missing "
                    "(`arange` leaves its end out)",
                    id="value.grid.end",
                )
            if got.shape == (n + 1,):
                fail(
                    f"for n = {n} the grid has length {n + 1}: how many numbers `arange` gives "
                    "with a float step depends on rounding; a factory that counts points doesn't",
                    id="value.grid.length",
                )
            expected = torch.tensor([-1 + 2 * i / (n - 1) for i in range(n)])
            explain = {
                "the grid stops one step before 1; both ends belong to it": torch.tensor(
                    [-1 + 2 * i / n for i in range(n)]
                ),
                "the grid begins at 0; it goes from -1 to 1": torch.tensor(
                    [i / (n - 1) for i in range(n)]
                ),
            }
            got = got.to(torch.float32)
            assert_close(got, expected, axes=("n",), what="the grid", explain=explain)

        smallest(check, (2, 3, 5, 7, 10, 13, 22))

    @pytest.mark.points(1, "value")
    def test_one_point(self, submission):
        """With n = 1 the grid is [-1]."""
        grid = made(submission, 1)["grid"]
        expect(
            grid.tolist() == [-1.0],
            f"with n = 1 the grid is {grid.tolist()}; expected [-1.0]: there is no second point, "
            "so no step to divide by",
            id="value.grid.one",
        )

    @pytest.mark.points(1, "structure")
    def test_device(self, submission):
        """Every tensor is made on the device, and none on the CPU and moved."""
        with Devices() as seen:
            tensors = made(submission, 3, "meta")
        stays = [key for key in KEYS if tensors[key].device.type != "meta"]
        if stays:
            fail(
                f"with device meta, made on another device: {', '.join(stays)}; "
                "a function that makes a tensor takes `device=`",
                id="device.result",
            )
        if seen.on_cpu:
            fail(
                f"a tensor was built on the CPU and moved ({seen.on_cpu[0]}): "
                "make it on the device with `device=`",
                id="device.moved",
            )


# The rule of promotion.

BOOLS = (torch.bool,)
INTS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COMPLEX = (torch.complex64, torch.complex128)
DTYPES = BOOLS + INTS + FLOATS + COMPLEX
RESULTS = (*DTYPES[:-2], torch.complex32, *COMPLEX)
CATEGORY = {
    dtype: rank for rank, group in enumerate((BOOLS, INTS, FLOATS, COMPLEX)) for dtype in group
}
NUMBERS = {bool: True, int: 3, float: 0.5, complex: 1j}
AS_DTYPE = {bool: torch.bool, int: torch.int64, float: torch.float32, complex: torch.complex64}

Case = tuple[torch.dtype, int, Any, int]  # the arguments of predict_dtype
CASES: tuple[Case, ...] = tuple(
    (a, a_ndim, b, b_ndim)
    for a, a_ndim in itertools.product(DTYPES, (1, 0))
    for b, b_ndim in (*itertools.product(DTYPES, (1, 0)), *((number, 0) for number in NUMBERS))
)


def ranks(case: Case) -> tuple[int, int]:
    """The ranks of a and b: 1 with dimensions, 0 without, -1 for a Python number."""
    _, a_ndim, b, b_ndim = case
    return a_ndim, -1 if b in NUMBERS else b_ndim


def high_low(case: Case) -> tuple[torch.dtype, torch.dtype]:
    """The dtypes of the higher and of the lower rank; a and b if the ranks are equal."""
    rank_a, rank_b = ranks(case)
    a, b = case[0], AS_DTYPE.get(case[2], case[2])
    return (a, b) if rank_a >= rank_b else (b, a)


def is_raised(case: Case) -> bool:
    """Whether the lower rank has the higher category."""
    high, low = high_low(case)
    return CATEGORY[low] > CATEGORY[high]


def is_widened(case: Case) -> bool:
    """Whether a float meets a complex of lower rank."""
    high, low = high_low(case)
    rank_a, rank_b = ranks(case)
    return rank_a != rank_b and high in FLOATS and low in COMPLEX


def promoted(case: Case) -> torch.dtype:
    """What torch says of two real operands."""
    a, a_ndim, b, b_ndim = case
    first = torch.ones((2,) * a_ndim, dtype=a)
    second = NUMBERS[b] if b in NUMBERS else torch.ones((2,) * b_ndim, dtype=b)
    return torch.result_type(first, second)


def regardless_of_rank(case: Case) -> torch.dtype:
    """The mistake of giving every operand the same say."""
    return torch.promote_types(*high_low(case))


def pythons_width(case: Case) -> torch.dtype:
    """The mistake of taking a Python float for a float64, as Python itself does."""
    low = high_low(case)[1]
    return torch.float64 if low is torch.float32 and is_raised(case) else promoted(case)


def lower_rank_decides(case: Case) -> torch.dtype:
    """The mistake of taking over the dtype of the lower rank, its width included."""
    return high_low(case)[1] if is_raised(case) else promoted(case)


def higher_rank_decides(case: Case) -> torch.dtype:
    """The mistake of never looking at the lower rank."""
    return high_low(case)[0]


def widest_or_first(case: Case) -> torch.dtype:
    """The mistake of taking the larger dtype, and the first of two as large."""
    return max(high_low(case), key=lambda dtype: dtype.itemsize)


ODD_PAIRS = {
    frozenset({torch.uint8, torch.int8}): (
        "neither holds the values of the other (200, -1); int16 holds both"
    ),
    frozenset({torch.float16, torch.bfloat16}): (
        "one has the digits, the other the range; float32 has both"
    ),
    frozenset({torch.float64, torch.complex64}): (
        "complex64 is two float32; for the digits of float64 it takes complex128"
    ),
}


def written(case: Case) -> str:
    """The call as a learner would type it."""
    a, a_ndim, b, b_ndim = case
    said = b.__name__ if b in NUMBERS else b
    return f"predict_dtype({a}, {a_ndim}, {said}, {b_ndim})"


def judge(
    submission, cases: Iterable[Case], explain: Mapping[str, Callable[[Case], torch.dtype]]
) -> None:
    """Compare the learner's predictions with torch, and name the mistake that explains them."""
    cases = list(cases)
    got = {case: submission.predict_dtype(*case) for case in cases}
    expected = {case: promoted(case) for case in cases}
    wrong = [case for case in cases if got[case] != expected[case]]
    if not wrong:
        return
    first = wrong[0]
    reason = next(
        (
            said
            for said, mistake in explain.items()
            if all(got[case] == mistake(case) for case in wrong)
        ),
        "",
    )
    rank_a, rank_b = ranks(first)
    if not reason and rank_a == rank_b:
        reason = ODD_PAIRS.get(frozenset(high_low(first)), "")
    fail(
        f"{len(wrong)} of {len(cases)} predictions are wrong, such as {written(first)}: it gives "
        f"{got[first]}; expected {expected[first]}" + (f": {reason}" if reason else ""),
        id="value.promotion",
        expected=str(expected[first]),
        got=str(got[first]),
        details=[f"{written(case)} gives {got[case]}, not {expected[case]}" for case in wrong[1:7]],
    )


def promotion_map(submission) -> None:
    """Attach the matrix of promotion, with what the learner predicted wrong marked."""
    maps = []
    for label, ndim in (("both with dimensions", 1), ("b is 0-dim", 0)):
        values, marked = [], []
        for i, a in enumerate(DTYPES):
            row = []
            for j, b in enumerate(DTYPES):
                case = (a, 1, b, ndim)
                try:
                    got = submission.predict_dtype(*case)
                except Exception:  # the check itself will show it
                    got = None
                row.append(RESULTS.index(got) if got in RESULTS else math.nan)
                if got != promoted(case):
                    marked.append([i, j])
            values.append(row)
        maps.append({"label": label, "values": values, "marked": marked, "scale": "sequential"})
    names = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
    picture(
        "heatmap",
        "The matrix of promotion",
        f"The dtype that you predict for a (down) and b (across), each in the order {names}; one "
        "shade is one dtype. Predictions that torch does not share are outlined.",
        maps=maps,
        row_axis="a",
        column_axis="b",
        origin=[0, 0],
    )


class Asked(TorchFunctionMode):
    """Notes the calls of the functions that know the rule, under whatever name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in ("result_type", "promote_types", "can_cast"):
            self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.task("predict_dtype")
class TestPredictDtype:
    @pytest.mark.points(3, "value")
    def test_equal_ranks_one_category(self, submission):
        """Of two tensors of one rank and category, the result holds the values of both."""
        promotion_map(submission)
        judge(
            submission,
            (
                case
                for case in CASES
                if len(set(ranks(case))) == 1
                and CATEGORY[high_low(case)[0]] == CATEGORY[high_low(case)[1]]
            ),
            {"the result is always `a`": lambda case: case[0]},
        )

    @pytest.mark.points(2, "value")
    def test_equal_ranks_two_categories(self, submission):
        """Of two tensors of one rank, the higher category has its way, even if it is smaller."""
        judge(
            submission,
            (
                case
                for case in CASES
                if len(set(ranks(case))) == 1
                and CATEGORY[high_low(case)[0]] != CATEGORY[high_low(case)[1]]
            ),
            {
                "the wider dtype was taken; category comes before width": widest_or_first,
                "the result is always `a`": lambda case: case[0],
            },
        )

    @pytest.mark.points(3, "value")
    def test_lower_rank_does_not_count(self, submission):
        """A lower rank without a higher category changes nothing."""
        judge(
            submission,
            (
                case
                for case in CASES
                if len(set(ranks(case))) == 2 and ranks(case)[1] != -1 and not is_raised(case)
            ),
            {
                "a 0-dim tensor was treated like one with dimensions; it counts only if its "
                "category is higher": regardless_of_rank,
                "the wider dtype was taken; a 0-dim tensor of the same category has no say": (
                    widest_or_first
                ),
            },
        )

    @pytest.mark.points(2, "value")
    def test_lower_rank_of_higher_category(self, submission):
        """A 0-dim tensor of a higher category gives its dtype."""
        judge(
            submission,
            (
                case
                for case in CASES
                if len(set(ranks(case))) == 2
                and ranks(case)[1] != -1
                and is_raised(case)
                and not is_widened(case)
            ),
            {
                "the dtype of the higher rank was taken; a higher category counts from any rank": (
                    higher_rank_decides
                ),
                "the wider dtype was taken; category comes before width": widest_or_first,
            },
        )

    @pytest.mark.points(2, "value")
    def test_python_numbers(self, submission):
        """A Python number counts only if its category is higher, and a float as float32."""
        judge(
            submission,
            (case for case in CASES if case[2] in NUMBERS and not is_widened(case)),
            {
                "a Python float was taken for float64; beside a tensor it counts as float32, "
                "torch's default": pythons_width,
                "a Python number was treated like a tensor; it counts only if its category is "
                "higher": regardless_of_rank,
                "a Python number was ignored; it counts if its category is higher": (
                    higher_rank_decides
                ),
            },
        )

    @pytest.mark.points(2, "value")
    def test_complex_keeps_the_width(self, submission):
        """A float that meets a complex of lower rank becomes a complex of its own width."""
        judge(
            submission,
            (case for case in CASES if is_widened(case)),
            {
                "the complex dtype of the lower rank was taken; only its category counts, the "
                "float keeps its own width": lower_rank_decides,
                "the float was not made complex": higher_rank_decides,
                "the wider of both was taken; the float keeps its own width": regardless_of_rank,
                "the result is always complex64; the float keeps its own width": (
                    lambda case: torch.complex64
                ),
                "bfloat16 has no complex of 4 bytes: complex32 is two float16": (
                    lambda case: (
                        torch.complex32 if high_low(case)[0] is torch.bfloat16 else promoted(case)
                    )
                ),
            },
        )

    @pytest.mark.points(1, "structure")
    def test_forbidden(self, submission, fresh_submission):
        """Neither is torch asked for the result, nor is a tensor made."""

        def run() -> None:
            for case in CASES:
                submission.predict_dtype(*case)

        with Asked() as asked:
            log = count_ops(run)
        if asked.names:
            fail(
                f"predict_dtype calls {asked.names[0]}, which is forbidden: find the dtype by the "
                "rule",
                id="forbidden",
            )
        if log.ops:
            fail(
                f"predict_dtype makes a tensor (the operator {log.ops[0].name}): find the dtype "
                "by the rule",
                id="forbidden",
            )
        with Asked() as asked:
            fresh_submission()
        if asked.names:
            fail(
                f"{asked.names[0]} is called while the file is imported; it is forbidden there too",
                id="forbidden",
            )


# Mean and deviation.


def mean_std(submission, x: Tensor) -> tuple[Tensor, Tensor]:
    """The learner's mean and deviation of a copy, once it is known that there are two."""
    result = submission.safe_mean_std(x.clone())
    expect(
        isinstance(result, tuple) and len(result) == 2,
        "the result should be a tuple of two tensors: mean, std",
        id="value.pair",
    )
    return result


def exact_mean_std(x: Tensor) -> tuple[float, float]:
    """Mean and population deviation in NumPy's float64."""
    values = x.to(torch.float64).numpy().reshape(-1)
    mean = values.mean()
    return float(mean), float(np.sqrt(((values - mean) ** 2).mean()))


def check_mean_std(
    submission, x: Tensor, explain: Mapping[str, tuple[Tensor, Tensor]] | None = None
) -> None:
    """Both numbers to the precision of float32, or of float64 if x has it."""
    result = mean_std(submission, x)
    tight = x.dtype is torch.float64
    numbers = exact_mean_std(x)
    count = x.numel()
    name = str(x.dtype).removeprefix("torch.")
    for i, (key, got, number) in enumerate(zip(("mean", "std"), result, numbers, strict=True)):
        what = f"the {key} of a {name} tensor"
        known = {said: pair[i].double() for said, pair in (explain or {}).items()}
        if key == "std" and count > 1:
            known |= {
                "the squares were divided by the count less 1; the population's deviation divides "
                "by the count (`correction=0`)": torch.tensor(
                    number * math.sqrt(count / (count - 1)), dtype=torch.float64
                ),
                "this is the variance; the deviation is its root": torch.tensor(
                    number**2, dtype=torch.float64
                ),
            }
        assert_close(
            assert_tensor(got, what=what).double().reshape(()),
            torch.tensor(number, dtype=torch.float64),
            rtol=1e-9 if tight else 1e-5,
            atol=1e-12 if tight else 1e-6,
            what=what,
            explain=known,
        )


@pytest.mark.task("safe_mean_std")
class TestSafeMeanStd:
    @pytest.mark.points(2, "value")
    def test_floats(self, submission, device):
        """Mean and population deviation of float32 and float64 agree with NumPy."""
        for dtype, shape in ((torch.float32, (3,)), (torch.float64, (5,)), (torch.float32, (2, 7))):
            x = torch.randn(shape, dtype=dtype)
            result = mean_std(submission, x.to(device))
            assert_device(assert_tensor(result[0], what="the mean"), device, what="the mean")
            check_mean_std(submission, x)
        check_mean_std(submission, torch.randn(5, 3, 2, dtype=torch.float64).mT)

    @pytest.mark.points(1, "value")
    def test_result_dtype(self, submission):
        """Both are 0-dim: float64 for a float64 input, float32 for every other dtype."""
        for dtype in (torch.float32, torch.float64, *FLOATS[:2], torch.bool, *INTS):
            x = torch.ones(2, 3).to(dtype)
            wanted = torch.float64 if dtype is torch.float64 else torch.float32
            for key, got in zip(("mean", "std"), mean_std(submission, x), strict=True):
                what = f"the {key} of a tensor of {str(dtype).removeprefix('torch.')}"
                assert_dtype(assert_tensor(got, what=what), wanted, what=what)
                expect(
                    got.ndim == 0,
                    f"{what} has the shape {tuple(got.shape)}; it should be a 0-dim tensor",
                    id="shape.scalar",
                )

    @pytest.mark.points(1, "value")
    def test_integers(self, submission):
        """Integers and bool have a mean too."""
        check_mean_std(submission, torch.tensor([True, False, True]))
        for dtype in INTS:
            check_mean_std(submission, torch.tensor([7, 0, 100, 3, 50], dtype=dtype))

    @pytest.mark.points(1, "value")
    def test_half(self, submission):
        """Half and bfloat16 are computed in float32, not rounded on the way."""
        for dtype in (torch.bfloat16, torch.float16):
            x = torch.tensor([1.0, 1.5, 2.25, 3.5, -0.75, 90.0, 250.0]).to(dtype)
            rounded = {
                "the result was rounded to the dtype of x before it became float32; convert x, "
                "not the result": (x.mean().float(), x.std(correction=0).float())
            }
            check_mean_std(submission, x, rounded)
        # Squares of deviations from here on don't fit into float16.
        check_mean_std(submission, torch.tensor([1000.0, -2000.0, 500.0]).half())

    @pytest.mark.points(1, "value")
    def test_large_integers(self, submission):
        """The deviation of int64 values around 2 to the 40th is not lost."""
        for noise in ([0, 3, 10, 7, 1], [5, -5, 2, 0, -9, 4, 8]):
            x = 2**40 + torch.tensor(noise)
            single = x.float()
            check_mean_std(
                submission,
                x,
                {
                    "the differences are lost: float32 has steps of 2**17 there, and squares of "
                    "such numbers are too long even for float64; subtract the mean in float64 "
                    "before you square": (single.mean(), single.std(correction=0))
                },
            )

    @pytest.mark.points(1, "value")
    def test_single_element(self, submission):
        """A single element is its own mean, with a deviation of 0."""
        for x in (torch.tensor(2.5), torch.tensor([3]), torch.tensor([[1.5]]).bfloat16()):
            mean, std = mean_std(submission, x)
            expect(
                float(mean) == float(x),
                f"the mean of the single element {float(x)} is {float(mean)}",
                id="value.single",
            )
            expect(
                float(std) == 0,
                f"the std of the single element {float(x)} (shape {tuple(x.shape)}) is "
                f"{float(std)}; expected 0: the population's deviation divides by the count, 1",
                id="value.single",
            )

    @pytest.mark.points(1, "value")
    def test_empty(self, submission):
        """An empty tensor gives nan twice, and no exception."""
        for x in (torch.empty(0), torch.empty(0, 3, dtype=torch.int32), torch.empty(0).half()):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch says that there is nothing to divide by
                try:
                    mean, std = mean_std(submission, x)
                except (RuntimeError, ValueError, IndexError, ArithmeticError) as error:
                    fail(
                        f"an empty {x.dtype} tensor raises {type(error).__name__} ({error}); "
                        "expected nan twice",
                        id="value.empty",
                    )
            expect(
                math.isnan(mean) and math.isnan(std),
                f"an empty {x.dtype} tensor gives {float(mean)} and {float(std)}; expected nan "
                "twice",
                id="value.empty",
            )

    @pytest.mark.points(1, "structure")
    def test_leaves_x_alone(self, submission):
        """x comes back unchanged."""
        for dtype in (torch.float32, torch.float64, torch.int64):
            assert_unchanged(submission.safe_mean_std, torch.tensor([1, 5, 3]).to(dtype))

    @pytest.mark.points(1, "structure")
    def test_device(self, submission):
        """The results live on the device of x."""
        assert_runs_on_meta(submission.safe_mean_std, torch.randn(2, 3))
        assert_runs_on_meta(submission.safe_mean_std, torch.arange(3))


# How far a dtype can count.

ALL_INTS = (*INTS, torch.uint16, torch.uint32, torch.uint64)
BYTE_FLOATS = (torch.float8_e4m3fn, torch.float8_e5m2)
# Binary digits of a float, the leading 1 that isn't stored included.
DIGITS = {
    torch.float16: 11,
    torch.bfloat16: 8,
    torch.float32: 24,
    torch.float64: 53,
    torch.float8_e4m3fn: 4,
    torch.float8_e5m2: 3,
}


def counted(submission, dtype: torch.dtype) -> int:
    """The learner's number, if it is one."""
    got = submission.count_exact(dtype)
    expect(
        isinstance(got, int | float) and not isinstance(got, bool),
        f"count_exact({dtype}) gives a {type(got).__name__}; a Python int is asked for",
        id="value.type",
    )
    return got


def check_count(submission, dtype: torch.dtype) -> None:
    """One dtype, with the known mistakes by name."""
    got = counted(submission, dtype)
    if dtype in DIGITS:
        digits = DIGITS[dtype]
        expected, said = 2**digits, f"2**{digits}"
        explain = {
            "this is the largest number of the dtype; long before it, the gap between neighbours "
            "is more than 1": torch.finfo(dtype).max,
            f"this is 1 too few: {said} itself is exact (a power of 2), and so is all before": (
                expected - 1
            ),
            "this is half of it: from 1 / eps to 2 / eps the gap between neighbours is just 1": (
                expected // 2
            ),
            f"this is twice too many: of {said} + 1 the last digit is lost": 2 * expected,
            "this is 1 too many: it is the first integer that is lost": expected + 1,
        }
    else:
        bits = 8 * dtype.itemsize - dtype.is_signed
        expected, said = 2**bits - 1, f"2**{bits} - 1"
        explain = {
            f"this is 1 too many: with {bits} bits one counts from 0 to {said}": expected + 1,
            "this is one bit too few" if not dtype.is_signed else "this is half of it": (
                expected // 2
            ),
            "one bit is the sign": 2 * expected + 1,
        }
    if got != expected:
        reason = next((said for said, value in explain.items() if value == got), "")
        fail(
            f"count_exact({dtype}) is {got}; expected {expected} = {said}"
            + (f": {reason}" if reason else ""),
            id="value.count",
            expected=expected,
            got=got,
        )


def literals_of(source: str, function: str) -> list[tuple[int, Any]]:
    """Line and value of the numbers in a function and in what it uses of its file."""
    defined: dict[str, ast.stmt] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                for name in ast.walk(target):
                    if isinstance(name, ast.Name):
                        defined[name.id] = node
    found: list[tuple[int, Any]] = []
    seen: set[str] = set()
    names = [function]
    while names:
        name = names.pop()
        if name in seen or name not in defined:
            continue
        seen.add(name)
        for node in ast.walk(defined[name]):
            if isinstance(node, ast.Name):
                names.append(node.id)
            elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
                found.append((node.lineno, node.value))
    return sorted(found)


@pytest.mark.task("count_exact")
class TestCountExact:
    @pytest.mark.points(3, "value")
    def test_integer_dtypes(self, submission):
        """An integer dtype counts to its largest value."""
        smallest(lambda dtype: check_count(submission, dtype), ALL_INTS)

    @pytest.mark.points(4, "value")
    def test_float_dtypes(self, submission):
        """A float counts exactly as far as its binary digits reach."""
        smallest(lambda dtype: check_count(submission, dtype), FLOATS)

    @pytest.mark.points(2, "value")
    def test_byte_floats(self, submission):
        """The 8-bit floats count as far as their three or four digits reach."""
        smallest(lambda dtype: check_count(submission, dtype), BYTE_FLOATS)

    @pytest.mark.points(2, "value")
    def test_the_next_is_lost(self, submission):
        """N survives the way into the float dtype and back, and N + 1 doesn't."""
        for dtype in (*FLOATS, *BYTE_FLOATS):
            count = int(counted(submission, dtype))
            if abs(count) >= 2**62:
                fail(
                    f"count_exact({dtype}) is {count:.3g}; at such a size neighbours are far more "
                    "than 1 apart",
                    id="value.round_trip",
                )
            pair = torch.tensor([count, count + 1])
            back = pair.to(dtype).to(torch.int64).tolist()
            expect(
                back[0] == count,
                f"{count} becomes {back[0]} on the way into {dtype} and back: it isn't exact",
                id="value.round_trip",
            )
            expect(
                back[1] != count + 1,
                f"count_exact({dtype}) is {count}, but {count + 1} survives the way into the dtype "
                "and back as well",
                id="value.round_trip",
            )

    @pytest.mark.points(2, "value")
    def test_python_int(self, submission):
        """The result is a Python int."""
        for dtype in (torch.int8, torch.float16, torch.float64, torch.float8_e5m2):
            got = submission.count_exact(dtype)
            expect(
                type(got) is int,
                f"count_exact({dtype}) gives {got!r}, a {type(got).__name__}; a Python int is "
                "asked for",
                id="value.type",
            )

    @pytest.mark.points(2, "structure")
    def test_computed(self, submission, source):
        """No number above 64 is written down."""
        for dtype in (torch.int8, torch.float32):
            counted(submission, dtype)  # an open task has no numbers either
        for line, value in literals_of(source, "count_exact"):
            expect(
                abs(value) <= 64,
                f"the number {value} stands in line {line}; compute it from torch.iinfo and "
                "torch.finfo",
                id="structure.literal",
            )


# Bytes.


def quantised(submission, x: Tensor) -> tuple[Tensor, float, int]:
    """The learner's bytes, scale and zero of a copy, once they are what they should be."""
    result = submission.quantise_u8(x.clone())
    expect(
        isinstance(result, tuple) and len(result) == 3,
        "quantise_u8 should return a tuple of three: q, scale, zero",
        id="value.triple",
    )
    q, scale, zero = result
    assert_tensor(q, what="q")
    expect(
        q.shape == x.shape,
        f"q has the shape {tuple(q.shape)}; expected that of x, {tuple(x.shape)}",
        id="shape.q",
    )
    assert_dtype(q, torch.uint8, what="q")
    return q, float(scale), int(zero)


def said(x: Tensor) -> str:
    """A few numbers as a list."""
    return "[" + ", ".join(f"{value:.4g}" for value in x.reshape(-1).tolist()) + "]"


def restored(q: Tensor, scale: float, zero: int) -> Tensor:
    """scale * (q - zero), in float64."""
    return (q.cpu().double() - zero) * scale


def check_bound(submission, x: Tensor, what: str = "") -> None:
    """Every x comes back within half a step."""
    q, scale, zero = quantised(submission, x)
    x = x.double()
    expect(
        math.isfinite(scale) and scale > 0,
        f"the scale{what} is {scale}; it should be a positive number",
        id="value.scale",
    )
    error = (restored(q, scale, zero) - x).abs() / scale
    if error.max() <= 0.5 * 1.001:
        return
    worst = int(error.argmax())
    value, byte = float(x.reshape(-1)[worst]), int(q.reshape(-1)[worst])
    steps = float(error.max())
    if steps > 200:
        reason = (
            ": a value beyond an end of 0 to 255 wrapped around to the other end; clamp before "
            "the cast to uint8"
        )
    elif torch.equal(q.double(), (x / scale + zero).floor().clamp(0, 255)):
        reason = ": the cast cuts the fraction off; round first"
    elif abs(zero + min(float(x.min()), 0.0) / scale) > 0.501:
        reason = ": zero isn't the whole number next to where 0.0 falls; round it"
    else:
        reason = ""
    fail(
        f"{value:.5g}{what} becomes q = {byte} and comes back as {scale * (byte - zero):.5g}, "
        f"{steps:.2f} steps away (scale {scale:.5g}, zero {zero}); half a step is allowed{reason}",
        id="value.bound",
    )


def ranges() -> Iterator[Tensor]:
    """Random data around 0, beside it and far from it, large and small."""
    for low, high in ((-1, 1), (-0.3, 2.0), (-5.0, 0.1), (3.0, 4.0), (-7.0, -6.5), (-2e-3, 1e-3)):
        for dtype in (torch.float32, torch.float64):
            yield low + (high - low) * torch.rand(7, 11, dtype=dtype)


@pytest.mark.task("quantise_u8")
class TestQuantiseU8:
    @pytest.mark.points(2, "shape")
    def test_types(self, submission):
        """q is uint8 of the shape of x, scale a Python float, zero a Python int."""
        for x in (
            torch.randn(3),
            torch.randn(2, 5, dtype=torch.float64).mT,
            torch.tensor(1.5),
            torch.zeros(2),
        ):
            quantised(submission, x)
            _, scale, zero = submission.quantise_u8(x.clone())
            expect(
                type(scale) is float,
                f"scale is a {type(scale).__name__}; a Python float is asked for",
                id="value.type",
            )
            expect(
                type(zero) is int,
                f"zero is a {type(zero).__name__}; a Python int is asked for",
                id="value.type",
            )

    @pytest.mark.points(2, "value")
    def test_scale(self, submission):
        """The scale is the range from min(x, 0) to max(x, 0), divided by 255."""
        for x in ranges():
            _, scale, zero = quantised(submission, x)
            low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
            numbers = x.reshape(-1).tolist()
            explain = {
                "the range leaves 0 out; it goes from min(x, 0) to max(x, 0)": (
                    (max(numbers) - min(numbers)) / 255
                ),
                "the range was divided by 256; between 256 values there are 255 steps": (
                    (high - low) / 256
                ),
                "the scale is the range itself": high - low,
                "this is one over the scale": 255 / (high - low),
                "the range is symmetric around 0; it goes from min(x, 0) to max(x, 0)": (
                    2 * max(-low, high) / 255
                ),
            }
            assert_close(
                scale, (high - low) / 255, rtol=1e-5, atol=0, what="scale", explain=explain
            )
            expect(
                0 <= zero <= 255,
                f"zero is {zero} for values from {min(numbers):.4g} to {max(numbers):.4g}; it "
                "should be from 0 to 255",
                id="value.zero",
            )

    @pytest.mark.points(4, "value")
    def test_reconstruction(self, submission):
        """Every x comes back within half a step."""
        for x in ranges():
            check_bound(submission, x)
        for _ in range(30):
            x = torch.randn(13) * 10 ** random.uniform(-3, 3) + random.uniform(-2, 2)
            check_bound(submission, x)

    @pytest.mark.points(2, "value")
    def test_zero_is_exact(self, submission):
        """0.0 becomes zero, and comes back as exactly 0.0."""
        for x in ranges():
            x[3, 5] = 0.0
            q, scale, zero = quantised(submission, x)
            byte = int(q[3, 5])
            expect(
                byte == zero,
                f"among values from {float(x.min()):.4g} to {float(x.max()):.4g}, 0.0 becomes "
                f"q = {byte} though zero is {zero}: it comes back as {scale * (byte - zero):.3g}, "
                "not 0.0 (the offset must be a whole number before it is added)",
                id="value.zero",
            )

    @pytest.mark.points(2, "value")
    def test_ends_do_not_wrap(self, submission):
        """The largest x stays at the top, the smallest at the bottom."""
        for end in (1.0, 2.0, 0.3, 7.0, 100.0, *(10 ** random.uniform(-3, 3) for _ in range(20))):
            x = torch.tensor([-end, 0.0, end], dtype=random.choice(FLOATS[2:]))
            q, _, _ = quantised(submission, x)
            bottom, middle, top = q.tolist()
            expect(
                top > middle,
                f"{said(x)} becomes {q.tolist()}: at the top the rounding leads to 256, which "
                "wraps around in uint8; clamp before the cast",
                id="value.wrap",
            )
            expect(
                bottom < middle,
                f"{said(x)} becomes {q.tolist()}: the bottom fell below 0 and wrapped around in "
                "uint8; clamp before the cast",
                id="value.wrap",
            )

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_scale")
    def test_half_to_even(self, submission):
        """A value half way between two steps goes to the even one."""
        x = torch.tensor([0.0, 0.5, 1.5, 2.5, 3.5, 100.5, 255.0])
        q, _, _ = quantised(submission, x)
        assert_equal(
            q.tolist(),
            [0, 0, 2, 2, 4, 100, 255],
            what=f"with scale 1 and zero 0, q of {said(x)}",
            explain={
                "halves were rounded up; round half to even": [0, 1, 2, 3, 4, 101, 255],
                "the fraction was cut off; round half to even": [0, 0, 1, 2, 3, 100, 255],
            },
        )

    @pytest.mark.points(3, "value")
    def test_dequantise(self, submission, device):
        """The way back is scale * (q - zero) in float32, also where q is below zero."""
        for scale, zero, shape in (
            (0.5, 0, (3,)),
            (0.25, 7, (5,)),
            (0.1, 128, (2, 3)),
            (2.0, 255, ()),
        ):
            q = torch.randint(0, 256, shape, dtype=torch.uint8)
            got = submission.dequantise_u8(q.clone().to(device), scale, zero)
            assert_device(assert_tensor(got), device)
            exact = restored(q, scale, zero).float()
            wrapped = (q - zero).float() * scale
            explain = {
                "`q - zero` was computed in uint8, where 3 - 5 is 254; convert q first": wrapped,
                "this is scale * (q + zero)": (q.float() + zero) * scale,
                "this is scale * q - zero; subtract first": q.float() * scale - zero,
            }
            what = f"dequantise_u8(q, scale={scale}, zero={zero})"
            assert_close(got.cpu(), exact, what=what, explain=explain)

    @pytest.mark.points(1, "value")
    def test_equal_values(self, submission):
        """A single value, or equal ones, come back."""
        for x in (torch.tensor([3.5]), torch.tensor(-2.0), torch.full((2, 3), 0.7)):
            check_bound(submission, x, f" in {said(x)}")

    @pytest.mark.points(1, "value")
    def test_nothing_but_zeros(self, submission):
        """Empty and all-zero data have scale 1.0 and zero 0."""
        for x in (torch.zeros(3), torch.zeros(2, 2, dtype=torch.float64), torch.empty(0, 3)):
            name = "an empty x" if not x.numel() else "an x of zeros"
            try:
                q, scale, zero = quantised(submission, x)
            except (RuntimeError, ValueError, IndexError, ArithmeticError) as error:
                fail(
                    f"{name} raises {type(error).__name__} ({error}); expected scale 1.0, zero 0",
                    id="value.zeros",
                )
            expect(
                (scale, zero) == (1.0, 0),
                f"{name} gives scale {scale} and zero {zero}; expected 1.0 and 0",
                id="value.zeros",
            )
            expect(not q.any(), f"{name} gives q = {q.tolist()}; expected zeros", id="value.zeros")

    @pytest.mark.points(1, "value")
    def test_one_sided(self, submission):
        """All-negative data end at 255, which is zero; all-positive data begin at 0."""
        q, _, zero = quantised(submission, torch.tensor([-5.0, -0.5, -3.0]))
        expect(
            zero == 255 and int(q[0]) == 0,
            f"[-5, -0.5, -3] gives zero {zero} and q = {q.tolist()}; 0.0 is the top of the range, "
            "so zero should be 255 and the q of -5 be 0",
            id="value.one_sided",
        )
        q, _, zero = quantised(submission, torch.tensor([5.0, 0.5, 3.0]))
        expect(
            zero == 0 and int(q[0]) == 255,
            f"[5, 0.5, 3] gives zero {zero} and q = {q.tolist()}; 0.0 is the bottom of the range, "
            "so zero should be 0 and the q of 5 be 255",
            id="value.one_sided",
        )

    @pytest.mark.points(1, "structure")
    def test_leaves_its_arguments_alone(self, submission):
        """x and q come back unchanged, and the way back stays on the device of q."""
        assert_unchanged(submission.quantise_u8, torch.randn(5))
        q = torch.randint(0, 256, (5,), dtype=torch.uint8)
        assert_unchanged(submission.dequantise_u8, q, 0.5, 3)
        assert_runs_on_meta(submission.dequantise_u8, q, 0.5, 3)


# A module that remembers.


def data(batch: int = 11, features: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    """Columns of different mean and spread."""
    spread = torch.tensor([0.5, 2.0, 30.0, 0.1, 5.0][:features], dtype=dtype)
    middle = torch.tensor([1.0, -3.0, 20.0, 0.5, 7.0][:features], dtype=dtype)
    return torch.randn(batch, features, dtype=dtype) * spread + middle


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population deviation of each column, in NumPy's float64."""
    values = x.detach().double().numpy()
    return torch.from_numpy(values.mean(0)), torch.from_numpy(values.std(0))


def fitted(submission, x: Tensor) -> nn.Module:
    """A module of the dtype of x that has seen a copy of x."""
    module = submission.Standardiser(x.shape[1])
    if x.dtype is torch.float64:
        module.double()
    module.fit(x.clone())
    return module


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Every tensor that the module keeps, as a buffer, a parameter or an attribute."""
    kept = {**dict(module.named_buffers()), **dict(module.named_parameters())}
    for part in module.modules():
        for name, value in vars(part).items():
            if name in ("_buffers", "_parameters", "_modules"):
                continue
            for leaf in tree_leaves(value):
                if isinstance(leaf, Tensor):
                    kept[name] = leaf
    return kept


@contextmanager
def loading() -> Iterator[None]:
    """Say in the learner's words what `load_state_dict` says in torch's."""
    try:
        yield
    except RuntimeError as error:
        lines = str(error).strip().splitlines()
        fail(
            "a fresh Standardiser can't load the state_dict of a fitted one: "
            f"{lines[-1].strip()} Its buffers must be there, in their final shape, after __init__",
            id="state.load",
        )


@pytest.mark.task("Standardiser")
class TestStandardiser:
    @pytest.mark.points(3, "value")
    def test_value(self, submission, device):
        """forward subtracts the mean that fit has seen and divides by its deviation."""
        for batch, features, dtype in ((5, 2, torch.float64), (7, 3, torch.float32)):
            seen, new = data(batch, features, dtype), data(13, features, dtype)
            module = submission.Standardiser(features).to(device, dtype)
            module.fit(seen.clone().to(device))
            for x, what in ((seen, "of the data of fit"), (new, "of other data")):
                got = module(x.clone().to(device))
                assert_device(assert_tensor(got), device)
                mean, std = statistics(seen)
                own_mean, own_std = statistics(x)
                explain = {
                    "the deviation divides by the count less 1; the population's divides by the "
                    "count (`correction=0`)": (x - mean) / std * math.sqrt(1 - 1 / batch),
                    "the columns were divided by their variance; divide by its root": (
                        (x - mean) / std**2
                    ),
                    "forward uses the statistics of its own x; it should use those of fit": (
                        (x - own_mean) / own_std
                    ),
                    "one mean and one deviation for all columns; each column has its own": (
                        (x - seen.double().mean()) / seen.double().std(correction=0)
                    ),
                }
                assert_close(
                    got.cpu(),
                    ((x - mean) / std).to(dtype),
                    axes=("row", "column"),
                    atol=1e-5 if dtype is torch.float32 else None,
                    what=f"forward {what}",
                    explain={said: value.to(dtype) for said, value in explain.items()},
                )

    @pytest.mark.points(2, "value")
    def test_no_epsilon(self, submission):
        """Columns of small spread are scaled to deviation 1 as well."""
        x = data(7, 2, torch.float64)
        x[:, 1] = 1e-6 * torch.randn(7, dtype=torch.float64)
        got = fitted(submission, x)(x.clone())
        mean, std = statistics(x)
        explain = {}
        for eps in (1e-5, 1e-6, 1e-7, 1e-8, 1e-10, 1e-12):
            explain |= {
                f"{eps:g} was added to the variance; divide by the deviation itself": (
                    (x - mean) / (std.square() + eps).sqrt()
                ),
                f"{eps:g} was added to the deviation; divide by the deviation itself": (
                    (x - mean) / (std + eps)
                ),
                f"the deviation was kept above {eps:g}; divide by the deviation itself": (
                    (x - mean) / std.clamp_min(eps)
                ),
            }
        explain = {
            text: value
            for text, value in explain.items()
            if not torch.allclose(value, (x - mean) / std, rtol=1e-7, atol=1e-7)
        }
        assert_close(
            got,
            (x - mean) / std,
            axes=("row", "column"),
            what="forward of columns with spreads of 0.5 and 0.000001",
            explain=explain,
        )

    @pytest.mark.points(2, "value")
    def test_inverse(self, submission):
        """inverse undoes forward, and is not bound to what forward was given."""
        x = data(7, 3, torch.float64)
        module = fitted(submission, x)
        z = torch.randn(5, 3, dtype=torch.float64)
        scaled = module(x.clone())
        got = module.inverse(z.clone())
        mean, std = statistics(x)
        explain = {
            "inverse does what forward does; it should undo it": (z - mean) / std,
            "the mean was added before the multiplication; forward divides last, so inverse "
            "multiplies first": (z + mean) * std,
        }
        assert_close(
            got, z * std + mean, axes=("row", "column"), what="inverse(z)", explain=explain
        )
        back = module.inverse(scaled)
        assert_close(back, x, axes=("row", "column"), what="inverse(forward(x))")

    @pytest.mark.points(2, "value")
    def test_constant_column(self, submission):
        """A column of deviation 0 becomes 0, not nan, and the others are scaled as before."""
        for x in (data(7, 3), torch.tensor([[1.0, 2.0, 3.0]])):
            x[:, 1] = 4.0
            got = fitted(submission, x)(x.clone())
            assert_shape(got, batch=len(x), features=3)
            rows = "one row" if len(x) == 1 else f"{len(x)} equal values"
            column = got[:, 1]
            if not bool((column == 0).all()):
                why = ": 0 divided by 0" if column.isnan().any() else ""
                fail(
                    f"a column of {rows} becomes {float(column[0]):.4g}{why}; expected 0",
                    id="value.constant",
                )
            if len(x) > 1:
                mean, std = statistics(x)
                std[1] = 1.0
                assert_close(
                    got,
                    ((x - mean) / std).float(),
                    atol=1e-5,
                    axes=("row", "column"),
                    what="beside a constant column, forward",
                )

    @pytest.mark.points(2, "value")
    def test_constant_column_comes_back(self, submission):
        """inverse gives a column of deviation 0 back."""
        x = data(7, 3)
        x[:, 1] = 4.0
        module = fitted(submission, x)
        got = module.inverse(module(x.clone()))
        column = got[:, 1]
        expect(
            bool((column == 4.0).all()),
            f"a column of 4.0 comes back as {float(column[0]):.4g}; inverse should give it back",
            id="value.constant",
        )
        assert_close(got, x, atol=1e-4, axes=("row", "column"), what="inverse(forward(x))")

    @pytest.mark.points(1, "value")
    def test_returns_itself(self, submission):
        """fit returns the module."""
        module = submission.Standardiser(2)
        got = module.fit(data(5, 2))
        expect(
            got is module,
            f"fit returns {'None' if got is None else 'a ' + type(got).__name__}; return self, so "
            "that `Standardiser(2).fit(x)` is a fitted module",
            id="value.self",
        )

    @pytest.mark.points(1, "value")
    def test_fits_again(self, submission):
        """A second fit replaces what the first has learnt."""
        first, second = data(7, 2), 5 - 3 * data(11, 2)
        module = fitted(submission, first)
        module.fit(second.clone())
        mean, std = statistics(second)
        old_mean, old_std = statistics(first)
        explain = {
            "the statistics are still those of the first fit": (
                (second - old_mean) / old_std
            ).float()
        }
        assert_close(
            module(second.clone()),
            ((second - mean) / std).float(),
            atol=1e-5,
            axes=("row", "column"),
            what="forward after a second fit",
            explain=explain,
        )

    @pytest.mark.points(2, "value")
    def test_integers(self, submission):
        """An integer x is treated as float, in fit and in forward."""
        for dtype in (torch.int64, torch.uint8):
            x = torch.tensor([[1, 10], [2, 30], [6, 50]], dtype=dtype)
            got = assert_tensor(fitted(submission, x)(x.clone()))
            expect(
                got.is_floating_point(),
                f"forward of an x of {dtype} gives {got.dtype}; a floating dtype is asked for",
                id="dtype",
            )
            mean, std = statistics(x)
            assert_close(
                got.double(),
                (x - mean) / std,
                rtol=1e-5,
                atol=1e-6,
                axes=("row", "column"),
                what=f"forward of an x of {dtype}",
            )

    @pytest.mark.points(2, "value")
    def test_before_fit(self, submission):
        """forward and inverse before fit raise a RuntimeError that says so."""

        def check(name: str) -> None:
            module = submission.Standardiser(3)
            run = module if name == "forward" else module.inverse
            assert_raises(RuntimeError, run, data(5, 3), text="fit")

        smallest(check, ("forward", "inverse"))

    @pytest.mark.points(2, "structure")
    def test_nothing_to_train(self, submission):
        """The module has no parameters, before fit and after."""
        module = submission.Standardiser(3)
        for when in ("after __init__", "after fit"):
            names = [name for name, _ in module.named_parameters()]
            expect(
                not names,
                f"{when} the module has the parameter{'s' if len(names) > 1 else ''} "
                f"{', '.join(names)}: an optimizer would train the statistics; a buffer moves and "
                "is saved, but isn't trained",
                id="structure.parameters",
            )
            module.fit(data(5, 3))

    @pytest.mark.points(3, "structure")
    def test_state_dict(self, submission):
        """A fresh module that loads the state_dict of a fitted one works at once."""
        for _ in range(2):
            seen, x = data(7, 3), data(5, 3)
            module = fitted(submission, seen)
            state = {
                key: value.clone() if isinstance(value, Tensor) else value
                for key, value in module.state_dict().items()
            }
            expect(
                bool(state),
                "the state_dict of a fitted module is empty: only persistent buffers are in it, "
                "not plain attributes",
                id="state.empty",
            )
            fresh = submission.Standardiser(3)
            with loading():
                fresh.load_state_dict(state)
            for name, value in (("forward", x), ("inverse", torch.randn(5, 3))):
                expected = getattr(module, name)(value.clone())
                try:
                    got = getattr(fresh, name)(value.clone())
                except RuntimeError as error:
                    fail(
                        f"{name} of a fresh module that has loaded a fitted state_dict raises "
                        f"({error}): that it is fitted must be known from the state_dict too",
                        id="state.flag",
                    )
                assert_close(
                    got,
                    expected,
                    axes=("row", "column"),
                    what=f"{name} of a fresh module that has loaded the state_dict "
                    f"({', '.join(state)})",
                )

    @pytest.mark.points(2, "structure")
    def test_moves(self, submission):
        """`.to(device)` takes all that fit has learnt along."""
        module = fitted(submission, data(5, 3))
        expect(
            bool(dict(module.named_buffers())),
            "the module has no buffers: a tensor that is a plain attribute stays behind when the "
            "module moves",
            id="device.buffers",
        )
        module.to("meta")
        stays = [name for name, kept in named_tensors(module).items() if kept.device.type != "meta"]
        expect(
            not stays,
            f'after .to("meta"), {", ".join(stays)} is still on the CPU: only buffers and '
            "parameters move",
            id="device.stays",
        )

    @pytest.mark.points(1, "structure")
    def test_fits_on_the_device_of_x(self, submission):
        """fit makes nothing on another device than that of the module and x."""
        module = submission.Standardiser(3)
        assert_runs_on_meta(module.fit, data(5, 3))

    @pytest.mark.points(1, "structure")
    def test_double(self, submission):
        """`.double()` makes every floating statistic float64, and forward computes in it."""
        x = data(7, 3)
        module = fitted(submission, x).double()
        for name, kept in named_tensors(module).items():
            if kept.is_floating_point():
                assert_dtype(kept, torch.float64, what=f"after .double(), {name}")
        got = module(x.double())
        assert_dtype(got, torch.float64, what="after .double(), forward of a float64 x")

    @pytest.mark.points(2, "gradient")
    def test_statistics_need_no_gradient(self, submission):
        """The statistics don't require grad, even where the x of fit does."""
        module = submission.Standardiser(3)
        module.fit(data(5, 3).requires_grad_())
        for name, kept in named_tensors(module).items():
            expect(
                not kept.requires_grad,
                f"after fit on an x that requires grad, {name} requires grad too: it keeps the "
                "whole graph of x alive; detach x",
                id="gradient.statistics",
            )
        got = module(data(5, 3))
        expect(
            not got.requires_grad,
            "forward of an x that needs no grad requires grad: the statistics hang on the graph "
            "of the x of fit",
            id="gradient.statistics",
        )

    @pytest.mark.points(1, "gradient")
    def test_gradient(self, submission):
        """forward is differentiable with respect to x."""
        module = fitted(submission, data(7, 3, torch.float64))
        assert_gradients(module, data(2, 3, torch.float64), names=("x",))

    @pytest.mark.points(1, "structure")
    def test_leaves_its_arguments_alone(self, submission):
        """fit, forward and inverse leave their x unchanged."""
        module = submission.Standardiser(3)
        assert_unchanged(module.fit, data(5, 3))
        assert_unchanged(module.forward, data(5, 3))
        assert_unchanged(module.inverse, torch.randn(5, 3))
