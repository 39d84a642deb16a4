"""Bad weather: a clear answer, no hang, no process left over, no attempt lost."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from grader.history import History
from grader.server import place, start
from tests.grading_server import PATIENCE, Server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals and mounts of Linux")

BODY = "return x * 2"


@pytest.fixture
def server(course, exercise, tmp_path_factory, monkeypatch) -> Iterator[Server]:
    """A server of a course of its own, which a test may treat badly."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("run")))
    monkeypatch.delenv("GRADE_NO_SERVER")
    assert start.in_background(str(course.root))
    made = Server(course.root)
    made.wait()
    yield made
    start.stop(str(course.root))


def grade(root: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """`grade`, as a learner starts it."""
    return subprocess.run(
        [sys.executable, "-m", "grader", "day01", *argv],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def attempts(root: Path) -> int:
    with History.open(root / "reports/history.db") as kept:
        return len(kept.attempts("day01"))


def of_this_course(root: Path) -> list[psutil.Process]:
    """The server's processes that still run."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if {"grader.server.base", str(root)} <= set(process.info["cmdline"] or ())
        and process.status() != psutil.STATUS_ZOMBIE
    ]


def test_a_server_killed_in_the_middle_of_a_grading_costs_no_answer(server, reference):
    server.write(reference.replace(BODY, "import time; time.sleep(3); return x * 2"))
    asked = server.begin("day01", stderr=subprocess.STDOUT)
    assert asked.stdout is not None
    assert "torch" in asked.stdout.readline()  # the first check is running
    os.kill(server.wait(), signal.SIGKILL)
    out, _ = asked.communicate(timeout=PATIENCE)

    assert asked.returncode == 0
    assert "3 of 3 checks pass" in out
    assert attempts(server.root) == 1


def test_everything_of_the_server_killed_is_one_line_and_the_next_run_answers(server, reference):
    server.write(reference.replace(BODY, "while True: pass"))
    asked = server.begin("day01", "--timeout", "20")
    assert asked.stdout is not None
    assert "torch" in asked.stdout.readline()  # the first check is running
    for process in of_this_course(server.root):
        process.kill()
    _, errors = asked.communicate(timeout=PATIENCE)
    server.write(reference)
    again = grade(server.root, "--no-server")

    assert asked.returncode == 1
    assert errors == "grade: the server ended in the middle of this; run it again\n"
    assert again.returncode == 0
    assert of_this_course(server.root) == []


def test_a_server_that_is_suspended_is_passed_by_and_answers_once_it_wakes(server, reference):
    server.write(reference)
    assert server.grade("day01")[0] == 0
    sleeping = of_this_course(server.root)
    for process in sleeping:
        process.suspend()
    try:
        passed_by = grade(server.root)
    finally:
        for process in sleeping:
            process.resume()

    assert passed_by.returncode == 0
    assert "3 of 3 checks pass" in passed_by.stdout
    assert server.grade("day01")[0] == 0
    assert attempts(server.root) == 3


def test_ten_saves_in_a_second_end_in_the_last_ones_verdict(course, exercise, reference):
    wrong = reference.replace(BODY, "return x * 3")
    exercise.submission.write_text(wrong, encoding="utf-8")
    log = course.root / "watch.log"
    with log.open("w") as out:
        watching = subprocess.Popen(
            [sys.executable, "-u", "-m", "grader", "watch", "day01", "--no-server"],
            cwd=course.root,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        limit = time.monotonic() + PATIENCE
        while "waiting for a save" not in log.read_text() and time.monotonic() < limit:
            time.sleep(0.05)
        for number in range(10):
            body = f"return x * 2 + {9 - number}" if number < 9 else BODY
            exercise.submission.write_text(reference.replace(BODY, body), encoding="utf-8")
            time.sleep(0.1)
        while "3 of 3 checks pass" not in log.read_text() and time.monotonic() < limit:
            time.sleep(0.05)
        assert "3 of 3 checks pass" in log.read_text()
    finally:
        watching.send_signal(signal.SIGINT)
        assert watching.wait(timeout=30) == 130
    with History.open(course.reports / "history.db") as kept:
        assert kept.attempts("day01")[-1].is_solved
        numbers = [attempt.number for attempt in kept.attempts("day01")]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.fixture
def mounted(tmp_path) -> Iterator[Path]:
    """A small file system of its own."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_costs_the_record_and_not_the_answer(mounted, course, reference):
    root = mounted / "course"
    shutil.copytree(course.root, root)
    (root / "exercises/day01/scaling.py").write_text(reference, encoding="utf-8")
    assert grade(root).returncode == 0
    with (mounted / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(b"x" * 4096)
    found = grade(root)
    (mounted / "filler").unlink()

    assert "3 of 3 checks pass" in found.stdout
    assert found.returncode == 0
    assert "not recorded" in found.stderr or "can't be" in found.stderr
    assert "Traceback" not in found.stderr
    assert attempts(root) >= 1
    assert grade(root).returncode == 0


def test_a_course_that_is_read_only_is_graded_all_the_same(mounted, course, reference):
    root = mounted / "course"
    shutil.copytree(course.root, root)
    (root / "exercises/day01/scaling.py").write_text(reference, encoding="utf-8")
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    found = grade(root)

    assert "3 of 3 checks pass" in found.stdout
    assert found.returncode == 0
    assert found.stderr.startswith("grade: ")
    assert "Traceback" not in found.stderr


def test_a_folder_for_sockets_of_someone_elses_leaves_the_cold_way(
    course, exercise, reference, tmp_path_factory, monkeypatch
):
    tmp_path = tmp_path_factory.mktemp("run")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("GRADE_NO_SERVER")
    (tmp_path / "torch28").mkdir()
    (tmp_path / "torch28").chmod(0o777)
    exercise.submission.write_text(reference, encoding="utf-8")
    found = grade(course.root)

    assert found.returncode == 0
    assert list((tmp_path / "torch28").iterdir()) == []
    with pytest.raises(place.Unsafe):
        place.folder()
