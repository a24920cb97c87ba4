"""Random tiny language models with a real tokenizer, for tests."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from saccade.models.language.decoding import DecodeState, prefill
from saccade.models.language.model import LanguageModel

TEXTS = ["a red circle", "two blue squares", "a green star above a ring", "three small crosses in pink", "the word"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer():
    from tokenizers import pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    learner = Qwen2Tokenizer(vocab={}, merges=[]).backend_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, show_progress=False)
    learner.train_from_iterator(TEXTS * 3, trainer)
    learned = json.loads(learner.to_str())["model"]
    made = Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=[tuple(pair) for pair in learned["merges"]],
        eos_token="<|im_end|>",
        extra_special_tokens=["<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"],
    )
    made.chat_template = CHAT_TEMPLATE
    return made


def sizes(words) -> dict:
    return dict(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )


def qwen2(seed: int = 0, loud: float = 8.0) -> LanguageModel:
    """A Qwen2ForCausalLM whose weights are scaled up by ``loud``, so that its distributions are far from uniform."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    words = tokenizer()
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(Qwen2Config(**sizes(words))).eval()
    for p in model.parameters():
        p.data.mul_(loud if p.ndim > 1 else 1.0)
    return LanguageModel(model.requires_grad_(False), words)


def qwen25_vl(folder: Path) -> Path:
    """Write a random Qwen2_5_VLForConditionalGeneration with its tokenizer to ``folder``."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    words = tokenizer()
    at = words.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config=sizes(words)
        | {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}},
        vision_config=dict(depth=1, hidden_size=16, num_heads=2, intermediate_size=16, out_hidden_size=32),
        image_token_id=at("<|image_pad|>"),
        video_token_id=at("<|video_pad|>"),
        vision_start_token_id=at("<|vision_start|>"),
        vision_end_token_id=at("<|vision_end|>"),
    )
    torch.manual_seed(0)
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def prefilled(
    model, ids_PL: torch.Tensor, attention_PL: torch.Tensor, index_B: torch.Tensor, capacity: int
) -> DecodeState:
    """Left-padded prompts with positions that count what is attended to, for rows that begin with them."""
    position_PL = (attention_PL.cumsum(1) - 1).clamp(min=0)
    return prefill(model, ids_PL, attention_PL, position_PL[:, None], index_B, capacity)
