"""The process that runs a suite: it imports torch, collects, and forks once for every request.

Started as `python -P -m grader.worker SUITE DEVICE [--warm]`. Requests come as JSON lines on
standard input, events leave as JSON lines on what was standard output. The suite is collected and
announced before any of the learner's text has arrived. Where there is no fork, the first request
is served in the process itself, and the process ends with it.

Requests: {"key", "nodes", "source", "scratch", "seed", "speed", "limits", "open_tasks", "results"}
Events:   ready, broken, forked, loaded, unloadable, started, case, done, spent, aborted, ended
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from grader import loading, plugin, processes
from grader.guard import Finding, Guard
from grader.model import Limits, Status

_OFF = (
    "cacheprovider",
    "junitxml",
    "pastebin",
    "stepwise",
    "doctest",
    "unittest",
    "logging",
    "warnings",
    "unraisableexception",
    "threadexception",
    "faulthandler",
    "nose",
    "setuponly",
    "setupplan",
    "debugging",
)


def main() -> int:
    """Serve requests until standard input ends."""
    suite = Path(sys.argv[1])
    device = sys.argv[2] if len(sys.argv) > 2 else "cpu"
    events = Events(os.dup(1))
    os.dup2(2, 1)  # what pytest or a library prints is nobody's event
    processes.become_parent()
    # With an accelerator, the first backward starts threads that no forked child survives.
    if "--warm" in sys.argv and (device == "cpu" or plugin.accelerator() is None):
        warm_up()
    else:
        _one_thread()
    return run_suite(suite, Server(events, device))


def run_suite(suite: Path, server: Server) -> int:
    """Run pytest on a suite, up to the run loop that the server takes over."""
    options = ["-c", str(Path(__file__).with_name("suite.ini")), "--rootdir", str(suite.parent)]
    options += ["--import-mode=importlib", "--assert=plain", "--capture=no", "-q", "--tb=no"]
    options += ["--no-header", "--no-summary", "--device", server.device]
    for name in _OFF:
        options += ["-p", f"no:{name}"]
    options += ["-p", "pytest_jsonreport.plugin", "-p", "grader.plugin", "--json-report"]
    options += ["--json-report-file=none", "--json-report-omit", "log", "streams", "keywords"]
    # Python knows its bytecode by whole seconds and the size: a suite that was saved just now may
    # be saved once more within the same second.
    sys.dont_write_bytecode = time.time() - suite.stat().st_mtime < 2.0
    # Nor is what the profiler remarks, in some versions, what the learner printed.
    warnings.filterwarnings("ignore", module=r"torch\.profiler")
    return int(pytest.main([*options, "--strict-markers", str(suite)], plugins=[server]))


def _one_thread() -> None:
    """One thread, set before the first operator: steadier, and a forked child would hang."""
    import torch

    torch.set_num_threads(1)


def warm_up() -> None:
    """Pay what the first calls of torch and pytest cost, on the CPU and on one thread.

    Worth it for a process that serves more than one request: it takes a second or two.
    """
    import _pytest.pytester  # noqa: F401  (pulls in what pytest loads late)
    import pytest_jsonreport.plugin  # noqa: F401

    _one_thread()

    import grader.testing  # noqa: F401

    first_calls()


def first_calls() -> None:
    """Call once what most suites call."""
    import torch

    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    layer = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4)).double()
    for optimizer in (torch.optim.SGD, torch.optim.Adam):
        step = optimizer(layer.parameters(), lr=0.1)
        torch.autograd.backward(layer(x).softmax(-1).square().sum())
        step.step()
        step.zero_grad()
    torch.autograd.gradcheck(lambda y: torch.einsum("ij,kj->ik", y, y).tanh(), (x,))
    torch.testing.assert_close(x.detach(), x.detach())
    q = torch.randn(1, 2, 3, 4)
    torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)
    torch.func.vmap(torch.sin)(q)
    torch.cdist(q[0], q[0])


class Events:
    """The way out: one JSON object a line, written whole."""

    def __init__(self, number: int, key: str = "") -> None:
        self._number = number
        self._key = key
        os.set_inheritable(number, False)

    def signed(self, key: str) -> Events:
        """The same way out for events that only who knows the request's key can send."""
        return Events(self._number, key)

    def send(self, event: str, **fields: Any) -> None:
        """Write one event."""
        text = json.dumps({"event": event, "key": self._key, **fields}, default=str)
        data = memoryview(text.encode("utf-8", "backslashreplace") + b"\n")
        while data:
            data = data[os.write(self._number, data) :]


