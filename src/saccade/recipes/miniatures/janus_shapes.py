"""`janus-shapes`: a JanusForConditionalGeneration in miniature that draws the world of shapes code by code, and looks at it.

The classes are the real ones (a Llama decoder, JanusVQVAE, the vision tower, JanusProcessor); only their sizes are small. A
picture of 32 px is 64 codes. It begins with single objects, then learns all scenes in one wording, then in every wording of
training. By then a share of the captions describes another scene of the same kind on purpose: the base knows the right
pictures and mixes them up, which leaves room for reinforcement learning. Between them it learns to answer short questions
about pictures. With everything at once from the start, captions did not come to decide what is drawn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.core import Problem, Rollout, seeds
from saccade.models.janus import CodeModel, Painter, load
from saccade.policies.image_tokens import ImageTokenPolicy
from saccade.policies.tokens import TokenPolicy
from saccade.recipes.miniatures._janus_codes import codes_of, fidelity, pixels, train_codes
from saccade.recipes.miniatures._vl_descent import Descent, Rates
from saccade.tasks import DrawingTask
from saccade.worlds import questions, shapes
from saccade.worlds.shapes.rewards import by_tag

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


Progress = Callable[[str, int, int, float], None]


def build(cfg: Settings, out: Path, progress: Progress) -> dict[str, Any]:
    """Train the miniature and write it to ``out``. Returns facts for its card (parameters, seconds, losses)."""
    began = time.time()
    rng = stage(cfg, 0)
    processor = make_processor(cfg, texts(cfg, rng))
    model = assemble(cfg, processor.tokenizer)
    vq, rng = model.model.vqmodel, stage(cfg, 1)
    if cfg.codebook:
        vq.load_state_dict(load(cfg.codebook).network.model.vqmodel.state_dict())
        made = {"codes": "those of an earlier build"}
    else:
        pictures = shapes.render(shapes.sample(10_000, rng, cfg.tags)[0], cfg.size)
        made = {"pixel loss of the codes": train_codes(vq, pictures, cfg.vq_steps, cfg.vq_batch, cfg.vq_lr, rng, progress)}
    rng = stage(cfg, 2)
    scenes, meanings = shapes.sample(cfg.scenes, rng, cfg.tags)
    codes = codes_of(vq, shapes.render(scenes, cfg.size))
    word_loss, code_loss = train(cfg, model, processor, codes, meanings, rng, progress)
    kept_scenes, kept = shapes.sample(500, rng, cfg.tags)
    model.half().save_pretrained(out)
    processor.save_pretrained(out)
    return {
        "seconds": round(time.time() - began),
        "parameters": sum(p.numel() for p in model.parameters()),
        "parameters of the decoder": sum(p.numel() for p in model.model.language_model.parameters()),
        **made,
        "points of pictures through the codes": fidelity(vq.float(), shapes.render(kept_scenes, cfg.size), kept),
        "loss per code": code_loss,
        "loss per answer's token": word_loss,
    }


def stage(cfg: Settings, number: int) -> np.random.Generator:
    """A generator for one stage of the build, and torch's seeded alike, so that a stage can be repeated alone."""
    torch.manual_seed(1_000 * cfg.seed + number)
    return np.random.default_rng([cfg.seed, number])


# -- parts ------------------------------------------------------------------------------------------------------


def texts(cfg: Settings, rng: np.random.Generator) -> list[str]:
    """What the tokenizer learns its merges from."""
    meanings = shapes.meanings_of(6_000, rng, cfg.tags)
    captions = [shapes.caption(meaning, int(rng.choice(shapes.WORDINGS))) for meaning in meanings]
    return captions + [" ".join(questions.vocabulary())] * 20


