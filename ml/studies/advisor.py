"""The advisor's gain in training and tuning time of a DLRM, as in figure 5 of the article on the original advisor.

Four cases are compared at equal AUC: the reference DLRM, the advised DLRM, tuning the reference over the original's wide space,
and tuning the advised DLRM over the advised space. Further runs exchange only the trainer, the model or the search space. All
runs use one core of the same machine, one after another, and train on the same rows. Times are those of training loops.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from upath import UPath

from ml.advisor.advise import advise
from ml.advisor.advised_search import advised_search
from ml.advisor.hardware import Hardware, detect
from ml.advisor.profiles.profile import FeatureProfile
from ml.advisor.wishes import Wishes
from ml.catalog.spec import DatasetSpec
from ml.datasets.reader import BlockReader
from ml.datasets.splits import SPLITS
from ml.lake import Lake
from ml.recipes.assignments import with_assignments
from ml.recipes.models import DlrmRecipe
from ml.recipes.recipe import Recipe
from ml.recipes.search import Search
from ml.studies.advisor_report import Cases, figure, summary
from ml.studies.original_dlrm import NumberedDays, Settings, fastest_threads, reference_features, train_original
from ml.studies.timed_run import Recorder, TimedRun
from ml.studies.wide_space import Observed, best_settings, tune_original, wide_recipe, wide_search
from ml.training.first_state import first_state
from ml.training.passes import train_pass
from ml.training.report import Step
from ml.training.score import EVALUATION_BATCH, score
from ml.trials.connection import Service
from ml.trials.tune import Tuning, tune

MODEL = "dlrm"
_WARM_STEPS = 20


@dataclass(frozen=True)
class Study:
    """What the study trains on.

    Attributes:
        spec: A dataset with a DLRM.
        days: At least four days. The last is scored by models trained on the others, and trials of a tuning score the day
            before it.
        lake: Where the data is stored.
        folder: Folder of this machine for the tuning service and the trials.
        profile: Profile of the days before the last; None if there is none.
        observations: Number of trials of each tuning; 0 for no tuning.
        evaluations: Number of evaluations on the last day during each day's pass.
        seed: Seed of initial weights.
    """

    spec: DatasetSpec
    days: tuple[str, ...]
    lake: Lake
    folder: Path
    profile: FeatureProfile | None = None
    observations: int = 5
    evaluations: int = 8
    seed: int = 0


def run_study(study: Study, on_result: Callable[[str], None] = lambda text: None, hardware: Hardware | None = None) -> Cases:
    """Run all cases.

    Args:
        study: What to train on.
        on_result: Called with a line of text after each run and trial.
        hardware: What the advice is for; by default, this machine.

    Returns:
        The results.

    Raises:
        ValueError: There are fewer than four days.
        MissingPartition: A day's data is not in the lake.
    """
    spec, days = study.spec, study.days
    if len(days) < 4:
        raise ValueError(f"days: expected at least four, found {list(days)}")
    hardware = hardware or detect()
    advice = advise(spec, MODEL, study.profile, hardware)
    advised = _seeded(advice.recipe, study.seed)
    original = Settings(seed=study.seed)
    own = reference_features(spec)
    data = NumberedDays.read(spec, days, study.lake, own)
    threads = fastest_threads(data, days[0], original, max(1, int(hardware.cores)))

    def theirs(name: str, data: NumberedDays, settings: Settings) -> TimedRun:
        return _reported(train_original(name, data, days, settings, evaluations=study.evaluations, by_day=True), on_result)

    def ours(name: str, recipe: Recipe) -> TimedRun:
        return _reported(train_ours(name, spec, days, study.lake, recipe, evaluations=study.evaluations), on_result)

    runs = {
        "original": theirs("original DLRM", data, original),
        "advised": ours("advised DLRM", advised),
        "our_trainer": ours("our trainer, the original's model", with_original_model(spec, advised)),
    }
    seen = [feature.name for feature in spec.sparse if feature.name not in advised.exclude_features]
    with_model = NumberedDays.read(spec, days, study.lake, seen) if seen != own else data
    runs["advised_model"] = theirs("the original's trainer, advised model", with_model, with_advised_model(original, advised))
    tunings: dict[str, tuple[Observed, ...]] = {}
    if study.observations:
        found = advised_search(advice, Wishes(trials=study.observations, parallel=1))
        narrow = Search.model_validate(found.section | _window(study))
        wide = wide_search(wide_recipe(advised), **_window(study))
        service = Service(str(study.folder / "tuning.db"))

        def on_trial(trial: Observed) -> None:
            on_result(f"  trial: AUC {trial.auc or math.nan:.4f} in {trial.seconds:.2f} CPU-seconds: {trial.assignments}")

        tunings["wide"] = tune_original(service, data, days[:-1], original, study.observations, on_trial)
        tunings["advised"] = tune_ours(study, service, "advised space", advised, narrow, on_trial)
        tunings["our_trainer"] = tune_ours(study, service, "wide space", wide_recipe(advised), wide, on_trial)
        if best := best_settings(tunings["wide"], original):
            runs["tuned_original"] = theirs("original DLRM, best of the wide space", data, best)
        if chosen := _best(tunings["advised"]):
            tuned = with_assignments(advised, narrow.parameters, chosen.assignments)
            runs["tuned_advised"] = ours("advised DLRM, best of the advised space", tuned)
    return Cases(runs, tunings, threads)


def train_ours(
    name: str, spec: DatasetSpec, days: Sequence[str], lake: Lake, recipe: Recipe, *, evaluations: int = 1
) -> TimedRun:
    """Train with our trainer on all days except the last, once and in time order, and score the last.

    Args:
        name: Name of the run.
        spec: The dataset.
        days: At least two days, in order.
        lake: Where the data is stored.
        recipe: How the model is trained.
        evaluations: Number of evaluations on the last day during each day's pass.

    Returns:
        The run. Each day after the first is also scored with the model of the days before it.

    Raises:
        DivergedError: The loss is not finite.
    """

    def reader(day: str, batch_size: int) -> BlockReader:
        return BlockReader(lake, spec, [day], splits=SPLITS, batch_size=batch_size, order="time")

    warm = first_state(lake, spec, days[0], recipe)  # loads kernels
    warm.begin_pass()
    train_pass(warm, islice(reader(days[0], recipe.batch_size), _WARM_STEPS), total_steps=_WARM_STEPS)
    state, last = first_state(lake, spec, days[0], recipe), list(reader(days[-1], EVALUATION_BATCH))

    def evaluate(batches: Any) -> float:
        found = score(state, batches)["auc"]
        return math.nan if found is None else float(found)

    recorder = Recorder(name, lambda: evaluate(last), evaluations)
    for day in days[:-1]:
        if day != days[0]:
            recorder.by_day[day] = evaluate(reader(day, EVALUATION_BATCH))
        with recorder.watch.running():
            batches = reader(day, recipe.batch_size)

            def after(step: Step, steps: int = len(batches)) -> None:
                recorder.after_step(step.index, steps, step.rows)

            state.begin_pass()
            train_pass(state, batches, total_steps=len(batches), after_step=after)
    recorder.by_day[days[-1]] = evaluate(last)
    return recorder.run()


def tune_ours(
    study: Study,
    service: Service,
    name: str,
    recipe: Recipe,
    search: Search,
    on_trial: Callable[[Observed], None] = lambda trial: None,
) -> tuple[Observed, ...]:
    """Tune a recipe, with trials one after another. The recipe itself is the first trial.

    Args:
        study: What trials train on and score.
        service: The tuning service.
        name: Name of the experiment.
        recipe: The recipe.
        search: The search.
        on_trial: Called with each trial.

    Returns:
        The trials in order.
    """
    from distributed import Client, LocalCluster

    search = search.model_copy(update={"experiment": name})
    tuning = Tuning(study.spec, MODEL, study.days[-1], recipe, search, study.lake, service, study.folder / "trials")
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        tuned = tune(tuning, client)
    found = tuple(
        Observed(trial.values.get("auc"), trial.values.get("training_time", 0.0), dict(trial.assignments))
        for trial in tuned.trials
    )
    for trial in found:
        on_trial(trial)
    return found


def with_original_model(spec: DatasetSpec, recipe: Recipe) -> Recipe:
    """Return a recipe with the features, the dimension and the layers of the reference."""
    settings, kept = Settings(), set(reference_features(spec))
    data = recipe.model_dump(mode="json")
    data["exclude_features"] = [feature.name for feature in spec.sparse if feature.name not in kept]
    layers = {"embedding_dim": settings.dim, "bottom": list(settings.bottom), "top": list(settings.top)}
    data["model"] |= layers | {"linear_shortcut": False}
    return Recipe.model_validate(data)


def with_advised_model(settings: Settings, recipe: Recipe) -> Settings:
    """Return settings of the reference with the dimension and the layers of a recipe."""
    model = recipe.model
    assert isinstance(model, DlrmRecipe)
    return replace(
        settings,
        dim=model.embedding_dim,
        bottom=tuple(model.bottom),
        top=tuple(model.top),
        linear_shortcut=model.linear_shortcut,
    )


def write_study(folder: Path | UPath, cases: Cases) -> dict[str, Any]:
    """Write `cases.json`, `summary.json` and `auc.png`. Returns the summary."""
    found = summary(cases)
    (folder / "cases.json").write_text(json.dumps(cases.to_json(), indent=1))
    (folder / "summary.json").write_text(json.dumps(found, indent=1))
    (folder / "auc.png").write_bytes(figure(cases))
    return found


def _window(study: Study) -> dict[str, int]:
    days = {"window_days": len(study.days) - 1, "scored_days": 1, "judged_days": 0}
    return days | {"observation_budget": study.observations}


def _best(trials: Sequence[Observed]) -> Observed | None:
    return max((trial for trial in trials if trial.auc is not None), key=lambda trial: trial.auc or 0.0, default=None)


def _seeded(recipe: Recipe, seed: int) -> Recipe:
    return recipe.model_copy(update={"seed": seed})


def _reported(run: TimedRun, on_result: Callable[[str], None]) -> TimedRun:
    on_result(f"{run.name}: AUC {run.end.auc:.4f} (mean of days {run.mean_auc:.4f}) in {run.end.cpu_seconds:.2f} CPU-seconds")
    return run
