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
    assert_device,
    assert_dtype,
    assert_gradients,
    assert_raises,
    assert_shape,
    assert_tensor,
    assert_unchanged,
    expect,
    fail,
    forbid,
    measured,
    picture,
    randn,
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
    "on the way back an infinite derivative (a root's at 0 is one) met a 0, and 0 * inf is nan. "
    "A branch that `where` didn't take is still differentiated: make the input of the function "
    "harmless first"
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
        # Many entries: what is rounded to nearly 0 is exactly 0 here and there.
        for size, shape in ((1.0, (17, 31)), (1e4, (3, 7))):
            x = (size * randn(*shape)).requires_grad_()
            mask = row_mask(*shape)
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
            x = (3 * randn(3, 5)).half()
            x[0, 0] = 12.0  # exp(12) is no float16
            x.requires_grad_()
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
    def test_arguments(self, submission, name, device):
        """Arguments stay as they are, and results on their device."""
        function = getattr(submission, name)
        x, mask = domain(name, 3, 5).to(device), row_mask(3, 5).to(device)
        extra = () if name in POINTWISE else (1,) if name == "safe_norm" else (mask, 1)
        result = assert_unchanged(function, x, *extra)
        assert_device(result, device)


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


# --- 3 ------------------------------------------------------------------------------------------


class Operators(TorchDispatchMode):
    """Short names of all dispatched operators."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def judged(submission: Any, fn: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """The learner's answer, with fresh copies of the arguments; must be None or (str, int)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the variance of one sample warns
        got = submission.first_bad_op(
            fn, *[a.clone() if isinstance(a, Tensor) else a for a in args], **options
        )
    expect(
        got is None or (isinstance(got, tuple) and [type(part) for part in got] == [str, int]),
        f"first_bad_op returned {got!r}; expected None or a tuple (str, int)",
        got=got,
    )
    return got


def assert_blamed(
    submission: Any,
    said: str,
    fn: Callable[..., Any],
    *args: Any,
    name: str | None,
    nth: int = 0,
    place: bool = False,
    why: str = "",
    **options: Any,
) -> None:
    """Hold the answer to the planted operator: the `nth` of that name in the suite's own log."""
    got = judged(submission, fn, *args, **options)
    with warnings.catch_warnings(), Operators() as log:
        warnings.simplefilter("ignore")
        fn(*args)
    places = [i for i, found in enumerate(log.names) if found == name]
    expected = (name, places[nth]) if name else None
    picture(
        "text",
        f"The operators of {said}",
        f"The first that creates a bad value: {expected}." if expected else "None is to blame.",
        panels=[
            {
                "label": "in the order of execution",
                "lines": [f"{i} {found}" for i, found in enumerate(log.names)],
                "marked": [expected[1]] if expected else [],
            }
        ],
    )
    if got == expected or (not place and got and expected and got[0] == expected[0]):
        return
    if expected and got and got[0] == name and place:
        why = f"the operators are {', '.join(log.names)}; all are counted, from 0, views too"
    fail(
        f"{said}: first_bad_op returned {got!r}; expected {expected!r}"
        + (f": {why}" if why else ""),
        expected=expected,
        got=got,
    )


def spoiled(value: float) -> Tensor:
    """(3, 5) random, one element replaced."""
    x = randn(3, 5)
    x[1, 2] = value
    return x


PLANTED: tuple[tuple[str, str, int, Callable[[Tensor], Any]], ...] = (
    ("0 / 0", "div", 0, lambda x: ((x - x) / (x - x)).exp().sum()),
    ("x / 0.0", "div", 0, lambda x: (x.t() / 0.0).tanh()),
    ("exp(12) in float16", "exp", 0, lambda x: (x.half() * 0 + 12).exp().sum(0) + 1),
    ("the log of negative numbers", "log", 0, lambda x: (x.abs() + 1).neg().view(-1).log().mean()),
    ("0 * log(0)", "log", 0, lambda x: (x * 0) * (x[0] * 0).log()),
    ("the variance of one sample", "var", 0, lambda x: x - x[:1].var(0)),
    ("normalize without eps", "div", 0, lambda x: F.normalize(x * 0, dim=-1, eps=0.0) * 2),
    ("a matmul of 1e30", "mm", 0, lambda x: (x.abs() + 1e30) @ (x.abs() + 1e30).t()),
    ("acos(3)", "acos", 0, lambda x: torch.cat([x, (x.abs() + 3).acos()]).unsqueeze(0)),
    ("0 to the power -1", "pow", 0, lambda x: 0.0 * (x.abs() * 0) ** -1),
)


