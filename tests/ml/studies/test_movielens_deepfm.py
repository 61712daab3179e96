"""The protocol: what is kept, how it is split, which epoch is scored; on ratings made up, and on a piece of the real ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ml.studies.movielens_1m import ALL, Ratings, read_ratings
from ml.studies.movielens_deepfm import PROTOCOLS, Run, rated, run_once, split, summary, write_study


@pytest.fixture(scope="module")
def ratings() -> Ratings:
    """3,000 ratings of 60 movies by 40 users, whose stars follow from both."""
    rng = np.random.default_rng(0)
    user, movie = rng.integers(0, 40, 3000), rng.integers(0, 60, 3000)
    stars = np.clip(np.rint(3 + rng.normal(0, 1, 40)[user] + rng.normal(0, 1, 60)[movie] + rng.normal(0, 0.5, 3000)), 1, 5)
    others = [user % 2, user % 5, user % 7, user // 2, movie // 3]
    single = np.stack([user, movie, *others], 1).astype(np.int64) + 2
    return Ratings(ALL, single, np.stack([movie % 4 + 2, movie % 3 * 7], 1), stars.astype(np.int8))


@pytest.mark.parametrize("seed", range(3))
def test_a_split_is_80_10_10_disjoint_and_drawn_by_its_seed(seed: int) -> None:
    training, validation, test = split(1007, seed)
    assert [len(rows) for rows in (training, validation, test)] == [807, 100, 100]
    np.testing.assert_array_equal(np.sort(np.concatenate([training, validation, test])), np.arange(1007))
    np.testing.assert_array_equal(np.concatenate(split(1007, seed)), np.concatenate([training, validation, test]))
    assert set(test) != set(split(1007, seed + 1)[2])


def test_three_stars_are_left_out_or_not_liked(ratings: Ratings) -> None:
    plain, whole = (rated(ratings, PROTOCOLS[name]) for name in ("attributes alone", "ids and attributes, all ratings"))
    assert sorted(set(plain.stars)) == [1, 2, 4, 5] and len(plain) == (ratings.stars != 3).sum()
    assert sorted(set(whole.stars)) == [1, 2, 3, 4, 5] and len(whole) == len(ratings)
    for kept in (plain, whole):
        np.testing.assert_array_equal(kept.label, kept.stars > 3)
        rows = np.arange(len(kept))[::-1].copy()
        np.testing.assert_array_equal(np.concatenate([b.labels for b in kept.batches(rows, 64)]), kept.label[rows])


def test_the_epoch_that_validation_picks_is_the_one_scored(ratings: Ratings) -> None:
    run = run_once("ids and attributes", ratings, 0, epochs=40, patience=2)
    assert run.epoch == int(np.argmax(run.validation)) + 1
    assert len(run.validation) == run.epoch + 2 < 40
    cut = run_once("ids and attributes", ratings, 0, epochs=run.epoch, patience=2)
    assert (cut.auc, cut.log_loss, cut.epoch) == (run.auc, run.log_loss, run.epoch)
    assert run.auc > 0.85 and run.log_loss < 0.5
    assert run_once("ids and attributes", ratings, 1, epochs=2, patience=2).auc != run.auc


def test_ratings_of_one_class_are_refused(ratings: Ratings) -> None:
    with pytest.raises(ValueError, match="seed 0: the 5 ratings for validation are of one class"):
        run_once("ids and attributes", ratings.take(np.flatnonzero(ratings.stars > 3)[:50]), 0, epochs=1, patience=1)


def test_a_summary_stands_beside_what_was_published(tmp_path: Path) -> None:
    runs = [Run("attributes alone", seed, [0.8], 1, auc, 0.4, 10.0) for seed, auc in enumerate((0.81, 0.83))]
    runs.append(Run("ids and attributes, all ratings", 0, [0.8], 1, 0.8, 0.5, 10.0))
    found = write_study(tmp_path, runs)
    assert found == summary(runs) == json.loads((tmp_path / "summary.json").read_text())
    assert found["attributes alone"]["auc"] == pytest.approx(0.82)
    assert found["attributes alone"]["auc_spread"] == pytest.approx(0.02 / 2**0.5)
    assert found["attributes alone"]["published"]["auc"] == 0.8437
    assert found["ids and attributes, all ratings"]["published"] is None
    assert [Run(**run) for run in json.loads((tmp_path / "runs.json").read_text())] == runs


def test_the_real_ratings_are_those_of_the_literature(real_logs: Path) -> None:
    whole = read_ratings(real_logs / "movielens-1m", ALL)
    kept = rated(whole, PROTOCOLS["ids and attributes"])
    assert len(kept) == 739_012  # AutoInt, table 1; RecBole, ml-1m_context.md
    ids = {name: len(np.unique(whole.single[:, column])) for column, name in enumerate(whole.names)}
    assert ids == {"user": 6040, "movie": 3706, "gender": 2, "age": 7, "occupation": 21, "zip": 3439, "year": 81}
    few = whole.take(np.arange(0, len(whole), 20))
    with_ids, without = (run_once(name, few, 0, epochs=1, patience=1) for name in ("ids and attributes", "attributes alone"))
    assert 0.7 < without.auc < with_ids.auc < 0.9
