"""The models that tests speak of."""

from __future__ import annotations

import sys

import timm

import attnzoo  # noqa: F401  registers

# what small members need to take images of any size
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


# every family's members that are quick enough for every test
SMALL = [name for name in ours() if name.endswith("_pico")]
