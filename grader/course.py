"""The folders of a course, and the `exercise.toml` in each of its sources."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from grader import bundle, suite
from grader.errors import CourseError, UsageError
from grader.model import Exercise, Limits, RubricItem, Task

ID = re.compile(r"^[a-z][a-z-]*\d{1,3}$")
TRACKS = ("roadmap", "lecture", "kaggle", "hour")
ORIGINS = ("solutions", "installed", "bundles")
"""Where exercises come from: the course's own folder, the engine's package, packed one by one."""

_COURSE_FIELDS = {
    "title": str,
    "format": int,
    "provides": dict,
    "source": str,
    "weeks": dict,
    "roadmap": dict,
}
_FIELDS = {
    "title": str,
    "title_zh": str,
    "track": str,
    "goal": str,
    "minutes": int,
    "files": list,
    "data": list,
    "cpu_seconds": (int, float),
    "memory_gb": (int, float),
    "budget_seconds": (int, float),
    "task": list,
    "rubric": list,
}
_RUBRIC_FIELDS = {"name": str, "text": str, "points": int}
_TASK_FIELDS = {
    "name": str,
    "title": str,
    "points": int,
    "difficulty": int,
    "hints": list,
    "files": list,
}
_OPTIONAL = {"data", "cpu_seconds", "memory_gb", "budget_seconds", "minutes", "rubric"}


@dataclass(frozen=True)
class Course:
    """A folder with `course.toml` and `exercises/`, and where the exercises come from."""

    root: Path
    title: str = "28 days of PyTorch"
    provides: Mapping[str, str] = field(default_factory=dict)
    """Modules that an exercise writes and later ones import: name -> the exercise's id."""
    weeks: Mapping[int, str] = field(default_factory=dict)
    """What the weeks of the roadmap are about."""
    planned: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """The whole roadmap: id -> title and Chinese title, days that are not written yet too."""
    origin: str = "solutions"
    """One of `ORIGINS`."""
    reports_elsewhere: Path | None = None
    """Where what grading writes goes, if not below the root."""

    @property
    def exercises_folder(self) -> Path:
        """What the learner edits."""
        return self.root / "exercises"

    @property
    def solutions_folder(self) -> Path:
        """Where exercises are written."""
        return installed() / "solutions" if self.origin == "installed" else self.root / "solutions"

    @property
    def reports(self) -> Path:
        """What grading writes: the pages and the history."""
        return self.reports_elsewhere or self.root / "reports"

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The ids of all exercises: the roadmap's days first, then the tracks."""
        if self.origin == "bundles":
            found = {path.stem for path in bundle.paths(self.exercises_folder)}
        else:
            found = {p.parent.name for p in self.solutions_folder.glob("*/exercise.toml")}
        return tuple(sorted(filter(ID.match, found), key=_order))

    def source_of(self, id: str) -> Path:
        """The folder with an exercise's `exercise.toml`, suite and statement.

        Raises:
            CourseError: its bundle is damaged.
        """
        if self.origin == "bundles":
            return bundle.folder(bundle.path_of(self.exercises_folder, id))
        return self.solutions_folder / id

    def exercises(self) -> tuple[Exercise, ...]:
        """Every exercise, in the order of the roadmap."""
        return tuple(self.exercise(id) for id in self.ids)

    def exercise(self, id: str) -> Exercise:
        """The exercise of that id.

        Raises:
            UsageError: there is none; the message names the nearest ones.
            CourseError: its `exercise.toml` or its suite is in disorder.
        """
        if id not in self.ids:
            near = difflib.get_close_matches(id, self.ids, 3, 0.5)
            also = f"; did you mean {' or '.join(near)}?" if near else ""
            span = f"; the course has {self.ids[0]} to {self.ids[-1]}" if self.ids else ""
            raise UsageError(f"there is no exercise {id}{also or span}")
        return _read(self, id)

    def display(self, path: Path) -> str:
        """A path as the learner knows it: from the course's folder."""
        try:
            return path.resolve().relative_to(self.root).as_posix()
        except ValueError:
            return str(path)


