"""Data sets of small images for tests: the class is the color."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from mmengine import Config
from PIL import Image

COLOURS = {"blue": (30, 60, 220), "green": (40, 200, 60), "red": (220, 50, 40)}


def picture(colour: str, seed: int = 0, size: tuple[int, int] = (20, 16)) -> Image.Image:
    noise = np.random.default_rng(seed).normal(0, 20, (*size, 3))
    return Image.fromarray(np.clip(noise + COLOURS[colour], 0, 255).astype(np.uint8))


def encoded(image: Image.Image, form: str = "png") -> bytes:
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


def write_folders(root: Path, train: int = 8, val: int = 4, names: tuple[str, str] = ("train", "val")) -> Path:
    for split, count in zip(names, (train, val), strict=True):
        for number, colour in enumerate(COLOURS):
            (root / split / colour).mkdir(parents=True)
            for index in range(count):
                picture(colour, 100 * number + index).save(root / split / colour / f"{index}.png")
    return root


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_shards(root: Path, split: str = "train", shards: int = 4, per_shard: int = 6) -> list[Path]:
    colours, paths = list(COLOURS), []
    for shard in range(shards):
        files = {}
        for index in range(per_shard):
            number = shard * per_shard + index
            files[f"{number:04}.png"] = encoded(picture(colours[number % 3], number))
            files[f"{number:04}.cls"] = str(number % 3).encode()
        paths.append(write_tar(root / split / f"{shard:06}.tar", files))
    return paths


def tiny_config(data: dict, **changes: object) -> Config:
    prepare = {"input_size": (3, 32, 32), "crop_pct": 1.0}
    keys = {
        "model": {"name": "test_resnet"},
        "data": {**prepare, **data},
        "epochs": 2,
        "batch_size": 6,
        "optimizer": {"opt": "adamw", "lr": 2e-3},
        "log_interval": 1,
    }
    return Config({**keys, **changes})
