"""Shards as a stream of batches: which process and worker reads which, in which order, from any step on.

Every reader, a worker of a process, has a lane: shards of its own, in an order that the seed and the epoch decide, and
a buffer that the next picture is drawn from. Batch n of a process is from lane n modulo the workers, as a DataLoader
asks them in turn. So the workers, unlike for data sets with an index, are part of what decides a run.
"""

from __future__ import annotations

import io
import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from ..images import UnreadableImageError, read_image
from .samples import collate, seeded
from .sampling import folded, share, spread
from .shards import Picture, Shards
from .transforms import Transform


class StreamedImages:
    """Samples `images` (C, H, W) and `labels`, in the order of shards.

    Args:
        source: the shards.
        transform: from a picture to its tensor.
        channels: 1 for grey pictures, 3 for RGB.
    """

    def __init__(self, source: Shards, transform: Transform, channels: int) -> None:
        self.source, self.transform, self.channels = source, transform, channels
        self.classes = source.classes

    def __len__(self) -> int:
        return len(self.source)

    def load(self, picture: Picture, seed: int | None) -> dict[str, Any]:
        """Reads and prepares a picture, augmented as the seed says.

        Raises:
            UnreadableImageError: it cannot be read, or has no class.
        """
        if picture.problem or picture.file is None:
            raise UnreadableImageError(picture.problem)
        with seeded(seed):
            image = read_image(io.BytesIO(picture.file), self.channels, picture.name)
            return {"images": self.transform(image), "labels": picture.label, "name": picture.name, "unreadable": []}

    def collate(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """A batch, see `attnzoo.tools.data.collate`."""
        return collate(samples)

    def try_out(self, seed: int) -> None:
        """Reads and augments the first picture that can be read, so that mistakes show before training.

        Raises:
            UnreadableImageError: there is none.
        """
        sample: dict[str, Any] = {"unreadable": ["they are empty"]}
        for picture in itertools.chain.from_iterable(map(self.source.read, self.source.urls)):
            if len(sample := self._load_or_note(picture, seed)) > 1:
                return
        raise UnreadableImageError(f"no picture of any shard can be read; the last: {sample['unreadable'][0]}")

    def batch(self, pictures: Sequence[Picture], seeds: Sequence[int | None]) -> dict[str, Any]:
        """A batch of these pictures, without those that cannot be read."""
        return self.collate([self._load_or_note(*drawn) for drawn in zip(pictures, seeds, strict=True)])

    def _load_or_note(self, picture: Picture, seed: int | None) -> dict[str, Any]:
        try:
            return self.load(picture, seed)
        except UnreadableImageError as error:
            return {"unreadable": [str(error)]}


class TrainStream(IterableDataset[dict[str, Any]]):
    """The batches of one process and epoch, for a DataLoader with batch_size=None.

    A lane whose shards end before the epoch begins them again; what the others have too many waits for another epoch,
    in which other shards are its. A picture that cannot be read is replaced by another of its batch, so that batches
    hold the same pictures whether or not those before were decoded.

    Args:
        images: samples.
        batch_size: images per optimizer step.
        parts: batches per process that accumulate to a step.
        rank: of this process.
        processes: their number.
        seed: of the order and of the augmentation.
        workers: that read for this process; 0 reads in it.

    Raises:
        ValueError: a step cannot be shared evenly, the images do not fill one, or there are too few shards.
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
                f"{shards} shards cannot be shared among {processes} processes x {self.lanes} workers, each needs one: "
                f"{f'lower workers to {shards // processes}, or ' if shards >= processes else ''}write more and "
                "smaller shards"
            )

    @property
    def steps(self) -> int:
        """Optimizer steps of an epoch."""
        return len(self.images) // self.batch_size

    def __len__(self) -> int:
        return self.steps * self.parts - self.first

    def start(self, epoch: int, batch: int) -> None:
        """The next iteration gives the batches of `epoch` from number `batch` on."""
        self.epoch, self.first = epoch, batch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        # the worker that is asked first gives the first batch, whichever lane that is from
        lane = (self.first + (0 if worker is None else worker.id)) % self.lanes
        base, size = spread(self.seed, self.epoch), self.batch_size // (self.parts * self.processes)
        pictures = self._shuffled(base, self.rank * self.lanes + lane)
        for batch in range(lane, self.steps * self.parts, self.lanes):
            drawn = [next(pictures) for _ in range(size)]
            if batch >= self.first:
                begin = (batch * self.processes + self.rank) * size
                yield self._filled(drawn, [folded(spread(base, begin + i)) for i in range(size)])

    def _shuffled(self, base: int, lane: int) -> Iterator[Picture]:
        """The pictures of a lane, each once before any comes again, without an end."""
        # the same order in every lane, of which each takes its share
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
                # told as part of a batch: what a worker raises has its traceback for a message
                buffer.append(Picture(own[0], None, None, f"there are no pictures in {', '.join(own)}"))
            while buffer:
                yield _pop(buffer, draw)

    def _filled(self, pictures: Sequence[Picture], seeds: Sequence[int]) -> dict[str, Any]:
        batch = self.images.batch(pictures, seeds)
        readable = len(batch.get("name", ()))
        if not readable or readable == len(pictures):
            return batch
        by_name = {picture.name: picture for picture in pictures}
        chosen = [by_name[name] for name in batch["name"]]
        # those of the batch that can be read, in turn, as often as it takes
        again = [chosen[index % readable] for index in range(len(pictures))]
        return {**self.images.batch(again, seeds), "unreadable": batch["unreadable"]}


class ValStream(IterableDataset[dict[str, Any]]):
    """Each sample once, as it is: every process and worker reads shards of its own, and some may have none.

    Args:
        images: samples.
        batch_size: images per batch.
        rank: of this process.
        processes: their number.
    """

    # how many batches every process has is not known before they are read
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
    # the last takes its place: nothing is moved up
    buffer[index], buffer[-1] = buffer[-1], buffer[index]
    return buffer.pop()
