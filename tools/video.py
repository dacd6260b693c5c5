"""Reading and writing video files with OpenCV, which is installed with mmengine."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from .files import replacing
from .images import UnreadableImageError

EXTENSIONS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")


class Frame(NamedTuple):
    """A frame of a video.

    Attributes:
        number: its number, from 0.
        seconds: its time in seconds.
        picture: the image, RGB.
    """

    number: int
    seconds: float
    picture: Image.Image


def is_video(path: Path) -> bool:
    """Returns whether a file is a video, according to its extension."""
    return path.suffix.lower() in EXTENSIONS


def read_frames(path: Path) -> Iterator[Frame]:
    """Yields the frames of a video.

    Raises:
        UnreadableImageError: OpenCV cannot read the file.
        ModuleNotFoundError: OpenCV is not installed.
    """
    import cv2

    capture = cv2.VideoCapture(str(path))
    try:
        rate, number = frame_rate(path), 0
        while (read := capture.read())[0]:
            yield Frame(number, number / rate, Image.fromarray(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB)))
            number += 1
        if not number:
            raise UnreadableImageError(f"{path} cannot be read as a video by OpenCV")
    finally:
        capture.release()


def frame_rate(path: Path) -> float:
    """Returns the frames per second of a video; 25 if the file does not say."""
    import cv2

    capture = cv2.VideoCapture(str(path))
    try:
        return float(capture.get(cv2.CAP_PROP_FPS)) or 25.0
    finally:
        capture.release()


@contextmanager
def writing_video(path: Path, rate: float) -> Iterator[Callable[[Image.Image], None]]:
    """Yields a function that adds a frame to a video, which is renamed to its path when it is complete.

    Args:
        path: MP4 file to write.
        rate: frames per second.
    """
    import cv2

    with replacing(path) as fresh, tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "video.mp4"
        writers: list[Any] = []
        size = (0, 0)

        def add(picture: Image.Image) -> None:
            nonlocal size
            if not writers:
                # the codec needs even sides
                size = picture.width - picture.width % 2, picture.height - picture.height % 2
                writers.append(cv2.VideoWriter(str(draft), cv2.VideoWriter.fourcc(*"mp4v"), rate, size))
            # all frames of a video have one size
            canvas = Image.new("RGB", size, "white")
            canvas.paste(picture)
            writers[0].write(cv2.cvtColor(np.asarray(canvas), cv2.COLOR_RGB2BGR))

        try:
            yield add
        finally:
            for writer in writers:
                writer.release()
        shutil.move(draft, fresh)


class Drawings:
    """Annotated copies of images, and of videos, in a folder; a context manager, which completes the last video.

    Args:
        folder: the folder.
        draw: writes an annotated copy, given its path and a result of `attnzoo.tools.predict.predict`.
    """

    def __init__(self, folder: Path, draw: Callable[[Path, dict[str, Any]], None]) -> None:
        self.folder, self.draw = folder, draw
        self._stack = ExitStack()

    def __enter__(self) -> Drawings:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def add(self, number: int, found: dict[str, Any], picture: Image.Image | None) -> None:
        """Draws an image, or the next frame of a video.

        Args:
            number: number of the result; images in two folders may have the same name.
            found: the result.
            picture: the frame of a video; None for an image.
        """
        name = f"{number:05d}-{Path(found['file']).stem}"
        if picture is None:
            self.draw(self.folder / f"{name}.jpg", found)
            return
        if found["frame"] == 0:
            self._stack.close()
            rate = frame_rate(Path(found["file"]))
            self._add = self._stack.enter_context(writing_video(self.folder / f"{name}.mp4", rate))
        with tempfile.TemporaryDirectory() as folder:
            drawn = Path(folder) / "frame.jpg"
            self.draw(drawn, {**found, "file": picture})
            with Image.open(drawn) as frame:
                self._add(frame.convert("RGB"))
