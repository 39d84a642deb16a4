"""Day 11 asks for evaluation without a trace, Dropout, BatchNorm, and modes that are mixed."""

import copy
import gc
import math
import pickle
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grader.testing import (
    assert_close,
    assert_dtype,
    assert_equal,
    assert_finite,
    assert_raises,
    assert_same_seed_same_result,
    assert_shape,
    assert_tensor,
    assert_unchanged,
    assert_view,
    expect,
    fail,
    forbid,
    picture,
    rand_ints,
    randn,
    smallest,
)

Batches = list[tuple[Tensor, Tensor]]


class Interrupted(Exception):
    """What the suite raises in the middle of a pass."""


def unsettle(model: nn.Module) -> None:
    """Give the BatchNorm layers statistics and weights that aren't those of a new layer."""
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            with torch.no_grad():
                layer.running_mean.copy_(randn(layer.num_features))
                layer.running_var.copy_(0.5 + randn(layer.num_features).abs())
                layer.weight.copy_(randn(layer.num_features, away_from_zero=0.5))
                layer.bias.copy_(randn(layer.num_features))
                layer.num_batches_tracked.fill_(13)


def small_net() -> nn.Sequential:
    """Logits (batch, 3) of x (batch, 5), with every kind of layer that minds its mode."""
    net = nn.Sequential(
        OrderedDict(
            first=nn.Linear(5, 7),
            norm=nn.BatchNorm1d(7),
            act=nn.ReLU(),
            block=nn.Sequential(OrderedDict(drop=nn.Dropout(0.5), second=nn.Linear(7, 11))),
            last=nn.Linear(11, 3),
        )
    )
    unsettle(net)
    return net


def batches(*sizes: int) -> Batches:
    """Batches of x (size, 5) and labels 0 to 2."""
    return [(randn(size, 5), rand_ints(size, high=3)) for size in sizes]


def modes(model: nn.Module) -> dict[str, bool]:
    """The mode of every module by name."""
    return {name or "the model itself": m.training for name, m in model.named_modules()}


def mixtures() -> Iterator[nn.Sequential]:
    """The same net in four mixtures of modes."""
    yield small_net().train()
    yield small_net().eval()
    part_in_eval = small_net().train()
    part_in_eval.norm.eval()
    part_in_eval.block.eval()
    yield part_in_eval
    part_in_training = small_net().eval()
    part_in_training.block.drop.train()
    yield part_in_training


def expect_modes(model: nn.Module, before: dict[str, bool], when: str) -> None:
    """Every module has the mode that it had before."""
    words = {True: "training", False: "eval"}
    for name, mode in modes(model).items():
        expect(
            mode == before[name],
            f"{when}, {name} is in {words[mode]} mode; it was in {words[before[name]]} mode "
            "before. Write every module's own mode down before you change any",
            got=mode,
            expected=before[name],
        )


def state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters and buffers."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def expect_state(model: nn.Module, before: dict[str, Tensor], why: str) -> None:
    """Parameters and buffers are what they were, bit by bit."""
    now = model.state_dict()
    expect(list(now) == list(before), f"the keys of the state_dict changed: {', '.join(now)}")
    for name, tensor in before.items():
        expect(
            torch.equal(now[name], tensor),
            f"{name} changed: {why}",
            expected=tensor.flatten().tolist()[:5],
            got=now[name].flatten().tolist()[:5],
        )


# --- 1 ------------------------------------------------------------------------------------------


def watch(model: nn.Module) -> list[tuple[str, bool, bool, bool]]:
    """Record name, mode, grad mode and whether the output has a graph, of every forward."""
    seen: list[tuple[str, bool, bool, bool]] = []
    for name, module in model.named_modules():

        def record(m: nn.Module, args: tuple, out: Tensor, name: str = name or "the model") -> None:
            seen.append((name, m.training, torch.is_grad_enabled(), out.requires_grad))

        module.register_forward_hook(record)
    return seen


def truth(model: nn.Module, loader: Batches) -> list[tuple[float, float, int]]:
    """Loss, share of hits and size of every batch, by a copy of the model in eval mode."""
    found = []
    frozen = copy.deepcopy(model).double().eval()
    for x, y in loader:
        with torch.no_grad():
            logits = frozen(x.double())
        rows = torch.arange(len(y))
        losses = logits.exp().sum(1).log() - logits[rows, y]
        hits = (logits.max(1).indices == y).double()
        found.append((losses.mean().item(), hits.mean().item(), len(y)))
    return found


def over_samples(found: list[tuple[float, float, int]], which: int) -> float:
    """The mean over all samples."""
    return sum(row[which] * row[2] for row in found) / sum(row[2] for row in found)


def mostly_wrong(model: nn.Module, *sizes: int) -> Batches:
    """Batches whose labels the model misses, but for those of the last batch."""
    loader = []
    frozen = copy.deepcopy(model).eval()
    for size in sizes:
        x = randn(size, 5)
        with torch.no_grad():
            best = frozen(x).argmax(1)
        loader.append((x, (best + 1) % 3))
    x, y = loader[-1]
    loader[-1] = (x, (y + 2) % 3)
    return loader


