"""BLIP, which says in words what a picture shows: from the hub, a folder, or fresh and small for a vocabulary of
one's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.core import seeded
from saccade.math.pixels import to_unit
from saccade.models.device import device_of
from saccade.models.loading import loading_errors, locate, read_config, silence

INITIAL = 0.06
"""Spread of fresh weights; at these widths the usual 0.02 learns slowly."""

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]")


@dataclass(eq=False)
class Captioner:
    """A BlipForConditionalGeneration with its processor; called with pictures it returns the words' token ids.

    ``length`` ids a caption, cut or filled up with the pad token; ``prompt`` begins every caption and is not among
    them. ``beams`` 1 writes the likeliest next word, more search; ``no_repeat`` forbids runs of so many words that came
    before.
    """

    model: Any
    processor: Any
    length: int
    prompt: str = ""
    beams: int = 1
    no_repeat: int = 0
    begun: Tensor = field(init=False)
    """The ids that every caption begins with ``[P]``: the mark of the decoder and the prompt."""

    def __post_init__(self) -> None:
        prompt = self.processor.tokenizer(self.prompt, add_special_tokens=False)["input_ids"]
        self.begun = torch.tensor([self._text.bos_token_id, *prompt])

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return self._text.vocab_size

    @torch.no_grad()
    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """Captions of pictures uint8 ``[n, H, W, 3]`` as token ids int64 ``[n, length]``."""
        pixels = self.pixels(pictures)
        options = {"no_repeat_ngram_size": self.no_repeat} if self.no_repeat else {}
        # The class drops the last id that it is given, which is the end mark where a tokenizer wrote the prompt.
        begun = F.pad(self.begun, (0, 1), value=self._text.sep_token_id).repeat(len(pixels), 1).to(pixels.device)
        ids = self.model.generate(
            pixels, input_ids=begun, attention_mask=torch.ones_like(begun), max_new_tokens=self.length, num_beams=self.beams,
            do_sample=False, **options,
        )  # fmt: skip
        return self._filled(ids[:, len(self.begun) :]).cpu().numpy()

    def loss(self, pictures: np.ndarray, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the captions' words and their ends, summed, and how many there are."""
        words = self.processor.tokenizer(list(captions), add_special_tokens=False)["input_ids"]
        longest = max(map(len, words)) + 1
        ids = torch.tensor(
            [[*w, self._text.sep_token_id] + [self._text.pad_token_id] * (longest - len(w) - 1) for w in words]
        )
        ids = torch.cat([self.begun.expand(len(ids), -1), ids], 1).to(self.model.device)
        logits = self.model(pixel_values=self.pixels(pictures), input_ids=ids[:, :-1]).logits[:, len(self.begun) - 1 :]
        wanted = ids[:, len(self.begun) :]
        told = wanted != self._text.pad_token_id
        return F.cross_entropy(logits[told].float(), wanted[told], reduction="sum"), told.sum()

    def words(self, ids: np.ndarray) -> list[str]:
        """Captions as text: special tokens left out."""
        return self.processor.tokenizer.batch_decode(torch.as_tensor(ids), skip_special_tokens=True)

    def ids(self, captions: Sequence[str]) -> np.ndarray:
        """Texts as the token ids that `__call__` returns: int64 ``[n, length]``."""
        found = self.processor.tokenizer(list(captions), add_special_tokens=False)["input_ids"]
        rows = [torch.tensor([*row, self._text.sep_token_id]) for row in found]
        return self._filled(
            nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self._text.pad_token_id)
        ).numpy()

    def pixels(self, pictures: np.ndarray) -> Tensor:
        """Pictures as the model takes them, in the size, mean and spread of its processor: ``[n, 3, size, size]``."""
        own = self.processor.image_processor
        x = to_unit(torch.as_tensor(pictures).to(self.model.device))
        size = (own.size["height"], own.size["width"])
        if tuple(x.shape[2:]) != size:
            x = F.interpolate(x, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        mean, std = (torch.tensor(v, device=x.device)[:, None, None] for v in (own.image_mean, own.image_std))
        return ((x - mean) / std).to(self.model.dtype)

    def parameters(self) -> list[nn.Parameter]:
        return list(self.model.parameters())

    def state_dict(self) -> dict[str, Tensor]:
        # The word embedding and the head are one tensor, which needs to be kept once.
        return {k: v for k, v in self.model.state_dict().items() if "predictions.decoder" not in k}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.model.load_state_dict(state, strict=False)

    def export(self, folder: str | Path) -> None:
        """Write an ordinary transformers folder."""
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)

    @property
    def _text(self) -> Any:
        return self.model.config.text_config

    def _filled(self, ids: Tensor) -> Tensor:
        """Ids up to the end mark, then pads: ``[n, length]``."""
        ids = F.pad(ids[:, : self.length], (0, max(self.length - ids.shape[1], 0)), value=self._text.pad_token_id)
        ended = (ids == self._text.sep_token_id).cumsum(1) > 0
        return ids.masked_fill(ended, self._text.pad_token_id)


