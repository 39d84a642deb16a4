"""The transformer block of day 24 (norm "pre", MLP "gelu"), on PyTorch's own layers.

Beyond day 24's it takes positions that are masked and, for generation, a cache of keys and values.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Cache:
    """Keys and values of the tokens that a block has seen: (batch, heads, length, dim // heads)."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    @property
    def length(self) -> int:
        """Tokens seen."""
        return 0 if self.keys is None else self.keys.shape[2]

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Take in the keys and values of new tokens; returns those of all tokens."""
        if self.keys is not None and self.values is not None:
            keys = torch.cat([self.keys, keys], dim=2)
            values = torch.cat([self.values, values], dim=2)
        self.keys, self.values = keys, values
        return keys, values


class MultiHeadAttention(nn.Module):
    """Causal self-attention with the projections `q_proj`, `k_proj`, `v_proj` and `out_proj`."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(dim, dim, bias=False)
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim, bias=False)
        self.out_proj = nn.Linear(dim, dim, bias=False)

    def forward(
        self, x: Tensor, *, keep: Tensor | None = None, cache: Cache | None = None
    ) -> Tensor:
        """Attend from every token of x to itself and to earlier ones; see `Block`."""
        q, k, v = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        if cache is not None:
            k, v = cache.append(k, v)
        seq, total = q.shape[2], k.shape[2]
        mask = torch.ones(seq, total, dtype=torch.bool, device=x.device).tril(total - seq)
        if keep is not None:
            mask = mask & keep[:, None, None, :]
        output = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(output.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """An MLP for every position, with the layers `up` and `down`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.up = nn.Linear(dim, 4 * dim, bias=False)
        self.down = nn.Linear(4 * dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to x (*, dim); returns (*, dim)."""
        return self.down(F.gelu(self.up(x)))


class Block(nn.Module):
    """A causal transformer block with the norm in front of each branch.

    Args:
        dim: channels of the residual stream.
        heads: of the attention, a divisor of dim.
        p: rate of dropout on each branch before it joins the stream, in training.

    Submodules `norm1`, `attn`, `norm2`, `ffn`.
    """

    def __init__(self, dim: int, heads: int, p: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = MultiHeadAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.ffn = FeedForward(dim)
        self.drop = nn.Dropout(p)

    def forward(
        self, x: Tensor, *, keep: Tensor | None = None, cache: Cache | None = None
    ) -> Tensor:
        """Run x through the block.

        Args:
            x: (batch, seq, dim)
            keep: bool (batch, length + seq), False where a token (seen or new) is padding.
            cache: of the tokens before x, `length` of them; x's own keys and values are added.

        Returns:
            (batch, seq, dim)
        """
        x = x + self.drop(self.attn(self.norm1(x), keep=keep, cache=cache))
        return x + self.drop(self.ffn(self.norm2(x)))
