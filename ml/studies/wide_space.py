"""The wide search space of the original advisor for DLRM, and a tuning of the reference DLRM over it.

The space is that of e2eAIOK's `DLRMAdvisor`: two learning rates, the schedule, the dimension, and both MLPs by index.
Its rates and steps are absolute, for steps of 262,144 of Criteo's 4.2 billion rows. Here a rate is relative to the space's
default of 16, at which the reference's rate is used, and steps are shares of the 16,003 steps of one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ml.recipes.recipe import Recipe
from ml.recipes.search import Search
from ml.studies.original_dlrm import Diverged, NumberedDays, Settings, train_original
from ml.studies.timed_run import TimedRun
from ml.trials.connection import Service

DEFAULT_RATE, STEPS = 16, 16_003
TOPS = (
    *((1024, 1024, 512, 256), (512, 512, 256, 128), (512, 256, 128), (512, 256)),
    *((256, 128), (128, 64), (256,), (128,)),
)
BOTTOMS = ((512, 256), (512, 256), (256,), (128,))  # the original lists its first one twice
DIMS = (16, 64, 128)
SPACE: tuple[dict[str, Any], ...] = (
    {"name": "learning_rate", "type": "int", "bounds": {"min": 5, "max": 50}},
    {"name": "lamb_lr", "type": "int", "bounds": {"min": 5, "max": 50}},
    {"name": "lr_num_warmup_steps", "type": "int", "bounds": {"min": 2000, "max": 4500}},
    {"name": "lr_decay_start_step", "type": "int", "bounds": {"min": 4501, "max": 9000}},
    {"name": "lr_num_decay_steps", "type": "int", "bounds": {"min": 5000, "max": 15000}},
    {"name": "arch_sparse_feature_size", "type": "int", "grid": list(DIMS)},
    {"name": "mlp_top_size", "type": "int", "bounds": {"min": 0, "max": len(TOPS) - 1}},
    {"name": "mlp_bot_size", "type": "int", "bounds": {"min": 0, "max": len(BOTTOMS) - 1}},
)
DEFAULTS = {  # without tuning, the original decays over 17,000 steps, which is outside its own bounds
    **{"learning_rate": 16, "lamb_lr": 16, "lr_num_warmup_steps": 4000, "lr_decay_start_step": 5760},
    **{"lr_num_decay_steps": 15000, "arch_sparse_feature_size": 128, "mlp_top_size": 4, "mlp_bot_size": 3},
}
METRICS: tuple[dict[str, Any], ...] = (
    {"name": "auc", "objective": "maximize"},
    {"name": "training_time", "objective": "minimize", "strategy": "store"},
)


@dataclass(frozen=True)
class Observed:
    """A trial.

    Attributes:
        auc: AUC of the scored day; None if the trial failed.
        seconds: CPU-seconds of its training loop; 0 if it failed.
        assignments: Values by parameter.
    """

    auc: float | None
    seconds: float
    assignments: dict[str, Any]


def settings_of(assignments: dict[str, Any], settings: Settings) -> Settings:
    """Return settings with the values of a suggestion from the wide space."""
    return replace(
        settings,
        dim=assignments["arch_sparse_feature_size"],
        bottom=BOTTOMS[assignments["mlp_bot_size"]],
        top=TOPS[assignments["mlp_top_size"]],
        table_lr=settings.table_lr * assignments["learning_rate"] / DEFAULT_RATE,
        dense_lr=settings.dense_lr * assignments["lamb_lr"] / DEFAULT_RATE,
        warm_up=assignments["lr_num_warmup_steps"] / STEPS,
        decay_start=assignments["lr_decay_start_step"] / STEPS,
        decay=assignments["lr_num_decay_steps"] / STEPS,
    )


def tune_original(
    service: Service,
    data: NumberedDays,
    days: Sequence[str],
    settings: Settings,
    observations: int,
    on_trial: Callable[[Observed], None] = lambda trial: None,
) -> tuple[Observed, ...]:
    """Tune the reference DLRM over the wide space through the sigopt client. The original's defaults are the first trial.

    Args:
        service: The tuning service.
        data: The days.
        days: A trial trains on all of them except the last, and scores the last.
        settings: Settings that the space does not contain.
        observations: Number of trials.
        on_trial: Called with each trial.

    Returns:
        The trials in order.
    """
    connection = service.connect()
    created = connection.experiments().create(
        name="original DLRM, wide space",
        parameters=[dict(parameter) for parameter in SPACE],
        metrics=[dict(metric) for metric in METRICS],
        observation_budget=observations,
    )
    experiment = connection.experiments(created.id)
    experiment.queued_suggestions().create(assignments=DEFAULTS)
    trials: list[Observed] = []
    while len(trials) < observations:
        suggestion = experiment.suggestions().create()
        assignments = dict(suggestion.assignments)
        try:
            done: TimedRun | None = train_original("trial", data, days, settings_of(assignments, settings))
        except Diverged:
            done = None
        if done is None:
            experiment.observations().create(suggestion=suggestion.id, failed=True)
        else:
            values = {"auc": done.end.auc, "training_time": done.end.cpu_seconds}
            experiment.observations().create(
                suggestion=suggestion.id, values=[{"name": name, "value": value} for name, value in values.items()]
            )
        trials.append(Observed(done and done.end.auc, done.end.cpu_seconds if done else 0.0, assignments))
        on_trial(trials[-1])
    return tuple(trials)


def best_settings(trials: Sequence[Observed], settings: Settings) -> Settings | None:
    """Return the settings of the trial with the best AUC; None if all failed."""
    done = [trial for trial in trials if trial.auc is not None]
    return settings_of(max(done, key=lambda trial: trial.auc or 0.0).assignments, settings) if done else None


def wide_recipe(recipe: Recipe) -> Recipe:
    """Return a recipe with the defaults of the wide space."""
    data = recipe.model_dump(mode="json")
    start = DEFAULTS["lr_decay_start_step"] / STEPS
    data["model"] |= {"embedding_dim": 128, "bottom": list(BOTTOMS[3]), "top": list(TOPS[4])}
    data["schedule"] |= {"warm_up": DEFAULTS["lr_num_warmup_steps"] / STEPS, "decay_start": start}
    return Recipe.model_validate(data)


def wide_search(recipe: Recipe, **settings: Any) -> Search:
    """Return the wide space over the keys of a recipe, as far as recipes have them. A recipe has no length of the decay.

    Args:
        recipe: The recipe of `wide_recipe`.
        settings: Other keys of `Search`, such as `observation_budget`.
    """

    def rate(name: str, key: str, value: float) -> dict[str, Any]:
        bounds = {"min": value * 5 / DEFAULT_RATE, "max": value * 50 / DEFAULT_RATE}
        return {"name": name, "key": key, "type": "double", "bounds": bounds}

    def share(name: str, key: str, least: int, most: int) -> dict[str, Any]:
        return {"name": name, "key": key, "type": "double", "bounds": {"min": least / STEPS, "max": most / STEPS}}

    def layers(name: str, key: str, shapes: Sequence[Sequence[int]]) -> dict[str, Any]:
        values = list(dict.fromkeys("-".join(map(str, shape)) for shape in shapes))
        return {"name": name, "key": key, "type": "categorical", "categorical_values": values}

    parameters = [
        rate("learning_rate", "table_optimizer.lr", recipe.table_optimizer.lr),
        rate("lamb_lr", "dense_optimizer.lr", recipe.dense_optimizer.lr),
        share("lr_num_warmup_steps", "schedule.warm_up", 2000, 4500),
        share("lr_decay_start_step", "schedule.decay_start", 4501, 9000),
        {"name": "arch_sparse_feature_size", "key": "model.embedding_dim", "type": "int", "grid": DIMS},
        layers("mlp_top_size", "model.top", TOPS),
        layers("mlp_bot_size", "model.bottom", BOTTOMS),
    ]
    return Search.model_validate({"parameters": parameters, "metrics": METRICS, **settings})
