"""Checkpoints of transformers load into our networks: the names, and the logits where it still has the network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from attnzoo.base import Renames, checkpoint_filter, renamed


def loaded(name: str, weights: dict[str, Tensor], **arguments: Any) -> nn.Module:
    model = timm.create_model(name, num_classes=5, **arguments).eval()
    model.load_state_dict(checkpoint_filter(name)(weights, model))
    return model


def randomized(model: nn.Module) -> nn.Module:
    """Gives norms, biases, tables and layer scales values that are not their initial ones."""
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point():
            tensor.add_(torch.randn_like(tensor), alpha=0.1)
    return model.eval()


def swin(transformers: Any) -> nn.Module:
    config = transformers.SwinConfig(
        image_size=128, embed_dim=32, depths=[2, 2, 2, 1], num_heads=[1, 2, 4, 8], window_size=4, mlp_ratio=2,
        num_labels=5,
    )  # fmt: skip
    return transformers.SwinForImageClassification(config)


def swiftformer(transformers: Any) -> nn.Module:
    config = transformers.SwiftFormerConfig(depths=[2, 2, 3, 2], embed_dims=[24, 48, 96, 144], num_labels=5)
    return transformers.SwiftFormerForImageClassification(config)


ARGUMENTS: dict[str, dict[str, Any]] = {
    "swin": {"embed_dims": (32, 64, 128, 256), "num_heads": (1, 2, 4, 8), "window_size": 4},
    "swiftformer": {},
}


@pytest.mark.parametrize("build", [swin, swiftformer])
def test_logits_are_those_of_transformers(build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers", reason="needs attnzoo[clients]")
    name, theirs = build.__name__, randomized(build(transformers))
    theirs.save_pretrained(tmp_path)
    if build is swiftformer:
        # the authors normalize the weights of the queries, transformers takes a softmax over single numbers, which is 1
        monkeypatch.setattr(Tensor, "softmax", lambda x, dim: nn.functional.normalize(x, dim=1))
    x = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        want = theirs(x).logits
        monkeypatch.undo()
        # the names of live modules, and those that are stored
        for weights in (theirs.state_dict(), load_file(tmp_path / "model.safetensors")):
            ours = loaded(f"{name}_pico", weights, **ARGUMENTS[name])
            torch.testing.assert_close(ours(x), want, rtol=1e-4, atol=1e-5)


# Patterns of our names, with those of transformers, whose networks have other indices. The last versions of NAT and VAN
# are those of transformers 4; DiNAT of transformers 5 exchanges axes, so its logits are those of no checkpoint.
NAT = (
    (r"^stem\.conv(\d)\.", lambda m: f"dinat.embeddings.patch_embeddings.projection.{int(m[1]) - 1}."),
    (r"^stem\.norm\.", "dinat.embeddings.norm."),
    (r"^stages\.(\d)\.downsample\.", lambda m: f"dinat.encoder.levels.{int(m[1]) - 1}.downsample."),
    (r"^stages\.(\d)\.blocks\.(\d+)\.", r"dinat.encoder.levels.\1.layers.\2."),
    (r"^norm\.", "dinat.layernorm."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.(rpb|qkv\.\w+)$", r".attention.self.\1"),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"^head\.fc\.", "classifier."),
)
VAN = (
    (r"^stem\.0\.", "stages.0.downsample."),
    (r"^stages\.(\d)\.downsample\.conv\.", r"van.encoder.stages.\1.embeddings.convolution."),
    (r"^stages\.(\d)\.downsample\.norm\.", r"van.encoder.stages.\1.embeddings.normalization."),
    (r"^stages\.(\d)\.norm\.", r"van.encoder.stages.\1.normalization."),
    (r"^stages\.(\d)\.blocks\.(\d+)\.", r"van.encoder.stages.\1.layers.\2."),
    (r"\.attn\.branch\.0\.norm\.", ".pre_normomalization."),
    (r"\.attn\.branch\.1\.proj1\.", ".attention.pre_projection.conv."),
    (r"\.attn\.branch\.1\.conv1\.", ".attention.attention_layer.attention.depth_wise."),
    (r"\.attn\.branch\.1\.conv2\.", ".attention.attention_layer.attention.depth_wise_dilated."),
    (r"\.attn\.branch\.1\.fc\.", ".attention.attention_layer.attention.point_wise."),
    (r"\.attn\.branch\.1\.proj2\.", ".attention.post_projection."),
    (r"\.attn\.branch\.2\.gamma$", ".attention_scaling.weight"),
    (r"\.mlp\.branch\.fc1\.norm\.", ".post_normalization."),
    (r"\.mlp\.branch\.fc1\.fc\.", ".mlp.in_dense."),
    (r"\.mlp\.branch\.conv\.", ".mlp.depth_wise."),
    (r"\.mlp\.branch\.fc2\.fc\.", ".mlp.out_dense."),
    (r"\.mlp\.branch\.fc2\.scale\.gamma$", ".mlp_scaling.weight"),
    (r"^head\.fc\.", "classifier."),
)


def as_in_transformers(weights: dict[str, Tensor], names: Renames) -> dict[str, Tensor]:
    """Returns our weights under the names of transformers, with queries, keys and values apart."""
    result: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        name = renamed(name, names)
        if ".qkv." in name:
            parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            result |= {name.replace("qkv", part): third for part, third in parts}
        elif re.search(r"\.ls[12]\.gamma$", name):
            scales = f"{name[:-10]}.layer_scale_parameters"
            result[scales] = torch.stack([*result.get(scales, ()), tensor])
        else:
            # convolutions of one pixel are linear layers here
            is_convolution = re.search(r"(_projection|conv|point_wise|_dense)\.weight$", name) and tensor.ndim == 2
            result[name] = tensor[:, :, None, None] if is_convolution else tensor
    return result


@pytest.mark.parametrize("whole", [True, False], ids=["classifier", "backbone"])
@pytest.mark.parametrize(
    ("name", "names", "arguments", "example"),
    [
        ("nat_pico", NAT, {"layer_scale": 0.5}, "encoder.levels.2.layers.1.attention.self.query.bias"),
        ("dinat_mini", NAT, {}, "encoder.levels.0.downsample.reduction.weight"),
        ("van_pico", VAN, {}, "encoder.stages.2.layers.1.attention.attention_layer.attention.depth_wise.weight"),
    ],
    ids=["nat", "dinat", "van"],
)
def test_names_of_transformers(name: str, names: Renames, arguments: dict[str, Any], example: str, whole: bool) -> None:
    model = randomized(timm.create_model(name, **arguments))
    weights = as_in_transformers(model.state_dict(), names)
    ours = model.state_dict()
    if name == "van_pico":
        weights["van.layernorm.weight"] = torch.ones(128)
    if not whole:
        # checkpoints without a classifier have no name of the network before the others
        weights = {key.partition(".")[2]: x for key, x in weights.items() if not key.startswith("classifier.")}
        ours = {key: x for key, x in ours.items() if not key.startswith("head.")}
        assert example in weights
    found = checkpoint_filter(name)(weights, model)
    assert found.keys() == ours.keys()
    assert all(torch.equal(x, ours[key]) for key, x in found.items())


def test_modules_around_ours_in_transformers() -> None:
    model = timm.create_model("nat_pico")
    weights = {f"timm_model.{key}": x for key, x in model.state_dict().items()}
    assert checkpoint_filter("nat_pico")(weights, model).keys() == model.state_dict().keys()
