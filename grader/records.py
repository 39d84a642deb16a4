"""Records: an attempt as plain JSON, for the history and for other programs.

Two forms. `attempt_to_json` and `attempt_from_json` are exact: what goes in comes out. `result` is
the published form, `grade.result/1`: fields may be added to it, meanings never change.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

import grader
from grader import feedback
from grader.model import (
    Attempt,
    Check,
    Environment,
    Exercise,
    Fault,
    Kind,
    Limits,
    Line,
    Message,
    Outcome,
    Picture,
    RubricItem,
    Status,
    Task,
    Verdict,
)

RESULT_SCHEMA = "grade.result/1"
RESULTS_SCHEMA = "grade.results/1"

Json = dict[str, Any]


def dumps(value: Any, *, indent: int | None = None) -> str:
    """JSON text in ASCII: lone surrogates and NUL become escapes, so any store can keep it."""
    return json.dumps(value, ensure_ascii=True, indent=indent, default=str)


def attempt_to_json(attempt: Attempt) -> Json:
    """The whole attempt but its files, which a history keeps once for all attempts."""
    record: Json = _to_json(attempt)
    record.pop("files", None)
    return record


def attempt_from_json(record: Mapping[str, Any], files: Mapping[str, str]) -> Attempt:
    """The attempt that `attempt_to_json` was given; fields of a later version are passed over.

    Raises:
        KeyError, ValueError, TypeError: the record was not written by `attempt_to_json`.
    """
    fault = record.get("fault")
    return Attempt(
        **_known(
            Attempt,
            record,
            started=datetime.fromisoformat(record["started"]),
            verdict=Verdict(record["verdict"]),
            outcomes=tuple(outcome_from_json(outcome) for outcome in record.get("outcomes", ())),
            environment=Environment(**_known(Environment, record.get("environment", {}))),
            files=dict(files),
            fault=_fault_from_json(fault) if fault else None,
            open_tasks=tuple(record.get("open_tasks", ())),
        )
    )


def outcome_to_json(outcome: Outcome) -> Json:
    """The outcome with its check; fields that hold their default are left out."""
    record: Json = _to_json(outcome)
    return record


def outcome_from_json(record: Mapping[str, Any]) -> Outcome:
    """The outcome that `outcome_to_json` was given."""
    message = record.get("message")
    return Outcome(
        **_known(
            Outcome,
            record,
            check=check_from_json(record["check"]),
            status=Status(record["status"]),
            message=Message(**_known(Message, message)) if message else None,
            details=tuple(record.get("details", ())),
            lines=tuple(Line(**_known(Line, line)) for line in record.get("lines", ())),
            pictures=tuple(Picture(**_known(Picture, p)) for p in record.get("pictures", ())),
            blocked_by=tuple(record.get("blocked_by", ())),
        )
    )


def check_from_json(record: Mapping[str, Any]) -> Check:
    """The check inside an outcome."""
    after = tuple(record.get("after", ()))
    return Check(**_known(Check, record, kind=Kind(record["kind"]), after=after))


def exercise_to_json(exercise: Exercise) -> Json:
    """An exercise without its folders, which differ from machine to machine."""
    record: Json = _to_json(exercise)
    return {name: item for name, item in record.items() if name not in ("source", "folder")}


def exercise_from_json(record: Mapping[str, Any], source: Path, folder: Path) -> Exercise:
    """The exercise that `exercise_to_json` was given, in these folders.

    Raises:
        KeyError, ValueError, TypeError: the record was not written by `exercise_to_json`.
    """
    known = _known(
        Exercise,
        record,
        files=tuple(record["files"]),
        data=tuple(record["data"]),
        tasks=tuple(
            Task(
                **_known(Task, task, hints=tuple(task["hints"]), files=tuple(task.get("files", ())))
            )
            for task in record["tasks"]
        ),
        checks=tuple(check_from_json(check) for check in record["checks"]),
        limits=Limits(**_known(Limits, record["limits"])),
        rubric=tuple(RubricItem(**_known(RubricItem, i)) for i in record.get("rubric", ())),
    )
    return Exercise(**({"week": None} | known), source=source, folder=folder)


def result(
    exercise: Exercise,
    attempt: Attempt,
    *,
    previous: Mapping[str, Status] | None = None,
    hints_seen: Mapping[str, int] | None = None,
) -> Json:
    """An attempt as other programs read it, `grade.result/1`.

    Args:
        exercise: what was graded.
        attempt: how it went.
        previous: the status of each check, by name, before this attempt.
        hints_seen: how many hints of each task or check, by name, were shown.
    """
    previous, seen = previous or {}, hints_seen or {}
    statuses = {outcome.check.name: outcome.status for outcome in attempt.outcomes}
    first = feedback.fix_first(exercise.checks, statuses)
    command = f"grade hint {exercise.id}" if first else "grade next"
    if attempt.fault is not None:
        command = f"grade {exercise.id}"
    score = attempt.score
    return {
        "schema": RESULT_SCHEMA,
        "tool": {"name": "grade", "version": grader.__version__},
        "exercise": {
            "id": exercise.id,
            "title": plain(exercise.title),
            "suite": attempt.suite_digest,
        },
        "status": str(attempt.verdict),
        "attempt": attempt.number or None,
        "selected": attempt.selected,
        "watched": attempt.watched,
        "started": attempt.started.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "duration_s": round(attempt.seconds, 6),
        "environment": plain(attempt.environment),
        "points": {
            "earned": score.earned,
            "possible": score.possible,
            "skipped": score.skipped,
        },
        "fault": plain(attempt.fault),
        "open_tasks": list(attempt.open_tasks),
        "checks": [
            _published_check(exercise, outcome, previous.get(outcome.check.name), seen)
            for outcome in attempt.outcomes
        ],
        "next": {"check": first.id if first else None, "command": command},
    }


def results(documents: Sequence[Json]) -> Json:
    """Several results as one document, `grade.results/1`."""
    return {"schema": RESULTS_SCHEMA, "results": list(documents)}


def plain(value: Any) -> Any:
    """`value` as strict JSON: nan and inf become text, lone surrogates their escapes."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {plain(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return plain(_all_fields(value))
    return plain(str(value))


