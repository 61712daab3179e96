"""The reader gives each row once, in the requested order, for any seed, batch size, number of ranks and epochs, and schema."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner
from ml.datasets.batch import Batch
from ml.datasets.collate import batch_from_arrow
from ml.datasets.reader import BlockReader
from ml.datasets.shards import CorruptShard
from ml.datasets.splits import SPLITS
from ml.datasets.write import write_day
from ml.lake import Lake, MissingPartition, StalePartition
from ml.schema import FeatureSchema
from tests.helpers.feature_table import DAY, make_spec, make_table, write_table

DAYS = ["2026-01-01", "2026-01-02"]
HASHED = {"by": "hash", "validation": 0.2, "test": 0.3}


def write(lake: Lake, spec: DatasetSpec, day: str = DAY, block_rows: int = 16, window_blocks: int = 4, **options: int) -> None:
    write_day(spec, day, lake, LocalRunner(), block_rows=block_rows, window_blocks=window_blocks, **options)


def ids(batches: Sequence[Batch]) -> list[int]:
    """Returns the first sparse feature of each row, which is the row's number in these tables."""
    return [i for batch in batches for i in batch.sparse["s0"].values().tolist()]


def assert_same(one: Batch, other: Batch) -> None:
    assert one.sparse.keys() == other.sparse.keys()
    assert one.sparse.stride() == other.sparse.stride() == len(one)
    for name in ("dense", "labels", "sample_rate", "event_time"):
        mine, theirs = getattr(one, name), getattr(other, name)
        assert mine.dtype == theirs.dtype and torch.equal(mine, theirs), name
    assert torch.equal(one.sparse.values(), other.sparse.values())
    assert torch.equal(one.sparse.lengths(), other.sparse.lengths())
    assert one.sparse.lengths().dtype == other.sparse.lengths().dtype == torch.int32


@pytest.mark.parametrize("splits", [{"by": "time", "validation": 0.1, "test": 0.1}, HASHED])
@pytest.mark.parametrize(("dense", "single", "multi"), [(3, 4, 1), (0, 2, 0), (2, 1, 3), (0, 1, 2)])
def test_all_splits_in_time_order_equal_the_feature_table(
    lake: Lake, dense: int, single: int, multi: int, splits: dict[str, float]
) -> None:
    spec = make_spec(dense, single, multi, **splits)
    table = write_table(lake, spec, 1003)
    write(lake, spec)
    schema = FeatureSchema.of(spec)
    reader = BlockReader(lake, spec, [DAY], splits=SPLITS, batch_size=100)
    batches = list(reader)
    assert len(batches) == len(reader) == 11 and reader.rows == 1003
    for number, batch in enumerate(batches):
        assert_same(batch, batch_from_arrow(table.slice(number * 100, 100), schema))


def test_only_multi_valued_features(lake: Lake) -> None:
    spec = make_spec(dense=0, single=0, multi=2)
    table = write_table(lake, spec, 200)
    write(lake, spec)
    (batch,) = BlockReader(lake, spec, [DAY], splits=SPLITS, batch_size=200)
    assert_same(batch, batch_from_arrow(table, FeatureSchema.of(spec)))


def test_a_batch_holds_the_table_key_by_key() -> None:
    spec = make_spec(dense=2, single=2, multi=2)
    table = make_table(spec, 50)
    for given in (table, table.combine_chunks().to_batches()[0]):
        batch = batch_from_arrow(given, FeatureSchema.of(spec))
        assert batch.sparse.keys() == ["s0", "s1", "m0", "m1"]
        assert batch.dense.T.tolist() == [table["d0"].to_pylist(), table["d1"].to_pylist()]
        for key in ("s0", "s1"):
            assert batch.sparse[key].values().tolist() == table[key].to_pylist()
        for key in ("m0", "m1"):
            lists = [part.tolist() for part in batch.sparse[key].to_dense()]
            assert lists == table[key].to_pylist()


