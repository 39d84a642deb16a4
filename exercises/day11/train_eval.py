"""Day 11: what `train()` and `eval()` switch, and what they don't."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


def evaluate(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    loss_fn: Callable[[Tensor, Tensor], Tensor],
) -> dict[str, float]:
    """Mean loss and accuracy over all samples, leaving no trace in the model.

    Args:
        model: gives logits (batch, classes).
        loader: batches x (batch, ...) and y (batch,), int64; the last one may be smaller.
        loss_fn: takes logits and y, returns the mean over the batch, a scalar tensor.

    Returns:
        `{"loss": ..., "acc": ...}`, both Python floats; nan where there is no batch.
    """
    # TODO 1: the pass over the loader, and the modes before and after it
    raise NotImplementedError("day11 T1: evaluate")
    # END TODO


class Dropout(nn.Module):
    """Zero each element with probability p in training; do nothing in evaluation.

    Args:
        p: the probability of a zero, from 0 to 1.
        generator: what is drawn from; None means torch's global generator.

    Raises:
        ValueError: p is not within [0, 1].
    """

    def __init__(self, p: float = 0.5, generator: torch.Generator | None = None) -> None:
        super().__init__()
        # TODO 2: what the module remembers
        raise NotImplementedError("day11 T2: Dropout")
        # END TODO

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: (*), floating point.

        Returns:
            (*), in the dtype of `x`: in training x / (1 - p) or 0, in evaluation `x` itself.
        """
        # TODO 2: the two modes
        raise NotImplementedError("day11 T2: Dropout")
        # END TODO


class BatchNorm1d(nn.Module):
    """Normalise each channel, by its batch in training and by running statistics in evaluation.

    Args:
        features: the number of channels.
        eps: added to the variance before the root is taken.
        momentum: the weight of a new batch in the running statistics; None means the plain
            average of all batches so far.

    Parameters `weight` and `bias`, buffers `running_mean` and `running_var`, all (features,), and
    the buffer `num_batches_tracked`, a scalar of int64; they start as those of `nn.BatchNorm1d`.
    """

    def __init__(self, features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__()
        # TODO 3: parameters, buffers and settings
        raise NotImplementedError("day11 T3: BatchNorm1d")
        # END TODO

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: (batch, features) or (batch, features, seq).

        Returns:
            As x: each channel normalised, times `weight`, plus `bias`.

        Raises:
            ValueError: in training, with a single value per channel.
        """
        # TODO 3: the statistics of both modes, and the normalisation
        raise NotImplementedError("day11 T3: BatchNorm1d")
        # END TODO


# TODO 4: what `freeze` needs at the level of the module, if anything
# END TODO


def freeze(module: nn.Module) -> nn.Module:
    """Freeze a module in place: no gradients for its parameters, and the forward of eval mode.

    Later calls of `train()` don't change that, nor do `copy.deepcopy` and `pickle`.

    Returns:
        The module itself.
    """
    # TODO 4: parameters, and a forward that stays
    raise NotImplementedError("day11 T4: freeze_backbone")
    # END TODO


def mc_predict(model: nn.Module, x: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Mean and spread of the predicted probabilities over n passes with dropout.

    Args:
        model: gives logits (batch, classes).
        x: (batch, ...)
        n: passes, at least 2.

    Returns:
        mean, std: (batch, classes) each, without a graph; std with `correction=1`.
    """
    # TODO 5: n passes, some modules in training
    raise NotImplementedError("day11 T5: mc_dropout_and_bn_recalibration")
    # END TODO


def recalibrate_bn(model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Make the statistics of the BatchNorm layers the plain average over the loader's batches.

    Args:
        model: holds layers of `nn.BatchNorm1d`, `nn.BatchNorm2d`, `nn.BatchNorm3d`.
        loader: batches x (batch, ...) and y (batch,); only x is used.
    """
    # TODO 5: one pass over the loader, some modules in training
    raise NotImplementedError("day11 T5: mc_dropout_and_bn_recalibration")
    # END TODO
