"""Day 17 asks for facts of the formats, a trace of dtypes, a loss scaler and 16-bit weights."""

import copy
import gc
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import module as hooks
from torch.utils._python_dispatch import TorchDispatchMode

from grader.testing import (
    assert_close,
    assert_dtype,
    assert_raises,
    assert_same_seed_same_result,
    assert_shape,
    assert_tensor,
    assert_unchanged,
    expect,
    fail,
    forbid,
    measured,
    names_used,
    picture,
    randn,
    spy,
)

INF, NAN = math.inf, math.nan
HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32


def short(dtype: Any) -> str:
    """`bfloat16` for torch.bfloat16."""
    return str(dtype).removeprefix("torch.")


def assert_float(value: Any, what: str) -> None:
    """A Python float, not a tensor."""
    if isinstance(value, Tensor):
        fail(f"{what} is a tensor; expected a Python float")
    expect(type(value) is float, f"{what} is of type {type(value).__name__}; expected float")


# --- 1 ------------------------------------------------------------------------------------------

FORMATS = {HALF: (11, 15), BRAIN: (8, 127), SINGLE: (24, 127), torch.float64: (53, 1023)}
"""Binary digits with the leading one, and the largest exponent."""

FACTS = ("max", "smallest_subnormal", "eps", "largest_exact_int", "smallest_step")


def closed_forms(dtype: torch.dtype) -> dict[str, float]:
    """What the format holds, from its digits and its exponents."""
    digits, top = FORMATS[dtype]
    eps = 2.0 ** (1 - digits)
    return {
        "max": (2 - eps) * 2.0**top,
        "smallest_subnormal": 2.0 ** (2 - top - digits),
        "eps": eps,
        "largest_exact_int": 2.0**digits,
        "smallest_step": eps / 2 * (1 + eps),
    }


def check_fact(submission: Any, key: str, mistakes: dict[str, Callable[[torch.dtype], float]]):
    """One key for every format; a mistake is what it gives for a dtype."""
    for dtype in FORMATS:
        facts = submission.float_facts(dtype)
        expect(isinstance(facts, dict), f"the result is a {type(facts).__name__}; expected a dict")
        expect(key in facts, f"the key {key!r} is missing; the dict has {list(facts)}")
        got, expected = facts[key], closed_forms(dtype)[key]
        assert_float(got, f"{key} of {short(dtype)}")
        if got == expected:
            continue
        why = next((text for text, known in mistakes.items() if got == known(dtype)), "")
        if not why and dtype is not torch.float64 and got == closed_forms(torch.float64)[key]:
            why = "that is float64's: a Python number got into the loop, keep a tensor of the dtype"
        fail(
            f"{key} of {short(dtype)} is {got!r}; expected {expected!r}{why and ': '}{why}",
            expected=expected,
            got=got,
            minimal=f"float_facts({dtype})",
        )


NO_FINFO = "finfo was used; it is forbidden here: find the numbers by arithmetic"


class WithoutFinfo:
    """A module of which everything but `finfo` can be had."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        if name == "finfo":
            fail(NO_FINFO)
        return getattr(self._module, name)


class Computed(TorchDispatchMode):
    """Counts the operators that calculate with tensors of a dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.count = dtype, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = any(isinstance(a, Tensor) and a.dtype == self.dtype for a in args)
        self.count += given and "_local_scalar_dense" not in str(func)
        return result


@pytest.mark.task("float_facts")
class TestFloatFacts:
    @pytest.mark.points(2, "value")
    def test_max(self, submission):
        """The largest finite number is right for every format."""
        check_fact(
            submission,
            "max",
            {
                "that is the largest power of two; numbers above it are finite too": lambda d: (
                    2.0 ** FORMATS[d][1]
                ),
                "that is inf, one doubling too far": lambda d: INF,
            },
        )

    @pytest.mark.points(2, "value")
    def test_smallest(self, submission):
        """The smallest positive number is right for every format."""
        check_fact(
            submission,
            "smallest_subnormal",
            {
                "that is the smallest *normal* number; below it, digits are lost one by one before "
                "0 is reached": lambda d: 2.0 ** (1 - FORMATS[d][1]),
                "the loop went one halving too far": lambda d: 0.0,
            },
        )

    @pytest.mark.points(1, "value")
    def test_eps(self, submission):
        """eps is the distance from 1 to the next number."""
        check_fact(
            submission,
            "eps",
            {
                "that is half the distance: 1 + eps/2 rounds to 1, so it is the first that is too "
                "small": lambda d: 2.0 ** -FORMATS[d][0],
                "that is twice the distance": lambda d: 2.0 ** (2 - FORMATS[d][0]),
            },
        )

    @pytest.mark.points(2, "value")
    def test_integers(self, submission):
        """All integers up to largest_exact_int can be held."""
        check_fact(
            submission,
            "largest_exact_int",
            {
                "the next integers are exact too": lambda d: 2.0 ** (FORMATS[d][0] - 1),
                "that one cannot be held": lambda d: 2.0 ** FORMATS[d][0] + 1,
                "that n can be held too: 2 ** digits is a power of two": lambda d: (
                    2.0 ** FORMATS[d][0] - 1
                ),
            },
        )

    @pytest.mark.points(2, "value")
    def test_smallest_step(self, submission):
        """Nothing smaller than smallest_step changes 1."""
        check_fact(
            submission,
            "smallest_step",
            {
                "that is eps; rounding goes to the nearest number, so a little more than half "
                "of it is enough": lambda d: closed_forms(d)["eps"],
                "that is eps/2; 1 + eps/2 lies halfway, and ties go to the even neighbour, "
                "1": lambda d: closed_forms(d)["eps"] / 2,
            },
        )

    @pytest.mark.points(1, "structure")
    def test_by_arithmetic(self, submission, source, monkeypatch):
        """The facts are computed on tensors of the dtype, without finfo."""
        used = names_used(source, "float_facts")
        expect(not any(name.endswith("finfo") for name in used), NO_FINFO)
        for name, value in list(vars(submission).items()):
            if value is torch or value is np:
                monkeypatch.setattr(submission, name, WithoutFinfo(value))
            elif value is torch.finfo or value is np.finfo:
                monkeypatch.setattr(submission, name, lambda *_: fail(NO_FINFO))
        for dtype in (HALF, BRAIN):
            with Computed(dtype) as mode:
                submission.float_facts(dtype=dtype)
            expect(
                mode.count > 0,
                f"no operator ran on a {short(dtype)} tensor; find the numbers by arithmetic on "
                "tensors of that dtype",
            )


# --- 2 ------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """A block with a residual connection; one leaf is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(13, 6)
        self.norm = nn.LayerNorm(6)
        self.heads = nn.ModuleDict({name: nn.Linear(6, 6) for name in ("q", "k", "v")})
        self.softmax = nn.Softmax(-1)
        self.out = nn.Linear(6, 6)
        self.last = nn.LayerNorm(6)
        self.spare = nn.Linear(6, 6)

    def forward(self, ids: Tensor) -> Tensor:
        """(batch, seq) of ints to (batch, seq, 6)."""
        x = self.table(ids)
        y = self.norm(x)
        q, k, v = (self.heads[name](y) for name in ("q", "k", "v"))
        return self.last(x + self.out(self.softmax(q @ k.mT) @ v))


def mlp() -> nn.Module:
    """Linear, norm, ReLU, Linear."""
    return nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.ReLU(), nn.Linear(7, 3))


def cnn() -> nn.Module:
    """A nested stack with convolution, norm and pooling."""
    stack = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(nn.Identity(), stack, nn.Flatten(), nn.Linear(12, 5))


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "mlp": (mlp, lambda: randn(2, 5)),
    "cnn": (cnn, lambda: randn(3, 2, 7, 6)),
    "attention": (Attention, lambda: torch.randint(13, (2, 5))),
    "leaf": (lambda: nn.Linear(5, 3), lambda: randn(2, 5)),
}


