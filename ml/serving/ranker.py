"""The LambdaRank of the newest candidate index, which orders the candidates of a request by their signals."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from ml.catalog.spec import DatasetSpec
from ml.lake import DamagedManifest, Lake, MissingPartition, StalePartition
from ml.models.lambdarank import LambdaRank
from ml.retrieval.candidate_index import DamagedIndex, load_ranker
from ml.retrieval.interactions import context_columns
from ml.retrieval.signals import CandidateSignals
from ml.serving.pins import Pins, WrongPin
from ml.stages import CANDIDATE_INDEX
from ml.sync.status import Refused

NAME = "lambdarank"
"""Name of the model in answers, and of its pin."""
_log = logging.getLogger("evergreen")


@dataclass(frozen=True)
class RankerOfDay:
    """A LambdaRank, and the day and digest of the candidate index that it comes from."""

    ranker: LambdaRank
    day: str
    digest: str


def load_day(lake: Lake, spec: DatasetSpec, day: str) -> LambdaRank | None:
    """Load the LambdaRank of a day, and check that the service can rank by it; None if the day has none.

    Raises:
        Refused: It is missing, damaged, was made under another specification, or reads other signals.
    """
    try:
        ranker = load_ranker(lake, spec, day)
    except StalePartition as error:
        raise Refused("schema", error) from error
    except MissingPartition as error:
        raise Refused("missing", error) from error
    except OSError as error:
        raise Refused("folder", error) from error
    except (DamagedIndex, DamagedManifest) as error:
        raise Refused("damaged", error) from error
    wanted = CandidateSignals(context_columns(spec)).names
    if ranker is not None and ranker.names != wanted:
        raise Refused("schema", f"the signals are {ranker.names}, expected {wanted}; materialise the day again")
    return ranker


class ServedRanker:
    """Keeps the newest LambdaRank of the lake, or the one of the day that it is pinned to. What cannot be served is refused.

    Args:
        lake: Where candidate indices are stored.
        spec: A dataset with an item and a user.
        pins: The pins of the dataset; by default none.

    Attributes:
        current: The model that is served; None as long as the lake has none. A poll replaces it at once.
        pinned: The day that it is pinned to; None for the newest one.
        refusal: Why the newest one is not served; None if it is.
    """

    def __init__(self, lake: Lake, spec: DatasetSpec, pins: Pins | None = None) -> None:
        self._lake, self._spec, self._pins = lake, spec, pins
        self.pinned: str | None = None
        self.refusal: str | None = None
        self._unusable: dict[tuple[str, str], str] = {}  # day and digest to why it is refused; empty if the day has no ranker
        self.current: RankerOfDay | None = None
        self.poll()

    @property
    def ranker(self) -> LambdaRank | None:
        """The LambdaRank that is served."""
        return self.current.ranker if self.current else None

    def poll(self) -> bool:
        """Load the model of a newer or the pinned day. Returns whether one is served now that was not before."""
        try:
            self.pinned = self._pins.day_of(NAME) if self._pins else None
        except WrongPin as error:
            self.refusal = str(error)
            return False
        refusal, changed = None, False
        for day in [self.pinned] if self.pinned else reversed(self._lake.days(CANDIDATE_INDEX, self._spec.name)):
            found = day, self._lake.readable_digest(CANDIDATE_INDEX, self._spec.name, day)
            if self.current and found == (self.current.day, self.current.digest):
                break
            if self._unusable.get(found, "folder:").startswith("folder:"):  # a folder that cannot be read is tried again
                ranker = self._load(*found)
                if ranker is not None:
                    self.current, changed = RankerOfDay(ranker, *found), True
                    break
            refusal = refusal or self._unusable[found] or None
        self.refusal = refusal
        return changed

    def _load(self, day: str, digest: str) -> LambdaRank | None:
        """Load the model of a day; if there is none to serve, note why."""
        why = ""
        try:
            if (ranker := load_day(self._lake, self._spec, day)) is not None:
                return ranker
        except Refused as error:
            why = f"{error.reason}: candidate index of {day}: {error}"
            if why != self._unusable.get((day, digest)):
                _log.warning("%s/%s refused %s", self._spec.name, NAME, why)
        self._unusable[day, digest] = why
        return None
