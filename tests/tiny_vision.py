"""Random tiny vision-language models of several real classes with their real processors, saved to disk, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tiny_language
import torch

from saccade.models.language.model import LanguageModel, load_language_model
from saccade.models.language.processor import save_processor, without_videos

PARTS = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}PICTURE{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VISION = dict(depth=2, hidden_size=16, num_heads=2, intermediate_size=16, out_hidden_size=32, patch_size=4)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def _tokens(words: Any) -> dict[str, int]:
    names = dict(
        image="<|image_pad|>", video="<|video_pad|>", vision_start="<|vision_start|>", vision_end="<|vision_end|>"
    )
    return {f"{k}_token_id": words.convert_tokens_to_ids(v) for k, v in names.items()}


def _qwen_processor(kind: Any, words: Any) -> Any:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    images = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, min_pixels=64, max_pixels=24 * 24)
    template = PARTS.replace("PICTURE", "<|vision_start|><|image_pad|><|vision_end|>")
    return without_videos(kind, images, words, chat_template=template)


def qwen25(words: Any) -> tuple[Any, Any]:
    """Positions with rows and columns, windows of attention in the vision encoder."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    text = tiny_language.sizes(words) | {"rope_parameters": rope, "max_position_embeddings": 512}
    vision = VISION | dict(window_size=16, fullatt_block_indexes=[1])
    model = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=text, vision_config=vision, **_tokens(words))
    )
    return model, _qwen_processor(Qwen2_5_VLProcessor, words)


def qwen3(words: Any) -> tuple[Any, Any]:
    """Features of the vision encoder that enter deeper layers too."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor

    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 1e4, "mrope_interleaved": True}
    text = tiny_language.sizes(words) | {"rope_parameters": rope, "head_dim": 8, "max_position_embeddings": 512}
    vision = VISION | dict(deepstack_visual_indexes=[0], num_position_embeddings=16)
    model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, **_tokens(words)))
    return model, _qwen_processor(Qwen3VLProcessor, words)


def llava(words: Any) -> tuple[Any, Any]:
    """One size of pictures, one axis of positions, no videos."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    sizes = tiny_language.sizes(words) | {"max_position_embeddings": 512}
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=4
    )
    image = words.convert_tokens_to_ids("<|image_pad|>")
    config = LlavaConfig(vision_config=vision, text_config=LlamaConfig(**sizes), image_token_id=image)
    images = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    template = PARTS.replace("PICTURE", "<|image_pad|>")
    processor = LlavaProcessor(
        images, words, patch_size=4, vision_feature_select_strategy="default", chat_template=template,
        image_token="<|image_pad|>", num_additional_image_tokens=1,
    )  # fmt: skip
    return LlavaForConditionalGeneration(config), processor


def gemma3(words: Any) -> tuple[Any, Any]:
    """Sliding windows, picture tokens that attend to one another, a frame of tokens around a picture."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3Processor
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    words.add_tokens(["<boi>", "<eoi>"], special_tokens=True)
    words._set_model_specific_special_tokens(
        {"boi_token": "<boi>", "eoi_token": "<eoi>", "image_token": "<|image_pad|>"}
    )
    text = tiny_language.sizes(words) | dict(
        head_dim=8, query_pre_attn_scalar=8, max_position_embeddings=512, bos_token_id=0, sliding_window=16,
        layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    vision = dict(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=4
    )
    numbers = words.convert_tokens_to_ids(["<|image_pad|>", "<boi>", "<eoi>"])
    tokens = dict(zip(("image_token_id", "boi_token_id", "eoi_token_id"), numbers))
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, **tokens)
    images = Gemma3ImageProcessorPil(size={"height": 16, "width": 16})
    processor = Gemma3Processor(images, words, chat_template=PARTS.replace("PICTURE", "<boi>"), image_seq_length=4)
    model = Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(
        model.model.multi_modal_projector.mm_input_projection_weight
    )  # zeros at first: it would be blind
    return model, processor


KINDS = {"qwen25": qwen25, "qwen3": qwen3, "llava": llava, "gemma3": gemma3}


def saved(kind: str, folder: Path, loud: float = 6.0) -> Path:
    """Write a model whose weights are scaled up by ``loud``, so that its distributions are far from uniform."""
    words = tiny_language.tokenizer()
    torch.manual_seed(0)
    model, processor = KINDS[kind](words)
    for p in model.parameters():
        p.data.mul_(loud if p.ndim > 1 else 1.0)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    save_processor(processor, folder)
    return folder


def language(kind: str, folder: Path) -> LanguageModel:
    return load_language_model(saved(kind, folder))
