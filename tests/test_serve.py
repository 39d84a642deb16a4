"""`grade serve`: the pages on this machine, for this user, fresh after every attempt."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from grader import serve
from grader.pages import write_index
from tests import page_records as records

PAGE = "<!doctype html><title>{0}</title><body><h1>{0}</h1></body>"


@pytest.fixture
def pages(tmp_path: Path) -> Iterator[serve.Pages]:
    """A folder with one page, being served."""
    (tmp_path / "reports").mkdir()
    (tmp_path / "secret.html").write_text("not a page")
    (tmp_path / "reports/index.html").write_text(PAGE.format("first"))
    (tmp_path / "reports/history.db").write_text("not a page")
    made = serve.Pages(tmp_path / "reports")
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.end()
    thread.join()


def get(pages: serve.Pages, name: str = "", **headers: str) -> tuple[int, str]:
    """What a browser gets for a name under the secret address."""
    connection = http.client.HTTPConnection("127.0.0.1", pages.server_port, timeout=20)
    path = name if name.startswith("/") else f"/{pages.secret}/{name}"
    connection.request("GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def test_the_address_shows_the_dashboard(pages):
    status, text = get(pages)

    assert status == 200
    assert "<h1>first</h1>" in text
    assert 'new EventSource("events")' in text


@pytest.mark.parametrize(
    "name",
    [
        "../secret.html",
        "..%2fsecret.html",
        "%2fetc%2fpasswd",
        "history.db",
        "missing.html",
        "a%00.html",
        "/",
        "/index.html",
        "/wrong-secret/index.html",
    ],
)
def test_nothing_else_is_shown(pages, name):
    status, text = get(pages, name)

    assert status == 404
    assert "not a page" not in text


def test_a_link_out_of_the_folder_is_not_followed(pages):
    (pages.folder / "out.html").symlink_to(pages.folder.parent / "secret.html")

    assert get(pages, "out.html")[0] == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:80"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
def test_another_page_can_not_read_it(pages, headers):
    assert get(pages, **headers)[0] == 403


def test_it_listens_on_the_loopback_alone(pages):
    assert pages.server_address[0] == "127.0.0.1"


def test_a_page_that_is_written_is_news_to_all_that_look(pages):
    readers = []
    for _ in range(2):
        connection = http.client.HTTPConnection("127.0.0.1", pages.server_port, timeout=20)
        connection.request("GET", f"/{pages.secret}/events")
        answer = connection.getresponse()
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert answer.readline() == b": open\n"
        answer.readline()
        readers.append((connection, answer))
    (pages.folder / "day23.html").write_text(PAGE.format("an attempt"))
    for connection, answer in readers:
        assert answer.readline() == b'data: ["day23.html"]\n'
        connection.close()


def test_the_browser_shows_an_attempt_without_being_asked(pages):
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no `chromium` on the path")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    course, page_at = records.course(), pages.folder / "index.html"

    def write(title: str) -> None:
        write_index(title, course, {}, [], records.NOW, page_at, records.WEEKS)

    write("The first title")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.goto(pages.address)
        assert "The first title" in page.inner_text("body")
        page.wait_for_timeout(500)  # the event stream is open by then
        write("The second title")
        page.wait_for_selector("body:has-text('The second title')")
        browser.close()
    assert said == []


def test_the_command_writes_the_pages_shows_the_address_and_ends_on_ctrl_c(course):
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "grader", "serve"],
        cwd=course.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    address = urllib.parse.urlsplit(line.split()[-1])
    connection = http.client.HTTPConnection("127.0.0.1", address.port or 0, timeout=20)
    connection.request("GET", address.path)
    text = connection.getresponse().read().decode()
    connection.close()
    time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=20)

    assert "day01" in text
    assert process.returncode == 0
    assert errors == ""


def test_a_port_that_is_taken_is_one_clear_line(pages, course):
    done = subprocess.run(
        [sys.executable, "-m", "grader", "serve", "--port", str(pages.server_port)],
        cwd=course.root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"port {pages.server_port} can't be used" in done.stderr
