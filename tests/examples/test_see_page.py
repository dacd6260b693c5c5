"""The page of `attnzoo see` in a real browser: a click moves the query, and nothing is asked of a network."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="needs attnzoo[train]")

from browsers import BROWSER, need_browser
from trained_files import EXAMPLES

from attnzoo.tools.see.command import see

need_browser()


@pytest.mark.parametrize(("width", "dark"), [(1000, False), pytest.param(360, True, marks=pytest.mark.full)])
def test_a_click_moves_the_query(tmp_path, photograph, width, dark):
    photograph.save(tmp_path / "<b>.png")
    (drawn,) = see("nat_pico", [tmp_path / "<b>.png"], tmp_path, layers=[1, -1], query=(10, 10))
    page = drawn.with_suffix(".html")
    order = {
        "modules": str(EXAMPLES / "browser"),
        "browser": BROWSER,
        "address": page.as_uri(),
        "clicks": [[0.7525, 0.5025]],
        "width": width,
        "dark": dark,
    }
    script = Path(__file__).parent / "click_page.mjs"
    done = subprocess.run(["node", str(script), json.dumps(order)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["complaints"] == []
    assert {address.partition(":")[0] for address in told["asked"]} <= {"file", "data"}
    opened, clicked, moved = told["shown"]
    assert opened["titles"] == ["picture", "stages.1.blocks.0.attn", "stages.3.blocks.0.attn", "Grad-CAM"]
    assert opened["place"] == "Row 8, column 8."
    assert clicked["place"] == "Row 120, column 168."
    assert moved["place"] == "Row 120, column 184."
    # the maps of both layers change, and so does the mark on the other pictures
    assert all(a != b for a, b in zip(opened["drawn"], clicked["drawn"], strict=True))
    assert len({tuple(size) for size in opened["sizes"]}) == 1
    assert opened["overflow"] <= 0
    assert not opened["overlapping"]