@pytest.mark.task("first_bad_op")
class TestFirstBadOp:
    @pytest.mark.points(3, "value")
    def test_names(self, submission):
        """The operator that creates the first bad value is named."""
        for said, name, nth, fn in PLANTED:
            assert_blamed(
                submission,
                said,
                fn,
                randn(3, 5),
                name=name,
                nth=nth,
                why="it is the first that creates nan from inputs without nan, or inf from finite "
                "ones",
            )

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_names")
    def test_places(self, submission):
        """Its place counts every operator from 0, views too."""
        for said, name, nth, fn in PLANTED:
            assert_blamed(submission, said, fn, randn(3, 5), name=name, nth=nth, place=True)
        assert_blamed(
            submission,
            "the second exp of exp(exp(20))",
            lambda x: (x * 0 + 20).exp().exp(),
            randn(3, 5),
            name="exp",
            nth=1,
            place=True,
        )

    @pytest.mark.points(2, "value")
    def test_messengers(self, submission):
        """Operators that pass a bad value on are not blamed."""
        messenger = "its input was bad already, so it only passes that on"
        for value in (NAN, INF):
            for said, fn in (
                ("x * 2 and a sum", lambda x: (x * 2).sum()),
                ("exp", lambda x: x.exp()),
                ("stack of a list", lambda x: torch.stack([torch.ones(3, 5), x])),
                ("where", lambda x: torch.where(x > 0, x, x.t().reshape(3, 5) * 2)),
            ):
                assert_blamed(
                    submission,
                    f"{said}, with an argument that holds {value:g}",
                    fn,
                    spoiled(value),
                    name=None,
                    why=messenger,
                )
        assert_blamed(
            submission,
            "a nan argument, and a log of negative numbers beside it",
            lambda x, y: x.exp() + (y.abs() + 1).neg().log(),
            spoiled(NAN),
            randn(3, 5),
            name="log",
            why=messenger,
        )

    @pytest.mark.points(2, "value")
    def test_nan_from_inf(self, submission):
        """A nan made of inf is a new one."""
        why = "its inputs hold inf but no nan, so the nan is its own"
        mask = torch.tensor([[False], [True], [False]])
        assert_blamed(
            submission,
            "softmax with a row filled with -inf",
            lambda x: x.masked_fill(mask, -INF).softmax(-1).sum(),
            randn(3, 5),
            name="_softmax",
            why=why,
        )
        assert_blamed(
            submission,
            "inf - inf, with an inf argument",
            lambda x: x * 2 - x,
            spoiled(INF),
            name="sub",
            why=why,
        )
        assert_blamed(
            submission,
            "0 * inf, with an inf argument",
            lambda x, y: (y + 1) * x * 0.0,
            spoiled(INF),
            randn(3, 5),
            name="mul",
            nth=1,
            place=True,
            why=why,
        )

    @pytest.mark.points(2, "value")
    def test_allowed(self, submission):
        """Filling with -inf is legal, as far as `allow` says so."""
        mask = torch.tensor([True, False, True, False, False])
        legal = "filling with -inf is meant; the names in `allow` are never blamed"
        for said, fn in (
            ("masked_fill with -inf", lambda x: x.masked_fill(mask, -INF).softmax(-1)),
            ("masked_fill_ with -inf", lambda x: (x * 2).masked_fill_(mask, -INF).softmax(-1)),
            ("where with -inf", lambda x: torch.where(mask, x, -INF).softmax(-1)),
        ):
            assert_blamed(submission, said, fn, randn(3, 5), name=None, why=legal)
        assert_blamed(
            submission,
            "masked_fill with -inf and allow=()",
            lambda x: (x * 2).masked_fill(mask, -INF).softmax(-1),
            randn(3, 5),
            name="masked_fill",
            why="nothing is allowed here",
            allow=(),
        )
        assert_blamed(
            submission,
            'exp(exp(20)) and a log of 0 with allow=("exp",)',
            lambda x: (x * 0 + 20).exp().exp().mul(0).add(x).log() + (x * 0).log(),
            randn(3, 5).abs(),
            name="mul",
            nth=1,
            why="exp is allowed here, so the first nan is the one of inf * 0",
            allow=("exp",),
        )

    @pytest.mark.points(2, "value")
    def test_dtypes(self, submission):
        """Ints, bools, several outputs and all float dtypes work."""
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            assert_blamed(
                submission,
                f"a log of negative numbers in {dtype}",
                lambda x: (x.abs() + 1).neg().log().to(torch.float32),
                randn(3, 5).to(dtype),
                name="log",
                why=f"{dtype} has nan and inf too",
            )
        assert_blamed(
            submission,
            "ints and bools",
            lambda x, flag: (x.argmax(-1) // 2, x > 0, x.topk(2), x.long().sort(), flag),
            randn(3, 5),
            True,
            name=None,
        )
        assert_blamed(
            submission,
            "var_mean of one sample, which has two outputs",
            lambda x: torch.var_mean(x[:1], 0),
            randn(3, 5),
            name="var_mean",
        )
        assert_blamed(
            submission,
            "an int divided by 0.0",
            lambda x: x.long() / 0.0,
            randn(3, 5) + 9,
            name="div",
        )

    @pytest.mark.points(1, "value")
    def test_in_place(self, submission):
        """Inputs are judged as they were before the operator."""
        for said, name, fn in (
            ("log_ of negative numbers", "log_", lambda x: (x.abs() + 1).neg_().log_().sum()),
            ("div_ by 0.0", "div_", lambda x: x.clone().div_(0.0).sum()),
        ):
            assert_blamed(
                submission,
                said,
                fn,
                randn(3, 5),
                name=name,
                why="it writes into its input; look at the inputs before it runs",
            )

    @pytest.mark.points(1, "value")
    def test_clean(self, submission):
        """None, when nothing is created; fn runs once."""
        calls = []

        def fn(x: Tensor) -> Tensor:
            calls.append(1)
            full = torch.full((3, 5), -INF)
            return torch.maximum(x.softmax(-1).log(), full) + nn.functional.gelu(x)

        got = judged(submission, fn, randn(3, 5))
        expect(
            got is None,
            f"first_bad_op returned {got!r}; expected None: an operator without tensor inputs, "
            "such as `full`, is never blamed",
            got=got,
        )
        expect(len(calls) == 1, f"fn was called {len(calls)} times; expected once")


# --- 4 ------------------------------------------------------------------------------------------


class Rows(Dataset):
    """A data set in memory that counts what is read."""

    def __init__(self, x: Tensor, y: list[int]) -> None:
        self.x, self.y = x, y
        self.reads = [0] * len(y)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        if not 0 <= i < len(self.y):
            raise IndexError(i)
        self.reads[i] += 1
        return self.x[i].clone(), self.y[i]


def labels(rows: int) -> list[int]:
    """Labels of three classes."""
    return [i % 3 for i in range(rows)]


def assert_rows(submission: Any, ds: Rows, why: str = "", z: float | None = None, **rows: Any):
    """Hold `bad_rows` to these rows; keys that are not named are empty."""
    got = submission.bad_rows(ds, 3) if z is None else submission.bad_rows(ds, classes=3, z=z)
    keys = ("nan", "inf", "outlier", "label_range")
    expect(
        isinstance(got, dict) and sorted(got) == sorted(keys),
        f"the result has the keys {sorted(got) if isinstance(got, dict) else got!r}; expected "
        f"{', '.join(keys)}",
    )
    for key in keys:
        expected = rows.get(key, [])
        found = got[key]
        expect(
            isinstance(found, list) and all(type(row) is int for row in found),
            f"`{key}` is {found!r}; expected a list of Python ints",
        )
        expect(
            found == expected,
            f"`{key}` is {found}; expected {expected}"
            + (f": {why}" if why and sorted(found) != sorted(expected) else "")
            + (": sorted" if sorted(found) == expected else ""),
            expected=expected,
            got=found,
        )


@pytest.mark.task("bad_rows")
class TestBadRows:
    @pytest.mark.points(2, "value")
    def test_planted(self, submission):
        """The planted rows are found, and no others."""
        for shift in (0, 2):
            x, y = randn(31, 5), labels(31)
            x[3 + shift, 4] = x[17, 1] = NAN
            x[17, 2], x[5 + shift, 2] = INF, -INF
            x[22, 3], x[8 + shift, 0], x[5 + shift, 1] = 1000.0, -1000.0, 500.0
            y[30 - shift], y[1] = 3, -1
            assert_rows(
                submission,
                Rows(x, y),
                nan=[3 + shift, 17],
                inf=[5 + shift, 17],
                outlier=sorted([22, 8 + shift, 5 + shift]),
                label_range=[1, 30 - shift],
            )
        assert_rows(submission, Rows(randn(31, 5), labels(31)))

    @pytest.mark.points(1, "value")
    def test_outlier_beside_nan(self, submission):
        """A nan or inf in a feature doesn't hide its outliers."""
        for value, key in ((NAN, "nan"), (INF, "inf")):
            x = randn(31, 2)
            x[4, 1], x[9, 1], x[20, 1] = value, 1000.0, value
            assert_rows(
                submission,
                Rows(x, labels(31)),
                f"{value:g} in a feature spoils its statistics; median and MAD are over the finite "
                "entries, and only these can be outliers",
                outlier=[9],
                **{key: [4, 20]},
            )

    @pytest.mark.points(1, "value")
    def test_constant_features(self, submission):
        """A feature with MAD 0 has no outliers."""
        x = randn(31, 4)
        x[:, 0] = 7.0
        x[:, 1] = 0.1
        x[:, 2] = 0.0
        x[13, 2] = 1000.0
        assert_rows(
            submission,
            Rows(x, labels(31)),
            "features whose MAD is 0 tell nothing; 0 / 0 and x / 0 are no scores",
        )

    @pytest.mark.points(1, "structure")
    def test_read_once(self, submission):
        """Every item is read once."""
        ds = Rows(randn(31, 5), labels(31))
        submission.bad_rows(ds, 3)
        expect(
            set(ds.reads) == {1},
            f"an item was read {max(ds.reads)} times, another {min(ds.reads)} times; expected once "
            "each: reading may be slow, or draw at random",
            got=ds.reads,
        )

    @pytest.mark.points(1, "value")
    def test_ints(self, submission):
        """Features may be ints."""
        x = torch.randint(-50, 50, (31, 3))
        x[6, 2] = 100_000
        assert_rows(submission, Rows(x, labels(31)), outlier=[6])

    @pytest.mark.points(1, "value")
    def test_labels(self, submission):
        """Labels outside 0 to classes - 1 are found."""
        y = labels(31)
        y[2], y[7], y[19] = -1, 3, 1000
        assert_rows(
            submission,
            Rows(randn(31, 2), y),
            "labels are 0 to classes - 1: with 3 classes 3 is out of range, and so is -1",
            label_range=[2, 7, 19],
        )

    @pytest.mark.points(2, "value")
    def test_contamination(self, submission):
        """Twenty per cent of outliers don't hide each other."""
        x = randn(40, 3)
        rows = sorted(torch.randperm(40)[:8].tolist())
        x[rows, 1] += 1000.0
        assert_rows(
            submission,
            Rows(x, labels(40)),
            "outliers raise mean and standard deviation until they hide in them; median and MAD "
            "stay",
            outlier=rows,
        )

    @pytest.mark.points(1, "value")
    def test_threshold(self, submission):
        """The score is 0.6745 * |x - median| / MAD, its limit z."""
        for value, z, outliers in ((40.0, 8.0, [10]), (35.0, 8.0, []), (40.0, 9.5, [])):
            x = torch.arange(-5.0, 6.0)[:, None] + 3
            x[10] = value + 3
            assert_rows(
                submission,
                Rows(x, labels(11)),
                f"the value {value + 3:g} in a feature with median 3 and MAD 3 has the score "
                f"{0.6745 * value / 3:.2f}, and z is {z:g}",
                z=z,
                outlier=outliers,
            )


# --- 5 ------------------------------------------------------------------------------------------

NAN_LOSS, INF_LOSS, EXPLODING = NAN, INF, 100.0
INF_GRADIENT, BOTH = -1.0, -100.0
"""Scales of a batch that make its step bad; the last: an exploding loss with an inf gradient."""


def scaled_loss(out: Tensor, y: Tensor) -> Tensor:
    """Mean squared error times the scale in the last column of y.

    Args:
        out: (batch, 2)
        y: (batch, 3), the targets and the scale; a negative one makes the gradient inf.
    """
    scale = y[0, 2]
    total = out.sum()
    loss = F.mse_loss(out, y[:, :2]) * scale.abs()
    return loss + (total - total.detach()).sqrt() if float(scale) < 0 else loss


def batches(*scales: float) -> list[tuple[Tensor, Tensor]]:
    """A batch for every scale: x (7, 3), y (7, 3), with losses of about the same size."""
    made = []
    for scale in scales:
        y = torch.cat([randn(7, 2) + 5, torch.full((7, 1), scale)], 1)
        made.append((randn(7, 3), y))
    return made


class Run:
    """A small model with an optimizer of two groups; runs of one seed begin alike."""

    def __init__(self, seed: int, kind: str = "sgd", lr: float = 0.002) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
        for p in self.model.parameters():
            p.data.copy_(torch.randn(p.shape, generator=generator) / 2)
        groups = [
            {"params": list(self.model[0].parameters()), "lr": lr},
            {"params": list(self.model[2].parameters()), "lr": lr / 2},
        ]
        if kind == "adam":
            self.opt: torch.optim.Optimizer = torch.optim.Adam(groups)
        else:
            self.opt = torch.optim.SGD(groups, momentum=0.9 if kind == "sgd" else 0.0)

    def fit(self, submission: Any, data: Any, steps: int, **policy: Any) -> Any:
        """Train with the learner's loop; without clipping where nothing else is said."""
        chosen = submission.Policy(**{"clip_factor": INF, **policy})
        return submission.guarded_fit(
            self.model, data, scaled_loss, self.opt, steps=steps, policy=chosen
        )

    def plain(self, data: list[tuple[Tensor, Tensor]], lr_factor: float = 1.0) -> "Run":
        """Train with a bare loop over all of `data`."""
        for group in self.opt.param_groups:
            group["lr"] *= lr_factor
        for x, y in data:
            self.opt.zero_grad()
            scaled_loss(self.model(x), y).backward()
            self.opt.step()
        return self

    def weights(self) -> Tensor:
        """(32,) all parameters, one after another."""
        return torch.cat([p.detach().flatten() for p in self.model.parameters()])

    def moments(self) -> list[Tensor]:
        """All tensors of the optimizer's state, parameter by parameter."""
        return [
            value.detach().clone()
            for p in self.model.parameters()
            for _, value in sorted(self.opt.state.get(p, {}).items())
            if isinstance(value, Tensor)
        ]

    def rates(self) -> list[float]:
        """The lr of each group."""
        return [float(group["lr"]) for group in self.opt.param_groups]


def draw_seed() -> int:
    """A seed for `Run`, from the check's own."""
    return int(torch.randint(10**6, ()))


def assert_same_weights(got: Run, expected: Run, said: str, known: dict[str, Run] | None = None):
    """Bit for bit; `known`: sentence -> the run of a known mistake."""
    found, right = got.weights(), expected.weights()
    if torch.equal(found, right):
        return
    why = ""
    if not found.isfinite().all():
        why = ": a step was made with a gradient that is not finite"
    for sentence, run in (known or {}).items():
        if torch.equal(found, run.weights()):
            why = f": {sentence}"
    fail(
        f"{said} the weights differ from those expected, by {(found - right).abs().max():.3g}{why}",
        expected=right,
        got=found,
    )


def assert_same_moments(got: Run, expected: Run, said: str) -> None:
    """The optimizer's state, bit for bit."""
    found, right = got.moments(), expected.moments()
    expect(
        len(found) == len(right)
        and all(torch.equal(a, b) for a, b in zip(found, right, strict=False)),
        f"{said} the optimizer's state (its momentum or moments) is not the one expected",
        expected=right,
        got=found,
    )


def assert_report(report: Any, steps: int, causes: dict[int, str], rollbacks: int = 0) -> None:
    """The fields of a report."""
    expect(
        isinstance(report.losses, list)
        and len(report.losses) == steps
        and all(type(loss) is float for loss in report.losses),
        f"losses has {len(report.losses)} entries, of type "
        f"{', '.join(sorted({type(loss).__name__ for loss in report.losses}))}; expected the loss "
        f"of each of the {steps} steps as a float, bad ones too",
    )
    expect(
        list(report.skipped) == sorted(causes),
        f"skipped is {report.skipped}; expected {sorted(causes)}",
        expected=sorted(causes),
        got=report.skipped,
    )
    expect(
        report.causes == causes,
        f"causes is {report.causes}; expected {causes}",
        expected=causes,
        got=report.causes,
    )
    expect(
        report.rollbacks == rollbacks,
        f"rollbacks is {report.rollbacks}; expected {rollbacks}",
        expected=rollbacks,
        got=report.rollbacks,
    )


class Epochs:
    """A loader whose batches differ from epoch to epoch."""

    def __init__(self, data: list[tuple[Tensor, Tensor]], size: int) -> None:
        self.data, self.size, self.epoch = data, size, 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        start = self.epoch * self.size
        self.epoch += 1
        return iter(self.data[start : start + self.size])


def clipped(seed: int, data: list[tuple[Tensor, Tensor]], mistake: str = "") -> Tensor:
    """The weights after clipping by the rule, or by a known mistake."""
    run = Run(seed, "plain")
    norms: list[float] = []
    for x, y in data:
        run.opt.zero_grad()
        loss = scaled_loss(run.model(x), y)
        if not loss.isfinite():
            continue
        loss.backward()
        gradients = [p.grad for p in run.model.parameters() if p.grad is not None]
        norm = math.sqrt(sum((g.double() ** 2).sum().item() for g in gradients))
        seen = norms if mistake == "all" else norms[-12:]
        if mistake == "current":
            seen = [*norms, norm][-12:]
        factor = 1.0
        if len(norms) >= 10 and mistake != "none":
            ordered = sorted(seen)
            place = 0.9 * (len(ordered) - 1)
            low = math.floor(place)
            high = min(low + 1, len(ordered) - 1)
            limit = ordered[low] + (place - low) * (ordered[high] - ordered[low])
            factor = min(1.0, (1.0 if mistake == "factor" else 1.5) * limit / norm)
        for g in gradients:
            g.mul_(factor)
        norms.append(norm * factor if mistake == "clipped" else norm)
        run.opt.step()
    return run.weights()


class Reads(TorchDispatchMode):
    """Counts numbers read from tensors; `tolist` is seen by `Lists` alone."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__ == "_local_scalar_dense"
        return func(*args, **(kwargs or {}))


class Lists(TorchFunctionMode):
    """Counts calls of `tolist`."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is Tensor.tolist
        return func(*args, **(kwargs or {}))


class UnrolledNet(nn.Module):
    """A recurrent net with large weights: its gradients explode now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.again, self.leave = nn.Linear(1, 16), nn.Linear(16, 16), nn.Linear(16, 1)
        with torch.no_grad():
            self.again.weight.mul_(2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.zeros(len(x), 16)
        for t in range(x.shape[1]):
            hidden = torch.relu(self.enter(x[:, t : t + 1]) + self.again(hidden))
        return self.leave(hidden)[:, 0]


def log_of_softmax(out: Tensor, y: Tensor) -> Tensor:
    """Cross entropy as it must not be written: log(0) where softmax underflows."""
    return -out.softmax(-1).gather(1, y[:, None]).log().mean()


def sick_run(kind: str) -> tuple[nn.Module, Any, Any, torch.optim.Optimizer, int]:
    """(model, loader, loss_fn, optimizer, steps) of a training that goes wrong in a known way."""
    if kind == "exploding RNN":
        model: nn.Module = UnrolledNet()
        x = randn(32, 12)
        opt: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), 0.3)
        return model, [(x, 3 * x.mean(1))], F.mse_loss, opt, 60
    x = randn(256, 10)
    y = (x[:, 0] * x[:, 1] > 0).long()
    if kind == "nan row":
        x[77] = NAN
    elif kind == "unscaled feature":
        x[:, 3] *= 1e4
    elif kind == "log(0)":
        x[64:128] *= 200
    model = nn.Sequential(
        nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)
    )
    opt = torch.optim.Adam(model.parameters(), 3e-3)
    if kind == "lr of 50":
        opt = torch.optim.SGD(model.parameters(), 50.0)
    loss_fn = log_of_softmax if kind == "log(0)" else F.cross_entropy
    return model, list(zip(x.split(64), y.split(64), strict=True)), loss_fn, opt, 100


@pytest.mark.task("rescue_training")
class TestRescueTraining:
    @pytest.mark.points(4, "training")
    @pytest.mark.parametrize("kind", ["sgd", "adam"])
    def test_plain_loop(self, submission, kind):
        """Without bad steps and clipping it is a plain loop, bit for bit."""
        seed, data = draw_seed(), batches(*[1.0] * 25)
        run = Run(seed, kind)
        report = run.fit(submission, Epochs(data, 5), 23, explode=1e9)
        expected = Run(seed, kind).plain(data[:23])
        assert_same_weights(
            run,
            expected,
            "after 23 steps over a loader with new batches in every epoch",
            {
                "the batches of the first epoch were used again; iterate over the loader anew, it "
                "may shuffle": Run(seed, kind).plain((data[:5] * 5)[:23]),
                "the gradients were never emptied, or no step was made": Run(seed, kind),
            },
        )
        assert_same_moments(run, expected, "after 23 steps")
        assert_report(report, 23, {})
        bare = Run(seed, kind)
        first = scaled_loss(bare.model(data[0][0]), data[0][1]).item()
        expect(
            abs(report.losses[0] - first) <= 1e-5 * first,
            f"the first loss is {report.losses[0]:.6g}; expected {first:.6g}",
        )

    @pytest.mark.points(3, "training")
    @pytest.mark.parametrize("kind", ["sgd", "adam"])
    def test_nan_row(self, submission, kind):
        """A batch with a nan is skipped in every epoch, the rest trains."""
        seed, data = draw_seed(), batches(*[1.0] * 4)
        data[1][0][3, 2] = NAN
        run = Run(seed, kind)
        report = run.fit(submission, data, 18)
        good = [data[i % 4] for i in range(18) if i % 4 != 1]
        expected = Run(seed, kind).plain(good)
        assert_same_weights(run, expected, "after 18 steps, with a nan in every fourth batch,")
        for moment in run.moments():
            expect(bool(moment.isfinite().all()), "the optimizer's state holds nan or inf")
        assert_report(report, 18, dict.fromkeys((1, 5, 9, 13, 17), "loss"))

    @pytest.mark.points(4, "value")
    def test_causes(self, submission):
        """Bad steps are reported with their causes, and no others."""
        scales = [NAN_LOSS, 1.0, 2.0, EXPLODING, INF_LOSS, 1.0, INF_GRADIENT, 0.5, BOTH, 1.0]
        report = Run(draw_seed(), lr=1e-6).fit(submission, batches(*scales), 10)
        causes = {0: "loss", 3: "explode", 4: "loss", 6: "grad", 8: "grad"}
        assert_report(report, 10, causes)
        expect(
            math.isnan(report.losses[0]) and report.losses[4] == INF,
            f"the losses of the steps 0 and 4 are {report.losses[0]:g} and {report.losses[4]:g}; "
            "expected nan and inf, as they were",
        )
        report = Run(draw_seed(), lr=1e-6).fit(
            submission, batches(1.0, 6.0, 30.0, 1.0), 4, explode=2.5
        )
        assert_report(report, 4, {1: "explode", 2: "explode"})
        report = Run(draw_seed(), lr=1e-6).fit(submission, batches(30.0, 1.0, 30.0, 1.0, 30.0), 5)
        assert_report(report, 5, {})

    @pytest.mark.points(4, "training")
    @pytest.mark.parametrize("kind", ["sgd", "adam"])
    def test_bad_step_changes_nothing(self, submission, kind):
        """A bad step leaves weights and optimizer as they were."""
        for scale, said in (
            (NAN_LOSS, "a nan loss"),
            (INF_GRADIENT, "an inf gradient"),
            (EXPLODING, "an exploding loss"),
        ):
            seed, data = draw_seed(), batches(1.0, 1.0, 1.0, 1.0, scale)
            run = Run(seed, kind)
            run.fit(submission, data, 5)
            expected = Run(seed, kind).plain(data[:4])
            still = Run(seed, kind).plain(data[:4])
            for p in still.model.parameters():
                p.grad = torch.zeros_like(p)
            still.opt.step()
            known = {
                "a step with gradients of 0 still moves them (momentum); leave the step out": still
            }
            if scale == EXPLODING:
                known["the step was made all the same"] = Run(seed, kind).plain(data)
            assert_same_weights(run, expected, f"after a step with {said}", known)
            assert_same_moments(run, expected, f"after a step with {said}")

    @pytest.mark.points(4, "training")
    def test_clipping(self, submission):
        """Good steps are clipped by the norms of the good steps before."""
        scales = [1.0, 0.5, 2.0, 1.0, 1.5, 30.0, 1.0, 2.0, NAN_LOSS, 1.5, 1.0, 0.5, 1.0, 1.0]
        scales += [40.0, 1.0, 2.0, 1.0, 0.5, 20.0, 1.0, 30.0, 300.0]
        seed, data = draw_seed(), batches(*scales)
        run = Run(seed, "plain")
        run.fit(
            submission,
            data,
            len(data),
            explode=1e9,
            clip_factor=1.5,
            clip_quantile=0.9,
            window=12,
        )
        mistakes = {
            "none": "nothing was clipped",
            "current": "the norm of the step itself was among those it is judged by; take those "
            "before it",
            "clipped": "the norms were kept after clipping; keep them as they were before",
            "all": "all norms were used; expected those of the last `window` good steps",
            "factor": "clip_factor was left out",
        }
        assert_close(
            run.weights(),
            clipped(seed, data),
            rtol=1e-4,
            atol=1e-5,
            what="the vector of all weights after steps with outsized gradients",
            explain={said: clipped(seed, data, name) for name, said in mistakes.items()},
        )

    @pytest.mark.points(3, "training")
    @pytest.mark.parametrize("kind", ["sgd", "adam"])
    def test_rollback(self, submission, kind):
        """After three bad steps model and optimizer are those of the snapshot."""
        for good, kept in ((13, 10), (4, 0), (21, 20)):
            seed, data = draw_seed(), batches(*[1.0] * good, *[NAN_LOSS] * 3)
            run = Run(seed, kind)
            report = run.fit(submission, data, good + 3)
            said = f"after {good} good steps and a rollback"
            expected = Run(seed, kind).plain(data[:kept])
            assert_same_weights(
                run,
                expected,
                said,
                {
                    "they were not restored; does the snapshot share its tensors with the model, "
                    "as `state_dict()` does?": Run(seed, kind).plain(data[:good]),
                    "they are those of the start; a snapshot is taken after every "
                    "`snapshot_every` good steps": Run(seed, kind),
                },
            )
            assert_same_moments(run, expected, said)
            assert_report(report, good + 3, dict.fromkeys(range(good, good + 3), "loss"), 1)

    @pytest.mark.points(2, "training")
    @pytest.mark.parametrize("kind", ["sgd", "adam"])
    def test_second_rollback(self, submission, kind):
        """A snapshot stays as it is while the training goes on from it."""
        scales = [*[1.0] * 13, *[NAN_LOSS] * 3, 1.0, 1.0, *[EXPLODING] * 3]
        seed, data = draw_seed(), batches(*scales)
        run = Run(seed, kind)
        report = run.fit(submission, data, len(data))
        expected = Run(seed, kind).plain(data[:10])
        said = "after a second rollback to the same snapshot"
        shared = "; training went on in the snapshot's own tensors: load a copy of it"
        assert_same_weights(run, expected, said)
        found, right = run.moments(), expected.moments()
        expect(
            len(found) == len(right) and all(map(torch.equal, found, right)),
            f"{said} the optimizer's state is not the one expected{shared}",
            expected=right,
            got=found,
        )
        causes = {13: "loss", 14: "loss", 15: "loss", 18: "explode", 19: "explode", 20: "explode"}
        assert_report(report, len(data), causes, 2)

    @pytest.mark.points(3, "value")
    def test_learning_rate(self, submission):
        """A rollback lowers every group's lr for good, and nothing else does."""
        seed = draw_seed()
        run = Run(seed)
        run.fit(submission, batches(*[1.0] * 12, NAN_LOSS, NAN_LOSS, 1.0), 15, clip_factor=4.0)
        expect(
            run.rates() == [0.002, 0.001],
            f"the rates of the groups are {run.rates()} after a training without rollback; "
            "expected [0.002, 0.001], as they were",
            expected=[0.002, 0.001],
            got=run.rates(),
        )
        for good in (2, 11):
            scales = [*[1.0] * 11, *[NAN_LOSS] * 3, *[1.0] * good, *[NAN_LOSS] * 3]
            data = batches(*scales)
            for rollbacks, steps in ((1, 14), (2, len(scales))):
                run = Run(seed)
                run.fit(submission, data, steps, lr_factor=0.25)
                expected = [0.002 * 0.25**rollbacks, 0.001 * 0.25**rollbacks]
                why = "`load_state_dict` brings back the lr of the snapshot too"
                if run.rates() == [0.002, 0.001]:
                    why += "; it was not lowered at all"
                expect(
                    all(abs(a - b) < 1e-9 for a, b in zip(run.rates(), expected, strict=True)),
                    f"after {rollbacks} rollbacks with lr_factor 0.25, {good} good steps between "
                    f"them, the rates of the groups are {run.rates()}; expected {expected}: {why}",
                    expected=expected,
                    got=run.rates(),
                )
        data = batches(*[1.0] * 10, *[NAN_LOSS] * 3, *[1.0] * 4)
        run = Run(seed)
        run.fit(submission, data, len(data))
        assert_close(
            run.weights(),
            Run(seed).plain(data[:10]).plain(data[13:], 0.1).weights(),
            rtol=1e-4,
            what="the vector of all weights, four steps after a rollback,",
            explain={
                "the steps were made with the old lr": Run(seed)
                .plain(data[:10])
                .plain(data[13:])
                .weights()
            },
        )

    @pytest.mark.points(2, "value")
    def test_patience(self, submission):
        """Only bad steps in a row lead to a rollback."""
        seed, data = draw_seed(), batches(*([NAN_LOSS, NAN_LOSS, 1.0] * 3))
        run = Run(seed)
        report = run.fit(submission, data, 9)
        assert_report(report, 9, dict.fromkeys((0, 1, 3, 4, 6, 7), "loss"))
        assert_same_weights(run, Run(seed).plain(data[2::3]), "after bad steps in twos")
        report = Run(seed).fit(submission, batches(*[NAN_LOSS] * 5), 5)
        assert_report(report, 5, dict.fromkeys(range(5), "loss"), 1)
        report = Run(seed).fit(submission, batches(*[NAN_LOSS] * 7), 7, patience=2)
        assert_report(report, 7, dict.fromkeys(range(7), "loss"), 3)

    @pytest.mark.points(2, "value")
    def test_gives_up(self, submission):
        """More than max_rollbacks rollbacks raise RuntimeError."""
        seed, data = draw_seed(), batches(1.0, *[NAN_LOSS] * 12)
        report = Run(seed).fit(submission, data, 6, patience=2, max_rollbacks=2)
        assert_report(report, 6, dict.fromkeys(range(1, 6), "loss"), 2)
        for steps in (7, 13):
            assert_raises(
                RuntimeError,
                lambda steps=steps: Run(seed).fit(
                    submission, data, steps, patience=2, max_rollbacks=2
                ),
            )

    @pytest.mark.points(1, "structure")
    def test_reads(self, submission):
        """At most two numbers are read from tensors in a step."""
        run = Run(draw_seed(), "sgd")
        data = [(x, y[:, :2]) for x, y in batches(*[1.0] * 5)]
        policy = submission.Policy()
        with Reads() as reads, Lists() as lists:
            submission.guarded_fit(run.model, data, F.mse_loss, run.opt, steps=20, policy=policy)
        count = reads.count + lists.count
        measured(f"{count / 20:.1f} reads a step")
        expect(
            count <= 40,
            f"20 steps read tensors {count} times; expected at most 2 reads a step: on an "
            "accelerator each one waits for all work to end. Put loss and norm into one tensor and "
            "read that",
            expected=40,
            got=count,
        )

    @pytest.mark.points(3, "training")
    @pytest.mark.parametrize(
        "kind",
        ["healthy", "nan row", "lr of 50", "unscaled feature", "exploding RNN", "log(0)"],
    )
    def test_sick_runs(self, submission, kind):
        """Six trainings, five of them sick, end with a low loss."""
        passes, ends = 0, []
        for attempt in range(3):
            torch.manual_seed(draw_seed())
            model, data, loss_fn, opt, steps = sick_run(kind)
            report = submission.guarded_fit(
                model, data, loss_fn, opt, steps=steps, policy=submission.Policy()
            )
            finite = [loss for loss in report.losses if math.isfinite(loss)]
            expect(len(finite) > steps // 2, f"{kind}: only {len(finite)} losses are finite")
            expect(
                all(bool(p.isfinite().all()) for p in model.parameters()),
                f"{kind}: the weights hold nan or inf after the training",
            )
            end = sum(finite[-8:]) / 8
            bound = {
                "lr of 50": 2.0,
                "unscaled feature": 0.4 * finite[0],
                "exploding RNN": finite[0],
            }.get(kind, 0.3)
            picture(
                "curve",
                f"{kind}: the losses",
                f"The last finite losses are {end:.3g} on average; the bound is {bound:.3g}.",
                series=[
                    {
                        "label": f"seed {attempt}",
                        "x": [i for i, loss in enumerate(report.losses) if math.isfinite(loss)],
                        "y": finite,
                    }
                ],
                x_label="step",
                y_label="loss",
                log_y=True,
                limit=bound,
            )
            ends.append(end / bound)
            passes += end < bound
            if passes == 2:
                return
        fail(
            f"{kind}: the last losses are {', '.join(f'{end:.2f}' for end in ends)} times the "
            "bound for three seeds; expected below 1 for two of them",
            got=ends,
        )
