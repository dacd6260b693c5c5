"""Images and their masks in folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from ..data.readers import read_class_map
from ..data.samples import Location
from ..data.splits import names_of
from ..files import listed, plural
from ..finding import Skipped, find_images
from ..images import read_image
from .sources import LARGEST_COUNT, Coding, IndexMasks, labels_in, read_mask

# number of masks by which a resumed run recognises its data, about
_COMPARED = 10_000


class MaskFolder(IndexMasks):
    """Images in a folder, and masks with the same names in another one.

    The folders are `root/images/train` and `root/masks/train`, or `root/train/images` and `root/train/masks`, with the
    names of splits that classification takes, and `annotations` or `labels` for `masks`; or they are given.

    Args:
        split: "train", "val", or the name of another split.
        root: folder of all splits.
        train_images: folder of the training images.
        train_masks: folder of their masks.
        val_images: folder of the validation images.
        val_masks: folder of their masks.
        class_map: names of the classes: a text file with one name per line, or a dict of labels by name. By default the
            names are the values of the training masks, which are all read for it unless `values` lists them.
        first_label: see `Coding`.
        ignore_index: see `Coding`.
        values: see `Coding`.

    Raises:
        FileNotFoundError: a folder does not exist, or an image has no mask.
        ValueError: there are no images, or an option is invalid.
    """

    def __init__(
        self,
        split: str,
        root: str | None = None,
        train_images: str | None = None,
        train_masks: str | None = None,
        val_images: str | None = None,
        val_masks: str | None = None,
        class_map: str | Mapping[str, int] | None = None,
        first_label: int = 0,
        ignore_index: int | None = 255,
        values: Sequence[int] | None = None,
    ) -> None:
        coding = Coding(first_label, ignore_index, values)
        given = {"train": (train_images, train_masks), "val": (val_images, val_masks)}
        images, masks = _folders(root, split, *given.get(split, (None, None)))
        self.pairs, self.remarks = _paired(images, masks)
        # evenly spread, because contents are compared
        drawn = [path for _, path in self.pairs[:: max(1, len(self.pairs) // _COMPARED)]]
        self.location = Location(str(images), drawn)
        labels = read_class_map(class_map, Path(root or images.parent))
        if labels is None and values is not None:
            labels = {str(value): label for label, value in enumerate(values)}
        elif labels is None:
            pairs = self.pairs if split == "train" else _paired(*_folders(root, "train", *given["train"]))[0]
            masks_of = (read_mask(path, str(path)) for _, path in pairs)
            self.present = set().union(*map(labels_in, map(coding.labels_of, masks_of)))
            if max(self.present) >= LARGEST_COUNT:
                raise ValueError(
                    f"the training masks in {pairs[0][1].parent} have the value {max(self.present) + first_label}, but "
                    f"a mask has the index of the class of each pixel, less than {LARGEST_COUNT}"
                )
            labels = {str(value + first_label): value for value in range(max(self.present) + 1)}
        super().__init__(labels, coding)

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        """The file of an image."""
        return str(self.pairs[index][0])

    def picture(self, index: int, channels: int) -> Image.Image:
        """Reads an image.

        Raises:
            UnreadableImageError: it cannot be read.
        """
        return read_image(self.pairs[index][0], channels)

    def file(self, index: int) -> tuple[Path, str]:
        """The mask of an image."""
        path = self.pairs[index][1]
        return path, str(path)


def _folders(root: str | None, split: str, images: str | None, masks: str | None) -> tuple[Path, Path]:
    """The folders of the images and the masks of a split; what is not given is in `root`."""
    keys = [f"data.{split}_{kind}" for kind, given in (("images", images), ("masks", masks)) if not given]
    # other splits have no keys
    hint = " and ".join(keys) if split in ("train", "val") else ""
    if images and masks:
        found = [(Path(images), Path(masks))]
    elif root is None:
        raise ValueError(
            f"data needs the location of its {split} images and masks: set data.root{hint and f', or {hint}'}"
        )
    else:
        kinds = [("images", name) for name in ("masks", "annotations", "labels")]
        found = [
            (Path(images or Path(root, *first)), Path(masks or Path(root, *second)))
            for name in names_of(split)
            for image, mask in kinds
            for first, second in (((image, name), (mask, name)), ((name, image), (name, mask)))
        ]
    for pair in found:
        if all(folder.is_dir() for folder in pair):
            return pair
    raise FileNotFoundError(
        f"data: there are no folders of images and masks for {split}: expected {found[0][0]} and {found[0][1]}"
        f"{hint and f', or set {hint}'}"
    )


def _paired(images: Path, masks: Path) -> tuple[list[tuple[Path, Path]], str]:
    """The images of a folder with their masks, by name without extension, and remarks on what was left out."""
    skipped = Skipped()
    pictures, drawn = (_by_name(folder, skipped) for folder in (images, masks))
    if not pictures:
        raise ValueError(f"there are no images in {images}")
    if missing := [str(path) for name, path in pictures.items() if name not in drawn]:
        raise FileNotFoundError(
            f"{masks} has no mask of the same name for {plural(len(missing), 'image')}: {listed(missing, 4)}"
        )
    extra = len(drawn.keys() - pictures.keys())
    remarks = [skipped.remarks, f"{plural(extra, 'mask')} without an image" if extra else ""]
    return [(path, drawn[name]) for name, path in pictures.items()], ", ".join(filter(None, remarks))


def _by_name(folder: Path, skipped: Skipped) -> dict[Path, Path]:
    """The image files of a folder, by their paths in it without extension."""
    found: dict[Path, Path] = {}
    for path in map(Path, find_images(folder, skipped)):
        name = path.relative_to(folder).with_suffix("")
        if name in found:
            raise ValueError(
                f"{found[name]} and {path} have the same name, by which images and masks are paired: remove one"
            )
        found[name] = path
    return found
