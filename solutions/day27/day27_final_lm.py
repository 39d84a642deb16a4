"""Day 27: a language model from an empty file, and what its tensors look like.

`python day27_final_lm.py ablate` trains the seven variants and writes `ablation.json`.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from toytext import encode, toytext


class Row(NamedTuple):
    """One tensor of the trace."""

    name: str
    shape: tuple[str, ...]  # one expression for each axis, such as ("B", "T", "D")
    why: str  # one sentence


def tap(name: str, tensor: Tensor) -> Tensor:
    """Show a tensor to whoever traces the model: returns the tensor itself."""
    return tensor


### BEGIN SOLUTION 1: the parts of the model
class Attention(nn.Module):
    """Causal self-attention with several heads, (batch, seq, dim) to the same."""

    def __init__(self, dim: int, heads: int, scale: bool) -> None:
        super().__init__()
        self.heads = heads
        self.factor = math.sqrt(heads / dim) if scale else 1.0
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = tap("q", parts[0]), tap("k", parts[1]), tap("v", parts[2])
        seq = x.shape[1]
        future = torch.ones(seq, seq, dtype=torch.bool, device=x.device).triu(1)
        scores = (q @ k.transpose(-2, -1) * self.factor).masked_fill(future, -math.inf)
        weights = tap("weights", tap("scores", scores).softmax(dim=-1))
        context = tap("context", weights @ v)
        merged = tap("merged", context.transpose(1, 2).flatten(2))
        return self.out(merged)


class Block(nn.Module):
    """Attention and an MLP, each normalised in front and beside the stream."""

    def __init__(
        self, dim: int, heads: int, scale: bool, residual: bool, norm: bool, mlp: bool
    ) -> None:
        super().__init__()
        self.residual = residual
        self.norm1 = nn.LayerNorm(dim) if norm else nn.Identity()
        self.attn = Attention(dim, heads, scale)
        if mlp:
            self.norm2 = nn.LayerNorm(dim) if norm else nn.Identity()
            self.up = nn.Linear(dim, 4 * dim)
            self.down = nn.Linear(4 * dim, dim)
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        branch = self.attn(tap("normed", self.norm1(x)))
        x = x + branch if self.residual else branch
        if self.mlp:
            branch = self.down(tap("ffn_hidden", F.gelu(self.up(self.norm2(x)))))
            x = x + branch if self.residual else branch
        return x


### END SOLUTION


class MiniLM(nn.Module):
    """A causal language model with positions and pre-norm blocks.

    Args:
        vocab: number of tokens.
        dim: channels of the residual stream.
        heads: of the attention, a divisor of dim.
        layers: number of blocks.
        ctx: tokens it can see.
        scale, positions, residual, norm, mlp: for task 4; False leaves that part out.
    """

    def __init__(
        self,
        vocab: int,
        dim: int,
        heads: int,
        layers: int,
        ctx: int,
        *,
        scale: bool = True,
        positions: bool = True,
        residual: bool = True,
        norm: bool = True,
        mlp: bool = True,
    ) -> None:
        super().__init__()
        ### BEGIN SOLUTION 1: the layers and how they start
        self.ctx = ctx
        self.tok = nn.Embedding(vocab, dim)
        self.pos = nn.Embedding(ctx, dim) if positions else None
        self.blocks = nn.ModuleList(
            [Block(dim, heads, scale, residual, norm, mlp) for _ in range(layers)]
        )
        self.norm = nn.LayerNorm(dim) if norm else nn.Identity()
        self.head = nn.Linear(dim, vocab, bias=False)
        self.head.weight = self.tok.weight
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        ### END SOLUTION

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Predict the token after each one.

        Args:
            ids: int64 (batch, seq), seq <= ctx.
            targets: int64 (batch, seq), the tokens to predict, already shifted.

        Returns:
            The logits (batch, seq, vocab), and the mean cross entropy (), None without targets.
        """
        ### BEGIN SOLUTION 1: from ids to logits and loss
        x = tap("tok", self.tok(tap("ids", ids)))
        if self.pos is not None:
            x = x + tap("pos", self.pos(torch.arange(ids.shape[1], device=ids.device)))
        x = tap("x", x)
        for block in self.blocks:
            x = block(x)
        logits = tap("logits", self.head(self.norm(x)))
        if targets is None:
            return logits, None
        return logits, tap("loss", F.cross_entropy(logits.flatten(0, 1), targets.flatten()))
        ### END SOLUTION

    def generate(self, ids: Tensor, n: int) -> Tensor:
        """Append the n most likely tokens, one after the other: (batch, seq) to (batch, seq+n)."""
        ### BEGIN SOLUTION 1: one token after the other
        with torch.no_grad():
            for _ in range(n):
                logits, _ = self(ids[:, -self.ctx :])
                ids = torch.cat([ids, logits[:, -1:].argmax(dim=-1)], dim=1)
        return ids
        ### END SOLUTION


