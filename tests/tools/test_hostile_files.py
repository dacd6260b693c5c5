"""Damaged and malicious files are rejected in one line, and none of their code is run."""

import json
import os
import random
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import timm
import torch
from click.testing import CliRunner

from attnzoo.tools import cli
from attnzoo.tools.files import check_sums
from attnzoo.tools.models import open_model, read_config
from attnzoo.tools.train import train
from attnzoo.tools.training.config import load_config
from attnzoo.tools.training.history import History
from attnzoo.tools.training.storage import read_checkpoint, save_checkpoint
from attnzoo.tools.weights import read_weights

CONFIG = ("model.name=test_resnet", "epochs=1", "batch_size=180")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A completed run."""
    directory = tmp_path_factory.mktemp("run") / "run"
    torch.manual_seed(0)
    train(load_config("classification/digits", CONFIG), directory)
    return directory


@pytest.fixture
def copy(run, tmp_path):
    """A copy of the run that may be damaged."""
    return shutil.copytree(run, tmp_path / "run")


@pytest.fixture
def call():
    return lambda *arguments: CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def commands(directory, tmp_path):
    """The commands that read files of a run."""
    model = directory / "model"
    return {
        "resume": ("train", "classification/digits", *CONFIG, "--work-dir", directory, "--resume"),
        "evaluate": ("evaluate", model, "classification/digits"),
        "predict": ("predict", model, __file__),
        "export": ("export", model, "--output", tmp_path / "model.onnx"),
        "convert": ("convert", directory / "last.pth", "--model", "nat_pico", "--output", tmp_path / "converted"),
    }


def assert_refused(result):
    assert result.exit_code in (1, 2), result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert "Traceback" not in result.stderr
    assert result.stderr.strip()


def damaged(content, how, rng):
    """A copy of a file's bytes that is cut off at a random place, or has a random bit flipped."""
    if how == "truncation":
        return content[: rng.randrange(len(content))]
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


@pytest.mark.parametrize(("how", "count"), [("truncation", 64), ("bit flip", 256)])
def test_no_damaged_checkpoint_is_resumed(run, tmp_path, how, count):
    content, rng = (run / "last.pth").read_bytes(), random.Random(0)
    file = tmp_path / "last.pth"
    for _ in range(count):
        file.write_bytes(damaged(content, how, rng))
        with pytest.raises(ValueError, match=r"last\.pth is (damaged|not a checkpoint)"):
            read_checkpoint(file)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "SHA256SUMS"])
@pytest.mark.parametrize(("how", "count"), [("truncation", 22), ("bit flip", 86)])
def test_no_damaged_model_is_opened(run, tmp_path, name, how, count):
    model = shutil.copytree(run / "model", tmp_path / "model")
    content, rng = (model / name).read_bytes(), random.Random(1)
    for _ in range(count):
        (model / name).write_bytes(damaged(content, how, rng))
        if (model / name).stat().st_size == 0 and name == "SHA256SUMS":
            continue
        with pytest.raises(ValueError, match="damaged"):
            check_sums(model)
        with pytest.raises(ValueError, match="damaged"):
            open_model(str(model))


@pytest.mark.parametrize(("how", "count"), [("truncation", 64), ("bit flip", 256)])
def test_no_damaged_official_file_is_converted_to_other_weights(tmp_path, how, count):
    # without a checksum, damage in unused bytes is not noticed: the weights are then unchanged
    file, rng = tmp_path / "official.pth", random.Random(2)
    weights = timm.create_model("test_resnet").state_dict()
    torch.save({"model": weights}, file)
    content, refused = file.read_bytes(), 0
    for _ in range(count):
        file.write_bytes(damaged(content, how, rng))
        try:
            read, _ = read_weights(file)
        except ValueError as error:
            assert "official.pth" in str(error)  # noqa: PT017
            refused += 1
        else:
            assert read.keys() == weights.keys()
            assert all(torch.equal(read[name], weights[name]) for name in weights)
    assert refused > 0.9 * count


