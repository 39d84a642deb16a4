"""The author's commands: new, generate, verify, preview, release, nbgrader."""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from grader import assignments, files, handout, preview, release, selection, verify
from grader.course import ID, Course, find
from grader.errors import CourseError, UsageError
from grader.model import DEFAULT_SEED, Exercise
from grader.runner import Backend


def main(argv: Sequence[str], folder: Path | None = None, backend: Backend | None = None) -> int:
    """Run one of the author's commands and return its exit code.

    Args:
        argv: its words.
        folder: the course, or a folder in it; the one around if None.
        backend: starts the workers of gradings, where the course's server runs the command.
    """
    arguments = _parser().parse_args(argv)
    arguments.backend = backend
    course = find(folder)
    if course.origin != "solutions":
        raise UsageError(
            f"{course.root} has no solutions/ of its own; grade author works where exercises are "
            "written"
        )
    result: int = arguments.run(course, arguments)
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="grade author", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    new = verbs.add_parser("new", help="write the five files of a new exercise")
    new.add_argument("id", help="such as day29")
    new.add_argument("--title", default="", help="its title")
    new.add_argument("--function", default="", help="the name of its first task")
    new.set_defaults(run=_new)

    generate = verbs.add_parser("generate", help="write exercises/ from solutions/")
    generate.add_argument("ids", nargs="*", metavar="ID", help="which exercises; all if none")
    generate.add_argument("--check", action="store_true", help="write nothing; exit 1 if stale")
    generate.add_argument("--diff", action="store_true", help="show what would change")
    generate.set_defaults(run=_generate)

    check = verbs.add_parser(
        "verify", help="hold suites to the reference, the stub, right and wrong answers"
    )
    check.add_argument("ids", nargs="*", metavar="ID", help="which exercises; all if none")
    check.add_argument("-j", "--jobs", type=int, metavar="N", help="how many at once")
    check.add_argument("--flaky", type=int, default=1, metavar="N", help="repeat with N seeds")
    check.add_argument("--seed", type=int, default=DEFAULT_SEED, metavar="N", help="the first seed")
    check.add_argument("--task", action="append", default=[], help="only answers to this task")
    check.add_argument("--json", action="store_true", help="one JSON document on stdout")
    check.set_defaults(run=_verify)

    preview = verbs.add_parser("preview", help="write the page as a learner would see it")
    preview.add_argument("id", help="the exercise")
    preview.add_argument(
        "--as",
        dest="role",
        default="solution",
        metavar="ROLE",
        help="stub, solution or answer:NAME of answers.py; default: solution",
    )
    preview.add_argument("--open", action="store_true", help="and open it in the browser")
    preview.set_defaults(run=_preview)

    release = verbs.add_parser("release", help="write a learner's course without references")
    release.add_argument("folder", type=Path, metavar="DEST", help="an empty or new folder")
    release.add_argument("ids", nargs="*", metavar="ID", help="which exercises; all if none")
    release.add_argument("--notebooks", action="store_true", help="the stubs as notebooks too")
    release.set_defaults(run=_release)

    nbgrader = verbs.add_parser("nbgrader", help="write the sources of an nbgrader course")
    nbgrader.add_argument("folder", type=Path, metavar="DEST", help="the nbgrader course's folder")
    nbgrader.add_argument("ids", nargs="*", metavar="ID", help="which exercises; all if none")
    nbgrader.set_defaults(run=_nbgrader)
    return parser


def choose(course: Course, words: Sequence[str]) -> list[Exercise]:
    """The exercises that ids, ranges and `all` name; all of them where there is no word.

    Raises:
        UsageError: a word names none.
    """
    return [course.exercise(id) for id in selection.exercises(course, words or ("all",))]


# --- generate ---------------------------------------------------------------------------------


