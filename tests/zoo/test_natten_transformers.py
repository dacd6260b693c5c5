"""NAT, DiNAT (unmodified, on `attnzoo.natten.install()`) and VAN of transformers 4.46.3: the logits of our models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# the release and what it needs beyond the packages that torch and timm need
PACKAGES = (
    "transformers==4.46.3", "tokenizers==0.20.3", "huggingface-hub==0.26.5", "regex", "requests", "urllib3", "idna",
    "certifi", "charset-normalizer",
)  # fmt: skip

SCRIPT = """
import json, sys
import attnzoo, timm, torch
from attnzoo.base import checkpoint_filter
from torch import nn

attnzoo.natten.install()
import transformers
from transformers import DinatConfig, DinatForImageClassification, NatConfig, NatForImageClassification
from transformers import VanConfig, VanForImageClassification

torch.manual_seed(0)
torch.set_num_threads(1)


def difference(name: str, theirs: nn.Module) -> float:
    for key, tensor in theirs.state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point():
            tensor.normal_(std=0.05)
    ours = timm.create_model(name).eval()
    ours.load_state_dict(checkpoint_filter(name)(theirs.state_dict(), ours))
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        want = ours(images)
        return float((theirs.eval()(images).logits - want).abs().max() / want.abs().max())


shape = dict(embed_dim=64, depths=[3, 4, 6, 5], num_heads=[2, 4, 8, 16], kernel_size=7, mlp_ratio=3.0, num_labels=1000)
dilations = [[1, 8, 1], [1, 4, 1, 4], [1, 2, 1, 2, 1, 2], [1, 1, 1, 1, 1]]
dinat = DinatForImageClassification(DinatConfig(**shape, dilations=dilations, layer_scale_init_value=0.0))
nat = NatForImageClassification(NatConfig(**shape, layer_scale_init_value=0.0))
van = VanForImageClassification(VanConfig(
    hidden_sizes=[32, 64, 160, 256], depths=[3, 3, 5, 2], mlp_ratios=[8, 8, 4, 4], num_labels=1000
))
accelerated = [attnzoo.accelerate(network).largest_difference for network in (dinat, nat)]
print(json.dumps({
    "version": transformers.__version__,
    "dinat_mini": difference("dinat_mini", dinat),
    "nat_mini": difference("nat_mini", nat),
    "van_b0": difference("van_b0", van),
    "accelerated": max(accelerated),
}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release in a folder of its own."""
    target = tmp_path_factory.mktemp("transformers")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), *PACKAGES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"transformers 4.46.3 cannot be fetched: {done.stderr.strip().splitlines()[-1]}")
    return target


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_logits_of_transformers_are_ours(folder: Path) -> None:
    path = os.pathsep.join([str(folder), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("version") == "4.46.3"
    print(found)
    assert max(found.values()) <= 2e-5, found
