"""Imports run one way, down the floors."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import grader

ROOT = Path(grader.__file__).parent
WING = {"plugin", "worker", "guard", "loading", "testing"}
"""The rooms that run inside the worker, beside torch and pytest."""

FLOORS = {
    0: {"errors"},
    1: {"model", "files", "exercise_file", "regions", "bundle"},
    2: {"suite", "feedback", "roadmap", "records", "source", "terminal"},
    3: {"course", "history", "answers", "stubs", "runner", "console", "screens", "pages"},
    4: {"verdict", "catalogue", "doctor", "handout"},
    5: {"grading", "setup"},
    6: {"verify"},
    7: {"learner", "author"},
    8: {"cli"},
    9: {"__main__"},
}
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
ROOMS = sorted(p for p in ROOT.rglob("*.py") if p.name != "__init__.py" or p.parent != ROOT)


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The rooms that a file imports, at its head or inside a function."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "grader":
            names = [f"grader.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        rooms |= {name.split(".")[1] for name in names if name.startswith("grader.")}
    return rooms - {"__version__"}


@pytest.mark.parametrize("path", ROOMS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_room_imports_only_from_lower_floors(path):
    room = room_of(path)
    others = imported(path) - {room}
    if room in WING:
        # The wing stands on the ground floor and on itself.
        assert others <= WING | {"model", "errors", "exercise_file"}
        return

    assert room in FLOOR, f"{room} has no floor yet"
    assert not others & WING
    assert [o for o in others if FLOOR[o] >= FLOOR[room]] == []


@pytest.mark.parametrize("path", ROOMS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_only_the_wing_imports_torch_or_pytest(path):
    if room_of(path) in WING:
        return
    heavy = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        heavy |= {n for n in names if n.split(".")[0] in {"torch", "pytest", "_pytest", "numpy"}}

    assert heavy == set()


def test_the_command_starts_without_anything_heavy():
    code = (
        "import sys, grader.cli\n"
        "heavy = {'torch', 'pytest', 'numpy', 'jinja2', 'rich', 'nbformat', 'jupytext'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
