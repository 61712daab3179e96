"""Bodies of requests and answers, as the OpenAPI description shows them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

MOST_ITEMS = 500
MOST_CANDIDATES = 2000
MOST_EVENTS = 10_000
MOST_VALUES = 1000
MOST_COLUMNS = 1000
MOST_TEXT = 2**16
INT64, UINT64 = 2**63, 2**64

Text = Annotated[str, Field(max_length=MOST_TEXT)]
Scalar = Annotated[int, Field(ge=-INT64, lt=UINT64)] | float | Text | bool | None
# The first wrong element ends the validation of a list or an object: four megabytes have room for millions of them.
Scalars = Annotated[list[Scalar], Field(max_length=MOST_VALUES, fail_fast=True)]
Value = Scalar | Scalars
"""A value of a column of the log, or a list of values in a column of lists."""
Columns = Annotated[dict[str, Value], Field(max_length=MOST_COLUMNS, fail_fast=True)]
Events = Annotated[list[Columns], Field(max_length=MOST_EVENTS, fail_fast=True)]


class Form(BaseModel):
    """A body without unknown keys."""

    model_config = ConfigDict(extra="forbid")


class RecommendRequest(Form):
    """Asks for items for a user."""

    user: Scalar = Field(default=None, description="The user as logged; null for an unknown one.")
    context: Columns = Field(
        default={},
        description="Columns of the log that describe the request. The user's last event supplies those that are left out.",
    )
    k: int = Field(default=10, ge=1, le=MOST_ITEMS, description="Number of items.")
    filters: dict[str, Scalars] = Field(
        default={},
        max_length=20,
        fail_fast=True,
        description="Allowed values by column of the item, such as `{genre: [Drama]}`.",
    )
    exclude_seen: bool = Field(default=True, description="Whether to leave out the user's last items.")
    explain: bool = Field(default=False, description="Whether to add how much each column contributes to the scores.")


class RankRequest(Form):
    """Asks for the order of given items or rows."""

    user: Scalar = Field(default=None, description="The user as logged; null for an unknown one.")
    context: Columns = Field(default={}, description="As for `/recommend`.")
    candidates: list[Scalar | Columns] = Field(
        min_length=1,
        max_length=MOST_CANDIDATES,
        fail_fast=True,
        description="Items as logged, or rows: objects of columns of the log that differ between candidates.",
    )


class EventsRequest(Form):
    """Reports what was shown and what users did."""

    examples: Events = Field(default=[], description="Rows of the log, for a dataset with a single log.")
    impressions: Events = Field(default=[], description="Rows of the log of impressions, for a dataset with a log of actions.")
    actions: Events = Field(default=[], description="Rows of the log of actions.")


class Item(BaseModel):
    """One ranked item."""

    item: Any = Field(description="The item or row, as it was given or logged.")
    score: float = Field(description="Probability of a positive event.")
    labels: dict[str, float] | None = Field(
        default=None,
        description="Probability of each label, if the model predicts several; null if a LambdaRank has ranked.",
    )
    sources: list[str] = Field(default=[], description="Candidate sources that found the item.")
    columns: dict[str, Any] = Field(default={}, description="Columns that describe the item.")
    reasons: dict[str, float] | None = Field(
        default=None, description="Change of the log-odds by each column, compared with a missing value."
    )
    nearest: list[Any] | None = Field(
        default=None,
        description="With `explain`, the user's past clicks among whose recent co-visited items the item is most frequent.",
    )
    place: SkipJsonSchema[int | None] = Field(default=None, exclude=True)
    """The place of the candidate in the request, which is not part of the answer; None if the service found the item."""


class Answer(BaseModel):
    """Ranked items, best first."""

    request_id: str = Field(description="Identifies the request.")
    model: str = Field(description="The model that ranked the items.")
    version: str = Field(description="Its version: the day of an export, or the number of a sync.")
    variant: str | None = Field(default=None, description="The variant of an experiment that the user has; null without one.")
    items: list[Item]
    candidates: dict[str, int] = Field(default={}, description="Number of candidates of each source.")
    filled: list[str] = Field(default=[], description="Columns that were taken from the user's last event.")
    missing: list[str] = Field(default=[], description="Columns that are missing.")
    request: dict[str, Any] | None = Field(
        default=None, description="With `explain`, the columns of the request, with those of the user's last events."
    )
    context: list[Any] = Field(default=[], description="The user's last items, newest first.")
    milliseconds: float = Field(description="Time of the service for the request.")


class Stored(BaseModel):
    """Events that are on disk."""

    stored: int = Field(description="Number of events.")
