"""Additions of numbers from 0 to 99: which a seed gives for training, and how they are written."""

import random

Pair = tuple[int, int]


def train_pairs(seed: int) -> list[Pair]:
    """9,000 of the 10,000 pairs (a, b), shuffled; each seed leaves out others."""
    pairs = [(a, b) for a in range(100) for b in range(100)]
    random.Random(seed).shuffle(pairs)
    return pairs[:9000]


def question(pair: Pair) -> str:
    """`(37, 58)` as `"37+58="`."""
    return f"{pair[0]}+{pair[1]}="


def answer(pair: Pair) -> str:
    """The right answer: `(37, 58)` as `"95"`."""
    return str(sum(pair))
