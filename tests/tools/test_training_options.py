"""Every key of a recipe, on images and models that take seconds."""

import json

import numpy as np
import pytest
import timm
import torch
from mmengine import Config
from pictures import COLOURS, picture
from safetensors.torch import load_file
from tiny_segmenter import MARKS, SEGMENTER
from torch.testing import assert_close

import attnzoo  # noqa: F401  registers the models
from attnzoo.tools import data
from attnzoo.tools.data.embedded import ImagesInMemory
from attnzoo.tools.metrics import ClassificationJudge
from attnzoo.tools.segmentation.metrics import SegmentationJudge
from attnzoo.tools.train import train
from attnzoo.tools.training.config import load_config
from attnzoo.tools.training.learners import Classifier, class_weights, create_loss, create_mixup
from attnzoo.tools.training.loop import TrainLoop
from attnzoo.tools.training.optimization import Optimization, create_optimization, create_schedule
from attnzoo.tools.training.processes import Processes
from attnzoo.tools.training.recipe import Recipe

CLASSES = list(COLOURS)
# keys of a config that make it one of another task
SEGMENTED = load_config(SEGMENTER[0], (*SEGMENTER[1:], "epochs=1", "optimizer.lr=1e-3")).to_dict()
# neither batch norm nor drop path: a step depends on its images only
PLAIN = {"name": "vit_tiny_patch16_224", "img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 2}


@pytest.fixture(autouse=True)
def colours(monkeypatch):
    """A data set of 24 training and 12 validation images, in memory."""

    def make(split):
        labels = np.arange(24 if split == "train" else 12) % 3
        pixels = [np.asarray(picture(CLASSES[label], 7 * i)) for i, label in enumerate(labels)]
        return ImagesInMemory(np.stack(pixels), labels, CLASSES, "colour")

    monkeypatch.setitem(data.DATASETS, "colours", make)


def config(**changes):
    keys = {
        "model": {"name": "test_resnet"},
        "data": {"name": "colours", "input_size": (3, 32, 32), "crop_pct": 1.0},
        "epochs": 1,
        "batch_size": 12,
        "optimizer": {"opt": "adamw", "lr": 1e-3},
        "log_interval": 1,
    }
    return Config({**keys, **changes})


def recipe(**changes):
    return Recipe.from_config(config(**changes))


def weights(work_dir, **changes):
    train(config(**changes), work_dir)
    return torch.load(work_dir / "last.pth", weights_only=True)["state_dict"]


def test_parts_of_a_step_give_the_weights_of_the_whole(tmp_path):
    whole, parts = (weights(tmp_path / str(n), model=PLAIN, accumulate=n, epochs=2) for n in (1, 3))
    for tensors in (whole, parts):
        for name, bias in tensors.items():
            # a softmax does not depend on the bias of its keys: the gradient is rounding alone, which AdamW enlarges
            if name.endswith("qkv.bias"):
                bias.view(3, -1)[1] = 0
    assert_close(parts, whole, rtol=1e-4, atol=1e-5)


def test_an_accumulated_step_is_one_step_of_schedule_average_and_record(tmp_path):
    train(config(accumulate=3, schedule={"sched": "cosine", "warmup_epochs": 0}, ema={"decay": 0.5}), tmp_path)
    stored = torch.load(tmp_path / "last.pth", weights_only=True)
    assert (stored["step"], [point[0] for point in stored["record"]["steps"]]) == (2, [1, 2])


@pytest.mark.parametrize(
    "changes",
    [
        {"channels_last": True},
        {"grad_checkpointing": True, "model": PLAIN},
        {"precision": "bfloat16"},
        {"precision": "float16"},
        pytest.param({"compile": True, "model": {**PLAIN, "depth": 1}}, marks=pytest.mark.slow),
        pytest.param({"precision": "bfloat16", **SEGMENTED}, marks=MARKS),
    ],
    ids=lambda changes: f"{next(iter(changes))}{changes.get('precision', '')} {changes.get('task', '')}".strip(),
)
def test_how_it_is_computed_does_not_decide_where_it_ends(tmp_path, changes):
    plain = {key: value for key, value in changes.items() if key == "model" or key in SEGMENTED}
    wanted, got = weights(tmp_path / "plain", **plain), weights(tmp_path / "changed", **changes)
    assert all(value.dtype == wanted[name].dtype for name, value in got.items())
    assert list(got) == list(wanted)
    if "precision" in changes:
        assert any(not torch.equal(got[name], value) for name, value in wanted.items())
    # AdamW changes a weight by up to the learning rate, and rounding may flip the sign of a tiny gradient
    tolerance = 4.5e-3 if "precision" in changes else 1e-4 if "compile" in changes else 1e-5
    for name, value in wanted.items():
        if value.is_floating_point() and "running" not in name:
            assert_close(got[name], value, rtol=0, atol=tolerance)


def test_half_precision_scales_the_loss_and_leaves_out_what_overflows():
    layer = torch.nn.Linear(2, 1, bias=False)
    wrapper = Optimization(torch.optim.SGD(layer.parameters(), lr=0.1), "cpu", "float16")
    before, scale = layer.weight.detach().clone(), wrapper.scaler.get_scale()
    assert scale > 1
    wrapper.update_params(layer(torch.tensor([[1e36, 1.0]])).sum() * 0 + (layer.weight * 1e36).sum())
    assert_close(layer.weight.detach(), before, rtol=0, atol=0)
    assert wrapper.scaler.get_scale() < scale


@pytest.mark.parametrize("compute", ["float32", "bfloat16", "float16"])
def test_autocast_is_on_the_cpu_too(compute):
    layer = torch.nn.Linear(4, 4)
    wrapper = Optimization(torch.optim.SGD(layer.parameters(), lr=0.1), "cpu", compute)
    with wrapper.optim_context(layer):
        assert layer(torch.randn(2, 4)).dtype == getattr(torch, compute)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "nat_pico", "agent_pico", "shvit_pico"])
