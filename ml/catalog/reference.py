"""The reference of every catalog key, generated from the models: `python -m ml.catalog.reference docs/catalog-reference.md`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from ml.catalog.spec import DatasetSpec

HEAD = """# Catalog reference

Every key of a `catalog/*.yaml`. Generated: `python -m ml.catalog.reference docs/catalog-reference.md`.
A walk through one entry: [bring your own logs](bring-your-own-logs.md).
"""


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a field's type mentions, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models_in(inner)


def reachable(root: type[BaseModel]) -> list[type[BaseModel]]:
    """A model and all that its keys lead to, each once, in the order of first mention."""
    found = [root]
    for model in found:
        for field in model.model_fields.values():
            found += [inner for inner in models_in(field.annotation) if inner not in found]
    return found


WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false", date: "date", Any: "anything"}


def shown_type(annotation: Any) -> str:
    """A type as a reader of YAML would say it."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return " or ".join(shown_type(one) for one in inner if one is not type(None))
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin is Annotated:
        return shown_type(inner[0])
    if origin is dict:
        return f"mapping of {shown_type(inner[0])} to {shown_type(inner[1])}"
    if origin is tuple:
        return f"list of {shown_type(inner[0])}"
    return WORDS.get(annotation) or f"[{annotation.__name__}](#{annotation.__name__.lower()})"


def shown_default(field: FieldInfo) -> str:
    """A default as YAML would hold it; nothing for one that is empty."""
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    value = TypeAdapter(field.annotation or Any).dump_python(value, mode="json", exclude_defaults=True)
    return "" if value in (None, "", [], {}) and value is not False else f"`{json.dumps(value)}`"


def section(model: type[BaseModel]) -> str:
    rows = ["| key | what | type | default |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        what = (field.description or "").replace("|", "\\|")
        rows.append(f"| `{name}` | {what} | {shown_type(field.annotation)} | {shown_default(field)} |")
    about = re.sub(r"\s+", " ", (model.__doc__ or "").strip())
    return f"\n## {model.__name__}\n\n{about}\n\n" + "\n".join(rows) + "\n"


def reference() -> str:
    """The whole page."""
    return HEAD + "".join(section(model) for model in reachable(DatasetSpec))


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference(), encoding="utf-8")
