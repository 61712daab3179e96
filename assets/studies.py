"""Studies: experiments on public logs, materialised on demand, whose figures the documentation speaks of."""

from base64 import b64encode
from collections.abc import Mapping
from typing import Any

import dagster as dg
from pydantic import Field

from assets.owner import own_run
from assets.policy import OWNERS, TRAINING_POOL, key
from assets.resources import LakeResource, LandingResource, SparkResource
from ml.catalog.spec import DatasetSpec
from ml.days import days_from
from ml.stages import MDS_DATASETS, STUDIES

MOVIELENS, GLOBO, RETRIEVAL = "movielens-1m", "globo", "two_tower"


class CollisionStudy(dg.Config):
    """How long and how often."""

    seeds: int = Field(default=3, ge=1, description="Runs of every variant.")
    epochs: int = Field(default=10, ge=1, description="Passes over the ratings.")
    days: int = Field(default=5, ge=2, description="Of Globo.com's log, for the sweep of admission and expiry.")


def build(specs: Mapping[str, DatasetSpec]) -> list[dg.AssetsDefinition]:
    """The studies that the catalog's datasets allow."""
    found = [movielens_deepfm, *([_embedding_collisions(specs[GLOBO])] if GLOBO in specs else [])]
    found += [_models(spec) for spec in specs.values() if len(_ranking(spec)) > 1 and spec.partitions.end]
    return found + [_retrieval(spec) for spec in specs.values() if RETRIEVAL in spec.models]


class RandomSplitStudy(dg.Config):
    """How often, and how long at most."""

    seeds: int = Field(default=3, ge=1, description="Runs under each protocol.")
    epochs: int = Field(default=30, ge=1, description="Passes over the training split, at most.")
    patience: int = Field(default=2, ge=1, description="Passes without a better AUC on validation that end a run.")


@dg.asset(
    key_prefix=STUDIES,
    group_name=STUDIES,
    owners=OWNERS,
    kinds={"pytorch"},
    pool=TRAINING_POOL,
    description="DeepFM on MovieLens 1M split at random, 80/10/10, beside what AutoInt and RecBole report for that split.",
)
def movielens_deepfm(
    context: dg.AssetExecutionContext, config: RandomSplitStudy, lake: LakeResource, landing: LandingResource
) -> dg.MaterializeResult:
    from pathlib import Path

    from ml.studies import movielens_deepfm as study
    from ml.studies.movielens_1m import ALL, read_ratings

    own_run(context)
    held, ratings = lake.open(), read_ratings(Path(landing.folder(MOVIELENS)), ALL)
    runs = study.run_study(
        ratings,
        **config.model_dump(),
        on_result=lambda r: context.log.info(
            f"{r.protocol}, seed {r.seed}: AUC {r.auc:.4f}, log loss {r.log_loss:.4f} after {r.epoch} epochs"
        ),
    )
    with held.write(STUDIES, "movielens_deepfm", MOVIELENS) as folder:
        found = study.write_study(folder, runs)
        held.write_manifest(folder, {"ratings": len(ratings), **config.model_dump()})
    return dg.MaterializeResult(
        metadata={
            "protocols": dg.MetadataValue.md(_protocols(found)),
            "path": dg.MetadataValue.path(str(held.partition(STUDIES, "movielens_deepfm", MOVIELENS))),
            "dagster/row_count": len(ratings),
        }
    )


def _protocols(found: Mapping[str, Mapping[str, Any]]) -> str:
    head = "| protocol | AUC | log loss | epochs | samples a second | published AUC | log loss | source | differs |\n"
    lines = [head + "|---" * 9 + "|"]
    for name, of in found.items():
        said = of["published"]
        theirs = f"{said['auc']:.4f} | {said['log_loss']:.4f} | {said['source']} | {said['differs']}" if said else " | | |"
        lines.append(
            f"| {name} | {of['auc']:.4f} ± {of['auc_spread']:.4f} | {of['log_loss']:.4f} ± {of['log_loss_spread']:.4f} "
            f"| {of['epoch']:.1f} | {of['samples_per_second']:,.0f} | {theirs} |"
        )
    return "\n".join(lines)


