"""Running files in ONNX Runtime, and the difference of two outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .graphs import ExportError, require_packages


def open_session(model: bytes | Path, threads: int | None = None) -> Any:
    """Opens an ONNX Runtime session on the CPU.

    Args:
        model: path of a file, or its content.
        threads: number of threads; by default as many as torch uses.

    Raises:
        ExportError: ONNX Runtime cannot load the file.
        ImportError: the packages of `attnzoo[export]` are missing.
    """
    require_packages()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # masked scores become denormal numbers, which are slow on many processors
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    try:
        content = model if isinstance(model, bytes) else str(model)
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ExportError(f"ONNX Runtime cannot load the file: {error}") from error


def run(session: Any, images: Tensor) -> dict[str, Tensor]:
    """Runs a file on images and returns its outputs by name.

    Raises:
        ExportError: ONNX Runtime cannot run the file on these images.
    """
    names = [entry.name for entry in session.get_outputs()]
    try:
        given = session.run(names, {"images": images.numpy()})
    except Exception as error:
        size = "x".join(map(str, images.shape))
        reason = str(error).strip().split("\n")[0]
        raise ExportError(f"ONNX Runtime cannot run the file on images of {size}: {reason}") from error
    return {name: torch.from_numpy(value) for name, value in zip(names, given, strict=True)}


def relative_difference(given: Tensor, expected: Tensor) -> float:
    """max |given - expected| / max |expected|; infinite where either is not finite, or only `expected` is zero."""
    if given.shape != expected.shape:
        return float("inf")
    if torch.equal(given, expected):
        return 0.0
    worst = ((given - expected).abs().max() / expected.abs().max()).item()
    return worst if worst < float("inf") else float("inf")
