"""Day 27 asks for a language model from memory, its shapes, its costs and its ablations."""

import ast
import contextlib
import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from grader.testing import (
    assert_close,
    assert_dtype,
    assert_equal,
    assert_runs_on_meta,
    assert_shape,
    assert_tensor,
    attention_of,
    expect,
    fail,
    forbid,
    forbid_torch,
    measured,
    picture,
    rand_ints,
    randn,
    saved_memory,
    show_attention,
    smallest,
    train_until,
)

SIZES = {"vocab": 17, "dim": 12, "heads": 3, "layers": 2, "ctx": 7}
BANNED = ("scaled_dot_product_attention", "multi_head_attention_forward")


def course_module(name: str) -> dict[str, Any]:
    """The names of a file of the course, from the suite's own folder."""
    text = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    space: dict[str, Any] = {"__name__": name}
    exec(compile(text, f"{name}.py", "exec", dont_inherit=True), space)
    return space


def text_ids(n: int, seed: int) -> Tensor:
    """The ids of n characters of the text, int64 (n,)."""
    made = course_module("toytext")
    return torch.tensor(made["encode"](made["toytext"](n, seed)))


def windows(ids: Tensor, batch: int, ctx: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random windows and the same one step later, (batch, ctx) each."""
    starts = torch.randint(len(ids) - ctx, (batch, 1), generator=generator)
    found = ids[starts + torch.arange(ctx + 1)]
    return found[:, :-1].contiguous(), found[:, 1:].contiguous()


def scrambled(submission: ModuleType, **sizes: Any) -> nn.Module:
    """A model whose parameters are all away from where they started."""
    model = submission.MiniLM(**(SIZES | sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def logits_of(model: nn.Module, ids: Tensor) -> Tensor:
    """The logits (batch, seq, vocab) of ids, without gradients."""
    with torch.no_grad():
        result = model(ids.clone())
    expect(
        isinstance(result, tuple) and len(result) == 2,
        f"model(ids) returns {type(result).__name__}; expected the tuple (logits, loss)",
    )
    return assert_tensor(result[0], "the logits")


def largest_change(one: Tensor, other: Tensor) -> float:
    """How far two tensors are apart, as a share of the largest number in them."""
    scale = max(one.abs().max().item(), other.abs().max().item(), 1e-30)
    return ((one - other).abs().max() / scale).item()


NOTHING = 1e-4
"""The share below which a change is rounding; what a mistake changes is a percent and more."""


# --- 1 ------------------------------------------------------------------------------------------


def trained_step(model: nn.Module, optimizer: torch.optim.Optimizer, step: int, x: Any, y: Any):
    """One step of AdamW with 30 steps of warm-up and the norm clipped to 1; returns the loss."""
    for group in optimizer.param_groups:
        group["lr"] = 3e-3 * min(1.0, (step + 1) / 30)
    _, loss = model(x, y)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), max_norm=1)
    optimizer.step()
    return loss.item()


class Text:
    """What the checks train on and evaluate on."""

    def __init__(self) -> None:
        self.ids, val = text_ids(20_000, 0), text_ids(48 * 41 + 1, 1)
        self.x_val, self.y_val = val[:-1].view(41, 48), val[1:].view(41, 48)
        names = course_module("toytext")
        self.encode, self.decode = names["encode"], names["decode"]


class Run:
    """The training of one model, step by step.

    With the reference and the seeds 0 to 4, `curve` after 300 steps gives REFERENCE:
    `python benchmarks/curves.py day27`.
    """

    def __init__(self, submission: ModuleType, text: Text, seed: int) -> None:
        self.text = text
        self.model = submission.MiniLM(vocab=25, dim=64, heads=4, layers=2, ctx=48).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 3e-3)
        self.draws = torch.Generator().manual_seed(seed)
        self.done = 0
        self.last = math.log(25)
        self.curve: dict[int, float] = {}  # step -> validation loss
        self.samples: list[tuple[int, str]] = []

    def sample(self) -> None:
        """Keep what it writes, greedily, after the first eight characters of the other text."""
        with contextlib.suppress(Exception):  # a picture costs nobody a point
            ids = greedy(self.model, self.text.x_val[:1, :8], 40, 48)
            self.samples.append((self.done, self.text.decode(ids[0].tolist())))

    def step(self) -> float:
        """Make one; returns the validation loss, which every tenth step measures."""
        text = self.text
        if self.done in (0, 50):
            self.sample()
        batch = windows(text.ids, 16, 48, self.draws)
        trained_step(self.model, self.optimizer, self.done, *batch)
        self.done += 1
        if self.done % 10 == 0:
            logits = logits_of(self.model, text.x_val)
            self.last = F.cross_entropy(logits.flatten(0, 1), text.y_val.flatten()).item()
            self.curve[self.done] = self.last
        if self.done == 121 and self.last > 2.5:
            self.show(f"Yours is at {self.last:.2f} after 120 steps.")
            fail(
                f"after 120 steps the validation loss is {self.last:.2f}, not far below "
                "2.84, what the frequencies of the characters alone give",
                id="training.stuck",
                got=self.last,
            )
        return self.last

    def show(self, what: str) -> None:
        """Draw the curve beside the model solution's."""
        ahead = sum(x <= max(self.done, REACHED) for x in REFERENCE["x"])
        reference = {key: values[:ahead] for key, values in REFERENCE.items()}
        picture(
            "curve",
            "The validation loss",
            f"{what} The band is what five trainings of the model solution gave.",
            series=[
                {"label": "yours", "x": list(self.curve), "y": list(self.curve.values())},
                {"label": "model solution", **reference},
            ],
            levels=LEVELS,
            x_label="step",
            y_label="nats a character",
            log_y=False,
            limit=0.7,
        )


LEVELS = [
    {"label": "knows nothing", "y": 3.22},
    {"label": "frequencies", "y": 2.84},
    {"label": "pairs", "y": 1.53},
]

# Median, least and largest of the model solution over five seeds, all of them below 0.7 after
# REACHED steps.
# fmt: off
REFERENCE = {
    "x": [*range(10, 301, 10)],
    "y": [
        2.77, 2.31, 1.92, 1.67, 1.51, 1.37, 1.24, 1.16, 1.02, 0.9, 0.77, 0.71, 0.59, 0.54, 0.46,
        0.43, 0.4, 0.39, 0.36, 0.36, 0.35, 0.33, 0.33, 0.31, 0.33, 0.33, 0.31, 0.31, 0.31, 0.31,
    ],
    "low": [
        2.76, 2.3, 1.89, 1.65, 1.5, 1.37, 1.23, 1.13, 0.96, 0.84, 0.7, 0.62, 0.52, 0.43, 0.43,
        0.37, 0.37, 0.36, 0.34, 0.35, 0.33, 0.32, 0.31, 0.31, 0.32, 0.31, 0.3, 0.3, 0.29, 0.28,
    ],
    "high": [
        2.79, 2.33, 1.94, 1.72, 1.55, 1.4, 1.29, 1.22, 1.09, 1.02, 0.92, 0.84, 0.74, 0.65, 0.59,
        0.53, 0.47, 0.42, 0.41, 0.38, 0.36, 0.41, 0.35, 0.34, 0.34, 0.33, 0.32, 0.31, 0.32, 0.32,
    ],
}
# fmt: on
REACHED = 140


def folded(text: str) -> list[str]:
    """The first lines of a text, long ones folded: one that only writes line ends fills no page."""
    lines = [line[i : i + 40] for line in text.split("\n") for i in range(0, len(line) or 1, 40)]
    return lines[:4]


def own_definitions(source: str, name: str) -> list[ast.stmt]:
    """The classes and functions of a module that the one called `name` uses, itself included."""
    tree = ast.parse(source)
    kinds = ast.FunctionDef | ast.ClassDef
    reached, found, waiting = {"tap", "Row"}, [], [name]
    while waiting:
        wanted = waiting.pop()
        if wanted in reached:
            continue
        reached.add(wanted)
        for node in tree.body:
            if isinstance(node, kinds) and node.name == wanted:
                found.append(node)
                waiting += [n.id for n in ast.walk(node) if isinstance(n, ast.Name)]
    return found


def is_docstring(node: ast.stmt) -> bool:
    """Whether the statement is a bare text."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def imported(source: str) -> dict[str, str]:
    """Names that imports bind, anywhere in a module -> the package they come from."""
    names: dict[str, str] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                root = alias.name.partition(".")[0]
                names[alias.asname or root] = root
        elif isinstance(node, ast.ImportFrom):
            root = (node.module or "").partition(".")[0]
            names |= {alias.asname or alias.name: root for alias in node.names}
    return names


def greedy(model: nn.Module, ids: Tensor, n: int, ctx: int, keep_first: bool = False) -> Tensor:
    """What n forward passes append."""
    for _ in range(n):
        seen = ids[:, :ctx] if keep_first else ids[:, -ctx:]
        best = logits_of(model, seen)[:, -1].argmax(-1)
        ids = torch.cat([ids, best[:, None]], dim=1)
    return ids


def continued(
    submission: ModuleType, ctx: int, batch: int, seq: int, n: int
) -> tuple[nn.Module, Tensor, Tensor]:
    """A model, tokens (batch, seq), and the same with what n forward passes append.

    What they append is not the same token all over, and not what other windows would give.
    """
    for _ in range(30):
        model, ids = scrambled(submission, ctx=ctx), rand_ints(batch, seq, high=17)
        expected = greedy(model, ids, n, ctx)
        new = expected[:, seq:]
        others = [greedy(model, ids, n, max(1, ctx - 1)), greedy(model, ids, n, ctx, True)]
        varies = n < 2 or bool((new != new[:, :1]).any())
        if varies and (seq + n <= ctx or not any(torch.equal(expected, o) for o in others)):
            break
    return model, ids, expected


@pytest.mark.task("MiniLM")
class TestMiniLM:
    @pytest.mark.points(1, "shape")
    def test_shape(self, submission):
        """The logits have one row for each token."""
        for batch, seq in ((1, 1), (2, 5), (3, 7)):
            model = submission.MiniLM(**SIZES)
            result = model(rand_ints(batch, seq, high=17))
            expect(
                isinstance(result, tuple) and len(result) == 2,
                f"model(ids) returns {type(result).__name__}; expected the tuple (logits, loss)",
            )
            assert_shape(result[0], batch=batch, seq=seq, vocab=17)
            assert_dtype(result[0], torch.float32, "the logits")
            expect(result[1] is None, "without targets the loss is None")

    @pytest.mark.points(3, "value")
    def test_loss(self, submission):
        """The loss is the mean cross entropy with the targets as given."""
        for batch, seq in ((2, 5), (3, 7)):
            model = scrambled(submission)
            ids, targets = rand_ints(batch, seq, high=17), rand_ints(batch, seq, high=17)
            logits, loss = model(ids.clone(), targets.clone())
            logits, expected = logits.detach(), logits.detach().log_softmax(-1)
            expected = -expected.gather(-1, targets[..., None]).mean()
            assert_close(
                assert_tensor(loss, "the loss").detach(),
                expected,
                what="the loss",
                explain={
                    "the targets are shifted once more inside; they come already shifted": (
                        F.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten())
                    ),
                    "the loss is computed from ids; the targets are the second argument": (
                        F.cross_entropy(logits.flatten(0, 1), ids.flatten())
                    ),
                    "the losses are added up; their mean is wanted": expected * batch * seq,
                    "cross entropy is given probabilities; it takes the raw logits": (
                        F.cross_entropy(logits.softmax(-1).flatten(0, 1), targets.flatten())
                    ),
                },
            )

    @pytest.mark.points(3, "value")
    @pytest.mark.hint("Which standard deviation have the rows of nn.Embedding at the start?")
    def test_init(self, submission):
        """A new model's loss is ln vocab, within 5 percent."""
        for vocab, dim, heads in ((25, 64, 4), (97, 48, 3)):
            model = submission.MiniLM(vocab=vocab, dim=dim, heads=heads, layers=2, ctx=29)
            with torch.no_grad():
                _, loss = model(rand_ints(8, 29, high=vocab), rand_ints(8, 29, high=vocab))
            got = float(loss)
            expect(
                abs(got / math.log(vocab) - 1) < 0.05,
                f"a new model with a vocabulary of {vocab} has the loss {got:.3f}; one that knows "
                f"nothing has ln {vocab} = {math.log(vocab):.3f}. Larger: the first logits are too "
                "large, so it is sure of something it can't know; begin with smaller weights",
                id="init.loss",
                expected=math.log(vocab),
                got=got,
            )

    @pytest.mark.points(4, "structure")
    def test_causal(self, submission):
        """A token's logits don't depend on later tokens."""
        for seq in (2, 5, 7):
            model = scrambled(submission)
            ids = rand_ints(2, seq, high=17)
            before = logits_of(model, ids)
            for j in range(1, seq):
                other = ids.clone()
                other[:, j] = (other[:, j] + 1 + rand_ints(2, high=15)) % 17
                after = logits_of(model, other)
                change = largest_change(before[:, :j], after[:, :j])
                expect(
                    change < NOTHING,
                    f"with another token at place {j}, the logits before it change by "
                    f"{100 * change:.2g} %: the future leaks, so the model can copy the answer. "
                    "Mask scores of later keys before the softmax",
                    id="causal",
                    got=change,
                )

    @pytest.mark.points(2, "structure")
    def test_batch(self, submission):
        """A text's logits don't depend on the other texts."""
        model = scrambled(submission)
        ids = rand_ints(3, 5, high=17)
        before = logits_of(model, ids)
        other = ids.clone()
        other[1] = (other[1] + 1 + rand_ints(5, high=15)) % 17
        after = logits_of(model, other)
        for i in (0, 2):
            change = largest_change(before[i], after[i])
            expect(
                change < NOTHING,
                f"with another text 1 in the batch, the logits of text {i} change by "
                f"{100 * change:.2g} %: examples are mixed, look for a reshape or a mean that "
                "runs over the batch",
                id="batch",
                got=change,
            )
        alone = logits_of(model, ids[:1])
        assert_close(alone, before[:1], rtol=1e-3, atol=1e-3, what="the logits of a batch of one")

    @pytest.mark.points(3, "structure")
    def test_mixing(self, submission):
        """The logits at every place depend on the first token."""
        model = scrambled(submission)
        ids = rand_ints(2, 7, high=17)
        other = ids.clone()
        other[:, 0] = (other[:, 0] + 1 + rand_ints(2, high=15)) % 17
        before, after = logits_of(model, ids), logits_of(model, other)
        for t in range(7):
            change = largest_change(before[:, t], after[:, t])
            expect(
                change > NOTHING,
                f"with another first token, the logits at place {t} stay as they are: nothing "
                "flows from token to token. Such a model learns too, but never below the bigram "
                "entropy, 1.53 nats for the toytext",
                id="mixing",
                got=change,
            )

    @pytest.mark.points(4, "structure")
    @pytest.mark.hint(
        "With several layers the causal mask alone tells tokens apart; with one it doesn't."
    )
    def test_positions(self, submission):
        """Exchanging two earlier tokens changes the last logits."""
        model = scrambled(submission, layers=1)
        ids = torch.stack([torch.randperm(17)[:6] for _ in range(2)])
        before = logits_of(model, ids)[:, -1]
        for i, j in ((1, 3), (0, 4)):
            other = ids.clone()
            other[:, [i, j]] = ids[:, [j, i]]
            change = largest_change(before, logits_of(model, other)[:, -1])
            expect(
                change > NOTHING,
                f"with one layer, exchanging the tokens at places {i} and {j} leaves the logits of "
                "the last token as they are: the model sees a bag of words. Each place needs a "
                "vector of its own, added to the token's",
                id="positions",
                got=change,
            )

    @pytest.mark.points(4, "value")
    def test_generate(self, submission):
        """generate appends the most likely token each time."""
        for batch, seq, n in ((1, 1, 1), (3, 2, 5), (2, 5, 2), (2, 3, 0)):
            model, ids, expected = continued(submission, 7, batch, seq, n)
            got = model.generate(ids.clone(), n)
            assert_shape(got, batch=batch, seq=seq + n)
            assert_dtype(got, torch.int64)
            assert_equal(got[:, :seq], ids, what="the beginning of what is generated")
            first = (got[:, seq:] != expected[:, seq:]).any(0).nonzero()
            if len(first):
                place = int(first[0])
                fail(
                    f"new token {place} is not the one with the largest logit at the last place, "
                    "given all tokens so far, the new ones included",
                    id="generate",
                    expected=expected.tolist(),
                    got=got.tolist(),
                )

    @pytest.mark.points(3, "value")
    @pytest.mark.after("test_generate")
    def test_generate_past_ctx(self, submission):
        """Past ctx, generate sees the last ctx tokens."""
        for ctx, seq, n in ((3, 2, 6), (5, 11, 4), (7, 7, 9)):
            model, ids, expected = continued(submission, ctx, 3, seq, n)
            try:
                got = model.generate(ids.clone(), n)
            except (IndexError, RuntimeError, ValueError) as error:
                fail(
                    f"with ctx {ctx} and {seq} tokens given, generating {n} raises "
                    f"{type(error).__name__}: {error}; only the last {ctx} tokens go into the "
                    "model",
                    id="generate.ctx",
                )
            assert_shape(got, batch=3, seq=seq + n)
            if not torch.equal(got, expected):
                fail(
                    f"with ctx {ctx} and {seq} tokens given, {n} generated tokens differ from "
                    f"what repeated forward passes over the last {ctx} tokens give",
                    id="generate.ctx",
                    expected=expected.tolist(),
                    got=got.tolist(),
                )

    @pytest.mark.points(3, "training")
    @pytest.mark.after("test_shape", "test_loss")
    def test_overfits(self, submission):
        """One batch of 8 x 48 is learnt by heart in 100 steps."""
        ids = text_ids(5_000, 3)
        big = {"vocab": 25, "dim": 64, "heads": 4, "layers": 2, "ctx": 48}

        def make(seed: int) -> Callable[[], float]:
            model = submission.MiniLM(**big).train()
            adam = torch.optim.AdamW(model.parameters(), 3e-3)
            x, y = windows(ids, 8, 48, torch.Generator().manual_seed(seed))
            steps = iter(range(1000))
            return lambda: trained_step(model, adam, next(steps), x, y)

        train_until(make, 0.1, 100, seeds=2, need=1, what="the loss on one batch")

    @pytest.mark.points(2, "training")
    @pytest.mark.after("test_shape", "test_loss")
    def test_trains(self, submission):
        """300 steps bring the validation loss below 0.7."""
        text = Text()
        runs: list[Run] = []

        def make(seed: int) -> Callable[[], float]:
            runs.append(Run(submission, text, seed))
            return runs[-1].step

        beside = {"series": [{"label": "model solution", **REFERENCE}], "levels": LEVELS}
        what = "the validation loss"
        curve = train_until(make, 0.7, 300, seeds=2, need=1, what=what, beside=beside)
        run, last = runs[-1], len(curve)
        run.show(f"Yours is below 0.7 after {last} steps, where training ends.")
        run.sample()
        picture(
            "text",
            "What it writes",
            "Greedily, after the first eight characters, on the way.",
            panels=[
                {"label": f"step {step}", "lines": folded(said), "marked": []}
                for step, said in run.samples
            ],
        )
        sentence = "\nthe cat sees a b"
        show_attention(
            attention_of(run.model, torch.tensor([text.encode(sentence)])),
            sentence,
            "Where your trained model looks",
            "Each row is a character that looks at itself and at those before it, to guess the "
            "next one; stronger colour is more weight.",
            heads=4,
        )

    @pytest.mark.points(1, "structure")
    def test_device(self, submission):
        """What the model makes lies where the ids are."""
        model = submission.MiniLM(**SIZES)
        assert_runs_on_meta(model, rand_ints(2, 5, high=17), rand_ints(2, 5, high=17))

    @pytest.mark.points(1, "structure")
    def test_length(self, submission, source):
        """The model has at most 150 statements, of torch and math."""
        submission.MiniLM(**SIZES)(rand_ints(2, 5, high=17))
        own = own_definitions(source, "MiniLM")
        count = sum(
            isinstance(node, ast.stmt) and not is_docstring(node)
            for definition in own
            for node in ast.walk(definition)
        )
        measured(f"{count} statements")
        expect(
            count <= 150,
            f"MiniLM and what it uses have {count} statements; at most 150 are allowed",
            id="length",
            got=count,
            expected=150,
        )
        from_where = imported(source)
        used = {n.id for d in own for n in ast.walk(d) if isinstance(n, ast.Name)}
        harmless = {"torch", "math", "typing", "collections", "dataclasses", "__future__"}
        for name in sorted(used & from_where.keys()):
            expect(
                from_where[name] in harmless,
                f"MiniLM uses `{name}` of {from_where[name]}; only torch and math are allowed in "
                "it",
                id="imports",
            )

    @pytest.mark.points(1, "structure")
    def test_forbidden(self, submission, source):
        """No ready-made attention or transformer is used."""
        for node in ast.walk(ast.parse(source)):
            name = getattr(node, "attr", None) or getattr(node, "id", None)
            names = [name, *(a.name for a in getattr(node, "names", ()) if hasattr(a, "name"))]
            for found in filter(None, names):
                last = str(found).rpartition(".")[2]
                is_banned = last in (*BANNED, "MultiheadAttention") or (
                    last.startswith("Transformer") and hasattr(nn, last)
                )
                expect(
                    not is_banned,
                    f"line {getattr(node, 'lineno', '?')} names {last}, which is forbidden: write "
                    "attention and blocks yourself",
                    id="forbidden",
                )
        with forbid(*BANNED, why="write attention yourself"):
            model = submission.MiniLM(**SIZES)
            model(rand_ints(2, 5, high=17), rand_ints(2, 5, high=17))
        for module in model.modules():
            kind = type(module)
            expect(
                not (
                    kind.__module__.startswith("torch.nn.modules.")
                    and kind.__name__.startswith(("Transformer", "Multihead"))
                ),
                f"the model holds an nn.{kind.__name__}, which is forbidden",
                id="forbidden",
            )


# --- 2 ------------------------------------------------------------------------------------------

TAPPED = (
    "ids",
    "tok",
    "pos",
    "x",
    "normed",
    "q",
    "k",
    "v",
    "scores",
    "weights",
    "context",
    "merged",
    "ffn_hidden",
    "logits",
    "loss",
)
SYMBOLS = "BTDHVF"


def rows_of(submission: ModuleType) -> list[Any]:
    """The rows of TRACE, each with name, shape and why."""
    rows = submission.TRACE
    expect(isinstance(rows, list) and len(rows) > 0, "TRACE has no row; it is a list of Row")
    for number, row in enumerate(rows):
        expect(
            all(hasattr(row, name) for name in ("name", "shape", "why")),
            f"TRACE[{number}] is no Row: it has no name, shape and why",
        )
    return rows


def evaluated(expression: str, values: dict[str, int]) -> int:
    """The number that a symbolic size stands for.

    Raises:
        CheckFailed: it holds something else than the symbols, + - * // and the number 1.
    """

    def of(node: ast.expr) -> int:
        match node:
            case ast.Name(id=name) if name in values:
                return values[name]
            case ast.Constant(value=1) if type(node.value) is int:
                return 1
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return of(left) + of(right)
            case ast.BinOp(left=left, op=ast.Sub(), right=right):
                return of(left) - of(right)
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                return of(left) * of(right)
            case ast.BinOp(left=left, op=ast.FloorDiv(), right=right):
                return of(left) // max(of(right), 1)
            case ast.Constant(value=number):
                return fail(
                    f"{expression!r} holds the number {number!r}: it is right for one "
                    "configuration only. Say it with B, T, D, H, V, F (the number 1 is allowed)",
                    id="trace.number",
                )
        return fail(
            f"{expression!r} holds {ast.unparse(node)!r}; B, T, D, H, V, F, + - * // and the "
            "number 1 are allowed",
            id="trace.grammar",
        )

    try:
        tree = ast.parse(expression, mode="eval")
    except (SyntaxError, ValueError):
        fail(f"{expression!r} is no expression of B, T, D, H, V, F", id="trace.grammar")
    return of(tree.body)


def sizes_of(row: Any, values: dict[str, int]) -> tuple[int, ...]:
    """The shape that a row predicts."""
    expect(
        isinstance(row.shape, tuple | list),
        f"the shape of {row.name} is a tuple of texts, such as ('B', 'T')",
    )
    for part in row.shape:
        expect(
            isinstance(part, str),
            f"the shape of {row.name} holds {part!r}: it is right for one configuration only. "
            "Write a text of B, T, D, H, V, F, such as 'D//H'",
            id="trace.number",
        )
    return tuple(evaluated(part, values) for part in row.shape)


def drawn_configuration() -> dict[str, int]:
    """Sizes that are all different, by symbol; F is the model's own."""
    width = random.choice((4, 6, 8))
    b, h, t, v = random.sample((2, 3, 5, 7, 11, 13), 4)
    return {"B": b, "T": t, "H": h, "V": v, "D": h * width}


class Traced:
    """One forward and backward of a model, with what it tapped."""

    def __init__(
        self,
        submission: ModuleType,
        monkeypatch: pytest.MonkeyPatch,
        values: dict[str, int],
        move: bool = True,
    ) -> None:
        self.seen: dict[str, Tensor] = {}
        self.values = dict(values)
        sizes = {
            "vocab": values["V"],
            "dim": values["D"],
            "heads": values["H"],
            "layers": 2,
            "ctx": values["T"] + 4,
        }
        with monkeypatch.context() as patch:
            self.model = scrambled(submission, **sizes) if move else submission.MiniLM(**sizes)
            assert callable(submission.tap)
            patch.setattr(submission, "tap", self.record)
            self.ids = rand_ints(values["B"], values["T"], high=values["V"])
            self.targets = rand_ints(values["B"], values["T"], high=values["V"])
            self.logits, self.loss = self.model(self.ids, self.targets)
        if "ffn_hidden" in self.seen and self.seen["ffn_hidden"].dim():
            self.values["F"] = self.seen["ffn_hidden"].shape[-1]

    def record(self, name: str, tensor: Tensor) -> Tensor:
        """What stands in for `tap`."""
        self.seen.setdefault(name, tensor)
        return tensor

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.seen:
            fail(f"{name} is not tapped: no tap({name!r}, …) was called", id="tap.missing")
        return assert_tensor(self.seen[name], f"the tensor tapped as {name}")

    def by_heads(self, name: str) -> list[Tensor]:
        """The tensor as (batch, heads, seq, dim // heads); two ways if it is not split yet."""
        tensor = self[name].detach()
        b, t, h, d = (self.values[s] for s in "BTHD")
        width = d // h
        if tensor.dim() == 4 and sorted(tensor.shape) == sorted((b, h, t, width)):
            order = [tensor.shape.index(size) for size in (b, h, t, width)]
            return [tensor.permute(order)]
        if tensor.shape == (b, t, d):
            halves = tensor.unflatten(-1, (h, width)).transpose(1, 2)
            return [halves, tensor.unflatten(-1, (width, h)).permute(0, 3, 1, 2)]
        if tensor.shape == (b * h, t, width):
            return [tensor.unflatten(0, (b, h)), tensor.unflatten(0, (h, b)).transpose(0, 1)]
        return fail(
            f"{name} has the shape {tuple(tensor.shape)} for B={b}, T={t}, D={d}, H={h}: neither "
            "(B, T, D) nor the heads beside each other",
            id="tap.heads",
        )

    def square(self, name: str) -> Tensor:
        """Scores or weights, (batch, heads, seq, seq)."""
        tensor = self[name].detach()
        b, t, h = (self.values[s] for s in "BTH")
        if tensor.shape == (b * h, t, t):
            return tensor.unflatten(0, (b, h))
        expect(
            tensor.shape == (b, h, t, t),
            f"{name} has the shape {tuple(tensor.shape)} for B={b}, T={t}, H={h}; expected a "
            f"seq x seq table for each text and head",
            id="tap.square",
        )
        return tensor


FIXED = {"B": 2, "T": 5, "D": 12, "H": 3, "V": 17}
EDGES = (
    ("ids", "tok"),
    ("tok", "x"),
    ("pos", "x"),
    ("x", "normed"),
    ("normed", "q"),
    ("normed", "k"),
    ("normed", "v"),
    ("q", "scores"),
    ("k", "scores"),
    ("scores", "weights"),
    ("weights", "context"),
    ("v", "context"),
    ("context", "merged"),
    ("merged", "ffn_hidden"),
    ("ffn_hidden", "logits"),
    ("logits", "loss"),
)


@pytest.mark.task("shape_trace")
class TestShapeTrace:
    @pytest.mark.points(3, "structure")
    def test_names(self, submission):
        """Every tensor of the list has one row."""
        names = [row.name for row in rows_of(submission)]
        missing = [name for name in TAPPED if name not in names]
        expect(
            not missing, f"TRACE has no row for {', '.join(missing)}", id="trace.missing", got=names
        )
        twice = sorted({name for name in names if names.count(name) > 1})
        expect(not twice, f"TRACE has more than one row for {', '.join(map(str, twice))}")
        gradients = [name for name in names if str(name).startswith("grad ")]
        expect(
            len(gradients) == 3,
            f"TRACE has {len(gradients)} rows for gradients; three are asked for, named "
            "'grad ' and the name of a parameter",
            id="trace.gradients",
        )

    @pytest.mark.points(3, "structure")
    @pytest.mark.after("test_names")
    def test_symbols(self, submission):
        """Sizes are made of the six symbols and the number 1."""
        for row in rows_of(submission):
            sizes_of(row, dict.fromkeys(SYMBOLS, 2))

    @pytest.mark.points(1, "theory")
    @pytest.mark.after("test_names")
    def test_why(self, submission):
        """Every row says why."""
        for row in rows_of(submission):
            expect(
                isinstance(row.why, str) and len(row.why.split()) >= 3,
                f"`why` of {row.name} is {row.why!r}; write a sentence",
                id="trace.why",
            )

    @pytest.mark.points(3, "structure")
    @pytest.mark.after("test_names")
    def test_taps(self, submission, monkeypatch):
        """Every tensor of the list is tapped."""
        traced = Traced(submission, monkeypatch, FIXED)
        for name in TAPPED:
            assert_tensor(traced[name], f"the tensor tapped as {name}")
        expect(
            traced["loss"] is traced.loss and traced["logits"].shape == traced.logits.shape,
            "what is tapped as loss or logits is not what forward returns",
            id="tap.other",
        )
        assert_equal(traced["ids"], traced.ids, what="what is tapped as ids")

    @pytest.mark.points(7, "shape")
    @pytest.mark.after("test_symbols", "test_taps")
    def test_shapes(self, submission, monkeypatch):
        """The predicted shapes hold in four configurations."""
        traced = Traced(submission, monkeypatch, FIXED)
        picture(
            "graph",
            "Shapes and bytes of the first layer",
            f"For B=2, T=5, D=12, H=3, V=17, F={traced.values['F']}, float32.",
            nodes=[
                {"id": name, "label": name, "note": str(tuple(traced[name].shape))}
                for name in TAPPED
            ],
            edges=[
                {"from": one, "to": other, "label": f"{t.numel() * t.element_size()} B"}
                for one, other in EDGES
                for t in (traced[one],)
            ],
        )

        def hold(values: dict[str, int]) -> None:
            found = Traced(submission, monkeypatch, values)
            for row in rows_of(submission):
                if row.name not in TAPPED:
                    continue
                got, real = sizes_of(row, found.values), tuple(found[row.name].shape)
                said = ", ".join(f"{k}={v}" for k, v in found.values.items())
                expect(
                    got == real,
                    f"{row.name} is predicted as ({', '.join(row.shape)}) = {got}; its shape is "
                    f"{real} for {said}",
                    id="trace.shape",
                    expected=real,
                    got=got,
                )

        hold(FIXED)
        for _ in range(3):
            hold(drawn_configuration())

    @pytest.mark.points(3, "shape")
    @pytest.mark.after("test_symbols", "test_taps")
    def test_gradients(self, submission, monkeypatch):
        """The predicted shapes of three gradients hold."""
        for values in (FIXED, drawn_configuration()):
            traced = Traced(submission, monkeypatch, values)
            traced.loss.backward()
            parameters = dict(traced.model.named_parameters(remove_duplicate=False))
            for row in rows_of(submission):
                if not row.name.startswith("grad "):
                    continue
                name = row.name.removeprefix("grad ")
                if name not in parameters:
                    fail(
                        f"{row.name}: the model has no parameter {name}",
                        id="trace.parameter",
                        details=(f"its parameters are {', '.join(parameters)}",),
                    )
                gradient = parameters[name].grad
                expect(gradient is not None, f"{name} has no gradient after backward")
                got, real = sizes_of(row, traced.values), tuple(gradient.shape)
                expect(
                    got == real,
                    f"{row.name} is predicted as ({', '.join(row.shape)}) = {got}; its shape is "
                    f"{real}: a gradient has the shape of its parameter, and nn.Linear keeps its "
                    "weight as (out, in)",
                    id="trace.gradient",
                    expected=real,
                    got=got,
                )

    @pytest.mark.points(2, "structure")
    @pytest.mark.after("test_taps")
    def test_taps_change_nothing(self, submission):
        """tap returns the tensor itself."""
        for shape in ((), (2, 3)):
            tensor = randn(*shape)
            expect(
                submission.tap("x", tensor) is tensor,
                "tap returns another object than it is given; it only shows the tensor",
                id="tap.copy",
            )

    @pytest.mark.points(1, "gradient")
    @pytest.mark.after("test_taps")
    def test_taps_are_used(self, submission, monkeypatch):
        """The loss is computed from what is tapped."""
        traced = Traced(submission, monkeypatch, FIXED)
        names = [n for n in TAPPED[1:-1] if n != "pos" or traced["pos"].requires_grad]
        for name in names:
            expect(
                traced[name].requires_grad
                and torch.autograd.grad(
                    traced.loss, traced[name], retain_graph=True, allow_unused=True
                )[0]
                is not None,
                f"the loss does not depend on the tensor tapped as {name}: tap the one that the "
                "model goes on with, not a copy or a second computation",
                id="tap.unused",
            )

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_taps")
    def test_scores(self, submission, monkeypatch):
        """scores are the scaled and masked products of q and k."""
        traced = Traced(submission, monkeypatch, FIXED)
        scores = traced.square("scores")
        future = torch.ones(5, 5, dtype=torch.bool).triu(1)
        largest = scores[..., future].max().item()
        expect(
            largest < -1e4,
            f"scores of later keys are as large as {largest:.3g}; tapped after the mask they are "
            "-inf, or below -1e4",
            id="scores.mask",
            got=largest,
        )
        got = scores.masked_fill(future, 0)
        products = [
            (q @ k.transpose(-2, -1)).masked_fill(future, 0)
            for q, k in zip(traced.by_heads("q"), traced.by_heads("k"), strict=False)
        ]
        # q may have been scaled before it was tapped: then the product is the score.
        expect(
            any(
                torch.allclose(got, product * factor, rtol=1e-3, atol=1e-4)
                for product in products
                for factor in (1 / 2, 1)
            ),
            "scores are not q·k / sqrt(dim // heads) of the tensors tapped as q and k",
            id="scores.value",
        )

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_taps")
    def test_weights(self, submission, monkeypatch):
        """weights are the softmax of scores over the keys."""
        traced = Traced(submission, monkeypatch, FIXED)
        weights, scores = traced.square("weights"), traced.square("scores")
        worst = (weights.sum(-1) - 1).abs().max().item()
        expect(
            worst < 1e-4,
            f"rows of weights don't sum to 1, they are off by {worst:.3g}: is it the tensor "
            "after the softmax?",
            id="weights.sum",
            got=worst,
        )
        assert_close(
            weights,
            scores.softmax(-1),
            rtol=1e-3,
            atol=1e-5,
            what="weights",
            explain={
                "weights are the softmax over the queries": scores.softmax(-2),
                "scores are tapped before the scale; weights are the softmax of half of them": (
                    (scores / 2).softmax(-1)
                ),
            },
        )

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_taps")
    def test_context(self, submission, monkeypatch):
        """context is weights @ v, merged the same numbers regrouped."""
        traced = Traced(submission, monkeypatch, FIXED)
        weights, merged = traced.square("weights"), traced["merged"].detach()
        contexts = traced.by_heads("context")
        wanted = [weights @ v for v in traced.by_heads("v")]
        expect(
            any(torch.allclose(c, w, rtol=1e-3, atol=1e-4) for c in contexts for w in wanted),
            "context is not weights @ v of the tensors tapped as weights and v",
            id="context.value",
        )
        assert_shape(merged, batch=2, seq=5, dim=12)
        regrouped = [
            form
            for c in contexts
            for form in (c.transpose(1, 2).flatten(2), c.permute(0, 2, 3, 1).flatten(2))
        ]
        expect(
            any(torch.allclose(merged, form, rtol=1e-4, atol=1e-5) for form in regrouped),
            "merged is not context with the heads of each token side by side: it is taken before "
            "the output projection, and a reshape without exchanging the axes of heads and tokens "
            "mixes tokens",
            id="merged.value",
        )

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_taps")
    def test_stream(self, submission, monkeypatch):
        """x is tok + pos, and normed has rows of size 1."""
        traced = Traced(submission, monkeypatch, FIXED, move=False)
        assert_close(
            traced["x"].detach(),
            (traced["tok"] + traced["pos"]).detach(),
            what="x",
            rtol=1e-4,
            atol=1e-6,
        )
        size = traced["normed"].detach().square().mean(-1).sqrt()
        expect(
            bool(((size > 0.5) & (size < 1.2)).all()),
            f"rows of normed have root mean squares from {size.min():.2g} to {size.max():.2g} in a "
            "new model; after the first norm they are 1",
            id="normed.size",
        )


# --- 3 ------------------------------------------------------------------------------------------

CONFIGURATIONS = (
    {"vocab": 19, "dim": 12, "heads": 3, "layers": 2, "ctx": 37, "batch": 2},
    {"vocab": 41, "dim": 24, "heads": 2, "layers": 1, "ctx": 13, "batch": 5},
    {"vocab": 17, "dim": 20, "heads": 5, "layers": 3, "ctx": 61, "batch": 3},
)
OUTER = ("params", "saved", "flops")
INNER = ("embedding", "attention", "ffn", "norm", "head")


def account(submission: ModuleType, case: dict[str, int]) -> dict[str, dict[str, int]]:
    """What the learner predicts for a configuration."""
    found = submission.accounting(SimpleNamespace(**case))
    expect(
        isinstance(found, dict) and all(isinstance(found.get(key), dict) for key in OUTER),
        "accounting returns a dict with the keys params, saved and flops, each a dict",
        id="account.keys",
    )
    return found


def built(submission: ModuleType, case: dict[str, int]) -> tuple[nn.Module, Tensor, Tensor]:
    """The model of a configuration, with ids and targets (batch, ctx)."""
    model = submission.MiniLM(**{key: value for key, value in case.items() if key != "batch"})
    ids = rand_ints(case["batch"], case["ctx"], high=case["vocab"])
    return model.train(), ids, rand_ints(case["batch"], case["ctx"], high=case["vocab"])


def total(parts: dict[str, int]) -> int:
    """The sum over the five parts."""
    return sum(parts[key] for key in INNER)


@pytest.mark.task("explain_numbers")
class TestExplainNumbers:
    @pytest.mark.points(2, "structure")
    def test_keys(self, submission):
        """Three tables have five whole numbers each."""
        found = account(submission, CONFIGURATIONS[0])
        assert_equal(sorted(found), sorted(OUTER), what="the list of the outer keys")
        for outer in OUTER:
            assert_equal(sorted(found[outer]), sorted(INNER), what=f"the list of keys of {outer}")
            for inner, value in found[outer].items():
                expect(
                    type(value) is int and value >= 0,
                    f"{outer}, {inner} is {value!r}; expected a whole number, 0 or more",
                    id="account.number",
                )

    @pytest.mark.points(4, "value")
    @pytest.mark.after("test_keys")
    def test_params(self, submission):
        """The number of parameters is exact."""

        def hold(case: dict[str, int]) -> None:
            got = total(account(submission, case)["params"])
            model, _, _ = built(submission, case)
            expected = sum(p.numel() for p in model.parameters())
            twice = sum(p.numel() for _, p in model.named_parameters(remove_duplicate=False))
            expect(
                got == expected,
                f"params sum to {got:,}; the model has {expected:,}"
                + (": a weight that two modules share counts once" if got == twice else ""),
                id="account.params",
                expected=expected,
                got=got,
            )

        smallest(hold, CONFIGURATIONS)

    @pytest.mark.points(4, "memory")
    @pytest.mark.after("test_keys")
    def test_saved(self, submission):
        """The bytes saved for backward are within 15 percent."""

        def hold(case: dict[str, int]) -> None:
            parts = account(submission, case)["saved"]
            got = total(parts)
            model, ids, targets = built(submission, case)
            expected = saved_memory(model, ids, targets)
            square = 4 * case["batch"] * case["heads"] * case["ctx"] ** 2 * case["layers"]
            ratio = got / expected
            measured(f"{ratio:.2f}x")
            missing = expected - got
            picture(
                "bars",
                "Bytes saved for backward",
                f"By your formula {got:,}; the model saves {expected:,}.",
                labels=list(INNER),
                series=[{"label": "bytes", "values": [parts[key] for key in INNER]}],
                log=False,
                unit="bytes",
                limit=None,
            )
            expect(
                abs(ratio - 1) <= 0.15,
                f"saved sums to {got:,} bytes; the model saves {expected:,}"
                + (
                    f". What is missing is about the size of the attention weights of all layers, "
                    f"{square:,}"
                    if 0.7 * square < missing < 2.3 * square
                    else ""
                ),
                id="account.saved",
                expected=expected,
                got=got,
            )

        smallest(hold, CONFIGURATIONS)

    @pytest.mark.points(3, "value")
    @pytest.mark.after("test_keys")
    def test_flops(self, submission):
        """The operations of the matmuls are within 3 percent."""

        def hold(case: dict[str, int]) -> None:
            got = total(account(submission, case)["flops"])
            model, ids, targets = built(submission, case)
            with FlopCounterMode(display=False) as counter:
                model(ids, targets)
            expected = counter.get_total_flops()
            factor = got / expected
            square = 4 * case["batch"] * case["ctx"] ** 2 * case["dim"] * case["layers"]
            known = {
                0.5: ": a multiply-add counts 2",
                3.0: ": only the forward pass is asked for",
            }
            why = next((text for k, text in known.items() if abs(factor / k - 1) < 0.03), "")
            if not why and abs((got + square) / expected - 1) < 0.03:
                why = ": the two products over all pairs of tokens are left out"
            expect(
                abs(factor - 1) <= 0.03,
                f"flops sum to {got:,}; the model's matmuls do {expected:,}{why}",
                id="account.flops",
                expected=expected,
                got=got,
            )

        smallest(hold, CONFIGURATIONS)

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_keys")
    def test_growth(self, submission):
        """Attention's bytes grow with the square of ctx, the rest with ctx."""
        case = CONFIGURATIONS[0]
        one = account(submission, case | {"ctx": 2**16})["saved"]
        two = account(submission, case | {"ctx": 2**17})["saved"]
        for part in INNER:
            if part != "attention" and not one[part]:
                continue
            wanted = 4 if part == "attention" else 2
            ratio = two[part] / max(one[part], 1)
            expect(
                abs(ratio / wanted - 1) < 0.05,
                f"with twice the ctx, saved bytes of {part} become {ratio:.3g} times as many; "
                f"expected {wanted} times: each pair of tokens has a weight, and only in attention",
                id="account.growth",
                expected=wanted,
                got=ratio,
            )

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_keys")
    def test_by_formula(self, submission):
        """The numbers come from formulas, without torch."""
        with forbid_torch(why="count by formula; no model is built or run"):
            account(submission, CONFIGURATIONS[1])


# --- 4 ------------------------------------------------------------------------------------------

VARIANTS = ("full", "no_scale", "no_positions", "no_residual", "no_norm", "no_mlp", "one_head")
FLAGS = ("scale", "positions", "residual", "norm", "mlp")


def table_of(scratch: Path) -> tuple[int, dict[str, float]]:
    """Seed and losses of ablation.json."""
    try:
        found = json.loads((scratch / "ablation.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        fail(f"ablation.json cannot be read: {error}", id="table.file")
    expect(
        isinstance(found, dict) and isinstance(found.get("losses"), dict),
        'ablation.json is like {"seed": 0, "losses": {"full": 0.5, …}}',
        id="table.form",
    )
    expect(type(found.get("seed")) is int, "ablation.json: seed is a whole number", id="table.form")
    losses = found["losses"]
    missing = [name for name in VARIANTS if name not in losses]
    expect(
        not missing,
        f"ablation.json has no loss of {', '.join(missing)}; `python day27_final_lm.py ablate` "
        "writes it",
        id="table.missing",
    )
    for name in VARIANTS:
        value = losses[name]
        expect(
            isinstance(value, int | float) and math.isfinite(value) and value > 0,
            f"ablation.json: the loss of {name} is {value!r}; expected a positive number",
            id="table.value",
        )
    return found["seed"], losses


class EnoughError(Exception):
    """The check has seen what it wanted of a training run."""


class Watch:
    """What a training run shows its model, batch by batch."""

    def __init__(self, most: int) -> None:
        self.batches: list[tuple[Tensor, Tensor]] = []
        self.start: dict[str, Tensor] = {}
        self.model: nn.Module | None = None
        self.most = most


@contextlib.contextmanager
def watching(
    submission: ModuleType, monkeypatch: pytest.MonkeyPatch, most: int = 10**6
) -> Iterator[Watch]:
    """Note each training batch of any MiniLM; end the run after `most` of them."""
    watch = Watch(most)
    plain = submission.MiniLM.forward

    def forward(self: nn.Module, ids: Tensor, targets: Tensor | None = None) -> Any:
        if torch.is_grad_enabled() and targets is not None:
            if watch.model is None:
                watch.model = self
                watch.start = {k: v.detach().clone() for k, v in self.named_parameters()}
            if len(watch.batches) == watch.most:
                raise EnoughError
            watch.batches.append((ids.clone(), targets.clone()))
        return plain(self, ids, targets)

    with monkeypatch.context() as patch:
        patch.setattr(submission.MiniLM, "forward", forward)
        with contextlib.suppress(EnoughError):
            yield watch


@pytest.mark.task("ablate")
class TestAblate:
    @pytest.mark.points(2, "structure")
    def test_table(self, submission, scratch):
        """ablation.json has a loss for each of the seven."""
        assert callable(submission.train_variant)
        table_of(scratch)

    @pytest.mark.points(2, "structure")
    def test_ablate(self, submission, monkeypatch):
        """ablate has train_variant's number for each, from one seed."""
        calls: list[tuple[str, int]] = []

        def stand_in(name: str, seed: int) -> float:
            calls.append((name, seed))
            return 1 + len(calls) / 8

        assert callable(submission.train_variant)
        for seed in (3, 4):
            calls.clear()
            with monkeypatch.context() as patch:
                patch.setattr(submission, "train_variant", stand_in)
                found = submission.ablate(seed)
            expect(
                sorted(name for name, _ in calls) == sorted(VARIANTS),
                f"ablate calls train_variant for {[name for name, _ in calls]}; once for each of "
                f"{', '.join(VARIANTS)} is asked for",
                id="ablate.calls",
            )
            expect(
                {given for _, given in calls} == {seed},
                f"ablate({seed}) trains the variants with the seeds {[s for _, s in calls]}; with "
                "different seeds part of each difference is luck",
                id="ablate.seeds",
            )
            expected = {name: 1 + (i + 1) / 8 for i, (name, _) in enumerate(calls)}
            expect(
                isinstance(found, dict) and found == expected,
                "ablate does not return a dict with train_variant's number for each name",
                id="ablate.result",
                expected=expected,
                got=found,
            )

    @pytest.mark.points(3, "structure")
    def test_flags(self, submission):
        """Each switch changes the outputs at equal weights."""
        full = scrambled(submission, dim=16, heads=4)
        ids = rand_ints(2, 7, high=17)
        plain = logits_of(full, ids)
        for flag in (*FLAGS, "one_head"):
            options: dict[str, Any] = {"heads": 1} if flag == "one_head" else {flag: False}
            other = submission.MiniLM(**(SIZES | {"dim": 16, "heads": 4} | options)).eval()
            weights, own = full.state_dict(), other.state_dict()
            same = {k: v for k, v in weights.items() if k in own and own[k].shape == v.shape}
            other.load_state_dict(same, strict=False)
            change = largest_change(plain, logits_of(other, ids))
            said = "heads=1" if flag == "one_head" else f"{flag}=False"
            expect(
                change > NOTHING,
                f"MiniLM(…, {said}) gives the same outputs as the full model with the same "
                "weights: the switch is never asked",
                id="flags",
                got=change,
            )

    @pytest.mark.points(4, "structure")
    def test_same_batches(self, submission, monkeypatch):
        """All variants see the same batches in the same order."""
        seen: dict[tuple[str, int], list[tuple[Tensor, Tensor]]] = {}
        for name, seed in [*((name, 5) for name in VARIANTS), ("full", 6)]:
            with watching(submission, monkeypatch, most=3) as watch:
                submission.train_variant(name, seed)
            seen[name, seed] = watch.batches
            expect(
                len(watch.batches) == 3,
                f"train_variant({name!r}, {seed}) calls MiniLM with targets only "
                f"{len(watch.batches)} times while gradients are recorded; 150 steps are asked for",
                id="batches.none",
            )
            expect(
                watch.batches[0][0].shape == (16, 32),
                f"a batch of {name} has the shape {tuple(watch.batches[0][0].shape)}; "
                "expected (16, 32)",
                id="batches.shape",
            )
            for step, (x, y) in enumerate(watch.batches):
                expect(
                    bool((x[:, 1:] == y[:, :-1]).all()) and not torch.equal(x, y),
                    f"{name}, step {step}: the targets are not the inputs one step later",
                    id="batches.shift",
                )
                expect(
                    torch.equal(x, seen["full", 5][step][0]) == (seed == 5),
                    f"step {step} of {name} with seed {seed} sees "
                    + (
                        "another batch than full with the same seed: then part of a difference is "
                        "luck; draw from a generator that nothing else draws from"
                        if seed == 5
                        else "the same batch as with seed 5; the seed decides"
                    ),
                    id="batches.order",
                )

    @pytest.mark.points(2, "structure")
    def test_same_start(self, submission, monkeypatch):
        """Variants with the same parameters start from the same numbers."""
        starts = []
        for name in ("full", "no_scale"):
            with watching(submission, monkeypatch, most=1) as watch:
                submission.train_variant(name, 7)
            starts.append(watch.start)
        expect(bool(starts[0]), "train_variant never calls MiniLM with targets", id="start.none")
        for name, value in starts[0].items():
            if name in starts[1] and starts[1][name].shape == value.shape:
                expect(
                    torch.equal(value, starts[1][name]),
                    f"full and no_scale with the same seed start with another {name}: seed before "
                    "the model is built",
                    id="start.other",
                )

    @pytest.mark.points(2, "training")
    @pytest.mark.after("test_table")
    def test_facts(self, submission, scratch):
        """The table shows what each part is worth."""
        assert callable(submission.train_variant)
        _, losses = table_of(scratch)
        picture(
            "bars",
            "What each part is worth",
            "Validation loss after 150 steps; the frequencies of the characters alone give 2.84.",
            labels=list(VARIANTS),
            series=[{"label": "loss", "values": [losses[name] for name in VARIANTS]}],
            log=False,
            unit="nats",
            limit=2.84,
        )
        full = losses["full"]
        expect(
            full < 1.53,
            f"the loss of full is {full:.3g}; 1.53 is what the character before alone tells, and a "
            "model with attention is below it at this budget",
            id="facts.full",
        )
        expect(
            losses["no_residual"] > 1.5 * full,
            f"without residuals the loss is {losses['no_residual']:.3g}, with them {full:.3g}; "
            "such a model hardly learns at this budget, it is at least 1.5 times as far",
            id="facts.residual",
        )
        expect(
            losses["no_mlp"] > full,
            f"no_mlp has the loss {losses['no_mlp']:.3g}, full {full:.3g}: at this budget the full "
            "model is better",
            id="facts.mlp",
        )

    @pytest.mark.points(1, "structure")
    def test_no_positions(self, submission):
        """With positions=False and one layer, order is lost."""
        model = scrambled(submission, layers=1, positions=False)
        ids = torch.stack([torch.randperm(17)[:6] for _ in range(2)])
        other = ids.clone()
        other[:, [1, 3]] = ids[:, [3, 1]]
        change = largest_change(logits_of(model, ids)[:, -1], logits_of(model, other)[:, -1])
        expect(
            change < NOTHING,
            f"MiniLM(…, layers=1, positions=False): exchanging two earlier tokens changes the last "
            f"logits by {100 * change:.2g} %, so the model still knows places",
            id="flags.positions",
            got=change,
        )

    @pytest.mark.points(4, "training")
    @pytest.mark.after("test_table")
    @pytest.mark.hint("Has the model changed since `ablation.json` was written? Run it again.")
    def test_rows(self, submission, scratch, monkeypatch):
        """Two rows, trained again, come out as in the table."""
        seed, losses = table_of(scratch)
        rows = [random.choice(VARIANTS[2:6]), random.choice(("full", "no_scale", "one_head"))]
        random.shuffle(rows)
        for name in rows:
            with watching(submission, monkeypatch) as watch:
                got = submission.train_variant(name, seed)
            expect(
                isinstance(got, int | float) and not isinstance(got, bool),
                f"train_variant returns {type(got).__name__}; expected a float",
                id="rows.type",
            )
            expect(
                len(watch.batches) == 150,
                f"{name} is trained for {len(watch.batches)} steps; 150 are asked for",
                id="rows.steps",
            )
            expect(
                abs(got / losses[name] - 1) <= 0.1,
                f"{name} trained again with seed {seed} has the loss {got:.4g}; ablation.json says "
                f"{losses[name]:.4g}, more than 10 % away",
                id="rows.other",
                expected=losses[name],
                got=got,
            )
            fresh = text_ids(32 * 61 + 1, 9)
            x, y = fresh[:-1].view(61, 32), fresh[1:].view(61, 32)
            real = F.cross_entropy(logits_of(watch.model, x).flatten(0, 1), y.flatten()).item()
            expect(
                abs(got / real - 1) <= 0.2,
                f"train_variant says {got:.4g} for {name}, but the model that it trained has the "
                f"loss {real:.4g} on another text of the same grammar",
                id="rows.real",
                expected=real,
                got=got,
            )
