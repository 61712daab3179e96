"""Checks of a report: whether the previous day's model beats the baselines, and whether it is calibrated."""

import json
from collections.abc import Iterable
from typing import Any

import dagster as dg

from assets.check_results import result_of_days
from assets.days import checked_days
from assets.partitions import daily
from assets.policy import key
from assets.resources import LakeResource
from ml import stages
from ml.catalog.spec import DatasetSpec

CALIBRATED = (0.8, 1.25)


def judge(metrics: dict[str, Any]) -> dict[str, tuple[bool, dict[str, Any]]]:
    """Return for each check whether it passed, and its values. Undefined values, as on a first day, pass."""
    model = metrics["model"]
    aucs = {"model": model["auc"]} | {name: found["auc"] for name, found in metrics["baselines"].items()}
    calibration = model["calibration"]
    below, recalls = _ranking(metrics)
    low, high = (model.get("intervals") or {}).get("calibration") or (calibration, calibration)
    return {
        "beats_baselines": (all(won is not False for won in metrics["beats"].values()) and not below, aucs | recalls),
        "calibrated": (calibration is None or (low <= CALIBRATED[1] and high >= CALIBRATED[0]), {"calibration": calibration}),
    }


def _ranking(metrics: dict[str, Any]) -> tuple[list[str], dict[str, float]]:
    """Return the sources that rank live items significantly better than the headline model, and recall@20 of all of them.

    Both are empty if the headline of the report is the AUC.
    """
    from ml.evaluation.ranking.verdict import headline_model, sources_above

    headline = headline_model(metrics) if metrics.get("ranking") else None
    if headline is None:
        return [], {}
    of = metrics["ranking"]["models"][headline]
    recalls = {name: source["recall@20"] for name, source in of["against"].items()} | {headline: of["recall@20"]}
    return sources_above(of), {f"recall_at_20/{name}": value for name, value in recalls.items()}


def build_report_checks(spec: DatasetSpec) -> dg.AssetChecksDefinition:
    """Build the checks of one dataset's reports."""
    report, partitions = key(spec, stages.EVALUATION_REPORTS), daily(spec)
    described = {
        "beats_baselines": "The model has a significantly higher AUC than the constant prior and the logistic regression. "
        "In a log of positives only, no source without training ranks all live items significantly better.",
        "calibrated": f"The ratio of predicted to observed clicks is between {CALIBRATED[0]} and {CALIBRATED[1]}, within its "
        "95 % confidence interval.",
    }

    @dg.multi_asset_check(
        name=f"{spec.name}_report_checks",
        specs=[
            dg.AssetCheckSpec(name, asset=report, description=text, partitions_def=partitions)
            for name, text in described.items()
        ],
        can_subset=True,
    )
    def checks(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> Iterable[dg.AssetCheckResult]:
        held, stage = lake.open(), stages.EVALUATION_REPORTS
        days = checked_days(context, held, stage, spec)
        verdicts = {day: judge(json.loads((held.require(stage, spec.name, day) / "metrics.json").read_text())) for day in days}
        wanted = {chosen.name for chosen in context.selected_asset_check_keys}
        for name in (name for name in described if name in wanted):
            failing = [day for day, found in verdicts.items() if not found[name][0]]
            shown = verdicts[failing[0] if failing else days[-1]][name][1]
            yield result_of_days(failing, shown, check_name=name, asset_key=report)

    return checks
