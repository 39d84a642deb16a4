"""Running a suite on a submission in another process, and what came of it, case by case.

A back-end is something that yields a `Worker`; the verdict does not depend on which one did.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from grader.errors import CourseError, EnvironmentFault
from grader.model import Exercise, Limits, Status

GRACE = 3.0
"""Seconds that a case may overrun before its process is killed from outside."""

START_SECONDS = 180.0
"""Seconds to import torch and collect a suite; a cold, busy disk takes its time."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be run: the submission's texts, which checks, how."""

    files: Mapping[str, str]  # everything that lies in the scratch folder: name -> text
    module: str  # which of them is imported: "self_attention.py"
    display: str  # the module's file as the learner knows it
    checks: tuple[str, ...]  # names of the checks to run
    open_tasks: tuple[str, ...] = ()
    modules: Mapping[str, str] = field(default_factory=dict)  # importable beside it
    seed: int = 0
    speed: bool = True
    limits: Limits = field(default_factory=Limits)
    counts_cpu: bool = True  # else nobody asks what the processes used


@dataclass(slots=True)
class RawRun:
    """What came out of a worker, before anybody judged it."""

    environment: dict[str, Any] = field(default_factory=dict)
    nodes: dict[str, list[str]] = field(default_factory=dict)  # check name -> its cases
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)  # node -> json-report's test
    deaths: dict[str, dict[str, Any]] = field(default_factory=dict)  # check name -> how it died
    unloadable: dict[str, Any] | None = None
    loaded: dict[str, Any] | None = None
    cut_short: bool = False  # the limit of the whole run was reached
    left: bool = False  # a process was not waited for: the scratch folder goes when it has ended
    outage: bool = False  # a warm worker has ended under a check, which was then run once more
    cpu_seconds: float = 0.0  # of the processes that served it
    forking: frozenset[str] = frozenset()  # cases that fork

    def needs_cpu(self, node: str) -> bool:
        """Whether a case has to run where no accelerator is seen, and one is there."""
        return node in self.forking and self.environment["device"] != "cpu"


class Worker(Protocol):
    """A process that has collected one suite and answers requests."""

    ready: Mapping[str, Any]

    def wait_until_ready(self) -> None:
        """Wait until the suite is collected; raises `CourseError` or `EnvironmentFault`."""

    def request(self, request: Mapping[str, Any]) -> None:
        """Send one request."""

    def events(self, deadline: Callable[[], float]) -> Iterator[Mapping[str, Any]]:
        """The events of the request, until `ended`; raises `TimeoutError` past the deadline."""

    def leave(self, afterwards: Callable[[], None]) -> bool:
        """Go on without a request that has said all; False where its end has to be waited for.

        Args:
            afterwards: called once the process that served it has ended, if it is left.
        """

    def kill_child(self) -> None:
        """End the process that serves the request."""

    def kill(self) -> None:
        """End the worker: it does not answer any more."""

    def close(self) -> None:
        """Say that nobody has a request for it any more."""


Backend = Callable[[Exercise, str], Worker]


class EventStream:
    """JSON lines read from a descriptor, as long as a deadline that may move allows."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._buffer = bytearray()

    def events(self, deadline: Callable[[], float]) -> Iterator[Mapping[str, Any]]:
        """The events until `ended`, or until the other end is gone.

        Raises:
            TimeoutError: the deadline, a time of `time.monotonic`, has passed.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self._number, selectors.EVENT_READ)
            while True:
                end = self._buffer.find(b"\n")
                if end >= 0:
                    line = bytes(self._buffer[:end])
                    del self._buffer[: end + 1]
                    event = _event(line)
                    if event is None:
                        continue
                    yield event
                    if event["event"] == "ended":
                        return
                    continue
                left = deadline() - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                if selector.select(min(left, 1.0)):
                    data = os.read(self._number, 1 << 16)
                    if not data:
                        return
                    self._buffer += data


