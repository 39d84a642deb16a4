"""Other answers to an exercise: right ones its suite must accept, wrong ones it must reject.

`answers.py` of an exercise is read as text. Each answer is one definition, laid over the
reference; the decorators only declare what it is.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from grader.errors import CourseError
from grader.model import Exercise

T = TypeVar("T")


def accepted(task: str, *, file: str = "") -> Callable[[T], T]:
    """Declare a right answer to a task: it must pass every check of the task."""
    return lambda definition: definition


def rejected(
    task: str, *, by: str | tuple[str, ...], says: str = "", file: str = ""
) -> Callable[[T], T]:
    """Declare a wrong answer to a task.

    Args:
        task: the task it answers.
        by: the checks that must fail, by name; a name of the task's own class, or
            `"TestOther::test_name"`.
        says: what the message of the first of them must contain; case is ignored.
        file: the file it replaces, where that is not the module.
    """
    return lambda definition: definition


@dataclass(frozen=True, slots=True)
class Answer:
    """One definition of an `answers.py`, and what its suite must say about it."""

    name: str
    task: str
    is_right: bool
    by: tuple[str, ...]  # full names of checks
    says: str
    line: int  # in answers.py
    files: dict[str, str] = field(default_factory=dict)  # the whole submission


def path_of(exercise: Exercise) -> Path:
    """Where an exercise keeps its other answers."""
    return exercise.source / "answers.py"


def reference(exercise: Exercise) -> dict[str, str]:
    """The reference's files: name -> text."""
    return {name: (exercise.source / name).read_text(encoding="utf-8") for name in exercise.files}


def read(exercise: Exercise) -> tuple[Answer, ...]:
    """Every answer of an exercise, in the order of its `answers.py`.

    Raises:
        CourseError: the file is missing or does not parse, a decorator is not literal or names an
            unknown task or check, an edit changes nothing.
    """
    path = path_of(exercise)
    try:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text, str(path))
    except OSError as error:
        raise CourseError(f"{path}: cannot be read ({error.strerror})") from None
    except SyntaxError as error:
        raise CourseError(f"{path}, line {error.lineno}: {error.msg}") from None
    return tuple(_answers(exercise, path, text, tree))


def _answers(exercise: Exercise, path: Path, text: str, tree: ast.Module) -> Iterator[Answer]:
    module = exercise.files[0]
    originals = reference(exercise)
    defined = {
        node.name
        for node in ast.parse(originals[module]).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    declared = [(node, d) for node in tree.body for d in [_declaration(node)] if d is not None]
    shared = [
        node for node in tree.body if _declaration(node) is None and not _is_left_out(node, module)
    ]
    prelude = "\n\n".join(_segment(text, node) for node in shared)
    for node, call in declared:
        assert isinstance(node, ast.FunctionDef | ast.ClassDef)
        where = f"{path}, line {node.lineno}: {node.name}"
        values = _arguments(call, where)
        task = values["task"]
        if task not in {t.name for t in exercise.tasks}:
            raise CourseError(f"{where}: exercise.toml has no task {task}")
        is_right = ast.unparse(call.func) == "accepted"
        file = values.get("file") or module
        if file not in originals:
            raise CourseError(f"{where}: {file} is not a file of the exercise")
        if _is_edit(node):
            changed = _edited(node, shared, originals[file], where)
        else:
            name = task if task in defined else node.name
            changed = (
                f"{originals[file].rstrip()}\n\n\n{prelude}\n\n\n{_renamed(text, node, name)}\n"
            )
        yield Answer(
            name=node.name,
            task=task,
            is_right=is_right,
            by=_checks(exercise, task, values.get("by", ()), where),
            says=values.get("says", ""),
            line=node.lineno,
            files=originals | {file: changed},
        )


def _declaration(node: ast.stmt) -> ast.Call | None:
    """The `@accepted(…)` or `@rejected(…)` of a definition."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) in (
                "accepted",
                "rejected",
            ):
                return decorator
    return None


def _is_left_out(node: ast.stmt, module: str) -> bool:
    """Statements of `answers.py` that mean nothing in an answer's file."""
    if isinstance(node, ast.ImportFrom):
        return node.module in ("grader.answers", Path(module).stem, "__future__")
    return isinstance(node, ast.Expr)  # the docstring


def _arguments(call: ast.Call, where: str) -> dict[str, Any]:
    try:
        values: dict[str, Any] = {
            keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg
        }
        if call.args:
            values["task"] = ast.literal_eval(call.args[0])
    except ValueError:
        raise CourseError(f"{where}: the arguments of its decorator must be literals") from None
    known = {"task", "by", "says", "file"}
    if "task" not in values or set(values) - known:
        raise CourseError(f"{where}: its decorator takes a task, by, says and file")
    if ast.unparse(call.func) == "rejected" and not values.get("by"):
        raise CourseError(f"{where}: by= names the check that rejects it")
    return values


def _checks(
    exercise: Exercise, task: str, by: str | tuple[str, ...], where: str
) -> tuple[str, ...]:
    names = (by,) if isinstance(by, str) else tuple(by)
    own = {c.name.partition("::")[2]: c.name for c in exercise.checks if c.task == task}
    every = {check.name for check in exercise.checks}
    found = []
    for name in names:
        full = name if "::" in name else own.get(name, "")
        if full not in every:
            raise CourseError(f"{where}: {name} is no check of {task}")
        found.append(full)
    return tuple(found)


def _is_edit(node: ast.FunctionDef | ast.ClassDef) -> bool:
    if not isinstance(node, ast.FunctionDef):
        return False
    given = node.args
    return [a.arg for a in given.posonlyargs + given.args + given.kwonlyargs] == ["reference"]


def _edited(node: ast.stmt, shared: list[ast.stmt], original: str, where: str) -> str:
    """What an edit makes of the reference's text."""
    assert isinstance(node, ast.FunctionDef)
    space: dict[str, Any] = {"re": re}
    for statement in shared:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            continue  # torch is not needed to change a text, and takes seconds
        with contextlib.suppress(Exception):
            exec(compile(ast.Module([statement], []), where, "exec"), space)
    plain = copy.deepcopy(node)
    plain.decorator_list, plain.returns = [], None
    for argument in plain.args.args:
        argument.annotation = None
    exec(compile(ast.fix_missing_locations(ast.Module([plain], [])), where, "exec"), space)
    try:
        changed = space[node.name](original)
    except Exception as error:
        raise CourseError(f"{where}: the edit raises {type(error).__name__}: {error}") from None
    if not isinstance(changed, str) or changed == original:
        raise CourseError(f"{where}: the edit changes nothing in the reference")
    return changed


def _renamed(text: str, node: ast.FunctionDef | ast.ClassDef, name: str) -> str:
    """The definition with its own decorators, under another name."""
    segment = ast.get_source_segment(text, node) or ""
    keyword = "class" if isinstance(node, ast.ClassDef) else "def"
    segment = re.sub(rf"^{keyword}\s+{node.name}\b", f"{keyword} {name}", segment, count=1)
    kept = [
        f"@{ast.get_source_segment(text, decorator)}"
        for decorator in node.decorator_list
        if decorator is not _declaration(node)
    ]
    return "\n".join([*kept, segment])


def _segment(text: str, node: ast.stmt) -> str:
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
    return "\n".join(text.splitlines()[first - 1 : node.end_lineno])
