"""Compares DeepFM on MovieLens 1M with published results for a random split."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from assets.resources import LakeResource, LandingResource
from assets.studies.study_asset import study_asset, table, write_result

NAME, MOVIELENS = "movielens_deepfm", "movielens-1m"


class RandomSplitStudy(dg.Config):
    """Number of runs, and their length."""

    seeds: int = Field(default=3, ge=1, description="Number of runs of each protocol.")
    epochs: int = Field(default=30, ge=1, description="Maximum number of passes over the training split.")
    patience: int = Field(default=2, ge=1, description="A run ends after this number of passes without a better AUC.")


@study_asset(
    NAME,
    kinds=["pytorch"],
    description="DeepFM on MovieLens 1M with a random 80/10/10 split, compared with the results of AutoInt and RecBole.",
)
def movielens_deepfm(
    context: dg.AssetExecutionContext, config: RandomSplitStudy, lake: LakeResource, landing: LandingResource
) -> dg.MaterializeResult:
    """Run the study for each protocol and write its partition."""
    from ml.studies import movielens_deepfm as study
    from ml.studies.movielens_1m import ALL, read_ratings

    held, ratings = lake.open(), read_ratings(Path(landing.folder(MOVIELENS)), ALL)
    runs = study.run_study(
        ratings,
        **config.model_dump(),
        on_result=lambda r: context.log.info(
            f"{r.protocol}, seed {r.seed}: AUC {r.auc:.4f}, log loss {r.log_loss:.4f} after {r.epoch} epochs"
        ),
    )
    made_from = {"ratings": len(ratings), **config.model_dump()}
    found, path = write_result(held, NAME, MOVIELENS, made_from, lambda folder: study.write_study(folder, runs))
    return dg.MaterializeResult(
        metadata={
            "protocols": _protocols(found),
            "path": path,
            "dagster/row_count": len(ratings),
        }
    )


def _protocols(found: Mapping[str, Mapping[str, Any]]) -> dg.MetadataValue:
    ours = ("protocol", "AUC", "log loss", "epochs", "samples per second")
    rows = []
    for name, of in found.items():
        published = of["published"] or {}
        theirs = [f"{published[metric]:.4f}" if published else "" for metric in ("auc", "log_loss")]
        rows.append(
            [
                name,
                f"{of['auc']:.4f} ± {of['auc_spread']:.4f}",
                f"{of['log_loss']:.4f} ± {of['log_loss_spread']:.4f}",
                f"{of['epoch']:.1f}",
                f"{of['samples_per_second']:,.0f}",
                *theirs,
                published.get("source", ""),
                published.get("differs", ""),
            ]
        )
    return table([*ours, "published AUC", "published log loss", "source", "differences"], rows)
