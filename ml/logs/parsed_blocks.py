"""The common form of a parsed block: typed rows and quarantined lines, for every file format.

`ml.logs.formats` reads files into such blocks. `ml.logs.validate_rows` validates the content of rows (time, day, label).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


@dataclass(frozen=True)
class ParsedBlock:
    """N rows and Q bad lines of one block of a file. Lines are numbered from 0 in the block, a header included.

    Attributes:
        index: Number of the block in its file; of the row group for Parquet.
        num_lines: Lines of the block, a header included.
        header_lines: How many of them are a header.
        table: The source's columns, [N].
        row_lines: Line of each row, int64 [N], ascending.
        bad_lines: Quarantined lines, int64 [Q], ascending.
        reasons: Why each of them is bad, [Q].
        text_of: Returns the first `TEXT_BYTES` bytes of a line.
        content_of: Returns the bytes that some lines hold, given as a range of lines or as a mask, bool [num_lines].
        absent: Columns whose key no line has, in a format that names each value (JSON); None in a block without rows.
    """

    index: int
    num_lines: int
    header_lines: int
    table: pa.Table
    row_lines: NDArray[np.int64]
    bad_lines: NDArray[np.int64]
    reasons: list[str]
    text_of: Callable[[int], bytes]
    content_of: Callable[[slice | NDArray[np.bool_]], bytes | memoryview]
    absent: frozenset[str] | None = frozenset()
