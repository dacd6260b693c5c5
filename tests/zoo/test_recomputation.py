"""Gradient checkpointing in training: the statistics of batch norms are those without it."""

import copy

import pytest
import timm
import torch
from torch import nn

import attnzoo  # noqa: F401  registers the models


def trained(model, momentum):
    """The state and the gradients after a step on copies of a model, without and with checkpointing."""
    found = []
    for enable in (False, True):
        again = copy.deepcopy(model).train()
        for norm in again.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.momentum = momentum
        again.set_grad_checkpointing(enable)
        outputs = again(torch.linspace(-1, 1, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64).sin())
        sum(x.square().mean() for x in (outputs if isinstance(outputs, tuple) else (outputs,))).backward()
        gradients = {name: p.grad for name, p in again.named_parameters()}
        found.append(
            (dict(again.named_buffers()), gradients, [m.momentum for m in again.modules() if hasattr(m, "momentum")])
        )
    return found


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("name", ["shvit_pico", "overlock_pico", "swiftformer_pico", "van_pico", "dhvt_pico"])
def test_statistics_are_updated_once(name, momentum):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3)
    before = {key: value.clone() for key, value in model.named_buffers() if "running" in key}
    (plain, gradients, momenta), (again, recomputed, after) = trained(model, momentum)
    assert before
    assert any(not torch.equal(plain[key], value) for key, value in before.items())
    assert plain.keys() == again.keys()
    for key, value in plain.items():
        assert torch.equal(again[key], value), key
    assert momenta == after
    for key, value in gradients.items():
        torch.testing.assert_close(recomputed[key], value, msg=key)
