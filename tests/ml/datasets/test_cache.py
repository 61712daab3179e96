"""Reading through a node's cache gives the same batches, also after processes are killed and another number of them resumes."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner
from ml.datasets.batch import Batch
from ml.datasets.cache import StreamingDataset, _LakeStream
from ml.datasets.cache_config import CacheConfig
from ml.datasets.reader import BlockReader
from ml.datasets.shards import CorruptShard
from ml.datasets.splits import SPLITS
from ml.datasets.write import write_day
from ml.lake import Lake
from tests.helpers.feature_table import DAY, make_spec, write_table

DAYS = [DAY, "2026-01-02"]
GLOBAL, CHECKPOINT = 24, 3  # rows of all ranks, batches between checkpoints

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["ml.datasets.cache", "ml.datasets.reader"])


@pytest.fixture
def spec(lake: Lake) -> DatasetSpec:
    """Two days in the lake: 500 and 577 rows in blocks of 16, windows of 4."""
    spec = make_spec(validation=0, test=0)
    for seed, day in enumerate(DAYS):
        write_table(lake, spec, 500 + 77 * seed, day=day, seed=seed)
        write_day(spec, day, lake, LocalRunner(), block_rows=16, window_blocks=4)
    return spec


@pytest.fixture
def remote(lake: Lake, spec: DatasetSpec) -> Iterator[Lake]:
    other = Lake.at("memory://evergreen-streamed-lake")
    other.root.fs.put(str(lake.root) + "/", other.root.path + "/", recursive=True)
    yield other
    other.root.fs.rm(other.root.path, recursive=True)


def ids(batch: Batch) -> list[int]:
    """Returns a feature that identifies each row."""
    return batch.sparse["s1"].values().tolist()


def files(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("*") if ".mds" in path.name)


def test_mosaicml_streaming_reads_the_same_folder(lake: Lake, spec: DatasetSpec) -> None:
    folder = Path(lake.partition("mds_datasets", "made", DAY).path) / "train"
    dataset = StreamingDataset(local=str(folder), batch_size=4, shuffle=False, validate_hash="xxh3_64")
    theirs = [row for i in range(len(dataset)) for row in dataset[i]["single"][:, 1].tolist()]
    mine = [row for batch in BlockReader(lake, spec, [DAY], batch_size=64) for row in ids(batch)]
    assert len(mine) == 500 and sorted(theirs) == sorted(mine)


def test_merged_index_equals_streamings(lake: Lake, spec: DatasetSpec, tmp_path: Path) -> None:
    from streaming.base.util import merge_index

    folder = Path(lake.partition("mds_datasets", "made", DAY).path) / "train"
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


@pytest.mark.parametrize("order", ["time", "shuffled"])
@pytest.mark.parametrize("limit", [None, "80kb"])
def test_a_remote_lake_through_a_cache(
    lake: Lake, remote: Lake, spec: DatasetSpec, tmp_path: Path, order: Any, limit: str | None
) -> None:
    same: dict[str, Any] = {"splits": SPLITS, "batch_size": 50, "order": order, "epochs": 2, "blocks_per_shuffle": 8}
    cached = BlockReader(remote, spec, DAYS, cache=CacheConfig(tmp_path / "cache", limit), **same)
    plain = BlockReader(lake, spec, DAYS, **same)
    assert [ids(batch) for batch in cached] == [ids(batch) for batch in plain]
    assert cached.state_dict() == plain.state_dict()
    held = files(tmp_path / "cache")
    if limit:
        assert len(held) < 18
    else:
        assert len(held) == 18 and all(
            path.suffix == ".mds" for path in held
        )  # decompressed; the compressed files have been deleted


def test_days_without_an_open_reader_are_deleted(lake: Lake, spec: DatasetSpec, tmp_path: Path) -> None:
    def days_held() -> set[str]:
        return {path.parents[2].name for path in files(tmp_path / "cache")}

    both = BlockReader(lake, spec, DAYS, batch_size=50, cache=CacheConfig(tmp_path / "cache"))
    assert sum(len(batch) for batch in both) == 1077
    BlockReader(lake, spec, DAYS[:1], batch_size=50, cache=CacheConfig(tmp_path / "cache"))
    assert days_held() == set(DAYS)
    del both
    for _ in range(100):  # a thread that has just fetched a shard keeps the reader open for a moment
        BlockReader(lake, spec, DAYS[:1], batch_size=50, cache=CacheConfig(tmp_path / "cache"))
        if days_held() == set(DAYS[:1]):
            break
        time.sleep(0.05)
    assert days_held() == set(DAYS[:1])


def test_readers_in_turn_do_not_add_open_files_or_shared_memory(lake: Lake, spec: DatasetSpec, tmp_path: Path) -> None:
    cache = CacheConfig(str(tmp_path / "cache"))
    others = {str(path) for path in Path("/dev/shm").iterdir()}  # of jobs that were killed; streaming opens them in its search

    def read() -> None:
        reader = BlockReader(lake, spec, [DAY], batch_size=24, cache=cache)
        assert sum(len(batch.labels) for batch in reader) == 500

    def held() -> tuple[int, int, int]:
        gc.collect()
        files = [os.path.realpath(file) for file in Path("/proc/self/fd").iterdir()]
        memory, locks = Path("/dev/shm").glob("*_locals"), Path(tempfile.gettempdir()).glob("*_cache_filelock")
        return len([file for file in files if file not in others]), len(list(memory)), len(list(locks))

    def grew() -> bool:
        return any(now > then for now, then in zip(held(), first, strict=True))

    read()
    first, deadline = held(), time.monotonic() + 60
    for _ in range(3):
        read()
    while grew() and time.monotonic() < deadline:  # a thread that fetches ahead holds the cache until it is done
        time.sleep(0.1)
    assert not grew()


def test_a_rewritten_day_is_fetched_again(lake: Lake, spec: DatasetSpec, tmp_path: Path) -> None:
    for rows in (500, 300):
        write_table(lake, spec, rows)
        write_day(spec, DAY, lake, LocalRunner(), block_rows=16, window_blocks=4)
        (batch,) = BlockReader(lake, spec, [DAY], batch_size=rows, cache=CacheConfig(tmp_path / "cache"))
        assert batch.sparse["s0"].values().tolist() == [*range(rows)]


def test_files_of_a_crashed_run_are_checked(lake: Lake, spec: DatasetSpec, tmp_path: Path) -> None:
    lake_folder = Path(lake.partition("mds_datasets", "made", DAY).path) / "train"
    whole = [ids(batch) for batch in BlockReader(lake, spec, [DAY], batch_size=50)]
    assert [ids(b) for b in BlockReader(lake, spec, [DAY], batch_size=50, cache=CacheConfig(tmp_path / "cache"))] == whole
    cut, flipped, gone, both, partly, *_ = files(tmp_path / "cache")
    cut.write_bytes(cut.read_bytes()[:-5])
    flipped.write_bytes(flipped.read_bytes()[:-1] + b"?")
    gone.unlink()
    shutil.copy(
        lake_folder / both.parent.name / f"{both.name}.zstd", both.parent
    )  # as if killed before the compressed file was deleted
    partly.rename(f"{partly}.zstd")  # as if killed before decompression was complete
    assert [ids(b) for b in BlockReader(lake, spec, [DAY], batch_size=50, cache=CacheConfig(tmp_path / "cache"))] == whole


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["flip", "delete"])
def test_damage_in_the_lake_raises_at_every_read(lake: Lake, spec: DatasetSpec, tmp_path: Path, damage: str) -> None:
    reader = BlockReader(lake, spec, [DAY], batch_size=50, cache=CacheConfig(tmp_path / "cache"))
    path = sorted(Path(lake.partition("mds_datasets", "made", DAY).path).rglob("*.mds.zstd"))[2]
    data = path.read_bytes()
    path.unlink()
    if damage == "flip":
        path.write_bytes(data[:-1] + b"?")
    for _ in range(2):
        with pytest.raises(CorruptShard if damage == "flip" else FileNotFoundError, match=str(path)):
            list(reader)
    path.write_bytes(data)
    assert sum(len(batch) for batch in reader) == 500


def test_a_limit_is_refused_unless_it_holds_indexes_and_shards(lake: Lake, spec: DatasetSpec, tmp_path: Path) -> None:
    def cached(limit: str) -> BlockReader:
        return BlockReader(lake, spec, DAYS, batch_size=8, order="shuffled", cache=CacheConfig(tmp_path / "cache", limit))

    with pytest.raises(ValueError, match=r"cache_limit \(EVERGREEN_CACHE_LIMIT\).*expected \d+ bytes") as refused:
        cached("1kb")
    least = int(str(refused.value).split("expected ")[1].split()[0])
    with pytest.raises(ValueError, match="expected"):
        cached(f"{least - 1}b")
    assert sum(len(batch) for batch in cached(f"{least}b")) == 1077
    with pytest.raises(ValueError, match=r"EVERGREEN_CACHE_LIMIT.*lots"):
        cached("lots")


def test_a_cache_and_a_lake_may_not_contain_one_another(lake: Lake, spec: DatasetSpec, tmp_path: Path) -> None:
    for folder in (tmp_path, Path(lake.root.path), Path(lake.root.path) / "mds_datasets"):
        with pytest.raises(ValueError, match=r"EVERGREEN_CACHE.*use separate folders"):
            BlockReader(lake, spec, [DAY], batch_size=8, cache=CacheConfig(folder))
    assert sum(len(batch) for batch in BlockReader(lake, spec, DAYS, batch_size=50)) == 1077


def test_other_files_in_the_folder_are_kept(lake: Lake, spec: DatasetSpec, tmp_path: Path) -> None:
    strangers = [tmp_path / "cache" / part / "a/b/c/index.json" for part in ("", "evergreen-shards")]
    strangers.append(tmp_path / "cache/evergreen-shards/a/b/train-0123456789abcdef/index.json")
    for path in strangers:
        path.parent.mkdir(parents=True)
        path.write_text("{}")
    BlockReader(lake, spec, DAYS[:1], batch_size=50, cache=CacheConfig(tmp_path / "cache"))
    assert all(path.exists() for path in strangers)


@pytest.mark.parametrize("order", ["time", "shuffled"])
def test_a_low_limit_fetches_each_shard_once(
    lake: Lake, spec: DatasetSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: Any
) -> None:
    fetched: list[str] = []
    download = _LakeStream._download_file

    def counted(stream: _LakeStream, name: str, to: str | None = None) -> str:
        fetched.append(f"{stream.local} {name}")
        return download(stream, name, to)

    monkeypatch.setattr(_LakeStream, "_download_file", counted)
    reader = BlockReader(
        lake, spec, DAYS, batch_size=8, order=order, blocks_per_shuffle=32, cache=CacheConfig(tmp_path / "cache", "80kb")
    )
    assert sum(len(batch) for batch in reader) == 1077
    assert len(fetched) == len(set(fetched)) == 18


def test_an_abandoned_epoch_stops_prefetching(
    lake: Lake, spec: DatasetSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    going, download = threading.Event(), _LakeStream._download_file

    def held_back(stream: _LakeStream, name: str, to: str | None = None) -> str:
        if threading.current_thread() is not threading.main_thread():
            going.wait(30)
        return download(stream, name, to)

    monkeypatch.setattr(_LakeStream, "_download_file", held_back)
    reader = BlockReader(
        lake, spec, DAYS, batch_size=8, order="shuffled", blocks_per_shuffle=32, cache=CacheConfig(tmp_path / "cache")
    )
    batches = iter(reader)
    next(batches)
    held = len(files(tmp_path / "cache"))
    del batches
    going.set()
    assert reader._cache
    reader._cache._threads.shutdown()
    assert len(files(tmp_path / "cache")) <= held + 2  # the downloads that had started


def test_a_failed_eviction_raises_and_can_be_retried(lake: Lake, spec: DatasetSpec, tmp_path: Path) -> None:
    reader = BlockReader(lake, spec, DAYS, batch_size=50, cache=CacheConfig(tmp_path / "cache", "80kb"))
    assert reader._cache
    dataset = reader._cache._dataset
    whole = dataset.cache_limit
    dataset.cache_limit = 1
    for _ in range(2):
        with pytest.raises(ValueError, match="no shards present locally"):
            list(reader)
    dataset.cache_limit = whole
    assert sum(len(batch) for batch in reader) == 1077


def test_a_rank_fetches_the_shards_of_its_own_nodes(lake: Lake, tmp_path: Path) -> None:
    spec = make_spec(validation=0, test=0)
    write_table(lake, spec, 4096)
    write_day(spec, DAY, lake, LocalRunner(), block_rows=16, window_blocks=4)
    ranks, nodes, rows = 4, 8, []
    for rank in range(ranks):
        reader = BlockReader(
            lake, spec, [DAY], batch_size=32, order="shuffled", rank=rank, world_size=ranks, num_canonical_nodes=nodes,
            cache=CacheConfig(tmp_path / str(rank)),
        )  # fmt: skip
        rows += [row for batch in reader for row in ids(batch)]
        assert 64 / ranks <= len(files(tmp_path / str(rank))) <= 64 / ranks + 1  # a shard may belong to two nodes
    assert len(rows) == len(set(rows)) == 4096


def read(
    rank: int, ranks: int, root: str, reports: str, state: dict[str, Any] | None, kill: tuple[int, int], options: Any
) -> None:
    """Runs one rank: writes the rows of each batch and regular checkpoints to files; `kill` is a rank and a batch."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    dist.init_process_group("gloo", init_method=f"file://{reports}/store", rank=rank, world_size=ranks)
    reader = BlockReader(
        Lake.at(root), make_spec(validation=0, test=0), DAYS, batch_size=GLOBAL // ranks, rank=rank, world_size=ranks, **options
    )
    if state:
        reader.load_state_dict(state)
    with Path(reports, f"{rank}.jsonl").open("w") as file:
        for batch in reader:
            taken = reader.state_dict()
            if (rank, taken["batches"]) == kill:
                os.kill(os.getpid(), signal.SIGKILL)
            print(json.dumps([taken["batches"], ids(batch)]), file=file, flush=True)
            dist.barrier()
            if rank == 0 and taken["batches"] % CHECKPOINT == 0:
                Path(reports, "state.json").write_text(json.dumps(taken))
    dist.destroy_process_group()


