"""Catalog keys of an experiment: which models the service shows to which share of the users. Declarations only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from ml.catalog.strict import Float, Strict, fault

if TYPE_CHECKING:
    from ml.catalog.spec import DatasetSpec

LAMBDARANK = "lambdarank"
EXPERIMENT, VARIANT = "@experiment", "@variant"
"""Columns that the service adds to what was shown."""
VARIANTS = "variants"
"""Folder of the stream in which the service notes what was shown, with these columns."""
_ROUNDING = 1e-6


class Experiment(Strict):
    """An A/B test: the service ranks for each user by one of several models, and reports compare the clicks."""

    name: str = Field(
        pattern=r"^[a-z][a-z0-9_-]*$",
        description="Name of the experiment. Users are assigned by a hash of the name and the user, so another name assigns "
        "them again.",
    )
    shares: dict[str, Annotated[Float, Field(gt=0, lt=1)]] = Field(
        min_length=2,
        description="Share of the users of each variant, a model of the entry or `lambdarank`. The first is the champion, with "
        "which the others are compared and which ranks for unknown users. The shares add up to 1.",
    )

    @property
    def champion(self) -> str:
        """The first variant."""
        return next(iter(self.shares))


def check_experiment(spec: DatasetSpec) -> None:
    """Refuse an experiment that cannot be served or measured."""
    if (experiment := spec.experiment) is None:
        return
    if spec.user is None or spec.item is None:
        raise fault("experiment", "needs user and item: users are assigned to models that recommend items")
    if spec.label.negatives is not None:
        raise fault("experiment", "needs impressions, to count clicks per impression; a log of positives alone has none")
    if taken := {EXPERIMENT, VARIANT} & set(spec.source.columns):
        raise fault("experiment", f"the log has a column {min(taken)!r}, which the service adds; rename it")
    has_lambdarank = spec.ranked is not None and spec.ranked.lambdarank is not None
    known = [*spec.models, *([LAMBDARANK] if has_lambdarank else [])]
    if unknown := [name for name in experiment.shares if name not in known]:
        raise fault("experiment.shares", f"{unknown[0]!r} is not a model of the entry; its models are {', '.join(known)}")
    if abs((total := sum(experiment.shares.values())) - 1) > _ROUNDING:
        raise fault("experiment.shares", f"add up to {total:g}, expected 1")
