"""Day 16 asks for the bytes of a training step: counted, listed, metered, traded and planned."""

import copy
import functools
import gc
import inspect
import itertools
import math
import random
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import checkpoint as library
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from grader.testing import (
    assert_close,
    expect,
    fail,
    measured,
    peak_memory,
    picture,
    randn,
    smallest,
)

FLOAT = 4  # bytes


def same_bytes(got: Any, expected: int, what: str, known: dict[str, int] | None = None) -> None:
    """The same number of bytes; `known`: sentence about a mistake -> bytes that it gives."""
    expect(type(got) is int, f"{what} is of type {type(got).__name__}; expected int", got=got)
    if got != expected:
        why = [sentence for sentence, value in (known or {}).items() if value == got]
        fail(
            f"{what}: {got} bytes; expected {expected}" + (f": {why[0]}" if why else ""),
            expected=expected,
            got=got,
        )


def parameter_bytes(model: nn.Module) -> int:
    """Bytes of parameters that are neither tied nor views."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


# --- 1 ------------------------------------------------------------------------------------------


def stack(*sizes: int, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Linear layers with these widths."""
    pairs = itertools.pairwise(sizes)
    return nn.Sequential(*(nn.Linear(m, n, dtype=dtype) for m, n in pairs))


def numbers_of(*sizes: int) -> int:
    """Weights and biases of `stack(*sizes)`."""
    return sum(m * n + n for m, n in itertools.pairwise(sizes))


def one_backward(model: nn.Module, *shape: int, dtype: torch.dtype = torch.float32) -> None:
    """Fill the gradients."""
    model(randn(*shape, dtype=dtype)).square().mean().backward()


@pytest.mark.task("model_bytes")
class TestModelBytes:
    @pytest.mark.points(2, "value")
    def test_parameters(self, submission):
        """Parameters count with the width of their dtype."""
        for sizes in ((2, 3), (3, 5, 7)):
            for dtype, width in ((torch.float32, 4), (torch.float16, 2), (torch.float64, 8)):
                model = stack(*sizes, dtype=dtype)
                got = submission.model_bytes(model, torch.optim.SGD(model.parameters(), lr=0.1))
                expect(isinstance(got, dict), f"the result is a {type(got).__name__}, not a dict")
                keys = ["buffers", "gradients", "optimizer", "parameters"]
                expect(sorted(got) == keys, f"the keys are {sorted(got)}; expected {keys}")
                numbers = numbers_of(*sizes)
                same_bytes(
                    got["parameters"],
                    numbers * width,
                    f"parameters of Linear layers {sizes} in {dtype}",
                    {
                        f"a number in {dtype} has {width} bytes, not 4": numbers * 4,
                        "these are numbers, not bytes": numbers,
                    },
                )
                for key in ("buffers", "gradients", "optimizer"):
                    same_bytes(got[key], 0, f"{key} of a new model of Linear layers")

    @pytest.mark.points(2, "value")
    def test_tied(self, submission):
        """Tied weights count once, and so do their gradients."""
        model = nn.Sequential(nn.Embedding(11, 3), nn.Linear(3, 11, bias=False))
        model[1].weight = nn.Parameter(model[0].weight.detach())  # another Parameter, same memory
        got = submission.model_bytes(model, torch.optim.SGD(model.parameters(), lr=0.1))
        size = 33 * FLOAT
        twice = {"tied weights share one storage; it was counted twice": 2 * size}
        same_bytes(got["parameters"], size, "parameters with one storage for two weights", twice)
        same_bytes(got["gradients"], 0, "gradients before the first backward")
        model[1].weight = model[0].weight
        model(torch.arange(5)).sum().backward()
        got = submission.model_bytes(model, torch.optim.SGD(model.parameters(), lr=0.1))
        same_bytes(got["parameters"], size, "parameters with one Parameter in two modules", twice)
        same_bytes(got["gradients"], size, "gradients of tied weights", twice)

    @pytest.mark.points(2, "value")
    def test_views_of_one_storage(self, submission):
        """Views into one flat storage count it once and in full."""
        model = stack(2, 3)
        for attribute, spare in (("data", 5), ("grad", 7)):
            flat = randn(9 + spare)
            setattr(model[0].weight, attribute, flat[:6].view(3, 2))
            setattr(model[0].bias, attribute, flat[6:9])
        got = submission.model_bytes(model, torch.optim.SGD(model.parameters(), lr=0.1))
        for key, numbers in (("parameters", 14), ("gradients", 16)):
            same_bytes(
                got[key],
                numbers * FLOAT,
                f"{key} that are views into one tensor of {numbers} numbers",
                {
                    "a view keeps its whole storage alive; only what it shows was counted": 36,
                    "the storage was counted once for each view": 2 * numbers * FLOAT,
                },
            )

    @pytest.mark.points(1, "value")
    def test_gradients(self, submission):
        """Only gradients that exist count."""
        model = stack(3, 5, 2)
        for parameter in model[0].parameters():
            parameter.requires_grad_(False)
        opt = torch.optim.SGD(model.parameters(), lr=0.1)
        same_bytes(
            submission.model_bytes(model, opt)["gradients"],
            0,
            "gradients before the first backward",
            {
                "a gradient that is None has no bytes": numbers_of(3, 5, 2) * FLOAT,
                "a trainable parameter has none before backward": numbers_of(5, 2) * FLOAT,
            },
        )
        one_backward(model, 7, 3)
        got = submission.model_bytes(model, opt)
        same_bytes(
            got["gradients"],
            numbers_of(5, 2) * FLOAT,
            "gradients with a frozen first layer",
            {"a frozen parameter has no gradient": numbers_of(3, 5, 2) * FLOAT},
        )
        same_bytes(
            got["parameters"],
            numbers_of(3, 5, 2) * FLOAT,
            "parameters with a frozen first layer",
            {"frozen parameters have bytes too": numbers_of(5, 2) * FLOAT},
        )

    @pytest.mark.points(1, "value")
    def test_buffers(self, submission):
        """Buffers count, also those that are not saved."""
        model = nn.Sequential(nn.Linear(2, 5), nn.BatchNorm1d(5))
        model.register_buffer("scratch", torch.zeros(7, dtype=torch.float64), persistent=False)
        got = submission.model_bytes(model, torch.optim.SGD(model.parameters(), lr=0.1))
        saved = 2 * 5 * FLOAT + 8
        known = {"a buffer that `state_dict` leaves out has bytes too": saved}
        same_bytes(got["buffers"], saved + 56, "buffers of a BatchNorm and one of 56 bytes", known)
        same_bytes(
            got["parameters"],
            25 * FLOAT,
            "parameters of a model with buffers",
            {"`state_dict` holds buffers too; they were counted twice": 25 * FLOAT + saved},
        )

    @pytest.mark.points(2, "value")
    def test_optimizer(self, submission):
        """The optimizer's state counts after the first step, counters too."""
        size = numbers_of(3, 5, 2) * FLOAT
        rows: dict[str, dict[str, int]] = {}
        for name, make, after in (
            ("SGD", functools.partial(torch.optim.SGD, lr=0.1), 0),
            ("SGD with momentum", functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9), size),
            ("Adam", torch.optim.Adam, 2 * size + 4 * FLOAT),
        ):
            model = stack(3, 5, 2)
            opt = make(model.parameters())
            before = submission.model_bytes(model, opt)["optimizer"]
            same_bytes(before, 0, f"optimizer {name} before its first step")
            one_backward(model, 7, 3)
            opt.step()
            rows[name] = submission.model_bytes(model, opt)
            same_bytes(
                rows[name]["optimizer"],
                after,
                f"optimizer {name} after one step",
                {
                    "the step counters are tensors too": 2 * size,
                    "Adam keeps two averages for each parameter": size,
                    "the state of the first parameter alone was counted": 2 * 60 + FLOAT,
                },
            )
        picture(
            "bars",
            "Bytes after one step, before any activation",
            f"Parameters have {size} bytes and gradients as many. SGD keeps nothing, momentum as "
            "much again, Adam twice as much and its step counters.",
            labels=list(rows),
            series=[
                {"label": key, "values": [row[key] for row in rows.values()]}
                for key in ("parameters", "gradients", "optimizer")
            ],
            log=False,
            unit="bytes",
            limit=None,
        )


