"""`janus-shapes`: a JanusForConditionalGeneration in miniature that draws the world of shapes code by code, and looks at it.

The classes are the real ones (a Llama decoder, JanusVQVAE, the vision tower, JanusProcessor); only their sizes are small. A
picture of 32 px is 64 codes. It begins with single objects, then learns all scenes in one wording, then in every wording of
training. By then a share of the captions describes another scene of the same kind on purpose: the base knows the right
pictures and mixes them up, which leaves room for reinforcement learning. Between them it learns to answer short questions
about pictures. With everything at once from the start, captions did not come to decide what is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.core import Problem, seeds
from saccade.models.janus import CodeModel, Painter, load
from saccade.policies.image_tokens import ImageTokenPolicy
from saccade.policies.tokens import TokenPolicy
from saccade.recipes.miniatures._janus_codes import codes_of, fidelity, train_codes
from saccade.recipes.miniatures._janus_parts import SPECIAL, assemble, make_processor
from saccade.recipes.miniatures._pictures import pixels
from saccade.recipes.miniatures._stages import Progress, Rates, Step, by_muon, descend, size_of, stage
from saccade.recipes.miniatures._texts import alike
from saccade.tasks import DrawingTask
from saccade.tasks.answering import by_source
from saccade.worlds import questions, shapes

SKILLS = ("color", "shape", "count", "verdict", "caption")


@dataclass(frozen=True)
class Settings:
    """How the miniature is trained; the defaults made the one that is shipped."""

    seed: int = 0
    size: int = 32
    """Edge of a picture in pixels."""
    scenes: int = 40_000
    """Scenes that are rendered and encoded once; their captions are drawn anew each time."""
    codes: int = 256
    """Codes that a place in a picture can have."""
    codebook: str = ""
    """Folder of an earlier build whose codes are taken, to spare their training."""
    vq_steps: int = 900
    vq_batch: int = 32
    vq_lr: float = 4e-3
    width: int = 128
    layers: int = 4
    heads: int = 4
    sight_width: int = 64
    """Width of the vision tower, which has two layers."""
    steps: int = 5_200
    batch: int = 64
    rates: Rates = Rates(4e-3, 2e-3)
    single: float = 0.1
    """Share of the steps, the first ones, that show scenes of one object."""
    plain: float = 0.4
    """Share of the steps, the first ones, with true captions of one wording and no questions."""
    wrong: float = 0.25
    """Share of the later captions that describe another scene of the same kind."""
    dropout: float = 0.1
    """Share of captions whose words are blotted out, for classifier-free guidance."""
    questions: int = 12_000
    """Questions with their pictures, drawn once."""
    ask_every: int = 4
    """Every so many of the later steps a batch of questions is learned instead of one of captions; 0 never."""
    tags: tuple[str, ...] = tuple(tag for tag in shapes.TAGS if tag != "text")
    """Kinds of scenes, drawn evenly; words are left out, since the model is too small for letters."""


def build(cfg: Settings, out: Path, progress: Progress) -> dict[str, Any]:
    """Train the miniature and write it to ``out``. Returns facts for its card."""
    processor = make_processor(cfg.size, texts(cfg, stage(cfg.seed, 0)))
    model = assemble(cfg, processor.tokenizer)
    vq, rng = model.model.vqmodel, stage(cfg.seed, 1)
    if cfg.codebook:
        vq.load_state_dict(load(cfg.codebook).network.model.vqmodel.state_dict())
        made = {"codes": "those of an earlier build"}
    else:
        pictures = shapes.render(shapes.sample(10_000, rng, cfg.tags)[0], cfg.size)
        made = {"pixel loss of the codes": train_codes(vq, pictures, cfg.vq_steps, cfg.vq_batch, cfg.vq_lr, rng, progress)}
    rng = stage(cfg.seed, 2)
    scenes, meanings = shapes.sample(cfg.scenes, rng, cfg.tags)
    codes = codes_of(vq, shapes.render(scenes, cfg.size))
    means = train(cfg, model, processor, codes, meanings, rng, progress)
    kept_scenes, kept = shapes.sample(500, rng, cfg.tags)
    model.half().save_pretrained(out)
    processor.save_pretrained(out)
    return {
        "parameters": size_of(model),
        "parameters of the decoder": size_of(model.model.language_model),
        **made,
        "points of pictures through the codes": fidelity(vq.float(), shapes.render(kept_scenes, cfg.size), kept),
        "loss per code": means["codes of captions"],
        "loss per answer's token": means.get("answers", nan),
    }


def texts(cfg: Settings, rng: np.random.Generator) -> list[str]:
    """What the tokenizer learns its merges from."""
    meanings = shapes.meanings_of(6_000, rng, cfg.tags)
    captions = [shapes.caption(meaning, int(rng.choice(shapes.WORDINGS))) for meaning in meanings]
    return captions + [" ".join(questions.vocabulary())] * 20


# -- training ---------------------------------------------------------------------------------------------------


def train(
    cfg: Settings, model: nn.Module, processor: Any, codes: Tensor, meanings: list[shapes.Meaning],
    rng: np.random.Generator, progress: Progress,
) -> dict[str, float]:  # fmt: skip
    """Cross-entropy of pictures' codes given captions and of answers given pictures; the running means of both."""
    inner = model.model
    beside = [inner.aligner, inner.generation_embeddings, inner.generation_aligner, inner.generation_head]
    network = nn.ModuleList([inner.language_model, inner.vision_model])
    descent = by_muon(network, beside, cfg.rates, cfg.steps, rise=60)
    return descend(lessons(cfg, model, processor, codes, Course(cfg, meanings), rng), descent, progress)


