"""Classifies images with a file of `attnzoo export`, without torch: pip install onnxruntime numpy pillow.

Example: python examples/classify.py model.onnx picture.jpg
"""

from __future__ import annotations

from pathlib import Path

import onnxruntime
from PIL import Image
from shared import likeliest, normalise, parser_of, percentages, prepare, read_notes, run


def open_session(file: str | Path, threads: int = 0) -> onnxruntime.InferenceSession:
    """Opens a file on the CPU; with 0 threads ONNX Runtime uses one thread per core.

    Raises:
        ValueError: ONNX Runtime cannot load the file.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # masked scores become denormal numbers, which are slow on many processors
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ValueError(f"{file} cannot be opened: {str(error).splitlines()[0]}") from error


def classify(session: onnxruntime.InferenceSession, picture: Image.Image, top: int = 5) -> list[tuple[str, float]]:
    """The most likely classes of an image and their probabilities, best first."""
    notes = read_notes(session.get_modelmeta().custom_metadata_map)
    image = prepare(picture, notes)
    # a file of `attnzoo export --preprocess` takes uint8 pixels and normalises them itself
    if session.get_inputs()[0].type != "tensor(uint8)":
        image = normalise(image, notes)
    return likeliest(session.run(["logits"], {"images": image[None]})[0][0], notes.get("labels"), top)


if __name__ == "__main__":
    parser = parser_of("Print the most likely classes of images and their probabilities.")
    run(parser, open_session, lambda session, image, *_: percentages(classify(session, image)))
