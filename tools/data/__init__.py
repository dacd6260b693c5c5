"""Pictures to train on and to judge by: data sets by name, and what takes their pictures to tensors and batches."""

from .classification import DATASETS, open_classification
from .detection import DETECTION_DATASETS, BoxedImages, open_detection
from .embedded import digits, photographs
from .samples import Draw, Samples, collate
from .sampling import TrainBatches, ValBatches
from .transforms import PREPROCESSING, preprocessing, train_transform, val_transform

__all__ = [
    "DATASETS",
    "DETECTION_DATASETS",
    "PREPROCESSING",
    "BoxedImages",
    "Draw",
    "Samples",
    "TrainBatches",
    "ValBatches",
    "collate",
    "digits",
    "open_classification",
    "open_detection",
    "photographs",
    "preprocessing",
    "train_transform",
    "val_transform",
]
