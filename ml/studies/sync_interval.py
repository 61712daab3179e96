"""Online training against batch training: how the AUC of a day depends on how often the serving model is synchronised.

The experiment follows section 3.2 of Monolith (Liu et al., 2022, arXiv 2209.07663: table 2, figures 9 and 10). A model is
trained on some days in batch. On the days after them it is scored by progressive validation in several ways:

| way              | the model that predicts a slice of day d                                                   |
|------------------|--------------------------------------------------------------------------------------------|
| stale            | the model after the batch days, never updated                                              |
| retrained        | the daily model: trained on all days before d                                              |
| online, N slices | a serving model that is synchronised before each of the N slices of a day                  |

If the dataset ranks items, a retrieval model also ranks all live items for the clicks in each way (`ml.studies.ranked_ways`),
because the AUC against uniform negatives flatters a model that knows popularity. Other models are not ranked: they score each
pair of a click and an item, which takes longer than training.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from ml.artifacts.predictor import TorchPredictor
from ml.catalog.spec import DatasetSpec
from ml.datasets.reader import BlockReader
from ml.datasets.splits import SPLITS
from ml.evaluation.plots import lines
from ml.evaluation.ranking.requests import RankedDay
from ml.evaluation.rows import chunks
from ml.lake import Lake
from ml.metrics import auc
from ml.online.loop import ONLINE, online_slices
from ml.online.ranking import Current, SliceRanking, ranked_features
from ml.online.rates import online_rates
from ml.online.serving import ServingCopy
from ml.recipes.recipe import Recipe
from ml.schema import LABEL, ORACLE
from ml.studies.paired import Predictions, difference
from ml.studies.ranked_ways import GAINS, RankedDays, gain_as_json, gain_as_text, ranking_of_way, recall_by_time, sources
from ml.training.passes import train_pass
from ml.training.replay import replay
from ml.training.score import EVALUATION_BATCH, predictions_of
from ml.training.state import TrainState
from ml.training.state_dict import load_snapshot, save_snapshot

SLICES = (10, 50, 100)
STALE, RETRAINED = "stale", "retrained"
BINS = 24  # parts of a day in the figure, with equal numbers of rows
Curves = dict[str, tuple[list[float], list[float]]]
"""Mean and standard deviation over the seeds of each part of the online days, by way."""
PAPER = {
    "online, 5 hours": (0.7966, 0.00020, 0.7942),
    "online, 1 hour": (0.7978, 0.00005, 0.7944),
    "online, 30 minutes": (0.7980, 0.00008, 0.7943),
}
"""Table 2 of Monolith, DeepFM on Criteo's display-ad log: AUC, its spread, and the AUC of batch training."""


@dataclass(frozen=True)
class Served:
    """Predictions of the online days in one way, under one seed.

    Attributes:
        way: `stale`, `retrained`, or `online, N slices`.
        seed: Seed of the recipe.
        predictions: Labels and probabilities of each online day, in time order.
        ranked: How the clicks of each online day were ranked; empty unless a retrieval model ranks items. The first result of a
            study also has the ranks of the standing sources, which are the same in every way and under every seed.
        nbytes: Bytes that were synchronised.
        rows: Rows of tables that were synchronised.
    """

    way: str
    seed: int
    predictions: Predictions = field(repr=False)
    ranked: RankedDays = field(default_factory=dict, repr=False)
    nbytes: int = 0
    rows: int = 0

    @property
    def auc(self) -> float:
        """Mean AUC of the days."""
        return statistics.fmean(auc(*of_day) or 0.5 for of_day in self.predictions.values())


def run_study(
    spec: DatasetSpec,
    lake: Lake,
    batch_days: Sequence[str],
    online_days: Sequence[str],
    recipe: Callable[[int], Recipe],
    slices: Sequence[int] = SLICES,
    seeds: int = 3,
    on_result: Callable[[Served], None] | None = None,
) -> list[Served]:
    """Score the online days in every way under every seed.

    Args:
        spec: The dataset.
        lake: Where `mds_datasets` of all days are stored.
        batch_days: Days that every model is trained on in batch.
        online_days: The days after them.
        recipe: Returns the recipe of a seed; its `online` section has rates and cadence.
        slices: Numbers of slices of a day.
        seeds: Number of runs of each way.
        on_result: Called with each result as soon as it is known.

    Returns:
        The predictions of each seed and way.
    """
    found = []
    for seed in range(seeds):
        for served in _ways(spec, lake, batch_days, online_days, recipe(seed), slices, with_sources=not found):
            found.append(served)
            if on_result is not None:
                on_result(served)
    return found


