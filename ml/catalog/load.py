"""Reading the catalog: YAML in, `DatasetSpec` out, and errors that name the file, the key path and what was expected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ml.catalog.spec import DatasetSpec

CATALOG = Path(__file__).parents[2] / "catalog"


class CatalogError(ValueError):
    """A catalog file is wrong. The message holds one line per fault: file, key path, what was expected, what was found."""


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML lets a later duplicate key win in silence; here it is an error."""


def _mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    keys: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
        if not isinstance(key, str | int | float | bool):
            raise yaml.constructor.ConstructorError(None, None, f"a key must be a plain name, not {key!r}", key_node.start_mark)
        if key in keys:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
        keys.add(key)
    return loader.construct_mapping(node, deep=True)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises `CatalogError` where it is not UTF-8, not YAML, or not a mapping of names."""
    try:
        data = _UniqueKeyLoader(path.read_text(encoding="utf-8")).get_single_data()
    except UnicodeDecodeError as error:
        raise CatalogError(f"{path}: not UTF-8 at byte {error.start}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = getattr(error, "problem", None) or str(error) or type(error).__name__
        raise CatalogError(f"{path}:{where} not valid YAML: {what}") from error
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise CatalogError(f"{path}: expected a mapping of names at the top, found {type(data).__name__}")
    return data


def explain(path: Path, error: ValidationError) -> CatalogError:
    """One line per fault of a pydantic error, with the key's path as a user would point at it."""
    lines = []
    for fault in error.errors(include_url=False):
        key = ".".join(str(part) for part in fault["loc"]) or "(top)"
        found = "" if fault["type"] in ("missing", "value_error") else f", found {fault['input']!r:.80}"
        lines.append(f"{path}: {key}: {fault['msg'].removeprefix('Value error, ')}{found}")
    return CatalogError("\n".join(lines))


def load_dataset(path: Path) -> DatasetSpec:
    """The dataset that one catalog file declares. Raises `CatalogError`."""
    data = read_yaml(path)
    try:
        spec = DatasetSpec.model_validate(data)
    except ValidationError as error:
        raise explain(path, error) from error
    if spec.name != path.stem:
        raise CatalogError(f"{path}: name: expected {path.stem!r}, as the file is called, found {spec.name!r}")
    return spec


def load_catalog(folder: Path = CATALOG) -> dict[str, DatasetSpec]:
    """Every dataset of the catalog, by name. Raises `CatalogError`, also for a folder without any."""
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        raise CatalogError(f"{folder}: no *.yaml here; a dataset is one such file")
    return {path.stem: load_dataset(path) for path in paths}
