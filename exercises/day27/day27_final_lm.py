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


# TODO 1: the parts of the model
# END TODO


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
        # TODO 1: the layers and how they start
        raise NotImplementedError("day27 T1: MiniLM")
        # END TODO

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Predict the token after each one.

        Args:
            ids: int64 (batch, seq), seq <= ctx.
            targets: int64 (batch, seq), the tokens to predict, already shifted.

        Returns:
            The logits (batch, seq, vocab), and the mean cross entropy (), None without targets.
        """
        # TODO 1: from ids to logits and loss
        raise NotImplementedError("day27 T1: MiniLM")
        # END TODO

    def generate(self, ids: Tensor, n: int) -> Tensor:
        """Append the n most likely tokens, one after the other: (batch, seq) to (batch, seq+n)."""
        # TODO 1: one token after the other
        raise NotImplementedError("day27 T1: MiniLM")
        # END TODO


TRACE: list[Row] = [
    # TODO 2: a row for each tensor, and calls of tap in the model
    # END TODO
]


def accounting(cfg: Any) -> dict[str, dict[str, int]]:
    """Count what your MiniLM holds and does, by formula.

    Args:
        cfg: `vocab, dim, heads, layers, ctx, batch`, the input being (batch, ctx).

    Returns:
        "params" (numbers), "saved" (bytes) and "flops", each with the keys "embedding",
        "attention", "ffn", "norm" and "head".
    """
    # TODO 3: parameters, bytes saved for backward, operations
    raise NotImplementedError("day27 T3: explain_numbers")
    # END TODO


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
    # TODO 4: one variant
    raise NotImplementedError("day27 T4: ablate")
    # END TODO


def ablate(seed: int) -> dict[str, float]:
    """Train every variant from the same seed; returns the validation loss of each."""
    # TODO 4: all of them
    raise NotImplementedError("day27 T4: ablate")
    # END TODO


if __name__ == "__main__" and sys.argv[1:] == ["ablate"]:
    torch.set_num_threads(1)
    table = {"seed": 0, "losses": ablate(0)}
    Path("ablation.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
