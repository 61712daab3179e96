"""Look-ups in the online store against loops over all events: windows, order of arrival, cuts of the stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ml.catalog.feature_tables import FeatureTable
from ml.features.online_store import append, chunks
from ml.features.online_store.plan import StorePlan
from ml.features.online_store.reader import StoreReader
from ml.features.online_store.writer import StoreWriter
from ml.schema import EVENT_TIME
from tests.helpers.naive_tables import assert_same, naive_values
from tests.helpers.store_tables import MINUTE, TABLES, plan_of, random_events

PLAN = plan_of(TABLES)
ALL = 1000.0  # hours


def apply_parts(folder: Path, events: pa.Table, parts: int, seed: int = 0, plan: StorePlan = PLAN) -> None:
    cuts = np.sort(np.random.default_rng(seed).integers(0, len(events) + 1, parts - 1)).tolist()
    with StoreWriter(folder, plan, history_hours=ALL) as writer:
        for number, (start, stop) in enumerate(zip([0, *cuts], [*cuts, len(events)], strict=True)):
            writer.apply(events.slice(start, stop - start), {"part": number})


def looked_up(folder: Path, table: FeatureTable, rows: pa.Table, at: Any, plan: StorePlan = PLAN) -> list[dict[str, Any]]:
    return StoreReader(folder, plan).lookup(table.name, rows, at).columns.to_pylist()


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
@pytest.mark.parametrize("seed", range(3))
def test_values_equal_loops_at_the_instants_of_all_events(tmp_path: Path, table: FeatureTable, seed: int) -> None:
    events = random_events(300, seed)
    apply_parts(tmp_path, events, 7, seed)
    rows = events.to_pylist()
    expected = [naive_values(table, rows, row, row[EVENT_TIME]) for row in rows]
    assert_same(looked_up(tmp_path, table, events, events[EVENT_TIME].to_numpy()), expected)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
@pytest.mark.parametrize("chunk", [1, 3])
def test_small_chunks_give_the_same(tmp_path: Path, table: FeatureTable, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(append, "CHUNK", chunk)
    events = random_events(200, 5, items=2)
    apply_parts(tmp_path, events, 20)
    rows = events.to_pylist()
    expected = [naive_values(table, rows, row, row[EVENT_TIME]) for row in rows]
    assert_same(looked_up(tmp_path, table, events, events[EVENT_TIME].to_numpy()), expected)


@pytest.mark.parametrize("chunk", [2, chunks.CHUNK])
@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_events_in_any_order_give_the_same(
    tmp_path: Path, table: FeatureTable, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(append, "CHUNK", chunk)
    events = random_events(200, 6, items=3)
    times = np.sort(np.random.default_rng(1).choice(500 * MINUTE, 200, replace=False))  # distinct: no order among equal ones
    events = events.set_column(0, EVENT_TIME, pa.array(times))
    shuffled = events.take(pa.array(np.random.default_rng(2).permutation(200)))
    apply_parts(tmp_path, shuffled, 25)
    rows = events.to_pylist()
    expected = [naive_values(table, rows, row, row[EVENT_TIME]) for row in rows]
    assert_same(looked_up(tmp_path, table, events, events[EVENT_TIME].to_numpy()), expected)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_look_up_while_the_stream_is_followed_knows_what_has_arrived(tmp_path: Path, table: FeatureTable) -> None:
    events = random_events(120, 7)
    rows = events.to_pylist()
    with StoreWriter(tmp_path, PLAN, history_hours=ALL) as writer:
        reader = StoreReader(tmp_path, PLAN)
        for stop in range(10, 121, 10):
            writer.apply(events.slice(stop - 10, 10), {"rows": stop})
            at = int(rows[stop - 1][EVENT_TIME]) + 1
            found = reader.lookup(table.name, events, at)
            assert_same(found.columns.to_pylist(), [naive_values(table, rows[:stop], row, at) for row in rows])
            assert found.newest == at - 1
