"""Many files at once: a line each, in their order, and nothing recorded."""

from __future__ import annotations

import json

import pytest

from grader import cli


@pytest.fixture
def class_of(course, reference, tmp_path, monkeypatch):
    """Four papers outside of the course: right, wrong, no Python, deadly."""
    bodies = {
        "ann": "return x * 2",
        "bob": "return x * 5",
        "cy": "return x * (",
        "dee": "import os; os._exit(0)",
    }
    paths = []
    for name, body in bodies.items():
        folder = tmp_path / "papers" / name
        folder.mkdir(parents=True)
        path = folder / "scaling.py"
        path.write_text(reference.replace("return x * 2", body), encoding="utf-8")
        paths.append(str(path))
    monkeypatch.chdir(course.root)
    return paths


def test_each_paper_is_one_line_in_its_order(course, class_of, capsys):
    assert cli.main(class_of) == 1
    lines = capsys.readouterr().out.splitlines()

    assert ["ann" in lines[0], "bob" in lines[1], "cy" in lines[2], "dee" in lines[3]] == [True] * 4
    assert "3 of 3 checks  100/100" in lines[0]
    assert "0/100" in lines[1]
    assert "does not load" in lines[2]
    assert len(lines) == 4
    assert not (course.reports / "history.db").exists()


def test_a_class_of_right_answers_is_exit_code_0(class_of, capsys):
    assert cli.main([class_of[0], class_of[0]]) == 0


def test_a_class_as_json(class_of, capsys):
    cli.main([*class_of[:2], "--json"])
    document = json.loads(capsys.readouterr().out)

    assert [r["points"]["earned"] for r in document["results"]] == [100, 0]


@pytest.mark.parametrize(
    ("options", "points"),
    [(["--task", "2"], "50/50"), (["--check", "2.1"], "50/50"), (["--task", "triple"], "50/50")],
)
def test_a_task_or_a_check_may_be_chosen_for_all_papers(class_of, capsys, options, points):
    cli.main([class_of[0], *options])
    chosen = capsys.readouterr().out

    assert "3 of 3 checks" not in chosen
    assert points in chosen


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--task", "7"], "day01 has no task 7"),
        (["--check", "9.9"], "day01 has no check 9.9"),
        (["--failed"], "--failed goes by the last attempt"),
        (["--failed-first"], "--failed-first goes by the last attempt"),
    ],
)
def test_an_option_that_means_nothing_for_papers_is_one_line(class_of, capsys, options, says):
    assert cli.main([*class_of[:2], *options]) == 2
    error = capsys.readouterr().err

    assert says in error
    assert error.count("\n") == 1


def test_a_name_of_no_module_is_one_line(course, tmp_path, monkeypatch, capsys):
    path = tmp_path / "homework.py"
    path.write_text("")
    monkeypatch.chdir(course.root)

    assert cli.main([str(path)]) == 2
    assert "no exercise has a module of this name" in capsys.readouterr().err
