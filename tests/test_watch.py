"""Watch mode: a save is graded, a comment is not, a newer save cancels the older run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from grader import watch
from grader.history import History

BODY = "return x * 2"


class Watching:
    """`grade watch day01` in a process, and what it has printed."""

    def __init__(self, root, **options):
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "grader", "watch", "day01", "--no-server"],
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )
        self.lines: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line)

    def wait_for(self, words, times=1):
        self.wait_until(lambda: "".join(self.lines).count(words) >= times, words)

    def wait_until(self, holds, what=""):
        limit = time.monotonic() + 90
        while time.monotonic() < limit:
            if holds():
                return
            time.sleep(0.05)
        raise AssertionError(f"it never came to {what!r}: {''.join(self.lines)}")


def test_a_save_is_graded_and_a_comment_is_not(course, exercise, reference):
    exercise.submission.write_text(reference.replace(BODY, "return x * 3"), encoding="utf-8")
    watching = Watching(course.root, stdin=subprocess.DEVNULL)
    try:
        watching.wait_for("expected 2")
        watching.wait_for("waiting for a save")
        exercise.submission.write_text(
            reference.replace(BODY, "return x * 3  # still"), encoding="utf-8"
        )
        time.sleep(1)
        assert "".join(watching.lines).count("waiting for a save") == 1
        exercise.submission.write_text(reference, encoding="utf-8")
        watching.wait_for("3 of 3 checks pass")
    finally:
        watching.process.send_signal(signal.SIGINT)
        assert watching.process.wait(timeout=30) == 130
        watching.process.stdout.close()

    with History.open(course.reports / "history.db") as kept:
        attempts = kept.attempts("day01")
    assert [a.is_solved for a in attempts][:2] == [False, True]
    assert all(a.watched for a in attempts)


def test_a_newer_save_cancels_a_run_that_hangs(course, exercise, reference, tmp_path):
    begun = tmp_path / "begun"
    hangs = f"open({str(begun)!r}, 'w').close()\n    while True: pass"
    exercise.submission.write_text(reference.replace(BODY, hangs), encoding="utf-8")
    watching = Watching(course.root, stdin=subprocess.DEVNULL)
    try:
        watching.wait_until(begun.exists)
        started = time.monotonic()
        exercise.submission.write_text(reference, encoding="utf-8")
        watching.wait_for("3 of 3 checks pass")
        assert time.monotonic() - started < 60
    finally:
        watching.process.send_signal(signal.SIGINT)
        watching.process.wait(timeout=30)
        watching.process.stdout.close()


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal of Unix")
def test_keys_act_on_a_terminal_and_q_ends_it(course, exercise, reference):
    exercise.submission.write_text(reference.replace(BODY, "return x * 3"), encoding="utf-8")
    ours, theirs = os.openpty()
    watching = Watching(course.root, stdin=theirs)
    try:
        watching.wait_for("waiting for a save")
        os.write(ours, b"h")
        watching.wait_for("Hint 1 of")
        os.write(ours, b"r")
        watching.wait_for("waiting for a save", times=2)
        os.write(ours, b"q")
        assert watching.process.wait(timeout=30) == 0
    finally:
        watching.process.kill()
        watching.process.wait()
        watching.process.stdout.close()
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("x = 1\n", "x = 1  # one\n\n", True),
        ("x = 1\n", "x  =  1\n", True),
        ("x = 1\n", "x = 2\n", False),
        ("x = (\n", "x = (\n", True),
        ("x = (\n", "x = ( # \n", False),
    ],
)
def test_only_a_change_of_the_program_counts(one, other, same):
    assert (watch.meaning(one) == watch.meaning(other)) is same
