"""Vocabularies equal a plain dictionary over many days, merged in Arrow and on Spark."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from upath import UPath

from ml.catalog.spec import SparseColumn, VocabularySpec
from ml.features.hashing import hash_values
from ml.features.hashtable import count_distinct, slots_for
from ml.features.sparse import SparseFeature
from ml.features.vocabulary import STATE, STATE_ORDER, Vocabulary, extend
from ml.features.vocabulary_counts import Merge, count_values, merge_in_arrow, merge_on_spark, pack, write_counts
from ml.schema import FIRST_ID, MISSING_ID, OOV_ID

FEATURE = SparseFeature(SparseColumn(name="word", column="word"), {"word": "string"}, None)  # type: ignore[arg-type]

OTHER = SparseFeature(SparseColumn(name="other"), {"other": "string"}, None)  # type: ignore[arg-type]

DAYS = st.lists(st.lists(st.one_of(st.none(), st.sampled_from([*"abcdefgh", ""])), max_size=30), min_size=1, max_size=6)
LIMITS = st.builds(VocabularySpec, min_count=st.integers(1, 5), max_size=st.one_of(st.none(), st.integers(1, 5)))


def batch(words: list[str | None]) -> pa.RecordBatch:
    return pa.record_batch({"word": pa.array(words, pa.string()), "other": pa.nulls(len(words), pa.string())})


def slow_extend(ids: dict[str, int], counts: Counter[str], limits: VocabularySpec) -> dict[str, int]:
    candidates = [word for word in counts if counts[word] >= limits.min_count and word not in ids]
    ids = dict(ids)
    for word in sorted(candidates, key=lambda w: (-counts[w], w.encode())):
        if limits.max_size is None or len(ids) < limits.max_size:
            ids[word] = FIRST_ID + len(ids)
    return ids


@given(DAYS, LIMITS, st.integers(1, 4))
def test_a_vocabulary_equals_a_plain_dictionary_over_days(days: list, limits: VocabularySpec, tasks: int) -> None:  # type: ignore[type-arg]
    state, ids, counts = None, {}, Counter()
    for words in days:
        today = [word for word in words if word is not None]
        # The words of a day get ids from the days before it, so look-ups come before the counts of the day.
        vocabulary = Vocabulary.from_state(state) if state is not None else Vocabulary.empty()
        got = vocabulary.lookup(FEATURE.keys(batch(words)).values)
        assert got.tolist() == [MISSING_ID if w is None else ids.get(w, OOV_ID) for w in words]
        assert len(vocabulary) == len(ids)

        partial = [count_values(FEATURE, batch(words[n::tasks])) for n in range(tasks)]
        state = extend(state, partial, limits)
        counts.update(today)
        previous, ids = ids, slow_extend(ids, counts, limits)
        assert ids.items() >= previous.items()
        rows = state.to_pylist()
        assert {row["value"]: row["id"] for row in rows if row["id"] is not None} == ids
        assert {row["value"]: row["count"] for row in rows} == counts
        assert state.sort_by(list(STATE_ORDER)).equals(state)


def test_the_order_of_tasks_does_not_matter() -> None:
    words = [*list("abracadabra"), "", "é", "z"]
    partial = [count_values(FEATURE, batch(words[n::3])) for n in range(3)]
    limits = VocabularySpec(min_count=1)
    assert extend(None, partial, limits).equals(extend(None, partial[::-1], limits))


def test_counting_keys_skips_missing_ones() -> None:
    keys = np.array([5, 0, 7, 5, -(2**63), 7, 5])
    distinct, counts, first = count_distinct(keys, slots_for(len(keys)))
    assert (distinct.tolist(), counts.tolist(), first.tolist()) == ([5, 7, -(2**63)], [3, 2, 1], [0, 2, 4])


def test_a_large_vocabulary_finds_every_key_and_no_other() -> None:
    keys = hash_values("n", pa.array(np.arange(100_000)))
    vocabulary = Vocabulary.of(keys[:70_000], np.arange(70_000) + FIRST_ID)
    ids = vocabulary.lookup(keys)
    assert ids[:70_000].tolist() == list(range(FIRST_ID, 70_000 + FIRST_ID))
    assert set(ids[70_000:].tolist()) == {OOV_ID}


def test_small_merges_share_a_task_and_a_large_one_is_alone() -> None:
    rows = [100_000, 300_000, 200_000, 0, 900_000, 5, 10]
    merges = [Merge(str(n), n, VocabularySpec(), None, (), "", count) for n, count in enumerate(rows)]
    assert [[m.rows for m in packed] for packed in pack(merges)] == [[100_000, 300_000], [200_000, 0], [900_000], [5, 10]]


@pytest.mark.slow
@pytest.mark.parametrize("limits", [VocabularySpec(min_count=2), VocabularySpec(min_count=1, max_size=40_000)])
def test_spark_writes_the_same_bytes(spark, tmp_path: Path, limits: VocabularySpec) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(1)
    previous: str | None = None
    for day in range(2):
        partial = []
        for task in range(3):
            words = [f"wörd {n}" for n in rng.zipf(1.2, 60_000) % 200_000]
            partial.append(str(tmp_path / f"{day}-{task}.parquet"))
            counted = write_counts([OTHER, FEATURE], batch(words), UPath(partial[-1]))
            assert counted == (0, len(set(words)))
        targets = [str(tmp_path / f"{day}-{how}.parquet") for how in ("arrow", "spark")]
        arrow, on_spark = (Merge("word", 1, limits, previous, tuple(partial), target, 0) for target in targets)
        sizes = merge_in_arrow((arrow,))[0], merge_on_spark(on_spark, spark, UPath(tmp_path / f"scratch-{day}"))
        assert sizes[0] == sizes[1]
        assert sizes[0].ids == min(limits.max_size or sizes[0].ids, sizes[0].ids) > 1000
        assert Path(targets[0]).read_bytes() == Path(targets[1]).read_bytes()
        assert pq.read_schema(targets[1]).equals(STATE)
        previous = targets[0]
