"""Day 13 asks for weights in files, partial loads, checkpoints and a run that can be resumed."""

import contextlib
import io
import math
import os
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from grader.testing import (
    assert_close,
    assert_dtype,
    assert_equal,
    assert_raises,
    assert_tensor,
    assert_unchanged,
    expect,
    fail,
    measured,
    picture,
    rand_ints,
    randn,
    spy,
)

State = dict[str, Tensor]


def copied(model: nn.Module) -> State:
    """The model's state dict, in memory of its own."""
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def unsettle(model: nn.Module) -> nn.Module:
    """Other values in every parameter and buffer, in place."""
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, dtype=torch.float64) + 0.25)
            else:
                value.add_(13)
    return model


def assert_state(model: nn.Module, expected: State, what: str) -> None:
    """Every value of the model, exactly."""
    for key, value in model.state_dict().items():
        assert_close(value, expected[key], rtol=0, atol=0, what=f"{key} {what}")


@contextlib.contextmanager
def nothing_allowed() -> Iterator[None]:
    """Without the classes that somebody declared safe to unpickle."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def read(path: Path) -> Any:
    """What is in the file, read without running code from it."""
    if not Path(path).is_file():
        fail(f"there is no file {Path(path).name}: nothing was written to the path that was given")
    with nothing_allowed():
        try:
            return torch.load(path, weights_only=True, map_location="cpu")
        except Exception as error:
            said = str(error)
            refused = "GLOBAL " in said and said.partition("GLOBAL ")[2].split()[0]
            fail(
                f"the file can't be loaded under weights_only=True: it holds {refused}, whose code "
                "would have to run"
                if refused
                else f"the file can't be loaded under weights_only=True: {type(error).__name__}"
            )


# --- 1 ------------------------------------------------------------------------------------------


class Tied(nn.Module):
    """Scores (batch, 7) of a token (batch,); the embedding is the head's weight, too."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(7, 5)
        self.norm = nn.BatchNorm1d(5)
        self.head = nn.Linear(5, 7, bias=False)
        self.head.weight = self.emb.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.emb(tokens)))


def saved_and_loaded(submission: ModuleType, folder: Path) -> tuple[nn.Module, nn.Module]:
    """Two models, the second with the weights of the first."""
    first, second = unsettle(Tied()), unsettle(Tied())
    submission.save_weights(first, folder / "weights.pt")
    submission.load_weights(second, folder / "weights.pt", "cpu")
    return first, second


@pytest.mark.task("save_load_roundtrip")
class TestSaveLoadRoundtrip:
    @pytest.mark.points(2, "value")
    def test_outputs(self, submission, tmp_path):
        """The second model computes what the first one does."""
        for name in ("weights.pt", "again.pt"):
            first, second = unsettle(Tied()).eval(), unsettle(Tied()).eval()
            tokens = rand_ints(3, high=7)
            before = second(tokens).detach()
            path: Any = tmp_path / name if name == "again.pt" else str(tmp_path / name)
            submission.save_weights(first, path)
            submission.load_weights(second, path, torch.device("cpu"))
            assert_close(
                second(tokens).detach(),
                first(tokens).detach(),
                what="the output after loading",
                explain={
                    "the model computes what it did before load_weights: its weights are the old "
                    "ones. A name bound to something new changes nothing for the caller": before
                },
            )

    @pytest.mark.points(2, "structure")
    def test_file(self, submission, tmp_path):
        """The file is a state dict that loads under weights_only=True."""
        model = unsettle(Tied())
        submission.save_weights(model=model, path=tmp_path / "weights.pt")
        found = read(tmp_path / "weights.pt")
        expect(isinstance(found, dict), f"the file holds {type(found).__name__}; expected a dict")
        expected = copied(model)
        lost = sorted(set(expected) - set(found))
        more = sorted(str(key) for key in set(found) - set(expected))
        expect(
            not lost and not more,
            f"the dict in the file lacks {lost} and has {more} besides; expected the keys of the "
            "model's state_dict, buffers included",
            expected=sorted(expected),
            got=sorted(str(key) for key in found),
        )
        for key, value in expected.items():
            assert_close(assert_tensor(found[key].detach(), key), value, what=f"{key} in the file")

    @pytest.mark.points(1, "value")
    def test_buffers(self, submission, tmp_path):
        """Buffers come along, also the counter of batches."""
        first, second = unsettle(Tied()), unsettle(Tied())
        first.norm.num_batches_tracked.fill_(17)
        submission.save_weights(first, tmp_path / "weights.pt")
        submission.load_weights(second, tmp_path / "weights.pt", "cpu")
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            expect(
                torch.equal(getattr(second.norm, name), getattr(first.norm, name)),
                f"norm.{name} is not that of the saved model: BatchNorm's statistics are buffers, "
                "and a state dict has them",
            )

    @pytest.mark.points(1, "structure")
    def test_ties(self, submission, tmp_path):
        """Tied weights are one Parameter afterwards, too."""
        first, second = saved_and_loaded(submission, tmp_path)
        expect(
            second.head.weight is second.emb.weight,
            "emb.weight and head.weight were one Parameter and are two after load_weights: values "
            "are to be copied into the Parameters that are there",
        )
        assert_close(second.emb.weight.detach(), first.emb.weight.detach(), what="emb.weight")

    @pytest.mark.points(1, "structure")
    def test_optimizer(self, submission, tmp_path):
        """An optimizer built before loading still updates the model."""
        first, second = unsettle(Tied()), unsettle(Tied())
        opt = torch.optim.SGD(second.parameters(), lr=0.1)
        submission.save_weights(first, tmp_path / "weights.pt")
        submission.load_weights(second, tmp_path / "weights.pt", "cpu")
        before = copied(second)
        second(torch.arange(7)).square().sum().backward()
        opt.step()
        expect(
            not torch.equal(second.norm.weight, before["norm.weight"]),
            "a step of the optimizer that was built before load_weights moves nothing: it holds "
            "the old Parameters, and the model has others now",
        )

    @pytest.mark.points(1, "structure")
    def test_memory(self, submission, tmp_path):
        """The values are copied into the memory that was there."""
        first, second = unsettle(Tied()), unsettle(Tied())
        views = {key: value.detach() for key, value in second.state_dict().items()}
        submission.save_weights(first, tmp_path / "weights.pt")
        submission.load_weights(second, tmp_path / "weights.pt", "cpu")
        for key, value in first.state_dict().items():
            expect(
                torch.equal(views[key], value),
                f"a view of {key} made before load_weights shows old values: the tensor's memory "
                "was exchanged, its values are to be copied in place",
            )

    @pytest.mark.points(1, "value")
    def test_device(self, submission, tmp_path, monkeypatch):
        """A file written on a GPU that isn't here loads on the CPU."""
        first, second = unsettle(Tied()), unsettle(Tied())
        with monkeypatch.context() as patch:
            patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:97")
            submission.save_weights(first, tmp_path / "weights.pt")
        try:
            submission.load_weights(second, tmp_path / "weights.pt", device="cpu")
        except RuntimeError as error:
            if "deserialize" not in str(error):
                raise
            fail(
                "a file whose tensors were on cuda:97 could not be read with device='cpu': "
                "torch.load puts tensors where they were unless map_location says otherwise"
            )
        assert_close(second.emb.weight.detach(), first.emb.weight.detach(), what="emb.weight")

    @pytest.mark.points(1, "structure")
    def test_returns_nothing(self, submission, tmp_path):
        """Loading returns None and leaves the model on its device."""
        first, second = unsettle(Tied()), unsettle(Tied())
        submission.save_weights(first, tmp_path / "weights.pt")
        with spy(second, "_apply") as log:
            result = submission.load_weights(second, tmp_path / "weights.pt", "cpu")
        expect(
            result is None,
            f"load_weights returned a value of type {type(result).__name__}; expected None, the "
            "caller's model has the values",
        )
        expect(
            not len(log),
            "load_weights moved or converted the model (`.to`, `.cpu`, `.cuda` or a relative): "
            "where the model lives is its owner's affair",
        )


