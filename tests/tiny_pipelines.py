"""Random tiny pipelines of real diffusers classes, one function a family, saved to disk as a checkpoint would be."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tiny_language
import torch

SIZE = 32
"""Edge of a picture of most of them, in pixels."""


def saved(name: str, folder: Path) -> Path:
    """The pipeline of a family, with weights from one seed, written to ``folder``."""
    torch.manual_seed(0)
    pipe = PIPELINES[name]()
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):  # many layers begin at zero, which would hide what is fed to them
            for p in part.parameters():
                p.data.add_(0.03 * torch.randn_like(p))
    pipe.save_pretrained(folder)
    return folder


@cache
def _words() -> tuple[dict[str, int], list[tuple[str, str]]]:
    from saccade.builders import sd3_shapes
    from saccade.builders.parts import texts

    return texts.byte_pairs(sd3_shapes.corpus(np.random.default_rng(0)))


def clip_words(length: int = 16) -> Any:
    from transformers import CLIPTokenizer

    vocab, merges = _words()
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length)


def clip(words: Any, width: int = 32, projected: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(words), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=words.model_max_length, projection_dim=width,
        bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def t5(words: Any, width: int = 24, umt5: bool = False) -> Any:
    from transformers import T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

    kind, config = (UMT5EncoderModel, UMT5Config) if umt5 else (T5EncoderModel, T5Config)
    return kind(config(vocab_size=len(words), d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2))


@cache
def qwen_words() -> Any:
    words = tiny_language.tokenizer()
    words.model_max_length = 512
    return words


def sizes(words: Any) -> dict[str, Any]:
    return tiny_language.sizes(words) | {"max_position_embeddings": 2048}


def qwen25_vl(words: Any) -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    at = words.convert_tokens_to_ids
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config=sizes(words) | {"rope_parameters": rope},
            vision_config=dict(
                depth=1, hidden_size=16, num_heads=2, intermediate_size=16, out_hidden_size=32, patch_size=4
            ),
            image_token_id=at("<|image_pad|>"),
            video_token_id=at("<|video_pad|>"),
            vision_start_token_id=at("<|vision_start|>"),
            vision_end_token_id=at("<|vision_end|>"),
        )
    )


def vae(latent: int = 4, levels: int = 2, **changes: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        **dict(
            block_out_channels=(8,) * levels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            latent_channels=latent,
            layers_per_block=1,
            norm_num_groups=4,
            sample_size=SIZE,
            mid_block_add_attention=False,
            scaling_factor=1.5,
        )
        | changes
    )


def flow(**settings: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**{"shift": 3.0} | settings)


VARIANCES = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)


def _unet(**changes: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        **dict(
            sample_size=SIZE // 8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=32, attention_head_dim=4,
        )
        | changes
    )  # fmt: skip


def stable_diffusion() -> Any:
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    words = clip_words()
    return StableDiffusionPipeline(
        unet=_unet(), vae=vae(4, levels=4), text_encoder=clip(words), tokenizer=words,
        scheduler=PNDMScheduler(**VARIANCES, skip_prk_steps=True, set_alpha_to_one=False),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def stable_diffusion_v() -> Any:
    """Stable Diffusion 2.1: v prediction, DDIM."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    pipe = stable_diffusion()
    scheduler = DDIMScheduler(**VARIANCES, clip_sample=False, set_alpha_to_one=False, prediction_type="v_prediction")
    return StableDiffusionPipeline(**pipe.components | {"scheduler": scheduler}, requires_safety_checker=False)


def stable_diffusion_xl() -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    words = clip_words()
    return StableDiffusionXLPipeline(
        unet=_unet(
            addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=80,
            cross_attention_dim=64, transformer_layers_per_block=(1, 1), use_linear_projection=True,
        ),
        vae=vae(4, levels=4), text_encoder=clip(words), tokenizer=words,
        text_encoder_2=clip(words, projected=True), tokenizer_2=words,
        scheduler=EulerDiscreteScheduler(**VARIANCES, timestep_spacing="leading"),
    )  # fmt: skip


def _sd3(scheduler: Any) -> Any:
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    words = clip_words()
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
            num_attention_heads=4, joint_attention_dim=64, caption_projection_dim=32, pooled_projection_dim=64,
            pos_embed_max_size=16, qk_norm="rms_norm", dual_attention_layers=(0,),
        ),
        scheduler=scheduler, vae=vae(4, shift_factor=0.1), text_encoder=clip(words, projected=True), tokenizer=words,
        text_encoder_2=clip(words, projected=True), tokenizer_2=words, text_encoder_3=t5(words, 64), tokenizer_3=words,
    )  # fmt: skip


