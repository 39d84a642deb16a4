"""Day 15 asks for stable functions, tracers of bad values and a training loop on guard."""

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import Dataset

from grader.testing import (
    assert_close,
    assert_dtype,
    assert_equal,
    assert_gradients,
    assert_raises,
    assert_runs_on_meta,
    assert_shape,
    assert_tensor,
    assert_unchanged,
    expect,
    fail,
    forbid,
    measured,
    picture,
    randn,
    train_until,
)

INF, NAN = math.inf, math.nan

# --- 1 ------------------------------------------------------------------------------------------

POINTWISE: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {
    "safe_sqrt": (math.sqrt, lambda v: 0.5 / math.sqrt(v) if v else 0.0),
    "log1mexp": (
        lambda v: math.log(-math.expm1(v)) if v > -0.5 else math.log1p(-math.exp(v)),
        lambda v: -1 / math.expm1(-v),
    ),
    "safe_acos": (
        lambda v: math.atan2(math.sqrt((1 - v) * (1 + v)), v),
        lambda v: -1 / math.sqrt((1 - v) * (1 + v)) if abs(v) < 1 else 0.0,
    ),
}
"""Value and derivative in Python's numbers."""

ZOO = ("safe_norm", "safe_sqrt", "log1mexp", "masked_softmax", "masked_logsumexp", "safe_acos")

BRANCH = (
    "the branch that `where` didn't take is still differentiated, and 0 * inf is nan: make the "
    "input of the function harmless first"
)


def mapped(function: Callable[[float], float], x: Tensor) -> Tensor:
    """The function of every element, in float64."""
    values = [function(v) for v in x.detach().double().flatten().tolist()]
    return torch.tensor(values, dtype=torch.float64).reshape(x.shape)


def norm_by_hand(x: Tensor, dim: int) -> Tensor:
    """The norm in float64, where squares of 1e30 and 1e-30 still fit."""
    return (x.detach().double() ** 2).sum(dim) ** 0.5


def norm_gradient(x: Tensor, dim: int, upstream: Tensor) -> Tensor:
    """x / norm, and 0 for a zero vector, in float64."""
    norm = norm_by_hand(x, dim).unsqueeze(dim)
    unit = x.detach().double() / torch.where(norm == 0, 1.0, norm)
    return unit * upstream.double().unsqueeze(dim)


