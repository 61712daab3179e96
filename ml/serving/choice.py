"""Which models recommend items of a dataset: the models that rank, the two-tower model, and whether a LambdaRank orders."""

from __future__ import annotations

from dataclasses import dataclass

from ml.catalog.experiment import Experiment
from ml.catalog.spec import DatasetSpec
from ml.recipes.recipe import recipe_of, retrieval_model
from ml.serving.ranker import NAME


@dataclass(frozen=True)
class Choice:
    """The models of a dataset by their parts in a recommendation.

    Attributes:
        model: The model that ranks, and that ranks given candidates beside a LambdaRank.
        towers: The two-tower model that finds candidates; None without one, or without an item.
        has_ranker: Whether a LambdaRank orders the candidates of recommendations.
        experiment: The experiment that chooses what ranks for a user; None without one.
    """

    model: str
    towers: str | None
    has_ranker: bool
    experiment: Experiment | None

    @property
    def shown(self) -> list[str]:
        """The models of the experiment without the LambdaRank, the champion first."""
        return _shown(self.experiment)

    @property
    def names(self) -> list[str]:
        """The models to load, each once."""
        return list(dict.fromkeys(name for name in (self.model, self.towers, *self.shown) if name is not None))


def competing_models(spec: DatasetSpec) -> list[str]:
    """Return the models that can rank: those without two towers, or the first model if all have two towers."""
    single = [name for name in spec.models if recipe_of(spec, name).model.kind != "two_tower"]
    return single or [spec.primary]


def ranking_model(spec: DatasetSpec) -> str:
    """Return the model that ranks if there is no champion: the first that is not a two-tower model, or else the first."""
    return competing_models(spec)[0]


def choose_models(spec: DatasetSpec, model: str | None = None, champion: str | None = None) -> Choice:
    """Choose the models of a dataset.

    Args:
        spec: The dataset.
        model: The model that ranks alone, without LambdaRank and experiment; by default the catalog entry decides.
        champion: The model that ranks if neither `model` nor an experiment decides; by default `ranking_model`.
    """
    experiment = None if model else spec.experiment
    has_ranker = bool(spec.item) and model is None and spec.ranked is not None and spec.ranked.lambdarank is not None
    has_ranker = has_ranker and (experiment is None or NAME in experiment.shares)
    name = model or next(iter(_shown(experiment)), champion or ranking_model(spec))
    return Choice(name, retrieval_model(spec) if spec.item else None, has_ranker, experiment)


def _shown(experiment: Experiment | None) -> list[str]:
    return [name for name in (experiment.shares if experiment else ()) if name != NAME]
