"""`python -m benchmarks models`: the peers compute the same logits, and are timed."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import accelerate, against
from benchmarks.__main__ import PEERS, main

# the small member of every family that has an official formulation
PICOS = [
    "agent_pico",
    "agent_swin_pico",
    "agent_cswin_pico",
    "agent_deit_pico",
    "biformer_pico",
    "fftnet_vit_pico",
    "gfnet_pico",
    "gfnet_h_pico",
    "ninformer_pico",
    "overlock_pico",
    "spectformer_pico",
    "spectformer_h_pico",
    "shvit_pico",
]
OFFICIAL, TIMM = (against.OPPONENTS[name] for name in ("official", "timm"))


@pytest.mark.full
@pytest.mark.parametrize(
    ("peer", "name"),
    [
        *(("official", name) for name in PICOS),
        ("timm", "zoo_swiftformer_xs"),
        ("timm", "zoo_mambaout_femto"),
        pytest.param("timm", "zoo_swin_tiny_patch4_window7_224", marks=pytest.mark.slow),
        pytest.param("timm", "zoo_twins_svt_small", marks=pytest.mark.slow),
        pytest.param("timm", "zoo_davit_tiny", marks=pytest.mark.slow),
        pytest.param("timm", "zoo_halonet26t", marks=pytest.mark.slow),
    ],
)
def test_a_peer_computes_the_network(peer: str, name: str) -> None:
    row = against.measure(against.OPPONENTS[peer], name, 2 if peer == "official" else 1, rounds=2, seconds=0)
    assert row["rounds"] == 2
    assert row["milliseconds"]["ours"]["median"] > 0
    assert 0 <= row["difference"] < against.TOLERANCE


@pytest.mark.full
def test_a_live_network_is_measured_before_and_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerate, "GOALS", {1: 0.75})
    monkeypatch.setattr(accelerate, "SECONDS", 0)
    result = CliRunner().invoke(main, ["accelerate", "swiftformer_xs", "--quick", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    (row,) = json.loads(next(tmp_path.glob("accelerate-cpu-*.json")).read_text())["rows"]
    assert (row["name"], row["wanted_over_timm"]) == ("swiftformer_xs B1", 0.75)
    assert row["ours_over"]["timm"]["median"] > 0
    assert row["difference"] < against.TOLERANCE


def test_a_peer_of_something_else_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "torch.nn.functional.interpolate", lambda grid, size, mode: grid.new_zeros(*grid.shape[:2], *size)
    )
    monkeypatch.setattr("attnzoo.blocks.agent._resize", lambda grid, *_: grid.new_ones(*grid.shape[:2], *_))
    with pytest.raises(against.DifferentLogitsError, match="agent_pico: logits differ from those of official"):
        against.measure(OFFICIAL, "agent_pico", 1, rounds=2, seconds=0)


def test_every_family_is_there() -> None:
    assert {against.family_of(name) for name in OFFICIAL.models()} == set(against.OFFICIAL)
    assert {against.family_of(name) for name in TIMM.models()} == set(against.TIMMS)
    assert set(against.OPPONENTS) == set(PEERS)


def test_the_command_writes_a_row_for_each_batch(tmp_path: Path) -> None:
    command = ["models", "official", "--quick", "agent_swin_pico", "--out", str(tmp_path)]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    (path,) = tmp_path.glob("official-cpu-*.json")
    results = json.loads(path.read_text())
    assert [row["name"] for row in results["rows"]] == ["agent_swin_pico B1", "agent_swin_pico B8"]
    assert {"cpu", "torch", "timm", "method", "notes"} <= set(results)


@pytest.mark.parametrize(("peer", "name"), [("official", "nat_pico"), ("timm", "nat_pico"), ("timm", "swin_pico")])
def test_a_model_without_a_peer_is_refused(peer: str, name: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["models", peer, name, "--out", str(tmp_path)])
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
    assert f"'{name}' has no {peer} peer to compare it with" in done.stderr
