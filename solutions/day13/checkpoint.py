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
    ### BEGIN SOLUTION 1: write
    torch.save(model.state_dict(), path)
    ### END SOLUTION


def load_weights(model: nn.Module, path: str | Path, device: torch.device | str) -> None:
    """Copy the values of a file of `save_weights` into the model, in place.

    Args:
        model: keeps its parameters, its buffers and the device it is on.
        path: the file.
        device: where the file's tensors are read to, wherever they were when it was written.
    """
    ### BEGIN SOLUTION 1: read
    model.load_state_dict(torch.load(path, map_location=device, weights_only=True))
    ### END SOLUTION


class BestKeeper:
    """Keeps a copy of the weights that had the best metric."""

    def __init__(self, mode: str = "min") -> None:
        """`mode` is "min" or "max": which metric is the better one."""
        ### BEGIN SOLUTION 2: nothing kept yet
        self.mode = mode
        self.best: float | None = None
        self.state: dict[str, Tensor] = {}
        ### END SOLUTION

    def update(self, model: nn.Module, metric: float) -> bool:
        """Keep a copy of the model's state if the metric is strictly better than the best so far.

        Returns:
            Whether it was. The first number always is, nan never.
        """
        ### BEGIN SOLUTION 2: compare, then copy
        if math.isnan(metric):
            return False
        if self.best is not None:
            better = metric < self.best if self.mode == "min" else metric > self.best
            if not better:
                return False
        self.best = metric
        self.state = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
        return True
        ### END SOLUTION

    def restore(self, model: nn.Module) -> None:
        """Copy the best state into the model, in place."""
        ### BEGIN SOLUTION 2: copy back
        model.load_state_dict(self.state)
        ### END SOLUTION


def slim(state: Any) -> Any:
    """The same nested structure, without memory that no tensor in it shows.

    Args:
        state: dicts, OrderedDicts, lists, tuples and namedtuples, nested; tensors and others.

    Returns:
        The structure with detached tensors; those that were a part of a larger storage are copies.
    """
    ### BEGIN SOLUTION 3: visit every leaf
    seen: dict[tuple, Tensor] = {}

    def visit(value: Any) -> Any:
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            place = (storage.data_ptr(), value.storage_offset(), value.shape, value.stride())
            if (place, value.dtype) not in seen:
                plain = value.detach()
                dead = storage.nbytes() > plain.numel() * plain.element_size()
                seen[place, value.dtype] = plain.clone() if dead else plain
            return seen[place, value.dtype]
        if isinstance(value, dict):
            return type(value)((key, visit(item)) for key, item in value.items())
        if hasattr(value, "_fields"):
            return type(value)(*map(visit, value))
        if isinstance(value, list | tuple):
            return type(value)(visit(item) for item in value)
        return value

    return visit(state)
    ### END SOLUTION


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
    ### BEGIN SOLUTION 4: first the names, then the values
    own = model.state_dict()
    report, plan = Report([], [], [], []), []
    for key, value in state.items():
        name = key.removeprefix("module.")
        for pattern, replacement in rename:
            name = re.sub(pattern, replacement, name)
        if name not in own:
            report.unexpected.append(name)
        elif value.dim() != own[name].dim() or value.shape[1:] != own[name].shape[1:]:
            report.mismatched.append(name)
        else:
            report.loaded.append(name)
            plan.append((own[name], value))
    came = {*report.loaded, *report.mismatched}
    report.missing.extend(name for name in own if name not in came)
    if strict and (report.missing or report.unexpected or report.mismatched):
        raise RuntimeError(f"nothing was loaded: {report._replace(loaded=[])}")
    with torch.no_grad():
        for target, value in plan:
            if value.dim():
                rows = min(len(target), len(value))
                target, value = target[:rows], value[:rows]
            target.copy_(value)
    return report
    ### END SOLUTION


class Checkpointer:
    """Checkpoints of a training run in one directory, the newest few of them."""

    def __init__(self, dir: str | Path, keep: int = 3) -> None:
        """`dir` is made if it isn't there; checkpoints of an earlier process count."""
        ### BEGIN SOLUTION 5: the directory
        self.dir = Path(dir)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.keep = keep
        ### END SOLUTION

    def save(self, step: int, **objects: Any) -> None:
        """Write one checkpoint, and remove all but the `keep` highest steps.

        Args:
            step: 0 or more.
            objects: whatever has a `state_dict()`, by name.
        """
        ### BEGIN SOLUTION 5: collect, write, clean up
        kind, keys, *rest = np.random.get_state()
        state = {
            "step": step,
            "objects": {name: thing.state_dict() for name, thing in objects.items()},
            "python": random.getstate(),
            "numpy": (kind, keys.tolist(), *rest),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        path = self.dir / f"step-{step:012d}.pt"
        temporary = self.dir / "half.tmp"
        torch.save(state, temporary)
        os.replace(temporary, path)  # noqa: PTH105
        for old in sorted(self.dir.glob("step-*.pt"))[: -self.keep]:
            old.unlink()
        ### END SOLUTION

    def latest(self) -> Path | None:
        """The file of the highest step that can be read; None without one."""
        ### BEGIN SOLUTION 5: the newest that can be read
        for path in sorted(self.dir.glob("step-*.pt"), reverse=True):
            try:
                torch.load(path, map_location="cpu", weights_only=True)
            except Exception:  # which one depends on where the file breaks off
                continue
            return path
        return None
        ### END SOLUTION

    def load(self, **objects: Any) -> int:
        """Restore the objects and all random generators from `latest()`.

        Args:
            objects: whatever has a `load_state_dict()`, by the names given to `save`.

        Returns:
            The step of the checkpoint.

        Raises:
            FileNotFoundError: there is no checkpoint that can be read.
        """
        ### BEGIN SOLUTION 5: put everything back
        path = self.latest()
        if path is None:
            raise FileNotFoundError(f"no checkpoint in {self.dir}")
        state = torch.load(path, map_location="cpu", weights_only=True)
        for name, thing in objects.items():
            thing.load_state_dict(state["objects"][name])
        random.setstate(state["python"])
        np.random.set_state(state["numpy"])
        torch.set_rng_state(state["torch"])
        if torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda"])
        return state["step"]
        ### END SOLUTION


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
    ### BEGIN SOLUTION 6: seed, build, resume, train
    random.seed(cfg["seed"])
    np.random.seed(cfg["seed"])
    torch.manual_seed(cfg["seed"])
    model, optimizer, scheduler, dataset = build(cfg)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    checkpointer = Checkpointer(ckpt_dir)
    step = 0 if checkpointer.latest() is None else checkpointer.load(**parts)
    per_epoch = math.ceil(len(dataset) / cfg["batch_size"])
    losses: list[float] = []
    for epoch in range(step // per_epoch, cfg["epochs"]):
        # The order of an epoch depends on seed and epoch alone, so there is no state to keep.
        generator = torch.Generator().manual_seed(1000 * cfg["seed"] + epoch)
        order = torch.randperm(len(dataset), generator=generator)
        for chosen in order.split(cfg["batch_size"])[step % per_epoch :]:
            if len(losses) == stop_after:
                checkpointer.save(step, **parts)
                return losses
            x, y = dataset[chosen]
            loss = F.cross_entropy(model(augment(x)), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
            step += 1
    checkpointer.save(step, **parts)
    torch.save(model.state_dict(), Path(ckpt_dir) / "final.pt")
    return losses
    ### END SOLUTION
