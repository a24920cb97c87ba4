"""Rows in the making: prompts that are read once each, words written turn by turn, what is said to the writers
between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from saccade.core import generator
from saccade.math.frames import Frame
from saccade.models.language.decoding import DecodeState, append, generate, prefill
from saccade.models.language.messages import Message, Prompt
from saccade.models.language.model import LanguageModel
from saccade.models.language.prompts import EncodedPrompt, ImageInputs, Names, PerRow, beside, content
from saccade.models.vision.encoder import VisionEncoder


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen: at most ``most`` a turn, each by ``temperature`` and ``top_p``, until ``ended``."""

    most: int
    temperature: float
    top_p: float
    ended: Callable[[Tensor], Tensor]


@dataclass(eq=False)
class TokenSequence:
    """One row: its prompt and what follows, piece by piece; ``own`` is None for a piece that it was told."""

    prompt: EncodedPrompt
    numbers: torch.Generator
    ids: list[Tensor] = field(default_factory=list)
    place: list[Tensor] = field(default_factory=list)
    own: list[Tensor | None] = field(default_factory=list)
    sights: list[ImageInputs | None] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    after: int = 0

    def __post_init__(self) -> None:
        self.after, self.sights, self.frames = self.prompt.after, [self.prompt.sight], list(self.prompt.frames)

    def __len__(self) -> int:
        return len(self.prompt) + sum(map(len, self.ids))

    def add(self, passage: EncodedPrompt, logp: Tensor | None = None) -> None:
        """A piece that was written with these log-probs, or told."""
        self.ids.append(passage.ids_L)
        self.place.append(passage.place_AL + self.after)
        self.own.append(logp)
        self.after += passage.after
        if logp is None:
            self.sights.append(passage.sight)
            self.frames.extend(passage.frames)

    def whole(self) -> EncodedPrompt:
        """All of it as one passage, without its pictures."""
        return EncodedPrompt(
            torch.cat([self.prompt.ids_L, *self.ids]), torch.cat([self.prompt.place_AL, *self.place], 1)
        )

    def turns(self) -> Tensor:
        """The turn of each own token."""
        own = [logp for logp in self.own if logp is not None]
        return torch.cat([torch.full((len(logp),), turn) for turn, logp in enumerate(own)])

    def columns(self) -> Tensor:
        """Where the own tokens stand, counted from the first token after the prompt."""
        mine = torch.cat([torch.full((len(ids),), logp is not None) for ids, logp in zip(self.ids, self.own)])
        return mine.nonzero()[:, 0]


