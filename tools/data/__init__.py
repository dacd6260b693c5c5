"""Pictures to train on and to judge by: data sets by name, and what takes their pictures to tensors and batches."""

from .classification import DATASETS, open_classification
from .samples import Draw, Samples, collate
from .sampling import TrainBatches, ValBatches
from .transforms import PREPROCESSING, preprocessing, train_transform, val_transform

__all__ = [
    "DATASETS",
    "PREPROCESSING",
    "Draw",
    "Samples",
    "TrainBatches",
    "ValBatches",
    "collate",
    "open_classification",
    "preprocessing",
    "train_transform",
    "val_transform",
]
