"""Ids become vectors, and four ways tell attention in which order they stand."""

import math
from typing import Literal

import torch
from torch import Tensor, nn


class MyEmbedding(nn.Module):
    """A table with one row for each id.

    Args:
        vocab: number of ids, 0 to vocab - 1.
        dim: width of a row.
        padding_idx: the id whose row starts at 0 and never gets a gradient, if any.
    """

    def __init__(self, vocab: int, dim: int, padding_idx: int | None = None) -> None:
        super().__init__()
        # TODO 1: the parameter `weight`, (vocab, dim)
        raise NotImplementedError("day22 T1: MyEmbedding")
        # END TODO

    def forward(self, ids: Tensor) -> Tensor:
        """The rows of the ids.

        Args:
            ids: (*,), of an integer dtype.

        Returns:
            (*, dim)

        Raises:
            IndexError: an id is below 0 or not below vocab.
        """
        # TODO 1: the rows of the ids
        raise NotImplementedError("day22 T1: MyEmbedding")
        # END TODO


def sinusoidal(
    seq: int,
    dim: int,
    base: float = 10000.0,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The table of sines and cosines: positions 0 to seq - 1, dim/2 frequencies.

    Args:
        seq: number of positions.
        dim: number of channels, even.
        base: channels 2i and 2i + 1 have the frequency base^(-2i/dim).
        device: where the table is.
        dtype: what the table is rounded to; the angles are float64.

    Returns:
        (seq, dim)

    Raises:
        ValueError: dim is odd.
    """
    # TODO 2: angles, then sines and cosines
    raise NotImplementedError("day22 T2: sinusoidal")
    # END TODO


def rope(x: Tensor, positions: Tensor, base: float = 10000.0, interleaved: bool = True) -> Tensor:
    """Turn each pair of channels by an angle that grows with the position.

    Args:
        x: (batch, heads, seq, dim), dim even: queries or keys.
        positions: (seq,) or (batch, seq), int64.
        base: pair i turns by position * base^(-2i/dim), in all heads.
        interleaved: pair i is channels (2i, 2i + 1); if not, channels (i, i + dim/2).

    Returns:
        (batch, heads, seq, dim), a new tensor in the dtype of `x`.
    """
    # TODO 3: angles, pairs, rotation
    raise NotImplementedError("day22 T3: rope")
    # END TODO


def alibi_bias(
    heads: int, seq_q: int, seq_k: int, device: torch.device | str | None = None
) -> Tensor:
    """What ALiBi adds to the scores: -slope * |distance|, a slope for each head.

    Args:
        heads: number of heads.
        seq_q: number of queries; the last one stands at the last key.
        seq_k: number of keys.
        device: where the bias is.

    Returns:
        (heads, seq_q, seq_k), float32
    """
    # TODO 4: slopes and distances
    raise NotImplementedError("day22 T4: alibi_and_relative")
    # END TODO


def t5_bucket(rel: Tensor, buckets: int = 32, max_dist: int = 128) -> Tensor:
    """The bucket of a distance: near ones have their own, far ones share by their logarithm.

    Args:
        rel: (*,), int64: key position - query position.
        buckets: number of buckets for both directions, a multiple of 4.
        max_dist: the distance from which on all are in the last bucket of their direction.

    Returns:
        (*,), int64, 0 to buckets - 1
    """
    # TODO 4: the bucket of each distance
    raise NotImplementedError("day22 T4: alibi_and_relative")
    # END TODO


class InputEmbedding(nn.Module):
    """Tokens and positions, added: what the first block of a language model is given.

    Args:
        vocab: number of token ids.
        dim: width.
        max_len: number of positions that are learned, or prepared.
        kind: whether the positions are learned or sinusoidal.
        p: rate of dropout on the sum, in training.
        tie: the output layer, `nn.Linear(dim, vocab)`, that shares its weight with `token`.
    """

    token: nn.Embedding

    def __init__(
        self,
        vocab: int,
        dim: int,
        max_len: int,
        kind: Literal["learned", "sinusoidal"],
        p: float = 0.0,
        tie: nn.Linear | None = None,
    ) -> None:
        super().__init__()
        # TODO 5: the tokens' table, the positions', dropout, the tie
        raise NotImplementedError("day22 T5: InputEmbedding")
        # END TODO

    def forward(self, ids: Tensor, start: int = 0) -> Tensor:
        """dropout(token(ids) * sqrt(dim) + position).

        Args:
            ids: (batch, seq), int64.
            start: the position of the first column of `ids`.

        Returns:
            (batch, seq, dim), in the dtype of `token.weight`.

        Raises:
            ValueError: a learned position beyond max_len.
        """
        # TODO 5: scale the tokens, add the positions
        raise NotImplementedError("day22 T5: InputEmbedding")
        # END TODO
