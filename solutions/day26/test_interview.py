"""Day 26 asks for the theory of attention and norms as numbers, constructions and experiments."""

import copy
import math
import operator
import random
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch._dynamo  # the first mode and the first optimizer import it, seconds that no check pays
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from grader.testing import assert_close, assert_shape, assert_tensor, expect, fail, picture


def number(value: Any, what: str) -> float:
    """A number as a Python float."""
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        fail(f"{what} should be a number; it is a {type(value).__name__}")


def whole(value: Any, what: str) -> int:
    """A whole number as a Python int."""
    found = number(value, what)
    expect(math.isfinite(found) and found == int(found), f"{what} is {found}; expected an int")
    return int(found)


Option = tuple[float, ...]


def check_choice(
    ask: Callable[[list[Option]], Any], right: Option, wrong: dict[str, Option], place: int
) -> None:
    """Shuffle the options, ask for the index of the right one, and say why another is wrong.

    Args:
        ask: the learner's function on a list of options.
        right: the option to choose.
        wrong: why it is wrong -> option.
        place: index of the right one.
    """
    pairs = list(wrong.items())
    random.shuffle(pairs)
    pairs.insert(place, ("", right))
    chosen = ask([option for _, option in pairs])
    try:
        index = operator.index(chosen)
    except TypeError:
        fail(f"the result should be an index; it is a {type(chosen).__name__}")
    expect(
        0 <= index < len(pairs),
        f"the result is {index}; expected the index of an option, 0 to {len(pairs) - 1}",
    )
    why, option = pairs[index]
    expect(not why, f"option {index}, {option}, is wrong: {why}")


# --- 1 ------------------------------------------------------------------------------------------


def drawn_weights(d: int, n: int, scale: float, queries: int = 4000) -> Tensor:
    """(queries, n) softmax weights of scores times `scale`."""
    q = torch.randn(queries, d)
    k = torch.randn(queries, n, d)
    return torch.softmax(scale * torch.einsum("qd,qnd->qn", q, k), dim=1)


def largest(weights: Tensor) -> float:
    """Mean over the queries of the largest weight."""
    return weights.max(dim=1).values.mean().item()


def slope(weights: Tensor) -> float:
    """Mean Frobenius norm of diag(w) - w w^T, from sums of powers."""
    two, three = (weights**2).sum(dim=1), (weights**3).sum(dim=1)
    return (two - 2 * three + two**2).clamp_min(0).sqrt().mean().item()


def pair_of(submission, d: int, n: int, seed: int) -> tuple[float, float]:
    """What `saturation` returns, as two floats."""
    result = submission.saturation(d, n, seed)
    expect(
        isinstance(result, Sequence) and len(result) == 2,
        "saturation should return a pair (unscaled, scaled)",
    )
    return number(result[0], "the unscaled mean"), number(result[1], "the scaled mean")


def assert_near(got: float, expected: float, what: str, explain: dict[str, float]) -> None:
    """Within 10 % of the expectation; else name the mistake that has this value, if one has."""
    if abs(got - expected) <= 0.1 * expected:
        return
    for sentence, value in explain.items():
        if abs(got - value) <= 0.05 * abs(value):
            fail(f"{what} is {got:.3f}; expected about {expected:.3f}: {sentence}")
    fail(f"{what} is {got:.3f}; expected about {expected:.3f}, to 10 %", expected=expected, got=got)


