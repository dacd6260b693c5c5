"""Annotations of Pascal VOC: an XML file per image, and lists of the images of each split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from ..data.holding_out import Holdout
from ..data.splits import names_of
from ..files import listed
from ..finding import is_hidden
from ..images import EXTENSIONS, UnreadableImageError, read_size
from .annotated import AnnotatedImages, Picture
from .places import check_root, folder_named, images_in, other_format, there
from .values import number, shortened

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_FORM = "the corners of Pascal VOC are xmin, ymin, xmax, ymax in pixels"
_IMAGES = ("jpegimages", "images", "imgs")


class _Source(NamedTuple):
    """An XML file, and the image that it describes."""

    path: Path
    image: Path
    tree: ElementTree.Element


def voc(
    split: str,
    root: str,
    names: Sequence[str] | None = None,
    val_share: float = 0.2,
    val_seed: int = 0,
    with_masks: bool = False,
) -> AnnotatedImages:
    """Opens images with annotations of Pascal VOC. Objects that are `difficult` do not count, as in VOC.

    The XML files are in `Annotations`, in a folder for each split, or beside the images. The splits are the lists of
    `ImageSets/Main`, or the folders. Without either for validation, a part of the images is held out. Corners count
    pixels from 1, as VOC defines them.

    Args:
        split: "train", "val", or the name of another split.
        root: folder of the data set, such as `VOCdevkit/VOC2012`.
        names: names of the classes, in the order of the labels; by default all that occur, sorted.
        val_share: share of the images of each class that is held out where there is no split for validation.
        val_seed: seed of that choice.
        with_masks: not possible, VOC has no outlines.

    Raises:
        FileNotFoundError: a file or folder does not exist.
        ValueError: an annotation is invalid.
    """
    check_root(Path(root))
    if with_masks:
        raise ValueError("Pascal VOC has no outlines for mask_rcnn: set detector.head=faster_rcnn")
    every = sorted(path for path in Path(root).rglob("*.xml") if not is_hidden(path.relative_to(root)))
    is_shared = split in ("train", "val") and _of_split(Path(root), "val", every) is None
    source = "train" if is_shared else split
    chosen = _of_split(Path(root), source, every)
    if chosen is None and is_shared:
        chosen = _of_split(Path(root), "trainval", every) or every
    if not chosen:
        raise FileNotFoundError(
            f"{root} has no annotations of Pascal VOC (.xml) for {source}, found {there(Path(root))}: set data.root"
            f"{other_format(Path(root), 'voc')}"
        )
    trees = {path: _parsed(path) for path in every}
    used = {name for tree in trees.values() for name in _class_names(tree)}
    classes = list(names) if names is not None else sorted(used)
    if unknown := sorted(used - set(classes)):
        raise ValueError(f"data.names lacks the classes {listed(unknown)} of {root}")
    images = AnnotatedImages(Path(root), classes, chosen, False)
    by_stem = {file.stem: file for file in images_in(Path(root))}
    for identity, path in enumerate(chosen):
        _read(images, identity, _Source(path, _image_of(path, trees[path], by_stem), trees[path]))
    return images.finish(Path(root), split, Holdout(val_share, val_seed) if is_shared else None)


def _of_split(root: Path, split: str, every: Sequence[Path]) -> list[Path] | None:
    """Returns the XML files of a split, by the lists of VOC or by the names of folders; None if there is none."""
    lists = root / "ImageSets" / "Main"
    for name in names_of(split):
        if (lists / f"{name}.txt").is_file():
            # some lists have a second column
            lines = (lists / f"{name}.txt").read_text(encoding="utf-8").splitlines()
            stems = [line.split()[0] for line in lines if line.split()]
            by_stem = {path.stem: path for path in every}
            if missing := [stem for stem in stems if stem not in by_stem]:
                raise FileNotFoundError(f"{lists / name}.txt lists {listed(missing, 4)}, without an XML file in {root}")
            return [by_stem[stem] for stem in stems]
    names = names_of(split)
    found = [path for path in every if any(x.lower() in names for x in path.relative_to(root).parts[:-1])]
    return found or None


def _parsed(path: Path) -> ElementTree.Element:
    content = path.read_bytes()
    # annotations have no entities, which may expand to any amount of text
    if any(word in content.replace(b"\0", b"").upper() for word in (b"<!DOCTYPE", b"<!ENTITY")):
        raise ValueError(f"{path} must not have a document type or entities")
    try:
        return ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError(f"{path} is not XML: {error}") from error


def _class_names(tree: ElementTree.Element) -> set[str]:
    return {(entry.findtext("name") or "").strip() for entry in tree.iter("object")}


def _image_of(path: Path, tree: ElementTree.Element, by_stem: dict[str, Path]) -> Path:
    """Returns the image of an XML file: the one that it names, or that has its name."""
    named = (tree.findtext("filename") or "").strip().replace("\\", "/").rpartition("/")[2]
    folders = [path.parent]
    folders += [found for place in (path.parent, path.parent.parent) if (found := folder_named(place, _IMAGES))]
    for name in (named, *(f"{path.stem}{extension}" for extension in EXTENSIONS)):
        for folder in folders:
            if name and Path(name).suffix.lower() in EXTENSIONS and (folder / name).is_file():
                return folder / name
    if path.stem in by_stem:
        return by_stem[path.stem]
    raise FileNotFoundError(f"the image of {path}, {named or path.stem}, is not in {folders[-1]}")


def _read(images: AnnotatedImages, identity: int, source: _Source) -> None:
    size = _size(source)
    picture = Picture(identity, str(source.image.relative_to(images.folder)), size)
    images.pictures.append(picture)
    if size is None:
        return
    for position, entry in enumerate(source.tree.iter("object")):
        where = f"{source.path}: object[{position}]"
        corners = [number((entry.findtext(f"bndbox/{key}") or "").strip()) for key in _CORNERS]
        left, top, right, bottom = corners
        if left is None or top is None or right is None or bottom is None:
            given = [entry.findtext(f"bndbox/{key}") for key in _CORNERS]
            raise ValueError(f"{where}: bndbox must have the numbers {', '.join(_CORNERS)}, got {shortened(given)}")
        label = images.classes.index((entry.findtext("name") or "").strip())
        is_difficult = (entry.findtext("difficult") or "0").strip() not in ("", "0")
        box = left - 1, top - 1, right, bottom
        images.add(picture, box, label, where, is_crowd=is_difficult, form=_FORM)


def _size(source: _Source) -> tuple[int, int] | None:
    """Returns the annotated size of an image, or its own; None if it cannot be read."""
    width, height = (number((source.tree.findtext(f"size/{key}") or "").strip()) for key in ("width", "height"))
    if width and height and min(width, height) >= 1:
        return int(width), int(height)
    try:
        return read_size(source.image)
    # reported when the image is read
    except UnreadableImageError:
        return None
