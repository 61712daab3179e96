"""The labels of a dataset: the main label, and further labels, each of which a model predicts with a head of its own."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, StringConstraints, model_validator

from ml.catalog.actions import delay_column
from ml.catalog.log_spec import LabelColumn
from ml.catalog.reading import ColumnName
from ml.catalog.strict import Float, Strict, fault

if TYPE_CHECKING:
    from ml.catalog.spec import DatasetSpec

LabelName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=60)]
MAIN = "label"  # name of the main label
_UNSUPPORTED = ("classes", "num_classes", "kind", "loss", "objective", "task", "type")


def check_binary(data: Any) -> Any:
    """Refuses keys that ask for a label that is not binary. Returns the data."""
    for key in _UNSUPPORTED if isinstance(data, dict) else ():
        if key in data:
            raise fault(
                key,
                "labels are binary; regression and multi-class labels are not supported. Compare a number with a threshold "
                "(at_least), or declare several binary labels (labels)",
            )
    return data


class FurtherLabel(Strict):
    """A further binary label of each row, such as a purchase beside a click. `{}` reads the column with the label's name."""

    column: ColumnName | None = Field(
        default=None,
        description="Column of 0 and 1, or of numbers if `at_least` is given; by default, the column with the label's name, "
        "such as one of `actions.labels`.",
    )
    at_least: Float | None = Field(
        default=None,
        description="A row is positive if the column is at or above this; rows with a missing value are quarantined.",
    )

    @model_validator(mode="before")
    @classmethod
    def _binary(cls, data: Any) -> Any:
        return check_binary(data)


@dataclass(frozen=True)
class LabelRule:
    """How one binary label is read from a row.

    Attributes:
        name: Name of the label; `MAIN` for the main label.
        key: Path of its key in the catalog entry.
        column: Column of the log or of a joined table.
        at_least: Threshold from which the column is positive; None for a column of 0 and 1.
    """

    name: str
    key: str
    column: str
    at_least: float | None


def label_rules(spec: DatasetSpec) -> tuple[LabelRule, ...]:
    """Returns the rules of the labels that are read from columns, the main label first."""
    main, found = spec.label, list[LabelRule]()
    if main.column is not None:
        found.append(LabelRule(MAIN, "label", main.column, main.at_least))
    found += [LabelRule(n, f"labels.{n}", one.column or n, one.at_least) for n, one in spec.labels.items()]
    return tuple(found)


def label_columns(spec: DatasetSpec, known: Collection[str]) -> tuple[LabelColumn | None, tuple[LabelColumn, ...]]:
    """Returns the column of the main label, if a log has it, and those of the further labels that it has.

    Args:
        spec: The dataset.
        known: Columns of the log.
    """
    held = {r.name: LabelColumn(column=r.column, binary=r.at_least is None) for r in spec.label_rules if r.column in known}
    return held.pop(MAIN, None), tuple(held.values())


def labels_hash(spec: DatasetSpec) -> str:
    """Returns the part of a fingerprint that further labels and weights add; empty without any, as before there were any."""
    further = json.dumps([[r.name, r.column, r.at_least] for r in spec.label_rules[1:]])
    return (f" {further}" if spec.labels else "") + (f" weight {spec.label.weight}" if spec.label.weight else "")


def check_labels(spec: DatasetSpec) -> None:
    """Checks the names of further labels and the column of sample weights. Raises a fault that names the key."""
    if spec.label.negatives and spec.labels:
        raise fault("labels", "not for logs with label.negatives, whose sampled rows have no columns to read labels from")
    if MAIN in spec.labels:
        raise fault(f"labels.{MAIN}", f"{MAIN!r} is the name of the main label; rename this one")
    weight = spec.label.weight
    if weight is None:
        return
    known = spec.source.columns | spec.action_columns
    if weight not in known:
        raise fault("label.weight", f"no column {weight!r} in the log; the columns are {sorted(known)}")
    if spec.actions and weight in map(delay_column, spec.actions.labels):
        raise fault("label.weight", f"{weight!r} is missing without an action; expected a column that each row has")
    if known[weight] not in ("int", "float"):
        raise fault("label.weight", f"{weight!r} is {known[weight]}, expected int or float")
