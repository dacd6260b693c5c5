import collections
import json

import pytest
import torch
from pictures import COLOURS, encoded, picture, tiny_config, write_shards, write_tar
from torch.testing import assert_close
from torch.utils.data import DataLoader

from attnzoo.tools.data import StreamedImages, TrainStream, ValStream, open_classification
from attnzoo.tools.train import train
from attnzoo.tools.training.loop import InterruptedTraining, TrainingError, TrainLoop
from attnzoo.tools.training.storage import save_checkpoint

CLASSES = list(COLOURS)


def opened(split="train", augment=None, **data) -> StreamedImages:
    return open_classification({"name": "wds", "input_size": (3, 32, 32), "classes": 3, **data}, split, augment)


def batches_of(stream, workers=0):
    return list(DataLoader(stream, batch_size=None, num_workers=workers))


def names_of(batches):
    return [[name.rpartition("/")[2] for name in batch["name"]] for batch in batches]


def same(first, second):
    assert names_of(first) == names_of(second)
    for a, b in zip(first, second, strict=True):
        assert_close(a["images"], b["images"], rtol=0, atol=0)


@pytest.mark.parametrize(("processes", "workers"), [(1, 0), (1, 2), (2, 0), (2, 2), (2, 3), (3, 1)])
def test_every_picture_is_read_once_by_one_process_and_one_worker(tmp_path, processes, workers):
    write_shards(tmp_path, shards=12, per_shard=6)
    images = opened(root=str(tmp_path), shuffle=5)
    streams = [
        TrainStream(images, 12, rank=rank, processes=processes, workers=workers, seed=1) for rank in range(processes)
    ]
    read = [names_of(batches_of(stream, workers)) for stream in streams]
    assert [len(batches) for batches in read] == [6] * processes
    drawn = collections.Counter(name for batches in read for batch in batches for name in batch)
    assert len(drawn) == 72
    assert set(drawn.values()) == {1}


@pytest.mark.parametrize(("first", "workers"), [(1, 0), (5, 0), (1, 2), (2, 2), (3, 2), (2, 3)])
def test_a_stream_continues_anywhere_with_the_same_batches(tmp_path, first, workers):
    # shards of unequal length: some lanes start their shards again
    write_shards(tmp_path, shards=3, per_shard=6)
    write_tar(
        tmp_path / "train" / "000003.tar",
        {f"x.{ext}": content for ext, content in {"png": encoded(picture("red")), "cls": b"2"}.items()},
    )
    images = opened(root=str(tmp_path), shuffle=4, augment={"scale": (0.5, 1.0)})
    stream = TrainStream(images, 3, seed=2, workers=workers)
    stream.start(1, 0)
    whole = batches_of(stream, workers)
    assert len(whole) == len(stream) == 6
    stream.start(1, first)
    same(batches_of(stream, workers), whole[first:])


def test_what_was_consumed_is_not_decoded(tmp_path, monkeypatch):
    write_shards(tmp_path)
    images = opened(root=str(tmp_path))
    decoded, load = [], StreamedImages.load
    monkeypatch.setattr(StreamedImages, "load", lambda self, *drawn: decoded.append(drawn) or load(self, *drawn))
    stream = TrainStream(images, 6)
    stream.start(0, 3)
    batches_of(stream)
    assert len(decoded) == 6


