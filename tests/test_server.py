"""The preloaded server: the same verdict as the cold path, and a clear end in bad weather."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from grader import course as courses
from grader.history import History
from grader.server import client, place, rehearsal, start, warm
from tests.grading_server import PATIENCE, Server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the server is for Linux")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests that leave it whole."""
    root = tmp_path_factory.mktemp("server") / "course"
    shutil.copytree(Path(__file__).parent / "course", root)
    (root / "exercises/day01").mkdir(parents=True)
    runtime = tmp_path_factory.mktemp("runtime")
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    os.environ.pop("GRADE_NO_SERVER", None)
    try:
        assert start.in_background(str(root))
        made = Server(root)
        made.wait()
        yield made
    finally:
        start.stop(str(root))
        os.environ["GRADE_NO_SERVER"] = "1"
        if before is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = before


BODY = "return x * 2"


def test_a_right_answer_passes_and_a_wrong_one_fails_warm_as_cold(server, reference):
    server.write(reference)
    right = server.grade("day01")
    server.write(reference.replace(BODY, "return x * 3"))
    wrong = server.grade("day01")

    assert right[0] == 0
    assert "3 of 3 checks pass" in right[1]
    assert wrong[0] == 1
    assert "got [3.0, 3.0], expected 2" in wrong[1]


@pytest.mark.parametrize("words", [["status"], ["status", "--week", "1"], ["next"]])
def test_the_roadmap_is_the_same_warm_and_cold(server, reference, words):
    server.write(reference.replace(BODY, "return x * 3"))
    server.grade("day01")
    warm, cold = server.grade(*words), server.without(*words)

    assert warm == cold
    assert warm[0] == 0


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("while True: pass", "stopped after 0.5 s of CPU time"),
        ("import os; os._exit(0)", "exit code 0"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        ("import os; os.closerange(0, 1000)", "exit code 0"),
        ("import os, time; os.kill(os.getppid(), 9); time.sleep(9)", "ended from outside"),
        ("import torch; torch.equal = lambda a, b: True; return x", "replaces torch.equal"),
        (
            "import os\n    if os.fork() == 0:\n"
            "        os.setsid(); os.execv('/bin/sleep', ['sleep', '97'])\n"
            "    return x",
            "got [1.0, 1.0]",
        ),
    ],
)
def test_a_trap_ends_the_child_and_not_the_server(server, reference, line, says):
    server.write(reference.replace(BODY, line).replace("double(x) + x", "x * 3"))
    code, out, _ = server.grade("day01", "--timeout", "0.5", "-v")

    assert code == 1
    assert says in out
    assert "1 of 3 checks pass" in out
    server.write(reference)
    assert server.grade("day01")[0] == 0
    left = [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "97"]]
    assert left == []


def test_a_process_that_will_not_end_after_its_answer_is_ended():
    ours, theirs = socket.socketpair()
    child = subprocess.Popen(["/bin/sleep", "97"], start_new_session=True)
    told = [{"event": "ready"}, {"event": "forked", "pid": child.pid}, {"event": "done"}]
    theirs.sendall(b"".join(json.dumps(event).encode() + b"\n" for event in told))

    class Lasting(warm.WarmWorker):
        def _reach(self, limit):
            return ours

    worker = Lasting("nowhere")
    soon = time.monotonic() + 20
    assert [next(worker.events(lambda: soon))["event"] for _ in range(2)] == ["forked", "done"]
    called: list[str] = []
    assert worker.leave(lambda: called.append("afterwards"))
    worker.close()
    assert (called, child.poll()) == ([], None)
    warm.wait_for_ends(0.05)

    assert (called, child.wait(20)) == (["afterwards"], -signal.SIGKILL)
    theirs.close()


def test_two_clients_at_once_are_both_answered(server, reference):
    server.write(reference)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: server.grade("day01"), range(4)))

    assert [code for code, _, _ in found] == [0, 0, 0, 0]


def test_a_session_that_has_rehearsed_records_what_it_is_asked_alone(server, reference):
    server.write(reference.replace(BODY, "return x * 3"))
    server.grade("day01")
    time.sleep(rehearsal.PAUSE + 1.0)
    before = recorded(server)
    server.write(reference)
    code, out, _ = server.grade("day01")

    assert code == 0
    assert "3 of 3 checks pass" in out
    assert recorded(server) == before + 1
    # The next session may be rehearsing right now.
    limit = time.monotonic() + PATIENCE
    while list(Path(place.folder()).glob("*.rehearsal")) and time.monotonic() < limit:
        time.sleep(0.05)
    assert list(Path(place.folder()).glob("*.rehearsal")) == []


def recorded(server: Server) -> int:
    with History.open(server.root / "reports/history.db") as history:
        return len(history.attempts())


def test_a_waiting_session_that_is_killed_is_replaced(server, reference):
    server.write(reference)
    assert server.grade("day01")[0] == 0
    for child in psutil.Process(server.wait()).children():
        child.kill()

    assert server.grade("day01")[0] == 0


def test_a_changed_suite_is_collected_anew(server, reference):
    server.write(reference)
    suite = server.root / "solutions/day01/test_scaling.py"
    text = suite.read_text(encoding="utf-8")
    suite.write_text(text.replace("(2,), 2.0)", "(2,), 4.0)"), encoding="utf-8")
    try:
        changed = server.grade("day01")
    finally:
        suite.write_text(text, encoding="utf-8")

    assert changed[0] == 1
    assert server.grade("day01")[0] == 0


