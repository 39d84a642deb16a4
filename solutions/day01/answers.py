"""Answers to day 1 that its suite must accept or reject."""

import math

import numpy as np
from tensor_basics import *

from grader.answers import accepted, rejected

# --- make_tensors


@accepted("make_tensors")
def by_arithmetic(n, device):
    ramp = torch.arange(n, device=device)
    return {
        "zeros": torch.full((n, n), 0.0, device=device),
        "ones": torch.ones(n, n, dtype=torch.double, device=device),
        "eye": ramp[:, None] == ramp,
        "ramp": ramp,
        "grid": 2 * ramp.float() / max(n - 1, 1) - 1,
    }


@accepted("make_tensors")
def under_a_default_device(n, device):
    with torch.device(device):
        zeros = torch.zeros((n, n))
        eye = torch.eye(n).bool()
        grid = torch.linspace(-1, 1, steps=n) if n > 1 else torch.tensor([-1.0])
        ones = torch.ones_like(zeros).double()
        return {"zeros": zeros, "ones": ones, "eye": eye, "ramp": torch.arange(n), "grid": grid}


@accepted("make_tensors")
def filled_in_place(n, device):
    zeros = torch.empty(n, n, device=device).zero_()
    eye = torch.zeros(n, n, dtype=torch.bool, device=device)
    eye.fill_diagonal_(True)
    grid = torch.empty(n, device=device)
    grid[0] = -1.0
    if n > 1:
        grid[1:] = torch.arange(1, n, device=device) * (2 / (n - 1)) - 1
    return {
        "zeros": zeros,
        "ones": zeros.new_ones((n, n), dtype=torch.float64),
        "eye": eye,
        "ramp": torch.ones(n, dtype=torch.long, device=device).cumsum(0) - 1,
        "grid": grid,
    }


@accepted("make_tensors")
def from_python_numbers(n, device):
    return dict(
        zeros=torch.tensor([[0.0] * n] * n, device=device),
        ones=torch.tensor([[1.0] * n] * n, dtype=torch.float64, device=device),
        eye=torch.tensor([[i == j for j in range(n)] for i in range(n)], device=device),
        ramp=torch.tensor(range(n), device=device),
        grid=torch.tensor([-1.0] + [2 * i / (n - 1) - 1 for i in range(1, n)], device=device),
    )


@rejected("make_tensors", by="test_device", says="moved")
def built_on_the_cpu_and_moved(n, device):
    zeros = torch.zeros(n, n)
    tensors = {
        "zeros": zeros,
        "ones": torch.ones_like(zeros, dtype=torch.float64),
        "eye": torch.eye(n, dtype=torch.bool),
        "ramp": torch.arange(n),
        "grid": torch.linspace(-1, 1, n),
    }
    return {key: tensor.to(device) for key, tensor in tensors.items()}


@rejected("make_tensors", by="test_device", says="moved")
def one_comes_from_numpy(reference: str) -> str:
    return reference.replace(
        "torch.linspace(-1, 1, n, device=device)",
        "torch.tensor(__import__('numpy').linspace(-1, 1, n)).float().to(device)",
    )


@rejected("make_tensors", by="test_device", says="another device: ramp")
def forgets_the_device_of_one(reference: str) -> str:
    return reference.replace("torch.arange(n, device=device)", "torch.arange(n)")


@rejected("make_tensors", by="test_device")
def takes_the_machines_device(reference: str) -> str:
    return reference.replace(
        "    zeros = torch.zeros(n, n",
        '    device = "cuda" if torch.cuda.is_available() else "cpu"\n    zeros = torch.zeros(n, n',
    )


@rejected("make_tensors", by=("test_grid", "test_one_point"), says="the end 1 is missing")
def grid_by_arange(reference: str) -> str:
    return reference.replace(
        "torch.linspace(-1, 1, n, device=device)",
        "torch.arange(-1, 1, 2 / (n - 1), device=device)",
    )


@rejected("make_tensors", by="test_grid", says="rounding")
def grid_by_arange_to_one_step_more(reference: str) -> str:
    return reference.replace(
        "torch.linspace(-1, 1, n, device=device)",
        "torch.arange(-1, 1 + 2 / max(n - 1, 0.5), 2 / max(n - 1, 0.5), device=device)",
    )


@rejected("make_tensors", by="test_grid", says="one step before 1")
def grid_without_its_end(reference: str) -> str:
    return reference.replace(
        "torch.linspace(-1, 1, n, device=device)", "torch.linspace(-1, 1, n + 1, device=device)[:n]"
    )


@rejected("make_tensors", by="test_grid", says="begins at 0")
def grid_from_zero(reference: str) -> str:
    return reference.replace("torch.linspace(-1,", "torch.linspace(0,")


@rejected("make_tensors", by="test_one_point", says="step")
def grid_divides_by_zero(reference: str) -> str:
    return reference.replace(
        "torch.linspace(-1, 1, n, device=device)",
        "2 * torch.arange(n, device=device) / (n - 1) - 1",
    )


@rejected("make_tensors", by="test_dtypes", says="grid")
def grid_in_float64(reference: str) -> str:
    return reference.replace("1, n, device=device)", "1, n, device=device, dtype=torch.float64)")


@rejected("make_tensors", by="test_dtypes", says="ramp")
def float_ramp(reference: str) -> str:
    return reference.replace("torch.arange(n, ", "torch.arange(float(n), ")


@rejected("make_tensors", by="test_values", says="ramp")
def ramp_from_one(reference: str) -> str:
    return reference.replace("torch.arange(n, ", "torch.arange(1, n + 1, ")


@rejected("make_tensors", by="test_shapes")
def ramp_includes_n(reference: str) -> str:
    return reference.replace("torch.arange(n, ", "torch.arange(n + 1, ")


@rejected("make_tensors", by="test_dtypes", says="eye")
def float_eye(reference: str) -> str:
    return reference.replace("torch.eye(n, dtype=torch.bool, ", "torch.eye(n, ")


@rejected("make_tensors", by="test_values", says="eye")
def eye_is_true_off_the_diagonal(reference: str) -> str:
    return reference.replace('"eye": torch', '"eye": ~torch')


@rejected("make_tensors", by="test_dtypes", says="ones")
def ones_take_the_dtype_of_the_zeros(reference: str) -> str:
    return reference.replace(", dtype=torch.float64)", ")")


@rejected("make_tensors", by=("test_shapes", "test_values"), says="key 'grid'")
def without_a_grid(n, device):
    zeros = torch.zeros(n, n, device=device)
    return {
        "zeros": zeros,
        "ones": zeros.double() + 1,
        "eye": torch.eye(n, dtype=torch.bool, device=device),
        "ramp": torch.arange(n, device=device),
    }


@rejected("make_tensors", by="test_shapes")
def flat_zeros(reference: str) -> str:
    return reference.replace("torch.zeros(n, n, device", "torch.zeros(n * n, device")


# --- predict_dtype


