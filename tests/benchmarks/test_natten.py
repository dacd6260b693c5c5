"""`python -m benchmarks natten`: its peers compute the same, and a row is measured and written."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from attnzoo.tools.timing import Budget
from benchmarks.__main__ import main
from benchmarks.correctness import Truth, check_peer, sweep
from benchmarks.natten import OPERATORS, TILE, PairShape, SequenceShape

SHAPES = {
    "natten": PairShape(size=(9, 8), heads=2, width=4, kernel=3, dilation=2),
    "sequence": SequenceShape(size=(4 * TILE, 1), heads=2, width=4, kernel=9, dilation=2),
}


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)
def test_peers_compute_the_operator(operator) -> None:
    shape = SHAPES[operator.name]
    inputs = shape.inputs(torch.float32, torch.device("cpu"))
    truth = Truth(shape, inputs)
    assert truth.complaint(truth.of(shape.call("eager"), inputs, is_training=True)) is None
    for peer in operator.cpu_peers(shape, True).values():
        assert check_peer(truth, peer, inputs, is_training=True)[1] is None


def test_random_shapes_are_as_exact_as_the_reference() -> None:
    assert sweep(OPERATORS, [torch.float32], torch.device("cpu"), 2, Budget(60)) == (4, [])


@pytest.mark.full
def test_a_row_is_measured_and_written(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["natten", "--quick", "--only", "14x14 h8 B1", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    (path,) = tmp_path.glob("natten-cpu-*.json")
    rows = json.loads(path.read_text())["rows"]
    assert [row["direction"] for row in rows] == ["forward", "forward+backward"]
    assert all("gather" in row["ours_over"] for row in rows)
