"""`grade serve`: the pages over HTTP on this machine, each fresh as soon as it is written.

Only the user who was given the address can read them: it holds a secret, the server listens on
the loopback alone, and it answers neither another `Host` nor a request that another page made.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.server
import secrets
import threading
import time
import urllib.parse
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import ClassVar

LOOK_SECONDS = 0.1
BEAT_SECONDS = 10.0
"""Seconds until an open page hears something again: that is how its end is noticed."""

_TYPES = {".html": "text/html; charset=utf-8", ".png": "image/png", ".svg": "image/svg+xml"}
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_SCRIPT = b"""
(() => {
  const here = decodeURIComponent(location.pathname.split("/").pop()) || "index.html";
  const news = new EventSource("events");
  news.onmessage = (event) => { if (JSON.parse(event.data).includes(here)) location.reload(); };
  addEventListener("pagehide", () => news.close());
})();
"""
_HASH = base64.b64encode(hashlib.sha256(_SCRIPT).digest()).decode()
# A page forbids what it does not bring along itself: this lets it run the script and hear news.
_ALLOWED = f"connect-src 'self'; script-src 'sha256-{_HASH}' ".encode()


class Pages(http.server.ThreadingHTTPServer):
    """The pages of one folder, under a secret address."""

    daemon_threads = True  # an open page does not keep the command from ending

    def __init__(self, folder: Path, port: int = 0) -> None:
        """Listen.

        Args:
            folder: where the pages lie.
            port: 0: any that is free.

        Raises:
            OSError: the port is taken.
        """
        super().__init__(("127.0.0.1", port), _Handler)
        self.folder = folder
        self.secret = secrets.token_urlsafe(16)
        self.is_ending = threading.Event()

    @property
    def address(self) -> str:
        """Where a browser finds the pages."""
        return f"http://127.0.0.1:{self.server_port}/{self.secret}/"

    def end(self) -> None:
        """Let go of every open page, and of the port."""
        self.is_ending.set()
        self.shutdown()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Pages
    protocol_version = "HTTP/1.1"
    server_version = "grade"
    sys_version = ""
    timeout: ClassVar[float] = 60.0

    def do_GET(self) -> None:
        """Answer with a page, or with news of pages."""
        if not self._is_ours():
            self._say(HTTPStatus.FORBIDDEN, "This address answers only the page it was made for.")
            return
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        secret, slash, name = path.removeprefix("/").partition("/")
        if not slash or not hmac.compare_digest(secret.encode(), self.server.secret.encode()):
            self._say(HTTPStatus.NOT_FOUND, "No such page: use the address that grade serve shows.")
        elif name == "events":
            self._tell_news()
        else:
            self._send_page(name or "index.html")

    def _is_ours(self) -> bool:
        port = self.server.server_port
        host = self.headers.get("Host", "")
        site = self.headers.get("Sec-Fetch-Site", "none")
        return host in (f"127.0.0.1:{port}", f"localhost:{port}") and site in (
            "none",
            "same-origin",
        )

    def _send_page(self, name: str) -> None:
        kind = _TYPES.get(Path(name).suffix)
        path = self.server.folder / name
        try:
            inside = path.resolve().is_relative_to(self.server.folder.resolve())
            data = path.read_bytes() if kind and inside else None
        except (OSError, ValueError):
            data = None
        if data is None or kind is None:
            self._say(HTTPStatus.NOT_FOUND, f"There is no {name}; grade an exercise to make it.")
            return
        if kind.startswith("text/html"):
            data = data.replace(b"script-src ", _ALLOWED, 1)
            before, end, after = data.rpartition(b"</body>")
            data = before + b"<script>" + _SCRIPT + b"</script>\n" + end + after if end else data
        self._head(HTTPStatus.OK, kind, len(data))
        self.wfile.write(data)

    def _tell_news(self) -> None:
        """Name the pages that were written, as soon as they are, until the browser is gone."""
        self._head(HTTPStatus.OK, "text/event-stream", None)
        self.close_connection = True
        seen = _stamps(self.server.folder)
        last = time.monotonic()
        with contextlib.suppress(OSError):
            self._write(b": open\n\n")
            while not self.server.is_ending.wait(LOOK_SECONDS):
                now = _stamps(self.server.folder)
                changed = sorted(name for name in now if now[name] != seen.get(name))
                seen = now
                if changed:
                    listed = ", ".join(f'"{name}"' for name in changed)
                    self._write(f"data: [{listed}]\n\n".encode())
                    last = time.monotonic()
                elif time.monotonic() - last > BEAT_SECONDS:
                    self._write(b": still here\n\n")
                    last = time.monotonic()

    def _write(self, data: bytes) -> None:
        self.wfile.write(data)
        self.wfile.flush()

    def _say(self, status: HTTPStatus, text: str) -> None:
        data = f"{text}\n".encode()
        self._head(status, "text/plain; charset=utf-8", len(data))
        self.wfile.write(data)

    def _head(self, status: HTTPStatus, kind: str, size: int | None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if size is not None:
            self.send_header("Content-Length", str(size))
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()

    def handle(self) -> None:
        """Answer; a browser that goes away in the middle is nobody's error."""
        with contextlib.suppress(ConnectionError, TimeoutError):
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the terminal belongs to the learner."""


def _stamps(folder: Path) -> dict[str, int]:
    """The pages of a folder: name -> when it was last written."""
    found: dict[str, int] = {}
    for path in folder.glob("*.html"):
        with contextlib.suppress(OSError):
            found[path.name] = path.stat().st_mtime_ns
    return found


def run(pages: Pages, on_ready: Callable[[str], None]) -> None:
    """Serve pages until Ctrl-C.

    Args:
        pages: listening already.
        on_ready: called with the address once it can be opened.
    """
    listening = threading.Thread(target=pages.serve_forever, kwargs={"poll_interval": 0.1})
    listening.start()
    try:
        on_ready(pages.address)
        while listening.is_alive():
            listening.join(1.0)
    except KeyboardInterrupt:
        pass
    finally:
        pages.end()
        listening.join()
