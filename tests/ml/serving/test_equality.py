"""The features of a request are those of the daily features for the same event at the same instant, bit for bit."""

from __future__ import annotations

import time
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from upath import UPath

from ml.artifacts.predictor import Predictor
from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner, SparkRunner
from ml.datasets.batch import Batch
from ml.datasets.collate import batch_from_arrow
from ml.features.clean import clean_day
from ml.features.event_days import write_event_day
from ml.features.hashing import hash_values
from ml.features.point_in_time.event_log import EventLog
from ml.features.point_in_time.feature_tables import table_columns, with_feature_tables
from ml.features.read import feature_table
from ml.http.server import serving
from ml.lake import Lake
from ml.logs.ingest import ingest_day
from ml.logs.read import raw_table
from ml.online.examples import read_side_tables
from ml.schema import EVENT_TIME, ITEM_KEY, LABEL, FeatureSchema
from ml.serving.app import create_serving_app
from ml.serving.clock import Clock
from ml.serving.feature_tables import ServedTables
from ml.serving.start import start
from tests.helpers.kiosk_lake import export
from tests.helpers.small_logs import write_log

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


class Recorder:
    """A predictor that keeps the batch that it is asked to score."""

    def __init__(self, held: Predictor) -> None:
        self.schema, self.labels, self._held = held.schema, held.labels, held
        self.seen: Batch | None = None

    def predict(self, batch: Batch, sampled: bool = False) -> np.ndarray:
        return self._held.predict(batch, sampled)

    def predict_labels(self, batch: Batch, sampled: bool = False) -> np.ndarray:
        self.seen = batch
        return self._held.predict_labels(batch, sampled)


def batches_equal(one: Batch | None, other: Batch) -> None:
    assert one is not None
    np.testing.assert_array_equal(one.dense.numpy(), other.dense.numpy())
    assert one.sparse.keys() == other.sparse.keys()
    for key in one.sparse.keys():  # noqa: SIM118
        np.testing.assert_array_equal(one.sparse[key].values().numpy(), other.sparse[key].values().numpy(), err_msg=key)
        np.testing.assert_array_equal(one.sparse[key].lengths().numpy(), other.sparse[key].lengths().numpy(), err_msg=key)


def use_few_ids(archive: Path) -> None:
    """Let users and items of the news log return, so that they have histories and counts."""
    with zipfile.ZipFile(archive) as held:
        files = {name: held.read(name).decode().splitlines() for name in held.namelist() if name.endswith(".csv")}
    with zipfile.ZipFile(archive, "w") as written:
        for name, lines in files.items():
            rows = [line.split(",") for line in lines[1:]]
            few = [",".join([str(int(user) % 60), visit, str(int(item) % 40), *rest]) for user, visit, item, *rest in rows]
            written.writestr(name, "\n".join([lines[0], *few]) + "\n")


TABLES = [
    {"name": "article", "entity": ["click_article_id"], "values": [
        {"name": "clicks_10m", "count": {"hours": 0.2}},
        {"name": "idle", "recency": {"hours": 5}},
        {"name": "together", "covisitation": {"session": "session", "context": 3, "hours": 8, "strength": 2}},
    ]},
    {"name": "reader", "entity": ["user_id"], "known_after_minutes": 5, "values": [
        {"name": "reader_clicks", "count": {"hours": 24}},
        {"name": "last_read", "last": {"column": "click_article_id", "most": 3, "hours": 24}},
        {"name": "device_mean", "rate": {"column": "device", "hours": 12, "strength": 3}},
    ]},
    {"name": "on_device", "entity": ["click_article_id", "device"], "values": [
        {"name": "clicks_on_device", "count": {"hours": 6}},
        {"name": "readers", "last": {"column": "user_id", "most": 2, "hours": 20}},
    ]},
]  # fmt: skip


def add_tables(entry: dict[str, Any]) -> None:
    """Declares feature tables of the news log, with features of each value."""
    dense = ["clicks_10m", "reader_clicks", "device_mean", "clicks_on_device"]
    entry["feature_tables"] = TABLES
    entry["dense"] += [*dense, {"name": "idle", "fill": -1}, {"name": "together", "fill": -1}]
    entry["sparse"] += [{"name": "read", "history": "last_read"}, {"name": "others", "history": "readers"}]


def make_days(spec: DatasetSpec, lake: Lake, logs: Path, spark: SparkSession | None = None) -> tuple[str, str]:
    first, day = spec.days()[:2]
    runner = SparkRunner(spark) if spark else LocalRunner()
    for one in (first, day):
        ingest_day(spec.log, one, str(logs), lake, runner)
        if spec.feature_tables:
            write_event_day(spec, one, lake)
        clean_day(spec, one, lake, str(logs), runner, spark)
    return first, day


