"""Day 20: reading logs like a duty engineer, and finding the first stage that differs.

The scripts `b01.py` to `b10.py`, which are to be repaired, lie beside this file.
"""

import math
import re
from collections.abc import Callable
from statistics import mean

import torch
from torch import Tensor

Pipeline = Callable[[str, int], tuple[Tensor, Tensor]]
"""`pipeline(stage, seed)` runs up to and including a stage: its output, and a gradient."""

NOTES = ""
"""Not scored: of each bug of b01 to b10 the sign, the cause, and what would have prevented it."""


# TODO 3: what your rules need
# END TODO


def triage(log: str) -> list[str]:
    """What is probably wrong, by the log of a run alone.

    Args:
        log: what the run wrote: a traceback, warnings, figures step by step.

    Returns:
        Codes of `codes.md`, the most likely first, at most 3; empty if the run looks healthy.
    """
    # TODO 3: loud signs first, then the shape of the curves
    raise NotImplementedError("day20 T3: triage")
    # END TODO


def bisect(good: Pipeline, bad: Pipeline, stages: list[str], seed: int) -> str | None:
    """The first stage at which `bad` deviates from `good`, in output or gradient.

    Args:
        good: `good(stage, seed) -> (output, gradient)`, both Tensors of a floating dtype.
        bad: the same; once it deviates at a stage, it does at every later one.
        stages: in the order of the pipeline; may be empty.
        seed: for every call of both.

    Returns:
        The name of the stage, None if no stage deviates. `bad` is called at most
        ceil(log2(len(stages) + 1)) times.
    """
    # TODO 4: halve what is left
    raise NotImplementedError("day20 T4: bisect")
    # END TODO


# TODO 4: what your search needs
# END TODO
