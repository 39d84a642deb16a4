"""Answers to day 6 that its suite must accept or reject."""

import warnings

import numpy as np
from numpy_bridge import *
from torch.nn.utils.rnn import pad_sequence

from grader.answers import accepted, rejected

# --- to_tensor


@accepted("to_tensor")
def torch_makes_the_copy(a, *, share=False):
    if share:
        if not a.flags.writeable:
            raise ValueError("read-only")
        return torch.as_tensor(a)
    native = np.array(a, dtype=a.dtype.newbyteorder("="), order="C")
    t = torch.tensor(native)
    return t.float() if t.dtype == torch.float64 else t


@accepted("to_tensor")
def clones_a_contiguous_array(a, *, share=False):
    if share:
        if any(s < 0 for s in a.strides) or not a.dtype.isnative or not a.flags.writeable:
            raise ValueError("this memory can't be a tensor's")
        return torch.from_numpy(a)
    a = a.copy().astype(a.dtype.newbyteorder("="), copy=False)
    if a.dtype == np.float64:
        a = a.astype(np.float32)
    return torch.from_numpy(a)


@accepted("to_tensor")
def into_an_empty_array(a, *, share=False):
    if share:
        if not a.flags.writeable:
            raise ValueError("read-only")
        return torch.asarray(a, copy=False)
    dtype = np.dtype(a.dtype.name)
    fresh = np.empty(a.shape, np.float32 if dtype == np.float64 else dtype)
    fresh[...] = a
    return torch.from_numpy(fresh)


@accepted("to_tensor")
def swaps_the_bytes_itself(a, *, share=False):
    if share:
        if not (a.flags.writeable and a.dtype.isnative):
            raise ValueError("read-only, or in foreign byte order")
        return torch.from_numpy(a)
    if not a.dtype.isnative:
        a = a.byteswap().view(a.dtype.newbyteorder("="))
    t = torch.from_numpy(a.copy())
    return t.to(torch.float32) if t.dtype is torch.float64 else t


@accepted("to_tensor")
def through_the_raw_bytes(a, *, share=False):
    if share:
        if not a.flags.writeable:
            raise ValueError("read-only")
        return torch.from_numpy(a)
    a = a.astype(a.dtype.newbyteorder("="))
    if a.size == 0:
        t = torch.from_numpy(a)
    else:
        kind = torch.from_numpy(np.zeros(1, a.dtype)).dtype
        t = torch.frombuffer(bytearray(a.tobytes()), dtype=kind).reshape(a.shape)
    return t.float() if t.dtype == torch.float64 else t


@rejected("to_tensor", by=("test_copies", "test_reversed", "test_no_warning"), says="lives in")
def always_shares(a, *, share=False):
    t = torch.from_numpy(a)
    return t if share or t.dtype != torch.float64 else t.float()


@rejected("to_tensor", by=("test_values", "test_reversed", "test_big_endian"), says="float64")
def from_numpy_alone(a, *, share=False):
    return torch.from_numpy(a)


@rejected("to_tensor", by="test_dtypes", says="float")
def floats_everything(a, *, share=False):
    if share:
        return to_tensor_by_numpy(a, share)
    return torch.from_numpy(a.astype(a.dtype.newbyteorder("="))).float()


@rejected("to_tensor", by="test_dtypes", says="float16")
def floats_every_float(a, *, share=False):
    t = to_tensor_by_numpy(a, share)
    return t.float() if t.is_floating_point() and not share else t


@rejected("to_tensor", by=("test_values", "test_layouts"), says="float64")
def keeps_float64(a, *, share=False):
    if share:
        return to_tensor_by_numpy(a, share)
    return torch.from_numpy(a.astype(a.dtype.newbyteorder("=")))


@rejected("to_tensor", by="test_wide_unsigned", says="uint16")
def as_older_torch_knew_it(a, *, share=False):
    if not share and a.dtype.kind == "u" and a.itemsize > 1:
        a = a.astype(np.int64)
    return to_tensor_by_numpy(a, share)


@rejected("to_tensor", by="test_wide_unsigned")
def signed_integers_only(a, *, share=False):
    t = to_tensor_by_numpy(a, share)
    return t.view(torch.int32) if t.dtype == torch.uint32 else t


@rejected("to_tensor", by="test_copies", says="float32")
def copies_only_float64(a, *, share=False):
    if share or a.size == 0:
        return to_tensor_by_numpy(a, share)
    if any(s < 0 for s in a.strides) or not (a.dtype.isnative and a.flags.writeable):
        a = a.astype(a.dtype.newbyteorder("="))
    t = torch.as_tensor(np.require(a, requirements="A"))
    return t.float() if t.dtype == torch.float64 else t


@rejected("to_tensor", by="test_copies", says="lives in")
def no_copy_if_the_dtype_fits(a, *, share=False):
    if share:
        return to_tensor_by_numpy(a, share)
    native = a.dtype.newbyteorder("=")
    dtype = np.float32 if native == np.float64 else native
    return torch.from_numpy(np.require(a, dtype, ["C", "A", "W"]))


@rejected("to_tensor", by="test_reversed")
def torch_copies_everything(a, *, share=False):
    if share:
        return to_tensor_by_numpy(a, share)
    t = torch.tensor(a.astype(a.dtype.newbyteorder("=")) if not a.dtype.isnative else a)
    return t.float() if t.dtype == torch.float64 else t


@rejected("to_tensor", by="test_reversed", says="order of the array that was reversed")
def takes_the_base_of_a_reversed_array(a, *, share=False):
    if not share and any(s < 0 for s in a.strides):
        a = a[tuple(slice(None, None, -1 if s < 0 else 1) for s in a.strides)]
    return to_tensor_by_numpy(a, share)


@rejected("to_tensor", by="test_big_endian", says="byte order")
def ignores_the_byte_order(a, *, share=False):
    if share:
        return to_tensor_by_numpy(a, share)
    t = torch.from_numpy(a.copy())
    return t.float() if t.dtype == torch.float64 else t


@rejected("to_tensor", by="test_big_endian", says="wrong order")
def calls_the_bytes_native(a, *, share=False):
    return to_tensor_by_numpy(a if share else a.copy().view(a.dtype.newbyteorder("=")), share)


@rejected("to_tensor", by="test_big_endian", says="float64")
def looks_for_native_float64_only(a, *, share=False):
    if share:
        return to_tensor_by_numpy(a, share)
    if a.dtype == np.float64:
        a = a.astype(np.float32)
    return torch.from_numpy(a.astype(a.dtype.newbyteorder("=")))


