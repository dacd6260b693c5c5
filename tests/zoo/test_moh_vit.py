"""Tests specific to MoH-ViT: shared and routed heads, and the image size that distances are normalized by."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from attnzoo.blocks import AggregatedAttention, CosineAttention


@pytest.mark.parametrize(
    ("name", "heads", "shared", "active"),
    [
        ("moh_vit_s_75", (3, 6, 12, 24), (3, 6, 3, 4), (0, 0, 6, 12)),
        ("moh_vit_s_80", (3, 6, 12, 24), (3, 6, 3, 8), (0, 0, 6, 12)),
        ("moh_vit_b_75", (4, 8, 16, 32), (4, 8, 4, 5), (0, 0, 8, 16)),
        ("moh_vit_b_50", (4, 8, 16, 32), (2, 2, 2, 4), (2, 4, 6, 8)),
    ],
)
def test_constants_of_the_networks(
    name: str, heads: tuple[int, ...], shared: tuple[int, ...], active: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    mixers = [stage.blocks[0].attn for stage in model.stages]
    assert [type(mixer) for mixer in mixers] == [AggregatedAttention] * 3 + [CosineAttention]
    assert tuple(mixer.num_heads for mixer in mixers) == heads
    assert tuple(mixer.gates.shared_heads for mixer in mixers) == shared
    assert tuple(mixer.gates.active_heads for mixer in mixers) == active
    assert [mixer.pool_ratio for mixer in mixers[:3]] == [8, 4, 2]


def test_distances_are_of_the_image_at_hand_or_of_another() -> None:
    torch.manual_seed(0)
    free, fixed = (timm.create_model("moh_vit_pico", num_classes=3, img_size=size).eval() for size in (None, 64))
    fixed.load_state_dict(free.state_dict())
    with torch.no_grad():
        assert torch.equal(free(torch.ones(1, 3, 64, 64)), fixed(torch.ones(1, 3, 64, 64)))
        x = torch.randn(1, 3, 96, 96)
        assert not torch.equal(free(x), fixed(x))


def test_weights_on_a_page_are_asked_for_and_taken(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"no address of them is known\. .*https://\S+/MoH-ViT-S-75\) and pass"):
        timm.create_model("moh_vit_s_75", pretrained=True)
    # a minimal network under the same name
    shape = {"embed_dims": (24, 48, 96, 192), "depths": (1, 1, 1, 1), "num_classes": 3}
    model = timm.create_model("moh_vit_s_75", **shape)
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    overlay = {"file": str(tmp_path / "weights.pth"), "num_classes": 3}
    again = timm.create_model("moh_vit_s_75", pretrained=True, pretrained_cfg_overlay=overlay, **shape)
    assert torch.equal(again.head.fc.weight, model.head.fc.weight)
