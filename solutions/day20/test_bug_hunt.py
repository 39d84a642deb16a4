"""Day 20 asks for ten repaired scripts with a diagnosis, a reader of logs, and a bisection."""

import ast
import difflib
import json
import math
import random
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook

from grader.testing import expect, fail, measured, picture

# --- the scripts --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bug:
    """One planted bug: its code, and the lines of the pristine script that may be named."""

    code: str
    lines: tuple[int, ...]


@dataclass(frozen=True)
class Script:
    """What is known of one script."""

    name: str
    metric: str
    target: float
    edits: int  # statements that may be changed
    rows: int  # that an epoch goes through
    parameters: int
    bugs: tuple[Bug, ...]

    @property
    def text(self) -> str:
        """The script as it was handed out."""
        return PRISTINE[self.name]


SCRIPTS = {
    script.name: script
    for script in (
        Script("b01", "accuracy", 0.88, 2, 300, 99, (Bug("WRONG_DTYPE", (31, 37)),)),
        Script("b02", "r2", 0.90, 2, 400, 145, (Bug("BROADCAST_N1_N", (40, 41)),)),
        Script("b03", "accuracy", 0.82, 2, 400, 97, (Bug("NO_ZERO_GRAD", (46, 47, 48, 49)),)),
        Script("b04", "nll", 0.40, 2, 400, 293, (Bug("SOFTMAX_BEFORE_CE", (35, 48)),)),
        Script(
            "b05",
            "accuracy",
            0.60,
            6,
            1800,
            800,
            (Bug("LEAKY_SPLIT", (32, 33)), Bug("STALE_OPTIMIZER", (36, 37))),
        ),
        Script(
            "b06",
            "accuracy",
            0.88,
            5,
            600,
            484,
            (Bug("SHUFFLED_PAIRS", (48, 49)), Bug("NO_EVAL", (56, 57))),
        ),
        Script(
            "b07",
            "r2",
            0.80,
            3,
            600,
            6,
            (Bug("MASK_AFTER_SOFTMAX", (37, 38)), Bug("DETACHED_LOSS", (38, 39))),
        ),
        Script(
            "b08",
            "accuracy",
            0.85,
            4,
            600,
            2402,
            (Bug("PYTHON_LIST_OF_LAYERS", (31,)), Bug("SCHED_PER_BATCH", (56,))),
        ),
        Script(
            "b09",
            "accuracy",
            0.85,
            3,
            400,
            182,
            (Bug("RESHAPE_FOR_PERMUTE", (37,)), Bug("NO_ACTIVATION", (38, 39))),
        ),
        Script(
            "b10",
            "nll",
            1.20,
            3,
            240,
            715,
            (Bug("DROPOUT_FUNCTIONAL_ALWAYS_ON", (38,)), Bug("OFF_BY_ONE_TOKEN", (44,))),
        ),
    )
}
PRISTINE = {
    name: (Path(__file__).parent / "stub" / f"{name}.py").read_text(encoding="utf-8")
    for name in SCRIPTS
}


def loaded(name: str, text: str) -> dict[str, Any]:
    """The names that a script defines."""
    space: dict[str, Any] = {"__name__": name}
    try:
        exec(compile(text, f"{name}.py", "exec", dont_inherit=True), space)
    except Exception as error:
        fail(f"{name}.py cannot be imported: {said(name, error)}")
    return space


def said(name: str, error: Exception) -> str:
    """An exception with the last line of the script that it went through."""
    lines = [
        f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == f"{name}.py"
    ]
    number = lines[-1] if lines else getattr(error, "lineno", None)
    where = f"line {number}: " if number else ""
    return f"{where}{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"


@dataclass
class Run:
    """What one call of `main` gave, and what the optimizers did meanwhile."""

    metrics: dict[str, float]
    predictions: Tensor
    steps: int = 0
    owned: int = 0
    losses: tuple[float, ...] = ()


def run(name: str, space: dict[str, Any], seed: int) -> Run:
    """Call `main(seed)` of a script and watch its optimizers."""
    steps, owned = 0, 0

    def after_step(opt: Any, args: Any, kwargs: Any) -> None:
        nonlocal steps, owned
        steps += 1
        owned = sum(p.numel() for group in opt.param_groups for p in group["params"])

    expect(callable(space.get("main")), f"{name}.py has no function main")
    hook = register_optimizer_step_post_hook(after_step)
    try:
        with warnings.catch_warnings(), losses_of_backward() as losses:
            warnings.simplefilter("ignore")
            result = space["main"](seed)
    except Exception as error:
        fail(f"{name}.py: main({seed}) raises. {said(name, error)}")
    finally:
        hook.remove()
    is_right = isinstance(result, dict) and set(result) == {"metrics", "predictions"}
    expect(is_right, f"{name}.py: main returns a dict with metrics and predictions, as handed out")
    metrics, predictions = result["metrics"], result["predictions"]
    expect(
        isinstance(metrics, dict) and all(isinstance(v, float | int) for v in metrics.values()),
        f'{name}.py: "metrics" is a dict of numbers',
    )
    expect(
        isinstance(predictions, Tensor) and not predictions.is_complex(),
        f'{name}.py: "predictions" is a tensor, as handed out',
    )
    return Run(metrics, predictions.detach().clone(), steps, owned, tuple(losses))


@cache
def kept_run(name: str, text: str, place: int) -> tuple[int, Run]:
    """A seed, drawn by the check that asks first, and the run with it.

    Args:
        name: of the script.
        text: of the script.
        place: which of the runs, from 0.
    """
    seed = int(torch.randint(10**6, ()))
    return seed, run(name, loaded(name, text), seed)


