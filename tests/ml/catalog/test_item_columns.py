"""`item_columns`: the columns of the log that describe the item."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ml.catalog.load import load_catalog
from ml.retrieval.items import item_columns
from tests.helpers.kiosk_days import kiosk


def test_item_columns_are_the_item_with_logged_joined_and_counted_columns() -> None:
    assert item_columns(kiosk(item_columns=["place"])) == ["item", "place", "clicks_1h"]
    assert item_columns(load_catalog()["movielens"]) == ["item", "release_year", "genres"]


def test_an_unknown_column_is_refused_with_its_path() -> None:
    with pytest.raises(ValidationError, match="no column 'colour'") as caught:
        kiosk(item_columns=["colour"])
    assert caught.value.errors()[0]["ctx"]["key"] == "item_columns.0"


def test_item_columns_need_an_item() -> None:
    shop = {"session": None, "label": {"column": "visit"}, "dense": [], "sparse": ["user", "place"], "ranking": None}
    with pytest.raises(ValueError, match="needs item"):
        kiosk(item=None, item_columns=["place"], **shop)
