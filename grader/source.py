"""Reading what a learner hands in: one reader, which refuses what is not a small text file."""

from __future__ import annotations

import ast
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from grader import exercise_file, stubs
from grader.model import Exercise, Fault, Line, Outcome

LARGEST = 2**20
"""Bytes of a file that are read; nothing a learner writes by hand is longer."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a notebook, and where its lines stand in the module that is made of all cells."""

    display: str  # "exercises/day23/self_attention.ipynb, cell 5"
    first: int  # line of the module
    count: int  # lines


@dataclass(frozen=True, slots=True)
class Submission:
    """The files of one submission, as they were read, and what can be said without running them."""

    files: dict[str, str]  # name -> text
    display: dict[str, str]  # name -> the file as the learner knows it
    open_tasks: tuple[str, ...] = ()
    todos: tuple[tuple[str, Line], ...] = ()  # (task, line), in the file's order
    fault: Fault | None = None
    cells: tuple[Cell, ...] = ()  # of a notebook, in order; none of a script

    def located(self, outcome: Outcome) -> Outcome:
        """The outcome with its lines counted as the learner does: within a notebook's cells."""
        if not self.cells:
            return outcome

        def frame(match: re.Match[str]) -> str:
            place = locate(self.cells, Line(match[1], int(match[2]), ""))
            return f'File "{place.file}", line {place.number}'

        lines = tuple(locate(self.cells, line) for line in outcome.lines)
        traceback = re.sub(r'File "([^"\n]+)", line (\d+)', frame, outcome.traceback)
        return replace(outcome, lines=lines, traceback=traceback)

    def located_fault(self, fault: Fault | None) -> Fault | None:
        """The fault with its lines counted as the learner does."""
        return _located_fault(self.cells, fault)


def read(
    exercise: Exercise,
    path: Path | None = None,
    root: Path | None = None,
    *,
    beside: Path | None = None,
) -> Submission:
    """Read the files of an exercise, the module from `path` if one is given.

    Whatever is wrong with them is the submission's `fault`; nothing is raised.

    Args:
        exercise: whose files they are.
        path: the module; the one in the exercise's folder if None.
        root: of the course, for the names that are shown.
        beside: where the other files lie; in the exercise's folder if None.
    """
    files: dict[str, str] = {}
    display: dict[str, str] = {}
    for name in exercise.files:
        own = name == exercise.files[0]
        place = path if own and path is not None else (beside or exercise.folder) / name
        display[name] = display_of(place, root or exercise.folder.parent.parent)
        text = read_text(place, display[name])
        if isinstance(text, Fault):
            if own:
                return Submission(files, display, fault=text)
            continue  # a side file that is missing is the checks' business
        files[name] = text
    return of(exercise, files, display)


def of(
    exercise: Exercise,
    files: dict[str, str],
    display: dict[str, str],
    cells: tuple[Cell, ...] = (),
) -> Submission:
    """The submission made of these texts, the module perhaps of a notebook's cells."""
    module = exercise.files[0]
    fault = syntax_fault(files[module], display[module])
    if fault is not None:
        return Submission(files, display, fault=_located_fault(cells, fault), cells=cells)
    names = {task.number: task.name for task in exercise.tasks}
    lines = files[module].splitlines()
    todos = tuple(
        (
            names[todo.task],
            locate(
                cells, Line(display[module], todo.line, todo.words or lines[todo.line - 1].strip())
            ),
        )
        for todo in exercise_file.todos(files[module])
        if todo.task in names
    )
    todos += tuple(_untouched(exercise, files, display))
    still_open = tuple(dict.fromkeys(name for name, _ in todos))
    return Submission(files, display, still_open, todos, cells=cells)


def _untouched(
    exercise: Exercise, files: Mapping[str, str], display: Mapping[str, str]
) -> Iterator[tuple[str, Line]]:
    """The tasks whose own files are still as they were handed out, and where each begins."""
    for task in exercise.tasks:
        pristine = {name: stubs.text_of(exercise, name) for name in task.files}
        # What was not handed in is graded in its pristine form.
        if pristine and all(files.get(name, text) == text for name, text in pristine.items()):
            first = task.files[0]
            yield task.name, Line(display.get(first, first), 1, task.title)


def locate(cells: Sequence[Cell], line: Line) -> Line:
    """A line of the module where its notebook has it; the line itself where there are no cells."""
    for cell in cells:
        if cell.first <= line.number < cell.first + cell.count:
            return replace(line, file=cell.display, number=line.number - cell.first + 1)
    return line


