"""Day 5: every contraction of a transformer as an index expression, and what it costs."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

# What each string computes, and of which operands, in this order:
#
#   trace             A (i, i)                            -> ()
#   transpose         A (i, j)                            -> (j, i)
#   batch_matmul      A (b, i, j), B (b, j, k)            -> (b, i, k)
#   row_sums          A (i, j)                            -> (i)
#   outer             a (i), b (j)                        -> (i, j)
#   bilinear          x (b, i), W (i, j), y (b, j)        -> (b)
#   batch_diagonal    A (b, i, i)                         -> (b, i)
#   attention_scores  q (b, h, q, d), k (b, h, k, d)      -> (b, h, q, k)
#   attention_output  w (b, h, q, k), v (b, h, k, d)      -> (b, h, q, d)
#   contraction       A (b, i, j, k), B (k, l)            -> (b, i, j, l)
EXPRESSIONS: dict[str, str] = {
    # TODO 1: ten keys, each with its string
    # END TODO
}


def einsum_lite(spec: str, *ops: Tensor) -> Tensor:
    """Einsum of one to three operands, by broadcasting, multiplying and summing.

    Args:
        spec: such as `"ij,jk->ik"`: lower-case letters, commas and an arrow. A letter may stand
            twice or more in one operand (its diagonal); the output may be empty, and names no
            letter twice.
        ops: one operand for each part of `spec`, with one axis for each letter.

    Returns:
        One axis for each letter of the output, in that order.

    Raises:
        ValueError: a letter has two different sizes; the message contains the letter, standing
            by itself.
    """
    # TODO 2: one axis for each letter
    raise NotImplementedError("day05 T2: einsum_lite")
    # END TODO


def gqa_scores(q: Tensor, k: Tensor) -> Tensor:
    """Scores of grouped queries, divided by sqrt(dim); query heads share key heads.

    Args:
        q: (batch, heads, seq_q, dim)
        k: (batch, kv_heads, seq_k, dim); `heads` is a multiple of `kv_heads`.

    Returns:
        (batch, heads, seq_q, seq_k); head h is scored against kv head
        h // (heads // kv_heads). k is not repeated in memory.
    """
    # TODO 3: scores of each group with its own keys
    raise NotImplementedError("day05 T3: gqa_scores")
    # END TODO


def chain_cost(shapes: list[tuple[int, int]]) -> tuple[int, list[tuple[int, int]]]:
    """Cheapest way to multiply a chain of matrices.

    Args:
        shapes: (rows, columns) of one matrix or more; neighbours fit.

    Returns:
        cost: multiply-adds in total; a product of (r, c) and (c, k) takes r * c * k.
        order: pairs (i, i + 1): positions in the *current* list, whose two matrices are replaced
            by their product at position i. Any order of minimal cost is right.

        One matrix gives `(0, [])`.
    """
    # TODO 4: the cost and the order
    raise NotImplementedError("day05 T4: chain_cost")
    # END TODO


def linear_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """Attention with the feature map φ(x) = elu(x) + 1 on q and k, in linear time.

    Output n is φ(q_n) · Σ_t φ(k_t) v_t^T divided by φ(q_n) · Σ_t φ(k_t), the sums over all t, or
    over t <= n if `causal`. No scale, no epsilon.

    Args:
        q: (batch, heads, seq, dim)
        k: (batch, heads, seq, dim)
        v: (batch, heads, seq, dim_v)

    Returns:
        (batch, heads, seq, dim_v)
    """
    # TODO 5: both sums, then the quotient
    raise NotImplementedError("day05 T5: linear_attention")
    # END TODO
