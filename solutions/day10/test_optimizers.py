"""Day 10 asks for optimizers, clipping, accumulation, a schedule and an average of the weights."""

import copy
import inspect
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grader.testing import (
    assert_close,
    assert_raises,
    assert_shape,
    assert_tensor,
    expect,
    fail,
    measured,
    peak_memory,
    picture,
    spy,
    train_until,
)

Gradients = Sequence[Sequence[Tensor | None]]
"""For each step, for each parameter, its gradient."""


@contextmanager
def not_calling(functions: dict[str, Any]) -> Iterator[None]:
    """Fail at the end if one of these functions of torch was called, under whatever name.

    Args:
        functions: name for the message -> Python function, its decorators are looked through.
    """
    codes = {inspect.unwrap(function).__code__: name for name, function in functions.items()}
    seen: list[str] = []

    def watch(frame: Any, event: str, _: Any) -> None:
        if event == "call" and frame.f_code in codes:
            seen.append(codes[frame.f_code])

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(before)
    expect(not seen, f"{seen and seen[0]} was called; it is forbidden here: do its work yourself")


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """One vector (elements of all tensors) without a graph."""
    return torch.cat([tensor.detach().clone().flatten() for tensor in tensors])


def assert_float(value: Any, what: str) -> None:
    """A Python float, not a tensor."""
    if isinstance(value, Tensor):
        graph = " that still holds its graph" if value.requires_grad else ""
        fail(f"{what} is a tensor{graph}; expected a Python float")
    expect(type(value) is float, f"{what} is of type {type(value).__name__}; expected float")


# --- 1 ------------------------------------------------------------------------------------------


class Step:
    """A linear model with one batch, and what one step of SGD makes of it."""

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed + int(torch.randint(1000, ()).item()))
        self.model = nn.Linear(3, 2)
        for p in self.model.parameters():
            p.data.copy_(torch.randn(p.shape, generator=generator))
        self.x = torch.randn(5, 3, generator=generator)
        self.y = torch.randn(5, 2, generator=generator) + 10
        self.opt = torch.optim.SGD(self.model.parameters(), lr=0.25)
        self.before = [p.detach().clone() for p in self.model.parameters()]

    def closed_form(self) -> tuple[float, list[Tensor]]:
        """The loss and its gradients, written out: the mean of (x w^T + b - y)^2."""
        weight, bias = self.before
        off = self.x @ weight.T + bias - self.y
        gradients = [2 * off.T @ self.x / off.numel(), 2 * off.sum(0) / off.numel()]
        return (off**2).mean().item(), gradients

    def after(self, gradients: Sequence[Tensor]) -> Tensor:
        """(8,) the parameters after one step with these gradients."""
        return flat([p - 0.25 * g for p, g in zip(self.before, gradients, strict=True)])

    def found(self) -> Tensor:
        """(8,) the parameters now."""
        return flat(list(self.model.parameters()))


def norm_of(tensors: Sequence[Tensor]) -> float:
    """L2 norm of all elements together, in float64."""
    return math.sqrt(sum((tensor.double() ** 2).sum().item() for tensor in tensors))


@pytest.mark.task("train_step")
class TestTrainStep:
    @pytest.mark.points(2, "value")
    def test_parameters(self, submission):
        """The parameters make one step of SGD against the gradient."""
        for seed in range(2):
            run = Step(seed)
            submission.train_step(run.model, run.opt, F.mse_loss, run.x.clone(), run.y.clone())
            _, gradients = run.closed_form()
            assert_close(
                run.found(),
                run.after(gradients),
                what="the vector of all parameters",
                explain={
                    "the parameters did not move: there was no gradient at `opt.step()`. Was it "
                    "emptied after backward, or did the step come before it?": flat(run.before),
                    "the step was made twice": run.after([2 * g for g in gradients]),
                },
            )

    @pytest.mark.points(2, "value")
    def test_old_gradients(self, submission):
        """Gradients that were there before don't count."""
        run = Step()
        old = [torch.randn_like(p) for p in run.before]
        for p, gradient in zip(run.model.parameters(), old, strict=True):
            p.grad = gradient.clone()
        submission.train_step(run.model, run.opt, F.mse_loss, run.x, run.y)
        _, gradients = run.closed_form()
        assert_close(
            run.found(),
            run.after(gradients),
            what="the vector of all parameters",
            explain={
                "the gradients of an earlier backward were added to the new ones: nothing emptied "
                ".grad before backward": run.after(
                    [g + o for g, o in zip(gradients, old, strict=True)]
                ),
                "the step was made with the gradients of an earlier backward: it came before the "
                "new one": run.after(old),
                "the parameters did not move: .grad was emptied between backward and step": flat(
                    run.before
                ),
            },
        )

    @pytest.mark.points(1, "structure")
    def test_one_backward_and_one_step(self, submission):
        """Old gradients are gone before the one backward and one step."""
        run = Step()
        for p in run.model.parameters():
            p.grad = torch.ones_like(p)
        left: list[bool] = []
        accumulated: list[Tensor] = []
        for p in run.model.parameters():
            p.register_post_accumulate_grad_hook(accumulated.append)

        def loss_fn(prediction: Tensor, y: Tensor) -> Tensor:
            loss = F.mse_loss(prediction, y)
            if loss.requires_grad:
                loss.register_hook(
                    lambda _: left.append(
                        any(p.grad is not None and p.grad.any() for p in run.model.parameters())
                    )
                )
            return loss

        with spy(run.opt, "step") as log:
            submission.train_step(run.model, run.opt, loss_fn, run.x, run.y)
        expect(len(left) == 1, f"backward was called {len(left)} times; expected once")
        expect(
            not (left[0] and accumulated),
            "old gradients were still in .grad when backward began; backward adds to what is there",
        )
        expect(len(log) == 1, f"`opt.step` was called {len(log)} times; expected once")

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_parameters")
    def test_clipped(self, submission):
        """With max_norm, the step is made with clipped gradients."""
        run = Step()
        submission.train_step(run.model, run.opt, F.mse_loss, run.x, run.y, max_norm=0.75)
        _, gradients = run.closed_form()
        norm = norm_of(gradients)
        assert_close(
            run.found(),
            run.after([g * (0.75 / norm) for g in gradients]),
            what="the vector of all parameters",
            explain={
                f"the step was made with gradients of norm {norm:.3g}, though max_norm is 0.75: "
                "clip after backward and before step": run.after(gradients),
                "each tensor was clipped by itself: the norm is that of all gradients "
                "together": run.after([g * (0.75 / norm_of([g])) for g in gradients]),
                "each element was clipped: that bounds values, not the norm": run.after(
                    [g.clamp(-0.75, 0.75) for g in gradients]
                ),
            },
        )

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_parameters")
    def test_small_gradients(self, submission):
        """Gradients below max_norm are not scaled."""
        run = Step()
        submission.train_step(run.model, run.opt, F.mse_loss, run.x, run.y, 1000.0)
        _, gradients = run.closed_form()
        factor = 1000.0 / norm_of(gradients)
        assert_close(
            run.found(),
            run.after(gradients),
            what="the vector of all parameters",
            explain={
                f"the gradients were scaled up, by {factor:.3g}; clipping only ever "
                "shortens": run.after([g * factor for g in gradients]),
            },
        )

    @pytest.mark.points(1, "structure")
    def test_returns_a_float(self, submission):
        """The loss before the step comes back as a Python float."""
        run = Step()
        loss = submission.train_step(
            model=run.model, opt=run.opt, loss_fn=F.mse_loss, x=run.x, y=run.y, max_norm=None
        )
        assert_float(loss, "the loss")
        expected, _ = run.closed_form()
        with torch.no_grad():
            later = F.mse_loss(run.model(run.x), run.y).item()
        expect(
            abs(loss - expected) < 1e-4 * expected,
            f"the loss is {loss:.6g}; expected {expected:.6g}"
            + (": it was measured after the step" if abs(loss - later) < 1e-4 * abs(later) else ""),
        )

    @pytest.mark.points(1, "structure")
    @pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
    def test_mode(self, submission, training):
        """The model stays in its mode, each part of it."""
        model = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5))
        model.train(training)
        model[1].train(not training)
        modes = [module.training for module in model.modules()]
        during: list[list[bool]] = []
        model.register_forward_pre_hook(
            lambda *_: during.append([module.training for module in model.modules()])
        )
        opt = torch.optim.SGD(model.parameters(), lr=0.1)
        submission.train_step(model, opt, F.mse_loss, torch.randn(5, 3), torch.randn(5, 2))
        expect(bool(during), "the model was not called: call `model(x)`")
        for found in (*during, [module.training for module in model.modules()]):
            expect(
                found == modes,
                "the model's mode was changed: its caller chooses train or eval, and parts of it "
                "may be in another mode than the rest",
                expected=modes,
                got=found,
            )


# --- 2 ------------------------------------------------------------------------------------------

SHAPES = ((2, 3), (5,), (), (3, 1, 7))


def with_gradients(*shapes: tuple[int, ...], scale: float = 1.0) -> list[nn.Parameter]:
    """Parameters of these shapes with random gradients, of different size each."""
    parameters = []
    for i, shape in enumerate(shapes):
        p = nn.Parameter(torch.randn(shape))
        p.grad = scale * (i + 1) * torch.randn(shape)
        parameters.append(p)
    return parameters


