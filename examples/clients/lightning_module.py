"""Trains a network on digits with Lightning: pip install lightning scikit-learn.

Example: python examples/clients/lightning_module.py nat_pico
"""

from __future__ import annotations

import sys

import lightning
import timm
import torch
import torch.nn.functional as F
from digits import open_digits
from timm.optim import param_groups_weight_decay
from torch import Tensor
from torch.utils.data import DataLoader

import attnzoo  # noqa: F401  registers the models


class Classifier(lightning.LightningModule):
    """A network that timm knows, with cross entropy and AdamW.

    Args:
        name: name of the model.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.network = timm.create_model(name, num_classes=10)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Images (B, C, H, W) and labels (B,) -> the loss."""
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Logs the accuracy of a batch."""
        self.log("accuracy", (self.network(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Returns the optimizer; norms and position tables have no weight decay."""
        groups = param_groups_weight_decay(self.network, 0.05, self.network.no_weight_decay())
        return torch.optim.AdamW(groups, lr=3e-3)


def train(name: str, epochs: int = 3) -> float:
    """Trains a network and returns its accuracy."""
    training, validation = open_digits()
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    model = Classifier(name)
    trainer.fit(model, DataLoader(training, 64, shuffle=True))
    return trainer.validate(model, DataLoader(validation, 297), verbose=False)[0]["accuracy"]


if __name__ == "__main__":
    print(f"accuracy {train(sys.argv[1] if len(sys.argv) > 1 else 'nat_pico'):.1%}")
