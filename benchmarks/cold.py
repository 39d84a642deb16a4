"""What a cold `grade` costs beside plain pytest on the same suite and the same answer.

Both are whole processes, asked in turn in one run; the figures that carry over are the ratios.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from grader import course as courses


def measure(command: list[str], cwd: Path, env: dict[str, str]) -> tuple[float, float]:
    """Wall and CPU seconds of a command, its children's included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    clock = time.perf_counter()
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, check=False)
    wall = time.perf_counter() - clock
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout.decode()}{done.stderr.decode()}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print a table of medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("exercise", nargs="?", default="day23")
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    repository = courses.find(Path(__file__).parent)
    exercise = repository.exercise(arguments.exercise)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "PYTHON"))}
    env["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shutil.copy(repository.root / "course.toml", root)
        shutil.copytree(exercise.source, root / "solutions" / exercise.id)
        (root / "exercises" / exercise.id).mkdir(parents=True)
        for name in exercise.files:
            shutil.copy(exercise.source / name, root / "exercises" / exercise.id)
        submission = root / "exercises" / exercise.id / exercise.files[0]
        suite = root / "solutions" / exercise.id / exercise.suite.name
        setups = {
            "grade (cold)": [sys.executable, "-m", "grader", "--no-server", exercise.id],
            "pytest": [
                *(sys.executable, "-m", "pytest", "-q", "-p", "grader.plugin"),
                *("--import-mode=importlib", str(suite), "--submission", str(submission)),
            ],
        }
        samples: dict[str, list[tuple[float, float]]] = {name: [] for name in setups}
        for _ in range(arguments.rounds):
            for name, command in setups.items():
                samples[name].append(measure(command, root, env))
    print(f"| {exercise.id}, {arguments.rounds} rounds in turn | wall s (min / median) | CPU s |")
    print("| --- | --- | --- |")
    for name, found in samples.items():
        walls, cpus = zip(*found, strict=True)
        print(
            f"| {name} | {min(walls):.2f} / {statistics.median(walls):.2f} "
            f"| {min(cpus):.2f} / {statistics.median(cpus):.2f} |"
        )
    ratios = [
        [a / b for a, b in zip(ours, theirs, strict=True)]
        for ours, theirs in zip(samples["grade (cold)"], samples["pytest"], strict=True)
    ]
    wall, cpu = (statistics.median(column) for column in zip(*ratios, strict=True))
    print(f"| ratio, median of the rounds | {wall:.2f} | {cpu:.2f} |")


if __name__ == "__main__":
    main()
