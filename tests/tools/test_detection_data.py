import json

import numpy as np
import pytest
import torch
from PIL import Image

from attnzoo.tools.data import Draw
from attnzoo.tools.detection.data import open_detection
from attnzoo.tools.images import UnreadableImageError

WIDTH, HEIGHT = 40, 30
TRIANGLE = [[10, 5, 20, 5, 10, 15]]


def annotation(number, box, image_id=7, category_id=3, **more):
    return {"id": number, "image_id": image_id, "category_id": category_id, "bbox": box, **more}


@pytest.fixture
def content():
    """Two images, one without boxes; category ids neither start at 0 nor are consecutive."""
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "width": WIDTH, "height": HEIGHT},
            {"id": 2, "file_name": "sub/b.png", "width": WIDTH, "height": HEIGHT},
        ],
        "categories": [{"id": 9, "name": "cat"}, {"id": 3, "name": "dog"}],
        "annotations": [
            annotation(1, [10, 5, 10, 10], segmentation=TRIANGLE, area=50),
            annotation(2, [0, 0, 4, 8], category_id=9, segmentation=[[0, 0, 4, 0, 4, 8, 0, 8]], area=32),
        ],
    }


@pytest.fixture
def write(tmp_path, content):
    """Writes images and annotations of both splits, and returns the `data` of a recipe."""

    def write(**changes):
        (tmp_path / "annotations").mkdir(exist_ok=True)
        for split in ("train", "val"):
            folder = tmp_path / f"{split}2017"
            (folder / "sub").mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            for name in ("a.png", "sub/b.png"):
                Image.fromarray(pixels).save(folder / name)
            path = tmp_path / "annotations" / f"instances_{split}2017.json"
            path.write_text(json.dumps({**content, **changes}))
        return {"name": "coco", "root": str(tmp_path)}

    return write


def test_boxes_and_labels_are_what_the_annotations_say(write):
    samples = open_detection(write(), "val")
    assert samples.classes == ["dog", "cat"]
    sample = samples[Draw(0)]
    target = sample["targets"]
    assert sample["images"].shape == (3, HEIGHT, WIDTH)
    assert 0 <= sample["images"].min() < sample["images"].max() <= 1
    assert target["boxes"].tolist() == [[10, 5, 20, 15], [0, 0, 4, 8]]
    assert target["labels"].tolist() == [0, 1]
    assert target["area"].tolist() == [50, 32]
    assert (target["boxes"].dtype, target["labels"].dtype) == (torch.float32, torch.int64)
    assert int(target["image_id"]) == 7


def test_a_picture_without_boxes_is_kept(write):
    target = open_detection(write(), "train", [], with_masks=True)[Draw(1, 0)]["targets"]
    assert (target["boxes"].shape, target["labels"].shape) == ((0, 4), (0,))
    assert target["masks"].shape == (0, HEIGHT, WIDTH)


def test_polygons_and_run_lengths_become_masks(write, content):
    counts = [0, HEIGHT * 4, HEIGHT * (WIDTH - 4)]
    content["annotations"][1]["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": counts}
    masks = open_detection(write(), "val", with_masks=True)[Draw(0)]["targets"]["masks"]
    assert masks.shape == (2, HEIGHT, WIDTH)
    assert 35 <= masks[0].sum() <= 65
    assert masks[0, :5].sum() == 0
    assert masks[1, :, :4].all()
    assert masks[1, :, 4:].sum() == 0


def test_crowds_are_judged_by_but_not_learned_from(write, content):
    content["annotations"][1]["iscrowd"] = 1
    assert open_detection(write(), "val")[Draw(0)]["targets"]["iscrowd"].tolist() == [False, True]
    assert open_detection(write(), "train", [])[Draw(0, 0)]["targets"]["labels"].tolist() == [0]


def test_degenerate_boxes_are_left_out_and_boxes_that_stick_out_are_clipped(write, content):
    content["annotations"] = [
        annotation(1, [5, 5, 0, 4]),
        annotation(2, [5, 5, 3, -1]),
        annotation(3, [38, -1, 3, 4]),
        annotation(4, [1, 1, 2, 2]),
    ]
    samples = open_detection(write(), "val")
    assert samples[Draw(0)]["targets"]["boxes"].tolist() == [[38, 0, 40, 3], [1, 1, 3, 3]]
    assert samples.source.remarks == "2 boxes without width or height left out, 1 boxes clipped to the image"


