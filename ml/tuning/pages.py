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
        data: Query parameters: `limit`, `before` a marker (older objects), `after` a marker (newer objects), `ascending`.
        show: Renders one row.

    Raises:
        ApiError: The limit or a marker is invalid.
    """
    size = limit(data)
    before, after = (_marker(data, name) for name in ("before", "after"))
    if before is not None and after is not None:
        raise invalid("after", "cannot be combined with before")
    ascending = after is not None or flag(data, "ascending")
    count = connection.scalar(sa.select(sa.func.count()).select_from(query.order_by(None).subquery()))
    selected = query.where(key < before) if before is not None else query.where(key > after) if after is not None else query
    rows = connection.execute(selected.order_by(key.asc() if ascending else key.desc()).limit(size + 1)).all()
    more, rows = len(rows) > size, rows[:size]
    marker = str(rows[-1]._mapping[key.name]) if more and rows else None
    return render.pagination(
        (show(row) for row in rows),
        count=count,
        before=None if ascending else marker,
        after=marker if ascending else None,
    )


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
