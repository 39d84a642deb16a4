"""The history: every attempt, every text that was graded, and the hints that were seen.

One SQLite file, `reports/history.db`. An attempt is one row with its checks; a text is kept once
however often it was graded. What is no attempt (a file that does not load, a stub) is kept as a
*save*, so that nothing a learner writes is lost. This is the only room that knows SQLite.
"""

from __future__ import annotations

import json
import os
import sqlite3
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from grader import records
from grader.errors import EnvironmentFault, GraderError
from grader.model import Attempt, AttemptSummary, ManualMark, Status, Verdict

BUSY_SECONDS = 20.0
"""How long one process waits for another that is writing."""

APPLICATION_ID = 0x74323864  # "t28d": says that an SQLite file is a history, and not another's

MIGRATIONS = (
    """
    CREATE TABLE texts (
        digest TEXT PRIMARY KEY,
        content BLOB NOT NULL               -- zlib of UTF-8
    ) WITHOUT ROWID;
    CREATE TABLE attempts (
        id INTEGER PRIMARY KEY,
        exercise TEXT NOT NULL,
        number INTEGER NOT NULL,            -- 1, 2, 3 within the exercise
        started TEXT NOT NULL,              -- ISO 8601 with its offset
        seconds REAL NOT NULL,
        verdict TEXT NOT NULL,
        passed INTEGER NOT NULL,
        counted INTEGER NOT NULL,
        earned INTEGER NOT NULL,
        possible INTEGER NOT NULL,
        skipped INTEGER NOT NULL,
        selected INTEGER NOT NULL,          -- 1: only part of the suite ran
        statuses TEXT NOT NULL,             -- JSON: name of a check -> status
        files TEXT NOT NULL,                -- JSON: name -> digest of its text
        record BLOB NOT NULL,               -- zlib of JSON, records.attempt_to_json
        UNIQUE (exercise, number)
    );
    CREATE TABLE saves (
        id INTEGER PRIMARY KEY,
        exercise TEXT NOT NULL,
        saved TEXT NOT NULL,
        reason TEXT NOT NULL,
        files TEXT NOT NULL
    );
    CREATE INDEX saves_of_exercise ON saves (exercise);
    CREATE TABLE hints (
        exercise TEXT NOT NULL,
        name TEXT NOT NULL,                 -- of a task or a check
        seen INTEGER NOT NULL,
        PRIMARY KEY (exercise, name)
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE marks (
        id INTEGER PRIMARY KEY,
        exercise TEXT NOT NULL,
        item TEXT NOT NULL,                 -- of the rubric
        points INTEGER NOT NULL,
        remark TEXT NOT NULL,
        marked TEXT NOT NULL                -- ISO 8601 with its offset
    );
    CREATE INDEX marks_of_exercise ON marks (exercise);
    """,
    """
    -- 1: `grade watch` made it
    ALTER TABLE attempts ADD COLUMN watched INTEGER NOT NULL DEFAULT 0
    """,
)
"""Schema 1, then one script for each later schema; `PRAGMA user_version` says which have run."""


class HistoryError(EnvironmentFault):
    """The history can't be read or written; the message says which file and what to do."""


@dataclass(frozen=True, slots=True)
class Save:
    """A text that was kept without being an attempt."""

    number: int
    exercise: str
    saved: datetime
    reason: str  # "reset", "not started", "SyntaxError"
    names: tuple[str, ...]  # of its files


