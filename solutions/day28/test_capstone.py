"""Day 28 asks for old functions in new conventions, a network that adds, a lint, fast writing."""

import ast
import copy
import functools
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch._dynamo  # the first optimizer would import it, and count as the training's time
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.flop_counter import FlopCounterMode

from grader.testing import (
    CheckFailed,
    assert_close,
    assert_equal,
    assert_no_python_loop,
    assert_raises,
    assert_shape,
    assert_speed,
    assert_tensor,
    assert_unchanged,
    attention_of,
    count_ops,
    expect,
    fail,
    measured,
    picture,
    rand_ints,
    randn,
    show_attention,
    smallest,
)


def course_module(name: str) -> dict[str, Any]:
    """The names of a file of the course, from the suite's own folder."""
    text = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    module = ModuleType(f"{name}_of_the_checks")
    sys.modules[module.__name__] = module  # dataclasses look it up
    exec(compile(text, f"{name}_of_the_checks.py", "exec", dont_inherit=True), module.__dict__)
    return module.__dict__


def text_of(scratch: Path, name: str) -> str:
    """A file of the submission beside its module."""
    path = scratch / name
    expect(path.is_file(), f"{name} is not there", id="file.missing")
    return path.read_text(encoding="utf-8")


def beside(scratch: Path, name: str) -> dict[str, Any]:
    """The names of a Python file beside the module; its functions say where they raise."""
    return executed(name, text_of(scratch, f"{name}.py"))


@functools.cache
def executed(name: str, text: str) -> dict[str, Any]:
    """The names of a file, which is executed once."""
    module = ModuleType(name)
    sys.modules[name] = module
    with places(name):
        exec(compile(text, f"{name}.py", "exec", dont_inherit=True), module.__dict__)
    return module.__dict__


@contextmanager
def places(name: str) -> Iterator[None]:
    """What is raised inside becomes a failure that names the line of `name.py`."""
    try:
        yield
    except (CheckFailed, NotImplementedError):
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == f"{name}.py"]
        number = lines[-1] if lines else getattr(error, "lineno", None)
        where = f", line {number}" if number else ""
        said = str(error).strip().partition("\n")[0][:300]
        fail(f"{name}.py{where}: {type(error).__name__}: {said}", id="file.raises")


def function_of(scratch: Path, file: str, name: str) -> Callable[..., Any]:
    """One function of a file; what it raises names the line."""
    function = beside(scratch, file).get(name)
    expect(callable(function), f"{file}.py defines no function `{name}`", id="file.name")

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with places(file):
            return function(*args, **kwargs)

    return call


# --- 1: old functions in new conventions --------------------------------------------------------


def old(scratch: Path, name: str) -> Callable[..., Any]:
    """One of the six functions."""
    return function_of(scratch, "review_tasks", name)


def heads_by_loop(x: Tensor, heads: int, has_neighbours: bool = False) -> Tensor:
    """(batch, heads, seq, dim // heads), channel by channel."""
    batch, seq, dim = x.shape
    size = dim // heads
    out = x.new_zeros(batch, heads, seq, size)
    for channel in range(dim):
        head, place = channel % heads, channel // heads
        if has_neighbours:
            head, place = channel // size, channel % size
        out[:, head, :, place] = x[:, :, channel]
    return out


def mean_by_loop(x: Tensor, keep: Tensor) -> Tensor:
    """(batch, dim): the mean over the places where keep is True, in float64."""
    rows = []
    for one, kept in zip(x.double(), keep, strict=True):
        chosen = one[kept]
        rows.append(chosen.mean(0) if len(chosen) else torch.zeros(x.shape[2]).double())
    return torch.stack(rows).to(x.dtype)


def losses_by_loop(logits: Tensor, targets: Tensor) -> Tensor:
    """(batch, seq): minus the log of the probability of each target, 0 where it does not count."""
    logs = logits.double().log_softmax(-1)
    return torch.tensor(
        [
            [-logs[i, t, c].item() if c >= 0 else 0.0 for t, c in enumerate(row)]
            for i, row in enumerate(targets.tolist())
        ]
    )


