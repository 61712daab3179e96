"""The check of an experiment: clicks per impression by variant, and whether a challenger is significantly worse."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.days import checked_days
from assets.partitions import daily
from assets.policy import key
from assets.resources import LakeResource, StreamsResource
from assets.tables import table
from ml import stages
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake

if TYPE_CHECKING:
    from upath import UPath

NAME = "experiment"


def build_experiment_check(spec: DatasetSpec) -> dg.AssetChecksDefinition:
    """Build the check of one dataset that has an experiment."""

    @dg.asset_check(
        asset=key(spec, stages.EVALUATION_REPORTS),
        name=NAME,
        partitions_def=daily(spec),
        description="No challenger of the experiment has significantly fewer clicks per impression than the champion.",
    )
    def experiment(context: dg.AssetCheckExecutionContext, lake: LakeResource, streams: StreamsResource) -> dg.AssetCheckResult:
        day = checked_days(context, lake.open(), stages.EVALUATION_REPORTS, spec)[-1]
        return dg.AssetCheckResult(**experiment_verdict(spec, day, lake.open(), streams.folder(spec.name)))

    return experiment


def experiment_verdict(spec: DatasetSpec, day: str, lake: Lake, stream: "UPath") -> dict[str, Any]:
    """Return the arguments of the check's result: whether it passes, and the results of the variants up to a day."""
    from ml.evaluation.experiment import experiment_results

    found = experiment_results(spec, day, lake, stream)
    worse = [name for name, of in found.items() if of.gain is not None and of.gain.is_below()]
    explanation = f"{', '.join(worse)}: significantly fewer clicks per impression than the champion"
    return {
        "passed": not worse,
        "severity": dg.AssetCheckSeverity.WARN,
        "metadata": {"variants": _table(found), "day": day, **({"explanation": explanation} if worse else {})},
    }


def _table(found: Any) -> dg.TableMetadataValue:
    kinds = {"variant": "string", "impressions": "int", "users": "int", "clicks": "int"}
    columns = kinds | {"clicks_per_impression": "string", "against_champion": "string"}
    rows = ((name, of.impressions, of.users, of.clicks, _interval(of.rate), _interval(of.gain)) for name, of in found.items())
    return table(columns, [dict(zip(columns, row, strict=True)) for row in rows])


def _interval(estimate: Any) -> str:
    """Format an estimate with its 95 % interval."""
    if estimate is None:
        return ""
    interval = estimate.interval()
    return f"{estimate.value:.4f}" + (f" ({interval[0]:.4f} to {interval[1]:.4f})" if interval else "")
