"""Training data has the same bytes with any runner, is never partial, and needs a feature table that matches the spec."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml.compute.runner import LocalRunner, SparkRunner
from ml.datasets.reader import BlockReader
from ml.datasets.shards import read_blocks, shards_of
from ml.datasets.splits import SPLITS, hash_positions
from ml.datasets.write import write_day
from ml.lake import Lake, MissingPartition
from tests.helpers.feature_table import DAY, make_spec, make_table, write_table

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

T = TypeVar("T")
R = TypeVar("R")

HASHED = {"by": "hash", "validation": 0.2, "test": 0.3}


def digests(lake: Lake, day: str = DAY) -> dict[str, str]:
    """Returns the SHA-256 of every file of a written day, including the manifest, by its path inside the partition."""
    folder = Path(lake.partition("mds_datasets", "made", day).path)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("splits", [{"by": "time", "validation": 0.1, "test": 0.1}, HASHED])
def test_same_bytes_for_any_division_into_tasks(lake: Lake, splits: dict[str, float]) -> None:
    spec = make_spec(**splits)
    write_table(lake, spec, 1000)
    found = []
    for task_windows, parts in ((1, 3), (3, 1), (100, 7), (1, 3)):
        write_table(lake, spec, 1000, parts=parts)
        write_day(spec, DAY, lake, LocalRunner(), block_rows=16, window_blocks=4, task_windows=task_windows)
        found.append(digests(lake))
    assert found[0] == found[1] == found[2] == found[3]
    write_day(spec, DAY, lake, LocalRunner(), block_rows=16, window_blocks=4, seed=1)
    assert digests(lake) != found[0]


class RepeatingRunner(LocalRunner):
    """Runs each task twice, as Spark does if an executor is lost after it has finished a task."""

    def map(self, function: Callable[[T], R], tasks: Sequence[T]) -> list[R]:
        super().map(function, tasks)
        return super().map(function, tasks)


def test_same_bytes_if_tasks_run_twice(lake: Lake) -> None:
    spec = make_spec(**HASHED)
    write_table(lake, spec, 500)
    found = []
    for runner in (LocalRunner(), RepeatingRunner()):
        write_day(spec, DAY, lake, runner, block_rows=16, window_blocks=4)
        found.append(digests(lake))
    assert found[0] == found[1]


@pytest.mark.slow
def test_same_bytes_on_spark(lake: Lake, spark: SparkSession) -> None:
    spec = make_spec()
    write_table(lake, spec, 1000)
    write_day(spec, DAY, lake, LocalRunner(), block_rows=16, window_blocks=4)
    here = digests(lake)
    write_day(spec, DAY, lake, SparkRunner(spark), block_rows=16, window_blocks=4, task_windows=2)
    assert digests(lake) == here


def test_statistics_manifest_and_files_agree(lake: Lake) -> None:
    spec = make_spec(validation=0.2, test=0.0)
    write_table(lake, spec, 1000)
    written = write_day(spec, DAY, lake, LocalRunner(), block_rows=16, window_blocks=4)
    folder = Path(lake.partition("mds_datasets", "made", DAY).path)
    manifest = lake.manifest("mds_datasets", "made", DAY)
    assert written.rows == {"train": 800, "validation": 200, "test": 0}
    assert manifest["rows"] == 1000 and manifest["fingerprint"] == spec.fingerprint
    assert (manifest["block_rows"], manifest["window_blocks"], manifest["seed"]) == (16, 4, 0)
    assert written.bytes == sum(path.stat().st_size for path in folder.rglob("*.zstd"))
    assert {path.name for path in folder.iterdir()} == {"manifest.json", "train", "validation"}
    for split in SPLITS:
        entry = manifest["splits"][split]
        assert sum(entry["windows"]) == entry["rows"] == written.rows[split]
        assert entry["blocks"] == written.blocks[split] == sum(-(-rows // 16) for rows in entry["windows"])


def test_shards_stay_below_the_size_limit(lake: Lake) -> None:
    spec = make_spec()
    table = write_table(lake, spec, 1000)
    write_day(spec, DAY, lake, LocalRunner(), block_rows=16, window_blocks=8, size_limit=5000)
    folder = Path(lake.partition("mds_datasets", "made", DAY).path)
    shards = json.loads((folder / "train" / "index.json").read_text())["shards"]
    assert len(shards) > 800 // 128 + 1 and all(shard["raw_data"]["bytes"] <= 5000 for shard in shards)
    reader = BlockReader(lake, spec, [DAY], splits=SPLITS, batch_size=1000)
    assert [b.event_time.tolist() for b in reader] == [table["event_time"].to_pylist()]


def test_rows_are_permuted_within_a_window_and_stay_in_it(lake: Lake) -> None:
    spec = make_spec(validation=0, test=0)
    write_table(lake, spec, 512)
    write_day(spec, DAY, lake, LocalRunner(), block_rows=32, window_blocks=8)
    shards = shards_of(lake, spec, DAY, "train")
    places = [np.concatenate(read_blocks(shard)["position"]).view(np.int64) for shard in shards]
    assert [sorted(window.tolist()) for window in places] == [[*range(256)], [*range(256, 512)]]
    for window in places:
        assert np.abs(np.diff(window)).mean() == pytest.approx(256 / 3, rel=0.2)  # the mean in a random order


def test_hashes_of_positions_are_distinct_and_spread_evenly() -> None:
    mixed = hash_positions(12345, np.arange(200_000))
    assert np.unique(mixed).size == mixed.size
    assert np.histogram(mixed >> np.uint64(56), bins=256)[0].std() < 2 * np.sqrt(200_000 / 256)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.set_column(0, "event_time", pa.array(np.arange(300)[::-1].copy())), "row 1 has an earlier event time"),
        (lambda t: t.set_column(t.schema.get_field_index("d1"), "d1", pa.nulls(300, pa.float32())), "'d1' has 64 nulls"),
        (
            lambda t: t.set_column(t.schema.get_field_index("m0"), "m0", pa.array([[]] * 300, pa.list_(pa.int64()))),
            "'m0' has a null in a list, or an empty list",
        ),
        (lambda t: t.drop_columns(["s1"]), "not the feature table of made"),
        (lambda t: t.replace_schema_metadata({}), "found none"),
    ],
)
def test_an_invalid_feature_table_is_refused(lake: Lake, change: object, message: str) -> None:
    spec = make_spec()
    write_table(lake, spec, 300, parts=1)
    path = Path(lake.partition("cleaned_features", "made", DAY).path) / "rows" / "part-00000.parquet"
    table = make_table(spec, 300)
    pq.write_table(change(table).replace_schema_metadata(change(table).schema.metadata), path)  # type: ignore[operator]
    with pytest.raises(ValueError, match=message):
        write_day(spec, DAY, lake, LocalRunner(), block_rows=16, window_blocks=4)
    assert not lake.has("mds_datasets", "made", DAY)


def test_disorder_between_windows_is_refused(lake: Lake) -> None:
    spec = make_spec()
    write_table(lake, spec, 300, parts=2)
    rows = Path(lake.partition("cleaned_features", "made", DAY).path) / "rows"
    (rows / "part-00000.parquet").rename(rows / "part-00002.parquet")
    with pytest.raises(ValueError, match="row 150 has an earlier event time"):
        write_day(spec, DAY, lake, LocalRunner(), block_rows=15, window_blocks=10)


def test_arguments_are_checked(lake: Lake) -> None:
    spec = make_spec()
    with pytest.raises(MissingPartition):
        write_day(spec, DAY, lake, LocalRunner())
    for name in ("block_rows", "window_blocks", "size_limit", "task_windows"):
        with pytest.raises(ValueError, match=f"{name}: expected at least 1"):
            write_day(spec, DAY, lake, LocalRunner(), **{name: 0})
    with pytest.raises(ValueError, match="compression: expected"):
        write_day(spec, DAY, lake, LocalRunner(), compression="gz")


WRITER = """
import sys
from tests.helpers.feature_table import DAY, make_spec
from ml.datasets.write import write_day
from ml.lake import Lake
from ml.compute.runner import LocalRunner
write_day(make_spec(), DAY, Lake.at(sys.argv[1]), LocalRunner(), block_rows=16, window_blocks=1, task_windows=1)
"""


@pytest.mark.slow
def test_kill_in_the_middle_then_rerun_gives_the_same_bytes(lake: Lake) -> None:
    spec = make_spec()
    write_table(lake, spec, 16 * 600)
    staging = Path(lake.partition("mds_datasets", "made", DAY).path).parent / ".staging" / DAY
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(lake.root)], stderr=subprocess.PIPE)
    while len(list(staging.glob("train/*"))) < 20:
        assert writer.poll() is None, writer.stderr and writer.stderr.read().decode()
        time.sleep(0.005)
    writer.send_signal(signal.SIGKILL)
    assert writer.wait() == -signal.SIGKILL
    assert not lake.has("mds_datasets", "made", DAY) and len(list(staging.glob("train/*"))) < 500
    write_day(spec, DAY, lake, LocalRunner(), block_rows=16, window_blocks=1)
    again = digests(lake)
    assert not list(staging.parent.iterdir()), "the files of the killed writer are deleted"
    clean = Lake.at(lake.root.parent / "clean")
    write_table(clean, spec, 16 * 600)
    write_day(spec, DAY, clean, LocalRunner(), block_rows=16, window_blocks=1)
    assert again == digests(clean)
