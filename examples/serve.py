"""A small HTTP service: send an image, get its classes, objects or mask. pip install onnxruntime numpy pillow.

Example:
    python examples/serve.py model.onnx --port 8000
    curl --data-binary @picture.jpg http://localhost:8000
    curl --data-binary @picture.jpg -H "Accept: image/jpeg" http://localhost:8000 > drawn.jpg    (not of a classifier)
    curl --data-binary @picture.jpg -H "Accept: image/png" http://localhost:8000 > mask.png      (of a segmenter)
"""

from __future__ import annotations

import argparse
import errno
import io
import json
import socket
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import onnxruntime
from classify import classify, open_session
from detect import detect, draw
from PIL import Image
from segment import draw as draw_mask
from segment import index_image, segment
from shared import PIXELS_HINT, SEGMENTS, open_picture, read_notes

# seconds in which a body must arrive, and in which what is left of a rejected one is read, so that its sender gets the
# response: closing a connection with unread data resets it
_DEADLINE, _PATIENCE = 60, 10
_CHUNK = 2**16

_METHODS = "GET, HEAD, POST"
_SEND = "send the file as it is, as with curl --data-binary @picture.jpg URL"
# what clients that do not send the file as it is say of the body
_WRAPPED = ("multipart/", "application/json")

# metadata in the response to GET
_DESCRIBED = ("model", "task", "labels", "input_size")
# keys of the response of a detector and of a segmenter, and the fields of an object and of a region
_OBJECTS = {"labels": "label", "scores": "score", "boxes": "box"}
_REGIONS = {"labels": "label", "scores": "share", "indices": "index"}


class RefusalError(Exception):
    """A request that is rejected, with the status and the message of the response."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class Encoded(NamedTuple):
    """An image in a response: its content type and its bytes."""

    kind: str
    body: bytes

    @classmethod
    def of(cls, picture: Image.Image, form: str) -> Encoded:
        """Encodes an image as JPEG or PNG."""
        file = io.BytesIO()
        picture.save(file, form, quality=90)
        return cls(f"image/{form.lower()}", file.getvalue())


class Service(ThreadingHTTPServer):
    """A server with one session for all requests, and a thread for each request.

    Args:
        address: host and port; with port 0 the system chooses one.
        session: session of a classifier, a detector or a segmenter.
        at_a_time: number of images that are decoded and predicted at the same time; other requests wait.
        most_waiting: number of images that are received and wait at the same time; other requests wait to be read.
        most_bytes, most_pixels: largest size of an image in bytes, and in pixels.
        top: number of classes in a response; for a classifier.
        least_score: lowest score of an object, 0 .. 1; for a detector.
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
        least_score: float = 0.3,
    ) -> None:
        # raises errors in the metadata before the first request
        self.notes = read_notes(session.get_modelmeta().custom_metadata_map, "classify", "detect", *SEGMENTS)
        self.session, self.top, self.least_score = session, top, least_score
        self.most_bytes, self.most_pixels = most_bytes, most_pixels
        self.turn, self.room = threading.BoundedSemaphore(at_a_time), threading.BoundedSemaphore(most_waiting)
        super().__init__(address, Handler)


