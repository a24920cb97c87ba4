"""Memory of transitions: what is sampled is what happened, never across an episode's end, the same again after a
resume.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from saccade.algorithms.replay import random_shift
from saccade.training.buffers import Buffer, Mixture


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (6, 5, 3), np.uint8)


def episode(number: int, length: int, ends: str | None = "terminated", start: int = 0) -> dict[str, np.ndarray]:
    """Transitions whose every value tells episode and step: 100 number + step."""
    told = 100 * number + start + np.arange(length + 1)
    marks = {
        mark: np.array([mark == ends and i == length - 1 for i in range(length)])
        for mark in ("terminated", "truncated")
    }
    shown = np.stack([picture(x) for x in told])
    return {
        "observation.state": told[:-1, None].astype(np.float32),
        "next_observation.state": told[1:, None].astype(np.float32),
        "observation.view": shown[:-1], "next_observation.view": shown[1:],
        "action": np.stack([told[:-1], -told[:-1]], 1).astype(np.float32), "reward": (1.0 + told[:-1]) / 100,
        "next_base": told[1:].astype(np.float32), **marks, "episode": np.full(length, number),
    }  # fmt: skip


def side_by_side(buffer: Buffer, rows: list[dict]) -> None:
    """Add episodes as they happen in rows that run side by side, a step of all at a time."""
    for t in range(max(len(row["reward"]) for row in rows)):
        going = [row for row in rows if t < len(row["reward"])]
        buffer.add({name: np.stack([row[name][t] for row in going]) for name in rows[0]})


def filled(capacity: int = 100) -> Buffer:
    buffer = Buffer(capacity, seed=3)
    side_by_side(buffer, [episode(1, 6), episode(2, 4, "truncated"), episode(3, 5, None)])
    return buffer


def by_hand(number: int, start: int, length: int, ends: str | None, n: int, gamma: float) -> tuple[float, float, int]:
    """Reward, discount and what is seen at last of an n-step transition, a loop over the episode."""
    total, power, step = 0.0, 1.0, start
    while step < min(start + n, length):
        total += power * (1 + 100 * number + step) / 100
        power *= gamma
        step += 1
    return total, 0.0 if step == length and ends == "terminated" else power, 100 * number + step


@pytest.mark.parametrize("n_step", [1, 3, 10])
def test_rewards_of_n_steps_stop_at_ends_and_bootstrap_from_all_but_terminations(n_step):
    batch = filled().sample(200, step=7, n_step=n_step, gamma=0.9)
    kinds = {1: (6, "terminated"), 2: (4, "truncated"), 3: (5, None)}
    for i in range(200):
        number, start = divmod(int(batch.decisions["observation.state_B"][i]), 100)
        reward, discount, last = by_hand(number, start, *kinds[number], n_step, 0.9)
        assert float(batch.rewards["reward"][i]) == pytest.approx(reward, rel=1e-5)
        assert float(batch.extras["discount_B"][i]) == pytest.approx(discount, rel=1e-5)
        assert int(batch.decisions["next_observation.state_B"][i]) == int(batch.decisions["next_base_BT"][i, 0]) == last
        assert np.array_equal(batch.decisions["next_observation.view_B"][i], picture(last))
        assert np.array_equal(batch.decisions["observation.view_B"][i], picture(100 * number + start))
        assert batch.decisions["action_BT"][i, 0].tolist() == [100 * number + start, -100 * number - start]
    assert len(batch.decisions["observation.state_B"].unique()) == 15


def test_a_picture_is_stored_once_but_at_ends():
    frames = filled().frames["view"]
    assert (frames.final_of >= 0).sum() == 3, "the ends of two episodes and the newest moment of the third"


def test_old_transitions_are_overwritten_and_nothing_is_left_of_them():
    buffer = Buffer(8, seed=0)
    for number in range(1, 9):
        buffer.add(episode(number, 3, "truncated"))
    buffer.add(episode(9, 2, None))
    batch = buffer.sample(300, 0, n_step=3)
    seen = set(batch.decisions["observation.state_B"].int().flatten().tolist())
    assert seen == {700, 701, 702, 800, 801, 802, 900, 901} and len(buffer) == 8
    for state, last, view in zip(
        *(batch.decisions[k] for k in ("observation.state_B", "next_observation.state_B", "next_observation.view_B"))
    ):
        assert int(state) // 100 == int(last - 0.5) // 100 and np.array_equal(view, picture(int(last)))
    assert len(buffer.frames["view"].final) <= 16, "final pictures are discarded with their transitions"


def test_sequences_hold_ends_and_mark_where_memory_must_be_forgotten():
    batch = filled().sequences(64, 12, step=2)
    state, first = batch.decisions["observation.state_BT"][..., 0].int(), batch.extras["first_BT"].bool()
    assert first[:, 0].all() and torch.equal(batch.rewards["reward"] == 0, batch.mask_BT == 0)
    lengths = {1: 6, 2: 4, 3: 5}
    for row in range(64):
        for t in range(12):
            number, place = divmod(int(state[row, t]), 100)
            last = place == lengths[number]
            assert float(batch.mask_BT[row, t]) == 1 - last
            assert np.array_equal(batch.decisions["observation.view_BT"][row, t], picture(int(state[row, t])))
            if t < 11:
                assert bool(first[row, t + 1]) == last and (last or state[row, t + 1] == state[row, t] + 1)
            ends = batch.extras["terminated_BT"][row, t]
            assert float(ends) == (number == 1 and place == 5)


def same(a, b) -> bool:
    pairs = [(getattr(a, kind), getattr(b, kind)) for kind in ("decisions", "rewards", "extras")]
    return all(x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x) for x, y in pairs)


def test_a_resumed_buffer_gives_what_the_first_would_have_given():
    from saccade.training.state import pack, unpack

    whole, saved = filled(12), filled(12)
    again = Buffer(12, seed=3)
    again.load_state_dict(unpack(*pack(saved.state_dict())))
    for buffer in (whole, again):
        buffer.add(episode(3, 2, "terminated", start=5))
        buffer.add(episode(4, 3))
    assert same(whole.sample(64, 5, 3), again.sample(64, 5, 3)) and same(
        whole.sequences(8, 9, 5), again.sequences(8, 9, 5)
    )
    with pytest.raises(ValueError, match="the saved buffer holds up to 12 transitions, this one 5"):
        Buffer(5).load_state_dict(saved.state_dict())


def test_sampling_follows_from_seed_and_step():
    buffer = filled()
    assert same(buffer.sample(32, 1), buffer.sample(32, 1)) and not same(buffer.sample(32, 1), buffer.sample(32, 2))
    counts = torch.bincount(buffer.sample(30_000, 0).decisions["observation.state_B"].int().flatten())
    assert (counts[counts > 0] / 2000 - 1).abs().max() < 0.1


def test_mixtures_hold_their_shares():
    offline, online = Buffer(50, seed=1), Buffer(50, seed=2)
    offline.add(episode(5, 9))
    online.add(episode(1, 9))
    batch = Mixture([(offline, 0.25), (online, 0.75)]).sample(30, 0)
    assert (batch.decisions["observation.state_B"] > 400).sum() == 8 and len(batch.extras["seed_B"].unique()) == 30
    with pytest.raises(ValueError, match="add up to 1"):
        Mixture([(offline, 0.25), (online, 0.5)])
    with pytest.raises(ValueError, match="different seeds"):
        Mixture([(offline, 0.5), (offline, 0.5)])


def test_pictures_are_shifted_by_the_seed_of_their_row():
    batch = filled().sample(40, 1)
    moved, again = random_shift(batch, 2), random_shift(batch.rows(torch.arange(10, 20)), 2)
    assert torch.equal(moved.decisions["observation.view_B"][10:20], again.decisions["observation.view_B"])
    padded = torch.nn.functional.pad(
        batch.decisions["observation.view_B"].permute(0, 3, 1, 2).float(), (2,) * 4, mode="replicate"
    )
    places = set()
    for row, view in enumerate(moved.decisions["observation.view_B"]):
        cuts = {(y, x): padded[row, :, y : y + 6, x : x + 5] for y in range(5) for x in range(5)}
        places |= {place for place, cut in cuts.items() if torch.equal(cut, view.permute(2, 0, 1).float())}
    assert len(places) > 12 and torch.equal(
        moved.decisions["observation.state_B"], batch.decisions["observation.state_B"]
    )
    assert not torch.equal(
        random_shift(batch, 2).decisions["next_observation.view_B"], batch.decisions["next_observation.view_B"]
    )
    assert random_shift(filled().sequences(3, 4, 0), 1).decisions["observation.view_BT"].shape == (3, 4, 6, 5, 3)


def without(fields: dict, name: str) -> dict:
    return {k: v for k, v in fields.items() if k != name}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda f: without(f, "reward"), "transitions lack reward"),
        (lambda f: without(f, "next_observation.view"), "transitions lack next_observation.view"),
        (lambda f: f | {"reward": f["reward"] * np.nan}, "reward is not finite"),
        (lambda f: f | {"action": f["action"][:2]}, "action has 2 transitions, reward has 3"),
        (
            lambda f: f | {"observation.state": f["observation.state"].repeat(2, 1)},
            "observation.state is float32 .2., but was float32 .1. before",
        ),
        (lambda f: f | {"observation.view": f["observation.view"].astype(np.float32)}, "observation.view is float32"),
        (lambda f: f | {"extra": f["reward"]}, "other fields than before: extra"),
        (lambda f: f | {"terminated": np.array([True, False, False])}, "episode 9 continues after its end"),
        (lambda f: f | {"episode": f["episode"] + 0.5}, "episode must be an integer"),
        (lambda f: f | {"action": np.array(["a", "b", "c"])}, "not numbers"),
        (lambda f: {k: v[:0] for k, v in f.items()}, "0 transitions cannot be added"),
        (lambda f: {k: np.concatenate([v] * 40) for k, v in f.items()}, "120 transitions cannot be added"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_stored(change, why):
    buffer = filled()
    with pytest.raises(ValueError, match=why):
        buffer.add(change(episode(9, 3)))
    assert same(buffer.sample(20, 0), filled().sample(20, 0))


def test_what_cannot_be_sampled_is_said():
    for asked, why in (((4, 0), "empty"), ((0, 0), "rows must be 1 or more"), ((4, 0, 0), "n_step must be 1 or more")):
        with pytest.raises(ValueError, match=why):
            Buffer(5).sample(*asked)


def test_a_buffer_beyond_the_memory_of_the_machine_is_refused(monkeypatch):
    rows = episode(1, 3)
    with pytest.raises(ValueError, match=r"takes \d+\.\d GiB, and this machine has .*: lower its capacity"):
        Buffer(1 << 20).add(
            rows | dict.fromkeys(("observation.state", "next_observation.state"), np.zeros((3, 1 << 20)))
        )
    once = sum(value[:1].nbytes for name, value in rows.items() if name != "next_observation.view")
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 100, "SC_PHYS_PAGES": once}.get)
    Buffer(100).add(rows)
