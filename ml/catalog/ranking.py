"""Catalog keys that say how reports rank items: what a session is, which items are alive, and what models are compared with.

Declarations only. `ml.retrieval` computes the standing candidate sources, and `ml.evaluation.ranking` the report.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from ml.catalog.reading import ColumnName
from ml.catalog.strict import Float, Int, Strict

if TYPE_CHECKING:
    from ml.catalog.spec import DatasetSpec


class Session(Strict):
    """Visits of a user, as given in the log."""

    column: ColumnName = Field(description="Column of the log that identifies the session.")
    filled_in_seconds: Float | None = Field(
        default=None,
        gt=0,
        description="Declares that the log's publisher filled in times: the time of an event exactly this many seconds after "
        "the previous event of its session is not a measured time. Rankings of such events are reported separately.",
    )


class LambdaRankOptions(Strict):
    """A LambdaRank on gradient-boosted trees, which is trained each day on simulated candidate lists of the day."""

    queries: Int = Field(default=10_000, ge=1, description="Approximate number of events whose candidate lists are trained on.")
    trees: Int = Field(default=100, ge=1, description="Number of trees.")
    learning_rate: Float = Field(default=0.1, gt=0, le=1, description="Weight of each tree.")
    leaves: Int = Field(default=31, ge=2, description="Largest number of leaves of a tree.")
    min_leaf_rows: Int = Field(default=200, ge=1, description="Fewest candidates of a leaf.")
    signal_share: Float = Field(default=0.7, gt=0, le=1, description="Share of the signals that each tree may use.")
    truncation: Int = Field(default=30, ge=1, description="Pairs count if one of their items is among this many first.")
    seed: Int = Field(default=0, ge=0, description="Seed of the sample of events and of the choice of signals.")


class Ranking(Strict):
    """Ranking of the clicked item among all live items, in reports.

    The catalogue and all statistics are as of the start of the click's slice of time; the user's own features and session are
    as of the click.
    """

    live_hours: Float | None = Field(
        default=None,
        gt=0,
        le=744,
        description="An item is live if it had a row in this many hours before the slice. By default `label.negatives."
        "window_hours`, or 24 without sampled negatives.",
    )
    slice_minutes: Float = Field(default=10.0, gt=0, le=1440, description="Width of a slice.")
    popularity_minutes: tuple[Annotated[Float, Field(gt=0, le=44640)], ...] = Field(
        default=(60.0, 10.0), min_length=1, description="Trailing windows of the popularity baselines."
    )
    context: Int = Field(
        default=20, ge=1, le=1000, description="Number of the last items of the session that the ranking of a click uses."
    )
    idle_minutes: Float = Field(
        default=30.0, gt=0, description="Without `session`: a user's session ends after this many minutes without an event."
    )
    scored_pairs: Int = Field(
        default=3_000_000,
        ge=1,
        description="Approximate number of pairs of a click and an item that a model scores, if it has to score each pair "
        "separately. If there are more pairs, a deterministic sample of the clicks is ranked, and the report states its size.",
    )
    lambdarank: LambdaRankOptions | None = Field(
        default=None,
        description="Trains a LambdaRank over candidates with `candidate_index`, and ranks with it when serving. By default, "
        "candidates are ranked by a model.",
    )


def lambdarank_of(spec: DatasetSpec) -> LambdaRankOptions | None:
    """Return how a dataset's LambdaRank is trained each day; None if it has none, as without a user."""
    return spec.ranked.lambdarank if spec.ranked and spec.user else None
