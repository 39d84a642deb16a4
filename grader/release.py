"""A release: a learner's course without references, its suites and hints packed in bundles."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from grader import bundle, handout, regions, stubs
from grader.course import Course
from grader.errors import CourseError, UsageError
from grader.model import Exercise

LONG = 24
"""Characters of a line that is long enough to give an answer away."""

README = """\
# {title}

Install the grader with `pip install torch28`, then, in this folder:

```
grade next           what to do now
grade {first:<14} check your answer
grade hint {first:<9} a hint for what to mend first
```

Write your answers into the files under `exercises/`; each folder has a `README.md` that says what
is asked. The checks are packed in the `.bundle` files: out of sight, not secret.
"""

GITIGNORE = """\
/reports/*
!/reports/.gitkeep
__pycache__/
"""


def write(
    course: Course, exercises: Sequence[Exercise], to: Path, *, has_notebooks: bool = False
) -> None:
    """Write a release of some exercises into a folder.

    Raises:
        UsageError: the folder lies in a course, or has files that differ.
        CourseError: a packed file holds a line of a reference.
    """
    root = to.resolve()
    for parent in (root, *root.parents):
        if (parent / "course.toml").is_file() and not _is_release(parent, root):
            raise UsageError(f"{root} lies in the course {parent}; choose a folder outside it")
    handout.put(root, contents(course, exercises, has_notebooks=has_notebooks))


def contents(
    course: Course, exercises: Sequence[Exercise], *, has_notebooks: bool = False
) -> dict[str, bytes]:
    """Everything of a release: path below its root -> bytes, the same for the same exercises.

    Raises:
        CourseError: a packed file holds a line of a reference.
    """
    fresh = handout.fresh(exercises, has_notebooks=has_notebooks)
    found = {f"exercises/{name}": data for name, data in fresh.items()}
    for exercise in exercises:
        packed = _packed(exercise)
        for name, number, line in quotes(exercise):
            raise CourseError(
                f"{exercise.source / name}, line {number}: holds a line of the reference, "
                f"{line!r}; a release could not hide it"
            )
        place = bundle.path_of(Path("exercises"), exercise.id).as_posix()
        found[place] = bundle.pack(packed)
    texts = {
        ".gitignore": GITIGNORE,
        "README.md": README.format(title=course.title, first=exercises[0].id),
        "reports/.gitkeep": "",
        "course.toml": _course_toml(course, exercises),
    }
    return found | {name: text.encode("utf-8") for name, text in texts.items()}


def secrets(exercise: Exercise) -> list[str]:
    """The lines of an exercise's solution regions that only its reference may hold.

    Short lines are left out, and those that the stub, the statement or a hint shows.
    """
    found: dict[str, None] = {}
    for name in exercise.files:
        if not name.endswith(".py"):
            continue
        inside = False
        text = (exercise.source / name).read_text(encoding="utf-8")
        shown = {line.strip() for line in stubs.text_of(exercise, name).splitlines()}
        for line in map(str.strip, text.splitlines()):
            if line.startswith((regions.BEGIN, regions.END)):
                inside = line.startswith(regions.BEGIN)
            elif inside and len(line) >= LONG and line not in shown:
                found[line] = None
    told = "\n".join(hint for task in exercise.tasks for hint in task.hints)
    told += (exercise.source / "README.md").read_text(encoding="utf-8")
    return [line for line in found if line not in told]


def quotes(exercise: Exercise) -> Iterator[tuple[str, int, str]]:
    """The lines of the reference that a release would pack: file, number of the line, its text."""
    packed = _packed(exercise)
    for secret in secrets(exercise):
        for name, data in packed.items():
            before, found, _ = data.partition(secret.encode("utf-8"))
            if found:
                yield name, before.count(b"\n") + 1, secret


def _packed(exercise: Exercise) -> dict[str, bytes]:
    names = ("exercise.toml", exercise.suite.name, "README.md", *exercise.data)
    files = {name: (exercise.source / name).read_bytes() for name in names}
    for name, text in stubs.of(exercise).items():
        files[f"{bundle.STUB}/{name}"] = text.encode("utf-8")
    return files


def _course_toml(course: Course, exercises: Sequence[Exercise]) -> str:
    lines = [
        f"title = {_quoted(course.title)}",
        "format = 1",
        'source = "bundles"',
    ]
    ids = {exercise.id for exercise in exercises}
    provided = {name: id for name, id in course.provides.items() if id in ids}
    if provided:
        lines += ["", "[provides]", *(f'{name} = "{id}"' for name, id in provided.items())]
    weeks = {week: course.weeks[week] for week in sorted(course.weeks)}
    if weeks:
        lines += ["", "[weeks]", *(f"{week} = {_quoted(words)}" for week, words in weeks.items())]
    if course.planned and ids == set(course.ids):
        lines += ["", "[roadmap]"]
        for id, titles in course.planned.items():
            lines.append(f"{id} = [{', '.join(map(_quoted, titles))}]")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A TOML string; one of JSON, which is the same."""
    return json.dumps(text, ensure_ascii=False)


def _is_release(folder: Path, root: Path) -> bool:
    """Whether a folder is an earlier release at the very place of the new one."""
    text = (folder / "course.toml").read_text(encoding="utf-8", errors="replace")
    return folder == root and 'source = "bundles"' in text
