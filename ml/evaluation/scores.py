"""Predictions of models, baselines and the oracle for the rows of one day, and their sums."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
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
from ml.schema import LABEL, ORACLE, SAMPLE_WEIGHT, FeatureSchema, arrow_schema

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
        predict: Maps N rows of the feature table to float probabilities [N], or [N, L] of L labels, the main label first.
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
        further_labels: The further labels, float32 [N, L - 1].
        further_by: Probabilities of the further labels, [N, L - 1], by name, of those that predict them.
        weights: Sample weights, float32 [N]; None in a dataset without.
    """

    labels: NDArray[np.float32]
    keys: pa.Table
    by: dict[str, NDArray[Any]]
    further_labels: NDArray[np.float32]
    further_by: dict[str, NDArray[Any]]
    weights: NDArray[np.float32] | None = None

    @cached_property
    def sums(self) -> dict[str, ClickSums]:
        """Sums over all rows, by name; computed once."""
        return {name: ClickSums.of(self.labels, found) for name, found in self.by.items()}

    @cached_property
    def aucs(self) -> dict[str, float | None]:
        """AUC over all rows, by name; computed once."""
        return {name: auc(self.labels, found) for name, found in self.by.items()}

    def of_label(self, number: int) -> Scores:
        """Return the scores of one further label in place of the main label."""
        by = {name: found[:, number] for name, found in self.further_by.items()}
        return replace(self, labels=self.further_labels[:, number], by=by)

    def rows(self, kept: NDArray[np.bool_]) -> Scores:
        """Return the scores of the rows that a mask [N] keeps."""
        return Scores(
            self.labels[kept],
            self.keys.filter(pa.array(kept)),
            {name: found[kept] for name, found in self.by.items()},
            self.further_labels[kept],
            {name: found[kept] for name, found in self.further_by.items()},
            None if self.weights is None else self.weights[kept],
        )


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
    schema = FeatureSchema.of(spec)
    keys, truth = [], [np.zeros(0, np.float32)]
    named: dict[str, list[NDArray[np.float32]]] = {name: [np.zeros(0, np.float32)] for name in _labelled(schema)}
    by: dict[str, list[NDArray[Any]]] = {name: [] for name in predictors}
    # Models release the interpreter's lock, so several score a chunk at once.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for chunk in chunks(lake, spec, day):
            scoring = {name: pool.submit(predict, chunk) for name, predict in predictors.items()}
            for name, parts in named.items():
                parts.append(chunk.column(name).to_numpy())
            keys.append(chunk.select(key_columns(spec)))
            if spec.oracle:
                truth.append(chunk.column(ORACLE).to_numpy())
            for name, found in scoring.items():
                by[name].append(_checked(found.result(), chunk.num_rows, len(schema.labels), f"{spec.name} {day}: {name}"))
    columns = pa.schema([arrow_schema(spec).field(name) for name in key_columns(spec)])
    table = pa.concat_tables([columns.empty_table(), *(part.cast(columns) for part in keys)])
    every = {
        name: np.concatenate(parts) if parts else np.zeros((0, 1), np.float32) for name, parts in by.items()
    }  # [N, 1 or L]
    found = {name: of[:, 0] for name, of in every.items()}
    oracle = np.concatenate(truth)
    if spec.oracle and np.isfinite(oracle).all():
        found[ORACLE_SCORES] = oracle
    main, *further = (np.concatenate(named[name]) for name in (LABEL, *schema.further_columns))
    return Scores(
        main,
        table,
        found,
        np.stack(further, 1) if further else np.zeros((len(main), 0), np.float32),
        {name: of[:, 1:] for name, of in every.items() if of.shape[1] > 1},
        np.concatenate(named[SAMPLE_WEIGHT]) if schema.weighted else None,
    )


def _labelled(schema: FeatureSchema) -> tuple[str, ...]:
    """Return the columns with labels and sample weights."""
    return (LABEL, *schema.further_columns, *((SAMPLE_WEIGHT,) if schema.weighted else ()))


def _checked(probabilities: NDArray[Any], rows: int, labels: int, whose: str) -> NDArray[Any]:
    """Return probabilities as [N, 1] or [N, L]."""
    found = np.asarray(probabilities)
    if found.shape not in ((rows,), (rows, labels)):
        raise ValueError(f"{whose} gave predictions of shape {found.shape} for {rows} rows; expected ({rows},)")
    if not ((found >= 0) & (found <= 1)).all():
        wrong = found[~((found >= 0) & (found <= 1))]
        raise ValueError(f"{whose} gave {len(wrong)} predictions that are not in [0, 1], such as {wrong[0]}")
    return found if found.ndim == 2 else found[:, None]
