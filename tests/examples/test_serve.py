"""The service answers concurrent requests, and reports invalid ones without failing."""

from __future__ import annotations

import http.client
import io
import json
import socket
import subprocess
import sys
import threading
import time
import types
import typing
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from trained_files import EXAMPLES, LABELS

pytest.importorskip("onnx", reason="needs attnzoo[export]")
pytest.importorskip("onnxruntime", reason="needs attnzoo[export]")

import classify
import serve


@pytest.fixture(scope="module")
def service(file):
    with serve.Service(("127.0.0.1", 0), classify.open_session(file, 1), most_bytes=400_000) as service:
        thread = threading.Thread(target=service.serve_forever)
        thread.start()
        yield service
        service.shutdown()
        thread.join()


def ask(service, method="POST", body=b"", headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", service.server_port, timeout=30)
    connection.request(method, "/", body, headers or {})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def encoded(picture, form="png"):
    file = io.BytesIO()
    picture.save(file, form)
    return file.getvalue()


def test_picture_gets_its_classes(service, photograph):
    status, answer = ask(service, body=encoded(photograph))
    assert status == 200
    expected = classify.classify(service.session, photograph)
    assert answer == {"labels": [x for x, _ in expected], "scores": pytest.approx([x for _, x in expected])}


def test_many_at_a_time_get_the_same_answer(service, noise):
    body = encoded(noise)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(service, body=body), range(24)))
    assert all(answer == answers[0] and answer[0] == 200 for answer in answers)


def test_model_is_told(service):
    status, answer = ask(service, "GET")
    described = {"model": "nat_pico", "task": "classify", "labels": LABELS, "input_size": [3, 64, 64]}
    assert (status, answer) == (200, described)


@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [
        pytest.param(b"no picture", {}, 400, "it is not in one of the formats", id="text"),
        pytest.param(b"", {}, 400, "the body is empty: send the file as it is, as with curl --data-b", id="nothing"),
        pytest.param(
            b"--x",
            {"Content-Type": "multipart/form-data; boundary=x"},
            415,
            "got multipart/form-data: send the file as it is, as with curl --data-binary @picture.jpg URL",
            id="form",
        ),
        pytest.param(b"{}", {"Content-Type": "application/json"}, 415, "got application/json: send the", id="json"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n", {}, 400, "it is not in one of the formats", id="postscript"),
        pytest.param("thin", {}, 400, "after resizing, at most 100000000 are allowed", id="thin"),
        pytest.param("damaged", {}, 400, "the request body cannot be read as an image: ", id="damaged"),
        pytest.param(b"0" * 400_001, {}, 413, "the body has 400001 bytes, at most 400000 are allowed", id="large"),
        pytest.param(b"", {"Content-Length": str(10**12)}, 413, "at most 400000 are allowed", id="said-to-be-huge"),
        pytest.param(b"", {"Content-Length": "-1"}, 411, "the header Content-Length is missing", id="length-below-0"),
        pytest.param([b"abc"], {"Transfer-Encoding": "chunked"}, 411, "Content-Length is missing", id="in-chunks"),
    ],
)
def test_requests_that_cannot_be_answered_are_told_why(service, noise, capsys, body, headers, status, message):
    made = {"damaged": lambda: encoded(noise)[:5000], "thin": lambda: encoded(Image.new("1", (1, 100_000)))}
    if isinstance(body, str):
        body = made[body]()
    given, answer = ask(service, body=body, headers=headers)
    assert given == status
    assert message in answer["error"]
    # which does nothing in the service
    assert "ATTNZOO_MAX_PIXELS" not in answer["error"]
    assert f'"POST / HTTP/1.1" {status} - {answer["error"]}' in capsys.readouterr().err
    assert ask(service, body=encoded(noise))[0] == 200


class Stand:
    """A session that gives the same logits for every image."""

    notes: typing.ClassVar = {
        "input_size": "[3, 8, 8]", "mean": "[0, 0, 0]", "std": "[1, 1, 1]", "interpolation": "bilinear",
        "crop_pct": "1.0", "crop_mode": "center", "labels": '["a", "b"]',
    }  # fmt: skip

    def get_modelmeta(self):
        return types.SimpleNamespace(custom_metadata_map=self.notes)

    def get_inputs(self):
        return [types.SimpleNamespace(type="tensor(float)")]

    def run(self, names, inputs):
        return [np.array([[0.0, 1.0]])]


@pytest.fixture
def stand():
    with serve.Service(("127.0.0.1", 0), Stand(), most_bytes=100_000) as service:
        thread = threading.Thread(target=service.serve_forever)
        thread.start()
        yield service
        service.shutdown()
        thread.join()


