"""Data quality as asset checks: one check for each expectation of a stage's contract, with a verdict for each partition.

`ml.quality` defines and evaluates the expectations; this module shows them in Dagster. An expectation of severity error blocks
downstream assets in the same run, a warning does not.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dagster as dg

from assets.days import checked_days
from assets.resources import LakeResource
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.quality.contract import Expectation, contract

SEVERITIES = {"error": dg.AssetCheckSeverity.ERROR, "warning": dg.AssetCheckSeverity.WARN}


def build_checks(
    spec: DatasetSpec, stage: str, asset_key: dg.AssetKey, partitions_def: dg.PartitionsDefinition
) -> dg.AssetChecksDefinition:
    """Build the checks of one stage of one dataset as one step: one pass over the data, one import of Great Expectations."""
    expectations = {e.name: e for e in contract(spec, stage)}

    @dg.multi_asset_check(
        name=f"{spec.name}_{stage}_checks",
        specs=[_check_spec(e, asset_key, partitions_def) for e in expectations.values()],
        can_subset=True,
    )
    def checks(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> Iterable[dg.AssetCheckResult]:
        from ml.quality.explain import explain_failure
        from ml.quality.validate import validate

        days = checked_days(context, lake.open(), stage, spec)
        done = {day: validate(spec, stage, day, lake.open()) for day in days}
        share = _share_of_asset_time(context, lake.open(), spec, stage, {day: v.seconds for day, v in done.items()})
        wanted = {key.name for key in context.selected_asset_check_keys}
        for expectation in (e for e in expectations.values() if e.name in wanted):
            verdicts = {day: next(v for v in done[day].verdicts if v.name == expectation.name) for day in days}
            failing = [day for day in days if not verdicts[day].passed]
            shown_day = failing[0] if failing else days[-1]
            shown = verdicts[shown_day]
            explanation = explain_failure(shown, spec, stage, shown_day, lake.open()) if failing else None
            severities = {verdicts[day].severity for day in failing} or {expectation.severity}
            yield dg.AssetCheckResult(
                asset_key=asset_key,
                check_name=expectation.name,
                passed=not failing,
                severity=SEVERITIES["error" if "error" in severities else "warning"],
                metadata={
                    "observed": dg.MetadataValue.md(_table(shown.observed)),
                    "expected": shown.expected,
                    "why": shown.why,
                    **({"explanation": explanation} if explanation else {}),
                    **({"catalog_key": shown.key} if shown.key else {}),
                    "day": shown_day,
                    "rows": sum(done[day].rows for day in days),
                    "compared_with": dg.MetadataValue.json(list(shown.compared_with)),
                    "seconds": sum(v.seconds for v in done.values()),
                    "library_load_seconds": sum(v.import_seconds for v in done.values()),
                    **({"share_of_asset_time": share} if share is not None else {}),
                    **({"failing_days": dg.MetadataValue.json(failing), "days": len(days)} if len(days) > 1 else {}),
                },
            )

    return checks


def _check_spec(e: Expectation, asset_key: dg.AssetKey, partitions_def: dg.PartitionsDefinition) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(
        e.name,
        asset=asset_key,
        description=f"{e.why} Expected: {e.expected}.",
        blocking=e.severity == "error",
        metadata={"severity": e.severity, "great_expectations": e.type},
        partitions_def=partitions_def,
    )


def _table(observed: Mapping[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {subject} | {value} |" for subject, value in observed.items())])


def _share_of_asset_time(
    context: dg.AssetCheckExecutionContext, lake: Lake, spec: DatasetSpec, stage: str, checked: Mapping[str, float]
) -> float | None:
    """Return the seconds of the checks divided by the seconds of writing the same days; None if these were not recorded."""
    asset = context.selected_asset_check_keys
    written: dict[str, float] = {}
    for day in checked:
        seconds: Any = lake.manifest(stage, spec.name, day).get("seconds")
        if seconds is None:
            seconds = _seconds_in_events(context.instance, next(iter(asset)).asset_key, day)
        if isinstance(seconds, int | float) and seconds > 0:
            written[day] = seconds
    return sum(checked[day] for day in written) / sum(written.values()) if written else None


def _seconds_in_events(instance: dg.DagsterInstance, asset_key: dg.AssetKey, day: str) -> float | None:
    """Return `seconds` of the day's newest observation (a range run logs one per day) or materialisation."""
    wanted = dg.AssetRecordsFilter(asset_key, asset_partitions=[day])
    records: Sequence[Any] = [
        *instance.fetch_observations(wanted, limit=1).records,
        *instance.fetch_materializations(wanted, limit=1).records,
    ]
    for record in sorted(records, key=lambda r: (r.timestamp, r.storage_id), reverse=True):
        event = record.asset_observation or record.asset_materialization
        value = event.metadata.get("seconds") if event else None
        if value is not None:
            return float(value.value)
    return None
