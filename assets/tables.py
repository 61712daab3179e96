"""Tables in the metadata of assets and checks."""

from collections.abc import Iterable, Mapping

import dagster as dg


def table(columns: Mapping[str, str], rows: Iterable[Mapping[str, str | int | float]]) -> dg.TableMetadataValue:
    """Build a table.

    Args:
        columns: Type of each column by name: `string`, `int` or `float`.
        rows: Values of each row by column.
    """
    schema = dg.TableSchema(columns=[dg.TableColumn(name, kind) for name, kind in columns.items()])
    return dg.MetadataValue.table([dg.TableRecord(dict(row)) for row in rows], schema)
