"""Day 23: self-attention, from the weights to the tiled form.

Axes are (batch, heads, seq, dim). A mask is bool, and True means "may attend".
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax over the keys of q·k / sqrt(dim).

    Args:
        q: (*, seq_q, dim)
        k: (*, seq_k, dim)
        mask: bool, broadcastable to (*, seq_q, seq_k); True = may attend.

    Returns:
        (*, seq_q, seq_k), in the dtype of `q`. A row sums to 1; one without any key to attend to
        is all 0.
    """
    ### BEGIN SOLUTION 1: scores, scale, mask, softmax over the keys
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is None:
        return scores.softmax(dim=-1)
    # The smallest finite number and not -inf: a row without keys is then never nan, not even on
    # the way back. What the softmax leaves on masked keys of such a row goes in the second fill.
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1).masked_fill(~mask, 0.0)
    ### END SOLUTION


def sdpa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    p: float = 0.0,
    training: bool = False,
) -> Tensor:
    """Attention output: the values, mixed by the weights.

    Args:
        q: (*, seq_q, dim)
        k: (*, seq_k, dim)
        v: (*, seq_k, dim_v)
        mask: bool, broadcastable to (*, seq_q, seq_k); True = may attend.
        causal: query i sees keys up to i + seq_k - seq_q, so the last query sees all of them.
        p: rate of dropout on the weights; only if `training`.
        training: whether dropout acts.

    Returns:
        (*, seq_q, dim_v); 0 for a query that may see no key.
    """
    ### BEGIN SOLUTION 2: the causal mask, the weights, dropout, the mix
    if causal:
        seq_q, seq_k = q.shape[-2], k.shape[-2]
        past = torch.ones(seq_q, seq_k, dtype=torch.bool, device=q.device).tril(seq_k - seq_q)
        mask = past if mask is None else mask & past
    weights = attention_weights(q, k, mask)
    return F.dropout(weights, p, training) @ v
    ### END SOLUTION


class MultiHeadAttention(nn.Module):
    """Multi-head attention: over x itself, over a context, or over what a cache remembers.

    Head h uses channels h * dim / heads to (h + 1) * dim / heads of the projections.

    Args:
        dim: channels of x and of the output.
        heads: heads of the queries.
        kv_heads: heads of the keys and values, a divisor of `heads`; None means `heads`. Query
            head h uses key and value head h // (heads / kv_heads).
        bias: whether the four projections have one.
        p: rate of dropout on the weights in training.

    The projections are `q_proj`, `k_proj`, `v_proj` and `out_proj`, each an `nn.Linear`.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        kv_heads: int | None = None,
        bias: bool = False,
        p: float = 0.0,
    ) -> None:
        super().__init__()
        ### BEGIN SOLUTION 3: the sizes, and the projections q_proj, k_proj, v_proj, out_proj
        self.heads = heads
        self.kv_heads = heads if kv_heads is None else kv_heads
        self.p = p
        kv_dim = dim // heads * self.kv_heads
        self.q_proj = nn.Linear(dim, dim, bias=bias)
        self.k_proj = nn.Linear(dim, kv_dim, bias=bias)
        self.v_proj = nn.Linear(dim, kv_dim, bias=bias)
        self.out_proj = nn.Linear(dim, dim, bias=bias)
        ### END SOLUTION

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        causal: bool = False,
        cache: "KVCache | None" = None,
    ) -> Tensor:
        """Attend from x to x, or to `context`.

        Args:
            x: (batch, seq, dim)
            context: (batch, seq_k, dim); where the keys and values come from, if given.
            mask: bool, broadcastable to (batch, heads, seq, seq_k); True = may attend.
            causal: as in `sdpa`.
            cache: of task 5; the keys and values of x go behind those it holds.

        Returns:
            (batch, seq, dim)
        """
        ### BEGIN SOLUTION 3: project and split into heads: q, k, v of (batch, heads, seq, width)
        source = x if context is None else context
        q = self.q_proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k = self.k_proj(source).unflatten(-1, (self.kv_heads, -1)).transpose(1, 2)
        v = self.v_proj(source).unflatten(-1, (self.kv_heads, -1)).transpose(1, 2)
        ### END SOLUTION
        if cache is not None:
            ### BEGIN SOLUTION 5: append k and v to the cache, and go on with all that it holds
            k, v = cache.append(k, v)
            ### END SOLUTION
        ### BEGIN SOLUTION 3: attend in all heads at once, merge them, project
        group = self.heads // self.kv_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        heads = sdpa(q, k, v, mask, causal, self.p, self.training)
        return self.out_proj(heads.transpose(1, 2).flatten(-2))
        ### END SOLUTION


def to_sdpa_mask(key_padding_mask: Tensor, attn_mask: Tensor | None) -> Tensor:
    """The mask for `F.scaled_dot_product_attention` that has the same effect.

    Args:
        key_padding_mask: (batch, seq_k) bool, as for `nn.MultiheadAttention`; True = ignore.
        attn_mask: (seq_q, seq_k), likewise: bool with True = ignore, or float, added to the
            scores.

    Returns:
        Without `attn_mask` (batch, 1, 1, seq_k) bool, with a bool one (batch, 1, seq_q, seq_k)
        bool, both with True = may attend; with a float one (batch, 1, seq_q, seq_k) in its dtype,
        -inf at ignored keys.
    """
    ### BEGIN SOLUTION 4: one says "keep", the other says "drop"
    padding = key_padding_mask[:, None, None, :]
    if attn_mask is None:
        return ~padding
    if attn_mask.dtype == torch.bool:
        return ~(padding | attn_mask)
    return attn_mask.masked_fill(padding, -math.inf)
    ### END SOLUTION


class KVCache:
    """The keys and values of all tokens so far, in two tensors allocated once.

    Args:
        batch, kv_heads, max_len, dim: sizes of the two tensors; `dim` is the width of a head.
        dtype, device: of the two tensors.

    `length` is the number of entries that are valid, 0 at first.
    """

    def __init__(
        self,
        batch: int,
        kv_heads: int,
        max_len: int,
        dim: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        ### BEGIN SOLUTION 5: two tensors for max_len entries, none of them valid yet
        shape = batch, kv_heads, max_len, dim
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.length = 0
        ### END SOLUTION

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write k and v behind the valid entries and return all valid ones.

        Args:
            k, v: (batch, kv_heads, t, dim)

        Returns:
            Two views of (batch, kv_heads, length, dim), without a graph.

        Raises:
            ValueError: that would be more than max_len entries; nothing has changed.
        """
        ### BEGIN SOLUTION 5: refuse what does not fit, write into a slice, return views
        end = self.length + k.shape[-2]
        if end > self.keys.shape[-2]:
            raise ValueError(f"{end} entries do not fit into {self.keys.shape[-2]}")
        self.keys[:, :, self.length : end] = k.detach()
        self.values[:, :, self.length : end] = v.detach()
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]
        ### END SOLUTION

    def reorder(self, idx: Tensor) -> None:
        """Replace the batch rows by the rows `idx`, (batch,) int64; a row may occur repeatedly."""
        ### BEGIN SOLUTION 5: row b becomes what row idx[b] was
        self.keys = self.keys[idx]
        self.values = self.values[idx]
        ### END SOLUTION

    def truncate(self, n: int) -> None:
        """Keep the first n entries; n is at most `length`."""
        ### BEGIN SOLUTION 5: forget the entries from n on
        self.length = n
        ### END SOLUTION


