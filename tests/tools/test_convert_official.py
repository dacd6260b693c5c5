"""Weights of ours under the names of the authors: what they published comes back bit by bit."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file
from timm.models.swin_transformer import SwinTransformer as TimmSwin

from attnzoo.base import checkpoint_filter
from attnzoo.swin import SwinTransformer
from attnzoo.tools import cli
from attnzoo.tools.official import official_shapes, official_weights
from attnzoo.tools.official_names import LISTINGS
from tests.parity.recipe import load_case
from tests.parity.test_parity import NETWORKS, name_of
from tests.zoo.models import SMALL, ours


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, ["convert", *map(str, arguments)])


# their network is timm's, see test_convert_exchange.py
CASES = {path.stem: path for path in NETWORKS if path.parent.name == "cases" and not path.stem.startswith("halonet")}
# joined and split layers, tables, several architectures of one family, and convolutions that are linear here
QUICK = ("agent_pvt_tiny", "agent_swin_tiny", "mambaout_femto", "van_b0")
# buffers that the authors' code computes
COMPUTED = ("relative_position_index", "RoPE.angle", "dct_layer.weight")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.full) for name in CASES]
)
def test_an_official_checkpoint_comes_back(name: str) -> None:
    case = load_case(CASES[name])
    model = name_of(case)
    network: Any = timm.create_model(model, **({"aux_head": True} if name.startswith("overlock") else {}))
    network.load_state_dict(checkpoint_filter(model)(dict(case.checkpoint), network))
    found, key = official_weights(network, model)
    # the key, maybe with a remark
    assert str(key) == str(case.facts.get("checkpoint_key", case.facts.get("state_dict_key"))).split()[0]
    expected = {key: x for key, x in case.checkpoint.items() if not key.endswith(COMPUTED)}
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert found[key].shape == tensor.shape, key
        assert torch.equal(found[key], tensor), key


@pytest.mark.parametrize("name", [name for name in SMALL if not name.startswith("halonet")])
def test_every_family_is_listed(name: str) -> None:
    network = timm.create_model(name, num_classes=3)
    found, _ = official_weights(network, name)
    ours = network.state_dict()
    assert sum(tensor.numel() for tensor in found.values()) == sum(tensor.numel() for tensor in ours.values())
    back = checkpoint_filter(name)(found, network)
    assert all(torch.equal(back[key], tensor) for key, tensor in ours.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ours() if "halonet" not in name])
def test_every_model_is_listed(name: str) -> None:
    with torch.device("meta"):
        network: Any = timm.create_model(name)
    found = []
    for listing in LISTINGS[type(network).__module__.rpartition(".")[2]]:
        if listing.layout in (None, getattr(network, "layout", None)):
            # the other architectures of the family lack some of its tensors
            with contextlib.suppress(ValueError):
                found.append(sum(shape.numel() for shape in official_shapes(network, name, listing).values()))
    assert sum(tensor.numel() for tensor in network.state_dict().values()) in found


def test_names_of_swin() -> None:
    sizes = {"depths": (2, 2, 2), "num_heads": (2, 4, 8), "window_size": 4, "num_classes": 5}
    names = {}
    # timm has the authors' names, but its stages begin with a downsampler
    for name, tensor in TimmSwin(img_size=64, embed_dim=32, **sizes).state_dict().items():
        name = re.sub(r"^layers\.(\d)\.downsample", lambda match: f"layers.{int(match[1]) - 1}.downsample", name)
        names[name.replace("head.fc.", "head.")] = tensor.shape
    found, key = official_weights(SwinTransformer((32, 64, 128), **sizes), "swin_pico")
    assert ({name: tensor.shape for name, tensor in found.items()}, key) == (names, "model")


@pytest.mark.parametrize(
    ("name", "key", "official"),
    [
        ("nat_pico", None, "levels.0.downsample.reduction.weight"),
        ("van_pico", "state_dict", "block1.0.attn.spatial_gating_unit.conv0.weight"),
        ("zoo_shvit_s1", "model", "blocks2.0.1.m.pw1.c.weight"),
    ],
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_file_for_the_official_code_and_back(
    name: str, key: str | None, official: str, suffix: str, tmp_path: Path
) -> None:
    ours = timm.create_model(name, num_classes=3).state_dict()
    save_file(ours, tmp_path / "ours.safetensors")
    file = tmp_path / f"official.{suffix}"
    options = ("--model", name, "--to", "official", "--output", file)
    result = call(tmp_path / "ours.safetensors", *options)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{file}: {name}, 3 classes, from ours.safetensors")
    assert "local-dir" not in result.stdout
    stored = load_file(file) if suffix == "safetensors" else torch.load(file, weights_only=True)
    stored = stored[key] if key and suffix == "pth" else stored
    assert official in stored
    assert not stored.keys() & {"stages.0.blocks.0.norm1.weight", "head.fc.weight"}
    assert call(file, "--model", name, "--output", tmp_path / "back").exit_code == 0
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in ours.items())
    refused = call(tmp_path / "ours.safetensors", *options)
    assert (refused.exit_code, "pass --overwrite" in refused.stderr) == (2, True)
    assert call(tmp_path / "ours.safetensors", *options, "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    ("name", "output", "says"),
    [
        (
            "halonet_pico",
            "a.pth",
            "no official code of halonet_pico: --to official takes the families agent, agent_deit",
        ),
        ("nat_pico", "a", "output must end with .pth or .safetensors"),
        ("nat_pico", ".", "output must end with .pth or .safetensors"),
    ],
)
def test_what_cannot_be_written(name: str, output: str, says: str, tmp_path: Path) -> None:
    save_file(timm.create_model(name, num_classes=3).state_dict(), tmp_path / "ours.safetensors")
    result = call(tmp_path / "ours.safetensors", "--model", name, "--to", "official", "--output", tmp_path / output)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.output
    assert says in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["ours.safetensors"]