TRACE: list[Row] = [
    ### BEGIN SOLUTION 2: a row for each tensor, and calls of tap in the model
    Row("ids", ("B", "T"), "A number for each token of each text."),
    Row("tok", ("B", "T", "D"), "Each number is replaced by its row of the table."),
    Row("pos", ("T", "D"), "A vector for each place, the same for all texts."),
    Row("x", ("B", "T", "D"), "The stream, where what and where are added."),
    Row("normed", ("B", "T", "D"), "Each token's vector is normalised on its own."),
    Row("q", ("B", "H", "T", "D//H"), "What each token looks for, split among the heads."),
    Row("k", ("B", "H", "T", "D//H"), "What each token is found by."),
    Row("v", ("B", "H", "T", "D//H"), "What each token hands on."),
    Row("scores", ("B", "H", "T", "T"), "Every query against every key."),
    Row("weights", ("B", "H", "T", "T"), "The share of each key, a row sums to one."),
    Row("context", ("B", "H", "T", "D//H"), "The keys' axis is summed over."),
    Row("merged", ("B", "T", "D"), "The heads side by side again."),
    Row("ffn_hidden", ("B", "T", "F"), "The MLP is wider inside."),
    Row("logits", ("B", "T", "V"), "A number for each possible next token."),
    Row("loss", (), "The mean over all tokens."),
    Row("grad tok.weight", ("V", "D"), "A gradient has the shape of its parameter."),
    Row("grad blocks.0.attn.qkv.weight", ("D + D + D", "D"), "Three maps stacked, out before in."),
    Row("grad blocks.0.up.weight", ("F", "D"), "Linear keeps its weight as (out, in)."),
    ### END SOLUTION
]


def accounting(cfg: Any) -> dict[str, dict[str, int]]:
    """Count what your MiniLM holds and does, by formula.

    Args:
        cfg: `vocab, dim, heads, layers, ctx, batch`, the input being (batch, ctx).

    Returns:
        "params" (numbers), "saved" (bytes) and "flops", each with the keys "embedding",
        "attention", "ffn", "norm" and "head".
    """
    ### BEGIN SOLUTION 3: parameters, bytes saved for backward, operations
    dim, layers, seq, wide = cfg.dim, cfg.layers, cfg.ctx, 4 * cfg.dim
    tokens = cfg.batch * seq
    pairs = cfg.batch * cfg.heads * seq * seq
    return {
        "params": {
            "embedding": (cfg.vocab + seq) * dim,
            "attention": layers * 4 * dim * dim,
            "ffn": layers * (2 * dim * wide + wide + dim),
            "norm": (2 * layers + 1) * 2 * dim,
            "head": 0,
        },
        "saved": {
            "embedding": 8 * seq,
            "attention": layers * (4 * (5 * tokens * dim + pairs) + seq * seq),
            "ffn": layers * 4 * tokens * (dim + 2 * wide),
            "norm": (2 * layers + 1) * 4 * tokens * (dim + 2),
            "head": 4 * tokens * (dim + cfg.vocab),
        },
        "flops": {
            "embedding": 0,
            "attention": layers * (8 * tokens * dim * dim + 4 * tokens * seq * dim),
            "ffn": layers * 4 * tokens * dim * wide,
            "norm": 0,
            "head": 2 * tokens * dim * cfg.vocab,
        },
    }
    ### END SOLUTION


VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "no_scale": {"scale": False},
    "no_positions": {"positions": False},
    "no_residual": {"residual": False},
    "no_norm": {"norm": False},
    "no_mlp": {"mlp": False},
    "one_head": {"heads": 1},
}


def train_variant(name: str, seed: int) -> float:
    """Train one of the `VARIANTS`; returns its validation loss, in nats.

    All variants see the same batches in the same order if the seed is the same.
    """
    ### BEGIN SOLUTION 4: one variant
    batch, ctx = 16, 32
    ids = torch.tensor(encode(toytext(20_000, 0)))
    train, val = ids[:18_000], ids[18_000:]
    torch.manual_seed(seed)
    sizes = {"vocab": 25, "dim": 48, "heads": 4, "layers": 2, "ctx": ctx}
    model = MiniLM(**(sizes | VARIANTS[name]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(seed)
    window = torch.arange(ctx + 1)
    for step in range(150):
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1.0, (step + 1) / 30)
        starts = torch.randint(len(train) - ctx, (batch, 1), generator=generator)
        text = train[starts + window]
        _, loss = model(text[:, :-1], text[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    count = (len(val) - 1) // ctx
    with torch.no_grad():
        inputs, targets = val[: count * ctx], val[1 : count * ctx + 1]
        _, loss = model(inputs.view(count, ctx), targets.view(count, ctx))
    return loss.item()
    ### END SOLUTION


def ablate(seed: int) -> dict[str, float]:
    """Train every variant from the same seed; returns the validation loss of each."""
    ### BEGIN SOLUTION 4: all of them
    return {name: train_variant(name, seed) for name in VARIANTS}
    ### END SOLUTION


if __name__ == "__main__" and sys.argv[1:] == ["ablate"]:
    torch.set_num_threads(1)
    table = {"seed": 0, "losses": ablate(0)}
    Path("ablation.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
