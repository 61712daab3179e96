"""Histories equal a slow search of the log for the items of a user before a row."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.catalog.spec import DatasetSpec
from ml.features.hashing import hash_values
from ml.features.point_in_time.history import last_items, with_history
from ml.features.point_in_time.negatives import Events
from ml.features.transforms import compile_transforms
from ml.schema import HISTORY_PREFIX, MISSING_ID


def log_of(times: list[int], users: list[int | None], items: list[int]) -> pa.Table:
    return pa.table(
        {
            "event_time": pa.array(sorted(times), pa.int64()),
            "who": pa.array(users, pa.int64()),
            "what": pa.array(items, pa.int64()),
        }
    )


def spec_of(**sparse: object) -> DatasetSpec:
    return DatasetSpec.model_validate(
        {
            "name": "shop",
            "description": "Made for tests.",
            "source": {"files": "*.csv", "format": "csv", "columns": {"time": "int", "who": "int", "what": "int"}},
            "time": {"column": "time"},
            "partitions": {"start": "2026-01-01"},
            "label": {"negatives": {"per_positive": 1}},
            "user": "who",
            "item": "what",
            "sparse": [{"name": "article", "column": "what"}, {"name": "read", "history": 3, **sparse}],
        }
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.none() | st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=40),
    st.integers(1, 4),
)
def test_a_history_is_the_last_items_of_the_user_before_the_row(rows: list[tuple[int, int | None, int]], most: int) -> None:
    times, users, items = map(list, zip(*rows, strict=True))
    log = log_of(times, users, items)
    events = Events.of(log, "who", "what")
    offsets, places = last_items(events, events.user, events.time, most)
    when = log["event_time"].to_pylist()
    for i in range(len(rows)):
        before = [j for j in range(len(rows)) if users[i] is not None and users[j] == users[i] and when[j] < when[i]]
        assert places[offsets[i] : offsets[i + 1]].tolist() == before[::-1][:most]


def test_a_history_has_the_ids_of_the_item_feature_or_the_missing_id() -> None:
    spec, log = spec_of(), log_of([0, 1, 2, 3, 3], [7, 7, 7, 7, 8], [10, 11, 10, 12, 13])
    held = with_history(log, spec, Events.of(log, "who", "what"))
    assert held[f"{HISTORY_PREFIX}read"].to_pylist()[0] == []
    out = compile_transforms(spec, with_label=False)(held.combine_chunks().to_batches()[0])
    ids = {item: int(hash_values("article", pa.array([item]))[0]) for item in range(10, 14)}
    assert out["article"].to_pylist() == [ids[i] for i in (10, 11, 10, 12, 13)]
    newest_first = [[MISSING_ID], [ids[10]], [ids[11], ids[10]], [ids[10], ids[11], ids[10]], [MISSING_ID]]
    assert out["read"].to_pylist() == newest_first
    bare = compile_transforms(spec, with_label=False)(log.to_batches()[0])
    assert bare["read"].to_pylist() == [[MISSING_ID]] * 5, "a request without the column"


def test_a_history_needs_negatives_and_an_item_feature() -> None:
    data = spec_of().model_dump(mode="json", exclude_defaults=True)
    with pytest.raises(ValueError, match=r"only for logs with label\.negatives"):
        DatasetSpec.model_validate(data | {"label": {"column": "time"}})
    with pytest.raises(ValueError, match="needs a sparse feature of the item's column"):
        DatasetSpec.model_validate(data | {"sparse": [{"name": "read", "history": 3}]})
    with pytest.raises(ValueError, match="a history, which has the ids of the item's feature"):
        spec_of(vocabulary={})
