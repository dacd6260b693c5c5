"""`attnzoo bench models --official`: the renderings compute the networks, and are compared with them."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from attnzoo.tools import cli
from attnzoo.tools.bench import against_official

# the small member of every family that has a rendering
PICOS = [
    "agent_pico",
    "agent_swin_pico",
    "agent_cswin_pico",
    "agent_deit_pico",
    "biformer_pico",
    "overlock_pico",
    "shvit_pico",
]


@pytest.mark.parametrize("name", PICOS)
def test_a_rendering_computes_the_network(name: str) -> None:
    row = against_official.measure(name, 2, rounds=2, seconds=0)
    assert row["rounds"] == 2
    assert row["milliseconds"]["ours"]["median"] > 0
    assert 0 <= row["difference"] < against_official.TOLERANCE


def test_a_rendering_of_something_else_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "torch.nn.functional.interpolate", lambda grid, size, mode: grid.new_zeros(*grid.shape[:2], *size)
    )
    monkeypatch.setattr("attnzoo.blocks.agent._resize", lambda grid, *_: grid.new_ones(*grid.shape[:2], *_))
    with pytest.raises(against_official.DifferentLogitsError, match="agent_pico: logits differ"):
        against_official.measure("agent_pico", 1, rounds=2, seconds=0)


def test_every_family_is_there() -> None:
    families = {against_official._family(name) for name in against_official.names()}
    assert families == set(against_official.RENDERINGS)


def test_the_command_writes_a_row_for_each_batch(tmp_path: Path) -> None:
    command = ["bench", "models", "--official", "--quick", "agent_swin_pico", "--out", str(tmp_path)]
    done = CliRunner().invoke(cli.main, command)
    assert done.exit_code == 0, done.output
    (path,) = tmp_path.glob("official-cpu-*.json")
    results = json.loads(path.read_text())
    assert [row["name"] for row in results["rows"]] == ["agent_swin_pico B1", "agent_swin_pico B8"]
    assert {"cpu", "torch", "timm", "method", "notes"} <= set(results)


def test_a_model_without_a_rendering_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.main, ["bench", "models", "--official", "nat_pico", "--out", str(tmp_path)])
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
    assert "no official formulation of 'nat_pico'" in done.stderr
