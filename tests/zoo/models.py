"""The models used by the tests."""

from __future__ import annotations

import math
import sys

import timm

import attnzoo  # noqa: F401  registers

# arguments that small variants need to take images of any size
ARGUMENTS: dict[str, dict[str, object]] = {"biformer_pico": {"auto_pad": True}}

# models whose first pool has no padding, so that it rounds the size of the map down
ROUNDED_DOWN = ("residual_attention_pico",)


def families() -> list[str]:
    """Returns the modules of this package that register models."""
    names = [
        name for name, module in sys.modules.items() if name.startswith("attnzoo.") and hasattr(module, "default_cfgs")
    ]
    return [name.rpartition(".")[2] for name in sorted(names)]


def ours() -> list[str]:
    """Returns all models that this package registers."""
    return [name for family in families() for name in timm.list_models(module=family)]


# the variants of every family that are fast enough for every test
SMALL = [name for name in ours() if name.endswith("_pico")]

# those of them with feature maps
MAPPED = [name for name in SMALL if name != "perceiver_pico"]


def map_side(name: str, side: int, reduction: int) -> int:
    """Returns the rows or columns of the map of a stage, given those of the image."""
    if name in ROUNDED_DOWN:
        side = math.ceil(side / 2) // 2 * 4
    return math.ceil(side / reduction)
