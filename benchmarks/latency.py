"""How soon `grade` answers: warm, cold, and beside plain pytest, on the same right answer.

Everything is a whole process as a learner starts it, asked in turn in one run. "Checks alone" is
what the attempt itself records as the checks' time. The figures that carry over are the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from grader import course as courses
from grader.model import Exercise
from grader.server import place, start

BETWEEN = 1.0
"""Seconds between two commands, as there are where somebody reads what the first one said."""


def timed(command: list[str], cwd: Path) -> tuple[float, float, float, str]:
    """Seconds to the first check's line, to the end, of CPU here, and what was printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    clock = time.perf_counter()
    first = 0.0
    with subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            if not first and " 1.1 " in line:
                first = time.perf_counter() - clock
            lines.append(line)
    wall = time.perf_counter() - clock
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return first, wall, cpu, "".join(lines)


class Watching:
    """`grade watch` on a terminal of its own."""

    def __init__(self, command: list[str], cwd: Path) -> None:
        self._terminal, theirs = os.openpty()
        self._process = psutil.Popen(
            command,
            cwd=cwd,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=os.environ | {"NO_COLOR": "1"},
        )
        os.close(theirs)
        self._said = ""
        self._until("waiting for a save")

    def save(self, path: Path, text: str) -> tuple[float, float, float]:
        """Seconds from a save to the first check's mark, to the end, and of CPU of this process."""
        before = sum(self._process.cpu_times()[:2])
        clock = time.perf_counter()
        path.write_text(text, encoding="utf-8")
        self._until("[✓✗] +[0-9]+[.][0-9]+")
        first = time.perf_counter() - clock
        cpu = sum(self._process.cpu_times()[:2]) - before
        self._until("waiting for a save")
        return first, time.perf_counter() - clock, cpu

    def _until(self, pattern: str) -> None:
        while not (found := re.search(pattern, self._said)):
            self._said += os.read(self._terminal, 65536).decode(errors="replace")
        self._said = self._said[found.end() :]

    def end(self) -> None:
        """Press q."""
        os.write(self._terminal, b"q")
        self._process.wait()
        os.close(self._terminal)


def watched(grade: list[str], exercise: Exercise, root: Path, rounds: int) -> None:
    """Print how soon a save has its first verdict, beside `grade` as a whole process, by turns."""
    path = root / "exercises" / exercise.id / exercise.files[0]
    text = path.read_text(encoding="utf-8")
    rows: dict[str, list[tuple[float, float, float]]] = {"grade watch": [], "grade": []}
    watching = Watching([*grade, "watch", exercise.id], root)
    watching.save(path, f"{text}\n_round = -1\n")  # the zygote collects the suite
    for number in range(rounds):
        rows["grade watch"].append(watching.save(path, f"{text}\n_round = {number}\n"))
        rows["grade"].append(timed([*grade, exercise.id, "--no-speed"], root)[:3])
    watching.end()
    print(f"| {exercise.id}, from the save | rounds | first verdict | least | CPU of the process |")
    print("| --- | --- | --- | --- | --- |")
    for name, found in rows.items():
        firsts, _, cpus = zip(*found, strict=True)
        middle, least = 1000 * statistics.median(firsts), 1000 * min(firsts)
        cpu = 1000 * statistics.median(cpus)
        print(f"| {name} | {rounds} | {middle:.0f} ms | {least:.0f} ms | {cpu:.0f} ms |")
    ratios = [one[0] / other[0] for one, other in zip(*rows.values(), strict=True)]
    print(
        f"\nFirst verdict, watch over grade, median of the rounds: {statistics.median(ratios):.2f}"
    )


def main() -> None:
    """Print a table of medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("exercise", nargs="?", default="day23")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--watch", action="store_true", help="only: a save under `grade watch`")
    arguments = parser.parse_args()
    repository = courses.find(Path(__file__).parent)
    exercise = repository.exercise(arguments.exercise)
    os.environ.pop("GRADE_NO_SERVER", None)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "course"
        (root / "exercises" / exercise.id).mkdir(parents=True)
        shutil.copy(repository.root / "course.toml", root)
        shutil.copytree(exercise.source, root / "solutions" / exercise.id)
        for name in exercise.files:
            shutil.copy(exercise.source / name, root / "exercises" / exercise.id)
        grade = [str(Path(sys.executable).with_name("grade"))]
        suite = root / "solutions" / exercise.id / exercise.suite.name
        pytest = [sys.executable, "-m", "pytest", "-q", "-p", "grader.plugin"]
        pytest += ["--import-mode=importlib", str(suite)]
        start.in_background(str(root))
        while not Path(place.socket_of(str(root))).exists():
            time.sleep(0.05)
        try:
            timed([*grade, exercise.id], root)  # the zygote collects the suite
            if arguments.watch:
                watched(grade, exercise, root, arguments.rounds)
                return
            rows: dict[str, list[tuple[float, float, float]]] = {}
            checks = []
            for number in range(arguments.rounds):
                runs = {"grade, warm": [*grade, exercise.id]}
                if number < 3:
                    runs["grade, cold"] = [*grade, exercise.id, "--no-server"]
                    runs["plain pytest"] = pytest
                runs["grade status"] = [*grade, "status"]
                runs["grade --help"] = [*grade, "--help"]
                for name, command in runs.items():
                    time.sleep(BETWEEN)
                    first, wall, cpu, _ = timed(command, root)
                    rows.setdefault(name, []).append((first, wall, cpu))
                _, _, _, text = timed([*grade, exercise.id, "--json", "--no-record"], root)
                checks.append(sum(c["duration_s"] for c in json.loads(text)["checks"]))
            memory = start.describe(str(root))
        finally:
            start.stop(str(root))
    alone = statistics.median(checks)
    print(f"| {exercise.id}, a right answer | rounds | first line | end | times the checks |")
    print("| --- | --- | --- | --- | --- |")
    print(f"| the checks alone, warm | {len(checks)} | | {1000 * alone:.0f} ms | 1 |")
    for name, found in rows.items():
        firsts, walls, _ = zip(*found, strict=True)
        first = f"{1000 * statistics.median(firsts):.0f} ms" if any(firsts) else ""
        wall = statistics.median(walls)
        ratio = f"{wall / alone:.2f}" if exercise.id in name or any(firsts) else ""
        print(f"| {name} | {len(found)} | {first} | {1000 * wall:.0f} ms | {ratio} |")
    warm, cold = (statistics.median(r[1] for r in rows[f"grade, {n}"]) for n in ("warm", "cold"))
    print(f"\nCold over warm: {cold / warm:.1f}")
    print(f"\n{memory}")


if __name__ == "__main__":
    main()
