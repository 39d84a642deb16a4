"""Starting, finding and stopping a course's server."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from grader import runner
from grader.server import place


def in_background(root: str, kind: str = "") -> bool:
    """Start the course's server unless it runs or cannot help here; whether one was started.

    Args:
        root: the course.
        kind: "base" forks its answers, "spare" keeps processes ahead; what fits the system if
            empty. A base that finds an accelerator becomes a spare.
    """
    if sys.platform not in ("linux", "darwin") or os.environ.get("GRADE_NO_SERVER"):
        return False
    # macOS forks, but its libraries do not survive it.
    kind = kind or ("base" if sys.platform == "linux" else "spare")
    try:
        stem = f"{place.folder()}/{place.name(root)}"
    except place.Unsafe:
        return False
    if pid_of(root) is not None:
        return False
    # A learner without room for a log has other worries.
    with contextlib.suppress(OSError), Path(f"{stem}.log").open("wb") as log:
        started = subprocess.run(
            [sys.executable, "-P", "-m", f"grader.server.{kind}", root],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=runner.worker_environment("auto"),
            check=False,
        )
        return started.returncode == 0
    return False


def pid_of(root: str) -> int | None:
    """The process id of the course's server, if one holds the lock."""
    import fcntl

    try:
        path = Path(f"{place.folder()}/{place.name(root)}.lock")
        with path.open("r+", encoding="ascii") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                text = lock.read().strip()
                return int(text) if text.isdigit() else 0
    except (OSError, place.Unsafe):
        pass
    return None


def describe(root: str) -> str:
    """What there is of a course's server, and what memory it holds."""
    pid = pid_of(root)
    if pid is None:
        return "No server runs; the next grade starts one."
    if not pid or not any(map(os.path.exists, (place.socket_of(root), place.spare_of(root)))):
        return "The server is starting."
    import psutil

    try:
        base = psutil.Process(pid)
        lines = [f"The server runs as process {pid}, {_private(base)} MB of its own."]
        for child in base.children(recursive=True):
            lines.append(f"  process {child.pid}: {_private(child)} MB of its own")
    except psutil.Error:
        return "The server has just ended."
    return "\n".join(lines)


def _private(process: Any) -> int:
    """Megabytes of memory that no other process shares."""
    return int(process.memory_full_info().uss) // 2**20


def stop(root: str, seconds: float = 5.0) -> bool:
    """End the course's server; whether there was one."""
    pid = pid_of(root)
    if not pid:
        return False
    limit = time.monotonic() + seconds
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    while pid_of(root) is not None:
        if time.monotonic() > limit:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            break
        time.sleep(0.02)
    return True
