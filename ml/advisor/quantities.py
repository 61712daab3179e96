"""The quantities that rules can use, and how each is computed from a dataset, its profile and the hardware.

A quantity that needs a profile is None on the first day of a dataset, before which there is none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ml.advisor.hardware import Hardware
from ml.advisor.profiles.profile import FeatureProfile, SparseProfile
from ml.catalog.features import DenseColumn, SparseColumn
from ml.catalog.spec import DatasetSpec
from ml.schema import FIRST_ID

HOURS = 24
POWER = 0.25  # exponent of the power rule
FULL = 6.0  # its factor

OF_RECIPE = {
    "model": "kind of the model, such as `dlrm`",
    "rows": "rows of a day",
    "days": "days that the profile covers",
    "positives": "rows of a day with label 1",
    "label_rate": "share of rows with label 1",
    "dense_features": "number of dense features",
    "sparse_features": "number of sparse features that the model uses",
    "all_ids": "distinct ids of all features",
    "lookups": "ids of a row, over all features",
    "occurrences_per_id": "occurrences of an id over the profile's days, on average over all features",
    "best_gain": "bits per row that the strongest cross of two features adds to the information of the two about the label",
    "best_name": "name for that cross",
    "best_pair": "columns of its features",
    "best_pairs": "number of distinct pairs of its ids",
    "sampled_negatives": "whether the log has positives only, with sampled negatives",
    "cores": "cores that the process can use",
    "memory": "bytes of memory that the process can use",
    "bfloat16": "whether the processor multiplies bfloat16 in hardware",
    "gpus": "number of GPUs",
    "wished_seconds": "limit of seconds for training a day, if the user sets one",
    "wished_bytes": "limit of bytes of memory for training: the user's, or 80 % of `memory`",
    "memory_basis": "text after `wished_bytes` in a reason: ` (80% of this machine's memory)`; empty for the user's limit",
    "target_metric": "metric whose target ends training of a day, if the user sets one",
    "target": "its value",
    "seconds": "predicted CPU-seconds of training a day with the recipe so far",
    "peak_bytes": "predicted peak of memory with the recipe so far, in bytes",
    "flops": "multiplications and additions of matrix products for one row with the recipe so far, forward and backward",
}
OF_TABLE = {
    "feature": "name of the sparse feature",
    "ids": "its distinct ids",
    "occurrences": "its ids in a day's rows",
    "mean_length": "ids of a row, on average",
    "missing": "share of rows without an id",
    "singles": "share of ids that occur once",
    "growth": "share of its ids that were new on the profile's last day; None with one day",
    "zipf": "exponent of its frequency distribution",
    "top_share": "share of occurrences of its most frequent id",
    "numbered": "whether its ids are small numbers, such as buckets and hours",
    "numbers": "with `numbered`: largest id + 1",
    "multi_valued": "whether a row has any number of ids",
    "is_user": "whether it identifies the user",
    "is_item": "whether it identifies the item",
    "history": "whether it holds the user's last items",
    "item_feature": "name of the feature that identifies the item",
    "shared": "whether the feature shares a table with another feature",
    "power_dim": f"dimension by the power rule, {FULL:g} ids^{POWER:g}",
    "table_rows": "predicted rows of its collisionless table with the recipe so far",
    "table_bytes": "predicted bytes of its table with the recipe so far",
}
OF_DENSE = {
    "feature": "name of the dense feature",
    "column": "the column that it is computed from",
    "integers": "whether all values of its column are whole numbers",
    "distinct": "number of distinct values",
    "largest": "largest value of its column",
    "bucketed": "whether a sparse feature has buckets of its column",
    "edges": "edges of buckets of its column that have about the same number of rows",
}
SCOPES: dict[str, Mapping[str, str]] = {
    "recipe": OF_RECIPE,
    "table": OF_RECIPE | OF_TABLE,
    "dense_feature": OF_RECIPE | OF_DENSE,
}


def of_dataset(spec: DatasetSpec, profile: FeatureProfile | None, hardware: Hardware) -> dict[str, Any]:
    """Return the quantities of a dataset and of the machine, by name.

    Args:
        spec: The dataset.
        profile: Profile of days before the one that is trained; None if there are none.
        hardware: What training can use.
    """
    days = len(profile.days) if profile else 0
    known = {
        "dense_features": len(spec.dense),
        "sampled_negatives": spec.label.negatives is not None,
        "cores": hardware.cores,
        "memory": hardware.memory,
        "bfloat16": hardware.bfloat16,
        "gpus": len(hardware.gpus),
        "days": days,
    }
    if profile is None or not days or not profile.rows:
        return known
    known |= {"rows": profile.rows / days, "positives": profile.positives / days, "label_rate": profile.label_rate}
    return known | _best_cross(spec, profile)


def _best_cross(spec: DatasetSpec, profile: FeatureProfile) -> dict[str, Any]:
    """Return the strongest cross whose features are columns and that the catalog entry does not have."""
    multi = {s.name for s in spec.sparse if s.is_multi_valued(spec.column_types)}
    plain = {s.name: s.column for s in spec.sparse if s.column and not (s.bucketise or s.cross or s.name in multi)}
    present = [set(sparse.cross) for sparse in spec.sparse if sparse.cross]
    for cross in profile.crosses:
        columns = [plain.get(name) for name in cross.features]
        if None not in columns and set(columns) not in present:
            name, pair = "_x_".join(cross.features), f"[{', '.join(map(str, columns))}]"
            return {"best_gain": cross.gain, "best_name": name, "best_pair": pair, "best_pairs": cross.pairs}
    return {}


def of_features(names: tuple[str, ...], profile: FeatureProfile | None) -> dict[str, Any]:
    """Return the quantities of all sparse features that a model uses together."""
    found = {"sparse_features": len(names)}
    used = [profile.sparse[name] for name in names if profile and name in profile.sparse]
    if profile is None or not profile.rows or len(used) < len(names):
        return found
    return found | {
        "all_ids": sum(sparse.ids for sparse in used),
        "lookups": sum(sparse.occurrences for sparse in used) / profile.rows,
        "occurrences_per_id": sum(sparse.occurrences for sparse in used) / max(sum(sparse.ids for sparse in used), 1),
    }


def of_table(spec: DatasetSpec, column: SparseColumn, profile: FeatureProfile | None) -> dict[str, Any]:
    """Return the quantities of one sparse feature."""
    numbers = ids_of(column)
    known: dict[str, Any] = {
        "feature": column.name,
        "numbered": numbers is not None,
        "numbers": numbers,
        "multi_valued": column.is_multi_valued(spec.column_types),
        "history": column.history is not None,
        "item_feature": spec.item_feature,
        "is_user": spec.user is not None and column.column == spec.user,
        "is_item": spec.item is not None and column.name == spec.item_feature,
    }
    sparse = profile.sparse.get(column.name) if profile else None
    if profile is None or sparse is None or not profile.rows:
        return known
    return known | {
        "ids": sparse.ids,
        "occurrences": sparse.occurrences / len(profile.days),
        "mean_length": sparse.mean_length,
        "missing": sparse.missing,
        "singles": sparse.singles,
        "growth": growth(sparse),
        "zipf": sparse.zipf,
        "top_share": sparse.top_share,
        "power_dim": FULL * max(sparse.ids, 1) ** POWER,
    }


def of_dense(spec: DatasetSpec, column: DenseColumn, profile: FeatureProfile | None) -> dict[str, Any]:
    """Return the quantities of one dense feature."""
    bucketed = any(sparse.column == column.column and sparse.bucketise for sparse in spec.sparse)
    known: dict[str, Any] = {"feature": column.name, "column": column.column, "bucketed": bucketed}
    whole = spec.column_types.get(column.column) == "int"
    known["integers"] = whole or None
    dense = profile.dense.get(column.name) if profile else None
    if dense is None or not dense.quantiles:
        return known
    values = {_untransformed(column, value) for share, value in dense.quantiles.items() if 0 < share < 1}
    return known | {
        "integers": whole or (dense.integers and not column.log1p and column.scale == 1),
        "distinct": dense.distinct,
        "largest": _untransformed(column, max(dense.quantiles.values())),
        "edges": f"[{', '.join(f'{edge:g}' for edge in sorted({float(f'{value:.3g}') for value in values}))}]",
    }


def growth(sparse: SparseProfile) -> float | None:
    """Return the share of the ids that were new on the profile's last day; None with one day or without ids."""
    if len(sparse.ids_by_day) < 2 or not sparse.ids_by_day[-1]:
        return None
    return (sparse.ids_by_day[-1] - sparse.ids_by_day[-2]) / sparse.ids_by_day[-1]


def ids_of(column: SparseColumn) -> int | None:
    """Return one more than the largest id of a feature whose ids are small numbers by construction; None for other features."""
    if column.hour_of_day:
        return FIRST_ID + HOURS
    if column.bucketise:
        return FIRST_ID + len(column.bucketise) + 1
    return None


def _untransformed(column: DenseColumn, value: float) -> float:
    """Return the value of the column that `log1p` and `scale` have turned into `value`."""
    value /= column.scale or 1.0
    return math.expm1(min(value, 40.0)) if column.log1p else value
