"""The pytest side: markers, fixtures, limits, and the record of each check.

Plain `pytest solutions/day23` holds the reference to its suite; `--submission FILE` any other
file. The worker (`grader.worker`) fills in a `Session` itself and streams what ends.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import tomllib
import traceback
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pluggy
import pytest
from _pytest.outcomes import Failed, Skipped

from grader import exercise_file, loading
from grader.guard import Guard
from grader.model import DEFAULT_SEED, WORST_FIRST, Kind, Limits, Status
from grader.testing import _record
from grader.testing._failure import CheckFailed

KEEP = 32 * 1024
"""Bytes of a check's output that are kept at either end."""


class TimeLimit(BaseException):
    """A check used up its time; not an `Exception`, so that no `except Exception` swallows it."""


class Waiting(Skipped):
    """A check it stands on has not passed."""


class Open(Skipped):
    """The task is still to be written."""


class NeedsHardware(Skipped):
    """The machine lacks what the check needs, or it was switched off."""


class Tampered(CheckFailed):
    """The submission replaced what judges it, or looked where no answer needs to look."""


@dataclass
class Session:
    """What one run of a suite knows: the submission, the limits, what has passed so far."""

    source: loading.Source | None = None  # None: plain pytest, the reference of each suite
    scratch: Path | None = None
    seed: int = DEFAULT_SEED
    device: str = "auto"
    speed: bool = True
    limits: Limits | None = None  # None: plain pytest, no limits
    open_tasks: frozenset[str] = frozenset()
    results: dict[str, Status] = field(default_factory=dict)  # check name -> worst of its cases
    guard: Guard | None = None
    capture: Capture | None = None
    modules: dict[str, ModuleType] = field(default_factory=dict)
    sources: dict[str, loading.Source] = field(default_factory=dict)
    broken: dict[str, BaseException] = field(default_factory=dict)  # source file -> why


SESSION = pytest.StashKey[Session]()
_RECORD = pytest.StashKey[_record.Record]()
_STARTED = pytest.StashKey[tuple[float, float]]()
_LACKING = pytest.StashKey[NeedsHardware]()
_OUTPUT = pytest.StashKey[tuple[str, bool]]()


class Capture:
    """Standard output and error of one check, of its child processes too, in a file.

    A file and not a pipe: nobody has to drain it while the check runs, and the limit of a file's
    size ends a flood.
    """

    def __init__(self) -> None:
        # Open as long as the process lives, and no child's.
        if hasattr(os, "memfd_create"):  # at hand at once, where a file system may take its time
            self._number = os.memfd_create("output")
        else:
            with tempfile.TemporaryFile() as file:
                self._number = os.dup(file.fileno())

    def redirect(self) -> None:
        """Send descriptors 1 and 2 of this process into the file from now on."""
        number = self._number
        flags = os.O_APPEND | os.O_RDWR
        with contextlib.suppress(OSError):
            number = os.open(f"/dev/fd/{number}", flags)
        os.dup2(number, 1)
        os.dup2(number, 2)

    def take(self) -> tuple[str, bool]:
        """Return what was written since the last call, and whether its middle was cut."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        try:
            size = os.fstat(self._number).st_size
            if not size:
                return "", False
            if size <= 2 * KEEP:
                data = os.pread(self._number, size, 0)
            else:
                head = os.pread(self._number, KEEP, 0)
                tail = os.pread(self._number, KEEP, size - KEEP)
                cut = f"\n… {size - 2 * KEEP:,} bytes left out …\n".encode()
                data = head + cut + tail
            os.ftruncate(self._number, 0)
            os.lseek(self._number, 0, os.SEEK_SET)
        except OSError:  # the submission closed every descriptor
            return "", False
        return data.decode("utf-8", "replace"), size > 2 * KEEP


# --- pytest's configuration -------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of plain pytest; the worker has its own way in."""
    group = parser.getgroup("grader")
    group.addoption("--submission", metavar="FILE", help="hold FILE to the suite")
    group.addoption("--seed", type=int, default=DEFAULT_SEED, help="seed of the inputs")
    group.addoption("--device", default="auto", help="cpu, cuda, mps, xpu or auto")
    group.addoption("--no-speed", action="store_true", help="skip the speed checks")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers and, under plain pytest, a session without limits."""
    for line in (
        "task(name): the task that the checks of this class belong to",
        "points(n, kind): what the check is worth, and its kind",
        "after(*names): run only when these checks have passed",
        "hint(text): shown when the check fails",
        "gpu: needs an accelerator; skipped without one, and out of the score",
    ):
        config.addinivalue_line("markers", line)
    if SESSION not in config.stash:
        session = Session(
            seed=config.getoption("--seed"),
            device=config.getoption("--device"),
            speed=not config.getoption("--no-speed"),
        )
        if given := config.getoption("--submission"):
            path = Path(given)
            session.source = loading.Source(
                path.stem, str(path), path.read_text(encoding="utf-8"), str(path)
            )
        config.stash[SESSION] = session


def accelerator() -> str | None:
    """The name of the machine's accelerator ("cuda", "mps", "xpu"), found without starting it."""
    import torch

    # Without this, asking for CUDA starts it, and a forked child could not use it any more.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    if not torch.accelerator.is_available():
        return None
    device = torch.accelerator.current_accelerator()
    return device.type if device is not None else None


