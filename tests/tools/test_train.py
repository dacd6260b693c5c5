import contextlib
import json
import math

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from attnzoo.tools import files
from attnzoo.tools.data import digits, open_dataset
from attnzoo.tools.train import train
from attnzoo.tools.training import hooks, storage
from attnzoo.tools.training.classification import Classifier
from attnzoo.tools.training.recipe import FREE_TO_CHANGE, Recipe, load_config


def open_model(directory):
    return timm.create_model(f"local-dir:{directory}", pretrained=True).eval()


@torch.inference_mode()
def accuracy(model):
    config = timm.data.resolve_model_data_config(model)
    held_out = digits("val", timm.data.create_transform(**config))
    images, labels = zip(*held_out, strict=True)
    return float((model(torch.stack(images)).argmax(1) == torch.tensor(labels)).float().mean())


class StopError(Exception):
    pass


def stop_after(monkeypatch, epochs):
    """A process that dies just after it has stored so many epochs."""
    store = hooks.Checkpoints.after_val_epoch

    def after_val_epoch(self, runner, metrics=None):
        store(self, runner, metrics)
        if runner.epoch == epochs:
            raise StopError

    monkeypatch.setattr(hooks.Checkpoints, "after_val_epoch", after_val_epoch)


def test_a_short_run_learns_and_its_model_opens_through_timm(small_config, runs, capfd):
    directory = train(small_config("epochs=3"), runs)
    output = capfd.readouterr()
    best = torch.load(runs / "best.pth", weights_only=True)["run"]["best"]
    assert best["accuracy"] > 0.7

    # the model that timm opens, with the preprocessing that timm reads, is the one that was measured
    model = open_model(directory)
    assert accuracy(model) == pytest.approx(best["accuracy"], abs=1e-6)
    stored = torch.load(runs / "best.pth", weights_only=True)["state_dict"]
    assert_close(
        dict(model.state_dict()), {name.removeprefix("model."): x for name, x in stored.items()}, rtol=0, atol=0
    )
    assert model.pretrained_cfg["label_names"] == [str(i) for i in range(10)]
    config = timm.data.resolve_model_data_config(model)
    wanted = {key: value for key, value in small_config().data.to_dict().items() if key != "name"}
    assert {key: tuple(x) if isinstance(x := config[key], list) else x for key in wanted} == wanted

    # one screen before, a line per epoch, nothing else
    lines = output.out.splitlines()
    assert len(lines) <= 5 + 3 + 2, output.out
    assert "test_resnet" in lines[0]
    assert any(line.startswith("epoch 3/3") and "accuracy" in line and "left" in line for line in lines)
    assert output.err == ""
    assert list(runs.rglob("events.out.tfevents*"))


def test_the_zoos_own_model_trains(few_digits, small_config, runs):
    pico = ("model.name=nat_pico", "model.embed_dim=16", "model.depths=(1,1)", "model.num_heads=(1,2)", "epochs=1")
    directory = train(small_config(*pico), runs)
    assert json.loads((directory / "config.json").read_text())["architecture"] == "nat_pico"
    images = torch.randn(2, 1, 32, 32)
    stored = torch.load(runs / "last.pth", weights_only=True)["state_dict"]
    again = timm.create_model(
        "nat_pico", in_chans=1, num_classes=10, embed_dim=16, depths=(1, 1), num_heads=(1, 2)
    ).eval()
    again.load_state_dict({name.removeprefix("model."): x for name, x in stored.items()})
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
    tiny = ("model.name=overlock_pico", "model.embed_dims=(8,8,16,16)", "model.num_heads=(2,2)", "model.projection=32")

    def auxiliary_weights(name, weight):
        directory = train(small_config(*tiny, "epochs=1", f"aux_loss_weight={weight}"), runs / name)
        return load_file(directory / "model.safetensors")["aux_head.fc.weight"]

    learned, ignored = auxiliary_weights("a", 0.4), auxiliary_weights("b", 0)
    # without a weight there is only decay, which keeps directions
    assert not torch.allclose(learned / learned.norm(), ignored / ignored.norm(), atol=1e-3)
    with pytest.raises(ValueError, match="aux_loss_weight must be a number of at least 0, got -1"):
        train(small_config(*tiny, "aux_loss_weight=-1"), runs / "c")


