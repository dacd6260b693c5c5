import contextlib
import json
import math
import shutil

import pytest
import timm
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from tiny_segmenter import MARKS, SEGMENTER
from torch.testing import assert_close

from attnzoo.tools import cli, files
from attnzoo.tools.data import Draw, digits, open_classification
from attnzoo.tools.train import train
from attnzoo.tools.training import checkpoints, storage
from attnzoo.tools.training.config import load_config
from attnzoo.tools.training.learners import Classifier
from attnzoo.tools.training.lock import locked
from attnzoo.tools.training.loop import TrainingError
from attnzoo.tools.training.recipe import FREE_TO_CHANGE, Recipe
from attnzoo_command.configs import config_path


def open_model(directory):
    return timm.create_model(f"local-dir:{directory}", pretrained=True).eval()


@torch.inference_mode()
def accuracy(model):
    held_out = open_classification({"name": "digits", **timm.data.resolve_model_data_config(model)}, "val")
    batch = held_out.collate([held_out[Draw(i)] for i in range(len(held_out))])
    return float((model(batch["images"]).argmax(1) == batch["labels"]).float().mean())


def weights(path):
    """The weights of the model in a checkpoint."""
    return torch.load(path, weights_only=True)["state_dict"]


class StopError(Exception):
    pass


def assert_same(given, expected, place="checkpoint"):
    """Compare bit by bit, recursively."""
    assert type(given) is type(expected), place
    if isinstance(expected, dict):
        assert given.keys() == expected.keys(), place
        for key in expected:
            assert_same(given[key], expected[key], f"{place}[{key!r}]")
    elif isinstance(expected, (list, tuple)):
        assert len(given) == len(expected), place
        for index, pair in enumerate(zip(given, expected, strict=True)):
            assert_same(*pair, f"{place}[{index}]")
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(given, expected), place
    else:
        assert given == expected, place


def stop_after(monkeypatch, step):
    """A process that dies after a number of steps, stored or not."""
    store = checkpoints.Checkpoints.after_train_iter

    def after_train_iter(self, runner, batch_idx, **rest):
        store(self, runner, batch_idx, **rest)
        if runner.train_loop.step == step:
            raise StopError

    monkeypatch.setattr(checkpoints.Checkpoints, "after_train_iter", after_train_iter)


