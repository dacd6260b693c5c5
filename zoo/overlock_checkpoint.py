"""Conversion of official OverLoCK checkpoints, plain and re-parameterised."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from attnzoo.blocks import DilatedReparamConv

from .base import Renames, like, renamed, unwrapped


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Converts a checkpoint, official (plain or re-parameterised) or of this project, to this project's names.

    A re-parameterised checkpoint has one convolution where the model has branches. The branches of the model are
    replaced by a convolution before loading. Such a checkpoint can lack the auxiliary head, which then keeps its
    initial values.
    """
    result = {rename(name): tensor for name, tensor in unwrapped(state_dict).items()}
    if any(name.endswith(".large.conv.bias") for name in result):
        result = {name.replace(".large.conv.", ".conv."): tensor for name, tensor in result.items()}
    for name, module in list(model.named_modules()):
        if isinstance(module, DilatedReparamConv) and f"{name}.conv.bias" in result:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, module.merge())
    own = model.state_dict()
    is_merged = not any(isinstance(module, DilatedReparamConv) for module in model.modules())
    heads = {name: tensor for name, tensor in own.items() if name.startswith("aux_head.")}
    if is_merged and not any(name.startswith("aux_head.") for name in result):
        result.update(heads)
    return {
        name: like(tensor, own.get(name))
        for name, tensor in result.items()
        if heads or not name.startswith("aux_head.")
    }


# Patterns of official parameter names, with our names. Official convolutions and their norms have indices 0 and 1.
_NETWORK: Renames = (
    (r"^module\.", ""),
    (r"^patch_embed1\.(\d+)\.", lambda match: f"stem.{int(match[1]) // 3 * 2}.{int(match[1]) % 3}."),
    (r"^patch_embed([23])\.", lambda match: f"stages.{int(match[1]) - 1}.downsample."),
    (r"^patch_embed4\.", "stages.2.overview.0."),
    (r"^high_level_proj\.", "stages.2.context."),
    (r"^patch_embedx\.x_proj\.", "stages.3.downsample.map."),
    (r"^patch_embedx\.h_proj\.", "stages.3.downsample.context."),
    (r"^head\.4\.", "head.fc."),
    (r"^head\.([01])\.", r"norm.0.\1."),
    (r"^aux_head\.0\.", "aux_head.norm."),
    (r"^aux_head\.2\.", "aux_head.fc."),
    (r"^(stem\.\d|stages.*|norm\.0)\.0\.(\w+)$", r"\1.conv.\2"),
    (r"^(stem\.\d|stages.*|norm\.0)\.1\.(\w+)$", r"\1.norm.\2"),
    # blocks and their layers
    (r"^blocks([12])\.", lambda match: f"stages.{int(match[1]) - 1}.blocks."),
    (r"^blocks3\.", "stages.2.base."),
    (r"^blocks4\.(\d+)\.", lambda match: f"stages.2.overview.{int(match[1]) + 1}."),
    (r"^sub_blocks([34])\.(\d+)\.(.*)$", lambda m: f"stages.{int(m[1]) - 1}.blocks.{m[2]}.{rename_in_focus(m[3])}"),
    (r"\.dwconv\.", ".conv.conv."),
    (r"\.proj\.3\.proj\.", ".se."),
    (r"\.proj\.0\.", ".norm."),
    (r"\.proj\.1\.", ".mixer."),
    (r"\.proj\.2\.", ".mixer.norm."),
    (r"\.proj\.4\.", ".mlp.fc1."),
    (r"\.proj\.6\.", ".mlp.conv.conv."),
    (r"\.proj\.7\.", ".mlp.norm."),
    (r"\.proj\.8\.", ".mlp.fc2."),
    (r"\.se\.1\.", ".se.fc1."),
    (r"\.se\.3\.", ".se.fc2."),
    (r"\.lk_origin\.", ".large.conv."),
    (r"\.origin_bn\.", ".large.norm."),
    (r"\.dil_conv_(k\d+_\d+)\.", r".dilated.\1.conv."),
    (r"\.dil_bn_(k\d+_\d+)\.", r".dilated.\1.norm."),
)
_FOCUS_BLOCK: Renames = (
    (r"^x_scale\.", "context_scale."),
    (r"^h_scale\.", "prior_scale."),
    (r"^dwconv([12])\.", r"conv\1.conv."),
    (r"^mlp\.0\.", "mlp.fc1."),
    (r"^mlp\.2\.", "mlp.conv.conv."),
    (r"^mlp\.3\.", "mlp.norm."),
    (r"^mlp\.4\.", "mlp.fc2."),
    (r"^(rpb[12])$", r"mixer.\1"),
    (r"^fusion\.0\.", "mixer.fusion.0.conv."),
    (r"^fusion\.1\.", "mixer.fusion.0.norm."),
    (r"^fusion\.3\.", "mixer.fusion.2."),
    (r"^fusion\.4\.", "mixer.fusion.3."),
    (r"^gate\.0\.", "mixer.gate.0.conv."),
    (r"^gate\.1\.", "mixer.gate.0.norm."),
    (r"^lepe\.0\.", "mixer.static."),
    (r"^lepe\.1\.", "mixer.static.norm."),
    (r"^weight_query\.0\.", "mixer.query.conv."),
    (r"^weight_query\.1\.", "mixer.query.norm."),
    (r"^weight_key\.1\.", "mixer.key.conv."),
    (r"^weight_key\.2\.", "mixer.key.norm."),
    (r"^weight_proj\.", "mixer.weights."),
    (r"^dyconv_proj\.0\.", "mixer.dynamic_proj.conv."),
    (r"^dyconv_proj\.1\.", "mixer.dynamic_proj.norm."),
    (r"^se_layer\.proj\.", "mixer.se."),
    (r"^proj\.0\.", "mixer.proj.norm."),
    (r"^proj\.1\.", "mixer.proj.fc."),
)

rename = partial(renamed, renames=_NETWORK)


def rename_in_focus(name: str) -> str:
    """Maps the official name of a parameter within a focus block to ours."""
    return renamed(name, _FOCUS_BLOCK)