def test_epochs_and_seeds_have_orders_of_their_own(tmp_path):
    write_shards(tmp_path)
    images = opened(root=str(tmp_path))

    def order(seed, epoch):
        stream = TrainStream(images, 6, seed=seed)
        stream.start(epoch, 0)
        return names_of(batches_of(stream))

    assert order(0, 0) == order(0, 0)
    assert len({str(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


@pytest.mark.parametrize(("processes", "workers"), [(1, 0), (1, 2), (2, 2), (3, 2)])
def test_validation_judges_every_picture_once(tmp_path, processes, workers):
    # fewer shards than workers: some workers have no shard
    write_shards(tmp_path, "val", shards=4, per_shard=5)
    images = opened("val", root=str(tmp_path))
    assert len(images) == 20
    read = [
        name
        for rank in range(processes)
        for batch in names_of(batches_of(ValStream(images, 3, rank=rank, processes=processes), workers))
        for name in batch
    ]
    assert sorted(read) == [f"{number:04}" for number in range(20)]


def test_labels_may_be_names(tmp_path):
    write_tar(tmp_path / "train-0.tar", {"a.jpg": encoded(picture("red"), "jpeg"), "a.cls": b"red\n"})
    images = opened(root=str(tmp_path), classes=None, class_map={"blue": 0, "red": 1})
    assert [picture.label for picture in images.source.read(images.source.urls[0])] == [1]


@pytest.mark.parametrize("name", ["a:b", "C:\\\\shards", "http:", "12:30 {0..1}"])
def test_a_path_with_a_colon_is_no_address(tmp_path, monkeypatch, name):
    write_shards(tmp_path / name, shards=1)
    monkeypatch.chdir(tmp_path)
    for options in ({"root": name}, {"train": f"{name}/train/000000.tar"}, {"root": str(tmp_path / name)}):
        images = opened(**options)
        assert len(images) == 6
        assert len(names_of(batches_of(TrainStream(images, 6)))) == 1
    with pytest.raises(FileNotFoundError, match=r"data\.train: file does not exist: a:c\.tar"):
        opened(train="a:c.tar")


def test_hidden_files_of_archives_are_skipped(tmp_path):
    files = {"a.jpg": encoded(picture("red"), "jpeg"), "a.cls": b"2"}
    hidden = {f"{start}._{name}": b"x" for start in ("", "__MACOSX/") for name in files}
    write_tar(tmp_path / "train" / "0.tar", {**hidden, **files})
    write_tar(tmp_path / "train" / "._0.tar", {"x": b"x"})
    images = opened(root=str(tmp_path))
    assert len(images) == 1
    assert [picture.name for picture in images.source.read(*images.source.urls)] == [f"{tmp_path}/train/0.tar/a"]


def test_lengths_are_noted_or_given_or_counted(tmp_path):
    paths = write_shards(tmp_path)
    assert len(opened(root=str(tmp_path))) == 24
    info = {"filenames": [path.name for path in paths], "shard_lengths": [5, 5, 5, 5], "num_samples": 20}
    (tmp_path / "_info.json").write_text(json.dumps({"splits": {"train": info}}))
    assert len(opened(root=str(tmp_path))) == 20
    assert len(opened(root=str(tmp_path), samples=12)) == 12
    assert len(opened(train=f"{tmp_path}/train/{{000000..000002}}.tar")) == 18
    assert len(opened(train=f"pipe:cat {paths[0]}", samples=6)) == 6


def broken(root, content):
    (root / "train" / "000000.tar").write_bytes(content)
    return {"root": str(root)}


MISTAKES = {
    "no folder": (lambda root: {"root": str(root / "nowhere")}, r"data\.root: folder .*nowhere does not exist"),
    "no shards": (
        lambda root: {"root": str(root / "train")},
        r"has no shards train/\*\.tar or train-\*\.tar, found 000000",
    ),
    "neither root nor shards": (lambda root: {}, "data needs the location of its shards"),
    "a shard that is not there": (
        lambda root: {"train": f"{root}/train/{{000003..000004}}.tar"},
        r"data\.train: file does not exist: .*000004\.tar$",
    ),
    "no classes": (lambda root: {"root": str(root), "classes": None}, r"set data\.classes .* or data\.class_map"),
    "two answers": (
        lambda root: {"root": str(root), "class_map": {"a": 0, "b": 1}},
        r"data\.classes must be the number of classes in data\.class_map, 2, got 3",
    ),
    "unknown length": (
        lambda root: {"train": "pipe:cat x"},
        r"data\.samples must be set: the number of images in pipe:cat x is unknown",
    ),
    "no buffer": (lambda root: {"root": str(root), "shuffle": 0}, r"data\.shuffle must be an integer of at least 1"),
    "no archive": (lambda root: broken(root, b"x" * 600), r"000000\.tar is not a tar file, or damaged"),
    "wrong notes": (
        lambda root: (root / "_info.json").write_text("[]") and {"root": str(root)},
        r"_info\.json must contain filenames and shard_lengths",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_a_line(tmp_path, mistake):
    make, message = MISTAKES[mistake]
    write_shards(tmp_path)
    options = make(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as told:
        opened(**options)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("processes", "workers", "message"), [(1, 5, "lower workers to 4, or write more"), (5, 0, "got 4 shards: write")]
)
def test_too_few_shards_are_refused(tmp_path, processes, workers, message):
    write_shards(tmp_path)
    with pytest.raises(ValueError, match=message):
        TrainStream(opened(root=str(tmp_path)), 10, processes=processes, workers=workers)


@pytest.fixture
def shards(tmp_path):
    write_shards(tmp_path / "data")
    write_shards(tmp_path / "data", "val", shards=2)
    return {"name": "wds", "root": str(tmp_path / "data"), "classes": 3, "shuffle": 8}


def weights(work_dir):
    return torch.load(work_dir / "last.pth", weights_only=True)["state_dict"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_stopped_in_an_epoch_ends_with_the_same_weights(shards, tmp_path, monkeypatch, workers):
    config = tiny_config(shards, workers=workers, augment={"scale": (0.5, 1.0)})
    train(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(TrainLoop, "_leave_if_asked", lambda self: stop(self) if self.step == 5 else None)
        with pytest.raises(InterruptedTraining):
            train(config, tmp_path / "stopped")
    train(config, tmp_path / "stopped", resume=True)
    assert_close(weights(tmp_path / "stopped"), weights(tmp_path / "whole"), rtol=0, atol=0)


def stop(loop):
    loop.store()
    raise InterruptedTraining("stopped", None)


def test_a_resumed_stream_keeps_its_workers(shards, tmp_path):
    train(tiny_config(shards, epochs=1), tmp_path / "run")
    with pytest.raises(ValueError, match="another config"):
        train(tiny_config(shards, epochs=1, workers=2), tmp_path / "run", resume=True)


def test_a_stream_has_no_repeats(shards, tmp_path):
    with pytest.raises(ValueError, match="repeats must be 1 for shards, got 2"):
        train(tiny_config(shards, repeats=2), tmp_path / "run")


DAMAGE = {
    "a picture": ({"x.png": b"no picture", "x.cls": b"0"}, "000004.tar/x cannot be read as an image"),
    "a label": ({"x.png": encoded(picture("red")), "x.cls": b"7"}, "has the unknown label '7', there are 3 classes"),
    "no label": ({"x.png": encoded(picture("red"))}, "has no label: expected a .cls file next to the image"),
    "no picture": ({"x.cls": b"0"}, "has no image: expected one of .jpg"),
}


@pytest.mark.parametrize(("damage", "workers"), [*((damage, 0) for damage in DAMAGE), ("a picture", 2)])
def test_damage_stops_with_its_name_or_is_listed(shards, tmp_path, capsys, damage, workers):
    files, message = DAMAGE[damage]
    # among readable images; the first image of the shard is not the damaged one
    good = {
        f"{i}.{ext}": content
        for i in range(4)
        for ext, content in (("png", encoded(picture("blue", i))), ("cls", b"0"))
    }
    write_tar(tmp_path / "data" / "train" / "000004.tar", {**good, **files})
    shards["samples"] = 28
    with pytest.raises(TrainingError, match="unreadable=skip") as told:
        train(tiny_config(shards, workers=workers, batch_size=4), tmp_path / "stop")
    assert message in str(told.value)
    assert "Traceback" not in str(told.value)
    train(tiny_config(shards, workers=workers, batch_size=4, unreadable="skip"), tmp_path / "skip")
    assert "skipped 1 file that could not be read:" in capsys.readouterr().out


def test_a_shard_that_ends_early_is_told_by_its_name(shards, tmp_path):
    path = tmp_path / "data" / "train" / "000002.tar"
    shards["samples"] = 24
    path.write_bytes(path.read_bytes()[: 512 + 300])
    with pytest.raises(TrainingError, match=r"000002\.tar cannot be read completely"):
        train(tiny_config(shards), tmp_path / "run")


def test_an_empty_shard_of_a_worker_stops_with_its_name(shards, tmp_path):
    write_tar(tmp_path / "data" / "train" / "000002.tar", {})
    shards["samples"] = 24
    with pytest.raises(TrainingError, match=r"there are no images in .*000002\.tar") as told:
        train(tiny_config(shards, workers=4, batch_size=4, unreadable="skip"), tmp_path / "run")
    assert "Traceback" not in str(told.value)


def test_a_run_on_shards_continues_on_as_many_processes(shards, tmp_path):
    train(tiny_config(shards, epochs=1), tmp_path / "run")
    checkpoint = torch.load(tmp_path / "run" / "last.pth", weights_only=True)
    checkpoint["random"] *= 2
    save_checkpoint(checkpoint, tmp_path / "run" / "last.pth")
    with pytest.raises(ValueError, match="the same number of processes: expected 2, got 1"):
        train(tiny_config(shards, epochs=1), tmp_path / "run", resume=True)
