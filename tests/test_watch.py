"""Watch mode: a save is graded, a comment is not, a newer save cancels the older run."""

from __future__ import annotations

import io
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from types import SimpleNamespace

import pytest

from grader import notebook, watch
from grader.history import History
from grader.learner import Desk
from grader.server import client, start
from grader.terminal import Terminal
from tests.grading_server import Server

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


class Fake:
    """A run that ends when it is told to."""

    descriptors = ()

    def __init__(self):
        self.code = None
        self.is_cancelled = False

    def poll(self):
        return self.code

    def cancel(self):
        self.is_cancelled = True


class Noting(watch.Watch):
    """A watch that takes notes."""

    def __init__(self, *values):
        watch.Watch.__init__(self, *values)
        self.runs, self.words = [], []


@pytest.fixture
def watching(course, exercise, monkeypatch):
    """A watch whose runs are `Fake`, and all runs it has begun."""
    said = io.StringIO()
    now = datetime.now().astimezone()
    desk = Desk(course=course, out=Terminal(said), err=Terminal(said), now=now)
    made = Noting(desk, exercise, [])

    def begin(desk, words):
        made.words.append(words)
        made.runs.append(Fake())
        return made.runs[-1]

    monkeypatch.setattr(watch, "Process", begin)
    return made


def test_a_key_that_comes_while_checks_run_is_kept_for_their_end(watching):
    keys = iter(["r", None, "ended", "q"])

    def wait(seconds, others):
        key = next(keys)
        if key == "ended":
            assert len(watching.runs) == 1
            watching.runs[0].code = 1
            return None
        return key

    assert watching.loop(wait) == 0
    assert len(watching.runs) == 2
    assert watching.runs[1].is_cancelled


def test_every_run_says_that_watch_made_it_and_leaves_the_speed_checks_for_later(watching):
    watching.grade()
    watching.grade("all")

    assert watching.runs[0].is_cancelled
    assert watching.words[0][:3] == ["day01", "--watched", "save"]
    assert "--no-speed" in watching.words[0]
    assert watching.words[1] == ["day01", "--watched", "all"]


def test_every_save_begins_at_the_top_of_the_window_and_the_speed_checks_go_on_below(watching):
    said = io.StringIO()
    watching.desk = replace(watching.desk, out=Terminal(said, is_terminal=True))
    fresh = "\x1b[H\x1b[J"
    watching.grade()
    assert fresh not in said.getvalue()
    watching.grade()
    assert said.getvalue().count(fresh) == 1
    watching.grade("speed", goes_on=True)
    assert said.getvalue().count(fresh) == 1
    watching.grade("all")
    before, _, after = said.getvalue().rpartition(fresh)
    assert before.endswith("\n" * shutil.get_terminal_size().lines)
    assert after.startswith(f"\n {watching.exercise.id}")

    plain = io.StringIO()
    watching.desk = replace(watching.desk, out=Terminal(plain, is_terminal=True, is_plain=True))
    watching.grade()
    assert "\x1b" not in plain.getvalue()


def test_a_file_that_its_editor_has_just_emptied_is_looked_at_again(watching, exercise, reference):
    exercise.submission.write_text(reference, encoding="utf-8")
    assert watching._changed()
    exercise.submission.write_text("", encoding="utf-8")
    assert not watching._changed()
    exercise.submission.write_text(reference, encoding="utf-8")
    assert not watching._changed()
    exercise.submission.write_text("x = 1\n", encoding="utf-8")
    assert watching._changed()


def test_a_notebook_is_watched_for_what_is_graded_of_it(watching, exercise, reference):
    exercise.submission.write_text(reference, encoding="utf-8")
    path = notebook.path_of(exercise)

    def is_noticed(change: Callable[[notebook.Notebook], object]) -> bool:
        made = notebook.of(exercise, reference, "")
        change(made)
        path.write_text(json.dumps(made), encoding="utf-8")
        return watching._changed()

    assert watching._changed()
    assert is_noticed(lambda made: None)
    assert not is_noticed(lambda made: [cell.update(outputs=[1]) for cell in made["cells"]])
    assert not is_noticed(lambda made: made["cells"].append(cell_of("%time x = 1", "scratch")))
    assert is_noticed(lambda made: made["cells"].append(cell_of("x = 1")))


