"""The day's models as bundles for inference, with quantised tables and layers. An export that loses too much is refused.

The asset evaluates the check `export_quality` itself, because both need the trained and the exported model on the same rows.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.check_results import result_of_days
from assets.days import each_day
from assets.partitions import daily, days_before
from assets.policy import TRAINING_POOL, daily_asset, key
from assets.resources import LakeResource
from assets.tables import table
from ml import stages
from ml.catalog.spec import DatasetSpec
from ml.recipes.export import LOOK_BACK_DAYS

if TYPE_CHECKING:
    from ml.export.quantise import MeasuredTable, Quantised
    from ml.export.verdict import ExportVerdict

QUALITY = "export_quality"


def build(spec: DatasetSpec, model: str) -> dg.AssetsDefinition:
    """Build the asset of one model of a dataset."""
    asset = key(spec, stages.exported_models(model))

    @daily_asset(
        spec,
        stages.exported_models(model),
        kinds={"pytorch", "safetensors"},
        deps=[
            key(spec, stages.served_models(spec, model)),
            dg.AssetDep(key(spec, stages.MDS_DATASETS), partition_mapping=days_before(LOOK_BACK_DAYS - 1, 0)),
            dg.AssetDep(key(spec, stages.exported_models(model)), partition_mapping=days_before(1, 1)),
            *([key(spec, stages.CLEANED_FEATURES)] if any(feature.vocabulary for feature in spec.sparse) else []),
        ],
        pool=TRAINING_POOL,
        check_specs=[
            dg.AssetCheckSpec(
                QUALITY,
                asset=asset,
                partitions_def=daily(spec),
                description="The export loses no more than the recipe's `export` section allows, exported towers find the "
                "items that the trained ones find, and predictions are as fast as the recipe asks.",
            )
        ],
        description=f"The day's {model} as a bundle for inference, in the formats of the recipe's `export` section.",
    )
    def exported_models(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        from ml.export.day import export_day
        from ml.export.verdict import judge_export

        verdicts: dict[str, ExportVerdict] = {}

        def work(day: str) -> dict[str, Any]:
            done = export_day(spec, day, lake.open(), model)
            verdict = judge_export(lake.open().manifest(stages.exported_models(model), spec.name, day), done.latency)
            verdicts[day] = verdict
            return {
                **verdict.values,
                **_losses(done.quantised),
                **({"kept_from": done.kept_from} if done.kept_from else {}),
                "megabytes": done.bytes_after / 1e6,
                "bytes_ratio": done.bytes_after / done.bytes_before,
                "path": dg.MetadataValue.path(str(done.folder)),
            }

        done = each_day(context, work, summary="bytes_ratio")
        failing = [day for day, verdict in verdicts.items() if verdict.reasons]
        shown = failing[0] if failing else context.partition_keys[-1]
        checked = {"day": shown, **verdicts[shown].values}
        result = result_of_days(failing, checked, verdicts[shown].reasons, check_name=QUALITY, asset_key=asset)
        return dg.MaterializeResult(metadata=done.metadata, check_results=[result])

    return exported_models


def _losses(found: "Quantised | None") -> dict[str, Any]:
    """What quantising costs, if it was measured on the day."""
    if found is None:
        return {}
    return {
        "lost_of": found.metric,
        **({} if found.loss.error is None else {"lost_error": found.loss.error}),
        "lost_by_tables": found.by_tables,
        "lost_by_layers": found.by_layers,
        "rows_scored": found.rows,
        "tables": _tables(found.tables),
        "export": dg.MetadataValue.json(found.choice.model_dump(mode="json")),
    }


def _tables(tables: "Mapping[str, MeasuredTable]") -> dg.TableMetadataValue:
    """One row per table: errors relative to the root mean square of its weights, and the loss if only it is quantised."""
    numbers = ("rms_error", "largest_error", "auc_loss")
    columns = {"table": "string", "format": "string", "rows": "int"} | dict.fromkeys(("megabytes", *numbers), "float")
    rows = (
        {
            "table": name,
            "format": of.format,
            "rows": of.rows,
            "megabytes": round(of.nbytes / 1e6, 3),
            **{number: float(f"{getattr(of, number):.3g}") for number in numbers},
        }
        for name, of in tables.items()
    )
    return table(columns, rows)
