"""Every packaged config can be read, and timm accepts its parts."""

import re

import pytest
import timm
import torch
from PIL import Image

import attnzoo  # noqa: F401  registers the models
from attnzoo.tools.data import DATASETS, preprocessing, train_transform
from attnzoo.tools.training.config import load_config
from attnzoo.tools.training.learners import create_loss, create_mixup
from attnzoo.tools.training.optimization import create_optimization, create_schedule
from attnzoo.tools.training.processes import Processes
from attnzoo.tools.training.recipe import Recipe
from attnzoo_command.configs import packaged_configs

CONFIGS = [name for name in packaged_configs() if name.startswith("classification/")]
IMAGENET = [name for name in CONFIGS if "imagenet" in name]
STEPS = 3


def recipe_of(name, *overrides):
    return Recipe.from_config(load_config(name, overrides))


def rates_of(recipe):
    """The learning rate at the start of every epoch, with a tiny model in place of the recipe's."""
    stand_in = timm.create_model("test_vit")
    optimizer = create_optimization(recipe, stand_in, Processes(0, 1, torch.device("cpu"))).optimizer
    schedule = create_schedule(recipe, optimizer, STEPS)
    rates = []
    for epoch in range(recipe.epochs):
        rates.append(max(group["lr"] for group in optimizer.param_groups))
        for step in range(epoch * STEPS, (epoch + 1) * STEPS):
            schedule.step_update(step + 1)
        schedule.step(epoch + 1)
    return rates


@pytest.mark.parametrize("name", CONFIGS)
def test_a_recipe_is_whole(name):
    recipe = recipe_of(name)
    assert recipe.data["name"] in DATASETS
    assert recipe.batch_size % 8 == 0
    mixup = create_mixup(recipe.mixup, recipe.loss.get("label_smoothing", 0), 10)
    create_loss(recipe.loss, mixup is not None)
    transform = train_transform(recipe.data, recipe.augment)
    channels, height, width = preprocessing(recipe.data)["input_size"]
    image = Image.effect_noise((width + 50, height + 20), 40).convert("L" if channels == 1 else "RGB")
    assert transform(image).shape == (channels, height, width)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_rate_rises_falls_and_ends_with_the_training(name):
    recipe = recipe_of(name)
    rates = rates_of(recipe)
    highest, last = recipe.optimizer["lr"], recipe.schedule["min_lr"]
    warmup, cooldown = recipe.schedule["warmup_epochs"], recipe.schedule.get("cooldown_epochs", 0)
    assert rates[0] == pytest.approx(recipe.schedule["warmup_lr"])
    # the cosine has decreased a little during warmup
    assert rates[warmup] == max(rates)
    assert 0.9 * highest < max(rates) <= highest
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert last <= rates[-1] <= (last if cooldown else last + 0.01 * highest)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_model_takes_what_the_recipe_gives_it(name):
    recipe = recipe_of(name)
    arguments = {key: value for key, value in recipe.model.items() if key not in ("name", "pretrained")}
    with torch.device("meta"):
        model = timm.create_model(recipe.model["name"], num_classes=7, **arguments)
    assert model.get_classifier().out_features == 7
    # the preprocessing for evaluation is that of the published weights
    config = timm.get_pretrained_cfg(recipe.model["name"])
    if name in IMAGENET:
        assert recipe.data["input_size"] == config.input_size
        assert recipe.data["crop_pct"] == config.crop_pct
        assert recipe.data["interpolation"] == config.interpolation


def test_every_family_has_its_recipe():
    families = {
        "agent_cswin_tiny": "agent_cswin", "agent_deit_small": "agent_deit", "agent_pvt_small": "agent_pvt",
        "agent_swin_tiny": "agent_swin", "biformer_small": "biformer", "dinat_tiny": "dinat", "nat_tiny": "nat",
        "overlock_t": "overlock", "zoo_shvit_s4": "shvit",
    }  # fmt: skip
    assert {
        recipe_of(name).model["name"]: name.removeprefix("classification/imagenet_") for name in IMAGENET
    } == families


@pytest.mark.parametrize("name", CONFIGS)
def test_a_docstring_tells_command_and_what_to_expect(name):
    text = packaged_configs()[name].read_text().split('"""')[1]
    assert re.search(rf"Command: .*{name}( |$)", text, re.MULTILINE)
    titles = ("Source:", "Published:", "we have not run this recipe") if name in IMAGENET else ("Time:", "Expect:")
    assert all(title in text for title in ("Hardware:", *titles))


@pytest.mark.parametrize("name", IMAGENET)
def test_published_results_are_of_models_that_there_are(name):
    text = packaged_configs()[name].read_text().split('"""')[1].split("Published:")[1]
    published = re.findall(r"(\d\d\.\d) (\w+)", text)
    assert recipe_of(name).model["name"] in [model for _, model in published]
    assert all(timm.is_model(model) for _, model in published)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("schedule.sched=cosin", "schedule"),
        ("optimizer.opt=adamv", "optimizer"),
        ("optimizer.learning_rate=1", "optimizer"),
        ("schedule.cooldown_epochs=3", "schedule: with warmup and cooldown it must last 30 epochs, got 33"),
    ],
)
def test_what_timm_does_not_take_is_blamed_on_its_key(override, message):
    with pytest.raises(ValueError, match=message):
        rates_of(recipe_of("classification/imagefolder", override))