def test_128_clients_are_answered_and_few_images_decoded_at_the_same_time(stand, noise, monkeypatch):
    body, counts, lock, read = encoded(noise), [0, 0], threading.Lock(), serve.open_picture

    def slow(*arguments):
        with lock:
            counts[0] += 1
            counts[1] = max(counts)
        time.sleep(0.002)
        picture = read(*arguments)
        with lock:
            counts[0] -= 1
        return picture

    monkeypatch.setattr(serve, "open_picture", slow)
    clients = [socket.create_connection(("127.0.0.1", stand.server_port), timeout=30) for _ in range(128)]
    for client in clients:
        client.sendall(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    for client in clients:
        with client, client.makefile("rb") as answer:
            assert answer.readline().split()[1] == b"200"
    assert counts == [0, 2]


@pytest.mark.parametrize(
    ("length", "body", "status", "message"),
    [
        pytest.param("9" * 4301, b"abc", 413, "a number of 4301 digits", id="digits"),
        pytest.param("0" * 4301 + "3", b"abc", 400, "cannot be read as an image", id="zeros"),
        pytest.param("5000000", bytes(5_000_000), 413, "the body has 5000000 bytes", id="oversized"),
        pytest.param("²", b"abc", 411, "Content-Length is missing", id="other-digits"),
    ],
)
def test_every_request_gets_its_answer(stand, length, body, status, message):
    with socket.create_connection(("127.0.0.1", stand.server_port), timeout=30) as client:
        client.sendall(b"POST / HTTP/1.1\r\nContent-Length: " + length.encode("latin-1") + b"\r\n\r\n" + body)
        answer = client.makefile("rb").read()
    assert int(answer.split()[1]) == status
    assert message in json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        pytest.param(b"PUT / HTTP/1.1\r\n\r\n", 405, id="method"),
        pytest.param(b"POST / HTTP/1.1\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", 431, id="line"),
        pytest.param(b"POST / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431, id="headers"),
    ],
)
def test_sender_of_a_request_that_is_none_gets_its_answer(stand, head, status):
    with socket.create_connection(("127.0.0.1", stand.server_port), timeout=30) as client:
        client.sendall(head + bytes(1_000_000))
        assert int(client.makefile("rb").read().split()[1]) == status


def test_picture_of_too_many_pixels_is_refused_before_it_is_decoded(service):
    body = encoded(Image.new("1", (8000, 7000)))
    assert len(body) < service.most_bytes
    status, answer = ask(service, body=body)
    assert status == 400
    assert answer["error"].endswith("it has 8000 x 7000 pixels, at most 50000000 are allowed")


def test_model_that_fails_is_told_and_outlived(service, noise, monkeypatch):
    def fail(*_):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(serve, "classify", fail)
        assert ask(service, body=encoded(noise)) == (500, {"error": "the model failed on this image"})
    assert ask(service, body=encoded(noise))[0] == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_refused(stand, method):
    connection = http.client.HTTPConnection("127.0.0.1", stand.server_port, timeout=30)
    connection.request(method, "/")
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD, POST")
    assert json.loads(answer.read()) == {"error": f"the method must be one of GET, HEAD, POST, got {method}"}


def test_head_is_answered_without_a_body(stand):
    answers = []
    for method in ("GET", "HEAD"):
        connection = http.client.HTTPConnection("127.0.0.1", stand.server_port, timeout=30)
        connection.request(method, "/")
        answers.append(connection.getresponse())
    (got, body), (headed, nothing) = ((answer, answer.read()) for answer in answers)
    assert (headed.status, headed.headers["Content-Length"], nothing) == (200, str(len(body)), b"")
    assert got.status == 200


@pytest.mark.parametrize("port", ["used", "70000"])
def test_port_that_cannot_be_used_is_told(stand, monkeypatch, capsys, port):
    port = str(stand.server_port) if port == "used" else port
    monkeypatch.setattr(serve, "open_session", lambda *_: Stand())
    monkeypatch.setattr(sys, "argv", ["serve.py", "model.onnx", "--port", port])
    with pytest.raises(SystemExit) as ended:
        serve.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"serve.py: cannot listen on port {port} of 127.0.0.1: ")
    assert "--port" in said
    assert len(said.splitlines()) == 1


def test_sender_that_falls_silent_loses_its_turn(service, noise, monkeypatch):
    monkeypatch.setattr(serve.Handler, "timeout", 0.3)
    with socket.create_connection(("127.0.0.1", service.server_port), timeout=30) as silent:
        silent.sendall(b"POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\nabc")
        assert ask(service, body=encoded(noise))[0] == 200
        assert b"408" in silent.recv(1000).splitlines()[0]


def test_command_serves_until_it_is_stopped(file, photograph):
    command = [sys.executable, "-u", str(EXAMPLES / "serve.py"), str(file), "--port", "0", "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            said = process.stdout.readline()
            port = int(said.split()[0].rpartition(":")[2])
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("POST", "/", encoded(photograph))
            assert json.loads(connection.getresponse().read())["labels"]
        finally:
            process.terminate()


def test_file_that_is_no_model_is_told_at_the_start(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    command = [sys.executable, str(EXAMPLES / "serve.py"), str(tmp_path / "model.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert "model.onnx cannot be opened" in done.stderr
    assert "Traceback" not in done.stderr