def stable_diffusion_35() -> Any:
    return _sd3(flow())


def stable_diffusion_35_dynamic() -> Any:
    return _sd3(flow(use_dynamic_shifting=True))


def _flux(kind: Any, **changes: Any) -> Any:
    from diffusers import FluxTransformer2DModel

    words = clip_words()
    transformer = FluxTransformer2DModel(
        **dict(
            patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=24, pooled_projection_dim=32, guidance_embeds=True,
            axes_dims_rope=(4, 6, 6),
        )
        | changes
    )  # fmt: skip
    return kind(
        transformer=transformer, scheduler=flow(use_dynamic_shifting=True), vae=vae(4, shift_factor=0.1),
        text_encoder=clip(words), tokenizer=words, text_encoder_2=t5(words), tokenizer_2=words,
    )  # fmt: skip


def flux() -> Any:
    from diffusers import FluxPipeline

    return _flux(FluxPipeline)


def kontext() -> Any:
    from diffusers import FluxKontextPipeline

    return _flux(FluxKontextPipeline, guidance_embeds=False)


def _qwen_image_parts() -> dict[str, Any]:
    from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel

    words = qwen_words()
    return dict(
        transformer=QwenImageTransformer2DModel(
            patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=32, axes_dims_rope=(8, 4, 4),
        ),
        vae=AutoencoderKLQwenImage(
            base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.1] * 4, latents_std=[1.5] * 4
        ),
        text_encoder=qwen25_vl(words), tokenizer=words, scheduler=flow(use_dynamic_shifting=True),
    )  # fmt: skip


def qwen_image() -> Any:
    from diffusers import QwenImagePipeline

    return QwenImagePipeline(**_qwen_image_parts())


def _qwen_vl_processor(words: Any) -> Any:
    """Needs torchvision, as the library's class does."""
    from transformers import Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    sizes = dict(patch_size=4, merge_size=2, min_pixels=64, max_pixels=24 * 24)
    return Qwen2_5_VLProcessor(Qwen2VLImageProcessorPil(**sizes), words, Qwen2VLVideoProcessor(**sizes))


def qwen_image_edit() -> Any:
    from diffusers import QwenImageEditPipeline

    parts = _qwen_image_parts()
    return QwenImageEditPipeline(**parts, processor=_qwen_vl_processor(parts["tokenizer"]))


def z_image() -> Any:
    from diffusers import ZImagePipeline, ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    words = qwen_words()
    return ZImagePipeline(
        transformer=ZImageTransformer2DModel(
            in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=32,
            axes_dims=[8, 4, 4], axes_lens=[512, 32, 32],
        ),
        vae=vae(4, levels=4, shift_factor=0.1), text_encoder=Qwen3Model(Qwen3Config(**sizes(words), head_dim=8)),
        tokenizer=words, scheduler=flow(use_dynamic_shifting=True),
    )  # fmt: skip


def _gemma2(words: Any) -> Any:
    from transformers import Gemma2Config, Gemma2Model

    return Gemma2Model(Gemma2Config(**sizes(words), head_dim=8, query_pre_attn_scalar=8))


def sana() -> Any:
    from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel

    words = qwen_words()
    levels = 4
    return SanaPipeline(
        tokenizer=words, text_encoder=_gemma2(words),
        vae=AutoencoderDC(
            latent_channels=4, attention_head_dim=4, encoder_block_out_channels=(8,) * levels,
            decoder_block_out_channels=(8,) * levels, encoder_layers_per_block=(1,) * levels,
            decoder_layers_per_block=(1,) * levels, encoder_qkv_multiscales=((),) * levels,
            decoder_qkv_multiscales=((),) * levels, scaling_factor=0.5,
        ),
        transformer=SanaTransformer2DModel(
            in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=2,
            num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=32,
            sample_size=4,
        ),
        scheduler=DPMSolverMultistepScheduler(
            use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction", solver_order=2
        ),
    )  # fmt: skip


