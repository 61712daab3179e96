"""Expected occurrences per batch agree with the drawn ones, also for items that appear late."""

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


def test_in_the_first_batches_it_is_what_there_was() -> None:
    frequency = BatchFrequency(memory=50)
    for _ in range(3):
        frequency.observe(torch.tensor([1, 1, 2]))
        assert frequency.expected(torch.tensor([1, 2])).tolist() == pytest.approx([2, 1], rel=0.03)


def test_what_is_over_is_forgotten_and_leaves_no_trace_on_what_is_new() -> None:
    frequency, one_in = BatchFrequency(), 50.0
    for part in torch.arange(46_000).split(2048):
        frequency.observe(part + 2**40)
    for _ in range(500):
        frequency.observe(torch.tensor([7]))
    new = torch.arange(200) + 10**6
    frequency.observe(new.repeat_interleave(8))
    torch.testing.assert_close(frequency.expected(new), torch.full((200,), 8 / one_in), rtol=0.03, atol=0.01)
    assert float(frequency.expected(torch.arange(46_000) + 2**40).median()) < 1e-4
    assert float(frequency.expected(torch.tensor([7]))) == pytest.approx(1, rel=0.03)


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