class History:
    """An open history; use it as a context manager.

    A folder that can't be written opens for reading alone: `record` and `save` then raise
    `HistoryError`, everything else answers from what is there.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, *, is_writable: bool) -> None:
        self.path = path
        self.is_writable = is_writable
        self._connection = connection

    @classmethod
    def open(cls, path: Path) -> History:
        """Open the history at `path`, and begin one where there is none.

        Raises:
            HistoryError: the file is damaged, is no history, or was written by a later version.
                It is never replaced.
        """
        with _named(path):
            connection, is_writable = _connect(path)
            try:
                _bring_up_to_date(path, connection, is_writable=is_writable)
            except BaseException:
                connection.close()
                raise
            return cls(path, connection, is_writable=is_writable)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    # Writing

    def record(self, attempt: Attempt) -> Attempt:
        """Keep an attempt, and return it with its number within the exercise.

        Where no check got an answer (`Attempt.counts`), the files alone are kept, as a save, and
        the attempt comes back with number 0.

        Raises:
            HistoryError: nothing could be written.
        """
        if not attempt.counts:
            if attempt.files:
                reason = attempt.fault.kind if attempt.fault else str(attempt.verdict)
                self.save(attempt.exercise, attempt.files, reason, attempt.started)
            return replace(attempt, number=0)
        summary = attempt.summary
        record = _packed(records.dumps(records.attempt_to_json(attempt)).encode("ascii"))
        with self._writing() as connection:
            (last,) = connection.execute(
                "SELECT coalesce(max(number), 0) FROM attempts WHERE exercise = ?",
                (attempt.exercise,),
            ).fetchone()
            files = _keep_texts(connection, attempt.files)
            connection.execute(
                "INSERT INTO attempts (exercise, number, started, seconds, verdict, passed,"
                " counted, earned, possible, skipped, selected, statuses, files, record, watched)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    attempt.exercise,
                    last + 1,
                    _aware(attempt.started).isoformat(),
                    attempt.seconds,
                    str(attempt.verdict),
                    summary.passed,
                    summary.counted,
                    summary.earned,
                    summary.possible,
                    summary.skipped,
                    int(attempt.selected),
                    records.dumps({name: str(s) for name, s in summary.statuses.items()}),
                    files,
                    record,
                    int(attempt.watched),
                ),
            )
        return replace(attempt, number=last + 1)

    def save(self, exercise: str, files: Mapping[str, str], reason: str, now: datetime) -> None:
        """Keep texts without an attempt; those that were kept last are not kept again.

        Raises:
            HistoryError: nothing could be written, so what was to follow must not happen.
        """
        with self._writing() as connection:
            kept = _keep_texts(connection, files)
            latest = connection.execute(
                "SELECT files FROM saves WHERE exercise = ? ORDER BY id DESC LIMIT 1", (exercise,)
            ).fetchone()
            if latest is None or latest[0] != kept:
                connection.execute(
                    "INSERT INTO saves (exercise, saved, reason, files) VALUES (?, ?, ?, ?)",
                    (exercise, _aware(now).isoformat(), reason, kept),
                )

    def see_hint(self, exercise: str, name: str, count: int) -> None:
        """Remember that `count` hints of a task or check have been shown.

        Raises:
            HistoryError: nothing could be written.
        """
        with self._writing() as connection:
            connection.execute(
                "INSERT INTO hints VALUES (?, ?, ?)"
                " ON CONFLICT DO UPDATE SET seen = max(seen, excluded.seen)",
                (exercise, name, count),
            )

    def reset_hints(self, exercise: str) -> None:
        """Forget which hints of an exercise were shown.

        Raises:
            HistoryError: nothing could be written.
        """
        with self._writing() as connection:
            connection.execute("DELETE FROM hints WHERE exercise = ?", (exercise,))

    def mark(self, exercise: str, mark: ManualMark) -> None:
        """Keep what a person gave for an item of the rubric; an older mark is kept below it.

        Raises:
            HistoryError: nothing could be written.
        """
        with self._writing() as connection:
            connection.execute(
                "INSERT INTO marks (exercise, item, points, remark, marked) VALUES (?, ?, ?, ?, ?)",
                (exercise, mark.item, mark.points, mark.remark, _aware(mark.marked).isoformat()),
            )

    # Reading

    def marks(self, exercise: str) -> dict[str, ManualMark]:
        """The latest mark of each item of an exercise's rubric that has one, by the item."""
        with self._reading() as connection:
            if _version(self.path, connection) < 2:
                return {}
            rows = connection.execute(
                "SELECT item, points, remark, marked FROM marks WHERE exercise = ? ORDER BY id",
                (exercise,),
            ).fetchall()
            return {
                item: ManualMark(item, points, remark, datetime.fromisoformat(marked))
                for item, points, remark, marked in rows
            }

    def attempts(self, exercise: str | None = None) -> list[AttemptSummary]:
        """All attempts, or those of one exercise, oldest first."""
        with self._reading() as connection:
            # An older file that can't be written has not been brought up to date.
            watched = "watched" if _version(self.path, connection) >= 3 else "0"
            rows = connection.execute(
                f"SELECT {SUMMARY_COLUMNS}, {watched} FROM attempts"
                " WHERE :exercise IS NULL OR exercise = :exercise ORDER BY id",
                {"exercise": exercise},
            ).fetchall()
            return [_summary(row) for row in rows]

    def best(self, exercise: str) -> AttemptSummary | None:
        """The attempt with the most points, the latest of equals; whole attempts come first."""
        attempts = self.attempts(exercise)
        return max(attempts, key=lambda a: (not a.selected, a.earned, a.number), default=None)

    def latest(self, exercise: str) -> Attempt | None:
        """The last attempt that ran the whole suite, else the last one; None before the first."""
        with self._reading() as connection:
            row = connection.execute(
                "SELECT number, files, record FROM attempts WHERE exercise = ?"
                " ORDER BY selected, id DESC LIMIT 1",
                (exercise,),
            ).fetchone()
            return self._attempt(*row) if row else None

    def latest_all(self) -> dict[str, Attempt]:
        """`latest` of every exercise that was tried, by id."""
        with self._reading() as connection:
            rows = connection.execute(
                "SELECT exercise, number, files, record FROM attempts AS a WHERE id = ("
                " SELECT id FROM attempts WHERE exercise = a.exercise"
                " ORDER BY selected, id DESC LIMIT 1) ORDER BY id"
            ).fetchall()
            return {exercise: self._attempt(*row) for exercise, *row in rows}

    def attempt(self, exercise: str, number: int) -> Attempt:
        """One attempt, whole.

        Raises:
            GraderError: there is none of that number.
        """
        with self._reading() as connection:
            row = connection.execute(
                "SELECT number, files, record FROM attempts WHERE exercise = ? AND number = ?",
                (exercise, number),
            ).fetchone()
            if row:
                return self._attempt(*row)
        raise GraderError(
            f"{exercise} has no attempt {number}; grade history {exercise} lists them"
        )

    def files(self, exercise: str, number: int) -> dict[str, str]:
        """The texts that an attempt graded, by name.

        Raises:
            GraderError: there is no attempt of that number.
        """
        return self.attempt(exercise, number).files

    def saves(self, exercise: str) -> list[Save]:
        """What was kept of an exercise without an attempt, oldest first; numbered from 1."""
        with self._reading() as connection:
            rows = connection.execute(
                "SELECT saved, reason, files FROM saves WHERE exercise = ? ORDER BY id", (exercise,)
            ).fetchall()
            return [
                Save(number, exercise, datetime.fromisoformat(saved), reason, tuple(json.loads(f)))
                for number, (saved, reason, f) in enumerate(rows, start=1)
            ]

    def saved_files(self, exercise: str, number: int) -> dict[str, str]:
        """The texts of a save, by name.

        Raises:
            GraderError: there is no save of that number.
        """
        with self._reading() as connection:
            row = connection.execute(
                "SELECT files FROM saves WHERE exercise = ? ORDER BY id LIMIT 1 OFFSET ?",
                (exercise, number - 1),
            ).fetchone()
            if row and number > 0:
                return self._texts(row[0])
        raise GraderError(f"{exercise} has no save {number}; grade history {exercise} lists them")

    def hints_seen(self, exercise: str) -> dict[str, int]:
        """How many hints were shown, by the name of the task or check."""
        with self._reading() as connection:
            rows = connection.execute(
                "SELECT name, seen FROM hints WHERE exercise = ? ORDER BY name", (exercise,)
            ).fetchall()
            return dict(rows)

    def _attempt(self, number: int, files: str, record: bytes) -> Attempt:
        attempt = records.attempt_from_json(json.loads(zlib.decompress(record)), self._texts(files))
        return replace(attempt, number=number)

    def _texts(self, files: str) -> dict[str, str]:
        texts = {}
        for name, digest in json.loads(files).items():
            (content,) = self._connection.execute(
                "SELECT content FROM texts WHERE digest = ?", (digest,)
            ).fetchone()
            texts[name] = zlib.decompress(content).decode("utf-8", "surrogatepass")
        return texts

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with _named(self.path):
            try:
                yield self._connection
            except (zlib.error, ValueError, KeyError, TypeError) as error:
                raise _damaged(self.path, error) from error

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with _named(self.path):
            if not self.is_writable:
                raise HistoryError(
                    f"{self.path}: nothing was kept, since the file or its folder can't be written"
                )
            # The lock is taken before reading, so that two processes can't get the same number.
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


