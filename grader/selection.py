"""Selection: the words of a command line become exercises, tasks and checks.

A word is an id (`day23`, also `day3` for `day03`), a range (`day01-day07`), a week (`week4`), a
track (`lecture`), a path into an exercise's folder, or `all`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from grader import course as courses
from grader.course import Course
from grader.errors import UsageError
from grader.model import Check, Exercise, Task

_ID = re.compile(r"([a-z][a-z-]*?)0*(\d{1,3})")
_WEEK = re.compile(r"week0*(\d+)")


def exercises(course: Course, words: Iterable[str], also: Iterable[str] = ()) -> list[str]:
    """The ids that the words name, each once, in the order of the words.

    Args:
        course: where they are.
        words: of the command line.
        also: other words that would have been understood, such as verbs; for near misses.

    Raises:
        UsageError: a word names nothing; the message has the nearest ids and words.
    """
    found: dict[str, None] = {}
    for word in words:
        found.update(dict.fromkeys(_ids(course, word, tuple(also))))
    return list(found)


def check(exercise: Exercise, word: str) -> Check:
    """The check of that number ("1.2"), id ("day23/1.2") or name.

    Raises:
        UsageError: there is none.
    """
    for found in exercise.checks:
        if word in (found.number, found.id, found.name, found.name.rpartition("::")[2]):
            return found
    numbers = [found.number for found in exercise.checks]
    raise UsageError(f"{exercise.id} has no check {word}{_near(word, numbers)}")


def task(exercise: Exercise, word: str) -> Task:
    """The task of that number or name.

    Raises:
        UsageError: there is none.
    """
    for found in exercise.tasks:
        if word in (str(found.number), found.name):
            return found
    names = [found.name for found in exercise.tasks]
    count = len(exercise.tasks)
    hint = _near(word, names) or f"; it has tasks 1 to {count}"
    raise UsageError(f"{exercise.id} has no task {word}{hint}")


def paths(course: Course, words: Iterable[str]) -> dict[str, Path]:
    """The files to grade that the words name themselves: id -> notebook or module.

    Any notebook in an exercise's folder will do; a script is the module of its exercise.
    """
    found = {}
    for word in words:
        id = _id_of_path(course, word)
        if id is None or not word.endswith((".py", ".ipynb")):
            continue
        places = [start / word for start in (Path.cwd(), course.root)]
        path = next((place for place in places if place.exists()), places[0])
        if path.suffix == ".ipynb" or path.name == course.exercise(id).files[0]:
            found[id] = path
    return found


def _ids(course: Course, word: str, also: Sequence[str]) -> list[str]:
    if found := _id(course, word):
        return [found]
    if word == "all":
        return list(course.ids)
    if week := _WEEK.fullmatch(word.lower()):
        in_week = [id for id in course.ids if _week(course, id) == int(week[1])]
        if in_week:
            return in_week
    if word in courses.TRACKS:
        in_track = [id for id in course.ids if course.exercise(id).track == word]
        if in_track:
            return in_track
    first, _, last = word.lower().rpartition("-")
    begin, end = _ID.fullmatch(first), _ID.fullmatch(last)
    if begin and end and begin[1] == end[1]:
        # The ends need not exist: a course may have day01 to day04 and no day07 yet.
        low, high = int(begin[2]), int(end[2])
        if low > high:
            raise UsageError(f"{word} runs backwards; did you mean {last}-{first}?")
        numbered = [(id, match) for id in course.ids if (match := _ID.fullmatch(id))]
        between = [id for id, m in numbered if m[1] == begin[1] and low <= int(m[2]) <= high]
        if between:
            return between
    if found := _id_of_path(course, word):
        return [found]
    raise UsageError(_unknown(course, word, also))


def _id(course: Course, word: str) -> str | None:
    """The id that a word means: `day3` and `Day03` are `day03`."""
    if word in course.ids:
        return word
    meant = _ID.fullmatch(word.lower())
    for id in course.ids:
        written = _ID.fullmatch(id)
        if meant and written and meant.groups() == written.groups():
            return id
    return None


def _week(course: Course, id: str) -> int | None:
    return courses.week_of(id, "roadmap") if id.startswith("day") else course.exercise(id).week


def _id_of_path(course: Course, word: str) -> str | None:
    if "/" not in word and "\\" not in word and not word.endswith((".py", ".ipynb")):
        return None
    path = Path(word)
    for start in (Path.cwd(), course.root):
        try:
            parts = (start / path).resolve().relative_to(course.exercises_folder.resolve()).parts
        except (ValueError, OSError):
            continue
        if parts and parts[0] in course.ids:
            return parts[0]
    folder = course.exercises_folder.name
    raise UsageError(f"{word} lies in no exercise's folder; paths look like {folder}/day01/name.py")


def _unknown(course: Course, word: str, also: Sequence[str]) -> str:
    weeks = sorted({week for id in course.ids if (week := _week_of_day(id))})
    words = [*course.ids, *also, *(f"week{week}" for week in weeks), *courses.TRACKS, "all"]
    near = _near(word.lower(), words)
    if not near and course.ids:
        near = (
            f"; the course has {course.ids[0]} to {course.ids[-1]}, and grade --help has the rest"
        )
    return f"there is no exercise or command {word}{near}"


def _week_of_day(id: str) -> int | None:
    return courses.week_of(id, "roadmap") if id.startswith("day") else None


def _near(word: str, words: Iterable[str]) -> str:
    import difflib

    near = difflib.get_close_matches(word, list(words), 3, 0.5)
    if not near:
        return ""
    *others, last = near
    return f"; did you mean {', '.join(others)} or {last}?" if others else f"; did you mean {last}?"
