"""Janus models as generators of image tokens: a row is the text of a prompt, then the codes of a picture.

Text tokens and codes share one numbering: code c has the id ``text_vocab_size + c``, so the same functions prefill,
sample and score both. The unconditional row, for guidance, is the conditional one with the text of its prompt masked
out, as in transformers' own generation.
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
from saccade.models.language.decoding import prefill, sample_token
from saccade.models.language.head import entropy, tempered_logprobs
from saccade.models.language.layers import token_decoder
from saccade.models.language.messages import Prompt
from saccade.models.language.model import LanguageModel, load_language_model
from saccade.models.language.prompts import EncodedPrompt


class CodeModel:
    """A Janus model that reads text and codes and has logits for codes; called as transformers' language models are."""

    def __init__(self, model: Any):
        self.model, self.config = model, model.config
        self.text_vocab_size = model.config.get_text_config().vocab_size
        # The parts of transformers' own head, in its order, so that each can be computed in the form that is fastest.
        parts = model.base_model.generation_head
        self.head = nn.Sequential(parts.proj_out, parts.activation_fn, parts.vision_head)

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings of text tokens and codes ``[…]``: ``[…, D]``."""
        is_text = ids < self.text_vocab_size
        text = self.model.get_input_embeddings()(ids.clamp(max=self.text_vocab_size - 1))
        codes = self.model.prepare_embeddings_for_image_generation((ids - self.text_vocab_size).clamp(min=0))
        return torch.where(is_text[..., None], text, codes.to(text.dtype))

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
    """A Janus model, tokenizer and processor, with the interface that `hidden_states` needs; ``model`` has codes."""

    language: LanguageModel
    model: CodeModel = field(init=False)
    plain_head = True

    def __post_init__(self) -> None:
        if not hasattr(self.language.model, "prepare_embeddings_for_image_generation"):
            name = f"{self.language.model.name_or_path} ({type(self.language.model).__name__})"
            raise ValueError(f"model '{name}' does not generate pictures; a JanusForConditionalGeneration does")
        object.__setattr__(self, "model", CodeModel(self.language.model))

    @property
    def network(self) -> Any:
        """The transformers model."""
        return self.language.model

    @property
    def pad_id(self) -> int:
        return self.language.pad_id

    @property
    def codes_per_picture(self) -> int:
        """Number of codes of a picture."""
        return self.network.base_model.vision_model.config.num_image_tokens

    @property
    def picture_size(self) -> int:
        """Height and width of a picture in pixels."""
        return self.network.config.vision_config.image_size

    @property
    def generation_modules(self) -> list[nn.Module]:
        """The modules that generate codes, from the embeddings of codes to their logits."""
        inner = self.network.base_model
        return [self.model.get_decoder(), inner.generation_embeddings, inner.generation_aligner, inner.generation_head]

    def encode_prompts(self, prompts: Sequence[Prompt]) -> list[EncodedPrompt]:
        """Prompts up to the token that begins a picture. ValueError where one leaves no room for the picture."""
        begin = self.language.processor.image_start_token
        encoded = [self.language.encode_prompt(self.language.apply_template(prompt) + begin) for prompt in prompts]
        longest, max_length = max(map(len, encoded)), self.language.max_length
        if max_length is not None and longest + self.codes_per_picture > max_length:
            raise ValueError(
                f"a prompt of {longest} tokens and a picture of {self.codes_per_picture} exceed the model's"
                f" {max_length} positions"
            )
        return encoded

    def unconditional(self, ids_BL: Tensor) -> Tensor:
        """The rows for classifier-free guidance: text is padding, except for tokens that begin a text or a picture."""
        tokenizer = self.language.tokenizer
        begin = tokenizer.convert_tokens_to_ids(self.language.processor.image_start_token)
        unchanged = (ids_BL >= self.model.text_vocab_size) | (ids_BL == begin) | (ids_BL == tokenizer.bos_token_id)
        return ids_BL.masked_fill(~unchanged, self.pad_id)

    @torch.no_grad()
    def encode_pictures(self, pictures: Tensor, rows: int = 64) -> Tensor:
        """Pictures ``[B, 3, size, size]`` in [0, 1] to codes ``[B, M]``."""
        vq = self.network.base_model.vqmodel
        parts = [part.to(vq.device, vq.dtype) for part in (2 * pictures - 1).split(rows)]
        return torch.cat([vq.encode(part, return_dict=True).image_tokens.view(len(part), -1) for part in parts])

    @torch.no_grad()
    def decode_pictures(self, codes_BM: Tensor, rows: int = 64) -> Tensor:
        """Codes ``[B, M]`` to pictures ``[B, 3, H, W]`` in [0, 1], on the CPU in float32."""
        parts = [self.network.base_model.vqmodel.decode(part) for part in codes_BM.split(rows)]
        return (torch.cat(parts).float() / 2 + 0.5).clamp(0, 1).cpu()


@torch.no_grad()
def generate_codes(
    image_generator: ImageTokenGenerator,
    prompts: Sequence[Tensor],
    index_B: Tensor,
    uniform_BM: Tensor,
    guidance: float,
    temperature: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes of pictures for rows b that begin with prompt ``index_B[b]`` of ``prompts``, which `pad_left` has padded.

    Returns codes ``[B, M]``, their log-probs ``[2, B, M]`` and the entropies there ``[2, B, M]``, in float32: first
    with the prompt alone, then under guidance. A code is sampled with the row's own uniform number, see `decoding`.
    """
    rows, count = uniform_BM.shape
    ids_PL, attention_PL, position_PAL = prompts
    if guidance != 1:
        index_B = torch.cat([index_B, index_B + len(ids_PL)])
        ids_PL = torch.cat([ids_PL, image_generator.unconditional(ids_PL)])
        attention_PL, position_PAL = attention_PL.repeat(2, 1), position_PAL.repeat(2, 1, 1)
    state = prefill(image_generator.model, ids_PL, attention_PL, position_PAL, index_B, ids_PL.shape[1] + count)
    start, (attention_NC, position_N) = state.width, state.attention_and_position(state.width, count)
    decoder = token_decoder(image_generator.model, state.cache, len(index_B))
    codes_BM = torch.zeros(rows, count, dtype=torch.int64, device=uniform_BM.device)
    logp_2BM, entropy_2BM = torch.zeros(2, 2, rows, count, device=uniform_BM.device)
    for t in range(count):
        cond, uncond = (*state.logits_NV.float().split(rows), None)[:2]
        mixed = guided(cond, uncond, guidance)
        code_B, logp_2BM[1, :, t] = sample_token(mixed, uniform_BM[:, t], temperature, 1.0)
        cond_BV, mixed_BV = (tempered_logprobs(x, temperature) for x in (cond, mixed))
        codes_BM[:, t], logp_2BM[0, :, t] = code_B, cond_BV.gather(1, code_B[:, None])[:, 0]
        entropy_2BM[0, :, t], entropy_2BM[1, :, t] = entropy(cond_BV), entropy(mixed_BV)
        if t + 1 < count:
            code_N = (code_B + image_generator.model.text_vocab_size).repeat(len(index_B) // rows)
            state.forward_token(code_N, attention_NC[:, : start + t + 1], position_N + t, decoder)
    return codes_BM, logp_2BM, entropy_2BM


def load_image_token_generator(
    name_or_path: str | Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> ImageTokenGenerator:
    """A frozen Janus model by hub id, folder or miniature. ValueError with one line if it cannot be loaded."""
    return ImageTokenGenerator(load_language_model(name_or_path, dtype, device))
