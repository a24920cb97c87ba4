"""The untrained parts of `kontext-shapes`: a transformer, an autoencoder that exists already, and two readers of texts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from math import log
from pathlib import Path
from typing import Any

from saccade.models.locate import locate
from saccade.recipes.miniatures.sd3_shapes import byte_pairs

_RARE = -20.0
"""Score of a single character as a piece, so that only words nobody has seen are spelt."""


def assemble(texts: Sequence[str], autoencoder: str, width: int, double: int, single: int, text_length: int) -> Any:
    """The untrained FluxKontextPipeline, whose tokenizers know ``texts``; ``autoencoder`` names a pipeline that has one."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxKontextPipeline, FluxTransformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

    vocab, merges = byte_pairs(texts)
    words = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=text_length + 2)
    pieces = T5Tokenizer(vocab=scored(texts), extra_ids=0, additional_special_tokens=[], model_max_length=text_length)
    vae = AutoencoderKL.from_pretrained(Path(locate(autoencoder)) / "vae")
    clip = CLIPTextConfig(
        vocab_size=len(words), hidden_size=64, intermediate_size=192, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=words.model_max_length, projection_dim=64,
        bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id,
    )  # fmt: skip
    t5 = T5Config(
        vocab_size=len(pieces), d_model=width, d_kv=32, d_ff=2 * width, num_layers=2, num_heads=width // 32, dropout_rate=0.0
    )
    pipe = FluxKontextPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1, in_channels=4 * vae.config.latent_channels, num_layers=double, num_single_layers=single,
            attention_head_dim=32, num_attention_heads=width // 32, joint_attention_dim=width, pooled_projection_dim=64,
            guidance_embeds=False, axes_dims_rope=(8, 12, 12),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=vae,
        text_encoder=CLIPTextModel(clip),
        tokenizer=words,
        text_encoder_2=T5EncoderModel(t5),
        tokenizer_2=pieces,
    )  # fmt: skip
    # Words start far enough apart to be told from one another at once.
    pipe.text_encoder.get_input_embeddings().weight.data.normal_(0, 0.3)
    return pipe


def scored(texts: Sequence[str]) -> list[tuple[str, float]]:
    """Pieces of a T5 tokenizer with their log-probabilities: the special ones, words, and single characters."""
    counts = Counter(piece for text in texts for piece in re.findall(r"▁?\w+|▁?[^\w\s▁]", "▁" + text.replace(" ", " ▁")))
    total = sum(counts.values())
    words = {word: log(count / total) for word, count in sorted(counts.items())}
    letters = [chr(code) for code in range(33, 127)] + ["▁"]
    return [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *words.items(), *((c, _RARE) for c in letters if c not in words)]