# --- 2 ------------------------------------------------------------------------------------------


def small() -> nn.Sequential:
    """A model with parameters and buffers."""
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def answers(keeper: Any, metrics: list[float]) -> list[Any]:
    """What `update` says to these metrics, of a model that changes in between."""
    model = small()
    return [keeper.update(unsettle(model), metric) for metric in metrics]


def assert_answers(got: list[Any], expected: list[bool], metrics: list[float], why: str) -> None:
    """The answers of `update`, as bools."""
    for i, (found, wanted) in enumerate(zip(got, expected, strict=True)):
        if bool(found) != wanted or found is None:
            so_far = ", ".join(str(metric) for metric in metrics[:i])
            fail(
                f"update returned {found} for the metric {metrics[i]} "
                + (f"after {so_far}" if i else "as the first")
                + f"; expected {wanted}: {why}",
                expected=expected,
                got=[value if isinstance(value, bool) else str(value) for value in got],
            )


@pytest.mark.task("BestKeeper")
class TestBestKeeper:
    @pytest.mark.points(1, "value")
    def test_better(self, submission):
        """A smaller metric wins."""
        metrics = [3.0, 5.0, 4.0, 2.0, -1.0]
        got = answers(submission.BestKeeper(), metrics)
        assert_answers(
            got,
            [True, False, False, True, True],
            metrics,
            "the mode is 'min', and the best so far counts, not the one before",
        )

    @pytest.mark.points(2, "value")
    def test_copy(self, submission):
        """Training on doesn't change what is kept."""
        for _ in range(2):
            model = unsettle(small())
            best = copied(model)
            keeper = submission.BestKeeper()
            keeper.update(model, 1.0)
            unsettle(model)
            later = copied(model)
            keeper.update(model, 2.0)
            keeper.restore(model)
            for key, value in model.state_dict().items():
                expect(
                    not torch.equal(value, later[key]) or torch.equal(later[key], best[key]),
                    f"{key} after restore is what training made of it, not what it was at the "
                    "best update: state_dict() shows the model's own memory, so what was kept "
                    "changed with the model",
                )
            assert_state(model, best, "after restore")

    @pytest.mark.points(1, "value")
    def test_max(self, submission):
        """In mode max a larger metric wins."""
        metrics = [-3.0, -5.0, -4.0, -2.0, 1.0]
        got = answers(submission.BestKeeper(mode="max"), metrics)
        assert_answers(got, [True, False, False, True, True], metrics, "the mode is 'max'")

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_copy")
    @pytest.mark.parametrize("mode", ["min", "max"])
    def test_first(self, submission, mode):
        """The first number wins, also the worst one there is."""
        worst = math.inf if mode == "min" else -math.inf
        model = unsettle(small())
        first = copied(model)
        keeper = submission.BestKeeper(mode)
        got = keeper.update(model, worst)
        assert_answers([got], [True], [worst], "the first number always wins")
        keeper.restore(unsettle(model))
        assert_state(model, first, "after restore")

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_copy")
    def test_equal(self, submission):
        """An equal metric keeps what came first."""
        model = unsettle(small())
        first = copied(model)
        keeper = submission.BestKeeper()
        got = [keeper.update(model, 2.0), keeper.update(unsettle(model), 2.0)]
        assert_answers(got, [True, False], [2.0, 2.0], "equal is not better")
        keeper.restore(unsettle(model))
        assert_state(model, first, "after restore")

    @pytest.mark.points(2, "value")
    @pytest.mark.parametrize("mode", ["min", "max"])
    def test_nan(self, submission, mode):
        """A metric that is nan never wins, not even as the first."""
        metrics = [math.nan, 2.0, math.nan, 3.0 if mode == "max" else 1.0]
        got = answers(submission.BestKeeper(mode), metrics)
        assert_answers(
            got,
            [False, True, False, True],
            metrics,
            "nan never wins, and nothing is ever better than a nan that did; every comparison "
            "with nan is False",
        )

    @pytest.mark.points(1, "value")
    def test_buffers(self, submission):
        """Buffers are restored, too."""
        model = unsettle(small())
        best = copied(model)
        keeper = submission.BestKeeper()
        keeper.update(model, 1.0)
        with torch.no_grad():
            for buffer in model.buffers():
                buffer.add_(3)
        keeper.restore(model)
        for key, _ in model.named_buffers():
            expect(
                torch.equal(model.state_dict()[key], best[key]),
                f"the buffer {key} was not restored: the best weights belong to the statistics "
                "that they were measured with",
            )

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_copy")
    def test_again(self, submission):
        """Restoring is in place and can be done again."""
        model = unsettle(small())
        best = copied(model)
        objects = list(model.parameters())
        views = [p.detach() for p in objects]
        keeper = submission.BestKeeper()
        keeper.update(model, 1.0)
        for _ in range(2):
            keeper.restore(unsettle(model))
            expect(
                all(a is b for a, b in zip(model.parameters(), objects, strict=True)),
                "the model has other Parameters after restore; an optimizer would go on with the "
                "old ones: copy the values into those that are there",
            )
            expect(
                all(torch.equal(a, b) for a, b in zip(model.parameters(), views, strict=True)),
                "restore exchanged the memory of a Parameter; copy the values in place",
            )
            assert_state(model, best, "after restoring twice, with training in between")


# --- 3 ------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    """A namedtuple of the suite."""

    first: Any
    second: Any


class Thing:
    """No tensor and no container."""


def file_size(state: Any) -> int:
    """Bytes that torch.save writes."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getbuffer().nbytes


def place(tensor: Tensor) -> tuple[int, int]:
    """Where the tensor's first element is."""
    return tensor.untyped_storage().data_ptr(), tensor.storage_offset()


