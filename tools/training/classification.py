"""Setup of the training of a classifier: data, model and loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import nn

from ..data import open_classification, preprocessing
from ..metrics import ClassificationJudge
from .learners import Classifier, class_weights, create_loss, create_mixup
from .network import create_network, try_size
from .processes import Processes
from .recipe import Recipe
from .setup import OF_SPLITS, Setup, check_classes, describe_data
from .storage import save_model


def classification(recipe: Recipe, processes: Processes) -> Setup:
    """Opens the data of a recipe and creates its model.

    Args:
        recipe: a recipe of the task "classification".
        processes: the processes of the training.

    Raises:
        ValueError: the recipe is invalid or does not match the data.
        FileNotFoundError: a folder does not exist.
    """
    train_set = open_classification(recipe.data, "train", recipe.augment)
    val_set = open_classification(recipe.data, "val")
    check_classes({"the training data": train_set.classes, "the validation data": val_set.classes}, OF_SPLITS)
    classes = list(train_set.classes)
    network, origin = create_network(recipe, classes)
    mixup = create_mixup(recipe.mixup, recipe.loss.get("label_smoothing") or 0.0, len(classes))
    given = recipe.loss.get("weight")
    # the labels of a table take time to read
    labels = train_set.labels if given == "balanced" else None
    counts = None if labels is None else np.bincount(np.asarray(labels), minlength=len(classes)).tolist()
    weight = class_weights(given, len(classes), counts)
    learner = Classifier(
        network,
        create_loss(recipe.loss, mixup is not None, weight),
        mixup,
        recipe.aux_loss_weight,
        recipe.channels_last,
        recipe.freeze == "backbone",
    )
    # report errors of the augmentation or the data here, not from a worker
    train_set.try_out(recipe.seed)
    prepare = preprocessing(recipe.data)
    try_size(network, recipe.model["name"], prepare["input_size"])

    def save(trained: nn.Module, directory: Path) -> None:
        save_model(trained, directory, recipe.model_arguments, prepare, classes)

    size = " x ".join(map(str, prepare["input_size"]))
    return Setup(
        learner=learner,
        network=network,
        train_set=train_set,
        val_set=val_set,
        judge=ClassificationJudge(len(classes), processes.device),
        save=save,
        facts={
            "model": f"{recipe.model['name']}, input {size}, {origin}",
            "data": describe_data(train_set, val_set, recipe.data["name"]),
        },
    )
