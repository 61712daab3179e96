"""The LambdaRank of the newest candidate index, which orders the candidates of a request by their signals."""

from __future__ import annotations

import logging

from ml.catalog.spec import DatasetSpec
from ml.lake import Lake, MissingPartition, StalePartition
from ml.models.lambdarank import LambdaRank
from ml.retrieval.candidate_index import DamagedIndex, load_ranker
from ml.retrieval.interactions import context_columns
from ml.retrieval.signals import CandidateSignals
from ml.stages import CANDIDATE_INDEX

NAME = "lambdarank"
_log = logging.getLogger("evergreen")


class ServedRanker:
    """Keeps the newest LambdaRank of the lake. A damaged one, or one of other signals, is refused and logged.

    Args:
        lake: Where candidate indices are stored.
        spec: A dataset with an item and a user.

    Attributes:
        ranker: The model; None as long as the lake has none.
        day: Day of the model.
    """

    def __init__(self, lake: Lake, spec: DatasetSpec) -> None:
        self._lake, self._spec = lake, spec
        self._unusable: set[tuple[str, str]] = set()  # days, with digest, that have no ranker or a refused one
        self._names = CandidateSignals(context_columns(spec)).names
        self.ranker: LambdaRank | None = None
        self.day, self._digest = "", ""
        self.poll()

    def poll(self) -> bool:
        """Load the model of a newer day. Returns whether one is served now that was not before."""
        for day in reversed(self._lake.days(CANDIDATE_INDEX, self._spec.name)):
            found = ""
            try:
                found = self._lake.digest(CANDIDATE_INDEX, self._spec.name, day)
                if (day, found) == (self.day, self._digest):
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
            self.ranker, self.day, self._digest = ranker, day, found
            return True
        return False
