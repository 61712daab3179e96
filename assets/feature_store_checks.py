"""Check of the online store: the values that it serves are the ones that the daily features have."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import dagster as dg

from assets.check_results import result_of_days
from assets.days import checked_days
from assets.partitions import daily
from assets.policy import key
from assets.resources import LakeResource
from assets.tables import table
from ml import stages
from ml.catalog.spec import DatasetSpec

if TYPE_CHECKING:
    from ml.features.online_store.differences import Differences

NAME = "served_values"


def build_feature_store_check(spec: DatasetSpec) -> dg.AssetChecksDefinition:
    """Build the check of a dataset with feature tables."""

    @dg.asset_check(
        asset=key(spec, stages.FEATURE_TABLES),
        name=NAME,
        partitions_def=daily(spec),
        description="The day is replayed into an online store, and each row is looked up as of its instant. The answers equal "
        "the values that are computed from the log, or events that arrived after their day explain the differences.",
    )
    def served_values(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> dg.AssetCheckResult:
        from ml.features.online_store.compare import compare_day

        held = lake.open()
        days = checked_days(context, held, stages.FEATURE_TABLES, spec)
        found = {day: compare_day(spec, day, held) for day in days}
        failing = [day for day, done in found.items() if done.unexplained]
        shown = found[failing[0] if failing else days[-1]]
        values = {
            "values": _table(shown.differences),
            "unexplained": shown.unexplained,
            "events": shown.events,
            "late_events": shown.late,
            "look_ups": dg.MetadataValue.json(shown.lookups),
            "misses": dg.MetadataValue.json(shown.misses),
        }
        return result_of_days(failing, values)

    return served_values


def _table(differences: "Iterable[Differences]") -> dg.TableMetadataValue:
    """One row per value."""
    counts = ("rows", "mismatches", "missing", "extra", "unexplained")
    columns = {"value": "string", **dict.fromkeys(counts, "int"), "smape": "string", "edit_distance": "string"}
    rows = (
        {
            "value": one.value,
            **{name: getattr(one, name) for name in counts},
            "smape": "–" if one.smape is None else f"{one.smape:.6f}",
            "edit_distance": "–" if one.distance is None else f"{one.distance:.4f}",
            "quantiles": ", ".join(f"{q:g}: {size:.4g}" for q, size in one.quantiles.items()),
        }
        for one in differences
    )
    return table({**columns, "quantiles": "string"}, rows)
