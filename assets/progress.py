"""Finds out which days are done, from the lake's partitions and their manifests, and when a failed day may succeed."""

import hashlib
import json

from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.stages import EVALUATION_REPORTS, online_updates, stages_of


def stages_done(lake: Lake, spec: DatasetSpec, day: str, logs: str | None = None) -> bool:
    """Return whether every stage of the day is in the lake, written from the current catalog entry and the current inputs.

    Args:
        lake: Where the stages are.
        spec: The dataset.
        day: The partition key.
        logs: The landing folder; if given, the day must also have been joined with the side tables as they are there now.
    """
    done = all(
        lake.is_current(stage, spec.name, day, spec.fingerprint_of(stage)) and not lake.is_outdated(stage, spec.name, day)
        for stage in stages_of(spec)
    ) and reports_online_training(lake, spec, day)
    if not done or logs is None:
        return done
    from ml.features.side_files import joined_with_current_files

    return joined_with_current_files(spec, day, lake, logs)


def reports_online_training(lake: Lake, spec: DatasetSpec, day: str) -> bool:
    """Return whether the report of a day shows all of the day's online training, which can be made later than the report."""
    shown = lake.manifest(EVALUATION_REPORTS, spec.name, day).get("lineage", {})
    online = (online_updates(model) for model in spec.models)
    return all(f"{stage}/{day}" in shown for stage in online if lake.has(stage, spec.name, day))


def is_done(lake: Lake, spec: DatasetSpec, day: str, logs: str) -> bool:
    """Return whether every stage of the day is done, and was written from the current log files."""
    from ml.joiner.landing import is_landed_as_read

    return stages_done(lake, spec, day, logs) and is_landed_as_read(spec, day, logs, lake)


def continues(lake: Lake, spec: DatasetSpec, day: str) -> bool:
    """Return whether a stage of the day was made from a day before it."""
    made = (stage for stage in stages_of(spec) if lake.has(stage, spec.name, day))
    inputs = (place for stage in made for place in lake.manifest(stage, spec.name, day).get("lineage", {}))
    return any(place.rsplit("/", 1)[1] < day for place in inputs)


def run_fingerprint(spec: DatasetSpec, logs: str) -> str:
    """Hash of everything but the day's own files that decides whether a run of a day succeeds.

    That is more than what shapes data (`DatasetSpec.fingerprint`): expectations block, recipes train, slices and models are
    evaluated, and side tables are joined.

    Args:
        spec: The dataset.
        logs: The landing folder, which holds the side tables.
    """
    from ml.logs.sources import stamps_of
    from ml.recipes.edits import read_edits
    from ml.recipes.recipe import recipe_of

    recipes = {name: recipe_of(spec, name).model_dump(mode="json") for name in spec.models}
    edits = [read_edits(choice.edits) for choice in spec.models.values()]
    edited = [(each.sigopt, each.wishes) if each else None for each in edits]
    sides = [stamps_of(side.source, logs) for side in spec.join]
    entry = spec.model_dump(mode="json", exclude={"description", "demo_days", "retune"})
    return hashlib.sha256(json.dumps([entry, recipes, edited, sides], sort_keys=True, default=str).encode()).hexdigest()[:16]
