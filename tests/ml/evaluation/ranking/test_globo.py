"""Standing sources on the real log of Globo.com reach the published figures of 3 October 2017."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner
from ml.evaluation.ranking.report import rank_day
from ml.features.clean import clean_day
from ml.lake import Lake
from ml.logs.ingest import ingest_day

DAYS = ("2017-10-01", "2017-10-02", "2017-10-03")


@pytest.mark.slow
def test_popularity_and_co_visitation_over_all_live_items(real_logs: Path, catalog: dict[str, DatasetSpec], lake: Lake) -> None:
    globo, runner, folder = catalog["globo"], LocalRunner(), real_logs / "globo"
    for day in DAYS:
        ingest_day(globo.log, day, folder, lake, runner)
        clean_day(globo, day, lake, str(folder), runner)
    found = rank_day(globo, DAYS[-1], lake, DAYS[:-1], {})
    assert found is not None and found["requests"] == 239_059
    assert found["filled_in"] == pytest.approx(0.342, abs=0.001)
    sources = found["sources"]
    assert sources["popularity_60m"]["recall@20"] == pytest.approx(0.668, abs=0.005)
    assert sources["co_visitation"]["recall@20"] == pytest.approx(0.720, abs=0.005)
    assert sources["popularity_10m"]["without_seen"]["recall@20"] == pytest.approx(0.693, abs=0.005)
    for of in sources.values():  # the last clicks of sessions are harder to foresee
        assert of["filled_in_times"]["recall@20"] < of["true_times"]["recall@20"]
