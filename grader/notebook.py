"""Notebooks: an exercise's file as cells, and a notebook's code cells as one file.

A notebook is made of the statement, the head of the module, one code cell a task and a last cell
that asks for the checks. Reading one takes the code cells in their order, without `%` and `!` lines
and without cells tagged `scratch`; no kernel is started. What either way leaves out is never lost
in the other: blank lines between cells are kept in their metadata.
"""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grader import regions, source
from grader.model import Exercise, Fault, Task

SCRATCH = "scratch"
"""The tag of a cell that is not part of the answer."""

LARGEST = 2**26
"""Bytes of a notebook that are read; its pictures count too."""

_BLANK = 2  # lines between cells, where the metadata says nothing
_KEY = "torch28"  # in the metadata
_PYTHON_MAGICS = ("time", "timeit", "capture", "prun")
_MARK = re.compile(r"^\s*(?:# TODO|### BEGIN SOLUTION) (\d+)\b")
_HELP = re.compile(r"^\s*(\?{1,2}\s*[\w.]+|[\w.]+\?{1,2})\s*$")

Notebook = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Module:
    """What the code cells of a notebook make together."""

    text: str
    cells: tuple[source.Cell, ...]


def path_of(exercise: Exercise) -> Path:
    """Where an exercise's notebook lies."""
    return exercise.submission.with_suffix(".ipynb")


def is_newer(exercise: Exercise) -> bool:
    """Whether the notebook is what a learner wrote last, not the script."""
    script, notebook = exercise.submission, path_of(exercise)
    try:
        written = notebook.stat().st_mtime_ns
    except OSError:
        return False
    try:
        return written > script.stat().st_mtime_ns
    except OSError:
        return True


# --- from a script ----------------------------------------------------------------------------


def of(exercise: Exercise, text: str, statement: str, *, has_checks: bool = False) -> Notebook:
    """The notebook of an exercise's module.

    Args:
        exercise: what it belongs to.
        text: of the module: an answer, a stub, or a source with solution regions.
        statement: Markdown.
        has_checks: a locked, graded cell after each task, as nbgrader wants it, in the place of
            the last cell.
    """
    cells = [_markdown("statement", statement.strip())]
    tasks = {task.number: task for task in exercise.tasks}
    unchecked = dict(tasks)
    for chunk in _chunks(text, {task.number: task.name for task in exercise.tasks}):
        numbers, body, blank, is_last = chunk
        name = f"task-{tasks[numbers[0]].name}" if numbers else "head"
        code = _code(name, "\n".join(body))
        _mark(code, name, is_solution=bool(numbers))
        if not body or blank != (1 if is_last else _BLANK):
            code["metadata"][_KEY] = {"blank": blank}
        cells.append(code)
        if has_checks:
            cells += [_graded(exercise, unchecked.pop(number)) for number in numbers]
    if has_checks:
        cells += [_graded(exercise, task) for task in unchecked.values()]
    else:
        last = _code("check", f'import grader\n\ngrader.check("{exercise.id}")')
        last["metadata"]["tags"] = [SCRATCH]
        _mark(last, "check", is_locked=True)
        cells.append(last)
    return {
        "cells": cells,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def updated(notebook: Notebook, old: Notebook) -> Notebook:
    """A notebook with the cells of an older form of it that are nobody else's.

    A learner's own Markdown and scratch cells stay behind the cell that they followed; outputs
    stay with code that has not changed.
    """
    ours = {cell["id"]: cell for cell in notebook["cells"]}
    followers: dict[str, list[dict[str, Any]]] = {}
    anchor = ""
    for cell in old["cells"]:
        id = str(cell.get("id", ""))
        if id in ours:
            anchor = id
            if cell["cell_type"] == "code" and _source(cell) == ours[id]["source"]:
                ours[id]["outputs"] = cell.get("outputs", [])
                ours[id]["execution_count"] = cell.get("execution_count")
        elif cell["cell_type"] != "code" or _is_scratch(cell):
            followers.setdefault(anchor, []).append(cell)
    cells = list(followers.get("", []))
    for cell in notebook["cells"]:
        cells += [cell, *followers.get(cell["id"], [])]
    return notebook | {"cells": cells}


def dumps(notebook: Notebook) -> str:
    """A notebook as the text of its file, as Jupyter writes it."""
    import nbformat

    made = nbformat.from_dict(notebook)
    nbformat.validate(made)
    return f"{nbformat.writes(made).rstrip()}\n"


def _chunks(
    text: str, names: Mapping[int, str]
) -> Iterator[tuple[list[int], list[str], int, bool]]:
    """The lines of a module by task, in their order.

    Yields:
        The tasks' numbers (none: the head), lines, blank lines after them, whether it is the last.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    starts = _starts(lines, names)
    places = sorted({0, *starts})
    for place, following in zip(places, [*places[1:], len(lines)], strict=True):
        body = lines[place:following]
        while body and not body[-1]:
            body.pop()
        blank = following - place - len(body)
        yield starts.get(place, []), body, blank, following == len(lines)


def _starts(lines: Sequence[str], names: Mapping[int, str]) -> dict[int, list[int]]:
    """The tasks that begin at a line, by the line's index."""
    try:
        statements = ast.parse("\n".join(lines)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    spans = [(_first_line(node, lines), node.end_lineno or 0, node) for node in statements]
    found: dict[int, list[int]] = {}
    seen = set()
    for index, line in enumerate(lines):
        match = _MARK.match(line)
        number = int(match[1]) if match else 0
        if number in names and number not in seen:
            seen.add(number)
            around = [first for first, last, _ in spans if first <= index < last]
            found.setdefault(around[0] if around else index, []).append(number)
    # A learner may have deleted the TODOs; the definition's name is still the task's.
    for first, _, node in spans:
        for number, name in names.items():
            if number not in seen and getattr(node, "name", "") == name:
                seen.add(number)
                found.setdefault(first, []).append(number)
    return found


def _first_line(node: ast.stmt, lines: Sequence[str]) -> int:
    """The index of a statement's first line, its decorators and the comment above it included."""
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(d.lineno for d in decorators)]) - 1
    while first > 0 and lines[first - 1].startswith("#") and not _is_mark(lines[first - 1]):
        first -= 1
    return first


