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
    ### BEGIN SOLUTION 1: what is asked for, if it is there
    cuda = torch.cuda.is_available()
    device = torch.device(prefer or ("cuda" if cuda else "cpu"))
    if device.type == "cuda" and not cuda:
        warnings.warn(f"{device} is not available; using the CPU instead", stacklevel=2)
        return torch.device("cpu")
    return device
    ### END SOLUTION


def seed_everything(seed: int = 277527) -> None:
    """Seed Python's `random`, NumPy's global generator and torch on every device.

    Also makes cuDNN deterministic and switches its benchmark mode off. Works without CUDA.
    """
    ### BEGIN SOLUTION 2: the generators, then the two cuDNN flags
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)  # the CPU's generator and those of all CUDA devices
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    ### END SOLUTION


def inspect(tensor: Tensor, name: str = "Tensor") -> None:
    """Print what a tensor is, in six lines, without reading a value of it.

    Args:
        tensor: of any shape, dtype and device; it is not changed.
        name: what the first line calls it.
    """
    ### BEGIN SOLUTION 3: six lines, byte for byte
    print(f"[Inspect] {name}: ")
    print(f"   Shape:  {tuple(tensor.shape)}")
    print(f"   Dtype:  {tensor.dtype}")
    print(f"   Device: {tensor.device}")
    print(f"   Grad:   {tensor.requires_grad} (Grad Fn: {tensor.grad_fn is not None})")
    print("-" * 30)
    ### END SOLUTION


@contextmanager
def time_block(label: str = "Block") -> Iterator[None]:
    """Print `[Time] {label} cost: {seconds:.6f} sec` when the body ends, also when it raises.

    Kernels run beside Python, so CUDA, where there is one, is waited for before each reading of
    the clock.
    """
    ### BEGIN SOLUTION 4: wait, read the clock, run the body, wait, read it again
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    try:
        yield
    finally:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        print(f"[Time] {label} cost: {time.perf_counter() - start:.6f} sec")
    ### END SOLUTION


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
    ### BEGIN SOLUTION 6: read the groups, count the keywords that occur, keep the best
    symptom = symptom.lower()
    first: list[str] = []
    most = 0
    text = Path(path).read_text(encoding="utf-8")
    for group in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        line = re.search(r"^Keywords:(.*)", group, re.MULTILINE)
        keywords = {word.strip() for word in line[1].lower().split(",")} if line else set()
        count = sum(word in symptom for word in keywords - {""})
        if count > most:  # more, not as many: a tie stays with the earlier group
            most, first = count, re.findall(r"^- \[[ x]\] (\S+)", group, re.MULTILINE)
    return first
    ### END SOLUTION


### BEGIN SOLUTION 5: what happens at import, and the names that `import *` gives
__all__ = ["DEVICE", "inspect", "pick_device", "seed_everything", "time", "time_block", "torch"]

DEVICE = pick_device()
seed_everything()
### END SOLUTION
