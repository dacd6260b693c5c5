"""A small HTTP service: send a picture, get its classes as JSON. pip install onnxruntime numpy pillow.

Example:
    python examples/serve.py model.onnx --port 8000
    curl --data-binary @picture.jpg http://localhost:8000
"""

from __future__ import annotations

import argparse
import io
import json
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import onnxruntime
from classify import classify, open_session
from shared import open_picture, read_notes

# a body that is too large is still received up to this many times the limit, so that its sender hears of it
_PATIENCE = 4


class RefusalError(Exception):
    """A request that is not answered with classes, and the status and words that it gets."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class Service(ThreadingHTTPServer):
    """One session for all requests, each of which has a thread.

    Args:
        address: host and port; with port 0 the system chooses one.
        session: of a classifier.
        at_a_time: pictures that are decoded and looked at together; more wait.
        most_bytes, most_pixels: of a picture that is taken.
        top: classes in an answer.
    """

    daemon_threads = True

    def __init__(
        self,
        address: tuple[str, int],
        session: onnxruntime.InferenceSession,
        *,
        at_a_time: int = 2,
        most_bytes: int = 10_000_000,
        most_pixels: int = 50_000_000,
        top: int = 5,
    ) -> None:
        # says what is wrong with the file before the first request
        self.notes = read_notes(session.get_modelmeta().custom_metadata_map)
        self.session, self.top = session, top
        self.most_bytes, self.most_pixels = most_bytes, most_pixels
        self.turn = threading.BoundedSemaphore(at_a_time)
        super().__init__(address, Handler)


class Handler(BaseHTTPRequestHandler):
    """GET tells about the model, POST classifies the picture in the body."""

    server: Service
    # seconds that a silent sender may hold a thread
    timeout = 10

    def do_GET(self) -> None:
        """Answers `{"model", "labels", "input_size"}`: for people and for health checks."""
        self._answer(HTTPStatus.OK, {key: self.server.notes.get(key) for key in ("model", "labels", "input_size")})

    def do_POST(self) -> None:
        """Answers `{"labels", "scores"}`, the best first, or `{"error"}`."""
        try:
            body = self._read()
            with self.server.turn:
                try:
                    picture = open_picture(io.BytesIO(body), self.server.most_pixels)
                except ValueError as error:
                    raise RefusalError(HTTPStatus.BAD_REQUEST, str(error)) from error
                try:
                    found = classify(self.server.session, picture, self.server.top)
                except Exception as error:
                    self.log_error("%s", error)
                    raise RefusalError(HTTPStatus.INTERNAL_SERVER_ERROR, "the model failed on this picture") from error
            labels, scores = zip(*found, strict=True)
            self._answer(HTTPStatus.OK, {"labels": labels, "scores": scores})
        except RefusalError as refusal:
            self._answer(refusal.status, {"error": str(refusal)})

    def _read(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            raise RefusalError(
                HTTPStatus.LENGTH_REQUIRED, "the header Content-Length is missing: send the picture as the body"
            )
        size, most = int(length), self.server.most_bytes
        if size > most:
            unread = size if size <= _PATIENCE * most else 0
            while unread > 0 and (part := self.rfile.read(min(unread, 2**16))):
                unread -= len(part)
            raise RefusalError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has {size} bytes, at most {most} are taken"
            )
        try:
            body = self.rfile.read(size)
        except TimeoutError as error:
            raise RefusalError(HTTPStatus.REQUEST_TIMEOUT, f"{size} bytes were promised and did not arrive") from error
        if len(body) < size:
            raise RefusalError(HTTPStatus.BAD_REQUEST, f"{len(body)} of {size} bytes arrived")
        return body

    def _answer(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    """Serves until it is stopped."""
    parser = argparse.ArgumentParser(description="Serve a file of `attnzoo export` over HTTP.")
    parser.add_argument("model")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 to be reached from other machines")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=0, help="of ONNX Runtime for a picture; 0 is one for each core")
    parser.add_argument("--at-a-time", type=int, default=2, help="pictures that are looked at together")
    parser.add_argument("--most-bytes", type=int, default=10_000_000, help="of a picture")
    options = parser.parse_args()
    try:
        session = open_session(options.model, options.threads)
        limits = {"at_a_time": options.at_a_time, "most_bytes": options.most_bytes}
        service = Service((options.host, options.port), session, **limits)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    with service:
        print(f"http://{options.host}:{service.server_port} takes pictures", flush=True)
        try:
            service.serve_forever()
        except KeyboardInterrupt:
            print("stopped")


if __name__ == "__main__":
    main()
