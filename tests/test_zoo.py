"""The zoo of day 21: each sick run shows the symptoms of its kind, and the healthy one none."""

from __future__ import annotations

import copy
import importlib.util
import math
from functools import cache
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

SOURCE = Path(__file__).parent.parent / "solutions" / "day21" / "zoo.py"
STEPS = 60
SEED = 3


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("zoo_under_test", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


zoo = _load()


def norm(tensors: list[torch.Tensor | None]) -> float:
    """One norm of all; nan where there is none."""
    known = [t.detach().double().norm() for t in tensors if t is not None]
    return torch.stack(known).norm().item() if known else math.nan


@cache
def symptoms(kind: str, seed: int = SEED, **units: float) -> frozenset[str]:
    """What is wrong with a run, seen from outside."""
    torch.set_num_threads(1)
    run = zoo.make(kind, seed, **units)
    weights = list(run.model.parameters())
    came: set[int] = set()
    for i, weight in enumerate(weights):
        weight.register_hook(lambda _, i=i: came.add(i))
    outputs: dict[str, list[torch.Tensor]] = {"batch": [], "relu": [], "row": []}
    run.model.register_forward_pre_hook(lambda _, args: outputs["batch"].append(args[0]))
    run.model.register_forward_hook(lambda _, args, out: outputs["row"].append(out.detach().sum(1)))
    for module in run.model:
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda _, args, out: outputs["relu"].append(out.detach()))

    losses, gradients, lost, changes, sizes, ratios = [], [], [], [], [], []

    def at_the_step(*_: Any) -> None:
        matrices = [w for w in weights if w.ndim == 2]
        gradients.append(norm([w.grad for w in weights]))
        first, last = norm([matrices[0].grad]), norm([matrices[-1].grad])
        lost.append(first < 1e-4 * last)

    run.opt.register_step_pre_hook(at_the_step)
    for _ in range(STEPS):
        before = [w.detach().clone() for w in weights]
        losses.append(run.step() / units.get("factor", 1.0))
        changes.append(norm([w.detach() - b for w, b in zip(weights, before, strict=True)]))
        sizes.append(norm([*before]))
        pairs = [(norm([w.detach() - b]), norm([b])) for w, b in zip(weights, before, strict=True)]
        ratios += [change / size for change, size in pairs if size > 0]

    early, late = losses[:5], losses[-10:]
    finite = all(map(math.isfinite, losses))
    moves = [c / s for c, s in zip(changes, sizes, strict=True) if s > 0]
    batch = torch.cat(outputs["batch"])
    x, y = run.loader.x.nan_to_num(), run.loader.y
    fits = ((x[:, 0] * x[:, 1] > 0).long() == y).double().mean().item()
    relus = outputs["relu"]
    rises = [sum(losses[i : i + 15]) for i in range(0, STEPS, 15)]
    found = {
        "learns nothing": finite and abs(sum(late) / 10 - math.log(2)) < 0.1,
        "begins far off": losses[0] > 5,
        "rises all the time": finite and rises == sorted(rises) and late[-1] > 5 * early[0],
        "no gradient at the step": all(map(math.isnan, gradients)) and finite,
        "no way for a gradient": not came,
        "gradient grows": norm_grows(gradients, losses),
        "weights stand still": not any(changes),
        "tiny steps": 0 < max(ratios, default=0) < 1e-3,
        "huge steps": max(moves, default=0) > 0.5 and sizes[0] > 0,
        "dead units": bool(relus) and all(not out.any() for out in relus),
        "weights begin at 0": sizes[0] == 0,
        "rows sum to 1": all(((row - 1).abs() < 1e-5).all() for row in outputs["row"]),
        "first layers get nothing": all(lost) and not any(not out.any() for out in relus),
        "sizes of features": (batch.std(0).max() / batch.std(0).min()).item() > 1e6,
        "nan in the data": bool(batch.isnan().any()),
        "labels of other rows": fits < 0.7,
    }
    return frozenset(name for name, is_seen in found.items() if is_seen)


