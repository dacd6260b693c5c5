import os
import tarfile

import pytest
import timm
import torch
from pictures import COLOURS, encoded, picture, tiny_config, write_folders, write_tar
from timm.data.readers.img_extensions import get_img_extensions

from attnzoo.tools.cli import main
from attnzoo.tools.data import Draw, open_classification
from attnzoo.tools.finding import Skipped
from attnzoo.tools.predict import pictures_in
from attnzoo.tools.train import train
from attnzoo.tools.training.classification import classification
from attnzoo.tools.training.processes import Processes
from attnzoo.tools.training.recipe import Recipe

CLASSES = list(COLOURS)


def opened(split="train", **data):
    return open_classification({"input_size": (3, 32, 32), **data}, split)


def folders(split="train", **data):
    return opened(split, name="imagefolder", **data)


def whole(place):
    """All images of a folder or a tar file, none of which is held out."""
    return folders(train=str(place), val=str(place))


def tar_of(root, split):
    """The folders of a split as the members of a tar file."""
    return {str(path.relative_to(root / split)): path.read_bytes() for path in sorted((root / split).rglob("*.png"))}


@pytest.mark.parametrize("names", [("train", "val"), ("training", "validation"), ("train", "eval")])
def test_the_splits_of_a_folder_go_by_their_usual_names(tmp_path, names):
    write_folders(tmp_path, names=names)
    train_set, val_set = folders(root=str(tmp_path)), folders("val", root=str(tmp_path))
    assert train_set.classes == val_set.classes == CLASSES
    assert (len(train_set), len(val_set)) == (24, 12)
    sample = train_set[Draw(20)]
    assert sample["labels"] == CLASSES.index("red")
    assert sample["name"] == str(tmp_path / names[0] / "red" / "4.png")


def test_folders_may_be_named_one_by_one(tmp_path):
    write_folders(tmp_path, names=("first", "second"))
    options = {"train": str(tmp_path / "first"), "val": str(tmp_path / "second")}
    assert (len(folders(**options)), len(folders("val", **options))) == (24, 12)


def labels_of(samples):
    return {samples.source.name(i): int(label) for i, label in enumerate(samples.labels)}


@pytest.mark.parametrize(
    "layout", ["class folders", "train only", "a tar file of train", "train and Test", "data.train"]
)
def test_a_stated_part_of_each_class_is_held_out_where_there_is_no_split_for_validation(tmp_path, layout):
    root = write_folders(tmp_path, train=10, val=1)
    (root / "val").rename(root / "Test" if layout == "train and Test" else tmp_path.parent / f"{tmp_path.name}-away")
    options = {"root": str(root)}
    if layout == "class folders":
        options = {"root": str(root / "train")}
    elif layout == "a tar file of train":
        options = {"root": str(write_tar(tmp_path / "packed" / "train.tar", tar_of(root, "train")).parent)}
    elif layout == "data.train":
        options = {"train": str(root / "train")}
    parts = [folders(split, **options) for split in ("train", "val")]
    both = [labels_of(part) for part in parts]
    assert [sorted(part.values()) for part in both] == [[0] * 8 + [1] * 8 + [2] * 8, [0] * 2 + [1] * 2 + [2] * 2]
    assert not both[0].keys() & both[1].keys()
    assert "0.2 of the images of each class is held out, drawn with seed 0 (data.val_share" in parts[1].remarks
    assert parts[0].remarks == ""
    assert parts[1][Draw(3)]["labels"] == int(list(parts[1].labels)[3])
    more = [labels_of(folders("val", **options, **change)) for change in ({}, {"val_seed": 1}, {"val_share": 0.4})]
    assert (more[0], len(more[1]), len(more[2])) == (both[1], 6, 12)
    assert more[1] != both[1]
    if layout == "train and Test":
        assert len(folders("test", **options)) == 3


def test_a_class_of_one_image_is_learned_from(tmp_path):
    root = write_folders(tmp_path, train=2, val=1)
    (root / "train" / "red" / "1.png").unlink()
    root = root / "train"
    counts = [[list(folders(split, root=str(root)).labels).count(i) for i in range(3)] for split in ("train", "val")]
    assert counts == [[1, 1, 1], [1, 1, 0]]


