"""Tests specific to Perceiver: files of transformers, the authors' arithmetic, positions at any size."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

from attnzoo.base import checkpoint_filter
from attnzoo.blocks import fourier_positions

SMALL: dict[str, Any] = {"embed_dim": 32, "num_latents": 8, "depth": 2, "repeats": 2, "num_heads": 4, "num_classes": 5}
CLASSES = {"learned": "Learned", "fourier": "Fourier", "conv": "ConvProcessing"}


@pytest.mark.parametrize("tokens", CLASSES)
def test_logits_are_those_of_transformers(tokens: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs attnzoo[clients]")
    size = 24 if tokens == "learned" else 224
    config = transformers.PerceiverConfig(
        num_latents=8, d_latents=32, num_blocks=2, num_self_attends_per_block=2, num_self_attention_heads=4,
        num_cross_attention_heads=1, image_size=size, num_labels=5,
    )  # fmt: skip
    theirs = getattr(transformers, f"PerceiverForImageClassification{CLASSES[tokens]}")(config).eval()
    with torch.no_grad():
        for name, tensor in theirs.state_dict().items():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) if name.endswith("running_var") else 0.1 * torch.randn_like(tensor))
    theirs.save_pretrained(tmp_path)
    file = str(tmp_path / "model.safetensors")
    model = timm.create_model(
        f"perceiver_{tokens}", pretrained=True, pretrained_cfg_overlay={"file": file, "num_classes": 5},
        img_size=size, **SMALL,
    ).eval()  # fmt: skip
    # Fourier features are for any size; those of transformers are interpolated only if they are learned
    images = torch.randn(2, 3, size, size) if tokens == "learned" else torch.randn(2, 3, 33, 47)
    with torch.no_grad():
        wanted, found = theirs(images).logits, model(images)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        if tokens == "learned":
            other = torch.randn(2, 3, 32, 32)
            wanted = theirs(other, interpolate_pos_encoding=True).logits
            torch.testing.assert_close(model(other), wanted, rtol=1e-4, atol=1e-5)
            # the same positions, interpolated when the file is read
            resized = timm.create_model("perceiver_learned", img_size=32, **SMALL).eval()
            weights = load_file(file)
            resized.load_state_dict(checkpoint_filter("perceiver_learned")(weights, resized))
            torch.testing.assert_close(resized(other), wanted, rtol=1e-4, atol=1e-5)


def test_the_network_without_its_class_has_shorter_names() -> None:
    model = timm.create_model("perceiver_pico")
    weights = {"embeddings.latents": torch.ones(32, 96), "encoder.self_attends.1.layernorm.weight": torch.ones(96)}
    assert checkpoint_filter("perceiver_pico")(weights, model).keys() == {"latents", "blocks.1.norm2.weight"}


def original_tokens(model: Any, images: Tensor) -> Tensor:
    """The map of `conv` as TensorFlow pads it: what is missing is divided evenly, the odd row at the end."""
    conv, norm = model.stem.stem.conv.conv, model.stem.stem.conv.norm
    x = torch.nn.functional.pad(images, [2, 3, 2, 3])
    x = norm(torch.nn.functional.conv2d(x, conv.weight, stride=2)).relu()
    return torch.nn.functional.max_pool2d(torch.nn.functional.pad(x, [0, 1, 0, 1], value=-math.inf), 3, 2)


def test_arithmetic_of_the_authors() -> None:
    model = timm.create_model("perceiver_pico", arithmetic="original", num_classes=5).eval()
    other = timm.create_model("perceiver_pico", num_classes=5).eval()
    other.load_state_dict(model.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert model.stem(images).shape == (1, 16 * 16, 322)
        assert other.stem(images).shape == (1, 15 * 15, 322)
        found = model.stem(images)[:, :, :64]
        torch.testing.assert_close(found, original_tokens(model, images).flatten(2).transpose(1, 2))
        assert model.stem(torch.randn(1, 3, 65, 31)).shape == (1, 17 * 8, 322)
    assert {block.mlp.act.approximate for block in [*model.blocks, model.cross, model.head.decoder]} == {"tanh"}
    assert not torch.equal(model(images), other(images))


def test_fourier_features_of_positions() -> None:
    found = fourier_positions(3, 5, 28.0, 4, torch.empty(0, dtype=torch.float64))[0].unflatten(0, (3, 5))
    row, column, frequencies = 1.0, -0.5, torch.linspace(1, 28, 4)
    phases = math.pi * torch.cat([row * frequencies, column * frequencies])
    expected = torch.cat([torch.tensor([row, column]), phases.sin(), phases.cos()]).double()
    torch.testing.assert_close(found[2, 1], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("tokens", CLASSES)
def test_images_of_any_size(tokens: str) -> None:
    model = timm.create_model("perceiver_pico", tokens=tokens, img_size=32, in_chans=1, num_classes=5).eval()
    with torch.no_grad():
        for size in ((32, 32), (17, 40)):
            features = model.forward_features(torch.randn(2, 1, *size))
            assert features.shape == (2, 32, 96)
            assert model.forward_head(features).shape == (2, 5)
            assert model.forward_head(features, pre_logits=True).shape == (2, 96)
    undecayed = {"latents", "head.query"} | ({"stem.position.table"} if tokens == "learned" else set())
    assert model.no_weight_decay() == undecayed


def test_another_pooling_has_no_decoder_and_returns() -> None:
    model = timm.create_model("perceiver_pico", num_classes=5)
    model.reset_classifier(3, "avg")
    assert model.head.decoder is None
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 3)
    model.reset_classifier(4, "query")
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 4)


def test_there_are_no_maps() -> None:
    with pytest.raises(ValueError, match="perceiver_conv has no feature maps: create it without features_only"):
        timm.create_model("perceiver_conv", features_only=True)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"tokens": "pixels"}, "tokens must be one of learned, fourier, conv, got 'pixels'"),
        ({"arithmetic": "jax"}, "arithmetic must be one of transformers, original, got 'jax'"),
    ],
)
def test_unknown_names(arguments: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        timm.create_model("perceiver_pico", **arguments)
