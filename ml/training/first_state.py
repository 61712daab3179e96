"""The state with which a dataset's first day begins."""

from __future__ import annotations

from ml.catalog.spec import DatasetSpec
from ml.distributed.process_group import Ranks
from ml.lake import Lake
from ml.models.output import start_at_rate
from ml.recipes.recipe import Recipe
from ml.schema import FeatureSchema
from ml.stages import CLEANED_FEATURES
from ml.training.state import TrainState, new_state


def first_state(lake: Lake, spec: DatasetSpec, day: str, recipe: Recipe, ranks: Ranks | None = None) -> TrainState:
    """Build an untrained model that predicts the rate of each label on the first day that it is trained on.

    Args:
        lake: Where the day's features are stored. Without them, the model starts with its own bias.
        spec: The dataset.
        day: The first day, `YYYY-MM-DD`.
        recipe: How the model is built and trained.
        ranks: The processes among which the tables are sharded.

    Returns:
        A state without a pass. Equal arguments and data give equal bits.
    """
    state = new_state(recipe, FeatureSchema.of(spec), ranks)
    found = lake.manifest(CLEANED_FEATURES, spec.name, day) if lake.has(CLEANED_FEATURES, spec.name, day) else {}
    if clicked := found.get("label_rate"):
        rate = 1.0 if recipe.correction_kind == "none" else found["mean_sample_rate"]
        start_at_rate(state.model, clicked * rate / (clicked * rate + 1 - clicked))
    further = found.get("further_rates", {})  # datasets that sample negatives have no further labels
    for number, name in enumerate(spec.labels, start=1):
        start_at_rate(state.model, further.get(name, 0.0), number)
    return state
