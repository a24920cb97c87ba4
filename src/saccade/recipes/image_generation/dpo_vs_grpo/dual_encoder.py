"""A small reward model to train on the spot: a tower for pictures and one for captions, reward = cosine of their two
vectors.

Taught as CLIP 2103.00020 is: of all captions of a batch a picture must find its own, and a caption its picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.core import Rollout

Batches = Callable[[int], tuple[Tensor, Sequence[str], Tensor]]
"""The step -> pictures ``[B, 3, H, W]``, their captions, and the meaning of each as a number ``[B]``."""


class DualEncoder(nn.Module):
    """Pictures of ``size`` px (in whole patches of 4) and captions made of ``words``, seen as vectors of length 1."""

    def __init__(self, size: int, words: Sequence[str], width: int = 96):
        super().__init__()
        self.number = {word: i for i, word in enumerate(words, 1)}
        edge = size // 8
        self.picture = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=4), nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1), nn.GELU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1), nn.GELU(),
            nn.Flatten(), nn.Linear(edge * edge * width, width),
        )  # fmt: skip
        self.word = nn.Embedding(len(words) + 1, width)
        self.reader = nn.GRU(width, width, batch_first=True)
        self.caption = nn.Linear(width, width)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, pictures: Tensor, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Vectors of pictures and of captions: two ``[B, D]``. A word that is not known is read as a blank."""
        ids = [torch.tensor([self.number.get(word, 0) for word in text.split()] or [0]) for text in captions]
        packed = nn.utils.rnn.pack_sequence([self.word(i.to(pictures.device)) for i in ids], enforce_sorted=False)
        last_BD = self.reader(packed)[1][0]
        return F.normalize(self.picture(2 * pictures - 1), dim=-1), F.normalize(self.caption(last_BD), dim=-1)


def fit(towers: DualEncoder, lessons: Batches, steps: int, lr: float = 2e-3) -> float:
    """Train for so many batches; the share of pictures that find their caption, as a running mean."""
    optimizer = torch.optim.AdamW(towers.parameters(), lr=lr, weight_decay=0.01)
    found = 0.0
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * min((step + 1) / 20, 1.0) * (1 - step / steps)
        pictures, captions, meaning_B = lessons(step)
        seen, said = towers(pictures, captions)
        logits_BB = towers.scale.exp() * seen @ said.T
        own_B = torch.arange(len(seen))
        # Two captions that mean the same are no wrong answer to each other's picture.
        twin_BB = (meaning_B[:, None] == meaning_B) & (own_B[:, None] != own_B)
        logits_BB = logits_BB.masked_fill(twin_BB, -torch.inf)
        loss = F.cross_entropy(logits_BB, own_B) + F.cross_entropy(logits_BB.T, own_B)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(towers.parameters(), 1.0)
        optimizer.step()
        found += (0.05 if step else 1.0) * (float((logits_BB.argmax(1) == own_B).float().mean()) - found)
    towers.eval().requires_grad_(False)
    return found


@dataclass(frozen=True)
class DualEncoderReward:
    """How well a picture fits its prompt, in [-1, 1] ``[B]``, in the eyes of ``towers``."""

    towers: DualEncoder
    rows: int = 256

    @torch.no_grad()
    def __call__(self, rollout: Rollout) -> Tensor:
        captions = [str(problem.inputs) for problem in rollout.problems]
        parts = torch.arange(len(rollout)).split(self.rows)
        pairs = [self.towers(rollout.outputs[part], [captions[i] for i in part.tolist()]) for part in parts]
        return torch.cat([(seen * said).sum(1) for seen, said in pairs])
