"""How good yesterday's model is on today, which it has not seen: figures, baselines, and a report to read."""

from base64 import b64encode
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.days import each_day
from assets.partitions import days_before
from assets.policy import daily_asset, key
from assets.resources import LakeResource
from ml import stages
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake

if TYPE_CHECKING:
    from ml.evaluation.evaluate import Scored

LOOK_BACK_DAYS = 7  # what the baselines train on, and what makes an item known


def build(spec: DatasetSpec) -> dg.AssetsDefinition:
    @daily_asset(
        spec,
        stages.EVALUATION_REPORTS,
        kinds={"html", "matplotlib"},
        deps=[
            dg.AssetDep(key(spec, stages.CLEANED_FEATURES), partition_mapping=days_before(LOOK_BACK_DAYS, 0)),
            *(dg.AssetDep(key(spec, stages.tuned_models(model)), partition_mapping=days_before(1, 1)) for model in spec.models),
            dg.AssetDep(key(spec, stages.EVALUATION_REPORTS), partition_mapping=days_before(1, 1)),
        ],
        description="The models of the day before, scored on the day, beside a constant prior and a logistic regression.",
    )
    def evaluation_reports(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        from ml.evaluation.evaluate import evaluate_day

        def work(day: str) -> dict[str, Any]:
            models = _models_before(spec, day, lake.open())
            asked = [(stages.tuned_models(name), model.facts["snapshot_day"]) for name, model in models.items()]
            done = evaluate_day(spec, day, lake.open(), models, asked=asked)
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
                "models": _models(done.figures["models"]),
                "verdict": dg.MetadataValue.md(done.verdict),
                "report": dg.MetadataValue.path(str(done.report)),
                **plots,
            }

        return each_day(context, work, summary="auc")

    return evaluation_reports


def _models_before(spec: DatasetSpec, day: str, lake: Lake) -> "dict[str, Scored]":
    """The models of the day before, as the report asks them; none on the first day."""
    from ml.datasets.collate import batch_from_arrow
    from ml.evaluation.evaluate import Scored
    from ml.models.predict import predict
    from ml.schema import FeatureSchema
    from ml.training.load import load_model

    before = spec.previous_day(day)
    schema = FeatureSchema.of(spec)

    def scored(name: str, snapshot_day: str) -> Scored:
        model = load_model(lake, spec, snapshot_day, name)
        manifest = lake.manifest(stages.tuned_models(name), spec.name, snapshot_day)
        rows, kind = int(manifest["metrics"]["rows_so_far"]), manifest["recipe"]["model"]["kind"]
        facts = {"snapshot_day": snapshot_day, "rows_so_far": rows, "model": kind}
        finds = manifest["recipe"]["model"].get("loss") == "softmax"
        corrected = manifest["recipe"]["sampling_correction"]
        return Scored(lambda table: predict(model, [batch_from_arrow(table, schema)], corrected), facts, ranks_only=finds)

    return {name: scored(name, before) for name in spec.models} if before else {}


def _models(figures: dict[str, Any]) -> dg.TableMetadataValue:
    """A line a model."""
    numbers = ("auc", "log_loss", "normalised_entropy", "calibration")
    records = [
        dg.TableRecord({"model": name, **{n: "" if found[n] is None else round(found[n], 5) for n in numbers}})
        for name, found in figures.items()
    ]
    columns = [dg.TableColumn("model"), *(dg.TableColumn(name, "float") for name in numbers)]
    return dg.MetadataValue.table(records, dg.TableSchema(columns=columns))
