"""`attnzoo convert`: checkpoints to directories in timm's layout, config.json + model.safetensors, and back."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import timm
import torch
from timm.models import get_pretrained_cfg, save_for_hf, split_model_name_tag
from torch import Tensor, nn

from attnzoo.base import checkpoint_filter

from .descriptions import described, kept_fields, named, network_of
from .exchange import timms_name, timms_network
from .files import SUMS, check_writable, plural, replacing, sha256, write_sums
from .listing import is_ours, names
from .matching import check_match
from .official import check_file, write_official
from .shards import files_of, weights_file
from .weights import read_weights, state_classes_once

# whose names are written
TARGETS = ("attnzoo", "timm", "official")


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion.

    Attributes:
        output: written directory with config.json and model.safetensors, or file with the official names.
        model: model name, timm's if the directory is for timm.
        num_classes: number of classes of the classifier in the file.
        file: name of the official file.
        sha256: SHA-256 of the official file.
        published_url: where the authors publish the weights of this model; None if they do not.
        unused: other keys of the file that may also hold weights, such as an average of them.
    """

    output: Path
    model: str
    num_classes: int
    file: str
    sha256: str
    published_url: str | None
    unused: tuple[str, ...]


def convert(
    official_file: Path,
    model: str | None,
    output: Path,
    *,
    overwrite: bool = False,
    key: str | None = None,
    to: str = "attnzoo",
) -> Conversion:
    """Converts a checkpoint to timm's layout, for `timm.create_model("local-dir:...", pretrained=True)`, or back.

    The directory is loaded once under a temporary name and renamed only if that succeeds. Weights under other names are
    written only if they are read back as they are.

    Args:
        official_file: the file that the authors published, .pth (or similar) or .safetensors; or a directory of a
            training, of a model, or of transformers.
        model: model name in attnzoo, with or without a tag; None for that in the config.json of a directory.
        output: the directory to write, or the file for `official`; parent directories are created.
        overwrite: replace an existing converted model or file.
        key: key of the file that holds the weights; None for an average of the weights, if there is one.
        to: whose network opens the directory, `attnzoo` or `timm`; or `official` for a file with the names, shapes and
            key of the authors, .pth or .safetensors.

    Raises:
        ValueError: the model is unknown, the file is not a checkpoint, needs code to be read, or does not match the
            model, the output is something else, or timm or the authors do not have the network.
    """
    folder, config = described(official_file)
    model = model or named(config, folder)
    name = _known(model)
    if to == "timm":
        timms_name(name)
    output = output.absolute()
    (check_file if to == "official" else _check_output)(output, overwrite)
    check_writable(output.parent, "choose another --output")
    official_file = weights_file(official_file)
    weights, unused = read_weights(official_file, key)
    # created before the filter is called, which may modify it
    network = network_of(model, name, folder, config)
    weights = _renamed(official_file.name, name, weights, network)
    published = get_pretrained_cfg(model)
    assert published is not None
    _fit_classes(network, published.classifier, weights)
    check_match(official_file.name, name, network, weights)
    network.load_state_dict(weights)

    origin = {"file": official_file.name, "sha256": sha256(official_file)}
    shards = files_of(official_file)
    if shards != [official_file]:
        origin |= {f"sha256 of {shard.name}": sha256(shard) for shard in shards}
    # the weights of a training are not those that the authors published
    if published.url and config.get("architecture") != name:
        origin["published_url"] = published.url
    if to == "official":
        write_official(network, name, output)
        return Conversion(output, name, network.num_classes, origin["file"], origin["sha256"], None, unused)
    fields = kept_fields(network, config)
    written: Any = timms_network(network, name) if to == "timm" else network
    with replacing(output) as fresh:
        save_for_hf(written, str(fresh), model_config={**fields, "converted_from": origin}, safe_serialization=True)
        state_classes_once(fresh / "config.json")
        write_sums(fresh)
        _check_written(fresh, written)
    return Conversion(
        output,
        written.pretrained_cfg["architecture"],
        network.num_classes,
        origin["file"],
        origin["sha256"],
        origin.get("published_url"),
        unused,
    )