class ColdWorker:
    """A fresh interpreter: the back-end that is always right."""

    def __init__(self, exercise: Exercise, device: str, *, warm: bool = False) -> None:
        """Start it.

        Args:
            exercise: whose suite it collects.
            device: "auto", "cpu", or a device's type.
            warm: pay what torch's first calls cost before collecting: for many requests.
        """
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed in `close`)
        command = [sys.executable, "-P", "-m", "grader.worker", str(exercise.suite), device]
        command += ["--warm"] if warm else []
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=worker_environment(device),
            cwd=exercise.source,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        self._stream = EventStream(self._out.fileno())
        self._child: int | None = None
        self.ready: Mapping[str, Any] = {}

    def wait_until_ready(self) -> None:
        """Wait until torch is imported and the suite collected.

        Raises:
            CourseError: the suite does not load.
            EnvironmentFault: the worker could not start at all.
        """
        limit = time.monotonic() + START_SECONDS
        try:
            event = next(self.events(lambda: limit), None)
        except TimeoutError:
            event = None
        if event is not None and event["event"] == "ready":
            self.ready = event
            return
        if event is not None and event["event"] == "broken":
            raise CourseError("the suite does not load: " + last_line(event["faults"]))
        raise EnvironmentFault(f"the checks could not be started: {self._said()}")

    def request(self, request: Mapping[str, Any]) -> None:
        """Send one request."""
        self._child = None
        with contextlib.suppress(BrokenPipeError):  # its death is seen when events are read
            self._in.write(json.dumps(request).encode() + b"\n")
            self._in.flush()

    def events(self, deadline: Callable[[], float]) -> Iterator[Mapping[str, Any]]:
        """The worker's events, until `ended` or until the worker itself has ended."""
        for event in self._stream.events(deadline):
            if event["event"] == "forked":
                self._child = event["pid"]
            yield event

    def leave(self, afterwards: Callable[[], None]) -> bool:
        """Its next request comes through the same pipe."""
        return False

    def kill_child(self) -> None:
        """End the process that serves the request, or the worker if there is none."""
        if self._child is not None:
            for kill, target in ((os.killpg, self._child), (os.kill, self._child)):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    kill(target, signal.SIGKILL)
        else:
            self._process.kill()

    def kill(self) -> None:
        """End the worker; everything it started ends with it."""
        self.close()

    def close(self) -> None:
        """End the worker; everything it started ends with it."""
        with contextlib.suppress(OSError):
            self._in.close()
        try:
            self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            if self._child is not None:
                self.kill_child()
            with contextlib.suppress(ProcessLookupError, PermissionError, AttributeError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()
            self._process.wait()
        self._out.close()
        self._log.close()

    def _said(self) -> str:
        self._process.poll()
        self._log.seek(0)
        text = self._log.read()[-20000:].decode("utf-8", "replace")
        return last_line([text]) or f"exit code {self._process.returncode}"


_UNSIGNED = frozenset({"forked", "ended"})
"""Events about the process that serves a request, by the one that started it."""


def cold(exercise: Exercise, device: str) -> Worker:
    """Start a fresh interpreter; it imports torch while the caller goes on."""
    return ColdWorker(exercise, device)


class KeptWorker:
    """One worker a device for many runs of one exercise: ended when it dies, or all is done."""

    def __init__(self) -> None:
        self._workers: dict[str, Worker] = {}  # by device

    def start(self, exercise: Exercise, device: str) -> Worker:
        """A back-end: the worker that is there, or a new one."""
        if device not in self._workers:
            self._workers[device] = ColdWorker(exercise, device, warm=True)
            self._workers[device].wait_until_ready()
        return _LentWorker(self, self._workers[device])

    def drop(self) -> None:
        """End the worker."""
        while self._workers:
            self._workers.popitem()[1].kill()


class KeptWorkers:
    """Kept workers for runs side by side: as many an exercise as there are runs at once."""

    def __init__(self) -> None:
        self._idle: dict[str, queue.SimpleQueue[KeptWorker]] = {}
        self._all: list[KeptWorker] = []

    @contextlib.contextmanager
    def lent(self, exercise: Exercise) -> Iterator[Backend]:
        """A back-end for one run at a time: a worker that is idle, or a new one."""
        idle = self._idle.setdefault(exercise.id, queue.SimpleQueue())
        try:
            worker = idle.get_nowait()
        except queue.Empty:
            worker = KeptWorker()
            self._all.append(worker)
        try:
            yield worker.start
        finally:
            idle.put(worker)

    def drop(self) -> None:
        """End them."""
        for worker in self._all:
            worker.drop()


class _LentWorker:
    """A worker that outlives the run it is lent to."""

    def __init__(self, owner: KeptWorker, worker: Worker) -> None:
        self._owner = owner
        self._worker = worker
        self.ready = worker.ready
        self.request = worker.request
        self.events = worker.events
        self.leave = worker.leave
        self.kill_child = worker.kill_child

    def wait_until_ready(self) -> None:
        """It is."""

    def kill(self) -> None:
        """It does not answer any more."""
        self._owner.drop()

    def close(self) -> None:
        """The next run will take it."""


def worker_environment(device: str) -> dict[str, str]:
    """The variables of a worker: nothing on the learner's machine bends the result."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST_", "PYTHON", "COV_", "TORCH_LOGS"))
    }
    kept |= {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONUTF8": "1",
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
        # Or the profiler's own notes count as what the learner printed.
        "KINETO_LOG_LEVEL": "99",
    }
    if device == "cpu":
        kept["CUDA_VISIBLE_DEVICES"] = ""
    return kept


def run(
    start: Callable[[bool], Worker],
    job: Job,
    on_ready: Callable[[Mapping[str, Any]], None],
    on_check: Callable[[str, RawRun], None],
) -> RawRun:
    """Run a job, in as many processes as its deaths ask for.

    Args:
        start: `start(on_cpu)` starts a worker, ready or about to be; if `on_cpu`, one that sees no
            accelerator.
        job: what to run.
        on_ready: called once with the worker's `ready` event.
        on_check: called with a check's name whenever all its cases have ended.

    Returns:
        Everything that came out. A check that is in neither `cases` nor `deaths` was not reached.
    """
    raw = RawRun()
    scratch = Path(tempfile.mkdtemp(prefix="torch28-"))
    worker: Worker | None = None
    on_cpu = False  # whether the accelerator, if there is one, is hidden from the worker
    limit = time.monotonic() + job.limits.run_seconds + START_SECONDS
    try:
        while True:
            if worker is None:
                worker = start(on_cpu)
                worker.wait_until_ready()
                if not raw.nodes:
                    _take_ready(raw, worker.ready)
                    on_ready(worker.ready)
                    limit = time.monotonic() + job.limits.run_seconds
            pending = [
                node
                for name in job.checks
                if name not in raw.deaths
                for node in raw.nodes.get(name, ())
                if node not in raw.cases
            ]
            if not pending or raw.unloadable is not None or raw.cut_short:
                return raw
            wants_cpu, asked = next(itertools.groupby(pending, raw.needs_cpu))
            if wants_cpu != on_cpu:
                worker.close()
                worker, on_cpu = None, wants_cpu
                continue
            _fill(scratch, job)
            alive = _serve(worker, job, raw, list(asked), scratch, limit, on_check)
            if not alive:
                worker.kill()
                worker = None
    finally:
        if worker is not None:
            worker.close()
        if not raw.left:
            _remove(scratch)


def _take_ready(raw: RawRun, ready: Mapping[str, Any]) -> None:
    raw.environment = {k: ready[k] for k in ("python", "torch", "device", "threads")}
    for node, name in ready["nodes"]:
        raw.nodes.setdefault(name, []).append(node)
    raw.forking = frozenset(ready.get("forking", ()))


def _serve(
    worker: Worker,
    job: Job,
    raw: RawRun,
    pending: list[str],
    scratch: Path,
    limit: float,
    on_check: Callable[[str, RawRun], None],
) -> bool:
    """Serve one request to its end; whether the worker can take another one."""
    check_of = {node: name for name, nodes in raw.nodes.items() for node in nodes}
    key = os.urandom(8).hex()
    worker.request(
        {
            "key": key,
            "nodes": pending,
            "source": {
                "name": Path(job.module).stem,
                "file": job.display,
                "text": job.files[job.module],
                "path": str(scratch / job.module),
                "modules": dict(job.modules),
            },
            "scratch": str(scratch),
            "seed": job.seed,
            "speed": job.speed,
            "limits": asdict(job.limits),
            "open_tasks": list(job.open_tasks),
            "results": _results(raw, check_of),
        }
    )
    patience = job.limits.wall_seconds + GRACE
    deadline = time.monotonic() + patience
    running: str | None = None  # the node that is being run
    whole = False  # the child has run everything it was asked to
    ended: Mapping[str, Any] = {}
    aborted = ""  # the exception that ended pytest
    late = False
    for _ in range(2):
        try:
            # Read anew for every event: a case that has ended moves the deadline.
            for event in worker.events(lambda: min(deadline, limit)):  # noqa: B023
                if event["event"] not in _UNSIGNED and event.get("key") != key:
                    continue  # written into the channel by someone else
                match event["event"]:
                    case "started":
                        running = event["node"]
                        deadline = time.monotonic() + patience
                    case "case":
                        node = event["test"]["nodeid"]
                        if node not in check_of:
                            continue
                        raw.cases[node] = event["test"]
                        running = None
                        deadline = time.monotonic() + patience
                        name = check_of[node]
                        if all(other in raw.cases for other in raw.nodes[name]):
                            on_check(name, raw)
                    case "loaded":
                        raw.loaded = dict(event)
                    case "unloadable":
                        raw.unloadable = dict(event)
                        whole = True
                    case "done" | "spent":  # "spent": the rest needs another process
                        whole = True
                        if not job.counts_cpu and worker.leave(lambda: _remove(scratch)):
                            raw.left = True
                            return True
                    case "aborted":
                        aborted = str(event["kind"])
                    case "ended":
                        ended = event
                        raw.cpu_seconds += event["cpu_seconds"]
            break
        except TimeoutError:
            late = True
            raw.cut_short = raw.cut_short or time.monotonic() > limit
            worker.kill_child()
            deadline = limit = time.monotonic() + GRACE
    if raw.cut_short:
        return bool(ended)
    is_warm = worker.ready.get("backend", "cold") != "cold"
    if not whole and not ended and not late and is_warm and not raw.outage:
        # The server itself has gone: somebody ended it, or the submission did. Run again, the
        # check says which.
        raw.outage = True
        return False
    if not whole:
        death = {
            "late": late,
            "aborted": aborted,
            **{k: ended.get(k) for k in ("exit", "signal", "peak_bytes")},
        }
        if running is not None:
            raw.deaths[check_of[running]] = death
            on_check(check_of[running], raw)
        elif raw.loaded is None:
            raw.unloadable = {"kind": "killed", "text": "", "lines": [], "output": "", **death}
        else:
            # It died between two checks: of a thread or a timer that an earlier one left behind.
            name = check_of[next((node for node in pending if node not in raw.cases), pending[-1])]
            raw.deaths[name] = death
            on_check(name, raw)
    return bool(ended)


def _results(raw: RawRun, check_of: Mapping[str, str]) -> dict[str, str]:
    """What is known from earlier processes of the same run: check name -> status."""
    known: dict[str, str] = dict.fromkeys(raw.deaths, Status.KILLED)
    for node, test in raw.cases.items():
        status = str(test.get("metadata", {}).get("status", Status.ERROR))
        name = check_of[node]
        if known.get(name, Status.PASSED) == Status.PASSED:
            known[name] = status
    return known


def _fill(scratch: Path, job: Job) -> None:
    for name, text in job.files.items():
        path = scratch / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="surrogatepass")


def _remove(folder: Path) -> None:
    """Remove a scratch folder, locked sub-folders of a submission's making too."""

    def unlock(function: Callable[[str], object], path: str, error: object) -> None:
        with contextlib.suppress(OSError):
            if Path(path) != folder:  # what the folder lies in is nobody's to unlock
                Path(path).parent.chmod(0o700)
            Path(path).chmod(0o700)
            function(path)

    with contextlib.suppress(OSError, RecursionError):
        shutil.rmtree(folder, onerror=unlock)


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None


def last_line(texts: list[str]) -> str:
    """The last line of some texts that says something."""
    lines = [line.strip() for text in texts for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
