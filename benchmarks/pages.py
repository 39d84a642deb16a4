"""How long the pages take: all of a course with 2,000 attempts, and those that one grade changes.

python benchmarks/pages.py [--attempts 2000] [--repeat 3]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from grader import pages
from grader.model import Attempt, Exercise
from tests import page_records as records


def main() -> None:
    """Print the least time of each kind of writing, in milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attempts", type=int, default=2000)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    course = [e for e in records.course(checks=14) if e.track == "roadmap"]
    attempts = records.history(course, total=options.attempts)
    latest = {e.id: latest_of(e) for e in course}

    def write_day(to: Path, exercise: Exercise) -> None:
        attempt = latest[exercise.id]
        statement = records.STATEMENT * 3
        pages.write_exercise(
            exercise, statement, attempts, attempt, {}, records.NOW, to / f"{exercise.id}.html"
        )

    def write_index(to: Path) -> None:
        pages.write_index(
            "28 days", course, latest, attempts, records.NOW, to / "index.html", records.WEEKS
        )

    def write_all(to: Path) -> None:
        for exercise in course:
            write_day(to, exercise)
        write_index(to)

    def write_after_one_grade(to: Path) -> None:
        write_day(to, records.DAY23)
        write_index(to)

    with tempfile.TemporaryDirectory() as folder:
        to = Path(folder)
        first = timed(lambda: write_all(to))
        print(f"{len(course)} exercises, {len(attempts):,} attempts")
        print(f"all pages, first in a process   {first:8.0f} ms")
        for name, run in (
            ("all pages", lambda: write_all(to)),
            ("after one grade", lambda: write_after_one_grade(to)),
            ("one exercise", lambda: write_day(to, records.DAY23)),
            ("the dashboard", lambda: write_index(to)),
        ):
            least = min(timed(run) for _ in range(options.repeat))
            print(f"{name:<30}  {least:8.0f} ms")
        sizes = [path.stat().st_size for path in to.iterdir()]
        print(f"{len(sizes)} pages, {min(sizes):,} to {max(sizes):,} bytes")
        before = {path.name: path.stat().st_mtime_ns for path in to.iterdir()}
        write_all(to)
        same = all(path.stat().st_mtime_ns == before[path.name] for path in to.iterdir())
        print(f"written again without a change: {'none rewritten' if same else 'REWRITTEN'}")


def latest_of(exercise: Exercise) -> Attempt:
    """An attempt with two failures; of the checks that passed, every fourth has a picture."""
    if exercise.id == "day23":
        return records.attempt(records.mixed())
    template = {outcome.check.number: outcome for outcome in records.mixed()}
    rows = [template[number] for number in ("1.1", "2.2", "2.1", "1.2", "3.2", "1.2")]
    rows += [template[number] for number in ("1.2", "1.2", "4.1", "1.2", "1.2", "1.2")]
    outcomes = tuple(
        replace(rows[k % len(rows)], check=check) for k, check in enumerate(exercise.checks)
    )
    return records.attempt(outcomes, exercise=exercise.id)


def timed(run: Callable[[], object]) -> float:
    """Milliseconds of processor time: other work on the machine doesn't count."""
    start = time.process_time()
    run()
    return 1000 * (time.process_time() - start)


if __name__ == "__main__":
    main()
