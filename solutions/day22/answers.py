"""Answers to day 22 that its suite must accept or reject."""

import math

import numpy as np
import torch
from embedding_position import *
from torch import nn
from torch.nn import functional as F

from grader.answers import accepted, rejected

# --- 1 ------------------------------------------------------------------------------------------


@accepted("MyEmbedding")
class WithAHook(nn.Module):
    def __init__(self, vocab, dim, padding_idx=None):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab, dim).normal_())
        if padding_idx is not None:
            self.weight.data[padding_idx].zero_()
            self.weight.register_hook(
                lambda g: g.index_fill(0, torch.tensor([padding_idx], device=g.device), 0)
            )

    def forward(self, ids):
        wrong = (ids < 0) | (ids >= len(self.weight))
        if wrong.any():
            raise IndexError(f"id {ids[wrong][0].item()} of {len(self.weight)}")
        return self.weight[ids.to(torch.int64)]


@accepted("MyEmbedding")
class WithIndexSelect(nn.Module):
    """index_select looks at the range itself."""

    def __init__(self, vocab, dim, padding_idx=None):
        super().__init__()
        self.dim, self.padding_idx = dim, padding_idx
        self.weight = nn.Parameter(torch.randn(vocab, dim))
        if padding_idx is not None:
            with torch.no_grad():
                self.weight[padding_idx].fill_(0)

    def forward(self, ids):
        flat = ids.reshape(-1).int()
        rows = torch.index_select(self.weight, 0, flat)
        if self.padding_idx is not None:
            keep = (flat != self.padding_idx)[:, None]
            rows = rows * keep + (rows * ~keep).detach()
        return rows.reshape(*ids.shape, self.dim)


@accepted("MyEmbedding")
class WithGather(nn.Module):
    def __init__(self, vocab, dim, padding_idx=None):
        super().__init__()
        self.weight = nn.Parameter(nn.init.normal_(torch.empty(vocab, dim)))
        self.padding_idx = padding_idx
        if padding_idx is not None:
            nn.init.zeros_(self.weight[padding_idx])

    def forward(self, ids):
        vocab, dim = self.weight.shape
        flat = ids.flatten().long()
        for i in (int(flat.min()), int(flat.max())) if len(flat) else ():
            if i not in range(vocab):
                raise IndexError(i)
        weight = self.weight
        if self.padding_idx is not None:
            frozen = torch.zeros(vocab, 1, dtype=torch.bool, device=weight.device)
            frozen[self.padding_idx] = True
            weight = weight.masked_fill(frozen, 0) + (weight * frozen).detach()
        return weight.gather(0, flat[:, None].expand(-1, dim)).view(*ids.shape, dim)


class LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight, ids, padding_idx):
        ctx.save_for_backward(ids)
        ctx.shape, ctx.padding_idx = weight.shape, padding_idx
        return weight[ids]

    @staticmethod
    def backward(ctx, grad):
        (ids,) = ctx.saved_tensors
        rows = grad.new_zeros(ctx.shape)
        rows.index_put_((ids,), grad, accumulate=True)
        if ctx.padding_idx is not None:
            rows[ctx.padding_idx] = 0
        return rows, None, None


@accepted("MyEmbedding")
class WithAFunction(MyEmbedding):
    def forward(self, ids):
        ids = ids.long()
        if not bool(((ids >= 0) & (ids < self.weight.size(0))).all()):
            raise IndexError("id out of range")
        return LookUp.apply(self.weight, ids, self.padding_idx)


@accepted("MyEmbedding")
class WithTake(MyEmbedding):
    """One id after the other is slow, and right."""

    def forward(self, ids):
        rows = []
        for i in ids.flatten().tolist():
            if not 0 <= i < self.weight.shape[0]:
                raise IndexError(i)
            row = self.weight[i]
            rows.append(row.detach() if i == self.padding_idx else row)
        if not rows:
            return self.weight.new_empty(*ids.shape, self.weight.shape[1])
        return torch.stack(rows).reshape(*ids.shape, -1)


@rejected("MyEmbedding", by="test_no_one_hot", says="97, 101")
class OneHotProduct(MyEmbedding):
    def forward(self, ids):
        super().forward(ids)
        hot = F.one_hot(ids.long(), self.weight.shape[0]).to(self.weight.dtype)
        return hot @ self.weight


@rejected("MyEmbedding", by="test_value", says="embedding")
class TheFunctional(MyEmbedding):
    def forward(self, ids):
        return F.embedding(ids.long(), self.weight, self.padding_idx)


@rejected("MyEmbedding", by="test_value", says="embedding")
class TheModule(nn.Embedding):
    def __init__(self, vocab, dim, padding_idx=None):
        super().__init__(vocab, dim, padding_idx)


@rejected("MyEmbedding", by="test_padding_row", says="padding row gets a gradient")
class PaddingIsTrained(MyEmbedding):
    def forward(self, ids):
        padding, self.padding_idx = self.padding_idx, None
        rows = super().forward(ids)
        self.padding_idx = padding
        return rows


@rejected("MyEmbedding", by="test_padding_row", says="must be zeros")
class PaddingStartsRandom(MyEmbedding):
    def __init__(self, vocab, dim, padding_idx=None):
        super().__init__(vocab, dim, padding_idx)
        nn.init.normal_(self.weight)


@rejected("MyEmbedding", by="test_padding_row")
def padding_zero_is_false(reference: str) -> str:
    return reference.replace("if padding_idx is not None:", "if padding_idx:").replace(
        "if self.padding_idx is None:", "if not self.padding_idx:"
    )


@rejected("MyEmbedding", by="test_value", says="read as zeros")
class PaddingReadAsZero(MyEmbedding):
    def forward(self, ids):
        rows = super().forward(ids)
        if self.padding_idx is None:
            return rows
        return rows.masked_fill((ids == self.padding_idx)[..., None], 0.0)


class Averaged(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight, ids):
        ctx.save_for_backward(ids)
        ctx.shape = weight.shape
        return weight[ids]

    @staticmethod
    def backward(ctx, grad):
        (ids,) = ctx.saved_tensors
        rows = grad.new_zeros(ctx.shape)
        rows.index_reduce_(0, ids.flatten(), grad.flatten(0, -2), "mean", include_self=False)
        return rows, None


@rejected("MyEmbedding", by="test_gradient", says="averaged")
class GradientAveraged(MyEmbedding):
    def forward(self, ids):
        super().forward(ids)
        return Averaged.apply(self.weight, ids.long())


class LastOne(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight, ids):
        ctx.save_for_backward(ids)
        ctx.shape = weight.shape
        return weight[ids]

    @staticmethod
    def backward(ctx, grad):
        (ids,) = ctx.saved_tensors
        rows = grad.new_zeros(ctx.shape)
        rows[ids] = grad
        return rows, None


@rejected("MyEmbedding", by="test_gradient", says="only one place counts")
class GradientOfTheLast(MyEmbedding):
    def forward(self, ids):
        super().forward(ids)
        return LastOne.apply(self.weight, ids.long())


