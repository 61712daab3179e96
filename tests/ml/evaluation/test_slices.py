"""Slices partition a day. Hours are in the log's time zone, and known items and users occurred on earlier days."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pyarrow as pa
import pytest

from ml.catalog.spec import DatasetSpec
from ml.evaluation.rows import chunks
from ml.evaluation.slices import MISSING, OTHER, TOP_VALUES, key_columns, known_keys, score_slices, slices_of
from ml.lake import Lake
from ml.metrics import summary
from ml.schema import ITEM_KEY, USER_KEY
from tests.helpers.shop_days import put_day, shop_day, spec_of


def keys_of(spec: DatasetSpec, table: pa.Table) -> pa.Table:
    return table.select(key_columns(spec))


def test_every_slice_sums_to_the_whole() -> None:
    spec = spec_of()
    table = shop_day(spec, "2026-01-03", 3_000)
    labels, scores = table["label"].to_numpy(), table["oracle"].to_numpy()
    known = {ITEM_KEY: np.arange(20), USER_KEY: np.arange(100)}
    slices = score_slices(slices_of(spec, keys_of(spec, table), known), labels, scores, scores)
    assert [part["name"] for part in slices] == ["hour", "known_item", "known_user", "place"]
    whole = summary(labels, scores)
    for part in slices:
        assert sum(value["rows"] for value in part["values"]) == 3_000
        assert sum(value["clicks"] for value in part["values"]) == whole["clicks"]
        assert np.isclose(sum(value["rows"] * value["log_loss"] for value in part["values"]), 3_000 * whole["log_loss"])
        assert all(value["auc"] == value["logistic_regression_auc"] for value in part["values"])


def test_hours_are_those_of_the_logs_zone() -> None:
    spec = spec_of()
    table = shop_day(spec, "2026-01-03", 500)
    hour = slices_of(spec, keys_of(spec, table), {})[0]
    expected = [datetime.fromtimestamp(time / 1e6, spec.zone).hour for time in table["event_time"].to_pylist()]
    assert hour.code.tolist() == expected and hour.code[0] < 2


def test_a_log_without_times_is_divided_by_position() -> None:
    spec = spec_of(time={"by_position": True}, simulation=None, oracle=None)
    part = slices_of(spec, keys_of(spec, shop_day(spec, "2026-01-03", 240)), {})[0]
    assert part.name == "part_of_day" and np.bincount(part.code).tolist() == [10] * 24


def test_an_item_is_known_by_the_days_asked_alone(lake: Lake) -> None:
    spec = spec_of()
    put_day(lake, spec, "2026-01-01", shop_day(spec, "2026-01-01", 50, **{"key:item": np.full(50, 7)}))
    put_day(lake, spec, "2026-01-02", shop_day(spec, "2026-01-02", 50, **{"key:item": np.full(50, 8)}))
    assert known_keys(lake, spec, ["2026-01-01"])[ITEM_KEY].tolist() == [7]
    known = known_keys(lake, spec, ["2026-01-01", "2026-01-02"])
    today = shop_day(spec, "2026-01-03", 4, **{"key:item": [7, 8, 9, 7]})
    slices = {part.name: part for part in slices_of(spec, keys_of(spec, today), known)}
    assert [slices["known_item"].values[i] for i in slices["known_item"].code] == [
        "known item", "known item", "new item", "known item"]  # fmt: skip


def test_the_most_frequent_values_have_their_own_slices() -> None:
    spec = spec_of()
    values = [f"value {i:02d}" for i in range(20) for _ in range(30 - i)] + [None] * 5
    table = shop_day(spec, "2026-01-03", len(values), **{"slice:place": values})
    place = slices_of(spec, keys_of(spec, table), {})[-1]
    counts = dict(zip(place.values, np.bincount(place.code, minlength=len(place.values)).tolist(), strict=True))
    assert place.values[:TOP_VALUES] == tuple(f"value {i:02d}" for i in range(TOP_VALUES))
    assert counts["value 00"] == 30 and counts[MISSING] == 5
    assert counts[OTHER] == sum(30 - i for i in range(TOP_VALUES, 20))


def test_an_empty_day_has_slices_without_values() -> None:
    spec = spec_of()
    slices = slices_of(spec, keys_of(spec, shop_day(spec, "2026-01-03", 0)), {ITEM_KEY: np.arange(3)})
    assert all(part["values"] == [] for part in score_slices(slices, np.zeros(0), np.zeros(0), None))


def test_days_written_before_a_slice_was_named_can_still_be_looked_back_on(lake: Lake) -> None:
    before, now = spec_of(slices=[]), spec_of(slices=["place"])
    put_day(lake, before, "2026-01-01", shop_day(before, "2026-01-01", 50))
    assert known_keys(lake, now, ["2026-01-01"]).keys() == {ITEM_KEY, USER_KEY}
    with pytest.raises(ValueError, match="Materialise shop/cleaned_features of the day again"):
        next(chunks(lake, now, "2026-01-01", key_columns(now)))
