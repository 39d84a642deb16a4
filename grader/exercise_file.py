"""The learner's file: its TODOs, read off the text alone, and the data that it can import."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

TODO = re.compile(r"^\s*# TODO (\d+)\b:?\s*(.*)$")
END_TODO = re.compile(r"^\s*# END TODO\b")
_RAISED = re.compile(r"^[a-z]+\d+ T(\d+)\b")


@dataclass(frozen=True, slots=True)
class Todo:
    """A TODO that is still open."""

    task: int
    line: int  # of the comment, or of the `raise`
    words: str


def importable(folder: Path, data: Iterable[str]) -> dict[str, str]:
    """The data that is Python, by module name: a submission imports it as it was shipped.

    Args:
        folder: where the data lies.
        data: names of files, as `exercise.toml` has them.
    """
    names = [name for name in data if name.endswith(".py")]
    return {n.removesuffix(".py"): (folder / n).read_text(encoding="utf-8") for n in names}


def open_task(message: str) -> int | None:
    """The number of the task in a stub's `NotImplementedError("day23 T1: …")`, if it is one."""
    found = _RAISED.match(message)
    return int(found[1]) if found else None


def todos(text: str) -> list[Todo]:
    """The open TODOs of a file, in its order.

    A task is open while its `raise NotImplementedError("day23 T1: …")` stands, or while nothing
    but comments and `...` lies between `# TODO 1` and `# END TODO` in any region of it.
    """
    # Most saves have none left, and walking a tree takes longer than the rest of this.
    tree = ast.parse(text if "NotImplementedError" in text else "")
    raised = {
        node.lineno: task
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and (task := _task_of(node)) is not None
    }
    found: dict[int, Todo] = {}
    empty: list[Todo] = []
    begun: set[int] = set()  # tasks with a region that has code in it
    region: Todo | None = None
    state = "empty"
    for number, line in enumerate(text.splitlines(), start=1):
        code = line.strip()
        if match := TODO.match(line):
            region, state = Todo(int(match[1]), number, match[2].strip()), "empty"
        elif END_TODO.match(line):
            if region is not None and state == "empty":
                empty.append(region)
            elif region is not None and state == "written":
                begun.add(region.task)
            region = None
        elif number in raised:
            start = region.line if region else number
            found[start] = Todo(raised[number], start, region.words if region else "")
            state = "open"
        # nbgrader's release of a region is our comment and one `...`.
        elif state == "empty" and code and code != "..." and not code.startswith("#"):
            state = "written"
    # Helpers that nobody needed leave a region empty; the task is written all the same.
    found |= {todo.line: todo for todo in empty if todo.task not in begun}
    return [found[line] for line in sorted(found)]


def _task_of(node: ast.Raise) -> int | None:
    match node.exc:
        case ast.Call(
            func=ast.Name(id="NotImplementedError"), args=[ast.Constant(value=str(text)), *_]
        ):
            return open_task(text)
    return None
