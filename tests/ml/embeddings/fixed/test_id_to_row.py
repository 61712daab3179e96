"""Properties of the mapping from ids to rows."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from ml.embeddings.fixed.id_to_row import fmix64, to_rows

INT64 = st.integers(-(2**63), 2**63 - 1)
EXTREMES = [-(2**63), -(2**63) + 1, -2, -1, 0, 1, 2, 2**31 - 1, 2**31, 2**63 - 2, 2**63 - 1]


@given(st.lists(INT64, min_size=1), st.integers(4, 2**31 - 1))
def test_every_id_has_a_row_of_its_table_and_only_reserved_ids_have_reserved_rows(ids: list[int], rows: int) -> None:
    given_ids = torch.tensor(ids + EXTREMES)
    found = to_rows(given_ids, torch.tensor(rows))
    assert ((found >= 0) & (found < rows)).all()
    assert torch.equal(found < 2, (given_ids == 0) | (given_ids == 1))


@given(st.integers(4, 5000))
def test_ids_of_a_vocabulary_that_fits_are_their_own_rows(rows: int) -> None:
    ids = torch.arange(rows)
    assert torch.equal(to_rows(ids, torch.tensor(rows)), ids)


def test_a_row_depends_only_on_the_id_and_the_size_of_its_table() -> None:
    ids = torch.from_numpy(np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 1000))
    sizes = torch.tensor([10, 1000, 99_991, 2**31 - 1]).repeat(250)
    together = to_rows(ids, sizes)
    assert together.tolist() == [int(to_rows(i.reshape(1), size)) for i, size in zip(ids, sizes, strict=True)]


def test_hashes_spread_evenly_even_if_ids_differ_in_few_bits() -> None:
    rows = 1002
    for step in (1, 1000, 2**32, 2**46):
        ids = (torch.arange(100_000) + 7_777) * step
        ids = ids[(ids < 0) | (ids >= rows)]
        counts = torch.bincount(to_rows(ids, torch.tensor(rows)), minlength=rows)[2:].double()
        chi_square = float(((counts - counts.mean()) ** 2 / counts.mean()).sum())
        assert chi_square < 1000 + 6 * (2 * 1000) ** 0.5  # six standard deviations above the mean


@given(st.lists(INT64, unique=True))
def test_fmix64_maps_different_ids_to_different_hashes(ids: list[int]) -> None:
    assert len(set(fmix64(torch.tensor(ids, dtype=torch.int64)).tolist())) == len(ids)


def test_fmix64_equals_the_published_finaliser() -> None:
    def published(k: int) -> int:
        k = (k ^ (k >> 33)) * 0xFF51AFD7ED558CCD % 2**64
        k = (k ^ (k >> 33)) * 0xC4CEB9FE1A85EC53 % 2**64
        return k ^ (k >> 33)

    assert [i % 2**64 for i in fmix64(torch.tensor(EXTREMES)).tolist()] == [published(i % 2**64) for i in EXTREMES]
