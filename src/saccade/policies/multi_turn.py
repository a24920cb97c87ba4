"""Attempts that are conversations: after each turn of the model a plain function says what it is told, or that it is
over.

The model's own tokens are decisions; what it is told is not, so nothing of it is trained. One `likelihood` weighs a
whole conversation. Keys and values stay between turns, pictures may come in any size at any turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from saccade.core import Problem, Rollout
from saccade.math.frames import Frame
from saccade.models.language.generation import GenerationState
from saccade.models.language.messages import Message
from saccade.models.language.prompts import EncodedPrompt, PerRow
from saccade.models.loading import first_line
from saccade.policies.tokens import TokenPolicy


@dataclass(frozen=True, eq=False)
class Turn:
    """What the model said and what it was told then; ``failure`` is the error of a reply that could not be had."""

    said: str
    told: tuple[Message, ...] = ()
    failure: str = ""


@dataclass(eq=False)
class Conversation:
    """A conversation as its environment sees it, and as it is kept.

    ``frames`` are those of all pictures so far as the model was shown them. A picture that is told may bring its frame
    (``{"type": "image", "image": pixels, "frame": Frame}``), else it is an original. ``memory`` is the environment's
    own. ``ended`` says why it is over: "answer", or for want of "turns" or "room".
    """

    turns: list[Turn] = field(default_factory=list)
    frames: tuple[Frame, ...] = ()
    memory: dict[str, Any] = field(default_factory=dict)
    ended: str = ""


Reply = Callable[[Problem, Conversation, str], Sequence[Message] | None]
"""What the model is told after it said a text: chat messages, pictures among them; None if there is nothing to add."""


@dataclass(frozen=True, eq=False)
class MultiTurnRollout:
    """``attempt(problems, seeds_B)`` with at most ``turns`` turns of the model and ``most_tokens`` in a conversation.

    A reply that raises becomes a message that says so. A reply that would leave no room for a further turn is not
    given. ``outputs`` are the texts of the last turns; ``extras`` hold the turn of each decision (``turn_BT``, from 0),
    how many turns there were (``turns_B``), how many replies failed (``failures_B``) and all that was said
    (``conversation_B``).
    """

    policy: TokenPolicy
    reply: Reply
    turns: int = 2
    most_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.turns < 1:
            raise ValueError(f"turns {self.turns} is less than 1")

    def __call__(self, problems: Sequence[Problem], seeds_B: Tensor) -> Rollout:
        """One conversation about each problem. ValueError if a prompt leaves no room to write."""
        with self.policy.generating():
            draft = self.policy.start_generation(problems, seeds_B)
        longest, most = max(map(len, draft.sequences)), self.policy.max_new_tokens
        if not self._fits(longest):
            raise ValueError(f"a prompt of {longest} tokens and max_new_tokens {most} exceed {self.most_tokens}")
        talks = [Conversation() for _ in problems]
        while True:
            with self.policy.generating():
                said = draft.generate_turn()
            told = self._told(draft, problems, talks, said)
            if not told:
                return self._finished(draft, problems, talks)
            with self.policy.generating():
                draft.append(told)

    def _told(
        self,
        draft: GenerationState,
        problems: Sequence[Problem],
        talks: Sequence[Conversation],
        said: Mapping[int, str],
    ) -> dict[int, EncodedPrompt]:
        """What the rows are told whose conversation goes on."""
        told = {}
        for row, text in said.items():
            talk, line = talks[row], draft.sequences[row]
            talk.turns.append(Turn(text))
            talk.frames = tuple(line.frames)
            passage = self._next(problems[row], talk, text, partial(draft.encode_reply, row))
            if passage is not None and not self._fits(len(line) + len(passage)):
                talk.ended, talk.turns[-1] = "room", Turn(text)
            elif passage is not None:
                told[row] = passage
        return told

    def _next(
        self, problem: Problem, talk: Conversation, text: str, read: Callable[[Sequence[Message]], EncodedPrompt]
    ) -> EncodedPrompt | None:
        """What comes after a turn; None, and why, if the conversation is over."""
        if len(talk.turns) == self.turns:
            talk.ended = "turns"
            return None
        failure = ""
        try:
            messages = self.reply(problem, talk, text)
            passage = None if messages is None else read(messages)
        except Exception as error:  # a tool's input is whatever a model wrote: its errors are answers
            failure = f"{type(error).__name__}: {first_line(error)}"
            notice = self.policy.language.without_special_tokens(f"That did not work: {first_line(error)}")
            messages = [{"role": "user", "content": notice}]
            passage = read(messages)
        if passage is None:
            talk.ended = "answer"
        else:
            talk.turns[-1] = Turn(text, tuple(messages), failure)
        return passage

    def _fits(self, tokens: int) -> bool:
        """Whether a conversation of so many tokens may have one more turn."""
        bounds = [bound for bound in (self.policy.language.max_length, self.most_tokens) if bound is not None]
        return tokens + self.policy.max_new_tokens <= min(bounds, default=math.inf)

    def _finished(self, draft: GenerationState, problems: Sequence[Problem], talks: Sequence[Conversation]) -> Rollout:
        rollout = self.policy.finish_rollout(draft, problems, [talk.turns[-1].said for talk in talks])
        rollout.extras |= {
            "turns_B": torch.tensor([float(len(talk.turns)) for talk in talks]),
            "failures_B": torch.tensor([float(sum(bool(turn.failure) for turn in talk.turns)) for talk in talks]),
            "conversation_B": PerRow(tuple(talks)),
        }
        return rollout
