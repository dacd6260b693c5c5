"""Data sets by name, their transforms, samplers and data loaders."""

from .classification import DATASETS, ClassifiedImages, open_classification
from .embedded import digits, photographs
from .loading import WorkerError, cores, explaining_workers, open_loader, train_batches, val_batches, worker_count
from .samples import Draw, Samples, collate
from .sampling import TrainBatches, ValBatches
from .streams import StreamedImages, TrainStream, ValStream
from .transforms import PREPROCESSING, preprocessing, train_transform, val_transform

__all__ = [
    "DATASETS",
    "PREPROCESSING",
    "ClassifiedImages",
    "Draw",
    "Samples",
    "StreamedImages",
    "TrainBatches",
    "TrainStream",
    "ValBatches",
    "ValStream",
    "WorkerError",
    "collate",
    "cores",
    "digits",
    "explaining_workers",
    "open_classification",
    "open_loader",
    "photographs",
    "preprocessing",
    "train_batches",
    "train_transform",
    "val_batches",
    "val_transform",
    "worker_count",
]