def _embedding_collisions(spec: DatasetSpec) -> dg.AssetsDefinition:
    @dg.asset(
        key_prefix=STUDIES,
        group_name=STUDIES,
        owners=OWNERS,
        kinds={"pytorch", "matplotlib"},
        pool=TRAINING_POOL,
        description="DeepFM on MovieLens 1M over collisionless, hashed and quotient-remainder tables at equal memory "
        "(Monolith, figure 7); and what admission and expiry save and cost on Globo.com's days.",
    )
    def embedding_collisions(
        context: dg.AssetExecutionContext,
        config: CollisionStudy,
        lake: LakeResource,
        landing: LandingResource,
        spark: SparkResource,
    ) -> dg.MaterializeResult:
        from pathlib import Path

        from ml.studies import admission_sweep, embedding_collisions
        from ml.studies.movielens_1m import read_ratings

        own_run(context)
        held, most = lake.open(), len(spec.days())
        if config.days > most:
            raise dg.Failure(f"days: {spec.name} has {most}, {config.days} asked for", allow_retries=False)
        ratings = read_ratings(Path(landing.folder(MOVIELENS)))
        curves = embedding_collisions.run_study(
            ratings,
            config.seeds,
            config.epochs,
            on_result=lambda c: context.log.info(f"{c.variant}, seed {c.seed}: AUC {c.auc[-1]:.4f} after {len(c.auc)} epochs"),
        )
        with held.write(STUDIES, "embedding_collisions", MOVIELENS) as folder:
            found = embedding_collisions.write_study(folder, curves)
            held.write_manifest(folder, {"ratings": len(ratings), **config.model_dump()})
        with_ids = admission_sweep.with_ids(spec)
        days = days_from(spec.partitions.start.isoformat(), config.days)
        admission_sweep.prepare(with_ids, days, held, landing.folder(spec.name), spark.runner())
        settings = admission_sweep.sweep(
            with_ids,
            days,
            held,
            on_result=lambda s: context.log.info(
                f"admit after {s.min_count}, {s.ttl_days} days: {s.rows:,} rows, AUC {s.auc:.4f}"
            ),
        )
        with held.write(STUDIES, "embedding_collisions", GLOBO) as folder:
            admission_sweep.write_sweep(folder, settings)
            held.write_manifest(folder, {"days": days})
        return dg.MaterializeResult(
            metadata={
                "auc": _picture(embedding_collisions.figure(found)),
                "sweep": _picture(admission_sweep.figure(settings)),
                "variants": dg.MetadataValue.md(_variants(found)),
                "settings": dg.MetadataValue.md(_settings(settings)),
                "path": dg.MetadataValue.path(str(held.root / STUDIES / "embedding_collisions")),
                "dagster/row_count": len(ratings),
            }
        )

    return embedding_collisions


def _ranking(spec: DatasetSpec) -> list[str]:
    """Models that rank row by row; one that retrieves is measured otherwise."""
    return [model for model in spec.models if model != RETRIEVAL]


class RetrievalStudy(dg.Config):
    """Over how many days."""

    days: int = Field(default=3, ge=2, description="The last is scored by a model trained on those before.")


def _retrieval(spec: DatasetSpec) -> dg.AssetsDefinition:
    @dg.asset(
        key=[STUDIES, f"{spec.name}_retrieval"],
        group_name=STUDIES,
        owners=OWNERS,
        kinds={"pytorch", "matplotlib"},
        deps=[key(spec, MDS_DATASETS)],
        pool=TRAINING_POOL,
        description="Two Tower on a day it has not seen: the next click among all items alive, beside what was clicked most in "
        "the hour before; with and without learning through the day.",
    )
    def retrieval(context: dg.AssetExecutionContext, config: RetrievalStudy, lake: LakeResource) -> dg.MaterializeResult:
        from ml.studies import retrieval as study

        own_run(context)
        held = lake.open()
        days = days_from(spec.partitions.start.isoformat(), config.days)
        found = study.run_study(spec, days, held, RETRIEVAL, on_result=context.log.info)
        with held.write(STUDIES, "retrieval", spec.name) as folder:
            told = study.write_study(folder, found)
            held.write_manifest(folder, {"days": days})
        return dg.MaterializeResult(
            metadata={
                "recall": _picture(study.figure(found)),
                "ways": dg.MetadataValue.md(_recalls(told)),
                "clicks": told["clicks"],
                "live_items": told["live_items"],
                "reachable": told["reachable"],
                "path": dg.MetadataValue.path(str(held.partition(STUDIES, "retrieval", spec.name))),
            }
        )

    return retrieval


