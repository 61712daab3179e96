"""The feature table's shape: what `cleaned_features` writes and everything later reads. Names and types only.

One row per example, in event-time order within a day, columns in this order:

| column        | type                  |                                                                    |
|---------------|-----------------------|--------------------------------------------------------------------|
| event_time    | int64                 | microseconds since 1970-01-01 UTC                                  |
| label         | float32               | 0 or 1                                                             |
| sample_rate   | float32               | with which a row like it, unclicked, came in; 1.0 where all did    |
| each dense    | float32               | never null                                                         |
| each sparse   | int64 or list<int64>  | never null; a multi-valued feature without a part holds [MISSING_ID] |
| key:user/item | int64                 | hashed ids for slices, not features; absent where the spec names none |
| slice:<name>  | string                | raw value of each of `spec.slices`                                 |
| oracle        | float32               | the true probability; only where the spec has one                  |

Id space of every sparse feature: 0 is missing, 1 is out of vocabulary, values begin at 2 (hashes are any other
signed 64-bit number). Ids 0 and 1 never belong to a real value.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from ml.catalog.spec import DatasetSpec

MISSING_ID = 0
OOV_ID = 1
FIRST_ID = 2

EVENT_TIME, LABEL, SAMPLE_RATE, ORACLE = "event_time", "label", "sample_rate", "oracle"
USER_KEY, ITEM_KEY, SLICE_PREFIX = "key:user", "key:item", "slice:"
HISTORY_PREFIX = "history:"  # of a column that is made before the table: ids for the feature of that name


@dataclass(frozen=True)
class FeatureSchema:
    """Names of the features, in the order in which batches and models hold them."""

    dense: tuple[str, ...]
    single: tuple[str, ...]  # sparse features with exactly one id per example
    multi: tuple[str, ...]  # sparse features with any number of ids per example
    fingerprint: str

    @classmethod
    def of(cls, spec: DatasetSpec) -> FeatureSchema:
        return cls(
            dense=tuple(d.name for d in spec.dense),
            single=tuple(s.name for s in spec.sparse if not s.multi_valued),
            multi=tuple(s.name for s in spec.sparse if s.multi_valued),
            fingerprint=spec.fingerprint,
        )

    @property
    def sparse(self) -> tuple[str, ...]:
        """Keys of a batch's KeyedJaggedTensor, in its order."""
        return self.single + self.multi


def arrow_schema(spec: DatasetSpec) -> pa.Schema:
    """Arrow schema of the feature table."""
    fields = [pa.field(EVENT_TIME, pa.int64()), pa.field(LABEL, pa.float32()), pa.field(SAMPLE_RATE, pa.float32())]
    fields += [pa.field(d.name, pa.float32()) for d in spec.dense]
    fields += [pa.field(s.name, pa.list_(pa.int64()) if s.multi_valued else pa.int64()) for s in spec.sparse]
    fields += [pa.field(USER_KEY, pa.int64())] if spec.user else []
    fields += [pa.field(ITEM_KEY, pa.int64())] if spec.item else []
    fields += [pa.field(SLICE_PREFIX + name, pa.string()) for name in spec.slices]
    fields += [pa.field(ORACLE, pa.float32())] if spec.oracle else []
    return pa.schema(fields, metadata={b"evergreen.fingerprint": spec.fingerprint.encode()})
