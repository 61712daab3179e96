"""Two Tower on a log of clicks: how often the item clicked next is among the first hundred found, of all that are alive.

The model is trained on the days before, each once and in time order, then a day is scored slice by slice: by the model as it
was at midnight, as the daily assets would serve it; and by one that learns from each slice once it has been scored. Both stand
beside what was clicked most in the hour before.
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
from ml.evaluation.retrieval import CUTS, Recall, recall_over
from ml.lake import Lake
from ml.models.two_tower import TwoTower
from ml.recipes.recipe import recipe_of
from ml.schema import FeatureSchema
from ml.training.passes import train_pass
from ml.training.state import TrainState, new_state

WAYS = ("as at midnight", "learning through the day")


def run_study(
    spec: DatasetSpec, days: Sequence[str], lake: Lake, model: str = "two_tower", on_result: Callable[[str], None] | None = None
) -> dict[str, Recall]:
    """By way (`WAYS`): recall on the last of `days`, of a model trained on those before."""
    begin = day_bounds(days[-1], spec.zone)[0]
    found = {}
    for way in WAYS:
        state = _trained(spec, days[:-1], lake, model)
        between = _learn(state) if way == WAYS[1] else None
        rows = BlockReader(lake, spec, list(days[-2:]), splits=("train", "validation", "test"), batch_size=8192, order="time")
        assert isinstance(state.model, TwoTower)
        found[way] = recall_over(state.model, rows, begin=begin, between=between)
        if on_result is not None:
            on_result(f"{way}: recall@100 {found[way].at(100):.4f}, most clicked {found[way].at(100, 'popularity'):.4f}")
    return found


def summary(found: dict[str, Recall]) -> dict[str, Any]:
    """Recall by way and cut, and by what was clicked most."""
    first = next(iter(found.values()))
    ways = {way: {f"recall@{cut}": recall.at(cut) for cut in CUTS} for way, recall in found.items()}
    ways["most clicked in the last hour"] = {f"recall@{cut}": first.at(cut, "popularity") for cut in CUTS}
    live = sum(s.live for s in first.slices) / max(1, len(first.slices))
    return {"clicks": first.clicks, "live_items": live, "reachable": first.reachable, "ways": ways}


def figure(found: dict[str, Recall]) -> bytes:
    """PNG: recall@100 by hour of the day."""
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for way, recall in found.items():
        hours = [Recall(recall.slices[at : at + 6]) for at in range(0, len(recall.slices), 6)]
        curves[way] = ([hour.at(100) for hour in hours], [0.0] * len(hours))
        curves.setdefault("most clicked in the last hour", ([h.at(100, "popularity") for h in hours], [0.0] * len(hours)))
    return lines("The next click among the first hundred", "hour of the day", "recall@100", curves)


def write_study(folder: Path | UPath, found: dict[str, Recall]) -> dict[str, Any]:
    """`slices.json`, `summary.json` and `recall.png`. Gives the summary."""
    told = summary(found)
    slices = {way: [asdict(s) for s in recall.slices] for way, recall in found.items()}
    (folder / "slices.json").write_text(json.dumps(slices))
    (folder / "summary.json").write_text(json.dumps(told, indent=1))
    (folder / "recall.png").write_bytes(figure(found))
    return told


def _trained(spec: DatasetSpec, days: Sequence[str], lake: Lake, model: str) -> TrainState:
    recipe = recipe_of(spec, model)
    state = new_state(recipe, FeatureSchema.of(spec))
    for day in days:
        state.begin_pass()
        reader = BlockReader(lake, spec, [day], splits=recipe.splits, batch_size=recipe.batch_size, order="time")
        train_pass(state, reader, total_steps=len(reader))
    return state


def _learn(state: TrainState) -> Callable[[list[Batch]], None]:
    """Train on a slice's rows, in the batches they come in."""

    def between(rows: list[Batch]) -> None:
        state.begin_pass()
        train_pass(state, rows, total_steps=len(rows))

    return between
