"""Pages of a list that is sorted by any field, newest or largest values first.

`ml.tuning.pages` pages queries by id, in the database; here the list is in memory, for example because its order depends on
JSON.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ml.tuning import render
from ml.tuning.errors import invalid
from ml.tuning.pages import flag, from_newest, limit

START = "start"
"""Marker of the first page, behind a page that was asked for with the limit 0."""

Key = tuple[bool, Any, int | str]
"""Whether the value is a string, the value, and the id: comparable for any two objects of a list."""


def sort_key(value: Any, identity: int | str) -> Key:
    """Return the key by which an object is sorted.

    Args:
        value: Value of the field: a string, number or boolean.
        identity: Id of the object, which orders equal values.
    """
    return isinstance(value, str), value, identity


def sorted_page(
    items: Iterable[tuple[Key, Any]], data: Mapping[str, Any], show: Callable[[Any], dict[str, Any]]
) -> dict[str, Any]:
    """Return one page of a list as the API shows it.

    Args:
        items: All objects of the list with their keys.
        data: Query parameters, see `ml.tuning.pages.page`. Markers are opaque.
        show: Renders one object.

    Raises:
        ApiError: The limit or a marker is invalid.
    """
    size, ascending = limit(data), flag(data, "ascending")
    before, after = (_marker(data, name) for name in ("before", "after"))
    descending = from_newest(ascending, data.get("before"), data.get("after"))
    ordered = sorted(items, key=lambda item: item[0], reverse=descending)
    count = len(ordered)
    try:
        if before is not None:
            ordered = [item for item in ordered if item[0] < before]
        if after is not None:
            ordered = [item for item in ordered if item[0] > after]
    except TypeError:
        raise invalid("before" if after is None else "after", "is a paging marker of another list") from None
    more, shown = len(ordered) > size, ordered[:size]
    if shown:
        first, last = _encoded(shown[0][0]), _encoded(shown[-1][0]) if more else None
    else:
        given = data.get("before") if descending else data.get("after")
        first, last = None, (given or START) if more else given
    if ascending == descending:
        shown.reverse()
    return render.pagination(
        (show(item) for _, item in shown),
        count=count,
        before=last if descending else first,
        after=first if descending else last,
    )


def _encoded(key: Key) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


def _marker(data: Mapping[str, Any], name: str) -> Key | None:
    given = data.get(name)
    if given is None or given == START:
        return None
    try:
        text, value, identity = json.loads(base64.urlsafe_b64decode(given + "=" * (-len(given) % 4)))
    except (binascii.Error, ValueError, TypeError, RecursionError):
        raise invalid(name, "is not a paging marker") from None
    return bool(text), value, identity
