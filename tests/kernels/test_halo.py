"""Eager execution of halo attention, compared with the reference in float64: values and every gradient."""

from __future__ import annotations

import random

import pytest
import torch
from comparison import assert_as_exact_as, assert_close
from halo_cases import CASES, Case, both, random_case, run

from attnzoo.kernels import halo_attention
from attnzoo.kernels.halo import eager

cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def check(case: Case, dtype: torch.dtype) -> None:
    inputs, *others = (case.inputs(dtype) for _ in range(4))
    plain, truth = run(case, inputs, "reference"), run(case, inputs, "reference", torch.float64)
    more = [(run(case, draw, "reference"), run(case, draw, "reference", torch.float64)) for draw in others]
    assert_as_exact_as(run(case, inputs, "eager"), plain, truth, dtype, more)


@cases
def test_eager_is_as_exact_as_plain_torch(case: Case) -> None:
    check(case, torch.float32)


@pytest.mark.parametrize("scores", [1, 4096, 10**9], ids=["small", "middle", "whole"])
@cases
def test_chunks_make_no_difference(case: Case, scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager, "CHUNK_SCORES", scores)
    inputs = case.inputs(torch.float64)
    found, true = (run(case, inputs, backend) for backend in ("eager", "reference"))
    for name, tensor in true.tensors.items():
        assert_close(name, found.tensors[name], tensor, 1e-11)


@pytest.mark.parametrize("seed", range(15))
def test_random_shapes(seed: int) -> None:
    torch.manual_seed(seed)
    check(random_case(seed, 14), torch.float32)


@pytest.mark.parametrize("case", [case for case in CASES if case.batch], ids=lambda case: case.name)
def test_reference_follows_the_paper(case: Case) -> None:
    """Computes halo attention query by query and key by key; keys outside of the map are zero."""
    inputs = case.inputs(torch.float64)
    out = halo_attention(**inputs, **case.arguments, backend="reference")
    blocks, halos, strides = both(case.block), both(case.halo), both(case.stride)
    scale = case.width**-0.5 if case.scale is None else case.scale
    generator = random.Random(case.name)
    for _ in range(3):
        image, *place = (generator.randrange(length) for length in out.shape[:3])
        head = generator.randrange(case.heads)
        q = inputs["q"][image, place[0], place[1], head]
        per_block = [block // stride for block, stride in zip(blocks, strides, strict=True)]
        first = [
            p // count * block - halo for p, count, block, halo in zip(place, per_block, blocks, halos, strict=True)
        ]
        windows = [block + 2 * halo for block, halo in zip(blocks, halos, strict=True)]
        scores, values = [], []
        for j, i in ((j, i) for j in range(windows[0]) for i in range(windows[1])):
            row, column = first[0] + j, first[1] + i
            inside = 0 <= row < case.size[0] and 0 <= column < case.size[1]
            key = inputs["k"][image, row, column, head] if inside else torch.zeros_like(q)
            values.append(inputs["v"][image, row, column, head] if inside else out.new_zeros(case.value_width))
            score = q @ key * scale
            if "rel_rows" in inputs:
                score = score + q @ inputs["rel_rows"][windows[0] - 1 + j - place[0] % per_block[0]]
            if "rel_columns" in inputs:
                score = score + q @ inputs["rel_columns"][windows[1] - 1 + i - place[1] % per_block[1]]
            scores.append(score)
        want = torch.stack(scores).softmax(0) @ torch.stack(values)
        assert_close(f"output at {image, *place}", out[image, place[0], place[1], head], want, 1e-13)