def pixart_sigma() -> Any:
    from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

    words = clip_words(64)
    return PixArtSigmaPipeline(
        tokenizer=words, text_encoder=t5(words), vae=vae(4, levels=4),
        transformer=PixArtTransformer2DModel(
            num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2,
            cross_attention_dim=16, sample_size=4, caption_channels=24, use_additional_conditions=False,
        ),
        scheduler=DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear"),
    )  # fmt: skip


def lumina2() -> Any:
    from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel

    words = qwen_words()
    return Lumina2Pipeline(
        transformer=Lumina2Transformer2DModel(
            sample_size=4, in_channels=4, hidden_size=32, num_layers=2, num_refiner_layers=1, num_attention_heads=2,
            num_kv_heads=1, multiple_of=16, axes_dim_rope=(8, 4, 4), axes_lens=(512, 32, 32), cap_feat_dim=32,
        ),
        scheduler=flow(use_dynamic_shifting=True), vae=vae(4, levels=4, shift_factor=0.1),
        text_encoder=_gemma2(words), tokenizer=words,
    )  # fmt: skip


def auraflow() -> Any:
    from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel

    words = clip_words(64)
    return AuraFlowPipeline(
        tokenizer=words, text_encoder=t5(words, umt5=True), vae=vae(4, levels=4),
        transformer=AuraFlowTransformer2DModel(
            sample_size=8, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=8,
            num_attention_heads=2, joint_attention_dim=24, caption_projection_dim=16, pos_embed_max_size=64,
        ),
        scheduler=flow(),
    )  # fmt: skip


def chroma() -> Any:
    from diffusers import ChromaPipeline, ChromaTransformer2DModel

    words = clip_words(64)
    return ChromaPipeline(
        scheduler=flow(use_dynamic_shifting=True), vae=vae(4, levels=4, shift_factor=0.1), text_encoder=t5(words),
        tokenizer=words,
        transformer=ChromaTransformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=24, axes_dims_rope=(4, 6, 6), approximator_num_channels=8, approximator_hidden_dim=16,
            approximator_layers=1,
        ),
    )  # fmt: skip


def _flux2_parts(text_width: int, guided: bool) -> dict[str, Any]:
    from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel

    return dict(
        vae=AutoencoderKLFlux2(
            block_out_channels=(8,) * 4, layers_per_block=1, norm_num_groups=4, latent_channels=4, sample_size=SIZE
        ),
        transformer=Flux2Transformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=3 * text_width, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=guided,
        ),
        scheduler=flow(use_dynamic_shifting=True),
    )  # fmt: skip


def flux2() -> Any:
    from diffusers import Flux2Pipeline
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration, PixtralProcessor
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    words = qwen_words()
    text = sizes(words) | dict(hidden_size=16, num_hidden_layers=30, model_type="mistral", head_dim=8)
    vision = dict(
        model_type="pixtral", hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        patch_size=4, image_size=16,
    )  # fmt: skip
    config = Mistral3Config(
        text_config=text, vision_config=vision, image_token_id=words.convert_tokens_to_ids("<|image_pad|>")
    )
    images = PixtralImageProcessorPil(patch_size=4, size={"longest_edge": 16})
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for p in m['content'] %}{{ p['text'] }}{% endfor %}"
        "<|im_end|>\n{% endfor %}"
    )
    marks = dict(image_token="<|image_pad|>", image_break_token="<|vision_start|>", image_end_token="<|vision_end|>")
    processor = PixtralProcessor(images, words, patch_size=4, chat_template=template, **marks)
    return Flux2Pipeline(
        text_encoder=Mistral3ForConditionalGeneration(config), tokenizer=processor, **_flux2_parts(16, guided=True)
    )


def flux2_klein() -> Any:
    from diffusers import Flux2KleinPipeline
    from transformers import Qwen3Config, Qwen3ForCausalLM

    words = qwen_words()
    text = Qwen3ForCausalLM(Qwen3Config(**sizes(words) | dict(hidden_size=16, num_hidden_layers=28), head_dim=8))
    return Flux2KleinPipeline(text_encoder=text, tokenizer=words, **_flux2_parts(16, guided=False))


def ovis_image() -> Any:
    from diffusers import OvisImagePipeline, OvisImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    words = qwen_words()
    return OvisImagePipeline(
        scheduler=flow(use_dynamic_shifting=True), vae=vae(4, levels=4, shift_factor=0.1),
        text_encoder=Qwen3Model(Qwen3Config(**sizes(words), head_dim=8)), tokenizer=words,
        transformer=OvisImageTransformer2DModel(
            in_channels=16, out_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=32, axes_dims_rope=(4, 6, 6),
        ),
    )  # fmt: skip


