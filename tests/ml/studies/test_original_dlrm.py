"""The reference DLRM in plain PyTorch: it sees the same rows as ours, learns, and follows its schedule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ml.catalog.load import load_catalog
from ml.datasets.reader import BlockReader
from ml.datasets.splits import SPLITS
from ml.lake import Lake
from ml.metrics import auc
from ml.studies.original_dlrm import (
    Diverged,
    NumberedDays,
    OriginalDLRM,
    Settings,
    fastest_threads,
    reference_features,
    train_original,
)
from tests.helpers.training_days import made_spec, write_days

SMALL = Settings(dim=4, bottom=(8,), top=(8,), batch_size=16)
ROWS = 3200
FEATURES = ["a", "b", "tags"]


@pytest.fixture
def days(lake: Lake) -> list[str]:
    return write_days(lake, made_spec(), 3, ROWS)


@pytest.fixture
def data(lake: Lake, days: list[str]) -> NumberedDays:
    return NumberedDays.read(made_spec(), days, lake, FEATURES)


def test_rows_are_those_of_our_reader(lake: Lake, days: list[str], data: NumberedDays) -> None:
    originals: dict[str, dict[int, int]] = {name: {} for name in FEATURES}
    for day in days:
        reader = BlockReader(lake, made_spec(), [day], splits=SPLITS, batch_size=96, order="time")
        for batch, (dense, bags, labels) in zip(reader, data.days[day].batches(96), strict=True):
            assert torch.equal(batch.dense, dense) and torch.equal(batch.labels, labels)
            for name, (ids, offsets) in zip(FEATURES, bags, strict=True):
                own = batch.sparse[name]
                assert torch.equal(own.offsets()[:-1].long(), offsets)
                for number, original in zip(ids.tolist(), own.values().tolist(), strict=True):
                    assert originals[name].setdefault(number, original) == original, "two ids have one number"
    for name, rows in zip(FEATURES, data.rows, strict=True):
        assert sorted(originals[name]) == list(range(rows)), "numbers are consecutive"
        assert len(set(originals[name].values())) == rows, "one id has two numbers"


def test_it_learns_and_scores_days_before_it_trains_on_them(days: list[str], data: NumberedDays) -> None:
    run = train_original("original", data, days, SMALL, evaluations=2, by_day=True)
    assert run.end.auc > 0.75 and run.end.rows == 2 * ROWS and len(run.curve) == 4
    assert list(run.by_day) == days[1:] and run.by_day[days[2]] == run.end.auc
    first = train_original("one day", data, days[:2], SMALL)
    assert first.end.auc == run.by_day[days[1]], "the second day was scored by a model of the first"
    times = [(point.rows, point.cpu_seconds, point.wall_seconds) for point in run.curve]
    assert times == sorted(times) and run.curve[0].cpu_seconds > 0


def test_a_loss_that_is_not_finite_is_an_error(days: list[str], data: NumberedDays) -> None:
    with pytest.raises(Diverged, match=days[0]):
        train_original("diverging", data, days, replace(SMALL, dense_lr=1e12, table_lr=1e12))


def test_gradients_of_tables_are_sparse_and_logits_are_those_of_the_formula() -> None:
    torch.manual_seed(1)
    model = OriginalDLRM(2, [5, 7], SMALL)
    dense = torch.randn(3, 2)
    bags = [(torch.tensor([0, 4, 2]), torch.tensor([0, 1, 2])), (torch.tensor([1, 6, 3, 3]), torch.tensor([0, 2, 3]))]
    x = model.bottom(dense)
    first, second = (table.weight.detach() for table in model.tables)  # type: ignore[union-attr]
    e1, e2 = first[[0, 4, 2]], torch.stack([second[1] + second[6], second[3], second[3]])  # type: ignore[index]
    pairs = torch.stack([(e1 * x).sum(1), (e2 * x).sum(1), (e2 * e1).sum(1)], 1)
    expected = model.top(torch.cat((x, pairs), 1)).squeeze(1)
    logits = model(dense, bags)
    np.testing.assert_allclose(logits.detach(), expected.detach(), rtol=1e-5)
    logits.sum().backward()
    assert all(table.weight.grad.is_sparse for table in model.tables)  # type: ignore[union-attr]


def test_a_shortcut_adds_a_linear_function_of_the_embeddings(days: list[str], data: NumberedDays) -> None:
    with_shortcut = replace(SMALL, linear_shortcut=True)
    assert train_original("shortcut", data, days, with_shortcut).end.auc > 0.75
    assert OriginalDLRM(2, data.rows, with_shortcut).shortcut is not None


def test_the_schedule_warms_up_holds_and_decays_quadratically() -> None:
    settings = Settings(warm_up=0.2, decay_start=0.5, decay=0.4)
    found = [settings.factor(progress) for progress in (0.0, 0.1, 0.2, 0.5, 0.7, 0.95)]
    np.testing.assert_allclose(found, [0.0, 0.5, 1.0, 1.0, 0.25, 0.0], atol=1e-12)
    assert Settings().factor(0.0) == Settings().factor(0.999) == 1.0


def test_the_reference_knows_no_buckets_and_no_crosses() -> None:
    catalog = load_catalog()
    assert reference_features(catalog["criteo"]) == [f"C{n}" for n in range(1, 27)]
    assert not {"price_bucket", "country_x_category"} & set(reference_features(catalog["synthetic"]))


def test_steps_are_timed_by_number_of_threads(days: list[str], data: NumberedDays) -> None:
    found = fastest_threads(data, days[0], SMALL, 2, steps=3)
    assert set(found) == {1, 2} and min(found.values()) > 0


def test_undefined_auc_is_not_a_number(days: list[str], data: NumberedDays) -> None:
    last = data.days[days[1]]
    one_class = NumberedDays({**data.days, days[1]: replace(last, labels=torch.ones_like(last.labels))}, data.rows)
    assert auc(np.ones(3), np.arange(3)) is None
    assert np.isnan(train_original("one class", one_class, days[:2], SMALL).end.auc)
