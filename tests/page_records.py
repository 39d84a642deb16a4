"""Records for the tests of the pages: a course of 29 days with tracks, and attempts at it."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from grader.model import (
    Attempt,
    AttemptSummary,
    Check,
    Environment,
    Exercise,
    Fault,
    Kind,
    Limits,
    Line,
    Message,
    Outcome,
    Picture,
    Status,
    Task,
    Verdict,
)

ZONE = timezone(timedelta(hours=8))
NOW = datetime(2026, 11, 21, 20, 14, tzinfo=ZONE)

TITLES = (
    ("Toolkit and environment", "环境搭建与工具库准备"),
    ("Tensors, dtypes and devices", "Tensor 基础 + dtype/device 管理"),
    ("Changing dimensions", "维度变换大通关"),
    ("Broadcasting in depth", "广播机制深度解析"),
    ("Advanced indexing and masks", "高级索引 & Mask"),
    ("Einsum", "Einsum 爱因斯坦求和约定"),
    ("NumPy and PyTorch", "NumPy 与 PyTorch 的互转陷阱"),
    ("Review: dimensions", "复盘：维度变换速查表"),
    ("Autograd", "Autograd 机制"),
    ("Loss functions", "Loss 函数的输入细节"),
    ("Optimizers and gradients", "Optimizer 与梯度管理"),
    ("Train and eval mode", "Train/Eval 模式的副作用"),
    ("Dataset and DataLoader", "DataLoader 与 Dataset 自定义"),
    ("Saving and resuming", "模型保存、加载与断点续训"),
    ("Review: a training template", "复盘：最小可运行训练模板"),
    ("NaN and exploding losses", "NaN / Loss 爆炸的定位与修复"),
    ("Memory and batch size", "显存管理与 Batch Size 调优"),
    ("Mixed precision", "混合精度训练 (AMP) 初探"),
    ("Faster DataLoaders", "DataLoader 加速"),
    ("Profiling", "简单的性能分析"),
    ("Debugging drill", "综合排错演练"),
    ("Review: the checklist", "复盘：完善清单"),
    ("Embedding and positions", "Embedding + Positional Encoding"),
    ("Self-attention (Q, K, V)", "Self-Attention 实现 (Q, K, V)"),
    ("Transformer block", "Transformer Block"),
    ("Training a language model", "语言模型训练闭环"),
    ("Theory for interviews", "理论面试题准备"),
    ("Acceptance: a small LM", "验收：手写最小 LM"),
    ("Review of everything", "总复盘"),
)

WEEKS = {
    1: "Dimensions and tensors",
    2: "Autograd and training",
    3: "Debugging and speed",
    4: "Towards an LLM",
}

FILE = "exercises/day23/self_attention.py"

SOURCE = '''"""Attention, from the weights to many heads."""

import math

import torch
from torch import Tensor


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(batch, time, width) -> (batch, heads, time, head_dim)"""
    B, T, C = x.shape
    d = C // heads
    return x.view(B, T, heads, d)


def merge_heads(x: Tensor) -> Tensor:
    """The way back."""
    B, H, T, d = x.shape
    return x.transpose(1, 2).reshape(B, T, H * d)


def attention_weights(q: Tensor, k: Tensor) -> Tensor:
    """(*, query, key)"""
    T = q.shape[-2]
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    mask = torch.ones(T, T)
    mask = mask.tril(diagonal=1)
    scores = scores.masked_fill(mask == 0, -torch.inf)
    return scores.softmax(-1)
