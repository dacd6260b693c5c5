"""`batch_size="auto"`: the largest batch that the memory of a GPU has room for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from ..data import Draw, Samples
from ..tasks import function_of
from .optimization import create_optimization
from .processes import Processes
from .recipe import Recipe
from .setup import Setup

AUTO = "auto"

# of the memory that is free before the training; the rest is for validation and fragmentation
_SHARE = 0.85


def largest_batch_size(recipe: Recipe, processes: Processes) -> int:
    """Returns the number of images per optimizer step that fits, a power of two for each process and accumulated part.

    Training steps are tried on a copy of the model, which is thrown away.

    Args:
        recipe: the recipe with any batch size.
        processes: the processes of the training; each tries its own GPU, and the smallest result counts.

    Raises:
        ValueError: the device is no CUDA or ROCm device, the data cannot be read by index, or no image fits.
    """
    device = processes.device
    if device.type != "cuda":
        raise ValueError(
            f'batch_size="auto" measures the memory of a CUDA or ROCm device, and the device is {device}: set a '
            "number, such as batch_size=32"
        )
    task: Setup = function_of(recipe.task, "train")(recipe, processes)
    images = task.train_set
    if not isinstance(images, Samples):
        raise ValueError('batch_size="auto" needs images that are read by index, not shards: set a number')
    learner = task.learner.to(device).train()
    # one process, because the others may try another size
    alone = Processes(0, 1, device)
    optimization = create_optimization(dataclasses.replace(recipe, accumulate=1), task.network, alone)
    limit = _SHARE * torch.cuda.mem_get_info(device)[0]

    def fits(size: int) -> bool:
        torch.cuda.reset_peak_memory_stats(device)
        try:
            batch = images.collate([images[Draw(index % len(images), recipe.seed)] for index in range(size)])
            batch = {key: value for key, value in batch.items() if key not in ("name", "unreadable")}
            # the first step also creates the state of the optimizer
            for _ in range(2):
                learner.train_step(dict(batch), optim_wrapper=optimization)
        except torch.cuda.OutOfMemoryError:
            return False
        finally:
            torch.cuda.empty_cache()
        return torch.cuda.max_memory_reserved(device) <= limit

    shares = processes.count * recipe.accumulate
    found = largest(fits, len(images) // shares)
    smallest = min(processes.gather(found))
    if not smallest:
        raise ValueError(
            "not even one image per step fits into the memory of the GPU: use a smaller model or image size"
        )
    return smallest * shares


def largest(fits: Callable[[int], bool], most: int) -> int:
    """Returns the largest power of two up to `most` that fits, found by doubling; 0 if 1 does not fit."""
    size = 0
    while max(1, 2 * size) <= most and fits(max(1, 2 * size)):
        size = max(1, 2 * size)
    return size
