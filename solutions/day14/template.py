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

    ### BEGIN SOLUTION 1: the ten fields, with types and defaults
    epochs: int = 10
    lr: float = 1e-3
    batch_size: int = 32
    seed: int = 277527
    clip: float | None = None
    accum: int = 1
    patience: int | None = None
    device: str = "cpu"
    amp: bool = False
    out: str = "run"
    ### END SOLUTION


def parse(argv: list[str]) -> Config:
    """Read a Config off the words of a command line.

    Args:
        argv: such as `["--lr=3e-4", "--batch-size", "64", "--no-amp"]`, without the program's name.

    Returns:
        The defaults, with what the words say put over them.

    Raises:
        SystemExit: a key is unknown.
    """
    ### BEGIN SOLUTION 1: from words to typed values
    parser = argparse.ArgumentParser()
    for field in fields(Config):
        key = "--" + field.name.replace("_", "-")
        kind = (get_args(field.type) or (field.type,))[0]
        how = {"action": argparse.BooleanOptionalAction} if kind is bool else {"type": kind}
        parser.add_argument(key, default=field.default, **how)
    return Config(**vars(parser.parse_args(argv)))
    ### END SOLUTION


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
    ### BEGIN SOLUTION 2: epochs of training and validation, and the best of them
    metrics = metrics or {}

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: moved(item) for key, item in value.items()}
        if isinstance(value, tuple | list):
            return [moved(item) for item in value]
        return value.to(cfg.device)

    def outputs(inputs: Any) -> Any:
        inputs = moved(inputs)
        if isinstance(inputs, dict):
            return model(**inputs)
        return model(*inputs) if isinstance(inputs, list) else model(inputs)

    def update() -> None:
        if cfg.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), cfg.clip)
        optimizer.step()
        optimizer.zero_grad()

    def train() -> float:
        model.train()
        optimizer.zero_grad()
        total, samples, waiting = 0.0, 0, 0
        for inputs, target in train_loader:
            target = moved(target)
            loss = loss_fn(outputs(inputs), target)
            (loss / cfg.accum).backward()
            total += loss.item() * len(target)
            samples += len(target)
            waiting += 1
            if waiting == cfg.accum:
                update()
                waiting = 0
        if waiting:
            update()
        return total / samples if samples else math.nan

    @torch.no_grad()
    def validate() -> tuple[dict[str, float], int]:
        model.eval()
        functions = {"val_loss": loss_fn} | {f"val_{k}": metrics[k] for k in metrics}
        totals, samples = dict.fromkeys(functions, 0.0), 0
        for inputs, target in () if val_loader is None else val_loader:
            target = moved(target)
            out = outputs(inputs)
            for name, function in functions.items():
                totals[name] += float(function(out, target)) * len(target)
            samples += len(target)
        return {k: total / samples if samples else math.nan for k, total in totals.items()}, samples

    history: dict[str, list[float]] = {}
    best, best_state, worse = math.inf, None, 0
    for _ in range(cfg.epochs):
        values = {"train_loss": train()}
        measured, samples = validate()
        values |= measured
        for name, value in values.items():
            history.setdefault(name, []).append(value)
        if scheduler is not None:
            scheduler.step()
        if values["val_loss"] < best:
            best, best_state, worse = values["val_loss"], copy.deepcopy(model.state_dict()), 0
        elif samples:
            worse += 1
            if worse == cfg.patience:
                break
    if best_state is not None:
        model.load_state_dict(best_state)
    return history
    ### END SOLUTION


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
    ### BEGIN SOLUTION 3: on copies only
    x, y = batch
    with torch.random.fork_rng():
        twin = copy.deepcopy(model).train()
        trainable = [p for p in twin.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(trainable, lr=1e-2)
        first = loss_fn(twin(x), y)
        optimizer.zero_grad()
        first.backward()
        all_grads = all(p.grad is not None and bool(p.grad.any()) for p in trainable)
        for _ in range(60):
            optimizer.zero_grad()
            loss = loss_fn(twin(x), y)
            loss.backward()
            optimizer.step()
        twin.eval()
        with torch.no_grad():
            seeing, blind = loss_fn(twin(x), y), loss_fn(twin(torch.zeros_like(x)), y)
        probe = x.detach().clone().requires_grad_()
        row = copy.deepcopy(model).eval()(probe)[0]
        (grad,) = torch.autograd.grad((row * torch.randn_like(row)).sum(), probe, allow_unused=True)
    expected = math.log(n_classes or 1)
    return {
        "init_loss": n_classes is None or abs(first.item() - expected) <= 0.25 * expected,
        "overfits": loss.item() < 0.1 * first.item(),
        "no_mixing": grad is None or not bool(grad[1:].any()),
        "all_grads": all_grads,
        "uses_inputs": bool(blind > seeing),
        "has_bn": any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()),
    }
    ### END SOLUTION


def main(argv: list[str]) -> None:
    """Train a small model on data made from the seed; leave metrics and checkpoints in a folder.

    Args:
        argv: the words that `parse` knows, and `--resume`.
    """
    ### BEGIN SOLUTION 4: a run that can be repeated, stopped and taken up again
    resume = "--resume" in argv
    cfg = parse([word for word in argv if word != "--resume"])
    folder = Path(cfg.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(asdict(cfg)), encoding="utf-8")
    last = folder / "last.pt"
    resume = resume and last.exists()

    torch.manual_seed(cfg.seed)
    x = torch.randn(160, 4)
    y = torch.sin(2 * x[:, :1]) + x[:, 1:2] * x[:, 2:3]
    train_loader = DataLoader(TensorDataset(x[:128], y[:128]), cfg.batch_size, shuffle=True)
    val_loader = [(x[128:], y[128:])]
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=cfg.lr)
    start, best = 1, math.inf
    if resume:
        state = torch.load(last)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        start, best = state["epoch"] + 1, state["best"]

    signals: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: signals.append(number))
    with (folder / "metrics.jsonl").open("a" if resume else "w", encoding="utf-8") as stream:
        for epoch in range(start, cfg.epochs + 1):
            began = time.perf_counter()
            history = fit(
                model,
                train_loader,
                val_loader,
                loss_fn=nn.functional.mse_loss,
                optimizer=optimizer,
                cfg=replace(cfg, epochs=1),
            )
            line = {"epoch": epoch} | {name: values[0] for name, values in history.items()}
            line["time"] = time.perf_counter() - began
            stream.write(json.dumps(line) + "\n")
            stream.flush()
            if line["val_loss"] < best:
                best = line["val_loss"]
                torch.save(model.state_dict(), folder / "best.pt")
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            state |= {"epoch": epoch, "best": best, "rng": torch.get_rng_state()}
            torch.save(state, folder / "last.tmp")
            (folder / "last.tmp").replace(last)
            if signals:
                break
    ### END SOLUTION


if __name__ == "__main__":
    main(sys.argv[1:])