# --- 2 ------------------------------------------------------------------------------------------

Entry = tuple[tuple[int, ...], int]


def entries(result: Any) -> list[Entry]:
    """(shape, bytes) of each entry; the names are not looked at."""
    expect(isinstance(result, list), f"the result is of type {type(result).__name__}; not a list")
    for entry in result:
        expect(
            isinstance(entry, tuple) and len(entry) == 3 and isinstance(entry[0], str),
            f"an entry is {entry!r}; expected (name, shape, bytes)",
            got=str(entry),
        )
        expect(isinstance(entry[1], tuple), f"the shape is {entry[1]!r}; expected a tuple")
        expect(type(entry[2]) is int, f"the bytes are {entry[2]!r}; expected an int")
    return [(tuple(shape), size) for _, shape, size in result]


def full(*shape: int, width: int = FLOAT) -> Entry:
    """The entry of a tensor that has its storage for itself."""
    return shape, math.prod(shape) * width


def same_entries(
    result: Any, expected: list[Entry], what: str, known: dict[str, list[Entry]] | None = None
) -> None:
    """The same shapes and bytes in the same order."""
    got = entries(result)
    if got == expected:
        return
    why = [sentence for sentence, value in (known or {}).items() if value == got]
    reason = f": {why[0]}" if why else ""
    if not why and sorted(got) == sorted(expected):
        reason = ": these are the right ones, but not in the order of packing"
    fail(
        f"{what}: (shape, bytes) are {got}; expected {expected}{reason}",
        expected=str(expected),
        got=str(got),
    )


def naive_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q (*, seq_q, dim), k and v (*, seq_k, dim) to (*, seq_q, dim)."""
    return (q @ k.mT).softmax(-1) @ v


@pytest.mark.task("saved_for_backward")
class TestSavedForBackward:
    @pytest.mark.points(2, "value")
    def test_pointwise(self, submission):
        """exp keeps its output, sin its input, adding nothing."""

        def case(named):
            name, fn, count = named
            x = randn(2, 3, requires_grad=True)
            same_entries(
                submission.saved_for_backward(fn, x),
                [full(2, 3)] * count,
                name,
                {
                    "what the function returns is not kept for that alone": [full(2, 3)]
                    * (1 + count),
                },
            )

        smallest(
            case,
            [
                ("x + 1", lambda x: x + 1, 0),
                ("x.exp(), which keeps its output", lambda x: x.exp(), 1),
                ("(x + 1).sin(), which keeps an intermediate", lambda x: (x + 1).sin(), 1),
                ("(x + 1).exp() + 2", lambda x: (x + 1).exp() + 2, 1),
            ],
        )

    @pytest.mark.points(2, "value")
    def test_arguments(self, submission):
        """Arguments are left out, and so are views of them."""
        x, y = randn(3, 5, requires_grad=True), randn(3, 5, requires_grad=True)
        for name, fn, args in (
            ("x.sin() of an argument", lambda x: x.sin(), (x,)),
            ("x * y of two arguments", lambda x, y: x * y, (x, y)),
            ("x[1:] * x[:-1] of an argument", lambda x: x[1:] * x[:-1], (x,)),
            ("x.t() @ y of two arguments", lambda x, y: x.t() @ y, (x, y)),
            ("x[0] * x[1] * 7, where x is itself a view", lambda x, n: x[0] * x[1] * n, (x[1:], 7)),
        ):
            got = submission.saved_for_backward(fn, *args)
            shared = "views of arguments share their storages"
            same_entries(got, [], name, {shared: [((2, 5), 60)] * 2})

    @pytest.mark.points(1, "value")
    def test_fused(self, submission):
        """The fused silu keeps one tensor, the composed form two."""
        for name, fn, count in (
            ("silu(x + 1)", lambda x: F.silu(x + 1), 1),
            ("h * sigmoid(h)", lambda x: (lambda h: h * h.sigmoid())(x + 1), 2),
        ):
            got = submission.saved_for_backward(fn, randn(3, 7, requires_grad=True))
            same_entries(got, [full(3, 7)] * count, f"{name} for h = x + 1")

    @pytest.mark.points(2, "value")
    def test_modules(self, submission):
        """A module's weights are left out, its activations are not."""
        for inplace in (False, True):
            model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(inplace=inplace), nn.Linear(7, 2))
            same_entries(
                submission.saved_for_backward(model, randn(3, 5)),
                [full(3, 7)],
                f"Linear, ReLU(inplace={inplace}), Linear",
                {
                    "the second weight is a parameter (its transpose is a view of it)": [
                        full(3, 7),
                        full(7, 2),
                    ],
                    "the input is an argument": [full(3, 5), full(3, 7)],
                    "ReLU's result is kept by two ops, but it is one storage": [full(3, 7)] * 2,
                },
            )

    @pytest.mark.points(2, "value")
    def test_views_and_order(self, submission):
        """A storage has one entry, with its first shape and all its bytes."""

        def chain(x):
            a = x.exp()
            b = a[1].exp()
            return (b[:, None] * b).sigmoid() * a.t()[0, 0]

        def windows(x):
            h = x + 1
            return h[1:] * h[:2].exp()

        x = randn(3, 5, requires_grad=True)
        same_entries(
            submission.saved_for_backward(chain, x),
            [full(3, 5), full(5), full(5, 5)],
            "a = x.exp(); b = a[1].exp(); (b[:, None] * b).sigmoid() * a.t()[0, 0]",
        )
        same_entries(
            submission.saved_for_backward(windows, x),
            [full(2, 5), ((2, 5), 60)],
            "h = x + 1; h[1:] * h[:2].exp(), where h[1:] shows 40 of 60 bytes",
            {"a view keeps its whole storage alive: count all its bytes": [full(2, 5)] * 2},
        )

    @pytest.mark.points(2, "value")
    def test_attention(self, submission):
        """Naive attention keeps a seq x seq tensor, the fused one none."""
        for dtype, width in ((torch.float32, 4), (torch.float64, 8)):
            q, k, v = (randn(2, 3, 11, 5, dtype=dtype, requires_grad=True) for _ in range(3))
            naive = entries(submission.saved_for_backward(naive_attention, q, k, v))
            expect(
                full(2, 3, 11, 11, width=width) in naive,
                f"naive attention keeps its weights (2, 3, 11, 11); listed: {naive}",
            )
            attention = F.scaled_dot_product_attention
            fused = entries(submission.saved_for_backward(attention, q, k, v))
            expect(
                all(math.prod(shape) < 2 * 3 * 11 * 11 for shape, _ in fused),
                f"scaled_dot_product_attention keeps nothing of 11 x 11; listed: {fused}",
            )
            expect(
                (2, 3, 11) in [shape for shape, _ in fused],
                "scaled_dot_product_attention keeps a logsumexp (2, 3, 11) for each query; "
                f"listed: {fused}",
            )

    @pytest.mark.points(1, "value")
    def test_no_grad(self, submission):
        """Under no_grad nothing is kept."""
        model = nn.Sequential(nn.Linear(5, 7), nn.Tanh())
        with torch.no_grad():
            got = submission.saved_for_backward(model, randn(3, 5))
        same_entries(got, [], "under no_grad")
        got = submission.saved_for_backward(torch.no_grad()(model), randn(3, 5))
        same_entries(got, [], "a function that runs under no_grad itself")

    @pytest.mark.points(1, "gradient")
    def test_backward_inside(self, submission):
        """A backward that the function runs itself still works."""
        x = randn(3, 5, dtype=torch.float64, requires_grad=True)
        found = []

        def fn(x):
            found.extend(torch.autograd.grad((x + 1).sin().exp().sum(), x))

        got = submission.saved_for_backward(fn, x)
        expect(len(found) == 1, f"fn was called {len(found)} times; expected once")
        h = x.detach() + 1
        assert_close(found[0], h.cos() * h.sin().exp(), what="the gradient that fn computed")
        same_entries(got, [full(3, 5, width=8)] * 2, "(x + 1).sin().exp() and its backward")

    @pytest.mark.points(1, "value")
    def test_one_storage_after_another(self, submission):
        """A storage at the address of a dead one has its own entry."""

        def fn(x):
            for _ in range(29):
                torch.autograd.grad((x + 1).exp().sum(), x)

        got = entries(submission.saved_for_backward(fn, randn(3, 7, requires_grad=True)))
        expect(
            got == [full(3, 7)] * 29,
            f"29 times exp forward and backward: {len(got)} entries {sorted(set(got))}; expected "
            "29 of ((3, 7), 84): each storage has died when the next is born, some at the same "
            "address. Hold on to what you compare with",
            expected=29,
            got=len(got),
        )

    @pytest.mark.points(1, "value")
    def test_twice(self, submission):
        """Called again it says the same, and nothing listens any more."""
        lists = []
        model = nn.Sequential(nn.Linear(5, 7), nn.Sigmoid())
        for _ in range(3):
            x = randn(3, 5, requires_grad=True)
            lists.append(entries(submission.saved_for_backward(model, x)))
        expect(
            lists[0] == [full(3, 7)],
            f"Linear and Sigmoid: (shape, bytes) are {lists[0]}; expected {[full(3, 7)]}: what is "
            "kept besides the sigmoid's result is the argument or a weight",
        )
        expect(lists[1:] == lists[:1] * 2, f"three calls give {lists}; expected the same each time")
        before = list(map(len, lists))
        kept = submission.saved_for_backward(model, x)
        model(randn(3, 5)).exp()
        expect(
            len(kept) == before[0],
            "an operation after the call was listed too: the hooks are still set",
        )


