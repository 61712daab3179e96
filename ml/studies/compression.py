"""The trade-off between the AUC and the bytes of embedding tables, for every way to make them smaller.

The experiment follows Shi et al. (2020, arXiv 1909.02107), who compress the tables of Criteo's log by partitions of the ids,
and Ginart et al. (2019, arXiv 1909.11810), who give tables of many ids narrower rows. Each variant replaces the tables of all
features with many ids and keeps the rest of the recipe. Each day is scored with the model of the days before it.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.embeddings.fixed.compositional import mixed_dimensions
from ml.embeddings.fixed.partitions import MULTIPLE, partitions_for
from ml.embeddings.interface import TableStats
from ml.embeddings.rules import Family, Operation
from ml.evaluation.plots import trade_off
from ml.lake import Lake
from ml.recipes.recipe import Recipe, recipe_of
from ml.recipes.tables import CollisionlessTable
from ml.studies.paired import Predictions, as_json, difference, predictions_by_day
from ml.training.replay import replay

SHARES = (2, 4, 16, 64)  # tables have one row for this many ids
PARTED: dict[Family, int] = {"quotient_remainder": 2, "generalised": 4, "chinese_remainder": 2}
OPERATIONS: tuple[Operation, ...] = ("concat", "add", "mult", "path")
FULL, HASHED, CAPPED, ADMITTED = "collisionless", "hashed", "collisionless, max_rows", "collisionless, min_count"
NAIVE, QUARTER, POWER = "compositional, naive", "mixed dimensions, a quarter", "mixed dimensions, power rule"
MANY_IDS = 1000  # smaller tables are not compressed: together they have 1 % of the rows of Criteo's
IDS_PER_CODE = 8  # universe for each id of a table: with 8, 6 % of the hashed ids share all codes with another id
TEMPERATURES = (0.1, 0.2, 0.3)
MIN_COUNTS = (2, 3, 5)


@dataclass(frozen=True)
class Variant:
    """Tables of the features with many ids.

    Attributes:
        group: How the tables are compressed.
        setting: The setting within the group, such as `1/4` of the rows.
        tables: Tables by feature, in the recipe's terms.
    """

    group: str
    setting: str
    tables: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Compressed:
    """Result of one variant.

    Attributes:
        group: As in `Variant`.
        setting: As in `Variant`.
        rows: Rows of the compressed tables after the last day.
        nbytes: Their bytes, with optimizer state, maps and candidates.
        auc: Mean AUC over scored days and seeds.
        log_loss: Mean log loss over scored days and seeds.
        auc_spread: Standard deviation of the mean AUC between seeds.
        auc_gain: AUC less the AUC of full tables, paired: `value`, `low`, `high`.
        log_loss_gain: Log loss of full tables less the log loss of this variant, likewise.
        cpu_seconds: Mean CPU-seconds of the training loops.
    """

    group: str
    setting: str
    rows: int
    nbytes: int
    auc: float
    log_loss: float
    auc_spread: float
    auc_gain: dict[str, float | None]
    log_loss_gain: dict[str, float | None]
    cpu_seconds: float


@dataclass(frozen=True)
class _Run:
    predictions: Predictions
    scores: dict[str, float]
    tables: Mapping[str, TableStats]
    cpu_seconds: float


def run_study(
    spec: DatasetSpec,
    days: Sequence[str],
    lake: Lake,
    *,
    model: str = "dlrm",
    seeds: int = 3,
    shares: Sequence[int] = SHARES,
    many_ids: int = MANY_IDS,
    on_result: Callable[[Compressed], None] = lambda result: None,
) -> list[Compressed]:
    """Train every variant with every seed.

    Args:
        spec: The dataset.
        days: At least two days; all except the last are trained on once, in time order, and all except the first are scored.
        lake: Where the data is stored.
        model: One of the dataset's models.
        seeds: Number of runs of each variant, with the recipe seeds 0, 1, and so on.
        shares: Sizes of compressed tables: the number of ids for each row.
        many_ids: Number of ids from which a table is compressed.
        on_result: Called with each result as soon as it is known.

    Returns:
        The results, of full tables first.

    Raises:
        ValueError: No table has many ids.
        MissingPartition: A day's data is not in the lake.
    """

    def runs(tables: dict[str, dict[str, Any]]) -> list[_Run]:
        return [_run(spec, days, lake, _recipe(spec, model, tables, seed)) for seed in range(seeds)]

    full = runs({})
    sparse, types = {feature.name: feature for feature in spec.sparse}, spec.column_types
    own = recipe_of(spec, model).tables
    ids = {
        name: stats.rows
        for name, stats in full[0].tables.items()
        if stats.rows >= many_ids and not sparse[name].is_multi_valued(types) and isinstance(own.of(name), CollisionlessTable)
    }
    if not ids:
        raise ValueError(f"{spec.name}: no table has {many_ids} ids or more")
    results = [_result(Variant(FULL, "all", {}), full, full, ids)]
    on_result(results[0])
    for variant in variants(ids, recipe_of(spec, model).model.embedding_dim, shares):
        results.append(_result(variant, runs(variant.tables), full, ids))
        on_result(results[-1])
    return results


def variants(ids: Mapping[str, int], dim: int, shares: Sequence[int] = SHARES) -> Iterator[Variant]:
    """Yield all variants.

    Args:
        ids: Number of ids by feature.
        dim: The recipe's embedding dimension.
        shares: Number of ids for each row.
    """
    for count in MIN_COUNTS:
        yield Variant(ADMITTED, str(count), {name: {"kind": "collisionless", "min_count": count} for name in ids})
    yield Variant(NAIVE, "1/1", {name: _composed("naive", "add", n, n) for name, n in ids.items()})
    for temperature in TEMPERATURES:
        dims = mixed_dimensions(ids, dim, temperature)
        tables = {name: _projected(math.ceil(1.25 * n), dims[name]) for name, n in ids.items()}
        yield Variant(POWER, f"{temperature:g}", tables)
    for share in shares:
        rows = {name: max(4, math.ceil(n / share)) for name, n in ids.items()}
        part = f"1/{share}"
        yield Variant(HASHED, part, {name: {"kind": "hashed", "rows": r} for name, r in rows.items()})
        yield Variant(CAPPED, part, {name: {"kind": "collisionless", "max_rows": r} for name, r in rows.items()})
        narrow = max(MULTIPLE, dim // 4 // MULTIPLE * MULTIPLE)
        wider = (dim + 1) / (narrow + 1)  # narrow rows of the same bytes, with one accumulator each
        yield Variant(QUARTER, part, {name: _projected(math.ceil(r * wider), narrow) for name, r in rows.items()})
        for family, parts in PARTED.items():
            for operation in OPERATIONS:
                tables = {name: _composed(family, operation, n, rows[name], parts) for name, n in ids.items()}
                yield Variant(f"{family}, {operation}", part, tables)


def write_study(folder: Path | UPath, title: str, results: Sequence[Compressed]) -> None:
    """Write `results.json` and `auc.png`."""
    (folder / "results.json").write_text(json.dumps([asdict(result) for result in results], indent=1))
    (folder / "auc.png").write_bytes(figure(title, results))


def figure(title: str, results: Sequence[Compressed]) -> bytes:
    """Plot the AUC against the bytes of the compressed tables as a PNG, with full tables as a line."""
    full, *others = results
    groups: dict[str, list[tuple[float, float]]] = {}
    for result in sorted(others, key=lambda result: result.nbytes):
        groups.setdefault(result.group, []).append((result.nbytes, result.auc))
    return trade_off(f"AUC by bytes of tables: {title}", "bytes of the compressed tables", "AUC", groups, (FULL, full.auc))


def _recipe(spec: DatasetSpec, model: str, tables: dict[str, dict[str, Any]], seed: int) -> Recipe:
    return recipe_of(spec, model, {"seed": seed, "tables": {"features": tables}})


def _run(spec: DatasetSpec, days: Sequence[str], lake: Lake, recipe: Recipe) -> _Run:
    done = replay(spec, days, lake, recipe, scored_splits=recipe.splits, train_last=False, keep_predictions=True)
    scored = [day.scores for day in done.days if day.scores is not None]
    scores = {name: statistics.fmean(float(each[name] or math.nan) for each in scored) for name in ("auc", "log_loss")}
    seconds = sum(day.report.cpu_seconds for day in done.days if day.report is not None)
    return _Run(predictions_by_day(done), scores, done.state.stats(), seconds)


def _result(variant: Variant, runs: Sequence[_Run], full: Sequence[_Run], ids: Mapping[str, int]) -> Compressed:
    pairs = [run.predictions for run in runs], [run.predictions for run in full]
    aucs = [run.scores["auc"] for run in runs]
    return Compressed(
        variant.group,
        variant.setting,
        rows=sum(runs[0].tables[name].rows for name in ids),
        nbytes=sum(runs[0].tables[name].nbytes for name in ids),
        auc=statistics.fmean(aucs),
        log_loss=statistics.fmean(run.scores["log_loss"] for run in runs),
        auc_spread=statistics.stdev(aucs) if len(aucs) > 1 else 0.0,
        auc_gain=as_json(difference(*pairs, "auc")),
        log_loss_gain=as_json(-difference(*pairs, "log_loss")),
        cpu_seconds=statistics.fmean(run.cpu_seconds for run in runs),
    )


def _composed(family: Family, operation: Operation, ids: int, rows: int, parts: int = 2) -> dict[str, Any]:
    """Return a compositional table for the largest useful universe that its rows can distinguish."""
    universe = ids if family == "naive" else ids * IDS_PER_CODE
    rows = max(rows, 4 * parts)
    while not _fits(family, universe, rows, parts):
        universe = universe * 9 // 10
    table = {"kind": "compositional", "family": family, "operation": operation, "rows": rows, "universe": universe}
    return table | ({} if family in ("naive", "quotient_remainder") else {"parts": parts})


def _fits(family: Family, universe: int, rows: int, parts: int) -> bool:
    try:
        partitions_for(family, universe, rows, parts)
    except ValueError:
        return False
    return True


def _projected(rows: int, dim: int) -> dict[str, Any]:
    return {"kind": "compositional", "family": "hash", "operation": "project", "rows": max(4, rows), "dim": dim}
