"""Classifies images with OpenVINO, from the same file as classify.py: pip install openvino numpy pillow.

Example: python examples/openvino_classify.py model.onnx picture.jpg
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openvino
from PIL import Image
from shared import likeliest, normalise, parser_of, percentages, prepare, read_notes, run


def open_model(file: str | Path, precision: str = "f32") -> tuple[openvino.CompiledModel, dict[str, Any]]:
    """Opens a file on the CPU, and reads its metadata.

    By default OpenVINO computes in bf16 if the processor supports it; "f32" gives the outputs of the model.

    Raises:
        ValueError: the file is not a model, or its metadata lacks preprocessing.
    """
    try:
        model = openvino.Core().read_model(str(file))
    except RuntimeError as error:
        raise ValueError(f"{file} cannot be opened: {str(error).strip().splitlines()[-1]}") from error
    notes = read_notes(model.get_rt_info("framework").value if "framework" in model.rt_info else {})
    return openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision}), notes


def classify(
    model: openvino.CompiledModel, notes: dict[str, Any], picture: Image.Image, top: int = 5
) -> list[tuple[str, float]]:
    """The most likely classes of an image and their probabilities, best first."""
    image = prepare(picture, notes)
    # a file of `attnzoo export --preprocess` takes uint8 pixels and normalises them itself
    if model.input("images").element_type != openvino.Type.u8:
        image = normalise(image, notes)
    return likeliest(model({"images": image[None]})["logits"][0], notes.get("labels"), top)


if __name__ == "__main__":
    parser = parser_of("Print the most likely classes of images and their probabilities.")
    run(parser, open_model, lambda opened, image, *_: percentages(classify(*opened, image)))
