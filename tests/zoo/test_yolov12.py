"""Tests specific to YOLOv12: classifiers and backbones of detectors, and their files."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from click.testing import CliRunner
from torch import nn

from attnzoo.base import checkpoint_filter
from attnzoo.blocks import AreaAttention, CrossStage
from attnzoo_command.listing import list_command


@pytest.mark.parametrize(
    ("size", "widths", "depths", "is_cross_stage", "mlp_ratio"),
    [
        ("n", (64, 128, 128, 256), (1, 1, 2, 2), False, 2.0),
        ("s", (128, 256, 256, 512), (1, 1, 2, 2), False, 2.0),
        ("m", (256, 512, 512, 512), (1, 1, 2, 2), True, 2.0),
        ("l", (256, 512, 512, 512), (2, 2, 4, 4), True, 1.5),
        ("x", (384, 768, 768, 768), (2, 2, 4, 4), True, 1.5),
    ],
)
@pytest.mark.parametrize("is_detector", [False, True], ids=["classifier", "detector"])
def test_constants_of_the_networks(
    size: str,
    widths: tuple[int, ...],
    depths: tuple[int, ...],
    is_cross_stage: bool,
    mlp_ratio: float,
    is_detector: bool,
) -> None:
    with torch.device("meta"):
        model = timm.create_model(f"yolov12{size}" if is_detector else f"yolov12{size}_cls")
    assert tuple((info["num_chs"], info["reduction"]) for info in model.feature_info) == tuple(
        zip(widths, (4, 8, 16, 32), strict=True)
    )
    aggregated = [stage.blocks[0] for stage in model.stages]
    assert tuple(len(block.layers) for block in aggregated) == depths
    assert isinstance(aggregated[1].layers[0], CrossStage) == is_cross_stage
    first = aggregated[2].layers[0][0]
    assert first.mlp[0].conv.out_channels == int(widths[2] // 2 * mlp_ratio)
    assert first.attn.head_dim == 32
    areas = [module.areas for module in model.modules() if isinstance(module, AreaAttention)]
    assert areas == [4 if is_detector else 1] * 2 * depths[2] + [1] * 2 * depths[3]
    assert {norm.eps for norm in model.modules() if isinstance(norm, nn.BatchNorm2d)} == {1e-3 if is_detector else 1e-5}
    has_shortcut = not is_detector or size in "lx"
    assert [block.scale is not None for block in aggregated] == [False, False, has_shortcut, has_shortcut]
    assert (model.num_classes, model.head_hidden_size) == ((0, widths[-1]) if is_detector else (1000, 1280))


def test_the_file_of_a_detector_is_read_up_to_its_neck() -> None:
    model = timm.create_model("yolov12n")
    weights = {"model.0.conv.weight": torch.ones(16, 3, 3, 3), "model.11.cv1.conv.weight": torch.ones(1)}
    assert checkpoint_filter("yolov12n")(weights, model).keys() == {"stem.0.0.conv.weight"}


def test_the_license_is_said_when_weights_are_loaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = timm.create_model("yolov12n")
    assert caplog.text == ""
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    overlay = {"file": str(tmp_path / "weights.pt")}
    timm.create_model("yolov12n", pretrained=True, pretrained_cfg_overlay=overlay)
    assert "yolov12n: the license of the published weights is AGPL-3.0" in caplog.text
    listed = CliRunner().invoke(list_command, ["yolov12n*"])
    assert [line.endswith("yes, AGPL-3.0") for line in listed.stdout.splitlines()] == [False, True, True]


@pytest.mark.parametrize("size", [(96, 64), (65, 97)], ids=str)
def test_a_detector_on_its_features(size: tuple[int, int]) -> None:
    pytest.importorskip("torchvision")
    from attnzoo.tools.detection.detectors import create_detector
    from attnzoo.tools.detection.options import DetectorOptions

    options = DetectorOptions.from_dict({"head": "fcos", "min_size": 64, "max_size": 96, "width": 64})
    detector = create_detector("yolov12_pico", {}, options, 3, [0.0] * 3, [1.0] * 3)
    assert detector.backbone.strides == [4, 8, 16, 32, 64, 128]
    losses = detector.train()(
        [torch.rand(3, *size)], [{"boxes": torch.tensor([[4.0, 4, 40, 40]]), "labels": torch.tensor([1])}]
    )
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in detector.parameters() if p.requires_grad)


def test_attention_has_whole_heads() -> None:
    with pytest.raises(ValueError, match="embed_dims must be multiples of 64 from the third on"):
        timm.create_model("yolov12_pico", embed_dims=(32, 64, 96, 128))