def attention_by_loop(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """(seq_q, batch, heads, dim_v), query by query, in float64."""
    seq_q, batch, heads, dim = q.shape
    q, k, v = q.double(), k.double(), v.double()
    out = torch.zeros(seq_q, batch, heads, v.shape[-1], dtype=torch.float64)
    if mask is not None:
        mask = mask.expand(batch, heads, seq_q, k.shape[0])
    for i in range(seq_q):
        for b in range(batch):
            for h in range(heads):
                keys = list(range(k.shape[0]))
                if mask is not None:
                    keys = [j for j in keys if mask[b, h, i, j]]
                if keys:
                    weights = (k[keys, b, h] @ q[i, b, h] / dim**0.5).softmax(0)
                    out[i, b, h] = weights @ v[keys, b, h]
    return out


@pytest.mark.task("review")
class TestReview:
    @pytest.mark.points(1, "structure")
    def test_imports(self, submission, scratch):
        """review_tasks.py imports torch and Python's own modules only."""
        assert callable(submission.train)
        text = text_of(scratch, "review_tasks.py")
        try:
            tree = ast.parse(text)
        except SyntaxError as error:
            fail(f"review_tasks.py, line {error.lineno}: {error.msg}")
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "."]
            for name in names:
                root = name.partition(".")[0]
                expect(
                    root in ("torch", "math") or root in sys.stdlib_module_names - {"importlib"},
                    f"review_tasks.py, line {node.lineno}: imports {name}; the old files are not "
                    "there, torch and Python's own modules are",
                    id="review.import",
                )
        old(scratch, "split_heads")(randn(1, 2, 6), 3)

    @pytest.mark.points(4, "shape")
    def test_split_heads(self, submission, scratch):
        """split_heads deals the channels out to the heads in turn."""
        assert callable(submission.train)
        split_heads = old(scratch, "split_heads")

        def run(case):
            batch, seq, heads, size = case
            x = randn(batch, seq, heads * size)
            got = assert_unchanged(split_heads, x, heads)
            assert_shape(got, batch=batch, heads=heads, seq=seq, dim=size)
            run_of = heads_by_loop(x, heads, has_neighbours=True)
            mixed = heads_by_loop(x, size).transpose(1, 3)
            explain = {
                "head h has a run of neighbouring channels; here it has every heads-th": run_of,
            }
            if not torch.equal(mixed, run_of):
                explain["the channels are dealt to dim // heads groups, not to heads"] = mixed
            assert_close(
                got,
                heads_by_loop(x, heads),
                axes=("batch", "heads", "seq", "dim"),
                explain=explain,
            )

        smallest(run, [(1, 1, 2, 3), (2, 5, 3, 7), (3, 2, 5, 3)])
        plain = beside(scratch, "review_tasks")["split_heads"]
        assert_raises(ValueError, plain, randn(2, 3, 7), 5)

    @pytest.mark.points(3, "value")
    def test_squared_distances(self, submission, scratch):
        """squared_distances compares columns."""
        assert callable(submission.train)
        squared_distances = old(scratch, "squared_distances")

        def run(case):
            dim, n, m = case
            x, y = randn(dim, n), randn(dim, m)
            got = assert_unchanged(squared_distances, x, y)
            assert_shape(got, n=n, m=m)
            right = torch.tensor(
                [
                    [sum((x[d, i] - y[d, j]).item() ** 2 for d in range(dim)) for j in range(m)]
                    for i in range(n)
                ]
            )
            explain = {"the squares are summed over the wrong axis": right.mT} if n == m else {}
            explain["this is the distance; its square is asked for"] = right.sqrt()
            explain["this is the mean over dim; the sum is asked for"] = right / dim
            assert_close(got, right, rtol=1e-4, atol=1e-4, axes=("n", "m"), explain=explain)

        smallest(run, [(2, 1, 3), (3, 5, 2), (7, 3, 3), (5, 5, 5)])

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_squared_distances")
    def test_no_loop(self, submission, scratch):
        """squared_distances has no loop over points."""
        assert callable(submission.train)
        squared_distances = old(scratch, "squared_distances")
        assert_no_python_loop(squared_distances, lambda n: (randn(3, n), randn(3, n + 1)))

    @pytest.mark.points(3, "value")
    def test_masked_mean(self, submission, scratch):
        """masked_mean leaves out where the mask is True."""
        assert callable(submission.train)
        masked_mean = old(scratch, "masked_mean")

        def run(case):
            batch, seq, dim = case
            x = randn(batch, seq, dim)
            mask = torch.rand(batch, seq) < 0.5
            mask[:, 0], mask[:, 1] = False, True
            got = assert_unchanged(masked_mean, x, mask)
            assert_shape(got, batch=batch, dim=dim)
            kept = mean_by_loop(x, ~mask)
            explain = {
                "the places that are True were kept; True means left out here": mean_by_loop(
                    x, mask
                ),
                "the sum is divided by seq, not by the number of places left": kept
                * (~mask).sum(1, keepdim=True)
                / seq,
                "nothing is left out": x.mean(1),
            }
            assert_close(got, kept, axes=("batch", "dim"), explain=explain)

        smallest(run, [(2, 5, 3), (3, 11, 2), (5, 7, 2)])

    @pytest.mark.points(1, "value")
    def test_masked_mean_corners(self, submission, scratch):
        """masked_mean gives 0 where nothing is left, and knows no nan."""
        assert callable(submission.train)
        masked_mean = old(scratch, "masked_mean")
        x, mask = randn(3, 5, 2), torch.rand(3, 5) < 0.5
        mask[0], mask[1, 0], mask[1, 1] = True, True, False
        mask[2] = False
        expected = mean_by_loop(x, ~mask)
        got = masked_mean(x.masked_fill(mask[..., None], torch.nan), mask.clone())
        expect(
            not bool(assert_tensor(got).isnan().any()),
            "masked_mean gives nan: row 0 has nothing left (0 is asked for), and the places that "
            "are left out hold nan",
            id="review.nan",
        )
        assert_close(got, expected, axes=("batch", "dim"))

    @pytest.mark.points(3, "value")
    def test_text_losses(self, submission, scratch):
        """text_losses gives each text its own mean."""
        assert callable(submission.train)
        text_losses = old(scratch, "text_losses")

        def run(case):
            batch, seq, vocab = case
            logits, targets = randn(batch, seq, vocab), rand_ints(batch, seq, high=vocab)
            got = assert_unchanged(text_losses, logits, targets)
            each = losses_by_loop(logits, targets)
            expect(
                assert_tensor(got).dim() == 1,
                f"text_losses gives a tensor of shape {tuple(got.shape)}; (batch,) is asked for, "
                "one mean a text and not one of the whole batch",
                id="review.axis",
            )
            assert_shape(got, batch=batch)
            explain = {"this is the sum over a text, not the mean": each.sum(1)}
            if batch == seq:
                explain["the mean runs over the batch; it runs over the places of a text"] = (
                    each.mean(0)
                )
            assert_close(got, each.mean(1), rtol=1e-4, axes=("batch",), explain=explain)

        smallest(run, [(2, 3, 5), (5, 5, 7), (3, 7, 2)])

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_text_losses")
    def test_text_losses_ignore(self, submission, scratch):
        """text_losses counts no target of -100."""
        assert callable(submission.train)
        text_losses = old(scratch, "text_losses")
        logits, targets = randn(3, 7, 5), rand_ints(3, 7, high=5)
        targets[0, 2:], targets[1] = -100, -100
        got = text_losses(logits.clone(), targets.clone())
        each = losses_by_loop(logits, targets)
        count = torch.tensor([2, 1, 7])
        explain = {
            "the sum is divided by seq; only targets that count belong to the mean": each.mean(1)
        }
        what = "the mean over the targets that are not -100"
        assert_close(got, each.sum(1) / count, rtol=1e-4, what=what, explain=explain)

    @pytest.mark.points(4, "value")
    def test_collate(self, submission, scratch):
        """collate puts the padding on the left."""
        assert callable(submission.train)
        collate = old(scratch, "collate")

        def run(case):
            lengths, pad = case
            texts = [rand_ints(length, high=11) for length in lengths]
            result = assert_unchanged(collate, texts, pad)
            expect(
                isinstance(result, tuple) and len(result) == 2,
                f"collate returns {type(result).__name__}; the tuple (ids, mask) is asked for",
            )
            longest = max(lengths)
            left = [[pad] * (longest - len(t)) + t.tolist() for t in texts]
            right = [t.tolist() + [pad] * (longest - len(t)) for t in texts]
            here = [[False] * (longest - n) + [True] * n for n in lengths]
            explain = {}
            if left != right:
                explain = {"the padding stands on the right": torch.tensor(right)}
            other = {"the mask is True where padding stands": ~torch.tensor(here)}
            assert_equal(result[0], torch.tensor(left), what="ids", explain=explain)
            assert_equal(result[1], torch.tensor(here), what="mask", explain=other)

        smallest(run, [((1,), 0), ((2, 3), 0), ((5, 2, 3), 7), ((3, 7, 1, 5), 10)])

    @pytest.mark.points(3, "value")
    def test_attend(self, submission, scratch):
        """attend works on axes (seq, batch, heads, dim)."""
        assert callable(submission.train)
        attend = old(scratch, "attend")

        def run(case):
            seq_q, seq_k, batch, heads, dim, dim_v, has_mask = case
            q = randn(seq_q, batch, heads, dim)
            k, v = randn(seq_k, batch, heads, dim), randn(seq_k, batch, heads, dim_v)
            mask = None
            if has_mask:
                mask = torch.rand(batch, 1, seq_q, seq_k) < 0.5
                mask[..., 0], mask[..., 1] = True, False
            got = assert_unchanged(attend, q, k, v, mask)
            assert_shape(got, seq_q=seq_q, batch=batch, heads=heads, dim_v=dim_v)
            expected = attention_by_loop(q, k, v, mask).float()
            explain = {
                "the scores are not divided by sqrt(dim)": attention_by_loop(
                    q * dim**0.5, k, v, mask
                ).float()
            }
            if mask is not None:
                explain["True in the mask was taken as: may not attend"] = attention_by_loop(
                    q, k, v, ~mask
                ).float()
            if seq_q == seq_k and mask is None:
                turned = (t.transpose(0, 2) for t in (q, k, v))
                explain["the softmax runs over the heads, as if they stood first"] = (
                    attention_by_loop(*turned, None).transpose(0, 2).float()
                )
            axes = ("seq_q", "batch", "heads", "dim_v")
            assert_close(got, expected, rtol=1e-4, atol=1e-5, axes=axes, explain=explain)

        smallest(
            run,
            [
                (1, 2, 1, 1, 3, 2, False),
                (3, 5, 2, 2, 7, 3, False),
                (5, 5, 3, 2, 4, 4, False),
                (3, 5, 2, 7, 4, 2, True),
            ],
        )

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_attend")
    def test_attend_nothing(self, submission, scratch):
        """attend gives 0 to a query that may attend to nothing."""
        assert callable(submission.train)
        attend = old(scratch, "attend")
        q, k, v = randn(3, 2, 2, 5), randn(7, 2, 2, 5), randn(7, 2, 2, 3)
        mask = torch.rand(2, 2, 3, 7) < 0.5
        mask[..., 0], mask[1, :, 2] = True, False
        got = attend(q.clone(), k.clone(), v.clone(), mask.clone())
        expect(
            not bool(assert_tensor(got).isnan().any()),
            "attend gives nan for a query whose mask is all False; 0 is asked for",
            id="review.nan",
        )
        assert_close(got, attention_by_loop(q, k, v, mask).float(), rtol=1e-4, atol=1e-5)


