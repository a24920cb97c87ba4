"""`qwen2-rewriter`: a Qwen2ForCausalLM in miniature that rewrites captions of the world of shapes.

The classes are the real ones (Qwen2ForCausalLM, Qwen2Tokenizer with a chat template); only their sizes are small. The
user's message is a caption, the answer another wording of the same meaning in ``<answer>…</answer>``. A share of the
examples changes the meaning or forgets a tag on purpose: the base rewrites well but not always right, which leaves room
for reinforcement learning. It saw training wordings and training meanings alone, as inputs and as targets.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.core import Problem, seeds
from saccade.models.language import load
from saccade.policies.tokens import TokenPolicy
from saccade.rewards.text import answer
from saccade.worlds import shapes
from saccade.worlds.shapes.scene import Meaning, meanings_of

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TAGS = ("<answer>", "</answer>")
ALIKE = 8
"""Batches that are drawn together and sorted by length, so that little is padding."""


@dataclass(frozen=True)
class Settings:
    """How the miniature is trained; the defaults made the one that is shipped."""

    seed: int = 0
    width: int = 128
    layers: int = 3
    heads: int = 4
    meanings: int = 20_000
    """Training meanings that are drawn once; their wordings are drawn anew each time."""
    steps: int = 2_000
    batch: int = 64
    lr: float = 2e-3
    wrong: float = 0.15
    """Share of examples whose answer has another meaning of the same kind, a near miss."""
    untagged: float = 0.05
    """Share of examples whose answer lacks the first tag, the last, or both."""


Progress = Callable[[str, int, int, float], None]
Kind = tuple[np.ndarray, np.ndarray]
"""Numbers of meanings, ascending, and their numbered words: ``[N]`` and ``[N, words]``."""


def build(cfg: Settings, out: Path, progress: Progress) -> dict[str, Any]:
    """Train the miniature and write it to ``out``. Returns facts for its card (parameters, seconds, losses)."""
    torch.manual_seed(cfg.seed)
    rng = np.random.default_rng(cfg.seed)
    began = time.time()
    meanings = meanings_of(cfg.meanings, rng, split="train")
    tokenizer = learn_tokenizer(cfg, meanings, rng)
    model = assemble(cfg, tokenizer)
    loss = train(cfg, model, tokenizer, meanings, rng, progress)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return {
        "seconds": round(time.time() - began),
        "parameters": sum(p.numel() for p in model.parameters()),
        "loss per token": loss,
    }


def learn_tokenizer(cfg: Settings, meanings: list[Meaning], rng: np.random.Generator) -> Any:
    """A Qwen2Tokenizer whose merges come from captions; quoted words stay letter by letter."""
    from tokenizers import AddedToken, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    texts = [shapes.caption(m, int(rng.choice(shapes.TRAIN_WORDINGS))) for m in meanings[:8_000]]
    learner = Qwen2Tokenizer(vocab={}, merges=[]).backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=1_000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    learner.train_from_iterator(["user\nassistant\n"] * 9 + [re.sub('"[A-Z]+"', '""', t) for t in texts], trainer)
    learned = json.loads(learner.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=[tuple(pair) for pair in learned["merges"]],
        eos_token="<|im_end|>",
        extra_special_tokens=["<|im_start|>"],
    )
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def assemble(cfg: Settings, tokenizer: Any) -> nn.Module:
    """The untrained model."""
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=cfg.width,
            intermediate_size=3 * cfg.width,
            num_hidden_layers=cfg.layers,
            num_attention_heads=cfg.heads,
            num_key_value_heads=cfg.heads,
            max_position_embeddings=512,
            initializer_range=0.06,  # at this width 0.02 needs twice the steps
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True
    )
    return model


def train(
    cfg: Settings, model: nn.Module, tokenizer: Any, meanings: list[Meaning], rng: np.random.Generator, progress: Progress
) -> float:
    """Cross-entropy of the answers' tokens. Returns its running mean."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.lr, betas=(0.9, 0.98), weight_decay=0.1)
    model.train()
    smooth = 0.0
    for step, pairs in enumerate(examples(cfg, meanings, rng)):
        for group in optimizer.param_groups:
            group["lr"] = cfg.lr * min((step + 1) / 100, 1.0) * (1 - step / cfg.steps)
        ids_BL, answer_BL = collate(tokenizer, pairs)
        hidden = model.model(ids_BL).last_hidden_state[:, :-1][answer_BL[:, 1:]]
        loss = F.cross_entropy(model.lm_head(hidden), ids_BL[:, 1:][answer_BL[:, 1:]])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        smooth = loss.item() if step == 0 else 0.98 * smooth + 0.02 * loss.item()
        progress("rewriter", step + 1, cfg.steps, smooth)
    model.eval()
    return smooth


