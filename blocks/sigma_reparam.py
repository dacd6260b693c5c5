"""sigmaReparam: weights as a learned scale times a matrix that is divided by its spectral norm.

Shape legend: O output channels, I input values of an output: input channels of its group times kernel elements.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

Module = TypeVar("Module", bound=nn.Module)

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class SigmaReparam(nn.Module):
    """sigma * W / s(W), a parametrization of a weight W (O, ...) for `torch.nn.utils.parametrize`.

    s is an estimate of the spectral norm of W as a matrix (O, I): one step of power iteration from the stored vector
    `u` (I,), in every forward pass. Only training stores the vector that the step gives. Gradients flow through s, but
    not through the vectors.

    Args:
        weight: the weight at the start. `u` becomes its first right singular vector and `sigma` (1,) its largest
            singular value, so the parametrized weight is this weight, up to rounding.

    Source: Stabilizing Transformer Training by Preventing Attention Entropy Collapse, arXiv 2303.06296, section 3.2.
    """

    u: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        matrix = weight.detach().flatten(1)
        # 16-bit matrices have no decomposition
        exact = matrix if matrix.dtype == torch.float64 else matrix.float()
        _, values, vectors = torch.linalg.svd(exact, full_matrices=False)
        self.sigma = nn.Parameter(values[:1].to(weight.dtype))
        self.register_buffer("u", vectors[0].to(weight.dtype, copy=True))

    def forward(self, weight: Tensor) -> Tensor:
        """W (O, ...) -> the parametrized weight of the same shape."""
        with torch.autocast(weight.device.type, enabled=False):
            matrix = weight.flatten(1)
            with torch.no_grad():
                v = F.normalize(matrix @ self.u, dim=0)
                u = F.normalize(v @ matrix, dim=0)
                if self.training:
                    self.u.copy_(u)
            # a matrix of zeros has no direction, and stays zero
            return weight * (self.sigma / (v @ (matrix @ u)).clamp(min=torch.finfo(weight.dtype).tiny))


def reparametrize(model: Module) -> Module:
    """Parametrizes the weights of all linear layers and convolutions by `SigmaReparam`, in place.

    The outputs stay the same up to rounding. Transformers trained like this need no warmup and, if they are trained
    from scratch, no norms: `timm.create_model("vit_tiny_patch16_224", norm_layer=torch.nn.Identity)` has none. The
    parameters of a layer are then `parametrizations.weight.original` and `parametrizations.weight.0.sigma`; an
    optimizer must be made after the call. Transposed convolutions stay as they are.

    Args:
        model: a network or a part of one, on its device and in its dtype.

    Returns:
        The model itself.

    Raises:
        ValueError: a layer is parametrized already, or there are no such layers.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, _LAYERS)}
    taken = next((name for name, layer in layers.items() if parametrize.is_parametrized(layer)), None)
    if taken is not None:
        raise ValueError(f"{taken or 'the layer'} is parametrized already: fold or remove its parametrization first")
    if not layers:
        raise ValueError(f"{type(model).__name__} has no linear layers or convolutions to reparametrize")
    for layer in layers.values():
        parametrize.register_parametrization(layer, "weight", SigmaReparam(layer.weight))
    return model


def fold_reparametrization(model: Module) -> Module:
    """Replaces the parametrizations that `reparametrize` made by the weights that they compute, in place.

    The layers are then plain layers of torch under their own names, for inference, `fuse` and export.

    Args:
        model: the network; one without such parametrizations stays as it is.

    Returns:
        The model itself.
    """
    for layer in list(model.modules()):
        if _is_reparametrized(layer):
            _fold(layer)
    return model


def _is_reparametrized(layer: Any) -> bool:
    if not parametrize.is_parametrized(layer) or list(layer.parametrizations) != ["weight"]:
        return False
    return [type(step) for step in layer.parametrizations["weight"]] == [SigmaReparam]


def _fold(layer: Any) -> None:
    # a forward pass in evaluation mode leaves the vector as it is
    layer.parametrizations.eval()
    weight = nn.Parameter(layer.weight.detach(), layer.parametrizations["weight"].original.requires_grad)
    # torch's function would change the class, which copies of the layer share
    layer.__class__ = type(layer).__bases__[0]
    del layer.parametrizations
    others = dict(layer._parameters)
    layer._parameters.clear()
    # in the order of names that the layer had
    layer.weight = weight
    layer._parameters.update(others)