class Forgetful(nn.Module):
    """Looks, at every forward, whether an output of two or more calls ago still lives."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3)
        self.outputs: list[weakref.ref] = []
        self.kept = 0

    def forward(self, x: Tensor) -> Tensor:
        old = self.outputs[:-1]
        if any(output() is not None for output in old):
            gc.collect()
        self.kept = max(self.kept, sum(output() is not None for output in old))
        logits = self.linear(x)
        self.outputs.append(weakref.ref(logits.untyped_storage()))
        return logits


@pytest.mark.task("evaluate")
class TestEvaluate:
    @pytest.mark.points(2, "structure")
    def test_eval_mode(self, submission):
        """Every forward runs in eval mode."""
        model = small_net().train()
        seen = watch(model)
        submission.evaluate(model=model, loader=batches(5, 3), loss_fn=F.cross_entropy)
        expect(seen, "the model wasn't called")
        for name, training, _, _ in seen:
            expect(
                not training,
                f"{name} ran in training mode: dropout is on and BatchNorm uses and moves its "
                "statistics; no_grad doesn't change that, eval() does",
            )

    @pytest.mark.points(2, "structure")
    def test_without_gradients(self, submission):
        """No forward records a graph, and the caller's grad mode stays."""
        for enabled in (True, False):
            model = small_net()
            seen = watch(model)
            with torch.set_grad_enabled(enabled):
                submission.evaluate(model, batches(5, 3), F.cross_entropy)
                after = torch.is_grad_enabled()
            for name, _, recording, has_graph in seen:
                expect(
                    not recording and not has_graph,
                    f"{name} ran with gradients on, so a graph was built for nothing; eval() "
                    "doesn't switch gradients off, it only changes what some layers compute",
                )
            expect(
                after == enabled,
                f"is_grad_enabled() was {enabled} before the call and is {after} afterwards; a "
                "context manager or a decorator puts it back",
            )

    @pytest.mark.points(2, "value")
    def test_loss_and_accuracy(self, submission):
        """Loss and accuracy are right on full batches, as Python floats."""
        for make in (list, iter):
            model, loader = small_net(), batches(7, 7)
            twin = copy.deepcopy(model)
            result = submission.evaluate(model, make(loader), F.cross_entropy)
            found = truth(twin, loader)
            expect(
                isinstance(result, dict) and sorted(result) == ["acc", "loss"],
                f"expected a dict with the keys loss and acc, got {result!r:.80}",
            )
            for key in ("loss", "acc"):
                expect(
                    type(result[key]) is float,
                    f"{key} is of type {type(result[key]).__name__}; expected a Python float",
                )
            assert_close(
                result["loss"],
                over_samples(found, 0),
                what="the mean loss",
                explain={"the losses are added up, not averaged": sum(f[0] for f in found)},
            )
            assert_close(
                result["acc"],
                over_samples(found, 1),
                what="the accuracy",
                explain={
                    "the accuracy is in percent; expected a share from 0 to 1": 100
                    * over_samples(found, 1)
                },
            )

    @pytest.mark.points(2, "value")
    @pytest.mark.hint("How many samples stand behind the last batch's mean?")
    def test_ragged_last_batch(self, submission):
        """Every sample counts the same, also in a smaller last batch."""
        model = small_net()
        loader = mostly_wrong(model, 7, 7, 2)
        twin = copy.deepcopy(model)
        result = submission.evaluate(model, loader, F.cross_entropy)
        found = truth(twin, loader)
        for key, which in (("loss", 0), ("acc", 1)):
            assert_close(
                result[key],
                over_samples(found, which),
                what=f"{key} over batches of 7, 7 and 2",
                explain={
                    f"{key} is the mean of the batches' means: the 2 samples of the last batch "
                    "count as much as 7 others; weight each batch by its size": (
                        sum(row[which] for row in found) / 3
                    )
                },
            )

    @pytest.mark.points(2, "structure")
    def test_modes(self, submission):
        """Every module has its own mode back."""
        for model in mixtures():
            before = modes(model)
            submission.evaluate(model, batches(3), F.cross_entropy)
            expect_modes(model, before, "after evaluate")

    @pytest.mark.points(2, "structure")
    @pytest.mark.hint("Which block of Python runs whatever happens?")
    @pytest.mark.parametrize("where", ["model", "loss", "loader"])
    def test_modes_after_an_exception(self, submission, where):
        """An exception goes on to the caller, and the modes are back."""
        for model in mixtures():
            before = modes(model)
            calls = []

            def second_call(source: str, calls: list[str] = calls, where: str = where) -> None:
                calls.append(source)
                if source == where and calls.count(source) == 2:
                    raise Interrupted

            def loader(call: Callable[[str], None] = second_call) -> Iterator[tuple]:
                for batch in batches(3, 3, 2):
                    call("loader")
                    yield batch

            def loss(logits: Tensor, y: Tensor, call: Callable = second_call) -> Tensor:
                call("loss")
                return F.cross_entropy(logits, y)

            handle = model.register_forward_pre_hook(
                lambda m, args, call=second_call: call("model")
            )
            with torch.enable_grad():
                assert_raises(Interrupted, submission.evaluate, model, loader(), loss)
            handle.remove()
            expect_modes(model, before, f"after an exception in the {where}")

    @pytest.mark.points(1, "structure")
    def test_statistics(self, submission):
        """Parameters and BatchNorm statistics are what they were."""
        model = small_net().train()
        before = state(model)
        submission.evaluate(model, batches(5, 5, 3), F.cross_entropy)
        expect_state(
            model, before, "a forward in training mode moves the statistics, also under no_grad"
        )

    @pytest.mark.points(1, "memory")
    def test_no_outputs_kept(self, submission):
        """The outputs of earlier batches are gone while later ones run."""
        model = Forgetful()
        submission.evaluate(model, batches(3, 3, 3, 3, 2), F.cross_entropy)
        expect(
            model.kept == 0,
            f"{model.kept} outputs of earlier batches were still alive during a later forward: "
            "add up numbers as you go, and keep no tensors",
        )

    @pytest.mark.points(1, "value")
    def test_no_batch(self, submission):
        """Without any batch, both are nan."""
        for loader in ([], iter(())):
            result = submission.evaluate(small_net(), loader, F.cross_entropy)
            for key in ("loss", "acc"):
                value = result[key]
                expect(
                    isinstance(value, float) and math.isnan(value),
                    f"{key} of no samples is {value!r}; expected nan, there is nothing to average",
                )


# --- 2 ------------------------------------------------------------------------------------------

DROPOUTS = (
    "dropout",
    "native_dropout",
    "alpha_dropout",
    "feature_dropout",
    "feature_alpha_dropout",
)
"""The functions of torch that drop; the modules call them."""


@pytest.mark.task("Dropout")
class TestDropout:
    @pytest.mark.points(2, "structure")
    def test_evaluation(self, submission):
        """In evaluation the input itself comes back, or a view of it."""
        for p in (0.5, 0.3, 1.0):
            layer = submission.Dropout(p=p)
            layer.eval()
            for x in (randn(3, 5), randn(2, 3, 5)):
                values = x.clone()
                result = layer(x)
                assert_close(
                    result,
                    values,
                    what=f"the result in eval mode with p = {p}",
                    explain={
                        "eval mode scales by 1 - p: inverted dropout scales in training, so that "
                        "evaluation has nothing to do": values * (1 - p)
                    }
                    if p < 1
                    else None,
                )
                assert_view(result, x)

    @pytest.mark.points(2, "value")
    def test_rate(self, submission):
        """A share p of the elements is dropped."""
        n = 20_000
        for p in (0.3, 0.1, 0.7):
            x = randn(100, 200, away_from_zero=0.1)
            result = assert_tensor(submission.Dropout(p)(x.clone()))
            dropped = (result == 0).double().mean().item()
            tolerance = 5 * math.sqrt(p * (1 - p) / n)
            swapped = abs(dropped - (1 - p)) <= tolerance
            expect(
                abs(dropped - p) <= tolerance,
                f"with p = {p}, {dropped:.1%} of {n} elements are 0; expected {p:.0%}"
                + (": p is the probability to drop, not to keep" if swapped else ""),
                expected=p,
                got=dropped,
            )

    @pytest.mark.points(2, "value")
    def test_kept_elements(self, submission):
        """What is kept is x / (1 - p), and x itself is left alone."""
        for p in (0.5, 0.3, 0.9):
            for dtype in (torch.float64, torch.float32):
                x = randn(7, 11, dtype=dtype, away_from_zero=0.1)
                values = x.clone()
                result = assert_unchanged(submission.Dropout(p), x)
                assert_tensor(result)
                kept = (result != 0).to(dtype) if result.shape == x.shape else values
                assert_close(
                    result,
                    kept * values / (1 - p),
                    what=f"the result with p = {p}",
                    explain={
                        "what is kept is x itself; without 1 / (1 - p) the expectation shrinks": (
                            kept * values
                        ),
                        "what is kept is divided by p; divide by 1 - p, the share that stays": (
                            kept * values / p if p != 0.5 else kept * values * 3
                        ),
                    },
                )

    @pytest.mark.points(1, "value")
    def test_expectation(self, submission):
        """The mean of many elements stays what it was."""
        n = 20_000
        for p in (0.5, 0.2):
            mean = submission.Dropout(p)(torch.ones(n)).double().mean().item()
            tolerance = 5 * math.sqrt(p / (1 - p) / n)
            expect(
                abs(mean - 1) <= tolerance,
                f"with p = {p}, the mean of {n} ones is {mean:.3f} in training; dropout must not "
                "change the expectation",
                expected=1.0,
                got=mean,
            )

    @pytest.mark.points(1, "value")
    def test_own_draws(self, submission):
        """Each element is drawn on its own, and anew in every call."""
        layer = submission.Dropout(0.5)
        x = torch.ones(16, 16, 16)
        masks = [layer(x.clone()) != 0 for _ in range(2)]
        for axis, name in enumerate(("first", "second", "third")):
            different = masks[0].unique(dim=axis).shape[axis]
            expect(
                different == 16,
                f"16 slices along the {name} axis have only {different} different masks: one "
                "draw is shared by several elements",
            )
        expect(not torch.equal(*masks), "two calls drop the same elements; draw anew in every call")

    @pytest.mark.points(1, "value")
    def test_p_zero(self, submission):
        """With p = 0 nothing is dropped and nothing scaled."""
        for x in (randn(7, 11), randn(7, 11)):
            assert_close(submission.Dropout(p=0)(x.clone()), x, what="the result with p = 0")

    @pytest.mark.points(1, "value")
    def test_p_one(self, submission):
        """With p = 1 everything is 0, the gradient too."""
        x = randn(5, 7, requires_grad=True)
        result = submission.Dropout(p=1.0)(x)
        assert_finite(result=assert_tensor(result))
        assert_equal(result.detach(), torch.zeros(5, 7), what="the result with p = 1")
        if result.requires_grad:
            result.backward(randn(5, 7))
        if x.grad is not None:
            assert_finite(gradient=x.grad)
            assert_close(x.grad, torch.zeros(5, 7), what="the gradient with p = 1")

    @pytest.mark.points(1, "gradient")
    def test_gradient(self, submission):
        """The gradient passes exactly where the value passed, scaled alike."""
        for p in (0.3, 0.6):
            x = randn(7, 11, dtype=torch.float64, away_from_zero=0.1).requires_grad_()
            upstream = randn(7, 11, dtype=torch.float64)
            result = submission.Dropout(p)(x)
            expect(result.requires_grad, "the result carries no graph though x requires grad")
            result.backward(upstream)
            kept = (result.detach() != 0).double()
            expect(x.grad is not None, "no gradient reaches x")
            assert_close(
                x.grad,
                upstream * kept / (1 - p),
                what="the gradient with respect to x",
                explain={
                    "the gradient passes everywhere: the mask isn't part of the graph": upstream,
                    "the gradient lacks the factor 1 / (1 - p)": upstream * kept,
                },
            )

    @pytest.mark.points(1, "structure")
    def test_generator(self, submission):
        """The generator decides the mask, or else the global one."""
        x = torch.ones(11, 13)
        assert_same_seed_same_result(
            lambda generator: submission.Dropout(0.5, generator=generator)(x.clone()),
            generator=True,
            what="the result with a generator",
        )
        assert_same_seed_same_result(
            lambda: submission.Dropout(0.5)(x.clone()), what="the result without a generator"
        )

    @pytest.mark.points(1, "structure")
    def test_bad_p(self, submission):
        """A p outside [0, 1] raises a ValueError; 0 and 1 are fine."""
        for p in (0, 1, 0.5):
            submission.Dropout(p)
        for p in (-0.1, 1.1):
            smallest(lambda p: assert_raises(ValueError, submission.Dropout, p), [p])

    @pytest.mark.points(1, "value")
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
    def test_half(self, submission, dtype):
        """Half precision goes in and comes out."""
        for mode in (True, False):
            x = randn(7, 11, away_from_zero=0.5).to(dtype)
            layer = submission.Dropout(0.25)
            layer.train(mode)
            result = layer(x.clone())
            assert_dtype(result, dtype)
            kept = (result != 0).to(dtype) if mode else torch.ones_like(x)
            assert_close(result, (kept * x).float().div(0.75 if mode else 1).to(dtype))

    @pytest.mark.points(1, "structure")
    def test_forbidden(self, submission):
        """No dropout of torch's is called."""
        modules = ("nn.Dropout", "nn.Dropout1d", "nn.Dropout2d", "nn.Dropout3d")
        with forbid(*DROPOUTS, *modules, why="draw the mask yourself"):
            for mode in (True, False):
                layer = submission.Dropout(0.5)
                layer.train(mode)
                layer(torch.ones(3, 5))


