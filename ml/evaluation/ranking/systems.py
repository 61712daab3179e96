"""Systems that rank live items for clicks: trained models and standing sources, and the ranks that they give."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml.catalog.spec import Ranking
from ml.days import MICROSECONDS_PER_MINUTE
from ml.evaluation.scores import ItemScorer, PairTable
from ml.retrieval.catalogue import LiveItems
from ml.retrieval.co_visitation import CoVisitation
from ml.retrieval.contexts import Contexts
from ml.retrieval.popularity import Popularity
from ml.retrieval.ranks import MISSED, ranks_of, ranks_without_seen, shares_below
from ml.retrieval.source import CandidateSource, Clicks

CO_VISITATION = "co_visitation"
BLOCK = 512
"""Requests that are scored at once, which bounds memory."""


@dataclass(frozen=True)
class ClickRanks:
    """Ranks that a system gave to the clicked items of R requests.

    Attributes:
        requests: int64 [R], numbers of the requests, ascending.
        ranks: int32 [R], number of live items before the clicked one, or `MISSED`.
        unseen: int32 [R], the same after the items of the request's session have been removed.
        above: float32 [R], probability that the clicked item is scored above another item that is drawn in proportion to the
            clicks of the first popularity window; NaN if the item is not live or no other item was clicked.
    """

    requests: NDArray[np.int64]
    ranks: NDArray[np.int32]
    unseen: NDArray[np.int32]
    above: NDArray[np.float32]

    @classmethod
    def join(cls, parts: Sequence[ClickRanks]) -> ClickRanks:
        """Concatenate ranks of consecutive requests."""
        none = np.zeros(0, np.int32)
        found = [cls(np.zeros(0, np.int64), none, none, np.zeros(0, np.float32)), *parts]
        return cls(*(np.concatenate(of) for of in zip(*((p.requests, p.ranks, p.unseen, p.above) for p in found), strict=True)))


@dataclass(frozen=True)
class Requests:
    """The B > 0 clicks of a slice.

    Attributes:
        start: Time of the statistics, microseconds since 1970 UTC.
        live: The live items at `start`; None or empty if there are none.
        rows: The B rows of the feature table.
        contexts: What the sessions clicked before.
        at: int64 [B], places of the clicked items among the live ones, or `NOT_LIVE`.
        numbers: int64 [B], numbers of the requests in the day.
        pairs: Computes features of pairs of requests and live items; None if no model needs any.
    """

    start: int
    live: LiveItems | None
    rows: pa.Table
    contexts: Contexts
    at: NDArray[np.int64]
    numbers: NDArray[np.int64]
    pairs: PairTable | None = None


class Listener(Protocol):
    """Takes the scores that systems give to a sample of the clicks.

    Attributes:
        sampled: bool by number of the request, the sample.
    """

    sampled: NDArray[np.bool_]

    def rank(self, asked: Requests, scores: Mapping[str, NDArray[np.float32]]) -> None:
        """Take the scores of a slice with live items, float32 [B, L] by system, of its B sampled clicks."""
        ...


def popularity_name(minutes: float) -> str:
    """Return the name of the popularity of a trailing window, such as `popularity_60m`."""
    return f"popularity_{minutes:g}m"


class Systems:
    """The models and sources of a ranking.

    Args:
        asked: `spec.ranked`.
        models: How each model scores all items, by name. A model with two names scores once.
        with_sources: False to rank by models only, if the ranks of the sources are known from another run.

    Attributes:
        listener: Takes the scores of each slice; None by default.
    """

    def __init__(self, asked: Ranking, models: Mapping[str, ItemScorer], with_sources: bool = True) -> None:
        windows = {popularity_name(minutes): round(minutes * MICROSECONDS_PER_MINUTE) for minutes in asked.popularity_minutes}
        popular = {name: Popularity(window) for name, window in windows.items()}
        self.models = models
        self.sources: dict[str, CandidateSource] = {}
        if with_sources:
            self.sources = {**popular, CO_VISITATION: CoVisitation(max(windows.values()))}
        self._popular = next(iter(popular.values()))  # weighs the items that `ClickRanks.above` draws
        self._learning: Sequence[CandidateSource] = list(self.sources.values()) or [self._popular]
        self.listener: Listener | None = None
        self._heard: dict[str, list[NDArray[np.float32]]] = {}  # what the listener takes after a slice

    def observe(self, clicks: Clicks) -> None:
        """Let the sources learn from clicks."""
        for source in self._learning:
            source.observe(clicks)

    def rank(self, asked: Requests, sampled: NDArray[np.bool_], by_models: bool = True) -> dict[str, ClickRanks]:
        """Rank the clicks of a slice.

        Args:
            asked: The clicks.
            sampled: bool by number of the request: those that models that score pairs rank.
            by_models: False to rank by sources only.

        Returns:
            Ranks by name of the source and of the model.
        """
        everything, chosen = np.arange(len(asked.at)), np.flatnonzero(sampled[asked.numbers])
        found = {}
        for source in self._learning:
            if asked.live is not None:
                source.refresh(asked.start, asked.live.ids)
        for name, source in self.sources.items():
            found[name] = self._rank(name, partial(_source_scores, source), asked, everything)
        done: dict[int, ClickRanks] = {}
        for name, scorer in self.models.items() if by_models else ():
            if id(scorer) not in done:
                if asked.live:
                    scorer.index(asked.live.features, asked.pairs)
                which = chosen if scorer.by_pair else everything
                done[id(scorer)] = self._rank(name, partial(_model_scores, scorer), asked, which)
            found[name] = done[id(scorer)]
        if self.listener is not None and self._heard:
            self.listener.rank(asked, {name: np.concatenate(parts) for name, parts in self._heard.items()})
            self._heard = {}
        return found

    def _rank(
        self,
        name: str,
        score: Callable[[pa.Table, Contexts], NDArray[np.float32]],
        asked: Requests,
        which: NDArray[np.int64],
    ) -> ClickRanks:
        return ClickRanks.join(list(self._blocks(name, score, asked, which)))

    def _blocks(
        self,
        name: str,
        score: Callable[[pa.Table, Contexts], NDArray[np.float32]],
        asked: Requests,
        which: NDArray[np.int64],
    ) -> Iterator[ClickRanks]:
        """Rank some clicks of a slice by one system, block by block."""
        if not asked.live:
            missed = np.full(len(which), MISSED, np.int32)
            yield ClickRanks(asked.numbers[which], missed, missed, np.full(len(which), np.nan, np.float32))
            return
        for first in range(0, len(which), BLOCK):
            block = which[first : first + BLOCK]
            contexts, at = asked.contexts.take(block), asked.at[block]
            scores = score(asked.rows.take(pa.array(block)), contexts)
            if not np.isfinite(scores).all():
                raise ValueError(f"{name} at {asked.start} µs: scores are not finite; the weights of a model have diverged")
            if self.listener is not None:
                self._heard.setdefault(name, []).append(scores[self.listener.sampled[asked.numbers[block]]])
            ranks = ranks_of(scores, at)
            yield ClickRanks(
                requests=asked.numbers[block],
                ranks=ranks,
                unseen=ranks_without_seen(scores, at, ranks, contexts, asked.live.ids),
                above=shares_below(scores, at, self._popular.counts),
            )


def _source_scores(source: CandidateSource, _: pa.Table, contexts: Contexts) -> NDArray[np.float32]:
    return source.scores(contexts)


def _model_scores(scorer: ItemScorer, rows: pa.Table, _: Contexts) -> NDArray[np.float32]:
    return scorer.scores(rows)
