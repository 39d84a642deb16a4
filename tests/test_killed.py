"""A `grade` killed at any moment leaves the history readable and the pages whole."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress

import psutil
import pytest

from grader.history import History


def start(root):
    return subprocess.Popen(
        [sys.executable, "-m", "grader", "day01", "--no-server"],
        cwd=root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_kill_at_any_moment_loses_nothing_that_was_there(course, exercise, reference):
    exercise.submission.write_text(reference, encoding="utf-8")
    began = time.monotonic()
    assert start(course.root).wait(timeout=120) == 0
    whole = time.monotonic() - began
    database = course.reports / "history.db"

    moments = random.Random(1)
    for number in range(8):
        process = start(course.root)
        # The end, where the attempt is written down and the pages are made, is the delicate part.
        time.sleep(whole * moments.uniform(0.5 if number % 2 else 0.05, 1.05))
        # The group: a real Ctrl-\ or a closed terminal reaches everything the command started.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=60)

        with closing(sqlite3.connect(database)) as connection:
            assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
        with History.open(database) as kept:
            attempts = kept.attempts("day01")
            assert [attempt.number for attempt in attempts] == list(range(1, len(attempts) + 1))
            assert all(attempt.is_solved for attempt in attempts)
        for page in course.reports.glob("*.html"):
            assert page.read_text(encoding="utf-8").rstrip().endswith("</html>")

    assert start(course.root).wait(timeout=120) == 0
    assert [p for p in course.reports.iterdir() if p.name.startswith(".")] == []


def test_two_at_once_are_both_recorded(course, exercise, reference):
    exercise.submission.write_text(reference, encoding="utf-8")
    processes = [start(course.root) for _ in range(2)]

    assert [process.wait(timeout=180) for process in processes] == [0, 0]
    with History.open(course.reports / "history.db") as kept:
        assert [attempt.number for attempt in kept.attempts("day01")] == [1, 2]


def test_no_worker_outlives_a_killed_command(course, exercise, reference):
    exercise.submission.write_text(
        reference.replace("return x * 2", "while True: pass"), encoding="utf-8"
    )
    process = start(course.root)
    limit = time.monotonic() + 60
    workers = []
    while time.monotonic() < limit and len(workers) < 2:
        workers = psutil.Process(process.pid).children(recursive=True)
        time.sleep(0.05)
    process.kill()
    process.wait(timeout=60)

    assert len(workers) == 2
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == []
