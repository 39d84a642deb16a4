"""The sick zoo: small training runs, each with one known disease, and healthy ones.

`make("dead_relu", 0)` is a run that goes wrong, `make("healthy", 0)` one that doesn't, and
`make("lr_tiny+unscaled", 0)` has two diseases at once. Every run trains a network of two hidden
layers on 512 rows of ten features; the class says whether the first two have the same sign.
"""

import copy
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

KINDS = (
    "lr_huge",  # SGD with a learning rate of 50
    "lr_tiny",  # a learning rate of 1e-6
    "no_zero_grad",  # gradients of all steps so far are summed
    "zero_after_backward",  # gradients are cleared before the optimizer sees them
    "dead_relu",  # biases of -20: no unit of the hidden layers ever answers
    "zero_init",  # all parameters start at 0
    "stale_optimizer",  # the optimizer holds the parameters of another network
    "double_softmax",  # the network ends in a softmax, and the loss has one of its own
    "detached",  # the output is cut from the graph before the loss
    "shuffled_labels",  # labels that belong to other rows
    "sigmoid_deep",  # twelve hidden layers with sigmoid
    "unscaled",  # features of sizes from 1e-3 to 1e4
    "nan_row",  # one row of the data holds nan
    "ascent",  # the loss is climbed
)

ROWS, FEATURES, WIDTH, CLASSES, BATCH = 512, 10, 64, 2, 64
LOOP = ("zero", "forward", "backward", "step")

Batch = tuple[Tensor, Tensor]


class Loader:
    """Endless batches of a data set, shuffled anew in every epoch.

    The order follows from the seed and the epoch alone: no global generator is used, and a copy
    goes on where the original stands.
    """

    def __init__(self, x: Tensor, y: Tensor, batch_size: int, seed: int) -> None:
        self.x, self.y = x, y
        self.batch_size, self.seed = batch_size, seed
        self.position = 0  # batches given out so far

    def __next__(self) -> Batch:
        """The next batch: x (batch_size, features), y (batch_size,)."""
        epoch, place = divmod(self.position, max(len(self.x) // self.batch_size, 1))
        self.position += 1
        rows = order(len(self.x), self.seed, epoch)[place * self.batch_size :][: self.batch_size]
        return self.x[rows], self.y[rows]

    def __iter__(self) -> "Loader":
        return self


class Run:
    """One training run: what it is made of, and `step`, which trains on one more batch.

    `copy.deepcopy` of a run is a run of its own that stands at the same step, with its own
    network, its own data and an optimizer that holds the parameters it held before. (As always in
    PyTorch, the copy of a parameter begins with `grad` None.)
    """

    def __init__(
        self,
        model: nn.Module,
        loader: Loader,
        loss_fn: Callable[[Tensor, Tensor], Tensor],
        opt: torch.optim.Optimizer,
        *,
        loop: tuple[str, ...] = LOOP,
        factor: float = 1.0,
    ) -> None:
        """Put a run together.

        Args:
            model: gives logits (batch, classes) for a batch of x.
            loader: gives batches.
            loss_fn: of logits and y.
            opt: an optimizer, as a rule of the model's parameters.
            loop: what happens in a step, in order.
            factor: the unit of the loss: what it is multiplied by.
        """
        self.model, self.loader, self.loss_fn, self.opt = model, loader, loss_fn, opt
        self._loop, self._factor = loop, factor

    def step(self) -> float:
        """Train on the next batch and return its loss."""
        x, y = next(self.loader)
        loss = torch.zeros(())
        for stage in self._loop:
            if stage == "zero":
                self.opt.zero_grad()
            elif stage == "forward":
                loss = self._factor * self.loss_fn(self.model(x), y)
            elif stage == "cut":
                loss = loss.detach().requires_grad_()
            elif stage == "backward":
                loss.backward()
            elif stage == "climb":
                (-loss).backward()
            elif stage == "step":
                self.opt.step()
        return loss.item()


def order(rows: int, seed: int, epoch: int) -> Tensor:
    """The order of the rows in one epoch: (rows,) of int64."""
    generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
    return torch.randperm(rows, generator=generator)


def network(seed: int, hidden: int = 2, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """A network of `hidden` layers of 64 units, with PyTorch's usual start, from its own seed."""
    generator = torch.Generator().manual_seed(7_919 * seed + 1)
    sizes = [FEATURES] + [WIDTH] * hidden + [CLASSES]
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layer = nn.utils.skip_init(nn.Linear, fan_in, fan_out)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)
        layers += [layer, activation()]
    return nn.Sequential(*layers[:-1])


class Units(nn.Module):
    """Divides its input: the first layer of a network whose data come in other units."""

    def __init__(self, unit: float) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, x: Tensor) -> Tensor:
        return x / self.unit


def make(kind: str, seed: int, *, units: float = 1.0, factor: float = 1.0) -> Run:
    """A run with a disease, with several of them (`"a+b"`), or `"healthy"`.

    Args:
        kind: one of `KINDS`, several joined by "+", or "healthy".
        seed: of the data, of the network's start and of the order of the batches.
        units: what the data are multiplied by; the network divides by it first. Nobody is ill of
            that.
        factor: what the loss is multiplied by. Nobody is ill of that either.

    Raises:
        ValueError: there is no such kind.
    """
    kinds = set(kind.split("+")) - {"healthy"}
    if kinds - set(KINDS):
        raise ValueError(f"no such kind: {kind!r}; there are healthy, {', '.join(KINDS)}")
    generator = torch.Generator().manual_seed(104_729 * seed + 2)
    x = torch.randn(ROWS, FEATURES, generator=generator)
    y = (x[:, 0] * x[:, 1] > 0).long()
    if "shuffled_labels" in kinds:
        y = y[torch.randperm(ROWS, generator=generator)]
    if "unscaled" in kinds:
        x = x * torch.logspace(-3, 4, FEATURES)
    if "nan_row" in kinds:  # in one of the batches 1 to 6 of the first epoch
        place = int(torch.randint(BATCH, 7 * BATCH, (), generator=generator))
        x[order(ROWS, seed, 0)[place]] = float("nan")

    deep = "sigmoid_deep" in kinds
    model = network(seed, 12, nn.Sigmoid) if deep else network(seed)
    with torch.no_grad():
        for layer in model[:-1] if "dead_relu" in kinds else ():
            if isinstance(layer, nn.Linear):
                layer.bias.fill_(-20.0)
        for parameter in model.parameters() if "zero_init" in kinds else ():
            parameter.zero_()
    if "double_softmax" in kinds:
        model.append(nn.Softmax(dim=-1))
    if units != 1.0:
        model.insert(0, Units(units))

    held = copy.deepcopy(model) if "stale_optimizer" in kinds else model
    opt: torch.optim.Optimizer
    if "lr_huge" in kinds:
        opt = torch.optim.SGD(held.parameters(), lr=50.0)
    else:
        opt = torch.optim.Adam(held.parameters(), lr=1e-6 if "lr_tiny" in kinds else 3e-3)

    loop = list(LOOP)
    if "no_zero_grad" in kinds:
        loop.remove("zero")
    if "ascent" in kinds:
        loop[loop.index("backward")] = "climb"
    if "detached" in kinds:
        loop.insert(loop.index("forward") + 1, "cut")
    if "zero_after_backward" in kinds:
        loop.insert(loop.index("step"), "zero")
    loader = Loader(units * x, y, BATCH, seed)
    return Run(model, loader, nn.CrossEntropyLoss(), opt, loop=tuple(loop), factor=factor)