def _renamed(file: str, model: str, weights: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    try:
        return checkpoint_filter(model)(weights, network)
    # on the names and shapes of another model
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ValueError(f"{file} is not a checkpoint of {model}: {reason}") from error


def _known(model: str) -> str:
    name = str(split_model_name_tag(model)[0])
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, names(), n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "see `attnzoo list`"
        raise ValueError(f"unknown model {name!r}: {hint}")
    if not is_ours(name):
        own = f"zoo_{name}"
        hint = f"did you mean {own}?" if timm.is_model(own) else "see `attnzoo list`"
        raise ValueError(f"{name} is a model of timm, not of attnzoo: {hint}")
    try:
        get_pretrained_cfg(model)
    except RuntimeError as error:
        raise ValueError(f"unknown model {model!r}: {error} Omit the tag for the default weights") from error
    return name


def _check_output(output: Path, overwrite: bool) -> None:
    if output.exists() and not output.is_dir():
        raise ValueError(f"output must be a directory, got the file {output}")
    found = {path.name for path in output.iterdir()} if output.is_dir() else set()
    others = sorted(found - {"config.json", "model.safetensors", SUMS})
    if others:
        raise ValueError(f"{output} contains other files, such as {others[0]}: choose another directory")
    if found and not overwrite:
        raise ValueError(
            f"{output} already contains a model: pass --overwrite to replace it, or choose another directory"
        )


def _fit_classes(network: nn.Module, classifier: str | tuple[str, ...], weights: Mapping[str, Tensor]) -> None:
    """Resets the classifier to the number of classes in the file; without one, `check_match` reports the problem."""
    first = classifier if isinstance(classifier, str) else classifier[0]
    weight, own = weights.get(f"{first}.weight"), network.state_dict().get(f"{first}.weight")
    if weight is None or own is None or weight.ndim == 0 or weight.shape[1:] != own.shape[1:]:
        return
    if len(weight) not in (0, network.num_classes):
        network.reset_classifier(len(weight))  # type: ignore[operator]


def _check_written(directory: Path, network: nn.Module) -> None:
    again = timm.create_model(f"local-dir:{directory}", pretrained=True).state_dict()
    expected = network.state_dict()
    same = again.keys() == expected.keys() and all(torch.equal(again[name], expected[name]) for name in expected)
    # not a user error: a model family that does not load its own state dict
    if not same:
        raise RuntimeError("the written directory does not load as the converted model and was discarded")


@click.command("convert")
@click.argument("official_file", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--model", metavar="NAME", help="Model of the checkpoint, see `attnzoo list`; that of a directory if omitted."
)
@click.option(
    "--output", required=True, metavar="PATH", type=click.Path(path_type=Path), help="Directory or file to write."
)
@click.option("--key", metavar="NAME", help="Key of the file that holds the weights.")
@click.option("--to", type=click.Choice(TARGETS), default="attnzoo", show_default=True, help="Whose names are written.")
@click.option("--overwrite", is_flag=True, help="Replace an existing model or file.")
def convert_command(
    official_file: Path, model: str | None, output: Path, key: str | None, to: str, overwrite: bool
) -> None:
    """Convert a checkpoint to timm's layout, or a model to the names of timm or of the authors.

    OFFICIAL_FILE is the checkpoint that the authors of a model published, .pth or .safetensors, the work directory of
    attnzoo train, or a directory of timm or transformers, whose weights may be in several files. No code in it is run.
    An average of the weights in it (EMA) is preferred, as in timm, unless --key names others.
    PATH is a directory that receives config.json and model.safetensors and is opened with
    timm.create_model("local-dir:PATH", pretrained=True). The number of classes is taken from the file. If the file does
    not match the model, the differences are listed and nothing is written.
    With --to timm, timm opens PATH without attnzoo. With --to official, PATH is a file for the authors' code, .pth or
    .safetensors.

    Example: attnzoo convert nat_mini.pth --model nat_mini --output models/nat_mini
    """
    done = convert(official_file, model, output, overwrite=overwrite, key=key, to=to)
    if done.unused and key is None:
        others = ", ".join(done.unused)
        click.echo(f"note: {others} in the file may also hold weights and was not used: choose with --key", err=True)
    click.echo(f"{output}: {done.model}, {plural(done.num_classes, 'class')}, from {done.file}")
    click.echo(f"sha256 {done.sha256}")
    if done.published_url:
        click.echo(f"published at {done.published_url}")
    if to != "official":
        click.echo(f'load it with timm.create_model("local-dir:{output}", pretrained=True)')


if __name__ == "__main__":
    import sys

    from attnzoo.tools.cli import main

    main(["convert", *sys.argv[1:]])