class Code:
    """An object that runs a line of Python when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def malicious(canary):
    """Eight ways to run code when a file is read."""
    line = f"open({str(canary)!r}, 'w').close()"
    return {
        "exec": Code(exec, line),
        "eval": Code(eval, line),
        "compile": Code(eval, f"exec(compile({line!r}, 'x', 'exec'))"),
        "os": Code(os.system, f"touch {canary}"),
        "subprocess": Code(subprocess.check_call, ["touch", str(canary)]),
        "open": Code(open, str(canary), "w"),
        "remove": Code(shutil.rmtree, str(canary.parent)),
        "import": Code(__import__, "antigravity"),
    }


@pytest.mark.parametrize("kind", list(malicious(Path("x"))))
@pytest.mark.parametrize("place", ["state_dict", "optimizer", "record", "schedule"])
def test_code_in_a_checkpoint_is_not_run(copy, tmp_path, call, kind, place):
    canary = tmp_path / "canary"
    checkpoint = torch.load(copy / "last.pth", weights_only=True)
    checkpoint[place] = {"weight": malicious(canary)[kind]}
    # with a valid checksum, as if attnzoo had written it
    save_checkpoint(checkpoint, copy / "last.pth")
    with pytest.raises(ValueError, match="contains more than tensors, numbers and text"):
        read_checkpoint(copy / "last.pth")
    for name in ("resume", "convert") if place == "state_dict" else ():
        assert_refused(call(*commands(copy, tmp_path)[name]))
    assert not canary.exists()
    assert tmp_path.is_dir()
    assert "antigravity" not in sys.modules


def test_code_as_text_is_not_run(copy, tmp_path, call):
    canary = tmp_path / "canary"
    line = f"__import__('os').system('touch {canary}')"
    checkpoint = torch.load(copy / "last.pth", weights_only=True)
    for changes in ({"recipe": line}, {"meta": {"config": line}}, {"config": line, "recipe": "{}"}):
        save_checkpoint({**checkpoint, **changes}, copy / "last.pth")
        call(*commands(copy, tmp_path)["resume"])
        assert not canary.exists()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda c: c.pop("optimizer"), id="no optimizer"),
        pytest.param(lambda c: c.update(format=1), id="other format"),
        pytest.param(lambda c: c["state_dict"].pop("fc.weight"), id="missing weight"),
        pytest.param(lambda c: c["state_dict"].update(extra=torch.zeros(1)), id="unknown weight"),
        pytest.param(lambda c: c["state_dict"].update({"fc.weight": torch.zeros(3, 3)}), id="other shape"),
        pytest.param(lambda c: c["state_dict"].update({"fc.weight": "text"}), id="text for a weight"),
        pytest.param(lambda c: c.update(step="ten"), id="text for a number"),
        pytest.param(lambda c: c.update(step=-5), id="step before the first"),
        pytest.param(lambda c: c.update(epoch=99), id="epoch after the last"),
        pytest.param(lambda c: c["optimizer"].update(param_groups=[]), id="no parameter groups"),
        pytest.param(lambda c: c.update(record=[]), id="no record"),
        pytest.param(lambda c: c.update(random=[{}]), id="no random numbers"),
        pytest.param(lambda c: c.update(random=None), id="no random states"),
        pytest.param(lambda c: c.update(data=torch.zeros(2)), id="a tensor for the data"),
        pytest.param(lambda c: c["record"].update(best={"epoch": "first"}), id="text for the best epoch"),
    ],
)
def test_a_checkpoint_that_is_not_of_this_run_is_refused(copy, tmp_path, call, change):
    checkpoint = torch.load(copy / "last.pth", weights_only=True)
    change(checkpoint)
    save_checkpoint(checkpoint, copy / "last.pth")
    before = (copy / "last.pth").read_bytes()
    assert_refused(call(*commands(copy, tmp_path)["resume"]))
    assert (copy / "last.pth").read_bytes() == before


@pytest.mark.parametrize("length", [2**62, 2**40, 2**31, 100_000_001], ids=["exabytes", "terabyte", "2 GiB", "100 MB"])
def test_a_header_that_promises_too_much_is_refused(copy, tmp_path, call, length):
    (copy / "model" / "SHA256SUMS").unlink()
    (copy / "model" / "model.safetensors").write_bytes(struct.pack("<Q", length) + b'{"a":' + b" " * 64)
    for name in ("evaluate", "predict", "export"):
        assert_refused(call(*commands(copy, tmp_path)[name]))


def test_tensors_that_promise_too_much_are_refused(copy, tmp_path, call):
    header = json.dumps({"fc.weight": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    (copy / "model" / "SHA256SUMS").unlink()
    (copy / "model" / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    assert_refused(call(*commands(copy, tmp_path)["evaluate"]))


def test_an_archive_that_unpacks_to_more_than_it_weighs_is_refused(tmp_path):
    file = tmp_path / "bomb.pth"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 2**24)
        archive.writestr("archive/version", b"3")
    with pytest.raises(ValueError, match=r"bomb\.pth is not a PyTorch checkpoint: it is compressed"):
        read_weights(file)


@pytest.mark.parametrize("name", ["../../secret", "/etc/hostname", "..\\secret"])
def test_sums_do_not_lead_out_of_their_directory(copy, name):
    (copy / "model" / "SHA256SUMS").write_text(f"{'0' * 64}  {name}\n")
    with pytest.raises(ValueError, match="which does not exist"):
        check_sums(copy / "model")


@pytest.mark.parametrize(
    "config",
    [
        pytest.param("[]", id="a list"),
        pytest.param("{", id="half an object"),
        pytest.param('{"architecture": "os.system"}', id="no model"),
        pytest.param('{"architecture": "../../../etc/passwd"}', id="a path"),
        pytest.param('{"architecture": "test_resnet", "model_args": {"nonsense": 1}}', id="unknown argument"),
        pytest.param('{"architecture": "test_resnet", "pretrained_cfg": 7}', id="a number for a configuration"),
        pytest.param("\x00\x01", id="no text"),
    ],
)
def test_a_configuration_that_is_none_is_refused(copy, tmp_path, call, config):
    (copy / "model" / "SHA256SUMS").unlink()
    (copy / "model" / "config.json").write_text(config)
    for name in ("evaluate", "predict", "export"):
        assert_refused(call(*commands(copy, tmp_path)[name]))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("input_size", [1, 10**30, 32]),
        ("input_size", None),
        ("mean", [None]),
        ("mean", None),
        ("std", [0]),
        ("std", [float("nan")]),
        ("crop_pct", -1),
        ("interpolation", 3),
        ("license", {"name": "mit"}),
        ("num_classes", 10**30 * 0.5),
        ("label_names", "abc"),
        ("label_names", [None]),
    ],
)
def test_an_odd_value_of_a_configuration_is_named(tmp_path, key, value):
    config = {"architecture": "test_resnet", "pretrained_cfg": {"input_size": [3, 32, 32], key: value}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"config\.json: pretrained_cfg\.{key} must be "):
        read_config(tmp_path)


def test_a_configuration_of_timm_is_not_odd(tmp_path):
    for name in ("nat_pico", "test_resnet", "test_vit"):
        timm.models.save_for_hf(timm.create_model(name), tmp_path / name)
        assert read_config(tmp_path / name)["architecture"] == name


HISTORY = {"best": {"epoch": 1, "accuracy": 0.5}, "epochs": [{"epoch": 1, "loss": 1.0}], "steps": [[1, 0.5, 1e-3]]}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, value) for key in ("epochs", "steps", "unreadable") for value in (None, "text", {}, [None], [[]])),
        ("best", []),
        ("best", {"epoch": 1}),
        ("best", {"epoch": 1.5, "accuracy": 0.5}),
        ("epochs", [{"epoch": 1}]),
        ("epochs", [{"epoch": "1", "loss": 1.0}]),
        ("epochs", [{"epoch": 1, "loss": 10**400}]),
        ("steps", [[1, 2]]),
        ("steps", [[1, 2.0, True]]),
    ],
)
def test_an_odd_history_is_refused(key, value):
    state = {**HISTORY, "unreadable": []}
    History("accuracy").restore(state)
    with pytest.raises(ValueError, match="its history"):
        History("accuracy").restore({**state, key: value})


@pytest.mark.parametrize("name", ["resume", "evaluate", "predict", "export", "convert"])
def test_empty_files_are_refused(copy, tmp_path, call, name):
    for path in [copy / "last.pth", *(copy / "model").iterdir()]:
        path.write_bytes(b"")
    (copy / "model" / "SHA256SUMS").unlink()
    assert_refused(call(*commands(copy, tmp_path)[name]))
