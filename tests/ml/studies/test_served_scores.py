"""Scores over HTTP equal those of the trained model on the daily features, within what the export changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ml.artifacts.raw_columns import raw_columns
from ml.catalog.spec import DatasetSpec
from ml.datasets.collate import batch_from_arrow
from ml.export.day import export_day, load_export
from ml.features.read import feature_table
from ml.lake import Lake
from ml.online.examples import read_side_tables
from ml.recipes.export import ExportRecipe
from ml.schema import EVENT_TIME, LABEL, FeatureSchema
from ml.studies.served_scores import ROUNDING, ask, last_day, log_odds, sent_rows, serve, served_scores
from tests.helpers.kiosk_days import DAYS
from tests.helpers.kiosk_lake import kiosk_lake, spec_of
from tests.helpers.trained_logs import spec_of_log, train_first_day


@pytest.fixture
def synthetic(catalog: dict[str, DatasetSpec]) -> DatasetSpec:
    """The built-in log with the model that is trained here alone."""
    entry = catalog["synthetic"].model_dump(mode="json", exclude_unset=True)
    return DatasetSpec.model_validate(entry | {"models": {"dlrm": entry["models"]["dlrm"]}})


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["synthetic", "news", "ratings", "banner"])
def test_each_row_of_the_next_day_is_served_with_the_score_of_the_trained_model(
    layout: str, synthetic: DatasetSpec, tmp_path: Path, lake: Lake
) -> None:
    spec = spec_of_log(layout, tmp_path / "logs", synthetic)
    first, day = train_first_day(spec, lake, tmp_path / "logs", rows="float32")
    assert last_day(spec, lake, "dlrm") == day
    sides, errors = read_side_tables(spec, str(tmp_path / "logs")), [0.0]
    for rows, layers in (("float32", "float32"), ("int8", "float32"), ("int4", "int8")):
        export_day(spec, first, lake, choice=ExportRecipe(rows=rows, layers=layers, max_auc_loss=1))  # type: ignore[arg-type]
        found = served_scores(spec, day, lake, sides)
        features = feature_table(lake, spec, day)
        assert found.labels.tolist() == features[LABEL].to_pylist() and len(found.served) == len(features)
        assert found.trained.std() > 0.01, "the model has learnt something"
        assert found.are_equal
        bound = np.abs(found.exported - found.trained) + ROUNDING
        assert (np.abs(found.served - found.trained) <= bound).all()
        assert found.aucs["served"] == pytest.approx(found.aucs["exported"], abs=1e-3)
        errors.append(found.differences["served and trained"].largest)
    _, float32, int8, int4 = errors
    assert float32 <= ROUNDING < int8 < int4


@pytest.mark.slow
def test_a_column_that_is_read_differently_breaks_the_bound(synthetic: DatasetSpec, tmp_path: Path, lake: Lake) -> None:
    spec = spec_of_log("synthetic", tmp_path / "logs", synthetic)
    first, day = train_first_day(spec, lake, tmp_path / "logs")
    rows = sent_rows(spec, day, lake).select(list(raw_columns(spec))).slice(0, 500)
    wanted = load_export(lake, spec, first).score(
        batch_from_arrow(feature_table(lake, spec, day).slice(0, 500), FeatureSchema.of(spec))
    )
    with serve(spec, lake, "dlrm", first, tmp_path) as rank:
        assert np.abs(ask(rank, rows) - wanted).max() <= ROUNDING
        for at, name in enumerate(rows.column_names):
            values = rows[name].to_pylist()
            moved = pa.array([time + 3_600_000_000 for time in values] if name == EVENT_TIME else values[1:] + values[:1])
            changed = rows.set_column(at, name, moved.cast(rows[name].type))
            assert np.abs(ask(rank, changed) - wanted).max() > 100 * ROUNDING, name


def test_days_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    spec, lake = spec_of(), kiosk_lake(tmp_path / "lake")
    with pytest.raises(ValueError, match="is the first day"):
        served_scores(spec, DAYS[0], lake)
    exported, trained = (Path(lake.partition(f"{of}_models/dlrm", spec.name, DAYS[0]).path) for of in ("exported", "tuned"))
    shutil.copytree(exported, trained)
    with pytest.raises(ValueError, match=r"histories \['history'\]"):
        served_scores(spec, DAYS[1], lake)


def test_log_odds_are_finite() -> None:
    found = log_odds(np.array([0.0, 0.5, 1.0], np.float32))
    assert np.isfinite(found).all() and found[1] == 0 and found[0] < -20 and found[2] > 15
