"""Switches and questions of NATTEN: `natten.context` of 0.17, and what 0.15 and 0.20 have of it.

Switches choose and tune kernels of NATTEN. They keep their state, so that programs read what they set, and have no
effect: `attnzoo.kernels` chooses by the tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import torch


class MemoryUsagePreference(Enum):
    """How much memory NATTEN may use in training."""

    Default = 0
    Strict = 1
    Unrestricted = 2


_switches: dict[str, bool] = {}
_memory = [MemoryUsagePreference.Default]


def reset() -> None:
    """Sets all switches back."""
    _switches.clear()
    _memory[0] = MemoryUsagePreference.Default


def _switch(name: str) -> tuple[Callable[..., None], Callable[[], bool]]:
    """Returns the function that sets a switch and the one that reads it."""

    def use(mode: bool = True) -> None:
        """Keeps the state of a switch of NATTEN, without further effect."""
        _switches[name] = bool(mode)

    def is_enabled() -> bool:
        """Returns the state of a switch."""
        return _switches.get(name, False)

    return use, is_enabled


use_deterministic_algorithms, are_deterministic_algorithms_enabled = _switch("deterministic")
use_kv_parallelism_in_fused_na, is_kv_parallelism_in_fused_na_enabled = _switch("kv_parallelism")
use_tf32_in_gemm_na, is_tf32_in_gemm_na_enabled = _switch("tf32")
use_tiled_na, is_tiled_na_enabled = _switch("tiled")
use_gemm_na, is_gemm_na_enabled = _switch("gemm")
allow_flex_compile_backprop, is_flex_compile_backprop_allowed = _switch("flex_compile_backprop")
_use_fused, is_fused_na_enabled = _switch("fused")
_use_flex, should_use_flex_attention = _switch("flex")
_force_flex, should_force_flex_attention = _switch("force_flex")
_allow_flex_compile, is_flex_compile_allowed = _switch("flex_compile")
_tune_forward, is_autotuner_enabled_for_forward = _switch("tune_forward")
_tune_backward, is_autotuner_enabled_for_backward = _switch("tune_backward")
_thorough_forward, is_autotuner_thorough_for_forward = _switch("thorough_forward")
_thorough_backward, is_autotuner_thorough_for_backward = _switch("thorough_backward")


def use_fused_na(
    mode: bool = True, kv_parallel: bool = True, use_flex_attention: bool = False, force_flex_attention: bool = False
) -> None:
    """Keeps whether fused operators are wanted; layers always use them, except where they drop weights."""
    _use_fused(mode)
    use_kv_parallelism_in_fused_na(mode and kv_parallel)
    _use_flex(mode and use_flex_attention)
    _force_flex(mode and force_flex_attention)


use_fna, is_fna_enabled = use_fused_na, is_fused_na_enabled


def use_flex_attention() -> None:
    """`use_fused_na` with NATTEN's kernels of FlexAttention, without further effect."""
    use_fused_na(use_flex_attention=True)


def force_flex_attention() -> None:
    """`use_fused_na` with NATTEN's kernels of FlexAttention only, without further effect."""
    use_fused_na(use_flex_attention=True, force_flex_attention=True)


def allow_flex_compile(mode: bool = True, backprop: bool = False) -> None:
    """Keeps whether NATTEN may compile FlexAttention, without further effect."""
    _allow_flex_compile(mode)
    allow_flex_compile_backprop(mode and backprop)


def disable_flex_compile() -> None:
    """Sets `allow_flex_compile` back."""
    allow_flex_compile(False)


def disable_flex_compile_backprop() -> None:
    """Sets `allow_flex_compile_backprop` back."""
    allow_flex_compile_backprop(False)


def use_autotuner(
    forward_pass: bool | None = None,
    backward_pass: bool | None = None,
    thorough_mode_forward: bool | None = None,
    thorough_mode_backward: bool | None = None,
    warmup_steps_forward: int | None = None,
    warmup_steps_backward: int | None = None,
    steps_forward: int | None = None,
    steps_backward: int | None = None,
) -> None:
    """Keeps whether NATTEN's tuner is wanted, without further effect; None leaves a setting as it is."""
    for use, mode in (
        (_tune_forward, forward_pass),
        (_tune_backward, backward_pass),
        (_thorough_forward, thorough_mode_forward),
        (_thorough_backward, thorough_mode_backward),
    ):
        if mode is not None:
            use(mode)


def disable_autotuner() -> None:
    """Sets `use_autotuner` back."""
    use_autotuner(False, False, False, False)


def is_autotuner_enabled() -> bool:
    """Returns whether the tuner is wanted for a pass."""
    return is_autotuner_enabled_for_forward() or is_autotuner_enabled_for_backward()


def set_memory_usage_preference(pref: str = "default") -> None:
    """Keeps a preference, `default`, `strict` or `unrestricted`, without further effect."""
    choices = {choice.name.lower(): choice for choice in MemoryUsagePreference}
    if pref not in choices:
        raise ValueError(f"pref must be one of {', '.join(choices)}, got {pref!r}")
    _memory[0] = choices[pref]


def get_memory_usage_preference() -> MemoryUsagePreference:
    """Returns the preference."""
    return _memory[0]


def is_memory_usage_default() -> bool:
    """Returns whether the preference is `default`."""
    return _memory[0] is MemoryUsagePreference.Default


def is_memory_usage_strict() -> bool:
    """Returns whether the preference is `strict`."""
    return _memory[0] is MemoryUsagePreference.Strict


def is_memory_usage_unrestricted() -> bool:
    """Returns whether the preference is `unrestricted`."""
    return _memory[0] is MemoryUsagePreference.Unrestricted


def enable_tf32() -> bool:
    """`use_tf32_in_gemm_na(True)`; returns the state."""
    use_tf32_in_gemm_na(True)
    return True


def disable_tf32() -> bool:
    """`use_tf32_in_gemm_na(False)`; returns the state."""
    use_tf32_in_gemm_na(False)
    return False


def enable_gemm_na() -> bool:
    """`use_gemm_na(True)`; returns the state."""
    use_gemm_na(True)
    return True


def disable_gemm_na() -> bool:
    """`use_gemm_na(False)`; returns the state."""
    use_gemm_na(False)
    return False


def enable_tiled_na() -> bool:
    """`use_tiled_na(True)`; returns the state."""
    use_tiled_na(True)
    return True


def disable_tiled_na() -> bool:
    """`use_tiled_na(False)`; returns the state."""
    use_tiled_na(False)
    return False


def has_cuda() -> bool:
    """Returns whether torch has a CUDA or ROCm device."""
    return torch.cuda.is_available()


def has_half(device_index: int | None = None) -> bool:
    """Returns True: every device computes in float16."""
    return True


def has_bfloat(device_index: int | None = None) -> bool:
    """Returns True: every device computes in bfloat16."""
    return True


def has_fna(device_index: int | None = None) -> bool:
    """Returns True: the fused operators run on every device."""
    return True


def has_gemm(device_index: int | None = None) -> bool:
    """Returns False: NATTEN's GEMM kernels are not part of this package."""
    return False


has_fused_na = has_fna
has_tf32_gemm = has_fp32_gemm = has_fp64_gemm = has_gemm