def lessons(
    cfg: Settings, model: nn.Module, processor: Any, codes: Tensor, course: Course, rng: np.random.Generator
) -> Iterator[Step]:
    """Captions and, where the course says so, questions."""
    school = questions.problems(cfg.questions, cfg.seed, SKILLS, "train", cfg.size, (1, 3), radius=(0.11, 0.13))
    painter = CodeModel(model)
    for step in range(cfg.steps):
        with torch.autocast("cpu", torch.bfloat16):
            if course.asks(step):
                some = [school[i] for i in rng.integers(len(school), size=cfg.batch)]
                lesson = Step("answers", answer_loss(model, processor, some))
            else:
                index, prompts = course.captions(step, rng)
                blotted = torch.from_numpy(rng.random(cfg.batch) < cfg.dropout)
                lesson = Step("codes of captions", code_loss(painter, processor, prompts, blotted, codes[index].long()))
        yield lesson


class Course:
    """What is learned at a step: which scenes, in which wordings, with which share of captions of another scene; or questions."""

    def __init__(self, cfg: Settings, meanings: list[shapes.Meaning]):
        self.cfg, self.meanings = cfg, meanings
        self.single = np.array([i for i, meaning in enumerate(meanings) if meaning["tag"] in ("single_object", "colors")])
        self.alike = alike(meaning["tag"] for meaning in meanings)

    def asks(self, step: int) -> bool:
        """Whether this step is one of questions."""
        return not self._plain(step) and self.cfg.ask_every > 0 and step % self.cfg.ask_every == self.cfg.ask_every - 1

    def captions(self, step: int, rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
        """Scenes by their numbers ``[batch]``, and what is said of each."""
        shown = self.single if step < self.cfg.single * self.cfg.steps else np.arange(len(self.meanings))
        index = rng.choice(shown, self.cfg.batch)
        if self._plain(step):
            return index, [shapes.caption(self.meanings[i], shapes.TRAIN_WORDINGS[0]) for i in index]
        told = [rng.choice(self.alike[self.meanings[i]["tag"]]) if rng.random() < self.cfg.wrong else i for i in index]
        return index, [shapes.caption(self.meanings[i], int(rng.choice(shapes.TRAIN_WORDINGS))) for i in told]

    def _plain(self, step: int) -> bool:
        return step < self.cfg.plain * self.cfg.steps


def code_loss(painter: CodeModel, processor: Any, captions: Sequence[str], blotted_B: Tensor, codes_BM: Tensor) -> Tensor:
    """Mean -log p of codes ``[B, M]`` after captions; the words of blotted ones are padding, as in plain generation."""
    ids_BL, attention_BL = encoded(processor, [f"<|User|>{caption}<|Assistant|><boi>" for caption in captions])
    words = ids_BL > SPECIAL.index("<boi>")
    ids_BL = ids_BL.masked_fill(words & blotted_B[:, None], processor.tokenizer.pad_token_id)
    begin = ids_BL.shape[1]
    ids_BL = torch.cat([ids_BL, codes_BM[:, :-1] + painter.words], 1)
    attention_BL = torch.cat([attention_BL, torch.ones_like(codes_BM[:, 1:])], 1)
    place_BL = (attention_BL.cumsum(1) - 1).clamp(min=0)
    hidden = painter.base_model(ids_BL, attention_mask=attention_BL, position_ids=place_BL, use_cache=False)
    logits = painter.head(hidden.last_hidden_state[:, begin - 1 :])
    return F.cross_entropy(logits.float().flatten(0, 1), codes_BM.flatten())


def answer_loss(model: nn.Module, processor: Any, problems: Sequence[Problem]) -> Tensor:
    """Mean -log p of the answers' tokens and their ends after pictures and questions."""
    shown = "<boi>" + "<image>" * processor.num_image_tokens + "<eoi>"
    asked = [f"<|User|>{shown}{problem.inputs.text}<|Assistant|>" for problem in problems]
    told = [problem.answer["text"] + "<eos>" for problem in problems]
    ids_BL, attention_BL = encoded(processor, [a + b for a, b in zip(asked, told)])
    length_B = torch.tensor([len(ids) for ids in processor.tokenizer(told, add_special_tokens=False)["input_ids"]])
    own_BL = torch.arange(ids_BL.shape[1]) >= ids_BL.shape[1] - length_B[:, None]
    seen = pixels(np.concatenate([problem.inputs.pictures[0][None] for problem in problems])).contiguous()
    place_BL = (attention_BL.cumsum(1) - 1).clamp(min=0)
    hidden = model.model(ids_BL, seen, attention_BL, place_BL, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[:, :-1][own_BL[:, 1:]])
    return F.cross_entropy(logits.float(), ids_BL[own_BL])


def encoded(processor: Any, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token ids and attention ``[B, L]``, padded on the left."""
    made = processor.tokenizer(list(texts), padding=True, padding_side="left", return_tensors="pt")
    return made["input_ids"], made["attention_mask"]


# -- scores -----------------------------------------------------------------------------------------------------


def evaluate(folder: Path) -> dict[str, float]:
    """Points of pictures of held-out meanings, by guidance, wording and tag; exact answers to held-out questions, by skill."""
    painter = load(folder)
    return drawing_scores(painter) | answer_scores(painter)


def drawing_scores(painter: Painter, guidances: Sequence[float] = (1.0, 3.0), count: int = 192) -> dict[str, float]:
    """The judge's points with and without guidance."""
    task = DrawingTask(wordings="all", held_out_size=count)
    found = {scale: task.score_by_tag(ImageTokenPolicy(painter, [], guidance=scale).best) for scale in guidances}
    return {f"guidance {scale:g}, {name}": value for scale, scores in found.items() for name, value in scores.items()}


def answer_scores(painter: Painter, count: int = 500) -> dict[str, float]:
    """Share of exact answers of the likeliest words."""
    policy = TokenPolicy(painter.language, [], max_new_tokens=24, temperature=0.0)
    asked = questions.problems(count, 12_345, SKILLS, "held_out", 32, (1, 3), radius=(0.11, 0.13))
    told = policy.rollout(asked, seeds(0, count)).outputs
    right = torch.tensor([text.strip() == problem.answer["text"] for text, problem in zip(told, asked)]).double()
    found = by_source(asked, right)
    return {f"answers, {name}": found[name] for name in SKILLS}