@accepted("predict_dtype")
def by_a_table_of_widths(a, a_ndim, b, b_ndim):
    order = [[torch.bool], [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]]
    order.append([torch.float16, torch.bfloat16, torch.float32, torch.float64])
    order.append([torch.complex32, torch.complex64, torch.complex128])
    ranks = [a_ndim + 1, b_ndim + 1]
    python = {bool: torch.bool, int: torch.int64, float: torch.float32, complex: torch.complex64}
    if b in python:
        b, ranks[1] = python[b], 0

    def category(dtype):
        return [dtype in group for group in order].index(True)

    def as_complex(dtype):
        return {torch.float16: torch.complex32, torch.float64: torch.complex128}.get(
            dtype, torch.complex64
        )

    if ranks[0] != ranks[1]:
        (_, low), (_, high) = sorted(zip(ranks, (a, b)), key=lambda pair: pair[0])
        if category(low) <= category(high):
            return high
        return as_complex(high) if category(high) == 2 else low
    if category(a) > category(b):
        a, b = b, a
    if category(a) == category(b):
        group = order[category(a)]
        i, j = sorted((group.index(a), group.index(b)))
        if i != j and (group[i], group[j]) == (torch.uint8, torch.int8):
            return torch.int16
        if i != j and (group[i], group[j]) == (torch.float16, torch.bfloat16):
            return torch.float32
        return group[j]
    if category(b) == 3 and category(a) == 2 and a == torch.float64:
        return torch.complex128
    return b


@accepted("predict_dtype")
def by_category_then_bits(a, a_ndim, b, b_ndim):
    python = {"bool": "bool", "int": "int64", "float": "float32", "complex": "complex64"}
    if isinstance(b, type):
        b, b_ndim = getattr(torch, python[b.__name__]), -1

    def kind(dtype):
        if dtype == torch.bool:
            return 0
        return 1 + dtype.is_floating_point + 2 * dtype.is_complex

    if a_ndim < b_ndim:
        a, a_ndim, b, b_ndim = b, b_ndim, a, a_ndim
    if a_ndim > b_ndim:
        if kind(a) >= kind(b):
            return a
        if kind(a) == 2:
            return a.to_complex()
        return b
    if a == b:
        return a
    if kind(a) != kind(b):
        low, high = (a, b) if kind(a) < kind(b) else (b, a)
        return torch.complex128 if low == torch.float64 else high
    if a.itemsize == b.itemsize:
        return torch.int16 if kind(a) == 1 else torch.float32
    return a if a.itemsize > b.itemsize else b


@rejected(
    "predict_dtype",
    by=("test_lower_rank_does_not_count", "test_equal_ranks_two_categories"),
    says="the wider dtype was taken",
)
def always_the_wider(a, a_ndim, b, b_ndim):
    b = {bool: torch.bool, int: torch.int64, float: torch.float32, complex: torch.complex64}.get(
        b, b
    )
    if a_ndim >= (-1 if isinstance(b, type) else b_ndim):
        return max((a, b), key=lambda dtype: dtype.itemsize)
    return max((b, a), key=lambda dtype: dtype.itemsize)


@rejected(
    "predict_dtype",
    by=("test_lower_rank_does_not_count", "test_python_numbers", "test_complex_keeps_the_width"),
    says="treated like one with dimensions",
)
def all_ranks_are_equal(reference: str) -> str:
    return reference.replace("if a_ndim == rank:", "if True:")


@rejected("predict_dtype", by="test_lower_rank_does_not_count", says="treated like one with")
def a_0_dim_tensor_counts_fully(reference: str) -> str:
    return reference.replace("if a_ndim == rank:", "if rank >= 0:")


@rejected("predict_dtype", by="test_python_numbers", says="treated like a tensor")
def a_python_number_is_a_0_dim_tensor(reference: str) -> str:
    return reference.replace("rank = -1 if b in numbers else b_ndim", "rank = b_ndim")


@rejected("predict_dtype", by="test_equal_ranks_one_category", says="int16 holds both")
def uint8_beats_int8(reference: str) -> str:
    return reference.replace("return torch.int16", "return torch.uint8")


@rejected("predict_dtype", by="test_equal_ranks_one_category", says="neither holds")
def int8_beats_uint8(reference: str) -> str:
    return reference.replace("return torch.int16", "return torch.int8")


@rejected("predict_dtype", by="test_python_numbers", says="float32")
def a_python_float_is_float64(reference: str) -> str:
    return reference.replace("float: torch.float32, complex", "float: torch.float64, complex")


@rejected("predict_dtype", by="test_python_numbers")
def a_python_int_is_int32(reference: str) -> str:
    return reference.replace("int: torch.int64", "int: torch.int32")


@rejected("predict_dtype", by="test_python_numbers", says="ignored")
def python_numbers_never_count(reference: str) -> str:
    return reference.replace(
        "    if category(second) <= category(first):",
        "    if category(second) <= category(first) or rank == -1:",
    )


@rejected("predict_dtype", by="test_equal_ranks_one_category", says="float32 has both")
def half_beats_bfloat16(reference: str) -> str:
    return reference.replace(
        "        if {a, b} == {torch.float16, torch.bfloat16}:\n            return torch.float32\n",
        "        if {a, b} == {torch.float16, torch.bfloat16}:\n            return torch.float16\n",
    )


@rejected("predict_dtype", by="test_equal_ranks_one_category", says="always `a`")
def the_first_of_one_category(reference: str) -> str:
    return reference.replace(
        "    if a_ndim == rank:",
        "    if a_ndim == rank and category(a) == category(b):\n"
        "        return a\n"
        "    if a_ndim == rank:",
    )


@rejected("predict_dtype", by="test_complex_keeps_the_width", says="keeps its own width")
def complex_of_the_lower_rank(reference: str) -> str:
    return reference.replace(
        "return first.to_complex() if first.is_floating_point else second", "return second"
    )


@rejected("predict_dtype", by="test_complex_keeps_the_width", says="always complex64")
def always_complex64(reference: str) -> str:
    return reference.replace(
        "return first.to_complex() if", "return torch.complex64 if second.is_complex and"
    )


@rejected("predict_dtype", by="test_complex_keeps_the_width", says="complex32 is two float16")
def bfloat16_becomes_complex32(reference: str) -> str:
    return reference.replace(
        "    return first.to_complex() if",
        "    if first is torch.bfloat16 and second.is_complex:\n"
        "        return torch.complex32\n"
        "    return first.to_complex() if",
    )


@rejected("predict_dtype", by="test_equal_ranks_two_categories", says="complex128")
def complex64_swallows_float64(reference: str) -> str:
    return reference.replace(
        "            low = low.to_complex()\n"
        "            return max(high, low, key=lambda dtype: dtype.itemsize)\n",
        "            return high\n",
    )


