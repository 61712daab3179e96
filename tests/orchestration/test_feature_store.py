"""`make store` follows the stream folder of a dataset with feature tables."""

from __future__ import annotations

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
from tests.helpers.shop_days import spec_of
from tests.helpers.table_days import day_rows, table_spec


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_when_waiting(monkeypatch)


def follow(root: Path, spec: DatasetSpec, *, rebuild: bool = False) -> str:
    out = StringIO()
    follow_store(spec, str(root), Console(file=out, width=400, highlight=False), rebuild=rebuild)
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
