"""The study of collisions by day, on made days: variants of equal memory, a sample by user, and scores of unseen days."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from ml.lake import Lake
from ml.studies import daily_collisions
from ml.studies.daily_collisions import figure, read_days, run_study
from ml.studies.embedding_collisions import COLLISIONLESS, HASHED, QUOTIENT_REMAINDER, Curve, write_study
from tests.helpers.training_days import made_spec, write_days


@pytest.fixture(autouse=True)
def made_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daily_collisions, "IDS", ("a", "b", "tags"))
    monkeypatch.setattr(daily_collisions, "USER", "b")


def test_variants_have_equal_memory_and_each_day_is_scored_before_training(lake: Lake, tmp_path: Path) -> None:
    spec, seen = made_spec(), list[Curve]()
    tables = read_days(spec, write_days(lake, spec, 3, 1200), lake, 1.0)
    curves = run_study(spec, tables, 2, on_result=seen.append)
    assert curves == seen and curves == run_study(spec, tables, 2)
    assert [(of.variant, of.seed) for of in curves[:4]] == [
        (COLLISIONLESS, 0), (QUOTIENT_REMAINDER, 0), (HASHED, 0), (COLLISIONLESS, 1)
    ]  # fmt: skip
    assert all(of.nbytes == pytest.approx(curves[0].nbytes, rel=0.02) and len(of.auc) == 2 for of in curves)
    assert curves[0].auc[-1] > 0.6
    # The labels of the last day are scored, not trained on: without its clicks the earlier scores are the same.
    first_days = dict(list(tables.items())[:2])
    assert run_study(spec, first_days, 1)[0].auc == curves[0].auc[:1]
    found = write_study(tmp_path, curves, figure)
    assert json.loads((tmp_path / "summary.json").read_text()) == found
    assert (tmp_path / "auc.png").read_bytes().startswith(b"\x89PNG")


def test_a_user_is_in_the_sample_of_every_day_or_of_none(lake: Lake) -> None:
    spec = made_spec()
    days = write_days(lake, spec, 2, 1000)
    some, everything = (read_days(spec, days, lake, share) for share in (0.3, 1.0))
    for day in days:
        assert everything[day].num_rows == 1000 and 200 < some[day].num_rows < 400
    sampled = set(pa.concat_tables(some.values())["b"].to_pylist())
    left_out = set(pa.concat_tables(everything.values())["b"].to_pylist()) - sampled
    again = read_days(spec, days, lake, 0.3)
    assert all(again[day].equals(some[day]) for day in days)
    assert not left_out & {user for day in days for user in some[day]["b"].to_pylist()}


def test_one_day_is_too_few(lake: Lake) -> None:
    spec = made_spec()
    with pytest.raises(ValueError, match="at least two days"):
        run_study(spec, read_days(spec, write_days(lake, spec, 1, 100), lake, 1.0))