@pytest.mark.parametrize("layout", ["a file per split", "a file per class", "files in a file"])
def test_tar_files_hold_the_same_pictures_as_their_folders(tmp_path, layout):
    root = write_folders(tmp_path / "plain")
    by_class = {
        colour: {f"{i}.png": (root / "train" / colour / f"{i}.png").read_bytes() for i in range(8)}
        for colour in COLOURS
    }
    packed = tmp_path / "packed"
    if layout == "a file per split":
        write_tar(packed / "train.tar", tar_of(root, "train"))
    else:
        for colour, files in by_class.items():
            write_tar(packed / "train" / f"{colour}.tar", files)
    if layout == "files in a file":
        inner = {path.name: path.read_bytes() for path in (packed / "train").iterdir()}
        write_tar(packed / "all" / "train.tar", inner)
        packed = packed / "all"
    plain, tar = folders(root=str(root)), whole(packed / ("train" if layout == "a file per class" else "train.tar"))
    assert tar.classes == plain.classes
    for colour in range(3):
        wanted, got = ([s[Draw(i)] for i in range(24) if s.source.open(i)[1] == colour] for s in (plain, tar))
        sums = [sorted(float(sample["images"].sum()) for sample in samples) for samples in (wanted, got)]
        assert sums[0] == sums[1]


def test_workers_read_one_tar_file_at_a_time_each_for_itself(tmp_path):
    root = write_folders(tmp_path)
    for split in ("train", "val"):
        write_tar(tmp_path / "packed" / f"{split}.tar", tar_of(root, split))
    data = {"name": "imagefolder", "root": str(tmp_path / "packed")}
    states = []
    for workers in (0, 2):
        work_dir = tmp_path / f"run{workers}"
        train(tiny_config(data, workers=workers), work_dir)
        states.append(torch.load(work_dir / "last.pth", weights_only=True)["state_dict"])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_member_that_leads_out_of_a_tar_file_is_read_and_never_written(tmp_path):
    image = encoded(picture("red"))
    write_tar(tmp_path / "data" / "train.tar", {"../../red/escaped.png": image, "/abs/blue/x.png": image})
    with tarfile.open(tmp_path / "data" / "train.tar", "a") as archive:
        link = tarfile.TarInfo("green/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    pictures = whole(tmp_path / "data" / "train.tar")
    assert pictures.classes == ["blue", "red"]
    assert pictures[Draw(0)]["images"].shape == (3, 32, 32)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["data", "train.tar"]


def test_a_class_map_chooses_the_classes_and_their_order(tmp_path):
    write_folders(tmp_path)
    (tmp_path / "classes.txt").write_text("red\nblue\n")
    pictures = folders(root=str(tmp_path), class_map="classes.txt")
    assert pictures.classes == ["red", "blue"]
    assert len(pictures) == 16
    assert folders(root=str(tmp_path), class_map={"green": 0, "red": 1}).classes == ["green", "red"]


def test_every_usual_form_of_picture_is_found(tmp_path):
    for colour in COLOURS:
        (tmp_path / "train" / colour).mkdir(parents=True)
        for form in ("jpeg", "webp", "tiff", "bmp", "gif"):
            picture(colour).save(tmp_path / "train" / colour / f"x.{form.upper()}")
        for extension in ("jfif", "jpe", "pgm", "pbm", "jp2"):
            picture(colour).convert("1" if extension == "pbm" else "L").save(
                tmp_path / "train" / colour / f"x.{extension}"
            )
        (tmp_path / "train" / colour / "notes.txt").write_text("no picture")
    before = get_img_extensions()
    pictures = whole(tmp_path / "train")
    assert len(pictures) == 30
    assert not any(pictures[Draw(i)]["unreadable"] for i in range(30))
    assert pictures_in([tmp_path / "train"], skipped := Skipped()) == sorted((tmp_path / "train").glob("*/x.*"))
    assert skipped.remarks == "skipped 3 files with other extensions (.txt)"
    assert get_img_extensions() == before


def litter(folder):
    """What systems and programs leave in folders: of files named like images, none is one."""
    for name in (".ipynb_checkpoints", ".cache", "__MACOSX", "@eaDir"):
        (folder / name).mkdir()
        (folder / name / "x.png").write_bytes(b"thumbnail")
    for place in (folder, folder / "red"):
        for name in ("._0.png", ".DS_Store", "Thumbs.db"):
            (place / name).write_bytes(b"x")
    (folder / "red" / "0.xml").write_text("<x/>")
    (folder / "red" / "1.HEIC").write_bytes(b"x")


def test_what_no_user_meant_is_skipped_and_counted(tmp_path):
    root = write_folders(tmp_path / "data")
    litter(root / "train")
    pictures = folders(root=str(root))
    assert (pictures.classes, len(pictures)) == (CLASSES, 24)
    remarks = pictures.source.remarks
    assert remarks.startswith("skipped 10 hidden files and folders (.DS_Store, ._0.png, Thumbs.db, .cache, ...)")
    assert remarks.endswith(" and 2 files with other extensions (.xml, .heic)")
    config = tiny_config({"name": "imagefolder", "root": str(root)}, epochs=1)
    facts = classification(Recipe.from_config(config), Processes(0, 1, torch.device("cpu"))).facts
    assert f"3 classes; train: {remarks}" in facts["data"]
    assert folders("val", root=str(root)).remarks == ""


@pytest.mark.parametrize("start", ["", "./"])
def test_what_no_user_meant_is_skipped_in_tar_files(tmp_path, start):
    root = write_folders(tmp_path / "data")
    plain = folders(root=str(root))
    litter(root / "train")
    members = {start + name: content for name, content in tar_of(root, "train").items()}
    write_tar(tmp_path / "tar" / "train.tar", members)
    packed = whole(tmp_path / "tar" / "train.tar")
    assert (packed.classes, len(packed)) == (CLASSES, 24)
    assert [packed[Draw(i)]["labels"] for i in range(24)] == [plain[Draw(i)]["labels"] for i in range(24)]
    assert "skipped 6 hidden files" in packed.remarks


def test_links_are_followed_but_not_in_a_circle(tmp_path):
    root = write_folders(tmp_path / "data")
    (root / "train" / "red").rename(tmp_path / "elsewhere")
    (root / "train" / "red").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "circle").symlink_to(root / "train")
    assert len(folders(root=str(root))) == 24
    assert len(pictures_in([root / "train"], Skipped())) == 24


