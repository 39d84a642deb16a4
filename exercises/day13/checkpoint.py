"""Day 13: weights in a file, the best weights in memory, and training that can be resumed."""

import math
import os
import random
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LRScheduler
from torch.utils.data import Dataset, TensorDataset


def save_weights(model: nn.Module, path: str | Path) -> None:
    """Write the model's state dict to a file that loads under `weights_only=True`.

    Args:
        model: its parameters and buffers are written.
        path: the file; one that is there is replaced.
    """
    # TODO 1: write
    raise NotImplementedError("day13 T1: save_load_roundtrip")
    # END TODO


def load_weights(model: nn.Module, path: str | Path, device: torch.device | str) -> None:
    """Copy the values of a file of `save_weights` into the model, in place.

    Args:
        model: keeps its parameters, its buffers and the device it is on.
        path: the file.
        device: where the file's tensors are read to, wherever they were when it was written.
    """
    # TODO 1: read
    raise NotImplementedError("day13 T1: save_load_roundtrip")
    # END TODO


class BestKeeper:
    """Keeps a copy of the weights that had the best metric."""

    def __init__(self, mode: str = "min") -> None:
        """`mode` is "min" or "max": which metric is the better one."""
        # TODO 2: nothing kept yet
        raise NotImplementedError("day13 T2: BestKeeper")
        # END TODO

    def update(self, model: nn.Module, metric: float) -> bool:
        """Keep a copy of the model's state if the metric is strictly better than the best so far.

        Returns:
            Whether it was. The first number always is, nan never.
        """
        # TODO 2: compare, then copy
        raise NotImplementedError("day13 T2: BestKeeper")
        # END TODO

    def restore(self, model: nn.Module) -> None:
        """Copy the best state into the model, in place."""
        # TODO 2: copy back
        raise NotImplementedError("day13 T2: BestKeeper")
        # END TODO


def slim(state: Any) -> Any:
    """The same nested structure, without memory that no tensor in it shows.

    Args:
        state: dicts, OrderedDicts, lists, tuples and namedtuples, nested; tensors and others.

    Returns:
        The structure with detached tensors; those that were a part of a larger storage are copies.
    """
    # TODO 3: visit every leaf
    raise NotImplementedError("day13 T3: slim")
    # END TODO


class Report(NamedTuple):
    """What `load_partial` did, as keys of the model or as they came after renaming."""

    loaded: list[str]
    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]


def load_partial(
    model: nn.Module,
    state: dict[str, Tensor],
    rename: list[tuple[str, str]],
    strict: bool = False,
) -> Report:
    """Copy what fits from a state dict with other names and sizes, and report the rest.

    Args:
        model: gets the values in place, in its own dtype.
        state: key -> tensor; a leading `module.` is stripped once.
        rename: (regex, replacement), applied to every key in this order.
        strict: refuse to load anything unless everything fits.

    Returns:
        The keys loaded, missing, unexpected and mismatched, each in any order.

    Raises:
        RuntimeError: `strict`, and there are missing, unexpected or mismatched keys; names them.
    """
    # TODO 4: first the names, then the values
    raise NotImplementedError("day13 T4: load_partial")
    # END TODO


class Checkpointer:
    """Checkpoints of a training run in one directory, the newest few of them."""

    def __init__(self, dir: str | Path, keep: int = 3) -> None:
        """`dir` is made if it isn't there; checkpoints of an earlier process count."""
        # TODO 5: the directory
        raise NotImplementedError("day13 T5: Checkpointer")
        # END TODO

    def save(self, step: int, **objects: Any) -> None:
        """Write one checkpoint, and remove all but the `keep` highest steps.

        Args:
            step: 0 or more.
            objects: whatever has a `state_dict()`, by name.
        """
        # TODO 5: collect, write, clean up
        raise NotImplementedError("day13 T5: Checkpointer")
        # END TODO

    def latest(self) -> Path | None:
        """The file of the highest step that can be read; None without one."""
        # TODO 5: the newest that can be read
        raise NotImplementedError("day13 T5: Checkpointer")
        # END TODO

    def load(self, **objects: Any) -> int:
        """Restore the objects and all random generators from `latest()`.

        Args:
            objects: whatever has a `load_state_dict()`, by the names given to `save`.

        Returns:
            The step of the checkpoint.

        Raises:
            FileNotFoundError: there is no checkpoint that can be read.
        """
        # TODO 5: put everything back
        raise NotImplementedError("day13 T5: Checkpointer")
        # END TODO


def build(cfg: dict[str, Any]) -> tuple[nn.Module, Optimizer, LRScheduler, Dataset]:
    """The parts of a run: a model, its optimizer, its scheduler and the data.

    Args:
        cfg: `seed`, `epochs`, `batch_size`. The weights come from torch's global generator.

    Returns:
        model: logits (batch, 2) of x (batch, 3); it has dropout.
        optimizer: with momentum.
        scheduler: one step a batch.
        dataset: 47 items (x (3,) float32, y () int64).
    """
    generator = torch.Generator().manual_seed(13)
    x = torch.randn(47, 3, generator=generator)
    model = nn.Sequential(nn.Linear(3, 11), nn.ReLU(), nn.Dropout(0.2), nn.Linear(11, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = CosineAnnealingWarmRestarts(optimizer, T_0=5)
    return model, optimizer, scheduler, TensorDataset(x, (x[:, 0] * x[:, 1] > 0).long())


def augment(x: Tensor) -> Tensor:
    """The batch with noise of three generators: torch's, NumPy's and Python's.

    Args:
        x: (batch, feat)

    Returns:
        (batch, feat)
    """
    noise = torch.from_numpy(np.random.randn(*x.shape)).to(x)
    return x + 0.1 * torch.randn_like(x) + 0.1 * noise + 0.1 * random.gauss(0, 1)


def fit(cfg: dict[str, Any], ckpt_dir: Path, stop_after: int | None = None) -> list[float]:
    """Train, or go on with the training that was stopped in `ckpt_dir`.

    Args:
        cfg: `seed`, `epochs`, `batch_size`.
        ckpt_dir: for checkpoints and, when the training is over, `final.pt`.
        stop_after: write a checkpoint and return after so many steps of this call.

    Returns:
        The losses of the steps of this call.
    """
    # TODO 6: seed, build, resume, train
    raise NotImplementedError("day13 T6: resume_bit_exact")
    # END TODO
