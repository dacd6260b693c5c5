import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn
from torch.testing import assert_close

from attnzoo.tools.data.samples import collate
from attnzoo.tools.detection.data import open_detection
from attnzoo.tools.detection.drawing import MOST_DRAWN, colour_of, draw_found, draw_objects, draw_worst_cases, mistakes
from attnzoo.tools.detection.metrics import DetectionJudge, JudgedPicture, class_table, judge_pictures
from attnzoo.tools.training.processes import Processes

CLASSES = ("cat", "dog")
A, B, FAR = [10.0, 10.0, 50.0, 50.0], [60.0, 60.0, 80.0, 80.0], [0.0, 80.0, 9.0, 89.0]


def picture(truth, found, image_id=0, crowds=()):
    """An image with boxes and labels, and detections with boxes, labels and scores."""
    boxes = [box for box, _ in truth]
    return JudgedPicture(
        image_id,
        f"{image_id}.png",
        (100, 100),
        {
            "boxes": np.array(boxes, dtype=np.float32).reshape(-1, 4),
            "labels": np.array([label for _, label in truth], dtype=np.int64),
            "area": np.array([(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in boxes], dtype=np.float32),
            "iscrowd": np.array([i in crowds for i in range(len(truth))], dtype=np.bool_),
            "runs": [],
        },
        {
            "boxes": np.array([box for box, _, _ in found], dtype=np.float32).reshape(-1, 4),
            "labels": np.array([label for _, label, _ in found], dtype=np.int64),
            "scores": np.array([score for _, _, score in found], dtype=np.float32),
            "runs": [],
        },
    )


CASES = {
    # pictures, AP50, AP
    "everything is found": ([picture([(A, 0), (B, 1)], [(A, 0, 0.9), (B, 1, 0.8)])], 1.0, 1.0),
    "nothing is found": ([picture([(A, 0)], [])], 0.0, 0.0),
    "one of two classes": ([picture([(A, 0), (B, 1)], [(A, 0, 0.9)])], 0.5, 0.5),
    "the wrong class": ([picture([(A, 0)], [(A, 1, 0.9)])], 0.0, 0.0),
    # precision 1/2, because the first detection is wrong
    "a stronger false alarm": ([picture([(A, 0)], [(FAR, 0, 0.9), (A, 0, 0.8)])], 0.5, 0.5),
    "a weaker false alarm costs nothing": ([picture([(A, 0)], [(A, 0, 0.9), (FAR, 0, 0.8)])], 1.0, 1.0),
    "found twice": (
        [picture([(A, 0), (B, 0)], [(A, 0, 0.9), (A, 0, 0.8), (B, 0, 0.7)])],
        51 / 101 + 50 / 101 * 2 / 3,
        None,
    ),
    # overlap 1600 / 2000 = 0.8: seven of the ten thresholds are reached
    "not quite in place": ([picture([(A, 0)], [([10.0, 10.0, 50.0, 60.0], 0, 0.9)])], 1.0, 0.7),
    "a detection in a crowd counts for nothing": (
        [picture([(A, 0), (B, 0)], [(B, 0, 0.9), (A, 0, 0.8)], crowds=(1,))],
        1.0,
        1.0,
    ),
    "a picture without objects": ([picture([(A, 0)], [(A, 0, 0.8)]), picture([], [], 1)], 1.0, 1.0),
    "a false alarm in a picture without objects": (
        [picture([(A, 0)], [(A, 0, 0.8)]), picture([], [(A, 0, 0.9)], 1)],
        0.5,
        0.5,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_precision_is_what_it_is_by_hand(case, capfd):
    pictures, at_half, over_all = CASES[case]
    metrics = judge_pictures(pictures, CLASSES).metrics
    assert metrics["AP50"] == pytest.approx(at_half, abs=1e-6)
    if over_all is not None:
        assert metrics["AP"] == pytest.approx(over_all, abs=1e-6)
    assert capfd.readouterr() == ("", "")


def test_sizes_that_no_object_has_are_left_out():
    metrics = judge_pictures([picture([(A, 0), (B, 0)], [(B, 0, 0.9)])], CLASSES).metrics
    assert list(metrics) == ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AR"]
    assert [metrics[name] for name in ("AP_small", "AP_medium", "AR")] == pytest.approx([1, 0, 0.5])


def test_the_table_has_a_row_for_each_class():
    report = judge_pictures([picture([(A, 0), (B, 0)], [(A, 0, 0.9), (B, 0, 0.8)])], CLASSES)
    rows = report.per_class
    assert rows[0] == {"class": "cat", "objects": 2, "AP": pytest.approx(1), "AP50": pytest.approx(1)}
    assert (rows[1]["class"], rows[1]["objects"]) == ("dog", 0)
    assert np.isnan(rows[1]["AP"])
    table = class_table(report)
    assert [list(column.cells) for column in table.columns] == [
        ["cat", "dog"],
        ["2", "0"],
        ["100.00%", "-"],
        ["100.00%", "-"],
    ]


def test_nothing_to_judge_by_is_said():
    with pytest.raises(ValueError, match="no images to evaluate on"):
        judge_pictures([], CLASSES)
    with pytest.raises(ValueError, match="no boxes to evaluate on in the 1 images"):
        judge_pictures([picture([(A, 0)], [], crowds=(0,))], CLASSES)


class Answers(nn.Module):
    """Returns given detections, image by image."""

    def __init__(self, answers):
        super().__init__()
        self.answers = iter(answers)

    def forward(self, images):
        return [next(self.answers) for _ in images]


def batch(number, boxes, masks):
    target = {
        "boxes": torch.tensor(boxes),
        "labels": torch.zeros(len(boxes), dtype=torch.int64),
        "area": torch.tensor([400.0] * len(boxes)),
        "iscrowd": torch.zeros(len(boxes), dtype=torch.bool),
        "image_id": torch.tensor(number),
        "masks": masks,
    }
    return {"images": torch.zeros(3, 100, 100), "targets": target, "name": f"{number}.png", "unreadable": []}


def test_masks_are_judged_apart_from_boxes():
    left, right = torch.zeros(1, 100, 100, dtype=torch.uint8), torch.zeros(1, 100, 100, dtype=torch.uint8)
    left[0, 60:80, 60:70], right[0, 60:80, 70:80] = 1, 1
    found = {"boxes": torch.tensor([B]), "labels": torch.tensor([0]), "scores": torch.tensor([0.9])}
    unreadable = {"unreadable": ["b.png cannot be read"]}
    loader = [collate([batch(0, [B], left)], stacked=False), collate([unreadable], stacked=False)]
    judge, heard = DetectionJudge(CLASSES, Processes(0, 1, torch.device("cpu")), with_masks=True), []
    metrics = judge(Answers([{**found, "masks": right.bool()}]), loader, heard.append)
    assert (metrics["AP"], metrics["mask_AP"]) == pytest.approx((1, 0))
    assert set(metrics) <= set(judge.shares)
    assert heard == [[], ["b.png cannot be read"]]
    assert judge(Answers([{**found, "masks": left.bool()}]), loader, heard.append)["mask_AP"] == pytest.approx(1)


def test_processes_together_judge_as_one():
    """Each process has its part of the images, and all get the metrics of the whole data set."""
    masks = torch.zeros(1, 100, 100, dtype=torch.uint8)
    samples = [batch(i, [B], masks) for i in range(3)]
    right = {"boxes": torch.tensor([B]), "labels": torch.tensor([0]), "scores": torch.tensor([0.9])}
    wrong = {**right, "boxes": torch.tensor([A])}
    answers = [right, wrong, right]

    class Second(Processes):
        """The process with image 1, which gathers images 0 and 2 from the other process."""

        def gather(self, value):
            return [others, value]

    def judged(processes, chosen):
        judge = DetectionJudge(CLASSES, processes)
        loader = [collate([samples[i]], stacked=False) for i in chosen]
        return judge(Answers([answers[i] for i in chosen]), loader, lambda _: None), judge.report.pictures

    alone = Processes(0, 1, torch.device("cpu"))
    whole, _ = judged(alone, [0, 1, 2])
    _, others = judged(alone, [0, 2])
    together, pictures = judged(Second(1, 2, torch.device("cpu")), [1])
    assert together == whole
    assert [p.image_id for p in pictures] == [0, 1, 2]


def test_mistakes_are_missed_objects_and_false_alarms():
    assert mistakes(picture([(A, 0), (B, 1)], [(A, 0, 0.9), (B, 1, 0.9)])) == 0
    assert mistakes(picture([(A, 0), (B, 1)], [(A, 1, 0.9), (B, 1, 0.2)])) == 3
    assert mistakes(picture([(A, 0)], [(A, 0, 0.9), (A, 0, 0.8)])) == 1
    assert mistakes(picture([(A, 0)], [([20.0, 20.0, 30.0, 30.0], 0, 0.9)], crowds=(0,))) == 0


def test_the_worst_pictures_come_first(tmp_path):
    samples = open_detection({"name": "digits_on_canvas", "val_images": 4}, "val")
    digits = [str(i) for i in range(10)]
    pictures = [picture([(A, 0)] * i, [], image_id=i) for i in range(4)]
    pictures[1].found = picture([], [(A, 3, 0.9), (FAR, 4, 0.9), (B, 5, 0.8), (B, 6, 0.8), (A, 1, 0.1)]).found
    report = judge_pictures(pictures, digits)
    paths = draw_worst_cases(report, samples, tmp_path / "worst", count=3)
    assert [path.name for path in paths] == ["01-1.png", "02-3.png", "03-2.png"]
    drawn = torch.from_numpy(np.array(Image.open(paths[1])))
    plain = torch.from_numpy(np.array(samples.source.picture(3, 3).resize((384, 384), Image.Resampling.NEAREST)))
    assert drawn.shape == plain.shape
    # the box is drawn over the image, and the rest is unchanged
    assert_close(drawn[30, 40:140], torch.tensor([0, 200, 70], dtype=torch.uint8).expand(100, 3))
    assert_close(drawn[200:], plain[200:])


def crowded(count):
    """Detections of decreasing certainty in rows: their boxes overlap."""
    boxes = [[10 + 7 * (i % 8), 20 + 9 * (i // 8), 60 + 7 * (i % 8), 70 + 9 * (i // 8)] for i in range(count)]
    return {"boxes": boxes, "labels": [i % 10 for i in range(count)], "scores": [0.99 - i / 100 for i in range(count)]}


def test_the_best_detections_are_drawn_and_their_labels_do_not_cover_each_other(monkeypatch):
    outlines, labels, rectangle = [], [], ImageDraw.ImageDraw.rectangle

    def note(self, xy, fill=None, outline=None, width=1):
        (labels if outline is None else outlines).append(xy)
        rectangle(self, xy, fill, outline, width)

    monkeypatch.setattr(ImageDraw.ImageDraw, "rectangle", note)
    found = crowded(60)
    drawn = draw_objects(Image.new("RGB", (400, 400)), found, [str(i) for i in range(10)])
    assert drawn.size == (400, 400)
    assert sorted(xy[:2] for xy in outlines) == sorted(tuple(box[:2]) for box in found["boxes"][:MOST_DRAWN])
    assert 5 <= len(labels) <= MOST_DRAWN
    for i, (left, top, right, bottom) in enumerate(labels):
        assert 0 <= left < right <= 400
        assert 0 <= top < bottom <= 400
        for x1, y1, x2, y2 in labels[:i]:
            assert left >= x2 or right <= x1 or top >= y2 or bottom <= y1
    outlines.clear()
    draw_objects(Image.new("RGB", (400, 400)), found, [str(i) for i in range(10)], least_score=0.95)
    assert len(outlines) == 5


def test_a_label_stands_outside_of_the_objects_where_there_is_room(monkeypatch):
    places, rectangle = [], ImageDraw.ImageDraw.rectangle

    def note(self, xy, fill=None, outline=None, width=1):
        places.extend([(xy, fill)] if outline is None else [])
        rectangle(self, xy, fill, outline, width)

    monkeypatch.setattr(ImageDraw.ImageDraw, "rectangle", note)
    # at the top of the image, below another object, and over the whole height
    boxes = [[150, 0, 250, 100], [20, 200, 120, 300], [20, 300, 120, 380], [300, 0, 340, 400]]
    found = {"boxes": boxes, "labels": [0, 1, 2, 3], "scores": [0.9, 0.8, 0.7, 0.6]}
    draw_objects(Image.new("RGB", (400, 400)), found, ["a", "b", "c", "d"])
    assert len(places) == 4
    for (left, top, right, bottom), _ in places:
        assert all(left >= x2 or right <= x1 or top >= y2 or bottom <= y1 for x1, y1, x2, y2 in boxes)
    assert len({fill for _, fill in places}) == 4

    # an object that fills the image remains visible through its label
    places.clear()
    whole = {"boxes": [[0, 0, 400, 400]], "labels": [0], "scores": [0.9]}
    draw_objects(Image.new("RGB", (400, 400)), whole, ["a"])
    assert places[0][1][3] < 255


def test_the_objects_of_each_class_are_counted_below_the_image(tmp_path):
    Image.new("RGB", (400, 300), "grey").save(tmp_path / "street.png")
    found = {
        "file": str(tmp_path / "street.png"), "labels": ["car", "car", "dog"], "indices": [2, 2, 5],
        "scores": [0.9, 0.8, 0.7], "boxes": [[10, 50, 60, 90], [100, 50, 160, 90], [200, 50, 260, 90]],
    }  # fmt: skip
    draw_found(tmp_path / "drawn.jpg", found)
    with Image.open(tmp_path / "drawn.jpg") as drawn:
        assert drawn.width == 400
        below = drawn.crop((0, 302, 400, drawn.height))
        assert drawn.height > 310
        pixels = np.asarray(below).reshape(-1, 3).astype(int)
    for label in (2, 5):
        assert np.abs(pixels - colour_of(label)).sum(1).min() < 60
