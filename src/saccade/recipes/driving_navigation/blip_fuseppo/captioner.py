"""BLIP, a captioner of pictures: from the hub, from a folder, or small with random weights for a given vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.math.pixels import to_float
from saccade.models.device import device_of
from saccade.models.loading import loading_errors, locate, read_config, silence
from saccade.random import initialized

INIT_STD = 0.06
"""Standard deviation of initial weights; at these widths the usual 0.02 learns slowly."""

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]")


@dataclass(eq=False)
class Captioner:
    """A BlipForConditionalGeneration with its processor; called with pictures it returns token ids of captions.

    A caption has ``length`` ids, truncated or filled with the pad token. ``prompt`` begins every caption and is not
    among its ids. ``num_beams`` 1 decodes greedily. No n-gram of ``no_repeat_ngram_size`` tokens is repeated; 0 allows
    all.
    """

    model: Any
    processor: Any
    length: int
    prompt: str = ""
    num_beams: int = 1
    no_repeat_ngram_size: int = 0
    prefix_ids: Tensor = field(init=False)
    """The ids that every caption begins with ``[P]``: the decoder's start token and the prompt."""

    def __post_init__(self) -> None:
        prompt = self.processor.tokenizer(self.prompt, add_special_tokens=False)["input_ids"]
        self.prefix_ids = torch.tensor([self._text.bos_token_id, *prompt])

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self._text.vocab_size

    @torch.no_grad()
    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """Captions of pictures uint8 ``[n, H, W, 3]`` as token ids int64 ``[n, length]``."""
        pixels = self.pixels(pictures)
        options = {"no_repeat_ngram_size": self.no_repeat_ngram_size} if self.no_repeat_ngram_size else {}
        # The class drops the last id of its input, which is the end token where a tokenizer wrote the prompt.
        prefix = F.pad(self.prefix_ids, (0, 1), value=self._text.sep_token_id).repeat(len(pixels), 1).to(pixels.device)
        ids = self.model.generate(
            pixels,
            input_ids=prefix,
            attention_mask=torch.ones_like(prefix),
            max_new_tokens=self.length,
            num_beams=self.num_beams,
            do_sample=False,
            **options,
        )
        return self._padded(ids[:, len(self.prefix_ids) :]).cpu().numpy()

    def loss(self, pictures: np.ndarray, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Sum of the cross-entropy of the captions' tokens and end tokens, and the number of these tokens."""
        words = self.processor.tokenizer(list(captions), add_special_tokens=False)["input_ids"]
        longest = max(map(len, words)) + 1
        pad, end = self._text.pad_token_id, self._text.sep_token_id
        ids = torch.tensor([[*word_ids, end] + [pad] * (longest - len(word_ids) - 1) for word_ids in words])
        ids = torch.cat([self.prefix_ids.expand(len(ids), -1), ids], 1).to(self.model.device)
        logits = self.model(pixel_values=self.pixels(pictures), input_ids=ids[:, :-1]).logits
        logits, targets = logits[:, len(self.prefix_ids) - 1 :], ids[:, len(self.prefix_ids) :]
        counted = targets != pad
        return F.cross_entropy(logits[counted].float(), targets[counted], reduction="sum"), counted.sum()

    def decode(self, ids: np.ndarray) -> list[str]:
        """Captions as text without special tokens."""
        return self.processor.tokenizer.batch_decode(torch.as_tensor(ids), skip_special_tokens=True)

    def encode(self, captions: Sequence[str]) -> np.ndarray:
        """Texts as the token ids that `__call__` returns: int64 ``[n, length]``."""
        ids = self.processor.tokenizer(list(captions), add_special_tokens=False)["input_ids"]
        rows = [torch.tensor([*row, self._text.sep_token_id]) for row in ids]
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self._text.pad_token_id)
        return self._padded(padded).numpy()

    def pixels(self, pictures: np.ndarray) -> Tensor:
        """Pictures in the size and normalization of the model's processor: ``[n, 3, size, size]``."""
        images = self.processor.image_processor
        x = to_float(torch.as_tensor(pictures).to(self.model.device))
        size = (images.size["height"], images.size["width"])
        if tuple(x.shape[2:]) != size:
            x = F.interpolate(x, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        mean, std = (torch.tensor(v, device=x.device)[:, None, None] for v in (images.image_mean, images.image_std))
        return ((x - mean) / std).to(self.model.dtype)

    def parameters(self) -> list[nn.Parameter]:
        return list(self.model.parameters())

    def state_dict(self) -> dict[str, Tensor]:
        # The word embedding and the head are one tensor, which is saved once.
        return {k: v for k, v in self.model.state_dict().items() if "predictions.decoder" not in k}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.model.load_state_dict(state, strict=False)

    def export(self, folder: str | Path) -> None:
        """Write a transformers folder."""
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)

    @property
    def _text(self) -> Any:
        return self.model.config.text_config

    def _padded(self, ids: Tensor) -> Tensor:
        """Ids before the end token, then pad tokens: ``[n, length]``."""
        ids = F.pad(ids[:, : self.length], (0, max(self.length - ids.shape[1], 0)), value=self._text.pad_token_id)
        ended = (ids == self._text.sep_token_id).cumsum(1) > 0
        return ids.masked_fill(ended, self._text.pad_token_id)


