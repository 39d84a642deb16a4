"""How soon `grade` answers: warm, cold, and beside plain pytest, on the same right answer.

Everything is a whole process as a learner starts it, asked in turn in one run. "Checks alone" is
what the attempt itself records as the checks' time. The figures that carry over are the ratios.
"""

from __future__ import annotations

import argparse
import json
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
from grader.server import place, start


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


def main() -> None:
    """Print a table of medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("exercise", nargs="?", default="day23")
    parser.add_argument("--rounds", type=int, default=10)
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