@rejected("to_tensor", by="test_big_endian", says="changed the array")
def swaps_the_callers_bytes(a, *, share=False):
    if not share and not a.dtype.isnative:
        a = a.byteswap(inplace=True).view(a.dtype.newbyteorder("="))
    return to_tensor_by_numpy(a, share)


@rejected("to_tensor", by="test_layouts", says="multiple")
def copies_only_reversed_arrays_itself(a, *, share=False):
    if share:
        return to_tensor_by_numpy(a, share)
    if any(s < 0 for s in a.strides) or not a.dtype.isnative:
        a = a.astype(a.dtype.newbyteorder("="))
    t = torch.tensor(a)
    return t.float() if t.dtype == torch.float64 else t


@rejected("to_tensor", by="test_layouts")
def reads_the_buffer_in_memory_order(a, *, share=False):
    if share or a.size == 0:
        return to_tensor_by_numpy(a, share)
    a = a.astype(a.dtype.newbyteorder("="))
    return to_tensor_by_numpy(np.frombuffer(a.tobytes("A"), a.dtype).reshape(a.shape), share)


@rejected("to_tensor", by="test_no_axes", says="shape")
def makes_an_axis_out_of_none(a, *, share=False):
    if share:
        return to_tensor_by_numpy(a, share)
    a = np.ascontiguousarray(a, dtype=a.dtype.newbyteorder("="))
    t = torch.tensor(a)
    return t.float() if t.dtype == torch.float64 else t


@rejected("to_tensor", by="test_no_axes")
def copies_by_adding_zero(a, *, share=False):
    if share or a.dtype.kind in "bc":
        return to_tensor_by_numpy(a, share)
    return to_tensor_by_numpy(torch.from_numpy(a.astype(a.dtype.newbyteorder("=")) + 0).numpy())


@rejected("to_tensor", by="test_no_warning", says="not writable")
def warns_of_a_copy(a, *, share=False):
    if share or any(s < 0 for s in a.strides):
        return to_tensor_by_numpy(a, share)
    native = a.astype(a.dtype.newbyteorder("="), copy=False)
    t = torch.from_numpy(np.asarray(np.require(native, requirements="A"))).clone()
    return t.float() if t.dtype == torch.float64 else t


@rejected("to_tensor", by="test_read_only", says="changed the read-only array")
def silences_the_warning(a, *, share=False):
    if share or a.flags.writeable or not a.dtype.isnative or a.size == 0 or 0 in a.strides:
        return to_tensor_by_numpy(a, share)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        t = torch.from_numpy(a)
    return t.float() if t.dtype == torch.float64 else t


@rejected("to_tensor", by="test_read_only", says="afterwards")
def unlocks_the_array(a, *, share=False):
    if not share and not a.flags.writeable and a.base is None:
        a.setflags(write=True)
    return to_tensor_by_numpy(a, share)


@rejected("to_tensor", by="test_shares", says="copy")
def makes_it_contiguous_before_sharing(a, *, share=False):
    if share and a.ndim and a.flags.writeable and a.dtype.isnative:
        if any(s < 0 for s in a.strides):
            raise ValueError("reversed")
        return torch.from_numpy(np.ascontiguousarray(a))
    return to_tensor_by_numpy(a, share)


@rejected("to_tensor", by=("test_shares", "test_share_keeps_float64"), says="copy")
def never_shares(a, *, share=False):
    if share:
        to_tensor_by_numpy(a, share)
    native = a.dtype.newbyteorder("=")
    return torch.from_numpy(a.astype(np.float32 if native == np.float64 and not share else native))


@rejected("to_tensor", by="test_share_keeps_float64", says="other memory")
def narrows_what_it_shares(a, *, share=False):
    t = to_tensor_by_numpy(a, share)
    return t.float() if t.dtype == torch.float64 else t


@rejected("to_tensor", by="test_share_refuses_layouts", says="nothing was raised")
def copies_what_it_cannot_share(a, *, share=False):
    try:
        return to_tensor_by_numpy(a, share)
    except ValueError:
        if not a.flags.writeable:
            raise
        return to_tensor_by_numpy(a, False)


@rejected("to_tensor", by="test_share_refuses_layouts", says="ValueError")
def raises_another_error(a, *, share=False):
    if share and any(s < 0 for s in a.strides):
        raise TypeError("negative strides")
    return to_tensor_by_numpy(a, share)


@rejected("to_tensor", by="test_share_refuses_read_only", says="nothing was raised")
def shares_read_only_memory(a, *, share=False):
    return torch.from_numpy(a) if share else to_tensor_by_numpy(a, share)


@rejected("to_tensor", by="test_share_refuses_read_only")
def asserts_that_it_is_writeable(a, *, share=False):
    assert a.flags.writeable or not share
    return to_tensor_by_numpy(a, share)


def to_tensor_by_numpy(a, share=False):
    if share and not a.flags.writeable:
        raise ValueError("read-only")
    if share:
        return torch.from_numpy(a)
    native = a.dtype.newbyteorder("=")
    return torch.from_numpy(a.astype(np.float32 if native == np.float64 else native))


# --- to_numpy


@accepted("to_numpy")
def one_obstacle_after_the_other(t):
    if t.is_meta:
        raise ValueError("no values")
    t = t.detach().cpu()
    if t.is_sparse:
        t = t.to_dense()
    t = t.resolve_conj().resolve_neg()
    if t.dtype == torch.bfloat16:
        t = t.float()
    return t.numpy().copy()


@accepted("to_numpy")
def clones_first(t):
    if t.device == torch.device("meta"):
        raise ValueError("no values")
    with torch.no_grad():
        t = t.detach().to_dense().clone()
        if t.dtype is torch.bfloat16:
            t = t.to(torch.float32)
        return t.numpy(force=True)


@accepted("to_numpy")
def with_np_array(t):
    if t.is_meta:
        raise ValueError("no values")
    t = t.detach().cpu().to_dense().resolve_conj().resolve_neg()
    return np.array(t.float() if t.dtype == torch.bfloat16 else t)


@accepted("to_numpy")
def into_a_fresh_array(t):
    if t.is_meta:
        raise ValueError("no values")
    t = t.to_dense().float() if t.dtype == torch.bfloat16 else t.to_dense()
    shared = t.numpy(force=True)
    fresh = np.empty_like(shared)
    np.copyto(fresh, shared)
    return fresh


@accepted("to_numpy")
def with_the_layout_asked(t):
    if t.device.type == "meta":
        raise ValueError("no values")
    if t.layout is not torch.strided:
        t = t.to_dense()
    if t.dtype == torch.bfloat16:
        return t.to(dtype=torch.float32).numpy(force=True)
    return np.array(t.numpy(force=True), copy=True)