def test_a_run_that_died_continues_to_the_same_weights(few_digits, small_config, runs, monkeypatch):
    config = small_config("epochs=3", "precision=bfloat16")
    whole = train(config, runs / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(StopError):
            train(config, runs / "died")
    assert torch.load(runs / "died" / "last.pth", weights_only=True)["meta"]["epoch"] == 1
    continued = train(config, runs / "died", resume=True)

    states = [torch.load(runs / name / "last.pth", weights_only=True) for name in ("whole", "died")]
    assert states[0]["meta"] == states[1]["meta"]
    assert states[0]["meta"]["iter"] == 3 * math.floor(360 / 32)
    assert_close(states[1]["state_dict"], states[0]["state_dict"], rtol=0, atol=0)
    assert_close(load_file(continued / "model.safetensors"), load_file(whole / "model.safetensors"), rtol=0, atol=0)

    # nothing is left to do, and it does no harm to ask
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


def test_a_work_directory_is_not_taken_over(few_digits, small_config, runs):
    train(small_config("epochs=1"), runs)
    with pytest.raises(ValueError, match=r"holds a run already.*--resume"):
        train(small_config("epochs=1"), runs)
    with pytest.raises(ValueError, match="another config"):
        train(small_config("epochs=2"), runs, resume=True)
    train(small_config("epochs=1", "log_interval=3"), runs, resume=True)
    (runs / "last.pth").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"last\.pth is not a checkpoint"):
        train(small_config("epochs=1"), runs, resume=True)


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
    assert not [path for path in runs.rglob("*") if path.name in ("config.json", "model.safetensors", "last.pth")]


def test_an_interrupted_save_leaves_the_model_before(tmp_path):
    path = tmp_path / "model"
    with files.replacing(path) as fresh:
        fresh.mkdir()
        (fresh / "config.json").write_text("first")
    with contextlib.suppress(StopError), files.replacing(path) as fresh:
        fresh.mkdir()
        raise StopError
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]

    # killed between the two renames, then started again
    path.rename(tmp_path / ".model.old")
    with pytest.raises(StopError), files.replacing(path):
        raise StopError
    assert (path / "config.json").read_text() == "first"


def test_a_config_in_a_checkpoint_is_not_executed(few_digits, small_config, runs, tmp_path):
    config = small_config("epochs=1")
    train(config, runs)
    checkpoint = torch.load(runs / "last.pth", weights_only=True)
    checkpoint["meta"]["config"] = f"open({str(tmp_path / 'executed')!r}, 'w')"
    torch.save(checkpoint, runs / "last.pth")
    train(config, runs, resume=True)
    assert not (tmp_path / "executed").exists()


def test_a_constant_rate_needs_no_schedule(few_digits, small_config, runs):
    config = small_config("epochs=1")
    config.schedule = []
    train(config, runs)
    assert torch.load(runs / "last.pth", weights_only=True)["param_schedulers"] == []


def test_packaged_configs_are_read_by_name():
    recipe = Recipe.from_config(load_config("classification/digits", ["model.drop_path_rate=0", "optimizer.lr=1e-4"]))
    assert (recipe.model["drop_path_rate"], recipe.optimizer["lr"]) == (0, 1e-4)


def test_only_the_free_keys_may_differ_in_a_resumed_run():
    config = load_config("classification/digits")
    changed = load_config("classification/digits", [f"{key}=7" for key in FREE_TO_CHANGE])
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
    with pytest.raises(ValueError, match='"train" or "val", got \'test\''):
        digits("test")


def test_augmentation_moves_training_images_only():
    recipe = Recipe.from_config(load_config("classification/digits"))
    moved, fixed = open_dataset(recipe.data, "train", recipe.augment), open_dataset(recipe.data, "val")
    assert moved[0][0].shape == (1, 32, 32)
    assert any(not torch.equal(moved[0][0], moved[0][0]) for _ in range(5))
    assert_close(fixed[0][0], fixed[0][0], rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"augment: type must name a transform.*'Nope'"):
        open_dataset(recipe.data, "train", [{"type": "Nope"}])


def test_a_disk_that_is_full_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    path = tmp_path / "last.pth"
    storage.save_checkpoint({"step": 1}, path)

    def full(checkpoint, file):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(storage.torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        storage.save_checkpoint({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.pth"]
