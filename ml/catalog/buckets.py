"""Edges of logarithmic buckets, `bucketise: {log: {per_octave: 4}}`."""

from __future__ import annotations

import math
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from ml.catalog.fault_text import what_is_wrong
from ml.catalog.strict import Float, Int, Strict, fault

MAX_EDGES = 10_000


class LogBuckets(Strict):
    """Edges 0 and `min * 2^(k / per_octave)` for k = 0, 1, 2, ... up to `max`.

    Example:
        >>> LogBuckets(per_octave=1, max=8).edges()
        (0.0, 1.0, 2.0, 4.0, 8.0)
    """

    per_octave: Int = Field(default=4, ge=1, le=64, description="Buckets between a number and its double.")
    min: Float = Field(default=1.0, gt=0, description="First edge above 0.")
    max: Float = Field(default=65_536.0, gt=0, description="Bound on the last edge.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min >= self.max:
            raise fault("min", f"{self.min:g} is not below max {self.max:g}")
        if self._steps > MAX_EDGES:
            raise fault("", f"expected at most {MAX_EDGES} edges, found {self._steps}")
        return self

    @property
    def _steps(self) -> int:
        return math.floor((math.log2(self.max) - math.log2(self.min)) * self.per_octave + 1e-9)

    def edges(self) -> tuple[float, ...]:
        """Returns the edges, ascending."""
        return (0.0, *(self.min * 2.0 ** (step / self.per_octave) for step in range(self._steps + 1)))


class _Bucketise(Strict):
    """The mapping form of `bucketise`."""

    log: LogBuckets = Field(description="Logarithmic buckets.")


def edges_of(bucketise: Any, path: str) -> Any:
    """Replaces `{log: {...}}` by its edges.

    Args:
        bucketise: What the file has. Anything but a mapping is returned as it is, for validation to accept or refuse.
        path: Path of the key, for the error.

    Raises:
        PydanticCustomError: The mapping is malformed.
    """
    if not isinstance(bucketise, dict):
        return bucketise
    try:
        return list(_Bucketise.model_validate(bucketise).log.edges())
    except ValidationError as error:
        # An unknown key explains a missing one.
        first = max(error.errors(), key=lambda found: found["type"] == "extra_forbidden")
        keys = [path, *map(str, first["loc"]), str(first.get("ctx", {}).get("key", ""))]
        raise fault(".".join(filter(None, keys)), what_is_wrong(first, _Bucketise)) from error
