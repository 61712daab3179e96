"""Joins of side tables keep the log's rows and order, and both strategies give the same result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from upath import UPath

from ml.catalog.spec import SideTable
from ml.features.side_join import (
    ROW,
    TASK_SHIFT,
    Joined,
    Matches,
    RepeatedKey,
    index_join,
    join_all,
    prepare,
    sort_merge_join,
    strategy_for,
)
from ml.parquet import write_table

SIDE = SideTable.model_validate(
    {
        "log_key": "item",
        "table_key": "id",
        "columns": ["title", "size of it"],
        "source": {"files": "items.csv", "format": "csv", "columns": {"id": "int", "title": "string", "size of it": "float"}},
    }
)

KEYS = st.lists(st.one_of(st.none(), st.integers(-3, 12)), max_size=30)


def items(keys: list[int | None]) -> pa.Table:
    sizes = [None if key == 3 else (key or 0) / 2 for key in keys]
    titles = [f"item {key}" for key in keys]
    return pa.table({"id": pa.array(keys, pa.int64()), "title": titles, "size of it": pa.array(sizes, pa.float64())})


@given(KEYS, st.lists(st.one_of(st.none(), st.integers(-3, 12)), unique=True, max_size=12))
def test_join_equals_a_dictionary_look_up(log_keys: list[int | None], keys: list[int | None]) -> None:
    rows = prepare(SIDE, items(keys), "int")
    log = pa.table({"at": list(range(len(log_keys))), "item": pa.array(log_keys, pa.int64())})
    known: dict[Any, Any] = {row["id"]: row for row in items(keys).to_pylist() if row["id"] is not None}
    for column in (log, log.set_column(1, "item", log["item"].dictionary_encode())):
        got, matched = index_join(column, "item", rows, "id", SIDE.columns)
        assert matched == sum(key in known for key in log_keys)
        assert got["at"].to_pylist() == list(range(len(log_keys)))
        for name in SIDE.columns:
            assert got[name].to_pylist() == [known.get(key, {}).get(name) for key in log_keys]


def test_a_repeated_key_names_table_and_key() -> None:
    with pytest.raises(RepeatedKey, match=r"items\.csv: id 7 has 2 rows \(2 keys are repeated\)"):
        prepare(SIDE, items([5, 7, 7, 1, 9, 9]), "int")


def test_keys_of_another_type_are_cast_or_refused() -> None:
    assert prepare(SIDE, items([5, 7]), "string")["id"].to_pylist() == ["5", "7"]
    words = SIDE.model_copy(update={"table_key": "title"})
    with pytest.raises(TypeError, match=r"items\.csv: title: cannot be compared with the log's 'item' \(int\)"):
        prepare(words, items([5, 7]), "int")


def test_size_decides_the_strategy_if_there_is_a_session() -> None:
    rows = items(list(range(100)))
    session: Any = object()
    assert strategy_for(rows, rows.nbytes, session) == "broadcast"
    assert strategy_for(rows, rows.nbytes - 1, session) == "sort_merge"
    assert strategy_for(rows, 0, None) == "broadcast"


HOSTILE = ["brand", "Brand", "joined key", "key", "value_0", "value_1", "evergreen_task", "a.b", "tick`", "x=y;(z)", "größe"]


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["s[t]", "s{t}", "50%20 #a?b", "naïve *數", "back\\slash"])
def test_spark_joins_hostile_names_as_arrow_does(spark, tmp_path: Path, folder: str) -> None:  # type: ignore[no-untyped-def]
    root = tmp_path / folder
    root.mkdir()
    names = [*HOSTILE, "ID"]
    held = {"id": pa.array(range(50))} | {name: pa.array([f"{name} {n}" for n in range(50)]) for name in names}
    write_table(pa.table(held), UPath(root / "side.parquet"))
    side = Joined("Item", "id", tuple(names), "broadcast", str(root / "side.parquet"))
    logs, files = [], []
    for task in range(2):
        numbers = {ROW: np.arange(60) + (task << TASK_SHIFT), "item": np.zeros(60, np.int64), "Item": np.arange(60) + task}
        logs.append(pa.table(numbers))
        files.append(str(root / f"log-{task}.parquet"))
        write_table(logs[-1], UPath(files[-1]))
    joined = sort_merge_join(spark, files, side, side.path, str(root / "joined"))
    for task, log in enumerate(logs):
        here, matches = join_all(log, [side], task)
        there, counted = join_all(log, [joined], task)
        assert there.equals(here) and counted == matches
        assert here["joined key"].to_pylist()[:2] == [f"joined key {task}", f"joined key {task + 1}"]
        assert here["brand"][0].as_py() == f"brand {task}" and here["Brand"][0].as_py() == f"Brand {task}"


def test_matches_are_counted_among_rows_with_a_key(tmp_path: Path) -> None:
    write_table(prepare(SIDE, items([1, 2]), "int"), UPath(tmp_path / "side.parquet"))
    side = Joined("item", "id", SIDE.columns, "broadcast", str(tmp_path / "side.parquet"))
    log = pa.table({"item": pa.array([1, 1, None, 9, 2], pa.int64())})
    [found] = join_all(log, [side], 0)[1]
    assert found == Matches(4, 3) and found.rate == 0.75
    assert found + Matches(6, 0) == Matches(10, 3) and Matches(0, 0).rate is None


@pytest.mark.slow
def test_spark_gives_the_same_columns(spark, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    rows = prepare(SIDE, items(list(range(5000))), "int")
    write_table(rows, UPath(tmp_path / "side.parquet"))
    side = Joined("item", "id", SIDE.columns, "broadcast", str(tmp_path / "side.parquet"))
    logs, files = [], []
    for task in range(3):
        keys = pa.array(rng.integers(0, 7000, 2000), mask=rng.random(2000) < 0.1)
        logs.append(pa.table({ROW: np.arange(2000) + (task << TASK_SHIFT), "item": keys}))
        files.append(str(tmp_path / f"log-{task}.parquet"))
        write_table(logs[-1], UPath(files[-1]))
    joined = sort_merge_join(spark, files, side, side.path, str(tmp_path / "joined"))
    for task, log in enumerate(logs):
        (here, [matches]), (there, [counted]) = join_all(log, [side], task), join_all(log, [joined], task)
        assert there.equals(here)
        keys = log["item"].drop_null().to_pylist()
        assert matches == counted == Matches(len(keys), sum(key < 5000 for key in keys))
        assert 0 < there["title"].null_count < 1500
