"""Loads catalog files as `DatasetSpec`. Errors name the file, the key path and what was expected."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ml.catalog.document import CatalogError, read_document
from ml.catalog.expand import expand_entry
from ml.catalog.explain import coercions, describe, explain
from ml.catalog.spec import DatasetSpec

__all__ = ["CATALOG", "Catalog", "CatalogError", "explain", "load_catalog", "load_dataset", "read_catalog", "read_yaml"]

CATALOG = Path(__file__).parents[2] / "catalog"


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads the mapping in a YAML file. Raises `CatalogError` if it is not UTF-8, not YAML, or not a mapping of names."""
    return read_document(path).data


def load_dataset(path: Path) -> DatasetSpec:
    """Loads a dataset from its catalog file.

    Args:
        path: The file, named after the dataset. Recipes beside it, in `recipes/`, take precedence over built-in ones.

    Raises:
        CatalogError: The file is not a valid entry, or names a recipe that does not exist.

    Example:
        >>> load_dataset(CATALOG / "criteo.yaml").days()[:2]
        ['2014-01-01', '2014-01-02']
    """
    document = read_document(path)
    try:
        spec = DatasetSpec.model_validate(document.data)
    except ValidationError as error:
        raise explain(path, error, DatasetSpec, document) from error
    if wrong := coercions(expand_entry(document.data), spec.model_dump()):
        raise CatalogError("\n".join(describe(path, keys, what, document) for keys, what in wrong))
    if spec.name != path.stem:
        what = f"expected {path.stem!r}, the name of the file, found {spec.name!r}"
        raise CatalogError(describe(path, ["name"], what, document))
    folders = [path.parent / "recipes", CATALOG / "recipes"]
    models = {}
    for name, choice in spec.models.items():
        recipe = choice.recipe or name
        holding = [folder for folder in folders if (folder / f"{recipe}.yaml").is_file()]
        if not holding:
            known = sorted({found.stem for folder in folders for found in folder.glob("*.yaml")})
            places = " and ".join(str(folder) for folder in dict.fromkeys(folders))
            what = f"expected one of the recipes {known} in {places}, found {recipe!r}"
            raise CatalogError(describe(path, ["models", name, *(["recipe"] if choice.recipe else [])], what, document))
        models[name] = choice.found_in(holding[0], path.parent / "recipes" / spec.name / f"{name}.yaml")
    return spec.model_copy(update={"models": models, "recipe": spec.recipe.found_in(path.parent)})


@dataclass(frozen=True)
class Catalog:
    """The entries of a folder, by name.

    Attributes:
        datasets: The valid entries.
        broken: Why each of the others is not valid.
    """

    datasets: dict[str, DatasetSpec]
    broken: dict[str, CatalogError]


def read_catalog(folder: Path = CATALOG) -> Catalog:
    """Loads every valid dataset of a folder. Raises `CatalogError` for a folder without any file."""
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        raise CatalogError(f"{folder}: no *.yaml files; each dataset is one such file")
    found = Catalog({}, {})
    for path in paths:
        try:
            found.datasets[path.stem] = load_dataset(path)
        except CatalogError as error:
            found.broken[path.stem] = error
    return found


def load_catalog(folder: Path = CATALOG) -> dict[str, DatasetSpec]:
    """Loads every dataset of a folder, by name. Raises `CatalogError` for invalid files, or for a folder without any."""
    found = read_catalog(folder)
    if found.broken:
        raise CatalogError("\n".join(map(str, found.broken.values())))
    return found.datasets
