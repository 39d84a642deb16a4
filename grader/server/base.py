"""The base process of a course's server: everything imported and warmed up, nothing computed.

It keeps one session forked ahead, which accepts the next client by itself, and forks a zygote for
an exercise when a session asks. It runs no learner's code and holds no thread. Started as
`python -P -m grader.server.base ROOT`; ends after 15 idle minutes, when memory runs low, or when
its own files change.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib.util
import os
import select
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from grader.server import place

IDLE_SECONDS = 15 * 60
BREATH = 0.25
"""Seconds after a client has come in which nothing is forked ahead: its answer has the machine."""

LEAST_MEMORY = 400 * 2**20
"""Bytes of memory that must be available on the machine; below, the server makes room."""


def main() -> int:
    """Serve a course in the background until nobody needs it; 1 if there is a server already."""
    root = sys.argv[1]
    os.umask(0o077)
    stem = f"{place.folder()}/{place.name(root)}"
    lock = os.open(f"{stem}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return 1  # there is one
    if os.fork():
        os._exit(0)  # whoever started this need not wait; the child keeps the lock
    os.setsid()
    # Before the slow part: a server that is still starting can be ended too.
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())
    warm_up(root)
    from grader import plugin

    if plugin.accelerator() is not None:
        # A forked child could not use it, and a verdict from the CPU alone would be another one.
        os.close(lock)
        os.execv(sys.executable, [sys.executable, "-P", "-m", "grader.server.spare", root])
    return Base(root, stem, lock).serve()


def warm_up(root: str) -> None:
    """Import what grading imports, and do once what is slow only the first time.

    On one thread, since a forked child has no other. The course's pages are written into a folder
    that is thrown away: so every session has the parser, the exercises and the templates at hand.
    """
    import psutil  # noqa: F401

    from grader import cli, console, grading, notebook, worker  # noqa: F401
    from grader.server import session, warm  # noqa: F401

    worker.warm_up()
    with tempfile.TemporaryDirectory(prefix="torch28-") as folder:
        # What is wrong with the course is for a session to say.
        cli.main(["-C", root, "report", "--out", folder, "--quiet"])


def fingerprint() -> tuple[tuple[str, int, int], ...]:
    """What the server was made of: the engine's files, its templates, torch, the interpreter."""
    import grader
    from grader.pages.writing import templates_folder

    files = [*_files(os.path.dirname(grader.__file__), ".py"), sys.executable]  # noqa: PTH120
    files += _files(str(templates_folder()), "")
    for module in ("torch", "_pytest"):
        found = importlib.util.find_spec(module)
        if found is not None and found.origin:
            files.append(found.origin)
    return tuple(sorted(_stamps(files)))


def _files(folder: str, ending: str) -> Iterator[str]:
    """The files below a folder, without what was compiled; `Path.rglob` takes ten times as long."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(ending) and entry.is_file():
                yield entry.path
            elif ending and entry.is_dir() and entry.name != "__pycache__":
                yield from _files(entry.path, ending)


def _stamps(files: list[str]) -> Iterator[tuple[str, int, int]]:
    for path in files:
        with contextlib.suppress(OSError):
            found = os.stat(path)  # noqa: PTH116
            yield path, found.st_mtime_ns, found.st_size


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A session that waits for a client."""

    pid: int
    end: int  # can be read once it has ended

    @classmethod
    def of(cls, pid: int) -> _Waiting:
        return cls(pid, os.pidfd_open(pid))


class Base:
    """The listening socket, the session forked ahead, and the zygotes."""

    def __init__(self, root: str, stem: str, lock: int) -> None:
        self._lock = lock  # held by this process alone: a child that lives on must not keep it
        self.root = root
        self.stem = stem
        self._made_of = fingerprint()
        self._zygotes: dict[str, tuple[int, str]] = {}  # exercise -> pid, socket
        self._read, self._write = os.pipe()
        self._listener = listen(f"{stem}.sock")
        self._waiting: _Waiting | None = None

    def serve(self) -> int:
        """Keep a session ahead until there is a reason to end."""
        signal.signal(signal.SIGTERM, leave)
        signal.signal(signal.SIGINT, leave)
        gc.collect()
        gc.freeze()
        self._fork_session()
        last = time.monotonic()
        try:
            while time.monotonic() - last < IDLE_SECONDS and not is_memory_low():
                if self._waiting:
                    heard, wait = [self._read, self._waiting.end], 30.0
                else:  # who comes before there is another session is heard here
                    heard, wait = [self._read, self._listener.fileno()], BREATH
                ready, _, _ = select.select(heard, [], [], wait)
                self._reap()
                if self._read in ready:
                    last = time.monotonic()
                    for line in os.read(self._read, 65536).decode().splitlines():
                        word, _, rest = line.partition(" ")
                        if word == "taken":
                            self._forget_session(int(rest))
                        elif word == "zygote":
                            self._fork_zygote(*rest.split(" ", 2))
                        elif word == "stale":
                            return 0
                elif not self._waiting:
                    self._fork_session()
                elif ready:  # ended from outside
                    self._forget_session(self._waiting.pid)
            return 0
        finally:
            self._end()

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, _ = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                for id, (zygote, path) in list(self._zygotes.items()):
                    if zygote == pid:
                        del self._zygotes[id]
                        Path(path).unlink(missing_ok=True)

    def _forget_session(self, pid: int) -> None:
        if self._waiting and self._waiting.pid == pid:
            os.close(self._waiting.end)
            self._waiting = None

    def _fork_session(self) -> None:
        pid = os.fork()
        if pid == 0:
            code = 1
            with contextlib.suppress(BaseException):
                from grader.server import session

                os.close(self._read)
                os.close(self._lock)
                folder = Path(f"{self.stem}.rehearsal")
                session.serve(self._listener, self._write, self.root, folder, self._is_stale)
                code = 0
            os._exit(code)
        self._waiting = _Waiting.of(pid)

    def _is_stale(self) -> bool:
        return fingerprint() != self._made_of

    def _fork_zygote(self, id: str, path: str, suite: str) -> None:
        """Fork a zygote that listens at `path`, and end the one of an older suite."""
        old = self._zygotes.get(id)
        if old is not None:
            if old[1] == path and _is_alive(old[0]):
                return  # two sessions asked
            with contextlib.suppress(ProcessLookupError):
                os.kill(old[0], signal.SIGKILL)
            Path(old[1]).unlink(missing_ok=True)
        listener = listen(path)
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                from grader.server import zygote

                self._listener.close()
                os.close(self._lock)
                os.close(self._read)
                os.close(self._write)
                if self._waiting:
                    os.close(self._waiting.end)
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                zygote.serve(Path(suite), listener)
            os._exit(0)
        listener.close()
        self._zygotes[id] = (pid, path)

    def _end(self) -> None:
        """End everything that waits; sessions that answer a client go on by themselves."""
        Path(f"{self.stem}.sock").unlink(missing_ok=True)
        if self._waiting:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._waiting.pid, signal.SIGKILL)
        for pid, path in self._zygotes.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            Path(path).unlink(missing_ok=True)


def listen(path: str) -> socket.socket:
    """A socket of this user alone."""
    Path(path).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    Path(path).chmod(0o600)
    listener.listen(64)
    return listener


def _is_alive(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG) == (0, 0)
    except ChildProcessError:
        return False


def is_memory_low() -> bool:
    """Whether the machine needs the server's memory."""
    import psutil

    return bool(psutil.virtual_memory().available < LEAST_MEMORY)


def leave(number: int, frame: object) -> NoReturn:
    """End in good order on a signal."""
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
