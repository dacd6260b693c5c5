"""The timm model interface, tested for a small variant of every family: timm's own model tests and more."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from timm.layers import set_scriptable
from timm.models import save_for_hf
from timm.models._features_fx import get_notrace_functions, get_notrace_modules
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from attnzoo.base import checkpoint_filter

from ..tiers import quick
from .models import ARGUMENTS, MAPPED, SMALL, map_side, ours

# one for each operator, and the network whose stages pass on more than a map
FULLGRAPH = ["nat_pico", "swin_pico", "biformer_pico", "halonet_pico", "plainmamba_pico", "overlock_pico"]


def small(test: Callable[..., None]) -> Callable[..., None]:
    """A test of every small member; the quick suite takes turns, so that each member has every third test."""
    return pytest.mark.in_turns(pytest.mark.parametrize("name", SMALL)(test))


def mapped(test: Callable[..., None]) -> Callable[..., None]:
    """A test of every small member with feature maps, in turns, too."""
    return pytest.mark.in_turns(pytest.mark.parametrize("name", MAPPED)(test))


def images(height: int = 64, width: int = 64, batch: int = 1, channels: int = 3) -> torch.Tensor:
    return torch.randn(batch, channels, height, width)


def channels_first(model: nn.Module, x: torch.Tensor, size: tuple[int, int] = (64, 64)) -> torch.Tensor:
    """Converts the features of an image to channel-first, without a class token."""
    if x.ndim == 3:
        rows, columns = (math.ceil(side / model.feature_info[-1]["reduction"]) for side in size)
        x = x[:, model.num_prefix_tokens :].unflatten(1, (rows, columns))
    return x.permute(0, 3, 1, 2) if model.output_fmt == "NHWC" else x


def logits(answer: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Concatenates the outputs of a network in training, including auxiliary heads."""
    return torch.cat(answer) if isinstance(answer, tuple) else answer


def create(name: str, **kwargs: object) -> nn.Module:
    return timm.create_model(name, **ARGUMENTS.get(name, {}), **kwargs).eval()


@pytest.mark.parametrize("name", [name for name in ours() if name.endswith("_pico")])
def test_ours_are_small(name: str) -> None:
    assert sum(p.numel() for p in create(name).parameters()) <= 2e6


@small
def test_a_checkpoint_of_ours_stays(name: str) -> None:
    model = create(name)
    weights = model.state_dict()
    for wrapped in (weights, {"state_dict": weights}, {"model": weights}):
        found = checkpoint_filter(name)(wrapped, model)
        assert list(found) == list(weights)
        assert all(torch.equal(found[key], weights[key]) for key in weights)


@mapped
@pytest.mark.parametrize("size", [(32, 32), (65, 97), (96, 64)], ids=["smallest", "odd", "landscape"])
def test_any_size(name: str, size: tuple[int, int]) -> None:
    model = create(name, num_classes=5)
    with torch.no_grad():
        assert model(images(*size, batch=2)).shape == (2, 5)
        features = model.forward_features(images(*size))
    reduction = model.feature_info[-1]["reduction"]
    height, width = (map_side(name, side, reduction) for side in size)
    assert channels_first(model, features, size).shape == (1, model.num_features, height, width)


@mapped
def test_pieces_make_the_whole(name: str) -> None:
    model, x = create(name, num_classes=7), images()
    with torch.no_grad():
        features = model.forward_features(x)
        assert torch.equal(model.forward_head(features), model(x))
        pooled = model.forward_head(features, pre_logits=True)
        assert pooled.shape == (1, model.head_hidden_size)
        assert torch.equal(model.get_classifier()(pooled), model(x))
        final, stages = model.forward_intermediates(x, norm=True)
        assert torch.equal(final, features)
        assert torch.equal(stages[-1], channels_first(model, features))


@mapped
def test_intermediates(name: str) -> None:
    model, x = create(name), images(64, 96)
    count = len(model.feature_info)
    with torch.no_grad():
        everything = model.forward_intermediates(x, intermediates_only=True)
        assert len(everything) == count
        two = model.forward_intermediates(x, indices=2, intermediates_only=True)
        assert all(torch.equal(a, b) for a, b in zip(two, everything[-2:], strict=True))
        (first,) = model.forward_intermediates(x, indices=[0], intermediates_only=True, stop_early=True)
        assert torch.equal(first, everything[0])
        channels_last = model.forward_intermediates(x, output_fmt="NHWC", intermediates_only=True)
        assert torch.equal(channels_last[1].permute(0, 3, 1, 2), everything[1])
    with pytest.raises(ValueError, match="output_fmt must be NCHW or NHWC, got 'NLC'"):
        model.forward_intermediates(x, output_fmt="NLC")