def _finish_on(device: str) -> None:
    """Wait for the accelerator if this process has used it; raises what went wrong there.

    Args:
        device: what the session computes on; nothing is waited for if "cpu".
    """
    if device == "cpu" or (name := accelerator()) is None:
        return
    import torch

    # Asking an accelerator that nobody has used would start it.
    has_begun = getattr(torch.get_device_module(name), "is_initialized", lambda: True)
    if has_begun():
        torch.accelerator.synchronize()


def has_lost_device(device: str) -> bool:
    """Whether the accelerator refuses this process from now on, as after an index out of range."""
    try:
        _finish_on(device)
    except Exception:
        return True
    return False


WITHOUT_ACCELERATOR = "without_accelerator"
"""The fixture of checks that fork."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a check that takes `device` on the CPU, and on the accelerator where there is one."""
    if "device" in metafunc.fixturenames:
        wanted = metafunc.config.stash[SESSION].device
        on_cpu = wanted == "cpu" or WITHOUT_ACCELERATOR in metafunc.fixturenames
        found = None if on_cpu else accelerator()
        # Not of a wider scope: pytest would run these cases first, before what they stand on.
        metafunc.parametrize("device", ["cpu", found] if found else ["cpu"])


# --- a check, from start to record ------------------------------------------------------------


def check_name(item: pytest.Item) -> str:
    """`TestSdpa::test_shape`: the check that a case belongs to."""
    name = getattr(item, "originalname", None) or item.name.partition("[")[0]
    parent = item.getparent(pytest.Class)
    return f"{parent.name}::{name}" if parent is not None else name


def forks(item: pytest.Item) -> bool:
    """Whether a check starts processes by `os.fork`."""
    return WITHOUT_ACCELERATOR in getattr(item, "fixturenames", ())


def case_id(item: pytest.Item) -> str:
    """What `parametrize` calls this case; empty where there is only one."""
    callspec = getattr(item, "callspec", None)
    return str(callspec.id) if callspec is not None else ""


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Begin a record, hold the case to its limits and collect what it printed."""
    session = item.config.stash[SESSION]
    item.stash[_RECORD] = _record.begin()
    item.stash[_STARTED] = (time.perf_counter(), time.process_time())
    if session.capture is not None:
        session.capture.take()
    with _limited(session.limits):
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out a case that has nothing to say yet; load the submission; seed everything."""
    session = item.config.stash[SESSION]
    name = check_name(item)
    task = item.get_closest_marker("task")
    if task is not None and task.args[0] in session.open_tasks:
        raise Open(task.args[0])
    prefix = name.partition("::")[0]
    for marker in item.iter_markers("after"):
        for other in marker.args:
            full = other if "::" in other else f"{prefix}::{other}"
            status = session.results.get(full)
            if status is not None and status is not Status.SKIPPED and not status.earns:
                raise Waiting(full)
    if item.get_closest_marker("gpu") is not None and (
        session.device == "cpu" or accelerator() is None
    ):
        raise _lacking(item, "no accelerator here")
    kind = _kind(item)
    if kind is Kind.SPEED and not session.speed:
        raise _lacking(item, "speed checks are switched off")
    _module(item, session)
    seed_everything(session.seed, name + case_id(item))


def suites(session: pytest.Session) -> list[ModuleType]:
    """The modules that the collected checks are written in."""
    return list(dict.fromkeys(item.module for item in session.items))  # type: ignore[attr-defined]


def _lacking(item: pytest.Item, text: str) -> NeedsHardware:
    """The one way to leave a check out of the total: whatever else skips is a failure."""
    item.stash[_LACKING] = NeedsHardware(text)
    return item.stash[_LACKING]