def test_layer_decay_slows_the_first_layers(name):
    model = timm.create_model(name, num_classes=3)
    chosen = recipe(optimizer={"opt": "adamw", "lr": 1e-2, "layer_decay": 0.5})
    optimizer = create_optimization(chosen, model, Processes(0, 1, torch.device("cpu"))).optimizer
    scheduler = create_schedule(chosen, optimizer, 4)
    names = {parameter: key for key, parameter in model.named_parameters()}
    for update in (0, 3):
        scheduler.step_update(update)
        rates = {names[p]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
        assert len(rates) == len(names)
        keys = list(rates)
        classifier = [key for key in keys if key.startswith(("head.fc", "fc", "head.weight", "head.bias", "head.l"))]
        assert classifier
        assert all(rates[key] == pytest.approx(1e-2) for key in classifier)
        stem = next(iter(names.values()))
        assert rates[stem] == min(rates.values()) < 1e-2 / 3
        assert all(1e-2 / 2**40 < rate <= 1e-2 * (1 + 1e-6) for rate in rates.values())


@pytest.mark.parametrize(
    ("judges", "task"),
    [(ClassificationJudge, {}), pytest.param(SegmentationJudge, SEGMENTED, marks=MARKS)],
    ids=["classification", "segmentation"],
)
def test_the_average_is_what_is_judged_and_stored(tmp_path, monkeypatch, judges, task):
    judged, judge = [], judges.__call__

    def spy(self, model, loader, after_batch):
        judged.append({key: value.clone() for key, value in model.state_dict().items()})
        return judge(self, model, loader, after_batch)

    monkeypatch.setattr(judges, "__call__", spy)
    directory = train(config(**{**task, "ema": {"decay": 0.8}, "optimizer": {"opt": "adamw", "lr": 1e-2}}), tmp_path)
    stored = torch.load(tmp_path / "last.pth", weights_only=True)
    average = stored["state_dict_ema"]
    assert not torch.equal(list(average.values())[-1], list(stored["state_dict"].values())[-1])
    assert_close(dict(judged[-1]), dict(average), rtol=0, atol=0)
    saved = load_file(directory / "model.safetensors")
    assert_close(saved, {key: average[key] for key in saved}, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("mode", "limit", "check"),
    [
        ("norm", 0.5, lambda gradient, weight: gradient.norm() <= 0.5 + 1e-5),
        ("value", 0.1, lambda gradient, weight: gradient.abs().max() <= 0.1 + 1e-6),
        ("agc", 0.02, lambda gradient, weight: (gradient.norm(dim=1) <= 0.02 * weight.norm(dim=1) + 1e-5).all()),
    ],
)
def test_a_gradient_is_clipped_after_its_parts_are_together(mode, limit, check):
    layer = torch.nn.Linear(4, 3, bias=False)
    seen = []
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    optimizer.register_step_pre_hook(lambda *_: seen.append(layer.weight.grad.clone()))
    wrapper = Optimization(optimizer, "cpu", accumulate=2, clip_grad=limit, clip_mode=mode)
    wrapper.initialize_count_status(layer, 0, 2)
    for _ in range(2):
        with wrapper.optim_context(layer):
            loss = layer(torch.randn(8, 4) * 100).square().mean()
        wrapper.update_params(loss)
    assert len(seen) == 1
    assert check(seen[0], layer.weight.detach())


@pytest.mark.parametrize("clip_mode", ["norm", "value", "agc"])
def test_a_run_clips_its_gradients(tmp_path, clip_mode):
    free = weights(tmp_path / "free", optimizer={"opt": "sgd", "lr": 0.1})
    clipped = weights(tmp_path / "clipped", optimizer={"opt": "sgd", "lr": 0.1}, clip_grad=1e-3, clip_mode=clip_mode)
    assert not torch.equal(free["fc.weight"], clipped["fc.weight"])


def test_repeats_draw_fewer_images_more_often(tmp_path, monkeypatch):
    names, run_batch = [], TrainLoop._run_batch

    def spy(self, index, batch):
        names.extend(batch["name"])
        run_batch(self, index, batch)

    monkeypatch.setattr(TrainLoop, "_run_batch", spy)
    train(config(repeats=3, augment={"re_prob": 0.0}), tmp_path)
    assert len(names) == 24
    assert sorted({names.count(name) for name in names}) == [3]


def test_a_frozen_backbone_is_what_it_was(tmp_path):
    torch.manual_seed(1)
    model = timm.create_model("test_resnet")
    torch.save(model.state_dict(), tmp_path / "begun.pth")
    begun = {"name": "test_resnet", "pretrained": True, "pretrained_cfg_overlay": {"file": str(tmp_path / "begun.pth")}}
    trained = weights(tmp_path / "run", model=begun, freeze="backbone", optimizer={"opt": "adamw", "lr": 1e-2})
    for key, value in trained.items():
        if not key.startswith("fc."):
            assert torch.equal(value, model.state_dict()[key]), key
    assert trained["fc.bias"].abs().max() > 0


def test_a_run_stops_early_after_epochs_that_are_no_better(tmp_path, monkeypatch, capsys):
    scores = iter([0.5, 0.7, 0.6, 0.6, 0.9])
    monkeypatch.setattr(
        "attnzoo.tools.metrics.ClassificationJudge.__call__", lambda *_: {"accuracy": next(scores), "val_loss": 1.0}
    )
    train(config(epochs=5, early_stop=2), tmp_path)
    record = torch.load(tmp_path / "last.pth", weights_only=True)["record"]
    assert (len(record["epochs"]), record["best"]["epoch"]) == (4, 2)
    assert "stopped early: no improvement in the last 2 epochs" in capsys.readouterr().out


def test_every_so_many_epochs_are_validated_and_the_last(tmp_path):
    train(config(epochs=5, val_interval=2), tmp_path)
    record = torch.load(tmp_path / "last.pth", weights_only=True)["record"]
    assert [epoch["epoch"] for epoch in record["epochs"] if "accuracy" in epoch] == [2, 4, 5]


SCHEDULES = {
    "cosine": ({"sched": "cosine", "warmup_epochs": 1, "warmup_lr": 1e-6}, [1e-6, 9.05e-4, 6.55e-4, 3.45e-4]),
    "cosine, by epochs": (
        {"sched": "cosine", "warmup_epochs": 1, "warmup_lr": 1e-6, "step_on_epochs": True},
        [1e-6, 9.05e-4, 6.55e-4, 3.45e-4],
    ),
    "step": ({"sched": "step", "decay_epochs": 2, "decay_rate": 0.1}, [1e-3, 1e-3, 1e-4, 1e-4]),
    "none": ({}, [1e-3, 1e-3, 1e-3, 1e-3]),
    "cooldown": ({"sched": "cosine", "num_epochs": 3, "cooldown_epochs": 1, "min_lr": 1e-5}, [1e-3, None, None, 1e-5]),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_rate_follows_its_schedule(tmp_path, name):
    schedule, wanted = SCHEDULES[name]
    epochs = 5 if name.startswith("cosine") else 4
    train(config(epochs=epochs, schedule=schedule, model=PLAIN), tmp_path)
    steps = torch.load(tmp_path / "last.pth", weights_only=True)["record"]["steps"]
    # two steps per epoch; a point has the learning rate that is set after its step
    first_of_epoch = [1e-6 if "warmup_lr" in schedule else 1e-3] + [rate for step, _, rate in steps if step % 2 == 0]
    if schedule.get("step_on_epochs"):
        first_of_epoch = [rate for step, _, rate in steps if step % 2 == 1]
    for rate, expected in zip(first_of_epoch, wanted, strict=False):
        if expected is not None:
            assert rate == pytest.approx(expected, rel=2e-3)


def test_mixed_images_have_the_labels_of_both():
    mixup = create_mixup({"mixup_alpha": 1.0, "cutmix_alpha": 1.0}, 0.1, 3)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
    seen = []
    learner = Classifier(network, lambda logits, labels: seen.append(labels) or logits.sum() * 0, mixup)
    learner(torch.randn(4, 3, 4, 4), torch.tensor([0, 1, 2, 0]), mode="loss")
    assert seen[0].shape == (4, 3)
    assert_close(seen[0].sum(1), torch.ones(4))
    assert ((seen[0] > 0.1 / 3).sum(1) == 2).any()


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_mixup_takes_any_number_of_images(mode, count):
    mixup = create_mixup({"mixup_alpha": 1.0, "cutmix_alpha": 1.0, "mode": mode}, 0.1, 3)
    given, labels = torch.randn(count, 3, 4, 4), torch.arange(count) % 3
    images, mixed = mixup(given.clone(), labels)
    assert images.shape == given.shape
    assert_close(mixed.sum(1), torch.ones(count))
    # the last one of an odd number
    assert torch.equal(images[-1], given[-1]) == bool(count % 2)


def test_balanced_weights_give_every_class_the_same_weight():
    labels = [0] * 6 + [1] * 3 + [3]
    weight = class_weights("balanced", 4, [6, 3, 0, 1])
    assert_close(weight, torch.tensor([10 / 18, 10 / 9, 0.0, 10 / 3]))
    assert_close(weight[labels].mean(), torch.tensor(1.0))
    assert class_weights(None, 4, [6, 3, 0, 1]) is None
    with pytest.raises(ValueError, match=r"shards do not list: set loss\.weight to a list of 4 numbers"):
        class_weights("balanced", 4, None)


@pytest.mark.parametrize("is_mixed", [False, True])
@pytest.mark.parametrize("name", ["cross_entropy", "bce"])
def test_a_weight_scales_the_gradient_of_its_class(name, is_mixed):
    labels, logits = torch.tensor([0, 1]), torch.zeros(2, 2, requires_grad=True)
    given = torch.nn.functional.one_hot(labels, 2).float() if is_mixed else labels
    loss = create_loss({"name": name, "weight": [3, 1]}, is_mixed, class_weights([3, 1], 2, None))
    loss(logits, given).backward()
    assert_close(logits.grad[0, 0], 3 * logits.grad[1, 1])


LOSSES = {
    "cross entropy": ({}, False, lambda x, y: torch.nn.functional.cross_entropy(x, y)),
    "smoothed": (
        {"label_smoothing": 0.2},
        False,
        lambda x, y: torch.nn.functional.cross_entropy(x, y, label_smoothing=0.2),
    ),
    "mixed": (
        {"label_smoothing": 0.2},
        True,
        lambda x, y: torch.nn.functional.cross_entropy(x, torch.nn.functional.one_hot(y, 5).float()),
    ),
    "bce": (
        {"name": "bce"},
        False,
        lambda x, y: torch.nn.functional.binary_cross_entropy_with_logits(x, torch.nn.functional.one_hot(y, 5).float()),
    ),
    "bce, smoothed": (
        {"name": "bce", "label_smoothing": 0.1},
        False,
        lambda x, y: torch.nn.functional.binary_cross_entropy_with_logits(
            x, torch.nn.functional.one_hot(y, 5) * 0.9 + 0.1 / 5
        ),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_what_its_name_says(name):
    options, is_mixed, reference = LOSSES[name]
    logits, labels = torch.randn(6, 5), torch.tensor([0, 4, 2, 1, 1, 3])
    given = torch.nn.functional.one_hot(labels, 5).float() if is_mixed else labels
    assert_close(create_loss(options, is_mixed)(logits, given), reference(logits, labels))


MISTAKES = {
    "an unknown loss": ({"loss": {"name": "focal"}}, r"loss\.name must be one of cross_entropy, bce, got 'focal'"),
    "too much smoothing": (
        {"loss": {"label_smoothing": 1.5}},
        "loss.label_smoothing must be a number of at least 0 and less than 1, got 1.5",
    ),
    "an option of another loss": ({"loss": {"target_threshold": 0.2}}, "unknown config key loss.target_threshold"),
    "weights of other classes": (
        {"loss": {"weight": [1, 2]}},
        r"loss\.weight must be .* a list of 3 numbers.*got \[1, 2\]",
    ),
    "weights below 0": ({"loss": {"weight": [1, 2, -1]}}, r"one of at least 0 for each class, got \[1, 2, -1\]"),
    "an unknown weight": ({"loss": {"weight": "even"}}, r"loss\.weight must be \"balanced\" or a list.*got 'even'"),
    "one image for a batch norm": (
        {"model": {"name": "test_resnet"}, "data": {"name": "colours", "input_size": (3, 8, 8)}, "batch_size": 1},
        "a batch norm of the model has one value per channel for 1 image of 8 x 8 pixels",
    ),
    "an unknown mixup": ({"mixup": {"mixup": 1.0}}, "mixup: .*mixup"),
    "an unknown average": ({"ema": {"decays": 0.9}}, "did you mean ema.decay=0.9"),
    "an unknown clip mode": ({"clip_mode": "hard"}, "clip_mode must be one of norm, value, agc, got 'hard'"),
    "parts that do not fit": ({"accumulate": 5}, "multiple of 1 processes x accumulate=5, got 12; the nearest is 10"),
    "a size that is a side": (
        {"data": {"name": "colours", "input_size": 32}},
        r"data\.input_size must be three positive integers",
    ),
    "pictures of four channels": (
        {"data": {"name": "colours", "input_size": (4, 32, 32)}, "model": {"name": "test_resnet", "in_chans": 4}},
        r"data\.input_size must start with 1 channel \(grayscale\) or 3 channels \(RGB\), got 4",
    ),
    "colours of other channels": (
        {"data": {"name": "colours", "input_size": (3, 32, 32), "mean": (0.5, 0.5)}},
        r"data\.mean must have one value, or one for each of the 3 channels, got",
    ),
    "an unknown interpolation": (
        {"data": {"name": "colours", "input_size": (3, 32, 32), "interpolation": "cubist"}},
        "must be one of .*bicubic.*cubist",
    ),
    "an unknown data set": ({"data": {"name": "colors"}}, r"data\.name must be one of imagefolder, hfds, wds"),
    "an augmentation that there is not": ({"augment": {"re_probe": 0.2}}, "did you mean augment.re_prob=0.2"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_a_line_before_training(tmp_path, mistake):
    changes, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message) as told:
        train(config(**changes), tmp_path)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "last.pth").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"mixup": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0}, "loss": {"label_smoothing": 0.1}},
        {"mixup": {"cutmix_alpha": 1.0}, "loss": {"name": "bce", "target_threshold": 0.2}},
        {"augment": {"auto_augment": "rand-m9-mstd0.5-inc1", "re_prob": 0.25, "interpolation": "random"}},
        {"model": {"name": "nat_pico", "embed_dim": 16, "depths": (1, 1), "num_heads": (1, 2), "drop_path_rate": 0.3}},
    ],
    ids=["mixed", "bce", "augmented", "drop path"],
)
def test_what_is_random_is_decided_by_the_seed(tmp_path, changes):
    first, second, other = (
        weights(tmp_path / name, seed=seed, **changes) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert_close(first, second, rtol=0, atol=0)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_model_is_stored_with_the_arguments_it_was_made_with(tmp_path):
    directory = train(config(model=PLAIN), tmp_path)
    stored = json.loads((directory / "config.json").read_text())
    assert stored["num_classes"] == 3
    model = timm.create_model(f"local-dir:{directory}", pretrained=True).eval()
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 3)


@pytest.mark.parametrize("size", [(3, 32, 32), (1, 24, 40), None])
def test_pictures_have_the_size_that_is_asked_for(size):
    options = {} if size is None else {"input_size": size}
    for split, augment in (("train", {}), ("train", []), ("val", None)):
        images = data.open_classification({"name": "colours", **options}, split, augment)
        assert images[data.Draw(0, 0)]["images"].shape == (size or (3, 224, 224))
