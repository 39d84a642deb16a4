"""Day 14: a training template: settings, one `fit` for all, a pre-flight, a script."""

import argparse
import copy
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset


@dataclass
class Config:
    """The settings of a run."""

    # TODO 1: the ten fields, with types and defaults
    # END TODO


def parse(argv: list[str]) -> Config:
    """Read a Config off the words of a command line.

    Args:
        argv: such as `["--lr=3e-4", "--batch-size", "64", "--no-amp"]`, without the program's name.

    Returns:
        The defaults, with what the words say put over them.

    Raises:
        SystemExit: a key is unknown.
    """
    # TODO 1: from words to typed values
    raise NotImplementedError("day14 T1: parse")
    # END TODO


def fit(
    model: nn.Module,
    train_loader: Iterable[tuple[Any, Tensor]],
    val_loader: Iterable[tuple[Any, Tensor]] | None,
    *,
    loss_fn: Callable[[Any, Tensor], Tensor],
    optimizer: Optimizer,
    cfg: Any,
    scheduler: Any = None,
    metrics: dict[str, Callable[[Any, Tensor], Any]] | None = None,
) -> dict[str, list[float]]:
    """Train, validate after every epoch, stop early, end with the best weights.

    Args:
        model: lies on `cfg.device`; called by the type of the inputs.
        train_loader: batches `(inputs, target)`; inputs are a tensor, a tuple or list, or a dict of
            tensors, the target is a tensor (batch, ...). May have no `len`.
        val_loader: the same, or None, or without any batch.
        loss_fn: `loss_fn(out, target)` is the mean over a batch.
        optimizer: holds the parameters that learn.
        cfg: `epochs`, `clip`, `accum`, `patience`, `device` are read.
        scheduler: `scheduler.step()` once per epoch.
        metrics: name -> function as `loss_fn`; a number or a scalar tensor.

    Returns:
        One float per epoch under `train_loss`, `val_loss` and `val_<name>` for each metric.
    """
    # TODO 2: epochs of training and validation, and the best of them
    raise NotImplementedError("day14 T2: fit")
    # END TODO


def sanity_checks(
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    n_classes: int | None = None,
) -> dict[str, bool]:
    """Look a model over before the training; True = healthy.

    Args:
        model: called as `model(x)`; stays as it is.
        batch: x (batch, ...), floating point, and y (batch, ...); at least two rows.
        loss_fn: `loss_fn(model(x), y)` is a scalar.
        n_classes: of a classification; None for anything else.

    Returns:
        `init_loss`, `overfits`, `no_mixing`, `all_grads`, `uses_inputs` and `has_bn`, each a bool.
    """
    # TODO 3: on copies only
    raise NotImplementedError("day14 T3: sanity_checks")
    # END TODO


def main(argv: list[str]) -> None:
    """Train a small model on data made from the seed; leave metrics and checkpoints in a folder.

    Args:
        argv: the words that `parse` knows, and `--resume`.
    """
    # TODO 4: a run that can be repeated, stopped and taken up again
    raise NotImplementedError("day14 T4: main")
    # END TODO


if __name__ == "__main__":
    main(sys.argv[1:])
