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
    ### BEGIN SOLUTION 1: ten keys, each with its string
    "trace": "ii->",
    "transpose": "ij->ji",
    "batch_matmul": "bij,bjk->bik",
    "row_sums": "ij->i",
    "outer": "i,j->ij",
    "bilinear": "bi,ij,bj->b",
    "batch_diagonal": "bii->bi",
    "attention_scores": "bhqd,bhkd->bhqk",
    "attention_output": "bhqk,bhkd->bhqd",
    "contraction": "bijk,kl->bijl",
    ### END SOLUTION
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
    ### BEGIN SOLUTION 2: one axis for each letter
    inputs, output = spec.split("->")
    terms = inputs.split(",")
    sizes: dict[str, int] = {}
    for term, op in zip(terms, ops, strict=True):
        for letter, size in zip(term, op.shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                raise ValueError(f"letter {letter} has the sizes {sizes[letter]} and {size}")
    letters = output + "".join(letter for letter in sizes if letter not in output)
    factors = []
    for term, op in zip(terms, ops, strict=True):
        for letter in set(term):
            while term.count(letter) > 1:
                first, last = term.find(letter), term.rfind(letter)
                op = op.diagonal(dim1=first, dim2=last)  # its axis comes last
                term = term[:first] + term[first + 1 : last] + term[last + 1 :] + letter
        op = op.permute([term.index(letter) for letter in letters if letter in term])
        factors.append(op.reshape([sizes[x] if x in term else 1 for x in letters]))
    product = math.prod(factors[1:], start=factors[0])
    summed = tuple(range(len(output), len(letters)))
    return product.sum(summed) if summed else product  # torch sums over *every* axis of ()
    ### END SOLUTION


def gqa_scores(q: Tensor, k: Tensor) -> Tensor:
    """Scores of grouped queries, divided by sqrt(dim); query heads share key heads.

    Args:
        q: (batch, heads, seq_q, dim)
        k: (batch, kv_heads, seq_k, dim); `heads` is a multiple of `kv_heads`.

    Returns:
        (batch, heads, seq_q, seq_k); head h is scored against kv head
        h // (heads // kv_heads). k is not repeated in memory.
    """
    ### BEGIN SOLUTION 3: scores of each group with its own keys
    groups = q.unflatten(1, (k.shape[1], -1))
    scores = torch.einsum("bkgqd,bktd->bkgqt", groups, k)
    return scores.flatten(1, 2) / math.sqrt(q.shape[-1])
    ### END SOLUTION


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
    ### BEGIN SOLUTION 4: the cost and the order
    count = len(shapes)
    cost = [[0] * count for _ in shapes]
    split = [[0] * count for _ in shapes]
    for width in range(1, count):
        for i in range(count - width):
            j = i + width
            cost[i][j], split[i][j] = min(
                (cost[i][k] + cost[k + 1][j] + shapes[i][0] * shapes[k][1] * shapes[j][1], k)
                for k in range(i, j)
            )

    def order(i: int, j: int, place: int) -> list[tuple[int, int]]:
        if i == j:
            return []
        k = split[i][j]
        return [*order(i, k, place), *order(k + 1, j, place + 1), (place, place + 1)]

    return cost[0][-1], order(0, count - 1, 0)
    ### END SOLUTION


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
    ### BEGIN SOLUTION 5: both sums, then the quotient
    q, k = F.elu(q) + 1, F.elu(k) + 1
    if causal:
        state = torch.einsum("bhnd,bhne->bhnde", k, v).cumsum(2)
        above = torch.einsum("bhnd,bhnde->bhne", q, state)
        below = torch.einsum("bhnd,bhnd->bhn", q, k.cumsum(2))
    else:
        above = q @ (k.mT @ v)
        below = torch.einsum("bhnd,bhd->bhn", q, k.sum(2))
    return above / below[..., None]
    ### END SOLUTION
