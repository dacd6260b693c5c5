"""`attnzoo convert`: an official checkpoint as a directory in timm's layout, config.json + model.safetensors."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import timm
import torch
from timm.models import get_pretrained_cfg, save_for_hf, split_model_name_tag
from torch import Tensor, nn

from attnzoo.base import checkpoint_filter

from .cli import MultilineError
from .files import SUMS, replacing, sha256, write_sums
from .listing import is_ours, names
from .weights import LISTED, read_weights


@dataclass(frozen=True)
class Conversion:
    """A directory that was written.

    Attributes:
        directory: holds config.json and model.safetensors.
        model: the name it is a model of.
        num_classes: as many as the file's classifier has.
        file: name of the official file.
        sha256: of the official file.
        published_url: where the authors publish the weights of this model; None where they do not.
        unused: other things in the file that could be weights too, such as an average of them.
    """

    directory: Path
    model: str
    num_classes: int
    file: str
    sha256: str
    published_url: str | None
    unused: tuple[str, ...]


def convert(official_file: Path, model: str, output: Path, *, overwrite: bool = False) -> Conversion:
    """Writes an official checkpoint in timm's layout, opened by `timm.create_model("local-dir:...", pretrained=True)`.

    The directory is opened once before it gets its name, so it is there whole and right, or not at all.

    Args:
        official_file: what the authors published, .pth and the like or .safetensors.
        model: a name of attnzoo, with or without its tag.
        output: the directory to write; its parents are made.
        overwrite: replace a converted model that is there already.

    Raises:
        ValueError: an unknown model, a file that is no checkpoint, needs code to be read, or does not fit the model;
            a directory in the way.
    """
    name = _known(model)
    output = output.absolute()
    _check_output(output, overwrite)
    weights, unused = read_weights(official_file)
    config = get_pretrained_cfg(model)
    assert config is not None
    # made before the filter, which may change its form
    network = timm.create_model(model)
    weights = checkpoint_filter(name)(weights, network)
    _fit_classes(network, config.classifier, weights)
    check_match(official_file.name, name, network, weights)
    network.load_state_dict(weights)

    origin = {"file": official_file.name, "sha256": sha256(official_file)}
    if config.url:
        origin["published_url"] = config.url
    with replacing(output) as fresh:
        save_for_hf(network, str(fresh), model_config={"converted_from": origin}, safe_serialization=True)
        write_sums(fresh)
        _check_written(fresh, network)
    return Conversion(
        output, name, network.num_classes, origin["file"], origin["sha256"], origin.get("published_url"), unused
    )


def check_match(file: str, model: str, network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Compares names and shapes with what a network takes.

    Raises:
        MultilineError: they differ; says which are missing, unexpected or of another shape.
    """
    expected = network.state_dict()
    missing = [f"{name} {_shape(expected[name])}" for name in expected if name not in weights]
    unexpected = [f"{name} {_shape(weights[name])}" for name in weights if name not in expected]
    other_shape = [
        f"{name} is {_shape(weights[name])} in the file, {_shape(expected[name])} in the model"
        for name in expected
        if name in weights and weights[name].shape != expected[name].shape
    ]
    kinds = {"missing in the file": missing, "not in the model": unexpected, "of another shape": other_shape}
    if not any(kinds.values()):
        return
    counts = ", ".join(f"{len(tensors)} {kind}" for kind, tensors in kinds.items() if tensors)
    lines = [f"{file} is not a checkpoint of {model}: of {len(expected)} tensors {counts} (names are attnzoo's)"]
    for kind, tensors in kinds.items():
        if tensors:
            lines += [f"{kind}:", *(f"  {tensor}" for tensor in tensors[:LISTED])]
        if len(tensors) > LISTED:
            lines.append(f"  and {len(tensors) - LISTED} more")
    raise MultilineError("\n".join(lines))


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _known(model: str) -> str:
    name = str(split_model_name_tag(model)[0])
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, names(), n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "`attnzoo list` shows the names"
        raise ValueError(f"{name!r} is no model of attnzoo: {hint}")
    if not is_ours(name):
        own = f"zoo_{name}"
        hint = f"did you mean {own}?" if timm.is_model(own) else "`attnzoo list` shows the names"
        raise ValueError(f"{name} is a model of timm, not of attnzoo: {hint}")
    try:
        get_pretrained_cfg(model)
    except RuntimeError as error:
        raise ValueError(f"{model} is not known: {error} Leave the tag out for the usual weights") from error
    return name


def _check_output(output: Path, overwrite: bool) -> None:
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file: name a directory")
    found = {path.name for path in output.iterdir()} if output.is_dir() else set()
    others = sorted(found - {"config.json", "model.safetensors", SUMS})
    if others:
        raise ValueError(f"{output} holds what is no converted model and would be lost, such as {others[0]}")
    if found and not overwrite:
        raise ValueError(f"{output} holds a model already: replace it with --overwrite, or name another directory")


def _fit_classes(network: nn.Module, classifier: str | tuple[str, ...], weights: Mapping[str, Tensor]) -> None:
    """Gives the network as many classes as the file has; where it has no classifier, the comparison will tell."""
    first = classifier if isinstance(classifier, str) else classifier[0]
    weight = weights.get(f"{first}.weight")
    if weight is not None and len(weight) != network.num_classes:
        network.reset_classifier(len(weight))  # type: ignore[operator]


def _check_written(directory: Path, network: nn.Module) -> None:
    again = timm.create_model(f"local-dir:{directory}", pretrained=True).state_dict()
    expected = network.state_dict()
    same = again.keys() == expected.keys() and all(torch.equal(again[name], expected[name]) for name in expected)
    # not the user's mistake: a family that does not take its own state dict back
    if not same:
        raise RuntimeError("the directory does not open as the model that was converted, and was not kept")


@click.command("convert")
@click.argument("official_file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--model", required=True, metavar="NAME", help="What the file is of; see `attnzoo list`.")
@click.option("--output", required=True, metavar="DIR", type=click.Path(path_type=Path), help="Directory to write.")
@click.option("--overwrite", is_flag=True, help="Replace a converted model that is in the directory.")
def convert_command(official_file: Path, model: str, output: Path, overwrite: bool) -> None:
    """Write an official checkpoint in timm's layout.

    OFFICIAL_FILE is what the authors of a model published, .pth or .safetensors; no code of it is run. DIR receives
    config.json and model.safetensors, with as many classes as the file has, and is opened by
    timm.create_model("local-dir:DIR", pretrained=True). A file that does not fit the model is refused, with a list of
    what differs.

    Example: attnzoo convert nat_mini.pth --model nat_mini --output models/nat_mini
    """
    done = convert(official_file, model, output, overwrite=overwrite)
    if done.unused:
        click.echo(f"note: {', '.join(done.unused)} in the file could be weights too and was not used", err=True)
    click.echo(f"{output}: {done.model}, {done.num_classes} classes, from {done.file}")
    click.echo(f"sha256 {done.sha256}")
    if done.published_url:
        click.echo(f"the authors publish this model at {done.published_url}")
    click.echo(f'open it with timm.create_model("local-dir:{output}", pretrained=True)')


if __name__ == "__main__":
    import sys

    from attnzoo.tools.cli import main

    main(["convert", *sys.argv[1:]])
