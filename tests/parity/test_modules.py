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
from attnzoo.blocks import AgentAttention, BiLevelRoutingAttention, FocusBlock, LepeAttention, NeighborhoodAttention
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


# builders of our layers with official weights, by the last part of the official constructor's name
BUILDERS: dict[str, Callable[[Case, Arguments], nn.Module]] = {
    "AgentAttention": agent,
    "AttentionLePE": dense,
    "BiLevelRoutingAttention": routing,
    "DynamicConvBlock": focus_block,
    "NeighborhoodAttention2D": neighborhood,
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
    assert error == pytest.approx(case.facts["float64_rel_diff"], rel=1e-3)
