"""Keys of sessions and rankings: what they default to, and what they need."""

from __future__ import annotations

from typing import Any

import pytest

from ml.catalog.spec import DatasetSpec, Ranking
from tests.helpers.shop_features import shop

NEGATIVES = {"negatives": {"per_positive": 2, "window_hours": 5}}


def test_a_log_of_positives_alone_has_a_ranking_over_the_items_that_negatives_are_drawn_from() -> None:
    ranked = shop(label=NEGATIVES).ranked
    assert ranked is not None and ranked.live_hours == 5
    assert (ranked.slice_minutes, ranked.popularity_minutes) == (10, (60, 10))


def test_other_logs_have_one_if_they_ask() -> None:
    assert shop().ranked is None
    assert shop(ranking={}).ranked == Ranking(live_hours=24)
    assert shop(ranking={"live_hours": 3}).ranked == Ranking(live_hours=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ranking": {}, "item": None}, "ranking items needs user and item"),
        ({"session": {"column": "visit"}}, "no column 'visit'"),
        ({"session": {"column": "user", "filled_in_seconds": 0}}, "greater than 0"),
        ({"ranking": {"popularity_minutes": []}}, "at least 1 item"),
    ],
)
def test_what_they_need(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shop(**changes)


def test_a_session_changes_the_features_and_a_ranking_does_not() -> None:
    assert shop(session={"column": "user"}).fingerprint != shop().fingerprint
    assert shop(ranking={}).fingerprint == shop().fingerprint


def test_globo_declares_its_filled_in_times(catalog: dict[str, DatasetSpec]) -> None:
    session = catalog["globo"].session
    assert session is not None and (session.column, session.filled_in_seconds) == ("session_id", 30)