def test_a_pipe_and_a_broken_link_are_told_by_their_name(tmp_path):
    write_folders(tmp_path)
    os.mkfifo(tmp_path / "train" / "blue" / "0a.png")
    (tmp_path / "train" / "blue" / "0b.png").symlink_to(tmp_path / "nowhere.png")
    pictures = folders(root=str(tmp_path))
    assert "0a.png cannot be opened: it is not a regular file" in pictures[Draw(1)]["unreadable"][0]
    assert "0b.png cannot be opened" in pictures[Draw(2)]["unreadable"][0]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\xef\xbb\xbfred\nblue\n", id="byte-order mark"),
        pytest.param("red\r\nblue".encode("utf-16"), id="UTF-16"),
        pytest.param(b"\nred\n\n  \nblue\n\n", id="blank lines"),
    ],
)
def test_a_class_map_is_read_as_programs_write_it(tmp_path, content):
    write_folders(tmp_path)
    (tmp_path / "classes.TXT").write_bytes(content)
    pictures = folders(root=str(tmp_path), class_map="classes.TXT")
    assert (pictures.classes, len(pictures)) == (["red", "blue"], 16)
    assert pictures.remarks == "1 folder left out by data.class_map (green)"


def test_a_class_without_images_is_told(tmp_path):
    write_folders(tmp_path)
    pictures = folders(root=str(tmp_path), class_map={"red": 0, "pink": 1, "blue": 2, "green": 3})
    assert len(pictures) == 24
    assert pictures.remarks == "1 class of data.class_map without images (pink)"


def remove(path):
    for file in path.iterdir():
        file.unlink()


def move_into(folder):
    folder.mkdir()
    for split in ("train", "val"):
        (folder.parent / split).rename(folder / split)


