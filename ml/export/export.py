"""A day's trained model as one for inference alone: made, measured, and written only where it is as good as the recipe asks.

What an exported model holds is `artifact`; what it lost is measured by `quantise`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn
from upath import UPath

from ml.artifacts.exported import DamagedExport, bytes_of, digest, load_exported, save_exported
from ml.artifacts.snapshot import load_snapshot
from ml.catalog.spec import DatasetSpec
from ml.datasets.batch import Batch
from ml.datasets.reader import BlockReader
from ml.datasets.splits import SPLITS
from ml.datasets.splits import STAGE as DATASETS
from ml.days import day_before
from ml.export.quantise import Quantised, quantise
from ml.lake import Lake
from ml.recipes.export import LOOK_BACK_DAYS, ExportRecipe
from ml.recipes.recipe import recipe_of
from ml.schema import FeatureSchema
from ml.training.load import stage_of as trained_stage

ROWS = 8192
_NAMED = 3


class ExportRefused(ValueError):
    """An export loses more than its recipe allows, or there is nothing to tell by."""


@dataclass(frozen=True)
class ExportedDay:
    """What `export_day` wrote. days: of the rows that were scored. Bytes: of all that predictions need; before, as trained."""

    folder: UPath
    days: list[str]
    quantised: Quantised
    bytes_before: int
    bytes_after: int


def stage_of(model: str) -> str:
    """Where the exported days of a dataset's model of this name lie in the lake."""
    return f"exported_models/{model}"


def load_day(lake: Lake, spec: DatasetSpec, day: str, model: str | None = None) -> nn.Module:
    """The exported model of a day, the dataset's first by default: `forward(dense, sparse) -> logits [B]`.

    Raises `MissingPartition`; `DamagedExport`, also where it was made of features of another specification, or its files are
    not those that were written.
    """
    stage = stage_of(model or spec.primary)
    folder, manifest = lake.require(stage, spec.name, day), lake.manifest(stage, spec.name, day)
    if manifest["fingerprint"] != spec.fingerprint:
        raise DamagedExport(
            f"{folder}: of features with the fingerprint {manifest['fingerprint']}, {spec.name} has {spec.fingerprint} now; go "
            "back to what it was, or train and export again"
        )
    if manifest["digest"] != digest(folder):
        raise DamagedExport(f"{folder}: not the files that its manifest describes; export its day again")
    return load_exported(folder)


def export_day(
    spec: DatasetSpec, day: str, lake: Lake, model: str | None = None, *, choice: ExportRecipe | None = None
) -> ExportedDay:
    """Export a trained day and write the partition `exported_models/<model>/<dataset>/<day>`.

    model: the dataset's first by default. choice: what the model's recipe says under `export` by default. Both models score
    `rows_to_score`; where these have no AUC, being clicked all or not at all, the limit holds for log loss. Raises
    `ExportRefused`, having written nothing, where the exported one loses more, or there are no rows; `MissingPartition`;
    `ValueError` for a table that is not there.
    """
    model = model or spec.primary
    choice = choice or recipe_of(spec, model).export
    stage, source = stage_of(model), trained_stage(model)
    state = load_snapshot(lake.require(source, spec.name, day), schema=FeatureSchema.of(spec), for_training=False)
    net = state.model.eval()
    bytes_before = bytes_of(net)
    days, batch = rows_to_score(lake, spec, day)
    if batch is None:
        raise ExportRefused(f"{spec.name}/{stage} of {day}: {days[0]} to {days[-1]} have no rows to tell what it would lose")
    made_from = lake.lineage(spec.name, [(source, day), *((DATASETS, scored) for scored in days)])
    quantised = quantise(net, choice, batch, state.recipe.sampling_correction)
    if quantised.lost > choice.max_auc_loss:
        raise ExportRefused(f"{spec.name}/{stage} of {day}: {_refusal(quantised, days)}")
    with lake.write(stage, spec.name, day) as folder:
        save_exported(net, state.recipe, state.schema, folder)
        done = ExportedDay(lake.partition(stage, spec.name, day), days, quantised, bytes_before, bytes_of(net))
        identity = {"digest": digest(folder), "fingerprint": spec.fingerprint, "snapshot": lake.digest(source, spec.name, day)}
        lake.write_manifest(folder, identity | _figures(done) | made_from)
    return done


def rows_to_score(lake: Lake, spec: DatasetSpec, day: str) -> tuple[list[str], Batch | None]:
    """`ROWS` rows of the day drawn with equal chances; where it has fewer, of it and so many days before it as it takes, of a
    week at most, each row with the same chance whatever its day. Gives their days too; None where there are no rows.

    They are of all splits, and the model learned from most of them: where it did, it leans on the rows of rare ids more than it
    will tomorrow, so losses look larger than they are, if anything. Few rows would have a limit of AUC refuse by chance.
    """
    days = [day]
    reader = _reader(lake, spec, days)
    while reader.rows < ROWS and len(days) < LOOK_BACK_DAYS:
        before = day_before(days[0])
        there = lake.has(DATASETS, spec.name, before)
        if not there or lake.manifest(DATASETS, spec.name, before)["fingerprint"] != spec.fingerprint:
            break
        days.insert(0, before)
        reader = _reader(lake, spec, days)
    return days, next(iter(reader), None)


def _reader(lake: Lake, spec: DatasetSpec, days: list[str]) -> BlockReader:
    return BlockReader(lake, spec, days, splits=SPLITS, batch_size=ROWS, order="shuffled")


def _refusal(found: Quantised, days: list[str]) -> str:
    """What was lost, where, and the way out."""
    before, after = ((a.log_loss if found.before.auc is None else a.auc) for a in (found.before, found.after))
    worst = sorted(found.tables.items(), key=lambda item: -item[1].auc_loss)[:_NAMED]
    most = ", ".join(f"{name} {table.auc_loss:.5f} as {table.held_as}" for name, table in worst)
    return (
        f"{found.metric} goes from {before:.5f} to {after:.5f} on {found.rows} rows of {days[0]} to {days[-1]}, a loss of "
        f"{found.lost:.5f}; the recipe's export.max_auc_loss is {found.choice.max_auc_loss}. By tables {found.by_tables:.5f} "
        f"(alone: {most}), by layers as {found.choice.layers} {found.by_layers:.5f}. Give such tables more bits "
        "(export.tables), or all of them (export.rows), leave layers as they are (export.layers: float32), or allow more; "
        "what was exported before stays"
    )


def _figures(done: ExportedDay) -> dict[str, Any]:
    found = done.quantised
    return {
        "export": found.choice.model_dump(mode="json"),
        "bytes": {"before": done.bytes_before, "after": done.bytes_after},
        "rows_scored": found.rows,
        "days_scored": done.days,
        "before": asdict(found.before),
        "after": asdict(found.after),
        "lost": {"metric": found.metric, "all": found.lost, "by_tables": found.by_tables, "by_layers": found.by_layers},
        "tables": {name: asdict(table) for name, table in found.tables.items()},
    }