def _is_mark(line: str) -> bool:
    return line.startswith(("# TODO", "# END TODO", regions.BEGIN, regions.END))


def _markdown(id: str, text: str) -> dict[str, Any]:
    cell = {"cell_type": "markdown", "id": id, "metadata": {}, "source": text}
    _mark(cell, id, is_locked=True)
    return cell


def _code(id: str, text: str) -> dict[str, Any]:
    return {
        "cell_type": "code",
        "execution_count": None,
        "id": id[:64],
        "metadata": {},
        "outputs": [],
        "source": text,
    }


def _graded(exercise: Exercise, task: Task) -> dict[str, Any]:
    call = f'grader.check("{exercise.id}", task="{task.name}")'
    cell = _code(f"check-{task.name}", f"import grader\n\n{call}.points")
    cell["metadata"]["tags"] = [SCRATCH]
    _mark(cell, f"check-{task.name}", is_locked=True, points=task.points)
    return cell


def _mark(
    cell: dict[str, Any],
    grade_id: str,
    *,
    is_solution: bool = False,
    is_locked: bool = False,
    points: int | None = None,
) -> None:
    """Say to nbgrader what a cell is; its metadata in the third form."""
    cell["metadata"]["nbgrader"] = {
        "grade": points is not None,
        "grade_id": grade_id,
        "locked": is_locked,
        "schema_version": 3,
        "solution": is_solution,
        "task": False,
    } | ({"points": points} if points is not None else {})


# --- to a script ------------------------------------------------------------------------------


def read(exercise: Exercise, path: Path, root: Path) -> source.Submission:
    """Read an answer from a notebook; whatever is wrong with it is the submission's `fault`.

    The files of the exercise that are not its module are read from its folder.
    """
    module, *others = exercise.files
    display = {module: source.display_of(path, root)}
    notebook = load(path, display[module])
    if isinstance(notebook, Fault):
        return source.Submission({}, display, fault=notebook)
    found = module_of(notebook, display[module])
    files = {module: found.text}
    for name in others:
        display[name] = source.display_of(exercise.folder / name, root)
        text = source.read_text(exercise.folder / name, display[name])
        if isinstance(text, str):
            files[name] = text
    for cell in found.cells:
        lines = found.text.split("\n")[cell.first - 1 : cell.first - 1 + cell.count]
        # A bracket that is left open in one cell is not to be closed by the next.
        fault = source.syntax_fault("\n".join(lines) + "\n", cell.display)
        if fault is not None:
            return source.Submission(files, display, fault=fault, cells=found.cells)
    return source.of(exercise, files, display, found.cells)


