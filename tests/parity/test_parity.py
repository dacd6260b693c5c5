"""Official checkpoints, loaded through timm, give the official logits."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

import attnzoo  # noqa: F401  registers

from .recipe import PATHS, Case, load_case, readable, relative_error

# modules and options of other networks have tests of their own
NETWORKS = [path for path in PATHS if not path.stem.startswith(("module_", "sigma_reparam_"))]

# indices of the recorded stages that match ours, where they differ; None for a stage that was not recorded
RECORDED: dict[str, tuple[int | None, ...]] = {
    **dict.fromkeys(("overlock_xt", "overlock_t"), (0, 1, 4, 5)),
    "dhvt_tiny": (None, 2, None, 3),
    "tap_rvt_tiny_plus": (None, None, None),
    "sparsifiner_s": (None, None, None, None),
    "ninformer_cifar10": (0, None, None, 1),
    "gfnet_ti": (None, 1, None, 2),
    "plainmamba_l1": (None, 2, None, 3),
    "spectformer_xs": (1, None, None, 2),
    "fftnet_vit_base": (None, None, None, 2),
    # stages end with a norm here
    "spectformer_h_s": (None, None, None, 3),
    # it has no maps
    "perceiver_conv": (),
}

# float64 differences of networks that round more: float32 and float64 of ours differ by as much. A wrong epsilon in the
# norms of PlainMamba's blocks gives 2e-4
ROUNDED = {"plainmamba_l1": 4e-6}

# cases whose stages end with the downsampler that is part of our next stage
AFTER_MERGING = ("litv2_s", "ravlt_t")


def create(case: Case, folder: Path) -> nn.Module:
    path = folder / "official.pth"
    # `model (and a remark)`, or nothing for weights without a key
    key = (case.facts.get("checkpoint_key") or case.facts.get("state_dict_key") or "bare").split()[0]
    torch.save({key: case.checkpoint} if key in ("model", "state_dict") else case.checkpoint, path)
    # the official network has its auxiliary head
    parts = {"aux_head": True} if case.name.startswith("overlock") else {}
    return timm.create_model(name_of(case), pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **parts).eval()


def name_of(case: Case) -> str:
    """Returns the model of a case: its name, with the prefix `zoo_` if timm has the same name."""
    return case.name if timm.is_model(case.name) and not in_timm(case.name) else f"zoo_{case.name}"


def sampled(stage: Tensor, shape: list[int]) -> Tensor:
    """Returns every k-th value of a stage in the official layout, with NaN for a missing class token."""
    if len(shape) == 3:
        tokens = stage.flatten(2).transpose(1, 2)
        missing = torch.full_like(tokens[:, : shape[1] - tokens.shape[1]], torch.nan)
        stage = torch.cat([missing, tokens], 1)
    elif list(stage.shape) != shape:
        stage = stage.permute(0, 2, 3, 1)
    assert list(stage.shape) == shape
    return stage.flatten()[:: max(1, stage.numel() // 512)]


def as_recorded(model: nn.Module, name: str, stages: list[Tensor]) -> list[Tensor]:
    """Returns stages (B, C, H, W) that end like those of the case."""
    if name not in AFTER_MERGING:
        return stages
    ends = [*(stage.downsample for stage in model.stages[1:]), nn.Identity()]
    return [end(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for end, x in zip(ends, stages, strict=True)]


def in_timm(name: str) -> bool:
    return timm.models.model_entrypoint(name).__module__.startswith("timm.")


def rounding_decides(model: nn.Module, images: Tensor) -> bool:
    """Whether two scores of a network that chooses by rank are so close that their order depends on the processor."""
    if not any(getattr(module, "chooses_by_rank", False) for module in model.modules()):
        return False
    return relative_error(model(images), copy.deepcopy(model).double()(images.double())) > 2e-5


@pytest.mark.parametrize("path", NETWORKS, ids=readable)
def test_network(path: Path, tmp_path: Path) -> None:
    case = load_case(path)
    model, images = create(case, tmp_path), case.images
    with torch.no_grad():
        if rounding_decides(model, images):
            model, images = model.double(), images.double()
        has_maps = hasattr(model, "forward_intermediates")
        features, stages = model.forward_intermediates(images) if has_maps else (model.forward_features(images), [])
        logits = model.forward_head(features)
        stages = as_recorded(model, case.name, stages)
    recorded = RECORDED.get(case.name, range(len(case.stage_shapes)))
    for i, stage in zip(recorded, stages, strict=True):
        if i is None:
            continue
        found, wanted = sampled(stage, case.stage_shapes[i]), case.answers[f"stage{i}"]
        found = found[: len(wanted)]
        known = ~found.isnan()
        assert known.sum() > 400
        assert relative_error(found[known], wanted[known]) < 1e-4
    # a network that chooses by rank has its own bar: one choice between near ties depends on the processor
    assert relative_error(logits, case.answers["logits"]) < case.facts.get("tolerance", 2e-5)
    assert sum(p.numel() for p in model.parameters()) == case.parameters


# the only check that detects a wrong epsilon: the float64 difference is the official network's rounding error
@pytest.mark.full
@pytest.mark.parametrize("path", NETWORKS, ids=readable)
def test_network_in_float64(path: Path, tmp_path: Path) -> None:
    case = load_case(path)
    model = create(case, tmp_path).double()
    with torch.no_grad():
        logits = model(case.images.double())
    error = relative_error(logits, case.answers["logits"])
    if "tolerance" in case.facts:
        assert error < case.facts["tolerance"]
    elif "float64_rel_diff" in case.facts:
        assert error == pytest.approx(case.facts["float64_rel_diff"], rel=1e-3)
    else:
        # the rounding error was not recorded; a wrong epsilon in all norms of one kind mostly gives more than 3e-6
        assert error < ROUNDED.get(case.name, 2e-6)