def _generate(course: Course, arguments: argparse.Namespace) -> int:
    stale = 0
    known = handout.digests(course)
    refused: list[str] = []
    for exercise in choose(course, arguments.ids):
        for name, text in handout.of(exercise).items():
            path = exercise.folder / name
            pristine = handout.pristine_path(course, exercise.id, name)
            has_pristine = name not in exercise.files or (
                pristine.exists() and files.read(pristine) == text
            )
            key = f"{exercise.id}/{name}"
            now = files.read(path) if path.exists() else None
            if now == text and known.get(key) == handout.digest(text) and has_pristine:
                continue
            stale += 1
            if arguments.diff or arguments.check:
                _show(now or "", text, course.display(path))
                continue
            if now is not None and now != text and known.get(key) != handout.digest(now):
                refused.append(course.display(path))
                continue
            files.replace(path, text)
            if name in exercise.files:
                files.replace(pristine, text)
            known[key] = handout.digest(text)
            print(f"wrote {course.display(path)}")
    if not (arguments.check or arguments.diff):
        handout.note(course, known)
    if refused:
        raise CourseError(
            f"{', '.join(refused)}: not the stub that was generated, so it may hold someone's "
            "work; move it away, then generate again"
        )
    if not stale:
        print("exercises/ is up to date")
    return 1 if stale and arguments.check else 0


def _show(now: str, text: str, name: str) -> None:
    for line in difflib.unified_diff(
        now.splitlines(),
        text.splitlines(),
        f"{name} (as it is)",
        f"{name} (generated)",
        lineterm="",
    ):
        print(line)


# --- verify -----------------------------------------------------------------------------------


def _verify(course: Course, arguments: argparse.Namespace) -> int:
    exercises = choose(course, arguments.ids)
    tasks = {task.name for exercise in exercises for task in exercise.tasks}
    if unknown := sorted(set(arguments.task) - tasks):
        raise UsageError(
            f"no task is named {', '.join(unknown)}; there are {', '.join(sorted(tasks))}"
        )
    progress = _Progress(quiet=arguments.json or not sys.stderr.isatty())
    try:
        reports = verify.verify(
            exercises,
            jobs=arguments.jobs,
            flaky=arguments.flaky,
            seed=arguments.seed,
            tasks=arguments.task,
            on_step=progress.step,
            backend=arguments.backend,
        )
    except verify.Interrupted as interrupt:
        progress.end()
        if not arguments.json:
            _print(interrupt.reports, arguments.flaky)
        raise
    progress.end()
    if arguments.json:
        print(json.dumps({"schema": "grade.verify/1", "exercises": [r.json() for r in reports]}))
    else:
        _print(reports)
    return 3 if any(report.problems for report in reports) else 0


def _print(reports: Sequence[verify.Report], wanted: int = 0) -> None:
    """The table and the problems; `wanted` seeds each, where it was interrupted before."""
    print(f"{'':10}{'tasks':>7}{'checks':>8}{'accepted':>10}{'rejected':>10}{'CPU s':>8}")
    for r in reports:
        mark = "" if not r.problems else f"   {len(r.problems)} to mend"
        if wanted > r.seeds:
            mark += f"   interrupted: {r.seeds} of {wanted} seeds done"
        counts = f"{r.tasks:7}{r.checks:8}{r.accepted:10}{r.rejected:10}"
        # With an accelerator the budget, which is the CPU's, is not held against the suite.
        cpu = f"{r.cpu_seconds:8.1f}" if r.cpu_seconds else f"{'-':>8}"
        print(f"{r.exercise:10}{counts}{cpu}{mark}")
    total = [
        sum(getattr(r, n) for r in reports) for n in ("tasks", "checks", "accepted", "rejected")
    ]
    if len(reports) > 1:
        print(f"{'all':10}{total[0]:7}{total[1]:8}{total[2]:10}{total[3]:10}")
    for report in reports:
        for problem in report.problems:
            print(problem)


