"""The dtype in which eager executions compute scores."""

from __future__ import annotations

import torch


def dtype_of_scores(dtype: torch.dtype) -> torch.dtype:
    """Returns the dtype in which a backward pass recomputes the scores of inputs of `dtype`.

    The largest float16 number is 65504. Scores may be larger, and `scaled_dot_product_attention`, which computes the
    forward pass, does not round them to float16 either.
    """
    return torch.float32 if dtype == torch.float16 else dtype
