"""Where the scalars of a training go beside its work directory: mmengine's backends for TensorBoard, W&B and MLflow."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine import Config
from mmengine.visualization import Visualizer

from .keys import TRACKERS
from .recipe import Recipe

# the horizontal axis in W&B
_STEP = "train/step"


class Tracker:
    """Records the scalars of a run with the backends of its recipe; without any it does nothing.

    Args:
        recipe: the recipe.
        work_dir: directory of the run.

    Raises:
        ValueError: the package of the tracker is not installed.
    """

    def __init__(self, recipe: Recipe, work_dir: Path) -> None:
        backends = tracking_backends(recipe, work_dir)
        # not that of mmengine's runner, which sends the code of the current folder to W&B
        self.visualizer = Visualizer(vis_backends=backends, save_dir=str(work_dir)) if backends else None
        self._is_on_wandb = recipe.tracker.get("name") == "wandb"
        if self.visualizer is not None and recipe.tracker.get("name") == "mlflow":
            config = Config({**dataclasses.asdict(recipe), "work_dir": str(work_dir)})
            self.visualizer.get_backend(TRACKERS["mlflow"]).add_config(config)

    def add(self, scalars: Mapping[str, float], step: int) -> None:
        """Records scalars by name after a number of optimizer steps."""
        if self.visualizer is not None:
            # W&B counts calls, so the step is a metric there; the other backends do not take one of this name
            steps = {_STEP: step} if self._is_on_wandb else {}
            self.visualizer.add_scalars({**scalars, **steps}, step=step)

    def close(self) -> None:
        """Ends the record."""
        if self.visualizer is not None:
            self.visualizer.close()


def tracking_backends(recipe: Recipe, work_dir: Path) -> list[dict[str, Any]]:
    """Returns the configs of mmengine's backends for the keys `tensorboard` and `tracker` of a recipe.

    Raises:
        ValueError: the package of the tracker is not installed.
    """
    backends: list[dict[str, Any]] = []
    if recipe.tensorboard:
        backends.append({"type": "TensorboardVisBackend", "save_dir": str(work_dir / "tensorboard")})
    if recipe.tracker:
        options = dict(recipe.tracker)
        name = options.pop("name")
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"tracker.name={name} needs the package {name}: pip install {name}")
        defaults = _DEFAULTS[name](recipe, work_dir)
        if name == "wandb":
            options["init_kwargs"] = {**defaults["init_kwargs"], **options.get("init_kwargs", {})}
        backends.append({"type": TRACKERS[name], "save_dir": str(work_dir / name), **defaults, **options})
    return backends


def _of_wandb(recipe: Recipe, work_dir: Path) -> dict[str, Any]:
    work_dir.joinpath("wandb").mkdir(exist_ok=True)
    about = {"project": "attnzoo", "name": work_dir.name, "config": dataclasses.asdict(recipe)}
    return {"init_kwargs": about, "define_metric_cfg": [{"name": "*", "step_metric": _STEP}]}


def _of_mlflow(recipe: Recipe, work_dir: Path) -> dict[str, Any]:
    return {"exp_name": "attnzoo", "run_name": work_dir.name}


_DEFAULTS = {"wandb": _of_wandb, "mlflow": _of_mlflow}
