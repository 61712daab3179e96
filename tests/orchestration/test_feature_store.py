"""`make store` follows the stream folder of a dataset with feature tables."""

from __future__ import annotations

import random
import re
from io import StringIO
from pathlib import Path

import click
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from ml.catalog.spec import DatasetSpec
from ml.features.online_store.environment import store_folder
from ml.features.online_store.plan import StorePlan
from ml.features.online_store.reader import StoreReader
from orchestration.feature_store import follow_store
from tests.helpers.interrupted_streams import interrupt_when_waiting
from tests.helpers.joined_logs import drawn, feed
from tests.helpers.naive_tables import naive_values
from tests.helpers.shop_days import spec_of
from tests.helpers.table_days import day_rows, table_spec


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_when_waiting(monkeypatch)


def follow(root: Path, spec: DatasetSpec, *, rebuild: bool = False, stream: str = "examples") -> str:
    out = StringIO()
    follow_store(spec, str(root), Console(file=out, width=400, highlight=False), rebuild=rebuild, stream=stream)
    return out.getvalue()


@pytest.mark.usefixtures("stopping")
def test_what_arrives_is_looked_up_and_a_rebuild_gives_the_same(tmp_path: Path) -> None:
    spec, rows = table_spec(), day_rows(0, 50)
    stream = tmp_path / "stream" / spec.name / "examples"
    stream.mkdir(parents=True)
    pq.write_table(rows.slice(0, 30), stream / "001.parquet")
    said = follow(tmp_path, spec)
    assert "001.parquet: 30 rows, 30 in all" in said and re.search(r"windows of \d+ hours are complete from 20", said)
    pq.write_table(rows.slice(30), stream / "002.parquet")
    said = follow(tmp_path, spec)
    assert "002.parquet: 20 rows, 50 in all" in said and "001.parquet" not in said.replace("after 001.parquet", "")
    reader, at = StoreReader(store_folder(tmp_path, spec.name), StorePlan.of(spec)), rows["event_time"][-1].as_py() + 1
    found = reader.lookup("item", rows, at)
    assert not found.missing[rows["item"].is_valid().to_numpy()].any()
    assert "rebuilt from 50 rows" in follow(tmp_path, spec, rebuild=True)
    assert reader.lookup("item", rows, at).columns.equals(found.columns)


@pytest.mark.usefixtures("stopping")
def test_other_tables_need_a_rebuild(tmp_path: Path) -> None:
    spec = table_spec()
    follow(tmp_path, spec)
    other = table_spec(feature_tables=[spec.feature_tables[0].model_dump(mode="json")], dense=["shown"], sparse=["item"])
    with pytest.raises(click.ClickException, match="REBUILD=1"):
        follow(tmp_path, other)
    follow(tmp_path, other, rebuild=True)
    follow(tmp_path, other)


def test_a_dataset_without_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match="no feature_tables"):
        follow(tmp_path, spec_of())


SHOWN = {"name": "shown", "entity": ["item"], "values": [{"name": "shown_1h", "count": {"hours": 1}}]}
RATES = {"name": "rates", "entity": ["item"], "values": [{"name": "ctr", "rate": {"column": "clicked", "hours": 24}}]}


@pytest.mark.usefixtures("stopping")
def test_tables_that_are_delayed_by_the_wait_are_named(tmp_path: Path) -> None:
    """A bucket is half an hour wide, the longest wait two hours, and the lateness 10 minutes."""
    said = follow(tmp_path, feed(feature_tables=[SHOWN, RATES]))
    shown, rates = (line for line in said.splitlines() if line.startswith("warning"))
    assert "'shown' after 0 minutes" in shown and "up to 160 minutes after" in shown and "STREAM=impressions" in shown
    assert "'rates' after 120 minutes" in rates and "feature_tables.1.known_after_minutes: 160" in rates
    assert "STREAM" not in rates
    known = feed(feature_tables=[{**table, "known_after_minutes": 160} for table in (SHOWN, RATES)])
    assert "warning" not in follow(tmp_path, known, rebuild=True)


@pytest.mark.usefixtures("stopping")
def test_a_store_of_impressions_has_them_before_the_wait_is_over(tmp_path: Path) -> None:
    spec = feed(feature_tables=[SHOWN, RATES])
    rows = drawn(random.Random(3), 80, 600)[0].sort_by("event_time")
    stream = tmp_path / "stream" / spec.name / "impressions"
    stream.mkdir(parents=True)
    pq.write_table(rows.slice(0, 40), stream / "001.parquet")
    assert "warning" not in follow(tmp_path, spec, stream="impressions")
    pq.write_table(rows.slice(40), stream / "002.parquet")
    assert "002.parquet" in follow(tmp_path, spec, stream="impressions")
    reader = StoreReader(store_folder(tmp_path, spec.name, "impressions"), StorePlan.of(spec, "impressions"))
    assert list(reader.plan.tables) == ["shown"], "the impressions have no labels"
    at = rows["event_time"][-1].as_py() + 1
    found = reader.lookup("shown", rows, at).columns["shown_1h"].to_pylist()
    events = rows.to_pylist()
    assert found == [naive_values(spec.feature_tables[0], events, row, at)["shown_1h"] for row in events]
    assert max(found) > 0
    assert not store_folder(tmp_path, spec.name).exists(), "the store of examples is another one"


def test_impressions_that_a_store_cannot_follow_are_refused(tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match="no actions"):
        follow(tmp_path, table_spec(), stream="impressions")
    with pytest.raises(click.ClickException, match="read a label"):
        follow(tmp_path, feed(feature_tables=[RATES]), stream="impressions")