BAD = {
    "no categories": ({"categories": []}, "has no categories"),
    "no images": ({"images": []}, "has no images"),
    "images are no list": ({"images": {"id": 1}}, "images must be a list of dicts"),
    "two categories with one id": (
        {"categories": [{"id": 3, "name": "a"}, {"id": 3, "name": "b"}]},
        "another category",
    ),
    "an unknown category": ({"annotations": [annotation(1, [1, 1, 2, 2], category_id=5)]}, "category id 5.*3, 9"),
    "an id that no tensor holds": ({"images": [{"id": 2**70}]}, "id must be an integer"),
    "an unknown image": ({"annotations": [annotation(1, [1, 1, 2, 2], image_id=99)]}, "image id 99, which is not"),
    "a box outside the image": ({"annotations": [annotation(1, [41, 1, 2, 2])]}, "outside of a.png, which is 40 x 30"),
    "a box above the image": ({"annotations": [annotation(1, [1, -9, 2, 9])]}, "outside of a.png"),
    "a box of three numbers": ({"annotations": [annotation(1, [1, 1, 2])]}, "bbox must be four numbers"),
    "a box of text": ({"annotations": [annotation(1, "1111")]}, "bbox must be four numbers"),
    "a box that is not a number": ({"annotations": [annotation(1, [1, 1, float("nan"), 2])]}, "bbox must be four"),
    "a box of a huge number": (
        {"annotations": [annotation(1, [1, 1, 10**400, 2])]},
        "bbox must be four",
    ),
    "a crowd that is neither": (
        {"annotations": [annotation(1, [1, 1, 2, 2], iscrowd="maybe")]},
        "iscrowd must be 0 or",
    ),
    "an id that is no number": ({"images": [{"id": "a7"}]}, "id must be an integer, got 'a7'"),
    "half a pixel": (
        {"images": [{"id": 1, "file_name": "a.png", "width": 40.5}]},
        "width must be an integer",
    ),
    "no boxes": ({"annotations": [annotation(1, [5, 5, 0, 4])]}, "has no boxes.*; 1 boxes without width"),
    "crowds only": (
        {"annotations": [annotation(1, [5, 5, 4, 4], iscrowd=1)]},
        "has no boxes, those of crowds",
    ),
    "an annotation without an image": ({"annotations": [{"category_id": 3, "bbox": [1, 1, 2, 2]}]}, "image_id must be"),
}
BAD_FILES = {
    "a folder above": "../a.png",
    "an absolute path": "/etc/hostname",
    "a folder above on Windows": "..\\a.png",
    "a drive": "C:\\a.png",
    "nothing": "",
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_annotations_are_refused_in_one_line(write, case):
    changes, message = BAD[case]
    with pytest.raises(ValueError, match=message) as caught:
        open_detection(write(**changes), "train", [])
    assert "\n" not in str(caught.value)
    assert "instances_train2017.json" in str(caught.value)


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_name_cannot_leave_the_folder(write, content, case):
    content["images"][0]["file_name"] = BAD_FILES[case]
    with pytest.raises(ValueError, match="file_name must be inside the folder"):
        open_detection(write(), "val")


def test_what_is_not_there_is_named(write, content, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no COCO annotations .* for train, found nothing: set data.root"):
        open_detection({"name": "coco", "root": str(tmp_path)}, "train", [])
    content["images"] += [{"id": i, "file_name": f"{i}.png", "width": 4, "height": 4} for i in range(100, 108)]
    with pytest.raises(FileNotFoundError, match=r"8 of the 10 images .*: '100.png', '101.png', .*'104.png', \.\.\."):
        open_detection(write(), "train", [])
    content["images"][-8:] = [{"id": 9, "file_name": "x" * 5000, "width": 4, "height": 4}]
    with pytest.raises(FileNotFoundError, match=r"1 of the 3 images .*: 'x{70,}\.\.\.$"):
        open_detection(write(), "train", [])
    data = write()
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist: set data.root, and data.train_images"):
        open_detection({**data, "train_images": "nowhere"}, "train", [])
    (tmp_path / "annotations" / "instances_val2017.json").write_text("{broken")
    with pytest.raises(ValueError, match="is not JSON"):
        open_detection(data, "val")


def test_unknown_names_and_keys_are_refused(write):
    with pytest.raises(ValueError, match=r"data.name must be one of coco, yolo, voc, digits_on_canvas, got 'x'"):
        open_detection({"name": "x"}, "train", [])
    with pytest.raises(ValueError, match=r"invalid keys for coco.*folder"):
        open_detection({**write(), "folder": "x"}, "train", [])
    with pytest.raises(ValueError, match=r"type must be a transform of torchvision.transforms.v2, got 'functional'"):
        open_detection(write(), "train", [{"type": "functional"}])
    with pytest.raises(ValueError, match="augment must be a list of torchvision transforms"):
        open_detection(write(), "train", {"hflip": 0.5})


def test_masks_are_asked_for_only_where_they_are(write, content):
    del content["annotations"][0]["segmentation"]
    open_detection(write(), "train", [])
    with pytest.raises(
        ValueError, match=r"annotations\[0\] has no outline, which segmenters and mask_rcnn need: .*=faster_rcnn"
    ):
        open_detection(write(), "train", [], with_masks=True)


def as_text(value):
    """The annotations with every number as text or as a float."""
    if isinstance(value, dict):
        return {key: as_text(entry) if key != "segmentation" else entry for key, entry in value.items()}
    if isinstance(value, list):
        return [as_text(entry) for entry in value]
    return value if isinstance(value, str) else str(value) if value % 2 else float(value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_annotations_are_read_as_programs_write_them(write, content, tmp_path, encoding):
    content["annotations"][0] |= {"iscrowd": 0}
    content["annotations"][1] |= {"iscrowd": 1}
    data = write()
    content["images"][1]["file_name"] = "sub\\b.png"
    content["categories"][0]["name"] = 2017
    path = tmp_path / "annotations" / "instances_train2017.json"
    path.write_text(json.dumps(as_text(content)), encoding=encoding)
    plain, read = open_detection(data, "val"), open_detection(data, "train")
    assert read.classes == ["dog", "2017"]
    for index in range(2):
        wanted, given = plain[Draw(index)]["targets"], read[Draw(index)]["targets"]
        assert all(torch.equal(wanted[key], given[key]) for key in wanted)


@pytest.mark.parametrize("value", [0, "0", 0.0, False, None, "false", 1, "1", 1.0, True, "true"], ids=repr)
def test_crowds_are_told_in_any_way(write, content, value):
    content["annotations"][1]["iscrowd"] = value
    crowds = open_detection(write(), "val")[Draw(0)]["targets"]["iscrowd"].tolist()
    assert crowds == [False, value in (1, "1", 1.0, True, "true")]


def test_areas_that_are_none_are_those_of_the_boxes(write, content):
    for area in (-50, 0, float("nan"), "x", 10**400, 1e300):
        content["annotations"][0]["area"] = area
        samples = open_detection(write(), "val")
        assert samples[Draw(0)]["targets"]["area"].tolist() == [100, 32]
        assert samples.source.remarks == "1 areas replaced by those of the boxes"


def test_a_thin_picture_is_unreadable(write, content, tmp_path):
    content["images"][1] |= {"width": 1, "height": 30_000}
    data = write()
    Image.new("1", (1, 30_000)).save(tmp_path / "val2017" / "sub" / "b.png")
    unreadable = open_detection(data, "val")[Draw(1)]["unreadable"]
    assert "b.png cannot be transformed: it has 1 x 30000 pixels, but the longer side" in unreadable[0]


def test_compressed_run_lengths_are_those_of_pycocotools(write, content):
    from pycocotools import mask

    drawn = np.random.default_rng(0).random((HEIGHT, WIDTH)) > 0.6
    runs = mask.encode(np.asfortranarray(drawn.astype(np.uint8)))
    content["annotations"][1]["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": runs["counts"].decode()}
    masks = open_detection(write(), "val", with_masks=True)[Draw(0)]["targets"]["masks"]
    assert np.array_equal(masks[1], drawn)


BAD_OUTLINES = {
    "a coordinate far away": (
        [[1, 1, 1e8, 2, 3, 3]],
        r"may be 10000 pixels long .* 40 x 30 pixels, got 2",
    ),
    "a coordinate that no float holds": ([[1, 1, 10**400, 2, 3, 3]], "must be a list of finite numbers"),
    "corners far apart": ([[1, 1, 39, 29] * 1000], "may be 10000 pixels long"),
    "compressed run lengths that are too few": ({"size": [HEIGHT, WIDTH], "counts": "0" * 50}, "add up to 40 x 30"),
    "compressed run lengths without an end": ({"size": [HEIGHT, WIDTH], "counts": "o" * 50}, "add up to 40 x 30"),
    "two corners": ([[1, 1, 2, 2]], "at least three corners"),
    "an odd number": ([[1, 1, 2, 2, 3, 3, 4]], "at least three corners"),
    "text": ([["1", 1, 2, 2, 3, 3]], "must be a list of finite numbers"),
    "infinity": ([[1, 1, 2, 2, 3, float("inf")]], "must be a list of finite numbers"),
    "a number": (7, "must be polygons or a dict"),
    "run lengths of another picture": ({"size": [4, 4], "counts": [16]}, r"image, \[30, 40\], got \[4, 4\]"),
    "run lengths that are too many": ({"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH + 1]}, "add up to 40 x 30"),
}


@pytest.mark.parametrize("case", BAD_OUTLINES)
def test_outlines_that_cannot_be_drawn_are_refused(write, content, case):
    content["annotations"][1]["segmentation"], message = BAD_OUTLINES[case]
    with pytest.raises(ValueError, match=message) as caught:
        open_detection(write(), "train", [], with_masks=True)
    assert "annotations[1]" in str(caught.value)


@pytest.mark.parametrize("is_stored", [True, False], ids=["annotated as stored", "annotated upright"])
def test_a_turned_picture_is_read_as_it_was_annotated(write, content, tmp_path, is_stored):
    if not is_stored:
        content["images"][0] |= {"width": HEIGHT, "height": WIDTH}
    data = write()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "val2017" / "a.png", exif=exif)
    assert open_detection(data, "val")[Draw(0)]["images"].shape == (
        3,
        *((HEIGHT, WIDTH) if is_stored else (WIDTH, HEIGHT)),
    )


def test_a_picture_of_another_size_than_annotated_is_not_learned_from(write, tmp_path):
    data = write()
    Image.new("RGB", (WIDTH, WIDTH)).save(tmp_path / "val2017" / "a.png")
    samples = open_detection(data, "val")
    with pytest.raises(UnreadableImageError, match=r"a.png has 40 x 40 pixels, but its annotated size is 40 x 30"):
        samples.load(0)
    # counted and listed like any unreadable file
    assert samples.collate([samples[Draw(0)], samples[Draw(1)]])["unreadable"] == [
        f"{samples.source.name(0)} has 40 x 40 pixels, but its annotated size is 40 x 30"
    ]


def test_augmentation_moves_boxes_and_masks_with_the_picture(write):
    flipped = open_detection(write(), "train", [{"type": "RandomHorizontalFlip", "p": 1.0}], with_masks=True)[
        Draw(0, 0)
    ]
    plain = open_detection(write(), "train", [], with_masks=True)[Draw(0, 0)]
    assert torch.equal(flipped["images"], plain["images"].flip(-1))
    assert torch.equal(flipped["targets"]["masks"], plain["targets"]["masks"].flip(-1))
    assert flipped["targets"]["boxes"].tolist() == [[20, 5, 30, 15], [36, 0, 40, 8]]


def test_boxes_that_an_augmentation_cuts_off_are_left_out_with_all_that_is_theirs(write):
    crop = {"type": "Compose", "transforms": [{"type": "CenterCrop", "size": [HEIGHT, 24]}]}
    target = open_detection(write(), "train", [crop], with_masks=True)[Draw(0, 0)]["targets"]
    assert target["boxes"].tolist() == [[2, 5, 12, 15]]
    assert {len(target[key]) for key in ("labels", "area", "iscrowd", "masks")} == {1}
    assert type(target["boxes"]) is torch.Tensor


def test_the_same_draw_is_the_same_sample(write):
    samples = open_detection(write(), "train", [{"type": "RandomHorizontalFlip"}, {"type": "RandomPhotometricDistort"}])
    first, again, other = (samples[Draw(0, seed)]["images"] for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_canvases_are_decided_by_their_number_and_share_no_digit():
    data = {"name": "digits_on_canvas", "size": 64, "largest": 32, "train_images": 6, "val_images": 3}
    first, again = (open_detection(data, "train", [], with_masks=True) for _ in range(2))
    held_out = open_detection(data, "val")
    assert (len(first), len(held_out)) == (6, 3)
    for i in range(len(first)):
        one, other = first[Draw(i, 1)], again[Draw(i, 2)]
        assert torch.equal(one["images"], other["images"])
        assert torch.equal(one["targets"]["boxes"], other["targets"]["boxes"])
        # the box is exactly around the ink
        for box, mask in zip(one["targets"]["boxes"], one["targets"]["masks"], strict=True):
            rows, columns = mask.nonzero(as_tuple=True)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    pixels = [{digit.tobytes() for digit in samples.source._digits.pixels} for samples in (first, held_out)]
    assert not pixels[0] & pixels[1]
    with pytest.raises(
        ValueError, match="smallest <= largest <= size must hold, got smallest=20, largest=44 and size=32"
    ):
        open_detection({"name": "digits_on_canvas", "size": 32}, "val")
