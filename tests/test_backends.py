"""The three back-ends of the runner say the same of every submission."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from grader import course as courses
from grader import grading, runner, source
from grader.course import Course
from grader.model import Attempt, Status
from grader.runner import KeptWorker
from grader.server import place, start, warm
from tests.grading_server import Server, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the fork server is for Linux")

BODY = "return x * 2"
DAEMON = "torch28-left-behind"

SUBMISSIONS: dict[str, tuple[str, dict[str, Status]]] = {
    # the body of `double`; the statuses of its checks 1.1 and 1.2. `triple` stays right.
    "right": (BODY, {"1.1": Status.PASSED, "1.2": Status.PASSED}),
    "looks for the suite's name": (
        "import sys; return x * 2 if [w[-10:] for w in sys.argv] == ['scaling.py'] else x",
        {"1.1": Status.PASSED, "1.2": Status.PASSED},
    ),
    "wrong": ("return x * 3", {"1.1": Status.FAILED, "1.2": Status.WAITING}),
    "no tensor": ("return None", {"1.1": Status.FAILED, "1.2": Status.WAITING}),
    "raises": ("return nothing", {"1.1": Status.ERROR, "1.2": Status.WAITING}),
    "ends Python": ("import sys; sys.exit(0)", {"1.1": Status.ERROR, "1.2": Status.WAITING}),
    "ends at once": ("import os; os._exit(0)", {"1.1": Status.KILLED, "1.2": Status.WAITING}),
    "crashes": (
        "import ctypes; ctypes.string_at(0)",
        {"1.1": Status.KILLED, "1.2": Status.WAITING},
    ),
    "endless": ("while True: pass", {"1.1": Status.TIMEOUT, "1.2": Status.WAITING}),
    "floods": (
        "[print(f'line {i}') for i in range(20_000)]\n    return x * 2",
        {"1.1": Status.PASSED, "1.2": Status.PASSED},
    ),
    "floods without end": (
        "return [print('x' * 1000) for _ in range(200_000)]",
        {"1.1": Status.ERROR, "1.2": Status.WAITING},
    ),
    "memory": (
        "import torch; return torch.ones(3_000_000_000, dtype=torch.float64)",
        {"1.1": Status.KILLED, "1.2": Status.WAITING},
    ),
    "memory, own limits raised": (
        "import resource, torch\n"
        "    try: resource.setrlimit(resource.RLIMIT_AS, (-1, -1))\n"
        "    except ValueError: pass\n"
        "    return torch.ones(3_000_000_000, dtype=torch.float64)",
        {"1.1": Status.KILLED, "1.2": Status.WAITING},
    ),
    "closes every descriptor": (
        "import os; os.closerange(0, 1000); return x * 2",
        {"1.1": Status.KILLED, "1.2": Status.WAITING},
    ),
    "replaces torch": (
        "import torch; torch.equal = lambda a, b: True; return x",
        {"1.1": Status.FAILED, "1.2": Status.WAITING},
    ),
    "plants files": (
        "import pathlib\n    pathlib.Path('conftest.py').write_text('1 / 0')\n"
        "    pathlib.Path('torch.py').write_text('1 / 0')\n    return x * 2",
        {"1.1": Status.PASSED, "1.2": Status.PASSED},
    ),
    "deletes its folder": (
        "import shutil; shutil.rmtree('.', ignore_errors=True)\n    return x * 2",
        {"1.1": Status.PASSED, "1.2": Status.PASSED},
    ),
    "leaves a daemon": (
        "import os, sys\n    if os.fork() == 0:\n        os.setsid()\n"
        f"        os.execv(sys.executable, [sys.executable, '-c', "
        f"'import time; time.sleep(600)', '{DAEMON}'])\n    return x * 2",
        {"1.1": Status.PASSED, "1.2": Status.PASSED},
    ),
}

Backends = dict[str, runner.Backend]


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder for sockets of these tests' own."""
    before = {name: os.environ.get(name) for name in ("XDG_RUNTIME_DIR", "GRADE_NO_SERVER")}
    os.environ["XDG_RUNTIME_DIR"] = str(tmp_path_factory.mktemp("runtime"))
    os.environ.pop("GRADE_NO_SERVER", None)
    yield
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


def copy(root: Path) -> Course:
    """A copy of the fixture course."""
    shutil.copytree(Path(__file__).parent / "course", root)
    return courses.find(root)


@pytest.fixture(autouse=True)
def ends() -> Iterator[None]:
    """Wait for children that are left before their end, as a session does after its answer."""
    yield
    warm.wait_for_ends()


