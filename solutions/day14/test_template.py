"""Day 14 asks for a training template; here are the models, data and loaders it has never seen."""

import atexit
import contextlib
import copy
import itertools
import json
import math
import os
import random
import resource
import signal
import subprocess
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch

# The first optimizer imports it, which takes a second; here it is imported once for all runs.
import torch._dynamo
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from grader.testing import (
    assert_close,
    assert_equal,
    expect,
    fail,
    measured,
    picture,
)

# --- 1 ------------------------------------------------------------------------------------------

FIELDS: dict[str, tuple[Any, Any]] = {
    "epochs": (int, 10),
    "lr": (float, 1e-3),
    "batch_size": (int, 32),
    "seed": (int, 277527),
    "clip": (float | None, None),
    "accum": (int, 1),
    "patience": (int | None, None),
    "device": (str, "cpu"),
    "amp": (bool, False),
    "out": (str, "run"),
}
"""Name -> type and default."""


def parsed(submission: Any, *words: str) -> Any:
    """What `parse` makes of these words, which it knows."""
    try:
        config = submission.parse(list(words))
    except SystemExit:
        fail(f"parse({list(words)}) ended with SystemExit; these keys and values are all of Config")
    expect(
        isinstance(config, submission.Config),
        f"parse({list(words)}) returned {type(config).__name__}; expected a Config",
    )
    return config


def assert_settings(config: Any, words: str, **named: Any) -> None:
    """The named fields have these values, in type too, all others their defaults."""
    for name, (_, default) in FIELDS.items():
        expected, got = named.get(name, default), getattr(config, name)
        expect(
            type(got) is type(expected) and got == expected,
            f"after {words or 'no words at all'}, {name} is {got!r} ({type(got).__name__}); "
            f"expected {expected!r} ({type(expected).__name__})"
            + ("" if name in named else ", its default"),
            expected=expected,
            got=got,
        )


@pytest.mark.task("parse")
class TestParse:
    @pytest.mark.points(2, "structure")
    def test_fields(self, submission):
        """Config is a dataclass with the ten fields, their types and defaults."""
        names = [field.name for field in fields(submission.Config)]
        missing = [name for name in FIELDS if name not in names]
        expect(not missing, f"Config has no field {', '.join(missing)}; it has {names}")
        hints = get_type_hints(submission.Config)
        for name, (kind, _) in FIELDS.items():
            same = set(get_args(kind) or [kind]) == set(get_args(hints[name]) or [hints[name]])
            expect(same, f"Config.{name} is annotated {hints[name]}; expected {kind}")
        assert_settings(submission.Config(), "Config()")

    @pytest.mark.points(1, "value")
    def test_defaults(self, submission):
        """Without any word all fields have their defaults."""
        assert_settings(parsed(submission), "")

    @pytest.mark.points(2, "value")
    @pytest.mark.parametrize(
        ("words", "named"),
        [
            ("--epochs 3", {"epochs": 3}),
            ("--lr=3e-4", {"lr": 3e-4}),
            ("--lr 2", {"lr": 2.0}),
            ("--clip 0.5", {"clip": 0.5}),
            ("--patience=4", {"patience": 4}),
            ("--out 7 --device=meta", {"out": "7", "device": "meta"}),
            ("--seed 11 --accum=2 --epochs 5", {"seed": 11, "accum": 2, "epochs": 5}),
        ],
    )
    def test_values(self, submission, words, named):
        """Values come with a space or an equals sign, in the types of the fields."""
        assert_settings(parsed(submission, *words.split()), words, **named)

    @pytest.mark.points(1, "value")
    @pytest.mark.parametrize("words", ["--batch-size 64", "--batch-size=64"])
    def test_hyphens(self, submission, words):
        """An underscore in a name is a hyphen on the command line."""
        assert_settings(parsed(submission, *words.split()), words, batch_size=64)

    @pytest.mark.points(1, "value")
    @pytest.mark.parametrize(("words", "on"), [("--amp", True), ("--no-amp", False)])
    def test_switch(self, submission, words, on):
        """--amp switches on, --no-amp switches off."""
        assert_settings(parsed(submission, words, "--epochs", "3"), words, amp=on, epochs=3)

    @pytest.mark.points(1, "value")
    @pytest.mark.parametrize("words", ["--learning-rate 1", "--epoch-size=3", "--no-such-thing"])
    def test_unknown_key(self, submission, words):
        """An unknown key ends with SystemExit."""
        with contextlib.suppress(SystemExit):
            submission.parse(["--epochs", "2", *words.split()])
            fail(f"parse took {words!r} without a word; a mistyped key must end with SystemExit")

    @pytest.mark.points(1, "value")
    def test_json(self, submission):
        """A Config survives the way through JSON."""
        for words in ((), ("--clip", "1.5", "--amp", "--patience", "2", "--lr", "1e-5")):
            config = parsed(submission, *words)
            try:
                text = json.dumps(asdict(config))
            except TypeError as error:
                fail(f"json.dumps(asdict(config)) raises TypeError: {error}")
            again = submission.Config(**json.loads(text))
            expect(again == config, f"{config} comes back from JSON as {again}")

    @pytest.mark.points(1, "value")
    def test_argv_only(self, submission, monkeypatch):
        """Only argv counts: no sys.argv, and no earlier call."""
        monkeypatch.setattr(sys, "argv", ["template.py", "--epochs", "99", "--seed=98"])
        first = parsed(submission, "--epochs", "3", "--clip", "2")
        second = parsed(submission)
        expect(
            second.epochs != 99 and second.seed != 98,
            "parse([]) took its values from sys.argv; it reads the list it is given",
        )
        assert_settings(second, "an earlier call with other words")
        assert_settings(first, "--epochs 3 --clip 2", epochs=3, clip=2.0)


# --- 2 ------------------------------------------------------------------------------------------


@dataclass
class Settings:
    """A Config of the suite's own, so that `fit` is judged by itself."""

    epochs: int = 1
    lr: float = 1e-3
    batch_size: int = 32
    seed: int = 277527
    clip: float | None = None
    accum: int = 1
    patience: int | None = None
    device: str = "cpu"
    amp: bool = False
    out: str = "run"


class Recording(torch.optim.SGD):
    """SGD that notes the gradient of each step."""

    def __init__(self, model: nn.Module, lr: float, log: list[str] | None = None) -> None:
        super().__init__(model.parameters(), lr=lr)
        self.seen: list[Tensor] = []
        self.log = [] if log is None else log

    def step(self, closure: Any = None) -> Any:
        """One step, noted."""
        grads = [p.grad for group in self.param_groups for p in group["params"]]
        self.seen.append(torch.cat([g.detach().clone().flatten() for g in grads if g is not None]))
        self.log.append("step")
        return super().step(closure)


