"""The LambdaRank of the newest candidate index, which orders the candidates of a request by their signals."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from ml.catalog.spec import DatasetSpec
from ml.lake import Lake, MissingPartition, StalePartition
from ml.models.lambdarank import LambdaRank
from ml.retrieval.candidate_index import DamagedIndex, load_ranker
from ml.retrieval.interactions import context_columns
from ml.retrieval.signals import CandidateSignals
from ml.stages import CANDIDATE_INDEX

NAME = "lambdarank"
_log = logging.getLogger("evergreen")


@dataclass(frozen=True)
class RankerOfDay:
    """A LambdaRank, and the day and digest of the candidate index that it comes from."""

    ranker: LambdaRank
    day: str
    digest: str


class ServedRanker:
    """Keeps the newest LambdaRank of the lake. A damaged one, or one of other signals, is refused and logged.

    Args:
        lake: Where candidate indices are stored.
        spec: A dataset with an item and a user.

    Attributes:
        current: The model that is served; None as long as the lake has none. A poll replaces it at once.
    """

    def __init__(self, lake: Lake, spec: DatasetSpec) -> None:
        self._lake, self._spec = lake, spec
        self._unusable: set[tuple[str, str]] = set()  # days, with digest, that have no ranker or a refused one
        self._names = CandidateSignals(context_columns(spec)).names
        self.current: RankerOfDay | None = None
        self.poll()

    @property
    def ranker(self) -> LambdaRank | None:
        """The LambdaRank that is served."""
        return self.current.ranker if self.current else None

    def poll(self) -> bool:
        """Load the model of a newer day. Returns whether one is served now that was not before."""
        for day in reversed(self._lake.days(CANDIDATE_INDEX, self._spec.name)):
            found = ""
            try:
                found = self._lake.digest(CANDIDATE_INDEX, self._spec.name, day)
                if self.current and (day, found) == (self.current.day, self.current.digest):
                    return False
                if (day, found) in self._unusable:
                    continue
                ranker = load_ranker(self._lake, self._spec, day)
                if ranker is None:
                    self._unusable.add((day, found))
                    continue
                if ranker.names != self._names:
                    raise DamagedIndex(f"the signals are {ranker.names}, expected {self._names}; materialise the day again")
            except (DamagedIndex, MissingPartition, StalePartition, OSError) as error:
                _log.warning("%s/%s of %s: %s", self._spec.name, NAME, day, error)
                self._unusable.add((day, found))
                continue
            self.current = RankerOfDay(ranker, day, found)
            return True
        return False
