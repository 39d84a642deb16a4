"""The wheel, built and installed: a course in an empty folder, far from the repository."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.wheel,
    pytest.mark.skipif(
        not importlib.util.find_spec("hatchling") or not importlib.util.find_spec("pip"),
        reason="building the wheel needs hatchling and pip",
    ),
]


def run(*command, cwd, **variables):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=environment | {"GRADE_NO_SERVER": "1"} | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def grade(tmp_path_factory):
    """The path of `grade` in a new environment with the wheel, and torch and the rest lent."""
    folder = tmp_path_factory.mktemp("wheel")
    built = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    home = folder / "environment"
    venv.create(home, with_pip=False, symlinks=True)
    (lent,) = home.glob("lib/python*/site-packages")
    (lent / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    # The lent environment may have the project itself, installed for development.
    options = ["install", "-q", "--no-deps", "--no-index", "--ignore-installed"]
    options += ["--disable-pip-version-check"]
    installed = run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        home / "bin" / "python",
        *options,
        wheel,
        cwd=folder,
    )
    assert installed.returncode == 0, installed.stderr
    return home / "bin" / "grade"


def test_a_course_from_the_wheel_grades_its_exercises(grade, tmp_path):
    course = tmp_path / "learning"

    begun = run(grade, "init", course, cwd=tmp_path)
    assert begun.returncode == 0, begun.stderr
    assert "grade day00" in begun.stdout

    status = run(grade, "status", cwd=course)
    assert status.returncode == 0, status.stderr
    assert "Broadcasting" in status.stdout

    untouched = run(grade, "day03", cwd=course)
    assert untouched.returncode == 1, untouched.stderr

    answer = ROOT / "solutions" / "day03" / "broadcasting.py"
    text = answer.read_text(encoding="utf-8")
    (course / "exercises" / "day03" / "broadcasting.py").write_text(text, encoding="utf-8")
    graded = run(grade, "day03", "--task", "1", cwd=course)
    assert graded.returncode == 0, graded.stdout + graded.stderr
    assert (course / "reports" / "day03.html").is_file()
    assert (course / "reports" / "index.html").is_file()


def test_the_toolkit_of_day_00_is_importable(grade, tmp_path):
    python = grade.with_name("python")
    code = "import torch_playground, grader; print(torch_playground.__file__, grader.__file__)"

    found = run(python, "-c", code, cwd=tmp_path)

    assert found.returncode == 0, found.stderr
    assert str(grade.parents[1]) in found.stdout
    assert str(ROOT) not in found.stdout