def test_a_suite_that_does_not_load_is_the_courses_fault(server, reference):
    server.write(reference)
    suite = server.root / "solutions/day01/test_scaling.py"
    text = suite.read_text(encoding="utf-8")
    suite.write_text(text.replace("import torch", "import torch\n1 / 0"), encoding="utf-8")
    try:
        code, _, error = server.grade("day01")
    finally:
        suite.write_text(text, encoding="utf-8")

    assert code == 3
    assert "ZeroDivisionError" in error


def test_an_interrupt_records_what_has_ended(server, reference):
    server.write(reference.replace("double(x) + x", "[1 for _ in iter(int, 1)]"))
    code = (
        "import os, signal, sys, threading, time\n"
        "from grader.server import client\n"
        "client.PATIENCE = 20.0\n"
        "threading.Thread(target=lambda: (time.sleep(4), os.kill(os.getpid(), signal.SIGINT)),"
        " daemon=True).start()\n"
        "sys.exit(client.ask(['day01']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=server.root,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )

    assert done.returncode == 130


@pytest.mark.parametrize("how", [(), ("--no-server",)], ids=["warm", "cold"])
def test_a_reader_who_has_seen_enough_costs_no_attempt(server, reference, how):
    """As in `grade day01 | head -1`."""
    server.write(reference)
    assert server.grade("day01")[0] == 0
    with History.open(server.root / "reports/history.db") as history:
        known = history.attempts("day01")
    page = server.root / "reports/day01.html"
    page.unlink()
    with server.begin("day01", *how) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("day01")
        process.stdout.close()
        said = process.stderr.read()

    assert (process.returncode, said) == (0, "")
    with History.open(server.root / "reports/history.db") as history:
        attempts = history.attempts("day01")
    assert len(attempts) == len(known) + 1
    assert attempts[-1].is_solved
    assert page.exists()


def test_the_socket_is_the_users_own(server):
    path = Path(place.socket_of(str(server.root)))

    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_server_is_never_started_twice(server):
    assert not start.in_background(str(server.root))


def test_verifying_is_done_by_the_server_too(server):
    """A suite that looks changed has no zygote yet: it is verifying that asks for one."""
    exercise = courses.find(server.root).exercise("day01")
    os.utime(exercise.suite)
    zygote = Path(warm.zygote_socket(str(server.root), exercise))
    assert not zygote.exists()
    code, out, _ = server.grade("author", "verify", "day01", "--json")
    assert zygote.exists()
    assert code == 0
    (served,) = json.loads(out)["exercises"]
    (cold,) = json.loads(server.without("author", "verify", "day01", "--json")[1])["exercises"]
    del served["cpu_seconds"], cold["cpu_seconds"]
    assert served == cold


def test_verifying_is_interrupted_between_two_answers(server):
    running = server.begin("author", "verify", "day01", "--flaky", "999")
    time.sleep(4)
    running.send_signal(signal.SIGINT)
    out, _ = running.communicate(timeout=30)
    assert running.returncode == 130, out


def test_garbage_is_no_request(server):
    for data in (b"", b"hello\n", b"99999999\n", b"5\nabcde"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(place.socket_of(str(server.root)))
            connection.settimeout(20)
            assert connection.recv(len(client.HELLO)) == client.HELLO
            connection.sendall(data)
    assert server.wait()


def test_a_killed_server_leaves_the_cold_path(server, reference):
    server.write(reference)
    os.kill(server.wait(), signal.SIGKILL)
    time.sleep(0.5)

    assert server.grade("day01")[0] is None
    left = [
        p
        for p in psutil.process_iter(["cmdline"])
        if {"grader.server.base", str(server.root)} <= set(p.info["cmdline"] or ())
    ]
    for process in left:
        process.wait(timeout=20)


# --- the client alone -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "can"),
    [
        (["day23"], True),
        (["day23", "-v", "--seed", "7", "day03"], True),
        (["day23", "--device", "cpu"], False),
        (["exercises/day23/self_attention.py"], False),
        (["status"], True),
        (["next"], True),
        (["status", "--week", "2"], True),
        (["hint", "day23"], False),
        (["reset", "day23"], False),
        (["-C", "x", "day23"], False),
        (["author", "verify", "day23", "--task", "sdpa"], True),
        (["author", "generate"], False),
        (["day23", "--no-server"], False),
        (["--help"], False),
        ([], False),
    ],
)
def test_only_a_plain_grading_the_roadmap_and_verifying_are_asked_of_the_server(
    argv, can, monkeypatch
):
    monkeypatch.delenv("GRADE_NO_SERVER", raising=False)

    assert client.can_ask(argv) is can
    monkeypatch.setenv("GRADE_NO_SERVER", "1")
    assert client.can_ask(argv) is False


def test_a_folder_whose_name_is_too_long_for_a_socket_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("long" * 20)))

    assert place.folder() == f"/tmp/torch28-server-{os.getuid()}"


def test_a_folder_of_someone_elses_is_not_used(tmp_path_factory, monkeypatch):
    tmp_path = tmp_path_factory.mktemp("run")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "torch28").mkdir(mode=0o755)
    (tmp_path / "torch28").chmod(0o755)

    with pytest.raises(place.Unsafe):
        place.folder()
    assert not start.in_background(str(tmp_path))


def test_the_client_imports_next_to_nothing():
    code = "import sys; from grader import entry; from grader.server import client, place\n"
    code += "print(sorted({'argparse', 'json', 're', 'socket', 'pathlib', 'subprocess'}"
    code += " & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
    )

    assert done.stdout.strip() == "[]"
