"""Launches of kernels: the table of a device, the precision of float32 products, and tuning on request."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from comparison import assert_close

triton = pytest.importorskip("triton")

from attnzoo.kernels import neighborhood_attention, triton_launch  # noqa: E402
from attnzoo.kernels.intervals.geometry import AxisGeometry  # noqa: E402
from attnzoo.kernels.intervals.triton_configurations import Budget, configuration  # noqa: E402
from attnzoo.kernels.precision import precision_of  # noqa: E402
from attnzoo.kernels.triton_tables import FOLDER, read_table  # noqa: E402


class NoDevice:
    """A driver that runs timed functions in the interpreter and reports each as faster than the one before."""

    def __init__(self) -> None:
        self.timed = 0

    def get_benchmarker(self) -> Callable[..., list[float]]:
        def time(function: Callable[[], object], quantiles: object = None) -> list[float]:
            function()
            self.timed += 1
            return [1 / self.timed] * 3

        return time


@pytest.mark.usefixtures("quick_interpreter")
def test_tuning_times_the_alternatives_once(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = NoDevice()
    monkeypatch.setattr(triton_launch, "is_tuning", lambda: True)
    monkeypatch.setattr(triton_launch, "_tuners", {})
    # older versions store it in a plain attribute
    name = "_active" if hasattr(triton.runtime.driver, "_active") else "active"
    monkeypatch.setattr(triton.runtime.driver, name, driver)
    q = torch.randn(1, 6, 7, 1, 8)
    true = neighborhood_attention(q, q, q, 3, backend="reference")
    assert_close("output", neighborhood_attention(q, q, q, 3, backend="triton"), true, 1e-6)
    first = driver.timed
    assert first > 1
    assert_close("output", neighborhood_attention(q, q, q, 3, backend="triton"), true, 1e-6)
    assert driver.timed == first
    # another dtype is tuned separately
    neighborhood_attention(*(q.half() for _ in range(3)), 3, backend="triton")
    assert driver.timed > first


def test_tuning_is_opted_into(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_launch, "is_interpreted", lambda: False)
    monkeypatch.delenv("ATTNZOO_AUTOTUNE", raising=False)
    assert not triton_launch.is_tuning()
    monkeypatch.setenv("ATTNZOO_AUTOTUNE", "1")
    assert triton_launch.is_tuning()


@pytest.mark.parametrize(
    ("capability", "architecture"),
    [((7, 5), "sm80"), ((8, 0), "sm80"), ((8, 9), "sm80"), ((9, 0), "sm90"), ((10, 0), "sm100"), ((12, 0), "sm80")],
    ids=str,
)
def test_table_of_a_device(capability: tuple[int, int], architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert triton_launch.architecture_of(torch.device("cuda")) == architecture


def test_table_of_an_amd_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert triton_launch.architecture_of(torch.device("cuda")) == "gfx942"


@pytest.fixture
def untouched_precision() -> Iterator[None]:
    """Restores torch's setting for products of float32 matrices."""
    matmul = torch.backends.cuda.matmul
    before = getattr(matmul, "fp32_precision", None)
    yield
    torch.set_float32_matmul_precision("highest")
    if before is not None:
        matmul.fp32_precision = before


@pytest.mark.usefixtures("untouched_precision")
@pytest.mark.parametrize(("word", "precision"), [("highest", "ieee"), ("high", "tf32"), ("medium", "tf32")])
def test_float32_is_multiplied_as_torch_is_told(word: str, precision: str) -> None:
    assert precision_of(torch.float32) == "ieee"
    torch.set_float32_matmul_precision(word)
    assert precision_of(torch.float32) == precision
    assert precision_of(torch.bfloat16) == "ieee"


@pytest.mark.usefixtures("untouched_precision")
@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="this torch has one switch only")
def test_the_last_of_two_switches_decides() -> None:
    torch.set_float32_matmul_precision("high")
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    assert precision_of(torch.float32) == "ieee"
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    assert precision_of(torch.float32) == "tf32"
    torch.set_float32_matmul_precision("highest")
    assert precision_of(torch.float32) == "ieee"


def test_all_that_a_constant_contains_is_a_constant() -> None:
    axes = triton_launch.constant((AxisGeometry(7), AxisGeometry(3, stride=2)))
    assert all(isinstance(axis, triton.language.constexpr) for axis in axes)
    first, second = (axis.value for axis in axes)
    assert isinstance(second, AxisGeometry)
    assert all(isinstance(x, triton.language.constexpr) for x in (*first, *second))
    assert (first.kernel.value, second.stride.value) == (7, 2)
    assert triton_launch.constant(32) == 32


TABLES = sorted(path.stem for path in FOLDER.glob("*.json"))


def shape_of(entries: object) -> object:
    """Returns the keys of a table and the lengths of its entries."""
    if isinstance(entries, dict):
        return {key: shape_of(value) for key, value in entries.items()}
    return [len(entry) for entry in entries]


@pytest.mark.parametrize("name", [name for name in TABLES if name != "windows"])
def test_every_architecture_has_every_entry(name: str) -> None:
    entries = read_table(name)["entries"]
    assert set(entries) == set(triton_launch.ARCHITECTURES)
    shapes = [shape_of(entries[architecture]) for architecture in triton_launch.ARCHITECTURES]
    assert all(shape == shapes[0] for shape in shapes)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_says_what_its_numbers_are_and_who_compiled_them(name: str) -> None:
    table = read_table(name)
    assert len(table["about"]) > 40
    assert table["triton"]


@pytest.mark.parametrize("kernel", [1, 2, 3, 7, 13, 40])
@pytest.mark.parametrize("longest", [(1, 1), (1, 30), (5, 5), (7, 7), (56, 3), (200, 300)], ids=str)
@pytest.mark.parametrize("least_pairs", [(1, 1), (1, 16), (16, 16)], ids=str)
def test_rectangles_keep_to_the_budget(kernel: int, longest: tuple[int, int], least_pairs: tuple[int, int]) -> None:
    rules = AxisGeometry(min(kernel, longest[0])), AxisGeometry(min(kernel, longest[1]))
    for tile, chunk in ((16, 16), (32, 32), (64, 16), (64, 128)):
        constants = configuration(rules, longest, Budget(tile, chunk, 4, 2), least_pairs).constants
        rows, columns, chunk_rows, chunk_columns = constants.values()
        assert 16 <= rows * columns <= tile
        assert 16 <= chunk_rows * chunk_columns <= chunk
        assert rows * chunk_rows >= least_pairs[0]
        assert columns * chunk_columns >= least_pairs[1]