class Server:
    """A pytest plugin that answers requests from inside pytest's run loop."""

    def __init__(
        self,
        events: Events,
        device: str,
        requests: Iterator[Mapping[str, Any]] | None = None,
        *,
        forks: bool = hasattr(os, "fork"),
    ) -> None:
        """Serve requests.

        Args:
            events: where the events go.
            device: what to compute on: "auto", "cpu", or a device's type.
            requests: those on standard input if None.
            forks: a child for every request; otherwise the first request is the only one.
        """
        self._events = events
        self.device = device
        self._wanted = requests
        self._forks = forks
        self._faults: list[str] = []
        self._in_child = False
        self._guard = Guard()

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep why a suite does not load."""
        if report.failed:
            self._faults.append(f"{report.nodeid}: {report.longreprtext}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Announce what was collected, then serve."""
        if self._faults or session.testsfailed:
            self._events.send("broken", faults=self._faults)
            return True
        self._events.send("ready", **self.announcement(session))
        self._guard.snapshot(plugin.suites(session))
        for request in requests() if self._wanted is None else self._wanted:
            if not self._forks:
                self._events.send("forked", pid=os.getpid())
                self.serve(session, request)
                return True
            # The collector would touch, and so copy, every page that is shared with the child.
            gc.freeze()
            child = os.fork()
            if child == 0:
                self.serve(session, request)
                os._exit(0)
            self._events.send("forked", pid=child)
            _, status, usage = os.wait4(child, 0)
            processes.end_family(child)
            self._events.send("ended", **processes.ending(status, usage))
        return True

    def announcement(self, session: pytest.Session) -> dict[str, Any]:
        """What was collected, and where."""
        import torch

        return {
            "pid": os.getpid(),
            "python": ".".join(map(str, sys.version_info[:3])),
            "torch": str(torch.__version__).partition("+")[0],
            "device": self._name_of_device(),
            "threads": torch.get_num_threads(),
            "nodes": [[item.nodeid, plugin.check_name(item)] for item in session.items],
            "forking": [item.nodeid for item in session.items if plugin.forks(item)],
        }

    def _name_of_device(self) -> str:
        name = None if self.device == "cpu" else plugin.accelerator()
        return name or "cpu"

    def serve(self, session: pytest.Session, request: Mapping[str, Any]) -> None:
        """Run what is asked for on the submission of a request; the process ends with it."""
        try:
            self._in_child = True
            every = {item.nodeid: item for item in session.items}
            items = [every[node] for node in request["nodes"]]
            limits = Limits(**request["limits"])
            run = plugin.Session(
                source=loading.Source(**request["source"]),
                scratch=Path(request["scratch"]),
                seed=request["seed"],
                device=self.device,
                speed=request["speed"],
                limits=limits,
                open_tasks=frozenset(request["open_tasks"]),
                results={name: Status(value) for name, value in request["results"].items()},
                guard=self._guard,
                capture=plugin.Capture(),
            )
            session.config.stash[plugin.SESSION] = run
            self._events = events = self._events.signed(request["key"])
            _confine(run)
            # Local names: a submission that bends this class or the plugin does not reach them.
            take, send = self._guard.sealed(), events.send
            tests = self._config._json_report._json_tests  # type: ignore[attr-defined]
            if self._load(run, take):
                for number, item in enumerate(items):
                    following = items[number + 1] if number + 1 < len(items) else None
                    item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                    found = take()
                    case = tests.pop(item.nodeid)
                    if found:
                        error = plugin.tampered(found, run.source)
                        case["metadata"] = {
                            **case.get("metadata", {}),
                            "status": Status.FAILED,
                            "message": {"id": error.id, "text": error.text, "args": error.args_},
                        }
                    send("case", test=case)
                    if plugin.has_lost_device(self.device):
                        send("spent")
                        break
                else:
                    send("done")
        except BaseException as error:  # `pytest.exit`, `KeyboardInterrupt`: the case has no end
            with contextlib.suppress(BaseException):
                self._events.send("aborted", kind=type(error).__name__, text=str(error)[:500])
        finally:
            if hasattr(os, "fork"):
                os._exit(0)

    def _load(self, run: plugin.Session, take: Callable[[], list[Finding]]) -> bool:
        """Run the learner's file; whether there is anything to check afterwards."""
        source, guard, capture = run.source, run.guard, run.capture
        assert source is not None
        assert guard is not None
        assert capture is not None
        plugin.seed_everything(run.seed, "load")
        sys.argv[:] = [source.file]  # as if the file had been started: it has no other words
        guard.watch()
        guard.file = source.file
        try:
            with plugin._limited(run.limits):
                run.modules[source.file] = loading.load(source)
            if found := take():
                raise plugin.tampered(found, source)
        except BaseException as raised:
            # What was refused has raised, too.
            error = plugin.tampered(found, source) if (found := take()) else raised
            output, truncated = capture.take()
            self._events.send(
                "unloadable",
                output=output,
                output_truncated=truncated,
                kind=type(error).__name__,
                text=_say(error, run),
                lines=plugin.learner_lines(error, source.file),
                traceback=plugin.learner_traceback(error, source.file),
            )
            return False
        output, truncated = capture.take()
        self._events.send("loaded", output=output, output_truncated=truncated)
        return True

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Say which case is running: if the process dies, it died of this one."""
        if self._in_child:
            self._events.send("started", node=nodeid)

    def pytest_configure(self, config: pytest.Config) -> None:
        """Remember where pytest-json-report keeps its tests."""
        self._config = config


def requests() -> Iterator[dict[str, Any]]:
    """The requests on standard input; the learner's code finds an empty one in its place."""
    number = os.dup(0)
    os.set_inheritable(number, False)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    with os.fdopen(number, "rb") as stream:
        for line in iter(stream.readline, b""):
            yield json.loads(line)


