"""The models that tests speak of."""

from __future__ import annotations

import sys

import timm

import attnzoo  # noqa: F401  registers

# one member per family that is quick enough for every test
SMALL = [
    "agent_pico",
    "agent_swin_pico",
    "agent_cswin_pico",
    "agent_deit_pico",
    "nat_pico",
    "dinat_s_tiny",
    "nat_isotropic_small",
    "vitrpb_small",
    "biformer_pico",
    "overlock_pico",
    "shvit_pico",
    "van_pico",
    "swiftformer_pico",
    "mambaout_pico",
    "swin_pico",
    "twins_pcpvt_pico",
    "twins_svt_pico",
    "davit_pico",
    "litv2_pico",
    "ravlt_pico",
    "moh_vit_pico",
    "halonet_pico",
    "dhvt_pico",
]

# what they need to take images of any size
ARGUMENTS: dict[str, dict[str, object]] = {"biformer_pico": {"auto_pad": True}}


def families() -> list[str]:
    """Modules of this package that register models."""
    names = [
        name for name, module in sys.modules.items() if name.startswith("attnzoo.") and hasattr(module, "default_cfgs")
    ]
    return [name.rpartition(".")[2] for name in sorted(names)]


def ours() -> list[str]:
    """Every model this package registers."""
    return [name for family in families() for name in timm.list_models(module=family)]
