"""The recipe: the keys of a training config and their validation."""

from __future__ import annotations

import dataclasses
import json
import pprint
from dataclasses import dataclass, field
from typing import Any

import timm
from mmengine import Config

from attnzoo_command.devices import check_name
from attnzoo_command.keys import guess, unknown_key

from ..tasks import TASKS
from .keys import TRACKERS, check_keys
from .ranges import LARGEST_SEED, check_ranges, is_number

PRECISIONS = ("float32", "bfloat16", "float16")
PARALLEL = ("ddp", "fsdp")
FREEZE = ("none", "backbone")
UNREADABLE = ("stop", "skip")
CLIP_MODES = ("norm", "value", "agc")
# keys that do not affect the result: a resumed run may change them
FREE_TO_CHANGE = (
    "workers", "log_interval", "save_interval", "tensorboard", "tracker", "unreadable", "parallel", "resumable_best",
    "device",
)  # fmt: skip
# elementwise optimizers, which can update a slice of a parameter
SHARDED_OPTIMIZERS = ("sgd", "momentum", "adam", "adamw")
# data sets whose order depends on the number of workers: a resumed run may not change `workers`
STREAMED = ("wds",)

_NUMBERS = {
    # key: minimum
    "epochs": 1, "batch_size": 1, "accumulate": 1, "repeats": 1, "early_stop": 0, "save_interval": 0, "val_interval": 1,
    "workers": 0, "log_interval": 1, "seed": 0,
}  # fmt: skip
_CHOICES = {
    "task": TASKS, "precision": PRECISIONS, "parallel": PARALLEL, "freeze": FREEZE, "unreadable": UNREADABLE,
    "clip_mode": CLIP_MODES,
}  # fmt: skip
# keys that only one task has
_OF_ONE_TASK = {"mixup": "classification", "detector": "detection", "decoder": "segmentation"}
# the largest values, where there is one: of the seed numpy's, of the processes what no machine has
_LIMITS = {"seed": LARGEST_SEED, "workers": 1024}
# keys that None clears
_CLEARED = ("tracker", "detector", "decoder", "schedule", "loss", "augment", "mixup", "ema")
_SWITCHES = ("channels_last", "compile", "grad_checkpointing", "sync_batchnorm", "tensorboard", "resumable_best")
_DICTS = ("model", "data", "optimizer", "schedule", "loss", "mixup", "ema", "detector", "decoder", "tracker")


