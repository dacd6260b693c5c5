"""The editable install: `import attnzoo` finds the package from any folder, and every file of it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import attnzoo
import attnzoo.blocks
import attnzoo.configs
import attnzoo.kernels
import attnzoo.tools

ROOT = Path(__file__).parent.parent
FOLDERS = ("zoo", "blocks", "kernels", "configs", "tools", "attnzoo_command")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A clone, and a folder with what an editable install of it puts into site-packages."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools is not installed")
    folder = tmp_path_factory.mktemp("projects")
    clone, site = folder / "attnzoo", folder / "site"
    clone.mkdir()
    for name in FOLDERS:
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone)
    build = f"from setuptools.build_meta import build_editable; build_editable({str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", build], cwd=clone, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    return clone, site


@pytest.mark.parametrize("place", ["..", ".", "docs", "/"])
def test_no_folder_hides_an_editable_install(installed: tuple[Path, Path], place: str) -> None:
    clone, site = installed
    (clone / "docs").mkdir(exist_ok=True)
    # -S: only what this install brings; a module of the package without torch
    code = f"""
import site
site.addsitedir({str(site)!r})
import importlib.util, attnzoo_command.listing
print(importlib.util.find_spec("attnzoo").origin)
assert attnzoo_command.listing.entries("nat_tiny")
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["PYTHONPATH"] = str(Path(importlib.util.find_spec("click").origin).parents[1])  # type: ignore[union-attr, arg-type]
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=clone / place, env=environment, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = Path(done.stdout.strip())
    assert found.name == "__init__.py"
    assert found.resolve() == clone / "zoo" / "__init__.py"


def test_this_install_has_every_file_of_the_clone() -> None:
    packages = {
        "zoo": attnzoo, "blocks": attnzoo.blocks, "kernels": attnzoo.kernels, "configs": attnzoo.configs,
        "tools": attnzoo.tools,
    }  # fmt: skip
    missing = [
        str(path.relative_to(ROOT))
        for name, package in packages.items()
        for path in (ROOT / name).rglob("*.py")
        if not (Path(str(package.__file__)).parent / path.relative_to(ROOT / name)).is_file()
    ]
    assert not missing, "files were added since the installation: run `make` or `pip install -e .` again"