# --- 3 ------------------------------------------------------------------------------------------


@pytest.mark.task("PeakMeter")
class TestPeakMeter:
    @pytest.mark.points(3, "memory")
    def test_temporaries(self, submission):
        """What dies is subtracted, and the peak stays."""
        for n in (3, 1009):
            x, size = randn(n), n * FLOAT
            with submission.PeakMeter() as meter:
                y = x.exp().sin()
                held, peak = meter.current, meter.peak
                del y
                end, peak_at_end = meter.current, meter.peak
                heights = []
                for _ in range(29):
                    t = x.tan()
                    heights.append(meter.current)
                    del t
                z = x.cos()
            inside = meter.current
            del z
            outside = meter.current
            what = f"y = x.exp().sin(), {n} numbers"
            same_bytes(
                held,
                size,
                f"{what}: current",
                {"what has died still counts; does the meter keep it alive itself?": 2 * size},
            )
            same_bytes(peak, 2 * size, f"{what}: peak")
            never = {"y is dead, and still counts": size}
            same_bytes(end, 0, f"{what}: current after `del y`", never)
            same_bytes(peak_at_end, 2 * size, f"{what}: peak after `del y`")
            low, high = min(heights), max(heights)
            expect(
                low == high == size,
                f"29 tensors of {n} numbers, one after the other: current is {low} to {high} while "
                f"one of them lives; expected {size}. A new storage may have the address of a "
                "dead one",
                expected=size,
                got=low if low != size else high,
            )
            same_bytes(inside, size, f"{what}, del y, z = x.cos(): current")
            same_bytes(outside, 0, f"{what}: current when z has died after the block", never)

    @pytest.mark.points(3, "memory")
    def test_views_and_in_place(self, submission):
        """Views and results in place are free; a view keeps its base alive."""
        x, size = randn(5, 7), 35 * FLOAT
        with submission.PeakMeter() as meter:
            a = x.exp()
            b, c = a.t(), a[1:3].view(14)
            a.mul_(2).add_(1)
            peak = meter.peak
            d = a.data
            del a, b, c
            one_left = meter.current
            del d
            none_left = meter.current
        same_bytes(
            peak,
            size,
            "a = x.exp(), two views and two results in place: peak",
            {"a view has no storage of its own": 2 * size + 28 * FLOAT},
        )
        same_bytes(
            one_left,
            size,
            "only `a.data` is left, which shows the same memory: current",
            {"the tensor is dead, but its storage lives on": 0},
        )
        same_bytes(none_left, 0, "the last view is dead: current")

    @pytest.mark.points(2, "memory")
    def test_what_is_only_received(self, submission):
        """Inputs, parameters and `out=` count nothing."""
        x, y, layer = randn(3, 5), randn(3, 5), nn.Linear(5, 2)
        with submission.PeakMeter() as meter, torch.no_grad():
            x.add_(1)
            x.t()
            x[1:].mul_(3)
            inputs = meter.current
            torch.exp(x, out=y)
            out = meter.current
            result = layer(x)
            after = meter.current
        same_bytes(inputs, 0, "an input written in place, and views of it")
        same_bytes(out, 0, "torch.exp(x, out=y) into a tensor that was there before")
        same_bytes(after, 6 * FLOAT, "a result (3, 2) of a Linear")
        expect(result.shape == (3, 2), f"the Linear's result is of shape {tuple(result.shape)}")

    @pytest.mark.points(2, "memory")
    def test_tuples(self, submission):
        """Ops that return tuples or lists give birth to each result."""
        x, y = randn(3, 5), randn(7)
        with submission.PeakMeter() as meter:
            pair = x.max(1)
            of_tuple = meter.current
            several = torch._foreach_mul([x, y], 2.0)
            of_list = meter.current
            del several, pair
            end = meter.current
        same_bytes(
            of_tuple,
            3 * (4 + 8),
            "values and indices of x.max(1)",
            {"an op may return a tuple of tensors": 0, "the second result counts too": 12},
        )
        same_bytes(of_list, 36 + 22 * FLOAT, "an op that returns a list of two tensors as well")
        same_bytes(end, 0, "all of them dead")

    @pytest.mark.points(2, "memory")
    def test_timeline(self, submission):
        """The timeline has one entry per op, with the bytes after it."""
        for n in (3, 7):
            x, size = randn(n), n * FLOAT
            with submission.PeakMeter() as meter:
                a = x.exp()
                b = a.view(n, 1)
                b.add_(1)
                c = a.sin()
                del a, b
                d = c.cos()
                line = list(meter.timeline)
            del c, d
            for entry in line:
                expect(
                    isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str),
                    f"an entry of the timeline is {entry!r}; expected (op name, bytes)",
                    got=str(entry),
                )
            got, expected = [entry[1] for entry in line], [size] * 3 + [2 * size] * 2
            expect(
                got == expected,
                f"exp, view, add_, sin, (two names deleted,) cos on {n} numbers: the timeline's "
                f"bytes are {got}; expected {expected}",
                expected=str(expected),
                got=str(got),
            )

    @pytest.mark.points(3, "memory")
    def test_backward(self, submission):
        """In backward gradients count, and checkpoints lower the peak."""
        blocks = nn.Sequential(
            *(nn.Sequential(nn.Linear(61, 61), nn.Tanh()) for _ in range(8)), nn.Linear(61, 3)
        )
        x = randn(257, 61)

        def plain() -> None:
            blocks(x).square().mean().backward()

        def checkpointed() -> None:
            run = library.checkpoint_sequential
            run(blocks, 3, x, use_reentrant=False).square().mean().backward()

        series, peaks = [], {}
        for name, step in (("plain", plain), ("checkpointed", checkpointed)):
            blocks.zero_grad()
            with submission.PeakMeter() as meter:
                step()
            gc.collect()
            left, peaks[name] = meter.current, meter.peak
            line = [entry[1] / 1e3 for entry in meter.timeline][:600]
            series.append({"label": name, "x": list(map(float, range(len(line)))), "y": line})
            blocks.zero_grad()
            expected = peak_memory(step)
            same_bytes(
                left,
                parameter_bytes(blocks),
                f"after a {name} step the gradients live, nothing else: current",
                {"gradients are born in backward, and count": 0},
            )
            expect(
                type(peaks[name]) is int and abs(peaks[name] - expected) <= 0.05 * expected,
                f"the {name} step: peak {peaks[name]} bytes; expected about {expected}",
                expected=expected,
                got=peaks[name],
            )
        measured(f"{peaks['plain'] / 1e3:.0f} kB, {peaks['checkpointed'] / 1e3:.0f} kB")
        picture(
            "curve",
            "One training step, plain and with checkpoints",
            f"The peak is {peaks['plain']} bytes plain and {peaks['checkpointed']} with three "
            "checkpointed runs, which dispatch more ops.",
            series=series,
            x_label="ops so far",
            y_label="kB alive",
            log_y=False,
            limit=None,
        )

    @pytest.mark.points(2, "memory")
    def test_reset(self, submission):
        """After reset, what was alive counts as existing."""
        x, size = randn(11), 11 * FLOAT
        with submission.PeakMeter() as meter:
            y = x.exp()
            meter.reset()
            state = meter.current, meter.peak, list(meter.timeline)
            y.add_(1)
            view = y[1:]
            in_place = meter.current
            z = x.sin()
            before = meter.current
            del y, view
            after = meter.current
            peak = meter.peak
        expect(
            state == (0, 0, []),
            f"after reset current, peak and timeline are {state}; expected 0, 0 and []",
        )
        same_bytes(in_place, 0, "an older tensor, written in place after reset: current")
        same_bytes(before, size, "a new tensor after reset: current")
        same_bytes(
            after,
            size,
            "an older tensor dies after reset: current",
            {"its bytes were subtracted, though they don't count any more": 0},
        )
        same_bytes(peak, size, "a new tensor after reset: peak")
        del z

    @pytest.mark.points(1, "memory")
    def test_exception(self, submission):
        """An exception goes on, and the meter stays right."""
        x, wrong, size = randn(11), randn(3), 11 * FLOAT
        meter, raised = submission.PeakMeter(), False
        try:
            with meter:
                y = x.exp()
                try:
                    x.dot(wrong)
                except RuntimeError:
                    z = x.sin()
                x.dot(wrong)
        except RuntimeError:
            raised = True
        gc.collect()
        expect(raised, "an exception inside the block was swallowed")
        same_bytes(meter.current, 2 * size, "two tensors, and two ops that raised: current")
        length = len(meter.timeline)
        w = x.cos()
        del y, z
        expect(
            len(meter.timeline) == length,
            "an op after the block was counted: after an exception the meter is still on",
        )
        same_bytes(meter.current, 0, "both tensors dead: current")
        del w

    @pytest.mark.points(2, "memory")
    def test_nested(self, submission):
        """One meter inside another: both count."""
        x, size = randn(13), 13 * FLOAT
        with submission.PeakMeter() as outer:
            a = x.exp()
            with submission.PeakMeter() as inner:
                b = x.sin()
                a.add_(1)
                counted = outer.current, inner.current
            c = x.cos()
            del b
            end = outer.current, inner.current
        same_bytes(counted[0], 2 * size, "the outer meter inside the inner block: current")
        same_bytes(
            counted[1],
            size,
            "the inner meter: current",
            {"what an outer block made counts there alone": 2 * size},
        )
        same_bytes(end[0], 2 * size, "the outer meter after the inner block: current")
        same_bytes(end[1], 0, "the inner meter, when its tensor has died: current")
        same_bytes(outer.peak, 3 * size, "the outer meter: peak")
        same_bytes(inner.peak, size, "the inner meter: peak")
        del a, c