def test_a_short_run_learns_and_its_model_opens_through_timm(small_config, runs, capfd):
    directory = train(small_config("epochs=3"), runs)
    output = capfd.readouterr()
    best = torch.load(runs / "best.pth", weights_only=True)["record"]["best"]
    assert best["accuracy"] > 0.7

    # the model and the preprocessing that timm reads give the recorded accuracy
    model = open_model(directory)
    assert accuracy(model) == pytest.approx(best["accuracy"], abs=1e-6)
    assert_close(dict(model.state_dict()), dict(weights(runs / "best.pth")), rtol=0, atol=0)
    # and timm opens the checkpoint itself
    reopened = timm.create_model("test_resnet", in_chans=1, num_classes=10, checkpoint_path=str(runs / "best.pth"))
    assert_close(dict(reopened.state_dict()), dict(model.state_dict()), rtol=0, atol=0)
    assert model.pretrained_cfg["label_names"] == [str(i) for i in range(10)]
    config = timm.data.resolve_model_data_config(model)
    wanted = {key: value for key, value in small_config().data.to_dict().items() if key != "name"}
    assert {key: tuple(x) if isinstance(x := config[key], list) else x for key in wanted} == wanted

    # a summary, which remarks on the warmup, a line per epoch, a table, nothing else
    lines = output.out.splitlines()
    assert len(lines) <= 7 + 3 + 9, output.out
    sizes = {path.name: path.stat().st_size / 1e6 for path in runs.glob("*.pth")}
    assert f"last.pth {sizes['last.pth']:.1f}, best.pth {sizes['best.pth']:.1f}" in lines[-1]
    assert "test_resnet" in lines[0]
    assert any(line.startswith("epoch 3/3") and "accuracy" in line and "left" in line for line in lines)
    assert output.err == ""
    history = json.loads((runs / "history.json").read_text())
    assert [epoch["epoch"] for epoch in history["epochs"]] == [1, 2, 3]
    assert history["best"] == best
    assert (runs / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not list(runs.rglob("events.out.tfevents*"))


def test_the_zoos_own_model_trains(few_digits, small_config, runs):
    pico = ("model.name=nat_pico", "model.embed_dim=16", "model.depths=(1,1)", "model.num_heads=(1,2)", "epochs=1")
    directory = train(small_config(*pico), runs)
    assert json.loads((directory / "config.json").read_text())["architecture"] == "nat_pico"
    images = torch.randn(2, 1, 32, 32)
    again = timm.create_model(
        "nat_pico", in_chans=1, num_classes=10, embed_dim=16, depths=(1, 1), num_heads=(1, 2)
    ).eval()
    again.load_state_dict(weights(runs / "last.pth"))
    assert_close(open_model(directory)(images), again(images), rtol=0, atol=0)


def test_the_loss_of_an_auxiliary_head_has_its_weight():
    class TwoHeads(torch.nn.Module):
        def forward(self, x):
            return (x, -x) if self.training else x

    logits, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    loss = torch.nn.CrossEntropyLoss()
    model = Classifier(TwoHeads(), loss, aux_loss_weight=0.25)
    expected = loss(logits, labels) + 0.25 * loss(-logits, labels)
    assert_close(model(logits, labels, mode="loss"), {"loss": expected})
    assert_close(model.eval()(logits, labels, mode="loss"), {"loss": loss(logits, labels)})
    assert_close(model(logits), logits)


def test_a_model_with_an_auxiliary_head_trains(few_digits, small_config, runs):
    tiny = (
        "model.name=overlock_pico",
        "model.aux_head=True",
        "model.embed_dims=(8,8,16,16)",
        "model.num_heads=(2,2)",
        "model.projection=32",
    )

    def auxiliary_weights(name, weight):
        directory = train(small_config(*tiny, "epochs=1", f"aux_loss_weight={weight}"), runs / name)
        return load_file(directory / "model.safetensors")["aux_head.fc.weight"]

    learned, ignored = auxiliary_weights("a", 0.4), auxiliary_weights("b", 0)
    # with weight 0 there is only weight decay, which keeps directions
    assert not torch.allclose(learned / learned.norm(), ignored / ignored.norm(), atol=1e-3)
    with pytest.raises(ValueError, match="aux_loss_weight must be a number of at least 0, got -1"):
        train(small_config(*tiny, "aux_loss_weight=-1"), runs / "c")


CLASSIFIER = (
    "classification/digits", "model.name=test_resnet", "model.drop_rate=0.1", "mixup.mixup_alpha=0.2", "log_interval=5"
)  # fmt: skip
# the angles of pictures and masks are random
MOVED = "augment=[{'type':'RandomAffine','degrees':20}]"


@pytest.mark.parametrize(
    ("run", "step", "stored"),
    [
        pytest.param(CLASSIFIER, 3, None, id="before the first save"),
        pytest.param(CLASSIFIER, 5, 5, id="at a save"),
        pytest.param(CLASSIFIER, 11, 10, id="before validation"),
        pytest.param(CLASSIFIER, 12, 11, id="after the first epoch"),
        pytest.param((*SEGMENTER, MOVED), 6, 5, id="a segmenter", marks=MARKS),
    ],
)
def test_a_run_that_died_continues_to_the_same_weights(few_digits, runs, monkeypatch, run, step, stored):
    everything = ("epochs=2", "precision=bfloat16", "save_interval=5", "ema.decay=0.9", "accumulate=2")
    config = load_config(run[0], (*run[1:], *everything))
    whole = train(config, runs / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, step)
        with pytest.raises(StopError):
            train(config, runs / "died")
    if stored is None:
        assert not (runs / "died" / "last.pth").exists()
    else:
        assert torch.load(runs / "died" / "last.pth", weights_only=True)["step"] == stored
    continued = train(config, runs / "died", resume=True)

    states = [torch.load(runs / name / "last.pth", weights_only=True) for name in ("whole", "died")]
    assert states[0]["step"] == 22
    assert_same(states[1], states[0])
    assert_close(load_file(continued / "model.safetensors"), load_file(whole / "model.safetensors"), rtol=0, atol=0)

    # resuming a finished run changes nothing
    before = (runs / "died" / "last.pth").read_bytes()
    assert train(config, runs / "died", resume=True) == continued
    assert (runs / "died" / "last.pth").read_bytes() == before


def test_the_seed_decides_the_weights(few_digits, small_config, runs):
    def weights(name, *overrides):
        return load_file(train(small_config("epochs=1", *overrides), runs / name) / "model.safetensors")

    first, second, other = weights("a"), weights("b"), weights("c", "seed=1")
    assert_close(first, second, rtol=0, atol=0)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_resume_without_a_run_starts_one(few_digits, small_config, runs):
    assert (train(small_config("epochs=1"), runs, resume=True) / "config.json").exists()


@pytest.mark.parametrize("options", [(), ("epochs=2",)])
def test_the_config_of_a_run_means_its_directory(tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "k").mkdir(parents=True)
    (tmp_path / "runs" / "k" / "last.pth").touch()
    config = tmp_path / "runs" / "k" / "config.py"
    config.write_text(config_path("classification/digits").read_text())
    result = CliRunner().invoke(cli.main, ["train", "runs/k/config.py", *options])
    assert result.exit_code == 2
    assert "runs/k already contains a run: pass --resume to continue it, --overwrite to replace it" in result.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["k"]


def test_a_work_directory_is_not_taken_over(few_digits, small_config, runs):
    train(small_config("epochs=1"), runs)
    with pytest.raises(ValueError, match=r"already contains a run.*--resume"):
        train(small_config("epochs=1"), runs)
    with pytest.raises(ValueError, match="another config"):
        train(small_config("epochs=1", "seed=1"), runs, resume=True)
    train(small_config("epochs=1", "log_interval=3"), runs, resume=True)


def test_two_runs_do_not_share_a_work_directory(few_digits, small_config, runs):
    with locked(runs), pytest.raises(ValueError, match="in use by this process: wait"):
        train(small_config("epochs=1"), runs)
    train(small_config("epochs=1"), runs)


def test_the_best_checkpoint_has_the_state_of_the_optimizer_only_if_asked(few_digits, small_config, runs):
    train(small_config("epochs=1"), runs)
    last, best = (torch.load(runs / name, weights_only=True) for name in ("last.pth", "best.pth"))
    assert_same(best, {key: value for key, value in last.items() if key != "optimizer"})
    shutil.copyfile(runs / "best.pth", runs / "last.pth")
    with pytest.raises(ValueError, match=r"no state of the optimizer.*resumable_best=True"):
        train(small_config("epochs=2"), runs, resume=True)

    asked = small_config("epochs=1", "resumable_best=True")
    train(asked, runs / "asked")
    shutil.move(runs / "asked" / "best.pth", runs / "asked" / "last.pth")
    asked.epochs = 2
    train(asked, runs / "asked", resume=True)


@pytest.mark.parametrize("half", ["model.safetensors", "config.json"])
def test_an_interrupted_save_leaves_nothing_that_opens(few_digits, small_config, runs, monkeypatch, half):
    save = storage.save_for_hf

    def interrupted(model, directory, **options):
        save(model, directory, **options)
        content = (storage.Path(directory) / half).read_bytes()
        (storage.Path(directory) / half).write_bytes(content[: len(content) // 2])
        raise StopError

    monkeypatch.setattr(storage, "save_for_hf", interrupted)
    with pytest.raises(StopError):
        train(small_config("epochs=1"), runs)
    assert not [path for path in runs.rglob("*") if path.name in ("config.json", "model.safetensors")]
    # the epoch was stored before
    assert torch.load(runs / "last.pth", weights_only=True)["recipe"]


def test_an_interrupted_save_leaves_the_model_before(tmp_path):
    path = tmp_path / "model"
    with files.replacing(path) as fresh:
        fresh.mkdir()
        (fresh / "config.json").write_text("first")
    with contextlib.suppress(StopError), files.replacing(path) as fresh:
        fresh.mkdir()
        raise StopError
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_a_constant_rate_needs_no_schedule(few_digits, small_config, runs):
    config = small_config("epochs=1")
    config.schedule = {}
    train(config, runs)
    assert {rate for _, _, rate in torch.load(runs / "last.pth", weights_only=True)["record"]["steps"]} == {1e-3}


def test_packaged_configs_are_read_by_name():
    recipe = Recipe.from_config(load_config("classification/digits", ["model.drop_path_rate=0", "optimizer.lr=1e-4"]))
    assert (recipe.model["drop_path_rate"], recipe.optimizer["lr"]) == (0, 1e-4)


def test_only_the_free_keys_may_differ_in_a_resumed_run():
    config = load_config("classification/digits")
    values = {"tensorboard": True, "unreadable": "skip", "parallel": "fsdp", "resumable_best": True, "device": "cpu"}
    values["tracker"] = {"name": "wandb"}
    changed = load_config("classification/digits", [f"{key}={values.get(key, 7)}" for key in FREE_TO_CHANGE])
    assert Recipe.from_config(config).to_json() == Recipe.from_config(changed).to_json()
    assert (
        Recipe.from_config(load_config("classification/digits", ["seed=7"])).to_json()
        != Recipe.from_config(config).to_json()
    )


def test_digits_are_split_by_class_and_stay_so():
    train_set, held_out = digits("train"), digits("val")
    assert (len(train_set), len(held_out)) == (1437, 360)
    assert train_set.classes == held_out.classes == [str(i) for i in range(10)]
    shares = [torch.bincount(torch.as_tensor(s.labels)) / len(s) for s in (train_set, held_out)]
    assert_close(shares[0], shares[1], rtol=0, atol=0.003)
    assert {image.tobytes() for image in digits("val").pixels} == {image.tobytes() for image in held_out.pixels}
    with pytest.raises(ValueError, match='"train" and "val", got \'test\''):
        open_classification({"name": "digits"}, "test")


def test_augmentation_moves_training_images_only():
    recipe = Recipe.from_config(load_config("classification/digits"))
    moved, fixed = open_classification(recipe.data, "train", recipe.augment), open_classification(recipe.data, "val")
    assert moved[Draw(0, 1)]["images"].shape == (1, 32, 32)
    assert not torch.equal(moved[Draw(0, 1)]["images"], moved[Draw(0, 2)]["images"])
    assert_close(moved[Draw(0, 1)]["images"], moved[Draw(0, 1)]["images"], rtol=0, atol=0)
    assert_close(fixed[Draw(0)]["images"], fixed[Draw(0)]["images"], rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"augment: type must be a transform.*'Nope'"):
        open_classification(recipe.data, "train", [{"type": "Nope"}])


def test_a_disk_that_is_full_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    path = tmp_path / "last.pth"
    storage.save_checkpoint({"step": 1}, path)

    def full(checkpoint, file):
        file.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(storage.torch, "save", full)
    with pytest.raises(files.StorageError, match=r"No space left.*the previous last\.pth is intact"):
        storage.save_checkpoint({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.pth"]


def test_a_write_that_the_system_refuses_keeps_the_checkpoint_before(tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "last.pth"
    storage.save_checkpoint({"weights": torch.zeros(1000)}, path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(files.StorageError, match=r"the previous last\.pth is intact"):
            storage.save_checkpoint({"weights": torch.zeros(1_000_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.pth"]


def test_a_work_directory_that_goes_away_ends_the_run(few_digits, small_config, runs, monkeypatch):
    save = checkpoints.Checkpoints.after_train_iter

    def unmount(self, runner, batch_idx, **rest):
        if runner.train_loop.step == 3:
            shutil.rmtree(runs)
        save(self, runner, batch_idx, **rest)

    monkeypatch.setattr(checkpoints.Checkpoints, "after_train_iter", unmount)
    with pytest.raises(files.StorageError, match=r"runs no longer exists, .* was not written"):
        train(small_config("epochs=1", "save_interval=4"), runs)
    assert not runs.exists()


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=["not a number", "infinite"])
def test_a_loss_that_is_not_finite_ends_the_run_with_its_files(few_digits, small_config, runs, monkeypatch, value):
    forward, calls = Classifier.forward, []

    def explode(self, images, labels=None, mode="tensor"):
        outputs = forward(self, images, labels, mode)
        if mode == "loss":
            calls.append(images)
            if len(calls) == 6:
                outputs["loss"] = outputs["loss"] * value
        return outputs

    monkeypatch.setattr(Classifier, "forward", explode)
    with pytest.raises(TrainingError, match=r"step 6 \(epoch 1\): the loss is (nan|inf).*Images .*: digit \d+, digit"):
        train(small_config("epochs=1", "save_interval=2"), runs)
    stored = torch.load(runs / "last.pth", weights_only=True)
    assert stored["step"] == 4
    assert all(x.isfinite().all() for x in stored["state_dict"].values())
    # without the error it continues, and ends with the weights of an uninterrupted run
    monkeypatch.setattr(Classifier, "forward", forward)
    train(small_config("epochs=1", "save_interval=2"), runs, resume=True)
    train(small_config("epochs=1"), runs.parent / "whole")
    assert_close(weights(runs / "last.pth"), weights(runs.parent / "whole" / "last.pth"), rtol=0, atol=0)


def test_weights_that_are_not_finite_are_not_stored(few_digits, small_config, runs, monkeypatch):
    save = checkpoints.Checkpoints.after_train_iter

    def spoil(self, runner, batch_idx, **rest):
        if runner.train_loop.step == 3:
            next(runner.network.parameters()).data.fill_(math.nan)
        save(self, runner, batch_idx, **rest)

    monkeypatch.setattr(checkpoints.Checkpoints, "after_train_iter", spoil)
    with pytest.raises(TrainingError, match=r"after step 3: conv1\.0\.weight is not finite"):
        train(small_config("epochs=1", "save_interval=1"), runs)
    assert torch.load(runs / "last.pth", weights_only=True)["step"] == 2


def test_tensorboard_on_request(few_digits, small_config, runs):
    train(small_config("epochs=1", "tensorboard=True"), runs)
    assert list(runs.rglob("events.out.tfevents*"))
