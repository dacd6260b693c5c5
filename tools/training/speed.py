"""Images per second and memory of a training."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch


class Speed:
    """Measures the steps of an epoch, without its validation.

    Args:
        device: device of the training.
        clock: seconds.
    """

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.monotonic) -> None:
        self.device, self._clock = device, clock
        self.start()

    def start(self) -> None:
        """Begins to measure."""
        self._begin, self._seconds, self._images = self._clock(), 0.0, 0

    def add(self, images: int) -> None:
        """Counts the images of a batch that is done, over all processes."""
        self._seconds, self._images = self._clock() - self._begin, self._images + images

    @property
    def images_per_second(self) -> float:
        """Images per second since the start, with the time for reading them."""
        return self._images / self._seconds if self._seconds else 0.0

    @property
    def memory(self) -> int | None:
        """Bytes of memory: the peak of torch's allocator on a GPU, of the process on a CPU; None if it is not known."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if self.device.type == "mps":
            return torch.mps.driver_allocated_memory()
        return _peak_of_process()

    def __str__(self) -> str:
        # a run that was interrupted after the last batch of an epoch goes on with its validation
        speed = f"{self.images_per_second:.4g} images/s" if self._images else ""
        memory = "" if self.memory is None else f"{self.memory / 1e9:.2f} GB"
        return "  ".join(filter(None, [speed, memory]))


def _peak_of_process() -> int | None:
    try:
        import resource
    # not on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # in bytes on macOS, elsewhere in units of 1024 bytes
    return peak if sys.platform == "darwin" else 1024 * peak