@contextmanager
def losses_of_backward() -> Iterator[list[float]]:
    """Every scalar that `backward` is called on while the context is open."""
    seen: list[float] = []
    original = Tensor.backward

    def watched(self: Tensor, *args: Any, **kwargs: Any) -> None:
        if self.numel() == 1:
            seen.append(float(self.detach()))
        original(self, *args, **kwargs)

    Tensor.backward = watched
    try:
        yield seen
    finally:
        Tensor.backward = original


def labels(script: Script, seed: int) -> Tensor:
    """The right answers for the test set of a seed, drawn by the script as it was handed out."""
    space = loaded(script.name, script.text)
    count, draw = space["TEST"], space["draw"]
    if script.name == "b10":
        return draw(count, 2 * seed + 1)[:, 1:]
    if script.name == "b05":
        return draw(count, 1, 2 * seed + 1)[1]
    return draw(count, 2 * seed + 1)[-1]


def score(script: Script, predictions: Tensor, right: Tensor) -> float:
    """The script's metric, by the grader's own count."""
    shape = (*right.shape, predictions.shape[-1]) if script.metric == "nll" else right.shape
    expect(
        predictions.shape == shape,
        f"{script.name}.py: predictions have shape {tuple(predictions.shape)}; "
        f"expected {tuple(shape)}, as handed out",
    )
    predictions, right = predictions.double(), right
    if script.metric == "accuracy":
        return (predictions == right).double().mean().item()
    if script.metric == "r2":
        off = ((predictions - right.double()) ** 2).mean()
        return (1 - off / right.double().var()).item()
    total = predictions.exp().sum(-1)
    expect(
        bool(((total - 1).abs() < 1e-3).all()),
        f"{script.name}.py: the predictions are no log-probabilities; their exponentials sum to "
        f"{total.flatten()[0].item():.3g}",
    )
    return -predictions.gather(-1, right[..., None]).mean().item()


def is_good(script: Script, value: float) -> bool:
    """Whether a value of the script's metric reaches its target."""
    return value <= script.target if script.metric == "nll" else value >= script.target


def text_of(name: str, scratch: Path) -> str:
    """The script as it was handed in."""
    return (scratch / f"{name}.py").read_text(encoding="utf-8")


def hold_to_target(name: str, scratch: Path) -> None:
    """Run a script with three seeds; its predictions reach the target, its metrics are true."""
    script = SCRIPTS[name]
    text, pristine = text_of(name, scratch), loaded(name, script.text)
    most = pristine["EPOCHS"] * -(-script.rows // pristine["BATCH"])
    values = []
    for place in range(3):
        seed, found = kept_run(name, text, place)
        value = score(script, found.predictions, labels(script, seed))
        values.append(value)
        way = "at most" if script.metric == "nll" else "at least"
        expect(
            is_good(script, value),
            f"{name}.py: main({seed}) gives predictions with {script.metric} {value:.3f}; the "
            f"target is {way} {script.target:g}" + claimed(script, found, value),
            expected=script.target,
            got=round(value, 4),
        )
        expect(
            abs(found.metrics.get(script.metric, math.inf) - value) < 1e-3,
            f"{name}.py: main({seed}) says {script.metric} "
            f"{found.metrics.get(script.metric, math.nan):.3f}, but its predictions give "
            f"{value:.3f}: the metric is not to be changed, and must be true",
        )
        expect(
            found.steps <= most,
            f"{name}.py: the optimizer made {found.steps} steps; as handed out it makes {most}. "
            "Find the cause instead of training longer",
        )
        expect(
            abs(found.owned - script.parameters) <= 0.05 * script.parameters,
            f"{name}.py: the optimizer moves {found.owned} parameters; the model, as it was meant, "
            f"has {script.parameters}. Leave its size alone, and give the optimizer all of it",
        )
    measured(f"{script.metric} {sum(values) / len(values):.2f}")


def claimed(script: Script, found: Run, value: float) -> str:
    """What to say where the script's own metric tells another story."""
    own = found.metrics.get(script.metric)
    if own is None or abs(own - value) < 1e-3:
        return ""
    return f'. The script itself says {own:.3f}: its "{script.metric}" is not what it seems'


# --- edits --------------------------------------------------------------------------------------


def statements(text: str) -> list[str]:
    """Every statement of a text in its order, of compound ones the head; no docstrings."""
    found: list[str] = []

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt | ast.ExceptHandler):
                if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                    continue
                found.append(head(child))
            visit(child)

    visit(ast.parse(text))
    return found


def head(node: ast.stmt | ast.ExceptHandler) -> str:
    """A statement without the statements in it, as text."""
    if not hasattr(node, "body"):
        return ast.unparse(node)
    kept = {
        name: value
        for name, value in ast.iter_fields(node)
        if name not in ("body", "orelse", "finalbody", "handlers")
    }
    parts = []
    for name, value in kept.items():
        values = value if isinstance(value, list) else [value]
        shown = [ast.dump(v) if isinstance(v, ast.AST) else repr(v) for v in values]
        parts.append(f"{name}={shown}")
    return f"{type(node).__name__} {' '.join(parts)}"


def edited(before: str, after: str) -> int:
    """How many statements were changed, added or removed."""
    matcher = difflib.SequenceMatcher(None, statements(before), statements(after), autojunk=False)
    return sum(
        max(i2 - i1, j2 - j1) for what, i1, i2, j1, j2 in matcher.get_opcodes() if what != "equal"
    )


def hold_to_edits(name: str, scratch: Path) -> None:
    """Few statements were changed."""
    script = SCRIPTS[name]
    count = edited(script.text, text_of(name, scratch))
    measured(f"{count} changed")
    expect(
        count <= script.edits,
        f"{name}.py: {count} statements were changed, added or removed; at most {script.edits} "
        "are needed. Take back what was tried on the way",
        expected=script.edits,
        got=count,
    )


