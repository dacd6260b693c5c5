"""mmengine's Runner without its default logging, loading and checkpoints."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmengine import Config
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from .loop import TrainLoop
from .optimization import Optimization
from .processes import Processes
from .recipe import Recipe

# mmengine's default hooks that are replaced by the training loop, its schedule, `Checkpoints` and `Curves`
_LEFT_OUT = ("runtime_info", "timer", "sampler_seed", "logger", "param_scheduler", "checkpoint")


class TrainingRunner(Runner):
    """Trains a model on one or more processes.

    Args:
        learner: the model with its loss.
        network: the part of the learner that is stored.
        loader: training data.
        optimization: optimizer wrapper of the network's parameters.
        recipe: the recipe.
        processes: the processes of the training.
        hooks: hooks of the training.
        make_loop: creates the loop of a runner.
        logs: a directory in which mmengine makes one for its logs, which stays empty.
    """

    def __init__(
        self,
        learner: BaseModel,
        network: nn.Module,
        loader: DataLoader[Any],
        optimization: Optimization,
        recipe: Recipe,
        processes: Processes,
        hooks: Sequence[Hook],
        make_loop: Callable[[TrainingRunner], TrainLoop],
        logs: Path,
    ) -> None:
        self.network, self.recipe, self.processes, self._make_loop = network, recipe, processes, make_loop
        super().__init__(
            model=learner,
            work_dir=str(logs),
            visualizer={"type": "Visualizer", "vis_backends": []},
            train_dataloader=loader,
            train_cfg={"by_epoch": True, "max_epochs": recipe.epochs},
            optim_wrapper=optimization,
            default_hooks=dict.fromkeys(_LEFT_OUT),
            custom_hooks=list(hooks),
            randomness={"seed": recipe.seed, "diff_rank_seed": True},
            # mmengine keeps loggers and message hubs by this name until the process ends: runs must not share them
            experiment_name=uuid.uuid4().hex,
            cfg=Config({"recipe": recipe.to_json()}),
        )

    def build_train_loop(self, loop: Any) -> TrainLoop:
        """Creates the loop of `attnzoo.tools.training.loop`."""
        return self._make_loop(self)

    def wrap_model(self, model_wrapper_cfg: Any, model: nn.Module) -> nn.Module:
        """Moves the model to the device; with several processes, wrap it for distributed data parallel."""
        model = model.to(self.processes.device)
        # a sharded model has no copies to synchronize
        if self.processes.count == 1 or self.recipe.parallel == "fsdp":
            return model
        is_cuda = self.processes.device.type == "cuda"
        return MMDistributedDataParallel(model, device_ids=[self.processes.device.index] if is_cuda else None)

    def build_logger(self, log_level: int | str = "INFO", log_file: str | None = None, **kwargs: Any) -> MMLogger:
        """Builds mmengine's logger, with only warnings, on the console."""
        logger: MMLogger = MMLogger.get_instance(self._experiment_name, log_level="WARNING")
        return logger

    def dump_config(self) -> None:
        """Does nothing: the recipe is stored in the checkpoint."""

    def _init_model_weights(self) -> None:
        """Does nothing: timm has initialized or loaded the model, and the wrapper synchronizes the copies."""

    def _log_env(self, env_cfg: dict[str, Any]) -> None:
        """Does nothing: the summary says the device."""
