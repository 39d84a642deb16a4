"""Reading what a learner hands in: one reader, which refuses what is not a small text file."""

from __future__ import annotations

import ast
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from grader import exercise_file
from grader.model import Exercise, Fault, Line

LARGEST = 2**20
"""Bytes of a file that are read; nothing a learner writes by hand is longer."""


@dataclass(frozen=True, slots=True)
class Submission:
    """The files of one submission, as they were read, and what can be said without running them."""

    files: dict[str, str]  # name -> text
    display: dict[str, str]  # name -> the file as the learner knows it
    open_tasks: tuple[str, ...] = ()
    todos: tuple[tuple[str, Line], ...] = ()  # (task, line), in the file's order
    fault: Fault | None = None

    @property
    def digest(self) -> str:
        """12 hex digits of what was handed in."""
        return digest(self.files)


def digest(files: dict[str, str]) -> str:
    """12 hex digits of some files' names and texts."""
    sha = hashlib.sha256()
    for name in sorted(files):
        sha.update(f"{name}\0{files[name]}\0".encode("utf-8", "surrogatepass"))
    return sha.hexdigest()[:12]


def read(exercise: Exercise, path: Path | None = None, root: Path | None = None) -> Submission:
    """Read the files of an exercise, the module from `path` if one is given.

    Whatever is wrong with them is the submission's `fault`; nothing is raised.
    """
    files: dict[str, str] = {}
    display: dict[str, str] = {}
    for name in exercise.files:
        own = name == exercise.files[0]
        place = path if own and path is not None else exercise.folder / name
        display[name] = _display(place, root or exercise.folder.parent.parent)
        text = read_text(place, display[name])
        if isinstance(text, Fault):
            if own:
                return Submission(files, display, fault=text)
            continue  # a side file that is missing is the checks' business
        files[name] = text
    return of(exercise, files, display)


def of(exercise: Exercise, files: dict[str, str], display: dict[str, str]) -> Submission:
    """The submission made of these texts."""
    module = exercise.files[0]
    fault = syntax_fault(files[module], display[module])
    if fault is not None:
        return Submission(files, display, fault=fault)
    names = {task.number: task.name for task in exercise.tasks}
    lines = files[module].splitlines()
    todos = tuple(
        (
            names[todo.task],
            Line(display[module], todo.line, todo.words or lines[todo.line - 1].strip()),
        )
        for todo in exercise_file.todos(files[module])
        if todo.task in names
    )
    still_open = tuple(dict.fromkeys(name for name, _ in todos))
    return Submission(files, display, still_open, todos)


def read_text(path: Path, display: str) -> str | Fault:
    """The text of a regular UTF-8 file of at most 1 MB, or why it is none.

    A byte order mark is dropped, line ends become `\\n`.
    """
    # Not blocking: a named pipe would be waited for until somebody writes into it.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        number = os.open(path, flags)
    except FileNotFoundError:
        what = "is a link to a file that does not exist" if path.is_symlink() else "does not exist"
        return Fault("missing", f"{display} {what}", display)
    except OSError as error:
        return Fault("unreadable", f"{display} cannot be read: {error.strerror}", display)
    status = os.fstat(number)
    if not stat.S_ISREG(status.st_mode):
        os.close(number)
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        return Fault("unreadable", f"{display} is {what}; a Python file is expected", display)
    with os.fdopen(number, "rb") as stream:
        if status.st_size > LARGEST:
            size = status.st_size / 2**20
            return Fault(
                "too large", f"{display} has {size:.1f} MB; at most 1 MB is graded", display
            )
        try:
            data = stream.read(LARGEST + 1)
        except OSError as error:
            return Fault("unreadable", f"{display} cannot be read: {error.strerror}", display)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return Fault(
            "encoding",
            f"{display}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; "
            "save the file as UTF-8",
            display,
            line,
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def syntax_fault(text: str, display: str) -> Fault | None:
    """Why the text is no Python, if it is none; said before torch is imported."""
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        return Fault("SyntaxError", "the file has a NUL character", display, line)
    try:
        tree = ast.parse(text, display)
        compile(tree, display, "exec", dont_inherit=True)
    except SyntaxError as error:
        note = ""
        said = error.msg
        lines = text.splitlines()
        number = min(error.lineno or 1, max(len(lines), 1))
        if "was never closed" in said:
            note = f"opened on line {number}"
        return Fault(
            type(error).__name__,
            said,
            display,
            number,
            error.offset,
            around(lines, number, display),
            note,
        )
    except (RecursionError, MemoryError, ValueError, OverflowError) as error:
        return Fault("SyntaxError", f"Python cannot compile it: {error}", display)
    return None


def definitions(text: str, display: str) -> dict[str, Line]:
    """Where a file answers: for each function its `return`, if it has just one, else its head.

    A value that is wrong has no traceback; this is the line to look at first.
    """
    lines = text.splitlines()
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            number = node.lineno
            if not isinstance(node, ast.ClassDef):
                returns = [n.lineno for n in ast.walk(node) if isinstance(n, ast.Return)]
                number = returns[0] if len(returns) == 1 else number
            found[node.name] = Line(display, number, lines[number - 1], node.name)
    return found


def around(lines: list[str], number: int, display: str, before: int = 2) -> tuple[Line, ...]:
    """The lines up to `number` and one after it."""
    first, last = max(1, number - before), min(len(lines), number + 1)
    return tuple(Line(display, n, lines[n - 1]) for n in range(first, last + 1))


def _display(path: Path, root: Path) -> str:
    try:
        return Path(os.path.abspath(path)).relative_to(root.resolve()).as_posix()  # noqa: PTH100
    except ValueError:
        return str(path)
