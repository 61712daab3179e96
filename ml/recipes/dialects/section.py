"""Writes the section `sigopt` of a file of edits, and leaves the rest of the file, with its comments, as it is."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from ml.catalog.document import CatalogError
from ml.recipes.dialects.write import as_yaml
from ml.recipes.edits import read_edits
from ml.recipes.search import Search

SECTION = "sigopt"


def section_of(search: Search, remove: Iterable[str] = ()) -> dict[str, Any]:
    """Returns the section `sigopt` of edits whose search is this one.

    Args:
        search: The search. Keys that are not set keep their advised values.
        remove: Names of advised parameters, which are not searched unless the search has them.
    """
    section = search.model_dump(mode="json", exclude_unset=True)
    parameters = [one.model_dump(mode="json", exclude_defaults=True) for one in search.parameters]
    names = {one.name for one in search.parameters}
    removed = [{"name": name, "remove": True} for name in sorted(set(remove) - names)]
    return section | {
        "parameters": parameters + removed,
        "metrics": [one.model_dump(mode="json", exclude_none=True) for one in search.metrics],
    }


def write_section(path: Path, section: dict[str, Any], *, overwrite: bool = False) -> None:
    """Writes the section `sigopt` of a file of edits.

    Args:
        path: The file. It is created if it does not exist.
        section: The section.
        overwrite: Whether a section that the file has is replaced.

    Raises:
        CatalogError: The file is not valid, or has the section and `overwrite` is false.
    """
    text = as_yaml({SECTION: section})
    if path.is_file():
        read_edits(path)
        text = _replaced(path, path.read_text(encoding="utf-8-sig"), text, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    try:
        new.write_text(text, encoding="utf-8")
        read_edits(new)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _replaced(path: Path, text: str, section: str, *, overwrite: bool) -> str:
    """Returns the text of a file with another section `sigopt`; it is the last one if the file had none."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)  # `read_edits` has read it
    if root.flow_style:
        raise CatalogError(f"{path}: expected one section a line, found braces around the file; write the sections on lines")
    lines = text.splitlines(keepends=True)
    found = next(((key, value) for key, value in root.value if key.value == SECTION), None)
    if found is None:
        return text + ("" if text.endswith("\n") else "\n") + section
    key, value = found
    first, after = key.start_mark.line, max(value.end_mark.line, key.start_mark.line + 1)
    if not overwrite:
        raise CatalogError(f"{path}: has a section {SECTION} (line {first + 1}); state --overwrite to replace it")
    while after > first + 1 and (not lines[after - 1].strip() or lines[after - 1].startswith("#")):
        after -= 1  # comments above the next section
    return "".join([*lines[:first], section, *lines[after:]])
