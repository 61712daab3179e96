"""Scores of the service against those of the trained model, for every row of a day that the model has not seen.

The rows of the day are sent to `POST /rank` of a service over HTTP, in the columns of the log. The service reads them, computes
features, and scores them by the exported model of the day before. On the other side, the model as trained, with tables in
float32, scores the rows of `cleaned_features`, as reports do.

Two things can make the scores differ:

- the export, whose rows of tables have fewer bits. It is measured by scoring `cleaned_features` with the exported model.
- the order of sums in float32, which depends on the number of rows that are scored at once. This is at most `ROUNDING`.

So for each row, the served score is within `ROUNDING` of the exported model's score of the daily features. A feature that a
request computes differently breaks this bound.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import requests
from numpy.typing import NDArray
from upath import UPath

from ml.artifacts.predictor import TorchPredictor
from ml.artifacts.raw_columns import raw_columns
from ml.artifacts.stored import require_model
from ml.catalog.spec import DatasetSpec
from ml.datasets.collate import batch_from_arrow
from ml.evaluation.models import SCORING_ROWS
from ml.evaluation.rows import chunks
from ml.export.day import load_export
from ml.http.server import serving
from ml.lake import Lake
from ml.logs.read import raw_table
from ml.metrics import auc
from ml.online.earlier_events import events_before, find_earlier, known_before
from ml.online.examples import DayExamples
from ml.recipes.recipe import Recipe
from ml.schema import EVENT_TIME, HISTORY_PREFIX, LABEL, SAMPLE_RATE, FeatureSchema
from ml.serving.app import create_serving_app
from ml.serving.choice import ranking_model
from ml.serving.pins import Pins
from ml.serving.start import start
from ml.stages import exported_models, served_models

ROUNDING = 1e-6
"""Largest difference of two probabilities of the same model and row that rounding in float32 explains."""
ROWS_AT_ONCE = 1000
"""Rows of a request. Those of 100 columns are smaller than the service's limit of a body."""
SECONDS = 60.0
"""Longest wait for an answer."""
Rank = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


@dataclass(frozen=True)
class Difference:
    """Absolute differences of two scores of N rows.

    Attributes:
        mean: Mean difference of the probabilities.
        largest: Largest difference of the probabilities.
        largest_log_odds: Largest difference of the log-odds.
    """

    mean: float
    largest: float
    largest_log_odds: float

    @classmethod
    def of(cls, one: NDArray[np.float32], other: NDArray[np.float32]) -> Difference:
        """Compare the probabilities [N] of two models."""
        apart, odds = np.abs(one.astype(np.float64) - other), np.abs(log_odds(one) - log_odds(other))
        return cls(float(apart.mean()), float(apart.max()), float(odds.max()))


@dataclass(frozen=True)
class ServedScores:
    """Probabilities of N rows of a day, float32 [N], in the full log.

    Attributes:
        labels: Labels of the rows.
        sample_rate: Sample rates of the rows; 1 if the model does not correct for sampling by row.
        trained: Scores of the model as trained.
        exported: Scores of the exported model for the daily features.
        served: Scores of the service.
    """

    labels: NDArray[np.float32]
    sample_rate: NDArray[np.float32]
    trained: NDArray[np.float32]
    exported: NDArray[np.float32]
    served: NDArray[np.float32]

    @property
    def differences(self) -> dict[str, Difference]:
        """What differs in total, because of the export, and because of the service."""
        return {
            "served and trained": Difference.of(self.served, self.trained),
            "exported and trained": Difference.of(self.exported, self.trained),
            "served and exported": Difference.of(self.served, self.exported),
        }

    @property
    def aucs(self) -> dict[str, float | None]:
        """AUC on the rows as they were sampled, as in reports."""
        by = {"trained": self.trained, "exported": self.exported, "served": self.served}
        return {name: auc(self.labels, log_odds(scores) - np.log(self.sample_rate)) for name, scores in by.items()}

    @property
    def are_equal(self) -> bool:
        """Whether each served score is the exported model's score of the daily features, up to rounding."""
        return Difference.of(self.served, self.exported).largest <= ROUNDING