def examples(cfg: Settings, meanings: list[Meaning], rng: np.random.Generator) -> Iterator[list[tuple[str, str]]]:
    """Batches of (caption, answer), alike in length, with the wrong and the untagged ones among them."""
    kinds = by_kind(meanings)
    for step in range(cfg.steps):
        if step % ALIKE == 0:
            index = rng.integers(len(meanings), size=ALIKE * cfg.batch)
            drawn = [_example(cfg, meanings, kinds, int(i), rng) for i in index]
            drawn.sort(key=lambda pair: len(pair[0]) + len(pair[1]))
            order = rng.permutation(ALIKE)
        start = int(order[step % ALIKE]) * cfg.batch
        yield drawn[start : start + cfg.batch]


def _example(
    cfg: Settings, meanings: list[Meaning], kinds: dict[int, Kind], i: int, rng: np.random.Generator
) -> tuple[str, str]:
    one, other = (int(w) for w in rng.choice(shapes.TRAIN_WORDINGS, 2))
    told = meanings[near_miss(kinds, i, rng) if rng.random() < cfg.wrong else i]
    first, last = [(0, 1), (1, 0), (0, 0)][rng.integers(3)] if rng.random() < cfg.untagged else (1, 1)
    return shapes.caption(meanings[i], one), TAGS[0] * first + shapes.caption(told, other) + TAGS[1] * last


def by_kind(meanings: list[Meaning]) -> dict[int, Kind]:
    """For every meaning the numbers and the words of all meanings that are said in as many words, with the same tag."""
    groups: dict[tuple[str, int], list[int]] = {}
    number: dict[str, int] = {}
    said = [[number.setdefault(word, len(number)) for word in shapes.caption(m, 1).split()] for m in meanings]
    for i, meaning in enumerate(meanings):
        groups.setdefault((meaning["tag"], len(said[i])), []).append(i)
    kinds = [(np.array(group), np.array([said[i] for i in group])) for group in groups.values()]
    return {int(i): kind for kind in kinds for i in kind[0]}


def near_miss(kinds: dict[int, Kind], i: int, rng: np.random.Generator) -> int:
    """The number of another meaning that differs from meaning ``i`` in as few words as possible, mostly one.

    A small model mistakes one word at a time; wholly different meanings would teach it to doubt every word.
    """
    group, said = kinds[i]
    different = (said != said[np.searchsorted(group, i)]).sum(1)
    return int(rng.choice(group[different == different[different > 0].min()]))


def collate(tokenizer: Any, pairs: list[tuple[str, str]]) -> tuple[Tensor, Tensor]:
    """Token ids ``[B, L]``, padded on the right, and where the answer's own tokens (its end included) stand."""
    asked = [as_messages(caption) for caption, _ in pairs]
    heads = tokenizer(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))["input_ids"]
    tails = tokenizer([answer + tokenizer.eos_token for _, answer in pairs])["input_ids"]
    length = max(len(head) + len(tail) for head, tail in zip(heads, tails))
    ids_BL = torch.full((len(pairs), length), tokenizer.pad_token_id)
    answer_BL = torch.zeros(len(pairs), length, dtype=torch.bool)
    for i, (head, tail) in enumerate(zip(heads, tails)):
        ids_BL[i, : len(head) + len(tail)] = torch.tensor(head + tail)
        answer_BL[i, len(head) : len(head) + len(tail)] = True
    return ids_BL, answer_BL


def as_messages(caption: str) -> list[dict[str, str]]:
    """The chat that the miniature was trained on: the caption alone, as the user's message."""
    return [{"role": "user", "content": caption}]


def evaluate(folder: Path, count: int = 1_000, seed: int = 0) -> dict[str, float]:
    """Sampled rewrites of held-out meanings: share with both tags, share that keeps the meaning, by kind of input."""
    policy = TokenPolicy(load(folder), [], prompt=lambda p: as_messages(p.inputs), max_new_tokens=40)
    rng = np.random.default_rng(seed)
    groups = {
        kind: [w for w in shapes.TRAIN_WORDINGS if shapes.style(w) == kind] for kind in ("terse", "descriptive")
    } | {"held-out wordings": list(shapes.HELD_OUT_WORDINGS)}
    scores: dict[str, float] = {}
    for kind, wordings in groups.items():
        meanings = meanings_of(count, rng, split="held_out")
        problems = [Problem(i, shapes.caption(m, int(rng.choice(wordings))), m) for i, m in enumerate(meanings)]
        rewrites = [answer(text) for text in policy.rollout(problems, seeds(seed, count)).outputs]
        kept = [text is not None and shapes.interpret(text) == m for text, m in zip(rewrites, meanings)]
        scores[f"answer tags, {kind}"] = float(np.mean([text is not None for text in rewrites]))
        scores[f"meaning kept, {kind}"] = float(np.mean(kept))
    return scores