def load(
    name_or_path: str | Path,
    length: int = 50,
    prompt: str = "",
    beams: int = 1,
    no_repeat: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Captioner:
    """A captioner from the hub or a folder, frozen. ValueError with one line if it is none or cannot be had."""
    import transformers

    name, place = str(name_or_path), locate(name_or_path)
    kind = read_config(name, place, "config.json").get("model_type")
    if kind != "blip":
        raise ValueError(f"model '{name}': its model_type is {kind!r}; captions are written by 'blip'")
    silence(transformers)
    with loading_errors(name, place):
        model, found = transformers.BlipForConditionalGeneration.from_pretrained(
            place, dtype=dtype, output_loading_info=True
        )
        processor = _processor(transformers.AutoTokenizer.from_pretrained(place), place)
    if found["missing_keys"]:
        raise ValueError(f"model '{name}': {place} lacks the weight {min(found['missing_keys'])}")
    words = Captioner(
        model.to(device_of(device)).eval().requires_grad_(False), processor, length, prompt, beams, no_repeat
    )
    room = model.config.text_config.max_position_embeddings
    if len(words.begun) + length > room:
        raise ValueError(
            f"model '{name}': a prompt of {len(words.begun)} ids and captions of {length} do not fit into its {room} places"
        )
    return words


@dataclass(frozen=True)
class Sizes:
    """Of a fresh captioner."""

    picture: int = 48
    patch: int = 16
    width: int = 128
    heads: int = 4
    layers: int = 3
    """Of the part that sees."""
    writing_layers: int = 1


def fresh(words: Sequence[str], length: int, sizes: Sizes = Sizes(), seed: int = 0) -> Captioner:
    """A small captioner with random weights, that knows these words alone."""
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipTextConfig, BlipVisionConfig

    vocabulary = [*SPECIAL, *dict.fromkeys(words)]
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(vocabulary)})
    both = dict(
        hidden_size=sizes.width, intermediate_size=4 * sizes.width, num_attention_heads=sizes.heads, projection_dim=sizes.width,
        initializer_range=INITIAL,
    )  # fmt: skip
    text = BlipTextConfig(
        vocab_size=len(vocabulary), num_hidden_layers=sizes.writing_layers, max_position_embeddings=length + 8,
        bos_token_id=vocabulary.index("[DEC]"), sep_token_id=vocabulary.index("[SEP]"), pad_token_id=0,
        eos_token_id=vocabulary.index("[SEP]"), **both,
    )  # fmt: skip
    vision = BlipVisionConfig(image_size=sizes.picture, patch_size=sizes.patch, num_hidden_layers=sizes.layers, **both)
    with seeded(seed):
        model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision))
    return Captioner(
        model.eval(), _processor(tokenizer, size={"height": sizes.picture, "width": sizes.picture}), length
    )


def _processor(tokenizer: Any, place: str | None = None, **settings: Any) -> Any:
    """BLIP's processor with the part for pictures that needs no torchvision."""
    from transformers import BlipProcessor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    images = BlipImageProcessorPil.from_pretrained(place) if place else BlipImageProcessorPil(**settings)
    return BlipProcessor(images, tokenizer)