# --- 3 ------------------------------------------------------------------------------------------

STATE = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def pair(submission, features: int, *, dtype: torch.dtype = torch.float64, **settings):
    """A layer of the submission and one of torch's, with the same random weight and bias."""
    mine, theirs = (
        submission.BatchNorm1d(features, **settings),
        nn.BatchNorm1d(features, **settings),
    )
    mine, theirs = mine.to(dtype), theirs.to(dtype)
    for name in STATE:
        expect(
            isinstance(getattr(mine, name, None), Tensor),
            f"the layer has no tensor named {name}; the state_dict of nn.BatchNorm1d has one",
        )
        assert_shape(getattr(mine, name).detach(), **({} if "num" in name else {"feat": features}))
    for name in ("weight", "bias"):
        values = randn(features, dtype=dtype, away_from_zero=0.3)
        with torch.no_grad():
            getattr(mine, name).copy_(values)
            getattr(theirs, name).copy_(values)
    return mine, theirs


def along(values: Tensor, x: Tensor) -> Tensor:
    """A value per channel, shaped to broadcast against x."""
    return values.reshape(1, -1, *[1] * (x.dim() - 2))


def normalised(x: Tensor, mean: Tensor, var: Tensor, layer: nn.BatchNorm1d) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias, per channel."""
    with torch.no_grad():
        scale = along(layer.weight / (var + layer.eps).sqrt(), x)
        return (x - along(mean, x)) * scale + along(layer.bias, x)


def batch_of(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """A batch whose channels have different means and spreads."""
    x = randn(*shape, dtype=dtype)
    spread, shift = randn(shape[1], dtype=dtype, away_from_zero=0.5), randn(shape[1], dtype=dtype)
    return x * along(spread, x) + along(3 * shift, x)


def values_of(x: Tensor) -> Tensor:
    """(channels, values): all values of each channel."""
    return x.movedim(1, 0).flatten(1)


def train_both(mine: nn.Module, theirs: nn.Module, shapes: list[tuple[int, ...]]) -> None:
    """The same batches through both layers, in training."""
    for shape in shapes:
        x = batch_of(*shape, dtype=theirs.weight.dtype)
        mine(x.clone())
        theirs(x)


def same_statistics(mine: nn.Module, theirs: nn.Module, **explanations: dict) -> None:
    """The three buffers agree."""
    for name in ("running_mean", "running_var"):
        assert_close(
            getattr(mine, name).detach(),
            getattr(theirs, name),
            what=name,
            explain=explanations.get(name),
        )
    counted, expected = int(mine.num_batches_tracked), int(theirs.num_batches_tracked)
    expect(
        counted == expected,
        f"num_batches_tracked is {counted} after {expected} batches in training",
        got=counted,
        expected=expected,
    )


@pytest.mark.task("BatchNorm1d")
class TestBatchNorm1d:
    @pytest.mark.points(2, "value")
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
    def test_training(self, submission, dtype):
        """In training each channel is normalised by its batch."""

        def run(case):
            shape, eps = case
            mine, theirs = pair(submission, shape[1], dtype=dtype, eps=eps)
            for x in (batch_of(*shape, dtype=dtype), batch_of(*shape, dtype=dtype)):
                result = assert_unchanged(mine, x)
                rows = values_of(x)
                mean, biased = rows.mean(1), rows.var(1, correction=0)
                outside = (x - along(mean, x)) / along(biased.sqrt() + eps, x)
                assert_close(
                    assert_tensor(result).detach(),
                    theirs(x).detach(),
                    axes=("batch", "feat"),
                    what="the output in training",
                    rtol=1e-4 if dtype == torch.float32 else None,
                    atol=1e-5 if dtype == torch.float32 else None,
                    explain={
                        "the variance is divided by n - 1; to normalise, BatchNorm takes the "
                        "biased one, divided by n": normalised(x, mean, rows.var(1), theirs),
                        "eps stands outside the root": outside * theirs.weight.detach()
                        + theirs.bias.detach(),
                        "weight and bias are left out": normalised(
                            x, mean, biased, nn.BatchNorm1d(shape[1], eps=eps).to(dtype)
                        ),
                        "in training the batch's own statistics are used, not the running ones": (
                            normalised(x, torch.zeros_like(mean), torch.ones_like(mean), theirs)
                        ),
                    },
                )

        smallest(run, [((3, 2), 0.1), ((5, 3), 1e-5), ((7, 11), 0.1)])

    @pytest.mark.points(2, "value")
    @pytest.mark.hint("Which axes hold values of the same channel?")
    def test_sequence(self, submission):
        """With a seq axis, a channel's statistics go over batch and seq."""

        def run(shape):
            mine, theirs = pair(submission, shape[1])
            x = batch_of(*shape)
            result = mine(x.clone())
            mean, var = x.mean(0, keepdim=True), x.var(0, correction=0, keepdim=True)
            by_step = (x - mean) / (var + theirs.eps).sqrt()
            scale, shift = along(theirs.weight.detach(), x), along(theirs.bias.detach(), x)
            assert_close(
                assert_tensor(result).detach(),
                theirs(x).detach(),
                axes=("batch", "feat", "seq"),
                what="the output in training",
                explain={
                    "every step of the sequence has statistics of its own; reduce over the seq "
                    "axis too": by_step * scale + shift
                },
            )
            same_statistics(mine, theirs)

        smallest(run, [(2, 3, 5), (5, 7, 3), (1, 2, 7)])

    @pytest.mark.points(2, "value")
    @pytest.mark.parametrize("momentum", [0.1, 0.3], ids=["default", "0.3"])
    def test_running_statistics(self, submission, momentum):
        """The running statistics follow those of torch's layer."""
        settings = {} if momentum == 0.1 else {"momentum": momentum}
        mine, theirs = pair(submission, 3, **settings)
        swapped = {"running_mean": torch.zeros(3).double(), "running_var": torch.ones(3).double()}
        biased = torch.ones(3).double()
        series = {label: [] for label in ("yours, mean", "yours, var", "mean", "var")}
        failure = None
        for step in range(5):
            x = batch_of(5, 3) if step % 2 == 0 else batch_of(2, 3, 7)
            mine(x.clone())
            theirs(x)
            rows = values_of(x)
            mean, var = rows.mean(1), rows.var(1)
            swapped["running_mean"] = momentum * swapped["running_mean"] + (1 - momentum) * mean
            swapped["running_var"] = momentum * swapped["running_var"] + (1 - momentum) * var
            biased = (1 - momentum) * biased + momentum * rows.var(1, correction=0)
            for label, layer in (("yours, ", mine), ("", theirs)):
                series[f"{label}mean"].append(float(layer.running_mean.detach()[0]))
                series[f"{label}var"].append(float(layer.running_var.detach()[0]))
            try:
                turned = "momentum is the weight of the new value, here of the old one"
                same_statistics(
                    mine,
                    theirs,
                    running_mean={turned: swapped["running_mean"]},
                    running_var={
                        turned: swapped["running_var"],
                        "running_var remembers the biased variance, divided by n; BatchNorm "
                        "remembers the unbiased one, divided by n - 1": biased,
                    },
                )
            except AssertionError as error:
                failure = failure or error
        picture(
            "curve",
            "The running statistics of channel 0",
            f"five batches, momentum {momentum}: yours and those of nn.BatchNorm1d",
            series=[
                {"label": label, "x": list(range(1, 6)), "y": values}
                for label, values in series.items()
            ],
            x_label="batch",
            y_label="running statistic",
            log_y=False,
        )
        if failure:
            raise failure

    @pytest.mark.points(1, "value")
    def test_momentum_none(self, submission):
        """With momentum None the statistics are a plain average."""
        mine, theirs = pair(submission, 3, momentum=None)
        means, variances = [], []
        for _ in range(5):
            x = batch_of(7, 3)
            mine(x.clone())
            theirs(x)
            means.append(values_of(x).mean(1))
            variances.append(values_of(x).var(1))
            tenth = torch.zeros(3).double()
            for mean in means:
                tenth = 0.9 * tenth + 0.1 * mean
            same_statistics(
                mine,
                theirs,
                running_mean={
                    "with momentum None the plain average is asked for, not momentum 0.1": tenth,
                    "the initial 0 counts as a batch": torch.stack(means).sum(0) / (len(means) + 1),
                },
            )
        assert_close(mine.running_var.detach(), torch.stack(variances).mean(0), what="running_var")

    @pytest.mark.points(1, "value")
    def test_momentum_zero(self, submission):
        """With momentum 0 the statistics stay what they are."""
        mine, theirs = pair(submission, 3, momentum=0.0)
        train_both(mine, theirs, [(5, 3), (7, 3)])
        for name, value in (("running_mean", torch.zeros(3)), ("running_var", torch.ones(3))):
            expect(
                torch.equal(getattr(mine, name).detach(), value.double()),
                f"{name} moved with momentum 0, which gives a new batch no weight: 0 is not None",
            )

    @pytest.mark.points(2, "value")
    def test_evaluation(self, submission):
        """In evaluation the running statistics normalise."""
        for shape in ((5, 3), (2, 3, 7)):
            mine, theirs = pair(submission, 3)
            train_both(mine, theirs, [shape] * 5)
            mine.eval()
            theirs.eval()
            x = batch_of(*shape)
            result = assert_tensor(mine(x.clone())).detach()
            rows = values_of(x)
            by_batch = normalised(x, rows.mean(1), rows.var(1, correction=0), theirs)
            draw_outputs(by_batch, theirs(x).detach())
            assert_close(
                result,
                theirs(x).detach(),
                axes=("batch", "feat", "seq")[: x.dim()],
                what="the output in evaluation",
                explain={
                    "the batch's own statistics are used in evaluation: each result depends on "
                    "the rest of the batch": by_batch
                },
            )

    @pytest.mark.points(1, "structure")
    def test_evaluation_learns_nothing(self, submission):
        """In evaluation no statistic moves."""
        mine, theirs = pair(submission, 3)
        train_both(mine, theirs, [(5, 3), (7, 3)])
        before = state(mine)
        mine.eval()
        mine(batch_of(5, 3))
        expect_state(mine, before, "a forward in evaluation learns nothing")

    @pytest.mark.points(2, "gradient")
    @pytest.mark.hint("The mean and the variance of the batch depend on x.")
    def test_gradient(self, submission):
        """The gradients go through the batch's statistics."""
        for training, shape in ((True, (5, 3)), (True, (2, 3, 5)), (False, (5, 3))):
            mine, theirs = pair(submission, 3)
            train_both(mine, theirs, [shape] * 2)
            mine.train(training)
            theirs.train(training)
            x, upstream = batch_of(*shape), randn(*shape, dtype=torch.float64)
            ours, other = x.clone().requires_grad_(), x.clone().requires_grad_()
            result = mine(ours)
            expect(result.requires_grad, "the result carries no graph")
            result.backward(upstream)
            theirs(other).backward(upstream)
            rows = values_of(x)
            std = (rows.var(1, correction=0) + theirs.eps).sqrt()
            mode = "training" if training else "evaluation"
            expect(ours.grad is not None, f"no gradient reaches x in {mode}")
            assert_close(
                ours.grad,
                other.grad,
                what=f"the gradient with respect to x in {mode}",
                explain={
                    "the statistics count as constants; in training they depend on x, and the "
                    "gradient goes through them": upstream * along(theirs.weight.detach() / std, x)
                }
                if training
                else None,
            )
            for name in ("weight", "bias"):
                gradient = getattr(mine, name).grad
                expect(gradient is not None, f"no gradient reaches {name} in {mode}")
                assert_close(
                    gradient, getattr(theirs, name).grad, what=f"the gradient of {name} in {mode}"
                )

    @pytest.mark.points(2, "structure")
    def test_state_dict(self, submission):
        """A new layer has torch's state_dict, and the two can be exchanged."""
        mine, theirs = submission.BatchNorm1d(5), nn.BatchNorm1d(5)
        own, other = mine.state_dict(), theirs.state_dict()
        missing, extra = sorted(set(other) - set(own)), sorted(set(own) - set(other))
        expect(
            not missing and not extra,
            "the state_dict differs from that of nn.BatchNorm1d: "
            + "; ".join(
                f"{word} {', '.join(names)}"
                for word, names in (("missing:", missing), ("too many:", extra))
                if names
            ),
        )
        for name, value in other.items():
            assert_equal(own[name], value, what=f"{name} of a new layer")
        parameters = dict(mine.named_parameters())
        expect(
            sorted(parameters) == ["bias", "weight"],
            f"the parameters are {', '.join(sorted(parameters))}; expected weight and bias",
        )
        theirs = theirs.double()
        unsettle(theirs)
        mine = submission.BatchNorm1d(5).double()
        mine.load_state_dict(theirs.state_dict())
        x = batch_of(3, 5)
        assert_close(
            mine.eval()(x).detach(), theirs.eval()(x).detach(), what="the output with torch's state"
        )
        theirs.load_state_dict(mine.state_dict())

    @pytest.mark.points(1, "structure")
    def test_single_value_in_training(self, submission):
        """Training on one value per channel raises a ValueError."""
        for shape in ((1, 3), (1, 3, 1)):
            layer = submission.BatchNorm1d(3)
            smallest(
                lambda case, layer=layer: assert_raises(ValueError, layer, randn(*case)), [shape]
            )

    @pytest.mark.points(1, "value")
    def test_single_value_in_evaluation(self, submission):
        """Evaluating one value per channel is fine."""
        for shape in ((1, 3), (1, 3, 1)):
            mine, theirs = pair(submission, 3)
            train_both(mine, theirs, [(5, 3), (7, 3)])
            x = batch_of(*shape)
            result = assert_tensor(mine.eval()(x.clone())).detach()
            assert_finite(result=result)
            assert_close(result, theirs.eval()(x).detach(), what=f"the output for {shape}")

    @pytest.mark.points(1, "structure")
    def test_buffers_without_a_graph(self, submission):
        """The running statistics are buffers without a graph."""
        for momentum in (0.1, None):
            layer = submission.BatchNorm1d(3, momentum=momentum)
            for _ in range(2):
                layer(randn(5, 3, requires_grad=True)).backward(randn(5, 3))
            buffers = dict(layer.named_buffers())
            for name in STATE[2:]:
                expect(name in buffers, f"{name} is no buffer of the layer: register_buffer")
                expect(
                    not buffers[name].requires_grad,
                    f"{name} carries the graph of the batches it was made of: it keeps them all "
                    "in memory; update it without a graph",
                )

    @pytest.mark.points(1, "value")
    def test_large_mean(self, submission):
        """A mean that is large against the spread doesn't spoil the result."""
        mine, theirs = pair(submission, 3, dtype=torch.float32)
        x = randn(101, 3) + torch.tensor([5000.0, -3000.0, 7000.0])
        result = assert_tensor(mine(x.clone())).detach()
        exact = theirs.double()(x.double()).detach()
        expect(
            bool(((result - exact).abs() < 0.05).all()),
            "for float32 values around 5000 with spread 1, the output is off by "
            f"{float((result - exact).abs().max()):.2g}: mean(x²) - mean(x)² loses all digits; "
            "subtract the mean before you square",
        )

    @pytest.mark.points(1, "structure")
    def test_forbidden(self, submission):
        """No batch_norm of torch's is called."""
        modules = ("nn.BatchNorm1d", "nn.BatchNorm2d", "nn.BatchNorm3d")
        with forbid("batch_norm", "native_batch_norm", *modules, why="write it out"):
            layer = submission.BatchNorm1d(3)
            layer(randn(5, 3))
            layer.eval()
            layer(randn(5, 3))