SUMMARY_COLUMNS = (
    "exercise, number, started, seconds, verdict, passed, counted, earned, possible, skipped,"
    " selected, statuses"
)


def _summary(
    row: tuple[str, int, str, float, str, int, int, int, int, int, int, str, int],
) -> AttemptSummary:
    exercise, number, started, seconds, verdict, passed, counted, earned, possible, skipped = row[
        :10
    ]
    return AttemptSummary(
        exercise=exercise,
        number=number,
        started=datetime.fromisoformat(started),
        seconds=seconds,
        verdict=Verdict(verdict),
        passed=passed,
        counted=counted,
        earned=earned,
        possible=possible,
        skipped=skipped,
        statuses={name: Status(status) for name, status in json.loads(row[11]).items()},
        selected=bool(row[10]),
        watched=bool(row[12]),
    )


def _connect(path: Path) -> tuple[sqlite3.Connection, bool]:
    """A connection, and whether it can write."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_writable = os.access(path.parent, os.W_OK) and (
            not path.exists() or os.access(path, os.W_OK)
        )
    except OSError:
        is_writable = False
    if is_writable:
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    elif path.is_file():
        # Without the right to write beside it, SQLite can't share a file in WAL mode; as immutable
        # it opens, and shows what was there when the last writer closed.
        uri = f"{path.resolve().as_uri()}?immutable=1"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    else:
        connection = sqlite3.connect(":memory:", isolation_level=None)
    return connection, is_writable


def _bring_up_to_date(path: Path, connection: sqlite3.Connection, *, is_writable: bool) -> None:
    # One transaction: another process that begins the file just now is seen wholly or not at all.
    connection.execute("BEGIN")
    try:
        version = _version(path, connection)
    finally:
        connection.execute("ROLLBACK")
    if is_writable:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    if version == len(MIGRATIONS) or (version and not is_writable):
        return  # an older one that can't be written shows what it has
    connection.execute("BEGIN IMMEDIATE" if is_writable else "BEGIN")
    try:
        # Another process may have done it while this one waited for the lock.
        for migration in MIGRATIONS[_version(path, connection) :]:
            for statement in migration.split(";"):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _version(path: Path, connection: sqlite3.Connection) -> int:
    """Which schema the file has; 0 is an empty file.

    Raises:
        HistoryError: the file is another program's, or of a later version.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and application != APPLICATION_ID:
        raise HistoryError(
            f"{path}: is an SQLite file, but no history of grade; it was left as it is."
            " Move it elsewhere, and a new history begins"
        )
    if version > len(MIGRATIONS):
        raise HistoryError(
            f"{path}: was written by a later version of grade (schema {version}, this one knows"
            f" {len(MIGRATIONS)}); it was left as it is. Update grade to go on with it"
        )
    return int(version)