def protected(text: str) -> dict[str, str]:
    """The parts of a script that are to be left alone: name -> their code."""
    tree = ast.parse(text)
    found: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            found[f"the constants {ast.unparse(node.targets[0])}"] = ast.unparse(node.value)
        elif isinstance(node, ast.FunctionDef) and node.name == "draw":
            found["the function draw"] = ast.dump(node)
    calls = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "draw"
    ]
    found["the calls of draw"] = "; ".join(sorted(calls))
    return found


def hold_to_data(name: str, scratch: Path) -> None:
    """The data, the constants and the test labels' part in the predictions are as handed out."""
    script, text = SCRIPTS[name], text_of(name, scratch)
    ours, theirs = protected(script.text), protected(text)
    for what, code in ours.items():
        expect(theirs.get(what) == code, f"{name}.py: {what} changed; leave it as handed out")
    expect(edited(script.text, text) > 0, f"{name}.py is as it was handed out")
    seed, plain = kept_run(name, text, 0)
    again = loaded(name, text)
    draw = again["draw"]

    def other_labels(*args: Any, **kwargs: Any) -> Any:
        drawn = draw(*args, **kwargs)
        if 2 * seed + 1 not in (*args, *kwargs.values()):
            return drawn
        if name == "b10":  # the last token is nobody's input
            return torch.cat([drawn[:, :-1], drawn[:, -1:].roll(7, 0)], dim=1)
        place = 1 if name == "b05" else len(drawn) - 1
        return tuple(part.roll(7, 0) if i == place else part for i, part in enumerate(drawn))

    again["draw"] = other_labels
    other = run(name, again, seed)
    expect(
        torch.equal(plain.predictions, other.predictions),
        f"{name}.py: with other labels for the test set the predictions change; they come from "
        "the inputs alone, and main(seed) gives the same result every time",
    )


# --- the diagnosis ------------------------------------------------------------------------------


