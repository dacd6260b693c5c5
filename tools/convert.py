"""`attnzoo convert`: official checkpoint to a directory in timm's layout, config.json + model.safetensors."""

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
from .files import SUMS, check_writable, replacing, sha256, write_sums
from .listing import is_ours, names
from .weights import LISTED, read_weights, state_classes_once, weights_file

# types of weights; those of 8 bits need a scale
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion.

    Attributes:
        directory: written directory with config.json and model.safetensors.
        model: model name.
        num_classes: number of classes of the classifier in the file.
        file: name of the official file.
        sha256: SHA-256 of the official file.
        published_url: where the authors publish the weights of this model; None if they do not.
        unused: other keys of the file that may also hold weights, such as an average of them.
    """

    directory: Path
    model: str
    num_classes: int
    file: str
    sha256: str
    published_url: str | None
    unused: tuple[str, ...]


def convert(official_file: Path, model: str, output: Path, *, overwrite: bool = False) -> Conversion:
    """Converts an official checkpoint to timm's layout, for `timm.create_model("local-dir:...", pretrained=True)`.

    The directory is loaded once under a temporary name and renamed only if that succeeds.

    Args:
        official_file: the file that the authors published, .pth (or similar) or .safetensors; or a directory of a
            training or of a model.
        model: model name in attnzoo, with or without a tag.
        output: the directory to write; parent directories are created.
        overwrite: replace an existing converted model.

    Raises:
        ValueError: the model is unknown, the file is not a checkpoint, needs code to be read, or does not match the
            model, or the output directory contains other files.
    """
    name = _known(model)
    output = output.absolute()
    _check_output(output, overwrite)
    check_writable(output.parent, "choose another --output")
    official_file = weights_file(official_file)
    weights, unused = read_weights(official_file)
    config = get_pretrained_cfg(model)
    assert config is not None
    # created before the filter is called, which may modify it
    network = timm.create_model(model)
    weights = _renamed(official_file.name, name, weights, network)
    _fit_classes(network, config.classifier, weights)
    check_match(official_file.name, name, network, weights)
    network.load_state_dict(weights)

    origin = {"file": official_file.name, "sha256": sha256(official_file)}
    if config.url:
        origin["published_url"] = config.url
    with replacing(output) as fresh:
        save_for_hf(network, str(fresh), model_config={"converted_from": origin}, safe_serialization=True)
        state_classes_once(fresh / "config.json")
        write_sums(fresh)
        _check_written(fresh, network)
    return Conversion(
        output, name, network.num_classes, origin["file"], origin["sha256"], origin.get("published_url"), unused
    )


def _renamed(file: str, model: str, weights: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    try:
        return checkpoint_filter(model)(weights, network)
    # on the names and shapes of another model
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ValueError(f"{file} is not a checkpoint of {model}: {reason}") from error


def check_match(file: str, model: str, network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Compares the names, shapes and types of weights with those of a network.

    Raises:
        MultilineError: they differ; lists the tensors that are missing, unexpected, of another shape, integers in place
            of floating point numbers, or not finite.
    """
    expected = network.state_dict()
    missing = [f"{name} {_shape(expected[name])}" for name in expected if name not in weights]
    unexpected = [f"{name} {_shape(weights[name])}" for name in weights if name not in expected]
    other_shape = [
        f"{name} is {_shape(weights[name])} in the file, {_shape(expected[name])} in the model"
        for name in expected
        if name in weights and weights[name].shape != expected[name].shape
    ]
    numbers = {name: weights[name] for name, own in expected.items() if name in weights and own.is_floating_point()}
    kinds = {
        "missing from the file": missing,
        "not in the model": unexpected,
        "of another shape": other_shape,
        "of another type": [
            f"{name} is {_type(x)} in the file" for name, x in numbers.items() if x.dtype not in FLOATS
        ],
        "not finite": [name for name, x in numbers.items() if x.dtype in FLOATS and not x.isfinite().all()],
    }
    if not any(kinds.values()):
        return
    counts = ", ".join(f"{len(tensors)} {kind}" for kind, tensors in kinds.items() if tensors)
    lines = [
        f"{file} is not a checkpoint of {model}, which has {len(expected)} tensors: {counts} (names as in attnzoo)"
    ]
    for kind, tensors in kinds.items():
        if tensors:
            lines += [f"{kind}:", *(f"  {tensor}" for tensor in tensors[:LISTED])]
        if len(tensors) > LISTED:
            lines.append(f"  and {len(tensors) - LISTED} more")
    raise MultilineError("\n".join(lines))


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


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
@click.option("--model", required=True, metavar="NAME", help="Model of the checkpoint; see `attnzoo list`.")
@click.option("--output", required=True, metavar="DIR", type=click.Path(path_type=Path), help="Directory to write.")
@click.option("--overwrite", is_flag=True, help="Replace an existing converted model.")
def convert_command(official_file: Path, model: str, output: Path, overwrite: bool) -> None:
    """Convert an official checkpoint to timm's layout.

    OFFICIAL_FILE is the checkpoint that the authors of a model published, .pth or .safetensors, or the work directory
    of attnzoo train. No code in it is run. An average of the weights in it (EMA) is preferred, as in timm.
    DIR receives config.json and model.safetensors and is opened with
    timm.create_model("local-dir:DIR", pretrained=True). The number of classes is taken from the file. If the file does
    not match the model, the differences are listed and nothing is written.

    Example: attnzoo convert nat_mini.pth --model nat_mini --output models/nat_mini
    """
    done = convert(official_file, model, output, overwrite=overwrite)
    if done.unused:
        click.echo(f"note: {', '.join(done.unused)} in the file may also hold weights and was not used", err=True)
    click.echo(f"{output}: {done.model}, {done.num_classes} classes, from {done.file}")
    click.echo(f"sha256 {done.sha256}")
    if done.published_url:
        click.echo(f"published at {done.published_url}")
    click.echo(f'load it with timm.create_model("local-dir:{output}", pretrained=True)')


if __name__ == "__main__":
    import sys

    from attnzoo.tools.cli import main

    main(["convert", *sys.argv[1:]])
