"""Compares the outputs of a file with those of the model, on several sizes, batches and kinds of image."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnzoo_command.steps import step

from .graphs import ExportError
from .sessions import open_session, run
from .tasks import Task

# A graph is traced with two images: batches of one and three show whether the batch size was fixed by the trace.
BATCHES = (1, 3)

# number of rounding-sized perturbations that show whether the model's own choices depend on rounding
DRAWS = 8

Answer = Callable[[Tensor], dict[str, Tensor]]


def check(
    content: bytes,
    task: Task,
    cases: Sequence[Tensor],
    tolerance: float,
    prepare: Callable[[Tensor], Tensor] = lambda images: images,
) -> float:
    """Runs a file in ONNX Runtime and compares it with the model.

    Args:
        content: bytes of the file.
        task: task with the network that was exported.
        cases: batches of images (B, C, H, W).
        tolerance: largest difference allowed, as the task measures it.
        prepare: preprocessing inside the file, applied to the images before they are given to the task's network.

    Returns:
        The largest difference.

    Raises:
        ExportError: the file cannot be run, or its outputs are wrong.
    """
    step("opening the file in ONNX Runtime")
    return compare(functools.partial(run, open_session(content)), task, cases, tolerance, prepare)


def compare(
    answer: Answer,
    task: Task,
    cases: Sequence[Tensor],
    tolerance: float,
    prepare: Callable[[Tensor], Tensor] = lambda images: images,
) -> float:
    """Compares the outputs of a file with the model, as `check` does.

    Args:
        answer: maps images to the outputs of the file, by name.
        task: task with the network that was exported.
        cases: batches of images (B, C, H, W).
        tolerance: largest difference allowed, as the task measures it.
        prepare: as in `check`.

    Returns:
        The largest difference.

    Raises:
        ExportError: the outputs are wrong, or all images are inconclusive.
    """
    step(f"comparing the file with the model on {len(cases)} batches")
    worst, told = 0.0, False
    for images in cases:
        prepared = prepare(images)
        difference = task.difference(answer(images), task.expected(prepared))
        if not difference <= tolerance:
            if _is_undecided(task, prepared, tolerance):
                continue
            raise ExportError(
                f"the file is wrong and was not kept: its outputs differ from eager by {difference:.1e} of the largest "
                f"value on images of {'x'.join(map(str, images.shape))}, but at most {tolerance:.0e} is allowed"
            )
        worst, told = max(worst, difference), True
    if cases and not told:
        raise ExportError(
            "the file was not kept: on all images of the check, rounding decides what the model chooses, so that the "
            "file cannot be verified"
        )
    return worst


def _is_undecided(task: Task, images: Tensor, tolerance: float) -> bool:
    """Whether rounding can change the outputs of a network that selects heads or regions by rank.

    Two scores may be so close that eager itself makes the other choice when it is computed in another order.
    """
    if not any(getattr(module, "chooses_by_rank", False) for module in task.network.modules()):
        return False
    expected, generator = task.expected(images), torch.Generator().manual_seed(0)
    step = images.abs().max() * torch.finfo(torch.float32).eps
    return any(
        not task.difference(task.expected(images + step * changes), expected) <= tolerance
        for changes in torch.randn(DRAWS, *images.shape, generator=generator)
    )


def cases_of(task: Task, dynamic: Sequence[str]) -> list[Tensor]:
    """The images that a file is checked on: noise and synthetic images, in several batches and sizes where dynamic."""
    batches = BATCHES if "batch" in dynamic else (2,)
    cases = []
    for height, width in sizes_of(task, dynamic):
        for batch in batches:
            size = (batch, task.input_size[0], height, width)
            cases += [task.to_range(noise(size)), task.to_range(picture_like(size))]
    return cases


def sizes_of(task: Task, dynamic: Sequence[str]) -> list[tuple[int, int]]:
    """Up to three sizes that the model takes, where a side is dynamic: its own, a non-square one, and a larger one.

    Sides are odd if the model takes odd sizes, else multiples of 32, the stride of most models, or of 64.
    """
    _, height, width = task.input_size
    sizes = [(height, width)]
    for rows, columns in _other_sizes(height, width):
        size = rows if "height" in dynamic else height, columns if "width" in dynamic else width
        if size not in sizes and takes(task, size):
            sizes.append(size)
        if len(sizes) == 3:
            break
    return sizes


def _other_sizes(height: int, width: int) -> Iterator[tuple[int, int]]:
    # odd sizes first: models that need multiples of their stride reject them
    for unit in (1, 32, 64):
        rows, columns = (max(unit, side * 5 // 7 // unit * unit) for side in (height, width))
        yield rows, -(-width * 6 // 5 // unit) * unit
        yield -(-height * 4 // 3 // unit) * unit, columns


def nearest_size(task: Task, size: tuple[int, int]) -> tuple[int, int] | None:
    """The closest height and width, among the multiples that models usually need, that the model takes."""
    # common strides, and the regions of routed attention at the coarsest stage
    near = {
        tuple(max(unit, side // unit * unit + step * unit) for side, step in zip(size, steps, strict=True))
        for unit in (8, 14, 16, 32, 64, 7 * 32)
        for steps in itertools.product((0, 1), repeat=2)
    }
    ordered = sorted(near, key=lambda other: (sum(abs(a - b) for a, b in zip(size, other, strict=True)), other))
    return next(((rows, columns) for rows, columns in ordered if takes(task, (rows, columns))), None)


def takes(task: Task, size: tuple[int, int]) -> bool:
    """Whether the model takes images of a height and width."""
    try:
        task.expected(task.to_range(noise((1, task.input_size[0], *size))))
    except ValueError:
        return False
    return True


def noise(size: tuple[int, int, int, int]) -> Tensor:
    """Normal noise (B, C, H, W), always the same."""
    return torch.randn(size, generator=torch.Generator().manual_seed(sum(size)))


def picture_like(size: tuple[int, int, int, int]) -> Tensor:
    """Synthetic images (B, C, H, W) of flat areas, edges and fine texture, in the preprocessed range, about -2 .. 2."""
    batch, channels, height, width = size
    generator = torch.Generator().manual_seed(sum(size))
    total = torch.zeros(size)
    for cells in (2, 5, 12, 40):
        grid = torch.randn(batch, channels, cells, cells, generator=generator)
        # flat areas with edges between them, and smooth gradients
        mode = "nearest" if cells == 5 else "bilinear"
        total += F.interpolate(grid, (height, width), mode=mode) / cells**0.5
    return total.clamp_(-2, 2)


def without_zeros(network: nn.Module) -> nn.Module | None:
    """A copy with noise in the tensors that are zero or close to zero; None if there are none.

    A layer that is initialized to zero (LayerScale, the last normalization of a branch, a bias table) hides its branch
    from the check, so that a wrong file would pass. With this copy such errors are found.
    """
    filled = copy.deepcopy(network)
    generator, found = torch.Generator().manual_seed(0), False
    for tensor in filled.state_dict().values():
        if tensor.is_floating_point() and tensor.numel() and tensor.abs().max() < 1e-3:
            tensor.copy_(torch.randn(tensor.shape, generator=generator).mul_(0.1))
            found = True
    return filled if found else None
