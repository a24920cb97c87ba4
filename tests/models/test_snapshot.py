"""A second set of values: it follows as it is told, takes the weights' place and gives it back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from saccade.models.snapshot import Snapshot, warm_decay


def test_an_average_keeps_its_share_and_a_copy_keeps_up():
    weight = nn.Parameter(torch.tensor([4.0, -2.0]))
    average = Snapshot([weight])
    with torch.no_grad():
        weight.fill_(0.0)
    average.update(0.75)
    torch.testing.assert_close(average.values[0], torch.tensor([3.0, -1.5]))
    average.ema_update(0.0)(7)
    assert torch.equal(average.values[0], weight.detach())


def test_a_moving_average_forgets_its_start():
    assert [warm_decay(0.9, k) for k in (0, 1, 8)] == pytest.approx([1 / 10, 2 / 11, 0.5]) and warm_decay(
        0.9, 1000
    ) == 0.9


def test_a_decay_that_is_no_share_is_refused():
    with pytest.raises(ValueError, match="an average keeps a share of 0 to 1 of itself, not 2"):
        Snapshot([]).ema_update(2)


def test_it_takes_the_weights_place_and_gives_it_back():
    weight = nn.Parameter(torch.tensor([1.0]))
    kept, before = Snapshot([weight]), weight.data_ptr()
    with torch.no_grad():
        weight.fill_(5.0)
    with kept:
        assert weight.item() == 1.0 and weight.data_ptr() == before
    assert weight.item() == 5.0 and (kept.values[0]) == 1.0
    again = Snapshot([weight])
    again.load_state_dict(kept.state_dict())
    assert (again.values[0]) == 1.0
