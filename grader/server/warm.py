"""A worker that was there before it was asked: a connection to an exercise's zygote."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from grader import runner
from grader.errors import CourseError
from grader.model import Exercise
from grader.server import place

START_SECONDS = 20.0
"""Seconds for a zygote to collect its suite; after that the cold path is quicker."""


class Unavailable(Exception):
    """There is no zygote, and none could be had."""


def zygote_socket(root: str, exercise: Exercise) -> str:
    """Where an exercise's zygote listens; a changed suite has another one."""
    found = exercise.suite.stat()
    stamp = f"{found.st_mtime_ns:x}{found.st_size:x}"
    return f"{place.folder()}/{place.name(root)}.{exercise.id}.{stamp}"


class ForkWorker:
    """A worker whose every request is a connection, and a child that was forked ahead."""

    def __init__(self, path: str, ask_for_zygote: Callable[[], None]) -> None:
        """Connect.

        Args:
            path: the zygote's socket.
            ask_for_zygote: asks the base to fork one; called where nobody listens.

        Raises:
            Unavailable: nobody answers.
        """
        self._path = path
        self._ask = ask_for_zygote
        self._socket: socket.socket | None = None
        self._child: int | None = None
        self._used = False
        self.ready: Mapping[str, Any] = {}
        self._connect()

    def _connect(self) -> None:
        self.kill()
        limit = time.monotonic() + START_SECONDS
        has_asked = False
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(self._path)
                break
            except OSError as error:
                connection.close()
                if time.monotonic() > limit:
                    raise Unavailable(str(error)) from None
            if not has_asked:
                has_asked = True
                try:
                    self._ask()
                except OSError as error:
                    raise Unavailable(str(error)) from None
            time.sleep(0.002)
        self._socket = connection
        self._used = False
        self._stream = runner.EventStream(connection.fileno())
        try:
            first = next(iter(self._stream.events(lambda: limit)), None)
        except (TimeoutError, OSError):
            first = None
        if first is None:
            self.kill()
            raise Unavailable("the zygote does not answer")
        if first["event"] == "broken":
            raise CourseError("the suite does not load: " + runner.last_line(first["faults"]))
        self.ready = first

    def wait_until_ready(self) -> None:
        """It is: `ready` was the first thing it said."""

    def request(self, request: Mapping[str, Any]) -> None:
        """Send one request, on a connection of its own."""
        if self._used or self._socket is None:
            with contextlib.suppress(Unavailable):  # seen when events are read
                self._connect()
        self._used = True
        self._child = None
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.sendall(json.dumps(request).encode() + b"\n")

    def events(self, deadline: Callable[[], float]) -> Iterator[Mapping[str, Any]]:
        """The events of the request, until `ended` or until the zygote has ended."""
        if self._socket is None:
            return
        with contextlib.suppress(ConnectionError):
            for event in self._stream.events(deadline):
                if event["event"] == "forked":
                    self._child = event["pid"]
                yield event

    def kill_child(self) -> None:
        """End the process that serves the request."""
        if self._child is not None:
            for kill in (os.killpg, os.kill):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    kill(self._child, signal.SIGKILL)

    def kill(self) -> None:
        """Leave the connection; the zygote goes on for others."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def close(self) -> None:
        """End the child if it still runs, and leave the connection."""
        self.kill()
