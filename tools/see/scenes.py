"""What is drawn: a picture as the network sees it, what its layers attend to, and Grad-CAM of its prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm.data
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnzoo.explanation import Explanation, attention_layers, explain
from attnzoo.explanation.grad_cam import cam_and_layer
from attnzoo.explanation.maps import UnknownLayoutError, scaled, weighted_map

from ..images import apply_transform, read_image
from ..models import model_directory, open_model, stored_task

# layers that are drawn unless they are named
SHOWN = 4
# queries that are drawn unless one is given
TELLING = 3


@dataclass(frozen=True)
class Scene:
    """A picture and what a network makes of it.

    Attributes:
        name: name of the file.
        picture: (H, W, 3), red, green and blue, 0 .. 1, as the network sees it.
        prediction: the predicted class and its score, or the number of objects.
        cam: (H, W), Grad-CAM of the prediction, 0 .. 1.
        layers: the explanations of the layers, whose `at` answers for any query.
        cam_layer: name of the layer whose map Grad-CAM reads; `features` for the output of `forward_features`.
        cam_size: rows and columns of that map.
    """

    name: str
    picture: Tensor
    prediction: str
    cam: Tensor
    layers: tuple[Explanation, ...]
    cam_layer: str = "features"
    cam_size: tuple[int, int] = (0, 0)

    def telling(self) -> list[tuple[int, int]]:
        """Returns the queries (row, column) with the highest Grad-CAM, at a distance from each other."""
        height, width = self.cam.shape
        left, found = self.cam.clone(), []
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        for _ in range(TELLING):
            row, column = divmod(int(left.argmax()), width)
            found.append((row, column))
            near = (rows - row) ** 2 + (columns - column) ** 2 < (min(height, width) / 4) ** 2
            left = left.masked_fill(near, -1)
        return found


Viewer = Callable[[Path], Scene]


def open_viewer(
    model: str, layers: Sequence[str | int], *, pretrained: bool = False, device: str | torch.device = "cpu"
) -> Viewer:
    """Opens a model, and returns a function that makes the scene of an image file.

    Args:
        model: a directory that `attnzoo train` wrote, of a classifier or a detector, or a model name in timm.
        layers: names or indices of attention layers; empty for the last layer of up to four stages.
        pretrained: load the published weights of a model name.
        device: the device that runs the network; scenes are on the CPU.

    Raises:
        ValueError: the model or a layer is unknown, the model is a segmenter, or the network has no attention and
            layers were named.
    """
    import attnzoo  # noqa: F401  registers the models

    task = stored_task(model)
    if task == "segmentation":
        raise ValueError(
            f"{model} is a network for segmentation: `attnzoo see` takes classifiers and detectors; use attnzoo predict"
        )
    if task == "detection":
        return _open_detector(Path(model_directory(model)), layers, device)
    return _open_classifier(model, layers, pretrained, device)


def _open_classifier(model: str, layers: Sequence[str | int], pretrained: bool, device: str | torch.device) -> Viewer:
    from ..data import val_transform
    from ..predict import class_names

    network, origin = open_model(model, pretrained=pretrained)
    network.to(device).eval().requires_grad_(False)
    wanted = timm.data.resolve_model_data_config(network)
    labels, transform = class_names(network, origin), val_transform(wanted)
    chosen = _chosen(network, layers)

    def view(file: Path) -> Scene:
        picture = read_image(file, wanted["input_size"][0])
        images = apply_transform(transform, str(file), picture).unsqueeze(0).to(device)
        with torch.no_grad():
            score, index = network(images).float().softmax(1).max(1)
        cam, cam_layer = cam_and_layer(network, images)
        return Scene(
            file.name,
            _visible(images[0].cpu(), wanted["mean"], wanted["std"]),
            f"{labels[int(index)]} {float(score):.1%}",
            _enlarged(cam, images),
            _explained(network, images, chosen, is_named=bool(layers)),
            cam_layer,
            (cam.shape[1], cam.shape[2]),
        )

    return view


def _open_detector(directory: Path, layers: Sequence[str | int], device: str | torch.device) -> Viewer:
    from ..detection.data import to_tensor
    from ..detection.files import open_detector

    detector, config = open_detector(directory)
    detector.to(device).eval().requires_grad_(False)
    body, preprocessing = detector.backbone.body, config["preprocessing"]
    chosen = _chosen(body, layers)

    def view(file: Path) -> Scene:
        image = apply_transform(to_tensor, str(file), read_image(file, len(preprocessing["mean"])))
        seen: dict[str, Tensor] = {}

        def keep_images(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen["images"] = args[0]

        def keep_features(module: nn.Module, args: Any, out: list[Tensor]) -> list[Tensor]:
            seen["features"] = out[-1].detach().requires_grad_()
            return [*out[:-1], seen["features"]]

        handles = [body.register_forward_pre_hook(keep_images), body.register_forward_hook(keep_features)]
        try:
            with torch.enable_grad():
                (found,) = detector([image.to(device)])
                scores = found["scores"]
                gradient = torch.zeros_like(seen["features"])
                if len(scores):
                    (gradient,) = torch.autograd.grad(scores.sum(), seen["features"])
        finally:
            for handle in handles:
                handle.remove()
        images = seen["images"]
        maps = [x.detach() for x in (seen["features"], gradient)]
        if detector.backbone.is_channel_last:
            maps = [x.permute(0, 3, 1, 2) for x in maps]
        best = (
            f", the best {config['label_names'][int(found['labels'][0])]} {float(scores[0]):.1%}" if len(scores) else ""
        )
        cam = weighted_map(*maps)
        return Scene(
            file.name,
            _visible(images[0].cpu(), preprocessing["mean"], preprocessing["std"]),
            f"{len(scores)} objects{best}",
            _enlarged(cam, images),
            _explained(body, images, chosen, is_named=bool(layers)),
            cam_size=(cam.shape[1], cam.shape[2]),
        )

    return view


def _chosen(network: nn.Module, layers: Sequence[str | int]) -> list[str | int | None]:
    if layers:
        return list(layers)
    names = attention_layers(network, of_positions=True) or attention_layers(network)
    if not names:
        return []
    # the part of a name before the number of its block
    last = {name.rpartition(".blocks.")[0] or name: name for name in names}
    stages = list(last.values())
    step = max(1, -(-len(stages) // SHOWN))
    return list(reversed(stages[::-1][::step]))


def _explained(
    network: nn.Module, images: Tensor, layers: Sequence[str | int | None], *, is_named: bool
) -> tuple[Explanation, ...]:
    """Returns the explanations of layers, without those that read no map of the images unless they were named."""
    found = (_explained_or_none(network, images, layer, is_named=is_named) for layer in layers)
    return tuple(one for one in found if one is not None)


def _explained_or_none(
    network: nn.Module, images: Tensor, layer: str | int | None, *, is_named: bool
) -> Explanation | None:
    try:
        return explain(network, images, layer)
    except UnknownLayoutError:
        if is_named:
            raise
        return None


def _visible(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Returns a preprocessed image (C, H, W) in colours, (H, W, 3)."""
    colours = image * torch.tensor(std).view(-1, 1, 1) + torch.tensor(mean).view(-1, 1, 1)
    if len(colours) not in (1, 3):
        colours = colours.mean(0, keepdim=True)
    return colours.clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0)


def _enlarged(cam: Tensor, images: Tensor) -> Tensor:
    """Returns a map (1, rows, columns) at the size of the images, (H, W), each at most 1, on the CPU."""
    return scaled(F.interpolate(cam.float().unsqueeze(1), images.shape[2:], mode="bilinear")[0, 0]).cpu()
