"""Codes of a picture as decisions: a policy over Janus models, log-prob of a code under the logits that are asked for.

State = prompt and the codes so far, action = the next code, drawn from softmax(guided logits / temperature).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from saccade.core import Likelihood, Problem, Rollout, generator
from saccade.math.flow import guided
from saccade.models.adapters import load_weights, merged, trainable, weights
from saccade.models.device import autocast, device_of
from saccade.models.language.head import token_logprobs
from saccade.models.language.janus import ImageTokenGenerator, generate_codes, load_image_token_generator
from saccade.models.language.messages import Prompt
from saccade.models.language.model import save
from saccade.models.language.prompts import PerRow, beside
from saccade.models.language.states import Rows, states
from saccade.models.sharding import call_gathered, gathered, shard
from saccade.models.vision.encoder import VisionEncoder
from saccade.policies.tokens import distinct


def inputs_as_wish(problem: Problem) -> Prompt:
    """What is to be drawn, as a message of the user's."""
    return [{"role": "user", "content": str(problem.inputs)}]


@dataclass(eq=False)
class ImageTokenPolicy:
    """Draws pictures ``[B, 3, H, W]`` code by code; ``trained`` are the weights that move.

    ``guidance`` is the classifier-free scale on logits (1 = off), ``temperature`` divides the guided logits.
    ``logprob_under`` says whose log-probs are stored and trained: "cond", those of the logits with the prompt alone, as
    public trainers have it (one pass, but not the density that was drawn from), or "guided", those of the logits drawn
    from, with gradients through both halves. Codes are drawn from the guided logits either way; ``extras`` hold the
    mean entropies of both. ``merge`` folds LoRA in while sampling; with ``rescore`` stored log-probs come from
    `likelihood` instead of the sampling loop, so that replay of the same rows is exact to the bit. ``checkpointing``
    computes activations again in the backward pass; prompts are then read once for each row. ``at_once`` bounds the
    pictures that are drawn together (guidance doubles their rows).
    """

    image_generator: ImageTokenGenerator
    trained: list[nn.Parameter]
    prompt: Callable[[Problem], Prompt] = inputs_as_wish
    guidance: float = 5.0
    temperature: float = 1.0
    logprob_under: Literal["cond", "guided"] = "cond"
    precision: torch.dtype = torch.float32
    merge: bool = True
    rescore: bool = False
    checkpointing: bool = False
    at_once: int = 256
    eyes: VisionEncoder = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature {self.temperature} is not above 0")
        if self.logprob_under not in ("cond", "guided"):
            raise ValueError(f"unknown logprob_under '{self.logprob_under}': one of cond, guided")
        if self.at_once < 1:
            raise ValueError(f"at_once {self.at_once} is less than 1")
        self.eyes = VisionEncoder(self.image_generator.network)

    # -- acting ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def rollout(self, problems: Sequence[Problem], seeds_B: Tensor) -> Rollout:
        """One picture for each problem; equal prompts are read once. ValueError if a prompt leaves no room for it."""
        unique, index = distinct([self.prompt(problem) for problem in problems])
        index_B = torch.tensor(index)
        asked = beside(self.image_generator.asked(unique), self.image_generator.pad)
        with self._acting():
            cuts = torch.arange(len(problems)).split(self.at_once)
            parts = [self._draw(asked, index_B[cut], seeds_B[cut]) for cut in cuts]
        codes_BT, logp_BT, entropy_B, guided_entropy_B = (torch.cat(part) for part in zip(*parts))
        rollout = Rollout(
            problems=list(problems),
            decisions=self.trajectory(*(x[index_B] for x in asked), codes_BT),
            outputs=self.image_generator.pictures(codes_BT),
            logp_BT=logp_BT,
            mask_BT=torch.ones_like(logp_BT),
            group_B=torch.arange(len(problems)),
            extras={
                "length_B": torch.full((len(problems),), float(self.image_generator.codes)),
                "entropy_B": entropy_B,
                "guided_entropy_B": guided_entropy_B,
            },
        )
        return replace(rollout, logp_BT=self.likelihood(rollout).logp_BT) if self.rescore else rollout

    def greedy(self) -> ImageTokenPolicy:
        """How the model is used and evaluated: as it is trained, since its likeliest pictures are not its best ones."""
        return self

    def _draw(self, asked: Sequence[Tensor], index_B: Tensor, seeds_B: Tensor) -> tuple[Tensor, ...]:
        """Codes and log-probs ``[B, M]``, mean entropies ``[B]`` with the prompt alone and of what was drawn from."""
        uniform_BM = torch.stack(
            [torch.rand(self.image_generator.codes, generator=generator(s)) for s in seeds_B.tolist()]
        )
        moved = [x.to(self.device) for x in (*asked, index_B, uniform_BM)]
        codes_BM, logp_2BM, entropy_2BM = generate_codes(
            self.image_generator, moved[:3], *moved[3:], self.guidance, self.temperature
        )
        return codes_BM, logp_2BM[int(self.logprob_under == "guided")], *entropy_2BM.mean(-1)

    def trajectory(
        self, ids_BL: Tensor, attention_BL: Tensor, place_BAL: Tensor, codes_BT: Tensor
    ) -> dict[str, Tensor]:
        """Prompts, as `beside` lays them out, and codes as one row of ids each, with where the decisions stand in
        it.
        """
        rows, begin = ids_BL.shape
        step_T = torch.arange(codes_BT.shape[1])
        place_BAT = place_BAL.amax(2, keepdim=True) + 1 + step_T
        found = {
            "ids_BL": torch.cat([ids_BL, codes_BT.cpu() + self.image_generator.model.words], 1),
            "attention_BL": torch.cat([attention_BL, torch.ones_like(codes_BT, device="cpu")], 1),
            "place_BAL": torch.cat([place_BAL, place_BAT], 2),
            "position_BT": (begin + step_T).expand(rows, -1),
            "begin_B": torch.full((rows,), begin),
        }
        return {name: value.to(self.device) for name, value in found.items()}

    def codes(self, rollout: Rollout) -> Tensor:
        """The codes of stored pictures ``[B, T]``."""
        at = rollout.decisions["position_BT"]
        return rollout.decisions["ids_BL"].gather(1, at) - self.image_generator.model.words

    # -- being weighed --------------------------------------------------------------------------------------

    def likelihood(self, rollout: Rollout) -> Likelihood:
        """The stored codes under the present weights, teacher-forced; rows and decisions can be cut freely."""
        shape = rollout.decisions["position_BT"].shape
        with autocast(self.image_generator.network, self.precision):
            logp_N, entropy_N = call_gathered(self.image_generator.network, lambda: self._weigh(rollout.decisions))
        return Likelihood(logp_BT=logp_N.view(shape), entropy_BT=entropy_N.view(shape))

    def _weigh(self, decisions: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Log-probs and entropies of all decisions: two ``[N]``."""
        at_BT, ids_BL = decisions["position_BT"], decisions["ids_BL"]
        row_N = torch.arange(len(at_BT), device=at_BT.device).repeat_interleave(at_BT.shape[1])
        at_N, head = at_BT.flatten(), self.image_generator.model.head
        hidden_ND = self._states(decisions, row_N, at_N)
        if self.logprob_under == "guided" and self.guidance != 1:
            blotted = decisions | {"ids_BL": self.image_generator.unasked(ids_BL)}
            hidden_ND = torch.cat([hidden_ND, self._states(blotted, row_N, at_N)], 1)
            head = lambda both: guided(
                *(self.image_generator.model.head(h).float() for h in both.chunk(2, -1)), self.guidance
            )
        return token_logprobs(head, hidden_ND, ids_BL[row_N, at_N] - self.image_generator.model.words, self.temperature)

    def _states(self, decisions: dict[str, Tensor], row_N: Tensor, at_N: Tensor) -> Tensor:
        blind = {"sights_B": PerRow(((None,),) * len(decisions["ids_BL"]))}
        rows, column_N = Rows.before(self.image_generator, decisions | blind, row_N, at_N)
        with recomputing(self.image_generator.model.get_decoder(), self.checkpointing and torch.is_grad_enabled()):
            hidden_BLD = states(self.image_generator, self.eyes, rows, sharing=not self.checkpointing)
        return hidden_BLD[row_N, column_N - rows.begin]

    @contextlib.contextmanager
    def _acting(self) -> Iterator[None]:
        """No gradients, shards whole, LoRA folded in."""
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
        save(self.image_generator.language, folder)


@contextlib.contextmanager
def recomputing(decoder: nn.Module, wanted: bool) -> Iterator[None]:
    """Within it, the decoder's layers keep no activations for the backward pass, if that is ``wanted``."""
    # transformers asks the layers themselves; what is inside them stays as it is for evaluation, without dropout.
    for layer in decoder.layers:
        layer.training = layer.gradient_checkpointing = wanted
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
    try:
        yield
    finally:
        for layer in decoder.layers:
            layer.training = layer.gradient_checkpointing = False


@dataclass(frozen=True)
class ImageTokenModel:
    """Which model writes pictures, how it is sampled, and which of its weights move."""

    name: str = "janus-shapes"
    """Hub id, folder or miniature of a JanusForConditionalGeneration."""
    guidance: float = 3.0
    """Classifier-free guidance on logits (1 = off)."""
    temperature: float = 1.0
    """Temperature of the guided logits."""
    logprob_under: Literal["cond", "guided"] = "cond"
    """Whose log-probs are trained: of the logits with the prompt alone, or of the guided logits that codes are drawn
    from.
    """
    lora_rank: int = 0
    """Rank of LoRA on the attention projections; 0 trains all that a picture goes through."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the model; logits are float32 always."""
    device: str = "auto"
    """cpu, cuda or auto."""
    checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""
    sharded: bool = False
    """Cut the model over all processes (FSDP2) instead of keeping a copy in each."""
    at_once: int = 256
    """Pictures that are drawn together (guidance doubles their rows)."""


def build_image_token_policy(
    cfg: ImageTokenModel, prompt: Callable[[Problem], Prompt] = inputs_as_wish, seed: int = 0
) -> ImageTokenPolicy:
    """Load the model and open its trained weights. ValueError with one line if it cannot be had."""
    device = device_of(cfg.device)
    precision = getattr(torch, cfg.precision)
    painter = load_image_token_generator(cfg.name, precision if cfg.lora_rank else torch.float32, device)
    trained = trainable(nn.ModuleList(painter.path), cfg.lora_rank, seed=seed)
    return ImageTokenPolicy(
        painter,
        shard(painter.network) if cfg.sharded else trained,
        prompt,
        guidance=cfg.guidance,
        temperature=cfg.temperature,
        logprob_under=cfg.logprob_under,
        precision=precision,
        merge=not cfg.sharded,
        rescore=precision
        != torch.float32,  # sampling and replay round differently there, and ratios would not begin at 1
        checkpointing=cfg.checkpointing,
        at_once=cfg.at_once,
    )
