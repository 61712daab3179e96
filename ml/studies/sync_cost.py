"""What synchronisation costs, in bytes, seconds and AUC, by cadence, row format, cadence of the dense part and byte budget.

Every run publishes packages into a folder of the local disk, and a receiver applies them to the bundle that predicts.

Monolith (Liu et al., 2022, arXiv 2209.07663) has arithmetic only; `ml.studies.paper_package` measures a package of its size.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from upath import UPath

from ml.artifacts.bundle import vocabulary_file, write_inputs
from ml.catalog.spec import DatasetSpec
from ml.datasets.reader import BlockReader
from ml.datasets.splits import SPLITS
from ml.evaluation.plots import trade_off
from ml.lake import Lake
from ml.metrics import auc
from ml.online.loop import ONLINE, online_slices
from ml.online.rates import online_rates
from ml.recipes.online import SyncRecipe
from ml.recipes.recipe import Recipe
from ml.stages import CLEANED_FEATURES
from ml.studies.measured_serving import MeasuredServing
from ml.studies.paired import Predictions, as_json, as_text, difference
from ml.studies.paper_package import PaperPackage
from ml.sync.manifest import RowFormat
from ml.sync.publisher import Inputs
from ml.training.replay import replay
from ml.training.state import TrainState
from ml.training.state_dict import load_snapshot, save_snapshot

SLICES = (10, 50, 100)
FORMATS: tuple[RowFormat, ...] = ("float32", "float16", "int8")
BUDGETS = (200_000, 100_000, 50_000)


@dataclass(frozen=True)
class Variant:
    """One way to synchronise.

    Attributes:
        group: What differs from the base: `base`, `cadence`, `row format`, `dense part` or `byte budget`.
        name: What the variant sets.
        slices: Slices of a day, each followed by a sync.
        sync: What is published.
    """

    group: str
    name: str
    slices: int
    sync: SyncRecipe


@dataclass(frozen=True)
class Run:
    """Two or more online days with one variant, under one seed.

    Attributes:
        variant: The variant.
        seed: Seed of the recipe.
        predictions: Labels and probabilities of each day, from the model that serves.
        syncs: Number of deltas.
        rows: Rows in all deltas.
        nbytes: Bytes of all deltas' files.
        dense_bytes: Of these, bytes of dense parameters.
        pending: Rows that the byte budget held back after the last delta.
        snapshot_bytes: Bytes of the first snapshot.
        seconds: Wall-clock seconds of all deltas: `create`, `encode`, `write` by the trainer, `apply` by the receiver.
    """

    variant: Variant
    seed: int
    predictions: Predictions = field(repr=False)
    syncs: int
    rows: int
    nbytes: int
    dense_bytes: int
    pending: int
    snapshot_bytes: int
    seconds: Mapping[str, float]

    @property
    def auc(self) -> float:
        """Mean AUC of the days."""
        return statistics.fmean(auc(*of_day) or 0.5 for of_day in self.predictions.values())


def variants(slices: Sequence[int] = SLICES, budgets: Sequence[int] = BUDGETS) -> Iterator[Variant]:
    """List the variants. The first is the base; every other one differs from it in one thing.

    Args:
        slices: Numbers of slices of a day. The base has the middle one.
        budgets: Byte budgets.

    Example:
        >>> [of.name for of in variants([10, 50], [25_000])][:3]
        ['50 slices, float32, dense part in all', '10 slices', 'float16']
    """
    base = sorted(slices)[len(slices) // 2]
    yield Variant("base", f"{base} slices, float32, dense part in all", base, SyncRecipe())
    for count in slices:
        if count != base:
            yield Variant("cadence", f"{count} slices", count, SyncRecipe())
    for rows in FORMATS[1:]:
        yield Variant("row format", rows, base, SyncRecipe.model_validate({"rows": rows}))
    for name, every in (("dense part in every 10th", 10), ("dense part once a day", base), ("dense part never", 0)):
        yield Variant("dense part", name, base, SyncRecipe(dense_every=every))
    for budget in budgets:
        yield Variant("byte budget", f"at most {budget / 1000:g} kB of rows", base, SyncRecipe(byte_budget=budget))


def run_study(
    spec: DatasetSpec,
    lake: Lake,
    batch_days: Sequence[str],
    online_days: Sequence[str],
    recipe: Callable[[int], Recipe],
    ways: Sequence[Variant],
    seeds: int = 3,
    on_result: Callable[[Run], None] | None = None,
) -> list[Run]:
    """Train the online days with every variant under every seed.

    Args:
        spec: The dataset.
        lake: Where `mds_datasets` of all days are stored, and `cleaned_features` of the last batch day if the dataset has
            vocabularies.
        batch_days: Days that the model is trained on before.
        online_days: The days after them, which are scored.
        recipe: Returns the recipe of a seed; its `online` section has the rates.
        ways: The variants.
        seeds: Number of runs of each variant.
        on_result: Called with each run as soon as it is known.

    Returns:
        A run for each seed and variant.
    """
    inputs, runs = _inputs(spec, lake, batch_days[-1]), []
    for seed in range(seeds):
        own = recipe(seed)
        with tempfile.TemporaryDirectory() as name:
            start = Path(name)
            save_snapshot(replay(spec, batch_days, lake, own, scored=()).state, start)
            for variant in ways:
                runs.append(_run(spec, lake, online_days, load_snapshot(start, recipe=own), variant, inputs))
                if on_result is not None:
                    on_result(runs[-1])
    return runs


def summary(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Summarise the runs by variant.

    Returns:
        For each variant its group and name, means over the seeds of bytes, rows and milliseconds of a sync, bytes of a row with
        everything in the files except dense parameters, the AUC and its standard deviation, and the difference of the AUC to
        the first variant with its 95 % interval over rows and seeds.
    """
    by_name: dict[str, list[Run]] = {}
    for run in runs:
        by_name.setdefault(run.variant.name, []).append(run)
    base, found = next(iter(by_name.values())), []
    for name, own in by_name.items():
        syncs, rows, nbytes = (sum(getattr(run, of) for run in own) for of in ("syncs", "rows", "nbytes"))
        aucs = [run.auc for run in own]
        gain = difference([run.predictions for run in own], [run.predictions for run in base], "auc")
        found.append(
            {
                "group": own[0].variant.group,
                "name": name,
                "bytes_per_sync": nbytes / syncs,
                "bytes_per_day": nbytes / sum(len(run.predictions) for run in own),
                "rows_per_sync": rows / syncs,
                "bytes_per_row": (nbytes - sum(run.dense_bytes for run in own)) / rows,
                "dense_share": sum(run.dense_bytes for run in own) / nbytes,
                "pending": statistics.fmean(run.pending for run in own),
                "snapshot_bytes": statistics.fmean(run.snapshot_bytes for run in own),
                "ms": {part: 1000 * sum(run.seconds.get(part, 0.0) for run in own) / syncs for part in own[0].seconds},
                "auc": statistics.fmean(aucs),
                "spread": statistics.stdev(aucs) if len(aucs) > 1 else 0.0,
                "auc_gain": None if own is base else as_json(gain),
            }
        )
    return found


