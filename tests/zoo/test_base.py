"""The base classes, with toy families: one without maps, and tokens with any number of prefix tokens and with gaps."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

import attnzoo
from attnzoo.base import (
    Backbone,
    Family,
    IsotropicTokens,
    PlainAttention,
    PlainMlp,
    TokenBlock,
    Tokens,
    TokenStage,
    TokenStem,
    filter_by,
)
from attnzoo.base.isotropic import TokenHead

PATCH, DIM = 8, 16


class Latents(Backbone):
    """A few learned latents read the image, as in a Perceiver: there are no stages and no maps."""

    def __init__(self, dim: int = DIM, in_chans: int = 3, num_classes: int = 10, drop_rate: float = 0.0) -> None:
        super().__init__(dim, in_chans, num_classes, drop_rate)
        self.stem = nn.Conv2d(in_chans, dim, PATCH, PATCH)
        self.latents = nn.Parameter(torch.randn(1, 4, dim))
        self.fc = nn.Linear(dim, dim)
        self._add_head(TokenHead(dim, num_classes, "avg", drop_rate, num_prefix_tokens=0))

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The stem and the latents, then the rest."""
        return {"stem": r"^stem|^latents", "blocks": [(r"^fc", (0,))]}

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, 4, C)."""
        pixels = self.stem(x).flatten(2).transpose(1, 2)
        weights = (self.latents @ pixels.transpose(1, 2)).softmax(-1)
        return self.fc(weights @ pixels)


family = Family(
    __name__,
    Latents,
    filter_by(lambda name: name.replace("perceiver.", "")),
    code="https://github.com/nobody/latents",
    paper="2103.03206",
    license="mit",
    first_conv="stem",
    source="#results",
)
family.register(
    {
        "toy_latents_pico": family.pico(),
        "toy_latents_tiny": family.variant("Twice as wide.", "", (70.5, 1.0, None), dim=2 * DIM),
    }
)


def test_a_network_without_maps_is_a_classifier_of_timm() -> None:
    model = timm.create_model("toy_latents_pico", num_classes=5, in_chans=1).eval()
    images = torch.randn(2, 1, 24, 40)
    assert model(images).shape == (2, 5)
    features = model.forward_features(images)
    assert torch.equal(model.forward_head(features), model(images))
    assert model.forward_head(features, pre_logits=True).shape == (2, DIM)
    assert model.get_classifier().out_features == 5
    model.reset_classifier(0)
    assert model(images).shape == (2, DIM)
    model.reset_classifier(3, "max")
    assert model.head.pool_type == "max"
    assert model(images).shape == (2, 3)
    assert torch.jit.script(model)(images).shape == (2, 3)
    assert {len(group["params"]) > 0 for group in param_groups_layer_decay(model, layer_decay=0.5)} == {True}


@pytest.mark.parametrize("name", ["toy_latents_pico", "toy_latents_tiny"])
def test_a_network_without_maps_has_no_features(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} has no feature maps: create it without features_only"):
        timm.create_model(name, features_only=True)


def test_a_variant_is_what_its_row_says() -> None:
    assert timm.create_model("toy_latents_tiny").num_features == 2 * DIM
    assert attnzoo.published("toy_latents_tiny") == {
        "top1": 70.5,
        "params_m": 1.0,
        "source": "https://github.com/nobody/latents#results",
    }
    config = timm.get_pretrained_cfg("toy_latents_tiny")
    assert (config.license, config.paper_ids, config.first_conv) == ("mit", "arXiv:2103.03206", "stem")
    assert attnzoo.published("toy_latents_pico") == {}
    assert timm.get_pretrained_cfg("toy_latents_pico").license is None
    with pytest.raises(RuntimeError, match="No pretrained weights"):
        timm.create_model("toy_latents_pico", pretrained=True)


def test_an_official_checkpoint_is_renamed(tmp_path) -> None:
    model = timm.create_model("toy_latents_pico")
    path = tmp_path / "official.pth"
    torch.save({"state_dict": {f"perceiver.{name}": x for name, x in model.state_dict().items()}}, path)
    loaded = timm.create_model("toy_latents_pico", pretrained=True, pretrained_cfg_overlay={"file": str(path)})
    assert all(torch.equal(x, loaded.state_dict()[name]) for name, x in model.state_dict().items())


class Patches(nn.Module):
    """Images to maps (B, H, W, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, DIM, PATCH, PATCH)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, H', W', C)."""
        return self.conv(x).permute(0, 2, 3, 1)


class Drop(nn.Module):
    """Keeps every second token of the map, the last first."""

    def __init__(self, prefix: int) -> None:
        super().__init__()
        self.prefix = prefix

    def forward(self, tokens: Tokens) -> Tokens:
        """Tokens -> half of them."""
        count = tokens.height * tokens.width
        kept = torch.arange(count - 1, -1, -2).expand(tokens.x.shape[0], -1)
        of_map = tokens.x[:, self.prefix :].gather(1, kept.unsqueeze(-1).expand(-1, -1, tokens.x.shape[2]))
        return Tokens(torch.cat([tokens.x[:, : self.prefix], of_map], 1), tokens.height, tokens.width, kept)


def of_tokens(prefix: int, drops: bool = False, **head: Any) -> IsotropicTokens:
    def block() -> nn.Module:
        return TokenBlock(DIM, PlainAttention(DIM, 2), mlp=PlainMlp(DIM, 2 * DIM))

    stages = [TokenStage(None, [block()]), TokenStage(None, [*([Drop(prefix)] if drops else []), block()])]
    stem = TokenStem(Patches(), DIM, num_prefix_tokens=prefix)
    return IsotropicTokens(
        stem, stages, dim=DIM, patch_size=PATCH, num_prefix_tokens=prefix, norm=nn.LayerNorm(DIM), num_classes=4, **head
    ).eval()


@pytest.mark.parametrize("drops", [False, True], ids=["all tokens", "half of them"])
@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_any_number_of_prefix_tokens(prefix: int, drops: bool) -> None:
    model, images = of_tokens(prefix, drops), torch.randn(2, 3, 24, 40)
    kept = 8 if drops else 15
    assert model.forward_features(images).shape == (2, prefix + kept, DIM)
    assert model(images).shape == (2, 4)
    assert [tuple(x.shape) for x in model.forward_intermediates(images, intermediates_only=True)] == [
        (2, DIM, 3, 5)
    ] * 2
    assert model.head.pool_type == ("token" if prefix else "avg")
    assert torch.equal(torch.jit.script(model)(images), model(images))


def test_tokens_that_were_dropped_are_zeros_of_the_map() -> None:
    model, images = of_tokens(1, drops=True), torch.randn(2, 3, 24, 40)
    last = model.forward_intermediates(images, indices=[1], norm=False, intermediates_only=True)[0]
    seen = (last != 0).any(1).flatten(1)
    assert seen.tolist() == [[index % 2 == 0 for index in range(15)]] * 2
    # rows and columns as they were: the tokens came in reverse
    tokens = model.stages[1](model.stages[0](model.stem(images)))
    assert torch.equal(last[:, :, 2, 4], tokens.x[:, 1])
    assert torch.equal(last[:, :, 0, 0], tokens.x[:, -1])


def test_a_token_is_pooled_only_where_there_is_one() -> None:
    with pytest.raises(ValueError, match="there is no prefix token"):
        of_tokens(0, global_pool="token")
    model = of_tokens(0)
    with pytest.raises(ValueError, match="there is no prefix token"):
        model.reset_classifier(2, "token")