def draw_outputs(by_batch: Tensor, by_running: Tensor) -> None:
    """Histograms of the same batch's outputs, normalised in training and in evaluation."""
    edges = [-4 + i for i in range(9)]
    picture(
        "bars",
        "One batch, normalised in both modes",
        "how many outputs fall where: by the batch's own statistics (training) and by the running "
        "ones (evaluation)",
        labels=[f"{low} to {low + 1}" for low in edges[:-1]],
        series=[
            {
                "label": label,
                "values": [int(((y >= low) & (y < low + 1)).sum()) for low in edges[:-1]],
            }
            for label, y in (("training", by_batch), ("evaluation", by_running))
        ],
        log=False,
        unit="",
    )


# --- 4 ------------------------------------------------------------------------------------------


def parts() -> nn.Sequential:
    """A model of stem, backbone and head; x is (batch, 3), the result (batch, 2)."""
    model = nn.Sequential(
        OrderedDict(
            stem=nn.Linear(3, 5),
            backbone=nn.Sequential(
                nn.Linear(5, 7), nn.Sequential(nn.BatchNorm1d(7), nn.Tanh()), nn.Dropout(0.5)
            ),
            # No bias before BatchNorm: its gradient is 0, and it would not be seen to train.
            head=nn.Sequential(nn.Linear(7, 11, bias=False), nn.BatchNorm1d(11), nn.Dropout(0.5)),
            last=nn.Linear(11, 2),
        )
    )
    unsettle(model)
    return model


