"""ONNX translations of torch operators that take fewer passes over memory than the exporter's own.

LayerNormalization and Gelu are single nodes already. All operators used here exist in opset 18 and later.

Shape legend: .. batch axes, L queries, S keys, D E width of keys and values, N rows of a matrix, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """ONNX translations by operator, for `custom_translation_table` of `torch.onnx.export`."""
    return {
        torch.ops.aten.scaled_dot_product_attention.default: attention,
        torch.ops.aten.linear.default: linear,
        torch.ops.aten.linalg_vector_norm.default: vector_norm,
    }


def attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """softmax(q k^T * scale + mask) v: (.., L, D), (.., S, D), (.., S, E) -> (.., L, E).

    The exporter scales both queries and keys, and transposes the keys as a three-dimensional tensor. Each takes a pass
    over the keys. In this form ONNX Runtime can fuse both into the product.
    """
    from onnxscript import opset18 as op
    from onnxscript.function_libs.torch_lib.ops import nn as exporter
    from onnxscript.ir import DataType

    is_added = attn_mask is None or attn_mask.dtype != DataType.BOOL
    if not is_added or is_causal or enable_gqa or dropout_p or not isinstance(query.shape[-1], int):
        return exporter.aten_scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa
        )
    factor = op.CastLike(op.Constant(value_float=query.shape[-1] ** -0.5 if scale is None else float(scale)), query)
    axes = list(range(len(key.shape)))
    scores = op.MatMul(op.Mul(query, factor), op.Transpose(key, perm=[*axes[:-2], axes[-1], axes[-2]]))
    if attn_mask is not None:
        scores = op.Add(scores, attn_mask)
    return op.MatMul(op.Softmax(scores, axis=-1), value)


def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """x W^T + b: (.., C) with (out, C) and (out,) -> (.., out).

    The exporter writes a product and a sum, which takes a second pass over the result; Gemm does both, for matrices.
    """
    from onnxscript import opset18 as op
    from onnxscript.function_libs.torch_lib.ops import nn as exporter

    *rows, _ = x.shape
    if bias is None or not rows or len(rows) == 1 or len(weight.shape) != 2:
        return exporter.aten_linear(x, weight, bias)
    out, channels = weight.shape
    # (.., C) -> (N, C) -> (N, out)
    result = op.Gemm(op.Reshape(x, op.Constant(value_ints=[-1, channels])), weight, bias, transB=1)
    dynamic = [not isinstance(length, int) for length in rows]
    if sum(dynamic) <= 1:
        shape = op.Constant(
            value_ints=[-1 if is_dynamic else length for is_dynamic, length in zip(dynamic, rows, strict=True)] + [out]
        )
    else:
        shape = op.Concat(op.Shape(x, end=-1), op.Constant(value_ints=[out]), axis=0)
    # (N, out) -> (.., out)
    return op.Reshape(result, shape)


def vector_norm(x: Any, ord: float = 2.0, dim: Any = None, keepdim: bool = False, dtype: int = -1) -> Any:
    """The L2 norm along some axes: the square root of a sum of squares.

    The exporter writes ReduceL2, of which ONNX Runtime's symbolic shape inference does not know the axes.
    """
    from onnxscript import opset18 as op
    from onnxscript.function_libs.torch_lib.ops import linalg as exporter

    if ord != 2 or not dim or dtype not in (-1, None):
        return exporter.aten_linalg_vector_norm(x, ord, dim, keepdim, -1 if dtype is None else dtype)
    squares = op.Pow(x, op.CastLike(op.Constant(value_float=2.0), x))
    return op.Sqrt(op.ReduceSum(squares, op.Constant(value_ints=list(dim)), keepdims=int(keepdim)))


def tidy(model: Any) -> None:
    """Folds constants of a graph (`onnx_ir.Model`) in place, and removes duplicated and unused parts."""
    from onnx_ir.passes import common
    from onnxscript import optimizer

    common.InlinePass()(model)
    optimizer.fold_constants(model)
    for step in (
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),
        common.RemoveUnusedOpsetsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    ):
        step(model)
