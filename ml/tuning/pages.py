"""Pages of a list, newest objects first, with markers for the pages before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from ml.tuning import render
from ml.tuning.errors import invalid
from ml.tuning.values import as_identity

MAX_LIMIT = 1000


def page(
    connection: sa.Connection,
    query: sa.Select,
    key: sa.ColumnElement[int],
    data: Mapping[str, Any],
    show: Callable[[Any], dict[str, Any]],
) -> dict[str, Any]:
    """Return one page of a query as the API shows it.

    Args:
        connection: The connection.
        query: Selects all objects.
        key: The id of the objects, by which they are ordered.
        data: Query parameters: `limit`; `before`, a marker (older objects only); `after`, a marker (newer objects only);
            `ascending`.
        show: Renders one row.

    Raises:
        ApiError: The limit or a marker is invalid.
    """
    size, ascending = limit(data), flag(data, "ascending")
    before, after = (_marker(data, name) for name in ("before", "after"))
    descending = from_newest(ascending, before, after)
    count = connection.scalar(sa.select(sa.func.count()).select_from(query.order_by(None).subquery()))
    if before is not None:
        query = query.where(key < before)
    if after is not None:
        query = query.where(key > after)
    rows = connection.execute(query.order_by(key.desc() if descending else key.asc()).limit(size + 1)).all()
    more, shown = len(rows) > size, list(rows[:size])
    ids = [row._mapping[key.name] for row in rows]
    if shown:
        first, last = str(ids[0]), str(ids[len(shown) - 1]) if more else None
    elif more:
        first, last = None, str(ids[0] + (1 if descending else -1))  # a page of no objects leads to the first page
    else:
        first, last = (None, _text(before)) if descending else (None, _text(after))
    if ascending == descending:
        shown.reverse()
    return render.pagination(
        (show(row) for row in shown),
        count=count,
        before=last if descending else first,
        after=first if descending else last,
    )


def from_newest(ascending: bool, before: object, after: object) -> bool:
    """Whether the page ends at `before`, or at the newest object, instead of starting at `after`.

    With both markers, a descending list starts from the newest object between them, and an ascending one from the oldest.
    """
    return before is not None and after is None if ascending else before is not None or after is None


def limit(data: Mapping[str, Any]) -> int:
    """Return the query parameter `limit`."""
    given = data.get("limit")
    found = MAX_LIMIT if given is None else as_identity(given)
    if found is None or found > MAX_LIMIT:
        raise invalid("limit", f"must be an integer between 0 and {MAX_LIMIT}")
    return found


def flag(data: Mapping[str, Any], key: str) -> bool:
    """Return a query parameter that is true or false, False if it is absent."""
    given = data.get(key)
    text = str(given).lower()
    if given is not None and text not in ("true", "false", "1", "0"):
        raise invalid(key, "must be true or false")
    return text in ("true", "1")


def _marker(data: Mapping[str, Any], name: str) -> int | None:
    given = data.get(name)
    found = as_identity(given)
    if given is not None and found is None:
        raise invalid(name, "is not a paging marker")
    return found


def _text(marker: int | None) -> str | None:
    return None if marker is None else str(marker)
