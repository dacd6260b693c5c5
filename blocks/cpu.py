"""CPU optimizations: faster linear layers and 1x1 convolutions, and recomputation of activations.

torch multiplies matrices with the BLAS library it was built with, and runs convolutions with oneDNN. For float32 on x86
the BLAS library is often MKL, which does not use AVX512 on the processors of every vendor; on those, a linear layer
takes about half the time if it is run as a 1x1 convolution. With one thread and a small batch, torch runs a 1x1
convolution with the BLAS library too, unless it is dilated. For a kernel of one element, dilation changes only that
choice.

Shape legend: C channels, N rows of a matrix.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from collections.abc import Callable

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def prefers_convolution(x: Tensor, rows: int) -> bool:
    """Returns whether x (with `rows` rows, see `is_plain_cpu`) times a matrix is faster as a convolution."""
    # with fewer rows, packing the weights for oneDNN costs more than it saves; for a single image with fewer elements
    # torch does not use oneDNN
    return rows >= 128 and x.numel() > 20480


def is_plain_cpu(x: Tensor) -> bool:
    """Returns whether x is float32 on an x86 CPU with oneDNN, outside of autocast, compiler, exporter and script."""
    if torch.jit.is_scripting():
        return False
    return _is_plain_cpu(x)


@torch.jit.unused
def _is_plain_cpu(x: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability().startswith("AVX")
    )


class Packed:
    """Weights of a fused layer in the layout of oneDNN, packed once per input shape instead of on every call.

    They are stored in addition to the parameter until it changes, so a fused network takes twice its memory on a CPU.
    """

    def __init__(self) -> None:
        self._entry: tuple[object, Tensor] | None = None

    def __getstate__(self) -> dict[str, object]:
        # packed weights are only valid in this process
        return {"_entry": None}

    def multiply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(N, C) with (out, C) and (out,) -> (N, out)."""
        key = (len(x), weight.data_ptr(), weight._version)
        # read once: another thread may replace the entry
        entry = self._entry
        if entry is None or entry[0] != key:
            self._entry = entry = key, torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), len(x))
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, entry[1], bias, "none", [], "")
        return out


def can_pack(x: Tensor, weight: Tensor) -> bool:
    """Returns whether packed weights can be used for an input that is `is_plain_cpu`: without gradients."""
    return (
        not torch.is_grad_enabled()
        and x.numel() > 0
        and not weight.is_inference()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


@register_notrace_module  # the path depends on the size of the input
class Linear(nn.Linear):
    """`torch.nn.Linear`, faster on a CPU: (.., in_features) -> (.., out_features). `fuse` packs its weights."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.packed: Packed | None = None

    def forward(self, input: Tensor) -> Tensor:
        """(.., in_features) -> (.., out_features)."""
        if is_plain_cpu(input):
            return self._on_cpu(input)
        return F.linear(input, self.weight, self.bias)

    @torch.jit.unused
    def _on_cpu(self, x: Tensor) -> Tensor:
        if self.packed is not None and can_pack(x, self.weight):
            rows = x.reshape(-1, x.shape[-1])
            return self.packed.multiply(rows, self.weight, self.bias).reshape(*x.shape[:-1], -1)
        if not prefers_convolution(x, x.numel() // max(x.shape[-1], 1)):
            return F.linear(x, self.weight, self.bias)
        # (.., C) -> (1, C, N, 1), channels last in memory
        rows = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
        out = F.conv2d(rows, self.weight[:, :, None, None], self.bias, dilation=2)
        return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)

    def fuse(self) -> "Linear":
        """Returns the layer itself, which keeps packed weights for inference on a CPU from then on."""
        self.packed = Packed()
        return self


def pointwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Runs a 1x1 convolution of stride 1: (B, C, H, W) with (out_channels, C, 1, 1) and (out_channels,)."""
    is_dilated = is_plain_cpu(x) and prefers_convolution(x, x.shape[0] * x.shape[2] * x.shape[3])
    return F.conv2d(x, weight, bias, dilation=2 if is_dilated else 1)


@register_notrace_module
class PointwiseConv2d(nn.Conv2d):
    """A 1x1 `torch.nn.Conv2d` of stride 1, faster on a CPU with one thread: (B, C, H, W) -> (B, out_channels, H, W).

    `fuse` packs its weights.

    Args:
        in_channels: input channels C.
        out_channels: output channels.
        bias: whether there is a bias.
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 1, bias=bias)
        self.packed: Packed | None = None

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_channels, H, W)."""
        if is_plain_cpu(input):
            return self._on_cpu(input)
        return F.conv2d(input, self.weight, self.bias)

    @torch.jit.unused
    def _on_cpu(self, x: Tensor) -> Tensor:
        if self.packed is None or not can_pack(x, self.weight):
            return pointwise_conv2d(x, self.weight, self.bias)
        # (B, C, H, W) -> (N, C), and back
        rows = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
        out = self.packed.multiply(rows, self.weight.flatten(1), self.bias)
        return out.reshape(x.shape[0], x.shape[2], x.shape[3], -1).permute(0, 3, 1, 2)

    def fuse(self) -> "PointwiseConv2d":
        """Returns the layer itself, which keeps packed weights for inference on a CPU from then on."""
        self.packed = Packed()
        return self


def recomputed(function: Callable[[Tensor], Tensor], x: Tensor, is_random: bool = False) -> Tensor:
    """Returns function(x), storing only x for the backward pass and recomputing the intermediate tensors.

    Args:
        function: a function without side effects, for example an activation and a layer.
        x: its input.
        is_random: whether it draws random numbers.
    """
    # compilers choose what to recompute themselves, and function transforms do not support checkpointing
    is_kept = x.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling()
    if not is_kept or torch._C._are_functorch_transforms_active():
        return function(x)
    again: Tensor = checkpoint(function, x, use_reentrant=False, preserve_rng_state=is_random)
    return again
