"""Recall of exported towers against the trained ones."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.datasets.batch import Batch
from ml.embeddings.inference.quantise import quantise_tables
from ml.export.quantise import quantise
from ml.export.towers import TowerRecall, TowerScores
from ml.models.build import build_model
from ml.recipes.export import ExportRecipe
from ml.recipes.recipe import load_recipe
from ml.schema import FeatureSchema

SCHEMA = FeatureSchema((), ("user", "item"), (), "fingerprint")
USERS, ITEMS, ROWS = 300, 400, 1000


@pytest.fixture(scope="module")
def towers() -> nn.Module:
    torch.manual_seed(0)
    model = {"embedding_dim": 16, "hidden": [16], "out": 16, "user": ["user"], "item": ["item"]}
    tables = {"default": {"kind": "hashed", "rows": 2048}, "init_scale": 1.0}
    return build_model(load_recipe("two_tower", {"model": model, "tables": tables}), SCHEMA).eval()


@pytest.fixture(scope="module")
def batch() -> Batch:
    rng = torch.Generator().manual_seed(1)
    users = torch.randint(1, USERS, (ROWS,), generator=rng)
    items = torch.randperm(ROWS, generator=rng) % ITEMS + 1  # each at least once
    sparse = KeyedJaggedTensor(["user", "item"], torch.cat((users, items)), lengths=torch.ones(2 * ROWS, dtype=torch.int32))
    ones = torch.ones(ROWS)
    return Batch(torch.zeros(ROWS, 0), sparse, (users % 2).float(), ones, torch.arange(ROWS))


def test_recall_is_the_share_of_the_nearest_items_that_both_have(towers: nn.Module, batch: Batch) -> None:
    coarse = copy.deepcopy(towers)
    quantise_tables(coarse, "int4")
    trained, exported = TowerScores.of(towers, batch), TowerScores.of(coarse, batch)
    assert trained is not None and exported is not None and trained.scores.shape == (512, ITEMS)
    k = ITEMS // 10
    nearest = [one.scores.argsort(dim=1, descending=True)[:, :k].tolist() for one in (trained, exported)]
    shares = [len(set(a) & set(b)) / k for a, b in zip(*nearest, strict=True)]
    found = trained.recall(exported)
    assert found == TowerRecall(pytest.approx(sum(shares) / len(shares), abs=1e-6), k, 512, ITEMS)  # type: ignore[arg-type]
    assert 0.3 < found.recall < 0.99


def test_the_export_measures_its_towers(towers: nn.Module, batch: Batch) -> None:
    recalls = {}
    for rows in ("float32", "int8", "int4"):
        found = quantise(copy.deepcopy(towers), ExportRecipe(rows=rows), batch).towers  # type: ignore[arg-type]
        assert found is not None and (found.at, found.queries, found.items) == (40, 512, ITEMS)
        recalls[rows] = found.recall
    assert recalls["float32"] == 1.0 and 1.0 > recalls["int8"] > 0.95 > recalls["int4"]


def test_items_of_equal_score_are_equally_near() -> None:
    trained = TowerScores(torch.tensor([[3.0] * 10 + [1.0] * 10]))
    other, worse = torch.arange(20.0).flip(0).unsqueeze(0), torch.arange(20.0).unsqueeze(0)
    found = trained.recall(TowerScores(other))
    assert found is not None and (found.recall, found.at) == (1.0, 2)
    assert getattr(trained.recall(TowerScores(worse)), "recall", None) == 0.0


def test_nothing_is_measured_with_few_items_and_without_two_towers(batch: Batch) -> None:
    few = TowerScores(torch.rand(3, 9))
    assert few.recall(few) is None
    dlrm = load_recipe("dlrm", {"model": {"embedding_dim": 4, "bottom": [8], "top": [8]}})
    assert TowerScores.of(build_model(dlrm, SCHEMA).eval(), batch) is None