def run(ranks: int, *given: Any) -> list[int | None]:
    """Runs `read` on `ranks` processes and returns their exit codes."""
    started = [processes.Process(target=read, args=(rank, ranks, *given)) for rank in range(ranks)]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
    return [process.exitcode for process in started]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ({"order": "time"}, None),
        ({"order": "shuffled", "num_canonical_nodes": 2, "blocks_per_shuffle": 6, "epochs": 2}, "80kb"),
    ],
    ids=["time", "num_canonical_nodes"],
)
def test_other_ranks_resume_at_the_row_where_ranks_were_killed(
    lake: Lake, spec: DatasetSpec, tmp_path: Path, options: dict[str, Any], limit: str | None
) -> None:
    reader = BlockReader(lake, spec, DAYS, batch_size=GLOBAL, **options)
    undisturbed = [ids(batch) for batch in reader]
    seen: list[list[int]] = []
    state: dict[str, Any] | None = None
    options = {**options, "cache": CacheConfig(tmp_path / "cache", limit)}
    for ranks, victim, stop, kept in [(2, 1, 8, 6), (1, 0, 17, 15), (2, 0, 26, 24), (2, 0, 0, len(undisturbed))]:
        reports = tmp_path / str(stop)
        reports.mkdir()
        ends = run(ranks, str(lake.root), str(reports), state, (victim, stop), options)
        assert ends[victim] == (-signal.SIGKILL if stop else 0)
        assert None not in ends and (0 in ends) == (stop == 0)  # a rank whose peer was killed fails and does not wait
        parts = [[json.loads(line) for line in (reports / f"{rank}.jsonl").open()] for rank in range(ranks)]
        # Batches after the last checkpoint are lost and are read again.
        assert all(len(seen) + len(part) >= kept for part in parts)
        for batch in range(kept - len(seen)):
            assert {part[batch][0] for part in parts} == {len(seen) + 1}
            seen.append([row for part in parts for row in part[batch][1]])
        if stop:
            state = json.loads((reports / "state.json").read_text())
            assert state and state["batches"] == kept
    assert seen == undisturbed
    for epoch in range(reader.epochs):
        of_epoch = seen[epoch * len(seen) // reader.epochs :][: len(seen) // reader.epochs]
        rows = [row for batch in of_epoch for row in batch]
        assert len(rows) == len(set(rows)) == 1077


def test_two_jobs_do_not_share_a_cache(lake: Lake, spec: DatasetSpec, tmp_path: Path) -> None:
    mine = BlockReader(lake, spec, DAYS, batch_size=8, cache=CacheConfig(tmp_path / "cache"))
    reports = tmp_path / "reports"
    reports.mkdir()
    assert run(1, str(lake.root), str(reports), None, (0, 0), {"cache": CacheConfig(tmp_path / "cache")}) == [1]
    assert not (reports / "0.jsonl").exists()
    assert sum(len(batch) for batch in mine) == 1077
    del mine
    assert run(1, str(lake.root), str(reports), None, (0, 0), {"cache": CacheConfig(tmp_path / "cache")}) == [0]
