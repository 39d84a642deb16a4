"""Watching a learner's file: every save is graded at once, a newer save cancels the older run.

The file's time and size are looked at many times a second; that works over ssh, in containers and
on network drives alike, where notifications of the system get lost, and costs next to nothing.
Where `watchfiles` is installed (`pip install torch28[watch]`), the system tells of a save.

A save is asked of the course's server from this process itself: no interpreter has to start before
the first check runs.
"""

from __future__ import annotations

import ast
import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol

from grader import catalogue, learner, notebook, roadmap, screens, terminal
from grader.errors import GraderError
from grader.history import History
from grader.learner import Desk
from grader.model import Exercise, Fault, Kind
from grader.server import client
from grader.terminal import safe

LOOK_SECONDS = 0.02
"""Between two looks at the files."""

TOLD_SECONDS = 1.0
"""Between two looks where the system tells of saves: it may lose one."""

COARSE_SECONDS = 2.0
"""The coarsest clock of a file system: a file this young may have changed under the same time."""

WRITING_SECONDS = 0.2
"""How long a file may be empty, or half a notebook, since its editor is writing it anew."""

PATIENCE = 1.0
"""Seconds for a server that says nothing: to start cold takes longer than to wait."""

KEYS = ("n next   h hint   a all checks   s speed", "o open page   r rerun   l list   q quit")

Wait = Callable[[float, Sequence[int]], str | None]
"""Waits so many seconds for a key, or until one of these descriptors has something to read."""


def meaning(name: str, text: str) -> str | None:
    """What a save has to change to be graded again: the program, not its comments or blanks.

    Of a notebook, the cells that are graded, not what they have printed. None: it makes no sense
    yet, since somebody is writing it.
    """
    if name.endswith(".ipynb"):
        found = notebook.parse(text, name)
        text = "" if isinstance(found, Fault) else notebook.module_of(found, name).text
    if not text:
        return None
    if not name.endswith((".py", ".ipynb")):
        return text
    try:
        return ast.dump(ast.parse(text))
    except (SyntaxError, ValueError, RecursionError):
        return text


class Run(Protocol):
    """A grading that runs."""

    @property
    def descriptors(self) -> Sequence[int]:
        """What to read from, so that it goes on."""

    def poll(self) -> int | None:
        """Go on with what there is; the exit code once it has ended."""

    def cancel(self) -> None:
        """End it; the attempt keeps what had been found."""


class Process:
    """A grading as a process of its own: Ctrl-C reaches it alone."""

    descriptors: Sequence[int] = ()

    def __init__(self, desk: Desk, words: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "grader", *words],
            cwd=desk.course.root,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def poll(self) -> int | None:
        """The exit code once it has ended."""
        return self._process.poll()

    def cancel(self) -> None:
        """Interrupt it, and wait until it has written down what it found."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGINT)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Asked:
    """A grading that the course's server runs; where it steps aside, a process takes over."""

    def __init__(self, desk: Desk, words: Sequence[str], answer: client.Answer) -> None:
        self._desk = desk
        self._words = words
        self._answer = answer
        self._instead: Process | None = None

    @property
    def descriptors(self) -> Sequence[int]:
        """The connection, while it answers."""
        return () if self._instead is not None else (self._answer.connection.fileno(),)

    def poll(self) -> int | None:
        """Show what has come; the exit code once it has ended."""
        if self._instead is not None:
            return self._instead.poll()
        if not self._answer.is_over:
            self._read(0.0)
        if not self._answer.is_over:
            return None
        self._answer.connection.close()
        if self._answer.code is None:  # nothing was run
            self._instead = Process(self._desk, self._words)
        return self._answer.code

    def cancel(self) -> None:
        """Interrupt it, and wait until the server has written down what was found."""
        if self._instead is not None:
            self._instead.cancel()
            return
        with contextlib.suppress(OSError):
            self._answer.interrupt()
        limit = time.monotonic() + 10
        while not self._answer.is_over and time.monotonic() < limit:
            self._read(0.2)
        self._answer.connection.close()  # the server takes that for one more Ctrl-C

    def _read(self, seconds: float) -> None:
        if select.select([self._answer.connection], [], [], seconds)[0]:
            try:
                data = self._answer.connection.recv(65536)
            except OSError:
                data = b""
            self._answer.take(data)


@dataclass(slots=True)
class _Seen:
    """A file as it was when it was last looked at."""

    stamp: tuple[int, int, int] = (0, 0, 0)  # time in nanoseconds, size, inode
    text: str | None = None
    meaning: str | None = None