def seed_everything(seed: int, name: str) -> None:
    """Seed random, NumPy and torch from the run's seed and the name of what runs."""
    import torch

    number = zlib.crc32(f"{seed}:{name}".encode())
    random.seed(number)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(number)
    if accelerator() is None:
        # `torch.manual_seed` notes the stack for each kind of device that may still come, which
        # takes as long as a small check.
        torch.default_generator.manual_seed(number)
    else:
        torch.manual_seed(number)


def _kind(item: pytest.Item) -> Kind:
    marker = item.get_closest_marker("points")
    return Kind(marker.args[1]) if marker is not None and len(marker.args) > 1 else Kind.VALUE


@contextlib.contextmanager
def _limited(limits: Limits | None) -> Iterator[None]:
    """Raise `TimeLimit` in the main thread once the case has used up its time."""
    if limits is None or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeLimit("cpu" if number == signal.SIGPROF else "wall")

    before = {s: signal.signal(s, stop) for s in (signal.SIGPROF, signal.SIGALRM)}
    # It comes again, because a `finally` or an `except BaseException` may have eaten the first.
    signal.setitimer(signal.ITIMER_PROF, limits.cpu_seconds, 1.0)
    signal.setitimer(signal.ITIMER_REAL, limits.wall_seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _disarm() -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.hookimpl(hookwrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, pluggy.Result[None], None]:
    """Wait for the accelerator, and look whether the submission left alone what judges it."""
    outcome = yield
    session = item.config.stash[SESSION]
    try:
        _finish_on(session.device)  # what goes wrong there later is this case's own
    except Exception as error:
        if outcome.exception is None:
            outcome.force_exception(error)
    _disarm()  # the time is the case's own; what is told about it takes as long as it takes
    if session.guard is None:
        return
    found = session.guard.take()
    if found:
        outcome.force_exception(tampered(found, session.source))


def tampered(found: list[Any], source: loading.Source | None) -> Tampered:
    """The failure that says what a submission must leave alone."""
    first = found[0]
    where = f", line {first.line}" if first.line else ""
    name = source.file if source is not None else "the submission"
    return Tampered(
        f"{name}{where} {first.text}; a file that does cannot be judged, so it earns nothing",
        id="tampered",
        args={"what": [finding.text for finding in found]},
    )


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Under plain pytest, without json-report: remember what `after` asks about."""
    session = item.config.stash[SESSION]
    if session.limits is None and (call.when == "call" or call.excinfo is not None):
        status = Status.PASSED
        if call.excinfo is not None:
            is_skip = isinstance(call.excinfo.value, NeedsHardware)
            status = Status.SKIPPED if is_skip else Status.FAILED
        name = check_name(item)
        session.results[name] = worst(session.results.get(name), status)


# --- what a case says -------------------------------------------------------------------------


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_json_runtest_metadata(item: pytest.Item, call: pytest.CallInfo[None]) -> dict[str, Any]:
    """Say in one dict how the case ended; the command reads nothing else about it."""
    __tracebackhide__ = True
    session = item.config.stash[SESSION]
    if call.when == "call":
        return describe(item, session, call.excinfo)
    if call.excinfo is not None:
        return describe(item, session, call.excinfo)
    return {}


def describe(
    item: pytest.Item, session: Session, excinfo: pytest.ExceptionInfo[BaseException] | None
) -> dict[str, Any]:
    """The record of one case: status, message, lines of the learner's own file, pictures."""
    _disarm()
    record = item.stash[_RECORD]
    wall, cpu = item.stash[_STARTED]
    output, truncated = session.capture.take() if session.capture is not None else ("", False)
    entry: dict[str, Any] = {
        "check": check_name(item),
        "case": case_id(item),
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "pictures": list(record.pictures),
        "measured": record.measured,
        "output": output,
        "output_truncated": truncated,
    }
    if excinfo is None:
        entry["status"] = Status.PASSED
        if unsure := getattr(record, "unsure", ""):
            entry["status"] = Status.UNSURE
            entry["message"] = {"id": "speed.unsure", "text": unsure, "args": {}}
    else:
        entry |= _ending(excinfo.value, session, item)
        if not entry.get("minimal"):
            entry["minimal"] = record.minimal
    name = entry["check"]
    session.results[name] = worst(session.results.get(name), Status(entry["status"]))
    return entry


def worst(one: Status | None, other: Status) -> Status:
    """A check takes the worst status of its cases; skipped ones do not count."""
    return other if one is None else min(one, other, key=WORST_FIRST.index)


def _ending(error: BaseException, session: Session, item: pytest.Item) -> dict[str, Any]:
    source = session.sources.get(str(item.path), session.source)
    file = source.file if source is not None else ""
    lines = learner_lines(error, file)
    entry: dict[str, Any] = {"lines": lines}

    def say(status: Status, id: str, text: str, **more: Any) -> dict[str, Any]:
        return entry | {"status": status, "message": {"id": id, "text": text, "args": {}}} | more

    match error:
        case Waiting():
            return say(Status.WAITING, "waiting", "", blocked_by=[str(error.msg)])
        case Open():
            return say(Status.TODO, "todo", f"{error.msg} is still to be written")
        case NeedsHardware() if error is item.stash.get(_LACKING, None):
            return say(Status.SKIPPED, "skipped", str(error.msg))
        case TimeLimit():
            limits = session.limits or Limits()
            spent = (
                f"{limits.cpu_seconds:g} s of CPU time"
                if str(error) == "cpu"
                else f"{limits.wall_seconds:g} s"
            )
            return say(Status.TIMEOUT, "time.limit", f"stopped after {spent}")
        case CheckFailed():
            entry["message"] = {"id": error.id, "text": error.text, "args": error.args_}
            return entry | {
                "status": Status.FAILED,
                "details": list(error.details),
                "expected": error.expected,
                "got": error.got,
                "minimal": error.minimal,
            }
        case NotImplementedError() if (number := exercise_file.open_task(str(error))) is not None:
            return say(Status.TODO, "todo", f"needs TODO {number}, which is open: {error}")
        case MemoryError():
            return say(Status.KILLED, "memory.limit", _memory(session))
        case RuntimeError() if "can't allocate memory" in str(error):
            return say(Status.KILLED, "memory.limit", _memory(session))
        case RuntimeError() if "device-side assert" in str(error):
            text = (
                "an index was out of range in what ran on the accelerator: a token, a label, what "
                "`gather` or `scatter` was given; on the CPU the same call names its line"
            )
            return say(Status.ERROR, "device.assert", text)
        case OSError(errno=errno.EFBIG):
            limit = (session.limits or Limits()).output_bytes // 2**20
            text = f"printed or wrote more than {limit} MB; it was stopped there"
            return say(Status.ERROR, "output.limit", text)
        case Failed():
            return say(Status.FAILED, "failed", _first_line(str(error.msg)))
        case AssertionError() if not lines:
            return say(Status.FAILED, "failed", _first_line(str(error)) or "the check failed")
    kind = type(error).__name__
    said = _first_line(str(error))
    entry["traceback"] = learner_traceback(error, file)
    if lines:
        text = f"{kind}: {said}" if said else kind
        return say(Status.ERROR, "exception", text)
    # The suite stumbled over what it was given back: an attribute of `None`, a tuple too short.
    return say(
        Status.FAILED,
        "unusable",
        f"the check could not go on with what it got back: {kind}: {said}",
    )


def _memory(session: Session) -> str:
    limit = (session.limits or Limits()).memory_bytes / 2**30
    return f"used more than {limit:g} GB of memory"


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:500]


