"""The splits of a data set: their usual names, and the folders or tar files that have them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from ..files import listed

# accepted names of each split in lower case, as in timm
_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "eval", "evaluation"),
    "test": ("test", "testing"),
}
SPLIT_NAMES = tuple(name for names in _NAMES.values() for name in names)


def names_of(split: str) -> tuple[str, ...]:
    """Returns the names that a split may have in a data set: the usual ones, or its own."""
    return _NAMES.get(split, (split,))


def to_set(split: str) -> str:
    """Returns what an error says about the key that names a split; empty if there is no such key."""
    return f", or set data.{split}" if split in ("train", "val") else ""


def place_of(split: str, root: str | None, given: Mapping[str, str | None]) -> tuple[Path, bool]:
    """Finds the folder or tar file of a split.

    Args:
        split: "train", "val", or the name of another split.
        root: folder of the splits.
        given: the folder or tar file of "train" and of "val" where it is not in `root`; None to look for it.

    Returns:
        The place, and whether training and validation share it, because there is none for validation. It may then be
        `root` itself.

    Raises:
        FileNotFoundError: there is none, or the given one does not exist.
        ValueError: neither `root` nor the place of the split is given.
    """
    found = _find(split, root, given.get(split))
    if split in given and _find("val", root, given["val"]) is None:
        found = _find("train", root, given["train"])
        if found is None and root is not None and not any(_is_split(path) for path in Path(root).iterdir()):
            found = Path(root)
        if found is not None:
            return found, True
    if found is None:
        raise _missing(split, root)
    return found, False


def _find(split: str, root: str | None, given: str | None) -> Path | None:
    if given is not None:
        place = Path(given)
        if not place.exists():
            raise FileNotFoundError(f"data.{split}: folder or tar file {place} does not exist")
        return place
    if root is None:
        return None
    if not Path(root).is_dir():
        raise FileNotFoundError(f"data.root: folder {root} does not exist")
    there = {path.name.lower(): path for path in sorted(Path(root).iterdir())}
    places = (there.get(f"{name}{end}".lower()) for name in names_of(split) for end in ("", ".tar"))
    return next((place for place in places if place is not None), None)


def _missing(split: str, root: str | None) -> Exception:
    if root is None:
        return ValueError(
            f"data needs the location of its images: set data.root, which contains {split}{to_set(split)}"
        )
    there = listed(sorted(path.name for path in Path(root).iterdir())) or "nothing"
    return FileNotFoundError(
        f"data.root: {root} has no folder or tar file {' or '.join(names_of(split))}, found {there}: rename it"
        f"{to_set(split)}"
    )


def _is_split(path: Path) -> bool:
    return path.name.lower().removesuffix(".tar") in SPLIT_NAMES


def check_no_splits(files: Iterable[str], place: Path) -> None:
    """Checks that a folder of class folders has no splits below it, whose images would be mixed.

    Args:
        files: the images in class folders, relative to the folder.
        place: the folder, for the message.

    Raises:
        ValueError: there is one.
    """
    for file in files:
        # the last two are the class and the file
        if found := [name for name in Path(file).parts[:-2] if _is_split(Path(name))]:
            raise ValueError(
                f"data.root: {place} has class folders in {Path(file).parent}: set it to the folder of {found[0]}"
            )
