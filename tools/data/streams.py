"""Shards as a stream of batches, which can start at any step.

Every worker of a process has a lane: its own shards, in an order that follows from the seed and the epoch, and a
shuffle buffer. Batch n of a process comes from lane n modulo the number of workers, the order of a DataLoader. So the
result of a run depends on the number of workers, unlike for data sets that are read by index.
"""

from __future__ import annotations

import io
import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from ..images import UnreadableImageError, apply_transform, read_image
from .samples import collate, seeded
from .sampling import folded, share, spread
from .shards import Picture, Shards
from .transforms import Transform


class StreamedImages:
    """Samples with `images` (C, H, W) and `labels`, in the order of the shards.

    Args:
        source: the shards.
        transform: maps an image to a tensor.
        channels: 1 for grayscale, 3 for RGB.
    """

    def __init__(self, source: Shards, transform: Transform, channels: int) -> None:
        self.source, self.transform, self.channels = source, transform, channels
        self.classes, self.remarks = source.classes, source.remarks
        # unknown before the shards are read
        self.labels = None

    def __len__(self) -> int:
        return len(self.source)

    def load(self, picture: Picture, seed: int | None) -> dict[str, Any]:
        """Decodes and transforms an image; the seed determines its augmentation.

        Raises:
            UnreadableImageError: the image cannot be read, or has no label.
        """
        if picture.problem or picture.file is None:
            raise UnreadableImageError(picture.problem)
        with seeded(seed):
            image = read_image(io.BytesIO(picture.file), self.channels, picture.name)
            images = apply_transform(self.transform, picture.name, image)
        return {"images": images, "labels": picture.label, "name": picture.name, "unreadable": []}

    def collate(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Collates samples to a batch, see `attnzoo.tools.data.collate`."""
        return collate(samples)

    def try_out(self, seed: int) -> None:
        """Loads and augments the first readable image, so that errors are raised before training.

        Raises:
            UnreadableImageError: no image can be read.
        """
        sample: dict[str, Any] = {"unreadable": ["the shards are empty"]}
        for picture in itertools.chain.from_iterable(map(self.source.read, self.source.urls)):
            if len(sample := self._load_or_note(picture, seed)) > 1:
                return
        raise UnreadableImageError(f"no image of any shard can be read; the last: {sample['unreadable'][0]}")

    def batch(self, pictures: Sequence[Picture], seeds: Sequence[int | None]) -> dict[str, Any]:
        """Loads images as a batch, without those that cannot be read."""
        return self.collate([self._load_or_note(*drawn) for drawn in zip(pictures, seeds, strict=True)])

    def _load_or_note(self, picture: Picture, seed: int | None) -> dict[str, Any]:
        try:
            return self.load(picture, seed)
        except UnreadableImageError as error:
            return {"unreadable": [str(error)]}


class TrainStream(IterableDataset[dict[str, Any]]):
    """The batches of one process in an epoch, for a DataLoader with batch_size=None.

    A lane that runs out of images before the end of an epoch starts its shards again; a lane with too many images does
    not read all of them. In the next epoch the shards are assigned to other lanes. An image that cannot be read is
    replaced by another one of its batch, so that a batch does not depend on whether earlier batches were decoded.

    Args:
        images: the samples.
        batch_size: images per optimizer step.
        parts: accumulated batches per step and process.
        rank: rank of this process.
        processes: number of processes.
        seed: seed of the order and of the augmentation.
        workers: data loading processes of this process; 0 loads in the process.

    Raises:
        ValueError: the batch size cannot be split evenly, or there are too few images or shards.
    """

    def __init__(
        self,
        images: StreamedImages,
        batch_size: int,
        *,
        parts: int = 1,
        rank: int = 0,
        processes: int = 1,
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        self.images, self.seed = images, seed
        self.batch_size = share(len(images), batch_size, parts, processes)
        self.parts, self.rank, self.processes, self.lanes = parts, rank, processes, max(1, workers)
        self.epoch = self.first = 0
        shards = len(images.source.urls)
        if shards < processes * self.lanes:
            raise ValueError(
                f"{processes} processes x {self.lanes} workers need one shard each, got {shards} shards: "
                f"{f'lower workers to {shards // processes}, or ' if shards >= processes else ''}write more and "
                "smaller shards"
            )

    @property
    def steps(self) -> int:
        """Number of optimizer steps per epoch."""
        return len(self.images) // self.batch_size

    def __len__(self) -> int:
        return self.steps * self.parts - self.first

    def start(self, epoch: int, batch: int) -> None:
        """Sets the epoch, and the index of the first batch, of the next iteration."""
        self.epoch, self.first = epoch, batch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        # the DataLoader asks worker 0 first, so it must yield the first batch, whichever lane that is from
        lane = (self.first + (0 if worker is None else worker.id)) % self.lanes
        base, size = spread(self.seed, self.epoch), self.batch_size // (self.parts * self.processes)
        pictures = self._shuffled(base, self.rank * self.lanes + lane)
        for batch in range(lane, self.steps * self.parts, self.lanes):
            drawn = [next(pictures) for _ in range(size)]
            if batch >= self.first:
                begin = (batch * self.processes + self.rank) * size
                yield self._filled(drawn, [folded(spread(base, begin + i)) for i in range(size)])

    def _shuffled(self, base: int, lane: int) -> Iterator[Picture]:
        """Yields the images of a lane in an endless loop, each image once per round."""
        # all lanes use the same order, and each takes its share of it
        urls = list(self.images.source.urls)
        random.Random(base).shuffle(urls)
        own, draw = urls[lane :: self.processes * self.lanes], random.Random(spread(base, lane))
        while True:
            buffer: list[Picture] = []
            for picture in itertools.chain.from_iterable(map(self.images.source.read, own)):
                buffer.append(picture)
                if len(buffer) > self.images.source.shuffle:
                    yield _pop(buffer, draw)
            if not buffer:
                # reported in a batch, because the message of an exception in a worker is its traceback
                buffer.append(Picture(own[0], None, None, f"there are no images in {', '.join(own)}"))
            while buffer:
                yield _pop(buffer, draw)

    def _filled(self, pictures: Sequence[Picture], seeds: Sequence[int]) -> dict[str, Any]:
        batch = self.images.batch(pictures, seeds)
        readable = len(batch.get("name", ()))
        if not readable or readable == len(pictures):
            return batch
        by_name = {picture.name: picture for picture in pictures}
        chosen = [by_name[name] for name in batch["name"]]
        # repeat the readable images in turn until the batch is full
        again = [chosen[index % readable] for index in range(len(pictures))]
        return {**self.images.batch(again, seeds), "unreadable": batch["unreadable"]}


class ValStream(IterableDataset[dict[str, Any]]):
    """Each sample once, without augmentation. Every worker of a process reads its own shards; some may have none.

    Args:
        images: the samples.
        batch_size: images per batch.
        rank: rank of this process.
        processes: number of processes.
    """

    # the number of batches that every process has is unknown before they are read
    common = 0

    def __init__(self, images: StreamedImages, batch_size: int, *, rank: int = 0, processes: int = 1) -> None:
        self.images, self.batch_size, self.rank, self.processes = images, batch_size, rank, processes

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        index, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        pictures: list[Picture] = []
        for url in self.images.source.urls[self.rank * workers + index :: self.processes * workers]:
            for picture in self.images.source.read(url):
                pictures.append(picture)
                if len(pictures) == self.batch_size:
                    yield self.images.batch(pictures, [None] * len(pictures))
                    pictures = []
        if pictures:
            yield self.images.batch(pictures, [None] * len(pictures))


def _pop(buffer: list[Picture], draw: random.Random) -> Picture:
    index = draw.randrange(len(buffer))
    # swap with the last one, so that no elements are moved
    buffer[index], buffer[-1] = buffer[-1], buffer[index]
    return buffer.pop()
