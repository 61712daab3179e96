"""Tunes a recipe: an experiment's trials as Dask tasks, `parallel_bandwidth` at a time, until its budget is used up."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.recipes.recipe import Recipe
from ml.recipes.search import Search, check_search
from ml.stages import MDS_DATASETS
from ml.trials.connection import Service
from ml.trials.experiment import Tried, experiment_of, metrics_of, tried, workers_with_open_suggestions
from ml.trials.trial import Trial
from ml.trials.window import NothingToTune, check_window, window_of
from ml.trials.worker import Worker
from ml.tuning.definition import Value
from ml.tuning.engine.front import front, knee

if TYPE_CHECKING:
    from distributed import Client

_log = logging.getLogger("evergreen")


@dataclass(frozen=True)
class Tuning:
    """What is tuned, for one day.

    Attributes:
        spec: The dataset.
        model: Name of the model.
        day: The day that the tuned recipe serves. Trials see only days before it.
        recipe: The recipe whose keys are tuned.
        search: The search.
        lake: The lake.
        service: The tuning service.
        folder: Folder of this machine for the trials.
    """

    spec: DatasetSpec
    model: str
    day: str
    recipe: Recipe
    search: Search
    lake: Lake
    service: Service
    folder: Path

    @cached_property
    def window(self) -> tuple[str, ...]:
        """The days that are used. Raises `NothingToTune` if there are too few, and `MissingPartition`."""
        return window_of(self.spec, self.day, self.search.window_days, self.lake)

    @cached_property
    def data(self) -> dict[str, str]:
        """Digests of the data of the window, by day, when the tuning started."""
        return {day: self.lake.digest(MDS_DATASETS, self.spec.name, day) for day in self.window}

    @property
    def judged(self) -> tuple[str, ...]:
        """The days of the window that no trial sees, on which the best one is judged."""
        return self.window[len(self.window) - self.search.judged_days :]

    @property
    def trial(self) -> Trial:
        """The trial of the recipe as it is, on the days before those that are judged."""
        days = self.window[: len(self.window) - self.search.judged_days]
        data = {day: self.data[day] for day in days}
        return Trial(self.spec, self.recipe, days, days[-self.search.days_scored :], self.lake, data)


@dataclass(frozen=True)
class Tuned:
    """Result of a tuning.

    Attributes:
        experiment: Id of the experiment.
        trials: The trials, in the order in which they ended.
        best: Index of the chosen trial: the best one, or the knee of the Pareto front of two metrics; None if no trial meets
            the thresholds.
        front: Indexes of the best trials: one, or the Pareto front of two metrics.
    """

    experiment: str
    trials: Sequence[Tried]
    best: int | None
    front: Sequence[int]


def tune(
    tuning: Tuning,
    client: Client,
    on_trial: Callable[[str, Tried], None] | None = None,
    further: Sequence[Mapping[str, Value]] = (),
) -> Tuned:
    """Run the trials of a tuning. A killed tuning continues its experiment, starting with its open suggestions.

    Args:
        tuning: What is tuned.
        client: A Dask client. Its workers must not be daemonic, because trials start processes.
        on_trial: Called with the id of the experiment and each trial that ends.
        further: Values by parameter that are tried after the recipe's own ones, such as those of earlier tunings.

    Returns:
        The trials and the best of them.

    Raises:
        NothingToTune: There are no parameters, or too few days before the day.
        MissingPartition: The data of a day of the window is not in the lake.
        StalePartition: The data of a day was materialised again during the tuning.
        ValueError: A parameter does not fit the recipe.
        sigopt.exception.ApiException: The service refuses the experiment.
    """
    if not tuning.search.parameters:
        raise NothingToTune(f"{tuning.spec.name}/{tuning.model}: sigopt.parameters names no parameter to tune")
    check_search(tuning.search, tuning.recipe)
    for warning in tuning.search.warnings():
        _log.warning("%s", warning)
    trial = tuning.trial
    check_window(trial.spec, trial.days, trial.scored, trial.lake)
    name, connection = f"{tuning.model} {tuning.day}", tuning.service.connect()
    experiment = experiment_of(connection, tuning.search, tuning.recipe, name, tuning.spec.name, trial.data, further)
    slots, done = tuning.search.parallel_bandwidth, len(tried(connection, experiment))
    _log.info(
        "tuning %s/%s on the days %s to %s: %d trials, %d at a time%s",
        *(tuning.spec.name, tuning.model, trial.days[0], trial.days[-1], tuning.search.observation_budget, slots),
        f"; {done} are done" if done else "",
    )
    workers = _workers(tuning, trial, connection, experiment)
    for number, ended in enumerate(_run(workers, slots, client), done + 1):
        _log.info("trial %d of %d: %s", number, tuning.search.observation_budget, describe(ended))
        if on_trial:
            on_trial(experiment, ended)
    trials = tried(connection, experiment)
    if len(trials) < tuning.search.observation_budget:
        _warn_of_missing_trials(tuning, connection, experiment, len(trials))
    observations, metrics = [each.observation for each in trials], metrics_of(tuning.search)
    return Tuned(experiment, trials, knee(metrics, observations), front(metrics, observations))


def _workers(tuning: Tuning, trial: Trial, connection: Any, experiment: str) -> list[Worker]:
    """Return a worker for each slot, after those of a killed run with more slots, whose open suggestions use budget."""
    prefix = f"{tuning.spec.name}-{tuning.model}-"
    names = [f"{prefix}{slot}" for slot in range(tuning.search.parallel_bandwidth)]
    opened = workers_with_open_suggestions(connection, experiment)
    resumed = [each for each in opened if each.startswith(prefix) and each not in names]
    return [Worker(each, tuning.service, experiment, tuning.search, trial, tuning.folder) for each in (*resumed, *names)]


def _warn_of_missing_trials(tuning: Tuning, connection: Any, experiment: str, trials: int) -> None:
    """Log how many trials of the budget there are, and why the others may be missing."""
    opened = connection.experiments(experiment).suggestions().fetch(state="open", limit=1).count
    hint = f"; open suggestions of other callers may use budget ({opened}): delete them, and tune again" if opened else ""
    _log.warning(
        "tuning %s/%s: experiment %s has %d of %d trials%s",
        *(tuning.spec.name, tuning.model, experiment, trials, tuning.search.observation_budget, hint),
    )


def _run(workers: Sequence[Worker], slots: int, client: Client) -> Iterator[Tried]:
    """Run workers in turn, `slots` of them at a time, until no budget is left for any, and yield the trials that end."""
    from distributed import as_completed

    waiting, running, futures = deque(workers), {}, as_completed()
    while waiting or running:
        while waiting and len(running) < slots:
            future = client.submit(waiting[0].run, pure=False)
            running[future] = waiting.popleft()
            futures.add(future)
        future = next(futures)
        worker, ended = running.pop(future), future.result()
        if ended is not None:
            waiting.append(worker)
            yield ended


def describe(trial: Tried) -> str:
    """Returns a line about a trial: its metrics, or why it has none."""
    if trial.stopped:
        return str(trial.metadata.get("log", "stopped early"))
    if trial.failed:
        return f"failed: {trial.metadata.get('log', 'no reason was recorded')}"
    return ", ".join(f"{name} {value:.5g}" for name, value in trial.values.items())
