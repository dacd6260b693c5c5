"""`python -m benchmarks kernels` on a CPU: small rows are checked and timed, and wrong ones are not timed."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from attnzoo.tools.bench.report import chosen
from attnzoo.tools.timing import Budget, HostMeter, summary, take_turns
from benchmarks import cpu, operators
from benchmarks.__main__ import main
from benchmarks.correctness import Truth, complaint_on_random_shape, sweep
from benchmarks.neighborhood import NeighborhoodShape
from benchmarks.operators import Operator, Peer

TESTED = {operator.name: operator for operator in operators.operators()}
# a fast row of each operator
SMALL = {
    "neighborhood": "neighborhood 7x7",
    "window": "window 7x7",
    "routed": "routed 14x14",
    "halo": "halo 8x8",
    "selective_scan": "selective_scan 14x14 h4 B1 D384",
}

ODD = NeighborhoodShape(size=(9, 8), heads=2, batch=3, width=8, kernel=3)


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["kernels", *arguments])


def wrong_operator(operator: Operator, **changes) -> Operator:
    """The operator, off by a thousandth in all executions but the reference."""

    class Wrong(type(operator.cpu_shapes[0])):
        def call(self, backend):
            right = super().call(backend)
            return right if backend == "reference" else lambda *inputs: right(*inputs) * 1.001

    fields = {**vars(operator), **changes}
    fields["cpu_shapes"] = fields["cuda_shapes"] = [Wrong(**vars(operator.cpu_shapes[0]) | {"size": (7, 7)})]
    fields["random_shape"] = lambda generator: Wrong(**vars(operator.random_shape(generator)))
    return Operator(**fields)


@pytest.mark.full
@pytest.mark.parametrize("name", TESTED)
def test_a_row_is_measured_and_written(name: str, tmp_path: Path) -> None:
    done = bench("--quick", "--only", SMALL[name], "--out", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert "runs, 0 wrong" in done.output
    (path,) = tmp_path.iterdir()
    assert path.name.startswith(f"{name}-cpu-")
    results = json.loads(path.read_text())
    assert {"cpu", "torch", "timm", "triton", "threads", "method", "notes"} <= set(results)
    assert [row["direction"] for row in results["rows"]][:2] == ["forward", "forward+backward"]
    for row in results["rows"]:
        assert TESTED[name].goal_peer in row["ours_over"]
        assert f"wanted_over_{TESTED[name].goal_peer}" in row
        assert all(ratio["p10"] <= ratio["p90"] for ratio in row["ours_over"].values())


@pytest.mark.parametrize("command", ["kernels", "models"])
def test_help_has_an_example(command: str) -> None:
    done = CliRunner().invoke(main, [command, "--help"])
    assert done.exit_code == 0
    assert f"python -m benchmarks {command}" in done.output.split("Example")[1]


def test_an_unknown_row_is_refused(tmp_path: Path) -> None:
    done = bench("--only", "nothing", "--out", str(tmp_path))
    assert done.exit_code == 2
    assert "--only 'nothing' matches no row: neighborhood 56x56 h2 B1" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.full
@pytest.mark.skipif(torch.cuda.is_available(), reason="runs without a GPU only")
def test_an_absent_device_is_said_by_the_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "kernels", "--device", "cuda"],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_an_absent_device_is_said() -> None:
    done = CliRunner().invoke(main, ["kernels", "--device", "cuda"])
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.strip().endswith("torch found none: use device cpu")


@pytest.mark.parametrize("name", TESTED)
def test_a_wrong_operator_is_said_and_not_timed(name: str, tmp_path: Path, monkeypatch) -> None:
    wrong = wrong_operator(TESTED[name])
    monkeypatch.setattr("benchmarks.kernels.operators", lambda: [wrong])
    done = bench("--quick", "--only", "7x7", "--out", str(tmp_path))
    assert done.exit_code == 1
    assert "wrong: ours is wrong" in done.output
    assert "output differs by" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", TESTED)
def test_random_shapes_are_as_exact_as_the_reference(name: str) -> None:
    done, wrong = sweep([TESTED[name]], [torch.float32, torch.bfloat16], torch.device("cpu"), 4, Budget(60))
    assert (done, wrong) == (8, [])


@pytest.mark.parametrize("name", TESTED)
def test_a_wrong_operator_fails_on_random_shapes(name: str) -> None:
    complaint = complaint_on_random_shape(wrong_operator(TESTED[name]), torch.float32, torch.device("cpu"), 0)
    assert complaint is not None
    assert complaint.startswith(name)


def test_random_shapes_are_the_same_for_the_same_seed() -> None:
    for operator in TESTED.values():
        assert operator.random_shape(random.Random(3)) == operator.random_shape(random.Random(3))


def test_a_spent_budget_ends_the_sweep() -> None:
    assert sweep(list(TESTED.values()), [torch.float32], torch.device("cpu"), 4, Budget(0)) == (0, [])


def test_a_peer_that_computes_something_else_is_refused() -> None:
    peers = {"peer": Peer(lambda: lambda q, k, v, bias: v)}
    operator = Operator(**vars(TESTED["neighborhood"]) | {"cpu_peers": lambda *_: peers})
    with pytest.raises(cpu.WrongResultError, match=r"peer is wrong at neighborhood .*: output differs by"):
        cpu.measure(operator, ODD, False, 2, 0)


def test_an_error_in_a_late_image_is_seen() -> None:
    inputs = ODD.inputs(torch.float32, torch.device("cpu"))
    truth = Truth(ODD, inputs)
    right = ODD.call(None)
    assert truth.complaint(truth.of(right, inputs, is_training=True)) is None

    def wraps_around(*inputs):
        out = right(*inputs)
        return torch.cat([out[:2], out[:1]])

    assert "output" in truth.complaint(truth.of(wraps_around, inputs, is_training=True))


def test_rows_are_chosen_by_a_part_of_their_name() -> None:
    assert chosen(["a 7x7", "b 7x7", "b 9x9"], "b") == [1, 2]


def test_turns_rotate_and_end_with_the_time() -> None:
    order = []
    times = take_turns({name: lambda name=name: order.append(name) for name in "ab"}, rounds=50, seconds=0)
    assert len(times["a"]) == len(times["b"]) == 2
    assert set(order) == {"a", "b"}


def test_the_host_meter_times_three_calls_at_least() -> None:
    assert len(HostMeter(0).milliseconds(lambda: None)) == 3
    assert summary([1.0, 2.0, 3.0])["median"] == 2
