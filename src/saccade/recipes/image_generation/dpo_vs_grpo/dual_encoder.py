"""A small dual-encoder reward model that is trained on the spot: the reward is the cosine of picture and caption.

Training is contrastive, as in CLIP (arXiv 2103.00020): every picture of a batch is matched with its caption among all
captions of the batch, and every caption with its picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.config import Count
from saccade.core import Rollout
from saccade.training.learner import warmup
from saccade.training.settings import AdamW, StageSteps

ContrastiveBatches = Callable[[int], tuple[Tensor, Sequence[str], Tensor]]
"""The step -> pictures ``[B, 3, H, W]``, their captions, and the meaning of each as a number ``[B]``."""


@dataclass(frozen=True)
class DualEncoderModel:
    """Size and training of the dual-encoder reward model."""

    width: Count = 96
    """Dimensions of the embeddings and channels of the hidden layers."""
    pictures: Count = 4096
    """Number of rendered scenes in the training set of the reward model."""
    steps: StageSteps = 300
    """Training steps of the reward model."""
    batch: Count = 128
    """Pairs of picture and caption in a batch of the reward model."""
    optim: AdamW = AdamW(lr=2e-3, weight_decay=0.01, warmup=20)

    def train(self, model: DualEncoder, batches: ContrastiveBatches) -> float:
        """Train a model, which is then frozen; the learning rate falls linearly to 0.

        Returns the running mean of the fraction of pictures that are matched with their captions.
        """
        optimizer = self.optim.optimizer(list(model.parameters()))
        accuracy, rise = 0.0, warmup(self.optim.warmup)
        for step in range(self.steps):
            optimizer.param_groups[0]["lr"] = self.optim.lr * rise(step) * (1 - step / self.steps)
            logits_BB, target_B = contrastive_logits(model, *batches(step))
            loss = F.cross_entropy(logits_BB, target_B) + F.cross_entropy(logits_BB.T, target_B)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), self.optim.max_grad_norm)
            optimizer.step()
            correct = float((logits_BB.argmax(1) == target_B).float().mean())
            accuracy += (0.05 if step else 1.0) * (correct - accuracy)
        model.eval().requires_grad_(False)
        return accuracy


class DualEncoder(nn.Module):
    """Embeds pictures of ``size`` x ``size`` pixels and captions made of ``words`` as unit vectors."""

    def __init__(self, size: int, words: Sequence[str], width: int = 96):
        super().__init__()
        self.number = {word: i for i, word in enumerate(words, 1)}
        edge = size // 8
        self.picture = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=4),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(edge * edge * width, width),
        )
        self.word = nn.Embedding(len(words) + 1, width)
        self.reader = nn.GRU(width, width, batch_first=True)
        self.caption = nn.Linear(width, width)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, pictures: Tensor, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Embeddings of pictures and of captions: two ``[B, D]``. Unknown words share one embedding."""
        ids = [torch.tensor([self.number.get(word, 0) for word in text.split()] or [0]) for text in captions]
        packed = nn.utils.rnn.pack_sequence([self.word(i.to(pictures.device)) for i in ids], enforce_sorted=False)
        last_BD = self.reader(packed)[1][0]
        return F.normalize(self.picture(2 * pictures - 1), dim=-1), F.normalize(self.caption(last_BD), dim=-1)


def contrastive_logits(
    model: DualEncoder, pictures: Tensor, captions: Sequence[str], meaning_B: Tensor
) -> tuple[Tensor, Tensor]:
    """Scaled similarity of every picture with every caption ``[B, B]``, and the caption of each picture ``[B]``."""
    picture_BD, caption_BD = model(pictures, captions)
    logits_BB = model.scale.exp() * picture_BD @ caption_BD.T
    target_B = torch.arange(len(picture_BD))
    # Two captions with the same meaning are not negatives of each other's picture.
    same_BB = (meaning_B[:, None] == meaning_B) & (target_B[:, None] != target_B)
    return logits_BB.masked_fill(same_BB, -torch.inf), target_B


@dataclass(frozen=True)
class DualEncoderReward:
    """Cosine similarity of each picture and its prompt, in [-1, 1] ``[B]``; ``rows`` go through the model at once."""

    model: DualEncoder
    rows: int = 256

    @torch.no_grad()
    def __call__(self, rollout: Rollout) -> Tensor:
        captions = [str(problem.inputs) for problem in rollout.problems]
        parts = torch.arange(len(rollout)).split(self.rows)
        pairs = [self.model(rollout.outputs[part], [captions[i] for i in part.tolist()]) for part in parts]
        return torch.cat([(picture_BD * caption_BD).sum(1) for picture_BD, caption_BD in pairs])
