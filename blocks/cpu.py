"""CPU optimizations: faster calls of linear layers and 1x1 convolutions, and recomputation of activations.

torch multiplies matrices with the BLAS library it was built with, and runs convolutions with oneDNN. For float32 on x86
the BLAS library is often MKL, which does not use AVX512 on the processors of every vendor; on those, a linear layer
takes about half the time if it is run as a 1x1 convolution. On Intel's that is faster only for many rows. Processors
without AVX512 run both about equally fast. With one thread and a small batch, torch runs a 1x1 convolution with the
BLAS library too, unless it is dilated. For a kernel of one element, dilation changes only that choice.

Shape legend: C channels, N rows of a matrix.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import os
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from attnzoo.kernels.tracing import is_traced
from attnzoo.kernels.transforms import is_transformed

from .shortcuts import Layer, is_plain_cpu, is_unmodified

_HAS_AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"


def _is_intel() -> bool:
    try:
        # with many cores the file is long; each of them has its vendor at first
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            described = file.read(200)
    except OSError:
        # on Windows
        described = os.environ.get("PROCESSOR_IDENTIFIER", "")
    return "GenuineIntel" in described


# with fewer rows, a convolution is not faster: packing the weights for oneDNN costs more than it saves
_LEAST_ROWS = 4096 if _is_intel() else 128


def prefers_convolution(x: Tensor, rows: int) -> bool:
    """Returns whether x (with `rows` rows, see `is_plain_cpu`) times a matrix is faster as a convolution."""
    # for a single image with fewer elements torch does not use oneDNN
    return _HAS_AVX512 and rows >= _LEAST_ROWS and x.numel() > 20480


class Packed:
    """Weights of a fused layer in the layout of oneDNN, packed once per input shape instead of on every call.

    They are stored in addition to the parameter until it changes, so a fused network takes twice its memory on a CPU.
    Writes through `.data` or NumPy leave no trace: a sample of some dozen weights is compared at every call. It shows a
    change of the whole parameter, not of single weights; call `pack` again after such a change.
    """

    def __init__(self) -> None:
        self._entry: tuple[object, Tensor, Tensor, Tensor] | None = None

    def __getstate__(self) -> dict[str, object]:
        # packed weights are only valid in this process
        return {"_entry": None}

    def multiply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(N, C) with (out, C) and (out,) -> (N, out)."""
        key = (len(x), weight.data_ptr(), weight._version)
        # read once: another thread may replace the entry
        entry = self._entry
        if entry is None or entry[0] != key or not torch.equal(entry[1], entry[2]):
            sample = _sample(weight)
            copy, packed = sample.clone(), torch.ops.mkldnn._reorder_linear_weight(weight, len(x))
            self._entry = entry = key, sample, copy, packed
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, entry[3], bias, "none", [], "")
        return out


def _sample(weight: Tensor) -> Tensor:
    """Returns a view of at most 64 numbers of a contiguous tensor, in many rows and columns of a matrix."""
    # an even number of columns has no common divisor with most odd steps
    return weight.detach().flatten()[:: weight.numel() // 64 | 1]


def pack(layer: nn.Linear | nn.Conv2d) -> None:
    """Makes `linear`, `pointwise_conv` and `channels_last_conv` keep packed weights of a layer for inference."""
    # an attribute of the layer, so that it is copied with the layer
    layer.packed = Packed()  # type: ignore[assignment]


def packed_weights(x: Tensor, layer: nn.Linear | nn.Conv2d) -> Packed | None:
    """Returns the packed weights of a layer, if it has any and they can be used for x, which is `is_plain_cpu`."""
    packed: Packed | None = layer.__dict__.get("packed")
    if packed is None or not _HAS_AVX512 or torch.is_grad_enabled() or x.numel() == 0:
        return None
    if layer.weight.is_inference() or not layer.weight.is_contiguous() or is_transformed():
        return None
    return packed if hasattr(torch.ops.mkldnn, "_reorder_linear_weight") else None


def linear(layer: Layer, x: Tensor) -> Tensor:
    """Calls a `torch.nn.Linear`, or what replaced it, faster on a CPU: (.., in_features) -> (.., out_features)."""
    if torch.jit.is_scripting():
        return layer.forward(x)
    return _linear(layer, x)


@torch.jit.unused
def _linear(layer: nn.Module, x: Tensor) -> Tensor:
    if not is_plain_cpu(x) or not is_unmodified(layer, nn.Linear):
        return layer(x)
    weight, bias = layer.weight, layer.bias
    packed = packed_weights(x, layer)
    if packed is not None:
        return packed.multiply(x.reshape(-1, x.shape[-1]), weight, bias).reshape(*x.shape[:-1], -1)
    if not prefers_convolution(x, x.numel() // max(x.shape[-1], 1)):
        return F.linear(x, weight, bias)
    # (.., C) -> (1, C, N, 1), channels last in memory
    rows = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
    out = F.conv2d(rows, weight[:, :, None, None], bias, dilation=2)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


def pointwise_conv(layer: Layer, x: Tensor) -> Tensor:
    """Calls a 1x1 `torch.nn.Conv2d` of stride 1, or what replaced it, faster on a CPU: (B, C, H, W) -> (B, .., H, W).

    With one thread it is a matrix product, unless the kernel is dilated.
    """
    if torch.jit.is_scripting():
        return layer.forward(x)
    return _pointwise_conv(layer, x)


@torch.jit.unused
def _pointwise_conv(layer: nn.Module, x: Tensor) -> Tensor:
    if not is_plain_cpu(x) or not is_unmodified(layer, nn.Conv2d):
        return layer(x)
    packed = packed_weights(x, layer)
    if packed is None:
        is_dilated = prefers_convolution(x, x.shape[0] * x.shape[2] * x.shape[3])
        return F.conv2d(x, layer.weight, layer.bias, dilation=2 if is_dilated else 1)
    # (B, C, H, W) -> (N, C), and back
    rows = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    out = packed.multiply(rows, layer.weight.flatten(1), layer.bias)
    return out.reshape(x.shape[0], x.shape[2], x.shape[3], -1).permute(0, 3, 1, 2)


def recomputed(function: Callable[[Tensor], Tensor], x: Tensor, is_random: bool = False) -> Tensor:
    """Returns function(x), storing only x for the backward pass and recomputing the intermediate tensors.

    Args:
        function: a function without side effects, for example an activation and a layer without hooks.
        x: its input.
        is_random: whether it draws random numbers.
    """
    # compilers choose what to recompute themselves, and function transforms do not support checkpointing
    is_kept = x.requires_grad and torch.is_grad_enabled() and not is_traced()
    if not is_kept or torch._C._are_functorch_transforms_active():
        return function(x)
    again: Tensor = checkpoint(function, x, use_reentrant=False, preserve_rng_state=is_random)
    return again
