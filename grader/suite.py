"""A suite read as text: which checks it declares, before torch or any learner's code is loaded."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grader.errors import CourseError
from grader.model import Check, Kind


@dataclass(frozen=True, slots=True)
class _Marks:
    task: str | None = None
    points: int | None = None
    kind: str = "value"
    after: tuple[str, ...] = ()
    hint: str | None = None
    gpu: bool = False


def read(path: Path, exercise: str, tasks: Sequence[str]) -> tuple[Check, ...]:
    """The checks of a suite, in the order of their tasks and then as written.

    Args:
        path: the suite.
        exercise: the id that the checks' ids begin with.
        tasks: the names of the exercise's tasks, in order.

    Raises:
        CourseError: the suite does not parse, a marker is not a literal, a task is unknown.
    """
    try:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text, str(path))
    except OSError as error:
        raise CourseError(f"{path}: the suite cannot be read ({error.strerror})") from None
    except SyntaxError as error:
        raise CourseError(f"{path}, line {error.lineno}: {error.msg}") from None
    found: dict[str, list[tuple[str, ast.FunctionDef, _Marks]]] = {name: [] for name in tasks}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            marks = _marks(node.decorator_list, path)
            if marks.task is None:
                raise CourseError(
                    f"{path}, line {node.lineno}: {node.name} has no @pytest.mark.task"
                )
            if marks.task not in found:
                near = difflib.get_close_matches(marks.task, tasks, 1)
                also = f"; did you mean {near[0]}?" if near else ""
                raise CourseError(
                    f"{path}, line {node.lineno}: exercise.toml has no task {marks.task}{also}"
                )
            for test in _tests(node.body):
                own = _marks(test.decorator_list, path)
                found[marks.task].append((f"{node.name}::{test.name}", test, own))
        elif isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            raise CourseError(
                f"{path}, line {node.lineno}: {node.name} stands outside the class of a task"
            )
    checks = [
        _check(f"{exercise}/{number}.{place}", name, test, marks, task, path)
        for number, (task, tests) in enumerate(found.items(), start=1)
        for place, (name, test, marks) in enumerate(tests, start=1)
    ]
    names = {check.name for check in checks}
    for check in checks:
        for other in check.after:
            if other not in names:
                raise CourseError(f"{path}: {check.name} waits for {other}, which does not exist")
    return tuple(checks)


def _tests(body: Iterable[ast.stmt]) -> list[ast.FunctionDef]:
    return [n for n in body if isinstance(n, ast.FunctionDef) and n.name.startswith("test")]


def _check(
    id: str, name: str, test: ast.FunctionDef, marks: _Marks, task: str, path: Path
) -> Check:
    prefix = name.partition("::")[0]
    where = f"{path}, line {test.lineno}: {name}"
    if marks.points is None:
        raise CourseError(f'{where} has no @pytest.mark.points(n, "kind")')
    if marks.kind not in list(Kind):
        raise CourseError(f"{where}: {marks.kind} is not a kind; kinds are {', '.join(Kind)}")
    title = (ast.get_docstring(test) or "").partition("\n")[0].strip()
    if not title:
        raise CourseError(f"{where} has no docstring; its first line is the check's title")
    return Check(
        id=id,
        name=name,
        task=task,
        title=title.removesuffix("."),
        kind=Kind(marks.kind),
        points=marks.points,
        after=tuple(n if "::" in n else f"{prefix}::{n}" for n in marks.after),
        hint=marks.hint,
        gpu=marks.gpu,
    )


def _marks(decorators: Iterable[ast.expr], path: Path) -> _Marks:
    """Read `@pytest.mark.NAME(…)`; the arguments are literals, or the command could not know."""
    values: dict[str, Any] = {}
    for node in decorators:
        call = node if isinstance(node, ast.Call) else None
        target = call.func if call else node
        if not (isinstance(target, ast.Attribute) and ast.unparse(target.value) == "pytest.mark"):
            continue
        name = target.attr
        if name not in {"task", "points", "after", "hint", "gpu"}:
            continue
        try:
            given = [ast.literal_eval(argument) for argument in call.args] if call else []
            if call:
                given += [ast.literal_eval(keyword.value) for keyword in call.keywords]
        except ValueError:
            raise CourseError(
                f"{path}, line {node.lineno}: the arguments of {name} must be literals"
            ) from None
        match name:
            case "task":
                values["task"] = given[0]
            case "points":
                values["points"] = given[0]
                values["kind"] = given[1] if len(given) > 1 else "value"
            case "after":
                values["after"] = (*values.get("after", ()), *given)
            case "hint":
                values["hint"] = given[0]
            case "gpu":
                values["gpu"] = True
    return _Marks(**values)