@rejected("MyEmbedding", by="test_gradient", says="no graph")
class RowsOfData(MyEmbedding):
    def forward(self, ids):
        return super().forward(ids).detach()


@rejected("MyEmbedding", by="test_out_of_range", says="nothing was raised")
def negative_ids_wrap(reference: str) -> str:
    return reference.replace("ids.min() < 0 or ", "")


@rejected("MyEmbedding", by="test_out_of_range", says="ValueError")
def another_error(reference: str) -> str:
    return reference.replace("raise IndexError", "raise ValueError")


@rejected("MyEmbedding", by="test_out_of_range", says="nothing was raised")
class Clamped(MyEmbedding):
    def forward(self, ids):
        return super().forward(ids.clamp(0, self.weight.shape[0] - 1))


@rejected("MyEmbedding", by="test_state_dict", says="weight")
class CalledTable(MyEmbedding):
    def __init__(self, vocab, dim, padding_idx=None):
        super().__init__(vocab, dim, padding_idx)
        self.table = self.weight


@rejected("MyEmbedding", by="test_state_dict")
class WithABuffer(MyEmbedding):
    def __init__(self, vocab, dim, padding_idx=None):
        super().__init__(vocab, dim, padding_idx)
        self.register_buffer("padding", torch.zeros(vocab, dtype=torch.bool))


@rejected("MyEmbedding", by="test_any_shape")
def empty_has_no_minimum(reference: str) -> str:
    return reference.replace("ids.numel() > 0 and ", "")


@rejected("MyEmbedding", by="test_any_shape", says="0-d")
class OneAxisAtLeast(MyEmbedding):
    def forward(self, ids):
        return super().forward(torch.atleast_1d(ids))


@rejected("MyEmbedding", by="test_any_integer")
def unsigned_is_a_mask(reference: str) -> str:
    return reference.replace("        ids = ids.long()\n", "")


@rejected("MyEmbedding", by="test_start", says="standard deviation")
class SmallStart(MyEmbedding):
    def __init__(self, vocab, dim, padding_idx=None):
        super().__init__(vocab, dim, padding_idx)
        self.weight.data.mul_(0.02)


@rejected("MyEmbedding", by="test_start")
class UniformStart(MyEmbedding):
    def __init__(self, vocab, dim, padding_idx=None):
        super().__init__(vocab, dim, padding_idx)
        nn.init.uniform_(self.weight, -(3**0.5), 3**0.5)
        if padding_idx is not None:
            self.weight.data[padding_idx] = 0


@rejected("MyEmbedding", by="test_start", says="two tables are equal")
class SeededStart(MyEmbedding):
    def __init__(self, vocab, dim, padding_idx=None):
        super().__init__(vocab, dim, padding_idx)
        with torch.no_grad():
            self.weight.normal_(generator=torch.Generator().manual_seed(0))
            if padding_idx is not None:
                self.weight[padding_idx] = 0


@rejected("MyEmbedding", by="test_state_dict", says="Parameter")
class WeightIsABuffer(MyEmbedding):
    def __init__(self, vocab, dim, padding_idx=None):
        super().__init__(vocab, dim, padding_idx)
        weight = self.weight.detach()
        del self.weight
        self.register_buffer("weight", weight)


@rejected("MyEmbedding", by="test_value")
class WritesToTheIds(MyEmbedding):
    def forward(self, ids):
        rows = super().forward(ids)
        ids.clamp_(0, self.weight.shape[0] - 1)
        return rows


# --- 2 ------------------------------------------------------------------------------------------


@accepted("sinusoidal")
def by_assignment(seq, dim, base=10000.0, device=None, dtype=torch.float32):
    if dim % 2:
        raise ValueError("odd")
    table = torch.zeros(seq, dim, dtype=torch.float64, device=device)
    p = torch.arange(seq, dtype=torch.float64, device=device).unsqueeze(1)
    step = -math.log(base) / dim
    w = torch.exp(torch.arange(0, dim, 2, dtype=torch.float64, device=device) * step)
    table[:, 0::2] = torch.sin(p * w)
    table[:, 1::2] = torch.cos(p * w)
    return table.to(dtype)