def load(path: Path, display: str) -> Notebook | Fault:
    """The notebook in a file, or why there is none."""
    text = source.read_text(path, display, LARGEST)
    return text if isinstance(text, Fault) else parse(text, display)


def parse(text: str, display: str) -> Notebook | Fault:
    """The notebook that a file's text is, or why it is none."""
    try:
        notebook = json.loads(text)
        if notebook["nbformat"] < 4:
            import nbformat

            notebook = json.loads(nbformat.writes(nbformat.reads(text, as_version=4)))
        for cell in notebook["cells"]:
            _source(cell)
            if not isinstance(cell["cell_type"], str):
                raise TypeError("cell_type")
        return dict(notebook)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Fault("unreadable", f"{display} is no notebook that Jupyter could open", display)


def module_of(notebook: Notebook, display: str) -> Module:
    """The code of a notebook as one module.

    Args:
        notebook: of format 4.
        display: its file, as the learner knows it.
    """
    lines: list[str] = []
    cells = []
    blank = 0
    for number, cell in enumerate(notebook["cells"], start=1):
        if cell["cell_type"] != "code" or _is_scratch(cell):
            continue
        if not _source(cell) and _KEY not in _metadata(cell):
            continue  # Jupyter leaves an empty cell at the end
        body = _without_magics(_source(cell)).split("\n")
        lines += [""] * blank
        cells.append(source.Cell(f"{display}, cell {number}", len(lines) + 1, len(body)))
        if body != [""]:
            lines += body
        blank = _blank(cell)
    if not cells:
        return Module("", ())
    own = notebook["cells"][int(cells[-1].display.rpartition(" ")[2]) - 1]
    blank = _blank(own, last=True)
    return Module("\n".join([*lines, *[""] * blank]), tuple(cells))


def _blank(cell: Mapping[str, Any], *, last: bool = False) -> int:
    """How many empty lines follow a cell in the module; the last line's end counts as one."""
    kept = _metadata(cell).get(_KEY)
    count = kept.get("blank") if isinstance(kept, dict) else None
    return count if isinstance(count, int) and 0 <= count < 100 else 1 if last else _BLANK


def _metadata(cell: Mapping[str, Any]) -> Mapping[str, Any]:
    found = cell.get("metadata")
    return found if isinstance(found, dict) else {}


def _source(cell: Mapping[str, Any]) -> str:
    text = cell["source"]
    return text if isinstance(text, str) else "".join(text)


def _is_scratch(cell: Mapping[str, Any]) -> bool:
    tags = _metadata(cell).get("tags")
    return isinstance(tags, list | tuple) and SCRATCH in tags


def _without_magics(text: str) -> str:
    """A cell's Python, on the same lines: what only IPython understands becomes a comment."""
    first = next((line for line in text.split("\n") if line.strip()), "")
    if first.startswith("%%") and first[2:].partition(" ")[0] not in _PYTHON_MAGICS:
        return "\n".join(f"# {line}".rstrip() for line in text.split("\n"))
    try:
        ast.parse(text)
        return text
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        pass
    lines: list[str] = []
    for line in text.split("\n"):
        code = line.lstrip()
        is_magic = code.startswith(("%", "!")) or _HELP.match(line)
        if is_magic and not _continues(lines):
            indent = line[: len(line) - len(code)]
            # A block may have nothing else in it.
            line = f"{indent}pass  # {code}" if indent else f"# {code}"
        lines.append(line)
    return "\n".join(lines)


def _continues(lines: Sequence[str]) -> bool:
    """Whether the next line belongs to the last statement of these: a bracket or text is open."""
    if lines and lines[-1].endswith("\\"):
        return True
    try:
        for _ in tokenize.generate_tokens(io.StringIO("\n".join([*lines, ""])).readline):
            pass
    except tokenize.TokenError:
        return True
    except SyntaxError:  # the indentation is wrong, which is another matter
        pass
    return False
