"""How messages name things."""

from __future__ import annotations

from collections.abc import Sequence


def listed(names: Sequence[str], shown: int = 8) -> str:
    """Names for a message, not too many of them."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
