"""A real kernel and a real nbgrader; run by `tox -e notebook`, which installs both."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from grader import assignments, exercise_file, notebook
from grader import course as course_module

pytestmark = pytest.mark.notebook

ROOT = Path(__file__).parents[1]


def needs(*names):
    missing = [name for name in names if not importlib.util.find_spec(name)]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)}: not installed")


def run(*command, cwd):
    folders = {name: str(cwd) for name in ("HOME", "JUPYTER_DATA_DIR", "IPYTHONDIR")}
    # nbgrader calls `alembic` by its name.
    folders["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=os.environ | folders | {"GRADE_NO_SERVER": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )


@needs("nbclient", "ipykernel")
def test_the_last_cell_grades_in_a_real_kernel_and_shows_the_result(course, exercise, reference):
    wrong = reference.replace("double(x) + x", "double(x)")
    path = notebook.path_of(exercise)
    path.write_text(notebook.dumps(notebook.of(exercise, wrong, "# Scaling")), encoding="utf-8")
    code = (
        "import nbformat, nbclient, sys\n"
        "nb = nbformat.read(sys.argv[1], as_version=4)\n"
        "nbclient.NotebookClient(nb, kernel_name='python3').execute(cwd=sys.argv[2])\n"
        "nbformat.write(nb, sys.argv[3])\n"
    )
    ran = exercise.folder / "ran.ipynb"

    done = run("-c", code, path, exercise.folder, ran, cwd=course.root)

    assert done.returncode == 0, done.stderr
    last = nbformat.read(ran, as_version=4).cells[-1]
    (shown,) = last.outputs
    assert shown.output_type == "execute_result"
    assert "2 of 3 checks pass, 50/100 points" in shown.data["text/html"]
    assert "exercises/day01/scaling.ipynb, cell 4" in shown.data["text/plain"]
    assert (course.reports / "day01.html").is_file()


@needs("nbgrader", "ipykernel")
def test_nbgrader_validates_and_generates_an_exported_course(tmp_path):
    exercise = course_of_the_repository().exercise("day03")
    assignments.write([exercise], tmp_path)
    source = tmp_path / "source" / "day03" / "broadcasting.ipynb"

    validated = run("-m", "nbgrader", "validate", source, cwd=tmp_path)
    assert validated.returncode == 0, validated.stderr
    assert "Success! Your notebook passes all the tests." in validated.stdout

    generated = run("-m", "nbgrader", "generate_assignment", "day03", cwd=tmp_path)
    assert generated.returncode == 0, generated.stderr
    released = tmp_path / "release" / "day03" / "broadcasting.ipynb"
    found = notebook.module_of(json.loads(released.read_text(encoding="utf-8")), "x").text
    tasks = {todo.task for todo in exercise_file.todos(found)}
    assert tasks == {task.number for task in exercise.tasks}
    assert "SOLUTION" not in released.read_text(encoding="utf-8")

    failed = run("-m", "nbgrader", "validate", released, cwd=tmp_path)
    assert "Success! Your notebook passes all the tests." not in failed.stdout

    submitted = tmp_path / "submitted" / "someone" / "day03" / "broadcasting.ipynb"
    submitted.parent.mkdir(parents=True)
    submitted.write_text(half_solved(exercise, released), encoding="utf-8")
    graded = run("-m", "nbgrader", "autograde", "day03", cwd=tmp_path)
    assert graded.returncode == 0, graded.stderr
    export = run("-m", "nbgrader", "export", "--to", "grades.csv", cwd=tmp_path)
    assert export.returncode == 0, export.stderr
    header, row = (tmp_path / "grades.csv").read_text(encoding="utf-8").splitlines()[:2]
    grade = dict(zip(header.split(","), row.split(","), strict=True))
    first = exercise.tasks[0].points
    assert (float(grade["score"]), float(grade["max_score"])) == (first, 100.0)


def course_of_the_repository():
    return course_module.read(ROOT)


def half_solved(exercise, released):
    """The students' version with the answer to the first task."""
    nb = json.loads(released.read_text(encoding="utf-8"))
    answer = (exercise.source / exercise.files[0]).read_text(encoding="utf-8")
    cells = {c["id"]: c for c in notebook.of(exercise, answer, "")["cells"]}
    name = f"task-{exercise.tasks[0].name}"
    for cell in nb["cells"]:
        if cell["id"] == name:
            cell["source"] = cells[name]["source"]
    return json.dumps(nb)
