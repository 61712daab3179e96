"""The study on a small part of the real ratings: tables have equal memory, and the summary agrees with the measurements."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from ml.recipes.tables import CompositionalTable, HashedTable
from ml.studies.embedding_collisions import IDS, Curve, run_study, summary, variants, write_study
from ml.studies.movielens_1m import SINGLE, Ratings, read_ratings


@pytest.fixture(scope="module")
def ratings(real_logs: Path) -> Ratings:
    return read_ratings(real_logs / "movielens-1m")


def test_the_ratings_are_all_there(ratings: Ratings) -> None:
    assert len(ratings) == 1_000_209
    assert len(np.unique(ratings.single[:, 0])) == 6_040 and len(np.unique(ratings.single[:, 1])) == 3_706
    assert round(float(ratings.label.mean()), 4) == 0.5752  # four and five stars
    batch = ratings.batch(np.array([0, 5, 9]))
    assert batch.sparse.keys() == [*SINGLE, "genres"] and len(batch) == 3 and batch.sparse.stride() == 3
    assert all(len(bag) >= 1 for bag in batch.sparse["genres"].to_dense())


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"ratings\.csv\.gz, users\.dat, movies\.dat not found; put the files"):
        read_ratings(tmp_path)


def test_memory_is_equal_where_it_is_said_to_be(ratings: Ratings) -> None:
    few = ratings.take(np.arange(0, len(ratings), 20))
    curves = {curve.variant: curve for curve in run_study(few, seeds=1, epochs=1)}
    best = curves["collisionless"].nbytes
    for name, curve in curves.items():
        if "equal memory" in name:
            assert curve.nbytes == pytest.approx(best, rel=0.02), name
        assert 0.6 < curve.auc[0] < 0.8


def test_hashing_loses_the_share_of_ids_that_the_paper_says(ratings: Ratings) -> None:
    tables = variants(ratings.take(np.arange(0, len(ratings), 50)), 0)["hashed, as many collisions as in the paper"].tables
    for name, share in (("user", 0.0773), ("movie", 0.0286)):
        table = tables.of(name)
        assert isinstance(table, HashedTable)
        ids = len(np.unique(ratings.single[::50, SINGLE.index(name)]))
        hit = table.rows * (1 - binom.pmf(0, ids, 1 / table.rows))
        assert 1 - hit / ids == pytest.approx(share, rel=0.02)
    apart = variants(ratings.take(np.arange(2000)), 0)["quotient-remainder, equal memory"].tables
    assert all(isinstance(apart.of(name), CompositionalTable) for name in IDS)


def test_gaps_are_taken_seed_by_seed(tmp_path: Path) -> None:
    curves = [
        Curve("collisionless", 0, [0.80, 0.82], 10),
        Curve("collisionless", 1, [0.70, 0.72], 10),
        Curve("hashed", 0, [0.79, 0.80], 10),
        Curve("hashed", 1, [0.69, 0.70], 10),
    ]
    found = summary(curves)["hashed"]
    np.testing.assert_allclose(found["gap"], [0.01, 0.02])
    np.testing.assert_allclose(found["gap_spread"], [0, 0], atol=1e-12)
    np.testing.assert_allclose(found["auc_spread"], [0.1 / 2**0.5] * 2)
    write_study(tmp_path, curves)
    assert json.loads((tmp_path / "summary.json").read_text())["hashed"]["bytes"] == 10
    assert (tmp_path / "auc.png").read_bytes().startswith(b"\x89PNG")
