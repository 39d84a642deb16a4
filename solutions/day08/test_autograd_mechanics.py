"""Day 8 asks for gradients without a trace, custom functions, and an autograd of one's own."""

import math
import random
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from grader.testing import (
    assert_close,
    assert_dtype,
    assert_equal,
    assert_finite,
    assert_gradients,
    assert_no_tensor_of,
    assert_shape,
    assert_tensor,
    assert_unchanged,
    expect,
    fail,
    forbid,
    forbid_torch,
    picture,
    smallest,
)

# --- 1 ------------------------------------------------------------------------------------------

CLOSED_FORMS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "lambda y: (y**3).sum()": (lambda y: (y**3).sum(), lambda x: 3 * x * x),
    "lambda y: y.sin().sum()": (lambda y: y.sin().sum(), lambda x: x.cos()),
    "lambda y: y.flatten().logsumexp(0)": (
        lambda y: y.flatten().logsumexp(0),
        lambda x: x.exp() / x.exp().sum(),
    ),
}
"""A function as the learner could type it -> the function, its gradient in closed form."""


def cube(y: Tensor) -> Tensor:
    """Sum of the cubes; its gradient is 3 x²."""
    return (y**3).sum()


@pytest.mark.task("grad_of")
class TestGradOf:
    @pytest.mark.points(2, "gradient")
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
    def test_closed_forms(self, submission, dtype):
        """The gradients of x³, sin and logsumexp have the values of their closed forms."""

        def run(case):
            text, shape = case
            f, closed_form = CLOSED_FORMS[text]
            for x in (torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)):
                gradient = submission.grad_of(f=f, x=x.clone())
                assert_tensor(gradient, "the gradient")
                assert_close(gradient, closed_form(x), what=f"the gradient of {text}")

        smallest(run, [(text, shape) for text in CLOSED_FORMS for shape in ((), (2,), (3, 5))])

    @pytest.mark.points(1, "structure")
    def test_x_is_left_alone(self, submission):
        """A tensor that doesn't require grad comes back the same: values, flag and version."""
        x = torch.randn(2, 3)
        assert_unchanged(submission.grad_of, cube, x)
        expect(
            not x.requires_grad,
            "x requires grad after the call, and did not before: requires_grad_() was called on "
            "the caller's tensor; differentiate a leaf of your own",
        )
        expect(
            x.grad is None, "x.grad is filled after the call: the backward ran into the caller's x"
        )

    @pytest.mark.points(1, "structure")
    def test_grad_stays_none(self, submission):
        """A leaf that requires grad has no .grad afterwards, and still requires grad."""
        x = torch.randn(2, 3, requires_grad=True)
        submission.grad_of(cube, x)
        expect(
            x.grad is None,
            "x.grad was None before the call and is a tensor afterwards: backward() writes into "
            "the leaves that it meets",
        )
        expect(x.requires_grad, "x required grad before the call and doesn't afterwards")

    @pytest.mark.points(1, "structure")
    def test_existing_grad_is_kept(self, submission):
        """A gradient that x already carries stays what it was."""
        x = torch.randn(3, requires_grad=True)
        x.grad = torch.tensor([5.0, 7.0, 11.0])
        carried = x.grad
        gradient = submission.grad_of(cube, x)
        expect(x.grad is not None, "x.grad was cleared by the call; it is the caller's")
        before = torch.tensor([5.0, 7.0, 11.0])
        assert_close(
            x.grad,
            before,
            what="x.grad after the call",
            explain={
                "the new gradient was added to the one that x carried: backward() accumulates": (
                    before + 3 * x.detach() ** 2
                ),
                "the new gradient took the place of the one that x carried": 3 * x.detach() ** 2,
            },
        )
        expect(x.grad is carried, "x.grad is another tensor after the call; leave it where it is")
        assert_close(gradient, 3 * x.detach() ** 2, what="the gradient")

    @pytest.mark.points(1, "gradient")
    @pytest.mark.hint("A non-leaf has a history. Cut your own copy off from it first.")
    def test_non_leaf(self, submission):
        """It works at a tensor that is itself a result, and nothing reaches the leaf behind it."""
        leaf = torch.randn(3, requires_grad=True)
        x = leaf * 2
        gradient = submission.grad_of(cube, x)
        assert_close(gradient, 12 * leaf.detach() ** 2, what="the gradient at x = 2 * leaf")
        expect(leaf.grad is None, "the gradient went on through x to the leaf that x was made of")
        expect(x.requires_grad and not x.is_leaf, "x was cut off from its history")

    @pytest.mark.points(1, "gradient")
    @pytest.mark.hint("no_grad is a mode, not a property of x. What turns recording on inside it?")
    def test_inside_no_grad(self, submission):
        """A caller inside torch.no_grad() gets the gradient, and is still inside afterwards."""
        x = torch.randn(3)
        with torch.no_grad():
            gradient = submission.grad_of(cube, x.clone())
            still_inside = not torch.is_grad_enabled()
        assert_close(gradient, 3 * x**2, what="the gradient")
        expect(
            still_inside,
            "recording is on after the call, in the middle of the caller's no_grad block; "
            "use enable_grad as a context manager, which restores the mode",
        )

    @pytest.mark.points(1, "gradient")
    def test_twice(self, submission):
        """Called twice at the same tensor, it gives the same twice."""
        x = torch.randn(3, requires_grad=True)
        first = submission.grad_of(cube, x).clone()
        second = submission.grad_of(cube, x)
        assert_close(
            second,
            3 * x.detach() ** 2,
            what="the second gradient",
            explain={
                "the second call returned the sum of both gradients: .grad accumulates": 6
                * x.detach() ** 2
            },
        )
        assert_close(first, 3 * x.detach() ** 2, what="the first gradient")

    @pytest.mark.points(1, "structure")
    def test_f_writes_into_its_argument(self, submission):
        """x survives an f that writes into its argument under no_grad."""

        def f(y):
            loss = (3 * y).sum()
            with torch.no_grad():
                y.zero_()
            return loss

        for requires_grad in (False, True):
            x = torch.tensor([2.0, 3.0, 5.0], requires_grad=requires_grad)
            gradient = submission.grad_of(f, x)
            expect(
                x.tolist() == [2.0, 3.0, 5.0],
                f"f set its argument to 0 and x became {x.tolist()}: f was handed x's own memory; "
                "detach() shares it, clone() doesn't",
            )
            assert_close(gradient, torch.full((3,), 3.0), what="the gradient of 3 * y")

    @pytest.mark.points(1, "structure")
    def test_other_gradients_are_left_alone(self, submission):
        """A parameter that f uses gets no .grad."""
        weight = torch.nn.Parameter(torch.tensor([2.0, 3.0, 5.0]))
        x = torch.randn(3)
        gradient = submission.grad_of(lambda y: (weight * y).sum(), x)
        expect(
            weight.grad is None,
            "a parameter that f uses has a .grad after the call: backward() fills every leaf that "
            "it meets; ask for the gradient of one tensor",
        )
        assert_close(gradient, weight.detach(), what="the gradient of (weight * y).sum()")


# --- 2 ------------------------------------------------------------------------------------------

SNIPPETS = (
    (
        "x = torch.ones(3, requires_grad=True)\nt = (x + x).sum()\nt.backward()\nt.backward()",
        "a second backward fails only where the first one freed something saved; a sum saves "
        "nothing. And t is the result of an operation",
    ),
    (
        "x = torch.ones(3, requires_grad=True)\nt = torch.nn.Parameter(x * 1)\nt.sum().backward()",
        "a Parameter takes the values and drops their history",
    ),
    (
        "x = torch.ones(3, requires_grad=True)\nt = x.double()\nt.sum().backward()",
        "a conversion to another dtype (or device) is recorded like any operation",
    ),
    (
        "x = torch.ones(3, requires_grad=True)\n"
        "t = (x * 2).detach().requires_grad_()\n"
        "(x * t).sum().backward()",
        "detach cuts the history, and requires_grad_ starts a new one here",
    ),
    (
        "x = torch.ones(3, requires_grad=True)\n"
        "t = x * 2\n"
        "t.retain_grad()\n"
        "(t * t).sum().backward()",
        "retain_grad keeps the gradient of a tensor that is no leaf, and doesn't make it one",
    ),
    (
        "t = torch.tensor([1, 2, 3], requires_grad=True)",
        "only floating point and complex tensors can require grad",
    ),
    (
        "x = torch.ones(3, requires_grad=True)\n"
        "with torch.no_grad():\n"
        "    t = x * 2\n"
        "(x * t).sum().backward()",
        "what isn't recorded has nothing behind it, and is a constant for the rest",
    ),
    (
        "x = torch.ones(2, 3, requires_grad=True)\nt = x[0]\nx.sum().backward()",
        "a view of a leaf is the result of an operation, and this backward doesn't pass it",
    ),
    (
        "t = torch.ones(3, requires_grad=True)\nt.add_(1)\nt.sum().backward()",
        "a leaf that requires grad can't be written in place while autograd records",
    ),
    (
        "x = torch.ones(3, requires_grad=True)\nt = torch.zeros(3)\nt.add_(x)\nt.sum().backward()",
        "a plain tensor that x is written into becomes the result of that operation",
    ),
)
"""(snippet, why it ends as it does)"""

