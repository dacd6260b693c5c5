import argparse
import hashlib
import json
import os
import re

import pytest
import timm
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from attnzoo.tools import cli, convert
from attnzoo.tools.weights import LISTED


@pytest.fixture
def call():
    return lambda *arguments: CliRunner().invoke(cli.main, ["convert", *map(str, arguments)])


def official_nat(num_classes=1000, name="nat_pico"):
    """A NAT of random weights under the official names."""
    weights = {}
    for key, value in timm.create_model(name, num_classes=num_classes).state_dict().items():
        key = key.replace("stem.conv1.", "patch_embed.proj.0.").replace("stem.conv2.", "patch_embed.proj.1.")
        key = key.replace("stem.", "patch_embed.").replace("head.fc.", "head.")
        parts = key.split(".")
        if parts[0] == "stages":
            key = ".".join(["levels", str(int(parts[1]) - (parts[2] == "downsample")), *parts[2:]])
        weights[key] = value
    return weights


def own(name, **arguments):
    return timm.create_model(name, **arguments).eval()


def assert_opens_as(directory, model):
    again = timm.create_model(f"local-dir:{directory}", pretrained=True).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))


@pytest.mark.parametrize("suffix", ["pth", "pt", "bin", "safetensors"])
def test_an_official_file_opens_as_a_directory_with_the_same_logits(call, tmp_path, suffix):
    weights, file, output = official_nat(11), tmp_path / f"nat.{suffix}", tmp_path / "models" / "nat"
    save_file(weights, file) if suffix == "safetensors" else torch.save(weights, file)
    result = call(file, "--model", "nat_pico", "--output", output)
    assert result.exit_code == 0, result.output
    model = timm.create_model(
        "nat_pico", pretrained=True, num_classes=11, pretrained_cfg_overlay={"file": str(file), "num_classes": 11}
    )
    assert_opens_as(output, model.eval())
    assert sorted(path.name for path in output.iterdir()) == ["SHA256SUMS", "config.json", "model.safetensors"]
    assert [path.name for path in output.parent.iterdir()] == ["nat"]


def test_the_number_of_classes_is_stated_once(call, tmp_path):
    save_file(timm.create_model("nat_pico", num_classes=3).state_dict(), tmp_path / "own.safetensors")
    assert call(tmp_path / "own.safetensors", "--model", "nat_pico", "--output", tmp_path / "out").exit_code == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_classes"] == 3
    # transformers passes the field and the arguments to timm
    assert "num_classes" not in config.get("model_args", {})
    assert timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).num_classes == 3


def test_statistics_and_unit_axes_of_shvit(call, tmp_path):
    model = own("shvit_pico", num_classes=3)
    for name, tensor in model.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            tensor.uniform_(0.5, 1.5)
    weights = {
        key: value[:, :, 0, 0] if value.ndim == 4 and value.shape[2] == 1 and ".se." not in key else value
        for key, value in model.state_dict().items()
    }
    assert any(value.ndim == 2 for key, value in weights.items() if "conv" in key)
    torch.save({"model": weights, "args": argparse.Namespace(lr=0.1), "epoch": 3}, tmp_path / "a.pth")
    assert call(tmp_path / "a.pth", "--model", "shvit_pico", "--output", tmp_path / "out").exit_code == 0
    assert_opens_as(tmp_path / "out", model)