@dataclass(slots=True)
class Watch:
    """One exercise being watched, and the grading that runs for it."""

    desk: Desk
    exercise: Exercise
    options: list[str]
    has_keys: bool = False
    told: int | None = None  # a descriptor that can be read once the system has told of a save
    _run: Run | None = None
    _has_begun: bool = False
    _has_speed: bool = False
    _waiting: deque[str] = field(default_factory=deque)  # keys that came while checks ran
    _seen: dict[str, _Seen] = field(default_factory=dict)

    def loop(self, wait: Wait) -> int:
        """Grade, wait for a save or a key, and again, until `q`."""
        self._changed()
        self.grade()
        while True:
            key = wait(self._patience(), self._descriptors())
            if key == "q":
                self._cancel()
                return 0
            if key is not None:
                self._waiting.append(key)
            if self.told is not None and select.select([self.told], [], [], 0)[0]:
                os.read(self.told, 65536)
            if self._changed():
                self.grade()
            self._look_after()
            if self._waiting and self._run is None:
                self._act(self._waiting.popleft())

    def grade(self, watched: str = "save", *, goes_on: bool = False) -> None:
        """Start a grading; one that still runs is cancelled, and what it found is kept.

        Args:
            watched: "save" leaves the speed checks out; "speed" runs all and shows what is new;
                "all" runs all and shows all.
            goes_on: below the run before it, which it completes.
        """
        self._cancel()
        self._has_speed = watched != "save"
        now = datetime.now().astimezone()
        out = self.desk.out
        # The window may have another size by now.
        self.desk = replace(
            self.desk, out=replace(out, width=terminal.of(out.stream).width), now=now
        )
        # Every run begins in the same place; what was there before can be read above it.
        if self._has_begun and not goes_on:
            self.desk.out.turn_page()
        self._has_begun = True
        self._write_head(f"{now:%H:%M:%S}")
        words = [self.exercise.id, "--watched", watched, *self.options]
        if watched == "save":
            words += ["--no-speed", "--failed-first"]
        answer = None
        if client.can_ask(words):
            with contextlib.chdir(self.desk.course.root):
                answer = client.reach(words, PATIENCE)
        self._run = Asked(self.desk, words, answer) if answer else Process(self.desk, words)

    def _write_head(self, clock: str) -> None:
        out = self.desk.out
        name = f"{self.exercise.id}  {safe(self.exercise.title)}"
        if self._has_speed:
            name += ", with the speed checks"
        name = out.cut(name, out.width - len(clock) - 8)
        if out.is_plain:
            out.write(f"\n{clock}, {name}")
            return
        rule = "-" * (out.width - terminal.cells(name) - len(clock) - 4)
        out.write(f"\n {out.styled(name, 'bold')} {rule} {clock}")

    def _patience(self) -> float:
        return LOOK_SECONDS if self.told is None or self._is_process() else TOLD_SECONDS

    def _is_process(self) -> bool:
        """Whether something runs whose end no descriptor tells."""
        return self._run is not None and not self._run.descriptors

    def _descriptors(self) -> list[int]:
        found = list(self._run.descriptors) if self._run is not None else []
        return found if self.told is None else [*found, self.told]

    def _changed(self) -> bool:
        """Whether a file of the exercise means something else than when it was last looked at."""
        changed = False
        for name in (*self.exercise.files, notebook.path_of(self.exercise).name):
            path = self.exercise.folder / name
            seen = self._seen.setdefault(name, _Seen())
            with contextlib.suppress(OSError):
                status = path.stat()
                stamp = status.st_mtime_ns, status.st_size, status.st_ino
                age = time.time() - status.st_mtime
                if stamp == seen.stamp and not 0 <= age < COARSE_SECONDS:
                    continue
                text = path.read_bytes().decode("utf-8", "replace")
                if text == seen.text:
                    continue
                now = meaning(name, text)
                if now is None and 0 <= age < WRITING_SECONDS:
                    continue
                seen.stamp, seen.text = stamp, text
                changed = changed or seen.meaning != now
                seen.meaning = now
        return changed

    def _look_after(self) -> None:
        """Once everything else passes, let the speed checks run too; then say what is possible."""
        if self._run is None or (code := self._run.poll()) is None:
            return
        self._run = None
        has_more = any(check.kind is Kind.SPEED for check in self.exercise.checks)
        if code == 0 and has_more and not self._has_speed:
            self.grade("speed", goes_on=True)
        else:
            self._write_foot()

    def _write_foot(self) -> None:
        """How far the week has come, and the keys."""
        out = self.desk.out
        with self._warned(), History.open(self.desk.database) as kept:
            every = catalogue.exercises(self.desk.course)
            road = roadmap.of(every, kept.attempts(), self.desk.now)
            rule = "" if out.is_plain else f" {'-' * (out.width - 2)}\n"
            out.write(f"{rule} {screens.standing(out, road, self.exercise)}")
        self._write_keys()

    def _write_keys(self) -> None:
        out = self.desk.out
        if not self.has_keys:
            out.write(" waiting for a save")
            return
        out.write(f" {'waiting for a save':24}{KEYS[0]}")
        out.write(f" {'':24}{KEYS[1]}")

    def _cancel(self) -> None:
        if self._run is not None:
            run, self._run = self._run, None
            run.cancel()

    def _act(self, key: str) -> None:
        with self._warned():
            match key:
                case "r":
                    self.grade()
                case "a":
                    self.grade("all")
                case "s":
                    self.grade("speed")
                case "h":
                    self.desk.out.write()
                    learner.hint(self.desk, self.exercise.id, None, shows_all=False, is_reset=False)
                    self._write_keys()
                case "l":
                    self.desk.out.write()
                    learner.status(self.desk, self.exercise.week, None)
                    self._write_keys()
                case "o":
                    self._open()
                    self._write_keys()
                case "n":
                    self._next()

    def _open(self) -> None:
        page = self.desk.course.reports / f"{self.exercise.id}.html"
        self.desk.out.write(f"\n The page: {self.desk.course.display(page)}")
        # A browser of the terminal would take the terminal over.
        if os.name == "nt" or sys.platform == "darwin" or _has_desktop():
            learner.browse(page.resolve().as_uri())

    def _next(self) -> None:
        every = catalogue.exercises(self.desk.course)
        place = next(i for i, other in enumerate(every) if other.id == self.exercise.id)
        if place + 1 == len(every):
            self.desk.out.write(f"\n {self.exercise.id} is the last one.")
            return
        self.exercise = every[place + 1]
        self._seen.clear()
        self._changed()
        self.grade()

    @contextlib.contextmanager
    def _warned(self) -> Iterator[None]:
        """What goes wrong is said, and the watch goes on."""
        try:
            yield
        except GraderError as error:
            self.desk.warn(safe(str(error)))


