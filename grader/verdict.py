"""From what came out of a run to outcomes and a verdict; no disk, no clock.

This is the one adapter to pytest-json-report: it reads a test's `outcome` and the `metadata`
that the plugin put there, and nothing else.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from grader.model import (
    WORST_FIRST,
    Check,
    Exercise,
    Fault,
    Limits,
    Line,
    Message,
    Outcome,
    Picture,
    Status,
    Verdict,
)
from grader.runner import RawRun
from grader.source import Place


def outcome(
    check: Check,
    raw: RawRun,
    limits: Limits,
    file: str,
    text: str,
    places: Callable[[], Mapping[str, Place]] = dict,
) -> Outcome:
    """How one check ended.

    Args:
        check: as declared in the suite.
        raw: the run so far.
        limits: what a check may use, for the words of a death.
        file: the learner's file, as they know it.
        text: its text, for lines.
        places: where to look first, by task; asked where an answer is wrong without an exception.
    """
    nodes = raw.nodes.get(check.name, [])
    cases = [raw.cases[node] for node in nodes if node in raw.cases]
    if check.name in raw.deaths:
        return _died(check, raw.deaths[check.name], limits)
    if not nodes or len(cases) < len(nodes):
        why = "not reached: the run was stopped at its limit of time"
        return Outcome(check, Status.WAITING, message=Message("not.reached", why))
    entries = [_entry(case) for case in cases]
    entry = min(entries, key=lambda e: WORST_FIRST.index(Status(e["status"])))
    seconds = sum(float(e.get("seconds", 0.0)) for e in entries)
    cpu = sum(float(e.get("cpu_seconds", 0.0)) for e in entries)
    found = _read(check, entry, seconds, cpu, file, text.splitlines())
    if found.status is Status.FAILED and not found.lines:
        said = found.message.text if found.message else ""
        if place := places().get(check.task):
            found = replace(found, lines=place.lines_for(said, check.title))
    return found


def _entry(case: Mapping[str, Any]) -> dict[str, Any]:
    """The plugin's record of a case, or one that says there is none."""
    entry = case.get("metadata")
    if not isinstance(entry, dict) or entry.get("status") not in list(Status):
        text = "the check ended without a record of how"
        return {"status": Status.ERROR, "message": {"id": "no.record", "text": text}}
    if entry["status"] in (Status.PASSED, Status.UNSURE) and case.get("outcome") != "passed":
        # The teardown failed after a call that passed: pytest has the last word.
        text = "the check failed after its last line"
        return entry | {"status": Status.ERROR, "message": {"id": "teardown", "text": text}}
    return entry


def _read(
    check: Check,
    entry: Mapping[str, Any],
    seconds: float,
    cpu_seconds: float,
    file: str,
    source: Sequence[str],
) -> Outcome:
    message = entry.get("message")
    return Outcome(
        check=check,
        status=Status(entry["status"]),
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        message=Message(message["id"], message["text"], message.get("args") or {})
        if message and message["text"]
        else None,
        details=tuple(entry.get("details") or ()),
        expected=entry.get("expected"),
        got=entry.get("got"),
        minimal=entry.get("minimal"),
        lines=tuple(_lines(entry.get("lines") or (), file, source)),
        pictures=tuple(
            Picture(p["kind"], p["title"], p["caption"], p["data"])
            for p in entry.get("pictures") or ()
        ),
        output=entry.get("output") or "",
        output_truncated=bool(entry.get("output_truncated")),
        traceback=entry.get("traceback") or "",
        blocked_by=tuple(entry.get("blocked_by") or ()),
        measured=entry.get("measured") or "",
    )


def _lines(found: Iterable[Mapping[str, Any]], file: str, source: Sequence[str]) -> list[Line]:
    lines = []
    for line in found:
        number = int(line["number"] or 0)
        inside = 0 < number <= len(source)
        lines.append(
            Line(file, number, source[number - 1] if inside else line["text"], line["function"])
        )
    return lines


def _died(check: Check, death: Mapping[str, Any], limits: Limits) -> Outcome:
    """The outcome of the check in which the process ended."""
    if death.get("late"):
        text = f"stopped after {limits.wall_seconds:g} s; nothing inside Python could interrupt it"
        return Outcome(check, Status.TIMEOUT, message=Message("time.limit", text))
    return Outcome(check, Status.KILLED, message=Message("process.ended", ending(death)))


def ending(death: Mapping[str, Any]) -> str:
    """How a process ended, in words."""
    if death.get("aborted"):
        return f"the code raised {death['aborted']}, which ends the whole run"
    number = death.get("signal")
    if number:
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = "unknown"
        return f"Python crashed: signal {number} ({name})"
    if death.get("exit") is None:
        return "Python was ended from outside (was its parent process killed?)"
    return (
        f"Python ended (exit code {death['exit']}) before the check did; "
        "os._exit does that, and so does closing every file"
    )


def fault(raw: RawRun, limits: Limits, file: str, text: str) -> Fault | None:
    """Why the learner's file does not load, if it does not."""
    found = raw.unloadable
    if found is None:
        return None
    kind = str(found["kind"])
    said = str(found["text"])
    source = text.splitlines()
    lines = _lines(found.get("lines") or (), file, source)
    if kind == "killed":
        said = (
            f"stopped after {limits.wall_seconds:g} s while the file was imported"
            if found.get("late")
            else ending(found) + ", while the file was imported"
        )
    if not lines:
        return Fault(kind, said, file)
    number = lines[-1].number
    around = tuple(
        Line(file, n, source[n - 1])
        for n in range(max(1, number - 2), min(len(source), number + 1) + 1)
    )
    return Fault(kind, said, file, number, source=around)


def verdict(exercise: Exercise, outcomes: Sequence[Outcome], open_tasks: Sequence[str]) -> Verdict:
    """How an attempt ended as a whole."""
    if len(open_tasks) == len(exercise.tasks):
        return Verdict.NOT_STARTED
    counted = [o for o in outcomes if o.status is not Status.SKIPPED]
    return Verdict.PASSED if all(o.status.earns for o in counted) else Verdict.FAILED
