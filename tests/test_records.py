"""The published form of a result is what its schema says, whatever a learner's code returned."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import jsonschema
import pytest

from grader import records
from grader.model import Attempt, Fault, Line, Status, Verdict
from tests import samples
from tests.samples import EXERCISE, attempt

SCHEMA = json.loads(
    (Path(__file__).parents[1] / "docs" / "result.schema.json").read_text(encoding="utf-8")
)
STATES = {
    "all_pass": attempt(number=3),
    "partly_pass": attempt(samples.PARTLY, number=4),
    "every_status": attempt(
        tuple(replace(samples.SHAPE_FAILED, status=status) for status in Status), number=1
    ),
    "fault": attempt(
        (),
        verdict=Verdict.ERROR,
        fault=Fault("SyntaxError", "'(' was never closed", "a.py", 1, 2, (Line("a.py", 1, "f("),)),
    ),
    "hostile": attempt(
        samples.outcomes(
            c1_1=replace(
                samples.SHAPE_FAILED,
                output="\x00\ud800\x1b",
                got=[float("nan"), {1: float("inf")}, (1, 2), {"deep": object}],
            )
        )
    ),
}


def published(state: Attempt) -> dict[str, object]:
    document = records.result(
        EXERCISE,
        state,
        previous={"TestSplit::test_1_1": Status.PASSED},
        hints_seen={"split": 2, "attend": 9},
    )
    return json.loads(json.dumps(document, allow_nan=False))


@pytest.mark.parametrize("name", STATES)
def test_a_result_is_what_the_schema_says(name):
    jsonschema.Draft202012Validator(SCHEMA).validate(published(STATES[name]))


@pytest.mark.parametrize("field", ["status", "points", "checks"])
def test_the_schema_refuses_a_result_without_its_fields(field):
    document = published(STATES["all_pass"])
    del document[field]

    with pytest.raises(jsonschema.ValidationError, match=field):
        jsonschema.Draft202012Validator(SCHEMA).validate(document)


def test_the_schema_names_every_field_that_is_written():
    document = published(STATES["partly_pass"])

    assert set(document) == set(SCHEMA["properties"])
    assert set(document["checks"][0]) == set(SCHEMA["$defs"]["check"]["properties"])


def test_a_result_says_what_is_next_and_what_was_before():
    document = published(STATES["partly_pass"])

    assert document["next"] == {"check": "day23/1.1", "command": "grade hint day23"}
    assert document["checks"][0]["was"] == "passed"
    assert document["checks"][0]["hints"] == {"count": 3, "seen": 2}
    assert document["checks"][2]["hints"] == {"count": 2, "seen": 1}
    assert document["started"] == "2026-11-21T12:00:00Z"


def test_an_attempt_that_was_not_recorded_has_no_number():
    assert published(STATES["hostile"])["attempt"] is None


@pytest.mark.parametrize("name", ["all_pass", "partly_pass", "every_status", "fault"])
def test_what_the_history_keeps_is_exact(name):
    state = STATES[name]
    text = records.dumps(records.attempt_to_json(state))

    assert records.attempt_from_json(json.loads(text), state.files) == state


def test_every_field_of_an_outcome_is_kept():
    full = replace(samples.SHAPE_FAILED, output="x", output_truncated=True, measured="1.4x")
    full = replace(full, blocked_by=("a",), cpu_seconds=0.5)

    assert set(records.outcome_to_json(full)) == {field.name for field in fields(full)}
    assert records.outcome_from_json(records.outcome_to_json(full)) == full
