"""The seconds that a unit of each term of `ml.advisor.cost` takes on a typical machine.

`python -m ml.advisor.measure_typical_rates` prints them. They were measured on a virtual server with two cores of an Intel
Xeon, which also ran other work. A calibration scales all of them to its machine, and changes their proportions only as far as
the measured times require.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

TYPICAL_BASE_BYTES = 550_000_000
"""Memory of a process that trains a tiny model."""
TYPICAL_RATES: Mapping[str, float] = MappingProxyType(
    {
        "steps": 1.9e-03,
        "step_features": 2.8e-05,
        "step_layers": 1.6e-04,
        "step_collections": 1.5e-03,
        "step_wide": 5.0e-04,
        "step_lists": 1.2e-04,
        "step_softmax": 2.9e-03,
        "parameters": 3.4e-09,
        "elements": 4.5e-09,
        "flops_float32": 1.0e-11,
        "flops_bfloat16": 4.8e-12,
        "pairs": 1.0e-08,
        "lookups": 3.3e-08,
        "words": 4.9e-09,
        "updates": 1.2e-07,
        "update_words": 1.0e-08,
        "list_ids": 2.9e-08,
        "fixed_lookups": 2.5e-07,
        "fixed_words": 1.1e-08,
        "fixed_updates": 5.0e-07,
        "fixed_update_words": 1.4e-08,
        "new_rows": 1.7e-07,
        "passes": 3.4e-03,
        "values": 2.0e-08,
    }
)