def make_processor(cfg: Settings, texts: Sequence[str]) -> Any:
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
    images = JanusImageProcessorPil(
        size={"height": cfg.size, "width": cfg.size}, min_size=PATCH, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    codes = (cfg.size // PATCH) ** 2
    return JanusProcessor(images, tokenizer, chat_template=CHAT_TEMPLATE, num_image_tokens=codes)


def assemble(cfg: Settings, tokenizer: Any) -> nn.Module:
    """The untrained model."""
    from transformers import GenerationConfig, JanusConfig, JanusForConditionalGeneration, JanusVisionConfig
    from transformers import JanusVQVAEConfig, LlamaConfig

    words = dict(bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model = JanusForConditionalGeneration(
        JanusConfig(
            text_config=LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=cfg.width,
                intermediate_size=3 * cfg.width,
                num_hidden_layers=cfg.layers,
                num_attention_heads=cfg.heads,
                num_key_value_heads=cfg.heads,
                max_position_embeddings=512,
                initializer_range=0.06,  # at this width 0.02 needs twice the steps
                tie_word_embeddings=True,
                **words,
            ),
            vision_config=JanusVisionConfig(
                hidden_size=cfg.sight_width,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=cfg.size,
                patch_size=PATCH,
                mlp_ratio=3.0,
                projection_dim=cfg.width,
                num_image_tokens=(cfg.size // PATCH) ** 2,
            ),
            vq_config=JanusVQVAEConfig(
                embed_dim=8,
                num_embeddings=cfg.codes,
                latent_channels=32,
                base_channels=32,
                channel_multiplier=[1, 1, 2],
                num_res_blocks=0,
                projection_dim=cfg.width,
                image_token_embed_dim=cfg.width,
            ),
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
            tie_word_embeddings=True,
        )
    )
    boi = {"boi_token_id": tokenizer.convert_tokens_to_ids("<boi>")}
    model.generation_config = GenerationConfig(do_sample=True, guidance_scale=3.0, generation_kwargs=boi, **words)
    return model


# -- training ---------------------------------------------------------------------------------------------------


def train(
    cfg: Settings, model: nn.Module, processor: Any, codes: Tensor, meanings: list[dict], rng: np.random.Generator,
    progress: Progress,
) -> tuple[float, float]:  # fmt: skip
    """Cross-entropy of pictures' codes given captions and of answers given pictures; the running means of both."""
    school = questions.problems(cfg.questions, cfg.seed, SKILLS, "train", cfg.size, (1, 3), radius=(0.11, 0.13))
    inner, painter, course = model.model, CodeModel(model), Course(cfg, meanings)
    beside = [inner.aligner, inner.generation_embeddings, inner.generation_aligner, inner.generation_head]
    descent = Descent(nn.ModuleList([inner.language_model, inner.vision_model]), beside, cfg.rates, cfg.steps, 60)
    smooth = {"answers": 0.0, "codes of captions": 0.0}
    for step in range(cfg.steps):
        with torch.autocast("cpu", torch.bfloat16):
            if course.asks(step):
                part, some = "answers", [school[i] for i in rng.integers(len(school), size=cfg.batch)]
                loss = answer_loss(model, processor, some)
            else:
                part, (index, prompts) = "codes of captions", course.captions(step, rng)
                blotted = torch.from_numpy(rng.random(cfg.batch) < cfg.dropout)
                loss = code_loss(painter, processor, prompts, blotted, codes[index].long())
        descent.step(loss)
        smooth[part] = 0.98 * smooth[part] + 0.02 * loss.item() if smooth[part] else loss.item()
        progress(part, step + 1, cfg.steps, smooth[part])
    return smooth["answers"], smooth["codes of captions"]


class Course:
    """What is learned at a step: which scenes, in which wordings, with which share of captions of another scene; or questions."""

    def __init__(self, cfg: Settings, meanings: list[dict]):
        self.cfg, self.meanings = cfg, meanings
        self.single = np.array([i for i, meaning in enumerate(meanings) if meaning["tag"] in ("single_object", "colors")])
        self.alike: dict[str, list[int]] = {}
        for i, meaning in enumerate(meanings):
            self.alike.setdefault(meaning["tag"], []).append(i)

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


def code_loss(
    painter: CodeModel, processor: Any, captions: Sequence[str], blotted_B: Tensor, codes_BM: Tensor
) -> Tensor:
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
    scores: dict[str, float] = {}
    for guidance in guidances:
        policy, drawn = ImageTokenPolicy(painter, [], guidance=guidance), []

        def draw(problems: Sequence[Problem], seeds_B: Tensor) -> Rollout:
            drawn.append(policy.rollout(problems, seeds_B))
            return drawn[-1]

        task = DrawingTask(wordings="all", held_out_size=count)
        found = task.score(draw)
        points = torch.cat([rollout.rewards[task.rewards[0]] for rollout in drawn])
        tags = by_tag(points, [problem for rollout in drawn for problem in rollout.problems])
        found |= {f"tag {tag}": value for tag, value in tags.items()}
        scores |= {f"guidance {guidance:g}, {name}": value for name, value in found.items()}
    return scores


def answer_scores(painter: Painter, count: int = 500) -> dict[str, float]:
    """Share of exact answers of the likeliest words."""
    policy = TokenPolicy(painter.language, [], max_new_tokens=24, temperature=0.0)
    asked = questions.problems(count, 12_345, SKILLS, "held_out", 32, (1, 3), radius=(0.11, 0.13))
    texts = policy.rollout(asked, seeds(0, count)).outputs
    right = np.array([text.strip() == problem.answer["text"] for text, problem in zip(texts, asked)])
    skill = np.array([problem.source for problem in asked])
    return {f"answers, {name}": float(right[skill == name].mean()) for name in SKILLS}
