"""Measures how long an exported model takes to score rows, on the rows on which the loss of the export is measured.

A time is not reproducible, so it is not part of the export: the check `export_quality` shows it.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch

from ml.artifacts.predictor import Predictor
from ml.datasets.batch import Batch

ROWS = 1000
"""Rows of a timed batch, about the candidates of a request."""
_LEAST = 5  # batches


@dataclass(frozen=True)
class Latency:
    """Time to score a batch of transformed rows.

    Attributes:
        milliseconds: Median wall-clock time of a batch.
        rows: Rows of a batch: `ROWS`, or all rows if there are fewer.
        batches: Number of timed batches.
        threads: Threads that torch uses.
    """

    milliseconds: float
    rows: int
    batches: int
    threads: int


def latency_of(predictor: Predictor, batch: Batch) -> Latency:
    """Time predictions of parts of a batch, at least five in total, after one that is not timed.

    Args:
        predictor: An exported model.
        batch: B rows, at least one.
    """
    rows = min(ROWS, len(batch))
    parts = [batch.rows(_between(len(batch), first, rows)) for first in range(0, len(batch) - rows + 1, rows)]
    predictor.predict(parts[0])
    seconds = []
    for part in parts * max(1, -(-_LEAST // len(parts))):
        began = time.perf_counter()
        predictor.predict(part)
        seconds.append(time.perf_counter() - began)
    return Latency(1e3 * statistics.median(seconds), rows, len(seconds), torch.get_num_threads())


def _between(count: int, first: int, rows: int) -> torch.Tensor:
    at = torch.arange(count)
    return (at >= first) & (at < first + rows)
