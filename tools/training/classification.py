"""A recipe for image classification becomes an mmengine Runner: model and loss, data, optimizer, metric."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from mmengine import Config
from mmengine.dataset import DefaultSampler
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import Runner, set_random_seed
from mmengine.visualization import TensorboardVisBackend, Visualizer  # noqa: F401  the import registers them
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from ..data import open_dataset
from .hooks import Checkpoints, Progress
from .recipe import Recipe


class Classifier(BaseModel):
    """A timm model and its loss, as mmengine steps them.

    Args:
        model: images (B, C, H, W) to logits (B, classes); in training perhaps with an auxiliary head's, as a tuple.
        loss: logits and labels (B) to a scalar.
        aux_loss_weight: of an auxiliary head's loss, beside 1 for the other.
    """

    def __init__(self, model: nn.Module, loss: nn.Module, aux_loss_weight: float = 0.4) -> None:
        super().__init__()
        self.model, self.loss, self.aux_loss_weight = model, loss, aux_loss_weight

    def init_weights(self) -> None:
        """Nothing: timm has initialised or loaded its model, mmengine would do it once more over that."""

    def forward(self, inputs: Tensor, labels: Tensor | None = None, mode: str = "tensor") -> Any:
        """Loss for training, logits otherwise."""
        logits = self.model(inputs)
        if mode != "loss":
            return logits
        if isinstance(logits, tuple):
            main, auxiliary = logits
            return {"loss": self.loss(main, labels) + self.aux_loss_weight * self.loss(auxiliary, labels)}
        return {"loss": self.loss(logits, labels)}


class Autocast(OptimWrapper):
    """bfloat16 where autocast allows it; mmengine's own wrapper knows no CPU. bfloat16 needs no loss scaling."""

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """One forward pass."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, torch.bfloat16):
            yield


class Metrics(Evaluator):
    """torchmetrics under mmengine's validation loop."""

    def __init__(self, metrics: MetricCollection) -> None:
        super().__init__([])
        self.metric_collection = metrics

    def process(self, data_samples: Tensor, data_batch: Any = None) -> None:
        """Adds a batch: logits (B, classes), and the labels of the batch."""
        self.metric_collection.update(data_samples.float().cpu(), data_batch[1])

    def evaluate(self, size: int) -> dict[str, float]:
        """The metrics of all batches since the last call, by name."""
        values = {name: float(value) for name, value in self.metric_collection.compute().items()}
        self.metric_collection.reset()
        return values


class QuietRunner(Runner):
    """Tells a log file in the work directory what mmengine tells the console: environment, config, hooks."""

    def build_logger(self, log_level: int | str = "INFO", log_file: str | None = None, **kwargs: Any) -> MMLogger:
        """mmengine's logger, only warnings on the console."""
        logger = super().build_logger(log_level, log_file, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.WARNING)
        return logger

    def train(self) -> nn.Module:
        """Trains, and gives the terminal back whatever happens: a bar hides the cursor."""
        try:
            return super().train()
        finally:
            for hook in self.hooks:
                if isinstance(hook, Progress):
                    hook.bar.stop()


def build_runner(recipe: Recipe, config: Config, work_dir: Path, resume_from: Path | None) -> QuietRunner:
    """Everything a run needs; `.train()` starts it.

    Args:
        recipe: what to train.
        config: what the recipe was read from, for the logs.
        work_dir: where checkpoints, the model and the logs go.
        resume_from: a checkpoint of the same run.

    Raises:
        ValueError: the recipe asks for what timm, torchvision or mmengine do not offer.
    """
    for entry in recipe.schedule:
        if PARAM_SCHEDULERS.get(entry["type"]) is None:
            raise ValueError(f"schedule: type must name a scheduler of mmengine, got {entry['type']!r}")
    set_random_seed(recipe.seed)
    train_set = open_dataset(recipe.data, "train", recipe.augment)
    val_set = open_dataset(recipe.data, "val")
    model = _create_model(recipe, len(train_set.classes))
    metrics = MetricCollection({"accuracy": MulticlassAccuracy(len(train_set.classes), average="micro")})
    checkpoints = Checkpoints(recipe, work_dir, train_set.classes)
    return QuietRunner(
        model=Classifier(model, _call("loss", nn.CrossEntropyLoss, **recipe.loss), recipe.aux_loss_weight),
        work_dir=str(work_dir),
        train_dataloader=_loader(train_set, recipe, training=True),
        train_cfg={"by_epoch": True, "max_epochs": recipe.epochs},
        val_dataloader=_loader(val_set, recipe, training=False),
        val_cfg={},
        val_evaluator=Metrics(metrics),
        optim_wrapper=_optimizer(recipe, model),
        param_scheduler=recipe.schedule or None,
        default_hooks={
            "logger": {"type": "LoggerHook", "interval": recipe.log_interval},
            "checkpoint": None,
            # mmengine steps even a missing schedule
            **({} if recipe.schedule else {"param_scheduler": None}),
        },
        custom_hooks=[Progress(recipe, checkpoints), checkpoints],
        visualizer={"type": "Visualizer", "vis_backends": [{"type": "TensorboardVisBackend"}]},
        randomness={"seed": recipe.seed},
        load_from=None if resume_from is None else str(resume_from),
        resume=resume_from is not None,
        # mmengine keeps loggers and hubs by this name for the life of the process: no two runs may share them
        experiment_name=uuid.uuid4().hex,
        cfg=config,
    )


def _create_model(recipe: Recipe, num_classes: int) -> nn.Module:
    options = {key: value for key, value in recipe.model.items() if key != "name"}
    # the data decides, and a config that says otherwise is wrong
    if options.pop("num_classes", num_classes) != num_classes:
        raise ValueError(f"model.num_classes must be the classes of the data, {num_classes}: leave it out")
    channels, expected = options.get("in_chans", 3), recipe.data.get("input_size", (3, 224, 224))[0]
    if channels != expected:
        raise ValueError(f"model.in_chans must be the channels of data.input_size, {expected}, got {channels}")
    return _call("model", timm.create_model, recipe.model["name"], num_classes=num_classes, **options)


def _call(key: str, function: Callable[..., Any], *positional: Any, **options: Any) -> Any:
    """Calls a library with what the recipe says under `key`, and blames the recipe where it does not fit."""
    try:
        return function(*positional, **options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{key}: {error}") from error


def _loader(dataset: Any, recipe: Recipe, training: bool) -> DataLoader[Any]:
    return DataLoader(
        dataset,
        recipe.batch_size,
        sampler=DefaultSampler(dataset, shuffle=training, seed=recipe.seed, round_up=training),
        # new workers each epoch: their seed then follows from the state that a checkpoint keeps
        num_workers=recipe.workers,
        pin_memory=torch.cuda.is_available(),
        # batch normalisation cannot learn from a last batch of one image
        drop_last=training and len(dataset) > recipe.batch_size,
        collate_fn=default_collate,
    )


def _optimizer(recipe: Recipe, model: nn.Module) -> OptimWrapper:
    wrapper = Autocast if recipe.precision == "bfloat16" else OptimWrapper
    # the timm model, not the Classifier: its no_weight_decay() knows its own names
    return wrapper(_call("optimizer", create_optimizer_v2, model, **recipe.optimizer))
