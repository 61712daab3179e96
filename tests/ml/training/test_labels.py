"""Several labels and sample weights, from the catalog entry to the heads of a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError

from ml.artifacts.predictor import TorchPredictor
from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner
from ml.datasets.collate import batch_from_arrow
from ml.datasets.reader import BlockReader
from ml.datasets.write import write_day
from ml.features.transforms import LabelError, compile_transforms
from ml.lake import Lake
from ml.logs.quarantine import WEIGHT
from ml.logs.validate_rows import FAULTS, validate_rows
from ml.metrics import auc
from ml.models.int8 import quantise_layers
from ml.models.predict import predict_labels
from ml.parquet import write_table
from ml.recipes.recipe import load_recipe
from ml.schema import FeatureSchema
from ml.training.objectives import per_example_loss
from ml.training.passes import train_pass
from ml.training.state import new_state
from tests.helpers.feature_table import DAY, make_spec

LABELS = {"labels": {"passable": {"column": "stars", "at_least": 3}, "saved": {}}}
KINDS = ("dlrm", "deepfm", "dcn_v2", "wide_deep")


def entry(**changes: Any) -> DatasetSpec:
    columns = {"time": "int", "stars": "float", "saved": "int", "trust": "float", "x": "float", "a": "string", "m": "string"}
    declared = make_spec().model_dump(mode="json", exclude={"labels", "dense", "sparse", "label", "source"}, exclude_none=True)
    declared |= {
        "source": {"files": "*.csv", "format": "csv", "columns": columns},
        "label": {"column": "stars", "at_least": 4, "weight": "trust"},
        "dense": [{"name": "x"}],
        "sparse": ["a", {"name": "m", "split": "|"}],
    }
    return DatasetSpec.model_validate(declared | LABELS | changes)


def log_rows(count: int = 400) -> pa.RecordBatch:
    rng = np.random.default_rng(0)
    x = rng.random(count)
    return pa.RecordBatch.from_pydict(
        {
            "event_time": np.arange(count) + 1_767_225_600_000_000,
            "stars": np.floor(1 + 5 * x),
            "saved": (x < 0.5).astype(np.int64),
            "trust": rng.integers(0, 3, count).astype(float),
            "x": x,
            "a": [str(n % 5) for n in range(count)],
            "m": [f"{n % 3}|{n % 7}" for n in range(count)],
        }
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": {"label": {"column": "saved"}}}, "the name of the main label"),
        ({"labels": {"saved": {"classes": 5}}}, "multi-class labels are not supported"),
        ({"label": {"column": "stars", "loss": "squared"}}, "regression and multi-class"),
        ({"labels": {"other": {"column": "a", "at_least": 1.0}}}, "expected a number; `is` lists values"),
        ({"labels": {"bought": {}}}, "no column 'bought'"),
        ({"label": {"column": "saved", "weight": "a"}}, "'a' is string"),
        ({"label": {"negatives": {}, "weight": "trust"}}, "sampled negatives have no weight"),
        ({"dense": [{"name": "saved"}]}, "holds the answer"),
    ],
)
def test_entries_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        entry(**change)


def test_labels_and_weights_shape_the_fingerprint() -> None:
    one = {"column": "stars", "at_least": 4}
    specs = [entry(), entry(labels={}), entry(label=one), entry(label=one, labels={})]
    assert len({spec.fingerprint for spec in specs}) == 4
    plain = FeatureSchema.of(specs[-1]).plain()
    assert set(plain) == {"dense", "single", "multi", "fingerprint"}, "stored schemas are those of before"
    assert all(FeatureSchema.from_plain(FeatureSchema.of(s).plain()) == FeatureSchema.of(s) for s in specs)


def test_rows_with_bad_weights_or_further_labels_are_quarantined() -> None:
    spec = entry(time={"column": "time"})
    columns = {name: [None] * 5 for name in spec.source.columns} | {
        "time": [1_767_225_600 + n for n in range(5)],
        "stars": [4.0] * 5,
        "saved": [0, 1, 0, 7, 1],
        "trust": [1.0, -1.0, None, 1.0, float("inf")],
    }
    found = validate_rows(spec.log, pa.table(columns), None).fault
    assert [FAULTS[code] for code in found] == ["", WEIGHT, WEIGHT, "unknown label", WEIGHT]


def test_the_transforms_refuse_what_was_not_quarantined() -> None:
    transform, rows = compile_transforms(entry()), log_rows(3)
    for column, values in (("trust", [1.0, np.nan, 1.0]), ("saved", [0, 1, 2])):
        at = rows.schema.get_field_index(column)
        with pytest.raises(LabelError, match=f"{column}"):
            transform(rows.set_column(at, column, pa.array(values)))


def test_training_data_holds_all_labels(tmp_path: Path) -> None:
    spec, lake = entry(), Lake.at(tmp_path)
    table = pa.Table.from_batches([compile_transforms(spec)(log_rows())])
    with lake.write("cleaned_features", spec.name, DAY) as staging:
        write_table(table, staging / "rows" / "part-00000.parquet")
        lake.write_manifest(staging, {"rows": len(table), "fingerprint": spec.fingerprint})
    write_day(spec, DAY, lake, LocalRunner(), block_rows=64)
    reader = BlockReader(lake, spec, [DAY], batch_size=len(table), order="time", splits=["train", "validation", "test"])
    (read,) = list(reader)
    wanted = batch_from_arrow(table, FeatureSchema.of(spec))
    stars, x = log_rows()["stars"].to_numpy(), log_rows()["x"].to_numpy()
    assert np.array_equal(read.all_labels.numpy().T, [stars >= 4, stars >= 3, x < 0.5])
    for one, other in ((read.all_labels, wanted.all_labels), (read.weight, wanted.weight), (read.dense, wanted.dense)):
        assert one is not None and other is not None and torch.equal(one, other)
    kept = read.rows(read.labels > 0.5)
    assert kept.weight is not None and torch.equal(kept.all_labels, read.all_labels[read.labels > 0.5])


def test_the_loss_is_the_weighted_sum_over_labels() -> None:
    schema = FeatureSchema.of(entry())
    batch = batch_from_arrow(compile_transforms(entry())(log_rows()), schema)
    recipe = load_recipe("dcn_v2", {"loss_weights": {"passable": 0.5}})
    state = new_state(recipe, schema)
    losses, logits = per_example_loss(state.model, batch, recipe, None, schema.labels[1:])
    every = state.model.logits(batch.dense, batch.sparse)  # type: ignore[operator]
    each = torch.nn.functional.binary_cross_entropy_with_logits(every, batch.all_labels, reduction="none")
    assert batch.weight is not None and logits is not None
    torch.testing.assert_close(losses, batch.weight * (each * torch.tensor([1.0, 0.5, 1.0])).sum(1))
    torch.testing.assert_close(logits, every[:, 0])
    with pytest.raises(ValueError, match="loss_weights"):
        new_state(load_recipe("dcn_v2", {"loss_weights": {"other": 0.5}}), schema)


@pytest.mark.parametrize("kind", KINDS)
def test_each_head_learns_its_label(kind: str, tmp_path: Path) -> None:
    spec = entry()
    schema = FeatureSchema.of(spec)
    batch = batch_from_arrow(compile_transforms(spec)(log_rows()), schema)
    state = new_state(load_recipe(kind, {"dense_optimizer": {"lr": 0.02}}), schema)
    state.begin_pass()
    train_pass(state, [batch] * 60, total_steps=60)
    state.model.eval()
    predictor = TorchPredictor(state.model, state.recipe, schema)
    found = predictor.predict_labels(batch)
    assert predictor.labels == ("label", "passable", "saved")
    np.testing.assert_allclose(found[:, 0], predictor.predict(batch), rtol=1e-5)
    areas = [auc(batch.all_labels[:, n].numpy(), found[:, n]) or 0.0 for n in range(3)]
    assert min(areas) > 0.9, areas
    predictor.save(tmp_path)
    assert np.array_equal(TorchPredictor.load(tmp_path, schema).predict_labels(batch), found)
    assert not any("Heads" in type(state.model.get_submodule(path)).__name__ for path in quantise_layers(state.model))
    assert np.abs(predict_labels(state.model, batch) - found).max() < 0.05


def test_a_two_tower_model_learns_the_main_label_only() -> None:
    schema = FeatureSchema.of(entry())
    batch = batch_from_arrow(compile_transforms(entry())(log_rows(20)), schema)
    towers = {"user": ["x", "m"], "item": ["a"], "item_id": "a", "loss": "pointwise"}
    recipe = load_recipe("two_tower", {"model": towers})
    state = new_state(recipe, schema)
    losses, _ = per_example_loss(state.model, batch, recipe, None, schema.labels[1:])
    assert losses.shape == (20,) and TorchPredictor(state.model, recipe, schema).labels == ("label",)
