import dataclasses
import json

import pytest
import torch
from safetensors.torch import save_file
from timm.optim import create_optimizer_v2
from torch.testing import assert_close

from attnzoo.tools.detection.backbone import PyramidBackbone
from attnzoo.tools.detection.detectors import create_detector
from attnzoo.tools.detection.files import open_detector, save_detector
from attnzoo.tools.detection.options import HEADS, DetectorOptions

SMALL_NAT = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8)}
SMALL_SWIN = {**SMALL_NAT, "img_size": 64, "window_size": 2}
BACKBONES = {
    "four levels": ("nat_pico", SMALL_NAT, [4, 8, 16, 32]),
    "three levels": ("shvit_pico", {}, [16, 32, 64]),
    "channels last": ("swin_tiny_patch4_window7_224", SMALL_SWIN, [4, 8, 16, 32]),
    "one stride": ("vit_tiny_patch16_224", {"img_size": 64, "depth": 3, "embed_dim": 32, "num_heads": 2}, [16]),
}
CLASSES = ["a", "b", "c"]


def make(head, backbone="three levels", **options):
    architecture, arguments, _ = BACKBONES[backbone]
    chosen = DetectorOptions.from_dict({"head": head, "min_size": 64, "max_size": 64, "width": 64, **options})
    torch.manual_seed(0)
    return create_detector(architecture, arguments, chosen, len(CLASSES), [0.5] * 3, [0.25] * 3), chosen


def target(boxes, labels, size=64):
    masks = torch.zeros(len(boxes), size, size, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = 1
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return {"boxes": boxes, "labels": torch.tensor(labels, dtype=torch.int64), "masks": masks}


# the second image has no objects
TARGETS = [target([[4, 4, 40, 40], [30, 30, 60, 62]], [0, 2]), target([], [])]


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("head", HEADS)
def test_every_head_learns_and_answers_on_every_kind_of_backbone(head, backbone):
    detector, _ = make(head, backbone)
    levels = BACKBONES[backbone][2]
    coarser = 2 if head in ("fcos", "retinanet") else 1
    assert detector.backbone.strides == levels + [levels[-1] * 2 ** (i + 1) for i in range(coarser)]
    images = list(torch.rand(2, 3, 64, 64))
    losses = detector.train()(images, TARGETS)
    assert all(name.startswith("loss_") and loss.isfinite() for name, loss in losses.items())
    sum(losses.values()).backward()
    # in distributed training, processes would wait forever for a parameter without a gradient
    assert [name for name, p in detector.named_parameters() if p.requires_grad and p.grad is None] == []
    with torch.inference_mode():
        found = detector.eval()(images)
    assert len(found) == 2
    for one in found:
        assert one["boxes"].shape == (len(one["labels"]), 4)
        assert ((one["labels"] >= 0) & (one["labels"] < len(CLASSES))).all()
        assert ("masks" in one) == (head == "mask_rcnn")


@pytest.mark.parametrize("head", HEADS)
def test_a_batch_without_any_object_is_learned_from(head):
    detector, _ = make(head)
    losses = detector.train()(list(torch.rand(2, 3, 64, 64)), [target([], []), target([], [])])
    total = sum(losses.values())
    assert total.isfinite()
    total.backward()
    assert [name for name, p in detector.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_labels_count_from_zero_for_every_head(head):
    """A detector that is overfitted to one image predicts the labels that it was trained with."""
    detector, _ = make(head, "four levels")
    image, truth = torch.rand(3, 64, 64) * 0.1, target([[4, 4, 28, 28], [34, 34, 60, 60]], [0, 2])
    image[:, 4:28, 4:28], image[0, 34:60, 34:60] = 1.0, 0.7
    optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)
    detector.train()
    for _ in range(60):
        optimizer.zero_grad()
        sum(detector([image], [truth]).values()).backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 5.0)
        optimizer.step()
    with torch.inference_mode():
        (found,) = detector.eval()([image])
    best = {}
    for box, label in zip(found["boxes"], found["labels"], strict=True):
        best.setdefault(int(label), box)
    assert_close(torch.stack([best[0], best[2]]), truth["boxes"], rtol=0, atol=8)


@pytest.mark.parametrize("head", HEADS)
def test_labels_inside_count_as_the_head_does(head, monkeypatch):
    detector, _ = make(head)
    seen = []

    def remember(images, targets=None):
        seen.append(targets[0]["labels"].tolist() if targets else None)
        if targets:
            return {"classification": torch.zeros(())}
        first = seen[0][0]
        return [{"boxes": torch.zeros(1, 4), "labels": torch.tensor([first]), "scores": torch.ones(1)}]

    monkeypatch.setattr(detector.model, "forward", remember)
    detector.train()(list(torch.rand(1, 3, 64, 64)), TARGETS[:1])
    assert seen[0] == ([1, 3] if "rcnn" in head else [0, 2])
    assert detector.eval()(list(torch.rand(1, 3, 64, 64)))[0]["labels"].tolist() == [0]