def traced(
    model: nn.Module, x: Tensor, device_type: str, dtype: torch.dtype
) -> tuple[dict[str, torch.dtype], dict[str, torch.dtype]]:
    """Output and input dtypes of the leaves of a copy, by wrapping each `forward`."""
    model = copy.deepcopy(model)
    outputs: dict[str, torch.dtype] = {}
    inputs: dict[str, torch.dtype] = {}

    def wrap(name: str, module: nn.Module) -> None:
        inner = module.forward

        def forward(value: Tensor) -> Tensor:
            inputs[name] = value.dtype
            result = inner(value)
            outputs[name] = result.dtype
            return result

        module.forward = forward  # type: ignore[method-assign]

    for name, leaf in model.named_modules():
        if not any(True for _ in leaf.children()):
            wrap(name, leaf)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.autocast(device_type, dtype=dtype):
            model(x)
    return outputs, inputs


def run_trace(submission: Any, *args: Any) -> Any:
    """The learner's trace; autocast to a device that is not there only warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return submission.dtype_trace(*args)


def check_trace(
    submission: Any, net: str, device_type: str = "cpu", dtype: torch.dtype = BRAIN
) -> None:
    """The learner's trace against one by wrapped forwards."""
    make, data = NETS[net]
    model, x = make(), data()
    untouched = copy.deepcopy(model)
    got = run_trace(submission, model, x.clone(), device_type, dtype)
    expected, inputs = traced(untouched, x, device_type, dtype)
    expect(isinstance(got, dict), f"the result is a {type(got).__name__}; expected a dict")
    if got == expected:
        return
    missing = [name for name in expected if name not in got]
    expect(not missing, f"the leaf {missing and missing[0]!r} ran, but is not in the result")
    extra = [name for name in got if name not in expected]
    if extra:
        kind = dict(untouched.named_modules()).get(extra[0])
        why = "did not run" if kind is not None else "is no module"
        if kind is not None and list(kind.children()):
            why = "has children; only leaves are asked for"
        fail(f"{extra[0]!r} is in the result, but it {why}")
    name = next(name for name in expected if got[name] != expected[name])
    why = ""
    if got == inputs and set(got.values()) != {SINGLE}:
        why = ": these are the dtypes of the inputs; the outputs are asked for"
    elif all(value == SINGLE for value in got.values()):
        why = (
            ": everything came out in float32, so autocast was not on for this device type while "
            "the model ran"
        )
        why += ", or these are the dtypes of the inputs" if got == inputs else ""
    elif expected[name] == SINGLE and device_type == "cpu":
        why = ": autocast leaves this one alone; was the model itself cast?"
    fail(
        f"{net}, autocast({device_type!r}, {short(dtype)}): the output of {name!r} is given as "
        f"{short(got[name])}; it is {short(expected[name])}{why}",
        expected=short(expected[name]),
        got=short(got[name]),
    )


def executed() -> dict[str, torch.dtype]:
    """The dtypes of the ten expressions, by running them."""
    space: dict[str, Any] = {
        "softmax": torch.softmax,
        "layer_norm": F.layer_norm,
        "exp": torch.exp,
        "sum": torch.sum,
        "cross_entropy": F.cross_entropy,
        "mse_loss": F.mse_loss,
        "linear": nn.Linear(5, 5),
        "x": torch.randn(3, 5),
        "w": torch.randn(5, 5),
        "y": torch.tensor([0, 2, 4]),
    }
    with torch.no_grad(), torch.autocast("cpu", BRAIN):
        space["h"] = space["linear"](space["x"])
        return {text: eval(text, {"__builtins__": {}, **space}).dtype for text in EXPRESSIONS}


WHY = {
    "linear(x)": "what multiplies matrices is on autocast's list of operators cast down",
    "x @ w": "what multiplies matrices is on autocast's list of operators cast down",
    "softmax(h, -1)": "CUDA casts it up, the CPU list doesn't name it: it follows its input",
    "layer_norm(h, (5,))": "CUDA casts it up, the CPU list doesn't name it: it follows its input",
    "exp(h)": "CUDA casts it up, the CPU list doesn't name it: it follows its input",
    "sum(h)": "CUDA casts it up, the CPU list doesn't name it: it follows its input",
    "softmax(x, -1)": "autocast casts it neither down nor up: it follows its input",
    "h + x": "it is on no list, and the sum of two dtypes has the wider one",
    "cross_entropy(h, y)": "losses are cast up on every device",
    "mse_loss(h, x)": "losses are cast up on every device",
}
EXPRESSIONS = tuple(WHY)


def check_predictions(submission: Any, expressions: Sequence[str]) -> None:
    """Some of the learner's predictions against execution."""
    predictions = submission.PREDICTIONS
    kind = type(predictions).__name__
    expect(isinstance(predictions, dict), f"PREDICTIONS is a {kind}; expected a dict")
    ran = executed()
    for text in expressions:
        expect(text in predictions, f"PREDICTIONS has no entry for {text!r}")
        got = predictions[text]
        expect(
            isinstance(got, torch.dtype),
            f"PREDICTIONS[{text!r}] is {got!r}; expected a dtype such as torch.bfloat16",
        )
        expect(
            got == ran[text],
            f"{text}: predicted {short(got)}, and executing it says otherwise; {WHY[text]}",
            got=short(got),
        )


@pytest.mark.task("dtype_trace")
class TestDtypeTrace:
    @pytest.mark.points(3, "value")
    @pytest.mark.parametrize("net", ["mlp", "cnn", "attention"])
    def test_outputs(self, submission, net):
        """Every leaf that ran stands with the dtype of its output."""
        check_trace(submission, net)

    @pytest.mark.points(1, "value")
    def test_leaf(self, submission):
        """A model without children has the empty name."""
        check_trace(submission, "leaf")

    @pytest.mark.points(1, "value")
    def test_dtype(self, submission):
        """The dtype of autocast is the one that was asked for."""
        check_trace(submission, "mlp", dtype=HALF)

    @pytest.mark.points(1, "value")
    def test_device_type(self, submission):
        """Autocast of another device type leaves a model on the CPU alone."""
        check_trace(submission, "mlp", "cuda", HALF)

    @pytest.mark.points(2, "structure")
    def test_parameters(self, submission):
        """The parameters keep their dtype and their values."""
        model = mlp()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        run_trace(submission, model, randn(2, 5), "cpu", BRAIN)
        for name, p in model.named_parameters():
            expect(
                p.dtype == SINGLE,
                f"the parameter {name!r} is {short(p.dtype)} afterwards; autocast casts inputs of "
                "operators, the model itself stays as it is",
            )
            expect(torch.equal(p, before[name]), f"the parameter {name!r} has changed its values")

    @pytest.mark.points(2, "structure")
    def test_hooks(self, submission):
        """Your hooks are gone afterwards, those of others are still there."""
        model = cnn()
        calls: list[int] = []
        model[1][0].register_forward_hook(lambda *_: calls.append(1))
        kept = {id(m): set(vars(m)) for m in model.modules()}
        everywhere = len(hooks._global_forward_hooks), len(hooks._global_forward_pre_hooks)
        run_trace(submission, model, randn(2, 2, 7, 6), "cpu", BRAIN)
        ours = [
            len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
            for m in model.modules()
        ]
        left = sum(ours)
        now = len(hooks._global_forward_hooks), len(hooks._global_forward_pre_hooks)
        expect(now == everywhere, "a hook for all modules is still registered; remove its handle")
        expect(
            left <= 1,
            f"{left - 1} of your hooks are still on the model; call `remove()` on every handle",
        )
        expect(left == 1, "a hook that was there before is gone; remove your own handles only")
        for m in model.modules():
            new = set(vars(m)) - kept[id(m)]
            if getattr(m.forward, "__func__", None) is type(m).forward:
                new.discard("forward")  # replaced for a while, and put back
            names, kind = ", ".join(sorted(new)), type(m).__name__
            expect(not new, f"a module ({kind}) has the new attribute {names} afterwards")

    @pytest.mark.points(1, "structure")
    def test_autocast_off(self, submission):
        """Autocast is off again afterwards."""
        try:
            run_trace(submission, mlp(), randn(2, 5), "cpu", BRAIN)
            after = torch.is_autocast_enabled("cpu")
        finally:
            torch.set_autocast_enabled("cpu", False)
        expect(not after, "autocast is still on; enter it with a `with`, which also leaves it")

    @pytest.mark.points(1, "theory")
    def test_predicted_products(self, submission):
        """The dtypes of matrix products are as predicted."""
        check_predictions(submission, EXPRESSIONS[:2])

    @pytest.mark.points(1, "theory")
    def test_predicted_followers(self, submission):
        """The dtypes of softmax, norm, exp and sum of h are as predicted."""
        check_predictions(submission, EXPRESSIONS[2:6])

    @pytest.mark.points(1, "theory")
    def test_predicted_wide_inputs(self, submission):
        """The dtypes of expressions with a float32 input are as predicted."""
        check_predictions(submission, EXPRESSIONS[6:8])

    @pytest.mark.points(1, "theory")
    def test_predicted_losses(self, submission):
        """The dtypes of the losses are as predicted."""
        check_predictions(submission, EXPRESSIONS[8:])