# --- 4 ------------------------------------------------------------------------------------------


def make_blocks(count: int, dim: int, dropout: float = 0.0) -> nn.Sequential:
    """Blocks (batch, dim) to (batch, dim)."""
    blocks = (
        nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), *([nn.Dropout(dropout)] if dropout else []))
        for _ in range(count)
    )
    return nn.Sequential(*blocks)


def same_gradient(got: Tensor | None, expected: Tensor, what: str) -> None:
    """Bitwise the same."""
    if got is None:
        fail(f"the gradient of {what} is None; expected one like the plain code's")
    if not torch.equal(got, expected):
        why = ""
        if torch.equal(got, 2 * expected):
            why = ": it is exactly twice that; backward went through two graphs"
        elif not got.any():
            why = ": it is 0 everywhere"
        else:
            off = (got - expected).abs().max().item()
            why = f": it is off by up to {off:.3g}; not the same numbers went through backward"
        fail(f"the gradient of {what} is not bitwise that of the plain code{why}")


Run = Callable[..., Any]


class Outcome:
    """What a run gives, its gradients, and where it leaves the random state."""

    def __init__(self, run: Run, parameters: dict[str, Tensor], *args: Any, seed: int) -> None:
        self.args = [
            arg.detach().clone().requires_grad_(arg.requires_grad)
            if isinstance(arg, Tensor)
            else arg
            for arg in args
        ]
        for parameter in parameters.values():
            parameter.grad = None
        torch.manual_seed(seed)
        result = run(*self.args)
        self.is_tuple = isinstance(result, tuple)
        self.result = result if isinstance(result, tuple) else (result,)
        self.after_forward = torch.get_rng_state()
        torch.rand(3)  # somebody draws between forward and backward
        generator = torch.Generator().manual_seed(seed)
        if any(value.requires_grad for value in self.result):
            pairs = [
                (value, torch.randn(value.shape, generator=generator, dtype=value.dtype))
                for value in self.result
                if value.requires_grad
            ]
            torch.autograd.backward([p[0] for p in pairs], [p[1] for p in pairs])
        self.after_backward = torch.get_rng_state()
        self.gradients = {
            name: None if parameter.grad is None else parameter.grad.clone()
            for name, parameter in parameters.items()
        }
        for i, arg in enumerate(self.args):
            if isinstance(arg, Tensor) and arg.requires_grad:
                self.gradients[f"argument {i}"] = arg.grad


