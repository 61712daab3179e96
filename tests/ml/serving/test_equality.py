"""The features of a request are those of the daily features for the same event at the same instant, bit for bit."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner
from ml.datasets.batch import Batch
from ml.datasets.collate import batch_from_arrow
from ml.datasets.request import RequestTransform
from ml.features.clean import clean_day
from ml.features.event_days import write_event_day
from ml.features.point_in_time.event_log import EventLog
from ml.features.point_in_time.feature_tables import table_columns, with_feature_tables
from ml.features.read import feature_table
from ml.lake import Lake
from ml.logs.ingest import ingest_day
from ml.logs.read import raw_table
from ml.online.examples import read_side_tables
from ml.schema import EVENT_TIME, FeatureSchema
from ml.serving.batches import batch_of
from ml.serving.catalogue import LiveCatalogue
from ml.serving.events import EventWindow
from ml.serving.feature_tables import ServedTables
from ml.serving.recommender import Recommender
from tests.helpers.small_logs import write_log


class Recorder:
    """Stands for a bundle: it has the columns and the transform of one, and keeps the batch that it is asked to score."""

    def __init__(self, spec: DatasetSpec, columns: dict[str, pa.DataType]) -> None:
        self.columns, self._transform = columns, RequestTransform(spec)
        self.seen: Batch | None = None

    def batch(self, rows: pa.RecordBatch) -> Batch:
        return self._transform(rows)

    def score(self, batch: Batch) -> np.ndarray:
        self.seen = batch
        return np.zeros(len(batch), np.float32)


def batches_equal(one: Batch, other: Batch) -> None:
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


def make_days(spec: DatasetSpec, lake: Lake, logs: Path) -> tuple[str, str]:
    first, day = spec.days()[:2]
    for one in (first, day):
        ingest_day(spec.log, one, str(logs), lake, LocalRunner())
        if spec.feature_tables:
            write_event_day(spec, one, lake)
        clean_day(spec, one, lake, str(logs), LocalRunner())
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


@pytest.mark.parametrize("layout", ["news", "ratings", "shop"])
def test_served_features_equal_those_of_the_day(layout: str, tmp_path: Path, lake: Lake) -> None:
    from ml.artifacts.raw_columns import raw_columns

    logs = tmp_path / "logs"
    entry: dict[str, Any] = write_log(layout, logs, 1)
    if layout == "news":
        entry["sparse"] += [{"name": "history", "history": 3}, {"name": "hour", "hour_of_day": True}]
        add_tables(entry)
        use_few_ids(logs / "clicks.zip")
    spec = DatasetSpec.model_validate(entry)
    assert spec.item and spec.user
    first, day = make_days(spec, lake, logs)
    sides = read_side_tables(spec, str(logs))
    window = EventWindow(spec)
    source = LiveCatalogue(spec, window, sides)
    recommender, recorder = Recommender(spec, window, source, sides), Recorder(spec, raw_columns(spec))
    raw, features = raw_table(lake, spec.name, day), feature_table(lake, spec, day)
    positives = features.filter(pa.array(features["label"].to_numpy() > 0.5)) if spec.label.negatives else features
    assert len(positives) == len(raw) > 20
    window.load(raw_table(lake, spec.name, first).select(window.columns))
    source.tables.append(raw_table(lake, spec.name, first))
    done, compared = 0, 0
    times = raw[EVENT_TIME].to_numpy()
    for at in np.unique(np.linspace(1, len(raw) - 1, 150).astype(int)).tolist():
        now = int(times[at])
        before = int(np.searchsorted(times, now))  # events at the same instant are not known yet
        window.append(raw.slice(done, before - done).select(window.columns))
        source.tables.append(raw.slice(done, before - done))
        done = max(done, before)
        row = raw.slice(at, 1).to_pylist()[0]
        live = source.refresh(now, None)
        items = live.items.filter(pa.array([value == row[spec.item] for value in live.items[spec.item].to_pylist()]))
        if not len(items):  # an item without earlier events is not live, so it is never recommended
            continue
        described = set(items.column_names)
        known = {name: value for name, value in row.items() if name in spec.column_types and name not in described}
        read = {*recorder.columns, *source.tables.context_columns}
        asked = {name: value for name, value in known.items() if name in read and name != spec.user}
        user_row = recommender.row_of(recorder, row[spec.user], asked, now)  # type: ignore[arg-type]
        logged = {name: row[name] for name in described if name in row}
        for name, value in logged.items():
            items = items.set_column(items.column_names.index(name), name, pa.array([value], items[name].type))
        items = recommender.with_tables(items, row[spec.user], asked, now)
        recorder.score(batch_of(recorder, user_row, items))  # type: ignore[arg-type]
        assert recorder.seen is not None
        wanted = batch_from_arrow(positives.slice(at, 1), FeatureSchema.of(spec))
        batches_equal(recorder.seen, wanted)
        compared += 1
    assert compared >= (100 if layout == "news" else 5)
