"""Words as decisions: a policy over any causal language model, log-prob of a token at its temperature.

State = prompt and the tokens so far, action = the next token, log pi = log softmax(logits / temperature)[token].
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from saccade.core import Likelihood, Problem, Rollout, generator
from saccade.models.adapters import load_weights, merged, trainable, weights
from saccade.models.decoding import decode, positions, tempered
from saccade.models.language import LanguageModel, Prompt, load
from saccade.models.sharding import gathered, shard


def inputs_as_prompt(problem: Problem) -> str:
    return str(problem.inputs)


@dataclass(eq=False)
class TokenPolicy:
    """Writes texts from prompts; ``trained`` are the weights that move.

    ``prompt`` gives plain text, or chat messages that go through the tokenizer's template. ``temperature`` 0 is greedy
    (log-probs then are those at temperature 1). With ``top_p`` < 1 tokens are drawn from the truncated distribution, but
    log-probs stay those of the full one: the truncation is not part of the density. A row ends with an end token or when
    its text contains one of ``stop``; both are its own decisions. ``merge`` folds LoRA in while sampling; with
    ``rescore`` the stored log-probs come from `likelihood` instead of the sampling loop, so that replay of the same rows
    is exact to the bit.
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

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature {self.temperature} is negative; 0 is greedy")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p} is outside (0, 1]; 1 draws from all tokens")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens {self.max_new_tokens} is less than 1")
        if "" in self.stop:
            raise ValueError("an empty stop string would end every text at once")

    # -- acting ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def rollout(self, problems: Sequence[Problem], seeds_B: Tensor) -> Rollout:
        """One text for each problem; equal prompts are read once. ValueError if a prompt leaves no room to write."""
        unique, index = _distinct([self.prompt(p) for p in problems])
        ids_PL, attention_PL = self.language.encode(unique)
        self._check_room(ids_PL.shape[1])
        index_B = torch.tensor(index, device=ids_PL.device)
        uniform_BT = torch.stack([torch.rand(self.max_new_tokens, generator=generator(s)) for s in seeds_B.tolist()])
        fold = merged(self.language.model) if self.merge else contextlib.nullcontext()
        with gathered(self.language.model), fold, self._numerics():
            tokens_BT, logp_BT, length_B = decode(
                self.language.model,
                ids_PL,
                attention_PL,
                index_B,
                uniform_BT.to(ids_PL.device),
                self._ended,
                self.temperature,
                self.top_p,
            )
        rollout = self._record(problems, ids_PL[index_B], attention_PL[index_B], tokens_BT, logp_BT, length_B)
        return replace(rollout, logp_BT=self.likelihood(rollout).logp_BT) if self.rescore else rollout

    def _record(
        self,
        problems: Sequence[Problem],
        prompt_BL: Tensor,
        attention_BL: Tensor,
        tokens_BT: Tensor,
        logp_BT: Tensor,
        length_B: Tensor,
    ) -> Rollout:
        rows, width = prompt_BL.shape
        column_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        own_BT = column_T < length_B[:, None]
        return Rollout(
            problems=list(problems),
            decisions={
                "ids_BL": torch.cat([prompt_BL, tokens_BT.masked_fill(~own_BT, self.language.pad)], 1),
                "attention_BL": torch.cat([attention_BL, own_BT.long()], 1),
                "position_BT": (width + column_T).repeat(rows, 1),
            },
            outputs=[self.language.words(t[:n]) for t, n in zip(tokens_BT.tolist(), length_B.tolist())],
            logp_BT=logp_BT,
            mask_BT=own_BT.float(),
            group_B=torch.arange(rows),
            extras={"length_B": length_B.float()},
        )

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

    def _check_room(self, width: int) -> None:
        room = self.language.room
        if room is not None and width + self.max_new_tokens > room:
            raise ValueError(
                f"a prompt of {width} tokens and max_new_tokens {self.max_new_tokens} exceed the model's {room} positions"
            )

    # -- being weighed --------------------------------------------------------------------------------------

    def likelihood(self, rollout: Rollout) -> Likelihood:
        """The stored tokens under the present weights, in one teacher-forced call; 0 past the end of a row.

        ``position_BT`` says where in a row of ``ids_BL`` a decision stands, so rows and decisions can be cut freely.
        """
        ids_BL, attention_BL = rollout.decisions["ids_BL"], rollout.decisions["attention_BL"]
        position_BT = rollout.decisions["position_BT"]
        at_K = position_BT.unique()  # where any row has a decision, ascending: only these go through the head
        end = int(at_K[-1])
        with self._numerics():
            logits_BKV = self.language.model(
                input_ids=ids_BL[:, :end],
                attention_mask=attention_BL[:, :end],
                position_ids=positions(attention_BL[:, :end]),
                use_cache=False,
                logits_to_keep=at_K - 1,
            ).logits
        logp_BKV = tempered(logits_BKV, self.temperature)
        logp_BK = logp_BKV.gather(2, ids_BL[:, at_K, None])[..., 0]
        entropy_BK = -(logp_BKV.exp() * logp_BKV).sum(-1)
        column_BT = torch.searchsorted(at_K, position_BT.contiguous())
        past_BT = attention_BL.gather(1, position_BT) == 0
        logp_BT, entropy_BT = (x.gather(1, column_BT).masked_fill(past_BT, 0.0) for x in (logp_BK, entropy_BK))
        return Likelihood(logp_BT=logp_BT, entropy_BT=entropy_BT)

    def _numerics(self) -> torch.autocast:
        model = self.language.model
        lower = self.precision != torch.float32 and model.dtype == torch.float32
        return torch.autocast(model.device.type, self.precision, enabled=lower)

    # -- weights --------------------------------------------------------------------------------------------

    def parameters(self) -> list[nn.Parameter]:
        return self.trained

    def state_dict(self) -> dict[str, Tensor]:
        return weights(self.trained)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        load_weights(self.trained, state)

    def export(self, folder: str | Path) -> None:
        """Write model (LoRA folded in) and tokenizer as a plain transformers folder."""
        with merged(self.language.model) as model:
            model.save_pretrained(folder)
        self.language.tokenizer.save_pretrained(folder)


