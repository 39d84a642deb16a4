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
    # TODO 1: what a step shows, and how to look without leaving a mark
    raise NotImplementedError("day21 T1: record")
    # END TODO


# TODO 2: at least ten probes
# END TODO


def diagnose(run: Run, max_steps: int = 60) -> list[str]:
    """What the run suffers from, most likely first: at most three of `zoo.KINDS`, [] if healthy.

    Args:
        run: stays as it is; experiments are made on `copy.deepcopy(run)`.
        max_steps: how many steps all experiments may take together.
    """
    # TODO 3: a copy, a trace, the rows in order
    raise NotImplementedError("day21 T3: diagnose")
    # END TODO


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