@pytest.mark.task("slim")
class TestSlim:
    @pytest.mark.points(4, "memory")
    def test_size(self, submission):
        """The saved file is about as large as the tensors show."""
        base = randn(600, 300)
        state = {
            "rows": base[100:200],
            "columns": {"left": base[:, :50], "right": [base.T[250:]]},
            "whole": randn(170, 190),
            "turned": randn(150, 210).T,
        }
        sizes = [120_000, 120_000, 120_000, 4 * 170 * 190, 4 * 150 * 210]
        before = file_size(state)
        after = file_size(submission.slim(state))
        wanted = sum(sizes)
        picture(
            "bars",
            "Bytes of the saved file",
            f"As it came {before:,} bytes, after slim {after:,}; the tensors show {wanted:,}.",
            labels=["as it came", "after slim", "what the tensors show"],
            series=[{"label": "file", "values": [before, after, wanted]}],
            unit="B",
            log=False,
            limit=1.1 * wanted,
        )
        measured(f"{after / wanted:.2f}x")
        contiguous = sum([4 * base.numel(), *sizes[1:]])
        expect(
            after <= 1.1 * wanted,
            f"the file has {after:,} bytes, its tensors show {wanted:,}: "
            + (
                "the storage of the row slice is still whole; a slice of rows is contiguous "
                "already, so .contiguous() doesn't copy it"
                if 0.95 * contiguous < after < 1.05 * contiguous
                else "a storage that is larger than its tensor's data is written whole"
            ),
            expected=wanted,
            got=after,
        )
        expect(
            after >= wanted,
            f"the file has {after:,} bytes, its tensors show {wanted:,}: some were lost",
        )

    @pytest.mark.points(3, "structure")
    @pytest.mark.parametrize("of_a_slice", [False, True], ids=["whole", "slice"])
    def test_ties(self, submission, of_a_slice):
        """Tied entries share memory afterwards, and are written once."""
        weight = randn(331, 100)[31:] if of_a_slice else randn(300, 100)
        parameter = nn.Parameter(randn(2, 3))
        result = submission.slim(
            {"emb": weight, "deep": [{"head": weight.detach()}], "a": parameter, "b": parameter}
        )
        emb, head = result["emb"], result["deep"][0]["head"]
        size = file_size(result)
        expect(
            place(emb) == place(head) and place(result["a"]) == place(result["b"]),
            "two entries that showed the same memory don't any more: what was tied is two "
            f"copies now, and the file has {size:,} bytes instead of 120,000",
        )
        expect(size <= 132_000, f"the file has {size:,} bytes; expected about 120,000")

    @pytest.mark.points(3, "structure")
    @pytest.mark.parametrize("kind", ["dict", "OrderedDict", "list", "tuple", "namedtuple"])
    def test_types(self, submission, kind):
        """Each container keeps its type, its keys and its order."""
        x, y = randn(3), randn(2)
        made: dict[str, Any] = {
            "dict": {"x": x, 5: y},
            "OrderedDict": OrderedDict([("z", x), ("a", y)]),
            "list": [x, y],
            "tuple": (x, y),
            "namedtuple": Pair(x, y),
        }
        state = made[kind]
        result = submission.slim([state])
        expect(
            type(result) is list and len(result) == 1,
            f"a list of one container came back as {type(result).__name__}",
        )
        found = result[0]
        expect(
            type(found) is type(state),
            f"a container of type {kind} came back as {type(found).__name__}",
            expected=kind,
            got=type(found).__name__,
        )
        if isinstance(state, dict):
            assert_equal(list(found), list(state), what=f"the keys of the {kind}")
        values = list(found.values() if isinstance(state, dict) else found)
        expect(len(values) == 2, f"a {kind} of 2 items came back with {len(values)}")
        for got, expected in zip(values, (x, y), strict=True):
            assert_close(assert_tensor(got), expected, what=f"a tensor in the {kind}")

    @pytest.mark.points(1, "value")
    def test_other_leaves(self, submission):
        """What is no tensor stays the object that it is."""
        thing, array, names = Thing(), np.arange(3), {"a", "b"}
        leaves = {
            "step": 7,
            "name": "adam",
            "nothing": None,
            "thing": thing,
            "array": array,
            "set": names,
            "lr": [0.1, (True,)],
            "empty": [],
        }
        result = submission.slim(leaves)
        lost = [key for key in leaves if key not in result]
        expect(not lost, f"{lost} are gone; what is no tensor belongs to the state, too")
        for key in ("step", "name", "nothing", "thing", "array", "set"):
            expect(
                result[key] is leaves[key] or result[key] == leaves[key],
                f"the entry {key!r} is another object than before; leaves that are no tensors "
                "stay as they are",
            )
        assert_equal(result["lr"], [0.1, (True,)], what="a list with a tuple of no tensors")
        assert_equal(result["empty"], [], what="an empty list")

    @pytest.mark.points(1, "value")
    def test_values(self, submission):
        """Values, shapes and dtypes stay, of slices in any direction."""
        base = randn(7, 5, 3)
        state = {
            "transposed": base.transpose(0, 2),
            "stepped": base[::2, 1::2],
            "column": base[:, 3, 1],
            "scalar": base[2, 1, 0],
            "nothing": base[:0],
            "expanded": base[:1].expand(11, 5, 3),
            "long": rand_ints(13, high=9)[4:],
            "half": base.half()[1],
            "bool": (base > 0)[2],
        }
        wanted = {key: value.clone() for key, value in state.items()}
        result = submission.slim(state)
        for key, value in wanted.items():
            assert_dtype(result[key], value.dtype, what=key)
            assert_close(result[key], value, rtol=0, atol=0, what=key)

    @pytest.mark.points(1, "structure")
    def test_detached(self, submission):
        """No tensor requires grad or carries a graph."""
        leaf = randn(3, 2, requires_grad=True)
        state = {"parameter": nn.Parameter(randn(2)), "rows": leaf[1:], "made": leaf * 2}
        result = submission.slim(state)
        for key in state:
            expect(
                not result[key].requires_grad,
                f"the tensor {key!r} still requires grad; detach every tensor",
            )

    @pytest.mark.points(1, "structure")
    def test_unchanged(self, submission):
        """The input is left as it was."""
        weight = randn(5, 3)[1:].requires_grad_()
        inner = [weight, 5]
        state = OrderedDict(inner=inner, weight=weight)
        assert_unchanged(submission.slim, state)
        expect(
            state["inner"] is inner and inner[0] is weight and state["weight"] is weight,
            "slim put other tensors into the containers that it was given; build new ones",
        )
        expect(weight.requires_grad, "slim switched off requires_grad of a tensor it was given")

    @pytest.mark.points(1, "value")
    def test_neighbours(self, submission):
        """Different views of one storage keep their own values."""
        base = randn(11, 11)
        state = {
            "first": base[:2, :3],
            "second": base[2:4, :3],
            "wider": base[:2, :5],
            "turned": base[:3, :2].T,
        }
        wanted = {key: value.clone() for key, value in state.items()}
        result = submission.slim(state)
        for key, value in wanted.items():
            assert_close(
                result[key],
                value,
                what=key,
                explain={
                    f"{key!r} has the values of {other!r}: one storage doesn't make two views the "
                    "same": there
                    for other, there in wanted.items()
                    if other != key and there.shape == value.shape
                },
            )


# --- 4 ------------------------------------------------------------------------------------------


class Net(nn.Module):
    """An embedding, a head and statistics."""

    def __init__(self, rows: int = 5) -> None:
        super().__init__()
        self.emb = nn.Embedding(rows, 3)
        self.head = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)
        unsettle(self)


def assert_report(report: Any, **expected: list[str]) -> None:
    """The four lists, in any order."""
    for name in ("loaded", "missing", "unexpected", "mismatched"):
        expect(
            hasattr(report, name),
            f"the report is a value of type {type(report).__name__} without .{name}; return a "
            "Report",
        )
        wanted, got = sorted(expected.get(name, [])), sorted(getattr(report, name))
        if got != wanted:
            lost = [key for key in wanted if key not in got]
            more = [key for key in got if key not in wanted]
            parts = [f"lacks {lost}"] * bool(lost) + [f"has {more} besides"] * bool(more)
            fail(
                f"report.{name} {' and '.join(parts) or 'names a key more than once'}",
                expected=wanted,
                got=got,
            )


def like(model: nn.Module) -> State:
    """A state dict of the same keys and shapes, with other values."""
    values = {}
    for key, value in model.state_dict().items():
        counter = not value.is_floating_point()
        values[key] = torch.tensor(5) if counter else torch.randn(value.shape)
    return values