# --- 2: a network that adds ---------------------------------------------------------------------

additions = course_module("additions")
BUDGET = 30.0  # CPU seconds
LARGEST = 200_000


class SpentError(Exception):
    """The training has used far more than its budget."""


def folder() -> Path:
    """An empty folder below the working folder."""
    return Path(tempfile.mkdtemp(dir=Path.cwd()))


def weights_of(place: Path) -> dict[str, Tensor]:
    """What lies in model.pt."""
    path = place / "model.pt"
    expect(path.is_file(), "train writes no model.pt into its folder", id="train.file")
    try:
        found = torch.load(path, weights_only=True)
    except Exception as error:
        fail(f"model.pt cannot be loaded with weights_only=True: {str(error)[:200]}")
    expect(
        isinstance(found, dict)
        and bool(found)
        and all(isinstance(v, Tensor) for v in found.values()),
        "model.pt holds no state dict, names and tensors",
        id="train.state",
    )
    return found


def short(submission: ModuleType, seed: int, steps: int = 20) -> Path:
    """The folder of a training of 20 steps."""
    place = folder()
    submission.train(seed, place, BUDGET, steps)
    weights_of(place)
    return place


@functools.cache
def once(submission: ModuleType) -> Path:
    """The folder of one training of 20 steps that several checks look at."""
    return short(submission, 11)


def changed(place: Path, change: Callable[[Tensor], Tensor]) -> Path:
    """A new folder with nothing but model.pt, its floating tensors changed."""
    target = folder()
    weights = weights_of(place)
    new = {k: change(w) if w.is_floating_point() else w for k, w in weights.items()}
    torch.save(new, target / "model.pt")
    return target


def answers_of(submission: ModuleType, place: Path, questions: list[str]) -> list[str]:
    """What a solver loaded from a folder answers."""
    got = submission.Solver.load(place).answer(list(questions))
    expect(
        isinstance(got, list) and all(isinstance(text, str) for text in got),
        "answer does not return a list of texts",
        id="answer.type",
    )
    expect(
        len(got) == len(questions),
        f"answer gives {len(got)} texts for {len(questions)} questions",
        id="answer.count",
    )
    return got


def hidden_pairs(seed: int) -> list[tuple[int, int]]:
    """The 1,000 pairs that a seed leaves out."""
    given = set(additions["train_pairs"](seed))
    return [(a, b) for a in range(100) for b in range(100) if (a, b) not in given]


def right_ones(submission: ModuleType, place: Path, pairs: list[tuple[int, int]]) -> list[bool]:
    """Which sums are right."""
    questions = [additions["question"](pair) for pair in pairs]
    got = answers_of(submission, place, questions)
    return [text == additions["answer"](pair) for text, pair in zip(got, pairs, strict=True)]


def some_pairs() -> list[tuple[int, int]]:
    """Fifty pairs of numbers of one and of two digits."""
    tens = rand_ints(50, 2, high=100).tolist()
    tens[0], tens[1], tens[2] = [0, 0], [3, 50], [99, 7]
    return [(a, b) for a, b in tens]


@dataclass
class Trained:
    """What one whole training gave."""

    seed: int
    place: Path
    seconds: float  # CPU
    right: list[bool]  # of the hidden pairs
    losses: list[float]  # of each call of backward

    @property
    def share(self) -> float:
        """The share of the hidden sums that are right."""
        return sum(self.right) / len(self.right)


@functools.cache
def whole(submission: ModuleType) -> list[Trained]:
    """One training; a second one, with another seed, if the first is below 90 %."""
    found: list[Trained] = []
    for seed in rand_ints(2, high=10**6).tolist():
        found.append(train_once(submission, seed, folder()))
        if found[-1].share >= 0.9:
            break
    return found


def train_once(submission: ModuleType, seed: int, place: Path, steps: int | None = None) -> Trained:
    """One whole training, or its first steps."""
    losses: list[float] = []
    start = time.process_time()
    with stopped_after(start + BUDGET + 5), noting_losses(losses):
        submission.train(seed, place, BUDGET, **({"steps": steps} if steps else {}))
    seconds = time.process_time() - start
    weights_of(place)
    right = right_ones(submission, changed(place, lambda w: w), hidden_pairs(seed))
    return Trained(seed, place, seconds, right, losses)


@contextmanager
def noting_losses(losses: list[float]) -> Iterator[None]:
    """Note the numbers of which `backward` is called; a picture is made of them, no verdict."""
    plain = Tensor.backward

    @functools.wraps(plain)
    def backward(self: Tensor, *args: Any, **kwargs: Any) -> None:
        plain(self, *args, **kwargs)
        if self.numel() == 1:
            losses.append(self.detach().item())

    Tensor.backward = backward
    try:
        yield
    finally:
        Tensor.backward = plain