@pytest.mark.task("scaled_dot_product")
class TestScaledDotProduct:
    @pytest.mark.points(5, "theory")
    def test_variance(self, submission):
        """The variance of q·k follows the closed form."""
        for d in (1, 2, 7, 64, 129):
            sq, sk = random.uniform(0.5, 3), random.uniform(0.5, 3)
            rho = random.uniform(0.3, 0.9) * random.choice((-1, 1))
            got = number(submission.q_scale(d, sq, sk, rho), "q_scale")
            single, covariance = (sq * sk) ** 2, rho * sq * sk
            expected = d * (single + covariance**2)
            where = f"q_scale({d}, {sq:.3g}, {sk:.3g}, {rho:.3g})"
            mistakes = {
                "this is the variance for independent q and k: rho is missing": d * single,
                "this is the standard deviation; the variance is its square": math.sqrt(expected),
                "this is E[(q·k)²] for one entry, times d: the square of the mean is part of it": d
                * (single + 2 * covariance**2),
                "rho enters by its square": d * (single + covariance * sq * sk),
                "the standard deviations enter by their squares": d * sq * sk * (1 + rho**2),
                "the variance of a sum of d independent terms grows as d": d * expected,
            }
            for sentence, value in mistakes.items():
                if math.isclose(got, value, rel_tol=1e-6) and not math.isclose(value, expected):
                    fail(f"{where} is {got:.6g}: {sentence}")
            assert_close(got, expected, what=where)

    @pytest.mark.points(3, "theory")
    def test_draws_agree(self, submission):
        """Drawn vectors have the variance that was computed."""
        for d, rho in ((3, 0.8), (5, -0.6)):
            got = number(submission.q_scale(d, 1.5, 0.5, rho), "q_scale")
            q = torch.randn(200_000, d)
            k = rho * q + math.sqrt(1 - rho**2) * torch.randn(200_000, d)
            found = ((1.5 * q) * (0.5 * k)).sum(dim=1).var().item()
            expect(
                abs(got - found) <= 0.03 * found,
                f"of 200,000 drawn pairs with d = {d} and rho = {rho}, q·k has the variance "
                f"{found:.4g}; q_scale gives {got:.4g}",
            )

    @pytest.mark.points(5, "value")
    def test_saturation(self, submission):
        """The largest weight grows with d unless the scores are scaled."""
        dims, found = (4, 16, 64), []
        for d in dims:
            n = random.choice((7, 11, 13))
            unscaled, scaled = pair_of(submission, d, n, random.randrange(1000))
            found.append((unscaled, scaled))
            plain, small = drawn_weights(d, n, 1.0), drawn_weights(d, n, d**-0.5)
            where = f"for d = {d} and n = {n} the {{}} mean"
            for name, got in (("unscaled", unscaled), ("scaled", scaled)):
                expect(
                    got >= 0.9 / n,
                    f"{where.format(name)} is {got:.3f}, less than 1/{n}: of {n} weights that sum "
                    "to 1 the largest is never so small. The softmax runs over the keys of a query",
                )
            swapped = "unscaled comes first, scaled second"
            assert_near(
                unscaled,
                largest(plain),
                where.format("unscaled"),
                {
                    swapped: largest(small),
                    "this is the mean weight, not the largest": 1 / n,
                },
            )
            by_d = drawn_weights(d, n, 1 / d)
            assert_near(
                scaled,
                largest(small),
                where.format("scaled"),
                {
                    "the scores were divided by d, not by its root": largest(by_d),
                    "the scores were not divided": largest(plain),
                    "this is the mean weight, not the largest": 1 / n,
                },
            )
        picture(
            "curve",
            "Saturation of the softmax",
            "Without the division by sqrt(d) one key takes nearly all the weight.",
            series=[
                {"label": name, "x": list(dims), "y": [pair[i] for pair in found]}
                for i, name in enumerate(("unscaled", "divided by sqrt(d)"))
            ],
            x_label="d",
            y_label="mean largest weight",
            log_y=False,
        )

    @pytest.mark.points(2, "value")
    def test_seeds(self, submission):
        """A seed names a draw: equal ones agree, others differ."""
        first = pair_of(submission, 16, 11, 1), submission.grad_ratio(16, 11, 1)
        torch.randn(3)
        again = pair_of(submission, 16, 11, 1), submission.grad_ratio(16, 11, 1)
        other = pair_of(submission, 16, 11, 2), submission.grad_ratio(16, 11, 2)
        expect(first == again, "two calls with the same seed give different results")
        expect(
            first[0] != other[0],
            "saturation gives the same for seeds 1 and 2: the result is no draw of the seed",
        )
        expect(
            first[1] != other[1],
            "grad_ratio gives the same for seeds 1 and 2: the result is no draw of the seed",
        )

    @pytest.mark.points(4, "gradient")
    def test_gradient_ratio(self, submission):
        """Unscaled scores leave the softmax a smaller Jacobian."""
        for d in (16, 36, 64):
            n = random.choice((11, 13))
            seeds = random.sample(range(1000), 5)
            ratios = [number(submission.grad_ratio(d, n, seed), "grad_ratio") for seed in seeds]
            got = sum(ratios) / len(ratios)
            plain, small = drawn_weights(d, n, 1.0, 10_000), drawn_weights(d, n, d**-0.5, 10_000)
            ratio = slope(plain) / slope(small)
            sums = (plain - plain**2).sum(1).mean() / (small - small**2).sum(1).mean()
            assert_near(
                got,
                ratio,
                f"the mean of grad_ratio over five seeds, for d = {d} and n = {n},",
                {
                    "it is upside down; unscaled is divided by scaled": 1 / ratio,
                    "this is the ratio of the traces, not of the Frobenius norms": sums.item(),
                    "this is the ratio of the squared norms": ratio**2,
                },
            )

    @pytest.mark.points(3, "theory")
    def test_larger_d(self, submission):
        """The right option says what a larger d does to the scores."""
        places = random.sample(range(5), 3)
        for factor, place in zip(random.sample((2, 3, 5, 7), 3), places, strict=True):
            root = math.sqrt(factor)
            check_choice(
                lambda options, factor=factor: submission.if_d_grows(factor, options),
                (float(factor), root, 1.0),
                {
                    "the variance of a sum grows as the number of its terms, the standard "
                    "deviation as the root of it": (root, float(factor), 1.0),
                    "the standard deviation is the root of the variance": (
                        float(factor),
                        float(factor),
                        root,
                    ),
                    "terms of a sum don't cancel so far: their variances add": (1.0, 1.0, 1 / root),
                    "dividing by sqrt(d) takes away just the growth": (float(factor), root, root),
                    "variances add; they don't multiply": (float(factor) ** 2, float(factor), root),
                },
                place,
            )

    @pytest.mark.points(3, "theory")
    def test_divided_by_d(self, submission):
        """The right option says why nobody divides the scores by d."""
        sizes = ((16, 5), (64, 7), (random.choice((9, 25, 49)), 11))
        for (d, n), place in zip(sizes, random.sample(range(5), 3), strict=True):
            root = math.sqrt(d)
            check_choice(
                lambda options, d=d, n=n: submission.divided_by_d(d, n, options),
                (1 / root, 1 / n),
                {
                    "the standard deviation of q·k is sqrt(d), not d": (1.0, 1 / n),
                    "scores that shrink towards 0 make all weights alike, not one of them 1": (
                        1 / root,
                        1.0,
                    ),
                    "this is the variance of a score": (1 / d, 1 / n),
                    "this is the standard deviation of q·k, not divided": (root, 1.0),
                    "weights of a row sum to 1, so the largest can't tend to 0": (1 / root, 0.0),
                },
                place,
            )


# --- 2 ------------------------------------------------------------------------------------------


def gain_and_bias(y: Tensor, gain: Tensor | None, bias: Tensor | None) -> Tensor:
    """An affine map of each channel of (batch, channels, length)."""
    if gain is None or bias is None:
        return y
    return y * gain[:, None] + bias[:, None]


def hidden_norm(kind: str, affine: bool) -> Callable[[Tensor], Tensor]:
    """A normaliser of (batch, 6, 5) that only shows what it does."""
    gain = bias = None
    if affine:
        gain = torch.empty(6).uniform_(0.5, 2.0) * torch.tensor([1, -1, 1, 1, -1, 1])
        bias = torch.randn(6)
    mean, var = torch.randn(6), torch.empty(6).uniform_(0.3, 3.0)
    groups = random.choice((2, 3))
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "bn_train": lambda x: F.batch_norm(x, None, None, training=True),
        "bn_eval": lambda x: F.batch_norm(x, mean.to(x.dtype), var.to(x.dtype)),
        "layer": lambda x: F.layer_norm(x, (6, 5)),
        "rms": lambda x: x * torch.rsqrt((x**2).mean(dim=(1, 2), keepdim=True) + 1e-6),
        "group": lambda x: F.group_norm(x, groups),
        "instance": lambda x: F.group_norm(x, 6),
        "l2": lambda x: F.normalize(x, dim=1),
        "none": lambda x: x.clone(),
    }
    function = functions[kind]
    return lambda x: gain_and_bias(function(x), gain, bias)


