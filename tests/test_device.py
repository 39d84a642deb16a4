"""Grading on an accelerator; skipped where there is none, but for what a fake can show."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from grader import course as courses
from grader import grading, plugin, runner, source
from grader.course import Course
from grader.model import Attempt, Status
from grader.server import place, start, warm
from tests.conftest import DEVICES
from tests.grading_server import Server, wait_for

ON_DEVICE = {
    "def test_doubles(self, submission)": "def test_doubles(self, submission, device)",
    "def test_triples(self, submission)": "def test_triples(self, submission, device)",
    "torch.ones(2)": "torch.ones(2, device=device)",
    "torch.full((2,), 2.0)": "torch.full((2,), 2.0, device=device)",
    "torch.full((2,), 3.0)": "torch.full((2,), 3.0, device=device)",
}
BODY = "return x * 2"


def course_at(root: Path, replaced: dict[str, str]) -> Course:
    """A copy of the fixture course with another suite."""
    shutil.copytree(Path(__file__).parent / "course", root)
    suite = root / "solutions/day01/test_scaling.py"
    text = suite.read_text(encoding="utf-8")
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    suite.write_text(text, encoding="utf-8")
    return courses.find(root)


def graded(course: Course, body: str, backend: runner.Backend = runner.cold) -> Attempt:
    """The attempt with this body of `double`; `triple` is right and doesn't call it."""
    exercise = course.exercise("day01")
    text = (exercise.source / "scaling.py").read_text(encoding="utf-8")
    files = {"scaling.py": text.replace(BODY, body).replace("double(x) + x", "x * 3")}
    submission = source.of(exercise, files, {"scaling.py": "scaling.py"})
    return grading.grade(exercise, submission, grading.Options(cpu_seconds=20), backend=backend)


def statuses(attempt: Attempt) -> dict[str, str]:
    return {o.check.id.partition("/")[2]: str(o.status) for o in attempt.outcomes}


# --- with a fake ------------------------------------------------------------------------------


def test_after_a_lost_device_the_rest_runs_in_another_process(tmp_path):
    """Every check says that the device is lost, so none finds what another one left."""
    lost = "from grader import plugin\n\nplugin.has_lost_device = lambda device: True"
    course = course_at(tmp_path / "course", {"from grader.testing": lost + "\nfrom grader.testing"})
    attempt = graded(
        course,
        "double.calls = getattr(double, 'calls', 0) + 1; return x * 2 if double.calls < 2 else x",
    )

    assert attempt.is_solved, statuses(attempt)


@pytest.mark.parametrize(
    ("wanted", "name", "begun", "waits"),
    [
        ("auto", "cuda", True, True),
        ("auto", "cuda", False, False),
        ("cpu", "cuda", True, False),
        ("auto", None, True, False),
        ("auto", "mps", None, True),
    ],
)
def test_only_an_accelerator_that_was_used_is_waited_for(wanted, name, begun, waits):
    def refuse():
        raise RuntimeError("CUDA error: device-side assert triggered")

    module = SimpleNamespace() if begun is None else SimpleNamespace(is_initialized=lambda: begun)
    with pytest.MonkeyPatch.context() as patch:  # undone before the plugin looks after this test
        patch.setattr(plugin, "accelerator", lambda: name)
        patch.setattr(torch, "get_device_module", lambda _: module)
        patch.setattr(torch.accelerator, "synchronize", refuse)
        is_lost = plugin.has_lost_device(wanted)

    assert is_lost is waits


def test_an_index_out_of_range_there_is_told_in_words(grade, reference):
    error = "RuntimeError('CUDA error: device-side assert triggered')"
    attempt = grade(reference.replace(BODY, f"raise {error}"))
    first = attempt.outcomes[0]

    assert first.status is Status.ERROR
    assert first.message is not None
    assert "an index was out of range" in first.message.text


# --- with an accelerator ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The machine's accelerator, seen by every process that is started."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        patch.delenv("GRADE_NO_SERVER")
        patch.delenv("CUDA_VISIBLE_DEVICES")
        if DEVICES is not None:
            patch.setenv("CUDA_VISIBLE_DEVICES", DEVICES)
        script = "from grader import plugin; print(plugin.accelerator() or '')"
        found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        if not found.stdout.strip():
            pytest.skip("no accelerator here")
        yield


@pytest.fixture(scope="module")
def course(devices: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Course]:
    """A course whose suite uses the device, with a server."""
    found = course_at(tmp_path_factory.mktemp("device") / "course", ON_DEVICE)
    assert start.in_background(str(found.root))
    wait_for(place.spare_of(str(found.root)))
    yield found
    start.stop(str(found.root))


@pytest.fixture(params=["cold", "spare"])
def judge(course: Course, request: pytest.FixtureRequest) -> Callable[[str], Attempt]:
    """Grade a body of `double` by a back-end."""
    backends = {"cold": runner.cold, "spare": warm.spare(str(course.root))}
    return lambda body: graded(course, body, backends[request.param])


def test_a_right_answer_passes_on_the_device(judge):
    attempt = judge(BODY)

    assert statuses(attempt) == dict.fromkeys(("1.1", "1.2", "2.1", "2.2"), "passed")
    assert attempt.environment.device != "cpu"


def test_an_answer_that_is_wrong_there_alone_fails(judge):
    attempt = judge("return x * (2 if x.device.type == 'cpu' else 3)")

    assert statuses(attempt)["1.1"] == "failed"
    assert statuses(attempt)["2.1"] == "passed"


def test_an_index_out_of_range_costs_its_own_check(judge):
    attempt = judge(
        "import torch\n    i = torch.tensor([9, 9], device=x.device)\n"
        "    return x * 2 if x.device.type == 'cpu' else torch.ones(3, device=x.device)[i]"
    )

    assert statuses(attempt) == {"1.1": "error", "1.2": "waiting", "2.1": "passed", "2.2": "passed"}
    assert "an index was out of range" in attempt.outcomes[0].message.text


@pytest.mark.parametrize(
    "hog",
    [
        "a = []\n    while True: a.append(bytearray(8_000_000))",
        "import torch; return torch.ones(3_000_000_000, dtype=torch.float64)",
    ],
    ids=["small pieces", "one tensor"],
)
def test_memory_of_the_machine_is_limited(judge, hog):
    attempt = judge(hog)

    assert statuses(attempt)["1.1"] == "killed"
    assert "4 GB of memory" in attempt.outcomes[0].message.text
    assert statuses(attempt)["2.2"] == "passed"


def test_more_memory_than_the_device_has_is_an_error(judge):
    attempt = judge("import torch; return torch.empty(1 << 42, device='cuda')")

    assert statuses(attempt)["1.1"] == "error"
    assert "out of memory" in attempt.outcomes[0].message.text
    assert statuses(attempt)["2.2"] == "passed"


def test_the_command_says_what_it_computed_on(course):
    folder = course.root / "exercises/day01"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(course.exercise("day01").source / "scaling.py", folder)
    shown = Server(course.root).without("day01", "--no-record", "--no-report")[1]

    assert "CUDA" in shown
    assert "4 of 4 checks pass" in shown
