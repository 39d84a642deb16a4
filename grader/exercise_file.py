"""The learner's file and its TODOs: which tasks are open, read off the text alone."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

TODO = re.compile(r"^\s*# TODO (\d+)\b:?\s*(.*)$")
END_TODO = re.compile(r"^\s*# END TODO\b")
_RAISED = re.compile(r"^[a-z]+\d+ T(\d+)\b")


@dataclass(frozen=True, slots=True)
class Todo:
    """A TODO that is still open."""

    task: int
    line: int  # of the comment, or of the `raise`
    words: str


def open_task(message: str) -> int | None:
    """The number of the task in a stub's `NotImplementedError("day23 T1: …")`, if it is one."""
    found = _RAISED.match(message)
    return int(found[1]) if found else None


def todos(text: str) -> list[Todo]:
    """The open TODOs of a file, in its order.

    A task is open while its `raise NotImplementedError("day23 T1: …")` stands, or while nothing
    but comments and `...` lies between `# TODO 1` and `# END TODO`.
    """
    lines = text.splitlines()
    found: dict[int, Todo] = {}
    heading: tuple[int, int, str] | None = None  # task, line, words
    filled = False
    words: dict[int, tuple[int, str]] = {}  # line -> of the region it lies in
    for number, line in enumerate(lines, start=1):
        if match := TODO.match(line):
            heading, filled = (int(match[1]), number, match[2].strip()), False
        elif END_TODO.match(line):
            if heading is not None and not filled:
                task, start, said = heading
                found[start] = Todo(task, start, said)
            heading = None
        elif heading is not None:
            words[number] = (heading[1], heading[2])
            code = line.strip()
            # nbgrader's release of a region is our comment and one `...`.
            filled = filled or bool(code and code != "..." and not code.startswith("#"))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Raise) and (raised := _task_of(node)) is not None:
            start, said = words.get(node.lineno, (node.lineno, ""))
            found[start] = Todo(raised, start, said)
    return [found[line] for line in sorted(found)]


def _task_of(node: ast.Raise) -> int | None:
    match node.exc:
        case ast.Call(
            func=ast.Name(id="NotImplementedError"), args=[ast.Constant(value=str(text)), *_]
        ):
            return open_task(text)
    return None
