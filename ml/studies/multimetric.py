"""Tuning with and without the training time as a second metric, and with thresholds, as in figures 6 and 7 of the article.

Three experiments of the tuning service search the advised space with the same budget. The first optimizes the AUC and only
records the training time. The second optimizes both. The third optimizes both, with a threshold for each. Trials run one after
another in this process, on one core; times are CPU-seconds of training loops. The recipe that each experiment chooses is then
trained once more, on another day, so that its AUC and its time are not those by which it was chosen.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from upath import UPath

from ml.advisor.advise import advise
from ml.advisor.advised_search import advised_search
from ml.advisor.hardware import Hardware, detect
from ml.advisor.profiles.profile import FeatureProfile
from ml.advisor.wishes import Wishes
from ml.catalog.spec import DatasetSpec
from ml.evaluation.plots import scatter
from ml.lake import Lake
from ml.recipes.assignments import with_assignments
from ml.recipes.recipe import Recipe
from ml.recipes.search import Search
from ml.studies.paired import Predictions, as_json, difference, predictions_by_day, ratio
from ml.studies.wide_space import Observed
from ml.training.loop import DivergedError
from ml.training.replay import replay
from ml.trials.connection import Service
from ml.trials.experiment import experiment_of
from ml.trials.trial import result_of

MODEL = "dlrm"
ONE, TWO, LIMITED = "one metric", "two metrics", "two metrics, thresholds"
ARMS = (ONE, TWO, LIMITED)
ARTICLE = 1.26  # speed-up of the tuned recipe at equal AUC, in the article
AUC_SLACK = 0.001  # threshold of the AUC, below the AUC of the advised recipe
TIME_SHARE = 0.8  # threshold of the training time, as a share of the advised recipe's


@dataclass(frozen=True)
class Study:
    """What the study trains on.

    Attributes:
        spec: A dataset with a DLRM.
        days: At least three days. Trials train on all except the last two, and score the last but one. Chosen recipes train on
            all except the last, and score the last.
        lake: Where the data is stored.
        folder: Folder of this machine for the tuning services.
        profile: Profile of the days before the last; None if there is none.
        observations: Number of trials of each experiment.
        seeds: Number of experiments of each kind. A seed fixes the first suggestions and initial weights of all three.
    """

    spec: DatasetSpec
    days: tuple[str, ...]
    lake: Lake
    folder: Path
    profile: FeatureProfile | None = None
    observations: int = 24
    seeds: int = 3


@dataclass(frozen=True)
class Thresholds:
    """The worst acceptable trial.

    Attributes:
        auc: Smallest AUC.
        seconds: Largest training time, in CPU-seconds.
    """

    auc: float
    seconds: float

    def met(self, trial: Observed) -> bool:
        """Whether a trial meets both."""
        return self.reached(trial) and trial.seconds <= self.seconds

    def reached(self, trial: Observed) -> bool:
        """Whether a trial meets the threshold of the AUC."""
        return trial.auc is not None and trial.auc >= self.auc


@dataclass(frozen=True)
class Experiment:
    """One experiment.

    Attributes:
        arm: One of `ARMS`.
        seed: Its seed.
        thresholds: The thresholds by which its trials are judged, whether or not the service knows them.
        trials: Its trials, in order.
        chosen: The trial that is chosen: without a second metric the best AUC, else the fastest one that reaches the threshold
            of the AUC; None if no trial does.
        again: AUC and CPU-seconds of the chosen recipe on the last day; None if nothing is chosen.
        predictions: Predictions of the chosen recipe for the last day.
    """

    arm: str
    seed: int
    thresholds: Thresholds
    trials: tuple[Observed, ...]
    chosen: Observed | None
    again: Observed | None
    predictions: Predictions = field(repr=False, compare=False)

    @property
    def share(self) -> float:
        """Share of the trials that meet both thresholds."""
        return sum(map(self.thresholds.met, self.trials)) / len(self.trials)

    @property
    def fastest(self) -> float | None:
        """CPU-seconds of the fastest trial that reaches the threshold of the AUC; None if none does."""
        return min((trial.seconds for trial in self.trials if self.thresholds.reached(trial)), default=None)


def run_study(
    study: Study, on_result: Callable[[str], None] = lambda text: None, hardware: Hardware | None = None
) -> list[Experiment]:
    """Run all experiments, seed by seed.

    Args:
        study: What to train on.
        on_result: Called with a line of text after each trial and each experiment.
        hardware: What the advice is for; by default, this machine.

    Returns:
        The experiments.

    Raises:
        ValueError: There are fewer than three days.
        MissingPartition: A day's data is not in the lake.
    """
    if len(study.days) < 3:
        raise ValueError(f"days: expected at least three, found {list(study.days)}")
    advice = advise(study.spec, MODEL, study.profile, hardware or detect())
    section = advised_search(advice, Wishes(trials=study.observations, parallel=1)).section
    recipe, tried = advice.recipe, study.days[:-1]
    _observe(study, recipe, tried)  # loads kernels
    found = []
    for seed in range(study.seeds):
        seeded = recipe.model_copy(update={"seed": seed})
        base, _ = _observe(study, seeded, tried)
        thresholds = Thresholds((base.auc or 0.0) - AUC_SLACK, base.seconds * TIME_SHARE)
        on_result(f"seed {seed}: advised recipe {_text(base)}; thresholds {thresholds.auc:.4f}, {thresholds.seconds:.2f} s")
        experiments = []
        for arm in ARMS:
            search = Search.model_validate(
                section | _metrics(arm, thresholds) | {"window_days": len(tried), "scored_days": 1, "judged_days": 0}
            )
            trials = _tune(study, arm, seeded, search, on_result)
            experiments.append((arm, search, trials, choose(arm, trials, thresholds)))
        for arm, search, trials, chosen in experiments:  # one after another, so that all are timed under the same load
            again, predictions = None, {}
            if chosen is not None:
                best = with_assignments(seeded, search.parameters, chosen.assignments)
                again, predictions = _observe(study, best, study.days)
            found.append(Experiment(arm, seed, thresholds, trials, chosen, again, predictions))
            on_result(f"{arm}, seed {seed}: {found[-1].share:.0%} meet both; chosen {_text(chosen)}, next day {_text(again)}")
    return found


def choose(arm: str, trials: Sequence[Observed], thresholds: Thresholds) -> Observed | None:
    """Choose a trial of an experiment, as `Experiment.chosen` says."""
    done = [trial for trial in trials if trial.auc is not None]
    if arm == ONE:
        return max(done, key=lambda trial: trial.auc or 0.0, default=None)
    return min(filter(thresholds.reached, done), key=lambda trial: trial.seconds, default=None)


def summarise(experiments: Sequence[Experiment]) -> dict[str, Any]:
    """Summarise the experiments by arm.

    Returns:
        By arm the mean `share` of trials that meet both thresholds, and means over the seeds for the chosen recipes; against
        the arm with one metric under the same seeds, with 95 % intervals over the seeds: `speed_up` of the chosen recipe, as a
        trial and `again` on the last day, `speed_up_of_fastest` at the threshold of the AUC, and `auc_gain` on the last day
        (over rows and seeds). None where a seed has no chosen recipe.
    """
    found: dict[str, Any] = {"article": ARTICLE, "arms": {}}
    one = [each for each in experiments if each.arm == ONE]
    for arm in ARMS:
        own = [each for each in experiments if each.arm == arm]
        chosen = all(each.again and other.again for each, other in zip(own, one, strict=True))
        pairs = [each.predictions for each in own], [each.predictions for each in one]
        found["arms"][arm] = {
            "share": statistics.fmean(each.share for each in own),
            "trial": _means([each.chosen for each in own]),
            "again": _means([each.again for each in own]),
            "speed_up": _speed_up([_seconds(each.chosen) for each in own], [_seconds(each.chosen) for each in one]),
            "speed_up_again": _speed_up([_seconds(each.again) for each in own], [_seconds(each.again) for each in one]),
            "speed_up_of_fastest": _speed_up([each.fastest for each in own], [each.fastest for each in one]),
            "auc_gain": as_json(difference(*pairs, "auc")) if chosen else None,
        }
    return found


def figure(experiments: Sequence[Experiment]) -> bytes:
    """Plot AUC against training time of all trials of the first seed as a PNG, with the thresholds as lines."""
    first = [each for each in experiments if each.seed == experiments[0].seed]
    groups = {each.arm: [(trial.seconds, trial.auc) for trial in each.trials if trial.auc is not None] for each in first}
    limits = (first[0].thresholds.seconds, first[0].thresholds.auc)
    return scatter("Trials with and without a second metric", "CPU-seconds of the training loop", "AUC", groups, limits)


def write_study(folder: Path | UPath, experiments: Sequence[Experiment]) -> dict[str, Any]:
    """Write `experiments.json`, `summary.json` and `trials.png`. Returns the summary."""
    found = summarise(experiments)
    plain = [
        {
            **{"arm": each.arm, "seed": each.seed, "thresholds": asdict(each.thresholds)},
            "trials": [asdict(trial) for trial in each.trials],
            "chosen": each.chosen and asdict(each.chosen),
            "again": each.again and asdict(each.again),
        }
        for each in experiments
    ]
    (folder / "experiments.json").write_text(json.dumps(plain, indent=1))
    (folder / "summary.json").write_text(json.dumps(found, indent=1))
    (folder / "trials.png").write_bytes(figure(experiments))
    return found


def _tune(study: Study, arm: str, recipe: Recipe, search: Search, on_result: Callable[[str], None]) -> tuple[Observed, ...]:
    """Run the trials of one experiment, the recipe itself first.

    The service derives an experiment's first suggestions from its id. Each arm has a service of its own, so that all arms have
    the same ids, and hence the same first suggestions, for a seed.
    """
    connection = Service(str(study.folder / f"{ARMS.index(arm)}.db")).connect("study")
    experiment = connection.experiments(
        experiment_of(connection, search, recipe, f"{arm}, seed {recipe.seed}", study.spec.name, study.days)
    )
    trials: list[Observed] = []
    while len(trials) < search.observation_budget:
        suggestion = experiment.suggestions().create()
        assignments = dict(suggestion.assignments)
        try:
            trial, _ = _observe(study, with_assignments(recipe, search.parameters, assignments), study.days[:-1], assignments)
        except (DivergedError, ValidationError):
            trial = Observed(None, 0.0, assignments)
        values = [{"name": "auc", "value": trial.auc}, {"name": "training_time", "value": trial.seconds}]
        body: dict[str, Any] = {"failed": True} if trial.auc is None else {"values": values}
        experiment.observations().create(suggestion=suggestion.id, **body)
        trials.append(trial)
        on_result(f"  {arm}: {_text(trial)}")
    return tuple(trials)


def _observe(
    study: Study, recipe: Recipe, days: Sequence[str], assignments: dict[str, Any] | None = None
) -> tuple[Observed, Predictions]:
    """Train on all days except the last, and score the last."""
    done = replay(study.spec, days, study.lake, recipe, scored=days[-1:], train_last=False, keep_predictions=True)
    result = result_of(done)
    return Observed(result.auc, result.training_time, assignments or {}), predictions_by_day(done)


def _metrics(arm: str, thresholds: Thresholds) -> dict[str, Any]:
    auc: dict[str, Any] = {"name": "auc", "objective": "maximize"}
    seconds: dict[str, Any] = {"name": "training_time", "objective": "minimize"}
    if arm == ONE:
        seconds["strategy"] = "store"
    if arm == LIMITED:
        auc["threshold"], seconds["threshold"] = thresholds.auc, thresholds.seconds
    return {"metrics": [auc, seconds]}


def _seconds(trial: Observed | None) -> float | None:
    return trial and trial.seconds


def _means(trials: Sequence[Observed | None]) -> dict[str, float] | None:
    known = [(trial.auc, trial.seconds) for trial in trials if trial is not None and trial.auc is not None]
    if len(known) < len(trials):
        return None
    return {"auc": statistics.fmean(auc for auc, _ in known), "seconds": statistics.fmean(seconds for _, seconds in known)}


def _speed_up(own: Sequence[float | None], one: Sequence[float | None]) -> dict[str, float | None] | None:
    """Return by how much `own` is faster than `one`: the geometric mean over the seeds, with its interval."""
    known = [(a, b) for a, b in zip(own, one, strict=True) if a and b]
    return ratio([b for _, b in known], [a for a, _ in known]) if known and len(known) == len(own) else None


def _text(trial: Observed | None) -> str:
    return "none" if trial is None else f"AUC {trial.auc or math.nan:.4f} in {trial.seconds:.2f} s"