def test_served_values_of_feature_tables_equal_those_of_the_log_all_day(tmp_path: Path, lake: Lake) -> None:
    """Each event of a day, asked for just before it happens: no value differs. With events of the last minute not yet known,
    values differ, and equal those of the events that are known."""
    logs = tmp_path / "logs"
    entry: dict[str, Any] = write_log("news", logs, 1)
    add_tables(entry)
    use_few_ids(logs / "clicks.zip")
    spec = DatasetSpec.model_validate(entry)
    first, day = make_days(spec, lake, logs)
    raw = raw_table(lake, spec.name, day)
    times = raw[EVENT_TIME].to_numpy()
    log = EventLog.of(spec, pa.concat_tables([raw_table(lake, spec.name, first), raw]))
    offline = with_feature_tables(raw, spec, log)
    names = [name for table in spec.feature_tables for value in table.values for name in table_columns(spec, value)]
    for lag in (0, 60 * 60_000_000):
        tables, done, differing, refreshed = ServedTables(spec), 0, 0, -lag
        tables.load(EventLog.of(spec, raw_table(lake, spec.name, first)))
        for at, now in enumerate(times.tolist()):
            if now - refreshed > lag or not lag:
                before = int(np.searchsorted(times, now))
                tables.append(raw.slice(done, before - done))
                tables.refresh(now)
                done, refreshed = max(done, before), now
            row = raw.slice(at, 1)
            context = row.to_pylist()[0]
            found = tables.of_request(context, now)
            items = tables.of_items(row.select(["click_article_id"]), context, now)
            served = found | {name: items[name] for name in items.column_names[1:]}
            assert served.keys() == set(names)
            wanted = {name: offline[name][at].as_py() for name in names}
            answers = {name: values[0].as_py() for name, values in served.items()}
            if lag and answers != wanted:
                differing += 1
                known = EventLog(log.rows.slice(0, len(log.rows) - len(raw) + done))
                wanted = with_feature_tables(row, spec, known).select(names).to_pylist()[0]
            assert answers == wanted
        assert (differing > 100) == bool(lag)
        assert tables.lookup_counts.lookups == dict.fromkeys(("article", "reader", "on_device"), len(raw))
        assert 0 < tables.lookup_counts.misses["on_device"] < len(raw) / 2


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["news", "ratings", "shop"])
def test_every_row_of_a_day_is_served_with_the_features_and_the_score_of_the_daily_features(
    layout: str, tmp_path: Path, lake: Lake, spark: SparkSession
) -> None:
    """Each event of a day is asked for just before it happens, with its sampled negatives. Spark has made the features."""
    logs = tmp_path / "logs"
    tables = {"default": {"kind": "hashed", "rows": 512}}  # whose rows are not zero before they are trained
    entry: dict[str, Any] = write_log(layout, logs, 1) | {"models": {"dlrm": {"overrides": {"tables": tables}}}}
    if layout == "news":
        entry["sparse"] += [{"name": "history", "history": 3}, {"name": "hour", "hour_of_day": True}]
        add_tables(entry)
        use_few_ids(logs / "clicks.zip")
    spec = DatasetSpec.model_validate(entry)
    assert spec.item and spec.user
    first, day = make_days(spec, lake, logs, spark)
    export(lake, spec, "dlrm", first)
    engine = start(spec, lake, UPath(tmp_path / "stream"), read_side_tables(spec, str(logs)))
    engine.follow = lambda stop, wait=None: stop.wait()  # type: ignore[method-assign]  # the test alone refreshes
    recommender, bundle = engine.recommender, engine.ranking.bundle
    assert recommender is not None
    recorder = Recorder(bundle.predictor)
    raw, features = raw_table(lake, spec.name, day), feature_table(lake, spec, day)
    starts = np.flatnonzero(features[LABEL].to_numpy() > 0.5) if spec.label.negatives else np.arange(len(raw))
    assert len(starts) == len(raw) > 20
    known = pa.concat_tables([raw_table(lake, spec.name, first), raw])[spec.item].combine_chunks()
    items = dict(zip(hash_values(ITEM_KEY, known).tolist(), known.to_pylist(), strict=True))
    times, done, new = raw[EVENT_TIME].to_numpy(), 0, 0
    with serving(create_serving_app(engine, None)) as url, httpx.Client(base_url=url, timeout=30) as client:
        for at, (begin, end) in enumerate(pairwise([*starts.tolist(), len(features)])):
            now, machine = int(times[at]), time.time_ns() // 1000
            engine.clock = Clock(offset=now - machine, pace=0.0, began=machine)
            before = int(np.searchsorted(times, now))  # events at the same instant are not known yet
            engine.observe(raw.slice(done, before - done))
            done = max(done, before)
            engine.refresh()
            row, rows = raw.slice(at, 1).to_pylist()[0], features.slice(begin, end - begin)
            candidates = [items[key] for key in rows[ITEM_KEY].to_pylist()]
            new += row[spec.item] not in recommender.source.live.items[spec.item].to_pylist()
            context = {name: row[name] for name in recommender.context_columns}
            wanted = batch_from_arrow(rows, FeatureSchema.of(spec))
            recommender.rank(bundle.with_predictor(recorder), row[spec.user], context, candidates, now)
            batches_equal(recorder.seen, wanted)
            answer = client.post("/rank", json={"user": row[spec.user], "context": context, "candidates": candidates}).json()
            scores = dict(zip(candidates, bundle.score(wanted).tolist(), strict=True))
            assert {of["item"]: of["score"] for of in answer["items"]} == pytest.approx(scores, rel=1e-5)
    assert new > 0, "an item without earlier events is among them"
    assert set(recommender.item_sides.counts) == {"item_sides", "bundle"}
