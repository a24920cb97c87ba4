"""The curriculum of `janus-shapes` and its losses: of codes of pictures given captions, of answers given pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.builders.janus_shapes.parts import SPECIAL
from saccade.builders.parts.pictures import pixels
from saccade.builders.parts.texts import rows_by_kind
from saccade.core import Problem
from saccade.models.language.janus import CodeModel
from saccade.worlds import shapes


class Curriculum:
    """What is trained at a step: questions, or captions of which scenes in which wordings, how many of them wrong."""

    def __init__(self, cfg: Any, meanings: list[shapes.Meaning]):
        self.cfg, self.meanings = cfg, meanings
        self.single_objects = np.array(
            [i for i, meaning in enumerate(meanings) if meaning["tag"] in ("single_object", "colors")]
        )
        self.same_tag = rows_by_kind(meaning["tag"] for meaning in meanings)

    def asks(self, step: int) -> bool:
        """Whether this step trains on questions."""
        every = self.cfg.questions_every
        return not self._has_one_wording(step) and every > 0 and step % every == every - 1

    def captions(self, step: int, rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
        """Indices of scenes ``[batch]``, and a caption of each."""
        only_single = step < self.cfg.single_object_share * self.cfg.steps
        scenes = self.single_objects if only_single else np.arange(len(self.meanings))
        index = rng.choice(scenes, self.cfg.batch)
        if self._has_one_wording(step):
            return index, [shapes.caption(self.meanings[i], shapes.TRAIN_WORDINGS[0]) for i in index]
        described = [
            rng.choice(self.same_tag[self.meanings[i]["tag"]]) if rng.random() < self.cfg.wrong_caption_share else i
            for i in index
        ]
        return index, [shapes.caption(self.meanings[i], int(rng.choice(shapes.TRAIN_WORDINGS))) for i in described]

    def _has_one_wording(self, step: int) -> bool:
        return step < self.cfg.single_wording_share * self.cfg.steps


def code_loss(model: CodeModel, processor: Any, captions: Sequence[str], dropped_B: Tensor, codes_BM: Tensor) -> Tensor:
    """Mean -log p of codes ``[B, M]`` after captions; the text of dropped ones is padding, as in generation."""
    ids_BL, attention_BL = encoded(processor, [f"<|User|>{caption}<|Assistant|><boi>" for caption in captions])
    is_text = ids_BL > SPECIAL.index("<boi>")
    ids_BL = ids_BL.masked_fill(is_text & dropped_B[:, None], processor.tokenizer.pad_token_id)
    begin = ids_BL.shape[1]
    ids_BL = torch.cat([ids_BL, codes_BM[:, :-1] + model.text_vocab_size], 1)
    attention_BL = torch.cat([attention_BL, torch.ones_like(codes_BM[:, 1:])], 1)
    position_BL = (attention_BL.cumsum(1) - 1).clamp(min=0)
    hidden = model.base_model(ids_BL, attention_mask=attention_BL, position_ids=position_BL, use_cache=False)
    logits = model.head(hidden.last_hidden_state[:, begin - 1 :])
    return F.cross_entropy(logits.float().flatten(0, 1), codes_BM.flatten())


def answer_loss(model: nn.Module, processor: Any, problems: Sequence[Problem]) -> Tensor:
    """Mean -log p of the answers' tokens and their ends after pictures and questions."""
    picture = "<boi>" + "<image>" * processor.num_image_tokens + "<eoi>"
    prompts = [f"<|User|>{picture}{problem.inputs.text}<|Assistant|>" for problem in problems]
    answers = [problem.answer["text"] + "<eos>" for problem in problems]
    ids_BL, attention_BL = encoded(processor, [a + b for a, b in zip(prompts, answers)])
    length_B = torch.tensor([len(ids) for ids in processor.tokenizer(answers, add_special_tokens=False)["input_ids"]])
    is_answer_BL = torch.arange(ids_BL.shape[1]) >= ids_BL.shape[1] - length_B[:, None]
    pictures = pixels(np.stack([problem.inputs.pictures[0] for problem in problems])).contiguous()
    position_BL = (attention_BL.cumsum(1) - 1).clamp(min=0)
    hidden = model.model(ids_BL, pictures, attention_BL, position_BL, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[:, :-1][is_answer_BL[:, 1:]])
    return F.cross_entropy(logits.float(), ids_BL[is_answer_BL])


def encoded(processor: Any, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token ids and attention ``[B, L]``, padded on the left."""
    made = processor.tokenizer(list(texts), padding=True, padding_side="left", return_tensors="pt")
    return made["input_ids"], made["attention_mask"]
