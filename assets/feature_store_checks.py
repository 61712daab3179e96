"""Check of served values of feature tables: they are the ones that the daily features have."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import dagster as dg

from assets.check_results import result_of_days
from assets.days import checked_days
from assets.partitions import daily
from assets.policy import key
from assets.resources import LakeResource, StreamsResource
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
        "the values that are computed from the log, or events that arrived after their day explain the differences. What the "
        "service has answered on the day is compared too, and follows from the events that it knew.",
    )
    def served_values(
        context: dg.AssetCheckExecutionContext, lake: LakeResource, streams: StreamsResource
    ) -> dg.AssetCheckResult:
        from ml.features.online_store.compare import compare_day
        from ml.serving.served_values import compare_served

        held, stream = lake.open(), streams.folder(spec.name)
        days = checked_days(context, held, stages.FEATURE_TABLES, spec)
        found = {day: compare_day(spec, day, held) for day in days}
        served = {day: compare_served(spec, day, held, stream) for day in days}
        failing = [day for day, done in found.items() if done.unexplained or ((of := served[day]) and of.unexplained)]
        day = failing[0] if failing else days[-1]
        shown = found[day]
        values = {
            "values": _table(shown.differences),
            "unexplained": shown.unexplained,
            "events": shown.events,
            "late_events": shown.late,
            "look_ups": dg.MetadataValue.json(shown.lookups),
            "misses": dg.MetadataValue.json(shown.misses),
        }
        if of_requests := served[day]:
            values |= {
                "requests": of_requests.requests,
                "values_of_requests": _table(of_requests.differences),
                "unexplained_of_requests": of_requests.unexplained,
                "lag_seconds": dg.MetadataValue.json({f"{q:g}": lag for q, lag in of_requests.lag_seconds.items()}),
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