@pytest.mark.parametrize("order", ["time", "shuffled"])
@pytest.mark.parametrize("splits", [{"by": "time", "validation": 0.1, "test": 0.1}, HASHED])
@pytest.mark.parametrize(
    ("batch_size", "world_size", "blocks_per_shuffle"), [(1, 3, 1), (7, 1, 3), (32, 2, 1), (50, 3, 10_000), (997, 2, 8)]
)
def test_every_row_once_per_epoch_over_all_ranks(
    lake: Lake, order: str, splits: dict[str, float], batch_size: int, world_size: int, blocks_per_shuffle: int
) -> None:
    spec = make_spec(multi=0, **splits)
    for seed, day in enumerate(DAYS):
        write_table(lake, spec, 400 + 77 * seed, day=day, seed=seed)
        write(lake, spec, day, seed=seed)
    epochs = 2
    readers = [
        BlockReader(
            lake, spec, DAYS, batch_size=batch_size, order=order, rank=rank, world_size=world_size, epochs=epochs,
            blocks_per_shuffle=blocks_per_shuffle, seed=3,
        )
        for rank in range(world_size)
    ]  # fmt: skip
    per_rank = [list(reader) for reader in readers]
    assert {len(batches) for batches in per_rank} == {len(readers[0])}
    steps = len(readers[0]) // epochs
    held = [lake.manifest("mds_datasets", "made", day)["splits"]["train"]["rows"] for day in DAYS]
    assert readers[0].rows == sum(held)
    for epoch in range(epochs):
        seen = [batch for batches in per_rank for batch in batches[epoch * steps : (epoch + 1) * steps]]
        times = sorted(t for batch in seen for t in batch.event_time.tolist())
        counted = sorted(ids(seen))
        assert len(counted) == len(times) == readers[0].rows
        alone = BlockReader(lake, spec, DAYS, batch_size=readers[0].rows)
        assert counted == sorted(ids(list(alone)))
        full = [len(batch) for batches in per_rank for batch in batches[epoch * steps : (epoch + 1) * steps - 1]]
        assert set(full) <= {batch_size}


def test_time_order_over_days_and_ranks(lake: Lake) -> None:
    spec = make_spec(**HASHED)
    for day in DAYS:
        write_table(lake, spec, 500, day=day)
        write(lake, spec, day)
    one = list(BlockReader(lake, spec, DAYS, splits=SPLITS, batch_size=60))
    assert ids(one) == [*range(500), *range(500)]
    ranks = [list(BlockReader(lake, spec, DAYS, splits=SPLITS, batch_size=20, rank=r, world_size=3)) for r in range(3)]
    for step, whole in enumerate(one):
        assert ids([rank[step] for rank in ranks]) == ids([whole])


def test_time_split_puts_the_last_rows_into_test(lake: Lake) -> None:
    spec = make_spec(validation=0.15, test=0.25)
    write_table(lake, spec, 1000)
    write(lake, spec)
    found = [ids(list(BlockReader(lake, spec, [DAY], splits=[split], batch_size=64))) for split in SPLITS]
    assert found == [[*range(600)], [*range(600, 750)], [*range(750, 1000)]]


def test_hash_splits_are_disjoint_complete_and_stable(lake: Lake) -> None:
    spec = make_spec(**HASHED)
    write_table(lake, spec, 4000)
    write(lake, spec)
    found = [ids(list(BlockReader(lake, spec, [DAY], splits=[split], batch_size=64))) for split in SPLITS]
    assert sorted(row for rows in found for row in rows) == [*range(4000)]
    assert [len(rows) / 4000 for rows in found] == pytest.approx([0.5, 0.2, 0.3], abs=0.03)
    write(lake, spec, block_rows=64, window_blocks=3)
    assert found == [ids(list(BlockReader(lake, spec, [DAY], splits=[split], batch_size=64))) for split in SPLITS]
    write(lake, spec, seed=1)
    assert found != [ids(list(BlockReader(lake, spec, [DAY], splits=[split], batch_size=64))) for split in SPLITS]


def test_shuffled_order_differs_by_epoch_and_mixes(lake: Lake) -> None:
    spec = make_spec(validation=0, test=0)
    rows = 8192
    write_table(lake, spec, rows)
    write(lake, spec, block_rows=32, window_blocks=8)
    reader = BlockReader(lake, spec, [DAY], batch_size=256, order="shuffled", epochs=2, blocks_per_shuffle=64)
    seen = np.array(ids(list(reader))).reshape(2, -1, 256)
    assert (seen[0] != seen[1]).mean() > 0.99
    # A shuffle block has 8 windows of 256 rows. The rows of a batch must spread over the day as widely as these windows, and
    # neighbours in a batch must be far apart in time. In time order both numbers are near 0.
    assert np.ptp(seen[0], axis=1).min() > rows / 2
    assert np.abs(np.diff(seen[0], axis=1)).mean() > rows / 6
    again = BlockReader(lake, spec, [DAY], batch_size=256, order="shuffled", epochs=2, blocks_per_shuffle=64)
    assert np.array_equal(np.array(ids(list(again))).reshape(2, -1, 256), seen)
    other = BlockReader(lake, spec, [DAY], batch_size=256, order="shuffled", seed=1, blocks_per_shuffle=64)
    assert (np.array(ids(list(other))).reshape(-1, 256) != seen[0]).mean() > 0.99


