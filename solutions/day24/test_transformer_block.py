"""Day 24 asks for norms with a backward by hand, the MLP, the block, and the start of a stack."""

import contextlib
import copy
import itertools
import math
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grader.testing import (
    assert_close,
    assert_dtype,
    assert_equal,
    assert_finite,
    assert_gradients,
    assert_independent,
    assert_runs_on_meta,
    assert_shape,
    assert_tensor,
    assert_unchanged,
    expect,
    fail,
    forbid,
    measured,
    picture,
    rand_ints,
    randn,
    smallest,
    train_until,
)

NORMS = (
    "layer_norm",
    "native_layer_norm",
    "rms_norm",
    "group_norm",
    "instance_norm",
    "batch_norm",
    "nn.LayerNorm",
    "nn.RMSNorm",
)
AXES = ("batch", "seq", "dim")
F64 = torch.float64


def scramble(module: nn.Module, scale: float = 0.5) -> nn.Module:
    """Give every parameter numbers of its own; returns the module."""
    with torch.no_grad():
        for parameter in module.parameters():
            drawn = randn(*parameter.shape, dtype=F64, away_from_zero=0.3)
            parameter.copy_(scale * drawn)
    return module


def axes_of(x: Tensor) -> tuple[str, ...]:
    """The names of the last axes."""
    return ("group", *AXES)[4 - x.dim() :]


# --- 1 ------------------------------------------------------------------------------------------


