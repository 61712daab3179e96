"""Kernel of `ml.logs.text.joined_rows`: finds the line ends within quoted fields."""

from __future__ import annotations

from typing import Final

from ml.compute.kernel_cache import jit

LONGEST_FIELD: Final = 1 << 20
"""Bytes after which a quoted field without an end is taken for an unbalanced quote."""
TAKEN: Final = 2
"""In place of the bytes that stand for line ends, where a file has them itself. It makes a row malformed."""
BEGIN: Final = 0
_PLAIN: Final = 1
_QUOTED: Final = 2
_AFTER_QUOTE: Final = 3
_LF: Final = 0x0A
_CR: Final = 0x0D
_QUOTE: Final = 0x22


@jit(nogil=True)
def join(data, separator, state, length):  # type: ignore[no-untyped-def]
    """Replaces line ends within quoted fields of data [N], uint8. Returns the state after it and the quoted field's length."""
    for i in range(len(data)):
        byte = data[i]
        if byte < TAKEN:
            data[i] = byte = TAKEN
        if state == _QUOTED:
            length += 1
            if byte == _QUOTE:
                state = _AFTER_QUOTE
            elif length > LONGEST_FIELD:
                state = BEGIN if byte == _LF else _PLAIN
            elif byte == _LF:
                data[i] = 0
            elif byte == _CR:
                data[i] = 1
        elif byte in (_LF, separator):
            state = BEGIN
        elif byte == _QUOTE and state != _PLAIN:
            if state == BEGIN:
                length = 0
            state = _QUOTED
        else:
            state = _PLAIN
    return state, length
