"""The history keeps every attempt, whole, whatever happens to the process that writes it."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from grader import history, records
from grader.errors import GraderError
from grader.history import History, HistoryError
from grader.model import Fault, Status, Verdict
from tests import samples

ROOT = Path(__file__).parents[1]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "reports" / "history.db"


def test_attempts_are_numbered_within_their_exercise(path):
    with History.open(path) as kept:
        numbers = [
            kept.record(samples.attempt(exercise=exercise)).number
            for exercise in ("day01", "day01", "day02", "day01")
        ]

    assert numbers == [1, 2, 1, 3]


def test_an_attempt_comes_back_as_it_went_in(path):
    attempt = samples.attempt(samples.PARTLY, open_tasks=("fast",))
    with History.open(path) as kept:
        kept.record(attempt)

    with History.open(path) as kept:
        assert replace(attempt, number=1) == kept.latest("day23")
        assert replace(attempt, number=1) == kept.attempt("day23", 1)
        assert attempt.files == kept.files("day23", 1)


def test_a_summary_says_what_the_attempt_said(path):
    attempt = samples.attempt(samples.PARTLY)
    with History.open(path) as kept:
        recorded = kept.record(attempt)

        assert [recorded.summary] == kept.attempts()
        assert list(recorded.summary.statuses) == list(kept.attempts()[0].statuses)


@pytest.mark.parametrize(
    "text",
    ["a\x00b", "lone \ud800 surrogate", "多头\n\r\n", "x" * 10_000_000, ""],
    ids=["NUL", "surrogate", "chinese", "10 MB", "empty"],
)
def test_any_text_survives(path, text):
    failed = replace(samples.SHAPE_FAILED, output=text, traceback=text)
    attempt = samples.attempt(samples.outcomes(c1_1=failed), files={"self_attention.py": text})
    with History.open(path) as kept:
        kept.record(attempt)

        assert kept.latest("day23") == replace(attempt, number=1)


def test_numbers_that_json_lacks_survive(path):
    failed = replace(samples.SHAPE_FAILED, got=[float("inf"), float("-inf")])
    with History.open(path) as kept:
        kept.record(samples.attempt(samples.outcomes(c1_1=failed)))

        assert [float("inf"), float("-inf")] == kept.latest("day23").outcomes[0].got


def test_a_text_is_kept_once_however_often_it_was_graded(path):
    with History.open(path) as kept:
        for _ in range(5):
            kept.record(samples.attempt())

    (texts,) = sqlite3.connect(path).execute("SELECT count(*) FROM texts").fetchone()
    assert texts == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"outcomes": (), "verdict": Verdict.ERROR, "fault": Fault("SyntaxError", "'(' open")},
        {
            "outcomes": (samples.outcome("1.1", Status.TODO),),
            "verdict": Verdict.NOT_STARTED,
        },
        {
            "outcomes": (samples.outcome("1.1", Status.WAITING),),
            "verdict": Verdict.ERROR,
            "fault": Fault("ImportError", "no module named numpyy"),
        },
        {"verdict": Verdict.BROKEN, "fault": Fault("suite", "ValueError")},
    ],
    ids=["syntax", "not started", "import", "broken"],
)
def test_what_answered_no_check_is_kept_as_a_save_and_not_counted(path, changes):
    attempt = replace(samples.attempt(files={"a.py": "work\n"}), **changes)
    with History.open(path) as kept:
        assert kept.record(attempt).number == 0
        assert kept.attempts() == []
        assert kept.saved_files("day23", 1) == {"a.py": "work\n"}


def test_saving_the_same_text_again_keeps_one(path):
    with History.open(path) as kept:
        for text in ("a", "a", "b", "a"):
            kept.save("day23", {"a.py": text}, "reset", samples.NOON)

        assert [save.number for save in kept.saves("day23")] == [1, 2, 3]
        assert kept.saved_files("day23", 2) == {"a.py": "b"}


def test_an_attempt_at_part_of_the_suite_does_not_hide_the_whole(path):
    whole = samples.attempt(samples.PARTLY)
    part = samples.attempt((samples.outcome("1.1"),), selected=True)
    with History.open(path) as kept:
        kept.record(whole)
        kept.record(part)

        assert kept.latest("day23").number == 1
        assert {id: a.number for id, a in kept.latest_all().items()} == {"day23": 1}
        assert kept.best("day23").number == 1


def test_the_best_attempt_has_the_most_points(path):
    with History.open(path) as kept:
        for chosen in (samples.PARTLY, samples.outcomes(), samples.PARTLY):
            kept.record(samples.attempt(chosen))

        assert kept.best("day23").number == 2
        assert kept.best("day23").is_solved
        assert kept.best("day01") is None


def test_hints_that_were_seen_are_remembered_until_they_are_reset(path):
    with History.open(path) as kept:
        kept.see_hint("day23", "split", 2)
        kept.see_hint("day23", "split", 1)
        assert kept.hints_seen("day23") == {"split": 2}

        kept.reset_hints("day23")
        assert kept.hints_seen("day23") == {}


def test_an_attempt_that_is_not_there_is_named(path):
    with (
        History.open(path) as kept,
        pytest.raises(GraderError, match="day23 has no attempt 7; grade history day23 lists them"),
    ):
        kept.attempt("day23", 7)


def test_two_that_write_at_once_are_both_recorded(path):
    def write():
        with History.open(path) as kept:
            for _ in range(10):
                kept.record(samples.attempt())

    writers = [threading.Thread(target=write) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    with History.open(path) as kept:
        assert list(range(1, 31)) == [a.number for a in kept.attempts("day23")]


WRITER = """
import sys
from pathlib import Path
from grader.history import History
from tests import samples