class Batches:
    """An iterable without `len`, begun anew at each `iter`."""

    def __init__(self, batches: Sequence[tuple[Any, Tensor]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        for inputs, target in self._batches:
            yield copy.deepcopy(inputs), target.clone()


class Walk(nn.Module):
    """Its only weight is the number of training batches so far, if SGD's lr is 1."""

    def __init__(self, log: list[str] | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self.log = [] if log is None else log

    def forward(self, x: Tensor) -> Tensor:
        """(batch, features) -> (batch,)"""
        mode = "train" if self.training else "eval"
        grad = "" if torch.is_grad_enabled() else ", no grad"
        self.log.append(f"{mode} forward{grad}")
        if self.training:
            self.batches += 1
        return self.weight.expand(len(x))


def walking_loss(out: Tensor, target: Tensor) -> Tensor:
    """In training (target 1-d) the gradient is -1; in validation the loss is written in a table."""
    if target.dim() == 2:
        return target[:, round(out[0].item())].mean() + 0 * out.mean()
    return -out.mean()


def walk(
    submission: Any,
    val_losses: Sequence[float] | None,
    patience: int | None = None,
    epochs: int | None = None,
    per_epoch: int = 1,
) -> tuple[Walk, dict[str, list[float]]]:
    """Run `fit` so that epoch e validates to `val_losses[e - 1]`; None: no validation."""
    model = Walk()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    val_loader = None
    if val_losses is not None:
        table = torch.full((len(val_losses) * per_epoch + 1,), 77.0)
        table[per_epoch::per_epoch] = torch.tensor(val_losses)
        val_loader = Batches([(torch.ones(3, 2), table.expand(3, -1))])
    history = submission.fit(
        model,
        Batches([(torch.ones(5, 2), torch.zeros(5))] * per_epoch),
        val_loader,
        loss_fn=walking_loss,
        optimizer=optimizer,
        cfg=Settings(epochs=epochs or len(val_losses or ()), patience=patience),
    )
    return model, history


def linear_batches(*sizes: int, features: int = 3) -> list[tuple[Tensor, Tensor]]:
    """Random regression batches (size, features) and (size, 1)."""
    return [
        (torch.randn(size, features), torch.randn(size, 1) * (i + 1))
        for i, size in enumerate(sizes)
    ]


def gradient_of(model: nn.Linear, x: Tensor, y: Tensor) -> Tensor:
    """(features + 1,) the gradient of the mean squared error, written out."""
    off = x @ model.weight.detach().T + model.bias.detach() - y
    return torch.cat([2 * (off.T @ x).flatten() / len(x), 2 * off.sum(0) / len(x)])


def still_fit(
    submission: Any, batches: list[tuple[Tensor, Tensor]], stale: bool = False, **settings: Any
) -> tuple[nn.Linear, list[Tensor]]:
    """Train a linear model that doesn't move (lr 0), and return it with each step's gradient."""
    model = nn.Linear(3, 1)
    if stale:
        for p in model.parameters():
            p.grad = torch.full_like(p, 5.0)
    optimizer = Recording(model, lr=0.0)
    submission.fit(
        model,
        Batches(batches),
        None,
        loss_fn=F.mse_loss,
        optimizer=optimizer,
        cfg=Settings(**settings),
    )
    return model, optimizer.seen


def weighted(values: Sequence[float], sizes: Sequence[int]) -> float:
    """The mean over samples of batch means."""
    return sum(v * n for v, n in zip(values, sizes, strict=True)) / sum(sizes)


def history_of(submission: Any, metrics: Any, epochs: int, train: Any, val: Any) -> Any:
    """What `fit` returns for a linear model that doesn't move, and that model."""
    model = nn.Linear(3, 1)
    history = submission.fit(
        model,
        Batches(train),
        Batches(val),
        loss_fn=F.mse_loss,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.0),
        cfg=Settings(epochs=epochs),
        metrics=metrics,
    )
    expect(isinstance(history, dict), f"fit returned {type(history).__name__}; expected a dict")
    return model, history


def mean_error(out: Tensor, target: Tensor) -> Tensor:
    """A metric that is a tensor."""
    return (out - target).abs().mean()


def bias(out: Tensor, target: Tensor) -> float:
    """A metric that is a float."""
    return (out - target).mean().item()


class Scheduler:
    """Notes its steps."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def step(self) -> None:
        """One step, noted."""
        self.log.append("scheduler")


def events(submission: Any, train: int, val: int, epochs: int, accum: int = 1) -> list[str]:
    """Forwards, steps of the optimizer and of the scheduler in a run of `fit`, in order."""
    log: list[str] = []
    model = Walk(log)
    table = torch.arange(100.0).flip(0)
    submission.fit(
        model,
        Batches([(torch.ones(5, 2), torch.zeros(5))] * train),
        Batches([(torch.ones(3, 2), table.expand(3, -1))] * val),
        loss_fn=walking_loss,
        optimizer=Recording(model, 1.0, log),
        cfg=Settings(epochs=epochs, accum=accum),
        scheduler=Scheduler(log),
    )
    picture(
        "text",
        "What happened in the first epoch",
        f"{train} training batches, {val} of validation, accum={accum}; the first "
        f"{min(len(log), 14)} events of {len(log)}.",
        panels=[{"label": "events in order", "lines": log[:14], "marked": []}],
    )
    return log


GLYPHS = """
### .#. ### ### #.# ### ### ### ### ###
#.# ##. ..# ..# #.# #.. #.. ..# #.# #.#
#.# .#. ### .## ### ### ### ..# ### ###
#.# .#. #.. ..# ..# ..# #.# ..# #.# ..#
### ### ### ### ..# ### ### ..# ### ###
"""


class Stream(IterableDataset):
    """Rows (3,) with a target (1,), made one after another; it has no `len`."""

    def __init__(self, rows: int, seed: int = 0) -> None:
        self.rows, self.seed = rows, seed

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.rows):
            x = torch.randn(3, generator=generator)
            yield x, x[:1] - 2 * x[1:2] + 0.5


class Pairs(torch.utils.data.Dataset):
    """Samples whose inputs are a dict of two vectors; the class says which begins with more."""

    def __init__(self, left: Tensor, right: Tensor) -> None:
        self.left, self.right = left, right

    def __len__(self) -> int:
        return len(self.left)

    def __getitem__(self, i: int) -> tuple[dict[str, Tensor], Tensor]:
        larger = (self.left[i, 0] > self.right[i, 0]).long()
        return {"left": self.left[i], "right": self.right[i]}, larger


class TwoTowers(nn.Module):
    """Takes two vectors by name."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 2))

    def forward(self, *, left: Tensor, right: Tensor) -> Tensor:
        """(batch, 3), (batch, 3) -> (batch, 2)"""
        return self.body(torch.cat([left, right], 1))


class Tagger(nn.Module):
    """A class for every token, from the token and the one before it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(12, 16, padding_idx=0)
        self.body = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, seq) -> (batch, seq, 3)"""
        here = self.table(tokens)
        return self.body(torch.cat([here, here.roll(1, 1)], -1))


@dataclass
class Hidden:
    """A model that no submission has seen, its data, and how far it must come."""

    model: nn.Module
    train: Any
    val: Any
    loss_fn: Callable[[Tensor, Tensor], Tensor]
    metric: Callable[[Tensor, Tensor], Tensor]
    target: float
    above: bool
    epochs: int
    what: str


def hit_rate(out: Tensor, target: Tensor) -> Tensor:
    """Accuracy of logits (batch, classes)."""
    return (out.argmax(-1) == target).float().mean()


def mlp(*sizes: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        layers += [nn.ReLU()] * (i > 0) + [nn.Linear(a, b)]
    return nn.Sequential(*layers)


def loaders(size: int, *tensors: Tensor) -> tuple[DataLoader, DataLoader]:
    """Training batches of the first three quarters, shuffled; one loader for the rest."""
    cut = len(tensors[0]) * 3 // 4
    train = TensorDataset(*[t[:cut] for t in tensors])
    val = TensorDataset(*[t[cut:] for t in tensors])
    return DataLoader(train, size, shuffle=True), DataLoader(val, 2 * size + 1)


def drawn_digits(rows: int) -> tuple[Tensor, Tensor]:
    """Images (rows, 1, 8, 8) of shifted, noisy digits, and which digit each is."""
    lines = [line.split() for line in GLYPHS.strip().splitlines()]
    glyphs = torch.tensor([[[c == "#" for c in line[d]] for line in lines] for d in range(10)])
    y = torch.randint(10, (rows,))
    x = torch.randn(rows, 1, 8, 8) * 0.12
    down, right = torch.randint(1, 3, (2, rows)).tolist()
    for i in range(rows):
        x[i, 0, down[i] : down[i] + 5, right[i] : right[i] + 3] += glyphs[y[i]]
    return x, y


def hidden(kind: str) -> Hidden:
    """One of the hidden tasks, drawn from the global generator."""
    x = torch.randn(160, 4)
    if kind == "regression":
        y = x[:, :1] - x[:, 1:2] * 0.5 + 0.1 * torch.randn(160, 1)
        train, val = loaders(20, x, y)
        loss = F.mse_loss
        return Hidden(mlp(4, 32, 1), train, val, loss, loss, 0.05, False, 33, "mean squared error")
    if kind == "binary":
        y = (x[:, :1] + x[:, 1:2] > 0).float()
        return Hidden(
            mlp(4, 16, 1),
            *loaders(16, x, y),
            F.binary_cross_entropy_with_logits,
            lambda out, target: ((out > 0) == (target > 0.5)).float().mean(),
            0.9,
            True,
            25,
            "accuracy",
        )
    if kind.startswith("digits"):
        model = nn.Sequential(nn.Flatten(), *mlp(64, 64, 10))
        if kind != "digits":
            norm, drop = nn.BatchNorm1d(64), nn.Dropout(0.3)
            model = nn.Sequential(
                nn.Flatten(), nn.Linear(64, 64), norm, nn.ReLU(), drop, nn.Linear(64, 10)
            )
        train, val = loaders(20, *drawn_digits(800))
        return Hidden(model, train, val, F.cross_entropy, hit_rate, 0.85, True, 8, "accuracy")
    if kind == "tokens":
        tokens = torch.randint(1, 12, (160, 7))
        labels = (tokens + tokens.roll(1, 1) % 2) % 3
        for i, length in enumerate(torch.randint(3, 8, (160,)).tolist()):
            tokens[i, length:], labels[i, length:] = 0, -100
        labels[:, 0] = -100
        return Hidden(
            Tagger(),
            *loaders(16, tokens, labels),
            lambda out, target: F.cross_entropy(out.flatten(0, 1), target.flatten()),
            lambda out, target: (out.argmax(-1) == target)[target != -100].float().mean(),
            0.9,
            True,
            25,
            "accuracy of the tokens",
        )
    if kind == "frozen backbone":
        backbone = nn.Sequential(nn.Linear(4, 48), nn.Tanh()).requires_grad_(False)
        train, val = loaders(16, x, (x[:, 0] > x[:, 1]).long())
        model = nn.Sequential(backbone, nn.Linear(48, 2))
        return Hidden(model, train, val, F.cross_entropy, hit_rate, 0.85, True, 25, "accuracy")
    if kind == "two inputs":
        pairs = [
            Pairs(x[rows, :3], torch.randn(160, 3)[rows]) for rows in (slice(120), slice(120, None))
        ]
        train, val = DataLoader(pairs[0], 12, shuffle=True), DataLoader(pairs[1], 17)
        return Hidden(
            TwoTowers(), train, val, F.cross_entropy, hit_rate, 0.85, True, 15, "accuracy"
        )
    train, val = DataLoader(Stream(60), batch_size=7), DataLoader(Stream(20, 1), batch_size=7)
    loss = F.mse_loss
    return Hidden(mlp(3, 32, 1), train, val, loss, loss, 0.1, False, 25, "mean squared error")


def trains(submission: Any, kind: str) -> None:
    """`fit` brings the hidden task to its target, for two of three seeds."""
    start = int(torch.randint(10**6, ()).item())
    reached, values, series = 0, [], []
    for seed in range(3):
        torch.manual_seed(start + seed)
        task = hidden(kind)
        trainable = [p for p in task.model.parameters() if p.requires_grad]
        frozen = [p for p in task.model.parameters() if not p.requires_grad]
        before = [p.clone() for p in frozen]
        history = submission.fit(
            task.model,
            task.train,
            task.val,
            loss_fn=task.loss_fn,
            optimizer=torch.optim.Adam(trainable, lr=1e-2),
            cfg=Settings(epochs=task.epochs, clip=5.0),
            metrics={"metric": task.metric},
        )
        for p, old in zip(frozen, before, strict=True):
            expect(torch.equal(p, old), f"{kind}: a frozen parameter changed")
        value = validated(task)
        epochs = list(range(1, len(history["val_loss"]) + 1))
        for name in ("train_loss", "val_loss"):
            label = f"{name}, seed {seed}"
            series.append({"label": label, "x": epochs, "y": list(history[name])})
        values.append(value)
        reached += value > task.target if task.above else value < task.target
        if reached == 2 or seed - reached == 1:
            break
    side = "above" if task.above else "below"
    said = ", ".join(f"{value:.3g}" for value in values)
    measured(f"{task.what} {said}")
    picture(
        "curve",
        f"Losses of the hidden task: {kind}",
        f"{task.what} on validation data after training: {said}; the target is {side} "
        f"{task.target:g}.",
        series=series,
        x_label="epoch",
        y_label="loss",
    )
    expect(
        reached == 2,
        f"{kind}: after {task.epochs} epochs of `fit` the {task.what} on validation data is "
        f"{said}; expected {side} {task.target:g}",
        expected=task.target,
        got=values,
    )


@torch.no_grad()
def validated(task: Hidden) -> float:
    """The metric over the validation data, weighted by samples, computed here."""
    task.model.eval()
    total, samples = 0.0, 0
    for inputs, target in task.val:
        out = task.model(**inputs) if isinstance(inputs, dict) else task.model(inputs)
        total += float(task.metric(out, target)) * len(target)
        samples += len(target)
    return total / samples


@pytest.mark.task("fit")
class TestFit:
    @pytest.mark.points(2, "structure")
    def test_history(self, submission):
        """The history has a list of Python floats, one per epoch, for each name."""
        metrics = {"mae": mean_error, "bias": bias}
        batches = linear_batches(5, 2)
        _, history = history_of(submission, metrics, 3, batches, batches)
        names = {"train_loss", "val_loss", "val_mae", "val_bias"}
        expect(
            names <= set(history),
            f"the history has {sorted(history)}; expected {sorted(names)}",
        )
        for name in sorted(names):
            values = history[name]
            expect(len(values) == 3, f"{name} has {len(values)} values after 3 epochs")
            for value in values:
                tensor = isinstance(value, Tensor)
                graph = " that still holds its graph" if tensor and value.requires_grad else ""
                expect(
                    type(value) is float,
                    f"{name} holds a {type(value).__name__}{graph}; expected Python floats",
                )

    @pytest.mark.points(3, "value")
    @pytest.mark.after("test_history")
    def test_weighted(self, submission):
        """Losses and metrics of an epoch are means over its samples."""
        for sizes in ((2, 5), (7, 3, 2)):
            train, val = linear_batches(*sizes), linear_batches(*sizes[::-1])
            metrics = {"mae": mean_error, "bias": bias}
            model, history = history_of(submission, metrics, 1, train, val)
            for name, function, batches in (
                ("train_loss", F.mse_loss, train),
                ("val_loss", F.mse_loss, val),
                ("val_mae", mean_error, val),
                ("val_bias", bias, val),
            ):
                with torch.no_grad():
                    values = [float(function(model(x), y)) for x, y in batches]
                counts = [len(y) for _, y in batches]
                assert_close(
                    history[name][0],
                    weighted(values, counts),
                    what=f"{name} of batches of {', '.join(map(str, counts))}",
                    explain={
                        "every batch counted the same; a batch of 2 must weigh less than one of "
                        "5: weigh by samples": sum(values) / len(values),
                        "it is the sum over the samples; divide by their number": sum(
                            v * n for v, n in zip(values, counts, strict=True)
                        ),
                        "it is the value of the last batch alone": values[-1],
                    },
                )

    @pytest.mark.points(2, "structure")
    @pytest.mark.hint("What sets the mode back after the first validation?")
    def test_modes(self, submission):
        """Training is in train mode, validation in eval mode without gradients."""
        log = events(submission, train=2, val=2, epochs=3)
        forwards = [event for event in log if "forward" in event]
        expected = [*["train forward"] * 2, *["eval forward, no grad"] * 2] * 3
        expect(
            len(forwards) == len(expected),
            f"the model was called {len(forwards)} times in 3 epochs of 2 + 2 batches; expected 12",
        )
        for i, (got, wanted) in enumerate(zip(forwards, expected, strict=True)):
            epoch, kind = i // 4 + 1, "training" if i % 4 < 2 else "validation"
            expect(
                got == wanted,
                f"in epoch {epoch}, a {kind} batch was a {got!r}; expected {wanted!r}"
                + (
                    ". After a validation in eval mode, train mode must be set again"
                    if epoch > 1 and kind == "training" and got.startswith("eval")
                    else ""
                ),
                expected=wanted,
                got=got,
            )

    @pytest.mark.points(1, "value")
    def test_validation_changes_nothing(self, submission):
        """With or without validation, the first epoch ends in the same state."""
        states = []
        train, val = linear_batches(5, 5, 2), linear_batches(7, 7)
        start = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 1))
        for val_loader in (None, Batches(val)):
            model = copy.deepcopy(start)
            submission.fit(
                model,
                Batches(train),
                val_loader,
                loss_fn=F.mse_loss,
                optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
                cfg=Settings(),
            )
            states.append(model.state_dict())
        for name, value in states[0].items():
            assert_close(
                states[1][name],
                value.clone(),
                rtol=0,
                atol=0,
                what=f"`{name}` after an epoch with validation, compared with one without,",
            )

    @pytest.mark.points(2, "gradient")
    def test_own_gradient(self, submission):
        """Each step sees the gradient of its own batch, and nothing of others."""
        batches = linear_batches(5, 5, 2)
        model, seen = still_fit(submission, batches, stale=True)
        expect(len(seen) == 3, f"3 batches with accum=1 made {len(seen)} steps; expected 3")
        own = [gradient_of(model, x, y) for x, y in batches]
        for i, gradient in enumerate(seen):
            assert_close(
                gradient,
                own[i],
                rtol=1e-4,
                atol=1e-5,
                what=f"the gradient at step {i + 1}",
                explain={
                    "the gradient that was there before `fit` is in it: zero_grad before the "
                    "first backward": own[i] + 5.0,
                    "the gradients of earlier batches are still in it: zero_grad is missing": sum(
                        own[: i + 1]
                    )
                    if i
                    else own[i] * 2,
                },
            )

    @pytest.mark.points(2, "gradient")
    def test_accumulation(self, submission):
        """A full group steps once, with the mean of its batches' gradients."""
        batches = linear_batches(*[5] * 6)
        model, seen = still_fit(submission, batches, accum=3)
        expect(
            len(seen) == 2,
            f"6 batches with accum=3 made {len(seen)} optimizer steps; expected 2",
            expected=2,
            got=len(seen),
        )
        own = [gradient_of(model, x, y) for x, y in batches]
        for i, gradient in enumerate(seen):
            group = own[3 * i : 3 * i + 3]
            assert_close(
                gradient,
                sum(group) / 3,
                rtol=1e-4,
                atol=1e-5,
                what=f"the gradient at step {i + 1}",
                explain={
                    "the gradients of the group were summed; divide each loss by cfg.accum, or the "
                    "step grows with it": sum(group),
                    "only the last batch of the group is in it; zero_grad belongs after a step, "
                    "not before every backward": group[-1],
                    "only the last batch of the group is in it, divided by accum; zero_grad "
                    "belongs after a step": group[-1] / 3,
                    "the group before is still in it: zero_grad after the step is missing": sum(
                        own[: 3 * i + 3]
                    )
                    / 3
                    if i
                    else sum(group) * 7,
                },
            )

    @pytest.mark.points(2, "structure")
    def test_remainder(self, submission):
        """The shorter last group makes a step too, in every epoch."""
        log = events(submission, train=5, val=1, epochs=2, accum=3)
        steps, train = [], 0
        for event in log:
            train += event == "train forward"
            if event == "step":
                steps.append(train)
        expect(
            steps == [3, 5, 8, 10],
            f"5 batches an epoch with accum=3: over two epochs the steps came after training "
            f"batches {steps}; expected [3, 5, 8, 10]"
            + (
                ". The last two batches of the epoch were computed for nothing"
                if steps == [3, 8]
                else ""
            )
            + (". The rest was carried into the next epoch" if steps == [3, 6, 9] else ""),
            expected=[3, 5, 8, 10],
            got=steps,
        )

    @pytest.mark.points(2, "gradient")
    def test_clip(self, submission):
        """One norm over all gradients is clipped, once per step; None clips nothing."""
        batches = [(x, y + 10) for x, y in linear_batches(5, 5, 5, 5)]
        for clip, accum in ((None, 1), (0.5, 1), (0.25, 2)):
            model, seen = still_fit(submission, batches, clip=clip, accum=accum)
            own = [gradient_of(model, x, y) for x, y in batches]
            expect(len(seen) == 4 // accum, f"{len(seen)} steps; expected {4 // accum}")
            for i, gradient in enumerate(seen):
                group = own[accum * i : accum * (i + 1)]
                whole = sum(group) / accum
                expected = whole if clip is None else whole * clip / whole.norm()
                explain: dict[str, Tensor] = {}
                if clip is not None:
                    explain = {
                        "nothing was clipped before the step": whole,
                        "weight and bias were clipped each by itself; one factor belongs to all": (
                            torch.cat(
                                [F.normalize(part, dim=0) * clip for part in (whole[:3], whole[3:])]
                            )
                        ),
                        "single elements were clipped, not the norm": whole.clamp(-clip, clip),
                    }
                assert_close(
                    gradient,
                    expected,
                    rtol=1e-4,
                    atol=1e-5,
                    what=f"the gradient at step {i + 1} with clip={clip}, accum={accum}",
                    explain=explain,
                )

    @pytest.mark.points(2, "structure")
    def test_scheduler(self, submission):
        """The scheduler steps once per epoch, after the epoch's optimizer steps."""
        log = events(submission, train=3, val=1, epochs=2)
        order = [event for event in log if event in ("step", "scheduler")]
        expected = ["step", "step", "step", "scheduler"] * 2
        count = order.count("scheduler")
        expect(
            count == 2,
            f"scheduler.step() was called {count} times in 2 epochs of 3 batches; expected 2"
            + (": once per epoch, not per batch" if count == 6 else ""),
            expected=2,
            got=count,
        )
        expect(
            order == expected,
            f"the steps came in the order {', '.join(order)}; the scheduler's comes after the "
            "optimizer steps of its epoch",
        )

    @pytest.mark.points(3, "value")
    @pytest.mark.parametrize(
        ("losses", "patience", "epochs"),
        [
            ([3.0, 2.0, 2.5, 2.4, 2.3, 2.2, 1.0], 1, 3),
            ([3.0, 2.0, 2.5, 2.4, 2.3, 2.2, 1.0], 2, 4),
            ([3.0, 2.0, 2.5, 2.4, 1.9, 2.2, 2.1, 2.0, 1.0], 3, 8),
            ([3.0, 2.0, 2.5, 2.4, 2.3], None, 5),
            ([1.0, 2.0, 2.5], 3, 3),
        ],
    )
    def test_patience(self, submission, losses, patience, epochs):
        """It stops after `patience` epochs in a row that are no better."""
        _, history = walk(submission, losses, patience)
        ran = len(history["val_loss"])
        picture(
            "curve",
            "Validation loss, and where training stopped",
            f"with patience={patience}, it is to stop after epoch {epochs}; it ran {ran}.",
            series=[{"label": "val_loss", "x": list(range(1, len(losses) + 1)), "y": losses}],
            x_label="epoch",
            y_label="val_loss",
        )
        expect(
            ran == epochs,
            f"val_loss {losses} with patience={patience}: {ran} epochs ran; expected {epochs}"
            + (
                f". Once {patience} in a row have had no lower loss than the lowest, it must stop"
                if patience and ran > epochs
                else ""
            ),
            expected=epochs,
            got=ran,
        )
        assert_close(history["val_loss"], losses[:epochs], what="val_loss")

    @pytest.mark.points(1, "value")
    def test_ties(self, submission):
        """An equal val_loss is no improvement; the first of equals is the best."""
        model, history = walk(submission, [3.0, 2.0, 2.0, 2.0, 1.0], patience=2)
        ran = len(history["val_loss"])
        expect(
            ran == 4,
            f"val_loss 3, 2, 2, 2, 1 with patience=2: {ran} epochs ran; expected 4, an equal loss "
            "is not a lower one",
        )
        expect(
            model.weight.item() == 2,
            f"val_loss 3, 2, 2, 2: the weights of epoch {model.weight.item():g} came back; "
            "expected those of epoch 2, the first of equals",
        )

    @pytest.mark.points(3, "value")
    @pytest.mark.parametrize(
        ("losses", "patience", "best"),
        [([3.0, 1.0, 2.0, 4.0], None, 2), ([3.0, 2.0, 2.5, 2.6, 0.5], 2, 2), ([1.0, 5.0], None, 1)],
    )
    def test_best_weights(self, submission, losses, patience, best):
        """The weights of the epoch with the lowest val_loss come back."""
        model, history = walk(submission, losses, patience)
        ran = len(history["val_loss"])
        got = model.weight.item()
        why = ""
        if got == ran:
            why = (
                ": these are the last weights. If you kept `state_dict()`, its tensors are the "
                "model's own and went on changing; keep a copy"
            )
        expect(
            got == best,
            f"val_loss {losses[:ran]}: after `fit` the model has the weights of epoch {got:g}; "
            f"expected epoch {best}, the lowest{why}",
            expected=best,
            got=got,
        )

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_best_weights")
    def test_best_buffers(self, submission):
        """The buffers of the best epoch come back with the weights."""
        model, _ = walk(submission, [3.0, 1.0, 2.0, 4.0], per_epoch=2)
        expect(model.weight.item() == 4, f"the weight is {model.weight.item():g}; expected 4")
        expect(
            model.batches.item() == 4,
            f"a buffer that counts training batches is {model.batches.item()} after `fit`; "
            "expected 4, as after the best epoch: buffers (BatchNorm's statistics) belong to it",
        )

    @pytest.mark.points(2, "value")
    @pytest.mark.parametrize("kind", ["None", "empty list", "empty and without len"])
    def test_without_validation(self, submission, kind):
        """Without validation there are nan, no stopping and the last weights."""
        loaders = {"None": None, "empty list": [], "empty and without len": Batches([])}
        model = Walk()
        history = submission.fit(
            model,
            Batches([(torch.ones(5, 2), torch.zeros(5))]),
            loaders[kind],
            loss_fn=walking_loss,
            optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
            cfg=Settings(epochs=4, patience=1),
            metrics={"mae": mean_error},
        )
        for name in ("val_loss", "val_mae"):
            values = history.get(name)
            expect(
                values is not None and len(values) == 4 and all(map(math.isnan, values)),
                f"val_loader is {kind}: {name} is {values}; expected nan for each of the 4 epochs "
                "(nothing stops early)",
            )
        expect(
            model.weight.item() == 4,
            f"val_loader is {kind}: the weights are those of epoch {model.weight.item():g}; "
            "expected the last ones, of epoch 4",
        )

    @pytest.mark.points(1, "structure")
    def test_no_len(self, submission):
        """Loaders without len will do, and are begun anew each epoch."""
        model = nn.Linear(3, 1)
        stream = DataLoader(Stream(24), batch_size=5)
        optimizer = Recording(model, lr=0.0)
        history = submission.fit(
            model,
            stream,
            stream,
            loss_fn=F.mse_loss,
            optimizer=optimizer,
            cfg=Settings(epochs=2, accum=2),
        )
        steps = len(optimizer.seen)
        expect(steps == 6, f"2 epochs of 5 batches, accum=2, made {steps} steps; expected 6")
        assert_close(history["val_loss"], history["train_loss"], what="val_loss of the same data")

    @pytest.mark.points(2, "value")
    @pytest.mark.parametrize("kind", ["tensor", "tuple", "list", "dict"])
    def test_inputs(self, submission, device, kind):
        """Tensor, tuple, list and dict reach the model as it takes them."""
        calls: list[tuple[Any, ...]] = []

        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.scale = nn.Parameter(torch.ones((), device=device))

            def forward(self, x: Tensor, mask: Any = None) -> Tensor:
                calls.append((x, mask))
                return x.sum(1) * self.scale

        x, mask, y = torch.randn(5, 3), torch.ones(5, 3), torch.randn(5)
        batch: Any = {
            "tensor": x,
            "tuple": (x, mask),
            "list": [x, mask],
            "dict": {"mask": mask, "x": x},
        }[kind]
        model = Model()
        history = submission.fit(
            model,
            Batches([(batch, y), (batch, y)]),
            Batches([(batch, y)]),
            loss_fn=F.mse_loss,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.0),
            cfg=Settings(device=device),
        )
        expect(len(calls) == 3, f"the model was called {len(calls)} times; expected 3")
        for got, got_mask in calls:
            assert_equal(got.cpu(), x, what=f"x of a {kind} batch")
            if kind != "tensor":
                expect(got_mask is not None, f"of a {kind} batch only x reached the model")
                assert_equal(got_mask.cpu(), mask, what=f"the mask of a {kind} batch")
        expected = F.mse_loss(x.sum(1), y).item()
        assert_close(
            [history["train_loss"][0], history["val_loss"][0]],
            [expected, expected],
            what=f"the losses of {kind} batches",
        )

    @pytest.mark.points(1, "training")
    @pytest.mark.parametrize("kind", ["regression", "binary"])
    def test_trains_numbers(self, submission, kind):
        """Regression and binary classification get there."""
        trains(submission, kind)

    @pytest.mark.points(1, "training")
    @pytest.mark.parametrize("kind", ["digits", "digits, BatchNorm and Dropout"])
    def test_trains_images(self, submission, kind):
        """Ten classes of images get there, with BatchNorm and Dropout too."""
        trains(submission, kind)

    @pytest.mark.points(1, "training")
    def test_trains_tokens(self, submission):
        """Labels for the tokens of padded sentences get there."""
        trains(submission, "tokens")

    @pytest.mark.points(1, "training")
    @pytest.mark.parametrize("kind", ["frozen backbone", "two inputs", "stream"])
    def test_trains_models(self, submission, kind):
        """A frozen backbone, two inputs and a stream get there."""
        trains(submission, kind)


# --- 3 ------------------------------------------------------------------------------------------

FLAGS = ("init_loss", "overfits", "no_mixing", "all_grads", "uses_inputs", "has_bn")
CLASSES = 5


class Rows(nn.Module):
    """A healthy classifier of rows; the sick ones inherit from it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 96)
        self.head = nn.Linear(96, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 7) -> (batch, classes)"""
        return self.head(self.first(x).relu())


class SoftmaxInside(Rows):
    """Gives probabilities to a loss that takes logits."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 7) -> (batch, classes)"""
        return super().forward(x).softmax(-1)


class BiasedHead(Rows):
    """Is sure of a class before it has seen anything."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.head.bias.data[2] = bias


class Detached(Rows):
    """The graph ends before the first layer."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 7) -> (batch, classes)"""
        return self.head(self.first(x).relu().detach())


class Unused(Rows):
    """Owns a layer that it never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(3, 3)


class DeadRelu(Rows):
    """No unit of the first layer is ever above 0."""

    def __init__(self) -> None:
        super().__init__()
        self.first.bias.data.fill_(-50.0)


class MixedRows(Rows):
    """Turns (batch, 7) over by `view` where it wants `transpose`."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 7) -> (batch, classes)"""
        return super().forward(x.T.contiguous().view(len(x), 7))


class Normed(Rows):
    """Has a BatchNorm, of which `kind` says the dimensions."""

    def __init__(self, kind: int = 1) -> None:
        super().__init__()
        self.norm = (nn.BatchNorm1d if kind == 1 else nn.BatchNorm2d)(96)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 7) -> (batch, classes)"""
        hidden = self.first(x)
        if self.kind == 2:
            return self.head(self.norm(hidden[..., None, None]).relu().flatten(1))
        return self.head(self.norm(hidden).relu())


class Blind(Rows):
    """Looks at the shape of x only."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 7) -> (batch, classes)"""
        return super().forward(torch.ones_like(x))


