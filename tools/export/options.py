"""The options of an export, validated together before any long computation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .graphs import AXES
from .tasks import TASKS, task_of

# pt2 is a program of torch.export, aoti a package of AOTInductor
FORMATS = ("onnx", "pt2", "aoti")
OPSETS = range(18, 24)
PRECISIONS = ("fp32", "fp16", "int8")
# options that apply to ONNX files only
OF_ONNX = ("opset", "precision", "calibration", "least_agreement", "preprocess")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """The options of an export.

    Attributes:
        form: "onnx"; "pt2" for a program of torch.export; "aoti" for a package of AOTInductor for the CPU of this
            machine.
        task: "classify" for `logits`; "features" for the maps of a backbone's stages, `features_0` and so on; "detect"
            for `boxes`, `scores` and `labels`; "segment" for `logits` of each pixel, and "mask" for the class of each
            pixel. None for the task of the model.
        image_size: height and width; None for the default size of a timm model, or the size a detector resizes to.
        dynamic: the dynamic axes, from "batch", "height" and "width"; only "batch" for a detector. Dynamic sides of a
            program or package must be more than half of the model's own.
        opset: ONNX opset version, 18 .. 23.
        metadata: entries to add to the metadata of the file, or to replace there.
        tolerance: largest difference allowed in float32, relative to the largest value of an output.
        precision: "fp32"; "fp16" for half the size; "int8" for a quarter of it. The graph is checked in float32 before
            it is converted.
        calibration: preprocessed batches of images (B, C, H, W) that give the value ranges for int8, and that lower
            precisions are compared with float32 on (`precision.read_calibration`).
        least_agreement: share of the calibration images whose top class must be the same in lower precision as in
            float32.
        preprocess: the file takes uint8 images (B, H, W, C), 0 .. 255, of the input size of the model, and normalizes
            them itself.

    Raises:
        ValueError: an option is unknown, out of range, or contradicts another.
    """

    form: str = "onnx"
    task: str | None = None
    image_size: tuple[int, int] | None = None
    dynamic: tuple[str, ...] = ("batch",)
    opset: int = 20
    metadata: Mapping[str, str] | None = None
    tolerance: float = 1e-4
    precision: str = "fp32"
    calibration: Iterable[Tensor] | None = None
    least_agreement: float = 0.95
    preprocess: bool = False

    def __post_init__(self) -> None:
        # a list is accepted too, and axes joined by commas as on the command line
        axes = self.dynamic.split(",") if isinstance(self.dynamic, str) else self.dynamic
        object.__setattr__(self, "dynamic", tuple(axes))
        if self.form not in FORMATS:
            raise ValueError(f"form must be one of {', '.join(FORMATS)}, got {self.form!r}")
        if self.task is not None and self.task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}, got {self.task!r}")
        if self.opset not in OPSETS:
            raise ValueError(f"opset must be 18 .. 23, got {self.opset}")
        if unknown := [axis for axis in self.dynamic if axis not in AXES]:
            raise ValueError(f"dynamic axes must be among {', '.join(AXES)}, got {', '.join(map(repr, unknown))}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        unused = [x.name for x in fields(self) if x.name in OF_ONNX and getattr(self, x.name) != x.default]
        if self.form != "onnx" and unused:
            raise ValueError(f"{unused[0]} applies to ONNX files only: leave it out for form {self.form!r}")
        if self.precision == "int8" and self.calibration is None:
            raise ValueError(
                "precision int8 needs calibration images: --calibration DIR, a folder with a few hundred images like "
                "those that the model will see"
            )
        if self.precision == "fp32" and self.calibration is not None:
            raise ValueError("calibration is for --precision int8 and fp16, but the precision is fp32: remove it")

    @classmethod
    def of(cls, **options: Any) -> ExportOptions:
        """Returns the options by name.

        Raises:
            TypeError: an option is unknown.
            ValueError: see `ExportOptions`.
        """
        names = [entry.name for entry in fields(cls)]
        if unknown := [name for name in options if name not in names]:
            raise TypeError(f"unknown export option {unknown[0]!r}: must be one of {', '.join(names)}")
        return cls(**options)

    def check(self, model: nn.Module, output: Path) -> None:
        """Checks the options against the model and the output file.

        Raises:
            ValueError: they do not fit.
        """
        is_detector = task_of(model, self.task) == "detect"
        if self.form != "onnx" and output.suffix != ".pt2":
            raise ValueError(f"output of format {self.form} must end in .pt2, got {output}")
        if is_detector and self.form != "onnx":
            raise ValueError(f"a detector is exported as ONNX only, got format {self.form}")
        if is_detector and self.precision != "fp32":
            raise ValueError(
                f"a detector is exported in fp32 only, got precision {self.precision}: the boxes that its "
                "NonMaxSuppression keeps depend on small differences of their scores"
            )
        if is_detector and not {"batch"}.issuperset(self.dynamic):
            raise ValueError(
                f"a detector's file is for one image size, dynamic must be batch or none, got "
                f"{','.join(self.dynamic)}: set the size with image_size"
            )