@rejected("to_numpy", by="test_copies", says="lives in")
def shares(t):
    if t.is_meta:
        raise ValueError
    t = t.to_dense()
    return (t.float() if t.dtype == torch.bfloat16 else t).numpy(force=True)


@rejected("to_numpy", by=("test_copies", "test_bfloat16", "test_sparse"), says="lives in")
def detaches_and_shares(t):
    return t.detach().numpy()


@rejected("to_numpy", by=("test_copies", "test_lazy_views"), says="lives in")
def through_data(t):
    if t.is_meta:
        raise ValueError
    t = t.data.to_dense()
    return (t.float() if t.dtype == torch.bfloat16 else t).numpy()


@rejected("to_numpy", by="test_copies", says="requires grad")
def copies_only_what_needs_no_grad(t):
    if t.is_meta:
        raise ValueError
    if t.requires_grad and not t.is_sparse and t.dtype != torch.bfloat16:
        return t.detach().numpy()
    return to_numpy_by_force(t)


@rejected("to_numpy", by="test_bfloat16", says="BFloat16")
def forgets_bfloat16(t):
    if t.is_meta:
        raise ValueError
    return t.to_dense().numpy(force=True).copy()


@rejected("to_numpy", by="test_bfloat16", says="float16")
def halves_bfloat16(t):
    return (
        to_numpy_by_force(t).astype(np.float16)
        if t.dtype == torch.bfloat16
        else (to_numpy_by_force(t))
    )


@rejected("to_numpy", by=("test_values", "test_dtypes"), says="float64")
def through_a_list(t):
    if t.is_meta:
        raise ValueError
    return np.array(t.to_dense().tolist())


@rejected("to_numpy", by="test_values", says="scalar")
def copies_by_adding(t):
    a = to_numpy_by_force(t)
    return a if a.dtype == bool else a + np.zeros((), a.dtype)


@rejected("to_numpy", by="test_values", says="Tensor")
def stays_a_tensor(t):
    if t.is_meta:
        raise ValueError
    return t.detach().clone()


@rejected("to_numpy", by="test_dtypes", says="float32")
def floats_all(t):
    if t.is_meta:
        raise ValueError
    t = t if t.is_complex() else t.float()
    return t.to_dense().numpy(force=True).copy()


@rejected("to_numpy", by="test_dtypes")
def float16_is_widened_too(t):
    a = to_numpy_by_force(t)
    return a.astype(np.float32) if a.dtype == np.float16 else a


@rejected("to_numpy", by="test_requires_grad", says="requires grad")
def forgets_to_detach(t):
    if t.is_meta:
        raise ValueError
    t = t.to_dense().resolve_conj().resolve_neg()
    return (t.float() if t.dtype == torch.bfloat16 else t).numpy().copy()


@rejected("to_numpy", by="test_requires_grad")
def goes_to_the_leaf(t):
    while t.grad_fn is not None and t.grad_fn.next_functions:
        t = getattr(t.grad_fn.next_functions[0][0], "variable", t.detach())
    return to_numpy_by_force(t)


@rejected("to_numpy", by="test_graph", says="detach_")
def detaches_in_place(t):
    if not t.is_meta and t.grad_fn is not None:
        t.detach_()
    return to_numpy_by_force(t)


@rejected("to_numpy", by="test_graph", says="leaf")
def switches_the_gradient_off(t):
    if not t.is_meta and t.is_leaf:
        t.requires_grad_(False)
    return to_numpy_by_force(t)


@rejected("to_numpy", by="test_lazy_views", says="bit set")
def forgets_lazy_views(t):
    if t.is_meta:
        raise ValueError
    t = t.detach().cpu().to_dense()
    return (t.float() if t.dtype == torch.bfloat16 else t).numpy().copy()


@rejected("to_numpy", by="test_lazy_views")
def drops_the_conjugation(t):
    if t.is_meta:
        raise ValueError
    return to_numpy_by_force(t.conj() if t.is_conj() else t)


@rejected("to_numpy", by="test_sparse")
def forgets_sparse(t):
    if t.is_meta:
        raise ValueError
    return (t.float() if t.dtype == torch.bfloat16 else t).numpy(force=True).copy()


@rejected("to_numpy", by="test_sparse", says="shape")
def takes_the_stored_values(t):
    return to_numpy_by_force(t.coalesce().values() if t.is_sparse else t)


@rejected("to_numpy", by="test_meta", says="NotImplementedError")
def leaves_meta_to_torch(t):
    t = t.detach().to_dense()
    return (t.float() if t.dtype == torch.bfloat16 else t).numpy(force=True).copy()


@rejected("to_numpy", by="test_meta", says="no values")
def makes_values_up(t):
    if t.is_meta:
        return np.zeros(t.shape, np.float32)
    return to_numpy_by_force(t)


def to_numpy_by_force(t):
    if t.device.type == "meta":
        raise ValueError("no values")
    t = t.detach().to_dense()
    return (t.float() if t.dtype == torch.bfloat16 else t).numpy(force=True).copy()


# --- np_like


@accepted("np_like")
def axis_by_axis(t, name, axis=None, keepdims=False):
    x = t.double()
    if name == "round2":
        return torch.round(x * 100) / 100 if t.dtype != torch.float64 else x.round(decimals=2)
    if name == "sign":
        return (x > 0).double() - (x < 0).double() + x * 0
    if name == "mod3":
        return x - 3 * torch.floor(x / 3)
    if name == "argmax":
        return x.argmax(dim=axis, keepdim=keepdims)
    dims = tuple(range(t.ndim)) if axis is None else (axis,) if isinstance(axis, int) else axis
    if name == "any":
        return torch.any(t != 0, dim=dims, keepdim=keepdims)
    if name == "all":
        return torch.all(t != 0, dim=dims, keepdim=keepdims)
    if name in ("std", "var"):
        mean = x.mean(dims, keepdim=True)
        var = ((x - mean) ** 2).mean(dims, keepdim=keepdims)
        return var.sqrt() if name == "std" else var
    q = 0.5 if name == "median" else 0.75
    dims = sorted(d % t.ndim for d in dims)
    for d in reversed(dims):
        x = x.movedim(d, -1)
    x = x.flatten(-len(dims)).quantile(q, dim=-1)
    for d in dims if keepdims else ():
        x = x.unsqueeze(d)
    return x


