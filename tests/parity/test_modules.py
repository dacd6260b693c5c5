"""Layers with official weights have the same outputs as the official layers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from attnzoo.agent_checkpoints import checkpoint_filter_fn
from attnzoo.biformer import rename
from attnzoo.blocks import (
    AgentAttention,
    BiLevelRoutingAttention,
    EfficientAttention,
    FlowCrossAttention,
    FocusBlock,
    GaussianBlock,
    LepeAttention,
    MultiHeadScan,
    NeighborhoodAttention,
    QuantizableAttention,
    SubspaceAttention,
    attention_layer,
)
from attnzoo.overlock import checkpoint_filter_fn as overlock_filter

from .recipe import PATHS, Case, load_case, readable, relative_error

MODULES = [path for path in PATHS if path.stem.startswith("module_")]

Arguments = dict[str, int]


def neighborhood(case: Case, arguments: Arguments) -> nn.Module:
    module = NeighborhoodAttention(case.images.shape[-1], **arguments)
    module.load_state_dict(case.checkpoint)
    return module


class Tokens(nn.Module):
    """Runs agent attention, with or without a class token, on tokens (B, N, C, 1) of a square map."""

    def __init__(self, module: AgentAttention) -> None:
        super().__init__()
        self.attn = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x[..., 0]
        side = math.isqrt(x.shape[1])
        return self.attn.forward_tokens(x, side, side)


def agent(case: Case, arguments: Arguments) -> nn.Module:
    heads, agents, has_class = arguments["num_heads"], arguments["agent_num"], "deit" in case.name
    module = Tokens(AgentAttention(case.images.shape[2], heads, agents, class_token=has_class))
    official = {f"block.attn.{name}": tensor for name, tensor in case.checkpoint.items()}
    renamed = checkpoint_filter_fn(official, module)
    module.load_state_dict({name.removeprefix("block."): tensor for name, tensor in renamed.items()})
    return module


def routing(case: Case, arguments: Arguments) -> nn.Module:
    module = BiLevelRoutingAttention(
        case.images.shape[-1],
        arguments["num_heads"],
        arguments["n_win"],
        arguments["topk"],
        auto_pad="auto_pad=True" in case.facts["constructor"],
        lepe_kernel=arguments["side_dwconv"],
    )
    return load_routing(module, case)


def dense(case: Case, arguments: Arguments) -> nn.Module:
    return load_routing(LepeAttention(case.images.shape[-1], lepe_kernel=arguments["side_dwconv"]), case)


def load_routing(module: nn.Module, case: Case) -> nn.Module:
    module.load_state_dict({rename(f".attn.{name}")[6:]: tensor for name, tensor in case.checkpoint.items()})
    return module


class ChannelFirstFocusBlock(nn.Module):
    """A focus block that takes map, context and prior as one channel-first map."""

    def __init__(self, dim: int, context_dim: int, **arguments: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([FocusBlock(dim, context_dim, **arguments)])
        self.split = dim + context_dim

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 2, 3, 1)
        return self.blocks[0](x[..., : self.split], x[..., self.split :]).permute(0, 3, 1, 2)


def focus_block(case: Case, arguments: Arguments) -> nn.Module:
    module = ChannelFirstFocusBlock(
        arguments["dim"],
        # the official block uses a quarter of this for the context, and twice as many heads
        arguments["ctx_dim"] // 4,
        num_heads=2 * arguments["num_heads"],
        kernel_size=arguments["kernel_size"],
        small_kernel_size=arguments["smk_size"],
        mlp_ratio=arguments["mlp_ratio"],
    )
    # the filter of the network expects the layer at its position in the network
    network = nn.ModuleDict({"stages": nn.ModuleList([nn.Module(), nn.Module(), module])})
    checkpoint = {f"sub_blocks3.0.{name}": tensor for name, tensor in case.checkpoint.items()}
    network.load_state_dict(overlock_filter(checkpoint, network))
    return module


def plugin(case: Case, module: nn.Module, names: dict[str, str]) -> nn.Module:
    """Loads official tensors, whose names begin with the keys of a table, under the names in the table."""
    ours, renamed = module.state_dict(), {}
    for name, tensor in case.checkpoint.items():
        start = next(start for start in names if name.startswith(start))
        key = names[start] + name.removeprefix(start)
        # the weights of a layer norm of maps
        renamed[key] = tensor.reshape(ours[key].shape)
    module.load_state_dict(renamed)
    return module


def polarized(case: Case, arguments: Arguments) -> nn.Module:
    names = {"conv_q_right": "channel_query", "conv_v_right": "channel_value", "conv_up": "channel_proj"}
    names |= {"conv_q_left": "query", "conv_v_left": "value"}
    if "conv_up.weight" in case.checkpoint:
        names = {"conv_up.": "channel_proj.0.", **names}
    return plugin(case, attention_layer(case.name.removeprefix("module_"))(case.images.shape[1]), names)


def subspaces(case: Case, arguments: Arguments) -> nn.Module:
    module = SubspaceAttention(arguments["nin"], arguments["num_splits"])
    names = {"conv_dws": "depthwise", "bn_dws": "norm1", "conv_point": "pointwise", "bn_point": "norm2"}
    joined = {}
    for name in (name for name in case.checkpoint if name.startswith("subspaces.0.")):
        layer, leaf = name.removeprefix("subspaces.0.").split(".")
        each = [case.checkpoint[f"subspaces.{i}.{layer}.{leaf}"] for i in range(arguments["num_splits"])]
        joined[f"{names[layer]}.{leaf}"] = torch.cat(each) if each[0].ndim else each[0]
    module.load_state_dict(joined)
    return module


def strips(case: Case, arguments: Arguments) -> nn.Module:
    module = attention_layer(case.name.removeprefix("module_"))(case.images.shape[1])
    return plugin(case, module, {"conv": "conv", "gn": "norm"})


def efficient(case: Case, arguments: Arguments) -> nn.Module:
    channels, heads = arguments["in_channels"], arguments["head_count"]
    widths = arguments["key_channels"], arguments["value_channels"]
    names = {"queries": "queries", "keys": "keys", "values": "values", "reprojection": "proj"}
    return plugin(case, EfficientAttention(channels, heads, *widths, residual=True), names)


def gaussian(case: Case, arguments: Arguments) -> nn.Module:
    # four heads of five Gaussians in every layer
    module = GaussianBlock(case.images.shape[1], arguments["num_layers"])
    joined = {}
    for i in range(arguments["num_layers"]):
        for theirs, ours in (("mean_offsets", "offsets"), ("c", "scales")):
            each = [case.checkpoint[f"layers.{i}.attention_heads.{j}.{theirs}"] for j in range(4)]
            joined[f"layers.{i}.{ours}"] = torch.stack(each)
    module.load_state_dict(joined)
    return module


def scans(case: Case, arguments: Arguments) -> nn.Module:
    module = MultiHeadScan(arguments["d_model"], arguments["d_state"])
    layers = {"in_proj": "x_ssproj", "norm": "cat_norm", "out_proj": "y_proj"}
    state = {
        f"{ours}.{leaf}": case.checkpoint.get(f"{name}.{leaf}")
        for ours, name in layers.items()
        for leaf in ("weight", "bias")
    }
    parts = {
        "x_proj": "x_proj_weight",
        "dt_proj": "dt_projs_weight",
        "dt_bias": "dt_projs_bias",
        "A_log": "A_logs",
        "D": "Ds",
    }
    for ours, name in parts.items():
        each = [case.checkpoint[f"scanhead_{head}.scanning.seq2seq_engine.{name}"] for head in "CXSZ"]
        state[ours] = torch.cat(each).reshape(module.get_parameter(ours).shape)
    module.load_state_dict({name: tensor for name, tensor in state.items() if tensor is not None})
    return ChannelsFirst(module)


class ChannelsFirst(nn.Module):
    """Gives a module a map (B, C, H, W) channel-last."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x.permute(0, 2, 3, 1))


