"""Opening a segmenter from its directory, see `attnzoo.tools.stored`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..stored import open_network
from .data import Preparation
from .network import Segmenter, create_segmenter


def open_segmenter(directory: str | Path) -> tuple[Segmenter, dict[str, Any]]:
    """Opens the segmenter of a directory in evaluation mode, with its config.

    `decoder` in the config holds the decoder's options, and `preprocessing` the keys of
    `attnzoo.tools.segmentation.data.PREPARED`.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: the directory was not written by `attnzoo train` for segmentation, or is damaged.
        ImportError: segmentation-models-pytorch is not installed.
    """
    return open_network(directory, "segmentation", "decoder", _create)


def _create(config: Mapping[str, Any]) -> Segmenter:
    prepared = Preparation(config["preprocessing"]).stored
    return create_segmenter(
        config["architecture"], config["model_args"], config["decoder"], config["label_names"], prepared
    )
