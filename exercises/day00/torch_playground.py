"""The playground toolkit: device, seeds, a look at a tensor, a timer, the debug checklist.

`from torch_playground import *` at the head of a script or notebook picks the device, seeds every
random generator and gives the names of `__all__`.
"""

import random
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def pick_device(prefer: str | None = None) -> torch.device:
    """The device to compute on: the preferred one, else CUDA where there is one, else the CPU.

    Args:
        prefer: "cpu", or a CUDA device such as "cuda" or "cuda:1"; None leaves the choice.

    Returns:
        A `torch.device`. A preference that is not available gives one `UserWarning` and the CPU.
    """
    # TODO 1: what is asked for, if it is there
    raise NotImplementedError("day00 T1: pick_device")
    # END TODO


def seed_everything(seed: int = 277527) -> None:
    """Seed Python's `random`, NumPy's global generator and torch on every device.

    Also makes cuDNN deterministic and switches its benchmark mode off. Works without CUDA.
    """
    # TODO 2: the generators, then the two cuDNN flags
    raise NotImplementedError("day00 T2: seed_everything")
    # END TODO


def inspect(tensor: Tensor, name: str = "Tensor") -> None:
    """Print what a tensor is, in six lines, without reading a value of it.

    Args:
        tensor: of any shape, dtype and device; it is not changed.
        name: what the first line calls it.
    """
    # TODO 3: six lines, byte for byte
    raise NotImplementedError("day00 T3: inspect")
    # END TODO


@contextmanager
def time_block(label: str = "Block") -> Iterator[None]:
    """Print `[Time] {label} cost: {seconds:.6f} sec` when the body ends, also when it raises.

    Kernels run beside Python, so CUDA, where there is one, is waited for before each reading of
    the clock.
    """
    # TODO 4: wait, read the clock, run the body, wait, read it again
    raise NotImplementedError("day00 T4: time_block")
    # END TODO


def find_first(symptom: str, path: str | Path = "debug_checklist.md") -> list[str]:
    """The items of the debug checklist to look at first.

    Args:
        symptom: an error message, or what was seen, in any case of letters.
        path: the checklist. A group is a `## ` heading, a line `Keywords: nan, inf, 爆炸` and
            items `- [ ] NAN-2 …` or `- [x] NAN-2 …`.

    Returns:
        The ids of the group with the most keywords that occur in the symptom, in the order of the
        file; the earlier group on a tie; [] if no keyword occurs.
    """
    # TODO 6: read the groups, count the keywords that occur, keep the best
    raise NotImplementedError("day00 T6: find_first")
    # END TODO


# TODO 5: what happens at import, and the names that `import *` gives
# END TODO
