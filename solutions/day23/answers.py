"""Answers to day 23 that its suite must accept or reject."""

import math

import torch
from self_attention import *
from torch import nn
from torch.nn import functional as F

from grader.answers import accepted, rejected

# Task 1: attention_weights


@accepted("attention_weights")
def with_einsum_and_where(q, k, mask=None):
    scores = torch.einsum("...id,...jd->...ij", q, k) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = torch.where(mask, scores, -torch.inf)
    return F.softmax(scores, dim=-1).nan_to_num(0.0)


@accepted("attention_weights")
def with_an_additive_bias(q, k, mask=None):
    scores = torch.matmul(q / math.sqrt(q.size(-1)), k.transpose(-2, -1))
    if mask is None:
        return torch.softmax(scores, -1)
    bias = torch.zeros_like(scores).masked_fill(mask.logical_not(), torch.finfo(q.dtype).min)
    return torch.softmax(scores + bias, -1) * mask


@accepted("attention_weights")
def with_exponentials_of_its_own(q, k, mask=None):
    scores = q @ k.mT * q.shape[-1] ** -0.5
    keep = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask.expand_as(scores)
    scores = scores.masked_fill(~keep, -math.inf)
    top = scores.amax(-1, keepdim=True)
    top = top.masked_fill(top == -math.inf, 0.0)
    parts = (scores - top.detach()).exp()
    total = parts.sum(-1, keepdim=True)
    return parts / total.masked_fill(total == 0, 1.0)


@accepted("attention_weights")
def looks_at_the_mask_first(q, k, mask=None):
    scores = q @ k.mT / q.shape[-1] ** 0.5
    if mask is None:
        return scores.softmax(-1)
    has_key = mask.any(-1, keepdim=True)
    if has_key.all():
        return scores.masked_fill(~mask, float("-inf")).softmax(-1)
    weights = scores.masked_fill(~(mask | ~has_key), float("-inf")).softmax(-1)
    return weights.masked_fill(~mask, 0)


@accepted("attention_weights")
def in_float32_on_the_way(q, k, mask=None):
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = (q.to(wide) @ k.to(wide).mT) / math.sqrt(q.shape[-1])
    if mask is None:
        return scores.log_softmax(-1).exp().to(q.dtype)
    weights = scores.masked_fill(~mask, torch.finfo(wide).min).log_softmax(-1).exp()
    return torch.where(mask, weights, 0.0).to(q.dtype)


@accepted("attention_weights")
def with_vmap(q, k, mask=None):
    if mask is None:
        mask = q.new_ones(q.shape[-2], k.shape[-2], dtype=torch.bool)
    shape = (*q.shape[:-1], k.shape[-2])
    mask = mask.expand(shape).reshape(-1, *shape[-2:])

    def one(q, k, mask):
        scores = torch.where(mask, q @ k.T / q.shape[-1] ** 0.5, torch.finfo(q.dtype).min)
        return scores.softmax(-1) * mask

    q, k = q.reshape(-1, *q.shape[-2:]), k.reshape(-1, *k.shape[-2:])
    return torch.func.vmap(one)(q, k, mask).reshape(shape)


@rejected(
    "attention_weights",
    by=("test_rows_sum_to_one", "test_causal_dependence", "test_value"),
    says="normalised over the queries (dim=-2)",
)
def softmax_over_the_queries(q, k, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is None:
        return scores.softmax(dim=-2)
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-2).masked_fill(~mask, 0.0)


@rejected("attention_weights", by=("test_scale", "test_value"), says="not divided by anything")
def not_scaled(q, k, mask=None):
    return attention_weights_unscaled(q, k, mask)


def attention_weights_unscaled(q, k, mask=None, divisor=1.0):
    scores = q @ k.mT / divisor
    if mask is None:
        return scores.softmax(dim=-1)
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1).masked_fill(~mask, 0.0)


@rejected("attention_weights", by=("test_scale", "test_value"), says="divided by dim itself")
def scaled_by_the_width(q, k, mask=None):
    return attention_weights_unscaled(q, k, mask, q.shape[-1])


@rejected("attention_weights", by=("test_scale", "test_value"), says="the number of keys")
def scaled_by_the_number_of_keys(q, k, mask=None):
    return attention_weights_unscaled(q, k, mask, math.sqrt(k.shape[-2]))


@rejected("attention_weights", by=("test_scale", "test_value"), says="the number of queries")
def scaled_by_the_number_of_queries(q, k, mask=None):
    return attention_weights_unscaled(q, k, mask, math.sqrt(q.shape[-2]))


@rejected(
    "attention_weights",
    by=("test_rows_sum_to_one", "test_causal_dependence", "test_value"),
    says="masking after the softmax leaves the removed weight in the denominator",
)
def masked_after_the_softmax(q, k, mask=None):
    weights = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(dim=-1)
    return weights if mask is None else weights.masked_fill(~mask, 0.0)


@rejected(
    "attention_weights",
    by=("test_masked_exactly_zero", "test_empty_rows", "test_causal_dependence", "test_value"),
    says="upside down",
)
def mask_upside_down(q, k, mask=None):
    return attention_weights_unscaled(q, k, None if mask is None else ~mask, math.sqrt(q.shape[-1]))


@rejected(
    "attention_weights",
    by=("test_masked_exactly_zero", "test_value", "test_causal_dependence"),
    says="is masked but has weight",
)
def mask_forgotten(q, k, mask=None):
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(dim=-1)


