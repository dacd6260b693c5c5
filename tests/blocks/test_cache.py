"""What evaluation keeps between calls: right after every change of a parameter, and for concurrent readers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
from torch import nn

import attnzoo  # noqa: F401

KEEPING = ["agent_pico", "agent_cswin_pico"]


def change_data(x: nn.Parameter) -> None:
    x.data.mul_(3)


def change_through_numpy(x: nn.Parameter) -> None:
    x.detach().numpy()[...] *= 3


def change_vector(x: nn.Parameter) -> None:
    nn.utils.vector_to_parameters(3 * x.detach().flatten(), [x])


def change_in_inference_mode(x: nn.Parameter) -> None:
    with torch.inference_mode():
        x.mul_(3)


@pytest.mark.parametrize(
    "change", [change_data, change_through_numpy, change_vector, change_in_inference_mode], ids=lambda x: x.__name__
)
@pytest.mark.parametrize("name", KEEPING)
def test_a_changed_parameter_is_read(name: str, change) -> None:
    model = timm.create_model(name, num_classes=5).eval()
    x = torch.randn(1, 3, 64, 64)
    tables = [p for n, p in model.named_parameters() if "bias" in n and p.ndim >= 3]
    assert tables
    for table in tables:
        nn.init.normal_(table)
    with torch.no_grad():
        before = model(x)
        for table in tables:
            change(table)
        after = model(x)
    fresh = timm.create_model(name, num_classes=5).eval()
    fresh.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(after, fresh(x))
    assert not torch.equal(after, before)


@pytest.mark.parametrize("is_fused", [False, True], ids=["as created", "fused"])
@pytest.mark.parametrize("name", KEEPING)
def test_threads_with_several_sizes(name: str, is_fused: bool) -> None:
    model = timm.create_model(name, num_classes=5).eval()
    if is_fused:
        model.fuse()
    images = [torch.randn(1, 3, size, size) for size in (32, 64)]

    def call(i: int) -> torch.Tensor:
        with torch.no_grad():
            return model(images[i % 2])

    true = [call(0), call(1)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(call, range(48)))
    for i, logits in enumerate(found):
        torch.testing.assert_close(logits, true[i % 2], rtol=1e-4, atol=1e-5)
