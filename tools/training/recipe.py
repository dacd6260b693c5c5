"""A recipe: what a config must and may say, checked once, before anything is built."""

from __future__ import annotations

import dataclasses
import difflib
import json
from dataclasses import dataclass, field
from typing import Any

import timm
from mmengine import Config

TASKS = ("classification", "detection")
PRECISIONS = ("float32", "bfloat16", "float16")
PARALLEL = ("ddp", "fsdp")
FREEZE = ("none", "backbone")
UNREADABLE = ("stop", "skip")
CLIP_MODES = ("norm", "value", "agc")
# These change how a run goes, not where it ends: a resumed run may change them
FREE_TO_CHANGE = ("workers", "log_interval", "save_interval", "tensorboard", "unreadable", "parallel")
# Optimizers that treat each weight by itself, so that a slice of a parameter is as good as the whole
SHARDED_OPTIMIZERS = ("sgd", "momentum", "adam", "adamw")
# data whose order follows from the number of workers too: there a resumed run may not change it
STREAMED = ("wds",)

_NUMBERS = {
    # key: least value
    "epochs": 1, "batch_size": 1, "accumulate": 1, "repeats": 1, "early_stop": 0, "save_interval": 0, "val_interval": 1,
    "workers": 0, "log_interval": 1, "seed": 0,
}  # fmt: skip
_CHOICES = {
    "task": TASKS, "precision": PRECISIONS, "parallel": PARALLEL, "freeze": FREEZE, "unreadable": UNREADABLE,
    "clip_mode": CLIP_MODES,
}  # fmt: skip
_SWITCHES = ("channels_last", "compile", "grad_checkpointing", "sync_batchnorm", "tensorboard")
_DICTS = ("model", "data", "optimizer", "schedule", "loss", "mixup", "ema", "detector")


