"""The last steps for a verified graph: conversion to lower precision, built-in preprocessing, and their checks."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from torch import Tensor

from attnzoo_command.steps import step

from ..timing import take_turns
from . import checking, graphs
from .precision import Fidelity, answers_of, compare, convert
from .preprocess import Colours, Normalise, take_pictures
from .sessions import open_session, run
from .tasks import Task


@dataclass(frozen=True)
class Finished:
    """The content of a finished file.

    Attributes:
        content: bytes of the file.
        notes: metadata of the file.
        difference: largest difference to eager; in float32 only.
        kept: layers and operators that stay in float32; in lower precision only.
        fidelity: comparison with float32; in lower precision only.
        time_ratio: latency divided by that in float32, on this machine; in lower precision only.
    """

    content: bytes
    notes: Mapping[str, str]
    difference: float = 0.0
    kept: tuple[str, ...] = ()
    fidelity: Fidelity | None = None
    time_ratio: float | None = None


@dataclass(frozen=True)
class Finish:
    """The last steps for a graph.

    Attributes:
        precision: "fp32", "fp16" or "int8".
        colours: mean and std for preprocessing inside the file; None without preprocessing.
        images: batches (B, C, H, W) for calibration.
        least_agreement: share of these images whose top class must be the same as in float32.
    """

    precision: str
    colours: Colours | None
    images: Sequence[Tensor]
    least_agreement: float

    def apply(
        self, proto: Any, task: Task, cases: Sequence[Tensor], notes: Mapping[str, str], tolerance: float
    ) -> Finished:
        """Converts a graph and checks the result.

        Args:
            proto: a `ModelProto` that was traced from the task; it is modified.
            task: task of the graph.
            cases: batches of images (B, C, H, W) to check it on.
            notes: metadata of the file.
            tolerance: largest difference to eager allowed in float32.

        Raises:
            ExportError: the graph cannot be converted, or its outputs are too far from float32.
        """
        exact = graphs.serialise(proto, {})
        kept: tuple[str, ...] = ()
        layout = "uint8 NHWC 0..255" if self.colours else "float32 NCHW normalised"
        notes = {**notes, "precision": self.precision, "input": layout}
        if self.precision != "fp32":
            step(f"converting the file to {self.precision}")
            proto, kept = convert(proto, self.precision, cases, self.images, self.least_agreement)
            notes["kept_float32"] = json.dumps(kept)
        if self.colours:
            take_pictures(proto, self.colours)
        content = graphs.serialise(proto, notes)
        if self.precision != "fp32":
            step(f"comparing {self.precision} with float32")
            fidelity = self._judge(content, exact, cases)
            return Finished(content, notes, 0.0, kept, fidelity, self._time_ratio(content, exact, cases[0]))
        difference = 0.0
        if self.colours:
            pictures = [self.colours.pictures(images) for images in cases]
            difference = checking.check(content, task, pictures, tolerance, Normalise(self.colours))
        return Finished(content, notes, difference)

    def _judge(self, content: bytes, exact: bytes, cases: Sequence[Tensor]) -> Fidelity:
        given, expected = open_session(content), open_session(exact)

        def compared(batches: Sequence[Tensor]) -> Fidelity:
            pictures: Sequence[Tensor] = batches
            if self.colours:
                normalise = Normalise(self.colours)
                pictures = [self.colours.pictures(images) for images in batches]
                batches = [normalise(images) for images in pictures]
            return compare(answers_of(given, pictures), answers_of(expected, batches))

        # the class of noise is meaningless, and int8 was not calibrated on it, but the outputs must be finite
        fidelity = dataclasses.replace(compared(cases), agreement=None)
        if self.precision == "fp16" or fidelity.difference == float("inf"):
            fidelity.require(self.precision, self.least_agreement)
        if self.images:
            fidelity = compared(self.images)
            fidelity.require(self.precision, self.least_agreement)
        return fidelity

    def _time_ratio(self, content: bytes, exact: bytes, images: Tensor) -> float:
        """Latency divided by that in float32, with one thread; both are timed in turns."""
        pictures = self.colours.pictures(images) if self.colours else images
        calls: dict[str, Callable[[], object]] = {
            "given": functools.partial(run, open_session(content, 1), pictures),
            "exact": functools.partial(run, open_session(exact, 1), images),
        }
        times = take_turns(calls, rounds=15, seconds=5)
        return median(given / exact for given, exact in zip(times["given"], times["exact"], strict=True))