@rejected("predict_dtype", by="test_equal_ranks_two_categories", says="always `a`")
def the_first_of_two_categories(reference: str) -> str:
    return reference.replace(
        "    if a_ndim == rank:",
        "    if a_ndim == rank and category(a) != category(b):\n"
        "        return a\n"
        "    if a_ndim == rank:",
    )


@rejected("predict_dtype", by="test_equal_ranks_two_categories")
def bool_is_no_lower_than_int(reference: str) -> str:
    return reference.replace("int(dtype is not torch.bool)", "1").replace(
        "(category(dtype), dtype.itemsize)", "category(dtype)"
    )


@rejected("predict_dtype", by="test_lower_rank_of_higher_category", says="from any rank")
def dimensions_always_win(reference: str) -> str:
    return reference.replace(
        "    if category(second) <= category(first):",
        "    if category(second) <= category(first) or rank >= 0:",
    )


@rejected("predict_dtype", by="test_lower_rank_of_higher_category")
def a_0_dim_float64_is_narrowed(reference: str) -> str:
    return reference.replace(
        "    return first.to_complex() if first",
        "    if second is torch.float64:\n"
        "        return torch.float32\n"
        "    return first.to_complex() if first",
    )


@rejected("predict_dtype", by="test_forbidden", says="result_type")
def asks_for_the_result_type(a, a_ndim, b, b_ndim):
    first = torch.ones((1,) * a_ndim, dtype=a)
    return torch.result_type(
        first, b(1) if isinstance(b, type) else torch.ones((1,) * b_ndim, dtype=b)
    )


@rejected("predict_dtype", by="test_forbidden", says="makes a tensor")
def makes_tensors_on_the_way(reference: str) -> str:
    return reference.replace(
        "    if a_ndim == rank:\n",
        "    if a_ndim == rank and category(a) == category(b):\n"
        "        return (torch.zeros(1, dtype=a) + torch.zeros(1, dtype=b)).dtype\n"
        "    if a_ndim == rank:\n",
    )


@rejected("predict_dtype", by="test_forbidden", says="promote_types")
def promotes_within_a_rank(reference: str) -> str:
    return reference.replace(
        "    if a_ndim == rank:\n",
        "    if a_ndim == rank:\n        return torch.promote_types(a, b)\n",
    )


@rejected("predict_dtype", by="test_forbidden", says="imported")
def a_table_made_at_import(reference: str) -> str:
    return reference.replace(
        "    if a_ndim == rank:\n",
        "    if a_ndim == rank and (a, b) in TABLE:\n"
        "        return TABLE[a, b]\n"
        "    if a_ndim == rank:\n",
    ) + (
        "\n\nTABLE = {\n"
        "    (a, b): torch.promote_types(a, b)\n"
        "    for a in (torch.uint8, torch.float16)\n"
        "    for b in (torch.int8, torch.bfloat16)\n"
        "}\n"
    )


# --- safe_mean_std


@accepted("safe_mean_std")
def with_std(x):
    wide = x.to(torch.float64 if not x.is_floating_point() else torch.float32)
    if x.dtype == torch.float64:
        wide = x
    out = x.dtype if x.dtype == torch.float64 else torch.float32
    return wide.mean().to(out), wide.std(correction=0).to(out)


@accepted("safe_mean_std")
def all_in_float64(x):
    std, mean = torch.std_mean(x.double(), correction=0)
    if x.dtype is not torch.float64:
        mean, std = mean.float(), std.float()
    return mean, std


@accepted("safe_mean_std")
def with_the_dtype_of_the_mean(x):
    acc = torch.promote_types(x.dtype, torch.float32 if x.is_floating_point() else torch.float64)
    out = torch.float64 if x.dtype == torch.float64 else torch.float32
    mean = torch.mean(x, dtype=acc)
    var = ((x.to(acc) - mean) ** 2).sum() / x.numel() if x.numel() else mean
    return mean.to(out), torch.sqrt(var).to(out)


@accepted("safe_mean_std")
def with_the_norm(x):
    dtype = torch.float32 if x.is_floating_point() and x.dtype != torch.float64 else torch.float64
    values = x.flatten().to(dtype)
    mean = values.sum() / len(values) if len(values) else values.new_tensor(float("nan"))
    std = torch.linalg.vector_norm(values - mean) / math.sqrt(len(values)) if len(values) else mean
    out = torch.float64 if x.dtype == torch.float64 else torch.float32
    return mean.to(out), std.to(out)


@accepted("safe_mean_std")
def with_var(x):
    out = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.double().mean().to(out), x.double().var(unbiased=False).sqrt().to(out)


@rejected("safe_mean_std", by=("test_floats", "test_single_element"), says="correction=0")
def sample_deviation(reference: str) -> str:
    return reference.replace("(x - mean).square().mean().sqrt()", "x.std()")


@rejected("safe_mean_std", by="test_single_element", says="expected 0")
def sample_deviation_of_few(reference: str) -> str:
    return reference.replace(
        "(x - mean).square().mean().sqrt()", "x.std(correction=int(x.numel() < 2))"
    )


@rejected("safe_mean_std", by="test_floats", says="variance")
def variance(reference: str) -> str:
    return reference.replace(".square().mean().sqrt()", ".square().mean()")


@rejected("safe_mean_std", by="test_half", says="rounded to the dtype of x")
def rounds_half(x):
    if not x.is_floating_point():
        return x.double().mean().float(), x.double().std(correction=0).float()
    out = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.mean().to(out), x.std(correction=0).to(out)


@rejected("safe_mean_std", by="test_half")
def squares_in_half(x):
    wide = x if x.is_floating_point() else x.double()
    out = torch.float64 if x.dtype == torch.float64 else torch.float32
    mean = wide.to(out if x.is_floating_point() else torch.float64).mean()
    std = (wide - mean.to(wide.dtype)).square().to(out).mean().sqrt()
    return mean.to(out), std


@rejected("safe_mean_std", by=("test_integers", "test_result_dtype"))
def crashes_on_integers(x):
    out = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.mean(dtype=out), x.to(x.dtype).std(correction=0).to(out)


@rejected("safe_mean_std", by="test_large_integers", says="subtract the mean")
def integers_in_float32(x):
    out = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.to(out).mean(), x.to(out).std(correction=0)


@rejected("safe_mean_std", by="test_large_integers")
def mean_of_squares_less_square_of_mean(x):
    out = torch.float64 if x.dtype == torch.float64 else torch.float32
    wide = x.double()
    mean = wide.mean()
    return mean.to(out), (wide.square().mean() - mean**2).clamp_min(0).sqrt().to(out)


@rejected("safe_mean_std", by="test_integers")
def integer_mean(x):
    out = torch.float64 if x.dtype == torch.float64 else torch.float32
    if x.is_floating_point():
        return all_in_one(x, out)
    if not x.numel():
        return torch.tensor(torch.nan), torch.tensor(torch.nan)
    mean = x.sum() // x.numel()
    return mean.to(out), x.double().std(correction=0).to(out)


