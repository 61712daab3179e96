"""The tuning for a day: trials on the days before it, a candidate, and the verdict on whether the candidate is used.

The score of the best of many trials is biased upwards, so the verdict comes from days at the end of the window that no trial
has seen. A candidate that keeps the structure of the model in use is compared with the recipe in use, both trained on the days
before. One that changes the structure cannot continue from the daily model. It is compared with the daily models themselves,
and its state after the window is stored, so that the day starts from it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from upath import UPath

from ml.artifacts.snapshot import digest
from ml.lake import BusyPartition
from ml.locks import exclusive
from ml.recipes.assignments import with_assignments
from ml.recipes.edits import changes
from ml.recipes.recipe import Recipe
from ml.stages import MDS_DATASETS, tuning_results
from ml.training.replay import Replay, replay
from ml.training.state_dict import save_snapshot
from ml.trials.earlier import TRIALS, EarlierTrial, earlier_trials
from ml.trials.experiment import Tried, metrics_of
from ml.trials.process import in_process
from ml.trials.trial import SCORES
from ml.trials.tune import Tuned, Tuning, tune
from ml.trials.verdict import Predictions, Saving, Verdict, judge, predictions_in_use
from ml.trials.window import check_data

if TYPE_CHECKING:
    from distributed import Client

IN_USE = "in_use"  # folder of a trial of the recipe in use, beside the folders of suggestions
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


def tune_day(
    tuning: Tuning,
    present: Recipe,
    client: Client,
    on_trial: Callable[[str, Tried], None] | None = None,
    advice: Mapping[str, Any] | None = None,
) -> TunedDay:
    """Tune a recipe for a day, and write the partition `tuning_results/<model>/<dataset>/<day>`.

    A tuning that was killed continues its experiment, and reports what its trials have finished. The best trials of earlier
    tunings are tried again, after the recipe itself.

    Args:
        tuning: What is tuned. Its recipe is the first trial.
        present: The recipe in use, which the best trial is compared with.
        client: A Dask client, as for `tune`.
        on_trial: As for `tune`.
        advice: The advice in the recipe that is tuned, as the manifest of `advisor_recipes` holds it. If the result is
            adopted, the days after it use this advice.

    Returns:
        The result.

    Raises:
        NothingToTune: There are no parameters, or too few days before the day.
        ValueError: `judged_days` is 0, so the best trial cannot be judged.
        MissingPartition: The data of a day of the window is not in the lake.
        StalePartition: The data of a day was materialised again during the tuning.
        BusyPartition: Another run is tuning the day.
    """
    spec, lake, stage = tuning.spec, tuning.lake, tuning_results(tuning.model)
    if not tuning.search.judged_days:
        raise ValueError("sigopt.judged_days: expected at least 1 day to judge the best trial on, found 0")
    with _alone(tuning):
        earlier = earlier_trials(tuning)
        tuned = tune(tuning, client, on_trial, [one.assignments for one in earlier])
        best = None if tuned.best is None else tuned.trials[tuned.best]
        recipe = with_assignments(tuning.recipe, tuning.search.parameters, best.assignments) if best else present
        sparse = [feature.name for feature in spec.sparse]
        restructured = recipe.structure(sparse) != present.structure(sparse)
        verdict = candidate = None
        if best is not None and recipe != present:
            verdict, candidate = _judged(tuning, recipe, present, restructured)
            if verdict.not_worse and not verdict.better:
                verdict = replace(verdict, savings=_savings(tuning, tuned, best, present))
    adopted = verdict is not None and verdict.adopted
    done = TunedDay(lake.partition(stage, spec.name, tuning.day), tuned, recipe, verdict, adopted, adopted and restructured)
    _log.info("%s/%s of %s: %s", spec.name, stage, tuning.day, _summary(done))
    check_data(spec, tuning.data, lake)
    lineage = {f"{MDS_DATASETS}/{day}": found for day, found in tuning.data.items()}
    again = _tried_again(tuning, tuned, earlier)
    with lake.write(stage, spec.name, tuning.day) as folder:
        (folder / TRIALS).write_text(json.dumps([vars(trial) for trial in tuned.trials], indent=1, default=dict))
        if done.restarts and candidate is not None:
            save_snapshot(candidate.state, folder)
        further = {"earlier": again, "in_use": _values_of(tuning, tuned, present), "advice": advice, "lineage": lineage}
        lake.write_manifest(folder, _manifest(done, tuning, folder) | further)
    return done


def _alone(tuning: Tuning) -> AbstractContextManager[None]:
    """Exclude other tunings of the day on this machine, whose workers would have the same names and folders."""
    name = f"{tuning.spec.name}/{tuning.model}"
    busy = BusyPartition(f"{name} of {tuning.day} is being tuned by another run; wait for it, then try again")
    return exclusive(tuning.folder / f"{tuning.day}.lock", busy)


def _tried_again(tuning: Tuning, tuned: Tuned, earlier: Sequence[EarlierTrial]) -> list[dict[str, Any]]:
    """Return the trials of earlier tunings that the tuning has tried, as plain data.

    A rerun continues the experiment, so it keeps those of the partition that it replaces: the lake can have other ones by now.
    """
    lake, stage, name = tuning.lake, tuning_results(tuning.model), tuning.spec.name
    stored = lake.manifest(stage, name, tuning.day) if lake.has(stage, name, tuning.day) else {}
    if stored.get("experiment") == tuned.experiment and "earlier" in stored:
        return stored["earlier"]
    tried = [trial.assignments for trial in tuned.trials]
    return [asdict(one) for one in earlier if one.assignments in tried]


def _judged(tuning: Tuning, recipe: Recipe, present: Recipe, restructured: bool) -> tuple[Verdict, Replay]:
    """Train the candidate on the whole window, and compare it with what is in use on the days that no trial has seen."""
    candidate = _replayed(tuning, recipe, train_last=True)
    metric = next((m.name for m in tuning.search.metrics if m.name in SCORES and m.strategy == "optimize"), SCORES[0])
    margin = tuning.search.quality_margin
    daily = predictions_in_use(tuning.lake, tuning.spec, tuning.model, tuning.judged) if restructured else None
    if daily is not None:
        return judge(_predictions(candidate), daily, metric, "the daily models", margin), candidate
    other = _predictions(_replayed(tuning, present, train_last=False))
    return judge(_predictions(candidate), other, metric, "the recipe in use, trained on the same days", margin), candidate


def _replayed(tuning: Tuning, recipe: Recipe, *, train_last: bool) -> Replay:
    return replay(
        tuning.spec,
        tuning.window,
        tuning.lake,
        recipe,
        scored=tuning.judged,
        train_last=train_last,
        keep_predictions=True,
    )


def _savings(tuning: Tuning, tuned: Tuned, best: Tried, present: Recipe) -> tuple[Saving, ...]:
    """Compare the optimized metrics other than quality with the metrics of a trial of the recipe in use.

    That trial is usually one of the tuning. Else it runs now, and its folder keeps its result for a rerun.
    """
    others = [
        metric.name
        for metric in tuning.search.metrics
        if metric.strategy == "optimize" and metric.objective == "minimize" and metric.name not in SCORES
    ]
    if not others:
        return ()
    measured = _values_of(tuning, tuned, present)
    if measured is None:
        folder = tuning.folder / tuned.experiment / IN_USE
        measured = in_process(replace(tuning.trial, recipe=present), folder).values()
    return tuple(Saving(name, best.values[name], measured[name]) for name in others)


def _values_of(tuning: Tuning, tuned: Tuned, recipe: Recipe) -> Mapping[str, float] | None:
    """Return the metrics of the trial of a recipe; None if no trial of it has metrics."""
    of = ((with_assignments(tuning.recipe, tuning.search.parameters, trial.assignments), trial) for trial in tuned.trials)
    return next((trial.values for tried, trial in of if tried == recipe and not trial.failed), None)


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
    outcome = f"{'adopted' if done.adopted else 'not adopted'}, because {done.verdict.reason}"
    return f"{count}; the best against {done.verdict.against}: {gains} (positive is better): {outcome}"


def _manifest(done: TunedDay, tuning: Tuning, folder: UPath) -> dict[str, Any]:
    """Return the manifest. With a stored state, `digest` identifies it, as in every partition with a model."""
    best = None if done.tuned.best is None else done.tuned.trials[done.tuned.best]
    metrics = [vars(metric) for metric in metrics_of(tuning.search)]
    started, ended = (recipe.model_dump(mode="json") for recipe in (tuning.recipe, done.recipe))
    return {
        "fingerprint": tuning.spec.fingerprint,
        "experiment": done.tuned.experiment,
        "window": list(tuning.window),
        "scored": list(tuning.trial.scored),
        "judged": list(tuning.judged),
        "metrics": metrics,
        "search": tuning.search.model_dump(mode="json"),
        "trials": len(done.tuned.trials),
        "failed": sum(trial.failed and not trial.stopped for trial in done.tuned.trials),
        "stopped": sum(trial.stopped for trial in done.tuned.trials),
        "front": list(done.tuned.front),
        "best": best and {"assignments": dict(best.assignments), "values": dict(best.values)},
        "recipe": ended,
        "changed": changes(started, ended) if best else {},  # edits and advice have layers of their own
        "verdict": done.verdict and done.verdict.to_json(),
        "adopted": done.adopted,
        "restarts": done.restarts,
        **({"digest": digest(folder)} if done.restarts else {}),
    }
