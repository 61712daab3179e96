"""Column names, reserved ids and types that several packages share, and the schema of the feature table.

`cleaned_features` writes the feature table, and every later stage reads it. It has one row per example, in event-time order
within a day, and these columns in this order:

| column        | type                  | value                                                                |
|---------------|-----------------------|----------------------------------------------------------------------|
| event_time    | int64                 | microseconds since 1970-01-01 UTC                                    |
| label         | float32               | 0 or 1                                                               |
| sample_rate   | float32               | probability that sampling kept an unclicked row like this; 1.0 without sampling |
| label:<name>  | float32               | 0 or 1; each further label of the spec                               |
| sample:weight | float32               | weight of the row, 0 or more; only if the spec names a column of weights |
| each dense    | float32               | never null                                                           |
| each sparse   | int64 or list<int64>  | never null; an empty multi-valued feature holds [MISSING_ID]         |
| key:user/item | int64                 | hashed ids for slices, not features; only if the spec names a user or an item |
| key:session   | int64                 | hashed id for rankings, no feature; only if the spec names a session |
| slice:<name>  | string                | raw value of each column in `spec.slices`                            |
| oracle        | float32               | the true click probability; only in simulated logs                   |

Every sparse feature has the same id space: 0 is missing, 1 is out of vocabulary, and ids of values begin at 2 (ids of hashed
values are any other signed 64-bit number). Ids 0 and 1 never belong to a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa

if TYPE_CHECKING:
    from ml.catalog.spec import ColumnType, DatasetSpec

MISSING_ID = 0
OOV_ID = 1
FIRST_ID = 2

EVENT_TIME, LABEL, SAMPLE_RATE, ORACLE = "event_time", "label", "sample_rate", "oracle"
SAMPLE_WEIGHT, LABEL_PREFIX = "sample:weight", "label:"
USER_KEY, ITEM_KEY, SESSION_KEY, SLICE_PREFIX = "key:user", "key:item", "key:session", "slice:"
HISTORY_PREFIX = "history:"  # prefix of a column of ids that is computed before the transforms, for the feature of that name

ARROW_TYPES: dict[ColumnType, pa.DataType] = {
    "int": pa.int64(),
    "float": pa.float64(),
    "string": pa.string(),
    "bool": pa.bool_(),
    "list<int>": pa.list_(pa.int64()),
    "list<float>": pa.list_(pa.float64()),
    "list<string>": pa.list_(pa.string()),
    "list<bool>": pa.list_(pa.bool_()),
}


@dataclass(frozen=True)
class FeatureSchema:
    """Names of a dataset's features, in the order of batches and models.

    Args:
        dense: Names of the dense features.
        single: Sparse features with exactly one id per example.
        multi: Sparse features with any number of ids per example.
        fingerprint: `DatasetSpec.fingerprint` of the spec that the features were made under.
        labels: Names of the labels, the main label first.
        weighted: Whether rows have sample weights.

    Example:
        >>> FeatureSchema(dense=("price",), single=("user",), multi=("genres",), fingerprint="f0").sparse
        ('user', 'genres')
    """

    dense: tuple[str, ...]
    single: tuple[str, ...]
    multi: tuple[str, ...]
    fingerprint: str
    labels: tuple[str, ...] = (LABEL,)
    weighted: bool = False

    @classmethod
    def of(cls, spec: DatasetSpec) -> FeatureSchema:
        """Returns the schema of a dataset's features."""
        types = spec.column_types
        return cls(
            dense=tuple(d.name for d in spec.dense),
            single=tuple(s.name for s in spec.sparse if not s.is_multi_valued(types)),
            multi=tuple(s.name for s in spec.sparse if s.is_multi_valued(types)),
            fingerprint=spec.fingerprint,
            labels=(LABEL, *spec.labels),
            weighted=spec.label.weight is not None,
        )

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """Rebuilds the schema that `plain` described."""
        dense, single, multi = (tuple(plain[key]) for key in ("dense", "single", "multi"))
        labels, weighted = tuple(plain.get("labels", (LABEL,))), plain.get("weighted", False)
        return cls(dense, single, multi, plain["fingerprint"], labels, weighted)

    def plain(self) -> dict[str, Any]:
        """Describes the schema as plain values; without `labels` and `weighted` where they have their defaults."""
        found: dict[str, Any] = {key: getattr(self, key) for key in ("dense", "single", "multi")}
        found["fingerprint"] = self.fingerprint
        found |= {"labels": self.labels} if len(self.labels) > 1 else {}
        return found | ({"weighted": True} if self.weighted else {})

    @property
    def further_columns(self) -> tuple[str, ...]:
        """Columns of the feature table with the further labels."""
        return tuple(LABEL_PREFIX + name for name in self.labels[1:])

    @property
    def training_columns(self) -> tuple[str, ...]:
        """Columns of the feature table that only training and evaluation read: time, labels, sample rates and weights."""
        return (EVENT_TIME, LABEL, SAMPLE_RATE, *self.further_columns, *((SAMPLE_WEIGHT,) if self.weighted else ()))

    @property
    def sparse(self) -> tuple[str, ...]:
        """Keys of a batch's KeyedJaggedTensor, in order."""
        return self.single + self.multi


def arrow_schema(spec: DatasetSpec) -> pa.Schema:
    """Returns the Arrow schema of a dataset's feature table, with the spec's fingerprint as metadata."""
    types = spec.column_types
    fields = [pa.field(EVENT_TIME, pa.int64()), pa.field(LABEL, pa.float32()), pa.field(SAMPLE_RATE, pa.float32())]
    fields += [pa.field(LABEL_PREFIX + name, pa.float32()) for name in spec.labels]
    fields += [pa.field(SAMPLE_WEIGHT, pa.float32())] if spec.label.weight else []
    fields += [pa.field(d.name, pa.float32()) for d in spec.dense]
    fields += [pa.field(s.name, pa.list_(pa.int64()) if s.is_multi_valued(types) else pa.int64()) for s in spec.sparse]
    fields += [pa.field(USER_KEY, pa.int64())] if spec.user else []
    fields += [pa.field(ITEM_KEY, pa.int64())] if spec.item else []
    fields += [pa.field(SESSION_KEY, pa.int64())] if spec.session else []
    fields += [pa.field(SLICE_PREFIX + name, pa.string()) for name in spec.slices]
    fields += [pa.field(ORACLE, pa.float32())] if spec.oracle else []
    return pa.schema(fields, metadata={b"evergreen.fingerprint": spec.fingerprint.encode()})
