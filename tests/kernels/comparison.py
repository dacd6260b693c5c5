"""Runs operators and compares one execution with another, for every operator.

Shape legend: B batch, H W map, h heads, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Run:
    """Results of an operator: its output and the gradient of every input, by name."""

    tensors: dict[str, Tensor]


def upstream(out: Tensor) -> Tensor:
    """Returns the same random gradient for every dtype and execution."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(out.shape, generator=generator).to(out.dtype)


def random_maps(
    size: tuple[int, int, int], heads: int, widths: tuple[int, ...], layout: str, dtype: torch.dtype
) -> list[Tensor]:
    """Returns maps (B, H, W, h, width), `contiguous`, `strided`, or `packed`; packed maps have the first width."""
    if layout == "packed":
        # (B, H, W, 3, h, D): the output of a linear layer, read in place
        return list(torch.randn(*size, len(widths), heads, widths[0]).to(dtype).unbind(3))
    if layout == "strided":
        # heads first, and every second channel: no axis has the stride of a contiguous tensor
        return [
            torch.randn(size[0], heads, *size[1:], 2 * width).to(dtype).permute(0, 2, 3, 1, 4)[..., ::2]
            for width in widths
        ]
    return [torch.randn(*size, heads, width).to(dtype) for width in widths]


def run_function(
    function: Callable[..., Tensor], inputs: dict[str, Tensor], arguments: dict[str, Any], dtype: torch.dtype | None
) -> Run:
    """Runs an operator forward and backward, on copies of its inputs if a dtype is given."""
    copies = inputs
    if dtype is not None:
        copies = {name: x.detach().to(dtype).requires_grad_() for name, x in inputs.items()}
    out = function(**copies, **arguments)
    grads = torch.autograd.grad(out, list(copies.values()), upstream(out))
    return Run({"output": out.detach()} | {f"gradient of {name}": x for name, x in zip(copies, grads, strict=True)})


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fills fresh memory with NaN, so that a read before a write is visible in the result."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = fill


def assert_as_exact_as(
    ours: Run, plain: Run, truth: Run, dtype: torch.dtype, more: Sequence[tuple[Run, Run]] = ()
) -> None:
    """Asserts error(ours) <= 2 * error(plain torch in the same dtype) + eps, both measured against float64.

    eps is four roundings of the largest entry: the gradient of a softmax is a difference and sums hundreds of terms, so
    that plain torch is sometimes exact by chance. `more` holds plain torch and float64 for other draws of the same
    shapes, which makes this less likely: the error of plain torch is then the largest one, in roundings.
    """
    worst: dict[str, float] = {}
    for draw in ((plain, truth), *more):
        for name, (_, error) in roundings(draw[0], *draw, dtype).items():
            worst[name] = max(worst.get(name, 0.0), error)
    for name, true in truth.tensors.items():
        assert ours.tensors[name].dtype == plain.tensors[name].dtype == dtype, name
        assert ours.tensors[name].shape == true.shape, name
        size = _size(name, truth)
        allowed = (2 * worst.get(name, 0.0) + 4) * torch.finfo(dtype).eps * size
        _assert_below(name, _error(ours.tensors[name], true), allowed, ours.tensors[name], true)


def assert_draws(
    run: Callable[..., Run], draws: Sequence[dict[str, Tensor]], dtype: torch.dtype, one_key: bool = False
) -> None:
    """Compares the Triton execution of the first draw with plain torch on all draws, which costs little in comparison.

    `run` takes inputs, backend and dtype; `one_key` states that each query attends to a single key.
    """
    (plain, truth), *more = ((run(draw, "reference"), run(draw, "reference", torch.float64)) for draw in draws)
    ours = run(draws[0], "triton")
    if one_key:
        _assert_vanishing(ours, truth, draws[0], dtype)
    else:
        assert_as_exact_as(ours, plain, truth, dtype, more)


def _assert_vanishing(ours: Run, truth: Run, inputs: dict[str, Tensor], dtype: torch.dtype) -> None:
    """Checks an attention with one key per query.

    The gradient of a score is then the difference of two equal products, which kernels round differently.
    """
    out = truth.tensors["output"]
    assert_close("output", ours.tensors["output"], out, 0)
    products = (upstream(out).double() * inputs["v"].double()).abs().sum(-1)
    rounding = 4 * torch.finfo(dtype).eps * products.max().item() if out.numel() else 0.0
    sizes = {"q": inputs["k"].abs().amax(), "k": inputs["q"].abs().amax(), "bias": out[..., 0].numel()}
    for name in sizes.keys() & inputs.keys():
        true = truth.tensors[f"gradient of {name}"]
        assert_close(name, ours.tensors[f"gradient of {name}"], true, rounding * float(sizes[name]))


def roundings(ours: Run, plain: Run, truth: Run, dtype: torch.dtype) -> dict[str, tuple[float, float]]:
    """Returns errors of ours and of plain torch, in roundings of the largest entry, by tensor."""
    found = {}
    for name, true in truth.tensors.items():
        assert ours.tensors[name].shape == true.shape, name
        size = _size(name, truth)
        if size > 0:
            unit = torch.finfo(dtype).eps * size
            found[name] = tuple(_error(x.tensors[name], true).max().item() / unit for x in (ours, plain))
    return found


def _size(name: str, truth: Run) -> float:
    """Returns the largest entry of a tensor, or of all gradients of tables: these sum the same products."""
    alike = [name]
    if name.startswith("gradient of rel_"):
        alike = [other for other in truth.tensors if other.startswith("gradient of rel_")]
    finite = [truth.tensors[other][truth.tensors[other].isfinite()] for other in alike]
    return max((x.abs().max().item() for x in finite if x.numel()), default=0.0)


def assert_close(name: str, ours: Tensor, true: Tensor, allowed: float) -> None:
    """Asserts that the largest difference is below a bound; a failure names the worst index."""
    assert ours.shape == true.shape, name
    _assert_below(name, _error(ours, true), allowed, ours, true)


def _error(ours: Tensor, true: Tensor) -> Tensor:
    """Returns differences in float64; infinite where one is NaN or infinite and the other is not."""
    ours, true = ours.detach().double(), true.detach().double()
    same = (ours == true) | (ours.isnan() & true.isnan())
    return (ours - true).abs().nan_to_num(torch.inf).masked_fill(same, 0)


def _assert_below(name: str, error: Tensor, allowed: float, ours: Tensor, true: Tensor) -> None:
    if error.numel() == 0 or error.max() <= allowed:
        return
    worst = tuple(int(i) for i in torch.unravel_index(error.argmax(), error.shape))
    raise AssertionError(
        f"{name}: worst at {worst} of {tuple(error.shape)}: got {ours[worst].item()}, want {true[worst].item()}, "
        f"difference {error.max().item():.3g}, allowed {allowed:.3g}; {int((error > allowed).sum())} entries differ"
    )
