"""A model with every kind of table, chosen per feature in the recipe, is trained, saved and loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.datasets.batch import Batch
from ml.embeddings.interface import bags_of
from ml.embeddings.mixed import MixedEmbeddingBags
from ml.models.tables import KINDS, build_bags
from ml.recipes.recipe import Recipe, load_recipe
from ml.schema import FeatureSchema
from ml.training.passes import train_pass
from ml.training.state import new_state
from ml.training.state_dict import load_snapshot, save_snapshot

SCHEMA = FeatureSchema(dense=("d",), single=("id", "bucket", "word", "page", "site"), multi=("tags",), fingerprint="0")
FEATURES = {
    "bucket": {"kind": "static", "rows": 16},
    "word": {"kind": "hashed", "rows": 64},
    "page": {"kind": "compositional", "rows": 200, "universe": 5000},
    "site": {"kind": "compositional", "rows": 500, "family": "hash", "operation": "project", "dim": 4},
    "tags": {"kind": "collisionless", "min_count": 2, "ttl_seconds": 3600.0},
}
MICROSECONDS = 1_000_000


def recipe(**tables: object) -> Recipe:
    small = {"model": {"embedding_dim": 8, "bottom": [8], "top": [8]}, "batch_size": 64}
    return load_recipe("dlrm", {**small, "tables": {"features": FEATURES, **tables}})


def batches(count: int, seed: int = 0) -> list[Batch]:
    """Yield batches whose label is the parity of `id`."""
    rng, found = np.random.default_rng(seed), []
    for step in range(count):
        ids = rng.integers(0, 50, 64)
        lengths = rng.integers(1, 4, 64)
        single = [ids * 2**50, rng.integers(2, 16, 64), *(rng.integers(-(2**60), 2**60, 64) for _ in range(3))]
        values = np.concatenate([*single, rng.integers(0, 30, lengths.sum())])
        sparse = KeyedJaggedTensor(
            list(SCHEMA.sparse),
            torch.from_numpy(values),
            lengths=torch.from_numpy(np.concatenate([np.ones(5 * 64, np.int64), lengths])),
        )
        time = torch.full((64,), step * 60 * MICROSECONDS)
        found.append(Batch(torch.zeros(64, 1), sparse, torch.from_numpy((ids % 2).astype(np.float32)), torch.ones(64), time))
    return found


def test_kinds_stand_side_by_side_and_learn() -> None:
    state = new_state(recipe(init_scale=0.1), SCHEMA)
    state.begin_pass()
    report = train_pass(state, batches(150), total_steps=150)
    assert report.loss is not None and report.loss < 0.4
    assert set(report.tables) == set(SCHEMA.sparse)
    assert report.tables["id"].rows == 50 and report.tables["bucket"].rows == 16
    assert report.tables["tags"].looked_up > report.tables["tags"].unknown > 0
    bags = bags_of(state.model)
    assert {path.rpartition(".")[2] for path in bags} == set(KINDS)


def test_one_kind_needs_no_mixing() -> None:
    assert not isinstance(build_bags(recipe(features={}), FeatureSchema((), ("a", "b"), (), "")), MixedEmbeddingBags)


def test_all_kinds_are_saved_and_go_on_as_if_never_interrupted(tmp_path: Path) -> None:
    data = batches(40)
    whole, first = new_state(recipe(), SCHEMA), new_state(recipe(), SCHEMA)
    for state in (whole, first):
        state.begin_pass()
        train_pass(state, data[:20], total_steps=40)
    save_snapshot(first, tmp_path)
    second = load_snapshot(tmp_path, schema=SCHEMA)
    for state in (whole, second):
        train_pass(state, data[20:], total_steps=40)
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, state in ((one, whole), (two, second)):
        folder.mkdir()
        save_snapshot(state, folder)
    assert [p.read_bytes() for p in sorted(one.iterdir())] == [p.read_bytes() for p in sorted(two.iterdir())]


def test_rows_expire_when_the_pass_ends() -> None:
    state = new_state(recipe(features={**FEATURES, "id": {"kind": "collisionless", "ttl_seconds": 600.0}}), SCHEMA)
    state.begin_pass()
    data = batches(60)
    first = {int(i) for i in data[0].sparse["id"].values()}
    late = {int(i) for batch in data[49:] for i in batch.sparse["id"].values()}
    report = train_pass(state, data, total_steps=60)
    assert report.tables["id"].expired == len(first | {int(i) for b in data for i in b.sparse["id"].values()}) - len(late)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"kind": "compositional", "rows": 100}, "cannot distinguish 4294967296 ids"),
        ({"kind": "collisionless", "filter": "sliding"}, "window_seconds is required with filter: sliding"),
    ],
)
def test_a_table_that_can_not_be_is_refused_when_the_recipe_is_read(table: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(features={"id": table})
