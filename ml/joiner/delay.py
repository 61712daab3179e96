"""How long after its event time an example is in the stream that the live join writes."""

from __future__ import annotations

from ml.catalog.actions import Actions
from ml.joiner.blocks import Layout


def longest_delay(rules: Actions) -> int:
    """Returns microseconds from the event time of an impression to the newest event that is needed to write its example.

    An example is written with its bucket, when an event has arrived that is newer than the end of the bucket by the longest
    wait and the lateness.
    """
    return Layout.of(rules, 1).bucket + rules.wait + rules.lateness
