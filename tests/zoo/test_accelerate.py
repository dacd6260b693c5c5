"""`attnzoo.accelerate`: live networks of other libraries as ours."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import timm
import torch
import torch.nn.utils.prune
from timm.layers import RmsNorm
from timm.models._features import FeatureDictNet, FeatureGetterNet, FeatureHookNet, FeatureListNet
from timm.models.davit import DaVit
from timm.models.mambaout import MambaOut
from timm.models.shvit import SHViT
from timm.models.swiftformer import SwiftFormer
from timm.models.swin_transformer import SwinTransformer
from timm.models.twins import Twins
from torch import Tensor, nn

import attnzoo

# in float64, and for networks of a few layers in float32
TOLERANCE, SINGLE = 1e-10, 1e-5

# networks of timm's classes with small arguments, and the size of their images
SMALL: dict[str, tuple[Callable[..., nn.Module], tuple[int, int]]] = {
    "swin": (
        partial(SwinTransformer, img_size=64, embed_dim=24, depths=(1, 2), num_heads=(2, 4), window_size=4),
        (64, 64),
    ),
    "twins_svt": (
        partial(
            Twins, embed_dims=(16, 32), depths=(2, 3), num_heads=(1, 2), mlp_ratios=(2, 3), sr_ratios=(4, 2), wss=(7, 5)
        ),
        (64, 96),
    ),
    "twins_pcpvt": (
        partial(Twins, embed_dims=(16, 32), depths=(1, 2), num_heads=(1, 2), mlp_ratios=(8, 2), sr_ratios=(4, 2)),
        (64, 96),
    ),
    "davit": (partial(DaVit, embed_dims=(16, 32), depths=(1, 2), num_heads=(1, 2), window_size=5), (50, 70)),
    "swiftformer": (
        partial(SwiftFormer, embed_dims=(16, 24), layers=(2, 3), downsamples=(False, True), mlp_ratios=3),
        (50, 70),
    ),
    "mambaout": (partial(MambaOut, dims=(16, 24), depths=(1, 2), kernel_size=5, expansion_ratio=2), (50, 70)),
    "shvit": (
        partial(SHViT, embed_dim=(32, 48, 64), partial_dim=(8, 12, 16), depth=(1, 2, 1), types=("i", "s", "s")),
        (100, 130),
    ),
    "halonet": (
        partial(timm.create_model, "halonet26t", width_factor=0.125, self_attn_kwargs={"block_size": 4}),
        (128, 128),
    ),
}
NAMES = list(SMALL)


def make(name: str, *, dtype: torch.dtype = torch.float64, **arguments: Any) -> nn.Module:
    """A small network whose layer scales, norms and statistics are no constants."""
    model = SMALL[name][0](**arguments)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim == 1:
                low, high = (-0.1, 0.1) if key.endswith(("bias", "mean")) else (0.5, 1.5)
                tensor.uniform_(low, high)
    return model.eval().to(dtype)


def images(name: str, channels: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, channels, *SMALL[name][1], dtype=dtype)


def same(ours: Any, theirs: Any, tolerance: float = TOLERANCE) -> None:
    if isinstance(theirs, Tensor):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()
        return
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        same(a, b, tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_computes_the_same_and_has_its_interface(name: str) -> None:
    model, x = make(name, num_classes=5, in_chans=2), images(name, 2)
    ours = attnzoo.accelerate(model)
    assert 0 <= ours.largest_difference < TOLERANCE
    with torch.no_grad():
        same(ours(x), model(x))
        features = model.forward_features(x)
        same(ours.forward_features(x), features)
        same(ours.forward_head(features), model.forward_head(features))
        same(ours.forward_head(features, pre_logits=True), model.forward_head(features, pre_logits=True))
        same(
            ours.forward_intermediates(x, 1, intermediates_only=True),
            model.forward_intermediates(x, 1, intermediates_only=True),
        )
    for attribute in ("num_features", "head_hidden_size", "num_classes", "in_chans"):
        assert getattr(ours, attribute) == getattr(model, attribute)
    assert [info["num_chs"] for info in ours.feature_info] == [
        info["num_chs"] for info in model.feature_info if not info["module"].startswith("stem")
    ]
    assert ours.get_classifier().weight.shape[0] == 5


HEADS = [
    {"num_classes": 0},
    {"num_classes": 0, "global_pool": ""},
    {"num_classes": 3, "global_pool": ""},
    {"global_pool": "max"},
    {"global_pool": "catavgmax"},
]
# heads that timm's classes do not have, or that fail in timm
IMPOSSIBLE = {
    "swiftformer": (2, 3, 4),
    "shvit": (2, 4),
    "twins_svt": (3, 4),
    "twins_pcpvt": (3, 4),
    "mambaout": (3, 4),
    "davit": (4,),
    "halonet": (2,),
}


@pytest.mark.parametrize(
    ("name", "head"),
    [(name, head) for name in NAMES for i, head in enumerate(HEADS) if i not in IMPOSSIBLE.get(name, ())],
    ids=str,
)
def test_every_head(name: str, head: dict[str, Any]) -> None:
    model, x = make(name, **head), images(name)
    ours = attnzoo.accelerate(model)
    with torch.no_grad():
        same(ours(x), model(x))
    assert ours.num_classes == model.num_classes


@pytest.mark.parametrize("name", NAMES)
def test_a_classifier_can_be_replaced_before_and_after(name: str) -> None:
    model, x = make(name, dtype=torch.float32, num_classes=5), images(name, dtype=torch.float32)
    model.reset_classifier(0)
    ours = attnzoo.accelerate(model)
    with torch.no_grad():
        same(ours(x), model(x), 10 * SINGLE)
    ours.reset_classifier(4, "avg")
    assert ours.eval()(x).shape == (2, 4)


@pytest.mark.parametrize("wrapper", [FeatureListNet, FeatureGetterNet, FeatureHookNet], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_features_are_the_same(name: str, wrapper: type[nn.Module]) -> None:
    model, x = make(name), images(name)
    if wrapper is not FeatureGetterNet and name.startswith("twins"):
        pytest.skip("timm's Twins has no module per stage")
    settings: dict[str, Any] = (
        {} if wrapper is FeatureGetterNet else {"output_fmt": getattr(model, "output_fmt", "NCHW")}
    )
    if wrapper is FeatureListNet:
        settings["flatten_sequential"] = True
    net = wrapper(model, out_indices=(0, 3) if name == "halonet" else (0, 1), **settings).eval()
    ours = attnzoo.accelerate(net)
    with torch.no_grad():
        same(ours(x), net(x))
    assert not ours.training
    for what in ("channels", "reduction"):
        assert getattr(ours.feature_info, what)() == getattr(net.feature_info, what)()
    assert ours.output_fmt == net.output_fmt


def test_features_of_some_stages_and_normed_ones() -> None:
    model, x = make("swin"), images("swin")
    for net in (
        FeatureGetterNet(copy.deepcopy(model), out_indices=1, norm=True),
        FeatureGetterNet(copy.deepcopy(model), out_indices=(0,)),
        FeatureListNet(copy.deepcopy(model), out_indices=(-2,), flatten_sequential=True, output_fmt="NHWC"),
    ):
        ours = attnzoo.accelerate(net.eval())
        with torch.no_grad():
            same(ours(x), net(x))


SWIN = {
    "size_that_windows_do_not_divide": {"img_size": 80},
    "one_axis_shifted": {"img_size": (32, 64), "window_size": 4},
    "rectangular_windows": {"img_size": (64, 96), "window_size": (4, 6)},
    "windows_per_stage": {"window_size": (8, 4)},
    "small_map": {"img_size": 24},
    "always_partition": {"always_partition": True, "window_size": 8},
    "dynamic": {"dynamic_img_size": True},
    "patch_size": {"patch_size": 2, "img_size": 32},
    "mlp_ratios": {"mlp_ratio": (2, 3), "qkv_bias": False},
    "eps": {"norm_layer": partial(nn.LayerNorm, eps=1e-2)},
}


@pytest.mark.parametrize("case", SWIN)
def test_arguments_of_swin(case: str) -> None:
    model = make("swin", **SWIN[case])
    ours = attnzoo.accelerate(model)
    sizes = [(80, 56), (36, 64)] if case == "dynamic" else [tuple(model.patch_embed.img_size)]
    for size in sizes:
        x = torch.randn(2, 3, *size, dtype=torch.float64)
        with torch.no_grad():
            same(ours(x), model(x))


def test_a_swin_for_images_of_another_size() -> None:
    model = make("swin")
    model.set_input_size((96, 64))
    ours, x = attnzoo.accelerate(model), torch.randn(1, 3, 96, 64, dtype=torch.float64)
    with torch.no_grad():
        same(ours(x), model(x))


def test_a_halonet_with_a_last_convolution_and_its_features() -> None:
    model, x = make("halonet", num_features=24, act_layer="silu", num_classes=3), images("halonet")
    net = FeatureListNet(copy.deepcopy(model), out_indices=(0, 4), flatten_sequential=True).eval()
    for network in (model, net):
        ours = attnzoo.accelerate(network)
        with torch.no_grad():
            same(ours(x), network(x))
    assert ours.feature_info.channels() == net.feature_info.channels()


RATES: dict[str, dict[str, float]] = {
    "swin": {"proj_drop_rate": 0.1, "drop_path_rate": 0.3},
    "twins_svt": {"proj_drop_rate": 0.1, "drop_path_rate": 0.3},
    "davit": {"drop_path_rate": 0.3},
    "swiftformer": {"proj_drop_rate": 0.1, "drop_path_rate": 0.3},
    "mambaout": {"drop_path_rate": 0.3},
    "shvit": {},
    "halonet": {"drop_path_rate": 0.3},
}


def rates(model: nn.Module) -> list[tuple[str, float]]:
    found = [("path", m.drop_prob) for m in model.modules() if getattr(m, "drop_prob", 0) > 0]
    return sorted(found + [("units", m.p) for m in model.modules() if isinstance(m, nn.Dropout) and m.p > 0])


@pytest.mark.parametrize("name", RATES)
def test_training_state_is_kept(name: str) -> None:
    model = make(name, drop_rate=0.2, **RATES[name]).train()
    first = next(model.parameters()).requires_grad_(False)
    norm = next(m for m in model.modules() if isinstance(m, (nn.BatchNorm2d, nn.LayerNorm))).eval()
    norm.eps = 1e-3
    before = copy.deepcopy(model.state_dict())
    modes, random = [m.training for m in model.modules()], torch.get_rng_state()
    ours = attnzoo.accelerate(model)

    assert torch.equal(torch.get_rng_state(), random)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert not first.requires_grad
    assert all(p.grad is None for p in model.parameters())

    assert ours.training
    frozen = [key for key, p in ours.named_parameters() if not p.requires_grad]
    assert len(frozen) == 1
    assert frozen[0].startswith("stem")
    of_eval = [m for m in ours.modules() if not m.training and not list(m.children())]
    assert len(of_eval) == 1
    assert of_eval[0].eps == 1e-3
    # Swin's MLP has one dropout layer for both places here; SwiftFormer's attention blocks have two for one
    assert set(rates(ours)) == set(rates(model)) | ({("units", 0.2)} if name == "shvit" else set())
    assert [r for r in rates(ours) if r[0] == "path"][-1:] == [r for r in rates(model) if r[0] == "path"][-1:]

    ours(images(name)).square().sum().backward()
    assert all((p.grad is None) == (not p.requires_grad) for p in ours.parameters())


@pytest.mark.parametrize("name", ["swin", "swiftformer", "shvit"])
def test_gradients_are_the_same(name: str) -> None:
    model, x = make(name, num_classes=3), images(name)
    ours = attnzoo.accelerate(model)
    gradients = []
    for network in (model, ours):
        given = x.clone().requires_grad_()
        network(given).square().sum().backward()
        gradients.append(given.grad)
    same(gradients[1], gradients[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    model = make("davit", dtype=dtype)
    ours = attnzoo.accelerate(model)
    assert {p.dtype for p in ours.parameters()} == {dtype}
    assert ours.largest_difference < (TOLERANCE if dtype == torch.float64 else SINGLE)


def test_mixed_dtypes_are_kept() -> None:
    model = make("mambaout", dtype=torch.bfloat16)
    model.stem.float()
    ours = attnzoo.accelerate(model)
    assert {p.dtype for p in ours.stem.parameters()} == {torch.float32}
    assert {p.dtype for p in ours.stages.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["davit", "swiftformer", "shvit"])
def test_fused_for_inference(name: str, dtype: torch.dtype) -> None:
    model, x = make(name, dtype=dtype).train(), images(name, dtype=dtype)
    ours = attnzoo.accelerate(model, fuse=True)
    assert not ours.training
    assert not any(isinstance(module, nn.BatchNorm2d) for module in ours.stages.modules())
    tolerance = SINGLE if dtype == torch.float32 else TOLERANCE
    with torch.no_grad():
        same(ours(x), model.eval()(x), tolerance)
    assert 0 <= ours.largest_difference < tolerance


def test_a_frozen_network_stays_frozen_when_fused() -> None:
    fused = attnzoo.accelerate(make("swiftformer").requires_grad_(False), fuse=True)
    assert not any(x.requires_grad for x in fused.parameters())


def test_the_configuration_of_a_model_by_name() -> None:
    model = timm.create_model("shvit_s1", num_classes=7)
    ours = attnzoo.accelerate(model)
    config = ours.pretrained_cfg
    assert (config["architecture"], config["first_conv"], config["classifier"]) == (
        "zoo_shvit_s1",
        "stem.0.conv",
        "head.fc",
    )
    assert config["mean"] == model.pretrained_cfg["mean"]
    assert ours.get_submodule(config["first_conv"]).in_channels == 3
    assert model.pretrained_cfg["classifier"] == "head.l"
    # the names are those of the model of the name
    timm.create_model("zoo_shvit_s1", num_classes=7).load_state_dict(ours.state_dict())


def test_gradient_checkpointing_is_kept() -> None:
    model = make("mambaout").train()
    model.set_grad_checkpointing()
    assert all(stage.grad_checkpointing for stage in attnzoo.accelerate(model).stages)


def grouped() -> nn.Module:
    model = make("halonet")
    convolution = model.stages[0][0].conv2_kxk.conv
    model.stages[0][0].conv2_kxk.conv = nn.Conv2d(*convolution.weight.shape[:2], 3, padding=1, groups=2)
    return model


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "attn_drop_rate": (lambda: make("swin", attn_drop_rate=0.1), "attn_drop_rate"),
    "norm_layer": (lambda: make("swin", norm_layer=RmsNorm), "norm_layer"),
    "head_dim": (lambda: make("swin", head_dim=8), "head_dim"),
    "pos_drop_rate": (lambda: make("twins_svt", pos_drop_rate=0.1), "pos_drop_rate"),
    "twins_norm": (lambda: make("twins_pcpvt", norm_layer=RmsNorm), "norm_layer"),
    "ffn": (lambda: make("davit", ffn=False), "ffn"),
    "cpe_act": (lambda: make("davit", cpe_act=True), "cpe_act"),
    "attn_types": (lambda: make("davit", attn_types=("channel", "spatial")), "attn_types"),
    "down_kernel_size": (lambda: make("davit", down_kernel_size=3), "down_kernel_size"),
    "channel_attn_v2": (lambda: make("davit", channel_attn_v2=True), "channel_attn_v2"),
    "head_norm_first": (lambda: make("davit", head_norm_first=True), "head_norm_first"),
    "use_layer_scale": (lambda: make("swiftformer", use_layer_scale=False), "use_layer_scale"),
    "act_layer": (lambda: make("swiftformer", act_layer=nn.ReLU), "act_layer"),
    "downsamples": (lambda: make("swiftformer", downsamples=(True, True)), "downsamples"),
    "down_patch_size": (lambda: make("swiftformer", down_patch_size=5, down_pad=2), "down_patch_size"),
    "ls_init_value": (lambda: make("mambaout", ls_init_value=1e-5), "ls_init_value"),
    "conv_ratio": (lambda: make("mambaout", conv_ratio=0.5), "conv_ratio"),
    "stem_mid_norm": (lambda: make("mambaout", stem_mid_norm=False), "stem_mid_norm"),
    "downsample": (lambda: make("mambaout", downsample="conv_nf"), "downsample"),
    "head_fn": (lambda: make("mambaout", head_fn="norm_mlp"), "head_fn"),
    "qk_dim": (lambda: make("shvit", qk_dim=(16, 16, 8)), "qk_dim"),
    "fused": (lambda: make("shvit").fuse(), "fuse"),
    "drop_block_rate": (lambda: make("halonet", drop_block_rate=0.1), "drop_block_rate"),
    "stem_pool": (lambda: make("halonet", stem_pool=""), "stem_pool"),
    "attn_layer": (lambda: make("halonet", attn_layer="se"), "attn_layer"),
    "group_size": (grouped, "gs"),
    "halo": (lambda: make("halonet", self_attn_kwargs={"block_size": 4, "avg_down": True}), "avg_down"),
    "output_stride": (lambda: make("halonet", output_stride=16), "output_stride"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_ours_cannot_express_is_named(case: str) -> None:
    build, argument = REFUSED[case]
    with pytest.raises(ValueError, match=f"`{argument}`") as error:
        attnzoo.accelerate(build())
    assert "\n" not in str(error.value)


class Scaled(SwinTransformer):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


UNKNOWN: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: timm.create_model("test_resnet"),
    "swin_v2": lambda: timm.create_model("swinv2_tiny_window8_256", embed_dim=12, depths=(1, 1), num_heads=(1, 2)),
    "subclass": lambda: Scaled(img_size=64, embed_dim=24, depths=(1, 1), num_heads=(2, 4), window_size=4),
    "halonet_without_halo": lambda: timm.create_model("gcresnet33ts", width_factor=0.25),
    "ours": lambda: timm.create_model("swin_pico"),
    "compiled": lambda: torch.compile(make("swin")),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_an_unknown_network_is_told_what_is_known(case: str) -> None:
    with pytest.raises(ValueError, match=r"does not know .*Swin.*HaloNet") as error:
        attnzoo.accelerate(UNKNOWN[case]())
    assert ("_orig_mod" in str(error.value)) == (case == "compiled")


def first_linear(model: nn.Module) -> tuple[str, Any]:
    return next((name, x) for name, x in model.named_modules() if type(x) is nn.Linear)


def test_changed_layers_are_refused() -> None:
    """What only shows in training is found, too."""
    model = make("swin")
    name, linear = first_linear(model)
    linear.forward = lambda x: nn.functional.linear(x, linear.weight, linear.bias) + int(linear.training)
    with pytest.raises(ValueError, match=f"`forward` of {name} is not that of its class"):
        attnzoo.accelerate(model)
    model = make("twins_svt")
    model.forward_features = lambda x: x  # type: ignore[assignment]
    with pytest.raises(ValueError, match="`forward_features` of the network"):
        attnzoo.accelerate(model)


def test_weights_that_are_no_parameters_of_their_own_are_refused() -> None:
    model = make("swin")
    name, linear = first_linear(model)
    torch.nn.utils.prune.l1_unstructured(linear, "weight", 0.5)
    with pytest.raises(ValueError, match=rf"{name}\.weight is not a parameter; .*prune\.remove"):
        attnzoo.accelerate(model)
    torch.nn.utils.prune.remove(linear, "weight")
    assert attnzoo.accelerate(model).largest_difference < SINGLE
    with torch.no_grad():
        linear.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=rf"{name}\.weight has values that are not finite"):
        attnzoo.accelerate(model)
    model = make("swin")
    blocks = model.layers[1].blocks
    blocks[1].mlp.fc1.weight = blocks[0].mlp.fc1.weight
    with pytest.raises(ValueError, match=r"shared parameter: .*blocks\.0\.mlp\.fc1\.weight and .*blocks\.1"):
        attnzoo.accelerate(model)


def test_a_network_that_cannot_be_copied_is_refused() -> None:
    model = make("swin")
    model.lock = threading.Lock()
    with pytest.raises(ValueError, match="of which there is no copy"):
        attnzoo.accelerate(model)


def test_other_things_are_refused() -> None:
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        attnzoo.accelerate("swin_tiny")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one device"):
        attnzoo.accelerate(make("swin").to("meta"))
    with pytest.raises(ValueError, match="dictionary"):
        attnzoo.accelerate(FeatureDictNet(make("swin"), (0, 1), flatten_sequential=True))


SHAPE: dict[str, Any] = {"depths": [1, 2], "num_labels": 5}
SWIN_SHAPE = {**SHAPE, "embed_dim": 24, "num_heads": [2, 4], "window_size": 4, "image_size": (48, 32)}
SWIFTFORMER_SHAPE = {
    **SHAPE, "embed_dims": [16, 24], "drop_path_rate": 0.3, "drop_mlp_rate": 0.1, "drop_conv_encoder_rate": 0.2
}  # fmt: skip
TRANSFORMERS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "swin": ("Swin", SWIN_SHAPE, {}),
    "swin_model": ("Swin", SWIN_SHAPE, {"add_pooling_layer": True}),
    "swin_tokens": ("Swin", SWIN_SHAPE, {"add_pooling_layer": False}),
    "swiftformer": ("SwiftFormer", SWIFTFORMER_SHAPE, {}),
}


@pytest.mark.parametrize("case", TRANSFORMERS)
def test_networks_of_transformers(case: str) -> None:
    transformers = pytest.importorskip("transformers", reason="needs attnzoo[clients]")
    name, shape, arguments = TRANSFORMERS[case]
    kind = f"{name}Model" if arguments else f"{name}ForImageClassification"
    model = getattr(transformers, kind)(getattr(transformers, f"{name}Config")(**shape), **arguments)
    model.train()
    ours, x = attnzoo.accelerate(model), torch.randn(2, 3, 48, 32)
    assert ours.training
    assert {rate for kind, rate in rates(ours)} == {rate for kind, rate in rates(model)}
    with torch.no_grad():
        outputs = model.eval()(x)
        theirs = next(outputs[key] for key in ("logits", "pooler_output", "last_hidden_state") if key in outputs)
        same(ours.eval()(x), theirs, 2e-5)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("use_absolute_embeddings", True), ("hidden_act", "relu"), ("attention_probs_dropout_prob", 0.1)],
)
def test_arguments_of_transformers_that_ours_lack(argument: str, value: Any) -> None:
    transformers = pytest.importorskip("transformers", reason="needs attnzoo[clients]")
    model = transformers.SwinModel(transformers.SwinConfig(**SWIN_SHAPE, **{argument: value}))
    with pytest.raises(ValueError, match=f"`{argument}`"):
        attnzoo.accelerate(model)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("swin_tiny_patch4_window7_224", "swin_s3_tiny_224", "twins_svt_small", "twins_pcpvt_small", "davit_tiny"),
        *("swiftformer_xs", "mambaout_femto", "shvit_s1", "halonet26t", "halonet50ts", "halonet_h1"),
    ],
)
@pytest.mark.parametrize("features_only", [False, True])
def test_published_sizes(name: str, features_only: bool) -> None:
    model = timm.create_model(name, features_only=features_only).eval()
    ours, x = attnzoo.accelerate(model), torch.randn(1, 3, *(256,) * 2 if "halo" in name else (224,) * 2)
    with torch.no_grad():
        same(ours(x), model(x), 2e-5)
