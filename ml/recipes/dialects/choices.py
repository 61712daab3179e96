"""What a user decides about a file that is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Choices:
    """What a user decides about a file that is read.

    Attributes:
        keys: Recipe keys by parameter.
        metrics: Metrics by the names in the file.
        skip: Parameters, metrics and keys of the file that are left out.
        steps: Length of the original's training in the unit of its schedule, steps or epochs. It turns positions in the
            schedule into fractions.
    """

    keys: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, str] = field(default_factory=dict)
    skip: frozenset[str] = frozenset()
    steps: float | None = None