def load_captioner(
    name_or_path: str | Path,
    length: int = 50,
    prompt: str = "",
    num_beams: int = 1,
    no_repeat_ngram_size: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Captioner:
    """A frozen captioner from the hub or a folder. ValueError with one line if it is none or cannot be loaded."""
    import transformers

    name, place = str(name_or_path), locate(name_or_path)
    model_type = read_config(name, place, "config.json").get("model_type")
    if model_type != "blip":
        raise ValueError(f"model '{name}': its model_type is {model_type!r}; captions are written by 'blip'")
    silence(transformers)
    with loading_errors(name, place):
        model, report = transformers.BlipForConditionalGeneration.from_pretrained(
            place, dtype=dtype, output_loading_info=True
        )
        processor = _processor(transformers.AutoTokenizer.from_pretrained(place), place)
    if report["missing_keys"]:
        raise ValueError(f"model '{name}': {place} lacks the weight {min(report['missing_keys'])}")
    model = model.to(device_of(device)).eval().requires_grad_(False)
    captioner = Captioner(model, processor, length, prompt, num_beams, no_repeat_ngram_size)
    positions, prefix = model.config.text_config.max_position_embeddings, len(captioner.prefix_ids)
    if prefix + length > positions:
        raise ValueError(
            f"model '{name}': a prompt of {prefix} ids and captions of {length} exceed its {positions} positions"
        )
    return captioner


@dataclass(frozen=True)
class BlipSizes:
    """Sizes of a small captioner with random weights."""

    picture: int = 48
    """Side of the pictures in pixels."""
    patch: int = 16
    """Side of a patch in pixels."""
    width: int = 128
    """Width of both transformers."""
    heads: int = 4
    """Number of attention heads."""
    vision_layers: int = 3
    """Number of layers of the vision transformer."""
    text_layers: int = 1
    """Number of layers of the text decoder."""


def build_captioner(words: Sequence[str], length: int, sizes: BlipSizes = BlipSizes(), seed: int = 0) -> Captioner:
    """A small captioner with random weights whose vocabulary is these words."""
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipTextConfig, BlipVisionConfig

    vocabulary = [*SPECIAL_TOKENS, *dict.fromkeys(words)]
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(vocabulary)})
    shared = dict(
        hidden_size=sizes.width,
        intermediate_size=4 * sizes.width,
        num_attention_heads=sizes.heads,
        projection_dim=sizes.width,
        initializer_range=INIT_STD,
    )
    text = BlipTextConfig(
        vocab_size=len(vocabulary),
        num_hidden_layers=sizes.text_layers,
        max_position_embeddings=length + 8,
        bos_token_id=vocabulary.index("[DEC]"),
        sep_token_id=vocabulary.index("[SEP]"),
        pad_token_id=0,
        eos_token_id=vocabulary.index("[SEP]"),
        **shared,
    )
    vision = BlipVisionConfig(
        image_size=sizes.picture, patch_size=sizes.patch, num_hidden_layers=sizes.vision_layers, **shared
    )
    with initialized(seed, "captioner"):
        model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision))
    processor = _processor(tokenizer, size={"height": sizes.picture, "width": sizes.picture})
    return Captioner(model.eval(), processor, length)


def _processor(tokenizer: Any, place: str | None = None, **settings: Any) -> Any:
    """BLIP's processor with the image processor that needs no torchvision."""
    from transformers import BlipProcessor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    images = BlipImageProcessorPil.from_pretrained(place) if place else BlipImageProcessorPil(**settings)
    return BlipProcessor(images, tokenizer)
