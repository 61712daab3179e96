"""Predictions of models, baselines and the oracle for the rows of one day, and their sums."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml.catalog.spec import DatasetSpec
from ml.evaluation.rows import chunks
from ml.evaluation.slices import key_columns
from ml.lake import Lake
from ml.metrics import ClickSums, auc
from ml.schema import LABEL, ORACLE, arrow_schema

ORACLE_SCORES = "oracle"

PairTable = Callable[[pa.Table], pa.Table]
Predict = Callable[[pa.Table], NDArray[Any]]


class ItemScorer(Protocol):
    """Scores live items for requests.

    Attributes:
        item_features: Names of the features that are exchanged with the item.
        pair_features: Names of the features that are computed for each pair of a request and an item.
        by_pair: Whether each pair of a request and an item costs a forward pass of the whole model.
    """

    item_features: tuple[str, ...]
    pair_features: tuple[str, ...]
    by_pair: bool

    def index(self, items: pa.Table, pairs: PairTable | None = None) -> None:
        """Take the L live items.

        Args:
            items: L rows with the columns `item_features`.
            pairs: Computes the columns `pair_features` of B requests and these items, B * L rows, the items of the first
                request first. Only needed if there are any.
        """
        ...

    def scores(self, requests: pa.Table) -> NDArray[np.float32]:
        """Score the items of the index for B rows of the feature table. Returns float32 [B, L], higher is better."""
        ...


@dataclass(frozen=True)
class ScoredModel:
    """A model that has not seen the day on which it is scored.

    Attributes:
        predict: Maps N rows of the feature table to float probabilities [N].
        facts: JSON values that the report shows. `snapshot_day`, the day up to which the model was trained, also appears in
            the verdict and in the standing of the champion.
        ranks_only: True if the predictions only order rows and are not probabilities.
        items: How the model scores all items for a request, or the reason why it cannot. None if reports do not rank items.
    """

    predict: Predict
    facts: dict[str, Any]
    ranks_only: bool = False
    items: ItemScorer | str | None = None


@dataclass(frozen=True)
class Scores:
    """Predictions for the N rows of a day.

    Attributes:
        labels: Labels, float32 [N].
        keys: The columns that define slices, N rows.
        by: Probabilities [N] of each model, baseline and oracle, by name.
    """

    labels: NDArray[np.float32]
    keys: pa.Table
    by: dict[str, NDArray[Any]]

    @cached_property
    def sums(self) -> dict[str, ClickSums]:
        """Sums over all rows, by name; computed once."""
        return {name: ClickSums.of(self.labels, found) for name, found in self.by.items()}

    @cached_property
    def aucs(self) -> dict[str, float | None]:
        """AUC over all rows, by name; computed once."""
        return {name: auc(self.labels, found) for name, found in self.by.items()}


def score_day(spec: DatasetSpec, day: str, lake: Lake, predictors: Mapping[str, Predict]) -> Scores:
    """Score the features of a day, chunk by chunk.

    Args:
        spec: The dataset. If it has an oracle, the scores include the true probabilities, unless one of them is missing.
        day: `YYYY-MM-DD`.
        lake: Where features are stored.
        predictors: By name, functions that map rows of the feature table to probabilities.

    Returns:
        The scores of every predictor.

    Raises:
        MissingPartition: The day has no features.
        ValueError: Predictions are not probabilities, or their number differs from the number of rows; the message names the
            predictor.
    """
    keys, labels, truth = [], [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
    by: dict[str, list[NDArray[Any]]] = {name: [np.zeros(0, np.float32)] for name in predictors}
    # Models release the interpreter's lock, so several score a chunk at once.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for chunk in chunks(lake, spec, day):
            scoring = {name: pool.submit(predict, chunk) for name, predict in predictors.items()}
            labels.append(chunk.column(LABEL).to_numpy())
            keys.append(chunk.select(key_columns(spec)))
            if spec.oracle:
                truth.append(chunk.column(ORACLE).to_numpy())
            for name, found in scoring.items():
                by[name].append(_checked(found.result(), chunk.num_rows, f"{spec.name} {day}: {name}"))
    columns = pa.schema([arrow_schema(spec).field(name) for name in key_columns(spec)])
    table = pa.concat_tables([columns.empty_table(), *(part.cast(columns) for part in keys)])
    found = {name: np.concatenate(parts) for name, parts in by.items()}
    oracle = np.concatenate(truth)
    if spec.oracle and np.isfinite(oracle).all():
        found[ORACLE_SCORES] = oracle
    return Scores(np.concatenate(labels), table, found)


def _checked(probabilities: NDArray[Any], rows: int, whose: str) -> NDArray[Any]:
    found = np.asarray(probabilities)
    if found.shape != (rows,):
        raise ValueError(f"{whose} gave predictions of shape {found.shape} for {rows} rows; expected ({rows},)")
    if not ((found >= 0) & (found <= 1)).all():
        wrong = found[~((found >= 0) & (found <= 1))]
        raise ValueError(f"{whose} gave {len(wrong)} predictions that are not in [0, 1], such as {wrong[0]}")
    return found
