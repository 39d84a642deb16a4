"""The same four checks of an attention by `grade`, by plain pytest and by torch-judge.

torch-judge (https://github.com/duoan/TorchCode) runs its tests in the learner's own process, a
notebook's kernel, without isolation; its row is left out where it is not installed. The exercise
here has the four tests of its task "attention", so that what is compared is what stands around
them: processes, messages, history, pages. Everything else is a whole process as a learner starts
it, asked in turn in one run; the figures that carry over are the ratios. Run it by
`python -m benchmarks.others`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.latency import BETWEEN, timed
from grader.server import place, start

ANSWER = '''\
"""Softmax attention."""

import torch


def scaled_dot_product_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """softmax(q kᵀ / sqrt(dim)) v for q (batch, seq_q, dim), k and v (batch, seq_k, dim)."""
    ### BEGIN SOLUTION 1: scores, weights, values
    scores = torch.bmm(q, k.transpose(1, 2)) / q.shape[-1] ** 0.5
    return torch.bmm(scores.softmax(dim=-1), v)
    ### END SOLUTION
'''

SUITE = '''\
"""attn01 asks for attention."""

import pytest
import torch

from grader.testing import assert_close, assert_shape, expect, randn


@pytest.mark.task("scaled_dot_product_attention")
class TestAttention:
    @pytest.mark.points(25, "shape")
    def test_shape(self, submission):
        """One output per query."""
        q, k, v = (randn(2, 4, 8, dtype=torch.float32) for _ in range(3))
        assert_shape(submission.scaled_dot_product_attention(q, k, v), batch=2, seq=4, dim=8)

    @pytest.mark.points(25, "value")
    def test_value(self, submission):
        """The output is that of the formula."""
        q, k, v = (randn(2, 4, 8, dtype=torch.float32) for _ in range(3))
        weights = (torch.bmm(q, k.transpose(1, 2)) / 8**0.5).softmax(-1)
        assert_close(submission.scaled_dot_product_attention(q, k, v), torch.bmm(weights, v))

    @pytest.mark.points(25, "gradient")
    def test_gradients(self, submission):
        """Gradients reach q, k and v."""
        q, k, v = (randn(2, 4, 8, dtype=torch.float32, grad=True) for _ in range(3))
        submission.scaled_dot_product_attention(q, k, v).sum().backward()
        for name, x in {"q": q, "k": k, "v": v}.items():
            expect(x.grad is not None, f"{name} has no gradient")

    @pytest.mark.points(25, "shape")
    def test_cross(self, submission):
        """Queries and keys may differ in number."""
        q, k = randn(1, 3, 16, dtype=torch.float32), randn(1, 5, 16, dtype=torch.float32)
        v = randn(1, 5, 32, dtype=torch.float32)
        got = submission.scaled_dot_product_attention(q, k, v)
        assert_shape(got, batch=1, seq_q=3, dim=32)
'''

EXERCISE = """\
title = "Softmax attention"
title_zh = "Softmax attention"
track = "roadmap"
goal = "Attention in two lines."
minutes = 10
files = ["attention.py"]

[[task]]
name = "scaled_dot_product_attention"
title = "Softmax attention"
points = 100
difficulty = 1
hints = ["Which keys does a query look at?", "Weights sum to 1.", "scores, softmax, values"]
"""

JUDGE = """\
import contextlib, io, sys, time
clock = time.perf_counter()
from attention import scaled_dot_product_attention
from torch_judge import check
rounds = []
for _ in range(int(sys.argv[1])):
    with contextlib.redirect_stdout(io.StringIO()) as said:
        begun = time.perf_counter()
        check("attention")
        rounds.append(time.perf_counter() - begun)
    assert "All 4 tests passed" in said.getvalue(), said.getvalue()
print(*rounds)
"""


def main() -> None:
    """Print a table of medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    os.environ.pop("GRADE_NO_SERVER", None)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "course"
        here, source = root / "exercises" / "attn01", root / "solutions" / "attn01"
        here.mkdir(parents=True)
        source.mkdir(parents=True)
        (root / "course.toml").write_text('title = "One exercise"\n', encoding="utf-8")
        (source / "exercise.toml").write_text(EXERCISE, encoding="utf-8")
        (source / "test_attention.py").write_text(SUITE, encoding="utf-8")
        (source / "README.md").write_text("# Softmax attention\n", encoding="utf-8")
        for place_of_it in (here, source):
            (place_of_it / "attention.py").write_text(ANSWER, encoding="utf-8")
        rows, checks, judge = measured(root, here, rounds)
    alone = statistics.median(checks)
    print("| the same four checks | rounds | first line | end | CPU of the process |")
    print("| --- | --- | --- | --- | --- |")
    print(f"| the checks alone, warm | {len(checks)} | | {1000 * alone:.0f} ms | |")
    for name, found in rows.items():
        firsts, walls, cpus = (
            1000 * statistics.median(column) for column in zip(*found, strict=True)
        )
        first = f"{firsts:.0f} ms" if firsts else ""
        print(f"| {name} | {len(found)} | {first} | {walls:.0f} ms | {cpus:.0f} ms |")
    if judge:
        first, *later = judge
        print(
            f"\ntorch-judge's check in a kernel that has torch: {1000 * first:.1f} ms the first "
            f"time, {1000 * statistics.median(later):.1f} ms after that"
        )
    warm, cold, plain = (
        statistics.median(row[1] for row in rows[name])
        for name in ("grade, warm", "grade, cold", "plain pytest")
    )
    print(f"\nCold over warm: {cold / warm:.1f}; plain pytest over warm: {plain / warm:.1f}")


def measured(
    root: Path, here: Path, rounds: int
) -> tuple[dict[str, list[tuple[float, float, float]]], list[float], list[float]]:
    """Run everything in turn; seconds by row, of the checks alone, of torch-judge in one kernel."""
    grade = [str(Path(sys.executable).with_name("grade"))]
    suite = root / "solutions" / "attn01" / "test_attention.py"
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "grader.plugin"]
    runs = {
        "grade, warm": [*grade, "attn01"],
        "grade, cold": [*grade, "attn01", "--no-server"],
        "plain pytest": [*pytest, "--import-mode=importlib", str(suite)],
    }
    has_judge = importlib.util.find_spec("torch_judge") is not None
    if has_judge:
        runs["torch-judge, in a process of its own"] = [sys.executable, "-c", JUDGE, "1"]
    start.in_background(str(root))
    while not Path(place.socket_of(str(root))).exists():
        time.sleep(0.05)
    rows: dict[str, list[tuple[float, float, float]]] = {}
    checks: list[float] = []
    try:
        timed(runs["grade, warm"], root)  # the zygote collects the suite
        for _ in range(rounds):
            for name, command in runs.items():
                time.sleep(BETWEEN)
                first, wall, cpu, _ = timed(command, here if "judge" in name else root)
                rows.setdefault(name, []).append((first, wall, cpu))
            _, _, _, text = timed([*grade, "attn01", "--json", "--no-record"], root)
            checks.append(sum(check["duration_s"] for check in json.loads(text)["checks"]))
    finally:
        start.stop(str(root))
    judge: list[float] = []
    if has_judge:
        command = [sys.executable, "-c", JUDGE, str(rounds + 1)]
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
        judge = [float(word) for word in done.stdout.split()]
    return rows, checks, judge


if __name__ == "__main__":
    main()
