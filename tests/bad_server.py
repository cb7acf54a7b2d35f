"""A real HTTP server on 127.0.0.1 that misbehaves as told, request by request.

Its fixtures come with `pytest_plugins = ["bad_server"]` (PYTEST_DONT_REWRITE: tests import it as well).
"""

from __future__ import annotations

import hashlib
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest


@dataclass
class Served:
    """One path: its bytes and what each request to it meets; the last step of the script repeats.

    Steps, with an argument after ':' where N, URL or S stands:
        ok                  honours Range and If-Range
        no-range            answers every request with the whole body
        status:N[:S]        an error status, with Retry-After: S
        redirect:URL
        truncate:N          states the whole length, sends N bytes, closes
        reset:N             the same, but resets the connection
        hang:N              sends N bytes, then nothing more
        slow                sends all in 20 pieces, 20 ms apart
        drip                one byte every 20 ms
        close               closes without an answer
        lie-long, lie-short states 1000 bytes more, or fewer, than there are
        tamper              flips a byte in the middle
        wrong-range         answers a range with another one
        short-range         answers a range with the first half of it
        new-range           ignores If-Range: sends the rest of whatever is there now
        endless             a chunked body without end
        chunked, chunked-cut, no-length, no-length-cut    no Content-Length; whole, or half of it
        gzip                marks the body as compressed
    """

    data: bytes
    script: list[str] = field(default_factory=lambda: ["ok"])
    etag: str | None = '"1"'
    headers: dict[str, str] = field(default_factory=dict)


class BadServer:
    """Use as a context; `files` maps paths to what is served, `log` holds (method, path, headers)."""

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.log: list[tuple[str, str, dict[str, str]]] = []
        self.over = threading.Event()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> BadServer:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()

    def serve(self, path: str, data: bytes, *script: str, **more: Any) -> str:
        """Serve `data` at `path` with this script; its address."""
        self.files[path] = Served(data, list(script) or ["ok"], **more)
        return self.url + path

    def ranges(self) -> list[str | None]:
        """The Range header of every GET so far."""
        return [headers.get("Range") for method, _, headers in self.log if method == "GET"]

    def next_step(self, served: Served) -> str:
        with self._lock:
            return served.script.pop(0) if len(served.script) > 1 else served.script[0]


@pytest.fixture
def server() -> Iterator[BadServer]:
    with BadServer() as running:
        yield running


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, and no proxy or offline switch from outside."""
    monkeypatch.setenv("HMRBENCH_CACHE", str(tmp_path / "cache"))
    for name in ("HMRBENCH_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _handler(bad: BadServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            bad.log.append((self.command, self.path, dict(self.headers)))
            served = bad.files.get(self.path)
            step, _, argument = (bad.next_step(served) if served else "status:404").partition(":")
            self.close_connection = True
            with suppress(BrokenPipeError, ConnectionResetError):
                answer(self, served or Served(b""), step, argument)

    def head(http: Handler, status: int, headers: dict[str, object]) -> None:
        http.send_response(status)
        for name, value in headers.items():
            http.send_header(name, str(value))
        http.end_headers()

    def answer(http: Handler, served: Served, step: str, argument: str) -> None:
        data = served.data
        headers: dict[str, object] = {"ETag": served.etag} if served.etag else {}
        headers |= served.headers
        if step == "close":
            return
        if step == "status":
            status, _, wait = argument.partition(":")
            return head(http, int(status), {"Content-Length": 0} | ({"Retry-After": wait} if wait else {}))
        if step == "redirect":
            return head(http, 302, {"Location": argument, "Content-Length": 0})
        if step.startswith(("chunked", "no-length", "endless")):
            return unmeasured(http, data, step, headers)
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", http.headers.get("Range", ""))
        if asked and step != "no-range" and (step == "new-range" or http.headers.get("If-Range") == served.etag):
            start = int(asked[1])
            if start >= len(data):
                return head(http, 416, {"Content-Range": f"bytes */{len(data)}", "Content-Length": 0})
            told = start - 1 if step == "wrong-range" else start
            headers["Content-Range"] = f"bytes {told}-{len(data) - 1}/{len(data)}"
        if step == "short-range":
            data = data[: (start + len(data)) // 2]
        if step == "tamper":
            middle = len(data) // 2
            data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        if step == "gzip":
            headers["Content-Encoding"] = "gzip"
        headers["Content-Length"] = len(data) - start + {"lie-long": 1000, "lie-short": -1000}.get(step, 0)
        head(http, 206 if start else 200, headers)
        if http.command == "GET":
            body(http, data[start:], step, int(argument or 0))

    def body(http: Handler, data: bytes, step: str, count: int) -> None:
        if step in ("slow", "drip"):
            size = 1 if step == "drip" else len(data) // 20 + 1
            for at in range(0, len(data), size):
                http.wfile.write(data[at : at + size])
                if bad.over.wait(0.02):
                    return
            return
        http.wfile.write(data[:count] if step in ("truncate", "reset", "hang") else data)
        http.wfile.flush()
        if step == "hang":
            bad.over.wait(20)
        if step == "reset":
            http.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            http.connection.close()

    def unmeasured(http: Handler, data: bytes, step: str, headers: dict[str, object]) -> None:
        data = data[: len(data) // 2] if step.endswith("-cut") else data
        if step.startswith("no-length"):
            head(http, 200, headers)
            http.wfile.write(data)
            return
        http.protocol_version = "HTTP/1.1"
        head(http, 200, headers | {"Transfer-Encoding": "chunked"})
        while True:
            http.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            if step != "endless" or bad.over.is_set():
                break
        if step == "chunked":
            http.wfile.write(b"0\r\n\r\n")

    return Handler