'''

REFERENCE = SOURCE.replace(
    "return x.view(B, T, heads, d)", "return x.view(B, T, heads, d).transpose(1, 2)"
).replace("tril(diagonal=1)", "tril()")

STATEMENT = """# Day 23: Self-attention (Q, K, V)

Write attention in three steps: *split*, *attend*, *learn*.

## 1. Split the heads

```python
def split_heads(x: Tensor, heads: int) -> Tensor: ...
```

- `x` has the shape `(batch, time, width)`, the result `(batch, heads, time, head_dim)`.
- No copy where a view will do.

## 2. Attend

| part | shape |
| --- | --- |
| weights | `(batch, heads, query, key)` |
| output | `(batch, heads, query, head_dim)` |

With two keys and scores `[0, ln 3]` the weights are `[0.25, 0.75]`.

Read [Vaswani et al., 2017](https://arxiv.org/abs/1706.03762), section 3.2.

> **House rules.** Don't change the arguments unless the task says so.
"""


def _check(number: str, task: str, title: str, kind: Kind, points: int, **more: Any) -> Check:
    name = f"Test{task.title().replace('_', '')}::test_{number.replace('.', '_')}"
    return Check(f"day23/{number}", name, task, title, kind, points, **more)


CHECKS = (
    _check("1.1", "split_heads", "`split_heads` has the right shape.", Kind.SHAPE, 15),
    _check("1.2", "split_heads", "Merging undoes splitting.", Kind.VALUE, 10),
    _check("2.1", "attention", "Each row of weights sums to 1.", Kind.VALUE, 10),
    _check(
        "2.2",
        "attention",
        "No position sees its future.",
        Kind.VALUE,
        20,
        hint="Print the mask for T = 3. Which entries should be 1?",
    ),
    _check(
        "2.3",
        "attention",
        "The output agrees with PyTorch's scaled_dot_product_attention.",
        Kind.VALUE,
        15,
        after=("TestSplitHeads::test_1_1", "TestAttention::test_2_2"),
    ),
    _check("3.1", "learn", "Gradients reach all four projections.", Kind.GRADIENT, 12),
    _check("3.2", "learn", "It learns to copy in 60 steps.", Kind.TRAINING, 8),
    _check("4.1", "go_fast", "At most 2 times the reference.", Kind.SPEED, 10),
    _check("4.2", "go_fast", "Peak memory on a GPU stays linear.", Kind.MEMORY, 0, gpu=True),
)

TASKS = (
    Task(
        1,
        "split_heads",
        "Split the heads",
        25,
        1,
        (
            "Compare the axis names with the four numbers you get back. Which two moved?",
            "`view` keeps elements in memory order: it can split an axis, never reorder axes.",
            "Swap the two axes after the view: one call with the numbers 1 and 2.",
        ),
    ),
    Task(2, "attention", "Attend", 45, 2, ("A query may look at itself, and at nothing later.",)),
    Task(3, "learn", "Learn", 20, 2, ()),
    Task(4, "go_fast", "Go fast", 10, 3, ("One matmul for all heads.",)),
)

DAY23 = Exercise(
    id="day23",
    title="Self-attention (Q, K, V)",
    title_zh="Self-Attention 实现 (Q, K, V)",
    track="roadmap",
    week=4,
    goal="Attention in five steps, then heads, then the form that never builds the whole matrix.",
    minutes=90,
    files=("self_attention.py",),
    data=(),
    tasks=TASKS,
    checks=CHECKS,
    limits=Limits(),
    source=Path("solutions/day23"),
    folder=Path("exercises/day23"),
)

ENVIRONMENT = Environment("3.13.1", "2.13.0", "cpu", 1, 277527, "fork")


def weights(size: int, seed: int = 5, shift: int = 0) -> list[list[float]]:
    """Rows of attention weights that look at most ``shift`` steps ahead."""
    random_ = random.Random(seed)
    rows = []
    for i in range(size):
        row = [math.exp(random_.gauss(0, 1)) if j <= i + shift else 0.0 for j in range(size)]
        total = sum(row)
        rows.append([value / total for value in row])
    return rows


AXES = Picture(
    "axes",
    "Axes 1 and 2 are swapped",
    "The sizes are right, but `heads` and `time` have changed places.",
    {
        "expected": {"names": ["batch", "heads", "time", "head_dim"], "sizes": [2, 4, 5, 8]},
        "got": {"sizes": [2, 5, 4, 8]},
        "moves": [[0, 0], [1, 2], [2, 1], [3, 3]],
    },
)

_YOURS = weights(6, shift=1)
MAPS = Picture(
    "heatmap",
    "Attention weights",
    "Head 0 of example 0; stronger colour is more weight.",
    {
        "maps": [
            {"label": "expected", "values": weights(6), "scale": "sequential"},
            {
                "label": "yours",
                "values": _YOURS,
                "marked": [[i, i + 1] for i in range(5)],
                "scale": "sequential",
            },
            {
                "label": "must be zero",
                "values": [
                    [v if j == i + 1 else 0.0 for j, v in enumerate(row)]
                    for i, row in enumerate(_YOURS)
                ],
                "scale": "diverging",
            },
        ],
        "row_axis": "query",
        "column_axis": "key",
    },
)

BARS = Picture(
    "bars",
    "Gradient norm per parameter",
    "On a logarithmic scale; none is zero.",
    {
        "labels": ["W_q.weight", "W_k.weight", "W_v.weight", "W_o.weight", "W_o.bias"],
        "series": [{"label": "norm", "values": [0.031, 0.028, 0.412, 1.37, 0.88]}],
        "log": True,
    },
)


def _timed(centre: float, seed: int) -> list[float]:
    random_ = random.Random(seed)
    return [round(random_.gauss(centre, 0.06 * centre), 4) for _ in range(20)]


DOTS = Picture(
    "dots",
    "Every timed pair",
    "Forward and backward take 1.4 times the reference; up to 2.0 is allowed.",
    {
        "groups": [
            {"label": "reference", "values": _timed(2.1, 1)},
            {"label": "yours", "values": _timed(2.9, 2)},
        ],
        "limit": 4.2,
        "unit": "ms",
    },
)

CURVE = Picture(
    "curve",
    "Loss",
    "Three seeds; two of three must pass below the limit.",
    {
        "series": [
            {
                "label": f"seed {seed}",
                "x": list(range(60)),
                "y": [2.5 * math.exp(-k / (9 + 4 * seed)) + 0.04 * (seed + 1) for k in range(60)],
            }
            for seed in range(3)
        ],
        "x_label": "step",
        "y_label": "loss",
        "log_y": True,
        "limit": 0.2,
    },
)

SCATTER = Picture(
    "scatter",
    "Analytic against numeric gradient",
    "Each dot is one entry of the input.",
    {
        "x": [k / 7 - 2 for k in range(28)],
        "y": [(k / 7 - 2) * (1.0 if k % 9 else 1.4) for k in range(28)],
        "x_label": "numeric",
        "y_label": "analytic",
        "diagonal": True,
    },
)

GRAPH = Picture(
    "graph",
    "The graph that backward walks",
    "The weight is reached twice.",
    {
        "nodes": [
            {"id": "x", "label": "x", "note": "(2, 3)"},
            {"id": "w", "label": "w", "note": "leaf"},
            {"id": "mm", "label": "matmul", "note": "(2, 5)"},
            {"id": "add", "label": "add", "note": ""},
            {"id": "loss", "label": "loss", "note": "()"},
        ],
        "edges": [
            {"from": "x", "to": "mm"},
            {"from": "w", "to": "mm"},
            {"from": "mm", "to": "add"},
            {"from": "w", "to": "add", "label": "decay"},
            {"from": "add", "to": "loss"},
        ],
    },
)

TEXT = Picture(
    "text",
    "Your table beside the expected one",
    "Row 3 differs.",
    {
        "panels": [
            {
                "label": "expected",
                "lines": ["view   no copy", "reshape  maybe", "permute  no copy"],
            },
            {
                "label": "yours",
                "lines": ["view   no copy", "reshape  maybe", "permute  copy"],
                "marked": [2],
            },
        ]
    },
)

ALIGNMENT = Picture(
    "alignment",
    "Shapes aligned from the right",
    "Hatched axes are stretched.",
    {
        "rows": [
            {"label": "scores", "sizes": [2, 4, 5, 5]},
            {"label": "mask", "sizes": [5, 1]},
        ],
        "result": [2, 4, 5, 5],
        "note": "`mask` is stretched along its last axis.",
    },
)

BESIDE = Picture(
    "curve",
    "Beside the model solution",
    "The band is what five trainings gave.",
    {
        "series": [
            {"label": "yours", "x": [1, 10, 20, 30], "y": [3.2, 2.6, "nan", 1.4]},
            {
                "label": "model solution",
                "x": [1, 10, 20, 30],
                "y": [3.2, 2.4, 1.6, 1.1],
                "low": [3.1, 2.3, 1.4, 1.0],
                "high": [3.3, 2.5, 1.9, 1.3],
            },
        ],
        "levels": [{"label": "pairs", "y": 1.53}, {"label": "knows nothing", "y": 3.22}],
        "x_label": "step",
        "y_label": "nats",
        "log_y": False,
        "limit": 1.2,
    },
)

SIGNS = Picture(
    "heatmap",
    "What each character costs",
    "In nats; knowing nothing costs 3.22.",
    {
        "maps": [
            {
                "label": "",
                "values": [[3.3 / (1 + (k + r) % 5 * r) for k in range(24)] for r in range(3)],
                "marked": [[2, 8]],
            }
        ],
        "row_labels": ["1", "60", "240"],
        "column_labels": list("the␣cat␣sees␣a␣boat␣now."),
        "row_axis": "step",
        "column_axis": "character",
        "peak": 3.22,
    },
)

ALL_PICTURES = (
    AXES, MAPS, BARS, DOTS, CURVE, SCATTER, GRAPH, TEXT, ALIGNMENT, BESIDE, SIGNS
)  # fmt: skip


def outcome(number: str, status: Status = Status.PASSED, **more: Any) -> Outcome:
    """How check ``number`` of day 23 ended."""
    found = next(check for check in CHECKS if check.number == number)
    return Outcome(found, status, **({"seconds": 0.004} | more))


def mixed() -> tuple[Outcome, ...]:
    """A wrong shape, a wrong mask, a check that waits, a speed check that passed, a skip."""
    return (
        outcome(
            "1.1",
            Status.FAILED,
            message=Message(
                "shape.permuted",
                "Axes 1 and 2 are swapped: `split_heads` must return (batch, heads, time, "
                "head_dim).",
            ),
            details=(
                "            batch   heads   time   head_dim",
                "expected        2       4      5          8",
                "got             2      *5     *4          8",
            ),
            expected={"shape": [1, 2, 3, 1]},
            got={"shape": [1, 3, 2, 1]},
            minimal="x = torch.zeros(1, 3, 2)\nsplit_heads(x, heads=2).shape",
            lines=(Line(FILE, 13, "    return x.view(B, T, heads, d)", "split_heads"),),
            pictures=(AXES,),
            traceback=f"{FILE}:13 in split_heads\n    return x.view(B, T, heads, d)",
        ),
        outcome("1.2"),
        outcome("2.1", output="tensor([1., 1.])\n"),
        outcome(
            "2.2",
            Status.FAILED,
            message=Message(
                "mask.future",
                "Position 2 puts weight 0.22 on position 3, which lies in its future. All 5 wrong "
                "weights sit exactly one step above the diagonal.",
            ),
            expected=[[1.0, 0.0], [0.39, 0.61]],
            got=[[0.76, 0.24], [0.39, 0.61]],
            minimal="attention_weights(q, k)  # T = 2",
            lines=(Line(FILE, 27, "    mask = mask.tril(diagonal=1)", "attention_weights"),),
            pictures=(MAPS,),
            output="mask:\ntensor([[1., 1., 0.],\n        [1., 1., 1.],\n        [1., 1., 1.]])\n",
        ),
        outcome(
            "2.3",
            Status.WAITING,
            seconds=0.0,
            blocked_by=("TestSplitHeads::test_1_1", "TestAttention::test_2_2"),
        ),
        outcome("3.1", pictures=(BARS,)),
        outcome("3.2", seconds=0.8, pictures=(CURVE,)),
        outcome("4.1", seconds=1.6, measured="1.4x", pictures=(DOTS,)),
        outcome("4.2", Status.SKIPPED, seconds=0.0, message=Message("skip", "no CUDA here")),
    )


def attempt(outcomes: tuple[Outcome, ...], number: int = 4, **more: Any) -> Attempt:
    """An attempt at day 23."""
    counted = [o for o in outcomes if o.status is not Status.SKIPPED]
    is_solved = all(o.status.earns for o in counted)
    standard = {
        "exercise": "day23",
        "number": number,
        "started": NOW - timedelta(minutes=3),
        "seconds": 2.4,
        "verdict": Verdict.PASSED if is_solved else Verdict.FAILED,
        "outcomes": outcomes,
        "environment": ENVIRONMENT,
        "suite_digest": "7c1e9f",
        "files": {"self_attention.py": SOURCE},
    }
    return Attempt(**(standard | more))


def solved(number: int = 5) -> Attempt:
    """All checks of day 23 pass on a machine without a GPU."""
    outcomes = tuple(
        o if o.status in (Status.PASSED, Status.SKIPPED) else outcome(o.check.number)
        for o in mixed()
    )
    return attempt(outcomes, number, files={"self_attention.py": REFERENCE})


def unloadable() -> Attempt:
    """A file with a bracket that is never closed."""
    lines = SOURCE.replace("heads, d)\n", "heads, d\n").split("\n")
    return attempt(
        (),
        5,
        verdict=Verdict.ERROR,
        seconds=0.02,
        files={"self_attention.py": "\n".join(lines)},
        fault=Fault(
            "SyntaxError",
            "'(' was never closed",
            FILE,
            13,
            18,
            tuple(Line(FILE, n, lines[n - 1]) for n in range(11, 16)),
            "opened on line 13",
        ),
    )


def course(checks: int = 7) -> list[Exercise]:
    """Day 0 to 28, thirteen lectures and two Kaggle exercises; day 23 is `DAY23`."""
    kinds = list(Kind)
    exercises = []
    for number, (title, title_zh) in enumerate(TITLES):
        if number == 23:
            exercises.append(DAY23)
            continue
        exercises.append(_exercise(f"day{number:02}", title, title_zh, checks + number % 4, kinds))
    for number in range(1, 14):
        made = _exercise(f"lecture{number:02}", f"Lecture {number}", f"第 {number} 讲", 4, kinds)
        exercises.append(replace(made, track="lecture", week=None))
    for number, title in ((1, "Titanic"), (2, "Digits")):
        made = _exercise(f"kaggle{number:02}", title, title, 5, kinds)
        exercises.append(replace(made, track="kaggle", week=None))
    return exercises


def _exercise(id: str, title: str, title_zh: str, size: int, kinds: list[Kind]) -> Exercise:
    number = int(id[-2:])
    checks = tuple(
        Check(
            f"{id}/{1 + k // 3}.{1 + k % 3}",
            f"TestTask{1 + k // 3}::test_{k}",
            f"task{1 + k // 3}",
            f"Property {k} of {title.lower()} holds.",
            kinds[(k * k + number) % 6],
            10,
        )
        for k in range(size)
    )
    tasks = tuple(
        Task(
            t, f"task{t}", f"Task {t}", 10 * sum(c.task == f"task{t}" for c in checks), 1, ("Hm?",)
        )
        for t in range(1, 2 + (size - 1) // 3)
    )
    return Exercise(
        id=id,
        title=title,
        title_zh=title_zh,
        track="roadmap",
        week=1 + (number - 1) // 7 if number else None,
        goal=f"What {title.lower()} is about.",
        minutes=60,
        files=("answer.py",),
        data=(),
        tasks=tasks,
        checks=checks,
        limits=Limits(),
        source=Path("solutions") / id,
        folder=Path("exercises") / id,
    )


def history(exercises: list[Exercise], total: int = 140, seed: int = 3) -> list[AttemptSummary]:
    """``total`` attempts over 26 days; two of the days before 23 are not solved yet."""
    random_ = random.Random(seed)
    days = [e for e in exercises if e.track == "roadmap" and e.number < 23]
    extra = [e for e in exercises if e.track == "lecture"][:4]
    plan = [*days, *extra]
    each = max(2, (total - 3) // len(plan))
    found = []
    for place, exercise in enumerate(plan):
        start = NOW - timedelta(days=25 - place if place < 25 else 1, hours=random_.uniform(1, 4))
        for number in range(1, each + 1):
            share = number / each if exercise.number not in (11, 15) else 0.8 * number / each
            passed = round(len(exercise.checks) * share)
            when = start + timedelta(minutes=number * random_.uniform(4, 6))
            found.append(_summary(exercise, number, when, passed))
    mine = mixed()
    for number, passed in enumerate((0, 2, 4), start=1):
        when = NOW - timedelta(minutes=46 - 12 * number)
        found.append(_summary(DAY23, number, when, passed))
    found.append(attempt(mine).summary)
    return sorted(found, key=lambda a: a.started)


def _summary(exercise: Exercise, number: int, when: datetime, passed: int) -> AttemptSummary:
    counted = [check for check in exercise.checks if not check.gpu]
    statuses = {
        check.name: Status.SKIPPED
        if check.gpu
        else Status.PASSED
        if k < passed
        else Status.FAILED
        if k < passed + 2
        else Status.WAITING
        for k, check in enumerate(exercise.checks)
    }
    is_solved = passed >= len(counted)
    return AttemptSummary(
        exercise=exercise.id,
        number=number,
        started=when,
        seconds=1.5 + (number % 7) / 10,
        verdict=Verdict.PASSED if is_solved else Verdict.FAILED,
        passed=passed,
        counted=len(counted),
        earned=sum(c.points for c in counted[:passed]),
        possible=sum(c.points for c in counted),
        skipped=0,
        statuses=statuses,
    )