@accepted("np_like")
def by_sorting(t, name, axis=None, keepdims=False):
    if name == "round2":
        return t if t.dtype == torch.int64 else torch.round(t, decimals=2)
    if name == "sign":
        return torch.sign(t).where(~torch.isnan(t), t)
    if name == "mod3":
        return t % 3
    if axis is None:
        dims = list(range(t.dim()))
    else:
        dims = [d % t.dim() for d in ((axis,) if isinstance(axis, int) else axis)]
    rest = [d for d in range(t.dim()) if d not in dims]
    rows = t.permute(*rest, *dims).reshape(*[t.size(d) for d in rest], -1)
    if name == "argmax":
        out = rows.argmax(-1)
    elif name in ("any", "all"):
        out = getattr(rows.bool(), name)(dim=-1)
    else:
        rows = rows.to(torch.float64)
        if name in ("std", "var"):
            out = getattr(torch, name)(rows, dim=-1, unbiased=False)
        else:
            n = rows.size(-1)
            place = (n - 1) * (0.5 if name == "median" else 0.75)
            low, high = int(place), min(int(place) + 1, n - 1)
            ordered = rows.sort(-1).values
            out = torch.lerp(ordered[..., low], ordered[..., high], place - low)
            out = out.masked_fill(rows.isnan().any(-1), float("nan"))
    if keepdims:
        for d in sorted(dims):
            out = out.unsqueeze(d)
    return out


@accepted("np_like")
def with_torchs_own_axes(t, name, axis=None, keepdims=False):
    x = t if t.dtype.is_floating_point else t.to(torch.float64)
    match name:
        case "round2":
            return x.round(decimals=2)
        case "sign":
            return torch.sign(x) + torch.where(x.isnan(), x, torch.zeros_like(x))
        case "mod3":
            return torch.remainder(x, 3)
        case "std" | "var":
            return getattr(x, name)(dim=axis, correction=0, keepdim=keepdims)
        case "any" | "all":
            return getattr(x, name)(dim=axis, keepdim=keepdims)
        case "argmax":
            return torch.argmax(x, axis, keepdims)
    q = {"median": 0.5, "percentile75": 0.75}[name]
    if axis is None or isinstance(axis, int):
        return torch.quantile(x, q, dim=axis, keepdim=keepdims)
    axes = sorted(a % x.ndim for a in axis)
    moved = torch.movedim(x, axes, list(range(len(axes)))).flatten(0, len(axes) - 1)
    result = moved.quantile(q, dim=0)
    if keepdims:
        for a in axes:
            result = result.unsqueeze(a)
    return result


@rejected("np_like", by="test_std_and_var", says="n - 1")
def with_torchs_std(reference: str) -> str:
    return reference.replace(", correction=0", "")


@rejected("np_like", by="test_std_and_var", says="variance")
def without_the_root(reference: str) -> str:
    return reference.replace("rows.std(", "rows.var(")


@rejected("np_like", by="test_median", says="lower of the two")
def with_torchs_median(reference: str) -> str:
    return reference.replace("rows.quantile(0.5, -1)", "rows.median(-1).values")


@rejected("np_like", by="test_median", says="upper of the two")
def takes_the_upper_median(reference: str) -> str:
    return reference.replace(
        "rows.quantile(0.5, -1)", 'rows.quantile(0.5, -1, interpolation="higher")'
    )


@rejected("np_like", by="test_percentile", says="lower")
def takes_the_lower_percentile(reference: str) -> str:
    return reference.replace(
        "rows.quantile(0.75, -1)", 'rows.quantile(0.75, -1, interpolation="lower")'
    )


@rejected("np_like", by="test_percentile")
def takes_the_nearest_percentile(reference: str) -> str:
    return reference.replace(
        "rows.quantile(0.75, -1)", 'rows.quantile(0.75, -1, interpolation="nearest")'
    )


@rejected("np_like", by="test_percentile")
def picks_by_kthvalue(reference: str) -> str:
    return reference.replace(
        "rows.quantile(0.75, -1)", "rows.kthvalue(max(1, int(0.75 * rows.shape[-1])), -1).values"
    )


@rejected("np_like", by="test_any_and_all")
def any_above_zero(reference: str) -> str:
    return reference.replace("rows.any(-1)", "(rows > 0).any(-1)")


@rejected("np_like", by="test_any_and_all")
def any_of_whole_numbers(reference: str) -> str:
    return reference.replace("rows.all(-1)", "rows.long().all(-1)")


@rejected("np_like", by="test_any_and_all", says="bool")
def counts_instead_of_any(reference: str) -> str:
    return reference.replace("rows.any(-1)", "(rows != 0).double().amax(-1)")


@rejected("np_like", by=("test_argmax", "test_keepdims"))
def argmax_of_the_last_axis(reference: str) -> str:
    return reference.replace(
        "axes = range(t.ndim)",
        'axis = -1 if name == "argmax" and axis is None else axis\n    axes = range(t.ndim)',
    )


@rejected("np_like", by="test_argmax")
def takes_the_last_maximum(reference: str) -> str:
    return reference.replace("rows.argmax(-1)", "rows.shape[-1] - 1 - rows.flip(-1).argmax(-1)")


@rejected("np_like", by="test_argmax", says="int64")
def gives_the_maximum_itself(reference: str) -> str:
    return reference.replace("rows.argmax(-1)", "rows.amax(-1)")


@rejected("np_like", by="test_argmax")
def argmax_by_sorting(reference: str) -> str:
    return reference.replace("rows.argmax(-1)", "rows.sort(dim=-1, stable=True).indices[..., -1]")


@rejected("np_like", by="test_round", says="up")
def rounds_halves_up(reference: str) -> str:
    return reference.replace("x.round(decimals=2)", "(x * 100 + 0.5).floor() / 100")


@rejected("np_like", by="test_round", says="cut off")
def truncates(reference: str) -> str:
    return reference.replace("x.round(decimals=2)", "(x * 100).trunc() / 100")


@rejected("np_like", by="test_round", says="away from 0")
def rounds_halves_away(reference: str) -> str:
    return reference.replace(
        "x.round(decimals=2)", "x.sign() * (x.abs() * 100 + 0.5).floor() / 100"
    )


@rejected("np_like", by="test_round", says="whole")
def rounds_to_whole_numbers(reference: str) -> str:
    return reference.replace("x.round(decimals=2)", "x.round()")


@rejected("np_like", by="test_sign", says="0")
def with_torchs_sign(reference: str) -> str:
    return reference.replace("torch.where(x.isnan(), x, x.sign())", "x.sign()")


@rejected("np_like", by="test_sign")
def divides_by_the_absolute_value(reference: str) -> str:
    return reference.replace("torch.where(x.isnan(), x, x.sign())", "x / x.abs()")


@rejected("np_like", by="test_mod", says="fmod")
def with_fmod(reference: str) -> str:
    return reference.replace("x.remainder(3)", "x.fmod(3)")


