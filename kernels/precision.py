"""The precision of scores and of products of matrices."""

from __future__ import annotations

import torch


def dtype_of_scores(dtype: torch.dtype) -> torch.dtype:
    """Returns the dtype in which a backward pass recomputes the scores of inputs of `dtype`.

    The largest float16 number is 65504. Scores may be larger, and `scaled_dot_product_attention`, which computes the
    forward pass, does not round them to float16 either.
    """
    return torch.float32 if dtype == torch.float16 else dtype


def precision_of(dtype: torch.dtype) -> str:
    """Returns the precision of matrix products: IEEE, unless torch's own setting allows TF32 for float32."""
    if dtype != torch.float32:
        return "ieee"
    # newer versions of torch refuse to answer the older question once this has been set
    setting = getattr(torch.backends.cuda.matmul, "fp32_precision", None)
    if setting is None:
        return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    return "tf32" if setting == "tf32" else "ieee"