def gradients_of(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Copies of the gradients that are there."""
    return [p.grad.clone() for p in parameters if p.grad is not None]


@pytest.mark.task("clip_grad_norm")
class TestClipGradNorm:
    @pytest.mark.points(2, "value")
    def test_gradients(self, submission):
        """All gradients are scaled so that their common norm is max_norm."""
        for shapes in (((2,), (3,)), SHAPES, SHAPES):
            parameters = with_gradients(*shapes)
            before = gradients_of(parameters)
            submission.clip_grad_norm(parameters, max_norm=0.6)
            norm = norm_of(before)
            by_hand = [g * (0.6 / norm) for g in before]
            total = sum(norm_of([g]) for g in before)
            assert_close(
                flat(gradients_of(parameters)),
                flat(by_hand),
                rtol=1e-5,
                what="the vector of all gradients",
                explain={
                    "each tensor was clipped by itself; one factor, from the norm of all of them "
                    "together, belongs to all": flat(
                        [g * min(1, 0.6 / norm_of([g])) for g in before]
                    ),
                    "the norms of the tensors were added up; the common norm is the root of the "
                    "sum of their squares": flat([g * (0.6 / total) for g in before]),
                    "the gradients did not change": flat(before),
                    "the root of the sum of squares was not taken": flat(
                        [g * (0.6 / norm**2) for g in before]
                    ),
                },
            )

    @pytest.mark.points(2, "value")
    def test_returned_norm(self, submission):
        """The norm before clipping comes back, as a 0-dim tensor."""
        parameters = with_gradients(*SHAPES)
        before = gradients_of(parameters)
        norm = submission.clip_grad_norm(parameters, 0.6)
        assert_shape(assert_tensor(norm, "the norm"))
        expected = norm_of(before)
        assert_close(
            norm.detach(),
            torch.tensor(expected),
            rtol=1e-5,
            what="the returned norm",
            explain={
                "the norm was measured after clipping; return the one from before, it tells how "
                "large the gradients were": torch.tensor(0.6),
                "the norms of the tensors were added up; the common norm is the root of the sum "
                "of their squares": torch.tensor(sum(norm_of([g]) for g in before)),
                "the square of the norm came back": torch.tensor(expected**2),
            },
        )

    @pytest.mark.points(1, "value")
    def test_one_factor(self, submission):
        """All gradients share one factor, so their direction stays."""
        parameters = with_gradients((3,), (5,), (2, 2), scale=5.0)
        parameters[1].grad.mul_(0.001)
        before = gradients_of(parameters)
        submission.clip_grad_norm(parameters, 0.5)
        factors = [
            (g.norm() / b.norm()).item()
            for g, b in zip(gradients_of(parameters), before, strict=True)
        ]
        expect(
            max(factors) - min(factors) < 1e-5 * max(factors) and max(factors) < 1,
            f"three gradients were scaled by {factors[0]:.4g}, {factors[1]:.4g} and "
            f"{factors[2]:.4g}; expected one factor below 1 for all, so that the direction stays",
            got=factors,
        )

    @pytest.mark.points(2, "value")
    def test_small_gradients(self, submission):
        """Gradients below max_norm stay as they are."""
        limits, norms, clipped = 4.0, [], []
        parameters = with_gradients((2, 3), (5,))
        for step in range(24):
            for p in parameters:
                p.grad = torch.randn_like(p) * (4.0 if step % 7 == 3 else 0.5)
            before = gradients_of(parameters)
            submission.clip_grad_norm(parameters, limits)
            norms.append(norm_of(before))
            clipped.append(norm_of(gradients_of(parameters)))
        picture(
            "bars",
            "The gradient norm of 24 steps",
            "Only the peaks above max_norm are cut; everything else should stay as it was.",
            labels=[str(step) for step in range(24)],
            series=[
                {"label": "before", "values": norms},
                {"label": "after clipping", "values": clipped},
            ],
            unit="",
            log=False,
            limit=limits,
        )
        for step, (norm, after) in enumerate(zip(norms, clipped, strict=True)):
            if norm < limits:
                expect(
                    abs(after - norm) < 1e-5 * norm,
                    f"gradients of norm {norm:.4g} became {after:.4g} with max_norm {limits:g}"
                    + (": clipping never makes gradients longer" if after > norm else "")
                    + f" (step {step})",
                    expected=norm,
                    got=after,
                )

    @pytest.mark.points(1, "value")
    def test_without_gradient(self, submission):
        """Parameters whose grad is None are skipped, and stay without."""
        parameters = with_gradients((2, 3), (5,), (7,))
        parameters[0].grad = None
        parameters[2].requires_grad_(False).grad = None
        before = gradients_of(parameters)
        norm = submission.clip_grad_norm(parameters, 0.5)
        expect(
            parameters[0].grad is None and parameters[2].grad is None,
            "a parameter without a gradient got one; None means skipped by the optimizer, zeros do "
            "not",
        )
        assert_close(norm.detach(), torch.tensor(norm_of(before)), rtol=1e-5, what="the norm")
        factor = 0.5 / norm_of(before)
        assert_close(parameters[1].grad, before[0] * factor, rtol=1e-5, what="the only gradient")

    @pytest.mark.points(2, "structure")
    @pytest.mark.hint("How often does your code go through `params`?")
    def test_generator(self, submission):
        """A generator of parameters will do, and is read once."""
        parameters = with_gradients(*SHAPES)
        before = gradients_of(parameters)
        norm = submission.clip_grad_norm((p for p in parameters), 0.6)
        after = flat(gradients_of(parameters))
        expected = norm_of(before)
        assert_close(
            after,
            flat([g * (0.6 / expected) for g in before]),
            rtol=1e-5,
            what="the vector of all gradients",
            explain={
                "nothing was scaled: a generator is empty after the first pass, so a second loop "
                "over `params` does nothing": flat(before),
            },
        )
        assert_close(norm.detach(), torch.tensor(expected), rtol=1e-5, what="the norm")

    @pytest.mark.points(2, "value")
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_non_finite(self, submission, value):
        """A norm that is nan or inf raises, and the gradients stay."""
        parameters = with_gradients((2, 3), (5,))
        parameters[1].grad[3] = value
        before = gradients_of(parameters)
        assert_raises(
            RuntimeError, submission.clip_grad_norm, parameters, 0.5, text=("non-finite",)
        )
        assert_close(
            flat(gradients_of(parameters)),
            flat(before),
            rtol=0,
            atol=0,
            what="the vector of all gradients after the error",
        )

    @pytest.mark.points(1, "value")
    def test_nothing_to_clip(self, submission):
        """Without any gradient the norm is 0."""
        for parameters in ([], [nn.Parameter(torch.ones(3))]):
            norm = submission.clip_grad_norm(parameters, 0.5)
            assert_shape(assert_tensor(norm, "the norm"))
            expect(
                norm.item() == 0,
                f"the norm of no gradients at all is {norm.item()}; expected 0",
            )

    @pytest.mark.points(1, "structure")
    def test_in_place(self, submission):
        """The gradients are scaled in place: the same tensors, the same memory."""
        parameters = with_gradients((2, 3), (5,))
        tensors = [p.grad for p in parameters]
        places = [g.data_ptr() for g in tensors]
        before = gradients_of(parameters)
        submission.clip_grad_norm(parameters, 0.5)
        same = [p.grad is g for p, g in zip(parameters, tensors, strict=True)]
        expect(
            all(same) and places == [g.data_ptr() for g in tensors],
            "p.grad is another tensor after the call; scale the old one in place, others may "
            "hold it too",
        )
        expect(
            not torch.equal(flat(tensors), flat(before)),
            "the tensors that were in .grad before the call did not change; they are to be scaled",
        )

    @pytest.mark.points(1, "structure")
    def test_by_hand(self, submission):
        """The norm and the factor are the submission's own work."""
        banned = {
            "clip_grad_norm_": nn.utils.clip_grad_norm_,
            "get_total_norm": nn.utils.get_total_norm,
        }
        parameters = with_gradients((2, 3), (5,))
        before = norm_of(gradients_of(parameters))
        with not_calling(banned):
            submission.clip_grad_norm(parameters, 0.5)
        after = norm_of(gradients_of(parameters))
        expect(
            after < before, f"the gradients of norm {before:.4g} have norm {after:.4g} afterwards"
        )


# --- 3 and 4: what both optimizers have in common -------------------------------------------------


def double(*shapes: tuple[int, ...]) -> list[Tensor]:
    """Random float64 tensors of these shapes."""
    return [torch.randn(shape, dtype=torch.float64) for shape in shapes]


def as_parameters(values: Sequence[Tensor]) -> list[nn.Parameter]:
    """Parameters with copies of these values."""
    return [nn.Parameter(value.clone()) for value in values]


def some_gradients(steps: int, values: Sequence[Tensor]) -> list[list[Tensor]]:
    """For each step a random gradient for each tensor."""
    return [[torch.randn_like(value) for value in values] for _ in range(steps)]


def take_steps(
    opt: Any,
    parameters: Sequence[nn.Parameter],
    gradients: Gradients,
    before_step: Callable[[int], None] | None = None,
) -> Tensor:
    """Give the parameters these gradients, one step after another.

    Returns:
        (steps, elements): all parameters after each step.
    """
    history = []
    for step, given in enumerate(gradients):
        for p, gradient in zip(parameters, given, strict=True):
            p.grad = None if gradient is None else gradient.clone()
        if before_step is not None:
            before_step(step)
        opt.step()
        history.append(flat(parameters))
    return torch.stack(history)


def resumed(make: Callable[[Any], Any], values: list[Tensor], gradients: Gradients) -> Tensor:
    """(steps, elements): as `take_steps`, but a new optimizer takes over half way."""
    half = len(gradients) // 2
    first = as_parameters(values)
    opt = make(first)
    start = take_steps(opt, first, gradients[:half])
    state = copy.deepcopy(opt.state_dict())
    second = as_parameters([p.detach() for p in first])
    other = make(second)
    other.load_state_dict(state)
    return torch.cat([start, take_steps(other, second, gradients[half:])])


def in_other_order(
    make: Callable[[Any], Any], values: list[Tensor], gradients: Gradients
) -> Tensor:
    """(steps, elements): two groups, and a third one is added half way."""
    half = len(gradients) // 2
    parameters = as_parameters(values)
    opt = make([{"params": parameters[1:2]}, {"params": parameters[2:], "lr": 0.02}])
    start = take_steps(opt, parameters, [[None, *given[1:]] for given in gradients[:half]])
    opt.add_param_group({"params": parameters[:1], "lr": 0.3})
    return torch.cat([start, take_steps(opt, parameters, gradients[half:])])


def assert_same_memory(make: Callable[[Any], Any]) -> None:
    """The optimizer writes into the parameters it was given, and records no graph."""
    values = double((2, 3), (5,))
    parameters = as_parameters(values)
    places = [p.data_ptr() for p in parameters]
    opt = make(parameters)
    take_steps(opt, parameters, some_gradients(3, values))
    expect(
        not torch.equal(flat(parameters), flat(values)),
        "the Parameter objects that the optimizer was given did not change in three steps; update "
        "these very objects",
    )
    for p in parameters:
        expect(
            p.is_leaf and p.requires_grad and p.grad_fn is None,
            "a parameter is no leaf that requires grad any more: the update was recorded",
        )
    expect(
        places == [p.data_ptr() for p in parameters],
        "a parameter lies in other memory after the step: `.data` was replaced. Write in place, "
        "tied weights and views share this memory",
    )
    for p in parameters:
        for name, value in opt.state[p].items():
            expect(
                not (isinstance(value, Tensor) and value.requires_grad),
                f"state[p][{name!r}] requires grad: the graph of every step is kept; update under "
                "torch.no_grad()",
            )


def assert_gradients_stay(make: Callable[[Any], Any], plain: Callable[[Any], Any]) -> None:
    """`.grad` is only read, and is the caller's to write into between two steps."""
    values = double((2, 3), (5,))
    gradients = some_gradients(5, values)
    parameters = as_parameters(values)
    opt = make(parameters)
    history = []
    for p in parameters:
        p.grad = torch.zeros_like(p)
    for given in gradients:
        for p, gradient in zip(parameters, given, strict=True):
            p.grad.copy_(gradient)
        opt.step()
        expect(
            torch.equal(flat([p.grad for p in parameters]), flat(given)),
            "`.grad` is not what it was before the step; compute with a copy, and keep a copy",
        )
        history.append(flat(parameters))
    others = as_parameters(values)
    expected = take_steps(plain(others), others, gradients)
    found = torch.stack(history)
    expect(
        torch.allclose(found, expected, rtol=1e-5, atol=1e-9),
        "with new gradients written into the same `.grad` tensors, the parameters take another "
        "way: something in the state is the very tensor in `.grad`, not a copy of it",
    )


def assert_closure(make: Callable[[Any], Any]) -> None:
    """`step(closure)` calls it once, with gradients enabled, before the update."""
    p = nn.Parameter(torch.tensor([3.0, 5.0]))
    opt = make([p])
    seen: list[tuple[bool, Tensor]] = []

    def closure() -> Tensor:
        seen.append((torch.is_grad_enabled(), p.detach().clone()))
        p.grad = None
        loss = (p**2).sum() if torch.is_grad_enabled() else torch.tensor(34.0)
        if loss.requires_grad:
            loss.backward()
        else:
            p.grad = 2 * p.detach()
        return loss

    loss = opt.step(closure)
    expect(len(seen) == 1, f"the closure was called {len(seen)} times; expected once")
    expect(
        seen[0][0],
        "gradients were disabled while the closure ran, so its backward has nothing to go back "
        "through: call it under torch.enable_grad()",
    )
    expect(loss is not None, "step(closure) returned None; expected what the closure returned")
    value = loss.item() if isinstance(loss, Tensor) else loss
    assert_close(value, 34.0, what="what step(closure) returned")
    expect(
        torch.equal(seen[0][1], torch.tensor([3.0, 5.0])),
        "the parameters had moved when the closure was called; it comes before the update",
    )
    expect(
        bool((p.detach() < torch.tensor([3.0, 5.0])).all()),
        "the parameters did not move by the gradients that the closure computed",
    )


def optimizer_module(name: str) -> Any:
    """The module `torch.optim.sgd`; torch deletes the name from its own namespace."""
    return sys.modules[f"torch.optim.{name}"]


# --- 3 ------------------------------------------------------------------------------------------

SGD_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"lr": 0.1},
    "decay": {"lr": 0.1, "weight_decay": 0.3},
    "momentum": {"lr": 0.1, "momentum": 0.9},
    "weak-momentum": {"lr": 0.03, "momentum": 0.5},
    "momentum-decay": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.3},
    "nesterov": {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    "nesterov-decay": {"lr": 0.1, "momentum": 0.7, "nesterov": True, "weight_decay": 0.3},
    "zero-lr": {"lr": 0.0, "momentum": 0.9, "weight_decay": 0.3},
}