def some_rows(rows: int = 19) -> tuple[Tensor, Tensor]:
    """x (rows, 7) and classes (rows,), every class as often."""
    return torch.randn(rows, 7), torch.arange(rows) % CLASSES


def flags_of(
    submission: Any,
    model: nn.Module,
    batch: tuple[Tensor, Tensor] | None = None,
    loss_fn: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    n_classes: int | None = CLASSES,
) -> dict[str, Any]:
    """What `sanity_checks` says of a model."""
    result = submission.sanity_checks(model, batch or some_rows(), loss_fn, n_classes)
    expect(isinstance(result, dict), f"a {type(result).__name__} came back; expected a dict")
    missing = [name for name in FLAGS if name not in result]
    expect(not missing, f"the result has no {', '.join(missing)}; it has {sorted(result)}")
    return result


def assert_flag(flags: dict[str, Any], name: str, expected: bool, model: str, why: str) -> None:
    """This flag has this value for this model."""
    expect(
        bool(flags[name]) is expected,
        f"{name} is {bool(flags[name])} for {model}; expected {expected}: {why}",
        expected=expected,
        got=bool(flags[name]),
    )


def picture_of(flags: dict[str, Any], model: str) -> None:
    """The six flags as lines."""
    lines = [f"{name:12} {bool(flags[name])}" for name in FLAGS]
    sick = [i for i, name in enumerate(FLAGS) if not flags[name] and name != "has_bn"]
    picture(
        "text",
        f"The pre-flight of {model}",
        f"{len(sick)} flags are False, has_bn left aside.",
        panels=[{"label": model, "lines": lines, "marked": sick}],
    )


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@pytest.mark.task("sanity_checks")
class TestSanityChecks:
    @pytest.mark.points(1, "structure")
    def test_flags(self, submission):
        """The result has the six flags, each a Python bool."""
        flags = flags_of(submission, Rows())
        for name in FLAGS:
            value = flags[name]
            expect(
                type(value) is bool,
                f"{name} is {value!r}, of type {type(value).__name__}; expected a bool",
            )

    @pytest.mark.points(3, "value")
    @pytest.mark.parametrize("kind", ["classifier", "tanh", "convolution"])
    def test_healthy(self, submission, kind):
        """A healthy model passes in everything."""
        rows: tuple[Tensor, Tensor] | None = None
        model: nn.Module = Rows()
        if kind == "tanh":
            model = nn.Sequential(nn.Linear(7, 96), nn.Tanh(), nn.Linear(96, CLASSES))
            rows = some_rows(16)
        if kind == "convolution":
            body = nn.Conv2d(1, 24, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24 * 6, CLASSES)
            model, rows = (
                nn.Sequential(*body),
                (torch.randn(16, 1, 4, 5), torch.arange(16) % CLASSES),
            )
        flags = flags_of(submission, model, rows)
        picture_of(flags, f"a healthy {kind}")
        for name in FLAGS:
            wanted = name != "has_bn"
            assert_flag(
                flags, name, wanted, f"a healthy model ({kind})", "nothing is wrong with it"
            )

    @pytest.mark.points(2, "value")
    def test_regression(self, submission):
        """Without n_classes init_loss is True, and the rest is found out as ever."""
        x = torch.randn(16, 7)
        model = nn.Sequential(nn.Linear(7, 32), nn.ReLU(), nn.Linear(32, 1))
        flags = flags_of(submission, model, (x, 4 * x[:, :1] - 3 * x[:, 1:2]), F.mse_loss, None)
        picture_of(flags, "a healthy regression")
        assert_flag(flags, "init_loss", True, "n_classes=None", "there is nothing to compare with")
        for name in ("no_mixing", "all_grads", "uses_inputs"):
            assert_flag(flags, name, True, "a healthy regression", "nothing is wrong with it")

    @pytest.mark.points(3, "value")
    @pytest.mark.parametrize("side", ["above", "below"])
    def test_init_loss(self, submission, side):
        """A loss at the start that is far from log(n_classes) is found."""
        x, y = some_rows()
        batch = (x, y if side == "above" else torch.full_like(y, 2))
        flags = flags_of(submission, BiasedHead(6.0), batch)
        picture_of(flags, "a head with a large bias")
        loss = F.cross_entropy(torch.tensor([[0.0, 0, 6, 0, 0]]).expand(19, 5), batch[1]).item()
        why = f"its first loss is about {loss:.2f}, log {CLASSES} is {math.log(CLASSES):.2f}"
        assert_flag(flags, "init_loss", False, "a head with a large bias", why)

    @pytest.mark.points(3, "value")
    def test_overfits(self, submission):
        """A softmax before the cross entropy is found: the batch can't be learnt."""
        flags = flags_of(submission, SoftmaxInside())
        picture_of(flags, "a model with softmax inside")
        why = "with five classes the loss of such a model can't come below 0.9"
        assert_flag(flags, "overfits", False, "a model with softmax inside", why)

    @pytest.mark.points(3, "value")
    def test_no_mixing(self, submission):
        """A view that mixes the rows of a batch is found."""
        flags = flags_of(submission, MixedRows())
        picture_of(flags, "a model that mixes rows")
        why = "its output 0 depends on other rows of x"
        assert_flag(flags, "no_mixing", False, "a model with a wrong view", why)

    @pytest.mark.points(2, "value")
    @pytest.mark.parametrize("kind", [1, 2])
    def test_batch_norm(self, submission, kind):
        """BatchNorm is seen, and is no mixing in eval mode."""
        flags = flags_of(submission, Normed(kind))
        name = f"a model with BatchNorm{kind}d"
        picture_of(flags, name)
        assert_flag(flags, "has_bn", True, name, "it is one of its modules")
        why = "in eval mode it uses running statistics; look in eval mode"
        assert_flag(flags, "no_mixing", True, name, why)

    @pytest.mark.points(3, "gradient")
    @pytest.mark.parametrize("kind", ["detached branch", "unused parameter", "dead ReLU"])
    def test_all_grads(self, submission, kind):
        """Parameters that get no gradient, or only zeros, are found."""
        models = {"detached branch": Detached, "unused parameter": Unused, "dead ReLU": DeadRelu}
        flags = flags_of(submission, models[kind]())
        picture_of(flags, kind)
        zeros = "all zeros" if kind == "dead ReLU" else "None"
        why = f"the gradient of one of its layers is {zeros}"
        assert_flag(flags, "all_grads", False, f"a model with a {kind}", why)

    @pytest.mark.points(1, "gradient")
    def test_frozen(self, submission):
        """A frozen parameter is no fault."""
        model = Rows()
        model.first.requires_grad_(False)
        flags = flags_of(submission, model)
        picture_of(flags, "a model with a frozen layer")
        why = "only trainable parameters are asked"
        assert_flag(flags, "all_grads", True, "a model with a frozen layer", why)
        frozen = not any(p.requires_grad for p in model.first.parameters())
        expect(frozen, "the frozen layer of the caller's model requires grad afterwards")

    @pytest.mark.points(2, "value")
    def test_uses_inputs(self, submission):
        """A model that ignores its inputs is found."""
        flags = flags_of(submission, Blind())
        picture_of(flags, "a model that ignores x")
        why = "its loss is the same whatever x is"
        assert_flag(flags, "uses_inputs", False, "a model that ignores x", why)

    @pytest.mark.points(1, "value")
    def test_untouched(self, submission):
        """The caller's weights, buffers, gradients and modes, and the batch, stay."""
        for with_grads in (True, False):
            model = nn.Sequential(Normed(), nn.Dropout(0.1))
            model[1].eval()
            x, y = some_rows()
            if with_grads:
                F.cross_entropy(model(x), y).backward()
            grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
            before, given = snapshot(model), (x.clone(), y.clone())
            modes = [module.training for module in model.modules()]
            flags_of(submission, model, given)
            for name, value in snapshot(model).items():
                expect(
                    torch.equal(value, before[name]),
                    f"`{name}` of the caller's model changed; train a copy",
                )
            for p, grad in zip(model.parameters(), grads, strict=True):
                same = p.grad is None if grad is None else p.grad is not None
                same = same and (grad is None or torch.equal(p.grad, grad))
                expect(same, "the gradients of the caller's model changed; backward on a copy")
            now = [module.training for module in model.modules()]
            expect(now == modes, f"the modes of the modules were {modes} and are {now} afterwards")
            expect(
                torch.equal(given[0], x) and torch.equal(given[1], y), "the batch itself changed"
            )
            expect(not given[0].requires_grad, "x requires grad afterwards; ask with a copy")

    @pytest.mark.points(1, "value")
    def test_generator(self, submission):
        """The global generator stays as it was."""
        model, batch = nn.Sequential(Rows(), nn.Dropout(0.1)), some_rows()
        state = torch.get_rng_state()
        flags_of(submission, model, batch)
        expect(
            torch.equal(torch.get_rng_state(), state),
            "torch's global generator is in another state afterwards: with the pre-flight, the "
            "training draws other numbers than without; `torch.random.fork_rng` puts it back",
        )


