"""What is measured of the model that sees: the same questions, pictures, weights and advantages for both sides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from flow_bench import Table, relative, summary
from measure import flops, interleaved, ratio
from torch import Tensor
from vlm_sides import MOST, ROWS, SIDES, Gradient, Ours, Trl

from saccade.core import Rollout

Works = Mapping[str, Callable[[], object]]
OURS, THEIRS, REMEMBERING = "saccade", "trl", "trl, log-probs too"


class Bench:
    """All sides on one folder, and a batch of each to update on."""

    def __init__(self, folder: Path):
        sides = {name: make(folder) for name, make in SIDES.items()}
        self.ours: dict[str, Ours] = {n: s for n, s in sides.items() if isinstance(s, Ours)}
        self.trl: dict[str, Trl] = {n: s for n, s in sides.items() if isinstance(s, Trl)}
        advantage_B = torch.randn(ROWS, generator=torch.Generator().manual_seed(2))
        self.rollouts = {name: one.sample() for name, one in self.ours.items()}
        for rollout in self.rollouts.values():
            rollout.advantage_BT = rollout.broadcast(advantage_B)
        self.batches = {name: theirs.sample() for name, theirs in self.trl.items()}

    # -- the same work? -------------------------------------------------------------------------------------

    def equality(self) -> Table:
        """Absolute errors of log-probs, relative ones of gradients, given our answers. AssertionError if one is too
        large.
        """
        found: Table = {}
        for name, theirs in self.trl.items():
            own = name.replace(THEIRS, OURS) if "eyes" in name else OURS
            rollout, batch = self.rollouts[own], self.batches[name]
            same_prompts(rollout, batch)
            same_lengths(rollout, batch)
            batch = batch | {"completion_ids": answers(rollout), "advantages": rollout.advantage_BT[:, 0]}
            if "old_per_token_logps" in batch:
                batch["old_per_token_logps"] = rollout.logp_BT
            with torch.no_grad():
                replayed_BT = self.ours[own].policy.likelihood(rollout).logp_BT
            weighed_BT = theirs.weigh(batch)
            found[name] = {
                "sampled log-probs": float((rollout.logp_BT - weighed_BT).abs().max()),
                "replayed log-probs": float((replayed_BT - weighed_BT).abs().max()),
                "gradient": apart(self.ours[own].gradient(rollout), theirs.gradient(batch)),
            }
        for name, errors in found.items():
            over = {k: v for k, v in errors.items() if not v < 1e-4}
            assert not over, f"{name} does not do the same work: {over}"
        return found

    # -- how long? ------------------------------------------------------------------------------------------

    def generation(self, repetitions: int) -> Table:
        """Tokens a second, from messages to answers; ours with log-probs, TRL's alone and with all that its update
        needs.
        """
        works: dict[str, Callable[[], object]] = {OURS: self.ours[OURS].sample, THEIRS: self.trl[THEIRS].generate}
        works["trl, batch ready"] = self.trl[THEIRS].sample
        works[REMEMBERING] = self.trl[REMEMBERING].sample
        return self._table(works, repetitions, ROWS * MOST, "tokens/s")

    def update(self, repetitions: int) -> Table:
        """Samples a second of one optimiser step on a stored batch."""
        works: dict[str, Callable[[], object]] = {
            n: lambda n=n: self.ours[n].update(self.rollouts[n]) for n in self.ours
        }
        works |= {n: lambda n=n: self.trl[n].update(self.batches[n]) for n in self.trl if n != REMEMBERING}
        return self._table(works, repetitions, ROWS, "samples/s")

    def step(self, repetitions: int) -> Table:
        """Samples a second of a whole step: answers, rewards, advantages, update."""
        works = {n: one.step for n, one in (self.ours | self.trl).items() if n != REMEMBERING}
        return self._table(works, repetitions, ROWS, "samples/s")

    def _table(self, works: Works, repetitions: int, count: float, unit: str) -> Table:
        for work in works.values():
            work()
        needed = {name: flops(work) for name, work in works.items() if name in self.ours}
        timings, rates, _ = interleaved(works, repetitions)
        rows = {}
        for name, timing in timings.items():
            frozen = "frozen" in name
            against = timings["trl, frozen eyes" if frozen else THEIRS]
            work = needed["saccade, frozen eyes" if frozen else OURS]
            rows[name] = summary(timing, count, unit) | {"x trl": ratio(against, timing)}
            rows[name]["x floor"] = median(s * r / work for s, r in zip(timing.cpu, rates))
        return rows


def answers(rollout: Rollout) -> Tensor:
    """The tokens that were written ``[B, T]``."""
    return rollout.decisions["ids_BL"].gather(1, rollout.decisions["column_BT"])


def same_prompts(rollout: Rollout, batch: dict[str, Any]) -> None:
    """AssertionError unless both sides read the same tokens and the same pixels."""
    begin = int(rollout.decisions["begin_B"].max())
    for ours, theirs in (("ids_BL", "prompt_ids"), ("attention_BL", "prompt_mask")):
        assert torch.equal(rollout.decisions[ours][:, :begin], batch[theirs]), f"{theirs} differ"
    pixels = [sights[0].inputs["pixel_values"] for sights in rollout.decisions["images_B"].values]
    assert torch.equal(torch.cat(pixels), batch["pixel_values"]), "pictures differ"


def same_lengths(rollout: Rollout, batch: dict[str, Any]) -> None:
    """AssertionError unless both sides wrote 64 tokens in every row."""
    assert rollout.mask_BT.shape == batch["completion_mask"].shape == (ROWS, MOST)
    assert rollout.mask_BT.all() and batch["completion_mask"].all(), "an answer ended early"


def apart(ours: Gradient, theirs: Gradient) -> float:
    """Relative distance of two gradients."""
    assert ours.keys() == theirs.keys(), f"not the same weights: {sorted(ours.keys() ^ theirs.keys())}"
    return relative(*(torch.cat([gradient[name].flatten() for name in ours]) for gradient in (ours, theirs)))