def sgd_by_hand(
    values: Sequence[Tensor],
    gradients: Gradients,
    rates: Sequence[float],
    momentum: float,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    mistake: str = "",
) -> Tensor:
    """(steps, elements): SGD with one of the known mistakes."""
    weights = [value.clone() for value in values]
    buffers: list[Tensor | None] = [None] * len(weights)
    history = []
    for given, lr in zip(gradients, rates, strict=True):
        for i, p in enumerate(weights):
            pure = given[i]
            if pure is None:
                continue
            g = pure if mistake == "late decay" else pure + weight_decay * p
            last = buffers[i]
            share = lr if mistake == "lr inside" else 1.0
            if last is None:
                buf = share * g * (1 - momentum if mistake == "dampened" else 1.0)
            else:
                damp = 1 - momentum if mistake in ("dampened", "dampened later") else 1.0
                buf = momentum * last + damp * share * g
            buffers[i] = buf
            update = g + momentum * buf if nesterov and mistake != "no nesterov" else buf
            if mistake == "nesterov of the buffer":
                update = buf + momentum * buf
            if mistake == "late decay":
                update = update + weight_decay * p
            p -= update if mistake == "lr inside" else lr * update
        history.append(flat(weights))
    return torch.stack(history)


@pytest.mark.task("SGD")
class TestSGD:
    @pytest.mark.points(4, "value")
    @pytest.mark.parametrize("name", list(SGD_OPTIONS))
    def test_like_torch(self, submission, name):
        """Twenty steps give the numbers of torch, with eight sets of options."""
        options = SGD_OPTIONS[name]
        values = double((2, 3), (5,))
        gradients = some_gradients(20, values)
        parameters, others = as_parameters(values), as_parameters(values)
        found = take_steps(submission.SGD(parameters, **options), parameters, gradients)
        expected = take_steps(torch.optim.SGD(others, **options), others, gradients)
        momentum, decay = options.get("momentum", 0.0), options.get("weight_decay", 0.0)
        known = {}
        if momentum and options["lr"]:
            known["each gradient enters the buffer with 1 - momentum; here it enters whole"] = (
                "dampened"
            )
            known[
                "the first buffer is the gradient, but the later ones take 1 - momentum of it"
            ] = "dampened later"
        if decay and momentum and options["lr"]:
            known["the weight decay was added after the momentum; it is a part of the gradient"] = (
                "late decay"
            )
        if options.get("nesterov"):
            known["nesterov makes no difference: the update is g + momentum * buf"] = "no nesterov"
            known["with nesterov, momentum * buf is added to the gradient, not to the buffer"] = (
                "nesterov of the buffer"
            )
        rates = [options["lr"]] * 20
        nesterov = options.get("nesterov", False)
        assert_close(
            found,
            expected,
            axes=("step", "element"),
            what="the parameters after each step",
            explain={
                said: sgd_by_hand(values, gradients, rates, momentum, decay, nesterov, mistake)
                for said, mistake in known.items()
            },
        )

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_like_torch")
    def test_schedule(self, submission):
        """A learning rate that changes half way counts from that step on."""
        values = double((2, 3))
        gradients = some_gradients(10, values)
        rates = [0.1] * 5 + [0.01] * 5
        parameters, others = as_parameters(values), as_parameters(values)

        def run(opt: Any, targets: Sequence[nn.Parameter]) -> Tensor:
            def set_rate(step: int) -> None:
                opt.param_groups[0]["lr"] = rates[step]

            return take_steps(opt, targets, gradients, set_rate)

        found = run(submission.SGD(parameters, lr=0.5, momentum=0.9), parameters)
        expected = run(torch.optim.SGD(others, lr=0.5, momentum=0.9), others)
        assert_close(
            found,
            expected,
            axes=("step", "element"),
            what="the parameters after each step",
            explain={
                "the learning rate is inside the buffer, so gradients of earlier steps keep their "
                "old rate; multiply by lr when the buffer is used": sgd_by_hand(
                    values, gradients, rates, 0.9, mistake="lr inside"
                ),
                "the learning rate of the constructor was used at every step; read it from the "
                "group": sgd_by_hand(values, gradients, [0.5] * 10, 0.9),
                "the learning rate of the first step was kept; read it from the group at every "
                "step": sgd_by_hand(values, gradients, [0.1] * 10, 0.9),
            },
        )

    @pytest.mark.points(1, "value")
    def test_groups(self, submission):
        """Every group has its own options."""
        values = double((2, 3), (5,))
        gradients = some_gradients(5, values)

        def run(kind: Any, targets: Sequence[nn.Parameter]) -> Tensor:
            groups = [
                {"params": [targets[0]], "weight_decay": 0.3},
                {"params": [targets[1]], "lr": 0.02, "momentum": 0.5, "nesterov": True},
            ]
            return take_steps(kind(groups, lr=0.1, momentum=0.9), targets, gradients)

        parameters, others = as_parameters(values), as_parameters(values)
        found = run(submission.SGD, parameters)
        expected = run(torch.optim.SGD, others)
        assert_close(found, expected, axes=("step", "element"), what="the parameters of two groups")

    @pytest.mark.points(1, "value")
    def test_first_step(self, submission):
        """The first buffer is the gradient itself."""
        (value,) = double((5,))
        (gradient,) = double((5,))
        (p,) = parameters = as_parameters([value])
        take_steps(submission.SGD(parameters, lr=0.1, momentum=0.75), parameters, [[gradient]])
        assert_close(
            value - p.detach(),
            0.1 * gradient,
            what="the way of the first step",
            explain={
                "the first buffer is (1 - momentum) times the gradient; expected the gradient "
                "itself": 0.025 * gradient,
                "the first buffer counts twice": 0.175 * gradient,
            },
        )

    @pytest.mark.points(1, "value")
    def test_none_is_not_zero(self, submission):
        """A grad of None skips the parameter, a grad of zero does not."""
        values = double((3,), (5,))
        parameters, others = as_parameters(values), as_parameters(values)
        start, zero = some_gradients(1, values)[0], torch.zeros(5, dtype=torch.float64)
        gradients: Gradients = [[*start], [None, zero], [*start]]
        options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.3}
        found = take_steps(submission.SGD(parameters, **options), parameters, gradients)
        expected = take_steps(torch.optim.SGD(others, **options), others, gradients)
        expect(
            torch.equal(found[0, :3], found[1, :3]),
            "a parameter whose grad is None moved; skip it, buffer and weight decay too",
        )
        expect(
            not torch.equal(found[0, 3:], found[1, 3:]),
            "a parameter with a gradient of zeros did not move; only None is skipped, and the "
            "momentum goes on",
        )
        assert_close(found, expected, axes=("step", "element"), what="the parameters")

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_like_torch")
    def test_resume(self, submission):
        """A new optimizer goes on from the state_dict."""
        values = double((2, 3), (5,))
        gradients = some_gradients(6, values)
        found = resumed(lambda ps: submission.SGD(ps, lr=0.1, momentum=0.9), values, gradients)
        others = as_parameters(values)
        expected = take_steps(torch.optim.SGD(others, lr=0.1, momentum=0.9), others, gradients)
        restarted = torch.cat(
            [
                expected[:3],
                sgd_by_hand(split(expected[2], values), gradients[3:], [0.1] * 3, 0.9),
            ]
        )
        assert_close(
            found,
            expected,
            axes=("step", "element"),
            what="the parameters, resumed after step 3",
            explain={
                "the buffers started anew after load_state_dict: keep them in self.state[p], the "
                "base class saves and loads them from there": restarted
            },
        )

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_like_torch")
    def test_added_group(self, submission):
        """A group added later gets its own buffers; the others keep theirs."""
        values = double((5,), (5,), (5,))
        gradients = some_gradients(6, values)
        found = in_other_order(
            lambda ps: submission.SGD(ps, lr=0.1, momentum=0.9), values, gradients
        )
        expected = in_other_order(
            lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9), values, gradients
        )
        expect(
            torch.allclose(found, expected, rtol=1e-7, atol=1e-9),
            "with two groups, and a third one added after step 3, the parameters go another way "
            "than torch's: whose buffer is whose? A buffer belongs to a parameter, not to a place "
            "in a list",
        )

    @pytest.mark.points(1, "structure")
    def test_closure(self, submission):
        """step calls the closure once, with gradients, and returns its loss."""
        assert_closure(lambda ps: submission.SGD(ps, lr=0.1))

    @pytest.mark.points(1, "structure")
    def test_same_memory(self, submission):
        """The parameters are updated in place, without a graph."""
        assert_same_memory(lambda ps: submission.SGD(ps, lr=0.1, momentum=0.9))

    @pytest.mark.points(1, "structure")
    def test_gradients_stay(self, submission):
        """The gradients are only read, and the state holds none of them."""
        assert_gradients_stay(
            lambda ps: submission.SGD(ps, lr=0.1, momentum=0.9, weight_decay=0.3),
            lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, weight_decay=0.3),
        )
        assert_gradients_stay(
            lambda ps: submission.SGD(ps, lr=0.1, momentum=0.9),
            lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9),
        )

    @pytest.mark.points(1, "structure")
    def test_by_hand(self, submission):
        """The class is an Optimizer of its own, not torch's SGD."""
        expect(
            isinstance(submission.SGD, type) and issubclass(submission.SGD, torch.optim.Optimizer),
            "SGD is not derived from torch.optim.Optimizer",
        )
        expect(
            not issubclass(submission.SGD, torch.optim.SGD),
            "SGD is derived from torch.optim.SGD; derive it from torch.optim.Optimizer",
        )
        banned = {
            "torch.optim.SGD": torch.optim.SGD.__init__,
            "torch.optim.sgd.sgd": optimizer_module("sgd").sgd,
        }
        parameters = as_parameters(double((3,)))
        before = flat(parameters)
        with not_calling(banned):
            opt = submission.SGD(parameters, lr=0.1, momentum=0.9)
            parameters[0].grad = torch.ones_like(parameters[0])
            opt.step()
        expect(not torch.equal(flat(parameters), before), "the parameter did not move in a step")


