"""The documentation's own words, tried."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import attnzoo

ROOT = Path(__file__).parent.parent


def code_of(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def test_adding_a_backbone_works_word_for_word(tmp_path: Path) -> None:
    package = tmp_path / "attnzoo"
    package.mkdir()
    # the package as it is, with one module more
    for path in Path(attnzoo.__file__).parent.iterdir():
        if path.name != "__init__.py":
            (package / path.name).symlink_to(path.resolve())
    for name in ("blocks", "kernels", "configs", "tools"):
        if not (package / name).exists():
            (package / name).symlink_to(ROOT / name)
    (package / "__init__.py").write_text((ROOT / "zoo" / "__init__.py").read_text() + "\nfrom . import pooling\n")
    (package / "pooling.py").write_text(code_of("docs/adding-a-backbone.md")[0])
    script = """
import attnzoo, timm, torch
assert attnzoo.__file__.startswith(HERE), attnzoo.__file__
model = timm.create_model("poolpyramid_pico", num_classes=5)
assert model(torch.zeros(2, 3, 40, 64)).shape == (2, 5)
features = timm.create_model("poolpyramid_pico", features_only=True)
assert [tuple(x.shape) for x in features(torch.zeros(1, 3, 64, 64))] == [(1, 32, 16, 16), (1, 64, 8, 8), (1, 128, 4, 4)]
"""
    # an editable install finds the package by a hook of its own, ahead of the path
    hide = "sys.meta_path[:] = [finder for finder in sys.meta_path if 'editable' not in repr(finder)]"
    script = f"import sys\nHERE = {str(tmp_path)!r}\nsys.path.insert(0, HERE)\n{hide}\n{script}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