def twenties(losses: list[float]) -> dict[str, list[float]]:
    """A curve through the first loss, then the means of twenty at a time.

    With the reference and the seeds 0 to 4 it gives REFERENCE: `python benchmarks/curves.py day28`.
    """
    groups = [losses[i : i + 20] for i in range(0, len(losses), 20)]
    ends = [min(20 * (i + 1), len(losses)) for i in range(len(groups))]
    return {"x": [1, *ends], "y": [*losses[:1], *(sum(group) / len(group) for group in groups)]}


# Median, least and largest of the model solution's `twenties` over five seeds.
# fmt: off
REFERENCE = {
    "x": [1, *range(20, 501, 20)],
    "y": [
        2.53, 1.98, 1.58, 1.52, 1.18, 0.61, 0.36, 0.22, 0.13, 0.09, 0.05, 0.03, 0.04, 0.02, 0.01,
        0.01, 0.01, 0.01, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
    ],
    "low": [
        2.43, 1.92, 1.57, 1.48, 1.16, 0.58, 0.33, 0.16, 0.06, 0.03, 0.03, 0.02, 0.02, 0.01, 0.0,
        0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
    ],
    "high": [
        2.75, 2.07, 1.59, 1.53, 1.4, 1.17, 0.9, 0.76, 0.51, 0.31, 0.24, 0.2, 0.16, 0.11, 0.08,
        0.08, 0.06, 0.05, 0.04, 0.03, 0.03, 0.02, 0.02, 0.02, 0.01, 0.01,
    ],
}
# fmt: on


def best(submission: ModuleType) -> Trained:
    """The better of the trainings."""
    return max(whole(submission), key=lambda trained: trained.share)


@contextmanager
def stopped_after(end: float) -> Iterator[None]:
    """End a training, at one of its optimizer's steps, that is far beyond its budget."""

    def look(*_: Any) -> None:
        spent = time.process_time()
        if spent > end:
            raise SpentError

    hook = register_optimizer_step_post_hook(look)
    try:
        yield
    except SpentError:
        fail(
            "train goes on though its budget is spent: look at time.process_time() in every step",
            id="train.budget",
        )
    finally:
        hook.remove()


def same_weights(one: Path, other: Path) -> bool:
    """Whether two folders hold equal weights."""
    first, second = weights_of(one), weights_of(other)
    return set(first) == set(second) and all(torch.equal(w, second[k]) for k, w in first.items())


def count_of(weights: dict[str, Tensor]) -> int:
    """How many numbers a state dict holds, shared ones once."""
    return sum({w.untyped_storage().data_ptr(): w.numel() for w in weights.values()}.values())


@pytest.mark.task("Solver")
class TestSolver:
    @pytest.mark.points(3, "structure")
    def test_reproducible(self, submission):
        """The same seed and number of steps give the same weights."""
        first = once(submission)
        torch.randn(7)
        again, other = folder(), short(submission, 12, 20)
        line = ["train", "--budget-s", "30", "--seed", "11", "--out", str(again), "--steps", "20"]
        submission.main(line)
        expect(
            same_weights(first, again),
            "two trainings of 20 steps with seed 11 give different weights: something is drawn "
            "that the seed doesn't decide",
            id="train.seed",
        )
        expect(
            not same_weights(first, other),
            "trainings with seeds 11 and 12 give the same weights: the seed decides nothing",
            id="train.noseed",
        )

    @pytest.mark.points(2, "structure")
    def test_pairs(self, submission, fresh_submission, monkeypatch):
        """It trains on the pairs of train_pairs."""
        given = sys.modules["additions"]
        plain, calls = given.train_pairs, []

        def others(seed: int) -> list[tuple[int, int]]:
            calls.append(seed)
            return plain(seed + 1)

        with monkeypatch.context() as patch:
            patch.setattr(given, "train_pairs", others)
            for name, value in list(vars(submission).items()):
                if value is plain:
                    patch.setattr(submission, name, others)
            first = short(submission, 14)
        expect(
            calls == [14] * len(calls) and bool(calls),
            f"train(14, …) calls train_pairs with {calls or 'nothing'}; the pairs to train on are "
            "those of train_pairs(14), the others are kept for the checks",
            id="train.pairs",
        )
        # Imported anew: what a module keeps of the pairs of a seed is its own affair.
        expect(
            not same_weights(first, short(fresh_submission(), 14)),
            "with other pairs from train_pairs the weights after 20 steps are the same: it trains "
            "on something else",
            id="train.pairs",
        )

    @pytest.mark.points(2, "structure")
    def test_parameters(self, submission):
        """model.pt holds at most 200,000 numbers."""
        count = count_of(weights_of(once(submission)))
        measured(f"{count:,}")
        expect(
            count <= LARGEST,
            f"model.pt holds {count:,} numbers; {LARGEST:,} are the most",
            id="train.size",
            got=count,
        )

    @pytest.mark.points(2, "structure")
    def test_fresh_process(self, submission, fresh_process):
        """A fresh process answers the same."""
        place = str(changed(once(submission), shaken()))
        questions = [additions["question"](pair) for pair in some_pairs()]
        here = answers_of(submission, Path(place), questions)
        there = fresh_process(lambda module: module.Solver.load(place).answer(questions))
        wrong = [i for i, text in enumerate(here) if text != there[i]]
        expect(
            not wrong,
            f"{len(wrong)} of 50 answers are others in a fresh process: all that a solver needs "
            "must come from model.pt, and nothing is drawn",
            id="answer.process",
        )

    @pytest.mark.points(3, "value")
    def test_batch_of_one(self, submission):
        """A question alone has the answer that it has among others."""
        place = changed(once(submission), shaken())
        questions = [additions["question"](pair) for pair in some_pairs()]
        together = answers_of(submission, place, questions)
        solver = submission.Solver.load(place)
        alone = [solver.answer([question])[0] for question in questions]
        wrong = [i for i in range(50) if together[i] != alone[i]]
        if wrong:
            i = wrong[0]
            fail(
                f"{questions[i]!r} alone gives {alone[i]!r}, among others {together[i]!r}: the "
                "questions beside it, or their order, have an influence",
                id="answer.batch",
                details=[f"{len(wrong)} of 50 answers differ"],
            )

    @pytest.mark.points(4, "structure")
    def test_network_adds(self, submission):
        """The sums come from the weights."""
        pairs = hidden_pairs(11)[::5]
        for name, place in (
            ("all weights 0", changed(once(submission), torch.zeros_like)),
            ("weights of 20 steps", changed(once(submission), lambda w: w)),
        ):
            share = sum(right_ones(submission, place, pairs)) / len(pairs)
            expect(
                share < 0.4,
                f"with {name}, {100 * share:.0f} % of the sums are right: the answers don't come "
                "from the network",
                id="answer.network",
                got=share,
            )

    @pytest.mark.points(3, "structure")
    def test_budget(self, submission):
        """It stops before a short budget is spent, too."""
        place = folder()
        start = time.process_time()
        with stopped_after(start + 3):
            submission.train(13, place, 1.5)
        seconds = time.process_time() - start
        measured(f"{seconds:.1f} s")
        weights_of(place)
        expect(
            seconds <= 2,
            f"with a budget of 1.5 s, train uses {seconds:.1f} s of CPU time",
            id="train.budget",
            got=seconds,
        )

    @pytest.mark.points(2, "training")
    def test_within_budget(self, submission):
        """A whole training takes at most 30 CPU seconds."""
        seconds = max(trained.seconds for trained in whole(submission))
        measured(f"{seconds:.1f} s")
        expect(
            seconds <= BUDGET + 0.5,
            f"train(…, budget_s=30) uses {seconds:.1f} s of CPU time",
            id="train.budget",
            got=seconds,
        )

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_within_budget")
    def test_plain_numbers(self, submission):
        """Answers are plain numbers."""
        trained = whole(submission)[0]
        questions = [additions["question"](pair) for pair in hidden_pairs(trained.seed)[:200]]
        got = answers_of(submission, trained.place, questions)
        odd = [i for i, text in enumerate(got) if not text.isdecimal() or str(int(text)) != text]
        if len(odd) > 2:
            fail(
                f"{questions[odd[0]]!r} is answered by {got[odd[0]]!r}; a plain number is asked "
                'for, such as "95": no leading zeros, no other signs',
                id="answer.plain",
                got=got[odd[0]],
            )

    @pytest.mark.points(6, "training")
    @pytest.mark.after("test_within_budget")
    def test_sixty(self, submission):
        """At least 60 % of the sums it has never seen are right."""
        reached(submission, 0.6)

    @pytest.mark.points(6, "training")
    @pytest.mark.after("test_within_budget")
    def test_ninety(self, submission):
        """At least 90 % of the sums it has never seen are right."""
        trained = best(submission)
        picture(
            "heatmap",
            "Right sums",
            f"The share of hidden sums that are right, by the tens of both numbers; "
            f"{100 * trained.share:.1f} % in all.",
            maps=[{"label": "share", "values": by_tens(trained), "marked": []}],
            row_axis="tens of the first number",
            column_axis="tens of the second",
        )
        show_learning(trained)
        show_sum(submission, trained)
        reached(submission, 0.9)