class FlashAttention(torch.autograd.Function):
    """Attention over blocks of keys, so that no tensor with seq² elements ever exists.

    `FlashAttention.apply(q, k, v, causal, block)` returns (batch, heads, seq_q, dim). Only q, k,
    v, the output and one log-sum-exp per row are kept for the way back.

    Source: Dao et al. 2022, FlashAttention, https://arxiv.org/abs/2205.14135; Milakov and
    Gimelshein 2018, Online normalizer calculation for softmax.
    """

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, causal: bool, block: int) -> Tensor:
        """Attend with an online softmax.

        Args:
            q: (batch, heads, seq_q, dim)
            k, v: (batch, heads, seq_k, dim)
            causal: query i sees keys up to i; only with seq_q = seq_k.
            block: keys (and queries, if you like) of one tile.
        """
        ### BEGIN SOLUTION 6: for each block of keys: running maximum, sum and output of each row
        wide = torch.promote_types(q.dtype, torch.float32)
        scaled = q.to(wide) / math.sqrt(q.shape[-1])
        out = torch.zeros_like(scaled)
        top = scaled.new_full((*q.shape[:-1], 1), -math.inf)
        total = torch.zeros_like(top)
        for start in range(0, k.shape[-2], block):
            rows = slice(start if causal else 0, None)
            k_block, v_block = (t[..., start : start + block, :].to(wide) for t in (k, v))
            scores = scaled[..., rows, :] @ k_block.mT
            if causal:
                scores.masked_fill_(torch.ones_like(scores, dtype=torch.bool).triu(1), -math.inf)
            new_top = torch.maximum(top[..., rows, :], scores.amax(dim=-1, keepdim=True))
            shrink = torch.exp(top[..., rows, :] - new_top)
            tile = torch.exp(scores - new_top)
            total[..., rows, :] = total[..., rows, :] * shrink + tile.sum(dim=-1, keepdim=True)
            out[..., rows, :] = out[..., rows, :] * shrink + tile @ v_block
            top[..., rows, :] = new_top
        out = (out / total).to(q.dtype)
        ctx.save_for_backward(q, k, v, out, top + total.log())
        ctx.causal, ctx.block = causal, block
        return out
        ### END SOLUTION

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of q, k and v, from tiles that are computed once more.

        Args:
            grad: (batch, heads, seq_q, dim), the gradient of the output.
        """
        ### BEGIN SOLUTION 6: the tiles of probabilities again, from the log-sum-exp of each row
        q, k, v, out, lse = ctx.saved_tensors
        scale = 1 / math.sqrt(q.shape[-1])
        wide_q, grad = q.to(lse.dtype), grad.to(lse.dtype)
        mean = (grad * out).sum(dim=-1, keepdim=True)
        grad_q = torch.zeros_like(wide_q)
        grad_k, grad_v = torch.empty_like(k), torch.empty_like(v)
        for start in range(0, k.shape[-2], ctx.block):
            rows, keys = slice(start if ctx.causal else 0, None), slice(start, start + ctx.block)
            k_block, v_block = (t[..., keys, :].to(lse.dtype) for t in (k, v))
            tile = torch.exp(wide_q[..., rows, :] @ k_block.mT * scale - lse[..., rows, :])
            if ctx.causal:
                tile = tile.tril()
            grad_tile = tile * (grad[..., rows, :] @ v_block.mT - mean[..., rows, :]) * scale
            grad_v[..., keys, :] = (tile.mT @ grad[..., rows, :]).to(v.dtype)
            grad_k[..., keys, :] = (grad_tile.mT @ wide_q[..., rows, :]).to(k.dtype)
            grad_q[..., rows, :] += grad_tile @ k_block
        return grad_q.to(q.dtype), grad_k, grad_v, None, None
        ### END SOLUTION
