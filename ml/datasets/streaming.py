"""mosaicml-streaming over the same files: a loader of blocks that builds batches and resumes at the right one.

For training on many nodes that stream shards from an object store, where StreamingDataset does the downloading, the
caching and the dealing of shards to nodes. On one machine `ml.datasets.reader` reads the same folder, and mixes rows too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

import ml.datasets.torchvision_ops  # noqa: F401  # streaming fails without
from ml.datasets.batch import Batch
from ml.datasets.blocks import Array, Rows
from ml.datasets.collate import batch_from_rows
from ml.features.schema import FeatureSchema

# isort: split
from streaming import StreamingDataLoader, StreamingDataset


class BlockLoader(StreamingDataLoader):
    """Batches of `batch_size` blocks, rows of several blocks in the order of the blocks.

    StreamingDataset counts samples, which are blocks; a loader that counts a batch's rows would resume far behind the
    place it stopped at. `options` are those of torch's DataLoader.

    >>> dataset = StreamingDataset(local="mds_datasets/criteo/2014-01-01/train", batch_size=4)  # doctest: +SKIP
    >>> loader = BlockLoader(dataset, FeatureSchema.of(spec), batch_size=4)  # doctest: +SKIP
    """

    def __init__(self, dataset: StreamingDataset, schema: FeatureSchema, batch_size: int, **options: Any) -> None:
        self._schema = schema
        super().__init__(dataset, batch_size=batch_size, collate_fn=self._collate, **options)

    def __iter__(self) -> Iterator[Batch]:
        for _, batch in super().__iter__():
            yield batch

    def _collate(self, samples: Sequence[dict[str, Array]]) -> tuple[int, Batch]:
        columns = {name: np.concatenate([s[name].ravel().view(np.uint8) for s in samples]) for name in samples[0]}
        return len(samples), batch_from_rows(Rows.from_bytes(columns, self._schema), self._schema)

    def _get_batch_size(self, batch: tuple[int, Batch]) -> int:
        return batch[0]
