"""Probes of a training run, a diagnosis made of them, and the reader of the checklist.

A probe looks at a recorded run and gives one number; from which number on a run is ill stands in
`debug_checklist.md`, in the row that names the probe.
"""

from __future__ import annotations

import copy
import math
import statistics
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from zoo import Run


@dataclass
class Trace:
    """What was seen of a run: in every list one entry a step, in dicts one a parameter or layer.

    Parameters and layers go by their names in the model; numbers are Python's own.
    """

    loss: list[float] = field(default_factory=list)  # what run.step() returned
    lr: list[float] = field(default_factory=list)  # of the optimizer's first group
    grad_norm: list[dict[str, float]] = field(default_factory=list)  # at the optimizer's step
    weight_norm: list[dict[str, float]] = field(default_factory=list)  # before the step
    update_ratio: list[dict[str, float]] = field(default_factory=list)  # |change| / |before|
    param_delta: list[float] = field(default_factory=list)  # norm of the change of all parameters
    reached: list[float] = field(default_factory=list)  # share of parameters backward came to
    dead: list[dict[str, float]] = field(default_factory=list)  # ReLU: share of outputs that are 0
    saturated: list[dict[str, float]] = field(default_factory=list)  # sigmoid, tanh: at the limits
    row_sum: list[float] = field(default_factory=list)  # of the model's output, mean over the rows
    batch_hash: list[int] = field(default_factory=list)  # of the model's input
    training: list[bool] = field(default_factory=list)  # the model's mode in forward
    data_mean: list[list[float]] = field(default_factory=list)  # of every feature, over the batch
    data_std: list[list[float]] = field(default_factory=list)  # as x.std(dim=0) gives it


class Row(NamedTuple):
    """One row of the checklist."""

    group: str
    id: str
    symptom: str
    probe: str
    threshold: float
    fix: str