def test_anchors_are_scaled_to_the_strides():
    sides = {}
    for head in ("fcos", "retinanet", "faster_rcnn"):
        detector, _ = make(head, "three levels")
        generator = detector.model.rpn.anchor_generator if "rcnn" in head else detector.model.anchor_generator
        sides[head] = [sizes[0] for sizes in generator.sizes]
        assert len(generator.sizes) == len(detector.backbone.strides)
    assert sides == {
        "fcos": [16, 32, 64, 128, 256],
        "retinanet": [64, 128, 256, 512, 1024],
        "faster_rcnn": [128, 256, 512, 1024],
    }
    assert make("retinanet", anchor_scale=2)[0].model.anchor_generator.sizes[0][0] == 32


def test_levels_can_be_added_at_both_ends():
    detector, _ = make("mask_rcnn", finer_levels=2, coarser_levels=0)
    assert detector.backbone.strides == [4, 8, 16, 32, 64]
    assert detector.model.roi_heads.box_roi_pool.featmap_names == ["0", "1", "2", "3", "4"]
    features = detector.backbone(torch.rand(1, 3, 64, 128))
    assert [tuple(x.shape) for x in features.values()] == [(1, 64, 64 // s, 128 // s) for s in (4, 8, 16, 32, 64)]
    with pytest.raises(ValueError, match="starts at stride 4, 3 finer levels would be finer than pixels"):
        PyramidBackbone("nat_pico", SMALL_NAT, 64, finer=3)


def test_frozen_batch_normalisation_stays_and_so_does_a_frozen_backbone():
    detector, _ = make("fcos", frozen_batchnorm=True)
    norms = detector.backbone.batch_norms()
    before = [norm.running_mean.clone() for norm in norms]
    detector.train()(list(torch.rand(2, 3, 64, 64)), TARGETS)
    assert all(not norm.training and not norm.weight.requires_grad for norm in norms)
    assert_close([norm.running_mean for norm in norms], before, rtol=0, atol=0)
    assert detector.backbone.body.training

    trained, _ = make("fcos", frozen_batchnorm=False)
    trained.train()(list(torch.rand(2, 3, 64, 64)), TARGETS)
    assert any(not torch.equal(n.running_mean, b) for n, b in zip(trained.backbone.batch_norms(), before, strict=True))
    trained.freeze_backbone()
    trained.train()
    assert not trained.backbone.body.training
    assert trained.backbone.fpn.training
    assert not any(p.requires_grad for p in trained.backbone.body.parameters())


def test_layers_of_the_backbone_are_known_to_the_optimizer():
    detector, _ = make("fcos", "four levels")
    optimizer = create_optimizer_v2(detector, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.5)
    scales = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    assert {scales[id(p)] for p in detector.model.head.parameters()} == {1.0}
    stem = next(iter(detector.backbone.body.parameters()))
    assert scales[id(stem)] == min(scales.values()) < 0.3
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    bias_tables = [p for name, p in detector.named_parameters() if name.endswith("rpb") or "bias_table" in name]
    assert all(decays[id(p)] == 0 for p in bias_tables)


BAD_OPTIONS = {
    "an unknown key": (
        {"head": "fcos", "levels": 3},
        r"key detector.levels: did you mean detector.\w*_levels=3",
    ),
    "no head": ({}, "detector.head must be one of fcos, .*, got None"),
    "another head": ({"head": "yolo"}, "detector.head must be one of .*'yolo'"),
    "a width that cannot be normalised": ({"head": "fcos", "width": 80}, "multiple of 32"),
    "no size": ({"head": "fcos", "min_size": []}, "detector.min_size must be"),
    "a size of 100": ({"head": "fcos", "size": 100}, "detector.size must be a multiple of 32"),
    "two kinds of size": ({"head": "fcos", "size": 64, "max_size": 96}, "takes the place of min_size and max_size"),
    "another way to resize": ({"head": "fcos", "size": 64, "resize": "crop"}, "must be one of letterbox, stretch"),
    "stretched to nothing": ({"head": "fcos", "resize": "stretch"}, "needs detector.size"),
    "a negative threshold": ({"head": "fcos", "score_threshold": -1}, "score_threshold must be a number in 0 .. 1"),
    "a size of text": ({"head": "fcos", "max_size": "800"}, "max_size must be an integer"),
    "a switch that is a number": ({"head": "fcos", "frozen_batchnorm": 1}, "must be True or False"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_wrong_options_are_refused(case):
    options, message = BAD_OPTIONS[case]
    with pytest.raises(ValueError, match=message):
        DetectorOptions.from_dict(options)


@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
def test_a_size_gives_squares_of_which_boxes_are_mapped_back(resize):
    options = DetectorOptions.from_dict({"head": "fcos", "size": 64, "resize": resize, "width": 64})
    detector = create_detector("shvit_pico", {}, options, 3, [0.5] * 3, [0.25] * 3).eval()
    images = [torch.rand(3, 20, 40), torch.rand(3, 90, 30), torch.rand(3, 64, 64)]
    boxes = [torch.tensor([[4.0, 5.0, 10.0, 15.0]])] * 3
    framed, targets = detector.model.transform(images, [{"boxes": box} for box in boxes])
    assert framed.tensors.shape == (3, 3, 64, 64)
    sizes = [(64, 64)] * 3 if resize == "stretch" else [(32, 64), (64, 21), (64, 64)]
    assert [tuple(size) for size in framed.image_sizes] == sizes
    if resize == "letterbox":
        # padded with the mean, which is zero after normalisation
        assert not framed.tensors[0, :, 32:].any()
        assert not framed.tensors[1, :, :, 21:].any()
    found = [{"boxes": one["boxes"]} for one in targets]
    back = detector.model.transform.postprocess(found, framed.image_sizes, [tuple(x.shape[1:]) for x in images])
    for one in back:
        torch.testing.assert_close(one["boxes"], boxes[0])
    assert resize in options.describe_resizing()
    assert DetectorOptions.from_dict(json.loads(json.dumps(dataclasses.asdict(options)))) == options


def test_a_backbone_without_features_is_refused():
    with pytest.raises(ValueError, match=r"nat_pico cannot return features with .*'nonsense'"):
        PyramidBackbone("nat_pico", {"nonsense": 1})


@pytest.fixture
def stored(tmp_path):
    detector, options = make("mask_rcnn")
    directory = tmp_path / "model"
    arguments = {"pretrained": False, "out_indices": (0, 1, 2)}
    save_detector(detector, directory, "shvit_pico", arguments, options, CLASSES, [0.5] * 3, [0.25] * 3)
    return detector, directory


def test_what_was_stored_opens_and_answers_the_same(stored):
    detector, directory = stored
    opened, config = open_detector(directory)
    images = [torch.rand(3, 50, 64), torch.rand(3, 64, 40)]
    with torch.inference_mode():
        ours, theirs = detector.eval()(images), opened(images)
    assert len(ours[0]["boxes"]) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other, rtol=0, atol=0)
    assert config["label_names"] == CLASSES
    assert config["model_args"] == {"out_indices": [0, 1, 2]}
    assert config["preprocessing"] == {"mean": [0.5] * 3, "std": [0.25] * 3}


WRONG_CONFIGS = {
    "another task": ({"task": "classification"}, 'task must be "detection"'),
    "an unknown model": ({"architecture": "local-dir:/x"}, "'local-dir:/x' is not a model of timm"),
    "weights from elsewhere": ({"model_args": {"pretrained_cfg": {"url": "x"}}}, "must not contain pretrained_cfg"),
    "a checkpoint from elsewhere": ({"model_args": {"checkpoint_path": "x"}}, "must not contain checkpoint_path"),
    "no names": ({"label_names": []}, "label_names must be"),
    "other arguments": ({"model_args": {"nonsense": 1}}, "does not describe a detector.*nonsense"),
    "more classes than weights": ({"label_names": [*CLASSES, "d"]}, "do not match: model.roi_heads"),
    "a size that fits no machine": ({"detector": {"head": "fcos", "width": 2**40}}, "does not describe|do not match"),
    "a mean of text": ({"preprocessing": {"mean": ["0"], "std": [1]}}, "preprocessing.mean must be"),
    "another head": ({"detector": {"head": "yolo"}}, "detector.head must be one of"),
}


@pytest.mark.parametrize("case", WRONG_CONFIGS)
def test_a_changed_config_is_refused(stored, case):
    changes, message = WRONG_CONFIGS[case]
    path = stored[1] / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ValueError, match="damaged or was changed"):
        open_detector(stored[1])
    (stored[1] / "SHA256SUMS").unlink()
    with pytest.raises(ValueError, match=message):
        open_detector(stored[1])


def test_damaged_files_are_refused(stored):
    _, directory = stored
    weights, text = directory / "model.safetensors", (directory / "config.json").read_text()
    whole = weights.read_bytes()
    damaged = bytearray(whole)
    damaged[len(damaged) // 2] ^= 1
    for content in (bytes(damaged), whole[:-1], b""):
        weights.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged"):
            open_detector(directory)
    save_file({"x": torch.zeros(1)}, weights)
    with pytest.raises(ValueError, match="is damaged"):
        open_detector(directory)
    weights.unlink()
    with pytest.raises(ValueError, match=r"SHA256SUMS lists 'model.safetensors', which does not exist"):
        open_detector(directory)
    (directory / "SHA256SUMS").unlink()
    with pytest.raises(FileNotFoundError, match=r"model.safetensors does not exist"):
        open_detector(directory)
    for broken in ("", "[]", text[:-20], "[" * 100_000):
        (directory / "config.json").write_text(broken)
        with pytest.raises(ValueError, match=r"is not JSON|is not the config of a detector"):
            open_detector(directory)
