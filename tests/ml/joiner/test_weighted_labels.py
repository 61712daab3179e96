"""A live join gives examples the weights of an independent join, and its state belongs to these weights."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from ml.joiner.joining import ChangedEntry
from tests.helpers.joined_logs import arriving, drawn, feed
from tests.helpers.reference_join import in_order, reference_examples
from tests.helpers.stream_runs import StreamRun


def test_a_live_join_gives_the_weights_of_an_independent_join(tmp_path: Path) -> None:
    spec = feed(actions={"labels": {"bought": {"weights": {"buy": 3.5}}}})
    assert spec.actions
    impressions, actions = drawn(random.Random(11), 500, 900)
    arriving(tmp_path, impressions, actions, random.Random(12), files=8)
    stream = StreamRun(tmp_path, spec, {"batch_bytes": 1})
    assert stream.end().late == 0
    assert in_order(stream.examples()) == reference_examples(spec.actions, impressions, actions)
    assert {row["bought_weight"] for row in stream.examples()} == {1.0, 3.5}
    with pytest.raises(ChangedEntry):
        StreamRun(tmp_path, feed(actions={"labels": {"bought": {"weights": {"buy": 4}}}}))
