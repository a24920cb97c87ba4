"""Image tokens as decisions: a policy over Janus models.

State = prompt and the codes so far, action = the next code, sampled from softmax(guided logits / temperature).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from saccade.config import Count, Signed
from saccade.core import Likelihood, Problem, Rollout
from saccade.math.flow import guided
from saccade.models.adapters import load_weights, merged, trainable, weights
from saccade.models.checkpointing import checkpointed
from saccade.models.device import autocast, device_of
from saccade.models.language.head import token_logprobs
from saccade.models.language.hidden_states import TokenRows, hidden_states
from saccade.models.language.janus import ImageTokenGenerator, generate_codes, load_image_token_generator
from saccade.models.language.messages import Prompt
from saccade.models.language.model import save_language_model, save_lora
from saccade.models.language.prompts import PerRow, pad_left
from saccade.models.sharding import call_gathered, gathered, shard
from saccade.models.vision.encoder import VisionEncoder
from saccade.policies.tokens import unique_prompts
from saccade.random import generator, stream


def inputs_as_message(problem: Problem) -> Prompt:
    """The description of a picture as a user message."""
    return [{"role": "user", "content": str(problem.inputs)}]


@dataclass(eq=False)
class ImageTokenPolicy:
    """Generates pictures ``[B, 3, H, W]`` code by code; ``trained`` are the weights that are trained.

    ``guidance`` is the classifier-free scale on logits (1 = off), ``temperature`` divides the guided logits.
    ``logprob_under`` says which log-probs are stored and trained: "cond", those of the logits with the prompt alone, as
    in public trainers (one pass, but not the density that codes are sampled from), or "guided", those of the guided
    logits, with gradients through both passes. Codes are sampled from the guided logits either way; ``extras`` hold the
    mean entropies of both. ``merge`` folds LoRA in while sampling; with ``rescore`` stored log-probs come from
    `likelihood` instead of the sampling loop, so that replay of the same rows is exact to the bit. ``checkpointing``
    computes activations again in the backward pass; prompts are then read once for each row. At most ``max_batch``
    pictures are generated together (guidance doubles their rows).
    """

    image_generator: ImageTokenGenerator
    trained: list[nn.Parameter]
    prompt: Callable[[Problem], Prompt] = inputs_as_message
    guidance: float = 5.0
    temperature: float = 1.0
    logprob_under: Literal["cond", "guided"] = "cond"
    precision: torch.dtype = torch.float32
    merge: bool = True
    rescore: bool = False
    checkpointing: bool = False
    max_batch: Count = 256
    vision: VisionEncoder = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature {self.temperature} is not above 0")
        if self.logprob_under not in ("cond", "guided"):
            raise ValueError(f"unknown logprob_under '{self.logprob_under}': one of cond, guided")
        if self.max_batch < 1:
            raise ValueError(f"max_batch {self.max_batch} is less than 1")
        self.vision = VisionEncoder(self.image_generator.network)

    # -- sampling -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def rollout(self, problems: Sequence[Problem], seeds_B: Tensor) -> Rollout:
        """One picture for each problem; equal prompts are read once. ValueError if a prompt leaves no room for it."""
        unique, index = unique_prompts([self.prompt(problem) for problem in problems])
        index_B = torch.tensor(index)
        ids_PL, attention_PL, position_PAL = prompts = pad_left(
            self.image_generator.encode_prompts(unique), self.image_generator.pad_id
        )
        with self._generating():
            batches = torch.arange(len(problems)).split(self.max_batch)
            parts = [self._generate(prompts, index_B[batch], seeds_B[batch]) for batch in batches]
        codes_BT, logp_BT, entropy_B, guided_entropy_B = (torch.cat(part) for part in zip(*parts))
        rollout = Rollout(
            problems=list(problems),
            decisions=self.trajectory(ids_PL[index_B], attention_PL[index_B], position_PAL[index_B], codes_BT),
            outputs=self.image_generator.decode_pictures(codes_BT),
            logp_BT=logp_BT,
            mask_BT=torch.ones_like(logp_BT),
            group_B=torch.arange(len(problems)),
            extras={
                "length_B": torch.full((len(problems),), float(self.image_generator.codes_per_picture)),
                "entropy_B": entropy_B,
                "guided_entropy_B": guided_entropy_B,
            },
        )
        return replace(rollout, logp_BT=self.likelihood(rollout).logp_BT) if self.rescore else rollout

    def greedy(self) -> ImageTokenPolicy:
        """The policy that is evaluated: the same, since the most likely pictures are not the best ones."""
        return self

    def _generate(self, prompts: Sequence[Tensor], index_B: Tensor, seeds_B: Tensor) -> tuple[Tensor, ...]:
        """Codes and log-probs ``[B, M]``, mean entropies ``[B]`` with the prompt alone and under guidance."""
        count = self.image_generator.codes_per_picture
        uniform_BM = torch.stack([torch.rand(count, generator=generator(s, "codes")) for s in seeds_B.tolist()])
        codes_BM, logp_2BM, entropy_2BM = generate_codes(
            self.image_generator,
            [x.to(self.device) for x in prompts],
            index_B.to(self.device),
            uniform_BM.to(self.device),
            self.guidance,
            self.temperature,
        )
        return codes_BM, logp_2BM[int(self.logprob_under == "guided")], *entropy_2BM.mean(-1)

    def trajectory(
        self, ids_BL: Tensor, attention_BL: Tensor, position_BAL: Tensor, codes_BT: Tensor
    ) -> dict[str, Tensor]:
        """Prompts, as `pad_left` pads them, and codes as one row of ids each, with the columns of the decisions."""
        rows, begin = ids_BL.shape
        step_T = torch.arange(codes_BT.shape[1])
        position_BAT = position_BAL.amax(2, keepdim=True) + 1 + step_T
        decisions = {
            "ids_BL": torch.cat([ids_BL, codes_BT.cpu() + self.image_generator.model.text_vocab_size], 1),
            "attention_BL": torch.cat([attention_BL, torch.ones_like(codes_BT, device="cpu")], 1),
            "position_BAL": torch.cat([position_BAL, position_BAT], 2),
            "column_BT": (begin + step_T).expand(rows, -1),
            "begin_B": torch.full((rows,), begin),
        }
        return {name: value.to(self.device) for name, value in decisions.items()}

    def codes(self, rollout: Rollout) -> Tensor:
        """The codes of stored pictures ``[B, T]``."""
        column_BT = rollout.decisions["column_BT"]
        return rollout.decisions["ids_BL"].gather(1, column_BT) - self.image_generator.model.text_vocab_size

    # -- likelihood -----------------------------------------------------------------------------------------

    def likelihood(self, rollout: Rollout) -> Likelihood:
        """The stored codes under the current weights, teacher-forced; rows and decisions can be cut freely."""
        shape = rollout.decisions["column_BT"].shape
        with autocast(self.image_generator.network, self.precision):
            logp_N, entropy_N = call_gathered(self.image_generator.network, lambda: self._score(rollout.decisions))
        return Likelihood(logp_BT=logp_N.view(shape), entropy_BT=entropy_N.view(shape))

    def _score(self, decisions: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Log-probs and entropies of all decisions: two ``[N]``."""
        column_BT, ids_BL = decisions["column_BT"], decisions["ids_BL"]
        row_N = torch.arange(len(column_BT), device=column_BT.device).repeat_interleave(column_BT.shape[1])
        column_N, head = column_BT.flatten(), self.image_generator.model.head
        hidden_ND = self._hidden_states(decisions, row_N, column_N)
        if self.logprob_under == "guided" and self.guidance != 1:
            uncond = decisions | {"ids_BL": self.image_generator.unconditional(ids_BL)}
            hidden_ND = torch.cat([hidden_ND, self._hidden_states(uncond, row_N, column_N)], 1)
            head = self._guided_head
        code_N = ids_BL[row_N, column_N] - self.image_generator.model.text_vocab_size
        return token_logprobs(head, hidden_ND, code_N, self.temperature)

    def _guided_head(self, both_NE: Tensor) -> Tensor:
        """Guided logits ``[N, V]`` of hidden states with and without the prompt, side by side ``[N, 2 D]``."""
        cond_ND, uncond_ND = both_NE.chunk(2, -1)
        head = self.image_generator.model.head
        return guided(head(cond_ND).float(), head(uncond_ND).float(), self.guidance)

    def _hidden_states(self, decisions: dict[str, Tensor], row_N: Tensor, column_N: Tensor) -> Tensor:
        no_images = {"images_B": PerRow(((None,),) * len(decisions["ids_BL"]))}
        rows, column_N = TokenRows.for_decisions(self.image_generator, decisions | no_images, row_N, column_N)
        recompute = self.checkpointing and torch.is_grad_enabled()
        with activation_checkpointing(self.image_generator.model.get_decoder(), recompute):
            hidden_BLD = hidden_states(self.image_generator, self.vision, rows, sharing=not self.checkpointing)
        return hidden_BLD[row_N, column_N - rows.begin]

    @contextlib.contextmanager
    def _generating(self) -> Iterator[None]:
        """The state of the model during generation: no gradients, shards gathered, LoRA folded in."""
        network = self.image_generator.network
        with (
            torch.no_grad(),
            gathered(network),
            merged(network) if self.merge else contextlib.nullcontext(),
            autocast(network, self.precision),
        ):
            yield

    # -- weights --------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return self.image_generator.network.device

    def parameters(self) -> list[nn.Parameter]:
        return self.trained

    def state_dict(self) -> dict[str, Tensor]:
        return weights(self.trained)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        load_weights(self.trained, state)

    def export(self, folder: str | Path) -> None:
        """Write model (LoRA folded in), tokenizer and processor as a plain transformers folder."""
        save_language_model(self.image_generator.language, folder)

    def export_lora(self, folder: str | Path) -> str:
        """Write LoRA alone, as peft reads it; the base's name. ValueError where all weights were trained."""
        return save_lora(self.image_generator.language, folder)


