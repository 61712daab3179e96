"""Each row of a day has the same features on Spark, in one process, and when it is sent to a bundle in any form.

The rows that are sent come from the log's files as text, and are joined, expanded and looked up here without the code that
makes features. Requests compute every feature of the four logs: histories and trailing counts, which need the events of others,
are sent with the row. Negatives are rows whose item is read from the feature table. A request has no label, sample rate,
session, slice or oracle; these columns are only compared between Spark and one process.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from ml.artifacts.bundle import Bundle
from ml.artifacts.raw_columns import raw_columns
from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner, SparkRunner
from ml.datasets.batch import Batch
from ml.datasets.collate import batch_from_arrow
from ml.days import MICROSECONDS_PER_HOUR, day_before
from ml.features.clean import Limits, clean_day
from ml.features.hashing import hash_values
from ml.features.read import feature_table
from ml.features.vocabulary import Vocabulary
from ml.lake import Lake
from ml.logs.ingest import ingest_day
from ml.logs.read import raw_table
from ml.logs.synthetic import simulate
from ml.schema import EVENT_TIME, HISTORY_PREFIX, ITEM_KEY, LABEL, FeatureSchema
from ml.stages import CLEANED_FEATURES
from tests.helpers.log_text import Row, bounds, rows_between, rows_of_day, with_side_columns
from tests.helpers.request_forms import FORMS, OWN_TIME, Texts
from tests.helpers.shop_features import digests
from tests.helpers.small_logs import LAYOUTS, write_log
from tests.helpers.trials import TRIALS

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SENT_AT_ONCE = 50_000
ALONE = 20
"""Rows of a day that are also sent one by one: a frame of one row has other types."""
DAYS = {
    "criteo": "2014-01-03",
    "globo": "2017-10-15",  # of 23 hours, since clocks went forward
    "movielens": "1997-11-13",
    "synthetic": "2026-01-02",
}


LONG = pytest.mark.skipif(TRIALS == 1, reason="takes five minutes; `make soak` runs it")


class Seen:
    """A predictor that keeps the batch it is called with."""

    def __init__(self, spec: DatasetSpec) -> None:
        self.schema = FeatureSchema.of(spec)
        self.batch: Batch | None = None

    def predict(self, batch: Batch, sampled: bool = False) -> np.ndarray:
        self.batch = batch
        return np.zeros(len(batch), np.float32)


def features_of(spec: DatasetSpec, day: str, lake: Lake, folder: Path, spark: SparkSession | None) -> pa.Table:
    """The feature table of a day."""
    runner = SparkRunner(spark) if spark else LocalRunner()
    for ingested in [day_before(day), day] if spec.label.negatives and day != spec.first_day else [day]:
        ingest_day(spec.log, ingested, folder, lake, runner)
    limits = Limits(broadcast_bytes=0, arrow_rows=0, rows_per_task=20_000) if spark else Limits(rows_per_task=20_000)
    clean_day(spec, day, lake, str(folder), runner, spark, limits)
    return feature_table(lake, spec, day).combine_chunks()


def with_items(spec: DatasetSpec, rows: list[Row], earlier: list[Row], table: pa.Table) -> list[Row]:
    """The day's rows, each followed by its negatives: the same context with the items that the feature table holds."""
    item = spec.item or ""
    items = sorted({row[item] for row in [*earlier, *rows]})
    texts = dict(zip(hash_values(ITEM_KEY, pa.array(list(map(int, items)))).tolist(), items, strict=True))
    of_event = np.cumsum(table[LABEL].to_numpy()).astype(int) - 1
    assert len(rows) == of_event[-1] + 1
    return [rows[n] | {item: texts[i]} for n, i in zip(of_event.tolist(), table[ITEM_KEY].to_pylist(), strict=True)]


def with_point_in_time(spec: DatasetSpec, rows: list[Row], events: list[Row]) -> list[Row]:
    """The rows with the last items of their users, newest first, and the trailing counts of their items."""
    negatives, item, user = spec.label.negatives, spec.item or "", spec.user or ""
    assert negatives
    times: defaultdict[str, list[int]] = defaultdict(list)
    seen: defaultdict[str, list[str]] = defaultdict(list)
    for event in events:
        times[event[item]].append(event["event_time"])
    histories = {f"{HISTORY_PREFIX}{s.name}": s.history or 0 for s in spec.sparse if s.history}
    done, before = [], 0
    for row in rows:
        now, of_item = row["event_time"], times[row[item]]
        while events[before]["event_time"] < now:
            seen[events[before][user]].append(events[before][item])
            before += 1
        counts = {
            name: bisect_left(of_item, now) - bisect_left(of_item, now - round(hours * MICROSECONDS_PER_HOUR))
            for name, hours in negatives.recent.items()
        }
        # A count over the window of the negatives would tell them from clicks where it is 0.
        counts |= {name: max(counts[name], 1) for name, hours in negatives.recent.items() if hours >= negatives.window_hours}
        lists = {name: seen[row[user]][-most:][::-1] for name, most in histories.items()}
        done.append(row | {name: str(count) for name, count in counts.items()} | lists)
    return done


