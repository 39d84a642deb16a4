"""Workers that were there before they were asked: a zygote's child, or a spare process."""

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


_left: list[tuple[socket.socket, int | None, Callable[[], None]]] = []
"""Requests that have said all: the connection, the process that is about to end, what is next."""


class Unavailable(Exception):
    """There is no zygote, and none could be had."""


def zygote_socket(root: str, exercise: Exercise) -> str:
    """Where an exercise's zygote listens; a changed suite has another one."""
    found = exercise.suite.stat()
    stamp = f"{found.st_mtime_ns:x}{found.st_size:x}"
    return f"{place.folder()}/{place.name(root)}.{exercise.id}.{stamp}"


class WarmWorker:
    """A worker whose every request is a connection to a process that has been made ahead."""

    def __init__(self, path: str) -> None:
        """Connect.

        Raises:
            Unavailable: nobody answers.
        """
        self._path = path
        self._socket: socket.socket | None = None
        self._child: int | None = None
        self._used = False
        self.ready: Mapping[str, Any] = {}
        self._connect()

    def _reach(self, limit: float) -> socket.socket:
        """A connection; raises `Unavailable` where nobody answers."""
        raise NotImplementedError

    def _connect(self) -> None:
        self.kill()
        limit = time.monotonic() + START_SECONDS
        connection = self._reach(limit)
        self._socket = connection
        self._used = False
        self._stream = runner.EventStream(connection.fileno())
        try:
            first = next(iter(self._stream.events(lambda: limit)), None)
        except (TimeoutError, OSError):
            first = None
        if first is None:
            self.kill()
            raise Unavailable("the server does not answer")
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
                if event["event"] == "ended":
                    before = self.ready.get("cpu_seconds_before", 0.0)
                    event = {**event, "cpu_seconds": event["cpu_seconds"] - before}
                yield event

    def leave(self, afterwards: Callable[[], None]) -> bool:
        """A process takes its time to end; `wait_for_ends` waits for it, after the answer."""
        if self._socket is None:
            return False
        _left.append((self._socket, self._child, afterwards))
        self._socket = None
        return True

    def kill_child(self) -> None:
        """End the process that serves the request."""
        _kill(self._child)

    def kill(self) -> None:
        """Leave the connection; who listens goes on for others."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def close(self) -> None:
        """End the child if it still runs, and leave the connection."""
        self.kill()


class ForkWorker(WarmWorker):
    """A zygote's children, forked ahead one by one."""

    def __init__(self, path: str, ask_for_zygote: Callable[[], None]) -> None:
        """Connect.

        Args:
            path: the zygote's socket.
            ask_for_zygote: asks the base to fork one; called where nobody listens.

        Raises:
            Unavailable: nobody answers.
        """
        self._ask = ask_for_zygote
        super().__init__(path)

    def _reach(self, limit: float) -> socket.socket:
        has_asked = False
        base = os.getppid()
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(self._path)
            except OSError as error:
                connection.close()
                # Where the base has gone, nobody will make a zygote any more.
                if time.monotonic() > limit or os.getppid() != base:
                    raise Unavailable(str(error)) from None
            else:
                return connection
            if not has_asked:
                has_asked = True
                try:
                    self._ask()
                except OSError as error:
                    raise Unavailable(str(error)) from None
            time.sleep(0.002)


class SpareWorker(WarmWorker):
    """Processes of their own, started ahead one by one: for a GPU, and where there is no fork."""

    def leave(self, afterwards: Callable[[], None]) -> bool:
        """A client that has gone would end its worker."""
        return False

    def __init__(self, path: str, exercise: Exercise, device: str) -> None:
        """Connect.

        Args:
            path: the socket of the keeper of spare processes.
            exercise: whose suite is to be collected.
            device: what to compute on: "auto", "cpu", or a device's type.

        Raises:
            Unavailable: nobody answers.
        """
        wanted = {"suite": str(exercise.suite), "device": device}
        self._wanted = json.dumps(wanted).encode() + b"\n"
        super().__init__(path)

    def _reach(self, limit: float) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(self._path)
            connection.sendall(self._wanted)
        except OSError as error:
            connection.close()
            raise Unavailable(str(error)) from None
        return connection


def wait_for_ends(seconds: float = 2.0) -> None:
    """Wait until the processes of requests that were left have ended, with all they had started.

    Args:
        seconds: after these a process is ended.
    """
    while _left:
        connection, child, afterwards = _left.pop()
        with connection, contextlib.suppress(ConnectionError):
            connection.settimeout(seconds)
            try:
                while connection.recv(1 << 16):
                    pass
            except TimeoutError:
                _kill(child)
        afterwards()


def _kill(child: int | None) -> None:
    """End a child with all of its group, if it is known."""
    if child is not None:
        for kill in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(child, signal.SIGKILL)


def spare(root: str) -> runner.Backend:
    """The back-end of a full command: a spare process where one is kept, else a cold one."""

    def start(exercise: Exercise, device: str) -> runner.Worker:
        with contextlib.suppress(Unavailable, place.Unsafe):
            path = place.spare_of(root)
            # A spare process has touched the accelerator already, if there is one.
            if device != "cpu" and os.path.exists(path):  # noqa: PTH110
                return SpareWorker(path, exercise, device)
        return runner.cold(exercise, device)

    return start
