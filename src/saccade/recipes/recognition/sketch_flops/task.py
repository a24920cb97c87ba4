"""A task of finding the photo that a sketch was made of: pairs to learn from, pairs kept back, and how searching is
scored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from saccade.core import Problem
from saccade.recipes.recognition.sketch_flops.compute import RetrievalGallery
from saccade.recipes.recognition.sketch_flops.retrieval import mean_reciprocal_rank, within
from saccade.worlds import sketches
from saccade.worlds.sketches import Pairs, Sketch

Embed = Callable[[Tensor], Tensor]
"""Pictures ``[B, 3, H, W]`` -> embeddings ``[B, D]``."""

_AT_ONCE = 50


@dataclass(frozen=True)
class RetrievalTask:
    """Which sketches and photos, and on which canvases a sketch may be drawn."""

    pairs: str = "sketches"
    """The embedded world, or a file of JSON lines with "sketch" (.npy or .svg) and "photo"."""
    held_out: str = ""
    """A file of such pairs kept back; the embedded world keeps back objects of its own."""
    size: int = 64
    """Side of a photo in pixels, always the same."""
    canvases: tuple[int, ...] = (16, 24, 32, 48, 64)
    """Sides in pixels of the canvases that a sketch can be drawn on; the last is the full one."""
    stroke_width: float = sketches.WIDTH
    """Width of a line in shares of the canvas, the same on every canvas."""
    simplify: float = 0.01
    """Tolerance, in shares of the canvas, within which a sketch is shortened before its strokes are read one by one."""
    train_size: int = 400
    """Objects of the embedded world to learn embeddings from."""
    selector_size: int = 600
    """Objects beside them (of a file: its last photos) to learn choosing from: what embeddings have seen is found
    too easily.
    """
    held_out_size: int = 150
    """Objects kept back in the embedded world."""
    sketches_each: int = 6
    """Sketches of each object in the embedded world; four of those kept back."""

    def __post_init__(self) -> None:
        if len(self.canvases) < 2 or list(self.canvases) != sorted(set(self.canvases)):
            raise ValueError(f"canvases {self.canvases} must be two or more, from small to large")

    @property
    def full(self) -> int:
        """The largest canvas."""
        return self.canvases[-1]

    def training(self, seed: int) -> tuple[Pairs, Pairs]:
        """Pairs to learn embeddings from, and others to learn choosing from."""
        if self.pairs != "sketches":
            return sketches.load(self.pairs, self.size).apart(self.selector_size)
        made = sketches.made(self.train_size + self.selector_size, self.sketches_each, seed, "train", self.size)
        return made.apart(self.selector_size)

    def held_out_problems(self) -> Pairs | None:
        """Pairs that nothing is ever learnt from."""
        if self.pairs != "sketches":
            return sketches.load(self.held_out, self.size) if self.held_out else None
        return sketches.made(self.held_out_size, 4, 12_345, "held_out", self.size)

    def draw(self, problems: Sequence[Problem], canvas: int) -> Tensor:
        """The sketches of problems on a canvas, as pictures ``[B, 3, canvas, canvas]``."""
        return sketches.pictures([problem.inputs for problem in problems], canvas, self.stroke_width)

    def strokes(self, sketch: Sketch) -> Tensor:
        """The shortened sketch as a sequence of pen states ``[L, 5]``."""
        return _strokes(sketch, self.simplify)

    def gallery(self, embed: Embed, pairs: Pairs) -> Tensor:
        """Frozen embeddings of all photos ``[M, D]``, on the CPU."""
        with torch.no_grad():
            return torch.cat(
                [embed(pairs.pixels(part)).cpu() for part in torch.arange(len(pairs.photos)).split(_AT_ONCE)]
            )

    def queries(self, embed: Embed, pairs: Pairs, canvas: int) -> Tensor:
        """Frozen embeddings of all sketches on a canvas ``[N, D]``, on the CPU."""
        problems = pairs.problems()
        cuts = [problems[i : i + _AT_ONCE] for i in range(0, len(problems), _AT_ONCE)]
        with torch.no_grad():
            return torch.cat([embed(self.draw(cut, canvas)).cpu() for cut in cuts])

    def search(
        self, embed: Embed, pairs: Pairs, canvases: Sequence[int] = (), others: int = 0, margin: float = 0.3
    ) -> RetrievalGallery:
        """All photos and all sketches on every canvas (or on ``canvases``), embedded once."""
        canvases = tuple(canvases or self.canvases)
        query_NKD = torch.stack([self.queries(embed, pairs, canvas) for canvas in canvases], 1)
        return RetrievalGallery(
            canvases, query_NKD, self.gallery(embed, pairs), torch.tensor(list(pairs.truth)), others, margin
        )


@lru_cache(maxsize=1 << 16)
def _strokes(sketch: Sketch, tolerance: float) -> Tensor:
    return torch.from_numpy(sketches.stroke5(sketches.shortened([sketch], tolerance)[0]))


def found(rank_N: Tensor) -> dict[str, float]:
    """acc@1, acc@5 and MRR of ranks."""
    return {
        "acc@1": float(within(rank_N, 1)),
        "acc@5": float(within(rank_N, 5)),
        "MRR": float(mean_reciprocal_rank(rank_N)),
    }


def choosing(rank_NK: Tensor, choice_N: Tensor, canvases: Sequence[int]) -> dict[str, float]:
    """Scores of a choice of canvas for each query beside those of what knows nothing of the query, and the choice's
    histogram.

    "shuffled" deals the same choices out at random: its acc@1 is the mean over all ways to do so, which is that of the
    fixed canvases weighted by the histogram; "random" takes each canvas as often. Neither needs a draw.
    """
    right_K = (rank_NK == 1).double().mean(0)
    share_K = torch.bincount(choice_N, minlength=len(canvases)).double() / len(choice_N)
    scores = found(rank_NK.gather(1, choice_N[:, None])[:, 0])
    scores |= {"acc@1, shuffled choice": float(share_K @ right_K), "acc@1, random canvas": float(right_K.mean())}
    scores["acc@1, if any canvas will do"] = float((rank_NK == 1).any(1).double().mean())
    for canvas, right, share in zip(canvases, right_K.tolist(), share_K.tolist()):
        scores |= {f"acc@1, {canvas} px": right, f"share, {canvas} px": share}
    return scores | {"entropy of choices": float(torch.special.entr(share_K).sum())}
