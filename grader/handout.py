"""What a course hands to its learner: stubs, statements, data, and a note of what was handed out.

The note is `exercises/stubs.json`, the digests of the files as they were written, and
`exercises/.stubs/`, the pristine text of every file that a learner edits. By the first, only work
of this program is ever replaced; the second is what `grade update` compares an answer with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from grader import files, notebook, stubs
from grader.course import Course
from grader.errors import CourseError, EnvironmentFault, UsageError
from grader.model import Exercise

DIGESTS = "stubs.json"
PRISTINE = ".stubs"


def of(exercise: Exercise) -> dict[str, str]:
    """The files of an exercise's folder, as they are handed out: name -> text."""
    return stubs.of(exercise) | stubs.pages(exercise)


def fresh(exercises: Iterable[Exercise], *, has_notebooks: bool = False) -> dict[str, bytes]:
    """Everything under `exercises/` of a new course: path below it -> content."""
    found: dict[str, str] = {}
    known: dict[str, str] = {}
    for exercise in exercises:
        for name, text in of(exercise).items():
            found[f"{exercise.id}/{name}"] = text
            known[f"{exercise.id}/{name}"] = digest(text)
            if name in exercise.files:
                found[f"{PRISTINE}/{exercise.id}/{name}"] = text
        if has_notebooks:
            found[f"{exercise.id}/{notebook.path_of(exercise).name}"] = _as_notebook(exercise)
    found[DIGESTS] = _note(known)
    return {name: text.encode("utf-8") for name, text in found.items()}


def put(root: Path, content: Mapping[str, bytes]) -> None:
    """Write a new course's files, or none of them where that would replace something.

    Args:
        root: made if it is missing.
        content: path below it -> bytes.

    Raises:
        UsageError: a file that differs is there already.
        EnvironmentFault: a file can't be written.
    """
    in_the_way = [name for name, data in content.items() if _differs(root / name, data)]
    if in_the_way:
        more = f" and {len(in_the_way) - 3} more" if len(in_the_way) > 3 else ""
        raise UsageError(
            f"{root} has {', '.join(in_the_way[:3])}{more} already, and it differs; nothing was "
            "written. Choose an empty folder, or move it away"
        )
    for name, data in content.items():
        path = root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.write_bytes(data)
        except OSError as error:
            raise EnvironmentFault(
                f"{path}: can't be written ({error.strerror or error})"
            ) from None


def digests(course: Course) -> dict[str, str]:
    """The digests of the files as they were handed out, by `day23/self_attention.py`."""
    path = course.exercises_folder / DIGESTS
    if not path.exists():
        return {}
    try:
        table = json.loads(files.read(path))
        return {str(key): str(value) for key, value in table.items()}
    except (ValueError, AttributeError) as error:
        raise CourseError(f"{course.display(path)}: {error}") from None


def note(course: Course, known: Mapping[str, str]) -> None:
    """Write down the digests of what has been handed out."""
    path = course.exercises_folder / DIGESTS
    text = _note(known)
    if not path.exists() or files.read(path) != text:
        files.replace(path, text)


def digest(text: str) -> str:
    """12 hex digits of a file that was handed out."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def pristine_path(course: Course, id: str, name: str) -> Path:
    """Where the pristine text of a learner's file is kept."""
    return course.exercises_folder / PRISTINE / id / name


def _as_notebook(exercise: Exercise) -> str:
    statement = stubs.pages(exercise)["README.md"]
    return notebook.dumps(
        notebook.of(exercise, stubs.text_of(exercise, exercise.files[0]), statement)
    )


def _note(known: Mapping[str, str]) -> str:
    return json.dumps(dict(sorted(known.items())), indent=1) + "\n"


def _differs(path: Path, data: bytes) -> bool:
    if not path.exists() and not path.is_symlink():
        return False
    try:
        return path.read_bytes() != data
    except OSError:
        return True
