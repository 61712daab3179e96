"""A user's edits of one model's recipe: `catalog/recipes/<dataset>/<model>.yaml`, in the sections of a recipe.

An edit changes a value, adds a key, or removes one with `null`, so that its default applies. A value that is edited is
fixed: it is not tuned, unless the edits list a parameter for its key. Parameters are edited by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ml.catalog.document import CatalogError, read_document
from ml.catalog.explain import describe
from ml.catalog.fault_text import what_is_wrong
from ml.recipes.sections import SECTIONS, from_sections, in_sections


@dataclass(frozen=True)
class Edits:
    """Edits of one model's recipe.

    Attributes:
        path: The file.
        values: Recipe keys with new values, nested as in `Recipe`; None removes a key.
        sigopt: Keys of the section `sigopt` with new values.
    """

    path: Path
    values: Mapping[str, Any] = field(default_factory=dict)
    sigopt: Mapping[str, Any] = field(default_factory=dict)


def read_edits(path: Path | None) -> Edits | None:
    """Reads a file of edits.

    Args:
        path: The file; None for none.

    Returns:
        The edits, or None if there is no such file.

    Raises:
        CatalogError: The file is not valid YAML, or has other sections than those of a recipe.
    """
    if path is None or not path.is_file():
        return None
    document = read_document(path)
    wrong = [describe(path, [key], f"no such section; expected {', '.join(SECTIONS)}", document) for key in document.data]
    wrong = [line for key, line in zip(document.data, wrong, strict=True) if key not in SECTIONS]
    wrong += [
        describe(path, [key], f"expected keys with values, found {type(value).__name__}", document)
        for key, value in document.data.items()
        if key in SECTIONS and not isinstance(value, dict)
    ]
    if wrong:
        raise CatalogError("\n".join(wrong))
    return Edits(path, from_sections(document.data), document.data.get("sigopt", {}))


def patch(base: Mapping[str, Any], edits: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `base` with edits: mappings are merged, None removes a key (JSON Merge Patch, RFC 7396).

    A mapping with another `kind` replaces the one of `base`, because the keys of kinds differ.

    Example:
        >>> patch({"batch_size": 256, "early_stop": {"target": 0.8}}, {"batch_size": 512, "early_stop": None})
        {'batch_size': 512}
    """
    patched = dict(base)
    for key, value in edits.items():
        below = patched.get(key)
        if value is None:
            patched.pop(key, None)
        elif isinstance(value, Mapping):
            merges = isinstance(below, Mapping) and value.get("kind", below.get("kind")) == below.get("kind")
            patched[key] = patch(below if merges and isinstance(below, Mapping) else {}, value)
        else:
            patched[key] = value
    return patched


def flat(value: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Returns the values that are not mappings, by their keys joined with dots.

    Example:
        >>> flat({"schedule": {"warm_up": 0.1}, "seed": 0, "tables": {"features": {}}})
        {'schedule.warm_up': 0.1, 'seed': 0, 'tables.features': {}}
    """
    found: dict[str, Any] = {}
    for key, part in value.items():
        found |= flat(part, f"{above}{key}.") if isinstance(part, Mapping) and part else {f"{above}{key}": part}
    return found


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the flat values of `after` that differ, with all values of a mapping whose `kind` differs, as `patch` needs.

    Example:
        >>> changes({"table": {"kind": "full", "dim": 16}, "seed": 0}, {"table": {"kind": "hash", "dim": 16}, "seed": 0})
        {'table.kind': 'hash', 'table.dim': 16}
    """
    old, new = flat(before), flat(after)
    changed = {key for key, value in new.items() if key not in old or old[key] != value}
    replaced = tuple(key.removesuffix("kind") for key in changed if key.endswith(".kind"))
    return {key: value for key, value in new.items() if key in changed or key.startswith(replaced)}


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nest values by dotted key; the inverse of `flat`.

    Example:
        >>> nested({"model.top": [64], "model.bottom": [32], "batch_size": 512})
        {'model': {'top': [64], 'bottom': [32]}, 'batch_size': 512}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        below = found
        *above, last = key.split(".")
        for part in above:
            below = below.setdefault(part, {})
        below[last] = value
    return found


def explain_edits(edits: Edits, error: ValidationError) -> CatalogError:
    """Converts the error of a recipe with edits into one line per fault, with the path of the key in the file."""
    document = read_document(edits.path)
    faults = error.errors(include_url=False)
    lines = (describe(edits.path, in_sections(found["loc"]), what_is_wrong(found, None), document) for found in faults)
    return CatalogError("\n".join(dict.fromkeys(lines)))


def edited_parameters(base: Iterable[Mapping[str, Any]], edits: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Merges edits of parameters, by name, into a list of parameters; `remove: true` removes one.

    A new parameter for the key of another replaces it.

    Example:
        >>> edited_parameters([{"name": "lr", "key": "dense_optimizer.lr"}], [{"name": "rate", "key": "dense_optimizer.lr"}])
        [{'name': 'rate', 'key': 'dense_optimizer.lr'}]
    """
    edits = list(edits)
    new_keys = {edit["key"] for edit in edits if "key" in edit and not edit.get("remove")}
    names = {edit["name"] for edit in edits}
    merged = {one["name"]: dict(one) for one in base if one["name"] in names or one.get("key") not in new_keys}
    for edit in edits:
        if edit.get("remove"):
            merged.pop(edit["name"], None)
        else:
            merged[edit["name"]] = _domain(merged.get(edit["name"], {}), edit) | dict(edit)
    return list(merged.values())


def _domain(base: Mapping[str, Any], edit: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `base` without its domain if the edit gives another: bounds replace a grid, and the other way round."""
    domains = {"bounds", "grid", "categorical_values"}
    replaced = domains if domains & edit.keys() or "type" in edit else set()
    return {key: value for key, value in base.items() if key not in replaced}
