"""attnzoo.natten: the calls that programs make, in each release's way, compared with the reference in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import attnzoo
from attnzoo.kernels import neighborhood_attention, neighborhood_av, neighborhood_qk
from attnzoo.natten.release import contents

natten = attnzoo.natten
EXACT = 1e-12


def maps(axes: int, count: int, heads_first: bool = True, width: int = 4) -> list[Tensor]:
    """Random (B, heads, .., width), or (B, .., heads, width)."""
    size = (17,) if axes == 1 else (9, 11)
    shape = (2, 3, *size, width) if heads_first else (2, *size, 3, width)
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(count)]


def table(axes: int, kernel: int) -> Tensor:
    return torch.randn(3, *[2 * kernel - 1] * axes, dtype=torch.float64, requires_grad=True)


def reference(q: Tensor, k: Tensor, v: Tensor, kernel: int, **more: Any) -> Tensor:
    """Attention of heads-first tensors, with scaled queries."""
    last = (x.movedim(1, -2) for x in (q, k, v))
    return neighborhood_attention(*last, kernel, scale=1.0, backend="reference", **more).movedim(-2, 1)


def check(ours: Tensor, want: Tensor, inputs: list[Tensor]) -> None:
    """Compares values and all gradients."""
    torch.testing.assert_close(ours, want, rtol=0, atol=EXACT)
    upstream = torch.randn_like(want)
    gradients = (torch.autograd.grad(out, inputs, upstream, retain_graph=True) for out in (ours, want))
    for mine, right in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, right, rtol=0, atol=EXACT * 10)


def functions(version: str) -> dict[str, Any]:
    return contents(version)["natten.functional"]


# the halves, as programs call them

HALVES: dict[str, tuple[str, int, Callable[..., Tensor]]] = {}


def program(version: str, axes: int) -> Callable[..., Any]:
    """Registers weights and sums as a program computes them."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        HALVES[f"{function.__name__}-{axes}d"] = version, axes, function
        return function

    return register


@program("0.17.5", 2)
def transformers_dinat(f, q, k, v, rpb, kernel, dilation):
    weights = torch.softmax(f["natten2dqkrpb"](q, k, rpb, kernel, dilation), dim=-1)
    return f["natten2dav"](weights, v, kernel, dilation)


@program("0.15.1", 1)
def all_in_one(f, q, k, v, rpb, kernel, dilation):
    return f["natten1dav"](f["natten1dqkrpb"](q, k, rpb, kernel, dilation).softmax(-1), v, kernel, dilation)


@program("0.15.1", 2)
def all_in_one_keywords(f, q, k, v, rpb, kernel, dilation):
    window = {"kernel_size": kernel, "dilation": dilation}
    weights = f["natten2dqkrpb"](query=q, key=k, rpb=rpb, **window).softmax(-1)
    return f["natten2dav"](attn=weights, value=v, **window)


@program("0.14.6", 2)
def stylenat(f, q, k, v, rpb, kernel, dilation):
    # every head has its own window
    heads = []
    for i in range(3):
        one = (x[:, i : i + 1] for x in (q, k))
        weights = f["NATTEN2DQKRPBFunction"].apply(*one, rpb[i : i + 1], kernel, dilation).softmax(-1)
        heads.append(f["NATTEN2DAVFunction"].apply(weights, v[:, i : i + 1], kernel, dilation))
    return torch.cat(heads, 1)


@program("0.14.4", 2)
def first_nat(f, q, k, v, rpb, kernel, dilation):
    return f["natten2dav"](f["natten2dqkrpb"](q, k, rpb, dilation).softmax(-1), v, dilation)


@program("0.14.4", 1)
def first_nat_sequences(f, q, k, v, rpb, kernel, dilation):
    return f["natten1dav"](f["natten1dqkrpb"](q, k, rpb, dilation).softmax(-1), v, dilation)


@program("0.14.5", 2)
def between(f, q, k, v, rpb, kernel, dilation):
    return f["natten2dav"](f["natten2dqkrpb"](q, k, rpb, kernel, dilation).softmax(-1), v, dilation)


@program("0.15.0", 2)
def with_bias(f, q, k, v, rpb, kernel, dilation):
    return f["na2d_av"](f["na2d_qk_with_bias"](q, k, rpb, kernel, dilation).softmax(-1), v, kernel, dilation)


