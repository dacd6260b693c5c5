"""The documentation's own words, tried."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
from click.testing import CliRunner

import attnzoo
from attnzoo.tools.listing import write_tables
from benchmarks.__main__ import RESULTS, main
from benchmarks.accelerate import write_accelerate
from benchmarks.family_table import write_families
from benchmarks.result_table import table

from .tiers import quick
from .zoo.models import families, ours

ROOT = Path(__file__).parent.parent
README, MODELS = ((ROOT / page).read_text() for page in ("README.md", "docs/models.md"))


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


def test_the_family_of_the_page_passes_lint() -> None:
    ruff = shutil.which("ruff") or shutil.which("ruff", path=str(Path(sys.executable).parent))
    if ruff is None:
        pytest.skip("needs attnzoo[dev]")
    code = code_of("docs/adding-a-backbone.md")[0]
    for command in (["check"], ["format", "--check"]):
        arguments = [ruff, *command, "--stdin-filename", "zoo/pooling.py", "-"]
        done = subprocess.run(arguments, input=code, capture_output=True, text=True, cwd=ROOT, timeout=100)
        assert done.returncode == 0, done.stdout
    # mypy's disallow_untyped_defs
    for function in (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef)):
        assert function.returns is not None
        assert all(one.annotation is not None for one in function.args.args if one.arg != "self"), function.name


@pytest.mark.parametrize(
    "page",
    quick(
        ["README.md", "docs/models.md", "docs/accelerate.md", "docs/natten.md", "docs/clients.md", "docs/explain.md"],
        ["README.md", "docs/models.md"],
    ),
)
def test_the_code_of_a_page_runs(page: str) -> None:
    code = "\n".join(code_of(page)).replace("pretrained=True", "pretrained=False")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("docs/models.md", write_tables),
        ("README.md", lambda page: write_families(page, RESULTS)),
        ("README.md", lambda page: write_accelerate(page, RESULTS)),
    ],
    ids=["models", "families", "accelerate"],
)
def test_tables_are_what_the_command_writes(tmp_path: Path, name: str, write) -> None:
    page, committed = tmp_path / "page.md", (ROOT / name).read_text()
    page.write_text(committed)
    write(page)
    assert page.read_text() == committed, "the registry or a result has changed: make table"


def test_every_family_has_a_line() -> None:
    rows = dict(re.findall(r"^\| \[(\w+)\]\(zoo/\w+\.py\) \|.* \| ([^|]+) \|$", README, re.MULTILINE))
    assert sorted(rows) == sorted(families())
    # the smallest and the largest of the committed ratios, of one image
    results = json.loads((RESULTS / "official-cpu-2026-11-21.json").read_text())["rows"]
    measured = {row["name"]: row["ours_over"]["official"]["median"] for row in results}
    ratios = [measured[f"{name} B1"] for name in timm.list_models(module="overlock") if f"{name} B1" in measured]
    assert rows["overlock"] == f"{min(ratios):.2f}-{max(ratios):.2f} of official"
    assert rows["van"] == "-"


def test_tables_of_models_are_the_registry() -> None:
    rows = re.findall(r"^\| `(\w+)` \| [\d.]+ \| (\d+) \| ([\d.]+|-) \| ([\d.]+|-) \|", MODELS, re.MULTILINE)
    assert sorted(name for name, *_ in rows) == sorted(ours())
    for name, size, gflops, top1 in rows:
        figures = attnzoo.published(name)
        assert timm.get_pretrained_cfg(name).input_size == (3, int(size), int(size))
        assert (gflops, top1) == (str(figures.get("gflops", "-")), str(figures.get("top1", "-")))
        assert figures.get("source", "https://") in MODELS


@pytest.mark.parametrize(
    ("page", "what"),
    [
        ("docs/kernels.md", "neighborhood"),
        ("docs/kernels.md", "sequence"),
        ("docs/natten.md", "natten"),
        ("docs/kernels.md", "window"),
        ("docs/kernels.md", "routed"),
        ("docs/kernels.md", "halo"),
        ("docs/models.md", "official"),
        ("docs/models.md", "timm"),
        ("docs/accelerate.md", "accelerate"),
        ("docs/scaling.md", "training"),
        ("docs/scaling.md", "loading"),
        ("docs/scaling.md", "scaling"),
        ("docs/benchmarks.md", "export"),
        ("docs/benchmarks.md", "export-wide"),
    ],
)
def test_tables_are_the_committed_measurements(page: str, what: str) -> None:
    page = (ROOT / page).read_text()
    named = re.findall(rf"benchmarks/results/{what}-cpu-[\d-]+\.json", page)
    assert named
    assert all(table(json.loads((ROOT / name).read_text())) in page for name in named)


@pytest.mark.parametrize("content", ["no JSON", "[]", '{"rows": [{"name": "x"}]}'])
def test_a_file_without_a_table_is_named_in_a_line(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    result = CliRunner().invoke(main, ["table", str(tmp_path / "a.json")])
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.output
    assert "a.json" in result.stderr


def test_static_results_have_no_table() -> None:
    result = CliRunner().invoke(main, ["table", str(max(RESULTS.glob("static-*.json")))])
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.output
    assert "has no table: pass a result of the operators or models on a CPU, or of export" in result.stderr


@pytest.mark.parametrize("command", [["kernels"], ["natten"], ["static"], ["models", "timm"], ["export"], ["training"]])
def test_a_folder_that_cannot_be_written_is_told_before_the_work(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "file").touch()
    result = CliRunner().invoke(main, [*command, "--out", str(tmp_path / "file" / "out")])
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.output
    assert "file is not writable: " in result.stderr
    assert not result.stdout
