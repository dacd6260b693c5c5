"""What a resumed run shares with the run before: its recipe, its data and its processes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data import Samples, StreamedImages
from ..data.samples import Location
from ..files import listed, sha256
from .processes import Processes
from .recipe import Recipe

# keys of `data` that say where the files are: accepted if the files are the same
PLACES = ("root", "train", "val", "dataset", "class_map", "train_images", "val_images", "train_masks", "val_masks",
          "train_annotations", "val_annotations")  # fmt: skip
# of data sets whose `train` and `val` are not places
_NAMED_SPLITS = ("hfds",)
# keys of the length of a run, which may change
LENGTH = ("epochs", "schedule.num_epochs")
# the sizes of so many files are compared, evenly spread: on a network file system each takes a request
_SIZES = 10_000


def check_recipe(checkpoint: Mapping[str, Any], recipe: Recipe, work_dir: Path) -> None:
    """Checks that a run may be continued with a recipe: with that of the run, of another length or with moved data.

    Raises:
        ValueError: another key differs, or the run is longer than the recipe.
    """
    differing = [entry for entry in _changed(checkpoint, recipe) if entry[0] not in (*LENGTH, *_places(recipe))]
    if differing:
        what = [f"{key} is {before} there and {now} here" for key, before, now in differing]
        raise ValueError(
            f"{work_dir} contains a run of another config: {listed(what, 4)}. Resume with the config and options of "
            "that run, or choose another --work-dir"
        )
    done = checkpoint.get("epoch")
    if isinstance(done, int) and recipe.epochs < done:
        raise ValueError(f"epochs must be at least {done}, which the run in {work_dir} has done, got {recipe.epochs}")


def stored_batch_size(checkpoint: Mapping[str, Any]) -> int:
    """Returns the batch size of the run that a checkpoint continues."""
    return int(_recipe_of(checkpoint)["batch_size"])


def describe(train_set: Samples | StreamedImages, val_set: Samples | StreamedImages) -> dict[str, Any]:
    """Describes the data of a run, for its checkpoints: classes, and per split the number and digests of its files."""
    splits = {"train": train_set, "val": val_set}
    return {"classes": list(train_set.classes), **{split: _digests(samples) for split, samples in splits.items()}}


def check_resumed(
    checkpoint: Mapping[str, Any] | None,
    recipe: Recipe,
    data: Mapping[str, Any],
    is_streamed: bool,
    processes: Processes,
) -> dict[str, str]:
    """Compares a run with the one that it continues.

    Args:
        checkpoint: the checkpoint to resume from; None if there is none.
        recipe: the recipe, which `check_recipe` has accepted.
        data: the result of `describe`.
        is_streamed: whether the order of the data depends on the number of processes.
        processes: the processes of the training.

    Returns:
        What has changed, by title, for the summary.

    Raises:
        ValueError: the classes differ, the data was moved and differs, or a stream has other processes.
    """
    if checkpoint is None:
        return {}
    said: dict[str, str] = {}
    if not isinstance(checkpoint.get("random"), list):
        raise ValueError("the checkpoint does not contain the random states of its processes")
    before = len(checkpoint["random"])
    if is_streamed and before != processes.count:
        raise ValueError(
            f"a run on shards must be resumed with the same number of processes: expected {before}, got "
            f"{processes.count}"
        )
    if before != processes.count:
        said["processes"] = (
            f"{processes.count}, previously {before}: the steps have the same images, but the random numbers of drop "
            "path, dropout and mixup differ"
        )
    changed = {key: (old, new) for key, old, new in _changed(checkpoint, recipe)}
    if "epochs" in changed:
        said["epochs"] = f"{recipe.epochs}, previously {changed['epochs'][0]}: the schedule has the new length"
    moved = [key for key in changed if key in _places(recipe)]
    # a checkpoint of an earlier version has no description of its data
    stored = checkpoint.get("data")
    differences = ["the run does not say what its data was"] if stored is None else _differences(stored, data)
    if moved and differences:
        old, new = changed[moved[0]]
        raise ValueError(
            f"{moved[0]} is {new}, previously {old}, and the data is not the same: {'; '.join(differences)}. Resume "
            "with the same data, or choose another --work-dir"
        )
    if stored is not None and differences:
        said["data changed"] = "; ".join(differences)
    return said


def _places(recipe: Recipe) -> list[str]:
    named = recipe.data.get("name") in _NAMED_SPLITS
    return [f"data.{key}" for key in PLACES if not (named and key in ("train", "val"))]


def _changed(checkpoint: Mapping[str, Any], recipe: Recipe) -> list[tuple[str, str, str]]:
    """Returns the keys of a recipe that differ from those of a run, with both values as JSON."""
    before = _leaves(_recipe_of(checkpoint))
    now = _leaves(json.loads(recipe.to_json()))
    return [
        (key, before.get(key, "not set"), now.get(key, "not set"))
        for key in dict.fromkeys((*before, *now))
        if before.get(key) != now.get(key)
    ]


def _recipe_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return dict(json.loads(checkpoint["recipe"]))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"the checkpoint does not contain the recipe of its run: {error}") from error


def _leaves(recipe: Mapping[str, Any]) -> dict[str, str]:
    """Returns the keys of a recipe, and the keys in them, with their values as JSON."""
    found: dict[str, str] = {}
    for key, value in recipe.items():
        entries = {f"{key}.{name}": entry for name, entry in value.items()} if isinstance(value, dict) else {key: value}
        found |= {name: json.dumps(entry) for name, entry in entries.items()}
    return found


def _differences(stored: Any, data: Mapping[str, Any]) -> list[str]:
    """Returns what has changed in the files.

    Raises:
        ValueError: the classes differ, or `stored` is malformed.
    """
    try:
        before, now = list(stored["classes"]), list(data["classes"])
        if before != now:
            raise ValueError(_other_classes(before, now))
        said = []
        for split, title in (("train", "training"), ("val", "validation")):
            old, new = dict(stored[split]), data[split]
            if old["images"] != new["images"]:
                said.append(f"{new['images']} {title} images, previously {old['images']}")
            elif old["names"] != new["names"]:
                said.append(f"other names of {title} images")
            elif old["contents"] != new["contents"]:
                said.append(f"other contents of {title} files")
    except (LookupError, TypeError) as error:
        raise ValueError("the checkpoint does not describe its data") from error
    return said


def _other_classes(before: Sequence[str], now: Sequence[str]) -> str:
    sides = (("in the run", set(before) - set(now)), ("in the data", set(now) - set(before)))
    only = [f"{listed(sorted(map(str, names)))} only {where}" for where, names in sides if names]
    order = f"their order was {listed(before)} and is now {listed(now)}"
    return (
        f"the classes of the data are not those of the run: {'; '.join(only) or order}. The weights have learned the "
        "classes of the run: restore the data, or choose another --work-dir"
    )


def _digests(samples: Any) -> dict[str, Any]:
    # the names in messages begin with the folder of the data set, which may be moved
    source = samples.source
    location: Location = getattr(source, "location", Location())
    if isinstance(samples, StreamedImages):
        paths = [Path(url) for url in source.urls]
        names: Sequence[str] = [path.name for path in paths]
    else:
        paths = [Path(source.name(index)) for index in range(0, len(source), max(1, len(source) // _SIZES))]
        names = [source.name(index).removeprefix(location.root) for index in range(len(source))]
        # images in archives have no files of their own
        place = Path(location.root)
        paths += [place] if place.is_file() else sorted(place.glob("*.tar")) if location.root else []
    annotations = [sha256(path) for path in location.annotations]
    sizes = [path.stat().st_size for path in paths if path.is_file()]
    contents = (*sizes, *annotations, location.size)
    return {"images": len(samples), "names": _digest(names), "contents": _digest(map(str, contents))}


def _digest(values: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(value.encode(errors="surrogateescape") + b"\0")
    return digest.hexdigest()
