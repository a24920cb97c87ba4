"""A Qwen2_5_VLForConditionalGeneration of 6.6 M random weights in the ordinary folder layout, and two questions about
pictures.

As in the released models a patch has 14 px and four patches make a token, so a picture of 224 px fills 64 of them. As
in a trained model the tokens that stand for pictures have no probability, for one side of the comparison leaves them
out of its distributions and the other does not; nor has the end token, so that every answer has the same length.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from saccade.builders.qwen25_vl_shapes.model import CHAT_TEMPLATE, SPECIAL
from saccade.core import Problem, Question
from saccade.models.language import processor as processors

PICTURE = 224
END = "<|im_end|>"
TEXTS = ("How many red rings?", "What does the blue sign say?")
LOUD = 3.0
"""What random weights are multiplied by, so that attention and answers are far from uniform."""
VOCABULARY, WIDTH = 3840, 256
TEXT = dict(
    vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=640, num_hidden_layers=5, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=False,
    rope_parameters={"rope_type": "default", "mrope_section": [8, 12, 12], "rope_theta": 1e6},
)  # fmt: skip
EYES = dict(
    depth=4, hidden_size=128, num_heads=4, intermediate_size=256, out_hidden_size=WIDTH, window_size=112,
    fullatt_block_indexes=[1, 3],
)  # fmt: skip


def problems() -> list[Problem]:
    """Two questions, each about a picture of its own."""
    rng = np.random.default_rng(0)
    shown = [rng.integers(0, 256, (PICTURE, PICTURE, 3), dtype=np.uint8) for _ in TEXTS]
    return [Problem(i, Question(text, (picture,))) for i, (text, picture) in enumerate(zip(TEXTS, shown))]


def save(folder: Path) -> Path:
    """Write model, tokenizer and processor. Returns the folder."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    torch.manual_seed(0)
    words = _tokenizer()
    at = {f"{name}_token_id": words.convert_tokens_to_ids(f"<|{name}|>") for name in ("vision_start", "vision_end")}
    at |= {f"{name}_token_id": words.convert_tokens_to_ids(f"<|{name}_pad|>") for name in ("image", "video")}
    ends = {"eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id, "bos_token_id": None}
    config = Qwen2_5_VLConfig(text_config=TEXT | ends, vision_config=EYES, tie_word_embeddings=False, **at)
    model = Qwen2_5_VLForConditionalGeneration(config)
    for p in model.parameters():
        p.data.mul_(LOUD if p.ndim > 1 else 1.0)
    _silence(model, [*at.values(), words.eos_token_id])
    model.save_pretrained(folder)
    images = Qwen2VLImageProcessorPil(patch_size=14, merge_size=2)
    processors.save_processor(
        processors.without_videos(Qwen2_5_VLProcessor, images, words, chat_template=CHAT_TEMPLATE), folder
    )
    return folder


@torch.no_grad()
def _silence(model: Any, tokens: list[int]) -> None:
    """Take all probability from ``tokens``: the first feature is 1 from below to above, and the head holds it
    against them.
    """
    language, merger = model.model.language_model, model.model.visual.merger.mlp[-1]
    language.embed_tokens.weight[:, 0] = 1
    merger.weight[0], merger.bias[0] = 0, 1
    for layer in language.layers:
        layer.self_attn.o_proj.weight[0] = 0
        layer.mlp.down_proj.weight[0] = 0
    model.lm_head.weight[:, 0] = 0
    model.lm_head.weight[tokens] = 0
    model.lm_head.weight[tokens, 0] = -1e4


def _tokenizer() -> Any:
    """Qwen2's tokenizer with an alphabet and no merges: a token a byte."""
    from tokenizers import pre_tokenizers
    from transformers import Qwen2Tokenizer

    alphabet = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    return Qwen2Tokenizer(
        vocab=alphabet, merges=[], eos_token=END, pad_token="<|endoftext|>", extra_special_tokens=list(SPECIAL)
    )
