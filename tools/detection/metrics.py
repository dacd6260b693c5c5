"""COCO metrics of a detector over a data set, the same in training and in `attnzoo evaluate`."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..metrics import AfterBatch
from ..training.processes import Processes

# indices into the summary of pycocotools; AR is the recall with 100 detections per image
_SUMMARY = {0: "AP", 1: "AP50", 2: "AP75", 3: "AP_small", 4: "AP_medium", 5: "AP_large", 8: "AR"}
NAMES = tuple(_SUMMARY.values())


@dataclass
class JudgedPicture:
    """The detections and the ground truth of an image.

    Attributes:
        image_id: id of the image in the data set.
        name: name of its file.
        size: height and width in pixels.
        truth: `boxes` (N, 4), `labels` (N), `area` (N), `iscrowd` (N), and `runs`, N run lengths of masks, or empty.
        found: `boxes` (M, 4), `labels` (M), `scores` (M) and `runs`.
    """

    image_id: int
    name: str
    size: tuple[int, int]
    truth: dict[str, Any]
    found: dict[str, Any]


@dataclass
class Report:
    """The results of an evaluation in detail.

    Attributes:
        metrics: metrics by name.
        per_class: a row per class: `class`, the number of `objects`, `AP` and `AP50` (NaN if there are no objects).
        pictures: all images, sorted by `image_id`.
    """

    metrics: dict[str, float]
    per_class: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[JudgedPicture] = field(default_factory=list)


class DetectionJudge:
    """Average precision of a detector, as computed by COCO (pycocotools).

    Args:
        classes: names of the labels.
        processes: the processes that evaluate together, each its part of the images.
        with_masks: evaluate masks too, as `mask_AP` and so on.

    Attributes:
        report: results of the last evaluation in detail.
    """

    metric = "AP"

    def __init__(self, classes: Sequence[str], processes: Processes, with_masks: bool = False) -> None:
        self.classes, self.processes, self.with_masks = list(classes), processes, with_masks
        self.shares = (*NAMES, *(f"mask_{name}" for name in NAMES if with_masks))
        self.report = Report({})

    @torch.inference_mode()
    def __call__(self, model: nn.Module, loader: DataLoader[Any], after_batch: AfterBatch) -> dict[str, float]:
        """AP over IoU 0.5 .. 0.95, at 0.5 and at 0.75, for small, medium and large objects, and AR.

        Metrics of object sizes without objects are left out.

        Args:
            model: `attnzoo.tools.detection.detectors.Detector`.
            loader: batches of `images`, `targets` and `name`; every process has its part, and all get the same result.
            after_batch: called after each batch.

        Raises:
            ValueError: there are no images or no boxes to evaluate on.
        """
        model.eval()
        own: list[JudgedPicture] = []
        for batch in loader:
            if "images" in batch:
                found = model([image.to(self.processes.device, non_blocking=True) for image in batch["images"]])
                own += [
                    self._note(*sample)
                    for sample in zip(batch["images"], batch["targets"], found, batch["name"], strict=True)
                ]
            after_batch(batch["unreadable"])
        everyones = itertools.chain.from_iterable(self.processes.gather(own))
        pictures = sorted(everyones, key=lambda picture: picture.image_id)
        self.report = judge_pictures(pictures, self.classes, self.with_masks)
        return self.report.metrics

    def _note(
        self, image: Tensor, target: Mapping[str, Tensor], found: Mapping[str, Tensor], name: str
    ) -> JudgedPicture:
        truth: dict[str, Any] = {key: target[key].numpy() for key in ("boxes", "labels", "area", "iscrowd")}
        noted: dict[str, Any] = {key: found[key].float().cpu().numpy() for key in ("boxes", "scores")}
        noted["labels"] = found["labels"].cpu().numpy()
        both = ((truth, target), (noted, found))
        for kept, source in both:
            kept["runs"] = _encode(source["masks"].cpu().numpy()) if self.with_masks else []
        height, width = image.shape[-2:]
        return JudgedPicture(int(target["image_id"]), name, (height, width), truth, noted)


def judge_pictures(pictures: Sequence[JudgedPicture], classes: Sequence[str], with_masks: bool = False) -> Report:
    """Computes COCO metrics.

    Args:
        pictures: images with their ground truth and detections.
        classes: names of the labels.
        with_masks: evaluate masks too.

    Raises:
        ValueError: there are no images or no boxes to evaluate on.
    """
    if not pictures:
        raise ValueError("there are no images to evaluate on: the validation data is empty or unreadable")
    if not any((~picture.truth["iscrowd"]).any() for picture in pictures):
        raise ValueError(f"there are no boxes to evaluate on in the {len(pictures)} images of the validation data")
    boxes = _Evaluation(pictures, classes, "bbox")
    metrics = boxes.metrics()
    if with_masks:
        metrics |= {f"mask_{name}": value for name, value in _Evaluation(pictures, classes, "segm").metrics().items()}
    return Report(metrics, boxes.per_class(), list(pictures))


def class_table(report: Report) -> Table:
    """A table for a rich console with a row per class: number of objects, AP and AP50, the worst first."""
    table = Table("class", "objects", "AP", "AP50")
    for row in sorted(report.per_class, key=lambda row: (np.isnan(row["AP"]), row["AP"])):
        values = ["-" if np.isnan(row[key]) else f"{row[key]:.2%}" for key in ("AP", "AP50")]
        table.add_row(row["class"], str(row["objects"]), *values)
    return table


class _Evaluation:
    """Runs pycocotools in its own data format, without its printed output."""

    def __init__(self, pictures: Sequence[JudgedPicture], classes: Sequence[str], kind: str) -> None:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        self.classes = classes
        self.counts = np.zeros(len(classes), dtype=np.int64)
        truth: list[dict[str, Any]] = []
        found: list[dict[str, Any]] = []
        for index, picture in enumerate(pictures, 1):
            self.counts += np.bincount(picture.truth["labels"][~picture.truth["iscrowd"]], minlength=len(classes))
            truth += _annotations(picture.truth, index, kind)
            found += _annotations(picture.found, index, kind)
        for entries in (truth, found):
            for number, entry in enumerate(entries, 1):
                # pycocotools uses the id 0 for no match
                entry["id"] = number
        with contextlib.redirect_stdout(io.StringIO()):
            self.judge = COCOeval(
                _index(COCO(), truth, pictures, classes), _index(COCO(), found, pictures, classes), kind
            )
            self.judge.evaluate()
            self.judge.accumulate()
            self.judge.summarize()

    def metrics(self) -> dict[str, float]:
        """Metrics by name; undefined ones are left out."""
        stats = {name: float(self.judge.stats[position]) for position, name in _SUMMARY.items()}
        return {name: value for name, value in stats.items() if value >= 0}

    def per_class(self) -> list[dict[str, Any]]:
        """A row of results per class."""
        # (overlaps, recalls, classes, sizes, detection limits): all sizes, 100 detections
        precision = self.judge.eval["precision"][:, :, :, 0, -1]
        return [
            {
                "class": name,
                "objects": int(self.counts[i]),
                "AP": _mean_of_known(precision[:, :, i]),
                "AP50": _mean_of_known(precision[0, :, i]),
            }
            for i, name in enumerate(self.classes)
        ]


def _mean_of_known(precision: NDArray[np.float64]) -> float:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else float("nan")


def _annotations(objects: Mapping[str, Any], image_id: int, kind: str) -> list[dict[str, Any]]:
    entries = []
    for row, (x1, y1, x2, y2) in enumerate(objects["boxes"].astype(np.float64)):
        entry = {
            "image_id": image_id,
            "category_id": int(objects["labels"][row]) + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": float(objects["area"][row]) if "area" in objects else (x2 - x1) * (y2 - y1),
            "iscrowd": int(objects["iscrowd"][row]) if "iscrowd" in objects else 0,
        }
        if "scores" in objects:
            entry["score"] = float(objects["scores"][row])
        if kind == "segm":
            entry["segmentation"] = objects["runs"][row]
            if "scores" in objects:
                from pycocotools import mask

                entry["area"] = float(mask.area(objects["runs"][row]))
        entries.append(entry)
    return entries


def _index(coco: Any, entries: list[dict[str, Any]], pictures: Sequence[JudgedPicture], classes: Sequence[str]) -> Any:
    coco.dataset = {
        "images": [{"id": i, "height": p.size[0], "width": p.size[1]} for i, p in enumerate(pictures, 1)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes, 1)],
        "annotations": entries,
    }
    coco.createIndex()
    return coco


def _encode(masks: NDArray[Any]) -> list[dict[str, Any]]:
    """Run lengths of masks (N, H, W)."""
    from pycocotools import mask

    # (N, H, W) -> (H, W, N), the layout of pycocotools
    return mask.encode(np.asfortranarray(masks.astype(np.uint8).transpose(1, 2, 0))) if len(masks) else []
