"""The interface of experiment trackers. `ml.tracking` implements it with MLflow. Training also works without a tracker."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.recipes.recipe import Recipe
from ml.training.report import Step, TrainedDay


class DayObserver(Protocol):
    """Receives the events of the training of one day."""

    def step(self, step: Step) -> None:
        """Receive a step. Called after every step."""

    def finish(self, trained: TrainedDay) -> None:
        """Receive the trained day. Called once the day is in the lake."""


class Tracker(Protocol):
    """Opens an observer for each day that is trained. It is pickled when several processes train a day."""

    def follow(
        self, lake: Lake, spec: DatasetSpec, model: str, day: str, recipe: Recipe, total_steps: int
    ) -> AbstractContextManager[DayObserver]:
        """Return a context manager that observes the training of one day.

        Args:
            lake: Where the day will be written.
            spec: The dataset.
            model: Name of the model.
            day: `YYYY-MM-DD`.
            recipe: How it is trained.
            total_steps: Steps of the whole pass.
        """
        ...
