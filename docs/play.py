"""Plays the whole course as a learner would: a wrong answer to each task, then the right one.

python docs/play.py [DAY ...]      all days without words; takes minutes
python docs/play.py --pictures DIR also takes screenshots; needs Chromium and playwright

The course is a fresh one in a temporary folder, made by `grade init`; every answer goes through
the command. Wrong answers are those of `answers.py`, another one of each task each time. It ends
with exit code 1 where a wrong answer passed or a right one did not.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from grader import answers
from grader import course as courses
from grader.model import Exercise

ROOT = Path(__file__).parent.parent
GRADE = [sys.executable, "-m", "grader"]


def grade(course: Path, *words: str) -> tuple[int, str]:
    """What a command says in the course, and its exit code."""
    done = subprocess.run([*GRADE, *words], cwd=course, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def write(course: Path, exercise: Exercise, files: dict[str, str]) -> None:
    """Hand in."""
    for name, text in files.items():
        (course / "exercises" / exercise.id / name).write_text(text, encoding="utf-8")


def play(course: Path, exercise: Exercise) -> list[str]:
    """One exercise, task by task; what went otherwise than it should."""
    problems = []
    right = answers.reference(exercise)
    every = answers.read(exercise)
    for task in exercise.tasks:
        wrong = [a for a in every if a.task == task.name and not a.is_right]
        if wrong:
            answer = wrong[exercise.tasks.index(task) % len(wrong)]
            write(course, exercise, answer.files)
            code, said = grade(course, exercise.id, "--task", task.name)
            if code != 1:
                problems.append(
                    f"{exercise.id} {task.name}: {answer.name} ended with {code}\n{said}"
                )
        write(course, exercise, right)
        code, said = grade(course, exercise.id, "--task", task.name)
        if code != 0:
            problems.append(f"{exercise.id} {task.name}: the reference ended with {code}\n{said}")
    code, said = grade(course, exercise.id)
    if code != 0:
        problems.append(f"{exercise.id}: the reference ended with {code}\n{said}")
    return problems


def pictures(reports: Path, to: Path) -> None:
    """Screenshots of the dashboard and the certificate, light and dark."""
    from playwright.sync_api import sync_playwright

    to.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for name in ("index", "certificate"):
            for scheme in ("light", "dark"):
                page = browser.new_page(
                    viewport={"width": 1200, "height": 900}, color_scheme=scheme
                )
                page.goto((reports / f"{name}.html").as_uri())
                page.screenshot(path=to / f"played-{name}-{scheme}.png", full_page=True)
        browser.close()


def main() -> int:
    """Play, and say how it went."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("days", nargs="*")
    parser.add_argument("--pictures", type=Path)
    arguments = parser.parse_args()
    source = courses.find(ROOT)
    ids = arguments.days or list(source.ids)
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        course = Path(folder) / "course"
        os.environ["COLUMNS"] = "100"
        code, said = grade(Path(folder), "init", str(course))
        if code:
            sys.exit(said)
        try:
            for id in ids:
                started = time.monotonic()
                found = play(course, source.exercise(id))
                print(
                    f"{id}  {'as it should' if not found else 'PROBLEM'}  "
                    f"{time.monotonic() - started:.0f} s",
                    flush=True,
                )
                problems += found
            print(grade(course, "status")[1])
            if not arguments.days:
                code, said = grade(course, "certificate", "--name", "A learner")
                print(said)
                problems += [said] if code else []
            if arguments.pictures:
                pictures(course / "reports", arguments.pictures)
        finally:
            grade(course, "server", "stop")
    print("\n".join(problems), file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