@pytest.fixture(scope="module")
def backends(runtime: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backends]:
    """Each back-end, on a course of its own."""
    folder = tmp_path_factory.mktemp("backends")
    fork, spare = (copy(folder / name) for name in ("fork", "spare"))
    kept = KeptWorker()
    assert start.in_background(str(fork.root))
    assert start.in_background(str(spare.root), "spare")
    wait_for(place.socket_of(str(fork.root)))
    wait_for(place.spare_of(str(spare.root)))

    def ask_for_zygote() -> None:
        # A session asks the base; what it grades does not matter here.
        (fork.root / "exercises/day01").mkdir(parents=True, exist_ok=True)
        shutil.copy(fork.exercise("day01").source / "scaling.py", fork.root / "exercises/day01")
        assert Server(fork.root).grade("day01", "--no-record", "--no-report")[0] == 0

    def forked(exercise, device):
        day01 = fork.exercise("day01")
        return warm.ForkWorker(warm.zygote_socket(str(fork.root), day01), ask_for_zygote)

    try:
        yield {
            "cold": kept.start,
            "fork": forked,
            "spare": lambda exercise, device: warm.spare(str(spare.root))(
                spare.exercise("day01"), device
            ),
        }
    finally:
        kept.drop()
        start.stop(str(fork.root))
        start.stop(str(spare.root))


@pytest.fixture(scope="module")
def judge(backends: Backends, fixture_exercise, reference) -> Callable[[str, str], Attempt]:
    """Grade a body of `double` by a back-end."""

    def judged(body: str, backend: str) -> Attempt:
        text = reference.replace(BODY, body).replace("double(x) + x", "x * 3")
        files = {"scaling.py": text}
        submission = source.of(fixture_exercise, files, {"scaling.py": "scaling.py"})
        options = grading.Options(cpu_seconds=1)
        return grading.grade(fixture_exercise, submission, options, backend=backends[backend])

    return judged


def said(attempt: Attempt) -> object:
    """All that a learner is told, but for the time it took."""
    return (
        attempt.verdict,
        attempt.score,
        [
            (
                outcome.check.number,
                outcome.status,
                outcome.message.text if outcome.message else "",
                [line.number for line in outcome.lines],
                outcome.output,
            )
            for outcome in attempt.outcomes
        ],
    )


@pytest.mark.parametrize("name", SUBMISSIONS)
def test_every_back_end_says_the_same(judge, name):
    body, expected = SUBMISSIONS[name]
    found = {backend: judge(body, backend) for backend in ("cold", "fork", "spare")}
    first = {o.check.number: o.status for o in found["cold"].outcomes}

    assert {number: first[number] for number in expected} == expected
    assert first["2.1"] is Status.PASSED
    assert said(found["fork"]) == said(found["cold"])
    assert said(found["spare"]) == said(found["cold"])


def test_nothing_is_left_running(judge):
    judge(SUBMISSIONS["leaves a daemon"][0], "spare")
    left = [p for p in psutil.process_iter(["cmdline"]) if DAEMON in (p.info["cmdline"] or ())]

    assert left == []


@pytest.mark.parametrize(
    ("text", "says"),
    [("def double(x):\n  return x *\n", "SyntaxError"), ("1 / 0\n", "ZeroDivisionError")],
)
def test_a_file_that_does_not_load_is_told_the_same_way(backends, fixture_exercise, text, says):
    found = []
    for backend in ("cold", "fork", "spare"):
        submission = source.of(fixture_exercise, {"scaling.py": text}, {"scaling.py": "scaling.py"})
        attempt = grading.grade(fixture_exercise, submission, backend=backends[backend])
        assert attempt.fault is not None
        found.append((attempt.verdict, str(attempt.fault)))

    assert says in found[0][1]
    assert found[0] == found[1] == found[2]


def test_a_run_names_its_back_end(judge):
    assert judge(BODY, "fork").environment.backend == "fork"
    assert judge(BODY, "spare").environment.backend == "spare"


def test_a_spare_process_that_is_gone_leaves_the_cold_way(backends, fixture_exercise):
    worker = warm.spare("/nowhere")(fixture_exercise, "cpu")

    assert isinstance(worker, runner.ColdWorker)
    worker.kill()


def test_killing_its_parent_costs_a_submission_one_check(judge):
    """Last in this file: the spare processes' keeper is the parent, and ends of it."""
    body = "import os, time; os.kill(os.getppid(), 9); time.sleep(9)"
    found = [judge(body, backend) for backend in ("cold", "fork", "spare")]

    for attempt in found:
        statuses = {o.check.number: o.status for o in attempt.outcomes}
        assert statuses["1.1"] is Status.KILLED
        assert statuses["2.1"] is Status.PASSED
    assert said(found[0]) == said(found[1]) == said(found[2])
