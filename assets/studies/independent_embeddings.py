"""Compares training on several processes, with sharded and with independent tables, with training in one process."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
from pydantic import Field

from assets.resources import LakeResource
from assets.studies.study_asset import first_days, picture, study_asset, table, write_result
from ml.catalog.spec import DatasetSpec
from ml.stages import MDS_DATASETS

NAME, MODEL = "independent_embeddings", "dlrm"


class IndependentStudy(dg.Config):
    """Number of days, runs and processes."""

    days: int | None = Field(
        default=None, ge=3, description="Number of days; all except the first are scored. By default, as many as the demo has."
    )
    seeds: int = Field(default=3, ge=1, description="Number of runs of every case.")
    processes: list[int] = Field(default=[2, 4], description="Numbers of processes that are compared with one.")
    batch_size: int = Field(default=1024, ge=1, description="Rows of a step over all processes.")


def build(spec: DatasetSpec) -> dg.AssetsDefinition:
    """Build the study on one dataset with a DLRM."""

    @study_asset(
        NAME,
        spec,
        stages=[MDS_DATASETS],
        description="AUC and samples per second of several processes with sharded and with independent tables, compared with "
        "one process.",
    )
    def independent_embeddings(
        context: dg.AssetExecutionContext, config: IndependentStudy, lake: LakeResource
    ) -> dg.MaterializeResult:
        from ml.studies.independent_embeddings import figure, run_study, write_study

        held, days = lake.open(), first_days(spec, config.days, least=3)
        settings = config.model_dump(exclude={"days"})
        runs = run_study(
            *(spec, days, held),
            model=MODEL,
            on_result=lambda run: context.log.info(
                f"{run.case}, seed {run.seed}: AUC {run.auc:.4f}, {run.samples_per_second:,.0f} samples/s"
            ),
            **settings,
        )
        made_from = {"days": days, **settings}
        found, path = write_result(held, NAME, spec.name, made_from, lambda folder: write_study(folder, runs))
        return dg.MaterializeResult(
            metadata={
                "speed": picture(figure(found)),
                "cases": _cases(found),
                "path": path,
            }
        )

    return independent_embeddings


def _cases(found: Mapping[str, Any]) -> dg.MetadataValue:
    from ml.studies.paired import as_text

    rows = (
        [
            *(case, f"{of['auc']:.4f}", as_text(of["auc_gain"]), f"{of['log_loss']:.4f}", as_text(of["log_loss_gain"])),
            *(f"{of['samples_per_second']:,.0f}", as_text(of["speed_up"], 2)),
            *(f"{of['cpu_seconds']:.1f}", as_text(of["cpu_ratio"], 2)),
        ]
        for case, of in found.items()
    )
    columns = ["case", "AUC", "gain (95 %)", "log loss", "gain (95 %)", "samples/s", "ratio (95 %)"]
    return table([*columns, "CPU-seconds per million rows", "ratio (95 %)"], rows)