# --- 4 ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """How a run of the script ended."""

    words: str
    status: int
    errors: str  # what it wrote to stderr
    raised: str  # the exception that ended it, if one did


class Script:
    """Runs the file as a script, in processes of their own with one working folder.

    A process is forked, so that it needn't import torch, and made to look like a fresh one: its
    generators are in states of their own, argv, stderr, signals and warnings as Python has them.
    """

    def __init__(self, text: str, folder: Path) -> None:
        self.text = text
        self.folder = folder

    @contextlib.contextmanager
    def running(self, words: str) -> Iterator[Callable[[float], Ended | None]]:
        """Start `python template.py <words>`; it is killed at the end of the context.

        Yields:
            A function that waits for the end, at most so many seconds, and `signal`s by `.pid`.
        """
        self.folder.mkdir(exist_ok=True)
        errors, raised = self.folder / "stderr.txt", self.folder / "raised.json"
        raised.unlink(missing_ok=True)
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            self._child(words.split(), errors, raised)
        ended: list[Ended] = []

        def wait(seconds: float) -> Ended | None:
            deadline = time.monotonic() + seconds
            while not ended and time.monotonic() < deadline:
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    told = json.loads(raised.read_text()) if raised.exists() else {}
                    if "open" in told:
                        ended.append(Ended(words, 1, "", "NotImplementedError"))
                        raise NotImplementedError(told["open"])
                    text = errors.read_text(encoding="utf-8", errors="replace")
                    code = os.waitstatus_to_exitcode(status)
                    ended.append(Ended(words, code, text, told.get("raised", "")))
                else:
                    time.sleep(0.005)
            return ended[0] if ended else None

        wait.pid = pid  # type: ignore[attr-defined]
        try:
            yield wait
        finally:
            if not ended:
                with contextlib.suppress(ProcessLookupError, ChildProcessError):
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)

    def run(self, words: str) -> Ended:
        """Run it to its end, without an exception."""
        with self.running(words) as wait:
            ended = wait(60)
        if ended is None:
            fail(f"`python template.py {words}` did not end within 60 seconds")
        expect(
            ended.status == 0 and not ended.raised,
            f"`python template.py {words}` ended with "
            + (ended.raised or f"exit status {ended.status}"),
        )
        return ended

    def _child(self, words: list[str], errors: Path, raised: Path) -> None:
        status, told = 1, {}
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
            atexit._clear()
            out = os.open(os.devnull, os.O_WRONLY)
            err = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(out, 1)
            os.dup2(err, 2)
            sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
            sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False, buffering=1)
            warnings.resetwarnings()
            for category in (DeprecationWarning, PendingDeprecationWarning, ResourceWarning):
                warnings.simplefilter("ignore", category)
            warnings.showwarning = lambda *told: sys.stderr.write(warnings.formatwarning(*told[:4]))
            seed = int.from_bytes(os.urandom(4))
            random.seed(seed)
            torch.manual_seed(seed)
            if "numpy" in sys.modules:
                sys.modules["numpy"].random.seed(seed)
            os.chdir(self.folder)
            sys.argv = ["template.py", *words]
            module = types.ModuleType("__main__")
            module.__file__ = "template.py"
            sys.modules["__main__"] = module
            exec(compile(self.text, "template.py", "exec", dont_inherit=True), module.__dict__)
            status = 0
        except SystemExit as error:
            status = 0 if error.code is None else error.code if type(error.code) is int else 1
        except NotImplementedError as error:
            told = {"open": str(error)}
        except BaseException as error:
            told = {"raised": f"{type(error).__name__}: {error}"[:600]}
            line = _line_in_script(error)
            told["raised"] += f" (line {line})" if line else ""
        with contextlib.suppress(BaseException):
            if told:
                raised.write_text(json.dumps(told))
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _line_in_script(error: BaseException) -> int | None:
    trace, line = error.__traceback__, None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "template.py":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


