"""The index of the live items equals a new one, and is built again only where it has to be."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray

from ml.artifacts.bundle import Bundle
from ml.artifacts.predictor import TorchPredictor
from ml.lake import Lake
from ml.retrieval.index import ItemIndex
from ml.retrieval.vectors import item_vectors, two_tower_of
from ml.serving import live_index
from ml.serving.live_index import LiveIndex
from ml.serving.models import load_export
from tests.helpers.kiosk_lake import DAY, spec_of

CELLS = 1
"""`exact_below` of an index that always has cells."""


@pytest.fixture
def tower(lake: Lake) -> Bundle:
    return load_export(lake, spec_of(), "two_tower", DAY)


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The numbers of items that were embedded at once."""
    counts: list[int] = []

    def counted(tower: Bundle, items: pa.Table) -> NDArray[np.float32]:
        counts.append(len(items))
        return item_vectors(tower, items)

    monkeypatch.setattr(live_index, "item_vectors", counted)
    yield counts


def items_of(ids: NDArray[np.int64], clicks: int = 0) -> pa.Table:
    return pa.table({"item": ids, "clicks_1h": (ids + clicks) % 7, "unread": [str(clicks)] * len(ids)})


def with_changes(bundle: Bundle, scale: float) -> Bundle:
    """The same transforms, and a model whose item tables have other values."""
    held = bundle.predictor
    assert isinstance(held, TorchPredictor)
    changed = TorchPredictor(two_tower_of(bundle), held.recipe, held.schema)
    with torch.no_grad():
        for name, weights in changed.model.named_parameters():
            weights.add_(scale * torch.randn(weights.shape, generator=torch.Generator().manual_seed(len(name))))
    return bundle.with_predictor(changed)


def assert_equals_a_new_index(index: ItemIndex, ids: NDArray[np.int64], items: pa.Table, tower: Bundle) -> None:
    vectors = item_vectors(tower, items)
    np.testing.assert_array_equal(index.ids, ids)
    np.testing.assert_allclose(index.vectors, vectors, atol=1e-6)
    np.testing.assert_allclose(index.search(vectors, 1).scores, 1, atol=0.01)  # each item finds itself, or one like it


@pytest.mark.parametrize("exact_below", [CELLS, 10_000])
def test_only_new_and_changed_items_are_embedded(tower: Bundle, embedded: list[int], exact_below: int) -> None:
    held, ids = LiveIndex(exact_below), np.arange(100, 400)
    first = held.refresh(ids, items_of(ids), tower)
    assert held.refresh(ids, items_of(ids), tower) is first
    later = np.concatenate([np.arange(100), ids[20:]])  # 100 are new, and 20 are gone
    assert_equals_a_new_index(held.refresh(later, items_of(later), tower), later, items_of(later), tower)
    clicks = items_of(later)["clicks_1h"].to_numpy().copy()
    clicks[7:10] += 1
    clicked = items_of(later).set_column(1, "clicks_1h", pa.array(clicks, mask=np.arange(len(later)) == 50))
    assert_equals_a_new_index(held.refresh(later, clicked, tower), later, clicked, tower)
    fewer = later[5:]
    last = held.refresh(fewer, clicked.slice(5), tower)
    assert_equals_a_new_index(last, fewer, clicked.slice(5), tower)
    unread = clicked.slice(5).set_column(2, "unread", pa.array(["x"] * len(fewer)))
    assert held.refresh(fewer, unread, tower) is last
    assert embedded == [300, 100, 4]


@pytest.mark.parametrize(("scale", "is_kept"), [(1e-4, True), (10.0, False)])
def test_a_changed_model_moves_all_items_and_cells_that_no_longer_fit_are_built_again(
    tower: Bundle, embedded: list[int], scale: float, is_kept: bool
) -> None:
    held, ids = LiveIndex(CELLS), np.arange(300)
    held.refresh(ids, items_of(ids), tower)
    before = held._built
    other = with_changes(tower, scale)
    assert_equals_a_new_index(held.refresh(ids, items_of(ids), other), ids, items_of(ids), other)
    assert (held._built is before) is is_kept and embedded == [300, 300]


def test_other_cells_are_made_when_the_items_have_more_than_doubled(tower: Bundle) -> None:
    held = LiveIndex(CELLS)
    held.refresh(np.arange(300), items_of(np.arange(300)), tower)
    before = held._built
    for count, is_kept in ((600, True), (601, False)):
        ids = np.arange(count)
        assert_equals_a_new_index(held.refresh(ids, items_of(ids), tower), ids, items_of(ids), tower)
        assert (held._built is before) is is_kept


def test_items_are_embedded_again_while_a_delta_is_being_applied(tower: Bundle, embedded: list[int]) -> None:
    held, ids = LiveIndex(), np.arange(30)
    for changes in (0, 0, 1, 1, 2, 2):
        tower.predictor.changes = changes  # type: ignore[attr-defined]
        held.refresh(ids, items_of(ids), tower)
    assert embedded == [30, 30, 30, 30]


def test_an_index_gets_cells_when_it_grows_and_other_cells_when_most_items_are_new(tower: Bundle) -> None:
    held = LiveIndex(exact_below=200)
    for ids in (np.arange(100), np.arange(300), np.arange(250, 600), np.arange(550, 600)):
        index = held.refresh(ids, items_of(ids), tower)
        assert index.is_exact == (len(ids) < 200)
        assert_equals_a_new_index(index, ids, items_of(ids), tower)