def learner_lines(error: BaseException, file: str) -> list[dict[str, Any]]:
    """The lines of the learner's file on the way to the exception, innermost last."""
    return [
        {"number": f.lineno, "text": (f.line or "").strip(), "function": f.name}
        for f in traceback.extract_tb(error.__traceback__)
        if f.filename == file
    ][-3:]


def learner_traceback(error: BaseException, file: str) -> str:
    """The exception with the learner's own frames; the suite's source is never in it."""
    with contextlib.suppress(Exception):
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
        last = traceback.format_exception_only(type(error), error)
        return "".join([*traceback.format_list(frames), *last])[-8000:]
    return ""


# --- fixtures ---------------------------------------------------------------------------------


def _source(item: pytest.Item, session: Session) -> loading.Source:
    """The submission of this item's suite: the one given, or the reference beside the suite."""
    key = str(item.path)
    if key not in session.sources:
        source = session.source
        if source is None:
            path = item.path.with_name(item.path.name.removeprefix("test_"))
            source = loading.Source(
                path.stem, str(path), path.read_text(encoding="utf-8"), str(path)
            )
        if session.limits is None:
            source = replace(source, modules=_importable(item.path.parent))
        session.sources[key] = source
    return session.sources[key]


def _importable(folder: Path) -> dict[str, str]:
    """Under plain pytest: the exercise's data that is Python, by module name."""
    toml = folder / "exercise.toml"
    data = tomllib.loads(toml.read_text(encoding="utf-8")).get("data", ()) if toml.exists() else ()
    return exercise_file.importable(folder, data)


