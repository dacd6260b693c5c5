"""Names of classes in any script are drawn, or it is said that they are not."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from attnzoo.tools import lettering
from attnzoo.tools.detection.drawing import draw_objects
from attnzoo.tools.drawing import draw_classes
from attnzoo_command import main

pytest.importorskip("matplotlib", reason="needs attnzoo[train]")

DRAWN = ["Кот", "γάτα", "müße", "قطة", "ŝafo", "→ 1½"]


def test_letters_of_many_scripts_have_glyphs():
    assert lettering.not_drawn(DRAWN) == ""
    assert lettering.not_drawn(["a 猫", "犬 猫"]) == "犬猫"


def test_missing_glyphs_are_said_once(capsys):
    lettering.note_not_drawn(DRAWN)
    lettering.note_not_drawn(["猫", "犬"])
    assert capsys.readouterr().err == "note: the font of drawings has no 犬猫: they are drawn as boxes\n"


def test_names_differ_in_drawings(tmp_path):
    Image.new("RGB", (400, 400), "white").save(tmp_path / "a.png")
    box = np.array([[20.0, 40.0, 300.0, 300.0]])
    drawn = []
    for name in ("Кот", "Пёс"):
        draw_classes(tmp_path / "b.jpg", {"file": str(tmp_path / "a.png"), "labels": [name], "scores": [0.5]})
        found = {"boxes": box, "labels": [0], "scores": [0.5]}
        objects = draw_objects(Image.open(tmp_path / "a.png"), found, [name])
        drawn.append((np.asarray(Image.open(tmp_path / "b.jpg"), int), np.asarray(objects, int)))
    for one, other in zip(*drawn, strict=True):
        # boxes of missing glyphs would be the same
        assert np.abs(one - other).max() > 100


def test_without_matplotlib_there_are_latin_letters(monkeypatch):
    monkeypatch.setattr(lettering.importlib.util, "find_spec", lambda _: None)
    lettering.font_of.cache_clear()
    try:
        assert lettering.not_drawn(["cat"]) == ""
        assert lettering.not_drawn(["猫"]) == "猫"
    finally:
        lettering.font_of.cache_clear()


@pytest.mark.parametrize("encoding", ["cp1252", "cp437", "utf-8"])
def test_names_are_printed_on_any_code_page(tmp_path, monkeypatch, encoding):
    (tmp_path / "猫").mkdir()
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    with pytest.raises(SystemExit):
        main(["predict", "nat_pico", str(tmp_path / "猫" / "no.png")])
    streams[1].flush()
    said = streams[1].buffer.getvalue().decode(encoding)
    assert ("猫" if encoding == "utf-8" else "\\u732b") in said
