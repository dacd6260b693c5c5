"""The search for entries of the launch tables, with a device that only pretends to be one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
import torch

pytest.importorskip("triton")

from attnzoo.kernels.triton_tables import entry_at, entry_of, places_of, replaced
from benchmarks import tune

PLACE = ("routed", "sm90", "large", "forward", "2", 0)
ONLY = "56x56 h2 topk 1 batch 128 D32"


class Here:
    """A pool that runs functions in this process."""

    def map(self, function: Any, *arguments: Any, chunksize: int) -> Any:
        return map(function, *arguments)


def test_entries_are_replaced_for_a_while() -> None:
    before = entry_of("routed", "sm90", "large", "forward", itemsize=2, width=32)
    assert PLACE in places_of("routed", "sm90")
    assert entry_at(PLACE) == before
    with replaced(PLACE, (16, 16, 1, 1)):
        assert entry_of("routed", "sm90", "large", "forward", itemsize=2, width=32) == (16, 16, 1, 1)
        assert entry_at(PLACE) == before
    assert entry_of("routed", "sm90", "large", "forward", itemsize=2, width=32) == before


def test_an_entry_serves_the_launches_that_follow_it() -> None:
    found = tune.launches_of(PLACE, None, "routed")
    served = {found[index].name for index in tune.served_by(PLACE, "routed")}
    assert served
    assert all(name.endswith("D32 forward") for name in served)
    assert tune.served_by(PLACE, "halo") == []


def test_the_fastest_that_compiles_is_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = tune.candidates(PLACE)
    assert listed[0] == entry_at(PLACE)
    assert len(listed) == 4 * 3 * 4 * 3
    spills = (64, 64, 8, 3)

    def times(place: object, entry: tuple[int, ...], indices: list[int], *rest: object) -> list[float]:
        if entry == (64, 64, 8, 2):
            raise RuntimeError("too many resources requested")
        return [1 / (entry[2] * entry[3])] * len(indices)

    monkeypatch.setattr(tune, "compiles", lambda place, entry, *rest: "spills" if entry == spills else None)
    monkeypatch.setattr(tune, "time_of", times)
    result = tune.tuned(PLACE, "routed", 1, torch.device("cpu"), None, Here())  # type: ignore[arg-type]
    assert result is not None
    assert result["best"] == (16, 16, 8, 3)
    errors = {row["entry"]: row["error"] for row in result["rows"] if "error" in row}
    assert errors[spills] == "spills"
    assert "too many resources" in errors[64, 64, 8, 2]
    (line,) = tune.table_lines([result])
    assert line.startswith("routed.json sm90 large forward 2 0: [16, 16, 8, 3]  # 0.33 of")


def test_tensors_on_a_device_have_the_strides_of_a_packed_projection() -> None:
    index = tune.served_by(PLACE, "routed")[0]
    launch = tune.launches_of(PLACE, None, "routed")[index].launch
    for name in ("q", "k"):
        small = launch.arguments[name].data[:1, :2, :2]
        arguments = {**launch.arguments, name: small}
        made = tune.on_device(
            type(launch)(launch.kernel, launch.grid, {"x": arguments[name]}, {}, launch.configuration),
            torch.device("cpu"),
        )
        assert made.arguments["x"].stride() == small.stride()
        assert made.arguments["x"].std() > 0


def test_a_gpu_is_needed(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(click.ClickException, match="torch finds none"):
        tune.run_tune("D32", ["routed"], 1, 1, tmp_path, print)
