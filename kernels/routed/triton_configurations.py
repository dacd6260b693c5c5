"""How the kernels of routed attention are cut for a machine: how many tokens a program takes, and at a time."""

from __future__ import annotations

import triton

from ..triton_launch import Configuration
from .triton_tables import TABLES, WIDTHS

# a region of as many tokens is one of the least tiles that a matrix unit takes
SMALLEST_TILE = 16


def configurations(architecture: str, direction: str, itemsize: int, width: int, tokens: int) -> list[Configuration]:
    """What to try for a kernel, the table's choice first.

    Args:
        architecture: one of `ARCHITECTURES`.
        direction: `forward`, `query_gradient` or `key_gradient`.
        itemsize: bytes of a number.
        width: channels of the widest operand.
        tokens: tokens of a region.
    """
    table = TABLES[architecture]["small" if tokens <= SMALLEST_TILE else "large"][direction]
    column = WIDTHS.index(next(w for w in WIDTHS if width <= w))
    tile, chunk, num_warps, num_stages = table[itemsize][column]
    # a program takes no more than a region
    tile = max(SMALLEST_TILE, min(tile, triton.next_power_of_2(tokens)))
    chosen = Configuration({"TILE": tile, "CHUNK": chunk}, num_warps, num_stages)
    others = [
        chosen._replace(num_stages=3),
        chosen._replace(num_warps=2 * num_warps),
        chosen._replace(constants={"TILE": tile, "CHUNK": 32}),
        chosen._replace(constants={"TILE": tile, "CHUNK": 128}),
    ]
    return [chosen, *(other for other in others if other != chosen)]