# --- 3 ------------------------------------------------------------------------------------------


@contextmanager
def without_grad_scaler() -> Iterator[None]:
    """torch's own scaler can't be made within."""
    kind = torch.amp.GradScaler
    original = kind.__init__

    def refuse(self: Any, *args: Any, **kwargs: Any) -> None:
        fail("torch.amp.GradScaler was made; it is forbidden here: do its work yourself")

    kind.__init__ = refuse  # type: ignore[method-assign]
    try:
        yield
    finally:
        kind.__init__ = original  # type: ignore[method-assign]


def mini(submission: Any, **options: Any) -> Any:
    """The learner's scaler."""
    with without_grad_scaler():
        return submission.MiniScaler(**options)


def theirs(init: float, growth: float, backoff: float, interval: int) -> torch.amp.GradScaler:
    """torch's scaler with the same options."""
    return torch.amp.GradScaler(
        "cpu",
        init_scale=init,
        growth_factor=growth,
        backoff_factor=backoff,
        growth_interval=interval,
    )


class Weights:
    """Two parameters in one optimizer, whose gradients are what is asked for."""

    def __init__(self, seed: int = 0, momentum: float = 0.9, lr: float = 0.5) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.ps = [torch.randn(n, generator=generator).requires_grad_() for n in (3, 2)]
        self.opt = torch.optim.SGD(self.ps, lr=lr, momentum=momentum)

    def loss(self, gradient: float) -> Tensor:
        """A scalar with this gradient for the first element, and 0.25 for the others."""
        first = torch.tensor([gradient, 0.25, 0.25])
        return (self.ps[0] * first).sum() + (self.ps[1] * 0.25).sum()

    def flat(self) -> Tensor:
        """(5,) all weights."""
        return torch.cat([p.detach().clone() for p in self.ps])

    def gradients(self) -> Tensor:
        """(5,) all gradients."""
        return torch.cat([p.grad.detach().clone() for p in self.ps if p.grad is not None])

    def iterate(self, scaler: Any, gradient: float, unscale: bool = False) -> None:
        """One iteration with a scaler."""
        self.opt.zero_grad()
        scaler.scale(self.loss(gradient)).backward()
        if unscale:
            scaler.unscale_(self.opt)
        scaler.step(self.opt)
        scaler.update()


SCRIPT = (1, 1, INF, 1, 1, 1, 1, NAN, 1, 1, 1, 1, 1, 1, 1, -INF, INF, 1, 1, 1, 1)
"""The gradients of one element, iteration by iteration; three good ones in a row grow."""

OPTIONS = {"init": 1024.0, "growth": 4.0, "backoff": 0.5, "interval": 3}


def mistaken(counted: str) -> Tensor:
    """(iterations,) the scales of SCRIPT with one known mistake, in float64."""
    scale, good, scales = 1024.0, 0, []
    for gradient in SCRIPT:
        if not math.isfinite(gradient):
            scale *= 2.0 if counted == "reciprocal" else 0.5
            good = good if counted == "kept" else 0
        else:
            good += 1
            limit = {"at once": 1, "late": 4}.get(counted, 3)
            if good >= limit:
                scale *= 4.0
                good = good if counted == "for ever" else 0
        scales.append(scale)
    return torch.tensor(scales, dtype=torch.float64)


def scales_of(scaler: Any, script: Sequence[float]) -> tuple[Tensor, Tensor]:
    """(iterations,) scales after each update, and (iterations, 5) weights."""
    weights, scales, seen = Weights(), [], []
    for gradient in script:
        weights.iterate(scaler, gradient)
        scale = scaler.get_scale()
        assert_float(scale, "get_scale()")
        scales.append(scale)
        seen.append(weights.flat())
    return torch.tensor(scales, dtype=torch.float64), torch.stack(seen)


def histogram(gradients: Tensor, lows: Sequence[int]) -> list[int]:
    """How many magnitudes lie in each bin of four powers of two."""
    powers = gradients.abs().log2().floor()
    return [int(((powers >= low) & (powers < low + 4)).sum()) for low in lows]


