"""Studies: experiments on public logs, materialised on demand, with the results that the documentation quotes."""

from collections.abc import Mapping

import dagster as dg

from assets.studies import (
    advisor,
    compression,
    delayed_labels,
    embedding_collisions,
    independent_embeddings,
    models,
    multimetric,
    negative_sampling,
    retrieval,
    served_recall,
    served_scores,
    shard_failure,
    sync_cost,
    sync_interval,
)
from assets.studies.movielens_deepfm import movielens_deepfm
from ml.catalog.spec import DatasetSpec


def build(specs: Mapping[str, DatasetSpec]) -> list[dg.AssetsDefinition]:
    """Build the studies that are possible with the datasets of a catalog."""
    found = [movielens_deepfm]
    if embedding_collisions.GLOBO in specs:
        found.append(embedding_collisions.build(specs[embedding_collisions.GLOBO]))
    found += [models.build(spec) for spec in specs.values() if len(_rankers(spec)) > 1 and spec.partitions.end]
    of_dlrm = [spec for spec in specs.values() if advisor.MODEL in spec.models and spec.demo_days >= 4]
    for study in (advisor, compression, independent_embeddings, multimetric):
        found += [study.build(spec) for spec in of_dlrm]
    found += [negative_sampling.build(spec) for spec in specs.values() if spec.label.column and spec.partitions.end]
    found += [delayed_labels.build(spec) for spec in specs.values() if spec.simulation]
    for study in (sync_interval, sync_cost, shard_failure):
        found += [study.build(spec) for spec in specs.values() if spec.partitions.end]
    found += [served_recall.build(spec) for spec in specs.values() if spec.item and spec.user]
    found += [served_scores.build(spec) for spec in specs.values()]
    return found + [retrieval.build(spec) for spec in specs.values() if retrieval.MODEL in spec.models]


def _rankers(spec: DatasetSpec) -> list[str]:
    """Models that score single rows. Retrieval models have a separate study."""
    return [model for model in spec.models if model != retrieval.MODEL]