@rejected(
    "attention_weights", by="test_masked_exactly_zero", says="all other weights are exactly 0"
)
def masked_a_little(q, k, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return scores.softmax(-1) if mask is None else (scores - 20.0 * ~mask).softmax(-1)


@rejected("attention_weights", by="test_empty_rows", says="return zeros, not nan")
def nan_in_empty_rows(q, k, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(dim=-1)


@rejected("attention_weights", by="test_empty_rows", says="its weights sum to 1")
def even_in_empty_rows(q, k, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1)


@rejected("attention_weights", by="test_extremes", says="nan")
def exponentials_without_a_maximum(q, k, mask=None):
    parts = (q @ k.mT / math.sqrt(q.shape[-1])).exp()
    if mask is not None:
        parts = parts * mask
    total = parts.sum(-1, keepdim=True)
    return parts / torch.where(total == 0, 1.0, total)


@rejected("attention_weights", by="test_extremes")
def one_maximum_for_all_queries(q, k, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    parts = (scores - scores.max()).exp()
    if mask is not None:
        parts = parts * mask
    total = parts.sum(-1, keepdim=True)
    return parts / torch.where(total == 0, 1.0, total)


@rejected("attention_weights", by="test_extremes")
def renormalised_after_the_mask(q, k, mask=None):
    weights = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(dim=-1)
    if mask is None:
        return weights
    weights = weights * mask
    total = weights.sum(-1, keepdim=True)
    return weights / torch.where(total == 0, 1.0, total)


@rejected("attention_weights", by="test_extremes", says="overflow")
def filled_with_minus_a_billion(q, k, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is None:
        return scores.softmax(dim=-1)
    return scores.masked_fill(~mask, -1e9).softmax(dim=-1).masked_fill(~mask, 0.0)


@rejected("attention_weights", by="test_extremes")
def filled_with_minus_ten_thousand(q, k, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is None:
        return scores.softmax(dim=-1)
    return scores.masked_fill(~mask, -1e4).softmax(dim=-1).masked_fill(~mask, 0.0)


@rejected("attention_weights", by="test_extremes", says="float32; expected float16")
def float32_comes_back(q, k, mask=None):
    wide = torch.promote_types(q.dtype, torch.float32)
    return attention_weights_unscaled(q.to(wide), k.to(wide), mask, math.sqrt(q.shape[-1]))


@rejected("attention_weights", by="test_gradients")
def float32_on_the_way(q, k, mask=None):
    q32, k32 = q.float(), k.float()
    return attention_weights_unscaled(q32, k32, mask, math.sqrt(q.shape[-1])).to(q.dtype)


@rejected("attention_weights", by="test_gradients")
def without_gradients(q, k, mask=None):
    return attention_weights_unscaled(q.detach(), k.detach(), mask, math.sqrt(q.shape[-1]))


@rejected("attention_weights", by="test_gradients")
def keys_detached(q, k, mask=None):
    return attention_weights_unscaled(q, k.detach(), mask, math.sqrt(q.shape[-1]))


@rejected("attention_weights", by="test_gradients", says="the weights were nan on the way")
def zeros_in_place_of_nan_too_late(q, k, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores + torch.zeros_like(scores).masked_fill(~mask, -math.inf)
    return scores.softmax(dim=-1).nan_to_num(0.0)


@rejected("attention_weights", by="test_house_rules")
def scales_the_query_in_place(q, k, mask=None):
    with torch.no_grad():
        q /= math.sqrt(q.shape[-1])
    return attention_weights_unscaled(q, k, mask)


@rejected("attention_weights", by="test_house_rules")
def turns_the_mask_round_in_place(q, k, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is None:
        return scores.softmax(dim=-1)
    drop = mask.logical_not_()
    return scores.masked_fill(drop, torch.finfo(q.dtype).min).softmax(-1).masked_fill(drop, 0.0)


@rejected("attention_weights", by="test_house_rules", says="device")
def bias_on_the_cpu(q, k, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is None:
        return scores.softmax(dim=-1)
    bias = torch.zeros(scores.shape, dtype=q.dtype).masked_fill(~mask, torch.finfo(q.dtype).min)
    return (scores + bias).softmax(-1).masked_fill(~mask, 0.0)


@rejected("attention_weights", by="test_shape", says="swapped")
def rows_are_keys(q, k, mask=None):
    return (k @ q.mT / math.sqrt(q.shape[-1])).softmax(dim=-1)


@rejected("attention_weights", by="test_value")
def remembers_by_shape(reference: str) -> str:
    changed = reference.replace(
        "    scores = q @ k.mT / math.sqrt(q.shape[-1])\n",
        "    memory = vars(attention_weights).setdefault('memory', {})\n"
        "    scores = memory.setdefault((q.shape, k.shape, q.dtype), q @ k.mT)\n"
        "    scores = scores / math.sqrt(q.shape[-1])\n",
    )
    return changed


# Task 2: sdpa


@accepted("sdpa")
def with_positions_and_a_bias(q, k, v, mask=None, causal=False, p=0.0, training=False):
    seq_q, seq_k = q.size(-2), k.size(-2)
    allowed = torch.ones(seq_q, seq_k, dtype=torch.bool, device=q.device)
    if causal:
        i = torch.arange(seq_q, device=q.device).unsqueeze(1)
        j = torch.arange(seq_k, device=q.device).unsqueeze(0)
        allowed = j <= i + (seq_k - seq_q)
    if mask is not None:
        allowed = torch.logical_and(allowed, mask)
    scores = torch.einsum("...id,...jd->...ij", q, k) / math.sqrt(q.size(-1))
    lowest = torch.finfo(q.dtype).min
    weights = F.softmax(torch.where(allowed, scores, lowest), dim=-1) * allowed
    if training and p > 0:
        kept = torch.rand_like(weights) >= p
        weights = weights * kept / (1 - p)
    return torch.einsum("...ij,...jv->...iv", weights, v)


@accepted("sdpa")
def with_a_dropout_module_and_triu(q, k, v, mask=None, causal=False, p=0.0, training=False):
    if causal:
        ahead = k.shape[-2] - q.shape[-2] + 1
        future = q.new_ones(q.shape[-2], k.shape[-2]).triu(ahead).bool()
        mask = ~future if mask is None else ~future & mask
    dropout = nn.Dropout(p)
    dropout.train(training)
    return torch.matmul(dropout(attention_weights(q, k, mask)), v)


@accepted("sdpa")
def flips_the_usual_triangle(q, k, v, mask=None, causal=False, p=0.0, training=False):
    if causal:
        usual = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device)
        past = usual.triu().flip(0, 1) if q.shape[-2] == 0 else usual.triu().flip((0, 1))
        mask = past if mask is None else past.logical_and(mask)
    weights = attention_weights(q, k, mask)
    if training:
        weights = weights * torch.bernoulli(torch.full_like(weights, 1 - p)) / (1 - p)
    return weights @ v


def mixed(q, k, v, mask, causal, offset):
    """sdpa without dropout, its diagonal at `offset`."""
    if causal:
        ones = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device)
        past = ones.tril(offset)
        mask = past if mask is None else mask & past
    return attention_weights(q, k, mask) @ v


@rejected("sdpa", by="test_bottom_right", says="top left")
def aligned_top_left(reference: str) -> str:
    return reference.replace(".tril(seq_k - seq_q)", ".tril()")


@rejected("sdpa", by=("test_bottom_right", "test_matches_torch"), says="must see its own key too")
def diagonal_too_low(reference: str) -> str:
    return reference.replace(".tril(seq_k - seq_q)", ".tril(seq_k - seq_q - 1)")


@rejected(
    "sdpa",
    by=("test_bottom_right", "test_matches_torch", "test_sees_no_future"),
    says="of its future",
)
def diagonal_too_high(reference: str) -> str:
    return reference.replace(".tril(seq_k - seq_q)", ".tril(seq_k - seq_q + 1)")


@rejected("sdpa", by="test_bottom_right", says="wrong sign")
def offset_of_the_wrong_sign(reference: str) -> str:
    return reference.replace(".tril(seq_k - seq_q)", ".tril(seq_q - seq_k)")


@rejected("sdpa", by="test_bottom_right", says="not nan")
def nan_where_no_key_is_seen(q, k, v, mask=None, causal=False, p=0.0, training=False):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if causal:
        past = torch.ones_like(scores, dtype=torch.bool).tril(k.shape[-2] - q.shape[-2])
        mask = past if mask is None else mask & past
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return F.dropout(scores.softmax(-1), p, training) @ v


@rejected("sdpa", by="test_mask_and_causal", says="the causal mask replaces the one given")
def causal_replaces_the_mask(reference: str) -> str:
    return reference.replace("mask = past if mask is None else mask & past", "mask = past")


@rejected("sdpa", by="test_mask_and_causal", says="the mask given replaces the causal one")
def mask_replaces_causal(reference: str) -> str:
    return reference.replace("if mask is None else mask & past", "if mask is None else mask")


@rejected("sdpa", by="test_mask_and_causal", says="either mask")
def either_mask_allows(reference: str) -> str:
    return reference.replace("mask & past", "mask | past")


@rejected("sdpa", by="test_shape")
def as_wide_as_the_queries(q, k, v, mask=None, causal=False, p=0.0, training=False):
    output = mixed(q, k, v, mask, causal, k.shape[-2] - q.shape[-2])
    return output.reshape(q.shape)


@rejected("sdpa", by="test_shape", says="device=")
def causal_mask_on_the_cpu(reference: str) -> str:
    return reference.replace("dtype=torch.bool, device=q.device).tril", "dtype=torch.bool).tril")


@rejected("sdpa", by="test_shape")
def writes_into_the_mask(reference: str) -> str:
    return reference.replace("else mask & past", "else mask.logical_and_(past)")


@rejected("sdpa", by=("test_matches_torch", "test_sees_no_future"))
def causal_after_the_softmax(q, k, v, mask=None, causal=False, p=0.0, training=False):
    weights = F.dropout(attention_weights(q, k, mask), p, training)
    return (weights.tril(k.shape[-2] - q.shape[-2]) if causal else weights) @ v


@rejected("sdpa", by="test_matches_torch", says="not divided by sqrt(dim)")
def without_the_scale(reference: str) -> str:
    return reference.replace(
        "weights = attention_weights(q, k, mask)",
        "weights = attention_weights(q * math.sqrt(q.shape[-1]), k, mask)",
    )


@rejected("sdpa", by="test_gradients")
def values_detached(q, k, v, mask=None, causal=False, p=0.0, training=False):
    return (
        F.dropout(
            mixed(q, k, torch.eye(k.shape[-2]).to(v), mask, causal, k.shape[-2] - q.shape[-2]),
            p,
            training,
        )
        @ v.detach()
    )


@rejected("sdpa", by="test_dropout", says="dropping scores only sets them to 0")
def dropout_on_the_scores(q, k, v, mask=None, causal=False, p=0.0, training=False):
    return mixed(F.dropout(q, p, training), k, v, mask, causal, k.shape[-2] - q.shape[-2])


@rejected("sdpa", by="test_dropout", says="the channels of one output disagree")
def dropout_on_the_output(q, k, v, mask=None, causal=False, p=0.0, training=False):
    return F.dropout(mixed(q, k, v, mask, causal, k.shape[-2] - q.shape[-2]), p, training)


@rejected("sdpa", by="test_dropout", says="not divided by 1 - p")
def dropout_without_rescaling(reference: str) -> str:
    return reference.replace(
        "F.dropout(weights, p, training) @ v",
        "(weights * (torch.rand_like(weights) >= p) if training else weights) @ v",
    )


@rejected("sdpa", by="test_dropout", says="nothing is dropped")
def no_dropout(q, k, v, mask=None, causal=False, p=0.0, training=False):
    return mixed(q, k, v, mask, causal, k.shape[-2] - q.shape[-2])


@rejected("sdpa", by="test_dropout", says="are dropped; expected about")
def keeps_with_rate_p(reference: str) -> str:
    return reference.replace(
        "F.dropout(weights, p, training) @ v",
        "(weights * (torch.rand_like(weights) < p) / (1 - p) if training else weights) @ v",
    )


@rejected("sdpa", by="test_dropout", says="on its own")
def one_pattern_for_all_heads(reference: str) -> str:
    return reference.replace(
        "F.dropout(weights, p, training) @ v",
        "weights * F.dropout(torch.ones_like(weights[(0,) * (weights.ndim - 2)]), p, training) @ v",
    )


@rejected("sdpa", by="test_dropout_rests", says="dropout acts only in training")
def dropout_at_all_times(reference: str) -> str:
    return reference.replace("F.dropout(weights, p, training)", "F.dropout(weights, p)")


@rejected("sdpa", by="test_own_work")
def pytorch_does_it(q, k, v, mask=None, causal=False, p=0.0, training=False):
    if causal:
        past = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device)
        past = past.tril(k.shape[-2] - q.shape[-2])
        mask = past if mask is None else mask & past
    return F.scaled_dot_product_attention(q, k, v, mask, p if training else 0.0)


# Task 3: MultiHeadAttention


@accepted("MultiHeadAttention")
class WithPytorchsAttention(MultiHeadAttention):
    def forward(self, x, context=None, mask=None, causal=False, cache=None):
        batch, seq, dim = x.shape
        source = x if context is None else context
        width = dim // self.heads
        q = self.q_proj(x).view(batch, seq, self.heads, width).transpose(1, 2)
        k = self.k_proj(source).view(batch, -1, self.kv_heads, width).transpose(1, 2)
        v = self.v_proj(source).view(batch, -1, self.kv_heads, width).transpose(1, 2)
        if cache is not None:
            k, v = cache.append(k, v)
        if causal:
            past = torch.ones(seq, k.shape[2], dtype=torch.bool, device=x.device)
            past = past.tril(k.shape[2] - seq)
            mask = past if mask is None else mask & past
        p = self.p if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, mask, p, enable_gqa=True)
        return self.out_proj(out.transpose(1, 2).reshape(batch, seq, dim))


@accepted("MultiHeadAttention")
class WithEinsum(nn.Module):
    def __init__(self, dim, heads, kv_heads=None, bias=False, p=0.0):
        super().__init__()
        kv_heads = kv_heads or heads
        self.sizes = (heads, kv_heads, dim // heads)
        self.q_proj = nn.Linear(dim, heads * dim // heads, bias)
        self.k_proj = nn.Linear(dim, kv_heads * (dim // heads), bias)
        self.v_proj = nn.Linear(dim, kv_heads * (dim // heads), bias)
        self.out_proj = nn.Linear(dim, dim, bias)
        self.dropout = nn.Dropout(p)

    def forward(self, x, context=None, mask=None, causal=False, cache=None):
        heads, kv_heads, width = self.sizes
        source = context if context is not None else x
        # Queries of one group share an axis: no key is repeated.
        q = self.q_proj(x).unflatten(-1, (kv_heads, heads // kv_heads, width))
        k = self.k_proj(source).unflatten(-1, (kv_heads, width))
        v = self.v_proj(source).unflatten(-1, (kv_heads, width))
        if cache is not None:
            k, v = (t.transpose(1, 2) for t in cache.append(k.transpose(1, 2), v.transpose(1, 2)))
        scores = torch.einsum("bqghd,bkgd->bghqk", q, k) / width**0.5
        keep = scores.new_ones(scores.shape[-2:], dtype=torch.bool)
        if causal:
            keep = keep.tril(scores.shape[-1] - scores.shape[-2])
        keep = keep.expand(len(x), heads, *keep.shape)
        if mask is not None:
            keep = keep & mask
        keep = keep.reshape(scores.shape)
        scores = scores.masked_fill(~keep, torch.finfo(scores.dtype).min)
        weights = self.dropout(scores.softmax(-1).masked_fill(~keep, 0))
        return self.out_proj(torch.einsum("bghqk,bkgd->bqghd", weights, v).flatten(2))


@accepted("MultiHeadAttention")
class WithHeadsInTheBatch(MultiHeadAttention):
    def forward(self, x, context=None, mask=None, causal=False, cache=None):
        batch, seq, dim = x.shape
        source = x if context is None else context
        width = dim // self.heads

        def split(t, heads):
            return t.reshape(batch, t.shape[1], heads, width).permute(0, 2, 1, 3)

        q = split(self.q_proj(x), self.heads)
        k, v = split(self.k_proj(source), self.kv_heads), split(self.v_proj(source), self.kv_heads)
        if cache is not None:
            k, v = cache.append(k, v)
        shared = torch.arange(self.heads, device=x.device) // (self.heads // self.kv_heads)
        k, v = k[:, shared], v[:, shared]
        seq_k = k.shape[2]
        if mask is not None:
            mask = mask.expand(batch, self.heads, seq, seq_k).reshape(-1, seq, seq_k)
        flat = (t.reshape(batch * self.heads, -1, width) for t in (q, k, v))
        out = sdpa(*flat, mask, causal, self.p, self.training)
        out = out.view(batch, self.heads, seq, width).permute(0, 2, 1, 3).contiguous()
        return self.out_proj(out.view(batch, seq, dim))


SPLIT_Q = "self.q_proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)"
MERGE = "heads.transpose(1, 2).flatten(-2)"


@rejected(
    "MultiHeadAttention",
    by=("test_value", "test_head_order", "test_learns"),
    says="the heads were split by a view",
)
def view_in_place_of_transpose(reference: str) -> str:
    return re.sub(
        r"(self\.(.)_proj\((x|source)\))\.unflatten\(-1, \((self\.\w+), -1\)\)\.transpose\(1, 2\)",
        r"(lambda t: t.view(len(t), \4, t.shape[1], -1))(\1.contiguous())",
        reference,
    )


@rejected("MultiHeadAttention", by=("test_value", "test_head_order"), says="every heads-th channel")
def channels_interleaved(reference: str) -> str:
    for name in ("heads", "kv_heads"):
        reference = reference.replace(
            f".unflatten(-1, (self.{name}, -1)).transpose(1, 2)",
            f".unflatten(-1, (-1, self.{name})).permute(0, 3, 1, 2)",
        )
    return reference.replace(MERGE, "heads.permute(0, 2, 3, 1).flatten(-2)")


@rejected("MultiHeadAttention", by="test_value", says="the heads were merged by a view")
def merged_without_transpose(reference: str) -> str:
    return reference.replace(MERGE, "heads.reshape(x.shape)")


@rejected("MultiHeadAttention", by=("test_value", "test_head_order"))
def merged_channel_first(reference: str) -> str:
    return reference.replace(MERGE, "heads.permute(0, 2, 3, 1).flatten(-2)")


@rejected(
    "MultiHeadAttention",
    by=("test_value", "test_matches_torch"),
    says="the scores are divided by sqrt(dim)",
)
def scaled_by_the_whole_width(reference: str) -> str:
    return reference.replace("= sdpa(q, k", "= sdpa(q / self.heads**0.5, k")


@rejected("MultiHeadAttention", by="test_value", says="out_proj is not applied")
def without_the_last_projection(reference: str) -> str:
    return reference.replace(f"self.out_proj({MERGE})", MERGE)


@rejected("MultiHeadAttention", by="test_grouped", says="repeat_interleave")
def kv_heads_repeated_in_turn(reference: str) -> str:
    return reference.replace(
        "k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)",
        "k.repeat(1, group, 1, 1), v.repeat(1, group, 1, 1)",
    )


@rejected("MultiHeadAttention", by="test_grouped")
def only_the_keys_in_groups(reference: str) -> str:
    return reference.replace("v.repeat_interleave(group, dim=1)", "v.repeat(1, group, 1, 1)")


@rejected("MultiHeadAttention", by="test_shape", says="the queries come from x")
def queries_from_the_context(reference: str) -> str:
    return reference.replace("self.q_proj(x)", "self.q_proj(source)")


@rejected("MultiHeadAttention", by="test_cross")
def only_the_values_from_the_context(reference: str) -> str:
    return reference.replace(
        "self.k_proj(source)", "self.k_proj(x if x.shape == source.shape else source)"
    )


@rejected("MultiHeadAttention", by="test_cross", says="the context is not used")
def context_ignored(reference: str) -> str:
    return reference.replace("source = x if context is None else context", "source = x")


@rejected("MultiHeadAttention", by="test_masks", says="the mask is not applied")
def mask_dropped(reference: str) -> str:
    return reference.replace("sdpa(q, k, v, mask, causal", "sdpa(q, k, v, None, causal")


@rejected("MultiHeadAttention", by="test_masks", says="upside down")
def mask_for_keys_to_drop(reference: str) -> str:
    return reference.replace(
        "sdpa(q, k, v, mask, causal", "sdpa(q, k, v, None if mask is None else ~mask, causal"
    )


@rejected("MultiHeadAttention", by="test_masks")
def one_mask_for_all_heads(reference: str) -> str:
    return reference.replace(
        "sdpa(q, k, v, mask, causal",
        "sdpa(q, k, v, mask if mask is None or mask.ndim < 3 else mask[..., :1, :, :], causal",
    )


@rejected("MultiHeadAttention", by="test_dependence", says="its future")
def causal_ignored(reference: str) -> str:
    return reference.replace(
        "sdpa(q, k, v, mask, causal, self.p", "sdpa(q, k, v, mask, False, self.p"
    )


@rejected("MultiHeadAttention", by="test_dependence", says="depends on example")
def examples_mixed(reference: str) -> str:
    return reference.replace(
        "k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)",
        "k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)\n"
        "        k = k - 0.1 * k.mean(0)",
    )


@rejected("MultiHeadAttention", by="test_shape")
def sequence_first(reference: str) -> str:
    return reference.replace(f"self.out_proj({MERGE})", f"self.out_proj({MERGE}).transpose(0, 1)")


@rejected("MultiHeadAttention", by="test_edges", says="batch")
def squeezed(reference: str) -> str:
    return reference.replace(f"self.out_proj({MERGE})", f"self.out_proj({MERGE}).squeeze(0)")


@rejected("MultiHeadAttention", by="test_edges")
def one_head_left_out(reference: str) -> str:
    return reference.replace(
        "        group = self.heads // self.kv_heads\n",
        "        if self.heads == 1:\n"
        "            return self.out_proj(sdpa(q, k, v, mask)[:, 0])\n"
        "        group = self.heads // self.kv_heads\n",
    )


@rejected("MultiHeadAttention", by="test_edges")
def heads_split_in_memory_order(reference: str) -> str:
    return reference.replace(
        "        source = x if context is None else context\n",
        "        x = x.as_strided(x.shape, (x.shape[1] * x.shape[2], x.shape[2], 1))\n"
        "        source = x if context is None else context\n",
    )


@rejected("MultiHeadAttention", by="test_projections", says="k_proj")
def full_keys_and_values(reference: str) -> str:
    return reference.replace("kv_dim = dim // heads * self.kv_heads", "kv_dim = dim")


@rejected("MultiHeadAttention", by="test_projections", says="bias")
def always_with_a_bias(reference: str) -> str:
    return reference.replace("nn.Linear(dim, dim, bias=bias)", "nn.Linear(dim, dim)")


@rejected("MultiHeadAttention", by="test_projections", says="parameters")
def one_parameter_too_many(reference: str) -> str:
    return reference.replace(
        "        self.p = p\n",
        "        self.p = p\n        self.scale = nn.Parameter(torch.ones(()))\n",
    )


@rejected("MultiHeadAttention", by="test_projections", says="expected nn.Linear")
class PytorchsLayer(nn.Module):
    def __init__(self, dim, heads, kv_heads=None, bias=False, p=0.0):
        super().__init__()
        self.layer = nn.MultiheadAttention(dim, heads, p, bias, batch_first=True)

    def forward(self, x, context=None, mask=None, causal=False, cache=None):
        source = x if context is None else context
        return self.layer(x, source, source)[0]


@rejected("MultiHeadAttention", by="test_value", says="task 3 asks for your own layer")
class PytorchsFunction(MultiHeadAttention):
    def forward(self, x, context=None, mask=None, causal=False, cache=None):
        source = (x if context is None else context).transpose(0, 1)
        weights = torch.cat([self.q_proj.weight, self.k_proj.weight, self.v_proj.weight])
        bias = None
        if self.q_proj.bias is not None:
            bias = torch.cat([self.q_proj.bias, self.k_proj.bias, self.v_proj.bias])
        out, _ = F.multi_head_attention_forward(
            x.transpose(0, 1),
            source,
            source,
            x.shape[-1],
            self.heads,
            weights,
            bias,
            None,
            None,
            False,
            0.0,
            self.out_proj.weight,
            self.out_proj.bias,
        )
        return out.transpose(0, 1)


@rejected("MultiHeadAttention", by=("test_value", "test_matches_torch"))
def bias_of_the_output_twice(reference: str) -> str:
    return reference.replace(
        f"return self.out_proj({MERGE})",
        f"out = self.out_proj({MERGE})\n"
        "        return out if self.out_proj.bias is None else out + self.out_proj.bias",
    )


@rejected("MultiHeadAttention", by=("test_gradients", "test_learns"))
def values_without_gradients(reference: str) -> str:
    return reference.replace(
        "= sdpa(q, k, v, mask", "= sdpa(q.detach(), k.detach(), v.detach(), mask"
    )


@rejected("MultiHeadAttention", by="test_gradients")
def attends_without_gradients(reference: str) -> str:
    return reference.replace("= sdpa(q, k, v, mask", "= sdpa(q.detach(), k, v, mask")


@rejected("MultiHeadAttention", by="test_dropout", says="in eval mode")
def dropout_in_eval(reference: str) -> str:
    return reference.replace("causal, self.p, self.training)", "causal, self.p, True)")


@rejected("MultiHeadAttention", by="test_dropout", says="nothing is dropped")
def layer_without_dropout(reference: str) -> str:
    return reference.replace("causal, self.p, self.training)", "causal)")


@rejected("MultiHeadAttention", by="test_dropout", says="dropped together")
def dropout_of_whole_outputs(reference: str) -> str:
    return reference.replace(
        "sdpa(q, k, v, mask, causal, self.p, self.training)",
        "sdpa(q, k, v, mask, causal)"
        " * F.dropout(torch.ones_like(q[..., :1]), self.p, self.training)",
    )


@rejected("MultiHeadAttention", by="test_no_loop")
def head_after_head(reference: str) -> str:
    return reference.replace(
        "heads = sdpa(q, k, v, mask, causal, self.p, self.training)",
        "masks = [mask] * self.heads if mask is None else mask.expand("
        "len(x), self.heads, q.shape[2], k.shape[2]).unbind(1)\n"
        "        heads = torch.stack([sdpa(q[:, h], k[:, h], v[:, h], masks[h], causal, self.p, "
        "self.training) for h in range(self.heads)], dim=1)",
    )


@rejected("MultiHeadAttention", by="test_house_rules")
def normalises_the_input_in_place(reference: str) -> str:
    return reference.replace(
        f"        return self.out_proj({MERGE})",
        f"        out = self.out_proj({MERGE})\n        x.detach().mul_(0.5)\n        return out",
    )


@rejected("MultiHeadAttention", by="test_house_rules", says="device")
def heads_collected_on_the_cpu(reference: str) -> str:
    return reference.replace(
        "        group = self.heads // self.kv_heads\n",
        "        group = self.heads // self.kv_heads\n"
        "        if causal:\n"
        "            past = torch.ones(q.shape[2], k.shape[2]).tril(k.shape[2] - q.shape[2]) > 0\n"
        "            mask, causal = past if mask is None else mask & past, False\n",
    )


# Task 4: to_sdpa_mask


@accepted("to_sdpa_mask")
def with_where(key_padding_mask, attn_mask):
    keep = key_padding_mask.logical_not().unsqueeze(1).unsqueeze(1)
    if attn_mask is None:
        return keep
    if attn_mask.is_floating_point():
        return torch.where(keep, attn_mask, float("-inf"))
    return keep & ~attn_mask


@accepted("to_sdpa_mask")
def with_a_sum_of_infinities(key_padding_mask, attn_mask):
    batch, seq_k = key_padding_mask.shape
    ignored = key_padding_mask.view(batch, 1, 1, seq_k)
    if attn_mask is None:
        return torch.logical_not(ignored)
    if attn_mask.dtype is torch.bool:
        return torch.logical_or(ignored, attn_mask[None, None]).logical_not()
    padding = torch.zeros(ignored.shape, dtype=attn_mask.dtype, device=attn_mask.device)
    return padding.masked_fill_(ignored, -torch.inf) + attn_mask


@rejected("to_sdpa_mask", by=("test_padding_alone", "test_bool"), says="what to ignore")
def polarity_kept(key_padding_mask, attn_mask):
    padding = key_padding_mask[:, None, None, :]
    if attn_mask is None:
        return padding.clone()
    if attn_mask.dtype == torch.bool:
        return padding | attn_mask
    return attn_mask.masked_fill(padding, -math.inf)


@rejected("to_sdpa_mask", by=("test_bool", "test_same_effect"), says="attn_mask is not")
def attn_mask_kept_as_it_is(key_padding_mask, attn_mask):
    padding = key_padding_mask[:, None, None, :]
    if attn_mask is None:
        return ~padding
    if attn_mask.dtype == torch.bool:
        return ~padding & attn_mask
    return attn_mask.masked_fill(padding, -math.inf)


@rejected("to_sdpa_mask", by="test_bool", says="if one of the masks allows it")
def ignored_by_both(reference: str) -> str:
    return reference.replace("~(padding | attn_mask)", "~(padding & attn_mask)")


@rejected("to_sdpa_mask", by="test_float", says="0 and 1")
def zeros_and_ones_added(reference: str) -> str:
    return reference.replace("attn_mask.masked_fill(padding, -math.inf)", "attn_mask + padding")


@rejected("to_sdpa_mask", by=("test_float", "test_same_effect"), says="0 * -inf is nan")
def zero_times_infinity(reference: str) -> str:
    return reference.replace(
        "attn_mask.masked_fill(padding, -math.inf)",
        "attn_mask + padding.to(attn_mask.dtype) * -math.inf",
    )


@rejected("to_sdpa_mask", by=("test_float", "test_same_effect"), says="True means ignore")
def float_masks_keep_the_padding(reference: str) -> str:
    return reference.replace("attn_mask.masked_fill(padding,", "attn_mask.masked_fill(~padding,")


@rejected("to_sdpa_mask", by="test_float", says="expected -inf")
def a_billion_for_infinity(reference: str) -> str:
    return reference.replace(
        "attn_mask.masked_fill(padding, -math.inf)",
        "attn_mask.masked_fill(padding, torch.finfo(attn_mask.dtype).min)",
    )


@rejected("to_sdpa_mask", by="test_form")
def masks_queries(reference: str) -> str:
    return reference.replace(
        "key_padding_mask[:, None, None, :]", "key_padding_mask[:, None, :, None]"
    )


@rejected("to_sdpa_mask", by="test_bool", says="it must mask keys")
def masks_queries_where_it_can(reference: str) -> str:
    return reference.replace(
        "    if attn_mask.dtype == torch.bool:\n",
        "    if attn_mask is not None and attn_mask.shape[0] == attn_mask.shape[1]:\n"
        "        padding = padding.mT\n"
        "    if attn_mask.dtype == torch.bool:\n",
    )


@rejected("to_sdpa_mask", by="test_form")
def without_an_axis_for_heads(reference: str) -> str:
    return reference.replace("key_padding_mask[:, None, None, :]", "key_padding_mask[:, None, :]")


@rejected("to_sdpa_mask", by="test_form")
def without_an_axis_for_queries(reference: str) -> str:
    return reference.replace("        return ~padding\n", "        return ~key_padding_mask\n")


@rejected("to_sdpa_mask", by="test_form", says="float32; expected float64")
def always_float32(reference: str) -> str:
    return reference.replace(
        "return attn_mask.masked_fill(", "return attn_mask.float().masked_fill("
    )


@rejected("to_sdpa_mask", by="test_form", says="device")
def padding_on_the_cpu(reference: str) -> str:
    return reference.replace(
        "attn_mask.masked_fill(padding, -math.inf)",
        "attn_mask + "
        "torch.zeros(padding.shape, dtype=attn_mask.dtype).masked_fill(padding, -math.inf)",
    )


@rejected("to_sdpa_mask", by="test_unchanged")
def turned_round_in_place(reference: str) -> str:
    return reference.replace("        return ~padding\n", "        return padding.logical_not_()\n")


# Task 5: KVCache


@accepted("KVCache")
class OneTensorForBoth:
    def __init__(self, batch, kv_heads, max_len, dim, dtype, device):
        self.memory = torch.empty(2, batch, kv_heads, max_len, dim, dtype=dtype, device=device)
        self._length = 0

    @property
    def length(self):
        return self._length

    @torch.no_grad()
    def append(self, k, v):
        t = k.size(2)
        if self._length + t > self.memory.size(3):
            raise ValueError("the cache is full")
        for place, new in zip(self.memory, (k, v), strict=True):
            place.narrow(2, self._length, t).copy_(new)
        self._length += t
        keys, values = self.memory.narrow(3, 0, self._length)
        return keys, values

    def reorder(self, idx):
        self.memory.copy_(self.memory.index_select(1, idx))

    def truncate(self, n):
        self._length = n


@accepted("KVCache")
class TokensBeforeHeads:
    def __init__(self, batch, kv_heads, max_len, dim, dtype, device):
        self.max_len, self.length = max_len, 0
        self.k = torch.zeros(batch, max_len, kv_heads, dim, dtype=dtype, device=device)
        self.v = torch.zeros_like(self.k)

    def append(self, k, v):
        start, stop = self.length, self.length + k.shape[2]
        if stop > self.max_len:
            raise ValueError(f"no room for {stop} tokens")
        with torch.no_grad():
            self.k[:, start:stop] = k.transpose(1, 2)
            self.v[:, start:stop] = v.transpose(1, 2)
        self.length = stop
        return self.k[:, :stop].transpose(1, 2), self.v[:, :stop].transpose(1, 2)

    def reorder(self, idx):
        self.k[:, : self.length] = self.k[idx, : self.length]
        self.v[:, : self.length] = self.v[idx, : self.length]

    def truncate(self, n):
        self.length = n
        self.k[:, n:].zero_()
        self.v[:, n:].zero_()


@rejected("KVCache", by="test_allocates_once", says="copy")
class Concatenates(KVCache):
    def append(self, k, v):
        if self.length + k.shape[2] > self.keys.shape[2]:
            raise ValueError("full")
        old_k, old_v = self.keys[:, :, : self.length], self.values[:, :, : self.length]
        k, v = torch.cat([old_k, k.detach()], 2), torch.cat([old_v, v.detach()], 2)
        self.keys[:, :, : k.shape[2]], self.values[:, :, : k.shape[2]] = k, v
        self.length = k.shape[2]
        return k, v


@rejected("KVCache", by="test_allocates_once", says="copy")
def hands_out_copies(reference: str) -> str:
    return reference.replace(
        "return self.keys[:, :, :end], self.values[:, :, :end]",
        "return self.keys[:, :, :end].clone(), self.values[:, :, :end].clone()",
    )


@rejected("KVCache", by="test_allocates_once", says="somewhere else")
def moves_at_each_append(reference: str) -> str:
    return reference.replace(
        "        self.length = end\n",
        "        self.length = end\n"
        "        self.keys, self.values = self.keys.clone(), self.values.clone()\n",
    )


@rejected("KVCache", by="test_allocates_once", says="bytes")
def four_times_the_memory(reference: str) -> str:
    return reference.replace(
        "shape = batch, kv_heads, max_len, dim\n", "shape = batch, kv_heads, 4 * max_len, dim\n"
    ).replace("if end > self.keys.shape[-2]:", "if 4 * end > self.keys.shape[-2]:")


@rejected("KVCache", by="test_append", says="after a second append")
def overwrites_from_the_start(reference: str) -> str:
    return reference.replace(
        "end = self.length + k.shape[-2]", "self.length = 0\n        end = k.shape[-2]"
    )


@rejected("KVCache", by="test_append")
def returns_all_the_memory(reference: str) -> str:
    return reference.replace(
        "return self.keys[:, :, :end], self.values[:, :, :end]", "return self.keys, self.values"
    )


@rejected("KVCache", by="test_append")
def returns_only_the_new(reference: str) -> str:
    return reference.replace("return self.keys[:, :, :end], self.values[:, :, :end]", "return k, v")


@rejected("KVCache", by="test_append", says="float32; expected float16")
def cache_always_float32(reference: str) -> str:
    return reference.replace(
        "self.keys = torch.zeros(shape, dtype=dtype, device=device)",
        "dtype = dtype if dtype == torch.float64 else torch.float32\n"
        "        self.keys = torch.zeros(shape, dtype=dtype, device=device)",
    )


@rejected("KVCache", by="test_append", says="device")
def cache_on_the_cpu(reference: str) -> str:
    return reference.replace(
        "torch.zeros(shape, dtype=dtype, device=device)", "torch.zeros(shape, dtype=dtype)"
    )


@rejected("KVCache", by="test_overflow", says="ValueError")
def no_word_about_overflow(reference: str) -> str:
    return reference.replace(
        '            raise ValueError(f"{end} entries do not fit into {self.keys.shape[-2]}")\n',
        "            return self.keys, self.values\n",
    )


@rejected("KVCache", by="test_overflow", says="expected a ValueError")
def leaves_overflow_to_torch(reference: str) -> str:
    return reference.replace(
        "        if end > self.keys.shape[-2]:\n"
        '            raise ValueError(f"{end} entries do not fit into {self.keys.shape[-2]}")\n',
        "",
    )


@rejected("KVCache", by="test_overflow", says="length is")
def counts_before_it_refuses(reference: str) -> str:
    return reference.replace(
        "        if end > self.keys.shape[-2]:\n",
        "        self.length, before = end, self.length\n        if end > self.keys.shape[-2]:\n",
    ).replace("self.length : end] =", "before : end] =")


@rejected("KVCache", by="test_overflow")
def drops_the_oldest(reference: str) -> str:
    return reference.replace(
        '            raise ValueError(f"',
        '            self.keys = self.keys.roll(-1, 2)\n            raise ValueError(f"',
    )


@rejected("KVCache", by="test_no_graph", says="require a gradient")
class KeepsGraphs(KVCache):
    def append(self, k, v):
        end = self.length + k.shape[2]
        if end > self.keys.shape[2]:
            raise ValueError("full")
        self.keys[:, :, self.length : end] = k
        self.values[:, :, self.length : end] = v
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


@rejected("KVCache", by=("test_reorder", "test_beam"), says="overwritten in place")
class ReordersRowByRow(KVCache):
    def reorder(self, idx):
        for row, source in enumerate(idx.tolist()):
            self.keys[row] = self.keys[source]
            self.values[row] = self.values[source]


@rejected("KVCache", by="test_reorder", says="must become what row idx[b] was")
class ReordersTheOtherWay(KVCache):
    def reorder(self, idx):
        keys, values = self.keys.clone(), self.values.clone()
        self.keys[idx], self.values[idx] = keys, values


@rejected("KVCache", by="test_reorder", says="the values")
class ReordersKeysOnly(KVCache):
    def reorder(self, idx):
        self.keys = self.keys[idx]


@rejected("KVCache", by="test_reorder")
class ReorderedRowsAreShared(KVCache):
    def reorder(self, idx):
        if len(idx.unique()) == 1:
            self.keys = self.keys[idx[:1]].expand_as(self.keys)
            self.values = self.values[idx[:1]].expand_as(self.values)
        else:
            self.keys, self.values = self.keys[idx], self.values[idx]


@rejected("KVCache", by="test_truncate", says="after truncate")
class TruncatesByN(KVCache):
    def truncate(self, n):
        self.length -= n


@rejected("KVCache", by="test_truncate")
class TruncatesTheStart(KVCache):
    def truncate(self, n):
        self.keys = self.keys.roll(n - self.length, 2)
        self.values = self.values.roll(n - self.length, 2)
        self.length = n


@rejected("KVCache", by=("test_token_by_token", "test_chunks"), says="top left")
def layer_aligned_top_left(reference: str) -> str:
    return reference.replace(
        "heads = sdpa(q, k, v, mask, causal, self.p, self.training)",
        "heads = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)",
    )


@rejected("KVCache", by=("test_token_by_token", "test_chunks"), says="not used")
def layer_without_the_cached(reference: str) -> str:
    return reference.replace("k, v = cache.append(k, v)", "cache.append(k, v)")


@rejected("KVCache", by="test_chunks", says="each other's future")
def layer_without_causal_when_cached(reference: str) -> str:
    return reference.replace(
        "k, v = cache.append(k, v)", "k, v = cache.append(k, v)\n            causal = False"
    )


@rejected("KVCache", by=("test_token_by_token", "test_chunks"))
def layer_appends_values_first(reference: str) -> str:
    return reference.replace("k, v = cache.append(k, v)", "v, k = cache.append(v, k)[::-1]")


@rejected("KVCache", by="test_speed", says="times as long")
class WritesTokenByToken(KVCache):
    def append(self, k, v):
        end = self.length + k.shape[2]
        if end > self.keys.shape[2]:
            raise ValueError("full")
        new_k = torch.cat([self.keys[:, :, : self.length], k.detach()], 2)
        new_v = torch.cat([self.values[:, :, : self.length], v.detach()], 2)
        for i in range(end):
            self.keys[:, :, i] = new_k[:, :, i]
            self.values[:, :, i] = new_v[:, :, i]
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


# Task 6: FlashAttention

LOOP = (
    "        for start in range(0, k.shape[-2], block):\n            rows = slice(start if causal"
)


@accepted("FlashAttention")
class TilesOfBoth(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, causal, block):
        q32, k32, v32 = (t.float() if t.dtype == torch.float16 else t for t in (q, k, v))
        scale = q.shape[-1] ** -0.5
        outs, lses = [], []
        for i in range(0, q.shape[2], block):
            qi = q32[:, :, i : i + block]
            m = qi.new_full(qi.shape[:-1], -torch.inf)
            l, o = torch.zeros_like(m), torch.zeros_like(qi)
            for j in range(0, k.shape[2], block):
                if causal and j >= i + block:
                    break
                kj, vj = k32[:, :, j : j + block], v32[:, :, j : j + block]
                s = torch.einsum("bhid,bhjd->bhij", qi, kj) * scale
                if causal and j + block > i:
                    rows = torch.arange(i, i + s.shape[2], device=q.device)[:, None]
                    columns = torch.arange(j, j + s.shape[3], device=q.device)
                    s = torch.where(columns <= rows, s, -torch.inf)
                m_new = torch.maximum(m, s.max(-1).values)
                a = torch.exp(m - m_new)
                e = torch.exp(s - m_new[..., None])
                l = a * l + e.sum(-1)
                o = a[..., None] * o + torch.einsum("bhij,bhjd->bhid", e, vj)
                m = m_new
            outs.append(o / l[..., None])
            lses.append(m + torch.log(l))
        out, lse = torch.cat(outs, 2).to(q.dtype), torch.cat(lses, 2)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.options = causal, block, scale
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        q, k, v, out, lse = ctx.saved_tensors
        causal, block, scale = ctx.options
        dtype = lse.dtype
        dq, dk, dv = (torch.zeros(t.shape, dtype=dtype, device=t.device) for t in (q, k, v))
        q, k, v, out, grad = (t.to(dtype) for t in (q, k, v, out, grad))
        d = (grad * out).sum(-1)
        for i in range(0, q.shape[2], block):
            si = slice(i, i + block)
            for j in range(0, min(k.shape[2], i + block) if causal else k.shape[2], block):
                sj = slice(j, j + block)
                s = q[:, :, si] @ k[:, :, sj].transpose(2, 3) * scale
                p = torch.exp(s - lse[:, :, si, None])
                if causal:
                    p = p.tril(i - j)
                dv[:, :, sj] += p.transpose(2, 3) @ grad[:, :, si]
                dp = grad[:, :, si] @ v[:, :, sj].transpose(2, 3)
                ds = p * (dp - d[:, :, si, None]) * scale
                dq[:, :, si] += ds @ k[:, :, sj]
                dk[:, :, sj] += ds.transpose(2, 3) @ q[:, :, si]
        return dq, dk, dv, None, None


@accepted("FlashAttention")
class WithASetupOfTheContext(torch.autograd.Function):
    @staticmethod
    def forward(q, k, v, causal, block):
        batch, heads, seq_q, dim = q.shape
        wide = torch.promote_types(q.dtype, torch.float32)
        out = torch.zeros(q.shape, dtype=wide, device=q.device)
        lse = torch.full((batch, heads, seq_q, 1), -torch.inf, dtype=wide, device=q.device)
        for j in range(0, k.shape[2], block):
            first = j if causal else 0
            tile = q[:, :, first:].to(wide) @ k[:, :, j : j + block].to(wide).mT / dim**0.5
            if causal:
                tile = tile + torch.full_like(tile, -torch.inf).triu(1)
            # Each block is attention of its own; two of them join by their log-sum-exps.
            part_lse = tile.logsumexp(-1, keepdim=True)
            part = (tile - part_lse).exp() @ v[:, :, j : j + block].to(wide)
            both = torch.logaddexp(lse[:, :, first:], part_lse)
            out[:, :, first:] = (
                out[:, :, first:] * (lse[:, :, first:] - both).exp()
                + part * (part_lse - both).exp()
            )
            lse[:, :, first:] = both
        return out.to(q.dtype), lse

    @staticmethod
    def setup_context(ctx, inputs, output):
        q, k, v, ctx.causal, ctx.block = inputs
        out, lse = output
        ctx.mark_non_differentiable(lse)
        ctx.save_for_backward(q, k, v, out, lse)

    @staticmethod
    def backward(ctx, grad, _):
        q, k, v, out, lse = ctx.saved_tensors
        scale, wide = q.shape[-1] ** -0.5, lse.dtype
        grad, qw, kw, vw = (t.to(wide) for t in (grad, q, k, v))
        d = (grad * out.to(wide)).sum(-1, keepdim=True)
        dq, dks, dvs = torch.zeros_like(qw), [], []
        for kj, vj, j in zip(
            kw.split(ctx.block, 2), vw.split(ctx.block, 2), range(0, k.shape[2], ctx.block)
        ):
            rows = slice(j if ctx.causal else 0, None)
            p = (qw[:, :, rows] @ kj.mT * scale - lse[:, :, rows]).exp()
            p = p.tril() if ctx.causal else p
            ds = p * (grad[:, :, rows] @ vj.mT - d[:, :, rows])
            dq[:, :, rows] += ds @ kj * scale
            dks.append(ds.mT @ qw[:, :, rows] * scale)
            dvs.append(p.mT @ grad[:, :, rows])
        return (
            dq.to(q.dtype),
            torch.cat(dks, 2).to(k.dtype),
            torch.cat(dvs, 2).to(v.dtype),
            None,
            None,
        )

    @classmethod
    def apply(cls, q, k, v, causal, block):
        return super().apply(q, k, v, causal, block)[0]


@rejected("FlashAttention", by="test_value", says="the output so far is not rescaled")
def output_not_rescaled(reference: str) -> str:
    return reference.replace("out[..., rows, :] * shrink + tile", "out[..., rows, :] + tile")


@rejected("FlashAttention", by="test_value", says="the sum so far is not rescaled")
def sum_not_rescaled(reference: str) -> str:
    return reference.replace("total[..., rows, :] * shrink + tile", "total[..., rows, :] + tile")


@rejected("FlashAttention", by="test_value", says="neither the sum nor the output")
def nothing_rescaled(reference: str) -> str:
    return reference.replace("[..., rows, :] * shrink + tile", "[..., rows, :] + tile")


@rejected("FlashAttention", by="test_value", says="its own maximum")
def maximum_of_the_block_only(reference: str) -> str:
    return reference.replace("[..., rows, :] * shrink + tile", "[..., rows, :] + tile").replace(
        "torch.maximum(top[..., rows, :], scores.amax(dim=-1, keepdim=True))",
        "scores.amax(dim=-1, keepdim=True)",
    )


@rejected("FlashAttention", by="test_value", says="normalised on its own")
def each_block_normalised(reference: str) -> str:
    return reference.replace(
        "out[..., rows, :] = out[..., rows, :] * shrink + tile @ v_block",
        "out[..., rows, :] = out[..., rows, :] + scores.softmax(-1) @ v_block",
    ).replace("(out / total)", "(out)")


@rejected("FlashAttention", by="test_value", says="scaled by 1 / sqrt(dim)")
def flash_without_the_scale(reference: str) -> str:
    return reference.replace("scaled = q.to(wide) / math.sqrt(q.shape[-1])", "scaled = q.to(wide)")


@rejected("FlashAttention", by="test_value")
def last_block_left_out(reference: str) -> str:
    return reference.replace(
        "for start in range(0, k.shape[-2], block):",
        "for start in range(0, max(k.shape[-2] - block + 1, 1), block):",
    )


@rejected("FlashAttention", by="test_value", says="task 6 asks for your own")
class PytorchForward(FlashAttention):
    @staticmethod
    def forward(ctx, q, k, v, causal, block):
        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        ctx.causal, ctx.block = causal, block
        return out


@rejected("FlashAttention", by="test_huge_scores", says="nan")
def without_a_running_maximum(reference: str) -> str:
    return reference.replace(
        "new_top = torch.maximum(top[..., rows, :], scores.amax(dim=-1, keepdim=True))",
        "new_top = torch.zeros_like(top[..., rows, :])",
    )


@rejected("FlashAttention", by="test_causal", says="positions within the tiles")
class CausalByLocalIndex(FlashAttention):
    @staticmethod
    def forward(ctx, q, k, v, causal, block):
        blocks_q, outs, lses = q.split(block, 2), [], []
        for i, qi in enumerate(blocks_q):
            tiles = []
            for kj in k.split(block, 2)[: i + 1] if causal else k.split(block, 2):
                tile = qi @ kj.mT / math.sqrt(q.shape[-1])
                if causal:
                    keep = torch.ones_like(tile, dtype=torch.bool).tril()
                    tile = tile.masked_fill(~keep, -math.inf)
                tiles.append(tile)
            row = torch.cat(tiles, -1)
            outs.append(row.softmax(-1) @ v[:, :, : row.shape[-1]])
            lses.append(row.logsumexp(-1, keepdim=True))
        out = torch.cat(outs, 2)
        ctx.save_for_backward(q, k, v, out, torch.cat(lses, 2))
        ctx.causal, ctx.block = causal, block
        return out


@rejected("FlashAttention", by="test_causal", says="causal has no effect")
def flash_never_causal(reference: str) -> str:
    return reference.replace(
        "        wide = torch.promote_types(q.dtype, torch.float32)\n",
        "        causal = False\n        wide = torch.promote_types(q.dtype, torch.float32)\n",
    )


@rejected("FlashAttention", by="test_causal")
def diagonal_masked_too(reference: str) -> str:
    return reference.replace(
        "dtype=torch.bool).triu(1), -math.inf)", "dtype=torch.bool).triu(0), -1e30)"
    )


@rejected("FlashAttention", by="test_cross")
def as_many_keys_as_queries(reference: str) -> str:
    return reference.replace(
        "for start in range(0, k.shape[-2], block):", "for start in range(0, q.shape[-2], block):"
    )


@rejected("FlashAttention", by="test_cross", says="changed")
def scales_q_in_place(reference: str) -> str:
    return reference.replace(
        "scaled = q.to(wide) / math.sqrt(q.shape[-1])",
        "scaled = q.detach().to(wide).div_(math.sqrt(q.shape[-1]))",
    )


@rejected("FlashAttention", by="test_cross", says="device")
def accumulates_on_the_cpu(reference: str) -> str:
    return reference.replace(
        "out = torch.zeros_like(scaled)", "out = torch.zeros(scaled.shape, dtype=wide)"
    )


@rejected("FlashAttention", by=("test_gradients", "test_upstream"))
def without_the_mean(reference: str) -> str:
    return reference.replace(" @ v_block.mT - mean[..., rows, :])", " @ v_block.mT)")


@rejected("FlashAttention", by=("test_gradients", "test_upstream"))
def grad_output_forgotten(reference: str) -> str:
    return reference.replace(
        "wide_q, grad = q.to(lse.dtype), grad.to(lse.dtype)",
        "wide_q, grad = q.to(lse.dtype), torch.ones_like(grad, dtype=lse.dtype)",
    )


@rejected("FlashAttention", by=("test_gradients", "test_upstream"))
def gradient_without_the_scale(reference: str) -> str:
    return reference.replace("- mean[..., rows, :]) * scale", "- mean[..., rows, :])")


@rejected("FlashAttention", by="test_gradients")
def gradient_never_causal(reference: str) -> str:
    return reference.replace("            if ctx.causal:\n                tile = tile.tril()\n", "")


@rejected("FlashAttention", by=("test_gradients", "test_upstream"))
def gradient_of_the_last_block_only(reference: str) -> str:
    return reference.replace(
        "grad_q[..., rows, :] += grad_tile", "grad_q[..., rows, :] = grad_tile"
    )


@rejected("FlashAttention", by=("test_gradients", "test_upstream"))
def keys_and_values_changed_places(reference: str) -> str:
    return reference.replace(
        "grad_q.to(q.dtype), grad_k, grad_v", "grad_q.to(q.dtype), grad_v, grad_k"
    )


@rejected(
    "FlashAttention", by=("test_saves_little", "test_no_matrix"), says="bytes for the way back"
)
class KeepsTheProbabilities(FlashAttention):
    @staticmethod
    def forward(ctx, q, k, v, causal, block):
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        if causal:
            future = torch.ones_like(scores, dtype=torch.bool).triu(1)
            scores = scores.masked_fill(future, -math.inf)
        p = scores.softmax(-1)
        ctx.save_for_backward(q, k, v, p)
        return p @ v

    @staticmethod
    def backward(ctx, grad):
        q, k, v, p = ctx.saved_tensors
        dp = grad @ v.mT
        ds = p * (dp - (dp * p).sum(-1, keepdim=True)) / math.sqrt(q.shape[-1])
        return ds @ k, ds.mT @ q, p.mT @ grad, None, None


@rejected("FlashAttention", by="test_saves_little", says="bytes for the way back")
def keeps_tiles_on_the_context(reference: str) -> str:
    return reference.replace(
        LOOP,
        "        ctx.tiles = []\n" + LOOP,
    ).replace(
        "            top[..., rows, :] = new_top\n",
        "            top[..., rows, :] = new_top\n            ctx.tiles.append(tile)\n",
    )


@rejected("FlashAttention", by="test_saves_little", says="bytes for the way back")
def keeps_the_scaled_query_too(reference: str) -> str:
    return reference.replace(
        "ctx.save_for_backward(q, k, v, out,", "ctx.save_for_backward(scaled, k, v, out,"
    ).replace(
        "q, k, v, out, lse = ctx.saved_tensors\n",
        "q, k, v, out, lse = ctx.saved_tensors\n        q = q * math.sqrt(q.shape[-1])\n",
    )


@rejected("FlashAttention", by="test_no_matrix")
def the_matrix_on_the_way_back(reference: str) -> str:
    return reference.replace(
        "        grad_q = torch.zeros_like(wide_q)\n",
        "        whole = wide_q @ k.to(lse.dtype).mT * scale - lse\n"
        "        grad_q = torch.zeros_like(wide_q)\n",
    ).replace(
        "tile = torch.exp(wide_q[..., rows, :] @ k_block.mT * scale - lse[..., rows, :])",
        "tile = torch.exp(whole[..., rows, keys])",
    )


@rejected("FlashAttention", by="test_no_matrix")
def a_causal_mask_of_all_positions(reference: str) -> str:
    return reference.replace(
        LOOP,
        "        future = torch.ones(q.shape[-2], k.shape[-2], device=q.device).triu(1) > 0\n"
        + LOOP,
    ).replace(
        "torch.ones_like(scores, dtype=torch.bool).triu(1)", "future[rows, start : start + block]"
    )


@rejected("FlashAttention", by="test_skips_blocks", says="of the work of the full one")
def masks_what_it_could_skip(reference: str) -> str:
    return (
        reference.replace("rows = slice(start if causal else 0, None)", "rows = slice(0, None)")
        .replace("dtype=torch.bool).triu(1)", "dtype=torch.bool).triu(1 - start)")
        .replace(
            "rows, keys = slice(start if ctx.causal else 0, None)", "rows, keys = slice(0, None)"
        )
        .replace("tile = tile.tril()", "tile = tile.tril(-start)")
    )


@rejected("FlashAttention", by="test_skips_blocks", says="backward")
def skips_only_on_the_way_there(reference: str) -> str:
    return reference.replace(
        "rows, keys = slice(start if ctx.causal else 0, None)", "rows, keys = slice(0, None)"
    ).replace("tile = tile.tril()", "tile = tile.tril(-start)")


@rejected("FlashAttention", by="test_half", says="accumulate in float32")
def accumulates_in_half(reference: str) -> str:
    return reference.replace("wide = torch.promote_types(q.dtype, torch.float32)", "wide = q.dtype")


@rejected("FlashAttention", by="test_half", says="float32; expected float16")
def half_comes_back_wide(reference: str) -> str:
    return reference.replace("out = (out / total).to(q.dtype)", "out = out / total")
