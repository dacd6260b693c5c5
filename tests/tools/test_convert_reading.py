"""What `attnzoo convert` reads: other keys, directories of transformers, weights in several files, programs."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from attnzoo.tools import cli


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, ["convert", *map(str, arguments)])


def weights_of(name: str = "nat_pico", **arguments: Any) -> dict[str, Tensor]:
    return timm.create_model(name, num_classes=3, **arguments).state_dict()


def written(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("key", [None, "model", "student", "teacher"])
def test_a_key_is_chosen(key: str | None, tmp_path: Path) -> None:
    kinds = {name: weights_of() for name in ("model", "model_ema", "student", "teacher")}
    # inside of one, the rule is that of a file
    torch.save({**kinds, "teacher": {"state_dict": kinds["teacher"]}, "epoch": 3}, tmp_path / "a.pth")
    options = ("--key", key) if key else ()
    result = call(tmp_path / "a.pth", "--model", "nat_pico", "--output", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    assert_same(written(tmp_path / "out"), kinds[key or "model_ema"])


def test_a_key_that_the_file_does_not_have(tmp_path: Path) -> None:
    torch.save({"model": weights_of(), "epoch": 3}, tmp_path / "a.pth")
    for key in ("ema", "epoch"):
        result = call(tmp_path / "a.pth", "--model", "nat_pico", "--output", tmp_path / "out", "--key", key)
        assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
        assert f"a.pth has no dictionary under '{key}', its keys with one are: model" in result.stderr


def test_a_network_of_timm_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"architecture": "resnet18", "pretrained_cfg": {}}')
    for to in ("attnzoo", "timm", "official"):
        result = call(tmp_path, "--output", tmp_path / "out", "--to", to)
        assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
        assert "resnet18 is a model of timm, not of attnzoo: timm.create_model(" in result.stderr
        assert f'"local-dir:{tmp_path / "model"}"' in result.stderr


def test_a_checkpoint_of_a_run_is_told_from_its_directory(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"architecture": "nat_pico", "pretrained_cfg": {}}')
    for file in ("last.pth", "model/model.safetensors"):
        (tmp_path / file).write_bytes(b"")
        result = call(tmp_path / file, "--output", tmp_path / "out")
        assert f"but {(tmp_path / file).parent} does: pass this directory" in result.stderr


@pytest.mark.parametrize("content", [b"ein Wort\n", b"", b"hello world", b"{}", b"\x80\x02h\x05."])
def test_a_file_of_another_kind_is_told_in_words(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_bytes(content)
    result = call(tmp_path / "note.txt", "--model", "nat_pico", "--output", tmp_path / "out")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    reason = result.stderr.strip().partition("is not a PyTorch checkpoint")[2]
    assert " " in reason.removeprefix(": ")


def in_shards(weights: dict[str, Tensor], folder: Path, suffix: str) -> Path:
    """Writes weights in three files and a list of them, as transformers does."""
    folder.mkdir(exist_ok=True)
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    names, places = list(weights), {}
    for i in range(3):
        file = f"{stem}-{i + 1:05}-of-00003.{suffix}"
        part = {name: weights[name] for name in names[i::3]}
        save_file(part, folder / file) if suffix == "safetensors" else torch.save(part, folder / file)
        places |= dict.fromkeys(part, file)
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("given", ["folder", "index"])
def test_weights_in_several_files(suffix: str, given: str, tmp_path: Path) -> None:
    weights = weights_of()
    index = in_shards(weights, tmp_path / "in", suffix)
    result = call(index if given == "index" else index.parent, "--model", "nat_pico", "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert_same(written(tmp_path / "out"), weights)
    origin = json.loads((tmp_path / "out" / "config.json").read_text())["converted_from"]
    assert sum(name.startswith("sha256 of ") for name in origin) == 3


def test_the_list_says_which_of_two_copies_is_read(tmp_path: Path) -> None:
    weights = weights_of()
    in_shards(weights, tmp_path, "safetensors")
    last = tmp_path / "model-00003-of-00003.safetensors"
    first = next(iter(weights))
    save_file({**load_file(last), first: torch.full_like(weights[first], 7)}, last)
    assert call(tmp_path, "--model", "nat_pico", "--output", tmp_path / "out").exit_code == 0
    assert_same(written(tmp_path / "out"), weights)


def test_two_tensors_for_one_name_are_refused(tmp_path: Path) -> None:
    weights = weights_of()
    wrapped = {f"module.{name}": x.clone() for name, x in weights.items()}
    torch.save({**weights, **wrapped}, tmp_path / "same.pth")
    wrapped["module.head.fc.bias"] += 1
    torch.save({**weights, **wrapped}, tmp_path / "other.pth")
    for file, code in (("same.pth", 0), ("other.pth", 2)):
        result = call(tmp_path / file, "--model", "nat_pico", "--output", tmp_path / f"out of {file}")
        assert result.exit_code == code, result.output
    assert "other.pth has two tensors for head.fc.bias, one of them named module.head.fc.bias" in result.stderr


def change(index: Path, **fields: Any) -> None:
    index.write_text(json.dumps({**json.loads(index.read_text()), **fields}))


def test_what_is_missing_of_several_files_is_named(tmp_path: Path) -> None:
    index = in_shards(weights_of(), tmp_path, "safetensors")
    second, third = (tmp_path / f"model-0000{i}-of-00003.safetensors" for i in (2, 3))

    def refusal() -> str:
        result = call(tmp_path, "--model", "nat_pico", "--output", tmp_path / "out")
        assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.output
        return result.stderr

    part = load_file(third)
    lost, _ = part.popitem()
    save_file(part, third)
    assert f"{third.name} has no {lost}" in refusal()
    third.unlink()
    second.unlink()
    assert f"names 3 files, of which 2 are missing in {tmp_path}: {second.name}, {third.name}" in refusal()
    change(index, weight_map={"a": "../a.safetensors"})
    assert "names a file that is not beside it: ../a.safetensors" in refusal()
    for odd in (None, {}, {"a": 3}):
        change(index, weight_map=odd)
        assert "weight_map must name a file for each tensor" in refusal()


def of_transformers(folder: Path, labels: dict[str, str], file: str = "model.safetensors") -> dict[str, Tensor]:
    """Writes the directory of a Swin of transformers, whose names of queries, keys and values are its own."""
    ours, folder_weights = weights_of("swin_pico"), {}
    for name, tensor in ours.items():
        if ".qkv." in name:
            for part, third in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                folder_weights[name.replace("attn.qkv", f"attention.self.{part}")] = third.contiguous()
        else:
            folder_weights[name] = tensor
    folder_weights["encoder.layers.0.blocks.1.attention.self.relative_position_index"] = torch.zeros(49, 49)
    folder.mkdir()
    save_file(folder_weights, folder / file) if file.endswith("s") else torch.save(folder_weights, folder / file)
    config = {"architectures": ["SwinForImageClassification"], "model_type": "swin", "id2label": labels}
    (folder / "config.json").write_text(json.dumps(config))
    preprocessing = {"image_mean": [0.25, 0.5, 0.75], "image_std": [0.5, 0.5, 0.25], "size": {"shortest_edge": 64}}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    return ours


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_directory_of_transformers_with_names_of_classes(file: str, tmp_path: Path) -> None:
    # in the order of their indices, not of the file
    ours = of_transformers(tmp_path / "hub", {"2": "cat", "0": "ant", "1": "bee"}, file)
    result = call(tmp_path / "hub", "--model", "swin_pico", "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert_same(written(tmp_path / "out"), ours)
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    assert model.pretrained_cfg["label_names"] == ["ant", "bee", "cat"]
    assert (model.pretrained_cfg["mean"], model.pretrained_cfg["std"]) == ([0.25, 0.5, 0.75], [0.5, 0.5, 0.25])
    # what is converted once more keeps them, and says of which model it is
    assert call(tmp_path / "out", "--output", tmp_path / "again").exit_code == 0
    assert json.loads((tmp_path / "again" / "config.json").read_text())["label_names"] == ["ant", "bee", "cat"]


@pytest.mark.parametrize(
    "labels", [{"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}, {"0": "ant", "1": "bee"}, {"0": "ant", "7": "bee"}]
)
def test_names_that_name_nothing_or_not_all_are_not_kept(labels: dict[str, str], tmp_path: Path) -> None:
    of_transformers(tmp_path / "hub", labels)
    assert call(tmp_path / "hub", "--model", "swin_pico", "--output", tmp_path / "out").exit_code == 0
    assert "label_names" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_a_directory_that_does_not_say_which_model_it_is(tmp_path: Path) -> None:
    of_transformers(tmp_path / "hub", {})
    torch.save(weights_of(), tmp_path / "a.pth")
    for path in (tmp_path / "hub", tmp_path / "a.pth"):
        result = call(path, "--output", tmp_path / "out")
        assert (result.exit_code, "pass --model NAME" in result.stderr) == (2, True)


def test_the_arguments_of_a_model_are_kept(tmp_path: Path) -> None:
    from timm.models import save_for_hf

    model = timm.create_model("nat_pico", num_classes=3, in_chans=1, kernel_size=5)
    save_for_hf(model, tmp_path / "in", model_args={"in_chans": 1, "kernel_size": 5}, safe_serialization=True)
    result = call(tmp_path / "in", "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    again = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    assert_same(again.state_dict(), model.state_dict())


def test_a_directory_that_is_damaged_or_of_a_detector(tmp_path: Path) -> None:
    save_file(weights_of(), tmp_path / "a.safetensors")
    assert call(tmp_path / "a.safetensors", "--model", "nat_pico", "--output", tmp_path / "in").exit_code == 0
    changed = written(tmp_path / "in")
    changed["norm.bias"] += 1
    save_file(changed, tmp_path / "in" / "model.safetensors")
    result = call(tmp_path / "in", "--output", tmp_path / "out")
    assert (result.exit_code, "is damaged or was changed" in result.stderr) == (2, True)
    config = tmp_path / "in" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "task": "detection"}))
    result = call(tmp_path / "in", "--output", tmp_path / "out")
    assert (result.exit_code, "is a network for detection: this command takes classifiers" in result.stderr) == (
        2,
        True,
    )


class Small(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1


@pytest.mark.parametrize("kind", ["TorchScript archive", "program of torch.export"])
def test_programs_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "TorchScript archive":
            torch.jit.save(torch.jit.script(Small()), tmp_path / "a.pt")
        else:
            torch.export.save(torch.export.export(Small(), (torch.zeros(2),)), tmp_path / "a.pt")
    result = call(tmp_path / "a.pt", "--model", "nat_pico", "--output", tmp_path / "out")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert f"a.pt is a {kind}" in result.stderr
    assert "save its weights with" in result.stderr
