"""One exercise, ready: its suite collected inside pytest's run loop, a child forked ahead.

A connection is one request, as on the cold worker's pipes: `ready`, then events until `ended`.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from grader import plugin, processes, worker
from grader.server import base, place, rehearsal

IDLE_SECONDS = 15 * 60


@dataclass(slots=True)
class _Spare:
    """A child that waits for a connection."""

    pid: int
    channel: socket.socket


def serve(suite: Path, listener: socket.socket) -> int:
    """Collect the suite and answer connections until nobody has asked for a while."""
    processes.become_parent()
    return worker.run_suite(suite, Zygote(listener))


class Zygote(worker.Server):
    """A pytest plugin that answers connections from inside pytest's run loop."""

    def __init__(self, listener: socket.socket) -> None:
        super().__init__(worker.Events(os.open(os.devnull, os.O_WRONLY)), "cpu")
        self._listener = listener
        self._running: dict[int, tuple[int, socket.socket]] = {}  # pidfd -> pid, connection

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Answer connections."""
        if self._faults or session.testsfailed:
            self._refuse()
            return True
        announcement = self.announcement(session) | {"backend": "fork"}
        self._guard.snapshot(plugin.suites(session))
        gc.collect()
        gc.freeze()
        self._listener.listen(64)
        spare: _Spare | None = self._fork(session)
        last = time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            while self._running or time.monotonic() - last < IDLE_SECONDS:
                ready = selector.select(timeout=30.0 if spare else base.BREATH)
                if not spare and not ready:
                    spare = self._fork(session)
                for key, _ in ready:
                    last = time.monotonic()
                    if key.fileobj is not self._listener:
                        selector.unregister(key.fileobj)
                        self._end(int(str(key.fileobj)), spare)
                        continue
                    connection, _ = self._listener.accept()
                    if not place.is_mine(connection):
                        connection.close()
                        continue
                    worker.Events(connection.fileno()).send("ready", **announcement)
                    number = self._hand_over(spare or self._fork(session), connection)
                    selector.register(number, selectors.EVENT_READ)
                    spare = None
        if spare:
            os.kill(spare.pid, signal.SIGKILL)
        return True

    def _refuse(self) -> None:
        """Tell one client why the suite does not load, and end."""
        self._listener.listen(8)
        connection, _ = self._listener.accept()
        worker.Events(connection.fileno()).send("broken", faults=self._faults)
        connection.close()

    def _fork(self, session: pytest.Session) -> _Spare:
        """Fork a child that waits for its connection."""
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid:
            theirs.close()
            return _Spare(pid, ours)
        with contextlib.suppress(BaseException):
            processes.die_with_parent()
            ours.close()
            self._listener.close()
            for _, other in self._running.values():
                other.close()
            if not rehearsal.is_somebody_at(theirs, rehearsal.PAUSE):
                self._rehearse()
            _, numbers, _, _ = socket.recv_fds(theirs, 1, 1)
            theirs.close()
            if numbers:
                connection = socket.socket(fileno=numbers[0])
                with connection.makefile("rb") as stream:
                    line = stream.readline()
                if line:
                    self._events = worker.Events(connection.detach())
                    self.serve(session, json.loads(line))
        os._exit(0)

    def _rehearse(self) -> None:
        """Touch, before anybody waits, the memory that every run writes to.

        What a forked child writes to is copied page by page, and looking at an object writes its
        count of references.
        """
        self._guard.compare()
        plugin.seed_everything(0, "rehearsal")
        worker.first_calls()

    def _hand_over(self, spare: _Spare, connection: socket.socket) -> int:
        worker.Events(connection.fileno()).send("forked", pid=spare.pid)
        socket.send_fds(spare.channel, [b"c"], [connection.fileno()])
        spare.channel.close()
        number = os.pidfd_open(spare.pid)
        self._running[number] = (spare.pid, connection)
        return number

    def _end(self, number: int, spare: _Spare | None) -> None:
        """Wait for a child that has ended, end what it left, and say how it ended."""
        pid, connection = self._running.pop(number)
        os.close(number)
        _, status, usage = os.wait4(pid, 0)
        others = {other for other, _ in self._running.values()}
        processes.end_family(pid, others | {spare.pid} if spare else others)
        with contextlib.suppress(OSError):
            worker.Events(connection.fileno()).send("ended", **processes.ending(status, usage))
        connection.close()