def krea2() -> Any:
    from diffusers import Krea2Pipeline, Krea2Transformer2DModel
    from transformers import Qwen3VLConfig, Qwen3VLModel

    words = qwen_words()
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 1e4, "mrope_interleaved": True}
    vision = dict(
        depth=1, hidden_size=16, num_heads=2, intermediate_size=16, out_hidden_size=32, patch_size=4,
        deepstack_visual_indexes=[0], num_position_embeddings=16,
    )  # fmt: skip
    text = sizes(words) | {"rope_parameters": rope, "head_dim": 8}
    return Krea2Pipeline(
        scheduler=flow(use_dynamic_shifting=True), vae=_qwen_image_parts()["vae"],
        text_encoder=Qwen3VLModel(Qwen3VLConfig(text_config=text, vision_config=vision)), tokenizer=words,
        transformer=Krea2Transformer2DModel(
            in_channels=16, num_layers=1, attention_head_dim=16, num_attention_heads=2, num_key_value_heads=1,
            intermediate_size=32, timestep_embed_dim=16, text_hidden_dim=32, num_text_layers=2,
            text_num_attention_heads=2, text_num_key_value_heads=2, text_intermediate_size=32,
            num_layerwise_text_blocks=1, num_refiner_text_blocks=1, axes_dims_rope=(8, 4, 4),
        ),
        text_encoder_select_layers=(1, 2),
    )  # fmt: skip


def hunyuan_image() -> Any:
    from diffusers import AutoencoderKLHunyuanImage, HunyuanImagePipeline, HunyuanImageTransformer2DModel
    from diffusers.guiders import AdaptiveProjectedMixGuidance
    from transformers import ByT5Tokenizer

    words, glyphs = qwen_words(), ByT5Tokenizer()
    return HunyuanImagePipeline(
        scheduler=flow(),
        vae=AutoencoderKLHunyuanImage(
            in_channels=3, out_channels=3, latent_channels=8, block_out_channels=(32, 32), layers_per_block=1,
            spatial_compression_ratio=2, sample_size=SIZE, scaling_factor=0.7,
        ),
        text_encoder=qwen25_vl(words), tokenizer=words, text_encoder_2=t5(range(384), 24), tokenizer_2=glyphs,
        transformer=HunyuanImageTransformer2DModel(
            in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=16, num_layers=1,
            num_single_layers=1, num_refiner_layers=1, patch_size=(2, 2), text_embed_dim=32, text_embed_2_dim=24,
            rope_axes_dim=(8, 8),
        ),
        guider=AdaptiveProjectedMixGuidance(), ocr_guider=AdaptiveProjectedMixGuidance(),
    )  # fmt: skip


PIPELINES: dict[str, Callable[[], Any]] = {
    "SD 1.5": stable_diffusion,
    "SD 2.1": stable_diffusion_v,
    "SDXL": stable_diffusion_xl,
    "SD 3.5": stable_diffusion_35,
    "SD 3.5, dynamic shift": stable_diffusion_35_dynamic,
    "FLUX.1": flux,
    "FLUX.1 Kontext": kontext,
    "Qwen-Image": qwen_image,
    "Qwen-Image-Edit": qwen_image_edit,
    "Z-Image": z_image,
    "Sana": sana,
    "PixArt-Sigma": pixart_sigma,
    "Lumina 2": lumina2,
    "AuraFlow": auraflow,
    "Chroma": chroma,
    "FLUX.2": flux2,
    "FLUX.2 klein": flux2_klein,
    "Ovis-Image": ovis_image,
    "Krea 2": krea2,
    "HunyuanImage": hunyuan_image,
}
EDITORS = ("FLUX.1 Kontext", "Qwen-Image-Edit")
"""Families whose prompts have a picture."""
NEEDS = dict.fromkeys(("Qwen-Image-Edit", "FLUX.2"), "torchvision")
"""Packages that a family's own classes need."""


def as_latents(pipe: Any, noise: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """Standard normal noise as the latents that a plain pipeline prepares, of which ``drawn`` is an example."""
    if noise.shape != drawn.shape:  # FLUX.1's own class keeps its latents unpacked
        return pipe._pack_latents(noise, *noise.shape)
    return noise * getattr(pipe.scheduler, "init_noise_sigma", 1.0)
