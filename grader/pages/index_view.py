"""What the dashboard shows: the roadmap's numbers as frozen values for the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from grader import feedback, roadmap
from grader.model import Attempt, AttemptSummary, Exercise, Status, Verdict
from grader.pages import charts, text, views
from grader.roadmap import Progress, State

_LATEST = 8  # rows of the latest attempts
_SEGMENTS = 40  # checks of an exercise that get a segment of their own

LOOKS = {
    Status.PASSED: "p",
    Status.UNSURE: "p",
    Status.FAILED: "f",
    Status.ERROR: "f",
    Status.TIMEOUT: "f",
    Status.KILLED: "f",
    Status.SKIPPED: "s",
}


@dataclass(frozen=True, slots=True)
class Tile:
    """One exercise of the roadmap or of a track."""

    id: str
    number: str  # "23"
    title: str
    title_zh: str
    state: str  # done, in_progress, not_started
    segments: tuple[str, ...]  # the look of each check