PATTERNS = {
    "bn_train": "a sample moves the outputs of other samples",
    "bn_eval": "only the same element moves, by fixed numbers of its channel",
    "layer": "all channels and positions of the sample move, and a constant added to all is lost",
    "rms": "all channels and positions of the sample move, and a constant added to all shows",
    "group": "some channels of the sample move, and others don't",
    "instance": "only the same channel of the sample moves, at all positions",
    "l2": "only the same position of the sample moves, in all channels",
    "none": "the output is the input",
}


def check_kinds(submission, *kinds: str) -> None:
    """These kinds are named, on three draws, with and without gain and bias."""
    for _ in range(3):
        for kind in kinds:
            for affine in (False, True) if kind not in ("l2", "none") else (False,):
                f = hidden_norm(kind, affine)
                got = submission.which_norm(f)
                form = "with" if affine else "without"
                expect(
                    got == kind,
                    f"a function that is {kind!r} {form} gain and bias was named {got!r}; of "
                    f"{kind!r}, {PATTERNS[kind]}",
                    expected=kind,
                    got=got if isinstance(got, str) else str(got),
                )


def random_bn(channels: int, eps: float) -> nn.BatchNorm2d:
    """A BatchNorm in eval mode with a history."""
    bn = nn.BatchNorm2d(channels, eps=eps).eval()
    with torch.no_grad():
        for tensor in (bn.weight, bn.bias, bn.running_mean):
            tensor.copy_(torch.randn(channels))
        bn.running_var.uniform_(0.1, 2.0)
    return bn


def check_folded(submission, conv: nn.Conv2d, eps: float) -> None:
    """The folded convolution equals both modules."""
    bn = random_bn(conv.out_channels, eps)
    folded = submission.fold_bn(copy.deepcopy(conv), copy.deepcopy(bn))
    expect(
        isinstance(folded, nn.Conv2d),
        f"the result should be an nn.Conv2d; it is a {type(folded).__name__}",
    )
    x = torch.randn(2, conv.in_channels, 7, 9)
    with torch.no_grad():
        got, y = folded(x), conv(x)
        expected = bn(y)

        def other(var: Tensor, bias: bool = True) -> Tensor:
            start = y if bias or conv.bias is None else y - conv.bias[:, None, None]
            gain = (bn.weight / var.sqrt())[:, None, None]
            return (start - bn.running_mean[:, None, None]) * gain + bn.bias[:, None, None]

        var, n = bn.running_var, conv.out_channels
        explain = {
            "eps is missing under the root": other(var),
            "running_var was corrected for n - 1; it is used as it is": other(
                var * n / max(n - 1, 1) + eps
            ),
            "the running mean is missing": other(var + eps)
            + (bn.running_mean * bn.weight / (var + eps).sqrt())[:, None, None],
            "only the convolution is left": y,
        }
        if conv.bias is not None:
            explain["the bias of the convolution was lost"] = other(var + eps, bias=False)
        assert_close(
            got,
            expected,
            rtol=1e-5,
            atol=1e-5,
            axes=("batch", "channels", "height", "width"),
            what="the folded convolution's output",
            explain=explain,
        )


def fresh_norm(kind: str, shape: tuple[int, int, int]) -> nn.Module:
    """A norm without gain and bias, in train mode."""
    _, channels, length = shape
    makers: dict[str, Callable[[], nn.Module]] = {
        "LayerNorm": lambda: nn.LayerNorm((channels, length), elementwise_affine=False),
        "RMSNorm": lambda: nn.RMSNorm((channels, length), elementwise_affine=False),
        "GroupNorm": lambda: nn.GroupNorm(2, channels, affine=False),
        "BatchNorm": lambda: nn.BatchNorm1d(channels, affine=False),
        "InstanceNorm": lambda: nn.InstanceNorm1d(channels),
    }
    return makers[kind]()


def check_same(submission, a: str, b: str, *axes: str) -> None:
    """Both norms agree on the input, which varies along the axes that they reduce."""
    for shape in ((2, 4, 5), (3, 6, 7)):
        x = submission.same_output(fresh_norm(a, shape), fresh_norm(b, shape), shape)
        assert_tensor(x, "the input")
        batch, channels, length = shape
        assert_shape(x, batch=batch, channels=channels, length=length)
        x = x.detach().clone().float()
        expect(bool(x.isfinite().all()), "the input has an element that is not finite")
        for axis in axes:
            spread = x.std(dim=("batch", "channels", "length").index(axis)).max().item()
            expect(
                spread > 1e-2,
                f"the input doesn't vary along {axis}, an axis that {a} or {b} reduces: that they "
                "agree there says nothing",
            )
        first, second = fresh_norm(a, shape)(x), fresh_norm(b, shape)(x)
        off = (first - second).abs().max().item()
        expect(
            off <= 1e-4, f"on the input of shape {shape}, {a} and {b} differ by {off:.2g} somewhere"
        )