def all_in_one(x, out):
    return x.to(out).mean(), x.to(out).std(correction=0)


@rejected("safe_mean_std", by="test_result_dtype", says="float64")
def always_float64(x):
    return x.double().mean(), x.double().std(correction=0)


@rejected("safe_mean_std", by=("test_result_dtype", "test_floats"), says="float64")
def always_float32(x):
    return x.double().mean().float(), x.double().std(correction=0).float()


@rejected("safe_mean_std", by="test_result_dtype", says="float16")
def the_dtype_of_x(x):
    out = x.dtype if x.is_floating_point() else torch.float32
    return x.double().mean().to(out), x.double().std(correction=0).to(out)


@rejected("safe_mean_std", by="test_result_dtype", says="0-dim")
def keeps_the_axes(x):
    out = torch.float64 if x.dtype == torch.float64 else torch.float32
    wide = x.double().reshape(1, -1)
    return wide.mean(1).to(out), wide.std(1, correction=0).to(out)


@rejected("safe_mean_std", by=("test_result_dtype", "test_floats"), says="float")
def python_floats(x):
    wide = x.double()
    return wide.mean().item(), wide.std(correction=0).item()


@rejected("safe_mean_std", by="test_empty", says="raises")
def asserts_that_there_is_something(reference: str) -> str:
    return reference.replace(
        "    mean = x.mean()\n",
        '    if x.numel() == 0:\n        raise ValueError("empty")\n    mean = x.mean()\n',
    )


@rejected("safe_mean_std", by="test_empty", says="nan")
def zero_for_nothing(reference: str) -> str:
    return reference.replace("    mean = x.mean()\n", "    mean = x.sum() / max(x.numel(), 1)\n")


@rejected("safe_mean_std", by="test_leaves_x_alone")
def subtracts_in_place(reference: str) -> str:
    return reference.replace("(x - mean)", "x.sub_(mean)")


@rejected("safe_mean_std", by="test_device", says="device")
def through_numpy(x):
    out = torch.float64 if x.dtype == torch.float64 else torch.float32
    if x.is_meta:
        return torch.tensor(0, dtype=out), torch.tensor(0, dtype=out)
    values = x.double().numpy()
    return torch.tensor(values.mean(), dtype=out), torch.tensor(values.std(), dtype=out)


# --- count_exact


@accepted("count_exact")
def by_counting_digits(dtype):
    try:
        return torch.iinfo(dtype).max
    except TypeError:
        return 2 ** (1 - round(math.log2(torch.finfo(dtype).eps)))


@accepted("count_exact")
def by_trying(dtype):
    if not dtype.is_floating_point:
        return 2 ** (8 * dtype.itemsize - dtype.is_signed) - 1
    power = 1
    while int(torch.tensor(power + 1).to(dtype).to(torch.int64)) == power + 1:
        power *= 2
    return power


@accepted("count_exact")
def by_halving_the_gap(dtype):
    if dtype in (torch.float8_e4m3fn, torch.float8_e5m2) or dtype.is_floating_point:
        n, gap = 1, torch.finfo(dtype).eps
        while gap <= 1:
            n, gap = 2 * n, 2 * gap
        return n
    info = torch.iinfo(dtype)
    return (1 << (info.bits - (1 if info.min < 0 else 0))) - 1


@accepted("count_exact")
def by_whole_numbers(dtype):
    if dtype.is_floating_point:
        return 2 * int(1 / torch.finfo(dtype).eps)
    return int(torch.iinfo(dtype).max)


@rejected("count_exact", by=("test_float_dtypes", "test_the_next_is_lost"), says="largest number")
def the_largest_float(reference: str) -> str:
    return reference.replace("int(2 / torch.finfo(dtype).eps)", "int(torch.finfo(dtype).max)")


@rejected("count_exact", by=("test_float_dtypes", "test_the_next_is_lost"), says="1 too few")
def one_too_few(reference: str) -> str:
    return reference.replace(
        "int(2 / torch.finfo(dtype).eps)", "int(2 / torch.finfo(dtype).eps) - 1"
    )


@rejected("count_exact", by=("test_the_next_is_lost", "test_byte_floats"), says="isn't exact")
def one_too_many(reference: str) -> str:
    return reference.replace(
        "int(2 / torch.finfo(dtype).eps)", "int(2 / torch.finfo(dtype).eps) + 1"
    )


@rejected("count_exact", by=("test_float_dtypes", "test_the_next_is_lost"), says="half of it")
def one_over_eps(reference: str) -> str:
    return reference.replace("int(2 / torch", "int(1 / torch")


@rejected("count_exact", by=("test_float_dtypes", "test_byte_floats"))
def from_the_width_alone(dtype):
    return 2 ** (8 * dtype.itemsize - (dtype.is_signed)) - 1


@rejected("count_exact", by="test_byte_floats")
def float16_for_every_small_float(reference: str) -> str:
    return reference.replace(
        "    if dtype.is_floating_point:\n        return int(2",
        "    if dtype.is_floating_point and dtype.itemsize == 1:\n"
        "        dtype = torch.float16\n"
        "    if dtype.is_floating_point:\n        return int(2",
    )


@rejected("count_exact", by="test_byte_floats")
def a_table_of_four_floats(dtype):
    digits = {torch.float16: 11, torch.bfloat16: 8, torch.float32: 24, torch.float64: 53}
    if dtype.is_floating_point:
        return 2 ** digits[dtype]
    return torch.iinfo(dtype).max


@rejected("count_exact", by="test_integer_dtypes", says="1 too many")
def the_power_itself(reference: str) -> str:
    return reference.replace("torch.iinfo(dtype).max", "torch.iinfo(dtype).max + 1")


@rejected("count_exact", by="test_integer_dtypes", says="half of it")
def a_sign_bit_in_uint8(dtype):
    if dtype.is_floating_point:
        return int(2 / torch.finfo(dtype).eps)
    return 2 ** (dtype.itemsize * 8 - 2) - 1 if dtype.is_signed else torch.iinfo(dtype).max


@rejected("count_exact", by="test_integer_dtypes", says="one bit is the sign")
def no_sign_bit(dtype):
    if dtype.is_floating_point:
        return int(2 / torch.finfo(dtype).eps)
    return 2 ** (dtype.itemsize * 8) - 1


@rejected("count_exact", by="test_python_int", says="float")
def a_float(reference: str) -> str:
    return reference.replace("int(2 / torch.finfo(dtype).eps)", "2 / torch.finfo(dtype).eps")


@rejected("count_exact", by="test_python_int", says="Tensor")
def a_tensor(reference: str) -> str:
    return reference.replace(
        "int(2 / torch.finfo(dtype).eps)", "torch.tensor(int(2 / torch.finfo(dtype).eps))"
    )


@rejected("count_exact", by="test_computed", says="16777216")
def written_down(dtype):
    if dtype.is_floating_point:
        known = {torch.float32: 16777216, torch.float64: 9007199254740992}
        return known.get(dtype) or int(2 / torch.finfo(dtype).eps)
    return torch.iinfo(dtype).max


