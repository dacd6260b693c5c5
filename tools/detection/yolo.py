"""Labels of YOLO: a text file per image, with a line of class, center, width and height, in shares of the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.holding_out import Holdout
from ..data.splits import names_of
from ..images import UnreadableImageError, read_size
from .annotated import AnnotatedImages, Picture
from .places import check_root, folder_named, images_in, other_format, there
from .values import number, shortened

_CLASSES = ("classes.txt", "obj.names", "labels/classes.txt", "labels.txt")
_FORM = (
    "YOLO labels are fractions of the image, 0 .. 1: class, center x, center y, width, height; or class, and x and y "
    "of each corner"
)
# no rounding and no object that is cut off makes a fraction so large
_LARGEST = 2


def yolo(
    split: str,
    root: str,
    names: Sequence[str] | None = None,
    train_images: str | None = None,
    val_images: str | None = None,
    val_share: float = 0.2,
    val_seed: int = 0,
    with_masks: bool = False,
) -> AnnotatedImages:
    """Opens images with labels of YOLO. A label may also be a polygon: class, and x and y of each corner.

    The folders of images are those of the data set's YAML file, or `images/SPLIT`, `SPLIT/images` or `SPLIT`. The
    labels of an image are in the folder that has `labels` instead of `images` in its path, or beside the image. An
    image without labels is an example of background. Without images for validation, a part of the others is held out.

    Args:
        split: "train", "val", or the name of another split.
        root: folder of the data set.
        names: names of the classes; by default those of the YAML file or of `classes.txt`.
        train_images: folder of the training images, in `root`.
        val_images: folder of the validation images, in `root`.
        val_share: share of the images of each class that is held out where there are none for validation.
        val_seed: seed of that choice.
        with_masks: read polygons as the outlines of the objects.

    Raises:
        FileNotFoundError: a file or folder does not exist.
        ValueError: a label is invalid, or the names of the classes are unknown.
    """
    check_root(Path(root))
    described = _description(Path(root))
    given = {"train": train_images, "val": val_images}
    is_shared = split in given and _folder(Path(root), "val", given["val"], described) is None
    source = "train" if is_shared else split
    folder = _folder(Path(root), source, given.get(source), described)
    if folder is None and is_shared:
        folder = folder_named(Path(root), ("images", "data")) or Path(root)
    files = images_in(folder) if folder is not None else []
    if folder is None or not files:
        raise FileNotFoundError(
            f"{folder or root} has no images for {source}, found {there(folder or Path(root))}: set data.root, or "
            f"data.{source}_images{other_format(Path(root), 'yolo')}"
        )
    classes = _class_names(Path(root), names, described)
    labels = {file: _label_file(file, Path(root)) for file in files}
    if not any(path.is_file() for path in labels.values()):
        raise FileNotFoundError(
            f"no image of {folder} has labels, such as {labels[files[0]]}: they must be in a folder `labels` beside "
            f"`images`, or beside the images{other_format(Path(root), 'yolo')}"
        )
    images = AnnotatedImages(folder, classes, [path for path in labels.values() if path.is_file()], with_masks)
    for identity, file in enumerate(files):
        picture = Picture(identity, str(file.relative_to(folder)), _size(file))
        images.pictures.append(picture)
        if picture.size is not None and labels[file].is_file():
            _read_labels(images, picture, labels[file])
    return images.finish(folder, split, Holdout(val_share, val_seed) if is_shared else None)


def _description(root: Path) -> dict[str, Any]:
    """Reads the YAML file of a data set; empty if there is none."""
    import yaml

    found = [path for pattern in ("*.yaml", "*.yml") for path in sorted(root.glob(pattern))]
    for path in sorted(found, key=lambda path: path.stem not in ("data", "dataset")):
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
        if isinstance(content, dict) and ("names" in content or "train" in content):
            return content
    return {}


def _folder(root: Path, split: str, given: str | None, described: Mapping[str, Any]) -> Path | None:
    """Returns the folder of the images of a split; None if there is none."""
    if given is not None:
        if not (root / given).is_dir():
            raise FileNotFoundError(f"{root / given} does not exist: set data.root, and data.{split}_images")
        return root / given
    for name in names_of(split):
        entry = described.get(name)
        if isinstance(entry, str):
            # paths are relative to the folder, to `path`, or, as some programs write them, to a folder beside it
            inside = entry.removeprefix("../").removeprefix("./")
            places = (root / str(described.get("path") or ".") / entry, root / entry, root / inside)
            if (found := next((place for place in places if place.is_dir()), None)) is not None:
                return found
    pictures = folder_named(root, ("images",))
    if pictures is not None and (found := folder_named(pictures, names_of(split))) is not None:
        return found
    found = folder_named(root, names_of(split))
    return found and (folder_named(found, ("images",)) or found)


def _class_names(root: Path, given: Sequence[str] | None, described: Mapping[str, Any]) -> list[str]:
    names: Any = given if given is not None else described.get("names")
    if isinstance(names, dict):
        names = [names[key] for key in sorted(names, key=lambda key: number(key) or 0)]
    if names is None and (found := next((path for x in _CLASSES if (path := root / x).is_file()), None)) is not None:
        names = [line.strip() for line in found.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not isinstance(names, (list, tuple)) or not names:
        raise ValueError(
            f"{root} does not say the names of its classes: they must be in the `names` of a YAML file, in classes.txt "
            f"with a name per line, or in data.names=[cat,dog]{other_format(root, 'yolo')}"
        )
    return [str(name) for name in names]


def _label_file(image: Path, root: Path) -> Path:
    parts = list(image.relative_to(root).parts) if image.is_relative_to(root) else list(image.parts)
    beside = image.with_suffix(".txt")
    # the last folder of that name, as YOLO does it
    for position in range(len(parts) - 2, -1, -1):
        if parts[position].lower() == "images":
            for name in ("labels", "Labels"):
                moved = Path(*parts[:position], name, *parts[position + 1 :]).with_suffix(".txt")
                moved = root / moved if image.is_relative_to(root) else moved
                if moved.is_file():
                    return moved
            break
    return beside


def _size(file: Path) -> tuple[int, int] | None:
    try:
        return read_size(file)
    # reported when the image is read
    except UnreadableImageError:
        return None


def _read_labels(images: AnnotatedImages, picture: Picture, path: Path) -> None:
    assert picture.size is not None
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file: {error}") from error
    for position, line in enumerate(lines, 1):
        if not (words := line.split()):
            continue
        where, values = f"{path}, line {position}", [number(word) for word in words]
        label, shares = values[0], [value for value in values[1:] if value is not None]
        is_label = label is not None and label.is_integer() and 0 <= label < len(images.classes)
        if not is_label or len(shares) < len(words) - 1 or (len(shares) != 4 and (len(shares) < 6 or len(shares) % 2)):
            raise ValueError(
                f"{where}: must be a class of 0 .. {len(images.classes) - 1}, and x, y, width and height of a box or "
                f"the corners of a polygon, got {shortened(line)}"
            )
        if max(shares) > _LARGEST:
            raise ValueError(f"{where}: {shortened(line)} is outside of {picture.file}; {_FORM}")
        corners = [share * picture.size[i % 2] for i, share in enumerate(shares)]
        if len(corners) == 4:
            x, y, width, height = corners
            box, outline = (x - width / 2, y - height / 2, x + width / 2, y + height / 2), None
        else:
            box = min(corners[::2]), min(corners[1::2]), max(corners[::2]), max(corners[1::2])
            outline = [corners]
        assert label is not None
        images.add(picture, box, int(label), where, outline=outline, form=_FORM)
