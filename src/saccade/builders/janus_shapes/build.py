"""`janus-shapes`: a miniature JanusForConditionalGeneration that draws the world of shapes and answers questions on it.

The classes are the real ones (a Llama decoder, JanusVQVAE, the vision tower, JanusProcessor); only their sizes are
small. A picture of 32 px is 64 codes. It begins with single objects, then learns all scenes in one wording, then in
every wording of training. By then a share of the captions describes another scene of the same kind on purpose: the base
knows the right pictures and mixes them up, which leaves room for reinforcement learning. Between them it learns to
answer short questions about pictures. With everything at once from the start, captions did not come to decide what is
drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from saccade.builders.janus_shapes.codes import codes_of, fidelity, train_codes
from saccade.builders.janus_shapes.curriculum import Curriculum, answer_loss, code_loss
from saccade.builders.janus_shapes.parts import assemble, make_processor
from saccade.builders.parts.stages import (
    LearningRates,
    Progress,
    Step,
    muon_and_adamw,
    parameter_count,
    run_steps,
    seed_stage,
)
from saccade.core import mean_scores
from saccade.evaluation.scoring import HELD_OUT_SEED
from saccade.models.language.janus import CodeModel, ImageTokenGenerator, load_image_token_generator
from saccade.policies.image_tokens import ImageTokenPolicy
from saccade.policies.tokens import TokenPolicy
from saccade.random import seeds
from saccade.worlds import questions, shapes
from saccade.worlds.questions.task import by_source
from saccade.worlds.shapes.task import DrawingTask

SKILLS = ("color", "shape", "count", "verdict", "caption")

QUESTION_SCENES = {"objects": (1, 3), "radius": (0.11, 0.13)}
"""Number of objects in the pictures of questions, and their radius as a fraction of the side."""


@dataclass(frozen=True)
class Settings:
    """How the miniature is trained; the defaults made the one that is shipped."""

    seed: int = 0
    """Seed of data, batches and initial weights."""
    size: int = 32
    """Edge of a picture in pixels."""
    scenes: int = 40_000
    """Scenes that are rendered and encoded once; their captions are sampled in each batch."""
    codes: int = 256
    """Number of entries of the codebook: codes that a place in a picture can have."""
    codebook: str = ""
    """Folder of an earlier build whose codes are taken, to spare their training."""
    vq_steps: int = 900
    """Number of training steps of the autoencoder, which makes codes of pictures."""
    vq_batch: int = 32
    """Number of pictures in a batch of the autoencoder."""
    vq_lr: float = 4e-3
    """Peak learning rate of the autoencoder."""
    width: int = 128
    """Width of the decoder."""
    layers: int = 4
    """Number of layers of the decoder."""
    heads: int = 4
    """Number of attention heads of the decoder."""
    vision_width: int = 64
    """Width of the vision tower, which has two layers."""
    steps: int = 5_200
    """Number of training steps."""
    batch: int = 64
    """Number of rows in a batch."""
    rates: LearningRates = LearningRates(4e-3, 2e-3)
    """Peak learning rates of the decoder and its heads."""
    single_object_share: float = 0.1
    """Share of the steps, the first ones, that show scenes of one object."""
    single_wording_share: float = 0.4
    """Share of the steps, the first ones, with true captions of one wording and no questions."""
    wrong_caption_share: float = 0.25
    """Share of the later captions that describe another scene of the same kind."""
    dropout: float = 0.1
    """Share of captions without text, for classifier-free guidance."""
    questions: int = 12_000
    """Number of questions with pictures, sampled once."""
    questions_every: int = 4
    """Number of later steps of which one trains on a batch of questions instead of captions; 0 trains on none."""
    tags: tuple[str, ...] = tuple(tag for tag in shapes.TAGS if tag != "text")
    """Kinds of scenes, sampled uniformly; text is left out, since the model is too small for letters."""


def build(cfg: Settings, out: Path, progress: Progress) -> dict[str, Any]:
    """Train the miniature and write it to ``out``. Returns facts for its card."""
    processor = make_processor(cfg.size, texts(cfg, seed_stage(cfg.seed, "texts")))
    model = assemble(cfg, processor.tokenizer)
    vq = model.model.vqmodel
    made = learn_codes(cfg, vq, seed_stage(cfg.seed, "codes"), progress)
    rng = seed_stage(cfg.seed, "language model")
    means = train(cfg, model, processor, rng, progress)
    scenes, meanings = shapes.sample_scenes(500, rng, cfg.tags)
    model.half().save_pretrained(out)
    processor.save_pretrained(out)
    return {
        "parameters": parameter_count(model),
        "parameters of the decoder": parameter_count(model.model.language_model),
        **made,
        "points of pictures through the codes": fidelity(vq.float(), shapes.render(scenes, cfg.size), meanings),
        "loss per code": means["codes of captions"],
        "loss per answer's token": means.get("answers", nan),
    }


def texts(cfg: Settings, rng: np.random.Generator) -> list[str]:
    """What the tokenizer learns its merges from."""
    meanings = shapes.meanings_of(6_000, rng, cfg.tags)
    captions = [shapes.caption(meaning, int(rng.choice(shapes.WORDINGS))) for meaning in meanings]
    return captions + [" ".join(questions.vocabulary())] * 20


def learn_codes(cfg: Settings, vq: nn.Module, rng: np.random.Generator, progress: Progress) -> dict[str, Any]:
    """Train what turns pictures into codes, or take the weights of an earlier build's. Returns what the card says of
    it.
    """
    if cfg.codebook:
        vq.load_state_dict(load_image_token_generator(cfg.codebook).network.model.vqmodel.state_dict())
        return {"codes": "those of an earlier build"}
    pictures = shapes.render(shapes.sample_scenes(10_000, rng, cfg.tags)[0], cfg.size)
    return {"pixel loss of the codes": train_codes(vq, pictures, cfg.vq_steps, cfg.vq_batch, cfg.vq_lr, rng, progress)}


def train(
    cfg: Settings, model: nn.Module, processor: Any, rng: np.random.Generator, progress: Progress
) -> dict[str, float]:
    """Pictures' codes given captions and answers given pictures; the running losses of both."""
    inner = model.model
    scenes, meanings = shapes.sample_scenes(cfg.scenes, rng, cfg.tags)
    codes = codes_of(inner.vqmodel, shapes.render(scenes, cfg.size))
    beside = [inner.aligner, inner.generation_embeddings, inner.generation_aligner, inner.generation_head]
    network = nn.ModuleList([inner.language_model, inner.vision_model])
    descent = muon_and_adamw(network, beside, cfg.rates, cfg.steps, warmup=60)
    return run_steps(batches(cfg, model, processor, codes, Curriculum(cfg, meanings), rng), descent, progress)


