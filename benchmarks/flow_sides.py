"""The two sides of the comparison, ours and plain, behind the same two verbs: sample and update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from flow_models import SMALL, TINY, Shape
from flow_plain import PlainLoop
from torch import Tensor

from saccade.algorithms.grpo import PolicyGradient, add_reference_logprobs
from saccade.core import Problem, Rollout
from saccade.models.snapshot import Snapshot
from saccade.policies.flow import FlowModel, FlowPolicy, build_flow_policy
from saccade.training.learner import Update, Updates

BETA = 0.04
# Ten times the usual range, so that the comparison of gradients is not decided by which rounding crosses it.
CLIP = 1e-3
LORA = {"lora_rank": 32, "lora_alpha": 64.0}
WORDS = (
    "a red ring",
    "two blue squares",
    "one green star",
    "three small cups",
    "an old lamp",
    "a bird",
    "five pears",
    "a cart",
)


@dataclass(frozen=True)
class Case:
    """A model and how much of what is measured with it."""

    shape: Shape
    prompts: int
    group: int
    updated: int
    """Decisions of each picture that the timed update covers, of the 9 that are stored."""
    plain: dict[str, int]
    """Variants of the plain loop, and their pictures in a micro-batch."""
    micro: tuple[int, int]
    """Rows and decisions in a micro-batch of ours."""
    forward_batch_size: int
    star: str
    """The variant that is recommended for this size."""
    aims: dict[str, float]
    steps: int = 10

    def problems(self) -> list[Problem]:
        return [Problem(i, WORDS[i]) for i in range(self.prompts) for _ in range(self.group)]


FOLDED, REUSED = {"lora_folded": True}, {"lora_folded": True, "reuse_uncond": True}
HALF = {"precision": "bfloat16"}
VARIANTS = {
    "float32": {}, "float32 folded": FOLDED, "float32 folded reused": REUSED,
    "bfloat16 folded": HALF | FOLDED, "bfloat16 folded reused": HALF | REUSED,
}  # fmt: skip
CASES = {
    "tiny": Case(
        TINY, prompts=8, group=8, updated=3, plain={"plain": 8, "plain, 64 at once": 64}, micro=(64, 3),
        forward_batch_size=128, star="float32 folded reused",
        aims={"sampling": 1.5, "update with KL": 2.0, "update": 2.0},
    ),
    "small": Case(
        SMALL, prompts=1, group=2, updated=2, plain={"plain": 2}, micro=(2, 2), forward_batch_size=8,
        star="bfloat16 folded reused", aims={"update with KL": 1.9, "update": 2.8},
    ),
}  # fmt: skip


class Ours:
    """The library's own path: a policy, its reference, a learner."""

    def __init__(self, case: Case, folder: Path, **options: Any):
        fixed = {
            "guidance": 4.5,
            "text_length": case.shape.zeros,
            "device": "cpu",
            "forward_batch_size": case.forward_batch_size,
        }
        model = FlowModel(str(folder), case.shape.size, case.steps, **fixed | LORA | options)
        self.case, self.policy = case, build_flow_policy(model, range(case.steps - 1))
        self.reference = Snapshot(self.policy.trained)
        away_from_start(self.policy)
        self.optimizer = torch.optim.SGD(self.policy.trained, lr=0.0)  # the same weights in every repetition

    def sample(self, problems: list[Problem], seeds_B: Tensor) -> Rollout:
        texts = self.policy.prompt_cache.texts  # the prompts of a batch are new to it
        texts.rows.clear()
        texts.used = 0
        return self.policy.rollout(problems, seeds_B)

    def update(self, rollout: Rollout, beta: float) -> dict[str, float]:
        if beta:
            add_reference_logprobs(self.policy, self.reference, rollout, self.case.micro[0])
        loss = PolicyGradient(self.policy, CLIP, beta=beta, kl="drift")
        rows, decisions = self.case.micro
        update = Update("flow", loss, self.policy.trained, self.optimizer)
        return Updates([update], micro_rows=rows, micro_decisions=decisions).update(rollout)


class Plain:
    """The usual loop on a policy of its own, behind the same two verbs."""

    def __init__(self, case: Case, folder: Path, images: int):
        from diffusers.models.attention_processor import JointAttnProcessor2_0

        self.policy = Ours(case, folder).policy
        self.policy.backbone.transformer.set_attn_processor(JointAttnProcessor2_0())
        self.loop = PlainLoop(self.policy, images)
        self.optimizer = torch.optim.SGD(self.policy.trained, lr=0.0)

    def sample(self, problems: list[Problem], seeds_B: Tensor) -> list:
        return self.loop.sample([p.inputs for p in problems], seeds_B)

    def update(self, drawn: list, advantage_B: Tensor, beta: float) -> None:
        self.loop.update(drawn, advantage_B, CLIP, beta, self.optimizer)


def away_from_start(policy: FlowPolicy) -> None:
    """LoRA is the identity at first; here it must do something."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in policy.trained:
            p.add_(0.02 * torch.randn(p.shape, generator=generator))


def gradient_of(side: Any, step: Callable[[], object]) -> Tensor:
    """The gradient that the optimiser is given in ``step``; weights that nothing depends on have none."""
    seen: list[Tensor] = []
    trained = side.policy.trained
    read = lambda *_: seen.append(
        torch.cat([(p.grad if p.grad is not None else 0 * p.detach()).flatten() for p in trained])
    )
    hook = side.optimizer.register_step_pre_hook(read)
    step()
    hook.remove()
    return seen[0]
