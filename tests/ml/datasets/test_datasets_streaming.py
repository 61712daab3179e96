"""mosaicml-streaming reads the very folders that are written here, and resumes over blocks at the right batch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from made_features import DAY, make_spec, write_table

from ml.catalog.spec import DatasetSpec
from ml.datasets.reader import BlockReader
from ml.datasets.streaming import BlockLoader, StreamingDataset
from ml.datasets.write import write_day
from ml.features.schema import FeatureSchema
from ml.lake import Lake
from ml.parallel import LocalRunner


@pytest.fixture
def written(lake: Lake) -> tuple[DatasetSpec, Path]:
    spec = make_spec(validation=0, test=0)
    write_table(lake, spec, 1000)
    write_day(spec, DAY, lake, LocalRunner(), block_rows=16, window_blocks=4)
    return spec, Path(lake.partition("mds_datasets", "made", DAY).path) / "train"


@pytest.fixture(autouse=True)
def _clean_shared_memory() -> Iterator[None]:
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    yield
    clean_stale_shared_memory()


def test_streaming_reads_what_the_reader_reads(lake: Lake, written: tuple[DatasetSpec, Path]) -> None:
    spec, folder = written
    dataset = StreamingDataset(local=str(folder), batch_size=4, shuffle=False, validate_hash="xxh3_64")
    loader = BlockLoader(dataset, FeatureSchema.of(spec), batch_size=4)
    theirs = list(loader)
    mine = list(BlockReader(lake, spec, [DAY], batch_size=64))
    assert len(theirs) == len(mine) == 16
    for one, other in zip(mine, theirs, strict=True):
        order = other.sparse["s0"].values().argsort()
        assert torch.equal(one.sparse["s0"].values(), other.sparse["s0"].values()[order])
        for name in ("dense", "labels", "sample_rate", "event_time"):
            assert torch.equal(getattr(one, name), getattr(other, name)[order])
        assert one.sparse["m0"].values().sum() == other.sparse["m0"].values().sum()


def test_merged_index_is_that_of_streaming(written: tuple[DatasetSpec, Path], tmp_path: Path) -> None:
    from streaming.base.util import merge_index

    _, folder = written
    ours = json.loads((folder / "index.json").read_text())
    parts = []
    for number in sorted({shard["raw_data"]["basename"].split("/")[0] for shard in ours["shards"]}):
        own = [json.loads(json.dumps(s)) for s in ours["shards"] if s["raw_data"]["basename"].startswith(f"{number}/")]
        for shard in own:
            for key in ("raw_data", "zip_data"):
                shard[key]["basename"] = shard[key]["basename"].split("/")[1]
        (tmp_path / number).mkdir()
        (tmp_path / number / "index.json").write_text(json.dumps({"version": 2, "shards": own}))
        parts.append(str(tmp_path / number / "index.json"))
    merge_index(parts, str(tmp_path))
    assert json.loads((tmp_path / "index.json").read_text()) == ours


def test_the_loader_resumes_at_the_same_block(written: tuple[DatasetSpec, Path]) -> None:
    spec, folder = written

    def loader() -> BlockLoader:
        dataset = StreamingDataset(local=str(folder), batch_size=4, shuffle=True, shuffle_seed=3, num_canonical_nodes=1)
        return BlockLoader(dataset, FeatureSchema.of(spec), batch_size=4)

    first = loader()
    whole = [batch.sparse["s0"].values() for batch in first]
    for stop in (1, 6, 15):
        stopped = loader()
        iterator = iter(stopped)
        for _ in range(stop):
            next(iterator)
        state = stopped.state_dict()
        assert state is not None and state["sample_in_epoch"] == 4 * stop
        del iterator
        resumed = loader()
        resumed.load_state_dict(json.loads(json.dumps(state)))
        rest = [batch.sparse["s0"].values() for batch in resumed]
        assert len(rest) == len(whole) - stop
        assert all(torch.equal(one, other) for one, other in zip(rest, whole[stop:], strict=True))
