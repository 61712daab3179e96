"""Profiles of the day's features: cardinality, frequencies, label rate, drift and crosses. The advisor reads them."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.days import each_day
from assets.partitions import days_before
from assets.policy import daily_asset, key
from assets.resources import DaskResource, LakeResource
from assets.tables import table
from ml import stages
from ml.catalog.spec import DatasetSpec

if TYPE_CHECKING:
    from ml.advisor.profiles.day import ProfiledDay
    from ml.advisor.profiles.profile import FeatureProfile


def build(spec: DatasetSpec) -> dg.AssetsDefinition:
    """Build the asset of one dataset."""

    @daily_asset(
        spec,
        stages.FEATURE_PROFILES,
        kinds={"dask", "parquet"},
        deps=[
            key(spec, stages.CLEANED_FEATURES),
            dg.AssetDep(key(spec, stages.FEATURE_PROFILES), partition_mapping=days_before(1, 1)),
        ],
        description="Statistics of the features that the advisor reads. They merge over days; drift is against the day before.",
    )
    def feature_profiles(context: dg.AssetExecutionContext, lake: LakeResource, dask: DaskResource) -> dg.MaterializeResult:
        from ml.advisor.profiles.day import profile_day

        def work(day: str) -> dict[str, Any]:
            done = profile_day(spec, day, lake.open(), dask.cluster())
            profile = done.profile
            return {
                "dagster/row_count": profile.rows,
                **({} if profile.label_rate is None else {"label_rate": profile.label_rate}),
                "feature_bytes": profile.bytes,
                "bytes": done.bytes,
                "sparse": _sparse(done),
                "dense": _dense(profile),
                "crosses": _crosses(profile),
                "label_rate_by_hour": dg.MetadataValue.json(list(profile.label_rate_by_hour)),
                "path": dg.MetadataValue.path(str(lake.open().partition(stages.FEATURE_PROFILES, spec.name, day))),
            }

        return each_day(context, work)

    return feature_profiles


def _sparse(done: "ProfiledDay") -> dg.TableMetadataValue:
    """One row per sparse feature."""
    numbers = ("missing", "mean_length", "singles", "top_share")
    columns = {"feature": "string", "ids": "int", "new": "string", **dict.fromkeys(numbers, "float")}
    columns |= {"zipf": "string", "drift": "string", "error": "float"}
    rows = (
        {
            "feature": name,
            "ids": of.ids,
            "new": "–" if done.new_ids[name] is None else f"{done.new_ids[name]:,}",
            **{number: round(getattr(of, number), 4) for number in numbers},
            "zipf": _shown(of.zipf),
            "drift": _shown(done.profile.drift.get(name)),
            "error": round(of.ids_error, 5),
        }
        for name, of in done.profile.sparse.items()
    )
    return table(columns, rows)


def _dense(profile: "FeatureProfile") -> dg.TableMetadataValue:
    """One row per dense feature."""
    numbers = ("missing", "mean", "std")
    columns = {
        "feature": "string",
        **dict.fromkeys(numbers, "float"),
        "quantiles": "string",
        "distinct": "int",
        "drift": "string",
    }
    rows = (
        {
            "feature": name,
            **{number: round(getattr(of, number), 4) for number in numbers},
            "quantiles": ", ".join(f"{value:.4g}" for value in of.quantiles.values()),
            "distinct": of.distinct,
            "drift": _shown(profile.drift.get(name)),
        }
        for name, of in profile.dense.items()
    )
    return table(columns, rows)


def _crosses(profile: "FeatureProfile") -> dg.TableMetadataValue:
    """One row per cross."""
    rows = (
        {"cross": " × ".join(cross.features), "gain": round(cross.gain, 6), "pairs": cross.pairs} for cross in profile.crosses
    )
    return table({"cross": "string", "gain": "float", "pairs": "int"}, rows)


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
