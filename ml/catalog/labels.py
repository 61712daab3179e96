"""The labels of a dataset: the main label, and further labels, each of which a model predicts with a head of its own.

Also their names in reports.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from ml.catalog.actions import delay_column
from ml.catalog.log_spec import LabelColumn
from ml.catalog.reading import ColumnName, ColumnType, is_of_type
from ml.catalog.strict import Float, Scalar, Strict, fault, is_none

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


class LabelReading(Strict):
    """How a column says which rows are positive: by 0 and 1 or words for them, by a threshold, or by its values."""

    # (config of this model only: `is` is a keyword of Python)
    model_config = ConfigDict(serialize_by_alias=True)

    column: ColumnName | None = Field(
        default=None,
        description="Column of 0 and 1, of true and false, or of text with 1 and 0, true and false, t and f, yes and no, or y "
        "and n, in upper or lower case; other columns need `at_least` or `is`.",
    )
    at_least: Float | None = Field(
        default=None,
        description="A row is positive if the column is at or above this; rows with a missing value are quarantined.",
    )
    is_: tuple[Scalar, ...] | None = Field(
        default=None,
        alias="is",
        min_length=1,
        exclude_if=is_none,
        description="Values of the column that are positive, such as `[click, buy]`. All others are negative, unless `is_not` "
        "lists those; rows with a missing value are quarantined.",
    )
    is_not: tuple[Scalar, ...] | None = Field(
        default=None,
        min_length=1,
        exclude_if=is_none,
        description="Values that are negative, such as `is: [1]` with `is_not: [-1]`. Rows with a value of neither list are "
        "quarantined.",
    )

    @model_validator(mode="before")
    @classmethod
    def _binary(cls, data: Any) -> Any:
        return check_binary(data)

    @model_validator(mode="after")
    def _values(self) -> Self:
        if self.is_ is not None and self.at_least is not None:
            raise fault("is", "cannot be combined with at_least")
        if self.is_not is not None and self.is_ is None:
            raise fault("is_not", "needs `is`, the values that are positive")
        named = [*(self.is_ or ()), *(self.is_not or ())]
        if twice := [value for i, value in enumerate(named) if value in named[:i]]:
            raise fault("is", f"{twice[0]!r} is listed more than once in is and is_not")
        return self


class FurtherLabel(LabelReading):
    """A further binary label of each row, such as a purchase beside a click. `{}` reads the column with the label's name."""

    column: ColumnName | None = Field(
        default=None,
        description="Column as for `label.column`; by default, the column with the label's name, such as one of "
        "`actions.labels`.",
    )


class Words(Strict):
    """Words for labels in reports."""

    positive: str = Field(default="clicked", min_length=1, description="Past participle for label 1, such as `liked`.")
    negative: str = Field(default="unclicked", min_length=1, description="Past participle for label 0, such as `unliked`.")
    noun: str = Field(default="click", min_length=1, description="Noun for label 1, such as `like`; with an `s` in the plural.")


@dataclass(frozen=True)
class LabelRule:
    """How one binary label is read from a row.

    Attributes:
        name: Name of the label; `MAIN` for the main label.
        key: Path of its key in the catalog entry.
        column: Column of the log or of a joined table.
        at_least: Threshold from which the column is positive.
        positive: Values that are positive; None for a column of 0 and 1, or with a threshold.
        negative: Values that are negative; None if all other values are.
    """

    name: str
    key: str
    column: str
    at_least: float | None = None
    positive: tuple[Scalar, ...] | None = None
    negative: tuple[Scalar, ...] | None = None

    @property
    def known(self) -> tuple[Scalar, ...] | None:
        """All values that the column may have, if the catalog entry lists them."""
        return None if self.positive is None or self.negative is None else (*self.positive, *self.negative)


def label_rules(spec: DatasetSpec) -> tuple[LabelRule, ...]:
    """Returns the rules of the labels that are read from columns, the main label first."""
    read: list[tuple[str, str, str | None, LabelReading]] = [(MAIN, "label", spec.label.column, spec.label)]
    read += [(name, f"labels.{name}", one.column or name, one) for name, one in spec.labels.items()]
    return tuple(
        LabelRule(name, key, column, one.at_least, one.is_, one.is_not) for name, key, column, one in read if column is not None
    )


def label_columns(spec: DatasetSpec, known: Collection[str]) -> tuple[LabelColumn | None, tuple[LabelColumn, ...]]:
    """Returns the column of the main label, if a log has it, and those of the further labels that it has.

    Args:
        spec: The dataset.
        known: Columns of the log.
    """
    held = {
        r.name: LabelColumn(column=r.column, binary=r.at_least is None and r.positive is None, known=r.known)
        for r in spec.label_rules
        if r.column in known
    }
    return held.pop(MAIN, None), tuple(held.values())


def labels_hash(spec: DatasetSpec) -> str:
    """Returns the part of a fingerprint that further labels and weights add; empty without any, as before there were any."""
    rules = spec.label_rules[1:]
    further = json.dumps([[r.name, r.column, r.at_least, *(v for v in (r.positive, r.negative) if v)] for r in rules])
    return (f" {further}" if spec.labels else "") + (f" weight {spec.label.weight}" if spec.label.weight else "")


def check_label_type(rule: LabelRule, kind: ColumnType) -> None:
    """Checks that a column's type fits how the label is read from it. Raises a fault that names the key."""
    if rule.at_least is not None and kind == "string":
        raise fault(
            f"{rule.key}.at_least", f"{rule.column!r} is string, expected a number; `is` lists values that are positive"
        )
    for key, values in (("is", rule.positive), ("is_not", rule.negative)):
        for i, value in enumerate(values or ()):
            if not is_of_type(value, kind):
                quotes = "; put the word in quotes, which YAML reads as a boolean" if isinstance(value, bool) else ""
                raise fault(
                    f"{rule.key}.{key}.{i}", f"{rule.column!r} is {kind}, expected such a value, found {value!r:.80}{quotes}"
                )


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
