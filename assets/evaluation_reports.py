"""How good yesterday's model is on today, which it has not seen: figures, baselines, and a report to read."""

from base64 import b64encode
from typing import Any

import dagster as dg

from assets.days import each_day
from assets.partitions import days_before
from assets.policy import daily_asset, key
from assets.resources import LakeResource
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake

STAGE = "evaluation_reports"
LOOK_BACK_DAYS = 7  # what the baselines train on, and what makes an item known


def build(spec: DatasetSpec) -> dg.AssetsDefinition:
    @daily_asset(
        spec,
        kinds={"html", "matplotlib"},
        deps=[
            dg.AssetDep(key(spec, "cleaned_features"), partition_mapping=days_before(LOOK_BACK_DAYS, 0)),
            dg.AssetDep(key(spec, "tuned_models"), partition_mapping=days_before(1, 1)),
            dg.AssetDep(key(spec, STAGE), partition_mapping=days_before(1, 1)),
        ],
        description="The model of the day before, scored on the day, beside a constant prior and a logistic regression.",
    )
    def evaluation_reports(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        from ml.evaluation.evaluate import evaluate_day

        def work(day: str) -> dict[str, Any]:
            predict, model = _model_before(spec, day, lake.open())
            snapshot = [("tuned_models", model["snapshot_day"])] if model else []
            done = evaluate_day(spec, day, lake.open(), predict, model, asked=snapshot)
            scores = {
                name: (done.figures["model"] or {}).get(name)
                for name in ("auc", "log_loss", "normalised_entropy", "calibration")
            }
            plots = {
                name: dg.MetadataValue.md(f"![{name}](data:image/png;base64,{b64encode(png).decode()})")
                for name, png in done.plots.items()
            }
            return {
                "dagster/row_count": done.rows,
                **{name: value for name, value in scores.items() if value is not None},
                "verdict": dg.MetadataValue.md(done.verdict),
                "report": dg.MetadataValue.path(str(done.report)),
                **plots,
            }

        return each_day(context, work, summary="auc")

    return evaluation_reports


def _model_before(spec: DatasetSpec, day: str, lake: Lake):
    """Predictions by the model of the day before, and what to say of it; nothing on the first day."""
    from ml.datasets.collate import batch_from_arrow
    from ml.features.schema import FeatureSchema
    from ml.training.daily import previous_day
    from ml.training.predict import load_model, predict

    before = previous_day(spec, day)
    if before is None:
        return None, None
    model, schema = load_model(lake, spec, before), FeatureSchema.of(spec)
    manifest = lake.manifest("tuned_models", spec.name, before)
    rows, kind = int(manifest["metrics"]["rows_so_far"]), manifest["recipe"]["model"]["kind"]
    facts = {"snapshot_day": before, "rows_so_far": rows, "model": kind}
    return (lambda table: predict(model, [batch_from_arrow(table, schema)])), facts
