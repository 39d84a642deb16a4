"""The pytest side: what a suite's author can count on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAD = "import pytest\nimport torch\nimport random\n\n"
REFERENCE = "def f(x):\n    return x\n"


def run(folder: Path, suite: str, *options: str, reference: str = REFERENCE) -> str:
    (folder / "thing.py").write_text(reference, encoding="utf-8")
    (folder / "test_thing.py").write_text(HEAD + suite, encoding="utf-8")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "grader.plugin", "--import-mode=importlib"),
            *("-q", "-rA", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", str(folder)),
            *(str(folder / "test_thing.py"), *options),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    return done.stdout + done.stderr


SUITE = """
@pytest.mark.task("f")
class TestF:
    @pytest.mark.points(1, "value")
    def test_a(self, submission):
        assert submission.f(1) == 1, "a"

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_a")
    def test_b(self, submission, source, scratch, fresh_submission, fresh_process, device):
        assert "def f" in source
        assert (scratch / "data.txt").read_text() == "42"
        assert fresh_submission() is not submission
        assert fresh_process(lambda module: module.f(7)) == 7
        assert device == "cpu"

    @pytest.mark.points(1, "speed")
    def test_speed(self, submission):
        assert submission.f(2) == 2

    @pytest.mark.gpu
    @pytest.mark.points(1, "speed")
    def test_gpu(self, submission):
        raise AssertionError

    @pytest.mark.points(1, "value")
    def test_missing(self, submission):
        submission.g
"""


def test_plain_pytest_holds_the_reference_to_its_suite(tmp_path):
    (tmp_path / "data.txt").write_text("42", encoding="utf-8")
    out = run(tmp_path, SUITE, "--device", "cpu")

    assert "1 failed, 3 passed, 1 skipped" in out
    assert "defines no `g`; the checks call it under this name" in out
    assert "no accelerator here" in out


def test_another_file_can_be_held_to_it_and_dependents_wait(tmp_path):
    (tmp_path / "data.txt").write_text("42", encoding="utf-8")
    other = tmp_path / "mine.py"
    other.write_text("def f(x):\n    return -x\n", encoding="utf-8")
    out = run(tmp_path, SUITE, "--submission", str(other), "--no-speed")

    assert "FAILED" in out
    assert "::test_a - AssertionError: a" in out
    assert "test_b" not in "".join(line for line in out.splitlines() if "FAILED" in line)
    assert "speed checks are switched off" in out


def test_a_seed_gives_each_case_its_own_numbers_again_and_again(tmp_path):
    suite = """
@pytest.mark.task("f")
class TestF:
    @pytest.mark.points(1, "value")
    @pytest.mark.parametrize("n", [1, 2])
    def test_a(self, submission, n):
        print("drawn", n, torch.rand(1).item(), random.random())
"""

    def drawn(*options):
        return [x for x in run(tmp_path, suite, "-s", *options).splitlines() if "drawn" in x]

    first, again, other = drawn(), drawn(), drawn("--seed", "5")

    assert len(first) == 2
    assert first == again
    assert first[0].split()[-1] != first[1].split()[-1]
    assert first != other


def test_a_file_that_does_not_load_fails_checks_and_not_the_collection(tmp_path):
    out = run(tmp_path, SUITE, reference="import no_such_module\n")

    assert "no_such_module" in out
    assert "error" in out
    assert "collected 0" not in out


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise ValueError('x')", "in a fresh process: ValueError: x"),
        ("import os; os._exit(3)", "the process ended while the file was imported"),
    ],
)
def test_a_fresh_process_that_fails_says_why(tmp_path, body, says):
    suite = """
@pytest.mark.task("f")
class TestF:
    @pytest.mark.points(1, "value")
    def test_a(self, fresh_process):
        fresh_process(lambda module: module.f(1))
"""
    guarded = f"def f(x):\n    {body}\n"
    assert says in run(tmp_path, suite, reference=guarded)
