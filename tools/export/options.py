"""What a file is to be: every choice of an export, checked together before anything takes time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from .graphs import AXES
from .tasks import TASKS, task_of

# for those who stay in PyTorch: a program of torch.export, a package of AOTInductor
FORMATS = ("onnx", "pt2", "aoti")
OPSETS = range(18, 24)
PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """The choices of an export.

    Attributes:
        form: "onnx"; "pt2" for a program of torch.export; "aoti" for a package of AOTInductor for the CPU of this
            machine.
        task: "classify" for `logits`; "features" for the maps of a backbone's stages, `features_0` and so on; "detect"
            for `boxes`, `scores` and `labels`. None for the task that the model is made for.
        image_size: height and width; None for the size that a model of timm names, or that a detector resizes to.
        dynamic: the dynamic axes, of "batch", "height" and "width"; of a detector the batch alone. Dynamic sides of a
            program or package must be more than half of the model's own.
        opset: version of ONNX's operators, 18 .. 23.
        metadata: entries to add to the file's own, or to replace there.
        tolerance: largest difference allowed in float32, as a share of the largest number of an output.
        precision: "fp32"; "fp16" for half the size; "int8" for a quarter of it. The graph is checked in float32 before
            it is converted.
        calibration: batches of images (B, C, H, W), preprocessed, of which int8 learns the ranges of its numbers and by
            which lower precisions are judged (`precision.read_calibration`).
        least_agreement: share of the calibration images that a file of lower precision must give the class of float32.
        preprocess: the file takes pictures, uint8 (B, H, W, C), 0 .. 255, of the size that the model wants, and
            normalizes them itself.

    Raises:
        ValueError: a choice that is unknown, out of range, or contradicts another.
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
        # a list, too
        object.__setattr__(self, "dynamic", tuple(self.dynamic))
        if self.form not in FORMATS:
            raise ValueError(f"form must be one of {', '.join(FORMATS)}, got {self.form!r}")
        if self.task is not None and self.task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}, got {self.task!r}")
        if self.opset not in OPSETS:
            raise ValueError(f"opset must be 18 .. 23, got {self.opset}")
        if unknown := [axis for axis in self.dynamic if axis not in AXES]:
            raise ValueError(f"dynamic must be of {', '.join(AXES)}, got {', '.join(unknown)}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.precision == "int8" and self.calibration is None:
            raise ValueError(
                "precision int8 needs calibration images: --calibration DIR, a folder with some hundred pictures like "
                "those that the model will see"
            )
        if self.precision == "fp32" and self.calibration is not None:
            raise ValueError("calibration is for --precision int8 and fp16, fp32 has no use for it: leave it out")

    def check(self, model: nn.Module, output: Path) -> None:
        """Compares the choices with a model and the place of its file.

        Raises:
            ValueError: they do not fit.
        """
        is_detector = task_of(model, self.task) == "detect"
        if self.form != "onnx" and output.suffix != ".pt2":
            raise ValueError(f"{output} must end in .pt2: torch opens no other file of the format {self.form}")
        if is_detector and self.form != "onnx":
            raise ValueError(f"a detector is exported as ONNX only, got format {self.form}")
        if is_detector and self.precision != "fp32":
            raise ValueError(
                f"a detector is exported in fp32 only, got precision {self.precision}: which boxes its "
                "NonMaxSuppression keeps hangs on small differences of their scores"
            )
        if is_detector and not {"batch"}.issuperset(self.dynamic):
            raise ValueError(
                f"a detector's file is for one image size, dynamic must be batch or none, got "
                f"{','.join(self.dynamic)}: image_size says which"
            )
