"""The `online` section of a recipe: how `ml.online` trains within the day, and how `ml.sync` publishes what it learned."""

from __future__ import annotations

import hashlib
import json
from typing import Literal, Self

from pydantic import Field, model_validator

from ml.catalog.strict import FloatOrText, IntOrText, Strict


class ProbeRecipe(Strict):
    """Rows on which servers score each version. One that is significantly worse than the last good one is not served."""

    rows: IntOrText = Field(default=2048, ge=2, description="Number of rows.")
    log_loss_tolerance: FloatOrText = Field(
        default=0.01, ge=0, description="Increase of the log loss that is accepted, as a fraction of the last good version's."
    )
    auc_tolerance: FloatOrText = Field(default=0.005, ge=0, lt=1, description="Decrease of the AUC that is accepted.")


class SyncRecipe(Strict):
    """What is published to servers, and how often. Rows of embedding tables are published after every slice."""

    rows: Literal["float32", "float16", "int8"] = Field(
        default="float32", description="Format of published rows. Dense parameters are always exact."
    )
    dense_every: IntOrText = Field(
        default=1, ge=0, description="Slices between two publications of the dense parameters; 0 for only with snapshots."
    )
    dense_hour: IntOrText | None = Field(
        default=None,
        ge=0,
        le=23,
        description="Instead of `dense_every`: hour of the day, in UTC, at which dense parameters are published once a day.",
    )
    snapshot_every: IntOrText | None = Field(
        default=None,
        ge=1,
        description="Slices between two snapshots; by default only at the start of a run and at the end of a day.",
    )
    byte_budget: IntOrText | None = Field(
        default=None,
        ge=1024,
        description="Largest number of bytes of rows in a delta. The rows with the largest product of change and traffic are "
        "published first, the others later. Unlimited by default.",
    )
    receiver_ttl: FloatOrText = Field(
        default=168.0,
        gt=0,
        description="A receiver that is silent for this many hours is dropped, and must load a snapshot again.",
    )
    max_lag: FloatOrText = Field(
        default=300.0,
        gt=0,
        description="Seconds within which receivers must serve a published version; otherwise the check `serving_lag` fails.",
    )
    probe: ProbeRecipe | None = Field(default=None, description="Check of receivers after each sync; none by default.")


class OnlineRecipe(Strict):
    """Training within the day. It does not change how the daily models are trained.

    Example:
        >>> OnlineRecipe(slices=10).fingerprint == OnlineRecipe().fingerprint
        False
    """

    slices: IntOrText = Field(default=50, ge=1, description="Number of slices of a day, with equal numbers of rows.")
    minutes: FloatOrText | None = Field(
        default=None, gt=0, description="Instead of `slices`: width of a slice in minutes of event time."
    )
    batch_size: IntOrText | None = Field(
        default=None, ge=1, description="Rows of a batch within the day. By default the `batch_size` of the recipe."
    )
    base: Literal["online", "daily"] = Field(
        default="online",
        description="What a day starts from: with `online`, the online state of the day before, or the daily model the first "
        "time and after a change of the model's structure; with `daily`, always the daily model of the day before.",
    )
    learning_rate: FloatOrText = Field(
        default=1.0, gt=0, description="Factor on the learning rates of the dense parameters and of the tables."
    )
    schedule: Literal["constant", "slice"] = Field(
        default="constant",
        description="`constant` learning rates, or the recipe's `schedule` applied to each `slice`.",
    )
    label_wait: FloatOrText = Field(
        default=0.0,
        ge=0,
        description="Minutes from an event until its label is known. A slice of a day is trained on, and its rows are scored, "
        "once their labels are known. Rows of a stream folder arrive with their labels, and do not wait.",
    )
    restart: Literal["replay", "snapshot"] = Field(
        default="replay",
        description="After a failure: `replay` trains again on the slices after the last checkpoint, each exactly once; "
        "`snapshot` loses them, as in the Monolith paper.",
    )
    sync: SyncRecipe = Field(default=SyncRecipe(), description="What is published to servers, and how often.")

    @property
    def fingerprint(self) -> str:
        """Hash of the keys that change results. Partitions of `online_updates` have it beside the recipe's fingerprint."""
        keys = self.model_dump(mode="json", exclude={"sync": {"max_lag"}})
        return hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()[:16]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.sync.dense_hour is not None and self.sync.dense_every != 1:
            raise ValueError(
                f"sync: expected dense_every or dense_hour, found {self.sync.dense_every} and {self.sync.dense_hour}"
            )
        return self