@rejected("count_exact", by="test_computed", says="2048")
def written_down_elsewhere(reference: str) -> str:
    return (
        reference.replace(
            "        return int(2 / torch.finfo(dtype).eps)",
            "        return KNOWN.get(dtype) or int(2 / torch.finfo(dtype).eps)",
        )
        + "\n\nKNOWN = {torch.float16: 2048}\n"
    )


# --- quantise_u8


@accepted("quantise_u8")
def rounds_before_it_adds(x):
    low = min(0.0, float(x.min())) if x.numel() else 0.0
    high = max(0.0, float(x.max())) if x.numel() else 0.0
    if high == low:
        return x.to(torch.uint8), 1.0, 0
    scale = (high - low) / 255
    zero = min(max(round(-low / scale), 0), 255)
    q = torch.round(x / scale) + zero
    return torch.clamp(q, min=0, max=255).byte(), scale, zero


@accepted("quantise_u8")
def with_tensors_to_the_end(x):
    if x.numel() == 0 or not bool((x != 0).any()):
        return torch.zeros(x.shape, dtype=torch.uint8, device=x.device), 1.0, 0
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = (high - low) / 255
    zero = torch.round(-low / scale)
    q = torch.clip(torch.round(x / scale + zero), 0, 255)
    return q.to(torch.uint8), scale.item(), int(zero.item())


@accepted("quantise_u8")
def with_zero_among_the_values(x):
    if x.numel() == 0 or float(x.abs().max()) == 0:
        return torch.zeros_like(x, dtype=torch.uint8), 1.0, 0
    values = torch.cat([x.flatten(), x.new_zeros(1)])
    low, high = values.aminmax()
    scale = float((high.double() - low.double()) / 255)
    zero = int(torch.round(-low.double() / scale))
    steps = x.double().div(scale).round_().add_(zero)
    return (
        steps.minimum(steps.new_tensor(255)).maximum(steps.new_tensor(0)).to(torch.uint8),
        scale,
        zero,
    )


@accepted("quantise_u8")
def with_numpy(x):
    values = x.double().numpy()
    low, high = min(values.min(initial=0.0), 0.0), max(values.max(initial=0.0), 0.0)
    if low == high:
        return torch.zeros_like(x, dtype=torch.uint8), 1.0, 0
    scale = (high - low) / 255
    zero = int(np.rint(-low / scale))
    q = np.clip(np.rint(values / scale) + zero, 0, 255).astype(np.uint8)
    return torch.from_numpy(np.asarray(q)).reshape(x.shape), float(scale), zero


@accepted("quantise_u8")
def with_whole_tensors_of_ends(x):
    ends = torch.cat([x.reshape(-1), torch.zeros(1, dtype=x.dtype, device=x.device)])
    scale = ((ends.max() - ends.min()) / 255).item()
    if scale == 0.0:
        return torch.zeros_like(x, dtype=torch.uint8), 1.0, 0
    zero = int((-ends.min() / scale).round().clamp(0, 255))
    q = torch.addcmul(torch.full_like(x, zero), x, torch.full_like(x, 1 / scale))
    return q.round_().clamp_(0, 255).type(torch.uint8), scale, zero


@accepted("quantise_u8")
def back_through_int16(reference: str) -> str:
    return reference.replace(
        "(q.float() - zero) * scale",
        "((q.to(torch.int16) - zero) * scale).to(torch.float32)",
    )


@accepted("quantise_u8")
def back_through_float64(reference: str) -> str:
    return reference.replace(
        "return (q.float() - zero) * scale",
        "return torch.mul(torch.sub(q.double(), zero), scale).float()",
    )


@rejected("quantise_u8", by="test_ends_do_not_wrap", says="wraps around")
def casts_without_a_clamp(reference: str) -> str:
    return reference.replace(".round().clamp(0, 255)", ".round()")


@rejected("quantise_u8", by="test_ends_do_not_wrap", says="wraps around")
def clamps_after_the_cast(reference: str) -> str:
    return reference.replace(
        ".round().clamp(0, 255).to(torch.uint8)", ".round().to(torch.uint8).clamp(0, 255)"
    )


@rejected("quantise_u8", by="test_ends_do_not_wrap", says="bottom")
def zero_is_cut_off_and_nothing_clamped(reference: str) -> str:
    return (
        reference.replace(".round().clamp(0, 255)", ".sub(0.001).round()").replace(
            "round(-low / scale)", "math_floor(-low / scale)"
        )
        + "\n\ndef math_floor(value):\n    return int(value)\n"
    )


@rejected("quantise_u8", by=("test_reconstruction", "test_half_to_even"), says="round first")
def cuts_the_fraction_off(reference: str) -> str:
    return reference.replace(".round().clamp(0, 255)", ".clamp(0, 255)")


@rejected("quantise_u8", by="test_half_to_even", says="rounded up")
def rounds_half_up(reference: str) -> str:
    return reference.replace("(x / scale + zero).round()", "(x / scale + zero + 0.5).floor()")


@rejected("quantise_u8", by="test_reconstruction", says="round it")
def zero_is_cut_off(reference: str) -> str:
    return reference.replace("zero = round(-low / scale)", "zero = int(-low / scale)")


@rejected("quantise_u8", by=("test_zero_is_exact", "test_reconstruction"), says="whole number")
def counts_from_the_low_end(reference: str) -> str:
    return reference.replace("(x / scale + zero).round()", "((x - low) / scale).floor()")


@rejected("quantise_u8", by="test_dequantise", says="uint8")
def subtracts_in_uint8(reference: str) -> str:
    return reference.replace("(q.float() - zero) * scale", "(q - zero) * scale")


@rejected("quantise_u8", by="test_dequantise", says="uint8")
def converts_after_the_subtraction(reference: str) -> str:
    return reference.replace("(q.float() - zero) * scale", "(q - zero).float() * scale")


@rejected("quantise_u8", by="test_dequantise", says="subtract first")
def multiplies_first(reference: str) -> str:
    return reference.replace("(q.float() - zero) * scale", "q.float() * scale - zero")


@rejected("quantise_u8", by="test_dequantise", says="q + zero")
def adds_the_zero(reference: str) -> str:
    return reference.replace("(q.float() - zero)", "(q.float() + zero)")


@rejected("quantise_u8", by="test_dequantise", says="float64")
def comes_back_as_float64(reference: str) -> str:
    return reference.replace("(q.float() - zero)", "(q.double() - zero)")


@rejected("quantise_u8", by="test_dequantise")
def comes_back_in_int8(reference: str) -> str:
    return reference.replace("(q.float() - zero)", "(q.to(torch.int8) - zero)")


