"""The keeper of spare workers: the server where a forked child can't compute (a GPU, macOS).

It holds one worker ahead (`grader.server.oneshot`), lends it to the next client by passing bytes
on, says how it ended, and starts another. Started as `python -P -m grader.server.spare ROOT`;
imports neither torch nor pytest itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from grader import processes, runner
from grader.server import base, place


def main() -> int:
    """Keep a spare worker in the background until nobody needs it; 1 if there is a server."""
    root = sys.argv[1]
    os.umask(0o077)
    stem = f"{place.folder()}/{place.name(root)}"
    lock = os.open(f"{stem}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return 1
    listener = base.listen(place.spare_of(root))
    if os.fork():
        os._exit(0)
    os.setsid()
    processes.become_subreaper()
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())
    return Keeper(listener).serve()


@dataclass(slots=True)
class _Spare:
    """A worker, and the client it is lent to."""

    process: subprocess.Popen[bytes]
    into: IO[bytes]
    out: IO[bytes]
    client: socket.socket | None = None

    @classmethod
    def start(cls) -> _Spare:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "grader.server.oneshot"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=runner.worker_environment("auto"),
            cwd="/",
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        return cls(process, process.stdin, process.stdout)


class Keeper:
    """One worker ahead, and those that are lent."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._made_of = base.fingerprint()
        self._selector = selectors.DefaultSelector()
        self._ahead: _Spare | None = None
        self._lent: list[_Spare] = []

    def serve(self) -> int:
        """Lend workers until there is a reason to end."""
        signal.signal(signal.SIGTERM, base.leave)
        signal.signal(signal.SIGINT, base.leave)
        last = time.monotonic()
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        try:
            self._ahead = _Spare.start()
            while time.monotonic() - last < base.IDLE_SECONDS and not base.is_memory_low():
                for key, _ in self._selector.select(timeout=30.0):
                    last = time.monotonic()
                    key.data()
                if self._made_of != base.fingerprint() and not self._lent:
                    return 0
                # Not while somebody waits for an answer: importing torch takes a whole processor.
                if self._ahead is None and not self._lent:
                    self._ahead = _Spare.start()
            return 0
        finally:
            Path(self._listener.getsockname()).unlink(missing_ok=True)
            for spare in self._all():
                with contextlib.suppress(ProcessLookupError):
                    spare.process.kill()

    def _all(self) -> list[_Spare]:
        return [*self._lent, self._ahead] if self._ahead else [*self._lent]

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if not place.is_mine(client) or self._made_of != base.fingerprint():
            client.close()  # an older engine than the client's: it goes the cold way
            return
        spare = self._ahead or _Spare.start()
        self._ahead = None
        spare.client = client
        self._lent.append(spare)
        self._selector.register(client, selectors.EVENT_READ, lambda: self._ask(spare))
        self._selector.register(spare.out, selectors.EVENT_READ, lambda: self._answer(spare))

    def _ask(self, spare: _Spare) -> None:
        """Pass on what a client sends; a client that has gone ends its worker."""
        assert spare.client is not None
        try:
            data = spare.client.recv(1 << 16)
        except OSError:
            data = b""
        if data:
            with contextlib.suppress(OSError):  # its end is seen when its events are read
                spare.into.write(data)
                spare.into.flush()
            return
        self._selector.unregister(spare.client)
        with contextlib.suppress(ProcessLookupError):
            spare.process.kill()

    def _answer(self, spare: _Spare) -> None:
        """Pass on what a worker says, and how it ended."""
        assert spare.client is not None
        data = os.read(spare.out.fileno(), 1 << 16)
        if data:
            with contextlib.suppress(OSError):
                spare.client.sendall(data)
            return
        pid = spare.process.pid
        self._lent.remove(spare)
        self._selector.unregister(spare.out)
        with contextlib.suppress(KeyError):
            self._selector.unregister(spare.client)
        _, status, usage = _wait(pid)
        spare.process.returncode = status  # it has been waited for
        processes.end_family(pid, [other.process.pid for other in self._all()])
        with contextlib.suppress(OSError):
            event = {"event": "ended", **processes.ending(status, usage)}
            spare.client.sendall(json.dumps(event).encode() + b"\n")
        for end in (spare.client, spare.into, spare.out):
            with contextlib.suppress(OSError):
                end.close()


def _wait(pid: int) -> tuple[int, int, object]:
    """Wait for a worker that has closed its output; one that goes on without it is ended."""
    limit = time.monotonic() + runner.GRACE
    while True:
        found = os.wait4(pid, os.WNOHANG)
        if found[0]:
            return found
        if time.monotonic() > limit:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            return os.wait4(pid, 0)
        time.sleep(0.002)


if __name__ == "__main__":
    sys.exit(main())