def compare(
    plain: Run, candidate: Run, model: nn.Module, *args: Any, what: str, state: bool = False
) -> Outcome:
    """Candidate first, then plain: values and gradients bitwise, and the random state."""
    seed = random.randrange(10**6)
    parameters = dict(model.named_parameters())
    got = Outcome(candidate, parameters, *args, seed=seed)
    expected = Outcome(plain, parameters, *args, seed=seed)
    expect(
        got.is_tuple == expected.is_tuple and len(got.result) == len(expected.result),
        f"{what}: the result is no {'tuple' if expected.is_tuple else 'single tensor'} as f's",
    )
    for value, right in zip(got.result, expected.result, strict=True):
        expect(torch.equal(value, right), f"{what}: the value is not that of the plain code")
    for name, right in expected.gradients.items():
        expect(
            (right is None) == (got.gradients[name] is None),
            f"{what}: the gradient of {name} is "
            + ("not None" if right is None else "None; the plain code gives it one"),
        )
        if right is not None:
            same_gradient(got.gradients[name], right, f"{name} ({what})")
    if state:
        for when in ("forward", "backward"):
            expect(
                torch.equal(getattr(got, f"after_{when}"), getattr(expected, f"after_{when}")),
                f"{what}: after {when} the global random state is not the one that the plain "
                "code leaves behind; whoever draws next draws other numbers",
            )
    return got


@contextmanager
def by_hand() -> Iterator[None]:
    """Fail at the end if the library's checkpoint was called, under whatever name."""
    functions = (
        library.checkpoint,
        library.checkpoint_sequential,
        library.CheckpointFunction.forward,
        library._checkpoint_without_reentrant_generator,
    )
    codes = {inspect.unwrap(function).__code__ for function in functions}
    seen: list[str] = []

    def watch(frame: Any, event: str, _: Any) -> None:
        if event == "call" and frame.f_code in codes:
            seen.append(frame.f_code.co_name)

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(before)
    expect(not seen, "torch.utils.checkpoint was called in checkpoint_fn; it is forbidden there")


@contextmanager
def entered(model: nn.Sequential) -> Iterator[list[int]]:
    """How often each block is entered."""
    counts = [0] * len(model)

    def hook(number: int) -> Callable[..., None]:
        def count(*_: Any) -> None:
            counts[number] += 1

        return count

    handles = [block.register_forward_pre_hook(hook(i)) for i, block in enumerate(model)]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


class Mixed(nn.Module):
    """A function with parameters, several arguments and, if asked for, dropout and two results."""

    def __init__(self, dropout: float = 0.0, two: bool = False) -> None:
        super().__init__()
        self.layer, self.dropout, self.two = nn.Linear(5, 7), nn.Dropout(dropout), two
        self.calls = 0

    def forward(self, x: Tensor, scale: Any = 1.0, shift: Any = 0.0) -> Any:
        self.calls += 1
        hidden = self.dropout(self.layer(x * scale).tanh()) + shift
        return (hidden, hidden.sin().sum(0)) if self.two else hidden