@pytest.mark.task("norms")
class TestNorms:
    @pytest.mark.points(3, "theory")
    def test_batch_norms(self, submission):
        """BatchNorm is told in both of its modes."""
        check_kinds(submission, "bn_train", "bn_eval")

    @pytest.mark.points(3, "theory")
    def test_layer_and_rms(self, submission):
        """LayerNorm and RMSNorm are told apart."""
        check_kinds(submission, "layer", "rms")

    @pytest.mark.points(2, "theory")
    def test_group_and_instance(self, submission):
        """GroupNorm and InstanceNorm are told apart."""
        check_kinds(submission, "group", "instance")

    @pytest.mark.points(2, "theory")
    def test_l2_and_none(self, submission):
        """Division by a norm, and doing nothing, are recognised."""
        check_kinds(submission, "l2", "none")

    @pytest.mark.points(1, "structure")
    def test_calls(self, submission):
        """At most 30 calls of the function are enough."""
        for kind in PATTERNS:
            f, calls = hidden_norm(kind, False), 0

            def counting(x: Tensor, f: Callable[[Tensor], Tensor] = f) -> Tensor:
                nonlocal calls
                calls += 1
                return f(x)

            submission.which_norm(counting)
            expect(calls <= 30, f"which_norm called a function that is {kind!r} {calls} times")

    @pytest.mark.points(3, "value")
    def test_folded(self, submission):
        """The folded convolution equals convolution and norm."""
        check_folded(submission, nn.Conv2d(2, 5, 3), 1e-5)
        check_folded(submission, nn.Conv2d(3, 7, (3, 2)), 0.1)

    @pytest.mark.points(2, "value")
    def test_folded_without_bias(self, submission):
        """A convolution without bias gets one."""
        check_folded(submission, nn.Conv2d(2, 5, 3, bias=False), 0.1)

    @pytest.mark.points(2, "value")
    def test_folded_geometry(self, submission):
        """Stride, padding, dilation and groups are kept."""
        check_folded(submission, nn.Conv2d(6, 9, 3, stride=2, padding=1, groups=3), 1e-3)
        check_folded(submission, nn.Conv2d(2, 3, 3, padding=(2, 1), dilation=2, bias=False), 1e-3)

    @pytest.mark.points(1, "structure")
    def test_fold_changes_nothing(self, submission):
        """Folding leaves the convolution and the norm as they are."""
        conv, bn = nn.Conv2d(2, 5, 3), random_bn(5, 1e-3)
        modules = {"the convolution": conv, "the norm": bn}
        before = {name: copy.deepcopy(m.state_dict()) for name, m in modules.items()}
        folded = submission.fold_bn(conv, bn)
        expect(folded is not conv, "the result is the convolution itself; expected a new one")
        for p in folded.parameters():
            p.data.fill_(0.0)
        for name, module in modules.items():
            for key, value in module.state_dict().items():
                expect(
                    torch.equal(value, before[name][key]),
                    f"`{key}` of {name} changed, or is shared with the result",
                )

    @pytest.mark.points(2, "theory")
    def test_layer_equals_rms(self, submission):
        """On the input, LayerNorm and RMSNorm agree."""
        check_same(submission, "LayerNorm", "RMSNorm", "channels", "length")

    @pytest.mark.points(2, "theory")
    def test_layer_equals_group(self, submission):
        """On the input, LayerNorm and GroupNorm agree."""
        check_same(submission, "LayerNorm", "GroupNorm", "channels", "length")

    @pytest.mark.points(2, "theory")
    def test_batch_equals_instance(self, submission):
        """On the input, BatchNorm in train mode and InstanceNorm agree."""
        check_same(submission, "BatchNorm", "InstanceNorm", "batch", "length")


# --- 3 ------------------------------------------------------------------------------------------


class Block(nn.Module):
    """A block with attention written as two matmuls."""

    def __init__(self, cfg: SimpleNamespace) -> None:
        super().__init__()
        width = cfg.dim // cfg.heads
        self.heads, self.kv_heads, self.width = cfg.heads, cfg.kv_heads, width
        self.norm1, self.norm2 = nn.LayerNorm(cfg.dim), nn.LayerNorm(cfg.dim)
        self.q_proj = nn.Linear(cfg.dim, cfg.dim, bias=False)
        self.k_proj = nn.Linear(cfg.dim, cfg.kv_heads * width, bias=False)
        self.v_proj = nn.Linear(cfg.dim, cfg.kv_heads * width, bias=False)
        self.out_proj = nn.Linear(cfg.dim, cfg.dim, bias=False)
        self.up = nn.Linear(cfg.dim, cfg.hidden, bias=False)
        self.down = nn.Linear(cfg.hidden, cfg.dim, bias=False)
        self.gate = nn.Linear(cfg.dim, cfg.hidden, bias=False) if cfg.ffn == "swiglu" else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        q, k, v = (
            layer(h).unflatten(2, (heads, self.width)).transpose(1, 2)
            for layer, heads in (
                (self.q_proj, self.heads),
                (self.k_proj, self.kv_heads),
                (self.v_proj, self.kv_heads),
            )
        )
        k, v = (t.repeat_interleave(self.heads // self.kv_heads, dim=1) for t in (k, v))
        mixed = (q @ k.transpose(2, 3)).softmax(dim=3) @ v
        x = x + self.out_proj(mixed.transpose(1, 2).flatten(2))
        h = self.norm2(x)
        inner = F.gelu(self.up(h)) if self.gate is None else F.silu(self.gate(h)) * self.up(h)
        return x + self.down(inner)


class Model(nn.Module):
    """The model that is counted."""

    def __init__(self, cfg: SimpleNamespace) -> None:
        super().__init__()
        self.tok, self.pos = nn.Embedding(cfg.vocab, cfg.dim), nn.Embedding(cfg.ctx, cfg.dim)
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.layers))
        self.norm = nn.LayerNorm(cfg.dim)
        self.head = nn.Linear(cfg.dim, cfg.vocab, bias=False)
        if cfg.tie:
            self.head.weight = self.tok.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tok(ids) + self.pos.weight
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def config(**changes: Any) -> SimpleNamespace:
    """A small untied model with plain attention and a gelu."""
    sizes: dict[str, Any] = {
        "vocab": random.choice((29, 31)),
        "ctx": random.choice((11, 13)),
        "dim": 24,
        "heads": 4,
        "kv_heads": 4,
        "layers": random.choice((2, 3)),
        "hidden": random.choice((37, 41)),
        "ffn": "gelu",
        "tie": False,
    }
    return SimpleNamespace(**(sizes | changes))


def shown(cfg: SimpleNamespace) -> str:
    """The configuration for a message."""
    return ", ".join(f"{name}={value!r}" for name, value in vars(cfg).items())


def counted_parameters(cfg: SimpleNamespace) -> int:
    """Number of parameters of an instantiated model."""
    return sum(p.numel() for p in Model(cfg).parameters())


