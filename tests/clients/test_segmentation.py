"""Decoders of segmentation_models_pytorch."""

from __future__ import annotations

import pytest
import torch

import attnzoo  # noqa: F401  registers the models

smp = pytest.importorskip("segmentation_models_pytorch", reason="needs attnzoo[clients]")


@pytest.mark.parametrize(
    ("name", "decoder", "size"),
    [
        ("nat_pico", "UPerNet", 64),
        ("overlock_pico", "Unet", 64),
        ("biformer_pico", "FPN", 256),
        ("van_pico", "Segformer", 96),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_decoders_train(name: str, decoder: str, size: int) -> None:
    model = smp.create_model(decoder, encoder_name=f"tu-{name}", encoder_weights=None, classes=3)
    masks = model(torch.randn(2, 3, size, size))
    assert masks.shape == (2, 3, size, size)
    masks.square().mean().backward()
    parameters = dict(model.encoder.named_parameters())
    assert all(p.grad is not None for key, p in parameters.items() if ".norm." not in key or "stages" in key)


@pytest.mark.parametrize("name", ["shvit_pico", "agent_deit_pico", "shvit_s1"])
def test_decoders_refuse_networks_whose_first_stride_is_not_four(name: str) -> None:
    with pytest.raises(ValueError, match="Unsupported model downsampling pattern"):
        smp.create_model("Unet", encoder_name=f"tu-{name}", encoder_weights=None)


def test_dilated_stages_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="nat_pico has no dilated stages: output_stride must be 32, got 16"):
        smp.create_model("DeepLabV3Plus", encoder_name="tu-nat_pico", encoder_weights=None)