def differences(found: Batch | None, expected: Batch) -> dict[str, list[int]]:
    """The first rows that differ, by feature; {} if all are the same, bit for bit."""
    assert found is not None and len(found) == len(expected) and found.sparse.keys() == expected.sparse.keys()
    wrong = (found.dense.numpy().view(np.int32) != expected.dense.numpy().view(np.int32)).T
    rows = {f"dense {n}": np.flatnonzero(column)[:5].tolist() for n, column in enumerate(wrong) if column.any()}
    for name in expected.sparse.keys():  # noqa: SIM118 (a KeyedJaggedTensor is not a mapping)
        one, other = found.sparse[name], expected.sparse[name]
        if one.lengths().equal(other.lengths()) and one.values().equal(other.values()):
            continue
        ids = [[ids.tolist() for ids in jagged.to_dense()] for jagged in (one, other)]
        rows[name] = [row for row, (mine, theirs) in enumerate(zip(*ids, strict=True)) if mine != theirs][:5]
    return rows


def slices(rows: int) -> Iterator[slice]:
    """All rows in large requests, and some of them alone."""
    yield from (slice(start, start + SENT_AT_ONCE) for start in range(0, rows, SENT_AT_ONCE))
    yield from (slice(row, row + 1) for row in range(0, rows, max(rows // ALONE, 1)))


def assert_same_in_every_form(spec: DatasetSpec, rows: list[Row], table: pa.Table, vocabularies: dict[str, Vocabulary]) -> None:
    """Send the rows of a feature table to a bundle, and compare the features that its model receives."""
    assert len(rows) == len(table)
    predictor = Seen(spec)
    bundle = Bundle(spec, predictor, vocabularies)
    for part in slices(len(rows)):
        expected = batch_from_arrow(table.slice(part.start, part.stop - part.start), predictor.schema)
        texts: Texts = {column: [row[column] for row in rows[part]] for column in raw_columns(spec)}
        own = {column: texts[column] for column in texts if column != EVENT_TIME}
        if EVENT_TIME in texts and (clock := spec.time.column):
            own[clock] = [row[clock] for row in rows[part]]
        for form, held in FORMS.items():
            bundle.predict(held(spec, own if form in OWN_TIME else texts))
            assert differences(predictor.batch, expected) == {}, (form, part)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # Globo has 460,000 rows with negatives, each sent in eleven forms
@pytest.mark.parametrize("name", [pytest.param(name, marks=LONG if name == "globo" else ()) for name in DAYS])
def test_each_row_of_a_day(
    name: str, catalog: dict[str, DatasetSpec], request: pytest.FixtureRequest, tmp_path: Path, spark: SparkSession
) -> None:
    spec, day = catalog[name], DAYS[name]
    if spec.simulation:
        folder = tmp_path / "log"
        simulate.write_day(spec.log, day, folder)
    else:
        folder = request.getfixturevalue("real_logs") / {"movielens": "movielens-100k"}.get(name, name)
    lakes = {"spark": Lake.at(tmp_path / "spark"), "local": Lake.at(tmp_path / "local")}
    table = features_of(spec, day, lakes["local"], folder, None)
    assert table.equals(features_of(spec, day, lakes["spark"], folder, spark))
    by_spark, local = (digests(lake.partition(CLEANED_FEATURES, name, day) / "rows") for lake in lakes.values())
    assert by_spark == local

    rows = rows_of_day(spec, folder, day)
    if negatives := spec.label.negatives:
        begin = rows[0]["event_time"] - round(negatives.look_back_hours * MICROSECONDS_PER_HOUR)
        earlier = rows_between(spec, folder, day, begin, bounds(spec, day)[0])
        rows = with_point_in_time(spec, with_items(spec, rows, earlier, table), [*earlier, *rows])
    assert len(rows) > 500
    assert_same_in_every_form(spec, rows, table, {})


def rows_in_lake(spec: DatasetSpec, lake: Lake, day: str) -> list[Row]:
    """Rows of a generated log as text, from the values in the lake."""
    raw, missing = raw_table(lake, spec.name, day), spec.source.null_tokens[0]
    texts = {name: raw[name].cast(pa.string()).fill_null(missing).to_pylist() for name in spec.source.columns}
    columns = texts | {EVENT_TIME: raw[EVENT_TIME].to_pylist()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_row_of_a_generated_log(layout: str, tmp_path: Path, spark: SparkSession) -> None:
    """Days of few rows in several layouts, with the hour, values beside each other and values with ids of their own."""
    entry = write_log(layout, folder := tmp_path / "log", seed=11)
    plain = next(name for name in entry["sparse"] if isinstance(name, str))
    entry["sparse"] += [{"name": "known", "column": plain, "vocabulary": {"min_count": 2}}]
    entry["sparse"] += [] if "by_position" in entry["time"] else [{"name": "hour", "hour_of_day": True}]
    spec = DatasetSpec.model_validate(entry)
    lakes = {"local": Lake.at(tmp_path / "local"), "spark": Lake.at(tmp_path / "spark")}
    known, earlier = Vocabulary.empty(), []
    for day in spec.days()[:5]:
        table = features_of(spec, day, lakes["local"], folder, None)
        assert table.equals(features_of(spec, day, lakes["spark"], folder, spark))
        rows = logged = rows_in_lake(spec, lakes["local"], day)
        if spec.label.negatives:
            rows = with_point_in_time(spec, with_items(spec, rows, earlier, table), [*earlier, *rows])
        assert_same_in_every_form(spec, with_side_columns(spec, rows, folder), table, {"known": known})
        known = Vocabulary.read(lakes["local"].partition(CLEANED_FEATURES, spec.name, day) / "vocabulary" / "known.parquet")
        earlier = logged
