import pytest
import torch
from pictures import COLOURS, encoded, picture, tiny_config

from attnzoo.tools.data import Draw, open_classification
from attnzoo.tools.train import train

datasets = pytest.importorskip("datasets")

CLASSES = list(COLOURS)


@pytest.fixture
def table(tmp_path):
    """A folder of parquet files, as on the Hugging Face Hub."""

    def write(splits=("train", "validation"), names=CLASSES, labels=lambda i: i % 3):
        kind = datasets.ClassLabel(names=names) if isinstance(names, list) else names
        features = datasets.Features({"image": datasets.Image(), "label": kind})
        for split in splits:
            rows = range(24 if split == "train" else 12)
            pictures = [{"bytes": encoded(picture(CLASSES[i % 3], i)), "path": f"{i}.png"} for i in rows]
            columns = {"image": pictures, "label": [labels(i) for i in rows]}
            datasets.Dataset.from_dict(columns, features=features).to_parquet(
                tmp_path / "table" / "data" / f"{split}-00000-of-00001.parquet"
            )
        return {"name": "hfds", "dataset": str(tmp_path / "table"), "root": str(tmp_path / "cache")}

    (tmp_path / "table" / "data").mkdir(parents=True)
    return write


def opened(data, split="train"):
    return open_classification({"input_size": (3, 32, 32), **data}, split)


def test_a_table_trains(table, tmp_path, capfd):
    data = table()
    # writing a table shows a progress bar, reading it does not
    capfd.readouterr()
    train_set, val_set = opened(data), opened(data, "val")
    assert train_set.classes == val_set.classes == CLASSES
    assert (len(train_set), len(val_set)) == (24, 12)
    assert train_set[Draw(4)]["labels"] == 1
    assert train_set[Draw(4)]["name"].endswith("table[train] row 4")
    train(tiny_config(data, workers=2), tmp_path / "run")
    assert torch.load(tmp_path / "run" / "last.pth", weights_only=True)["step"] == 8
    assert capfd.readouterr().err == ""


def test_a_part_of_a_split_is_a_split(table):
    data = {**table(), "train": "train[:75%]", "val": "train[75%:]"}
    assert (len(opened(data)), len(opened(data, "val"))) == (18, 6)


@pytest.mark.parametrize(
    ("kind", "label", "classes"),
    [
        pytest.param("int64", lambda i: 7 * (i % 3) - 7, ["-7", "0", "7"], id="integers"),
        pytest.param("string", lambda i: CLASSES[i % 3], CLASSES, id="texts"),
        pytest.param("bool", lambda i: i % 2 == 1, ["False", "True"], id="yes and no"),
    ],
)
def test_a_column_without_names_has_its_values_as_classes(table, kind, label, classes):
    data = table(names=datasets.Value(kind), labels=label)
    for split in ("train", "val"):
        rows = opened(data, split)
        assert rows.classes == classes
        assert [rows[Draw(i)]["labels"] for i in range(6)] == [classes.index(str(label(i))) for i in range(6)]
    assert list(opened(data).labels) == [classes.index(str(label(i))) for i in range(24)]


def test_a_class_that_validation_lacks_is_a_class(table):
    data = table(names=datasets.Value("int64"), labels=lambda i: i // 6)
    assert opened(data, "val").classes == opened(data).classes == ["0", "1", "2", "3"]


def test_a_class_map_names_or_chooses_integers(table):
    data = table(names=datasets.Value("int64"))
    named = opened({**data, "class_map": {"sky": 0, "grass": 1, "brick": 2}})
    assert (named.classes, named[Draw(4)]["labels"]) == (["sky", "grass", "brick"], 1)
    turned = opened({**data, "class_map": {"2": 0, "1": 1, "0": 2}})
    assert (turned.classes, [turned[Draw(i)]["labels"] for i in range(3)]) == (["2", "1", "0"], [2, 1, 0])


def test_a_class_map_orders_the_names_of_a_column(table):
    turned = opened({**table(), "class_map": {name: i for i, name in enumerate(reversed(CLASSES))}})
    assert (turned.classes, [turned[Draw(i)]["labels"] for i in range(3)]) == (CLASSES[::-1], [2, 1, 0])


MISTAKES = {
    "no data set": (
        lambda write: {**write(), "dataset": "nowhere/at-all"},
        "data: nowhere/at-all cannot be opened: .*Couldn't reach",
    ),
    "no split": (
        lambda write: write(splits=("train", "test")),
        r"data\.val: .*table has no split val or valid or .*, found train, test",
    ),
    "no column of labels": (
        lambda write: {**write(), "target_key": "kind"},
        r"data\.target_key: .*table has no column kind, found image, label",
    ),
    "lists of classes": (
        lambda write: write(names=datasets.Sequence(datasets.ClassLabel(names=CLASSES)), labels=lambda i: [i % 3]),
        r"the column label of .*table holds (List|Sequence) values, but a classifier learns one class per image",
    ),
    "numbers": (
        lambda write: write(names=datasets.Value("float32"), labels=lambda i: i / 2),
        "the column label of .*table holds float32 values",
    ),
    "a row without a number": (
        lambda write: write(names=datasets.Value("int64"), labels=lambda i: None if i == 5 else i),
        r"unknown classes: None",
    ),
    "names that are too few": (
        lambda write: {**write(names=datasets.Value("int64")), "class_map": {"red": 0, "blue": 1}},
        r"unknown classes: 2",
    ),
    "a row without a class": (lambda write: write(labels=lambda i: -1 if i == 5 else i % 3), r"unknown classes: -1"),
    "a class map of others": (
        lambda write: {**write(), "class_map": {"red": 0, "blue": 1}},
        r"have unknown classes: green",
    ),
    "an unknown key": (lambda write: {**write(), "file": 1}, "data: invalid keys for hfds"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_a_line(table, mistake):
    make, message = MISTAKES[mistake]
    data = make(table)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as told:
        opened(data, "val" if mistake == "no split" else "train")
    assert "\n" not in str(told.value)


CELLS = [None, {"bytes": b"no picture", "path": "x.png"}]


@pytest.mark.parametrize("cell", CELLS, ids=["nothing", "no picture"])
def test_a_cell_that_is_no_picture_is_told_by_its_row(tmp_path, cell):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)})
    cells = [{"bytes": encoded(picture("red")), "path": None}, cell]
    table = datasets.Dataset.from_dict({"image": cells, "label": [0, 1]}, features=features)
    table.to_parquet(tmp_path / "train.parquet")
    pictures = opened({"name": "hfds", "dataset": str(tmp_path), "root": str(tmp_path / "cache")})
    assert pictures[Draw(0)]["labels"] == 0
    assert "[train] row 1 cannot be" in pictures[Draw(1)]["unreadable"][0]