class MatmulCounter(TorchDispatchMode):
    """Adds up two operations a multiply-add of every product of matrices, backward included."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket in (torch.ops.aten.mm, torch.ops.aten.bmm):
            self.total += 2 * result.numel() * args[0].shape[-1]
        return result


def counted_flops(cfg: SimpleNamespace, sequences: int = 1) -> int:
    """Operations of one forward and backward."""
    model = Model(cfg)
    ids = torch.zeros(sequences, cfg.ctx, dtype=torch.int64)
    with MatmulCounter() as counter:
        model(ids).sum().backward()
    return counter.total


def check_params(submission, cfg: SimpleNamespace) -> None:
    """`params` equals the number of an instantiated model."""
    got = whole(submission.params(cfg), "params")
    expected = counted_parameters(cfg)
    off = got - expected
    width = cfg.dim // cfg.heads
    mistakes = {
        "the table of positions is missing": -cfg.ctx * cfg.dim,
        "the LayerNorms are missing": -2 * cfg.dim * (2 * cfg.layers + 1),
        "the last LayerNorm is missing": -2 * cfg.dim,
        "LayerNorms have a bias too": -cfg.dim * (2 * cfg.layers + 1),
        "the head has a weight of its own here": -cfg.vocab * cfg.dim * (not cfg.tie),
        "a tied weight counts once": cfg.vocab * cfg.dim * cfg.tie,
        "keys and values have kv_heads heads, not heads": 2
        * cfg.layers
        * cfg.dim
        * width
        * (cfg.heads - cfg.kv_heads),
        "swiglu has a third layer, the gate": -cfg.layers
        * cfg.dim
        * cfg.hidden
        * (cfg.ffn == "swiglu"),
    }
    for sentence, value in mistakes.items():
        if off and off == value:
            fail(f"params is {got}, expected {expected}: {sentence} ({shown(cfg)})")
    expect(off == 0, f"params is {got}; the model has {expected} parameters ({shown(cfg)})")


def check_flops(submission, cfg: SimpleNamespace, sequences: int = 1) -> None:
    """`train_flops` is within 2 % of what was counted."""
    tokens = sequences * cfg.ctx
    got = number(submission.train_flops(cfg, tokens), "train_flops")
    expected = counted_flops(cfg, sequences)
    attention = 12.0 * cfg.layers * cfg.ctx * cfg.dim * tokens
    width = cfg.dim // cfg.heads
    mistakes = {
        "this is the forward pass alone; the backward takes twice as much again": expected / 3,
        "a multiply-add counts two": expected / 2,
        "the backward takes twice the forward: one product for each factor": expected * 2 / 3,
        "the look-ups of embeddings and LayerNorms are no matmuls": 6.0
        * tokens
        * counted_parameters(cfg),
        "look-ups are no matmuls: they count 0": 6.0 * tokens * counted_parameters(cfg) + attention,
        "the matmuls without parameters are missing: scores and weighted values": expected
        - attention,
        "scores are full squares; the causal half is not saved": expected - attention / 2,
        "the head is a matmul too": expected - 6.0 * tokens * cfg.vocab * cfg.dim,
        "keys and values have kv_heads heads, not heads": expected
        + 12.0 * tokens * cfg.layers * cfg.dim * width * (cfg.heads - cfg.kv_heads),
    }
    where = f"train_flops for {tokens} tokens is {got:.6g}, expected {expected:.6g}"
    if abs(got - expected) <= 0.02 * expected:
        return
    for sentence, value in mistakes.items():
        if abs(got - value) <= 1e-6 * expected:
            fail(f"{where}: {sentence} ({shown(cfg)})")
    fail(f"{where}, {got / expected:.3f} times as much ({shown(cfg)})")


def check_cache(submission, cfg: SimpleNamespace, dtype: torch.dtype) -> None:
    """`kv_cache_bytes` equals the storage of allocated caches."""
    batch, seq = random.choice((3, 5)), random.choice((17, 19))
    got = whole(submission.kv_cache_bytes(cfg, batch, seq, dtype), "kv_cache_bytes")
    width = cfg.dim // cfg.heads
    caches = [
        torch.empty(batch, cfg.kv_heads, seq, width, dtype=dtype, device="meta")
        for _ in range(2 * cfg.layers)
    ]
    expected = sum(cache.untyped_storage().nbytes() for cache in caches)
    mistakes = {
        "keys and values are both kept": 0.5,
        "the cache has kv_heads heads, not heads": cfg.heads / cfg.kv_heads,
        "every layer has a cache of its own": 1 / cfg.layers,
        "these are elements, not bytes": 1 / caches[0].element_size(),
        "an element takes as many bytes as dtype says": 4 / caches[0].element_size(),
    }
    for sentence, factor in mistakes.items():
        if got != expected and got == expected * factor:
            fail(f"kv_cache_bytes is {got}, expected {expected}: {sentence} ({shown(cfg)})")
    expect(
        got == expected,
        f"kv_cache_bytes is {got}, expected {expected} for batch {batch}, seq {seq} and {dtype} "
        f"({shown(cfg)})",
    )


@pytest.mark.task("counting")
class TestCounting:
    @pytest.mark.points(3, "theory")
    def test_params(self, submission):
        """The parameters of a plain model are counted."""
        for changes in ({}, {"dim": 20, "heads": 5, "kv_heads": 5}):
            check_params(submission, config(**changes))

    @pytest.mark.points(3, "theory")
    def test_params_of_variants(self, submission):
        """Grouped heads, swiglu and a tied head are counted."""
        for changes in ({"kv_heads": 2}, {"ffn": "swiglu"}, {"tie": True}):
            check_params(submission, config(**changes))
        check_params(submission, config(kv_heads=1, ffn="swiglu", tie=True))

    @pytest.mark.points(4, "theory")
    def test_flops(self, submission):
        """The operations of a training step are counted."""
        check_flops(submission, config())
        check_flops(submission, config(tie=True), sequences=3)

    @pytest.mark.points(2, "theory")
    def test_flops_of_variants(self, submission):
        """Grouped heads and swiglu change the operations."""
        check_flops(submission, config(kv_heads=1))
        check_flops(submission, config(kv_heads=2, ffn="swiglu"))

    @pytest.mark.points(3, "memory")
    def test_cache(self, submission):
        """The cache takes as many bytes as its tensors."""
        check_cache(submission, config(layers=3), torch.float32)
        check_cache(submission, config(layers=3, kv_heads=2), torch.float32)

    @pytest.mark.points(1, "memory")
    def test_cache_dtype(self, submission):
        """The bytes of an element depend on the dtype."""
        for dtype in (torch.int8, torch.float64, torch.bfloat16):
            check_cache(submission, config(layers=3), dtype)

    @pytest.mark.points(4, "theory")
    def test_six_n(self, submission):
        """The right option says what is wrong with 6 N."""
        variants: tuple[dict[str, Any], ...] = ({}, {"tie": True}, {"kv_heads": 2, "ffn": "swiglu"})
        for changes, place in zip(variants, random.sample(range(5), 3), strict=True):
            over = attention = 0.0
            while math.isclose(over, attention, rel_tol=0.05):  # options have to be far apart
                cfg = config(**changes)
                tokens = cfg.ctx * random.choice((3, 5))
                idle = cfg.dim * (cfg.ctx + 2 * (2 * cfg.layers + 1) + (not cfg.tie) * cfg.vocab)
                toggled = idle + cfg.dim * cfg.vocab * (1 if cfg.tie else -1)
                attention = 12.0 * cfg.layers * cfg.ctx * cfg.dim * tokens
                over = 6.0 * tokens * idle
            token_table = (
                "the tied table is in a matmul, as the head's weight"
                if cfg.tie
                else "the table of tokens is looked up; the head has a weight of its own"
            )
            check_choice(
                lambda options, cfg=cfg, tokens=tokens: submission.six_n(cfg, tokens, options),
                (over, attention),
                {
                    "first what is counted too much, then what is left out": (attention, over),
                    token_table: (6.0 * tokens * toggled, attention),
                    "this is attention's forward pass alone": (over, attention / 3),
                    "look-ups and LayerNorms have parameters, and are no matmuls": (0.0, attention),
                    "scores and weighted values are matmuls too": (over, 0.0),
                },
                place,
            )


# --- 4 ------------------------------------------------------------------------------------------


class Subject(nn.Module):
    """What is experimented on: a function behind a name that says nothing."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self._function = function

    def forward(self, *args: Any) -> Any:
        return self._function(*args)


