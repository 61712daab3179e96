"""Loads the models that a report scores."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml.artifacts.predictor import TorchPredictor
from ml.artifacts.stored import require_model
from ml.catalog.ranking import lambdarank_of
from ml.catalog.spec import DatasetSpec
from ml.datasets.collate import batch_from_arrow
from ml.evaluation.ranking.item_scorers import CannotRank, item_scorer
from ml.evaluation.scores import ItemScorer, ScoredModel
from ml.lake import Lake
from ml.models.lambdarank import LambdaRank
from ml.retrieval.candidate_index import load_ranker
from ml.schema import FeatureSchema
from ml.stages import served_models
from ml.training.loop import threads

SCORING_ROWS = 2048
"""Rows per batch. The activations of larger batches exceed the processor's caches, and a row takes three times as long."""


def models_before(spec: DatasetSpec, day: str, lake: Lake) -> dict[str, ScoredModel]:
    """Load the models that were trained up to the day before; with `serve: online`, those that were trained online.

    Args:
        spec: The dataset.
        day: The day to score, `YYYY-MM-DD`.
        lake: Where trained days are stored.

    Returns:
        The dataset's models by name, in the order of the dataset; empty on its first day.

    Raises:
        MissingPartition: The day before has not been trained.
        SnapshotMismatch: A model was trained on features of another specification.
        DamagedSnapshot: A file of a model has changed since it was written; the message names it.
    """
    before = spec.previous_day(day)
    return {name: _scored(spec, name, before, lake) for name in spec.models} if before else {}


def ranker_before(spec: DatasetSpec, day: str, lake: Lake) -> LambdaRank | None:
    """Load the LambdaRank of the candidate index of the day before.

    Returns:
        None on the first day, without `ranking.lambdarank`, and if nothing could be learned on the day before.

    Raises:
        MissingPartition: The day before has no candidate index.
        StalePartition: The index was made under another specification of the dataset.
        DamagedIndex: A file of the index has changed since it was written.
    """
    before = spec.previous_day(day)
    return load_ranker(lake, spec, before) if before and lambdarank_of(spec) else None


def _scored(spec: DatasetSpec, name: str, snapshot_day: str, lake: Lake) -> ScoredModel:
    stage, schema = served_models(spec, name), FeatureSchema.of(spec)
    predictor = TorchPredictor.load(require_model(lake, stage, spec.name, snapshot_day), schema)
    manifest = lake.manifest(stage, spec.name, snapshot_day)
    facts = {
        "snapshot_day": manifest.get("kept_from") or snapshot_day,
        "rows_so_far": int(manifest["metrics"]["rows_so_far"]),
        "model": predictor.recipe.model.kind,
    }

    score = predictor.predict_labels if len(predictor.labels) > 1 else predictor.predict

    def predict(table: pa.Table) -> NDArray[np.float32]:
        slices = (table.slice(first, SCORING_ROWS) for first in range(0, table.num_rows, SCORING_ROWS))
        with threads(1):  # models are scored side by side, which uses the cores better than threads inside small batches
            parts = [score(batch_from_arrow(rows, schema), True) for rows in slices]
        return np.concatenate(parts) if parts else np.empty(0, np.float32)

    ranks_only = getattr(predictor.recipe.model, "loss", None) == "softmax"
    return ScoredModel(predict, facts, ranks_only, _items(spec, predictor))


def _items(spec: DatasetSpec, predictor: TorchPredictor) -> ItemScorer | str | None:
    """Return how the model scores all items, or the reason why it cannot; None if reports of the dataset do not rank items."""
    if spec.ranked is None:
        return None
    try:
        return item_scorer(spec, predictor.model, predictor.recipe, predictor.schema)
    except CannotRank as error:
        return str(error)
