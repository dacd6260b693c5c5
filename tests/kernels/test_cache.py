"""The cache of plans, indices and biases: its bound in bytes, its size on large maps, and threads."""

from __future__ import annotations

import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

import pytest
import torch
from operator_examples import EXAMPLES, Example
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from attnzoo.blocks.cache import Cache
from attnzoo.kernels import cache, neighborhood_attention, neighborhood_bias, window_attention
from attnzoo.kernels.neighborhood import plan, windows

MIB = 2**20


@pytest.fixture(autouse=True)
def _empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_entries", type(cache._entries)())


def bytes_of(number: int, counter: list[int] | None = None) -> Callable[[int], Tensor]:
    @cache.cached
    def value(key: int) -> Tensor:
        if counter is not None:
            counter.append(key)
        return torch.zeros(number, dtype=torch.uint8)

    return value


def test_the_least_recently_used_values_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, "1")
    computed: list[int] = []
    value = bytes_of(MIB // 4, computed)
    for key in (0, 1, 2, 3, 0, 4, 0, 1):
        value(key)
        assert cache.total() <= MIB
    assert computed == [0, 1, 2, 3, 4, 1]


def test_modules_may_end_while_a_value_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, "1")
    for key in range(8):
        bytes_of(MIB // 8)(key)
    others = iter([*cache._entries][2:5])
    last_use = cache._last_use

    def with_an_end(key: object) -> int:
        cache.remove(next(others, None))
        return last_use(key)

    monkeypatch.setattr(cache, "_last_use", with_an_end)
    bytes_of(MIB // 8)(8)
    assert 0 < cache.total() <= MIB


def test_large_values_are_not_kept_and_drop_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, "1")
    bytes_of(1000)(0)
    bytes_of(MIB // 2 + 1)(0)
    assert cache.total() == 1000


@pytest.mark.parametrize("given", ["many", "-1", "nan"])
def test_an_invalid_limit_is_named(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, given)
    with pytest.raises(ValueError, match=f"ATTNZOO_CACHE_MIB must be a number of MiB, 0 or more, got '{given}'"):
        bytes_of(1)(0)


def test_shared_memory_counts_once() -> None:
    x = torch.zeros(100)
    assert cache.size_of((x, [x[:10], x.view(10, 10)], 3, None)) == 400


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_nothing_depends_on_what_is_kept(example: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = example.inputs(torch.float32)
    kept = [example(inputs, "eager") for _ in range(2)][1]
    monkeypatch.setenv(cache.VARIABLE, "0")
    cache._entries.clear()
    assert torch.equal(example(inputs, "eager"), kept)
    assert cache.total() == 0


def test_plans_of_many_sizes_stay_below_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, "2")
    for length in range(40, 52):
        axis = length, 7, 1, 1, False
        plan.best_plan(axis, axis, 1000, "cpu")
        assert cache.total() <= 2 * MIB


@pytest.mark.parametrize("dilation", [1, 3])
def test_the_plan_of_a_large_map_holds_some_columns_only(dilation: int) -> None:
    sizes = []
    for width in (252, 1008):
        rows, columns = ((length, 7, dilation, 1, False) for length in (42, width))
        made = plan.best_plan(rows, columns, 20_000, "cpu")
        assert len({id(chunk.query_tokens) for chunk in made.chunks}) < len(made.chunks) / 2
        sizes.append(cache.size_of(made))
    assert sizes[1] <= 1.1 * sizes[0]


def test_the_indices_of_a_large_map_hold_some_rows_only() -> None:
    sizes = []
    for height in (200, 400):
        made = windows.windows((height, 7, 1, 1, False), (40, 7, 1, 1, False), "cpu")
        # a row has its class
        sizes.append(cache.size_of(made) - 8 * height)
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("size", [(9, 30), (30, 9)])
def test_a_table_on_a_map_with_classes_of_rows(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "LARGE", 0)
    table = torch.randn(2, 5, 7, requires_grad=True)
    on_map = neighborhood_bias(table, size)
    rows, columns = (
        torch.tensor([[key - place + kernel - 1 for key in axis.neighbors(place)] for place in range(axis.length)])
        for axis, kernel in ((plan.Axis(size[0], 3), 3), (plan.Axis(size[1], 4), 4))
    )
    true = table[:, rows[:, None, :, None], columns[None, :, None]].flatten(3).permute(1, 2, 0, 3)
    assert torch.equal(on_map, true)
    gradient = torch.randn(on_map.shape)
    ours, theirs = (torch.autograd.grad(x, table, gradient)[0] for x in (on_map, true))
    torch.testing.assert_close(ours, theirs)


def test_threads_get_the_values_of_their_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, "0.01")

    @cache.cached
    def value(key: int) -> Tensor:
        return torch.full((100,), key)

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(value, [i % 50 for i in range(2000)]))
    assert all(x[0] == i % 50 for i, x in enumerate(found))
    assert cache.total() <= 0.01 * MIB


def test_the_value_of_a_module_goes_with_it() -> None:
    module, kept = nn.Linear(3, 3).eval(), Cache()
    with torch.no_grad():
        kept.get(module, None, lambda: torch.zeros(1000))
    assert cache.total() > 4000
    del kept
    gc.collect()
    assert cache.total() == 0


def test_values_without_tensors_can_have_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, "1")
    for key in range(5):
        cache.write(key, "a plan of launches", MIB // 4)
    assert cache.read(0) is None
    assert cache.total() == MIB
    monkeypatch.setenv(cache.VARIABLE, "0")
    cache.write("another", "a plan of launches", 1)
    assert cache.read("another") is None


def test_kept_plans_are_fake_in_a_fake_mode() -> None:
    x = torch.randn(1, 9, 9, 1, 4)
    for attend in (partial(neighborhood_attention, kernel_size=3), partial(window_attention, window_size=4, shift=1)):
        true = attend(x, x, x)
        for modes in (FakeTensorMode(),), (FakeTensorMode(), FlopCounterMode(display=False)):
            with ExitStack() as stack:
                for mode in modes:
                    stack.enter_context(mode)
                fake = torch.empty(x.shape, requires_grad=True)
                attend(fake, fake, fake).sum().backward()
                assert fake.grad is not None
                assert fake.grad.shape == x.shape
        assert torch.equal(attend(x, x, x), true)
