"""What pydantic finds is said in words, whatever key it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from ml.catalog.fault_text import PATTERNS, what_is_wrong
from ml.catalog.reading import Source
from ml.catalog.spec import DatasetSpec
from ml.recipes.recipe import Recipe
from ml.recipes.search import Search
from ml.recipes.wishes import WishesSection


def patterns_in(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("pattern"), str):
            yield schema["pattern"]
        schema = list(schema.values())
    for value in schema if isinstance(schema, list) else ():
        yield from patterns_in(value)


def test_every_pattern_has_words() -> None:
    models: tuple[type[BaseModel], ...] = (DatasetSpec, Recipe, Search, WishesSection)
    assert {pattern for model in models for pattern in patterns_in(model.model_json_schema())} == set(PATTERNS)


def test_a_path_of_one_key_is_explained() -> None:
    with pytest.raises(ValidationError) as refused:
        Source(files="a", format="jsonl", columns={"item": "int"}, paths={"item": "items"})
    [found] = refused.value.errors()
    assert what_is_wrong(found, Source) == "expected the keys of a path with dots between them, such as user.id, found 'items'"