def _distinct(prompts: Sequence[Prompt]) -> tuple[list[Prompt], list[int]]:
    """The different prompts, and for each row the number of its own."""
    number: dict[str, int] = {}
    index = [number.setdefault(repr(p), len(number)) for p in prompts]
    first = {i: p for i, p in zip(reversed(index), reversed(prompts))}
    return [first[i] for i in range(len(number))], index


@dataclass(frozen=True)
class WriterModel:
    """Which language model writes, how it is sampled, and which of its weights move."""

    rewriter: str = "qwen2-rewriter"
    """Hub id, folder or miniature of a language model, or of a vision-language model used for its words."""
    max_new_tokens: int = 32
    """Longest completion."""
    temperature: float = 1.0
    """Temperature of training samples; evaluation is greedy."""
    top_p: float = 1.0
    """Share of probability that training samples are drawn from."""
    rewriter_lora_rank: int = 0
    """Rank of LoRA on the attention projections; 0 trains all weights."""
    rewriter_precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the language model."""
    rewriter_device: str = "auto"
    """cpu, cuda or auto."""
    rewriter_sharded: bool = False
    """Cut the network over all processes (FSDP2) instead of keeping a copy in each."""


def build(cfg: WriterModel, prompt: Callable[[Problem], Prompt], seed: int = 0) -> TokenPolicy:
    """Load the language model and open its trained weights. ValueError with one line if it cannot be had."""
    device = cfg.rewriter_device if cfg.rewriter_device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    precision = getattr(torch, cfg.rewriter_precision)
    language = load(cfg.rewriter, precision if cfg.rewriter_lora_rank else torch.float32, device)
    trained = trainable(language.model, cfg.rewriter_lora_rank, seed=seed)
    return TokenPolicy(
        language,
        shard(language.model) if cfg.rewriter_sharded else trained,
        prompt,
        max_new_tokens=cfg.max_new_tokens,
        temperature=cfg.temperature,
        top_p=cfg.top_p,
        precision=precision,
        merge=not cfg.rewriter_sharded,
    )
