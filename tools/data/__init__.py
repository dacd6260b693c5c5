"""Pictures to train on and to judge by: data sets by name, and what takes their pictures to tensors and batches."""

from .classification import DATASETS, open_classification
from .embedded import digits, photographs
from .samples import Draw, Samples, collate
from .sampling import TrainBatches, ValBatches
from .streams import StreamedImages, TrainStream, ValStream
from .transforms import PREPROCESSING, preprocessing, train_transform, val_transform

__all__ = [
    "DATASETS",
    "PREPROCESSING",
    "Draw",
    "Samples",
    "StreamedImages",
    "TrainBatches",
    "TrainStream",
    "ValBatches",
    "ValStream",
    "collate",
    "digits",
    "open_classification",
    "photographs",
    "preprocessing",
    "train_transform",
    "val_transform",
]