@pytest.mark.parametrize(("order", "num_canonical_nodes"), [("time", 1), ("shuffled", 1), ("shuffled", 3), ("shuffled", 4)])
@pytest.mark.parametrize("drop_last", [False, True])
def test_resume_at_every_batch_also_with_other_ranks(lake: Lake, order: str, num_canonical_nodes: int, drop_last: bool) -> None:
    spec = make_spec()
    for day in DAYS:
        write_table(lake, spec, 300, day=day)
        write(lake, spec, day)
    same = {
        "splits": ("train", "test"),
        "order": order,
        "epochs": 2,
        "blocks_per_shuffle": 6,
        "drop_last": drop_last,
        "seed": 5,
    }
    same["num_canonical_nodes"] = num_canonical_nodes
    whole = list(BlockReader(lake, spec, DAYS, batch_size=48, **same))
    for stop in range(len(whole) + 1):
        first = BlockReader(lake, spec, DAYS, batch_size=48, **same)
        iterator = iter(first)
        for _ in range(stop):
            next(iterator)
        state = json.loads(json.dumps(first.state_dict()))
        resumed = BlockReader(lake, spec, DAYS, batch_size=48, **same)
        resumed.load_state_dict(state)
        rest = list(resumed)
        assert len(rest) == len(whole) - stop
        for mine, theirs in zip(rest, whole[stop:], strict=True):
            assert_same(mine, theirs)
        ranks = [BlockReader(lake, spec, DAYS, batch_size=16, rank=r, world_size=3, **same) for r in range(3)]
        for reader in ranks:
            reader.load_state_dict(state)
        for step, batches in enumerate(zip(*ranks, strict=True), stop):
            assert ids(batches) == ids([whole[step]])
        assert ranks[0].state_dict()["batches"] == len(whole)


def test_an_iterator_starts_from_the_beginning_unless_a_state_was_loaded(lake: Lake) -> None:
    spec = make_spec()
    write_table(lake, spec, 300)
    write(lake, spec)
    reader = BlockReader(lake, spec, [DAY], batch_size=32, order="shuffled")
    whole = ids(list(reader))
    next(iter(reader))
    assert reader.state_dict()["batches"] == 1
    assert ids(list(reader)) == whole
    assert reader.state_dict()["batches"] == len(reader)
    finished = BlockReader(lake, spec, [DAY], batch_size=32, order="shuffled")
    finished.load_state_dict(reader.state_dict())
    assert list(finished) == []
    assert ids(list(finished)) == whole
    one, two = iter(reader), iter(reader)
    assert ids([next(one), next(two), next(one)]) == whole[:32] + whole[:64]


@pytest.mark.parametrize("rows", [0, 1, 2])
@pytest.mark.parametrize("order", ["time", "shuffled"])
def test_days_with_few_rows(lake: Lake, rows: int, order: str) -> None:
    spec = make_spec()
    write_table(lake, spec, rows, parts=1)
    write(lake, spec)
    reader = BlockReader(lake, spec, [DAY], splits=SPLITS, batch_size=4, order=order)
    assert sorted(ids(list(reader))) == [*range(rows)] and len(reader) == (rows > 0)
    assert len(BlockReader(lake, spec, [DAY], splits=SPLITS, batch_size=4, drop_last=True)) == 0


def test_a_rank_without_rows_gets_an_empty_batch(lake: Lake) -> None:
    spec = make_spec(validation=0, test=0)
    write_table(lake, spec, 7)
    write(lake, spec)
    last = [list(BlockReader(lake, spec, [DAY], batch_size=2, rank=r, world_size=3))[-1] for r in range(3)]
    assert [len(batch) for batch in last] == [1, 0, 0]
    assert last[1].sparse.stride() == 0 and last[1].dense.shape == (0, 3)


