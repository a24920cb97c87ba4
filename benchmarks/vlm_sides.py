"""The two sides of the comparison, ours and TRL's trainer, behind the same verbs: sample, update, step."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from vlm_models import problems

from saccade.algorithms.grpo import PolicyGradient
from saccade.core import Rollout
from saccade.math.advantages import group_advantage
from saccade.models.language.messages import to_pil
from saccade.models.language.model import load_language_model
from saccade.policies.token_presets import TokenModel
from saccade.policies.tokens import TokenPolicy, build_token_policy
from saccade.random import seeds
from saccade.training.groups import sample_groups
from saccade.training.learner import Update, Updates

GROUP, MOST, CLIP = 8, 64, 0.2
ROWS = len(problems()) * GROUP
Gradient = dict[str, Tensor]


def scored(texts: list[str]) -> list[float]:
    """The reward of both sides: cheap, and different for different texts."""
    return [float(len(set(text))) for text in texts]


class Ours:
    """The library's own path: a policy, groups, a learner, as in the recipe `grpo`."""

    def __init__(self, folder: Path, *, eyes: bool):
        chosen = TokenModel(str(folder), max_new_tokens=MOST, device="cpu", train_vision=eyes)
        self.policy: TokenPolicy = build_token_policy(chosen)
        self.optimizer = still(self.policy.trained)
        loss = PolicyGradient(self.policy, CLIP, average="decisions")
        self.updates = Updates([Update("words", loss, self.policy.trained, self.optimizer)])

    def sample(self) -> Rollout:
        """Answers with their log-probs."""
        made = problems()
        return sample_groups(self.policy.rollout, made, seeds(3, len(made), "test"), GROUP)

    def update(self, rollout: Rollout) -> None:
        self.updates.update(rollout)

    def step(self) -> None:
        rollout = self.sample()
        reward_B = torch.tensor(scored(rollout.outputs))
        rollout.advantage_BT = rollout.broadcast(group_advantage(reward_B, rollout.group_B, unbiased=True))
        self.update(rollout)

    def gradient(self, rollout: Rollout) -> Gradient:
        return gradient_of(self.optimizer, self.policy.language.model, lambda: self.update(rollout))


class Trl:
    """TRL's trainer on the same folder; its methods are called one by one, as its own loop calls them."""

    def __init__(self, folder: Path, *, eyes: bool, checkpointing: bool = False, **options: Any):
        from datasets import Dataset
        from trl import GRPOConfig, GRPOTrainer

        logging.getLogger("transformers").setLevel(logging.ERROR)
        language = load_language_model(folder)
        language.processor.tokenizer.padding_side = "left"  # as its manual asks
        language.model.requires_grad_(True)
        language.model.model.visual.requires_grad_(eyes)
        trained = [p for p in language.model.parameters() if p.requires_grad]
        cfg = GRPOConfig(
            str(folder / "trl"),
            per_device_train_batch_size=ROWS,
            num_generations=GROUP,
            max_completion_length=MOST,
            epsilon=CLIP,
            bf16=False,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            gradient_checkpointing=checkpointing,
            generation_kwargs={"suppress_tokens": [*language.banned_ids, *language.eos_ids]},
            **options,
        )
        asked = [[{"role": "user", "content": p.inputs.text}] for p in problems()]
        shown = [to_pil(p.inputs.pictures[0]) for p in problems()]
        self.rows = [{"prompt": q, "image": picture} for q, picture in zip(asked, shown) for _ in range(GROUP)]
        reward = lambda completions, **_: scored([said[0]["content"] for said in completions])
        reward.__name__ = "letters"
        self.optimizer = still(trained)
        self.trainer = GRPOTrainer(
            language.model, reward, cfg, Dataset.from_dict({"prompt": asked}),
            processing_class=language.processor, optimizers=(self.optimizer, None),
        )  # fmt: skip
        self.trainer.current_gradient_accumulation_steps = 1  # its loop says so before every step
        self.model = self.trainer.model.train()
        if checkpointing:
            self.model.gradient_checkpointing_enable()  # and this before the first

    def generate(self) -> Any:
        """Answers alone, from messages to texts."""
        from trl.data_utils import prepare_multimodal_messages

        return self.trainer._generate(
            [prepare_multimodal_messages(row["prompt"], images=[row["image"]]) for row in self.rows]
        )

    def sample(self) -> dict[str, Any]:
        """What its update needs: answers, inputs prepared once more, rewards, advantages, and log-probs if it makes
        any.
        """
        return self.trainer._generate_and_score_completions(self.rows)

    def update(self, batch: dict[str, Any]) -> None:
        trainer = self.trainer
        trainer.accelerator.backward(trainer.compute_loss(self.model, batch))
        trainer.accelerator.clip_grad_norm_(self.model.parameters(), trainer.args.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def step(self) -> None:
        self.update(self.sample())

    def weigh(self, batch: dict[str, Any]) -> Tensor:
        """Log-probs of the stored answers ``[B, T]``."""
        ids, mask = (torch.cat([batch[f"prompt_{k}"], batch[f"completion_{k}"]], 1) for k in ("ids", "mask"))
        pictures = {k: batch[k] for k in ("pixel_values", "image_grid_thw", "mm_token_type_ids", "num_images")}
        with torch.no_grad():
            return self.trainer._get_per_token_logps_and_entropies(self.model, ids, mask, MOST, **pictures)[0]

    def gradient(self, batch: dict[str, Any]) -> Gradient:
        return gradient_of(self.optimizer, self.model, lambda: self.update(batch))


SIDES: dict[str, Callable[[Path], Ours | Trl]] = {
    "saccade": partial(Ours, eyes=True),
    "trl": partial(Trl, eyes=True),
    "trl, checkpointing": partial(Trl, eyes=True, checkpointing=True),
    "trl, log-probs too": partial(Trl, eyes=True, num_iterations=2),
    "saccade, frozen eyes": partial(Ours, eyes=False),
    "trl, frozen eyes": partial(Trl, eyes=False),
}


def still(trained: list[Any]) -> torch.optim.Optimizer:
    """The optimiser of both sides; with its learning rate all repetitions have the same weights."""
    return torch.optim.AdamW(trained, lr=0.0, weight_decay=0.0, fused=True)


def gradient_of(optimizer: torch.optim.Optimizer, model: Any, step: Callable[[], None]) -> Gradient:
    """What the optimiser is given in ``step``, by the name of the weight."""
    seen: Gradient = {}
    read = lambda *_: seen.update({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    hook = optimizer.register_step_pre_hook(read)
    step()
    hook.remove()
    return seen