@pytest.mark.task("checkpoint_segments")
class TestCheckpointSegments:
    @pytest.mark.points(2, "gradient")
    def test_gradients(self, submission):
        """Checkpointed gives the plain code's values and gradients."""
        for count, segments in ((2, 1), (3, 3), (7, 3), (5, 4)):
            model = make_blocks(count, 5)
            candidate = submission.Checkpointed(model, segments)
            owned = {id(p) for p in candidate.parameters()}
            expect(
                {id(p) for p in model.parameters()} <= owned,
                "the blocks' parameters are not among the parameters of Checkpointed",
            )
            for requires_grad in (True, False):
                x = randn(3, 5, requires_grad=requires_grad)
                what = f"{count} blocks, {segments} segments, x.requires_grad={requires_grad}"
                compare(model, candidate, model, x, what=what)

    @pytest.mark.points(3, "gradient")
    def test_dropout(self, submission):
        """With dropout the gradients and the random state are the same."""
        for count, segments in ((3, 2), (8, 3)):
            model = make_blocks(count, 11, dropout=0.3)
            candidate = submission.Checkpointed(model, segments)
            x = randn(7, 11, requires_grad=True)
            compare(model, candidate, model, x, what=f"dropout, {count} blocks", state=True)

    @pytest.mark.points(3, "memory")
    def test_live_bytes(self, submission):
        """After forward a third of the plain code's bytes is alive."""
        parts = [(nn.Linear(61, 61), nn.GELU(), nn.Linear(61, 61), nn.GELU()) for _ in range(16)]
        model = nn.Sequential(*(nn.Sequential(*part) for part in parts))
        candidate, alive = submission.Checkpointed(model, 4), []
        x = randn(131, 61)
        for run in (candidate, model):
            with Gauge() as gauge:
                result = run(x)
                gc.collect()
                alive.append(gauge.current)
            expect(result.requires_grad, "the result has no graph")
            del result
        share = alive[0] / alive[1]
        measured(f"{share:.2f} of plain")
        picture(
            "bars",
            "Alive after forward",
            f"16 blocks: {alive[1]} bytes plain, {alive[0]} in 4 runs, a share of {share:.2f}.",
            labels=["plain", "4 runs"],
            series=[{"label": "kB alive", "values": [alive[1] / 1e3, alive[0] / 1e3]}],
            log=False,
            unit="kB",
            limit=0.35 * alive[1] / 1e3,
        )
        expect(
            share <= 0.35,
            f"after the forward of 16 blocks in 4 segments {alive[0]} bytes are alive, "
            f"{share:.2f} of the plain code's {alive[1]}; at most 0.35: only the runs' inputs stay",
            expected=0.35,
            got=share,
        )

    @pytest.mark.points(2, "structure")
    def test_entered(self, submission):
        """Each block runs at most twice, once in eval and no_grad."""
        model = make_blocks(6, 5, dropout=0.1)
        candidate = submission.Checkpointed(model, 3)
        with entered(model) as counts:
            candidate(randn(3, 5)).sum().backward()
            training = list(counts)
        with entered(model) as counts, torch.no_grad():
            candidate(randn(3, 5))
            without_grad = list(counts)
        candidate.eval()
        with entered(model) as counts:
            candidate(randn(3, 5, requires_grad=True)).sum().backward()
            evaluation = list(counts)
        expect(
            all(1 <= n <= 2 for n in training),
            f"in training the blocks are entered {training} times; expected once or twice each",
        )
        expect(
            without_grad == [1] * 6,
            f"under no_grad the blocks are entered {without_grad} times; expected once each",
        )
        expect(
            evaluation == [1] * 6,
            f"in eval mode the blocks are entered {evaluation} times; expected once each, though "
            "there is a backward",
        )

    @pytest.mark.points(2, "gradient")
    def test_fn_gradients(self, submission):
        """checkpoint_fn gives the plain code's values and gradients."""
        f = Mixed()
        for scale in (1.7, randn(5), randn(5, requires_grad=True)):
            for _ in range(2):
                x = randn(3, 5, requires_grad=True)
                with by_hand():
                    compare(
                        f,
                        lambda *args: submission.checkpoint_fn(f, *args),
                        f,
                        x,
                        scale,
                        randn(7, requires_grad=True),
                        what="checkpoint_fn(f, x, scale, shift)",
                    )

    @pytest.mark.points(2, "gradient")
    def test_fn_random(self, submission):
        """checkpoint_fn replays dropout and leaves the random state alone."""
        f = Mixed(dropout=0.4)
        for rows in (2, 13):
            compare(
                f,
                lambda *args: submission.checkpoint_fn(f, *args),
                f,
                randn(rows, 5, requires_grad=True),
                what="checkpoint_fn of an f with dropout",
                state=True,
            )

    @pytest.mark.points(2, "gradient")
    def test_fn_parameters(self, submission):
        """Parameters used inside get their gradient for any argument."""
        f = Mixed()
        for x in (randn(3, 5), randn(3, 5, requires_grad=True)):
            result = submission.checkpoint_fn(f, x.detach().requires_grad_(x.requires_grad))
            expect(
                result.requires_grad,
                "the result does not require grad, though f uses parameters that do",
            )
            run = functools.partial(submission.checkpoint_fn, f)
            compare(f, run, f, x, what=f"x.requires_grad={x.requires_grad}")

    @pytest.mark.points(1, "structure")
    def test_fn_calls(self, submission):
        """f runs twice in training and once under no_grad."""
        f = Mixed()
        result = submission.checkpoint_fn(f, randn(3, 5, requires_grad=True))
        expect(f.calls == 1, f"forward calls f {f.calls} times; expected once")
        result.sum().backward()
        expect(f.calls == 2, f"forward and backward call f {f.calls} times; expected twice")
        f.calls = 0
        with torch.no_grad():
            result = submission.checkpoint_fn(f, randn(3, 5, requires_grad=True))
        expect(f.calls == 1, f"under no_grad f is called {f.calls} times; expected once")
        expect(not result.requires_grad, "under no_grad the result requires grad")

    @pytest.mark.points(1, "gradient")
    def test_fn_tuples(self, submission):
        """A tuple of results comes back, and all send gradients."""
        f = Mixed(two=True)
        for x in (randn(3, 5, requires_grad=True), randn(2, 5)):
            run = functools.partial(submission.checkpoint_fn, f)
            compare(f, run, f, x, 0.5, what="a tuple of two results")

    @pytest.mark.points(2, "memory")
    def test_fn_live_bytes(self, submission):
        """After checkpoint_fn only the result and a random state live."""
        model, x = make_blocks(5, 31), randn(89, 31, requires_grad=True)
        with Gauge() as gauge:
            result = submission.checkpoint_fn(model, x)
            gc.collect()
            alive = gauge.current
        random_state = torch.get_rng_state().numel()
        most = 89 * 31 * FLOAT + 2 * random_state + 1000
        measured(f"{alive} bytes")
        expect(
            alive <= most,
            f"after forward {alive} bytes are alive; expected at most {most}: the result "
            f"({89 * 31 * FLOAT}), a random state ({random_state}) and some to spare. What f "
            "computes on the way must die",
            expected=most,
            got=alive,
        )
        expect(result.requires_grad, "the result has no graph")


# --- 5 ------------------------------------------------------------------------------------------


