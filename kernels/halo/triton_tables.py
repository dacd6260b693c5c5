"""Tokens of tiles and chunks, warps and stages of the kernels of halo attention, for each architecture.

For each direction and size of a number in bytes there are four entries, for heads of up to 32, 64, 128 and 256
channels: (tokens of a tile, tokens of a chunk, warps, stages). Every entry was compiled for its architecture, with
blocks of 8x8, a halo of 3 and queries with and without a stride of 2; it spills no register and fits the shared
memory, those of sm80 also the smaller ones of its family. The entries for 256 channels were compiled for values of
256 and keys of 64, as HaloNet-H7 has them. `attnzoo bench kernels --static` repeats this. None was timed.
"""

from __future__ import annotations

Entry = tuple[int, int, int, int]
Table = dict[str, dict[int, tuple[Entry, ...]]]

TABLES: dict[str, Table] = {
    "sm90": {
        "forward": {
            2: ((64, 64, 4, 2), (64, 64, 4, 2), (64, 64, 8, 2), (64, 32, 4, 2)),
            4: ((64, 64, 4, 2), (64, 64, 8, 1), (64, 16, 8, 2), (32, 32, 8, 1)),
        },
        "query_gradient": {
            2: ((64, 64, 4, 1), (64, 64, 4, 1), (64, 16, 4, 2), (64, 16, 4, 2)),
            4: ((64, 64, 8, 2), (64, 32, 8, 2), (64, 16, 4, 2), (32, 32, 8, 2)),
        },
        "key_gradient": {
            2: ((64, 64, 8, 2), (64, 32, 4, 2), (32, 32, 8, 2), (32, 32, 8, 1)),
            4: ((64, 16, 8, 1), (32, 32, 8, 2), (32, 16, 8, 2), (32, 16, 8, 2)),
        },
    },
    "sm80": {
        "forward": {
            2: ((64, 64, 4, 2), (64, 64, 4, 2), (64, 64, 8, 2), (64, 32, 4, 2)),
            4: ((64, 64, 8, 2), (64, 32, 8, 2), (64, 16, 8, 2), (32, 32, 8, 1)),
        },
        "query_gradient": {
            2: ((64, 64, 4, 1), (64, 64, 4, 1), (64, 16, 8, 2), (64, 16, 8, 2)),
            4: ((64, 64, 8, 1), (64, 32, 8, 2), (64, 16, 8, 2), (32, 32, 8, 2)),
        },
        "key_gradient": {
            2: ((64, 32, 4, 1), (64, 16, 8, 1), (32, 32, 8, 2), (32, 32, 8, 1)),
            4: ((64, 16, 8, 1), (64, 16, 8, 2), (32, 16, 8, 1), (32, 16, 8, 1)),
        },
    },
    "sm100": {
        "forward": {
            2: ((64, 64, 4, 2), (64, 64, 4, 2), (64, 64, 4, 2), (64, 32, 4, 2)),
            4: ((64, 64, 8, 2), (64, 64, 8, 1), (64, 16, 8, 2), (32, 32, 8, 1)),
        },
        "query_gradient": {
            2: ((64, 64, 4, 1), (64, 64, 4, 1), (64, 32, 8, 1), (64, 16, 4, 2)),
            4: ((64, 64, 8, 2), (64, 32, 8, 2), (64, 16, 4, 2), (32, 32, 8, 2)),
        },
        "key_gradient": {
            2: ((64, 64, 4, 2), (64, 64, 4, 2), (64, 64, 8, 1), (32, 32, 8, 1)),
            4: ((64, 16, 8, 1), (32, 32, 8, 2), (16, 32, 8, 2), (32, 16, 8, 2)),
        },
    },
    "gfx942": {
        "forward": {
            2: ((64, 64, 4, 2), (64, 64, 4, 2), (64, 64, 8, 2), (64, 32, 4, 2)),
            4: ((64, 64, 4, 2), (64, 64, 4, 2), (64, 16, 8, 2), (32, 32, 8, 1)),
        },
        "query_gradient": {
            2: ((64, 64, 4, 1), (64, 64, 4, 1), (64, 16, 4, 2), (64, 32, 4, 2)),
            4: ((64, 64, 4, 2), (64, 32, 8, 2), (64, 16, 4, 2), (64, 16, 4, 2)),
        },
        "key_gradient": {
            2: ((64, 64, 4, 2), (64, 32, 4, 2), (64, 16, 4, 2), (64, 16, 4, 2)),
            4: ((64, 16, 8, 1), (64, 16, 4, 2), (32, 16, 4, 2), (32, 16, 4, 2)),
        },
    },
}