def split(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The tensors that `flat` made one vector of."""
    parts = vector.split([tensor.numel() for tensor in like])
    return [part.view_as(tensor) for part, tensor in zip(parts, like, strict=True)]


# --- 4 ------------------------------------------------------------------------------------------


def adam_by_hand(
    values: Sequence[Tensor],
    gradients: Gradients,
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    late: bool = False,
    mistake: str = "",
) -> Tensor:
    """(steps, elements): decoupled Adam, decay after the update if `late`, or with a mistake."""
    (b1, b2), weights = betas, [value.clone() for value in values]
    first = [torch.zeros_like(value) for value in values]
    second = [torch.zeros_like(value) for value in values]
    own = [0] * len(weights)
    history = []
    for step, given in enumerate(gradients, 1):
        for i, p in enumerate(weights):
            g = given[i]
            if g is None:
                continue
            own[i] += 1
            t = step if mistake == "shared counter" else own[i]
            if mistake == "coupled":
                g = g + weight_decay * p
            first[i] = b1 * first[i] + (1 - b1) * g
            second[i] = b2 * second[i] + (1 - b2) * g * g
            m, v = first[i] / (1 - b1**t), second[i] / (1 - b2**t)
            if mistake == "no correction":
                m, v = first[i], second[i]
            root = v.sqrt() + eps
            if mistake == "eps inside":
                root = (v + eps).sqrt()
            if mistake == "eps early":
                root = (second[i].sqrt() + eps) / math.sqrt(1 - b2**t)
            keep = 1 - lr * weight_decay
            if mistake == "coupled":
                keep = 1.0
            if mistake == "lr twice":
                keep = 1 - lr * lr * weight_decay
            if mistake == "decay without lr":
                keep = 1 - weight_decay
            update = lr * m / root
            p.copy_((p - update) * keep if late else p * keep - update)
        history.append(flat(weights))
    return torch.stack(history)


def rosenbrock_paths(submission: Any, steps: int = 250) -> list[dict[str, Any]]:
    """Where the submission's optimizers walk from (-1.5, 2) over Rosenbrock's valley."""
    runs: dict[str, tuple[str, dict[str, Any]]] = {
        "SGD": ("SGD", {"lr": 0.001}),
        "momentum": ("SGD", {"lr": 0.001, "momentum": 0.9}),
        "Adam": ("AdamW", {"lr": 0.05, "weight_decay": 0.0}),
    }
    valley = [-1.7 + 0.1 * i for i in range(35)]
    series = [{"label": "floor of the valley", "x": valley, "y": [x * x for x in valley]}]
    for label, (name, options) in runs.items():
        try:
            p = nn.Parameter(torch.tensor([-1.5, 2.0], dtype=torch.float64))
            opt = getattr(submission, name)([p], **options)
            xs, ys = [], []
            for _ in range(steps):
                x, y = p.tolist()
                if not (abs(x) < 3 and abs(y) < 5):
                    break
                xs.append(x)
                ys.append(y)
                slope = [2 * (x - 1) - 400 * x * (y - x * x), 200 * (y - x * x)]
                p.grad = torch.tensor(slope, dtype=torch.float64)
                opt.step()
        except Exception:  # another task of the submission, open or broken: not this check's matter
            continue
        series.append({"label": label, "x": xs, "y": ys})
    return series


@pytest.mark.task("AdamW")
class TestAdamW:
    @pytest.mark.points(4, "value")
    @pytest.mark.parametrize("decay", [0.0, 0.3])
    def test_decoupled(self, submission, decay):
        """A hundred steps of AdamW give the numbers of the formula."""
        values = double((2, 3), (5,))
        gradients = some_gradients(100, values)
        options = {"lr": 0.02, "betas": (0.8, 0.97), "weight_decay": decay}
        parameters = as_parameters(values)
        opt = submission.AdamW(parameters, **options)
        found = take_steps(opt, parameters, gradients)
        others = as_parameters(values)
        expected = take_steps(torch.optim.AdamW(others, **options), others, gradients)
        late = adam_by_hand(values, gradients, late=True, **options)
        if found.shape == late.shape and torch.allclose(found, late, rtol=1e-5, atol=1e-7):
            expected = late
        known = {
            "the moments are not corrected for their start at 0: divide them by 1 - b1^t and "
            "1 - b2^t": "no correction",
        }
        if decay:
            known |= {
                "the decay went through the moments, as with L2 in Adam; with decoupled=True it "
                "only shrinks the weight": "coupled",
                "the decay was multiplied by lr twice": "lr twice",
                "the weight shrinks by weight_decay at every step; expected lr * "
                "weight_decay": "decay without lr",
            }
        assert_close(
            found,
            expected,
            rtol=1e-5,
            axes=("step", "element"),
            what="the parameters after each step",
            explain={
                said: adam_by_hand(values, gradients, mistake=mistake, **options)
                for said, mistake in known.items()
            },
        )

    @pytest.mark.points(3, "value")
    def test_l2(self, submission):
        """With decoupled=False the decay is a part of the gradient."""
        values = double((2, 3), (5,))
        gradients = some_gradients(100, values)
        options = {"lr": 0.02, "betas": (0.8, 0.97), "weight_decay": 0.3}
        parameters = as_parameters(values)
        opt = submission.AdamW(parameters, decoupled=False, **options)
        found = take_steps(opt, parameters, gradients)
        others = as_parameters(values)
        expected = take_steps(torch.optim.Adam(others, **options), others, gradients)
        assert_close(
            found,
            expected,
            rtol=1e-5,
            axes=("step", "element"),
            what="the parameters after each step",
            explain={
                "the weight was shrunk beside the gradient, as with decoupled=True": adam_by_hand(
                    values, gradients, **options
                ),
                "the weight decay was left out": adam_by_hand(
                    values, gradients, **options | {"weight_decay": 0.0}
                ),
            },
        )

    @pytest.mark.points(2, "value")
    def test_first_step(self, submission):
        """The first step is lr long, whatever the gradient's size."""
        gradient = torch.tensor([1e3, -20.0, 0.5, -7e5], dtype=torch.float64)
        start = torch.zeros(4, dtype=torch.float64)
        (p,) = parameters = as_parameters([start])
        opt = submission.AdamW(parameters, lr=0.125, weight_decay=0.0)
        take_steps(opt, parameters, [[gradient]])
        series = rosenbrock_paths(submission)
        picture(
            "curve",
            "Three ways through Rosenbrock's valley",
            "250 steps from (-1.5, 2); the minimum is at (1, 1). Your own optimizers walked.",
            series=series,
            x_label="x",
            y_label="y",
            log_y=False,
        )
        root = math.sqrt(1e-3)
        assert_close(
            p.detach(),
            -0.125 * gradient.sign(),
            rtol=1e-5,
            what="the way of the first step",
            explain={
                "the moments are not corrected for their start at 0": (
                    -0.125 * 0.1 / root * gradient.sign()
                ),
                "only the second moment is corrected for its start at 0": (
                    -0.0125 * gradient.sign()
                ),
                "only the first moment is corrected for its start at 0": (
                    -0.125 / root * gradient.sign()
                ),
            },
        )

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_first_step")
    def test_eps(self, submission):
        """eps stands outside the root, after the correction."""
        values = [torch.zeros(3, dtype=torch.float64)]
        tiny = 1e-10 * torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
        gradients = [[tiny]] * 3
        parameters = as_parameters(values)
        found = take_steps(
            submission.AdamW(parameters, lr=0.1, weight_decay=0.0), parameters, gradients
        )
        others = as_parameters(values)
        expected = take_steps(
            torch.optim.AdamW(others, lr=0.1, weight_decay=0.0), others, gradients
        )
        known = {
            "eps was added under the root; it belongs outside: sqrt(vhat) + eps": "eps inside",
            "eps was added to the root before the correction of v; it belongs after "
            "it": "eps early",
        }
        assert_close(
            found,
            expected,
            rtol=1e-3,
            atol=0,
            axes=("step", "element"),
            what="the way with gradients of 1e-10",
            explain={
                said: adam_by_hand(values, gradients, lr=0.1, mistake=mistake)
                for said, mistake in known.items()
            },
        )

    @pytest.mark.points(1, "value")
    def test_none_is_skipped(self, submission):
        """A parameter whose grad is None stays as it is, decay too."""
        values = double((3,), (5,))
        gradients: Gradients = [[None, gradient] for _, gradient in some_gradients(3, values)]
        parameters = as_parameters(values)
        opt = submission.AdamW(parameters, lr=0.1, weight_decay=0.3)
        take_steps(opt, parameters, gradients)
        expect(
            torch.equal(parameters[0].detach(), values[0]),
            "a parameter whose grad is None moved; skip it, weight decay too",
        )
        expect(
            not torch.equal(parameters[1].detach(), values[1]),
            "a parameter beside one whose grad is None did not move",
        )

    @pytest.mark.points(3, "value")
    @pytest.mark.after("test_decoupled")
    def test_own_counter(self, submission):
        """A parameter that joins late starts its own count."""
        values = double((3,), (5,))
        gradients: Gradients = [
            [one, two if step >= 5 else None]
            for step, (one, two) in enumerate(some_gradients(10, values))
        ]
        options = {"lr": 0.1, "weight_decay": 0.0}
        parameters, others = as_parameters(values), as_parameters(values)
        found = take_steps(submission.AdamW(parameters, **options), parameters, gradients)
        expected = take_steps(torch.optim.AdamW(others, **options), others, gradients)
        assert_close(
            found,
            expected,
            rtol=1e-5,
            axes=("step", "element"),
            what="the parameters, one of them frozen for five steps",
            explain={
                "the steps are counted once for all parameters: one that was frozen for five steps "
                "gets the correction of step 6 in its own first step": adam_by_hand(
                    values, gradients, lr=0.1, mistake="shared counter"
                ),
            },
        )

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_decoupled")
    def test_resume(self, submission):
        """A new optimizer goes on from the state_dict."""
        values = double((2, 3), (5,))
        gradients = some_gradients(6, values)
        options = {"lr": 0.05, "weight_decay": 0.0}
        found = resumed(lambda ps: submission.AdamW(ps, **options), values, gradients)
        others = as_parameters(values)
        expected = take_steps(torch.optim.AdamW(others, **options), others, gradients)
        anew = adam_by_hand(split(expected[2], values), gradients[3:], lr=0.05)
        assert_close(
            found,
            expected,
            rtol=1e-5,
            axes=("step", "element"),
            what="the parameters, resumed after step 3",
            explain={
                "moments and counter started anew after load_state_dict: keep them in "
                "self.state[p], the base class saves and loads them from there": torch.cat(
                    [expected[:3], anew]
                )
            },
        )

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_own_counter")
    def test_groups(self, submission):
        """Groups have their own options, may come later, and lr may change."""
        values = double((5,), (5,), (5,))
        gradients = some_gradients(6, values)
        options = {"lr": 0.1, "weight_decay": 0.0}
        found = in_other_order(lambda ps: submission.AdamW(ps, **options), values, gradients)
        expected = in_other_order(lambda ps: torch.optim.AdamW(ps, **options), values, gradients)
        assert_close(
            found,
            expected,
            rtol=1e-5,
            axes=("step", "element"),
            what="the parameters of two groups, and of a third one added later",
        )

        def run(opt: Any, targets: Sequence[nn.Parameter]) -> Tensor:
            def set_rate(step: int) -> None:
                opt.param_groups[0]["lr"] = 0.1 / (step + 1)

            return take_steps(opt, targets, gradients, set_rate)

        parameters, others = as_parameters(values), as_parameters(values)
        found = run(submission.AdamW(parameters, lr=0.5, weight_decay=0.0), parameters)
        expected = run(torch.optim.AdamW(others, lr=0.5, weight_decay=0.0), others)
        assert_close(
            found,
            expected,
            rtol=1e-5,
            axes=("step", "element"),
            what="the parameters with a learning rate of 0.1 / t, set from outside",
        )

    @pytest.mark.points(1, "structure")
    def test_in_place(self, submission):
        """Parameters are updated in place, and gradients are only read."""
        assert_same_memory(lambda ps: submission.AdamW(ps, lr=0.1))
        assert_closure(lambda ps: submission.AdamW(ps, lr=0.1))
        assert_gradients_stay(
            lambda ps: submission.AdamW(ps, lr=0.1, weight_decay=0.3, decoupled=False),
            lambda ps: torch.optim.Adam(ps, lr=0.1, weight_decay=0.3),
        )

    @pytest.mark.points(1, "structure")
    def test_by_hand(self, submission):
        """The class is an Optimizer of its own, not torch's Adam."""
        relatives = ("Adam", "AdamW", "NAdam", "RAdam", "Adamax", "SparseAdam")
        kinds = {name: getattr(torch.optim, name) for name in relatives}
        expect(
            isinstance(submission.AdamW, type)
            and issubclass(submission.AdamW, torch.optim.Optimizer),
            "AdamW is not derived from torch.optim.Optimizer",
        )
        for name, kind in kinds.items():
            expect(
                not issubclass(submission.AdamW, kind),
                f"AdamW is derived from torch.optim.{name}; derive it from torch.optim.Optimizer",
            )
        banned = {f"torch.optim.{name}": kind.__init__ for name, kind in kinds.items()}
        banned["torch.optim.adam.adam"] = optimizer_module("adam").adam
        banned["torch.optim.adamw.adamw"] = optimizer_module("adamw").adamw
        parameters = as_parameters(double((3,)))
        before = flat(parameters)
        with not_calling(banned):
            opt = submission.AdamW(parameters, lr=0.1)
            parameters[0].grad = torch.ones_like(parameters[0])
            opt.step()
        expect(not torch.equal(flat(parameters), before), "the parameter did not move in a step")


# --- 5 ------------------------------------------------------------------------------------------


class Chunks:
    """A linear model with micro-batches, and what a step of one big batch makes of it."""

    def __init__(self, *sizes: int) -> None:
        self.model = nn.Linear(3, 2)
        self.opt = torch.optim.SGD(self.model.parameters(), lr=0.5)
        self.batches = [(torch.randn(n, 3), torch.randn(n, 2) + 2) for n in sizes]
        self.before = [p.detach().clone() for p in self.model.parameters()]

    @staticmethod
    def loss_sum(prediction: Tensor, y: Tensor) -> Tensor:
        """The sum over the samples of |prediction - y|^2, which itself sums two columns."""
        return ((prediction - y) ** 2).sum()

    def closed_form(self, batches: list[tuple[Tensor, Tensor]]) -> tuple[float, list[Tensor]]:
        """The sum of the losses of these batches, and its gradients."""
        weight, bias = self.before
        x, y = torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])
        off = x @ weight.T + bias - y
        return (off**2).sum().item(), [2 * off.T @ x, 2 * off.sum(0)]

    @property
    def samples(self) -> int:
        return sum(len(x) for x, _ in self.batches)

    def after(self, divisor: float, batches: list[tuple[Tensor, Tensor]] | None = None) -> Tensor:
        """(8,) the parameters after a step with the sum of the losses over a divisor."""
        _, gradients = self.closed_form(self.batches if batches is None else batches)
        return flat([p - 0.5 * g / divisor for p, g in zip(self.before, gradients, strict=True)])

    def mean_of_means(self) -> Tensor:
        """(8,) the parameters after a step with the mean of the micro-batches' means."""
        weights = [p.clone() for p in self.before]
        for batch in self.batches:
            _, gradients = self.closed_form([batch])
            for p, g in zip(weights, gradients, strict=True):
                p -= 0.5 * g / len(batch[0]) / len(self.batches)
        return flat(weights)

    def found(self) -> Tensor:
        """(8,) the parameters now."""
        return flat(list(self.model.parameters()))