def _module(item: pytest.Item, session: Session) -> ModuleType | None:
    """The learner's module, loaded once; a suite that asks for none needs none."""
    if not {"submission", "source", "fresh_submission", "fresh_process"} & set(
        getattr(item, "fixturenames", ())
    ):
        return None
    source = _source(item, session)
    if source.file in session.broken:
        raise session.broken[source.file]
    if source.file not in session.modules:
        _enter_scratch(item, session)
        try:
            session.modules[source.file] = loading.load(source)
        except BaseException as error:
            session.broken[source.file] = error
            raise
    return session.modules[source.file]


def _enter_scratch(item: pytest.Item, session: Session) -> None:
    """Under plain pytest: a folder with the exercise's other files, and the working folder."""
    if session.limits is not None:
        return
    import torch

    torch.set_num_threads(1)  # as in the worker
    if session.scratch is not None:
        shutil.rmtree(session.scratch, ignore_errors=True)
    session.scratch = Path(tempfile.mkdtemp(prefix="torch28-"))
    for path in item.path.parent.iterdir():
        if path.is_file() and not path.name.startswith("test_") and path.name != "answers.py":
            shutil.copy(path, session.scratch)
    os.chdir(session.scratch)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the scratch folder of plain pytest."""
    session = config.stash.get(SESSION, None)
    if session is not None and session.limits is None and session.scratch is not None:
        os.chdir(config.rootpath)
        shutil.rmtree(session.scratch, ignore_errors=True)


@pytest.fixture
def submission(request: pytest.FixtureRequest) -> ModuleType:
    """The learner's module; the reference when no submission is given."""
    module = _module(request.node, request.config.stash[SESSION])
    assert module is not None
    return module


@pytest.fixture
def source(request: pytest.FixtureRequest) -> str:
    """The text of the learner's module."""
    return _source(request.node, request.config.stash[SESSION]).text


@pytest.fixture
def scratch(request: pytest.FixtureRequest) -> Path:
    """The folder the check runs in."""
    return request.config.stash[SESSION].scratch or Path.cwd()


@pytest.fixture
def fresh_submission(request: pytest.FixtureRequest) -> Callable[[], ModuleType]:
    """Import the learner's file anew, as often as it is called."""
    session = request.config.stash[SESSION]
    source = _source(request.node, session)

    def load() -> ModuleType:
        return loading.load(source)

    return load


class FreshProcess:
    """Runs a function of the freshly imported module in a process of its own."""

    def __init__(self, source: loading.Source) -> None:
        self._source = source
        self.output = ""  # what the file printed at import, the last time

    def __call__(self, fn: Callable[[ModuleType], Any]) -> Any:
        """Import the file anew with every generator in another state, and return `fn(module)`."""
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            answer: Mapping[str, Any]
            try:
                answer = self._child(fn)
            except CheckFailed as error:
                answer = {"failed": error.text, "id": error.id}
            except NotImplementedError as error:
                answer = {"open": str(error)}
            except BaseException as error:
                answer = {"raised": f"{type(error).__name__}: {error}"}
            with os.fdopen(write, "w", encoding="utf-8") as stream:
                json.dump(answer, stream)
            os._exit(0)
        os.close(write)
        try:
            with os.fdopen(read, encoding="utf-8") as stream:
                text = stream.read()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        if not text:
            raise CheckFailed("the process ended while the file was imported", id="process.ended")
        answer = json.loads(text)
        self.output = answer.get("output", "")
        if "failed" in answer:
            raise CheckFailed(answer["failed"], id=answer["id"])
        if "open" in answer:
            raise NotImplementedError(answer["open"])
        if "raised" in answer:
            raise CheckFailed(f"in a fresh process: {answer['raised']}", id="process.raised")
        return answer["value"]

    def _child(self, fn: Callable[[ModuleType], Any]) -> Mapping[str, Any]:
        seed_everything(int.from_bytes(os.urandom(4)), "a fresh process has its own state")
        with tempfile.TemporaryFile() as printed:
            os.dup2(printed.fileno(), 1)
            sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
            module = loading.load(self._source)
            sys.stdout.flush()
            printed.seek(0)
            output = printed.read(KEEP).decode("utf-8", "replace")
            return {"value": fn(module), "output": output}


@pytest.fixture
def without_accelerator() -> None:
    """For a check that forks: the worker runs it in a process that sees the CPU alone.

    A forked child can use neither an accelerator nor, once autograd has started the threads of
    one, `backward` on the CPU.
    """


@pytest.fixture
def fresh_process(request: pytest.FixtureRequest, without_accelerator: None) -> FreshProcess:
    """Call `fresh_process(fn)`: the file imported anew in a process of its own."""
    return FreshProcess(_source(request.node, request.config.stash[SESSION]))
