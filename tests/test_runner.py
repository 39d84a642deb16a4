"""Running a job in as many processes as it asks for."""

import subprocess
import sys

import pytest

from grader import runner
from grader.model import Limits

NODES = [["a", "A"], ["b[1]", "B"], ["b[2]", "B"], ["c", "C"]]
FORKING = ["b[1]", "b[2]"]


class FakeWorker:
    """Passes whatever it is asked to run, and writes down where."""

    def __init__(self, device, log):
        self.ready = {"python": "3", "torch": "2", "device": device, "threads": 1}
        self.ready |= {"nodes": NODES, "forking": FORKING}
        self.device, self.log = device, log

    def wait_until_ready(self):
        self.log.append(("start", self.device))

    def request(self, request):
        self.log.append((self.device, request["nodes"]))
        self.asked = request

    def events(self, deadline):
        for node in self.asked["nodes"]:
            test = {"nodeid": node, "metadata": {"status": "passed"}}
            yield {"event": "case", "key": self.asked["key"], "test": test}
        yield {"event": "done", "key": self.asked["key"]}
        yield {"event": "ended", "cpu_seconds": 1.0}

    def close(self):
        self.log.append(("close", self.device))


@pytest.fixture
def run():
    def run(device):
        log, told = [], []
        job = runner.Job({"x.py": ""}, "x.py", "x.py", ("A", "B", "C"), limits=Limits())
        raw = runner.run(
            lambda on_cpu: FakeWorker("cpu" if on_cpu else device, log),
            job,
            lambda ready: told.append(ready["device"]),
            lambda name, raw: told.append(name),
        )
        assert list(raw.cases) == ["a", "b[1]", "b[2]", "c"]
        assert told == [device, "A", "B", "C"]
        return raw, log

    return run


def test_checks_that_fork_run_where_no_accelerator_is_seen(run):
    raw, log = run("cuda")
    assert log == [
        ("start", "cuda"),
        ("cuda", ["a"]),
        ("close", "cuda"),
        ("start", "cpu"),
        ("cpu", ["b[1]", "b[2]"]),
        ("close", "cpu"),
        ("start", "cuda"),
        ("cuda", ["c"]),
        ("close", "cuda"),
    ]
    assert raw.environment["device"] == "cuda"
    assert raw.cpu_seconds == 3.0


def test_without_an_accelerator_one_request_runs_them_all(run):
    _, log = run("cpu")
    assert log == [("start", "cpu"), ("cpu", [node for node, _ in NODES]), ("close", "cpu")]


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone counts what is mapped by kind")
@pytest.mark.parametrize("cuda", [None, "13.0"])
def test_memory_is_limited_whatever_torch_was_built_for(cuda):
    """A build with CUDA may reserve address space, and allocates no more than another one."""
    script = f"""
import mmap, resource, torch
torch.version.cuda = {cuda!r}
from grader import worker
number, used = worker._memory_limit()
resource.setrlimit(number, (used + 2**28, used + 2**28))
try:
    mmap.mmap(-1, 2**33, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
    print("reserved")
except OSError:
    print("refused")
torch.ones(2**24)
try:
    torch.ones(2**29)
except RuntimeError as error:
    print("allocate" in str(error))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["reserved" if cuda else "refused", "True"], done.stderr
