"""A trained model in fewer bits, and what that costs on some rows. Whether it is too much, and where it goes, is `export`."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import nn

from ml.datasets.batch import Batch
from ml.embeddings.inference.kinds import quantisable
from ml.embeddings.inference.quantise import QuantisedTable, quantise_bags
from ml.export.accuracy import Accuracy, accuracy_of, losses_by_table
from ml.models.int8 import quantise_layers
from ml.recipes.export import ExportRecipe

TABLE_ROWS = 2048  # of those that are scored, for each table: a pass a table over all of them would take longest of all


@dataclass(frozen=True)
class MeasuredTable(QuantisedTable):
    """auc_loss: of the trained model with this table alone in fewer bits, on the first rows of both kinds, half of `TABLE_ROWS`
    of each at most; of log loss where that is `Quantised.metric`."""

    auc_loss: float


@dataclass(frozen=True)
class Quantised:
    """What became of a model. before, after: on the same rows. by_tables, by_layers: their parts in what was lost."""

    choice: ExportRecipe
    rows: int
    before: Accuracy
    after: Accuracy
    by_tables: float
    by_layers: float
    tables: dict[str, MeasuredTable]

    @property
    def metric(self) -> str:
        """What `lost` is of."""
        return "log loss" if self.before.auc is None else "AUC"

    @property
    def lost(self) -> float:
        return self.before.lost(self.after)


def quantise(model: nn.Module, choice: ExportRecipe, batch: Batch, corrected: bool = False) -> Quantised:
    """Put tables and layers in fewer bits in the place of a trained model's, and measure on a batch what that costs.

    corrected: as for `ml.models.predict.predict`. Raises `ValueError` where `choice.tables` names a table that is not there,
    or can not be quantised.
    """
    made, figures = {}, {}
    for path, bags in quantisable(model).items():
        made[path], own = quantise_bags(bags, choice.rows, choice.tables)
        figures |= own
    if strange := set(choice.tables) - set(figures):
        raise ValueError(f"recipe: export.tables: {sorted(strange)} not among the tables {sorted(figures)}")
    clicked = batch.labels > 0.5
    few = torch.where(clicked, clicked.cumsum(0), (~clicked).cumsum(0)) <= TABLE_ROWS // 2
    auc_losses = losses_by_table(model, made, batch.rows(few), corrected)
    tables = {name: MeasuredTable(**asdict(table), auc_loss=auc_losses[name]) for name, table in figures.items()}
    before = accuracy_of(model, batch, corrected)
    for path, bags in made.items():
        model.set_submodule(path, bags)
    between = accuracy_of(model, batch, corrected)
    if choice.layers == "int8":
        quantise_layers(model)
    after = accuracy_of(model, batch, corrected)
    return Quantised(choice, len(batch), before, after, before.lost(between), between.lost(after), tables)