with History.open(Path(sys.argv[1])) as kept:
    print("open", flush=True)
    for i in range(10_000):
        print(kept.record(samples.attempt(files={"a.py": f"{i}\\n" * 5000})).number, flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_writer_killed_at_any_moment_leaves_all_it_had_recorded(path):
    moments = random.Random(0)
    recorded = 0
    for _ in range(8):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert writer.stdout.readline() == "open\n"
        time.sleep(moments.uniform(0.0, 0.05))
        writer.send_signal(signal.SIGKILL)
        said = [int(line) for line in writer.communicate()[0].splitlines() if line]
        recorded = max([recorded, *said])
        with History.open(path) as kept:
            numbers = [a.number for a in kept.attempts("day23")]
            assert numbers == list(range(1, len(numbers) + 1))
            assert len(numbers) >= recorded
            assert not numbers or kept.latest("day23").files
            recorded = len(numbers)
    assert recorded > 0


@pytest.mark.parametrize(
    "content", [b"not a database, but long enough to be one" * 50, b"SQLite format 3\x00garbage"]
)
def test_a_damaged_file_is_named_and_left_as_it_is(path, content):
    path.parent.mkdir()
    path.write_bytes(content)

    with pytest.raises(HistoryError, match=r"history.db: is damaged .* Move it aside"):
        History.open(path)

    assert content == path.read_bytes()


def test_a_file_of_a_later_version_is_named_and_left_as_it_is(path):
    History.open(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()

    with pytest.raises(HistoryError, match=r"later version of grade \(schema 99"):
        History.open(path)


def test_the_database_of_another_program_is_left_as_it_is(path):
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.commit()
    connection.close()

    with pytest.raises(HistoryError, match="no history of grade"):
        History.open(path)


def test_a_migration_runs_once_on_an_older_file(path, monkeypatch):
    with History.open(path) as kept:
        kept.record(samples.attempt())
    later = (*history.MIGRATIONS, "ALTER TABLE attempts ADD COLUMN note TEXT;")
    monkeypatch.setattr(history, "MIGRATIONS", later)
    for _ in range(2):
        with History.open(path) as kept:
            assert len(kept.attempts()) == 1

    (version,) = sqlite3.connect(path).execute("PRAGMA user_version").fetchone()
    assert version == len(later)


def test_an_attempt_that_watch_made_says_so_and_an_older_record_does_not(path):
    with History.open(path) as kept:
        kept.record(samples.attempt())
        kept.record(samples.attempt(watched=True))

        assert [a.watched for a in kept.attempts()] == [False, True]
        assert kept.attempt("day23", 2).watched
    older = records.attempt_to_json(samples.attempt())
    assert "watched" not in older
    assert not records.attempt_from_json(older, {}).watched


def test_a_history_from_before_watched_attempts_goes_on(path, monkeypatch):
    with monkeypatch.context() as older:
        older.setattr(history, "MIGRATIONS", history.MIGRATIONS[:2])
        History.open(path).close()
    connection = sqlite3.connect(path)
    connection.execute(
        "INSERT INTO attempts VALUES (1, 'day23', 1, '2026-10-01T12:00:00+00:00', 2.0, 'passed',"
        " 8, 8, 51, 51, 0, 0, '{}', '{}', x'00')"
    )
    connection.commit()
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()

    with monkeypatch.context() as locked:
        locked.setattr(history.os, "access", lambda *_: False)
        with History.open(path) as kept:
            assert [a.watched for a in kept.attempts()] == [False]
    with History.open(path) as kept:
        kept.record(samples.attempt(watched=True))
        assert [a.watched for a in kept.attempts()] == [False, True]


def test_a_damaged_record_is_one_clear_line(path):
    with History.open(path) as kept:
        kept.record(samples.attempt())
    connection = sqlite3.connect(path)
    connection.execute("UPDATE attempts SET record = x'00'")
    connection.commit()
    connection.close()

    with History.open(path) as kept:
        assert len(kept.attempts()) == 1
        with pytest.raises(HistoryError, match="is damaged"):
            kept.latest("day23")


def test_a_folder_that_cannot_be_made_reads_as_empty_and_says_so_on_writing(tmp_path):
    (tmp_path / "reports").write_text("a file where the folder should be")
    with History.open(tmp_path / "reports" / "history.db") as kept:
        assert kept.attempts() == []
        with pytest.raises(HistoryError, match="can't be written"):
            kept.record(samples.attempt())


READER = """
import os, sys
from pathlib import Path
from grader.history import History, HistoryError
from tests import samples

if os.geteuid() == 0:
    os.setuid(65534)  # permissions don't bind root
with History.open(Path(sys.argv[1])) as kept:
    print(len(kept.attempts()))
    try:
        kept.record(samples.attempt())
    except HistoryError as error:
        print(error)
"""


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs Unix permissions")
def test_a_read_only_folder_can_be_read():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.db"
        with History.open(path) as kept:
            kept.record(samples.attempt())
        path.chmod(0o444)
        Path(folder).chmod(0o555)
        done = subprocess.run(
            [sys.executable, "-c", READER, str(path)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        Path(folder).chmod(0o755)

    assert done.stdout.startswith("1\n"), done.stderr
    assert "nothing was kept, since the file or its folder can't be written" in done.stdout


def test_fields_of_a_later_version_are_passed_over():
    record = records.attempt_to_json(samples.attempt(samples.PARTLY))
    record["mood"] = "good"
    record["outcomes"][0]["mood"] = "good"

    assert samples.attempt(samples.PARTLY) == records.attempt_from_json(
        record, {"self_attention.py": "x = 1\n"}
    )
