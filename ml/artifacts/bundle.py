"""A bundle is one folder with everything that is needed to predict click probabilities from raw log columns.

    weights-*.safetensors, state.json    the model, in the layout of `ml.artifacts.snapshot`
    spec.json                            the dataset's spec: columns and transforms
    vocabulary/<feature>.parquet         ids of each frequency-limited vocabulary: `key` and `id`, int64

`state.json` has the SHA-256 of every file. MLflow's models and the partitions of `exported_models` are bundles.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from upath import UPath

from ml.artifacts.delta import ModelDelta, ModelUndo
from ml.artifacts.predictor import Predictor, TorchPredictor
from ml.artifacts.raw_columns import RawColumns
from ml.artifacts.snapshot import WAY_OUT, DamagedSnapshot, read_file, read_state, write_file
from ml.catalog.spec import DatasetSpec
from ml.datasets.batch import Batch
from ml.datasets.request import RequestTransform
from ml.features.vocabulary import Vocabulary
from ml.lake import Lake
from ml.parquet import table_bytes
from ml.stages import CLEANED_FEATURES, MDS_DATASETS

if TYPE_CHECKING:
    import pandas as pd

SPEC, VOCABULARIES = "spec.json", "vocabulary"
Parsed = TypeVar("Parsed")


class Bundle:
    """Predicts click probabilities from raw log rows.

    Args:
        spec: The dataset.
        predictor: A model that reads the dataset's features.
        vocabularies: The vocabulary of each feature that has a frequency-limited one.

    Example:
        >>> import tempfile
        >>> from ml.catalog.load import load_catalog
        >>> from ml.models.build import build_model
        >>> from ml.recipes.recipe import recipe_of
        >>> from ml.schema import FeatureSchema
        >>> spec = load_catalog()["criteo"]
        >>> recipe, schema, folder = recipe_of(spec, "dlrm"), FeatureSchema.of(spec), Path(tempfile.mkdtemp())
        >>> model = TorchPredictor(build_model(recipe, schema), recipe, schema)
        >>> model.save(folder, write_inputs(folder, spec, {}))
        >>> bundle = Bundle.load(folder)
        >>> row = pa.RecordBatch.from_pylist([dict.fromkeys(bundle.columns)], pa.schema(list(bundle.columns.items())))
        >>> bundle.predict(row).shape
        (1,)
    """

    def __init__(self, spec: DatasetSpec, predictor: Predictor, vocabularies: Mapping[str, Vocabulary]) -> None:
        self.spec, self.predictor, self.vocabularies = spec, predictor, vocabularies

    @classmethod
    def load(cls, folder: Path | UPath) -> Bundle:
        """Load a bundle from its folder alone.

        Raises:
            FileNotFoundError: The folder has no model.
            SnapshotMismatch: The bundle was written in another format.
            DamagedSnapshot: A file is missing, has changed since it was written, or cannot be read; the message names it.
        """
        state = read_state(folder)
        spec = _parsed(folder, state, SPEC, DatasetSpec.model_validate_json)
        vocabularies = {
            feature.name: _parsed(folder, state, vocabulary_file(feature.name), _vocabulary)
            for feature in spec.sparse
            if feature.vocabulary
        }
        return cls(spec, TorchPredictor.load(folder), vocabularies)

    def with_predictor(self, predictor: Predictor) -> Bundle:
        """Return a bundle with the same transforms and another model."""
        bundle = copy.copy(self)
        bundle.predictor = predictor
        return bundle

    @property
    def columns(self) -> dict[str, pa.DataType]:
        """Columns that `predict` reads, with their types."""
        return self._raw.types

    def predict(self, rows: pa.RecordBatch | pd.DataFrame) -> npt.NDArray[np.float32]:
        """Predict click probabilities in the full log.

        Args:
            rows: N raw log rows with the columns of `columns`; see `RawColumns` for what they may hold.

        Returns:
            float32 [N], in the order of the rows.

        Raises:
            KeyError: A column is missing; the message names it.
            TypeError: A column cannot be read in its declared type; the message names it.
        """
        return self.score(self.batch(self.typed(rows)))

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the L labels that the model predicts, the main label first."""
        return self.predictor.labels

    def predict_labels(self, rows: pa.RecordBatch | pd.DataFrame) -> npt.NDArray[np.float32]:
        """Predict the probabilities of all `labels`, float32 [N, L]; arguments and errors as for `predict`."""
        return self.score_labels(self.batch(self.typed(rows)))

    def typed(self, rows: pa.RecordBatch | pd.DataFrame) -> pa.RecordBatch:
        """Convert N raw rows to their declared types, as `predict` does; see `RawColumns` for the errors."""
        return self._raw(rows)

    def batch(self, rows: pa.RecordBatch) -> Batch:
        """Transform N raw rows, already in their declared types, to an unlabelled batch."""
        return self._transform(rows)

    def score(self, batch: Batch, sampled: bool = False) -> npt.NDArray[np.float32]:
        """Predict click probabilities of transformed rows, float32 [B]; see `Predictor.predict`."""
        return self.predictor.predict(batch, sampled)

    def score_labels(self, batch: Batch, sampled: bool = False) -> npt.NDArray[np.float32]:
        """Predict the probabilities of all `labels` of transformed rows, float32 [B, L]; see `Predictor.predict_labels`."""
        return self.predictor.predict_labels(batch, sampled)

    @property
    def steps(self) -> dict[str, int]:
        """The step of each collection of tables by its path in the model: the argument `since` of a trainer's `model_delta`."""
        return self._torch.steps

    def apply(self, delta: ModelDelta) -> bool:
        """Apply what a trainer has changed since the bundle was written, or since the last delta.

        Afterwards the bundle predicts the same as a new export of the trainer's state in the same formats. Vocabularies do not
        change: values that have received an id since then stay out of vocabulary until the next bundle.

        Other threads may predict during the call, and do not wait for it. A prediction uses one version of the dense part, and
        each row of quantised tables whole, but it may read some rows from before the delta and others from after it. One thread
        at a time may call `apply`, `apply_undoable` and `revert`.

        Args:
            delta: Changes that begin at `steps`.

        Returns:
            True if the delta was applied, False if the tables already have its changes.

        Raises:
            Gap: Changes between `steps` and the beginning of the delta are missing; nothing is changed.
            ValueError: The delta belongs to another model; nothing is changed.
            TypeError: The bundle does not hold a torch model.
        """
        return self._torch.apply(delta)

    def apply_undoable(self, delta: ModelDelta) -> ModelUndo | None:
        """Apply a delta like `apply`, and keep what it replaces, which takes about the memory of the delta's rows.

        Returns:
            What `revert` needs; None if the tables already have the changes of the delta.
        """
        return self._torch.apply_undoable(delta)

    def revert(self, undo: ModelUndo) -> None:
        """Restore the state from before the last delta that was not yet reverted, bit for bit. Other threads may predict."""
        self._torch.revert(undo)

    @property
    def _torch(self) -> TorchPredictor:
        if not isinstance(self.predictor, TorchPredictor):
            raise TypeError(f"deltas apply to torch models, this bundle holds a {type(self.predictor).__name__}")
        return self.predictor

    @cached_property
    def _raw(self) -> RawColumns:
        return RawColumns(self.spec)

    @cached_property
    def _transform(self) -> RequestTransform:
        return RequestTransform(self.spec, self.vocabularies)


