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


### BEGIN SOLUTION 3: what your rules need
_SAID = {
    "second time": "GRAPH_KEPT",
    "empty parameter list": "PYTHON_LIST_OF_LAYERS",
    "cuda": "HARD_CODED_DEVICE",
    "same device": "HARD_CODED_DEVICE",
    "dtype": "WRONG_DTYPE",
    "scalar type": "WRONG_DTYPE",
    "target size": "BROADCAST_N1_N",
}


def _figures(log: str, name: str) -> list[float]:
    """Every number that follows a name, in the order of the log."""
    number = r"([-+]?\d+\.?\d*(?:[eE][-+]?\d+)?|nan|inf)"
    return [float(found) for found in re.findall(rf'(?<![\w/]){name}"?\W*?[ =:]{number}', log)]


### END SOLUTION


def triage(log: str) -> list[str]:
    """What is probably wrong, by the log of a run alone.

    Args:
        log: what the run wrote: a traceback, warnings, figures step by step.

    Returns:
        Codes of `codes.md`, the most likely first, at most 3; empty if the run looks healthy.
    """
    ### BEGIN SOLUTION 3: loud signs first, then the shape of the curves
    loud = [line.lower() for line in log.splitlines() if re.search(r"\w(Error|Warning)\b", line)]
    for line in loud:
        for said, code in _SAID.items():
            if said in line:
                return [code]
    loss, gradient, lr = (_figures(log, f"(?:train_)?{n}") for n in ("loss", r"grad\w*", "lr"))
    held_out, fresh = _figures(log, "val_acc"), _figures(log, "test_acc")
    if held_out and fresh and held_out[-1] - fresh[-1] > 0.12:
        return ["LEAKY_SPLIT"]
    if lr and min(lr) < 1e-3 * max(lr) and len(set(lr)) > len(lr) / 2:
        return ["SCHED_PER_BATCH"]
    if gradient and max(gradient) == 0:
        return ["ZERO_GRAD_AFTER_BACKWARD"]
    third = max(len(gradient) // 3, 1)
    if gradient and mean(gradient[-third:]) > 3 * mean(gradient[:third]):
        is_flat = abs(mean(loss[-third:]) - mean(loss[:third])) < 0.05 * mean(loss)
        both = ["STALE_OPTIMIZER", "NO_ZERO_GRAD"]
        return both if is_flat else both[::-1]
    return []
    ### END SOLUTION


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
    ### BEGIN SOLUTION 4: halve what is left
    first, last = 0, len(stages)  # the stage is among first … last; last means none
    while first < last:
        middle = (first + last) // 2
        pairs = zip(good(stages[middle], seed), bad(stages[middle], seed), strict=True)
        if all(_agree(ours, theirs) for ours, theirs in pairs):
            first = middle + 1
        else:
            last = middle
    return stages[first] if first < len(stages) else None
    ### END SOLUTION


### BEGIN SOLUTION 4: what your search needs
def _agree(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two tensors differ by rounding only: the border lies between 8 and 64 eps."""
    if ours.numel() == 0:
        return True
    border = math.sqrt(8 * 64) * torch.finfo(ours.dtype).eps * ours.double().abs().max()
    return bool(((ours.double() - theirs.double()).abs() <= border).all())


### END SOLUTION