def train_steps(model: nn.Module, steps: int = 3) -> None:
    """A few steps of gradient descent, `train()` before each."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(steps):
        model.train()
        optimizer.zero_grad()
        model(randn(13, 3)).pow(2).mean().backward()
        optimizer.step()


def in_eval(module: nn.Module, x: Tensor) -> Tensor:
    """What the module computes in eval mode, by a copy made before it was frozen."""
    with torch.no_grad():
        return copy.deepcopy(module).eval()(x)


def round_trip(model: nn.Module) -> nn.Module:
    """The model as pickle brings it back.

    copyreg remembers the slots of a class as an attribute of it; Parameter is handed back without.
    """
    try:
        return pickle.loads(pickle.dumps(model))
    finally:
        if "__slotnames__" in vars(nn.Parameter):
            del nn.Parameter.__slotnames__


def expect_frozen(model: nn.Module, twin: nn.Module, why: str) -> None:
    """After `model.train()` the backbone computes what its unfrozen twin does in eval mode, and
    three training steps leave it as it is."""
    model.train()
    x = randn(11, 5)
    with torch.no_grad():
        first, second = model.backbone(x), model.backbone(x)
    expect(torch.equal(first, second), f"{why}: two passes differ, dropout is on")
    assert_close(first, in_eval(twin, x), what=f"the backbone's output {why}")
    before = state(model.backbone)
    train_steps(model)
    expect_state(model.backbone, before, f"{why}, three training steps must leave it as it is")
    for parameter in model.backbone.parameters():
        expect(
            not parameter.requires_grad and parameter.grad is None,
            f"{why}: a parameter of the backbone takes a gradient",
        )


@pytest.mark.task("freeze_backbone")
class TestFreeze:
    @pytest.mark.points(1, "structure")
    def test_returns_the_module(self, submission):
        """The module itself comes back."""
        for module in (parts().backbone, nn.BatchNorm1d(3)):
            result = submission.freeze(module=module)
            expect(
                result is module,
                f"{type(result).__name__} came back, not the module that was given; freeze it in "
                "place and return it",
            )

    @pytest.mark.points(1, "gradient")
    def test_no_gradients(self, submission):
        """Its parameters take no gradient."""
        model = parts().train()
        submission.freeze(model.backbone)
        model(randn(5, 3)).pow(2).mean().backward()
        for name, parameter in model.backbone.named_parameters():
            expect(
                not parameter.requires_grad and parameter.grad is None,
                f"{name} still takes a gradient: eval() is not about gradients",
            )

    @pytest.mark.points(1, "structure")
    def test_statistics(self, submission):
        """Three training steps leave parameters and statistics as they are."""
        for _ in range(2):
            model = parts()
            submission.freeze(model.backbone)
            before = state(model.backbone)
            train_steps(model)
            expect_state(
                model.backbone,
                before,
                "model.train() put it back into training mode, where every forward moves the "
                "statistics, whatever requires_grad says",
            )

    @pytest.mark.points(2, "structure")
    def test_dropout(self, submission):
        """Its dropout is off after a parent's train()."""
        model = parts()
        twin = copy.deepcopy(model.backbone)
        submission.freeze(model.backbone)
        model.train()
        x = randn(11, 5)
        first = model.backbone(x).detach().clone()
        expect(
            torch.equal(first, model.backbone(x).detach()),
            "after model.train(), two passes of the frozen part differ: its dropout is on again",
        )
        zeros = int((first == 0).sum())
        expect(
            zeros == int((in_eval(twin, x) == 0).sum()),
            f"after model.train(), {zeros} outputs of the frozen part are 0: its dropout is on",
        )

    @pytest.mark.points(2, "value")
    @pytest.mark.hint("Which statistics does BatchNorm normalise by, in which mode?")
    def test_computes_as_in_eval(self, submission):
        """After a parent's train() its outputs are those of eval mode."""
        for rows in (11, 1):
            backbone = nn.Sequential(nn.Linear(5, 7), nn.Sequential(nn.BatchNorm1d(7)))
            unsettle(backbone)
            twin = copy.deepcopy(backbone)
            model = nn.Sequential(submission.freeze(backbone))
            model.train()
            x = randn(rows, 5)
            result = model(x).detach()
            with torch.no_grad():
                features = twin[0](x)
            explain = None
            if rows > 1:
                mean, var = features.mean(0), features.var(0, correction=0)
                by_batch = normalised(features, mean, var, twin[1][0])
                explain = {
                    "BatchNorm normalises by the batch; frozen, it uses its running statistics, "
                    "not only leaves them alone": by_batch
                }
            assert_close(
                result,
                in_eval(twin, x),
                what="the output of the frozen part after model.train()",
                explain=explain,
            )

    @pytest.mark.points(1, "structure")
    def test_single_layer(self, submission):
        """A single layer can be frozen."""
        for layer, x in ((nn.BatchNorm1d(5), randn(7, 5)), (nn.Dropout(0.5), randn(7, 5))):
            unsettle(layer)
            twin = copy.deepcopy(layer)
            submission.freeze(layer)
            model = nn.Sequential(layer)
            model.train()
            result = model(x.clone()).detach()
            assert_close(
                result,
                in_eval(twin, x),
                what=f"the output of a frozen {type(layer).__name__} that is itself the module",
            )
            expect_state(layer, state(twin), "it is frozen")

    @pytest.mark.points(1, "training")
    def test_head_still_trains(self, submission):
        """The head still trains, statistics and all."""
        model = parts()
        submission.freeze(model.backbone)
        before = state(model.head)
        train_steps(model)
        for name, value in model.head.state_dict().items():
            expect(
                not torch.equal(value, before[name]),
                f"{name} of the head is the same after three training steps; only the backbone "
                "was to be frozen",
            )
        model.train()
        x = randn(11, 7)
        expect(
            not torch.equal(model.head(x), model.head(x)),
            "after model.train() the head's dropout is off; only the backbone was to be frozen",
        )

    @pytest.mark.points(1, "gradient")
    def test_gradients_pass(self, submission):
        """Gradients pass through it to what comes before."""
        model = parts()
        twin = copy.deepcopy(model.backbone).eval()
        submission.freeze(model.backbone)
        model.train()
        x = randn(7, 5, requires_grad=True)
        upstream = randn(7, 7)
        result = model.backbone(x)
        expect(
            result.requires_grad,
            "no gradient gets through the frozen part: its parameters take none, but the layers "
            "before it need theirs",
        )
        result.backward(upstream)
        (expected,) = torch.autograd.grad(
            twin(other := x.detach().requires_grad_()), other, upstream
        )
        assert_close(x.grad, expected, what="the gradient behind the frozen part", rtol=1e-4)

    @pytest.mark.points(1, "structure")
    def test_other_modules(self, submission):
        """Other modules of the same classes behave as ever."""
        other = parts()
        model = parts()
        submission.freeze(model.backbone)
        for candidate, when in ((other, "made before"), (parts(), "made after")):
            candidate.train()
            x = randn(11, 5)
            before = state(candidate.backbone)
            first, second = candidate.backbone(x), candidate.backbone(x)
            expect(
                not torch.equal(first, second),
                f"in another model, {when} the call, dropout is off in training: something was "
                "changed for the whole class",
            )
            changed = {
                name
                for name, value in candidate.backbone.state_dict().items()
                if not torch.equal(value, before[name])
            }
            expect(
                any("running" in name for name in changed),
                f"in another model, {when} the call, the statistics stand still in training: "
                "something was changed for the whole class",
            )
            expect(
                all(p.requires_grad for p in candidate.parameters()),
                f"in another model, {when} the call, parameters take no gradient",
            )

    @pytest.mark.points(1, "structure")
    def test_eval_of_the_parent(self, submission):
        """The parent's eval() and train() work, there and back."""
        model = parts()
        twin = copy.deepcopy(model)
        submission.freeze(model.backbone)
        for _ in range(2):
            model.train()
            expect(model.head.training, "after model.train() the head is not in training mode")
            model.eval()
            expect(not model.head.training, "after model.eval() the head is in training mode")
            x = randn(5, 3)
            assert_close(
                model(x).detach(), in_eval(twin, x), what="the model's output after model.eval()"
            )

    @pytest.mark.points(1, "structure")
    def test_state_dict(self, submission):
        """Keys and values of the state_dict stay what they were."""
        for make in (parts, lambda: nn.Sequential(nn.BatchNorm1d(3))):
            model = make()
            before = state(model)
            submission.freeze(model[1] if len(model) > 1 else model[0])
            expect_state(model, before, "freezing changes no value")
            make().load_state_dict(model.state_dict())

    @pytest.mark.points(1, "structure")
    @pytest.mark.hint("Whose module does a function know that was made for the original?")
    def test_deep_copy(self, submission):
        """A deep copy is frozen as well."""
        model = parts()
        twin = copy.deepcopy(model.backbone)
        submission.freeze(model.backbone)
        other = copy.deepcopy(model)
        expect_frozen(other, twin, "in a deep copy")
        model.train()
        expect_frozen(copy.deepcopy(model), twin, "in a deep copy made after train()")

    @pytest.mark.points(1, "structure")
    @pytest.mark.hint("pickle finds functions by name, at the level of a file.")
    def test_pickle(self, submission):
        """After pickle it is still frozen."""
        model = parts()
        twin = copy.deepcopy(model.backbone)
        submission.freeze(model.backbone)
        model.train()
        try:
            other = round_trip(model)
        except Exception as error:
            fail(
                f"the frozen model can't be pickled ({type(error).__name__}): pickle finds "
                "functions and classes by name at the level of a file, so what hangs on the "
                "instance may be no lambda, no function within a function, no bound method",
                details=(str(error)[:200],),
            )
        expect_frozen(other, twin, "after pickle")


