"""Quantisation of a trained model, with the accuracy lost. `ml.export.day` decides whether the loss is acceptable."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import nn

from ml.datasets.batch import Batch
from ml.embeddings.inference.kinds import quantisable
from ml.embeddings.inference.quantise import QuantisedTable, quantise_bags
from ml.evaluation.compare import Estimate
from ml.export.accuracy import Accuracy, accuracy, loss_of, losses_by_table, scores_of
from ml.export.towers import TowerRecall, TowerScores
from ml.models.int8 import quantise_layers
from ml.recipes.export import ExportRecipe
from ml.recipes.sampling import UNCORRECTED, Correction

TABLE_ROWS = 2048  # rows that each table is measured on: with all rows this would be the slowest part of an export


@dataclass(frozen=True)
class MeasuredTable(QuantisedTable):
    """A quantised table, and the accuracy that the model loses if only this table is quantised.

    Attributes:
        auc_loss: Loss of AUC, or of log loss if that is `Quantised.metric`. Measured on the first clicked and the first
            unclicked rows, at most half of `TABLE_ROWS` each.
    """

    auc_loss: float


@dataclass(frozen=True)
class Quantised:
    """The quantisation of a model, and the accuracy lost.

    Attributes:
        choice: The formats that the recipe chose.
        rows: Number of rows scored.
        before: Accuracy as trained.
        after: Accuracy as quantised, on the same rows.
        loss: Accuracy lost, with its sampling error.
        by_tables: The part of the loss that the tables cause.
        by_layers: The part of the loss that the layers cause.
        tables: Format, size and error of each table.
        towers: Recall of the quantised towers against the trained ones; None for other models, and with very few items.
    """

    choice: ExportRecipe
    rows: int
    before: Accuracy
    after: Accuracy
    loss: Estimate
    by_tables: float
    by_layers: float
    tables: dict[str, MeasuredTable]
    towers: TowerRecall | None

    @property
    def metric(self) -> str:
        """The metric of `lost`: AUC, or log loss if AUC is undefined."""
        return "log loss" if self.before.auc is None else "AUC"

    @property
    def lost(self) -> float:
        """Accuracy lost by quantising tables and layers."""
        return self.loss.value


def quantise(model: nn.Module, choice: ExportRecipe, batch: Batch, correction: Correction = UNCORRECTED) -> Quantised:
    """Replace tables and layers of a trained model by quantised ones, and measure on a batch the accuracy lost.

    Args:
        model: The trained model, in eval mode; changed in place.
        choice: Formats of tables and layers.
        batch: B rows with labels.
        correction: As for `ml.models.predict.predict`.

    Returns:
        Formats and losses.

    Raises:
        ValueError: `choice.tables` names a table that the model does not have, or that cannot be quantised.
    """
    made, stats = {}, {}
    for path, bags in quantisable(model).items():
        made[path], own = quantise_bags(bags, choice.rows, choice.tables)
        stats |= own
    if strange := set(choice.tables) - set(stats):
        raise ValueError(f"recipe: export.tables: {sorted(strange)} are not among the tables {sorted(stats)}")
    clicked = batch.labels > 0.5
    few = torch.where(clicked, clicked.cumsum(0), (~clicked).cumsum(0)) <= TABLE_ROWS // 2
    auc_losses = losses_by_table(model, made, batch.rows(few), correction)
    tables = {name: MeasuredTable(**asdict(table), auc_loss=auc_losses[name]) for name, table in stats.items()}
    labels = batch.labels.numpy()
    trained, nearest = scores_of(model, batch, correction), TowerScores.of(model, batch)
    for path, bags in made.items():
        model.set_submodule(path, bags)
    between = accuracy(labels, scores_of(model, batch, correction))
    if choice.layers == "int8":
        quantise_layers(model)
    quantised, now_nearest = scores_of(model, batch, correction), TowerScores.of(model, batch)
    towers = nearest.recall(now_nearest) if nearest and now_nearest else None
    before, after, loss = accuracy(labels, trained), accuracy(labels, quantised), loss_of(labels, trained, quantised)
    return Quantised(choice, len(batch), before, after, loss, before.lost(between), between.lost(after), tables, towers)
