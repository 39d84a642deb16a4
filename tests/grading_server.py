"""A course's server, and `grade` asked of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from grader.server import place, start

PATIENCE = 120.0


def wait_for(path: str) -> None:
    """Wait until a server listens at a socket."""
    limit = time.monotonic() + PATIENCE
    while not Path(path).exists():
        assert time.monotonic() < limit, "the server did not start"
        time.sleep(0.05)


class Server:
    """A server of a course, and `grade` asked of it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def wait(self) -> int:
        """The server's process id, once it listens."""
        limit = time.monotonic() + PATIENCE
        while time.monotonic() < limit:
            pid = start.pid_of(str(self.root))
            if pid and Path(place.socket_of(str(self.root))).exists():
                return pid
            time.sleep(0.05)
        raise AssertionError("the server did not start")

    def grade(self, *argv: str) -> tuple[int | None, str, str]:
        """What a client of the server prints; its code is None if the server did not answer."""
        code = (
            "import sys; from grader.server import client; client.PATIENCE = 20.0\n"
            "code = client.ask(sys.argv[1:]); sys.exit(99 if code is None else code)"
        )
        environment = {k: v for k, v in os.environ.items() if k != "GRADE_NO_SERVER"}
        done = self._run(["-c", code, *argv], environment)
        return None if done.returncode == 99 else done.returncode, done.stdout, done.stderr

    def begin(self, *argv: str, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
        """The command as it is typed, but for its patience, under way."""
        code = (
            "import sys; from grader.server import client; client.PATIENCE = 20.0\n"
            "from grader import entry; sys.exit(entry.main())"
        )
        environment = {k: v for k, v in os.environ.items() if k != "GRADE_NO_SERVER"}
        return subprocess.Popen(
            [sys.executable, "-u", "-c", code, *argv],
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=environment,
        )

    def without(self, *argv: str) -> tuple[int, str, str]:
        """What the whole command prints without a server."""
        done = self._run(["-m", "grader", *argv], os.environ | {"GRADE_NO_SERVER": "1"})
        return done.returncode, done.stdout, done.stderr

    def _run(
        self, words: list[str], environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words],
            cwd=self.root,
            capture_output=True,
            text=True,
            env=environment,
            timeout=PATIENCE,
            check=False,
        )

    def write(self, text: str) -> None:
        """Put a submission in place."""
        (self.root / "exercises/day01/scaling.py").write_text(text, encoding="utf-8")
