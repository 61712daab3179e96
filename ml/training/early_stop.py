"""Whether a pass has come far enough to end: the recipe's target, on rows that are not trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from ml.datasets.batch import Batch
from ml.metrics import summary
from ml.recipes.recipe import EarlyStop
from ml.training.predict import predict
from ml.training.state import TrainState


def stop_of(rule: EarlyStop, held_out: Callable[[], Iterable[Batch]], total_steps: int) -> Callable[[TrainState], bool]:
    """For `train`: at every so-many-th step of a pass, whether the target is reached on `held_out()`.

    Looks at the same steps however often the pass is interrupted, so a resumed pass ends where an undisturbed one does.
    """
    period = max(1, round(rule.every * total_steps))

    def reached(state: TrainState) -> bool:
        if state.running is None or state.running.steps % period:
            return False
        labels: list[np.ndarray] = []

        def noted() -> Iterable[Batch]:
            for batch in held_out():
                labels.append(batch.labels.numpy())
                yield batch

        scores = predict(state.model, noted(), state.recipe.sampling_correction)
        return rule.reached(summary(np.concatenate(labels), scores)[rule.metric] if labels else None)

    return reached
