"""How the kernels of routed attention are cut for a machine: how many tokens a program takes, and at a time."""

from __future__ import annotations

import triton

from ..triton_launch import Configuration, width_class
from .triton_tables import TABLES

# a region of as many tokens is one of the least tiles that a matrix unit takes
SMALLEST_TILE = 16


def configuration(architecture: str, direction: str, itemsize: int, width: int, tokens: int) -> Configuration:
    """The table's choice for a kernel.

    Args:
        architecture: one of `ARCHITECTURES`.
        direction: `forward`, `query_gradient` or `key_gradient`.
        itemsize: bytes of a number.
        width: channels of the widest operand.
        tokens: tokens of a region.
    """
    table = TABLES[architecture]["small" if tokens <= SMALLEST_TILE else "large"][direction]
    tile, chunk, num_warps, num_stages = table[itemsize][width_class(width)]
    # a program takes no more than a region
    tile = max(SMALLEST_TILE, min(tile, triton.next_power_of_2(tokens)))
    return Configuration({"TILE": tile, "CHUNK": chunk}, num_warps, num_stages)


def alternatives_to(chosen: Configuration) -> list[Configuration]:
    """What is tried beside the table's choice by those who opt into tuning."""
    others = [
        chosen._replace(num_stages=3),
        chosen._replace(num_warps=2 * chosen.num_warps),
        chosen._replace(constants={**chosen.constants, "CHUNK": 32}),
        chosen._replace(constants={**chosen.constants, "CHUNK": 128}),
    ]
    return [other for other in others if other != chosen]