# --- 5 ------------------------------------------------------------------------------------------


def one_draw() -> tuple[nn.Sequential, Tensor, Tensor, Tensor, Tensor]:
    """A model whose only chance is one element a row: the net, x, and the logits (batch, classes)
    without dropout, with the element kept, and with it dropped."""
    net = nn.Sequential(nn.Dropout(0.5), nn.Linear(1, 3)).double()
    weight = torch.tensor([2.0, -1.5, 0.5]).double() + 0.3 * torch.rand(3)
    with torch.no_grad():
        net[1].weight.copy_(weight[:, None])
    x = 0.5 + torch.rand(5, 1, dtype=torch.float64)
    bias = net[1].bias.detach().clone()
    return net, x, x * weight + bias, 2 * x * weight + bias, bias.expand(5, 3)


def nearest(found: Tensor, candidates: Tensor) -> Tensor:
    """For each row of (batch, classes) the nearest of (candidates, batch, classes)."""
    which = (candidates - found).abs().sum(-1).argmin(0)
    return candidates[which, torch.arange(len(found))]


class Summand(nn.Module):
    """Adds noise in training, as a module of the learner's own might."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x) if self.training else x


class Stumbles(nn.Module):
    """Raises after so many calls."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.left = calls

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise Interrupted
        return x


