"""A day's candidate index: the live items, and their vectors in an index if the dataset has a two-tower model.

items.parquet          a row per item, in ascending order of `key:item`, the hashed item; `event_time` is its last row, and
the other columns describe it
vectors.safetensors    `vectors`, float32 [L, E], in the same order; absent without a two-tower model
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import safetensors
import safetensors.numpy
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.parquet import read_parquet, write_table
from ml.retrieval.index import ItemIndex
from ml.schema import ITEM_KEY
from ml.stages import CANDIDATE_INDEX

ITEMS, VECTORS = "items.parquet", "vectors.safetensors"


class DamagedIndex(ValueError):
    """A file of a candidate index has changed since it was written."""


@dataclass(frozen=True)
class CandidateIndex:
    """The live items of a dataset.

    Attributes:
        items: L rows, in ascending order of `key:item`.
        index: The same items by their vectors; None without a two-tower model.
    """

    items: pa.Table
    index: ItemIndex | None

    def write(self, folder: UPath) -> dict[str, str]:
        """Write into an existing folder. Returns the SHA-256 of each file by name."""
        write_table(self.items, folder / ITEMS)
        written = [ITEMS]
        if self.index is not None:
            (folder / VECTORS).write_bytes(safetensors.numpy.save({"vectors": self.index.vectors}))
            written.append(VECTORS)
        return {name: _sha256(folder / name) for name in written}

    @classmethod
    def load(cls, lake: Lake, spec: DatasetSpec, day: str) -> CandidateIndex:
        """Load the index of a day. Cells of an inverted file are built again, which takes seconds for a million items.

        Raises:
            MissingPartition: The day has no index.
            StalePartition: The index was made under another specification of the dataset.
            DamagedIndex: A file has changed since it was written; the message names it.
        """
        folder = lake.require(CANDIDATE_INDEX, spec.name, day, fingerprint=spec.fingerprint)
        for name, wanted in lake.manifest(CANDIDATE_INDEX, spec.name, day)["files"].items():
            if not (folder / name).exists() or _sha256(folder / name) != wanted:
                raise DamagedIndex(
                    f"{folder / name} is missing, or has changed since it was written; materialise {CANDIDATE_INDEX} of "
                    f"{day} again"
                )
        items = read_parquet(folder / ITEMS)
        if not (folder / VECTORS).exists():
            return cls(items, None)
        vectors = safetensors.numpy.load((folder / VECTORS).read_bytes())["vectors"]
        return cls(items, ItemIndex(items[ITEM_KEY].to_numpy(), np.asarray(vectors, np.float32)))


def _sha256(path: UPath) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