@rejected("np_like", by="test_mod")
def mod_of_the_absolute_value(reference: str) -> str:
    return reference.replace("x.remainder(3)", "x.abs().remainder(3)")


@rejected("np_like", by="test_integers", says="not implemented")
def forgets_integers(reference: str) -> str:
    return reference.replace("t if t.is_floating_point() else t.double()", "t")


@rejected("np_like", by="test_integers", says="float32")
def integers_as_float32(reference: str) -> str:
    return reference.replace("else t.double()", "else t.float()")


@rejected("np_like", by="test_integers")
def rounds_the_reduction_of_integers(reference: str) -> str:
    return reference.replace(
        "result = reductions[name]()",
        "result = reductions[name]()\n    if not t.is_floating_point() and name not in"
        ' ("any", "all"):\n        result = result.long()',
    )


@rejected("np_like", by="test_tuple_of_axes")
def one_axis_only(reference: str) -> str:
    return reference.replace(
        "(axis,) if isinstance(axis, int) else axis",
        "(axis,) if isinstance(axis, int) else axis[:1]",
    )


@rejected("np_like", by="test_tuple_of_axes")
def one_axis_after_the_other(reference: str) -> str:
    return reference.replace(
        "    x = t if t.is_floating_point()",
        "    if isinstance(axis, tuple):\n"
        "        for i in sorted((i % t.ndim for i in axis), reverse=True):\n"
        "            t = np_like(t, name, i, keepdims)\n"
        "        return t\n"
        "    x = t if t.is_floating_point()",
    )


@rejected("np_like", by="test_tuple_of_axes")
def forgets_negative_axes(reference: str) -> str:
    return reference.replace("[i % t.ndim for i in axes]", "list(axes)")


@rejected("np_like", by="test_keepdims", says="keepdims")
def ignores_keepdims(reference: str) -> str:
    return reference.replace("if keepdims else result", "if False else result")


@rejected("np_like", by="test_keepdims", says="keepdims")
def keeps_dims_only_with_an_axis(reference: str) -> str:
    return reference.replace("if keepdims else", "if keepdims and axis is not None else")


@rejected("np_like", by="test_nan", says="left out")
def skips_nan(reference: str) -> str:
    return reference.replace("rows.quantile(0.5, -1)", "rows.nanquantile(0.5, -1)")


@rejected("np_like", by="test_nan", says="taken for 0")
def replaces_nan(reference: str) -> str:
    return reference.replace(
        "else t.double()", "else t.double()\n    x = x if name == 'sign' else x.nan_to_num()"
    )


@rejected("np_like", by="test_nan", says="changed t")
def replaces_nan_in_place(reference: str) -> str:
    return reference.replace(
        'if name == "round2":', 'if name == "round2":\n        x[x.isnan()] = 0'
    )


@rejected("np_like", by="test_nan")
def nan_is_false(reference: str) -> str:
    return reference.replace("rows.all(-1)", "(rows.abs() > 0).all(-1)")


@rejected("np_like", by="test_nan")
def percentile_of_sorted_nan(reference: str) -> str:
    return reference.replace(
        "rows.quantile(0.75, -1)",
        "torch.lerp(*(rows.sort(-1).values[..., min(int(0.75 * (rows.shape[-1] - 1)) + i, "
        "rows.shape[-1] - 1)] for i in (0, 1)), 0.75 * (rows.shape[-1] - 1) % 1)",
    )


@rejected("np_like", by="test_forbidden", says="numpy")
def asks_numpy(t, name, axis=None, keepdims=False):
    functions = {"round2": lambda x: np.round(x, 2), "mod3": lambda x: np.mod(x, 3)}
    x = t.numpy()
    if name in functions:
        return torch.from_numpy(functions[name](x))
    if name == "sign":
        return torch.from_numpy(np.sign(x))
    if name == "percentile75":
        return torch.from_numpy(np.asarray(np.percentile(x, 75, axis=axis, keepdims=keepdims)))
    return torch.from_numpy(np.asarray(getattr(np, name)(x, axis=axis, keepdims=keepdims)))


@rejected("np_like", by="test_forbidden", says="array")
def asks_numpy_through_a_list(reference: str) -> str:
    return reference.replace(
        "rows.quantile(0.5, -1)",
        "torch.from_numpy(np.asarray(np.median(np.array(rows.tolist()), axis=-1)))",
    )


@accepted("np_like")
def integers_end_in_float32(reference: str) -> str:
    return reference.replace(
        "result = reductions[name]()",
        "result = reductions[name]()\n"
        '    if name in ("std", "var"):\n        result = result.float() if x is not t else result',
    )


# --- alias_groups


def merged(objs, belong):
    groups = []
    for name in objs:
        own = {name}
        for group in [g for g in groups if any(belong(objs[name], objs[other]) for other in g)]:
            groups.remove(group)
            own |= group
        groups.append(own)
    return groups


def as_array(obj):
    if not isinstance(obj, Tensor):
        return obj
    t = obj.detach()
    return (t.view(torch.int16) if t.dtype == torch.bfloat16 else t).numpy()


@accepted("alias_groups")
def asks_numpy_about_pairs(objs):
    return merged(objs, lambda a, b: np.shares_memory(as_array(a), as_array(b)))


@accepted("alias_groups")
def paints_until_nothing_changes(objs):
    arrays = {name: as_array(obj) for name, obj in objs.items()}
    colour = {name: i for i, name in enumerate(arrays)}
    changed = True
    while changed:
        changed = False
        for a in arrays:
            for b in arrays:
                if colour[a] != colour[b] and np.shares_memory(arrays[a], arrays[b]):
                    colour[a] = colour[b] = min(colour[a], colour[b])
                    changed = True
    return [{n for n in arrays if colour[n] == c} for c in set(colour.values())]


@accepted("alias_groups")
def union_find_over_addresses(objs):
    parent = {name: name for name in objs}

    def find(name):
        while parent[name] != name:
            name = parent[name]
        return name

    first_at = {}
    for name, obj in objs.items():
        if isinstance(obj, Tensor):
            size = obj.element_size()
            index = torch.zeros(obj.shape, dtype=torch.int64)
            for axis, (n, stride) in enumerate(zip(obj.shape, obj.stride())):
                index += (torch.arange(n) * stride * size).view([-1] + [1] * (obj.ndim - axis - 1))
            addresses = (index + obj.data_ptr()).flatten().tolist()
        else:
            size = obj.itemsize
            start = obj.__array_interface__["data"][0]
            addresses = [
                start + sum(i * s for i, s in zip(place, obj.strides))
                for place in np.ndindex(obj.shape)
            ]
        for address in addresses:
            for byte in range(address, address + size):
                if byte in first_at:
                    parent[find(name)] = find(first_at[byte])
                else:
                    first_at[byte] = name
    roots = {}
    for name in objs:
        roots.setdefault(find(name), set()).add(name)
    return list(roots.values())


