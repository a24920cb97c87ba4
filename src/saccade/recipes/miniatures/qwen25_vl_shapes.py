"""`qwen2.5-vl-shapes`: a Qwen2_5_VLForConditionalGeneration in miniature that sees the worlds of shapes, plates and puzzles.

The classes are the real ones (Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer with a chat template, Qwen2VLImageProcessor
with dynamic resolution, Qwen2_5_VLProcessor); only their sizes are small. Pictures are shown with 32 x 32 to 64 x 64 pixels,
one token for 8 x 8 of them, several pictures in a conversation. First the tower alone is told what lies in every cell, then
all of it answers questions. Boxes are loose and some answers wrong on purpose: room for reinforcement learning.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from saccade.models.processor import save, without_videos
from saccade.recipes.miniatures import _vl_course as taught
from saccade.recipes.miniatures import _vl_rows as rows
from saccade.recipes.miniatures import _vl_sight as sight
from saccade.recipes.miniatures._vl_descent import Descent, Rates
from saccade.recipes.miniatures._vl_scores import scores
from saccade.recipes.miniatures._vl_where import Where

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
TAGS = ("<answer>", "</answer>", "<think>", "</think>")
JSON = ('{"bbox_2d":[', '],"label":"', '"}')


@dataclass(frozen=True)
class Settings:
    """How the miniature is trained from nothing; how the one that is shipped was made says its card."""

    seed: int = 0
    width: int = 128
    layers: int = 6
    heads: int = 4
    sight_width: int = 96
    sight_layers: int = 4
    start: str = ""
    """Folder of such a miniature to go on from, in place of an untrained one; layers that it lacks are put in its middle."""
    sight_steps: int = 1_600
    sight_lr: float = 2e-3
    """Learning rate for the tower alone, of all but the matrices in its blocks."""
    sight_matrix_lr: float = 1e-2
    """Learning rate of these."""
    steps: int = 3_600
    batch: int = 32
    """Pictures a step."""
    asked: int = 8
    """Questions about each of them."""
    lr: float = 1.5e-3
    """Learning rate for all of it, of all but the matrices in blocks."""
    matrix_lr: float = 5e-3
    """Learning rate of these."""
    growing: float = 0.5
    """Share of the steps until scenes are as crowded and as variously worded as they get."""
    spoilt: float = 0.15
    """Share of the steps, the last ones, whose answers have the faults that follow: habits come late, skills before."""
    wrong: float = 0.15
    """Share of answers that are wrong on purpose."""
    loose: int = 5
    """Most pixels by which each edge of a box lies too far out."""
    untagged: float = 0.1
    """Share of tagged answers that lack a tag."""
    sufficient: float = 0.35
    """Share of first glances at a canvas whose box holds the digit that is asked for."""


Progress = Callable[[str, int, int, float], None]


def build(cfg: Settings, out: Path, progress: Progress) -> dict[str, Any]:
    """Train the miniature and write it to ``out``. Returns facts for its card (parameters, seconds, losses)."""
    began = time.time()
    tokenizer, model = begun(cfg) if cfg.start else untrained(cfg)
    heads = sight.Heads(cfg.width)
    model.model.visual.config._attn_implementation = "eager"  # for tiny pictures in bfloat16 faster than the fused kernel
    if not cfg.start:
        sight.look_around(model.model.visual)
    rates = Rates(cfg.sight_matrix_lr, cfg.sight_lr)
    seen = sight.train_sight(model.model.visual, heads, cfg.sight_steps, 64, rates, stage(cfg, 1), progress)
    midway = time.time()
    loss = train(cfg, model, heads, tokenizer, stage(cfg, 2), progress)
    write(model, tokenizer, out)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "parameters that see": sum(p.numel() for p in model.model.visual.parameters()),
        "seconds": f"{round(midway - began)} for the tower, {round(time.time() - midway)} for all of it",
        **{f"tower, {name}": value for name, value in seen.items()},
        "loss per token": loss,
    }


def untrained(cfg: Settings) -> tuple[Any, nn.Module]:
    """A tokenizer learnt from the worlds' texts and a model that knows nothing."""
    tokenizer = learn_tokenizer(stage(cfg, 0))
    return tokenizer, assemble(cfg, tokenizer)


def begun(cfg: Settings) -> tuple[Any, nn.Module]:
    """Tokenizer and model of an earlier build, which new layers in its middle leave as it is until they are trained.

    ValueError for fewer layers than it has, or another width.
    """
    from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

    tokenizer = AutoTokenizer.from_pretrained(cfg.start)
    known = Qwen2_5_VLForConditionalGeneration.from_pretrained(cfg.start, dtype=torch.float32)
    text = known.config.text_config
    if cfg.layers < text.num_hidden_layers or cfg.width != text.hidden_size:
        has = f"{text.num_hidden_layers} layers of width {text.hidden_size}"
        raise ValueError(f"{cfg.start} has {has}; it can get more layers, but not be made to {cfg.layers} of width {cfg.width}")
    model = assemble(cfg, tokenizer)
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


def stage(cfg: Settings, number: int) -> np.random.Generator:
    """A generator for one stage of the build, and torch's seeded alike, so that a stage can be repeated alone."""
    torch.manual_seed(1_000 * cfg.seed + number)
    return np.random.default_rng([cfg.seed, number])


