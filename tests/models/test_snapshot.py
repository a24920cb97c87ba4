"""Snapshots: moving averages, exchange with the parameters, and state."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from saccade.models.snapshot import Snapshot, warm_decay


def test_update_keeps_the_decay_and_zero_copies_the_parameters():
    weight = nn.Parameter(torch.tensor([4.0, -2.0]))
    average = Snapshot([weight])
    with torch.no_grad():
        weight.fill_(0.0)
    average.update(0.75)
    torch.testing.assert_close(average.values[0], torch.tensor([3.0, -1.5]))
    average.ema_update(0.0)(7)
    assert torch.equal(average.values[0], weight.detach())


def test_the_decay_of_a_moving_average_is_small_at_the_start():
    assert [warm_decay(0.9, k) for k in (0, 1, 8)] == pytest.approx([1 / 10, 2 / 11, 0.5])
    assert warm_decay(0.9, 1000) == 0.9


def test_a_moving_average_may_move_every_few_steps():
    weight = nn.Parameter(torch.tensor([1.0]))
    average = Snapshot([weight])
    update = average.ema_update(0.9, every=8)
    seen = []
    for taken in range(1, 17):
        with torch.no_grad():
            weight.fill_(float(taken))
        update(taken)
        seen.append(average.values[0].item())
    assert seen[:7] == [1.0] * 7 and seen[7] == pytest.approx(0.5 + 0.5 * 8) and len(set(seen[7:15])) == 1 < seen[15]


def test_a_decay_outside_0_and_1_is_refused():
    with pytest.raises(ValueError, match="the decay of a moving average is between 0 and 1, not 2"):
        Snapshot([]).ema_update(2)
    with pytest.raises(ValueError, match="a moving average is updated every 1 optimizer step or more, not 0"):
        Snapshot([]).ema_update(0.9, every=0)


def test_values_are_exchanged_with_the_parameters_and_back():
    weight = nn.Parameter(torch.tensor([1.0]))
    snapshot, pointer = Snapshot([weight]), weight.data_ptr()
    with torch.no_grad():
        weight.fill_(5.0)
    with snapshot:
        assert weight.item() == 1.0 and weight.data_ptr() == pointer
    assert weight.item() == 5.0 and snapshot.values[0] == 1.0
    loaded = Snapshot([weight])
    loaded.load_state_dict(snapshot.state_dict())
    assert loaded.values[0] == 1.0


def test_values_can_be_copied_to_the_parameters():
    weight = nn.Parameter(torch.tensor([1.0]))
    snapshot = Snapshot([weight])
    with torch.no_grad():
        weight.fill_(5.0)
    snapshot.copy_to_parameters()
    assert weight.item() == 1.0
