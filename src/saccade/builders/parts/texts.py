"""Texts as the miniatures take them: tokenizers learnt from the worlds' own words, and the configurations that
follow.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from math import log
from typing import Any

import numpy as np

TAGS = ("<answer>", "</answer>")

_RARE = -20.0
"""Score of a single character as a piece, so that only words nobody has seen are spelt."""


def clip_tokenizer(texts: Iterable[str], length: int) -> Any:
    """A CLIPTokenizer whose merges are learned from texts."""
    from transformers import CLIPTokenizer

    vocab, merges = byte_pairs(texts)
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length)


def byte_pairs(texts: Iterable[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges in CLIP's manner, learned from texts."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=1_000,
        end_of_word_suffix="</w>",
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    vocab, merges = _learned(tokenizer, texts, trainer)
    for symbol in pre_tokenizers.ByteLevel.alphabet():
        vocab.setdefault(symbol + "</w>", len(vocab))  # every last letter of a word must have an id
    return vocab, merges


def qwen2_tokenizer(
    texts: Iterable[str], size: int, special: Sequence[str], words: Sequence[str], template: str, least: int = 0
) -> Any:
    """A Qwen2Tokenizer whose merges, of what stands there ``least`` times, are learned from texts; ``words`` are
    tokens too.
    """
    from tokenizers import AddedToken, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False, min_frequency=least)
    vocab, merges = _learned(Qwen2Tokenizer(vocab={}, merges=[]).backend_tokenizer, texts, trainer)
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=merges, eos_token="<|im_end|>", extra_special_tokens=list(special))
    tokenizer.add_tokens([AddedToken(word, special=False, normalized=False) for word in words])
    tokenizer.chat_template = template
    return tokenizer


def _learned(learner: Any, texts: Iterable[str], trainer: Any) -> tuple[dict[str, int], list[tuple[str, str]]]:
    learner.train_from_iterator(texts, trainer)
    model = json.loads(learner.to_str())["model"]
    return dict(model["vocab"]), [tuple(pair) for pair in model["merges"]]


def scored(texts: Sequence[str]) -> list[tuple[str, float]]:
    """Pieces of a T5 tokenizer with their log-probabilities: the special ones, words, and single characters."""
    counts = Counter(
        piece for text in texts for piece in re.findall(r"▁?\w+|▁?[^\w\s▁]", "▁" + text.replace(" ", " ▁"))
    )
    total = sum(counts.values())
    words = {word: log(count / total) for word, count in sorted(counts.items())}
    letters = [chr(code) for code in range(33, 127)] + ["▁"]
    return [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        *words.items(),
        *((c, _RARE) for c in letters if c not in words),
    ]


def ends(tokenizer: Any) -> dict[str, int | None]:
    """What a configuration must know of a tokenizer."""
    return {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}


def clip_config(tokenizer: Any, width: int) -> Any:
    """The configuration of a small CLIP that reads a tokenizer's words."""
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=3 * width, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length, projection_dim=width, **ends(tokenizer),
    )  # fmt: skip


def spread(*readers: Any) -> None:
    """Let words start far enough apart to be told from one another at once."""
    for reader in readers:
        reader.get_input_embeddings().weight.data.normal_(0, 0.3)


def writer(tokenizer: Any, width: int, layers: int, heads: int, positions: int = 512) -> dict[str, Any]:
    """The configuration of a small language model that writes a tokenizer's words."""
    return dict(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=positions,
        initializer_range=0.06,  # at this width 0.02 needs twice the steps
        tie_word_embeddings=True, **ends(tokenizer),
    )  # fmt: skip


def tagged(text: str, faulty: float, rng: np.random.Generator) -> str:
    """An answer in its tags; a share of them lacks the first tag, the last, or both."""
    first, last = [(0, 1), (1, 0), (0, 0)][rng.integers(3)] if rng.random() < faulty else (1, 1)
    return TAGS[0] * first + text + TAGS[1] * last


def alike(kinds: Iterable[Hashable]) -> dict[Any, np.ndarray]:
    """The numbers of those that are of a kind, ascending."""
    rows: dict[Any, list[int]] = {}
    for row, kind in enumerate(kinds):
        rows.setdefault(kind, []).append(row)
    return {kind: np.array(own) for kind, own in rows.items()}