@program("0.17.5", 1)
def copied_layer(f, q, k, v, rpb, kernel, dilation):
    window = {"kernel_size": (kernel,), "dilation": (dilation,), "is_causal": (False,)}
    return f["na1d_av"](f["na1d_qk"](q, k, **window, rpb=rpb).softmax(-1), v, **window)


@program("0.17.5", 2)
def copied_layer_lists(f, q, k, v, rpb, kernel, dilation):
    window = {"kernel_size": [kernel, kernel], "dilation": [dilation, dilation], "is_causal": None}
    return f["na2d_av"](f["na2d_qk"](q, k, **window, rpb=rpb).softmax(-1), v, **window)


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("name", HALVES)
def test_halves_of_programs(name: str, dilation: int) -> None:
    version, axes, call = HALVES[name]
    q, k, v = maps(axes, 3)
    rpb = table(axes, 3)
    ours = call(functions(version), q, k, v, rpb, 3, dilation)
    check(ours, reference(q, k, v, 3, dilation=dilation, bias=rpb), [q, k, v, rpb])


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("version", ["0.14.6", "0.15.1", "0.17.5"])
def test_halves_without_biases(version: str, axes: int) -> None:
    """HDiT as it was first published."""
    f, (q, k, v) = functions(version), maps(axes, 3)
    weights = f[f"natten{axes}dqk"](q, k, 5, 1).softmax(-1)
    check(f[f"natten{axes}dav"](weights, v, 5, 1), reference(q, k, v, 5), [q, k, v])
    if "na2d_qk" in f:
        again = f[f"na{axes}d_qk"](q, k, 5, 1).softmax(-1)
        torch.testing.assert_close(f[f"na{axes}d_av"](again, v, 5, 1), reference(q, k, v, 5), rtol=0, atol=EXACT)


@pytest.mark.parametrize("axes", [1, 2])
def test_hdit(axes: int) -> None:
    """HDiT asks which operators there are, and passes a scale of 1."""
    f = functions("0.17.5")
    assert natten.has_fused_na()
    q, k, v = maps(axes, 3, heads_first=False)
    ours = f[f"na{axes}d"](q, k, v, 3, scale=1.0)
    last = (x.movedim(-2, 1) for x in (q, k, v))
    check(ours, reference(*last, 3).movedim(1, -2), [q, k, v])


@pytest.mark.parametrize("axes", [1, 2])
def test_fused_arguments(axes: int) -> None:
    q, k, v = maps(axes, 3, heads_first=False)
    rpb, name = table(axes, 4), f"na{axes}d"
    want = neighborhood_attention(q, k, v, 4, dilation=2, bias=rpb, backend="reference")
    check(functions("0.17.5")[name](q, k, v, 4, 2, False, rpb), want, [q, k, v, rpb])
    causal = neighborhood_attention(q, k, v, 4, is_causal=True, stride=2, backend="reference")
    check(getattr(natten, name)(q, k, v, 4, is_causal=True, stride=2, xformers_kwargs={}), causal, [q, k, v])


@pytest.mark.parametrize("axes", [1, 2])
def test_the_fifth_argument_is_dilation_before_0_20_and_stride_after(axes: int) -> None:
    q, k, v = maps(axes, 3, heads_first=False)
    old, new = (functions(version)[f"na{axes}d"](q, k, v, 4, 2) for version in ("0.17.0", "0.20.1"))
    torch.testing.assert_close(old, neighborhood_attention(q, k, v, 4, dilation=2), rtol=0, atol=EXACT)
    torch.testing.assert_close(new, neighborhood_attention(q, k, v, 4, stride=2), rtol=0, atol=EXACT)


@pytest.mark.parametrize("axes", [1, 2])
def test_causal_halves_with_a_stride(axes: int) -> None:
    q, k, v = maps(axes, 3)
    window = {"kernel_size": 3, "dilation": 2, "is_causal": True, "stride": 2}
    weights = getattr(natten, f"na{axes}d_qk")(q, k, **window).softmax(-1)
    want = reference(q, k, v, 3, dilation=2, is_causal=True, stride=2)
    torch.testing.assert_close(getattr(natten, f"na{axes}d_av")(weights, v, **window), want, rtol=0, atol=EXACT)


