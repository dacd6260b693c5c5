"""Boxes in the formats of COCO, YOLO and Pascal VOC, with the files where programs put them: all read the same way."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from attnzoo.tools.data import Draw
from attnzoo.tools.detection.data import open_detection

WIDTH, HEIGHT = 40, 30
CLASSES = ["cat", "dog"]
# label, x1, y1, x2, y2 of the objects in each image; the last has none
OBJECTS = [[(0, 4, 5, 20, 15)], [(1, 0, 0, 10, 30), (0, 30, 20, 40, 30)], [(1, 8, 3, 16, 9)], []]


def save_pictures(folder, numbers):
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        pixels = np.random.default_rng(number).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def coco(path, numbers, prefix=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    boxes = [(i, label, [x, y, right - x, bottom - y]) for i in numbers for label, x, y, right, bottom in OBJECTS[i]]
    images = [{"id": i, "file_name": f"{prefix}{i}.png", "width": WIDTH, "height": HEIGHT} for i in numbers]
    annotations = [{"image_id": i, "category_id": label, "bbox": box} for i, label, box in boxes]
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES)]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def yolo(folder, numbers):
    folder.mkdir(parents=True, exist_ok=True)
    for i in numbers:
        rows = [
            (label, (x + x2) / 2 / WIDTH, (y + y2) / 2 / HEIGHT, (x2 - x) / WIDTH, (y2 - y) / HEIGHT)
            for label, x, y, x2, y2 in OBJECTS[i]
        ]
        if rows:
            (folder / f"{i}.txt").write_text("".join(" ".join(map(str, row)) + "\n" for row in rows))


def voc(folder, numbers, difficult=0, corner=None):
    folder.mkdir(parents=True, exist_ok=True)
    for i in numbers:
        objects = "".join(
            f"<object><name>{CLASSES[label]}</name><difficult>{difficult}</difficult>"
            f"<bndbox><xmin>{corner or x + 1}</xmin><ymin>{y + 1}</ymin>"
            f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox>"
            "</object>"
            for label, x, y, right, bottom in OBJECTS[i]
        )
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
        (folder / f"{i}.xml").write_text(f"<annotation><filename>{i}.png</filename>{size}{objects}</annotation>")


def coco_of(split):
    """The file and the folder of each layout, and what is before the names of images."""
    return {
        "as COCO": (f"annotations/instances_{split}2017.json", f"{split}2017", ""),
        "a file and a folder": (f"{split}.json", split, ""),
        "as Roboflow": (f"{split}/_annotations.coco.json", split, ""),
        "images in a folder": (f"annotations/{split}.json", f"images/{split}", ""),
        "names with folders": (f"labels_{split}.json", f"images/{split}", f"images/{split}/"),
    }


def write(root, layout):
    """Images 0, 1 and 3 for training and 2 for validation."""
    for split, numbers in (("train", (0, 1, 3)), ("val", (2,))):
        kind, _, place = layout.partition(": ")
        if kind == "coco":
            file, folder, prefix = coco_of(split)[place]
            save_pictures(root / folder, numbers)
            coco(root / file, numbers, prefix)
        elif kind == "yolo":
            by_split = place != "as Roboflow"
            images, labels = (f"{x}/{split}" if by_split else f"{split}/{x}" for x in ("images", "labels"))
            save_pictures(root / images, numbers)
            yolo(root / (images if place == "beside the images" else labels), numbers)
            described = {"as Roboflow": f"{split}: ../{split}/images\n", "as ultralytics": f"{split}: images/{split}\n"}
            with (root / "data.yaml").open("a") as file:
                file.write(described.get(place, ""))
        else:
            is_list = place == "as VOC"
            save_pictures(root / ("JPEGImages" if is_list else split), numbers)
            voc(root / ("Annotations" if is_list else split), numbers)
            if is_list:
                (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
                (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{i}\n" for i in numbers))
    if layout.startswith("yolo"):
        with (root / "data.yaml").open("a") as file:
            file.write("names: {0: cat, 1: dog}\n" if "ultralytics" in layout else "names: [cat, dog]\n")
    return {"name": layout.partition(":")[0], "root": str(root)}


LAYOUTS = [
    *(f"coco: {place}" for place in coco_of("")),
    *(f"yolo: {place}" for place in ("as ultralytics", "as Roboflow", "beside the images", "without paths")),
    *(f"voc: {place}" for place in ("as VOC", "as Roboflow")),
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_format_gives_the_same_boxes_from_the_usual_places(tmp_path, layout):
    data = write(tmp_path, layout)
    for split, numbers in (("train", (0, 1, 3)), ("val", (2,))):
        samples = open_detection(data, split)
        assert (samples.classes, len(samples), samples.remarks) == (CLASSES, len(numbers), "")
        for index, number in enumerate(numbers):
            sample = samples[Draw(index)]
            assert sample["name"].endswith(f"{number}.png")
            wanted = torch.tensor([box for _, *box in OBJECTS[number]], dtype=torch.float32).reshape(-1, 4)
            torch.testing.assert_close(sample["targets"]["boxes"], wanted, rtol=0, atol=1e-4)
            assert sample["targets"]["labels"].tolist() == [label for label, *_ in OBJECTS[number]]


@pytest.mark.parametrize("kind", ["coco", "yolo", "voc"])
def test_a_stated_part_is_held_out_where_there_is_none_for_validation(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(f"{__name__}.OBJECTS", OBJECTS[:1] * 6 + OBJECTS[2:3] * 4)
    save_pictures(tmp_path / "images", range(10))
    if kind == "coco":
        coco(tmp_path / "annotations.json", range(10))
    elif kind == "yolo":
        yolo(tmp_path / "labels", range(10))
        (tmp_path / "classes.txt").write_text("cat\ndog\n")
    else:
        voc(tmp_path / "annotations", range(10))
    data = {"name": kind, "root": str(tmp_path), "val_share": 0.5}
    parts = [open_detection(data, split) for split in ("train", "val")]
    names = [{part.source.name(i) for i in range(len(part))} for part in parts]
    assert not names[0] & names[1]
    labels = [[int(part.source.objects(i).labels[0]) for i in range(len(part))] for part in parts]
    assert [sorted(found) for found in labels] == [[0, 0, 0, 1, 1]] * 2
    assert "0.5 of the images of each class (the rarest one in an image) is held out, drawn with seed 0" in (
        parts[1].remarks
    )
    again = open_detection(data, "val")
    assert {again.source.name(i) for i in range(len(again))} == names[1]


def test_polygons_of_yolo_are_outlines_and_have_boxes(tmp_path):
    save_pictures(tmp_path / "images", [0])
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "0.txt").write_text("0 0.25 0.2 0.75 0.2 0.75 0.8 0.25 0.8\n\n")
    data = {"name": "yolo", "root": str(tmp_path), "names": ["cat"]}
    (tmp_path / "val").symlink_to(tmp_path / "images")
    target = open_detection({**data, "val_images": "images"}, "val", with_masks=True)[Draw(0)]["targets"]
    assert target["boxes"].tolist() == [[10, 6, 30, 24]]
    assert target["masks"][0, 6:24, 10:30].all()
    assert target["masks"].sum() == 18 * 20


def test_difficult_objects_of_voc_do_not_count(tmp_path):
    data = write(tmp_path, "voc: as VOC")
    voc(tmp_path / "Annotations", [0], difficult=1)
    assert open_detection(data, "train")[Draw(0)]["targets"]["iscrowd"].tolist() == [True]
    assert len(open_detection(data, "train", [])[Draw(0, 0)]["targets"]["boxes"]) == 0


def append(path, text):
    path.write_text((path.read_text() if path.exists() else "") + text)


def moved(path, *texts):
    content = path.read_text()
    for before, after in zip(texts[::2], texts[1::2], strict=True):
        assert before in content
        content = content.replace(before, after)
    path.write_text(content)


def only_coco(root):
    """Replaces what is in a folder by images and annotations of COCO."""
    shutil.rmtree(root)
    write(root, "coco: as COCO")
    return root


def with_label(line):
    """Adds a line to the labels of an image."""
    return lambda root: append(root / "labels/train/0.txt", line)


MISTAKES = {
    "a class that has no name": (
        "yolo",
        with_label("2 .5 .5 .1 .1"),
        r"0.txt, line 2: must be a class of 0 .. 1, and x, y, width .* got '2 .5 .5 .1 .1'",
    ),
    "a label of three numbers": (
        "yolo",
        with_label("1 .5 .5 .1"),
        "line 2: must be a class",
    ),
    "pixels instead of shares": (
        "yolo",
        with_label("1 90 80 10 10"),
        "line 2: '1 90 80 10 10' is outside of 0.png; YOLO labels are fractions of the image, 0 .. 1: class, center x",
    ),
    "small pixels": (
        "yolo",
        with_label("1 1 1 10 10"),
        "line 2: '1 1 1 10 10' is outside of 0.png; YOLO labels are fractions of the image, 0 .. 1: class, center x",
    ),
    "a polygon in pixels": (
        "yolo",
        with_label("1 4 5 20 5 20 15"),
        "is outside of 0.png; YOLO labels are fractions .* x and y of each corner",
    ),
    "a center beyond the image": (
        "yolo",
        with_label("1 1.5 .5 .1 .1"),
        "line 2: the box .* is outside of 0.png, .* YOLO labels are fractions",
    ),
    "coco for yolo": ("yolo", lambda root: only_coco(root), "it looks like COCO, for which data.name=coco is set"),
    "coco for yolo, with names": (
        "yolo",
        lambda root: append(only_coco(root) / "classes.txt", "cat"),
        "no image of .* has labels, such as .*train2017/0.txt: .* it looks like COCO",
    ),
    "coco for voc": ("voc", lambda root: only_coco(root), "it looks like COCO, for which data.name=coco is set"),
    "corners beyond the image": (
        "voc",
        lambda root: moved(root / "Annotations/0.xml", "<xmin>5<", "<xmin>50<", "<xmax>20<", "<xmax>70<"),
        "the box .* is outside of .*0.png, .*; the corners of Pascal VOC are xmin, ymin, xmax, ymax in pixels",
    ),
    "no names": (
        "yolo",
        lambda root: (root / "data.yaml").unlink(),
        r"does not say the names of its classes: .* data.names=\[cat,dog\]",
    ),
    "no YAML": ("yolo", lambda root: append(root / "data.yaml", "]: ["), "data.yaml is not YAML"),
    "no images of yolo": (
        "yolo",
        lambda root: [path.unlink() for path in (root / "images").rglob("*.png")],
        "has no images for train, found",
    ),
    "yolo for coco": (
        "coco",
        lambda root: write(root, "yolo: as ultralytics"),
        "has no COCO annotations .* it looks like YOLO, for which data.name=yolo is set",
    ),
    "voc for coco": (
        "coco",
        lambda root: write(root, "voc: as VOC"),
        "has no COCO annotations .* it looks like Pascal VOC, for which data.name=voc is set",
    ),
    "two files": (
        "coco",
        lambda root: [coco(root / f"{x}_train.json", [0]) for x in "ab"],
        r"has 2 files that may be the annotations for train: a_train.json, b_train.json; set data.train_annotations",
    ),
    "no XML": ("voc", lambda root: append(root / "Annotations/0.xml", "<"), "0.xml is not XML"),
    "entities": (
        "voc",
        lambda root: (root / "Annotations/0.xml").write_text('<!DOCTYPE a [<!ENTITY b "c">]><a/>'),
        "must not have a document type",
    ),
    "no image of an XML file": (
        "voc",
        lambda root: (root / "JPEGImages/0.png").unlink(),
        "the image of .*0.xml, 0.png, is not in .*JPEGImages",
    ),
    "an image without an XML file": (
        "voc",
        lambda root: (root / "Annotations/0.xml").unlink(),
        "train.txt lists 0, without an XML file",
    ),
    "a corner that is no number": (
        "voc",
        lambda root: voc(root / "Annotations", [0], corner="x"),
        r"object\[0\]: bndbox must have the numbers xmin",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_in_one_line(tmp_path, mistake):
    kind, change, message = MISTAKES[mistake]
    if kind != "coco":
        write(tmp_path, "yolo: as ultralytics" if kind == "yolo" else "voc: as VOC")
    change(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as told:
        open_detection({"name": kind, "root": str(tmp_path)}, "train", [])
    assert "\n" not in str(told.value)


def test_an_image_that_cannot_be_read_is_listed(tmp_path):
    data = write(tmp_path, "yolo: as ultralytics")
    (tmp_path / "images" / "train" / "0.png").write_bytes(b"no picture")
    assert "0.png cannot be read as an image" in open_detection(data, "train")[Draw(0)]["unreadable"][0]
