"""Reads the side tables of a day, writes them to where every task can read them, and keeps their malformed lines.

`ml.features.side_join` joins the tables to the log.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.features.side_files import check_whole
from ml.features.side_join import Joined, Matches, Strategy, prepare, strategy_for
from ml.logs.quarantine import Quarantine
from ml.logs.source_table import read_table
from ml.parquet import write_table

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@dataclass(frozen=True)
class JoinedTable:
    """Statistics of one side table.

    Attributes:
        strategy: How the table was joined.
        rows: Number of its rows.
        quarantined: Number of its malformed lines.
        reasons: Malformed lines by reason.
        matches: Rows of the day with a key, and with a match.
    """

    strategy: Strategy
    rows: int
    quarantined: int
    reasons: dict[str, int]
    matches: Matches

    @property
    def facts(self) -> dict[str, Any]:
        """The statistics as the manifest has them. `match_rate` is null if no row of the day has a key."""
        facts = {"strategy": self.strategy, "rows": self.rows, "quarantined": self.quarantined, "reasons": self.reasons}
        return facts | {"keyed": self.matches.keyed, "matched": self.matches.matched, "match_rate": self.matches.rate}


@dataclass(frozen=True)
class PreparedTable:
    """A side table that tasks can read.

    Attributes:
        joined: The table as tasks join it.
        rows: Number of its rows, including rows without a key.
        quarantine: Its malformed lines.
    """

    joined: Joined
    rows: int
    quarantine: Quarantine

    def statistics(self, matches: Matches) -> JoinedTable:
        """Returns the statistics of the table for a day with these matches."""
        return JoinedTable(self.joined.strategy, self.rows, len(self.quarantine), self.quarantine.reasons, matches)


def prepare_tables(
    spec: DatasetSpec, logs: str | UPath, folder: UPath, broadcast_bytes: int, spark: SparkSession | None
) -> dict[str, PreparedTable]:
    """Reads and writes all side tables of a dataset.

    Args:
        spec: The dataset.
        logs: The landing folder.
        folder: Where the tables are written.
        broadcast_bytes: Largest table, in bytes, that every task holds in memory.
        spark: The session that joins larger tables; without it every table is joined in memory.

    Returns:
        The tables by name, in the order of `join`.

    Raises:
        DamagedSideTable: A file is truncated or corrupt.
        RepeatedKey: A table has two rows with the same key.
    """
    tables: dict[str, PreparedTable] = {}
    for n, side in enumerate(spec.join):
        table, quarantine = read_table(side.source, logs)
        check_whole(quarantine)
        rows = prepare(side, table, spec.column_types[side.log_key])
        path = folder / f"{n}.parquet"
        write_table(rows, path)
        strategy = strategy_for(rows, broadcast_bytes, spark)
        joined = Joined(side.log_key, side.table_key, side.columns, strategy, str(path))
        name = f"{side.source.files} on {side.log_key}"
        name = f"{name} (join.{n})" if name in tables else name  # a file can be joined several times
        tables[name] = PreparedTable(joined, len(table), quarantine)
    return tables