def attended_with(q, k, v, more_keys, more_values, kernel):
    """Attention of heads-first maps in one softmax with additional tokens, from the reference's halves."""
    last = [x.movedim(1, -2) for x in (q, k, v)]
    scores = neighborhood_qk(*last[:2], kernel, scale=1.0, backend="reference").movedim(-2, 1)
    both = torch.cat([scores, torch.einsum("bh...d,bhnd->bh...n", q, more_keys)], -1).softmax(-1)
    near, far = both.split([scores.shape[-1], more_keys.shape[2]], -1)
    sums = neighborhood_av(near.movedim(1, -2), last[2], kernel, backend="reference").movedim(-2, 1)
    return sums + torch.einsum("bh...n,bhnd->bh...d", far, more_values)


@pytest.mark.parametrize("axes", [1, 2])
def test_additional_tokens(axes: int) -> None:
    """Cross attention in the same softmax, as in diffusion models with text."""
    q, k, v = maps(axes, 3)
    tokens = [torch.randn(2, 3, 6, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    want, inputs = attended_with(q, k, v, *tokens, 3), [q, k, v, *tokens]
    weights = getattr(natten, f"natten{axes}dqk")(q, k, 3, 1, additional_keys=tokens[0]).softmax(-1)
    check(getattr(natten, f"natten{axes}dav")(weights, v, 3, 1, additional_values=tokens[1]), want, inputs)
    fused = [x.movedim(1, -2) for x in (q, k, v)]
    more = dict(zip(("additional_keys", "additional_values"), (x.transpose(1, 2) for x in tokens), strict=True))
    for version in ("0.17.5", "0.20.1"):
        out = functions(version)[f"na{axes}d"](*fused, 3, scale=1.0, **more)
        check(out.movedim(-2, 1), want, inputs)


# NATTEN 0.20


@pytest.mark.parametrize("axes", [1, 2])
def test_merged_attentions_are_the_attention_to_all_keys(axes: int) -> None:
    f, (q, k, v) = functions("0.21.0"), maps(axes, 3, heads_first=False)
    tokens = [torch.randn(2, 6, 3, 4, dtype=torch.float64) for _ in range(2)]
    near = f["neighborhood_attention_generic"](q, k, v, 3, return_lse=True, backend="cutlass-fna", torch_compile=True)
    flat = q.flatten(1, -3)
    far = f["attention"](flat, *tokens, return_lse=True)
    far = far[0].view_as(near[0]), far[1].view_as(near[1])
    merged, lse = f["merge_attentions"]([near[0], far[0]], [near[1], far[1]])
    both = {"additional_keys": tokens[0], "additional_values": tokens[1]}
    want = f[f"na{axes}d"](q, k, v, 3, **both, return_lse=True)
    # logarithms are float32
    torch.testing.assert_close(merged, want[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(lse, want[1], rtol=0, atol=1e-6)


def test_plain_causal_attention() -> None:
    q, k, v = maps(1, 3, heads_first=False)
    out, lse = functions("0.21.5")["attention"](q, k, v, is_causal=True, scale=0.3, return_lse=True)
    scores = torch.einsum("bihd,bjhd->bhij", q, k) * 0.3
    scores = scores.masked_fill(torch.ones(17, 17, dtype=torch.bool).triu(1), -torch.inf)
    torch.testing.assert_close(out, torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v), rtol=0, atol=EXACT)
    torch.testing.assert_close(lse.double(), scores.logsumexp(-1).transpose(1, 2), rtol=0, atol=1e-5)


# dtypes and compilers


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes(dtype: torch.dtype) -> None:
    q, k, v = (x.detach().to(dtype) for x in maps(2, 3))
    rpb = table(2, 3).detach()
    weights = natten.natten2dqkrpb(q, k, rpb.to(dtype), 3, 1).softmax(-1)
    out = natten.natten2dav(weights, v, 3, 1)
    assert weights.dtype == out.dtype == dtype
    want = reference(*(x.double() for x in (q, k, v)), 3, bias=rpb)
    torch.testing.assert_close(out.double(), want, rtol=0, atol=32 * torch.finfo(dtype).eps)


def unfused(q: Tensor, k: Tensor, v: Tensor, rpb: Tensor) -> Tensor:
    return natten.natten2dav(natten.natten2dqkrpb(q, k, rpb, 3, 2).softmax(-1), v, 3, 2)


@pytest.mark.full
def test_compiled_in_one_graph() -> None:
    torch._dynamo.reset()
    inputs = [*maps(2, 3), table(2, 3)]
    compiled = torch.compile(unfused, fullgraph=True, backend="aot_eager")
    check(compiled(*inputs), unfused(*inputs), inputs)
