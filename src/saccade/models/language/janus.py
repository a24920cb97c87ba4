"""Janus models as writers of pictures: a row is the words of a prompt, then the codes of a picture, in one count of
ids.

Codes are counted on from the last word, so what reads, samples and weighs words does the same for pictures. The row
without a prompt, for guidance, is the one with it whose words are blotted out, as transformers' own generation has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from saccade.math.flow import guided
from saccade.models.language import model as languages
from saccade.models.language.decoding import ahead, choose, prefill
from saccade.models.language.head import entropy, tempered
from saccade.models.language.layers import token_decoder
from saccade.models.language.messages import Prompt
from saccade.models.language.model import LanguageModel
from saccade.models.language.prompts import EncodedPrompt


class CodeModel:
    """A Janus model that reads words and codes and has logits for codes; called as transformers' language models
    are.
    """

    def __init__(self, model: Any):
        self.model, self.config, self.words = model, model.config, model.config.get_text_config().vocab_size
        # The parts of transformers' own head, in its order, so that each can be computed in the form that is fastest.
        own = model.base_model.generation_head
        self.head = nn.Sequential(own.proj_out, own.activation_fn, own.vision_head)

    def embed(self, ids: Tensor) -> Tensor:
        """What stands in the decoder for words and codes ``[…]``: ``[…, D]``."""
        is_word = ids < self.words
        words = self.model.get_input_embeddings()(ids.clamp(max=self.words - 1))
        codes = self.model.prepare_embeddings_for_image_generation((ids - self.words).clamp(min=0))
        return torch.where(is_word[..., None], words, codes.to(words.dtype))

    def base_model(self, input_ids: Tensor, **inputs: Any) -> Any:
        """Hidden states and their cache, as the decoder returns them."""
        return self.get_decoder()(inputs_embeds=self.embed(input_ids), **inputs)

    def __call__(self, input_ids: Tensor, logits_to_keep: int, **inputs: Any) -> Any:
        out = self.base_model(input_ids, **inputs)
        logits = self.head(out.last_hidden_state[:, -logits_to_keep:])
        return SimpleNamespace(logits=logits, past_key_values=out.past_key_values)

    def get_decoder(self) -> Any:
        return self.model.get_decoder()

    def get_input_embeddings(self) -> Any:
        return self.embed

    def get_output_embeddings(self) -> nn.Sequential:
        return self.head


@dataclass(frozen=True, eq=False)
class ImageTokenGenerator:
    """A Janus model, tokenizer and processor, as `states` takes a language model; ``model`` writes codes."""

    language: LanguageModel
    model: CodeModel = field(init=False)
    plain_head = True

    def __post_init__(self) -> None:
        if not hasattr(self.language.model, "prepare_embeddings_for_image_generation"):
            name = f"{self.language.model.name_or_path} ({type(self.language.model).__name__})"
            raise ValueError(f"model '{name}' does not write pictures; a JanusForConditionalGeneration does")
        object.__setattr__(self, "model", CodeModel(self.language.model))

    @property
    def network(self) -> Any:
        """The whole model, as transformers has it."""
        return self.language.model

    @property
    def pad(self) -> int:
        return self.language.pad

    @property
    def codes(self) -> int:
        """How many codes make a picture."""
        return self.network.base_model.vision_model.config.num_image_tokens

    @property
    def path(self) -> list[nn.Module]:
        """What a picture goes through while it is written, from words and codes to logits of codes."""
        inner = self.network.base_model
        return [self.model.get_decoder(), inner.generation_embeddings, inner.generation_aligner, inner.generation_head]

    def asked(self, prompts: Sequence[Prompt]) -> list[EncodedPrompt]:
        """Prompts up to where the picture begins. ValueError where one leaves no room for it."""
        begin = self.language.processor.image_start_token
        passages = [self.language.passage(self.language.text(prompt) + begin) for prompt in prompts]
        longest, room = max(map(len, passages)), self.language.room
        if room is not None and longest + self.codes > room:
            raise ValueError(
                f"a prompt of {longest} tokens and a picture of {self.codes} exceed the model's {room} positions"
            )
        return passages

    def unasked(self, ids_BL: Tensor) -> Tensor:
        """The same rows without what was asked for: words are padding, but for those that begin a text or a picture."""
        tokenizer = self.language.tokenizer
        begin = tokenizer.convert_tokens_to_ids(self.language.processor.image_start_token)
        kept = (ids_BL >= self.model.words) | (ids_BL == begin) | (ids_BL == tokenizer.bos_token_id)
        return ids_BL.masked_fill(~kept, self.pad)

    @property
    def size(self) -> int:
        """Edge of a picture in pixels."""
        return self.network.config.vision_config.image_size

    @torch.no_grad()
    def encode(self, pictures: Tensor, rows: int = 64) -> Tensor:
        """Pictures ``[B, 3, size, size]`` in [0, 1] to codes ``[B, M]``."""
        vq = self.network.base_model.vqmodel
        parts = [part.to(vq.device, vq.dtype) for part in (2 * pictures - 1).split(rows)]
        return torch.cat([vq.encode(part, return_dict=True).image_tokens.view(len(part), -1) for part in parts])

    @torch.no_grad()
    def pictures(self, codes_BM: Tensor, rows: int = 64) -> Tensor:
        """Codes to pictures ``[B, 3, H, W]`` in [0, 1], on the CPU in float32."""
        parts = [self.network.base_model.vqmodel.decode(part) for part in codes_BM.split(rows)]
        return (torch.cat(parts).float() / 2 + 0.5).clamp(0, 1).cpu()


@torch.no_grad()
def generate_codes(
    painter: ImageTokenGenerator,
    asked: Sequence[Tensor],
    index_B: Tensor,
    uniform_BM: Tensor,
    guidance: float,
    temperature: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures for rows b that begin with prompt ``index_B[b]`` of those ``asked`` (as `beside` lays them out).

    Returns codes ``[B, M]``; their log-probs ``[2, B, M]`` and the entropies there, in float32, with the prompt alone
    and under guidance. A code is drawn by the row's own uniform number, see `decoding`.
    """
    rows, most = uniform_BM.shape
    ids_PL, attention_PL, place_PAL = asked
    if guidance != 1:
        ids_PL, index_B = torch.cat([ids_PL, painter.unasked(ids_PL)]), torch.cat([index_B, index_B + len(ids_PL)])
        attention_PL, place_PAL = attention_PL.repeat(2, 1), place_PAL.repeat(2, 1, 1)
    reading = prefill(painter.model, ids_PL, attention_PL, place_PAL, index_B, ids_PL.shape[1] + most)
    start, (own_NC, place_N) = reading.width, ahead(reading, reading.width, most)
    decoder = token_decoder(painter.model, reading.cache, len(index_B))
    codes_BM = torch.zeros(rows, most, dtype=torch.int64, device=uniform_BM.device)
    logp_2BM, entropy_2BM = torch.zeros(2, 2, rows, most, device=uniform_BM.device)
    for t in range(most):
        said, unsaid = (*reading.logits_NV.float().split(rows), None)[:2]
        mixed = guided(said, unsaid, guidance)
        code_B, logp_2BM[1, :, t] = choose(mixed, uniform_BM[:, t], temperature, 1.0)
        own, drawn = (tempered(x, temperature) for x in (said, mixed))
        codes_BM[:, t], logp_2BM[0, :, t] = code_B, own.gather(1, code_B[:, None])[:, 0]
        entropy_2BM[0, :, t], entropy_2BM[1, :, t] = entropy(own), entropy(drawn)
        if t + 1 < most:
            code_N = (code_B + painter.model.words).repeat(len(index_B) // rows)
            reading.follow(code_N, own_NC[:, : start + t + 1], place_N + t, decoder)
    return codes_BM, logp_2BM, entropy_2BM


def load_image_token_generator(
    name_or_path: str | Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> ImageTokenGenerator:
    """A Janus model by hub id, folder or miniature, frozen. ValueError with one line if it cannot be had."""
    return ImageTokenGenerator(languages.load_language_model(name_or_path, dtype, device))
