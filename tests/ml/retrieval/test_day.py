"""The candidate index of a day: its items, vectors and recall, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from upath import UPath

from ml.artifacts.bundle import Bundle
from ml.lake import Lake, MissingPartition, StalePartition
from ml.recipes.recipe import retrieval_model
from ml.retrieval.candidate_index import CandidateIndex, DamagedIndex
from ml.retrieval.day import index_day
from ml.retrieval.vectors import item_vectors, user_vectors
from ml.schema import ITEM_KEY
from tests.helpers.kiosk_days import kiosk
from tests.helpers.kiosk_lake import DAY, export, kiosk_lake, spec_of


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return kiosk_lake(tmp_path)


def files(folder: UPath) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_day_has_its_live_items_with_the_vectors_of_its_model(lake: Lake) -> None:
    spec = spec_of()
    done = index_day(spec, DAY, lake)
    held = CandidateIndex.load(lake, spec, DAY)
    assert retrieval_model(spec) == done.model == "two_tower" and done.recall == 1.0 and done.queries > 100
    assert held.index is not None and len(held.index) == done.items == len(held.items)
    bundle = Bundle.load(lake.partition("exported_models/two_tower", spec.name, DAY))
    np.testing.assert_allclose(held.index.vectors, item_vectors(bundle, held.items), rtol=0, atol=0)
    np.testing.assert_allclose(np.linalg.norm(held.index.vectors, axis=1), 1.0, atol=1e-5)
    users = pa.table({"user": [3, 4], "place": ["here", "there"]})
    found = held.index.search(user_vectors(bundle, users), 3)
    rows = held.items[ITEM_KEY].to_numpy()
    assert np.isin(found.ids, rows).all()
    pair = pa.RecordBatch.from_pydict(
        {
            "user": [3],
            "place": ["here"],
            "item": [held.items["item"][int(np.searchsorted(rows, found.ids[0, 0]))].as_py()],
            "clicks_1h": [held.items["clicks_1h"][int(np.searchsorted(rows, found.ids[0, 0]))].as_py()],
            "history:history": pa.array([[]], pa.list_(pa.int64())),
        }
    )
    logit = bundle.predictor.model(*_inputs(bundle, pair))  # type: ignore[attr-defined]
    assert logit.item() == pytest.approx(found.scores[0, 0] / bundle.predictor.model.temperature, abs=1e-4)  # type: ignore[attr-defined]


def _inputs(bundle: Bundle, rows: pa.RecordBatch) -> tuple[object, object]:
    batch = bundle.batch(rows)
    return batch.dense, batch.sparse


def test_making_a_day_again_gives_the_same_bytes(lake: Lake) -> None:
    spec = spec_of()
    once = files(index_day(spec, DAY, lake).folder)
    assert files(index_day(spec, DAY, lake).folder) == once


def test_without_a_two_tower_model_a_day_has_items_alone(lake: Lake) -> None:
    spec = kiosk()
    done = index_day(spec, DAY, lake)
    held = CandidateIndex.load(lake, spec, DAY)
    assert done.model is None and done.recall is None and held.index is None and len(held.items) == done.items > 0


def test_a_damaged_index_is_refused_and_named(lake: Lake) -> None:
    spec = spec_of()
    folder = index_day(spec, DAY, lake).folder
    data = bytearray((folder / "vectors.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "vectors.safetensors").write_bytes(bytes(data))
    with pytest.raises(DamagedIndex, match=r"vectors\.safetensors is missing, or has changed"):
        CandidateIndex.load(lake, spec, DAY)


@pytest.mark.parametrize("files", [None, [], "vectors.safetensors"])
def test_an_index_whose_manifest_does_not_list_its_files_is_refused(files: object, lake: Lake) -> None:
    spec = spec_of()
    folder = index_day(spec, DAY, lake).folder
    lake.write_manifest(folder, lake.manifest("candidate_index", spec.name, DAY) | {"files": files})
    with pytest.raises(DamagedIndex, match=r"manifest\.json: files: expected an object"):
        CandidateIndex.load(lake, spec, DAY)


def test_an_index_of_another_specification_is_refused(lake: Lake) -> None:
    index_day(spec_of(), DAY, lake)
    with pytest.raises(StalePartition):
        CandidateIndex.load(lake, spec_of(sparse=["user", "item", "place", {"name": "history", "history": 2}]), DAY)


def test_a_day_without_an_export_is_refused(lake: Lake) -> None:
    lake.discard("exported_models/two_tower", "kiosk", DAY)
    with pytest.raises(MissingPartition, match="exported_models/two_tower"):
        index_day(spec_of(), DAY, lake)


def test_weights_that_have_diverged_are_refused(lake: Lake) -> None:
    export(lake, spec_of(), "two_tower", change=float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        index_day(spec_of(), DAY, lake)
