"""When a layer may be computed by a faster formula than its own, without calling it.

Networks consist of `torch.nn.Linear` and `torch.nn.Conv2d` themselves, not of subclasses, so that tools which look a
layer up by its type find it. Blocks call them through functions such as `linear`, which use a faster formula only if
nobody can tell: the layer has torch's own type, plain parameters and no hooks, and no compiler, tracer or mode is
active.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import warnings
from typing import TYPE_CHECKING, TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as calls
from torch.utils._python_dispatch import _get_current_dispatch_mode

from attnzoo.kernels.tracing import is_traced

_HAS_ONEDNN = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability().startswith("AVX")

Kind = TypeVar("Kind", nn.Linear, nn.Conv2d)

if TYPE_CHECKING:
    Layer = nn.Module
else:
    with warnings.catch_warnings():
        # torch deprecates TorchScript
        warnings.simplefilter("ignore")

        @torch.jit.interface
        class Layer(nn.Module):
            """The type of a layer for TorchScript, which cannot compile functions of an `nn.Module`."""

            def forward(self, input: Tensor) -> Tensor:  # noqa: D102  (TorchScript allows no docstring)
                pass


def is_plain_cpu(x: Tensor) -> bool:
    """Returns whether x is float32 on an x86 CPU with oneDNN, outside of autocast, compiler, exporter and script."""
    if torch.jit.is_scripting():
        return False
    return _is_plain_cpu(x)


@torch.jit.unused
def _is_plain_cpu(x: Tensor) -> bool:
    return (
        _HAS_ONEDNN
        and not is_traced()
        and type(x) in (Tensor, nn.Parameter)
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        # modes such as FlopCounterMode see operators
        and _get_current_dispatch_mode() is None
    )


def is_observed(*modules: nn.Module) -> bool:
    """Returns whether hooks, or a replaced method `forward`, see the calls of these modules; without submodules."""
    if calls._has_any_global_hook():
        return True
    for module in modules:
        if (
            module._forward_hooks
            or module._forward_pre_hooks
            or module._backward_hooks
            or module._backward_pre_hooks
            or "forward" in module.__dict__
        ):
            return True
    return False


def is_unmodified(layer: nn.Module, kind: type[Kind]) -> TypeGuard[Kind]:
    """Returns whether a layer is exactly of a type of torch, with plain parameters, and not observed."""
    return type(layer) is kind and type(layer.weight) in (nn.Parameter, Tensor) and not is_observed(layer)
