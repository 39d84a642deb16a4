"""The first stage of `grade`: asks the server, prints what comes back, or steps aside.

It imports `_socket` and not `socket`: importing that and what it needs costs more than the answer.
"""

from __future__ import annotations

import os
import sys

from grader.server import place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

HELLO = b"torch28 1\n"
PATIENCE = 0.2
"""Seconds until a server that says nothing is left alone."""

SENT = ("TERM", "COLUMNS", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE")
_PLAIN = frozenset(
    {"-v", "--verbose", "-q", "--quiet", "-x", "--no-speed", "--failed", "--failed-first"}
    | {"--json", "--no-record", "--no-report"}
)
_VALUED = frozenset(
    {"--task", "--check", "--seed", "--timeout", "--color", "--watched", "--week", "--track"}
)
_VERBS = frozenset({"status", "next"})
_VERIFY = ["author", "verify"]


def can_ask(argv: list[str]) -> bool:
    """Whether a server can answer: ids and options it knows, the roadmap, verifying."""
    if sys.platform not in ("linux", "darwin") or os.environ.get("GRADE_NO_SERVER"):
        return False
    if argv[:2] == _VERIFY:
        return True
    ids = int(argv[:1] != [] and argv[0] in _VERBS)
    words = iter(argv[ids:])
    for word in words:
        if word in _VALUED:
            next(words, None)
        elif word[:1].isalpha() and word[-1:].isdigit() and "/" not in word:
            ids += 1
        elif word not in _PLAIN:
            return False
    return ids > 0


def is_grading(argv: list[str]) -> bool:
    """Whether the words that a server can answer ask for a grading."""
    return argv[0] not in _VERBS and argv[:2] != _VERIFY


def ask(argv: list[str]) -> int | None:
    """Let the course's server run the command; its exit code, or None if there is no answer.

    Nothing was printed and nothing was run where the answer is None.
    """
    answer = reach(argv)
    if answer is None:
        return None
    try:
        while not answer.is_over:
            try:
                data = answer.connection.recv(65536)
            except KeyboardInterrupt:
                answer.interrupt()
                continue
            except OSError:
                data = b""
            answer.take(data)
        return answer.code
    finally:
        answer.connection.close()


def reach(argv: list[str], patience: float | None = None) -> Answer | None:
    """Send the command to the course's server; None, and nothing was run, if none answers.

    Args:
        argv: words of the command.
        patience: seconds until a server that says nothing is left alone; `PATIENCE` if None.
    """
    import _socket

    root = place.course_of(".")
    if root is None:
        return None
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    has_asked = False
    try:
        connection.settimeout(patience or PATIENCE)
        connection.connect(place.socket_of(root))
        if place.is_mine(connection) and connection.recv(len(HELLO)) == HELLO:
            connection.settimeout(None)
            connection.sendall(_request(argv, root))
            has_asked = True
            return Answer(connection)
    except (OSError, place.Unsafe):
        pass
    finally:
        if not has_asked:
            connection.close()
    return None


class Answer:
    """A server's answer as it comes in frames: a kind, 8 hex digits of a size, and so many bytes.

    What the frames hold is copied to standard output and error.
    """

    def __init__(self, connection: socket) -> None:
        self.connection = connection
        self.code: int | None = None  # None at the end: nothing was printed and nothing was run
        self.is_over = False
        self._buffer = b""
        self._printed = False

    def interrupt(self) -> None:
        """Ctrl-C: the server records what has ended, says so, and then sends the exit code."""
        try:  # noqa: SIM105 (contextlib's import would cost every client)
            self.connection.sendall(b"i")
        except OSError:
            pass  # it has gone, which is seen when its answer is read

    def take(self, data: bytes) -> None:
        """Copy what was received; nothing at all says that the server has gone."""
        if not data:
            self.is_over = True
            if self._printed:
                os.write(2, b"grade: the server ended in the middle of this; run it again\n")
                self.code = 1
            return
        self._buffer += data
        while len(self._buffer) >= 9 and not self.is_over:
            end = 9 + int(self._buffer[1:9], 16)
            if len(self._buffer) < end:
                break
            kind, payload = self._buffer[:1], self._buffer[9:end]
            self._buffer = self._buffer[end:]
            if kind == b"x":
                self.code = int(payload)
            self.is_over = kind in (b"x", b"s")  # s: stale, it has gone
            if not self.is_over:
                self._printed = True
                _write(1 if kind == b"o" else 2, payload)


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


def _write(number: int, data: bytes) -> None:
    try:
        while data:
            data = data[os.write(number, data) :]
    except BrokenPipeError:
        # `grade day23 | head` has seen enough; what is graded is recorded all the same.
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
