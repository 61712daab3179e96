"""The trainings that are timed: a few that a calibration measures, and further ones for the typical rates.

Together they have every kind of model and every term of `ml.advisor.cost`, in different proportions.
"""

from __future__ import annotations

from typing import Any

from ml.advisor.timed_training import Shape


def _static(*features: str, rows: int = 32) -> dict[str, Any]:
    return {"tables": {"features": {feature: {"kind": "static", "rows": rows} for feature in features}}}


_ALL = tuple(f"s{i}" for i in range(9))
_WIDE = {"model": {"bottom": [512, 256], "top": [512, 256]}}
_DEEP = {"model": {"deep": [400, 400, 400]}}
_TOWERS = {"model": {"user": ["s0", "s1", "s2", "d0"], "item": ["s3", "s4", "d1"], "item_id": "s3", "uniform_negatives": 0}}

SHAPES = (
    Shape("dlrm", 1, 2, 64, 2_000),
    Shape("dlrm", 3, 9, 2048, 20_000),
    Shape("dlrm", 13, 39, 256, 20_000),
    Shape("dlrm", 3, 9, 1024, 4_000, _static(*_ALL, rows=4096), even=True),
    Shape("dlrm", 3, 9, 256, 30, _static("s0", "s1")),
    Shape("dlrm", 3, 5, 512, 2_000, lists=1),
    Shape("dlrm", 13, 10, 512, 2_000, _WIDE),
    Shape("dlrm", 13, 10, 512, 2_000, _WIDE | {"precision": "bfloat16"}),
    Shape("deepfm", 13, 26, 256, 20_000, _DEEP),
    Shape("dcn_v2", 13, 39, 256, 20_000),
    Shape("wide_deep", 13, 39, 256, 20_000),
    Shape("wide_deep", 13, 26, 256, 20_000, fresh=True),
    Shape("two_tower", 2, 5, 128, 2_000, _TOWERS),
    Shape("two_tower", 2, 5, 1024, 20_000, _TOWERS),
)
FURTHER_SHAPES = (
    Shape("dlrm", 3, 6, 256, 2_000),
    Shape("dlrm", 3, 9, 32, 2_000),
    Shape("dlrm", 13, 26, 1024, 20_000),
    Shape("dlrm", 3, 9, 1024, 20),
    Shape("dlrm", 3, 9, 1024, 20_000, even=True),
    Shape("dlrm", 13, 26, 256, 20_000, fresh=True),
    Shape("dlrm", 3, 9, 1024, 20_000, {"model": {"embedding_dim": 64}}),
    Shape("dlrm", 3, 9, 1024, 20, _static(*_ALL)),
    Shape("dlrm", 3, 3, 512, 2_000, lists=3),
    Shape("deepfm", 13, 39, 256, 20_000),
)