@rejected("quantise_u8", by="test_equal_values")
def range_of_equal_values_is_zero(x):
    if not x.numel() or not x.any():
        return torch.zeros_like(x, dtype=torch.uint8), 1.0, 0
    low, high = x.min(), x.max()
    scale = (high - low) / 255
    zero = torch.round(-low / scale).nan_to_num(0, 0, 0)
    q = torch.round(x / scale + zero).clamp(0, 255).nan_to_num(0).to(torch.uint8)
    return q, scale.item(), int(zero)


@rejected("quantise_u8", by=("test_scale", "test_one_sided"), says="leaves 0 out")
def range_without_zero(reference: str) -> str:
    return reference.replace("min(x.min().item(), 0.0)", "x.min().item()").replace(
        "max(x.max().item(), 0.0)", "x.max().item() if x.min() < x.max() else x.max().item() + 1"
    )


@rejected("quantise_u8", by="test_scale", says="leaves 0 out")
def range_without_zero_and_no_zero(x):
    if not x.numel() or not x.any():
        return torch.zeros_like(x, dtype=torch.uint8), 1.0, 0
    low = x.min().item()
    scale = (x.max().item() - low) / 255 or 1.0
    zero = min(max(round(-low / scale), 0), 255)
    return ((x - low) / scale).round().clamp(0, 255).to(torch.uint8), scale, zero


@rejected("quantise_u8", by="test_scale", says="256")
def divides_by_256(reference: str) -> str:
    return reference.replace("/ 255", "/ 256")


@rejected("quantise_u8", by="test_scale", says="symmetric")
def symmetric_range(reference: str) -> str:
    return reference.replace(
        "    scale = (high - low)",
        "    high = max(high, -low)\n    low = -high\n    scale = (high - low)",
    )


@rejected("quantise_u8", by="test_scale")
def a_range_with_room_to_spare(reference: str) -> str:
    return reference.replace("(high - low) / 255", "(high - low) * 1.01 / 255")


@rejected("quantise_u8", by="test_nothing_but_zeros", says="raises")
def fails_on_nothing(reference: str) -> str:
    return reference.replace("if not x.any():", "if x.numel() and not x.any():")


@rejected("quantise_u8", by="test_nothing_but_zeros", says="raises")
def fails_on_zeros(reference: str) -> str:
    return reference.replace("if not x.any():", "if not x.numel():")


@rejected("quantise_u8", by="test_nothing_but_zeros", says="scale")
def eps_for_a_range_of_zero(reference: str) -> str:
    return (
        reference.replace(
            "    if not x.any():\n        return torch.zeros_like(x, dtype=torch.uint8), 1.0, 0\n",
            "    x_ = x if x.numel() else x.new_zeros(1)\n",
        )
        .replace(
            "low, high = min(x.min().item(), 0.0), max(x.max().item(), 0.0)",
            "low, high = min(x_.min().item(), 0.0), max(x_.max().item(), 0.0)",
        )
        .replace("(high - low) / 255", "max((high - low) / 255, 1e-12)")
    )


@rejected("quantise_u8", by="test_nothing_but_zeros", says="zero 128")
def zero_in_the_middle(reference: str) -> str:
    return reference.replace("dtype=torch.uint8), 1.0, 0", "dtype=torch.uint8), 1.0, 128")


@rejected("quantise_u8", by="test_one_sided")
def zero_is_always_in_the_middle(reference: str) -> str:
    return reference.replace("zero = round(-low / scale)", "zero = 128")


@rejected("quantise_u8", by="test_types", says="int")
def a_float_zero(reference: str) -> str:
    return reference.replace("zero = round(-low / scale)", "zero = float(round(-low / scale))")


@rejected("quantise_u8", by="test_types", says="scale is a Tensor")
def a_tensor_scale(reference: str) -> str:
    return reference.replace(
        ".to(torch.uint8), scale, zero", ".to(torch.uint8), torch.tensor(scale), zero"
    )


@rejected("quantise_u8", by="test_types", says="float32")
def q_stays_float(reference: str) -> str:
    return reference.replace(".clamp(0, 255).to(torch.uint8)", ".clamp(0, 255)")


@rejected("quantise_u8", by="test_types", says="shape")
def q_is_flat(reference: str) -> str:
    return reference.replace("(x / scale + zero).round()", "(x.flatten() / scale + zero).round()")


@rejected("quantise_u8", by="test_leaves_its_arguments_alone")
def divides_in_place(reference: str) -> str:
    return reference.replace("(x / scale + zero)", "x.div_(scale).add_(zero)")


@rejected("quantise_u8", by="test_leaves_its_arguments_alone", says="device")
def comes_back_to_the_cpu(reference: str) -> str:
    return reference.replace(
        "(q.float() - zero) * scale", "torch.arange(-zero, 256 - zero)[q.long()] * scale"
    )


# --- Standardiser


