"""The task of detection: its outputs, their comparison with torchvision, and a copy on which the check can fail."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS

from ...detection.detectors import Detector
from ...detection.files import open_detector
from ...files import sha256
from ...models import check_size
from ...stored import WEIGHTS
from ..checking import picture_like
from ..tasks import Task
from .dense import TracedDenseDetector, TracedDetector
from .operators import translations
from .regions import TracedRegionDetector

# perturbation that shows whether the result of an image depends on rounding, and the difference that counts as such
_NUDGE, _JUMP = 1e-5, 1e-2
# limits of the copy on which the check can fail: proposals in total, candidates per level, detections
_PROPOSALS, _CANDIDATES, _DETECTIONS = 40, 40, 30
# standard deviation of the outputs of its last layers: scores are spread over 0 .. 1, boxes are near their anchors
_SPREAD = {
    "cls_logits": 2.0, "cls_score": 2.0, "bbox_ctrness": 2.0, "mask_fcn_logits": 2.0, "bbox_reg": 0.5, "bbox_pred": 0.5
}  # fmt: skip


@dataclass(frozen=True)
class Detect(Task):
    """Detections in images (B, C, H, W) of 0 .. 1, which the file normalises and resizes itself.

    `boxes` (B, K, 4), x1 y1 x2 y2 in pixels of the image, `scores` (B, K) and `labels` (B, K) from 0, the best first. K
    is the largest number of detections. Rows without a detection have score 0, label -1 and zeros. mask_rcnn also has
    `masks` (B, K, S, S): the probability that a pixel belongs to the object, over the box and not over the image.
    """

    network: TracedDetector

    @property
    def outputs(self) -> tuple[str, ...]:
        """`boxes`, `scores`, `labels`, and `masks` if the detector has a mask head."""
        names = ("boxes", "scores", "labels")
        return (*names, "masks") if has_masks(self.network.detector) else names

    def translations(self) -> Mapping[Any, Callable[..., Any]]:
        """ONNX translations of suppression and of the pooling of regions."""
        return translations()

    def notes(self) -> dict[str, str]:
        """Metadata on the range, normalisation and size of the images."""
        transform: Any = self.network.detector.model.transform
        channels = len(transform.image_mean)
        return {
            "input_range": "[0, 1]",
            # the file normalises itself, nothing is left to do
            "mean": json.dumps([0.0] * channels),
            "std": json.dumps([1.0] * channels),
            "resized_to": json.dumps(self.network.sides),
            "resize": "stretch" if transform.fixed_size is not None else "letterbox",
            "pad": json.dumps(transform.image_mean),
            "interpolation": "bilinear",
        }

    def to_range(self, images: Tensor) -> Tensor:
        """Maps images about 0 to the range 0 .. 1."""
        return (images * 0.25 + 0.5).clamp(0, 1)

    def expected(self, images: Tensor) -> dict[str, Tensor]:
        """The detections of torchvision's own detector, in the form of the file.

        The additional entry `is_clear` (B) says whether the result of an image is stable under a tiny perturbation:
        with many equal scores, it is arbitrary which box suppresses which.
        """
        answer = self._found(images)
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
        nudged = self._found(images + _NUDGE * noise)
        drifts = [self._difference(nudged, answer, i) for i in range(len(images))]
        return {**answer, "is_clear": torch.tensor([drift < _JUMP for drift in drifts])}

    def difference(self, given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
        """Largest difference to the expected detections, over the images with a stable result.

        Differences of boxes are relative to the longer side of the image. Detections may be swapped if their scores are
        equal up to the difference. A detection that is missing or has another label makes the difference infinite.
        """
        if any(given[name].shape != expected[name].shape for name in self.outputs):
            return float("inf")
        clear = torch.where(expected["is_clear"])[0].tolist()
        return max((self._difference(given, expected, i) for i in clear), default=0.0)

    def revealing(self, filled: nn.Module | None) -> Task:
        """The task with a copy whose heads find many distinct detections, so that the check covers every step."""
        network: Any = copy.deepcopy(self.network) if filled is None else filled
        reveal(network.detector, network.size)
        return self.with_network(network)

    @torch.no_grad()
    def _found(self, images: Tensor) -> dict[str, Tensor]:
        """Detections of torchvision, (B, K, ...) each."""
        detector = self.network.detector
        model: Any = detector.model
        sizes = [tuple(images.shape[2:])] * len(images)
        masks: list[Tensor] = []
        if has_masks(detector):
            # torchvision's own steps without the last, which pastes the masks into the image
            framed, _ = model.transform(list(images))
            levels = model.backbone(framed.tensors)
            regions, _ = model.rpn(framed, levels)
            found, _ = model.roi_heads(levels, regions, framed.image_sizes)
            masks = [one.pop("masks")[:, 0] for one in found]  # (N, 1, S, S) -> (N, S, S)
            found = model.transform.postprocess(found, framed.image_sizes, sizes)
        else:
            found = model(list(images))
        answer = {"boxes": [one["boxes"] for one in found], "scores": [one["scores"] for one in found]}
        answer["labels"] = [one["labels"] - detector.first_label for one in found]
        answer |= {"masks": masks} if masks else {}
        count = detections_per_image(detector)
        return {name: torch.stack([_filled(x, count, name) for x in parts]) for name, parts in answer.items()}

    def _difference(self, given: Mapping[str, Tensor], expected: Mapping[str, Tensor], image: int) -> float:
        """The largest distance, in one image, of a detection to its match in the other result."""
        found, wanted = given["labels"][image] >= 0, expected["labels"][image] >= 0
        if found.sum() != wanted.sum() or (given["scores"][image].diff() > 0).any():
            return float("inf")
        if not all(given[name][image].isfinite().all() for name in self.outputs):
            return float("inf")
        if any(given[name][image][~found].ne(-1 if name == "labels" else 0).any() for name in self.outputs):
            return float("inf")
        if not found.any():
            return 0.0
        is_same = given["labels"][image][found][:, None] == expected["labels"][image][wanted]
        distance = torch.zeros(is_same.shape).masked_fill(~is_same, float("inf"))
        units = {"boxes": max(self.input_size[1:]), "scores": 1, "masks": 1}
        for name in units.keys() & given.keys():
            # (N, ...) -> (N, values of a detection)
            ours, theirs = (x[name][image].reshape(len(found), -1) for x in (given, expected))
            distance = distance.maximum(torch.cdist(ours[found], theirs[wanted], p=float("inf")) / units[name])
        # each must have a match in the other result
        return max(distance.amin(0).max().item(), distance.amin(1).max().item())


def _filled(values: Tensor, count: int, name: str) -> Tensor:
    """Pads values (N, ...) of detections with empty rows to (count, ...)."""
    rows = values.new_full((count - len(values), *values.shape[1:]), -1 if name == "labels" else 0)
    return torch.cat([values, rows])


def has_masks(detector: Detector) -> bool:
    """Whether a detector has a mask head."""
    heads: Any = getattr(detector.model, "roi_heads", None)
    return heads is not None and bool(heads.has_mask())


def detections_per_image(detector: Detector) -> int:
    """The largest number of detections per image."""
    model: Any = detector.model
    holder = getattr(model, "roi_heads", model)
    count: int = holder.detections_per_img
    return count


def detect(detector: Detector, image_size: tuple[int, int] | None) -> Detect:
    """Makes the task of a detector.

    Args:
        detector: in evaluation mode.
        image_size: height and width; by default a square of the size that the detector resizes images to.

    Raises:
        ValueError: an invalid image size.
    """
    check_size(image_size)
    transform: Any = detector.model.transform
    side = min(transform.min_size[-1], transform.max_size)
    size = image_size or (side, side)
    kind = TracedRegionDetector if hasattr(detector.model, "roi_heads") else TracedDenseDetector
    try:
        network = kind(detector, size).eval()
    # torch raises various exceptions for a map smaller than a pixel
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"the detector does not take images of {size[0]}x{size[1]}, choose another image size: {reason}"
        ) from error
    return Detect(network, (len(transform.image_mean), *size))


def open_with_origin(directory: str | Path, **_: Any) -> tuple[Detector, dict[str, str]]:
    """Opens the detector of a directory; returns it with the metadata entries on its origin.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: the directory was not written by `attnzoo train` for detection, or is damaged.
    """
    detector, config = open_detector(directory)
    return detector, {
        "model": config["architecture"],
        "head": config["detector"]["head"],
        "labels": json.dumps(config["label_names"]),
        "weights": f"sha256:{sha256(Path(directory) / WEIGHTS)}",
    }


def reveal(detector: Detector, size: tuple[int, int]) -> None:
    """Modifies a detector so that it finds many objects in images (H, W), with well separated scores.

    Untrained heads predict nearly the same everywhere, and trained ones find nothing in noise: a wrong file would pass
    the check. The heads are set to random weights, the thresholds to the middle of the scores, and the candidates are
    limited to so few that rounding does not change their order. Then the check covers every step.
    """
    model: Any = detector.model
    generator = torch.Generator().manual_seed(0)
    hooks = []
    for part in [model.head] if hasattr(model, "head") else [model.rpn.head, model.roi_heads]:
        for name, layer in part.named_modules():
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
                assert layer.bias is not None, "torchvision's heads have biases"
                nn.init.kaiming_normal_(layer.weight, generator=generator)
                nn.init.normal_(layer.bias, std=0.1, generator=generator)
                if spread := _SPREAD.get(name.split(".")[-1]):
                    hooks.append(layer.register_forward_hook(_Spreading(spread)))
    with torch.no_grad():
        images = picture_like((1, len(model.transform.image_mean), *size))
        detector(list((images * 0.25 + 0.5).clamp(0, 1)))
    for hook in hooks:
        hook.remove()
    if hasattr(model, "roi_heads"):
        model.rpn._pre_nms_top_n = model.rpn._post_nms_top_n = {"training": _PROPOSALS, "testing": _PROPOSALS}
        heads = model.roi_heads
        heads.score_thresh = 1 / heads.box_predictor.cls_score.out_features
        heads.detections_per_img = min(heads.detections_per_img, _DETECTIONS)
        return
    model.score_thresh, model.topk_candidates = 0.5, _CANDIDATES
    model.detections_per_img = min(model.detections_per_img, _DETECTIONS)
    if isinstance(model, FCOS):
        # boxes of a few strides, so that neighbours overlap
        nn.init.constant_(model.head.regression_head.bbox_reg.bias, 3.0)


class _Spreading:
    """A hook that, on the first call, shifts and scales a layer so that its output channels are centred and spread."""

    def __init__(self, spread: float) -> None:
        self.spread, self.is_done = spread, False

    def __call__(self, layer: Any, _: Any, answer: Tensor) -> Tensor:
        if self.is_done:
            return answer
        self.is_done = True
        mean = answer.transpose(0, 1).flatten(1).mean(1)
        centred = answer - mean.reshape(-1, *[1] * (answer.dim() - 2))
        # a map of one pixel has no spread
        factor = self.spread / max(centred.std().item(), 0.01)
        layer.weight.mul_(factor)
        layer.bias.sub_(mean).mul_(factor)
        return centred * factor