@accepted("alias_groups")
def depth_first(objs):
    names = list(objs)
    near = {
        a: {b for b in names if b != a and np.shares_memory(as_array(objs[a]), as_array(objs[b]))}
        for a in names
    }
    groups, left = [], set(names)
    while left:
        todo, group = [left.pop()], set()
        while todo:
            name = todo.pop()
            group.add(name)
            todo += near[name] - group
        left -= group
        groups.append(frozenset(group))
    return groups


@rejected("alias_groups", by=("test_disjoint_parts", "test_interleaved"), says="storage")
def compares_storages(objs):
    def owner(obj):
        if isinstance(obj, Tensor):
            return obj.untyped_storage().data_ptr()
        while isinstance(obj.base, np.ndarray):
            obj = obj.base
        return obj.ctypes.data

    return merged(objs, lambda a, b: owner(a) == owner(b))


@rejected("alias_groups", by=("test_overlap", "test_across_the_border"), says="same address")
def compares_first_addresses(objs):
    def start(obj):
        return obj.data_ptr() if isinstance(obj, Tensor) else obj.ctypes.data

    def size(obj):
        return obj.numel() if isinstance(obj, Tensor) else obj.size

    return merged(objs, lambda a, b: start(a) == start(b) and size(a) and size(b))


@rejected("alias_groups", by=("test_interleaved", "test_random_scenarios"), says="lie between")
def compares_intervals(objs):
    return merged(objs, lambda a, b: np.may_share_memory(as_array(a), as_array(b)))


@rejected("alias_groups", by="test_leaves_the_data_alone")
def writes_to_find_out(objs):
    arrays = {name: as_array(obj) for name, obj in objs.items()}

    def belong(a, b):
        a, b = as_array(a), as_array(b)
        if a.size == 0 or b.size == 0:
            return False
        before, kept = b.copy(), a.copy()
        a[...] = ~a if a.dtype.kind in "iu" else a + 1
        seen = (b != before).any()
        a[...] = kept
        return seen

    return merged(arrays, belong)


@rejected("alias_groups", by="test_leaves_the_data_alone", says="written")
def writes_through_tensors(objs):
    for obj in objs.values():
        if isinstance(obj, Tensor) and obj.numel() and not obj.requires_grad:
            obj.flatten()[:1].add_(0)
    return merged(objs, lambda a, b: np.shares_memory(as_array(a), as_array(b)))


@rejected("alias_groups", by="test_leaves_the_data_alone", says="changed")
def leaves_marks_in_tensors(objs):
    for i, obj in enumerate(objs.values()):
        if isinstance(obj, Tensor) and obj.numel():
            obj.detach().fill_(i)
    return merged(objs, lambda a, b: np.shares_memory(as_array(a), as_array(b)))


@rejected("alias_groups", by="test_chain", says="exactly one")
def one_set_for_each_name(objs):
    groups = []
    for a in objs:
        group = {
            b for b in objs if a == b or np.shares_memory(as_array(objs[a]), as_array(objs[b]))
        }
        if group not in groups:
            groups.append(group)
    return groups


@rejected("alias_groups", by="test_chain", says="chain")
def joins_the_first_group_only(objs):
    groups = []
    for name, obj in objs.items():
        for group in groups:
            if any(np.shares_memory(as_array(obj), as_array(objs[other])) for other in group):
                group.add(name)
                break
        else:
            groups.append({name})
    return groups


@rejected("alias_groups", by="test_chain")
def compares_with_the_first_of_a_group(objs):
    groups = []
    for name, obj in objs.items():
        for group in groups:
            if np.shares_memory(as_array(obj), as_array(objs[group[0]])):
                group.append(name)
                break
        else:
            groups.append([name])
    return [set(group) for group in groups]


@rejected("alias_groups", by="test_other_dtypes", says="middle of")
def compares_elements(reference: str) -> str:
    return reference.replace("np.arange(start, start + width)", "np.array([start])")


@rejected("alias_groups", by="test_overlap")
def strides_in_elements(reference: str) -> str:
    return reference.replace("[step * width for step in obj.stride()]", "list(obj.stride())")


@rejected("alias_groups", by="test_no_elements")
def empty_ones_share_their_pointer(objs):
    def empty(obj):
        return as_array(obj).size == 0

    return merged(
        objs,
        lambda a, b: np.shares_memory(as_array(a), as_array(b)) or (empty(a) and empty(b)),
    )


@rejected("alias_groups", by="test_no_elements", says="'")
def leaves_empty_ones_out(objs):
    objs = {name: obj for name, obj in objs.items() if as_array(obj).size}
    return merged(objs, lambda a, b: np.shares_memory(as_array(a), as_array(b)))


@rejected("alias_groups", by="test_no_elements")
def fails_for_empty_ones(objs):
    def bounds(obj):
        return range(as_array(obj).ctypes.data, max(np.ndindex(as_array(obj).shape))[-1])

    for obj in objs.values():
        bounds(obj)
    return merged(objs, lambda a, b: np.shares_memory(as_array(a), as_array(b)))


@rejected("alias_groups", by="test_every_kind", says="negative")
def makes_everything_a_tensor(objs):
    tensors = {
        name: obj if isinstance(obj, Tensor) else torch.from_numpy(obj)
        for name, obj in objs.items()
    }
    return merged(tensors, lambda a, b: np.shares_memory(as_array(a), as_array(b)))


@rejected("alias_groups", by="test_every_kind", says="requires grad")
def makes_everything_an_array(objs):
    arrays = {n: obj.numpy() if isinstance(obj, Tensor) else obj for n, obj in objs.items()}
    return merged(arrays, np.shares_memory)


@rejected("alias_groups", by="test_apart_and_together", says="exactly one")
def leaves_single_ones_out(objs):
    groups = merged(objs, lambda a, b: np.shares_memory(as_array(a), as_array(b)))
    return [group for group in groups if len(group) > 1]


@rejected("alias_groups", by="test_apart_and_together", says="list of sets")
def gives_lists(objs):
    groups = merged(objs, lambda a, b: np.shares_memory(as_array(a), as_array(b)))
    return [sorted(group) for group in groups]


@rejected("alias_groups", by="test_apart_and_together")
def compares_identity(objs):
    return merged(objs, lambda a, b: a is b)


