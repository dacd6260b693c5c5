"""The ranges of values in a training config that libraries take without a check, or reject with an unclear error."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

# what a value must be, and whether it is
Check = tuple[str, Callable[[Any], bool]]

# numpy's and mmengine's limit
LARGEST_SEED = 2**32 - 1

_POLICY = re.compile(r"(rand|augmix|3a|original|originalr|v0|v0r)(-[a-z]+\d[\d.]*)*")


def is_number(value: Any) -> bool:
    """Returns whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(map(is_number, value))


_RATE: Check = ("a number of at least 0 and less than 1", lambda value: is_number(value) and 0 <= value < 1)
_SHARE: Check = ("a number in 0 .. 1", lambda value: is_number(value) and 0 <= value <= 1)
_FACTOR: Check = ("a number greater than 0 and at most 1", lambda value: is_number(value) and 0 < value <= 1)
_NOT_NEGATIVE: Check = ("a number of at least 0", lambda value: is_number(value) and value >= 0)
_POSITIVE: Check = ("a positive number", lambda value: is_number(value) and value > 0)
_COUNT: Check = ("an integer of at least 1", lambda value: type(value) is int and value >= 1)
_WHOLE: Check = ("an integer of at least 0", lambda value: type(value) is int and value >= 0)


def _one_of(*names: str) -> Check:
    return f"one of {', '.join(names)}", lambda value: value in names


# by the key of a recipe and the key in it; None is allowed everywhere, for the default
RANGES: dict[str, dict[str, Check]] = {
    "model": dict.fromkeys(
        ("drop_rate", "drop_path_rate", "attn_drop_rate", "proj_drop_rate", "pos_drop_rate", "patch_drop_rate"), _RATE
    ),
    "ema": {
        "decay": _RATE,
        "min_decay": _RATE,
        "update_after_step": _WHOLE,
        "warmup_gamma": _POSITIVE,
        "warmup_power": _POSITIVE,
    },
    "optimizer": {
        "lr": _NOT_NEGATIVE,
        "weight_decay": _NOT_NEGATIVE,
        "layer_decay": _FACTOR,
        "momentum": _RATE,
        "eps": _NOT_NEGATIVE,
    },
    "loss": {"label_smoothing": _RATE, "gamma": _NOT_NEGATIVE, "target_threshold": _SHARE},
    "schedule": {
        **dict.fromkeys(
            ("warmup_epochs", "warmup_prefix", "warmup_lr", "min_lr", "cooldown_epochs", "noise_pct"), _NOT_NEGATIVE
        ),
        "decay_rate": _POSITIVE,
        "cycle_decay": _POSITIVE,
        "cycle_mul": _POSITIVE,
        "cycle_limit": _COUNT,
    },
    "mixup": {
        "mixup_alpha": _NOT_NEGATIVE,
        "cutmix_alpha": _NOT_NEGATIVE,
        "cutmix_minmax": (
            "two numbers in 0 .. 1, the smaller one first",
            lambda value: _is_pair(value) and 0 <= value[0] < value[1] <= 1,
        ),
        "prob": _SHARE,
        "switch_prob": _SHARE,
        "mode": _one_of("batch", "pair", "elem"),
    },
    "augment": {
        **dict.fromkeys(
            ("hflip", "vflip", "re_prob", "color_jitter_prob", "grayscale_prob", "gaussian_blur_prob"), _SHARE
        ),
        "scale": (
            "two shares of the area in 0 .. 1, the smaller one first, such as (0.3, 1.0)",
            lambda value: _is_pair(value) and 0 < value[0] <= value[1] <= 1,
        ),
        "ratio": (
            "two positive numbers, the smaller one first, such as (0.75, 1.33)",
            lambda value: _is_pair(value) and 0 < value[0] <= value[1],
        ),
        "color_jitter": (
            "a number of at least 0, or three or four of them",
            lambda value: (
                all(map(_NOT_NEGATIVE[1], value)) and len(value) in (3, 4)
                if isinstance(value, (list, tuple))
                else _NOT_NEGATIVE[1](value)
            ),
        ),
        "auto_augment": (
            "a policy of timm, such as rand-m9-mstd0.5-inc1 or augmix-m3",
            lambda value: isinstance(value, str) and _POLICY.fullmatch(value) is not None,
        ),
        "interpolation": _one_of("random", "nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"),
        "re_count": _COUNT,
        "re_mode": _one_of("const", "rand", "pixel"),
    },
}


def check_ranges(values: Mapping[str, Any]) -> None:
    """Checks the values of a recipe.

    Args:
        values: the keys of a recipe.

    Raises:
        ValueError: a value is out of its range; the message names the key, the range and the value.
    """
    for owner, checks in RANGES.items():
        given = values.get(owner)
        if not isinstance(given, Mapping):
            continue
        for key in checks.keys() & given.keys():
            what, is_allowed = checks[key]
            if given[key] is not None and not is_allowed(given[key]):
                raise ValueError(f"{owner}.{key} must be {what}, got {given[key]!r}")