@contextlib.contextmanager
def activation_checkpointing(decoder: Any, enabled: bool) -> Iterator[None]:
    """Within it, if ``enabled``, the decoder's layers compute activations again in the backward pass."""
    # transformers reads these flags of the layers; the modules inside stay in evaluation mode, without dropout.
    for layer in decoder.layers:
        layer.training = layer.gradient_checkpointing = enabled
        layer._gradient_checkpointing_func = partial(checkpointed, layer)
    try:
        yield
    finally:
        for layer in decoder.layers:
            layer.training = layer.gradient_checkpointing = False


@dataclass(frozen=True)
class ImageTokenModel:
    """Which model of image tokens is trained, and how it is sampled."""

    name: str = "janus-shapes"
    """Hub id, folder or miniature of a JanusForConditionalGeneration."""
    guidance: Signed = 3.0
    """Scale of classifier-free guidance on logits; 1 is off."""
    temperature: float = 1.0
    """Temperature of the guided logits in sampling."""
    logprob_under: Literal["cond", "guided"] = "cond"
    """Log-probs that are trained: with the prompt alone, or under guidance, which is what codes are sampled from."""
    lora_rank: int = 0
    """Rank of LoRA on the attention projections; 0 trains all weights that generate codes."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Floating-point precision of the model; logits are float32 always."""
    device: str = "auto"
    """Device of the model: cpu, cuda or auto."""
    checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""
    sharded: bool = False
    """Shard the model over all processes (FSDP2) instead of keeping a copy in each."""
    max_batch: Count = 256
    """Largest number of pictures that are generated together; guidance doubles their rows."""


def build_image_token_policy(
    cfg: ImageTokenModel, prompt: Callable[[Problem], Prompt] = inputs_as_message, seed: int = 0
) -> ImageTokenPolicy:
    """Load the model and make its trained weights trainable. ValueError with one line if it cannot be loaded."""
    device = device_of(cfg.device)
    precision = getattr(torch, cfg.precision)
    image_generator = load_image_token_generator(cfg.name, precision if cfg.lora_rank else torch.float32, device)
    trained = trainable(
        nn.ModuleList(image_generator.generation_modules), cfg.lora_rank, seed=stream(seed, "image tokens")
    )
    return ImageTokenPolicy(
        image_generator,
        shard(image_generator.network) if cfg.sharded else trained,
        prompt,
        guidance=cfg.guidance,
        temperature=cfg.temperature,
        logprob_under=cfg.logprob_under,
        precision=precision,
        merge=not cfg.sharded,
        # Below float32 sampling and replay round differently, and ratios would not begin at 1.
        rescore=precision != torch.float32,
        checkpointing=cfg.checkpointing,
        max_batch=cfg.max_batch,
    )