def wide_run(submission: Any | None, chunks: int) -> int:
    """Peak bytes of one step with a wide network, by the submission or as one big batch."""
    width, samples = 64, 1024
    model = nn.Sequential(
        nn.Linear(8, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)
    )
    opt = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = torch.randn(samples, 8), torch.randn(samples, 1)
    batches = list(zip(x.chunk(chunks), y.chunk(chunks), strict=True))
    if submission is not None:
        return peak_memory(submission.accumulate, model, Chunks.loss_sum, batches, opt)

    def big(model: nn.Module, x: Tensor, y: Tensor) -> None:
        (Chunks.loss_sum(model(x), y) / len(x)).backward()

    return peak_memory(big, model, x, y)


@pytest.mark.task("accumulate")
class TestAccumulate:
    @pytest.mark.points(4, "value")
    @pytest.mark.parametrize("sizes", [(1, 7), (4, 4, 2)], ids=["1-7", "4-4-2"])
    def test_parameters(self, submission, sizes):
        """The step is that of one big batch, though the sizes differ."""
        run = Chunks(*sizes)
        submission.accumulate(run.model, run.loss_sum, list(run.batches), run.opt)
        samples = run.samples
        assert_close(
            run.found(),
            run.after(samples),
            what="the vector of all parameters",
            explain={
                "the sum of the gradients was divided by the number of micro-batches; the mean is "
                "over samples": run.after(len(sizes)),
                "the sum of the gradients was not divided: expected that of the mean over all "
                "samples": run.after(1),
                "every micro-batch counts the same, whatever its size: a sample of a small one "
                "weighs more than one of a large one": run.mean_of_means(),
                "only the last micro-batch counts: the gradients were emptied on the "
                "way": run.after(samples, run.batches[-1:]),
                "every loss was divided by the number of its elements; samples are counted along "
                "the first axis": run.after(2 * samples),
                "each micro-batch's mean was added up, so its size counts twice": flat(run.before)
                - sum(
                    (flat(run.before) - run.after(len(batch[0]), [batch])) for batch in run.batches
                ),
                "the parameters did not move: there was no gradient at the step": flat(run.before),
            },
        )

    @pytest.mark.points(2, "structure")
    def test_one_step(self, submission):
        """The optimizer steps once, after the last backward."""
        run = Chunks(4, 4, 2)
        seen: list[Tensor] = []

        def loss_sum(prediction: Tensor, y: Tensor) -> Tensor:
            seen.append(run.found())
            return run.loss_sum(prediction, y)

        with spy(run.opt, "step") as log:
            submission.accumulate(run.model, loss_sum, list(run.batches), run.opt)
        expect(
            len(log) == 1,
            f"`opt.step` was called {len(log)} times for 3 micro-batches; expected once, after "
            "the last",
        )
        expect(
            all(torch.equal(found, flat(run.before)) for found in seen),
            "the parameters changed before the last micro-batch was done; all must see the same",
        )

    @pytest.mark.points(2, "value")
    def test_old_gradients(self, submission):
        """Gradients that were there before don't count."""
        run = Chunks(4, 4, 2)
        for p in run.model.parameters():
            p.grad = torch.ones_like(p)
        submission.accumulate(run.model, run.loss_sum, list(run.batches), run.opt)
        _, gradients = run.closed_form(run.batches)
        added = [g / run.samples + 1 for g in gradients]
        assert_close(
            run.found(),
            run.after(run.samples),
            what="the vector of all parameters",
            explain={
                "the gradients of an earlier backward were added to the new ones: nothing emptied "
                ".grad at the beginning": flat(
                    [p - 0.5 * g for p, g in zip(run.before, added, strict=True)]
                ),
                "only the last micro-batch counts: emptying .grad inside the loop throws the "
                "others away": run.after(run.samples, run.batches[-1:]),
            },
        )

    @pytest.mark.points(2, "value")
    def test_mean_loss(self, submission):
        """The mean loss over all samples comes back as a float."""
        run = Chunks(4, 4, 2)
        loss = submission.accumulate(
            model=run.model, loss_sum_fn=run.loss_sum, batches=list(run.batches), opt=run.opt
        )
        assert_float(loss, "the loss")
        total, _ = run.closed_form(run.batches)
        parts = [run.closed_form([batch])[0] for batch in run.batches]
        sizes = [len(x) for x, _ in run.batches]
        assert_close(
            torch.tensor(loss, dtype=torch.float64),
            torch.tensor(total / run.samples, dtype=torch.float64),
            rtol=1e-5,
            what="the returned loss",
            explain={
                said: torch.tensor(value, dtype=torch.float64)
                for said, value in {
                    "the sum of the losses came back; expected the mean over all samples": total,
                    "the sum of the losses was divided by the number of micro-batches": total / 3,
                    "the mean of the micro-batches' means came back; the small one weighs too much "
                    "in it": sum(p / n for p, n in zip(parts, sizes, strict=True)) / 3,
                    "the loss of the last micro-batch came back": parts[-1] / run.samples,
                    "the mean of the last micro-batch came back": parts[-1] / sizes[-1],
                }.items()
            },
        )

    @pytest.mark.points(2, "structure")
    def test_one_graph_at_a_time(self, submission):
        """Each micro-batch's backward comes before the next forward."""
        run = Chunks(4, 4, 2)
        events: list[str] = []

        def loss_sum(prediction: Tensor, y: Tensor) -> Tensor:
            loss = run.loss_sum(prediction, y)
            events.append("forward")
            if loss.requires_grad:
                loss.register_hook(lambda _: events.append("backward"))
            return loss

        submission.accumulate(run.model, loss_sum, list(run.batches), run.opt)
        expected = ["forward", "backward"] * 3
        expect(
            events == expected,
            f"the order was {', '.join(events)}: "
            + (
                "all graphs lived at the same time; call backward for each micro-batch before the "
                "next forward"
                if events[:2] == ["forward", "forward"]
                else "expected forward and backward, once for each micro-batch"
            ),
            expected=expected,
            got=events,
        )

    @pytest.mark.points(2, "memory")
    def test_memory(self, submission):
        """Eight chunks need at most 0.35 of the memory of one big batch."""
        got = wide_run(submission, 8)
        big = wide_run(None, 1)
        measured(f"{got / big:.2f} of one big batch")
        expect(
            got <= 0.35 * big,
            f"eight micro-batches took {got / big:.2f} of the memory of one big batch; at most "
            "0.35 are allowed: only one graph may live at a time",
            expected=0.35 * big,
            got=got,
        )

    @pytest.mark.points(1, "memory")
    def test_graphs_are_freed(self, submission):
        """No graph is retained after its backward."""
        run = Chunks(4, 4, 2)
        losses: list[Tensor] = []

        def loss_sum(prediction: Tensor, y: Tensor) -> Tensor:
            losses.append(run.loss_sum(prediction, y))
            return losses[-1]

        submission.accumulate(run.model, loss_sum, list(run.batches), run.opt)
        for i, loss in enumerate(losses):
            try:
                torch.autograd.grad(loss, list(run.model.parameters()))
            except RuntimeError:
                continue  # what the forward saved is gone
            fail(
                f"the graph of micro-batch {i} could be walked again after the call: its backward "
                "did not free it; don't retain graphs"
            )