MISTAKES = {
    "no folder": (lambda root: {"root": str(root / "nowhere")}, r"data\.root: folder .*nowhere does not exist"),
    "neither root nor split": (lambda root: {}, r"data needs the location of its images: set data\.root"),
    "a split that is not there": (
        lambda root: (root / "train").rename(root / "pictures") and {"root": str(root)},
        r"has no folder or tar file train or training, found pictures, val: rename it, or set data\.train",
    ),
    "a named split that is not there": (
        lambda root: {"train": "nowhere"},
        r"data\.train: folder or tar file nowhere does not exist",
    ),
    "no pictures": (
        lambda root: [remove(path) for path in (root / "train").iterdir()] and {"root": str(root)},
        r"there are no images in .*train: expected one folder per class with files ending in \.jpg",
    ),
    "an empty class": (
        lambda root: remove(root / "train" / "green") or {"root": str(root)},
        r"class folders without images .* in .*train: green; add images or remove",
    ),
    "pictures beside the classes": (
        lambda root: picture("red").save(root / "train" / "x.png") or {"root": str(root)},
        "train contains images outside of class folders: move each image to a folder named after its class",
    ),
    "another kind of file": (
        lambda root: (root / "x.zip").write_bytes(b"x") and {"train": str(root / "x.zip")},
        r"x\.zip is neither a folder nor a tar file",
    ),
    "a damaged tar file": (
        lambda root: (root / "x.tar").write_bytes(b"x" * 600) and {"train": str(root / "x.tar")},
        r"x\.tar: not a tar file, or damaged",
    ),
    "an empty tar file": (
        lambda root: write_tar(root / "x.tar", {"notes.txt": b"x"}) and {"train": str(root / "x.tar")},
        r"there are no images in .*x\.tar",
    ),
    "a class map that is not there": (
        lambda root: {"root": str(root), "class_map": "nowhere.txt"},
        r"data\.class_map: file nowhere\.txt does not exist, neither here nor in",
    ),
    "a class map with a gap": (
        lambda root: {"root": str(root), "class_map": {"red": 0, "blue": 2}},
        r"data\.class_map must map its 2 classes to the labels 0 \.\. 1, each once",
    ),
    "a class map of other classes": (
        lambda root: {"root": str(root), "class_map": {"cat": 0, "dog": 1}},
        "no folder in .*train has the name of a class, they are blue, green, red",
    ),
    "a class map with other capitals": (
        lambda root: {"root": str(root), "class_map": {"Red": 0, "blue": 1}},
        r"data\.class_map names the class 'Red', but its folder in .*train is 'red': capitals",
    ),
    "an empty class map": (
        lambda root: (root / "x.txt").write_text("\n\n") and {"root": str(root), "class_map": "x.txt"},
        r"data\.class_map must name at least one class, got x\.txt",
    ),
    "a class map that is no text": (
        lambda root: (root / "x.txt").write_bytes(b"\xff\xd8\xff\xe0") and {"root": str(root), "class_map": "x.txt"},
        r"data\.class_map: .*x\.txt must be text in UTF-8",
    ),
    "a class map that names a class twice": (
        lambda root: (root / "x.txt").write_text("red\nblue\nred") and {"root": str(root), "class_map": "x.txt"},
        r"data\.class_map: .*x\.txt names a class twice: red",
    ),
    "splits further below": (
        lambda root: move_into(root / "pictures") or {"root": str(root)},
        r"has class folders in pictures/train/blue: set it to the folder of train",
    ),
    "one image per class": (
        lambda root: [(root / "train" / c / f"{i}.png").unlink() for c in COLOURS for i in range(1, 8)]
        and {"root": str(root / "train")},
        "has no validation images, and only one image of each class",
    ),
    "a share of all": (
        lambda root: {"train": str(root / "train"), "val_share": 1},
        r"data\.val_share must be a number greater than 0 and less than 1, got 1",
    ),
    "an unknown key": (lambda root: {"root": str(root), "roof": 1}, "data: invalid keys for imagefolder.*roof"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_a_line(tmp_path, mistake):
    make, message = MISTAKES[mistake]
    options = make(write_folders(tmp_path))
    with pytest.raises((ValueError, FileNotFoundError), match=message) as told:
        folders(**options)
    assert "\n" not in str(told.value)


def test_classes_that_differ_are_named_before_training(tmp_path):
    write_folders(tmp_path)
    (tmp_path / "val" / "red").rename(tmp_path / "val" / "rot")
    config = tiny_config({"name": "imagefolder", "root": str(tmp_path)})
    with pytest.raises(ValueError, match=r"red only in the training data; rot only in the validation data\. If"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "last.pth").exists()


def test_one_class_is_not_trained_on(tmp_path):
    write_folders(tmp_path)
    config = tiny_config({"name": "imagefolder", "root": str(tmp_path), "class_map": {"red": 0}})
    with pytest.raises(ValueError, match=r"at least 2 classes, got only 'red': add images .* set data\.root"):
        train(config, tmp_path / "run")


def test_a_file_that_vanishes_is_told_by_its_name(tmp_path):
    write_folders(tmp_path)
    pictures = folders(root=str(tmp_path))
    os.remove(tmp_path / "train" / "blue" / "3.png")
    assert "3.png cannot be opened" in pictures[Draw(3)]["unreadable"][0]


def test_a_model_learns_the_colours_of_folders(tmp_path):
    write_folders(tmp_path, train=16)
    config = tiny_config({"name": "imagefolder", "root": str(tmp_path)}, epochs=6, augment={"re_prob": 0.2})
    directory = train(config, tmp_path / "run")
    assert torch.load(tmp_path / "run" / "best.pth", weights_only=True)["record"]["best"]["accuracy"] > 0.9
    assert timm.create_model(f"local-dir:{directory}", pretrained=True).pretrained_cfg["label_names"] == CLASSES


def test_the_command_ends_with_a_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "train",
                "classification/imagefolder",
                f"data.root={tmp_path}/nowhere",
                "--work-dir",
                str(tmp_path / "run"),
            ]
        )
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines() == [f"Error: data.root: folder {tmp_path}/nowhere does not exist"]
