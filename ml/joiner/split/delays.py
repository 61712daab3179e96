"""Distributions of the time from an impression to its action, parsed from text such as `lognormal:median=10m,sigma=1`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ml.days import MICROSECONDS_PER_HOUR, MICROSECONDS_PER_MINUTE, MICROSECONDS_PER_SECOND

UNITS = {
    "ms": MICROSECONDS_PER_SECOND // 1000,
    "s": MICROSECONDS_PER_SECOND,
    "m": MICROSECONDS_PER_MINUTE,
    "h": MICROSECONDS_PER_HOUR,
    "d": 24 * MICROSECONDS_PER_HOUR,
}
FORMS = "lognormal:median=10m,sigma=1 or exponential:mean=10m or uniform:from=0s,to=2h or file:PATH (seconds, one a line)"


@dataclass(frozen=True)
class Delays:
    """A distribution of delays.

    Args:
        kind: Family of the distribution; `empirical` draws from `observed`.
        first: Median (lognormal), mean (exponential) or lower bound (uniform), in microseconds.
        second: Standard deviation of the logarithm (lognormal), or upper bound in microseconds (uniform).
        observed: Delays in microseconds, [N], ascending; between two of them the distribution is linear.

    Example:
        >>> Delays.parse("uniform:from=10s,to=20s").draw(np.random.default_rng(0), 2).tolist()
        [16369616, 12697867]
    """

    kind: Literal["lognormal", "exponential", "uniform", "empirical"]
    first: float = 0.0
    second: float = 0.0
    observed: tuple[float, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Delays:
        """Parses the text of a distribution.

        Args:
            text: One of `lognormal:median=10m,sigma=1`, `exponential:mean=10m`, `uniform:from=0s,to=2h`, and `file:PATH`, a
                file of observed delays in seconds, one a line.

        Raises:
            ValueError: The text has another form, or the file has a line that is not a delay.
        """
        kind, _, rest = text.partition(":")
        if kind == "file":
            return cls("empirical", observed=_read(Path(rest)))
        given = dict(part.split("=", 1) for part in rest.split(",") if "=" in part)
        wanted = {"lognormal": ("median", "sigma"), "exponential": ("mean",), "uniform": ("from", "to")}.get(kind)
        if wanted is None or sorted(given) != sorted(wanted):
            raise ValueError(f"delays {text!r}: expected {FORMS}")
        if kind == "lognormal":
            return cls("lognormal", duration(given["median"]), _positive(given["sigma"]))
        if kind == "exponential":
            return cls("exponential", duration(given["mean"]))
        low, high = duration(given["from"]), duration(given["to"])
        if high <= low:
            raise ValueError(f"delays {text!r}: `to` is not above `from`")
        return cls("uniform", low, high)

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Draws delays in microseconds, int64 [count], none below 0."""
        if self.kind == "lognormal":
            drawn = self.first * np.exp(self.second * rng.standard_normal(count))
        elif self.kind == "exponential":
            drawn = rng.exponential(self.first, count)
        elif self.kind == "uniform":
            drawn = rng.uniform(self.first, self.second, count)
        else:
            drawn = np.quantile(np.array(self.observed), rng.random(count))
        return np.minimum(drawn, 2**62).astype(np.int64)


def duration(text: str) -> int:
    """Parses a duration such as `90s`, `10m`, `1.5h` or `2d` into microseconds.

    Raises:
        ValueError: The text is not a number with one of these units.

    Example:
        >>> duration("1.5m")
        90000000
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text)
    if match is None:
        raise ValueError(f"duration {text!r}: expected a number with one of the units {', '.join(UNITS)}, such as 90s")
    return round(float(match[1]) * UNITS[match[2]])


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 100:
        raise ValueError(f"sigma {text!r}: expected a number above 0")
    return value


def _read(file: Path) -> tuple[float, ...]:
    try:
        seconds = np.sort(np.array(file.read_text().split(), np.float64))
    except ValueError as error:
        raise ValueError(f"{file}: expected one delay in seconds a line: {error}") from error
    if not len(seconds) or seconds[0] < 0 or not np.isfinite(seconds).all():
        raise ValueError(f"{file}: expected delays of at least 0 seconds, one a line")
    return tuple((seconds * MICROSECONDS_PER_SECOND).tolist())
