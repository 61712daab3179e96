"""The effect of collisions, admission and expiry on AUC and memory (Monolith, arXiv 2209.07663, figures 7 and 8)."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import dagster as dg
from pydantic import Field

from assets.resources import LakeResource, LandingResource, SparkResource
from assets.studies.movielens_deepfm import MOVIELENS
from assets.studies.study_asset import picture, study_asset, table, write_result
from ml.catalog.spec import DatasetSpec
from ml.days import days_from
from ml.lake import Lake

if TYPE_CHECKING:
    from upath import UPath

    from ml.compute.runner import Runner

NAME, GLOBO = "embedding_collisions", "globo"


class CollisionStudy(dg.Config):
    """Number of runs, and their length."""

    seeds: int = Field(default=3, ge=1, description="Number of runs of every variant.")
    epochs: int = Field(default=10, ge=1, description="Number of passes over the ratings.")
    days: int = Field(default=5, ge=2, description="Number of days of Globo.com's log for the sweep over admission and expiry.")
    daily_days: int = Field(default=16, ge=2, description="Number of days of Globo.com's log for the AUC by day.")
    user_share: float = Field(default=0.02, gt=0, le=1, description="Share of the users whose rows give the AUC by day.")


def build(spec: DatasetSpec) -> dg.AssetsDefinition:
    """Build the study. `spec` is the dataset of the AUC by day and of the sweep over admission and expiry."""

    @study_asset(
        NAME,
        description="DeepFM on MovieLens 1M with collisionless, hashed and quotient-remainder tables at equal memory "
        "(Monolith, figure 7), the AUC by day with such tables on Globo.com's log (figure 8), and the effect of admission and "
        "expiry on memory and AUC there.",
    )
    def embedding_collisions(
        context: dg.AssetExecutionContext,
        config: CollisionStudy,
        lake: LakeResource,
        landing: LandingResource,
        spark: SparkResource,
    ) -> dg.MaterializeResult:
        from ml.studies import admission_sweep, daily_collisions, embedding_collisions
        from ml.studies.movielens_1m import read_ratings

        held, most = lake.open(), len(spec.days())
        for name, days in (("days", config.days), ("daily_days", config.daily_days)):
            if days > most:
                raise dg.Failure(f"{name}: {days} requested, {spec.name} has {most}", allow_retries=False)
        ratings = read_ratings(Path(landing.folder(MOVIELENS)))
        curves = embedding_collisions.run_study(
            ratings,
            config.seeds,
            config.epochs,
            on_result=lambda c: context.log.info(f"{c.variant}, seed {c.seed}: AUC {c.auc[-1]:.4f} after {len(c.auc)} epochs"),
        )
        made_from = {"ratings": len(ratings), **config.model_dump()}
        found, path = write_result(
            held, NAME, MOVIELENS, made_from, lambda folder: embedding_collisions.write_study(folder, curves)
        )
        logs = _Logs(held, landing.folder(spec.name), spark.runner(), context.log.info)
        settings, path_of_sweep = _sweep(spec, config, logs)
        by_day, path_of_days = _by_day(spec, config, logs)
        return dg.MaterializeResult(
            metadata={
                "auc": picture(embedding_collisions.figure(found)),
                "sweep": picture(admission_sweep.figure(settings)),
                "auc_by_day": picture(daily_collisions.figure(by_day)),
                "variants": _variants(found),
                "days": _days(by_day),
                "settings": _settings(settings),
                "path": path,
                "path_of_sweep": path_of_sweep,
                "path_of_days": path_of_days,
                "dagster/row_count": len(ratings),
            }
        )

    return embedding_collisions


class _Logs(NamedTuple):
    """Where days are read from and written to, how, and the log of results."""

    lake: Lake
    landing: str
    runner: "Runner"
    log: Callable[[str], None]


def _sweep(spec: DatasetSpec, config: CollisionStudy, logs: _Logs) -> tuple[list[Any], dg.MetadataValue]:
    """Measure admission and expiry, and write the result."""
    from ml.studies import admission_sweep

    with_ids = admission_sweep.with_ids(spec)
    days = days_from(spec.partitions.start.isoformat(), config.days)
    admission_sweep.prepare(with_ids, days, logs.lake, logs.landing, logs.runner)
    settings = admission_sweep.sweep(
        with_ids,
        days,
        logs.lake,
        on_result=lambda s: logs.log(f"min_count {s.min_count}, ttl {s.ttl_days} days: {s.rows:,} rows, AUC {s.auc:.4f}"),
    )

    def write(folder: "UPath") -> list[Any]:
        admission_sweep.write_sweep(folder, settings)
        return settings

    return write_result(logs.lake, NAME, spec.name, {"days": days}, write)


def _by_day(spec: DatasetSpec, config: CollisionStudy, logs: _Logs) -> tuple[dict[str, Any], dg.MetadataValue]:
    """Score the days of a sample of the users with every kind of table, and write the result."""
    from ml.studies import daily_collisions
    from ml.studies.embedding_collisions import write_study

    days = days_from(spec.partitions.start.isoformat(), config.daily_days)
    daily_collisions.prepare_features(spec, days, logs.lake, logs.landing, logs.runner)
    tables = daily_collisions.read_days(spec, days, logs.lake, config.user_share)
    rows = sum(of.num_rows for of in tables.values())
    logs.log(f"{rows:,} rows of {config.user_share:.1%} of the users, {len(days)} days")
    curves = daily_collisions.run_study(
        spec,
        tables,
        config.seeds,
        on_result=lambda c: logs.log(f"{c.variant}, seed {c.seed}: AUC {c.auc[-1]:.4f} of the last day"),
    )
    made_from = {"days": days, "rows": rows, "seeds": config.seeds, "user_share": config.user_share}
    return write_result(
        logs.lake,
        f"{NAME}_by_day",
        spec.name,
        made_from,
        lambda folder: write_study(folder, curves, daily_collisions.figure),
    )


def _days(found: Mapping[str, Any]) -> dg.MetadataValue:
    """Show MB and the mean AUC of each variant, and below them the AUC of each day."""
    count = len(next(iter(found.values()))["auc"])
    rows = [["MB", *(f"{of['bytes'] / 1e6:.2f}" for of in found.values())]]
    rows.append(["mean AUC", *(f"{sum(of['auc']) / count:.4f}" for of in found.values())])
    for day in range(count):
        rows.append([f"day {day + 2}", *(f"{of['auc'][day]:.4f} ± {of['auc_spread'][day]:.4f}" for of in found.values())])
    return table(["", *found], rows)


def _variants(found: Mapping[str, Any]) -> dg.MetadataValue:
    rows = []
    for name, of in found.items():
        least = min(range(len(of["gap"])), key=lambda epoch: of["gap"][epoch])
        gap, spread = of["gap"][least], of["gap_spread"][least]
        rows.append([name, f"{of['bytes'] / 1e6:.2f}", f"{max(of['auc']):.4f}", f"{gap:.4f}", f"{spread:.4f}"])
    return table(["variant", "MB", "best AUC", "smallest gap", "spread of the gap"], rows)


def _settings(settings: Sequence[Any]) -> dg.MetadataValue:
    rows = [
        [
            s.min_count,
            s.ttl_days or "no expiry",
            f"{s.rows:,}",
            f"{s.nbytes / 1e6:.1f}",
            f"{s.candidates:,}",
            f"{s.auc:.4f}",
            f"{s.unknown_rate:.3f}",
        ]
        for s in settings
    ]
    return table(["min_count", "ttl (days)", "rows", "MB", "candidates", "AUC", "unknown rate"], rows)