def show_learning(trained: Trained) -> None:
    """Draw the losses of a training beside those of the model solution."""
    if not trained.losses:
        return
    picture(
        "curve",
        "The loss while training",
        f"What `backward` was called of, {len(trained.losses)} times, the means of twenty at a "
        "time. The model solution's is the mean over the three digits of a sum; the band is what "
        "five trainings gave, 98.8 to 100 % right in the end. A digit drawn by chance costs "
        "ln 10 = 2.30.",
        series=[
            {"label": "yours", **twenties(trained.losses)},
            {"label": "model solution", **REFERENCE},
        ],
        levels=[{"label": "by chance", "y": 2.3}],
        x_label="step",
        y_label="nats per digit",
        log_y=False,
    )


def show_sum(submission: ModuleType, trained: Trained) -> None:
    """Draw where the network looks while it writes a sum with a carry, where that can be told."""
    question = additions["question"]((37, 58))
    found = attention_of(
        lambda: submission.Solver.load(trained.place).answer([question]),
    )
    if not found.layers:
        return
    size = found.layers[0].shape[-1]
    has_ids = len(found.ids) == size
    labels = "the numbers that you embed" if has_ids else "counted from 0"
    show_attention(
        found,
        [str(i) for i in (found.ids if has_ids else range(size))],
        f"Where your network looks when it answers {question}{additions['answer']((37, 58))}",
        "Each row is a token, stronger colour is more weight on the token of a column; tokens are "
        f"{labels}. 7 and 8 make the last digit of the sum, and the carry that the first needs.",
    )


