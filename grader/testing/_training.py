"""Whether training gets there, and whether a seed decides what is drawn."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch

from grader.testing import _words
from grader.testing._failure import fail
from grader.testing._record import drawn, measured
from grader.testing._shapes import assert_tensor
from grader.testing._trees import named_tensors_in
from grader.testing._values import _difference as _first_difference

_manual_seed, _get_state, _set_state = torch.manual_seed, torch.get_rng_state, torch.set_rng_state
_Generator, _equal, _Tensor = torch.Generator, torch.equal, torch.Tensor


def train_until(  # noqa: RET503 (`fail` never returns)
    make: Callable[[int], Callable[[], Any]],
    target: float,
    steps: int,
    seeds: int = 3,
    need: int = 2,
    *,
    above: bool = False,
    what: str = "the loss",
    beside: Mapping[str, Any] | None = None,
) -> list[float]:
    """Train from several seeds, each until its target; enough of them must get there.

    Args:
        make: `make(seed)` builds a run and returns a function that makes one step and returns
            the metric, a number. The global generators are seeded before.
        target: the metric to come below (or rise above, with `above`).
        steps: at most, for each seed.
        seeds: how many to try, in order.
        need: how many must get there; the others are then not tried.
        what: the metric, as the subject of the message.
        beside: for the picture of a failure: `series` to draw below the curves, `levels`.

    Returns:
        The metric after each step of the last run that got there.
    """
    __tracebackhide__ = True
    curves: list[list[float]] = []
    reached: list[list[float]] = []
    for seed in range(seeds):
        _seed_all(seed)
        curve, done = _run(make(seed), target, steps, above, what)
        curves.append(curve)
        if done:
            reached.append(curve)
        if len(reached) == need:
            measured(f"{_words.number(reached[-1][-1], 3)} after {len(reached[-1])} steps")
            return reached[-1]
        if len(curves) - len(reached) > seeds - need:
            break
    best = [_best(curve, above) for curve in curves if curve]
    side = "above" if above else "below"
    said = _words.listed(_words.number(value, 4) for value in best)
    fail(
        f"{what} must come {side} {_words.number(target, 4)} within {steps} steps; "
        f"at best it came to {said}"
        + (f", from {_words.count(len(best), 'seed')}" if len(best) > 1 else ""),
        id="training.target",
        args={"target": target, "steps": steps},
        expected=target,
        got=best,
        pictures=[
            drawn(
                "curve",
                f"{what.removeprefix('the ').capitalize()} while training",
                f"the target is {_words.number(target, 4)}",
                series=[
                    *(_series(f"seed {seed}", curve) for seed, curve in enumerate(curves)),
                    *(beside or {}).get("series", ()),
                ],
                levels=(beside or {}).get("levels", ()),
                x_label="step",
                y_label=what.removeprefix("the "),
                log_y=all(value > 0 for curve in curves for value in curve) and not above,
                limit=target,
            )
        ],
    )


def assert_same_seed_same_result(
    fn: Callable[..., Any],
    *,
    generator: bool = False,
    differs: bool = True,
    what: str = "the result",
) -> None:
    """The seed decides the result: the same one gives the same, another one gives another.

    Args:
        fn: called without arguments after seeding the global generators; with `generator`,
            called with a seeded `torch.Generator`, and the global state must stay as it was.
        generator: whether `fn` takes a generator.
        differs: whether another seed must give another result.
        what: the subject of the message.
    """
    __tracebackhide__ = True
    numpy = sys.modules.get("numpy")
    states = _get_state(), random.getstate(), numpy and numpy.random.get_state()
    try:
        results = [_seeded(fn, seed, generator) for seed in (11, 11, 12)]
        if _first_difference(results[1], results[0], what) is not None:
            source = "with generators of the same seed" if generator else "after the same seed"
            fail(f"{what} differs between two calls {source}", id="seed.same")
        if differs and _first_difference(results[2], results[0], what) is None:
            source = "the generator's seed" if generator else "the seed"
            fail(f"{what} is the same whatever {source}: nothing is drawn", id="seed.other")
    finally:
        _set_state(states[0])
        random.setstate(states[1])
        if numpy is not None:
            numpy.random.set_state(states[2])


def _run(
    step: Callable[[], Any], target: float, steps: int, above: bool, what: str
) -> tuple[list[float], bool]:
    __tracebackhide__ = True
    curve: list[float] = []
    for _ in range(steps):
        metric = step()
        try:
            value = float(metric.detach()) if isinstance(metric, _Tensor) else float(metric)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            fail(f"{what} is {_words.kind(metric)}; expected a number", id="type.number")
        curve.append(value)
        if value > target if above else value < target:
            return curve, True
        if not math.isfinite(value):
            return curve, False
    return curve, False


def _best(curve: list[float], above: bool) -> float:
    if not math.isfinite(curve[-1]):
        return curve[-1]
    return max(curve) if above else min(curve)


def _series(label: str, curve: list[float]) -> dict[str, Any]:
    every = max(1, len(curve) // 200)
    steps = list(range(1, len(curve) + 1))
    return {"label": label, "x": steps[::every], "y": curve[::every]}


def _seed_all(seed: int) -> None:
    random.seed(seed)
    _manual_seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed)


def _seeded(fn: Callable[..., Any], seed: int, generator: bool) -> Any:
    __tracebackhide__ = True
    if not generator:
        _seed_all(seed)
        return _kept(fn())
    before = _get_state()
    result = _kept(fn(_Generator().manual_seed(seed)))
    if not _equal(before, _get_state()):
        fail(
            "the global random state changed though a generator was passed: "
            "hand generator= to every function that draws",
            id="seed.global",
        )
    return result


def _kept(result: Any) -> Any:
    """The tensors of a result as copies: the next call may overwrite them."""
    __tracebackhide__ = True
    named = list(named_tensors_in(result, "the result"))
    tensors = [assert_tensor(tensor, name).detach().clone() for name, tensor in named]
    return tensors if tensors else result
