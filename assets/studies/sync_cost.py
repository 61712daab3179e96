"""What synchronisation costs in bytes, seconds and AUC (Monolith has the arithmetic of the bytes)."""

from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from assets.resources import LakeResource
from assets.studies.study_asset import OnlineStudy, batch_and_online_days, picture, recipes, study_asset, table, write_result
from ml.catalog.spec import DatasetSpec
from ml.stages import CLEANED_FEATURES, MDS_DATASETS

if TYPE_CHECKING:
    from ml.studies.paper_package import PaperPackage

NAME = "sync_cost"


class SyncCostStudy(OnlineStudy):
    """Online days, cadences and budgets."""

    online_days: int = Field(default=2, ge=1, description="Days after them, which are scored.")
    slices: list[int] = Field(
        default=[10, 50, 100], min_length=1, description="Numbers of slices of a day; the other variants have the middle one."
    )
    budgets: list[int] = Field(default=[200_000, 100_000, 50_000], description="Byte budgets of a delta.")
    paper_ids: int = Field(default=100_000, ge=1, description="Rows of the package that is compared with the paper.")


def build(spec: DatasetSpec) -> dg.AssetsDefinition:
    """Build the study on one dataset."""

    @study_asset(
        NAME,
        spec,
        stages=[MDS_DATASETS, CLEANED_FEATURES],
        description=f"Measures bytes, seconds and AUC of online training on {spec.name} by cadence, row format and byte budget "
        "of the deltas, and by the cadence of the dense part.",
    )
    def sync_cost(context: dg.AssetExecutionContext, config: SyncCostStudy, lake: LakeResource) -> dg.MaterializeResult:
        from ml.studies.paper_package import paper_package
        from ml.studies.sync_cost import FORMATS, figure, rows_of_table, run_study, variants, write_study

        held, model = lake.open(), config.model or spec.primary
        trained, served = batch_and_online_days(held, spec, model, config.batch_days, config.online_days)
        runs = run_study(
            spec,
            held,
            trained,
            served,
            recipes(spec, model),
            list(variants(config.slices, config.budgets)),
            config.seeds,
            on_result=lambda r: context.log.info(f"{r.variant.name}, seed {r.seed}: AUC {r.auc:.4f}, {r.nbytes / 1e6:.1f} MB"),
        )
        packages = [paper_package(rows, config.paper_ids) for rows in FORMATS]
        made_from = {"batch": trained, "online": served, **config.model_dump()}
        found, path = write_result(
            held, f"{NAME}_{model}", spec.name, made_from, lambda folder: write_study(folder, runs, packages)
        )
        columns = [
            "variant",
            "kB a sync",
            "MB a day",
            "bytes a row",
            "share of the dense part",
            "ms a sync",
            "AUC",
            "AUC to the first (95 %)",
            "rows held back at the end",
        ]
        return dg.MaterializeResult(
            metadata={
                "auc": picture(figure(found)),
                "variants": table(columns, rows_of_table(found)),
                "paper": _paper(packages),
                "path": path,
            }
        )

    return sync_cost


def _paper(packages: "list[PaperPackage]") -> dg.MetadataValue:
    rows: list[list[Any]] = [
        [of.rows, f"{of.arithmetic / 1e6:.1f}", f"{of.nbytes / 1e6:.1f}", *(f"{of.seconds[name]:.2f}" for name in of.seconds)]
        for of in packages
    ]
    return table(["rows", "MB by Monolith's arithmetic", "MB measured", "s encode", "s write", "s read"], rows)
