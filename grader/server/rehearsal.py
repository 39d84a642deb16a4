"""What a waiting session does ahead: a whole grading, of which nobody hears.

What a forked child writes to is copied page by page, and looking at an object writes its count of
references. Two thirds of what a session computes for a client is such copying, unless it happened
before.
"""

from __future__ import annotations

import contextlib
import io
import platform
import select
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from grader import catalogue, cli, course, learner
from grader.model import Exercise, Status
from grader.terminal import Terminal

PAUSE = 0.5
"""Seconds without a call after which one rehearses; the beginning of an answer is over by then."""


def is_somebody_at(door: socket.socket, seconds: float = 0.0) -> bool:
    """Whether somebody waits at a socket, or comes within so many seconds."""
    return bool(select.select([door], [], [], seconds)[0])


def rehearse(root: str, folder: Path, is_called: Callable[[], bool]) -> None:
    """Grade what was saved last as if a worker had answered, and leave nothing behind.

    Args:
        root: the course.
        folder: for the history and the pages of the rehearsal; removed at the end.
        is_called: whether a client waits; then the rehearsal ends at once.
    """
    # What is wrong with the course or the machine is for a session with a client to say.
    with contextlib.suppress(Exception):
        stage = replace(course.find(Path(root)), reports_elsewhere=folder)
        folder.mkdir(exist_ok=True)
        exercise = max(catalogue.exercises(stage), key=_saved)
        for other in stage.ids:
            if other != exercise.id:  # or its page would be written too
                (folder / f"{other}.html").touch()
        cli.parser().parse_args(["check", exercise.id])
        quiet = Terminal(_Unheard(is_called))
        desk = learner.Desk(stage, quiet, quiet, datetime.now().astimezone())
        learner.grade(desk, [exercise.id], learner.Choice(backend=_Stage))
    shutil.rmtree(folder, ignore_errors=True)


def _saved(exercise: Exercise) -> int:
    try:
        return exercise.submission.stat().st_mtime_ns
    except OSError:
        return 0


class _Called(Exception):
    """A client waits."""


class _Unheard(io.StringIO):
    """A stream that nobody reads, and that ends the rehearsal when a client waits."""

    def __init__(self, is_called: Callable[[], bool]) -> None:
        super().__init__()
        self._is_called = is_called

    def write(self, text: str) -> int:
        if self._is_called():
            raise _Called
        return len(text)


class _Stage:
    """A worker that says how every check ended without having run any: the first one badly."""

    def __init__(self, exercise: Exercise, device: str) -> None:
        self._names = [check.name for check in exercise.checks]
        self._key = ""
        self.ready: Mapping[str, Any] = {
            "python": platform.python_version(),
            "torch": "0",
            "device": "cpu",
            "threads": 1,
            "nodes": [[name, name] for name in self._names],
        }

    def wait_until_ready(self) -> None:
        """It is."""

    def request(self, request: Mapping[str, Any]) -> None:
        """Take a request."""
        self._key = request["key"]

    def events(self, deadline: Callable[[], float]) -> Iterator[Mapping[str, Any]]:
        """What a worker says."""
        yield {"event": "loaded", "key": self._key, "output": "", "output_truncated": False}
        for number, name in enumerate(self._names):
            record: dict[str, Any] = {"status": Status.PASSED}
            if number == 0:
                message = {"id": "rehearsal", "text": "got 1, expected 2", "args": {}}
                record = {"status": Status.FAILED, "message": message}
            test = {"nodeid": name, "outcome": "passed", "metadata": record}
            yield {"event": "case", "key": self._key, "test": test}
        yield {"event": "done", "key": self._key}
        yield {"event": "ended", "cpu_seconds": 0.0}

    def leave(self, afterwards: Callable[[], None]) -> bool:
        """There is no process to wait for."""
        afterwards()
        return True

    def kill_child(self) -> None:
        """There is none."""

    def kill(self) -> None:
        """It has nothing to end."""

    def close(self) -> None:
        """It has nothing to end."""