def norm_of(kind: str, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """What the norm must give, in float64 on the CPU."""
    x, weight = x.detach().cpu().double(), weight.detach().cpu().double()
    if kind == "RMSNorm":
        return F.rms_norm(x, weight.shape, weight, eps)
    bias = None if bias is None else bias.detach().cpu().double()
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def wrong_norms(
    kind: str, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float
) -> dict[str, Tensor]:
    """What known mistakes give: sentence -> (*, dim)."""
    x, weight = x.detach().cpu().double(), weight.detach().cpu().double()
    shift = torch.zeros_like(weight) if bias is None else bias.detach().cpu().double()
    centred = x - x.mean(-1, keepdim=True)
    power = x.square().mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    if kind == "RMSNorm":
        normed = x / (power + eps).sqrt()
        return {
            "eps stands outside the root; it belongs inside": x / (power.sqrt() + eps) * weight,
            "the mean is subtracted; RMSNorm leaves it in": (
                centred / (variance + eps).sqrt() * weight
            ),
            "the squares are added up; their mean is wanted": (
                x / (x.square().sum(-1, keepdim=True) + eps).sqrt() * weight
            ),
            "the root is missing: x is divided by the mean square itself": (
                x / (power + eps) * weight
            ),
            "`weight` is left out": normed,
            "the factor is 1 + weight; it is `weight`, which starts at one": normed * (1 + weight),
        }
    normed = centred / (variance + eps).sqrt()
    known = {
        "the variance is divided by n - 1; LayerNorm takes the biased one (`correction=0`)": (
            centred / (x.var(-1, keepdim=True) + eps).sqrt() * weight + shift
        ),
        "eps stands outside the root; it belongs inside": (
            centred / (variance.sqrt() + eps) * weight + shift
        ),
        "the mean is not subtracted": x / (power + eps).sqrt() * weight + shift,
        "the root is missing: the rows are divided by the variance": (
            centred / (variance + eps) * weight + shift
        ),
        "`weight` is left out": normed + shift,
        "the factor is 1 + weight; it is `weight`, which starts at one": (
            normed * (1 + weight) + shift
        ),
    }
    if bias is not None:
        known["`bias` is left out"] = normed * weight
        known["`weight` and `bias` are left out"] = normed
    if x.dim() > 1:
        mean = x.mean((-2, -1), keepdim=True)
        both = (x - mean).square().mean((-2, -1), keepdim=True)
        known[
            "mean and variance go over the sequence too; every token has its own, over the last "
            "axis"
        ] = (x - mean) / (both + eps).sqrt() * weight + shift
    return known


def norm_layer(submission: ModuleType, kind: str, dim: int, **options: object) -> nn.Module:
    """A norm with parameters of its own, in float64."""
    return scramble(getattr(submission, kind)(dim, **options).double(), 1.0)


def check_norm(submission: ModuleType, kind: str, case: dict, dtype: torch.dtype, device: str):
    """Hold one norm on one input to the oracle."""
    options = {name: case[name] for name in ("eps", "bias") if name in case}
    default = 1e-6 if kind == "RMSNorm" else 1e-5
    eps = case.get("eps", default)
    layer = norm_layer(submission, kind, case["shape"][-1], **options).to(device, dtype)
    for _ in range(2):
        x = randn(*case["shape"], dtype=dtype, device=device) * case.get("scale", 1.0)
        x = x + case.get("shift", 0.5)
        with forbid(*NORMS, why="task 1 asks for your own"):
            got = layer(x.clone())
        bias = getattr(layer, "bias", None)
        expected = norm_of(kind, x, layer.weight, bias, eps).to(device, dtype)
        known = wrong_norms(kind, x, layer.weight, bias, eps)
        assert_close(
            got,
            expected,
            axes=axes_of(x),
            explain={text: wrong.to(device, dtype) for text, wrong in known.items()},
            rtol=1e-4 if dtype == torch.float32 else None,
            atol=1e-5 if dtype == torch.float32 else None,
        )


@pytest.mark.task("LayerNorm")
class TestLayerNorm:
    @pytest.mark.points(2, "structure")
    def test_parameters(self, submission):
        """The parameters are weight and bias, at one and zero."""
        cases = (
            ("LayerNorm", {}, {"weight": 1.0, "bias": 0.0}),
            ("LayerNorm", {"bias": False}, {"weight": 1.0}),
            ("RMSNorm", {}, {"weight": 1.0}),
        )
        for kind, options, values in cases:
            layer = getattr(submission, kind)(dim=5, **options)
            said = f"{kind}(5{''.join(f', {k}={v}' for k, v in options.items())})"
            assert_equal(
                sorted(name for name, _ in layer.named_parameters()),
                sorted(values),
                what=f"the list of the parameters of {said}",
            )
            assert_equal(
                sorted(layer.state_dict()),
                sorted(values),
                what=f"the list of the keys of the state_dict of {said}",
            )
            for name, value in values.items():
                found = getattr(layer, name).detach()
                assert_close(found, torch.full((5,), value), what=f"{name} of {said}")

    @pytest.mark.points(4, "value")
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
    def test_layer_norm(self, submission, device, dtype):
        """LayerNorm agrees with the one of PyTorch."""
        cases = [
            {"shape": (3,), "eps": 0.1},
            {"shape": (2, 5), "eps": 0.1},
            {"shape": (2, 3, 5), "eps": 0.1},
            {"shape": (2, 3, 7), "eps": 0.1, "bias": False},
            {"shape": (3, 7), "scale": 3e-3, "shift": 0.0},
            {"shape": (2, 3, 5, 7), "eps": 1e-3},
        ]
        smallest(lambda case: check_norm(submission, "LayerNorm", case, dtype, device), cases)

    @pytest.mark.points(4, "value")
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
    def test_rms_norm(self, submission, device, dtype):
        """RMSNorm agrees with the one of PyTorch."""
        cases = [
            {"shape": (3,), "eps": 0.1},
            {"shape": (2, 3, 5), "eps": 0.1},
            {"shape": (3, 7), "scale": 1e-3, "shift": 0.0},
            {"shape": (2, 3, 5, 7), "eps": 1e-3},
        ]
        smallest(lambda case: check_norm(submission, "RMSNorm", case, dtype, device), cases)

    @pytest.mark.points(2, "gradient")
    def test_dependence(self, submission):
        """A token's result depends on no other token."""
        for kind in ("LayerNorm", "RMSNorm"):
            layer = norm_layer(submission, kind, 5)
            x = randn(2, 3, 5, dtype=F64)
            for i, j in (((0, 0), (0, 2)), ((0, 1), (1, 1)), ((1, 2), (1, 0))):
                leak = f"{kind} of token {i[1]} of example {i[0]} depends on token {j[1]} of "
                assert_independent(layer, x, i, j, f"{leak}example {j[0]}")

    @pytest.mark.points(2, "gradient")
    def test_gradients(self, submission):
        """The gradients of x and of the parameters are exact."""
        for kind in ("LayerNorm", "RMSNorm"):
            layer = norm_layer(submission, kind, 5, eps=0.1)
            names = [name for name, _ in layer.named_parameters()]
            values = [p.detach().clone().requires_grad_() for p in layer.parameters()]

            def run(x, *found, layer=layer, names=names):
                return torch.func.functional_call(layer, dict(zip(names, found, strict=True)), (x,))

            x = randn(2, 3, 5, dtype=F64, requires_grad=True)
            assert_gradients(run, x, *values, names=["x", *names])

    @pytest.mark.points(2, "value")
    @pytest.mark.hint("300² is more than 65504, the largest float16.")
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
    def test_half(self, submission, dtype):
        """Half inputs of 300 and 3e4 come out right, in their dtype."""
        for kind, scale in itertools.product(("LayerNorm", "RMSNorm"), (300.0, 3e4)):
            for parameters in (torch.float32, dtype):
                layer = norm_layer(submission, kind, 7).to(parameters)
                signs = 1 - 2 * (torch.arange(7, dtype=F64) % 2)
                x = (signs * scale * (1 + torch.rand(2, 3, 7, dtype=F64) / 2)).to(dtype)
                got = layer(x.clone())
                assert_dtype(got, dtype, f"the result of {kind} with {parameters} parameters")
                bias = getattr(layer, "bias", None)
                expected = norm_of(kind, x, layer.weight, bias, 1e-6).to(dtype)
                rest = torch.zeros_like(expected) if bias is None else bias.to(dtype)
                assert_close(
                    got,
                    expected,
                    axes=AXES,
                    what=f"the {dtype} result of {kind} for numbers up to {scale:g}",
                    rtol=2e-2,
                    atol=4e-2,
                    explain={
                        "the squares are too large for the dtype of x and became inf; compute in "
                        "float32": rest.expand_as(expected)
                    },
                )

    @pytest.mark.points(1, "value")
    def test_constant_rows(self, submission):
        """A row without variance gives the bias."""
        layer = norm_layer(submission, "LayerNorm", 5)
        x = randn(2, 3, 1, dtype=F64).expand(2, 3, 5).clone().requires_grad_()
        got = layer(x)
        assert_finite(the_result_for_constant_rows=got)
        expected = layer.bias.detach().expand(2, 3, 5)
        assert_close(got.detach(), expected, axes=AXES, what="the result for constant rows")
        got.backward(randn(2, 3, 5, dtype=F64))
        assert_finite(the_gradient_for_constant_rows=x.grad)
        got = norm_layer(submission, "RMSNorm", 5)(torch.zeros(3, 5, dtype=F64))
        assert_close(got.detach(), torch.zeros(3, 5, dtype=F64), what="RMSNorm of zeros")

    @pytest.mark.points(2, "value")
    @pytest.mark.hint("E[x²] - E[x]² is the difference of two numbers near 1e8.")
    def test_offset(self, submission):
        """Rows near 1e4 keep their precision."""
        layer = submission.LayerNorm(64)
        x = 1e4 + randn(5, 64)
        got = layer(x.clone()).detach()
        expected = norm_of("LayerNorm", x, layer.weight, None, 1e-5).float()
        if not bool(torch.isfinite(assert_tensor(got)).all()):
            fail(
                "rows near 1e4 give nan: the variance came out negative. E[x²] - E[x]² loses all "
                "its digits there; subtract the mean first, then square",
                id="variance.cancellation",
            )
        worst = (got - expected).abs().max().item()
        measured(f"off by {worst:.1e}")
        expect(
            worst <= 1e-2,
            f"rows near 1e4 are off by {worst:.2g}, at most 0.01 is allowed: E[x²] - E[x]² loses "
            "its digits there; subtract the mean first, then square",
            id="variance.cancellation",
            got=worst,
            expected=1e-2,
        )

    @pytest.mark.points(1, "structure")
    def test_house_rules(self, submission):
        """Both modes are the same, x stays, no stray device."""
        for kind in ("LayerNorm", "RMSNorm"):
            layer = norm_layer(submission, kind, 5)
            x = randn(2, 3, 5, dtype=F64)
            training = assert_unchanged(layer.train(), x).detach()
            layer(randn(7, 5, dtype=F64))
            evaluated = layer.eval()(x).detach()
            expect(
                torch.equal(training, evaluated),
                f"{kind} gives something else in eval mode than in training; there is nothing to "
                "remember, each row has its own statistics",
                id="mode",
            )
            assert_runs_on_meta(layer, x)


# --- 2 ------------------------------------------------------------------------------------------


def rows_and_parameters(*shape: int, dtype: torch.dtype = F64) -> tuple[Tensor, Tensor, Tensor]:
    """x (*, dim), weight and bias (dim,)."""
    x = randn(*shape, dtype=dtype) + 0.5
    return x, randn(shape[-1], dtype=dtype, away_from_zero=0.3), randn(shape[-1], dtype=dtype)


def watched(submission: ModuleType, seen: list) -> type:
    """The learner's Function, whose backward also puts what it returns into `seen`."""

    class Watched(submission.LayerNormFn):
        @staticmethod
        def backward(ctx, *grads):
            why = "task 2 asks for a backward by hand"
            with forbid(*NORMS, "autograd.grad", "backward", "torch.func", why=why):
                result = submission.LayerNormFn.backward(ctx, *grads)
            seen.append(result)
            return result

    return Watched


def returned_gradients(
    submission: ModuleType, x: Tensor, weight: Tensor, bias: Tensor, eps: float, grad: Tensor
) -> tuple:
    """The four things that backward returns for an upstream gradient."""
    seen: list = []
    with forbid(*NORMS, why="task 2 asks for your own"):
        output = watched(submission, seen).apply(x, weight, bias, eps)
    assert_shape(output, **dict(zip(axes_of(x), x.shape, strict=True)))
    expect(
        output.requires_grad,
        "the result has no graph: a Function's forward is recorded by itself, if the result of "
        "`apply` is handed on",
        id="gradient.detached",
    )
    with contextlib.suppress(RuntimeError):  # a wrong shape is reported by the check
        output.backward(grad)
    if not seen:
        output.backward(grad)  # once more, for its own error
    expect(
        isinstance(seen[0], tuple | list) and len(seen[0]) == 4,
        "backward must return four things: the gradients for x, weight, bias and eps",
        id="backward.length",
    )
    return tuple(seen[0])


def wrong_input_gradients(x: Tensor, weight: Tensor, eps: float, grad: Tensor) -> dict[str, Tensor]:
    """What known mistakes give for the gradient of x: sentence -> (*, dim)."""

    def mean(t: Tensor) -> Tensor:
        return t.mean(-1, keepdim=True)

    centred = x - mean(x)
    variance = mean(centred.square())
    rstd, dim = (variance + eps).rsqrt(), x.shape[-1]
    normed, g = centred * rstd, grad * weight
    bare = variance.rsqrt()
    hat = centred * bare
    ones = torch.ones_like(grad) * weight
    return {
        "only the direct term is there: mean and variance depend on x too": rstd * g,
        "the way through the mean is missing: the mean of grad * weight is not subtracted": (
            rstd * (g - normed * mean(g * normed))
        ),
        "the way through the variance is missing: the part along the normalised row is not "
        "subtracted": rstd * (g - mean(g)),
        "weight is left out: the gradient that arrives at the normalised row is grad * weight": (
            rstd * (grad - mean(grad) - normed * mean(grad * normed))
        ),
        "the factor 1 / std in front is missing": g - mean(g) - normed * mean(g * normed),
        "the two terms are sums over the row; they are means": (
            rstd * (g - dim * mean(g) - dim * normed * mean(g * normed))
        ),
        "eps is missing in the standard deviation on the way back": (
            bare * (g - mean(g) - hat * mean(g * hat))
        ),
        "the gradient that arrives is ignored, as if it were all ones": (
            rstd * (ones - mean(ones) - normed * mean(ones * normed))
        ),
    }


def kept_bytes(output: Tensor, left_out: tuple[Tensor, ...]) -> int:
    """Bytes that the Function of this output keeps, on the tape and as attributes of ctx."""
    node = output.grad_fn
    found = [t for t in getattr(node, "saved_tensors", ()) if t is not None]
    stack = list(vars(node).values()) if hasattr(node, "__dict__") else []
    while stack:
        value = stack.pop()
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, dict):
            stack.extend(value.values())
        elif isinstance(value, list | tuple | set):
            stack.extend(value)
    free = {t.untyped_storage().data_ptr() for t in left_out}
    sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in found}
    return sum(size for pointer, size in sizes.items() if pointer not in free)


