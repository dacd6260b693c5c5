"""The shape of the package: imports run downhill only, and the package list is what the folders hold."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parent.parent
FOLDERS = ("zoo", "blocks", "kernels", "configs", "tools", "attnzoo_command")

# what a folder may import at the top of a file, beyond the standard library and itself
ALLOWED = {
    "kernels": {"torch"},
    "blocks": {"torch", "timm.layers", "attnzoo.kernels"},
    # the last three are dependencies of timm and of torch
    "zoo": {"torch", "timm", "attnzoo.blocks", "huggingface_hub", "safetensors", "filelock"},
    # data only
    "configs": set(),
}
# a package of zoo/ that offers another interface of the operators
OPERATORS = {"natten": {"attnzoo.kernels"}}
# a file of kernels/ that is itself imported lazily
LAZY = {"triton"}

FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def imports(path: Path) -> set[str]:
    """Absolute names of what a file imports, wherever in the file."""
    folder = path.relative_to(ROOT).parts[0]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                depth = len(path.relative_to(ROOT).parts) - 1
                assert node.level <= depth, f"{path} imports out of {folder}/ by a relative path"
            else:
                names.add(node.module or "")
    return names


@pytest.mark.parametrize("path", [path for path in FILES if path.relative_to(ROOT).parts[0] in ALLOWED], ids=str)
def test_imports_run_downhill(path: Path) -> None:
    folder, package = path.relative_to(ROOT).parts[:2]
    for name in imports(path):
        if name.partition(".")[0] in sys.stdlib_module_names or name.startswith(f"attnzoo.{folder}"):
            continue
        allowed = ALLOWED[folder] | (LAZY if "triton" in path.stem else set()) | OPERATORS.get(package, set())
        assert any(name == entry or name.startswith(f"{entry}.") for entry in allowed), f"{path} imports {name}"


@pytest.mark.parametrize("path", [path for path in FILES if path.relative_to(ROOT).parts[0] in ALLOWED], ids=str)
def test_nothing_imports_tools(path: Path) -> None:
    assert not any(name.startswith("attnzoo.tools") for name in imports(path))


def test_executions_never_import_each_other() -> None:
    executions = ("reference", "eager", "triton")
    for operator in (path for path in (ROOT / "kernels").iterdir() if path.is_dir()):
        for name in executions:
            for path in operator.glob(f"{name}*.py"):
                tree = ast.parse(path.read_text())
                modules = {
                    node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level
                }
                others = [other for other in executions if other != name]
                assert not any(module.startswith(other) for module in modules for other in others), path


def test_package_list_is_what_the_folders_hold() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = set()
    for path in FILES:
        parts = path.relative_to(ROOT).parts[:-1]
        # the folder of families is the package itself, and the command is a package of its own
        top = () if parts[0] == "attnzoo_command" else ("attnzoo",)
        found.add(".".join((*top, *(parts[1:] if parts[0] == "zoo" else parts))))
    assert sorted(listed) == sorted(found)


def test_every_folder_of_code_is_a_package() -> None:
    assert [str(path.parent) for path in FILES if not (path.parent / "__init__.py").exists()] == []
