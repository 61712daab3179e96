"""Look-ups of the columns that are joined to the log by a key of the request."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from ml.catalog.reading import SideTable


class SideRows:
    """Looks up the joined columns of a key, such as the age of a user.

    Args:
        side: The join as the catalog entry declares it.
        rows: The side table, as `read_side_tables` returns it.
    """

    def __init__(self, side: SideTable, rows: pa.Table) -> None:
        self.log_key = side.log_key
        self._rows = rows.select(list(side.columns))
        self._at = {key: at for at, key in enumerate(rows[side.table_key].to_pylist())}

    def columns_of(self, key: Any) -> dict[str, Any]:
        """Return the columns of a key; empty for an unknown one."""
        at = self._at.get(key)
        return {} if at is None else self._rows.slice(at, 1).to_pylist()[0]
