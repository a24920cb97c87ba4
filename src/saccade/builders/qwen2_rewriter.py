"""`qwen2-rewriter`: a Qwen2ForCausalLM in miniature that rewrites captions of the world of shapes.

The classes are the real ones (Qwen2ForCausalLM, Qwen2Tokenizer with a chat template); only their sizes are small. The
user's message is a caption, the answer another wording of the same meaning in ``<answer>…</answer>``. A share of the
examples changes the meaning or forgets a tag on purpose: the base rewrites well but not always right, which leaves room
for reinforcement learning. It saw training wordings and training meanings alone, as inputs and as targets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from saccade.builders.parts.stages import Progress, ScheduledOptimizers, Step, parameter_count, run_steps, seed_stage
from saccade.builders.parts.texts import (
    TAGS,
    answer_in_tags,
    decoder_config,
    qwen2_tokenizer,
    rows_by_kind,
    special_token_ids,
)
from saccade.core import Problem
from saccade.evaluation.scoring import HELD_OUT_SEED
from saccade.models.language.model import load_language_model
from saccade.policies.tokens import TokenPolicy
from saccade.random import numpy_generator, seeds
from saccade.rewards.text.parsing import tagged_answer
from saccade.worlds import shapes
from saccade.worlds.shapes import Meaning, meanings_of

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

SORTED_BATCHES = 8
"""Number of batches that are sampled together and sorted by length, to reduce padding."""


@dataclass(frozen=True)
class Settings:
    """How the miniature is trained; the defaults made the one that is shipped."""

    seed: int = 0
    """Seed of data, batches and initial weights."""
    width: int = 128
    """Width of the decoder."""
    layers: int = 3
    """Number of layers of the decoder."""
    heads: int = 4
    """Number of attention heads of the decoder."""
    meanings: int = 20_000
    """Number of training meanings, sampled once; their wordings are sampled in each batch."""
    steps: int = 2_000
    """Number of training steps."""
    batch: int = 64
    """Number of rows in a batch."""
    lr: float = 2e-3
    """Peak learning rate."""
    wrong_share: float = 0.15
    """Share of examples whose answer has another meaning of the same kind, a near miss."""
    untagged_share: float = 0.05
    """Share of examples whose answer lacks the first tag, the last, or both."""


Kind = tuple[np.ndarray, np.ndarray]
"""Numbers of meanings, ascending, and their numbered words: ``[N]`` and ``[N, words]``."""


def build(cfg: Settings, out: Path, progress: Progress) -> dict[str, Any]:
    """Train the miniature and write it to ``out``. Returns facts for its card."""
    rng = seed_stage(cfg.seed, "rewriter")
    meanings = meanings_of(cfg.meanings, rng, split="train")
    tokenizer = qwen2_tokenizer(corpus(meanings, rng), 1_000, ["<|im_start|>"], TAGS, CHAT_TEMPLATE)
    model = assemble(cfg, tokenizer).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.lr, betas=(0.9, 0.98), weight_decay=0.1)
    means = run_steps(
        batches(cfg, model, tokenizer, meanings, rng), ScheduledOptimizers([optimizer], cfg.steps, warmup=100), progress
    )
    model.eval().save_pretrained(out)
    tokenizer.save_pretrained(out)
    return {"parameters": parameter_count(model), "loss per token": means["rewriter"]}


def corpus(meanings: list[Meaning], rng: np.random.Generator) -> list[str]:
    """What the tokenizer learns its merges from: captions, whose quoted words stay letter by letter."""
    texts = [shapes.caption(m, int(rng.choice(shapes.TRAIN_WORDINGS))) for m in meanings[:8_000]]
    return ["user\nassistant\n"] * 9 + [re.sub('"[A-Z]+"', '""', text) for text in texts]


def assemble(cfg: Settings, tokenizer: Any) -> nn.Module:
    """The untrained model."""
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    model = Qwen2ForCausalLM(Qwen2Config(**decoder_config(tokenizer, cfg.width, cfg.layers, cfg.heads)))
    model.generation_config = GenerationConfig(do_sample=True, **special_token_ids(tokenizer))
    return model


def batches(
    cfg: Settings, model: nn.Module, tokenizer: Any, meanings: list[Meaning], rng: np.random.Generator
) -> Iterator[Step]:
    """Cross-entropy of the answers' tokens."""
    for pairs in examples(cfg, meanings, rng):
        ids_BL, answer_BL = collate(tokenizer, pairs)
        hidden = model.model(ids_BL).last_hidden_state[:, :-1][answer_BL[:, 1:]]
        yield Step("rewriter", F.cross_entropy(model.lm_head(hidden), ids_BL[:, 1:][answer_BL[:, 1:]]))