@mapped
def test_features_only_tells_the_truth(name: str) -> None:
    whole = create(name)
    model = create(name, features_only=True)
    model.load_state_dict({f"model.{key}": value for key, value in whole.state_dict().items()}, strict=False)
    x = images(70, 93)
    with torch.no_grad():
        maps = model(x)
        expected = whole.forward_intermediates(x, intermediates_only=True)
    assert len(maps) == len(model.feature_info.channels()) >= 3
    for found, wanted, channels, reduction in zip(
        maps, expected, model.feature_info.channels(), model.feature_info.reduction(), strict=True
    ):
        assert found.shape == (1, channels, map_side(name, 70, reduction), map_side(name, 93, reduction))
        assert torch.equal(found, wanted)
    assert not any(key.startswith("model.head") for key in model.state_dict())


@mapped
def test_features_can_be_chosen(name: str) -> None:
    model = create(name, features_only=True, out_indices=(0, 1))
    with torch.no_grad():
        assert [x.shape[1] for x in model(images())] == model.feature_info.channels()
    assert len(model.model.stages) == 2


@mapped
def test_prune(name: str) -> None:
    model = create(name)
    assert model.prune_intermediate_layers(indices=[0, 1], prune_norm=True) == [0, 1]
    assert len(model.stages) == 2
    assert isinstance(getattr(model, "norm", nn.Identity()), nn.Identity)
    assert model.num_classes == 0


@small
def test_reset_classifier(name: str) -> None:
    model, x = create(name, num_classes=3), images()
    model.reset_classifier(11)
    assert model.num_classes == 11
    with torch.no_grad():
        assert model(x).shape == (1, 11)
        model.reset_classifier(0)
        assert model(x).shape == (1, model.head_hidden_size)
        model.reset_classifier(0, "")
        assert torch.equal(model(x), model.forward_features(x))
        assert create(name, num_classes=0, global_pool="")(x).shape == model(x).shape


@small
def test_every_parameter_learns(name: str) -> None:
    model = create(name, num_classes=4).train()
    logits(model(images(batch=2))).square().mean().backward()
    learning = [(key, p) for key, p in model.named_parameters() if p.requires_grad]
    missing = [key for key, p in learning if p.grad is None or not p.grad.isfinite().all()]
    assert missing == []


@small
def test_gradient_checkpointing_changes_nothing(name: str) -> None:
    model, x = create(name, num_classes=4), images(batch=2)
    plain = logits(model(x))
    plain.sum().backward()
    # in evaluation mode an auxiliary head is not used
    used = [(key, p) for key, p in model.named_parameters() if p.requires_grad and not key.startswith("aux_head.")]
    grads = {key: p.grad.clone() for key, p in used}
    model.zero_grad()
    model.set_grad_checkpointing()
    again = logits(model(x))
    again.sum().backward()
    assert torch.equal(plain, again)
    for key, grad in grads.items():
        torch.testing.assert_close(model.get_parameter(key).grad, grad, msg=key)


@small
def test_parameter_groups(name: str) -> None:
    model = create(name)
    tables = {key for key, _ in model.named_parameters() if key.endswith(model.undecayed)}
    assert tables == model.no_weight_decay()
    decayed, plain = sorted(
        param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay()),
        key=lambda group: -group["weight_decay"],
    )
    assert {id(p) for p in plain["params"]} >= {id(p) for key, p in model.named_parameters() if key in tables}
    assert decayed["weight_decay"] == 0.05
    groups = param_groups_layer_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay(), layer_decay=0.7)
    scales = sorted({group["lr_scale"] for group in groups})
    # the stages of timm's ResNet are sequences of blocks
    blocks = sum(len(getattr(stage, "blocks", stage)) for stage in getattr(model, "stages", [model]))
    assert len(scales) >= blocks
    assert scales[-1] == 1.0


@small
def test_other_channels_and_dropout(name: str) -> None:
    model = create(name, in_chans=1, num_classes=2, drop_rate=0.1, drop_path_rate=0.1).train()
    assert logits(model(images(channels=1, batch=2))).shape[1] == 2


@small
def test_projections_drop_out(name: str) -> None:
    if "proj_drop_rate" not in inspect.signature(type(create(name)).__init__).parameters:
        pytest.skip("convolutional families have no projections")
    torch.manual_seed(0)
    model = create(name, num_classes=2, proj_drop_rate=0.5).train()
    x = images(batch=2)
    assert not torch.equal(logits(model(x)), logits(model(x)))
    assert torch.equal(model.eval()(x), model(x))


