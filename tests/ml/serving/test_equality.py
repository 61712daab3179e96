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
from ml.features.read import feature_table
from ml.lake import Lake
from ml.logs.ingest import ingest_day
from ml.logs.read import raw_table
from ml.online.examples import read_side_tables
from ml.schema import EVENT_TIME, FeatureSchema
from ml.serving.catalogue import LiveCatalogue
from ml.serving.events import EventWindow
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


@pytest.mark.parametrize("layout", ["news", "ratings", "shop"])
def test_served_features_equal_those_of_the_day(layout: str, tmp_path: Path, lake: Lake) -> None:
    from ml.artifacts.raw_columns import raw_columns

    logs = tmp_path / "logs"
    entry: dict[str, Any] = write_log(layout, logs, 1)
    if layout == "news":
        entry["sparse"] += [{"name": "history", "history": 3}, {"name": "hour", "hour_of_day": True}]
        use_few_ids(logs / "clicks.zip")
    spec = DatasetSpec.model_validate(entry)
    assert spec.item and spec.user
    first, day = spec.days()[:2]
    for one in (first, day):
        ingest_day(spec.log, one, str(logs), lake, LocalRunner())
        clean_day(spec, one, lake, str(logs), LocalRunner())
    sides = read_side_tables(spec, str(logs))
    window = EventWindow(spec)
    source = LiveCatalogue(spec, window, sides)
    recommender, recorder = Recommender(spec, window, source, sides), Recorder(spec, raw_columns(spec))
    raw, features = raw_table(lake, spec.name, day), feature_table(lake, spec, day)
    positives = features.filter(pa.array(features["label"].to_numpy() > 0.5)) if spec.label.negatives else features
    assert len(positives) == len(raw) > 20
    window.load(raw_table(lake, spec.name, first).select(window.columns))
    done, compared = 0, 0
    times = raw[EVENT_TIME].to_numpy()
    for at in np.unique(np.linspace(1, len(raw) - 1, 150).astype(int)).tolist():
        now = int(times[at])
        before = int(np.searchsorted(times, now))  # events at the same instant are not known yet
        window.append(raw.slice(done, before - done).select(window.columns))
        done = max(done, before)
        row = raw.slice(at, 1).to_pylist()[0]
        live = source.refresh(now, None)
        items = live.items.filter(pa.array([value == row[spec.item] for value in live.items[spec.item].to_pylist()]))
        if not len(items):  # an item without earlier events is not live, so it is never recommended
            continue
        described = set(items.column_names)
        known = {name: value for name, value in row.items() if name in spec.column_types and name not in described}
        asked = {name: value for name, value in known.items() if name in recorder.columns and name != spec.user}
        user_row = recommender.row_of(recorder, row[spec.user], asked, now)  # type: ignore[arg-type]
        logged = {name: row[name] for name in described if name in row}
        for name, value in logged.items():
            items = items.set_column(items.column_names.index(name), name, pa.array([value], items[name].type))
        recommender.score(recorder, user_row, items)  # type: ignore[arg-type]
        assert recorder.seen is not None
        wanted = batch_from_arrow(positives.slice(at, 1), FeatureSchema.of(spec))
        batches_equal(recorder.seen, wanted)
        compared += 1
    assert compared >= (100 if layout == "news" else 5)
