"""How long a class takes: `grade PATH...` on many files, each in a child of its own.

Right and wrong answers of one exercise in turn; CPU time is that of all processes. A straight line
is laid through the sizes: what starting takes, what a file takes, and how far off each size lies.
With `--xdist` the same files are also run the plain way, by pytest-xdist in one go: workers that
all files share, nothing isolated, no limits, no messages.
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
from collections.abc import Sequence
from pathlib import Path

from grader import answers
from grader import course as courses
from grader.model import Exercise


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("exercise", nargs="?", default="day02")
    parser.add_argument("--sizes", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--xdist", action="store_true", help="compare with pytest-xdist")
    parser.add_argument("--right", action="store_true", help="right answers only")
    arguments = parser.parse_args()
    course = courses.find(Path(__file__).parent)
    exercise = course.exercise(arguments.exercise)
    every = [a for a in answers.read(exercise) if a.is_right or not arguments.right]
    texts = [answers.reference(exercise), *(a.files for a in every)]
    grade = str(Path(sys.executable).with_name("grade"))
    jobs = os.cpu_count() or 1
    print(f"| {exercise.id}, {jobs} processors | wall s | CPU s | wall ms a file |")
    print("| --- | --- | --- | --- |")
    walls = []
    with tempfile.TemporaryDirectory() as folder:
        for size in arguments.sizes:
            places = [Path(folder) / f"paper{size}_{number}" for number in range(size)]
            for number, place in enumerate(places):
                _lay_out(exercise, place, texts[number % len(texts)])
            paths = [str(place / exercise.files[0]) for place in places]
            commands = {f"{size} files": [grade, *paths]}
            if arguments.xdist:
                suites = [str(place / exercise.suite.name) for place in places]
                commands[f"{size} files, pytest-xdist"] = [
                    *(sys.executable, "-m", "pytest", "-q", "-n", str(jobs)),
                    *("-p", "grader.plugin", "--import-mode=importlib", *suites),
                ]
            for name, command in commands.items():
                wall, cpu = _timed(command, course.root)
                print(f"| {name} | {wall:.1f} | {cpu:.1f} | {1000 * wall / size:.0f} |", flush=True)
                if name == f"{size} files":
                    walls.append(wall)
    if len(walls) > 2:
        _line(arguments.sizes, walls)


def _lay_out(exercise: Exercise, place: Path, files: dict[str, str]) -> None:
    """A paper, and beside it what plain pytest needs: it grades what lies next to a suite."""
    place.mkdir()
    for name in (exercise.suite.name, "exercise.toml", *exercise.data):
        shutil.copy(exercise.source / name, place)
    for name, text in files.items():
        (place / name).write_text(text, encoding="utf-8")


def _timed(command: Sequence[str], root: Path) -> tuple[float, float]:
    """Seconds of wall time and of CPU time that a command takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    clock = time.perf_counter()
    subprocess.run(
        command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
    )
    wall = time.perf_counter() - clock
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _line(sizes: Sequence[int], walls: Sequence[float]) -> None:
    """Say how near the times lie to a straight line through them."""
    slope, start = statistics.linear_regression(sizes, walls)
    off = [wall / (start + slope * size) - 1 for size, wall in zip(sizes, walls, strict=True)]
    print(f"\nStarting {start:.1f} s, then {1000 * slope:.0f} ms a file;", end=" ")
    print(f"off the line by {', '.join(f'{100 * part:+.0f} %' for part in off)}")


if __name__ == "__main__":
    main()
