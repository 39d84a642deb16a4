"""What brings other graders down: each ends here with a plain answer, and nothing else is lost."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from grader import grading, runner, source
from grader.model import Attempt, Exercise, Outcome, Status, Verdict

BODY = "return x * 2"


def outcomes(attempt: Attempt) -> dict[str, Outcome]:
    return {outcome.check.number: outcome for outcome in attempt.outcomes}


def text_of(outcome: Outcome) -> str:
    assert outcome.message is not None
    return outcome.message.text


# --- while a check runs -----------------------------------------------------------------------


def test_an_endless_loop_is_stopped_and_the_other_checks_still_run(grade, reference):
    attempt = grade(reference.replace(BODY, "while True: pass").replace("double(x) + x", "x * 3"))
    found = outcomes(attempt)

    assert found["1.1"].status is Status.TIMEOUT
    assert "2 s of CPU time" in text_of(found["1.1"])
    assert found["1.1"].lines[-1].text.strip() == "while True: pass"
    assert found["1.2"].status is Status.WAITING
    assert found["2.1"].status is Status.PASSED
    assert attempt.score.earned == 50


@pytest.mark.parametrize(
    "line",
    [
        "import pytest; pytest.skip('easy')",
        "from grader.plugin import NeedsHardware; raise NeedsHardware('easy')",
        "import pytest; raise pytest.skip.Exception('easy', allow_module_level=True)",
    ],
)
def test_a_check_that_an_answer_skips_is_not_left_out(grade, reference, line):
    attempt = grade(reference.replace(BODY, line).replace("double(x) + x", "x * 3"))
    found = outcomes(attempt)

    assert found["1.1"].status is Status.ERROR
    assert found["1.1"].lines[-1].text.strip() == line
    assert attempt.verdict is Verdict.FAILED
    assert attempt.score.skipped == 0


def test_a_skip_without_a_line_of_the_answer_is_a_failure_too(grade, reference):
    skips = "import functools, pytest\ndouble = functools.partial(pytest.skip, reason='easy')\n"
    attempt = grade(f"{reference}\n{skips}".replace("double(x) + x", "x * 3"))

    assert outcomes(attempt)["1.1"].status is Status.FAILED
    assert attempt.verdict is Verdict.FAILED


def test_a_loop_that_swallows_every_exception_is_stopped_too(grade, reference):
    loop = (
        "while True:\n        try:\n            while True: pass\n"
        "        except BaseException: pass"
    )

    assert outcomes(grade(reference.replace(BODY, loop)))["1.1"].status is Status.TIMEOUT


def test_signals_switched_off_do_not_make_a_loop_endless(fixture_exercise, grade, reference):
    loop = (
        "import signal\n    signal.signal(signal.SIGPROF, signal.SIG_IGN)\n"
        "    signal.signal(signal.SIGALRM, signal.SIG_IGN)\n    while True: pass"
    )
    quick = grading.Options(cpu_seconds=0.2)
    attempt = grade(reference.replace(BODY, loop).replace("double(x) + x", "x * 3"), quick)
    found = outcomes(attempt)

    assert found["1.1"].status is Status.TIMEOUT
    assert found["2.1"].status is Status.PASSED


@pytest.mark.parametrize(
    ("line", "status", "says"),
    [
        ("import os; os._exit(0)", Status.KILLED, "exit code 0"),
        ("import sys; sys.exit(0)", Status.ERROR, "SystemExit: 0"),
        ("raise KeyboardInterrupt", Status.KILLED, "KeyboardInterrupt"),
        ("import pytest; pytest.exit('bye')", Status.KILLED, "Exit"),
        ("import ctypes; ctypes.string_at(0)", Status.KILLED, "SIGSEGV"),
        ("import os; os.abort()", Status.KILLED, "SIGABRT"),
        ("import os; os.closerange(0, 1000); return x * 2", Status.KILLED, "closing every file"),
        ("return [print('x' * 1000) for _ in range(200_000)]", Status.ERROR, "more than 16 MB"),
        ("return nothing", Status.ERROR, "NameError"),
        ("return None", Status.FAILED, "NoneType"),
    ],
)
def test_an_ending_that_is_no_answer_earns_nothing(grade, reference, line, status, says):
    attempt = grade(reference.replace(BODY, line).replace("double(x) + x", "x * 3"))
    found = outcomes(attempt)

    assert found["1.1"].status is status
    assert says in text_of(found["1.1"])
    assert found["2.1"].status is Status.PASSED
    assert attempt.verdict is Verdict.FAILED
    assert attempt.score.earned == 50


def test_memory_in_small_pieces_ends_at_the_limit(grade, reference):
    hog = "a = []\n    while True: a.append(bytearray(8_000_000))"
    attempt = grade(reference.replace(BODY, hog), grading.Options(cpu_seconds=30))
    first = outcomes(attempt)["1.1"]

    assert first.status is Status.KILLED
    assert "4 GB of memory" in text_of(first)


def test_a_tensor_that_is_too_large_ends_at_the_limit(grade, reference):
    hog = "import torch; return torch.ones(3_000_000_000, dtype=torch.float64)"
    first = outcomes(grade(reference.replace(BODY, hog)))["1.1"]

    assert first.status is Status.KILLED
    assert "4 GB of memory" in text_of(first)


def test_a_flood_keeps_its_head_and_its_tail(grade, reference):
    flood = "[print(f'line {i}') for i in range(20_000)]\n    return x * 2"
    first = outcomes(grade(reference.replace(BODY, flood)))["1.1"]

    assert first.status is Status.PASSED
    assert first.output_truncated
    assert first.output.startswith("line 0\n")
    assert first.output.endswith("line 19999\n")
    assert len(first.output) < 70_000


def test_children_and_daemons_end_with_the_run(grade, reference):
    mark = f"torch28-trap-{os.getpid()}"
    daemons = (
        "import os, sys, time\n"
        "    for i in range(200):\n"
        "        if os.fork() == 0:\n"
        "            os.setsid()\n"
        "            if i % 20 == 0 and os.fork() == 0:\n"
        f"                os.execv(sys.executable, [sys.executable, '-c', "
        f"'import time; time.sleep(600)', '{mark}'])\n"
        "            if i % 20: time.sleep(600)\n"
        "            os._exit(0)\n"
        "    return x * 2"
    )
    grade(reference.replace(BODY, daemons), grading.Options(tasks=("double",), cpu_seconds=20))
    left = []
    for process in psutil.process_iter(["cmdline"]):
        if mark in (process.info["cmdline"] or []):
            left.append(process)

    assert not left


def test_deleting_everything_in_the_working_folder_costs_nothing(grade, reference):
    line = "import shutil; shutil.rmtree('.', ignore_errors=True); return x * 2"
    attempt = grade(reference.replace(BODY, line))

    assert attempt.verdict is Verdict.PASSED


def test_a_folder_that_has_gone_leaves_the_one_it_lay_in_as_it_was(
    grade, reference, tmp_path, monkeypatch
):
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tmp_path.chmod(0o751)
    gone = "import os, shutil\n    shutil.rmtree(os.getcwd())\n    return x * 2"
    grade(reference.replace(BODY, gone))

    assert tmp_path.stat().st_mode & 0o777 == 0o751


def test_killing_its_parent_loses_no_other_check(grade, reference):
    line = "import os, time; os.kill(os.getppid(), 9); time.sleep(5); return x * 2"
    attempt = grade(reference.replace(BODY, line).replace("double(x) + x", "x * 3"))
    found = outcomes(attempt)

    assert found["1.1"].status is Status.KILLED
    assert found["2.1"].status is Status.PASSED


# --- while the file is imported ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "kind", "says"),
    [
        ("import os; os._exit(0)", "killed", "exit code 0"),
        ("import sys; sys.exit(0)", "SystemExit", "ends Python (exit code 0)"),
        ("while True: pass", "TimeLimit", "stopped after 2 s while the file was imported"),
        ("1 / 0", "ZeroDivisionError", "division by zero"),
        ("import no_such_module", "ModuleNotFoundError", "no_such_module"),
        ("from torch import Tensr", "ImportError", "Tensr"),
        ("print('x' * 20_000_000, flush=True)", "OSError", "File too large"),
    ],
)
def test_a_file_that_does_not_load_says_why_and_where(grade, reference, line, kind, says):
    attempt = grade(f"{reference}\n{line}\n")

    assert attempt.verdict is Verdict.ERROR
    assert attempt.fault is not None
    assert attempt.fault.kind == kind
    assert says in attempt.fault.text
    assert attempt.outcomes == ()
    if kind != "killed":
        assert attempt.fault.line == reference.count("\n") + 2


# --- the file itself --------------------------------------------------------------------------


def read(exercise: Exercise) -> source.Submission:
    return source.read(exercise)


def test_an_empty_file_is_read_and_fails_every_check(grade):
    attempt = grade("")

    assert attempt.verdict is Verdict.FAILED
    assert {outcome.status for outcome in attempt.outcomes} <= {
        Status.FAILED,
        Status.WAITING,
        Status.SKIPPED,
    }
    assert "defines no `double`" in text_of(attempt.outcomes[0])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"x = '\xff'\n", "line 1: byte 0xff is not UTF-8"),
        (b"#" * 10_000_000, "9.5 MB; at most 1 MB"),
        (b"x = 1\0\n", "NUL"),
    ],
)
def test_bytes_that_are_no_small_text_are_refused(exercise, content, says):
    exercise.submission.write_bytes(content)
    fault = read(exercise).fault

    assert fault is not None
    assert says in fault.text


def test_a_folder_a_missing_file_and_a_dead_link_are_refused(exercise):
    exercise.submission.unlink()
    missing = read(exercise).fault
    exercise.submission.symlink_to("nowhere.py")
    link = read(exercise).fault
    exercise.submission.unlink()
    exercise.submission.mkdir()
    folder = read(exercise).fault

    assert missing is not None
    assert missing.text == "exercises/day01/scaling.py does not exist"
    assert link is not None
    assert "link to a file that does not exist" in link.text
    assert folder is not None
    assert "is a folder" in folder.text


def test_a_pipe_is_refused_without_waiting_for_it(exercise):
    exercise.submission.unlink()
    os.mkfifo(exercise.submission)
    before = time.monotonic()
    fault = read(exercise).fault

    assert fault is not None
    assert "not a regular file" in fault.text
    assert time.monotonic() - before < 5


def test_a_link_to_a_file_is_followed(exercise, reference, tmp_path):
    target = tmp_path / "mine.py"
    target.write_text(reference, encoding="utf-8")
    exercise.submission.unlink()
    exercise.submission.symlink_to(target)

    assert read(exercise).files == {"scaling.py": reference}


def test_a_byte_order_mark_and_windows_line_ends_are_read(exercise, reference):
    exercise.submission.write_bytes(b"\xef\xbb\xbf" + reference.replace("\n", "\r\n").encode())

    assert read(exercise).files == {"scaling.py": reference}


# --- what lies beside it ----------------------------------------------------------------------


def test_neighbours_and_variables_change_nothing(exercise, reference, monkeypatch):
    folder = exercise.folder
    hostile = "raise SystemExit('a neighbour was imported')\n"
    for name in ("conftest.py", "torch.py", "random.py", "test_other.py", "sitecustomize.py"):
        (folder / name).write_text(hostile, encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --collect-only\n", encoding="utf-8")
    exercise.submission.write_text(reference, encoding="utf-8")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("PYTEST_ADDOPTS", "--collect-only -p no:grader.plugin")
    monkeypatch.setenv("PYTEST_PLUGINS", "conftest")
    monkeypatch.setenv("PYTHONSTARTUP", str(folder / "conftest.py"))
    attempt = grading.grade(exercise, read(exercise), backend=runner.cold)

    assert attempt.verdict is Verdict.PASSED
    assert attempt.score.earned == 100


def test_nothing_is_left_in_the_temporary_folder(grade, reference, tmp_path, monkeypatch):
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    lock = (
        "import os\n    os.makedirs('a/b/c', exist_ok=True)\n    os.chmod('a/b', 0)\n"
        "    return x * 2"
    )
    grade(reference.replace(BODY, lock))

    assert list(Path(tmp_path).glob("torch28-*")) == []


def test_what_the_profiler_notes_is_not_what_the_learner_printed(grade, reference):
    line = "with torch.profiler.profile(): torch.ones(3).exp()"
    text = "import torch\nimport torch.profiler\n" + reference.replace(
        "return x * 2", f"{line}\n    return x * 2"
    )
    attempt = grade(text)

    assert attempt.is_solved
    assert [outcome.output for outcome in attempt.outcomes if outcome.output] == []