def test_a_state_of_a_different_reader_is_refused(lake: Lake) -> None:
    spec = make_spec()
    write_table(lake, spec, 300)
    write(lake, spec)
    state = BlockReader(lake, spec, [DAY], batch_size=32).state_dict()
    changes = [
        ({"batch_size": 16}, "global_batch"),
        ({"batch_size": 11, "world_size": 3}, "global_batch"),
        ({"seed": 1}, "seed"),
        ({"order": "shuffled"}, "order"),
        ({"order": "shuffled", "num_canonical_nodes": 2}, "num_canonical_nodes"),
        ({"splits": ("test",)}, "data"),
    ]
    for change, name in changes:
        other = BlockReader(lake, spec, [DAY], **{"batch_size": 32, **change})
        with pytest.raises(ValueError, match=rf"{name}: .* in the state, .* here"):
            other.load_state_dict(state)
    reader = BlockReader(lake, spec, [DAY], batch_size=32)
    with pytest.raises(ValueError, match="batches: expected 0 to"):
        reader.load_state_dict({**state, "batches": len(reader) + 1})
    write(lake, spec, seed=1)
    with pytest.raises(ValueError, match="data: "):
        BlockReader(lake, spec, [DAY], batch_size=32).load_state_dict(state)


def shard_files(lake: Lake) -> list[Path]:
    return sorted(Path(lake.partition("mds_datasets", "made", DAY).path).rglob("*.mds*"))


@pytest.mark.parametrize("compression", ["zstd", None])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_shard_is_named(lake: Lake, compression: str | None, damage: str) -> None:
    spec = make_spec(validation=0, test=0)
    write_table(lake, spec, 300)
    write_day(spec, DAY, lake, LocalRunner(), block_rows=16, window_blocks=4, compression=compression)
    path = shard_files(lake)[2]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes({"flip": bytes(data), "cut": bytes(data[:-5]), "empty": b""}[damage])
    with pytest.raises(CorruptShard, match=path.name) as caught:
        list(BlockReader(lake, spec, [DAY], batch_size=32))
    assert str(path) in str(caught.value)


def test_data_of_another_specification_is_refused(lake: Lake) -> None:
    spec = make_spec()
    write_table(lake, spec, 100)
    with pytest.raises(MissingPartition):
        BlockReader(lake, spec, [DAY], batch_size=8)
    write(lake, spec)
    with pytest.raises(StalePartition, match="materialise the partition again"):
        BlockReader(lake, make_spec(dense=2), [DAY], batch_size=8)


@pytest.mark.parametrize(
    ("fault", "names"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"world_size": 0}, "world_size"),
        ({"rank": 1}, "rank"),
        ({"epochs": 0}, "epochs"),
        ({"blocks_per_shuffle": 0}, "blocks_per_shuffle"),
        ({"num_canonical_nodes": 2}, "num_canonical_nodes"),
        ({"num_canonical_nodes": 3, "order": "shuffled"}, "num_canonical_nodes"),
        ({"order": "random"}, "order"),
        ({"splits": ("training",)}, "splits"),
        ({"splits": "train"}, "splits"),
        ({"splits": ()}, "splits"),
        ({"days": DAY}, "days"),
        ({"days": []}, "days"),
        ({"days": [DAY, DAY]}, "days"),
    ],
)
def test_arguments_are_checked(lake: Lake, fault: dict[str, object], names: str) -> None:
    spec = make_spec()
    write_table(lake, spec, 10)
    write(lake, spec)
    with pytest.raises(ValueError, match=f"^{names}: expected"):
        BlockReader(lake, spec, **{"days": [DAY], "batch_size": 8, **fault})


def test_a_remote_lake(lake: Lake) -> None:
    spec = make_spec()
    write_table(lake, spec, 500)
    remote = Lake.at("memory://evergreen-test-lake")
    remote.root.fs.put(str(lake.root) + "/", remote.root.path + "/", recursive=True)
    write(remote, spec)
    write(lake, spec)
    mine, theirs = (
        list(BlockReader(where, spec, [DAY], splits=SPLITS, batch_size=100, order="shuffled")) for where in (remote, lake)
    )
    assert sorted(ids(mine)) == [*range(500)]
    for one, other in zip(mine, theirs, strict=True):
        assert_same(one, other)
    remote.root.fs.rm(remote.root.path, recursive=True)