@rejected("alias_groups", by="test_across_the_border")
def each_library_by_itself(objs):
    return merged(
        objs, lambda a, b: type(a) is type(b) and np.shares_memory(as_array(a), as_array(b))
    )


# --- ragged_collate


@accepted("ragged_collate")
def into_a_tensor(rows):
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
    if len(rows) == 0:
        return torch.zeros((0, 0, 0)), lengths
    out = torch.zeros(len(rows), int(lengths.max()), rows[0].shape[1])
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.from_numpy(row.copy())
    return out, lengths


@accepted("ragged_collate")
def into_an_array_that_views_the_tensor(rows):
    lengths = np.array([row.shape[0] for row in rows], dtype=np.int64)
    batch, steps = len(rows), int(lengths.max(initial=0))
    feat = rows[0].shape[1] if rows else 0
    out = torch.zeros(batch, steps, feat)
    array = out.numpy()
    for i, row in enumerate(rows):
        np.copyto(array[i, : row.shape[0]], row, casting="unsafe")
    return out, torch.from_numpy(lengths)


@accepted("ragged_collate")
def fills_what_is_behind(rows):
    if not rows:
        return torch.empty(0, 0, 0), torch.empty(0, dtype=torch.int64)
    lengths = [row.shape[0] for row in rows]
    out = np.empty((len(rows), max(lengths), rows[0].shape[1]), dtype="float32")
    for i, (row, length) in enumerate(zip(rows, lengths)):
        out[i, :length] = row
        out[i, length:] = 0
    return torch.from_numpy(out), torch.tensor(lengths, dtype=torch.int64)


@accepted("ragged_collate")
def copies_one_row_at_a_time_with_torch(rows):
    if not rows:
        return torch.zeros(0, 0, 0), torch.zeros(0).long()
    sizes = [len(row) for row in rows]
    out = torch.empty(len(rows), max(sizes), rows[0].shape[1]).zero_()
    for target, row in zip(out, rows):
        target[: len(row)].copy_(torch.tensor(np.ascontiguousarray(row)))
    return out, torch.as_tensor(sizes)


@accepted("ragged_collate")
def tensors_of_all_rows_first(rows):
    if not rows:
        return torch.zeros(0, 0, 0), torch.zeros(0, dtype=torch.int64)

    def lent(row):
        fits = row.flags.writeable and min(row.strides) > 0
        return torch.from_numpy(row if fits else row.copy())

    tensors = [lent(row) for row in rows]
    lengths = torch.tensor([t.shape[0] for t in tensors])
    out = tensors[0].new_zeros(
        (len(rows), max(t.shape[0] for t in tensors), tensors[0].shape[1]), dtype=torch.float32
    )
    for i, t in enumerate(tensors):
        out[i].narrow(0, 0, t.shape[0]).copy_(t)
    return out, lengths


@accepted("ragged_collate")
def views_of_the_result_at_the_end(rows):
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    if not rows:
        return torch.zeros(0, 0, 0), torch.from_numpy(lengths)
    longest, feat = lengths.max(), rows[0].shape[-1]
    flat = np.zeros((len(rows) * longest, feat), dtype=np.float32)
    for i, row in enumerate(rows):
        flat[i * longest : i * longest + len(row)] = row
    padded = torch.from_numpy(flat).view(len(rows), longest, feat).contiguous().float().detach()
    return padded, torch.from_numpy(lengths)


@accepted("ragged_collate")
def pads_nothing_twice(rows):
    longest = max((len(row) for row in rows), default=0)
    feat = rows[0].shape[1] if rows else 0
    out = np.full((len(rows), longest, feat), 0, dtype=np.float32)
    for i in range(len(rows)):
        out[i][: len(rows[i])] = rows[i].astype(np.float32)
    return torch.as_tensor(out), torch.LongTensor([len(row) for row in rows])


def collate_right(rows):
    if not rows:
        return torch.zeros(0, 0, 0), torch.zeros(0, dtype=torch.int64)
    lengths = [len(row) for row in rows]
    padded = np.zeros((len(rows), max(lengths), rows[0].shape[1]), dtype=np.float32)
    for into, row in zip(padded, rows):
        into[: len(row)] = row
    return torch.from_numpy(padded), torch.tensor(lengths)


@rejected("ragged_collate", by=("test_speed", "test_memory"))
def through_nested_lists(rows):
    if not rows:
        return torch.zeros(0, 0, 0), torch.zeros(0, dtype=torch.int64)
    longest, feat = max(len(row) for row in rows), rows[0].shape[1]
    lists = [row.tolist() + [[0.0] * feat] * (longest - len(row)) for row in rows]
    padded = torch.tensor(lists, dtype=torch.float32).reshape(len(rows), longest, feat)
    return padded, torch.tensor([len(row) for row in rows])


@rejected("ragged_collate", by="test_speed")
def number_by_number(rows):
    padded, lengths = collate_right(rows)
    array = padded.numpy()
    for i, row in enumerate(rows):
        for step, numbers in enumerate(row.tolist()):
            for k, number in enumerate(numbers):
                array[i, step, k] = number
    return padded, lengths


@rejected("ragged_collate", by="test_padding", says="not filled")
def with_torch_empty(reference: str) -> str:
    return reference.replace(
        "padded = np.zeros((len(rows), max(lengths), rows[0].shape[1]), dtype=np.float32)",
        "padded = torch.empty(len(rows), max(lengths), rows[0].shape[1]).numpy()",
    )


@rejected("ragged_collate", by="test_padding", says="not filled")
def with_numpy_empty(reference: str) -> str:
    return reference.replace("padded = np.zeros(", "padded = np.empty(")


@rejected("ragged_collate", by="test_padding", says="not filled")
def multiplies_the_padding_by_zero(rows):
    if not rows:
        return collate_right(rows)
    lengths = torch.tensor([len(row) for row in rows])
    padded = torch.empty(len(rows), int(lengths.max()), rows[0].shape[1])
    for i, row in enumerate(rows):
        padded[i, : len(row)] = torch.from_numpy(row.copy())
    return padded * (torch.arange(padded.shape[1]) < lengths[:, None])[:, :, None], lengths


@rejected("ragged_collate", by=("test_values", "test_padding"))
def repeats_the_last_step(rows):
    padded, lengths = collate_right(rows)
    for row, length in zip(padded, lengths.tolist()):
        if length:
            row[length:] = row[length - 1]
    return padded, lengths


@rejected("ragged_collate", by="test_lengths", says="int32")
def lengths_as_int32(rows):
    padded, lengths = collate_right(rows)
    return padded, lengths.int()


@rejected("ragged_collate", by="test_lengths")
def lengths_by_what_is_not_zero(rows):
    padded, lengths = collate_right(rows)
    return padded, torch.full_like(lengths, padded.shape[1])


