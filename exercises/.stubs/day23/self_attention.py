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
    # TODO 1: scores, scale, mask, softmax over the keys
    raise NotImplementedError("day23 T1: attention_weights")
    # END TODO


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
    # TODO 2: the causal mask, the weights, dropout, the mix
    raise NotImplementedError("day23 T2: sdpa")
    # END TODO


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
        # TODO 3: the sizes, and the projections q_proj, k_proj, v_proj, out_proj
        raise NotImplementedError("day23 T3: MultiHeadAttention")
        # END TODO

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
        # TODO 3: project and split into heads: q, k, v of (batch, heads, seq, width)
        raise NotImplementedError("day23 T3: MultiHeadAttention")
        # END TODO
        if cache is not None:
            # TODO 5: append k and v to the cache, and go on with all that it holds
            raise NotImplementedError("day23 T5: KVCache")
            # END TODO
        # TODO 3: attend in all heads at once, merge them, project
        raise NotImplementedError("day23 T3: MultiHeadAttention")
        # END TODO


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
    # TODO 4: one says "keep", the other says "drop"
    raise NotImplementedError("day23 T4: to_sdpa_mask")
    # END TODO


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
        # TODO 5: two tensors for max_len entries, none of them valid yet
        raise NotImplementedError("day23 T5: KVCache")
        # END TODO

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write k and v behind the valid entries and return all valid ones.

        Args:
            k, v: (batch, kv_heads, t, dim)

        Returns:
            Two views of (batch, kv_heads, length, dim), without a graph.

        Raises:
            ValueError: that would be more than max_len entries; nothing has changed.
        """
        # TODO 5: refuse what does not fit, write into a slice, return views
        raise NotImplementedError("day23 T5: KVCache")
        # END TODO

    def reorder(self, idx: Tensor) -> None:
        """Replace the batch rows by the rows `idx`, (batch,) int64; a row may occur repeatedly."""
        # TODO 5: row b becomes what row idx[b] was
        raise NotImplementedError("day23 T5: KVCache")
        # END TODO

    def truncate(self, n: int) -> None:
        """Keep the first n entries; n is at most `length`."""
        # TODO 5: forget the entries from n on
        raise NotImplementedError("day23 T5: KVCache")
        # END TODO


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
        # TODO 6: for each block of keys: running maximum, sum and output of each row
        raise NotImplementedError("day23 T6: FlashAttention")
        # END TODO

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of q, k and v, from tiles that are computed once more.

        Args:
            grad: (batch, heads, seq_q, dim), the gradient of the output.
        """
        # TODO 6: the tiles of probabilities again, from the log-sum-exp of each row
        raise NotImplementedError("day23 T6: FlashAttention")
        # END TODO
