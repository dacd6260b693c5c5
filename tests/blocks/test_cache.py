"""What evaluation keeps between calls: right after every change of a parameter, and for concurrent readers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
from torch import nn

import attnzoo  # noqa: F401
from attnzoo.kernels.cache import VARIABLE
from tests.tiers import quick

KEEPING = ["agent_pico", "agent_cswin_pico"]
# one of each family that keeps biases, plans or packed weights
FAMILIES = [
    "agent_pico",
    "agent_cswin_pico",
    "agent_deit_pico",
    "agent_swin_pico",
    "biformer_pico",
    "davit_pico",
    "dhvt_pico",
    "dinat_s_pico",
    "halonet_pico",
    "litv2_pico",
    "moh_vit_pico",
    "nat_pico",
    "overlock_pico",
    "ravlt_pico",
    "swin_pico",
    "twins_pcpvt_pico",
    "twins_svt_pico",
    "vitrpb_pico",
]


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


@pytest.mark.parametrize(
    "name", quick(FAMILIES, ["agent_pico", "agent_cswin_pico", "agent_deit_pico", "moh_vit_pico", "nat_pico"])
)
def test_threads_with_several_sizes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # so little that threads drop the values of each other
    monkeypatch.setenv(VARIABLE, "0.2")
    arguments = {"auto_pad": True} if name == "biformer_pico" else {}
    model = timm.create_model(name, num_classes=5, **arguments).eval()
    images = [torch.randn(1, 3, *size) for size in ((32, 64), (64, 32), (64, 64))]

    def call(i: int) -> torch.Tensor:
        with torch.no_grad():
            return model(images[i % 3])

    true = [call(i) for i in range(3)]
    # position biases and plans are kept; a fused model also keeps packed weights
    for _ in range(2):
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(call, range(24)))
        for i, logits in enumerate(found):
            torch.testing.assert_close(logits, true[i % 3], rtol=1e-4, atol=1e-5)
        model.fuse()
