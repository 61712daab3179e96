"""What a day of online training measures: one row for each slice, the predictions of all rows, and metrics of the day.

    slices.parquet          one row for each slice, see `SLICES`
    predictions.parquet     one row for each example in time order: label, and a probability for each model

Both files are the same if the day is trained again. Durations are in the partition's manifest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ml.artifacts.snapshot import Tensors
from ml.evaluation.compare import Estimate, LabelledRows
from ml.evaluation.ranking.metrics import HEADLINE
from ml.metrics import ClickSums, auc, metrics_of, summary
from ml.online.known_labels import HeldBackRows
from ml.online.loop import ONLINE, SliceResult
from ml.online.ranking import METRICS as RANKED
from ml.online.ranking import POPULARITY, SliceRanking
from ml.online.rivals import RETRAINED, STALE
from ml.online.serving import Floats

MODELS = (ONLINE, STALE, RETRAINED)
"""`online`: the serving model. `stale`: the daily model before the run. `retrained`: the daily model of the day before."""
SYSTEMS = (*MODELS, POPULARITY)
METRICS = ("auc", "log_loss", "calibration", "age_seconds")
SLICES_FILE, PREDICTIONS_FILE = "slices.parquet", "predictions.parquet"
_LABELS, _TIMES = "labels", "times_held_back"
_SECONDS = ("sync", "train", "score")

SLICES = pa.schema(
    [
        ("slice", pa.int32()),
        ("rows", pa.int64()),
        ("event_from", pa.int64()),  # microseconds since 1970 UTC
        ("event_to", pa.int64()),
        ("learned_to", pa.int64()),  # latest event that was trained on by the end of the slice
        ("rows_scored", pa.int64()),  # rows whose labels became known during the slice; the metrics are theirs
        ("loss", pa.float64()),
        *((f"{model}_{metric}", pa.float64()) for model in MODELS for metric in METRICS),
        ("clicks", pa.int64()),  # ranked among all live items, as in `ml.online.ranking`; null if items are not ranked
        *((f"{system}_{metric}", pa.float64()) for system in SYSTEMS for metric in RANKED),
        ("version", pa.int64()),  # of the serving model that predicted the slice
        ("kind", pa.string()),  # what was sent before the slice: snapshot or delta
        ("rows_synced", pa.int64()),
        ("rows_deleted", pa.int64()),
        ("bytes_synced", pa.int64()),
        ("dense_synced", pa.bool_()),
    ]
)


@dataclass
class DayRecord:
    """The slices of a day so far. It is the position of a checkpoint, so a resumed day continues it.

    Attributes:
        known_to: Latest event time that each model has learned from before the day, in microseconds since 1970 UTC.
        label_wait: Time from an event until its label is known, in microseconds.
        ranks_only: Whether predictions only order rows and are not probabilities.
        ranking: Ranks all live items for the clicks of the day; None if items are not ranked.
        slices: One entry for each slice.
        seconds: Durations of each slice, by activity.
        rows_by_table: Rows that were synchronised, by table.
        labels: Labels of the slices, float32 [N] each.
        predictions: Probabilities of the slices by model, float32 [N] each.
    """

    known_to: Mapping[str, int]
    ranks_only: bool = False
    label_wait: int = 0
    ranking: SliceRanking | None = None
    slices: list[dict[str, Any]] = field(default_factory=list)
    seconds: list[dict[str, float]] = field(default_factory=list)
    rows_by_table: dict[str, int] = field(default_factory=dict)
    labels: list[Floats] = field(default_factory=list)
    predictions: dict[str, list[Floats]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._held_back = HeldBackRows(self.label_wait)

    def add(self, result: SliceResult) -> None:
        """Add the result of the next slice."""
        before = self.learned_to
        known_to = self.known_to if before is None else {**self.known_to, ONLINE: before}
        labels, predictions = self._held_back.reveal(result.times, result.labels, result.predictions)
        row: dict[str, Any] = {
            "slice": result.number,
            "rows": len(result.labels),
            "event_from": result.events[0],
            "event_to": result.events[1],
            "learned_to": result.learned[1] if result.learned else before,
            "rows_scored": len(labels),
            "loss": result.loss,
            "version": result.sync.version,
            "kind": result.sync.kind,
            "rows_synced": result.sync.rows,
            "rows_deleted": result.sync.deleted,
            "bytes_synced": result.sync.nbytes,
            "dense_synced": result.sync.has_dense,
        }
        for model, predicted in result.predictions.items():
            revealed = predictions[model]
            sums, area = ClickSums.of(labels, revealed) if len(labels) else None, auc(labels, revealed)
            found = metrics_of(sums, area, self.ranks_only)
            found |= {"age_seconds": (float(result.times.mean()) - known_to[model]) / 1e6}
            row |= {f"{model}_{metric}": found[metric] for metric in METRICS}
            self.predictions.setdefault(model, []).append(predicted)
        if self.ranking is not None:
            row["clicks"] = int((result.labels > 0.5).sum())
            for system, ranks in result.ranks.items():
                row |= {f"{system}_{metric}": value for metric, value in self.ranking.metrics(ranks).items()}
        self.labels.append(result.labels)
        self.slices.append(row)
        self.seconds.append({name: result.seconds[name] for name in _SECONDS})
        for table, rows in result.sync.rows_by_table.items():
            self.rows_by_table[table] = self.rows_by_table.get(table, 0) + rows

    @property
    def headline(self) -> str:
        """The metric that says how good the day is: `auc`, or `recall@20` if items are ranked."""
        return "auc" if self.ranking is None else HEADLINE

    def of_slice(self) -> dict[str, float | None]:
        """Return the headline of the last slice by system."""
        return {name: self.slices[-1][column] for name in SYSTEMS if (column := f"{name}_{self.headline}") in self.slices[-1]}

    def so_far(self) -> dict[str, float | None]:
        """Return the headline of the day so far by system."""
        if self.ranking is None:
            return {model: of["auc"] for model, of in self.scores().items()}  # type: ignore[misc]
        found: dict[str, float | None] = {}
        for name in self.of_slice():
            of = [(row["clicks"], row[f"{name}_{HEADLINE}"]) for row in self.slices if row["clicks"]]
            found[name] = sum(clicks * value for clicks, value in of) / sum(clicks for clicks, _ in of) if of else None
        return found

    @property
    def rows(self) -> int:
        """Number of rows so far."""
        return sum(row["rows"] for row in self.slices)

    @property
    def learned_to(self) -> int | None:
        """Latest event that was trained on so far; None if the day has trained on none."""
        return self.slices[-1]["learned_to"] if self.slices else None

    @property
    def versions(self) -> int:
        """Number of slices after which something was trained on, each of which gives a version of the serving model."""
        if not self.label_wait:
            return len(self.slices)
        times = [None, *(row["learned_to"] for row in self.slices)]
        return sum(one != other for one, other in pairwise(times))

    @property
    def waiting(self) -> dict[int, tuple[int, int]]:
        """First and last event time of the slices that were predicted and not trained on, by number."""
        known = self.learned_to
        return {
            row["slice"]: (row["event_from"], row["event_to"])
            for row in self.slices
            if known is None or row["event_to"] > known
        }

    @property
    def learned(self) -> tuple[int, int] | None:
        """First and last event time of the last slice; None before the first."""
        return (self.slices[-1]["event_from"], self.slices[-1]["event_to"]) if self.slices else None

    def slices_table(self) -> pa.Table:
        """Return the table of `slices.parquet`."""
        return pa.Table.from_pylist([dict.fromkeys(SLICES.names) | row for row in self.slices], SLICES)

    def predictions_table(self) -> pa.Table:
        """Return the table of `predictions.parquet`: `label`, and the probabilities of each model that predicted the day."""
        columns = {"label": _joined(self.labels)} | {name: _joined(parts) for name, parts in self.predictions.items()}
        return pa.table({name: pa.array(values, pa.float32()) for name, values in columns.items()})

    def scores(self, known: bool = False) -> dict[str, dict[str, float | int | None]]:
        """Return metrics of the day so far by model.

        Args:
            known: Whether to leave out rows whose labels are not known at the end of the last slice. All labels of a day are
                known when it is written.

        Returns:
            `ml.metrics.summary` of the rows, with `auc_error`, the standard error of the AUC, and `age_seconds`, the mean time
            between an event and the newest event that the model knew.
        """
        labels, found = _joined(self.labels), {}
        end = len(labels) - (len(self._held_back.times) if known else 0)
        rows = LabelledRows(labels[:end])
        for model, parts in self.predictions.items():
            ages = [row[f"{model}_age_seconds"] * row["rows"] for row in self.slices]
            predicted = _joined(parts)[:end]
            area = rows.auc(predicted)
            error = rows.estimate(area, null=0.5).error if area else None
            beside = {"auc_error": error, "age_seconds": sum(ages) / max(self.rows, 1)}
            found[model] = summary(labels[:end], predicted, self.ranks_only) | beside
        return found

    def gains(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Compare the serving model with the other models on the same rows.

        Returns:
            For `stale` and `retrained`, the differences of `auc`, `log_loss` and, if items are ranked, `recall@20`, each with
            its standard `error`, `df` and the one-sided p-value `p_above`. Positive differences of AUC and recall, and negative
            ones of log loss, favour online training.
        """
        rows = LabelledRows(_joined(self.labels))
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for other in (name for name in self.predictions if name != ONLINE):
            metrics = {"auc": rows.auc} if self.ranks_only else {"auc": rows.auc, "log_loss": rows.log_loss}
            found[other] = {}
            for name, metric in metrics.items():
                one, two = (metric(_joined(self.predictions[model])) for model in (ONLINE, other))
                if one is not None and two is not None:
                    found[other][name] = _described(rows.compare(one, two))
            recall = self.ranking.gain(ONLINE, other) if self.ranking else None
            if recall is not None:
                found[other][HEADLINE] = _described(recall)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint stores as JSON; `tensors` has the rest."""
        kept = {"slices": self.slices, "seconds": self.seconds, "rows_by_table": self.rows_by_table}
        return {"batches": len(self.slices), **kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.slices, self.seconds, self.rows_by_table = state["slices"], state["seconds"], state["rows_by_table"]

    def tensors(self) -> Tensors:
        """Return labels and predictions, for a checkpoint."""
        named: dict[str, Sequence[Floats]] = {_LABELS: self.labels, **self.predictions}
        found = {name: torch.from_numpy(_joined(parts)) for name, parts in named.items()}
        return found | ({_TIMES: torch.from_numpy(self._held_back.times)} if self.label_wait else {})

    def load_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restore what `tensors` returned."""
        self.labels = [tensors[_LABELS].numpy()]
        self.predictions = {name: [tensors[name].numpy()] for name in MODELS if name in tensors}
        if _TIMES in tensors:
            begin = len(self.labels[0]) - len(tensors[_TIMES])
            predictions = {name: of[begin:] for name, (of,) in self.predictions.items()}
            self._held_back.restore(tensors[_TIMES].numpy(), self.labels[0][begin:], predictions)


def _described(difference: Estimate) -> dict[str, Any]:
    return asdict(difference) | {"p_above": difference.p_above()}


def _joined(parts: Sequence[Floats]) -> Floats:
    return np.concatenate([np.empty(0, np.float32), *parts])
