"""A small segmenter for tests of the training loop: as many steps as the classifier there."""

import importlib.util

import pytest

# neither batch norm nor drop path nor weights of classes: the loss of a batch is the mean of those of its parts
SEGMENTER = (
    "segmentation/digits", "model.name=nat_pico", "model.embed_dim=8", "model.depths=(1,1)", "model.num_heads=(1,2)",
    "decoder.channels=(8,8,8,8,8)", "decoder.use_norm={'type':'instancenorm','affine':True}", "loss.weight=None",
    "data.train_images=44", "data.val_images=5", "epochs=2", "batch_size=4", "optimizer.lr=1e-4", "log_interval=1",
)  # fmt: skip
# a test of it takes longer than one of a classifier
MARKS = (
    pytest.mark.full,
    pytest.mark.skipif(
        importlib.util.find_spec("segmentation_models_pytorch") is None, reason="needs attnzoo[segmentation]"
    ),
)
