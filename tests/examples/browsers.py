"""The browser that pages are tried in."""

from __future__ import annotations

import shutil

import pytest
from trained_files import EXAMPLES

MODULES = EXAMPLES / "browser" / "node_modules"
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
BROWSER = next((path for path in map(shutil.which, _NAMES) if path), None)


def need_browser() -> None:
    """Skips the tests of a file where no browser can be driven."""
    if shutil.which("node") is None:
        pytest.skip("needs Node.js, which drives the browser", allow_module_level=True)
    if not (MODULES / "onnxruntime-web").is_dir() or not (MODULES / "puppeteer-core").is_dir():
        pytest.skip("needs `make browser`, which fetches onnxruntime-web and a browser", allow_module_level=True)
    if BROWSER is None and not (MODULES / "@sparticuz" / "chromium").is_dir():
        pytest.skip(f"needs a browser: none of {', '.join(_NAMES)} is installed", allow_module_level=True)
