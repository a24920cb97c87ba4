"""Transformers' language and vision-language models with tokenizer and processor, by id, folder or miniature."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saccade.math.frames import Frame
from saccade.math.pixels import picture_digest
from saccade.models.adapters import lora_adapter, merged
from saccade.models.language.messages import (
    Message,
    Prompt,
    as_text_only,
    image_parts,
    to_pil,
    with_image_placeholders,
    with_texts,
)
from saccade.models.language.processor import load_processor, save_processor, set_pixel_bounds
from saccade.models.language.prompts import EncodedPrompt, EncodedPrompts, ImageInputs
from saccade.models.loading import first_line, loading_errors, locate, read_config, silence
from saccade.naming import suggestion

_TOKEN_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")

_TOKEN_FIELDS = ("_token_id", "_token_ids", "_token_index")

_MEDIA = ("image", "video", "vision", "audio", "boi", "eoi")

_THOUSANDTHS = ("qwen2_vl", "qwen3_vl", "qwen3_vl_moe", "internvl")
"""Types of models that write coordinates in thousandths of a picture's sides, as their model cards say."""

_TURN = "\ue000\ue001"
"""Stands for a turn of the model where a chat template is asked how it continues; no text has these characters."""


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A causal or vision-language model, its tokenizer and, if it accepts pictures, its processor."""

    model: Any
    tokenizer: Any
    processor: Any = None
    plain_head: bool = field(init=False)
    """Whether logits are the head's output on the last hidden states and nothing else (no caps, no scales)."""
    encoded: EncodedPrompts = field(init=False, repr=False, default_factory=EncodedPrompts)
    """The prompts that were encoded last."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "plain_head", _has_plain_head(self.model, self.pad_id))

    @property
    def eos_ids(self) -> list[int]:
        """Tokens that end a completion: those of the generation config and the tokenizer's."""
        named = self.model.generation_config.eos_token_id
        listed = [named] if isinstance(named, int) else list(named or [])
        return sorted({*listed, *({self.tokenizer.eos_token_id} - {None})})

    @property
    def pad_id(self) -> int:
        """The token of padding; it is never attended to."""
        return next((t for t in (self.tokenizer.pad_token_id, *self.eos_ids) if t is not None), 0)

    @property
    def max_length(self) -> int | None:
        """The longest sequence that the model has positions for, None if there is no limit."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @property
    def banned_ids(self) -> list[int]:
        """Tokens that a model must not generate: they stand for pictures, videos and sounds, or delimit them."""
        named = vars(self.model.config) | {
            k: getattr(self.processor, k, None) for k in ("image_token_ids", "video_token_ids")
        }
        chosen = [v for k, v in named.items() if k.endswith(_TOKEN_FIELDS) and any(m in k for m in _MEDIA)]
        ids = {i for v in chosen for i in (v if isinstance(v, list) else [v]) if isinstance(i, int)}
        size = self.model.config.get_text_config().vocab_size
        return sorted(i for i in ids if 0 <= i < size and i not in self.eos_ids)

    @property
    def position_axes(self) -> int:
        """Numbers of a token's position: 3 for models that count time, rows and columns (M-RoPE), else 1."""
        return 3 if hasattr(self.model.base_model, "get_rope_index") else 1

    @property
    def head(self) -> nn.Module:
        """Maps the results of `hidden_states` to logits."""
        return self.model.get_output_embeddings() if self.plain_head else nn.Identity()

    # -- text -----------------------------------------------------------------------------------------------

    def apply_template(self, prompt: Prompt) -> str:
        """The prompt as text: chat messages in the chat template, up to where the answer begins.

        Names of special tokens in messages are letters, not tokens; in plain text they are tokens.
        """
        if isinstance(prompt, str):
            return prompt
        templated = self.processor if getattr(self.processor, "chat_template", None) else self.tokenizer
        if templated.chat_template is None:
            raise ValueError(
                f"the tokenizer of {self.model.name_or_path} has no chat template; give prompts as plain text"
            )
        prepare = with_image_placeholders if templated is self.processor else as_text_only
        messages = [prepare(with_texts(message, self.spelled)) for message in prompt]
        return templated.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def decode(self, tokens: Sequence[int]) -> str:
        """Tokens as text, without special tokens."""
        return self.tokenizer.decode(tokens, skip_special_tokens=True)

    def spelled(self, text: str) -> str:
        """A text in which names of special tokens are broken by an invisible space, so that they stay letters."""
        return self._special_names.sub(lambda name: f"{name[0][0]}\u200b{name[0][1:]}", text)

    @cached_property
    def _special_names(self) -> re.Pattern[str]:
        media = self.tokenizer.convert_ids_to_tokens(self.banned_ids)
        names: set[str] = {*self.tokenizer.all_special_tokens, *filter(None, media)}
        longest_first = sorted(names, key=len, reverse=True)
        return re.compile("|".join([re.escape(name) for name in longest_first]) or r"(?!)")

    def without_special_tokens(self, text: str) -> str:
        """A text without the names of special tokens, so that it can be quoted in a message."""
        return self._special_names.sub("", text)

    # -- encoding -------------------------------------------------------------------------------------------

    def encode_prompt(self, prompt: Prompt) -> EncodedPrompt:
        """A prompt with its pictures, encoded once. ValueError with one line if it cannot be encoded."""
        return self.encoded(prompt, self._encode_prompt)

    def _encode_prompt(self, prompt: Prompt) -> EncodedPrompt:
        text = self.apply_template(prompt)
        has_bos = self.tokenizer.bos_token is not None and text.startswith(self.tokenizer.bos_token)
        special = isinstance(prompt, str) or (self.processor is not None and not has_bos)
        encoded = self._encode(text, image_parts(prompt), special)
        if not len(encoded):
            raise ValueError(f"the prompt {prompt!r} has no tokens")
        return encoded

    def encode_reply(self, prompt: Prompt, messages: Sequence[Message]) -> EncodedPrompt:
        """The continuation of a conversation: from the end of the model's turn over messages to its next turn.

        ``prompt`` is the beginning of the conversation; later messages do not change how a template continues.
        ValueError with one line if it cannot be encoded.
        """
        if isinstance(prompt, str):
            raise ValueError("a conversation needs a prompt in chat messages, not plain text")
        text = self.apply_template([*prompt, {"role": "assistant", "content": _TURN}, *messages])
        if text.count(_TURN) != 1:
            raise ValueError(f"the chat template of {self.model.name_or_path} does not show an assistant's message")
        return self._encode(text.split(_TURN)[1], image_parts(messages), False)

    def _encode(self, text: str, images: Sequence[Message], special: bool) -> EncodedPrompt:
        if not images:
            ids = self.tokenizer(text, add_special_tokens=special)["input_ids"]
            if found := set(ids) & set(self.banned_ids):
                token = self.tokenizer.decode(min(found))
                raise ValueError(f"the text {text[-60:]!r} holds {token!r} but no picture is given")
            positions = torch.arange(len(ids)).expand(self.position_axes, -1)
            return EncodedPrompt(torch.tensor(ids, dtype=torch.int64), positions)
        if self.processor is None:
            raise ValueError(f"{self.model.name_or_path} has no processor, so it cannot be given pictures")
        try:
            pictures = [to_pil(part.get("image")) for part in images]
            encoded = self.processor(text=[text], images=[pictures], add_special_tokens=special, return_tensors="pt")
        except (ValueError, TypeError) as error:
            raise ValueError(f"{len(images)} picture(s) cannot be given to the model: {first_line(error)}") from error
        inputs = {k: v for k, v in encoded.items() if k not in _TOKEN_INPUTS}
        is_image_L = (encoded["input_ids"][0] == self.model.config.image_token_id).long()
        return EncodedPrompt(
            encoded["input_ids"][0],
            self._positions(encoded["input_ids"], is_image_L, inputs),
            ImageInputs(inputs, int(is_image_L.sum())),
            self._frames(images, inputs),
        )

    def _positions(self, ids_1L: Tensor, is_image_L: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        if self.position_axes == 1:
            return torch.arange(ids_1L.shape[1])[None]
        rope = self.model.base_model.get_rope_index
        grid = inputs["image_grid_thw"]
        return rope(input_ids=ids_1L, mm_token_type_ids=is_image_L[None], image_grid_thw=grid)[0][:, 0]

    def _frames(self, images: Sequence[Message], inputs: Mapping[str, Tensor]) -> tuple[Frame, ...]:
        """The frames in whose coordinates the model writes: of pictures as resized, or thousandths of their sides.

        Without grids the size is unknown, and boxes are in original pixels.
        """
        frames = [part.get("frame") or Frame.of(part["image"], picture_digest(part["image"])) for part in images]
        if self.model.config.model_type in _THOUSANDTHS:
            return tuple(frame.displayed(1000, 1000) for frame in frames)
        if "image_grid_thw" not in inputs:
            return tuple(frames)
        size, grids = self.processor.image_processor.patch_size, inputs["image_grid_thw"].tolist()
        return tuple(frame.displayed(w * size, h * size) for frame, (_, h, w) in zip(frames, grids))


def load_language_model(
    name_or_path: str | Path,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> LanguageModel:
    """The model, frozen and without dropout, with tokenizer and processor.

    ``min_pixels`` and ``max_pixels`` bound the size of pictures, where the model has such bounds. ValueError with one
    line if it cannot be loaded.
    """
    import transformers

    name, place = str(name_or_path), locate(name_or_path)
    config = read_config(name, place, "config.json")
    auto = _auto_class(name, config)
    silence(transformers)
    with loading_errors(name, place):
        model, info = auto.from_pretrained(place, dtype=dtype, output_loading_info=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(place)
        vision_class = _class_names("IMAGE_TEXT_TO_TEXT").get(config["model_type"])
        has_vision = type(model).__name__ == vision_class
        processor = load_processor(place, tokenizer, config["model_type"]) if has_vision else None
    if info["missing_keys"]:
        raise ValueError(f"model '{name}': {place} lacks the weight {min(info['missing_keys'])}")
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # transformers creates an empty one if none is there
        raise ValueError(f"model '{name}': {place} has no tokenizer")
    if (min_pixels, max_pixels) != (None, None):
        set_pixel_bounds(processor, name, min_pixels, max_pixels)
    return LanguageModel(model.to(device).eval().requires_grad_(False), tokenizer, processor)


def save_language_model(language: LanguageModel, folder: str | Path) -> None:
    """Write model (LoRA folded in), tokenizer and processor as a plain transformers folder."""
    with merged(language.model) as model:
        model.save_pretrained(folder)
    language.tokenizer.save_pretrained(folder)
    if language.processor is not None:
        save_processor(language.processor, folder)


def save_lora(language: LanguageModel, folder: str | Path) -> str:
    """Write the model's LoRA as an adapter of peft; the name of its base. ValueError where all weights were trained."""
    from peft import LoraConfig
    from safetensors.torch import save_file

    lora, base = lora_adapter(language.model), language.model.name_or_path
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=lora.targets, base_model_name_or_path=base)
    config.save_pretrained(str(folder))
    tensors = {f"base_model.model.{name}": tensor.contiguous() for name, tensor in lora.tensors.items()}
    save_file(tensors, Path(folder) / "adapter_model.safetensors", metadata={"format": "pt"})
    return base


def _auto_class(name: str, config: dict[str, Any]) -> Any:
    """AutoModelForCausalLM, or AutoModelForImageTextToText where config.json names a vision-language class."""
    import transformers

    kind, architecture = str(config.get("model_type")), next(iter(config.get("architectures") or ()), None)
    causal_classes, vision_classes = _class_names("CAUSAL_LM"), _class_names("IMAGE_TEXT_TO_TEXT")
    causal, vision = causal_classes.get(kind), vision_classes.get(kind)
    if causal is None and vision is None:
        close = suggestion(kind, [*causal_classes, *vision_classes])
        raise ValueError(f"model '{name}': its model_type {kind!r} is not a language model's{close}")
    if architecture not in (None, causal, vision):
        raise ValueError(f"model '{name}': its config.json names the class {architecture}, not {causal or vision}")
    has_vision = causal is None or (architecture == vision and architecture != causal)
    return transformers.AutoModelForImageTextToText if has_vision else transformers.AutoModelForCausalLM


def _class_names(task: str) -> Mapping[str, str]:
    """Names of transformers' classes for a task, by model type."""
    from transformers.models.auto import modeling_auto

    return getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES")


@torch.no_grad()
def _has_plain_head(model: Any, token: int) -> bool:
    """Whether the head applied to hidden states gives the logits of two tokens; checked before the model is sharded."""
    ids = torch.tensor([[token, token]], device=model.device)
    hidden = model.base_model(input_ids=ids).last_hidden_state
    return torch.equal(model.get_output_embeddings()(hidden), model(input_ids=ids).logits)
