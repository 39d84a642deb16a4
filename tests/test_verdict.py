"""From pytest-json-report's tests to outcomes: the one adapter, and the contract it stands on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grader import runner, verdict
from grader import source as sources
from grader.model import Check, Kind, Limits, Line, Status, Verdict
from grader.source import Place

CHECK = Check("day01/1.1", "TestF::test_a", "f", "It is so", Kind.VALUE, 3)
FILE, TEXT = "exercises/day01/f.py", "def f(x):\n    return x\n"


def case(status, outcome="passed", **more):
    return {
        "nodeid": "n",
        "outcome": outcome,
        "metadata": {"check": "TestF::test_a", "status": status, "seconds": 0.5, **more},
    }


def judged(*cases, deaths=None, nodes=None, places=None):
    raw = runner.RawRun(nodes={"TestF::test_a": nodes or [str(i) for i in range(len(cases))]})
    raw.cases = {str(i): c for i, c in enumerate(cases)}
    raw.deaths = deaths or {}
    return verdict.outcome(CHECK, raw, Limits(), FILE, TEXT, lambda: places or {})


@pytest.mark.parametrize(
    ("statuses", "status"),
    [
        (["passed"], Status.PASSED),
        (["passed", "passed"], Status.PASSED),
        (["passed", "failed"], Status.FAILED),
        (["failed", "error"], Status.ERROR),
        (["error", "timeout"], Status.TIMEOUT),
        (["skipped", "passed"], Status.PASSED),
        (["skipped", "skipped"], Status.SKIPPED),
        (["passed", "unsure"], Status.UNSURE),
        (["passed", "waiting"], Status.WAITING),
        (["passed", "todo"], Status.TODO),
    ],
)
def test_a_check_takes_the_worst_status_of_its_cases(statuses, status):
    assert judged(*map(case, statuses)).status is status


def test_a_case_that_is_missing_has_not_passed():
    outcome = judged(case("passed"), nodes=["0", "1"])

    assert outcome.status is Status.WAITING
    assert outcome.points == 0
    assert "not reached" in outcome.message.text


@pytest.mark.parametrize(
    "test",
    [
        {"nodeid": "n", "outcome": "passed"},
        {"nodeid": "n", "outcome": "passed", "metadata": {"status": "perfect"}},
        {"nodeid": "n", "outcome": "passed", "metadata": "passed"},
        case("passed", outcome="failed"),
        case("passed", outcome="error"),
    ],
)
def test_without_a_record_or_against_pytests_word_nothing_is_earned(test):
    outcome = judged(test)

    assert outcome.status is Status.ERROR
    assert outcome.points == 0


@pytest.mark.parametrize(
    ("death", "status", "says"),
    [
        ({"late": True}, Status.TIMEOUT, "stopped after 40 s"),
        ({"exit": 0}, Status.KILLED, "exit code 0"),
        ({"signal": 11, "exit": None}, Status.KILLED, "SIGSEGV"),
        ({"signal": None, "exit": None}, Status.KILLED, "ended from outside"),
        ({"aborted": "Exit", "exit": 0}, Status.KILLED, "raised Exit"),
    ],
)
def test_a_death_is_the_running_checks_whatever_the_exit_code(death, status, says):
    outcome = judged(case("passed"), deaths={"TestF::test_a": death})

    assert outcome.status is status
    assert says in outcome.message.text


def test_a_wrong_value_points_at_the_line_that_returned_it():
    line = Line(FILE, 2, "    return x", "f")
    place = Place((line,))
    message = {"id": "value", "text": "no", "args": {}}

    assert judged(case("failed", message=message), places={"f": place}).lines == (line,)
    assert judged(case("passed"), places={"f": place}).lines == ()


KEEPER = """\
class Keeper:
    def __init__(self):
        self.best = None

    def update(self, metric):
        self.best = metric
        return True

    def restore(self):
        if self.best is None:
            return None
        return self.best
"""


def where(exercise, text, task):
    """Where the first task of an exercise is answered, if it had that name."""
    first, *others = exercise.tasks
    tasks = (replace(first, name=task), *others)
    return sources.places(replace(exercise, tasks=tasks), text, FILE).get(task)


@pytest.mark.parametrize(
    ("texts", "numbers"),
    [
        (("update returned True for nan", "nan never wins"), [7]),
        (("nan won", "what `restore` puts back"), [9]),
        (("update, then restore: another value", "the best stays"), [2, 5, 9, 1]),
        (("updated too often", "the best stays"), [2, 5, 9, 1]),
    ],
)
def test_of_a_class_the_method_that_is_named_is_shown_else_all_of_them(
    fixture_exercise, texts, numbers
):
    place = where(fixture_exercise, KEEPER, "Keeper")

    assert [line.number for line in place.lines_for(*texts)] == numbers


def test_a_task_that_is_no_definition_is_where_its_todo_stands_in_the_stub(
    fixture_exercise, reference
):
    place = where(fixture_exercise, reference, "a piece of work")

    assert [line.function for line in place.lines_for("wrong")] == ["double"]
    assert where(fixture_exercise, "x = 1\n", "a piece of work") is None


def test_a_fault_of_another_file_shows_no_line_of_the_module(fixture_exercise, reference):
    exercise = replace(fixture_exercise, files=("scaling.py", "report.json"))
    place = where(exercise, reference, "double")

    assert place.lines_for("double(1) is 1") == place.lines
    assert place.lines_for("report.json: double has no entry") == ()


def test_the_contract_with_pytest_json_report(fixture_exercise, kept, reference):
    """The fields that the adapter reads are there, as the worker sends them."""
    job = runner.Job(
        files={"scaling.py": reference.replace("return x * 2", "return x * 3")},
        module="scaling.py",
        display=FILE,
        checks=tuple(check.name for check in fixture_exercise.checks),
    )
    raw = runner.run(
        lambda on_cpu: kept.start(fixture_exercise, "cpu"), job, lambda e: None, lambda n, r: None
    )
    found = {test["metadata"]["check"]: test for test in raw.cases.values()}

    assert set(raw.nodes) == {check.name for check in fixture_exercise.checks}
    assert found["TestDouble::test_doubles"]["outcome"] == "failed"
    assert found["TestDouble::test_doubles"]["metadata"]["status"] == "failed"
    assert found["TestDouble::test_any_length"]["metadata"]["blocked_by"] == [
        "TestDouble::test_doubles"
    ]
    assert found["TestTriple::test_on_the_gpu"]["metadata"]["status"] == "skipped"
    assert {"status", "seconds", "cpu_seconds", "output", "pictures", "measured"} <= set(
        found["TestTriple::test_triples"]["metadata"]
    )


def test_an_attempt_is_passed_only_if_every_check_that_counts_is(fixture_exercise):
    checks = fixture_exercise.checks
    from grader.model import Outcome

    passed = [Outcome(check, Status.PASSED) for check in checks[:3]]
    skipped = Outcome(checks[3], Status.SKIPPED)
    waiting = Outcome(checks[2], Status.WAITING)

    assert verdict.verdict(fixture_exercise, [*passed, skipped], ()) is Verdict.PASSED
    assert verdict.verdict(fixture_exercise, [*passed[:2], waiting], ()) is Verdict.FAILED
    assert verdict.verdict(fixture_exercise, [], ("double", "triple")) is Verdict.NOT_STARTED
