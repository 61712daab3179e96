"""Recipe keys of embedding tables: the `tables` section. `ml.embeddings` implements the kinds of tables."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ml.catalog.strict import FloatOrText, IntOrText, Strict
from ml.embeddings.fixed.partitions import Partitions, partitions_for
from ml.embeddings.rules import Evict, Family, Filter, Operation, TableRules

PARTED: tuple[Family, ...] = ("generalised", "chinese_remainder")
Seconds = Annotated[FloatOrText, Field(ge=1e-6, le=1e10)]  # representable as int64 microseconds


class CollisionlessTable(Strict):
    """A growing table: each id has a row of its own, from its admission to its expiry or eviction. Times are event times."""

    kind: Literal["collisionless"] = Field(default="collisionless", description="The kind of table.")
    min_count: IntOrText = Field(
        default=1, ge=1, le=2**31 - 1, description="Occurrences that an id needs before it is admitted to a row."
    )
    filter: Filter = Field(
        default="exact",
        description="How occurrences are counted: `exact` counts all, `sliding` counts the last `window_seconds`; "
        "`probabilistic` counts none and admits each occurrence with probability 1 / `min_count`.",
    )
    window_seconds: Seconds | None = Field(default=None, description="Length of the window of `filter: sliding`.")
    ttl_seconds: Seconds | None = Field(
        default=None, description="Rows not seen for this long are deleted; by default, rows never expire."
    )
    max_rows: IntOrText | None = Field(
        default=None, ge=1, le=2**40 - 2, description="Maximum number of rows; unlimited by default."
    )
    evict: Evict = Field(default="least_recently_used", description="Which rows are evicted when the table is full.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        TableRules("", **self.model_dump(exclude={"kind"}))
        return self


class HashedTable(Strict):
    """A fixed number of rows. Larger ids are hashed to rows, and may share a row."""

    kind: Literal["hashed"] = Field(description="The kind of table.")
    rows: IntOrText = Field(ge=4, le=2**31 - 1, description="Number of rows.")


class StaticTable(Strict):
    """A fixed number of rows for a small, stable set of ids, such as buckets or hours. Larger ids are out of vocabulary."""

    kind: Literal["static"] = Field(description="The kind of table.")
    rows: IntOrText = Field(ge=4, le=2**31 - 1, description="Number of rows.")


class CompositionalTable(Strict):
    """A fixed number of rows. An id's embedding is composed of several rows, and is distinct for each id of `universe`."""

    kind: Literal["compositional"] = Field(description="The kind of table.")
    family: Family = Field(default="quotient_remainder", description="Partitions of the ids, which map an id to its rows.")
    operation: Operation = Field(
        default="add",
        description="Composition of an id's rows: concatenation, sum, product, small MLPs (`path`), or a projection from "
        "`dim`.",
    )
    rows: IntOrText = Field(ge=4, le=2**31 - 1, description="Number of rows over all partitions.")
    parts: IntOrText = Field(
        default=2, ge=1, description="Number of rows per id; only for the families `generalised` and `chinese_remainder`."
    )
    universe: IntOrText = Field(
        default=2**32, ge=1, le=2**64, description="Number of ids that have distinct embeddings; other ids are hashed to these."
    )
    dim: IntOrText | None = Field(default=None, ge=4, description="With `operation: project`: dimension of the rows.")

    @property
    def partitions(self) -> Partitions:
        """The partitions of the ids. Raises `ValueError` if there are too few rows for `universe`."""
        return partitions_for(self.family, self.universe, self.rows, self.parts)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.parts != 2 and self.family not in PARTED:
            raise ValueError(f"parts: only for the families {PARTED}, found {self.family}")
        self.partitions  # noqa: B018 (raises if there are none)
        return self


class SharedTable(Strict):
    """The table of another feature, such as the items' table for a user's last items. Both features must have the same ids."""

    kind: Literal["shared"] = Field(description="The kind of table.")
    of: str = Field(description="The other feature, whose table must be collisionless.")


Table = CollisionlessTable | HashedTable | StaticTable | CompositionalTable | SharedTable
TableRecipe = Annotated[Table, Field(discriminator="kind")]


class TablesRecipe(Strict):
    """Embedding tables, one per sparse feature. An entry of `features` replaces `default` as a whole."""

    default: TableRecipe = Field(default=CollisionlessTable(), description="Table of features that `features` does not name.")
    features: dict[str, TableRecipe] = Field(
        default_factory=dict, description="Tables by feature; ranges such as `C{1..26}` are allowed."
    )
    init_scale: FloatOrText = Field(
        ge=0, allow_inf_nan=False, description="Rows are initialised uniformly in [-init_scale, init_scale]."
    )

    def of(self, feature: str) -> Table:
        """Returns the table of a feature."""
        return self.features.get(feature, self.default)
