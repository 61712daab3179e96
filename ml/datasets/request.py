"""Builds the batches of requests from raw log columns, without labels and without a feature table in between."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.catalog.spec import DatasetSpec
from ml.datasets.batch import Batch
from ml.features.fused import FusedTransform
from ml.features.vocabulary import Vocabulary
from ml.schema import FeatureSchema


class RequestTransform:
    """Turns raw log rows into unlabelled batches. The features equal those of `compile_transforms`, bit for bit.

    Args:
        spec: The dataset.
        vocabularies: The vocabulary of each sparse feature that declares one, by feature name.

    Raises:
        ValueError: A vocabulary is missing.

    Example:
        >>> from ml.catalog.load import load_catalog
        >>> from ml.schema import ARROW_TYPES
        >>> spec = load_catalog()["criteo"]
        >>> columns = pa.schema([(name, ARROW_TYPES[kind]) for name, kind in spec.column_types.items()])
        >>> rows = pa.RecordBatch.from_pylist([dict.fromkeys(columns.names)], columns)
        >>> RequestTransform(spec)(rows)
        Batch(1 unlabelled rows, 13 dense, 39 sparse features)
    """

    def __init__(self, spec: DatasetSpec, vocabularies: Mapping[str, Vocabulary] | None = None) -> None:
        self._features = FusedTransform(spec, vocabularies)
        self._keys = list(FeatureSchema.of(spec).sparse)

    def __call__(self, rows: pa.RecordBatch) -> Batch:
        """Transforms B rows.

        Args:
            rows: The columns that features are computed from; see `FusedTransform`.

        Returns:
            A batch of the B rows, without labels, sample rates and event times.

        Raises:
            KeyError: A column is missing.
            TypeError: A column cannot be read in its declared type.
            ValueError: A feature needs event_time, and a row has none.
        """
        features = self._features(rows)
        sparse = KeyedJaggedTensor(
            keys=self._keys,
            values=torch.from_numpy(features.ids),
            lengths=torch.from_numpy(features.lengths),
            stride=rows.num_rows,
        )
        return Batch(torch.from_numpy(features.dense), sparse)
