"""The contents of a parity case, and how its checkpoint is filled.

A case is a manifest of an official checkpoint (names, shapes) and the outputs of the official network when each tensor
is filled from its name alone: normal samples, seeded by the SHA-256 of the name and scaled by the kind of the tensor.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

# in `cases_unit` position tables have unit variance: otherwise a missing table would hardly change the logits
FOLDERS = [Path(__file__).parent / name for name in ("cases", "cases_unit")]
PATHS = sorted(path for folder in FOLDERS for path in folder.glob("*.json"))


@dataclass(frozen=True)
class Case:
    """One official network or module: its checkpoint, an input, and its outputs."""

    name: str
    facts: dict[str, Any]
    checkpoint: dict[str, Tensor]
    images: Tensor
    answers: dict[str, Tensor]
    stage_shapes: list[list[int]]
    parameters: int


def load_case(path: Path) -> Case:
    """Reads a case, its `.json` and `.safetensors` files, and fills its checkpoint."""
    manifest = json.loads(path.read_text())
    undivided = [re.compile(pattern) for pattern in manifest.get("unit_normal", [])]
    checkpoint = {}
    for tensor_name, shape, dtype, is_derived in manifest["tensors"]:
        if is_derived:
            checkpoint[tensor_name] = torch.zeros(shape, dtype=getattr(torch, dtype))
            continue
        values = fill(tensor_name, tuple(shape))
        if any(pattern.search(tensor_name) for pattern in undivided):
            values = values * math.sqrt(math.prod(shape[1:]))
        checkpoint[tensor_name] = torch.from_numpy(values)
    return Case(
        name=manifest["case"],
        facts=manifest["facts"],
        checkpoint=checkpoint,
        images=torch.from_numpy(np.asarray(_draw("input", tuple(manifest["input"])), dtype=np.float32)),
        answers=load_file(path.with_suffix(".safetensors")),
        stage_shapes=manifest["stage_shapes"],
        parameters=manifest["parameters"],
    )


def fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the float32 values of a tensor of the official checkpoint."""
    draw = _draw(name, shape)
    leaf = name.split(".")[-1]
    if leaf == "running_var":
        values = 0.5 + np.abs(draw)
    elif len(shape) > 1:
        values = draw / math.sqrt(math.prod(shape[1:]))
    elif leaf == "running_mean" or "bias" in leaf:
        values = 0.1 * draw
    else:
        values = 1 + 0.1 * draw
    return np.asarray(values, dtype=np.float32)


def _draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)


def readable(path: Path) -> str:
    """Returns the name of a case for reports."""
    return f"{path.parent.name}/{path.stem}"


def relative_error(ours: Tensor, official: Tensor) -> float:
    """Returns the largest difference divided by the largest official value."""
    official = official.view_as(ours)
    return ((ours - official).abs().max() / official.abs().max()).item()
