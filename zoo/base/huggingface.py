"""Checkpoints of Hugging Face's transformers under the names of the authors' code.

transformers renames the layers of the authors and splits some of them: queries, keys and values have a layer each, and
the layer scales of a block are the rows of one tensor. A family adds its table of names and then reads the result like
a checkpoint of the authors.

Shape legend: C channels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from .checkpoints import Renames, renamed

# the start of a name in transformers, after the name of the network, which checkpoints without a classifier lack
_START = re.compile(r"^(?:[a-z]+\.)?(?=(?:embeddings|encoder|layernorm|patch_embed\.patch_embedding)\.)")

# the layers that the authors have as one, in their order; the second name is that of live modules of transformers 5
_QUERIES = re.compile(r"\.attention\.(?:self\.query|q_proj)\.(weight|bias)$")
_PARTS = {"self.query": ("self.query", "self.key", "self.value"), "q_proj": ("q_proj", "k_proj", "v_proj")}
_KEYS_AND_VALUES = re.compile(r"\.attention\.(?:self\.(?:key|value)|[kv]_proj)\.(?:weight|bias)$")

# Names of transformers in Swin, NAT and DiNAT, with those of the authors.
TRANSFORMER: Renames = (
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^encoder\.levels\.(\d+)\.layers\.", r"levels.\1.blocks."),
    (r"^encoder\.", ""),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "head."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.attention\.relative_position_bias\.", ".attn."),
    (r"\.attention\.(?:self\.)?", ".attn."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)


def of_transformers(weights: Mapping[str, Tensor], renames: Renames) -> dict[str, Tensor]:
    """Returns the weights of a checkpoint of transformers under the authors' names, and other checkpoints unchanged.

    Args:
        weights: tensors by name.
        renames: patterns of the names of transformers without the name of the network, with the authors' names.
    """
    if not any(re.match(r"(?:[a-z]+\.)?encoder\.", name) for name in weights):
        return dict(weights)
    result: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if _KEYS_AND_VALUES.search(name):
            continue
        if _QUERIES.search(name):
            parts = _PARTS["q_proj" if ".q_proj." in name else "self.query"]
            tensor = torch.cat([weights[name.replace(parts[0], part)] for part in parts])
            name = name.replace(parts[0], "qkv")
        name = renamed(_START.sub("", name), renames)
        if name.endswith(".layer_scale_parameters"):
            # (2, C) -> one of (C,) per branch
            prefix = name.removesuffix("layer_scale_parameters")
            result |= {f"{prefix}gamma{i}": scale for i, scale in enumerate(tensor, start=1)}
        else:
            result[name] = tensor
    return result
