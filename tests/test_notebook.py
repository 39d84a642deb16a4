"""Notebooks and scripts are two forms of one answer, and nothing is lost on the way."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import grader
from grader import cli, notebook, runner, source, stubs
from grader import course as courses
from grader.errors import UsageError
from grader.model import Fault, Status

NAME = "exercises/day01/scaling.ipynb"


@pytest.fixture
def here(course, monkeypatch):
    monkeypatch.chdir(course.root)
    return course


@pytest.fixture(autouse=True)
def one_worker(monkeypatch, kept, fixture_exercise):
    """Gradings of this file share a worker: what is tested is which file they are about."""
    kept.start(fixture_exercise, "auto")
    monkeypatch.setattr(runner, "cold", kept.start)


def made(exercise, text, **options):
    return notebook.of(exercise, text, "# Scaling\n\nThe statement.\n", **options)


def with_cells(*cells):
    """A notebook of code cells; a pair is a code cell and its tags."""
    return {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {},
        "cells": [
            {
                "cell_type": "code",
                "id": f"c{number}",
                "metadata": {"tags": cell[1]} if isinstance(cell, tuple) else {},
                "source": cell[0] if isinstance(cell, tuple) else cell,
                "outputs": [],
                "execution_count": None,
            }
            for number, cell in enumerate(cells)
        ],
    }


def text_of(*cells):
    return notebook.module_of(with_cells(*cells), NAME).text


def write(exercise, nb, newer=True):
    path = notebook.path_of(exercise)
    path.write_text(json.dumps(nb), encoding="utf-8")
    other = exercise.submission.stat().st_mtime_ns
    moment = other + (1_000_000_000 if newer else -1_000_000_000)
    os.utime(path, ns=(moment, moment))
    return path


# From a script


def test_a_notebook_is_the_statement_the_head_a_cell_a_task_and_the_check(exercise, reference):
    nb = made(exercise, reference)

    assert [(c["cell_type"], c["id"]) for c in nb["cells"]] == [
        ("markdown", "statement"),
        ("code", "head"),
        ("code", "task-double"),
        ("code", "task-triple"),
        ("code", "check"),
    ]
    assert nb["cells"][2]["source"].startswith("def double(x: Tensor)")
    assert nb["cells"][-1]["source"] == 'import grader\n\ngrader.check("day01")'


def test_its_file_is_a_notebook_of_the_format_4_5(exercise, reference):
    text = notebook.dumps(made(exercise, reference))

    read = nbformat.reads(text, as_version=nbformat.NO_CONVERT)
    nbformat.validate(read)
    assert (read.nbformat, read.nbformat_minor) == (4, 5)


def test_ids_stay_when_an_answer_grows(exercise, reference):
    longer = reference.replace("def triple", "def helper():\n    pass\n\n\ndef triple")

    ids = [[c["id"] for c in made(exercise, text)["cells"]] for text in (reference, longer)]

    assert ids[0] == ids[1]


def test_cells_carry_the_metadata_of_nbgrader(exercise, reference):
    cells = {c["id"]: c["metadata"]["nbgrader"] for c in made(exercise, reference)["cells"]}

    assert {tuple(sorted(m)) for m in cells.values()} == {
        ("grade", "grade_id", "locked", "schema_version", "solution", "task")
    }
    assert {m["schema_version"] for m in cells.values()} == {3}
    assert [id for id, m in cells.items() if m["solution"]] == ["task-double", "task-triple"]
    assert [id for id, m in cells.items() if m["locked"]] == ["statement", "check"]


def test_a_class_has_a_graded_locked_cell_after_each_task(exercise, reference):
    cells = made(exercise, reference, has_checks=True)["cells"]

    graded = [c for c in cells if c["metadata"]["nbgrader"]["grade"]]
    assert [c["id"] for c in cells][2:] == [
        "task-double",
        "check-double",
        "task-triple",
        "check-triple",
    ]
    assert [c["metadata"]["nbgrader"]["points"] for c in graded] == [50, 50]
    assert all(c["metadata"]["nbgrader"]["locked"] for c in graded)
    assert graded[0]["source"].endswith('grader.check("day01", task="double").points')


def test_a_task_without_its_todos_is_known_by_its_definition(exercise):
    text = "import torch\n\ndef triple(x):\n    return 3 * x\n\ndef double(x):\n    return 2 * x\n"

    ids = [c["id"] for c in made(exercise, text)["cells"]]

    assert ids[1:-1] == ["head", "task-triple", "task-double"]


def test_decorators_and_the_comment_above_belong_to_a_task(exercise):
    text = (
        "import torch\n\n\n# About doubling.\n@torch.no_grad()\ndef double(x):\n    return 2 * x\n"
    )

    cells = made(exercise, text)["cells"]

    assert cells[2]["source"] == text.split("\n\n\n")[1].rstrip()


def test_a_region_of_the_module_itself_is_a_cell(exercise):
    text = "X = 1\n\n# TODO 1: say Y\n# END TODO\n\n\ndef triple(x):\n    return Y\n"

    cells = made(exercise, text)["cells"]

    assert [c["id"] for c in cells][1:-1] == ["head", "task-double", "task-triple"]
    assert cells[2]["source"] == "# TODO 1: say Y\n# END TODO"


def test_a_script_that_does_not_parse_is_one_cell(exercise):
    text = "def double(x:\n    return\n\ndef triple(x):\n    pass\n"

    cells = made(exercise, text)["cells"]

    assert [c["source"] for c in cells][1:-1] == [text.rstrip()]


# There and back


CODE = st.sampled_from(
    [
        "",
        "",
        "\n",
        "import torch\n",
        "# TODO 1: words\n",
        "# END TODO\n",
        "def double(x):\n    return (x\n     % 2)\n",
        "def triple(x):\n    # TODO 2: words\n    ...\n    # END TODO\n",
        "class double:\n    # TODO 1: x\n    # END TODO\n",
        "# a comment\n",
        "@staticmethod\n",
        "text = '''\n%time\n\n!ls\n'''\n",
        "x = 1;  \n",
        "\x0c\n",
        "   \n",
        "no python (",
    ]
)


@settings(max_examples=300, deadline=None)
@given(parts=st.lists(CODE, max_size=9))
def test_a_script_comes_back_from_its_notebook_as_it_was(fixture_exercise, parts):
    text = "".join(parts)

    back = notebook.module_of(made(fixture_exercise, text), NAME).text

    assert back == text


@pytest.mark.parametrize("id", courses.read(courses.installed()).ids)
def test_every_stub_and_reference_comes_back_as_it_was(id):
    exercise = courses.read(courses.installed()).exercise(id)
    name = exercise.files[0]
    original = (exercise.source / name).read_text(encoding="utf-8")

    for text in (original, stubs.of(exercise)[name]):
        nb = made(exercise, text)
        nbformat.validate(nbformat.from_dict(nb))
        assert notebook.module_of(nb, NAME).text == text
        tasks = [c["id"] for c in nb["cells"] if c["id"].startswith("task-")]
        assert tasks, "no task has a cell"


def test_cells_of_the_learners_own_stay_where_they_were(exercise, reference):
    old = made(exercise, reference)
    own = {"cell_type": "markdown", "id": "mine", "metadata": {}, "source": "I think"}
    play = with_cells(("print(1)", ["scratch"]))["cells"][0]
    old["cells"].insert(3, own)
    old["cells"].insert(4, play)
    old["cells"].insert(0, own | {"id": "first"})
    old["cells"][2]["outputs"] = ["kept"]

    new = notebook.updated(made(exercise, reference.replace("x * 2", "x + x")), old)

    ids = [c["id"] for c in new["cells"]]
    assert ids == [
        "first",
        "statement",
        "head",
        "task-double",
        "mine",
        "c0",
        "task-triple",
        "check",
    ]
    assert [c["outputs"] for c in new["cells"] if c["id"] == "head"] == [["kept"]]


# What of a cell is code


def test_code_cells_are_joined_in_their_order():
    assert text_of("import torch", "def f():\n    pass", "x = 1") == (
        "import torch\n\n\ndef f():\n    pass\n\n\nx = 1\n"
    )


def test_scratch_cells_and_empty_ones_are_left_out():
    assert text_of("x = 1", ("x = 2", ["scratch"]), "", "y = 1") == "x = 1\n\n\ny = 1\n"


@pytest.mark.parametrize(
    ("cell", "code"),
    [
        ("%matplotlib inline\nx = 1", "# %matplotlib inline\nx = 1"),
        ("!pip list\nx = 1", "# !pip list\nx = 1"),
        ("torch.einsum?", "# torch.einsum?"),
        ("?torch", "# ?torch"),
        ("%%time\nx = 1", "# %%time\nx = 1"),
        ("%%bash\nls\n", "# %%bash\n# ls\n#"),
        ("if x:\n    %time f()", "if x:\n    pass  # %time f()"),
        ("%time f()\ny = (7\n  % 2)", "# %time f()\ny = (7\n  % 2)"),
        ("%time f()\ny = 7 \\\n  % 2", "# %time f()\ny = 7 \\\n  % 2"),
        ("%time f()\ny = '''\n!a\n'''", "# %time f()\ny = '''\n!a\n'''"),
        ("y = 7\ny % 2", "y = 7\ny % 2"),
    ],
)
def test_what_only_ipython_understands_becomes_a_comment(cell, code):
    assert text_of(cell) == f"{code}\n"


def test_lines_are_where_they_were_in_their_cell():
    module = notebook.module_of(with_cells("%pylab\na = 1", "b = 1\nc = 1"), NAME)
    lines = module.text.split("\n")

    assert [(c.display, lines[c.first - 1 : c.first - 1 + c.count]) for c in module.cells] == [
        (f"{NAME}, cell 1", ["# %pylab", "a = 1"]),
        (f"{NAME}, cell 2", ["b = 1", "c = 1"]),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json",
        "[]",
        "{}",
        '{"nbformat": 4}',
        '{"nbformat": "x", "cells": []}',
        '{"nbformat": 4, "cells": [1]}',
        '{"nbformat": 4, "cells": [{"cell_type": "code", "source": 3}]}',
        '{"nbformat": 4, "cells": [{"cell_type": "code", "source": [3]}]}',
        "[" * 100_000,
    ],
)
def test_what_is_no_notebook_is_said_to_be_none(tmp_path, text):
    path = tmp_path / "x.ipynb"
    path.write_text(text, encoding="utf-8")

    found = notebook.load(path, "x.ipynb")

    assert isinstance(found, Fault)
    assert "is no notebook that Jupyter could open" in found.text


@pytest.mark.parametrize(
    "metadata", [None, [], {"tags": 1}, {"torch28": 1}, {"torch28": {"blank": -1}}]
)
def test_odd_metadata_is_nobodys_problem(tmp_path, metadata):
    nb = with_cells("x = 1", "y = 1")
    nb["cells"][0]["metadata"] = metadata
    path = tmp_path / "x.ipynb"
    path.write_text(json.dumps(nb), encoding="utf-8")

    found = notebook.load(path, "x.ipynb")

    assert isinstance(found, dict)
    assert notebook.module_of(found, "x.ipynb").text == "x = 1\n\n\ny = 1\n"


@pytest.mark.filterwarnings("ignore")
def test_a_notebook_of_the_third_format_is_read(tmp_path):
    old = nbformat.v3.new_notebook(
        worksheets=[nbformat.v3.new_worksheet(cells=[nbformat.v3.new_code_cell("x = 1")])]
    )
    path = tmp_path / "old.ipynb"
    path.write_text(nbformat.v3.writes_json(old), encoding="utf-8")

    found = notebook.load(path, "old.ipynb")

    assert notebook.module_of(found, "old.ipynb").text == "x = 1\n"


# Grading


def graded(exercise, course, nb, kept):
    from grader import grading

    path = write(exercise, nb)
    submission = notebook.read(exercise, path, course.root)
    return grading.grade(
        replace(exercise), submission, grading.Options(cpu_seconds=2), backend=kept.start
    )


def test_a_notebook_is_graded_as_its_script_would_be(exercise, course, reference, kept, grade):
    wrong = reference.replace("x * 2", "x * 3")

    by_notebook = graded(exercise, course, made(exercise, wrong), kept)
    by_script = grade(wrong)

    assert [(o.check.name, o.status, o.message) for o in by_notebook.outcomes] == [
        (o.check.name, o.status, o.message) for o in by_script.outcomes
    ]
    assert by_notebook.files == by_script.files
    assert by_notebook.score == by_script.score


def test_an_error_names_the_cell_and_the_line_in_it(exercise, course, reference, kept):
    wrong = reference.replace("return x * 2", "y = x\n    return y.nothing")

    attempt = graded(exercise, course, made(exercise, wrong), kept)

    outcome = attempt.outcomes[0]
    source_of_cell = made(exercise, wrong)["cells"][2]["source"].split("\n")
    line = outcome.lines[-1]
    assert outcome.status is Status.ERROR
    assert line.file == f"{NAME}, cell 3"
    assert source_of_cell[line.number - 1].strip() == "return y.nothing"
    assert f'File "{NAME}, cell 3", line {line.number}' in outcome.traceback


def test_a_notebook_that_does_not_import_names_the_cell(exercise, course, kept):
    attempt = graded(exercise, course, with_cells("x = 1", "y = 2\nz = nothing"), kept)

    assert attempt.fault is not None
    assert (attempt.fault.file, attempt.fault.line) == (f"{NAME}, cell 2", 2)
    assert [line.text for line in attempt.fault.source] == ["y = 2", "z = nothing"]


def test_a_bracket_left_open_is_found_in_its_own_cell(exercise, course):
    path = write(exercise, with_cells("x = (1,", "y = 2)"))

    found = notebook.read(exercise, path, course.root)

    assert found.fault is not None
    assert (found.fault.file, found.fault.line) == (f"{NAME}, cell 1", 1)
    assert "never closed" in found.fault.text


def test_open_todos_are_counted_within_their_cell(exercise, course):
    path = write(exercise, made(exercise, stubs.of(exercise)["scaling.py"]))

    found = notebook.read(exercise, path, course.root)

    assert found.open_tasks == ("double", "triple")
    assert [line.file for _, line in found.todos] == [f"{NAME}, cell 3", f"{NAME}, cell 4"]
    cell = made(exercise, stubs.of(exercise)["scaling.py"])["cells"][2]["source"].split("\n")
    assert cell[found.todos[0][1].number - 1].strip().startswith("# TODO 1")


def test_a_region_that_nbgrader_cleared_is_open(exercise, course):
    text = "def double(x):\n    # TODO 1: double\n    ...\n    # END TODO\n"

    found = source.of(exercise, {"scaling.py": text}, {"scaling.py": "scaling.py"})

    assert found.open_tasks == ("double",)


# The commands


def run(capsys, *words):
    code = cli.main(list(words))
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_newer_of_script_and_notebook_is_graded_and_named(here, exercise, reference, capsys):
    exercise.submission.write_text(reference, encoding="utf-8")
    write(exercise, made(exercise, reference.replace("x * 2", "x * 3")))
    code, _, err = run(capsys, "day01")
    assert (code, err) == (
        1,
        "grade: scaling.ipynb is newer than scaling.py, so it is what is graded\n",
    )

    write(exercise, made(exercise, reference.replace("x * 2", "x * 3")), newer=False)
    code, _, err = run(capsys, "day01")
    assert (code, err) == (
        0,
        "grade: scaling.py is newer than scaling.ipynb, so it is what is graded\n",
    )


def test_nothing_is_said_where_both_have_the_same_code(here, exercise, reference, capsys):
    exercise.submission.write_text(reference, encoding="utf-8")
    write(exercise, made(exercise, reference))

    code, _, err = run(capsys, "day01")

    assert (code, err) == (0, "")


def test_a_file_that_is_named_is_graded_whatever_is_newer(here, exercise, reference, capsys):
    exercise.submission.write_text(reference, encoding="utf-8")
    write(exercise, made(exercise, reference.replace("x * 2", "x * 3")))

    assert run(capsys, "exercises/day01/scaling.py")[0] == 0
    code, out, _ = run(capsys, NAME)
    assert code == 1
    assert "1.1" in out


def test_a_notebook_that_is_named_and_missing_is_said_to_be(here, capsys):
    code, out, _ = run(capsys, NAME)

    assert code == 1
    assert f"{NAME} does not exist" in out


def test_a_notebook_is_written_from_the_script(here, exercise, reference, capsys):
    exercise.submission.write_text(reference, encoding="utf-8")

    code, out, _ = run(capsys, "notebook", "day01")

    assert (code, out) == (0, f"Written: {NAME}, from scaling.py\n")
    nb = notebook.load(notebook.path_of(exercise), NAME)
    assert notebook.module_of(nb, NAME).text == reference
    assert "# Scaling\n" in nb["cells"][0]["source"]


def test_a_script_is_written_from_the_notebook_and_the_old_one_kept(
    here, exercise, reference, capsys
):
    exercise.submission.write_text("mine = 1\n", encoding="utf-8")
    write(exercise, made(exercise, reference))

    code, out, _ = run(capsys, "notebook", "day01", "--to-script")

    assert code == 0
    assert "grade history day01 --restore s1" in out
    assert exercise.submission.read_text(encoding="utf-8") == reference
    run(capsys, "history", "day01", "--restore", "s1", "-y")
    assert exercise.submission.read_text(encoding="utf-8") == "mine = 1\n"


def test_a_newer_notebook_is_not_replaced_unasked(here, exercise, reference, capsys):
    exercise.submission.write_text("mine = 1\n", encoding="utf-8")
    path = write(exercise, made(exercise, reference))
    before = path.read_bytes()

    code, _, err = run(capsys, "notebook", "day01")

    assert code == 2
    assert "grade notebook day01 -y goes ahead" in err
    assert path.read_bytes() == before

    assert run(capsys, "notebook", "day01", "-y")[0] == 0
    assert "mine = 1" in path.read_text(encoding="utf-8")
    run(capsys, "history", "day01", "--restore", "s1", "-y")
    assert path.read_bytes() == before


def test_what_is_no_notebook_is_never_replaced(here, exercise, reference, capsys):
    notebook.path_of(exercise).write_text("my notes", encoding="utf-8")

    for words in (["notebook", "day01", "-y"], ["notebook", "day01", "--to-script", "-y"]):
        assert run(capsys, *words)[0] == 2
    assert notebook.path_of(exercise).read_text(encoding="utf-8") == "my notes"


def test_there_is_no_script_without_a_notebook(here, capsys):
    code, _, err = run(capsys, "notebook", "day01", "--to-script")

    assert code == 2
    assert f"{NAME} does not exist" in err


# grader.check


def test_check_shows_what_the_command_would_have_printed(here, exercise, reference, capsys):
    exercise.submission.write_text(reference.replace("x * 2", "x * 3"), encoding="utf-8")

    result = grader.check("day01")

    assert not result.passed
    assert result.points == 0
    assert "Fix first: 1.1" in repr(result)
    html = result._repr_html_()
    assert "exercises/day01/scaling.py, as it was saved at" in html
    assert "Fix first: 1.1" in html
    assert capsys.readouterr() == ("", "")
    assert (here.reports / "day01.html").is_file()


def test_check_takes_the_notebook_of_the_folder_it_is_called_in(
    here, exercise, reference, monkeypatch
):
    exercise.submission.write_text("broken (", encoding="utf-8")
    write(exercise, made(exercise, reference))
    monkeypatch.chdir(exercise.folder)

    result = grader.check("day1")

    assert result.passed
    assert result.points == 100
    assert result.file == NAME


def test_check_counts_one_task_and_grades_the_file_once(
    here, exercise, reference, monkeypatch, kept
):
    exercise.submission.write_text(reference.replace("double(x) + x", "x"), encoding="utf-8")
    starts = []
    monkeypatch.setattr(runner, "cold", lambda *a: starts.append(a) or kept.start(*a))
    grader.check("day01")

    assert grader.check("day01", task="double").points == 50
    assert grader.check("day01", task=2).points == 0
    assert grader.check("day01", task="double").passed
    assert not grader.check("day01", task=2).passed
    assert len(starts) == 1


def test_check_works_outside_of_any_course_and_leaves_nothing_behind(
    tmp_path, reference, monkeypatch, course
):
    monkeypatch.setattr(courses, "installed", lambda: course.root)
    folder = tmp_path / "autograded" / "day01"
    folder.mkdir(parents=True)
    (folder / "scaling.py").write_text(reference, encoding="utf-8")
    monkeypatch.chdir(folder)

    assert grader.check("day01").points == 100
    assert [path.name for path in folder.iterdir()] == ["scaling.py"]


def test_check_says_what_it_looks_for(tmp_path, monkeypatch, course):
    monkeypatch.setattr(courses, "installed", lambda: course.root)
    monkeypatch.chdir(tmp_path)

    with pytest.raises(UsageError, match=r"neither scaling\.ipynb nor scaling\.py"):
        grader.check("day01")
    with pytest.raises(UsageError, match="there is no exercise or command day99"):
        grader.check("day99")


def test_what_is_shown_cannot_break_out_of_the_page(here, exercise, reference):
    wrong = reference.replace("return x * 2", "raise ValueError('<script>alert(1)</script>')")
    exercise.submission.write_text(wrong, encoding="utf-8")

    html = grader.check("day01")._repr_html_()

    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_a_file_that_does_not_load_is_shown_with_its_lines(here, exercise):
    write(exercise, with_cells("x = 1", "def f(:"))

    html = grader.check("day01")._repr_html_()

    assert f"{NAME}, cell 2:1" in html
    assert "def f(:" in html


def test_an_untouched_stub_is_said_to_be_not_started(here):
    assert "all 2 TODOs are open" in grader.check("day01")._repr_html_()