DROPPERS: dict[str, tuple[int, ...]] = {
    "Dropout": (5, 7),
    "Dropout1d": (5, 11, 3),
    "Dropout2d": (5, 11, 3, 2),
    "Dropout3d": (5, 11, 3, 2, 2),
    "AlphaDropout": (5, 7),
    "FeatureAlphaDropout": (5, 11, 3, 2, 2),
}
"""torch's dropout modules and a shape each of them takes."""


def statistics_of(model: nn.Module, loader: Batches) -> dict[str, list[Tensor]]:
    """What reaches each BatchNorm layer, batch by batch, as (channels, values).

    A copy of the model runs with its BatchNorm layers in training and all else in evaluation.
    """
    twin = copy.deepcopy(model).eval()
    seen: dict[str, list[Tensor]] = {}
    for name, layer in twin.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.train()
            rows = seen.setdefault(name, [])
            layer.register_forward_pre_hook(
                lambda m, args, rows=rows: rows.append(values_of(args[0]).double())
            )
    with torch.no_grad():
        for x, _ in loader:
            twin(x)
    return seen


def expect_recalibrated(
    model: nn.Module, seen: dict[str, list[Tensor]], *, also: str = "", compare: bool = True
) -> None:
    """The statistics of each BatchNorm layer are the plain average over the batches."""
    for name, rows in seen.items():
        layer = model.get_submodule(name)
        means = torch.stack([values.mean(1) for values in rows])
        variances = torch.stack([values.var(1) for values in rows])
        everything = torch.cat(rows, 1)
        sizes = torch.tensor([values.shape[1] for values in rows]).double()[:, None] / sum(
            values.shape[1] for values in rows
        )
        decayed, spread = torch.zeros_like(means[0]), torch.ones_like(means[0])
        for mean, variance in zip(means, variances, strict=True):
            decayed, spread = 0.9 * decayed + 0.1 * mean, 0.9 * spread + 0.1 * variance
        ragged = len({values.shape[1] for values in rows}) > 1
        weighted = "the batches are weighted by their size; each counts the same here"
        explain_mean = {
            "the statistics moved with momentum 0.1 instead of being averaged": decayed.float(),
            "only the last batch is remembered": means[-1].float(),
        }
        explain_var = {
            "this is the variance of all samples at once; asked for is the mean of the batches' "
            "variances": everything.var(1).float(),
            "this is the mean of the biased variances; running_var is made of unbiased ones": (
                torch.stack([values.var(1, correction=0) for values in rows]).mean(0).float()
            ),
            "the statistics moved with momentum 0.1 instead of being averaged": spread.float(),
            "only the last batch is remembered": variances[-1].float(),
        }
        if ragged:
            explain_mean[weighted] = (sizes * means).sum(0).float()
            explain_var[weighted] = (sizes * variances).sum(0).float()
        for what, got, expected, explain in (
            ("running_mean", layer.running_mean, means.mean(0), explain_mean),
            ("running_var", layer.running_var, variances.mean(0), explain_var),
        ):
            agree = torch.allclose(got.double(), expected, rtol=1e-4, atol=1e-5)
            if not compare:
                expect(
                    agree, f"{what} of {name} {also}", got=got.tolist(), expected=expected.tolist()
                )
            else:
                assert_close(
                    got,
                    expected.float(),
                    rtol=1e-4,
                    atol=1e-5,
                    what=f"{what} of {name}",
                    explain=explain,
                )


def two_norms() -> nn.Sequential:
    """Two BatchNorm layers in a row of others, none of them random."""
    net = nn.Sequential(
        nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 3), nn.BatchNorm1d(3)
    )
    unsettle(net)
    return net