# --- 6 ------------------------------------------------------------------------------------------


class Blocks(nn.Module):
    """A small model with a parameter of every sort."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 5)
        self.gain = nn.Parameter(torch.ones(()))
        self.norm = nn.LayerNorm(5)
        self.body = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 5, bias=False))
        self.distance_bias = nn.Parameter(torch.randn(2, 3))
        self.conv = nn.Conv1d(2, 3, 5)


class Tied(nn.Module):
    """A table whose weight a Linear shares, in either order."""

    def __init__(self, table_first: bool) -> None:
        super().__init__()
        if table_first:
            self.table, self.head = nn.Embedding(11, 5), nn.Linear(5, 11)
        else:
            self.head, self.table = nn.Linear(5, 11), nn.Embedding(11, 5)
        self.head.weight = self.table.weight


def decays(groups: Any, model: nn.Module) -> dict[str, list[float]]:
    """name of a parameter -> the weight decay of each group it is in."""
    names = {id(p): name for name, p in model.named_parameters()}
    found: dict[str, list[float]] = {name: [] for name in names.values()}
    expect(
        isinstance(groups, list | tuple) and all(isinstance(group, dict) for group in groups),
        f"the groups are of type {type(groups).__name__}; expected a list of dicts",
    )
    for i, group in enumerate(groups):
        for key in ("params", "weight_decay"):
            expect(key in group, f"group {i} has no {key!r}; it has {', '.join(map(repr, group))}")
        for p in list(group["params"]):
            expect(
                id(p) in names,
                f"group {i} holds a {type(p).__name__} that is no parameter of the model; "
                "expected the Parameter objects themselves",
            )
            found[names[id(p)]].append(float(group["weight_decay"]))
    return found


def assert_decays(found: dict[str, list[float]], **expected: float) -> None:
    """The first listed parameter (its name with `_` for `.`) in a wrong group fails."""
    by_name = {name.replace(".", "_"): (name, values) for name, values in found.items()}
    for key, value in expected.items():
        name, values = by_name[key]
        expect(
            values != [],
            f"{name} is in no group; every trainable parameter belongs to one",
        )
        expect(
            all(abs(each - value) < 1e-9 for each in values),
            f"{name} has weight_decay {values[0]:g}; expected {value:g}",
            expected=value,
            got=values,
        )


def schedule_by_hand(peak: float, floor: float, warmup: int, total: int, last: int) -> list[float]:
    """The rates of steps 0 to last, the cosine by its half angle."""
    rates = []
    for step in range(last + 1):
        if step >= total:
            rates.append(floor)
        elif step < warmup:
            rates.append(peak / warmup * step)
        else:
            angle = math.pi / 2 * (step - warmup) / (total - warmup)
            rates.append(floor + (peak - floor) * math.cos(angle) ** 2)
    return rates


def shifted(rates: list[float], by: int) -> list[float]:
    """The rates, each `by` steps later (or earlier); the ends repeat."""
    last = len(rates) - 1
    return [rates[min(max(step - by, 0), last)] for step in range(len(rates))]


def averaged(seen: Sequence[Tensor], decay: float) -> Tensor:
    """The corrected average: each value weighs decay^(its age), and the weights sum to 1."""
    weights = [decay**age for age in reversed(range(len(seen)))]
    total = sum(weights)
    return sum(weight / total * value for weight, value in zip(weights, seen, strict=True))


def small_model() -> nn.Module:
    """A Linear, a BatchNorm and a frozen Linear."""
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    model[2].requires_grad_(False)
    return model


def disturb(model: nn.Module) -> None:
    """Write new values into parameters (frozen ones too) and float buffers, in place."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.randn_like(tensor))
            else:
                tensor.add_(1)