class Gauge(TorchDispatchMode):
    """Bytes of the storages that ops make, until they die."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[Any, int]] = {}
        self.timeline: list[tuple[str, int]] = []
        self.current, self.peak = 0, 0

    def reset(self) -> None:
        """Begin anew; what is alive is forgotten."""
        self.alive = {}
        self.current, self.peak, self.timeline = 0, 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        old = {s._cdata for s in storages_in((args, kwargs or {}))}
        out = func(*args, **(kwargs or {}))
        for s in storages_in(out):
            if s._cdata in old or s._cdata in self.alive:
                continue
            n = s.nbytes()
            ledger, me = self.alive, s._cdata
            ledger[me] = weakref.ref(s, functools.partial(self.leave, ledger, me)), n
            self.current += n
        self.peak = max(self.current, self.peak)
        self.timeline.append((func.__name__, self.current))
        return out

    def leave(self, ledger: dict[int, tuple[Any, int]], key: int, _: Any) -> None:
        """A storage has died."""
        n = ledger.pop(key, (None, 0))[1]
        if ledger is self.alive:
            self.current -= n


def storages_in(tree: Any) -> list[Any]:
    """The storages of all tensors in it."""
    return [leaf.untyped_storage() for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)]


class Runs(nn.Module):
    """Blocks in checkpointed runs."""

    def __init__(self, blocks: nn.Sequential, segments: int) -> None:
        super().__init__()
        self.blocks, self.segments = blocks, segments

    def forward(self, x: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            return library.checkpoint_sequential(self.blocks, self.segments, x, use_reentrant=False)
        return self.blocks(x)


def mlp(*sizes: int, norm: bool = False) -> nn.Sequential:
    """Linear layers with these widths, tanh (and before it a norm) between them."""
    layers: list[nn.Module] = []
    for m, n in itertools.pairwise(sizes):
        layers += [nn.Linear(m, n), *([nn.LayerNorm(n)] if norm else []), nn.Tanh()]
    return nn.Sequential(*layers[: -2 if norm else -1])


class Case:
    """A net, its data and its optimizer; `size` samples fit into `budget`, one more doesn't."""

    def __init__(
        self,
        model: nn.Sequential,
        inputs: tuple[int, ...],
        opt_cls: Callable[..., torch.optim.Optimizer],
        size: int,
        target: int,
        segments: int = 0,
    ) -> None:
        self.model, self.inputs, self.opt_cls, self.target = model, inputs, opt_cls, target
        self.outputs = (*inputs[:-1], model[-1].out_features)
        self.calls: list[int] = []
        self.most = 100
        low, high = (self.peak(n, segments) for n in (size, size + 1))
        assert low < high, "the suite's own case does not grow here"
        self.budget = (low + high) // 2

    def make(self, n: int) -> tuple[Tensor, Tensor]:
        """A batch; counts its calls."""
        self.calls.append(n)
        if len(self.calls) > self.most or n > 4 * self.target + 64:
            fail(
                f"make_batch was called {len(self.calls)} times, up to n = {max(self.calls)} for a "
                f"target of {self.target}: at most 25 calls. The CPU never runs out of memory by "
                "itself; stop at the budget, by the meter"
            )
        return self.batch(n)

    def batch(self, n: int) -> tuple[Tensor, Tensor]:
        """x (n, *inputs), y (n, *outputs)."""
        return torch.randn(n, *self.inputs), torch.randn(n, *self.outputs)

    def peak(self, n: int, segments: int = 0) -> int:
        """The peak of one step with n samples."""
        trial: nn.Module = copy.deepcopy(self.model)
        if segments:
            trial = Runs(trial, segments)
        trial.zero_grad()
        x, y = self.batch(n)
        with Gauge() as gauge:
            opt = self.opt_cls(trial.parameters())
            F.mse_loss(trial(x), y).backward()
            opt.step()
        return gauge.peak

    def plan(self, submission: Any, *, loss_fn: Any = F.mse_loss, budget: int | None = None) -> Any:
        """The submission's plan."""
        return submission.plan_batch(
            self.model,
            self.make,
            loss_fn,
            self.opt_cls,
            self.budget if budget is None else budget,
            self.target,
        )


def momentum(parameters: Any) -> torch.optim.Optimizer:
    """SGD with momentum."""
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)


CASES: dict[str, Callable[[], Case]] = {
    "wide": lambda: Case(mlp(5, 31, 31, 1), (5,), torch.optim.SGD, 23, 53),
    "momentum": lambda: Case(mlp(7, 61, 61, 1, norm=True), (7,), momentum, 59, 101),
    "adam": lambda: Case(mlp(5, 61, 61, 1), (5,), torch.optim.AdamW, 211, 307),
    "tokens": lambda: Case(mlp(5, 29, 29, 29, 1), (37, 5), torch.optim.Adam, 11, 29),
}


def deep() -> Case:
    """32 blocks on 97 tokens: activations dominate for a single sample."""
    return Case(mlp(*[13] * 33, 1), (97, 13), torch.optim.SGD, 2, 7, segments=8)


def plain_step_is_too_large(case: Case) -> None:
    """Of the suite's own case: a batch of 1 doesn't fit without checkpoints."""
    assert case.peak(1) > case.budget, "the suite's own case fits without checkpoints"


@pytest.fixture
def planner(submission, monkeypatch):
    """The submission, with a working meter and working checkpoints."""
    monkeypatch.setattr(submission, "PeakMeter", Gauge, raising=False)
    monkeypatch.setattr(submission, "Checkpointed", Runs, raising=False)
    return submission


