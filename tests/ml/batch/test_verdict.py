"""The check of a batch finds users with too few items, repeated items and scores that are not finite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ml.batch.day import recommend_day
from ml.batch.options import BatchOptions
from ml.batch.verdict import BatchVerdict, batch_verdict
from ml.compute.runner import LocalRunner
from ml.parquet import read_parquet, write_table
from tests.helpers.kiosk_lake import DAY, kiosk_lake, spec_of


def _repeat(rows: pa.Table) -> pa.Table:
    items = rows["item"].to_numpy().copy()
    items[1] = items[0]
    return rows.set_column(rows.column_names.index("item"), "item", pa.array(items))


def _diverge(rows: pa.Table) -> pa.Table:
    scores = rows["score"].to_numpy().copy()
    scores[2] = np.nan
    return rows.set_column(rows.column_names.index("score"), "score", pa.array(scores))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda rows: rows.slice(1),
            "1 of 29 users have fewer than 5 items; set a smaller `k` in the configuration of the run",
        ),
        (
            lambda rows: rows.slice(10),
            "2 of 29 users have fewer than 5 items; set a smaller `k` in the configuration of the run",
        ),
        (_repeat, "1 rows repeat an item of their user"),
        (_diverge, "1 scores are not finite"),
    ],
)
def test_each_fault_is_found(tmp_path: Path, change: Callable[[pa.Table], pa.Table], said: str) -> None:
    lake, spec = kiosk_lake(tmp_path / "lake"), spec_of()
    folder = recommend_day(spec, DAY, lake, str(tmp_path), LocalRunner(), BatchOptions(k=5), users_per_part=10).folder
    assert batch_verdict(spec, DAY, lake).reasons == []
    part = folder / "rows" / "part-00001.parquet"
    write_table(change(read_parquet(part)), part)
    assert batch_verdict(spec, DAY, lake).reasons == [said]


@pytest.mark.parametrize("has_towers", [True, False])
def test_two_towers_are_proposed_to_a_dataset_without_them(has_towers: bool) -> None:
    [reason] = BatchVerdict(users=9, least=5, short=1, repeated=0, not_finite=0, has_towers=has_towers).reasons
    assert "smaller `k`" in reason and ("two_tower" in reason) != has_towers


def test_a_small_catalogue_bounds_what_is_asked_for(tmp_path: Path) -> None:
    lake, spec = kiosk_lake(tmp_path / "lake"), spec_of()
    recommend_day(spec, DAY, lake, str(tmp_path), LocalRunner(), BatchOptions(k=100))
    found = batch_verdict(spec, DAY, lake)
    assert found.reasons == [] and found.least == lake.manifest("batch_recommendations", spec.name, DAY)["live_items"] - 20
