"""What each release of attnzoo.natten offers, its switches, and invalid arguments."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import attnzoo
from attnzoo.natten.release import RELEASES, contents, release_named

natten = attnzoo.natten


def functions(version: str) -> dict[str, Any]:
    return contents(version)["natten.functional"]


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda x: natten.natten2dqk(x[0], x[0], 3, 1),
            ValueError,
            "query must be (batch, heads, rows, columns, width)",
        ),
        (lambda x: natten.natten1dqk(x, x, 3, 1), ValueError, "query must be (batch, heads, length, width), got (2, 3"),
        (lambda x: natten.na2d(x[0], x[0], x[0], 3), ValueError, "query must be (batch, rows, columns, heads, width)"),
        (
            lambda x: natten.natten2dqk(x, x[:, :, 1:], 3, 1),
            ValueError,
            "key must have the shape of query, (2, 3, 9, 11",
        ),
        (lambda x: natten.natten2dav(x, x, 3, 1), ValueError, "attn must have a weight for each of the 9 keys of a wi"),
        (
            lambda x: natten.natten2dqk(x, [x], 3, 1),
            TypeError,
            "key must be a tensor (batch, heads, rows, columns, wid",
        ),
        (lambda x: natten.natten2dqk(x, x, 13, 1), ValueError, "must not exceed the map, 9 on axis 0 (rows), got 13"),
        (lambda x: natten.na1d_qk(x[0], x[0], 13), ValueError, "must not exceed the sequence, 11, got 13 * 1"),
        (lambda x: natten.na2d(x, x, x, 3, additional_keys=x), ValueError, "must both be given, or neither"),
        (
            lambda x: natten.na2d_qk(x, x, 3, additional_keys=x),
            ValueError,
            "additional_keys must be (batch, heads, tok",
        ),
        (
            lambda x: natten.na3d(x, x, x, 3),
            NotImplementedError,
            "na3d: attnzoo.natten has neighborhood attention of o",
        ),
        (lambda x: natten.natten3dqkrpb(x, x, x, 3, 3, 1, 1), NotImplementedError, "use NATTEN itself"),
        (lambda x: natten.NeighborhoodAttention3D(8, 2, 3), NotImplementedError, "NeighborhoodAttention3D: attnzoo.na"),
        (
            lambda x: natten.NeighborhoodAttention2D(8, 3, 3),
            ValueError,
            "dim must be a multiple of num_heads, got 8 ch",
        ),
        (lambda x: natten.NeighborhoodAttention2D(8, 2, (3,)), ValueError, "kernel_size must be one value or 2, got 1"),
        (lambda x: natten.NeighborhoodAttention2D(4, 2, 3)(x), ValueError, "takes (batch, rows, columns, channels)"),
        (lambda x: functions("0.20.1")["na2d"](x, x, x, 3, rpb=x), TypeError, "na2d has no argument 'rpb' in attnzoo"),
        (lambda x: functions("0.14.4")["natten2dqkrpb"](x, x, None, 1), ValueError, "rpb must be a table: in NATTEN"),
        (
            lambda x: contents("0.14.6")["natten"]["NeighborhoodAttention2D"](8, 2, 4),
            ValueError,
            "kernel_size must be odd and at least 3 before NATTEN 0.17, got 4",
        ),
        (
            lambda x: natten.natten1dqk(torch.nested.nested_tensor([x[0, 0], x[0, 0]]), x[0], 3, 1),
            NotImplementedError,
            "query is a nested tensor",
        ),
        (lambda x: release_named("0.16"), ValueError, "version must be a release of NATTEN, one of 0.14.1, "),
        (lambda x: release_named(0.17), TypeError, "version must be text such as '0.17.5', got float"),
        (lambda x: natten.set_memory_usage_preference("low"), ValueError, "pref must be one of default, strict, unres"),
    ],
)
def test_mistakes_say_what_is_wrong(call: Callable[[Tensor], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        call(torch.zeros(2, 3, 9, 11, 4))


@pytest.mark.parametrize(
    ("version", "release"),
    [("0.17", "0.17.5"), ("0.14.6+torch1121cu116", "0.14.6"), ("0.14.2.post4", "0.14.2"), ("0.14", "0.14.6")],
)
def test_releases_are_found_by_their_versions(version: str, release: str) -> None:
    assert release_named(version) == release


@pytest.mark.parametrize("version", RELEASES)
def test_every_release_has_its_modules(version: str) -> None:
    modules = contents(version)
    assert modules["natten"]["__version__"] == version
    assert {"NeighborhoodAttention1D", "NeighborhoodAttention2D"} <= set(modules["natten"])
    # programs tell releases apart by what there is
    assert ("natten.context" in modules) == (version >= "0.17")
    assert ("has_fused_na" in modules["natten"]) == ("0.17" <= version < "0.20")
    assert ("natten2dqkrpb" in modules["natten.functional"]) == (version < "0.20")
    assert ("na2d" in modules["natten"]) == (version >= "0.20")
    assert ("natten.natten2d" in modules) == (version < "0.20")


def test_switches_keep_their_state() -> None:
    assert not natten.is_fused_na_enabled()
    natten.use_fused_na()
    natten.use_gemm_na(True)
    natten.use_autotuner(forward_pass=True)
    natten.set_memory_usage_preference("strict")
    assert natten.is_fna_enabled()
    assert natten.is_kv_parallelism_in_fused_na_enabled()
    assert (natten.is_gemm_na_enabled(), natten.disable_gemm_na()) == (True, False)
    assert (natten.is_autotuner_enabled(), natten.is_autotuner_enabled_for_backward()) == (True, False)
    assert natten.is_memory_usage_strict()
    natten.context.reset()
    assert not natten.is_fused_na_enabled()
    assert natten.is_memory_usage_default()