def batches(
    cfg: Settings, model: nn.Module, processor: Any, codes: Tensor, curriculum: Curriculum, rng: np.random.Generator
) -> Iterator[Step]:
    """Captions and, where the curriculum says so, questions."""
    pool = questions.sample_problems(cfg.questions, cfg.seed, SKILLS, "train", cfg.size, **QUESTION_SCENES)
    code_model = CodeModel(model)
    for step in range(cfg.steps):
        with torch.autocast("cpu", torch.bfloat16):
            if curriculum.asks(step):
                some = [pool[i] for i in rng.integers(len(pool), size=cfg.batch)]
                batch = Step("answers", answer_loss(model, processor, some))
            else:
                index, prompts = curriculum.captions(step, rng)
                dropped = torch.from_numpy(rng.random(cfg.batch) < cfg.dropout)
                batch = Step(
                    "codes of captions", code_loss(code_model, processor, prompts, dropped, codes[index].long())
                )
        yield batch


def evaluate(folder: Path) -> dict[str, float]:
    """Points of pictures of held-out meanings, by guidance, wording and tag; exact answers to held-out questions, by
    skill.
    """
    image_generator = load_image_token_generator(folder)
    return drawing_scores(image_generator) | answer_scores(image_generator)


def drawing_scores(
    image_generator: ImageTokenGenerator, guidances: Sequence[float] = (1.0, 3.0), count: int = 192
) -> dict[str, float]:
    """The judge's points with and without guidance."""
    task = DrawingTask(wordings="all", held_out_size=count)
    found = {
        scale: mean_scores(task.score_by_tag(ImageTokenPolicy(image_generator, [], guidance=scale).greedy().rollout))
        for scale in guidances
    }
    return {f"guidance {scale:g}, {name}": value for scale, scores in found.items() for name, value in scores.items()}


def answer_scores(image_generator: ImageTokenGenerator, count: int = 500) -> dict[str, float]:
    """Share of exact answers of the likeliest words."""
    policy = TokenPolicy(image_generator.language, [], max_new_tokens=24, temperature=0.0)
    problems = questions.sample_problems(count, HELD_OUT_SEED, SKILLS, "held_out", 32, **QUESTION_SCENES)
    texts = policy.rollout(problems, seeds(HELD_OUT_SEED, count, "evaluation")).outputs
    correct = torch.tensor([text.strip() == problem.answer["text"] for text, problem in zip(texts, problems)]).double()
    found = mean_scores(by_source(problems, correct))
    return {f"answers, {name}": found[name] for name in SKILLS}
