"""The loss by quantisation is measured on the model itself, table by table."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import ml.export.quantise
from ml.datasets.batch import Batch
from ml.embeddings.inference.kinds import quantisable
from ml.embeddings.inference.quantise import quantise_bags, quantise_tables
from ml.export.accuracy import Accuracy, accuracy_of, losses_by_table
from ml.export.quantise import quantise
from ml.models.build import build_model
from ml.models.int8 import quantise_layers
from ml.recipes.export import ExportRecipe
from ml.recipes.recipe import load_recipe
from ml.schema import FeatureSchema
from ml.training.passes import train_pass
from ml.training.state import TrainState
from tests.helpers.training_days import make_batches

SCHEMA = FeatureSchema(("x",), ("a", "b"), ("m",), "fingerprint")


@pytest.fixture(scope="module")
def wide_deep() -> nn.Module:
    """Train a model with two collections of tables; the second has one weight per id."""
    wide = {"kind": "ftrl", "lr": 0.1}
    features = {"b": {"kind": "hashed", "rows": 30}}
    model = {"embedding_dim": 4, "deep": [8], "wide_optimizer": wide}
    recipe = load_recipe("wide_deep", {"model": model, "tables": {"features": features, "init_scale": 1.0}})
    state = TrainState.of(recipe, SCHEMA, build_model(recipe, SCHEMA))
    state.begin_pass()
    train_pass(state, make_batches(SCHEMA, 20), total_steps=20)
    return state.model.eval()


@pytest.fixture(scope="module")
def batch() -> Batch:
    return next(make_batches(SCHEMA, 1, size=3000, seed=5))


def test_the_loss_of_a_table_is_that_of_the_model_with_only_this_table_quantised(wide_deep: nn.Module, batch: Batch) -> None:
    before = accuracy_of(wide_deep, batch)
    made = {path: quantise_bags(bags, "int4")[0] for path, bags in quantisable(wide_deep).items()}
    modules = dict(wide_deep.named_modules())
    losses = losses_by_table(wide_deep, made, batch)
    assert dict(wide_deep.named_modules()) == modules, "the model is left as it was"
    assert set(losses) == {"a", "b", "m", "wide.a", "wide.b", "wide.m"}
    for table, lost in losses.items():
        alone = copy.deepcopy(wide_deep)
        quantise_tables(alone, "float32", {table: "int4"})
        assert lost == pytest.approx(before.lost(accuracy_of(alone, batch)), abs=1e-6)
    assert any(losses.values())


def test_the_loss_is_split_into_tables_and_layers(wide_deep: nn.Module, batch: Batch) -> None:
    model, trained = copy.deepcopy(wide_deep), accuracy_of(wide_deep, batch)
    found = quantise(model, ExportRecipe(rows="int4", layers="int8", tables={"a": "float16"}), batch)
    assert (found.before, found.after, found.rows) == (trained, accuracy_of(model, batch), 3000)
    assert found.lost == pytest.approx(found.by_tables + found.by_layers)
    with_tables = copy.deepcopy(wide_deep)
    quantise_tables(with_tables, "int4", {"a": "float16"})
    assert found.by_tables == trained.lost(accuracy_of(with_tables, batch))
    quantise_layers(with_tables)
    assert torch.equal(with_tables(batch.dense, batch.sparse), model(batch.dense, batch.sparse))
    formats = {name: table.format for name, table in found.tables.items()}
    assert formats == {"a": "float16", "b": "int4", "m": "int4", "wide.a": "float16", "wide.b": "float16", "wide.m": "float16"}


def test_nothing_is_lost_if_nothing_changes(wide_deep: nn.Module, batch: Batch) -> None:
    found = quantise(copy.deepcopy(wide_deep), ExportRecipe(rows="float32", layers="float32"), batch)
    assert found.lost == pytest.approx(0, abs=1e-6) and found.by_layers == 0
    assert {table.auc_loss for table in found.tables.values()} == {0.0}


def test_an_unknown_table_is_refused(wide_deep: nn.Module, batch: Batch) -> None:
    with pytest.raises(ValueError, match=r"export\.tables: \['z'\] are not among the tables \['a', 'b', 'm', 'wide\.a'"):
        quantise(copy.deepcopy(wide_deep), ExportRecipe(tables={"z": "int4"}), batch)


def test_tables_are_measured_on_clicked_and_unclicked_rows_wherever_they_are(
    wide_deep: nn.Module, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ml.export.quantise, "TABLE_ROWS", 64)
    clicked = batch.labels > 0.5
    late = replace(batch, labels=(clicked & (clicked.cumsum(0) > 100)).float())
    few = (late.labels > 0.5) & (late.labels.cumsum(0) <= 32) | (late.labels < 0.5) & ((1 - late.labels).cumsum(0) <= 32)
    made = {path: quantise_bags(bags, "int4")[0] for path, bags in quantisable(wide_deep).items()}
    wanted = losses_by_table(wide_deep, made, late.rows(few))
    found = quantise(copy.deepcopy(wide_deep), ExportRecipe(rows="int4"), late)
    assert accuracy_of(wide_deep, late.rows(few)).auc is not None and any(wanted.values())
    assert {name: table.auc_loss for name, table in found.tables.items()} == wanted


def test_log_loss_is_measured_if_auc_is_undefined(wide_deep: nn.Module, batch: Batch) -> None:
    clicked = batch.rows(batch.labels == 1)
    found = quantise(copy.deepcopy(wide_deep), ExportRecipe(rows="int4"), clicked)
    assert found.metric == "log loss" and found.before.auc is None
    assert found.lost == pytest.approx(found.after.log_loss - found.before.log_loss, abs=1e-12) and found.lost != 0
    assert Accuracy(0.7, 0.5).lost(Accuracy(0.6, 0.4)) == pytest.approx(0.1)
