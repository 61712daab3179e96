"""Recall of recommendations as the service makes them: `Recommender.recommend` answers the clicks of a past day.

At the start of each slice of `ranking.slice_minutes` the live items and all statistics are refreshed; a user's own events count
at once, as in the service. The models are those of the day before. A click counts as found at its place in the recommendation.
A two-tower model is also measured alone: its answer is the list of the candidate source `two_tower`, in the order of the index.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from upath import UPath

from ml.artifacts.bundle import Bundle
from ml.artifacts.stored import require_model
from ml.catalog.spec import DatasetSpec, Ranking
from ml.days import MICROSECONDS_PER_MINUTE, day_bounds
from ml.evaluation.ranking.metrics import CUTS, RECIPROCAL_CUT
from ml.hashing import mix64_array
from ml.lake import Lake
from ml.models.lambdarank import LambdaRank
from ml.recipes.recipe import two_tower_models
from ml.retrieval.candidate_index import load_ranker
from ml.retrieval.interactions import context_columns, positive, read_rows
from ml.retrieval.items import item_column
from ml.schema import EVENT_TIME
from ml.serving.catalogue import LiveCatalogue
from ml.serving.choice import ranking_model
from ml.serving.events import EventWindow
from ml.serving.ranker import NAME as LAMBDARANK
from ml.serving.recommender import CONTEXT, PER_SOURCE, Recommender
from ml.stages import CANDIDATE_INDEX, exported_models

ALL = 5000
"""More items than a request has candidates."""


@dataclass(frozen=True)
class ServedRecall:
    """How a day's clicks were found.

    Attributes:
        requests: Number of clicks.
        recall: By cut, share of the clicks among the first items.
        mrr: Mean reciprocal rank among the first 20.
        not_live: Share of the clicks on items that were not live.
        not_found: Share of the clicks on live items that were not among the candidates.
        candidates: Mean number of candidates.
        milliseconds: Median time of a request.
    """

    requests: int
    recall: dict[int, float]
    mrr: float
    not_live: float
    not_found: float
    candidates: float
    milliseconds: float


def served_recall(
    spec: DatasetSpec,
    day: str,
    lake: Lake,
    ranking: Bundle | None,
    retrieval: Bundle | None = None,
    ranker: LambdaRank | None = None,
    requests: int = 4000,
    sides: Sequence[pa.Table] = (),
) -> ServedRecall:
    """Answer a sample of a day's clicks, without the items that the user has just seen.

    Args:
        spec: A dataset with an item and a user.
        day: `YYYY-MM-DD`.
        lake: Where raw logs are stored.
        ranking: The model that ranks, unless there is a ranker; None for the candidates of the two-tower model alone.
        retrieval: A two-tower model, or None.
        ranker: The LambdaRank that ranks, or None.
        requests: Approximate number of clicks.
        sides: The joined columns of each side table, in the order of `spec.join`.

    Raises:
        MissingPartition: The day has not been ingested.
        ValueError: The day has no clicks, or there is no model.
    """
    if ranking is None and retrieval is None:
        raise ValueError(f"{spec.name} {day}: there is neither a model that ranks nor a two-tower model")
    begin, end = day_bounds(day, spec.zone)
    window = EventWindow(spec)
    rows = read_rows(spec, day, lake, window.reach(begin))
    times = rows[EVENT_TIME].to_numpy()
    recommender = Recommender(spec, window, LiveCatalogue(spec, window, sides), sides)
    chosen = _sample(positive(spec, rows) & (times >= begin), requests)
    columns = list(dict.fromkeys([spec.user or "", item_column(spec), *context_columns(spec)]))
    window.load(rows.slice(0, int(np.searchsorted(times, begin))))
    width = round((spec.ranked or Ranking()).slice_minutes * MICROSECONDS_PER_MINUTE)
    ranks, not_live, sizes, seconds = [], 0, [], []
    for start in range(begin, end, width):
        first, stop = (int(at) for at in np.searchsorted(times, (start, start + width)))
        if first == stop:
            continue
        live = recommender.source.refresh(start, retrieval)
        window.append(rows.slice(first, stop - first))
        held = set(live.items[item_column(spec)].to_pylist())
        for at in (first + np.flatnonzero(chosen[first:stop])).tolist():
            row = rows.select(columns).slice(at, 1).to_pylist()[0]
            user, item = row.pop(spec.user or ""), row.pop(item_column(spec))
            began = time.perf_counter()
            items = _answer(recommender, ranking, retrieval, ranker, user, row, int(times[at]))
            seconds.append(time.perf_counter() - began)
            ranks.append(next((n for n, found in enumerate(items) if found == item), ALL))
            not_live += item not in held
            sizes.append(len(items))
    if not ranks:
        raise ValueError(f"{spec.name} {day}: there are no clicks to answer")
    return _summed(np.array(ranks), not_live, np.array(sizes), np.array(seconds))


def _answer(
    recommender: Recommender,
    ranking: Bundle | None,
    retrieval: Bundle | None,
    ranker: LambdaRank | None,
    user: Any,
    context: Mapping[str, Any],
    now: int,
) -> list[Any]:
    """Return items for a user, best first."""
    if ranking is not None:
        return [of.item for of in recommender.recommend(ranking, user, context, ALL, now, ranker=ranker).items]
    assert retrieval is not None
    source, seen = recommender.source, [event.id for event in recommender.window.last_of(user, now, CONTEXT)]
    row, allowed = recommender.row_of(retrieval, user, context, now), source.allowed(source.live, {}, seen)
    at = source.live.nearest(row, PER_SOURCE["two_tower"], allowed)
    return source.live.items[item_column(recommender.spec)].take(pa.array(at)).to_pylist()


def last_day(spec: DatasetSpec, lake: Lake) -> str | None:
    """Return the last day of the log whose day before has a candidate index; None if there is none."""
    days = lake.days(spec.examples_log.stage, spec.name)
    return next((d for d in reversed(days) if lake.has(CANDIDATE_INDEX, spec.name, spec.previous_day(d) or "")), None)


def run_study(
    spec: DatasetSpec,
    day: str,
    lake: Lake,
    requests: int = 4000,
    sides: Sequence[pa.Table] = (),
    on_result: Callable[[str], None] | None = None,
) -> dict[str, ServedRecall]:
    """Answer the same clicks by each ranker of the day before.

    Args:
        spec: A dataset with an item and a user.
        day: `YYYY-MM-DD`, whose day before has exports and a candidate index.
        lake: Where raw logs, exports and the candidate index are stored.
        requests: Approximate number of clicks.
        sides: The joined columns of each side table, in the order of `spec.join`.
        on_result: Called with a line of text after each ranker.

    Returns:
        The recall of the LambdaRank, if the candidate index has one, of the first model that is not a two-tower model, and of
        each two-tower model alone, as `<model>_alone`. Candidates of the first two-tower model are ranked.

    Raises:
        MissingPartition: The log of the day, or an export or the candidate index of the day before, is not in the lake.
        ValueError: The day has no clicks, or is the first of the dataset.
    """
    before = spec.previous_day(day)
    if before is None:
        raise ValueError(f"{spec.name}: {day} is the first day, before which there are no models")

    def bundle(model: str) -> Bundle:
        return Bundle.load(require_model(lake, exported_models(model), spec.name, before, spec.fingerprint))

    towers = {name: bundle(name) for name in two_tower_models(spec)}
    name, first, ranker = ranking_model(spec), next(iter(towers.values()), None), load_ranker(lake, spec, before)
    ranking, found = bundle(name), {}
    ways: dict[str, tuple[Bundle | None, Bundle | None, LambdaRank | None]] = {}
    if ranker is not None:
        ways[LAMBDARANK] = ranking, first, ranker
    ways[name] = ranking, first, None
    ways |= {f"{of}_alone": (None, tower, None) for of, tower in towers.items()}
    for called, (model, retrieval, by) in ways.items():
        found[called] = served_recall(spec, day, lake, model, retrieval, by, requests, sides)
        if on_result is not None:
            on_result(f"{called}: recall@20 {found[called].recall[20]:.4f} of {found[called].requests} clicks")
    return found


def _sample(clicked: NDArray[np.bool_], requests: int) -> NDArray[np.bool_]:
    """Choose about `requests` of the clicked rows by a hash of their places."""
    draws = mix64_array(np.arange(1, len(clicked) + 1, dtype=np.uint64)).astype(np.float64)
    return clicked & (draws < min(1.0, requests / max(1, int(clicked.sum()))) * 2.0**64)


def _summed(ranks: NDArray[np.int64], not_live: int, sizes: NDArray[np.int64], seconds: NDArray[np.float64]) -> ServedRecall:
    near = ranks < RECIPROCAL_CUT
    missed = float((ranks == ALL).mean())
    return ServedRecall(
        requests=len(ranks),
        recall={cut: float((ranks < cut).mean()) for cut in CUTS},
        mrr=float((near / (ranks + 1)).mean()),
        not_live=not_live / len(ranks),
        not_found=missed - not_live / len(ranks),
        candidates=float(sizes.mean()),
        milliseconds=1000 * float(np.median(seconds)),
    )


def table_of(found: Mapping[str, ServedRecall]) -> list[list[str]]:
    """Format the recall of several rankers: recall at each cut, MRR, what the candidate stage loses, candidates, time."""
    return [
        [
            name,
            *(f"{of.recall[cut]:.4f}" for cut in CUTS),
            f"{of.mrr:.4f}",
            f"{of.not_live:.4f}",
            f"{of.not_found:.4f}",
            f"{of.candidates:.0f}",
            f"{of.milliseconds:.1f}",
        ]
        for name, of in found.items()
    ]


HEADER = ("", *(f"recall@{cut}" for cut in CUTS), f"mrr@{RECIPROCAL_CUT}", "not live", "not found", "candidates", "ms")


def write_served(folder: Path | UPath, found: Mapping[str, ServedRecall]) -> None:
    """Write `served.json`."""
    (folder / "served.json").write_text(json.dumps({name: asdict(of) for name, of in found.items()}, indent=1))
