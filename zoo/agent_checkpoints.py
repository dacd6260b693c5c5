"""Official checkpoints of Agent Attention and their timm configurations, shared by all its architectures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from attnzoo.blocks import PositionEmbedding, resize_bias_table, resize_line

from .base import Family, Renames, Variant, depths_of, in_stages, renamed, unwrapped
from .swin import RENAMES as SWIN_RENAMES
from .swin import table_by_head


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Converts an official checkpoint, or one of this project, to this project's names.

    Positions that were learned at another image size than the model's `img_size` are interpolated as in the official
    code for fine-tuning: the lines of agents linearly, tables of windows and absolute positions bicubically.
    """
    state_dict, depths = unwrapped(state_dict), depths_of(model)
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    result: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        if name.endswith(("relative_position_index", "attn_mask")):
            continue
        if ".attn.kv." in name:
            continue
        if ".attn.q." in name:
            # queries, keys and values have one projection here
            tensor = torch.cat([tensor, state_dict[name.replace(".attn.q.", ".attn.kv.")]])
        if name.endswith("relative_position_bias_table"):
            tensor = table_by_head(tensor)
        name = rename(name, depths)
        for one_body, another in _SYNONYMS:
            name = name if name in wanted else name.replace(one_body, another)
        result[name] = tensor
    sizes = {name: _learned_size(name, result) for name in result if name.endswith("position.table")}
    return {name: _fit(name, tensor, wanted.get(name), model, sizes.get(name)) for name, tensor in result.items()}


# Patterns of official parameter names, with our names. Our stages begin with a downsampler.
# Those of Swin and CSWin end with one.
_RENAMES: Renames = (
    (r"^module\.", ""),
    # PVT, whose indices start at one
    (r"^patch_embed1\.", "stem."),
    (r"^patch_embed(\d)\.proj\.", lambda match: f"stages.{int(match[1]) - 1}.downsample.reduction."),
    (r"^patch_embed(\d)\.norm\.", lambda match: f"stages.{int(match[1]) - 1}.downsample.norm."),
    (r"^pos_embed(\d)$", lambda match: f"stages.{int(match[1]) - 1}.position.table"),
    (r"^block(\d)\.", lambda match: f"stages.{int(match[1]) - 1}.blocks."),
    (r"\.attn\.q\.", ".attn.qkv."),
    # Swin and the classifier
    *SWIN_RENAMES,
    # CSWin, whose projections are outside of the attention
    (r"^stage1_conv_embed\.0\.", "stem.proj."),
    (r"^stage1_conv_embed\.2\.", "stem.norm."),
    (r"^merge(\d)\.conv\.", r"stages.\1.downsample.reduction."),
    (r"^merge(\d)\.norm\.", r"stages.\1.downsample.norm."),
    (r"^stage(\d)\.(\d+)\.", lambda match: f"stages.{int(match[1]) - 1}.blocks.{match[2]}."),
    (r"(\.blocks\.\d+)\.(qkv|proj)\.", r"\1.attn.\2."),
    (r"\.attns\.(\d)\.get_v\.", r".attn.dwc.\1."),
    (r"\.attns\.0\.", ".attn."),
    (r"\.attn\.([achnw]{2}_bias)$", r".attn.biases.\1"),
    # DeiT, whose blocks are in a single list
    (r"^cls_token$", "stem.class_token"),
    (r"^pos_embed$", "stem.position.table"),
)

# official names with different meanings in different architectures
_SYNONYMS = (".attn.dwc.0.", ".attn.dwc."), ("stem.proj.", "stem.patches.proj.")


def rename(name: str, depths: Sequence[int]) -> str:
    """Maps an official parameter name to ours, given the blocks per stage; a name that is already ours stays."""
    name = renamed(name, _RENAMES)
    return in_stages(name, depths)


def _learned_size(name: str, weights: dict[str, Tensor]) -> list[int] | None:
    """Returns the map size of absolute positions, read from the biases of the stage's first block; or None."""
    stage = name.removesuffix(".position.table").replace("stem", "stages.0")
    rows, columns = (weights.get(f"{stage}.blocks.0.attn.biases.{line}_bias") for line in ("ah", "aw"))
    return None if rows is None or columns is None else [rows.shape[3], columns.shape[4]]


def _fit(name: str, tensor: Tensor, shape: torch.Size | None, model: nn.Module, old_size: list[int] | None) -> Tensor:
    """Interpolates a position tensor to the shape of the model; other tensors are returned unchanged."""
    if shape is None or tensor.shape == shape or tensor.ndim != len(shape):
        return tensor
    if name.endswith(".rpb"):
        return resize_bias_table(tensor, ((shape[1] + 1) // 2, (shape[2] + 1) // 2))
    if re.search(r"\.[ahw]{2}_bias$", name):
        dim = next(dim for dim in range(tensor.ndim) if tensor.shape[dim] != shape[dim])
        return resize_line(tensor, shape[dim], dim)
    if name.endswith("position.table"):
        position = model.get_submodule(name.rpartition(".")[0])
        assert isinstance(position, PositionEmbedding)
        return resample_abs_pos_embed(
            tensor, list(position.map_size), old_size, num_prefix_tokens=position.class_tokens, antialias=False
        )
    return tensor


# takes the module, class, `first_conv` and `cfg` of an architecture
agent_family = partial(
    Family,
    checkpoint_filter_fn=checkpoint_filter_fn,
    code="https://github.com/LeapLabTHU/Agent-Attention",
    paper="2312.08874",
    license="unknown",
    source="/blob/master/agent_transformer/README.md",
)


def variant(
    family: Family,
    summary: str,
    weights: str,
    published: tuple[float, float, float],
    *,
    size: int = 224,
    cfg: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> Variant:
    """Returns a row of a table of variants.

    Args:
        family: the family of the variant.
        summary: one line that describes the variant.
        weights: name of the file on the authors' server.
        published: top-1 accuracy in percent, parameters in millions and multiply-adds in 10^9.
        size: side of the image that positions are learned at.
        cfg: fields of timm's configuration that differ.
        arguments: arguments of the family's class.
    """
    cfg = {"input_size": (3, size, size), "pool_size": (size // 32, size // 32), **family.cfg, **(cfg or {})}
    url = f"https://cloud.tsinghua.edu.cn/f/{weights}/?dl=1"
    return family.variant(summary, url, published, cfg=cfg, img_size=size, **arguments)