def weights_by_hand(x: Tensor, mask: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Softmax over the kept entries, and logsumexp, in float64."""
    x, mask = x.detach().double(), mask.expand(x.shape)
    top = torch.where(mask, x, -1e300).amax(dim, keepdim=True)
    terms = torch.where(mask, (x - top).exp(), 0.0)
    total = terms.sum(dim, keepdim=True)
    weights = terms / torch.where(total == 0, 1.0, total)
    bare = total == 0
    lse = torch.where(bare, -INF, top + torch.where(bare, 1.0, total).log())
    return weights, lse.squeeze(dim)


def weights_gradient(weights: Tensor, dim: int, upstream: Tensor) -> Tensor:
    """What softmax hands back, in float64."""
    upstream = upstream.double()
    return weights * (upstream - (weights * upstream).sum(dim, keepdim=True))


def domain(name: str, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Inputs well inside the domain of a pointwise function."""
    x = 0.1 + 0.8 * torch.rand(shape, dtype=dtype)
    if name == "log1mexp":
        return -3 * x
    return x * torch.where(torch.rand(shape) < 0.5, -1, 1) if name == "safe_acos" else 5 * x


def row_mask(rows: int, columns: int) -> Tensor:
    """(rows, columns) bool, random, every row keeps its first entry and loses its last."""
    mask = torch.rand(rows, columns) < 0.5
    mask[:, 0], mask[:, -1] = True, False
    return mask


def assert_zero_gradient(gradient: Tensor, where: str) -> None:
    """Exactly 0 (the sign doesn't matter)."""
    worst = gradient.flatten()[0].item()
    for value in gradient.flatten().tolist():
        if value != 0:
            worst = value
            break
    if worst != 0:
        why = BRANCH if math.isnan(worst) else "it must be exactly 0"
        if math.isinf(worst):
            why = (
                "the derivative of the function itself is infinite there; take it at a harmless "
                "point and pick the value afterwards"
            )
        fail(f"{where} the gradient is {worst:g}; expected 0: {why}", expected=0.0, got=worst)


def backward(result: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """(upstream, gradient of x) for a random upstream gradient."""
    expect(result.requires_grad, "the result has no graph; the gradient is asked for too")
    upstream = torch.randn_like(result)
    (gradient,) = torch.autograd.grad(result, x, upstream)
    return upstream, gradient


@pytest.mark.task("stable_zoo")
class TestStableZoo:
    @pytest.mark.points(2, "value")
    @pytest.mark.parametrize("name", ZOO)
    def test_values(self, submission, name):
        """In the middle of the domain each function has its textbook value."""
        function = getattr(submission, name)
        for dtype in (torch.float64, torch.float32):
            if name in POINTWISE:
                x = domain(name, 5, 3, dtype=dtype).T
                got = function(x.clone())
                assert_close(got, mapped(POINTWISE[name][0], x).to(dtype), what=f"{name}(x)")
            elif name == "safe_norm":
                for dim in (1, 0, -2):
                    x = randn(7, 3, 2, dtype=dtype).transpose(0, 1)
                    got = function(x, dim)
                    assert_close(got, norm_by_hand(x, dim).to(dtype), what=f"safe_norm(x, {dim})")
            else:
                for dim in (1, -1, 0):
                    x = randn(7, 3, dtype=dtype).T if dim != 0 else randn(7, 3, dtype=dtype)
                    mask = row_mask(3, 7) if dim != 0 else row_mask(3, 7).T
                    got = function(x, mask, dim)
                    at = 0 if name == "masked_softmax" else 1
                    assert_close(
                        got,
                        weights_by_hand(x, mask, dim)[at].to(dtype),
                        what=f"{name}(x, mask, {dim})",
                        explain={
                            "the mask is inverted: True means keep": weights_by_hand(x, ~mask, dim)[
                                at
                            ].to(dtype),
                            "the mask was ignored": weights_by_hand(x, mask | True, dim)[at].to(
                                dtype
                            ),
                        },
                    )

    @pytest.mark.points(2, "value")
    def test_norm_of_any_magnitude(self, submission):
        """The norm of entries of 1e30 and 1e-30 neither overflows nor vanishes."""
        for scale in (1e30, 1e-30):
            x = (randn(3, 5) * scale).requires_grad_()
            norm = submission.safe_norm(x, 1)
            expected = norm_by_hand(x, 1).float()
            for got in norm.tolist():
                expect(
                    got != INF and got != 0,
                    f"the norm of entries of about {scale:g} is {got:g}: their squares don't fit "
                    "into float32; divide by the largest entry first",
                    got=got,
                )
            assert_close(norm.detach() / scale, expected / scale, what=f"the norm / {scale:g}")
            upstream, gradient = backward(norm, x)
            assert_close(
                gradient,
                norm_gradient(x, 1, upstream).float(),
                what=f"the gradient of safe_norm at entries of about {scale:g}",
            )

    @pytest.mark.points(3, "gradient")
    @pytest.mark.parametrize("name", ["safe_norm", "safe_sqrt", "safe_acos"])
    def test_singular_points(self, submission, name):
        """At the singular points the gradient is exactly 0, beside them right."""
        function = getattr(submission, name)
        if name == "safe_norm":
            x = randn(5, 3, dtype=torch.float64)
            x[1] = 0
            x[3, :2] = 0
            x.requires_grad_()
            result = function(x, 1)
            value = result.detach()[1:2]
            upstream, gradient = backward(result, x)
            assert_zero_gradient(gradient[1], "for a zero vector")
            expected = norm_gradient(x, 1, upstream)
        else:
            special = [0.0] if name == "safe_sqrt" else [1.0, -1.0]
            points = torch.tensor([0.5, *special, 0.25], dtype=torch.float64)
            x = points.clone().requires_grad_()
            result = function(x)
            value = result.detach()[1:-1]
            upstream, gradient = backward(result, x)
            for i, at in enumerate(special, 1):
                assert_zero_gradient(gradient[i], f"{name}: at {at:g}")
            expected = upstream * mapped(POINTWISE[name][1], points)
        known = {"safe_norm": [0.0], "safe_sqrt": [0.0], "safe_acos": [0.0, math.pi]}[name]
        assert_close(
            value, torch.tensor(known, dtype=torch.float64), what=f"{name} at its singular points"
        )
        assert_close(gradient, expected, what=f"the gradient of {name}")

    @pytest.mark.points(2, "gradient")
    @pytest.mark.parametrize("name", ZOO)
    def test_interior_gradients(self, submission, name):
        """Inside the domain the gradient is right, close to the border too."""
        function = getattr(submission, name)
        if name == "safe_norm":
            assert_gradients(lambda x: function(x, 1), randn(3, 2, 2, dtype=torch.float64))
        elif name in POINTWISE:
            assert_gradients(function, domain(name, 5))
            near = {
                "safe_sqrt": [1e-16, 1e-8, 1e-3, 9.0],
                "log1mexp": [-1e-9, -1e-3, -0.69, -0.7, -30.0],
                "safe_acos": [-1 + 1e-10, -0.999, 0.0, 1 - 1e-6, 1 - 1e-10],
            }[name]
            points = torch.tensor(near, dtype=torch.float64)
            x = points.clone().requires_grad_()
            upstream, gradient = backward(function(x), x)
            expected = upstream * mapped(POINTWISE[name][1], points)
            for at, got, right in zip(near, gradient.tolist(), expected.tolist(), strict=True):
                expect(
                    abs(got - right) <= 1e-5 * abs(right),
                    f"{name}: at {at!r} the gradient is {got:.6g}; expected {right:.6g}"
                    + (
                        ": a clamp has no gradient outside its limits, and this point is inside "
                        "the domain"
                        if got == 0
                        else f": {BRANCH}"
                        if math.isnan(got)
                        else ""
                    ),
                    expected=right,
                    got=got,
                )
        else:
            mask = row_mask(2, 5)
            assert_gradients(lambda x: function(x, mask, 1), randn(2, 5, dtype=torch.float64))

    @pytest.mark.points(2, "gradient")
    @pytest.mark.parametrize("name", ["masked_softmax", "masked_logsumexp"])
    def test_masked_entries(self, submission, name):
        """Masked entries have weight and gradient exactly 0."""
        function = getattr(submission, name)
        for size in (1.0, 1e4):
            x = (size * randn(3, 7)).requires_grad_()
            mask = row_mask(3, 7)
            result = function(x, mask, 1)
            if name == "masked_softmax":
                left = result.detach()[~mask].abs().max().item()
                expect(
                    left == 0,
                    f"a masked entry has weight {left:.3g}; expected exactly 0",
                    got=left,
                )
            upstream, gradient = backward(result, x)
            assert_zero_gradient(gradient[~mask], f"{name}: for a masked entry")
            weights, _ = weights_by_hand(x, mask, 1)
            assert_close(
                gradient,
                (
                    weights_gradient(weights, 1, upstream)
                    if name == "masked_softmax"
                    else weights * upstream.double()[:, None]
                ).float(),
                rtol=1e-3,
                atol=1e-5,
                what=f"the gradient of {name}",
            )

    @pytest.mark.points(2, "value")
    @pytest.mark.parametrize("name", ["masked_softmax", "masked_logsumexp"])
    def test_empty_rows(self, submission, name):
        """A row that keeps nothing has its value and gradient 0."""
        function = getattr(submission, name)
        x = randn(3, 5).requires_grad_()
        mask = row_mask(3, 5)
        mask[1] = False
        result = function(x, mask, 1)
        row, right = result.detach()[1], 0.0 if name == "masked_softmax" else -INF
        for got in row.flatten().tolist():
            why = "" if name == "masked_logsumexp" else "; expected 0, so that the row adds nothing"
            if math.isnan(got):
                why = "; softmax of a row of -inf alone is nan"
            elif name == "masked_softmax" and abs(got - 0.2) < 1e-6:
                why = "; a row filled with one large negative number has uniform weights"
            expect(
                got == right,
                f"{name} of a fully masked row is {got:g}; expected {right:g}{why}",
                expected=right,
                got=got,
            )
        upstream, gradient = backward(result, x)
        assert_zero_gradient(gradient[1], f"{name}: in a fully masked row")
        weights, _ = weights_by_hand(x, mask, 1)
        expected = (
            weights_gradient(weights, 1, upstream)
            if name == "masked_softmax"
            else weights * upstream.double()[:, None]
        )
        assert_close(gradient, expected.float(), what=f"the gradient of {name}")

    @pytest.mark.points(2, "value")
    @pytest.mark.parametrize("name", ZOO)
    def test_precision(self, submission, name):
        """Nothing shifts the value: float32 keeps its digits everywhere."""
        function, limit = getattr(submission, name), 1e-6
        if name in POINTWISE:
            tiny = torch.logspace(-8, math.log10(80), 89, dtype=torch.float64)
            x = {
                "safe_sqrt": torch.logspace(-36, 36, 97, dtype=torch.float64),
                "log1mexp": -tiny.clamp(max=80),
                "safe_acos": torch.cat([1 - tiny[tiny < 2], torch.linspace(-0.999, 0.999, 31)]),
            }[name].float()
            expected = mapped(POINTWISE[name][0], x)
            got = function(x.clone())
        elif name == "safe_norm":
            x = (randn(37, 3) * torch.logspace(-30, 30, 37)[:, None]).float()
            expected, got = norm_by_hand(x, 1), function(x, 1)
        else:
            limit = 1e-5
            x, mask = 3 * randn(11, 7) + 20, row_mask(11, 7)
            got = function(x, mask, 1)
            pair = weights_by_hand(x, mask, 1)
            expected = pair[name == "masked_logsumexp"]
        assert_shape(assert_tensor(got), **{f"axis_{i}": n for i, n in enumerate(expected.shape)})
        error = (got.detach().double() - expected).abs() / expected.abs().clamp(min=1e-300)
        error = torch.where(got.isfinite() & (expected != 0), error, (got != expected).double())
        at = int(error.argmax())
        worst = error.flatten()[at].item()
        input_at = x.flatten()[at].item() if x.shape == expected.shape else None
        expect(
            worst < limit,
            f"{name}{'' if input_at is None else f' at {input_at:.6g}'} is "
            f"{got.flatten()[at].item():.9g}; expected {expected.flatten()[at].item():.9g}: the "
            f"relative error is {worst:.1g}, allowed is {limit:g} in float32. An eps, a clamp or "
            "a difference of nearly equal numbers costs digits",
            expected=expected.flatten()[at].item(),
            got=got.flatten()[at].item(),
        )

    @pytest.mark.points(2, "value")
    @pytest.mark.parametrize("name", ZOO)
    def test_half_precision(self, submission, name):
        """In float16 values and gradients are right and finite."""
        function = getattr(submission, name)
        if name in POINTWISE:
            points = {
                "safe_sqrt": [0.0, 6e-5, 0.25, 3.0, 6e4],
                "log1mexp": [-1e-4, -1e-3, -0.5, -0.69, -0.7, -3.0, -7.0],
                "safe_acos": [-1.0, -0.99, 0.0, 0.5, 0.99, 1.0],
            }[name]
            x = torch.tensor(points, dtype=torch.float16).requires_grad_()
            result = function(x)
            expected = mapped(POINTWISE[name][0], x)
            upstream, gradient = backward(result, x)
            expected_gradient = upstream.double() * mapped(POINTWISE[name][1], x)
        elif name == "safe_norm":
            rows = [[300.0, 400.0], [0.0, 0.0], [3e-4, -4e-4], [1.0, 0.0]]
            x = torch.tensor(rows, dtype=torch.float16).requires_grad_()
            result = function(x, 1)
            expected = norm_by_hand(x, 1)
            upstream, gradient = backward(result, x)
            expected_gradient = norm_gradient(x, 1, upstream)
        else:
            x = (3 * randn(3, 5)).half().requires_grad_()
            mask = row_mask(3, 5)
            mask[2] = False
            try:
                result = function(x, mask, 1)
            except RuntimeError as error:
                if "overflow" not in str(error):
                    raise
                fail(
                    f"{name} in float16 raised an error ({error}): the largest float16 is 65504, "
                    "so -1e9 is no number there; -inf is"
                )
            weights, lse = weights_by_hand(x, mask, 1)
            upstream, gradient = backward(result, x)
            if name == "masked_softmax":
                expected, expected_gradient = weights, weights_gradient(weights, 1, upstream)
            else:
                expected, expected_gradient = lse, weights * upstream.double()[:, None]
        assert_dtype(result, torch.float16, f"{name} of a float16 tensor")
        assert_close(result.detach(), expected.half(), atol=1e-4, what=f"{name} in float16")
        assert_close(
            gradient,
            expected_gradient.half(),
            rtol=2e-2,
            atol=4e-3,
            what=f"the gradient of {name} in float16",
        )

    @pytest.mark.points(1, "shape")
    @pytest.mark.parametrize("name", ["masked_softmax", "masked_logsumexp"])
    def test_smaller_masks(self, submission, name):
        """A mask with fewer or shorter axes is stretched as in broadcasting."""
        function, at = getattr(submission, name), int(name == "masked_logsumexp")
        x = randn(2, 3, 5)
        masks = {
            "(5,)": torch.tensor([True, False, True, True, False]),
            "(3, 1)": torch.tensor([[True], [False], [True]]),
            "(2, 1, 5)": row_mask(2, 5)[:, None],
        }
        for text, mask in masks.items():
            for dim in (1, -1, 0):
                got = function(x, mask, dim)
                assert_close(
                    got,
                    weights_by_hand(x, mask, dim)[at].float(),
                    what=f"{name}(x, mask, {dim}) with x (2, 3, 5) and a mask {text}",
                )

    @pytest.mark.points(1, "structure")
    @pytest.mark.parametrize("name", ZOO)
    def test_no_nan_to_num(self, submission, name):
        """No function needs nan_to_num."""
        function = getattr(submission, name)
        x = domain(name, 3, 5).requires_grad_()
        mask = row_mask(3, 5)
        extra = () if name in POINTWISE else (1,) if name == "safe_norm" else (mask, 1)
        with forbid("nan_to_num", "nan_to_num_", why="it hides where the nan came from"):
            result = function(x, *extra)
            result.sum().backward()
        assert_shape(result, rows=3, **({} if result.ndim == 1 else {"columns": 5}))

    @pytest.mark.points(1, "structure")
    @pytest.mark.parametrize("name", ZOO)
    def test_arguments(self, submission, name):
        """Arguments stay as they are, and results on their device."""
        function = getattr(submission, name)
        x, mask = domain(name, 3, 5), row_mask(3, 5)
        extra = () if name in POINTWISE else (1,) if name == "safe_norm" else (mask, 1)
        assert_unchanged(function, x, *extra)
        assert_runs_on_meta(function, x, *extra)


# --- 2 ------------------------------------------------------------------------------------------


class Spoil(nn.Module):
    """Passes x on with one element replaced."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        at = torch.zeros(x.shape, dtype=torch.bool)
        at.view(-1)[at.numel() // 2] = True
        return x.masked_fill(at, self.value)


class Choke(nn.Module):
    """Passes x on; the gradient of its input is nan, or inf."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        zero = x - x.detach()
        return x + (zero.abs().sqrt() if math.isnan(self.value) else zero.sqrt())


class Exponential(nn.Module):
    """exp(x)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.exp()


class Difference(nn.Module):
    """x - x: nan where x is inf."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x


class Twice(nn.Module):
    """Two tensors and other things, as a tuple, a dict or both."""

    def __init__(self, kind: str, value: float = 0.0) -> None:
        super().__init__()
        self.kind, self.value = kind, value

    def forward(self, x: Tensor) -> Any:
        second = 2 * x + self.value
        if self.kind == "tuple":
            return torch.arange(3), x.tanh(), second
        if self.kind == "dict":
            return {"rows": x > 0, "first": x.tanh(), "second": second, "none": None}
        return x.tanh(), {"inner": (7, second)}


class Heads(nn.Module):
    """A trunk whose outputs come as a structure, and a head for each."""

    def __init__(self, kind: str, value: float = 0.0, last: nn.Module | None = None) -> None:
        super().__init__()
        self.body = nn.Linear(3, 5)
        self.trunk = Twice(kind, value)
        self.left, self.right = nn.Linear(5, 2), last or nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        out = self.trunk(self.body(x))
        if self.trunk.kind == "tuple":
            first, second = out[1], out[2]
        elif self.trunk.kind == "dict":
            first, second = out["first"], out["second"]
        else:
            first, second = out[0], out[1]["inner"][1]
        return self.left(first).sum() + self.right(second).sum()


class Recurrent(nn.Module):
    """One leaf module, run twice."""

    def __init__(self, shared: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.body, self.shared, self.last = nn.Linear(3, 3), shared, last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.shared(self.shared(self.body(x))))


def chain(sick: nn.Module | None = None, at: int = 0) -> nn.Sequential:
    """Seven layers, and a sick one before layer `at`."""
    model = nn.Sequential()
    for i in range(7):
        if sick is not None and i == at:
            model.add_module("sick", sick)
        model.add_module(
            f"linear{i}" if i % 2 == 0 else f"tanh{i}", nn.Linear(3, 3) if i % 2 == 0 else nn.Tanh()
        )
    return model


def traced(submission: Any, model: nn.Module, x: Tensor | None = None) -> Any:
    """The tracer after one forward and one backward."""
    tracer = submission.NanTracer(model)
    with tracer:
        model(randn(5, 3) if x is None else x).sum().backward()
    return tracer


def assert_first(tracer: Any, phase: str, expected: str | None, **known: str) -> None:
    """`first_forward` or `first_backward`; `known`: wrong name (dots as __) -> why."""
    got = getattr(tracer, f"first_{phase}")
    if got == expected:
        return
    why = {name.replace("__", "."): text for name, text in known.items()}.get(str(got), "")
    fail(
        f"first_{phase} is {got!r}; expected {expected!r}" + (f": {why}" if why else ""),
        expected=expected,
        got=got,
    )


def draw(tracer: Any) -> None:
    """The report as a picture: largest magnitudes on a log scale, bad ones marked."""
    entries = [entry for entry in tracer.report if len(entry) == 4][:24]
    bad = [f"{name} {phase}" for name, phase, _, good in entries if not good]
    picture(
        "bars",
        "Largest magnitude, in the order of execution",
        f"The first that is not finite: {bad[0]}." if bad else "All values are finite.",
        labels=[f"{'' if good else '! '}{name} {phase}" for name, phase, _, good in entries],
        series=[{"label": "largest finite magnitude", "values": [float(e[2]) for e in entries]}],
        log=True,
        unit="",
        limit=None,
    )


@pytest.mark.task("NanTracer")
class TestNanTracer:
    @pytest.mark.points(3, "value")
    def test_forward_fault(self, submission):
        """The first module with a bad output is named."""
        for value in (NAN, INF, -INF):
            at = int(torch.randint(0, 7, ()))
            model = chain(Spoil(value), at)
            tracer = traced(submission, model)
            assert_first(
                tracer,
                "forward",
                "sick",
                linear6="that is the last bad one; keep the first, later ones only pass it on",
            )

    @pytest.mark.points(3, "value")
    def test_backward_fault(self, submission):
        """The first module whose output's gradient is bad is named."""
        for value in (NAN, INF):
            at = int(torch.randint(3, 7, ()))
            model = chain(Choke(value), at)
            tracer = traced(submission, model)
            before, after = list(model._modules)[at - 1], list(model._modules)[at + 1]
            assert_first(
                tracer,
                "backward",
                before,
                **{
                    "linear0": "that is the last one in backward, which runs from the end of the "
                    "model to its beginning",
                    "sick": "the gradient of its *output* is finite; it is the gradient of its "
                    "input that is bad, which is the output of the module before",
                    after: "backward runs from the end of the model to its beginning",
                },
            )
            assert_first(tracer, "forward", None)

    @pytest.mark.points(2, "value")
    def test_inf_before_nan(self, submission):
        """An inf counts, though the nan comes later."""
        model = nn.Sequential(nn.Linear(3, 3), Exponential(), Difference(), nn.Tanh())
        nn.init.constant_(model[0].bias, 500.0)
        late = "that is where the inf became nan; the inf is the first bad value"
        tracer = traced(submission, model)
        assert_first(tracer, "forward", "1", **{"2": late, "3": late})
        model = chain(Choke(INF), 5)
        tracer = traced(submission, model)
        assert_first(tracer, "backward", "linear4", tanh3=late, linear2=late, tanh1=late)

    @pytest.mark.points(2, "value")
    @pytest.mark.parametrize("kind", ["tuple", "dict", "both"])
    def test_structures(self, submission, kind):
        """Tuples and dicts are looked into, for gradients too."""
        tracer = traced(submission, Heads(kind, INF))
        inside = "a leaf before it returned a structure with a bad tensor in it"
        assert_first(tracer, "forward", "trunk", right=inside)
        tracer = traced(submission, Heads(kind, 0.0, Choke(NAN)))
        assert_first(tracer, "forward", None)
        assert_first(tracer, "backward", "trunk", body=inside)
        model = nn.LSTM(3, 2)
        tracer = submission.NanTracer(model)
        with tracer:
            out, (_, cell) = model(randn(5, 3))
            (out.sum() + cell.sum()).backward()
        assert_first(tracer, "forward", None)

    @pytest.mark.points(2, "value")
    def test_run_twice(self, submission):
        """A module that runs twice is watched both times."""
        model = Recurrent(Exponential(), nn.Tanh())
        nn.init.constant_(model.body.bias, 20.0)
        tracer = traced(submission, model)
        assert_first(
            tracer, "forward", "shared", last="the second run of `shared` was bad, the first wasn't"
        )
        model = Recurrent(nn.Linear(3, 3), Choke(NAN))
        tracer = traced(submission, model)
        assert_first(tracer, "backward", "shared")
        runs = [(name, phase) for name, phase, *_ in tracer.report if name == "shared"]
        expected = [("shared", "forward")] * 2 + [("shared", "backward")] * 2
        expect(
            runs == expected,
            f"the report has {len(runs)} lines on a module that ran twice; expected two of forward "
            "and two of backward",
            expected=expected,
            got=runs,
        )

    @pytest.mark.points(1, "value")
    def test_leaf_names(self, submission):
        """A leaf is named in full, and no container."""
        block = nn.Sequential(nn.Linear(3, 3), nn.ModuleDict({"act": Spoil(NAN)})["act"])
        model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Tanh(), block), nn.Tanh())
        tracer = traced(submission, model)
        container = "that is a container; name the leaf, a module without children"
        assert_first(
            tracer,
            "forward",
            "1.1.1",
            **{"": container, "1": container, "1__1": container, "1.1": container},
        )
        alone = traced(submission, nn.Linear(3, 2), torch.full((5, 3), INF))
        assert_first(alone, "forward", "")

    @pytest.mark.points(1, "value")
    def test_healthy(self, submission):
        """A healthy model has nobody to blame."""
        tracer = traced(submission, chain())
        assert_first(tracer, "forward", None)
        assert_first(tracer, "backward", None)
        expect(
            all(entry[3] for entry in tracer.report),
            "the report of a healthy model has a line that is not finite",
            got=tracer.report,
        )

    @pytest.mark.points(2, "value")
    def test_report(self, submission):
        """The report has a line for every output and gradient, in order."""
        for spoiled in (False, True):
            layers = [nn.Linear(3, 5), nn.Tanh(), Spoil(INF if spoiled else 3.0), nn.Linear(5, 2)]
            model = nn.Sequential(*layers)
            x = randn(7, 3)
            upstream = randn(7, 2)
            tracer = submission.NanTracer(model)
            with tracer:
                model(x).backward(upstream.clone())
            draw(tracer)
            outputs = [x]
            for layer in layers:
                outputs.append(layer(outputs[-1]))
            gradients = torch.autograd.grad(outputs[-1], outputs[1:], upstream)
            expected = [(str(i), "forward", out) for i, out in enumerate(outputs[1:])]
            expected += [(str(i), "backward", gradients[i]) for i in (3, 2, 1, 0)]
            expect(
                len(tracer.report) == 8,
                f"the report has {len(tracer.report)} lines for 4 modules; expected 8, one for "
                "each output and one for each gradient of an output",
                expected=8,
                got=tracer.report,
            )
            for i, (entry, (name, phase, tensor)) in enumerate(
                zip(tracer.report, expected, strict=True)
            ):
                finite = tensor[tensor.isfinite()].abs()
                right = (name, phase, finite.max().item(), bool(tensor.isfinite().all()))
                expect(
                    tuple(type(part) for part in entry) == (str, str, float, bool),
                    f"line {i} of the report is {entry!r}; expected (str, str, float, bool), with "
                    "numbers of Python",
                )
                expect(
                    (*entry[:2], entry[3]) == (name, phase, right[3])
                    and abs(entry[2] - right[2]) <= 1e-5 * right[2],
                    f"line {i} of the report is {entry!r}; expected {right!r}: name, phase, "
                    "largest finite magnitude, all finite",
                    expected=right,
                    got=entry,
                )

    @pytest.mark.points(2, "structure")
    def test_hooks_removed(self, submission):
        """All hooks are gone afterwards, also after an exception."""
        for raising in (False, True):
            model = chain()
            theirs: list[str] = []
            model[2].register_forward_hook(lambda *_, seen=theirs: seen.append("hook"))
            tracer = submission.NanTracer(model)
            out, raised = None, None
            try:
                with tracer:
                    out = model(randn(5, 3))
                    if raising:
                        raise KeyError("from the block")
            except KeyError as error:
                raised = error
            expect(
                (raised is not None) == raising,
                "an exception in the block didn't come out of it; __exit__ must not return True",
            )
            lines = len(tracer.report)
            left = {
                f"{name or 'the model'}.{kind}": len(getattr(module, kind, ()))
                for name, module in model.named_modules()
                for kind in (
                    "_forward_hooks",
                    "_forward_pre_hooks",
                    "_backward_hooks",
                    "_backward_pre_hooks",
                )
            }
            expect(
                left["linear2._forward_hooks"] > 0,
                "a hook that was there before is gone; remove your own only, with "
                "`handle.remove()`",
            )
            left["linear2._forward_hooks"] -= 1
            left = {place: count for place, count in left.items() if count}
            expect(
                not left,
                f"after the block {next(iter(left), '')} still holds a hook"
                + (" (the block raised)" if raising else "")
                + "; keep every handle and call `remove()` in __exit__",
                got=left,
            )
            expect(
                not out._backward_hooks,
                "after the block the output tensor still holds a hook; keep these handles too",
            )
            out.sum().backward()
            model(randn(5, 3))
            expect(
                len(tracer.report) == lines,
                "the report grew after the block; nothing is watched there",
            )
            expect(len(theirs) == 2, "a hook that was there before is not called any more")

    @pytest.mark.points(1, "value")
    def test_nothing_changes(self, submission):
        """Results, gradients and random state are those of a bare run."""
        model = nn.Sequential(
            nn.Linear(3, 5), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(5, 2)
        )
        x, upstream = randn(7, 3), randn(7, 2)

        def run() -> list[Tensor]:
            model.zero_grad()
            torch.manual_seed(7)
            out = model(x)
            out.backward(upstream)
            gradients = [p.grad.clone() for p in model.parameters()]
            return [out.detach(), *gradients, torch.rand(3)]

        with submission.NanTracer(model):
            watched = run()
        for got, bare, what in zip(
            watched, run(), ["result", *["gradient"] * 4, "next random number"], strict=True
        ):
            expect(
                torch.equal(got, bare),
                f"under the tracer the {what} differs from that of a bare run; a hook only looks, "
                "and returns None",
                expected=bare,
                got=got,
            )

    @pytest.mark.points(1, "value")
    def test_no_grad(self, submission):
        """Under no_grad the forward is watched all the same."""
        model = chain(Spoil(NAN), 3)
        tracer = submission.NanTracer(model)
        with tracer, torch.no_grad():
            model(randn(5, 3))
        assert_first(tracer, "forward", "sick")
        assert_first(tracer, "backward", None)
