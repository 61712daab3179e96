"""Compiles strptime formats to regular expressions whose groups are the parts of a time.

A whole column is then parsed by one regular expression, and its parts are integers in a few arrays (`ml.logs.clock`).
"""

from __future__ import annotations

import calendar
import re
from functools import lru_cache

_ZONE = r"(?P<zone>[Zz]|(?P<sign>[+-])(?P<oh>\d{2}):?(?P<om>\d{2})?)"
_NAMES = calendar.month_name[1:]
MONTHS = {name[:3].lower(): number for number, name in enumerate(_NAMES, start=1)}
"""The first three letters of each month's English name, in lower case -> its number."""

CODES = {
    "%Y": r"(?P<y>\d{4})",
    "%y": r"(?P<yy>\d{2})",
    "%m": r"(?P<mo>\d{1,2})",
    "%b": r"(?P<name>[A-Za-z]{3})",
    "%B": f"(?P<name>(?i:{'|'.join(_NAMES)}))",
    "%d": r"(?P<d>\d{1,2})",
    "%j": r"(?P<j>\d{1,3})",
    "%H": r"(?P<h>\d{1,2})",
    "%I": r"(?P<h12>\d{1,2})",
    "%p": r"(?P<half>[AaPp])[Mm]",
    "%M": r"(?P<mi>\d{1,2})",
    "%S": r"(?P<s>\d{1,2})",
    "%f": r"(?P<f>\d{1,9})",
    "%z": _ZONE,
    "%a": r"[A-Za-z]{3}",
    "%A": r"[A-Za-z]{6,9}",
    "%%": "%",
}
"""The supported strptime codes. `%p` is AM or PM; `%z` is `Z`, `+01:00`, `+0100` or `+01`; names are English."""
TIME_OF_DAY = ("%H", "%I", "%p", "%M", "%S", "%f")
ISO = (
    r"^(?P<y>\d{4})-(?P<mo>\d{2})-(?P<d>\d{2})(?:[T ](?P<h>\d{2}):(?P<mi>\d{2})(?::(?P<s>\d{2})(?:[.,](?P<f>\d{1,9}))?)?"
    rf" ?{_ZONE}?)?$"
)
"""ISO 8601: a date, or a date and a time with optional seconds, fraction and offset."""

_DAYS = [{year, *rest} for year in ("y", "yy") for rest in (("mo", "d"), ("name", "d"), ("j",))]


def split_format(text: str) -> list[str]:
    """Split a strptime format into its codes, blanks, and the texts between them."""
    return re.findall(r"%.?|\s+|[^%\s]+", text)


@lru_cache(maxsize=64)
def compile_format(text: str) -> str:
    """Compile a strptime format.

    Args:
        text: Such as `%m/%d/%Y %I:%M:%S %p`. A run of blanks stands for one or more blanks.

    Returns:
        A regular expression for whole texts. Its groups are those of `CODES`, as far as the format has them.

    Raises:
        ValueError: A code is unknown or occurs twice, or the format does not give a day.

    Example:
        >>> import re
        >>> found = re.match(compile_format("%d/%b/%Y:%H:%M:%S %z"), "29/Nov/2026:07:30:00 +0100")
        >>> found["d"], found["name"], found["oh"]
        ('29', 'Nov', '01')
    """
    pattern = "^"
    for part in split_format(text):
        if part.startswith("%"):
            if part not in CODES:
                raise ValueError(f"unknown code {part!r}; the codes are {' '.join(CODES)}")
            pattern += CODES[part]
        else:
            pattern += r"[ \t]+" if part.isspace() else re.escape(part)
    pattern += "$"
    groups = re.findall(r"\?P<(\w+)>", pattern)
    if twice := sorted({group for group in groups if groups.count(group) > 1}):
        codes = [code for code, group in CODES.items() if any(f"<{name}>" in group for name in twice)]
        raise ValueError(f"{' and '.join(codes)}: a part of the time occurs more than once")
    if not any(day <= set(groups) for day in _DAYS):
        raise ValueError("does not give a day; expected year, month and day (%Y %m %d), or year and day of the year (%Y %j)")
    for half, hour in (("half", "h12"), ("h12", "half")):
        if half in groups and hour not in groups:
            raise ValueError("%I (hours to 12) needs %p (AM or PM), and %p needs %I")
    if "h" in groups and "h12" in groups:
        raise ValueError("%H and %I: give one of them")
    return pattern