@pytest.mark.task("load_partial")
class TestLoadPartial:
    @pytest.mark.points(2, "value")
    @pytest.mark.parametrize("strict", [False, True])
    def test_everything(self, submission, strict):
        """A state that fits is loaded whole, and the report says so."""
        model = Net()
        state = like(model)
        report = assert_unchanged(
            lambda state: submission.load_partial(model, state, [], strict), state
        )
        assert_state(model, state, "after loading")
        assert_report(report, loaded=list(state))

    @pytest.mark.points(4, "value")
    def test_report(self, submission):
        """The report names what was loaded and what was not."""
        model = Net()
        before = copied(model)
        state = like(model)
        del state["head.bias"], state["norm.running_mean"]
        state["head.weight"] = torch.randn(2, 7)
        state["module.extra.scale"] = torch.randn(3)
        report = submission.load_partial(
            model=model, state=state, rename=[("^extra", "more")], strict=False
        )
        came = ["emb.weight", "norm.weight", "norm.bias", "norm.running_var"]
        assert_report(
            report,
            loaded=[*came, "norm.num_batches_tracked"],
            missing=["head.bias", "norm.running_mean"],
            unexpected=["more.scale"],
            mismatched=["head.weight"],
        )
        assert_state(model, before | {key: state[key] for key in report.loaded}, "after loading")

    @pytest.mark.points(2, "value")
    @pytest.mark.parametrize("where", ["module", "head.module"])
    def test_prefix(self, submission, where):
        """One leading `module.` is stripped, nothing in the middle."""
        inner = nn.ModuleDict({"module": nn.Linear(3, 2, bias=False)})
        model = inner if where == "module" else nn.ModuleDict({"head": inner})
        key, weight = f"{where}.weight", torch.randn(2, 3)
        report = submission.load_partial(model, {f"module.{key}": weight}, [])
        expect(
            list(report.loaded) == [key],
            f"the key module.{key} came as {[*report.loaded, *report.unexpected]}; expected "
            f"{key}: only one `module.`, at the head of the name, is stripped",
            expected=[key],
            got=[*report.loaded, *report.unexpected],
        )
        assert_close(model.state_dict()[key], weight, what=key)

    @pytest.mark.points(2, "value")
    def test_rename(self, submission):
        """The pairs are applied in order, as regular expressions."""
        model = Net()
        state = {
            "module.encoder0.w": torch.randn(5, 3),
            "encoder1.w": torch.randn(2, 3),
            "encoder1.b": torch.randn(2),
        }
        rename = [
            (r"^encoder(\d+)\.", r"layer\1."),
            (r"layer0", "emb"),
            (r"layer.", "head"),
            (r"\.w$", ".weight"),
            (r"\.b$", ".bias"),
        ]
        report = submission.load_partial(model, state, rename)
        found = sorted([*report.loaded, *report.unexpected])
        assert_equal(
            found, ["emb.weight", "head.bias", "head.weight"], what="the keys after renaming"
        )
        assert_close(model.emb.weight.detach(), state["module.encoder0.w"], what="emb.weight")
        assert_close(model.head.bias.detach(), state["encoder1.b"], what="head.bias")

    @pytest.mark.points(3, "value")
    @pytest.mark.parametrize("rows", [3, 7], ids=["fewer", "more"])
    def test_rows(self, submission, rows):
        """Of another number of rows, those that both have are copied."""
        model = Net(rows=5)
        before = copied(model)
        state = like(model) | {"emb.weight": torch.randn(rows, 3), "head.bias": torch.randn(rows)}
        report = submission.load_partial(model, state, [])
        assert_report(report, loaded=list(state))
        for key, size in (("emb.weight", 5), ("head.bias", 2)):
            both = min(rows, size)
            found = model.state_dict()[key]
            expect(
                len(found) == size,
                f"{key} has {len(found)} rows after loading; the model had {size} and keeps them",
            )
            assert_close(found[:both], state[key][:both], what=f"the first {both} rows of {key}")
            expect(
                torch.equal(found[both:], before[key][both:]),
                f"the rows of {key} that only the model has changed; they keep their values",
            )

    @pytest.mark.points(1, "value")
    def test_other_shapes(self, submission):
        """Shapes that differ in more than dim 0 are not copied."""
        model = Net()
        before = copied(model)
        wrong = {
            "emb.weight": torch.randn(5, 1),
            "head.weight": torch.randn(1, 2, 3),
            "head.bias": torch.randn(()),
            "norm.weight": torch.randn(2, 1),
            "norm.num_batches_tracked": torch.tensor([3]),
        }
        report = submission.load_partial(model, wrong, [])
        assert_state(model, before, "has another shape in the state, so it must not change, and")
        expect(
            sorted(report.mismatched) == sorted(wrong),
            f"report.mismatched is {sorted(report.mismatched)}; expected {sorted(wrong)}: only "
            "the size of dim 0 may differ, the number of dims may not",
        )

    @pytest.mark.points(1, "value")
    def test_dtype(self, submission):
        """Values are cast to the dtype of the model."""
        model = Net().double()
        model.head.half()
        state = like(Net())
        state["emb.weight"] = state["emb.weight"].bfloat16()
        submission.load_partial(model, state, [])
        for key, dtype in (("emb.weight", torch.float64), ("head.weight", torch.float16)):
            found = model.state_dict()[key]
            assert_dtype(found, dtype, what=key)
            assert_close(found, state[key].to(dtype), what=key)

    @pytest.mark.points(2, "value")
    @pytest.mark.parametrize("kind", ["missing", "unexpected", "mismatched"])
    def test_strict(self, submission, kind):
        """Strict raises a RuntimeError that names what doesn't fit."""
        model = Net()
        state = like(model)
        if kind == "missing":
            del state["head.bias"]
        elif kind == "unexpected":
            state["tail.scale"] = torch.randn(2)
        else:
            state["head.weight"] = torch.randn(2, 5)
        name = {"missing": "head.bias", "unexpected": "tail.scale", "mismatched": "head.weight"}
        assert_raises(
            RuntimeError, submission.load_partial, model, state, [], strict=True, text=name[kind]
        )

    @pytest.mark.points(2, "value")
    def test_all_or_nothing(self, submission):
        """When strict raises, nothing has been copied."""
        model = Net()
        before = copied(model)
        state = like(model) | {"head.bias": torch.randn(2, 2), "tail": torch.randn(2)}
        assert_raises(RuntimeError, submission.load_partial, model, state, [], strict=True)
        for key, value in model.state_dict().items():
            expect(
                torch.equal(value, before[key]),
                f"{key} was copied before the RuntimeError was raised: the model is half old, "
                "half new. Find out whether everything fits first",
            )

    @pytest.mark.points(1, "structure")
    def test_parameters(self, submission):
        """Parameters stay the same objects, frozen ones stay frozen."""
        model = Net()
        model.head.requires_grad_(False)
        objects = dict(model.named_parameters())
        flags = {key: p.requires_grad for key, p in objects.items()}
        views = {key: value.detach() for key, value in model.state_dict().items()}
        state = like(model) | {"emb.weight": nn.Parameter(torch.randn(7, 3))}
        submission.load_partial(model, state, [])
        for key, p in model.named_parameters():
            expect(
                p is objects[key],
                f"{key} is another Parameter than before; an optimizer would go on with the old",
            )
            expect(
                p.requires_grad == flags[key],
                f"requires_grad of {key} is {p.requires_grad} after loading; it was {flags[key]}",
            )
            expect(p.is_leaf, f"{key} carries a graph after loading; copy under no_grad")
        for key, value in model.state_dict().items():
            expect(
                views[key].data_ptr() == value.data_ptr(),
                f"{key} has other memory than before; copy the values in place",
            )