@pytest.mark.task("LayerNormFn")
class TestLayerNormFn:
    @pytest.mark.points(3, "value")
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
    def test_value(self, submission, dtype):
        """The value is that of LayerNorm."""

        def check(case):
            x, weight, bias = rows_and_parameters(*case["shape"], dtype=dtype)
            with forbid(*NORMS, why="task 2 asks for your own"):
                got = assert_unchanged(submission.LayerNormFn.apply, x, weight, bias, case["eps"])
            expected = norm_of("LayerNorm", x, weight, bias, case["eps"]).to(dtype)
            known = wrong_norms("LayerNorm", x, weight, bias, case["eps"])
            assert_close(
                got,
                expected,
                axes=axes_of(x),
                rtol=1e-4 if dtype == torch.float32 else None,
                atol=1e-5 if dtype == torch.float32 else None,
                explain={text: wrong.to(dtype) for text, wrong in known.items()},
            )

        sizes = ((3,), (2, 5), (2, 3, 5), (2, 3, 5))
        smallest(check, [{"shape": shape, "eps": 0.1} for shape in sizes])
        check({"shape": (2, 3, 7), "eps": 1e-5})
        assert_runs_on_meta(submission.LayerNormFn.apply, *rows_and_parameters(2, 3, 5), 1e-5)

    @pytest.mark.points(5, "gradient")
    @pytest.mark.after("test_value")
    def test_input_gradient(self, submission):
        """The gradient of x has all its terms."""

        def check(case):
            x, weight, bias = rows_and_parameters(*case["shape"])
            grad, leaf = randn(*case["shape"], dtype=F64), x.clone().requires_grad_()
            got = returned_gradients(submission, leaf, weight, bias, case["eps"], grad.clone())[0]
            expect(got is not None, "backward returns None for x, which needs a gradient")
            other = x.clone().requires_grad_()
            value = F.layer_norm(other, weight.shape, weight, bias, case["eps"])
            (expected,) = torch.autograd.grad(value, other, grad)
            assert_close(
                got.detach(),
                expected,
                axes=axes_of(x),
                what="the gradient of x",
                explain=wrong_input_gradients(x, weight, case["eps"], grad),
            )

        cases = [{"shape": shape, "eps": 0.1} for shape in ((3,), (2, 5), (2, 3, 5), (2, 3, 5))]
        smallest(check, [*cases, {"shape": (2, 3, 7), "eps": 1e-5}])

    @pytest.mark.points(4, "gradient")
    @pytest.mark.after("test_value")
    def test_parameter_gradients(self, submission):
        """The gradients of weight and bias are sums over all rows."""

        def check(case):
            x, weight, bias = rows_and_parameters(*case["shape"])
            grad = randn(*case["shape"], dtype=F64)
            leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
            found = returned_gradients(submission, *leaves, 0.1, grad.clone())
            centred = x - x.mean(-1, keepdim=True)
            normed = centred / (centred.square().mean(-1, keepdim=True) + 0.1).sqrt()
            rows, count = (grad * normed).reshape(-1, x.shape[-1]), grad.numel() / x.shape[-1]
            known = {
                "weight": {
                    "it is made of x; the output is weight times the normalised row": (
                        (grad * x).reshape(-1, x.shape[-1]).sum(0)
                    ),
                    "the gradient that arrives is ignored, as if it were all ones": (
                        normed.reshape(-1, x.shape[-1]).sum(0)
                    ),
                    "weight itself is a factor of it; what is multiplied by weight is the "
                    "normalised row alone": rows.sum(0) * weight,
                },
                "bias": {
                    "the gradient of bias is multiplied by weight": (
                        grad.reshape(-1, x.shape[-1]).sum(0) * weight
                    ),
                },
            }
            sums = {"weight": rows.sum(0), "bias": grad.reshape(-1, x.shape[-1]).sum(0)}
            if count > 1:
                for name, total in sums.items():
                    known[name]["it is a mean over the rows; each row adds its part"] = (
                        total / count
                    )
            for name, got in zip(("weight", "bias"), found[1:3], strict=True):
                expect(got is not None, f"backward returns None for {name}, which needs a gradient")
                assert_shape(got, dim=x.shape[-1])
                what, explain = f"the gradient of {name}", known[name]
                assert_close(got.detach(), sums[name], axes=("dim",), what=what, explain=explain)

        smallest(check, [{"shape": shape} for shape in ((3,), (2, 5), (2, 3, 5), (5, 3, 2, 7))])

    @pytest.mark.points(3, "gradient")
    @pytest.mark.after("test_value")
    @pytest.mark.parametrize("shape", [(5,), (2, 3, 5)], ids=["(dim,)", "(batch, seq, dim)"])
    def test_gradients(self, submission, shape):
        """backward is the derivative of forward."""
        leaves = [t.requires_grad_() for t in rows_and_parameters(*shape)]

        def run(x, weight, bias):
            return submission.LayerNormFn.apply(x, weight, bias, 0.1)

        assert_gradients(run, *leaves)

    @pytest.mark.points(2, "structure")
    @pytest.mark.after("test_value")
    @pytest.mark.hint("`ctx.needs_input_grad` has one bool for each argument of forward.")
    def test_skipped_gradients(self, submission):
        """What needs no gradient gets None."""
        names = ("x", "weight", "bias")
        for wanted in ((0,), (1,), (2,), (0, 2), (0, 1, 2)):
            leaves = list(rows_and_parameters(2, 3, 5))
            for i in wanted:
                leaves[i].requires_grad_()
            grad = randn(2, 3, 5, dtype=F64)
            found = returned_gradients(submission, *leaves, 1e-5, grad)
            said = " and ".join(names[i] for i in wanted)
            for i, name in enumerate(names):
                if i in wanted:
                    expect(
                        isinstance(found[i], Tensor),
                        f"with {said} needing a gradient, backward returns none for {name}",
                        id="needs.missing",
                    )
                else:
                    expect(
                        found[i] is None,
                        f"only {said} needs a gradient, and backward computes one for {name}; "
                        "return None in its place",
                        id="needs.computed",
                    )
            expect(found[3] is None, "eps is a number: the gradient for it is None")

    @pytest.mark.points(3, "memory")
    @pytest.mark.after("test_value")
    @pytest.mark.hint("From x, mean and rstd the normalised row can be had again.")
    def test_saves_little(self, submission):
        """Little more than x is kept for the way back."""
        x, weight, bias = (
            t.requires_grad_() for t in rows_and_parameters(8, 16, 64, dtype=torch.float32)
        )
        output = submission.LayerNormFn.apply(x, weight, bias, 1e-5)
        kept = kept_bytes(output, (weight, bias))
        limit = x.nbytes + 2 * 8 * 16 * 4
        measured(f"{kept / x.nbytes:.2f} of x")
        picture(
            "bars",
            "Kept for the way back",
            f"x takes {x.nbytes} bytes, with two numbers per row {limit}; your Function keeps "
            f"{kept}.",
            labels=["x", "yours"],
            series=[{"label": "bytes", "values": [x.nbytes, kept]}],
            log=False,
            unit="bytes",
            limit=limit,
        )
        expect(
            kept <= limit,
            f"it keeps {kept / x.nbytes:.2f} times the bytes of x for the way back; x and two "
            f"numbers per row are {limit / x.nbytes:.2f}: keep x or the normalised x, not both, "
            "and compute the rest again",
            id="saved.bytes",
            expected=limit,
            got=kept,
        )


# --- 3 ------------------------------------------------------------------------------------------

KINDS = ("gelu", "gelu_tanh", "relu2", "swiglu")


def act(kind: str, t: Tensor) -> Tensor:
    """The activation of a kind, written out."""
    if kind == "gelu":
        return t * (1 + torch.erf(t / math.sqrt(2))) / 2
    if kind == "gelu_tanh":
        return t * (1 + torch.tanh(math.sqrt(2 / math.pi) * (t + 0.044715 * t**3))) / 2
    if kind == "relu2":
        return torch.where(t > 0, t * t, torch.zeros_like(t))
    return t / (1 + torch.exp(-t))


def mlp(ffn: nn.Module, kind: str, x: Tensor) -> Tensor:
    """What the MLP must give, from its weights."""
    up, down = ffn.up.weight.detach(), ffn.down.weight.detach()
    if kind == "swiglu":
        return (act("silu", x @ ffn.gate.weight.detach().T) * (x @ up.T)) @ down.T
    return act(kind, x @ up.T) @ down.T


