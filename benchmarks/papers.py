"""How long a class takes: `grade PATH...` on many files, each in a child of its own.

Right and wrong answers of one exercise in turn; CPU time is that of all processes. The last column
shows whether it grows with their number alone.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from grader import answers
from grader import course as courses


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("exercise", nargs="?", default="day02")
    parser.add_argument("--sizes", type=int, nargs="+", default=[20, 100])
    arguments = parser.parse_args()
    course = courses.find(Path(__file__).parent)
    exercise = course.exercise(arguments.exercise)
    texts = [answers.reference(exercise), *(a.files for a in answers.read(exercise))]
    grade = str(Path(sys.executable).with_name("grade"))
    print(f"| {exercise.id}, {os.cpu_count()} processors | wall s | CPU s | wall ms a file |")
    print("| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for size in arguments.sizes:
            paths = []
            for number in range(size):
                place = Path(folder) / f"{size}-{number}"
                place.mkdir()
                for name, text in texts[number % len(texts)].items():
                    (place / name).write_text(text, encoding="utf-8")
                paths.append(str(place / exercise.files[0]))
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            clock = time.perf_counter()
            subprocess.run([grade, *paths], cwd=course.root, stdout=subprocess.DEVNULL, check=False)
            wall = time.perf_counter() - clock
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            print(f"| {size} files | {wall:.1f} | {cpu:.1f} | {1000 * wall / size:.0f} |")


if __name__ == "__main__":
    main()
