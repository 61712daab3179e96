"""The state that a day of online training starts from: the online state of the day before, or a daily model."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from typing import Any

from ml.artifacts.predictor import recipe_of_metadata
from ml.artifacts.snapshot import read_state
from ml.artifacts.stored import require_model
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake, MissingPartition
from ml.recipes.recipe import Recipe
from ml.recipes.stored import start_of
from ml.schema import FeatureSchema
from ml.stages import online_updates, tuned_models
from ml.training.state import TrainState, new_state
from ml.training.state_dict import load_snapshot

_log = logging.getLogger("evergreen")


@dataclass(frozen=True)
class Run:
    """A run: consecutive days of online training, each of which continues the state of the day before.

    Attributes:
        run_id: Identifies the run. It is a hash of all that the run depends on when it begins, so that the same run has the
            same one.
        first_day: First day of the run.
        version: Version of the serving model at the start of the day; versions count the synchronisations of a run.
    """

    run_id: str
    first_day: str
    version: int


@dataclass(frozen=True)
class Start:
    """What a day starts from.

    Attributes:
        run: The run that the day belongs to.
        place: Stage and day of the state; None to start from an untrained model.
    """

    run: Run
    place: tuple[str, str] | None


def start_online(lake: Lake, spec: DatasetSpec, model: str, day: str, recipe: Recipe, before: str | None = None) -> Start:
    """Find what a day of online training starts from.

    With `base: online`, a day continues the run of the day before. A day begins a run if there is no such run, if the
    structure of the recipe has changed, or with `base: daily`. A run begins with the state that the daily model of the day
    starts from, and on the first day of the dataset with an untrained model.

    Args:
        lake: Where states are stored.
        spec: The dataset.
        model: Name of the model.
        day: `YYYY-MM-DD`.
        recipe: How the day is trained.
        before: The day whose states are continued; by default the day before.

    Raises:
        MissingPartition: There is no run to continue, and the daily model of the day before is missing.
    """
    stage, parent = online_updates(model), before or spec.previous_day(day)
    if parent and recipe.online.base == "online" and lake.has(stage, spec.name, parent):
        state = read_state(lake.partition(stage, spec.name, parent))
        if _can_continue(state["metadata"], recipe, spec):
            run = lake.manifest(stage, spec.name, parent)["run"]
            return Start(Run(run["run_id"], run["first_day"], run["version"]), (stage, parent))
        _log.info("%s/%s of %s begins a run: the model has another structure than on %s", spec.name, stage, day, parent)
    place = (tuned_models(model), before) if before else start_of(lake, spec, model, day)
    identity = {
        "dataset": spec.name,
        "model": model,
        "first_day": day,
        "parent": lake.digest(place[0], spec.name, place[1]) if place else None,
        "schema": FeatureSchema.of(spec).fingerprint,
        "recipe": recipe.fingerprint,
        "online": recipe.online.fingerprint,
    }
    run_id = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return Start(Run(run_id, day, 0), place)


def start_of_stream(lake: Lake, spec: DatasetSpec, model: str, day: str, recipe: Recipe) -> Start:
    """Find what a day of arriving rows starts from, as `start_online` does, or from older states if the day before has none.

    A stream can have no rows on a day, and the daily model of a day is not there at midnight. Training then continues the
    newest online day, or with `base: daily` the newest daily model.

    Raises:
        MissingPartition: There is no state from before the day.
    """
    try:
        return start_online(lake, spec, model, day, recipe)
    except MissingPartition:
        stage = online_updates(model) if recipe.online.base == "online" else tuned_models(model)
        older = [other for other in lake.days(stage, spec.name) if other < day]
        if not older:
            raise
        _log.warning("%s/%s of %s continues %s of %s, the newest state", spec.name, model, day, stage, older[-1])
        return start_online(lake, spec, model, day, recipe, older[-1])


def begin_state(lake: Lake, spec: DatasetSpec, start: Start, recipe: Recipe) -> TrainState:
    """Load the state that a day starts from, or build an untrained one, and begin a pass.

    Args:
        lake: Where states are stored.
        spec: The dataset.
        start: What the day starts from.
        recipe: How the day is trained.

    Raises:
        MissingPartition: The state is missing.
        SnapshotMismatch: The state was trained with another schema.
    """
    schema = FeatureSchema.of(spec)
    if start.place is None:
        state = new_state(recipe, schema)
    else:
        stage, before = start.place
        state = load_snapshot(require_model(lake, stage, spec.name, before), recipe=recipe, schema=schema)
    state.begin_pass()
    return state


def stale_day(spec: DatasetSpec, run: Run, day: str) -> str | None:
    """Return the day of the daily model that a run would still serve without online training.

    That is the daily model before the run. A run from the first day of the dataset has none, so its later days are compared
    with the daily model of that first day.
    """
    before = spec.previous_day(run.first_day)
    return before or (run.first_day if run.first_day != day else None)


def _can_continue(metadata: dict[str, Any], recipe: Recipe, spec: DatasetSpec) -> bool:
    """Whether a stored state can be continued: its schema and the structure of its recipe are those of the day."""
    schema = FeatureSchema.of(spec)
    same_schema = FeatureSchema.from_plain(metadata["schema"]) == schema
    return same_schema and recipe_of_metadata(metadata).structure(schema.sparse) == recipe.structure(schema.sparse)