def log_odds(probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    """Convert probabilities to log-odds, which are finite for 0 and 1 too."""
    held = np.clip(probabilities.astype(np.float64), 1e-12, 1 - 1e-7)
    return np.log(held) - np.log1p(-held)


def last_day(spec: DatasetSpec, lake: Lake, model: str) -> str | None:
    """Return the last day of the log whose day before has an export of a model; None if there is none."""
    days = lake.days(spec.examples_log.stage, spec.name)
    return next((d for d in reversed(days) if lake.has(exported_models(model), spec.name, spec.previous_day(d) or "")), None)


def served_scores(
    spec: DatasetSpec, day: str, lake: Lake, sides: Sequence[pa.Table] = (), model: str | None = None
) -> ServedScores:
    """Score all rows of a day by the service, and by the model as trained.

    Args:
        spec: The dataset.
        day: `YYYY-MM-DD`, whose day before has an export of the model.
        lake: Where raw logs, features and models are stored.
        sides: The joined columns of each side table, in the order of `spec.join`, as `read_side_tables` returns them.
        model: One of the dataset's models; by default the first that is not a two-tower model.

    Raises:
        MissingPartition: The raw log or the features of the day, or the model of the day before or its export, is missing.
        ValueError: It is the first day, it has no rows, its features are not those of its raw log, or the model reads
            histories.
    """
    model, before = model or ranking_model(spec), spec.previous_day(day)
    if before is None:
        raise ValueError(f"{spec.name}: {day} is the first day, before which there are no models")
    schema = FeatureSchema.of(spec)
    trained = TorchPredictor.load(require_model(lake, served_models(spec, model), spec.name, before), schema)
    exported = load_export(lake, spec, before, model)
    _check_histories(spec, trained.recipe)
    scores, kept = [(np.zeros(0, np.float32),) * 2], []
    for chunk in chunks(lake, spec, day):
        kept.append(chunk.select([EVENT_TIME, LABEL, SAMPLE_RATE]))
        for first in range(0, chunk.num_rows, SCORING_ROWS):
            batch = batch_from_arrow(chunk.slice(first, SCORING_ROWS), schema)
            scores.append((trained.predict(batch), exported.score(batch)))
    if not kept:
        raise ValueError(f"{spec.name} {day}: there are no rows to score")
    rows, sent = pa.concat_tables(kept), sent_rows(spec, day, lake, sides)
    if not sent[EVENT_TIME].equals(rows[EVENT_TIME]):
        raise ValueError(f"{spec.name} {day}: the features are not those of the raw log; materialise cleaned_features again")
    rates = rows[SAMPLE_RATE].to_numpy() if trained.recipe.correction.per_row else np.ones(len(rows), np.float32)
    with tempfile.TemporaryDirectory() as folder, serve(spec, lake, model, before, Path(folder), sides) as rank:
        served = ask(rank, sent.select([name for name in raw_columns(spec) if not name.startswith(HISTORY_PREFIX)]))
    by_trained, by_exported = (np.concatenate(parts) for parts in zip(*scores, strict=True))
    return ServedScores(rows[LABEL].to_numpy(), rates, by_trained, by_exported, served)


def sent_rows(spec: DatasetSpec, day: str, lake: Lake, sides: Sequence[pa.Table] = ()) -> pa.Table:
    """Return the rows of a day's feature table, with negatives, in columns of the log, joined columns and trailing counts."""
    with tempfile.TemporaryDirectory() as folder:
        taken = UPath(folder)  # all earlier events are in the lake
        earlier = find_earlier(spec, day, lake, taken)
        events, known = events_before(spec, earlier, lake, taken), known_before(spec, day, earlier, lake, taken)
    examples = DayExamples(spec, day, sides=tuple(sides), before=events, known=known)
    return examples.columns(raw_table(lake, spec.name, day, spec.examples_log.stage))


@contextmanager
def serve(spec: DatasetSpec, lake: Lake, model: str, day: str, folder: Path, sides: Sequence[pa.Table] = ()) -> Iterator[Rank]:
    """Serve the export of a model of a day, as `make serve` does.

    Args:
        spec: The dataset.
        lake: Where exports and raw logs are stored.
        model: The model that ranks.
        day: `YYYY-MM-DD`.
        folder: An empty folder for events.
        sides: As for `served_scores`.

    Yields:
        What sends rows to `/rank`, and returns the items of the answer.
    """
    pins = Pins(folder / "pins")
    pins.pin(model, day)
    engine = start(spec, lake, UPath(folder / "stream"), sides, model=model, pins=pins)
    with serving(create_serving_app(engine, None)) as url, requests.Session() as session:
        session.trust_env = False  # the proxies of the environment are for other machines

        def rank(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
            answer = session.post(f"{url}/rank", json={"candidates": rows}, timeout=SECONDS)
            if not answer.ok:
                raise ValueError(f"/rank: status {answer.status_code}: {answer.text[:500]!r}")
            return answer.json()["items"]

        yield rank


def ask(rank: Rank, rows: pa.Table) -> NDArray[np.float32]:
    """Send rows of the log to a service, and return their scores, float32 [N], in the order of the rows."""
    scores = []
    for first in range(0, len(rows), ROWS_AT_ONCE):
        sent = rows.slice(first, ROWS_AT_ONCE).to_pylist()
        # An answer is ordered by score, and equal rows have equal scores.
        by_row = {_key(item["item"]): item["score"] for item in rank(sent)}
        scores += [by_row[_key(row)] for row in sent]
    return np.array(scores, np.float32)


def _key(row: dict[str, Any]) -> str:
    return json.dumps(row, sort_keys=True)


def _check_histories(spec: DatasetSpec, recipe: Recipe) -> None:
    read = [s.name for s in spec.sparse if s.history and s.name not in recipe.exclude_features]
    if read:
        raise ValueError(f"{spec.name}: the model reads the histories {read}, which are not columns of the log")


def table_of(found: ServedScores) -> list[list[str]]:
    """Format the differences: what is compared, mean and largest difference of the probabilities, and of the log-odds."""
    return [
        [name, f"{of.mean:.2e}", f"{of.largest:.2e}", f"{of.largest_log_odds:.2e}"] for name, of in found.differences.items()
    ]


HEADER = ("", "mean", "largest", "largest, log-odds")


def write_scores(folder: Path | UPath, found: ServedScores) -> None:
    """Write `scores.json`."""
    about = {name: asdict(of) for name, of in found.differences.items()}
    held = {"rows": len(found.labels), "auc": found.aucs, "differences": about}
    (folder / "scores.json").write_text(json.dumps(held, indent=1))
