"""What each release of NATTEN offers: the names of its modules, for `install`."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import Any

from . import arguments, classic, context, earliest, functional, modules, recent

# the releases on the package index and in the authors' repository
RELEASES = (
    "0.14.1", "0.14.2", "0.14.4", "0.14.5", "0.14.6", "0.15.0", "0.15.1", "0.17.0", "0.17.1", "0.17.3", "0.17.4",
    "0.17.5", "0.20.0", "0.20.1", "0.21.0", "0.21.1", "0.21.5", "0.21.6", "0.21.7",
)  # fmt: skip
DEFAULT = "0.17.5"

Names = dict[str, Any]

_OLD = ("natten1dqkrpb", "natten1dav", "natten2dqkrpb", "natten2dav")
_QK = ("natten1dqk", "natten2dqk")
_HALVES = ("na1d_qk", "na1d_av", "na2d_qk", "na2d_av", "na3d_qk", "na3d_av")
_OLD_3D = ("natten3dqkrpb", "natten3dqk", "natten3dav")
_WITH_BIAS = ("na1d_qk_with_bias", "na2d_qk_with_bias", "na3d_qk_with_bias")
_FUSED = ("na1d", "na2d", "na3d")
_LAYERS = ("NeighborhoodAttention1D", "NeighborhoodAttention2D", "NeighborhoodAttention3D")
_QUESTIONS = ("has_cuda", "has_half", "has_bfloat", "has_gemm", "has_tf32_gemm", "has_fp32_gemm", "has_fp64_gemm")
_ENABLE = ("enable_tf32", "disable_tf32", "enable_gemm_na", "disable_gemm_na", "enable_tiled_na", "disable_tiled_na")
_KEPT = (
    "are_deterministic_algorithms_enabled", "use_deterministic_algorithms", "use_kv_parallelism_in_fused_na",
    "is_kv_parallelism_in_fused_na_enabled", "set_memory_usage_preference", "get_memory_usage_preference",
    "is_memory_usage_default", "is_memory_usage_strict", "is_memory_usage_unrestricted",
)  # fmt: skip
_FLEX = (
    "is_flex_compile_allowed", "is_flex_compile_backprop_allowed", "allow_flex_compile", "allow_flex_compile_backprop",
    "disable_flex_compile", "disable_flex_compile_backprop",
)  # fmt: skip
_SWITCHES = (
    *_KEPT, *_QUESTIONS, *_ENABLE, "has_fna", "has_fused_na", "use_fna", "is_fna_enabled", "use_fused_na",
    "is_fused_na_enabled", "use_flex_attention", "force_flex_attention", "use_autotuner", "disable_autotuner",
    "is_autotuner_enabled", "is_autotuner_enabled_for_forward", "is_autotuner_enabled_for_backward",
    "is_autotuner_thorough_for_forward", "is_autotuner_thorough_for_backward", "use_tf32_in_gemm_na",
    "is_tf32_in_gemm_na_enabled", "use_tiled_na", "is_tiled_na_enabled", "use_gemm_na", "is_gemm_na_enabled",
)  # fmt: skip


def release_named(version: str) -> str:
    """Returns the release of a version such as `0.17.5`, `0.17` for its last one, or `0.14.6+torch1121cu116`.

    Raises:
        TypeError: the version is not text.
        ValueError: there is no such release.
    """
    if not isinstance(version, str):
        raise TypeError(f"version must be text such as {DEFAULT!r}, got {type(version).__name__}")
    # without the build, as in `0.14.6+torch1121cu116` and `0.14.2.post4`
    public = re.sub(r"(\.post\d+)?(\+.*)?$", "", version)
    for release in reversed(RELEASES):
        if release == public or release.startswith(f"{public}."):
            return release
    raise ValueError(f"version must be a release of NATTEN, one of {', '.join(RELEASES)}, got {version!r}")


def contents(release: str) -> dict[str, Names]:
    """Returns the names in each module of a release, `natten` itself first; all of its modules are listed."""
    number = tuple(int(part) for part in release.split("."))
    if number < (0, 15):
        found = _of_14(number)
    elif number < (0, 17):
        found = _of_15()
    elif number < (0, 20):
        found = _of_17()
    else:
        found = _of_20(number)
    found["natten"]["__version__"] = release
    return found


def _of_14(number: tuple[int, ...]) -> dict[str, Names]:
    layers = classic if number >= (0, 14, 5) else earliest
    functions = _pick(functional, _OLD)
    if number < (0, 14, 5):
        functions = _pick(earliest, _OLD)
    elif number < (0, 14, 6):
        functions.update(_pick(earliest, ("natten1dav", "natten2dav")))
    else:
        functions.update(_pick(functional, _QK))
    # the authors' autograd functions, which programs call through `apply`
    for name in _OLD:
        functions[f"{name.upper()}Function"] = type(
            f"{name.upper()}Function", (), {"apply": staticmethod(functions[name])}
        )
    one, two = _pick(layers, _LAYERS[:1]), _pick(layers, _LAYERS[1:2])
    if number < (0, 14, 5):
        two["NeighborhoodAttention"] = two["NeighborhoodAttention2D"]
    return {"natten": {**one, **two}, "natten.functional": functions, "natten.natten1d": one, "natten.natten2d": two}


def _of_15() -> dict[str, Names]:
    layers = {**_pick(classic, _LAYERS[:2]), **_pick(modules, _LAYERS[2:])}
    questions = _pick(context, (*_QUESTIONS, *_ENABLE))
    functions = _pick(functional, (*_OLD, *_QK, *_OLD_3D, *_HALVES, *_WITH_BIAS))
    return {
        "natten": {**layers, **questions},
        "natten.functional": {**functions, **questions},
        **_layer_modules("natten.natten{}d", layers),
    }


def _of_17() -> dict[str, Names]:
    layers, switches = _pick(modules, _LAYERS), _pick(context, _SWITCHES)
    more = "should_use_flex_attention", "should_force_flex_attention", "MemoryUsagePreference"
    return {
        "natten": {**layers, **switches},
        "natten.functional": _pick(functional, (*_OLD, *_QK, *_OLD_3D, *_HALVES, *_FUSED)),
        "natten.context": {**switches, **_pick(context, more)},
        "natten.experimental": _pick(functional, _FUSED),
        "natten.types": arguments.TYPES,
        "natten.utils": {"check_all_args": arguments.check_all_args},
        "natten.utils.log": {"get_logger": logging.getLogger},
        **_layer_modules("natten.na{}d", layers),
        **_layer_modules("natten.natten{}d", layers),
    }


def _of_20(number: tuple[int, ...]) -> dict[str, Names]:
    layers = {**_pick(recent, _LAYERS[:2]), **_pick(modules, _LAYERS[2:])}
    if number < (0, 20, 1):
        for name in _LAYERS[:2]:
            layers[name] = type(name, (recent.NamedDim,), {"axes": layers[name].axes, "__module__": "natten.modules"})
    switches = _pick(context, (*_KEPT, *_FLEX))
    functions = _pick(recent, ("na1d", "na2d", "attention", "merge_attentions", "neighborhood_attention_generic"))
    functions["na3d"] = functional.na3d
    exported = {name: x for name, x in functions.items() if name != "neighborhood_attention_generic"}
    return {
        "natten": {**layers, **switches, **exported, "HAS_LIBNATTEN": True},
        "natten.functional": functions,
        "natten.modules": layers,
        "natten.context": {**switches, **_pick(context, ("MemoryUsagePreference",))},
        "natten.types": arguments.TYPES,
    }


def _layer_modules(name: str, layers: Names) -> dict[str, Names]:
    return {name.format(n): {layer: x for layer, x in layers.items() if layer.endswith(f"{n}D")} for n in (1, 2, 3)}


def _pick(module: Any, names: Iterable[str]) -> Names:
    return {name: getattr(module, name) for name in names}
