"""A user's edits of one model's recipe: `catalog/recipes/<dataset>/<model>.yaml`, in the sections of a recipe and `wishes`.

An edit changes a value, adds a key, or removes one with `null`, so that its default applies. A value that is edited is
fixed: it is not tuned, unless the edits list a parameter for its key. Parameters are edited by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ml.catalog.document import CatalogError, read_document, shown
from ml.catalog.explain import describe
from ml.catalog.fault_text import what_is_wrong
from ml.recipes.sections import SECTIONS, WISHES, from_sections, in_sections

NAMED_BY_USERS = {("tables", "features"), ("loss_weights",)}
"""Recipe keys below which the keys are names of the dataset."""


@dataclass(frozen=True)
class Edits:
    """Edits of one model's recipe.

    Attributes:
        path: The file.
        values: Recipe keys with new values, nested as in `Recipe`; None removes a key.
        sigopt: Keys of the section `sigopt` with new values.
        wishes: The section `wishes`, which the advisor reads.
    """

    path: Path
    values: Mapping[str, Any] = field(default_factory=dict)
    sigopt: Mapping[str, Any] = field(default_factory=dict)
    wishes: Mapping[str, Any] = field(default_factory=dict)


def read_edits(path: Path | None) -> Edits | None:
    """Reads a file of edits.

    Args:
        path: The file; None for none.

    Returns:
        The edits, or None if there is no such file.

    Raises:
        CatalogError: The file is not valid YAML, or has sections that a recipe does not have.
    """
    if path is None or not path.is_file():
        return None
    document, known = read_document(path), (*SECTIONS, WISHES)
    wrong = [
        describe(path, [key], f"no such section; expected {', '.join(known)}", document)
        for key in document.data
        if key not in known
    ]
    wrong += [
        describe(path, [key], f"expected keys with values, found {type(value).__name__}", document)
        for key, value in document.data.items()
        if key in known and not isinstance(value, dict)
    ]
    if wrong:
        raise CatalogError("\n".join(wrong))
    return Edits(path, from_sections(document.data), document.data.get("sigopt", {}), document.data.get(WISHES, {}))


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
            patched[key] = patch(below if isinstance(below, Mapping) and _same_kind(below, value) else {}, value)
        else:
            patched[key] = value
    return patched


def _same_kind(base: Mapping[str, Any], edits: Mapping[str, Any]) -> bool:
    return edits.get("kind", base.get("kind")) == base.get("kind")


def check_removals(edits: Edits, recipe: Mapping[str, Any]) -> None:
    """Refuses the removal of keys that do not exist, such as misspelt ones.

    Args:
        edits: The edits.
        recipe: The recipe that is edited, with all its keys.

    Raises:
        CatalogError: The path of each such key in the file.
    """
    if unknown := dict(_unknown_removals(recipe, edits.values)):
        document = read_document(edits.path)
        lines = (describe(edits.path, in_sections(keys), what, document) for keys, what in unknown.items())
        raise CatalogError("\n".join(lines))


def _unknown_removals(
    base: Mapping[str, Any], edits: Mapping[str, Any], above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the path of each removed key that `base` lacks, and what is wrong."""
    for key, value in edits.items():
        path, below = (*above, key), base.get(key)
        if path in NAMED_BY_USERS:
            continue
        if value is None and key not in base:
            near = get_close_matches(key, base, n=1)
            yield (
                path,
                "there is no such key to remove; " + (f"did you mean {near[0]!r}?" if near else f"the keys are {[*base]}"),
            )
        elif isinstance(value, Mapping) and isinstance(below, Mapping) and _same_kind(below, value):
            yield from _unknown_removals(below, value, path)


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
    paths = [_without_kinds(in_sections(found["loc"]), document.data) for found in faults]
    lines = (
        describe(edits.path, path, what_is_wrong(found, None), document) for path, found in zip(paths, faults, strict=True)
    )
    return CatalogError("\n".join(dict.fromkeys(lines)))


def _without_kinds(keys: Sequence[str | int], data: Any) -> list[str | int]:
    """Returns a path of keys in a document, without the `kind` of a mapping that pydantic adds below the mapping's key."""
    kept: list[str | int] = []
    for key, below in zip(keys, [*keys[1:], None], strict=True):
        if isinstance(data, Mapping) and key not in data and below in data:
            continue
        kept.append(key)
        data = data.get(key) if isinstance(data, Mapping) else None
    return kept


def listed_parameters(edits: Edits | None, known: Iterable[str]) -> Sequence[Mapping[str, Any]]:
    """Returns the edits of parameters.

    Args:
        edits: A user's edits; None for none.
        known: Names of the parameters that can be removed.

    Raises:
        CatalogError: An item has no name, has the name of another, or removes a parameter that does not exist.
    """
    if edits is None or "parameters" not in edits.sigopt:
        return ()
    listed, names, document = edits.sigopt["parameters"], set(known), read_document(edits.path)

    def fault(keys: Sequence[str | int], what: str) -> CatalogError:
        return CatalogError(describe(edits.path, ["sigopt", "parameters", *keys], what, document))

    if not isinstance(listed, list):
        raise fault([], f"expected a list of parameters, found {shown(listed)}")
    for index, one in enumerate(listed):
        if not isinstance(one, Mapping) or not isinstance(one.get("name"), str) or not one["name"]:
            raise fault([index], "expected keys with values, one of them `name`, a text")
        if one["name"] in [other["name"] for other in listed[:index]]:
            raise fault([index], f"{one['name']!r} is given twice")
        if not isinstance(one.get("key", ""), str):
            raise fault([index, "key"], f"expected a recipe key such as dense_optimizer.lr, found {shown(one['key'])}")
        if "remove" in one and one["remove"] is not True:
            raise fault([index, "remove"], f"expected true, found {shown(one['remove'])}")
        if "remove" in one and one["name"] not in names:
            raise fault([index], f"no parameter is named {one['name']!r}; the names are {', '.join(sorted(names))}")
    return listed


def explain_search(edits: Edits, error: ValidationError, model: type[BaseModel], names: Sequence[str]) -> CatalogError:
    """Converts the first error of a search with edits into a line with the path of the key in the file.

    Args:
        edits: The edits.
        error: The error.
        model: The model of the search.
        names: Names of the search's parameters, in order; the file lists only some of them.
    """
    found = error.errors(include_url=False)[0]
    below = found.get("ctx", {}).get("key")  # of the errors of `ml.catalog.strict.fault`
    keys = ["sigopt", *found["loc"], *(below.split(".") if below else ())]
    if keys[-1] in ("int", "float"):  # pydantic's marker for a type of a union
        keys.pop()
    listed = [one["name"] for one in edits.sigopt.get("parameters", ())]
    if keys[1:2] == ["parameters"] and len(keys) > 2 and names[int(keys[2])] in listed:
        keys[2] = listed.index(names[int(keys[2])])
    return CatalogError(describe(edits.path, keys, what_is_wrong(found, model), read_document(edits.path)))


def explain_parameter(edits: Edits, name: str, key: str, problem: str) -> CatalogError:
    """Returns the error of a parameter that does not fit the recipe, with its path in the file if the file lists it.

    Args:
        edits: The edits.
        name: Name of the parameter.
        key: Which of its keys is wrong; empty for the whole parameter.
        problem: What is wrong.
    """
    listed = [one["name"] for one in edits.sigopt.get("parameters", ())]
    keys = [listed.index(name), *([key] if key else [])] if name in listed else []
    return CatalogError(describe(edits.path, ["sigopt", "parameters", *keys], f"{name}: {problem}", read_document(edits.path)))


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