def summary(found: Sequence[Served], oracle: float | None = None, spec: DatasetSpec | None = None) -> dict[str, dict[str, Any]]:
    """Summarise the ways.

    Args:
        found: The result of `run_study`.
        oracle: AUC of the true click probabilities, for a simulated log.
        spec: The dataset; only needed if clicks were ranked.

    Returns:
        For each way the mean AUC over days and seeds and its standard deviation over seeds, its gains with their intervals
        (`over_stale`, `over_retrained`, and for online ways `over_fewer_slices`, the way with the next smaller number of
        slices), bytes and rows synchronised, and the share of the gap between `stale` and the oracle that it closes; if clicks
        were ranked, also `ranking`, see `ml.studies.ranked_ways`.
    """
    by_way: dict[str, list[Served]] = {}
    for served in found:
        by_way.setdefault(served.way, []).append(served)
    stale = statistics.fmean(one.auc for one in by_way[STALE])
    result = {}
    for way, ones in by_way.items():
        means = [one.auc for one in ones]
        beside = {gain: by_way[other] if other else None for gain, other in _compared(way, list(by_way)).items()}
        mean = statistics.fmean(means)
        result[way] = {
            "auc": mean,
            "spread": statistics.stdev(means) if len(means) > 1 else 0.0,
            **{gain: _gain(ones, others) if others else None for gain, others in beside.items()},
            "bytes": statistics.fmean(one.nbytes for one in ones),
            "rows": statistics.fmean(one.rows for one in ones),
            "gap_closed": None if oracle is None or way == STALE else (mean - stale) / (oracle - stale),
        }
        if spec and ones[0].ranked:
            ranked = {gain: [one.ranked for one in others] if others else None for gain, others in beside.items()}
            result[way]["ranking"] = ranking_of_way(spec, [one.ranked for one in ones], ranked)
    return result


def oracle_auc(spec: DatasetSpec, lake: Lake, days: Sequence[str]) -> float | None:
    """Return the mean AUC of the true click probabilities of a simulated log; None for other logs."""
    if spec.oracle is None:
        return None
    found = []
    for day in days:
        parts = [(part[LABEL].to_numpy(), part[ORACLE].to_numpy()) for part in chunks(lake, spec, day, [LABEL, ORACLE])]
        labels, truth = (np.concatenate(of) for of in zip(*parts, strict=True))
        found.append(auc(labels, truth) or 0.5)
    return statistics.fmean(found)


def by_time(found: Sequence[Served], bins: int = BINS) -> Curves:
    """Compute the AUC of each part of the online days, as mean and standard deviation over the seeds, by way."""

    def curve(served: Served) -> list[float]:
        return [auc(*rows) or 0.5 for of_day in served.predictions.values() for rows in _parts(*of_day, bins)]

    return _over_seeds((served.way, curve(served)) for served in found)


def figure(found: Sequence[Served]) -> bytes:
    """Plot the AUC over the online days of the stale, the retrained and the most frequently synchronised model, as a PNG."""
    return _plot(by_time(found), "AUC")


def recall_figure(found: Sequence[Served]) -> bytes:
    """Plot recall@20 as `figure` plots the AUC, if the clicks were ranked."""
    return _plot(_over_seeds((served.way, recall_by_time(served.ranked, BINS)) for served in found), "recall@20")


def _over_seeds(curves: Iterable[tuple[str, list[float]]]) -> Curves:
    by_way: dict[str, list[list[float]]] = {}
    for way, curve in curves:
        by_way.setdefault(way, []).append(curve)
    return {
        way: (np.mean(of, axis=0).tolist(), np.std(of, axis=0, ddof=min(1, len(of) - 1)).tolist()) for way, of in by_way.items()
    }


def _plot(curves: Curves, metric: str) -> bytes:
    shown = {way: curves[way] for way in (list(curves)[-1], RETRAINED, STALE)}
    return lines(f"{metric} of the model that serves", f"part of the scored days, {BINS} a day", metric, shown)


def write_study(
    folder: Path | UPath, found: Sequence[Served], oracle: float | None = None, spec: DatasetSpec | None = None
) -> dict[str, dict[str, Any]]:
    """Write `summary.json`, `by_time.json` and `auc.png`. Returns the summary. Takes the arguments of `summary`."""
    result = summary(found, oracle, spec)
    standing = sources(spec, found[0].ranked) if spec and found[0].ranked else {}
    whole = {"ways": result, "sources": standing, "oracle": oracle, "paper": PAPER}
    (folder / "summary.json").write_text(json.dumps(whole, indent=1))
    (folder / "by_time.json").write_text(json.dumps(by_time(found), indent=1))
    (folder / "auc.png").write_bytes(figure(found))
    if standing:
        (folder / "recall.png").write_bytes(recall_figure(found))
    return result


def _compared(way: str, ways: Sequence[str]) -> dict[str, str | None]:
    """Return the other way that each gain of a way is over; None if the gain is undefined."""
    online = [other for other in ways if other not in (STALE, RETRAINED)]
    return {
        "over_retrained": RETRAINED if way != RETRAINED else None,
        "over_stale": STALE if way != STALE else None,
        "over_fewer_slices": online[online.index(way) - 1] if way in online[1:] else None,
    }


