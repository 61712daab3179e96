"""The two stages of the service as of the end of a day, from the exports of that day alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from ml.artifacts.bundle import Bundle
from ml.catalog.experiment import Experiment
from ml.catalog.spec import DatasetSpec
from ml.days import day_bounds, shift_day
from ml.lake import Lake
from ml.models.lambdarank import LambdaRank
from ml.serving.champion import champion_of
from ml.serving.choice import choose_models
from ml.serving.models import load_export
from ml.serving.past import recommender_at
from ml.serving.ranker import NAME, load_day
from ml.serving.recommender import Recommendation, Recommender
from ml.serving.variants import variants_of
from ml.stages import CANDIDATE_INDEX
from ml.sync.status import Refused

_log = logging.getLogger("evergreen")


@dataclass(frozen=True)
class TwoStages:
    """Recommends items as the service does at the end of a day.

    Attributes:
        recommender: The events and the live items.
        now: The end of the day, in microseconds since 1970 UTC.
        ranking: Name and bundle of the model that ranks without an experiment.
        bundles: The bundles of the experiment's models, by name.
        ranker: The LambdaRank; None without one.
        experiment: The experiment; None without one.
    """

    recommender: Recommender
    now: int
    ranking: tuple[str, Bundle]
    bundles: dict[str, Bundle]
    ranker: LambdaRank | None
    experiment: Experiment | None

    @classmethod
    def load(cls, spec: DatasetSpec, day: str, lake: Lake, sides: Sequence[pa.Table] = ()) -> TwoStages:
        """Load the models and the events of a day, and make its live items.

        Args:
            spec: A dataset with an item and a user.
            day: `YYYY-MM-DD`.
            lake: Where logs and models are stored.
            sides: The joined columns of each side table, in the order of `spec.join`, as `read_side_tables` returns them.

        Raises:
            MissingPartition: The day has not been ingested.
            Refused: A model cannot be served; the message says why.
        """
        choice, now = choose_models(spec, champion=champion_on(spec, lake, day)), day_bounds(day, spec.zone)[1]
        names = dict.fromkeys([choice.model, *choice.shown])
        bundles = {name: load_export(lake, spec, name, day) for name in names}
        towers = bundles.get(choice.towers or "") or (load_export(lake, spec, choice.towers, day) if choice.towers else None)
        held = ranker_day(lake, spec, day)
        ranker = load_day(lake, spec, held) if held else None
        recommender = recommender_at(spec, lake, day, sides)
        recommender.source.refresh(now, towers)
        stages = cls(recommender, now, (choice.model, bundles[choice.model]), bundles, ranker, choice.experiment)
        stages._prepare(spec)
        return stages

    def _prepare(self, spec: DatasetSpec) -> None:
        """Compute the item sides of all live items at once, so that no score depends on which users came before."""
        items = self.recommender.source.live.items[spec.item or ""].to_pylist()
        for bundle in self.bundles.values() if items else ():
            self.recommender.rank(bundle, None, {}, items, self.now)

    def recommend(self, users: pa.Array, k: int, exclude_seen: bool) -> list[tuple[str, Recommendation]]:
        """Recommend items to users.

        Args:
            users: N users as logged.
            k: Number of items for each.
            exclude_seen: Whether to leave out the users' last items.

        Returns:
            For each user the name of what ranked, and the recommendation.
        """
        own = variants_of(self.experiment, users) if self.experiment else [None] * len(users)
        return [self._recommend(user, name, k, exclude_seen) for user, name in zip(users.to_pylist(), own, strict=True)]

    def _recommend(self, user: object, variant: str | None, k: int, exclude_seen: bool) -> tuple[str, Recommendation]:
        name, bundle = (variant, self.bundles[variant]) if variant in self.bundles else self.ranking
        ranker = self.ranker if variant in (None, NAME) else None
        found = self.recommender.recommend(bundle, user, {}, k, self.now, exclude_seen=exclude_seen, ranker=ranker)
        return (NAME if found.by_ranker else name), found


def champion_on(spec: DatasetSpec, lake: Lake, day: str) -> str | None:
    """Return the champion according to the reports up to a day; see `champion_of`."""
    return champion_of(spec, lake, until=shift_day(day, 1))


def ranker_day(lake: Lake, spec: DatasetSpec, day: str) -> str | None:
    """Return the newest day up to a day whose candidate index has a LambdaRank; None if none ranks or there is none.

    Raises:
        Refused: The candidate index of the day is missing, or one cannot be used, or none has the LambdaRank of an experiment.
    """
    if not (choice := choose_models(spec)).has_ranker:
        return None
    earlier = [other for other in lake.days(CANDIDATE_INDEX, spec.name) if other < day]
    found = next((other for other in (day, *reversed(earlier)) if load_day(lake, spec, other) is not None), None)
    if found is None and choice.experiment is not None:
        raise Refused(
            "missing",
            f"{spec.name}: no candidate index up to {day} has the lambdarank of `experiment.shares`; materialise "
            f"{CANDIDATE_INDEX} of a day that has clicks, or remove the variant",
        )
    if found != day:
        _log.warning("%s: the candidate index of %s has no LambdaRank; %s", spec.name, day, found or "the model ranks")
    return found