def find(directory: Path | None = None) -> Course:
    """The course of a folder: the nearest parent with a `course.toml`.

    Raises:
        UsageError: there is none.
        CourseError: its `course.toml` cannot be read.
    """
    start = (directory or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        path = folder / "course.toml"
        if path.is_file():
            return read(folder)
    raise UsageError(
        f"{start} is not in a course: no parent folder has a course.toml. "
        "Change into the course's folder, or name it with -C FOLDER"
    )


def read(folder: Path) -> Course:
    """The course of a folder that has a `course.toml`.

    Raises:
        CourseError: it cannot be read.
    """
    path = folder / "course.toml"
    table = _toml(path)
    _known(path, table, _COURSE_FIELDS)
    origin = table.get("source", "solutions")
    if origin not in ORIGINS:
        raise CourseError(f"{path}: source is {origin}; it must be one of {', '.join(ORIGINS)}")
    if origin == "installed":
        table = _toml(installed() / "course.toml") | table
    title = str(table.get("title", "28 days of PyTorch"))
    return Course(
        folder,
        title,
        provides=dict(table.get("provides", {})),
        weeks={int(number): str(words) for number, words in table.get("weeks", {}).items()},
        planned={id: (titles[0], titles[-1]) for id, titles in table.get("roadmap", {}).items()},
        origin=origin,
    )


def installed() -> Path:
    """The folder of the course that came with this engine.

    Raises:
        CourseError: none did.
    """
    here = Path(__file__).parent
    # An engine that runs from its repository has the course beside it.
    for folder in (here / "_course", here.parent):
        if (folder / "course.toml").is_file():
            return folder
    raise CourseError("this installation of torch28 has no exercises; install it anew")


def week_of(id: str, track: str) -> int | None:
    """The week of a roadmap day: 1 for day01 to day07; None for day00 and the tracks."""
    number = int("".join(c for c in id if c.isdigit()))
    return (number + 6) // 7 if track == "roadmap" and number else None


def _order(id: str) -> tuple[int, str, int]:
    word = id.rstrip("0123456789")
    return (0 if word == "day" else 1, word, int(id[len(word) :]))


def _read(course: Course, id: str) -> Exercise:
    source = course.source_of(id)
    path = source / "exercise.toml"
    table = _toml(path)
    _known(path, table, _FIELDS)
    for name in _FIELDS:
        if name not in table and name not in _OPTIONAL:
            raise CourseError(f"{path}: {name} is missing")
    if table["track"] not in TRACKS:
        raise CourseError(f"{path}: track is {table['track']}; it must be one of {TRACKS}")
    files = tuple(table["files"])
    tasks = tuple(
        _task(path, number, entry, files) for number, entry in enumerate(table["task"], 1)
    )
    if not files or not files[0].endswith(".py"):
        raise CourseError(f"{path}: the first of files must be the module, NAME.py")
    suite_path = source / f"test_{files[0]}"
    limits = Limits()
    if "cpu_seconds" in table:
        limits = Limits(cpu_seconds=float(table["cpu_seconds"]))
    if "memory_gb" in table:
        limits = Limits(limits.cpu_seconds, int(table["memory_gb"] * 2**30))
    return Exercise(
        id=id,
        title=table["title"],
        title_zh=table["title_zh"],
        track=table["track"],
        week=week_of(id, table["track"]),
        goal=table["goal"],
        minutes=table.get("minutes", 60),
        files=files,
        data=tuple(table.get("data", ())),
        tasks=tasks,
        checks=suite.read(suite_path, id, [task.name for task in tasks]),
        limits=limits,
        source=source,
        folder=course.exercises_folder / id,
        budget_seconds=float(table.get("budget_seconds", 5.0)),
        rubric=tuple(_rubric_item(path, entry) for entry in table.get("rubric", ())),
    )


def _task(path: Path, number: int, table: Mapping[str, Any], files: Sequence[str]) -> Task:
    _known(path, table, _TASK_FIELDS)
    for name in _TASK_FIELDS:
        if name not in table and name != "files":
            raise CourseError(f"{path}: {name} of task {number} is missing")
    for name in table.get("files", ()):
        if name not in files:
            raise CourseError(f"{path}: task {number} names {name}, which is not in files")
    return Task(
        number=number,
        name=table["name"],
        title=table["title"],
        points=table["points"],
        difficulty=table["difficulty"],
        hints=tuple(table["hints"]),
        files=tuple(table.get("files", ())),
    )


def _rubric_item(path: Path, table: Mapping[str, Any]) -> RubricItem:
    _known(path, table, _RUBRIC_FIELDS)
    for name in _RUBRIC_FIELDS:
        if name not in table:
            raise CourseError(f"{path}: {name} of an item of the rubric is missing")
    return RubricItem(table["name"], table["text"], table["points"])


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CourseError(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CourseError(f"{path}: {error}") from None


def _known(path: Path, table: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    for name, value in table.items():
        if name not in fields:
            raise CourseError(f"{path}: {name} is not a field{_near(name, fields)}")
        if not isinstance(value, fields[name]) or isinstance(value, bool):
            raise CourseError(f"{path}: {name} has the wrong type ({type(value).__name__})")


def _near(name: str, fields: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, fields, 1)
    return f"; did you mean {near[0]}?" if near else ""