@accepted("sinusoidal")
def with_numpy(seq, dim, base=10000.0, device=None, dtype=torch.float32):
    if dim % 2 != 0:
        raise ValueError(f"dim={dim}")
    column = np.arange(dim)
    angle = np.arange(seq)[:, None] / base ** (2 * (column // 2) / dim)
    table = np.where(column % 2 == 0, np.sin(angle), np.cos(angle))
    return torch.from_numpy(table).to(device=device, dtype=dtype)


@accepted("sinusoidal")
def as_a_complex_number(seq, dim, base=10000.0, device=None, dtype=torch.float32):
    if dim & 1:
        raise ValueError("dim must be even")
    p = torch.arange(seq, device=device).double()
    w = torch.pow(float(base), -torch.arange(dim // 2, device=device).double() * 2 / dim)
    angle = torch.outer(p, w)
    turn = torch.view_as_real(torch.polar(torch.ones_like(angle), angle))
    return turn.flip(-1).reshape(seq, dim).to(dtype)


@accepted("sinusoidal")
def cosine_as_a_shifted_sine(seq, dim, base=10000.0, device=None, dtype=torch.float32):
    if dim % 2:
        raise ValueError("dim must be even")
    column = torch.arange(dim, device=device)
    w = torch.tensor(base, dtype=torch.float64, device=device) ** (
        -(column - column % 2).double() / dim
    )
    angle = torch.arange(seq, device=device, dtype=torch.double)[:, None] * w
    return torch.sin(angle + (column % 2).double() * (math.pi / 2)).to(dtype)


@accepted("sinusoidal")
def on_the_cpu_first(seq, dim, base=10000.0, device=None, dtype=torch.float32):
    if dim % 2:
        raise ValueError("dim must be even")
    w = [base ** (-2 * i / dim) for i in range(dim // 2)]
    angle = torch.einsum(
        "p,i->pi", torch.arange(seq, dtype=torch.float64), torch.tensor(w, dtype=torch.float64)
    )
    table = torch.empty(seq, dim // 2, 2, dtype=torch.float64)
    table[..., 0], table[..., 1] = angle.sin(), angle.cos()
    return table.view(seq, dim).to(device=device or torch.get_default_device(), dtype=dtype)


@rejected("sinusoidal", by=("test_value", "test_rotation"), says="the exponent is -i/dim")
def half_the_exponent(reference: str) -> str:
    return reference.replace(
        "base ** (-channel / dim)\n    return", "base ** (-channel / 2 / dim)\n    return"
    )


@rejected(
    "sinusoidal",
    by=("test_value", "test_first_row", "test_rotation"),
    says="sines fill the first half",
)
def halves(seq, dim, base=10000.0, device=None, dtype=torch.float32):
    table = sinusoidal_right(seq, dim, base, device, dtype)
    return torch.cat([table[:, 0::2], table[:, 1::2]], -1)


sinusoidal_right = sinusoidal


@rejected(
    "sinusoidal", by=("test_value", "test_first_row", "test_rotation"), says="cosines come first"
)
def cosines_first(seq, dim, base=10000.0, device=None, dtype=torch.float32):
    table = sinusoidal_right(seq, dim, base, device, dtype)
    return table.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)


@rejected("sinusoidal", by=("test_first_row", "test_value"), says="first row is position 1")
def positions_from_one(seq, dim, base=10000.0, device=None, dtype=torch.float32):
    return sinusoidal_right(seq + 1, dim, base, device, dtype)[1:]


@rejected("sinusoidal", by=("test_value", "test_rotation"), says="frequencies grow")
def growing_frequencies(seq, dim, base=10000.0, device=None, dtype=torch.float32):
    return sinusoidal_right(seq, dim, 1 / base, device, dtype)


@rejected("sinusoidal", by=("test_value", "test_gram"), says="of its own")
def a_frequency_for_each_column(seq, dim, base=10000.0, device=None, dtype=torch.float32):
    if dim % 2:
        raise ValueError("odd")
    column = torch.arange(dim, device=device, dtype=torch.float64)
    angle = torch.arange(seq, device=device)[:, None] * base ** (-2 * column / dim)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).to(dtype)


@rejected("sinusoidal", by=("test_far", "test_gram"), says="float32")
def angles_in_float32(seq, dim, base=10000.0, device=None, dtype=torch.float32):
    if dim % 2:
        raise ValueError("odd")
    p = torch.arange(seq, device=device, dtype=torch.float32)[:, None]
    w = base ** (-torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim)
    return torch.stack([(p * w).sin(), (p * w).cos()], -1).flatten(-2).to(dtype)


@rejected("sinusoidal", by="test_far", says="float32")
def frequencies_in_float32(seq, dim, base=10000.0, device=None, dtype=torch.float32):
    if dim % 2:
        raise ValueError("odd")
    p = torch.arange(seq, device=device, dtype=torch.float64)[:, None]
    w = torch.exp(torch.arange(0, dim, 2, device=device).float() * (-math.log(base) / dim))
    return torch.stack([(p * w).sin(), (p * w).cos()], -1).flatten(-2).to(dtype)


@rejected("sinusoidal", by=("test_half", "test_gram"), says="worth nothing")
def angles_in_the_dtype_of_the_table(reference: str) -> str:
    return reference.replace(
        "position = torch.arange(seq, device=device, dtype=torch.float64)",
        "position = torch.arange(seq, device=device, dtype=dtype)",
    ).replace(
        "return torch.stack([angle.sin(), angle.cos()], dim=-1)",
        "angle = angle.to(torch.float32 if dtype == torch.float64 else dtype)\n"
        "    return torch.stack([angle.sin(), angle.cos()], dim=-1)",
    )


@rejected("sinusoidal", by="test_default_dtype")
def in_the_default_dtype(reference: str) -> str:
    return reference.replace(
        "    channel = torch.arange(0, dim, 2, device=device, dtype=torch.float64)\n",
        "    channel = torch.arange(0, dim, 2, device=device) * 1.0\n"
        "    position = position.to(channel.dtype)\n",
    )


@rejected("sinusoidal", by="test_shape", says="float64")
def dtype_has_no_effect(seq, dim, base=10000.0, device=None, dtype=torch.float32):
    return sinusoidal_right(seq, dim, base, device)


@rejected("sinusoidal", by="test_shape")
def transposed(seq, dim, base=10000.0, device=None, dtype=torch.float32):
    return sinusoidal_right(seq, dim, base, device, dtype).mT


@rejected("sinusoidal", by="test_value", says="base has no effect")
def base_has_no_effect(seq, dim, base=10000.0, device=None, dtype=torch.float32):
    return sinusoidal_right(seq, dim, 10000.0, device, dtype)


@rejected("sinusoidal", by="test_odd", says="nothing was raised")
def odd_is_cut(seq, dim, base=10000.0, device=None, dtype=torch.float32):
    return sinusoidal_right(seq, dim + dim % 2, base, device, dtype)[:, :dim]


@rejected("sinusoidal", by="test_odd", says="AssertionError")
def odd_asserts(reference: str) -> str:
    return reference.replace(
        '        raise ValueError(f"dim must be even, got {dim}")', "        assert False, dim"
    )


@rejected("sinusoidal", by="test_device", says="cpu")
def device_has_no_effect(seq, dim, base=10000.0, device=None, dtype=torch.float32):
    return sinusoidal_right(seq, dim, base, None, dtype)


# --- 3 ------------------------------------------------------------------------------------------


@accepted("rope")
def by_complex_numbers(x, positions, base=10000.0, interleaved=True):
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    dim = x.shape[-1]
    w = base ** (-2 * torch.arange(dim // 2, device=x.device, dtype=wide) / dim)
    angle = positions.to(wide)[..., None, :, None] * w
    turn = torch.polar(torch.ones_like(angle), angle)
    t = x.to(wide)
    if interleaved:
        z = torch.view_as_complex(t.reshape(*t.shape[:-1], dim // 2, 2).contiguous())
        return torch.view_as_real(z * turn).reshape(x.shape).to(x.dtype)
    z = torch.complex(*t.chunk(2, -1)) * turn
    return torch.cat([z.real, z.imag], -1).to(x.dtype)


@accepted("rope")
def with_rotate_half(x, positions, base=10000.0, interleaved=True):
    wide = torch.promote_types(x.dtype, torch.float32)
    dim, t = x.shape[-1], x.to(wide)
    w = 1.0 / base ** (torch.arange(0, dim, 2, dtype=wide, device=x.device) / dim)
    angle = torch.einsum("...s,i->...si", positions.to(wide), w)
    if positions.dim() == 2:
        angle = angle.unsqueeze(1)
    if interleaved:
        angle = angle.repeat_interleave(2, dim=-1)
        other = torch.stack((-t[..., 1::2], t[..., ::2]), dim=-1).flatten(-2)
    else:
        angle = torch.cat((angle, angle), dim=-1)
        first, second = t.chunk(2, dim=-1)
        other = torch.cat((-second, first), dim=-1)
    return (t * angle.cos() + other * angle.sin()).to(x.dtype)


@accepted("rope")
def by_assignment_into_an_empty_tensor(x, positions, base=10000.0, interleaved=True):
    wide = torch.promote_types(x.dtype, torch.float32)
    batch, heads, seq, dim = x.shape
    step = torch.arange(dim // 2, dtype=wide, device=x.device)
    angle = positions.expand(batch, seq)[:, None, :, None] * torch.exp(
        step * (-2 * math.log(base) / dim)
    )
    sin, cos = angle.sin(), angle.cos()
    first, second = (slice(0, None, 2), slice(1, None, 2))
    if not interleaved:
        first, second = slice(0, dim // 2), slice(dim // 2, None)
    out = torch.empty_like(x)
    out[..., first] = (x[..., first] * cos - x[..., second] * sin).to(x.dtype)
    out[..., second] = (x[..., first] * sin + x[..., second] * cos).to(x.dtype)
    return out


@accepted("rope")
def by_matrices(x, positions, base=10000.0, interleaved=True):
    wide = torch.promote_types(x.dtype, torch.float32)
    half = x.shape[-1] // 2
    w = torch.tensor([base ** (-i / half) for i in range(half)], dtype=wide, device=x.device)
    angle = positions.to(wide).unsqueeze(-1) * w
    c, s = angle.cos(), angle.sin()
    matrix = torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)
    t = x.to(wide)
    pairs = (
        t.unflatten(-1, (half, 2)) if interleaved else t.unflatten(-1, (2, half)).transpose(-1, -2)
    )
    if positions.dim() == 1:
        turned = torch.einsum("sixy,bhsiy->bhsix", matrix, pairs)
    else:
        turned = torch.einsum("bsixy,bhsiy->bhsix", matrix, pairs)
    if not interleaved:
        turned = turned.transpose(-1, -2)
    return turned.reshape(x.shape).to(x.dtype)


KNOWN = {}


@accepted("rope")
def with_a_cache_that_knows_its_key(x, positions, base=10000.0, interleaved=True):
    wide = torch.promote_types(x.dtype, torch.float32)
    dim, key = x.shape[-1], (x.shape[-1], base, wide, x.device)
    if key not in KNOWN:
        KNOWN[key] = base ** (-torch.arange(0, dim, 2, device=x.device, dtype=wide) / dim)
    angle = (positions[..., None] * KNOWN[key]).unsqueeze(-3)
    cos, sin = angle.cos(), angle.sin()
    if interleaved:
        a, b = x[..., 0::2].to(wide), x[..., 1::2].to(wide)
    else:
        a, b = x.to(wide).split(dim // 2, dim=-1)
    pair = (a * cos - b * sin, a * sin + b * cos)
    out = torch.stack(pair, -1).flatten(-2) if interleaved else torch.cat(pair, -1)
    return out.to(x.dtype)


@accepted("rope")
def angles_always_in_float64(x, positions, base=10000.0, interleaved=True):
    out = rope_right(x.double(), positions, base, interleaved)
    return out.to(x.dtype).clone()


rope_right = rope


@rejected("rope", by=("test_value", "test_relative"), says="index of the head")
def angle_by_head(x, positions, base=10000.0, interleaved=True):
    heads = torch.arange(x.shape[1], device=x.device)
    return rope_right(x.transpose(1, 2), heads, base, interleaved).transpose(1, 2)


@rejected("rope", by=("test_value", "test_half"))
def positions_along_the_heads(reference: str) -> str:
    return reference.replace("angle = angle.unsqueeze(-3)", "angle = angle.unsqueeze(-2)")


@rejected("rope", by="test_value", says="the pairs are channels i and i + dim/2")
def halves_always(x, positions, base=10000.0, interleaved=True):
    return rope_right(x, positions, base, False)


@rejected("rope", by="test_halves", says="the pairs are channels 2i and 2i + 1")
def interleaved_always(x, positions, base=10000.0, interleaved=True):
    return rope_right(x, positions, base, True)


@rejected("rope", by=("test_value", "test_halves"), says="the pairs are channels i and i + dim/2")
def layouts_swapped(x, positions, base=10000.0, interleaved=True):
    return rope_right(x, positions, base, not interleaved)


@rejected("rope", by="test_value", says="written back as channels i and i + dim/2")
def cat_for_interleaved(x, positions, base=10000.0, interleaved=True):
    out = rope_right(x, positions, base, interleaved)
    return torch.cat([out[..., 0::2], out[..., 1::2]], -1) if interleaved else out


@rejected("rope", by=("test_value", "test_halves"), says="sign of the sine")
def other_way_round(x, positions, base=10000.0, interleaved=True):
    return rope_right(x, -positions, base, interleaved)


@rejected("rope", by=("test_norms", "test_value", "test_relative"), says="length")
def a_reflection_with_two_minus_signs(reference: str) -> str:
    return reference.replace("first * sin + second * cos", "second * cos - first * sin")


@rejected("rope", by=("test_value", "test_halves"), says="the exponent is -i/dim")
def half_the_exponent_of_rope(reference: str) -> str:
    return reference.replace(
        ".to(wide) * base ** (-channel / dim)", ".to(wide) * base ** (-channel / 2 / dim)"
    )


@rejected("rope", by=("test_value", "test_batch_positions"), says="positions is not used")
def positions_ignored(x, positions, base=10000.0, interleaved=True):
    return rope_right(x, torch.arange(x.shape[2], device=x.device), base, interleaved)


@rejected("rope", by="test_batch_positions", says="positions of the first")
def positions_of_the_first_example(x, positions, base=10000.0, interleaved=True):
    if positions.dim() == 2:
        positions = positions[0]
    return rope_right(x, positions, base, interleaved)


@rejected("rope", by="test_batch_positions")
def batch_meets_the_heads(reference: str) -> str:
    return reference.replace(
        "angle = angle.unsqueeze(-3)", "angle = angle.unsqueeze(0) if angle.dim() == 2 else angle"
    )


ANGLES = {}


@rejected("rope", by="test_later_calls")
def cached_for_the_first_length(x, positions, base=10000.0, interleaved=True):
    wide = torch.promote_types(x.dtype, torch.float32)
    dim = x.shape[-1]
    if "angle" not in ANGLES:
        channel = torch.arange(0, dim, 2, device=x.device, dtype=wide)
        ANGLES["angle"] = positions[..., None] * base ** (-channel / dim)
    angle = ANGLES["angle"]
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack(
        [a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1
    ).flatten(-2)


TABLES = {}


@rejected("rope", by="test_later_calls", says="the result of call 3")
def cached_by_shape(x, positions, base=10000.0, interleaved=True):
    if x.shape not in TABLES:
        TABLES[x.shape] = positions.clone()
    return rope_right(x, TABLES[x.shape], base, interleaved)


FREQUENCIES = {}


@rejected("rope", by="test_later_calls", says="the result of call 4")
def cached_without_the_base(x, positions, base=10000.0, interleaved=True):
    base = FREQUENCIES.setdefault(x.shape[-1], base)
    return rope_right(x, positions, base, interleaved)


@rejected("rope", by="test_gradient")
def out_of_the_graph(x, positions, base=10000.0, interleaved=True):
    return rope_right(x.detach(), positions, base, interleaved)


@rejected("rope", by="test_gradient")
def half_out_of_the_graph(reference: str) -> str:
    return reference.replace("first * cos - second * sin", "first * cos - second.detach() * sin")


@rejected("rope", by="test_zero", says="expected a copy")
def nothing_to_turn(x, positions, base=10000.0, interleaved=True):
    if not positions.any():
        return x
    return rope_right(x, positions, base, interleaved)


@rejected("rope", by="test_unchanged")
def in_place(x, positions, base=10000.0, interleaved=True):
    with torch.no_grad():
        return x.copy_(rope_right(x, positions, base, interleaved))


@rejected("rope", by="test_half", says="computed in")
def everything_in_half(reference: str) -> str:
    return reference.replace("torch.promote_types(x.dtype, torch.float32)", "x.dtype")


@rejected("rope", by="test_half", says="float32")
def half_becomes_float32(x, positions, base=10000.0, interleaved=True):
    out = rope_right(x, positions, base, interleaved)
    return out.float() if x.dtype in (torch.float16, torch.bfloat16) else out


@rejected("rope", by="test_value")
def float64_in_float32(x, positions, base=10000.0, interleaved=True):
    return rope_right(x.float(), positions, base, interleaved).to(x.dtype)


@rejected("rope", by="test_device", says="device")
def channels_on_the_cpu(reference: str) -> str:
    return reference.replace(
        "channel = torch.arange(0, dim, 2, device=x.device, dtype=wide)",
        "channel = torch.arange(0, dim, 2, dtype=wide)",
    )


@rejected("rope", by="test_half", says="computed in float32")
def cosines_rounded_to_half(reference: str) -> str:
    return reference.replace(
        "cos, sin = angle.cos(), angle.sin()",
        "cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)",
    ).replace("pairs = x.to(wide)", "pairs = x")


@rejected("rope", by="test_half", says="computed in float32")
def positions_in_half(reference: str) -> str:
    return reference.replace(
        "positions[..., None].to(wide)", "positions[..., None].to(x.dtype).to(wide)"
    )


@rejected("rope", by="test_value", says="frequencies grow")
def growing_frequencies_of_rope(x, positions, base=10000.0, interleaved=True):
    return rope_right(x, positions, 1 / base, interleaved)


# --- 4 ------------------------------------------------------------------------------------------


def slopes(heads):
    def of_power(n):
        start = 2 ** (-(2 ** -(math.log2(n) - 3)))
        return [start * start**i for i in range(n)]

    if math.log2(heads).is_integer():
        return of_power(heads)
    n = 2 ** math.floor(math.log2(heads))
    return of_power(n) + slopes(2 * n)[0::2][: heads - n]


@accepted("alibi_and_relative")
def alibi_bias(heads, seq_q, seq_k, device=None):
    m = torch.tensor(slopes(heads), dtype=torch.float32, device=device).view(-1, 1, 1)
    i = torch.arange(seq_q, device=device).view(-1, 1) + (seq_k - seq_q)
    j = torch.arange(seq_k, device=device).view(1, -1)
    return m * -(j - i).abs()


@accepted("alibi_and_relative")
def alibi_bias(heads, seq_q, seq_k, device=None):
    """With einsum, and slopes from one formula."""
    n = 2 ** int(math.log2(heads))
    j = torch.arange(1, n + 1, device=device, dtype=torch.float64)
    more = torch.arange(1, 2 * n, 2, device=device, dtype=torch.float64)[: heads - n]
    m = torch.cat([torch.exp2(-8 * j / n), torch.exp2(-4 * more / n)])
    key = torch.arange(seq_k, device=device, dtype=torch.float64)
    distance = (key[-1] - torch.arange(seq_q - 1, -1, -1, device=device))[:, None] - key
    return torch.einsum("h,qk->hqk", -m, distance.abs()).float()


@accepted("alibi_and_relative")
def alibi_bias(heads, seq_q, seq_k, device=None):
    """Head by head: a loop over heads is no loop over positions."""
    query = torch.arange(seq_q, dtype=torch.float32, device=device) + seq_k - seq_q
    key = torch.arange(seq_k, dtype=torch.float32, device=device)
    distance = (
        torch.cdist(query[:, None], key[:, None], p=1)
        if device != "meta"
        else (query[:, None] - key).abs()
    )
    return torch.stack([distance * -s for s in slopes(heads)])


@accepted("alibi_and_relative")
def t5_bucket(rel, buckets=32, max_dist=128):
    n = buckets // 2
    bucket = (rel > 0).long() * n
    d = torch.abs(rel)
    exact = n // 2
    large = exact + (torch.log(d.float() / exact) / math.log(max_dist / exact) * (n - exact)).to(
        torch.long
    )
    large = torch.min(large, torch.full_like(large, n - 1))
    return bucket + torch.where(d < exact, d, large)


@accepted("alibi_and_relative")
def t5_bucket(rel, buckets=32, max_dist=128):
    """In float64, with the logarithms apart."""
    n, m = buckets // 2, buckets // 4
    d = rel.abs().double().clamp(min=m)
    far = m + torch.floor((d.log() - math.log(m)) / (math.log(max_dist) - math.log(m)) * m)
    bucket = torch.where(rel.abs() < m, rel.abs(), far.clamp(max=n - 1).long())
    return torch.where(rel > 0, bucket + n, bucket)


@accepted("alibi_and_relative")
def t5_bucket(rel, buckets=32, max_dist=128):
    """By the smallest distances of the far buckets, in whole numbers."""
    n, m = buckets // 2, buckets // 4
    edges = [m]
    for k in range(1, m):
        d = edges[-1]
        while d**m < max_dist**k * m ** (m - k):
            d += 1
        edges.append(d)
    d = rel.abs()
    edges = torch.tensor(edges, device=rel.device)
    far = m - 1 + torch.searchsorted(edges, d, right=True)
    return torch.where(d < m, d, far) + n * (rel > 0).to(torch.int64)


@accepted("alibi_and_relative")
def t5_bucket(rel, buckets=32, max_dist=128):
    """By log2 and masks."""
    n = buckets // 2
    out = rel.abs().clone()
    far = out >= n / 2
    share = torch.log2(out / (n / 2)) / math.log2(max_dist / (n / 2))
    share = torch.where(far, share, 0.0)
    out = torch.where(far, (n / 2 + (share * (n / 2)).floor()).clamp(max=n - 1), out)
    return (out + n * (rel > 0)).long()


@rejected("alibi_and_relative", by=("test_alignment", "test_alibi"), says="stands at key")
def aligned_top_left(reference: str) -> str:
    return reference.replace(
        "torch.arange(seq_k - seq_q, seq_k, device=device)", "torch.arange(seq_q, device=device)"
    )


@rejected("alibi_and_relative", by=("test_alibi", "test_slopes"), says="positive")
def positive_bias(reference: str) -> str:
    return reference.replace("return -torch.tensor(slopes", "return torch.tensor(slopes")


@rejected("alibi_and_relative", by=("test_slopes", "test_alibi"), says="start with j = 0")
def slopes_from_zero(reference: str) -> str:
    return reference.replace(
        "slopes = [2 ** (-8 * j / power) for j in range(1, power + 1)]",
        "slopes = [2 ** (-8 * j / heads) for j in range(heads)]",
    ).replace("    slopes += [2", "    [2")


@rejected("alibi_and_relative", by="test_slopes", says="powers of two only")
def one_series_for_all(reference: str) -> str:
    return reference.replace("power = 1 << (heads.bit_length() - 1)", "power = heads")


@rejected("alibi_and_relative", by="test_slopes", says="take every second one")
def further_slopes_in_a_row(reference: str) -> str:
    return reference.replace("range(1, 2 * (heads - power), 2)", "range(1, heads - power + 1)")


@rejected("alibi_and_relative", by="test_slopes", says="second, fourth")
def further_slopes_second_and_fourth(reference: str) -> str:
    return reference.replace(
        "range(1, 2 * (heads - power), 2)", "range(2, 2 * (heads - power) + 1, 2)"
    )


@rejected("alibi_and_relative", by="test_alibi", says="keys after the query")
def future_is_not_pushed_down(reference: str) -> str:
    return reference.replace("query[:, None]).abs()", "query[:, None]).clamp(max=0).neg()")


@rejected("alibi_and_relative", by=("test_alibi", "test_slopes"))
def in_float64(reference: str) -> str:
    return reference.replace(
        "-torch.tensor(slopes, device", "-torch.tensor(slopes, dtype=torch.float64, device"
    )


@rejected("alibi_and_relative", by="test_device", says="cpu")
def bias_on_the_cpu(reference: str) -> str:
    start = reference.index("    power = 1 << ")
    return reference[:start] + "    device = None\n" + reference[start:]


@rejected("alibi_and_relative", by="test_no_loop", says="loop over the size")
def row_by_row(reference: str) -> str:
    return reference.replace(
        "(torch.arange(seq_k, device=device) - query[:, None]).abs()",
        "torch.stack([(torch.arange(seq_k, device=device) - q).abs() for q in query])",
    )


@rejected("alibi_and_relative", by="test_no_loop", says="loop over the size")
def distance_by_distance(reference: str) -> str:
    return reference.replace(
        "torch.where(distance < exact, distance, far)",
        "torch.stack([torch.where(d < exact, d, f) for d, f in zip(distance.flatten(),"
        " far.flatten(), strict=True)] or [far]).view(rel.shape)",
    )


@rejected("alibi_and_relative", by=("test_buckets", "test_order"), says="not told apart")
def without_the_direction(reference: str) -> str:
    return reference.replace(" + half * (rel > 0)", "")


@rejected("alibi_and_relative", by=("test_buckets", "test_order"), says="turned around")
def direction_turned_around(reference: str) -> str:
    return reference.replace("half * (rel > 0)", "half * (rel < 0)")


@rejected("alibi_and_relative", by="test_buckets", says="distance 0")
def zero_is_after(reference: str) -> str:
    return reference.replace("half * (rel > 0)", "half * (rel >= 0)")


@rejected("alibi_and_relative", by="test_buckets", says="rounded down")
def rounded_to_the_nearest(reference: str) -> str:
    return reference.replace("(share * exact).floor()", "(share * exact).round()")


@rejected("alibi_and_relative", by=("test_order", "test_buckets"), says="from max_dist on")
def not_clipped(reference: str) -> str:
    return reference.replace(".clamp(max=half - 1)", "")


@rejected("alibi_and_relative", by="test_buckets")
def max_dist_has_no_effect(reference: str) -> str:
    return reference.replace("math.log(max_dist / exact)", "math.log(128 / exact)")


@rejected("alibi_and_relative", by="test_buckets", says="this one is the smallest")
def clamped_only(reference: str) -> str:
    return reference.replace(
        "torch.where(distance < exact, distance, far)", "distance.clamp(max=half - 1)"
    )


@rejected("alibi_and_relative", by="test_any_shape", says="int")
def smaller_integers(reference: str) -> str:
    return reference.replace("half * (rel > 0)\n", "half * (rel > 0)).int()\n").replace(
        "return torch.where(distance", "return (torch.where(distance"
    )


@rejected("alibi_and_relative", by="test_any_shape")
def one_axis(reference: str) -> str:
    return reference.replace(
        "distance = rel.abs()", "rel = rel.flatten()\n    distance = rel.abs()"
    )


@rejected("alibi_and_relative", by="test_buckets")
def one_direction_has_all_buckets(reference: str) -> str:
    return reference.replace("exact = half // 2", "half, exact = buckets, half").replace(
        "half * (rel > 0)", "buckets // 2 * (rel > 0)"
    )


@rejected("alibi_and_relative", by="test_alignment", says="pushed down")
def later_keys_are_raised(reference: str) -> str:
    return reference.replace("query[:, None]).abs()", "query[:, None])")


# --- 5 ------------------------------------------------------------------------------------------


class TwoEmbeddings(nn.Module):
    """The position table is an nn.Embedding; sinusoids are computed in every call."""

    def __init__(self, vocab, dim, max_len, kind, p=0.0, tie=None):
        super().__init__()
        self.token = nn.Embedding(vocab, dim)
        self.position = nn.Embedding(max_len, dim) if kind == "learned" else None
        self.drop = nn.Dropout(p)
        self.scale, self.max_len = dim**0.5, max_len
        if tie is not None:
            self.token.weight = tie.weight
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, 0.0, 0.02)

    def forward(self, ids, start=0):
        seq = ids.size(1)
        x = self.token(ids) * self.scale
        if self.position is None:
            table = sinusoidal(start + seq, x.size(-1), device=ids.device, dtype=x.dtype)
            return self.drop(x + table[start:])
        if start + seq > self.max_len:
            raise ValueError(f"{start + seq} > max_len ({self.max_len})")
        return self.drop(x + self.position(torch.arange(start, start + seq, device=ids.device)))


@accepted("InputEmbedding")
class WithTwoEmbeddings(TwoEmbeddings):
    pass


@accepted("InputEmbedding")
class WithATableThatGrows(nn.Module):
    def __init__(self, vocab, dim, max_len, kind, p=0.0, tie=None):
        super().__init__()
        self.max_len, self.dim, self.kind, self.p = max_len, dim, kind, p
        self.token = nn.Embedding(vocab, dim)
        with torch.no_grad():
            self.token.weight.normal_(0, 0.02)
        if tie is not None:
            self.tie = tie  # a submodule: its keys are in the state_dict too
            self.tie.weight = self.token.weight
        if kind == "learned":
            self.table = nn.Parameter(torch.empty(max_len, dim).normal_(std=0.02))
        else:
            self.register_buffer("table", sinusoidal(max_len, dim), persistent=False)

    def forward(self, ids, start=0):
        stop = start + ids.shape[-1]
        if stop > len(self.table):
            if self.kind == "learned":
                raise ValueError(f"max_len is {self.max_len}, asked for {stop}")
            self.table = sinusoidal(2 * stop, self.dim, device=ids.device, dtype=self.table.dtype)
        x = self.token(ids).mul(math.sqrt(self.dim)).add(self.table[start:stop])
        return F.dropout(x, self.p, self.training)


@accepted("InputEmbedding")
class WithAPersistentBuffer(nn.Module):
    def __init__(self, vocab, dim, max_len, kind, p=0.0, tie=None):
        super().__init__()
        self.token = nn.Embedding(vocab, dim, _weight=0.02 * torch.randn(vocab, dim))
        if tie is not None:
            tie.register_parameter("weight", self.token.weight)
        learned = kind == "learned"
        if learned:
            self.rows = nn.Parameter(torch.zeros(max_len, dim))
            nn.init.normal_(self.rows, std=0.02)
        else:
            self.register_buffer("rows", sinusoidal(max_len, dim))
        self.learned, self.dropout = learned, nn.Dropout(p)

    def forward(self, ids, start=0):
        max_len, dim = self.rows.shape
        positions = torch.arange(start, start + ids.shape[1], device=ids.device)
        if self.learned and start + ids.shape[1] > max_len:
            raise ValueError("max_len")
        if start + ids.shape[1] <= max_len:
            rows = self.rows[positions]
        else:
            i = torch.arange(dim, device=ids.device)
            angle = positions[:, None].double() * 1e4 ** (-(i - i % 2).double() / dim)
            rows = torch.where(i % 2 == 0, angle.sin(), angle.cos()).to(self.rows.dtype)
        return self.dropout(math.sqrt(dim) * self.token(ids) + rows.unsqueeze(0))


@accepted("InputEmbedding")
class WithAPositionModule(nn.Module):
    def __init__(self, vocab, dim, max_len, kind, p=0.0, tie=None):
        super().__init__()
        self.token = nn.Embedding(vocab, dim)
        self.token.weight.data.normal_(std=0.02)
        self.place = Learned(max_len, dim) if kind == "learned" else Sines(dim)
        self.dropout = nn.Dropout(p=p)
        if tie is not None:
            del tie.weight
            tie.weight = self.token.weight

    def forward(self, ids, start=0):
        x = self.token(ids)
        return self.dropout(x * x.shape[-1] ** 0.5 + self.place(start, ids.shape[1], x))


class Learned(nn.Module):
    def __init__(self, max_len, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(max_len, dim) * 0.02)

    def forward(self, start, seq, like):
        if start + seq > self.weight.shape[0]:
            raise ValueError(f"past max_len={self.weight.shape[0]}")
        return self.weight.narrow(0, start, seq)


class Sines(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.dim = dim

    def forward(self, start, seq, like):
        return sinusoidal(start + seq, self.dim, device=like.device).to(like.dtype)[start:]


@rejected("InputEmbedding", by=("test_tied", "test_gradient"), says="two Parameters")
class TiedByData(InputEmbedding):
    def __init__(self, vocab, dim, max_len, kind, p=0.0, tie=None):
        super().__init__(vocab, dim, max_len, kind, p)
        if tie is not None:
            tie.weight.data = self.token.weight.data


@rejected("InputEmbedding", by=("test_tied", "test_gradient"), says="two tensors")
class TiedByCopy(InputEmbedding):
    def __init__(self, vocab, dim, max_len, kind, p=0.0, tie=None):
        super().__init__(vocab, dim, max_len, kind, p)
        if tie is not None:
            with torch.no_grad():
                tie.weight.copy_(self.token.weight)


@rejected("InputEmbedding", by="test_tied", says="two tensors")
class NotTied(InputEmbedding):
    def __init__(self, vocab, dim, max_len, kind, p=0.0, tie=None):
        super().__init__(vocab, dim, max_len, kind, p)


@rejected("InputEmbedding", by="test_tied", says="after construction")
class TiedInForward(InputEmbedding):
    def __init__(self, vocab, dim, max_len, kind, p=0.0, tie=None):
        super().__init__(vocab, dim, max_len, kind, p)
        self.later = [tie]

    def forward(self, ids, start=0):
        if self.later[0] is not None:
            self.later[0].weight = self.token.weight
        return super().forward(ids, start)


@rejected("InputEmbedding", by="test_gradient", says="only the path through the head")
class TokensOutOfTheGraph(InputEmbedding):
    def forward(self, ids, start=0):
        rows = super().forward(ids, start) - self.token(ids) * self.token.embedding_dim**0.5
        return rows + self.token(ids).detach() * self.token.embedding_dim**0.5


@rejected("InputEmbedding", by=("test_first_loss", "test_start"), says="guessing")
class WideStart(InputEmbedding):
    def __init__(self, vocab, dim, max_len, kind, p=0.0, tie=None):
        super().__init__(vocab, dim, max_len, kind, p, tie)
        nn.init.normal_(self.token.weight)


@rejected("InputEmbedding", by="test_start", says="tied")
class StartOfTheLinearLayer(InputEmbedding):
    def __init__(self, vocab, dim, max_len, kind, p=0.0, tie=None):
        super().__init__(vocab, dim, max_len, kind, p)
        if tie is not None:
            self.token.weight = tie.weight


@rejected("InputEmbedding", by="test_start", says="positions")
def positions_start_at_zero(reference: str) -> str:
    return reference.replace("0.02 * torch.randn(max_len, dim)", "torch.zeros(max_len, dim)")


@rejected("InputEmbedding", by=("test_chunks", "test_value"), says="start has no effect")
class StartIgnored(InputEmbedding):
    def forward(self, ids, start=0):
        return super().forward(ids)


@rejected("InputEmbedding", by="test_value", says="positions are scaled by sqrt(dim) too")
def everything_scaled(reference: str) -> str:
    return reference.replace(
        "self.token(ids) * math.sqrt(dim) + position[start:stop]",
        "(self.token(ids) + position[start:stop]) * math.sqrt(dim)",
    )


@rejected("InputEmbedding", by="test_value", says="not scaled by sqrt(dim)")
def nothing_scaled(reference: str) -> str:
    return reference.replace(" * math.sqrt(dim) + position", " + position")


@rejected("InputEmbedding", by="test_value", says="scaled by dim")
def scaled_by_dim(reference: str) -> str:
    return reference.replace(" * math.sqrt(dim) + position", " * dim + position")


@rejected("InputEmbedding", by="test_value", says="positions are not added")
def no_positions(reference: str) -> str:
    return reference.replace(" * math.sqrt(dim) + position[start:stop]", " * math.sqrt(dim)")


@rejected("InputEmbedding", by="test_moves")
class PositionsOnTheCpu(InputEmbedding):
    def forward(self, ids, start=0):
        if self.kind == "sinusoidal":
            rows = sinusoidal(start + ids.shape[1], self.token.embedding_dim)[start:]
            return self.dropout(self.token(ids) * self.token.embedding_dim**0.5 + rows)
        return super().forward(ids, start)


@rejected("InputEmbedding", by="test_moves", says="device")
class PositionIdsOnTheCpu(TwoEmbeddings):
    def forward(self, ids, start=0):
        if self.position is None:
            return super().forward(ids, start)
        if start + ids.size(1) > self.max_len:
            raise ValueError("max_len")
        rows = self.position(torch.arange(start, start + ids.size(1)))
        return self.drop(self.token(ids) * self.scale + rows)


@rejected("InputEmbedding", by="test_moves")
class TableIsAnAttribute(InputEmbedding):
    def __init__(self, vocab, dim, max_len, kind, p=0.0, tie=None):
        super().__init__(vocab, dim, max_len, kind, p, tie)
        if kind == "sinusoidal":
            del self.position
            self.position = sinusoidal(max_len, dim)


@rejected("InputEmbedding", by="test_moves", says="float32")
class FloatTableWhateverTheModule(TwoEmbeddings):
    def forward(self, ids, start=0):
        if self.position is not None:
            return super().forward(ids, start)
        x = self.token(ids) * self.scale
        return self.drop(
            x + sinusoidal(start + ids.size(1), x.size(-1), device=ids.device)[start:].float()
        )


@rejected("InputEmbedding", by="test_state", says="parameters")
class SinusoidsAreAParameter(InputEmbedding):
    def __init__(self, vocab, dim, max_len, kind, p=0.0, tie=None):
        super().__init__(vocab, dim, max_len, kind, p, tie)
        if kind == "sinusoidal":
            del self.position
            self.position = nn.Parameter(sinusoidal(max_len, dim), requires_grad=False)


@rejected("InputEmbedding", by="test_state", says="state_dict")
class PersistentTableThatGrows(InputEmbedding):
    def __init__(self, vocab, dim, max_len, kind, p=0.0, tie=None):
        super().__init__(vocab, dim, max_len, kind, p, tie)
        if kind == "sinusoidal":
            self.register_buffer("position", sinusoidal(max_len, dim))

    def forward(self, ids, start=0):
        stop = start + ids.shape[1]
        if self.kind == "sinusoidal" and stop > len(self.position):
            self.position = sinusoidal(
                stop, self.position.shape[1], device=ids.device, dtype=self.position.dtype
            )
        return super().forward(ids, start)


@rejected("InputEmbedding", by="test_past_max_len", says="IndexError")
class IndexErrorAtTheEnd(TwoEmbeddings):
    def __init__(self, vocab, dim, max_len, kind, p=0.0, tie=None):
        super().__init__(vocab, dim, max_len, kind, p, tie)
        self.max_len = 10**9


@rejected("InputEmbedding", by="test_past_max_len", says="nothing was raised")
class LastPositionAgain(InputEmbedding):
    def forward(self, ids, start=0):
        if self.kind == "sinusoidal":
            return super().forward(ids, start)
        at = torch.arange(start, start + ids.shape[1], device=ids.device)
        rows = self.position[at.clamp(max=len(self.position) - 1)]
        return self.dropout(self.token(ids) * rows.shape[1] ** 0.5 + rows)


@rejected("InputEmbedding", by="test_past_max_len", says="max_len")
def error_without_the_name(reference: str) -> str:
    return reference.replace(
        'f"position {stop - 1} is not below max_len = {max_len}"', 'f"position {stop - 1}"'
    )


@rejected("InputEmbedding", by="test_past_max_len")
def end_off_by_one(reference: str) -> str:
    return reference.replace("if stop > max_len:", "if stop >= max_len:")


@rejected("InputEmbedding", by="test_goes_on", says="have no end")
def sinusoids_end_too(reference: str) -> str:
    return reference.replace(
        '            if self.kind == "learned":\n                raise', "            raise"
    )


@rejected("InputEmbedding", by="test_goes_on", says="start again at 0")
class SinusoidsStartOver(InputEmbedding):
    def forward(self, ids, start=0):
        if self.kind == "learned":
            return super().forward(ids, start)
        max_len, dim = self.position.shape
        at = torch.arange(start, start + ids.shape[1], device=ids.device) % max_len
        return self.dropout(self.token(ids) * dim**0.5 + self.position[at])


@rejected("InputEmbedding", by="test_dropout", says="in training")
def without_dropout(reference: str) -> str:
    return reference.replace("self.dropout = nn.Dropout(p)", "self.dropout = nn.Identity()")


@rejected("InputEmbedding", by="test_dropout", says="tokens and positions together")
def dropout_on_the_tokens_only(reference: str) -> str:
    return reference.replace(
        "self.dropout(self.token(ids) * math.sqrt(dim) + position[start:stop])",
        "self.dropout(self.token(ids) * math.sqrt(dim)) + position[start:stop]",
    )


@rejected("InputEmbedding", by="test_dropout", says="in evaluation")
class DropoutAlways(InputEmbedding):
    def __init__(self, vocab, dim, max_len, kind, p=0.0, tie=None):
        super().__init__(vocab, dim, max_len, kind, 0.0, tie)
        self.p = p

    def forward(self, ids, start=0):
        return F.dropout(super().forward(ids, start), self.p)


@rejected("InputEmbedding", by="test_dropout")
class DropoutOnBoth(InputEmbedding):
    def forward(self, ids, start=0):
        tokens = self.token(ids) * self.token.embedding_dim**0.5
        rows = super().forward(ids, start)
        return rows if not self.training else self.dropout(tokens) + self.dropout(rows - tokens)


@rejected("InputEmbedding", by="test_past_max_len", says="nothing was raised")
class LengthComparedWithoutStart(InputEmbedding):
    def forward(self, ids, start=0):
        if self.kind == "sinusoidal":
            return super().forward(ids, start)
        if ids.shape[1] > len(self.position):
            raise ValueError("max_len")
        at = (start + torch.arange(ids.shape[1], device=ids.device)) % len(self.position)
        dim = self.position.shape[1]
        return self.dropout(self.token(ids) * dim**0.5 + self.position[at])


@rejected("InputEmbedding", by="test_tied", says="two Parameters")
class AParameterOfItsOwn(InputEmbedding):
    def __init__(self, vocab, dim, max_len, kind, p=0.0, tie=None):
        super().__init__(vocab, dim, max_len, kind, p)
        if tie is not None:
            tie.weight = nn.Parameter(self.token.weight)


@rejected("InputEmbedding", by="test_value")
class PositionsByTheIds(TwoEmbeddings):
    def forward(self, ids, start=0):
        if self.position is None:
            return super().forward(ids, start)
        if start + ids.size(1) > self.max_len:
            raise ValueError("max_len")
        return self.drop(self.token(ids) * self.scale + self.position(ids % self.max_len))


@rejected("InputEmbedding", by="test_value", says="float64")
def table_in_float64(reference: str) -> str:
    return reference.replace(
        "sinusoidal(max_len, dim), persistent", "sinusoidal(max_len, dim).double(), persistent"
    )


@rejected("InputEmbedding", by="test_gradient", says="learned positions")
def positions_out_of_the_graph(reference: str) -> str:
    return reference.replace("+ position[start:stop]", "+ position[start:stop].detach()")
