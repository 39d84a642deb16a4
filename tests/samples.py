"""Values that several tests share: a small exercise and attempts at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from grader.model import (
    Attempt,
    Check,
    Environment,
    Exercise,
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

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)

FILE = "exercises/day23/self_attention.py"


def check(number: str, task: str, title: str, kind: Kind, points: int, **more: Any) -> Check:
    name = more.pop("name", f"Test{task.title()}::test_{number.replace('.', '_')}")
    return Check(f"day23/{number}", name, task, title, kind, points, **more)


CHECKS = (
    check("1.1", "split", "split_heads has the right shape", Kind.SHAPE, 10),
    check("1.2", "split", "merging undoes splitting", Kind.VALUE, 10),
    check("2.1", "attend", "each row of weights sums to 1", Kind.VALUE, 10, hint="Which axis?"),
    check("2.2", "attend", "no position sees its future", Kind.VALUE, 20),
    check(
        "2.3",
        "attend",
        "output equals the reference",
        Kind.VALUE,
        20,
        after=("TestSplit::test_1_1", "TestAttend::test_2_2"),
    ),
    check("3.1", "learn", "gradients reach all four projections", Kind.GRADIENT, 20),
    check("4.1", "fast", "at most 2 times the reference", Kind.SPEED, 10),
    check("4.2", "fast", "peak memory on a GPU", Kind.MEMORY, 0, gpu=True),
)

TASKS = (
    Task(1, "split", "Split the heads", 20, 1, ("Which two moved?", "view keeps order", "permute")),
    Task(2, "attend", "Attend", 50, 2, ("Look at the mask.",)),
    Task(3, "learn", "Learn", 20, 2, ()),
    Task(4, "fast", "Go fast", 10, 3, ("One matmul.",)),
)

EXERCISE = Exercise(
    id="day23",
    title="Multi-head attention",
    title_zh="多头注意力",
    track="roadmap",
    week=4,
    goal="Attention in five steps.",
    minutes=60,
    files=("self_attention.py",),
    data=(),
    tasks=TASKS,
    checks=CHECKS,
    limits=Limits(),
    source=Path("solutions/day23"),
    folder=Path("exercises/day23"),
)

ENVIRONMENT = Environment(python="3.13.1", torch="2.15.0", device="cpu", seed=23, backend="fork")

SECONDS = (0.004, 0.003, 0.006, 0.009, 0.021, 0.017, 1.6, 0.0)


def outcome(number: str, status: Status = Status.PASSED, **more: Any) -> Outcome:
    place = next(i for i, c in enumerate(CHECKS) if c.number == number)
    return Outcome(CHECKS[place], status, **({"seconds": SECONDS[place]} | more))


def outcomes(**changed: Outcome) -> tuple[Outcome, ...]:
    """All checks passed on a machine without a GPU, but those named `c1_1=...`."""
    standard = {
        "c4_1": outcome("4.1", measured="1.4x"),
        "c4_2": outcome("4.2", Status.SKIPPED, message=Message("skip.gpu", "no CUDA here")),
    }
    chosen = standard | changed
    keys = ["c" + c.number.replace(".", "_") for c in CHECKS]
    return tuple(chosen.get(key, outcome(c.number)) for key, c in zip(keys, CHECKS, strict=True))


SHAPE_FAILED = outcome(
    "1.1",
    Status.FAILED,
    message=Message("shape.permuted", "axes 1 and 2 are swapped", {"axes": [1, 2]}),
    details=(
        "            batch   heads   time   head_dim",
        "  expected      2       4      5          8",
        "  got           2      *5     *4          8",
    ),
    expected={"shape": [2, 4, 5, 8], "axes": ["batch", "heads", "time", "head_dim"]},
    got={"shape": [2, 5, 4, 8]},
    minimal="split_heads(torch.zeros(1, 3, 2), heads=2)",
    lines=(Line(FILE, 43, "    return x.view(B, T, heads, d)", "split_heads"),),
    pictures=(
        Picture(
            "axes",
            "Axes 1 and 2 are swapped",
            "expected (2, 4, 5, 8), got (2, 5, 4, 8)",
            {"expected": {"names": ["batch"], "sizes": [2]}, "got": {"sizes": [2]}},
        ),
    ),
    traceback=f"{FILE}:43 in split_heads\n    return x.view(B, T, heads, d)\nCheckFailed: axes",
)

FUTURE_FAILED = outcome(
    "2.2",
    Status.FAILED,
    message=Message("mask.future", "position 2 puts weight 0.22 on position 3"),
    details=("all 5 wrong weights are one step above the diagonal",),
    lines=(Line(FILE, 58, "    scores = scores.masked_fill(mask, -inf)", "attention"),),
)

WAITING = outcome(
    "2.3",
    Status.WAITING,
    seconds=0.0,
    blocked_by=("TestSplit::test_1_1", "TestAttend::test_2_2"),
)

PARTLY = outcomes(c1_1=SHAPE_FAILED, c2_2=FUTURE_FAILED, c2_3=WAITING)


def attempt(
    chosen: tuple[Outcome, ...] | None = None,
    *,
    exercise: str = "day23",
    number: int = 0,
    started: datetime = NOON,
    files: Mapping[str, str] | None = None,
    **more: Any,
) -> Attempt:
    chosen = outcomes() if chosen is None else chosen
    mistakes = any(not o.status.earns and o.status is not Status.SKIPPED for o in chosen)
    verdict = Verdict.FAILED if mistakes or not chosen else Verdict.PASSED
    return Attempt(
        **(
            {
                "exercise": exercise,
                "number": number,
                "started": started,
                "seconds": 2.4,
                "verdict": verdict,
                "outcomes": chosen,
                "environment": ENVIRONMENT,
                "suite_digest": "7c1e9f",
                "files": dict(files or {"self_attention.py": "x = 1\n"}),
            }
            | more
        )
    )


def another(id: str, **more: Any) -> Exercise:
    """`EXERCISE` under another id."""
    changed = {"id": id, "folder": Path("exercises") / id, "source": Path("solutions") / id}
    return replace(EXERCISE, **(changed | more))


def later(**time: float) -> datetime:
    return NOON + timedelta(**time)
