"""Ranks all live items for the clicks of a day of online training, by the serving model and the daily models beside it.

Retrieval models are measured by this ranking: their AUC against uniform negatives is high for any model that knows popularity.
New items are live from the next slice of time on, or from the next synchronisation on if it is earlier, and the serving model
embeds all live items again after each synchronisation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from ml.artifacts.predictor import TorchPredictor
from ml.artifacts.snapshot import Tensors, below
from ml.catalog.spec import DatasetSpec
from ml.evaluation.compare import Estimate
from ml.evaluation.ranking.item_scorers import item_scorer
from ml.evaluation.ranking.metrics import paired_difference, ranking_metrics
from ml.evaluation.ranking.report import describe
from ml.evaluation.ranking.requests import DayRanking, RankedDay, days_in_reach
from ml.evaluation.ranking.systems import ClickRanks, popularity_name
from ml.evaluation.rows import earlier_days
from ml.evaluation.scores import ItemScorer, PairTable
from ml.lake import Lake
from ml.recipes.models import TwoTowerRecipe
from ml.recipes.recipe import Recipe
from ml.stages import CLEANED_FEATURES

POPULARITY = "popularity"
"""Name of the most clicked items of the first window of `ranking.popularity_minutes` among the systems of a slice."""
METRICS = ("recall@20", "recall@100", "mrr@20", "popular_auc")
"""Metrics of each slice."""
_FIELDS = ("requests", "ranks", "unseen", "above")
_LOOK_BACK_DAYS = 7


Current = Callable[[], TorchPredictor]


class SliceRanking:
    """The ranking of one day.

    Args:
        spec: A dataset that ranks items.
        day: `YYYY-MM-DD`.
        lake: Where features are stored.
        models: Return the models by name. A model may be updated or replaced between two slices.
        features: Days whose features the ranking reads, as `ranked_features` returns them.
        with_sources: False to rank by models only.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        day: str,
        lake: Lake,
        models: Mapping[str, Current],
        features: Sequence[str],
        with_sources: bool = True,
    ) -> None:
        assert spec.ranked is not None
        self._spec, self._ranking = spec, spec.ranked
        scorers = {id(of): _CurrentItems(spec, of) for of in models.values()}
        named = {name: scorers[id(of)] for name, of in models.items()}
        earlier = [other for other in features if other != day]
        self._day = DayRanking(spec, spec.ranked, day, lake, earlier, named, with_sources)
        self._sessions = self._day.sessions

    def rank(self, rows: int | None = None) -> dict[str, ClickRanks]:
        """Rank the clicks among the next rows of the day, by default among all that remain.

        Returns:
            Ranks by name of the model, and those of `POPULARITY` unless sources are left out.
        """
        return self._named(self._day.rank(rows))

    def metrics(self, ranks: ClickRanks) -> dict[str, float | None]:
        """Compute `METRICS` of some clicks."""
        found = ranking_metrics(ranks.ranks, self._sessions[ranks.requests], ranks.above)
        return {name: found[name] for name in METRICS}

    def summary(self) -> dict[str, Any]:
        """Return the metrics of the clicks so far in the form of `ml.evaluation.ranking.report`."""
        return describe(self._spec, self._ranking, self._day.result())

    def gain(self, model: str, other: str) -> Estimate | None:
        """Compare the recall@20 of two models on the clicks so far: `model` less `other`. None without clicks."""
        found = self._day.result()
        one, two = found.models[model], found.models[other]
        return paired_difference(one.ranks, two.ranks, found.whose[one.requests])

    def ranked(self) -> RankedDay:
        """Return the ranks of the clicks so far."""
        return self._day.result()

    def tensors(self) -> Tensors:
        """Return the ranks that models have given so far, for a checkpoint."""
        found = self._day.models()
        return {f"{name}/{field}": torch.from_numpy(getattr(of, field)) for name, of in found.items() for field in _FIELDS}

    def restore(self, tensors: Mapping[str, torch.Tensor], slices: Sequence[int]) -> None:
        """Continue after some slices.

        Args:
            tensors: What `tensors` returned.
            slices: Number of rows of each slice.
        """
        for rows in slices:
            self._day.rank(rows, by_models=False)
        names = {name.rpartition("/")[0] for name in tensors}
        held = {name: below(tensors, f"{name}/") for name in names}
        self._day.restore({name: ClickRanks(*(of[field].numpy() for field in _FIELDS)) for name, of in held.items()})

    def _named(self, found: Mapping[str, ClickRanks]) -> dict[str, ClickRanks]:
        popular = popularity_name(self._ranking.popularity_minutes[0])
        models = {name: ranks for name, ranks in found.items() if name not in self._day.source_names}
        return {**models, POPULARITY: found[popular]} if popular in found else models


def ranked_features(lake: Lake, spec: DatasetSpec, day: str, recipe: Recipe) -> list[str]:
    """Return the days whose features the ranking of a day reads, ascending.

    Returns:
        Empty if the dataset does not rank items, or if the model is not a retrieval model: any other model scores each pair of
        a click and an item, which takes longer than training. Reports rank by such models on a sample of the clicks.
    """
    if spec.ranked is None or not isinstance(recipe.model, TwoTowerRecipe) or not lake.has(CLEANED_FEATURES, spec.name, day):
        return []
    return [*days_in_reach(spec, spec.ranked, day, earlier_days(lake, spec.name, day, _LOOK_BACK_DAYS)), day]


def unranked(spec: DatasetSpec, recipe: Recipe) -> str | None:
    """Return why a model is not ranked on a day of arriving rows; None for a model that would not be ranked on any day."""
    if spec.ranked is None or not isinstance(recipe.model, TwoTowerRecipe):
        return None
    return "the day was trained on arriving rows, and a ranking needs the features of the whole day, which did not exist yet"


def current_of(models: Mapping[str, TorchPredictor]) -> dict[str, Current]:
    """Return functions of models that do not change. Two names of the same model share one function."""
    functions = {id(model): partial(_same, model) for model in models.values()}
    return {name: functions[id(model)] for name, model in models.items()}


def _same(model: TorchPredictor) -> TorchPredictor:
    return model


class _CurrentItems:
    """Scores items by the model that serves when the items are indexed; an `ml.evaluation.scores.ItemScorer`."""

    def __init__(self, spec: DatasetSpec, current: Current) -> None:
        self._spec, self._current = spec, current
        self._scorer = self._open()
        self.item_features, self.pair_features = self._scorer.item_features, self._scorer.pair_features
        self.by_pair = self._scorer.by_pair

    def index(self, items: pa.Table, pairs: PairTable | None = None) -> None:
        self._scorer = self._open()
        self._scorer.index(items, pairs)

    def scores(self, requests: pa.Table) -> NDArray[np.float32]:
        return self._scorer.scores(requests)

    def _open(self) -> ItemScorer:
        now = self._current()
        return item_scorer(self._spec, now.model, now.recipe, now.schema)
