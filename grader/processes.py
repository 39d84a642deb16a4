"""Parents and children: who ends with whom, and what a child that has ended leaves behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def become_parent() -> None:
    """End with whoever started this process, and inherit what children leave behind."""
    become_subreaper()
    die_with_parent()


def become_subreaper() -> None:
    """Inherit what children leave behind; on Linux only."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """End this process when the one that forked it ends; on Linux only."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def outlive_parent() -> None:
    """Take `die_with_parent` back."""
    _prctl(_PR_SET_PDEATHSIG, 0)


def ending(status: int, usage: Any) -> dict[str, Any]:
    """How a child ended and what it used, from `os.wait4`."""
    signalled = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    return {
        "exit": None if signalled else os.WEXITSTATUS(status),
        "signal": signalled,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * 1024,
    }


def end_family(child: int, others: Collection[int] = ()) -> None:
    """End everything that a child left behind, daemons too.

    Args:
        child: it has been waited for.
        others: children of this process that go on.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    for _ in range(100):
        # Orphans of the child are children of this process now, as it is their subreaper.
        orphans = [pid for pid in _children() if pid not in others]
        if not orphans:
            return
        import psutil

        for pid in orphans:
            with contextlib.suppress(psutil.Error):
                orphan = psutil.Process(pid)
                for process in (*orphan.children(recursive=True), orphan):
                    process.kill()
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _children() -> list[int]:
    """The children of this process; Linux knows them without a look at every process there is."""
    try:
        threads = os.listdir("/proc/self/task")  # noqa: PTH208 (on the way of every answer)
        texts = [Path(f"/proc/self/task/{thread}/children").read_bytes() for thread in threads]
        return [int(pid) for text in texts for pid in text.split()]
    except OSError:
        import psutil

        return [process.pid for process in psutil.Process().children()]


def _prctl(option: int, value: int) -> None:
    """Linux's `prctl`; elsewhere nothing happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
