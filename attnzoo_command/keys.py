"""KEY=VALUE for a training config, and what is meant by a key that a config does not have."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Any

# what a key of other training programs is here; {} is its value
_ELSEWHERE = {
    name: here
    for here, names in {
        "epochs={}": "n_epochs num_epochs num_train_epochs max_epochs",
        "batch_size={}": "batch bs b per_device_train_batch_size train_batch_size",
        "optimizer.lr={}": "lr lr0 learning_rate base_lr max_lr",
        "optimizer.opt={}": "opt optim",
        "optimizer.weight_decay={}": "weight_decay wd",
        "optimizer.momentum={}": "momentum",
        "optimizer.layer_decay={}": "layer_decay",
        "schedule.sched={}": "sched scheduler lr_scheduler",
        "schedule.warmup_epochs={}": "warmup warmup_epochs",
        "schedule.warmup_lr={}": "warmup_lr",
        "schedule.min_lr={}": "min_lr lrf",
        "model.name={}": "arch architecture backbone network model_name name",
        "model.pretrained={}": "pretrained",
        "model.weights={}": "weights finetune checkpoint initial_checkpoint",
        "model.drop_path_rate={}": "drop_path drop_path_rate stochastic_depth",
        "model.drop_rate={}": "drop dropout drop_rate",
        "data.root={}": "root data_dir data_path data_root dataset_path path dir folder",
        "data.name={}": "dataset dataset_name",
        "data.class_map={}": "class_map classes names",
        "augment.auto_augment={}": "aa auto_augment",
        "augment.re_prob={}": "reprob re_prob random_erasing erasing",
        "augment.hflip={}": "hflip fliplr",
        "augment.vflip={}": "vflip flipud",
        "augment.color_jitter={}": "color_jitter",
        "loss.label_smoothing={}": "smooth smoothing label_smoothing",
        "mixup.mixup_alpha={}": "mixup_alpha",
        "mixup.cutmix_alpha={}": "cutmix cutmix_alpha",
        "ema.decay={}": "ema_decay model_ema_decay",
        "detector.head={}": "head",
        "early_stop={}": "patience early_stopping",
        "workers={}": "num_workers nw j",
        "accumulate={}": "grad_accum_steps gradient_accumulation_steps accumulation_steps accum_iter",
        "clip_grad={}": "clip max_norm max_grad_norm",
        "precision=bfloat16": "amp bf16",
        "precision=float16": "fp16 half",
        "--work-dir {}": "work_dir output output_dir project save_dir",
        "--resume": "resume",
    }.items()
    for name in names.split()
}
_SIZES = ("imgsz", "img_size", "image_size", "input_size", "size", "resolution", "crop_size")

# of a key that holds a dict, the key in it that a single value is meant for
_FIRST = {
    "model": "name", "data": "root", "optimizer": "opt", "schedule": "sched", "loss": "name", "augment": "auto_augment",
    "mixup": "mixup_alpha", "ema": "decay", "detector": "head", "decoder": "name", "tracker": "name",
}  # fmt: skip


def split_option(option: str) -> tuple[str, str]:
    """Returns the key and the text of "key=value" or "key.key=value".

    Raises:
        ValueError: it has another form.
    """
    key, sign, text = option.partition("=")
    if not sign:
        raise ValueError(f"an override must have the form key=value, got {option!r}")
    key = key.strip()
    if not all(part.isidentifier() or part.isdigit() for part in key.split(".")):
        raise ValueError(f"an override must have the form key=value or key.key=value, got {option!r}")
    return key, text


def guess(word: str, words: Collection[str]) -> str:
    """Returns " (did you mean ...?)" with the nearest of some words; empty if none is near."""
    close = difflib.get_close_matches(word, words, 3)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def unknown_key(key: str, value: Any, allowed: Collection[str], task: str = "classification") -> str:
    """Returns the message for a key that a config does not have, with what to type for it.

    Args:
        key: the key, such as "imgsz" or "augment.auto_augmnt".
        value: its value.
        allowed: the keys that there are in the same dict.
        task: task of the config.
    """
    owner, dot, last = key.rpartition(".")
    text = _typed(value)
    if meant := translated(last, text, task):
        return f"unknown config key {key}: did you mean {meant}?"
    if close := difflib.get_close_matches(last, allowed, 3):
        likely = " or ".join(f"{owner}{dot}{name}{f'={text}' if text else ''}" for name in close)
        return f"unknown config key {key}: did you mean {likely}?"
    return f"unknown config key {key}: must be one of {', '.join(f'{owner}{dot}{name}' for name in allowed)}"


def translated(name: str, text: str, task: str) -> str:
    """Returns what to type here for an option of other training programs; empty if it is not known.

    Args:
        name: name of the option, with underscores.
        text: its value; empty if it has none.
        task: task of the config.
    """
    if name in _SIZES:
        if task == "detection":
            return f"detector.size={text or 'SIDE'}"
        return f"data.input_size={input_size(text)}"
    here = _ELSEWHERE.get(name, "")
    return here.format(text or "VALUE")


def input_size(text: str) -> str:
    """Returns the value of data.input_size, 3 channels, that a size such as "64" or "64,96" stands for."""
    numbers = [number for part in text.strip("()[]").split(",") if (number := part.strip())]
    if not all(number.isdigit() for number in numbers) or len(numbers) not in (1, 2):
        return "3,HEIGHT,WIDTH"
    return ",".join(["3", numbers[0], numbers[-1]])


def check_is_dict(key: str, text: str) -> None:
    """Checks that the text for a key that holds a dict may be one.

    Raises:
        ValueError: it is a single value; the message has the key in the dict that it may be meant for.
    """
    if key in _FIRST and text.strip() != "None" and not text.lstrip().startswith(("{", "[", "(")):
        raise ValueError(f"{key} holds several keys, got {text!r}: did you mean {key}.{_FIRST[key]}={text}?")


def _typed(value: Any) -> str:
    text = str(value)
    if isinstance(value, dict) or len(text) > 40:
        return ""
    return text if isinstance(value, str) else text.replace(" ", "").strip("()[]")
