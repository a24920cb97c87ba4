"""Render determinism: a sample of the programs of a run is rendered again at its end and compared pixel by pixel.

Rewards are meaningful only if the same program always gives the same picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from saccade.core import Rollout
from saccade.rewards.render.rendering import extract_program, render_rollout
from saccade.tools.render import Request, render_batch

_UNCACHED = "\n"
"""Appended to a program: it changes no pixel, but the renderer's cache does not know the result."""


class RenderDeterminism:
    """Records one in ``every`` different programs, chosen by the hash of the program, with a hash of its picture."""

    def __init__(self, every: int = 100) -> None:
        if every < 1:
            raise ValueError(f"every {every} is less than 1")
        self.every = every
        self.recorded: dict[str, dict[str, Any]] = {}

    def record(self, rollout: Rollout) -> None:
        """Record the chosen programs of a rollout that rendered to a picture."""
        for problem, text, render in zip(rollout.problems, rollout.outputs, render_rollout(rollout)):
            if render.picture is not None and int(render.hash[:12], 16) % self.every == 0:
                box = problem.answer.get("box") if isinstance(problem.answer, dict) else None
                self.recorded[f"{render.hash} {len(render.picture)} {box}"] = {
                    "code": extract_program(text),
                    "size": len(render.picture),
                    "box": list(box or ()),
                    "picture": _hash(render.picture),
                }

    def match_rate(self) -> float:
        """Fraction of the recorded programs that render to the same pixels again; NaN if none was recorded."""
        recorded = list(self.recorded.values())
        if not recorded:
            return float("nan")
        requests = [Request(r["code"] + _UNCACHED, size=r["size"], box=tuple(r["box"]) or None) for r in recorded]
        pictures = [render.picture for render in render_batch(requests)]
        same = [p is not None and _hash(p) == r["picture"] for p, r in zip(pictures, recorded)]
        return sum(same) / len(same)

    def state_dict(self) -> dict[str, Any]:
        return {"recorded": self.recorded}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.recorded = dict(state["recorded"])


def _hash(picture: Any) -> str:
    return sha256(picture.tobytes()).hexdigest()
