"""How executions become operators of torch: those of Triton for compiler, autograd and opcheck; others for exporters.

Defining it needs no Triton: what runs it imports the kernels when it runs for the first time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

# on the CPU kernels run in Triton's interpreter
DEVICES = ("cpu", "cuda")


def define(name: str, schema: str, run: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """Defines the operator `attnzoo::NAME`.

    Args:
        name: of the operator.
        schema: its arguments and results, `(Tensor q, ..) -> Tensor`.
        run: computes the results.
        fake: makes empty results of the same shapes and dtypes.

    Returns:
        The operator, to call.
    """
    torch.library.define(f"attnzoo::{name}", schema)
    torch.library.impl(f"attnzoo::{name}", DEVICES)(run)
    torch.library.register_fake(f"attnzoo::{name}")(fake)
    return getattr(torch.ops.attnzoo, name).default


def define_dynamic(name: str, schema: str, run: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """Defines the operator `attnzoo::dynamic_NAME`, which an exporter takes as it is where a size is left free.

    Args:
        name, schema, run, fake: as in `define`; it runs on every device.

    Returns:
        The operator, to call.
    """
    library = f"attnzoo::dynamic_{name}"
    torch.library.define(library, schema)
    torch.library.impl(library, "CompositeExplicitAutograd")(run)
    torch.library.register_fake(library)(fake)
    return getattr(torch.ops.attnzoo, f"dynamic_{name}").default


def differentiate(name: str, backward: Callable[..., Any], save: Callable[..., None]) -> None:
    """Gives an operator its derivative: `save(ctx, inputs, output)` keeps what `backward(ctx, *gradients)` needs."""
    torch.library.register_autograd(f"attnzoo::{name}", backward, setup_context=save)


def refuse_to_differentiate(name: str, operator: str) -> None:
    """Lets the operator `attnzoo::NAME`, a derivative of the public `operator`, raise when it is differentiated."""

    def refuse(ctx: Any, *gradients: Any) -> None:
        raise NotImplementedError(
            f"the Triton kernels of {operator} have no second derivative: use backend='eager' where one is needed"
        )

    torch.library.register_autograd(f"attnzoo::{name}", refuse)
