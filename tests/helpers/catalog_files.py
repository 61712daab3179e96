"""Loads changed copies of the shipped catalog files, and checks that every line of an error names the file."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ml.catalog.expand import expand_entry
from ml.catalog.explain import coercions
from ml.catalog.load import CATALOG, CatalogError, load_dataset

NAMES = ["criteo", "globo", "movielens", "synthetic"]
TEXTS = {name: (CATALOG / f"{name}.yaml").read_bytes() for name in NAMES}
KeyPath = tuple[str | int, ...]


def load(folder: Path, name: str, content: bytes | str | dict[str, Any]) -> Any:
    path = folder / f"{name}.yaml"
    text = yaml.safe_dump(content, sort_keys=False) if isinstance(content, dict) else content
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_dataset(path)


def refusal(folder: Path, name: str, content: bytes | str | dict[str, Any]) -> str:
    """Returns the error message, and checks that each of its lines names the file."""
    with pytest.raises(CatalogError) as refused:
        load(folder, name, content)
    message = str(refused.value)
    assert all(line.startswith(f"{folder / name}.yaml: ") for line in message.splitlines()), message
    assert max(map(len, message.splitlines())) < len(str(folder)) + 800
    return message.replace(f"{folder / name}.yaml: ", "")


def data_of(name: str) -> dict[str, Any]:
    return yaml.safe_load(TEXTS[name])


def walk(value: Any, keys: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Yields all values below, with their paths, except overrides of recipes."""
    if "overrides" in keys:
        return
    if keys:
        yield keys, value
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from walk(part, (*keys, key))


def at(data: Any, keys: KeyPath) -> Any:
    for key in keys:
        data = data[key]
    return data


def changed(name: str, keys: KeyPath, value: Any) -> dict[str, Any]:
    data = copy.deepcopy(data_of(name))
    at(data, keys[:-1])[keys[-1]] = value
    return data


def harmless(folder: Path, name: str, content: bytes) -> str:
    """Loads a file. Fails unless it is refused with a `CatalogError` or loaded as written."""
    try:
        spec = load(folder, name, content)
    except CatalogError as error:
        assert str(error).startswith(f"{folder / name}.yaml: ")
        return "refused"
    said = yaml.safe_load(content)
    assert coercions(expand_entry(said), spec.model_dump()) == []
    assert set(said) <= set(spec.model_dump())
    return "loaded"