def _published_check(
    exercise: Exercise, outcome: Outcome, was: Status | None, seen: Mapping[str, int]
) -> Json:
    check, message = outcome.check, outcome.message
    task = exercise.task(check.task)
    own = 1 if check.hint else 0
    return {
        "id": check.id,
        "name": check.name,
        "title": plain(check.title),
        "task": task.number,
        "kind": str(check.kind),
        "visibility": "local",
        "status": str(outcome.status),
        "required": not check.gpu,
        "points": outcome.points,
        "max_points": check.points,
        "duration_s": round(outcome.seconds, 6),
        "requires": list(check.after),
        "blocked_by": list(outcome.blocked_by),
        "message": plain(message),
        "details": plain(outcome.details),
        "expected": plain(outcome.expected),
        "got": plain(outcome.got),
        "minimal": {"code": plain(outcome.minimal)} if outcome.minimal else None,
        "source": [
            {"file": plain(line.file), "line": line.number, "text": plain(line.text)}
            for line in outcome.lines
        ],
        "pictures": [
            {"kind": picture.kind, "title": plain(picture.title), "caption": plain(picture.caption)}
            for picture in outcome.pictures
        ],
        "hints": {
            "count": own + len(task.hints),
            "seen": min(seen.get(check.name, 0), own)
            + min(seen.get(task.name, 0), len(task.hints)),
        },
        "measured": outcome.measured,
        "output": plain(outcome.output),
        "output_truncated": outcome.output_truncated,
        "was": str(was) if was else None,
    }


def _fault_from_json(record: Mapping[str, Any]) -> Fault:
    source = tuple(Line(**_known(Line, line)) for line in record.get("source", ()))
    return Fault(**_known(Fault, record, source=source))


def _known(kind: type, record: Mapping[str, Any], /, **decoded: Any) -> dict[str, Any]:
    """The fields of `record` that `kind` has, those in `decoded` in their decoded form."""
    names = {field.name for field in fields(kind)}
    return {name: item for name, item in record.items() if name in names} | {
        name: item for name, item in decoded.items() if name in record or name == "files"
    }


def _all_fields(value: Any) -> Json:
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _to_json(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _to_json(item)
            for field in fields(value)
            if (item := getattr(value, field.name)) != field.default
        }
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): _to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return str(value)