def _recalls(told: Mapping[str, Any]) -> str:
    cuts = list(next(iter(told["ways"].values())))
    head = "| | " + " | ".join(cuts) + " |\n|" + "---|" * (len(cuts) + 1) + "\n"
    return head + "\n".join(
        f"| {way} | " + " | ".join(f"{of[cut]:.4f}" for cut in cuts) + " |" for way, of in told["ways"].items()
    )


class ModelStudy(dg.Config):
    """How often."""

    seeds: int = Field(default=3, ge=1, description="Runs of every model.")


def _models(spec: DatasetSpec) -> dg.AssetsDefinition:
    @dg.asset(
        key=[STUDIES, f"{spec.name}_models"],
        group_name=STUDIES,
        owners=OWNERS,
        kinds={"pytorch"},
        deps=[key(spec, MDS_DATASETS)],
        pool=TRAINING_POOL,
        description=f"Every model of {spec.name}, trained on all days but the last and scored on that, under several seeds.",
    )
    def models(context: dg.AssetExecutionContext, config: ModelStudy, lake: LakeResource) -> dg.MaterializeResult:
        from ml.studies.model_comparison import compare, write_comparison

        own_run(context)
        held, days = lake.open(), spec.days()
        scores = compare(
            spec,
            days,
            held,
            config.seeds,
            on_result=lambda s: context.log.info(f"{s.model}, seed {s.seed}: AUC {s.auc:.4f}, log loss {s.log_loss:.4f}"),
        )
        with held.write(STUDIES, "models", spec.name) as folder:
            found = write_comparison(folder, scores)
            held.write_manifest(folder, config.model_dump())
        return dg.MaterializeResult(
            metadata={
                "models": dg.MetadataValue.md(_scores(found)),
                "path": dg.MetadataValue.path(str(held.partition(STUDIES, "models", spec.name))),
            }
        )

    return models


def _scores(found: Mapping[str, Mapping[str, float]]) -> str:
    head = "| model | AUC | its spread | log loss | predicted / observed |\n|---|---|---|---|---|\n"
    return head + "\n".join(
        f"| {name} | {of['auc']:.4f} | {of['auc_spread']:.4f} | {of['log_loss']:.4f} | {of['calibration']:.3f} |"
        for name, of in found.items()
    )


def _picture(png: bytes) -> dg.MetadataValue:
    return dg.MetadataValue.md(f"![figure](data:image/png;base64,{b64encode(png).decode()})")


def _variants(found: Mapping[str, Any]) -> str:
    head = "| variant | MB | best AUC | smallest gap | its spread |\n|---|---|---|---|---|\n"
    lines = []
    for name, of in found.items():
        least = min(range(len(of["gap"])), key=lambda epoch: of["gap"][epoch])
        gap, spread = of["gap"][least], of["gap_spread"][least]
        lines.append(f"| {name} | {of['bytes'] / 1e6:.2f} | {max(of['auc']):.4f} | {gap:.4f} | {spread:.4f} |")
    return head + "\n".join(lines)


def _settings(settings: list[Any]) -> str:
    head = "| admitted after | kept (days) | rows | MB | candidates | AUC | unknown |\n|---|---|---|---|---|---|---|\n"
    return head + "\n".join(
        f"| {s.min_count} | {s.ttl_days or 'for ever'} | {s.rows:,} | {s.nbytes / 1e6:.1f} | {s.candidates:,} | {s.auc:.4f} "
        f"| {s.unknown_rate:.3f} |"
        for s in settings
    )
