"""One client's command, run in a process that was forked for it ahead of time."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from grader import processes, runner
from grader.model import Exercise
from grader.server import client, place, rehearsal, warm


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for, and what its terminal is like."""

    root: str
    directory: str
    is_terminal: bool
    columns: int
    encoding: str
    variables: Mapping[str, str]
    argv: list[str]


def serve(
    listener: socket.socket, control: int, root: str, folder: Path, is_stale: Callable[[], bool]
) -> None:
    """Wait for a client, run its command, and send it what the command prints.

    Args:
        listener: where clients connect.
        control: a pipe to the base: `taken PID`, `stale` and `zygote ID SOCKET SUITE` go there.
        root: the course that is served.
        folder: for what the session rehearses while it waits.
        is_stale: whether the server's own files have changed since it started.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # While it waits it ends with the base; once it has a client it sees that through.
    processes.die_with_parent()
    if not rehearsal.is_somebody_at(listener, rehearsal.PAUSE):
        rehearsal.rehearse(root, folder, lambda: rehearsal.is_somebody_at(listener))
    connection, _ = listener.accept()
    processes.outlive_parent()
    os.write(control, b"taken %d\n" % os.getpid())
    listener.close()
    if not place.is_mine(connection):
        return
    if is_stale():
        os.write(control, b"stale\n")
        return
    connection.sendall(client.HELLO)
    request = _read(connection)
    if request is None or request.root != root:
        _send(connection, "s", b"")
        return
    _interruptible(connection)
    code = _run(connection, request, control)
    _send(connection, "x", str(code).encode())
    connection.close()


def _read(connection: socket.socket) -> Request | None:
    connection.settimeout(5.0)
    try:
        with connection.makefile("rb") as stream:
            size = int(stream.readline())
            fields = stream.read(size).decode("utf-8", "surrogateescape").split("\0")
        root, directory, is_terminal, columns, encoding, count, *rest = fields
        variables = dict(entry.partition("=")[::2] for entry in rest[: int(count)])
        return Request(
            root,
            directory,
            is_terminal == "1",
            int(columns),
            encoding,
            variables,
            rest[int(count) :],
        )
    except (OSError, ValueError):
        return None
    finally:
        connection.settimeout(None)


def _interruptible(connection: socket.socket) -> None:
    """A byte from the client, or its end, is a Ctrl-C."""

    def interrupt(number: int, frame: object) -> None:
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGIO, interrupt)
    fcntl.fcntl(connection, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(connection, fcntl.F_GETFL)
    fcntl.fcntl(connection, fcntl.F_SETFL, flags | os.O_ASYNC)


def _run(connection: socket.socket, request: Request, control: int) -> int:
    from grader import cli

    for name in [n for n in os.environ if n in client.SENT or n.startswith("GRADE_")]:
        del os.environ[name]
    os.environ.update(request.variables)
    os.environ["COLUMNS"] = str(request.columns)
    os.chdir(request.directory)
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115, PTH123
    sys.stdout = _stream(connection, "o", request)
    sys.stderr = _stream(connection, "e", request)

    def backend(exercise: Exercise, device: str) -> runner.Worker:
        if device not in ("auto", "cpu"):
            return runner.cold(exercise, device)
        path = warm.zygote_socket(request.root, exercise)
        line = f"zygote {exercise.id} {path} {exercise.suite}\n".encode()
        try:
            return warm.ForkWorker(path, lambda: _ask(control, line))
        except warm.Unavailable:
            sys.stderr.write("grade: the warm server does not answer; this run starts cold\n")
            sys.stderr.flush()
            return runner.cold(exercise, device)

    code = cli.main(request.argv, backend=backend)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    warm.wait_for_ends()
    return code


def _ask(control: int, line: bytes) -> None:
    os.write(control, line)


def _stream(connection: socket.socket, kind: str, request: Request) -> io.TextIOWrapper:
    raw = _Frames(connection, kind, request.is_terminal)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=request.encoding, errors="backslashreplace"
    )


class _Frames(io.RawIOBase):
    """A stream whose writes become frames for the client."""

    def __init__(self, connection: socket.socket, kind: str, is_terminal: bool) -> None:
        self._connection = connection
        self._kind = kind
        self._is_terminal = is_terminal

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._is_terminal

    def write(self, data: object) -> int:
        payload = bytes(data)  # type: ignore[call-overload]
        _send(self._connection, self._kind, payload)
        return len(payload)


def _send(connection: socket.socket, kind: str, payload: bytes) -> None:
    # A client that has gone away loses what it would have read, never the attempt.
    with contextlib.suppress(OSError):
        connection.sendall(b"%s%08x" % (kind.encode(), len(payload)) + payload)