def trainable(model: nn.Module) -> Tensor:
    """One vector of all trainable parameters."""
    return flat([p for p in model.parameters() if p.requires_grad])


@pytest.mark.task("warmup_cosine")
class TestWarmupCosine:
    @pytest.mark.points(2, "structure")
    def test_every_parameter_once(self, submission):
        """Every trainable parameter is in exactly one group."""
        model = Blocks()
        groups = list(submission.param_groups(model, wd=0.25))
        groups = [group | {"params": list(group.get("params", ()))} for group in groups]
        for name, values in decays(groups, model).items():
            expect(
                len(values) == 1,
                f"{name} is in {len(values)} groups; expected every parameter once",
                expected=1,
                got=len(values),
            )
        torch.optim.AdamW(groups, lr=0.1)  # an optimizer takes them as they are

    @pytest.mark.points(2, "value")
    def test_decay_by_dimensions(self, submission):
        """Parameters with fewer than two dimensions don't decay, all others do."""
        model = Blocks()
        found = decays(submission.param_groups(model, 0.25), model)
        assert_decays(
            found,
            body_0_weight=0.25,
            body_2_weight=0.25,
            conv_weight=0.25,
            body_0_bias=0.0,
            conv_bias=0.0,
            norm_weight=0.0,
            norm_bias=0.0,
            body_1_weight=0.0,
            body_1_bias=0.0,
            gain=0.0,
            distance_bias=0.25,
        )

    @pytest.mark.points(2, "value")
    def test_embeddings(self, submission):
        """The weight of an embedding doesn't decay."""
        model = Blocks()
        assert_decays(decays(submission.param_groups(model, 0.25), model), table_weight=0.0)
        nested = nn.Sequential(nn.Sequential(nn.Embedding(7, 3), nn.Linear(3, 2)))
        found = decays(submission.param_groups(nested, 0.5), nested)
        assert_decays(found, **{"0_0_weight": 0.0, "0_1_weight": 0.5, "0_1_bias": 0.0})
        alone = nn.Embedding(7, 3)
        assert_decays(decays(submission.param_groups(alone, 0.5), alone), weight=0.0)

    @pytest.mark.points(2, "structure")
    @pytest.mark.parametrize("table_first", [True, False], ids=["table-first", "linear-first"])
    def test_tied(self, submission, table_first):
        """A weight tied to a table is there once, without decay."""
        model = Tied(table_first)
        name = "table.weight" if table_first else "head.weight"
        found = decays(submission.param_groups(model, 0.25), model)[name]
        expect(
            len(found) == 1,
            f"the weight that nn.Embedding and nn.Linear share is in the groups {len(found)} "
            "times; expected once: it is one parameter with two names",
            expected=1,
            got=len(found),
        )
        expect(
            found == [0.0],
            f"the weight that nn.Embedding and nn.Linear share has weight_decay {found[0]:g}; "
            "expected 0, whichever of the two comes first",
        )

    @pytest.mark.points(1, "structure")
    def test_frozen(self, submission):
        """Frozen parameters are left out."""
        model = Blocks()
        frozen = ("table.weight", "body.0.weight", "norm.bias")
        for own_name, p in model.named_parameters():
            p.requires_grad_(own_name not in frozen)
        found = decays(submission.param_groups(model, 0.25), model)
        for name, values in found.items():
            if name in frozen:
                expect(values == [], f"{name} is frozen, and in a group; leave it out")
            else:
                expect(len(values) == 1, f"{name} is in {len(values)} groups; expected one")

    @pytest.mark.points(3, "value")
    def test_schedule(self, submission):
        """The learning rates of 25 steps are those of the formula."""
        options = {"peak": 0.5, "floor": 0.1, "warmup": 7, "total": 23}
        found = [submission.lr_at(step, **options) for step in range(25)]
        expected = schedule_by_hand(0.5, 0.1, 7, 23, 24)
        picture(
            "curve",
            "The learning rate of 25 steps",
            "Up in 7 steps, then half a cosine down to the floor at step 23.",
            series=[
                {"label": "yours", "x": list(range(25)), "y": [float(rate) for rate in found]},
                {"label": "expected", "x": list(range(25)), "y": expected},
            ],
            x_label="step",
            y_label="learning rate",
            log_y=False,
        )
        short = [
            0.1 + 0.2 * (1 + math.cos(math.pi * step / 23)) if 7 <= step < 23 else rate
            for step, rate in enumerate(expected)
        ]
        late = [
            0.1 + 0.2 * (1 + math.cos(math.pi * (step - 7) / 23)) if 7 <= step < 23 else rate
            for step, rate in enumerate(expected)
        ]
        ahead = [0.5 * (step + 1) / 7 if step < 7 else rate for step, rate in enumerate(expected)]
        behind = [
            0.5 * max(step - 1, 0) / 7 if step < 7 else rate for step, rate in enumerate(expected)
        ]
        bare = [0.25 * (2 * rate - 0.2) / 0.4 for rate in expected]
        bare = [rate if 7 <= step < 23 else expected[step] for step, rate in enumerate(bare)]
        assert_close(
            torch.tensor([float(rate) for rate in found], dtype=torch.float64),
            torch.tensor(expected, dtype=torch.float64),
            axes=("step",),
            what="the learning rates of steps 0 to 24",
            explain={
                said: torch.tensor(rates, dtype=torch.float64)
                for said, rates in {
                    "the cosine runs over `total` steps, counted from 0; expected the steps "
                    "between warm-up and total": short,
                    "the cosine is stretched over `total` steps; it has total - warmup": late,
                    "the warm-up is one step ahead: at step 0 it is 0": ahead,
                    "the warm-up is one step late: it is 0 at step 1 too": behind,
                    "the whole schedule is one step late": shifted(expected, 1),
                    "the whole schedule is one step early": shifted(expected, -1),
                    "the cosine goes down to 0 instead of floor": bare,
                }.items()
            },
        )

    @pytest.mark.points(1, "value")
    def test_no_warmup(self, submission):
        """The warm-up may be empty, or fill all steps."""
        for warmup, total in ((0, 5), (5, 5)):
            found = [
                float(submission.lr_at(step, peak=0.5, floor=0.1, warmup=warmup, total=total))
                for step in range(8)
            ]
            assert_close(
                torch.tensor(found, dtype=torch.float64),
                torch.tensor(schedule_by_hand(0.5, 0.1, warmup, total, 7), dtype=torch.float64),
                axes=("step",),
                what=f"the learning rates with warmup={warmup}, total={total}",
            )

    @pytest.mark.points(2, "value")
    def test_after_the_end(self, submission):
        """From total on the rate is the floor."""
        for step in (23, 24, 40, 1000):
            rate = float(submission.lr_at(step, peak=0.5, floor=0.1, warmup=7, total=23))
            expect(
                abs(rate - 0.1) < 1e-9,
                f"the rate of step {step} is {rate:.6g}; expected floor, 0.1, from step 23 on"
                + (": the cosine goes up again" if rate > 0.1 else ""),
                expected=0.1,
                got=rate,
            )

    @pytest.mark.points(1, "value")
    def test_joints(self, submission):
        """The rate has no jump where one phase follows another."""
        options = {"peak": 0.5, "floor": 0.1, "warmup": 1009, "total": 3001}
        for joint, value in ((1009, 0.5), (3001, 0.1)):
            around = [float(submission.lr_at(joint + i, **options)) for i in (-1, 0, 1)]
            expect(
                all(abs(rate - value) < 1e-3 for rate in around),
                f"around step {joint} the rates are {around[0]:.4g}, {around[1]:.4g} and "
                f"{around[2]:.4g}; expected all of them near {value:g}",
                got=around,
            )

    @pytest.mark.points(3, "value")
    def test_average(self, submission):
        """The average weighs each update by its age, corrected for the start."""
        for decay in (0.75, 0.9):
            model = small_model()
            ema = submission.EMA(model, decay)
            seen = []
            initial = trainable(model)
            for _ in range(5):
                disturb(model)
                seen.append(trainable(model))
                ema.update(model)
            other = small_model()
            ema.copy_to(other)
            plain = averaged(seen, decay)
            kept = 1 - decay**5
            assert_close(
                trainable(other),
                plain,
                rtol=1e-4,
                atol=1e-5,
                what=f"the average of 5 updates with decay {decay}",
                explain={
                    "the average was not divided by 1 - d^t, so it is too near to its start at "
                    "0": plain * kept,
                    "the average started at the model's weights; it starts at 0": plain * kept
                    + decay**5 * initial,
                    "decay and 1 - decay were swapped: the average forgets all but the last "
                    "update": averaged(seen, 1 - decay),
                    "the last weights were copied, not the average: the average shares memory with "
                    "the model, or is not kept": seen[-1],
                },
            )

    @pytest.mark.points(1, "value")
    def test_buffers(self, submission):
        """copy_to writes the buffers as the last update saw them."""
        model = small_model()
        ema = submission.EMA(model, decay=0.9)
        for _ in range(3):
            disturb(model)
            ema.update(model)
        seen = {name: buffer.clone() for name, buffer in model.named_buffers()}
        disturb(model)
        ema.copy_to(model)
        for own_name, buffer in model.named_buffers():
            expect(
                torch.equal(buffer, seen[own_name]),
                f"the buffer {own_name} is not as the last update saw it: it must be copied at the "
                "update (a clone: training writes into it later) and written by copy_to",
                expected=seen[own_name],
                got=buffer,
            )

    @pytest.mark.points(1, "structure")
    def test_own_memory(self, submission):
        """The average has tensors of its own."""
        model = small_model()
        before = flat([*model.parameters()])
        ema = submission.EMA(model, 0.9)
        ema.update(model)
        expect(
            torch.equal(flat([*model.parameters()]), before),
            "the model's parameters changed in EMA(...) or update; it only reads them",
        )
        seen = trainable(model)
        disturb(model)
        other = small_model()
        ema.copy_to(other)
        assert_close(
            trainable(other),
            seen,
            rtol=1e-4,
            atol=1e-5,
            what="the average of one update",
            explain={
                "the average changed with the model after the update: it shares memory with it, "
                "as `state_dict()` does; keep tensors of your own": trainable(model),
            },
        )
        for name, value in getattr(ema, "__dict__", {}).items():
            inner = value.values() if isinstance(value, dict) else value
            tensors = inner if isinstance(value, dict | list | tuple) else [value]
            for tensor in tensors:
                expect(
                    not (isinstance(tensor, Tensor) and tensor.grad_fn is not None),
                    f"`{name}` of the EMA has a graph: it would keep every step's; compute under "
                    "torch.no_grad()",
                )

    @pytest.mark.points(2, "structure")
    def test_copied_in_place(self, submission):
        """copy_to writes into the same Parameter objects; frozen ones stay."""
        model = small_model()
        opt = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        ema = submission.EMA(model, 0.9)
        ema.update(model)
        disturb(model)
        frozen = flat([model[2].weight, model[2].bias])
        objects = list(model.parameters())
        places = [p.data_ptr() for p in objects]
        ema.copy_to(model)
        expect(
            all(a is b for a, b in zip(objects, model.parameters(), strict=True)),
            "a Parameter was replaced by another object; the optimizer still holds the old one, so "
            "training would change nothing",
        )
        expect(
            places == [p.data_ptr() for p in model.parameters()],
            "a parameter lies in other memory than before; write into it with copy_",
        )
        expect(
            all(p.is_leaf for p in model.parameters())
            and all(p.requires_grad for p in opt.param_groups[0]["params"]),
            "a parameter is no leaf that requires grad any more; copy under torch.no_grad()",
        )
        expect(
            torch.equal(flat([model[2].weight, model[2].bias]), frozen),
            "a frozen parameter changed; the average is of trainable ones only",
        )

    @pytest.mark.points(2, "training")
    @pytest.mark.after(
        "test_every_parameter_once", "test_schedule", "test_average", "test_copied_in_place"
    )
    def test_training(self, submission):
        """A small regression gets below 0.01 in 300 steps with all three."""

        def make(seed: int) -> Callable[[], float]:
            x = torch.linspace(-2, 2, 64)[:, None]
            y = torch.sin(2 * x) + 0.3 * x
            model, mean = (
                nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1)) for _ in range(2)
            )
            opt = torch.optim.AdamW(submission.param_groups(model, 0.01), lr=0.0)
            ema = submission.EMA(model, 0.9)
            steps = iter(range(300))
            loss_now = [math.inf]

            def step() -> float:
                count = next(steps)
                for group in opt.param_groups:
                    group["lr"] = submission.lr_at(
                        count, peak=0.05, floor=0.001, warmup=20, total=300
                    )
                opt.zero_grad()
                F.mse_loss(model(x), y).backward()
                opt.step()
                ema.update(model)
                if count % 10 == 9:
                    ema.copy_to(mean)
                    with torch.no_grad():
                        loss_now[0] = F.mse_loss(mean(x), y).item()
                return min(loss_now[0], 1e9)

            return step

        train_until(make, 0.01, 300, what="the loss of the averaged weights")
