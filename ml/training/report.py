"""Reports of a step, a pass and a day of training. Nothing here trains."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from upath import UPath

from ml.datasets.batch import Batch
from ml.embeddings.interface import TableStats
from ml.recipes.recipe import Recipe
from ml.training.state import TrainState


@dataclass(frozen=True)
class Step:
    """One optimizer step. Counts and loss cover all ranks; batch and logits are this rank's.

    Attributes:
        index: Number of the step in the pass, from 0.
        rows: Number of rows in the batch, before `negative_sampling`.
        num_losses: Number of losses averaged in `loss`: one for each kept row, or for each clicked row with `loss: softmax`.
        loss: Mean of the losses before the update; 0 if there are none.
        learning_rates: Learning rates of this step: `dense` for the dense part and `tables` for the tables.
        batch: The B rows that were trained on, which are those that `negative_sampling` has kept.
        logits: float32 [B], computed in training mode before the update and comparable with the labels of the batch, so
            that a progressive AUC needs no second forward pass. None if the loss has no logit for each row.
    """

    index: int
    rows: int
    num_losses: int
    loss: float
    learning_rates: dict[str, float]
    batch: Batch
    logits: torch.Tensor | None


@dataclass(frozen=True)
class TrainReport:
    """Result of a pass. Sums cover the whole pass, even if it was resumed; times cover this process's share of it.

    Attributes:
        rows: Number of rows trained on, over all ranks.
        steps: Number of optimizer steps.
        loss: Mean over the rows that have a loss, each predicted before it was trained on (progressive validation); None
            without rows.
        rows_touched: Number of distinct table rows that this rank updated.
        samples_per_second: Rows per second of all ranks, during this process's share of the pass.
        seconds_waiting: Seconds spent waiting for batches.
        seconds_computing: All other seconds.
        cpu_seconds: CPU-seconds that this process spent, with all its threads.
        stopped_early: Whether the early-stopping target ended the pass.
        learning_rates: Learning rates of the last step.
        tables: This rank's statistics by table at the end of the pass.
    """

    rows: int
    steps: int
    loss: float | None
    rows_touched: int
    samples_per_second: float
    seconds_waiting: float
    seconds_computing: float
    cpu_seconds: float
    stopped_early: bool = False
    learning_rates: dict[str, float] = field(default_factory=dict)
    tables: dict[str, TableStats] = field(default_factory=dict)


class PassMeter:
    """Measures this process's share of a pass, from its construction to `report`.

    Iterate over the meter in place of the batches, so that it measures the time spent waiting for them.

    Args:
        state: The state under training; its running pass may have been resumed.
        batches: The batches that the meter yields.
    """

    def __init__(self, state: TrainState, batches: Iterable[Batch]) -> None:
        self._state, self._batches = state, batches
        self._started, self._waiting, self._cpu_before = time.perf_counter(), 0.0, time.process_time()
        self._rows_before = state.running.rows if state.running else 0

    def __iter__(self) -> Iterator[Batch]:
        source = iter(self._batches)
        while True:
            asked = time.perf_counter()
            batch = next(source, None)
            self._waiting += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def report(self, last: Step | None, stopped_early: bool = False) -> TrainReport:
        """Report on the pass so far. `last` is its latest step in this process, or None."""
        running = self._state.running
        assert running is not None
        seconds = time.perf_counter() - self._started
        return TrainReport(
            rows=running.rows,
            steps=running.steps,
            loss=running.loss_sum / running.num_losses if running.num_losses else None,
            rows_touched=self._state.rows_touched(),
            samples_per_second=(running.rows - self._rows_before) / seconds,
            seconds_waiting=self._waiting,
            seconds_computing=seconds - self._waiting,
            cpu_seconds=time.process_time() - self._cpu_before,
            stopped_early=stopped_early,
            learning_rates=last.learning_rates if last else {},
            tables=self._state.stats(),
        )


@dataclass(frozen=True)
class TrainedDay:
    """A trained day in the lake.

    Attributes:
        dataset: Name of the dataset.
        model: Name of the model.
        day: `YYYY-MM-DD`.
        folder: The partition that was written.
        base: Stage and day of the state that training started from; None on the first day.
        recipe: How the model was trained.
        report: Report of the pass over the day.
        resumed_at: Number of rows of the day that an earlier, interrupted run had trained on.
        rows_so_far: Number of rows trained on over the life of the model.
        digest: Digest of the snapshot.
        kept_from: The day whose model was kept, if the day has no rows to train on.
    """

    dataset: str
    model: str
    day: str
    folder: UPath
    base: tuple[str, str] | None
    recipe: Recipe
    report: TrainReport
    resumed_at: int
    rows_so_far: int
    digest: str
    kept_from: str | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the day by name, without undefined ones such as the loss of a day without rows."""
        report = self.report
        metrics = {
            "loss": report.loss,
            "rows": report.rows,
            "steps": report.steps,
            "rows_touched": report.rows_touched,
            "rows_so_far": self.rows_so_far,
            "stopped_early": float(report.stopped_early) if self.recipe.early_stop else None,
            **self._table_metrics(),
            "samples_per_second": report.samples_per_second,
            "seconds_waiting": report.seconds_waiting,
            "seconds_computing": report.seconds_computing,
            "cpu_seconds": report.cpu_seconds,
        } | {f"learning_rate_{name}": rate for name, rate in report.learning_rates.items()}
        return {name: float(value) for name, value in metrics.items() if value is not None}

    def _table_metrics(self) -> dict[str, float | None]:
        tables = self.report.tables.values()
        looked_up = sum(stats.looked_up for stats in tables)
        return {
            "table_rows": sum(stats.rows for stats in tables),
            "table_megabytes": sum(stats.nbytes for stats in tables) / 1e6,
            "rows_admitted": sum(stats.admitted for stats in tables),
            "rows_expired": sum(stats.expired + stats.evicted for stats in tables),
            "unknown_id_rate": sum(stats.unknown for stats in tables) / looked_up if looked_up else None,
        }