@dataclass(frozen=True)
class Recipe:
    """The keys of a training config.

    Args:
        model: `name` of a timm model, and arguments of `timm.create_model`. `weights` is a trained directory to start
            from, instead of published weights; what its head has learned of classes of the same name is kept.
        data: `name` of a data set, its arguments, and the preprocessing of its images (`attnzoo.tools.data`).
        epochs: passes over the training data.
        batch_size: images per optimizer step, over all processes and accumulated batches, so that the same recipe is
            the same training on one device and on many. A config may say "auto" for the largest one that fits a GPU.
        optimizer: arguments of `timm.optim.create_optimizer_v2`, including `layer_decay`.
        task: "classification", "detection" or "segmentation".
        detector: for detection, `head` and its arguments (`attnzoo.tools.detection.training`).
        decoder: for segmentation, `name` and its arguments (`attnzoo.tools.segmentation.network`).
        schedule: arguments of `timm.scheduler.create_scheduler_v2`, stepped after every update unless
            `step_on_epochs=True`; a constant learning rate by default.
        loss: `name` "cross_entropy" or "bce", `label_smoothing` (0 .. 1), and `weight`, a list with the weight of each
            class, or "balanced" for weights inversely proportional to the number of their images. For segmentation
            `name` is "cross_entropy", "dice" or "focal", or a list of them, and "balanced" counts pixels; each process
            normalizes by its own weights, ignored pixels and areas, so that several are near one and not equal to it.
        aux_loss_weight: weight of the loss of an auxiliary head, for models that have one; OverLoCK was trained with
            0.4.
        augment: augmentation of training images (`attnzoo.tools.data.train_transform`): a dict of timm's options, or a
            list of torchvision transforms.
        mixup: arguments of `timm.data.Mixup`: mixup_alpha, cutmix_alpha, prob and so on; no mixup by default.
        ema: arguments of `timm.utils.ModelEmaV3`, such as decay; the average is then validated and stored. No average
            by default.
        clip_grad: limit of the gradient of a step; None for no clipping.
        clip_mode: what clip_grad limits: "norm" the norm of the gradient, "value" each element, "agc" the norm per
            unit relative to the norm of the weights (Brock et al., arXiv:2102.06171).
        accumulate: number of batches that a process splits a step into, to save memory.
        repeats: draws of each image per epoch ("repeated augmentation"); an epoch then has 1 / repeats of the images.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps", see `attnzoo.tools.devices.choose_device`; with several
            processes, "cuda" gives each its own GPU.
        precision: "float32", or "bfloat16" or "float16" for autocast; "float16" scales the loss. Weights and
            evaluation stay in float32.
        channels_last: use the channels-last memory format.
        compile: compile the model with torch.compile.
        grad_checkpointing: recompute activations in the backward pass, if the model supports it.
        freeze: "backbone" trains only the classifier; the backbone stays in evaluation mode.
        early_stop: number of epochs without improvement after which to stop; 0 for never.
        parallel: "ddp" copies the model to each process; "fsdp" shards weights, gradients and optimizer state, for
            models that are too large for one device.
        sync_batchnorm: synchronize batch norm over all processes; on GPUs only.
        save_interval: optimizer steps between two checkpoints, in addition to the one after each epoch; 0 for none. A
            run that is killed repeats at most this many steps.
        resumable_best: also store the state of the optimizer in `best.pth`, so that a run can continue from its best
            epoch; the file is then up to three times as large.
        val_interval: epochs between two validations; the last epoch is always validated.
        unreadable: how to handle a file that cannot be read: "stop" with an error, or "skip" it and list it at the end.
        seed: seed of weights, data order and augmentation.
        workers: data loading processes per training process; 0 loads in the training process. None for one less than
            the cores of the machine have for each training process, for data that is read by index. Shards are
            distributed over the workers, so with them a resumed run must have the same number, which is 4 for None.
        log_interval: steps between two points of the curves.
        tensorboard: also write TensorBoard scalars.
        tracker: `name` "wandb" or "mlflow", a package that must be installed, and arguments of mmengine's
            WandbVisBackend (`init_kwargs`: project, name ...) or MLflowVisBackend (`tracking_uri`, `exp_name` ...).
    """

    model: dict[str, Any]
    data: dict[str, Any]
    epochs: int
    batch_size: int
    optimizer: dict[str, Any]
    task: str = "classification"
    detector: dict[str, Any] = field(default_factory=dict)
    decoder: dict[str, Any] = field(default_factory=dict)
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
    device: str = "auto"
    precision: str = "float32"
    channels_last: bool = False
    compile: bool = False
    grad_checkpointing: bool = False
    freeze: str = "none"
    early_stop: int = 0
    parallel: str = "ddp"
    sync_batchnorm: bool = False
    save_interval: int = 1000
    resumable_best: bool = False
    val_interval: int = 1
    unreadable: str = "stop"
    seed: int = 0
    workers: int | None = 0
    log_interval: int = 10
    tensorboard: bool = False
    tracker: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_config(cls, config: Config) -> Recipe:
        """Reads and validate a config.

        Raises:
            ValueError: an unknown or missing key, or an invalid value.
        """
        values = config.to_dict()
        allowed = {entry.name: entry for entry in dataclasses.fields(cls)}
        for key in values:
            if key not in allowed:
                raise ValueError(unknown_key(key, values[key], allowed, str(values.get("task"))))
        required = [name for name, entry in allowed.items() if _is_required(entry)]
        if missing := [key for key in required if key not in values]:
            raise ValueError(f"the config must set {', '.join(missing)}")
        if odd := _not_plain(values):
            raise ValueError(f"a config contains only None, booleans, numbers, text, lists, tuples and dicts: {odd}")
        check_keys(values)
        # None clears what a config has set
        recipe = cls(**{key: x for key, x in values.items() if x is not None or key not in _CLEARED})
        recipe._check()
        check_ranges(values)
        return recipe

    def _check(self) -> None:
        for key, least in _NUMBERS.items():
            value = getattr(self, key)
            if value is None and key == "workers":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{key} must be an integer of at least {least}, got {value!r}")
        for key, most in _LIMITS.items():
            if (getattr(self, key) or 0) > most:
                raise ValueError(f"{key} must be at most {most}, got {getattr(self, key)}")
        for key, choices in _CHOICES.items():
            if getattr(self, key) not in choices:
                raise ValueError(f"{key} must be one of {', '.join(choices)}, got {getattr(self, key)!r}")
        for key in _SWITCHES:
            if not isinstance(getattr(self, key), bool):
                raise ValueError(f"{key} must be True or False, got {getattr(self, key)!r}")
        for key in _DICTS:
            if not isinstance(getattr(self, key), dict):
                raise ValueError(f"{key} must be a dict, got {getattr(self, key)!r}")
        check_name(self.device)
        if not is_number(self.aux_loss_weight) or not self.aux_loss_weight >= 0:
            raise ValueError(f"aux_loss_weight must be a number of at least 0, got {self.aux_loss_weight!r}")
        if self.clip_grad is not None and (not is_number(self.clip_grad) or not self.clip_grad > 0):
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
            raise ValueError(f"model.name must be a model known to timm, got {name!r}{guess(str(name), names)}")
        if self.task == "detection" and self.loss:
            raise ValueError('loss is for classification and segmentation, got task="detection": omit it')
        for key, task in _OF_ONE_TASK.items():
            if getattr(self, key) and self.task != task:
                raise ValueError(f"{key} is for {task} only, got task={json.dumps(self.task)}: omit it")
        if self.tracker and self.tracker.get("name") not in TRACKERS:
            raise ValueError(f"tracker.name must be one of {', '.join(TRACKERS)}, got {self.tracker.get('name')!r}")
        if self.schedule.get("sched") == "plateau":
            raise ValueError("schedule.sched=plateau is not supported (deprecated in timm): use cosine or step")
        if self.parallel == "fsdp":
            self._check_sharded()

    def _check_sharded(self) -> None:
        given: dict[str, Any] = {key: getattr(self, key) for key in ("ema", "compile", "channels_last")}
        if wrong := [key for key, value in given.items() if value]:
            raise ValueError(f'parallel="fsdp" cannot be combined with {wrong[0]}: omit it, or use parallel="ddp"')
        if self.precision == "float16":
            raise ValueError('parallel="fsdp" cannot be combined with precision="float16": use "bfloat16"')
        if self.clip_grad is not None and self.clip_mode == "agc":
            raise ValueError('parallel="fsdp" cannot be combined with clip_mode="agc": use "norm" or "value"')
        name = self.optimizer.get("opt", "sgd")
        if name not in SHARDED_OPTIMIZERS:
            raise ValueError(
                f'parallel="fsdp" requires optimizer.opt to be one of {", ".join(SHARDED_OPTIMIZERS)}, '
                f'got {name!r}: choose one of them, or use parallel="ddp"'
            )

    @property
    def model_arguments(self) -> dict[str, Any]:
        """The arguments of `timm.create_model` other than the name, without `weights`."""
        return {key: value for key, value in self.model.items() if key not in ("name", "weights")}

    def to_python(self) -> str:
        """Returns the recipe as a config file, without the keys that have their default."""
        set_here = {
            entry.name: getattr(self, entry.name)
            for entry in dataclasses.fields(self)
            if getattr(self, entry.name) != _default(entry)
        }
        lines = [f"{key} = {pprint.pformat(value, width=110, sort_dicts=False)}" for key, value in set_here.items()]
        return '"""The config of this run, with all options."""\n\n' + "\n".join(lines) + "\n"

    def to_json(self) -> str:
        """Serializes the keys that affect the result of a run; equal for equal runs."""
        free = [key for key in FREE_TO_CHANGE if key != "workers" or self.data.get("name") not in STREAMED]
        decisive = {k: v for k, v in dataclasses.asdict(self).items() if k not in free}
        return json.dumps(decisive, sort_keys=True)


def _not_plain(values: Any, key: str = "") -> str:
    """Describes the first value that is not plain data, or key that is not text; empty if there is none."""
    if isinstance(values, dict):
        if odd := [name for name in values if not isinstance(name, str)]:
            return f"{key} has the key {odd[0]!r}"
        entries = {f"{key}.{name}" if key else name: value for name, value in values.items()}
    elif isinstance(values, (list, tuple)):
        entries = {f"{key}.{index}": value for index, value in enumerate(values)}
    else:
        is_plain = values is None or isinstance(values, (bool, int, float, str))
        return "" if is_plain else f"{key} is a {type(values).__name__}"
    return next(filter(None, (_not_plain(value, name) for name, value in entries.items())), "")


def _default(entry: dataclasses.Field[Any]) -> Any:
    return entry.default if entry.default_factory is dataclasses.MISSING else entry.default_factory()


def _is_required(entry: dataclasses.Field[Any]) -> bool:
    return entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