class Optimizer:
    """An optimizer behind a name that says nothing."""

    def __init__(self, inner: torch.optim.Optimizer, after: Callable[[], None] | None) -> None:
        self._inner, self._after = inner, after

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._inner.zero_grad(set_to_none=set_to_none)

    @torch.no_grad()
    def step(self) -> None:
        if self._after is not None:
            self._after()
        self._inner.step()


Subjects = dict[str, Callable[..., Any]]


def scaled_by(size: float, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function with outputs of another size."""
    return lambda *args: size * function(*args)


def attention(form: str) -> Callable[[Tensor], Tensor]:
    """Attention over (batch, seq, 8), with or without something that knows positions."""
    wq, wk, wv = (torch.randn(8, 8) / math.sqrt(8) for _ in range(3))
    table = torch.randn(16, 8)

    def forward(x: Tensor) -> Tensor:
        n = x.shape[1]
        h = x + table[:n] if form == "positions" else x
        scores = (h @ wq) @ (h @ wk).transpose(1, 2) / math.sqrt(8)
        step = torch.arange(n)
        if form == "causal":
            scores = scores.masked_fill(step[:, None] < step, -math.inf)
        if form == "distance":
            scores = scores - (step[:, None] - step).abs()
        weights = scores.sigmoid() if form == "sigmoid" else scores.softmax(dim=2)
        return weights @ (h @ wv)

    return forward


def permutable(size: float) -> tuple[Subjects, Subjects]:
    """Maps of sequences."""
    w, v = torch.randn(8, 8), torch.randn(8, 8)

    def of_a_set(x: Tensor) -> Tensor:
        return (x @ w + x.mean(dim=1, keepdim=True) @ v).tanh()

    def neighbours(x: Tensor) -> Tensor:
        return x + x.roll(1, dims=1) @ w

    true: Subjects = {"attention": attention("plain"), "sigmoid attention": attention("sigmoid")}
    true["a layer of a set"] = of_a_set
    false: Subjects = {
        "causal attention": attention("causal"),
        "attention with a table of positions": attention("positions"),
        "attention that prefers near tokens": attention("distance"),
        "a layer that looks at the token before": neighbours,
    }
    return scaled(true, size), scaled(false, size)


def scaled(subjects: Subjects, size: float) -> Subjects:
    """The same, with outputs of another size."""
    return {name: Subject(scaled_by(size, each)) for name, each in subjects.items()}


def clippers(size: float) -> tuple[Subjects, Subjects]:
    """Clipping with limits about `size`."""

    def total(parameters: list[Tensor]) -> None:
        nn.utils.clip_grad_norm_(parameters, size)

    def largest_element(parameters: list[Tensor]) -> None:
        top = max(p.grad.abs().max().item() for p in parameters)
        for p in parameters:
            p.grad.mul_(min(1.0, size / top))

    def each_element(parameters: list[Tensor]) -> None:
        nn.utils.clip_grad_value_(parameters, size)

    def each_parameter(parameters: list[Tensor]) -> None:
        for p in parameters:
            nn.utils.clip_grad_norm_([p], size)

    def signs(parameters: list[Tensor]) -> None:
        for p in parameters:
            p.grad.sign_().mul_(size)

    def turned(parameters: list[Tensor]) -> None:
        nn.utils.clip_grad_norm_(parameters, size)
        for p in parameters:
            p.grad.neg_()

    true: Subjects = {"clipping by the total norm": total, "by the largest": largest_element}
    false: Subjects = {
        "clipping of each element": each_element,
        "clipping of each parameter by its own norm": each_parameter,
        "signs": signs,
        "clipping that turns the sign": turned,
    }
    return plain(true), plain(false)


def plain(subjects: Subjects) -> Subjects:
    """Functions behind a name that says nothing."""
    return {name: Subject(each) for name, each in subjects.items()}


Make = Callable[..., torch.optim.Optimizer]


def with_loss(make: Make) -> Callable[..., Any]:
    """A maker of an optimizer, for a list of parameters."""
    return lambda parameters: Optimizer(make(parameters), None)


def optimizers(size: float) -> tuple[Subjects, Subjects]:
    """Optimizers, some of which ignore the scale of the loss."""
    o = torch.optim
    lr = 0.1 if size == 1 else 0.01 if size < 1 else 1.0
    true: dict[str, Make] = {
        "Adam with eps 0": lambda ps: o.Adam(ps, lr, eps=0),
        "AdamW with eps 0": lambda ps: o.AdamW(ps, lr, eps=0, weight_decay=0.5),
        "RMSprop with eps 0": lambda ps: o.RMSprop(ps, lr, eps=0),
    }
    false: dict[str, Make] = {
        "Adam with eps 1": lambda ps: o.Adam(ps, lr, eps=1),
        "SGD": lambda ps: o.SGD(ps, lr),
        "SGD with momentum": lambda ps: o.SGD(ps, lr, momentum=0.9),
        "Adam with eps 0 and L2": lambda ps: o.Adam(ps, lr, eps=0, weight_decay=10),
    }
    return (
        {name: with_loss(make) for name, make in true.items()},
        {name: with_loss(make) for name, make in false.items()},
    )


def with_decay(make: Make) -> Callable[..., Any]:
    """A maker of an optimizer, for a list of parameters and a weight decay."""
    return lambda parameters, weight_decay: Optimizer(make(parameters, weight_decay), None)


def decays(size: float) -> tuple[Subjects, Subjects]:
    """Optimizers with weight decay."""
    o = torch.optim
    lr = 0.1 if size == 1 else 0.01 if size < 1 else 1.0
    true: dict[str, Make] = {
        "SGD": lambda ps, wd: o.SGD(ps, lr, weight_decay=wd),
        "SGD with momentum": lambda ps, wd: o.SGD(ps, lr, momentum=0.9, weight_decay=wd),
        "Adam": lambda ps, wd: o.Adam(ps, lr, weight_decay=wd),
    }
    false: dict[str, Make] = {
        "AdamW": lambda ps, wd: o.AdamW(ps, lr, weight_decay=wd),
        "an optimizer that forgets it": lambda ps, wd: o.SGD(ps, lr),
    }
    true_makers: Subjects = {name: with_decay(make) for name, make in true.items()}
    false_makers: Subjects = {name: with_decay(make) for name, make in false.items()}

    def decoupled(parameters: list[Tensor], weight_decay: float) -> Optimizer:
        def shrink() -> None:
            for p in parameters:
                p.mul_(1 - lr * weight_decay)

        return Optimizer(o.SGD(parameters, lr, momentum=0.9), shrink)

    false_makers["SGD with momentum, whose decay bypasses the momentum"] = decoupled
    return true_makers, false_makers


def scale_free(size: float) -> tuple[Subjects, Subjects]:
    """Norms of (batch, 8)."""
    gain = torch.empty(8).uniform_(0.5, 2.0)
    mean, var = torch.randn(8), torch.empty(8).uniform_(0.5, 2.0)

    def rms(x: Tensor) -> Tensor:
        return gain * x / x.square().mean(dim=1, keepdim=True).sqrt()

    true: Subjects = {
        "LayerNorm with eps 0": lambda x: F.layer_norm(x, (8,), gain, mean, eps=0),
        "RMSNorm with eps 0": rms,
        "division by the largest": lambda x: gain * x / x.abs().amax(dim=1, keepdim=True),
    }
    false: Subjects = {
        "LayerNorm with eps 1e-5": lambda x: F.layer_norm(x, (8,), gain, mean, eps=1e-5),
        "BatchNorm in eval mode": lambda x: F.batch_norm(x, mean, var),
        "a norm that stops at large inputs": lambda x: (
            x / x.norm(dim=1, keepdim=True).clamp_max(50)
        ),
        "division by a norm of 0.1 or more": lambda x: F.normalize(x, dim=1, eps=0.1),
    }
    return scaled(true, size), scaled(false, size)


def losses(size: float) -> tuple[Subjects, Subjects]:
    """Losses of logits and targets."""

    def by_hand(z: Tensor, y: Tensor) -> Tensor:
        return (z.logsumexp(dim=1) - z.gather(1, y[:, None])[:, 0]).sum()

    def squares(z: Tensor, y: Tensor) -> Tensor:
        return (z.softmax(dim=1) - F.one_hot(y, z.shape[1])).square().sum(dim=1).mean()

    def by_row(z: Tensor, y: Tensor) -> Tensor:
        weights = 1.0 + 3 * (torch.arange(len(y)) % 2)
        return (F.cross_entropy(z, y, reduction="none") * weights).mean()

    true: Subjects = {
        "cross entropy": lambda z, y: F.cross_entropy(z, y),
        "cross entropy, summed, by logsumexp": by_hand,
    }
    false: Subjects = {
        "cross entropy with label smoothing": lambda z, y: F.cross_entropy(
            z, y, label_smoothing=0.3
        ),
        "cross entropy of the softmax": lambda z, y: F.cross_entropy(z.softmax(dim=1), y),
        "squared error of the softmax": squares,
        "cross entropy with another weight for every second row": by_row,
        "cross entropy with its sign turned": lambda z, y: -F.cross_entropy(z, y),
    }
    return scaled(true, size), scaled(false, size)


def net(form: str) -> Callable[[Tensor], Tensor]:
    """Three layers, (batch, 8) to (batch, 3)."""
    w1, w2, w3 = torch.randn(8, 13) / 2, torch.randn(13, 11) / 3, torch.randn(11, 3) / 3
    bias = torch.randn(13) / 2 if form == "bias" else torch.zeros(13)
    activation = {"gelu": F.gelu, "leaky": F.leaky_relu, "relu6": F.relu6}.get(form, F.relu)
    factor = 5.0 if form == "relu6" else 1.0

    def forward(x: Tensor) -> Tensor:
        h = activation(x @ w1 / factor + bias)
        return activation(h @ w2) @ w3 * factor

    return forward


def homogeneous(size: float) -> tuple[Subjects, Subjects]:
    """Nets, some of which grow as their input does."""
    inner = net("relu")
    return (
        scaled({"a ReLU net": net("relu"), "a leaky ReLU net": net("leaky")}, size),
        scaled(
            {
                "a ReLU net with biases": net("bias"),
                "a GELU net": net("gelu"),
                "a net whose ReLU stops at large inputs": net("relu6"),
                "a net with an offset at the end": lambda x: inner(x) + 0.3,
            },
            size,
        ),
    )


def alone(size: float) -> tuple[Subjects, Subjects]:
    """Norms of (batch, 8) in train mode."""

    def by_hand(x: Tensor) -> Tensor:
        return (x - x.mean(dim=0)) * (x.var(dim=0, correction=0) + 1e-5).rsqrt()

    def only_the_mean(x: Tensor) -> Tensor:
        return x - 0.2 * x.mean(dim=0)

    true: Subjects = {
        "LayerNorm": lambda x: F.layer_norm(x, (8,)),
        "GroupNorm": lambda x: F.group_norm(x, 2),
        "RMSNorm": lambda x: F.rms_norm(x, (8,)),
    }
    false: Subjects = {
        "BatchNorm": nn.BatchNorm1d(8),
        "BatchNorm by hand": by_hand,
        "a norm that subtracts a share of the batch mean": only_the_mean,
    }
    return scaled(true, size), scaled(false, size)


KINDS: dict[int, Callable[[float], tuple[Subjects, Subjects]]] = {
    1: permutable,
    2: clippers,
    3: optimizers,
    4: decays,
    5: scale_free,
    6: losses,
    7: homogeneous,
    8: alone,
}


def verdict(submission, k: int, subject: Callable[..., Any], seed: int) -> bool:
    """What an experiment says of a subject."""
    answer = getattr(submission, f"experiment_{k}")(subject, seed)
    if isinstance(answer, Tensor) and answer.dtype == torch.bool and answer.numel() == 1:
        answer = bool(answer)
    expect(
        isinstance(answer, bool) or type(answer).__name__ in ("bool", "bool_"),
        f"experiment_{k} should return True or False; it returned a {type(answer).__name__}",
    )
    return bool(answer)


def check_experiment(submission, k: int, size: float = 1.0) -> None:
    """One experiment is right on its true and doctored subjects, with three seeds."""
    where = "" if size == 1 else f" (scaled by {size:g})"
    for _ in range(3):
        true, false = KINDS[k](size)
        seed = random.randrange(10_000)
        for holds, subjects in ((True, true), (False, false)):
            for name, subject in subjects.items():
                answer = verdict(submission, k, subject, seed)
                expect(
                    answer is holds,
                    f"experiment_{k} says {answer} of {name}{where}, with seed {seed}; the claim "
                    + (
                        "holds for it. (An exception inside `attempt` is a False, too)"
                        if holds
                        else "fails for it"
                    ),
                    expected=holds,
                    got=answer,
                )


@pytest.mark.task("experiments")
class TestExperiments:
    @pytest.mark.points(3, "theory")
    def test_permutation(self, submission):
        """Experiment 1 tells what knows positions from what doesn't."""
        check_experiment(submission, 1)

    @pytest.mark.points(3, "theory")
    def test_clipping(self, submission):
        """Experiment 2 tells which clipping keeps the direction."""
        check_experiment(submission, 2)

    @pytest.mark.points(3, "theory")
    def test_loss_scale(self, submission):
        """Experiment 3 tells which optimizers ignore the loss's scale."""
        check_experiment(submission, 3)

    @pytest.mark.points(3, "theory")
    def test_weight_decay(self, submission):
        """Experiment 4 tells for which optimizers decay is L2."""
        check_experiment(submission, 4)

    @pytest.mark.points(3, "theory")
    def test_input_scale(self, submission):
        """Experiment 5 tells which norms ignore the input's scale."""
        check_experiment(submission, 5)

    @pytest.mark.points(3, "theory")
    def test_cross_entropy(self, submission):
        """Experiment 6 tells which losses have the gradient p - y."""
        check_experiment(submission, 6)

    @pytest.mark.points(3, "theory")
    def test_homogeneous(self, submission):
        """Experiment 7 tells which nets grow with their input."""
        check_experiment(submission, 7)

    @pytest.mark.points(3, "theory")
    def test_batch_of_one(self, submission):
        """Experiment 8 tells which norms need company."""
        check_experiment(submission, 8)

    @pytest.mark.points(4, "value")
    def test_other_sizes(self, submission):
        """Subjects a thousand times as small or large are judged alike."""
        failures: dict[int, AssertionError] = {}
        for k in KINDS:
            try:
                for size in (1e-3, 1e3):
                    check_experiment(submission, k, size)
            except AssertionError as error:
                failures[k] = error
        picture(
            "bars",
            "Experiments that judge by the size of the result",
            f"{len(KINDS) - len(failures)} of {len(KINDS)} are right for outputs 1000 times as "
            "small and as large.",
            labels=[f"experiment {k}" for k in KINDS],
            series=[{"label": "right", "values": [int(k not in failures) for k in KINDS]}],
            log=False,
            unit="",
            limit=None,
        )
        for error in failures.values():
            raise error

    @pytest.mark.points(2, "structure")
    def test_exceptions(self, submission):
        """A subject that raises is one for which the claim fails."""

        def broken(*args: Any) -> Any:
            raise ValueError("Expected more than 1 value per channel when training")

        for k in KINDS:
            try:
                answer = verdict(submission, k, broken, 0)
            except ValueError:
                fail(f"experiment_{k} lets an exception of its subject through; expected False")
            expect(not answer, f"experiment_{k} says True of a subject that raises")
