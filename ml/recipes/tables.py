"""Which kind of table a sparse feature has: the `tables` section of a recipe. What the kinds do is `ml.embeddings`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ml.catalog.strict import Strict
from ml.embeddings.fixed.partitions import Partitions, partitions_for
from ml.embeddings.rules import Evict, Family, Filter, Operation, TableRules

PARTED: tuple[Family, ...] = ("generalised", "chinese_remainder")
Seconds = Annotated[float, Field(ge=1e-6, le=1e10)]  # what an int64 of microseconds holds, and rows remember


class CollisionlessTable(Strict):
    """A row for every id, once admitted: the table grows, and forgets what it is told to. Times are event time."""

    kind: Literal["collisionless"] = "collisionless"
    min_count: int = Field(default=1, ge=1, le=2**31 - 1, description="An id has a row from its so-many-th occurrence on.")
    filter: Filter = Field(
        default="exact",
        description="What counts until then: all, the last `window_seconds`, or nothing: each occurrence admits by chance.",
    )
    window_seconds: Seconds | None = Field(default=None, description="Of `filter: sliding`.")
    ttl_seconds: Seconds | None = Field(default=None, description="Rows not seen for so long are let go; null is never.")
    max_rows: int | None = Field(default=None, ge=1, le=2**40 - 2, description="Never more rows than these.")
    evict: Evict = Field(default="least_recently_used", description="What makes way when `max_rows` are taken.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        TableRules("", **self.model_dump(exclude={"kind"}))
        return self


class HashedTable(Strict):
    """A fixed number of rows; ids beyond them are hashed into them, and may share one."""

    kind: Literal["hashed"]
    rows: int = Field(ge=4, le=2**31 - 1)


class StaticTable(Strict):
    """A fixed number of rows for a small stable vocabulary: buckets, hours. An id beyond them is out of vocabulary."""

    kind: Literal["static"]
    rows: int = Field(ge=4, le=2**31 - 1)


class CompositionalTable(Strict):
    """A fixed number of rows, several of which make an id's embedding together, so that no two ids of `universe` share it."""

    kind: Literal["compositional"]
    family: Family = Field(default="quotient_remainder", description="How an id's rows are found.")
    operation: Operation = Field(
        default="add",
        description="How its rows become one: side by side, sum, product, through small MLPs; or projected up from `dim`.",
    )
    rows: int = Field(ge=4, le=2**31 - 1, description="In all, over the partitions.")
    parts: int = Field(default=2, ge=1, description="Rows an id has, where the family leaves it open.")
    universe: int = Field(
        default=2**32, ge=1, le=2**64, description="How many ids are told apart; others are mixed into these."
    )
    dim: int | None = Field(default=None, ge=4, description="Of operation `project`: weights of a row.")

    @property
    def partitions(self) -> Partitions:
        return partitions_for(self.family, self.universe, self.rows, self.parts)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.parts != 2 and self.family not in PARTED:
            raise ValueError(f"parts is for the families {PARTED}, found {self.family}")
        self.partitions  # noqa: B018 -- raises where there are none
        return self


class SharedTable(Strict):
    """The rows of another feature's table: of a user's last items, say, those of items. Their ids must mean the same."""

    kind: Literal["shared"]
    of: str = Field(description="The other feature, whose table is collisionless.")


Table = CollisionlessTable | HashedTable | StaticTable | CompositionalTable | SharedTable
TableRecipe = Annotated[Table, Field(discriminator="kind")]


class TablesRecipe(Strict):
    """Embedding tables, one per sparse feature. What `features` says of one is all there is to say of it: `default` is for the
    others."""

    default: TableRecipe = CollisionlessTable()
    features: dict[str, TableRecipe] = Field(default_factory=dict)
    init_scale: float = Field(ge=0, allow_inf_nan=False, description="Rows begin uniform in [-init_scale, init_scale].")

    def of(self, feature: str) -> Table:
        return self.features.get(feature, self.default)
