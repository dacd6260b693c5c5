"""Tests specific to OverLoCK: the auxiliary head, fusing, re-parameterised files, small images, 16 bits."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnzoo import published
from attnzoo.blocks import ContMix, DilatedReparamConv, FocusBlock, ReparamConvBlock
from attnzoo.overlock import OverLoCK
from benchmarks.official.overlock import official as official_formulation

from ..blocks.norms import shaken


def create(name: str = "overlock_pico", **kwargs: object) -> OverLoCK:
    """Returns a network in which every branch has an effect."""
    model = timm.create_model(name, **{"aux_head": True, **kwargs})
    for name, p in model.named_parameters():
        if p.ndim > 1:
            nn.init.normal_(p, std=1 / math.sqrt(p[0].numel()))
        elif name.endswith("gamma"):
            nn.init.normal_(p)
    for p in (p for name, p in model.named_parameters() if "rpb" in name):
        nn.init.normal_(p)
    shaken(model)
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        # below 1, because deep sums of branches would grow too large
        nn.init.uniform_(norm.weight, 0.5, 1)
    return model


def load(state_dict: dict[str, object], folder: Path, name: str = "overlock_pico", **kwargs: object) -> nn.Module:
    path = folder / "weights.pth"
    torch.save(state_dict, path)
    arguments = {"aux_head": True, **kwargs}
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **arguments).eval()


def answer(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


def error(ours: Tensor, expected: Tensor) -> float:
    return ((ours - expected).abs().max() / expected.abs().max()).item()


def merged(model: OverLoCK) -> dict[str, Tensor]:
    """Returns the state dict with every sum of branches merged into one convolution, and nothing else changed."""
    result = dict(model.state_dict())
    for name, module in model.named_modules():
        if isinstance(module, DilatedReparamConv):
            inside = [key for key in result if key.startswith((f"{name}.large.", f"{name}.dilated."))]
            for key in inside:
                del result[key]
            conv = module.merge().conv
            result |= {f"{name}.conv.weight": conv.weight.detach(), f"{name}.conv.bias": conv.bias.detach()}
    return result


@pytest.mark.parametrize(
    ("name", "blocks", "focus", "dims", "heads", "drop_path", "crop"),
    [
        ("overlock_xt", (2, 2, 3, 2), (6, 2), (56, 112, 256, 336), (8, 12), 0.1, 0.925),
        ("overlock_t", (4, 4, 6, 2), (12, 2), (64, 128, 256, 512), (8, 16), 0.15, 0.95),
        ("overlock_s", (6, 6, 8, 3), (16, 3), (64, 128, 320, 512), (16, 32), 0.4, 0.95),
        ("overlock_b", (8, 8, 10, 4), (20, 4), (80, 160, 384, 576), (12, 18), 0.5, 0.975),
    ],
)
def test_constants(
    name: str,
    blocks: tuple[int, ...],
    focus: tuple[int, ...],
    dims: tuple[int, ...],
    heads: tuple[int, ...],
    drop_path: float,
    crop: float,
) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    first, second, third, fourth = model.stages
    static = [first.blocks, second.blocks, third.base, third.overview[1:]]
    assert tuple(len(path) for path in static) == blocks
    assert (len(third.blocks), len(fourth.blocks)) == focus
    assert tuple(len(path[0].norm.weight) for path in static) == dims
    assert [path[0].mixer.kernel_size for path in static] == [17, 15, 13, 7]
    assert [path[0].mlp.fc1.out_features for path in static] == [4 * dim for dim in dims]
    assert [isinstance(path[0].ls, nn.Identity) for path in static] == [True, True, False, False]
    for stage, dim, count, kernel in zip((third, fourth), dims[2:], heads, (13, 7), strict=True):
        for block in stage.blocks:
            assert (block.mixer.num_heads, block.mixer.kernel_size, block.mixer.small_kernel_size) == (count, kernel, 5)
            assert block.mlp.fc1.out_features == 3 * dim
    assert [block.refreshed for block in third.blocks] == [False] + [True] * (focus[0] - 1)
    assert all(block.refreshed for block in fourth.blocks)
    # in the order base, overview, focus
    order = [block for path in [*static, third.blocks, fourth.blocks] for block in path]
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in order]
    assert rates == pytest.approx(torch.linspace(0, drop_path, len(order)).tolist())
    cfg = timm.get_pretrained_cfg(name)
    assert cfg.crop_pct == crop
    assert cfg.url.endswith(f"/v1/{name}_in1k_224.pth")


@pytest.mark.parametrize("name", ["overlock_xt", "overlock_t", "overlock_s", "overlock_b"])
def test_published_parameters_are_the_inference_networks(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, aux_head=False)
    extra = (".dilated.", ".large.norm.")
    counted = sum(p.numel() for key, p in model.named_parameters() if not any(part in key for part in extra))
    assert round(counted / 1e6) == published(name)["params_m"]


def test_the_auxiliary_head_answers_in_training_only() -> None:
    model, x = create(num_classes=5), torch.randn(2, 3, 64, 64)
    main, auxiliary = model.train()(x)
    assert main.shape == auxiliary.shape == (2, 5)
    assert not torch.equal(main, auxiliary)
    assert answer(model.eval(), x).shape == (2, 5)
    assert isinstance(create(num_classes=5, aux_head=False).train()(x), Tensor)
    assert not any(key.startswith("aux_head") for key in create(aux_head=False).state_dict())


def test_without_being_asked_there_is_one_classifier() -> None:
    model = timm.create_model("overlock_pico", num_classes=5).train()
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 5)
    assert model.aux_head is None


def test_other_norms_and_replaced_weights_are_used() -> None:
    model, x = create(num_classes=5).eval(), torch.randn(1, 3, 64, 64)
    expected = answer(model, x)
    mixer = model.stages[3].blocks[0].mixer
    nn.utils.parametrizations.weight_norm(mixer.weights)
    assert error(answer(model, x), expected) < 1e-5
    branch = model.stages[0].blocks[0].mixer
    branch.norm = nn.GroupNorm(1, len(branch.norm.weight))
    model.eval()
    changed = answer(model, x)
    assert error(changed, expected) > 1e-3
    # the layers with other norms stay; a second call changes nothing
    for _ in range(2):
        assert error(answer(model.fuse(), x), changed) < 1e-4
    model(x).sum().backward()
    assert mixer.weights.parametrizations.weight.original1.grad.any()


def test_runs_on_the_meta_device() -> None:
    with torch.device("meta"), torch.no_grad():
        assert timm.create_model("overlock_pico", num_classes=5).eval()(torch.empty(1, 3, 64, 64)).shape == (1, 5)


def test_the_auxiliary_head_reads_the_overview_alone() -> None:
    model = create(num_classes=5).train()
    _, auxiliary = model(torch.randn(2, 3, 64, 64))
    auxiliary.sum().backward()
    learned = {name for name, p in model.named_parameters() if p.grad is not None}
    assert {"aux_head.fc.weight", "stages.2.overview.0.conv.weight", "stem.0.conv.weight"} <= learned
    assert not any(name.startswith(("stages.2.blocks", "stages.2.context", "stages.3", "head")) for name in learned)


def test_both_classifiers_are_replaced() -> None:
    model, x = create(num_classes=5).train(), torch.randn(2, 3, 64, 64)
    mean = model.aux_head.norm.running_mean
    model.reset_classifier(3)
    assert [logits.shape for logits in model(x)] == [(2, 3), (2, 3)]
    # layers that do not depend on the classes are kept
    assert model.aux_head.norm.running_mean is mean
    model.reset_classifier(0)
    assert isinstance(model(x), Tensor)
    assert model.aux_head is None
    model.reset_classifier(4)
    assert [logits.shape for logits in model(x)] == [(2, 4), (2, 4)]


def test_features_have_no_heads_and_every_parameter_learns() -> None:
    model = timm.create_model("overlock_pico", features_only=True)
    assert not any("head" in name for name in model.state_dict())
    sum(x.square().mean() for x in model(torch.randn(2, 3, 64, 64))).backward()
    # timm keeps the last norm, which is not used
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert all(name.startswith("model.norm.") for name in missing)


def test_checkpointing_changes_nothing_in_training_either() -> None:
    model, x = create(num_classes=5).train(), torch.randn(2, 3, 64, 64)
    answers, gradients = [], []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        main, auxiliary = model(x)
        (main.square().sum() + auxiliary.square().sum()).backward()
        answers.append(torch.stack([main, auxiliary]))
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert torch.equal(*answers)
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("size", [(224, 224), (160, 224), (64, 64), (33, 97)], ids=str)
def test_fusing_changes_nothing(size: tuple[int, int]) -> None:
    model = create()
    x = torch.randn(2, 3, *size)
    expected = answer(model, x)
    model.fuse()
    assert error(answer(model, x), expected) < 1e-5
    assert not any(isinstance(module, nn.BatchNorm2d) for name, module in model.named_modules() if "aux" not in name)
    assert not any(isinstance(module, DilatedReparamConv) for module in model.modules())


@pytest.mark.parametrize("is_merged", [False, True], ids=["branches", "merged"])
@pytest.mark.parametrize("size", [(224, 224), (160, 224), (96, 64)], ids=str)
def test_the_official_formulation_agrees(size: tuple[int, int], is_merged: bool) -> None:
    model = create().double()
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = answer(model, x)
    assert error(answer(official_formulation(model, is_merged), x), expected) < 1e-11
    # the model itself is unchanged
    assert torch.equal(answer(model, x), expected)


def test_the_official_formulation_is_of_evaluation_mode() -> None:
    with pytest.raises(ValueError, match=r"call \.eval\(\) first"):
        official_formulation(create().train())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_training_in_16_bits_stays_finite(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    model = timm.create_model("overlock_pico", num_classes=4, aux_head=True).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    # four classes of images with different means
    x, labels = torch.randn(8, 3, 64, 64), torch.arange(8) % 4
    x = x + labels[:, None, None, None]
    losses = []
    for _ in range(20):
        with torch.autocast("cpu", dtype):
            main, auxiliary = model(x)
            loss = F.cross_entropy(main.float(), labels) + 0.4 * F.cross_entropy(auxiliary.float(), labels)
        # loss scaling, because small gradients underflow in float16
        (loss * 1024).backward()
        for name, p in model.named_parameters():
            assert p.grad.isfinite().all(), name
            p.grad.div_(1024)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < 0.5 * losses[0]


def test_autocast_keeps_the_shortcut_in_float32() -> None:
    model = create()
    seen = []
    for module in model.modules():
        if isinstance(module, (FocusBlock, ReparamConvBlock)) and not isinstance(getattr(module, "ls", 0), nn.Identity):
            module.register_forward_hook(lambda module, given, out: seen.append(out.dtype))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = model(torch.randn(1, 3, 96, 128))
    assert set(seen) == {torch.float32}
    assert logits.isfinite().all()


@pytest.mark.parametrize("wrap", [None, "state_dict"])
@pytest.mark.parametrize("is_merged", [False, True], ids=["branches", "merged"])
def test_own_state_dicts_load(is_merged: bool, wrap: str | None, tmp_path: Path) -> None:
    model, x = create(), torch.randn(1, 3, 64, 96)
    weights = merged(model) if is_merged else model.state_dict()
    again = load({wrap: weights} if wrap else weights, tmp_path)
    assert any(isinstance(module, DilatedReparamConv) for module in again.modules()) != is_merged
    assert error(answer(again, x), answer(model, x)) < 1e-5
    # a merged model can be trained and fused
    again.train()(torch.randn(2, 3, 64, 64))
    again = load({wrap: weights} if wrap else weights, tmp_path).fuse()
    assert error(answer(again, x), answer(model, x)) < 1e-5


def test_a_re_parameterised_file_may_lack_the_auxiliary_head(tmp_path: Path) -> None:
    weights = {key: value for key, value in merged(create()).items() if not key.startswith("aux_head")}
    model = load(weights, tmp_path)
    assert model.aux_head.fc.weight.std().item() == pytest.approx(0.02, rel=0.1)
    plain = {key: value for key, value in create().state_dict().items() if not key.startswith("aux_head")}
    with pytest.raises(RuntimeError, match=r"Missing key.*aux_head\.norm\.weight"):
        load(plain, tmp_path)


def test_a_model_without_the_auxiliary_head_takes_any_file(tmp_path: Path) -> None:
    model, x = create(), torch.randn(1, 3, 64, 64)
    assert torch.equal(answer(load(model.state_dict(), tmp_path, aux_head=False), x), answer(model, x))


def test_a_file_of_other_classes_fills_all_but_the_classifiers(tmp_path: Path) -> None:
    model = create()
    again = load(model.state_dict(), tmp_path, num_classes=7)
    assert again.head.fc.out_features == again.aux_head.fc.out_features == 7
    assert torch.equal(again.aux_head.norm.weight, model.aux_head.norm.weight)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again.forward_features(x), model.forward_features(x))


def test_a_file_that_does_not_match_is_refused(tmp_path: Path) -> None:
    weights = create().state_dict()
    del weights["stages.3.blocks.0.mixer.rpb2"]
    with pytest.raises(RuntimeError, match=r"Missing key.*stages\.3\.blocks\.0\.mixer\.rpb2"):
        load(weights, tmp_path)
    for weights in (create().state_dict(), merged(create())):
        with pytest.raises(RuntimeError, match=r"Unexpected key.*extra\.weight"):
            load({**weights, "extra.weight": torch.zeros(1)}, tmp_path)


def test_the_overview_comes_before_the_focus_in_depth() -> None:
    matcher = timm.models.group_parameters(create(), create().group_matcher())
    depth = {name: group for group, names in matcher.items() for name in names}
    order = [
        "stem.0.conv.weight",
        "stages.0.blocks.0.norm.weight",
        "stages.1.blocks.0.norm.weight",
        "stages.2.base.0.norm.weight",
        "stages.2.overview.0.conv.weight",
        "stages.2.overview.1.norm.weight",
        "stages.2.blocks.0.norm1.weight",
        "stages.2.blocks.1.norm1.weight",
        "stages.3.blocks.0.norm1.weight",
    ]
    depths = [depth[name] for name in order]
    assert depths == sorted(depths)
    assert len(set(depths)) == len(depths)
    assert depth["stages.2.context.weight"] == depth["stages.2.overview.1.norm.weight"]
    # a downsampler has the depth of the block after it
    assert depth["stages.3.downsample.map.conv.weight"] == depth["stages.3.blocks.0.norm1.weight"]


def test_small_images_enlarge_the_maps() -> None:
    model = create("overlock_xt", num_classes=3)
    sizes = []
    for module in model.modules():
        if isinstance(module, ContMix):
            module.query.register_forward_hook(lambda module, given, out: sizes.append(tuple(out.shape[1:3])))
    answer(model, torch.randn(1, 3, 160, 224))
    assert set(sizes) == {(13, 18), (7, 9)}


def test_large_affinities_are_finite_in_float16_where_the_official_formulation_is_not() -> None:
    model = create()
    for module in model.modules():
        if isinstance(module, ContMix):
            for norm in (module.query.norm, module.key.norm):
                nn.init.constant_(norm.weight, 300)
    theirs, x = official_formulation(model), torch.randn(1, 3, 96, 128)
    with torch.autocast("cpu", torch.float16):
        assert answer(theirs, x).isnan().any()
        ours = answer(model, x)
    assert ours.isfinite().all()