# --- 5 ------------------------------------------------------------------------------------------


class Place:
    """An object with a state of its own, such as a sampler."""

    def __init__(self, at: int) -> None:
        self.at = at

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at, "seen": [self.at, (0.5, "x")]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at = state["at"]


def run(seed: int) -> dict[str, Any]:
    """A model, its optimizer after a step, its scheduler and a place."""
    model = unsettle(small())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    for _ in range(seed):
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
        scheduler.step()
    return {"model": model, "optimizer": optimizer, "scheduler": scheduler, "place": Place(seed)}


def state_of(parts: dict[str, Any]) -> dict[str, Any]:
    """The parts' state dicts in memory of their own, flat."""
    buffer = io.BytesIO()
    torch.save({name: part.state_dict() for name, part in parts.items()}, buffer)
    buffer.seek(0)
    return torch.load(buffer)


def leaves(item: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every leaf of a nested state, with a name."""
    if isinstance(item, dict):
        for key, inner in item.items():
            yield from leaves(inner, f"{name}[{key!r}]")
    elif isinstance(item, list | tuple):
        for i, inner in enumerate(item):
            yield from leaves(inner, f"{name}[{i}]")
    else:
        yield name, item


def assert_parts(parts: dict[str, Any], expected: dict[str, Any]) -> None:
    """Every part has the expected state, exactly."""
    for name, wanted in expected.items():
        got = dict(leaves(state_of({name: parts[name]})[name], name))
        for key, value in leaves(wanted, name):
            found = got.get(key)
            same = torch.equal(found, value) if isinstance(value, Tensor) else found == value
            expect(
                same,
                f"{key} is {found} after load; it was {value} when it was saved",
            )


def files(folder: Path) -> set[Path]:
    """Everything in the folder."""
    return set(folder.iterdir()) if folder.is_dir() else set()


def saved(keeper: Any, folder: Path, step: int, **objects: Any) -> Path:
    """Save, and return the file that is new in the folder."""
    before = files(folder)
    keeper.save(step, **objects)
    new = sorted(files(folder) - before)
    expect(
        len(new) == 1 and new[0].is_file(),
        f"save(step={step}) left {len(new)} new entries in the folder "
        f"({', '.join(path.name for path in new)}); expected one file",
    )
    return new[0]


def draws() -> dict[str, list[float]]:
    """The next numbers of each generator."""
    return {
        "Python": [random.gauss(0, 1) for _ in range(3)],
        "NumPy": np.random.randn(3).tolist(),
        "torch": torch.randn(3).tolist(),
    }


def assert_draws(got: list[float], expected: list[float], source: str) -> None:
    """The generator goes on where it was."""
    expect(
        got == expected,
        f"after load, {source} draws {got[0]:.4f} next; before, {expected[0]:.4f} came after the "
        f"checkpoint: the state of {source}'s generator was not restored",
        expected=expected,
        got=got,
    )


def crashed(
    fresh_submission: Any, folder: Path, monkeypatch: Any, keep: int, first: dict[str, Any]
) -> Any:
    """The module, imported anew, after a whole save of step 1 and half a one of step 2."""
    crashing: list[bool] = []
    crashes: list[bool] = []
    save = torch.save

    def half_a_file(value: Any, f: Any, *args: Any, **kwargs: Any) -> None:
        if not crashing:
            return save(value, f, *args, **kwargs)
        crashes.append(True)
        buffer = io.BytesIO()
        save(value, buffer)
        half = buffer.getvalue()[: buffer.tell() // 2]
        if hasattr(f, "write"):
            f.write(half)
        else:
            Path(f).write_bytes(half)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half_a_file)
        module = fresh_submission()
        module.Checkpointer(folder, keep).save(1, **first)
        crashing.append(True)
        with contextlib.suppress(OSError):
            module.Checkpointer(folder, keep).save(2, **run(2))
    expect(crashes, "save wrote its file without torch.save, so no crash could be tried")
    return module


@pytest.mark.task("Checkpointer")
class TestCheckpointer:
    @pytest.mark.points(2, "structure")
    def test_weights_only(self, submission, tmp_path):
        """The file loads under weights_only=True."""
        keeper = submission.Checkpointer(tmp_path)
        path = saved(keeper, tmp_path, 7, **run(1))
        read(path)
        latest = keeper.latest()
        expect(
            isinstance(latest, Path) and latest.resolve() == path.resolve(),
            f"latest() is {latest!r}; expected the Path of the file that was saved",
        )

    @pytest.mark.points(3, "value")
    def test_round_trip(self, submission, tmp_path):
        """Every object gets its state back, and load returns the step."""
        folder = tmp_path / "new" / "dir"
        first = run(2)
        saved_state = state_of(first)
        submission.Checkpointer(folder).save(step=12, **first)
        other = run(3)
        step = submission.Checkpointer(str(folder)).load(**other)
        assert_equal(step, 12, what="the step that load returns")
        assert_parts(other, saved_state)

    @pytest.mark.points(2, "value")
    def test_python_and_torch(self, submission, tmp_path):
        """The generators of Python and torch go on where they were."""
        keeper = submission.Checkpointer(tmp_path)
        random.gauss(0, 1)
        keeper.save(5)
        expected = draws()
        keeper.load()
        got = draws()
        for source in ("Python", "torch"):
            assert_draws(got[source], expected[source], source)

    @pytest.mark.points(2, "value")
    def test_numpy(self, submission, tmp_path):
        """NumPy's generator goes on where it was."""
        keeper = submission.Checkpointer(tmp_path)
        seed = int(torch.randint(1000, ()))
        for count in (2, 3):
            np.random.seed(seed + count)
            np.random.randn(count)
            keeper.save(count)
            expected = np.random.randn(3).tolist()
            submission.Checkpointer(tmp_path).load()
            got = np.random.randn(3).tolist()
            expect(
                got[:2] != expected[1:],
                "after load, NumPy leaves out one normal number: it draws them in pairs, and its "
                "state keeps the spare one, too (has_gauss, cached_gaussian)",
            )
            assert_draws(got, expected, "NumPy")

    @pytest.mark.gpu
    @pytest.mark.points(0, "value")
    def test_cuda(self, submission, tmp_path):
        """CUDA's generator goes on where it was."""
        keeper = submission.Checkpointer(tmp_path)
        torch.randn(3, device="cuda")
        keeper.save(5)
        expected = torch.randn(3, device="cuda").tolist()
        keeper.load()
        assert_draws(torch.randn(3, device="cuda").tolist(), expected, "CUDA")

    @pytest.mark.points(2, "structure")
    @pytest.mark.parametrize("keep", [1, 3])
    def test_crash(self, fresh_submission, tmp_path, monkeypatch, keep):
        """A crash while writing leaves the previous checkpoint."""
        first = run(1)
        module = crashed(fresh_submission, tmp_path, monkeypatch, keep, first)
        expected = state_of(first)
        other = run(3)
        try:
            step = module.Checkpointer(tmp_path, keep).load(**other)
        except FileNotFoundError:
            fail(
                "half a file was written when the disk was full, and no checkpoint is left that "
                f"load can read (keep={keep}): the one before must stay until the new one is whole"
            )
        assert_equal(step, 1, what="the step that load returns after a crash in step 2")
        assert_parts(other, expected)

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_crash")
    def test_half_file(self, fresh_submission, tmp_path, monkeypatch):
        """The half file of a crash is gone after the next save."""
        module = crashed(fresh_submission, tmp_path, monkeypatch, 3, {"place": Place(1)})
        module.Checkpointer(tmp_path, keep=3).save(3, place=Place(3))
        left = files(tmp_path)
        expect(
            len(left) == 2,
            f"steps 1 and 3 were saved, and step 2 was not when the disk was full; now there are "
            f"{len(left)} entries in the folder ({', '.join(sorted(path.name for path in left))}), "
            "expected 2 files: a temporary file of a name of its own stays after each crash; give "
            "it the same name each time, or remove it",
        )

    @pytest.mark.points(1, "structure")
    def test_replace(self, fresh_submission, tmp_path, monkeypatch):
        """A whole file is moved into place by os.replace."""
        armed: list[bool] = []
        moved: list[tuple[Path, Path]] = []
        replace = os.replace

        def stop(src: Any, dst: Any, **kwargs: Any) -> None:
            if not armed:
                return replace(src, dst, **kwargs)
            moved.append((Path(src), Path(dst)))
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", stop)
            module = fresh_submission()
            keeper = module.Checkpointer(tmp_path, keep=1)
            keeper.save(1, place=Place(1))
            armed.append(True)
            with contextlib.suppress(OSError):
                keeper.save(2, place=Place(2))
            armed.clear()
        expect(moved, "os.replace was not called: a file written under its own name can be half")
        source, target = moved[0]
        expect(
            target.resolve().parent == tmp_path.resolve(),
            f"os.replace moves a file to {target}, which is not directly in the directory",
        )
        if source.is_file():
            read(source)
        other = Place(3)
        try:
            module.Checkpointer(tmp_path, keep=1).load(place=other)
        except FileNotFoundError:
            fail(
                "the machine stopped just before os.replace, and there is no checkpoint left: "
                "remove old files after the new one is in place"
            )

    @pytest.mark.points(3, "value")
    @pytest.mark.parametrize("kind", ["half", "empty", "text"])
    def test_corrupt(self, submission, tmp_path, kind):
        """A corrupt newest file is skipped, for the one before."""
        keeper = submission.Checkpointer(tmp_path)
        saved(keeper, tmp_path, 1, place=Place(1))
        older = saved(keeper, tmp_path, 2, place=Place(2))
        newest = saved(keeper, tmp_path, 3, place=Place(3))
        data = newest.read_bytes()
        newest.write_bytes({"half": data[: len(data) // 2], "empty": b"", "text": b"hello"}[kind])
        there = Place(0)
        found = "half of it" if kind == "half" else f"a file with {kind or 'nothing'}"
        try:
            latest = submission.Checkpointer(tmp_path).latest()
            step = submission.Checkpointer(tmp_path).load(place=there)
        except NotImplementedError:
            raise
        except Exception as error:
            fail(
                f"of the newest checkpoint there is only {found}, and {type(error).__name__} was "
                "raised; skip what can't be read, whatever torch.load raises",
                got=type(error).__name__,
            )
        expect(
            step == 2 and there.at == 2,
            f"the newest checkpoint (step 3) is corrupt, and load returned {step}; expected 2",
            expected=2,
            got=step,
        )
        expect(
            latest is not None and Path(latest).resolve() == older.resolve(),
            "latest() is not the path that load took: the newest file is corrupt",
        )

    @pytest.mark.points(1, "structure")
    def test_no_code(self, submission, tmp_path):
        """A file that would run code counts as corrupt."""
        keeper = submission.Checkpointer(tmp_path)
        saved(keeper, tmp_path, 1, place=Place(1))
        newest = saved(keeper, tmp_path, 2, place=Place(2))
        content = torch.load(newest, weights_only=True)
        content = content if isinstance(content, dict) else {"state": content}
        torch.save({**content, "bad": RUNS}, newest)
        RAN.clear()
        step = keeper.load(place=Place(0))
        expect(
            not RAN,
            "load ran code that was in the file; weights_only=True reads tensors and plain values",
        )
        assert_equal(step, 1, what="the step, when the file of step 2 holds code")

    @pytest.mark.points(2, "value")
    @pytest.mark.parametrize("steps", [(8, 9, 10), (10, 9, 1), (99, 7, 100, 20)])
    def test_keep(self, submission, tmp_path, steps):
        """The highest steps stay, by number, and nothing else."""
        for step in steps:
            submission.Checkpointer(tmp_path, keep=2).save(step, place=Place(step))
        left = files(tmp_path)
        expect(
            len(left) == 2,
            f"after the steps {steps} with keep=2 there are {len(left)} entries in the folder "
            f"({', '.join(sorted(path.name for path in left))}); expected 2 files",
        )
        found = []
        for _ in range(2):
            keeper = submission.Checkpointer(tmp_path, keep=2)
            found.append(keeper.load(place=Place(0)))
            latest = keeper.latest()
            expect(latest is not None, "latest() is None, though load found a checkpoint")
            Path(latest).write_bytes(b"")
        wanted = sorted(steps)[:-3:-1]
        mistakes = {
            "the last in the alphabet, where 10 comes before 9": sorted(steps, key=str)[-2:],
            "those that were saved last, not the highest": steps[-2:],
        }
        known = [text for text, left in mistakes.items() if set(left) == set(found)]
        expect(
            found == wanted,
            f"after the steps {steps} with keep=2 the steps {found} are left; expected {wanted}"
            + (f". They are {known[0]}" if len(known) == 1 else ""),
            expected=wanted,
            got=found,
        )

    @pytest.mark.points(1, "value")
    def test_nothing_there(self, submission, tmp_path):
        """Without a checkpoint, latest is None and load raises."""
        keeper = submission.Checkpointer(tmp_path)
        latest = keeper.latest()
        expect(latest is None, f"latest() of an empty folder is {latest!r}; expected None")
        assert_raises(FileNotFoundError, keeper.load, place=Place(0))
        path = saved(keeper, tmp_path, 1, place=Place(1))
        path.write_bytes(b"")
        assert_raises(FileNotFoundError, submission.Checkpointer(tmp_path).load, place=Place(0))


RAN: list[bool] = []


def mark() -> None:
    """What a file with code in it calls when it is unpickled."""
    RAN.append(True)


class Runs:
    """Pickled as a call of `mark`."""

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return mark, ()


RUNS = Runs()


# --- 6 ------------------------------------------------------------------------------------------

CFG = {"seed": 31, "epochs": 3, "batch_size": 6}
ITEMS, PER_EPOCH = 29, 5
STEPS = PER_EPOCH * CFG["epochs"]


@dataclass(frozen=True)
class Event:
    """What the model saw in one forward, and what it was then."""

    chosen: list[int]  # the items of the batch
    noise: dict[str, list[float]]  # drawn by augment, by generator
    hidden: Tensor  # behind the dropout
    weights: Tensor  # parameters and buffers before the forward
    rate: float
    logits: Tensor


class Lab:
    """What is laid over the learner's `build` and `augment`, with a log of what happens there."""

    def __init__(self, dropout: float = 0.3) -> None:
        generator = torch.Generator().manual_seed(int(torch.randint(1 << 30, ())))
        self.dropout = dropout
        self.y = torch.arange(ITEMS) % 3
        self.x = torch.zeros(ITEMS, 4)
        self.x[:, 0] = torch.arange(ITEMS)
        around = 0.5 * torch.randn(ITEMS, 3, generator=generator)
        self.x[:, 1:] = around + 2 * F.one_hot(self.y, 3)
        self.events: list[Event] = []
        self.chosen: list[int] = []
        self.noise: dict[str, list[float]] = {}
        self.scheduler: Any = None

    def build(self, cfg: dict[str, Any]) -> tuple[Any, ...]:
        """A net with dropout and BatchNorm, SGD with momentum, warm restarts."""
        model = Observed(self)
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(self.optimizer, T_0=4)
        return model, self.optimizer, self.scheduler, TensorDataset(self.x, self.y)

    def augment(self, x: Tensor) -> Tensor:
        """Noise of three generators; the first column, which names the item, stays.

        It stretches the others: BatchNorm would take out what is only added to a whole batch.
        """
        numbers = np.random.randn(3)
        draws = {
            "torch": torch.randn(3).tolist(),
            "NumPy": numbers.tolist(),
            "Python": [random.gauss(0, 1) for _ in range(3)],
        }
        self.chosen = [round(value) for value in x[:, 0].tolist()]
        self.noise = draws
        noise = torch.tensor(list(draws.values())).sum(0).to(x)
        return torch.cat([x[:, :1], x[:, 1:] * (1 + 0.1 * noise)], dim=1)

    def over(self, module: ModuleType) -> None:
        """Take the place of what the learner's module builds and augments."""
        module.build, module.augment = self.build, self.augment  # type: ignore[attr-defined]


class Observed(nn.Module):
    """Logits (batch, 3) of x (batch, 4); writes down every forward."""

    def __init__(self, lab: Lab) -> None:
        super().__init__()
        self.lab = lab
        self.first = nn.Linear(3, 7)
        self.norm = nn.BatchNorm1d(7)
        self.drop = nn.Dropout(lab.dropout)
        self.last = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = self.state_dict().values()
        weights = torch.cat([value.detach().double().flatten() for value in state])
        hidden = self.drop(self.norm(self.first(x[:, 1:])).relu())
        logits = self.last(hidden)
        self.lab.events.append(
            Event(
                list(self.lab.chosen),
                dict(self.lab.noise),
                hidden.detach().clone(),
                weights.clone(),
                self.lab.optimizer.param_groups[0]["lr"],
                logits.detach().clone(),
            )
        )
        return logits


@contextlib.contextmanager
def laid_over(module: ModuleType, lab: Lab) -> Iterator[None]:
    """The module with the suite's `build` and `augment`."""
    before = module.build, module.augment
    lab.over(module)
    try:
        yield
    finally:
        module.build, module.augment = before


def elsewhere() -> None:
    """Bring all generators into another state, as a new process would."""
    random.seed(random.random())
    np.random.seed(random.randrange(1 << 30))
    torch.manual_seed(random.randrange(1 << 30))


def trained(
    module: ModuleType, lab: Lab, folder: Path, stops: tuple[int, ...] = (), **changed: Any
) -> list[float]:
    """The losses of a run that is stopped after so many steps, each time, and then finished."""
    folder.mkdir(parents=True, exist_ok=True)
    chained: list[float] = []
    with laid_over(module, lab):
        for stop in stops:
            elsewhere()
            losses = module.fit({**CFG, **changed}, folder, stop_after=stop)
            assert_losses(losses, stop, f"fit with stop_after={stop}")
            chained += losses
        elsewhere()
        losses = module.fit({**CFG, **changed}, folder)
    steps = PER_EPOCH * {**CFG, **changed}["epochs"]
    after = f" after {len(chained)} steps that were done before" if stops else ""
    assert_losses(losses, steps - len(chained), f"fit{after}")
    return chained + losses


def assert_losses(losses: Any, steps: int, what: str) -> None:
    """A list of so many floats."""
    expect(
        isinstance(losses, list) and all(type(loss) is float for loss in losses),
        f"{what} returned a value of type {type(losses).__name__}"
        + (" with other things than floats in it" if isinstance(losses, list) else "")
        + "; expected a list of floats",
    )
    expect(
        len(losses) == steps,
        f"{what} returned {len(losses)} losses; expected {steps}, one for each step of this call",
        expected=steps,
        got=len(losses),
    )


def difference(whole: list[Event], parts: list[Event], stops: tuple[int, ...]) -> str:
    """What was different first, in the run that was stopped."""
    marks = {sum(stops[: i + 1]) for i in range(len(stops))}
    for t, (one, other) in enumerate(zip(whole, parts, strict=False)):
        resumed = t in marks
        when = "in the first step after resuming" if resumed else f"in step {t}"
        if one.chosen != other.chosen:
            if other.chosen == whole[t - t % PER_EPOCH].chosen:
                return f"{when} the first batch of the epoch came again: the epoch began anew"
            if other.chosen == whole[0].chosen:
                return f"{when} the very first batch came again: the data began anew"
            return f"{when} another batch came: the order or the place in the epoch was lost"
        for source, numbers in one.noise.items():
            if other.noise[source] == numbers:
                continue
            if other.noise[source] == whole[0].noise[source]:
                return (
                    f"{when} {source} drew the numbers of the very first step: its generator "
                    "was seeded, and its state not put back"
                )
            return f"{when} {source} drew other numbers: its generator's state was lost"
        if one.rate != other.rate:
            return (
                f"{when} the learning rate was {other.rate:.4g}, not {one.rate:.4g}: it lives in "
                "the optimizer and is made by the scheduler; did both get their state back?"
            )
        if not torch.equal(one.weights, other.weights):
            if not resumed:
                return (
                    f"{when} the weights were others, though the step before had the same batch, "
                    "noise and learning rate: the optimizer's own state (momentum) was lost"
                )
            if torch.equal(other.weights, whole[0].weights):
                return f"{when} the weights were those of the start: the model was not restored"
            return f"{when} the weights or buffers were not those that it was stopped with"
        if not torch.equal(one.hidden, other.hidden):
            return f"{when} dropout dropped others: torch's generator was in another state"
    return "the steps themselves were the same, so the losses were not those of the steps"


def assert_same_run(
    module: ModuleType, folder: Path, stops: tuple[int, ...], draw: bool = False
) -> None:
    """Stopped and resumed, the losses are those of the run without a stop, bit for bit."""
    lab = Lab()
    whole = trained(module, lab, folder / "whole")
    events = list(lab.events)
    lab.events.clear()
    chained = trained(module, lab, folder / "parts", stops)
    if draw:
        steps = list(range(STEPS))
        picture(
            "curve",
            f"Stopped after {stops[0]} steps and resumed",
            "Both losses lie on each other, and their difference is a flat 0, if nothing was lost.",
            series=[
                {"label": "without a stop", "x": steps, "y": whole},
                {"label": "stopped and resumed", "x": steps, "y": chained},
                {
                    "label": "difference",
                    "x": steps,
                    "y": [b - a for a, b in zip(whole, chained, strict=True)],
                },
            ],
            x_label="step",
            y_label="loss",
            log_y=False,
        )
    if whole == chained:
        return
    t = next(t for t in range(STEPS) if whole[t] != chained[t])
    fail(
        f"stopped after {' and '.join(map(str, stops))} steps and resumed, the loss of step {t} is "
        f"{chained[t]!r}, without a stop {whole[t]!r}; {difference(events, lab.events, stops)}",
        expected=whole,
        got=chained,
    )


@pytest.mark.task("resume_bit_exact")
class TestResumeBitExact:
    @pytest.mark.points(4, "value")
    def test_losses(self, submission, tmp_path):
        """Without a stop, a loss comes back for every batch."""
        lab = Lab()
        losses = trained(submission, lab, tmp_path)
        expect(
            len(lab.events) == STEPS,
            f"the model was called {len(lab.events)} times in {STEPS} steps; expected once a step",
        )
        expected = [
            F.cross_entropy(event.logits, lab.y[event.chosen]).item() for event in lab.events
        ]
        assert_close(losses, expected, what="the list of losses")
        first, second = lab.events[:2]
        expect(
            not torch.equal(first.weights, second.weights)
            and first.noise["Python"] != second.noise["Python"],
            "the weights or the noise of augment were the same in two steps",
        )

    @pytest.mark.points(3, "value")
    @pytest.mark.after("test_losses")
    def test_order(self, submission, tmp_path):
        """Each epoch has every item once, in an order of its own."""
        lab = Lab()
        trained(submission, lab, tmp_path)
        epochs = [
            [i for event in lab.events[t : t + PER_EPOCH] for i in event.chosen]
            for t in range(0, STEPS, PER_EPOCH)
        ]
        for number, order in enumerate(epochs):
            lost = sorted(set(range(ITEMS)) - set(order))
            expect(
                len(order) == ITEMS and not lost,
                f"epoch {number} had {len(order)} items and lacked {lost}; expected each of the "
                f"{ITEMS} items once",
            )
            expect(order != sorted(order), f"epoch {number} had the items in their own order")
        expect(
            epochs[0] != epochs[1] and epochs[1] != epochs[2] and epochs[0] != epochs[2],
            "two epochs had the same order; the loader is to reshuffle each epoch",
        )
        sizes = [len(event.chosen) for event in lab.events[:PER_EPOCH]]
        assert_equal(sizes, [6, 6, 6, 6, 5], what="the sizes of an epoch's batches")

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_losses")
    def test_scheduler(self, submission, tmp_path):
        """The scheduler makes one step a batch."""
        lab = Lab()
        trained(submission, lab, tmp_path)
        steps = lab.scheduler.last_epoch
        expect(
            steps == STEPS,
            f"the scheduler made {steps} steps in {STEPS} batches; expected one a batch",
            expected=STEPS,
            got=steps,
        )

    @pytest.mark.points(2, "training")
    @pytest.mark.after("test_losses")
    def test_learns(self, submission, tmp_path):
        """The loss falls."""
        losses = trained(submission, Lab(dropout=0.0), tmp_path, epochs=36)
        # One epoch alone says little: its augmentation may have been an unlucky one.
        start, end = mean(losses[:PER_EPOCH]), mean(losses[-12 * PER_EPOCH :])
        expect(
            end < 0.7 * start,
            f"the mean loss is {start:.3f} in the first of 36 epochs and {end:.3f} in the last 12; "
            "expected it to fall below 0.7 of the first",
        )

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_losses")
    def test_seed(self, submission, tmp_path):
        """The seed decides everything."""
        lab = Lab()
        first = trained(submission, lab, tmp_path / "first")
        same = trained(submission, lab, tmp_path / "same")
        other = trained(submission, lab, tmp_path / "other", seed=32)
        expect(
            first == same,
            "two runs with the same seed have other losses: something draws from a generator "
            "that was not seeded with cfg['seed']",
        )
        expect(first != other, "cfg['seed'] changes nothing: seed 31 and 32 have the same losses")
        noises = [lab.events[t * STEPS].noise for t in (0, 2)]
        for source in noises[0]:
            expect(
                noises[0][source] != noises[1][source],
                f"{source} draws the same numbers for two seeds; seed it with cfg['seed']",
            )

    @pytest.mark.points(5, "value")
    @pytest.mark.after("test_losses")
    def test_stop_in_an_epoch(self, submission, tmp_path):
        """Stopped in the middle of an epoch, nothing is lost."""
        assert_same_run(submission, tmp_path, (7,), draw=True)

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_losses")
    def test_stop_after_an_epoch(self, submission, tmp_path):
        """Stopped at the end of an epoch, nothing is lost."""
        assert_same_run(submission, tmp_path, (PER_EPOCH,))

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_losses")
    def test_stop_at_once(self, submission, tmp_path):
        """Stopped before the first step, nothing is lost."""
        folder = tmp_path / "nothing"
        folder.mkdir()
        with laid_over(submission, Lab()):
            losses = submission.fit(dict(CFG), folder, 0)
        assert_losses(losses, 0, "fit with stop_after=0")
        expect(
            files(folder),
            "there is no file in the folder after stop_after=0; a checkpoint is to be written",
        )
        assert_same_run(submission, tmp_path, (0,))

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_losses")
    def test_stopped_twice(self, submission, tmp_path):
        """Stopped twice, nothing is lost."""
        assert_same_run(submission, tmp_path, (3, 9))
        assert_same_run(submission, tmp_path / "again", (6, 0))

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_losses", "test_stop_in_an_epoch")
    def test_final_weights(self, submission, tmp_path):
        """The final weights are in final.pt, and equal bit for bit."""
        lab = Lab()
        trained(submission, lab, tmp_path / "whole")
        trained(submission, lab, tmp_path / "parts", (8,))
        whole, parts = (read(tmp_path / name / "final.pt") for name in ("whole", "parts"))
        keys = sorted(Observed(lab).state_dict())
        for state in (whole, parts):
            assert_equal(sorted(state), keys, what="the keys in final.pt")
        before = lab.events[-1].weights
        for key in keys:
            expect(
                torch.equal(whole[key], parts[key]),
                f"{key} in final.pt differs between the run without a stop and the resumed one",
            )
        after = torch.cat([whole[key].double().flatten() for key in Observed(lab).state_dict()])
        expect(
            not torch.equal(before, after),
            "final.pt has the weights from before the last step; save after the last step",
        )

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_losses", "test_stop_in_an_epoch")
    def test_new_process(self, submission, tmp_path, fresh_process):
        """A new process goes on, too."""
        lab = Lab()
        whole = trained(submission, lab, tmp_path / "whole")
        events = list(lab.events)
        lab.events.clear()
        folder = tmp_path / "parts"
        folder.mkdir()

        def go_on(module: ModuleType) -> list[float]:
            lab.over(module)
            return list(module.fit(dict(CFG), folder))

        with laid_over(submission, lab):
            chained = submission.fit(dict(CFG), folder, stop_after=7)
        chained = chained + fresh_process(go_on)
        expect(
            len(chained) == STEPS,
            f"7 steps here and the rest in a new process make {len(chained)} steps; expected "
            f"{STEPS}: what isn't in the checkpoint is lost with the process",
        )
        t = next((t for t in range(STEPS) if chained[t] != whole[t]), STEPS)
        expect(
            t == STEPS,
            f"resumed in a new process, the loss of step {t} differs: something is remembered "
            "in this process (a global, a cache) and not in the checkpoint",
        )
        folder = tmp_path / "reversed"
        folder.mkdir()

        def begin(module: ModuleType) -> list[float]:
            lab.over(module)
            return list(module.fit(dict(CFG), folder, stop_after=7))

        begun = fresh_process(begin)
        with laid_over(submission, lab):
            chained = begun + submission.fit(dict(CFG), folder)
        expect(
            chained == whole,
            "begun in another process and resumed here, the losses differ; "
            + difference(events[7:], lab.events[-(STEPS - 7) :], (0,)),
        )