def learn_tokenizer(rng: np.random.Generator) -> Any:
    """A Qwen2Tokenizer whose merges make a word of these worlds one token; numbers to 99, tags and SVG are tokens too."""
    from tokenizers import AddedToken, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    learner = Qwen2Tokenizer(vocab={}, merges=[]).backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False, min_frequency=2
    )
    learner.train_from_iterator(taught.corpus(rng), trainer)
    learned = json.loads(learner.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=[tuple(pair) for pair in learned["merges"]],
        eos_token="<|im_end|>",
        extra_special_tokens=list(SPECIAL),
    )
    numbers = [AddedToken(str(n), normalized=False, special=False) for n in range(10, 100)]
    words = [AddedToken(text, normalized=False, special=False) for text in (*TAGS, *JSON, *taught.SVG)]
    tokenizer.add_tokens([*numbers, *words])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def assemble(cfg: Settings, tokenizer: Any) -> nn.Module:
    """The untrained model."""
    from transformers import GenerationConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    number = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": cfg.width,
            "intermediate_size": 3 * cfg.width,
            "num_hidden_layers": cfg.layers,
            "num_attention_heads": cfg.heads,
            "num_key_value_heads": cfg.heads,
            "max_position_embeddings": 1024,
            "initializer_range": 0.06,
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "rope_parameters": mrope(cfg.width // cfg.heads),
        },
        vision_config={
            "depth": cfg.sight_layers,
            "hidden_size": cfg.sight_width,
            "intermediate_size": 8 * cfg.sight_width // 3,
            "num_heads": 4,
            "patch_size": sight.PATCH,
            "spatial_merge_size": sight.MERGE,
            "temporal_patch_size": 2,
            "window_size": 128,
            "out_hidden_size": cfg.width,
            "fullatt_block_indexes": list(range(cfg.sight_layers)),
            "initializer_range": 0.06,
        },
        image_token_id=number("<|image_pad|>"),
        video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True
    )
    return model


def mrope(head: int) -> dict[str, Any]:
    """Rotary positions whose three axes take turns, so that rows and columns both get fast and slow frequencies.

    The usual three blocks leave the columns none that tells eight places apart. The number of sections is a multiple of
    three, so that releases of transformers that walk through them twice agree with those that do it once.
    """
    half = head // 2
    count = half - half % 3
    sections = [1] * (count - 1) + [1 + half - count]
    return {"rope_type": "default", "rope_theta": 100.0, "mrope_section": sections}


def write(model: nn.Module, tokenizer: Any, out: Path) -> None:
    """Model (float16), processor and tokenizer in the Hugging Face layout."""
    from transformers import Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    images = Qwen2VLImageProcessorPil(
        patch_size=sight.PATCH,
        merge_size=sight.MERGE,
        temporal_patch_size=2,
        size={"shortest_edge": taught.FEWEST**2, "longest_edge": taught.MOST**2},
        image_mean=[sight.MEAN] * 3,
        image_std=[sight.STD] * 3,
    )
    save(without_videos(Qwen2_5_VLProcessor, images, tokenizer, chat_template=CHAT_TEMPLATE), out)
    shown = json.loads((out / "preprocessor_config.json").read_text())
    videos = {k: v for k, v in shown.items() if not k.startswith("image_processor")}
    (out / "video_preprocessor_config.json").write_text(
        json.dumps({**videos, "video_processor_type": "Qwen2VLVideoProcessor"}, indent=2) + "\n"
    )
    (out / "processor_config.json").write_text(json.dumps({"processor_class": "Qwen2_5_VLProcessor"}, indent=2) + "\n")
    half = type(model)(model.config).half()
    half.load_state_dict(model.state_dict())
    half.generation_config = model.generation_config
    half.save_pretrained(out)


def train(
    cfg: Settings, model: nn.Module, heads: nn.Module, tokenizer: Any, rng: np.random.Generator, progress: Progress
) -> float:
    """Cross-entropy of the answers' tokens, with the tower still told about cells and the writer about boxes."""
    where = Where(model, tokenizer)
    descent = Descent(model, [heads, where], Rates(cfg.matrix_lr, cfg.lr), cfg.steps, rise=100)
    model.train()
    smooth = 0.0
    for step, lesson in enumerate(taught.course(cfg, rng)):
        laid = rows.lay(tokenizer, lesson.rows)
        with torch.autocast("cpu", torch.bfloat16):
            tokens = rows.features(model.model.visual, laid.pictures)
            hidden = rows.states(model, laid, tokens)
            weight = laid.weight_BL[:, 1:]
            logits = model.lm_head(hidden[:, :-1][weight > 0]).float()
            each = F.cross_entropy(logits, laid.ids_BL[:, 1:][weight > 0], reduction="none")
            loss = answered = (each * weight[weight > 0]).sum() / weight.sum()
            if lesson.views is not None:
                cells = lesson.views.cells()
                at_cells, at_names = where.loss(laid, lesson.views, cells)
                loss = loss + 0.2 * heads.loss(torch.stack(tokens), cells)[0] + 0.1 * at_cells + 0.3 * at_names
        descent.step(loss)
        smooth = answered.item() if step == 0 else 0.98 * smooth + 0.02 * answered.item()
        progress("answers", step + 1, cfg.steps, smooth)
    where.close()
    model.eval()
    return smooth


def evaluate(folder: Path) -> dict[str, float]:
    """Held-out scores by skill, for the card."""
    return scores(folder)