@pytest.mark.task("MiniScaler")
class TestMiniScaler:
    @pytest.mark.points(2, "value")
    def test_scale(self, submission):
        """The loss is multiplied by the scale, with its graph."""
        for options, scale in (({}, 65536.0), ({"init": 8.0}, 8.0)):
            weights = Weights()
            scaler = mini(submission, **options)
            assert_float(scaler.get_scale(), "get_scale()")
            loss = weights.loss(0.5)
            plain = loss.item()
            scaled = assert_tensor(scaler.scale(loss), "the scaled loss")
            expect(
                abs(scaled.item() - plain * scale) <= 1e-5 * abs(plain * scale),
                f"a loss of {plain:.6g} became {scaled.item():.6g}; expected {plain * scale:.6g}, "
                f"the loss times the scale {scale:g}"
                + (": the loss is not scaled at all" if scaled.item() == plain else ""),
            )
            expect(scaled.requires_grad, "the scaled loss has no graph; backward needs it")
            expect(loss.item() == plain, "the loss itself was changed; return a new tensor")
            scaled.backward()
            expected = scale * torch.tensor([0.5, 0.25, 0.25, 0.25, 0.25])
            assert_close(weights.gradients(), expected, what="the gradients of the scaled loss")
            expect(scaler.get_scale() == scale, f"get_scale() is {scaler.get_scale()!r}")

    @pytest.mark.points(3, "value")
    def test_underflow(self, submission):
        """Gradients of 1e-8 come through float16 and back."""
        w = torch.zeros(997, requires_grad=True)
        factor = 2.0 ** (-26 - 5 * torch.rand(997))
        opt = torch.optim.SGD([w], lr=1.0)
        scaler = mini(submission)
        loss = ((w.half() * 1).float() * factor).sum()  # the gradient passes float16
        scaler.scale(loss).backward()
        scaled = w.grad.detach().clone()
        scaler.unscale_(opt)
        got = w.grad.detach().clone()
        plain = factor.half().float()
        lows = list(range(-36, 16, 4))
        picture(
            "bars",
            "Magnitudes of the gradients",
            "float16 holds 2^-24 to 2^15; what lies to the left of it becomes 0.",
            labels=[f"2^{low}" for low in lows],
            series=[
                {"label": "without scaling", "values": histogram(factor, lows)},
                {"label": "as float16 saw them", "values": histogram(scaled, lows)},
            ],
            log=False,
            unit="elements",
        )
        zeros = int((got == 0).sum())
        expect(
            zeros == 0,
            f"{zeros} of 997 gradients of about 1e-8 came out as 0: float16 ends at 6e-8. Scale "
            "the loss, so that the gradients are large while they are in float16; multiplying them "
            "afterwards comes too late",
        )
        assert_close(got, factor, rtol=2e-3, what="the unscaled gradients")
        expect(not torch.equal(got, plain), "the gradients are those of an unscaled loss")

    @pytest.mark.points(4, "value")
    def test_scales(self, submission):
        """The scale backs off and grows as torch's own scaler does."""
        got, _ = scales_of(mini(submission, **OPTIONS), SCRIPT)
        expected, _ = scales_of(theirs(*OPTIONS.values()), SCRIPT)
        picture(
            "curve",
            "The scale, iteration by iteration",
            "It falls where a gradient was inf or nan, and grows after three good ones in a row.",
            series=[
                {"label": name, "x": list(range(len(SCRIPT))), "y": values.tolist()}
                for name, values in (("yours", got), ("torch's", expected))
            ],
            x_label="iteration",
            y_label="scale",
            log_y=True,
        )
        assert_close(
            got,
            expected,
            what="the scale after each update",
            explain={
                "the scale grows in every good iteration; `interval` in a row are needed": mistaken(
                    "at once"
                ),
                "an inf must start the count of good iterations anew": mistaken("kept"),
                "growth must start the count of good iterations anew": mistaken("for ever"),
                "the scale grows one iteration late": mistaken("late"),
                "the scale grows where it should back off": mistaken("reciprocal"),
                "the scale never backs off and never grows": torch.full_like(expected, 1024.0),
            },
        )
        for _ in range(2):
            draw = torch.rand(17).tolist()
            script = [NAN if u < 0.1 else INF if u < 0.2 else 1.0 for u in draw]
            options = {"init": 64.0, "growth": 3.0, "backoff": 0.25, "interval": 2}
            got, _ = scales_of(mini(submission, **options), script)
            expected, _ = scales_of(theirs(*options.values()), script)
            assert_close(got, expected, what=f"the scale after each update, {options},")

    @pytest.mark.points(2, "value")
    def test_weights(self, submission):
        """The weights follow torch's scaler, step by step, with inf and nan."""
        _, got = scales_of(mini(submission, **OPTIONS), SCRIPT)
        _, expected = scales_of(theirs(*OPTIONS.values()), SCRIPT)
        bad = [i for i, row in enumerate(got) if not row.isfinite().all()]
        if bad:
            kind = SCRIPT[bad[0]]
            fail(f"a gradient of {kind} got into the weights; the step must be skipped then")
        assert_close(
            got, expected, axes=("iteration", "weight"), what="the weights after each step"
        )

    @pytest.mark.points(3, "structure")
    def test_whole_step_is_skipped(self, submission):
        """One inf skips the optimizer's whole step, momentum included."""
        for bad in (INF, NAN, -INF):
            weights = Weights()
            scaler = mini(submission, init=16.0)
            weights.iterate(scaler, 1.0)
            before = weights.flat()
            buffers = [weights.opt.state[p]["momentum_buffer"].clone() for p in weights.ps]
            with spy(weights.opt, "step") as log:
                weights.iterate(scaler, bad)
            moved = (weights.flat() != before).tolist()
            expect(
                not any(moved),
                f"one element of the first parameter has the gradient {bad}, and "
                f"{sum(moved)} of 5 weights changed; the optimizer's whole step is to be skipped",
            )
            for p, buffer in zip(weights.ps, buffers, strict=True):
                expect(
                    torch.equal(weights.opt.state[p]["momentum_buffer"], buffer),
                    "the weights stayed, but the momentum changed: don't call `opt.step()` at all",
                )
            expect(len(log) == 0, "`opt.step` was called though a gradient was not finite")

    @pytest.mark.points(2, "value")
    def test_unscale_in_place(self, submission):
        """`unscale_` divides this optimizer's gradients in place, once."""
        weights, other = Weights(), Weights(1)
        frozen = torch.ones(2, requires_grad=True)
        weights.opt.add_param_group({"params": [frozen]})
        scaler = mini(submission, init=96.0)
        scaler.scale(weights.loss(0.5) + other.loss(0.5)).backward()
        tensors = [p.grad for p in weights.ps]
        scaler.unscale_(weights.opt)
        expected = torch.tensor([0.5, 0.25, 0.25, 0.25, 0.25])
        assert_close(
            weights.gradients(),
            expected,
            what="the gradients after unscale_",
            explain={
                "the gradients are still scaled": expected * 96,
                "the gradients were multiplied by the scale": expected * 96 * 96,
            },
        )
        for p, tensor in zip(weights.ps, tensors, strict=True):
            expect(p.grad is tensor, "`.grad` is another tensor now; divide it in place")
        expect(frozen.grad is None, "a parameter without a gradient was given one")
        assert_close(other.gradients(), 96 * expected, what="the other optimizer's gradients")

    @pytest.mark.points(2, "structure")
    @pytest.mark.parametrize("stepped", [False, True], ids=["twice", "after step"])
    def test_unscale_twice(self, submission, stepped):
        """A second unscale_ before update is a RuntimeError."""
        weights, other = Weights(), Weights(1)
        scaler = mini(submission, init=16.0)
        for _ in range(2):  # update allows it again
            weights.opt.zero_grad()
            other.opt.zero_grad()
            scaler.scale(weights.loss(0.5) + other.loss(0.5)).backward()
            if stepped:
                scaler.step(weights.opt)
            else:
                scaler.unscale_(weights.opt)
            assert_raises(RuntimeError, scaler.unscale_, weights.opt)
            scaler.unscale_(other.opt)
            scaler.update()

    @pytest.mark.points(2, "value")
    def test_step_unscales_once(self, submission):
        """`step` unscales if that was not done, and only then."""
        for unscale in (False, True):
            weights = Weights(momentum=0.0)
            before = weights.flat()
            weights.iterate(mini(submission, init=16.0), 1.0, unscale)
            gradient = torch.tensor([1.0, 0.25, 0.25, 0.25, 0.25])
            assert_close(
                weights.flat(),
                before - 0.5 * gradient,
                what=f"the weights after a step {'with' if unscale else 'without'} unscale_",
                explain={
                    "the step was made with gradients that were still scaled": before
                    - 0.5 * 16 * gradient,
                    "the gradients were unscaled twice": before - 0.5 / 16 * gradient,
                    "no step was made": before,
                },
            )

    @pytest.mark.points(2, "structure")
    @pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
    def test_optimizers_alone(self, submission, first):
        """Each optimizer is judged alone, the scale by all of them."""
        runs = Weights(0), Weights(1)
        scaler = mini(submission, init=16.0)
        bad, good = runs if first else runs[::-1]
        before = [run.flat() for run in (bad, good)]
        scaler.scale(bad.loss(INF)).backward()
        scaler.scale(good.loss(1.0)).backward()
        for run in runs:
            scaler.step(run.opt)
        scaler.update()
        expect(torch.equal(bad.flat(), before[0]), "an optimizer with an inf gradient has stepped")
        expect(
            not torch.equal(good.flat(), before[1]),
            "an optimizer whose gradients were all finite was skipped with the other one",
        )
        expect(
            scaler.get_scale() == 8.0,
            f"one of two optimizers found inf, and the scale went from 16 to "
            f"{scaler.get_scale():g}; expected 8",
        )
        good.iterate(scaler, 1.0)
        bad_before = bad.flat()
        bad.iterate(scaler, 1.0)
        expect(
            not torch.equal(bad.flat(), bad_before),
            "an inf of the last iteration still skips the step; `update` forgets it",
        )

    @pytest.mark.points(3, "structure")
    def test_state(self, submission):
        """A fresh scaler with the saved state goes on as the saved one would."""
        first = mini(submission, **OPTIONS)
        reference = theirs(*OPTIONS.values())
        cut = 9
        scales_of(first, SCRIPT[:cut])
        scales_of(reference, SCRIPT[:cut])
        state = first.state_dict()
        expect(isinstance(state, dict), f"state_dict() is a {type(state).__name__}, not a dict")
        scales_of(first, [1.0] * 7)  # what was saved must not follow
        second = mini(submission)
        second.load_state_dict(state)
        expected, _ = scales_of(reference, [1.0, 1.0, INF, 1.0, 1.0, 1.0])
        got, _ = scales_of(second, [1.0, 1.0, INF, 1.0, 1.0, 1.0])
        start = mistaken("")[cut - 1].item()
        late = start * torch.tensor([1, 1, 0.5, 0.5, 0.5, 2], dtype=torch.float64)
        assert_close(
            got,
            expected,
            what="the scale after each update of the fresh scaler",
            explain={"the count of good iterations was not saved, it began anew": late},
        )


