"""Training on several processes compared with one: tables sharded by id, and independent tables that are merged each day.

Every case trains the same days with the same batches, with one thread in each process, and each day is scored with the model
of the days before it. Samples per second and CPU-seconds are those of the passes over the days: starting processes, merging
tables and scoring are not measured. The first day is not measured either, because kernels are loaded in it. All cases of a
seed run one after another, so that a change in the load of the machine affects the cases of one seed alike.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.datasets.reader import BlockReader
from ml.datasets.splits import SPLITS
from ml.distributed.launch import launch, process_group
from ml.distributed.launchers import Processes
from ml.distributed.process_group import Ranks
from ml.evaluation.plots import points
from ml.lake import Lake
from ml.metrics import summary
from ml.recipes.recipe import Recipe, recipe_of
from ml.studies.paired import Predictions, as_json, difference, ratio
from ml.training.first_state import first_state
from ml.training.passes import train_pass
from ml.training.score import EVALUATION_BATCH, predictions_of
from ml.training.state import TrainState
from ml.training.state_dict import load_snapshot, save_snapshot

BATCH = 1024  # of all processes together
PROCESSES = (2, 4)
KINDS = ("sharded", "independent")
ONE = "one process"


@dataclass(frozen=True)
class CaseRun:
    """One training.

    Attributes:
        case: Name of the case, such as `2 processes, sharded`.
        seed: Seed of the recipe.
        auc: Mean AUC of the scored days.
        log_loss: Mean log loss of the scored days.
        samples_per_second: Rows per second of all processes, as the median over the days after the first.
        cpu_seconds: CPU-seconds of all processes for a million rows, over the days after the first.
        predictions: Labels and probabilities of the scored days.
    """

    case: str
    seed: int
    auc: float
    log_loss: float
    samples_per_second: float
    cpu_seconds: float
    predictions: Predictions = field(repr=False, compare=False)


def run_study(
    spec: DatasetSpec,
    days: Sequence[str],
    lake: Lake,
    *,
    model: str = "dlrm",
    seeds: int = 3,
    processes: Sequence[int] = PROCESSES,
    batch_size: int = BATCH,
    on_result: Callable[[CaseRun], None] = lambda run: None,
) -> list[CaseRun]:
    """Train every case with every seed.

    Args:
        spec: The dataset.
        days: At least three days; all except the last are trained on once, and all except the first are scored.
        lake: Where the data is stored. Nothing is written to it.
        model: One of the dataset's models.
        seeds: Number of runs of each case, with the recipe seeds 0, 1, and so on.
        processes: Numbers of processes that are compared with one.
        batch_size: Rows of a step over all processes. Learning rates are scaled by the square root of its factor.
        on_result: Called with each run.

    Returns:
        The runs, seed by seed; one process comes first for each seed.

    Raises:
        ValueError: There are fewer than three days.
        RankFailed: One of the processes failed.
    """
    if len(days) < 3:
        raise ValueError(f"days: expected at least three, found {list(days)}")
    cases = [(1, KINDS[0]), *((count, kind) for count in processes for kind in KINDS)]
    runs = []
    for seed in range(seeds):
        for count, kind in cases:
            recipe = _recipe(spec, model, batch_size, {"seed": seed, "embeddings": kind})
            runs.append(_train(spec, days, lake, recipe, count))
            on_result(runs[-1])
    return runs


def summarise(runs: Sequence[CaseRun]) -> dict[str, Any]:
    """Summarise the runs by case.

    Returns:
        By case the means over the seeds, and paired with one process under the same seeds, each with a 95 % interval: the
        difference in AUC and the reduction of the log loss (over rows and seeds), and the ratios of samples per second and of
        CPU-seconds (over seeds, on the logarithm).
    """
    by_case: dict[str, list[CaseRun]] = {}
    for run in runs:
        by_case.setdefault(run.case, []).append(run)
    one, found = by_case[ONE], {}
    for case, own in by_case.items():
        pairs = [run.predictions for run in own], [run.predictions for run in one]
        found[case] = {
            "auc": statistics.fmean(run.auc for run in own),
            "log_loss": statistics.fmean(run.log_loss for run in own),
            "samples_per_second": statistics.fmean(run.samples_per_second for run in own),
            "auc_gain": as_json(difference(*pairs, "auc")),
            "log_loss_gain": as_json(-difference(*pairs, "log_loss")),
            "cpu_seconds": statistics.fmean(run.cpu_seconds for run in own),
            "speed_up": ratio([run.samples_per_second for run in own], [run.samples_per_second for run in one]),
            "cpu_ratio": ratio([run.cpu_seconds for run in own], [run.cpu_seconds for run in one]),
        }
    return found


def figure(found: dict[str, Any]) -> bytes:
    """Plot AUC against samples per second as a PNG."""
    groups: dict[str, list[tuple[float, float, str]]] = {}
    for case, of in found.items():
        count, _, kind = case.partition(" processes, ")
        name, label = (kind, count) if kind else (ONE, "1")
        groups.setdefault(name, []).append((of["samples_per_second"], of["auc"], label))
    return points("AUC by speed, and number of processes", "samples per second", "mean AUC of the days", groups)


def write_study(folder: Path | UPath, runs: Sequence[CaseRun]) -> dict[str, Any]:
    """Write `runs.json`, `summary.json` and `speed.png`. Returns the summary."""
    found = summarise(runs)
    plain = [{name: value for name, value in vars(run).items() if name != "predictions"} for run in runs]
    (folder / "runs.json").write_text(json.dumps(plain, indent=1))
    (folder / "summary.json").write_text(json.dumps(found, indent=1))
    (folder / "speed.png").write_bytes(figure(found))
    return found


def _recipe(spec: DatasetSpec, model: str, batch_size: int, overrides: dict[str, Any]) -> Recipe:
    shipped = recipe_of(spec, model)
    factor = math.sqrt(batch_size / shipped.batch_size)
    rates = {name: {"lr": getattr(shipped, name).lr * factor} for name in ("dense_optimizer", "table_optimizer")}
    return recipe_of(spec, model, {"batch_size": batch_size, "threads": 1, **rates, **overrides})


def _train(spec: DatasetSpec, days: Sequence[str], lake: Lake, recipe: Recipe, count: int) -> CaseRun:
    with tempfile.TemporaryDirectory() as scratch:
        arguments = (spec, tuple(days), lake, recipe, scratch)
        predictions, passes = launch(_rank, *arguments, processes=Processes(count), scratch=UPath(scratch))
    scores = [summary(*of_day) for of_day in predictions.values()]
    auc, log_loss = (statistics.fmean(float(each[name] or math.nan) for each in scores) for name in ("auc", "log_loss"))
    measured = passes[1:]
    return CaseRun(
        ONE if count == 1 else f"{count} processes, {recipe.embeddings}",
        recipe.seed,
        auc,
        log_loss,
        samples_per_second=statistics.median(found.samples_per_second for found in measured),
        cpu_seconds=1e6 * sum(found.cpu_seconds for found in measured) / sum(found.rows for found in measured),
        predictions=predictions,
    )


@dataclass(frozen=True)
class _Pass:
    """A pass over a day, over all processes."""

    rows: int
    samples_per_second: float
    cpu_seconds: float


def _rank(
    spec: DatasetSpec, days: Sequence[str], lake: Lake, recipe: Recipe, scratch: str
) -> tuple[dict[str, Any], list[_Pass]]:
    """Train all days in one of the processes. Return the passes, and on the first rank the predictions."""
    with process_group() as ranks:
        together = ranks if ranks.size > 1 else None
        state = first_state(lake, spec, days[0], recipe, together)
        predictions, passes = {}, []
        for number, day in enumerate(days[:-1]):
            reader = BlockReader(
                *(lake, spec, [day]),
                splits=recipe.splits,
                batch_size=recipe.batch_size // ranks.size,
                order="time",
                rank=ranks.rank,
                world_size=ranks.size,
            )
            state.begin_pass()
            ranks.barrier()
            report = train_pass(state, reader, total_steps=len(reader), ranks=together)
            cpu_microseconds = ranks.all_reduce_sum([round(1e6 * report.cpu_seconds)])[0]
            passes.append(_Pass(report.rows, report.samples_per_second, cpu_microseconds / 1e6))
            state, whole = _exchanged(state, Path(scratch) / str(number), ranks)
            if whole is not None:
                next_day = days[number + 1]
                following = BlockReader(lake, spec, [next_day], splits=SPLITS, batch_size=EVALUATION_BATCH, order="time")
                predictions[next_day] = predictions_of(whole, following)
            ranks.barrier()
    return predictions, passes


def _exchanged(state: TrainState, folder: Path, ranks: Ranks) -> tuple[TrainState, TrainState | None]:
    """Return the state with which the next day begins, and on the first rank the whole state.

    As in daily training, independent tables are merged at the end of a day.
    """
    if ranks.size == 1:
        return state, state
    shards, merged = folder / "shards", folder / "merged"
    if ranks.rank == 0:
        shards.mkdir(parents=True)
        merged.mkdir()
    ranks.barrier()
    save_snapshot(state, shards, ranks)
    ranks.barrier()
    whole = load_snapshot(shards, recipe=state.recipe, schema=state.schema) if ranks.rank == 0 else None
    if whole is not None:
        save_snapshot(whole, merged)
    ranks.barrier()
    return load_snapshot(merged, recipe=state.recipe, schema=state.schema, ranks=ranks), whole