def _say(error: BaseException, run: plugin.Session) -> str:
    match error:
        case plugin.TimeLimit():
            limits = run.limits or Limits()
            spent = limits.cpu_seconds if str(error) == "cpu" else limits.wall_seconds
            return f"stopped after {spent:g} s while the file was imported"
        case MemoryError():
            return f"used more than {(run.limits or Limits()).memory_bytes / 2**30:g} GB of memory"
        case SystemExit():
            return f"the file ends Python (exit code {error.code}) while it is imported"
    return str(error).strip().partition("\n")[0][:500]


# --- the child and its end --------------------------------------------------------------------


def _confine(run: plugin.Session) -> None:
    """Give the child a session, a scratch folder and limits of its own."""
    assert run.limits is not None
    assert run.scratch is not None
    assert run.capture is not None
    if hasattr(os, "fork"):
        if os.getsid(0) != os.getpid():
            os.setsid()
        processes.die_with_parent()
    os.chdir(run.scratch)
    run.capture.redirect()
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115, PTH123
    sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    with contextlib.suppress(ImportError):
        import resource

        limits = {resource.RLIMIT_FSIZE: run.limits.output_bytes, resource.RLIMIT_CORE: 0}
        number, used = _memory_limit()
        limits[number] = run.limits.memory_bytes + used
        for number, value in limits.items():
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(number, (value, value))


def _memory_limit() -> tuple[int, int]:
    """Which limit holds down what is allocated, and how many bytes of it are not the learner's.

    Address space, where that is possible. A GPU's driver reserves far more than it uses, be it
    only to find that all devices are hidden: there it is what is mapped to be written. Memory of
    the GPU, and host memory pinned for it, are held down by neither.
    """
    import resource

    import torch

    number, column, driver = resource.RLIMIT_AS, 0, 0
    if torch.version.cuda is not None:
        # Seen on an H100: 0.55 GB once a context, cuDNN, cuBLAS and the profiler are up.
        number, column, driver = resource.RLIMIT_DATA, 5, 2**30
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[column])
        return number, pages * os.sysconf("SC_PAGE_SIZE") + driver
    return number, 2**30


if __name__ == "__main__":
    try:
        code = main()
    except BaseException:
        traceback.print_exc()
        code = 3
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