def wrong_mlps(ffn: nn.Module, kind: str, x: Tensor) -> dict[str, Tensor]:
    """What known mistakes give: sentence -> (*, dim)."""
    up, down = ffn.up.weight.detach(), ffn.down.weight.detach()
    inner = x @ up.T
    known = {"there is no activation between up and down": inner @ down.T}
    if kind == "swiglu":
        gate = x @ ffn.gate.weight.detach().T
        return known | {
            "gate and up have changed places: silu acts on gate(x)": (
                (act("silu", inner) * gate) @ down.T
            ),
            "the gate is a plain sigmoid; it is silu": (gate.sigmoid() * inner) @ down.T,
            "the gate is a gelu; it is silu": (act("gelu", gate) * inner) @ down.T,
            "the gate is without its activation": (gate * inner) @ down.T,
            "gate(x) is left out": act("silu", inner) @ down.T,
            "the activation comes after down": act("silu", (gate * inner) @ down.T),
        }
    names = {
        "gelu": "the activation is the exact GELU",
        "gelu_tanh": "the activation is the tanh form of GELU",
        "relu2": "the activation is the square of relu",
        "silu": "the activation is silu",
    }
    known |= {
        f"{text}; kind={kind!r} asks for another": act(other, inner) @ down.T
        for other, text in names.items()
        if other != kind
    }
    return known | {
        "the activation is relu": inner.relu() @ down.T,
        "the activation comes after down; it belongs between up and down": act(
            kind, inner @ down.T
        ),
    }


@pytest.mark.task("FeedForward")
class TestFeedForward:
    @pytest.mark.points(2, "structure")
    def test_layers(self, submission):
        """The layers have the right sizes, without bias."""
        cases = [(3, 7, kind, 7) for kind in KINDS]
        cases += [(5, None, kind, 20) for kind in KINDS[:3]]
        cases += [(dim, None, "swiglu", hidden) for dim, hidden in ((3, 8), (5, 16), (13, 40))]
        cases += [(64, None, "swiglu", 176), (48, None, "swiglu", 128)]
        for dim, given, kind, hidden in cases:
            ffn = submission.FeedForward(dim, given, kind=kind)
            said = f"FeedForward({dim}, hidden={given}, kind={kind!r})"
            shapes = {"up": (hidden, dim), "down": (dim, hidden)}
            if kind == "swiglu":
                shapes["gate"] = (hidden, dim)
            for name, shape in shapes.items():
                layer = getattr(ffn, name, None)
                expect(
                    isinstance(layer, nn.Linear),
                    f"{said}: {name} is {type(layer).__name__}; expected nn.Linear",
                    id="ffn.layer",
                )
                expect(layer.bias is None, f"{said}: {name} has a bias", id="ffn.bias")
                expect(
                    tuple(layer.weight.shape) == shape,
                    f"{said}: the weight of {name} is {tuple(layer.weight.shape)}; expected "
                    f"{shape}, {hidden} hidden channels",
                    id="ffn.shape",
                    expected=list(shape),
                    got=list(layer.weight.shape),
                )
            names = {f"{name}.weight" for name in shapes}
            extra = sorted({name for name, _ in ffn.named_parameters()} - names)
            expect(not extra, f"{said} has more parameters: {', '.join(extra)}", id="ffn.extra")

    @pytest.mark.points(3, "value")
    @pytest.mark.after("test_layers")
    @pytest.mark.parametrize("kind", ["gelu", "gelu_tanh", "relu2", "swiglu"])
    def test_value(self, submission, device, kind):
        """Each kind agrees with its formula."""

        def check(case):
            ffn = submission.FeedForward(case["shape"][-1], case["hidden"], kind)
            scramble(ffn.double(), 1.0).to(device)
            for _ in range(2):
                x = randn(*case["shape"], dtype=F64, device=device)
                got = ffn(x.clone())
                known = wrong_mlps(ffn, kind, x)
                expected = mlp(ffn, kind, x)
                what = f"the {kind} MLP's result"
                assert_close(
                    got.detach(), expected, axes=axes_of(x), what=what, explain=known, rtol=1e-6
                )

        sizes = (((2, 2), 3), ((2, 3, 5), 7), ((3, 2, 3), None))
        smallest(check, [{"shape": shape, "hidden": hidden} for shape, hidden in sizes])
        if kind == "gelu":
            ffn = scramble(submission.FeedForward(5).double())
            x = randn(2, 3, 5, dtype=F64)
            assert_close(ffn(x.clone()).detach(), mlp(ffn, kind, x), what="the default's result")

    @pytest.mark.points(1, "gradient")
    @pytest.mark.after("test_layers")
    def test_position_wise(self, submission):
        """Every position is on its own."""
        for kind in ("gelu", "swiglu"):
            ffn = scramble(submission.FeedForward(5, kind=kind).double())
            x = randn(2, 3, 5, dtype=F64)
            for i, j in (((0, 0), (0, 2)), ((1, 2), (1, 1)), ((0, 1), (1, 1))):
                leak = f"the result at position {i} depends on position {j}"
                assert_independent(ffn, x, i, j, leak)

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_layers")
    @pytest.mark.hint("Dropout comes last: after down.")
    def test_dropout(self, submission):
        """Dropout acts on the output, in training only."""
        p = 0.25
        for kind in ("gelu", "swiglu"):
            ffn = scramble(submission.FeedForward(5, 7, kind, p=p).double())
            x = randn(29, 7, 5, dtype=F64)
            rest = mlp(ffn, kind, x)
            for _ in range(2):
                got = ffn.eval()(x.clone()).detach()
                assert_close(got, rest, axes=AXES, what=f"the result in eval mode with p={p}")
            expect_dropout(ffn.train()(x.clone()).detach(), rest, p, "the output of down")

    @pytest.mark.points(1, "gradient")
    @pytest.mark.after("test_layers")
    def test_gradients(self, submission):
        """The gradients are exact."""
        for kind in KINDS:
            ffn = scramble(submission.FeedForward(3, 5, kind).double())
            names = [name for name, _ in ffn.named_parameters()]
            values = [p.detach().clone().requires_grad_() for p in ffn.parameters()]

            def run(x, *found, ffn=ffn, names=names):
                return torch.func.functional_call(ffn, dict(zip(names, found, strict=True)), (x,))

            x = randn(2, 3, dtype=F64, requires_grad=True)
            assert_gradients(run, x, *values, fast=True, names=["x", *names])

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_layers")
    def test_house_rules(self, submission):
        """x stays as it was, and no device is assumed."""
        for kind in KINDS:
            ffn = submission.FeedForward(5, kind=kind, p=0.5)
            x = randn(2, 3, 5)
            assert_unchanged(ffn, x)
            assert_runs_on_meta(ffn, x)


def expect_dropout(got: Tensor, rest: Tensor, p: float, what: str) -> None:
    """Every element is 0 or that of `rest` / (1 - p), each on its own, with the right rate."""
    expect(
        not torch.allclose(got, rest),
        f"in training nothing of {what} is dropped, although the rate is {p}",
        id="dropout.missing",
    )
    dropped = got.abs() < 1e-12
    expected = torch.where(dropped, 0.0, rest / (1 - p))
    expect(
        torch.allclose(got, expected, rtol=1e-6, atol=1e-9),
        f"in training the elements of {what} are neither 0 nor their value divided by 1 - p: "
        "dropout acts somewhere else, or the kept ones are not scaled",
        id="dropout.place",
    )
    spread = math.sqrt(p * (1 - p) / dropped.numel())
    rate = dropped.double().mean().item()
    expect(
        abs(rate - p) < 6 * spread and not bool(dropped.flatten(0, -2).all(0).any()),
        f"of {dropped.numel()} elements of {what} {rate:.0%} are dropped; expected about {p:.0%}, "
        "each element on its own",
        id="dropout.rate",
    )


# --- 4 ------------------------------------------------------------------------------------------


def attend(block: nn.Module, heads: int, x: Tensor, causal: bool = True) -> Tensor:
    """Multi-head attention from the block's weights, head after head."""
    q, k, v, out = (
        getattr(block.attn, name).weight.detach()
        for name in ("q_proj", "k_proj", "v_proj", "out_proj")
    )
    width, results = x.shape[-1] // heads, []
    for head in range(heads):
        rows = slice(head * width, (head + 1) * width)
        scores = (x @ q[rows].T) @ (x @ k[rows].T).mT / math.sqrt(width)
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1) > 0, -math.inf)
        results.append(scores.softmax(-1) @ (x @ v[rows].T))
    return torch.cat(results, -1) @ out.T


