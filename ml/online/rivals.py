"""The daily models that a day of online training is compared with."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from ml.artifacts.predictor import TorchPredictor
from ml.artifacts.stored import require_model
from ml.catalog.spec import DatasetSpec
from ml.datasets.batch import Batch
from ml.days import day_bounds
from ml.lake import Lake
from ml.online.loop import Predict
from ml.online.serving import Floats
from ml.online.start import Run, stale_day
from ml.schema import FeatureSchema
from ml.stages import tuned_models

STALE, RETRAINED = "stale", "retrained"
_log = logging.getLogger("evergreen")


@dataclass(frozen=True)
class Rivals:
    """The daily models that predict a day beside the serving model.

    Attributes:
        days: Day up to which each model was trained, by name: `stale` for the model before the run, `retrained` for the
            model of the day before. Both are missing on the first day of a dataset.
    """

    lake: Lake
    spec: DatasetSpec
    model: str
    days: dict[str, str]

    @classmethod
    def of(cls, lake: Lake, spec: DatasetSpec, model: str, day: str, run: Run) -> Rivals:
        """Find the models of a day. One that the lake does not have is left out, with a warning."""
        stage, days = tuned_models(model), {STALE: stale_day(spec, run, day), RETRAINED: spec.previous_day(day)}
        there = {}
        for name, until in days.items():
            if until is not None and lake.has(stage, spec.name, until):
                there[name] = until
            elif until is not None:
                text = "%s/%s of %s is not in the lake; %s of %s has no model called %s to compare with"
                _log.warning(text, spec.name, stage, until, model, day, name)
        return cls(lake, spec, model, there)

    @property
    def places(self) -> dict[str, tuple[str, str]]:
        """Stage and day of each model, by name."""
        return {name: (tuned_models(self.model), until) for name, until in self.days.items()}

    @property
    def known_to(self) -> dict[str, int]:
        """The end of the day up to which each model was trained, in microseconds since 1970 UTC."""
        return {name: day_bounds(until, self.spec.zone)[1] for name, until in self.days.items()}

    def load(self) -> dict[str, TorchPredictor]:
        """Load the models. Two names of the same model share one object.

        Raises:
            SnapshotMismatch: A model reads features of another schema.
            DamagedSnapshot: A file of a model has changed since it was written; the message names it.
        """
        schema = FeatureSchema.of(self.spec)
        of_day: dict[str, TorchPredictor] = {}
        for stage, until in self.places.values():
            if until not in of_day:
                of_day[until] = TorchPredictor.load(require_model(self.lake, stage, self.spec.name, until), schema)
        return {name: of_day[until] for name, until in self.days.items()}


def predictions_of(models: Mapping[str, TorchPredictor]) -> dict[str, Predict]:
    """Return how each model predicts. Two names of the same model share one function, so that it is called once for a batch."""
    functions = {id(model): _predict(model) for model in models.values()}
    return {name: functions[id(model)] for name, model in models.items()}


def _predict(predictor: TorchPredictor) -> Predict:
    def predict(batch: Batch) -> Floats:
        return predictor.predict(batch, sampled=True)

    return predict
