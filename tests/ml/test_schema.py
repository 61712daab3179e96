from __future__ import annotations

from typing import get_args

from ml.catalog.dataset_checks import RESERVED_FEATURES
from ml.catalog.log_spec import RESERVED_COLUMNS
from ml.catalog.spec import ColumnType
from ml.schema import ARROW_TYPES, EVENT_TIME, FIRST_ID, LABEL, MISSING_ID, OOV_ID, ORACLE, SAMPLE_RATE


def test_every_type_of_the_catalog_has_an_arrow_type() -> None:
    assert set(ARROW_TYPES) == set(get_args(ColumnType))


def test_the_catalog_reserves_the_names_that_the_table_has_itself() -> None:
    assert set(RESERVED_FEATURES) == {EVENT_TIME, LABEL, SAMPLE_RATE, ORACLE}
    assert {EVENT_TIME, SAMPLE_RATE} <= set(RESERVED_COLUMNS)


def test_values_begin_after_the_reserved_ids() -> None:
    assert sorted((MISSING_ID, OOV_ID, FIRST_ID)) == [0, 1, 2]
