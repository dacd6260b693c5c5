"""`python -m benchmarks kernels --device cuda`, run on a CPU with a meter that only counts calls."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from attnzoo.tools.timing import Budget, HostMeter
from benchmarks import cuda, kernels, operators, picture
from benchmarks.correctness import Truth, check_peer
from benchmarks.kernels import Settings
from benchmarks.operators import Operator, Peer, Work
from benchmarks.roofline import CARDS, Roof, measured, name_of

CPU = torch.device("cpu")
ROOF = Roof(1e12, {"bfloat16": 1e14, "float16": 1e14, "float32": 1e13}, "made up")
TESTED = {operator.name: operator for operator in operators.operators()}


class CountingMeter:
    """Calls once, and reports made-up times and memory."""

    method = "counted"

    def __init__(self) -> None:
        self.calls = 0

    def milliseconds(self, call):
        call()
        self.calls += 1
        return [2.0, 1.0, 3.0]

    def peak_bytes(self, call):
        call()
        return 1 << 20


def small(name: str, **changes) -> Operator:
    """An operator with one small stage, and its CPU peers in place of its CUDA peers."""
    operator = TESTED[name]
    smallest = min(operator.cuda_shapes, key=lambda shape: shape.entries)
    shape = replace(smallest, heads=2, batch=3, width=8)
    return replace(
        operator, **{"cuda_shapes": [shape], "cuda_peers": lambda shape, _: operator.cpu_peers(shape, True), **changes}
    )


def rows_of(operator: Operator) -> list[cuda.Row]:
    return cuda.rows([operator], 1 << 40)[0]


def run(monkeypatch, tmp_path: Path, tested: list[Operator], **settings) -> tuple[list[str], list[str], dict]:
    monkeypatch.setattr(kernels, "operators", lambda: tested)
    said: list[str] = []
    settings = Settings(tmp_path, say=said.append, **settings)
    wrong = kernels.measure_device(settings, CPU, CountingMeter(), 1 << 40, ROOF)
    files = list(tmp_path.glob("*.json"))
    return wrong, said, json.loads(files[0].read_text()) if files else {}


@pytest.mark.full
@pytest.mark.parametrize("name", TESTED)
def test_an_operator_is_measured_drawn_and_written(name: str, monkeypatch, tmp_path: Path) -> None:
    wrong, said, results = run(monkeypatch, tmp_path, [small(name)], quick=True)
    assert wrong == []
    assert {"date", "torch", "triton", "timm", "method", "notes", "roof", "left_out", "not_measured"} <= set(results)
    assert [row["dtype"] for row in results["rows"]] == ["bfloat16", "float16", "float32"]
    for row in results["rows"]:
        assert row["ours"].startswith("eager")
        ours = row["results"]["ours"]
        assert ours["forward"] == {
            "median": 2.0, "p10": 1.2, "p90": 2.8,
            "over_floor": float(f"{2 / row['floor_milliseconds']['forward']:.3g}"),
        }  # fmt: skip
        assert ours["training_peak_bytes"] == 1 << 20
    assert (tmp_path / f"{next(tmp_path.glob('*.json')).stem}.png").exists()
    assert any("x floor" in line for line in said)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", TESTED)
def test_every_peer_computes_the_operator(name: str, monkeypatch) -> None:
    # compiling takes too long here, and the backward pass of compiled peers needs a GPU
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    stages = [x for x in TESTED[name].cuda_shapes if x.image == 224 and x.batch == 1 and x.size[0] <= 28]
    for shape in (replace(x, heads=2, batch=2, width=8) for x in stages):
        inputs = shape.inputs(torch.float32, CPU)
        truth = Truth(shape, inputs)
        for peer_name, peer in TESTED[name].cuda_peers(shape, CPU).items():
            is_training = not peer_name.startswith("compiled")
            given = inputs if is_training else [x.detach() for x in inputs]
            assert check_peer(truth, peer, given, is_training)[1] is None, (shape.name, peer_name)


def test_without_matplotlib_the_numbers_are_kept(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "benchmarks.picture")
    _, said, results = run(monkeypatch, tmp_path, [small("neighborhood")], quick=True)
    assert results["rows"]
    assert said[-1] == 'no figure, it needs matplotlib: pip install "attnzoo[train]"'


def test_important_rows_come_first_and_operators_alternate() -> None:
    listed, _ = cuda.rows(list(TESTED.values()), 1 << 60)
    ranks = [row.rank for row in listed]
    assert ranks == sorted(ranks)
    first = [row for row in listed if row.rank == 0]
    assert {(row.shape.image, row.dtype) for row in first} == {(224, torch.bfloat16), (256, torch.bfloat16)}
    assert {row.shape.batch for row in first} == {32, 128}
    assert {row.operator.name for row in listed[: len(TESTED)]} == set(TESTED)
    assert len(listed) == sum(3 * len(operator.cuda_shapes) for operator in TESTED.values())
    assert len({row.name for row in listed}) == len(listed)


def test_rows_that_memory_does_not_hold_are_named() -> None:
    held, left_out = cuda.rows(list(TESTED.values()), 100 << 30)
    assert all(row.held_bytes <= 100 << 30 for row in held)
    assert left_out
    assert all("B128" in name and "1024px" in name for name in left_out if name.endswith("bfloat16"))


def test_a_wrong_row_is_said_and_not_timed(monkeypatch, tmp_path: Path) -> None:
    operator = small("neighborhood")
    shape_type = type(operator.cuda_shapes[0])

    class Wrong(shape_type):
        def call(self, backend):
            right = super().call(backend)
            return right if backend == "reference" else lambda *inputs: right(*inputs) * 1.1

    wrong_shape = Wrong(**vars(operator.cuda_shapes[0]))
    wrong, said, results = run(monkeypatch, tmp_path, [replace(operator, cuda_shapes=[wrong_shape])], quick=True)
    assert len(wrong) == len(results["wrong"]) == 3
    for row in results["rows"]:
        assert "output differs" in row["wrong"]
        assert "ours" not in row["results"]
        assert "median" in row["results"]["gather"]["forward"]
    assert any("WRONG, not timed" in line for line in said)


def test_a_peer_that_fails_is_recorded() -> None:
    def fails():
        raise torch.OutOfMemoryError("Tried to allocate 1 TiB.\nThe rest of the message")

    peers = {"large": Peer(fails), "other": Peer(lambda: lambda q, k, v, bias: q + k + v + bias.sum())}
    (row, *_) = rows_of(small("neighborhood", cuda_peers=lambda *_: peers))
    found = cuda.measure(row, CPU, CountingMeter(), ROOF, Budget(60))["results"]
    assert found["large"] == {"error": "OutOfMemoryError: Tried to allocate 1 TiB."}
    assert found["other"]["error"].startswith("wrong result: output differs")
    assert "forward" in found["ours"]


def test_a_row_that_does_not_fit_is_not_called_wrong(monkeypatch) -> None:
    def fails(*given):
        raise torch.OutOfMemoryError("Tried to allocate 1 TiB.")

    monkeypatch.setattr(cuda, "Truth", fails)
    (row, *_) = rows_of(small("neighborhood"))
    found = cuda.measure(row, CPU, CountingMeter(), ROOF, Budget(60))
    assert (found["wrong"], found["results"]) == (None, {})
    assert "  not timed: OutOfMemoryError: Tried to allocate 1 TiB." in cuda.lines(found)


def test_a_spent_budget_names_what_was_not_measured(monkeypatch, tmp_path: Path) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr(kernels, "Budget", lambda seconds: Budget(seconds, lambda: next(clock)))
    monkeypatch.setattr(kernels.correctness, "sweep", lambda *_: (0, []))
    operator = small("neighborhood")
    operator = replace(operator, cuda_shapes=[replace(operator.cuda_shapes[0], batch=batch) for batch in (3, 2, 1)])
    _, said, results = run(monkeypatch, tmp_path, [operator], seconds=8)
    assert 0 < len(results["rows"]) < 9
    assert len(results["rows"]) + len(results["not_measured"]) == 9
    assert any("not measured" in line for line in said)
    assert all(f"  {name}" in said for name in results["not_measured"])


def test_a_budget_spent_before_the_first_row_leaves_a_file_that_says_so(monkeypatch, tmp_path: Path) -> None:
    _, _, results = run(monkeypatch, tmp_path, [small("neighborhood")], seconds=0)
    assert (results["rows"], len(results["not_measured"])) == ([], 3)


def test_a_spent_row_skips_its_peers_but_not_ours() -> None:
    (row, *_) = rows_of(small("neighborhood"))
    found = cuda.measure(row, CPU, CountingMeter(), ROOF, Budget(0))["results"]
    assert "forward" in found.pop("ours")
    assert found
    assert all("skipped" in entry for entry in found.values())


def test_peers_that_compile_have_a_share_of_the_time(monkeypatch) -> None:
    monkeypatch.setattr(cuda, "COMPILED_SHARE", 0.1)
    operator = small("neighborhood")
    plain = operator.cpu_peers(operator.cuda_shapes[0], True)["gather"]
    operator = replace(operator, cuda_peers=lambda *_: {"compiled gather": plain})
    seconds = iter(range(0, 10**6, 10))
    budget = Budget(1000, lambda: next(seconds))
    listed = [row for row in rows_of(operator) if row.dtype == torch.bfloat16] * 100
    found = list(cuda.measure_all(listed, CPU, CountingMeter(), ROOF, budget))
    compiled = ["compiled gather" in row["results"] for row in found]
    assert compiled[0]
    assert not compiled[-1]
    assert compiled == sorted(compiled, reverse=True)


def test_the_floor_is_the_larger_of_bytes_and_products() -> None:
    assert ROOF.milliseconds(Work(10**9, 0), torch.bfloat16) == pytest.approx(2.0)
    assert ROOF.milliseconds(Work(0, 10**12), torch.bfloat16) == pytest.approx(20.0)
    assert ROOF.milliseconds(Work(10**9, 10**12), torch.float32) == pytest.approx(200.0)


def test_work_of_a_published_stage() -> None:
    # 56x56, 2 heads of 32 channels, batch 128, bfloat16: q, k, v and the output are 205 MB
    shape = next(x for x in TESTED["neighborhood"].cuda_shapes if x.name == "56x56 h2 B128")
    work = shape.work(is_backward=False)
    assert work.entries * 2 == pytest.approx(205e6, rel=0.01)
    assert 2 * work.multiply_adds == pytest.approx(5e9, rel=0.01)


def test_a_roof_is_measured() -> None:
    roof = measured(CPU, [torch.float32], HostMeter(0), copied=1 << 16, side=16)
    assert roof.bytes_per_second > 0
    assert set(roof.flops) == {"float32"}


def test_every_card_knows_every_dtype_and_its_source() -> None:
    for card, roof in CARDS.values():
        assert set(roof.flops) == {name_of(dtype) for dtype in cuda.DTYPES}, card
        assert roof.source


def test_the_picture_shows_the_first_stage_in_its_plain_form() -> None:
    forms = [(4, ""), (2, ""), (2, "dilation 8"), (2, "")]
    rows = [{"shape": {"heads": heads}, "detail": detail} for heads, detail in forms]
    assert picture.first_stage(rows) == [rows[1], rows[3]]


@pytest.mark.skipif(torch.cuda.is_available(), reason="runs without a GPU only")
def test_a_device_is_measured_with_its_own_meter_and_memory(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=1 << 37))
    monkeypatch.setattr(kernels, "measure_device", lambda *given: given)
    _, device, meter, memory = kernels.on_cuda(Settings(tmp_path))
    assert (device.type, memory, meter.device) == ("cuda", 1 << 37, device)
    assert "CUDA events" in meter.method


def test_lines_of_the_picture_run_over_size() -> None:
    rows = [
        {
            "queries": queries,
            "floor_milliseconds": {"forward": 0.1},
            "results": {"ours": {"forward": {"median": time}}, "flex": {"error": "no"}},
        }
        for queries, time in ((20, 3.0), (10, 1.0), (20, 5.0))
    ]
    assert picture.series(rows, "forward") == {"floor": [(10, 0.1), (20, 0.1)], "ours": [(10, 1.0), (20, 4.0)]}
