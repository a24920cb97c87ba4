"""The untrained parts of `janus-shapes`: its processor with a tokenizer, and the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from saccade.builders.parts.texts import decoder_config, special_token_ids

PATCH = 4
"""Pixels of a picture's side that a code stands for."""

SPECIAL = ("<pad>", "<bos>", "<eos>", "<image>", "<boi>", "<eoi>", "<|User|>", "<|Assistant|>")

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|User|>' if message['role'] == 'user' else '<|Assistant|>' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endif %}"
    "{{ '<eos>' if message['role'] == 'assistant' else '' }}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|>{% endif %}"
)


def make_processor(size: int, texts: Sequence[str]) -> Any:
    """The real processor around a byte-level tokenizer learnt from ``texts``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import JanusProcessor, PreTrainedTokenizerFast
    from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer, learner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    learner.train_from_iterator(texts, trainer)
    learner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=learner,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens={"image_token": "<image>", "boi_token": "<boi>", "eoi_token": "<eoi>"},
    )
    half, sides = [0.5] * 3, {"height": size, "width": size}
    images = JanusImageProcessorPil(size=sides, min_size=PATCH, image_mean=half, image_std=half)
    return JanusProcessor(images, tokenizer, chat_template=CHAT_TEMPLATE, num_image_tokens=(size // PATCH) ** 2)


def assemble(cfg: Any, tokenizer: Any) -> nn.Module:
    """The untrained model of a build's settings."""
    from transformers import (
        GenerationConfig,
        JanusConfig,
        JanusForConditionalGeneration,
        JanusVisionConfig,
        JanusVQVAEConfig,
        LlamaConfig,
    )

    vision = JanusVisionConfig(
        hidden_size=cfg.vision_width, num_hidden_layers=2, num_attention_heads=2, image_size=cfg.size, patch_size=PATCH,
        mlp_ratio=3.0, projection_dim=cfg.width, num_image_tokens=(cfg.size // PATCH) ** 2,
    )  # fmt: skip
    vq = JanusVQVAEConfig(
        embed_dim=8, num_embeddings=cfg.codes, latent_channels=32, base_channels=32, channel_multiplier=[1, 1, 2],
        num_res_blocks=0, projection_dim=cfg.width, image_token_embed_dim=cfg.width,
    )  # fmt: skip
    text = LlamaConfig(**decoder_config(tokenizer, cfg.width, cfg.layers, cfg.heads))
    number = tokenizer.convert_tokens_to_ids
    sizes = {"text_config": text, "vision_config": vision, "vq_config": vq}
    model = JanusForConditionalGeneration(
        JanusConfig(**sizes, image_token_id=number("<image>"), tie_word_embeddings=True)
    )
    boi = {"boi_token_id": number("<boi>")}
    model.generation_config = GenerationConfig(
        do_sample=True, guidance_scale=3.0, generation_kwargs=boi, **special_token_ids(tokenizer)
    )
    return model