def two_groups(size: int, only: int | None = None) -> tuple[Tensor, Tensor]:
    """Points around (4, ...) and (8, ...), labelled 0 and 1."""
    y = torch.randint(2, (size,)) if only is None else torch.full((size,), only)
    return torch.randn(size, 5) + (4.0 * y[:, None] + 4.0), y


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of hits in eval mode."""
    model.eval()
    with torch.no_grad():
        return (model(x).argmax(1) == y).double().mean().item()


def sick_net() -> tuple[nn.Sequential, Batches, tuple[Tensor, Tensor]]:
    """A trained net whose statistics are those of one class, its training data, and test data."""
    net = nn.Sequential(
        nn.Linear(5, 7), nn.BatchNorm1d(7, momentum=1.0), nn.Tanh(), nn.Linear(7, 2)
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    loader = [two_groups(64) for _ in range(20)]
    for _ in range(3):
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
    with torch.no_grad():
        net(two_groups(64, only=1)[0])
    return net, loader, two_groups(400)


@pytest.mark.task("mc_dropout_and_bn_recalibration")
class TestMixedModes:
    @pytest.mark.points(4, "value")
    @pytest.mark.hint("Of each pass you want probabilities, and only then their mean.")
    def test_mc_mean(self, submission):
        """mc_predict's mean is that of the passes' probabilities."""
        n = 7
        every_row = []
        for _ in range(2):
            net, x, plain, kept, dropped = one_draw()
            mean, _ = submission.mc_predict(model=net, x=x.clone(), n=n)
            assert_shape(mean, batch=5, classes=3)
            counts = torch.arange(n + 1).double()[:, None, None] / n
            mixes = counts * kept.softmax(-1) + (1 - counts) * dropped.softmax(-1)
            logits = counts * kept + (1 - counts) * dropped
            share = (mixes - mean).abs().sum(-1).argmin(0)
            every_row += share.tolist()
            assert_close(
                mean,
                nearest(mean, mixes),
                axes=("batch", "classes"),
                what="the mean",
                explain={
                    "this is the softmax of the mean logits; asked for is the mean of the "
                    "passes' softmaxes": nearest(mean, logits.softmax(-1)),
                    "this is the mean of the logits, not of probabilities": nearest(mean, logits),
                    "this is the prediction without dropout: no module drops": plain.softmax(-1),
                },
            )
        expect(
            any(0 < share < n for share in every_row),
            f"all {n} passes of a row gave the same, row for row: dropout draws anew in each pass",
        )

    @pytest.mark.points(3, "value")
    def test_mc_std(self, submission):
        """mc_predict's std is the passes' sample standard deviation."""
        for n in (3, 7):
            net, x, _, kept, dropped = one_draw()
            mean, std = submission.mc_predict(net, x.clone(), n)
            assert_shape(std, batch=5, classes=3)
            counts = torch.arange(n + 1).double()[:, None, None]
            a, b = kept.softmax(-1), dropped.softmax(-1)
            mixes = (counts * a + (n - counts) * b) / n
            which = (mixes - mean).abs().sum(-1).argmin(0)
            k = which.double()[:, None]
            squares = k * (n - k) / n * (a - b) ** 2
            sample = (squares / (n - 1)).sqrt()
            explain = {}
            if bool((squares > 0).any()):
                explain = {
                    "the squares are divided by n; the sample standard deviation divides by "
                    "n - 1": (squares / n).sqrt(),
                    "this is the variance; take its root": squares / (n - 1),
                    "this is the standard error: no division by the root of n is asked for": (
                        sample / math.sqrt(n)
                    ),
                }
            assert_close(std, sample, axes=("batch", "classes"), what="the std", explain=explain)

    @pytest.mark.points(2, "value")
    def test_mc_without_dropout(self, submission):
        """Without dropout the spread is 0 and all is as in eval mode."""
        for training in (True, False):
            net = nn.Sequential(
                nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), Summand(), nn.Linear(7, 3)
            )
            unsettle(net)
            net.train(training)
            twin = copy.deepcopy(net)
            x = randn(11, 5)
            mean, std = submission.mc_predict(net, x.clone(), 3)
            expected = in_eval(twin, x).softmax(-1)
            expect(
                bool((std.abs() < 1e-3).all()),
                f"the std of a net without dropout is up to {float(std.abs().max()):.3g}: other "
                "modules than dropout are in training mode",
            )
            assert_close(mean, expected, rtol=1e-4, atol=1e-5, what="the mean without dropout")

    @pytest.mark.points(2, "value")
    @pytest.mark.parametrize("kind", list(DROPPERS))
    def test_mc_every_dropout(self, submission, kind):
        """Every dropout module of torch's is active."""
        shape = DROPPERS[kind]
        drop = getattr(nn, kind)(0.5)
        net = nn.Sequential(drop, nn.Flatten(), nn.Linear(math.prod(shape[1:]), 3)).eval()
        with torch.no_grad():
            _, std = submission.mc_predict(net, randn(*shape, away_from_zero=0.5), 11)
        expect(
            bool((std > 1e-4).any(1).all()),
            f"with nn.{kind} in the model there are rows without any spread: it was not active "
            "in every pass",
        )

    @pytest.mark.points(3, "structure")
    def test_mc_statistics(self, submission):
        """mc_predict leaves parameters and statistics as they are."""
        for training in (True, False):
            model = small_net().train(training)
            before = state(model)
            submission.mc_predict(model, randn(7, 5), 3)
            expect_state(
                model,
                before,
                "BatchNorm was in training mode during the passes; only dropout is to be",
            )

    @pytest.mark.points(2, "structure")
    def test_mc_modes(self, submission):
        """mc_predict gives every module its own mode back."""
        for model in mixtures():
            before = modes(model)
            submission.mc_predict(model, randn(7, 5), 2)
            expect_modes(model, before, "after mc_predict")

    @pytest.mark.points(1, "structure")
    def test_mc_modes_after_an_exception(self, submission):
        """The modes are back also when the model raises."""
        for place in ("act", "last"):
            for model in mixtures():
                setattr(model, place, Stumbles(0))
                before = modes(model)
                assert_raises(Interrupted, submission.mc_predict, model, randn(7, 5), 3)
                expect_modes(model, before, "after an exception in the model")

    @pytest.mark.points(1, "gradient")
    def test_mc_without_a_graph(self, submission):
        """Mean and std carry no graph."""
        x = randn(7, 5, requires_grad=True)
        for name, value in zip(
            ("mean", "std"), submission.mc_predict(small_net(), x, 2), strict=True
        ):
            expect(
                not assert_tensor(value, name).requires_grad,
                f"{name} carries a graph through all passes; predict without gradients",
            )

    @pytest.mark.points(5, "value")
    @pytest.mark.hint("momentum=None is the plain average of all batches since the last reset.")
    def test_recalibrated(self, submission):
        """recalibrate_bn averages the statistics of the batches."""
        for layers in (1, 2):
            net = two_norms() if layers == 2 else two_norms()[:2]
            net.eval()
            loader = [(randn(7, 5) + 2 * step, rand_ints(7, high=3)) for step in range(4)]
            twin = copy.deepcopy(net)
            submission.recalibrate_bn(model=net, loader=loader)
            expect_recalibrated(net, statistics_of(twin, loader))

    @pytest.mark.points(1, "value")
    def test_batches_count_the_same(self, submission):
        """A smaller batch counts as much as the others."""
        net = two_norms()[:2]
        loader = [(randn(size, 5) + size, rand_ints(size, high=3)) for size in (11, 7, 2)]
        twin = copy.deepcopy(net)
        submission.recalibrate_bn(net, loader)
        expect_recalibrated(net, statistics_of(twin, loader))

    @pytest.mark.points(2, "value")
    def test_recalibrated_without_dropout(self, submission):
        """During recalibration everything but BatchNorm is in evaluation."""
        for other in (nn.Dropout(0.5), Summand()):
            net = nn.Sequential(nn.Linear(5, 7), other, nn.BatchNorm1d(7)).train()
            loader = batches(11, 11, 11)
            twin = copy.deepcopy(net)
            submission.recalibrate_bn(net, loader)
            name = "dropout" if isinstance(other, nn.Dropout) else "a module that adds noise"
            expect_recalibrated(
                net,
                statistics_of(twin, loader),
                also=f"behind {name} is not what evaluation needs: {name} was in training mode",
                compare=False,
            )

    @pytest.mark.points(2, "value")
    def test_recalibrated_in_2d(self, submission):
        """BatchNorm layers of images and volumes are recalibrated too."""
        for conv, norm, shape in (
            (nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), (5, 2, 7, 5)),
            (nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3), (3, 2, 3, 2, 5)),
        ):
            net = nn.Sequential(conv, norm)
            unsettle(net)
            loader = [(randn(*shape), rand_ints(shape[0], high=3)) for _ in range(3)]
            twin = copy.deepcopy(net)
            submission.recalibrate_bn(net, loader)
            expect_recalibrated(
                net,
                statistics_of(twin, loader),
                also=f"is not the average of the batches: {type(norm).__name__} is BatchNorm too",
                compare=False,
            )

    @pytest.mark.points(1, "structure")
    def test_recalibration_changes_no_parameter(self, submission):
        """recalibrate_bn changes no parameter."""
        net = small_net()
        before = state(net)
        submission.recalibrate_bn(net, batches(7, 7))
        names = dict(net.named_parameters())
        for name, parameter in names.items():
            expect(
                torch.equal(parameter, before[name]) and parameter.grad is None,
                f"{name} changed; recalibrating moves statistics only. reset_parameters() resets "
                "weight and bias too, reset_running_stats() doesn't",
            )
            expect(parameter.requires_grad, f"{name} doesn't require grad any more")

    @pytest.mark.points(2, "structure")
    def test_momentum_is_restored(self, submission):
        """Every layer has its own momentum back."""
        momenta = (0.3, None, 1.0, 0.1)
        net = nn.Sequential(*(nn.BatchNorm1d(5, momentum=momentum) for momentum in momenta))
        submission.recalibrate_bn(net, batches(7, 7))
        for layer, momentum in zip(net, momenta, strict=True):
            expect(
                layer.momentum == momentum,
                f"momentum was {momentum} before the call and is {layer.momentum} afterwards",
                got=layer.momentum,
                expected=momentum,
            )

    @pytest.mark.points(1, "structure")
    def test_recalibration_modes(self, submission):
        """recalibrate_bn gives every module its own mode back."""
        for model in mixtures():
            before = modes(model)
            submission.recalibrate_bn(model, batches(7, 7))
            expect_modes(model, before, "after recalibrate_bn")

    @pytest.mark.points(1, "structure")
    def test_recalibration_after_an_exception(self, submission):
        """Modes and momentum are back also when the model raises."""
        for calls in (0, 1):
            for model in mixtures():
                model.norm.momentum = 0.3
                model.act = nn.Sequential(nn.ReLU(), Stumbles(calls))
                before = modes(model)
                assert_raises(Interrupted, submission.recalibrate_bn, model, batches(7, 7, 7))
                expect_modes(model, before, "after an exception in the model")
                expect(
                    model.norm.momentum == 0.3,
                    f"after an exception in the model, momentum is {model.norm.momentum}; it was "
                    "0.3 before",
                )

    @pytest.mark.points(2, "training")
    def test_sick_net(self, submission):
        """A net with the statistics of a single class recovers."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(11)
            net, loader, (x, y) = sick_net()
        sick = accuracy(net, x, y)
        submission.recalibrate_bn(net, loader)
        cured = accuracy(net, x, y)
        expect(
            cured > 0.95,
            f"after recalibration the accuracy is {cured:.3f} (it was {sick:.3f}); expected more "
            "than 0.95, as the weights are fine and only the statistics were not",
            got=cured,
        )