@accepted("Standardiser")
class NanUntilFitted(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.register_buffer("mu", torch.full((1, features), float("nan")))
        self.register_buffer("sigma", torch.full((1, features), float("nan")))

    def fit(self, x):
        with torch.no_grad():
            x = x.to(self.mu)
            self.mu = x.mean(0, keepdim=True)
            self.sigma = x.var(0, unbiased=False, keepdim=True).sqrt()
        return self

    def check(self):
        if self.mu.isnan().any():
            raise RuntimeError("this Standardiser is not fitted")

    def forward(self, x):
        self.check()
        return (x - self.mu) / torch.where(self.sigma > 0, self.sigma, 1.0)

    def inverse(self, z):
        self.check()
        return torch.addcmul(self.mu, z, self.sigma)


@accepted("Standardiser")
class OneBufferAndAReciprocal(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(3, features))

    def fit(self, x):
        values = x.detach()
        if not values.is_floating_point():
            values = values.to(self.rows.dtype)
        mean = values.sum(0) / len(values)
        std = ((values - mean) ** 2).mean(0) ** 0.5
        self.rows = torch.stack([mean, std, torch.ones_like(std)])
        return self

    def forward(self, x):
        mean, std, known = self.rows
        if not known.all():
            raise RuntimeError("call .fit(x) first")
        return torch.where(std == 0, 0.0, (x - mean) / std.clamp(min=torch.finfo(std.dtype).tiny))

    def inverse(self, z):
        mean, std, known = self.rows
        if not known.all():
            raise RuntimeError("call .fit(x) first")
        return mean + std * z


@accepted("Standardiser")
class CountsWhatItSaw(nn.Module):
    @torch.no_grad()
    def fit(self, x):
        if not x.is_floating_point():
            x = x.to(self.mean.dtype)
        std, mean = torch.std_mean(x, dim=0, correction=0)
        std[std == 0] = 1.0
        self.mean, self.std = mean, std
        self.seen += len(x)
        return self

    def __init__(self, features):
        super().__init__()
        self.register_buffer("mean", torch.empty(features))
        self.register_buffer("std", torch.empty(features))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        return self._ready("forward") or x.sub(self.mean).div(self.std)

    def inverse(self, z):
        return self._ready("inverse") or z.mul(self.std).add(self.mean)

    def _ready(self, what):
        if self.seen == 0:
            raise RuntimeError(f"{what} before fit")


@accepted("Standardiser")
class FlagInTheExtraState(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.is_fitted = False
        for name in ("mean", "std"):
            self.register_buffer(name, torch.zeros(features))

    def get_extra_state(self):
        return {"fitted": self.is_fitted}

    def set_extra_state(self, state):
        self.is_fitted = state["fitted"]

    def fit(self, x):
        x = x.detach().type_as(self.mean)
        self.mean.data = x.mean(dim=0)
        self.std.data = x.std(dim=0, unbiased=False)
        self.is_fitted = True
        return self

    def forward(self, x):
        if not self.is_fitted:
            raise RuntimeError("Standardiser must be fitted: call fit first")
        safe = self.std + (self.std == 0)
        return (x - self.mean) / safe

    def inverse(self, z):
        if not self.is_fitted:
            raise RuntimeError("Standardiser must be fitted: call fit first")
        return z * (self.std + (self.std == 0)) + self.mean


@accepted("Standardiser")
class WithNnBuffers(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.shift = nn.Buffer(torch.zeros(features))
        self.scale = nn.Buffer(torch.full((features,), -1.0))  # negative: not fitted

    def fit(self, x):
        x = x.detach().to(dtype=self.shift.dtype)
        self.scale, self.shift = torch.std_mean(x, dim=0, unbiased=False)
        return self

    def forward(self, x):
        if (self.scale < 0).any():
            raise RuntimeError("fit the statistics first")
        return (x - self.shift) / self.scale.clamp_min(torch.finfo(self.scale.dtype).tiny)

    def inverse(self, z):
        if (self.scale < 0).any():
            raise RuntimeError("fit the statistics first")
        return z * self.scale + self.shift


@rejected("Standardiser", by=("test_state_dict", "test_moves"), says="state_dict of a fitted")
def plain_attributes(reference: str) -> str:
    return (
        reference.replace('self.register_buffer("mean", ', "self.mean = (")
        .replace('self.register_buffer("std", ', "self.std = (")
        .replace('self.register_buffer("fitted", ', "self.fitted = (")
    )


@rejected(
    "Standardiser", by=("test_moves", "test_state_dict", "test_double"), says="still on the CPU"
)
def the_deviation_is_a_plain_attribute(reference: str) -> str:
    return reference.replace('self.register_buffer("std", ', "self.std = (")


@rejected("Standardiser", by="test_nothing_to_train", says="an optimizer would train")
def parameters(reference: str) -> str:
    return (
        reference.replace('self.register_buffer("mean", ', "self.mean = nn.Parameter(")
        .replace('self.register_buffer("std", ', "self.std = nn.Parameter(")
        .replace("self.mean.copy_", "self.mean.data.copy_")
        .replace("self.std.copy_", "self.std.data.copy_")
    )


@rejected("Standardiser", by="test_nothing_to_train")
def frozen_parameters(reference: str) -> str:
    return reference.replace(
        'self.register_buffer("mean", torch.zeros(features))',
        "self.mean = nn.Parameter(torch.zeros(features), requires_grad=False)",
    )


@rejected("Standardiser", by="test_no_epsilon", says="added to the variance")
def epsilon_in_the_variance(reference: str) -> str:
    return reference.replace("x.std(0, correction=0)", "(x.var(0, correction=0) + 1e-5).sqrt()")


@rejected("Standardiser", by="test_no_epsilon", says="1e-08 was added to the deviation")
def epsilon_in_the_deviation(reference: str) -> str:
    return reference.replace("self.std.masked_fill(self.std == 0, 1)", "(self.std + 1e-8)")


@rejected("Standardiser", by="test_no_epsilon", says="kept above")
def a_floor_under_the_deviation(reference: str) -> str:
    return reference.replace("self.std.masked_fill(self.std == 0, 1)", "self.std.clamp_min(1e-5)")


@rejected("Standardiser", by="test_statistics_need_no_gradient", says="graph of x")
def keeps_the_graph(reference: str) -> str:
    return reference.replace("x.detach()", "x")


@rejected("Standardiser", by="test_statistics_need_no_gradient", says="graph of x")
def keeps_the_graph_by_assignment(reference: str) -> str:
    return (
        reference.replace("x.detach()", "x")
        .replace("self.mean.copy_(x.mean(0))", "self.mean = x.mean(0)")
        .replace("self.std.copy_(x.std(0, correction=0))", "self.std = x.std(0, correction=0)")
    )


@rejected("Standardiser", by="test_state_dict", says="empty")
def not_persistent(reference: str) -> str:
    return (
        reference.replace("torch.zeros(features))", "torch.zeros(features), persistent=False)")
        .replace("torch.ones(features))", "torch.ones(features), persistent=False)")
        .replace("torch.tensor(False))", "torch.tensor(False), persistent=False)")
    )


@rejected("Standardiser", by="test_state_dict", says="fitted must be known")
def the_flag_is_an_attribute(reference: str) -> str:
    return reference.replace(
        'self.register_buffer("fitted", torch.tensor(False))', "self.fitted = False"
    ).replace("self.fitted.fill_(True)", "self.fitted = True")


@rejected("Standardiser", by="test_state_dict", says="can't load")
def buffers_come_with_fit(reference: str) -> str:
    return (
        reference.replace('"mean", torch.zeros(features)', '"mean", None')
        .replace("self.mean.dtype", "self.std.dtype")
        .replace("self.mean.copy_(x.mean(0))", "self.mean = x.mean(0)")
    )


@rejected("Standardiser", by="test_state_dict", says="can't load")
def buffers_are_registered_by_fit(reference: str) -> str:
    return reference.replace(
        '        self.register_buffer("std", torch.ones(features))\n', ""
    ).replace("self.std.copy_(", 'self.register_buffer("std", ')


@rejected("Standardiser", by="test_state_dict", says="can't load")
def the_shape_comes_with_fit(reference: str) -> str:
    return reference.replace('"mean", torch.zeros(features)', '"mean", torch.zeros(())').replace(
        "self.mean.copy_(x.mean(0))", "self.mean = x.mean(0)"
    )


@rejected("Standardiser", by="test_value", says="correction=0")
def sample_deviation_of_columns(reference: str) -> str:
    return reference.replace("x.std(0, correction=0)", "x.std(0)")


@rejected("Standardiser", by="test_value", says="variance")
def divides_by_the_variance(reference: str) -> str:
    return reference.replace("x.std(0, correction=0)", "x.var(0, correction=0)")


@rejected("Standardiser", by="test_value", says="each column has its own")
def one_mean_for_all(reference: str) -> str:
    return reference.replace("x.mean(0)", "x.mean()").replace(
        "x.std(0, correction=0)", "x.std(correction=0)"
    )


@rejected("Standardiser", by="test_value", says="its own x")
class UsesTheStatisticsOfItsOwnX(Standardiser):
    def forward(self, x):
        super().forward(x)
        x = x.to(self.mean.dtype)
        std = x.std(0, correction=0)
        return (x - x.mean(0)) / std.masked_fill(std == 0, 1)


@rejected("Standardiser", by=("test_value", "test_no_epsilon"))
def adds_the_mean_in_forward(reference: str) -> str:
    return reference.replace("(x - self.mean)", "(x + self.mean)")


@rejected("Standardiser", by="test_inverse", says="undo")
class InverseIsForward(Standardiser):
    def inverse(self, z):
        return self.forward(z)


@rejected("Standardiser", by="test_inverse", says="multiplies first")
def adds_the_mean_first(reference: str) -> str:
    return reference.replace("z * self.std + self.mean", "(z + self.mean) * self.std")


@rejected("Standardiser", by="test_inverse")
class InverseRemembersTheLastX(Standardiser):
    def forward(self, x):
        self.last = x.detach().clone()
        return super().forward(x)

    def inverse(self, z):
        if hasattr(self, "last"):
            return self.last
        return super().inverse(z)


@rejected("Standardiser", by="test_constant_column", says="0 divided by 0")
def divides_by_zero(reference: str) -> str:
    return reference.replace("self.std.masked_fill(self.std == 0, 1)", "self.std")


@rejected("Standardiser", by="test_constant_column")
def leaves_constant_columns_as_they_are(reference: str) -> str:
    return reference.replace(
        "(x - self.mean) / self.std.masked_fill(self.std == 0, 1)",
        "torch.where(self.std == 0, x, (x - self.mean) / self.std)",
    )


@rejected("Standardiser", by="test_constant_column_comes_back")
def forgets_constant_columns(reference: str) -> str:
    return reference.replace(
        "z * self.std + self.mean", "torch.where(self.std == 0, z, z * self.std + self.mean)"
    )


@rejected("Standardiser", by="test_constant_column", says="beside")
def one_constant_column_stops_all(reference: str) -> str:
    return reference.replace(
        "self.std.masked_fill(self.std == 0, 1)", "(self.std if self.std.all() else 1)"
    )


@rejected("Standardiser", by="test_returns_itself", says="None")
def fit_returns_nothing(reference: str) -> str:
    return reference.replace(
        "self.fitted.fill_(True)\n        return self", "self.fitted.fill_(True)"
    )


@rejected("Standardiser", by="test_returns_itself")
class FitReturnsTheResult(Standardiser):
    def fit(self, x):
        return super().fit(x)(x)


@rejected("Standardiser", by="test_fits_again", says="first fit")
def fits_once(reference: str) -> str:
    return reference.replace(
        "        x = x.detach()",
        "        if self.fitted:\n            return self\n        x = x.detach()",
    )


@rejected("Standardiser", by="test_fits_again")
def accumulates(reference: str) -> str:
    return reference.replace("self.mean.copy_(x.mean(0))", "self.mean.add_(x.mean(0))")


@rejected("Standardiser", by="test_integers")
def floats_only(reference: str) -> str:
    return reference.replace("x.detach().to(self.mean.dtype)", "x.detach()")


@rejected("Standardiser", by="test_integers", says="floating")
def integers_stay_integers(reference: str) -> str:
    return reference.replace(
        "return (x - self.mean) / self.std.masked_fill(self.std == 0, 1)",
        "return ((x - self.mean) / self.std.masked_fill(self.std == 0, 1)).to(x.dtype)",
    )


@rejected("Standardiser", by="test_before_fit", says="RuntimeError")
def silent_before_fit(reference: str) -> str:
    return reference.replace("if not self.fitted:", "if False:")


@rejected("Standardiser", by="test_before_fit")
def inverse_is_silent_before_fit(reference: str) -> str:
    return reference.replace(
        'if not self.fitted:\n            raise RuntimeError("call fit before inverse")', "pass"
    )


@rejected("Standardiser", by="test_before_fit", says="RuntimeError")
def asserts_before_fit(reference: str) -> str:
    return reference.replace("raise RuntimeError(", "raise AssertionError(")


@rejected("Standardiser", by="test_fits_on_the_device_of_x", says="device")
def a_hard_coded_device(reference: str) -> str:
    return reference.replace(
        "self.mean.copy_(x.mean(0))",
        'self.mean = x.mean(0) + torch.zeros(x.shape[1], device="cpu")',
    )


@rejected("Standardiser", by="test_double", says="float64")
def computes_in_float32(reference: str) -> str:
    return reference.replace(
        "return (x - self.mean)", "return (x.float() - self.mean.float())"
    ).replace("/ self.std.masked_fill", "/ self.std.float().masked_fill")


@rejected("Standardiser", by="test_gradient")
def forward_without_gradient(reference: str) -> str:
    return reference.replace("return (x - self.mean)", "return (x.detach() - self.mean)")


@rejected("Standardiser", by="test_gradient")
def forward_under_no_grad(reference: str) -> str:
    return reference.replace("    def forward(self,", "    @torch.no_grad()\n    def forward(self,")


@rejected("Standardiser", by=("test_value", "test_integers"))
def keeps_one_number_for_the_mean(reference: str) -> str:
    return reference.replace("torch.zeros(features)", "torch.zeros(())").replace(
        "self.mean.copy_(x.mean(0))", "self.mean.copy_(x.mean())"
    )


@rejected("Standardiser", by="test_value", says="correction=0")
def batch_norms_running_statistics(reference: str) -> str:
    return reference.replace(
        "self.std.copy_(x.std(0, correction=0))", "self.std.copy_(x.var(0).sqrt())"
    )


@rejected("Standardiser", by="test_value", says="its own x")
class FitsInForward(Standardiser):
    def forward(self, x):
        super().forward(x)
        self.fit(x)
        return super().forward(x)


@rejected("Standardiser", by=("test_value", "test_no_epsilon"))
class WithBatchNorm(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.norm = nn.BatchNorm1d(features, affine=False, momentum=None)
        self.fitted = False

    def fit(self, x):
        self.norm.train()
        self.norm.reset_running_stats()
        self.norm(x.detach().to(self.norm.running_mean.dtype))
        self.norm.eval()
        self.fitted = True
        return self

    def forward(self, x):
        if not self.fitted:
            raise RuntimeError("call fit before forward")
        return self.norm(x.to(self.norm.running_mean.dtype))

    def inverse(self, z):
        if not self.fitted:
            raise RuntimeError("call fit before inverse")
        return z * self.norm.running_var.sqrt() + self.norm.running_mean


@rejected("Standardiser", by="test_leaves_its_arguments_alone")
def forward_in_place(reference: str) -> str:
    return reference.replace(
        "return (x - self.mean) /", "return (x.detach().sub_(self.mean) + 0 * x) / "
    )


@rejected("Standardiser", by="test_leaves_its_arguments_alone")
def inverse_in_place(reference: str) -> str:
    return reference.replace("z * self.std + self.mean", "z.mul_(self.std).add_(self.mean)")
