"""A web server on this machine for tests: paths with answers, and what was asked."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Answer:
    """What the server says to a request for a path.

    Attributes:
        body: the content.
        status: HTTP status.
        headers: further headers.
        sent: bytes after which the connection is closed; None for all.
        times: requests of which `sent` is true; later ones are answered whole.
        ranges: whether a part is sent where one is asked for.
        wait: seconds before the answer.
        is_reset: whether the connection is reset in the place of an answer.
    """

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    sent: int | None = None
    times: int = 1000
    ranges: bool = True
    wait: float = 0
    is_reset: bool = False


class Server:
    """The server: `answers` by path, and the requests as (method, path, headers).

    Attributes:
        url: address without a trailing slash.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: dict[str, Answer] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []

    def asked(self, method: str = "GET") -> list[str]:
        """Paths that were asked for, in order."""
        return [path for way, path, _ in self.requests if way == method]


@contextmanager
def serving() -> Iterator[Server]:
    """A server, for as long as the context is open."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _answer(self, with_body: bool) -> None:
            server.requests.append((self.command, self.path, dict(self.headers)))
            answer = server.answers.get(self.path, Answer(status=404))
            time.sleep(answer.wait)
            if answer.is_reset:
                # what was sent is thrown away
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                return
            body, headers, status = answer.body, dict(answer.headers), answer.status
            start = self.headers.get("Range", "").removeprefix("bytes=").removesuffix("-")
            if start and answer.ranges and self.headers.get("If-Range") == headers.get("ETag"):
                if int(start) >= len(body):
                    status, body = 416, b""
                else:
                    headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
                    status, body = 206, body[int(start) :]
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if with_body:
                answer.times -= 1
                # who asked may have gone
                with suppress(ConnectionError):
                    self.wfile.write(body if answer.times < 0 else body[: answer.sent])

        def log_message(self, *_: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = Server(f"http://127.0.0.1:{listening.server_port}")
    # polled often, so that it ends at once
    thread = threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listening.shutdown()
        listening.server_close()