@pytest.mark.task("plan_batch")
class TestPlanBatch:
    @pytest.mark.points(8, "memory")
    @pytest.mark.parametrize("name", ["wide", "momentum", "adam", "tokens"])
    def test_predicted(self, planner, name):
        """The predicted peak is the measured one, within a tenth."""
        case = CASES[name]()
        plan = case.plan(planner)
        size = plan.micro_batch
        expect(
            type(size) is int and 1 <= size <= case.target,
            f"micro_batch is {size!r}; expected 1 to {case.target}",
        )
        real = case.peak(size)
        measured(f"{plan.predicted_peak / real:.3f} of the measured peak")
        state = 0 if name == "wide" else parameter_bytes(case.model)
        expect(
            abs(plan.predicted_peak - real) <= 0.1 * real,
            f"net `{name}`: the predicted peak of a micro-batch of {size} is "
            f"{plan.predicted_peak} bytes; {real} were measured. Parameters have "
            f"{parameter_bytes(case.model)} bytes, gradients as many, and the optimizer's state "
            f"{'nothing' if not state else 'at least as many'}",
            expected=real,
            got=plan.predicted_peak,
        )

    @pytest.mark.points(7, "memory")
    @pytest.mark.parametrize("name", ["wide", "momentum", "adam", "tokens"])
    def test_largest(self, planner, name):
        """The micro-batch fits, and one sample more doesn't."""
        case = CASES[name]()
        plan = case.plan(planner)
        size = plan.micro_batch
        expect(plan.checkpoint is False, "a batch of 1 fits plainly; checkpoints are not needed")
        expect(
            type(size) is int and 1 <= size <= case.target,
            f"micro_batch is {size!r}; expected 1 to {case.target}",
        )
        here, more = case.peak(size), case.peak(size + 1)
        curve = sorted({1, 2, 4, size, size + 1, case.target, case.target // 2, case.target // 4})
        peaks = [case.peak(n) / 1e3 for n in curve]
        picture(
            "curve",
            f"Peak of a step, net {name}",
            f"A micro-batch of {size} takes {here} bytes, {size + 1} take {more}; the budget is "
            f"{case.budget}.",
            series=[{"label": "measured", "x": list(map(float, curve)), "y": peaks}],
            x_label="samples",
            y_label="kB",
            log_y=False,
            limit=case.budget / 1e3,
        )
        one, four = case.peak(1), case.peak(4)
        by_line = one + (four - one) * (size - 1) / 3 <= case.budget
        expect(
            here <= case.budget,
            f"net `{name}`: a step with micro_batch {size} takes {here} bytes; the budget is "
            f"{case.budget}"
            + (
                ". On a line through the peaks of 1 and 4 samples it would fit; but the peak is "
                "the higher of two phases, and only one of them grows with the batch"
                if by_line
                else ""
            ),
            expected=case.budget,
            got=here,
        )
        expect(
            more > case.budget,
            f"net `{name}`: micro_batch is {size}, but {size + 1} samples take {more} bytes and "
            f"fit into {case.budget} as well",
            expected=case.budget,
            got=more,
        )

    @pytest.mark.points(3, "value")
    def test_target(self, planner):
        """The target bounds the micro-batch, and accum covers it."""
        case = CASES["wide"]()
        plan = case.plan(planner)
        expect(
            plan.accum == -(-case.target // plan.micro_batch),
            f"accum is {plan.accum}: {plan.micro_batch} samples at a time for a target of "
            f"{case.target} take {-(-case.target // plan.micro_batch)} micro-batches",
        )
        plan = case.plan(planner, budget=case.budget * 10)
        expect(
            (plan.micro_batch, plan.accum) == (case.target, 1),
            f"with a budget for ten times as much micro_batch is {plan.micro_batch} and accum "
            f"{plan.accum}; expected the target, {case.target}, and 1",
        )
        case.target = 1
        plan = case.plan(planner)
        expect(
            (plan.micro_batch, plan.accum) == (1, 1),
            f"for a target of 1 the plan is {plan.micro_batch} x {plan.accum}",
        )

    @pytest.mark.points(4, "memory")
    def test_checkpoint(self, planner):
        """Where one sample doesn't fit, checkpoints make it fit."""
        case = deep()
        plain_step_is_too_large(case)
        plan = case.plan(planner)
        expect(
            plan.checkpoint is True,
            "a batch of 1 doesn't fit without checkpoints; the plan has none",
        )
        size = plan.micro_batch
        here, more = (case.peak(n, 8) for n in (size, size + 1))
        expect(
            here <= case.budget < more,
            f"with 8 runs of 65 modules a micro-batch of {size} takes {here} bytes and "
            f"{size + 1} take {more}; the budget {case.budget} should lie between",
        )
        expect(
            plan.accum == -(-case.target // size) and abs(plan.predicted_peak - here) <= 0.1 * here,
            f"accum is {plan.accum} and predicted_peak {plan.predicted_peak}; micro_batch is "
            f"{size}, its measured peak {here}",
        )

    @pytest.mark.points(3, "value")
    def test_memory_error(self, planner):
        """Where nothing fits a MemoryError is raised."""
        for case, why in (
            (deep(), "not even checkpoints"),
            (CASES["adam"](), "the optimizer's step alone takes more"),
        ):
            budget = case.peak(1) // 4 if why.startswith("not") else case.peak(1) - 1000
            try:
                plan = case.plan(planner, budget=budget)
            except MemoryError:
                continue
            fail(
                f"a budget of {budget} bytes is too small for one sample ({why}); expected "
                f"MemoryError, got {plan}"
            )

    @pytest.mark.points(4, "value")
    def test_untouched(self, planner):
        """Weights, buffers, gradients and the random state stay."""
        case = CASES["wide"]()
        model = case.model
        model.insert(2, nn.BatchNorm1d(31))
        model[2].eval()
        model.append(nn.Dropout(0.1))
        model(randn(7, 5)).square().sum().backward()
        before = copy.deepcopy(model.state_dict())
        gradients = [p.grad for p in model.parameters()]
        copies = [g.clone() for g in gradients if g is not None]
        modes = [module.training for module in model.modules()]
        state = torch.get_rng_state()
        plan = case.plan(planner)
        expect(plan.micro_batch >= 1, f"micro_batch is {plan.micro_batch}")
        expect(
            torch.equal(torch.get_rng_state(), state),
            "torch's random state has moved: make_batch and dropout draw from it",
        )
        for name, value in model.state_dict().items():
            expect(
                torch.equal(value, before[name]),
                f"{name} of the model has changed; probe a deep copy",
            )
        for p, gradient, value in zip(model.parameters(), gradients, copies, strict=True):
            expect(
                p.grad is gradient and torch.equal(p.grad, value),
                "the model's gradients have changed; probe a deep copy",
            )
        expect(
            [module.training for module in model.modules()] == modes,
            "the train or eval mode of a module has changed",
        )

    @pytest.mark.points(2, "value")
    def test_leak(self, planner):
        """A loss function that keeps graphs alive is reported."""
        case, kept = CASES["wide"](), []

        def keeps(output: Tensor, y: Tensor) -> Tensor:
            loss = F.mse_loss(output, y)
            kept.append(loss)
            return loss

        total = torch.zeros(())

        def sums(output: Tensor, y: Tensor) -> Tensor:
            nonlocal total
            loss = F.mse_loss(output, y)
            total = total + loss
            return loss

        for loss_fn, how in ((keeps, "appends its loss to a list"), (sums, "total += loss")):
            plan = case.plan(planner, loss_fn=loss_fn)
            case.calls.clear()
            expect(plan.leak is True, f"a loss function ({how}) keeps graphs alive; leak is False")

    @pytest.mark.points(2, "value")
    def test_no_leak(self, planner):
        """A loss function that keeps numbers is clean."""
        case, kept = CASES["wide"](), []

        def clean(output: Tensor, y: Tensor) -> Tensor:
            loss = F.mse_loss(output, y)
            kept.extend((loss.item(), loss.detach(), output.detach()))
            return loss

        for loss_fn, how in (
            (F.mse_loss, "keeps nothing"),
            (clean, "keeps a number and two detached tensors"),
        ):
            plan = case.plan(planner, loss_fn=loss_fn)
            case.calls.clear()
            expect(plan.leak is False, f"a loss function that {how} is no leak; leak is True")

    @pytest.mark.points(2, "structure")
    @pytest.mark.parametrize("name", ["adam", "deep"])
    def test_probes(self, planner, name):
        """make_batch is called at most 25 times."""
        case = CASES[name]() if name in CASES else deep()
        case.most = 25
        case.plan(planner)
        measured(f"{len(case.calls)} probes")
        expect(case.calls, "make_batch was never called; what was measured?")

    @pytest.mark.gpu
    @pytest.mark.points(0, "memory")
    def test_on_cuda(self, planner):
        """On CUDA the peak is what the allocator says."""
        case = CASES["tokens"]()
        host = case.batch
        case.model.cuda()
        case.batch = lambda n: tuple(t.cuda() for t in host(n))
        case.peak(3)  # libraries take their workspaces once
        plan = case.plan(planner)
        trial, (x, y) = copy.deepcopy(case.model), case.batch(plan.micro_batch)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        F.mse_loss(trial(x), y).backward()
        case.opt_cls(trial.parameters()).step()
        torch.cuda.synchronize()
        real = torch.cuda.max_memory_allocated() - before
        expect(
            abs(plan.predicted_peak - real) <= 0.15 * real,
            f"predicted_peak is {plan.predicted_peak}; the allocator says {real}",
            expected=real,
            got=plan.predicted_peak,
        )
