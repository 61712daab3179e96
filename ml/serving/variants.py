"""Variants of an experiment: the model that ranks for a user, chosen by a stable hash of the user."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml.catalog.experiment import Experiment
from ml.features.hashing import hash_values
from ml.schema import MISSING_ID
from ml.serving.models import ServedModel
from ml.serving.ranker import NAME, ServedRanker


@dataclass(frozen=True)
class Variant:
    """What ranks for some of the users.

    Attributes:
        name: Name of the model, or `lambdarank`; None without an experiment.
        model: The model that ranks, or that ranks given candidates beside a LambdaRank.
        ranker: The LambdaRank that orders candidates of recommendations; None to rank them by `model`.
    """

    name: str | None
    model: ServedModel
    ranker: ServedRanker | None

    @property
    def ranked_by(self) -> tuple[str, str]:
        """The model that orders recommendations and its version: a day or a sync."""
        if self.ranker is not None and (of_day := self.ranker.current) is not None:
            return NAME, of_day.day
        version = self.model.version
        return version.model, version.version


def variants_of(experiment: Experiment, users: pa.Array) -> list[str | None]:
    """Assign users to variants. The same user always gets the same variant of an experiment, in every process.

    Args:
        experiment: The experiment.
        users: N users as logged.

    Returns:
        For each user the name of the variant; None for a missing user.

    Example:
        >>> both = Experiment(name="a", shares={"dlrm": 0.5, "deepfm": 0.5})
        >>> variants_of(both, pa.array([7, 8, None, 7])) == variants_of(both, pa.array([7, 8, None, 7]))
        True
    """
    ids: NDArray[np.int64] = hash_values(f"experiment {experiment.name}", users)
    # The upper 53 bits, which a float holds exactly, as a number in [0, 1).
    drawn = (ids.view(np.uint64) >> np.uint64(11)).astype(np.float64) / 2.0**53
    names = list(experiment.shares)
    bounds = np.cumsum(list(experiment.shares.values()))[:-1]
    found = np.searchsorted(bounds, drawn, side="right")
    return [None if own == MISSING_ID else names[at] for own, at in zip(ids.tolist(), found.tolist(), strict=True)]
