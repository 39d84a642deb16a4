"""A GPT with the names of day 25's, on PyTorch's own layers, and the slow way to write with it."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class GPTConfig:
    """Sizes of a GPT: ctx is the longest text it sees."""

    vocab: int
    ctx: int
    dim: int
    heads: int
    layers: int


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(dim, dim, bias=False)
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim, bias=False)
        self.out_proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """From (batch, seq, dim) to (batch, seq, dim)."""
        q, k, v = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        output = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(output.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """An MLP for every position."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.up = nn.Linear(dim, 4 * dim, bias=False)
        self.down = nn.Linear(4 * dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """From (*, dim) to (*, dim)."""
        return self.down(F.gelu(self.up(x)))


class Block(nn.Module):
    """Attention and an MLP, each with a norm in front and added to the stream."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.ffn = FeedForward(dim)

    def forward(self, x: Tensor) -> Tensor:
        """From (batch, seq, dim) to (batch, seq, dim)."""
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class GPT(nn.Module):
    """A decoder: embeddings, blocks, a last norm, a head."""

    def __init__(self, cfg: GPTConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.tok = nn.Embedding(cfg.vocab, cfg.dim)
        self.pos = nn.Embedding(cfg.ctx, cfg.dim)
        self.blocks = nn.ModuleList(Block(cfg.dim, cfg.heads) for _ in range(cfg.layers))
        self.norm = nn.LayerNorm(cfg.dim)
        self.head = nn.Linear(cfg.dim, cfg.vocab, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """The logits (batch, seq, vocab) of ids (batch, seq)."""
        x = self.tok(ids) + self.pos(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def load(path: str | Path) -> GPT:
    """The model of a file `{"cfg": dict, "model": state_dict}`."""
    saved = torch.load(path, weights_only=True)
    model = GPT(GPTConfig(**saved["cfg"]))
    model.load_state_dict(saved["model"])
    return model.eval()


@torch.no_grad()
def generate(model: GPT, ids: Tensor, n: int) -> Tensor:
    """Append n times the token with the largest logit: ids (batch, seq) to (batch, seq + n)."""
    for _ in range(n):
        token = model(ids)[:, -1].argmax(-1)
        ids = torch.cat([ids, token[:, None]], dim=1)
    return ids