KEYS = ("is_leaf", "requires_grad", "grad_is_none", "raises")


def states() -> list[dict[str, bool]]:
    """The state of `t` at the end of each snippet, found by running it."""
    found = []
    for snippet, _ in SNIPPETS:
        names = {"torch": torch}
        try:
            exec(snippet, names)
        except RuntimeError:
            found.append({"raises": True})
            continue
        t = names["t"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of .grad at a tensor that is no leaf
            grad_is_none = t.grad is None
        row = (t.is_leaf, t.requires_grad, grad_is_none, False)
        found.append(dict(zip(KEYS, row, strict=True)))
    return found


def compare(predictions: list[dict], key: str) -> None:
    """Fail with the first snippet where the prediction of `key` is wrong, and why it is."""
    truth = states()
    wrong = [
        number
        for number, (predicted, state) in enumerate(zip(predictions, truth, strict=True), start=1)
        if key in state and bool(predicted[key]) != state[key]
    ]
    if not wrong:
        return
    first = wrong[0]
    snippet, why = SNIPPETS[first - 1]
    others = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    fail(
        f"snippet {first}{others}: {key} is not {bool(predictions[first - 1][key])}; {why}",
        details=tuple(snippet.splitlines()),
        minimal=snippet,
        got={"snippet": first, key: bool(predictions[first - 1][key])},
    )


@pytest.mark.task("leaf_quiz")
class TestLeafQuiz:
    @pytest.mark.points(1, "shape")
    def test_ten_dicts(self, submission):
        """There are ten dicts, each with the four keys."""
        predictions = submission.leaf_quiz()
        expect(
            isinstance(predictions, list) and len(predictions) == len(SNIPPETS),
            f"expected a list of {len(SNIPPETS)} dicts, one for each snippet in their order",
        )
        for number, predicted in enumerate(predictions, start=1):
            expect(isinstance(predicted, dict), f"prediction {number} is not a dict")
            missing = [key for key in KEYS if key not in predicted]
            expect(not missing, f"prediction {number} lacks {', '.join(missing)}")
            for key in KEYS if not predicted["raises"] else ("raises",):
                expect(
                    predicted[key] in (True, False),
                    f"prediction {number}: {key} is {predicted[key]!r}; expected a bool",
                )

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_ten_dicts")
    def test_nothing_is_run(self, submission):
        """The predictions are written down: leaf_quiz calls nothing of torch."""
        with forbid_torch(why="predict the ten states; whether you were right, try elsewhere"):
            submission.leaf_quiz()

    @pytest.mark.points(2, "theory")
    @pytest.mark.after("test_ten_dicts")
    def test_raises(self, submission):
        """It is known which snippets raise."""
        compare(submission.leaf_quiz(), "raises")

    @pytest.mark.points(2, "theory")
    @pytest.mark.after("test_raises")
    def test_is_leaf(self, submission):
        """It is known which tensors are leaves."""
        compare(submission.leaf_quiz(), "is_leaf")

    @pytest.mark.points(2, "theory")
    @pytest.mark.after("test_raises")
    def test_requires_grad(self, submission):
        """It is known which tensors require grad."""
        compare(submission.leaf_quiz(), "requires_grad")

    @pytest.mark.points(2, "theory")
    @pytest.mark.after("test_raises")
    def test_grad_is_none(self, submission):
        """It is known which tensors keep a gradient."""
        compare(submission.leaf_quiz(), "grad_is_none")


# --- 3 ------------------------------------------------------------------------------------------


def near_levels(
    *shape: int, bits: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Inputs from -1 to 2 and the number of the level each is nearest to, which may lie outside.

    An input is 0.1 to 0.4 of a step away from its level: no tie, and neither 0 nor 1 itself.
    """
    steps = 2**bits - 1
    level = torch.randint(-steps, 2 * steps + 1, shape)
    level.flatten()[:5] = torch.tensor([0, steps, 0, steps, -steps])[: level.numel()]
    away = (0.1 + 0.3 * torch.rand(shape, dtype=torch.float64)) * (torch.randint(2, shape) * 2 - 1)
    away.flatten()[:4] = torch.tensor([-0.2, 0.2, 0.2, -0.2], dtype=torch.float64)
    return ((level + away) / steps).to(dtype), level


def draw_graph(result: Tensor, upstream: Tensor, title: str, caption: str) -> None:
    """Attach the graph behind `result`: what each node saves, and the gradients on the edges."""
    names = {result.grad_fn: "n0"}
    edges: dict[tuple[str, int], dict[str, str]] = {}  # (node, which of its inputs) -> edge
    nodes, handles, queue = [], [], [result.grad_fn]
    while queue:
        node = queue.pop(0)
        name = names[node]
        saved = [getattr(node, key) for key in dir(node) if key.startswith("_saved_")]
        saved += getattr(node, "saved_tensors", ())
        size = sum(t.numel() * t.element_size() for t in saved if isinstance(t, Tensor))
        label = "x" if node.name().endswith("AccumulateGrad") else node.name()
        nodes.append({"id": name, "label": label, "note": f"saves {size} bytes" if size else ""})
        for position, (parent, _) in enumerate(node.next_functions):
            if parent is None or (parent not in names and len(names) >= 24):
                continue
            if parent not in names:
                names[parent] = f"n{len(names)}"
                queue.append(parent)
            edges[name, position] = {"from": name, "to": names[parent], "label": ""}

        def write_down(gradients: tuple[Tensor | None, ...], _: object, name: str = name) -> None:
            for position, gradient in enumerate(gradients):
                if gradient is not None and (name, position) in edges:
                    values = gradient.flatten().tolist()[:4]
                    edges[name, position]["label"] = ", ".join(f"{v:.3g}" for v in values)

        handles.append(node.register_hook(write_down))
    torch.autograd.backward(result, upstream, retain_graph=True)
    for handle in handles:
        handle.remove()
    picture("graph", title, caption, nodes=nodes, edges=list(edges.values()))


@pytest.mark.task("ste_round")
class TestSteRound:
    @pytest.mark.points(3, "value")
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
    def test_levels(self, submission, dtype):
        """Every value goes to the nearest of the 2^bits levels from 0 to 1."""

        def run(case):
            bits, shape = case["bits"], case["shape"]
            steps = 2**bits - 1
            for _ in range(2):
                x, level = near_levels(*shape, bits=bits, dtype=dtype)
                rounded = submission.ste_round(x=x.clone(), bits=bits)
                clamped = x.clamp(0, 1)
                assert_close(
                    rounded,
                    (level.clamp(0, steps).double() / steps).to(dtype),
                    what=f"x rounded to {bits} bits",
                    explain={
                        "the values are rounded down; round to the nearest level": (
                            (clamped * steps).floor() / steps
                        ),
                        f"there are {2**bits} levels from 0 to 1, so {steps} steps between them, "
                        f"not {2**bits}": (clamped * 2**bits).round() / 2**bits,
                        "x is not clamped to [0, 1]": (level.double() / steps).to(dtype),
                        "x is clamped, and not rounded": clamped,
                    },
                )

        cases = [(1, (5,)), (2, (7,)), (2, (3, 5)), (5, (2, 11)), (8, (23,))]
        smallest(run, [{"bits": bits, "shape": shape} for bits, shape in cases])

    @pytest.mark.points(4, "gradient")
    @pytest.mark.after("test_levels")
    def test_gradient(self, submission):
        """A random upstream gradient comes back as it is inside (0, 1), and as 0 outside."""
        small = torch.tensor([-0.2, 0.3, 2.0], dtype=torch.float64, requires_grad=True)
        drawn = submission.ste_round(small, 2)
        expect(
            drawn.requires_grad,
            "the result doesn't require grad: it was detached from x as a whole",
        )
        draw_graph(
            drawn,
            torch.tensor([5.0, 7.0, 9.0], dtype=torch.float64),
            "The graph of ste_round([-0.2, 0.3, 2.0], 2)",
            "The upstream gradient [5, 7, 9] enters at the top; at x it should be [0, 7, 0].",
        )

        def run(case):
            bits, shape = case["bits"], case["shape"]
            x, _ = near_levels(*shape, bits=bits)
            x.requires_grad_()
            upstream = torch.randn(shape, dtype=torch.float64)
            rounded = submission.ste_round(x, bits)
            (gradient,) = torch.autograd.grad(rounded, x, upstream.clone(), allow_unused=True)
            expect(gradient is not None, "no gradient reaches x: it was detached as a whole")
            steps = 2**bits - 1
            inside = ((x > 0) & (x < 1)).double()
            nearest = (x * steps).round()
            rounded_inside = ((nearest >= 0) & (nearest <= steps)).double()
            assert_close(
                gradient,
                upstream * inside,
                what="the gradient",
                explain={
                    "the gradient is 0 everywhere: rounding is flat, and it was differentiated": (
                        torch.zeros_like(upstream)
                    ),
                    "the gradient passes outside of [0, 1] too, where the result doesn't move with "
                    "x": upstream,
                    "the gradient is 1 inside, whatever comes from upstream; multiply": inside,
                    "the gradient is multiplied by the number of steps": steps * upstream * inside,
                    "the gradient is twice as large inside: x is differentiated in two places": (
                        2 * upstream * inside
                    ),
                    "the gradient's window is that of the rounded value; ask x itself": (
                        upstream * rounded_inside
                    ),
                },
            )

        smallest(run, [{"bits": 2, "shape": (5,)}, {"bits": 5, "shape": (3, 7)}])

    @pytest.mark.points(2, "gradient")
    def test_outside(self, submission):
        """2.0 becomes 1.0 and -2.0 becomes 0.0, both with gradient 0."""
        x = torch.tensor([2.0, -2.0], requires_grad=True)
        rounded = submission.ste_round(x, 3)
        (gradient,) = torch.autograd.grad(
            rounded, x, torch.tensor([3.0, 5.0]), materialize_grads=True
        )
        assert_close(rounded, torch.tensor([1.0, 0.0]), what="[2.0, -2.0] rounded to 3 bits")
        assert_close(
            gradient,
            torch.zeros(2),
            what="the gradient outside of [0, 1]",
            explain={
                "the gradient passes outside of [0, 1]; clamp x first": torch.tensor([3.0, 5.0])
            },
        )

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_levels")
    def test_no_function(self, submission):
        """It does without an autograd.Function."""
        x, _ = near_levels(7, bits=2)
        with forbid("autograd.Function", why="detach is all that it takes"):
            submission.ste_round(x.requires_grad_(), 2)

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_levels")
    def test_no_data(self, submission):
        """The value is not smuggled in through .data."""
        x, _ = near_levels(7, bits=2)
        why = "a write through it is invisible to autograd, and a wrong gradient goes unnoticed"
        with forbid("Tensor.data", why=why):
            submission.ste_round(x.requires_grad_(), 2)

    @pytest.mark.points(1, "structure")
    def test_x_is_left_alone(self, submission):
        """x is unchanged."""
        assert_unchanged(submission.ste_round, near_levels(7, bits=2)[0], 2)

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_levels")
    def test_float16(self, submission):
        """It works in float16, value and gradient."""
        x, level = near_levels(3, 5, bits=3, dtype=torch.float16)
        x.requires_grad_()
        upstream = torch.randn(3, 5).half()
        rounded = submission.ste_round(x, 3)
        assert_dtype(rounded, torch.float16)
        (gradient,) = torch.autograd.grad(rounded, x, upstream.clone(), materialize_grads=True)
        assert_close(rounded, (level.clamp(0, 7) / 7).half(), what="x rounded to 3 bits")
        assert_close(gradient, upstream * ((x > 0) & (x < 1)), what="the gradient")

    @pytest.mark.points(1, "gradient")
    @pytest.mark.after("test_gradient")
    def test_second_derivative(self, submission):
        """The gradient doesn't depend on x any more."""
        x, _ = near_levels(7, bits=2)
        x.requires_grad_()
        upstream = torch.randn(7, dtype=torch.float64)
        rounded = submission.ste_round(x, 2)
        (first,) = torch.autograd.grad(rounded, x, upstream, create_graph=True)
        if not first.requires_grad:
            return
        (second,) = torch.autograd.grad(first.sum(), x, materialize_grads=True)
        assert_close(second, torch.zeros_like(second), what="the second derivative")


# --- 4 ------------------------------------------------------------------------------------------


def kept_by(fn: Callable[..., Tensor], *args: object) -> tuple[Tensor, list[Tensor]]:
    """The result of `fn`, and the tensors that were packed for its backward."""
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = fn(*args)
    return result, kept


def same_storage(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors share their memory."""
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def expect_kept(name: str, kept: list[Tensor], allowed: dict[str, Tensor]) -> None:
    """Fail unless x is packed, and nothing besides the `allowed`."""
    expect(
        kept,
        f"{name} packs nothing for its backward: a tensor kept as an attribute of ctx is invisible "
        "to autograd, which then can't tell that it was changed; use ctx.save_for_backward",
    )
    strange = [t for t in kept if not any(same_storage(t, good) for good in allowed.values())]
    if strange:
        size = sum(t.numel() * t.element_size() for t in strange)
        fail(
            f"{name} keeps {size} bytes besides {' and '.join(allowed)}: a tensor of shape "
            f"{tuple(strange[0].shape)}; compute it again in backward",
            expected=list(allowed),
            got=[list(t.shape) for t in kept],
        )
    expect(
        any(same_storage(t, allowed["x"]) for t in kept),
        f"{name} doesn't keep x by ctx.save_for_backward",
    )


def expect_raises_after_change(name: str, apply: Callable[[Tensor], Tensor]) -> None:
    """Fail unless an in-place change of x before the backward raises, as torch's own do."""
    x = torch.randn(3, 5, requires_grad=True) * 1
    result = apply(x)
    with torch.no_grad():
        x.mul_(2)
    try:
        result.backward(torch.randn_like(result))
    except RuntimeError:
        return
    fail(
        f"x was changed in place between forward and backward, and {name} gave a gradient of the "
        "changed x without an error: only ctx.save_for_backward looks at the version of a tensor"
    )


@pytest.mark.task("MyFunctions")
class TestMyFunctions:
    @pytest.mark.points(1, "value")
    def test_swish_value(self, submission):
        """Swish is x * sigmoid(x)."""
        for shape in ((2,), (3, 5), (3, 5)):
            x = torch.randn(shape, dtype=torch.float64)
            result = submission.Swish.apply(x.clone())
            assert_close(result, x / (1 + (-x).exp()), what="Swish.apply(x)")

    @pytest.mark.points(2, "gradient")
    @pytest.mark.after("test_swish_value")
    def test_swish_gradient(self, submission):
        """The gradient of Swish, with a random upstream gradient, is that of x * sigmoid(x)."""
        x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
        upstream = torch.randn(3, 5, dtype=torch.float64)
        result = submission.Swish.apply(x)
        (gradient,) = torch.autograd.grad(result, x, upstream.clone(), allow_unused=True)
        expect(gradient is not None, "backward of Swish gives None for x")
        s = 1 / (1 + (-x.detach()).exp())
        slope = s + x.detach() * s * (1 - s)
        draw_graph(
            submission.Swish.apply(x),
            upstream,
            "The graph of Swish.apply(x)",
            "One node, which saves x alone (15 numbers, 120 bytes); x * x.sigmoid() takes two "
            "nodes and saves twice as much.",
        )
        assert_close(
            gradient,
            upstream * slope,
            what="the gradient of Swish",
            explain={
                "backward gives the derivative alone; multiply it by g, which comes from "
                "upstream": slope,
                "this is sigmoid(x): the product rule has a second term, for the sigmoid": upstream
                * s,
                "this is the second term of the product rule alone": upstream
                * x.detach()
                * s
                * (1 - s),
            },
        )

    @pytest.mark.points(2, "gradient")
    @pytest.mark.after("test_swish_gradient")
    @pytest.mark.hint(
        "Every step of backward must be one that autograd can record: no .data, no detach."
    )
    def test_swish_second(self, submission):
        """Swish is differentiable twice."""
        x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
        assert_gradients(submission.Swish.apply, x, order=2)

    @pytest.mark.points(2, "memory")
    def test_swish_keeps_x_alone(self, submission):
        """Swish keeps x for its backward, and nothing else."""
        x = torch.randn(5, 7, requires_grad=True)
        _, kept = kept_by(submission.Swish.apply, x)
        expect_kept("Swish", kept, {"x": x})

    @pytest.mark.points(1, "gradient")
    @pytest.mark.after("test_swish_value")
    def test_swish_notices_a_change(self, submission):
        """Swish raises when x is changed in place before its backward."""
        expect_raises_after_change("Swish", lambda x: submission.Swish.apply(x))

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_swish_value")
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
    def test_swish_is_stable(self, submission, dtype):
        """Swish and its gradient are right at large magnitudes, in float16 too."""
        values = [-1000.0, -30.0, -1.0, 2.0, 30.0, 1000.0]
        x = torch.tensor(values, dtype=dtype, requires_grad=True)
        result = submission.Swish.apply(x)
        (gradient,) = torch.autograd.grad(result, x, torch.ones_like(result))
        assert_finite(value=result, gradient=gradient)
        s = [1 / (1 + math.exp(-min(max(v, -700.0), 700.0))) for v in values]
        value = [v * p for v, p in zip(values, s, strict=True)]
        slope = [p + v * p * (1 - p) for v, p in zip(values, s, strict=True)]
        assert_close(result, torch.tensor(value, dtype=dtype), what="Swish.apply(x)")
        assert_close(gradient, torch.tensor(slope, dtype=dtype), what="the gradient of Swish")

    @pytest.mark.points(1, "value")
    def test_lse_value(self, submission):
        """LogSumExp reduces the axis asked for, counted from either end."""

        def run(dim):
            for _ in range(2):
                x = torch.randn(2, 3, 5, dtype=torch.float64)
                result = submission.LogSumExp.apply(x.clone(), dim)
                sizes = dict(zip(("a", "b", "c"), x.shape, strict=True))
                del sizes["abc"[dim]]
                assert_shape(result, **sizes)
                assert_close(result, x.exp().sum(dim).log(), what=f"LogSumExp.apply(x, {dim})")

        smallest(run, [0, 1, 2, -1, -2, -3])

    @pytest.mark.points(2, "gradient")
    @pytest.mark.after("test_lse_value")
    @pytest.mark.hint("g lacks the axis dim that x has. Where does unsqueeze put it back?")
    def test_lse_gradient(self, submission):
        """The gradient of LogSumExp, with a random upstream gradient, is right for every axis."""

        def run(dim):
            x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
            result = submission.LogSumExp.apply(x, dim)
            upstream = torch.randn_like(result)
            (gradient,) = torch.autograd.grad(result, x, upstream.clone(), allow_unused=True)
            expect(gradient is not None, "backward of LogSumExp gives None for x")
            weights = x.detach().exp()
            weights = weights / weights.sum(dim, keepdim=True)
            assert_close(
                gradient,
                upstream.unsqueeze(dim) * weights,
                what=f"the gradient of LogSumExp over dim {dim}",
                explain={
                    "backward gives the softmax alone; multiply it by g, which comes from "
                    "upstream": weights,
                    "this is g * exp(x); divide by the sum over the slice": upstream.unsqueeze(dim)
                    * x.detach().exp(),
                },
            )

        smallest(run, [0, 1, 2, -1, -2])

    @pytest.mark.points(2, "gradient")
    @pytest.mark.after("test_lse_gradient")
    @pytest.mark.hint(
        "Every step of backward must be one that autograd can record: no .data, no detach."
    )
    def test_lse_second(self, submission):
        """LogSumExp is differentiable twice."""
        for dim in (0, -1):
            x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
            assert_gradients(lambda t, dim=dim: submission.LogSumExp.apply(t, dim), x, order=2)

    @pytest.mark.points(2, "memory")
    def test_lse_keeps_x_and_output(self, submission):
        """LogSumExp keeps x and its output for its backward, and no more."""
        x = torch.randn(5, 7, requires_grad=True)
        result, kept = kept_by(submission.LogSumExp.apply, x, 1)
        expect_kept("LogSumExp", kept, {"x": x, "its output": result})

    @pytest.mark.points(1, "gradient")
    @pytest.mark.after("test_lse_value")
    def test_lse_notices_a_change(self, submission):
        """LogSumExp raises when x is changed in place before its backward."""
        expect_raises_after_change("LogSumExp", lambda x: submission.LogSumExp.apply(x, 1))

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_lse_value")
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
    def test_lse_is_stable(self, submission, dtype):
        """LogSumExp is right and its gradient finite at large magnitudes, in float16 too."""
        values = [[1000.0, 1000.0, -1000.0], [-1000.0, -1000.0, -2000.0], [2.0, 2.0, -1000.0]]
        x = torch.tensor(values, dtype=dtype, requires_grad=True)
        result = submission.LogSumExp.apply(x, 1)
        (gradient,) = torch.autograd.grad(result, x, torch.ones_like(result))
        assert_finite(value=result, gradient=gradient)
        expected = [row[0] + math.log(2) for row in values]
        assert_close(result, torch.tensor(expected, dtype=dtype), what="LogSumExp.apply(x, 1)")
        # Around 1000 the output is rounded to 1/16384 in float32, and to 1/2 in float16; to that
        # exp(x - output) is right, and torch's own is no better.
        weights = torch.tensor([0.5, 0.5, 0.0], dtype=dtype)
        assert_close(gradient[2], weights, what="the gradient of the last slice")
        if dtype == torch.float32:
            rows = weights.expand(3, 3)
            assert_close(gradient, rows, rtol=1e-3, what="the gradient of LogSumExp")

    @pytest.mark.points(1, "gradient")
    @pytest.mark.after("test_lse_value")
    @pytest.mark.hint("-inf - -inf is nan. From what else can an empty slice be measured?")
    def test_lse_empty_slice(self, submission):
        """A slice of all -inf gives -inf and gradient 0; its neighbour isn't disturbed."""
        x = torch.tensor([[-torch.inf] * 3, [0.0, 0.0, -torch.inf]], requires_grad=True)
        result = submission.LogSumExp.apply(x, 1)
        (gradient,) = torch.autograd.grad(result, x, torch.tensor([3.0, 5.0]))
        expected = torch.tensor([-torch.inf, math.log(2)])
        assert_close(result, expected, what="LogSumExp with an empty slice")
        assert_close(
            gradient,
            torch.tensor([[0.0, 0.0, 0.0], [2.5, 2.5, 0.0]]),
            what="the gradient with an empty slice",
        )

    @pytest.mark.points(1, "gradient")
    @pytest.mark.after("test_lse_empty_slice")
    @pytest.mark.hint("0 * nan is nan: replace what would become nan before it is computed.")
    def test_lse_empty_slice_second(self, submission):
        """The second derivatives of a slice of all -inf are 0."""
        x = torch.tensor([[-torch.inf] * 3, [0.0, 0.0, -torch.inf]], requires_grad=True)
        result = submission.LogSumExp.apply(x, 1)
        (gradient,) = torch.autograd.grad(result, x, torch.tensor([3.0, 5.0]), create_graph=True)
        direction = torch.tensor([1.0, 2.0, 3.0]).expand(2, 3)
        (second,) = torch.autograd.grad(gradient, x, direction, materialize_grads=True)
        expect(
            not second[0].isnan().any(),
            "the second derivative of the empty slice is nan: `where` chooses between the values, "
            "but the branch it leaves out is differentiated too, and 0 * nan is nan",
        )
        # 5 (diag(p) - p p^T) u with p = (1/2, 1/2, 0) and u = (1, 2, 3)
        expected = torch.tensor([[0.0, 0.0, 0.0], [-1.25, 1.25, 0.0]])
        assert_close(second, expected, what="the Hessian's product with [1, 2, 3]")


# --- 5 ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rectangular:
    """A function from (3, 5) to (2, 7), with its products in closed form: tanh(A x) B."""

    a: Tensor  # (2, 3)
    b: Tensor  # (5, 7)

    @classmethod
    def random(cls, dtype: torch.dtype = torch.float64) -> "Rectangular":
        return cls(torch.randn(2, 3, dtype=dtype), torch.randn(5, 7, dtype=dtype))

    def __call__(self, x: Tensor) -> Tensor:
        return (self.a @ x).tanh() @ self.b

    def _slope(self, x: Tensor) -> Tensor:
        return 1 - (self.a @ x).tanh() ** 2

    def vjp(self, x: Tensor, v: Tensor) -> Tensor:
        return self.a.T @ (self._slope(x) * (v @ self.b.T))

    def jvp(self, x: Tensor, u: Tensor) -> Tensor:
        return (self._slope(x) * (self.a @ u)) @ self.b


@dataclass(frozen=True)
class Scalar:
    """A function from (3, 5) to a scalar, with its derivatives: sum of tanh(A x)², and of x³/3.

    Its Hessian is neither diagonal nor constant.
    """

    a: Tensor  # (2, 3)

    @classmethod
    def random(cls, dtype: torch.dtype = torch.float64) -> "Scalar":
        return cls(torch.randn(2, 3, dtype=dtype))

    def __call__(self, x: Tensor) -> Tensor:
        return (self.a @ x).tanh().pow(2).sum() + (x**3).sum() / 3

    def gradient(self, x: Tensor) -> Tensor:
        t = (self.a @ x).tanh()
        return self.a.T @ (2 * t * (1 - t * t)) + x * x

    def hvp(self, x: Tensor, u: Tensor) -> Tensor:
        t = (self.a @ x).tanh()
        return self.a.T @ ((2 * (1 - t * t) * (1 - 3 * t * t)) * (self.a @ u)) + 2 * x * u


def like(x: Tensor) -> Tensor:
    """Random numbers in the shape and dtype of `x`."""
    return torch.randn(x.shape, dtype=x.dtype)


def expect_zeros(result: object, like_this: Tensor, what: str) -> None:
    """Fail unless the result is a tensor of zeros of the right shape."""
    expect(
        isinstance(result, Tensor),
        f"{what} is {result!r}; the derivative is 0 there: return zeros of the right shape",
    )
    assert_close(result, torch.zeros_like(like_this), what=what)


@pytest.mark.task("jvp_vjp_hessian")
class TestJvpVjpHessian:
    @pytest.mark.points(3, "gradient")
    def test_vjp(self, submission):
        """vjp is v^T J, for two functions with a rectangular Jacobian."""
        for _ in range(2):
            f, x = Rectangular.random(), torch.randn(3, 5, dtype=torch.float64)
            v = torch.randn(2, 7, dtype=torch.float64)
            product = submission.vjp(f=f, x=x.clone(), v=v.clone())
            ones = f.vjp(x, torch.ones_like(v))
            assert_close(
                product,
                f.vjp(x, v),
                what="vjp(f, x, v)",
                explain={"this is the gradient of f(x).sum(): v was not used": ones},
            )

    @pytest.mark.points(3, "gradient")
    def test_jvp(self, submission):
        """jvp is J u, for two functions with a rectangular Jacobian."""
        for _ in range(2):
            f, x = Rectangular.random(), torch.randn(3, 5, dtype=torch.float64)
            u = torch.randn(3, 5, dtype=torch.float64)
            product = submission.jvp(f=f, x=x.clone(), u=u.clone())
            assert_shape(product, rows=2, columns=7)
            assert_close(product, f.jvp(x, u), what="jvp(f, x, u)")

    @pytest.mark.points(1, "gradient")
    def test_jvp_is_not_vjp(self, submission):
        """For a square Jacobian too, jvp multiplies from the right and vjp from the left."""
        weight = torch.randn(3, 3, dtype=torch.float64)
        x, u = torch.randn(2, 3, dtype=torch.float64)
        forward = submission.jvp(lambda x: weight @ x.sin(), x.clone(), u.clone())
        backward = submission.vjp(lambda x: weight @ x.sin(), x.clone(), u.clone())
        jacobian = weight * x.cos()
        right, left = jacobian @ u, u @ jacobian
        assert_close(
            forward,
            right,
            what="jvp of a square function",
            explain={"this is u^T J, what vjp gives; a backward multiplies from the left": left},
        )
        assert_close(
            backward,
            left,
            what="vjp of a square function",
            explain={"this is J v, what jvp gives": right},
        )

    @pytest.mark.points(1, "gradient")
    def test_identity(self, submission):
        """v · (J u) equals (v^T J) · u."""
        f, x = Rectangular.random(), torch.randn(3, 5, dtype=torch.float64)
        u, v = like(x), torch.randn(2, 7, dtype=torch.float64)
        forward = submission.jvp(f, x.clone(), u.clone())
        backward = submission.vjp(f, x.clone(), v.clone())
        one, other = (v * forward).sum(), (backward * u).sum()
        expect(
            one.isclose(other, rtol=1e-7),
            f"v · jvp(f, x, u) is {one:.6g} and vjp(f, x, v) · u is {other:.6g}; both are v^T J u",
        )

    @pytest.mark.points(3, "gradient")
    @pytest.mark.hint("The gradient has to be recorded itself before it can be differentiated.")
    def test_hvp(self, submission):
        """hvp is the Hessian times u, for two functions."""
        for _ in range(2):
            f, x = Scalar.random(), torch.randn(3, 5, dtype=torch.float64)
            u = like(x)
            product = submission.hvp(f=f, x=x.clone(), u=u.clone())
            assert_close(
                product,
                f.hvp(x, u),
                what="hvp(f, x, u)",
                explain={
                    "this is the Hessian times ones: u was not used": f.hvp(x, torch.ones_like(x)),
                    "these are the row sums of the Hessian, times u: multiply before you sum": (
                        f.hvp(x, torch.ones_like(x)) * u
                    ),
                    "this is the gradient times u": f.gradient(x) * u,
                    "this is the gradient": f.gradient(x),
                },
            )

    @pytest.mark.points(1, "gradient")
    @pytest.mark.after("test_vjp", "test_jvp", "test_hvp")
    def test_exact_in_float32(self, submission):
        """The products are exact in float32, at an f with large values."""
        x, u = torch.randn(2, 3, 5)
        v = torch.randn(2, 7)
        f, g = Rectangular.random(torch.float32), Scalar.random(torch.float32)

        def raised(x):
            return f(x) + 1000

        def tilted(x):
            return g(x) + 1000 * x.sum()

        results = {
            "jvp": submission.jvp(raised, x.clone(), u.clone()),
            "vjp": submission.vjp(raised, x.clone(), v.clone()),
            "hvp": submission.hvp(tilted, x.clone(), u.clone()),
        }
        expected = {
            "jvp": f.jvp(x, u),
            "vjp": f.vjp(x, v),
            "hvp": g.hvp(x, u),
        }
        for name, result in results.items():
            off = float((result.double() - expected[name].double()).abs().max())
            expect(
                off < 1e-3 or result.dtype != torch.float32,
                f"{name} is off by {off:.2g} in float32 where f has values around 1000: a "
                "difference of two values loses their common digits; differentiate instead",
            )
            assert_close(result, expected[name], rtol=1e-4, atol=1e-4, what=name)

    @pytest.mark.points(2, "structure")
    @pytest.mark.after("test_vjp", "test_jvp", "test_hvp")
    def test_not_ready_made(self, submission):
        """Nothing of torch.func or torch.autograd.functional is called."""
        f, g = Rectangular.random(), Scalar.random()
        x, u = torch.randn(2, 3, 5, dtype=torch.float64)
        v = torch.randn(2, 7, dtype=torch.float64)
        why = "torch.autograd.grad is what they are made of"
        with forbid("torch.func", "torch.autograd.functional", why=why):
            submission.vjp(f, x, v)
            submission.jvp(f, x, u)
            submission.hvp(g, x, u)

    @pytest.mark.points(1, "memory")
    @pytest.mark.after("test_vjp", "test_jvp")
    def test_no_jacobian(self, submission):
        """vjp and jvp make no tensor of n² elements, at n = 101."""
        n = 101
        x, v = torch.randn(2, n)
        assert_no_tensor_of(n * n, submission.vjp, lambda x: x.sin() * x.roll(1), x, v)
        assert_no_tensor_of(n * n, submission.jvp, lambda x: x.sin() * x.roll(1), x, v)

    @pytest.mark.points(1, "memory")
    @pytest.mark.after("test_hvp")
    def test_no_hessian(self, submission):
        """hvp makes no tensor of n² elements, at n = 101."""
        n = 101
        x, u = torch.randn(2, n)
        assert_no_tensor_of(n * n, submission.hvp, lambda x: (x.sin() * x.roll(1)).sum(), x, u)

    @pytest.mark.points(1, "value")
    @pytest.mark.hint("autograd.grad raises when the result has no graph, even with allow_unused.")
    def test_f_ignores_x(self, submission):
        """If f returns a constant, all three give zeros of the right shape."""
        x, u, constant = torch.randn(3, 5), torch.randn(3, 5), torch.randn(2, 7)
        v = torch.randn(2, 7)
        expect_zeros(submission.vjp(lambda x: constant, x, v), x, "vjp of a constant")
        expect_zeros(submission.jvp(lambda x: constant, x, u), v, "jvp of a constant")
        expect_zeros(submission.hvp(lambda x: constant.sum(), x, u), x, "hvp of a constant")

    @pytest.mark.points(1, "value")
    @pytest.mark.hint("The result has a graph here, but x is not in it.")
    def test_f_uses_a_parameter_alone(self, submission):
        """If f computes with a parameter and not with x, all three give zeros."""
        x, u = torch.randn(3, 5), torch.randn(3, 5)
        v, weight = torch.randn(2, 7), torch.randn(2, 7, requires_grad=True)
        expect_zeros(submission.vjp(lambda x: weight * 2, x, v), x, "vjp of an f without x")
        expect_zeros(submission.jvp(lambda x: weight * 2, x, u), v, "jvp of an f without x")
        expect_zeros(submission.hvp(lambda x: weight.sin().sum(), x, u), x, "hvp of an f without x")

    @pytest.mark.points(1, "value")
    @pytest.mark.hint("The gradient of a linear f is a constant: it has no graph.")
    def test_linear(self, submission):
        """The hvp of a linear f is zeros, with fixed weights and with a parameter."""
        x, u, fixed = torch.randn(3, 5), torch.randn(3, 5), torch.randn(3, 5)
        weight = torch.randn(3, 5, requires_grad=True)
        expect_zeros(submission.hvp(lambda x: x.sum(), x, u), x, "hvp of x.sum()")
        expect_zeros(submission.hvp(lambda x: (fixed * x).sum(), x, u), x, "hvp of a linear f")
        expect_zeros(
            submission.hvp(lambda x: (weight * x).sum(), x, u), x, "hvp of an f linear in x"
        )

    @pytest.mark.points(1, "structure")
    def test_no_trace(self, submission):
        """The arguments are unchanged: values, flags and .grad."""
        f, g = Rectangular.random(), Scalar.random()
        x, u = torch.randn(2, 3, 5, dtype=torch.float64)
        v = torch.randn(2, 7, dtype=torch.float64)
        leaf = x.clone().requires_grad_()
        for name, function, direction in (("vjp", f, v), ("jvp", f, u), ("hvp", g, u)):
            assert_unchanged(getattr(submission, name), function, x, direction)
            flags = (x.requires_grad, direction.requires_grad)
            expect(
                flags == (False, False),
                f"after {name} an argument requires grad, and did not before",
            )
            getattr(submission, name)(function, leaf, direction)
            expect(leaf.grad is None, f"{name} filled x.grad")
            expect(
                leaf.requires_grad, f"after {name} x doesn't require grad any more, and did before"
            )


# --- 6 ------------------------------------------------------------------------------------------

Arrays = dict[str, np.ndarray]


def arrays(**shapes: tuple[int, ...]) -> Arrays:
    """Random float64 arrays of these shapes."""
    return {name: np.random.standard_normal(shape) for name, shape in shapes.items()}


def positive(**shapes: tuple[int, ...]) -> Arrays:
    """Random float64 arrays between 0.5 and 2."""
    return {name: np.random.uniform(0.5, 2.0, shape) for name, shape in shapes.items()}


def tensor(value: object) -> Tensor:
    """An array of the learner's as a tensor, with its own dtype."""
    return torch.from_numpy(np.array(value))


def run_on_vars(
    submission, program: str, leaves: Arrays, constants: Arrays
) -> tuple[Tensor, Tensor, dict[str, Tensor | None]]:
    """Run a program on Vars, and backward from its `out` with a random g.

    Returns:
        The value of `out`, g, and the gradient of each leaf.
    """
    variables = {name: submission.Var(value.copy()) for name, value in leaves.items()}
    space = {name: value.copy() for name, value in constants.items()}
    exec(program, dict(variables), space)
    out = space["out"]
    expect(
        isinstance(out, submission.Var),
        f"`{program.splitlines()[-1]}` gave {type(out).__name__}; expected a Var",
    )
    value = tensor(out.data)
    if value.ndim:
        g = np.random.standard_normal(value.shape)
        out.backward(g.copy())
    else:
        g = np.ones(())
        out.backward()
    gradients = {
        name: None if variable.grad is None else tensor(variable.grad)
        for name, variable in variables.items()
    }
    return value, tensor(g), gradients


def same_as_torch(submission, program: str, leaves: Arrays, **constants: np.ndarray) -> None:
    """Fail unless a program on Vars has the value and the gradients that it has on tensors.

    Args:
        program: an expression, or lines that end with `out = ...`; the names are those of
            `leaves` and `constants`.
        leaves: what is differentiated by.
    """
    lines = program if "out = " in program else f"out = {program}"
    shown = program.splitlines()[-1]
    value, upstream, gradients = run_on_vars(submission, lines, leaves, constants)
    tensors = {name: torch.tensor(x, requires_grad=True) for name, x in leaves.items()}
    space = {name: torch.tensor(x) for name, x in constants.items()}
    # amax drops the axis and gives values alone, as the max of a Var does.
    exec(lines.replace(".max(", ".amax("), dict(tensors), space)
    assert_close(value, space["out"].detach(), what=f"the value of `{shown}`")
    expected = torch.autograd.grad(
        space["out"], list(tensors.values()), upstream, materialize_grads=True
    )
    for name, gradient in zip(tensors, expected, strict=True):
        got = gradients[name]
        expect(got is not None, f"the gradient of {name} in `{shown}` is None")
        if got.shape != gradient.shape:
            fail(
                f"the gradient of {name} in `{shown}` has shape {tuple(got.shape)}, and {name} has "
                f"{tuple(gradient.shape)}: where {name} was stretched, its gradients add up, so "
                "sum over those axes",
                expected={"shape": list(gradient.shape)},
                got={"shape": list(got.shape)},
            )
        assert_close(got, gradient, what=f"the gradient of {name} in `{shown}`")


OPERATIONS = (
    "{u} + {v}",
    "{u} - {v}",
    "{u} * {v} * 0.5",
    "{u} / ({v} * {v} + 1)",
    "-{u}",
    "2 - {u}",
    "1 / ({u} * {u} + 2)",
    "(-({u} * {u})).exp()",
    "({u} * {u} + 1).log()",
    "({u} ** 2 + 1) ** 0.5",
    "{u} @ {v}.T * 0.3",
    "{u}.T",
    "{u}.reshape({size})",
    "{u}.sum(dim={dim})",
    "{u}.max(dim={dim})",
    "{u}[1:]",
)
"""What a random program is made of; all of it is harmless at any finite value."""


def random_program(steps: int, leaves: Arrays) -> str:
    """Lines of random operations with shared operands, joined to one scalar at the end.

    It computes along, so that only operations that fit are drawn, and no maximum with a tie.
    """
    values = {name: torch.tensor(x) for name, x in leaves.items()}
    loose = list(leaves)  # names that no line has used yet
    lines: list[str] = []
    while len(lines) < steps:
        u, v = random.choice(list(values)), random.choice(list(values))
        operation, x, y = random.choice(OPERATIONS), values[u], values[v]
        dim = random.randrange(x.ndim) if x.ndim else None
        if "{dim}" in operation and dim is None:
            continue
        if ".max" in operation and x.shape[dim] > 1:
            best = x.topk(2, dim).values
            if (best.select(dim, 0) - best.select(dim, 1)).min() < 1e-6:
                continue
        if ".T" in operation and (x.ndim, y.ndim) != (2, 2):
            continue
        if operation.endswith("[1:]") and (x.ndim == 0 or len(x) < 2):
            continue
        text = operation.format(u=u, v=v, size=x.numel(), dim=dim)
        try:
            value = eval(text.replace(".max(", ".amax("), dict(values))
        except RuntimeError:  # the shapes don't fit
            continue
        if value.numel() > 200:
            continue
        loose = [name for name in loose if name not in ((u, v) if "{v}" in operation else (u,))]
        name = f"v{len(lines)}"
        values[name] = value
        loose.append(name)
        lines.append(f"{name} = {text}")
    return "\n".join([*lines, "out = " + " + ".join(f"{name}.sum() * 0.7" for name in loose)])


def python_calls(fn: Callable[[], object]) -> int:
    """How many Python functions are called while `fn` runs."""
    count = 0

    def count_call(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(count_call)
    try:
        fn()
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.task("mini_autograd")
class TestMiniAutograd:
    @pytest.mark.points(2, "gradient")
    def test_arithmetic(self, submission):
        """+ - * / ** and unary minus have torch's values and gradients."""

        def run(program):
            for shape in ((), (3,), (3,), (2, 5)):
                same_as_torch(submission, program, positive(a=shape, b=shape))

        programs = ("a + b", "-a + b", "a - b", "a * b", "a / b")
        smallest(run, (*programs, "a**3 + b", "a**-1 + b", "a**0.5 + b", "(a - b)**2"))

    @pytest.mark.points(2, "gradient")
    @pytest.mark.after("test_arithmetic")
    @pytest.mark.hint("`2 - a` calls `a.__rsub__(2)`.")
    def test_numbers_on_either_side(self, submission):
        """A number may stand on either side of + - * /."""

        def run(program):
            same_as_torch(submission, program, positive(a=(2, 3)))

        programs = ("a + 2", "2 + a", "a - 2", "2 - a", "a * 3", "3 * a", "a / 2", "2.5 / a")
        smallest(run, programs)

    @pytest.mark.points(1, "gradient")
    @pytest.mark.after("test_arithmetic")
    def test_arrays_are_constants(self, submission):
        """An array on the right of + - * / @ is a constant, and stays as it was."""

        def run(program):
            same_as_torch(submission, program, positive(a=(3, 3)), k=np.random.rand(3, 3) + 0.5)

        smallest(run, ("a + k", "a - k", "a * k", "a / k", "a @ k"))
        kept = np.array([2.0, 3.0, 5.0])
        (submission.Var([1.0, 2.0, 3.0]) * kept).sum().backward()
        expect(kept.tolist() == [2.0, 3.0, 5.0], f"the array on the right became {kept.tolist()}")

    @pytest.mark.points(3, "gradient")
    @pytest.mark.after("test_arithmetic")
    def test_broadcasting(self, submission):
        """Operands of different shapes broadcast, and each gradient has its operand's shape."""

        def run(case):
            for program in ("a + b", "a - b", "a * b", "b / a"):
                same_as_torch(submission, program, positive(a=case["a"], b=case["b"]))

        pairs = (
            ((2,), ()),
            ((3, 2), (2,)),
            ((3, 2), (3, 1)),
            ((3, 1), (1, 2)),
            ((1,), (3, 2)),
            ((2, 3, 5), (3, 1)),
            ((2, 1, 5), (3, 1)),
        )
        smallest(run, [{"a": a, "b": b} for a, b in pairs])
        same_as_torch(submission, "a * k", positive(a=(5,)), k=np.random.rand(3, 5))

    @pytest.mark.points(1, "gradient")
    def test_matmul(self, submission):
        """@ multiplies matrices, and both of them get their gradient."""

        def run(case):
            same_as_torch(submission, "a @ b", arrays(a=case["a"], b=case["b"]))

        pairs = (((2, 3), (3, 5)), ((1, 3), (3, 2)), ((3, 1), (1, 2)))
        smallest(run, [{"a": a, "b": b} for a, b in pairs])

    @pytest.mark.points(1, "gradient")
    def test_exp_and_log(self, submission):
        """exp and log have torch's values and gradients."""

        def run(program):
            same_as_torch(submission, program, positive(a=(2, 3)))

        smallest(run, ("a.exp()", "a.log()", "(a.exp() + 1).log()"))

    @pytest.mark.points(2, "gradient")
    def test_sum_and_max(self, submission):
        """sum and max reduce one axis, counted from either end, or all of them."""

        def run(program):
            for shape in ((2, 3), (2, 3, 5)):
                same_as_torch(submission, program, arrays(a=shape))

        for name in ("sum", "max"):
            calls = ("", "0", "1", "-1", "dim=-2", "dim=None")
            smallest(
                run, [f"a.{name}({call})" for call in calls if (name, call) != ("max", "dim=None")]
            )
        same_as_torch(submission, "a.max()", arrays(a=(7,)))

    @pytest.mark.points(1, "gradient")
    def test_reshape_and_transpose(self, submission):
        """reshape and T move the values, and the gradients back."""

        def run(program):
            same_as_torch(submission, program, arrays(a=(2, 3), b=(3, 2)))

        programs = ("a.T * b", "a.reshape(3, 2) * b", "a.reshape(6)[1:] * b.reshape(-1)[1:]")
        smallest(run, (*programs, "a.reshape(1, 3, 2) + b"))

    @pytest.mark.points(1, "gradient")
    def test_index(self, submission):
        """An index picks values, and their gradients go back to where they came from."""

        def run(program):
            same_as_torch(submission, program, arrays(a=(3, 5)))

        programs = ("a[1]", "a[-1, 2]", "a[1:]", "a[:, ::2]", "a[[2, 0]]", "a[[0, 2], [4, 1]]")
        smallest(run, (*programs, "a[0] + a[1]"))

    @pytest.mark.points(1, "gradient")
    @pytest.mark.after("test_index")
    def test_repeated_index(self, submission):
        """The gradients of a position that an index names twice add up."""
        a = submission.Var([2.0, 3.0, 5.0])
        a[np.array([0, 2, 0, 0])].backward(np.array([1.0, 10.0, 100.0, 1000.0]))
        assert_close(
            tensor(a.grad),
            torch.tensor([1101.0, 0.0, 10.0], dtype=torch.float64),
            what="the gradient of a[[0, 2, 0, 0]]",
            explain={
                "position 0 was read three times, and only the last gradient was kept: `+=` with "
                "an index that repeats writes once": torch.tensor(
                    [1000.0, 0.0, 10.0], dtype=torch.float64
                ),
            },
        )

    @pytest.mark.points(1, "gradient")
    @pytest.mark.after("test_sum_and_max")
    def test_ties(self, submission):
        """A tie of max splits the gradient, or gives it to the first."""
        for dim, data in ((None, [1.0, 3.0, 3.0]), (1, [[1.0, 3.0, 3.0], [5.0, 2.0, 5.0]])):
            a = submission.Var(data)
            a.max(dim=dim).backward(np.array(7.0 if dim is None else [7.0, 11.0]))
            got = np.array(a.grad).tolist()
            first = [0.0, 7.0, 0.0] if dim is None else [[0.0, 7.0, 0.0], [11.0, 0.0, 0.0]]
            split = [0.0, 3.5, 3.5] if dim is None else [[0.0, 3.5, 3.5], [5.5, 0.0, 5.5]]
            whole = [0.0, 7.0, 7.0] if dim is None else [[0.0, 7.0, 7.0], [11.0, 0.0, 11.0]]
            expect(
                got != whole,
                f"both maxima of {data} got the whole gradient, which counts it twice: "
                "split it, or give it to the first",
                got=got,
            )
            expect(
                np.allclose(got, first) or np.allclose(got, split),
                f"the maxima of {data} got {got}; expected all at the first, or an even split",
                expected=split,
                got=got,
            )

    @pytest.mark.points(1, "structure")
    def test_grad_attribute(self, submission):
        """.grad is None before, an array like .data afterwards, and always None for a constant."""
        a, k = submission.Var([[2, 3, 5]]), submission.Var([7, 11, 13], requires_grad=False)
        expect(np.asarray(a.data).dtype == np.float64, "Var([[2, 3, 5]]).data is not float64")
        expect(a.grad is None, "a new Var has a .grad; expected None until a backward reaches it")
        (a * k + k).sum().backward()
        expect(a.grad is not None, "the leaf a of (a * k + k).sum() has no .grad after backward")
        expect(
            k.grad is None,
            "a Var with requires_grad=False got a .grad; it is a constant, nothing goes back to it",
        )
        expect(
            isinstance(a.grad, np.ndarray), f".grad is {type(a.grad).__name__}; expected an array"
        )
        assert_equal(a.grad.shape, (1, 3), what="the shape of a.grad")
        assert_close(tensor(a.grad), torch.tensor([[7.0, 11.0, 13.0]], dtype=torch.float64))
        lone = submission.Var(2.0)
        (lone * 3).backward(np.array(5.0))
        expect(
            np.shape(lone.grad) == () and lone.grad == 15.0,
            f"the .grad of Var(2.0) in `lone * 3` with g = 5 is {lone.grad!r}; expected array(15.)",
        )

    @pytest.mark.points(2, "gradient")
    def test_diamond(self, submission):
        """A node that is used several times hands on the sum of its shares, once."""
        found = []
        for join in (lambda b: b * b + b, lambda b: b + b * b):
            a = submission.Var(2.0)
            join(a * 3).backward()
            found.append(float(a.grad))
        got = next((value for value in found if value != 39), 39.0)
        picture(
            "graph",
            "c = b * b + b with b = 3 * a, at a = 2",
            f"The shares 6, 6 and 1 meet at b; a should get 3 · 13 = 39, and got {got:g}.",
            nodes=[
                {"id": "c", "label": "c = b*b + b", "note": "42"},
                {"id": "p", "label": "b*b", "note": "36"},
                {"id": "b", "label": "b = 3*a", "note": "6"},
                {"id": "a", "label": "a", "note": f"2, .grad {got:g}"},
            ],
            edges=[
                {"from": "c", "to": "p", "label": "1"},
                {"from": "c", "to": "b", "label": "1"},
                {"from": "p", "to": "b", "label": "6 + 6"},
                {"from": "b", "to": "a", "label": "3 · 13 = 39"},
            ],
        )
        program = ("b * b + b", "b + b * b")[found.index(got)] if got in found else ""
        if got < 39:
            fail(
                f"the gradient of a is {got:g} where 39 is expected: shares of b are missing; they "
                "add up, none overwrites another, and b hands on when all have arrived",
                expected=39.0,
                got=got,
                minimal=program,
            )
        expect(
            got == 39,
            f"the gradient of a is {got:g} where 39 is expected: b handed on more than once; visit "
            "every node once, however many paths lead to it",
            expected=39.0,
            got=got,
            minimal=program,
        )

    @pytest.mark.points(1, "gradient")
    @pytest.mark.after("test_diamond")
    def test_ladder(self, submission):
        """Sixteen diamonds in a row take sixteen times one, not 2 to the 16."""
        a = submission.Var(2.0)
        y = a
        for _ in range(16):
            y = y * 0.25 + y * 0.75
        calls = python_calls(y.backward)
        expect(
            calls < 50_000,
            f"{calls:,} calls for 16 diamonds in a row: every path is walked on its own, and each "
            "diamond doubles their number; hand on a gradient once, when it is complete",
        )
        assert_close(tensor(a.grad), torch.ones((), dtype=torch.float64), what="the gradient of a")

    @pytest.mark.points(1, "gradient")
    @pytest.mark.hint(
        "A function that calls itself for every parent ends at depth 1000. A list can be the stack."
    )
    def test_chain(self, submission):
        """A chain of 5000 nodes works."""
        a = submission.Var(2.0)
        y = a
        for _ in range(5000):
            y = y * 1.0001
        try:
            y.backward()
        except RecursionError:
            deep = True
        else:
            deep = False
        expect(
            not deep,
            "backward through a chain of 5000 nodes ended in a RecursionError: it calls itself for "
            "every parent; keep the nodes to visit on a list of your own",
        )
        expected = torch.tensor(1.0001**5000, dtype=torch.float64)
        assert_close(tensor(a.grad), expected, what="the gradient through the chain")

    @pytest.mark.points(1, "gradient")
    @pytest.mark.after("test_diamond")
    def test_twice(self, submission):
        """Each backward adds to .grad: the same result twice, and another result too."""
        a = submission.Var(2.0)
        c = (a * 3) ** 2
        found = []
        c.backward()
        found.append(float(a.grad))
        c.backward()
        found.append(float(a.grad))
        (a * 5).backward()
        found.append(float(a.grad))
        if found[:2] == [36.0, 36.0]:
            fail("the second backward replaced a.grad instead of adding to it", got=found)
        expect(
            found[1] == 72.0,
            f"backward from (a * 3) ** 2 at a = 2 gave .grad {found[0]:g}, and a second one "
            f"{found[1]:g} instead of 72: what the nodes in between had collected the first time "
            "was still there",
            expected=[36.0, 72.0, 77.0],
            got=found,
        )
        assert_equal(found, [36.0, 72.0, 77.0], what=".grad after each of three backwards")

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_arithmetic")
    def test_separate_gradients(self, submission):
        """The .grad of a leaf is an array of its own, not shared with g or with another leaf."""
        a, b = submission.Var([2.0, 3.0]), submission.Var([5.0, 7.0])
        g = np.array([1.0, 10.0])
        (a + b).backward(g)
        (a * 100).sum().backward()
        found = {"g": g.tolist(), "b.grad": np.array(b.grad).tolist()}
        for name, values in found.items():
            expect(
                values == [1.0, 10.0],
                f"after (a + b).backward(g), a second backward that reaches a alone changed {name} "
                f"to {values}: a.grad was the same array; add to a new one, or copy the first",
                expected=[1.0, 10.0],
                got=values,
            )
        assert_equal(np.array(a.grad).tolist(), [101.0, 110.0], what="a.grad")

    @pytest.mark.points(1, "gradient")
    @pytest.mark.after("test_diamond", "test_broadcasting", "test_sum_and_max")
    def test_random_programs(self, submission):
        """Forty random programs with shared nodes have torch's gradients."""
        leaves = arrays(a=(3, 5), b=(5,), c=(3, 1), d=())
        programs = [random_program(steps, leaves) for steps in range(1, 41)]
        smallest(lambda program: same_as_torch(submission, program, leaves), programs)

    @pytest.mark.points(1, "training")
    @pytest.mark.after("test_broadcasting", "test_matmul")
    def test_training(self, submission):
        """A two-layer network trained for 100 steps has the same loss as with torch."""
        rows, labels = np.arange(11), np.random.randint(0, 2, 11)
        x = np.random.standard_normal((11, 3))
        weights = [np.random.standard_normal(s) * 0.5 for s in ((3, 7), (7,), (7, 2), (2,))]

        var, now = submission.Var, [weight.copy() for weight in weights]
        for _ in range(100):
            w1, b1, w2, b2 = parameters = [var(weight) for weight in now]
            hidden = ((var(x, requires_grad=False) @ w1 + b1).exp() + 1).log()
            logits = hidden @ w2 + b2
            shifted = logits - logits.max(dim=1).reshape(11, 1)
            chosen = shifted - shifted.exp().sum(dim=1).log().reshape(11, 1)
            loss = -chosen[rows, labels].sum() / 11
            loss.backward()
            now = [p.data - 0.5 * p.grad for p in parameters]
        got = float(loss.data)

        tensors = [torch.tensor(weight, requires_grad=True) for weight in weights]
        inputs, targets, curve = torch.tensor(x), torch.tensor(labels), []
        for _ in range(100):
            w1, b1, w2, b2 = tensors
            logits = torch.nn.functional.softplus(inputs @ w1 + b1) @ w2 + b2
            expected = torch.nn.functional.cross_entropy(logits, targets)
            steps = torch.autograd.grad(expected, tensors)
            tensors = [
                (t - 0.5 * step).detach().requires_grad_()
                for t, step in zip(tensors, steps, strict=True)
            ]
            curve.append(expected.item())
        expect(
            abs(got - curve[-1]) < 1e-6,
            f"after 100 steps the loss is {got:.7f}, and {curve[-1]:.7f} with torch; the first is "
            f"{curve[0]:.4f}",
            expected=curve[-1],
            got=got,
        )
