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

PRELOADED = {"server.base", "server.oneshot", "server.spare", "server.zygote"}
"""The server's own processes, which hold both sides and so may import both."""

FLOORS = (
    {"errors", "model", "exercise_file", "processes", "server.place"},
    {"answers", "bundle", "feedback", "files", "regions", "runner", "server.client", "suite"},
    {
        "course",
        "records",
        "roadmap",
        "serve",
        "server.start",
        "server.warm",
        "stubs",
        "terminal",
    },
    {"source"},
    {"carry", "catalogue", "console", "history", "notebook", "pages", "selection"},
    {"handout", "screens", "verdict"},
    {"grading", "release"},
    {"assignments", "batch", "preview", "verify"},
    {"author", "doctor", "learner"},
    {"live", "setup", "update", "watch"},
    {"cli"},
    {"server.rehearsal"},
    {"entry", "server.session"},
    {"__main__"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
ROOMS = sorted(p for p in ROOT.rglob("*.py") if p.name != "__init__.py")


def room_of(path: Path) -> str:
    """`runner` for `grader/runner.py`; a package is one room, but for the server's processes."""
    first, *rest = path.relative_to(ROOT).parts
    return (
        f"server.{rest[0]}".removesuffix(".py") if first == "server" else first.removesuffix(".py")
    )


def imported(path: Path) -> set[str]:
    """The rooms that a file imports, at its head or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module in ("grader", "grader.server"):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    parts = [name.split(".") for name in names if name.startswith("grader.")]
    return {".".join(p[1:3]) if p[1] == "server" else p[1] for p in parts} - {"__version__"}


@pytest.mark.parametrize("path", ROOMS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_room_imports_only_from_lower_floors(path):
    room = room_of(path)
    others = imported(path) - {room}
    if room in PRELOADED:
        return
    if room in WING:
        # The wing stands on the ground floor and on itself.
        assert others <= WING | {"model", "errors", "exercise_file", "processes"}
        return

    assert room in FLOOR, f"{room} has no floor yet"
    assert not others & (WING | PRELOADED) or room == "server.session"
    assert [o for o in others - PRELOADED - WING if FLOOR[o] >= FLOOR[room]] == []


@pytest.mark.parametrize("path", ROOMS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_only_the_wing_imports_torch_or_pytest(path):
    if room_of(path) in WING | PRELOADED:
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
        "import sys, grader.cli, grader.entry\n"
        "heavy = {'torch', 'pytest', 'numpy', 'jinja2', 'rich', 'nbformat', 'jupytext'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
