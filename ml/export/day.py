"""Exports a trained day for inference: quantise it, measure the loss, and write a bundle unless the recipe refuses the loss.

A loss is refused if it is significantly above the recipe's limit. On few rows a loss can look large by chance, and refusing it
would stop a dataset that has nothing wrong.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Any

from upath import UPath

from ml.artifacts.bundle import Bundle, vocabulary_states, write_inputs
from ml.artifacts.predictor import TorchPredictor
from ml.artifacts.snapshot import digest
from ml.artifacts.stored import require_model
from ml.artifacts.weights import bytes_of
from ml.catalog.spec import DatasetSpec
from ml.datasets.batch import Batch
from ml.datasets.reader import BlockReader
from ml.datasets.splits import SPLITS
from ml.days import day_before
from ml.embeddings.inference.quantise import quantise_tables
from ml.export.keep import export_to_keep, keep_export
from ml.export.latency import Latency, latency_of
from ml.export.quantise import Quantised, quantise
from ml.lake import Lake
from ml.recipes.export import LOOK_BACK_DAYS, ExportRecipe
from ml.recipes.recipe import recipe_of
from ml.schema import FeatureSchema
from ml.stages import CLEANED_FEATURES, MDS_DATASETS, exported_models, served_models

ROWS = 8192
REFUSED_BELOW = 1e-4
"""One-sided p-value below which a loss above the limit is refused: by chance, on one day in ten thousand at most."""
_NAMED = 3  # tables that a refusal names
_log = logging.getLogger("evergreen")


class ExportRefused(ValueError):
    """The export loses significantly more accuracy than its recipe allows."""


@dataclass(frozen=True)
class ExportedDay:
    """An exported day in the lake.

    Attributes:
        folder: The partition that was written.
        days: Days of the rows that both models scored.
        quantised: Formats and losses; None if nothing was measured.
        bytes_before: Bytes of the trained model, without what only training needs.
        bytes_after: Bytes of the exported model.
        kept_from: The day whose export was kept, if nothing was trained on the day.
        latency: Time of predictions; None if nothing was measured.
    """

    folder: UPath
    days: list[str]
    quantised: Quantised | None
    bytes_before: int
    bytes_after: int
    kept_from: str | None = None
    latency: Latency | None = None


def load_export(lake: Lake, spec: DatasetSpec, day: str, model: str | None = None) -> Bundle:
    """Load the exported bundle of a day.

    Args:
        lake: Where exports are stored.
        spec: The dataset.
        day: `YYYY-MM-DD`.
        model: One of the dataset's models; by default the first.

    Raises:
        MissingPartition: The day has not been exported.
        StalePartition: The day was exported under another specification of the dataset.
        DamagedSnapshot: The files have changed since they were written.
    """
    stage = exported_models(model or spec.primary)
    return Bundle.load(require_model(lake, stage, spec.name, day, spec.fingerprint))


def export_day(
    spec: DatasetSpec, day: str, lake: Lake, model: str | None = None, *, choice: ExportRecipe | None = None
) -> ExportedDay:
    """Export a trained day and write the partition `exported_models/<model>/<dataset>/<day>`, a bundle.

    The trained and the exported model score the same rows (`rows_to_score`). The recipe limits the loss of AUC, or of log loss
    if AUC is undefined because all rows are clicked or none is. A loss is refused if it is significantly above the limit. With
    `serve: online` in the catalog entry, the state that was trained online is exported.

    A day without rows has the model of the previous day and keeps the previous day's export. Without any rows to measure a loss
    on, the model is exported as float32.

    Args:
        spec: The dataset.
        day: `YYYY-MM-DD`.
        lake: Where models and data are stored.
        model: One of the dataset's models; by default the first.
        choice: Formats and limit; by default the section `export` of the model's recipe.

    Returns:
        The exported day.

    Raises:
        ExportRefused: The export loses significantly too much. Nothing is written.
        MissingPartition: The day has not been trained.
        StalePartition: The dataset has vocabularies, and the day's features were made again after the model was trained.
        ValueError: `choice.tables` names a table that the model does not have.
    """
    model = model or spec.primary
    choice = choice or recipe_of(spec, model).export
    stage, source = exported_models(model), served_models(spec, model)
    snapshot = require_model(lake, source, spec.name, day)
    if before := export_to_keep(lake, spec, day, model, choice):
        folder, kept = keep_export(lake, spec, day, model, before)
        _log.warning(
            "%s/%s of %s: nothing was trained on the day; the export of %s is kept", spec.name, stage, day, kept["kept_from"]
        )
        return ExportedDay(
            folder, kept["days_scored"], None, kept["bytes"]["before"], kept["bytes"]["after"], kept["kept_from"]
        )
    predictor = TorchPredictor.load(snapshot, FeatureSchema.of(spec))
    vocabularies = vocabulary_states(lake, spec, day, source)
    bytes_before = bytes_of(predictor.model)
    days, batch = rows_to_score(lake, spec, day)
    inputs = [(source, day), *((MDS_DATASETS, scored) for scored in days), *([(CLEANED_FEATURES, day)] if vocabularies else [])]
    lineage = lake.lineage(spec.name, inputs)
    if batch is None:
        _log.warning(
            "%s/%s of %s: %s to %s have no rows to measure a loss on; exported as float32", spec.name, stage, day, days[0], day
        )
        quantise_tables(predictor.model, "float32")
        quantised = latency = None
    else:
        quantised = quantise(predictor.model, choice, batch, predictor.recipe.correction)
        _judge(f"{spec.name}/{stage} of {day}", spec, model, quantised, days)
        latency = latency_of(predictor, batch)
    with lake.write(stage, spec.name, day) as folder:
        predictor.save(folder, write_inputs(folder, spec, vocabularies))
        partition, bytes_after = lake.partition(stage, spec.name, day), bytes_of(predictor.model)
        done = ExportedDay(partition, days, quantised, bytes_before, bytes_after, latency=latency)
        identity = {"digest": digest(folder), "fingerprint": spec.fingerprint, "snapshot": lake.digest(source, spec.name, day)}
        lake.write_manifest(folder, identity | _measured(done, choice) | lineage)
    return done


def rows_to_score(lake: Lake, spec: DatasetSpec, day: str) -> tuple[list[str], Batch | None]:
    """Draw `ROWS` rows of the day uniformly without replacement.

    If the day has fewer rows, up to six days before it are added, because with few rows a limit on AUC would refuse exports by
    chance. Rows come from all splits. The model was trained on most of them, so it relies more on rows of rare ids than it will
    on the next day, and the measured losses are upper estimates.

    Args:
        lake: Where the data is stored.
        spec: The dataset.
        day: `YYYY-MM-DD`.

    Returns:
        The days, in order, and a batch of the rows, or None if there are no rows.
    """
    days = [day]
    reader = _reader(lake, spec, days)
    while reader.rows < ROWS and len(days) < LOOK_BACK_DAYS:
        before = day_before(days[0])
        if not lake.is_current(MDS_DATASETS, spec.name, before, spec.fingerprint):
            break
        days.insert(0, before)
        reader = _reader(lake, spec, days)
    return days, next(iter(reader), None)


def _reader(lake: Lake, spec: DatasetSpec, days: list[str]) -> BlockReader:
    return BlockReader(lake, spec, days, splits=SPLITS, batch_size=ROWS, order="shuffled")


def _judge(what: str, spec: DatasetSpec, model: str, found: Quantised, days: list[str]) -> None:
    """Refuse a loss that is significantly above the limit, and warn of one that only looks so."""
    limit, loss = found.choice.max_auc_loss, found.loss
    if loss.is_above(limit, REFUSED_BELOW):
        raise ExportRefused(f"{what}: {_refusal(found, days)} {_way_out(spec, model)}")
    if loss.value > limit:
        _log.warning(
            "%s: %s lost %.5f, more than export.max_auc_loss of %s, but not significantly (standard error %s on %d rows)",
            *(what, found.metric, loss.value, limit, "unknown" if loss.error is None else f"{loss.error:.5f}", found.rows),
        )


def _refusal(found: Quantised, days: list[str]) -> str:
    """Describe the loss, the tables and layers that cause it, and how to fix it."""
    before, after = ((a.log_loss if found.before.auc is None else a.auc) for a in (found.before, found.after))
    worst = sorted(found.tables.items(), key=lambda item: -item[1].auc_loss)[:_NAMED]
    most = ", ".join(f"{name} {table.auc_loss:.5f} as {table.format}" for name, table in worst)
    return (
        f"{found.metric} goes from {before:.5f} to {after:.5f} on {found.rows} rows of {days[0]} to {days[-1]}, a loss of "
        f"{found.lost:.5f} with a standard error of {found.loss.error:.5f}; the recipe's export.max_auc_loss is "
        f"{found.choice.max_auc_loss}. Tables lose {found.by_tables:.5f} (alone: {most}), layers as {found.choice.layers} "
        f"{found.by_layers:.5f}."
    )


def _way_out(spec: DatasetSpec, model: str) -> str:
    return (
        "Give these tables more bits (export.tables), or all of them (export.rows), leave layers as they are (export.layers: "
        f"float32), or allow a larger loss (export.max_auc_loss). In the catalog entry {spec.name}.yaml, these keys go below "
        f"models.{model}.overrides, such as models: {{{model}: {{overrides: {{export: {{rows: float16}}}}}}}}; the previous "
        "export of the day is unchanged"
    )


def _measured(done: ExportedDay, choice: ExportRecipe) -> dict[str, Any]:
    manifest = {
        "export": choice.model_dump(mode="json"),
        "bytes": {"before": done.bytes_before, "after": done.bytes_after},
        "days_scored": done.days,
        "rows_scored": 0,
        "kept_from": None,
    }
    found = done.quantised
    if found is None:
        return manifest
    return manifest | {
        "rows_scored": found.rows,
        "before": asdict(found.before),
        "after": asdict(found.after),
        "lost": {
            "metric": found.metric,
            "all": found.lost,
            "error": found.loss.error,
            "by_tables": found.by_tables,
            "by_layers": found.by_layers,
        },
        "tables": {name: asdict(table) for name, table in found.tables.items()},
        "towers": asdict(found.towers) if found.towers else None,
    }
