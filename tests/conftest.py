"""Tiny random pipelines of the real classes, saved to disk and loaded by name, as a user's checkpoint would be."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_language import qwen2, qwen25_vl

torch.set_num_threads(1)

# pytest-xdist tells its workers a terminal's width, which would wrap what commands print.
os.environ.pop("COLUMNS", None)
# A shell's background jobs ignore Ctrl-C, those of nohup a hangup, and their children inherit that; tests need both.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def sd3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random SD3.5-like pipeline: 16 px pictures, two CLIP encoders, no T5."""
    return _saved(_sd3(), tmp_path_factory.mktemp("sd3"))


@pytest.fixture(scope="session")
def flux_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random FLUX.1-like pipeline with embedded guidance, CLIP and T5."""
    return _saved(_flux(), tmp_path_factory.mktemp("flux"))


@pytest.fixture(scope="session")
def kontext_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random FLUX.1-Kontext-like pipeline, not distilled: classifier-free guidance is a second half."""
    from diffusers import FluxKontextPipeline

    return _saved(FluxKontextPipeline(**_flux(distilled=False).components), tmp_path_factory.mktemp("kontext"))


@pytest.fixture(scope="session")
def lm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2-like language model with its tokenizer."""
    folder = tmp_path_factory.mktemp("lm")
    model = qwen2(loud=2.0)
    model.model.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return roomy(folder)


@pytest.fixture(scope="session")
def vlm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2.5-VL-like model with room for an instruction."""
    folder = qwen25_vl(tmp_path_factory.mktemp("vlm"))
    return roomy(folder)


@pytest.fixture(scope="session")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP with its processor."""
    from transformers import CLIPConfig, CLIPModel, CLIPProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from saccade.builders import sd3_shapes
    from saccade.builders.parts import texts

    words = texts.clip_tokenizer(sd3_shapes.corpus(np.random.default_rng(0)), 16)
    sizes = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    ends = dict(eos_token_id=words.eos_token_id, bos_token_id=words.bos_token_id, pad_token_id=words.pad_token_id)
    text = sizes | ends | dict(vocab_size=len(words), max_position_embeddings=16)
    config = CLIPConfig(text_config=text, vision_config=sizes | dict(image_size=16, patch_size=4), projection_dim=16)
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    CLIPProcessor(images, words).save_pretrained(folder)
    return folder


def roomy(folder: Path) -> Path:
    """The same model with room for longer prompts."""
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"max_position_embeddings": 128', '"max_position_embeddings": 512'))
    return folder


def _saved(pipe, folder: Path) -> Path:
    pipe.save_pretrained(folder)
    return folder


def _words():
    from saccade.builders import sd3_shapes
    from saccade.builders.parts import texts

    return texts.byte_pairs(sd3_shapes.corpus(np.random.default_rng(0)))


def _clip(tokenizer, width: int, projected: bool):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=tokenizer.model_max_length, projection_dim=width,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def _vae(latent: int):
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=latent,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=16,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.5,
        shift_factor=0.1,
    )


def _sd3():
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTokenizer

    torch.manual_seed(0)
    vocab, merges = _words()
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=16)
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
            num_attention_heads=4, joint_attention_dim=48, caption_projection_dim=32, pooled_projection_dim=48,
            pos_embed_max_size=8, qk_norm="rms_norm", dual_attention_layers=(0,),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(4),
        text_encoder=_clip(tokenizer, 32, True),
        tokenizer=tokenizer,
        text_encoder_2=_clip(tokenizer, 16, True),
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )  # fmt: skip


def _flux(distilled: bool = True):
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTokenizer, T5Config, T5EncoderModel

    torch.manual_seed(0)
    vocab, merges = _words()
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=16)
    return FluxPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=24, pooled_projection_dim=32, guidance_embeds=distilled,
            axes_dims_rope=(4, 6, 6),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=_vae(4),
        text_encoder=_clip(tokenizer, 32, False),
        tokenizer=tokenizer,
        text_encoder_2=T5EncoderModel(
            T5Config(vocab_size=len(tokenizer), d_model=24, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
        ),
        tokenizer_2=tokenizer,
    )  # fmt: skip
