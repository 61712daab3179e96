"""What training asks of an experiment tracker. `ml.tracking` implements it with MLflow; training works without one."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.recipes.recipe import Recipe
from ml.training.report import Step, TrainedDay


class DayObserver(Protocol):
    """Receives what happens while one day is trained."""

    def step(self, step: Step) -> None:
        """Called after every step."""

    def finish(self, trained: TrainedDay) -> None:
        """Called once the day is in the lake."""


class Tracker(Protocol):
    """Opens an observer for each day that is trained. It is pickled when several processes train a day."""

    def follow(
        self, lake: Lake, spec: DatasetSpec, model: str, day: str, recipe: Recipe, total_steps: int
    ) -> AbstractContextManager[DayObserver]:
        """Observe the training of one day, from the entry of the context to its exit.

        Args:
            lake: where the day will be written.
            spec: the dataset.
            model: name of the model.
            day: `YYYY-MM-DD`.
            recipe: how it is trained.
            total_steps: steps of the whole pass.
        """
        ...