@dataclass(frozen=True)
class Recipe:
    """The keys of a training config.

    Args:
        model: `name` of a timm model, and arguments of `timm.create_model`.
        data: `name` of a data set, its arguments, and how its images are prepared (`attnzoo.tools.data`).
        epochs: passes over the training data.
        batch_size: images per optimizer step, of all processes and accumulated parts together: the same recipe is the
            same training on one device and on many.
        optimizer: arguments of `timm.optim.create_optimizer_v2`, `layer_decay` among them.
        task: "classification" or "detection".
        detector: for detection, `head` and what it takes (`attnzoo.tools.detection.training`).
        schedule: arguments of `timm.scheduler.create_scheduler_v2`, stepped with every update unless
            `step_on_epochs=True`; a constant rate without.
        loss: `name` "cross_entropy" or "bce", and `label_smoothing` (0 .. 1).
        aux_loss_weight: of the loss of an auxiliary head, for models that have one; 0.4 is what OverLoCK was trained
            with.
        augment: of the training images (`attnzoo.tools.data.train_transform`): a dict of timm's options, or a list of
            torchvision transforms.
        mixup: arguments of `timm.data.Mixup`: mixup_alpha, cutmix_alpha, prob and so on; none without.
        ema: arguments of `timm.utils.ModelEmaV3`, such as decay: the average is what is judged and stored; no average
            without.
        clip_grad: largest norm of a step's gradient; None does not clip.
        clip_mode: what clip_grad limits: the "norm" of the gradient, each "value" of it, or with "agc" the norm per
            unit as a share of the weights' norm (Brock et al., arXiv:2102.06171).
        accumulate: parts that a process computes a step in, one after the other, where memory is short.
        repeats: draws of each image per epoch, in as many fewer images ("repeated augmentation").
        precision: "float32"; "bfloat16" or "float16" for autocast, the latter with a scaled loss. Weights and
            evaluation stay in float32.
        channels_last: lay images and convolutions out channels last.
        compile: compile the model with torch.compile.
        grad_checkpointing: recompute activations in the backward pass, where the model can.
        freeze: "backbone" trains the classifier alone, on features as they are in evaluation.
        early_stop: stop after so many epochs without a better one; 0 never does.
        parallel: how processes share the work: "ddp" copies the model to each, "fsdp" spreads weights, gradients and
            the optimizer's state over all, for models that are too large for one.
        sync_batchnorm: batch normalisation over the images of all processes; on GPUs.
        save_interval: optimizer steps between two saves of the run's state, beside the one after each epoch; 0 for
            none. A run that dies repeats as much at most.
        val_interval: epochs between two validations; the last is always validated.
        unreadable: what to do about a file that is no picture: "stop" with its name, or "skip" it and list it in the
            end.
        seed: of weights, order and augmentation.
        workers: processes that read data, per training process; 0 reads in that process. Streamed shards are shared
            among them, so there a resumed run keeps their number.
        log_interval: steps between two points of the curves.
        tensorboard: write TensorBoard scalars too.
    """

    model: dict[str, Any]
    data: dict[str, Any]
    epochs: int
    batch_size: int
    optimizer: dict[str, Any]
    task: str = "classification"
    detector: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=dict)
    aux_loss_weight: float = 0.4
    augment: dict[str, Any] | list[dict[str, Any]] = field(default_factory=list)
    mixup: dict[str, Any] = field(default_factory=dict)
    ema: dict[str, Any] = field(default_factory=dict)
    clip_grad: float | None = None
    clip_mode: str = "norm"
    accumulate: int = 1
    repeats: int = 1
    precision: str = "float32"
    channels_last: bool = False
    compile: bool = False
    grad_checkpointing: bool = False
    freeze: str = "none"
    early_stop: int = 0
    parallel: str = "ddp"
    sync_batchnorm: bool = False
    save_interval: int = 1000
    val_interval: int = 1
    unreadable: str = "stop"
    seed: int = 0
    workers: int = 0
    log_interval: int = 10
    tensorboard: bool = False

    @classmethod
    def from_config(cls, config: Config) -> Recipe:
        """Reads and checks a config.

        Raises:
            ValueError: an unknown or missing key, or a value that cannot be; says which, and what is allowed.
        """
        values = config.to_dict()
        allowed = {entry.name: entry for entry in dataclasses.fields(cls)}
        for key in values:
            if key not in allowed:
                raise ValueError(
                    f"{key} is no key of a training config{_guess(key, allowed)}: use {', '.join(allowed)}"
                )
        required = [name for name, entry in allowed.items() if _is_required(entry)]
        if missing := [key for key in required if key not in values]:
            raise ValueError(f"the config lacks {', '.join(missing)}")
        recipe = cls(**values)
        recipe._check()
        return recipe

    def _check(self) -> None:
        for key, least in _NUMBERS.items():
            value = getattr(self, key)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{key} must be an integer of at least {least}, got {value!r}")
        for key, choices in _CHOICES.items():
            if getattr(self, key) not in choices:
                raise ValueError(f"{key} must be one of {', '.join(choices)}, got {getattr(self, key)!r}")
        for key in _SWITCHES:
            if not isinstance(getattr(self, key), bool):
                raise ValueError(f"{key} must be True or False, got {getattr(self, key)!r}")
        for key in _DICTS:
            if not isinstance(getattr(self, key), dict):
                raise ValueError(f"{key} must be a dict, got {getattr(self, key)!r}")
        if not _is_number(self.aux_loss_weight) or not self.aux_loss_weight >= 0:
            raise ValueError(f"aux_loss_weight must be a number of at least 0, got {self.aux_loss_weight!r}")
        if self.clip_grad is not None and (not _is_number(self.clip_grad) or not self.clip_grad > 0):
            raise ValueError(f"clip_grad must be a positive number or None, got {self.clip_grad!r}")
        if isinstance(self.augment, list) and not all(isinstance(x, dict) and "type" in x for x in self.augment):
            raise ValueError(
                f'augment must be a dict, or a list of dicts that each have a "type", got {self.augment!r}'
            )
        if not isinstance(self.augment, (dict, list)):
            raise ValueError(f"augment must be a dict or a list, got {self.augment!r}")
        self._check_together()

    def _check_together(self) -> None:
        name = self.model.get("name")
        if not isinstance(name, str) or not timm.is_model(name):
            names = timm.list_models()
            raise ValueError(f"model.name must be a model known to timm, got {name!r}{_guess(str(name), names)}")
        if self.task == "detection" and (wrong := [key for key in ("mixup", "loss") if getattr(self, key)]):
            raise ValueError(f"{wrong[0]} is for classification: a detector brings its own losses, leave it out")
        if self.task == "classification" and self.detector:
            raise ValueError('detector is for task = "detection": add that, or leave detector out')
        if self.schedule.get("sched") == "plateau":
            raise ValueError("schedule.sched=plateau is deprecated in timm and not offered: use cosine or step")
        if self.parallel == "fsdp":
            self._check_sharded()

    def _check_sharded(self) -> None:
        given: dict[str, Any] = {key: getattr(self, key) for key in ("ema", "compile", "channels_last")}
        if wrong := [key for key, value in given.items() if value]:
            raise ValueError(f'parallel="fsdp" cannot be combined with {wrong[0]}: leave it out, or use parallel="ddp"')
        if self.precision == "float16":
            raise ValueError('parallel="fsdp" cannot be combined with precision="float16": use "bfloat16"')
        if self.clip_grad is not None and self.clip_mode == "agc":
            raise ValueError('parallel="fsdp" cannot be combined with clip_mode="agc": use "norm" or "value"')
        name = self.optimizer.get("opt", "sgd")
        if name not in SHARDED_OPTIMIZERS:
            raise ValueError(
                f'parallel="fsdp" takes optimizers that treat each weight by itself, {", ".join(SHARDED_OPTIMIZERS)}, '
                f'got optimizer.opt={name!r}: choose one of them, or use parallel="ddp"'
            )

    @property
    def model_arguments(self) -> dict[str, Any]:
        """What `timm.create_model` is given besides the name."""
        return {key: value for key, value in self.model.items() if key != "name"}

    def to_json(self) -> str:
        """What decides where a run ends, as text: equal for equal runs."""
        free = [key for key in FREE_TO_CHANGE if key != "workers" or self.data.get("name") not in STREAMED]
        decisive = {k: v for k, v in dataclasses.asdict(self).items() if k not in free}
        return json.dumps(decisive, sort_keys=True)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_required(entry: dataclasses.Field[Any]) -> bool:
    return entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING


def _guess(word: str, words: Any) -> str:
    close = difflib.get_close_matches(word, list(words), 3)
    return f" (did you mean {' or '.join(close)}?)" if close else ""
