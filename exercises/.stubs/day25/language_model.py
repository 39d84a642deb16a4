"""Day 25: a language model, from text to text.

Axes are (batch, seq, dim) and (batch, seq, vocab). Beside this file lie `block.py` (the transformer
block of day 24; your own may stand in its place) and `toytext.py` (a text to train on).
"""

import copy
import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from block import Block, Cache
from torch import Tensor, nn
from torch.nn import functional as F


class BPE:
    """Byte-level byte pair encoding: ids 0 to 255 are the bytes, merge r makes the id 256 + r.

    `merges` has the pair of ids of every merge, in the order they were learned.
    """

    def __init__(self) -> None:
        self.merges: list[tuple[int, int]] = []

    def train(self, text: str, vocab_size: int) -> None:
        """Learn merges from a text until there are vocab_size ids, or no pair is left.

        Raises:
            ValueError: vocab_size < 256.
        """
        # TODO 1: learn the merges
        raise NotImplementedError("day25 T1: BPE")
        # END TODO

    def encode(self, text: str) -> list[int]:
        """The ids of a text, merged in the order learned."""
        # TODO 1: from text to ids
        raise NotImplementedError("day25 T1: BPE")
        # END TODO

    def decode(self, ids: list[int]) -> str:
        """The text of ids; U+FFFD stands for what is not UTF-8."""
        # TODO 1: from ids to text
        raise NotImplementedError("day25 T1: BPE")
        # END TODO


def get_batch(
    ids: Tensor | np.memmap,
    batch: int,
    ctx: int,
    generator: torch.Generator,
    device: torch.device | str,
) -> tuple[Tensor, Tensor]:
    """Random windows of a text, and the same windows one step later.

    Args:
        ids: (n,) of an integer dtype; a tensor, or an array that may be too large for the memory.
        batch: how many windows.
        ctx: length of a window.
        generator: of the CPU; the starts are drawn with it.
        device: of the results.

    Returns:
        x and y, each (batch, ctx) int64.

    Raises:
        ValueError: n <= ctx.
    """
    # TODO 2: starts, windows, x and y
    raise NotImplementedError("day25 T2: get_batch")
    # END TODO


@dataclass(frozen=True)
class GPTConfig:
    """Sizes of a GPT: ctx is the longest text it sees, p the rate of dropout."""

    vocab: int
    ctx: int
    dim: int
    heads: int
    layers: int
    tie: bool = True
    p: float = 0.0


class GPT(nn.Module):
    """A decoder: embeddings, blocks, a last norm, a head. Its config is `cfg`.

    Submodules `tok`, `pos` (nn.Embedding), `blocks` (nn.ModuleList), `norm` (LayerNorm) and `head`
    (nn.Linear without bias).
    """

    def __init__(self, cfg: GPTConfig) -> None:
        super().__init__()
        self.cfg = cfg
        # TODO 3: submodules and their first weights
        raise NotImplementedError("day25 T3: GPT")
        # END TODO

    # keep and caches serve task 5 (block.py says what they are); change them as you like.
    def forward(
        self,
        ids: Tensor,
        targets: Tensor | None = None,
        *,
        keep: Tensor | None = None,
        caches: list[Cache] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Scores for the token after each one, and their loss.

        Args:
            ids: (batch, seq) int64
            targets: (batch, seq) int64, the token after each one; -100 does not count.

        Returns:
            logits (batch, seq, vocab), and the mean cross entropy in nats, None without targets.

        Raises:
            ValueError: more than ctx tokens.
        """
        # TODO 3: from ids to logits and loss
        raise NotImplementedError("day25 T3: GPT")
        # END TODO


@dataclass(frozen=True)
class TrainConfig:
    """Settings of `train_lm`."""

    steps: int = 300
    batch: int = 16
    ctx: int = 48
    lr: float = 3e-3
    warmup: int = 30
    clip: float = 1.0
    val_frac: float = 0.1
    eval_every: int = 50
    seed: int = 0


@dataclass
class History:
    """One entry per evaluation: steps made so far, losses in nats, perplexity of `val`."""

    steps: list[int]
    train: list[float]
    val: list[float]
    ppl: list[float]
    best_step: int


def train_lm(model: nn.Module, ids: Tensor, cfg: TrainConfig) -> History:
    """Train on the front of a text, evaluate on its tail, keep the best weights.

    Args:
        model: `model(x, y)` returns (logits, loss) for x and y (batch, ctx).
        ids: (n,) int64
        cfg: settings.
    """
    # TODO 4: split, steps, evaluations, best weights
    raise NotImplementedError("day25 T4: train_lm")
    # END TODO


def generate(
    model: nn.Module,
    ids: Tensor,
    n: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: int | None = None,
    pad: int | None = None,
    cache: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Append n tokens to each row.

    Args:
        model: your GPT; with cache=False any with `cfg.ctx` and `model(ids) -> (logits, loss)`.
        ids: (batch, seq) int64; with `pad`, rows may begin with it.
        n: tokens to append.
        temperature: the logits are divided by it; 0 takes the largest.
        top_k: keep so many of the largest logits.
        top_p: keep the smallest set of the most probable tokens that reaches it.
        stop: a row that has drawn it is finished.
        pad: fills finished rows, and stands on the left of short prompts.
        cache: compute each token once, as long as the text fits into ctx.
        generator: to draw with.

    Returns:
        (batch, seq + n) int64
    """

    # TODO 5: token by token
    raise NotImplementedError("day25 T5: generate")
    # END TODO
