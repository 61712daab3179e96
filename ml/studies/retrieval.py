"""Recall of a two-tower model on a log of clicks: how often the next clicked item is among the first k of all live items.

The model is trained on the previous days, each once and in time order. Then a day is scored slice by slice, in two ways: with
the model as of midnight, which daily training serves, and with a model that is also trained on each slice after the slice was
scored. Both are compared with the most clicked items of the hour before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.datasets.batch import Batch
from ml.datasets.reader import BlockReader
from ml.days import day_bounds
from ml.evaluation.plots import lines
from ml.evaluation.ranking.recall import CUTS, Recall, recall_over
from ml.lake import Lake
from ml.models.two_tower import TwoTower
from ml.recipes.recipe import recipe_of
from ml.training.passes import train_pass
from ml.training.replay import replay
from ml.training.state import TrainState

WAYS = ("as at midnight", "learning through the day")


def run_study(
    spec: DatasetSpec, days: Sequence[str], lake: Lake, model: str = "two_tower", on_result: Callable[[str], None] | None = None
) -> dict[str, Recall]:
    """Measure recall on one day in both ways.

    Args:
        spec: The dataset, whose `mds_datasets` of the days are in the lake.
        days: At least two days. The last is scored with a model trained on the days before it.
        lake: Where the data is stored.
        model: Name of a two-tower model of the dataset.
        on_result: Called with a line of text after each way.

    Returns:
        Recall by way (`WAYS`).
    """
    begin, _ = day_bounds(days[-1], spec.zone)
    found, recipe = {}, recipe_of(spec, model)
    for way in WAYS:
        state = replay(spec, days[:-1], lake, recipe, scored=()).state
        between = _train_on_slice(state) if way == WAYS[1] else None
        rows = BlockReader(lake, spec, list(days[-2:]), splits=("train", "validation", "test"), batch_size=8192, order="time")
        assert isinstance(state.model, TwoTower)
        found[way] = recall_over(state.model, rows, begin=begin, between=between)
        if on_result is not None:
            on_result(f"{way}: recall@100 {found[way].at(100):.4f}, most clicked {found[way].at(100, 'popularity'):.4f}")
    return found


def summary(found: dict[str, Recall]) -> dict[str, Any]:
    """Summarise recall by way and cut, with the recall of the most clicked items."""
    first = next(iter(found.values()))
    ways = {way: {f"recall@{cut}": recall.at(cut) for cut in CUTS} for way, recall in found.items()}
    ways["most clicked in the last hour"] = {f"recall@{cut}": first.at(cut, "popularity") for cut in CUTS}
    live = sum(s.live for s in first.slices) / max(1, len(first.slices))
    return {"clicks": first.clicks, "live_items": live, "reachable": first.reachable, "ways": ways}


def figure(found: dict[str, Recall]) -> bytes:
    """Plot recall@100 by hour of the day as a PNG."""
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for way, recall in found.items():
        hours = [Recall(recall.slices[at : at + 6]) for at in range(0, len(recall.slices), 6)]
        curves[way] = ([hour.at(100) for hour in hours], [0.0] * len(hours))
        curves.setdefault("most clicked in the last hour", ([h.at(100, "popularity") for h in hours], [0.0] * len(hours)))
    return lines("Recall of the next click", "hour of the day", "recall@100", curves)


def write_study(folder: Path | UPath, found: dict[str, Recall]) -> dict[str, Any]:
    """Write `slices.json`, `summary.json` and `recall.png`. Returns the summary."""
    summed = summary(found)
    slices = {way: [asdict(s) for s in recall.slices] for way, recall in found.items()}
    (folder / "slices.json").write_text(json.dumps(slices))
    (folder / "summary.json").write_text(json.dumps(summed, indent=1))
    (folder / "recall.png").write_bytes(figure(found))
    return summed


def _train_on_slice(state: TrainState) -> Callable[[list[Batch]], None]:
    """Return a function that trains on the batches of a slice. Each slice is one pass."""

    def between(rows: list[Batch]) -> None:
        state.begin_pass()
        train_pass(state, rows, total_steps=len(rows))

    return between
