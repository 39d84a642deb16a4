"""Watching a learner's file: every save is graded at once, a newer save cancels the older run.

The file is looked at a few times a second; that works over ssh, in containers and on network
drives alike, where notifications of the system get lost, and costs next to nothing.
"""

from __future__ import annotations

import ast
import contextlib
import os
import select
import signal
import subprocess
import sys
import webbrowser
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from grader import catalogue, learner
from grader.learner import Desk
from grader.model import Exercise

LOOK_SECONDS = 0.05
KEYS = "n next  h hint  a all checks  s speed  o open the page  r rerun  l list  q quit"


def meaning(text: str) -> str:
    """What a save has to change to be graded again: the program, not its comments or blanks."""
    try:
        return ast.dump(ast.parse(text))
    except (SyntaxError, ValueError, RecursionError):
        return text


@dataclass(slots=True)
class Watch:
    """One exercise being watched, and the grading that runs for it."""

    desk: Desk
    exercise: Exercise
    options: list[str]
    _run: subprocess.Popen[bytes] | None = None
    _has_speed: bool = False
    _seen: dict[str, str] = field(default_factory=dict)

    def loop(self, keys: Callable[[float], str | None]) -> int:
        """Grade, wait for a save or a key, and again, until `q`.

        Args:
            keys: waits as many seconds for a key and returns it, or None.
        """
        self._changed()
        self.grade()
        while True:
            key = keys(LOOK_SECONDS)
            if key == "q":
                self._cancel()
                return 0
            if key is not None:
                self._act(key)
            if self._changed():
                self.grade()
            self._look_after()

    def grade(self, *words: str, speed: bool = False) -> None:
        """Start a grading; one that still runs is cancelled, and what it found is kept."""
        self._cancel()
        self._has_speed = speed or bool(words)
        now = datetime.now().astimezone()
        self.desk.out.write(f"\n{now:%H:%M:%S} {'-' * (self.desk.out.width - 9)}")
        if not self._has_speed:
            words = ("--no-speed", "--failed-first")
        # A process of its own: Ctrl-C reaches it alone, and the server answers it in a moment.
        self._run = subprocess.Popen(
            [sys.executable, "-m", "grader", self.exercise.id, "--watched", *words, *self.options],
            cwd=self.desk.course.root,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _changed(self) -> bool:
        """Whether a file of the exercise means something else than when it was last looked at."""
        changed = False
        for name in self.exercise.files:
            path = self.exercise.folder / name
            with contextlib.suppress(OSError):
                text = path.read_bytes().decode("utf-8", "replace")
                now = meaning(text) if name.endswith(".py") else text
                changed = changed or self._seen.get(name) != now
                self._seen[name] = now
        return changed

    def _look_after(self) -> None:
        """Once everything else passes, let the speed checks run too; then say what is possible."""
        if self._run is None or self._run.poll() is None:
            return
        passed, self._run = self._run.returncode == 0, None
        if passed and not self._has_speed:
            self.grade(speed=True)
        else:
            self.desk.out.write(f"\n  waiting for a save   {KEYS}")

    def _cancel(self) -> None:
        if self._run is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._run.pid, signal.SIGINT)
        try:
            self._run.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._run.kill()
            self._run.wait()
        self._run = None

    def _act(self, key: str) -> None:
        match key:
            case "r" | "a":
                self.grade()
            case "s":
                self.grade(speed=True)
            case "h":
                learner.hint(self.desk, self.exercise.id, None, shows_all=False, is_reset=False)
            case "l":
                learner.status(self.desk, None, None)
            case "o":
                page = self.desk.course.reports / f"{self.exercise.id}.html"
                webbrowser.open(page.resolve().as_uri())
            case "n":
                self._next()

    def _next(self) -> None:
        every = catalogue.exercises(self.desk.course)
        place = next(i for i, other in enumerate(every) if other.id == self.exercise.id)
        if place + 1 < len(every):
            self._cancel()
            self.exercise = every[place + 1]
            self._seen.clear()
            self._changed()
            self.grade()


def watch(desk: Desk, exercise: Exercise, options: list[str]) -> int:
    """Watch an exercise until `q` or Ctrl-C."""
    watching = Watch(desk, exercise, options)
    with _keys() as keys:
        try:
            return watching.loop(keys)
        finally:
            watching._cancel()


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], str | None]]:
    """A way to wait for a key: single keys of a terminal, nothing where there is none."""
    try:
        import termios
        import tty

        number = sys.stdin.fileno()
        before: list[Any] | None = termios.tcgetattr(number)
    except (ImportError, OSError, ValueError, termios.error):
        before = None
    if before is None:
        import time

        def wait(seconds: float) -> str | None:
            time.sleep(seconds)
            return None

        yield wait
        return

    def key(seconds: float) -> str | None:
        ready, _, _ = select.select([number], [], [], seconds)
        return os.read(number, 1).decode("ascii", "ignore").lower() if ready else None

    try:
        tty.setcbreak(number)
        yield key
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)
