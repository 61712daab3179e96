"""Keys of catalog entries and recipes that have a new name. A file with an old one is refused with the new one named."""

from __future__ import annotations

RENAMED = {
    "admit_after": "min_count",
    "correct_frequency": "logq_correction",
    "correct_sampling": "sampling_correction",
    "distribution": "draw",
    "leave_out": "exclude_features",
}
"""Old name -> new name. Keys at the same place in a file; what they mean is unchanged."""