def figure(found: Sequence[Mapping[str, Any]]) -> bytes:
    """Plot the AUC against megabytes a day, as a PNG."""
    groups: dict[str, list[tuple[float, float]]] = {}
    for of in found[1:]:
        groups.setdefault(of["group"], []).append((of["bytes_per_day"] / 1e6, of["auc"]))
    base = (found[0]["bytes_per_day"] / 1e6, found[0]["auc"])
    curves = {name: sorted([base, *placed]) for name, placed in groups.items()}
    return trade_off("AUC of the model that serves", "MB a day", "AUC", curves, (found[0]["name"], found[0]["auc"]))


def rows_of_table(found: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Format the summary for a table.

    Returns:
        For each variant its name, kilobytes of a sync, megabytes of a day, bytes of a row, share of the dense part,
        milliseconds of a sync, AUC, the difference to the first variant, and the rows that were held back at the end.
    """
    return [
        [
            of["name"],
            f"{of['bytes_per_sync'] / 1e3:.0f}",
            f"{of['bytes_per_day'] / 1e6:.2f}",
            f"{of['bytes_per_row']:.1f}",
            f"{of['dense_share']:.0%}",
            f"{sum(of['ms'].values()):.0f}",
            f"{of['auc']:.4f} ± {of['spread']:.4f}",
            "–" if of["auc_gain"] is None else as_text(of["auc_gain"], 5),
            f"{of['pending']:.0f}",
        ]
        for of in found
    ]


def write_study(folder: Path | UPath, runs: Sequence[Run], packages: Sequence[PaperPackage] = ()) -> list[dict[str, Any]]:
    """Write `summary.json` and `auc.png`. Returns the summary.

    Args:
        folder: An existing folder.
        runs: The result of `run_study`.
        packages: What `paper_package` has measured.
    """
    found = summary(runs)
    whole = {"variants": found, "paper": [asdict(package) for package in packages]}
    (folder / "summary.json").write_text(json.dumps(whole, indent=1))
    (folder / "auc.png").write_bytes(figure(found))
    return found


def _inputs(spec: DatasetSpec, lake: Lake, day: str) -> Inputs:
    names = [feature.name for feature in spec.sparse if feature.vocabulary]
    states = {name: lake.require(CLEANED_FEATURES, spec.name, day) / vocabulary_file(name) for name in names}
    return lambda folder: write_inputs(folder, spec, states)


def _run(spec: DatasetSpec, lake: Lake, days: Sequence[str], state: TrainState, variant: Variant, inputs: Inputs) -> Run:
    found, learned = {}, None
    with tempfile.TemporaryDirectory() as name:
        serving = MeasuredServing(Path(name), state, inputs, variant.sync, spec.name)
        for day in days:
            reader = BlockReader(lake, spec, [day], splits=SPLITS, batch_size=state.recipe.batch_size, order="time")
            state.begin_pass()
            with online_rates(state, state.recipe.online):
                results = list(online_slices(state, reader.slices(count=variant.slices), serving, learned=learned))
            state.end_pass()
            learned = results[-1].events
            labels, probabilities = ([of.labels for of in results], [of.predictions[ONLINE] for of in results])
            found[day] = (np.concatenate(labels), np.concatenate(probabilities))
    totals = {of: serving.totals[of] for of in ("syncs", "rows", "nbytes", "dense_bytes")}
    return Run(
        variant,
        state.recipe.seed,
        found,
        **totals,
        pending=serving.pending,
        snapshot_bytes=serving.snapshot_bytes,
        seconds=dict(serving.seconds),
    )
