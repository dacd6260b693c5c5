"""Attention whose heads can do nothing, so that no channel needs outliers: clipped softmax and gates.

Shape legend: B batch, T tokens, C channels, h heads, D = C / h.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import math
from typing import Optional

import torch
import torch.nn.functional as F
from timm.layers import Attention
from torch import Tensor, nn

from .attention import SelfAttention, attended
from .cpu import linear

SOFTMAXES = ("full", "clipped")
GATES = ("linear", "mlp", "joint", "constant")

# gamma and zeta, or alpha, see `QuantizableAttention`
Clip = tuple[float, float] | float


def clipped_softmax(scores: Tensor, gamma: float, zeta: float = 1.0) -> Tensor:
    """Softmax over the last axis, stretched to gamma .. zeta and cut off at 0 and 1; the sum may differ from one.

    Args:
        scores: (.., keys).
        gamma: lower end, at most 0: weights that are below -gamma / (zeta - gamma) become zero.
        zeta: upper end, at least 1.

    Source: Quantizable Transformers, arXiv 2306.12929, equation 4.
    """
    return ((zeta - gamma) * scores.softmax(-1) + gamma).clamp(0, 1)


class AttentionGate(nn.Module):
    """A gate for every token and head, a function of the input of attention: (B, T, C) -> (B, T, h, 1).

    Args:
        dim: channels C, a multiple of num_heads.
        num_heads: heads h.
        kind: `linear` or `mlp` for a layer, or two with D / 4 hidden values, of each head's slice of the input, `joint`
            for a linear layer of all channels, `constant` for a learned number per head.
        probability: initial value of the gates where the layers give zero; None for torch's initialization.
        is_pooled: whether all tokens have the same gate, of the mean over tokens before the sigmoid.
        of_trained: whether attention is trained already: gates are divided by `probability`, which must be given, so
            that they start close to one.

    Raises:
        ValueError: an unknown kind, or a probability that is not between 0 and 1 or that is missing.

    Source: Quantizable Transformers, arXiv 2306.12929, section 4.2 and appendix B.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        kind: str = "linear",
        probability: float | None = None,
        is_pooled: bool = False,
        of_trained: bool = False,
    ) -> None:
        super().__init__()
        if kind not in GATES:
            raise ValueError(f"gate must be one of {', '.join(GATES)}, got {kind!r}")
        if (probability is None and of_trained) or (probability is not None and not 0 < probability < 1):
            raise ValueError(f"the probability of a gate must be between 0 and 1, got {probability}")
        self.num_heads, self.kind, self.is_pooled = num_heads, kind, is_pooled
        self.scale = 1 / probability if of_trained and probability is not None else 1.0
        width = dim // num_heads
        # layers of all heads, (h, out, in)
        layers = {"linear": [(1, width)], "mlp": [(width // 4, width), (1, width // 4)], "joint": [(1, dim)]}
        shapes = layers.get(kind, [(1, 0)])
        self.weights = nn.ParameterList(torch.empty(num_heads, *shape) for shape in shapes)
        self.biases = nn.ParameterList(torch.zeros(num_heads, shape[0], 1) for shape in shapes)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            bound = max(weight.shape[2], 1) ** -0.5
            if of_trained:
                nn.init.normal_(weight, std=0.01)
            else:
                nn.init.uniform_(weight, -bound, bound)
            if kind != "constant" and not of_trained:
                nn.init.uniform_(bias, -bound, bound)
        if probability is not None:
            nn.init.constant_(self.biases[-1], math.log(probability / (1 - probability)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, h, 1)."""
        if self.kind == "constant":
            logits = self.biases[0].expand(x.shape[0], -1, -1, x.shape[1])
        else:
            # (B, h or 1, values, T)
            parts = 1 if self.kind == "joint" else self.num_heads
            logits = x.unflatten(2, (parts, x.shape[2] // parts)).permute(0, 2, 3, 1)
            for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
                logits = weight @ (logits if i == 0 else F.relu(logits)) + bias
        if self.is_pooled:
            logits = logits.mean(3, keepdim=True)
        # (B, h, 1, T) -> (B, T, h, 1)
        return (logits.sigmoid() * self.scale).permute(0, 3, 1, 2)


class QuantizableAttention(SelfAttention):
    """Attention over all tokens with a clipped softmax, gates, or both: (B, T, C) -> (B, T, C).

    A head that shall change nothing gives its weight to few tokens whose values are small, and with a softmax that
    takes ever larger scores, for which a network learns outliers in some channels. Their range costs the other values
    their precision in int8. A clipped softmax reaches zero at finite scores, and a gate closes a head as a whole.

    Args:
        dim: channels C, a multiple of num_heads.
        num_heads: heads h.
        qkv_bias: whether the projection to queries, keys and values has a bias.
        proj_drop: dropout rate after the output projection.
        softmax: `full`, or `clipped`, see `clipped_softmax`.
        clip: (gamma, zeta) of the clipped softmax, or a number alpha for (-alpha / T, 1). Equal scores give zero to
            all keys, without a gradient, if alpha is above one: then only weights that are trained already can learn.
        gate: `kind` of an `AttentionGate`; None for no gate.
        gate_probability: initial value of the gate, see there.
        of_trained: whether the other weights are trained already, see there.

    Raises:
        ValueError: an unknown softmax or gate, or a clip that narrows the range.

    Source: Quantizable Transformers: Removing Outliers by Helping Attention Heads Do Nothing, arXiv 2306.12929.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv_bias: bool = True,
        proj_drop: float = 0.0,
        softmax: str = "full",
        clip: Clip = (-0.003, 1.0),
        gate: str | None = None,
        gate_probability: float | None = None,
        of_trained: bool = False,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, proj_drop)
        if softmax not in SOFTMAXES:
            raise ValueError(f"softmax must be {' or '.join(SOFTMAXES)}, got {softmax!r}")
        self.is_clipped = softmax == "clipped"
        self.is_relative = not isinstance(clip, tuple)
        # alpha is gamma for one token
        self.gamma, self.zeta = clip if isinstance(clip, tuple) else (-float(clip), 1.0)
        if self.gamma > 0 or self.zeta < 1:
            raise ValueError(f"clip must be (gamma <= 0, zeta >= 1), or alpha >= 0, got {clip}")
        self.gate: nn.Module | None = None
        if gate is not None:
            self.gate = AttentionGate(dim, num_heads, gate, gate_probability, of_trained=of_trained)

    def forward(self, x: Tensor, attn_mask: Optional[Tensor] = None, is_causal: bool = False) -> Tensor:  # noqa: UP045
        """(B, T, C) -> (B, T, C); timm passes the other arguments, which must keep their defaults."""
        if attn_mask is not None or is_causal:
            raise ValueError("attention with a clipped softmax or gates takes no mask")
        # (B, T, 3C) -> (3, B, h, T, D)
        qkv = linear(self.qkv, x).unflatten(2, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        out = self._attended(qkv[0], qkv[1], qkv[2])
        if self.gate is not None:
            out = (out.unflatten(2, (self.num_heads, self.head_dim)) * self.gate(x)).flatten(2)
        return self.proj_drop(linear(self.proj, out))

    def forward_tokens(self, x: Tensor, height: int, width: int) -> Tensor:
        """(B, T, C) -> (B, T, C), of tokens whose map has a size."""
        return self.forward(x)

    def _attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Three of (B, h, T, D) -> (B, T, C)."""
        if not self.is_clipped:
            return attended(q, k, v)
        gamma = self.gamma / k.shape[2] if self.is_relative else self.gamma
        weights = clipped_softmax(q * self.head_dim**-0.5 @ k.transpose(2, 3), gamma, self.zeta)
        return (weights @ v).transpose(1, 2).flatten(2)


def make_quantizable(
    model: nn.Module,
    softmax: str = "full",
    clip: Clip = (-0.003, 1.0),
    gate: str | None = None,
    gate_probability: float = 0.5,
) -> nn.Module:
    """Gives the attention of timm's vision transformers a clipped softmax, gates, or both, in place.

    The projections and their weights stay. Gates start close to one, so the outputs of the model change little.
    Training goes on from there, with an optimizer that is made after the call.

    Args:
        model: a network with layers of type `timm.layers.Attention`, or such a layer alone, on its device and in its
            dtype.
        softmax, clip, gate, gate_probability: see `QuantizableAttention`.

    Returns:
        The model itself; for a layer alone, which nothing holds, the new layer with its projections.

    Raises:
        TypeError: `model` is not a module of torch.
        ValueError: there are no such layers, one has an option that is not known here, or arguments are wrong.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    layers = {name: layer for name, layer in model.named_modules() if type(layer) is Attention}
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no layers of timm.layers.Attention, which timm's vit and deit have: "
            "choose such a model"
        )
    for name, layer in layers.items():
        options = {"qk_norm": layer.q_norm, "scale_norm": layer.norm, "gated": layer.gate}
        taken = [option for option, part in options.items() if not isinstance(part, (nn.Identity, type(None)))]
        taken += ["attn_drop"] * (layer.attn_drop.p > 0) + ["dim_out"] * (
            not layer.qkv.in_features == layer.proj.in_features == layer.proj.out_features
        )
        if taken:
            raise ValueError(
                f"{name or 'the layer'} has the option {taken[0]}, which a clipped softmax and gates are not known for"
            )
    for name, layer in layers.items():
        weight = layer.qkv.weight
        new = QuantizableAttention(
            weight.shape[1], layer.num_heads, True, 0.0, softmax, clip, gate, gate_probability, of_trained=True
        )
        new.to(weight.device, weight.dtype).train(layer.training)
        new.qkv, new.proj, new.proj_drop = layer.qkv, layer.proj, layer.proj_drop
        if not name:
            return new
        model.set_submodule(name, new)
    return model
