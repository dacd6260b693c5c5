"""A small HTTP service: send an image, get its classes as JSON. pip install onnxruntime numpy pillow.

Example:
    python examples/serve.py model.onnx --port 8000
    curl --data-binary @picture.jpg http://localhost:8000
"""

from __future__ import annotations

import argparse
import io
import json
import socket
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import onnxruntime
from classify import classify, open_session
from shared import open_picture, read_notes

# seconds in which a body must arrive, and in which what is left of a rejected one is read, so that its sender gets the
# response: closing a connection with unread data resets it
_DEADLINE, _PATIENCE = 60, 10
_CHUNK = 2**16


class RefusalError(Exception):
    """A request that is rejected, with the status and the message of the response."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class Service(ThreadingHTTPServer):
    """A server with one session for all requests, and a thread for each request.

    Args:
        address: host and port; with port 0 the system chooses one.
        session: session of a classifier.
        at_a_time: number of images that are decoded and classified at the same time; other requests wait.
        most_waiting: number of images that are received and wait at the same time; other requests wait to be read.
        most_bytes, most_pixels: largest size of an image in bytes, and in pixels.
        top: number of classes in a response.
    """

    daemon_threads = True
    # connections that the system keeps until they are accepted; Python's default is 5
    request_queue_size = 1024

    def __init__(
        self,
        address: tuple[str, int],
        session: onnxruntime.InferenceSession,
        *,
        at_a_time: int = 2,
        most_waiting: int = 32,
        most_bytes: int = 10_000_000,
        most_pixels: int = 50_000_000,
        top: int = 5,
    ) -> None:
        # raises errors in the metadata before the first request
        self.notes = read_notes(session.get_modelmeta().custom_metadata_map)
        self.session, self.top = session, top
        self.most_bytes, self.most_pixels = most_bytes, most_pixels
        self.turn, self.room = threading.BoundedSemaphore(at_a_time), threading.BoundedSemaphore(most_waiting)
        super().__init__(address, Handler)


class Handler(BaseHTTPRequestHandler):
    """GET describes the model, POST classifies the image in the body."""

    server: Service
    # seconds without data after which a connection is closed
    timeout = 10
    # whether nothing of the request is left to read
    is_read = False

    def do_GET(self) -> None:
        """Responds with `{"model", "labels", "input_size"}`; can be used as a health check."""
        self.is_read = True
        self._answer(HTTPStatus.OK, {key: self.server.notes.get(key) for key in ("model", "labels", "input_size")})

    def do_POST(self) -> None:
        """Responds with `{"labels", "scores"}`, best first, or with `{"error"}`."""
        try:
            size = self._size()
            with self.server.room:
                body = self._read(size)
                with self.server.turn:
                    status, content = HTTPStatus.OK, self._classify(body)
        except RefusalError as refusal:
            status, content = refusal.status, {"error": str(refusal)}
        self._answer(status, content)

    def _classify(self, body: bytes) -> dict[str, Any]:
        try:
            picture = open_picture(io.BytesIO(body), self.server.most_pixels)
            found = classify(self.server.session, picture, self.server.top)
        except ValueError as error:
            raise RefusalError(HTTPStatus.BAD_REQUEST, str(error)) from error
        except Exception as error:
            self.log_error("%s", error)
            raise RefusalError(HTTPStatus.INTERNAL_SERVER_ERROR, "the model failed on this image") from error
        labels, scores = zip(*found, strict=True)
        return {"labels": labels, "scores": scores}

    def _size(self) -> int:
        length = self.headers.get("Content-Length", "").strip()
        if not (length.isascii() and length.isdigit()):
            raise RefusalError(
                HTTPStatus.LENGTH_REQUIRED, "the header Content-Length is missing: send the image as the body"
            )
        most = self.server.most_bytes
        # Python converts 4300 digits at most
        if len(length.lstrip("0")) > len(str(most)) or int(length.lstrip("0") or "0") > most:
            shown = length if len(length) <= 20 else f"a number of {len(length)} digits"
            raise RefusalError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has {shown} bytes, at most {most} are allowed"
            )
        return int(length.lstrip("0") or "0")

    def _read(self, size: int) -> bytes:
        body, deadline = bytearray(), time.monotonic() + _DEADLINE
        try:
            while len(body) < size and (part := self.rfile.read1(min(size - len(body), _CHUNK))):
                body += part
                if time.monotonic() > deadline:
                    raise TimeoutError
        except TimeoutError as error:
            raise RefusalError(HTTPStatus.REQUEST_TIMEOUT, f"timed out waiting for {size} bytes") from error
        if len(body) < size:
            raise RefusalError(HTTPStatus.BAD_REQUEST, f"expected {size} bytes, got {len(body)}")
        self.is_read = True
        return bytes(body)

    def _answer(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError as error:
            self.log_error("the sender did not wait for the response: %s", error)

    def finish(self) -> None:
        """Ends the connection after every request, also after those that `http.server` itself rejects."""
        deadline = time.monotonic() + _PATIENCE
        try:
            if not self.is_read:
                self.connection.shutdown(socket.SHUT_WR)
                while time.monotonic() < deadline and self.rfile.read1(_CHUNK):
                    pass
            super().finish()
        except OSError as error:
            self.log_error("the sender closed the connection: %s", error)


def main() -> None:
    """Runs the service until it is stopped."""
    parser = argparse.ArgumentParser(description="Serve a file of `attnzoo export` over HTTP.")
    parser.add_argument("model")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind; 0.0.0.0 to accept other machines")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=0, help="ONNX Runtime threads per image; 0 for one per core")
    parser.add_argument("--at-a-time", type=int, default=2, help="images that are classified at the same time")
    parser.add_argument("--most-bytes", type=int, default=10_000_000, help="largest size of an image in bytes")
    parser.add_argument("--most-pixels", type=int, default=50_000_000, help="largest number of pixels of an image")
    options = parser.parse_args()
    try:
        session = open_session(options.model, options.threads)
        limits = {"at_a_time": options.at_a_time, "most_bytes": options.most_bytes, "most_pixels": options.most_pixels}
        service = Service((options.host, options.port), session, **limits)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    with service:
        print(f"http://{options.host}:{service.server_port} is ready", flush=True)
        try:
            service.serve_forever()
        except KeyboardInterrupt:
            print("stopped")


if __name__ == "__main__":
    main()