class _Progress:
    """One line on standard error that says how far each exercise is."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._at: dict[str, tuple[int, int]] = {}

    def step(self, exercise: str, done: int, total: int) -> None:
        """Show that an exercise is that far."""
        self._at[exercise] = (done, total)
        if not self._quiet:
            done, total = map(sum, zip(*self._at.values(), strict=True))
            filled = 40 * done // total
            bar = "#" * filled + "." * (40 - filled)
            sys.stderr.write(f"\r  [{bar}]  {done}/{total}  {exercise} ")
            sys.stderr.flush()

    def end(self) -> None:
        """Clear the line."""
        if not self._quiet and self._at:
            sys.stderr.write("\r" + " " * 79 + "\r")


# --- preview ----------------------------------------------------------------------------------


def _preview(course: Course, arguments: argparse.Namespace) -> int:
    exercise = course.exercise(arguments.id)
    now = datetime.now().astimezone()
    page, attempt = preview.write(course, exercise, arguments.role, now)
    said = attempt.verdict.replace("_", " ")
    if attempt.outcomes:
        said = f"{attempt.passed} of {attempt.counted} checks pass"
    print(f"Written: {course.display(page)} ({arguments.role}: {said})")
    if arguments.open:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())
    return 0


# --- release ----------------------------------------------------------------------------------


def _release(course: Course, arguments: argparse.Namespace) -> int:
    exercises = choose(course, arguments.ids)
    if not exercises:
        raise UsageError("the course has no exercises to release")
    release.write(course, exercises, arguments.folder, has_notebooks=arguments.notebooks)
    count = len(exercises)
    print(f"{arguments.folder} has {count} {'exercise' if count == 1 else 'exercises'}.")
    print("Its suites are packed: out of sight, not secret (docs/hidden.md).")
    return 0


def _nbgrader(course: Course, arguments: argparse.Namespace) -> int:
    exercises = choose(course, arguments.ids)
    assignments.write(exercises, arguments.folder)
    print(f"{arguments.folder}/source has {len(exercises)} of them, references included.")
    print(f"Next: cd {arguments.folder}, then nbgrader generate_assignment {exercises[0].id}")
    return 0


# --- new --------------------------------------------------------------------------------------


def _new(course: Course, arguments: argparse.Namespace) -> int:
    id: str = arguments.id
    if not ID.match(id):
        raise UsageError(f"{id} is no id; an id is a word and a number, such as day29")
    folder = course.solutions_folder / id
    if folder.exists():
        raise UsageError(f"{course.display(folder)} exists; choose another id")
    title = arguments.title or f"Exercise {id}"
    name = arguments.function or re.sub(r"\W+", "_", title.lower()).strip("_") or "answer"
    values: dict[str, Any] = {"id": id, "title": title, "name": name}
    values["test_class"] = "".join(word.capitalize() for word in name.split("_"))
    for file, template in _TEMPLATES.items():
        path = folder / file.format(**values)
        files.replace(path, template.format(**values))
        print(f"wrote {course.display(path)}")
    print(f"\nNext: pytest {course.display(folder)}, then grade author verify {id}")
    return 0


_TEMPLATES = {
    "exercise.toml": """\
title = "{title}"
title_zh = "{title}"
track = "roadmap"
goal = "What the learner can do afterwards, in one sentence."
minutes = 30
files = ["{name}.py"]

[[task]]
name = "{name}"
title = "{title}"
points = 100
difficulty = 1
hints = ["What does each element become?", "Tensors do arithmetic on every element.", "`2 * x`"]
""",
    "{name}.py": '''\
"""{title}."""

from torch import Tensor


def {name}(x: Tensor) -> Tensor:
    """Double every element.

    Args:
        x: (*)

    Returns:
        (*), in the dtype of `x`.
    """
    ### BEGIN SOLUTION 1: double every element
    return 2 * x
    ### END SOLUTION
''',
    "test_{name}.py": '''\
"""{id} asks for every element doubled."""

import pytest
import torch

from grader.testing import assert_close, assert_unchanged


@pytest.mark.task("{name}")
class Test{test_class}:
    @pytest.mark.points(60, "value")
    def test_doubles(self, submission):
        """Every element is doubled."""
        x = torch.randn(3, 5)
        assert_close(submission.{name}(x.clone()), x + x, explain={{"the input came back": x}})

    @pytest.mark.points(40, "value")
    def test_leaves_its_argument_alone(self, submission):
        """The argument is unchanged."""
        assert_unchanged(submission.{name}, torch.randn(3, 5))
''',
    "answers.py": '''\
"""Answers to {id} that its suite must accept or reject."""

from grader.answers import accepted, rejected


@accepted("{name}")
def by_addition(x):
    return x + x


@rejected("{name}", by="test_doubles", says="the input came back")
def the_input(x):
    return x


@rejected("{name}", by="test_leaves_its_argument_alone")
def in_place(x):
    return x.mul_(2)
''',
    "README.md": """\
# {title}

Write `{name}(x)`: every element of `x`, doubled.

| x | result |
| --- | --- |
| `[1., -2.]` | `[2., -4.]` |

> **House rules.** Don't change the arguments unless the task says so. Results live on the device
> of the inputs. "No loop" means that the number of torch operations doesn't grow with the size.
> "Forbidden" means at run time, also through other names of the same function. Arguments may be
> passed by position or by keyword, under the names of the signature.
""",
}