def diagnosis(scratch: Path) -> dict[str, Any]:
    """What diagnosis.json says."""
    try:
        found = json.loads((scratch / "diagnosis.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        fail(f"diagnosis.json cannot be read: {error}")
    expect(isinstance(found, dict), "diagnosis.json is an object: script -> list of bugs")
    return found


def entries(name: str, scratch: Path) -> list[tuple[int, str]]:
    """(line, code) of every bug that is named for a script."""
    found = diagnosis(scratch).get(name, [])
    expect(isinstance(found, list), f"diagnosis.json: {name} must be a list of bugs")
    for entry in found:
        is_right = (
            isinstance(entry, dict)
            and isinstance(entry.get("line"), int)
            and isinstance(entry.get("code"), str)
        )
        expect(
            is_right,
            f'diagnosis.json: every bug of {name} is like {{"line": 17, "code": "NO_EVAL"}}',
        )
    return [(entry["line"], entry["code"]) for entry in found]


def handed_out_lines(before: str, after: str, line: int) -> set[int]:
    """The lines of the pristine text that a line of the changed one may stand for."""
    matcher = difflib.SequenceMatcher(None, before.splitlines(), after.splitlines(), autojunk=False)
    found = {line}
    for what, i1, i2, j1, j2 in matcher.get_opcodes():
        if j1 < line <= j2:
            found |= {i1 + line - j1} if what == "equal" else set(range(i1 + 1, i2 + 1))
            if what == "insert":
                found |= {i1, i1 + 1}
    return found


def hold_to_diagnosis(name: str, scratch: Path) -> None:
    """Every bug is named with its code and line, and nothing else is."""
    script = SCRIPTS[name]
    named = entries(name, scratch)
    show_table(script, named)
    codes = Counter(code for _, code in named)
    for code, count in codes.items():
        expect(code in CODES, f"diagnosis.json: {code} for {name} is no code of codes.md")
        expect(count == 1, f"diagnosis.json: {code} stands twice for {name}")
    planted = {bug.code for bug in script.bugs}
    wrong = sorted(set(codes) - planted)
    hits = len(planted & set(codes))
    expect(
        not wrong,
        f"diagnosis.json: {name} has no {', '.join(wrong)}; {hits} of its {len(planted)} "
        f"{'bug is' if len(planted) == 1 else 'bugs are'} named",
    )
    expect(
        hits == len(planted),
        f"diagnosis.json: {hits} of the {len(planted)} bugs of {name} "
        f"{'is' if hits == 1 else 'are'} named",
    )
    text = text_of(name, scratch)
    for line, code in named:
        (bug,) = (bug for bug in script.bugs if bug.code == code)
        meant = handed_out_lines(script.text, text, line)
        expect(
            any(abs(one - other) <= 1 for one in meant for other in bug.lines),
            f"diagnosis.json: {name} has {code}, but not at line {line}",
        )


def show_table(script: Script, named: list[tuple[int, str]]) -> None:
    """Attach the table of codes: found, not planted, and how many are missed."""
    planted = {bug.code for bug in script.bugs}
    lines = [f"line {n}: {code}" for n, code in named]
    wrong = [place for place, (_, code) in enumerate(named) if code not in planted]
    missed = len(planted - {code for _, code in named})
    picture(
        "text",
        f"The diagnosis of {script.name}",
        f"{len(named) - len(wrong)} found, {missed} missed, {len(wrong)} false",
        panels=[{"label": script.name, "lines": lines or ["(nothing named)"], "marked": wrong}],
    )


CODES = frozenset(
    line.split("`")[1]
    for line in (Path(__file__).with_name("codes.md")).read_text(encoding="utf-8").splitlines()
    if line.startswith("| `")
)


def show_curves(name: str, scratch: Path) -> None:
    """Attach the loss of one seed before and after the repair."""
    series = []
    for label, text in (("as handed out", SCRIPTS[name].text), ("now", text_of(name, scratch))):
        seen = kept_run(name, text, 0)[1].losses
        width = max(len(seen) // 40, 1)
        means = [sum(seen[i : i + width]) / width for i in range(0, len(seen) - width + 1, width)]
        series.append({"label": label, "x": [width * i for i in range(len(means))], "y": means})
    picture(
        "curve",
        f"The loss of {name}, before and after the repair",
        "The mean over some batches; a low loss is not yet a good model.",
        series=series,
        x_label="batch",
        y_label="loss",
    )


# --- logs ---------------------------------------------------------------------------------------

LOUD = ("WRONG_DTYPE", "HARD_CODED_DEVICE", "GRAPH_KEPT", "PYTHON_LIST_OF_LAYERS", "BROADCAST_N1_N")
CURVED = (
    "NO_ZERO_GRAD",
    "ZERO_GRAD_AFTER_BACKWARD",
    "STALE_OPTIMIZER",
    "LEAKY_SPLIT",
    "SCHED_PER_BATCH",
)


@dataclass(frozen=True)
class Style:
    """How a run writes its figures."""

    step: str  # takes step, epoch, loss, grad, lr
    held_out: str  # takes epoch, loss, accuracy
    fresh: str  # takes accuracy


STYLES = (
    Style(
        "step {step:>4} | loss {loss:.4f} | grad_norm {grad:.3f} | lr {lr:.2e}",
        "epoch {epoch} | val_loss {loss:.4f} | val_acc {accuracy:.3f}",
        "done | test_acc {accuracy:.3f}",
    ),
    Style(
        "[epoch {epoch} it {step}] train_loss={loss:.3e} gradnorm={grad:.3e} lr={lr:.3e}",
        "[epoch {epoch}] val_loss={loss:.3e} val_acc={accuracy:.3e}",
        "[end] test_acc={accuracy:.3e}",
    ),
    Style(
        "{step}: loss: {loss:.6f}  grad: {grad:.6f}  lr: {lr:.8f}",
        "  val_loss: {loss:.6f}  val_acc: {accuracy:.6f}",
        "test_acc: {accuracy:.6f}",
    ),
    Style(
        '{{"step": {step}, "loss": {loss:.5g}, "grad": {grad:.5g}, "lr": {lr:.3g}}}',
        '{{"epoch": {epoch}, "val_loss": {loss:.5g}, "val_acc": {accuracy:.4g}}}',
        '{{"test_acc": {accuracy:.4g}}}',
    ),
)


def xor(count: int, noise: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points (count, 6), and whether the first two have the same sign (count,), some wrong."""
    x = torch.randn(count, 6, generator=generator)
    y = (x[:, 0] * x[:, 1] > 0) ^ (torch.rand(count, generator=generator) < noise)
    return x, y.float()


def recorded(kind: str, seed: int, style: Style, every: int) -> str:
    """The log of a real small run with a planted bug; "healthy" and "noisy" have none."""
    generator = torch.Generator().manual_seed(seed)
    is_leaky, is_noisy = kind == "LEAKY_SPLIT", kind == "noisy"
    rows, batch = (60, 20) if is_leaky else (240, 8 if is_noisy else 40)
    epochs = 40 if is_leaky else 6 if is_noisy else 20
    epochs += int(torch.randint(4, (), generator=generator))
    x, y = xor(rows, 0.25 if is_leaky else 0.1 if is_noisy else 0.0, generator)
    held_out = xor(1000, 0.1 if is_noisy else 0.0, generator)
    fresh = xor(1000, 0.1 if is_noisy else 0.0, generator)
    if is_leaky:
        held_out = x[:40], y[:40]
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1))
    own = nn.Linear(1, 1) if kind == "STALE_OPTIMIZER" else model
    opt = torch.optim.Adam(own.parameters(), lr=0.02 if is_noisy else 0.01)
    schedule = torch.optim.lr_scheduler.ExponentialLR(opt, gamma=0.9)

    def accuracy(data: tuple[Tensor, Tensor]) -> float:
        return ((model(data[0]).squeeze(1) > 0) == (data[1] > 0)).float().mean().item()

    lines, step = [], 0
    for epoch in range(epochs):
        for part in torch.randperm(rows, generator=generator).split(batch):
            loss = F.binary_cross_entropy_with_logits(model(x[part]).squeeze(1), y[part])
            if kind not in ("NO_ZERO_GRAD", "ZERO_GRAD_AFTER_BACKWARD"):
                opt.zero_grad()
            loss.backward()
            if kind == "ZERO_GRAD_AFTER_BACKWARD":
                opt.zero_grad()
            grads = [p.grad for p in model.parameters() if p.grad is not None]
            norm = sum((g**2).sum().item() for g in grads) ** 0.5
            lr = opt.param_groups[0]["lr"]
            opt.step()
            if kind == "SCHED_PER_BATCH":
                schedule.step()
            if step % every == 0:
                figures = {"step": step, "epoch": epoch, "loss": loss.item(), "grad": norm}
                lines.append(style.step.format(**figures, lr=lr))
            step += 1
        if kind == "healthy":
            schedule.step()
        if (epoch + 1) % 5 == 0 or epoch + 1 == epochs:
            held = F.binary_cross_entropy_with_logits(model(held_out[0]).squeeze(1), held_out[1])
            figures = {"epoch": epoch, "loss": held.item(), "accuracy": accuracy(held_out)}
            lines.append(style.held_out.format(**figures))
    lines.append(style.fresh.format(accuracy=accuracy(fresh)))
    return "\n".join(lines) + "\n"


def rising_and_falling(seed: int, style: Style) -> str:
    """A log that breaks off: the first steps of a healthy run."""
    log = recorded("healthy", seed, style, 6).splitlines()
    return "\n".join(log[: 6 + seed % 5]) + "\n"


SAID = {
    "WRONG_DTYPE": (
        "RuntimeError: expected target dtype to be Long or Byte, but got Float",
        "RuntimeError: mat1 and mat2 must have the same dtype, but got Double and Float",
    ),
    "HARD_CODED_DEVICE": (
        "AssertionError: Torch not compiled with CUDA enabled",
        "RuntimeError: Expected all tensors to be on the same device, but found at least two "
        "devices, cuda:0 and cpu!",
    ),
    "GRAPH_KEPT": (
        "RuntimeError: Trying to backward through the graph a second time (or directly access "
        "saved tensors after they have already been freed).",
    )
    * 2,
    "PYTHON_LIST_OF_LAYERS": ("ValueError: optimizer got an empty parameter list",) * 2,
}
AFTERWARDS = (
    ("    print(total / seen)", "ZeroDivisionError: division by zero"),
    ("    best.save(path)", "AttributeError: 'NoneType' object has no attribute 'save'"),
    ("    os.remove(lock)", "FileNotFoundError: [Errno 2] No such file or directory: 'run.lock'"),
)


def broken_off(code: str, seed: int, style: Style, *, has_more: bool = False) -> str:
    """The log of a run that ended with an error, of another file and line every time."""
    draw = random.Random(f"{code}{seed}")
    file = draw.choice(("train", "fit", "run_17", "experiment", "zero_grad_test", "val"))
    place = f'  File "/home/{draw.choice("abcxyz")}/{file}.py", line {{}}, in {{}}'
    start = ""
    if code == "GRAPH_KEPT":
        start = rising_and_falling(seed, style).splitlines()[0] + "\n"
    trace = "Traceback (most recent call last):\n"
    log = (
        start
        + trace
        + place.format(draw.randint(80, 120), "<module>")
        + "\n    main()\n"
        + place.format(draw.randint(20, 79), draw.choice(("main", "fit", "train_one")))
        + f"\n    {draw.choice(('loss.backward()', 'out = step(batch)', 'run(config)'))}\n"
        + SAID[code][seed % 2]
        + "\n"
    )
    if has_more:
        line, error = AFTERWARDS[seed % len(AFTERWARDS)]
        log += "\nDuring handling of the above exception, another exception occurred:\n\n"
        log += trace + place.format(draw.randint(121, 150), "<module>") + f"\n{line}\n{error}\n"
    return log


def warned(seed: int, style: Style) -> str:
    """The log of a run whose loss broadcast: torch's warning, then a curve."""
    draw = random.Random(seed)
    n = draw.choice((16, 20, 32, 64))
    return (
        f"/srv/{draw.choice(('jobs', 'runs'))}/model_{seed % 10}.py:{draw.randint(20, 90)}: "
        f"UserWarning: Using a target size (torch.Size([{n}])) that is different to the input "
        f"size (torch.Size([{n}, 1])). This will likely lead to incorrect results due to "
        "broadcasting. Please ensure they have the same size.\n"
        "  loss = F.mse_loss(out, y)\n" + recorded("healthy", seed, style, 17)
    )


def log_of(kind: str, seed: int) -> str:
    """A log of some kind, its style and length drawn from the seed."""
    style = STYLES[seed // 3 % len(STYLES)]
    if kind == "BROADCAST_N1_N":
        return warned(seed, style)
    if kind in LOUD:
        return broken_off(kind, seed, style)
    return recorded(kind, seed, style, (1, 3, 4, 7)[seed % 4] if kind != "noisy" else 5)


def answer(submission: Any, log: str) -> list[str]:
    """What triage says of a log, as it must: a list of at most 3 codes."""
    found = submission.triage(log)
    expect(isinstance(found, list), f"triage returns a {type(found).__name__}; expected a list")
    odd = [code for code in found if code not in CODES]
    expect(not odd, f"triage returns {odd and odd[0]!r}, which is no code of codes.md")
    expect(len(found) <= 3, f"triage returns {len(found)} codes; at most 3")
    return found


def hold_to_logs(submission: Any, cases: list[tuple[str, str]], need: int) -> None:
    """So many logs have their code among the first two answers."""
    misses = []
    for code, log in cases:
        found = answer(submission, log)
        if code not in found[:2]:
            misses.append((code, found, log))
    right = len(cases) - len(misses)
    measured(f"{right} of {len(cases)}")
    if right < need:
        _, found, log = misses[0]
        lines = log.splitlines()
        picture(
            "text",
            "The first log that was not read",
            f"triage says {found}",
            panels=[{"label": "log", "lines": lines[:24], "marked": []}],
        )
        fail(
            f"{right} of {len(cases)} logs have their code among the first two answers; "
            f"{need} are needed. For the first that was missed triage says {found}; it ends with "
            f"{lines[-1].strip()[:90]!r}",
            expected=need,
            got=right,
        )


def base() -> int:
    """A number of the check's own generator, for the seeds of logs."""
    return 1000 + int(torch.randint(10**6, ()))


# --- pipelines ----------------------------------------------------------------------------------


@dataclass
class Pipelines:
    """A good and a bad pipeline of some stages; the calls of both are kept."""

    stages: list[str]
    planted: int | None  # the stage from which on bad deviates
    dtype: torch.dtype = torch.float32
    scale: float = 1.0
    only: str = "both"  # "output" or "gradient": what deviates
    noise: float = 7.0  # largest rounding, in eps x largest magnitude
    salt: int = 0
    good_calls: list[tuple[str, int]] = field(default_factory=list)
    bad_calls: list[tuple[str, int]] = field(default_factory=list)

    def _pair(self, stage: str, seed: int) -> tuple[Tensor, Tensor]:
        """(3, 5) output and gradient up to a stage, in float64; every draw hangs on the seed."""
        place = self.stages.index(stage)
        generator = torch.Generator().manual_seed(self.salt + 1009 * seed + place)
        output = torch.randn(3, 5, generator=generator, dtype=torch.float64)
        gradient = torch.randn(3, 5, generator=generator, dtype=torch.float64)
        return self.scale * output, gradient / self.scale

    def good(self, stage: str, seed: int) -> tuple[Tensor, Tensor]:
        """The pipeline as it should be."""
        self.good_calls.append((stage, seed))
        output, gradient = self._pair(stage, seed)
        return output.to(self.dtype), gradient.to(self.dtype)

    def bad(self, stage: str, seed: int) -> tuple[Tensor, Tensor]:
        """The pipeline with rounding, and what was planted."""
        self.bad_calls.append((stage, seed))
        deviates = self.planted is not None and self.stages.index(stage) >= self.planted
        pair = []
        for kind, exact in zip(("output", "gradient"), self._pair(stage, seed), strict=True):
            ours = exact.to(self.dtype).double()
            unit = torch.finfo(self.dtype).eps * ours.abs().max()
            rounding = torch.sin(7.0 * torch.arange(15, dtype=torch.float64)).view(3, 5)
            theirs = ours + self.noise * unit * rounding
            if deviates and self.only in ("both", kind):
                theirs[1, 2] = ours[1, 2] + 90 * unit
            pair.append(theirs.to(self.dtype))
        return pair[0], pair[1]


def names(count: int) -> list[str]:
    """Names of stages, in no order of their letters."""
    words = ("load", "crop", "norm", "embed", "mix", "gate", "attend", "drop", "add", "scale")
    return [f"{words[(7 * i + 3) % 10]}{i}" for i in range(count)]


def hold_to_stage(submission: Any, pipelines: Pipelines, seed: int = 5) -> None:
    """Call bisect, and see that it names what was planted."""
    stages = list(pipelines.stages)
    found = submission.bisect(pipelines.good, pipelines.bad, list(stages), seed)
    expected = None if pipelines.planted is None else stages[pipelines.planted]
    if found == expected:
        return
    shown = f"{pipelines.dtype}, {len(stages)} stages".removeprefix("torch.")
    if found is None:
        fail(f"bisect says None ({shown}), but bad deviates from stage {expected!r} on")
    if expected is None:
        fail(f"bisect names {found!r} ({shown}), but the two differ by rounding only")
    where = "no stage of the list"
    if found in stages:
        early = stages.index(found) < stages.index(expected)
        where = "before it" if early else "after it"
    fail(f"bisect names {found!r} ({shown}); the first that deviates is {expected!r}: {where}")


# --- 1 and 2 ------------------------------------------------------------------------------------


@pytest.mark.task("warm_up")
class TestWarmUp:
    @pytest.mark.points(3, "training")
    def test_b01_reaches_its_target(self, submission, scratch):
        """b01 reaches its target."""
        hold_to_target("b01", scratch)

    @pytest.mark.points(2, "theory")
    def test_b01_diagnosis(self, submission, scratch):
        """The diagnosis of b01 is right."""
        hold_to_diagnosis("b01", scratch)

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_b01_reaches_its_target")
    def test_b01_few_edits(self, submission, scratch):
        """b01 was repaired by few edits."""
        hold_to_edits("b01", scratch)

    @pytest.mark.points(3, "training")
    def test_b02_reaches_its_target(self, submission, scratch):
        """b02 reaches its target."""
        hold_to_target("b02", scratch)

    @pytest.mark.points(2, "theory")
    def test_b02_diagnosis(self, submission, scratch):
        """The diagnosis of b02 is right."""
        hold_to_diagnosis("b02", scratch)

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_b02_reaches_its_target")
    def test_b02_few_edits(self, submission, scratch):
        """b02 was repaired by few edits."""
        hold_to_edits("b02", scratch)

    @pytest.mark.points(3, "training")
    def test_b03_reaches_its_target(self, submission, scratch):
        """b03 reaches its target."""
        hold_to_target("b03", scratch)

    @pytest.mark.points(2, "theory")
    def test_b03_diagnosis(self, submission, scratch):
        """The diagnosis of b03 is right."""
        hold_to_diagnosis("b03", scratch)

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_b03_reaches_its_target")
    def test_b03_few_edits(self, submission, scratch):
        """b03 was repaired by few edits."""
        hold_to_edits("b03", scratch)

    @pytest.mark.points(3, "training")
    def test_b04_reaches_its_target(self, submission, scratch):
        """b04 reaches its target."""
        hold_to_target("b04", scratch)

    @pytest.mark.points(2, "theory")
    def test_b04_diagnosis(self, submission, scratch):
        """The diagnosis of b04 is right."""
        hold_to_diagnosis("b04", scratch)

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_b04_reaches_its_target")
    def test_b04_few_edits(self, submission, scratch):
        """b04 was repaired by few edits."""
        hold_to_edits("b04", scratch)

    @pytest.mark.points(1, "structure")
    @pytest.mark.parametrize("name", ["b01", "b02", "b03", "b04"])
    def test_data_left_alone(self, submission, scratch, name):
        """The data of b01 to b04 are as handed out."""
        hold_to_data(name, scratch)


@pytest.mark.task("silent")
class TestSilent:
    @pytest.mark.points(4, "training")
    def test_b05_reaches_its_target(self, submission, scratch):
        """b05 reaches its target."""
        hold_to_target("b05", scratch)
        show_curves("b05", scratch)

    @pytest.mark.points(2, "theory")
    def test_b05_diagnosis(self, submission, scratch):
        """The diagnosis of b05 is right."""
        hold_to_diagnosis("b05", scratch)

    @pytest.mark.points(2, "structure")
    @pytest.mark.after("test_b05_reaches_its_target")
    def test_b05_few_edits(self, submission, scratch):
        """b05 was repaired by few edits."""
        hold_to_edits("b05", scratch)

    @pytest.mark.points(3, "training")
    def test_b06_reaches_its_target(self, submission, scratch):
        """b06 reaches its target."""
        hold_to_target("b06", scratch)
        show_curves("b06", scratch)

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_b06_reaches_its_target")
    def test_b06_noise_by_noise(self, submission, scratch):
        """A prediction of b06 hangs on its own noise alone."""
        text = text_of("b06", scratch)
        seed, plain = kept_run("b06", text, 0)
        space = loaded("b06", text)
        draw = space["draw"]

        def backwards(count: int, seed_: int) -> tuple[Tensor, ...]:
            drawn = draw(count, seed_)
            return tuple(p.flip(0) for p in drawn) if seed_ == 2 * seed + 1 else drawn

        space["draw"] = backwards
        other = run("b06", space, seed)
        changed = int((plain.predictions != other.predictions.flip(0)).sum())
        expect(
            changed <= 2,
            f"b06.py: with the test set in another order {changed} noises get another machine; "
            "what a model in evaluation says of a row hangs neither on chance nor on other rows",
        )

    @pytest.mark.points(2, "theory")
    def test_b06_diagnosis(self, submission, scratch):
        """The diagnosis of b06 is right."""
        hold_to_diagnosis("b06", scratch)

    @pytest.mark.points(2, "structure")
    @pytest.mark.after("test_b06_reaches_its_target")
    def test_b06_few_edits(self, submission, scratch):
        """b06 was repaired by few edits."""
        hold_to_edits("b06", scratch)

    @pytest.mark.points(3, "training")
    def test_b07_reaches_its_target(self, submission, scratch):
        """b07 reaches its target."""
        hold_to_target("b07", scratch)
        show_curves("b07", scratch)

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_b07_reaches_its_target")
    def test_b07_ignores_padding(self, submission, scratch):
        """What stands in rows of b07 that are no letters doesn't matter."""
        text = text_of("b07", scratch)
        seed, plain = kept_run("b07", text, 0)
        space = loaded("b07", text)
        draw = space["draw"]

        def other_padding(count: int, seed_: int) -> tuple[Tensor, Tensor, Tensor]:
            bags, is_letter, cost = draw(count, seed_)
            if seed_ == 2 * seed + 1:
                bags = torch.where(is_letter[..., None], bags, 1.0 - bags)
            return bags, is_letter, cost

        space["draw"] = other_padding
        other = run("b07", space, seed)
        gap = (plain.predictions - other.predictions).abs().max().item()
        expect(
            gap < 1e-4,
            "b07.py: the predictions change with rows of the test bags that are not letters, "
            f"by up to {gap:.2g}; such a row has weight 0, and no part in the others' weights",
        )

    @pytest.mark.points(2, "theory")
    def test_b07_diagnosis(self, submission, scratch):
        """The diagnosis of b07 is right."""
        hold_to_diagnosis("b07", scratch)

    @pytest.mark.points(2, "structure")
    @pytest.mark.after("test_b07_reaches_its_target")
    def test_b07_few_edits(self, submission, scratch):
        """b07 was repaired by few edits."""
        hold_to_edits("b07", scratch)

    @pytest.mark.points(4, "training")
    def test_b08_reaches_its_target(self, submission, scratch):
        """b08 reaches its target."""
        hold_to_target("b08", scratch)
        show_curves("b08", scratch)

    @pytest.mark.points(2, "theory")
    def test_b08_diagnosis(self, submission, scratch):
        """The diagnosis of b08 is right."""
        hold_to_diagnosis("b08", scratch)

    @pytest.mark.points(2, "structure")
    @pytest.mark.after("test_b08_reaches_its_target")
    def test_b08_few_edits(self, submission, scratch):
        """b08 was repaired by few edits."""
        hold_to_edits("b08", scratch)

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_b05_reaches_its_target")
    def test_b05_validates_honestly(self, submission, scratch):
        """The validation of b05 is no better than fresh data."""
        script, told, true = SCRIPTS["b05"], [], []
        for place in range(3):
            seed, found = kept_run("b05", text_of("b05", scratch), place)
            expect("val" in found.metrics, 'b05.py: the metrics lost "val"')
            told.append(found.metrics["val"])
            true.append(score(script, found.predictions, labels(script, seed)))
        gap = (sum(told) - sum(true)) / len(told)
        measured(f"{100 * gap:+.1f} points")
        picture(
            "bars",
            "Validation and fresh data",
            f"The validation is {100 * gap:+.1f} points above fresh data; 5 are allowed.",
            labels=[f"run {i}" for i in range(1, len(told) + 1)],
            series=[{"label": "val", "values": told}, {"label": "fresh", "values": true}],
        )
        expect(
            gap <= 0.05,
            f"b05.py: the validation says {sum(told) / 3:.3f}, new parts give {sum(true) / 3:.3f}: "
            "too good. What does the training know of the parts it is validated on?",
        )
        expect(
            gap >= -0.15,
            f"b05.py: the validation says {sum(told) / 3:.3f}, new parts give {sum(true) / 3:.3f}; "
            'is "val" still the accuracy on the held-out photos?',
        )

    @pytest.mark.points(1, "structure")
    @pytest.mark.parametrize("name", ["b05", "b06", "b07", "b08"])
    def test_data_left_alone(self, submission, scratch, name):
        """The data of b05 to b08 are as handed out."""
        hold_to_data(name, scratch)


# --- 3 ------------------------------------------------------------------------------------------


@pytest.mark.task("triage")
class TestTriage:
    @pytest.mark.points(4, "value")
    def test_loud_logs(self, submission):
        """At least 8 of 10 logs with an error or a warning are read."""
        first = base()
        cases = [(code, log_of(code, first + i)) for i in (1, 2) for code in LOUD]
        hold_to_logs(submission, cases, 8)

    @pytest.mark.points(4, "value")
    def test_curves(self, submission):
        """At least 8 of 10 logs of a silent bug are read."""
        first = base()
        cases = [(code, log_of(code, first + 5 * i)) for i in (1, 2) for code in CURVED]
        hold_to_logs(submission, cases, 8)

    @pytest.mark.points(2, "value")
    def test_the_cause_not_the_last_line(self, submission):
        """An error while another is handled hides no cause."""
        first, style = base(), STYLES[0]
        cases = [(c, broken_off(c, first + i, style, has_more=True)) for i, c in enumerate(SAID)]
        hold_to_logs(submission, cases, 3)

    @pytest.mark.points(2, "value")
    def test_healthy_logs(self, submission):
        """Healthy logs raise no alarm."""
        first = base()
        logs = [log_of("healthy", first + 5 * i) for i in range(3)]
        logs.append(rising_and_falling(first, STYLES[1]))
        for log in logs:
            found = answer(submission, log)
            expect(
                not found,
                f"triage says {found} of a healthy log that ends with {log.splitlines()[-1]!r}",
            )

    @pytest.mark.points(2, "value")
    def test_noisy_logs(self, submission):
        """A noisy curve is no bug."""
        first = base()
        for i in range(3):
            log = log_of("noisy", first + 4 * i)
            found = answer(submission, log)
            expect(
                not found,
                f"triage says {found} of a healthy run with small batches: its loss and gradients "
                "jump up and down, but have no trend",
            )

    @pytest.mark.points(1, "value")
    def test_empty_log(self, submission):
        """An empty log gives an empty list."""
        for log in ("", "\n"):
            found = answer(submission, log)
            expect(not found, f"triage({log!r}) says {found}; expected []")


# --- 4 ------------------------------------------------------------------------------------------


@pytest.mark.task("bisect")
class TestBisect:
    @pytest.mark.points(3, "value")
    def test_finds_the_stage(self, submission):
        """The planted stage is found among 16."""
        for planted in range(16):
            hold_to_stage(submission, Pipelines(names(16), planted, salt=planted))
        for planted in (0, 4, 8, 15):
            hold_to_stage(submission, Pipelines(names(16), planted, salt=31 + planted), seed=11)

    @pytest.mark.points(3, "structure")
    @pytest.mark.after("test_finds_the_stage")
    def test_few_calls(self, submission):
        """At most 5 calls of bad for 16 stages."""
        for count in (1, 2, 3, 7, 11, 16):
            most = math.ceil(math.log2(count + 1))
            for planted in (*range(count), None):
                pipelines = Pipelines(names(count), planted)
                hold_to_stage(submission, pipelines)
                calls = len(pipelines.bad_calls)
                expect(
                    calls <= most,
                    f"bad was called {calls} times for {count} stages; at most {most} are needed: "
                    "what agrees at one stage agrees at all before it",
                    expected=most,
                    got=calls,
                )

    @pytest.mark.points(2, "value")
    def test_equal_pair(self, submission):
        """None for two pipelines that agree."""
        for count in (16, 5):
            hold_to_stage(submission, Pipelines(names(count), None, noise=0.0))
            hold_to_stage(submission, Pipelines(names(count), None))

    @pytest.mark.points(2, "gradient")
    def test_gradient_alone(self, submission):
        """A deviation of the gradient alone is found."""
        for planted in (3, 10):
            hold_to_stage(submission, Pipelines(names(16), planted, only="gradient"))
            hold_to_stage(submission, Pipelines(names(16), planted, only="output"))

    @pytest.mark.points(3, "value")
    @pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
    def test_rounding(self, submission, dtype):
        """Rounding is tolerated in every dtype and at every scale."""
        for scale in (1.0, 1e-3, 1e3):
            for planted in (None, 6):
                pipelines = Pipelines(names(16), planted, getattr(torch, dtype), scale)
                hold_to_stage(submission, pipelines)

    @pytest.mark.points(2, "value")
    def test_same_seed(self, submission):
        """Both pipelines get the seed that was given."""
        for seed in (0, 42):
            pipelines = Pipelines(names(16), 9)
            hold_to_stage(submission, pipelines, seed)
            used = {given for _, given in pipelines.good_calls + pipelines.bad_calls}
            expect(used == {seed}, f"bisect(…, seed={seed}) called the pipelines with {used}")

    @pytest.mark.points(1, "value")
    def test_few_stages(self, submission):
        """One stage or none at all is no special case."""
        hold_to_stage(submission, Pipelines([], None))
        hold_to_stage(submission, Pipelines(["only"], 0))
        hold_to_stage(submission, Pipelines(["only"], None))

    @pytest.mark.points(2, "training")
    def test_b09_reaches_its_target(self, submission, scratch):
        """b09 reaches its target."""
        hold_to_target("b09", scratch)

    @pytest.mark.points(1, "theory")
    def test_b09_diagnosis(self, submission, scratch):
        """The diagnosis of b09 is right."""
        hold_to_diagnosis("b09", scratch)

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_b09_reaches_its_target")
    def test_b09_few_edits(self, submission, scratch):
        """b09 was repaired by few edits."""
        hold_to_edits("b09", scratch)

    @pytest.mark.points(2, "training")
    def test_b10_reaches_its_target(self, submission, scratch):
        """b10 reaches its target."""
        hold_to_target("b10", scratch)

    @pytest.mark.points(1, "theory")
    def test_b10_diagnosis(self, submission, scratch):
        """The diagnosis of b10 is right."""
        hold_to_diagnosis("b10", scratch)

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_b10_reaches_its_target")
    def test_b10_few_edits(self, submission, scratch):
        """b10 was repaired by few edits."""
        hold_to_edits("b10", scratch)

    @pytest.mark.points(1, "structure")
    @pytest.mark.parametrize("name", ["b09", "b10"])
    def test_data_left_alone(self, submission, scratch, name):
        """The data of b09 and b10 are as handed out."""
        hold_to_data(name, scratch)
