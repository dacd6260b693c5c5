"""`import attnzoo`: quiet, quick, and with nothing optional."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from .tiers import quick

ROOT = Path(__file__).parent.parent

OPTIONAL = [
    "triton", "mmengine", "sklearn", "onnx", "onnxscript", "onnxruntime", "torchmetrics", "pycocotools",
    "tensorboard", "matplotlib", "rich", "click",
]  # fmt: skip


def python(code: str, *flags: str) -> str:
    done = subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_works_with_everything_optional_blocked_and_warns_of_nothing() -> None:
    code = f"""
import sys
for name in {OPTIONAL}:
    sys.modules[name] = None
import attnzoo, timm, torch
model = timm.create_model("nat_pico", num_classes=3)
assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
model(torch.zeros(1, 3, 32, 32)).sum().backward()
"""
    python(code, "-W", "error")


@pytest.mark.parametrize(
    "module", quick(["triton", "mmengine", "sklearn", "onnx", "onnxruntime", "matplotlib", "torchmetrics"], ["triton"])
)
def test_loads_nothing_that_timm_does_not(module: str) -> None:
    loaded = f"print({module!r} in sys.modules)"
    before, after = python(f"import sys, timm; {loaded}; import attnzoo; {loaded}").split()
    assert before == after


@pytest.mark.full
def test_adds_little_to_the_import_of_timm() -> None:
    # both in one process, so that a slow machine slows both; the ratio of import attnzoo to import timm
    code = """
import time
start = time.perf_counter()
import timm
middle = time.perf_counter()
import attnzoo
print((time.perf_counter() - start) / (middle - start))
"""
    assert min(float(python(code)) for _ in range(3)) <= 1.25


def test_folders_of_a_clone_are_harmless_by_their_bare_names() -> None:
    code = """
import attnzoo, kernels, blocks, zoo, tools, configs
for folder in (kernels, blocks, zoo, tools, configs):
    assert not hasattr(folder, "__version__"), folder
    assert not [name for name in vars(folder) if not name.startswith("__")], folder
import attnzoo.kernels, torch
assert attnzoo.kernels.window_attention(*torch.zeros(3, 1, 4, 4, 1, 8), 2).shape == (1, 4, 4, 1, 8)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
def test_transformers_works_at_the_root_of_a_clone() -> None:
    code = "import attnzoo; from transformers import TimmBackbone"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
