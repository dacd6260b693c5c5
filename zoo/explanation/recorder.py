"""Runs a network up to some of its layers and keeps what their weights are computed from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .maps import evaluating
from .readings import Factors, Gate, Part, Reading, Shared, Values


class _Complete(BaseException):
    """Ends the forward pass: all layers were called."""


class _Products(TorchFunctionMode):
    """Keeps the queries, keys and biases of scaled dot-product attention."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is nn.functional.scaled_dot_product_attention:
            self.calls.append((args[0], args[1], args[3] if len(args) > 3 else None))
        return function(*args, **(kwargs or {}))


class Recorder:
    """What one call of a layer leaves behind.

    Args:
        layer: an attention layer.
        reading: how it is read.

    Attributes:
        values: what the source of the values returned, each a leaf of the graph of `sums`.
        sums: the weighted sum of the values; of a gate, the product.
        given: what a gate multiplies; of a layer with a shared sum, its input.
        size: (rows, columns) of the map of the layer's input; None for tokens without their map's size.
        products: queries, keys and bias of each scaled dot-product attention, for agents.
    """

    def __init__(self, layer: nn.Module, reading: Reading) -> None:
        self.layer = layer
        self.reading = reading
        self.values: list[Tensor] = []
        self.sums: Tensor | None = None
        self.given: Tensor | None = None
        self.size: tuple[int, int] | None = None
        self.products: list[tuple[Tensor, Tensor, Tensor | None]] = []

    @contextlib.contextmanager
    def attached(self, complete: Callable[[], None]) -> Iterator[None]:
        """Observes the layer inside the context, and calls `complete` after each of its calls."""
        handles = list(self._hooks())
        # attention over tokens is called by another method, which hooks do not see
        methods = [name for name in ("forward", "forward_tokens") if hasattr(self.layer, name)]
        own = {name: self.layer.__dict__[name] for name in methods if name in self.layer.__dict__}
        for name in methods:
            self.layer.__dict__[name] = self._observed(getattr(self.layer, name), complete)
        try:
            yield
        finally:
            for name in methods:
                del self.layer.__dict__[name]
            # methods that were replaced before
            self.layer.__dict__.update(own)
            for handle in handles:
                handle.remove()

    def _observed(self, method: Callable[..., Any], complete: Callable[[], None]) -> Callable[..., Any]:
        def call(x: Tensor, *args: Any, **kwargs: Any) -> Any:
            self.values.clear()
            self.size = _map_size(x, args, getattr(self.reading, "channels_first", False))
            if not isinstance(self.reading, Gate) or not self.reading.source:
                self.given = x.detach()
            with torch.enable_grad(), _Products() if self.is_of_agents else contextlib.nullcontext() as products:
                out = method(x, *args, **kwargs)
            if products is not None:
                self.products = products.calls
            if self.sums is None:
                self.sums = out
            complete()
            return out

        return call

    @property
    def is_of_agents(self) -> bool:
        """Whether two attentions follow each other, to agents and from them."""
        return isinstance(self.reading, Values) and self.reading.agents

    def _hooks(self) -> Iterator[Any]:
        reading = self.reading
        if isinstance(reading, Shared | Factors):
            return
        if isinstance(reading, Gate):
            if reading.source:
                yield self._submodule(reading.source).register_forward_hook(self._keep_given)
            if reading.result:
                yield self._submodule(reading.result).register_forward_pre_hook(self._keep_sums)
            return
        yield self._submodule(reading.source).register_forward_hook(self._with_leaf)
        if reading.sums:
            yield self._submodule(reading.sums).register_forward_pre_hook(self._keep_sums)
        for name in reading.constant:
            for module in _leaves_of(self._submodule(name)):
                yield module.register_forward_hook(lambda module, args, out: out.detach())
        for name in reading.ones:
            # not every layer has gates
            if getattr(self.layer, name) is None:
                continue
            yield self._submodule(name).register_forward_hook(lambda module, args, out: torch.ones_like(out))

    def _submodule(self, name: str) -> nn.Module:
        return self.layer.get_submodule(name)

    def _keep_given(self, module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        self.given = out.detach()

    def _keep_sums(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        self.sums = args[0]
        # the module may work in place
        return (args[0].clone(),)

    def _with_leaf(self, module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        """Returns the same channels, of which only the values have a gradient."""
        reading = self.reading
        assert isinstance(reading, Values)
        out = out.detach()
        self.values.append(out.clone().requires_grad_())
        out = torch.where(self.mask(reading.part, out), self.values[-1], out)
        return out if reading.gate is None else out.masked_fill(self.mask(reading.gate, out), 1)

    def mask(self, part: Part, x: Tensor) -> Tensor:
        """Returns which channels of a map or of tokens belong to a part, to be broadcast with x."""
        axis = 1 if self.reading.channels_first else x.ndim - 1  # type: ignore[union-attr]
        mask = part.mask(self.layer, x.shape[axis]).to(x.device)
        return mask.view([-1, *[1] * (x.ndim - axis - 1)])


def record(network: nn.Module, images: Tensor, recorders: Sequence[Recorder]) -> None:
    """Runs a network until all layers were called, in evaluation mode and without gradients of its parameters.

    Raises:
        ValueError: the network does not call one of the layers.
    """
    waiting = list(recorders)

    def complete(recorder: Recorder) -> None:
        if recorder in waiting:
            waiting.remove(recorder)
        if not waiting:
            raise _Complete

    with contextlib.ExitStack() as stack:
        stack.enter_context(evaluating(network))
        for recorder in recorders:
            stack.enter_context(recorder.attached(lambda recorder=recorder: complete(recorder)))  # type: ignore[misc]
        stack.enter_context(torch.no_grad())
        with contextlib.suppress(_Complete):
            network(images)
    if waiting:
        raise ValueError("the forward pass of the network does not call this layer")


def _leaves_of(module: nn.Module) -> list[nn.Module]:
    """Returns the modules that are called in place of a list of modules, or the module itself."""
    return list(module) if isinstance(module, nn.ModuleList) else [module]


def _map_size(x: Tensor, args: tuple[Any, ...], channels_first: bool) -> tuple[int, int] | None:
    if x.ndim == 4:
        return (x.shape[2], x.shape[3]) if channels_first else (x.shape[1], x.shape[2])
    if len(args) >= 2 and all(isinstance(length, int) for length in args[:2]):
        return args[0], args[1]
    return None
