"""Compares the predicted time and memory of a trained day with what the training took."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ml.advisor.calibration import stored_calibration
from ml.advisor.cost import Comparison, compare, predict
from ml.advisor.hardware import detect
from ml.advisor.profiles.day import profile_of
from ml.advisor.profiles.days import days_to_profile
from ml.advisor.workload import Workload, missing_features
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake, StalePartition
from ml.recipes.recipe import Recipe
from ml.schema import FeatureSchema


def compare_day(
    spec: DatasetSpec, day: str, lake: Lake, home: Path, recipe: Recipe, metrics: Mapping[str, float]
) -> list[Comparison]:
    """Compare a day that one process has trained from start to end with what is predicted for it.

    The prediction is made from the profiles of the days before, for the number of rows that were trained on.

    Args:
        spec: The dataset.
        day: `YYYY-MM-DD`.
        lake: Where profiles are stored.
        home: Folder of the calibrations.
        recipe: The recipe of the day.
        metrics: Metrics of the trained day, with `rows`, `cpu_seconds` and `table_megabytes`.

    Returns:
        The comparisons; none if this machine is not calibrated, the days before have no current profile, or the day has no
        rows.
    """
    calibration = stored_calibration(home, detect().machine)
    days = days_to_profile(spec, lake, before=day) if calibration and metrics["rows"] else []
    try:
        profile = profile_of(spec, days, lake) if days else None
    except StalePartition:
        return []
    if calibration is None or profile is None or not profile.rows:
        return []
    workload, schema = Workload.of(profile).with_rows(metrics["rows"]), FeatureSchema.of(spec)
    if missing_features(workload, schema):
        return []
    return compare(predict(recipe, schema, workload, calibration.speed), metrics)