def _keep_texts(connection: sqlite3.Connection, files: Mapping[str, str]) -> str:
    """Store each text once; the JSON that says which name has which."""
    import hashlib  # loads OpenSSL, which reading has no use for

    digests = {}
    for name, text in files.items():
        content = text.encode("utf-8", "surrogatepass")
        digests[name] = hashlib.sha256(content).hexdigest()
        connection.execute(
            "INSERT OR IGNORE INTO texts VALUES (?, ?)", (digests[name], _packed(content))
        )
    return records.dumps(digests)


def _packed(content: bytes) -> bytes:
    # Level 1: the learner waits for it, and a traceback shrinks tenfold even so.
    return zlib.compress(content, 1)


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.astimezone()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn what SQLite raises into one line with the name of the file and what to do."""
    try:
        yield
    except sqlite3.OperationalError as error:
        text = str(error)
        if "locked" in text or "busy" in text:
            text = f"another grade has been writing for {BUSY_SECONDS:.0f} seconds; try again"
        raise HistoryError(f"{path}: {text}; nothing was kept") from error
    except sqlite3.DatabaseError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> HistoryError:
    return HistoryError(
        f"{path}: is damaged ({error}); it was left as it is."
        f" Move it aside (to {path.name}.damaged, say), and a new history begins"
    )
