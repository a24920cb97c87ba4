"""Sample sets to conversations: what a model was given and wrote in each turn, before and after, with its boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saccade.report.images import Image, load_picture
from saccade.report.record import Record
from saccade.report.samples import CARDS, direction, ends, names, origin, pairs


@dataclass(frozen=True)
class Turn:
    """Who wrote what, with which pictures; ``trained`` if its tokens are trained on."""

    who: str
    text: str
    images: list[Image]
    trained: bool


@dataclass(frozen=True)
class Conversation:
    """One conversation: number of its run, caption, score, and whether the score fell (-1), stayed (0) or rose (1)."""

    run: int
    caption: str
    turns: list[Turn]
    score: float | None
    direction: int


@dataclass(frozen=True)
class ConversationSet:
    """One sample set: its origin in words, the conversations about each prompt, and the number of prompts."""

    name: str
    origin: str
    cards: list[list[Conversation]]
    count: int

    @property
    def outlined(self) -> bool:
        return any(
            image.boxes
            for card in self.cards
            for conversation in card
            for turn in conversation.turns
            for image in turn.images
        )


def conversation_sets(records: Sequence[Record], section: str) -> list[ConversationSet]:
    """The sample sets of a section whose items have turns, over all runs; at most 24 prompts a set."""
    found = [_set(records, section, name) for name in names(records, section)]
    return [one for one in found if one.cards]


def _set(records: Sequence[Record], section: str, name: str) -> ConversationSet:
    cards: dict[tuple[str, int], list[Conversation]] = {}
    steps, count = set(), 0
    for run, folder, first, last in ends(records, section, name):
        steps.add((first["step"], last["step"]))
        count = max(count, len(last["items"]))
        for key, shown in pairs(first, last):
            if "turns" in shown[-1][1] and (key in cards or len(cards) < CARDS):
                _add(
                    cards.setdefault(key, []),
                    run,
                    folder,
                    [(caption, item) for caption, item in shown if "turns" in item],
                )
    return ConversationSet(name, origin(steps, "Sampled"), list(cards.values()), count)


def _add(conversations: list[Conversation], run: int, folder: Path, shown: Sequence[tuple[str, dict]]) -> None:
    """Add a run's conversations about one prompt; one that another run shows already is left out."""
    for caption, item in shown:
        change = direction(shown[0][1].get("score"), item.get("score")) if item is not shown[0][1] else 0
        conversation = Conversation(
            run, caption, [_turn(folder, turn) for turn in item["turns"]], item.get("score"), change
        )
        if caption != "before" or not any(conversation.turns == known.turns for known in conversations):
            conversations.append(conversation)


def _turn(folder: Path, turn: dict[str, Any]) -> Turn:
    images = [load_picture(folder / picture["image"], picture.get("boxes", ())) for picture in turn["pictures"]]
    return Turn(turn["who"], turn["text"], [image for image in images if image], bool(turn.get("trained")))
