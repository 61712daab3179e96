"""Starts the service: the models, the events of the last hours, and the live items."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.days import day_bounds
from ml.lake import Lake
from ml.online.probe_set import probe_day, probe_of
from ml.recipes.stored import recipe_in_use
from ml.serving.choice import Choice, choose_models
from ml.serving.clock import Clock
from ml.serving.followed import FollowedModel
from ml.serving.journal import Journal
from ml.serving.models import ExportedModel, NewestModel, NoModel, ServedModel
from ml.serving.past import recommender_at
from ml.serving.pins import Pins
from ml.serving.processes.event_store import ACTIONS, RemoteEvents
from ml.serving.ranker import NAME, ServedRanker
from ml.serving.recommender import Recommender
from ml.serving.rows import rank_rows
from ml.serving.served_log import ServedLog
from ml.serving.variants import Variant, variants_of
from ml.stages import exported_models

REFRESH_SECONDS = 5.0
POLL_SECONDS = 1.0
_log = logging.getLogger("evergreen")


@dataclass
class Engine:
    """Everything that answers requests for one dataset.

    Attributes:
        spec: The dataset.
        clock: The time of requests.
        ranking: The model that ranks.
        retrieval: The two-tower model; None without one.
        recommender: The two stages; None for a dataset without an item.
        journal: Where events are stored: in this process, or by the process that has started it.
        ranker: The LambdaRank that orders candidates; None to rank them by `ranking`.
        served: Where served values of feature tables are logged; None for a dataset without feature tables.
        variants: What ranks for the users of an experiment, by name, the champion first; empty without an experiment.
    """

    spec: DatasetSpec
    clock: Clock
    ranking: ServedModel
    retrieval: ServedModel | None
    recommender: Recommender | None
    journal: Journal | RemoteEvents
    ranker: ServedRanker | None = None
    served: ServedLog | None = None
    variants: dict[str, Variant] = field(default_factory=dict)

    @property
    def models(self) -> list[ServedModel]:
        """The models that rank and the two-tower model, each once."""
        held = [self.ranking, self.retrieval, *(variant.model for variant in self.variants.values())]
        return list({id(model): model for model in held if model is not None}.values())

    @property
    def default(self) -> Variant:
        """What ranks without an experiment, and for unknown users."""
        return next(iter(self.variants.values()), Variant(None, self.ranking, self.ranker))

    def variant_of(self, user: Any) -> Variant:
        """Return what ranks for a user. Raises `WrongColumn` if the user has another type than the column of the log."""
        if not self.variants or self.recommender is None:
            return self.default
        assert self.spec.experiment is not None
        own = variants_of(self.spec.experiment, self.recommender.window.user_array(user))[0]
        return self.variants[own] if own else self.default

    @property
    def statuses(self) -> dict[str, str]:
        """By model, whether the newest version is served (`current`), it was `refused`, or the model is `pinned`."""
        found = {v.model: _status(v.pinned, v.refusal) for v in (model.version for model in self.models)}
        return found | ({NAME: _status(self.ranker.pinned, self.ranker.refusal)} if self.ranker else {})

    def store(self, log: str, events: Sequence[Mapping[str, Any]], now: int) -> int:
        """Store events durably, let them change the next requests, and return their number; see `Journal.append`.

        An action changes nothing before the joiner has made an example of it.
        """
        if isinstance(self.journal, RemoteEvents):
            return self.journal.append(log, events, now)
        rows = self.journal.append(log, events, now)
        if log != ACTIONS:
            self.observe(rows)
        return len(rows)

    def catch_up(self) -> None:
        """Observe all events that were acknowledged before the call, in whichever process."""
        if isinstance(self.journal, RemoteEvents):
            self.journal.deliver(self.observe)

    def observe(self, rows: pa.Table) -> None:
        """Let new events change the next requests."""
        if self.recommender is not None:
            self.recommender.window.append(rows)
            self.recommender.tables.append(rows)

    def refresh(self) -> None:
        """Make the live items of this moment."""
        self.catch_up()
        if self.recommender is not None:
            self.recommender.source.refresh(self.clock.now(), self.retrieval.bundle if self.retrieval else None)

    def poll(self) -> None:
        """Look for new versions of the models."""
        for model in self.models:
            model.poll()
        if self.ranker is not None:
            self.ranker.poll()

    def follow(self, stop: threading.Event) -> None:
        """Refresh items and models until an event is set. An error is logged, and does not end the service."""
        waited = 0.0
        while not stop.wait(POLL_SECONDS):
            waited += POLL_SECONDS
            try:
                self.poll()
                if isinstance(self.journal, Journal):
                    self.journal.rotate()
                if self.served is not None:
                    self.served.flush()
                if waited >= REFRESH_SECONDS:
                    waited = 0.0
                    self.refresh()
            except Exception:
                _log.exception("%s: the service continues with its last items and models", self.spec.name)


def _status(pinned: str | None, refusal: str | None) -> str:
    return "refused" if refusal else "pinned" if pinned else "current"


def load_models(
    spec: DatasetSpec,
    lake: Lake,
    synced: Mapping[str, FollowedModel] | None = None,
    model: str | None = None,
    pins: Pins | None = None,
) -> dict[str, ServedModel]:
    """Load the models of a service, by name; see `start` for the arguments. Raises `NoModel`."""
    names = choose_models(spec, model).names
    return {name: _served(spec, lake, name, (synced or {}).get(name), pins) for name in names}


def clock_of(spec: DatasetSpec, lake: Lake, model: str | None = None) -> Clock:
    """Return the clock of a service: the end of the log, or the time of the machine for a live log."""
    return Clock.after(day_bounds(_last_day(spec, lake, choose_models(spec, model)), spec.zone)[1])


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
        model: The model that ranks; by default the first that has no two towers, or else the first. Unless it is given, a
            LambdaRank orders the candidates of recommendations if the lake has one, and an experiment of the entry takes place.
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
    last = _last_day(spec, lake, choice)
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


def _last_day(spec: DatasetSpec, lake: Lake, choice: Choice) -> str:
    """The last day whose events the lake has for a service."""
    days = lake.days(exported_models(choice.model), spec.name)
    return days[-1] if days else spec.partitions.start.isoformat()


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