def norm_grows(gradients: list[float], losses: list[float]) -> bool:
    """Whether the gradient grew from step to step, though the loss didn't."""
    return all(map(math.isfinite, gradients)) and (
        median(gradients[-10:]) > 6 * max(gradients[:5]) and losses[-1] < 5 * losses[0]
    )


EXPECTED = {
    "healthy": set(),
    "lr_huge": {"huge steps"},
    "lr_tiny": {"learns nothing", "tiny steps"},
    "no_zero_grad": {"gradient grows"},
    "zero_after_backward": {
        "learns nothing",
        "no gradient at the step",
        "weights stand still",
    },
    "dead_relu": {"learns nothing", "dead units"},
    "zero_init": {"learns nothing", "dead units", "weights begin at 0"},
    "stale_optimizer": {"learns nothing", "weights stand still", "gradient grows"},
    "double_softmax": {"rows sum to 1"},
    "detached": {
        "learns nothing",
        "no gradient at the step",
        "no way for a gradient",
        "weights stand still",
    },
    "shuffled_labels": {"learns nothing", "labels of other rows"},
    "sigmoid_deep": {"learns nothing", "first layers get nothing"},
    "unscaled": {"begins far off", "sizes of features"},
    "nan_row": {"nan in the data"},
    "ascent": {"rises all the time"},
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_a_run_shows_the_symptoms_of_its_kind_and_no_others(kind):
    assert symptoms(kind) == EXPECTED[kind]


def test_every_kind_has_symptoms_of_its_own():
    assert set(EXPECTED) == {"healthy", *zoo.KINDS}
    assert len({frozenset(found) for found in EXPECTED.values()}) == len(EXPECTED)


def test_a_healthy_run_stays_healthy_in_other_units():
    assert symptoms("healthy", units=100.0, factor=100.0) == set()


def test_two_kinds_at_once_show_the_symptoms_of_both():
    assert symptoms("lr_tiny+unscaled") >= {"tiny steps", "sizes of features"}


def test_a_healthy_run_learns_and_one_with_two_softmaxes_stays_above_its_floor():
    losses = {kind: [zoo.make(kind, 1)] for kind in ("healthy", "double_softmax")}
    last = {kind: [run.step() for _ in range(150)][-10:] for kind, [run] in losses.items()}

    assert sum(last["healthy"]) / 10 < 0.15
    assert min(last["double_softmax"]) > math.log(1 + math.exp(-1)) - 1e-6


def test_the_loss_is_nan_only_after_the_batch_with_nan():
    run = zoo.make("nan_row", 2)
    losses = [run.step() for _ in range(8)]
    bad = [math.isnan(loss) for loss in losses]

    assert bad == sorted(bad)
    assert not bad[0]
    assert bad[-1]


@pytest.mark.parametrize("kind", ["healthy", "stale_optimizer", "lr_huge"])
def test_a_copy_is_a_run_of_its_own_at_the_same_place(kind):
    run = zoo.make(kind, 4)
    run.step()
    twin = copy.deepcopy(run)
    run.opt.zero_grad()
    run.model.zero_grad()
    expected = [run.step() for _ in range(4)]
    weights = {id(p) for p in run.model.parameters()}
    held = {id(p) for group in twin.opt.param_groups for p in group["params"]}

    assert [twin.step() for _ in range(4)] == expected
    assert not held & weights
    assert (held == {id(p) for p in twin.model.parameters()}) == (kind != "stale_optimizer")


def test_the_seed_decides_and_no_global_generator_is_used():
    before = torch.get_rng_state()
    runs = [zoo.make("healthy", seed) for seed in (5, 5, 6)]
    one, same, other = ([run.step() for _ in range(3)] for run in runs)

    assert one == same
    assert one != other
    assert torch.equal(before, torch.get_rng_state())


def test_an_epoch_gives_every_row_once_in_an_order_of_its_own():
    loader = zoo.make("healthy", 7).loader
    epochs = [torch.cat([next(loader)[0] for _ in range(8)]) for _ in range(2)]

    assert not torch.equal(*epochs)
    assert torch.equal(*(epoch.sort(0).values for epoch in epochs))


def test_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="lr_tiny"):
        zoo.make("lr_tinny", 0)