# --- 4 ------------------------------------------------------------------------------------------


class Batch:
    """A small regression, its gradients in float32, and an optimizer that is watched."""

    def __init__(self, scale: float = 1024.0, interval: int = 2000, enabled: bool = True) -> None:
        self.model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
        self.x, self.y = randn(11, 5), 3 * randn(11, 3)
        self.opt = torch.optim.SGD(self.model.parameters(), lr=0.125, momentum=0.5)
        self.scaler = torch.amp.GradScaler(
            "cpu", init_scale=scale, growth_interval=interval, enabled=enabled
        )
        twin = copy.deepcopy(self.model)
        loss = F.mse_loss(twin(self.x), self.y)
        self.loss = loss.item()
        self.expected = flat(torch.autograd.grad(loss, list(twin.parameters())))
        self.before = self.weights()
        self.used: list[Tensor] = []
        self.cast: list[bool] = []
        self.opt.register_step_pre_hook(self._watch)

    def _watch(self, *_: Any) -> None:
        self.used.append(flat([p.grad for p in self.model.parameters() if p.grad is not None]))
        self.cast.append(torch.is_autocast_enabled("cpu"))

    def weights(self) -> Tensor:
        """All weights as one vector."""
        return flat(list(self.model.parameters()))

    def run(self, submission: Any, dtype: torch.dtype, max_norm: float = 1e4, **changes: Any):
        """The learner's step, and its two results."""
        result = submission.amp_step(
            self.model,
            self.opt,
            self.scaler,
            changes.get("loss_fn", F.mse_loss),
            changes.get("x", self.x),
            self.y,
            dtype,
            max_norm,
        )
        expect(
            isinstance(result, tuple | list) and len(result) == 2,
            f"the result is {result!r}; expected (loss, stepped)",
        )
        return result

    def gradient(self) -> Tensor:
        """The one with which the optimizer stepped."""
        expect(len(self.used) == 1, f"the optimizer stepped {len(self.used)} times; expected once")
        return self.used[0]


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """One vector (elements of all tensors) without a graph."""
    return torch.cat([tensor.detach().clone().float().flatten() for tensor in tensors])


def assert_near(got: Tensor, expected: Tensor, what: str, known: dict[str, Tensor]) -> None:
    """Within 2 per cent of the norm of what is expected."""
    size = expected.norm().item()
    error = (got - expected).norm().item() / size
    measured(f"{100 * error:.1f} %")
    if error <= 0.02:
        return
    for text, wrong in known.items():
        if (got - wrong).norm() <= 0.02 * wrong.norm():
            fail(f"{what}: {text}", expected=size, got=got.norm().item())
    fail(
        f"{what} is {100 * error:.3g} % off that of float32 (norm {got.norm().item():.4g}, "
        f"expected {size:.4g}); half precision alone explains less than 2 %",
        expected=size,
        got=got.norm().item(),
    )


