"""The first stage of `grade`: asks the server, prints what comes back, or steps aside.

It imports `_socket` and not `socket`: importing that and what it needs costs more than the answer.
"""

from __future__ import annotations

import os
import sys

from grader.server import place

HELLO = b"torch28 1\n"
PATIENCE = 0.2
"""Seconds until a server that says nothing is left alone."""

SENT = ("TERM", "COLUMNS", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE")
_PLAIN = frozenset(
    {"-v", "--verbose", "-q", "--quiet", "--no-speed", "--failed", "--failed-first", "--json"}
)
_VALUED = frozenset({"--task", "--check", "--seed", "--timeout", "--color"})
_PLAIN |= {"--no-record", "--no-report", "-x", "--watched"}


def can_ask(argv: list[str]) -> bool:
    """Whether the words are a grading that a server can answer: ids, and options it knows."""
    if sys.platform not in ("linux", "darwin") or os.environ.get("GRADE_NO_SERVER"):
        return False
    words = iter(argv)
    ids = 0
    for word in words:
        if word in _VALUED:
            next(words, None)
        elif word[:1].isalpha() and word[-1:].isdigit() and "/" not in word:
            ids += 1
        elif word not in _PLAIN:
            return False
    return ids > 0


def ask(argv: list[str]) -> int | None:
    """Let the course's server run the command; its exit code, or None if there is no answer.

    Nothing was printed and nothing was run where the answer is None.
    """
    import _socket

    root = place.course_of(".")
    if root is None:
        return None
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        connection.settimeout(PATIENCE)
        try:
            connection.connect(place.socket_of(root))
            if not place.is_mine(connection):
                return None
            if connection.recv(len(HELLO)) != HELLO:
                return None
        except (OSError, place.Unsafe):
            return None
        connection.settimeout(None)
        connection.sendall(_request(argv, root))
        return _print(connection)
    finally:
        connection.close()


def _request(argv: list[str], root: str) -> bytes:
    columns = 80
    is_terminal = os.isatty(1)
    if is_terminal:
        try:
            columns = os.get_terminal_size(1).columns
        except OSError:
            is_terminal = False
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    variables = [f"{k}={v}" for k, v in os.environ.items() if k in SENT or k.startswith("GRADE_")]
    here = os.getcwd()  # noqa: PTH109 (pathlib's import would cost every client)
    fields = [root, here, str(int(is_terminal)), str(columns), encoding]
    fields += [str(len(variables)), *variables, *argv]
    body = "\0".join(fields).encode("utf-8", "surrogateescape")
    return b"%d\n" % len(body) + body


def _print(connection: object) -> int | None:
    """Copy the frames to standard output and error; a frame is a kind, 8 hex digits, and bytes."""
    buffer = b""
    printed = False
    while True:
        try:
            data: bytes = connection.recv(65536)  # type: ignore[attr-defined]
        except KeyboardInterrupt:
            # The server records what has ended, says so, and then sends the exit code.
            connection.sendall(b"i")  # type: ignore[attr-defined]
            continue
        except OSError:
            data = b""
        if not data:
            if not printed:
                return None
            os.write(2, b"grade: the server ended in the middle of this; run it again\n")
            return 1
        buffer += data
        while len(buffer) >= 9:
            size = int(buffer[1:9], 16)
            if len(buffer) < 9 + size:
                break
            kind, payload, buffer = buffer[:1], buffer[9 : 9 + size], buffer[9 + size :]
            if kind == b"x":
                return int(payload)
            if kind == b"s":  # stale: it has gone, and nothing was run
                return None
            printed = True
            _write(1 if kind == b"o" else 2, payload)


def _write(number: int, data: bytes) -> None:
    while data:
        data = data[os.write(number, data) :]