def write_inputs(folder: Path | UPath, spec: DatasetSpec, states: Mapping[str, UPath]) -> dict[str, str]:
    """Write the files of a bundle other than its model: the spec, and the values with an id of each vocabulary.

    Args:
        folder: An existing folder.
        spec: The dataset.
        states: Parquet file of each vocabulary by feature, as `vocabulary_states` returns it.

    Returns:
        SHA-256 of each file by name, for the model's `state.json`.
    """
    digests = {SPEC: write_file(folder, SPEC, spec.model_dump_json().encode())}
    for name, path in states.items():
        state = ds.dataset(path.path, format="parquet", filesystem=path.fs)
        known = state.to_table(columns=["key", "id"], filter=pc.field("id").is_valid())
        file = vocabulary_file(name)
        digests[file] = write_file(folder, file, table_bytes(known))
    return digests


def vocabulary_states(lake: Lake, spec: DatasetSpec, day: str, stage: str) -> dict[str, UPath]:
    """Find the vocabularies that a model was trained with, as they are after a day.

    Args:
        lake: Where features and models are stored.
        spec: The dataset.
        day: `YYYY-MM-DD`.
        stage: Stage of the model, such as `tuned_models/<model>`.

    Returns:
        The Parquet file of each vocabulary by feature; empty if the dataset has none.

    Raises:
        MissingPartition: There are vocabularies, and the day has no features or has not been trained.
        StalePartition: The day's features were made under another specification, or again after the model was trained. Their
            ids can differ from the ids that the model was trained with.
    """
    names = [feature.name for feature in spec.sparse if feature.vocabulary]
    if not names:
        return {}
    folder = lake.require(CLEANED_FEATURES, spec.name, day, fingerprint=spec.fingerprint)
    lake.require_made_from(spec.name, day, [stage, MDS_DATASETS, CLEANED_FEATURES])
    return {name: folder / vocabulary_file(name) for name in names}


def vocabulary_file(feature: str) -> str:
    """Return the name of a vocabulary's file in a bundle, and in a partition of `cleaned_features`."""
    return f"{VOCABULARIES}/{feature}.parquet"


def _parsed(folder: Path | UPath, state: Mapping[str, Any], name: str, parse: Callable[[bytes], Parsed]) -> Parsed:
    """Read and parse a file of a bundle. Raises `DamagedSnapshot`."""
    data = read_file(folder, state, name)
    try:
        return parse(data)
    except (ValueError, LookupError, TypeError) as error:
        raise DamagedSnapshot(f"{folder / name} cannot be read ({error}); {WAY_OUT}") from error


def _vocabulary(data: bytes) -> Vocabulary:
    return Vocabulary.from_state(pq.read_table(pa.BufferReader(data)))