def norm_with(layer: nn.Module, x: Tensor) -> Tensor:
    """LayerNorm from the layer's weights."""
    return F.layer_norm(x, x.shape[-1:], layer.weight.detach(), layer.bias.detach(), 1e-5)


def composed(
    block: nn.Module, norm: str, heads: int, kind: str, x: Tensor, causal: bool = True
) -> Tensor:
    """What a block must give, from its weights."""

    def attention(t: Tensor) -> Tensor:
        return attend(block, heads, t, causal)

    def ffn(t: Tensor) -> Tensor:
        return mlp(block.ffn, kind, t)

    n1, n2 = (lambda t, m=m: norm_with(m, t) for m in (block.norm1, block.norm2))
    if norm == "pre":
        x = x + attention(n1(x))
        return x + ffn(n2(x))
    if norm == "post":
        x = n1(x + attention(x))
        return n2(x + ffn(x))
    x = x + norm_with(block.norm1_out, attention(n1(x)))
    return x + norm_with(block.norm2_out, ffn(n2(x)))


def wrong_blocks(
    block: nn.Module, norm: str, heads: int, kind: str, x: Tensor
) -> dict[str, Tensor]:
    """What known mistakes give: sentence -> (batch, seq, dim)."""

    def attention(t: Tensor) -> Tensor:
        return attend(block, heads, t)

    def ffn(t: Tensor) -> Tensor:
        return mlp(block.ffn, kind, t)

    n1, n2 = (lambda t, m=m: norm_with(m, t) for m in (block.norm1, block.norm2))
    known = {
        "the attention is not causal: pass causal=True": composed(
            block, norm, heads, kind, x, causal=False
        )
    }
    places = {
        "pre": "the norms stand before the branches, as in pre-norm",
        "post": "the norms stand on the stream after each sum, as in post-norm",
    }
    for other, text in places.items():
        if other != norm:
            known[f"{text}; norm={norm!r} asks for another place"] = composed(
                block, other, heads, kind, x
            )
    if norm == "post":
        first = n1(x + attention(x))
        return known | {
            "the MLP has no residual: its input is not added": n2(ffn(first)),
            "the attention has no residual: x is not added": n2(
                n1(attention(x)) + ffn(n1(attention(x)))
            ),
            "the second norm acts on the branch alone; in post-norm it goes around the sum": (
                first + n2(ffn(first))
            ),
            "the norms act on the branches alone; in post-norm they go around the sums": (
                (x + n1(attention(x))) + n2(ffn(x + n1(attention(x))))
            ),
        }

    def a(t: Tensor) -> Tensor:
        return norm_with(block.norm1_out, attention(t)) if norm == "sandwich" else attention(t)

    def f(t: Tensor) -> Tensor:
        return norm_with(block.norm2_out, ffn(t)) if norm == "sandwich" else ffn(t)

    first, twice = x + a(n1(x)), n1(x) + a(n1(x))
    known |= {
        "the residual starts from the normed input: x itself must be added to the branch": (
            n2(twice) + f(n2(twice))
        ),
        "the residual of the attention starts from the normed input; x itself must be added": (
            twice + f(n2(twice))
        ),
        "the residual of the MLP starts from the normed input; the stream must be added": (
            n2(first) + f(n2(first))
        ),
        "the MLP has no residual: the stream is not added": f(n2(first)),
        "the attention has no residual: x is not added": a(n1(x)) + f(n2(a(n1(x)))),
        "there is one residual around both branches; each branch has its own": (
            x + f(n2(a(n1(x))))
        ),
        "both branches read x; the MLP must read the stream after the attention": (
            first + f(n2(x))
        ),
        "the MLP reads the stream without a norm": first + f(first),
        "the MLP's input goes through norm1; it has norm2": first + f(n1(first)),
    }
    if norm == "sandwich":
        inner = x + norm_with(block.norm1_out, x + attention(n1(x)))
        known |= {
            "norm1_out and norm2_out act on the stream after the sum; they act on the branch": (
                norm_with(
                    block.norm2_out,
                    norm_with(block.norm1_out, x + attention(n1(x)))
                    + ffn(n2(norm_with(block.norm1_out, x + attention(n1(x))))),
                )
            ),
            "norm1_out acts on the sum of stream and branch": inner + f(n2(inner)),
        }
    return known


def block_of(
    submission: ModuleType, norm: str, dim: int = 6, kind: str = "gelu", p: float = 0.0
) -> nn.Module:
    """A block with 3 heads and weights of its own, in float64."""
    block = submission.Block(dim=dim, heads=3, ffn_kind=kind, norm=norm, p_resid=p).double()
    return scramble(block)


def check_block(submission: ModuleType, norm: str, device: str) -> None:
    """Hold the blocks of one placement to the oracle."""

    def check(case: dict) -> None:
        block = block_of(submission, norm, case["dim"], case["kind"]).to(device)
        for _ in range(2):
            x = randn(case["batch"], case["seq"], case["dim"], dtype=F64, device=device)
            got = block(x.clone())
            assert_close(
                got.detach(),
                composed(block, norm, 3, case["kind"], x),
                axes=AXES,
                what=f"the result of a {norm}-norm block",
                explain=wrong_blocks(block, norm, 3, case["kind"], x),
            )

    names = ("batch", "seq", "dim", "kind")
    sizes = ((1, 2, 3, "relu2"), (2, 5, 6, "gelu"), (2, 3, 12, "swiglu"), (2, 1, 6, "gelu_tanh"))
    smallest(check, [dict(zip(names, values, strict=True)) for values in sizes])


def silence(*layers: nn.Linear) -> None:
    """Set the weights of these layers to 0."""
    with torch.no_grad():
        for layer in layers:
            layer.weight.zero_()


