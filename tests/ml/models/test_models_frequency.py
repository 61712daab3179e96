"""Expected occurrences in a batch against those drawn, also of items that come late."""

from __future__ import annotations

import pytest
import torch

from ml.models.frequency import BatchFrequency


def test_it_comes_to_what_is_drawn() -> None:
    generator = torch.Generator().manual_seed(0)
    share = torch.tensor([0.5, 0.3, 0.15, 0.05])
    frequency = BatchFrequency(memory=200)
    for _ in range(1000):
        frequency.observe(torch.multinomial(share, 64, replacement=True, generator=generator) * 2**40)
    torch.testing.assert_close(frequency.expected(torch.arange(4) * 2**40), 64 * share, rtol=0.1, atol=0.2)
    assert frequency.expected(torch.tensor([-7, 99])).tolist() == [0, 0]


def test_what_is_new_is_known_at_once_and_what_is_over_is_forgotten() -> None:
    frequency = BatchFrequency(memory=10)
    for _ in range(100):
        frequency.observe(torch.tensor([1, 1, 2]))
    frequency.observe(torch.tensor([3] * 8 + [1]))
    assert frequency.expected(torch.tensor([3])).tolist() == pytest.approx([8.0], rel=0.12)
    for _ in range(60):
        frequency.observe(torch.tensor([2]))
    assert float(frequency.expected(torch.tensor([1]))) < 0.02
    assert float(frequency.expected(torch.tensor([2]))) == pytest.approx(1, rel=0.12)


def used(items: int, batches: int) -> BatchFrequency:
    """After so many items that came once each, and so many batches without them."""
    frequency = BatchFrequency()
    for part in torch.arange(items).split(2048):
        frequency.observe(part + 2**40)
    for _ in range(batches):
        frequency.observe(torch.tensor([7]))
    return frequency


@pytest.mark.parametrize("batches", [20, 500])
def test_items_that_are_over_do_not_make_new_ones_old(batches: int) -> None:
    frequency, new = used(46_000, batches), torch.arange(200) + 10**6
    frequency.observe(new.repeat_interleave(8))
    found = frequency.expected(new)
    assert float(found.median()) == pytest.approx(7.84, abs=0.01)
    assert float((found < 4).float().mean()) < 0.3, "but where both slots are those of items not long gone"
    assert float(frequency.expected(torch.tensor([7]))) == pytest.approx(1, rel=0.1)


def test_an_item_that_comes_back_is_new() -> None:
    frequency = used(10, 500)
    frequency.observe(torch.tensor([2**40] * 8))
    assert float(frequency.expected(torch.tensor([2**40]))) == pytest.approx(7.84, abs=0.01)


def test_its_state_goes_with_the_model() -> None:
    one, other = BatchFrequency(), BatchFrequency()
    batches = [torch.randint(0, 50, (64,), generator=torch.Generator().manual_seed(i)) for i in range(20)]
    for batch in batches[:10]:
        one.observe(batch)
    other.load_state_dict(one.state_dict())
    for batch in batches[10:]:
        one.observe(batch)
        other.observe(batch)
        assert torch.equal(one.expected(batch), other.expected(batch))
