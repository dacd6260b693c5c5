"""Agent attention: an explicit implementation, biases at any size, and when they are interpolated."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attnzoo.blocks import AgentAttention, resize_line
from attnzoo.blocks.agent import AgentBiases

DIM, HEADS, AGENTS = 24, 3, 9


def mixer(**kwargs: object) -> AgentAttention:
    torch.manual_seed(0)
    module = AgentAttention(DIM, HEADS, AGENTS, **{"map_size": (6, 8), **kwargs}).eval()
    for name, parameter in module.named_parameters():
        if name.endswith("_bias"):
            torch.nn.init.normal_(parameter)
    return module


def tables(biases: AgentBiases, height: int, width: int, agents: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Computes both biases, (h, a, T) and (h, T, a), step by step as in the official code for dense prediction."""
    side, tokens = biases.side, height * width

    def to_size(grid: Tensor) -> Tensor:
        grid = F.interpolate(grid, (height, width), mode="bilinear").reshape(HEADS, side, side, tokens)
        return F.interpolate(grid.permute(0, 3, 1, 2), agents, mode="bilinear").reshape(HEADS, tokens, -1)

    to_agents = to_size(biases.an_bias) + to_size((biases.ah_bias + biases.aw_bias)[0])
    lines = (biases.ha_bias + biases.wa_bias)[0].permute(0, 3, 1, 2)
    return to_agents.transpose(1, 2), to_size(biases.na_bias) + to_size(lines)


def formula(module: AgentAttention, x: Tensor, agents: tuple[int, int]) -> Tensor:
    """Computes agent attention of a map head by head, without the optimizations of biases."""
    _, height, width, channels = x.shape
    q, k, v = module.qkv(x.flatten(1, 2)).split(channels, -1)
    pooled = F.adaptive_avg_pool2d(q.transpose(1, 2).reshape(-1, channels, height, width), agents)
    pooled = pooled.flatten(2).transpose(1, 2)
    to_agents, to_tokens = tables(module.biases, height, width, agents)
    scale, heads = (channels // HEADS) ** -0.5, []
    for head, (query, key, value, agent) in enumerate(
        zip(*(part.chunk(HEADS, -1) for part in (q, k, v, pooled)), strict=True)
    ):
        gathered = (agent @ key.mT * scale + to_agents[head]).softmax(-1) @ value
        heads.append((query @ agent.mT * scale + to_tokens[head]).softmax(-1) @ gathered)
    local = F.conv2d(
        v.transpose(1, 2).reshape(-1, channels, height, width),
        module.dwc.weight,
        module.dwc.bias,
        padding=1,
        groups=channels,
    )
    return module.proj(torch.cat(heads, -1) + local.flatten(2).transpose(1, 2)).reshape(x.shape)


@pytest.mark.parametrize("size", [(6, 8), (7, 7), (3, 11), (2, 1)], ids=str)
@pytest.mark.parametrize("dense_agents", [None, 16, 4])
def test_equals_the_formula_at_any_size(size: tuple[int, int], dense_agents: int | None) -> None:
    module = mixer(dense_agents=dense_agents).double()
    x = torch.randn(2, *size, DIM, dtype=torch.float64)
    side = round((dense_agents or AGENTS) ** 0.5)
    torch.testing.assert_close(module(x), formula(module, x, (side, side)))


def test_gradients_equal_those_of_the_formula() -> None:
    module = mixer().double()
    x = torch.randn(1, 5, 7, DIM, dtype=torch.float64, requires_grad=True)
    inputs = [x, *module.parameters()]
    ours = torch.autograd.grad(module(x).square().sum(), inputs)
    theirs = torch.autograd.grad(formula(module, x, (3, 3)).square().sum(), inputs)
    for found, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, wanted)