def _ways(
    spec: DatasetSpec,
    lake: Lake,
    batch_days: Sequence[str],
    online_days: Sequence[str],
    recipe: Recipe,
    slices: Sequence[int],
    with_sources: bool,
) -> Iterator[Served]:
    state = replay(spec, batch_days, lake, recipe, scored=()).state
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_snapshot(state, folder)
        predictions = {day: _predict(spec, lake, day, state) for day in online_days}
        ranked = {day: of for day in online_days if (of := _rank(spec, lake, day, folder, with_sources))}
        yield Served(STALE, recipe.seed, predictions, ranked)
        yield _retrain(spec, lake, online_days, state)
        for count in sorted(slices):
            yield _online(spec, lake, online_days, load_snapshot(folder, recipe=recipe), count)


def _retrain(spec: DatasetSpec, lake: Lake, days: Sequence[str], state: TrainState) -> Served:
    found, ranked = {}, {}
    for day in days:
        found[day] = _predict(spec, lake, day, state)
        with tempfile.TemporaryDirectory() as name:
            save_snapshot(state, Path(name))
            if of := _rank(spec, lake, day, Path(name)):
                ranked[day] = of
        if day != days[-1]:
            reader = _reader(spec, lake, day, state.recipe)
            state.begin_pass()
            train_pass(state, reader, total_steps=len(reader))
    return Served(RETRAINED, state.recipe.seed, found, ranked)


def _online(spec: DatasetSpec, lake: Lake, days: Sequence[str], state: TrainState, count: int) -> Served:
    serving, nbytes, rows = ServingCopy(state, state.recipe.online.sync), 0, 0
    found, ranked, learned = {}, {}, None
    for day in days:
        ranking = _open_ranking(spec, lake, day, lambda: serving.predictor, state.recipe)
        state.begin_pass()
        with online_rates(state, state.recipe.online):
            parts = _reader(spec, lake, day, state.recipe, state.recipe.online.batch_size).slices(count=count)
            rank = ranking.rank if ranking else None
            results = list(online_slices(state, parts, serving, rank=rank, learned=learned))
        state.end_pass()
        learned = results[-1].events
        nbytes, rows = nbytes + sum(of.sync.nbytes for of in results), rows + sum(of.sync.rows for of in results)
        labels, probabilities = ([of.labels for of in results], [of.predictions[ONLINE] for of in results])
        found[day] = (np.concatenate(labels), np.concatenate(probabilities))
        if ranking:
            ranked[day] = ranking.ranked()
    return Served(f"online, {count} slices", state.recipe.seed, found, ranked, nbytes, rows)


def _rank(spec: DatasetSpec, lake: Lake, day: str, folder: Path, with_sources: bool = False) -> RankedDay | None:
    """Rank the clicks of a day by the model of a snapshot."""
    predictor = TorchPredictor.load(folder)
    ranking = _open_ranking(spec, lake, day, lambda: predictor, predictor.recipe, with_sources)
    if ranking is None:
        return None
    ranking.rank()
    return ranking.ranked()


def _open_ranking(
    spec: DatasetSpec, lake: Lake, day: str, current: Current, recipe: Recipe, with_sources: bool = False
) -> SliceRanking | None:
    features = ranked_features(lake, spec, day, recipe)
    return SliceRanking(spec, day, lake, {ONLINE: current}, features, with_sources) if features else None


def _predict(spec: DatasetSpec, lake: Lake, day: str, state: TrainState) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    reader = BlockReader(lake, spec, [day], splits=SPLITS, batch_size=EVALUATION_BATCH, order="time")
    return predictions_of(state, reader)


def _reader(spec: DatasetSpec, lake: Lake, day: str, recipe: Recipe, batch_size: int | None = None) -> BlockReader:
    return BlockReader(lake, spec, [day], splits=SPLITS, batch_size=batch_size or recipe.batch_size, order="time")


def _gain(ones: Sequence[Served], others: Sequence[Served]) -> dict[str, Any]:
    """Return the mean gain in AUC, with its 95 % interval over rows and seeds."""
    return gain_as_json(difference([one.predictions for one in ones], [other.predictions for other in others], "auc"))


def _parts(labels: NDArray[Any], scores: NDArray[Any], count: int) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    yield from zip(np.array_split(labels, count), np.array_split(scores, count), strict=True)


def rows_of_table(found: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Format the summary for a table: way, AUC, its gains (`ml.studies.ranked_ways.GAINS`), megabytes, share of the gap."""
    return [
        [
            way,
            f"{of['auc']:.4f} ± {of['spread']:.4f}",
            *(gain_as_text(of[gain]) for gain in GAINS),
            f"{of['bytes'] / 1e6:.1f}" if of["bytes"] else "–",
            "–" if of["gap_closed"] is None else f"{of['gap_closed']:.1%}",
        ]
        for way, of in found.items()
    ]
