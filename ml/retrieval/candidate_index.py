"""A day's candidate index: the live items, and their vectors in an index if the dataset has a two-tower model.

items.parquet          a row per item, in ascending order of `key:item`, the hashed item; `event_time` is its last row, and
the other columns describe it
vectors.safetensors    `vectors`, float32 [L, E], in the same order; absent without a two-tower model
ranker.txt             a LambdaRank over candidates in LightGBM's text format; absent unless the entry has `ranking.lambdarank`
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
from ml.lake import MANIFEST, Lake
from ml.models.lambdarank import LambdaRank
from ml.parquet import read_parquet, write_table
from ml.retrieval.index import ItemIndex
from ml.schema import ITEM_KEY
from ml.stages import CANDIDATE_INDEX

ITEMS, VECTORS, RANKER = "items.parquet", "vectors.safetensors", "ranker.txt"


class DamagedIndex(ValueError):
    """A file of a candidate index is missing, has changed since it was written, or cannot be read."""


@dataclass(frozen=True)
class CandidateIndex:
    """The live items of a dataset.

    Attributes:
        items: L rows, in ascending order of `key:item`.
        index: The same items by their vectors; None without a two-tower model.
        ranker: Orders candidates; None without `ranking.lambdarank`, and if nothing was learned on the day.
    """

    items: pa.Table
    index: ItemIndex | None
    ranker: LambdaRank | None = None

    def write(self, folder: UPath) -> dict[str, str]:
        """Write into an existing folder. Returns the SHA-256 of each file by name."""
        write_table(self.items, folder / ITEMS)
        written = [ITEMS]
        if self.index is not None:
            (folder / VECTORS).write_bytes(safetensors.numpy.save({"vectors": self.index.vectors}))
            written.append(VECTORS)
        if self.ranker is not None:
            (folder / RANKER).write_text(self.ranker.text)
            written.append(RANKER)
        return {name: _sha256(folder / name) for name in written}

    @classmethod
    def load(cls, lake: Lake, spec: DatasetSpec, day: str) -> CandidateIndex:
        """Load the index of a day. Cells of an inverted file are built again, which takes seconds for a million items.

        Raises:
            MissingPartition: The day has no index.
            StalePartition: The index was made under another specification of the dataset.
            DamagedManifest: The manifest is not what was written; the message names it.
            DamagedIndex: Another file is missing or has changed since it was written, or the ranker cannot be read; the message
                names it.
        """
        folder = _intact(lake, spec, day)
        items = read_parquet(folder / ITEMS)
        index = None
        if (folder / VECTORS).exists():
            vectors = safetensors.numpy.load((folder / VECTORS).read_bytes())["vectors"]
            index = ItemIndex(items[ITEM_KEY].to_numpy(), np.asarray(vectors, np.float32))
        return cls(items, index, _ranker(folder))


def load_ranker(lake: Lake, spec: DatasetSpec, day: str) -> LambdaRank | None:
    """Load the LambdaRank of a day, without the items; None if the day has none. Raises as `CandidateIndex.load` does."""
    return _ranker(_intact(lake, spec, day))


def _ranker(folder: UPath) -> LambdaRank | None:
    """Read the LambdaRank of a partition; None without one. Raises `DamagedIndex` if the file has no model that can be read."""
    path = folder / RANKER
    if not path.exists():
        return None
    try:
        return LambdaRank(path.read_text())
    except (ValueError, LookupError, TypeError) as error:
        raise DamagedIndex(f"{path} cannot be read ({error}); materialise {CANDIDATE_INDEX} of {folder.name} again") from error


def _intact(lake: Lake, spec: DatasetSpec, day: str) -> UPath:
    """Return the partition of a day after comparing its files with the manifest. Raises as `CandidateIndex.load` does."""
    folder = lake.require(CANDIDATE_INDEX, spec.name, day, fingerprint=spec.fingerprint)
    files = lake.manifest(CANDIDATE_INDEX, spec.name, day).get("files")
    if not isinstance(files, dict):
        raise DamagedIndex(
            f"{folder / MANIFEST}: files: expected an object, found {files!r:.80}; materialise {CANDIDATE_INDEX} of {day} again"
        )
    for name, wanted in files.items():
        if not (folder / name).exists() or _sha256(folder / name) != wanted:
            raise DamagedIndex(
                f"{folder / name} is missing, or has changed since it was written; materialise {CANDIDATE_INDEX} of {day} again"
            )
    return folder


def _sha256(path: UPath) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
