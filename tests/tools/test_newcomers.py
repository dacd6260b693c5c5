"""What a new user mistypes in `attnzoo train` is answered with what to type, before torch is imported."""

import dataclasses
import json
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner
from mmengine import Config

from attnzoo.tools.data import open_classification, train_transform
from attnzoo.tools.stages import create_body
from attnzoo.tools.training.config import load_config
from attnzoo.tools.training.recipe import Recipe
from attnzoo_command import main
from attnzoo_command.checks import recipe_keys
from attnzoo_command.configs import packaged_configs

FOLDER = ["classification/imagefolder", "data.root=pictures"]
LIGHT = {
    "a size, as in ultralytics": ([*FOLDER, "imgsz=64"], "did you mean data.input_size=3,64,64?"),
    "two sides": ([*FOLDER, "img_size=(64,96)"], "did you mean data.input_size=3,64,96?"),
    "a size of a detector": (["detection/coco", "input_size=320"], "did you mean detector.size=320?"),
    "a learning rate": ([*FOLDER, "lr=1e-3"], "did you mean optimizer.lr=1e-3?"),
    "an option of timm": ([*FOLDER, "--lr", "1e-3"], "there is no option --lr: write optimizer.lr=1e-3"),
    "a key as an option": ([*FOLDER, "--batch-size=8"], "there is no option --batch-size: write batch_size=8"),
    "an option that nobody has": ([*FOLDER, "--foo"], "No such option '--foo'"),
    "a flag as a key": ([*FOLDER, "resume=True"], "did you mean --resume?"),
    "a model": ([*FOLDER, "model=nat_tiny"], "did you mean model.name=nat_tiny?"),
    "a typo": ([*FOLDER, "epoch=3"], "unknown config key epoch: did you mean epochs=3?"),
    "a typo in front": ([*FOLDER, "schedul.sched=cosine"], "unknown config key schedul: did you mean schedule?"),
    "no value": ([*FOLDER, "epochs"], "must have the form key=value, got 'epochs'"),
    "a device": ([*FOLDER, "--device", "gpu"], "device must be auto, cpu"),
    "a config": (["classification/imagefoldr"], "(did you mean classification/imagefolder"),
    "a config without folder": (["maskfolder"], "(did you mean segmentation/maskfolder?)"),
    "no such config": (["zzz"], "no config 'zzz': it must be the path of a Python file, or a name that `attnzoo conf"),
    "a folder": (["classification/imagefolder", "data.root=picturs"], "did you mean data.root=pictures?"),
    "no folder": (["detection/coco"], "folder data does not exist: set data.root=FOLDER"),
}


def test_light_mistakes_are_told_without_torch(tmp_path):
    (tmp_path / "pictures").mkdir()
    code = f"""
import json, sys
from click.testing import CliRunner
from attnzoo_command import main
for arguments in json.loads({json.dumps([given for given, _ in LIGHT.values()])!r}):
    result = CliRunner().invoke(main, ["train", *arguments])
    print(json.dumps([result.exit_code, result.stderr]))
assert not {{"attnzoo", "torch", "timm", "numpy"}} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for (name, (_, says)), (exit_code, stderr) in zip(LIGHT.items(), answers, strict=True):
        assert exit_code == 2, name
        assert says in stderr.splitlines()[-1], name
        assert stderr.count("classification/") <= 4, name


def test_the_light_checks_pass_every_packaged_config(monkeypatch, tmp_path):
    assert recipe_keys() == [field.name for field in dataclasses.fields(Recipe)]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    monkeypatch.setattr("attnzoo.tools.train.train", lambda config, *rest: seen.append(config.data.name))
    seen: list[str] = []
    for name in packaged_configs():
        result = CliRunner().invoke(main, ["train", name, "data.root=data"])
        assert result.exit_code == 0, result.output
    # what other keys say about places is left to the data set
    for more in (["data.train=a", "data.val=b"], ["data.name=hfds", "data.dataset=a"], ["data.name=wds"]):
        result = CliRunner().invoke(main, ["train", "classification/imagefolder", "data.root=nowhere", *more])
        assert result.exit_code == 0, result.output
    assert len(seen) == len(packaged_configs()) + 3


@pytest.mark.parametrize("name", packaged_configs())
def test_a_typo_in_any_key_of_a_recipe_has_a_guess(name):
    config = load_config(name).to_dict()
    nested = [
        (owner, key)
        for owner in ("optimizer", "schedule", "mixup", "ema", "augment", "loss")
        if isinstance(config.get(owner), dict)
        for key in config[owner]
    ]
    assert nested
    for owner, key in nested:
        typo = f"{key[:-2]}{key[-1]}" if len(key) > 3 else f"{key}x"
        changed = {**config[owner], typo: config[owner][key]}
        with pytest.raises(ValueError, match=rf"unknown config key {owner}\.{typo}: did you mean .*{owner}\.{key}"):
            Recipe.from_config(Config({**config, owner: changed}))


DATA = {"name": "digits", "input_size": (1, 32, 32)}
DEEP = {
    "data": (lambda: open_classification({"name": "imagefolder", "rot": "x"}, "train"), "did you mean data.root=x"),
    "preprocessing": (lambda: open_classification({**DATA, "crop_pc": 1}, "val"), "did you mean data.crop_pct=1"),
    "a transform": (lambda: train_transform(DATA, [{"type": "RandomAfine"}]), "did you mean RandomAffine"),
    "an argument of it": (
        lambda: train_transform(DATA, [{"type": "RandomAffine", "degres": 3}]), "did you mean degrees?"
    ),
    "one side": (lambda: train_transform({"input_size": 64}, {}), "write data.input_size=3,64,64"),
    "a backbone": (lambda: create_body("nat_pico", {"drop_path_rat": 0.1}), "did you mean drop_path_rate"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "says"), DEEP.values(), ids=DEEP)
def test_a_typo_that_needs_libraries_has_a_guess(call, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        call()
