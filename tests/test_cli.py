"""The command line: words to one command, errors in one place, exit codes that can be relied on."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from grader import cli, files, grading, learner, stubs, terminal
from grader.errors import CourseError, EnvironmentFault
from grader.history import History
from grader.learner import Choice
from grader.model import Message, Outcome, Status, Verdict
from tests import samples

ROOT = Path(__file__).parents[1]


@pytest.fixture
def here(course, monkeypatch):
    """A course of the ids day01 to day03, day08 and lecture01, each a copy of the fixture's."""
    for id, track in [
        ("day02", "roadmap"),
        ("day03", "roadmap"),
        ("day08", "roadmap"),
        ("lecture01", "lecture"),
    ]:
        folder = course.solutions_folder / id
        folder.mkdir()
        for path in (course.solutions_folder / "day01").iterdir():
            if path.is_file():
                text = path.read_text(encoding="utf-8")
                text = text.replace('track = "roadmap"', f'track = "{track}"')
                (folder / path.name).write_text(text, encoding="utf-8")
    vars(course).pop("ids", None)
    for exercise in course.exercises():
        exercise.folder.mkdir(parents=True, exist_ok=True)
        for name, text in stubs.of(exercise).items():
            (exercise.folder / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(course.root)
    for variable in ("NO_COLOR", "FORCE_COLOR", "GRADE_PLAIN"):
        monkeypatch.delenv(variable, raising=False)
    return course


class Engine:
    """Stands in for grading: each check ends as the test says."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, grading.Options]] = []
        self.statuses: dict[str, Status] = {}
        self.error: BaseException | None = None
        self.error_after = 0

    def grade(self, exercise, submission, options, on_start, on_outcome, backend=None):
        self.calls.append((exercise.id, options))
        attempt = samples.attempt(
            (), exercise=exercise.id, files=submission.files, open_tasks=submission.open_tasks
        )
        if submission.fault:
            return replace(attempt, verdict=Verdict.ERROR, fault=submission.fault)
        if len(submission.open_tasks) == len(exercise.tasks):
            return replace(attempt, verdict=Verdict.NOT_STARTED)
        on_start(samples.ENVIRONMENT)
        outcomes = []
        checks = grading.select(exercise, options)
        for place, check in enumerate(checks):
            if self.error is not None and place == self.error_after:
                raise self.error
            status = self.statuses.get(check.number, Status.PASSED)
            text = f"{check.number} is wrong" if status.is_mistake else ""
            message = Message("x", text) if text else None
            outcomes.append(Outcome(check, status, 0.01, message=message))
            on_outcome(outcomes[-1])
        passed = all(o.status.earns or o.status is Status.SKIPPED for o in outcomes)
        return replace(
            attempt,
            outcomes=tuple(outcomes),
            verdict=Verdict.PASSED if passed else Verdict.FAILED,
            selected=len(checks) < len(exercise.checks),
        )


@pytest.fixture
def engine(monkeypatch) -> Iterator[Engine]:
    stand_in = Engine()
    monkeypatch.setattr(grading, "grade", stand_in.grade)
    return stand_in


def answer(course, id="day01"):
    """Write an answer to an exercise."""
    exercise = course.exercise(id)
    exercise.submission.write_text(
        "def double(x):\n    return 2 * x\n\n\ndef triple(x):\n    return 3 * x\n", encoding="utf-8"
    )
    return exercise


def kept(course, id="day01"):
    with History.open(course.reports / "history.db") as history:
        return history.attempts(id)


# Words


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        (["day02"], ["day02"]),
        (["day2"], ["day02"]),
        (["Day02", "day01"], ["day02", "day01"]),
        (["day01-day03"], ["day01", "day02", "day03"]),
        (["day02-day08", "day03"], ["day02", "day03", "day08"]),
        (["week1"], ["day01", "day02", "day03"]),
        (["week2"], ["day08"]),
        (["lecture"], ["lecture01"]),
        (["all"], ["day01", "day02", "day03", "day08", "lecture01"]),
        (["next"], ["day01"]),
        (["exercises/day03/scaling.py"], ["day03"]),
        (["exercises/day03"], ["day03"]),
        (["day01", "day01"], ["day01"]),
    ],
)
def test_words_name_exercises(here, engine, words, ids):
    cli.main(["--no-report", *words])

    assert [id for id, _ in engine.calls] == ids


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["day99"], "there is no exercise or command day99; did you mean"),
        (["dya01"], "did you mean day01"),
        (["statsu"], "did you mean status"),
        (["histry"], "did you mean history"),
        (["xyzzy"], "the course has day01 to lecture01"),
        (["day03-day01"], "runs backwards"),
        (["week4"], "did you mean week"),
        (["elsewhere/x.py"], "lies in no exercise's folder"),
        (["hint", "dya01"], "did you mean day01"),
        (["hint", "day01", "--check", "1.9"], "day01 has no check 1.9; did you mean"),
        (["day01", "--task", "7"], "day01 has no task 7; it has tasks 1 to 2"),
        (["day01", "--task", "doubel"], "did you mean double?"),
        (["day01", "--failed"], "no check of day01 failed last time"),
        (["status", "--week", "9"], "there is no week 9; the course has weeks 1, 2"),
        (["status", "--track", "lectrue"], "the course has roadmap, lecture"),
        (["reset", "week1"], "names 3 exercises; this command takes one"),
        (["history", "--diff", "1"], "need an exercise"),
        (["history", "day01", "--diff", "x"], "x is no version"),
        (["history", "day01", "--diff", "1", "2", "3"], "takes one version or two"),
        (["history", "day01", "--restore", "4"], "day01 has no attempt 4"),
        (["history", "day01", "--restore", "s4"], "day01 has no save 4"),
        (["day01", "--sede", "3"], "unrecognized arguments: --sede"),
        (["day01", "--timeout", "-1"], "no number of seconds"),
        (["day01", "--color", "blue"], "invalid choice: 'blue'"),
        (["reset"], "the following arguments are required: exercise"),
    ],
)
def test_a_word_that_is_not_known_is_one_line_and_exit_code_2(here, engine, capsys, words, said):
    assert cli.main(words) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.err.startswith("grade: ")
    assert shown.err.count("\n") == 1
    assert not engine.calls


def test_a_folder_that_is_no_course_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    assert cli.main([]) == 2
    assert "is not in a course" in capsys.readouterr().err


def test_the_course_can_be_named_before_or_after_the_verb(here, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir("/")
    for words in (["-C", str(here.root), "next"], ["next", "-C", str(here.root)]):
        assert cli.main(words) == 0
        assert "Next: day01" in capsys.readouterr().out


def test_options_reach_the_engine(here, engine):
    answer(here)
    cli.main(
        [
            "day01",
            "--task",
            "double",
            "--seed",
            "7",
            "--device",
            "cpu",
            "--no-speed",
            "--timeout",
            "3",
            "--no-report",
        ]
    )

    ((_, options),) = engine.calls
    assert options == grading.Options(
        tasks=("double",), seed=7, device="cpu", speed=False, cpu_seconds=3.0
    )


def test_checks_are_named_by_number(here, engine):
    answer(here)
    cli.main(["day01", "--check", "1.2", "--check", "day01/2.1", "--no-report"])

    ((_, options),) = engine.calls
    names = [here.exercise("day01").checks[place].name for place in (1, 2)]
    assert list(options.checks) == names


def test_failed_runs_what_failed_last_time(here, engine):
    answer(here)
    engine.statuses = {"1.2": Status.FAILED, "2.1": Status.ERROR}
    cli.main(["day01", "--no-report"])
    engine.statuses = {}
    cli.main(["day01", "--failed", "--no-report"])
    _, options = engine.calls[-1]

    checks = here.exercise("day01").checks
    assert options.checks == (checks[1].name, checks[2].name)


# Exit codes


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        ({}, 0),
        ({"2.2": Status.SKIPPED}, 0),
        ({"1.1": Status.UNSURE}, 0),
        ({"1.1": Status.FAILED}, 1),
        ({"1.1": Status.TIMEOUT}, 1),
        ({"1.1": Status.WAITING}, 1),
    ],
)
def test_the_exit_code_says_whether_all_checks_pass(here, engine, statuses, code):
    answer(here)
    engine.statuses = statuses

    assert cli.main(["day01", "--no-report"]) == code


def test_several_give_the_worst(here, engine, capsys):
    answer(here, "day01")

    assert cli.main(["day01", "day02", "--no-report"]) == 1
    assert "1 of 2 exercises pass" in capsys.readouterr().out


def test_the_first_that_does_not_pass_ends_the_run_where_asked(here, engine):
    cli.main(["all", "-x", "--no-report"])

    assert [id for id, _ in engine.calls] == ["day01"]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (CourseError("the suite is at fault"), 3, "not your code"),
        (EnvironmentFault("there is no cuda device"), 4, "there is no cuda device"),
        (RuntimeError("a bug"), 3, "this is a fault of grade itself"),
    ],
)
def test_what_the_engine_raises_becomes_an_exit_code(here, engine, capsys, error, code, said):
    answer(here)
    engine.error = error

    assert cli.main(["day01"]) == code
    assert said in capsys.readouterr().err
    assert kept(here) == []


def test_what_was_finished_before_an_interruption_is_recorded(here, engine, capsys):
    answer(here)
    engine.error, engine.error_after = KeyboardInterrupt(), 2

    assert cli.main(["day01"]) == 130
    assert "Interrupted: 2 of 4 checks had ended. Recorded as attempt 1." in capsys.readouterr().err
    (attempt,) = kept(here)
    assert (attempt.selected, attempt.passed) == (True, 2)


# Grading


def test_an_attempt_is_kept_with_its_text_and_its_page(here, engine, capsys):
    exercise = answer(here)
    engine.statuses = {"1.1": Status.FAILED}
    cli.main(["day01"])
    cli.main(["day01"])

    assert [a.number for a in kept(here)] == [1, 2]
    assert "attempt 2" in capsys.readouterr().out
    with History.open(here.reports / "history.db") as history:
        assert history.files("day01", 2) == {"scaling.py": files.read(exercise.submission)}
    assert (here.reports / "day01.html").is_file()
    assert (here.reports / "index.html").is_file()


def test_no_record_and_no_report_leave_no_trace(here, engine):
    answer(here)
    cli.main(["day01", "--no-record"])

    assert kept(here) == []
    assert not list(here.reports.glob("*.html"))


def test_what_does_not_run_is_not_counted_but_kept(here, engine, capsys):
    exercise = here.exercise("day01")
    exercise.submission.write_text("def double(x:\n", encoding="utf-8")

    assert cli.main(["day01", "--no-report"]) == 1
    assert "Not counted as an attempt" in capsys.readouterr().out
    with History.open(here.reports / "history.db") as history:
        assert history.attempts() == []
        assert history.saved_files("day01", 1) == {"scaling.py": "def double(x:\n"}


@pytest.mark.parametrize("damage", ["not a history" * 500, None], ids=["damaged", "no folder"])
def test_without_a_history_an_answer_is_graded_all_the_same(here, engine, capsys, damage):
    answer(here)
    if damage:
        here.reports.mkdir(exist_ok=True)
        (here.reports / "history.db").write_text(damage)
    else:
        here.reports.write_text("a file where the folder should be")

    assert cli.main(["day01"]) == 0
    shown = capsys.readouterr()
    assert "4 of 4 checks pass" in shown.out
    assert shown.err.startswith("grade: ")
    if damage:
        assert (here.reports / "history.db").read_text() == damage


def test_the_next_exercise_is_named_once_all_pass(here, engine, capsys):
    answer(here)
    cli.main(["day01", "--no-report"])
    shown = capsys.readouterr().out

    assert "First time all pass. 1 of 4 days done." in shown
    assert "Next: grade day02" in shown


# JSON


def test_json_is_the_only_thing_on_stdout(here, engine, capsys):
    answer(here)
    engine.statuses = {"1.2": Status.FAILED}
    code = cli.main(["day01", "--json", "--no-report"])
    document = json.loads(capsys.readouterr().out)

    assert code == 1
    assert document["schema"] == "grade.result/1"
    assert (document["status"], document["attempt"]) == ("failed", 1)
    assert document["points"] == {"earned": 70, "possible": 100, "skipped": 0}
    failed = document["checks"][1]
    assert failed["id"] == "day01/1.2"
    assert failed["message"]["text"] == "1.2 is wrong"
    assert document["next"] == {"check": "day01/1.2", "command": "grade hint day01"}


def test_several_exercises_are_one_document(here, engine, capsys):
    cli.main(["day01-day02", "--format", "json", "--no-report"])
    document = json.loads(capsys.readouterr().out)

    assert document["schema"] == "grade.results/1"
    assert [r["exercise"]["id"] for r in document["results"]] == ["day01", "day02"]
    assert {r["status"] for r in document["results"]} == {"not_started"}


def test_a_document_can_go_to_a_file_while_the_text_is_shown(here, engine, capsys, tmp_path):
    answer(here)
    cli.main(["day01", "-o", str(tmp_path / "result.json"), "--no-report"])

    assert "4 of 4 checks pass" in capsys.readouterr().out
    document = json.loads((tmp_path / "result.json").read_text())
    assert document["status"] == "passed"


# The other verbs


def test_hints_come_one_by_one(here, engine, capsys):
    answer(here)
    engine.statuses = {"1.1": Status.FAILED}
    cli.main(["day01", "--no-report"])
    capsys.readouterr()
    hints = len(here.exercise("day01").tasks[0].hints)
    shown = []
    for _ in range(hints + 1):
        assert cli.main(["hint", "day01"]) == 0
        shown.append(capsys.readouterr().out)

    assert [f"Hint {n} of {hints} for 1.1" in shown[n - 1] for n in range(1, hints + 1)] == [
        True
    ] * hints
    assert "You have seen" in shown[-1]
    cli.main(["hint", "day01", "--reset"])
    capsys.readouterr()
    cli.main(["hint", "day01"])
    assert f"Hint 1 of {hints}" in capsys.readouterr().out


def test_reset_keeps_the_old_answer_and_puts_the_stub_back(here, capsys):
    exercise = answer(here)
    text = files.read(exercise.submission)

    assert cli.main(["reset", "day01", "-y"]) == 0
    assert stubs.of(exercise) == {"scaling.py": files.read(exercise.submission)}
    assert "grade history day01 --restore s1" in capsys.readouterr().out

    assert cli.main(["history", "day01", "--restore", "s1", "-y"]) == 0
    assert files.read(exercise.submission) == text


def test_reset_asks_and_does_nothing_where_nobody_answers(here, capsys):
    exercise = answer(here)
    text = files.read(exercise.submission)

    assert cli.main(["reset", "day01"]) == 2
    assert "grade reset day01 -y goes ahead" in capsys.readouterr().err
    assert files.read(exercise.submission) == text


@pytest.mark.parametrize(("reply", "code"), [("y", 0), ("n", 2), ("", 2)])
def test_reset_does_what_is_answered(here, monkeypatch, reply, code):
    exercise = answer(here)
    text = files.read(exercise.submission)
    monkeypatch.setattr("builtins.input", lambda: reply)
    out = terminal.of(sys.stdout)
    desk = learner.Desk(here, out, out, samples.NOON, can_ask=True)
    if code:
        with pytest.raises(Exception, match="nothing was changed"):
            learner.reset(desk, "day01", is_sure=False)
    else:
        learner.reset(desk, "day01", is_sure=False)

    assert (files.read(exercise.submission) == text) is bool(code)


def test_nothing_is_replaced_that_could_not_be_kept(here, capsys):
    exercise = answer(here)
    text = files.read(exercise.submission)
    here.reports.write_text("a file where the folder should be")

    assert cli.main(["reset", "day01", "-y"]) == 4
    assert "nothing was kept" in capsys.readouterr().err
    assert files.read(exercise.submission) == text


def test_bytes_that_are_no_text_survive_a_reset_and_a_restore(here):
    exercise = here.exercise("day01")
    content = b"caf\xe9 = 1\r\n\x00\xff"
    exercise.submission.write_bytes(content)
    cli.main(["reset", "day01", "-y"])
    cli.main(["history", "day01", "--restore", "s1", "-y"])

    assert exercise.submission.read_bytes() == content


def test_a_missing_file_is_brought_back_without_a_question(here):
    exercise = here.exercise("day01")
    exercise.submission.unlink()

    assert cli.main(["reset", "day01"]) == 0
    assert stubs.of(exercise)["scaling.py"] == files.read(exercise.submission)


def test_history_lists_attempts_and_compares_them(here, engine, capsys):
    exercise = answer(here)
    cli.main(["day01", "--no-report"])
    exercise.submission.write_text("def double(x):\n    return x + x\n", encoding="utf-8")
    cli.main(["day01", "--no-report"])
    capsys.readouterr()

    cli.main(["history"])
    assert "day01" in capsys.readouterr().out
    cli.main(["history", "day01", "--diff", "1", "2"])
    shown = capsys.readouterr().out
    assert "-    return 2 * x" in shown
    assert "+    return x + x" in shown
    cli.main(["history", "day01", "--diff", "2"])
    assert "2 and now are the same" in capsys.readouterr().out


def test_what_watch_made_is_one_line_of_history_until_all_is_asked_for(here, engine, capsys):
    answer(here)
    cli.main(["day01", "--no-report"])
    for _ in range(3):
        cli.main(["day01", "--no-report", "--watched", "save"])
    capsys.readouterr()

    assert [a.watched for a in kept(here)] == [False, True, True, True]
    cli.main(["history", "day01"])
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 2
    assert " 2-4 " in shown[1]
    assert "watch, 3 runs in 1 min" in shown[1]
    assert re.search(r"(\d)/\1 -> \1/\1$", shown[1])
    for option in ("--all", "-v"):
        cli.main(["history", "day01", option])
        assert len(capsys.readouterr().out.splitlines()) == 4
    cli.main(["history"])
    assert " 2-4 " in capsys.readouterr().out


def test_the_solution_opens_when_all_checks_pass(here, engine, capsys):
    answer(here)
    assert cli.main(["solution", "day01"]) == 1
    assert "opens when all its checks pass" in capsys.readouterr().out

    cli.main(["day01", "--no-report"])
    capsys.readouterr()
    assert cli.main(["solution", "day01"]) == 0
    shown = capsys.readouterr().out
    assert "return x * 2" in shown
    assert "SOLUTION" not in shown

    cli.main(["solution", "day01", "--diff"])
    assert "+    return x * 2" in capsys.readouterr().out


def test_an_attempt_at_part_of_the_suite_opens_no_solution(here, engine, capsys):
    answer(here)
    cli.main(["day01", "--task", "1", "--no-report"])

    assert cli.main(["solution", "day01"]) == 1


def test_report_writes_all_pages(here, capsys, tmp_path):
    assert cli.main(["report", "--out", str(tmp_path / "pages")]) == 0
    assert (tmp_path / "pages" / "index.html").is_file()
    assert len(list((tmp_path / "pages").glob("*.html"))) == 6


@pytest.mark.parametrize("words", [[], ["status"], ["status", "--week", "1"], ["next"]])
def test_where_the_learner_stands_ends_with_the_next_step(here, capsys, words):
    assert cli.main(words) == 0
    assert "Next: day01" in capsys.readouterr().out


# The certificate, and what a person marks


def test_the_certificate_comes_with_the_last_day(here, engine, capsys):
    for id in ("day01", "day02", "day03"):
        answer(here, id)
    cli.main(["day01", "day02", "day03", "--no-report"])

    assert cli.main(["certificate"]) == 2
    assert "3 of 4 days have passed" in (said := capsys.readouterr().err)
    assert "still to do: day08" in said
    assert not (here.reports / "certificate.html").exists()
    answer(here, "day08")
    cli.main(["day08", "--no-report"])
    assert cli.main(["certificate", "--name", "Ada <b> Lovelace"]) == 0

    page = (here.reports / "certificate.html").read_text(encoding="utf-8")
    assert "Ada &lt;b&gt; Lovelace has finished the roadmap" in page
    assert page.count("<tr><td") == 4
    assert "lecture01" not in page


def test_the_same_history_gives_the_same_certificate(here, engine):
    for id in ("day01", "day02", "day03", "day08"):
        answer(here, id)
        cli.main([id, "--no-report"])
    cli.main(["certificate"])
    first = (here.reports / "certificate.html").read_bytes()
    cli.main(["certificate"])

    assert (here.reports / "certificate.html").read_bytes() == first
    cli.main(["day01", "--no-report"])
    cli.main(["certificate"])
    assert (here.reports / "certificate.html").read_bytes() != first


RUBRIC = """
[[rubric]]
name = "mechanism"
text = "The mechanism is the right one"
points = 2

[[rubric]]
name = "limits"
text = "It says where it ends"
points = 1
"""


@pytest.fixture
def marked(here):
    """The course with a rubric on day01."""
    path = here.root / "solutions/day01/exercise.toml"
    path.write_text(path.read_text(encoding="utf-8") + RUBRIC, encoding="utf-8")
    return here


def test_marks_stand_beside_the_score_and_never_change_it(marked, engine, capsys):
    answer(marked)
    cli.main(["day01"])
    page = marked.reports / "day01.html"
    assert page.read_text(encoding="utf-8").count("pending") == 2
    before = kept(marked)

    assert cli.main(["mark", "day01", "mechanism=1"]) == 0
    assert cli.main(["mark", "day01", "mechanism=2", "--remark", "clear"]) == 0
    assert kept(marked) == before
    shown = page.read_text(encoding="utf-8")
    assert "2 of 2" in shown
    assert "clear" in shown
    assert shown.count("pending") == 1
    capsys.readouterr()
    assert cli.main(["mark", "day01"]) == 0
    assert "pending, of 1" in capsys.readouterr().out


def test_what_is_looked_at_keeps_to_the_width_of_the_terminal(marked, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    cli.main(["mark", "day01", "limits=1", "--remark", "it says so, " * 8])

    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["day01", "mechanism=3"], "2 points at most"),
        (["day01", "style=1"], "the items are mechanism, limits"),
        (["day01", "mechanism=-1"], "is no ITEM=POINTS"),
        (["day01", "mechanism"], "is no ITEM=POINTS"),
        (["day02", "mechanism=1"], "day02 has no rubric"),
    ],
)
def test_a_mark_that_can_not_be_given_is_one_line(marked, capsys, words, said):
    assert cli.main(["mark", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_doctor_names_what_is_there(here, capsys, monkeypatch):
    from grader import doctor

    monkeypatch.setattr(doctor, "_devices", list)
    assert cli.main(["doctor", "--json"]) == 0
    findings = {f["name"]: f for f in json.loads(capsys.readouterr().out)["findings"]}

    assert findings["torch"]["state"] == "ok"
    monkeypatch.setattr(doctor, "NEEDED", ("torch-that-is-not-there",))
    assert cli.main(["doctor"]) == 4
    assert "pip install torch-that-is-not-there" in capsys.readouterr().out


def test_author_gets_its_words_and_the_course(monkeypatch):
    from grader import author

    called = []
    monkeypatch.setattr(author, "main", lambda *given: called.append(given) or 7)

    assert cli.main(["-C", "there", "author", "verify", "all", "--json"]) == 7
    assert called == [(["verify", "all", "--json"], Path("there"), None)]


# Help


def commands() -> list[str]:
    action = next(a for a in cli.parser()._actions if isinstance(a, argparse._SubParsersAction))
    return list(action.choices)


@pytest.mark.parametrize("verb", [verb for verb in commands() if verb != "author"])
def test_every_command_and_option_has_help(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([verb, "--help"])
    assert ended.value.code == 0
    assert f"grade {verb}" in capsys.readouterr().out
    action = next(a for a in cli.parser()._actions if isinstance(a, argparse._SubParsersAction))
    assert all(option.help for option in action.choices[verb]._actions)


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    shown = capsys.readouterr().out

    assert [verb for verb in commands() if f"    {verb} " not in shown] == []


def test_no_verb_has_a_digit_so_that_it_cannot_be_an_exercise():
    assert not [verb for verb in commands() if any(c.isdigit() for c in verb)]


HEAVY = ("torch", "pytest", "rich", "jinja2", "numpy", "nbformat")


@pytest.mark.parametrize("words", [["--help"], ["status"], ["next"], ["hint", "day01"]])
def test_what_answers_at_once_imports_nothing_heavy(here, words):
    code = (
        "import sys; from grader import cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )

    assert done.stderr.splitlines()[-1] == "[]", done.stderr


def test_a_pipe_that_closes_early_is_no_fault(here):
    done = subprocess.run(
        f"{sys.executable} -m grader status | head -1",
        shell=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )

    assert done.stderr == ""
    assert done.stdout == "A tiny course\n" or done.stdout.strip()


def test_the_choice_of_a_bare_call_is_the_default():
    arguments = cli.parser().parse_args(["check", "day01"])

    assert cli._choice(arguments) == Choice()