@pytest.mark.task("amp_step")
class TestAmpStep:
    @pytest.mark.points(2, "structure")
    def test_order(self, submission):
        """Scale, unscale_, step and update are called once, in this order."""
        batch = Batch()
        with spy(batch.scaler, "scale", "unscale_", "step", "update") as log:
            batch.run(submission, HALF)
        wanted = ["scale", "unscale_", "step", "update"]
        for name in wanted:
            expect(
                log.count(name) == 1,
                f"`scaler.{name}` was called {log.count(name)} times; expected once. Seen: {log}",
            )
        expect(
            log.names == wanted,
            f"the scaler's calls came as {log}; expected {', '.join(wanted)}",
        )

    @pytest.mark.points(1, "value")
    def test_old_gradients(self, submission):
        """Gradients that were there before don't count."""
        batch = Batch()
        for p in batch.model.parameters():
            p.grad = torch.full_like(p, 1024.0)
        batch.run(submission, HALF)
        assert_near(
            batch.gradient(),
            batch.expected,
            "the gradient at the step",
            {
                "old gradients were added to the new ones: zero them before backward": (
                    batch.expected + 1
                ),
                "it is 0: the gradients were zeroed after backward": torch.full_like(
                    batch.expected, 1e-30
                ),
            },
        )

    @pytest.mark.points(2, "structure")
    @pytest.mark.parametrize("dtype", [HALF, BRAIN], ids=["float16", "bfloat16"])
    def test_forward_under_autocast(self, submission, dtype):
        """Forward and loss run under autocast of the dtype."""
        batch = Batch()
        seen: dict[str, tuple[bool, torch.dtype]] = {}

        def note(what: str) -> None:
            seen[what] = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

        batch.model.register_forward_pre_hook(lambda *_: note("the forward"))

        def loss_fn(prediction: Tensor, y: Tensor) -> Tensor:
            note("the loss")
            return F.mse_loss(prediction.float(), y)  # not every torch takes a half and a float

        batch.run(submission, dtype, loss_fn=loss_fn)
        for what in ("the forward", "the loss"):
            expect(what in seen, f"{what} was not computed by calling what was given")
            on, used = seen[what]
            expect(on, f"{what} ran without autocast for the device type of x, cpu")
            expect(
                used == dtype,
                f"{what} ran under autocast to {short(used)}; asked for is {short(dtype)}",
            )

    @pytest.mark.points(3, "structure")
    def test_outside_autocast(self, submission):
        """Backward and the step run outside autocast."""
        batch = Batch()
        seen: list[bool] = []

        def loss_fn(prediction: Tensor, y: Tensor) -> Tensor:
            prediction.register_hook(lambda _: seen.append(torch.is_autocast_enabled("cpu")))
            return F.mse_loss(prediction, y)

        batch.run(submission, HALF, loss_fn=loss_fn)
        expect(len(seen) == 1, f"backward ran {len(seen)} times; expected once")
        expect(
            not seen[0],
            "autocast was on during backward: each operator runs backward in the dtype of its "
            "forward by itself; leave the `with` before backward",
        )
        expect(
            batch.cast == [False],
            "autocast was on while the optimizer stepped, or it did not step once",
        )
        expect(not torch.is_autocast_enabled("cpu"), "autocast is still on after the step")

    @pytest.mark.points(3, "value")
    def test_clipped(self, submission):
        """The norm of the unscaled gradients is clipped, before the step."""
        for max_norm in (0.5, 0.125):
            batch = Batch()
            batch.run(submission, HALF, max_norm)
            norm = batch.expected.norm()
            unit = batch.expected / norm
            parts = batch.expected.split([p.numel() for p in batch.model.parameters()])
            alone = [part * min(1.0, max_norm / part.norm().item()) for part in parts]
            assert_near(
                batch.gradient(),
                max_norm * unit,
                f"the gradient at the step with max_norm {max_norm}",
                {
                    f"its norm is {max_norm / 1024:.2g}: the clipping saw gradients that were "
                    "still scaled; unscale first": max_norm / 1024 * unit,
                    f"its norm is {norm:.3g}: it was not clipped before the step": batch.expected,
                    "each tensor was clipped by itself; the norm is that of all together": (
                        torch.cat(alone)
                    ),
                },
            )

    @pytest.mark.points(1, "value")
    def test_small_gradients(self, submission):
        """Gradients below max_norm reach the step as they are."""
        for scale in (1024.0, 64.0):
            batch = Batch(scale)
            batch.run(submission, HALF, 1e4)
            assert_near(
                batch.gradient(),
                batch.expected,
                "the gradient at the step",
                {
                    "it is still scaled": batch.expected * scale,
                    "it was divided by the scale though the loss was not scaled": batch.expected
                    / scale,
                    "it was scaled up to max_norm; clipping only ever shortens": batch.expected
                    * (1e4 / batch.expected.norm()),
                },
            )

    @pytest.mark.points(1, "structure")
    def test_float32_parameters(self, submission):
        """Parameters and their gradients stay float32."""
        batch = Batch()
        before = list(batch.model.parameters())
        batch.run(submission, HALF)
        for p, was in zip(batch.model.parameters(), before, strict=True):
            expect(p is was, "a parameter was replaced by another object")
            assert_dtype(p, SINGLE, "a parameter after the step")

    @pytest.mark.points(2, "value")
    def test_disabled(self, submission):
        """With bfloat16 and a disabled scaler every step is made."""
        batch = Batch(enabled=False)
        _, stepped = batch.run(submission, BRAIN, 0.5)
        unit = batch.expected / batch.expected.norm()
        assert_near(batch.gradient(), 0.5 * unit, "the gradient at the step", {})
        expect(bool(stepped), "stepped is False, but a disabled scaler never skips")
        batch = Batch(enabled=False)
        x = batch.x.clone()
        x[2, 3] = NAN
        _, stepped = batch.run(submission, BRAIN, x=x)
        expect(
            bool(stepped) and len(batch.used) == 1,
            f"for a batch with nan and a disabled scaler the optimizer stepped {len(batch.used)} "
            f"times, and stepped is {stepped!r}; a disabled scaler can't skip: once, and True",
        )

    @pytest.mark.points(2, "structure")
    def test_nan_batch(self, submission):
        """A batch with nan skips the step, and says so."""
        batch = Batch()
        _, stepped = batch.run(submission, HALF)
        expect(stepped is True, f"stepped is {stepped!r} after a good batch; expected True")
        before, scale = batch.weights(), batch.scaler.get_scale()
        x = batch.x.clone()
        x[2, 3] = NAN
        _, stepped = batch.run(submission, HALF, x=x)
        expect(
            torch.equal(batch.weights(), before),
            "a batch with nan changed the weights; `scaler.step` would have skipped",
        )
        expect(stepped is False, f"the scaler skipped the step, and stepped is {stepped!r}")
        expect(
            batch.scaler.get_scale() == scale / 2,
            f"the scale is {batch.scaler.get_scale():g} after a skipped step; expected "
            f"{scale / 2:g}, half of the one before: is `update` called?",
        )

    @pytest.mark.points(1, "value")
    def test_grown(self, submission):
        """A step at which the scale grows counts as stepped."""
        batch = Batch(interval=1)
        _, stepped = batch.run(submission, HALF)
        expect(
            batch.scaler.get_scale() == 2048.0,
            f"the scale is {batch.scaler.get_scale():g}; expected it to grow to 2048 by `update`",
        )
        expect(stepped is True, "the scale grew in this iteration, and stepped is not True")

    @pytest.mark.points(2, "value")
    def test_loss(self, submission):
        """The loss comes back unscaled, as a Python float."""
        for scale in (1024.0, 64.0):
            batch = Batch(scale)
            loss, _ = batch.run(submission, HALF)
            assert_float(loss, "the loss")
            expect(
                abs(loss - batch.loss) <= 0.02 * batch.loss,
                f"the loss is {loss:.5g}; expected about {batch.loss:.5g}"
                + (": it is still scaled" if loss > 0.5 * scale * batch.loss else ""),
            )


# --- 5 ------------------------------------------------------------------------------------------

CURVES = ("float32", "naive", "master", "stochastic")


PICKS = (
    "new_zeros",
    "new_empty",
    "new_full",
    "new_ones",
    "index",
    "index_select",
    "gather",
    "take",
)
"""Operators whose result may be smaller than an input though they add nothing."""


class OneDtype(TorchDispatchMode):
    """Fails where a floating-point value leaves a dtype, or where an operator sums."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.found = dtype, ""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        given = [a for a in args if isinstance(a, Tensor) and a.is_floating_point()]
        given += [t for a in args if isinstance(a, list | tuple) for t in a if type(t) is Tensor]
        if name == "_local_scalar_dense" and given:
            self.found = self.found or "a value was read as a Python number, which is a float64"
        outputs = result if isinstance(result, list | tuple) else [result]
        for out in outputs:
            if not isinstance(out, Tensor) or not out.is_floating_point():
                continue
            if out.dtype != self.dtype:
                self.found = self.found or f"`{name}` made a {short(out.dtype)} tensor"
            elif (
                given
                and not func.is_view
                and name not in PICKS
                and out.numel() < max(t.numel() for t in given)
            ):
                self.found = self.found or f"`{name}` takes several elements together at once"
        return result


def neighbours(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The bfloat16 below (or at) x, the one above that, and their distance, in float64."""
    x = x.detach().double()
    _, exponent = torch.frexp(x)
    gap = torch.exp2(exponent.double() - 8)
    low = (x / gap).floor() * gap
    return low, low + gap, gap


def between() -> Tensor:
    """(13,) float32, at known places between two bfloat16 numbers, of many magnitudes."""
    places = torch.tensor([0.5, 0.1, 0.9, 0.25, 0.75, 0.03, 0.97, 0.4, 0.6, 0.2, 0.8, 0.3, 0.7])
    bases = (1 + torch.randint(0, 127, (13,)) / 128) * 2.0 ** torch.randint(-20, 20, (13,))
    signs = torch.where(torch.arange(13) % 2 == 0, 1.0, -1.0)
    gap = neighbours(bases)[2].float()
    return signs * (bases + places * gap)


def adam_by_hand(X: Tensor, y: Tensor, steps: int, lr: float, after: bool = False) -> Tensor:
    """(steps,) the losses of float32 Adam, in float64 NumPy."""
    a, b = X.double().numpy(), y.double().numpy()
    w, m, v, losses = np.zeros(a.shape[1]), 0.0, 0.0, []
    for t in range(1, steps + 2):
        e = a @ w - b
        losses.append(float((e**2).mean()))
        g = 2 * (a * e[:, None]).mean(0)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        w = w - lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return torch.tensor(losses[1:] if after else losses[:-1], dtype=torch.float64)


def regression(rows: int, feat: int) -> tuple[Tensor, Tensor]:
    """(rows, feat) and (rows,): true weights from 1 to 1.8 in magnitude, noise 0.2."""
    X = torch.randn(rows, feat)
    signs = torch.where(torch.rand(feat) < 0.5, -1.0, 1.0)
    w = (1 + 0.8 * torch.rand(feat)) * signs
    return X, X @ w + 0.2 * torch.randn(rows)


