"""Two random-weight SD3 pipelines in the ordinary folder layout: tiny (64 px) and small (256 px, 461 tokens)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Shape:
    """Sizes of a pipeline and of its pictures."""

    size: int
    """Edge of a picture in pixels."""
    layers: int
    heads: int
    head: int
    """Width of an attention head."""
    latent: int
    """Channels of a latent."""
    vae: tuple[int, ...]
    """Channels of the autoencoder's levels; every level but one halves the edge."""
    words: int
    """Tokens of the CLIP encoders."""
    zeros: int
    """Tokens that stand for the absent T5."""
    text: int
    """Width of each of the two text encoders."""

    @property
    def tokens(self) -> int:
        """Tokens of a picture and its text."""
        return (self.size // 2 ** len(self.vae)) ** 2 + self.words + self.zeros


TINY = Shape(size=64, layers=2, heads=4, head=16, latent=4, vae=(8, 8, 8), words=16, zeros=1, text=32)
SMALL = Shape(size=256, layers=6, heads=4, head=64, latent=16, vae=(8, 8, 16, 16), words=77, zeros=128, text=128)


def save(shape: Shape, folder: Path) -> Path:
    """Write the pipeline with random weights. Returns the folder."""
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

    torch.manual_seed(0)
    words = _tokenizer(shape.words)
    StableDiffusion3Pipeline(
        transformer=_transformer(shape),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_autoencoder(shape),
        text_encoder=_encoder(shape, len(words)),
        tokenizer=words,
        text_encoder_2=_encoder(shape, len(words)),
        tokenizer_2=words,
        text_encoder_3=None,
        tokenizer_3=None,
    ).save_pretrained(folder)
    return folder


def _transformer(shape: Shape) -> Any:
    from diffusers import SD3Transformer2DModel

    edge = shape.size // 2 ** (len(shape.vae) - 1)
    network = SD3Transformer2DModel(
        sample_size=edge, patch_size=2, in_channels=shape.latent, out_channels=shape.latent, num_layers=shape.layers,
        attention_head_dim=shape.head, num_attention_heads=shape.heads, joint_attention_dim=2 * shape.text,
        caption_projection_dim=shape.heads * shape.head, pooled_projection_dim=2 * shape.text,
        pos_embed_max_size=edge // 2, qk_norm="rms_norm",
    )  # fmt: skip
    return network


def _autoencoder(shape: Shape) -> Any:
    from diffusers import AutoencoderKL

    levels = len(shape.vae)
    return AutoencoderKL(
        block_out_channels=shape.vae,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=shape.latent,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=shape.size,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.5,
        shift_factor=0.06,
    )


def _encoder(shape: Shape, vocabulary: int) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=vocabulary, hidden_size=shape.text, intermediate_size=4 * shape.text, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=shape.words, projection_dim=shape.text,
            bos_token_id=0, eos_token_id=1, pad_token_id=1,
        )
    )  # fmt: skip


def _tokenizer(length: int) -> Any:
    """CLIP's tokenizer with an alphabet and no merges: a token a letter."""
    from transformers import CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    symbols = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    return CLIPTokenizer(vocab={s: i for i, s in enumerate(symbols)}, merges=[], model_max_length=length)
