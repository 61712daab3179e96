"""The inputs of a day of arriving rows besides its own rows, chosen when the day begins and stored in its checkpoints.

The daily assets write partitions during the day. A day that resumes reads the inputs that it began with, so that its slices
have the same predictions and its packages the same contents, even if the lake has changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.online.arriving_position import saved_checkpoints
from ml.online.earlier_events import TAKEN, find_earlier
from ml.online.examples import vocabulary_day
from ml.online.rivals import Rivals
from ml.online.start import Run, Start, start_of_stream
from ml.recipes.recipe import Recipe
from ml.stages import CLEANED_FEATURES


@dataclass(frozen=True)
class DayInputs:
    """Inputs of a day.

    Attributes:
        start: What the day starts from.
        compared_with: Day of each daily model that predicts beside the serving model, by name.
        vocabularies_of: Day of the vocabularies; None without any.
        earlier: Days before the day whose events are read, by where they are; see `find_earlier`.
        states: Digest of the state to start from and of each daily model, by `<stage>/<day>`.
    """

    start: Start
    compared_with: dict[str, str]
    vocabularies_of: str | None
    earlier: dict[str, list[str]]
    states: dict[str, str]

    @classmethod
    def choose(
        cls, lake: Lake, spec: DatasetSpec, model: str, day: str, recipe: Recipe, taken: UPath, settings: Mapping[str, Any]
    ) -> DayInputs:
        """Return the inputs of the day's newest checkpoint if it can be continued, or else the newest in the lake.

        Args:
            lake: Where states and checkpoints are stored.
            spec: The dataset.
            model: Name of the model.
            day: `YYYY-MM-DD`.
            recipe: How the day is trained.
            taken: Folder of the rows that were taken from the stream, by day.
            settings: What else determines the result: recipe, schema and stream. A checkpoint with others is not continued.

        Raises:
            MissingPartition: The state to start from is missing.
        """
        for manifest in saved_checkpoints(lake, spec, model, day):
            identity = manifest["identity"]
            if all(identity.get(name) == value for name, value in settings.items()):
                stored = cls._from_plain(identity)
                if stored._are_available(lake, spec, model, taken):
                    return stored
        start = start_of_stream(lake, spec, model, day, recipe)
        rivals = Rivals.of(lake, spec, model, day, start.run)
        states = sorted({*([start.place] if start.place else ()), *rivals.places.values()})
        digests = {"/".join(place): lake.digest(place[0], spec.name, place[1]) for place in states}
        earlier = find_earlier(spec, day, lake, taken)
        return cls(start, rivals.days, vocabulary_day(spec, day, lake), earlier, digests)

    def to_plain(self) -> dict[str, Any]:
        """Return the inputs as values that JSON supports, for the identity of checkpoints."""
        return {
            "start": "/".join(self.start.place) if self.start.place else None,
            "run": asdict(self.start.run),
            "states": self.states,
            "compared_with": self.compared_with,
            "vocabularies_of": self.vocabularies_of,
            "earlier": self.earlier,
        }

    @classmethod
    def _from_plain(cls, plain: Mapping[str, Any]) -> DayInputs:
        stage, _, day = (plain["start"] or "").rpartition("/")
        start = Start(Run(**plain["run"]), (stage, day) if day else None)
        return cls(start, plain["compared_with"], plain["vocabularies_of"], plain["earlier"], plain["states"])

    def _are_available(self, lake: Lake, spec: DatasetSpec, model: str, taken: UPath) -> bool:
        """Whether the lake still has the inputs. Only the state to start from must have the same contents."""
        place, words = self.start.place, self.vocabularies_of
        if place and not lake.has(place[0], spec.name, place[1]):
            return False
        if place and lake.digest(place[0], spec.name, place[1]) != self.states["/".join(place)]:
            return False
        if words and not lake.is_current(CLEANED_FEATURES, spec.name, words, spec.fingerprint):
            return False
        if not all(
            (taken / other).exists() if where == TAKEN else lake.has(where, spec.name, other)
            for where, days in self.earlier.items()
            for other in days
        ):
            return False
        rivals = Rivals(lake, spec, model, self.compared_with)
        return all(lake.has(stage, spec.name, until) for stage, until in rivals.places.values())
