"""Tokens as decisions: a policy over any causal or vision-language model.

State = prompt, pictures and the tokens so far, action = the next token, log pi = log softmax(logits /
temperature)[token].
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saccade.core import BadProblem, Likelihood, Problem, Question, Rollout
from saccade.models.adapters import load_weights, merged, trainable, weights
from saccade.models.device import autocast, device_of
from saccade.models.language.generation import BadPrompt, GenerationState, SamplingParams
from saccade.models.language.head import token_logprobs
from saccade.models.language.hidden_states import TokenRows, hidden_states
from saccade.models.language.messages import Prompt
from saccade.models.language.model import LanguageModel, load_language_model, save_language_model, save_lora
from saccade.models.language.prompts import DigestCache, PerRow, content_key
from saccade.models.sharding import call_gathered, gathered, shard
from saccade.models.vision.encoder import VisionEncoder
from saccade.policies.token_presets import TokenModel
from saccade.random import stream


def inputs_as_prompt(problem: Problem) -> Prompt:
    """The pictures and the text of a question as one user message; any other input as plain text."""
    if not isinstance(problem.inputs, Question):
        return str(problem.inputs)
    pictures = [{"type": "image", "image": picture} for picture in problem.inputs.pictures]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": problem.inputs.text}]}]


@dataclass(eq=False)
class TokenPolicy:
    """Generates a text for each prompt; ``trained`` are the weights that are trained.

    ``prompt`` gives plain text, or chat messages, with or without pictures, for the model's template and processor.
    ``temperature`` 0 is greedy (log-probs are then those at temperature 1). With ``top_p`` < 1 tokens are sampled from
    the truncated distribution, but log-probs stay those of the full one: the truncation is not part of the density.
    Tokens that stand for pictures have probability 0, in sampling and in replay. A row ends with an end token or when
    its text contains one of ``stop``; both are decisions of the row. ``merge`` folds LoRA in while sampling; with
    ``rescore`` the stored log-probs come from `likelihood` instead of the sampling loop, so that replay of the same
    rows is exact to the bit. Rows that share a prompt should stay together in micro-batches: they read it once, in the
    update too.
    """

    language: LanguageModel
    trained: list[nn.Parameter]
    prompt: Callable[[Problem], Prompt] = inputs_as_prompt
    max_new_tokens: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    precision: torch.dtype = torch.float32
    merge: bool = True
    rescore: bool = False
    vision_encoder: VisionEncoder | None = field(default=None, repr=False)
    """Keeps features of pictures; one of another model or other trained weights is replaced."""

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature {self.temperature} is negative; 0 is greedy")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p} is outside (0, 1]; 1 samples from all tokens")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens {self.max_new_tokens} is less than 1")
        if "" in self.stop:
            raise ValueError("an empty stop string would end every text at once")
        known = self.vision_encoder
        if known is None or not known.serves(self.language.model, self.trained):
            self.vision_encoder = VisionEncoder(self.language.model, self.trained)

    @property
    def vision(self) -> VisionEncoder:
        """The encoder of pictures, which a copy of the policy shares."""
        assert self.vision_encoder is not None
        return self.vision_encoder

    # -- sampling -------------------------------------------------------------------------------------------

    def rollout(self, problems: Sequence[Problem], seeds_B: Tensor) -> Rollout:
        """One text for each problem; equal prompts are read once. ValueError if a prompt leaves no room to generate."""
        with self.generating():
            state = self.start_generation(problems, seeds_B)
            texts = state.generate_turn()
        return self.finish_rollout(state, problems, [texts[row] for row in range(len(problems))])

    def greedy(self) -> TokenPolicy:
        """The same weights with greedy decoding."""
        return replace(self, temperature=0.0)

    @contextlib.contextmanager
    def generating(self) -> Iterator[None]:
        """The state of the model during generation: no gradients, shards gathered, LoRA folded in."""
        model = self.language.model
        with (
            torch.no_grad(),
            gathered(model),
            merged(model) if self.merge else contextlib.nullcontext(),
            autocast(model, self.precision),
        ):
            yield

    def start_generation(self, problems: Sequence[Problem], seeds_B: Tensor) -> GenerationState:
        """Rows with prefilled prompts, ready to generate, to be used inside `generating`. BadProblem if it has one."""
        unique, index = unique_prompts(self.prompts(problems).values)
        sampling = SamplingParams(self.max_new_tokens, self.temperature, self.top_p, self._is_finished)
        try:
            return GenerationState(self.language, self.vision, unique, torch.tensor(index), seeds_B, sampling)
        except BadPrompt as error:
            ids = [problem.id for problem, number in zip(problems, index) if number in error.numbers]
            raise BadProblem(str(error), ids) from error

    def finish_rollout(self, state: GenerationState, problems: Sequence[Problem], texts: Sequence[str]) -> Rollout:
        """Generated rows as a rollout.

        ``extras``: the turn of each decision (-1 for none), the prompts, and the frames of pictures as resized.
        """
        device = self.language.model.device
        decisions = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in state.decisions().items()}
        turns = [sequence.turns() for sequence in state.sequences]
        turn_BT = nn.utils.rnn.pad_sequence(turns, True, -1).to(device)
        rollout = Rollout(
            problems=list(problems),
            decisions=decisions,
            outputs=list(texts),
            logp_BT=state.logp().to(device),
            mask_BT=(turn_BT >= 0).float(),
            group_B=torch.arange(len(problems)),
            extras={
                "length_B": (turn_BT >= 0).sum(1).float(),
                "turn_BT": turn_BT,
                "frames_B": PerRow(tuple(tuple(sequence.frames) for sequence in state.sequences)),
                "prompt_B": self.prompts(problems),
            },
        )
        if not self.rescore:
            return rollout
        with torch.no_grad():
            return replace(rollout, logp_BT=self.likelihood(rollout).logp_BT)

    def prompts(self, problems: Sequence[Problem]) -> PerRow:
        """The prompt of each problem."""
        prompts = {key: self.prompt(problem) for key, problem in {id(p): p for p in problems}.items()}
        return PerRow(tuple(prompts[id(p)] for p in problems))

    def _is_finished(self, tokens: Tensor) -> Tensor:
        """Which rows ``[rows, t]`` are complete with their last token ``[rows]``."""
        eos_ids = torch.tensor(self.language.eos_ids, device=tokens.device)
        finished = (tokens[:, -1:] == eos_ids).any(1)
        if self.stop:
            # A token is a byte or more, so the last tokens hold every stop string that the newest one completes.
            tail = tokens[:, -1 - max(len(s.encode()) for s in self.stop) :]
            texts = self.language.tokenizer.batch_decode(tail)
            finished |= torch.tensor([any(s in text for s in self.stop) for text in texts], device=tokens.device)
        return finished

    # -- likelihood -----------------------------------------------------------------------------------------

    def likelihood(self, rollout: Rollout) -> Likelihood:
        """The stored tokens under the current weights, teacher-forced; 0 past the end of a row.

        ``column_BT`` is the column of ``ids_BL`` where a decision is (0: none), so rows and decisions can be cut
        freely. Prompts that rows share, and pictures, are read once.
        """
        column_BT = rollout.decisions["column_BT"]
        logp_BT, entropy_BT = torch.zeros(2, *column_BT.shape, device=column_BT.device)
        is_decision_BT = column_BT > 0
        if is_decision_BT.any():
            with autocast(self.language.model, self.precision):
                scored = call_gathered(self.language.model, lambda: self._score(rollout.decisions, is_decision_BT))
            logp_BT, entropy_BT = (logp_BT.to(x.dtype).masked_scatter(is_decision_BT, x) for x in scored)
        return Likelihood(logp_BT=logp_BT, entropy_BT=entropy_BT)

    def _score(self, decisions: dict[str, Any], is_decision_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probs and entropies of the decisions that exist: two ``[N]``."""
        row_N, stored_N = is_decision_BT.nonzero()[:, 0], decisions["column_BT"][is_decision_BT]
        rows, column_N = TokenRows.for_decisions(self.language, decisions, row_N, stored_N)
        hidden_ND = hidden_states(self.language, self.vision, rows)[row_N, column_N - rows.begin]
        token_N = decisions["ids_BL"][row_N, stored_N]
        return token_logprobs(self.language.head, hidden_ND, token_N, self.temperature, self.language.banned_ids)

    # -- weights --------------------------------------------------------------------------------------------

    def parameters(self) -> list[nn.Parameter]:
        return self.trained

    def state_dict(self) -> dict[str, Tensor]:
        return weights(self.trained)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        load_weights(self.trained, state)

    def export(self, folder: str | Path) -> None:
        """Write model (LoRA folded in), tokenizer and processor as a plain transformers folder."""
        save_language_model(self.language, folder)

    def export_lora(self, folder: str | Path) -> str:
        """Write LoRA alone, as peft reads it; the base's name. ValueError where all weights were trained."""
        return save_lora(self.language, folder)


