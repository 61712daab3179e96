"""Early stopping: end a pass once its model reaches the recipe's target on rows that are not trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Self

from ml.datasets.batch import Batch
from ml.datasets.reader import BlockReader
from ml.distributed.process_group import Ranks
from ml.recipes.recipe import EarlyStop, Recipe
from ml.training.score import EVALUATION_BATCH, score
from ml.training.state import TrainState


class EarlyStopping:
    """Evaluates the target of a recipe a fixed number of times in a pass.

    The model is evaluated at the same steps however often the pass is interrupted, so a resumed pass ends at the same step as
    an uninterrupted one. This requires a call of `reached` before the first step of a resumed pass and after every step.

    Args:
        rule: Metric, target and interval.
        held_out: Returns the batches to evaluate on; called once for each evaluation.
        total_steps: Number of steps of the whole pass.
        ranks: The processes that train together. The pass ends when all of them have reached the target.
    """

    def __init__(
        self, rule: EarlyStop, held_out: Callable[[], Iterable[Batch]], total_steps: int, ranks: Ranks | None = None
    ) -> None:
        self._rule, self._held_out, self._ranks = rule, held_out, ranks
        self._period = max(1, round(rule.every * total_steps))

    @classmethod
    def of(cls, recipe: Recipe, read: Callable[..., BlockReader], total_steps: int, ranks: Ranks | None = None) -> Self | None:
        """Return the early stopping of a pass over a day, on the day's validation split.

        Args:
            recipe: How the model is trained.
            read: Returns a reader of the day for splits and a batch size.
            total_steps: Number of steps of the whole pass.
            ranks: The processes that train together.

        Returns:
            The early stopping; None if the recipe has none.
        """
        if recipe.early_stop is None:
            return None
        held_out = read(splits=["validation"], batch_size=EVALUATION_BATCH)
        return cls(recipe.early_stop, lambda: held_out, total_steps, ranks)

    def reached(self, state: TrainState) -> bool:
        """Whether the target is reached; False at steps without an evaluation."""
        if state.running is None or not state.running.steps or state.running.steps % self._period:
            return False
        scores = score(state, self._held_out())
        here = bool(scores["rows"]) and self._rule.reached(scores[self._rule.metric])
        return here if self._ranks is None else self._ranks.all_reduce_sum([here])[0] == self._ranks.size