def by_tens(trained: Trained) -> list[list[float]]:
    """The share of right sums by the tens of both numbers."""
    counts = [[[0, 0] for _ in range(10)] for _ in range(10)]
    for (a, b), is_right in zip(hidden_pairs(trained.seed), trained.right, strict=True):
        cell = counts[a // 10][b // 10]
        cell[0] += is_right
        cell[1] += 1
    return [[right / max(count, 1) for right, count in row] for row in counts]


def shaken() -> Callable[[Tensor], Tensor]:
    """A change that makes the answers of a network of 20 steps differ from question to question."""
    generator = torch.Generator().manual_seed(17)

    def change(weight: Tensor) -> Tensor:
        noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        return weight + 0.2 * noise.to(weight.dtype)

    return change


def reached(submission: ModuleType, target: float) -> None:
    """Hold the better training to a share of right sums."""
    trained = best(submission)
    measured(f"{100 * trained.share:.1f} %")
    if trained.share >= target:
        return
    pairs = hidden_pairs(trained.seed)
    questions = [additions["question"](pair) for pair in pairs]
    got = answers_of(submission, trained.place, questions)
    right = [additions["answer"](pair) for pair in pairs]
    turned = sum(g == r[::-1] for g, r in zip(got, right, strict=True)) / len(pairs)
    why = ""
    if turned > max(0.5, trained.share):
        why = "; read backwards, most are right: turn the digits before you return them"
    wrong = [(q, g) for q, g, r in zip(questions, got, right, strict=True) if g != r]
    fail(
        f"{100 * trained.share:.1f} % of the 1,000 sums that were not trained on are right; "
        f"{100 * target:.0f} % are asked for{why}",
        id="train.share",
        expected=target,
        got=trained.share,
        details=[f"{q}{g}" for q, g in wrong[:5]],
    )


# --- 3: rules -----------------------------------------------------------------------------------

mutants = course_module("mutants")
KINDS = tuple(mutants["HEALTHY"])


def in_eval(model: nn.Module, x: Tensor) -> Tensor:
    """Predict in evaluation mode, and put back every module's mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    with torch.no_grad():
        result = model(x)
    for module, mode in modes:
        module.training = mode
    return result


def with_pushed_modes(model: nn.Module, x: Tensor) -> Tensor:
    """The same, with gradients."""
    modes = {name: module.training for name, module in model.named_modules()}
    result = model.eval()(x)
    for name, module in model.named_modules():
        module.training = modes[name]
    return result


def train_afterwards(model: nn.Module, x: Tensor) -> Tensor:
    """Predict, and leave all of the model in training mode."""
    result = model.eval()(x)
    model.train()
    return result


def only_the_top(model: nn.Module, x: Tensor) -> Tensor:
    """Switch nothing but the outermost module."""
    was = model.training
    model.training = False
    result = model(x)
    model.training = was
    return result


def without_norms(model: nn.Module, x: Tensor) -> Tensor:
    """Switch the dropouts to training and back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    result = model(x)
    for module, mode in modes:
        module.training = mode
    return result


def pooled_by_scores(x: Tensor, mask: Tensor) -> Tensor:
    """Attention over the places, scores are the first channel."""
    weights = x[..., 0].masked_fill(~mask, -torch.inf).softmax(1)
    return torch.einsum("bs,bsd->bd", weights, x.masked_fill(~mask[..., None], 0))


def pairs_at_random(ids: Tensor, ctx: int) -> tuple[Tensor, Tensor]:
    """Windows that begin anywhere."""
    places = torch.randint(len(ids) - ctx, (7, 1)) + torch.arange(ctx)
    return ids[places], ids[places + 1]


def pairs_moved_by(step: int) -> Callable[[Tensor, int], tuple[Tensor, Tensor]]:
    """Windows whose targets are `step` places later."""

    def subject(ids: Tensor, ctx: int) -> tuple[Tensor, Tensor]:
        places = torch.arange(1, len(ids) - ctx - 1, 2)[:, None] + torch.arange(ctx)
        return ids[places], ids[places + step]

    return subject


def last_repeated(ids: Tensor, ctx: int) -> tuple[Tensor, Tensor]:
    """The last target of each window is its last input."""
    x = ids[: len(ids) // ctx * ctx].view(-1, ctx)
    return x, torch.cat([x[:, 1:], x[:, -1:]], 1)


def one_buffer() -> Callable[[Tensor], Tensor]:
    """All results lie in the same memory."""
    kept: list[Tensor] = []

    def subject(x: Tensor) -> Tensor:
        if not kept or kept[0].shape != x.shape:
            kept[:] = [torch.empty_like(x)]
        return torch.mul(x, 3, out=kept[0])

    return subject


def data_doubled(x: Tensor) -> Tensor:
    """Change x so that its version doesn't tell."""
    x.data.mul_(2)
    return x.clone()


HEALTHY: dict[str, list[Callable[..., Any]]] = {
    "dependency": [
        lambda x: x.cumsum(0),
        lambda x: x.relu() * 2 - 1,
        lambda x: x.cummax(0).values,
    ],
    "mode": [in_eval, with_pushed_modes, lambda model, x: copy.deepcopy(model).eval()(x)],
    "mask": [
        lambda x, mask: x.where(mask[..., None], 0).sum(1) / mask.sum(1)[:, None],
        lambda x, mask: x.masked_fill(~mask[..., None], -torch.inf).amax(1),
        pooled_by_scores,
    ],
    "shift": [
        lambda ids, ctx: (ids[:-1].unfold(0, ctx, 1), ids[1:].unfold(0, ctx, 1)),
        pairs_at_random,
        pairs_moved_by(1),
    ],
    "alias": [lambda x: x.clone(), lambda x: torch.cat([x, x]), lambda x: x.sort(0).values],
    "order": [
        lambda x: x.permute(2, 0, 1).contiguous(),
        lambda x: x.movedim(2, 0),
        lambda x: torch.einsum("abc->cab", x),
    ],
    "dtype": [lambda x: 0.5 * x + 1, lambda x: x.softmax(-1), lambda x: x.double().exp().to(x)],
    "reduction": [
        lambda x, y: (x - y).abs().mean(),
        lambda x, y: (x - y).square().sum(1).mean(),
        lambda x, y: ((x * y).sum() / x.numel()).exp(),
    ],
}
VARIANTS: dict[str, list[Callable[..., Any]]] = {
    "dependency": [
        lambda x: x / x.abs().amax(0),
        lambda x: torch.cat([x[1:], x[:1]]),
        lambda x: x.softmax(0),
    ],
    "mode": [train_afterwards, only_the_top, without_norms],
    "mask": [
        lambda x, mask: (x * mask[..., None]).sum(1) / x.shape[1],
        lambda x, mask: (x * ~mask[..., None]).sum(1) / (~mask).sum(1, keepdim=True),
        lambda x, mask: x.amax(1),
    ],
    "shift": [pairs_moved_by(2), pairs_moved_by(-1), last_repeated],
    "alias": [one_buffer(), data_doubled, lambda x: x.T],
    "order": [
        lambda x: x.transpose(0, 2),
        lambda x: x.contiguous().view(x.shape[2], x.shape[0], x.shape[1]).clone(),
        lambda x: x.permute(2, 0, 1).flip(1),
    ],
    "dtype": [
        lambda x: x.double() + 1,
        lambda x: x.bfloat16(),
        lambda x: (x > 0).long(),
    ],
    "reduction": [
        lambda x, y: (x - y).square().sum() / 7,
        lambda x, y: (x - y).square().sum(1),
        lambda x, y: (x - y).abs().mean(0),
    ],
}


def rules_of(scratch: Path) -> list[tuple[str, Callable[..., Any]]]:
    """The five rules of the submission; what they raise names the line."""
    space = beside(scratch, "rules")
    found = space.get("RULES")
    if found is None and "# TODO 3" in text_of(scratch, "rules.py"):
        raise NotImplementedError("day28 T3: rules")
    expect(
        isinstance(found, list | tuple)
        and all(isinstance(p, tuple | list) and len(p) == 2 and callable(p[1]) for p in found),
        "RULES in rules.py is no list of pairs (class, rule)",
        id="rules.list",
    )
    kinds = [kind for kind, _ in found]
    for kind in kinds:
        expect(kind in KINDS, f"{kind!r} in RULES is none of the classes {', '.join(KINDS)}")
    expect(
        len(kinds) == 5 and len(set(kinds)) == 5,
        f"RULES has the classes {', '.join(kinds) or 'none'}; five different ones are asked for",
        id="rules.five",
    )
    return [(kind, rule) for kind, rule in found]


def anonymous(subject: Callable[..., Any]) -> Callable[..., Any]:
    """The function behind a name and a text that say nothing."""

    def fn(*args: Any) -> Any:
        return subject(*args)

    return fn


def verdict(
    kind: str, rule: Callable[..., Any], subject: Callable[..., Any], arguments: tuple[Any, ...]
) -> bool:
    """What a rule says of a subject."""
    with places("rules"):
        got = rule(anonymous(subject), arguments)
    expect(
        isinstance(got, bool),
        f"the rule for {kind} returns {type(got).__name__}; True or False is asked for",
        id="rules.bool",
    )
    return got


def state_of(value: Any) -> Any:
    """A copy to compare a sample with."""
    if isinstance(value, nn.Module):
        weights = {k: w.clone() for k, w in value.state_dict().items()}
        return weights, [module.training for module in value.modules()]
    return value.clone() if isinstance(value, Tensor) else value


def is_same(one: Any, other: Any) -> bool:
    """Whether two states agree."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return all(torch.equal(value, other[name]) for name, value in one.items())
    if isinstance(one, tuple):
        return all(is_same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


@pytest.mark.task("rules")
class TestRules:
    @pytest.mark.points(3, "structure")
    def test_five_classes(self, submission, scratch):
        """There are rules for five different classes."""
        assert callable(submission.train)
        rules_of(scratch)

    @pytest.mark.points(6, "value")
    @pytest.mark.after("test_five_classes")
    def test_healthy(self, submission, scratch):
        """Each rule accepts the healthy functions of its class."""
        assert callable(submission.train)
        for kind, rule in rules_of(scratch):
            subjects = mutants["HEALTHY"][kind] + HEALTHY[kind]
            wrong = [
                subject
                for seed, subject in enumerate(subjects)
                if not verdict(kind, rule, subject, mutants["sample"](kind, seed))
            ]
            expect(
                not wrong,
                f"the rule for {kind} says False of {len(wrong)} of {len(subjects)} healthy "
                "functions: it asks for more than the class does",
                id="rules.healthy",
            )

    @pytest.mark.points(4, "value")
    @pytest.mark.after("test_five_classes")
    def test_public_mutants(self, submission, scratch):
        """Each rule finds both sick functions of mutants.py."""
        assert callable(submission.train)
        for kind, rule in rules_of(scratch):
            for seed, subject in enumerate(mutants["SICK"][kind]):
                expect(
                    not verdict(kind, rule, subject, mutants["sample"](kind, 10 + seed)),
                    f"the rule for {kind} says True of `{subject.__name__}` of mutants.py, called "
                    "through a function of another name",
                    id="rules.public",
                )

    @pytest.mark.points(3, "value")
    @pytest.mark.after("test_five_classes")
    def test_variants(self, submission, scratch):
        """Each rule finds one of three other sick functions, or more."""
        assert callable(submission.train)
        found = {
            kind: sum(
                not verdict(kind, rule, subject, mutants["sample"](kind, 20 + seed))
                for seed, subject in enumerate(VARIANTS[kind])
            )
            for kind, rule in rules_of(scratch)
        }
        picture(
            "bars",
            "What the rules find",
            "Of three sick functions of each class that are not in mutants.py.",
            labels=list(found),
            series=[{"label": "found", "values": list(found.values())}],
            log=False,
            unit="of 3",
            limit=None,
        )
        measured(f"{sum(found.values())} of 15")
        for kind, count in found.items():
            expect(
                count > 0,
                f"the rule for {kind} finds none of three sick functions that are not in "
                "mutants.py; is it made for the public ones?",
                id="rules.variants",
            )

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_five_classes")
    def test_raising(self, submission, scratch):
        """A function that raises is not healthy."""
        assert callable(submission.train)

        def broken(*args: Any) -> Any:
            raise ValueError("a subject that raises")

        for kind, rule in rules_of(scratch):
            try:
                got = rule(broken, mutants["sample"](kind, 31))
            except Exception:
                fail(
                    f"the rule for {kind} lets an exception of the function through; it counts as "
                    "False",
                    id="rules.raises",
                )
            expect(got is False, f"the rule for {kind} gives {got!r} for a function that raises")

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_five_classes")
    def test_leaves_the_sample(self, submission, scratch):
        """The rules leave the sample as it is."""
        assert callable(submission.train)
        for kind, rule in rules_of(scratch):
            for subject in mutants["HEALTHY"][kind] + mutants["SICK"][kind]:
                arguments = mutants["sample"](kind, 37)
                before = tuple(state_of(value) for value in arguments)
                verdict(kind, rule, subject, arguments)
                expect(
                    is_same(before, tuple(state_of(value) for value in arguments)),
                    f"after the rule for {kind} the sample is another: give the function a copy",
                    id="rules.sample",
                )

    @pytest.mark.points(2, "structure")
    def test_reflection(self, submission, scratch):
        """reflection.json has a misconception, a test and a rule of its own for each week."""
        assert callable(submission.train)
        try:
            found = json.loads(text_of(scratch, "reflection.json"))
        except ValueError as error:
            fail(f"reflection.json is no JSON: {error}")
        weeks = [f"week{number}" for number in (1, 2, 3, 4)]
        expect(
            isinstance(found, dict) and set(found) == set(weeks),
            f"reflection.json has the keys {', '.join(weeks)}, nothing else",
            id="reflection.keys",
        )
        catalogue = Path(__file__).with_name("codes.md").read_text(encoding="utf-8")
        for week in weeks:
            entry = found[week]
            expect(
                isinstance(entry, dict)
                and set(entry) == {"misconception", "test", "rule"}
                and all(isinstance(text, str) and text.strip() for text in entry.values()),
                f"reflection.json, {week}: a text is missing for misconception, test or rule",
                id="reflection.texts",
            )
            code = entry["misconception"]
            expect(
                f"`{code}`" in catalogue,
                f"reflection.json, {week}: {code} is no code of codes.md",
                id="reflection.code",
            )
        rules = {found[week]["rule"].strip() for week in weeks}
        expect(len(rules) == 4, "reflection.json: two weeks have the same rule")


# --- 4: writing fast ----------------------------------------------------------------------------

gpt = course_module("gpt")


def model_file(seed: int, **sizes: int) -> tuple[Path, nn.Module]:
    """A file for FastGPT.load, and the model in it."""
    cfg = {"vocab": 29, "ctx": 80, "dim": 24, "heads": 3, "layers": 3} | sizes
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = gpt["GPT"](gpt["GPTConfig"](**cfg)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    path = folder() / "gpt.pt"
    torch.save({"cfg": cfg, "model": model.state_dict()}, path)
    return path, model


def slowly(model: nn.Module, ids: Tensor, n: int) -> tuple[Tensor, float]:
    """The greedy tokens, and the smallest distance between the two best logits on the way."""
    margin = float("inf")
    with torch.no_grad():
        for _ in range(n):
            last = model(ids)[:, -1]
            top = last.topk(2).values
            margin = min(margin, (top[:, 0] - top[:, 1]).min().item())
            ids = torch.cat([ids, last.argmax(-1)[:, None]], dim=1)
    return ids, margin


def prompts(
    model: nn.Module, batch: int, lengths: list[int], n: int
) -> list[tuple[Tensor, Tensor]]:
    """Prompts (batch, length) and what follows, where no two best logits are close."""
    found = []
    for length in lengths:
        for _ in range(20):
            ids = rand_ints(batch, length, high=29)
            expected, margin = slowly(model, ids, n)
            if margin > 1e-3:
                found.append((ids, expected))
                break
    assert found, "no prompt without close logits"
    return found


def fast(scratch: Path, path: Path) -> Callable[..., Tensor]:
    """The `generate` of a loaded model; what it raises names the line."""
    with places("fast_gpt"):
        loaded = function_class(scratch).load(path)

    def generate(ids: Tensor, n: int) -> Tensor:
        with places("fast_gpt"):
            return loaded.generate(ids, n)

    return generate


def function_class(scratch: Path) -> Any:
    """The class FastGPT."""
    found = beside(scratch, "fast_gpt").get("FastGPT")
    expect(isinstance(found, type), "fast_gpt.py defines no class FastGPT", id="file.name")
    return found


def same_tokens(got: Any, expected: Tensor, prompt: int, what: str) -> None:
    """The tokens are those of the slow way."""
    got = assert_tensor(got)
    assert_shape(got, batch=expected.shape[0], seq=expected.shape[1])
    if torch.equal(got, expected):
        return
    place = int((got != expected).any(0).nonzero()[0])
    if place < prompt:
        fail(f"{what}: the result doesn't begin with the prompt", id="fast.prompt")
    fail(
        f"{what}: new token {place - prompt + 1} is {got[:, place].tolist()}; "
        f"gpt.generate writes {expected[:, place].tolist()}",
        id="fast.tokens",
        expected=expected[:, place].tolist(),
        got=got[:, place].tolist(),
    )


def operators_of_a_token(scratch: Path, layers: int, batch: int = 3) -> tuple[float, list[str]]:
    """Operators for one more token, and the names of those for sixteen."""
    path, _ = model_file(5, layers=layers)
    generate = fast(scratch, path)
    ids = rand_ints(batch, 7, high=29)
    generate(ids.clone(), 3)
    few, many = count_ops(generate, ids.clone(), 8), count_ops(generate, ids.clone(), 24)
    more = list(many.names)
    for name in few.names:
        if name in more:
            more.remove(name)
    return (many.count - few.count) / 16, more


@pytest.mark.task("FastGPT")
class TestFastGPT:
    @pytest.mark.points(4, "value")
    def test_tokens(self, submission, scratch):
        """It writes the tokens of the slow way, one text at a time."""
        assert callable(submission.train)
        path, model = model_file(1)
        generate = fast(scratch, path)
        for ids, expected in prompts(model, 1, [2, 5, 11], 64):
            got = generate(ids.clone(), 64)
            same_tokens(got, expected, ids.shape[1], f"a prompt of {ids.shape[1]} tokens")

    @pytest.mark.points(2, "value")
    def test_batch(self, submission, scratch):
        """It writes three texts at once, and any number of tokens."""
        assert callable(submission.train)
        path, model = model_file(2, layers=2, heads=4, dim=20)
        generate = fast(scratch, path)
        for (ids, expected), n in zip(prompts(model, 3, [3, 7, 13], 64), (64, 1, 5), strict=False):
            got = generate(ids.clone(), n)
            seq = ids.shape[1]
            same_tokens(got, expected[:, : seq + n], seq, f"3 prompts of {seq} tokens, n = {n}")

    @pytest.mark.points(3, "value")
    def test_second_prompt(self, submission, scratch):
        """A second prompt, and a second model, have texts of their own."""
        assert callable(submission.train)
        path, model = model_file(3, layers=2)
        other_path, other = model_file(4, layers=2)
        generate = fast(scratch, path)
        (one, first), (two, second) = prompts(model, 1, [5, 5], 12)
        (_, third), *_ = [(one, slowly(other, one, 12)[0])]
        what = "a second prompt of the same length"
        same_tokens(generate(one.clone(), 12), first, 5, "a prompt")
        same_tokens(generate(two.clone(), 12), second, 5, what)
        same_tokens(generate(one.clone(), 7), first[:, :12], 5, "the first prompt again, shorter")
        loaded = fast(scratch, other_path)
        same_tokens(loaded(one.clone(), 12), third, 5, "a second model")
        same_tokens(generate(one.clone(), 12), first, 5, "the first model after a second")

    @pytest.mark.points(6, "structure")
    @pytest.mark.after("test_tokens")
    def test_operators(self, submission, scratch):
        """A token takes at most 24 operators a layer, and 16."""
        assert callable(submission.train)
        figures = {layers: operators_of_a_token(scratch, layers)[0] for layers in (1, 3)}
        picture(
            "bars",
            "Operators for one token",
            "Views are not counted; the limit is that of three layers.",
            labels=[f"{layers} layers" for layers in figures],
            series=[{"label": "operators", "values": list(figures.values())}],
            log=False,
            unit="operators",
            limit=24 * 3 + 16,
        )
        measured(f"{figures[3]:.0f} with 3 layers")
        for layers, count in figures.items():
            most = 24 * layers + 16
            expect(
                count <= most,
                f"with {layers} layers and 3 texts, one more token takes {count:.0f} operators "
                f"(views not counted); {most} are the most",
                id="fast.operators",
                expected=most,
                got=count,
            )

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_tokens")
    def test_no_reading(self, submission, scratch):
        """Nothing is read from the device between two tokens."""
        assert callable(submission.train)
        _, names = operators_of_a_token(scratch, 2)
        expect(
            not {"_local_scalar_dense", "item", "is_nonzero", "equal"} & set(names),
            "a number of a tensor is read for every token (item, int, bool): on a GPU "
            "each reading waits for all work before it",
            id="fast.reading",
        )

    @pytest.mark.points(2, "structure")
    @pytest.mark.after("test_tokens")
    def test_each_token_once(self, submission, scratch):
        """Each token goes through the maps once."""
        assert callable(submission.train)
        path, model = model_file(6)
        generate = fast(scratch, path)
        ids = rand_ints(1, 16, high=29)
        with FlopCounterMode(display=False) as used:
            generate(ids.clone(), 40)
        with torch.no_grad(), FlopCounterMode(display=False) as needed:
            model(rand_ints(1, 56, high=29))
        times = used.get_total_flops() / needed.get_total_flops()
        measured(f"{times:.1f} of one forward pass")
        expect(
            times <= 3,
            f"16 tokens and 40 new ones take {times:.1f} times the multiplications of one forward "
            "pass of 56 tokens: keys and values of old tokens are computed again",
            id="fast.again",
            got=times,
        )

    @pytest.mark.points(2, "speed")
    @pytest.mark.after("test_tokens", "test_batch")
    def test_speed(self, submission, scratch):
        """It takes at most half the time of the slow way."""
        assert callable(submission.train)
        path, model = model_file(7, layers=2, dim=48, ctx=160)
        generate = fast(scratch, path)

        def make(generator: torch.Generator, device: Any) -> tuple[Tensor]:
            return (torch.randint(29, (4, 120), generator=generator),)

        assert_speed(
            lambda ids: generate(ids, 32),
            lambda ids: gpt["generate"](model, ids, 32),
            make,
            limit=0.5,
            what="writing 32 tokens after 4 prompts of 120",
        )