def _located_fault(cells: Sequence[Cell], fault: Fault | None) -> Fault | None:
    if fault is None or fault.line is None or not cells:
        return fault
    place = locate(cells, Line(fault.file, fault.line, ""))
    around_it = (locate(cells, line) for line in fault.source)
    own = tuple(line for line in around_it if line.file == place.file)
    note = fault.note
    if found := re.fullmatch(r"opened on line (\d+)", note):
        note = f"opened on line {locate(cells, Line(fault.file, int(found[1]), '')).number}"
    return replace(fault, file=place.file, line=place.number, source=own, note=note)


def read_text(path: Path, display: str, largest: int = LARGEST) -> str | Fault:
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
        if status.st_size > largest:
            size, most = status.st_size / 2**20, largest // 2**20
            return Fault(
                "too large", f"{display} has {size:.1f} MB; at most {most} MB is graded", display
            )
        try:
            data = stream.read(largest + 1)
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


@dataclass(frozen=True, slots=True)
class Place:
    """Where a task is answered: what to look at where a wrong value has no traceback."""

    lines: tuple[Line, ...]  # where nothing more is known; of a class its methods and its head
    parts: tuple[Line, ...] = ()  # methods, functions and classes that may be named
    files: tuple[str, ...] = ()  # other files of the exercise

    def lines_for(self, *texts: str) -> tuple[Line, ...]:
        """The lines to show, the one to look at first last; none if it is in another file.

        Args:
            texts: what is said about the failure. The first that names just one of the parts
                decides.
        """
        for text in texts:
            if any(file in text for file in self.files):
                return ()
            words = set(re.findall(r"\w+", text))
            named = [line for line in self.parts if line.function.rpartition(".")[2] in words]
            if len(named) == 1:
                return (named[0],)
        return self.lines


def places(exercise: Exercise, text: str, display: str) -> dict[str, Place]:
    """Where each task of an exercise is answered in the module's text, by the task's name.

    A task's name is that of a function or class, or it stands for those that hold its TODOs in
    the stub.
    """
    lines = text.splitlines()
    nodes = {node.name: node for node in ast.parse(text).body if isinstance(node, _Definition)}
    written = _written_for(exercise)
    found = {}
    for task in exercise.tasks:
        names = {task.name: None} | dict.fromkeys(written.get(task.number, ()))
        own = [nodes[name] for name in names if name in nodes]
        if not own or (task.files and exercise.files[0] not in task.files):
            continue
        parts = [_answer(node, node.name, lines, display) for node in own]
        shown: tuple[Line, ...] = (parts[0],) if len(own) == 1 or task.name in nodes else ()
        if isinstance(own[0], ast.ClassDef):
            methods = [node for node in own[0].body if isinstance(node, _Function)]
            named = [(node, f"{own[0].name}.{node.name}") for node in methods]
            heads = (Line(display, m.lineno, lines[m.lineno - 1], name) for m, name in named)
            shown = (*heads, *shown) if shown else ()
            parts[:1] = [_answer(method, name, lines, display) for method, name in named]
        found[task.name] = Place(shown, tuple(parts), exercise.files[1:])
    return found


_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _answer(node: _Definition, name: str, lines: Sequence[str], display: str) -> Line:
    """The one `return` of a function, or where the definition begins."""
    number = node.lineno
    if not isinstance(node, ast.ClassDef):
        returns = [n.lineno for n in ast.walk(node) if isinstance(n, ast.Return)]
        number = returns[0] if len(returns) == 1 else number
    return Line(display, number, lines[number - 1], name)


def _written_for(exercise: Exercise) -> dict[int, list[str]]:
    """The functions and classes of the stub that hold TODOs, by the task's number."""
    stub = stubs.text_of(exercise, exercise.files[0])
    nodes = [node for node in ast.parse(stub).body if isinstance(node, _Definition)]
    found: dict[int, list[str]] = {}
    for todo in exercise_file.todos(stub):
        names = (n.name for n in nodes if n.lineno <= todo.line <= (n.end_lineno or n.lineno))
        found.setdefault(todo.task, []).extend(names)
    return found


def around(lines: list[str], number: int, display: str, before: int = 2) -> tuple[Line, ...]:
    """The lines up to `number` and one after it."""
    first, last = max(1, number - before), min(len(lines), number + 1)
    return tuple(Line(display, n, lines[n - 1]) for n in range(first, last + 1))


def display_of(path: Path, root: Path) -> str:
    """A path as the learner knows it: from the course's folder."""
    try:
        return Path(os.path.abspath(path)).relative_to(root.resolve()).as_posix()  # noqa: PTH100
    except ValueError:
        return str(path)
