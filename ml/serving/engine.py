"""What answers requests: the models, the events that change their answers, and the live items."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from ml.catalog.spec import DatasetSpec
from ml.serving.clock import Clock
from ml.serving.journal import ACTIONS, Journal
from ml.serving.models import ServedModel
from ml.serving.observing import observe_stored
from ml.serving.processes.event_store import RemoteEvents
from ml.serving.ranker import NAME, ServedRanker
from ml.serving.recommender import Recommender
from ml.serving.repeating import repeat, run_steps
from ml.serving.served_log import ServedLog
from ml.serving.variants import Variant, variants_of

REFRESH_SECONDS = 5.0
POLL_SECONDS = 1.0


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

    def store(self, given: Mapping[str, Sequence[Mapping[str, Any]]], now: int) -> dict[str, int]:
        """Store events by log durably, all or none, and let them change the next requests; see `Journal.append`.

        An action changes nothing before the joiner has made an example of it.

        Returns:
            The number of stored events of each log that has any.
        """
        if isinstance(self.journal, RemoteEvents):
            return self.journal.append(given, now)
        stored = self.journal.append(given, now)
        for log, rows in stored.items():
            if log != ACTIONS:
                observe_stored(self.observe, rows)
        return {log: len(rows) for log, rows in stored.items()}

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
            self._prepare()

    def poll(self) -> None:
        """Look for new versions of the models. An error of one is logged, and the others are still checked."""
        run_steps([*(model.poll for model in (*self.models, *([self.ranker] if self.ranker else []))), self._prepare])

    def _prepare(self) -> None:
        """Compute what requests share for new versions, before the next request needs it."""
        if (recommender := self.recommender) is not None:
            recommender.item_sides.prepare([model.bundle for model in self.models], recommender.source.live.items)

    def follow(self, stop: threading.Event, wait: Callable[[], object] | None = None) -> None:
        """Keep models, events and items up to date until an event is set.

        Each is kept up to date in its own thread, because loading a model may take long. An error is logged,
        and the other work goes on.

        Args:
            stop: Ends the call.
            wait: How the threads wait for requests; see `ml.give_way`.
        """
        journal = self.journal
        stored: list[Callable[[], object]] = [journal.rotate if isinstance(journal, Journal) else journal.poll]
        if self.served is not None:
            stored.append(self.served.flush)
        works = {
            "models": ([self.poll], stop, POLL_SECONDS),
            "events": (stored, stop, POLL_SECONDS),
            "items": ([self.refresh], stop, REFRESH_SECONDS),
        }
        threads = [threading.Thread(target=repeat, args=(*of, wait), name=name, daemon=True) for name, of in works.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _status(pinned: str | None, refusal: str | None) -> str:
    return "refused" if refusal else "pinned" if pinned else "current"
