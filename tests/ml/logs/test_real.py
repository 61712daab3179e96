"""Real logs have the counts that their publishers state, or that a count of the lines gives."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner
from ml.lake import Lake
from ml.logs.index import LogIndex
from ml.logs.ingest import ingest_day
from ml.logs.read import raw_table
from ml.logs.source_table import read_table


@pytest.mark.slow
def test_globo(real_logs: Path, catalog: dict[str, DatasetSpec], lake: Lake) -> None:
    globo, runner = catalog["globo"], LocalRunner()
    index = LogIndex.build(globo.log, real_logs / "globo", lake, runner)
    rows = sum(sum(block.rows.values()) for of in index.files for block in of.blocks or ())
    lines = sum(sum(of.values()) for of in index.lines.values())
    outside = [index.out_of_range(day) for day in globo.days()]
    assert (len(index.files), rows, lines - rows, outside) == (385, 2_981_196, 0, [0] * 15 + [6_985])
    table, quarantine = read_table(globo.source, real_logs / "globo")
    assert (table.num_rows, len(quarantine)) == (2_988_181, 0)
    distinct = [len(table.column(name).unique()) for name in ("user_id", "click_article_id", "session_id")]
    assert distinct == [322_897, 46_033, 1_048_594]
    day = ingest_day(globo.log, "2017-10-15", real_logs / "globo", lake, runner)
    assert (day.rows, day.quarantined) == (92_007, 0)
    last = ingest_day(globo.log, "2017-10-16", real_logs / "globo", lake, runner)
    assert (last.rows, last.reasons, last.out_of_range) == (191_635, {}, 6_985)
    assert day.files < 100


@pytest.mark.slow
def test_criteo(real_logs: Path, catalog: dict[str, DatasetSpec], lake: Lake) -> None:
    criteo = catalog["criteo"]
    days = criteo.days()
    done = [ingest_day(criteo.log, day, real_logs / "criteo", lake, LocalRunner()) for day in days]
    assert [d.rows for d in done] == [19_592, 19_592, *[19_591] * 5]
    assert sum(d.quarantined for d in done) == 0
    table = pa.concat_tables([raw_table(lake, "criteo", day) for day in days])
    original, _ = read_table(criteo.source, real_logs / "criteo")
    assert table.drop_columns("event_time").equals(original)
    assert round(sum(original["label"].to_pylist()) / 137_139, 4) == 0.2568
    categories = [original.column(name) for name in criteo.source.columns if name.startswith("C")]
    # Distinct (column, value) pairs; missing is one value of a column.
    assert sum(len(c.unique()) for c in categories) == 316_191
    unlabelled = {name: kind for name, kind in criteo.source.columns.items() if name != "label"}
    test = criteo.source.model_copy(update={"files": "test.txt.gz", "columns": unlabelled})
    table, quarantine = read_table(test, real_logs / "criteo")
    assert (table.num_rows, len(quarantine)) == (18_181, 0)


def test_movielens(real_logs: Path, catalog: dict[str, DatasetSpec], lake: Lake) -> None:
    movielens, folder = catalog["movielens"], real_logs / "movielens-100k"
    index = LogIndex.build(movielens.log, folder, lake, LocalRunner())
    days = index.lines["u.data"]
    assert sum(days.values()) == 100_000
    assert (min(days), max(days)) == ("1997-09-20", "1998-04-22")
    assert ingest_day(movielens.log, max(days), folder, lake, LocalRunner()).rows == days[max(days)]
    sizes = {}
    for side in movielens.join:
        table, quarantine = read_table(side.source, folder)
        sizes[side.table_key] = (table.num_rows, len(quarantine))
    assert sizes == {"item_id": (1_682, 0), "user_id": (943, 0)}
