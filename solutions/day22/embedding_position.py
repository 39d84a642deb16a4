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
        ### BEGIN SOLUTION 1: the parameter `weight`, (vocab, dim)
        self.padding_idx = padding_idx
        weight = torch.randn(vocab, dim)
        if padding_idx is not None:
            weight[padding_idx] = 0
        self.weight = nn.Parameter(weight)
        ### END SOLUTION

    def forward(self, ids: Tensor) -> Tensor:
        """The rows of the ids.

        Args:
            ids: (*,), of an integer dtype.

        Returns:
            (*, dim)

        Raises:
            IndexError: an id is below 0 or not below vocab.
        """
        ### BEGIN SOLUTION 1: the rows of the ids
        ids = ids.long()
        vocab = self.weight.shape[0]
        if ids.numel() > 0 and (ids.min() < 0 or ids.max() >= vocab):
            raise IndexError(f"ids run from {ids.min()} to {ids.max()}, the table has {vocab} rows")
        rows = self.weight[ids]
        if self.padding_idx is None:
            return rows
        return torch.where((ids == self.padding_idx)[..., None], rows.detach(), rows)
        ### END SOLUTION


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
    ### BEGIN SOLUTION 2: angles, then sines and cosines
    if dim % 2 == 1:
        raise ValueError(f"dim must be even, got {dim}")
    position = torch.arange(seq, device=device, dtype=torch.float64)
    channel = torch.arange(0, dim, 2, device=device, dtype=torch.float64)
    angle = position[:, None] * base ** (-channel / dim)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2).to(dtype)
    ### END SOLUTION


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
    ### BEGIN SOLUTION 3: angles, pairs, rotation
    dim = x.shape[-1]
    wide = torch.promote_types(x.dtype, torch.float32)
    channel = torch.arange(0, dim, 2, device=x.device, dtype=wide)
    angle = positions[..., None].to(wide) * base ** (-channel / dim)
    angle = angle.unsqueeze(-3)
    cos, sin = angle.cos(), angle.sin()
    pairs = x.to(wide).unflatten(-1, (-1, 2) if interleaved else (2, -1))
    axis = -1 if interleaved else -2
    first, second = pairs.unbind(axis)
    turned = torch.stack([first * cos - second * sin, first * sin + second * cos], axis)
    return turned.flatten(-2).to(x.dtype)
    ### END SOLUTION


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
    ### BEGIN SOLUTION 4: slopes and distances
    power = 1 << (heads.bit_length() - 1)
    slopes = [2 ** (-8 * j / power) for j in range(1, power + 1)]
    slopes += [2 ** (-8 * j / (2 * power)) for j in range(1, 2 * (heads - power), 2)]
    query = torch.arange(seq_k - seq_q, seq_k, device=device)
    distance = (torch.arange(seq_k, device=device) - query[:, None]).abs()
    return -torch.tensor(slopes, device=device)[:, None, None] * distance
    ### END SOLUTION


def t5_bucket(rel: Tensor, buckets: int = 32, max_dist: int = 128) -> Tensor:
    """The bucket of a distance: near ones have their own, far ones share by their logarithm.

    Args:
        rel: (*,), int64: key position - query position.
        buckets: number of buckets for both directions, a multiple of 4.
        max_dist: the distance from which on all are in the last bucket of their direction.

    Returns:
        (*,), int64, 0 to buckets - 1
    """
    ### BEGIN SOLUTION 4: the bucket of each distance
    half = buckets // 2
    exact = half // 2
    distance = rel.abs()
    share = torch.log(distance.clamp(min=1) / exact) / math.log(max_dist / exact)
    far = (exact + (share * exact).floor().long()).clamp(max=half - 1)
    return torch.where(distance < exact, distance, far) + half * (rel > 0)
    ### END SOLUTION


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
        ### BEGIN SOLUTION 5: the tokens' table, the positions', dropout, the tie
        self.kind = kind
        self.token = nn.Embedding(vocab, dim)
        nn.init.normal_(self.token.weight, std=0.02)
        if kind == "learned":
            self.position = nn.Parameter(0.02 * torch.randn(max_len, dim))
        else:
            self.register_buffer("position", sinusoidal(max_len, dim), persistent=False)
        self.dropout = nn.Dropout(p)
        if tie is not None:
            tie.weight = self.token.weight
        ### END SOLUTION

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
        ### BEGIN SOLUTION 5: scale the tokens, add the positions
        stop = start + ids.shape[1]
        max_len, dim = self.position.shape
        position = self.position
        if stop > max_len:
            if self.kind == "learned":
                raise ValueError(f"position {stop - 1} is not below max_len = {max_len}")
            position = sinusoidal(stop, dim, device=ids.device, dtype=position.dtype)
        return self.dropout(self.token(ids) * math.sqrt(dim) + position[start:stop])
        ### END SOLUTION