class Counter:
    """Counts the calls of `F.interpolate`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls, self._real = 0, F.interpolate
        monkeypatch.setattr(F, "interpolate", self)

    def __call__(self, *args: object, **kwargs: object) -> Tensor:
        self.calls += 1
        return self._real(*args, **kwargs)


def test_grids_are_interpolated_once_for_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    module, counter = mixer(), Counter(monkeypatch)
    with torch.no_grad():
        module(torch.randn(1, 6, 8, DIM))
        assert counter.calls == 2
        module(torch.randn(2, 6, 8, DIM))
        assert counter.calls == 2
        module(torch.randn(1, 5, 5, DIM))
        assert counter.calls == 6


def test_in_training_grids_are_interpolated_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    module, counter = mixer().train(), Counter(monkeypatch)
    for _ in range(3):
        module(torch.randn(1, 6, 8, DIM)).sum().backward()
    assert counter.calls == 6
    assert all(parameter.grad is not None for parameter in module.parameters())


@pytest.mark.parametrize("change", ["in place", "loaded", "trained", "half", "replaced"])
def test_what_is_kept_follows_the_parameters(change: str) -> None:
    module, x = mixer(), torch.randn(1, 6, 8, DIM)
    with torch.no_grad():
        before = module(x)
        if change == "in place":
            module.biases.an_bias.mul_(3)
        elif change == "loaded":
            module.load_state_dict({name: tensor * 2 for name, tensor in module.state_dict().items()})
        elif change == "trained":
            module.train()
            module.biases.na_bias.data *= -1
            module.eval()
        elif change == "half":
            module, x = module.bfloat16(), x.bfloat16()
        else:
            module.biases.wa_bias = torch.nn.Parameter(torch.randn_like(module.biases.wa_bias))
        fresh = copy.deepcopy(module)
        fresh.biases._cache.clear()
        after = module(x)
        assert torch.equal(after, fresh(x))
    assert change == "half" or not torch.equal(before, after)


def test_inference_mode_and_gradients_take_turns() -> None:
    module, x = mixer(), torch.randn(1, 6, 8, DIM)
    with torch.inference_mode():
        expected = module(x)
    y = x.clone().requires_grad_()
    module(y).sum().backward()
    with torch.no_grad():
        assert torch.equal(module(x), expected)
    assert y.grad is not None


def test_class_token_stays_out_of_pooling_and_convolution() -> None:
    torch.manual_seed(0)
    module = AgentAttention(DIM, HEADS, AGENTS, (4, 5), class_token=True).eval()
    x = torch.randn(1, 21, DIM)
    alone = module.forward_tokens(x, 4, 5)
    assert alone.shape == x.shape
    with torch.no_grad():
        module.biases.ac_bias.fill_(-torch.inf)
        module.biases.ca_bias.zero_()
        hidden = module.forward_tokens(x, 4, 5)
        x[:, 0] += 1
        changed = module.forward_tokens(x, 4, 5)
    # the bias masks the class token for all agents, so the map does not depend on it
    assert torch.equal(hidden[:, 1:], changed[:, 1:])
    assert not torch.equal(hidden[:, 0], changed[:, 0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_agents": 10}, r"number of agents must be a square number \(1, 4, 9, \.\.\.\), got 10"),
        ({"dense_agents": 0}, r"number of agents must be a square number \(1, 4, 9, \.\.\.\), got 0"),
        ({"num_heads": 5}, "dim must be a multiple of num_heads, got 24 channels for 5 heads"),
    ],
    ids=str,
)
def test_mistakes(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AgentAttention(**{"dim": DIM, "num_heads": HEADS, **arguments})


def test_a_line_is_interpolated_along_one_axis_only() -> None:
    line = torch.arange(4.0).reshape(1, 1, 4, 1, 1).expand(1, 2, 4, 1, 3)
    longer = resize_line(line, 8, 2)
    assert longer.shape == (1, 2, 8, 1, 3)
    expected = F.interpolate(torch.arange(4.0).reshape(1, 1, 4), size=8, mode="linear")[0, 0]
    assert torch.equal(longer[0, 1, :, 0, 2], expected)
    assert resize_line(line, 4, 2) is line
