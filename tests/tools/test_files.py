"""Files that several processes write, or that a killed process has left behind."""

import os
import signal
import stat
import sys
import time

import pytest
import torch
from safetensors.torch import save_file

from attnzoo.tools import files
from attnzoo.tools.training.lock import LOCK, locked

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")


def forked(function):
    """Fork a process that calls a function; returns its number."""
    process = os.fork()
    if process:
        return process
    try:
        function()
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(1)


def holding(context):
    """Fork a process that enters a context and stays in it; returns its number when it is inside."""
    reader, writer = os.pipe()

    def hold():
        with context():
            os.write(writer, b"x")
            time.sleep(60)

    process = forked(hold)
    os.close(writer)
    assert os.read(reader, 1) == b"x"
    os.close(reader)
    return process


def kill(process):
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def test_a_locked_directory_names_its_process_and_is_free_when_that_is_killed(tmp_path):
    run = tmp_path / "runs" / "a"
    process = holding(lambda: locked(run))
    with (
        pytest.raises(ValueError, match=rf"a is in use by process {process} on .*, since .*: wait .*--work-dir"),
        locked(run),
    ):
        pass
    kill(process)
    assert (run / LOCK).exists()
    with locked(run), pytest.raises(ValueError, match="in use by this process"), locked(run):
        pass
    assert list(run.iterdir()) == []


def test_a_lock_is_not_kept_by_the_data_loading_processes(tmp_path):
    worker = tmp_path / "worker"

    def train():
        with locked(tmp_path / "run"):
            process = os.fork()
            if process:
                worker.with_suffix(".new").write_text(str(process))
                worker.with_suffix(".new").rename(worker)
            time.sleep(60)

    process = forked(train)
    while not worker.exists():
        time.sleep(0.01)
    kill(process)
    with locked(tmp_path / "run"):
        os.kill(int(worker.read_text()), signal.SIGKILL)


def test_a_lock_leaves_no_directory_that_it_has_made(tmp_path):
    with locked(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "last.pth").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["last.pth"]


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_processes_may_write_the_same_path_at_once(tmp_path, kind):
    def write(number):
        for turn in range(40):
            with files.replacing(tmp_path / "result") as fresh:
                if kind == "directory":
                    fresh.mkdir()
                    (fresh / "half").write_text(f"{number} {turn}")
                    (fresh / "rest").write_text(f"{number} {turn}")
                else:
                    fresh.write_text(f"{number} {turn}" * 1000)

    started = [forked(lambda number=number: write(number)) for number in range(3)]
    assert [os.waitpid(process, 0)[1] for process in started] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["result"]
    if kind == "directory":
        assert (tmp_path / "result" / "half").read_text() == (tmp_path / "result" / "rest").read_text()


def in_replacement(path):
    """Fork a process that has written half of a directory; returns its number."""

    def begin():
        context = files.replacing(path)

        class Entered:
            def __enter__(self):
                context.__enter__().mkdir()

            def __exit__(self, *_):
                pass

        return Entered()

    return holding(begin)


def test_what_a_killed_process_has_left_is_removed_and_what_it_replaced_is_restored(tmp_path):
    running, killed = in_replacement(tmp_path / "running"), in_replacement(tmp_path / "model")
    kill(killed)
    (left,) = tmp_path.glob(f".model.{killed}-*.new")
    # as if it was killed between its two renames
    old = left.with_suffix(".old")
    old.mkdir()
    (old / "config.json").write_text("before")
    (tmp_path / ".unrelated.new").touch()

    with files.replacing(tmp_path / "other") as fresh:
        fresh.touch()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names[-2:] == ["model", "other"]
    assert (tmp_path / "model" / "config.json").read_text() == "before"
    assert [name for name in names if name.startswith(".")] == sorted(
        [".unrelated.new", next(tmp_path.glob(f".running.{running}-*.new")).name]
    )
    kill(running)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664), (0o077, 0o600)])
@pytest.mark.parametrize("is_directory", [True, False], ids=["directory", "file"])
def test_files_are_readable_as_the_umask_says(tmp_path, umask, mode, is_directory):
    before = os.umask(umask)
    try:
        with files.replacing(tmp_path / "model") as fresh:
            if is_directory:
                fresh.mkdir()
            written = fresh / "model.safetensors" if is_directory else fresh
            save_file({"x": torch.zeros(1)}, written)
            # whatever the version of safetensors
            written.chmod(0o600)
    finally:
        os.umask(before)
    written = tmp_path / "model" / "model.safetensors" if is_directory else tmp_path / "model"
    assert stat.S_IMODE(written.stat().st_mode) == mode
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_one_thing_is_singular():
    assert [files.plural(n, x) for n, x in ((1, "class"), (2, "class"), (1, "image"), (0, "image"))] == [
        "1 class", "2 classes", "1 image", "0 images"
    ]  # fmt: skip
