"""A change of a catalog entry changes its fingerprint if days must be made again."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from ml.catalog.spec import DatasetSpec


@pytest.mark.parametrize(
    ("dataset", "change", "same"),
    [
        ("globo", {"partitions": {"end": date(2017, 10, 20)}}, True),  # one more day has come
        ("globo", {"partitions": {"start": date(2017, 9, 30)}}, False),
        ("criteo", {"partitions": {"end": date(2014, 1, 8)}}, False),  # cut by position: every day is another
        ("globo", {"slices": ("click_country", "click_os")}, True),
        ("globo", {"demo_days": 9}, True),
        ("globo", {"description": "Another."}, True),
        ("globo", {"user": None}, False),
        ("synthetic", {"simulation": {"seed": 8}}, False),
    ],
)
def test_what_shapes_features_changes_the_fingerprint(
    dataset: str, change: dict[str, Any], same: bool, catalog: dict[str, DatasetSpec]
) -> None:
    spec = catalog[dataset]
    parts = {
        key: getattr(spec, key).model_copy(update=value) if isinstance(value, dict) else value for key, value in change.items()
    }
    assert (spec.model_copy(update=parts).fingerprint == spec.fingerprint) is same
