"""The fields of a training run that its caller sets: how they are read, merged and shown.

A field is stored as the caller sends it, without the `object` keys that responses have. Most fields are maps, to which PUT
gives new content and into which MERGE merges, recursively.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml.tuning.errors import invalid
from ml.tuning.values import Reader, as_number, as_text

STATES = ("active", "completed", "failed")
FINISHED = frozenset({"completed", "failed"})
MAPS = ("assignments", "assignments_meta", "assignments_sources", "values", "metadata", "sys_metadata", "dev_metadata")
PARTS = (*MAPS, "model", "datasets", "source_code", "logs")
"""All fields that are objects."""

MAX_NAME = 100  # characters of names and keys
MAX_TEXT = 500  # characters of a string in metadata
MAX_KEYS = 1000  # of one map
MAX_LOG = 1124  # characters of a log: 1024 and the note about truncation that the client adds
MAX_CODE = 2**20  # characters of source code
MAX_SOURCE = 30  # characters of the name of a source of assignments
SERVED = "SigOpt"
"""Source of assignments that the service suggested."""


def read_fields(reader: Reader) -> dict[str, Any]:
    """Read the fields of a run that are present.

    Args:
        reader: Reader of the body. Keys that are not fields of a run stay unread.

    Returns:
        Values by name; None for an object that is to be removed.

    Raises:
        ApiError: A value is not valid.
    """
    found: dict[str, Any] = {}
    if reader.present("name"):
        found["name"] = reader.text("name", limit=MAX_NAME)
    if reader.present("state"):
        found["state"] = reader.text("state", choices=STATES)
    for key in ("deleted", "favorite"):
        if reader.present(key):
            found[key] = reader.flag(key)
    for key, read in _OBJECTS.items():
        if reader.present(key):
            content = reader.object(key)
            found[key] = None if content is None else _entries(content, reader.path(key), read)
    return found


def merged(old: Any, new: Any) -> Any:
    """Merge objects recursively. None deletes a key, and anything that is not an object replaces what was there.

    Example:
        >>> merged({"a": {"x": 1, "y": 2}, "b": 3}, {"a": {"y": 4}, "b": None})
        {'a': {'x': 1, 'y': 4}}
    """
    if not isinstance(new, Mapping):
        return new
    base = old if isinstance(old, Mapping) else {}
    both = {key: merged(base.get(key), new[key]) if key in new else base[key] for key in {**base, **new}}
    return {key: value for key, value in both.items() if value is not None}


def apply(row: Mapping[str, Any], fields: Mapping[str, Any], *, merge: bool) -> dict[str, Any]:
    """Compute what an update stores.

    Args:
        row: The run.
        fields: Fields from `read_fields`.
        merge: Whether objects are merged into what is stored, instead of replacing it.

    Returns:
        New values of columns.

    Raises:
        ApiError: A map has too many keys, or metadata of assignments has no assignment.
    """
    changed = {
        key: merged(row.get(key) if merge else None, value) if isinstance(value, Mapping) else value
        for key, value in fields.items()
    }
    for key, value in changed.items():
        if isinstance(value, Mapping) and len(value) > MAX_KEYS:
            raise invalid(key, f"has more than {MAX_KEYS} keys")
    meta, assignments = ({**row, **changed}.get(key) or {} for key in ("assignments_meta", "assignments"))
    for name in (fields.get("assignments_meta") or {}) if meta else ():
        if name in meta and name not in assignments:
            raise invalid(f"assignments_meta.{name}", "the run has no such assignment")
    return changed


def shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON of the fields that are objects."""
    model, code = row["model"] or {}, row["source_code"] or {}
    return {
        "assignments": row["assignments"] or {},
        "metadata": row["metadata"],
        "dev_metadata": row["dev_metadata"] or {},
        "sys_metadata": row["sys_metadata"] or {},
        "assignments_meta": _objects("assignments_meta", row["assignments_meta"]),
        "assignments_sources": _objects("assignments_sources", row["assignments_sources"]),
        "datasets": _objects("dataset", row["datasets"]),
        "logs": _objects("log", row["logs"]),
        "model": {"object": "model", "type": model.get("type")},
        "source_code": {"object": "source_code", "content": code.get("content"), "hash": code.get("hash")},
        "values": {
            name: {"object": "metric_evaluation", "name": name, "value_stddev": None, **value}
            for name, value in (row["values"] or {}).items()
        },
    }


def _objects(kind: str, entries: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: {"object": kind, **entry} for name, entry in (entries or {}).items()}


def _entries(content: Mapping[str, Any], path: str, read: Any) -> dict[str, Any]:
    """Read the values of a map; null stays, because it deletes a key when it is merged."""
    entries: dict[str, Any] = {}
    for key, value in content.items():
        if not key or len(key) > MAX_NAME:
            raise invalid(path, f"keys must have between 1 and {MAX_NAME} characters")
        entries[key] = None if value is None else read(key, value, f"{path}.{key}")
    return entries


def _scalar(key: str, value: Any, path: str) -> str | float:
    if isinstance(value, str):
        if len(value) > MAX_TEXT:
            raise invalid(path, f"must have at most {MAX_TEXT} characters, but has {len(value)}")
        return value
    return as_number(value, path)


def _evaluation(key: str, value: Any, path: str) -> dict[str, float]:
    reader = Reader(value, path)
    found = {"value": reader.number("value")}
    deviation = reader.optional_number("value_stddev")
    reader.ignore("object", "name")
    reader.close()
    if deviation is not None:
        if deviation < 0:
            raise reader.error("value_stddev", "must not be negative")
        found["value_stddev"] = deviation
    return found


def _log(key: str, value: Any, path: str) -> dict[str, str]:
    reader = Reader(value, path)
    content = reader.raw("content", required=True)
    reader.ignore("object")
    reader.close()
    if not isinstance(content, str):
        raise reader.error("content", "must be a string")
    return {"content": content[:MAX_LOG]}


def _dataset(key: str, value: Any, path: str) -> dict[str, Any]:
    reader = Reader(value, path)
    reader.ignore("object")
    reader.close()
    return {}


def _meta(key: str, value: Any, path: str) -> dict[str, str]:
    reader = Reader(value, path)
    source = reader.text("source", limit=MAX_SOURCE)
    reader.ignore("object")
    reader.close()
    if source == SERVED:
        raise reader.error("source", f"{SERVED} is reserved for what the service suggests")
    return {"source": source}


def _source(key: str, value: Any, path: str) -> dict[str, Any]:
    if len(key) > MAX_SOURCE:
        raise invalid(path, f"names of sources have at most {MAX_SOURCE} characters")
    reader = Reader(value, path)
    found = {"sort": reader.number("sort"), "default_show": reader.flag("default_show")}
    reader.ignore("object")
    reader.close()
    return found


def _part(limits: Mapping[str, int]) -> Any:
    """Reader of an object with fixed keys, whose values are strings."""

    def read(key: str, value: Any, path: str) -> str:
        if key not in limits:
            raise invalid(path, f"is not a known key; expected {', '.join(limits)}")
        if value == "":
            return value
        return as_text(value, path, limit=limits[key])

    return read


def _any(key: str, value: Any, path: str) -> Any:
    return value


_OBJECTS = {
    "assignments": _scalar,
    "metadata": _scalar,
    "dev_metadata": _scalar,
    "sys_metadata": _any,
    "assignments_meta": _meta,
    "assignments_sources": _source,
    "values": _evaluation,
    "datasets": _dataset,
    "logs": _log,
    "model": _part({"type": MAX_CODE}),
    "source_code": _part({"content": MAX_CODE, "hash": MAX_NAME}),
}