def record(run: Run, steps: int) -> Trace:
    """Take that many steps of the run and write down what can be seen of them.

    Args:
        run: trained on by `run.step()`; in the end it is as if nobody had looked.
        steps: how many steps to take.
    """
    ### BEGIN SOLUTION 1: what a step shows, and how to look without leaving a mark
    trace, now = Trace(), dict[str, object]()
    named = dict(run.model.named_parameters())

    def enters(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0].detach()
        now["batch_hash"] = hash(x.numpy(force=True).tobytes())
        now["training"] = module.training
        now["data_mean"], now["data_std"] = x.mean(dim=0).tolist(), x.std(dim=0).tolist()

    def leaves(module: nn.Module, args: object, output: Tensor) -> None:
        now["row_sum"] = output.detach().sum(dim=-1).mean().item()

    def answers(name: str, module: nn.Module, args: object, output: Tensor) -> None:
        out = output.detach()
        if isinstance(module, nn.ReLU):
            now["dead"][name] = (out == 0).double().mean().item()
        else:
            low = 0.0 if isinstance(module, nn.Sigmoid) else -1.0
            at_a_limit = (out <= low + 0.01) | (out >= 0.99)
            now["saturated"][name] = at_a_limit.double().mean().item()

    def steps_now(opt: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        now["lr"] = float(opt.param_groups[0]["lr"])
        now["grad_norm"] = {
            name: math.nan if p.grad is None else p.grad.norm().item() for name, p in named.items()
        }

    reached = set[str]()
    handles = [
        run.model.register_forward_pre_hook(enters),
        run.opt.register_step_pre_hook(steps_now),
    ]
    handles.append(run.model.register_forward_hook(leaves))
    for name, module in run.model.named_modules():
        if isinstance(module, nn.ReLU | nn.Sigmoid | nn.Tanh):
            handles.append(module.register_forward_hook(partial(answers, name)))
    for name, p in named.items():
        if p.requires_grad:
            handles.append(p.register_hook(lambda _, name=name: reached.add(name)))
    try:
        for _ in range(steps):
            reached.clear()
            now.update(dead={}, saturated={})
            before = {name: p.detach().clone() for name, p in named.items()}
            now["loss"] = run.step()
            change = {name: (p.detach() - before[name]).norm().item() for name, p in named.items()}
            size = {name: old.norm().item() for name, old in before.items()}
            now["weight_norm"] = size
            now["update_ratio"] = {name: change[name] / (size[name] + 1e-12) for name in named}
            now["param_delta"] = math.sqrt(sum(c * c for c in change.values()))
            now["reached"] = len(reached) / max(sum(p.requires_grad for p in named.values()), 1)
            for entry in fields(trace):
                getattr(trace, entry.name).append(now[entry.name])
    finally:
        for handle in handles:
            handle.remove()
    return trace
    ### END SOLUTION


### BEGIN SOLUTION 2: at least ten probes
def total(norms: dict[str, float]) -> float:
    """One norm of those of all parameters; nan where nobody has one."""
    known = [norm for norm in norms.values() if not math.isnan(norm)]
    return math.sqrt(sum(n * n for n in known)) if known else math.nan


def finite(values: list[float]) -> list[float]:
    """The values that are numbers."""
    return [value for value in values if math.isfinite(value)]


def probe_lr_huge(t: Trace) -> float:
    """The largest step, as a share of weights and step together."""
    pairs = zip(t.param_delta, map(total, t.weight_norm), strict=True)
    shares = finite([step / (step + size) for step, size in pairs if step + size > 0])
    return max(shares, default=math.nan)


def probe_lr_tiny(t: Trace) -> float:
    """How many decimal places below the weights the largest update is."""
    largest = max(finite([max(ratios.values()) for ratios in t.update_ratio]), default=0.0)
    return -math.log10(largest) if largest > 0 else math.nan


def probe_no_zero_grad(t: Trace) -> float:
    """How much larger the gradient has become; a rise of the loss itself is divided out."""
    norms = finite([total(g) for g in t.grad_norm])
    loss = finite(t.loss)
    if len(norms) < 12 or norms[0] == 0:
        return math.nan
    growth = statistics.median(norms[-5:]) / statistics.median(norms[:5])
    return growth / max(1.0, statistics.median(loss[-5:]) / loss[0])


def probe_zero_after_backward(t: Trace) -> float:
    """Share of the steps in which backward came to parameters that then had no gradient."""
    seen = [
        came > 0 and not total(norms) > 0
        for came, norms, loss in zip(t.reached, t.grad_norm, t.loss, strict=True)
        if math.isfinite(loss)
    ]
    return sum(seen) / len(seen) if seen else math.nan


def probe_detached(t: Trace) -> float:
    """Share of the parameters that no backward came to."""
    return 1.0 - max(t.reached)


def probe_dead_relu(t: Trace) -> float:
    """In the worst layer, the share of outputs that are 0, in its best step."""
    return max((min(step[n] for step in t.dead) for n in t.dead[0]), default=math.nan)


def probe_zero_init(t: Trace) -> float:
    """Share of the parameters that are all zeros at the first step."""
    sizes = list(t.weight_norm[0].values())
    return sizes.count(0.0) / len(sizes)


def probe_stale_optimizer(t: Trace) -> float:
    """Share of the steps in which there is a gradient and yet not one weight moves."""
    seen = [
        total(norms) > 0 and moved == 0
        for norms, moved in zip(t.grad_norm, t.param_delta, strict=True)
    ]
    return sum(seen) / len(seen)


def probe_double_softmax(t: Trace) -> float:
    """How near the outputs of a row come to the sum 1, in the worst step; 1 is exact."""
    return 1.0 - max((abs(total - 1.0) for total in finite(t.row_sum)), default=math.nan)


def probe_sigmoid_deep(t: Trace) -> float:
    """How many decimal places the gradient loses on its way from the last weights to the first."""
    lost = []
    for norms in t.grad_norm:
        first, *_, last = (norm for name, norm in norms.items() if name.endswith("weight"))
        if 0 < first < math.inf and 0 < last < math.inf:
            lost.append(math.log10(last / first))
    return statistics.median(lost) if lost else math.nan


def probe_unscaled(t: Trace) -> float:
    """How many decimal places lie between the widest and the narrowest feature."""
    spreads = [[s for s in finite(stds) if s > 0] for stds in t.data_std]
    return max((math.log10(max(s) / min(s)) for s in spreads if s), default=math.nan)


def probe_nan_row(t: Trace) -> float:
    """Number of batches with a value that is not finite."""
    return float(sum(len(finite(means)) < len(means) for means in t.data_mean))


def probe_ascent(t: Trace) -> float:
    """The smallest factor between the mean losses of one quarter of the steps and the next."""
    n = len(t.loss) // 4
    if n == 0 or len(finite(t.loss)) < 4 * n:
        return math.nan
    quarters = [statistics.fmean(t.loss[i * n : (i + 1) * n]) for i in range(4)]
    return min(later / earlier for earlier, later in pairwise(quarters))


def probe_plateau(t: Trace) -> float:
    """What is left of the loss at the end."""
    loss = finite(t.loss)
    enough = len(loss) == len(t.loss) and len(loss) >= 40
    return statistics.fmean(loss[-10:]) / statistics.fmean(loss[:5]) if enough else math.nan


def probe_repeated_batch(t: Trace) -> float:
    """Share of the steps whose batch had been seen before."""
    return 1.0 - len(set(t.batch_hash)) / len(t.batch_hash)


def probe_eval_mode(t: Trace) -> float:
    """Share of the steps in eval mode."""
    return 1.0 - sum(t.training) / len(t.training)


def probe_widths(t: Trace) -> float:
    """Number of different numbers of features."""
    return float(len({len(means) for means in t.data_mean}))


def probe_memory(t: Trace) -> float:
    """Share of the device's memory that was in use at the most; nan without a device."""
    if not torch.cuda.is_available():
        return math.nan
    _, whole = torch.cuda.mem_get_info()
    return torch.cuda.max_memory_allocated() / whole


def probe_threads(t: Trace) -> float:
    """Number of threads that one operation uses."""
    return float(torch.get_num_threads())


### END SOLUTION


def diagnose(run: Run, max_steps: int = 60) -> list[str]:
    """What the run suffers from, most likely first: at most three of `zoo.KINDS`, [] if healthy.

    Args:
        run: stays as it is; experiments are made on `copy.deepcopy(run)`.
        max_steps: how many steps all experiments may take together.
    """
    ### BEGIN SOLUTION 3: a copy, a trace, the rows in order
    with torch.random.fork_rng():
        trace = record(copy.deepcopy(run), max_steps)
    rows = checklist(Path("debug_checklist.md").read_text(encoding="utf-8"))
    limits = {row.probe: row.threshold for row in rows}
    suspects = [
        "nan_row",
        "detached",
        "zero_after_backward",
        "stale_optimizer",
        "zero_init",
        "dead_relu",
        "double_softmax",
        "unscaled",
        "lr_huge",
        "lr_tiny",
        "sigmoid_deep",
        "no_zero_grad",
        "ascent",
    ]
    found = [k for k in suspects if globals()[f"probe_{k}"](trace) >= limits[f"probe_{k}"]]
    if not found and probe_plateau(trace) >= limits["probe_plateau"]:
        found = ["shuffled_labels"]  # all moves as it should, and nothing is learned
    return found[:3]
    ### END SOLUTION


def checklist(text: str) -> list[Row]:
    """The rows of a checklist, in its order.

    Args:
        text: groups as in day 0, `## group` and `Keywords: …`, with rows
            `- [ ] ID | symptom | probe: function | threshold | fix`.

    Raises:
        ValueError: a line with a box has not these five cells, or no number as threshold.
    """
    rows, group = [], ""
    for line in text.splitlines():
        if line.startswith("## "):
            group = line[3:].strip()
        elif line.startswith(("- [ ] ", "- [x] ")):
            cells = [cell.strip() for cell in line[6:].split("|")]
            if len(cells) != 5:
                raise ValueError(f"{len(cells)} cells where a row has five: {line}")
            name, symptom, probe, threshold, fix = cells
            probe = probe.removeprefix("probe:").strip()
            rows.append(Row(group, name, symptom, probe, float(threshold), fix))
    return rows


if __name__ == "__main__":  # the page: what your checklist sees in the zoo
    import zoo

    PATIENTS = ("healthy", *zoo.KINDS)
    TRACES = {kind: record(zoo.make(kind, 0), 60) for kind in PATIENTS}
    for row in checklist(Path("debug_checklist.md").read_text(encoding="utf-8")):
        value_of = globals().get(row.probe, lambda _: math.nan)
        ill = [kind for kind in PATIENTS if value_of(TRACES[kind]) >= row.threshold]
        print(f"{row.id:10} {row.probe:28} >= {row.threshold:<8g} {', '.join(ill) or '-'}")  # noqa: T201
