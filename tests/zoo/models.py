"""The models that tests speak of."""

from __future__ import annotations

import sys

import timm

import attnzoo  # noqa: F401  registers

# one member per family that is quick enough for every test
SMALL = ["nat_pico", "nat_mini", "dinat_mini", "dinat_s_tiny", "nat_isotropic_small", "vitrpb_small", "overlock_pico"]


def families() -> list[str]:
    """Modules of this package that register models."""
    names = [
        name for name, module in sys.modules.items() if name.startswith("attnzoo.") and hasattr(module, "default_cfgs")
    ]
    return [name.rpartition(".")[2] for name in sorted(names)]


def ours() -> list[str]:
    """Every model this package registers."""
    return [name for family in families() for name in timm.list_models(module=family)]