def examples(cfg: Settings, meanings: list[Meaning], rng: np.random.Generator) -> Iterator[list[tuple[str, str]]]:
    """Batches of (caption, answer) of similar length, some with wrong or untagged answers."""
    kinds = by_kind(meanings)
    for begin in range(0, cfg.steps, SORTED_BATCHES):
        index = rng.integers(len(meanings), size=SORTED_BATCHES * cfg.batch)
        pairs = [_example(cfg, meanings, kinds, int(i), rng) for i in index]
        pairs.sort(key=lambda pair: len(pair[0]) + len(pair[1]))
        for number in rng.permutation(SORTED_BATCHES)[: cfg.steps - begin].tolist():
            yield pairs[number * cfg.batch : (number + 1) * cfg.batch]


def _example(
    cfg: Settings, meanings: list[Meaning], kinds: dict[int, Kind], i: int, rng: np.random.Generator
) -> tuple[str, str]:
    one, other = (int(w) for w in rng.choice(shapes.TRAIN_WORDINGS, 2))
    described = meanings[near_miss(kinds, i, rng) if rng.random() < cfg.wrong_share else i]
    return shapes.caption(meanings[i], one), answer_in_tags(shapes.caption(described, other), cfg.untagged_share, rng)


def by_kind(meanings: list[Meaning]) -> dict[int, Kind]:
    """For every meaning the indices and words of all meanings with the same tag and number of words."""
    number: dict[str, int] = {}
    words = [[number.setdefault(word, len(number)) for word in shapes.caption(m, 1).split()] for m in meanings]
    groups = rows_by_kind((meaning["tag"], len(one)) for meaning, one in zip(meanings, words))
    kinds = [(group, np.array([words[i] for i in group])) for group in groups.values()]
    return {int(i): kind for kind in kinds for i in kind[0]}


def near_miss(kinds: dict[int, Kind], i: int, rng: np.random.Generator) -> int:
    """The number of another meaning that differs from meaning ``i`` in as few words as possible, mostly one.

    A small model mistakes one word at a time; wholly different meanings would teach it to doubt every word.
    """
    group, words = kinds[i]
    different = (words != words[np.searchsorted(group, i)]).sum(1)
    return int(rng.choice(group[different == different[different > 0].min()]))


def collate(tokenizer: Any, pairs: list[tuple[str, str]]) -> tuple[Tensor, Tensor]:
    """Token ids ``[B, L]``, padded on the right, and where the answer's own tokens (its end included) stand."""
    chats = [as_messages(caption) for caption, _ in pairs]
    heads = tokenizer(tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True))["input_ids"]
    tails = tokenizer([answer + tokenizer.eos_token for _, answer in pairs])["input_ids"]
    rows = [torch.tensor(head + tail) for head, tail in zip(heads, tails)]
    own = [torch.arange(len(row)) >= len(head) for row, head in zip(rows, heads)]
    return pad_sequence(rows, True, tokenizer.pad_token_id), pad_sequence(own, True, False)


def as_messages(caption: str) -> list[dict[str, str]]:
    """The chat that the miniature was trained on: the caption alone, as the user's message."""
    return [{"role": "user", "content": caption}]


def evaluate(folder: Path, count: int = 1_000) -> dict[str, float]:
    """Sampled rewrites of held-out meanings: share with both tags, share that keeps the meaning, by kind of input."""
    policy = TokenPolicy(load_language_model(folder), [], prompt=lambda p: as_messages(p.inputs), max_new_tokens=40)
    rng = numpy_generator(HELD_OUT_SEED, "captions")
    groups = {
        kind: [w for w in shapes.TRAIN_WORDINGS if shapes.style(w) == kind] for kind in ("terse", "descriptive")
    } | {"held-out wordings": list(shapes.HELD_OUT_WORDINGS)}
    scores: dict[str, float] = {}
    for kind, wordings in groups.items():
        meanings = meanings_of(count, rng, split="held_out")
        problems = [Problem(i, shapes.caption(m, int(rng.choice(wordings))), m) for i, m in enumerate(meanings)]
        rewrites = [
            tagged_answer(text)
            for text in policy.rollout(problems, seeds(HELD_OUT_SEED, count, "evaluation", kind)).outputs
        ]
        kept = [text is not None and shapes.interpret(text) == m for text, m in zip(rewrites, meanings)]
        scores[f"answer tags, {kind}"] = float(np.mean([text is not None for text in rewrites]))
        scores[f"meaning kept, {kind}"] = float(np.mean(kept))
    return scores
