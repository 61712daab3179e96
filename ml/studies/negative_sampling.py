"""Negative sampling: what training on a part of the unclicked rows costs, and what the corrections of the log odds restore.

Days are replayed: each is scored, on all of its rows, by the model of the days before it. The variants differ in the share of
unclicked rows that is kept, how they are chosen, and how the model is corrected: not at all ("naive"), in the loss or at
serving (Liu et al., 2022, section 2.3; Wang, Zhang and Wang, 2021, arXiv 2110.13048), or by importance weights.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.evaluation.plots import points
from ml.lake import Lake
from ml.recipes.recipe import Recipe, recipe_of
from ml.training.replay import replay

SHARES = (0.5, 0.2, 0.05)
FLOOR = 0.25  # smallest rate by score, as a part of the mean rate
ALL_ROWS = "all rows"
CORRECTIONS = {"none": "naive", "loss": "corrected in the loss", "serving": "corrected at serving", "weights": "weighted"}
_METRICS = ("auc", "log_loss", "calibration")


@dataclass(frozen=True)
class Variant:
    """How unclicked rows are sampled and corrected.

    Attributes:
        name: Name of the choice of rows and of the correction, without the share.
        keep: Share of the unclicked rows that is kept.
        keys: Recipe keys.
    """

    name: str
    keep: float
    keys: dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One variant under one seed, as means over the scored days.

    Attributes:
        name: Name of the variant.
        keep: Share of the unclicked rows that is kept.
        seed: Seed of the recipe.
        auc: AUC on all rows of a day.
        log_loss: Log loss on all rows of a day, in nats.
        calibration: Predicted clicks divided by observed clicks.
        rows: Rows of all days that were trained on.
        cpu_seconds: CPU-seconds of training.
    """

    name: str
    keep: float
    seed: int
    auc: float
    log_loss: float
    calibration: float
    rows: int
    cpu_seconds: float


def variants(shares: Sequence[float] = SHARES) -> Iterator[Variant]:
    """Yield the variants: all rows first, then for each share constant rates and rates by score with each correction."""
    yield Variant(ALL_ROWS, 1.0, {})
    for keep in shares:
        for correction, name in CORRECTIONS.items():
            keys = {"negative_sampling": {"keep": keep}, "sampling_correction": correction}
            yield Variant(name, keep, keys)
        for correction in ("loss", "weights"):
            sampling = {"by": "score", "keep": keep, "floor": FLOOR * keep}
            keys = {"negative_sampling": sampling, "sampling_correction": correction}
            yield Variant(f"by score, {CORRECTIONS[correction]}", keep, keys)


def run_study(
    spec: DatasetSpec,
    days: Sequence[str],
    lake: Lake,
    model: str | None = None,
    seeds: int = 3,
    shares: Sequence[float] = SHARES,
    on_result: Callable[[Run], None] | None = None,
) -> list[Run]:
    """Replay days with every variant under every seed.

    Args:
        spec: The dataset.
        days: At least two days, whose `mds_datasets` are in the lake.
        lake: Where the data is stored.
        model: One of the dataset's models whose loss has a term for every row; by default the first.
        seeds: Number of runs of each variant. A seed fixes initial weights and draws.
        shares: Shares of the unclicked rows that are kept.
        on_result: Called with each run as soon as it is known.

    Returns:
        A run for each seed and variant.
    """
    runs = []
    for seed in range(seeds):
        for variant in variants(shares):
            recipe = recipe_of(spec, model or spec.primary, {"seed": seed, **variant.keys})
            runs.append(_run(spec, days, lake, variant, recipe))
            if on_result is not None:
                on_result(runs[-1])
    return runs


def summary(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Summarise the runs by variant.

    Returns:
        For each variant its name and share, the means over the seeds of its metrics, and mean and standard deviation of the
        differences of AUC and log loss to all rows under the same seed. Positive differences are better.
    """
    best = {run.seed: run for run in runs if run.name == ALL_ROWS}
    found = []
    for name, keep in dict.fromkeys((run.name, run.keep) for run in runs):
        own = [run for run in runs if (run.name, run.keep) == (name, keep)]
        gains = {
            "auc_gain": [run.auc - best[run.seed].auc for run in own],
            "log_loss_gain": [best[run.seed].log_loss - run.log_loss for run in own],
        }
        entry: dict[str, Any] = {"name": name, "keep": keep}
        entry |= {metric: statistics.fmean(getattr(run, metric) for run in own) for metric in (*_METRICS, "cpu_seconds")}
        entry["calibration_spread"] = _spread([run.calibration for run in own])
        entry |= {gain: statistics.fmean(values) for gain, values in gains.items()}
        entry |= {f"{gain}_spread": _spread(values) for gain, values in gains.items()}
        found.append(entry)
    return found


def figure(found: Sequence[dict[str, Any]]) -> bytes:
    """Plot the log loss against the share of unclicked rows in per cent, as a PNG. Naive models are off the scale."""
    everything = next(entry for entry in found if entry["name"] == ALL_ROWS)
    groups: dict[str, list[tuple[float, float, str]]] = {}
    for entry in found:
        if entry["name"] not in (ALL_ROWS, CORRECTIONS["none"]):
            groups.setdefault(entry["name"], [(100.0, everything["log_loss"], "")]).append(
                (100 * entry["keep"], entry["log_loss"], "")
            )
    return points("Log loss on all rows", "unclicked rows kept, %", "log loss", groups)


def write_study(folder: Path | UPath, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Write `runs.json`, `summary.json` and `log_loss.png`. Returns the summary."""
    found = summary(runs)
    (folder / "runs.json").write_text(json.dumps([asdict(run) for run in runs], indent=1))
    (folder / "summary.json").write_text(json.dumps(found, indent=1))
    (folder / "log_loss.png").write_bytes(figure(found))
    return found


def _run(spec: DatasetSpec, days: Sequence[str], lake: Lake, variant: Variant, recipe: Recipe) -> Run:
    done = replay(spec, days, lake, recipe, train_last=False).days
    scores = [day.scores for day in done if day.scores is not None]
    reports = [day.report for day in done if day.report is not None]
    means = (statistics.fmean(float(of[metric] or 0.0) for of in scores) for metric in _METRICS)
    return Run(
        variant.name,
        variant.keep,
        recipe.seed,
        *means,
        rows=sum(report.rows for report in reports),
        cpu_seconds=sum(report.cpu_seconds for report in reports),
    )


def _spread(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0
