"""Rollouts that are conversations: after each turn of the model a plain function gives the next message, or ends it.

The model's own tokens are decisions; the messages it is given are not, so nothing of them is trained. One `likelihood`
replays a complete conversation. Keys and values stay cached between turns; pictures may come in any size at any turn.
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
    """The text of one turn of the model and the reply to it; ``failure`` is the error where the reply function raised.

    ``reply`` is empty after the last turn.
    """

    text: str
    reply: tuple[Message, ...] = ()
    failure: str = ""


@dataclass(eq=False)
class Conversation:
    """A conversation as its environment reads it, and as the rollout keeps it.

    ``frames`` are those of all pictures so far as the model was shown them. A picture in a reply may bring its frame
    (``{"type": "image", "image": pixels, "frame": Frame}``), else it is an original. ``env_state`` belongs to the
    environment. ``end_reason`` is "answer" where the environment ended it, else the limit that was reached: "turns" or
    "tokens".
    """

    turns: list[Turn] = field(default_factory=list)
    frames: tuple[Frame, ...] = ()
    env_state: dict[str, Any] = field(default_factory=dict)
    end_reason: str = ""


Reply = Callable[[Problem, Conversation, str], Sequence[Message] | None]
"""The reply to the text of a turn: chat messages, pictures among them; None ends the conversation."""


@dataclass(frozen=True, eq=False)
class MultiTurnRollout:
    """A sampler of conversations with at most ``max_turns`` turns of the model and ``max_tokens`` tokens.

    A reply that raises becomes a message with the error. A reply that would leave no room for a further turn is not
    given. ``outputs`` are the texts of the last turns; ``extras`` hold the turn of each decision (``turn_BT``, from 0),
    the number of turns (``turns_B``), the number of replies that failed (``failures_B``) and the conversations
    (``conversation_B``).
    """

    policy: TokenPolicy
    reply: Reply
    max_turns: int = 2
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.max_turns < 1:
            raise ValueError(f"max_turns {self.max_turns} is less than 1")

    def __call__(self, problems: Sequence[Problem], seeds_B: Tensor) -> Rollout:
        """One conversation about each problem. ValueError if a prompt leaves no room for a turn."""
        with self.policy.generating():
            state = self.policy.start_generation(problems, seeds_B)
        longest, new_tokens = max(map(len, state.sequences)), self.policy.max_new_tokens
        if not self._has_room(longest):
            raise ValueError(f"a prompt of {longest} tokens and max_new_tokens {new_tokens} exceed {self.max_tokens}")
        conversations = [Conversation() for _ in problems]
        while True:
            with self.policy.generating():
                texts = state.generate_turn()
            replies = self._replies(state, problems, conversations, texts)
            if not replies:
                return self._rollout(state, problems, conversations)
            with self.policy.generating():
                state.append(replies)

    def _replies(
        self,
        state: GenerationState,
        problems: Sequence[Problem],
        conversations: Sequence[Conversation],
        texts: Mapping[int, str],
    ) -> dict[int, EncodedPrompt]:
        """The encoded reply to each row whose conversation goes on."""
        replies = {}
        for row, text in texts.items():
            conversation, sequence = conversations[row], state.sequences[row]
            conversation.turns.append(Turn(text))
            conversation.frames = tuple(sequence.frames)
            encoded = self._reply(problems[row], conversation, text, partial(state.encode_reply, row))
            if encoded is not None and not self._has_room(len(sequence) + len(encoded)):
                conversation.end_reason, conversation.turns[-1] = "tokens", Turn(text)
            elif encoded is not None:
                replies[row] = encoded
        return replies

    def _reply(
        self,
        problem: Problem,
        conversation: Conversation,
        text: str,
        encode: Callable[[Sequence[Message]], EncodedPrompt],
    ) -> EncodedPrompt | None:
        """The encoded reply to a turn; None, with the reason kept, if the conversation is over."""
        if len(conversation.turns) == self.max_turns:
            conversation.end_reason = "turns"
            return None
        failure = ""
        try:
            messages = self.reply(problem, conversation, text)
            encoded = None if messages is None else encode(messages)
        except (Exception, SystemExit) as error:  # a tool's input is whatever a model wrote: its errors are answers
            failure = f"{type(error).__name__}: {first_line(error)}"
            notice = self.policy.language.without_special_tokens(f"That did not work: {first_line(error)}")
            messages = [{"role": "user", "content": notice}]
            encoded = encode(messages)
        if messages is None:
            conversation.end_reason = "answer"
        else:
            conversation.turns[-1] = Turn(text, tuple(messages), failure)
        return encoded

    def _has_room(self, tokens: int) -> bool:
        """Whether a conversation of ``tokens`` tokens may have one more turn."""
        bounds = [bound for bound in (self.policy.language.max_length, self.max_tokens) if bound is not None]
        return tokens + self.policy.max_new_tokens <= min(bounds, default=math.inf)

    def _rollout(
        self, state: GenerationState, problems: Sequence[Problem], conversations: Sequence[Conversation]
    ) -> Rollout:
        rollout = self.policy.finish_rollout(state, problems, [each.turns[-1].text for each in conversations])
        failures = [sum(bool(turn.failure) for turn in each.turns) for each in conversations]
        rollout.extras |= {
            "turns_B": torch.tensor([float(len(each.turns)) for each in conversations]),
            "failures_B": torch.tensor(failures, dtype=torch.float32),
            "conversation_B": PerRow(tuple(conversations)),
        }
        return rollout
