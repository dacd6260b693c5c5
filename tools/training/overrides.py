"""The command line's KEY=VALUE: the key decides whether the value is text or a Python literal."""

from __future__ import annotations

import ast
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Union, get_args, get_origin, get_type_hints

import timm
from mmengine import Config
from timm.models import PretrainedCfg

from attnzoo_command.keys import split_option

from .recipe import Recipe

_WORDS = {"true": True, "false": False}
_PLAIN = (type(None), bool, int, float, str, list, tuple, dict)
# keys that hold text or a list
_MAY_BE_LISTS = ("loss.name", "loss.weight")


def override(config: Config, options: Sequence[str]) -> None:
    """Sets keys of a config.

    The value of a key that holds text stays text, whatever it looks like: `data.root=2024` is the folder "2024". A key
    holds text if its present value is text, or if it has none and the recipe, the data set or timm declares it as text.
    For `loss.name` and `loss.weight` text in brackets is a list. Other values are Python literals in which names need
    no quotes, such as `3`, `(3,224,224)` or `[cat,dog]`; what is neither a literal nor in brackets is text. `None` is
    None for every key. Another `decoder.name` leaves out the arguments of the config's decoder.

    Args:
        config: the config, modified in place.
        options: "key=value" or "key.key=value".

    Raises:
        ValueError: an option has no "=", an invalid key, or a value whose brackets contain no literal.
    """
    pairs = [split_option(option) for option in options]
    present = config.get("data", {})
    data = dict(pairs).get("data.name") or (present.get("name", "") if isinstance(present, dict) else "")
    _choose_decoder(config, dict(pairs))
    for key, text in pairs:
        keys = key.split(".")
        is_list = key in _MAY_BE_LISTS and _is_bracketed(text)
        value = (
            None if text == "None" else text if _is_text(config, keys, data) and not is_list else _literal(key, text)
        )
        try:
            config.merge_from_dict({key: value})
        # a key in a number, or an index that is too large
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{key}={text}: the config has no such key, because {keys[0]} is {config[keys[0]]!r}"
            ) from error


def _choose_decoder(config: Config, options: Mapping[str, str]) -> None:
    """Leaves out the arguments of the config's decoder if the options choose another one, which takes others."""
    present, given = config.get("decoder"), _literal("decoder", options.get("decoder", "None"))
    name = options.get("decoder.name", given.get("name") if isinstance(given, dict) else None)
    if isinstance(present, dict) and name is not None and name != present.get("name"):
        config.decoder = {"name": name}


def _is_text(config: Config, keys: Sequence[str], data: str) -> bool:
    value: Any = config
    for key in keys:
        if isinstance(value, (list, tuple)) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            value = value.get(key) if isinstance(value, (dict, Config)) else None
    if value is not None:
        return isinstance(value, str)
    owner = _owner(keys[:-1], data)
    return owner is not None and _declares_text(owner, keys[-1])


def _owner(keys: Sequence[str], data: str) -> Callable[..., Any] | None:
    """Returns the function or class whose argument a key is."""
    if list(keys) == ["data"]:
        from ..data import DATASETS
        from ..detection.data import DETECTION_DATASETS
        from ..segmentation.data import SEGMENTATION_DATASETS

        return DATASETS.get(data) or DETECTION_DATASETS.get(data) or SEGMENTATION_DATASETS.get(data)
    owners: dict[tuple[str, ...], Callable[..., Any]] = {
        (): Recipe,
        ("model",): timm.create_model,
        ("model", "pretrained_cfg_overlay"): PretrainedCfg,
    }
    return owners.get(tuple(keys))


def _declares_text(owner: Callable[..., Any], key: str) -> bool:
    if key in ("name", "weights"):
        return True
    hints = get_type_hints(owner.__init__ if inspect.isclass(owner) else owner)
    hint = hints.get(key)
    return hint is str or (get_origin(hint) in (Union, types.UnionType) and str in get_args(hint))


def _literal(key: str, text: str) -> Any:
    """Returns the value of a Python literal in which names are text; other text unchanged."""
    try:
        value = ast.literal_eval(_Quoting().visit(ast.parse(text.strip(), mode="eval")))
        if _is_plain(value):
            return value
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        pass
    if _is_bracketed(text):
        raise ValueError(f"{key} must be a Python literal such as 3, [1, 2] or (3, 224, 224), got {text}")
    return text


def _is_bracketed(text: str) -> bool:
    return text.lstrip().startswith(("[", "(", "{"))


class _Quoting(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.Constant:
        return ast.copy_location(ast.Constant(_WORDS.get(node.id, node.id)), node)


def _is_plain(value: Any) -> bool:
    """Returns whether a literal is a value of a config; bytes, sets and complex numbers are not."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(entry) for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)