def test_the_origin_is_recorded_and_printed(call, tmp_path):
    file, output = tmp_path / "shvit_s1.pth", tmp_path / "out"
    torch.save({"model": own("zoo_shvit_s1").state_dict()}, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    result = call(file, "--model", "zoo_shvit_s1", "--output", output)
    url = "https://github.com/ysj9909/SHViT/releases/download/v1.0/shvit_s1.pth"
    config = json.loads((output / "config.json").read_text())
    assert config["converted_from"] == {"file": "shvit_s1.pth", "sha256": digest, "published_url": url}
    assert (config["architecture"], config["num_classes"]) == ("zoo_shvit_s1", 1000)
    assert config["pretrained_cfg"]["license"] == "mit"
    assert all(text in result.stdout for text in (digest, url, "shvit_s1.pth", "1000 classes", f"local-dir:{output}"))


def test_a_model_without_published_weights_names_no_address(call, tmp_path):
    torch.save(official_nat(), tmp_path / "a.pth")
    assert "http" not in call(tmp_path / "a.pth", "--model", "nat_pico.untrained", "--output", tmp_path / "out").output
    assert "published_url" not in json.loads((tmp_path / "out" / "config.json").read_text())["converted_from"]


def test_what_does_not_match_is_listed(call, tmp_path):
    weights = official_nat()
    del weights["levels.0.blocks.0.attn.qkv.weight"]
    weights["levels.1.blocks.0.extra"] = torch.zeros(2, 5)
    weights["norm.weight"] = torch.zeros(7)
    torch.save(weights, tmp_path / "a.pth")
    result = call(tmp_path / "a.pth", "--model", "nat_pico", "--output", tmp_path / "out")
    assert result.exit_code == 2
    head, *lines = result.stderr.splitlines()
    assert "1 missing from the file, 1 not in the model, 1 of another shape" in head
    assert lines == [
        "missing from the file:",
        "  stages.0.blocks.0.attn.qkv.weight 96x32",
        "not in the model:",
        "  stages.1.blocks.0.extra 2x5",
        "of another shape:",
        "  norm.weight is 7 in the file, 256 in the model",
    ]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("file_of", "name"), [("nat_mini", "nat_tiny"), ("nat_tiny", "nat_mini"), ("nat_mini", "zoo_shvit_s1")]
)
def test_the_file_of_another_model_is_refused_with_a_list_that_ends(call, tmp_path, file_of, name):
    torch.save(official_nat(name=file_of), tmp_path / "a.pth")
    result = call(tmp_path / "a.pth", "--model", name, "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert f"not a checkpoint of {name}" in result.stderr
    (count,) = {int(n) for n in re.findall(r"(\d+) (?:missing|not in)", result.stderr.splitlines()[0])[:1]}
    assert count > LISTED
    assert f"  and {count - LISTED} more" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def test_a_file_without_a_classifier_is_refused(call, tmp_path):
    weights = {key: value for key, value in official_nat().items() if not key.startswith("head.")}
    torch.save(weights, tmp_path / "a.pth")
    result = call(tmp_path / "a.pth", "--model", "nat_pico", "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert "  head.fc.weight 1000x256" in result.stderr


class Code:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_code_in_a_file_is_named_and_not_run(call, tmp_path, zipped):
    trace = tmp_path / "it ran"
    torch.save(
        {"model": official_nat(), "more": Code(trace)}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped
    )
    result = call(tmp_path / "a.pth", "--model", "nat_pico", "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert f"{os.mkdir.__module__}.mkdir" in result.stderr
    assert "would run code" in result.stderr
    assert not trace.exists()
    assert not (tmp_path / "out").exists()
    # with weights_only=False the code does run: the test can fail
    torch.load(tmp_path / "a.pth", weights_only=False)
    assert trace.exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param({"model_ema": {}, "epoch": 3}, "its keys are: model_ema, epoch", id="other keys"),
        pytest.param({"model": 3}, "model must be a dictionary of tensors, got a int", id="no dictionary inside"),
        pytest.param([torch.zeros(2)], "got a list", id="list"),
        pytest.param({}, "its keys are: none", id="empty"),
    ],
)
def test_a_file_without_weights_says_what_it_has(call, tmp_path, content, says):
    torch.save(content, tmp_path / "a.pth")
    result = call(tmp_path / "a.pth", "--model", "nat_pico", "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert says in result.stderr


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_a_file_that_is_no_checkpoint(call, tmp_path, name):
    (tmp_path / name).write_bytes(b"no checkpoint at all")
    result = call(tmp_path / name, "--model", "nat_pico", "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert re.search(rf"{name} is not a (PyTorch checkpoint|safetensors file)", result.stderr)


@pytest.mark.parametrize("key", ["model_ema", "state_dict_ema"])
def test_the_average_of_the_weights_is_converted_as_timm_loads_it(call, tmp_path, key):
    weights, file = official_nat(), tmp_path / "a.pth"
    average = {name: tensor / 2 for name, tensor in weights.items()}
    torch.save({"model": weights, key: average, "optimizer": {"lr": 1}}, file)
    result = call(file, "--model", "nat_pico", "--output", tmp_path / "out")
    assert result.exit_code == 0
    assert result.stderr.startswith("note: model in the file")
    assert_opens_as(tmp_path / "out", own("nat_pico", pretrained=True, pretrained_cfg_overlay={"file": str(file)}))


@pytest.mark.parametrize("place", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "inside"])
@pytest.mark.parametrize("name", ["nat_pico", "swin_pico"])
def test_the_names_of_wrapped_modules_are_those_of_the_modules(call, tmp_path, place, name):
    model = own(name, num_classes=7)
    weights = {
        key.replace("stages.0.", "stages.0._orig_mod.") if place == "inside" else place + key: value
        for key, value in model.state_dict().items()
    }
    torch.save({"model": weights}, tmp_path / "a.pth")
    assert call(tmp_path / "a.pth", "--model", name, "--output", tmp_path / "out").exit_code == 0
    assert_opens_as(tmp_path / "out", model)
    overlay = {"file": str(tmp_path / "a.pth"), "num_classes": 7}
    loaded = own(name, num_classes=7, pretrained=True, pretrained_cfg_overlay=overlay)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())


HEAD = "head.weight"
ODD = {
    "number as a name": (lambda w: {0: torch.zeros(2)}, "the names of weights must be text, got 0"),
    "number beside names": (lambda w: {**w, 3: torch.zeros(1)}, "must be text, got 3"),
    "scalar": (lambda w: {**w, HEAD: torch.tensor(1.0)}, "head.fc.weight is scalar in the file"),
    "scalars": (lambda w: dict.fromkeys(w, torch.tensor(1.0)), "is not a checkpoint of nat_pico: "),
    "empty": (lambda w: {**w, HEAD: w[HEAD][:0]}, "head.fc.weight is 0x256 in the file"),
    "sparse": (lambda w: {**w, HEAD: w[HEAD].to_sparse()}, "head.weight is sparse, nested, quantized or without data"),
    "without data": (lambda w: {**w, HEAD: w[HEAD].to("meta")}, "without data"),
    "nested": (lambda w: {"backbone": w}, "its keys are: backbone"),
    "not a number": (lambda w: {**w, HEAD: w[HEAD] * float("nan")}, "1 not finite"),
    "very many classes": (
        lambda w: {**w, HEAD: torch.zeros(1, 256).expand(10**7, 256)},
        "but its tensors 9770 MiB: store tensors that are not expanded",
    ),
    "bool": (lambda w: {**w, HEAD: w[HEAD] > 0}, "head.fc.weight is bool in the file"),
    "int8": (lambda w: {key: value.to(torch.int8) for key, value in w.items()}, "of another type"),
    "complex": (lambda w: {**w, HEAD: w[HEAD].to(torch.complex64)}, "head.fc.weight is complex64 in the file"),
}


@pytest.mark.parametrize("odd", ODD)
def test_odd_tensors_are_named(call, tmp_path, odd):
    change, says = ODD[odd]
    torch.save(change(official_nat(11)), tmp_path / "a.pth")
    result = call(tmp_path / "a.pth", "--model", "nat_pico", "--output", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert says in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_floating_type_are_converted(call, tmp_path, dtype):
    model = own("nat_pico", num_classes=3)
    torch.save({key: value.to(dtype) for key, value in model.state_dict().items()}, tmp_path / "a.pth")
    assert call(tmp_path / "a.pth", "--model", "nat_pico", "--output", tmp_path / "out").exit_code == 0
    assert_opens_as(tmp_path / "out", model.to(dtype).float())


def test_a_work_directory_stands_for_its_best_epoch(call, tmp_path):
    model = own("nat_pico", num_classes=3)
    (tmp_path / "run").mkdir()
    refused = call(tmp_path / "run", "--model", "nat_pico", "--output", tmp_path / "out")
    assert (refused.exit_code, "run is a directory without" in refused.stderr) == (2, True)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "run" / "best.pth")
    assert call(tmp_path / "run", "--model", "nat_pico", "--output", tmp_path / "out").exit_code == 0
    assert_opens_as(tmp_path / "out", model)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nat_pica", "did you mean nat_pico"),
        ("shvit_s1", "zoo_shvit_s1"),
        ("resnet18", "a model of timm"),
        ("nat_mini.in22k", "(in22k)"),
    ],
)
def test_a_name_that_is_none_of_ours(call, tmp_path, name, says):
    torch.save(official_nat(), tmp_path / "a.pth")
    result = call(tmp_path / "a.pth", "--model", name, "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert says in result.stderr


def test_a_directory_is_replaced_only_when_asked_and_never_with_other_files(call, tmp_path):
    file, output = tmp_path / "a.pth", tmp_path / "out"
    output.mkdir()
    torch.save(official_nat(3), file)
    arguments = (file, "--model", "nat_pico", "--output", output)
    assert call(*arguments).exit_code == 0
    before = (output / "model.safetensors").read_bytes()
    torch.save(official_nat(4), file)
    refused = call(*arguments)
    assert (refused.exit_code, "--overwrite" in refused.stderr) == (2, True)
    assert (output / "model.safetensors").read_bytes() == before
    assert call(*arguments, "--overwrite").exit_code == 0
    assert json.loads((output / "config.json").read_text())["num_classes"] == 4
    (output / "notes.txt").write_text("mine")
    refused = call(*arguments, "--overwrite")
    assert (refused.exit_code, "notes.txt" in refused.stderr) == (2, True)
    refused = call(file, "--model", "nat_pico", "--output", output / "notes.txt", "--overwrite")
    assert (refused.exit_code, (output / "notes.txt").read_text()) == (2, "mine")


@pytest.mark.parametrize("stage", ["save_for_hf", "_check_written"])
def test_what_fails_in_the_middle_leaves_what_was_there(tmp_path, monkeypatch, stage):
    file, output = tmp_path / "a.pth", tmp_path / "out"
    torch.save(official_nat(3), file)
    convert.convert(file, "nat_pico", output)
    before = {path.name: path.read_bytes() for path in output.iterdir()}

    def broken(*arguments, **options):
        raise OSError("disk full")

    monkeypatch.setattr(convert, stage, broken)
    torch.save(official_nat(4), file)
    with pytest.raises(OSError, match="disk full"):
        convert.convert(file, "nat_pico", output, overwrite=True)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pth", "out"]


def test_a_directory_that_opens_as_something_else_is_not_kept(tmp_path, monkeypatch):
    torch.save(official_nat(3), tmp_path / "a.pth")
    save = convert.save_for_hf

    def with_other_weights(model, *arguments, **options):
        save(timm.create_model("nat_pico", num_classes=3), *arguments, **options)

    monkeypatch.setattr(convert, "save_for_hf", with_other_weights)
    with pytest.raises(RuntimeError, match="does not load as the converted model"):
        convert.convert(tmp_path / "a.pth", "nat_pico", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]
