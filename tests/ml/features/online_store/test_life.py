"""The life of a store: what is deleted, rebuilds beside readers, misses, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ml.features.online_store.environment import NoStore, current_generation, open_environment
from ml.features.online_store.reader import StoreReader, TooLongAgo
from ml.features.online_store.writer import StaleStore, StoreWriter
from ml.schema import EVENT_TIME
from tests.helpers.naive_tables import assert_same, naive_values
from tests.helpers.store_tables import CROSS, ITEM, MINUTE, TABLES, plan_of, random_events

PLAN = plan_of(TABLES)
HOUR = 60 * MINUTE


def keys_of(folder: Path) -> tuple[int, int]:
    """Number of chunks and of texts."""
    held = open_environment(current_generation(folder))
    with held.env.begin() as txn:
        return txn.stat(held.chunks)["entries"], txn.stat(held.words)["entries"]


def test_what_no_look_up_needs_is_deleted_and_look_ups_stay_exact(tmp_path: Path) -> None:
    sizes = []
    with StoreWriter(tmp_path, PLAN) as writer:
        for number in range(40):  # 320 hours; each 8 hours have items of their own
            part = random_events(60, number, first=8 * number * HOUR)
            items = pa.array([None if item is None else item + 10 * number for item in part["item"].to_pylist()], pa.int64())
            part = part.set_column(1, "item", items).set_column(5, "word", pa.array([f"{number} {n}" for n in range(60)]))
            writer.apply(part, {"part": number})
            sizes.append(keys_of(tmp_path))
            rows, at = part.to_pylist(), int(part[EVENT_TIME][-1].as_py()) + 1
            found = StoreReader(tmp_path, PLAN).lookup("item", part, at).columns.to_pylist()
            expected = [naive_values(ITEM, rows, row, at) for row in rows]
            for values in (*found, *expected):
                del values["together"]  # users occur in earlier parts
            assert_same(found, expected)
    assert max(chunks for chunks, _ in sizes) < 2 * max(chunks for chunks, _ in sizes[:5])
    assert max(texts for _, texts in sizes) < 6 * 60


def test_a_single_wrong_time_deletes_nothing(tmp_path: Path) -> None:
    events = random_events(100, 1)
    at = int(events[EVENT_TIME][-1].as_py()) + 1
    with StoreWriter(tmp_path, PLAN) as writer:
        writer.apply(events, {})
        expected = StoreReader(tmp_path, PLAN).lookup("item", events, at).columns
        future = random_events(3, 2).set_column(0, EVENT_TIME, pa.array([at, at, 1 << 55]))
        for _ in range(3):
            writer.apply(future, {})
    assert StoreReader(tmp_path, PLAN).lookup("item", events, at).columns.equals(expected)


def test_entities_without_events_have_defaults_and_are_counted(tmp_path: Path) -> None:
    with StoreWriter(tmp_path, PLAN) as writer:
        writer.apply(random_events(50, 1), {})
    reader = StoreReader(tmp_path, PLAN)
    keys = pa.table({"item": pa.array([0, None, 777]), "user": ["u0", "u0", "unknown"]})
    for _ in range(2):
        found = reader.lookup("item", keys, 8 * HOUR)
    assert found.missing.tolist() == [False, True, True]
    assert reader.lookups == {"item": 6} and reader.misses == {"item": 4}
    unknown = found.columns.to_pylist()[2]
    assert unknown.pop("ctr") == pytest.approx(0.05) and unknown.pop("dear") == pytest.approx(0.5)
    lists = {"last_words": [], "last_prices": []}
    assert unknown == {"seen_1h": 0, "seen_6h": 0, "idle": None, "together": None, **lists}
    types = {field.name: str(field.type) for field in found.columns.schema}
    assert types["seen_1h"] == "int64" and types["ctr"] == "double" and types["last_words"] == "list<item: string>"
    assert len(reader.lookup("item", keys.slice(0, 0), 8 * HOUR).columns) == 0


def test_a_look_up_of_the_past_is_refused_once_events_are_deleted(tmp_path: Path) -> None:
    with StoreWriter(tmp_path, PLAN, history_hours=2) as writer:
        writer.apply(random_events(50, 1, first=100 * HOUR), {})
        reader = StoreReader(tmp_path, PLAN)
        writer.apply(random_events(50, 2, first=110 * HOUR), {})
        newest = reader.meta.settled
        reader.lookup("item", random_events(3, 0), newest - 2 * HOUR)
        with pytest.raises(TooLongAgo, match="history_hours"):
            reader.lookup("item", random_events(3, 0), np.array([newest, newest - 2 * HOUR - 1, newest]))


def test_windows_that_begin_before_the_stream_are_reported(tmp_path: Path) -> None:
    longest = 6
    with StoreWriter(tmp_path, PLAN) as writer:
        writer.apply(random_events(50, 1, first=100 * HOUR), {})
        began = writer.meta.began
        assert 100 * HOUR < began < 108 * HOUR
        late = random_events(3, 2).set_column(0, EVENT_TIME, pa.array([0, began, began]))
        writer.apply(late, {})
        assert writer.meta.began == began, "one wrong time does not count"
    reader, keys = StoreReader(tmp_path, PLAN), random_events(3, 0)
    at = began + longest * HOUR
    assert reader.lookup("item", keys, np.array([at - 1, at, at + 1])).complete.tolist() == [False, True, True]
    with StoreWriter(tmp_path, PLAN, rebuild=True) as writer:  # of a stream whose first files were deleted
        writer.apply(random_events(50, 1, first=110 * HOUR), {})
        writer.publish()
    assert not reader.lookup("item", keys, 110 * HOUR + at - began).complete.any()


def test_readers_use_the_old_generation_until_a_rebuild_is_complete(tmp_path: Path) -> None:
    events = random_events(100, 1)
    at = int(events[EVENT_TIME][-1].as_py()) + 1
    with StoreWriter(tmp_path, PLAN) as writer:
        writer.apply(events, {"rows": 100})
    reader = StoreReader(tmp_path, PLAN)
    expected = reader.lookup("item", events, at)
    with StoreWriter(tmp_path, PLAN, rebuild=True) as writer:
        assert writer.meta.position is None
        writer.apply(events.slice(0, 50), {"rows": 50})
        assert reader.lookup("item", events, at).columns.equals(expected.columns)
    with StoreWriter(tmp_path, PLAN, rebuild=True) as writer:  # the rebuild before was killed
        writer.apply(events.slice(0, 50), {"rows": 50})
        writer.apply(events.slice(50), {"rows": 100})
        writer.publish()
    assert reader.meta.parts == 2
    assert reader.lookup("item", events, at).columns.equals(expected.columns)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [current_generation(tmp_path).name]


def test_a_store_of_other_tables_is_refused_until_it_is_rebuilt(tmp_path: Path) -> None:
    with StoreWriter(tmp_path, PLAN) as writer:
        writer.apply(random_events(50, 1), {})
    other = plan_of([CROSS])
    with pytest.raises(StaleStore, match="rebuild"), StoreWriter(tmp_path, other):
        pass
    with pytest.raises(StaleStore, match="rebuild"):
        StoreReader(tmp_path, other).lookup("user_item", random_events(1, 0), 0)
    with StoreWriter(tmp_path, other, rebuild=True) as writer:
        writer.publish()
    assert StoreReader(tmp_path, other).meta.fingerprint == other.fingerprint


def test_a_folder_without_a_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoStore, match="start its follower"):
        StoreReader(tmp_path / "none", PLAN)


def test_a_part_that_fails_changes_nothing(tmp_path: Path) -> None:
    events = random_events(50, 1)
    with StoreWriter(tmp_path, PLAN) as writer:
        writer.apply(events, {"rows": 50})
        before = writer.meta
        with pytest.raises(KeyError):
            writer.apply(events.drop_columns(["clicked"]), {"rows": 100})
        assert writer.meta == before == StoreReader(tmp_path, PLAN).meta


def test_values_do_not_show_which_items_are_sampled_negatives(tmp_path: Path) -> None:
    """As in the daily features: an item without an event in the sampling window would be no sampled negative."""
    table = ITEM.model_copy(update={"values": tuple(value for value in ITEM.values if value.count or value.recency)})
    label = {"negatives": {"window_hours": 2}}
    plan = plan_of([table], label=label, user="user", item="item")
    with StoreWriter(tmp_path, plan) as writer:
        writer.apply(random_events(50, 1), {})
    keys = pa.table({"item": pa.array([0, 777]), "user": ["u0", "u0"]})
    found = StoreReader(tmp_path, plan).lookup("item", keys, 9 * HOUR).columns.to_pylist()
    assert found[1] == {"seen_1h": 0, "seen_6h": 1, "idle": 2 * 3600}
    assert found[0]["seen_6h"] > 1
