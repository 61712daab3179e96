"""Predicts the time and memory of training a day, from a recipe, a profile of the data, and a calibration of the machine.

The time is a sum of terms, each the number of units of some work in the day (`terms`) times the seconds that one unit takes on
this machine (`ml.advisor.calibration` measures them by training small models). The memory is a sum of what the code allocates.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from ml.advisor.dense_part import dense_part, visible
from ml.advisor.workload import Workload
from ml.embeddings.collisionless.hash_map import slots_for
from ml.embeddings.collisionless.row_layout import width_of
from ml.embeddings.optimizers import RowOptimizer
from ml.models.crosses import cross_name
from ml.recipes.models import WideDeepRecipe
from ml.recipes.recipe import Recipe
from ml.recipes.tables import CollisionlessTable, CompositionalTable, SharedTable
from ml.schema import FeatureSchema

WORD, SLOT = 4, 16  # bytes of a float32, and of a slot of the hash map
DENSE_COPIES = 5  # weights, gradients, two moments of Adam, and a copy while a snapshot is written
ACTIVATION_COPIES = 6  # values of the forward pass, their gradients, and intermediate results
FIXED_BYTES = 12  # of a fixed row beside its weights: accumulator, step of the last update, and seed of the first weights
SECONDS, TABLES, PEAK = "CPU-seconds of the loop", "megabytes of tables", "megabytes at the peak"  # what is compared
READING_TERMS = ("passes", "values")  # of the files of a day; all others are of its steps
FACTOR = 1.5  # a prediction is close if it is within this factor
SHORT, SMALL = 0.05, 1.0  # seconds, about those of the first step, and megabytes that do not matter


@dataclass(frozen=True)
class Speed:
    """Speed of one core.

    Attributes:
        rates: Seconds per unit of each of `terms`.
        start_seconds: CPU-seconds that a new process spends once on loading kernels, while it loads a state and takes a step.
        base_bytes: Memory of a process that trains a tiny model.
    """

    rates: Mapping[str, float]
    start_seconds: float = 0.0
    base_bytes: int = 0


@dataclass(frozen=True)
class Prediction:
    """What training a day is predicted to take.

    Attributes:
        seconds: CPU-seconds of the training loop over the day, with one thread. On an idle machine, as much time passes.
        start_seconds: CPU-seconds that a new process spends once on loading kernels, before and in its first step.
        peak_bytes: Peak of the training process's memory.
        table_bytes: Bytes of each table with its optimizer state and index, at the end of the day.
        terms: Seconds by term, the largest first.
    """

    seconds: float
    peak_bytes: float
    table_bytes: Mapping[str, float] = field(default_factory=dict)
    terms: Mapping[str, float] = field(default_factory=dict)
    start_seconds: float = 0.0


@dataclass(frozen=True)
class Comparison:
    """A prediction beside what was measured.

    Attributes:
        quantity: What was predicted, with its unit.
        predicted: The prediction.
        took: What was measured.
        least: A difference up to this does not matter.
    """

    quantity: str
    predicted: float
    took: float
    least: float = 0.0

    @property
    def factor(self) -> float:
        """The larger of the two divided by the smaller."""
        low, high = sorted((self.predicted, self.took))
        return high / low if low > 0 else float("inf")

    @property
    def close(self) -> bool:
        """Whether the prediction is within `FACTOR` of the measurement, or the difference does not matter."""
        return self.factor <= FACTOR or abs(self.predicted - self.took) <= self.least


def terms(recipe: Recipe, schema: FeatureSchema, workload: Workload) -> dict[str, float]:
    """Count the work of a day.

    Args:
        recipe: The recipe.
        schema: The features of the dataset.
        workload: The day.

    Returns:
        Number of units by term:

        - `steps`: optimizer steps; `step_features`, `step_layers` and `step_collections`: steps times the number of sparse
          features, of linear layers, and of collections of tables beyond the first
        - `step_wide`: steps, of a model with a wide part
        - `parameters`: steps times dense parameters
        - `flops_float32` or `flops_bfloat16`: multiplications and additions of matrix products
        - `elements`: values that the dense part writes
        - `passes`: one pass, which opens the day's files
        - `lookups`, `words`: ids that are looked up in collisionless tables, and weights that they read
        - `updates`, `update_words`: rows that the steps update, each once for all of its lookups, and their weights
        - `step_lists`, `list_ids`: steps times the number of features with several ids a row, and ids of these features
        - `fixed_lookups`, `fixed_words`, `fixed_updates`, `fixed_update_words`: the same for tables with a fixed number of rows
        - `new_rows`: rows that are admitted to collisionless tables
        - `step_softmax`, `pairs`: with `loss: softmax`, steps, and pairs of a clicked row and an item that a step compares
        - `values`: values that the reader decodes
    """
    own = visible(recipe, schema)
    dense, model = dense_part(recipe, schema), recipe.model
    steps = workload.steps(recipe)
    rows = workload.model_rows(recipe) + steps * getattr(model, "uniform_negatives", 0)
    found: defaultdict[str, float] = defaultdict(
        float,
        passes=1,
        steps=steps,
        step_layers=steps * len(dense.layers),
        parameters=steps * dense.parameters,
        elements=rows * dense.elements,
    )
    flops = rows * dense.flops
    if getattr(model, "loss", None) == "softmax":  # each clicked row's logits of all items of the step
        pairs = workload.positives * (workload.positives + steps * getattr(model, "uniform_negatives", 0)) / max(steps, 1)
        flops += 6 * pairs * getattr(model, "out", 0)
        found["pairs"] = pairs
        found["step_softmax"] = steps
    found[f"flops_{recipe.precision}"] = flops
    kinds = set()
    for feature in own.sparse:
        table, lookups = recipe.tables.of(feature), workload.lookups(recipe, feature)
        growing = isinstance(table, CollisionlessTable | SharedTable)
        kinds.add("collisionless" if growing else table.kind)
        parts, updates = _parts(table), workload.updated_rows(recipe, feature)
        _add_lookups(found, "" if growing else "fixed_", lookups * parts, updates * parts, model.embedding_dim)
        found["new_rows"] += workload.new_rows(recipe, feature)
        found["list_ids"] += lookups if feature in own.multi else 0.0
    found["step_features"] = steps * len(own.sparse)
    found["step_lists"] = steps * len(own.multi)
    if isinstance(model, WideDeepRecipe):
        for feature in own.sparse:
            _add_lookups(found, "", workload.lookups(recipe, feature), workload.updated_rows(recipe, feature), 1)
            found["new_rows"] += workload.new_rows(recipe, feature)
        crossed = sum(_crossed_rows(workload, pair) for pair in model.crosses)
        updates = sum(max(workload.updated_rows(recipe, name) for name in pair) for pair in model.crosses)  # at least
        _add_lookups(found, "", workload.rows * len(model.crosses), updates, 1)
        found["new_rows"] += crossed * workload.rows / max(crossed + workload.rows, 1)
        found["step_features"] += steps * len(model.crosses)
        found["step_wide"] = steps
    found["step_collections"] = steps * (len(kinds) - 1)
    read = sum(load.lookups for load in workload.features.values())
    found["values"] = workload.rows * len(schema.dense) + read
    return dict(found)


def predict(recipe: Recipe, schema: FeatureSchema, workload: Workload, speed: Speed) -> Prediction:
    """Predict the time and memory of training a day.

    Args:
        recipe: The recipe.
        schema: The features of the dataset.
        workload: The day.
        speed: Speed of the machine; see `ml.advisor.calibration`.

    Returns:
        The prediction, for one process.
    """
    seconds = {name: units * speed.rates.get(name, 0.0) for name, units in terms(recipe, schema, workload).items()}
    tables = table_bytes(recipe, schema, workload)
    dense = dense_part(recipe, schema)
    growing = sum(size for name, size in tables.items() if _grows(recipe, name))
    peak = speed.base_bytes + sum(tables.values()) + growing  # a snapshot copies the rows of growing tables, as growth does
    peak += WORD * DENSE_COPIES * dense.parameters
    peak += WORD * ACTIVATION_COPIES * min(recipe.batch_size, workload.rows) * dense.elements
    ordered = dict(sorted(seconds.items(), key=lambda item: -item[1]))
    return Prediction(sum(seconds.values()), peak, tables, ordered, speed.start_seconds)


def table_bytes(recipe: Recipe, schema: FeatureSchema, workload: Workload) -> dict[str, float]:
    """Return the predicted bytes of each table at the end of the day, with optimizer state and index."""
    own, dim, found = visible(recipe, schema), recipe.model.embedding_dim, {}
    rows = {feature: workload.table_rows(recipe, feature) for feature in own.sparse}
    growing = _growing_bytes(rows, width_of(dim, RowOptimizer(recipe.table_optimizer.kind).words(dim)))
    for feature in own.sparse:
        table = recipe.tables.of(feature)
        if isinstance(table, CollisionlessTable):
            found[feature] = growing[feature]
            waiting = workload.features[feature].ids - workload.table_rows(recipe, feature) if table.min_count > 1 else 0
            found[feature] += SLOT * 1.5 * max(waiting, 0) * (table.filter != "probabilistic")
        elif isinstance(table, CompositionalTable):
            found[feature] = table.rows * (WORD * (table.dim or dim) + FIXED_BYTES)
        elif not isinstance(table, SharedTable):
            found[feature] = table.rows * (WORD * dim + FIXED_BYTES)
    if isinstance(recipe.model, WideDeepRecipe):
        rows = {f"wide.{feature}": count for feature, count in rows.items()}
        rows |= {f"wide.{cross_name(pair)}": _crossed_rows(workload, pair) for pair in recipe.model.crosses}
        found |= _growing_bytes(rows, width_of(1, RowOptimizer(recipe.model.wide_optimizer.kind).words(1)))
    return found


def compare(
    prediction: Prediction,
    metrics: Mapping[str, float],
    *,
    loading_seconds: float | None = None,
    peak_bytes: float | None = None,
) -> list[Comparison]:
    """Compare a prediction with what a trained day took.

    Args:
        prediction: The prediction.
        metrics: The metrics in the manifest of the trained day; `cpu_seconds` are those of the training loop.
        loading_seconds: CPU-seconds that a new process spent on loading the state before the loop. With it, the comparison is
            about the loop and the start of the process; without it, about the loop of a process that has trained before.
        peak_bytes: Peak of the process's memory, if it was measured.

    Returns:
        The comparisons of time and of memory.
    """
    predicted, took = prediction.seconds, metrics["cpu_seconds"]
    if loading_seconds is not None:
        predicted, took = predicted + prediction.start_seconds, took + loading_seconds
    found = [
        Comparison(SECONDS, predicted, took, SHORT),
        Comparison(TABLES, sum(prediction.table_bytes.values()) / 1e6, metrics["table_megabytes"], SMALL),
    ]
    if peak_bytes is not None:
        found.append(Comparison(PEAK, prediction.peak_bytes / 1e6, peak_bytes / 1e6))
    return found


def _add_lookups(found: defaultdict[str, float], kind: str, lookups: float, updates: float, dim: int) -> None:
    """Count lookups in tables of a kind, and the updates of the rows that they read."""
    found[f"{kind}lookups"] += lookups
    found[f"{kind}words"] += lookups * dim
    found[f"{kind}updates"] += updates
    found[f"{kind}update_words"] += updates * dim


def _parts(table: object) -> int:
    return len(table.partitions.sizes) if isinstance(table, CompositionalTable) else 1


def _grows(recipe: Recipe, table: str) -> bool:
    return table.startswith("wide.") or isinstance(recipe.tables.of(table), CollisionlessTable)


def _growing_bytes(rows: Mapping[str, float], width: int) -> dict[str, float]:
    """Return the bytes of the tables of one store, whose hash map they share in proportion to their rows."""
    total = sum(rows.values())
    index = SLOT * slots_for(int(total)) / total if total else 0.0
    return {name: count * (WORD * width + index) for name, count in rows.items()}


def _crossed_rows(workload: Workload, pair: tuple[str, str]) -> float:
    """Return a lower bound of the rows of a cross: the distinct ids of the feature that has more."""
    return max((workload.features[name].ids for name in pair if name in workload.features), default=0.0)
