"""The untrained parts of `kontext-shapes`: a transformer, an autoencoder that exists already, and two readers of texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saccade.models.locate import locate
from saccade.recipes.miniatures._texts import clip_config, clip_tokenizer, scored, spread


def assemble(texts: Sequence[str], autoencoder: str, width: int, double: int, single: int, text_length: int) -> Any:
    """The untrained FluxKontextPipeline, whose tokenizers know ``texts``; ``autoencoder`` names a pipeline that has one."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxKontextPipeline, FluxTransformer2DModel
    from transformers import CLIPTextModel, T5Config, T5EncoderModel, T5Tokenizer

    words = clip_tokenizer(texts, text_length + 2)
    pieces = T5Tokenizer(vocab=scored(texts), extra_ids=0, additional_special_tokens=[], model_max_length=text_length)
    vae = AutoencoderKL.from_pretrained(Path(locate(autoencoder)) / "vae")
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
        text_encoder=CLIPTextModel(clip_config(words, 64)),
        tokenizer=words,
        text_encoder_2=T5EncoderModel(t5),
        tokenizer_2=pieces,
    )  # fmt: skip
    spread(pipe.text_encoder)
    return pipe
