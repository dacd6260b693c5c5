"""`install` makes `import natten` find this package, and `uninstall` undoes it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, DistributionFinder, PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from . import context
from .release import DEFAULT, contents, release_named


def install(version: str = DEFAULT, *, replace: bool = False) -> None:
    """Makes `import natten` find this package, and `importlib.metadata.version("natten")` the version.

    Call it before the program, or a library such as transformers, is imported: they look for natten once. A further
    call with another version replaces the first.

    Args:
        version: the release of NATTEN that the program was written for, such as `0.14.6`; it decides the names, the
            order of arguments and the defaults where releases differ.
        replace: whether it may hide a natten that is installed or imported.

    Raises:
        TypeError: `version` is not text.
        ValueError: `version` is not a release.
        RuntimeError: another natten is installed or imported, and `replace` is false.
    """
    release = release_named(version)
    active = _active()
    if active is not None and active.version == version:
        return
    uninstall()
    if not replace:
        _refuse_another()
    finder = _Finder(version, contents(release))
    finder.hidden = _take_modules()
    context.reset()
    sys.meta_path.insert(0, finder)


def uninstall() -> None:
    """Undoes `install`: what was there before is found again. Without an `install`, nothing happens."""
    finder = _active()
    if finder is None:
        return
    sys.meta_path.remove(finder)
    _take_modules()
    sys.modules.update(finder.hidden)
    context.reset()


class _Distribution(Distribution):
    """The metadata of the package that appears to be installed."""

    def __init__(self, version: str) -> None:
        self._files = {
            "METADATA": f"Metadata-Version: 2.1\nName: natten\nVersion: {version}\nSummary: attnzoo.natten\n",
            "top_level.txt": "natten\n",
            "INSTALLER": "attnzoo\n",
        }

    def read_text(self, filename: str) -> str | None:
        return self._files.get(filename)

    def locate_file(self, path: Any) -> Any:
        return Path(__file__).parent / path


class _Finder(DistributionFinder):
    """Finds the modules of natten, which are made from tables of names, and its metadata."""

    def __init__(self, version: str, modules: dict[str, dict[str, Any]]) -> None:
        self.version, self.modules = version, modules
        self.hidden: dict[str, ModuleType] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns the spec of natten or of a module of it; None for all others."""
        if fullname not in self.modules:
            return None
        is_package = any(name.startswith(f"{fullname}.") for name in self.modules)
        return ModuleSpec(fullname, self, origin="attnzoo.natten", is_package=is_package)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Lets Python make the module."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Fills a module; natten imports its modules, as programs read them as attributes."""
        name = module.__name__
        module.__doc__ = f"NATTEN {self.version} as attnzoo.natten offers it."
        for other in self.modules:
            if other.rpartition(".")[0] == name:
                __import__(other)
        vars(module).update(self.modules[name])

    def find_distributions(self, context: DistributionFinder.Context | None = None) -> Iterable[Distribution]:
        """Yields the metadata of natten, except where a path is searched."""
        given = {} if context is None else vars(context)
        name = given.get("name")
        if "path" not in given and (name is None or name.lower() == "natten"):
            yield _Distribution(self.version)


def _active() -> _Finder | None:
    return next((finder for finder in sys.meta_path if isinstance(finder, _Finder)), None)


def _take_modules() -> dict[str, ModuleType]:
    """Removes the modules of natten from those that are imported, and returns them."""
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name == "natten" or name.startswith("natten.")}


def _refuse_another() -> None:
    found = "imported already" if "natten" in sys.modules else None
    if found is None:
        spec = find_spec("natten")
        # a folder without a file of that name is no package
        if spec is not None and spec.origin is not None:
            found = f"installed, in {spec.origin}"
    if found is None:
        return
    try:
        version = f" {metadata.version('natten')}"
    except PackageNotFoundError:
        version = ""
    raise RuntimeError(
        f"natten{version} is {found}: uninstall it, or call attnzoo.natten.install(replace=True) to hide it"
    )
