"""Transformers' language models with their tokenizers, by hub id, folder or miniature's name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saccade.models.locate import description, locate, reading

Prompt = str | list[dict[str, Any]]
"""Plain text, or chat messages ``[{"role": "user", "content": …}]`` for the tokenizer's own template."""


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A causal language model (or a vision-language model that is fed text alone) and its tokenizer."""

    model: Any
    tokenizer: Any

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

    def text(self, prompt: Prompt) -> str:
        """The prompt as the model reads it: chat messages in the chat template, up to where the answer begins."""
        if isinstance(prompt, str):
            return prompt
        if self.tokenizer.chat_template is None:
            raise ValueError(f"the tokenizer of {self.model.name_or_path} has no chat template; give prompts as plain text")
        return self.tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)

    def words(self, tokens: Sequence[int]) -> str:
        """Tokens as text, special tokens left out."""
        return self.tokenizer.decode(tokens, skip_special_tokens=True)

    def encode(self, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        """Token ids and attention ``[P, L]`` (int64), padded on the left. ValueError for a prompt without tokens."""
        rows = []
        for prompt in prompts:
            ids = self.tokenizer(self.text(prompt), add_special_tokens=isinstance(prompt, str))["input_ids"]
            if not ids:
                raise ValueError(f"the prompt {prompt!r} has no tokens")
            rows.append(ids)
        longest = max(map(len, rows))
        ids_PL = torch.tensor([[self.pad] * (longest - len(row)) + row for row in rows])
        attention_PL = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        return ids_PL.to(self.model.device), attention_PL.to(self.model.device)


def load(name_or_path: str | Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> LanguageModel:
    """The model, frozen and without dropout, and its tokenizer. ValueError with one line if it cannot be had."""
    import transformers

    name, place = str(name_or_path), locate(name_or_path)
    auto = _auto_class(name, description(name, place, "config.json"))
    with reading(name, place):
        model, found = auto.from_pretrained(place, dtype=dtype, output_loading_info=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    if found["missing_keys"]:
        raise ValueError(f"model '{name}': {place} lacks the weight {min(found['missing_keys'])}")
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # transformers makes up an empty one where there is none
        raise ValueError(f"model '{name}': {place} has no tokenizer")
    return LanguageModel(model.to(device).eval().requires_grad_(False), tokenizer)


def _auto_class(name: str, config: dict[str, Any]) -> Any:
    """AutoModelForCausalLM, or AutoModelForImageTextToText where config.json names a vision-language class."""
    import transformers
    from transformers.models.auto import modeling_auto as known

    kind, built = config.get("model_type"), next(iter(config.get("architectures") or ()), None)
    writer = known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)
    seer = known.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(kind)
    if writer is None and seer is None:
        every = [*known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *known.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES]
        close = difflib.get_close_matches(str(kind), every, n=1, cutoff=0.0)[0]
        raise ValueError(f"model '{name}': its model_type {kind!r} is not a language model's; nearest: {close}")
    if built not in (None, writer, seer):
        raise ValueError(f"model '{name}': its config.json names the class {built}, not {writer or seer}")
    sees = writer is None or (built == seer and built != writer)
    return transformers.AutoModelForImageTextToText if sees else transformers.AutoModelForCausalLM
