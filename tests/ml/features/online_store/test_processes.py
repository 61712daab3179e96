"""One process that writes and is killed, and processes that read beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml.features.online_store.environment import StoreInUse, current_generation, open_environment
from ml.features.online_store.reader import StoreReader
from ml.features.online_store.writer import StoreWriter
from tests.helpers.store_process import AFTER, PLAN, write
from tests.helpers.store_tables import random_events

TRIALS, SEED = int(os.environ.get("EVERGREEN_TRIALS", "1")), int(os.environ.get("EVERGREEN_SEED", "0"))
PARTS, KILLS = 150, 8


def events() -> pa.Table:
    """Events of which each has an item, and some arrive late."""
    found = random_events(1500, 3, items=40, hours=30, missing=0.0)
    late = pa.array([n ^ 3 if n % 50 == 0 else n for n in range(1500)])
    return found.take(late)


def contents(store: Path) -> dict[bytes, bytes]:
    held = open_environment(current_generation(store))
    with held.env.begin() as txn:
        return {bytes(key): bytes(value) for db in (held.chunks, held.words, held.meta) for key, value in txn.cursor(db)}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[bytes, bytes]:
    store = tmp_path_factory.mktemp("undisturbed")
    write(events(), store, PARTS)
    return contents(store)


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.helpers.store_process", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.soak
@pytest.mark.parametrize("trial", range(TRIALS))
def test_a_killed_writer_applies_each_event_once_beside_readers(
    tmp_path: Path, undisturbed: dict[bytes, bytes], trial: int
) -> None:
    pq.write_table(events(), tmp_path / "events.parquet")
    store = tmp_path / "store"
    readers = [start("read", store, PARTS) for _ in range(2)]
    writer = start("write", tmp_path / "events.parquet", store, PARTS, KILLS, SEED + trial)
    assert writer.wait() == 0, writer.communicate()[1]
    for reader in readers:
        out, err = reader.communicate()
        assert reader.returncode == 0, err
        assert int(out.split()[1]) > 1, "the reader saw only one state"
    assert contents(store) == undisturbed


def test_only_one_process_writes(tmp_path: Path) -> None:
    with StoreWriter(tmp_path, PLAN):
        code = "import sys; from tests.helpers.store_process import *\nwith StoreWriter(Path(sys.argv[1]), PLAN): pass"
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
        assert "StoreInUse" in done.stderr
        with pytest.raises(StoreInUse, match="stop its follower"), StoreWriter(tmp_path, PLAN):
            pass


def test_a_fork_of_a_process_that_reads_opens_the_store_itself(tmp_path: Path) -> None:
    write(events(), tmp_path, 3)
    rows = events().slice(0, 20)
    expected = StoreReader(tmp_path, PLAN).lookup("item", rows, AFTER).columns
    assert any(expected["last_prices"].to_pylist())
    child = os.fork()
    if not child:
        found = StoreReader(tmp_path, PLAN).lookup("item", rows, AFTER).columns
        os._exit(0 if found.equals(expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert StoreReader(tmp_path, PLAN).lookup("item", rows, AFTER).columns.equals(expected)