def test_half_a_notebook_is_looked_at_again(watching, exercise, reference):
    path = notebook.path_of(exercise)
    text = notebook.dumps(notebook.of(exercise, reference, ""))
    path.write_text(text, encoding="utf-8")
    assert watching._changed()
    path.write_text(text[:200], encoding="utf-8")
    assert not watching._changed()
    path.write_text(text, encoding="utf-8")
    assert not watching._changed()
    path.write_text(text[:200], encoding="utf-8")
    before = time.time() - 1
    os.utime(path, (before, before))
    assert watching._changed()


def cell_of(text: str, *tags: str) -> dict[str, object]:
    return {"cell_type": "code", "source": text, "metadata": {"tags": list(tags)}, "outputs": []}


def test_a_save_of_the_same_time_and_size_is_noticed(watching, exercise):
    exercise.submission.write_text("x = 1\n", encoding="utf-8")
    assert watching._changed()
    before = exercise.submission.stat()
    exercise.submission.write_text("x = 2\n", encoding="utf-8")
    os.utime(exercise.submission, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert watching._changed()


def test_a_history_that_is_damaged_does_not_end_the_watch(watching, course):
    (course.reports).mkdir(exist_ok=True)
    (course.reports / "history.db").write_text("not a history" * 500)

    watching._act("h")
    watching._write_foot()
    assert "is damaged" in watching.desk.err.stream.getvalue()


@pytest.mark.skipif(os.name == "nt", reason="needs a pipe that select takes")
def test_the_system_tells_of_a_save_where_watchfiles_is_installed(watching, course, monkeypatch):
    asked = []

    def tell(folder, **options):
        asked.append(folder)
        yield {("modified", str(folder))}

    monkeypatch.setitem(sys.modules, "watchfiles", SimpleNamespace(watch=tell))
    with watch._telling(watching.desk, is_wanted=True) as told:
        assert select.select([told], [], [], 60)[0] == [told]
    with watch._telling(watching.desk, is_wanted=False) as told:
        assert told is None
    assert asked == [course.exercises_folder]
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    with watch._telling(watching.desk, is_wanted=True) as told:
        assert told is None


def test_the_command_does_without_watchfiles():
    code = "import sys, grader.watch, grader.entry, grader.cli; print('watchfiles' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )

    assert done.stdout.strip() == "False"


@pytest.mark.skipif(sys.platform != "linux", reason="the server is for Linux")
def test_the_server_answers_a_save_and_a_newer_one_interrupts_it(
    course, exercise, reference, tmp_path_factory, monkeypatch, capfd
):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("run")))
    monkeypatch.delenv("GRADE_NO_SERVER")
    monkeypatch.setattr(watch, "PATIENCE", 20.0)
    root = str(course.root)
    assert start.in_background(root)
    terminal = Terminal(sys.stdout)
    desk = Desk(course=course, out=terminal, err=terminal, now=datetime.now().astimezone())
    made = watch.Watch(desk, exercise, [])
    try:
        Server(course.root).wait()
        exercise.submission.write_text(
            reference.replace("double(x) + x", "[1 for _ in iter(int, 1)]"), encoding="utf-8"
        )
        made.grade()
        assert isinstance(made._run, watch.Asked)
        said = ""
        while "1.2" not in said:
            select.select(made._run.descriptors, [], [], 60)
            assert made._run.poll() is None
            said += capfd.readouterr().out
        exercise.submission.write_text(reference, encoding="utf-8")
        made.grade()
        run = made._run
        while run.poll() is None:
            select.select(run.descriptors, [], [], 60)
        assert run.poll() == 0
    finally:
        start.stop(root)

    with History.open(course.reports / "history.db") as kept:
        assert [(a.selected, a.is_solved) for a in kept.attempts()] == [
            (True, False),
            (False, True),
        ]
        assert all(a.watched for a in kept.attempts())


@pytest.mark.skipif(sys.platform != "linux", reason="the server is for Linux")
def test_a_server_that_steps_aside_leaves_the_run_to_a_process(watching):
    ours, theirs = socket.socketpair()
    run = watch.Asked(watching.desk, ["day01"], client.Answer(ours))
    theirs.sendall(b"s00000000")

    assert run.poll() is None
    assert len(watching.runs) == 1
    watching.runs[0].code = 1
    assert run.poll() == 1
    assert list(run.descriptors) == []
    theirs.close()


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
    assert (watch.meaning("answer.py", one) == watch.meaning("answer.py", other)) is same
