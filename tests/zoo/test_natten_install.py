"""`attnzoo.natten.install()`: what finds natten, what is refused, and that nothing remains."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import attnzoo


@pytest.fixture(autouse=True)
def _nothing_remains() -> Iterator[None]:
    modules, finders = dict(sys.modules), list(sys.meta_path)
    yield
    attnzoo.natten.uninstall()
    assert sys.meta_path == finders
    assert {name: x for name, x in sys.modules.items() if name.startswith("natten")} == {
        name: x for name, x in modules.items() if name.startswith("natten")
    }


def found() -> bool:
    return importlib.util.find_spec("natten") is not None


def version() -> str | None:
    try:
        return importlib.metadata.version("natten")
    except importlib.metadata.PackageNotFoundError:
        return None


def installed(folder: Path) -> None:
    """Makes a folder with another natten and its metadata."""
    (folder / "natten").mkdir()
    (folder / "natten" / "__init__.py").write_text("__version__ = '0.9'\n")
    (folder / "natten-0.9.dist-info").mkdir()
    (folder / "natten-0.9.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: natten\nVersion: 0.9\n")


@pytest.mark.full
def test_nothing_is_installed_by_import() -> None:
    code = """
import sys, attnzoo, importlib.util
assert "attnzoo.natten" not in sys.modules
assert importlib.util.find_spec("natten") is None
attnzoo.natten
assert importlib.util.find_spec("natten") is None
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_install_and_uninstall() -> None:
    assert (found(), version()) == (False, None)
    modules, finders = dict(sys.modules), list(sys.meta_path)
    attnzoo.natten.install()
    assert (found(), version()) == (True, "0.17.5")
    assert importlib.metadata.packages_distributions()["natten"] == ["natten"]
    assert importlib.metadata.metadata("natten")["Name"] == "natten"
    assert "natten" not in [x.metadata["Name"] for x in importlib.metadata.distributions(path=["elsewhere"])]

    import natten
    import natten.functional
    from natten import NeighborhoodAttention2D
    from natten.context import use_fused_na
    from natten.natten1d import NeighborhoodAttention1D
    from natten.natten2d import NeighborhoodAttention2D as Moved
    from natten.types import CausalArg2DTypeOrDed, Dimension2DTypeOrDed  # noqa: F401
    from natten.utils import check_all_args, log

    assert NeighborhoodAttention2D is Moved is attnzoo.natten.NeighborhoodAttention2D
    assert NeighborhoodAttention1D is natten.NeighborhoodAttention1D
    assert natten.functional.natten2dqkrpb is attnzoo.natten.natten2dqkrpb
    assert check_all_args(2, 3, None, (True, False)) == ((3, 3), (1, 1), (True, False))
    assert log.get_logger("natten").name == "natten"
    use_fused_na()
    assert natten.is_fused_na_enabled()
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("natten.libnatten")

    attnzoo.natten.uninstall()
    assert (found(), version()) == (False, None)
    assert (sys.modules, sys.meta_path) == (modules, finders)
    assert not attnzoo.natten.is_fused_na_enabled()
    attnzoo.natten.uninstall()


def test_another_version_replaces_the_first() -> None:
    attnzoo.natten.install("0.14.6+torch1121cu116")
    import natten

    assert (version(), natten.__version__, hasattr(natten, "context")) == ("0.14.6+torch1121cu116", "0.14.6", False)
    assert natten.NeighborhoodAttention2D(8, 2, 3).rpb is not None
    attnzoo.natten.install("0.14.6+torch1121cu116")
    assert sys.modules["natten"] is natten
    attnzoo.natten.install("0.20.1")
    import natten

    assert (version(), natten.__version__, natten.HAS_LIBNATTEN) == ("0.20.1", "0.20.1", True)
    q = torch.randn(1, 6, 7, 2, 4)
    assert natten.na2d(q, q, q, 3, 2).shape == q.shape


def test_an_unknown_version_leaves_what_there_was() -> None:
    attnzoo.natten.install("0.15.1")
    with pytest.raises(ValueError, match=r"version must be a release of NATTEN"):
        attnzoo.natten.install("0.16")
    assert version() == "0.15.1"


def test_an_installed_natten_is_not_hidden_unless_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeError, match=r"natten 0\.9 is installed, in .*: uninstall it, or call .*replace=True"):
        attnzoo.natten.install()
    import natten as other

    with pytest.raises(RuntimeError, match=r"natten 0\.9 is imported already"):
        attnzoo.natten.install()
    attnzoo.natten.install(replace=True)
    import natten

    assert (natten.__version__, version()) == ("0.17.5", "0.17.5")
    attnzoo.natten.uninstall()
    assert sys.modules["natten"] is other
    assert version() == "0.9"
    del sys.modules["natten"]


def test_a_folder_of_that_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "natten").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    attnzoo.natten.install()
    import natten

    assert natten.__version__ == "0.17.5"


PROGRAM = """
import sys, natten, helper
print(natten.__version__, __name__, sys.argv[1:], helper.natten2dqk.__name__)
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in the working directory, and the state that a run of it changes."""
    (tmp_path / "helper.py").write_text("from natten.functional import natten2dqk\n")
    (tmp_path / "program.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "helper", raising=False)


@pytest.mark.usefixtures("program")
@pytest.mark.parametrize("command", [["program.py"], ["-m", "program"]], ids=["file", "module"])
def test_a_program_runs_as_it_is(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    from attnzoo.natten.__main__ import main

    main(["--version", "0.14.6", *command, "--epochs", "3"])
    assert capsys.readouterr().out == "0.14.6 __main__ ['--epochs', '3'] na2d_qk\n"


@pytest.mark.full
@pytest.mark.usefixtures("program")
def test_a_program_runs_in_a_process_of_its_own() -> None:
    command = [sys.executable, "-m", "attnzoo.natten", "program.py", "x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "0.17.5 __main__ ['x'] na2d_qk\n", done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--version", "0.16", "-m", "x"], "Error: version must be a release"),
        ([], "Usage: "),
        (["--help"], "Usage: "),
        (["absent.py"], "Error: there is no program absent.py"),
    ],
)
def test_mistakes_on_the_command_line(arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from attnzoo.natten.__main__ import main

    monkeypatch.setattr(sys, "argv", sys.argv)
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert str(stopped.value).startswith(message)
