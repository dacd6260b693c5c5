"""How the kernels of routed attention are cut for a machine."""

from __future__ import annotations

import triton

from ..triton_launch import Configuration


def configurations(architecture: str, direction: str, itemsize: int, width: int, tokens: int) -> list[Configuration]:
    """What to try for a kernel, the choice of the table first.

    Args:
        architecture: one of `ARCHITECTURES`.
        direction: `forward`, `query_gradient` or `key_gradient`.
        itemsize: bytes of a number.
        width: block of channels of the widest operand.
        tokens: tokens of a region.
    """
    tile = max(16, min(64, triton.next_power_of_2(tokens)))
    return [Configuration({"TILE": tile, "CHUNK": 64}, 4, 2)]