class GenerationState:
    """B rows that begin with prompt ``index_B[b]`` and draw their words from ``seeds_B``.

    All write, until some are told something: then these write on and the others rest for good. ValueError with one line
    for a prompt that cannot be read or leaves no room to write.
    """

    def __init__(
        self,
        language: LanguageModel,
        eyes: VisionEncoder,
        prompts: Sequence[Prompt],
        index_B: Tensor,
        seeds_B: Tensor,
        manner: SamplingParams,
    ):
        self.language, self.eyes, self.manner, self.prompts, self.index_B = language, eyes, manner, prompts, index_B
        self.replies: dict[str, EncodedPrompt] = {}
        self.names: Names = {}
        self.passages = [language.passage(prompt) for prompt in prompts]
        for passage in self.passages:
            self._check_room(passage)
        self.lines = [
            TokenSequence(self.passages[i], generator(seed)) for i, seed in zip(index_B.tolist(), seeds_B.tolist())
        ]
        self.width = max(map(len, self.passages))
        device = language.model.device
        batch = [x.to(device) for x in beside(self.passages, language.pad)]
        seen = eyes.see([passage.sight for passage in self.passages], batch[0])
        self.reading = prefill(language.model, *batch, index_B.to(device), self.width + manner.most, seen)

    def reply(self, row: int, told: Sequence[Message]) -> EncodedPrompt:
        """What a row is told, as it will read it. Rows that are told the same share it. ValueError if it cannot be
        read.
        """
        number = int(self.index_B[row])
        key = content((number, told), self.names)
        if key not in self.replies:
            self.replies[key] = self.language.reply(self.prompts[number], told)
        return self.replies[key]

    def _check_room(self, prompt: EncodedPrompt) -> None:
        room, most = self.language.room, self.manner.most
        if room is not None and len(prompt) + most > room:
            pictures = f" ({prompt.sight.tokens} of them pictures)" if prompt.sight else ""
            raise ValueError(
                f"a prompt of {len(prompt)} tokens{pictures} and max_new_tokens {most} exceed the model's {room} positions"
            )

    def write(self) -> dict[int, str]:
        """A turn of each row at work: what it says, special tokens left out."""
        manner, rows = self.manner, sorted(self.reading.row_N.tolist())
        uniform_BT = torch.zeros(len(self.lines), manner.most)
        for row in rows:
            uniform_BT[row] = torch.rand(manner.most, generator=self.lines[row].numbers)
        written = generate(
            self.reading,
            uniform_BT.to(self.language.model.device),
            manner.ended,
            manner.temperature,
            manner.top_p,
            self.language.banned,
        )
        tokens_BT, logp_BT, length_B = (x.cpu() for x in written)
        for row in rows:
            ids, logp = tokens_BT[row, : length_B[row]], logp_BT[row, : length_B[row]]
            self.lines[row].add(EncodedPrompt(ids, torch.arange(len(ids)).expand(self.language.axes, -1)), logp)
        return {row: self.language.words(self.lines[row].ids[-1].tolist()) for row in rows}

    def append(self, told: Mapping[int, EncodedPrompt]) -> None:
        """Tell rows what `reply` made of the answers to them; they write next."""
        from saccade.models.language.cache import remembers

        blocks = {}
        for row, passage in told.items():
            line = self.lines[row]
            last = line.ids[-1][-1:]
            if len(passage) > 1 and last.item() in self.language.ends and last == passage.ids_L[0]:
                passage = passage.tail()  # the template closes a turn that the model has closed itself
            place = torch.cat([torch.zeros_like(passage.place_AL[:, :1]), passage.place_AL + 1], 1)
            blocks[row] = EncodedPrompt(torch.cat([last, passage.ids_L]), place, passage.sight)
            line.add(passage)
        self.replies, self.names = {}, {}
        if remembers(self.reading.cache):
            append(self.reading, blocks, self.eyes.see, self.language.pad, self.manner.most)
        else:
            self.reading = self._read_again(list(told))

    def _read_again(self, rows: list[int]) -> DecodeState:
        """Rows read from their beginning, where sliding windows and recurrent states have forgotten it."""
        device, lines = self.language.model.device, [self.lines[row] for row in rows]
        batch = [x.to(device) for x in beside([line.whole() for line in lines], self.language.pad)]
        seen = self.eyes.see([sight for line in lines for sight in line.sights], batch[0])
        every, room = torch.arange(len(rows), device=device), batch[0].shape[1] + self.manner.most
        return prefill(self.language.model, *batch, every, room, seen).among(
            torch.tensor(rows, device=device), len(self.lines)
        )

    def decisions(self) -> dict[str, Any]:
        """All that was read and written, as stored in a rollout: keys as in `TokenPolicy`."""
        prompt = beside(self.passages, self.language.pad)
        joined = [(torch.cat(line.ids), torch.cat(line.place, 1).T) for line in self.lines]
        after = pad_sequence([ids for ids, _ in joined], True, self.language.pad)
        present = pad_sequence([torch.ones_like(ids) for ids, _ in joined], True)
        place = pad_sequence([place for _, place in joined], True).transpose(1, 2)
        return {
            "ids_BL": torch.cat([prompt[0][self.index_B], after], 1),
            "attention_BL": torch.cat([prompt[1][self.index_B], present], 1),
            "place_BAL": torch.cat([prompt[2][self.index_B], place], 2),
            "position_BT": pad_sequence([self.width + line.columns() for line in self.lines], True),
            "begin_B": torch.full((len(self.lines),), self.width),
            "sights_B": PerRow(tuple(tuple(line.sights) for line in self.lines)),
        }

    def logp(self) -> Tensor:
        """Log-probs of the own tokens ``[B, T]``, 0 where a row has fewer."""
        return pad_sequence([torch.cat([x for x in line.own if x is not None]) for line in self.lines], True)