def unique_prompts(prompts: Sequence[Prompt]) -> tuple[list[Prompt], list[int]]:
    """The different prompts, and for each row the number of its prompt."""
    digests: DigestCache = {}
    number: dict[str, int] = {}
    index = [number.setdefault(content_key(p, digests), len(number)) for p in prompts]
    first = dict(zip(reversed(index), reversed(prompts)))
    return [first[i] for i in range(len(number))], index


def build_token_policy(
    cfg: TokenModel, prompt: Callable[[Problem], Prompt] = inputs_as_prompt, seed: int = 0
) -> TokenPolicy:
    """Load the model and make its trained weights trainable. ValueError with one line if it cannot be loaded."""
    device = device_of(cfg.device)
    precision = getattr(torch, cfg.precision)
    dtype = precision if cfg.lora_rank else torch.float32
    language = load_language_model(cfg.name, dtype, device, cfg.min_pixels, cfg.max_pixels)
    model = language.model
    text_modules = nn.ModuleList([model.get_decoder(), model.get_output_embeddings()])
    trained = trainable(model if cfg.train_vision else text_modules, cfg.lora_rank, seed=stream(seed, "language model"))
    policy = TokenPolicy(
        language,
        shard(model) if cfg.sharded else trained,
        prompt,
        max_new_tokens=cfg.max_new_tokens,
        temperature=cfg.temperature,
        top_p=cfg.top_p,
        precision=precision,
        merge=not cfg.sharded,
        # Below float32 sampling and replay round differently, and ratios would not begin at 1.
        rescore=precision != torch.float32,
    )
    if cfg.train_vision and policy.vision.frozen:
        raise ValueError(f"model '{cfg.name}': train_vision has no effect, no vision weights would be trained")
    return policy
