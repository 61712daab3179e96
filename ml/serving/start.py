"""Starts the service: loads its models, the events of the last hours, and the live items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.days import day_bounds
from ml.lake import Lake
from ml.online.probe_set import probe_day, probe_of
from ml.recipes.stored import recipe_in_use
from ml.serving.champion import ChampionModel
from ml.serving.choice import choose_models, competing_models
from ml.serving.clock import Clock
from ml.serving.engine import Engine
from ml.serving.followed import FollowedModel
from ml.serving.journal import Journal
from ml.serving.models import ExportedModel, NewestModel, NoModel, ServedModel
from ml.serving.past import recommender_at
from ml.serving.pins import Pins
from ml.serving.processes.event_store import RemoteEvents
from ml.serving.ranker import NAME, ServedRanker
from ml.serving.rows import rank_rows
from ml.serving.served_log import ServedLog
from ml.serving.variants import Variant
from ml.stages import exported_models


def load_models(
    spec: DatasetSpec,
    lake: Lake,
    synced: Mapping[str, FollowedModel] | None = None,
    model: str | None = None,
    pins: Pins | None = None,
) -> dict[str, ServedModel]:
    """Load the models of a service; see `start` for the arguments. Raises `NoModel`.

    Returns:
        The models by name. If the champion ranks, `Choice.model` is a `ChampionModel`, whichever model is champion.
    """
    choice, followed = choose_models(spec, model), synced or {}

    def load(name: str) -> ServedModel:
        return _served(spec, lake, name, followed.get(name), pins)

    def leave(name: str) -> None:
        if name in followed:
            followed[name].leave()

    models = {name: load(name) for name in choice.names if name != choice.model}
    has_champion = model is None and choice.experiment is None and len(competing_models(spec)) > 1
    return {choice.model: ChampionModel(spec, lake, load, leave, pins) if has_champion else load(choice.model)} | models


def clock_of(spec: DatasetSpec, lake: Lake, model: str | None = None) -> Clock:
    """Return the clock of a service: the end of the log, or the time of the machine for a live log."""
    return Clock.after(day_bounds(_last_day(spec, lake, model), spec.zone)[1])


def start(
    spec: DatasetSpec,
    lake: Lake,
    stream: UPath,
    sides: Sequence[pa.Table] = (),
    synced: Mapping[str, FollowedModel] | None = None,
    model: str | None = None,
    pins: Pins | None = None,
    clock: Clock | None = None,
    models: Mapping[str, ServedModel] | None = None,
    journal: RemoteEvents | None = None,
) -> Engine:
    """Load models and events.

    Args:
        spec: The dataset.
        lake: Where exports and raw logs are stored.
        stream: The dataset's folder of arriving events, `<home>/stream/<dataset>`.
        sides: The joined columns of each side table, in the order of `spec.join`.
        synced: The models that online training may publish, by name.
        model: The model that ranks; by default the champion, see `ml.serving.champion`. Unless it is given, a LambdaRank orders
            the candidates of recommendations if the lake has one, and an experiment of the entry applies.
        pins: The pins of the dataset; by default, models cannot be pinned to earlier versions.
        clock: The time of requests; by default the end of the log, or the time of the machine for a live log.
        models: The models by name, if another process keeps them up to date; by default they are loaded.
        journal: Stores events in another process; by default, this process stores them.

    Raises:
        NoModel: There is no model to serve.
    """
    choice = choose_models(spec, model)
    models = load_models(spec, lake, synced, model, pins) if models is None else models
    ranking, retrieval = models[choice.model], models[choice.towers] if choice.towers else None
    last = _last_day(spec, lake, model)
    end = day_bounds(last, spec.zone)[1]
    clock, recommender, served = clock or Clock.after(end), None, None
    if spec.item:
        served = ServedLog(spec, Path(stream.path), end) if spec.feature_tables else None
        recommender = recommender_at(spec, lake, last, sides, served)
    ranker = ServedRanker(lake, spec, pins) if choice.has_ranker else None
    events = journal or Journal(spec, stream, choice.experiment)
    engine = Engine(spec, clock, ranking, retrieval, recommender, events, ranker, served)
    if choice.experiment is not None:
        engine.variants = {
            one: Variant(one, ranking, _trained(spec, ranker)) if one == NAME else Variant(one, models[one], None)
            for one in choice.experiment.shares
        }
    for rows in events.unread(end):
        engine.observe(rows)
    engine.refresh()
    _warm_up(engine)
    return engine


def _last_day(spec: DatasetSpec, lake: Lake, model: str | None) -> str:
    """The last day whose events the lake has for a service: the newest export of the models that may rank."""
    names = [model] if model else competing_models(spec)
    newest = [day for name in names for day in lake.days(exported_models(name), spec.name)[-1:]]
    return max(newest, default=spec.partitions.start.isoformat())


def _warm_up(engine: Engine) -> None:
    """Answer a request, so that kernels are compiled before a client waits for them."""
    now, ranking = engine.clock.now(), engine.ranking.bundle
    rank_rows(engine.spec, ranking, None, {}, [{}], now)
    if (recommender := engine.recommender) is not None:
        for user in recommender.window.users(1):
            recommender.recommend(ranking, user, {}, 1, now)
            if engine.ranker is not None:
                recommender.recommend(ranking, user, {}, 1, now, ranker=engine.ranker.ranker)
            for variant in engine.variants.values():
                recommender.recommend(variant.model.bundle, user, {}, 1, now)


def _trained(spec: DatasetSpec, ranker: ServedRanker | None) -> ServedRanker:
    """Return a LambdaRank that takes part in an experiment. Raises `NoModel` if none has been trained."""
    if ranker is None or ranker.current is None:
        raise NoModel(f"{spec.name} has no {NAME} for its experiment; run `make demo DATASET={spec.name}` first")
    return ranker


def _served(spec: DatasetSpec, lake: Lake, name: str, followed: FollowedModel | None, pins: Pins | None) -> ServedModel:
    """The newest export of a model, or what online training publishes after it, each judged against the one before."""
    newest = probe_day(lake, spec)
    probe = probe_of(lake, spec, recipe_in_use(lake, spec, name, newest)) if newest else None
    exported = ExportedModel(lake, spec, name, probe, pins)
    if followed is None:
        return exported
    return NewestModel(exported, followed.receiver(probe, spec.fingerprint), spec, name)
