"""ONNX form of a selective scan of dynamic length: a loop of the runtime over the steps, the operator Scan.

Shape legend: B batch, L steps, h heads, E channels of a head, N numbers of the state of a channel.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript import opset18 as op

from .dynamic_axis import Value, counted, ints, joined


def selective_scan(u: Value, delta: Value, A: Value, B: Value, C: Value, D: Value, routes: Value) -> Value:
    """`attnzoo.kernels.selective_scan`: u (B, L, h or 1, E), .., routes (h, L) or None -> (B, L, h, E)."""
    shapes = [x.shape[-2] if len(x.shape) == 4 else x.shape[0] for x in (u, delta, A, B, C)]
    heads = next((count for count in [*shapes, routes.shape[0] if routes is not None else 1] if count != 1), 1)
    x = u if routes is None else _by_step(u, routes)
    per_step = (
        op.Unsqueeze(op.Mul(delta, x), ints(3)),
        op.Unsqueeze(delta, ints(3)),
        op.Unsqueeze(B, ints(4)),
        op.Unsqueeze(C, ints(3)),
    )
    # (h, E, N) -> (h, N, E)
    parameters = op.Transpose(A, perm=[0, 2, 1])
    shape = joined(op.Shape(u, start=0, end=1), heads, A.shape[2], u.shape[3])
    start = op.Expand(op.CastLike(op.Constant(value_float=0.0), u), shape)
    axes = [1] * len(per_step)
    last = op.Scan(
        start,
        parameters,
        *per_step,
        body=_step(u.dtype),
        num_scan_inputs=len(axes),
        scan_input_axes=axes,
        scan_output_axes=[1],
    )
    # the exporter takes an operator with any number of outputs for one with a single output
    loop = last.producer()
    loop.resize_outputs(3)
    y = loop.outputs[2]
    y.dtype = u.dtype
    # (B, L, h, 1, E) -> (B, L, h, E)
    y = op.Squeeze(y, ints(3))
    if D is not None:
        y = op.Add(y, op.Mul(D, x))
    return y if routes is None else _by_token(y, routes, u.shape[3])


def _step(dtype: Any) -> ir.Graph:
    """The body of the loop: state (B, h, N, E), A and what belongs to a step -> state, A and output (B, h, 1, E)."""
    names = "state", "A", "given", "delta", "B", "C"
    inputs = [ir.Value(name=name, type=ir.TensorType(dtype)) for name in names]
    state, A, given, delta, B, C = inputs
    nodes = []

    def compute(operator: str, *operands: ir.Value) -> ir.Value:
        nodes.append(ir.node(operator, operands))
        return nodes[-1].outputs[0]

    decay = compute("Exp", compute("Mul", delta, A))
    after = compute("Add", compute("Mul", decay, state), compute("Mul", given, B))
    outputs = after, compute("Identity", A), compute("MatMul", C, after)
    return ir.Graph(inputs, outputs, nodes=nodes, opset_imports={"": 18}, name="step")


def _by_step(u: Value, routes: Value) -> Value:
    """Takes the token of every step: (B, L, h or 1, E) -> (B, L, h, E)."""
    return op.Gather(op.Reshape(u, ints(0, -1, u.shape[3])), _entries(routes, u.shape[2]), axis=1)


def _by_token(y: Value, routes: Value, width: int) -> Value:
    """Puts the result of every step in the place of its token: (B, L, h, E) -> (B, L, h, E)."""
    _, order = op.TopK(routes, op.Shape(routes, start=1, end=2), axis=1, largest=0)
    return op.Gather(op.Reshape(y, ints(0, -1, width)), _entries(order, routes.shape[0]), axis=1)


def _entries(routes: Value, heads: int) -> Value:
    """The places of tokens in a list of all heads of all tokens: (h, L) -> (L, h)."""
    tokens = op.Transpose(routes, perm=[1, 0])
    return tokens if heads == 1 else op.Add(op.Mul(tokens, ints(heads)), counted(ints(heads)))
