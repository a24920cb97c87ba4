"""The untrained model and tokenizer, an earlier model with added layers, and how they are saved."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from saccade.builders.parts.texts import TAGS, decoder_config, qwen2_tokenizer, special_token_ids
from saccade.builders.qwen25_vl_shapes.preprocessing import PREPARATION
from saccade.models.language.processor import save_processor, without_videos

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

SPECIAL = ("<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")

TOKENS = (*(str(n) for n in range(10, 100)), *TAGS, "<think>", "</think>", '{"bbox_2d":[', '],"label":"', '"}')
"""Texts that are tokens whatever their frequency: numbers, tags and the parts of a list of boxes."""


def learn_tokenizer(texts: Sequence[str], also: Sequence[str]) -> Any:
    """A Qwen2Tokenizer with single tokens for words of these texts, numbers to 99, tags and the texts ``also``."""
    return qwen2_tokenizer(texts, 700, SPECIAL, (*TOKENS, *also), CHAT_TEMPLATE, min_frequency=2)


def build_model(cfg: Any, tokenizer: Any) -> nn.Module:
    """The untrained model of a build's settings."""
    from transformers import GenerationConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = decoder_config(tokenizer, cfg.width, cfg.layers, cfg.heads, positions=1024)
    vision = dict(
        depth=cfg.vision_layers,
        hidden_size=cfg.vision_width,
        intermediate_size=8 * cfg.vision_width // 3,
        num_heads=4,
        patch_size=PREPARATION.patch,
        spatial_merge_size=PREPARATION.merge,
        temporal_patch_size=PREPARATION.frames,
        window_size=128,
        out_hidden_size=cfg.width,
        fullatt_block_indexes=list(range(cfg.vision_layers)),
        initializer_range=0.06,
    )
    names = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    config = Qwen2_5_VLConfig(
        text_config=text | {"rope_parameters": mrope(cfg.width // cfg.heads)},
        vision_config=vision,
        tie_word_embeddings=True,
        **{f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>") for name, token in names.items()},
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(do_sample=True, **special_token_ids(tokenizer))
    return model


def load_and_deepen(cfg: Any) -> tuple[Any, nn.Module]:
    """Tokenizer and model of an earlier build, with new layers in its middle that are identities until trained.

    ValueError for fewer layers than it has, or another width.
    """
    from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

    tokenizer = AutoTokenizer.from_pretrained(cfg.start)
    known = Qwen2_5_VLForConditionalGeneration.from_pretrained(cfg.start, dtype=torch.float32)
    text = known.config.text_config
    if cfg.layers < text.num_hidden_layers or cfg.width != text.hidden_size:
        has = f"{text.num_hidden_layers} layers of width {text.hidden_size}"
        raise ValueError(
            f"{cfg.start} has {has}; it can get more layers, but not be made to {cfg.layers} of width {cfg.width}"
        )
    model = build_model(cfg, tokenizer)
    old, layers = known.model.language_model.layers, model.model.language_model.layers
    new = range(len(old) // 2, len(old) // 2 + len(layers) - len(old))
    for place, layer in enumerate(layers):
        if place in new:
            nn.init.zeros_(layer.self_attn.o_proj.weight)
            nn.init.zeros_(layer.mlp.down_proj.weight)
        else:
            layer.load_state_dict(old[place - len(new) * (place > new.start)].state_dict())
    rest = {name: value for name, value in known.state_dict().items() if ".language_model.layers." not in name}
    model.load_state_dict(rest, strict=False)
    return tokenizer, model


def mrope(head: int) -> dict[str, Any]:
    """Rotary positions whose three axes alternate, so that rows and columns both get high and low frequencies.

    The usual three blocks leave the columns no frequency that distinguishes eight positions. The number of sections is
    a multiple of three, so that releases of transformers that repeat the sections agree with those that do not.
    """
    half = head // 2
    count = half - half % 3
    sections = [1] * (count - 1) + [1 + half - count]
    return {"rope_type": "default", "rope_theta": 100.0, "mrope_section": sections}


def save_miniature(model: nn.Module, tokenizer: Any, out: Path) -> None:
    """Save model (float16), processor and tokenizer in the Hugging Face layout."""
    from transformers import Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    images = Qwen2VLImageProcessorPil(
        patch_size=PREPARATION.patch, merge_size=PREPARATION.merge, temporal_patch_size=PREPARATION.frames,
        size={"shortest_edge": PREPARATION.min_pixels, "longest_edge": PREPARATION.max_pixels},
        image_mean=list(PREPARATION.mean), image_std=list(PREPARATION.std),
    )  # fmt: skip
    save_processor(without_videos(Qwen2_5_VLProcessor, images, tokenizer, chat_template=CHAT_TEMPLATE), out)
    images_config = json.loads((out / "preprocessor_config.json").read_text())
    videos = {k: v for k, v in images_config.items() if not k.startswith("image_processor")}
    (out / "video_preprocessor_config.json").write_text(
        json.dumps({**videos, "video_processor_type": "Qwen2VLVideoProcessor"}, indent=2) + "\n"
    )
    (out / "processor_config.json").write_text(json.dumps({"processor_class": "Qwen2_5_VLProcessor"}, indent=2) + "\n")
    half = type(model)(model.config).half()
    half.load_state_dict(model.state_dict())
    half.generation_config = model.generation_config
    half.save_pretrained(out)
