"""docs/deployment.md: its first commands work word for word, and its table has all metadata keys."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import shlex
import subprocess
import sys

import pytest
from trained_files import EXAMPLES, LABELS, save_trained

onnx = pytest.importorskip("onnx", reason="needs attnzoo[export]")
pytest.importorskip("onnxruntime", reason="needs attnzoo[export]")

PAGE = (EXAMPLES.parent / "docs" / "deployment.md").read_text()


@pytest.mark.full
def test_three_commands_lead_from_a_trained_directory_to_a_service(tmp_path, photograph):
    export, install, serve = re.search(r"```\n(.*?)\n```", PAGE, re.DOTALL)[1].splitlines()
    save_trained(tmp_path / "runs" / "imagefolder" / "model", "test_resnet")
    (tmp_path / "examples").symlink_to(EXAMPLES)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))}

    assert export.startswith("attnzoo export ")
    command = [sys.executable, "-m", "attnzoo.tools.export", *shlex.split(export)[2:]]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=200)
    assert install == "pip install onnxruntime numpy pillow"
    assert serve == "python examples/serve.py model.onnx"
    command = [sys.executable, *shlex.split(serve)[1:], "--port", "0"]
    body = io.BytesIO()
    photograph.save(body, "jpeg")
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        try:
            port = int(process.stdout.readline().split()[0].rpartition(":")[2])
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("POST", "/", body.getvalue())
            answer = json.loads(connection.getresponse().read())
        finally:
            process.terminate()
    assert sorted(answer["labels"]) == LABELS
    assert sum(answer["scores"]) == pytest.approx(1)


def test_table_has_every_key_of_a_file(file):
    told = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE))))
    found = {entry.key for entry in onnx.load(file).metadata_props}
    assert found <= told


def test_files_that_are_named_are_there():
    for path in re.findall(r"\]\(\.\./([\w/.]+)\)|python (examples/\w+\.py)", PAGE):
        assert (EXAMPLES.parent / "".join(path)).exists(), path


def test_options_of_the_service_are_the_ones_it_has():
    command = [sys.executable, str(EXAMPLES / "serve.py"), "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    rows = PAGE[PAGE.index("| `serve.py` |") :].split("\n\n")[0]
    options = re.findall(r"(--[\w-]+)", rows)
    assert options
    assert all(option in text for option in options)
