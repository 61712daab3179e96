"""A small stream, and a process that trains on it, for tests of online training of arriving rows.

python -m tests.helpers.arriving FOLDER SLICES
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.logs.ingest_task import raw_schema
from ml.online.arriving import follow
from ml.online.arriving_day import ArrivingOptions, TrainedSlice
from ml.online.stream import StreamFolder, stream_folder
from ml.sync.folder import SyncFolder
from tests.helpers.training_days import FIRST, made_spec, small_recipe

SPEC = made_spec()
LOG = logging.getLogger(__name__)
COUNTED = made_spec(
    feature_tables=[{"name": "of_a", "entity": ["a"], "values": [{"name": "seen", "count": {"hours": 24}}]}],
    sparse=["a", "b", {"name": "tags", "split": "|"}, {"name": "often", "column": "seen", "bucketise": [1, 4, 16, 64]}],
)
"""The same log with a feature table: values depend on the order of events, and on the day before."""
DAYS = [FIRST, "2026-01-02"]
START = 1_767_225_600  # seconds, 2026-01-01


def recipe(**online: object):  # type: ignore[no-untyped-def]
    return small_recipe(online=online)


def rows_of(day: int, first: int, count: int) -> pa.Table:
    """Rows whose label depends on feature `a`."""
    rng = np.random.default_rng([day, first])
    a = rng.integers(0, 6, count)
    time = START + day * 86_400 + first + np.arange(count)
    columns = {
        "event_time": time * 1_000_000,
        "d0": rng.standard_normal(count),
        "d1": rng.standard_normal(count),
        "a": [f"a{n}" for n in a],
        "b": rng.integers(0, 1000, count),
        "tags": [f"t{n}|t{n % 3}" for n in rng.integers(0, 30, count)],
        "time": time,
        "clicked": (rng.random(count) < np.where(a % 2, 0.9, 0.1)).astype(np.int64),
    }
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in raw_schema(SPEC.log)})


def write_files(root: UPath, day: int, files: int, rows: int = 64) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        pq.write_table(rows_of(day, number * rows, rows), str(root / f"{DAYS[day]}-{number:03d}.parquet"))


def run(
    folder: Path,
    stop_after: int,
    on_message: Callable[[str], None] = LOG.info,
    crash_after: int | None = None,
    spec: DatasetSpec = SPEC,
    **online: object,
) -> list[TrainedSlice]:
    """Train on what is in the stream, at most `stop_after` slices, and return them. A crash leaves the last checkpoint."""
    done: list[TrainedSlice] = []

    def wait(seconds: float) -> bool:
        return seconds > 0 or len(done) >= stop_after

    stream = StreamFolder.of(spec, stream_folder(UPath(folder), spec.name))
    options = ArrivingOptions(recipe(**online), checkpoint_slices=2, on_message=on_message)
    for one in follow(spec, Lake.at(folder / "lake"), stream, SyncFolder.at(folder / "sync"), folder, wait, options=options):
        done.append(one)
        if len(done) == crash_after:
            break
    return done


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]))
