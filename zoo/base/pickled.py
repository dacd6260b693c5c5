"""The tensors of a network that was pickled as a whole, without running any of its code.

Such a file names the classes of its authors, which unpickling would import and call. Here every class and every
function in it is replaced by an object that does nothing but keep what it gets; only tensors are rebuilt.
"""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

# where trainers store the network, the averaged weights first
_PLACES = ("ema", "model")
# modules of a network, far more than any has, and how often the bytes of its tensors may be those of the file
_MOST_MODULES = 20_000
_MOST_SHARED = 4


class _Opaque:
    """An object of an unknown class: its state, and nothing else."""

    def __new__(cls, *arguments: Any, **keywords: Any) -> _Opaque:
        return object.__new__(cls)

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self.state: Any = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state

    # of classes that are lists or dictionaries
    def extend(self, items: Any) -> None:
        """Takes what is appended to a list, and leaves it out."""

    append = extend

    def __setitem__(self, key: Any, value: Any) -> None:
        """Takes an entry of a dictionary, and leaves it out."""


class _Builder:
    """A function that the file may call. The file cannot change it, as it could a function of torch."""

    __slots__ = ("_build",)

    def __init__(self, build: Callable[..., Any]) -> None:
        self._build = build

    def __call__(self, *arguments: Any) -> Any:
        return self._build(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("the file changes a function")


def _with_state(build: Callable[..., Any]) -> Callable[..., Any]:
    """A function of torch that also restores Python attributes of a tensor, without them: the last argument."""
    return lambda *arguments: build(*arguments[:-1])


def _typed(build: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """A tensor with Python attributes, or of a subclass: as a plain tensor."""
    return build(*arguments) if isinstance(build, _Builder) else _Opaque()


# what rebuilds tensors, and runs no other code
_BUILDERS: dict[tuple[str, str], Callable[..., Any]] = {
    ("__builtin__", "set"): set,
    ("builtins", "set"): set,
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _with_state(torch._utils._rebuild_parameter),
    ("torch._tensor", "_rebuild_from_type_v2"): _typed,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        build = _BUILDERS.get((module, name))
        return _Opaque if build is None else _Builder(build)


def _load(file: Any, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


def plain_file(path: Path) -> Path:
    """Returns a file of weights that can be loaded without code: the file itself, or a copy in safetensors beside it.

    Args:
        path: a file of weights; if it holds a network that was pickled as a whole, the copy is written, or used if it
            is newer than the file.
    """
    if path.suffix == ".safetensors":
        return path
    copy = path.with_name(f"{path.name}.safetensors")
    if copy.is_file() and copy.stat().st_mtime >= path.stat().st_mtime:
        return copy
    weights = state_dict_of(path) if foreign_names(path) else None
    if weights is None:
        return path
    fresh = copy.with_name(f".{copy.name}.{os.getpid()}")
    try:
        # layers may share a tensor
        save_file({name: tensor.clone().contiguous() for name, tensor in weights.items()}, fresh)
        return fresh.replace(copy)
    finally:
        fresh.unlink(missing_ok=True)


def foreign_names(path: Path) -> list[str]:
    """Returns what unpickling an archive of torch would import, without importing it; empty if that is not known."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    # torch raises exceptions of many classes on other files
    except Exception:
        return []


def state_dict_of(path: Path) -> dict[str, Tensor] | None:
    """Returns the state dict of a network that `torch.save` wrote as a whole, or in a dictionary as `ema` or `model`.

    No class of the file is imported. Floating-point tensors are returned in float32.

    Args:
        path: the file, an archive as torch has written since version 1.6.

    Returns:
        The parameters and persistent buffers, on the CPU, by their names; None if the file holds no such network, or
        one with tensors that are much larger than the file.
    """
    readers = SimpleNamespace(
        __name__=__name__, Unpickler=_Unpickler, load=_load, UnpicklingError=pickle.UnpicklingError
    )
    try:
        content = torch.load(path, map_location="cpu", pickle_module=readers, weights_only=False)
        held = [content.get(place) for place in _PLACES] if isinstance(content, dict) else [content]
        network = next((entry for entry in held if isinstance(entry, _Opaque)), None)
        found = dict(_tensors(network, "")) if network is not None else {}
    # torch raises exceptions of many classes on other files; modules that hold each other end in a RecursionError
    except Exception:
        return None
    if sum(x.nbytes for x in found.values()) > _MOST_SHARED * path.stat().st_size:
        return None
    return {name: x.float() if x.is_floating_point() else x for name, x in found.items()} or None


def _tensors(module: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Yields the names and tensors of a module.

    Raises:
        ValueError: there are too many, as of modules that hold others many times.
    """
    waiting: list[tuple[Any, str]] = [(module, prefix)]
    count = 0
    while waiting:
        module, prefix = waiting.pop(0)
        count += 1
        if count > _MOST_MODULES:
            raise ValueError("the network has too many modules")
        state = module.state if isinstance(module, _Opaque) and isinstance(module.state, dict) else {}
        unstored = state.get("_non_persistent_buffers_set", ())
        for kind in ("_parameters", "_buffers"):
            for name, tensor in (state.get(kind) or {}).items():
                if isinstance(tensor, Tensor) and name not in (unstored if isinstance(unstored, set) else ()):
                    yield f"{prefix}{name}", tensor.detach()
        inside = [(inner, f"{prefix}{name}.") for name, inner in (state.get("_modules") or {}).items()]
        waiting[:0] = inside