@pytest.mark.task("Block")
class TestBlock:
    @pytest.mark.points(3, "structure")
    def test_submodules(self, submission):
        """The submodules are there, with the right parameters."""
        projections = ("q_proj", "k_proj", "v_proj", "out_proj")
        for norm, kind in (("pre", "gelu"), ("post", "swiglu"), ("sandwich", "relu2")):
            block = submission.Block(6, 3, kind, norm, 0.0)
            hidden = 16 if kind == "swiglu" else 24
            norms = ["norm1", "norm2"]
            norms += ["norm1_out", "norm2_out"] if norm == "sandwich" else []
            shapes = {f"{name}.{part}": (6,) for name in norms for part in ("weight", "bias")}
            shapes |= {f"attn.{name}.weight": (6, 6) for name in projections}
            shapes |= {"ffn.up.weight": (hidden, 6), "ffn.down.weight": (6, hidden)}
            if kind == "swiglu":
                shapes["ffn.gate.weight"] = (hidden, 6)
            found = {name: tuple(p.shape) for name, p in block.named_parameters()}
            said = f"Block(6, 3, {kind!r}, {norm!r}, 0.0)"
            missing = sorted(set(shapes) - set(found))
            expect(
                not missing,
                f"{said} has no parameter {', '.join(missing)}; every norm is a layer of its own",
                id="block.missing",
            )
            extra = sorted(set(found) - set(shapes))
            expect(not extra, f"{said} has more parameters: {', '.join(extra)}", id="block.extra")
            for name, shape in shapes.items():
                expect(
                    found[name] == shape,
                    f"{said}: {name} is {found[name]}; expected {shape}",
                    id="block.shape",
                )

    @pytest.mark.points(3, "value")
    @pytest.mark.after("test_submodules")
    @pytest.mark.hint("The stream is never normed in pre-norm: only what a branch reads is.")
    def test_pre(self, submission, device):
        """A pre-norm block is right."""
        check_block(submission, "pre", device)

    @pytest.mark.points(3, "value")
    @pytest.mark.after("test_submodules")
    def test_post(self, submission, device):
        """A post-norm block is right."""
        check_block(submission, "post", device)

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_submodules")
    def test_sandwich(self, submission, device):
        """A sandwich block is right."""
        check_block(submission, "sandwich", device)

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_submodules")
    def test_silent_branches(self, submission):
        """With branches of 0 only stream and norms are left."""
        for norm in ("pre", "post", "sandwich"):
            block, x = block_of(submission, norm), randn(2, 5, 6, dtype=F64)
            silence(block.attn.out_proj, block.ffn.down)
            got = block(x.clone()).detach()
            if norm == "pre":
                expect(
                    torch.equal(assert_tensor(got), x),
                    "with out_proj and down at 0 a pre-norm block must return x exactly: something "
                    "else than a sum stands on the stream",
                    id="stream.identity",
                )
            elif norm == "post":
                expected = norm_with(block.norm2, norm_with(block.norm1, x))
                assert_close(got, expected, axes=AXES, what="a post-norm block of 0 branches")
            else:
                expected = x + block.norm1_out.bias.detach() + block.norm2_out.bias.detach()
                assert_close(got, expected, axes=AXES, what="a sandwich block of 0 branches")

    @pytest.mark.points(1, "gradient")
    @pytest.mark.after("test_submodules")
    def test_causal(self, submission):
        """No token sees a later one, nor another example."""
        for norm in ("pre", "post", "sandwich"):
            block, x = block_of(submission, norm), randn(2, 5, 6, dtype=F64)
            for i, j in (((0, 0), (0, 1)), ((0, 2), (0, 4)), ((1, 3), (0, 3))):
                leak = f"{norm}: token {i[1]} of example {i[0]} depends on token {j[1]} of "
                assert_independent(block, x, i, j, f"{leak}example {j[0]}")

    @pytest.mark.points(3, "value")
    @pytest.mark.after("test_submodules")
    @pytest.mark.hint("drop stands around a branch, before the sum, and nowhere else.")
    def test_dropout(self, submission):
        """Dropout acts on each branch, in training only."""
        p = 0.25
        for norm in ("pre", "post", "sandwich"):
            block, x = block_of(submission, norm, p=p), randn(31, 7, 6, dtype=F64)
            rest = composed(block, norm, 3, "gelu", x)
            for _ in range(2):
                got = block.eval()(x.clone()).detach()
                what = f"a {norm}-norm block in eval mode with p_resid={p}"
                assert_close(got, rest, axes=AXES, what=what)
            expect(
                not torch.allclose(block.train()(x.clone()), rest),
                f"{norm}: in training nothing is dropped, although p_resid={p}",
                id="dropout.missing",
            )
            if norm == "sandwich":
                with torch.no_grad():
                    block.norm1_out.bias.zero_()
                    block.norm2_out.bias.zero_()
            for silent in ("both", "attention", "MLP"):
                quiet = copy.deepcopy(block)
                silence(*([quiet.attn.out_proj] if silent != "MLP" else []))
                silence(*([quiet.ffn.down] if silent != "attention" else []))
                rest = composed(quiet, norm, 3, "gelu", x)
                got = quiet.train()(x.clone()).detach()
                if silent == "both":
                    what = f"a {norm}-norm block of 0 branches in training, p_resid={p}"
                    assert_close(
                        got,
                        rest,
                        axes=AXES,
                        what=what,
                        explain={
                            "dropout acts on the stream; it acts on the branches only": torch.where(
                                got == 0, 0.0, rest / (1 - p)
                            )
                        }
                        if bool((got == 0).any())
                        else None,
                    )
                elif norm != "post":
                    other = "MLP" if silent == "attention" else "attention"
                    expect_dropout(got - x, rest - x, p, f"the {other} branch ({norm})")

    @pytest.mark.points(2, "gradient")
    @pytest.mark.after("test_submodules")
    @pytest.mark.parametrize("norm", ["pre", "post", "sandwich"])
    def test_gradients(self, submission, norm):
        """The gradients of x and of all weights are exact."""
        block = block_of(submission, norm)
        names = [name for name, _ in block.named_parameters()]
        values = [p.detach().clone().requires_grad_() for p in block.parameters()]

        def run(x, *found):
            return torch.func.functional_call(block, dict(zip(names, found, strict=True)), (x,))

        x = randn(2, 3, 6, dtype=F64, requires_grad=True)
        assert_gradients(run, x, *values, fast=True, names=["x", *names])

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_submodules")
    @pytest.mark.hint("`x += branch` writes into the caller's x; `x = x + branch` doesn't.")
    def test_house_rules(self, submission):
        """x stays as it was, and no device is assumed."""
        for norm in ("pre", "post", "sandwich"):
            block = submission.Block(6, 3, "gelu", norm, 0.5)
            x = randn(2, 5, 6)
            with torch.no_grad():
                assert_unchanged(block, x)
            assert_runs_on_meta(block, x)


# --- 5 ------------------------------------------------------------------------------------------


class Stack(nn.Module):
    """Blocks one after the other, on x (batch, seq, dim)."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Gpt(nn.Module):
    """A small GPT of the learner's blocks and norms; logits (batch, seq, vocab) of ids."""

    def __init__(
        self,
        submission: ModuleType,
        *,
        vocab: int,
        ctx: int,
        dim: int,
        kinds: list[str],
        head: str = "own",
    ) -> None:
        super().__init__()
        self.tok = nn.Embedding(vocab, dim)
        self.pos = nn.Embedding(ctx, dim)
        self.blocks = nn.ModuleList(submission.Block(dim, 4, kind, "pre", 0.0) for kind in kinds)
        self.norm = submission.LayerNorm(dim)
        if head != "none":
            self.head = nn.Linear(dim, vocab, bias=False)
        if head == "tied":
            self.head.weight = self.tok.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tok(ids) + self.pos.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


LAYERS = 18  # what init_gpt is told; the model that it fills has four blocks


def drawn_anew(submission: ModuleType) -> nn.Module:
    """A model with every kind of parameter, all of them 7, after `init_gpt`."""
    kinds = ["gelu", "swiglu", "relu2", "swiglu"]
    model = Gpt(submission, vocab=67, ctx=37, dim=64, kinds=kinds)
    model.adapter = nn.Sequential(nn.Linear(64, 64), submission.RMSNorm(64))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    submission.init_gpt(model, LAYERS)
    return model


def pooled(model: nn.Module, kind: type, names: tuple[str, ...]) -> Tensor:
    """All weights of the modules of a kind with one of these last names, as one vector."""
    return torch.cat(
        [
            module.weight.detach().flatten().double()
            for name, module in model.named_modules()
            if isinstance(module, kind) and set(name.split(".")) & set(names)
        ]
    )


def expect_normal(values: Tensor, std: float, what: str, known: dict[float, str]) -> None:
    """The values are N(0, std), by mean, spread and share of large ones, each to 5 sigma."""
    n = values.numel()
    if bool((values == 7.0).all()):
        fail(f"the weights of {what} are what they were before: they are not drawn", id="init.not")
    found = values.std().item()
    if abs(found / std - 1) > 5 / math.sqrt(2 * n):
        near = [text for value, text in known.items() if abs(found / value - 1) < 0.05]
        fail(
            f"the weights of {what} have standard deviation {found:.4g}; expected {std:.4g}"
            + (f": {near[0]}" if near else ""),
            id="init.std",
            expected=std,
            got=found,
        )
    mean = values.mean().item()
    expect(
        abs(mean) < 5 * std / math.sqrt(n),
        f"the weights of {what} have mean {mean:.2g}; expected 0",
        id="init.mean",
    )
    share = (values.abs() > 2 * std).double().mean().item()
    expect(
        abs(share - 0.0455) < 5 * math.sqrt(0.0434 / n),
        f"of the weights of {what} {share:.1%} lie beyond 2 standard deviations; of normally "
        "distributed ones 4.6% do",
        id="init.normal",
    )


