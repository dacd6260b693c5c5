"""The service answers concurrent requests, and reports invalid ones without failing."""

from __future__ import annotations

import http.client
import io
import json
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

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
    assert (status, answer) == (200, {"model": "nat_pico", "labels": LABELS, "input_size": [3, 64, 64]})


@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [
        pytest.param(b"no picture", {}, 400, "it is not in one of the formats", id="text"),
        pytest.param(b"", {}, 400, "it is not in one of the formats", id="nothing"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n", {}, 400, "it is not in one of the formats", id="postscript"),
        pytest.param("thin", {}, 400, "after resizing, at most 100000000 are allowed", id="thin"),
        pytest.param("damaged", {}, 400, "the request body cannot be read as an image: ", id="damaged"),
        pytest.param(b"0" * 400_001, {}, 413, "the body has 400001 bytes, at most 400000 are allowed", id="large"),
        pytest.param(b"", {"Content-Length": str(10**12)}, 413, "at most 400000 are allowed", id="said-to-be-huge"),
        pytest.param(b"", {"Content-Length": "-1"}, 411, "the header Content-Length is missing", id="length-below-0"),
        pytest.param([b"abc"], {"Transfer-Encoding": "chunked"}, 411, "Content-Length is missing", id="in-chunks"),
    ],
)
def test_requests_that_cannot_be_answered_are_told_why(service, noise, body, headers, status, message):
    made = {"damaged": lambda: encoded(noise)[:5000], "thin": lambda: encoded(Image.new("1", (1, 100_000)))}
    if isinstance(body, str):
        body = made[body]()
    given, answer = ask(service, body=body, headers=headers)
    assert given == status
    assert message in answer["error"]
    assert ask(service, body=encoded(noise))[0] == 200


def test_picture_of_too_many_pixels_is_refused_before_it_is_decoded(service):
    body = encoded(Image.new("1", (8000, 7000)))
    assert len(body) < service.most_bytes
    status, answer = ask(service, body=body)
    assert status == 400
    assert "it has 8000 x 7000 pixels, at most 50000000 are allowed" in answer["error"]


def test_model_that_fails_is_told_and_outlived(service, noise, monkeypatch):
    def fail(*_):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(serve, "classify", fail)
        assert ask(service, body=encoded(noise)) == (500, {"error": "the model failed on this image"})
    assert ask(service, body=encoded(noise))[0] == 200


def test_other_methods_are_refused(service):
    connection = http.client.HTTPConnection("127.0.0.1", service.server_port, timeout=30)
    connection.request("DELETE", "/")
    assert connection.getresponse().status == 501


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
