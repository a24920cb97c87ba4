"""Transformers' language and vision-language models with what prepares their inputs, by hub id, folder or miniature."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saccade.math.frames import Frame
from saccade.models.adapters import merged
from saccade.models.language import processor as processors
from saccade.models.language.messages import Message, Prompt, as_pil, in_parts, in_words, pictures
from saccade.models.language.prompts import EncodedPrompt, ImageInputs, beside, digest
from saccade.models.loading import description, first_line, locate, quiet, reading
from saccade.naming import nearest

_BY_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")

_TOKENS = ("_token_id", "_token_ids", "_token_index")

_MEDIA = ("image", "video", "vision", "audio", "boi", "eoi")

_TURN = "\ue000\ue001"
"""Stands for what a model said where a template is asked how it goes on; letters that no text has."""


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A causal language model or a vision-language model, its tokenizer and, where pictures can be shown, its
    processor.
    """

    model: Any
    tokenizer: Any
    processor: Any = None
    plain_head: bool = field(init=False)
    """Whether logits are the head's output on the last hidden states and nothing else (no caps, no scales)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "plain_head", _has_plain_head(self.model, self.pad))

    @property
    def ends(self) -> list[int]:
        """Tokens that end a completion: those of the generation config and the tokenizer's own."""
        named = self.model.generation_config.eos_token_id
        listed = [named] if isinstance(named, int) else list(named or [])
        return sorted({*listed, *({self.tokenizer.eos_token_id} - {None})})

    @property
    def pad(self) -> int:
        """The token that fills empty places; it is never attended to."""
        return next((t for t in (self.tokenizer.pad_token_id, *self.ends) if t is not None), 0)

    @property
    def room(self) -> int | None:
        """The longest sequence that the positions allow, None if there is no limit."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @property
    def banned(self) -> list[int]:
        """Tokens that stand for pictures, videos and sounds or mark where they begin and end: not for a model to
        write.
        """
        named = vars(self.model.config) | {
            k: getattr(self.processor, k, None) for k in ("image_token_ids", "video_token_ids")
        }
        chosen = [v for k, v in named.items() if k.endswith(_TOKENS) and any(m in k for m in _MEDIA)]
        ids = {i for v in chosen for i in (v if isinstance(v, list) else [v]) if isinstance(i, int)}
        return sorted(i for i in ids if 0 <= i < self.model.config.get_text_config().vocab_size and i not in self.ends)

    @property
    def axes(self) -> int:
        """Numbers that make a position: 3 where pictures have time, rows and columns (M-RoPE), else 1."""
        return 3 if hasattr(self.model.base_model, "get_rope_index") else 1

    @property
    def head(self) -> nn.Module:
        """From what `states` are made of to logits."""
        return self.model.get_output_embeddings() if self.plain_head else nn.Identity()

    # -- words ----------------------------------------------------------------------------------------------

    def text(self, prompt: Prompt) -> str:
        """The prompt as the model reads it: chat messages in the chat template, up to where the answer begins."""
        if isinstance(prompt, str):
            return prompt
        templated = self.processor if getattr(self.processor, "chat_template", None) else self.tokenizer
        if templated.chat_template is None:
            raise ValueError(
                f"the tokenizer of {self.model.name_or_path} has no chat template; give prompts as plain text"
            )
        shape = in_parts if templated is self.processor else in_words
        return templated.apply_chat_template([shape(m) for m in prompt], tokenize=False, add_generation_prompt=True)

    def words(self, tokens: Sequence[int]) -> str:
        """Tokens as text, special tokens left out."""
        return self.tokenizer.decode(tokens, skip_special_tokens=True)

    def harmless(self, text: str) -> str:
        """A text without the names of special tokens, whatever it quotes."""
        return re.sub("|".join(map(re.escape, self.tokenizer.all_special_tokens)), "", text)

    def encode(self, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        """Token ids and attention ``[P, L]`` (int64), padded on the left. ValueError for a prompt without tokens."""
        ids_PL, attention_PL, _ = beside([self.passage(prompt) for prompt in prompts], self.pad)
        return ids_PL.to(self.model.device), attention_PL.to(self.model.device)

    # -- passages -------------------------------------------------------------------------------------------

    def passage(self, prompt: Prompt) -> EncodedPrompt:
        """A prompt with its pictures. ValueError with one line if it cannot be read."""
        text = self.text(prompt)
        begun = self.tokenizer.bos_token is not None and text.startswith(self.tokenizer.bos_token)
        found = self._prepared(
            text, pictures(prompt), isinstance(prompt, str) or (self.processor is not None and not begun)
        )
        if not len(found):
            raise ValueError(f"the prompt {prompt!r} has no tokens")
        return found

    def reply(self, prompt: Prompt, told: Sequence[Message]) -> EncodedPrompt:
        """How a conversation goes on: from the end of the model's turn over what it is told to its next turn.

        ``prompt`` is how it began; what was said since does not change how a template goes on. ValueError with one line
        if it cannot be read.
        """
        if isinstance(prompt, str):
            raise ValueError("a conversation needs a prompt in chat messages, not plain text")
        text = self.text([*prompt, {"role": "assistant", "content": _TURN}, *told])
        if text.count(_TURN) != 1:
            raise ValueError(f"the chat template of {self.model.name_or_path} does not show what an assistant said")
        return self._prepared(text.split(_TURN)[1], pictures(told), False)

    def _prepared(self, text: str, shown: Sequence[Message], special: bool) -> EncodedPrompt:
        if not shown:
            ids = self.tokenizer(text, add_special_tokens=special)["input_ids"]
            if posing := set(ids) & set(self.banned):
                token = self.tokenizer.decode(min(posing))
                raise ValueError(f"the text {text[-60:]!r} holds {token!r} but no picture is shown")
            return EncodedPrompt(torch.tensor(ids, dtype=torch.int64), torch.arange(len(ids)).expand(self.axes, -1))
        if self.processor is None:
            raise ValueError(f"{self.model.name_or_path} has no processor, so it cannot be shown pictures")
        try:
            images = [as_pil(part.get("image")) for part in shown]
            made = self.processor(text=[text], images=[images], add_special_tokens=special, return_tensors="pt")
        except (ValueError, TypeError) as error:
            raise ValueError(f"{len(shown)} picture(s) cannot be shown to the model: {first_line(error)}") from error
        inputs = {k: v for k, v in made.items() if k not in _BY_TOKEN}
        kinds_L = (made["input_ids"][0] == self.model.config.image_token_id).long()
        place_AL = self._place(made["input_ids"], kinds_L, inputs)
        return EncodedPrompt(
            made["input_ids"][0], place_AL, ImageInputs(inputs, int(kinds_L.sum())), self._frames(shown, inputs)
        )

    def _place(self, ids_1L: Tensor, kinds_L: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        if self.axes == 1:
            return torch.arange(ids_1L.shape[1])[None]
        rope = self.model.base_model.get_rope_index
        return rope(input_ids=ids_1L, mm_token_type_ids=kinds_L[None], image_grid_thw=inputs["image_grid_thw"])[0][:, 0]

    def _frames(self, shown: Sequence[Message], inputs: Mapping[str, Tensor]) -> tuple[Frame, ...]:
        """The pictures as shown. Where no grid says how a picture was resized, the model speaks of its own pixels."""
        own = [part.get("frame") or Frame.of(part["image"], digest(part["image"])) for part in shown]
        if "image_grid_thw" not in inputs:
            return tuple(own)
        size = self.processor.image_processor.patch_size
        return tuple(f.displayed(w * size, h * size) for f, (_, h, w) in zip(own, inputs["image_grid_thw"].tolist()))


def load_language_model(
    name_or_path: str | Path,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> LanguageModel:
    """The model, frozen and without dropout, with tokenizer and processor. ValueError with one line if it cannot be
    had.

    ``min_pixels`` and ``max_pixels`` bound what pictures are resized to, where the model has such bounds.
    """
    import transformers

    name, place = str(name_or_path), locate(name_or_path)
    config = description(name, place, "config.json")
    auto = _auto_class(name, config)
    quiet(transformers)
    with reading(name, place):
        model, found = auto.from_pretrained(place, dtype=dtype, output_loading_info=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(place)
        seer = _known("IMAGE_TEXT_TO_TEXT").get(config["model_type"])
        processor = processors.load(place, tokenizer, config["model_type"]) if type(model).__name__ == seer else None
    if found["missing_keys"]:
        raise ValueError(f"model '{name}': {place} lacks the weight {min(found['missing_keys'])}")
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # transformers makes up an empty one where there is none
        raise ValueError(f"model '{name}': {place} has no tokenizer")
    if (min_pixels, max_pixels) != (None, None):
        processors.bound(processor, name, min_pixels, max_pixels)
    return LanguageModel(model.to(device).eval().requires_grad_(False), tokenizer, processor)


def save(language: LanguageModel, folder: str | Path) -> None:
    """Write model (LoRA folded in), tokenizer and processor as a plain transformers folder."""
    with merged(language.model) as model:
        model.save_pretrained(folder)
    language.tokenizer.save_pretrained(folder)
    if language.processor is not None:
        processors.save(language.processor, folder)


def _auto_class(name: str, config: dict[str, Any]) -> Any:
    """AutoModelForCausalLM, or AutoModelForImageTextToText where config.json names a vision-language class."""
    import transformers

    kind, built = config.get("model_type"), next(iter(config.get("architectures") or ()), None)
    writers, seers = _known("CAUSAL_LM"), _known("IMAGE_TEXT_TO_TEXT")
    writer, seer = writers.get(kind), seers.get(kind)
    if writer is None and seer is None:
        close = nearest(kind, [*writers, *seers])
        raise ValueError(f"model '{name}': its model_type {kind!r} is not a language model's; nearest: {close}")
    if built not in (None, writer, seer):
        raise ValueError(f"model '{name}': its config.json names the class {built}, not {writer or seer}")
    sees = writer is None or (built == seer and built != writer)
    return transformers.AutoModelForImageTextToText if sees else transformers.AutoModelForCausalLM


def _known(task: str) -> Mapping[str, str]:
    """Names of transformers' classes for a task, by type of model."""
    from transformers.models.auto import modeling_auto

    return getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES")


@torch.no_grad()
def _has_plain_head(model: nn.Module, token: int) -> bool:
    """Asked of a few words at once, while the network is still whole."""
    ids = torch.tensor([[token, token]], device=model.device)
    hidden = model.base_model(input_ids=ids).last_hidden_state
    return torch.equal(model.get_output_embeddings()(hidden), model(input_ids=ids).logits)