def observed(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Outputs of every block, of its attention and of its MLP, and the gradients' squares.

    Returns:
        "stream", "attn", "ffn", "into": (blocks, ...); "grad": (blocks, parameters), the norm of
        each parameter's gradient.
    """
    model = copy.deepcopy(model)
    seen: dict[str, list[Tensor]] = {name: [] for name in ("stream", "attn", "ffn", "into")}
    for block in model.blocks:
        for part, module in (("stream", block), ("attn", block.attn), ("ffn", block.ffn)):
            module.register_forward_hook(
                lambda m, args, out, part=part: seen[part].append(out.detach())
            )
        block.register_forward_pre_hook(lambda m, args: seen["into"].append(args[0].detach()))
    for parameter in model.parameters():
        parameter.grad = None
    model(x.clone()).square().mean().backward()
    found = {name: torch.stack(tensors) for name, tensors in seen.items()}
    norms = [[p.grad.norm() for p in block.parameters()] for block in model.blocks]
    return found | {"grad": torch.stack([torch.stack(row) for row in norms])}


def rms(t: Tensor) -> Tensor:
    """Root mean square of each block's numbers, (blocks,)."""
    return t.flatten(1).square().mean(1).sqrt()


def stats_case(submission: ModuleType) -> tuple[nn.Module, Tensor, dict[str, list[float]]]:
    """A stack of three blocks, x, and what `stream_stats` says about them."""
    model = scramble(Stack([submission.Block(8, 4, "gelu", "pre", 0.0) for _ in range(3)]), 0.3)
    model.double()
    x = randn(2, 5, 8, dtype=F64)
    found = submission.stream_stats(model, x.clone())
    expect(
        isinstance(found, dict) and sorted(found) == ["branch", "grad", "stream"],
        f"expected a dict with the keys stream, branch and grad, got {found!r:.80}",
        id="stats.keys",
    )
    for key, values in found.items():
        expect(
            isinstance(values, list) and all(type(value) is float for value in values),
            f"{key} is {values!r:.60}; expected a list of Python floats",
            id="stats.floats",
        )
        expect(
            len(values) == 3,
            f"{key} has {len(values)} numbers for 3 blocks",
            id="stats.length",
        )
    return model, x, found


def same_numbers(got: list[float], expected: Tensor, what: str, explain: dict[str, Tensor]) -> None:
    """One list of statistics agrees."""
    assert_close(
        torch.tensor(got, dtype=F64),
        expected,
        rtol=1e-5,
        axes=("block",),
        what=what,
        explain=explain,
    )


def curves(submission: ModuleType, dim: int, depth: int, x: Tensor) -> Iterator[tuple[str, dict]]:
    """Label and observations of stacks of four kinds, at the start."""
    for label, norm, layers in (
        ("pre, yours", "pre", depth),
        ("pre, 0.02 everywhere", "pre", 0.5),
        ("post, yours", "post", depth),
        ("sandwich, yours", "sandwich", depth),
    ):
        model = Stack([submission.Block(dim, 4, "gelu", norm, 0.0) for _ in range(depth)])
        submission.init_gpt(model, layers)
        yield label, observed(model, x)


def show_depth(found: dict[str, dict], depth: int) -> None:
    """Attach the stream, the branches and the gradients over depth."""
    steps = list(range(1, depth + 1))
    streams = {label: rms(seen["stream"]).tolist() for label, seen in found.items()}
    branch = {
        f"branches, {label}": rms(seen["attn"] + seen["ffn"]).tolist()
        for label, seen in found.items()
        if label.startswith("pre")
    }
    said = ", ".join(f"{label} {values[-1]:.2g}" for label, values in streams.items())
    for title, caption, values in (
        ("The residual stream over depth", f"After {depth} blocks the rms is: {said}.", streams),
        (
            "What the two branches add",
            "The rms of what each block adds to the stream; with the scaled start it is small "
            "from the first block on.",
            branch,
        ),
        (
            "The gradient of each block",
            "The norm of the gradient over a block's parameters, for the mean square of the "
            "output.",
            {label: seen["grad"].norm(dim=1).tolist() for label, seen in found.items()},
        ),
    ):
        picture(
            "curve",
            title,
            caption,
            series=[{"label": label, "x": steps, "y": y} for label, y in values.items()],
            x_label="block",
            y_label="gradient norm" if "gradient" in title else "rms",
            log_y=True,
            limit=None,
        )


def learning(submission: ModuleType, seed: int) -> Callable[[], float]:
    """A step of learning to name the previous symbol; returns loss / first loss."""
    torch.manual_seed(seed)
    model = Gpt(submission, vocab=10, ctx=16, dim=32, kinds=["gelu"] * 12)
    submission.init_gpt(model, 12)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    first: list[float] = []

    def step() -> float:
        ids = torch.randint(10, (32, 17))
        loss = F.cross_entropy(model(ids[:, 1:]).flatten(0, 1), ids[:, :-1].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        first.append(loss.item())
        return first[-1] / first[0]

    return step


STD = 0.02
RESIDUAL = STD / math.sqrt(2 * LAYERS)


@pytest.mark.task("init_and_depth")
class TestInitAndDepth:
    @pytest.mark.points(4, "value")
    @pytest.mark.after("TestBlock::test_submodules")
    def test_linear_weights(self, submission):
        """Ordinary linear layers start at N(0, 0.02)."""
        model = drawn_anew(submission)
        known = {
            RESIDUAL: "the scaling is for the residual projections only",
            STD**2: "0.02 is the standard deviation, not the variance",
            math.sqrt(STD): "0.02 is the standard deviation, not the variance",
            1.0: "that is PyTorch's own start or that of an unscaled randn",
        }
        groups = (
            ("q_proj",),
            ("k_proj",),
            ("v_proj",),
            ("up",),
            ("gate",),
            ("head",),
            ("adapter",),
        )
        for names in groups:
            expect_normal(pooled(model, nn.Linear, names), STD, f"the {names[0]} layers", known)

    @pytest.mark.points(2, "value")
    @pytest.mark.after("TestBlock::test_submodules")
    def test_embeddings(self, submission):
        """Embeddings start at N(0, 0.02)."""
        model = drawn_anew(submission)
        for name in ("tok", "pos"):
            known = {1.0: "that is what nn.Embedding starts with"}
            expect_normal(pooled(model, nn.Embedding, (name,)), STD, f"Embedding {name}", known)

    @pytest.mark.points(5, "value")
    @pytest.mark.after("TestBlock::test_submodules")
    @pytest.mark.hint("How many branches join the stream in n_layers blocks?")
    def test_residual_projections(self, submission):
        """Residual projections start smaller than the rest."""
        model = drawn_anew(submission)
        for name in ("out_proj", "down"):
            known = {
                STD: "it is not scaled; both out_proj and down write to the stream",
                STD / math.sqrt(LAYERS): (
                    "it is divided by the root of n_layers; every block has two branches"
                ),
                STD / (2 * LAYERS): "it is divided by 2 n_layers; the root of that is wanted",
                STD / math.sqrt(2 * len(model.blocks)): (
                    "it counts the blocks of this model; n_layers says how many there are"
                ),
                STD / (2 * math.sqrt(LAYERS)): "the 2 belongs under the root",
                STD * math.sqrt(2 * LAYERS): "it is multiplied by the root instead of divided",
            }
            expect_normal(pooled(model, nn.Linear, (name,)), RESIDUAL, f"the {name} layers", known)

    @pytest.mark.points(3, "value")
    @pytest.mark.after("TestBlock::test_submodules")
    def test_biases_and_norms(self, submission):
        """Biases start at 0, the weights of norms at 1."""
        model = drawn_anew(submission)
        for name, part in model.named_modules():
            shift = getattr(part, "bias", None)
            if isinstance(part, nn.Linear | submission.LayerNorm) and shift is not None:
                expect(
                    bool((shift == 0).all()),
                    f"the bias of {name} is {shift[0].item():.3g} after init_gpt; expected 0",
                    id="init.bias",
                )
            if isinstance(part, submission.LayerNorm | submission.RMSNorm):
                weight = part.weight
                expect(
                    bool((weight == 1).all()),
                    f"the weight of the norm {name} is {weight[0].item():.3g} after init_gpt; "
                    "expected 1",
                    id="init.norm",
                )

    @pytest.mark.points(2, "structure")
    @pytest.mark.after("TestBlock::test_submodules")
    @pytest.mark.hint("Remember which Parameters are drawn already; `is` tells them apart.")
    def test_tied(self, submission):
        """A shared weight is drawn once, and stays shared."""
        states = {}
        for head in ("tied", "none"):
            model = Gpt(submission, vocab=67, ctx=37, dim=16, kinds=["gelu"], head=head)
            torch.manual_seed(7)
            submission.init_gpt(model, 3)
            states[head] = torch.get_rng_state()
            if head == "tied":
                expect(
                    model.head.weight is model.tok.weight,
                    "head and token embedding shared their weight, and no longer do: fill the "
                    "Parameter in place",
                    id="tied.broken",
                )
                known = {
                    STD / math.sqrt(6): "the scaling is for modules named out_proj or down only"
                }
                values = model.tok.weight.detach().flatten().double()
                expect_normal(values, STD, "the tied embedding", known)
        expect(
            torch.equal(states["tied"], states["none"]),
            "a model whose head shares the embedding's weight takes more random numbers than the "
            "same model without a head: the shared weight is drawn twice",
            id="tied.twice",
        )

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("TestBlock::test_submodules")
    def test_in_place(self, submission):
        """The parameters are filled, not replaced."""
        model = Gpt(submission, vocab=11, ctx=7, dim=8, kinds=["gelu", "swiglu"])
        before = dict(model.named_parameters())
        result = submission.init_gpt(model=model, n_layers=2)
        expect(result is None, f"init_gpt returns {type(result).__name__}; expected nothing")
        after = dict(model.named_parameters())
        for name, parameter in before.items():
            expect(
                after.get(name) is parameter,
                f"{name} is another Parameter after init_gpt: an optimizer that was made before "
                "would move the old one. Fill it in place, under no_grad",
                id="init.replaced",
            )
            expect(
                parameter.requires_grad and parameter.is_leaf,
                f"{name} no longer is a leaf that requires a gradient",
                id="init.graph",
            )

    @pytest.mark.points(2, "value")
    @pytest.mark.after("TestBlock::test_pre")
    def test_depth(self, submission):
        """24 blocks let the stream grow less than threefold."""
        dim, depth = 64, 24
        x = 0.028 * randn(2, 11, dim)
        found: dict[str, dict] = {}
        with contextlib.suppress(Exception):  # a placement that is still to be written
            found.update(curves(submission, dim, depth, x))
        if not found:
            model = Stack([submission.Block(dim, 4, "gelu", "pre", 0.0) for _ in range(depth)])
            submission.init_gpt(model, depth)
            found["pre, yours"] = observed(model, x)
        show_depth(found, depth)
        growth = (rms(found["pre, yours"]["stream"])[-1] / x.square().mean().sqrt()).item()
        measured(f"grows {growth:.2g}x")
        expect(
            0.5 < growth < 3,
            f"through {depth} blocks the rms of the stream grows {growth:.3g}x; with residual "
            "projections scaled by 1 / √(2 · 24) it grows about 1.2x, without that 5x",
            id="depth.growth",
            got=growth,
            expected=3.0,
        )

    @pytest.mark.points(2, "value")
    @pytest.mark.after("TestBlock::test_pre")
    def test_first_loss(self, submission):
        """The first loss of a GPT is near ln V."""
        vocab = 67
        for head in ("own", "tied"):
            model = Gpt(submission, vocab=vocab, ctx=16, dim=64, kinds=["gelu"] * 3, head=head)
            submission.init_gpt(model, 3)
            ids, targets = rand_ints(8, 16, high=vocab), rand_ints(8, 16, high=vocab)
            with torch.no_grad():
                loss = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten()).item()
            measured(f"{loss:.3g}, ln {vocab} = {math.log(vocab):.3g}")
            expect(
                abs(loss / math.log(vocab) - 1) < 0.05,
                f"with {'a tied' if head == 'tied' else 'its own'} head the loss before training "
                f"is {loss:.3g}; a model that knows nothing and says so has ln {vocab} = "
                f"{math.log(vocab):.3g}, and small weights give that",
                id="init.loss",
                got=loss,
                expected=math.log(vocab),
            )

    @pytest.mark.points(1, "value")
    @pytest.mark.after("TestBlock::test_pre")
    def test_stream(self, submission):
        """The stream is measured after each block."""
        model, x, found = stats_case(submission)
        seen = observed(model, x)
        stream = seen["stream"]
        same_numbers(
            found["stream"],
            rms(stream),
            "the list of the stream's rms",
            {
                "it is the rms of each block's input; its output is wanted": rms(seen["into"]),
                "it is the norm; rms divides by the root of the number of elements": (
                    stream.flatten(1).norm(dim=1)
                ),
                "the root is missing: these are mean squares": rms(stream).square(),
                "it is the standard deviation; rms leaves the mean in": stream.flatten(1).std(
                    1, correction=0
                ),
            },
        )

    @pytest.mark.points(2, "value")
    @pytest.mark.after("TestBlock::test_pre")
    def test_branch(self, submission):
        """The branches are measured together."""
        model, x, found = stats_case(submission)
        seen = observed(model, x)
        same_numbers(
            found["branch"],
            rms(seen["attn"] + seen["ffn"]),
            "the list of the branches' rms",
            {
                "only the attention's output is in it": rms(seen["attn"]),
                "only the MLP's output is in it": rms(seen["ffn"]),
                "the two rms are added; add the outputs, then take the rms": (
                    rms(seen["attn"]) + rms(seen["ffn"])
                ),
                "it is the norm; rms divides by the root of the number of elements": (
                    (seen["attn"] + seen["ffn"]).flatten(1).norm(dim=1)
                ),
            },
        )

    @pytest.mark.points(2, "gradient")
    @pytest.mark.after("TestBlock::test_pre")
    def test_grad(self, submission):
        """The gradient's norm is taken over a block's parameters."""
        model, x, found = stats_case(submission)
        each = observed(model, x)["grad"]
        total = each.norm(dim=1)
        same_numbers(
            found["grad"],
            total,
            "the list of the gradients' norms",
            {
                "the norms of the parameters' gradients are added; it is one norm over all": (
                    each.sum(1)
                ),
                "it is the mean of the norms of the parameters' gradients": each.mean(1),
                "the root is missing: these are squares": total.square(),
                "the loss is the sum of the squares; their mean is wanted": total * x.numel(),
            },
        )

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("TestBlock::test_pre")
    def test_hooks(self, submission):
        """All hooks are as before."""
        model = Stack([submission.Block(8, 4, "gelu", "pre", 0.0) for _ in range(2)])
        calls: list[int] = []
        model.blocks[0].attn.register_forward_hook(lambda *_: calls.append(1))
        model.blocks[1].register_forward_pre_hook(lambda *_: calls.append(2))

        def hooks() -> list[tuple[str, str, list[int]]]:
            kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
            return [
                (name or "the model", kind, sorted(getattr(module, kind)))
                for name, module in model.named_modules()
                for kind in (*kinds, "_backward_pre_hooks")
            ]

        before = hooks()
        submission.stream_stats(model, randn(2, 3, 8))
        expect(
            sorted(calls) == [1, 2],
            f"hooks that were there before ran {len(calls)} times; with one forward they run "
            "twice in all",
            id="hooks.calls",
        )
        for (name, kind, old), (_, _, new) in zip(before, hooks(), strict=True):
            expect(
                old == new,
                f"{name} has {len(new)} in {kind.strip('_')} after stream_stats and had {len(old)} "
                "before: remove your own by their handles, and leave the others",
                id="hooks.left",
            )
        for name, parameter in model.named_parameters():
            expect(not parameter._backward_hooks, f"a hook is left on {name}", id="hooks.left")

    @pytest.mark.points(1, "gradient")
    @pytest.mark.after("TestBlock::test_pre")
    def test_gradients_stay(self, submission):
        """Every .grad is as before."""
        model = Stack([submission.Block(8, 4, "gelu", "pre", 0.0) for _ in range(2)])
        model.tail = nn.Linear(8, 8)
        parameters = dict(model.named_parameters())
        before = {}
        for number, (name, parameter) in enumerate(parameters.items()):
            before[name] = randn(*parameter.shape) if number % 3 else None
            parameter.grad = None if before[name] is None else before[name].clone()
        submission.stream_stats(model, randn(2, 3, 8))
        for name, parameter in parameters.items():
            old, new = before[name], parameter.grad
            if old is None:
                expect(
                    new is None,
                    f"{name}.grad was None and holds a gradient after stream_stats",
                    id="grad.left",
                )
            else:
                expect(
                    new is not None and torch.equal(new, old),
                    f"{name}.grad changed: gradients that were there belong to the caller; "
                    "torch.autograd.grad returns new ones and leaves .grad alone",
                    id="grad.changed",
                )

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("TestBlock::test_pre")
    def test_modes(self, submission):
        """Every module has its mode back."""
        for training in (True, False):
            model = Stack([submission.Block(8, 4, "gelu", "pre", 0.0) for _ in range(2)])
            model.train(training)
            model.blocks[1].ffn.train(not training)
            before = {name: module.training for name, module in model.named_modules()}
            submission.stream_stats(model, randn(2, 3, 8))
            for name, part in model.named_modules():
                words = {True: "training", False: "eval"}
                expect(
                    part.training == before[name],
                    f"{name or 'the model'} is in {words[part.training]} mode after "
                    f"stream_stats and was in {words[before[name]]} mode",
                    id="mode.left",
                )

    @pytest.mark.points(1, "training")
    @pytest.mark.after("TestBlock::test_pre")
    def test_learns(self, submission):
        """Twelve blocks learn to name the previous symbol."""
        curve = train_until(
            lambda seed: learning(submission, seed),
            0.5,
            80,
            seeds=2,
            need=1,
            what="the loss as a share of the first",
        )
        picture(
            "curve",
            "Twelve blocks learn",
            f"The loss falls below half of the first after {len(curve)} steps.",
            series=[{"label": "loss", "x": list(range(1, len(curve) + 1)), "y": curve}],
            x_label="step",
            y_label="share of the first loss",
            log_y=True,
            limit=0.5,
        )
