"""Whether a pass has come far enough to end: the recipe's target, on rows that are not trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ml.datasets.batch import Batch
from ml.metrics import summary
from ml.models.predict import predict_labelled
from ml.recipes.recipe import EarlyStop
from ml.training.state import TrainState


def stop_of(rule: EarlyStop, held_out: Callable[[], Iterable[Batch]], total_steps: int) -> Callable[[TrainState], bool]:
    """For `train`: at every so-many-th step of a pass, whether the target is reached on `held_out()`.

    Looks at the same steps however often the pass is interrupted, so a resumed pass ends where an undisturbed one does.
    """
    period = max(1, round(rule.every * total_steps))

    def reached(state: TrainState) -> bool:
        if state.running is None or state.running.steps % period:
            return False
        labels, scores = predict_labelled(state.model, held_out(), state.recipe.sampling_correction)
        return rule.reached(summary(labels, scores)[rule.metric] if len(labels) else None)

    return reached