def curves_of(result: Any, steps: int) -> dict[str, list[float]]:
    """The learner's four curves."""
    expect(isinstance(result, dict), f"the result is a {type(result).__name__}; expected a dict")
    for name in CURVES:
        expect(name in result, f"the key {name!r} is missing; the dict has {list(result)}")
        got = len(result[name])
        expect(got == steps, f"{name!r} has {got} losses; expected one for each of {steps} steps")
        for loss in result[name]:
            assert_float(loss, f"a loss of {name!r}")
    return result


def adam(submission: Any, params: Any, **options: Any) -> torch.optim.Optimizer:
    """The learner's optimizer."""
    return submission.BF16AdamW(params, **options)


@pytest.mark.task("precision_lab")
class TestPrecisionLab:
    @pytest.mark.points(2, "value")
    def test_kahan_value(self, submission):
        """The compensated sum of many values is less than 1 % off."""
        for dtype, count in ((BRAIN, 1009), (HALF, 5003), (BRAIN, 10_000)):
            x = torch.rand(count).to(dtype)
            got = submission.kahan_sum(x.clone())
            exact = x.double().sum().item()
            assert_shape(assert_tensor(got, "the sum"))
            assert_dtype(got, dtype, "the sum")
            off = abs(got.item() - exact) / exact
            stuck = {BRAIN: 256.0, HALF: 2048.0}[dtype]
            measured(f"{100 * off:.2f} %")
            expect(
                off < 0.01,
                f"the sum of {count} {short(dtype)} values from 0 to 1 is {got.item():g}; exact is "
                f"{exact:.6g}, {100 * off:.1f} % away"
                + (
                    f": it sticks near {stuck:g}, where an addition of less than half a gap "
                    "changes nothing; what is lost there must be carried along"
                    if off > 0.1 and got.item() < 2.5 * stuck
                    else ""
                ),
                expected=exact,
                got=got.item(),
            )

    @pytest.mark.points(2, "structure")
    @pytest.mark.parametrize("dtype", [BRAIN, HALF, SINGLE], ids=["bfloat16", "float16", "float32"])
    def test_kahan_dtype(self, submission, dtype):
        """Everything on the way to the sum is in the dtype of x."""
        x = torch.rand(37).to(dtype)
        mode = OneDtype(dtype)
        with forbid("sum", "cumsum", "tolist", why="add element by element"), mode:
            assert_unchanged(submission.kahan_sum, x)
        expect(
            not mode.found,
            f"{mode.found}; every intermediate is to be a {short(dtype)} tensor, added element by "
            "element",
        )

    @pytest.mark.points(2, "value")
    def test_representable(self, submission):
        """A value that bfloat16 can hold stays, whatever is drawn."""
        exact = torch.cat([randn(997), randn(997) * 1e20, randn(997) * 1e-20, torch.zeros(7)])
        exact = torch.cat([exact.bfloat16().float(), 2.0 ** torch.arange(-100.0, 100.0)])
        for _ in range(3):
            got = assert_tensor(submission.stochastic_round(exact.clone()), "the result")
            assert_dtype(got, BRAIN, "the result")
            assert_shape(got, values=len(exact))
            moved = (got.float() != exact).nonzero().flatten().tolist()
            if moved:
                was, now = exact[moved[0]].item(), got[moved[0]].item()
                fail(
                    f"{was:g} is a bfloat16 number, and became {now:g}: draw only between the two "
                    "neighbours that x lies between",
                    expected=was,
                    got=now,
                )

    @pytest.mark.points(1, "value")
    def test_neighbours(self, submission):
        """Every result is one of the two neighbours."""
        for x in (randn(5, 3, 7).transpose(0, 1), 1000 * randn(11, 13), randn(7, 2)[::2] * 1e-9):
            got = assert_unchanged(submission.stochastic_round, x)
            assert_shape(
                assert_tensor(got), **{f"axis_{i}": size for i, size in enumerate(x.shape)}
            )
            low, high, _ = neighbours(x)
            wrong = ((got.double() != low) & (got.double() != high)).flatten()
            if wrong.any():
                at = int(wrong.nonzero()[0])
                ends = f"{low.flatten()[at].item():.6g} and {high.flatten()[at].item():.6g}"
                fail(
                    f"{x.flatten()[at].item():.8g} became {got.flatten()[at].item():.6g}; its "
                    f"neighbours in bfloat16 are {ends}",
                )
        assert_shape(submission.stochastic_round(torch.tensor(1.001)))

    @pytest.mark.points(3, "value")
    @pytest.mark.after("test_neighbours")
    def test_unbiased(self, submission):
        """The mean of many roundings is the value itself."""
        count = 20_011
        x = between()
        got = submission.stochastic_round(x[:, None].repeat(1, count)).double()
        low, _, gap = neighbours(x)
        for i in range(len(x)):
            place = ((x[i].double() - low[i]) / gap[i]).item()
            up = ((got[i] - low[i]) / gap[i]).mean().item()
            limit = 6 * math.sqrt(place * (1 - place) / count)
            why = ""
            if up in (0.0, 1.0):
                why = ": all went the same way; every element draws for itself"
            elif abs(up - 0.5) < 0.03:
                why = ": that is the toss of a coin; the nearer neighbour must be the likelier one"
            elif abs(up - (1 - place)) < 0.03:
                why = ": up and down are swapped"
            expect(
                abs(up - place) <= limit,
                f"{x[i].item():.8g} lies at {place:.3f} of the way from its lower to its upper "
                f"neighbour, and {up:.4f} of {count} roundings went up; the mean is exact if both "
                f"agree{why}",
                expected=place,
                got=up,
            )

    @pytest.mark.points(2, "structure")
    def test_generator(self, submission):
        """The generator decides, and the global random state stays."""
        x = randn(257)
        assert_same_seed_same_result(
            lambda g: submission.stochastic_round(x.clone(), generator=g),
            generator=True,
            what="stochastic_round(x, generator)",
        )
        assert_same_seed_same_result(
            lambda: submission.stochastic_round(x.clone()), what="stochastic_round(x)"
        )

    @pytest.mark.points(3, "value")
    def test_one_rounding(self, submission):
        """Every step of BF16AdamW is torch's AdamW and one rounding."""
        shapes, options = ((7, 5), (11,)), ({"lr": 0.25, "weight_decay": 0.5}, {"lr": 0.0625})
        ps = [nn.Parameter(randn(*shape).bfloat16()) for shape in shapes]
        twins = [nn.Parameter(p.detach().float()) for p in ps]
        shared = {"betas": (0.75, 0.875), "eps": 1e-2}
        groups = [
            [{"params": [p], **more} for p, more in zip(params, options, strict=True)]
            for params in (ps, twins)
        ]
        opt = adam(submission, groups[0], lr=0.5, **shared)
        oracle = torch.optim.AdamW(groups[1], lr=0.5, weight_decay=0.0, **shared)
        for step in range(1, 7):
            for p, twin in zip(ps, twins, strict=True):
                p.grad = randn(*p.shape).bfloat16() / 16
                twin.grad = p.grad.float()
                twin.data.copy_(p.detach().float())
            if step < 3:  # the second parameter begins late
                ps[1].grad = twins[1].grad = None
            opt.step()
            oracle.step()
            for p, twin in zip(ps, twins, strict=True):
                assert_dtype(p, BRAIN, "a weight after the step")
                _, _, gap = neighbours(twin)
                # Near 0 a distance is smaller than what float32 itself is off by.
                off = (p.detach().double() - twin.detach().double()).abs().flatten()
                off = (off - 1e-5) / gap.flatten()
                at = int(off.nan_to_num(INF).argmax())
                got = p.detach().flatten()[at].item()
                expect(
                    off[at].item() <= 1.01,
                    f"step {step}: a weight is {got:.6g} where torch's AdamW, from the same weight "
                    f"and with the same gradients, has {twin.detach().flatten()[at].item():.6g}: "
                    f"{off[at].item():.1f} distances of bfloat16 away; one rounding is at most 1",
                )

    @pytest.mark.points(3, "value")
    def test_small_steps_add_up(self, submission):
        """Updates far below bfloat16's digits arrive on average."""
        count = 20_011
        for seed, lr in ((0, 1e-3), (1, 3e-3)):
            torch.manual_seed(seed + int(torch.randint(1000, ())))
            p = nn.Parameter(torch.full((count,), 1.5, dtype=BRAIN))
            opt = adam(submission, [p], lr=lr)
            p.grad = torch.ones_like(p)
            opt.step()
            moved = 1.5 - p.detach().double().mean().item()
            share = lr * 128
            limit = 6 / 128 * math.sqrt(share * (1 - share) / count)
            expect(
                abs(moved - lr) <= limit + 1e-7,
                f"{count} weights of 1.5 with an update of {lr:g} moved by {moved:.3g} on average; "
                f"expected {lr:g} +- {limit:.1g}"
                + (
                    ": the new weight was rounded to nearest, and went back to 1.5"
                    if moved == 0
                    else ""
                ),
                expected=lr,
                got=moved,
            )

    @pytest.mark.points(2, "memory")
    def test_state(self, submission):
        """The state is two float32 moments, and nothing of the weights' size besides."""

        def alive() -> list[Tensor]:
            gc.collect()
            tensors = [t for t in gc.get_objects() if type(t) in (Tensor, nn.Parameter)]
            return [t for t in tensors if t.numel() >= 707]

        earlier = alive()
        p = nn.Parameter(randn(101, 7).bfloat16())
        opt = adam(submission, [p], lr=1e-2)
        for _ in range(3):
            p.grad = randn(101, 7).bfloat16()
            opt.step()
        known = {t.untyped_storage().data_ptr() for t in (*earlier, p, p.grad)}
        held = {t.untyped_storage().data_ptr(): t for t in alive()}
        kept = [t for pointer, t in held.items() if pointer not in known]
        names = ", ".join(sorted(short(t.dtype) for t in kept)) or "none"
        bytes_each = sum(t.untyped_storage().nbytes() for t in kept) / 707
        measured(f"{bytes_each:.3g} bytes a weight")
        expect(
            bytes_each <= 8.1,
            f"{bytes_each:.3g} bytes a weight are kept between steps ({names}); two float32 "
            "moments are 8. A copy of the weights is what stochastic rounding saves",
            expected=8,
            got=bytes_each,
        )
        expect(
            bytes_each >= 7.9 and all(t.dtype == SINGLE for t in kept),
            f"between steps these tensors of the weights' size are kept: {names}, "
            f"{bytes_each:.3g} bytes a weight; expected two float32 moments",
        )

    @pytest.mark.points(1, "structure")
    def test_skipped_parameters(self, submission):
        """A parameter whose grad is None is skipped; objects and gradients stay."""
        ps = [nn.Parameter(randn(5).bfloat16()) for _ in range(2)]
        opt = adam(submission, ps, lr=0.5, weight_decay=0.5)
        before = [p.detach().clone() for p in ps]
        memory = ps[0].data_ptr()
        ps[0].grad = torch.ones(5, dtype=BRAIN)
        opt.step()
        expect(torch.equal(ps[1], before[1]), "a parameter without a gradient has changed")
        expect(not torch.equal(ps[0], before[0]), "a parameter with a gradient has not changed")
        expect(ps[0].data_ptr() == memory, "the weights lie in other memory now; write in place")
        expect(bool((ps[0].grad == 1).all()), "the gradient was changed by the step")

    @pytest.mark.points(1, "structure")
    def test_optimizer_generator(self, submission):
        """BF16AdamW draws from its generator alone."""
        start = randn(257).bfloat16()

        def run(generator: torch.Generator) -> Tensor:
            p = nn.Parameter(start.clone())
            opt = adam(submission, [p], lr=1e-3, generator=generator)
            for _ in range(2):
                p.grad = torch.ones_like(p)
                opt.step()
            return p.detach()

        assert_same_seed_same_result(run, generator=True, what="the weights after two steps")

    @pytest.mark.points(2, "value")
    def test_curves(self, submission):
        """The four curves hold the losses before each step, and differ."""
        X, y = regression(31, 3)
        lr, steps = 0.01, 37
        result = assert_unchanged(submission.train_variants, X, y, 5, steps=steps, lr=lr)
        curves = curves_of(result, steps)
        expected = adam_by_hand(X, y, steps, lr)
        assert_close(
            torch.tensor(curves["float32"], dtype=torch.float64),
            expected,
            rtol=1e-4,
            what="the float32 losses",
            explain={
                "these are the losses after each step": adam_by_hand(X, y, steps, lr, after=True)
            },
        )
        for name in CURVES[1:]:
            got = torch.tensor(curves[name], dtype=torch.float64)
            off = ((got - expected).abs() / expected).max().item()
            expect(
                off < 0.1,
                f"{name!r} is {100 * off:.0f} % away from float32 within {steps} steps from 0, "
                "where bfloat16 still follows: is it the same Adam, from w = 0?",
            )
            same = next((n for n in CURVES if n != name and curves[n] == curves[name]), None)
            expect(
                same is None,
                f"the losses of {name!r} and {same!r} are the same to the last digit; the model of "
                f"each variant has weights of its own, rounded in its own way",
            )

    @pytest.mark.points(4, "training")
    @pytest.mark.after("test_curves")
    def test_training(self, submission):
        """Rounded to nearest it stalls; both cures end near float32."""
        X, y = regression(256, 16)
        seed = int(torch.randint(1000, ()))
        curves = curves_of(submission.train_variants(X, y, seed), 1500)
        picture(
            "curve",
            "Four ways to keep the weights",
            "Above a weight of 1 the steps of the naive run are less than half a gap of bfloat16.",
            series=[
                {"label": name, "x": list(range(0, 1500, 50)), "y": curves[name][::50]}
                for name in CURVES
            ],
            x_label="step",
            y_label="loss",
            log_y=True,
        )
        end = {name: sum(curves[name][-50:]) / 50 for name in CURVES}
        measured(", ".join(f"{name} {value:.3g}" for name, value in end.items()))
        base = end["float32"]
        expect(base < 0.3, f"the float32 run ends at a loss of {base:.3g}; expected about 0.1")
        expect(
            end["naive"] > 10 * base,
            f"the naive run ends at {end['naive']:.3g}, float32 at {base:.3g}: it should stall. "
            "Its weights are to be rounded to bfloat16 after every step, and start from there",
        )
        for name in ("master", "stochastic"):
            expect(
                end[name] <= 3 * base,
                f"the {name} run ends at {end[name]:.3g}, float32 at {base:.3g}: more than 3 times",
            )

    @pytest.mark.points(2, "structure")
    def test_seed(self, submission):
        """`seed` decides the stochastic run, the global random state stays."""
        X, y = regression(31, 3)
        state = torch.get_rng_state()
        runs = [submission.train_variants(X, y, seed, steps=29) for seed in (3, 3, 4)]
        first, again, other = (curves_of(run, 29) for run in runs)
        expect(
            torch.equal(torch.get_rng_state(), state),
            "the global random state has changed; draw from a generator of your own",
        )
        for name in CURVES:
            expect(first[name] == again[name], f"{name!r} differs between two runs with one seed")
        expect(
            first["stochastic"] != other["stochastic"],
            "another seed gives the same stochastic run",
        )
