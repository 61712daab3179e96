"""A DLRM that is divided by request, item and pair gives the logits of the whole one, for any division and any sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.datasets.batch import Batch
from ml.embeddings.inference.quantise import quantise_tables
from ml.models.build import build_model
from ml.models.dlrm import DLRM
from ml.models.int8 import quantise_layers
from ml.models.split_dlrm import SIDES, FeatureSides, SplitDLRM
from ml.recipes.recipe import load_recipe
from ml.schema import FeatureSchema

CANDIDATES, IDS = 7, 60
KINDS: list[dict[str, Any]] = [
    {"kind": "hashed", "rows": 64},
    {"kind": "static", "rows": 64},
    {"kind": "collisionless"},
    {"kind": "compositional", "rows": 64, "universe": 500},
]
FORMATS = ("trained", "int8 rows", "int8 rows and layers")


def drawn_model(rng: np.random.Generator, schema: FeatureSchema, format: str) -> DLRM:
    """Draw a recipe, and build its model with tables of several kinds."""
    recipe = load_recipe(
        "dlrm",
        {
            "model": {
                "embedding_dim": int(rng.choice([4, 8])),
                "bottom": [8],
                "top": [[16], [16, 8]][rng.integers(2)],
                "interaction": str(rng.choice(["dot", "cat"])),
                "linear_shortcut": bool(rng.integers(2)),
                "dropout": float(rng.choice([0.0, 0.1])),
            },
            "tables": {"features": {name: KINDS[rng.integers(len(KINDS))] for name in schema.sparse}, "init_scale": 0.5},
        },
    )
    model = build_model(recipe, schema)
    assert isinstance(model, DLRM)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
    return finished(model, format)


def finished(model: DLRM, format: str) -> DLRM:
    model.eval().requires_grad_(False)
    if format != "trained":
        quantise_tables(model, "int8")
    if format == "int8 rows and layers":
        quantise_layers(model)
    return model


def drawn_rows(rng: np.random.Generator, schema: FeatureSchema, sides: FeatureSides) -> Batch:
    """Draw the rows of the candidates of a request, in which features of the request have the same values."""
    dense = rng.normal(size=(CANDIDATES, len(schema.dense))).astype(np.float32)
    shared = [sides.of(name) == "request" for name in schema.dense]
    dense[:, shared] = dense[:1, shared]
    ids: list[np.ndarray] = []
    for name in schema.sparse:
        lengths = rng.integers(0, 4, CANDIDATES) if name in schema.multi else np.ones(CANDIDATES, int)
        rows = [rng.integers(0, IDS, length) for length in lengths]
        ids += [rows[0]] * CANDIDATES if sides.of(name) == "request" else rows
    lengths = torch.tensor([len(row) for row in ids], dtype=torch.int32)
    values = torch.from_numpy(np.concatenate(ids).astype(np.int64))
    return Batch(torch.from_numpy(dense), KeyedJaggedTensor(list(schema.sparse), values, lengths=lengths, stride=CANDIDATES))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("seed", range(12))
def test_logits_are_those_of_the_whole_model(seed: int, format: str) -> None:
    rng = np.random.default_rng([seed, FORMATS.index(format)])
    torch.manual_seed(seed)
    names = [
        [f"{kind}{n}" for n in range(rng.integers(least, most))]
        for kind, least, most in (("d", 0, 4), ("s", 1, 6), ("m", 0, 3))
    ]
    schema = FeatureSchema(*map(tuple, names), fingerprint="f", labels=("label", "bought", "rated")[: 1 + seed % 3])
    model = drawn_model(rng, schema, format)
    shares = rng.dirichlet([1, 1, 0.7])
    of = {name: str(rng.choice(SIDES, p=shares)) for name in (*schema.dense, *schema.sparse)}
    sides = FeatureSides(*(frozenset(name for name, side in of.items() if side == own) for own in ("item", "pair")))
    rows = drawn_rows(rng, schema, sides)
    split = SplitDLRM(model, schema.dense, sides)
    items, request = split.items(rows), split.request(rows.rows(torch.arange(CANDIDATES) == 3))
    logits = split.logits(request, items, torch.arange(CANDIDATES), rows if split.has_pairs else None)
    wanted = model.logits(rows.dense, rows.sparse)
    assert wanted.shape == (CANDIDATES, len(schema.labels))
    tolerance = 1e-3 if format == "int8 rows and layers" else 1e-5  # the whole model rounds the inputs of int8 layers
    torch.testing.assert_close(logits, wanted, atol=tolerance, rtol=tolerance)
    assert split.has_pairs == ("pair" in of.values() or len({of[name] for name in schema.dense}) > 1)
    assert wanted.std(0).min() > 10 * tolerance or "request" in {*of.values()}


def test_items_are_filled_in_any_order_and_read_by_number() -> None:
    schema = FeatureSchema((), ("user", "item"), (), "f")
    sides, rng = FeatureSides(frozenset({"item"})), np.random.default_rng(0)
    torch.manual_seed(0)
    split = SplitDLRM(drawn_model(rng, schema, "int8 rows"), (), sides)
    rows = drawn_rows(rng, schema, sides)
    at_once, states = split.items(rows), split.empty_states(CANDIDATES)
    for some in ([5, 0, 2], [1], [3, 4, 6]):
        found = split.items(rows.rows(torch.isin(torch.arange(CANDIDATES), torch.tensor(some))))
        for held, own in zip(states, found, strict=True):
            held[sorted(some)] = own
    for held, own in zip(states, at_once, strict=True):
        torch.testing.assert_close(held, own)
    request = split.request(rows.rows(torch.arange(CANDIDATES) == 0))
    both = split.logits(request, states, torch.tensor([6, 2]))
    torch.testing.assert_close(both, split.logits(request, at_once, torch.arange(CANDIDATES))[[6, 2]])
