"""Solution regions: what an author marks, and what a stub leaves out.

A region is the lines from `### BEGIN SOLUTION 1: words` to `### END SOLUTION`, as in nbgrader,
with the number of its task. The words become the learner's TODO. Regions do not nest.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping

from grader.errors import CourseError

BEGIN = "### BEGIN SOLUTION"
END = "### END SOLUTION"
_BEGIN = re.compile(r"^(\s*)### BEGIN SOLUTION\b\s*(\d*)\s*:?\s*(.*?)\s*$")


class RegionError(CourseError):
    """The solution markers of a file do not pair up."""


def strip(text: str, file: str, exercise: str, tasks: Mapping[int, str]) -> str:
    """The stub of a source: a TODO in place of every solution region.

    Args:
        text: the source.
        file: its name, for messages.
        exercise: the id that the stub's `NotImplementedError` names.
        tasks: number -> name of the exercise's tasks.

    Raises:
        RegionError: a marker nests, is never closed, was never opened or names no task.
    """
    functions = _function_lines(text, file)
    return "\n".join(_strip(text.split("\n"), file, exercise, tasks, functions))


def unmarked(text: str) -> str:
    """A source without the lines of its markers: an answer, as a learner would write it."""
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if not line.strip().startswith((BEGIN, END)))


def _strip(
    lines: Iterable[str],
    file: str,
    exercise: str,
    tasks: Mapping[int, str],
    functions: frozenset[int],
) -> Iterator[str]:
    opened: int | None = None
    indent = ""
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if text.startswith(BEGIN):
            if opened is not None:
                raise RegionError(
                    f"{file}, line {number}: {BEGIN} inside the region opened at line {opened}"
                )
            match = _BEGIN.match(line)
            if match is None or not match[2] or int(match[2]) not in tasks:
                raise RegionError(
                    f"{file}, line {number}: {BEGIN} needs its task's number, 1 to {len(tasks)}"
                )
            opened, indent, task = number, match[1], int(match[2])
            yield f"{indent}# TODO {task}: {match[3] or 'your code here'}"
            if number in functions:
                yield f'{indent}raise NotImplementedError("{exercise} T{task}: {tasks[task]}")'
        elif text.startswith(END):
            if opened is None:
                raise RegionError(f"{file}, line {number}: {END} without a {BEGIN}")
            opened = None
            yield f"{indent}# END TODO"
        elif opened is None:
            yield line
    if opened is not None:
        raise RegionError(f"{file}, line {opened}: {BEGIN} is never closed")


def _function_lines(text: str, file: str) -> frozenset[int]:
    """The lines of `BEGIN` markers whose region lies in a function's body, where a `raise` may."""
    try:
        tree = ast.parse(text, file)
    except SyntaxError as error:
        raise RegionError(f"{file}, line {error.lineno}: {error.msg}") from None
    scopes = [
        (node.body[0].lineno, node.end_lineno or node.lineno, isinstance(node, ast.ClassDef))
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    ]
    found: set[int] = set()
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip().startswith(BEGIN):
            continue
        code = next((n for n in range(number, len(lines)) if _is_code(lines[n])), number) + 1
        around = [
            (last - first, is_class) for first, last, is_class in scopes if first <= code <= last
        ]
        if around and not min(around)[1]:
            found.add(number)
    return frozenset(found)


def _is_code(line: str) -> bool:
    return bool(line.strip()) and not line.strip().startswith("#")
