"""A delta of as many rows as in the arithmetic of Monolith (Liu et al., 2022, arXiv 2209.07663), measured.

100,000 ids that are updated in a minute, with 1,024 floats each, are 400 MB a minute. A package also has ids and event times.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from ml.artifacts.delta import ModelDelta
from ml.embeddings.delta import Delta, TableDelta
from ml.sync.folder import SyncFolder
from ml.sync.manifest import PackageManifest, RowFormat
from ml.sync.rows import DELTA_FILE, delta_from_bytes, delta_to_bytes

PAPER_IDS, PAPER_DIM = 100_000, 1024
"""Ids that are updated in a minute, and floats of each, in Monolith's arithmetic: 409.6 MB, rounded to 400 MB."""
_RUN = "study"


@dataclass(frozen=True)
class PaperPackage:
    """A delta of as many rows as in the paper's arithmetic.

    Attributes:
        rows: Format of the rows.
        nbytes: Bytes of the package's files.
        arithmetic: Bytes of the weights alone, as the paper counts them.
        seconds: Wall-clock seconds: `encode` and `write` by the trainer, `read` with verification by the receiver.
    """

    rows: RowFormat
    nbytes: int
    arithmetic: int
    seconds: Mapping[str, float]


def paper_package(rows: RowFormat, ids: int = PAPER_IDS, dim: int = PAPER_DIM) -> PaperPackage:
    """Measure a delta of random rows with the encoding and the folder of a publisher.

    Args:
        rows: Format of the rows.
        ids: Number of rows.
        dim: Weights of a row.
    """
    none = torch.empty(0, dtype=torch.int64)
    weights = torch.randn(ids, dim, generator=torch.Generator().manual_seed(0))
    table = TableDelta(torch.arange(ids), weights, torch.zeros(ids, dtype=torch.int64), none)
    delta = ModelDelta({}, {_RUN: Delta(0, 1, 0, {"ids": table})})
    names = {"dataset": _RUN, "model": _RUN, "run_id": _RUN, "row_format": rows, "files": {}, "published_at": 0.0}
    with tempfile.TemporaryDirectory() as name:
        folder = SyncFolder.at(name)
        whole = {"kind": "snapshot", "version": 0, "steps": {_RUN: 0}, "has_dense": True}
        folder.publish(PackageManifest.model_validate(names | whole), {})
        times = [time.perf_counter()]
        data = delta_to_bytes(delta, rows)
        times.append(time.perf_counter())
        change = {"kind": "delta", "version": 1, "base_version": 0, "steps": {_RUN: 1}, "has_dense": False}
        manifest = folder.publish(PackageManifest.model_validate(names | change), {DELTA_FILE: data})
        times.append(time.perf_counter())
        delta_from_bytes(folder.read(manifest, DELTA_FILE), rows)
        times.append(time.perf_counter())
    encode, write, read = np.diff(times).tolist()
    return PaperPackage(rows, manifest.nbytes, 4 * ids * dim, {"encode": encode, "write": write, "read": read})