class Handler(BaseHTTPRequestHandler):
    """GET and HEAD describe the model, POST predicts the classes, objects or mask of the image in the body."""

    server: Service
    # seconds without data after which a connection is closed
    timeout = 10
    # whether nothing of the request is left to read
    is_read = False
    # why a request was rejected, for the log
    reason = ""

    def do_GET(self) -> None:
        """Responds with `{"model", "task", "labels", "input_size"}`; can be used as a health check."""
        self.is_read = True
        self._answer(HTTPStatus.OK, {key: self.server.notes.get(key) for key in _DESCRIBED})

    def do_HEAD(self) -> None:
        """Responds as to GET, without the body."""
        self.do_GET()

    def do_POST(self) -> None:
        """Responds with `{"labels", "scores"}`, best first, or with `{"error"}`.

        For a detector the response also has `"boxes"`. For a segmenter the scores are the shares of the pixels, and it
        has `"indices"`, the values of the classes in the mask. If the request accepts image/jpeg, the response is the
        image with its boxes or mask drawn over it; for image/png it is the mask of a segmenter.
        """
        try:
            size = self._size()
            with self.server.room:
                body = self._read(size)
                with self.server.turn:
                    status, content = HTTPStatus.OK, self._predict(body)
        except RefusalError as refusal:
            status, content = refusal.status, {"error": str(refusal)}
        self._answer(status, content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Responds with `{"error"}` to a request that `http.server` itself rejects, such as one of another method."""
        status = HTTPStatus(code)
        said = message or status.phrase
        if status == HTTPStatus.NOT_IMPLEMENTED:
            status, said = HTTPStatus.METHOD_NOT_ALLOWED, f"the method must be one of {_METHODS}, got {self.command}"
        self._answer(status, {"error": said})

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Logs a request, with the reason if it was rejected."""
        super().log_request(code, f"{size} {self.reason}".rstrip())

    def _predict(self, body: bytes) -> dict[str, Any] | Encoded:
        methods = {"detect": self._detect, **dict.fromkeys(SEGMENTS, self._segment)}
        try:
            picture = open_picture(io.BytesIO(body), self.server.most_pixels)
            return methods.get(self.server.notes["task"], self._classify)(picture)
        except ValueError as error:
            raise RefusalError(HTTPStatus.BAD_REQUEST, str(error).removesuffix(PIXELS_HINT)) from error
        except Exception as error:
            self.log_error("%s", error)
            raise RefusalError(HTTPStatus.INTERNAL_SERVER_ERROR, "the model failed on this image") from error

    def _classify(self, picture: Image.Image) -> dict[str, Any]:
        labels, scores = zip(*classify(self.server.session, picture, self.server.top), strict=True)
        return {"labels": labels, "scores": scores}

    def _detect(self, picture: Image.Image) -> dict[str, Any] | Encoded:
        found = detect(self.server.session, picture, self.server.least_score)
        if self._accepts("image/jpeg"):
            return Encoded.of(draw(picture, found), "JPEG")
        return {key: [getattr(one, name) for one in found] for key, name in _OBJECTS.items()}

    def _segment(self, picture: Image.Image) -> dict[str, Any] | Encoded:
        mask, regions = segment(self.server.session, picture)
        if self._accepts("image/png"):
            return Encoded.of(index_image(mask), "PNG")
        if self._accepts("image/jpeg"):
            return Encoded.of(draw_mask(picture, mask, regions), "JPEG")
        return {key: [getattr(one, name) for one in regions] for key, name in _REGIONS.items()}

    def _accepts(self, kind: str) -> bool:
        return kind in self.headers.get("Accept", "")

    def _size(self) -> int:
        length = self.headers.get("Content-Length", "").strip()
        if not (length.isascii() and length.isdigit()):
            raise RefusalError(
                HTTPStatus.LENGTH_REQUIRED, "the header Content-Length is missing: send the image as the body"
            )
        kind = self.headers.get_content_type()
        if kind.startswith(_WRAPPED):
            raise RefusalError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the body must be an image, got {kind}: {_SEND}")
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
        if not body:
            raise RefusalError(HTTPStatus.BAD_REQUEST, f"the body is empty: {_SEND}")
        return bytes(body)

    def _answer(self, status: HTTPStatus, content: dict[str, Any] | Encoded) -> None:
        kind, body = content if isinstance(content, Encoded) else ("application/json", json.dumps(content).encode())
        self.reason = str(content.get("error", "")) if isinstance(content, dict) else ""
        try:
            self.send_response(status)
            if status == HTTPStatus.METHOD_NOT_ALLOWED:
                self.send_header("Allow", _METHODS)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
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
    parser.add_argument("model", help="File of `attnzoo export`.")
    parser.add_argument("--host", default="127.0.0.1", help="Address to bind; 0.0.0.0 to accept other machines.")
    parser.add_argument("--port", type=int, default=8000, help="Port to listen on.")
    parser.add_argument("--threads", type=int, default=0, help="ONNX Runtime threads per image; 0 for one per core.")
    parser.add_argument("--at-a-time", type=int, default=2, help="Images that are predicted at the same time.")
    parser.add_argument("--least-score", type=float, default=0.3, help="Lowest score of an object of a detector.")
    parser.add_argument("--most-bytes", type=int, default=10_000_000, help="Largest size of an image in bytes.")
    parser.add_argument("--most-pixels", type=int, default=50_000_000, help="Largest number of pixels of an image.")
    options = parser.parse_args()
    try:
        session = open_session(options.model, options.threads)
        limits = {"at_a_time": options.at_a_time, "most_bytes": options.most_bytes, "most_pixels": options.most_pixels}
        limits["least_score"] = options.least_score
    except (ValueError, OSError) as error:
        parser.error(str(error))
    try:
        service = Service((options.host, options.port), session, **limits)
    except ValueError as error:
        parser.error(str(error))
    # the port is used, not allowed or too large, or the address is not one of this machine
    except (OSError, OverflowError) as error:
        is_used = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        hint = "another program uses it, choose another --port" if is_used else f"{error}; see --host and --port"
        parser.exit(2, f"{parser.prog}: cannot listen on port {options.port} of {options.host}: {hint}\n")
    with service:
        print(f"http://{options.host}:{service.server_port} is ready", flush=True)
        try:
            service.serve_forever()
        except KeyboardInterrupt:
            print("stopped")


if __name__ == "__main__":
    main()
