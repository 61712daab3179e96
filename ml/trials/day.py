"""The tuning that serves a day: trials on the days before it, a candidate, and the verdict whether the candidate is used.

A candidate that keeps the structure of the model in use is compared with the recipe in use, both trained on the window. One
that changes the structure cannot continue from the daily model. It is compared with the daily models themselves, and its state
after the window is stored, so that the day starts from it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from upath import UPath

from ml.artifacts.snapshot import digest
from ml.lake import BusyPartition
from ml.recipes.edits import changes
from ml.recipes.recipe import Recipe
from ml.recipes.search import with_assignments
from ml.stages import MDS_DATASETS, tuning_results
from ml.training.replay import Replay, replay
from ml.training.state_dict import save_snapshot
from ml.trials.experiment import Tried, metrics_of
from ml.trials.tune import Tuned, Tuning, tune
from ml.trials.verdict import Predictions, Verdict, judge, predictions_in_use
from ml.trials.window import check_data

if TYPE_CHECKING:
    from distributed import Client

TRIALS = "trials.json"
_log = logging.getLogger("evergreen")


@dataclass(frozen=True)
class TunedDay:
    """The result of a tuning in the lake.

    Attributes:
        folder: The partition that was written.
        tuned: The trials.
        recipe: The best trial's recipe; the recipe in use if no trial met the thresholds.
        verdict: Comparison of that recipe with the one in use; None if they are equal, or nothing could be compared.
        adopted: Whether the recipe is used from the day on.
        restarts: Whether the day starts from the candidate's state, since its structure differs.
    """

    folder: UPath
    tuned: Tuned
    recipe: Recipe
    verdict: Verdict | None
    adopted: bool
    restarts: bool


def tune_day(tuning: Tuning, present: Recipe, client: Client, on_trial: Callable[[str, Tried], None] | None = None) -> TunedDay:
    """Tune a recipe for a day, and write the partition `tuning_results/<model>/<dataset>/<day>`.

    A tuning that was killed continues its experiment, and reports what its trials have finished.

    Args:
        tuning: What is tuned. Its recipe is the first trial.
        present: The recipe in use, which the best trial is compared with.
        client: A Dask client, as for `tune`.
        on_trial: As for `tune`.

    Returns:
        The result.

    Raises:
        NothingToTune: There are no parameters, or too few days before the day.
        MissingPartition: The data of a day of the window is not in the lake.
        StalePartition: The data of a day was materialised again during the tuning.
        BusyPartition: Another run is tuning the day.
    """
    spec, lake, stage = tuning.spec, tuning.lake, tuning_results(tuning.model)
    with _alone(tuning):
        tuned = tune(tuning, client, on_trial)
    best = None if tuned.best is None else tuned.trials[tuned.best]
    recipe = with_assignments(tuning.recipe, tuning.search.parameters, best.assignments) if best else present
    sparse = [feature.name for feature in spec.sparse]
    restructured = recipe.structure(sparse) != present.structure(sparse)
    verdict, candidate = (None, None) if recipe == present else _judged(tuning, recipe, present, restructured)
    adopted = verdict is not None and verdict.better
    done = TunedDay(lake.partition(stage, spec.name, tuning.day), tuned, recipe, verdict, adopted, adopted and restructured)
    _log.info("%s/%s of %s: %s", spec.name, stage, tuning.day, _summary(done))
    check_data(spec, tuning.data, lake)
    lineage = {f"{MDS_DATASETS}/{day}": found for day, found in tuning.data.items()}
    with lake.write(stage, spec.name, tuning.day) as folder:
        (folder / TRIALS).write_text(json.dumps([vars(trial) for trial in tuned.trials], indent=1, default=dict))
        if done.restarts and candidate is not None:
            save_snapshot(candidate.state, folder)
        lake.write_manifest(folder, _manifest(done, tuning, present, folder) | {"lineage": lineage})
    return done


@contextmanager
def _alone(tuning: Tuning) -> Iterator[None]:
    """Exclude other tunings of the day on this machine, whose workers would have the same names and folders."""
    tuning.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(tuning.folder / f"{tuning.day}.lock", timeout=0, thread_local=False):
            yield
    except Timeout as error:
        name = f"{tuning.spec.name}/{tuning.model}"
        raise BusyPartition(f"{name} of {tuning.day} is being tuned by another run; wait for it, then try again") from error


def _judged(tuning: Tuning, recipe: Recipe, present: Recipe, restructured: bool) -> tuple[Verdict, Replay]:
    """Train the candidate on the whole window, and compare it with what is in use on the scored days."""
    candidate = _replayed(tuning, recipe, train_last=True)
    metric = next((m.name for m in tuning.search.metrics if m.name in ("auc", "log_loss") and m.strategy == "optimize"), "auc")
    scored = tuning.trial.scored
    daily = predictions_in_use(tuning.lake, tuning.spec, tuning.model, scored) if restructured else None
    if daily is not None:
        return judge(_predictions(candidate), daily, metric, "the daily models"), candidate
    other = _predictions(_replayed(tuning, present, train_last=False))
    return judge(_predictions(candidate), other, metric, "the recipe in use, trained on the same days"), candidate


def _replayed(tuning: Tuning, recipe: Recipe, *, train_last: bool) -> Replay:
    trial = replace(tuning.trial, recipe=recipe)
    return replay(
        trial.spec,
        trial.days,
        tuning.lake,
        recipe,
        scored=trial.scored,
        train_last=train_last,
        keep_predictions=True,
    )


def _predictions(done: Replay) -> Predictions:
    return {day.day: day.predictions for day in done.days if day.predictions is not None}


def _summary(done: TunedDay) -> str:
    count = f"{len(done.tuned.trials)} trials"
    if done.verdict is None:
        return (
            f"{count}; the recipe in use remains the best"
            if done.tuned.best is not None
            else f"{count}; none met the thresholds"
        )
    gains = ", ".join(f"{name} {gain.value:+.5f}" for name, gain in done.verdict.gains.items())
    outcome = "adopted" if done.adopted else "not adopted, because it is not significantly better"
    return f"{count}; the best against {done.verdict.against}: {gains} (positive is better): {outcome}"


def _manifest(done: TunedDay, tuning: Tuning, present: Recipe, folder: UPath) -> dict[str, Any]:
    """Return the manifest. With a stored state, `digest` identifies it, as in every partition with a model."""
    best = None if done.tuned.best is None else done.tuned.trials[done.tuned.best]
    metrics = [vars(metric) for metric in metrics_of(tuning.search)]
    return {
        "fingerprint": tuning.spec.fingerprint,
        "experiment": done.tuned.experiment,
        "window": list(tuning.window),
        "scored": list(tuning.trial.scored),
        "metrics": metrics,
        "search": tuning.search.model_dump(mode="json"),
        "trials": len(done.tuned.trials),
        "failed": sum(trial.failed for trial in done.tuned.trials),
        "front": list(done.tuned.front),
        "best": best and {"assignments": dict(best.assignments), "values": dict(best.values)},
        "recipe": done.recipe.model_dump(mode="json"),
        "changed": changes(present.model_dump(mode="json"), done.recipe.model_dump(mode="json")),
        "verdict": done.verdict and done.verdict.to_json(),
        "adopted": done.adopted,
        "restarts": done.restarts,
        **({"digest": digest(folder)} if done.restarts else {}),
    }