@rejected("ragged_collate", by="test_lengths")
def lengths_of_a_sorted_batch(rows):
    padded, lengths = collate_right(rows)
    return padded, lengths.sort(descending=True).values


@rejected("ragged_collate", by="test_values", says="behind")
def pads_in_front(reference: str) -> str:
    return reference.replace("into[: len(row)] = row", "into[len(into) - len(row) :] = row")


@rejected("ragged_collate", by="test_values")
def sorts_the_rows(rows):
    return collate_right(sorted(rows, key=len, reverse=True))


@rejected("ragged_collate", by=("test_shapes", "test_values"), says="step")
def steps_come_first(rows):
    padded, lengths = collate_right(rows)
    return padded.transpose(0, 1), lengths


@rejected("ragged_collate", by="test_shapes")
def cuts_to_the_shortest(rows):
    padded, lengths = collate_right(rows)
    return padded[:, : min((len(row) for row in rows), default=0)], lengths


@rejected("ragged_collate", by="test_dtypes", says="float64")
def keeps_the_dtype_of_the_first_row(reference: str) -> str:
    return reference.replace("dtype=np.float32", "dtype=rows[0].dtype")


@rejected("ragged_collate", by="test_dtypes", says="float64")
def in_numpys_default_dtype(reference: str) -> str:
    return reference.replace(", dtype=np.float32)", ")")


@rejected("ragged_collate", by="test_dtypes")
def through_the_smallest_dtype(rows):
    if rows:
        dtype = rows[0].dtype
        rows = [row.astype(dtype) for row in rows]
    return collate_right(rows)


@rejected("ragged_collate", by="test_nan", says="nan")
def cleans_nan(rows):
    return collate_right([np.nan_to_num(row) for row in rows])


@rejected("ragged_collate", by="test_nan")
def cleans_the_batch(rows):
    padded, lengths = collate_right(rows)
    return padded.nan_to_num(0.0), lengths


@rejected("ragged_collate", by="test_no_rows", says="max()")
def fails_without_rows(reference: str) -> str:
    return reference.replace("if not rows:", "if rows is None:")


@rejected("ragged_collate", by="test_no_rows", says="empty list")
def float_lengths_of_no_rows(reference: str) -> str:
    return reference.replace("torch.zeros(0, dtype=torch.int64)", "torch.tensor([])")


@rejected("ragged_collate", by="test_no_rows")
def one_axis_without_rows(reference: str) -> str:
    return reference.replace("torch.zeros(0, 0, 0)", "torch.zeros(0)")


@rejected("ragged_collate", by="test_empty_rows")
def drops_empty_rows(rows):
    return collate_right([row for row in rows if len(row)])


@rejected("ragged_collate", by="test_empty_rows")
def at_least_one_step(reference: str) -> str:
    return reference.replace("max(lengths)", "max(1, *lengths)")


@rejected("ragged_collate", by="test_read_only", says="not writable")
def from_numpy_of_every_row(rows):
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    if not rows:
        return torch.zeros(0, 0, 0), lengths
    padded = torch.zeros(len(rows), int(lengths.max()), rows[0].shape[1])
    for i, row in enumerate(rows):
        row = row if min(row.strides) >= 0 else row.copy()
        padded[i, : len(row)] = torch.from_numpy(row)
    return padded, lengths


@rejected("ragged_collate", by="test_reversed", says="negative")
def tensors_of_reversed_rows(rows):
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    if not rows:
        return torch.zeros(0, 0, 0), lengths
    padded = torch.zeros(len(rows), int(lengths.max()), rows[0].shape[1])
    for i, row in enumerate(rows):
        padded[i, : len(row)] = torch.tensor(row)
    return padded, lengths


@rejected("ragged_collate", by="test_reversed", says="forwards")
def turns_reversed_rows_around(rows):
    return collate_right([row[::-1] if row.strides[0] < 0 else row for row in rows])


@rejected("ragged_collate", by="test_copies", says="of a row")
def a_view_of_the_only_row(rows):
    if len(rows) == 1 and rows[0].dtype == np.float32 and rows[0].flags.writeable:
        if min(rows[0].strides) > 0:
            return torch.from_numpy(rows[0])[None], torch.tensor([len(rows[0])])
    return collate_right(rows)


@rejected("ragged_collate", by="test_memory", says="copy each row")
def converts_all_rows_first(rows):
    return collate_right([row.astype(np.float32) for row in rows])


@rejected("ragged_collate", by="test_memory", says="allocate the result once")
def a_buffer_in_float64(reference: str) -> str:
    return reference.replace(", dtype=np.float32)", ")").replace(
        "torch.from_numpy(padded)", "torch.from_numpy(padded).float()"
    )


@rejected("ragged_collate", by="test_memory", says="allocate the result once")
def copies_the_result(reference: str) -> str:
    return reference.replace("torch.from_numpy(padded)", "torch.tensor(padded)")


@rejected("ragged_collate", by="test_memory", says="allocate the result once")
def pads_and_stacks(rows):
    if not rows:
        return collate_right(rows)
    longest = max(len(row) for row in rows)
    padded = [
        torch.nn.functional.pad(
            torch.tensor(row.copy(), dtype=torch.float32), (0, 0, 0, longest - len(row))
        )
        for row in rows
    ]
    return torch.stack(padded), torch.tensor([len(row) for row in rows])


@rejected("ragged_collate", by="test_memory", says="allocate the result once")
def pads_with_numpy_and_stacks(rows):
    if not rows:
        return collate_right(rows)
    longest = max(len(row) for row in rows)
    padded = [np.pad(row.astype(np.float32), ((0, longest - len(row)), (0, 0))) for row in rows]
    return torch.from_numpy(np.stack(padded)), torch.tensor([len(row) for row in rows])


@rejected("ragged_collate", by="test_forbidden", says="pad_sequence")
def with_pad_sequence(rows):
    if not rows:
        return collate_right(rows)
    tensors = [torch.from_numpy(row.astype(np.float32)) for row in rows]
    return pad_sequence(tensors, batch_first=True), torch.tensor([len(row) for row in rows])


@rejected("ragged_collate", by="test_leaves_the_rows_alone", says="list of rows")
def sorts_the_list_in_place(rows):
    result = collate_right(list(rows))
    rows.sort(key=len, reverse=True)
    return result


@rejected("ragged_collate", by="test_leaves_the_rows_alone", says="rows[0]")
def casts_by_changing_the_rows(rows):
    result = collate_right(rows)
    for row in rows:
        if row.flags.writeable:
            row[...] = np.round(row)
    return result