@small
def test_trains_under_autocast(name: str) -> None:
    torch.manual_seed(0)
    model = create(name, num_classes=4).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = logits(model(images(batch=2))).float().square().mean()
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@small
def test_fused_computes_the_same(name: str) -> None:
    torch.manual_seed(0)
    model, x = create(name, num_classes=4), images(70, 93, batch=2)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    with torch.no_grad():
        expected = model(x)
        fused = model.fuse()
        assert fused is model
        torch.testing.assert_close(fused(x), expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    with pytest.raises(ValueError, match=r"call \.eval\(\) first"):
        model.train().fuse()


@small
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_dtypes(name: str, dtype: torch.dtype) -> None:
    model, x = create(name, num_classes=4), images()
    with torch.no_grad():
        expected = model(x)
        ours = model.to(dtype)(x.to(dtype))
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.float(), expected, atol=0.05, rtol=0.05)


@small
def test_channels_last_images(name: str) -> None:
    model, x = create(name), images(48, 80)
    with torch.no_grad():
        torch.testing.assert_close(model(x.to(memory_format=torch.channels_last)), model(x), atol=1e-5, rtol=1e-4)


@small
def test_an_empty_batch_and_images_of_bytes(name: str) -> None:
    model = create(name, num_classes=4)
    with torch.no_grad():
        assert model(images(batch=0)).shape == (0, 4)
        with pytest.raises((RuntimeError, TypeError)):
            model(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


@mapped
def test_outputs_of_layers_become_maps(name: str) -> None:
    model, x = create(name, num_classes=4, img_size=64, dynamic_img_size=True), images()
    second, last, seen = model.feature_info[1]["module"], "norm" if hasattr(model, "norm") else "layer4", {}
    for key in (second, last):
        model.get_submodule(key).register_forward_hook(lambda *call, key=key: seen.update({key: call[2]}))
    with torch.no_grad():
        final, maps = model.forward_intermediates(x)
    assert torch.equal(model.reshape_transform(seen[second]), maps[1])
    assert torch.equal(model.reshape_transform(seen[last]), channels_first(model, final))


@small
def test_parameters_are_channels_last(name: str) -> None:
    model, x = create(name, num_classes=4), images(batch=2)
    with torch.no_grad():
        expected = model(x)
        other = model.to(memory_format=torch.channels_last)
        torch.testing.assert_close(other(x), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", quick(SMALL, ["agent_cswin_pico", "biformer_pico", "twins_svt_pico", "vitrpb_pico"]))
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
def test_traces_and_is_stored(name: str, tmp_path: Path) -> None:
    model = create(name, num_classes=4)
    torch.jit.save(torch.jit.trace(model, images(64, 96, batch=2)), tmp_path / "model.pt")
    x = images(64, 96, batch=2)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(tmp_path / "model.pt")(x), model(x), atol=1e-5, rtol=1e-4)


@mapped
def test_features_by_name(name: str) -> None:
    extraction = pytest.importorskip("torchvision.models.feature_extraction")
    model, x = create(name, num_classes=4), images()
    leaves = {"leaf_modules": get_notrace_modules(), "autowrap_functions": get_notrace_functions()}
    last = "head" if hasattr(model, "head") else "fc"
    nodes = [model.feature_info[0]["module"], last]
    extractor = extraction.create_feature_extractor(model, nodes, tracer_kwargs=leaves)
    with torch.no_grad():
        assert torch.equal(extractor(x)[last], model(x))


@pytest.mark.parametrize("name", quick(SMALL, FULLGRAPH))
def test_compiles_without_graph_breaks(name: str) -> None:
    model, x = create(name, num_classes=4), images()
    torch.compiler.reset()
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), model(x), atol=1e-5, rtol=1e-4)


@small
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_scripts(name: str) -> None:
    with set_scriptable(True):
        model = create(name, num_classes=4)
    x = images()
    with torch.no_grad():
        # a scripted model runs plain linear layers where a module may use faster paths
        torch.testing.assert_close(torch.jit.script(model)(x), model(x), atol=1e-5, rtol=1e-4)


def test_local_directory_round_trip(tmp_path: Path) -> None:
    model, x = create("nat_pico", num_classes=6), images()
    save_for_hf(model, str(tmp_path), model_args={"num_classes": 6}, safe_serialization=True)
    again = create(f"local-dir:{tmp_path}", pretrained=True)
    with torch.no_grad():
        assert torch.equal(model(x), again(x))
