"""Words as decisions: a policy over any causal or vision-language model, log-prob of a token at its temperature.

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

from saccade.core import Likelihood, Problem, Question, Rollout
from saccade.models.adapters import load_weights, merged, trainable, weights
from saccade.models.device import autocast, device_of
from saccade.models.language.generation import GenerationState, SamplingParams
from saccade.models.language.head import token_logprobs
from saccade.models.language.messages import Prompt
from saccade.models.language.model import LanguageModel, load_language_model, save
from saccade.models.language.prompts import Names, PerRow, content
from saccade.models.language.states import Rows, states
from saccade.models.sharding import call_gathered, gathered, shard
from saccade.models.vision.encoder import VisionEncoder
from saccade.policies.token_presets import TokenModel


def inputs_as_prompt(problem: Problem) -> Prompt:
    """A question's pictures and text as one message of the user's; anything else as plain text."""
    if not isinstance(problem.inputs, Question):
        return str(problem.inputs)
    pictures = [{"type": "image", "image": picture} for picture in problem.inputs.pictures]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": problem.inputs.text}]}]


@dataclass(eq=False)
class TokenPolicy:
    """Writes texts from prompts; ``trained`` are the weights that move.

    ``prompt`` gives plain text, or chat messages, pictures among them, that go through the model's template and
    processor. ``temperature`` 0 is greedy (log-probs then are those at temperature 1). With ``top_p`` < 1 tokens are
    drawn from the truncated distribution, but log-probs stay those of the full one: the truncation is not part of the
    density. Tokens that stand for pictures have probability 0, in sampling and in replay. A row ends with an end token
    or when its text contains one of ``stop``; both are its own decisions. ``merge`` folds LoRA in while sampling; with
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
    eyes: VisionEncoder = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature {self.temperature} is negative; 0 is greedy")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p} is outside (0, 1]; 1 draws from all tokens")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens {self.max_new_tokens} is less than 1")
        if "" in self.stop:
            raise ValueError("an empty stop string would end every text at once")
        self.eyes = VisionEncoder(self.language.model, self.trained)

    # -- acting ---------------------------------------------------------------------------------------------

    def rollout(self, problems: Sequence[Problem], seeds_B: Tensor) -> Rollout:
        """One text for each problem; equal prompts are read once. ValueError if a prompt leaves no room to write."""
        with self.acting():
            draft = self.draft(problems, seeds_B)
            texts = draft.write()
        return self.finished(draft, problems, [texts[row] for row in range(len(problems))])

    def greedy(self) -> TokenPolicy:
        """The same weights, the likeliest token each time."""
        return replace(self, temperature=0.0)

    @contextlib.contextmanager
    def acting(self) -> Iterator[None]:
        """The state of the model in which a draft is written: no gradients, LoRA folded in."""
        model = self.language.model
        with (
            torch.no_grad(),
            gathered(model),
            merged(model) if self.merge else contextlib.nullcontext(),
            autocast(model, self.precision),
        ):
            yield

    def draft(self, problems: Sequence[Problem], seeds_B: Tensor) -> GenerationState:
        """Rows that have read their prompts and may write, inside `acting`."""
        unique, index = distinct(self.asked(problems).values)
        manner = SamplingParams(self.max_new_tokens, self.temperature, self.top_p, self._ended)
        return GenerationState(self.language, self.eyes, unique, torch.tensor(index), seeds_B, manner)

    def finished(self, draft: GenerationState, problems: Sequence[Problem], texts: Sequence[str]) -> Rollout:
        """A draft as a rollout; ``extras`` say whose turn a decision was, what was asked, what pictures looked like
        when shown.
        """
        device = self.language.model.device
        decisions = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in draft.decisions().items()}
        turns = [line.turns() for line in draft.lines]
        turn_BT = nn.utils.rnn.pad_sequence(turns, True, -1).to(device)
        rollout = Rollout(
            problems=list(problems),
            decisions=decisions,
            outputs=list(texts),
            logp_BT=draft.logp().to(device),
            mask_BT=(turn_BT >= 0).float(),
            group_B=torch.arange(len(problems)),
            extras={
                "length_B": (turn_BT >= 0).sum(1).float(),
                "turn_BT": turn_BT,
                "frames_B": PerRow(tuple(tuple(line.frames) for line in draft.lines)),
                "prompt_B": self.asked(problems),
            },
        )
        if not self.rescore:
            return rollout
        with torch.no_grad():
            return replace(rollout, logp_BT=self.likelihood(rollout).logp_BT)

    def asked(self, problems: Sequence[Problem]) -> PerRow:
        """The prompt of each row."""
        prompts = {key: self.prompt(problem) for key, problem in {id(p): p for p in problems}.items()}
        return PerRow(tuple(prompts[id(p)] for p in problems))

    def _ended(self, tokens: Tensor) -> Tensor:
        """Which rows ``[rows, t]`` are complete with their last token."""
        ends = torch.tensor(self.language.ends, device=tokens.device)
        over = (tokens[:, -1:] == ends).any(1)
        if self.stop:
            # A token is a byte or more, so the last tokens hold every stop string that the newest one completes.
            tail = tokens[:, -1 - max(len(s.encode()) for s in self.stop) :]
            texts = self.language.tokenizer.batch_decode(tail)
            over |= torch.tensor([any(s in text for s in self.stop) for text in texts], device=tokens.device)
        return over

    # -- being weighed --------------------------------------------------------------------------------------

    def likelihood(self, rollout: Rollout) -> Likelihood:
        """The stored tokens under the present weights, teacher-forced; 0 past the end of a row.

        ``position_BT`` says where in a row of ``ids_BL`` a decision stands (0: nowhere), so rows and decisions can be
        cut freely. Prompts that rows share, and pictures, are read once.
        """
        position_BT = rollout.decisions["position_BT"]
        logp_BT, entropy_BT = torch.zeros(2, *position_BT.shape, device=position_BT.device)
        own_BT = position_BT > 0
        if own_BT.any():
            with autocast(self.language.model, self.precision):
                weighed = call_gathered(self.language.model, lambda: self._weigh(rollout.decisions, own_BT))
            logp_BT, entropy_BT = (logp_BT.to(x.dtype).masked_scatter(own_BT, x) for x in weighed)
        return Likelihood(logp_BT=logp_BT, entropy_BT=entropy_BT)

    def _weigh(self, decisions: dict[str, Any], own_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probs and entropies of the decisions that exist: two ``[N]``."""
        row_N, at_N = own_BT.nonzero()[:, 0], decisions["position_BT"][own_BT]
        rows, column_N = Rows.before(self.language, decisions, row_N, at_N)
        hidden_ND = states(self.language, self.eyes, rows)[row_N, column_N - rows.begin]
        token_N = decisions["ids_BL"][row_N, at_N]
        return token_logprobs(self.language.head, hidden_ND, token_N, self.temperature, self.language.banned)

    # -- weights --------------------------------------------------------------------------------------------

    def parameters(self) -> list[nn.Parameter]:
        return self.trained

    def state_dict(self) -> dict[str, Tensor]:
        return weights(self.trained)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        load_weights(self.trained, state)

    def export(self, folder: str | Path) -> None:
        """Write model (LoRA folded in), tokenizer and processor as a plain transformers folder."""
        save(self.language, folder)


def distinct(prompts: Sequence[Prompt]) -> tuple[list[Prompt], list[int]]:
    """The different prompts, and for each row the number of its own."""
    names: Names = {}
    number: dict[str, int] = {}
    index = [number.setdefault(content(p, names), len(number)) for p in prompts]
    first = {i: p for i, p in zip(reversed(index), reversed(prompts))}
    return [first[i] for i in range(len(number))], index


def build_token_policy(
    cfg: TokenModel, prompt: Callable[[Problem], Prompt] = inputs_as_prompt, seed: int = 0
) -> TokenPolicy:
    """Load the model and open its trained weights. ValueError with one line if it cannot be had."""
    device = device_of(cfg.device)
    precision = getattr(torch, cfg.precision)
    language = load_language_model(
        cfg.name, precision if cfg.lora_rank else torch.float32, device, cfg.min_pixels, cfg.max_pixels
    )
    model = language.model
    words = nn.ModuleList([model.get_decoder(), model.get_output_embeddings()])
    trained = trainable(model if cfg.train_vision else words, cfg.lora_rank, seed=seed)
    policy = TokenPolicy(
        language,
        shard(model) if cfg.sharded else trained,
        prompt,
        max_new_tokens=cfg.max_new_tokens,
        temperature=cfg.temperature,
        top_p=cfg.top_p,
        precision=precision,
        merge=not cfg.sharded,
        rescore=precision
        != torch.float32,  # sampling and replay round differently there, and ratios would not begin at 1
    )
    if cfg.train_vision and policy.eyes.frozen:
        raise ValueError(
            f"model '{cfg.name}': train_vision has no effect, nothing that looks at pictures would be trained"
        )
    return policy