@pytest.fixture
def script(source, tmp_path, without_accelerator):
    """The submission as a script, with a working folder of its own."""
    return Script(source, tmp_path / "work")


def lines_of(script: Script, out: str) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    path = script.folder / out / "metrics.jsonl"
    expect(path.is_file(), f"there is no {out}/metrics.jsonl after the run")
    lines = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            value = json.loads(line)
        except ValueError as error:
            fail(f"line {number} of metrics.jsonl is no JSON ({error}): {line[:80]!r}")
        expect(isinstance(value, dict), f"line {number} of metrics.jsonl is no object: {line[:80]}")
        lines.append(value)
    return lines


def without_time(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines but for what the clock says."""
    return [{key: value for key, value in line.items() if "time" not in key} for line in lines]


def epochs_of(lines: list[dict[str, Any]]) -> list[Any]:
    """The epochs of the lines."""
    return [line.get("epoch") for line in lines]


def assert_same_lines(
    got: list[dict[str, Any]], expected: list[dict[str, Any]], what: str, why: str
) -> None:
    """Two runs wrote the same lines, their times left aside."""
    series = []
    for label, lines in (("expected", expected), ("found", got)):
        values = [line.get("val_loss") for line in lines]
        if all(isinstance(value, int | float) for value in values):
            series.append({"label": label, "x": list(range(1, len(values) + 1)), "y": values})
    picture(
        "curve",
        "val_loss of the two runs",
        f"{what}: the two curves should be one.",
        series=series,
        x_label="line",
        y_label="val_loss",
    )
    expect(
        epochs_of(got) == epochs_of(expected),
        f"{what}: metrics.jsonl has the epochs {shortened(epochs_of(got))}; expected "
        f"{shortened(epochs_of(expected))}",
    )
    for left, right in zip(without_time(got), without_time(expected), strict=True):
        for key, value in right.items():
            expect(
                left.get(key) == value,
                f"{what}: in epoch {right.get('epoch')}, {key} is {left.get(key)!r} in the one and "
                f"{value!r} in the other; {why}",
                expected=value,
                got=left.get(key),
            )


def shortened(values: list[Any]) -> str:
    """At most twelve of the values."""
    head = ", ".join(map(str, values[:12]))
    return f"[{head}, … {len(values)} in all]" if len(values) > 12 else f"[{head}]"


@contextlib.contextmanager
def after_first_line(script: Script, words: str, out: str) -> Iterator[tuple[Any, str]]:
    """A run that is under way, and what its metrics.jsonl held when there first was something."""
    path = script.folder / out / "metrics.jsonl"
    with script.running(words) as wait:
        text, deadline = "", time.monotonic() + 20
        while not text:
            ended = wait(0.01)
            if ended is not None:
                fail(
                    f"`python template.py {words}` ended before a line was in metrics.jsonl"
                    + (f": {ended.raised}" if ended.raised else "")
                )
            if time.monotonic() > deadline:
                fail(
                    "after 20 seconds of a run of 100000 epochs no line is in metrics.jsonl; each "
                    "is to be written and flushed when its epoch ends"
                )
            if path.is_file():
                text = path.read_text(encoding="utf-8")
        yield wait, text


def interrupted(script: Script, words: str, out: str) -> float:
    """Send SIGINT to a run after its first line; return the seconds it then took to end."""
    with after_first_line(script, words, out) as (wait, _):
        began = time.monotonic()
        os.kill(wait.pid, signal.SIGINT)
        # Twice what the statement says and more: the machine may be busy.
        ended = wait(12)
        seconds = time.monotonic() - began
    expect(ended is not None, f"{seconds:.0f} seconds after SIGINT the run is still going on")
    return seconds


@pytest.mark.task("main")
class TestMain:
    @pytest.mark.points(3, "structure")
    def test_files(self, submission, script):
        """A run leaves metrics.jsonl, config.json, best.pt and last.pt in its folder."""
        script.run("--epochs 2 --seed 3 --batch-size 16 --out some/where")
        folder = script.folder / "some" / "where"
        for name in ("metrics.jsonl", "config.json", "best.pt", "last.pt"):
            expect(
                (folder / name).is_file(), f"after a run with --out some/where, it has no {name}"
            )
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except ValueError as error:
            fail(f"config.json is no JSON: {error}")
        wanted = asdict(Settings(epochs=2, seed=3, batch_size=16, out="some/where"))
        for name, value in wanted.items():
            got = config.get(name) if isinstance(config, dict) else None
            expect(got == value, f"in config.json, {name} is {got!r}; expected {value!r}")
        for name in ("best.pt", "last.pt"):
            try:
                torch.load(folder / name)
            except Exception as error:
                said = str(error).strip().partition("\n")[0][:200]
                fail(f"torch.load with its defaults can't read {name}: {said}")

    @pytest.mark.points(4, "structure")
    def test_lines(self, submission, script):
        """There is one JSON line per epoch, with numbers in it."""
        script.run("--epochs 3 --out run")
        lines = lines_of(script, "run")
        expect(
            epochs_of(lines) == [1, 2, 3],
            f"the lines of a run of 3 epochs have the epochs {epochs_of(lines)}; "
            "expected [1, 2, 3]",
        )
        for line in lines:
            for key in ("train_loss", "val_loss", "time"):
                value = line.get(key)
                expect(
                    type(value) in (int, float) and math.isfinite(value),
                    f"epoch {line['epoch']}: {key} is {value!r}; expected a finite number"
                    + (", not the text of one" if isinstance(value, str) else ""),
                )
            expect(line["time"] > 0, f"epoch {line['epoch']}: time is {line['time']}; expected > 0")
            expect(
                line["time"] < 1e5,
                f"epoch {line['epoch']}: time is {line['time']}; that is a date, expected the "
                "seconds that the epoch took",
            )

    @pytest.mark.points(2, "training")
    @pytest.mark.after("test_lines")
    def test_learns(self, submission, script):
        """The training loss falls over ten epochs."""
        script.run("--epochs 10 --lr 0.01 --out run")
        losses = [line["train_loss"] for line in lines_of(script, "run")]
        picture(
            "curve",
            "train_loss of the script",
            f"from {losses[0]:.3g} to {losses[-1]:.3g} in {len(losses)} epochs.",
            series=[{"label": "train_loss", "x": list(range(1, len(losses) + 1)), "y": losses}],
            x_label="epoch",
            y_label="train_loss",
        )
        expect(
            losses[-1] < 0.99 * losses[0],
            f"train_loss is {losses[0]:.4g} in epoch 1 and {losses[-1]:.4g} in epoch "
            f"{len(losses)}; with --lr 0.01 it has to fall by 1 % at least",
        )

    @pytest.mark.points(1, "structure")
    def test_quiet(self, submission, script):
        """A run to its end writes nothing to stderr."""
        ended = script.run("--epochs 2 --out run")
        said = ended.errors.strip()
        expect(
            not said,
            f"stderr of a run to its end is not empty: {said[:200]!r}. Progress belongs to stdout, "
            "and a warning has a cause",
        )

    @pytest.mark.points(4, "value")
    def test_same_seed(self, submission, script):
        """Two runs with the same seed agree in all but time."""
        for seed in ("", "--seed 5 "):
            for out in ("one", "two"):
                script.run(f"--epochs 3 {seed}--out {out}")
            why = "something is drawn without the seed: data, weights, or the order of the loader"
            lines = lines_of(script, "one")
            assert_same_lines(lines_of(script, "two"), lines, "two runs with the same seed", why)
            expect(bool(lines), "metrics.jsonl is empty")

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_lines", "test_same_seed")
    def test_shell(self, submission, script):
        """Started from a shell it writes the same lines."""
        script.run("--epochs 2 --out forked")
        (script.folder / "template.py").write_text(script.text, encoding="utf-8")
        # As many threads as here, or sums differ in their last digits.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "random"}
        words = ["template.py", "--epochs", "2", "--out", "shell"]
        try:
            ended = subprocess.run(
                [sys.executable, *words],
                cwd=script.folder,
                env=environment,
                capture_output=True,
                timeout=90,
                check=False,
            )
        except subprocess.TimeoutExpired:
            fail("`python template.py --epochs 2 --out shell` did not end within 90 seconds")
        said = ended.stderr.decode("utf-8", "replace").strip()
        expect(
            ended.returncode == 0 and not said,
            f"`python {' '.join(words)}` ended with exit status {ended.returncode} and wrote to "
            f"stderr: {said[-300:]!r}",
        )
        shell = without_time(lines_of(script, "shell"))
        forked = without_time(lines_of(script, "forked"))
        expect(epochs_of(shell) == epochs_of(forked), f"from a shell: epochs {epochs_of(shell)}")
        for left, right in zip(shell, forked, strict=True):
            for key in ("train_loss", "val_loss"):
                expect(
                    math.isclose(left[key], right[key], rel_tol=1e-3),
                    f"in epoch {right['epoch']}, {key} is {right[key]!r} here and {left[key]!r} "
                    "from a shell; a seed must not be made of `hash` of a text, of an id or of the "
                    "clock, which differ from process to process",
                )

    @pytest.mark.points(1, "value")
    def test_other_seed(self, submission, script):
        """Another seed gives other numbers."""
        losses = []
        for seed in (5, 6):
            script.run(f"--epochs 1 --seed {seed} --out {seed}")
            losses.append([line.get("train_loss") for line in lines_of(script, str(seed))])
        expect(losses[0] != losses[1], f"train_loss is {losses[0]} with --seed 5 and with --seed 6")

    @pytest.mark.points(1, "structure")
    def test_begins_anew(self, submission, script):
        """Without --resume a run begins anew in a used folder."""
        script.run("--epochs 2 --seed 3 --out used")
        script.run("--epochs 2 --seed 4 --out used")
        script.run("--epochs 2 --seed 4 --out fresh")
        assert_same_lines(
            lines_of(script, "used"),
            lines_of(script, "fresh"),
            "a run without --resume in a used folder, against one in a fresh folder",
            "without --resume nothing of the run before counts",
        )

    @pytest.mark.points(5, "value")
    def test_resume(self, submission, script):
        """A resumed run ends with the same lines as one at once."""
        for first, whole in ((2, 4), (1, 5)):
            script.run(f"--epochs {whole} --seed 4 --out whole{whole}")
            script.run(f"--epochs {first} --seed 4 --out parts{whole}")
            script.run(f"--epochs {whole} --seed 4 --out parts{whole} --resume")
            assert_same_lines(
                lines_of(script, f"parts{whole}"),
                lines_of(script, f"whole{whole}"),
                f"--epochs {first}, then --epochs {whole} --resume, against --epochs {whole}",
                "weights, state of the optimizer, and the state of the generators must be in "
                "last.pt, and nothing may depend on the number of epochs",
            )

    @pytest.mark.points(1, "structure")
    def test_flushed(self, submission, script):
        """Each line is in the file when its epoch ends."""
        path = script.folder / "run" / "metrics.jsonl"
        with after_first_line(script, "--epochs 100000 --out run", "run") as (wait, text):
            jumps, size, is_whole = [len(text)], len(text), text.endswith("\n")
            deadline = time.monotonic() + 20
            # A buffer of Python's is emptied some 8192 bytes at a time, in the middle of a line.
            while not (jumps[-1] < 6000 and is_whole):
                if len(jumps) == 8 or time.monotonic() > deadline or wait(0.005) is not None:
                    break
                if len(now := path.read_bytes()) != size:
                    jumps.append(len(now) - size)
                    size, is_whole = len(now), now.endswith(b"\n")
        expect(
            jumps[-1] < 6000 and is_whole,
            f"metrics.jsonl grows by {jumps[0]} bytes at a time, many lines at once: flush after "
            "each line, so that nothing is lost and the run can be watched",
        )

    @pytest.mark.points(3, "structure")
    def test_interrupt(self, submission, script):
        """After SIGINT the run ends soon, and last.pt is there."""
        seconds = interrupted(script, "--epochs 100000 --out run", "run")
        measured(f"{seconds:.1f} s")
        path = script.folder / "run" / "last.pt"
        expect(path.is_file(), "the run ended after SIGINT, but there is no last.pt: it is lost")
        try:
            torch.load(path)
        except Exception as error:
            said = str(error).strip().partition("\n")[0][:200]
            fail(f"torch.load with its defaults can't read the last.pt left after SIGINT: {said}")

    @pytest.mark.points(4, "value")
    @pytest.mark.after("test_interrupt", "test_resume")
    def test_interrupt_and_resume(self, submission, script):
        """After SIGINT --resume goes on at the next epoch, as if nothing had been."""
        interrupted(script, "--epochs 100000 --seed 8 --out parts", "parts")
        done = len(lines_of(script, "parts"))
        script.run(f"--epochs {done + 2} --seed 8 --out parts --resume")
        script.run(f"--epochs {done + 2} --seed 8 --out whole")
        assert_same_lines(
            lines_of(script, "parts"),
            lines_of(script, "whole"),
            f"interrupted after {done} lines, then resumed to {done + 2} epochs, against a run at "
            "once",
            "what last.pt holds must be the state at the end of an epoch, the last one that has "
            "a line",
        )
