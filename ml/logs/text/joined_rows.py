"""Joins the lines of rows whose quoted fields contain line ends, so that each row is one line for all that reads lines.

Line ends within quoted fields are replaced by bytes that text does not contain, and put back when a row has been read. Rows of
a file that contains these bytes, or the one in their place (`TAKEN`), are malformed. A quote
opens a field only at its beginning, as for Arrow's reader. A field that does not end within 1 MiB is taken for an
unbalanced quote: the lines after it are rows again.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at import, so type checkers do not see them)

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml.logs.text.layout import BOM

LINE_END, RETURN = b"\0", b"\1"
"""What stands for a line feed and for a carriage return within a quoted field."""
TAKEN = b"\2"
"""What stands for these bytes where a file has them. Rows with it are malformed."""


def join_rows(pieces: Iterable[bytes], separator: str) -> Iterator[bytes]:
    r"""Replaces the line ends within quoted fields of a file.

    Args:
        pieces: The bytes of the file from its beginning.
        separator: The field separator.

    Yields:
        As many bytes for each piece.

    Example:
        >>> b"".join(join_rows([b'1,"a\nb"\n', b'2,c\n'], ","))
        b'1,"a\x00b"\n2,c\n'
    """
    from ml.logs.text.join_kernel import BEGIN, join  # Numba takes long to import, and few logs need it

    state, length, first = BEGIN, 0, True
    for piece in pieces:
        data = np.frombuffer(bytearray(piece), np.uint8)
        skipped = len(BOM) if first and piece.startswith(BOM) else 0
        state, length = join(data[skipped:], ord(separator), state, length)
        first = first and not piece
        yield data.tobytes()


def split_rows(text: bytes) -> bytes:
    """Puts the line ends back."""
    return text.replace(LINE_END, b"\n").replace(RETURN, b"\r")


def with_line_ends(table: pa.Table) -> pa.Table:
    """Puts the line ends back in the columns of text of a table."""
    for i, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            texts = pc.replace_substring(table.column(i), LINE_END.decode(), "\n")
            table = table.set_column(i, field, pc.replace_substring(texts, RETURN.decode(), "\r"))
    return table
