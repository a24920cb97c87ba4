"""A share of what a run drew, drawn again at its end: rewards mean something only if the same program is the same
picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from saccade.core import Rollout
from saccade.rewards.render.rendering import drawn, program
from saccade.tools.render import Request, render_batch

_AGAIN = "\n"
"""Draws nothing, but makes a program that is not known yet."""


class RenderDeterminism:
    """Keeps one in ``every`` different programs, chosen by their hash, with the hash of the picture."""

    def __init__(self, every: int = 100) -> None:
        if every < 1:
            raise ValueError(f"every {every} is less than 1")
        self.every = every
        self.kept: dict[str, dict[str, Any]] = {}

    def keep(self, rollout: Rollout) -> None:
        """Remember some of the attempts at problems whose reference is a picture."""
        for problem, text, one in zip(rollout.problems, rollout.outputs, drawn(rollout)):
            if one.picture is not None and int(one.hash[:12], 16) % self.every == 0:
                box = problem.answer.get("box") if isinstance(problem.answer, dict) else None
                size = len(one.picture)
                known = {"code": program(text), "size": size, "box": list(box or ()), "picture": _hash(one.picture)}
                self.kept[f"{one.hash} {size} {box}"] = known

    def alike(self) -> float:
        """The share that is drawn as before, to the bit; NaN if nothing was kept."""
        kept = list(self.kept.values())
        if not kept:
            return float("nan")
        asked = [Request(k["code"] + _AGAIN, size=k["size"], box=tuple(k["box"]) or None) for k in kept]
        same = [
            one.picture is not None and _hash(one.picture) == k["picture"] for one, k in zip(render_batch(asked), kept)
        ]
        return sum(same) / len(same)

    def state_dict(self) -> dict[str, Any]:
        return {"kept": self.kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.kept = dict(state["kept"])


def _hash(picture: Any) -> str:
    return sha256(picture.tobytes()).hexdigest()
