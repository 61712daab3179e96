"""Online training against batch training, by how often the serving model is synchronised (Monolith, table 2)."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
from pydantic import Field

from assets.resources import LakeResource
from assets.studies.study_asset import OnlineStudy, batch_and_online_days, picture, recipes, study_asset, table, write_result
from ml.catalog.spec import DatasetSpec
from ml.stages import MDS_DATASETS

NAME = "sync_interval"


class SyncStudy(OnlineStudy):
    """Online days, intervals and rates."""

    online_days: int = Field(default=2, ge=1, description="Days after them, which are scored.")
    slices: list[int] = Field(default=[10, 50, 100], min_length=1, description="Numbers of slices of a day.")
    learning_rate: float = Field(default=0.0, ge=0, description="Recipe key online.learning_rate; 0 for the recipe's own.")


def build(spec: DatasetSpec) -> dg.AssetsDefinition:
    """Build the study on one dataset."""

    @study_asset(
        NAME,
        spec,
        stages=[MDS_DATASETS],
        description=f"Scores days of {spec.name} with a stale model, a model that is retrained daily, and serving models that "
        "are synchronised with online training 10, 50 and 100 times a day.",
    )
    def sync_interval(context: dg.AssetExecutionContext, config: SyncStudy, lake: LakeResource) -> dg.MaterializeResult:
        from ml.studies.sync_interval import PAPER, figure, oracle_auc, rows_of_table, run_study, write_study

        held, model = lake.open(), config.model or spec.primary
        trained, served = batch_and_online_days(held, spec, model, config.batch_days, config.online_days)
        changes: dict[str, Any] = {"online": {"learning_rate": config.learning_rate}} if config.learning_rate else {}
        found = run_study(
            spec,
            held,
            trained,
            served,
            recipes(spec, model, changes),
            config.slices,
            config.seeds,
            on_result=lambda s: context.log.info(
                f"{s.way}, seed {s.seed}: AUC {s.auc:.4f}, {s.nbytes / 1e6:.1f} MB synchronised"
            ),
        )
        oracle = oracle_auc(spec, held, served)
        made_from = {"batch": trained, "online": served, **config.model_dump()}
        result, path = write_result(
            held, f"{NAME}_{model}", spec.name, made_from, lambda folder: write_study(folder, found, oracle, spec)
        )
        columns = ["way", "AUC", *_gains(), "MB", "share of the gap to the best possible"]
        paper = ([way, f"{auc:.4f}", f"{spread:.4f}", f"{batch:.4f}"] for way, (auc, spread, batch) in PAPER.items())
        return dg.MaterializeResult(
            metadata={
                "auc": picture(figure(found)),
                "ways": table(columns, rows_of_table(result)),
                **_ranking(spec, found, result),
                "paper": table(["Monolith, DeepFM on Criteo's full log", "AUC", "spread", "batch"], paper),
                "path": path,
            }
        )

    return sync_interval


def _gains() -> list[str]:
    from ml.studies.ranked_ways import GAINS

    return [gain.replace("_", " ") for gain in GAINS]


def _ranking(spec: DatasetSpec, found: Sequence[Any], result: Mapping[str, Any]) -> dict[str, dg.MetadataValue]:
    """Show how each way ranks all live items; empty if the dataset does not rank items."""
    from ml.online.ranking import METRICS
    from ml.studies.ranked_ways import TIMES, ranking_rows, sources
    from ml.studies.sync_interval import recall_figure

    if not found[0].ranked:
        return {}
    ways = {way: of["ranking"] for way, of in result.items()}
    columns = ["way", METRICS[0], *_gains(), *METRICS[1:], *(f"{METRICS[0]}, {times.replace('_', ' ')}" for times in TIMES)]
    rows = ranking_rows(ways, sources(spec, found[0].ranked))
    return {"recall": picture(recall_figure(found)), "ranking": table(columns, rows)}