class FirstTokens(nn.Module):
    """Attention of all tokens of a map (B, C, H, W) to its first hundred: -> (B, H * W, out_dim)."""

    def __init__(self, module: FlowCrossAttention) -> None:
        super().__init__()
        self.attn = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return self.attn(tokens, tokens[:, :100], tokens[:, :100])


def flow(case: Case, arguments: Arguments) -> nn.Module:
    dim, inner_dim, out_dim, heads = map(int, re.findall(r"\d+", case.facts["constructor"]))
    names = {"query": "query", "key": "key", "value": "value", "out": "proj"}
    names = {f"{theirs}_projection.": f"{ours}." for theirs, ours in names.items()}
    return FirstTokens(plugin(case, FlowCrossAttention(dim, heads, inner_dim, out_dim), names))


class MapAttention(nn.Module):
    """Runs attention on the positions of a map (B, C, H, W) as tokens."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.attn = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attn(x.flatten(2).transpose(1, 2))


def quantizable(case: Case, arguments: Arguments) -> nn.Module:
    dim, heads, weights = case.images.shape[1], 3, case.checkpoint
    options = {"gate": "linear"} if "gate" in case.name else {"softmax": "clipped", "clip": (-0.003, 1.0)}
    module = QuantizableAttention(dim, heads, **options)
    module.proj = nn.Identity()
    parts = ("query", "key", "value")
    state = {f"qkv.{leaf}": torch.cat([weights[f"{part}.{leaf}"] for part in parts]) for leaf in ("weight", "bias")}
    if module.gate is not None:
        for theirs, ours in (("weight", "gate.weights.0"), ("bias", "gate.biases.0")):
            state[ours] = torch.stack([weights[f"alpha.{i}.{theirs}"].reshape(1, -1) for i in range(heads)])
    module.load_state_dict(state)
    return MapAttention(module)


# builders of our layers with official weights, by the last part of the official constructor's name
BUILDERS: dict[str, Callable[[Case, Arguments], nn.Module]] = {
    "AgentAttention": agent,
    "AttentionLePE": dense,
    "BertSelfAttentionWithExtras": quantizable,
    "BiLevelRoutingAttention": routing,
    "DynamicConvBlock": focus_block,
    "ELA-S: kernel 5, 8 channel": strips,
    "ELA-T: kernel 5, 1 channel": strips,
    "EfficientAttention": efficient,
    "Flow_Attention": flow,
    "GaussianBlock": gaussian,
    "MHSM": scans,
    "NeighborhoodAttention2D": neighborhood,
    "PSA_p": polarized,
    "PSA_s": polarized,
    "ULSAM": subspaces,
}


@pytest.mark.parametrize("path", MODULES, ids=readable)
def test_module(path: Path) -> None:
    case = load_case(path)
    constructor = case.facts["constructor"]
    arguments = {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", constructor)}
    module = BUILDERS[constructor.partition("(")[0].rpartition(".")[2]](case, arguments).eval()
    with torch.no_grad():
        assert relative_error(module(case.images), case.answers["logits"]) < 2e-5
        in_double = module.double()(case.images.double())
    error = relative_error(in_double, case.answers["logits"])
    if "float64_rel_diff" in case.facts:
        assert error == pytest.approx(case.facts["float64_rel_diff"], rel=1e-3)
    else:
        # the rounding error was not recorded
        assert error < 2e-6
