"""A worker started ahead of its suite: torch imported, first calls paid, one request in it.

Where a forked child can't use the accelerator, or where there is no fork, a process is made for
every answer; started before it is asked for, it answers nearly as soon as a forked one. Started as
`python -P -m grader.server.oneshot`. Its first line on standard input names the suite; from there
on it is a worker like the cold one, which serves in its own process and ends.
"""

from __future__ import annotations

import os
import time
import traceback
from pathlib import Path
from typing import Any

import pytest

from grader import processes, worker


def main() -> int:
    """Warm up, wait for a suite, serve one request."""
    events = worker.Events(os.dup(1))
    os.dup2(2, 1)  # what pytest or a library prints is nobody's event
    processes.become_parent()
    worker.warm_up()
    _touch_accelerator()
    requests = worker.requests()
    wanted = next(requests, None)
    if wanted is None:
        return 0  # nobody has asked
    server = OneShot(events, wanted["device"], requests, forks=False)
    return worker.run_suite(Path(wanted["suite"]), server)


class OneShot(worker.Server):
    """A worker whose only request is served in its own process."""

    def announcement(self, session: pytest.Session) -> dict[str, Any]:
        """What was collected, and what the process had used by then."""
        known = super().announcement(session)
        return known | {"backend": "spare", "cpu_seconds_before": time.process_time()}


def _touch_accelerator() -> None:
    """Pay for the driver's context, which costs more than anything else on a GPU."""
    import torch

    from grader import plugin

    if plugin.accelerator() is not None:
        device = torch.accelerator.current_accelerator()
        x = torch.ones(8, 8, device=device, requires_grad=True)
        torch.autograd.grad((x @ x).sum(), x)
        torch.accelerator.synchronize()


if __name__ == "__main__":
    try:
        code = main()
    except BaseException:
        traceback.print_exc()
        code = 3
    os._exit(code)
