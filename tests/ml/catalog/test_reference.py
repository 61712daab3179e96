"""The reference describes every key, and the committed page is current."""

from pathlib import Path

from ml.catalog.reference import reachable, reference
from ml.catalog.spec import DatasetSpec

PAGE = Path(__file__).parents[3] / "docs" / "catalog-reference.md"


def test_every_key_is_described():
    missing = [f"{m.__name__}.{k}" for m in reachable(DatasetSpec) for k, f in m.model_fields.items() if not f.description]
    assert not missing


def test_the_committed_page_is_current():
    assert PAGE.read_text() == reference(), "python -m ml.catalog.reference docs/catalog-reference.md"
