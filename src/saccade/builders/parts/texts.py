"""Tokenizers trained on the captions of our worlds, and the configurations of text models that follow from them."""

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
"""Log-probability of a single character as a piece, so that only unknown words are split into characters."""


def clip_tokenizer(texts: Iterable[str], length: int) -> Any:
    """A CLIPTokenizer whose merges are trained on texts; ``length`` is its longest text in tokens."""
    from transformers import CLIPTokenizer

    vocab, merges = byte_pairs(texts)
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length)


def byte_pairs(texts: Iterable[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of CLIP's byte-pair encoding, trained on texts."""
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
    vocab, merges = _trained(tokenizer, texts, trainer)
    for symbol in pre_tokenizers.ByteLevel.alphabet():
        vocab.setdefault(symbol + "</w>", len(vocab))  # each last letter of a word needs an id
    return vocab, merges


def qwen2_tokenizer(
    texts: Iterable[str], size: int, special: Sequence[str], words: Sequence[str], template: str, min_frequency: int = 0
) -> Any:
    """A Qwen2Tokenizer of ``size`` ids whose merges are trained on texts, of pairs with ``min_frequency`` occurrences.

    ``special`` are further special tokens, ``words`` further ordinary ones; ``template`` is the chat template.
    """
    from tokenizers import AddedToken, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, show_progress=False, min_frequency=min_frequency
    )
    vocab, merges = _trained(Qwen2Tokenizer(vocab={}, merges=[]).backend_tokenizer, texts, trainer)
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=merges, eos_token="<|im_end|>", extra_special_tokens=list(special))
    tokenizer.add_tokens([AddedToken(word, special=False, normalized=False) for word in words])
    tokenizer.chat_template = template
    return tokenizer


def _trained(tokenizer: Any, texts: Iterable[str], trainer: Any) -> tuple[dict[str, int], list[tuple[str, str]]]:
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return dict(model["vocab"]), [tuple(pair) for pair in model["merges"]]


def unigram_pieces(texts: Sequence[str]) -> list[tuple[str, float]]:
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


def special_token_ids(tokenizer: Any) -> dict[str, int | None]:
    """Ids of a tokenizer's special tokens, as entries of a configuration."""
    return {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}


def clip_config(tokenizer: Any, width: int) -> Any:
    """The configuration of a small CLIP text encoder for a tokenizer."""
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=width,
        **special_token_ids(tokenizer),
    )


def init_embeddings(*encoders: Any) -> None:
    """Initialize token embeddings with a standard deviation of 0.3, so that words are distinct from the start."""
    for encoder in encoders:
        encoder.get_input_embeddings().weight.data.normal_(0, 0.3)


def decoder_config(tokenizer: Any, width: int, layers: int, heads: int, positions: int = 512) -> dict[str, Any]:
    """The configuration of a small language model for a tokenizer."""
    return dict(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=positions,
        initializer_range=0.06,  # at this width 0.02 needs twice the steps
        tie_word_embeddings=True,
        **special_token_ids(tokenizer),
    )


def answer_in_tags(text: str, faulty: float, rng: np.random.Generator) -> str:
    """An answer in answer tags; with probability ``faulty`` the first tag, the last or both are missing."""
    first, last = [(0, 1), (1, 0), (0, 0)][rng.integers(3)] if rng.random() < faulty else (1, 1)
    return TAGS[0] * first + text + TAGS[1] * last


def rows_by_kind(kinds: Iterable[Hashable]) -> dict[Any, np.ndarray]:
    """The row numbers of each kind, ascending."""
    rows: dict[Any, list[int]] = {}
    for row, kind in enumerate(kinds):
        rows.setdefault(kind, []).append(row)
    return {kind: np.array(numbers) for kind, numbers in rows.items()}
