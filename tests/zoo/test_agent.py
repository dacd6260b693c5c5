"""Tests specific to Agent Attention: four architectures, positions at other sizes, checkpoints, constants."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from attnzoo.agent import AgentTransformer
from attnzoo.blocks import AgentAttention, CrossShapedAttention, WindowAttention, resize_line

PICOS = ["agent_pico", "agent_swin_pico", "agent_cswin_pico", "agent_deit_pico"]
picos = pytest.mark.parametrize("name", PICOS)


def load(name: str, state_dict: dict[str, torch.Tensor], folder: Path, **kwargs: object) -> nn.Module:
    path = folder / "weights.pth"
    torch.save({"model": state_dict}, path)
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **kwargs).eval()


@picos
def test_fine_tuning_rule_at_load(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = timm.create_model(name).state_dict()
    model = load(name, weights, tmp_path, img_size=(192, 320), num_classes=3)
    block = next(module for module in model.modules() if isinstance(module, AgentAttention))
    key = next(key for key, module in model.named_modules() if module is block)
    rows, columns = (12, 20) if "deit" in name else (48, 80)
    assert block.biases.ah_bias.shape[3] == rows
    assert block.biases.wa_bias.shape[3] == columns
    assert torch.equal(block.biases.ah_bias, resize_line(weights[f"{key}.biases.ah_bias"], rows, 3))
    assert torch.equal(block.biases.wa_bias, resize_line(weights[f"{key}.biases.wa_bias"], columns, 3))
    assert torch.equal(block.biases.an_bias, weights[f"{key}.biases.an_bias"])
    with torch.no_grad():
        assert model(torch.randn(1, 3, 192, 320)).shape == (1, 3)


@pytest.mark.parametrize("name", ["agent_pico", "agent_deit_pico"])
def test_absolute_positions_of_an_image_that_is_not_square(name: str, tmp_path: Path) -> None:
    weights = timm.create_model(name, img_size=(64, 128)).state_dict()
    key = next(key for key in weights if key.endswith("position.table"))
    # a ramp along the columns of 16x16 patches, or of 4x4 pixels
    columns = 8 if "deit" in name else 32
    ramp = torch.arange(columns, dtype=torch.float32).repeat(columns // 2)
    weights[key][0, -len(ramp) :] = ramp[:, None]
    model = load(name, weights, tmp_path, img_size=(128, 128))
    table = model.get_parameter(key)[0, -(columns**2) :, 0].reshape(columns, columns)
    # the columns are unchanged, the rows are interpolated
    torch.testing.assert_close(table, ramp[:columns].expand(columns, columns), atol=1e-4, rtol=1e-4)


@picos
def test_dense_rule_at_run_time(name: str) -> None:
    torch.manual_seed(0)
    plain = timm.create_model(name, num_classes=3).eval()
    for key, parameter in plain.named_parameters():
        # with their initial values positions have almost no effect
        if key.endswith(("_bias", "qkv.weight")):
            nn.init.normal_(parameter)
    agents = 25 if "deit" in name else (9, 16, 25, 25)
    dense = timm.create_model(name, num_classes=3, dense_agents=agents).eval()
    dense.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 160, 224)
    with torch.no_grad():
        # both models have the same parameters, but different numbers of agents
        assert (plain(x) - dense(x)).abs().max() > 1e-3


@picos
def test_our_own_checkpoint_loads(name: str, tmp_path: Path) -> None:
    weights = timm.create_model(name).state_dict()
    again = load(name, weights, tmp_path).state_dict()
    assert all(torch.equal(weights[key], again[key]) for key in weights)


def test_a_checkpoint_of_another_body_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="Missing key"):
        load("agent_swin_pico", timm.create_model("agent_cswin_pico").state_dict(), tmp_path)


def mixers(name: str) -> list[list[nn.Module]]:
    with torch.device("meta"):
        model = timm.create_model(name)
    return [[block.attn for block in stage.blocks] for stage in model.stages]


@pytest.mark.parametrize(
    ("name", "agents"),
    [
        ("agent_swin_tiny", (2, 2, 6, 0)),
        ("agent_swin_small", (2, 2, 0, 0)),
        ("agent_swin_base", (2, 2, 2, 0)),
        ("agent_cswin_base", (3, 6, 0, 0)),
        ("agent_pvt_large", (3, 8, 27, 3)),
        ("agent_deit_base", (3, 1, 0, 0)),
        ("agent_deit_small", (3, 3, 3, 3)),
    ],
)
def test_where_agents_are(name: str, agents: tuple[int, ...]) -> None:
    found = [[isinstance(mixer, AgentAttention) for mixer in stage] for stage in mixers(name)]
    assert tuple(map(sum, found)) == agents
    assert all(stage == sorted(stage, reverse=True) for stage in found)


@pytest.mark.parametrize(
    ("name", "window"), [("agent_swin_small", 7), ("agent_swin_small_288", 9), ("agent_swin_base_384", 12)]
)
def test_windows(name: str, window: int) -> None:
    layers = [mixer for stage in mixers(name) for mixer in stage if isinstance(mixer, WindowAttention)]
    assert {layer.window_size for layer in layers} == {window}
    assert [layer.shifted for layer in layers[:4]] == [False, True, False, True]


@pytest.mark.parametrize(("name", "stripe"), [("agent_cswin_small", 7), ("agent_cswin_base_384", 12)])
def test_stripes(name: str, stripe: int) -> None:
    third, last = mixers(name)[2:]
    assert all(isinstance(mixer, CrossShapedAttention) and mixer.stripe_width == stripe for mixer in third)
    assert all(isinstance(mixer, CrossShapedAttention) and mixer.stripe_width is None for mixer in last)


@pytest.mark.parametrize("pool", ["token", "avg", ""])
def test_deit_pools_as_asked(pool: str) -> None:
    model = timm.create_model("agent_deit_pico", num_classes=0, global_pool=pool).eval()
    x = torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        tokens = model.forward_features(x)
        expected = {"token": tokens[:, 0], "avg": tokens[:, 1:].mean(1), "": tokens}[pool]
        torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layout": "vit"}, "layout must be one of pvt, swin, cswin, got 'vit'"),
        ({"layout": "pvt", "agent_depths": (1, 1, 0, 0)}, "layout 'pvt' has agent attention in all blocks"),
    ],
    ids=["layout", "pvt"],
)
def test_mistakes(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AgentTransformer(**arguments)


def test_a_download_without_a_file_name_is_kept_under_the_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(url: str, path: Path, check: Callable[[Path], None]) -> None:
        asked.append(url)
        torch.save({"model": timm.create_model("agent_pvt_tiny").state_dict()}, path)
        check(path)

    monkeypatch.setattr("attnzoo.base.sources.download", download)
    for _ in range(2):
        timm.create_model("agent_pvt_tiny", pretrained=True, cache_dir=str(tmp_path), num_classes=4)
    assert asked == [timm.get_pretrained_cfg("agent_pvt_tiny").url]
    assert [path.name for path in tmp_path.iterdir()] == ["agent_pvt_tiny.in1k.pth"]
