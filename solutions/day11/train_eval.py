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
    ### BEGIN SOLUTION 1: the pass over the loader, and the modes before and after it
    modes = {module: module.training for module in model.modules()}
    loss, correct, samples = 0.0, 0, 0
    try:
        model.eval()
        with torch.no_grad():
            for x, y in loader:
                logits = model(x)
                loss += loss_fn(logits, y).item() * len(y)
                correct += int((logits.argmax(1) == y).sum())
                samples += len(y)
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not samples:
        return {"loss": float("nan"), "acc": float("nan")}
    return {"loss": loss / samples, "acc": correct / samples}
    ### END SOLUTION


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
        ### BEGIN SOLUTION 2: what the module remembers
        if not 0 <= p <= 1:
            raise ValueError(f"p is a probability, from 0 to 1; got {p}")
        self.p = p
        self.generator = generator
        ### END SOLUTION

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: (*), floating point.

        Returns:
            (*), in the dtype of `x`: in training x / (1 - p) or 0, in evaluation `x` itself.
        """
        ### BEGIN SOLUTION 2: the two modes
        if not self.training:
            return x
        draws = torch.rand(x.shape, generator=self.generator, device=x.device)
        scale = 1 / (1 - self.p) if self.p < 1 else 0.0
        return x * (draws >= self.p) * scale
        ### END SOLUTION


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
        ### BEGIN SOLUTION 3: parameters, buffers and settings
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))
        ### END SOLUTION

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: (batch, features) or (batch, features, seq).

        Returns:
            As x: each channel normalised, times `weight`, plus `bias`.

        Raises:
            ValueError: in training, with a single value per channel.
        """
        ### BEGIN SOLUTION 3: the statistics of both modes, and the normalisation
        shape = (1, -1) + (1,) * (x.dim() - 2)
        if self.training:
            values = x.numel() // x.shape[1]
            if values == 1:
                raise ValueError(f"a single value per channel has no variance; x is {x.shape}")
            axes = [axis for axis in range(x.dim()) if axis != 1]
            var, mean = torch.var_mean(x, axes, correction=0)
            with torch.no_grad():
                self.num_batches_tracked += 1
                share = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
                unbiased = var * values / (values - 1)
                self.running_mean += share * (mean - self.running_mean)
                self.running_var += share * (unbiased - self.running_var)
        else:
            mean, var = self.running_mean, self.running_var
        scale = self.weight / torch.sqrt(var + self.eps)
        return (x - mean.view(shape)) * scale.view(shape) + self.bias.view(shape)
        ### END SOLUTION


### BEGIN SOLUTION 4: what `freeze` needs at the level of the module, if anything
def _to_eval(module: nn.Module, args: tuple) -> None:
    module.eval()


### END SOLUTION


def freeze(module: nn.Module) -> nn.Module:
    """Freeze a module in place: no gradients for its parameters, and the forward of eval mode.

    Later calls of `train()` don't change that, nor do `copy.deepcopy` and `pickle`.

    Returns:
        The module itself.
    """
    ### BEGIN SOLUTION 4: parameters, and a forward that stays
    module.register_forward_pre_hook(_to_eval)
    return module.requires_grad_(False)
    ### END SOLUTION


def mc_predict(model: nn.Module, x: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Mean and spread of the predicted probabilities over n passes with dropout.

    Args:
        model: gives logits (batch, classes).
        x: (batch, ...)
        n: passes, at least 2.

    Returns:
        mean, std: (batch, classes) each, without a graph; std with `correction=1`.
    """
    ### BEGIN SOLUTION 5: n passes, some modules in training
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        for module in modes:
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.train()
        with torch.no_grad():
            passes = torch.stack([model(x).softmax(-1) for _ in range(n)])
    finally:
        for module, mode in modes.items():
            module.training = mode
    return passes.mean(0), passes.std(0)
    ### END SOLUTION


def recalibrate_bn(model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Make the statistics of the BatchNorm layers the plain average over the loader's batches.

    Args:
        model: holds layers of `nn.BatchNorm1d`, `nn.BatchNorm2d`, `nn.BatchNorm3d`.
        loader: batches x (batch, ...) and y (batch,); only x is used.
    """
    ### BEGIN SOLUTION 5: one pass over the loader, some modules in training
    modes = {module: module.training for module in model.modules()}
    layers = [m for m in modes if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    try:
        model.eval()
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None
            layer.train()
        with torch.no_grad():
            for x, _ in loader:
                model(x)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
    ### END SOLUTION