def watch(desk: Desk, exercise: Exercise, options: list[str], *, polls: bool = False) -> int:
    """Watch an exercise until `q` or Ctrl-C.

    Args:
        desk: where it is, and where the screen is.
        exercise: the first; `n` goes on to the next.
        options: for every grading.
        polls: look at the files even where the system could tell of saves.
    """
    watching = Watch(desk, exercise, options)
    with _keys() as wait, _telling(desk, is_wanted=not polls) as told:
        watching.told = told
        watching.has_keys = wait is not None
        try:
            return watching.loop(wait or _no_keys)
        finally:
            watching._cancel()


def _has_desktop() -> bool:
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _no_keys(seconds: float, others: Sequence[int]) -> str | None:
    if others:
        select.select(others, [], [], seconds)
    else:
        time.sleep(seconds)
    return None


@contextlib.contextmanager
def _keys() -> Iterator[Wait | None]:
    """A way to wait for a key of a terminal; None where there is none."""
    try:
        import termios
        import tty

        number = sys.stdin.fileno()
        before: list[Any] | None = termios.tcgetattr(number)
    except (ImportError, OSError, ValueError, AttributeError, termios.error):
        before = None
    if before is None:
        yield None
        return

    def key(seconds: float, others: Sequence[int]) -> str | None:
        ready, _, _ = select.select([number, *others], [], [], seconds)
        if number not in ready:
            return None
        pressed = os.read(number, 1)
        # A terminal that has gone away is the end.
        return pressed.decode("ascii", "ignore").lower() or None if pressed else "q"

    try:
        tty.setcbreak(number)
        yield key
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _telling(desk: Desk, *, is_wanted: bool) -> Iterator[int | None]:
    """A descriptor that can be read once the system has told of a save; None where it can't."""
    try:
        if not is_wanted or os.name == "nt":  # whose select takes no pipe
            raise ImportError
        import watchfiles
    except ImportError:
        yield None
        return
    ours, theirs = os.pipe()
    ended = threading.Event()

    def tell() -> None:
        # Without it the files are looked at once a second all the same.
        with contextlib.suppress(Exception):
            for _ in watchfiles.watch(
                desk.course.exercises_folder,
                debounce=20,
                step=10,
                stop_event=ended,
                raise_interrupt=False,
            ):
                os.write(theirs, b".")

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield ours
    finally:
        ended.set()
        teller.join(5.0)
        if not teller.is_alive():
            os.close(ours)
            os.close(theirs)
