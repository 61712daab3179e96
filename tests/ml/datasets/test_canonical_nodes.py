"""Canonical nodes give each row of an epoch once, in the same global batches for any number of ranks, in even parts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.datasets.canonical_nodes import CanonicalNodes


def rows_of(nodes: CanonicalNodes, batch: int, rank: int, world_size: int) -> list[int]:
    return [row for _, begin, end in nodes.share(batch, rank, world_size) for row in range(begin, end)]


@given(rows=st.integers(1, 300), count=st.integers(1, 6), each=st.integers(1, 7), world_size=st.integers(1, 7))
def test_batches_partition_an_epoch_for_any_number_of_ranks(rows: int, count: int, each: int, world_size: int) -> None:
    nodes = CanonicalNodes(rows, count, count * each)
    batches = -(-rows // nodes.global_batch)
    seen = []
    for batch in range(batches):
        whole = rows_of(nodes, batch, 0, 1)
        parts = [rows_of(nodes, batch, rank, world_size) for rank in range(world_size)]
        assert [row for part in parts for row in part] == whole
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert len(whole) == nodes.global_batch or batch == batches - 1
        seen += whole
    assert sorted(seen) == [*range(rows)]


@given(rows=st.integers(1, 300), world_size=st.integers(1, 4), per_rank=st.integers(1, 3), each=st.integers(1, 5))
def test_a_rank_reads_only_its_own_nodes(rows: int, world_size: int, per_rank: int, each: int) -> None:
    nodes = CanonicalNodes(rows, world_size * per_rank, world_size * per_rank * each)
    for batch in range(rows // nodes.global_batch):
        for rank in range(world_size):
            spans = nodes.share(batch, rank, world_size)
            assert [node for node, _, _ in spans] == [*range(rank * per_rank, (rank + 1) * per_rank)]
            for node, begin, end in spans:
                assert nodes.end(node - 1) <= begin < end <= nodes.end(node)


@pytest.mark.parametrize("count", [0, -2, 5])
def test_canonical_nodes_divide_the_global_batch(count: int) -> None:
    with pytest.raises(ValueError, match=r"^num_canonical_nodes: expected a divisor of the global batch"):
        CanonicalNodes(100, count, 12)
